//! A day of service and its clock, to an instant.
//!
//! Owns: what a clock looks like, where a day of service begins. Does not own: columns and rejects.
//!
//! The GTFS reference (field type Time): "The time is measured from \"noon minus 12h\" of the
//! service day (effectively midnight except for days on which daylight savings time changes
//! occur). For times occurring after midnight on the service day, enter the time as a value greater
//! than 24:00:00". So 28:30 is half past four of the next morning, and on the two days on which the
//! clocks change a clock counts seconds, not what a wall clock shows before the change.

use super::convert::Refusal;
use chrono::{Days, NaiveDate, TimeZone};
use chrono_tz::Tz;
use std::collections::HashMap;

const HALF_DAY_US: i64 = 12 * 3_600 * 1_000_000;
/// A trip of more than a week is a mistake.
const HOURS_MAX: i64 = 168;
/// Days remembered; real data has a few at a time.
const DAYS_MAX: usize = 4_096;

/// Where days begin in one zone.
pub struct ServiceDays {
    zone: Tz,
    /// By days since 1970: microseconds since 1970; None: the zone had no such noon.
    begins: HashMap<i32, Option<i64>>,
    last: Option<(i32, Option<i64>)>,
}

impl ServiceDays {
    pub fn new(zone: Tz) -> Self {
        Self { zone, begins: HashMap::new(), last: None }
    }

    /// Noon minus twelve hours of this day, in microseconds since 1970.
    ///
    /// # Errors
    /// The zone left the day out (Samoa had no 30 December 2011).
    pub fn begin(&mut self, day: i32) -> Result<i64, Refusal> {
        let begin = match self.last {
            Some((last, begin)) if last == day => begin,
            _ => {
                if self.begins.len() >= DAYS_MAX {
                    self.begins.clear();
                }
                let zone = self.zone;
                *self.begins.entry(day).or_insert_with(|| noon_minus_12h(zone, day))
            }
        };
        self.last = Some((day, begin));
        begin.ok_or_else(|| Refusal::range("the time zone has no noon on this day"))
    }
}

fn noon_minus_12h(zone: Tz, day: i32) -> Option<i64> {
    let epoch = NaiveDate::from_ymd_opt(1970, 1, 1)?;
    let days = Days::new(u64::from(day.unsigned_abs()));
    let date = match day < 0 {
        true => epoch.checked_sub_days(days)?,
        false => epoch.checked_add_days(days)?,
    };
    // Where the clocks were set back over noon, the first of the two.
    let noon = zone.from_local_datetime(&date.and_hms_opt(12, 0, 0)?).earliest()?;
    Some(noon.timestamp_micros() - HALF_DAY_US)
}

