//! Files of the lake written anew beside those that readers read: the same rows, whoever is killed; whole files
//! only; what was replaced goes when its grace is over.
//!
//! Each of these was planted once and is caught: the last record of a span left out; only the first partition written; a swap
//! that does not compare numbers of rows; retried rows left out; files left without their names after the swap.

use crate::{
    oyster::places_of,
    replay::{Ends, HURRY, Rows, assert_verified, disordered, first_column, replays},
    retention::forget,
    support::{Lake, Running, World, connect, eventually, runtime},
    taps::{self, OUTPUTS},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::sync::atomic::{AtomicBool, Ordering};

fn world_of_files(name: &str, partitions: i32, lake: Lake) -> Option<World> {
    let world = World::empty(name, partitions, lake)?;
    declare(&world, "[\"date(event_time)\", \"hour(event_time)\"]");
    world.declare_model("by_stop", taps::BY_STOP);
    world.declare_model("paid_by_mode", taps::PAID_BY_MODE);
    Some(world)
}

/// Many small files.
fn declare(world: &World, partition_by: &str) {
    let topic = taps::TOPIC.replace("[\"date(event_time)\", \"hour(event_time)\"]", partition_by);
    let topic = topic
        + "roll = { age = \"200ms\", bytes = \"4KiB\" }\n[dead_letters]\nstop_above = \"100%\"\n";
    world.declare("taps", &topic);
}

pub fn current_files(world: &World) -> Vec<String> {
    first_column(world.query("SELECT path FROM highwater.lake_current_files ORDER BY 1"))
}

/// What a reader of the lake gets, in order; each once.
fn places(world: &World) -> Vec<(i32, i64)> {
    let mut places = places_of(world, Some(&current_files(world)));
    let all = places.len();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), all, "each (_partition, _offset) once");
    places
}

/// What a replay of the lake must leave as it is.
fn judged(world: &World) -> Vec<Rows> {
    [
        "SELECT output, partition, first_offset, next_offset, epoch, accepted, filtered, late, dead, absent, duplicate
         FROM highwater.marks ORDER BY 1, 2",
        "SELECT * FROM highwater.refusals ORDER BY topic, output, partition, \"offset\"",
        "SELECT * FROM highwater.dead_letters ORDER BY topic, output, partition, \"offset\"",
        "SELECT * FROM by_stop ORDER BY 1, 2, 3",
        "SELECT * FROM paid_by_mode ORDER BY 1",
    ]
    .map(|sql| world.query(sql))
    .into()
}

pub fn written(world: &World) -> i64 {
    world.number(
        "SELECT coalesce(sum(next_offset - from_offset), 0) FROM highwater.lake_rewrite_spans",
    )
}

/// For [`World::slow_down`].
pub const PIECES: (&str, &str) = ("UPDATE ON highwater.lake_rewrite_spans", "");

/// Each piece takes its time.
fn slowly(world: &World) {
    world.slow_down(0.2, &[PIECES]);
}

/// Nothing of a rewrite is left but the files that wait out their grace.
pub fn assert_no_trace(world: &World) {
    let left = world.query(
        "SELECT topic FROM highwater.lake_rewrites UNION ALL SELECT topic FROM highwater.lake_rewrite_spans UNION ALL
         SELECT path FROM highwater.lake_rewrite_uploads UNION ALL SELECT path FROM highwater.lake_rewrite_files
         UNION ALL SELECT path FROM highwater.lake_uploads WHERE epoch < 0",
    );
    assert_eq!(left, Rows::new());
    let swept = world.run(&["sweep", "--older-than", "1ms", "--dry-run"]);
    assert!(swept.contains("0 uploads would be aborted; 0 staged objects and 0 files"), "{swept}");
}

fn refused(world: &World, arguments: &[&str], code: i32, words: &str) {
    let (found, said) = Running::start(world.command(arguments)).wait();
    assert_eq!(found, Some(code), "{said}");
    assert!(said.contains(words), "no {words:?} in\n{said}");
}

