//! Edges against an oracle that looks at the clock minute by minute, over changes of the clock.
//!
//! Mutant it has caught: an edge that the clock skips forward over forgotten.

use super::grid::Edges;
use crate::catalog::Grid;
use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;
use proptest::prelude::*;
use std::time::Duration;

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

fn utc(text: &str) -> i64 {
    DateTime::parse_from_rfc3339(text).expect("an instant").timestamp_micros()
}

fn show(t: i64) -> String {
    DateTime::from_timestamp_micros(t).expect("in the calendar").format("%FT%H:%MZ").to_string()
}

fn local(zone: Tz, t: i64) -> i64 {
    let at = DateTime::from_timestamp_micros(t).expect("in the calendar").naive_utc();
    t + i64::from(zone.offset_from_utc_datetime(&at).fix().local_minus_utc()) * 1_000_000
}

/// Windows of a grid from the one around `from`, as `start..end` and so on.
fn walk(grid: Grid, from: &str, count: usize) -> Vec<String> {
    let mut edges = Edges::new(grid);
    let (mut t, mut all) = (utc(from), Vec::new());
    for _ in 0..count {
        let (start, end) = edges.around(t);
        all.push(show(start));
        t = end;
    }
    all.push(show(t));
    all
}

fn hours(count: u64, zone: Tz) -> Grid {
    Grid::Clock(Duration::from_secs(count * 3600), zone)
}

#[test]
fn a_day_in_a_zone_has_23_or_25_hours_where_the_clock_is_set() {
    let day = Grid::Days(1, Tz::Europe__London);
    assert_eq!(
        walk(day, "2024-03-30T12:00:00Z", 3),
        ["2024-03-30T00:00Z", "2024-03-31T00:00Z", "2024-03-31T23:00Z", "2024-04-01T23:00Z"]
    );
    assert_eq!(
        walk(day, "2024-10-26T12:00:00Z", 3),
        ["2024-10-25T23:00Z", "2024-10-26T23:00Z", "2024-10-28T00:00Z", "2024-10-29T00:00Z"]
    );
}

#[test]
fn the_hour_that_comes_twice_is_two_windows_and_the_one_skipped_none() {
    let hour = hours(1, Tz::Europe__London);
    assert_eq!(
        walk(hour, "2024-10-27T00:30:00Z", 3),
        ["2024-10-27T00:00Z", "2024-10-27T01:00Z", "2024-10-27T02:00Z", "2024-10-27T03:00Z"]
    );
    assert_eq!(
        walk(hour, "2024-03-31T00:30:00Z", 2),
        ["2024-03-31T00:00Z", "2024-03-31T01:00Z", "2024-03-31T02:00Z"]
    );
}

#[test]
fn six_hours_over_a_change_are_five_or_seven() {
    let six = hours(6, Tz::Europe__London);
    assert_eq!(
        walk(six, "2024-03-31T00:00:00Z", 2),
        ["2024-03-31T00:00Z", "2024-03-31T05:00Z", "2024-03-31T11:00Z"]
    );
    assert_eq!(
        walk(six, "2024-10-27T00:00:00Z", 2),
        ["2024-10-26T23:00Z", "2024-10-27T06:00Z", "2024-10-27T12:00Z"]
    );
}

#[test]
fn a_change_of_half_an_hour_makes_an_hour_of_ninety_minutes() {
    let hour = hours(1, Tz::Australia__Lord_Howe);
    // At 02:00 of 2024-04-07 the clock is set back to 01:30, at 02:00 of 2024-10-06 on to 02:30.
    assert_eq!(
        walk(hour, "2024-04-06T14:00:00Z", 2),
        ["2024-04-06T14:00Z", "2024-04-06T15:30Z", "2024-04-06T16:30Z"]
    );
    assert_eq!(
        walk(hour, "2024-10-05T15:00:00Z", 2),
        ["2024-10-05T14:30Z", "2024-10-05T15:30Z", "2024-10-05T16:00Z"]
    );
}

