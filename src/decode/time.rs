//! Days and instants from ISO 8601 and RFC 3339 text.
//!
//! Owns: the shapes taken, the calendar (proleptic Gregorian, years 0001 to 9999). Does not own:
//! time zones by name, nor any guess of one: an instant without an offset is refused.
//!
//! Written out rather than by `chrono`, which is the oracle in the tests: one pass over fixed
//! places costs 10 ns, `chrono`'s format parser more than 100.

use super::convert::Refusal;

const DAY_US: i64 = 86_400_000_000;

/// `YYYY-MM-DD` as days since 1970-01-01.
pub fn date(text: &str) -> Result<i32, Refusal> {
    let bytes = text.as_bytes();
    match (bytes.len(), Day::read(bytes)) {
        (10, Some(day)) => day.number().map(|days| days as i32),
        _ => Err(Refusal::shape("a date is wanted, as in 2024-03-01")),
    }
}

/// An instant as microseconds since 1970-01-01 UTC: `YYYY-MM-DD`, `T` or a blank, `HH:MM[:SS[.f]]`
/// with up to nine digits, then `Z` or an offset `+HH:MM`, `+HHMM`, `+HH`. A leap second (`:60`)
/// is the first instant of the next minute, as PostgreSQL has it.
///
/// The shape is judged to its end before any number in it: `Type` means the wrong notation,
/// `Range` the right one for an instant that does not exist or cannot be kept.
pub fn timestamptz(text: &str) -> Result<i64, Refusal> {
    let bytes = text.as_bytes();
    let day = Day::read(bytes).ok_or_else(not_an_instant)?;
    let clock = match &bytes[10..] {
        [] => {
            return Err(Refusal::shape(
                "a date without a time of day; an instant is wanted, as in 2024-03-01T08:00:00Z",
            ));
        }
        [b'T' | b't' | b' ', clock @ ..] => clock,
        _ => return Err(not_an_instant()),
    };
    let (Some(hour), Some(b':'), Some(minute)) = (two(clock, 0), clock.get(2), two(clock, 3))
    else {
        return Err(not_an_instant());
    };
    let (second, nanos, rest) = match &clock[5..] {
        [b':', rest @ ..] => {
            let second = two(rest, 0).ok_or_else(not_an_instant)?;
            let (nanos, rest) = match &rest[2..] {
                [b'.', rest @ ..] => fraction(rest)?,
                rest => (0, rest),
            };
            (second, nanos, rest)
        }
        // Without seconds no point either: `08:00.5` would be half a minute to ISO 8601.
        rest => (0, 0, rest),
    };
    let (east, offset_hours, offset_minutes) = offset(rest)?;

    let days = day.number()?;
    if hour > 23 || minute > 59 || second > 60 {
        return Err(Refusal::range("there is no such time of day"));
    }
    if offset_hours > 23 || offset_minutes > 59 {
        return Err(Refusal::range("there is no such offset"));
    }
    if nanos % 1000 != 0 {
        return Err(Refusal::range("microseconds are kept; digits below them would be lost"));
    }
    let minutes = hour * 60 + minute - east * (offset_hours * 60 + offset_minutes);
    Ok(days * DAY_US + (minutes * 60 + second) * 1_000_000 + nanos / 1000)
}

#[cold]
fn not_an_instant() -> Refusal {
    Refusal::shape("an instant is wanted, as in 2024-03-01T08:00:00Z or 2024-03-01 08:00:00+01:00")
}

/// Nanoseconds of the digits after the point, and what follows them.
#[inline]
fn fraction(text: &[u8]) -> Result<(i64, &[u8]), Refusal> {
    let len = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    if len == 0 || len > 9 {
        return Err(Refusal::shape("one to nine digits are wanted after the point of the second"));
    }
    let digits = text[..len].iter().fold(0, |sum, byte| sum * 10 + i64::from(byte - b'0'));
    Ok((digits * 10i64.pow(9 - len as u32), &text[len..]))
}

