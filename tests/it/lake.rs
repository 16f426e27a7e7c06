//! The lake's files as the whole service makes them.

use crate::{
    support::Lake,
    taps::{self, OUTPUTS, Tap, assert_lake},
};

const HOUR: i64 = 36_000;

/// Taps of two hours in turn, each hour in order.
fn alternating(from: i64, count: i64) -> impl Iterator<Item = (String, String)> {
    (from..from + count).map(|i| Tap(i / 2 + i % 2 * HOUR).record())
}

#[test]
fn hours_in_turn_make_one_file_per_hour_and_roll() {
    let Some(world) = taps::world("alternating", 3, Lake::S3) else { return };
    world.produce(alternating(0, 20_000));
    world.run_until_caught_up();
    let files = "SELECT count(*), count(DISTINCT sequence) FROM highwater.lake_files";
    let row = |a: &str, b: &str| vec![vec![Some(a.to_owned()), Some(b.to_owned())]];
    assert_eq!(world.query(files), row("2", "1"));
    world.produce(alternating(20_000, 10_000));
    world.run_until_caught_up();
    assert_eq!(world.query(files), row("4", "2"));
    let hours = world.query(
        "SELECT substring(path FROM 'hour=[0-9]+'), count(*), sum(rows) FROM highwater.lake_files
         GROUP BY 1 ORDER BY 1",
    );
    let hour = |name: &str| vec![Some(name.to_owned()), Some("2".into()), Some("15000".into())];
    assert_eq!(hours, [hour("hour=06"), hour("hour=07")]);
    assert_lake(&world, 30_000);
    assert!(world.has_passed(OUTPUTS, 30_000));
    world.assert_proof();
}