#[test]
fn a_day_whose_midnight_was_skipped_begins_at_one() {
    let day = Grid::Days(1, Tz::America__Sao_Paulo);
    // 2018-11-04 00:00 was set on to 01:00, at -02:00 then; 2018-02-18 00:00 back to 23:00.
    assert_eq!(
        walk(day, "2018-11-03T12:00:00Z", 2),
        ["2018-11-03T03:00Z", "2018-11-04T03:00Z", "2018-11-05T02:00Z"]
    );
    assert_eq!(
        walk(day, "2018-02-17T12:00:00Z", 2),
        ["2018-02-17T02:00Z", "2018-02-18T03:00Z", "2018-02-19T03:00Z"]
    );
    let six = hours(6, Tz::America__Sao_Paulo);
    assert_eq!(
        walk(six, "2018-11-03T22:00:00Z", 3),
        ["2018-11-03T21:00Z", "2018-11-04T03:00Z", "2018-11-04T08:00Z", "2018-11-04T14:00Z"]
    );
}

#[test]
fn a_day_that_was_skipped_has_no_window() {
    // Samoa had no 2011-12-30.
    assert_eq!(
        walk(Grid::Days(1, Tz::Pacific__Apia), "2011-12-29T20:00:00Z", 3),
        ["2011-12-29T10:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z", "2012-01-01T10:00Z"]
    );
}

#[test]
fn weeks_of_a_zone_begin_on_monday_and_months_on_the_first() {
    assert_eq!(
        walk(Grid::Days(7, Tz::Asia__Kathmandu), "2024-03-01T00:00:00Z", 1),
        ["2024-02-25T18:15Z", "2024-03-03T18:15Z"]
    );
    assert_eq!(
        walk(Grid::Months(1, Tz::Europe__London), "2024-03-01T00:00:00Z", 2),
        ["2024-03-01T00:00Z", "2024-03-31T23:00Z", "2024-04-30T23:00Z"]
    );
    assert_eq!(
        walk(Grid::Months(3, Tz::UTC), "1969-12-31T00:00:00Z", 2),
        ["1969-10-01T00:00Z", "1970-01-01T00:00Z", "1970-04-01T00:00Z"]
    );
}

#[test]
fn instants_at_the_ends_of_64_bits_have_a_window_in_every_grid() {
    for grid in [
        Grid::Fixed(Duration::from_secs(3600)),
        hours(1, Tz::Europe__London),
        Grid::Days(36_525, Tz::Pacific__Apia),
        Grid::Months(1_200, Tz::America__New_York),
    ] {
        for t in [i64::MIN, i64::MIN + 1, -73_000_000 * DAY, 73_000_000 * DAY - 1, i64::MAX - 1] {
            let (start, end) = Edges::new(grid).around(t);
            assert!(start <= t && t < end, "{grid} {t}");
        }
    }
    assert_eq!(Edges::new(hours(1, Tz::UTC)).around(i64::MAX).1, i64::MAX);
}

#[test]
#[should_panic(expected = "size_us=0")]
fn a_window_without_a_size_is_a_mistake_of_the_caller() {
    Edges::new(Grid::Fixed(Duration::ZERO)).around(1);
}

/// Edges within `from..to`, by looking at the clock each minute.
fn slow(grid: Grid, from: i64, to: i64) -> Vec<i64> {
    let (zone, days, size) = match grid {
        Grid::Clock(size, zone) => (zone, None, size.as_micros() as i64),
        Grid::Days(days, zone) => (zone, Some(i64::from(days)), DAY),
        Grid::Fixed(_) | Grid::Months(..) => panic!("not of this oracle"),
    };
    // What the clock has shown at most: some days earlier will do.
    let mut most = i64::MIN;
    let mut edges = Vec::new();
    let mut t = from - 3 * DAY;
    while t < to {
        let (shows, shown) = (local(zone, t), local(zone, t - MINUTE) + MINUTE);
        let is_edge = match days {
            None => shows % size == 0 || shows > shown && shows - shows.rem_euclid(size) >= shown,
            Some(days) => {
                let of = |l: i64| (l.div_euclid(DAY) - 4).div_euclid(days);
                most > i64::MIN && of(shows.max(most)) > of(most)
            }
        };
        most = most.max(shows);
        if is_edge && t >= from {
            edges.push(t);
        }
        t += MINUTE;
    }
    edges
}

