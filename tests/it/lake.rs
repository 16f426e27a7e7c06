//! The lake's files as the whole service makes them.

use crate::{
    faults::{HURRY, hurried},
    support::{Lake, eventually},
    taps::{self, OUTPUTS, Tap, assert_lake, records},
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

/// The process that was killed holds its partitions in Kafka's eyes, so that the next one gets none and has nothing to
/// read.
#[test]
fn caught_up_are_files_of_a_killed_process_too_when_they_have_their_names() {
    let Some(world) = hurried("unnamed", Lake::Local) else { return };
    world.produce(records(0..1_000));
    world.run_until_caught_up();
    world.query(
        "CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN RAISE EXCEPTION ''not now'' USING ERRCODE = ''57P03''; END';
         CREATE TRIGGER refuses BEFORE UPDATE ON highwater.lake_files FOR EACH ROW EXECUTE FUNCTION refuses()",
    );
    let mut settings = HURRY.to_vec();
    settings.push(("HIGHWATER_KAFKA", "session.timeout.ms=60000,heartbeat.interval.ms=1000"));
    let service = world.follow(&settings);
    world.produce(records(1_000..3_000));
    eventually("all of it, but for names", || world.has_passed(OUTPUTS, 3_000));
    service.signal(libc::SIGKILL);
    service.wait();
    let owed = "SELECT count(*) FROM highwater.lake_files WHERE completed_at IS NULL";
    assert!(world.number(owed) > 0);
    world.query("DROP TRIGGER refuses ON highwater.lake_files");
    world.run_until_caught_up();
    assert_lake(&world, 3_000);
    world.assert_proof();
}