fn beside_live_traffic(lake: Lake) {
    const TAPS: i64 = 90_000;
    let Some(world) = world_of_files("replay_lake", 3, lake) else { return };
    let mut random = SmallRng::seed_from_u64(23);
    for begin in (0..TAPS).step_by(30_000) {
        world.produce(disordered(begin..begin + 30_000, &mut random));
        world.run_until_caught_up();
    }
    let (before, marks) = (places(&world), judged(&world));
    let old_files = current_files(&world);
    slowly(&world);
    let over = AtomicBool::new(false);
    let (sent, polls) = std::thread::scope(|scope| {
        let (over, world) = (&over, &world);
        let ends = Ends(over);
        let writer = scope.spawn(move || {
            let mut random = SmallRng::seed_from_u64(29);
            let mut sent = TAPS;
            while sent < TAPS + 5_000 || !over.load(Ordering::Relaxed) {
                world.produce(disordered(sent..sent + 100, &mut random));
                sent += 100;
            }
            sent
        });
        // Never fewer rows, and what was listed is there.
        let root = world.lake.strip_prefix("file://").map(std::path::PathBuf::from);
        let reader = scope.spawn(move || {
            let url = world.warehouse();
            runtime().block_on(async {
                let client = connect(&url).await;
                let (mut seen, mut polls, mut listed) = (1_i64, 0, Vec::<String>::new());
                while !over.load(Ordering::Relaxed) {
                    let sql = "SELECT path, (sum(rows) OVER ())::bigint FROM highwater.lake_current_files";
                    let rows = client.query(sql, &[]).await.expect("a reader is never refused");
                    let now: i64 = rows[0].get(1);
                    assert!(now >= seen, "{seen} rows, then {now}");
                    seen = now;
                    for path in &listed {
                        let there = root.as_ref().is_none_or(|root| root.join(path).exists());
                        assert!(there, "{path} of the listing before");
                    }
                    listed = rows.iter().map(|row| row.get(0)).collect();
                    polls += 1;
                }
                polls
            })
        });
        let service = world.follow(&HURRY);
        let mut kills = 0;
        for _ in 0..4 {
            let mut replay = Running::start(world.command(&["replay", "lake:taps"]));
            let until = written(world) + random.random_range(1..25_000);
            eventually("some of it, or all", || written(world) >= until || !replay.is_running());
            kills += i64::from(replay.is_running());
            replay.signal(libc::SIGKILL);
            replay.wait();
            if kills == 1 {
                // Half done it disturbs neither the proof nor the sweep.
                assert_verified(world);
                world.run(&["sweep", "--older-than", "1ms"]);
                refused(world, &["dead-letters", "retry"], 3, "lake:taps is being rebuilt");
            }
        }
        assert!(kills > 0);
        let said = world.run(&["replay", "lake:taps"]);
        assert!(said.contains("swapped in"), "{said}");
        drop(ends);
        let sent = writer.join().expect("the writer");
        eventually("all of it", || world.has_passed(OUTPUTS, sent));
        service.stop();
        (sent, reader.join().expect("the reader"))
    });
    println!("{sent} records, {polls} looks");
    assert!(polls > 20, "{polls}");
    assert_no_trace(&world);
    assert_verified(&world);
    let after = places(&world);
    let ends: Vec<i64> = marks[0]
        .iter()
        .filter(|row| row[0].as_deref() == Some("lake"))
        .map(|row| row[3].as_deref().expect("an offset").parse().expect("a number"))
        .collect();
    let of_before: Vec<_> = after.iter().filter(|(p, o)| *o < ends[*p as usize]).copied().collect();
    assert_eq!(of_before.len(), before.len());
    assert!(of_before == before, "the same offsets");
    let now = current_files(&world);
    assert!(old_files.iter().all(|old| !now.contains(old)), "every file was replaced");

    // Within their grace the old ones stay; repeated nothing changes but the files.
    world.run(&["sweep", "--older-than", "1ms"]);
    assert_eq!(places_of(&world, Some(&old_files)).len(), before.len());
    let judged_now = judged(&world);
    for arguments in [
        &["replay", "lake:taps", "--grace", "0s"][..],
        &["replay", "lake", "--from", "0:9000,2:20000", "--grace", "0s"],
    ] {
        world.run(arguments);
        assert!(places(&world) == after, "{arguments:?}");
        assert!(judged(&world) == judged_now, "{arguments:?}");
    }
    assert_verified(&world);
    world.query("UPDATE highwater.lake_retired_files SET remove_after = now()");
    let swept = world.run(&["sweep", "--older-than", "1ms"]);
    assert!(swept.contains("replaced taps/"), "{swept}");
    assert_eq!(world.number("SELECT count(*) FROM highwater.lake_retired_files"), 0);
    taps::assert_lake(&world, after.len() as i64);
    let verified = world.run(&["verify", "--deep"]);
    assert!(!verified.contains("grace"), "{verified}");
}

