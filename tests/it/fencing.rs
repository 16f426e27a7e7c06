//! Owners that come back, and what dead ones leave: nothing changes that was committed, nothing stays
//! that nobody needs.

use crate::{
    proxy::{Fault, Proxy},
    support::{Lake, Running, World, eventually, produce},
    taps::{self, OUTPUTS, assert_lake, assert_tables, records, taps},
};
use futures::TryStreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, local::LocalFileSystem, path::Path,
    prefix::PrefixStore,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

/// Small cuts and small files: some cut of each lane is always under way.
const HURRY: [(&str, &str); 2] =
    [("HIGHWATER_COMMIT_INTERVAL", "40ms"), ("HIGHWATER_CATCH_UP_INTERVAL", "40ms")];

fn hurried(name: &str, lake: Lake) -> Option<World> {
    let world = taps::world(name, 3, lake)?;
    let small = "[lake]\nroll = { bytes = \"1MiB\", age = \"100ms\" }";
    world.declare("taps", &taps::TOPIC.replace("[lake]", small));
    Some(world)
}

/// The lake as the store itself shows it, hidden objects and all.
fn bucket(world: &World) -> Arc<dyn ObjectStore> {
    if let Some(root) = world.lake.strip_prefix("file://") {
        return Arc::new(LocalFileSystem::new_with_prefix(root).expect("a folder"));
    }
    let variable = |name| std::env::var(name).unwrap_or_default();
    let store = AmazonS3Builder::new()
        .with_endpoint(&world.services.s3)
        .with_allow_http(true)
        .with_bucket_name(&world.services.bucket)
        .with_access_key_id(variable("AWS_ACCESS_KEY_ID"))
        .with_secret_access_key(variable("AWS_SECRET_ACCESS_KEY"))
        .build()
        .expect("a store");
    Arc::new(PrefixStore::new(store, world.kafka_topic.as_str()))
}

/// Of each object its bytes, tag and time.
type Listing = BTreeMap<String, (u64, Option<String>, String)>;

fn list(world: &World) -> Listing {
    let objects = world.runtime.block_on(bucket(world).list(None).try_collect::<Vec<_>>());
    let entry = |o: object_store::ObjectMeta| {
        (o.location.to_string(), (o.size, o.e_tag, o.last_modified.to_rfc3339()))
    };
    objects.expect("a listing").into_iter().map(entry).collect()
}

fn visible(listing: &Listing) -> Listing {
    let shown = |(path, _): &(&String, &_)| !path.starts_with(".highwater/");
    listing.iter().filter(shown).map(|(path, of)| (path.clone(), of.clone())).collect()
}

fn staged(listing: &Listing) -> Vec<String> {
    listing.keys().filter(|path| path.starts_with(".highwater/")).cloned().collect()
}

/// Everything that a cut changes: tables, dead letters, manifest and marks, without who owns them.
fn committed(world: &World) -> Vec<Vec<Vec<Option<String>>>> {
    [
        "SELECT output, topic, partition, first_offset, next_offset, event_time_max, accepted,
                filtered, late, dead, absent, sequence, committed_at
         FROM highwater.marks ORDER BY 1, 2, 3",
        "SELECT f::text FROM highwater.lake_files f ORDER BY path",
        "SELECT r::text FROM highwater.lake_file_ranges r ORDER BY path, partition",
        "SELECT d::text FROM highwater.dead_letters d ORDER BY topic, partition, \"offset\", output",
        "SELECT t.xmin, t.ctid, t::text FROM by_stop t ORDER BY t::text",
        "SELECT t.xmin, t.ctid, t::text FROM paid_by_mode t ORDER BY t::text",
    ]
    .map(|sql| world.query(sql))
    .to_vec()
}

fn passed(world: &World) -> i64 {
    let sql = "SELECT coalesce(sum(next_offset), 0) FROM highwater.marks WHERE output = 'lake'";
    match world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") {
        0 => 0,
        _ => world.number(sql),
    }
}

fn owed(world: &World) -> i64 {
    world.number("SELECT count(*) FROM highwater.lake_files WHERE completed_at IS NULL")
}

fn notes(world: &World) -> i64 {
    world.number("SELECT count(*) FROM highwater.lake_uploads")
}

/// Produces without pause until it is told to stop.
struct Stream {
    produced: Arc<AtomicI64>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Stream {
    fn start(world: &World, from: i64) -> Self {
        let (produced, done) = (Arc::new(AtomicI64::new(from)), Arc::new(AtomicBool::new(false)));
        let (brokers, topic) = (world.services.kafka.clone(), world.kafka_topic.clone());
        let (count, end) = (produced.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let from = count.load(Ordering::Relaxed);
                produce(&brokers, &topic, records(from..from + 200));
                count.store(from + 200, Ordering::Relaxed);
            }
        });
        Self { produced, done, thread }
    }

    fn end(self) -> i64 {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().expect("produced");
        self.produced.load(Ordering::Relaxed)
    }
}

