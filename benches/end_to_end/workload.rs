//! The job's input and its right answer, both from one seed.
//!
//! Owns: the taps, their JSON, their partitions, the tables that a correct run must leave behind. Does
//! not own: other forms that they come in (`form`).
//! Taps come in order of arrival over six hours; an event time lies up to 90 s before the arrival,
//! of one tap in a thousand up to 30 minutes more. So none is behind the model's allowed lateness.

// Named, since `benches/allocations.rs` takes this file by its path.
#[path = "workload/form.rs"]
pub mod form;

use form::Form;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{collections::HashMap, fmt::Write as _};

pub const SEED: u64 = 7;
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

/// As in [`TOPIC`].
pub const PARTITION_BY: &str = r#"["date(event_time)", "hour(event_time)"]"#;

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

/// How many taps, of how many stops, in how many partitions, and as what.
#[derive(Clone, Copy)]
pub struct Shape {
    pub form: Form,
    pub events: u64,
    pub partitions: usize,
    pub stops: usize,
    /// From the first arrival to the last; six hours at most.
    pub lasts_ms: i64,
}

impl Shape {
    /// What the published figure is of, but for the number of events.
    pub fn usual(events: u64) -> Self {
        Self { form: Form::Taps, events, partitions: 8, stops: 300, lasts_ms: HOURS_MS }
    }
}

/// What a model groups taps by; it counts them, and has sum, lowest and highest of their fares.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// Five minutes, stop and mode.
    Window,
    /// The same without a window, as a model over changes has it: no lowest and no highest.
    Bin,
    Stop,
}

pub struct Model {
    pub name: String,
    pub grouping: Grouping,
}

impl Model {
    /// The model of the published figure.
    pub fn usual() -> Self {
        Self { name: "taps_by_stop_5m".to_owned(), grouping: Grouping::Window }
    }

    pub fn sql(&self) -> String {
        match self.grouping {
            Grouping::Window => include_str!("../../sql/models/taps_by_stop_5m.sql")
                .replace(&Self::usual().name, &self.name),
            Grouping::Bin => format!(
                "CREATE MATERIALIZED VIEW {} AS
                 SELECT date_bin(interval '5 minutes', event_time) AS window_start, stop_id, mode,
                        count(*) AS taps, sum(fare_cents) AS fare_cents
                 FROM taps GROUP BY window_start, stop_id, mode;",
                self.name
            ),
            Grouping::Stop => format!(
                "CREATE MATERIALIZED VIEW {} AS
                 SELECT stop_id, count(*) AS taps, sum(fare_cents) AS fare_cents,
                        min(fare_cents) AS fare_cents_min, max(fare_cents) AS fare_cents_max
                 FROM taps GROUP BY stop_id;",
                self.name
            ),
        }
    }

    /// A query for every row of its table, as in [`Expected::csv`].
    pub fn table(&self) -> String {
        let keys = match self.grouping {
            Grouping::Window | Grouping::Bin => {
                "(extract(epoch FROM window_start) * 1000)::bigint, stop_id, mode COLLATE \"C\""
            }
            Grouping::Stop => "length(stop_id), stop_id COLLATE \"C\"",
        };
        let order = match self.grouping {
            Grouping::Window | Grouping::Bin => "1, length(stop_id), stop_id COLLATE \"C\", 3",
            Grouping::Stop => "1, 2",
        };
        let fares = match self.grouping {
            Grouping::Window | Grouping::Stop => "fare_cents, fare_cents_min, fare_cents_max",
            Grouping::Bin => "fare_cents",
        };
        format!("SELECT {keys}, taps, {fares} FROM {} ORDER BY {order}", self.name)
    }
}

#[derive(Clone, Copy)]
pub struct Tap {
    /// In order of arrival.
    number: u64,
    id: u64,
    token: u64,
    /// Whether no tap of the token came before.
    is_first: bool,
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
pub fn taps(shape: Shape) -> impl Iterator<Item = Tap> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let Shape { events, partitions, stops, lasts_ms, .. } = shape;
    let mut seen = vec![false; TOKENS as usize];
    (0..events).map(move |n| {
        let card = random.random_range(0..TOKENS);
        let token = card.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let arrival_ms = START_MS + (n as i128 * lasts_ms as i128 / events as i128) as i64;
        let late = if random.random_range(0..1000) == 0 { LATE_MS } else { 0 };
        let behind = random.random_range(0..DISORDER_MS) + random.random_range(0..=late);
        Tap {
            number: n,
            id: random.random(),
            token,
            is_first: !std::mem::replace(&mut seen[card as usize], true),
            stop: random.random_range(0..stops),
            device: random.random_range(0..9000),
            mode: random.random_range(0..MODES.len()),
            fare_cents: random.random_bool(0.9).then(|| random.random_range(10..60) * 5),
            event_ms: arrival_ms - behind,
            arrival_ms,
            partition: (token >> 32) as usize % partitions,
        }
    })
}