#[test]
fn files_written_anew_beside_live_traffic_hold_the_same_rows_whoever_is_killed() {
    beside_live_traffic(Lake::Local);
}

#[test]
fn files_written_anew_on_s3_hold_the_same_rows_whoever_is_killed() {
    beside_live_traffic(Lake::S3);
}

#[test]
fn a_replay_of_some_offsets_takes_whole_files_and_one_that_is_given_up_leaves_no_trace() {
    let Some(world) = world_of_files("replay_spans", 3, Lake::Local) else { return };
    let mut random = SmallRng::seed_from_u64(31);
    for begin in (0..24_000).step_by(3_000) {
        world.produce(disordered(begin..begin + 3_000, &mut random));
        world.run_until_caught_up();
    }
    let (before, marks, files) = (places(&world), judged(&world), current_files(&world));
    let span = ["replay", "lake:taps", "--from", "3000", "--to", "3001", "--partitions", "1"];
    let dry: Vec<&str> = span.iter().chain(&["--dry-run"]).copied().collect();
    let said = world.run(&dry);
    for words in [
        "taps/0",
        "more than was asked for",
        "offsets are read from Kafka",
        "records/s",
        "replaced: ",
    ] {
        assert!(said.contains(words), "no {words:?} in\n{said}");
    }
    assert_no_trace(&world);

    slowly(&world);
    let begin = |arguments: &[&str]| {
        let replay = Running::start(world.command(arguments));
        eventually("some of it", || written(&world) > 0);
        replay.signal(libc::SIGKILL);
        replay.wait();
    };
    begin(&["replay", "lake:taps"]);
    let told = &replays(&world)[0];
    assert_eq!(told["output"], "lake");
    let all = "SELECT sum(to_offset - from_offset) FROM highwater.lake_rewrite_spans";
    assert_eq!(told["of"].as_i64(), Some(world.number(all)), "{told}");
    assert_eq!(told["done"].as_i64(), Some(written(&world)), "{told}");
    let said = world.run(&["replay", "lake:taps", "--abort"]);
    assert!(said.contains("is dropped"), "{said}");
    assert_no_trace(&world);
    assert_eq!(current_files(&world), files);
    let said = world.run(&["replay", "lake:taps", "--abort"]);
    assert!(said.contains("no rebuild"), "{said}");

    // Two at the same time: the one that came last goes on.
    let first = Running::start(world.command(&["replay", "lake:taps"]));
    eventually("some of it", || written(&world) > 0);
    let second = Running::start(world.command(&["replay", "lake:taps"]));
    let ((one, said), (other, told)) = (first.wait(), second.wait());
    assert!(one == Some(0) || other == Some(0), "{said}\n{told}");

    let whole = current_files(&world).len();
    for arguments in
        [&span[..], &span[..], &["replay", "lake:taps", "--from", "2026-03-01T06:20:00Z"]]
    {
        world.run(arguments);
        assert_no_trace(&world);
        assert!(places(&world) == before, "{arguments:?}");
        assert!(judged(&world) == marks, "{arguments:?}");
        assert_verified(&world);
    }
    assert!(current_files(&world).len() <= whole);
    let said = world.run(&["replay", "lake:taps", "--from", "900000"]);
    assert!(said.contains("nothing is to be done"), "{said}");
}