/// `HH:MM` or `HH:MM:SS` with one to three digits for the hour, as microseconds.
pub fn clock(text: &str) -> Result<i64, Refusal> {
    let shape = || Refusal::shape("a clock is wanted, as in 07:05, 07:05:30 or 28:30");
    let number = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        let digits = lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.bytes().fold(0, |sum, b| sum * 10 + i64::from(b - b'0')))
    };
    let mut fields = text.split(':');
    let hour = fields.next().and_then(|f| number(f, 1..=3)).ok_or_else(shape)?;
    let minute = fields.next().and_then(|f| number(f, 2..=2)).ok_or_else(shape)?;
    let second = match fields.next() {
        Some(field) => number(field, 2..=2).ok_or_else(shape)?,
        None => 0,
    };
    if fields.next().is_some() {
        return Err(shape());
    }
    if minute > 59 || second > 59 || hour > HOURS_MAX {
        return Err(Refusal::range("there is no such clock; hours go up to 168"));
    }
    Ok(((hour * 60 + minute) * 60 + second) * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::RejectClass::{Range, Type};
    use chrono::{DateTime, Datelike, Duration, Timelike, Utc};
    use proptest::prelude::*;

    fn days(text: &str) -> i32 {
        let date: NaiveDate = text.parse().expect("a date");
        date.num_days_from_ce() - 719_163
    }

    fn instant(zone: Tz, day: &str, clock_text: &str) -> String {
        let begin = ServiceDays::new(zone).begin(days(day)).map_err(|r| r.why).expect("a day");
        let us = begin + clock(clock_text).map_err(|r| r.why).expect("a clock");
        DateTime::from_timestamp_micros(us).expect("in range").to_rfc3339()
    }

    #[test]
    fn a_clock_beyond_midnight_is_of_the_next_morning() {
        let london = chrono_tz::Europe::London;
        for (day, clock, utc) in [
            ("2024-01-15", "07:05", "2024-01-15T07:05:00+00:00"),
            ("2024-01-15", "28:30", "2024-01-16T04:30:00+00:00"),
            ("2024-07-15", "28:30:15", "2024-07-16T03:30:15+00:00"),
            ("2024-07-15", "0:00", "2024-07-14T23:00:00+00:00"),
            // The clocks go forward at 01:00: noon minus 12 h is eleven in the evening before.
            ("2024-03-31", "00:00", "2024-03-30T23:00:00+00:00"),
            ("2024-03-31", "03:30", "2024-03-31T02:30:00+00:00"),
            ("2024-03-30", "27:30", "2024-03-31T03:30:00+00:00"),
            // They go back at 02:00: it is one in the morning, the first of two.
            ("2024-10-27", "00:00", "2024-10-27T00:00:00+00:00"),
            ("2024-10-27", "02:30", "2024-10-27T02:30:00+00:00"),
            ("2024-10-26", "25:30", "2024-10-27T00:30:00+00:00"),
            ("2024-10-26", "26:30", "2024-10-27T01:30:00+00:00"),
        ] {
            assert_eq!(instant(london, day, clock), utc, "{day} {clock}");
        }
    }

    #[test]
    fn what_is_no_clock_is_refused() {
        for (text, class) in [
            ("", Type),
            ("7", Type),
            ("07:5", Type),
            ("07:05:3", Type),
            ("07:05:30.5", Type),
            ("07:05:30:00", Type),
            ("-1:00", Type),
            ("+7:05", Type),
            (" 7:05", Type),
            ("0007:05", Type),
            ("07.05", Type),
            ("٠٧:٠٥", Type),
            ("07:60", Range),
            ("07:05:60", Range),
            ("169:00", Range),
        ] {
            assert_eq!(clock(text).map_err(|refusal| refusal.class), Err(class), "{text:?}");
        }
    }

    #[test]
    fn a_day_that_the_zone_left_out_is_refused() {
        let mut apia = ServiceDays::new(chrono_tz::Pacific::Apia);
        assert!(apia.begin(days("2011-12-29")).is_ok());
        assert!(apia.begin(days("2011-12-30")).is_err());
    }

    /// Looks at every second around the day for the one at which the zone's clocks show noon of
    /// it: no library function from local time to instants, no cache.
    fn slow_noon(zone: Tz, date: NaiveDate) -> Option<DateTime<Utc>> {
        let noon = date.and_hms_opt(12, 0, 0)?.and_utc();
        (-15 * 60..=15 * 60).map(|minutes| noon + Duration::minutes(minutes)).find(|utc| {
            let local = utc.with_timezone(&zone);
            local.date_naive() == date && (local.hour(), local.minute()) == (12, 0)
        })
    }

    proptest! {
        #[test]
        fn every_clock_of_every_day_is_so_many_seconds_after_noon_minus_12h(
            zone in prop::sample::select(vec![
                chrono_tz::UTC, chrono_tz::Europe::London, chrono_tz::America::New_York,
                chrono_tz::Australia::Lord_Howe, chrono_tz::Asia::Kathmandu, chrono_tz::Pacific::Apia,
                chrono_tz::America::Sao_Paulo, chrono_tz::Africa::Casablanca,
            ]),
            // Both changes of the clocks of each year are met often: days around them.
            year in 1995i32..2030, around in prop::sample::select(vec![90u32, 95, 300, 305, 60, 70, 310]),
            near in 0u32..8, times in prop::collection::vec((0i64..169, 0i64..60, 0i64..60), 1..6),
        ) {
            let date = NaiveDate::from_yo_opt(year, around + near).expect("a day");
            let mut service = ServiceDays::new(zone);
            let begin = service.begin(date.num_days_from_ce() - 719_163).ok();
            let noon = slow_noon(zone, date);
            prop_assert_eq!(
                begin, noon.map(|noon| (noon - Duration::hours(12)).timestamp_micros()), "{} {}", zone, date
            );
            for (h, m, s) in times {
                let text = format!("{h:02}:{m:02}:{s:02}");
                let seconds = h * 3_600 + m * 60 + s;
                prop_assert_eq!(clock(&text).ok(), (h <= 168).then_some(seconds * 1_000_000), "{}", text);
                // Once more from the memory of days, and the wall clock after the change agrees.
                let again = service.begin(date.num_days_from_ce() - 719_163).ok();
                prop_assert_eq!(again, begin);
                if let Some(begin) = begin && (12..23).contains(&h) {
                    let at = DateTime::from_timestamp_micros(begin + seconds * 1_000_000).expect("in range");
                    let local = at.with_timezone(&zone);
                    prop_assert_eq!((i64::from(local.hour()), i64::from(local.minute())), (h, m), "{}", text);
                }
            }
        }
    }
}
