//! The service that is always on: fresh tables, new partitions, new models, an orderly end.

use crate::{
    support::{Lake, Running, create_topic, eventually, produce, unique},
    taps::{self, OUTPUTS, assert_lake, assert_tables, records, taps},
};
use std::time::{Duration, Instant};

/// Whether everything produced has been read, committed or not.
fn has_fetched(service: &mut Running, records: i64) -> bool {
    let status = service.status();
    let partitions = status["topics"][0]["partitions"].as_array().cloned().unwrap_or_default();
    partitions.iter().filter_map(|p| p["fetched"].as_i64()).sum::<i64>() == records
}

fn sigterm_commits(name: &str, commit_interval: &str, lake: Lake) {
    const TAPS: i64 = 20_000;
    let Some(world) = taps::world(name, 3, lake) else { return };
    let interval = commit_interval;
    let mut service = world.follow(&[
        ("HIGHWATER_COMMIT_INTERVAL", interval),
        ("HIGHWATER_CATCH_UP_INTERVAL", interval),
    ]);
    world.produce(records(0..TAPS));
    eventually("all fetched", || has_fetched(&mut service, TAPS));
    let in_lake = "SELECT coalesce(sum(next_offset), 0) FROM highwater.marks WHERE output = 'lake'";
    assert_eq!(world.number(in_lake), 0, "the lake's cut is open");
    let asked = Instant::now();
    let text = service.stop();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}\n{text}", asked.elapsed());
    assert!(world.has_passed(OUTPUTS, TAPS), "{text}");
    assert_tables(&world, taps(0..TAPS));
    assert_lake(&world, TAPS);
    world.assert_proof();
}

#[test]
fn sigterm_commits_open_cuts_of_tables_and_lake() {
    sigterm_commits("term_both", "60s", Lake::S3);
}

#[test]
fn sigterm_commits_the_lake_where_the_tables_are_committed_already() {
    sigterm_commits("term_lake", "50ms", Lake::Local);
}

#[test]
fn what_is_produced_while_running_is_in_the_tables_within_seconds() {
    let Some(world) = taps::world("following", 2, Lake::Local) else { return };
    let mut service = world.follow(&[]);
    eventually("ready and holding", || {
        service.status()["topics"][0]["partitions"].as_array().is_some_and(|p| p.len() == 2)
    });
    let mut slowest = Duration::ZERO;
    for end in (1000..=5000).step_by(1000) {
        world.produce(records(end - 1000..end));
        let produced = Instant::now();
        let in_tables = "SELECT coalesce(sum(taps), 0) FROM by_stop";
        eventually("in the tables", || world.number(in_tables) == end);
        slowest = slowest.max(produced.elapsed());
    }
    println!("slowest: {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    service.stop();
    assert_tables(&world, taps(0..5000));
    assert_lake(&world, 5000);
    world.assert_proof();
}

#[test]
fn partitions_added_while_running_are_taken_up() {
    let Some(world) = taps::world("partitions", 2, Lake::Local) else { return };
    let mut command = world.command(&["run"]);
    command.args(["--kafka", "topic.metadata.refresh.interval.ms=500"]);
    let mut service = Running::start(command);
    world.produce(records(0..2000));
    eventually("the first two", || world.has_passed(OUTPUTS - 1, 2000));
    world.add_partitions(5);
    // A new producer knows of them; whether the service does already must not matter.
    world.produce(records(2000..6000));
    eventually("five partitions", || {
        service.status()["topics"][0]["partitions"].as_array().is_some_and(|p| p.len() == 5)
    });
    eventually("all in the tables", || world.has_passed(OUTPUTS - 1, 6000));
    service.stop();
    let used = world.number(
        "SELECT count(DISTINCT partition) FROM highwater.marks
         WHERE output = 'lake' AND next_offset > 0",
    );
    assert_eq!(used, 5, "partitions with records");
    assert_tables(&world, taps(0..6000));
    assert_lake(&world, 6000);
    world.assert_proof();
}

#[test]
fn a_model_added_later_begins_at_the_beginning_and_the_others_stay() {
    let Some(world) = taps::world("later", 3, Lake::Local) else { return };
    world.produce(records(0..8000));
    world.run_until_caught_up();
    assert_tables(&world, taps(0..8000));
    let others = "SELECT output, partition, next_offset, accepted, filtered, late, dead, absent,
                  committed_at FROM highwater.marks WHERE output NOT LIKE '%by_day'
                  ORDER BY output, partition";
    let rows = "SELECT (SELECT array_agg(s.* ORDER BY s.*)::text FROM by_stop s),
                (SELECT array_agg(m.* ORDER BY m.*)::text FROM paid_by_mode m)";
    let files = "SELECT path, checksum FROM highwater.lake_files ORDER BY path";
    let before = (world.query(others), world.query(rows), world.query(files));

    world.declare_model(
        "by_day",
        "CREATE MATERIALIZED VIEW by_day AS
         SELECT date_trunc('day', event_time) AS day, count(*) AS taps, sum(fare_cents) AS fare
         FROM taps GROUP BY date_trunc('day', event_time);",
    );
    world.run_until_caught_up();
    assert_eq!(before, (world.query(others), world.query(rows), world.query(files)));
    let fares = |range| taps(range).filter_map(taps::Tap::fare).sum::<i64>();
    let day = |n: i64, fare: i64| vec![vec![Some(n.to_string()), Some(fare.to_string())]];
    let by_day = "SELECT taps, fare FROM by_day";
    assert_eq!(world.query(by_day), day(8000, fares(0..8000)));
    world.assert_proof();

    // From now on all go together.
    world.produce(records(8000..9000));
    world.run_until_caught_up();
    assert_eq!(world.query(by_day), day(9000, fares(0..9000)));
    assert_tables(&world, taps(0..9000));
    assert_lake(&world, 9000);
    world.assert_proof();
}

#[test]
fn a_topic_made_later_is_waited_for_and_taken_up() {
    let Some(world) = taps::world("made_later", 1, Lake::Local) else { return };
    let later = unique("later");
    world.declare("taps", &taps::TOPIC.replace("{topic}", &later));
    let mut command = world.command(&["run"]);
    command.args(["--kafka", "topic.metadata.refresh.interval.ms=500"]);
    let mut service = Running::start(command);
    let mut why = String::new();
    eventually("not ready", || {
        let (code, body) = service.get("/readyz");
        why = body;
        code == 503 && !why.contains("starting")
    });
    assert!(why.contains(&format!("the topic {later} is not there")), "{why}");
    world.runtime.block_on(create_topic(&world.services.kafka, &later, 2));
    produce(&world.services.kafka, &later, records(0..500));
    eventually("in the tables", || world.has_passed(OUTPUTS - 1, 500));
    eventually("ready", || service.get("/readyz").0 == 200);
    service.stop();
    assert_tables(&world, taps(0..500));
    assert_lake(&world, 500);
}
