//! Paths against the calendar, asked row by row.

use super::*;
use crate::lake::fixture;
use arrow::array::{ArrayRef, Int32Array, StringArray, TimestampMicrosecondArray};
use std::sync::Arc;

fn micros(utc: &str) -> i64 {
    DateTime::parse_from_rfc3339(utc).unwrap().timestamp_micros()
}

fn hours_of(zone: Tz, times: &[Option<i64>]) -> Vec<String> {
    let topic = fixture::topic(&["date(at)", "hour(at)"], zone);
    let at = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
    paths(&mut Layout::new(&topic), &fixture::rows(&topic, &[("at", Arc::new(at))]))
}

fn paths(layout: &mut Layout, rows: &RecordBatch) -> Vec<String> {
    let mut paths = vec![String::new(); rows.num_rows()];
    for group in layout.split(rows).unwrap() {
        let all: Vec<u32> = match group.rows {
            Rows::All => (0..rows.num_rows() as u32).collect(),
            Rows::Some(rows) => rows,
        };
        for row in all {
            assert_eq!(paths[row as usize], "", "a row in two groups");
            paths[row as usize] = layout.path(group.path).to_string();
        }
    }
    paths
}

#[test]
fn order_of_name_is_order_of_sequence() {
    let name = |sequence| {
        let (partition, from, epoch) = (Partition(3), Offset(120), Epoch(7));
        FileName { sequence, partition, from, epoch, origin: Origin::Cut }.file()
    };
    assert_eq!(name(42), "000000000042-00003-0000000000000000120-7.parquet");
    assert!(name(9) < name(10) && name(99_999) < name(100_000));
}

#[test]
fn hours_follow_the_zone_through_both_changes_of_the_clocks() {
    let cases = [
        ("2024-03-31T00:59:59Z", "taps/date=2024-03-31/hour=00"),
        ("2024-03-31T01:00:00Z", "taps/date=2024-03-31/hour=02"),
        ("2024-03-31T23:00:00Z", "taps/date=2024-04-01/hour=00"),
        ("2024-10-27T00:30:00Z", "taps/date=2024-10-27/hour=01"),
        ("2024-10-27T01:30:00Z", "taps/date=2024-10-27/hour=01"),
        ("2024-10-27T02:00:00Z", "taps/date=2024-10-27/hour=02"),
    ];
    let times: Vec<_> = cases.iter().map(|(at, _)| Some(micros(at))).collect();
    let expected: Vec<_> = cases.iter().map(|(_, path)| *path).collect();
    assert_eq!(hours_of(chrono_tz::Europe::London, &times), expected);
}

/// The last Sunday of a month of 31 days, by counting from a known Sunday.
fn last_sunday(year: i64, month: u32) -> i64 {
    let last = micros(&format!("{year}-{month:02}-31T00:00:00Z")) / 86_400_000_000;
    // 1970-01-04 was one.
    last - (last - 3).rem_euclid(7)
}

#[test]
fn every_quarter_of_a_year_is_where_the_law_of_summer_time_says() {
    // Since 1996 summer time is from 01:00 UTC of the last Sunday of March to that of October.
    for year in [2009, 2024, 2026] {
        let change = |month| last_sunday(year, month) * 86_400_000_000 + 3_600_000_000;
        let (begin, end) = (change(3), change(10));
        let first = micros(&format!("{year}-01-01T00:00:00Z"));
        let times: Vec<i64> = (0..366 * 96).map(|quarter| first + quarter * 900_000_000).collect();
        let given: Vec<_> = times.iter().copied().map(Some).collect();
        let found = hours_of(chrono_tz::Europe::London, &given);
        let (mut repeated, mut missing) = (0, 0);
        for (at, path) in times.iter().zip(found) {
            let summer = (begin..end).contains(at);
            let local = at + if summer { 3_600_000_000 } else { 0 };
            let shown = DateTime::from_timestamp_micros(local).unwrap();
            let expected = shown.format("taps/date=%Y-%m-%d/hour=%H").to_string();
            assert_eq!(path, expected, "{at}");
            let of = |change: i64| {
                let day = DateTime::from_timestamp_micros(change).unwrap();
                path == day.format("taps/date=%Y-%m-%d/hour=01").to_string()
            };
            missing += usize::from(of(begin));
            repeated += usize::from(of(end));
        }
        assert_eq!((missing, repeated), (0, 8), "no hour in spring, two in autumn, by quarters");
    }
}

