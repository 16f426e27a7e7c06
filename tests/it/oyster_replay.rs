//! The Sunday of London's taps, replayed while the rest of the day comes in: every model and the lake, from the
//! beginning, from a time, from an offset, from the lake what Kafka has forgotten; each replay killed on its way, readers
//! all the while. It ends as the expected results say, which were made elsewhere.
//!
//! Readers never see less than before: of a model the sum of what its rows count, in one statement; of the lake
//! the rows of the files that `highwater.lake_current_files` lists, each of them there.

use crate::{
    oyster::{self, PARTITIONS, TAPS, keyed},
    replay::{self, Ends, HURRY, assert_verified},
    replay_lake,
    retention::forget,
    support::{Lake, Running, World, connect, eventually, runtime},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Half of the day's taps lie before it.
const AFTERNOON: &str = "2009-11-08T14:00:00Z";
/// Replays that are met on their way, at least.
const KILLS: i64 = 10;
/// A day that is not the Sunday, of which the expected results say nothing.
const WEEK: chrono::Days = chrono::Days::new(7);

/// The same tap a week later.
fn a_week_later(tap: &str) -> String {
    let mut value: serde_json::Value = serde_json::from_str(tap).expect("JSON");
    let text = |value: &serde_json::Value, name: &str| value[name].as_str().expect(name).to_owned();
    let at: chrono::DateTime<chrono::Utc> = text(&value, "eventTime").parse().expect("a time");
    let day: chrono::NaiveDate = text(&value, "serviceDate").parse().expect("a day");
    value["eventTime"] = (at + WEEK).to_rfc3339().into();
    value["serviceDate"] = (day + WEEK).to_string().into();
    value.to_string()
}

/// What readers ask, each time in one statement.
const LOOKS: [&str; 4] = [
    "SELECT coalesce(sum(taps), 0)::bigint FROM oyster_hourly_by_kind",
    "SELECT coalesce(sum(taps), 0)::bigint FROM oyster_product_daily",
    "SELECT coalesce(sum(taps), 0)::bigint FROM oyster_stop_15m",
    "SELECT coalesce(sum(riders), 0)::bigint FROM oyster_stop_15m",
];
/// Of two tables that one swap exchanges.
const RIDERS: &str = "SELECT (SELECT coalesce(sum(riders), 0)::bigint FROM oyster_stop_15m)
                             - (SELECT count(*) FROM oyster_stop_15m__riders)";
const FILES: &str = "SELECT path, (sum(rows) OVER ())::bigint FROM highwater.lake_current_files";

/// Looks until it is over; how often.
async fn read(world: &World, over: &AtomicBool) -> u64 {
    let client = connect(&world.warehouse()).await;
    let root = std::path::PathBuf::from(world.lake.strip_prefix("file://").expect("a directory"));
    let (mut seen, mut rows, mut polls) = ([1_i64; LOOKS.len()], 1_i64, 0);
    let mut listed = Vec::<String>::new();
    while !over.load(Ordering::Relaxed) {
        for (look, seen) in LOOKS.iter().zip(&mut seen) {
            let row = client.query_one(*look, &[]).await.expect("a reader is never refused");
            let now: i64 = row.get(0);
            assert!(now >= *seen, "{look}: {seen}, then {now}");
            *seen = now;
        }
        let row = client.query_one(RIDERS, &[]).await.expect("a reader is never refused");
        assert_eq!(row.get::<_, i64>(0), 0, "values that are counted and are not there");
        let files = client.query(FILES, &[]).await.expect("a reader is never refused");
        let now: i64 = files[0].get(1);
        assert!(now >= rows, "{rows} rows in the lake, then {now}");
        rows = now;
        for path in &listed {
            assert!(root.join(path).exists(), "{path} of the listing before");
        }
        listed = files.iter().map(|row| row.get(0)).collect();
        polls += 1;
    }
    polls
}

/// Cuts and pieces of replays take their time, as on a busy disk.
fn slowly(world: &World) {
    world.slow_down(0.02, &[replay_lake::PIECES, replay::CUTS_OF_REBUILDS]);
}

/// Offsets that replays under way have done.
fn done(world: &World) -> i64 {
    replay::half_done(world) + replay_lake::written(world)
}

/// Killed once on its way, where it can be met there; then gone on with.
fn replayed(world: &World, arguments: &[&str], random: &mut SmallRng, kills: &AtomicI64) {
    let command = || {
        let mut command = world.command(&[&["replay"], arguments].concat());
        command.env("HIGHWATER_CATCH_UP_INTERVAL", "40ms");
        command.env("HIGHWATER_COMMIT_INTERVAL", "40ms");
        command
    };
    let mut replay = Running::start(command());
    let until = random.random_range(1..TAPS / 4);
    eventually("some of it, or all", || done(world) >= until || !replay.is_running());
    replay.signal(libc::SIGKILL);
    replay.wait();
    kills.fetch_add(i64::from(done(world) > 0), Ordering::Relaxed);
    let (code, said) = Running::start(command()).wait();
    assert_eq!(code, Some(0), "highwater replay {arguments:?}:\n{said}");
}

/// Kafka forgets most of what every output has passed. Where the lake stands in two partitions: no file of before
/// reaches beyond.
fn truncate(world: &World) -> String {
    let mark = |condition: &str| {
        world.number(&format!("SELECT min(next_offset) FROM highwater.marks WHERE {condition}"))
    };
    let ends =
        [0, 3].map(|p| format!("{p}:{}", mark(&format!("output = 'lake' AND partition = {p}"))));
    for partition in 0..PARTITIONS {
        forget(world, partition, mark(&format!("partition = {partition}")) * 4 / 5);
    }
    ends.join(",")
}

#[test]
fn the_sunday_replayed_while_it_comes_in_is_the_same_for_every_reader_whoever_is_killed() {
    let Some((world, taps, data)) = oyster::world("oyster_replay", Lake::Local) else { return };
    oyster::roll_often(&world);
    let (morning, evening) = taps.split_at(taps.len() / 2);
    for part in morning.chunks(morning.len().div_ceil(3)) {
        world.produce(part.iter().map(|tap| keyed(tap)));
        world.run_until_caught_up();
    }
    slowly(&world);
    let (over, kills) = (AtomicBool::new(false), AtomicI64::new(0));
    let (sent, polls) = std::thread::scope(|scope| {
        let (world, over) = (&world, &over);
        // Also when something fails here, or nothing would end.
        let guard = Ends(over);
        let writer = scope.spawn(move || {
            let later = morning.iter().map(|tap| a_week_later(tap));
            let mut rest = evening.iter().cloned().chain(later);
            let mut sent = morning.len();
            while !over.load(Ordering::Relaxed) && sent < 2 * morning.len() + evening.len() {
                let part: Vec<String> = rest.by_ref().take(200).collect();
                world.produce(part.iter().map(|tap| keyed(tap)));
                sent += part.len();
            }
            if sent < TAPS as usize {
                let part: Vec<String> = rest.take(TAPS as usize - sent).collect();
                world.produce(part.iter().map(|tap| keyed(tap)));
                sent += part.len();
            }
            sent as i64
        });
        let reader = scope.spawn(move || runtime().block_on(read(world, over)));
        let service = world.follow(&HURRY);
        let mut random = SmallRng::seed_from_u64(67);
        for arguments in [
            &["oyster_hourly_by_kind"][..],
            &["oyster_product_daily"],
            &["oyster_stop_15m"],
            &["oyster_hourly_by_kind", "--from", AFTERNOON],
            &["oyster_stop_15m", "--from", AFTERNOON],
            &["lake:oyster_taps"],
            &["lake:oyster_taps", "--from", AFTERNOON],
            &["lake:oyster_taps", "--from", "9000"],
        ] {
            replayed(world, arguments, &mut random, &kills);
        }
        let ends = truncate(world);
        for arguments in [
            &["oyster_hourly_by_kind", "--from-lake"][..],
            &["oyster_product_daily", "--from-lake"],
            &["oyster_stop_15m", "--from-lake"],
            &["oyster_hourly_by_kind", "--from", AFTERNOON, "--from-lake"],
            &["lake:oyster_taps", "--from", &ends],
        ] {
            replayed(world, arguments, &mut random, &kills);
        }
        drop(guard);
        let sent = writer.join().expect("the writer");
        eventually("all of it", || world.has_passed(5, sent));
        service.stop();
        (sent, reader.join().expect("the reader"))
    });
    let kills = kills.into_inner();
    println!("{sent} records, {polls} looks, {kills} kills");
    assert!(polls > 20, "{polls}");
    assert!(kills >= KILLS, "{kills} kills: replays ended before they were killed");
    oyster::assert_tables(&world, &data);
    let files = replay_lake::current_files(&world);
    let mut places = oyster::places_of(&world, Some(&files));
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len() as i64, sent, "each record once in the lake");
    let listed = world.number("SELECT sum(rows) FROM highwater.lake_current_files");
    assert_eq!(listed, sent, "rows that the lake lists");
    assert_verified(&world);
    replay::assert_no_trace(&world);
    replay_lake::assert_no_trace(&world);
}
