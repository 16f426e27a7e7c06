//! Changes of a table whose rows are only added: events with windows, exact whoever is killed.

use crate::{
    retention::forget,
    support::{Lake, Running, World, eventually},
};
use std::collections::BTreeMap;

const TOPIC: &str = r#"topic = "{topic}"
format = "debezium-json"
event_time = "at"
max_disorder = "5s"

[changes]
key = ["id"]
append_only = true

[columns]
id = "bigint"
at = { type = "timestamptz", encoding = "timestamp-us" }
n  = "bigint"

[lake]
partition_by = ["date(at)"]
roll = { bytes = "1MiB", age = "300ms" }
"#;

const MODEL: &str = "CREATE MATERIALIZED VIEW by_minute AS
    SELECT tumble(interval '1 minute') AS window, count(*) AS rows, sum(n) AS n, max(n) AS highest
    FROM fares GROUP BY window;";
/// Lake, dead letters and the model.
const OUTPUTS: i64 = 3;
const HURRY: [(&str, &str); 2] =
    [("HIGHWATER_COMMIT_INTERVAL", "40ms"), ("HIGHWATER_CATCH_UP_INTERVAL", "60ms")];
const START_US: i64 = 1_709_280_000_000_000;

fn record(op: &str, id: i64) -> (String, String) {
    let at = START_US + id * 50_000;
    let row = format!(r#"{{"id":{id},"at":{at},"n":{}}}"#, id % 97);
    let source = format!(r#"{{"lsn":{},"ts_us":{at}}}"#, 1_000 + id);
    let value = format!(r#"{{"op":"{op}","before":null,"after":{row},"source":{source}}}"#);
    (format!(r#"{{"id":{id}}}"#), value)
}

/// Window by window: rows, sum and highest of `n`.
fn expected(ids: impl Iterator<Item = i64>) -> Vec<Vec<Option<String>>> {
    let mut windows: BTreeMap<i64, (i64, i64, i64)> = BTreeMap::new();
    for id in ids {
        let window = windows.entry(id * 50_000 / 60_000_000).or_insert((0, 0, i64::MIN));
        *window = (window.0 + 1, window.1 + id % 97, window.2.max(id % 97));
    }
    let text = |n: i64| Some(n.to_string());
    windows.into_values().map(|(rows, n, most)| vec![text(rows), text(n), text(most)]).collect()
}

const TABLE: &str = "SELECT rows, n, highest FROM by_minute ORDER BY window_start";

#[test]
fn inserts_that_debezium_tells_fill_windows_exactly_and_updates_are_dead_letters() {
    const ROWS: i64 = 20_000;
    const SENT_AGAIN: i64 = 300;
    let Some(world) = World::empty("append_only", 2, Lake::Local) else { return };
    world.declare(
        "fares",
        &TOPIC.replace("event_time", "unique = [\"id\"]\nwithin = \"1h\"\nevent_time"),
    );
    world.declare_model("by_minute", MODEL);
    let passed = || {
        match world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") {
        1 => world.number("SELECT coalesce(sum(next_offset), 0) FROM highwater.marks WHERE output = 'model:by_minute'"),
        _ => 0,
    }
    };
    // A snapshot, and what is inserted after it.
    world.produce((0..2_000).map(|id| record("r", id)));
    let mut sent = 2_000;
    while sent < ROWS {
        let service = world.follow(&HURRY);
        world.produce((sent..sent + 4_500).map(|id| record("c", id)));
        sent += 4_500;
        eventually("some of it", || passed() > sent - 3_000);
        service.signal(libc::SIGKILL);
        service.wait();
    }
    // A connector that was killed sends what it had sent before; and the source breaks its word.
    world.produce((sent - SENT_AGAIN..sent).map(|id| record("c", id)));
    world.produce([record("u", 5), record("d", 6), record("t", 7)]);
    world.run_until_caught_up();
    assert!(world.has_passed(OUTPUTS, sent + SENT_AGAIN + 3));
    assert_eq!(world.query(TABLE), expected(0..sent));
    let why = "SELECT count(*) FROM highwater.dead_letters WHERE reason LIKE '%whose rows are only added%'";
    assert_eq!(world.number(why), 3);
    let duplicates = "SELECT sum(duplicate)::bigint FROM highwater.marks WHERE output = 'lake'";
    assert_eq!(world.number(duplicates), SENT_AGAIN);
    let (code, text) = Running::start(world.command(&["verify", "--deep"])).wait();
    assert!(code == Some(0) && text.contains("1 tables rebuilt"), "{code:?} {text}");
    world.assert_proof();
}

#[test]
fn a_model_of_them_is_made_anew_from_the_lake() {
    let Some(world) = World::empty("append_only_lake", 2, Lake::Local) else { return };
    world.declare("fares", TOPIC);
    world.declare_model("by_minute", MODEL);
    world.produce((0..5_000).map(|id| record("c", id)));
    world.run_until_caught_up();
    world.query("DELETE FROM by_minute WHERE n % 2 = 0");
    forget(&world, 0, 1_000);
    forget(&world, 1, 500);
    let said = world.run(&["replay", "model:by_minute", "--from-lake", "--dry-run"]);
    assert!(said.contains("1500 offsets are read from the lake"), "{said}");
    world.run(&["replay", "model:by_minute", "--from-lake"]);
    assert_eq!(world.query(TABLE), expected(0..5_000));
    world.assert_proof();
}
