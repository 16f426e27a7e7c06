//! Records looked up in a reference: what is there, what is missing, and what changes meanwhile.

use crate::{
    support::{Lake, Running, World, eventually},
    taps::{TOPIC, Tap, records, seated, taps},
};
use std::collections::BTreeMap;

const STOPS: &str = r#"
reference   = "{place}"
primary_key = ["stop_id"]
refresh     = "1s"
[columns]
stop_id = "text"
zone    = { type = "integer", optional = true }
opened  = { type = "date", optional = true }
price   = { type = "numeric(6,2)", optional = true }
"#;

const BY_ZONE: &str = "
CREATE MATERIALIZED VIEW by_zone AS
SELECT stops.zone, stops.stop_id IS NULL AS unknown_stop, count(*) AS taps, sum(stops.price) AS due
FROM taps LEFT JOIN stops ON stops.stop_id = taps.stop_id
GROUP BY zone, unknown_stop;
";

const ZONED_TAPS: &str = "
CREATE MATERIALIZED VIEW zoned_taps WITH (primary_key = 'tap_id') AS
SELECT tap_id, s.zone, s.opened FROM taps AS t LEFT JOIN stops AS s ON t.stop_id = s.stop_id
WHERE s.zone > 1;
";

/// The outputs: two models, the lake, the dead letters.
const OUTPUTS: i64 = 4;

fn world(name: &str, lake: Lake, place: &str) -> Option<World> {
    let world = World::empty(name, 3, lake)?;
    // Every wait is for the lake, too.
    world.declare("taps", &TOPIC.replace("[lake]", "[lake]\nroll = { age = \"300ms\" }"));
    world.declare("stops", &STOPS.replace("{place}", place));
    world.declare_model("by_zone", &BY_ZONE.replace("GROUP BY zone,", "GROUP BY stops.zone,"));
    world.declare_model("zoned_taps", ZONED_TAPS);
    Some(world)
}

fn number(tap: Tap) -> i64 {
    tap.stop()[1..].parse().expect("S and a number")
}

/// Zone and price of a stop; the last ten stops are unknown.
fn stop(number: i64) -> Option<(i64, i64)> {
    (number < 30).then_some((number % 4 + 1, 150 + number))
}

/// Taps and cents due by zone.
fn by_zone(
    taps: impl Iterator<Item = Tap>,
    stop: impl Fn(i64) -> Option<(i64, i64)>,
    into: &mut BTreeMap<Option<i64>, (i64, i64)>,
) {
    for tap in taps {
        let found = stop(number(tap));
        let group = into.entry(found.map(|(zone, _)| zone)).or_default();
        group.0 += 1;
        group.1 += found.map_or(0, |(_, price)| price);
    }
}

fn assert_by_zone(world: &World, expected: &BTreeMap<Option<i64>, (i64, i64)>) {
    let rows = world.query(
        "SELECT zone, taps, coalesce((due * 100)::bigint, 0), unknown_stop FROM by_zone ORDER BY 1 NULLS FIRST",
    );
    let text = |n: i64| Some(n.to_string());
    let expected: Vec<_> = expected
        .iter()
        .map(|(zone, (taps, due))| {
            let unknown = if zone.is_none() { "t" } else { "f" };
            vec![zone.map(|z| z.to_string()), text(*taps), text(*due), Some(unknown.to_owned())]
        })
        .collect();
    assert_eq!(rows, expected);
}

fn assert_proven(world: &World) {
    world.assert_proof();
    let (code, text) = Running::start(world.command(&["verify", "--deep"])).wait();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("2 tables rebuilt"), "{text}");
}

fn csv() -> String {
    let row = |n: i64| {
        let (zone, price) = stop(n).expect("a known stop");
        format!("S{n:02},{zone},2001-02-{:02},{}.{:02}\n", n % 28 + 1, price / 100, price % 100)
    };
    std::iter::once("stop_id,zone,opened,price\n".to_owned()).chain((0..30).map(row)).collect()
}

#[test]
fn taps_are_looked_up_in_a_csv_of_the_lake_and_a_miss_is_kept_and_counted() {
    let Some(world) = world("reference_csv", Lake::Local, "lake:known/stops.csv") else { return };
    let root = std::path::PathBuf::from(world.lake.trim_start_matches("file://"));
    std::fs::create_dir_all(root.join("known")).expect("the lake");
    std::fs::write(root.join("known/stops.csv"), csv()).expect("the reference");
    world.produce(records(0..6_000));
    world.run_until_caught_up();

    let mut expected = BTreeMap::new();
    by_zone(taps(0..6_000), stop, &mut expected);
    assert_by_zone(&world, &expected);
    // WHERE sees the reference: neither unknown stops nor those of zone 1.
    let zoned = taps(0..6_000).filter(|t| stop(number(*t)).is_some_and(|(zone, _)| zone > 1));
    assert_eq!(world.number("SELECT count(*) FROM zoned_taps"), zoned.count() as i64);
    assert_eq!(world.number("SELECT count(*) FROM zoned_taps WHERE opened < '2001-02-01'"), 0);
    assert_proven(&world);
}

/// The table in PostgreSQL, with another price of each stop by `offset`.
fn fill(world: &World, offset: i64) {
    let values: Vec<String> = (0..30)
        .map(|n| {
            let (zone, price) = stop(n).expect("a known stop");
            format!("('S{n:02}', {zone}, NULL, {}::numeric / 100, 'ignored')", price + offset)
        })
        .collect();
    world.query(&format!(
        "BEGIN;
         CREATE TABLE IF NOT EXISTS stop_table (stop_id text, zone int, opened date, price numeric, remark text);
         DELETE FROM stop_table;
         INSERT INTO stop_table VALUES {};
         COMMIT",
        values.join(", ")
    ));
}

