//! The job's input and its right answer, both from one seed.
//!
//! Owns: the taps, their JSON, their partitions, the table that a correct run must leave behind.
//! Taps come in order of arrival over six hours; an event time lies up to 90 s before the arrival,
//! of one tap in a thousand up to 30 minutes more. So none is behind the model's allowed lateness.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::io::Write;

pub const PARTITIONS: usize = 8;
pub const SEED: u64 = 7;
const STOPS: usize = 300;
const TOKENS: u64 = 200_000;
const MODES: [&str; 4] = ["bus", "tube", "rail", "tram"];
/// 2024-03-01 06:00 UTC: all taps are of one day.
const START_MS: i64 = 1_709_272_800_000;
const DAY_MS: i64 = 1_709_251_200_000;
const HOURS_MS: i64 = 6 * 3_600_000;
const DISORDER_MS: i64 = 90_000;
const LATE_MS: i64 = 30 * 60_000;
const WINDOW_MS: i64 = 300_000;
/// Windows before `START_MS` that disorder and lateness reach into.
const WINDOWS_BEFORE: i64 = 7;
const WINDOWS: usize = (HOURS_MS / WINDOW_MS + WINDOWS_BEFORE) as usize;

pub const TOPIC: &str = r#"
format       = "json"
event_time   = "event_time"
max_disorder = "90s"
max_future   = "10m"

[columns]
tap_id     = "text"
token_id   = "text"
stop_id    = "text"
device_id  = "text"
event_time = "timestamptz"
mode       = "text"
fare_cents = { type = "bigint", optional = true }

[lake]
partition_by = ["date(event_time)", "hour(event_time)"]
roll         = { bytes = "128MiB", age = "60s" }

[dead_letters]
stop_above = "5%"
"#;

pub const MODEL_NAME: &str = "taps_by_stop_5m";
pub const MODEL: &str = include_str!("../../sql/models/taps_by_stop_5m.sql");
/// Every row of the model's table, in the order of [`Expected::rows`].
pub const TABLE: &str = "SELECT (extract(epoch FROM window_start) * 1000)::bigint, stop_id, mode,
        taps, fare_cents, fare_cents_min, fare_cents_max
 FROM taps_by_stop_5m ORDER BY window_start, stop_id COLLATE \"C\", mode COLLATE \"C\"";

#[derive(Clone, Copy)]
pub struct Tap {
    id: u64,
    token: u64,
    stop: usize,
    device: usize,
    mode: usize,
    fare_cents: Option<i64>,
    pub event_ms: i64,
    /// When Kafka got it.
    pub arrival_ms: i64,
    pub partition: usize,
}

/// The same taps whenever it is asked.
pub fn taps(events: u64) -> impl Iterator<Item = Tap> {
    let mut random = SmallRng::seed_from_u64(SEED);
    (0..events).map(move |n| {
        let token = random.random_range(0..TOKENS).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let arrival_ms = START_MS + (n as i128 * HOURS_MS as i128 / events as i128) as i64;
        let late = if random.random_range(0..1000) == 0 { LATE_MS } else { 0 };
        let behind = random.random_range(0..DISORDER_MS) + random.random_range(0..=late);
        Tap {
            id: random.random(),
            token,
            stop: random.random_range(0..STOPS),
            device: random.random_range(0..9000),
            mode: random.random_range(0..MODES.len()),
            fare_cents: random.random_bool(0.9).then(|| random.random_range(10..60) * 5),
            event_ms: arrival_ms - behind,
            arrival_ms,
            partition: (token >> 32) as usize % PARTITIONS,
        }
    })
}

impl Tap {
    pub fn json(&self, text: &mut Vec<u8>) {
        let ms = self.event_ms - DAY_MS;
        let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
        let (second, ms) = (ms / 1000 % 60, ms % 1000);
        let (id, token, stop, device) = (self.id, self.token, self.stop, self.device);
        let mode = MODES[self.mode];
        let mut put = |arguments: std::fmt::Arguments<'_>| {
            text.write_fmt(arguments).expect("memory");
        };
        put(format_args!(
            r#"{{"tapId":"{id:016x}","tokenId":"{token:016x}","stopId":"stop-{stop:04}""#
        ));
        put(format_args!(
            r#","deviceId":"device-{device:05}","eventTime":"2024-03-01T{hour:02}:{minute:02}"#
        ));
        put(format_args!(r#":{second:02}.{ms:03}Z","mode":"{mode}""#));
        if let Some(cents) = self.fare_cents {
            put(format_args!(r#","fareCents":{cents}"#));
        }
        text.push(b'}');
    }
}

/// The model's table as this file computes it: one tap at a time, into one cell each.
pub struct Expected {
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    taps: u64,
    /// Sum, lowest, highest.
    fares: Option<(i64, i64, i64)>,
}

impl Expected {
    pub fn of(taps: impl Iterator<Item = Tap>) -> Self {
        let mut cells = vec![Cell::default(); WINDOWS * STOPS * MODES.len()];
        for tap in taps {
            let window = (tap.event_ms - START_MS).div_euclid(WINDOW_MS) + WINDOWS_BEFORE;
            let cell = &mut cells[(window as usize * STOPS + tap.stop) * MODES.len() + tap.mode];
            cell.taps += 1;
            if let Some(cents) = tap.fare_cents {
                let (sum, min, max) = cell.fares.unwrap_or((0, cents, cents));
                cell.fares = Some((sum + cents, min.min(cents), max.max(cents)));
            }
        }
        Self { cells }
    }

    /// In order of window, stop and mode; NULL is None.
    pub fn rows(&self) -> Vec<Vec<Option<String>>> {
        let mut modes: Vec<usize> = (0..MODES.len()).collect();
        modes.sort_by_key(|mode| MODES[*mode]);
        let mut rows = Vec::new();
        for window in 0..WINDOWS {
            let start = START_MS + (window as i64 - WINDOWS_BEFORE) * WINDOW_MS;
            for stop in 0..STOPS {
                for &mode in &modes {
                    let cell = self.cells[(window * STOPS + stop) * MODES.len() + mode];
                    if cell.taps == 0 {
                        continue;
                    }
                    let fare = |of: fn((i64, i64, i64)) -> i64| cell.fares.map(of);
                    let fares = [fare(|f| f.0), fare(|f| f.1), fare(|f| f.2)];
                    let keys = [start.to_string(), format!("stop-{stop:04}"), MODES[mode].into()];
                    let mut row: Vec<_> = keys.into_iter().map(Some).collect();
                    row.push(Some(cell.taps.to_string()));
                    row.extend(fares.map(|fare| fare.map(|cents| cents.to_string())));
                    rows.push(row);
                }
            }
        }
        rows
    }
}