/// What a process is in the middle of when it is stopped.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Within {
    /// An upload that is noted, and perhaps sealed; not committed.
    Upload,
    /// A cut that is committed and whose files have no names yet.
    Completion,
    /// A transaction that holds marks.
    Transaction,
    Whatever,
}

impl Within {
    fn holds(self, world: &World) -> bool {
        match self {
            Self::Upload => notes(world) > 0,
            Self::Completion => owed(world) > 0,
            Self::Transaction => {
                world.number(&format!(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'highwater'
                     AND datname = '{}' AND state LIKE 'idle in transaction%'",
                    world.database
                )) > 0
            }
            Self::Whatever => true,
        }
    }
}

/// Stopped in the middle of its cuts, taken over from, and woken: again and again.
fn zombie(name: &str, lake: Lake, rounds: &[Within]) {
    let Some(world) = hurried(name, lake) else { return };
    let mut random = SmallRng::seed_from_u64(0x00f2_0f2e);
    // What it stages after it was aborted is left to its sweep.
    let mut settings = HURRY.to_vec();
    settings.extend([("HIGHWATER_SWEEP_INTERVAL", "1s"), ("HIGHWATER_SWEEP_AGE", "1s")]);
    let first = world.follow(&settings);
    let mut to = 0;
    for (round, within) in rounds.iter().enumerate() {
        let stream = Stream::start(&world, to);
        let at = to + random.random_range(1_000..6_000);
        eventually("a random place", || passed(&world) >= at);
        eventually("the middle of a cut", || {
            first.signal(libc::SIGSTOP);
            let stopped = within.holds(&world);
            if !stopped {
                first.signal(libc::SIGCONT);
            }
            stopped
        });
        let held = (notes(&world), owed(&world));
        let begun = Instant::now();
        let stood = passed(&world);
        let second = world.follow(&HURRY);
        eventually("the second takes over", || passed(&world) > stood);
        to = stream.end();
        eventually("the second has finished", || {
            world.has_passed(OUTPUTS, to) && owed(&world) == 0 && notes(&world) == 0
        });
        let taken = begun.elapsed();
        second.stop();
        let (before, there) = (committed(&world), list(&world));
        // A request of the first that was on its way may have ended after its upload was aborted: what
        // is staged then is the sweep's.
        let owners = "SELECT count(*) FROM highwater.marks WHERE epoch > 0 AND owner <> ";
        let owner = world.query("SELECT DISTINCT owner FROM highwater.marks");
        let owner = owner[0][0].clone().expect("an owner");
        let woken = Instant::now();
        first.signal(libc::SIGCONT);
        eventually("the first holds everything again", || {
            world.number(&format!("{owners}'{owner}'")) == OUTPUTS * 3
        });
        eventually("it has tidied what it left", || {
            notes(&world) == 0 && staged(&list(&world)).is_empty()
        });
        println!(
            "stopped within {within:?} with (notes, owed) {held:?}: the second had finished after \
             {taken:?}, the first was back {:?} after it woke",
            woken.elapsed()
        );
        assert_eq!(committed(&world), before, "round {round}: PostgreSQL");
        assert_eq!(visible(&list(&world)), visible(&there), "round {round}: the lake");
    }
    // Both work on, side by side.
    let second = world.follow(&HURRY);
    let all = to + 20_000;
    for from in (to..all).step_by(2_000) {
        world.produce(records(from..from + 2_000));
    }
    eventually("all of it", || world.has_passed(OUTPUTS, all) && owed(&world) == 0);
    first.stop();
    second.stop();
    assert_tables(&world, taps(0..all));
    assert_lake(&world, all);
    world.assert_proof();
    let text = world.run(&["verify", "--deep"]);
    assert!(text.contains("everything holds"), "{text}");
}

#[test]
fn a_process_stopped_within_its_cuts_changes_nothing_when_it_wakes_on_s3() {
    use Within::{Completion, Transaction, Upload, Whatever};
    let rounds = [Upload, Completion, Transaction, Upload, Completion, Whatever];
    zombie("zombie_s3", Lake::S3, &rounds);
}

#[test]
fn a_process_stopped_within_its_cuts_changes_nothing_when_it_wakes_on_a_local_lake() {
    use Within::{Completion, Transaction, Upload, Whatever};
    zombie("zombie_local", Lake::Local, &[Upload, Completion, Transaction, Whatever]);
}