/// Zones, and an instant near which each sets its clock.
const CHANGES: [(Tz, &str); 15] = [
    (Tz::Europe__London, "2024-03-31T01:00:00Z"),
    (Tz::Europe__London, "2024-10-27T01:00:00Z"),
    (Tz::America__New_York, "2024-03-10T07:00:00Z"),
    (Tz::America__New_York, "2024-11-03T06:00:00Z"),
    (Tz::Australia__Lord_Howe, "2024-04-06T15:00:00Z"),
    (Tz::Australia__Lord_Howe, "2024-10-05T15:30:00Z"),
    (Tz::Asia__Kathmandu, "1985-12-31T18:30:00Z"),
    (Tz::America__Sao_Paulo, "2018-11-04T03:00:00Z"),
    (Tz::America__Sao_Paulo, "2018-02-18T02:00:00Z"),
    (Tz::Pacific__Apia, "2011-12-30T10:00:00Z"),
    (Tz::Pacific__Kwajalein, "1993-08-21T12:00:00Z"),
    // Set back at 00:01, to 23:01 of the day before.
    (Tz::America__St_Johns, "2006-10-29T02:31:00Z"),
    (Tz::America__St_Johns, "2006-04-02T03:31:00Z"),
    (Tz::Africa__Casablanca, "2024-03-10T02:00:00Z"),
    (Tz::Asia__Pyongyang, "2018-05-04T15:00:00Z"),
];

fn grid(zone: Tz) -> impl Strategy<Value = Grid> {
    prop_oneof![
        prop::sample::select(vec![1u64, 5, 15, 30, 45, 60, 120, 180, 360, 720, 1440])
            .prop_map(move |minutes| Grid::Clock(Duration::from_secs(minutes * 60), zone)),
        prop::sample::select(vec![1u32, 1, 1, 2, 3]).prop_map(move |days| Grid::Days(days, zone)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn windows_over_a_change_of_the_clock_are_those_of_the_clock_itself(
        (change, grid) in prop::sample::select(CHANGES.to_vec())
            .prop_flat_map(|(zone, at)| (Just(utc(at)), grid(zone))),
        places in prop::collection::vec((-40 * HOUR..40 * HOUR, any::<bool>()), 1..30),
    ) {
        let edges = slow(grid, change - 8 * DAY, change + 8 * DAY);
        let mut quick = Edges::new(grid);
        for (place, at_an_edge) in places {
            let mut t = change + place;
            if at_an_edge {
                // The instants on either side of an edge.
                let next = edges.partition_point(|e| *e <= t);
                t = edges[next] - t.rem_euclid(2);
            }
            let next = edges.partition_point(|e| *e <= t);
            prop_assert_eq!(
                quick.around(t), (edges[next - 1], edges[next]),
                "{} at {}", grid, show(t)
            );
        }
    }

    #[test]
    fn fixed_windows_are_multiples_since_1970(
        times in prop::collection::vec(prop_oneof![-50i64..50, any::<i64>()], 0..60),
        size in prop_oneof![1i64..40, 1i64..=i64::MAX],
    ) {
        let mut edges = Edges::new(Grid::Fixed(Duration::from_micros(size as u64)));
        for t in times {
            let start = i128::from(t).div_euclid(i128::from(size)) * i128::from(size);
            let clamped = |v: i128| v.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
            let wanted = (clamped(start), clamped(start + i128::from(size)));
            prop_assert_eq!(edges.around(t), wanted);
        }
    }
}
