//! Generated taps, their topic and models, and what must come out: counted one by one.

use crate::support::{Lake, Services, World};
use std::collections::BTreeMap;

/// 2026-03-01 06:00 UTC, in a zone without summer time.
const BEGIN_S: i64 = 1_772_344_800;

pub const TOPIC: &str = r#"
topic        = "{topic}"
format       = "json"
event_time   = "event_time"
max_disorder = "90s"

[columns]
tap_id     = "text"
stop_id    = "text"
mode       = "text"
event_time = "timestamptz"
fare_cents = { type = "bigint", optional = true }

[lake]
partition_by = ["date(event_time)", "hour(event_time)"]
"#;

pub const BY_STOP: &str = "
CREATE MATERIALIZED VIEW by_stop WITH (allowed_lateness = '1 hour') AS
SELECT tumble(interval '5 minutes') AS window, stop_id, count(*) AS taps, sum(fare_cents) AS fare
FROM taps GROUP BY window, stop_id;
";

pub const PAID_BY_MODE: &str = "
CREATE MATERIALIZED VIEW paid_by_mode AS
SELECT mode, count(*) AS taps, sum(fare_cents) AS fare, max(fare_cents) AS fare_max
FROM taps WHERE fare_cents IS NOT NULL GROUP BY mode;
";

/// The outputs of a world of [`world`]: two models, the lake, the dead letters.
pub const OUTPUTS: i64 = 4;

pub fn world(name: &str, partitions: i32, lake: Lake) -> Option<World> {
    World::empty(name, partitions, lake).map(declared)
}

/// The same on services that are not the shared ones.
pub fn world_on(services: Services, name: &str, partitions: i32, lake: Lake) -> World {
    declared(World::on(services, name, partitions, lake))
}

fn declared(world: World) -> World {
    world.declare("taps", TOPIC);
    world.declare_model("by_stop", BY_STOP);
    world.declare_model("paid_by_mode", PAID_BY_MODE);
    world
}

/// The number of a tap says all of it. Ten a second, in order.
#[derive(Clone, Copy)]
pub struct Tap(pub i64);

impl Tap {
    pub fn seconds(self) -> i64 {
        BEGIN_S + self.0 / 10
    }

    pub fn stop(self) -> String {
        format!("S{:02}", self.0 * 7919 % 40)
    }

    pub fn mode(self) -> &'static str {
        ["bus", "tram", "tube"][(self.0 % 3) as usize]
    }

    pub fn fare(self) -> Option<i64> {
        (self.0 % 5 != 0).then_some(100 + self.0 % 397)
    }

    pub fn json(self) -> serde_json::Value {
        let at = chrono::DateTime::from_timestamp(self.seconds(), 0).expect("in range");
        serde_json::json!({
            "tapId": format!("tap-{}", self.0),
            "stopId": self.stop(),
            "mode": self.mode(),
            "eventTime": at.to_rfc3339(),
            "fareCents": self.fare(),
        })
    }

    /// Key and value.
    pub fn record(self) -> (String, String) {
        (format!("card-{}", self.0 % 97), self.json().to_string())
    }
}

pub fn taps(numbers: std::ops::Range<i64>) -> impl Iterator<Item = Tap> {
    numbers.map(Tap)
}

pub fn records(numbers: std::ops::Range<i64>) -> impl Iterator<Item = (String, String)> {
    taps(numbers).map(Tap::record)
}

/// One tap in five has a word for its seats, which no model reads.
pub fn seated(numbers: std::ops::Range<i64>) -> impl Iterator<Item = (String, String)> {
    taps(numbers).map(|tap| {
        let mut value = tap.json();
        value["seats"] = if tap.0 % 5 == 0 { "many".into() } else { 4.into() };
        (tap.record().0, value.to_string())
    })
}

fn row(cells: &[String]) -> Vec<Option<String>> {
    cells.iter().cloned().map(Some).collect()
}

/// Both models hold exactly these taps.
pub fn assert_tables(world: &World, taps: impl Iterator<Item = Tap>) {
    let mut by_stop: BTreeMap<(i64, String), (i64, i64)> = BTreeMap::new();
    let mut by_mode: BTreeMap<&str, (i64, i64, i64)> = BTreeMap::new();
    for tap in taps {
        let window = tap.seconds().div_euclid(300) * 300;
        let stop = by_stop.entry((window, tap.stop())).or_default();
        stop.0 += 1;
        stop.1 += tap.fare().unwrap_or_default();
        if let Some(fare) = tap.fare() {
            let mode = by_mode.entry(tap.mode()).or_default();
            *mode = (mode.0 + 1, mode.1 + fare, mode.2.max(fare));
        }
    }
    let found = world.query(
        "SELECT extract(epoch FROM window_start)::bigint, stop_id, taps, coalesce(fare, 0)
         FROM by_stop ORDER BY 1, 2",
    );
    let expected: Vec<_> = by_stop
        .iter()
        .map(|((at, stop), (n, fare))| {
            row(&[at.to_string(), stop.clone(), n.to_string(), fare.to_string()])
        })
        .collect();
    assert_eq!(found, expected, "by_stop");
    let found = world.query("SELECT mode, taps, fare, fare_max FROM paid_by_mode ORDER BY 1");
    let expected: Vec<_> = by_mode
        .iter()
        .map(|(mode, (n, fare, max))| {
            row(&[(*mode).to_owned(), n.to_string(), fare.to_string(), max.to_string()])
        })
        .collect();
    assert_eq!(found, expected, "paid_by_mode");
}

/// So many rows in the lake, by its manifest and by its files, none owed and none left over.
pub fn assert_lake(world: &World, rows: i64) {
    assert_eq!(world.number("SELECT sum(rows) FROM highwater.lake_files"), rows, "manifest");
    let owed = world.number("SELECT count(*) FROM highwater.lake_files WHERE completed_at IS NULL");
    assert_eq!(owed, 0, "files owed");
    let mut places = crate::oyster::lake_places(world);
    assert_eq!(places.len() as i64, rows, "rows in files");
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len() as i64, rows, "rows in files, each once");
}