const OWED: i64 = 50;

#[test]
fn a_restart_over_fifty_unfinished_uploads_commits_at_once() {
    let Some(world) = hurried("unfinished", Lake::S3) else { return };
    let host = world.services.s3.trim_start_matches("http://").trim_end_matches('/');
    let proxy = Proxy::start(&world.runtime, host);
    let endpoint = format!("http://{}", proxy.address);
    let mut settings = HURRY.to_vec();
    settings.push(("AWS_ENDPOINT", &endpoint));
    // Committed, and never copied to their names.
    proxy.set(Fault::NoCopy);
    let service = world.follow(&settings);
    let mut produced = 0;
    eventually("files that are owed", || {
        world.produce(records(produced..produced + 500));
        produced += 500;
        let there = "SELECT count(*) FROM pg_tables WHERE tablename = 'lake_files'";
        world.number(there) == 1 && owed(&world) >= OWED
    });
    service.signal(libc::SIGKILL);
    service.wait();
    let left = owed(&world);

    // Another group, so that nothing waits for the dead process's session.
    let group = format!("{}_again", world.group);
    settings.push(("HIGHWATER_GROUP", &group));
    let began = world.query("SELECT clock_timestamp()")[0][0].clone().expect("now");
    let mut again = world.follow(&settings);
    world.produce(records(produced..produced + 3_000));
    let first = |lane: &str| {
        format!(
            "SELECT coalesce((1000 * extract(epoch FROM min(committed_at) - '{began}'::timestamptz))::bigint, -1)
             FROM highwater.marks WHERE (output = 'lake') = {lane} AND committed_at > '{began}'"
        )
    };
    let (mut tables, mut lake) = (-1, -1);
    eventually("a commit of each lane", || {
        tables = if tables < 0 { world.number(&first("false")) } else { tables };
        lake = if lake < 0 { world.number(&first("true")) } else { lake };
        tables >= 0 && lake >= 0
    });
    assert!(owed(&world) >= left, "nothing could be copied yet");
    eventually("what it waits for is told", || {
        let why = again.status()["topics"][0]["last_error"].clone();
        why.as_str().is_some_and(|why| why.contains("not copied to its place"))
    });
    let copied = Instant::now();
    proxy.set(Fault::None);
    eventually("everything has its name", || {
        world.has_passed(OUTPUTS, produced + 3_000) && owed(&world) == 0
    });
    println!(
        "{left} files owed: first commit of the tables {tables} ms and of the lake {lake} ms after the \
         start; all copied {:?} after that was possible",
        copied.elapsed()
    );
    assert!(tables < 10_000 && lake < 10_000, "{tables} ms, {lake} ms");
    again.stop();
    assert_tables(&world, taps(0..produced + 3_000));
    assert_lake(&world, produced + 3_000);
    assert!(world.run(&["verify", "--deep"]).contains("everything holds"));
}

/// What nobody knows, what somebody knows, and what is none of ours.
struct Planted {
    mine: Path,
    foreign: Path,
    noted: Path,
    orphan: Path,
    other: [Path; 2],
}

fn plant(world: &World) -> Planted {
    let id = world.query("SELECT id::text FROM highwater.warehouse_id")[0][0].clone().expect("id");
    let name = || uuid::Uuid::new_v4().to_string();
    let noted = format!("{id}.{}", name());
    let upload = if world.lake.starts_with("s3://") { "/an-upload" } else { "" };
    world.query(&format!(
        "INSERT INTO highwater.lake_uploads
         SELECT '{noted}{upload}', topic, 'taps/slow.parquet', partition, epoch, now()
         FROM highwater.marks WHERE output = 'lake' AND partition = 0"
    ));
    let staging = ".highwater/staging";
    let planted = Planted {
        mine: Path::from(format!("{staging}/{id}.{}", name())),
        foreign: Path::from(format!("{staging}/{}.{}", name(), name())),
        noted: Path::from(format!("{staging}/{noted}")),
        orphan: Path::from("taps/date=2026-03-01/orphan.parquet"),
        other: [Path::from("taps/README.txt"), Path::from("elsewhere/x.parquet")],
    };
    let all = [&planted.mine, &planted.foreign, &planted.noted, &planted.orphan];
    for path in all.into_iter().chain(&planted.other) {
        let put = async { bucket(world).put(path, "left over".into()).await };
        world.runtime.block_on(put).expect("put");
    }
    planted
}

fn there(world: &World, path: &Path) -> bool {
    list(world).contains_key(path.as_ref())
}

