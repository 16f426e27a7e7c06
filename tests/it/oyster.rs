//! The main job on real input: one Sunday of London's taps, exactly, whatever happens on the way.

use crate::support::{Lake, Running, World, data, eventually, lines};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use highwater::lake::store::Store;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{collections::BTreeSet, path::Path, time::Duration};

pub const TAPS: i64 = 217_790;
pub const PARTITIONS: i32 = 6;
const MODELS: [&str; 3] = ["oyster_hourly_by_kind", "oyster_product_daily", "oyster_stop_15m"];

pub fn world(name: &str, lake: Lake) -> Option<(World, Vec<String>, std::path::PathBuf)> {
    let data = data()?;
    let world = World::new(name, PARTITIONS, lake, "oyster_taps", &MODELS)?;
    let taps = lines(&data.join("oyster_sunday_taps.jsonl.zst"));
    assert_eq!(taps.len() as i64, TAPS);
    Some((world, taps, data))
}

pub fn keyed(tap: &str) -> (String, String) {
    let value: serde_json::Value = serde_json::from_str(tap).expect("JSON");
    (value["tokenId"].as_str().expect("tokenId").to_owned(), tap.to_owned())
}

/// A CSV with a header, quoted where it must be; an empty cell is NULL.
fn csv(path: &Path) -> Vec<Vec<Option<String>>> {
    let text = match path.extension().is_some_and(|extension| extension == "gz") {
        true => {
            std::process::Command::new("gzip").arg("-dc").arg(path).output().expect("gzip").stdout
        }
        false => std::fs::read(path).expect("csv"),
    };
    let text = String::from_utf8(text).expect("csv");
    text.lines()
        .skip(1)
        .map(|line| {
            let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
            for c in line.chars() {
                match c {
                    '"' => quoted = !quoted,
                    ',' if !quoted => cells.push(std::mem::take(&mut cell)),
                    c => cell.push(c),
                }
            }
            cells.push(cell);
            cells.into_iter().map(|c| (!c.is_empty()).then_some(c)).collect()
        })
        .collect()
}

/// Of the Sunday: a week later others may follow.
pub fn assert_tables(world: &World, data: &Path) {
    let hourly = world.query(
        "SELECT to_char(window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), kind, taps, fare,
                fare_min, fare_max
         FROM oyster_hourly_by_kind WHERE window_start < '2009-11-15' ORDER BY window_start, kind",
    );
    assert_eq!(hourly, csv(&data.join("oyster_sunday_hourly_by_kind.csv")));
    let daily = world.query(
        "SELECT service_date, product, taps, fare, fare_avg FROM oyster_product_daily WHERE service_date < '2009-11-15'
         ORDER BY service_date, product COLLATE \"C\"",
    );
    let mut expected = csv(&data.join("oyster_sunday_product_daily.csv"));
    expected.sort();
    assert_eq!(daily.len(), expected.len());
    for (found, wanted) in daily.iter().zip(&expected) {
        assert_eq!(found[..4], wanted[..4]);
        let number = |cell: &Option<String>| cell.as_ref().and_then(|c| c.parse::<f64>().ok());
        assert_eq!(number(&found[4]), number(&wanted[4]), "{wanted:?}");
    }
    let mut quarters = world.query(
        "SELECT to_char(window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), stop_id, taps, riders
         FROM oyster_stop_15m WHERE window_start < '2009-11-15'",
    );
    let mut expected = csv(&data.join("oyster_sunday_stop_15m.csv.gz"));
    quarters.sort();
    expected.sort();
    assert!(expected.len() > 10_000);
    assert_eq!(quarters.len(), expected.len());
    for (found, wanted) in quarters.iter().zip(&expected) {
        assert_eq!(found, wanted);
    }
    let values = world.number("SELECT count(*) FROM oyster_stop_15m__riders");
    assert_eq!(values, world.number("SELECT sum(riders) FROM oyster_stop_15m"), "values counted");
}

/// Every row of every visible file: (`_partition`, `_offset`), and the file's hive path holds.
pub fn lake_places(world: &World) -> Vec<(i32, i64)> {
    places_of(world, None)
}

/// The same of these files.
pub fn places_of(world: &World, only: Option<&[String]>) -> Vec<(i32, i64)> {
    let mut places = Vec::new();
    rows_of(world, only, |path, batch, place| {
        places.extend((0..batch.num_rows()).map(place));
        let kind = path.split('/').find_map(|level| level.strip_prefix("kind="));
        if let Some(kind) = kind {
            let kinds = batch.column_by_name("kind").expect("kind").clone();
            let kinds = kinds.as_string::<i32>();
            assert!((0..kinds.len()).all(|row| kinds.value(row) == kind), "{path}");
        }
    });
    places
}