#[test]
fn killed_between_swap_and_names_a_reader_gets_the_files_of_before_until_a_sweep_names_the_new() {
    let Some(world) = world_of_files("replay_unnamed", 2, Lake::Local) else { return };
    let mut random = SmallRng::seed_from_u64(61);
    for begin in (0..9_000).step_by(3_000) {
        world.produce(disordered(begin..begin + 3_000, &mut random));
        world.run_until_caught_up();
    }
    let (before, files) = (places(&world), current_files(&world));
    // Nothing can be noted as completed.
    world.query(
        "CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN RAISE EXCEPTION ''not now'' USING ERRCODE = ''57P03''; END';
         CREATE TRIGGER refuses BEFORE UPDATE ON highwater.lake_files FOR EACH ROW EXECUTE FUNCTION refuses()",
    );
    let replay = Running::start(world.command(&["replay", "lake:taps", "--grace", "0s"]));
    let waits = "SELECT count(*) FROM highwater.lake_files WHERE completed_at IS NULL";
    eventually("the swap", || world.number(waits) > 0);
    replay.signal(libc::SIGKILL);
    replay.wait();
    assert!(world.number("SELECT count(*) FROM highwater.lake_retired_files") > 0);
    assert_eq!(current_files(&world), files);
    assert!(places(&world) == before);
    let verified = world.run(&["verify", "--deep"]);
    assert!(verified.contains("waits to be completed"), "{verified}");
    // Nothing of before goes while what replaces it is not there.
    let swept = world.run(&["sweep", "--older-than", "1ms", "--dry-run"]);
    assert!(swept.contains("0 staged objects and 0 files would be"), "{swept}");
    world.query("DROP TRIGGER refuses ON highwater.lake_files");
    world.run(&["sweep", "--older-than", "1ms"]);
    assert!(places(&world) == before);
    assert!(current_files(&world) != files);
    taps::assert_lake(&world, before.len() as i64);
    assert_verified(&world);
    assert_no_trace(&world);
}

/// As when Kafka's log had lost a record, or a letter had been retried meanwhile.
#[test]
fn a_swap_that_would_bring_other_numbers_of_rows_is_refused() {
    let Some(world) = world_of_files("replay_fewer", 2, Lake::Local) else { return };
    let mut random = SmallRng::seed_from_u64(71);
    for begin in (0..6_000).step_by(3_000) {
        world.produce(disordered(begin..begin + 3_000, &mut random));
        world.run_until_caught_up();
    }
    let (before, files) = (places(&world), current_files(&world));
    let (partition, offset) = before[before.len() / 2];
    let place = format!(
        "topic = 'taps' AND output = 'lake' AND partition = {partition} AND \"offset\" = {offset}"
    );
    assert_eq!(world.number(&format!("SELECT count(*) FROM highwater.refusals WHERE {place}")), 0);
    world.query(&format!(
        "INSERT INTO highwater.refusals (topic, output, partition, \"offset\", letter, by_decode, generation)
         VALUES ('taps', 'lake', {partition}, {offset}, 'dead_letters', true, 1)"
    ));
    refused(&world, &["replay", "lake:taps"], 1, "The lake stays as it is");
    world.query(&format!("DELETE FROM highwater.refusals WHERE {place}"));
    assert!(places(&world) == before);
    assert_eq!(current_files(&world), files);
    world.run(&["replay", "lake:taps", "--abort"]);
    assert_no_trace(&world);
    assert_verified(&world);
}