fn sweeps(name: &str, lake: Lake) {
    let Some(world) = hurried(name, lake) else { return };
    world.produce(records(0..5_000));
    world.run_until_caught_up();
    let untouched = visible(&list(&world));
    let planted = plant(&world);

    let text = world.run(&["sweep"]);
    assert!(text.contains("0 uploads aborted; 0 staged objects and 0 files removed"), "{text}");
    // S3 dates to the second.
    let young = ["sweep", "--older-than", "1ms", "--dry-run", "--json"];
    let mut report = serde_json::Value::Null;
    eventually("old enough", || {
        report = serde_json::from_str(&world.run(&young)).expect("JSON");
        report["staged"].as_array().map(Vec::len) == Some(1)
            && report["files"].as_array().map(Vec::len) == Some(1)
    });
    assert!(planted.mine.as_ref().ends_with(report["staged"][0]["name"].as_str().expect("name")));
    assert_eq!(report["files"][0]["name"], planted.orphan.as_ref());
    assert!(there(&world, &planted.mine) && there(&world, &planted.orphan), "only said");

    let text = world.run(&["sweep", "--older-than", "1ms"]);
    assert!(text.contains("1 staged objects and 1 files removed"), "{text}");
    assert!(!there(&world, &planted.mine) && !there(&world, &planted.orphan));
    for path in [&planted.foreign, &planted.noted, &planted.other[0], &planted.other[1]] {
        assert!(there(&world, path), "{path} is not ours to remove");
    }
    for path in &planted.other {
        world.runtime.block_on(bucket(&world).delete(path)).expect("delete");
    }
    assert_eq!(visible(&list(&world)), untouched);

    // The service by itself, under way: only what is staged and known to nobody.
    let planted = plant(&world);
    let mut settings = HURRY.to_vec();
    settings.extend([("HIGHWATER_SWEEP_INTERVAL", "50ms"), ("HIGHWATER_SWEEP_AGE", "1ms")]);
    let mut service = world.follow(&settings);
    for from in (5_000..25_000).step_by(1_000) {
        world.produce(records(from..from + 1_000));
        eventually("committed", || world.has_passed(OUTPUTS, from + 1_000));
    }
    eventually("the leftover goes", || !there(&world, &planted.mine));
    assert!(there(&world, &planted.orphan), "a visible file needs an operator's word");
    assert!(there(&world, &planted.foreign));
    let (_, scrape) = service.get("/metrics");
    let swept = "highwater_swept_total{what=\"staged\"} ";
    let swept = scrape.lines().find_map(|line| line.strip_prefix(swept));
    assert!(swept.is_some_and(|n| n.parse::<f64>().expect("a number") >= 1.0), "{scrape}");
    service.stop();
    for path in [&planted.orphan, &planted.other[0], &planted.other[1]] {
        world.runtime.block_on(bucket(&world).delete(path)).expect("delete");
    }
    assert_tables(&world, taps(0..25_000));
    assert_lake(&world, 25_000);
    assert!(world.run(&["verify", "--deep"]).contains("everything holds"));
}

#[test]
fn a_sweep_removes_from_s3_what_nobody_knows_and_nothing_else() {
    sweeps("sweep_s3", Lake::S3);
}

#[test]
fn a_sweep_removes_from_a_directory_what_nobody_knows_and_nothing_else() {
    sweeps("sweep_local", Lake::Local);
}

/// What the service says while the lake refuses it, and that it goes on by itself afterwards.
#[test]
fn a_lake_that_may_not_be_written_for_a_while_is_waited_for_and_told() {
    let Some(world) = hurried("denied", Lake::Local) else { return };
    let mut service: Running = world.follow(&HURRY);
    world.produce(records(0..2_000));
    eventually("the first of it", || world.has_passed(OUTPUTS, 2_000) && owed(&world) == 0);
    let root = world.lake.strip_prefix("file://").expect("local").to_owned();
    // A superuser may write anywhere: the folder goes away instead, as when it is unmounted.
    std::fs::rename(&root, format!("{root}.away")).expect("away");
    world.produce(records(2_000..4_000));
    eventually("the tables go on, the lake is told", || {
        let status = service.status();
        let topic = &status["topics"][0];
        assert!(topic["stopped"].is_null(), "{topic}");
        let told = topic["last_error"].as_str().is_some_and(|why| why.contains("bring it back"));
        told && world.has_passed(OUTPUTS - 1, 4_000)
    });
    assert!(service.is_running());
    std::fs::rename(format!("{root}.away"), &root).expect("back");
    eventually("all of it", || world.has_passed(OUTPUTS, 4_000) && owed(&world) == 0);
    service.stop();
    assert_tables(&world, taps(0..4_000));
    assert_lake(&world, 4_000);
    world.assert_proof();
}