/// As many taps as stops, each of another stop, in the order of a round.
pub fn round(shape: Shape, round: usize) -> impl Iterator<Item = Tap> {
    // Primes: as long as the number of stops is no multiple of theirs, each stop has its turn.
    let step = [2_654_435_761, 4_294_967_291][round];
    let stop = move |n: usize| (n as u64 * step % shape.stops as u64) as usize;
    taps(shape).enumerate().map(move |(n, tap)| Tap { stop: stop(n), ..tap })
}

impl Tap {
    pub fn json(&self, text: &mut Vec<u8>) {
        let (id, token, stop, device) = (self.id, self.token, self.stop, self.device);
        let mode = MODES[self.mode];
        form::put(
            text,
            format_args!(
                r#"{{"tapId":"{id:016x}","tokenId":"{token:016x}","stopId":"stop-{stop:04}""#
            ),
        );
        form::put(text, format_args!(r#","deviceId":"device-{device:05}","eventTime":""#));
        form::instant(self.event_ms, text);
        form::put(text, format_args!(r#"","mode":"{mode}""#));
        if let Some(cents) = self.fare_cents {
            form::put(text, format_args!(r#","fareCents":{cents}"#));
        }
        text.push(b'}');
    }
}

/// A model's table as this file computes it: one tap at a time, into one cell each.
pub struct Expected {
    grouping: Grouping,
    stops: usize,
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    taps: u64,
    /// Sum, lowest, highest.
    fares: Option<(i64, i64, i64)>,
}

impl Expected {
    pub fn of(shape: Shape, grouping: Grouping) -> Self {
        match shape.form.is_of_tokens() {
            false => Self::of_taps(shape, grouping, taps(shape)),
            true => {
                let latest: HashMap<_, _> = taps(shape).map(|tap| (tap.token, tap)).collect();
                Self::of_taps(shape, grouping, latest.into_values())
            }
        }
    }

    pub fn of_taps(shape: Shape, grouping: Grouping, taps: impl Iterator<Item = Tap>) -> Self {
        let stops = shape.stops;
        let cells = match grouping {
            Grouping::Window | Grouping::Bin => WINDOWS * stops * MODES.len(),
            Grouping::Stop => stops,
        };
        let mut expected = Self { grouping, stops, cells: vec![Cell::default(); cells] };
        for tap in taps {
            let window = (tap.event_ms - START_MS).div_euclid(WINDOW_MS) + WINDOWS_BEFORE;
            let cell = expected.place(window as usize, tap.stop, tap.mode);
            let cell = &mut expected.cells[cell];
            cell.taps += 1;
            if let Some(cents) = tap.fare_cents {
                let (sum, min, max) = cell.fares.unwrap_or((0, cents, cents));
                cell.fares = Some((sum + cents, min.min(cents), max.max(cents)));
            }
        }
        expected
    }

    fn place(&self, window: usize, stop: usize, mode: usize) -> usize {
        match self.grouping {
            Grouping::Window | Grouping::Bin => (window * self.stops + stop) * MODES.len() + mode,
            Grouping::Stop => stop,
        }
    }

    pub fn groups(&self) -> usize {
        self.cells.iter().filter(|cell| cell.taps > 0).count()
    }

    /// One line a group, as COPY writes what [`Model::table`] asks for.
    pub fn csv(&self) -> String {
        let mut text = String::new();
        match self.grouping {
            Grouping::Window | Grouping::Bin => {
                let mut modes: Vec<usize> = (0..MODES.len()).collect();
                modes.sort_by_key(|mode| MODES[*mode]);
                for window in 0..WINDOWS {
                    let start = START_MS + (window as i64 - WINDOWS_BEFORE) * WINDOW_MS;
                    for stop in 0..self.stops {
                        for &mode in &modes {
                            let keys = format_args!("{start},stop-{stop:04},{}", MODES[mode]);
                            let cell = &self.cells[self.place(window, stop, mode)];
                            cell.csv(keys, self.grouping, &mut text);
                        }
                    }
                }
            }
            Grouping::Stop => {
                for (stop, cell) in self.cells.iter().enumerate() {
                    let name = format!("stop-{stop:04}");
                    cell.csv(format_args!("{},{name}", name.len()), self.grouping, &mut text);
                }
            }
        }
        text
    }
}

impl Cell {
    /// NULL is an empty field.
    fn csv(&self, keys: std::fmt::Arguments<'_>, grouping: Grouping, text: &mut String) {
        if self.taps == 0 {
            return;
        }
        write!(text, "{keys},{}", self.taps).expect("memory");
        let fares = match grouping {
            Grouping::Window | Grouping::Stop => 3,
            Grouping::Bin => 1,
        };
        let known = self.fares.map(|(sum, min, max)| [sum, min, max]);
        for place in 0..fares {
            match known {
                Some(known) => write!(text, ",{}", known[place]),
                None => write!(text, ","),
            }
            .expect("memory");
        }
        text.push('\n');
    }
}