/// East of UTC (1) or west (-1), hours, minutes.
#[inline]
fn offset(text: &[u8]) -> Result<(i64, i64, i64), Refusal> {
    let (east, digits) = match text {
        [b'Z' | b'z'] => return Ok((1, 0, 0)),
        [] => {
            return Err(Refusal::shape(
                "an instant without an offset could be in any time zone; \
                 let the producer add Z or +HH:MM, or declare the column as text",
            ));
        }
        [b' ', b'+', digits @ ..] | [b'+', digits @ ..] => (1, digits),
        [b' ', b'-', digits @ ..] | [b'-', digits @ ..] => (-1, digits),
        _ => return Err(not_an_instant()),
    };
    let minutes = match digits.len() {
        2 => Some(0),
        4 => two(digits, 2),
        5 if digits[2] == b':' => two(digits, 3),
        _ => None,
    };
    match (two(digits, 0), minutes) {
        (Some(hours), Some(minutes)) => Ok((east, hours, minutes)),
        _ => Err(not_an_instant()),
    }
}

/// A date as written; whether there is such a day is asked later.
struct Day {
    year: i64,
    month: i64,
    day: i64,
}

impl Day {
    /// The first ten bytes, `YYYY-MM-DD`.
    #[inline]
    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..10)?;
        let year = two(bytes, 0)? * 100 + two(bytes, 2)?;
        let (month, day) = (two(bytes, 5)?, two(bytes, 8)?);
        (bytes[4] == b'-' && bytes[7] == b'-').then_some(Self { year, month, day })
    }

    /// Days since 1970-01-01.
    #[inline]
    fn number(&self) -> Result<i64, Refusal> {
        let &Self { year, month, day } = self;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if year == 0 || month == 0 || month > 12 || day == 0 || day > length {
            return Err(Refusal::range("there is no such day"));
        }
        // Howard Hinnant, "chrono-compatible low-level date algorithms", days_from_civil: years
        // begin in March, so that the leap day is the last one.
        let year = year - i64::from(month <= 2);
        let (era, of_era) = (year / 400, year % 400);
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        Ok(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
    }
}