#[test]
fn todays_topic_file_writes_the_files_and_takes_neither_more_nor_fewer_records() {
    let Some(world) = world_of_files("replay_layout", 2, Lake::Local) else { return };
    let topic = world.folder.path().join("topics/taps.toml");
    let text = std::fs::read_to_string(&topic).expect("the topic file");
    let write = |text: &str| std::fs::write(&topic, text).expect("the topic file");
    // Which no model reads.
    let paid = "[columns]\npaid = { type = \"bigint\", from = \"/fareCents\", optional = true }";
    let text = text.replace("[columns]", paid);
    let strict = text.replace("/fareCents\", optional = true", "/fareCents\", optional = false");
    let with_device = |text: &str| {
        text.replace("[columns]", "[columns]\ndevice = { type = \"text\", optional = true }")
    };
    write(&strict);
    let mut random = SmallRng::seed_from_u64(37);
    for begin in (0..12_000).step_by(4_000) {
        world.produce(disordered(begin..begin + 4_000, &mut random));
        world.run_until_caught_up();
    }
    let before = places(&world);

    // What is good now stays a dead letter: whether it is taken is another matter.
    write(&text);
    world.run(&["replay", "lake:taps"]);
    assert!(places(&world) == before);
    assert_verified(&world);
    world.run(&["dead-letters", "retry"]);
    let of_retries = "SELECT count(*) FROM highwater.lake_files WHERE origin = 'retry'";
    assert!(world.number(of_retries) > 0);
    let with_retried = places(&world);
    assert!(with_retried.len() > before.len());

    // A topic file that refuses what the lake has.
    write(&strict);
    let words = "which today's topic file refuses (missing, column paid";
    refused(&world, &["replay", "lake:taps"], 1, words);
    write(&text);
    assert_verified(&world);
    write(&with_device(&text));
    refused(&world, &["replay", "lake:taps"], 2, "by another topic file stands half done");
    world.run(&["replay", "lake:taps", "--abort"]);
    assert_no_trace(&world);

    // A column more, which files of before do not have, and other paths. Rows of retries come among the others.
    refused(&world, &["verify", "--deep"], 1, "has no column device");
    world.run(&["replay", "lake:taps"]);
    assert_verified(&world);
    assert!(places(&world) == with_retried);
    assert_eq!(world.number(of_retries), 0);
    write(&with_device(&text).replace("\"hour(event_time)\"", "\"mode\""));
    world.run(&["replay", "lake:taps", "--from", "1:0", "--grace", "0s"]);
    assert!(current_files(&world).iter().any(|path| path.contains("/mode=tram/")));
    world.run(&["sweep", "--older-than", "1ms"]);
    assert!(places(&world) == with_retried);
    assert_verified(&world);
    assert_no_trace(&world);
}

#[test]
fn what_kafka_has_no_more_is_refused_and_what_it_has_can_be_written() {
    let Some(world) = world_of_files("replay_gone", 2, Lake::Local) else { return };
    let mut random = SmallRng::seed_from_u64(41);
    for begin in (0..12_000).step_by(3_000) {
        world.produce(disordered(begin..begin + 3_000, &mut random));
        world.run_until_caught_up();
    }
    let (before, files) = (places(&world), current_files(&world));
    forget(&world, 0, 100);
    refused(&world, &["replay", "lake:taps", "--dry-run"], 1, "Kafka begins at 100");
    refused(&world, &["replay", "lake:taps"], 1, "Kafka begins at 100");
    world.run(&["replay", "lake:taps", "--abort"]);
    assert_no_trace(&world);
    assert_eq!(current_files(&world), files);
    let said = world.run(&["replay", "lake:taps", "--from", "5500"]);
    assert!(said.contains("swapped in"), "{said}");
    assert!(places(&world) == before);
    assert_verified(&world);
}