/// Hears path and rows of each, and which place a row has.
pub fn rows_of(
    world: &World,
    only: Option<&[String]>,
    mut hear: impl FnMut(&str, &RecordBatch, &dyn Fn(usize) -> (i32, i64)),
) {
    let options = [
        ("AWS_ENDPOINT", world.services.s3.clone()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", std::env::var("AWS_ACCESS_KEY_ID").unwrap_or_default()),
        ("AWS_SECRET_ACCESS_KEY", std::env::var("AWS_SECRET_ACCESS_KEY").unwrap_or_default()),
        ("AWS_REGION", std::env::var("AWS_REGION").unwrap_or_default()),
    ];
    let options: Vec<_> = options.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let store = Store::open(&world.lake, &options).expect("lake");
    let files = world.runtime.block_on(store.list("")).expect("list");
    for (path, size) in files {
        if only.is_some_and(|only| !only.contains(&path)) {
            continue;
        }
        let bytes = world.runtime.block_on(store.read(&path)).expect("read");
        assert_eq!(bytes.len() as u64, size);
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect(&path);
        for batch in reader.build().expect("reader") {
            let batch = batch.expect("batch");
            let column = |name| batch.column_by_name(name).expect(name).clone();
            let (partitions, offsets) = (column("_partition"), column("_offset"));
            let partitions = partitions.as_primitive::<Int32Type>().values();
            let offsets = offsets.as_primitive::<Int64Type>().values();
            hear(&path, &batch, &|row| (partitions[row], offsets[row]));
        }
    }
}

fn assert_lake(world: &World, rows: i64) {
    let places = lake_places(world);
    assert_eq!(places.len() as i64, rows, "rows in the lake");
    let distinct: BTreeSet<_> = places.iter().collect();
    assert_eq!(distinct.len() as i64, rows, "each (_partition, _offset) once");
    let recorded = world.number("SELECT sum(rows) FROM highwater.lake_files");
    assert_eq!(recorded, rows, "rows in the manifest");
    let owed = world.number("SELECT count(*) FROM highwater.lake_files WHERE completed_at IS NULL");
    assert_eq!(owed, 0, "files owed");
    let proof = world.run(&["verify", "--deep"]);
    assert!(proof.contains("everything holds") && proof.contains("3 tables rebuilt"), "{proof}");
}

fn the_sunday_is_exact(name: &str, lake: Lake) {
    let Some((world, taps, data)) = world(name, lake) else { return };
    world.produce(taps.iter().map(|tap| keyed(tap)));
    world.run_until_caught_up();
    assert_tables(&world, &data);
    assert_lake(&world, TAPS);
    world.assert_proof();

    let files = world.query("SELECT path, checksum FROM highwater.lake_files ORDER BY path");
    world.run_until_caught_up();
    assert_tables(&world, &data);
    assert_lake(&world, TAPS);
    let again = world.query("SELECT path, checksum FROM highwater.lake_files ORDER BY path");
    assert_eq!(files, again, "a second run adds nothing");
}

#[test]
fn the_sunday_is_exact_on_s3() {
    the_sunday_is_exact("oyster_s3", Lake::S3);
}

#[test]
fn the_sunday_is_exact_on_a_local_directory() {
    the_sunday_is_exact("oyster_local", Lake::Local);
}

/// Small, frequent cuts, so that a kill meets one at every stage of its life.
fn hurried(world: &World) -> std::process::Command {
    let mut command = world.command(&["run", "--until-caught-up"]);
    command
        .env("HIGHWATER_COMMIT_INTERVAL", "40ms")
        .env("HIGHWATER_CATCH_UP_INTERVAL", "40ms")
        .env("HIGHWATER_MEMORY", "128MiB")
        // Small fetches with a pause between them: a life lasts long enough to be ended.
        .args(["--kafka", "session.timeout.ms=6000,heartbeat.interval.ms=1000"])
        .args(["--kafka", "queued.min.messages=400,fetch.message.max.bytes=40000"])
        .args(["--kafka", "fetch.queue.backoff.ms=20"]);
    roll_often(world);
    command
}

pub fn roll_often(world: &World) {
    let file = world.folder.path().join("topics/oyster_taps.toml");
    let text = std::fs::read_to_string(&file).expect("topic file");
    if !text.contains("roll ") {
        let rolled =
            text.replace("[lake]", "[lake]\nroll = { bytes = \"64KiB\", age = \"100ms\" }");
        std::fs::write(&file, rolled).expect("topic file");
    }
}

fn killed_at_random_moments(name: &str, lake: Lake, seed: u64) {
    let Some((world, taps, data)) = world(name, lake) else { return };
    let mut random = SmallRng::seed_from_u64(seed);
    let marks = "SELECT coalesce(sum(next_offset), 0) FROM highwater.marks";
    let mut kills = 0;
    // Each life has a tenth of the day before it, and what lives before left.
    for tenth in taps.chunks(taps.len().div_ceil(10)) {
        world.produce(tenth.iter().map(|tap| keyed(tap)));
        let before = if kills == 0 { 0 } else { world.number(marks) };
        let mut process = Running::start(hurried(&world));
        // From its first commit on, at any moment of the next quarter of a second.
        eventually("a commit", || {
            world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 1
                && world.number(marks) > before
        });
        std::thread::sleep(Duration::from_millis(random.random_range(0..250)));
        kills += usize::from(process.is_running());
        process.signal(libc::SIGKILL);
        process.wait();
    }
    println!("{kills} kills, seed {seed}");
    let (code, text) = Running::start(hurried(&world)).wait();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(kills, 10, "a life ended before it was killed: too fast to test anything");
    assert_tables(&world, &data);
    assert_lake(&world, TAPS);
    world.assert_proof();
}

#[test]
fn ten_kills_change_nothing_on_s3() {
    killed_at_random_moments("oyster_kill_s3", Lake::S3, 1);
}

#[test]
fn ten_kills_change_nothing_on_a_local_directory() {
    killed_at_random_moments("oyster_kill_local", Lake::Local, 2);
}

#[test]
fn of_two_processes_one_is_killed_and_the_other_finishes() {
    let Some((world, taps, data)) = world("oyster_two", Lake::S3) else { return };
    let half = taps.len() / 2;
    world.produce(taps[..half].iter().map(|tap| keyed(tap)));
    let follow = || {
        let mut command = world.command(&["run"]);
        command.env("HIGHWATER_COMMIT_INTERVAL", "40ms").env("HIGHWATER_CATCH_UP_INTERVAL", "40ms");
        Running::start(command)
    };
    roll_often(&world);
    let (first, second) = (follow(), follow());
    let owners = "SELECT count(DISTINCT owner) FROM highwater.marks WHERE output = 'lake'";
    eventually("two owners", || {
        world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 1
            && world.number(owners) == 2
    });
    drop(first);
    world.produce(taps[half..].iter().map(|tap| keyed(tap)));
    let done = format!(
        "SELECT count(*) FROM (SELECT output FROM highwater.marks GROUP BY output
         HAVING sum(next_offset) = {TAPS}) AS done"
    );
    eventually("all outputs at the end", || world.number(&done) == 5);
    second.signal(libc::SIGTERM);
    let (code, text) = second.wait();
    assert_eq!(code, Some(0), "{text}");
    assert_tables(&world, &data);
    assert_lake(&world, TAPS);
    world.assert_proof();
}