#[test]
fn a_table_that_changes_is_used_from_then_on_and_what_was_made_before_is_proven_by_its_version() {
    let Some(world) = world("reference_table", Lake::S3, "postgres:stop_table") else { return };
    fill(&world, 0);
    let service = world.follow(&[]);
    world.produce(records(0..3_000));
    eventually("the first of it", || world.has_passed(OUTPUTS, 3_000));
    assert_eq!(world.number("SELECT count(*) FROM highwater.reference_versions"), 1);

    fill(&world, 1_000);
    let versions = "SELECT count(*) FROM highwater.reference_versions";
    eventually("the table is loaded again", || world.number(versions) == 2);
    // A cut that was open keeps its version: these few end it.
    world.produce(records(3_000..3_100));
    eventually("a cut ends", || world.has_passed(OUTPUTS, 3_100));
    world.produce(records(3_100..6_000));
    eventually("all of it", || world.has_passed(OUTPUTS, 6_000));
    service.stop();

    // Where the change lies is where the uses say; the sums must follow from it.
    let uses = world.query(
        "SELECT output, partition, from_offset FROM highwater.reference_uses
         WHERE version = (SELECT version FROM highwater.reference_versions ORDER BY loaded_at DESC LIMIT 1)",
    );
    assert_eq!(uses.len(), 6, "two models, three partitions, one change each: {uses:?}");
    let due = world.number("SELECT (sum(due) * 100)::bigint FROM by_zone");
    let all = |offset: i64| -> i64 {
        taps(0..6_000).filter_map(|t| stop(number(t))).map(|(_, price)| price + offset).sum()
    };
    assert!(due > all(0) && due < all(1_000), "{due} lies between {} and {}", all(0), all(1_000));
    assert_proven(&world);

    // Started again it reads nothing twice, and a model declared now uses what is the newest.
    world.declare_model(
        "again",
        &BY_ZONE.replace("by_zone", "again").replace("GROUP BY zone,", "GROUP BY stops.zone,"),
    );
    world.run_until_caught_up();
    assert_eq!(world.number("SELECT (sum(due) * 100)::bigint FROM again"), all(1_000));
    assert_eq!(world.number("SELECT (sum(due) * 100)::bigint FROM by_zone"), due);
    assert_eq!(world.number(versions), 2, "the same content is the same version");
    crate::replay::assert_made_anew(&world);
}

#[test]
fn a_retried_record_is_looked_up_in_the_version_of_its_place() {
    let Some(world) = world("reference_retry", Lake::Local, "postgres:stop_table") else { return };
    let mended = TOPIC.replace("[lake]", "[lake]\nroll = { age = \"300ms\" }")
        + "[dead_letters]\nstop_above = \"100%\"\n";
    world.declare("taps", &mended.replace("[lake]", "seats = \"smallint\"\n[lake]"));
    fill(&world, 0);
    world.produce(seated(0..1_000));
    world.run_until_caught_up();
    fill(&world, 1_000);
    world.produce(seated(1_000..2_000));
    world.run_until_caught_up();
    let dearer = |n| stop(n).map(|(zone, price)| (zone, price + 1_000));
    let mut expected = BTreeMap::new();
    by_zone(taps(0..1_000).filter(|tap| tap.0 % 5 != 0), stop, &mut expected);
    by_zone(taps(1_000..2_000).filter(|tap| tap.0 % 5 != 0), dearer, &mut expected);
    assert_by_zone(&world, &expected);

    fill(&world, 5_000);
    world.declare("taps", &mended);
    let text = world.run(&["dead-letters", "retry"]);
    assert!(text.contains("400 taken"), "{text}");
    by_zone(taps(0..1_000).filter(|tap| tap.0 % 5 == 0), stop, &mut expected);
    by_zone(taps(1_000..2_000).filter(|tap| tap.0 % 5 == 0), dearer, &mut expected);
    assert_by_zone(&world, &expected);
    assert_proven(&world);
    crate::replay::assert_made_anew(&world);
}

#[test]
fn a_reference_that_cannot_be_loaded_stops_the_start_and_says_where() {
    let Some(world) = world("reference_broken", Lake::Local, "postgres:stop_table") else { return };
    world.produce(records(0..100));
    let refused = |words: &str| {
        let (code, text) = Running::start(world.command(&["run", "--until-caught-up"])).wait();
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(words), "no {words:?} in\n{text}");
    };
    refused("there is no such table");
    fill(&world, 0);
    world.query("INSERT INTO stop_table VALUES ('S01', 9)");
    refused("have the same primary key");
    world.query(
        "DELETE FROM stop_table; INSERT INTO stop_table VALUES ('S01', 1, NULL, 12345678.5)",
    );
    refused("row 1, column price");

    // While running, the version before stays.
    fill(&world, 0);
    let mut service = world.follow(&[]);
    eventually("it works", || world.has_passed(OUTPUTS, 100));
    world.query("UPDATE stop_table SET price = NULL, stop_id = NULL WHERE stop_id = 'S02'");
    eventually("a load fails", || {
        crate::http::total(&service.get("/metrics").1, "highwater_reference_failures_total") > 0.0
    });
    world.produce(records(100..200));
    eventually("it goes on", || world.has_passed(OUTPUTS, 200));
    service.stop();
    let mut expected = BTreeMap::new();
    by_zone(taps(0..200), stop, &mut expected);
    assert_by_zone(&world, &expected);
    assert_proven(&world);
}