#[test]
fn times_before_1970_and_offsets_in_seconds_are_placed_right() {
    let cases = [
        (chrono_tz::UTC, "1969-12-31T23:59:59.999999Z", "taps/date=1969-12-31/hour=23"),
        // Liberia was 44 minutes and 30 seconds behind until 1972.
        (chrono_tz::Africa::Monrovia, "1970-06-01T00:44:29Z", "taps/date=1970-05-31/hour=23"),
        (chrono_tz::Africa::Monrovia, "1970-06-01T00:44:30Z", "taps/date=1970-06-01/hour=00"),
        (chrono_tz::Asia::Kathmandu, "2024-01-01T00:14:59Z", "taps/date=2024-01-01/hour=05"),
        (chrono_tz::Asia::Kathmandu, "2024-01-01T00:15:00Z", "taps/date=2024-01-01/hour=06"),
    ];
    for (zone, at, path) in cases {
        assert_eq!(hours_of(zone, &[Some(micros(at))]), [path], "{at} in {zone}");
    }
}

#[test]
fn no_time_and_times_beyond_the_calendar_share_the_null_folder() {
    let null = format!("taps/date={NULL}/hour={NULL}");
    let times = [Some(i64::MIN), None, Some(i64::MAX), Some(0)];
    let paths = hours_of(chrono_tz::UTC, &times);
    assert_eq!(paths[..3], [null.clone(), null.clone(), null]);
    assert_eq!(paths[3], "taps/date=1970-01-01/hour=00");
}

#[test]
fn the_cache_of_quarters_agrees_with_the_calendar() {
    let zone = chrono_tz::Europe::London;
    let times: Vec<_> = (0..4000_i64)
        .map(|i| Some(micros("2024-03-30T00:00:00Z") + (i * 7919 % 4000) * 61_000_003))
        .collect();
    for (path, at) in hours_of(zone, &times).iter().zip(&times) {
        let local = DateTime::from_timestamp_micros(at.unwrap()).unwrap().with_timezone(&zone);
        assert_eq!(*path, local.format("taps/date=%Y-%m-%d/hour=%H").to_string());
    }
}

#[test]
fn alternating_hours_make_one_group_per_hour_and_keep_the_order_of_rows() {
    let topic = fixture::topic(&["date(at)", "hour(at)"], chrono_tz::UTC);
    let at: Vec<i64> = (0..1000).map(|i| (i % 3) * 3_600_000_000 + i).collect();
    let at = TimestampMicrosecondArray::from(at).with_timezone("UTC");
    let groups =
        Layout::new(&topic).split(&fixture::rows(&topic, &[("at", Arc::new(at))])).unwrap();
    assert_eq!(groups.len(), 3);
    for (i, group) in groups.iter().enumerate() {
        let Rows::Some(rows) = &group.rows else { panic!("all rows in one group") };
        assert!(rows.iter().enumerate().all(|(k, row)| *row as usize == k * 3 + i));
    }
}

#[test]
fn values_are_percent_encoded_and_null_and_empty_are_hives_default() {
    let topic = fixture::topic(&["stop", "fare"], chrono_tz::UTC);
    let stops = [Some("a/b=c"), None, Some(""), Some(".."), Some("Zürich 1"), Some("a/b=c")];
    let stop: ArrayRef = Arc::new(StringArray::from(stops.to_vec()));
    let fare: ArrayRef =
        Arc::new(Int32Array::from(vec![Some(1), Some(-2), None, Some(1), Some(1), Some(1)]));
    let rows = fixture::rows(&topic, &[("stop", stop), ("fare", fare)]);
    let expected = [
        "taps/stop=a%2Fb%3Dc/fare=1".to_string(),
        format!("taps/stop={NULL}/fare=-2"),
        format!("taps/stop={NULL}/fare={NULL}"),
        "taps/stop=../fare=1".to_string(),
        "taps/stop=Z%C3%BCrich%201/fare=1".to_string(),
        "taps/stop=a%2Fb%3Dc/fare=1".to_string(),
    ];
    assert_eq!(paths(&mut Layout::new(&topic), &rows), expected);
}

#[test]
fn two_long_values_keep_two_short_folders() {
    let long = |end: &str| encode(("/".repeat(400) + end).as_bytes());
    assert_ne!(long("a"), long("b"));
    assert!(long("a").len() <= VALUE_BYTES_MAX && !long("a").contains("%~"));
    assert!(!long("a").contains("%2~"));
}

#[test]
fn a_path_by_day_joins_the_hours_of_the_day() {
    let topic = fixture::topic(&["date(at)"], chrono_tz::UTC);
    let at = TimestampMicrosecondArray::from(vec![0, 7_200_000_000]).with_timezone("UTC");
    let groups =
        Layout::new(&topic).split(&fixture::rows(&topic, &[("at", Arc::new(at))])).unwrap();
    assert_eq!(groups, [Group { path: 0, rows: Rows::All }]);
}