#[inline(always)]
fn two(bytes: &[u8], at: usize) -> Option<i64> {
    let pair = bytes.get(at..at + 2)?;
    let (tens, ones) = (pair[0].wrapping_sub(b'0'), pair[1].wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| i64::from(tens) * 10 + i64::from(ones))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::RejectClass::{Range, Type};
    use chrono::{DateTime, Datelike, NaiveDate};
    use proptest::prelude::*;

    #[test]
    fn every_day_of_ten_thousand_years_is_chronos_day() {
        let mut expected = NaiveDate::from_ymd_opt(1, 1, 1).expect("a day");
        let mut number = expected.num_days_from_ce() - 719_163;
        while expected.year() < 10_000 {
            let text = expected.format("%Y-%m-%d").to_string();
            assert_eq!(date(&text).ok(), Some(number), "{text}");
            expected = expected.succ_opt().expect("a next day");
            number += 1;
        }
    }

    #[test]
    fn dates_that_are_none_are_refused() {
        for (text, class) in [
            ("2023-02-29", Range),
            ("1900-02-29", Range),
            ("2024-02-30", Range),
            ("2024-13-01", Range),
            ("2024-00-01", Range),
            ("2024-04-31", Range),
            ("0000-01-01", Range),
            ("2024-3-1", Type),
            ("20240301", Type),
            ("01.03.2024", Type),
            ("2024/03/01", Type),
            ("2024-03-01T00:00:00Z", Type),
            ("+024-03-01", Type),
            ("2024-03-0é", Type),
        ] {
            assert_eq!(date(text).map_err(|refusal| refusal.class), Err(class), "{text}");
        }
    }

    #[test]
    fn instants_are_taken_in_the_shapes_of_iso_8601() {
        let noon = 1_709_294_400_000_000; // 2024-03-01T12:00:00Z
        for (text, us) in [
            ("2024-03-01T12:00:00Z", noon),
            ("2024-03-01t12:00:00z", noon),
            ("2024-03-01 12:00:00Z", noon),
            ("2024-03-01T12:00Z", noon),
            ("2024-03-01T12:00:00.5Z", noon + 500_000),
            ("2024-03-01T12:00:00.000001Z", noon + 1),
            ("2024-03-01T12:00:00.000001000Z", noon + 1),
            ("2024-03-01T13:00:00+01:00", noon),
            ("2024-03-01 13:00:00+0100", noon),
            ("2024-03-01 13:00:00 +01:00", noon),
            ("2024-03-01T13:00:00+01", noon),
            ("2024-03-01T02:30:00-09:30", noon),
            ("2024-03-01T12:00:00-00:00", noon),
            ("2024-03-01T11:59:60Z", noon),
            ("1969-12-31T23:59:59.999999Z", -1),
        ] {
            assert_eq!(timestamptz(text).ok(), Some(us), "{text}");
        }
    }

    #[test]
    fn instants_that_are_none_or_ambiguous_are_refused() {
        for (text, class) in [
            ("2024-03-01T12:00:00", Type),
            ("2024-03-01", Type),
            ("2024-03-01T12Z", Type),
            ("2024-03-01T12:00.5Z", Type),
            ("2024-03-01T12:00:00.Z", Type),
            ("2024-03-01T12:00:00.1234567890Z", Type),
            ("2024-03-01T12:00:00.0000001Z", Range),
            ("2024-03-01T24:00:00Z", Range),
            ("2024-03-01T12:60:00Z", Range),
            ("2024-03-01T12:00:61Z", Range),
            ("2023-02-29T12:00:00Z", Range),
            ("2024-03-01T12:00:00+24:00", Range),
            ("2024-03-01T12:00:00+1", Type),
            ("2024-03-01T12:00:00ZZ", Type),
            ("2024-03-01T12:00:00 Europe/London", Type),
            ("1709294400000", Type),
            ("noon", Type),
            ("2024-03-01T12:00:0", Type),
            ("2024-03-01T12:00:", Type),
            ("2024-03-01é12:00", Type),
        ] {
            assert_eq!(timestamptz(text).map_err(|refusal| refusal.class), Err(class), "{text}");
        }
        let why = timestamptz("2024-03-01T12:00:00").expect_err("no offset").why;
        assert!(why.contains("let the producer add Z"), "{why}");
    }

    proptest! {
        #[test]
        fn instants_are_chronos_instants(
            seconds in -62_135_596_800i64..253_402_300_799, micros in 0u32..1_000_000,
            offset in -1439i32..1440, digits in 0usize..10,
        ) {
            let scale = 10u32.pow(6 - digits.min(6) as u32);
            let micros = micros / scale * scale;
            let utc = DateTime::from_timestamp(seconds, micros * 1000).expect("in range");
            let zone = chrono::FixedOffset::east_opt(offset * 60).expect("in range");
            let local = utc.with_timezone(&zone);
            prop_assume!((1..10_000).contains(&local.year()));
            let nanos = format!("{:09}", micros * 1000);
            let point = if digits == 0 { "" } else { "." };
            let text = format!(
                "{}{point}{}{}", local.format("%Y-%m-%dT%H:%M:%S"), &nanos[..digits],
                local.format("%:z"),
            );
            prop_assert_eq!(timestamptz(&text).ok(), Some(utc.timestamp_micros()), "{}", text);
        }

        #[test]
        fn what_chrono_takes_as_rfc_3339_is_taken_alike_and_nothing_panics(
            text in "[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,6})?(Z|[+-][0-2][0-9]:[0-6][0-9])",
            cut in 0usize..40,
        ) {
            let ours = timestamptz(&text).ok();
            let chronos = DateTime::parse_from_rfc3339(&text).ok().filter(|t| t.year() > 0);
            prop_assert_eq!(ours, chronos.map(|t| t.timestamp_micros()), "{}", text);
            let _ = timestamptz(text.get(..cut).unwrap_or(""));
        }
    }
}
