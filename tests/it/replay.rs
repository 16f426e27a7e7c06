//! Tables made anew beside the live ones: the same as before, whoever is killed, and never half done for
//! a reader; changed definitions; a rebuild that is given up.
//!
//! Each of these was planted once and is caught: letters and refusals of the rebuild not exchanged; its letters left behind when
//! it is given up; recorded duplicates, advances of event time or versions not followed; reading on behind the live marks, by one
//! record, too; an exchange that removes nothing, or writes over nothing; the window that begins at the time itself left out; a
//! beginning behind the file that holds the time; records that today's topic file takes otherwise not looked at; an owner of
//! another definition not fenced; the lake read to one offset too few; rows of retries not read.

use crate::{
    retention::forget,
    support::{Lake, Running, World, eventually},
    taps::{self, OUTPUTS, Tap, assert_tables, records, taps},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::sync::atomic::{AtomicBool, Ordering};

pub type Rows = Vec<Vec<Option<String>>>;

pub const HURRY: [(&str, &str); 2] =
    [("HIGHWATER_COMMIT_INTERVAL", "50ms"), ("HIGHWATER_CATCH_UP_INTERVAL", "80ms")];

/// A cut per fetch.
pub const AT_ONCE: [(&str, &str); 2] =
    [("HIGHWATER_COMMIT_INTERVAL", "1ms"), ("HIGHWATER_CATCH_UP_INTERVAL", "1ms")];

pub fn first_column(rows: Rows) -> Vec<String> {
    rows.into_iter().filter_map(|mut row| row.swap_remove(0)).collect()
}

fn models(world: &World) -> Vec<String> {
    let sql = "SELECT DISTINCT substr(output, 7) FROM highwater.marks WHERE output LIKE 'model:%' ORDER BY 1";
    first_column(world.query(sql))
}

/// The model's own table and those beside it.
pub fn tables_of(world: &World, model: &str) -> Vec<String> {
    first_column(world.query(&format!(
        "SELECT relname::text FROM pg_class
         WHERE relkind = 'r' AND obj_description(oid, 'pg_class') LIKE 'highwater model {model}, %' ORDER BY 1"
    )))
}

/// Whatever a replay must leave as it is: each row of each table, marks with their epochs, what is recorded.
pub fn everything(world: &World) -> Vec<(String, Rows)> {
    let mut all = Vec::new();
    for model in models(world) {
        for table in tables_of(world, &model) {
            let rows = world.query(&format!("SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1"));
            all.push((table, rows));
        }
    }
    for (name, columns) in [
        (
            "marks",
            "topic, output, partition, first_offset, next_offset, epoch, event_time_max, accepted, filtered, late,
             dead, absent, duplicate, lost, generation, topic_id",
        ),
        ("refusals", "*"),
        ("dead_letters", "*"),
        ("duplicates", "*"),
        ("idle_advances", "*"),
        ("reference_uses", "*"),
        ("rebuilds", "*"),
    ] {
        let sql = format!(
            "SELECT to_jsonb(t)::text FROM (SELECT {columns} FROM highwater.{name}) t ORDER BY 1"
        );
        all.push((name.to_owned(), world.query(&sql)));
    }
    all
}

pub fn assert_same(now: &[(String, Rows)], before: &[(String, Rows)]) {
    for ((name, now), (_, before)) in now.iter().zip(before) {
        let differing = now.iter().zip(before).find(|(a, b)| a != b);
        assert_eq!((now.len(), differing), (before.len(), None), "{name}: now, and before");
    }
    assert_eq!(now.len(), before.len());
}

pub fn assert_no_trace(world: &World) {
    assert_eq!(world.number("SELECT count(*) FROM highwater.rebuilds"), 0);
    let left = world.query(
        "SELECT relname FROM pg_class WHERE relname LIKE '\\_rebuild%' AND relkind IN ('r', 'v') UNION ALL
         SELECT output FROM highwater.marks WHERE output LIKE '%\\_rebuild%' UNION ALL
         SELECT output FROM highwater.dead_letters WHERE output LIKE '%\\_rebuild%' UNION ALL
         SELECT output FROM highwater.refusals WHERE output || letter LIKE '%\\_rebuild%' UNION ALL
         SELECT output FROM highwater.reference_uses WHERE output LIKE '%\\_rebuild%'",
    );
    assert_eq!(left, Rows::new());
}

pub fn assert_verified(world: &World) {
    world.assert_proof();
    let proof = world.run(&["verify", "--deep"]);
    assert!(proof.contains("everything holds"), "{proof}");
}

/// As `status` tells them.
pub fn replays(world: &World) -> Vec<serde_json::Value> {
    let told = world.output(&["status", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert!(told["replays"].is_array(), "{told}");
    told["replays"].as_array().cloned().unwrap_or_default()
}

/// Damages every table, makes it anew, and finds it as it was; a second time nothing changes.
pub fn assert_made_anew(world: &World) {
    let before = everything(world);
    for model in models(world) {
        for table in tables_of(world, &model) {
            world.query(&format!("DELETE FROM {table} AS t WHERE hashtext(t::text) % 3 = 0"));
        }
        world.run(&["replay", &format!("model:{model}"), "--from", "beginning"]);
    }
    assert_same(&everything(world), &before);
    for model in models(world) {
        let said = world.run(&["replay", &model]);
        assert!(said.contains("every row is as it was"), "{said}");
    }
    assert_same(&everything(world), &before);
    assert_no_trace(world);
    assert_verified(world);
}

pub const KINDS: [(&str, &str); 6] = [
    ("by_stop", taps::BY_STOP),
    ("paid_by_mode", taps::PAID_BY_MODE),
    (
        "strictly",
        "CREATE MATERIALIZED VIEW strictly WITH (late = 'drop') AS
         SELECT tumble(interval '1 minute') AS window, count(*) AS taps, count(DISTINCT stop_id) AS stops
         FROM taps GROUP BY window;",
    ),
    (
        "refusing",
        "CREATE MATERIALIZED VIEW refusing WITH (late = 'dead-letter') AS
         SELECT hop(interval '1 minute', interval '3 minutes') AS window, mode, count(*) AS taps
         FROM taps GROUP BY window, mode;",
    ),
    (
        "latest",
        "CREATE MATERIALIZED VIEW latest WITH (primary_key = 'stop_id') AS
         SELECT stop_id, tap_id, fare_cents FROM taps;",
    ),
    (
        "each",
        "CREATE MATERIALIZED VIEW each AS
         SELECT tap_id, CAST(substr(tap_id, 5) AS bigint) AS number FROM taps;",
    ),
];

/// In any order within some minutes, one in fifty broken, one in seventy with a number that is none.
pub fn disordered(numbers: std::ops::Range<i64>, random: &mut SmallRng) -> Vec<(String, String)> {
    let mut records = Vec::new();
    for tap in taps(numbers) {
        let (key, _) = tap.record();
        let mut value = tap.json();
        let back = if random.random_ratio(1, 10) { random.random_range(0..4_000) } else { 0 };
        let at =
            chrono::DateTime::from_timestamp(Tap(tap.0 - back).seconds(), 0).expect("in range");
        value["eventTime"] = at.to_rfc3339().into();
        if tap.0 % 70 == 9 {
            value["tapId"] = format!("tap-x{}", tap.0).into();
        }
        let text = if tap.0 % 50 == 7 { "{\"tapId\":".to_owned() } else { value.to_string() };
        records.push((key, text));
    }
    records
}

pub fn world_of_kinds(name: &str, partitions: i32) -> Option<World> {
    let world = World::empty(name, partitions, Lake::Local)?;
    let lake = "[lake]\nroll = { age = \"300ms\" }";
    let topic = taps::TOPIC.replace("[lake]", lake) + "[dead_letters]\nstop_above = \"100%\"\n";
    world.declare("taps", &topic);
    for (model, sql) in KINDS {
        world.declare_model(model, sql);
    }
    Some(world)
}

/// Lake, dead letters and the models.
pub const KINDS_OUTPUTS: i64 = 8;

#[test]
fn tables_of_every_kind_are_made_anew_as_they_were() {
    let Some(world) = world_of_kinds("replay_kinds", 3) else { return };
    let mut random = SmallRng::seed_from_u64(7);
    for begin in (0..20_000).step_by(5_000) {
        world.produce(disordered(begin..begin + 5_000, &mut random));
        world.run_until_caught_up();
    }
    let refused =
        "SELECT count(*) FROM highwater.refusals WHERE output = 'model:refusing' AND NOT by_decode";
    assert!(world.number(refused) > 0);
    let late = "SELECT sum(late)::bigint FROM highwater.marks WHERE output = 'model:strictly'";
    assert!(world.number(late) > 0);
    // Rows that nothing ever gave.
    let before = everything(&world);
    world.query(
        "INSERT INTO paid_by_mode (mode, taps) VALUES ('boat', 3), (NULL, 1);
         INSERT INTO strictly (window_start, window_end, taps, stops) VALUES ('1999-01-01', '1999-01-02', 1, 1);
         UPDATE latest SET tap_id = 'none' WHERE stop_id = 'S01'",
    );
    for model in ["paid_by_mode", "strictly", "latest"] {
        let said = world.run(&["replay", model]);
        assert!(said.contains("rows are others now"), "{said}");
    }
    assert_same(&everything(&world), &before);
    assert_made_anew(&world);
}

const SINCE: &str = "2026-03-01T06:20:00Z";

#[test]
fn of_a_windowed_model_those_windows_are_made_anew_that_begin_at_a_time_or_later() {
    const TAPS: i64 = 24_000;
    let Some(world) = world_of_kinds("replay_since", 3) else { return };
    let mut random = SmallRng::seed_from_u64(47);
    for begin in (0..TAPS).step_by(3_000) {
        world.produce(disordered(begin..begin + 3_000, &mut random));
        world.run_until_caught_up();
    }
    let before = everything(&world);
    let windowed = ["by_stop", "strictly", "refusing"];
    let rows = |condition: &str| -> Vec<Rows> {
        let rows = |table: &String| {
            world.query(&format!(
                "SELECT to_jsonb(t)::text FROM {table} t WHERE window_start {condition} '{SINCE}' ORDER BY 1"
            ))
        };
        windowed.iter().flat_map(|model| tables_of(&world, model)).map(|t| rows(&t)).collect()
    };
    let sound = rows(">=");
    for model in windowed {
        for table in tables_of(&world, model) {
            world.query(&format!("DELETE FROM {table} AS t WHERE hashtext(t::text) % 3 = 0"));
        }
    }
    world.query(
        "INSERT INTO strictly (window_start, window_end, taps, stops) VALUES ('2026-04-01', '2026-04-02', 1, 1)",
    );
    let earlier = rows("<");
    assert!(rows(">=") != sound);
    let said = world.run(&["replay", "by_stop", "--from", SINCE, "--dry-run"]);
    assert!(said.contains("of windows that begin then or later"), "{said}");
    let told: serde_json::Value = serde_json::from_str(&world.run(&[
        "replay",
        "by_stop",
        "--from",
        SINCE,
        "--dry-run",
        "--json",
    ]))
    .expect("JSON");
    let back = told["records_at_most"].as_i64().expect("a number");
    assert!((TAPS / 3..TAPS * 3 / 4).contains(&back), "{told}");
    slowly(&world);
    for model in windowed {
        killed_half_way(&world, &[model, "--from", SINCE]);
        world.run(&["replay", model, "--from", SINCE]);
    }
    assert!(rows(">=") == sound, "windows from then on");
    assert!(rows("<") == earlier, "windows of before");
    assert_no_trace(&world);
    for model in windowed {
        world.run(&["replay", model]);
        let said = world.run(&["replay", model, "--from", SINCE]);
        assert!(said.contains("every row is as it was"), "{said}");
    }
    assert_same(&everything(&world), &before);
    assert_verified(&world);

    refused(
        &world,
        &["replay", "latest", "--from", SINCE],
        2,
        "the latest row of a key may be of before",
    );
    refused(&world, &["replay", "paid_by_mode", "--from", SINCE], 2, "cannot be taken apart");
    refused(
        &world,
        &["replay", "by_stop", "--partitions", "1"],
        2,
        "A table holds all of its topic",
    );
    // What the totals would not tell.
    let topic = world.folder.path().join("topics/taps.toml");
    let text = std::fs::read_to_string(&topic).expect("the topic file");
    let strict = text.replace("tap_id     = \"text\"", "tap_id = \"text\"\nseats = \"bigint\"");
    assert!(strict != text);
    std::fs::write(&topic, strict).expect("the topic file");
    refused(&world, &["replay", "by_stop", "--from", SINCE], 1, "today's topic file refuses taps/");
    std::fs::write(&topic, text).expect("the topic file");
    refused(&world, &["replay", "by_stop"], 2, "or from another time, stands half done");
    world.run(&["replay", "by_stop", "--abort"]);
    assert_no_trace(&world);
    assert_same(&everything(&world), &before);
}

#[test]
fn windows_made_anew_beside_live_traffic_are_never_fewer_for_a_reader() {
    const TAPS: i64 = 18_000;
    let Some(world) = world_of_kinds("replay_since_live", 3) else { return };
    let mut random = SmallRng::seed_from_u64(53);
    for begin in (0..TAPS).step_by(3_000) {
        world.produce(disordered(begin..begin + 3_000, &mut random));
        world.run_until_caught_up();
    }
    let over = AtomicBool::new(false);
    let (sent, polls) = std::thread::scope(|scope| {
        let (over, world) = (&over, &world);
        let ends = Ends(over);
        let writer = scope.spawn(move || {
            let mut random = SmallRng::seed_from_u64(59);
            let mut sent = TAPS;
            while sent < TAPS + 6_000 || !over.load(Ordering::Relaxed) {
                world.produce(disordered(sent..sent + 100, &mut random));
                sent += 100;
            }
            sent
        });
        let reader = scope.spawn(move || {
            let looks = [
                "SELECT coalesce(sum(taps) + count(*), 0)::bigint FROM by_stop",
                "SELECT coalesce(sum(taps) + count(*) + sum(stops), 0)::bigint FROM strictly",
                "SELECT coalesce(sum(taps) + count(*), 0)::bigint FROM refusing",
            ];
            crate::support::runtime().block_on(async {
                let client = crate::support::connect(&world.warehouse()).await;
                let (mut seen, mut polls) = ([1_i64; 3], 0);
                while !over.load(Ordering::Relaxed) {
                    for (look, seen) in looks.iter().zip(&mut seen) {
                        let row = client.query_one(*look, &[]).await.expect("never refused");
                        let now: i64 = row.get(0);
                        assert!(now >= *seen, "{look}: {seen}, then {now}");
                        *seen = now;
                    }
                    polls += 1;
                }
                polls
            })
        });
        let service = world.follow(&HURRY);
        for model in ["by_stop", "strictly", "refusing"] {
            world.run(&["replay", model, "--from", SINCE]);
        }
        drop(ends);
        let sent = writer.join().expect("the writer");
        eventually("all of it", || world.has_passed(KINDS_OUTPUTS, sent));
        service.stop();
        (sent, reader.join().expect("the reader"))
    });
    println!("{sent} records, {polls} looks");
    assert!(polls > 20, "{polls}");
    assert_no_trace(&world);
    assert_made_anew(&world);
}

/// Kafka forgets half of one partition, nearly all of another one, nothing of the third, while the models are
/// made anew from what is left and the lake.
#[test]
fn what_kafka_has_no_more_is_read_from_the_lake_with_the_same_results_and_marks() {
    const TAPS: i64 = 24_000;
    let Some(world) = world_of_kinds("replay_from_lake", 3) else { return };
    let mut random = SmallRng::seed_from_u64(43);
    for begin in (0..TAPS).step_by(4_000) {
        world.produce(disordered(begin..begin + 4_000, &mut random));
        world.run_until_caught_up();
    }
    let end = world
        .number("SELECT next_offset FROM highwater.marks WHERE output = 'lake' AND partition = 1");
    retry_some(&world, [4_000, end - 1]);
    assert_verified(&world);
    let before = everything(&world);
    // The last one that only the lake has told of was refused.
    let begins = world.number(
        "SELECT max(\"offset\") + 1 FROM highwater.refusals
         WHERE output = 'lake' AND partition = 0 AND \"offset\" < 4000 AND retried_at IS NULL",
    );
    forget(&world, 0, begins);
    forget(&world, 1, end - 1);
    refused(&world, &["replay", "by_stop"], 1, "--from-lake reads it there");
    let said = world.run(&["replay", "by_stop", "--from-lake", "--dry-run"]);
    assert!(
        said.contains(&format!("{} offsets are read from the lake", begins + end - 1)),
        "{said}"
    );

    for (model, _) in KINDS {
        for table in tables_of(&world, model) {
            world.query(&format!("DELETE FROM {table} AS t WHERE hashtext(t::text) % 3 = 0"));
        }
    }
    slowly(&world);
    for (model, _) in KINDS {
        killed_half_way(&world, &[model, "--from-lake"]);
        let under_way = world.number("SELECT count(*) FROM highwater.rebuilds");
        let told = replays(&world);
        assert_eq!(told.len() as i64, under_way, "{told:?}");
        if let [told] = told.as_slice() {
            assert_eq!(told["output"], format!("model:{model}"));
            assert_eq!(told["done"].as_i64(), Some(half_done(&world)), "{told}");
        }
        world.run(&["replay", model, "--from-lake"]);
    }
    assert_same(&everything(&world), &before);
    assert_no_trace(&world);
    assert_verified(&world);

    // A column that the lake's files do not have.
    let topic = world.folder.path().join("topics/taps.toml");
    let text = std::fs::read_to_string(&topic).expect("the topic file");
    let more =
        text.replace("[columns]", "[columns]\ndevice = { type = \"text\", optional = true }");
    std::fs::write(&topic, more).expect("the topic file");
    refused(&world, &["replay", "latest", "--from-lake"], 1, "has no column device");
    world.run(&["replay", "latest", "--abort"]);
    std::fs::write(&topic, &text).expect("the topic file");
    // Rows that it filters out.
    std::fs::write(&topic, format!("unique = [\"tap_id\"]\nwithin = \"1h\"\n{text}"))
        .expect("the topic file");
    refused(
        &world,
        &["replay", "latest", "--from-lake"],
        2,
        "duplicates (unique) are filtered out of it",
    );
    world.run(&["replay", "latest", "--abort"]);
    std::fs::write(&topic, &text).expect("the topic file");
    assert_same(&everything(&world), &before);
}

/// How much of a rebuild is done, and whether one is under way.
pub fn half_done(world: &World) -> i64 {
    world.number(
        "SELECT coalesce(sum(next_offset - first_offset), 0) FROM highwater.marks
         WHERE output LIKE 'model:\\_rebuild%'",
    )
}

/// For [`World::slow_down`].
pub const CUTS_OF_REBUILDS: (&str, &str) = (
    "UPDATE ON highwater.marks",
    "WHEN (NEW.output LIKE 'model:\\_rebuild%' AND NEW.next_offset > OLD.next_offset)",
);

/// Each cut of a rebuild takes its time.
pub fn slowly(world: &World) {
    world.slow_down(0.1, &[CUTS_OF_REBUILDS]);
}

/// Sets the flag when it goes.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub fn replaying(world: &World, arguments: &[&str], settings: &[(&str, &str)]) -> Running {
    let mut command = world.command(&[&["replay"], arguments].concat());
    command.envs(settings.iter().copied());
    Running::start(command)
}

/// Killed when some of it is done, or all.
pub fn killed_half_way(world: &World, arguments: &[&str]) {
    let mut replay = replaying(world, arguments, &AT_ONCE);
    eventually("some of it, or all", || half_done(world) > 0 || !replay.is_running());
    replay.signal(libc::SIGKILL);
    replay.wait();
}

/// It ends with this exit code, and says these words.
pub fn refused(world: &World, arguments: &[&str], code: i32, words: &str) {
    let (found, said) = Running::start(world.command(arguments)).wait();
    assert_eq!(found, Some(code), "{said}");
    assert!(said.contains(words), "no {words:?} in\n{said}");
}

/// Some letters of before these offsets of partitions 0 and 1 are taken after all, so that the lake has files of retries.
pub fn retry_some(world: &World, before: [i64; 2]) {
    let good = Tap(1).json().to_string();
    let [first, second] = before;
    world.query(&format!(
        "UPDATE highwater.dead_letters SET value = '{good}'
         WHERE output = 'dead_letters' AND \"offset\" % 3 = 0
           AND (partition = 0 AND \"offset\" < {first} OR partition = 1 AND \"offset\" < {second})"
    ));
    world.run(&["dead-letters", "retry"]);
    assert!(world.number("SELECT count(*) FROM highwater.lake_files WHERE origin = 'retry'") > 0);
}

#[test]
fn a_replay_beside_live_traffic_changes_nothing_whoever_is_killed() {
    const TAPS: i64 = 60_000;
    let Some(world) = world_of_kinds("replay_live", 4) else { return };
    let mut random = SmallRng::seed_from_u64(11);
    world.produce(disordered(0..TAPS / 2, &mut random));
    world.run_until_caught_up();

    slowly(&world);
    let over = AtomicBool::new(false);
    let (sent, polls) = std::thread::scope(|scope| {
        let (over, world) = (&over, &world);
        // Also when something fails here, or nothing would end.
        let ends = Ends(over);
        let writer = scope.spawn(move || {
            let mut random = SmallRng::seed_from_u64(13);
            let mut sent = TAPS / 2;
            while sent < TAPS || !over.load(Ordering::Relaxed) {
                world.produce(disordered(sent..sent + 100, &mut random));
                sent += 100;
            }
            sent
        });
        // Nothing is ever taken back from a reader: neither rows nor what they count.
        let reader = scope.spawn(move || {
            let looks = [
                "SELECT coalesce(sum(taps), 0)::bigint FROM by_stop",
                "SELECT coalesce(sum(taps), 0)::bigint FROM paid_by_mode",
                "SELECT coalesce(sum(taps) + count(*) + sum(stops), 0)::bigint FROM strictly",
                "SELECT coalesce(sum(taps), 0)::bigint FROM refusing",
                "SELECT count(*) FROM latest",
                "SELECT count(*) FROM each",
            ];
            let url = world.warehouse();
            let runtime = crate::support::runtime();
            runtime.block_on(async {
                let client = crate::support::connect(&url).await;
                let mut seen = [1_i64; 6];
                let mut polls = 0;
                while !over.load(Ordering::Relaxed) {
                    for (look, seen) in looks.iter().zip(&mut seen) {
                        let row =
                            client.query_one(*look, &[]).await.expect("a reader is never refused");
                        let now: i64 = row.get(0);
                        assert!(now >= *seen, "{look}: {seen}, then {now}");
                        *seen = now;
                    }
                    polls += 1;
                }
                polls
            })
        });
        let mut service = Some(world.follow(&HURRY));
        let mut kills = 0;
        for (model, _) in KINDS {
            // Killed at any time, beside a service that is.
            for _ in 0..2 {
                let mut replay = replaying(world, &[model], &HURRY);
                let until = half_done(world) + random.random_range(1..TAPS / 4);
                eventually("some of it, or all", || {
                    half_done(world) >= until || !replay.is_running()
                });
                if random.random_ratio(1, 2) {
                    let killed: Running = service.take().expect("it runs");
                    killed.signal(libc::SIGKILL);
                    killed.wait();
                    kills += 1;
                }
                replay.signal(libc::SIGKILL);
                replay.wait();
                service.get_or_insert_with(|| world.follow(&HURRY));
            }
            world.run(&["replay", model]);
        }
        println!("the service was killed {kills} times");
        drop(ends);
        let sent = writer.join().expect("the writer");
        eventually("all of it", || world.has_passed(KINDS_OUTPUTS, sent));
        service.expect("it runs").stop();
        (sent, reader.join().expect("the reader"))
    });
    println!("{sent} records, {polls} looks");
    assert!(polls > 20, "{polls}");
    assert_no_trace(&world);
    assert_made_anew(&world);
}

#[test]
fn a_rebuild_that_is_given_up_leaves_no_trace_and_one_that_is_killed_goes_on() {
    const TAPS: i64 = 60_000;
    let Some(world) = world_of_kinds("replay_abort", 2) else { return };
    let mut random = SmallRng::seed_from_u64(17);
    world.produce(disordered(0..TAPS, &mut random));
    world.run_until_caught_up();
    let before = everything(&world);
    slowly(&world);
    let begin = |model| {
        let replay = replaying(&world, &[model], &AT_ONCE);
        eventually("some of it", || half_done(&world) > 0);
        replay.signal(libc::SIGKILL);
        replay.wait();
        half_done(&world)
    };
    assert!(begin("refusing") < TAPS);
    let said = world.run(&["replay", "refusing", "--dry-run"]);
    assert!(said.contains("offsets are read from Kafka"), "{said}");
    // Half done, nothing of it disturbs the proof, nor the letters.
    assert_verified(&world);
    let (code, said) = Running::start(world.command(&["dead-letters", "retry"])).wait();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("model:refusing is being rebuilt"), "{said}");
    let said = world.run(&["replay", "refusing", "--abort"]);
    assert!(said.contains("is dropped"), "{said}");
    assert_no_trace(&world);
    assert_same(&everything(&world), &before);
    let said = world.run(&["replay", "refusing", "--abort"]);
    assert!(said.contains("no rebuild"), "{said}");

    let done = begin("by_stop");
    assert!(done < TAPS);
    let told = world.output(&["replay", "by_stop", "--json"]);
    let said = String::from_utf8_lossy(&told.stderr);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect(&said);
    assert_eq!(told["offsets"], TAPS - done, "{said}");
    assert_eq!(told["rows_written"], 0, "{said}");
    assert_same(&everything(&world), &before);

    // Two at the same time: the one that came last goes on.
    let first = replaying(&world, &["each"], &AT_ONCE);
    eventually("some of it", || half_done(&world) > 0);
    let second = replaying(&world, &["each"], &[]);
    let ((one, said), (other, told)) = (first.wait(), second.wait());
    assert!(one == Some(0) || other == Some(0), "{said}\n{told}");
    assert_no_trace(&world);
    assert_same(&everything(&world), &before);
}

#[test]
fn what_cannot_be_made_anew_is_refused_with_the_reason_and_changes_nothing() {
    let Some(world) = taps::world("replay_refused", 2, Lake::Local) else { return };
    refused(&world, &["replay", "by_stop"], 2, "no output of topic taps has begun");
    world.produce(records(0..4_000));
    world.run_until_caught_up();
    refused(
        &world,
        &["replay", "nobody"],
        2,
        "there is no model nobody. Declared: by_stop, paid_by_mode",
    );
    refused(&world, &["replay", "dead_letters"], 2, "models and lakes are made anew");
    refused(&world, &["replay", "lake:nobody"], 2, "Declared: lake:taps");
    refused(
        &world,
        &["replay", "paid_by_mode", "--from", "2026-03-01"],
        2,
        "cannot be taken apart",
    );
    let before = everything(&world);
    let said = world.run(&["replay", "by_stop", "--dry-run"]);
    for words in
        ["4000 offsets are read from Kafka", "rows of by_stop, where they differ", "records/s"]
    {
        assert!(said.contains(words), "no {words:?} in\n{said}");
    }
    assert_same(&everything(&world), &before);
    assert_no_trace(&world);
    forget(&world, 0, 10);
    refused(&world, &["replay", "by_stop", "--dry-run"], 1, "cannot be rebuilt from Kafka");
    refused(&world, &["replay", "by_stop"], 1, "cannot be rebuilt from Kafka");
    world.run(&["replay", "by_stop", "--abort"]);
    assert_same(&everything(&world), &before);
    assert_no_trace(&world);
    assert_tables(&world, taps(0..4_000));
}

#[test]
fn a_changed_model_is_rebuilt_beside_the_old_one_and_old_processes_are_kept_from_it() {
    let Some(world) = taps::world("replay_changed", 3, Lake::Local) else { return };
    let topic = taps::TOPIC.replace("[lake]", "[lake]\nroll = { age = \"300ms\" }");
    world.declare("taps", &topic);
    let old = world.follow(&HURRY);
    world.produce(records(0..9_000));
    eventually("the first of it", || world.has_passed(OUTPUTS, 9_000));
    let role = format!("reader_of_{}", world.database);
    world.query(&format!("CREATE ROLE {role}; GRANT SELECT ON by_stop, by_stop_final TO {role}"));

    let said = world.run(&["plan"]);
    assert!(said.contains("unchanged") && !said.contains(" changed"), "{said}");
    let changed = taps::BY_STOP
        .replace("count(*) AS taps", "count(*) AS taps, count(DISTINCT mode) AS modes")
        .replace("GROUP BY", "WHERE stop_id <> 'S00' GROUP BY");
    world.declare_model("by_stop", &changed);
    world.declare_model("by_mode_too", &taps::PAID_BY_MODE.replace("paid_by_mode", "by_mode_too"));
    let plan: serde_json::Value =
        serde_json::from_str(&world.run(&["plan", "--json"])).expect("JSON");
    let line = |output: &str| {
        let lines = plan.as_array().expect("lines");
        lines.iter().find(|line| line["output"] == output).expect(output).clone()
    };
    assert_eq!(line("model:by_stop")["state"], "changed", "{plan}");
    assert_eq!(line("model:by_stop")["reads_back"], 9_000, "{plan}");
    assert_eq!(line("model:paid_by_mode")["state"], "unchanged", "{plan}");
    assert_eq!(line("model:by_mode_too")["state"], "new", "{plan}");
    assert_eq!(line("model:by_mode_too")["reads_back"], 9_000, "{plan}");

    let (code, said) = Running::start(world.command(&["run", "--until-caught-up"])).wait();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("highwater run --apply"), "{said}");
    let (code, said) = Running::start(world.command(&["replay", "by_stop"])).wait();
    assert_eq!(code, Some(2), "{said}");
    assert_tables(&world, taps(0..9_000));

    world.produce(records(9_000..12_000));
    let mut command = world.command(&["run", "--apply"]);
    command.envs(HURRY);
    let new = Running::start(command);
    let rebuilt = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'by_stop' AND column_name = 'modes'";
    eventually("the swap", || world.number(rebuilt) == 1);
    world.produce(records(12_000..15_000));
    // What it has still of the partitions is fenced; it takes anew, and finds that the table is another one's.
    let (code, said) = old.wait();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another definition"), "{said}");
    eventually("all of it", || world.has_passed(OUTPUTS + 1, 15_000));
    new.stop();
    let expected = taps(0..15_000).filter(|tap| tap.stop() != "S00").count() as i64;
    assert_eq!(world.number("SELECT sum(taps) FROM by_stop"), expected);
    assert!(world.number("SELECT min(modes) FROM by_stop") >= 1);
    assert_eq!(
        world.number("SELECT sum(taps) FROM by_mode_too"),
        world.number("SELECT sum(taps) FROM paid_by_mode")
    );
    assert_no_trace(&world);
    let grants = format!(
        "SELECT count(*) FROM information_schema.table_privileges WHERE grantee = '{role}'"
    );
    assert_eq!(world.number(&grants), 2);
    world.query(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    assert_verified(&world);
    let said = world.run(&["plan"]);
    assert!(!said.contains(" changed"), "{said}");

    // Back again, with a model less.
    world.declare_model("by_stop", taps::BY_STOP);
    std::fs::remove_file(world.folder.path().join("models/by_mode_too.sql"))
        .expect("a model's file");
    let said = world.run(&["plan"]);
    assert!(said.contains("not declared"), "{said}");
    world.run(&["run", "--apply", "--until-caught-up"]);
    assert_tables(&world, taps(0..15_000));
    let left = world.query(
        "SELECT relname FROM pg_class WHERE relname LIKE 'by_stop\\_\\_%' AND relkind = 'r'",
    );
    assert_eq!(left, Rows::new(), "sets of the definition before");
    assert_verified(&world);
}