/// Ten ways to break a tap, and the class that each is refused with.
fn broken(tap: &str, way: usize) -> (String, &'static str) {
    let mut value: serde_json::Value = serde_json::from_str(tap).expect("JSON");
    let class = match way {
        0 => return (tap[..tap.len() / 2].to_owned(), "malformed"),
        1 => return (format!("[{tap}]"), "malformed"),
        2 => return (format!("{tap} and more"), "malformed"),
        3 => {
            value.as_object_mut().expect("object").remove("stopId");
            "missing"
        }
        4 => {
            value["tapId"] = serde_json::Value::Null;
            "missing"
        }
        5 => {
            value["eventTime"] = "yesterday".into();
            "type"
        }
        6 => {
            value["fare"] = "free".into();
            "type"
        }
        7 => {
            value["fullFare"] = 99_999_999_999i64.into();
            "range"
        }
        8 => {
            value["fare"] = 12.5.into();
            "range"
        }
        9 => {
            value["serviceDate"] = "2009-02-30".into();
            "range"
        }
        _ => unreachable!("ten ways"),
    };
    (value.to_string(), class)
}

#[test]
fn a_thousand_broken_records_are_refused_one_by_one() {
    let Some((world, taps, _)) = world("oyster_broken", Lake::Local) else { return };
    let records = taps.iter().enumerate().map(|(i, tap)| {
        let (key, value) = keyed(tap);
        // One in 217, the ten ways in turn.
        match i % 217 {
            0 if i / 217 < 1000 => (key, broken(tap, (i / 217) % 10).0),
            _ => (key, value),
        }
    });
    world.produce(records);
    world.run_until_caught_up();
    assert_lake(&world, TAPS - 1000);
    world.assert_proof();
    let letters = world.query(
        "SELECT class, count(*) FROM highwater.dead_letters WHERE output = 'dead_letters'
         GROUP BY class ORDER BY class",
    );
    let expected = |class: &str, n: i64| vec![Some(class.to_owned()), Some(n.to_string())];
    let by_class: std::collections::BTreeMap<&str, i64> =
        (0..10).map(|way| broken(&taps[0], way).1).fold(Default::default(), |mut counts, class| {
            *counts.entry(class).or_default() += 100;
            counts
        });
    let expected: Vec<_> = by_class.iter().map(|(class, n)| expected(class, *n)).collect();
    assert_eq!(letters, expected);
    let unplaced = world.number(
        "SELECT count(*) FROM highwater.dead_letters WHERE reason = '' OR value IS NULL
         OR (class IN ('missing', 'type', 'range') AND column_name IS NULL)",
    );
    assert_eq!(unplaced, 0, "each has a reason, its value, and a column where it is one's fault");
    let taps_counted = world.number("SELECT sum(taps) FROM oyster_hourly_by_kind");
    assert_eq!(taps_counted, TAPS - 1000);
}
