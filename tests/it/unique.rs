//! `unique`: each key once within its horizon, in tables and lake alike, whatever is killed and
//! whichever partition it comes in.

use crate::support::{Lake, Running, World, eventually};
use std::collections::BTreeMap;

const TOPIC: &str = r#"topic = "{topic}"
format = "json"
event_time = "at"
max_disorder = "5s"
unique = ["id", "at"]
within = "1h"
[columns]
id = "text"
at = "timestamptz"
n  = "bigint"
[lake]
roll = { bytes = "1MiB", age = "300ms" }
"#;

const ROWS: &str = "CREATE MATERIALIZED VIEW positions AS SELECT id, at, n FROM vehicles;";

/// Late rows are left out, so the table shows how far the watermark had come for each.
fn windowed(name: &str) -> String {
    format!(
        "CREATE MATERIALIZED VIEW {name} WITH (late = 'drop') AS
         SELECT tumble(interval '10 seconds') AS window, count(*) AS rows, sum(n) AS n
         FROM vehicles GROUP BY window;"
    )
}

/// Lake, dead letters and two models.
const OUTPUTS: i64 = 4;

const HURRY: [(&str, &str); 3] = [
    ("HIGHWATER_COMMIT_INTERVAL", "40ms"),
    ("HIGHWATER_CATCH_UP_INTERVAL", "60ms"),
    ("HIGHWATER_MEMORY", "128MiB"),
];

fn world(name: &str, partitions: i32, lake: Lake, topic: &str) -> Option<World> {
    let world = World::empty(name, partitions, lake)?;
    world.declare("vehicles", topic);
    world.declare_model("positions", ROWS);
    world.declare_model("by_window", &windowed("by_window"));
    Some(world)
}

/// At this second of a day, with its number.
fn position(id: i64, second: i64, n: i64) -> String {
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!(r#"{{"id":"v{id}","at":"2024-03-01T{hour:02}:{minute:02}:{second:02}Z","n":{n}}}"#)
}

/// What verify says, and the proof; each output has passed everything.
fn assert_exact(world: &World, tables: usize) {
    let (code, text) = Running::start(world.command(&["verify", "--deep"])).wait();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("{tables} tables rebuilt")), "{text}");
    world.assert_proof();
}

fn totals(world: &World, fate: &str) -> Vec<Vec<Option<String>>> {
    world.query(&format!(
        "SELECT DISTINCT total FROM (SELECT sum({fate})::bigint AS total FROM highwater.marks
         GROUP BY output) t"
    ))
}

fn one(n: i64) -> Vec<Vec<Option<String>>> {
    vec![vec![Some(n.to_string())]]
}

const KEYS: i64 = 12_000;
const ROUNDS: i64 = 12;

#[test]
fn each_key_counts_once_in_any_partition_and_whoever_is_killed() {
    let Some(world) = world("unique", 6, Lake::S3, TOPIC) else { return };
    let start = || world.follow(&HURRY);
    let mut services = vec![start(), start(), start()];
    let part = KEYS / ROUNDS;
    let mut sent = 0;
    for round in 0..ROUNDS {
        // Each key three times: under three keys of Kafka's, so mostly in three partitions, and
        // half of them once more in the next round. One in fifty is broken each time.
        let first = (round * part - part / 2).max(0);
        let mut records = Vec::new();
        for copy in 0..3 {
            for id in (first..(round + 1) * part).rev() {
                let value = position(id, id / 10, 1);
                let value =
                    if id % 50 == 7 { value.replace("\"n\":1", "\"n\":\"x\"") } else { value };
                records.push((format!("{}", id * 7 + copy * 31), value));
            }
        }
        sent += records.len() as i64;
        world.produce(records);
        if round % 3 == 1 {
            let victim = services.remove((round / 3) as usize % 3);
            victim.signal(libc::SIGKILL);
            victim.wait();
            services.push(start());
        }
        let passed = round * part;
        eventually("progress", || {
            services.iter_mut().for_each(|s| assert!(s.is_running(), "{}", s.printed()));
            world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 1
                && world.number(
                    "SELECT coalesce(sum(next_offset), 0)::bigint FROM highwater.marks
                     WHERE output = 'dead_letters'",
                ) >= passed
        });
    }
    eventually("all outputs at the end", || world.has_passed(OUTPUTS, sent));
    let printed: String = services.into_iter().map(Running::stop).collect();
    let conflicts = printed.matches("another process has taken").count();
    let good = (0..KEYS).filter(|id| id % 50 != 7).count() as i64;
    assert_eq!(totals(&world, "duplicate").len(), 1, "all outputs agree");
    let dead =
        world.number("SELECT sum(dead)::bigint FROM highwater.marks WHERE output = 'dead_letters'");
    assert_eq!(totals(&world, "duplicate"), one(sent - dead - good));
    println!("{sent} records, {good} keys, {dead} dead, {conflicts} cuts judged again");
    let rows = "SELECT count(*), count(DISTINCT id), sum(n) FROM positions";
    let good = Some(good.to_string());
    assert_eq!(world.query(rows), [[good.clone(), good.clone(), good.clone()]]);
    let lake = "SELECT sum(rows)::bigint FROM highwater.lake_files";
    assert_eq!(world.query(lake), [[good]]);
    assert_exact(&world, 2);

    // As if it had been there from the start.
    world.declare_model("by_window_later", &windowed("by_window_later"));
    world.run_until_caught_up();
    let both = "SELECT count(*), count(*) FILTER (WHERE a.rows = b.rows AND a.n = b.n)
                FROM by_window a FULL JOIN by_window_later b USING (window_start)";
    let counts = world.query(both);
    assert_eq!(counts[0][0], counts[0][1], "{counts:?}");
    assert_exact(&world, 3);
    crate::replay::assert_made_anew(&world);
}

/// Of one partition: which records are taken, by the definition.
fn slow(records: &[(i64, i64)], within: i64, disorder: i64) -> Vec<bool> {
    let mut taken: BTreeMap<i64, i64> = BTreeMap::new();
    let mut highest = i64::MIN;
    let mut verdicts = Vec::new();
    for &(id, second) in records {
        let duplicate = taken.get(&id).is_some_and(|first| highest < first + within + disorder);
        if !duplicate {
            taken.insert(id, second);
        }
        highest = highest.max(second);
        verdicts.push(duplicate);
    }
    verdicts
}

#[test]
fn a_key_is_forgotten_by_event_time_whatever_is_killed_when() {
    let topic = TOPIC.replace(r#"["id", "at"]"#, r#"["id"]"#).replace("\"1h\"", "\"60s\"");
    let Some(world) = world("forgetting", 1, Lake::Local, &topic) else { return };
    // A vehicle comes every few seconds, out of order; time goes on for some hours.
    let records: Vec<(i64, i64)> =
        (0..20_000).map(|i| (i * i % 97 + i % 13, 100 + i / 2 - (i * 37 % 11))).collect();
    let duplicates = slow(&records, 60, 5);
    let fresh: Vec<String> =
        (0..records.len()).filter(|i| !duplicates[*i]).map(|i| i.to_string()).collect();
    let mut service = world.follow(&HURRY);
    let pieces = records.chunks(2_000).enumerate();
    for (round, piece) in pieces {
        let first = round * 2_000;
        let numbered = piece.iter().enumerate();
        world.produce(
            numbered.map(|(i, (id, second))| {
                ("k".to_owned(), position(*id, *second, (first + i) as i64))
            }),
        );
        let passed = (first + 500) as i64;
        eventually("some of it", || {
            assert!(service.is_running(), "{}", service.printed());
            world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 1
                && world.number("SELECT coalesce(min(next_offset), 0) FROM highwater.marks")
                    >= passed
        });
        if first + piece.len() < records.len() {
            service.signal(libc::SIGKILL);
            service.wait();
            service = world.follow(&HURRY);
        }
    }
    eventually("all of it", || world.has_passed(OUTPUTS, records.len() as i64));
    service.stop();
    let rows: Vec<String> = world
        .query("SELECT n FROM positions ORDER BY n")
        .into_iter()
        .map(|row| row[0].clone().expect("a number"))
        .collect();
    assert_eq!(rows, fresh);
    assert_eq!(totals(&world, "duplicate"), one((records.len() - fresh.len()) as i64));
    let kept = world.number("SELECT count(*) FROM highwater.unique_keys");
    assert!(kept < 120, "{kept} keys: what is forgotten is removed");
    assert_exact(&world, 2);

    // Who reads recorded duplicates as records would make another table: it is refused.
    world.declare_model("later", &windowed("later"));
    world.declare("vehicles", &topic.replace("unique", "# unique").replace("within", "# within"));
    let refused = world.output(&["run", "--until-caught-up"]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("put `unique` back"), "{text}");
}

#[test]
fn a_retried_letter_passes_the_judge_and_its_key_is_met_by_who_runs_meanwhile() {
    let seats = "seats = { type = \"smallint\", optional = true }\n[lake]";
    let mended = TOPIC.replace(r#"["id", "at"]"#, r#"["id"]"#);
    let strict = mended.replace("[lake]", seats) + "[dead_letters]\nstop_above = \"100%\"\n";
    let Some(world) = world("unique_retried", 1, Lake::Local, &strict) else { return };
    let send = |values: &[String]| {
        world.produce(values.iter().map(|value| ("k".to_owned(), value.clone())));
    };
    let refused = |id, second, n| position(id, second, n).replace('}', r#","seats":"many"}"#);
    // One comes to a key of a later record, two have one that nobody has, one is of a key before
    // it: were its event time to raise the watermark, the row after it would be late.
    send(&[
        refused(1, 100, 0),
        refused(2, 101, 1),
        refused(2, 102, 2),
        position(3, 103, 3),
        refused(3, 3000, 4),
        position(1, 104, 5),
        "{".to_owned(),
        position(5, 200, 7),
    ]);
    world.run_until_caught_up();
    assert_eq!(world.number("SELECT count(*) FROM highwater.dead_letters"), 5);
    assert_exact(&world, 2);

    world.declare("vehicles", &mended);
    let service = world.follow(&HURRY);
    send(&[position(6, 201, 8)]);
    eventually("the service to have what is new", || world.has_passed(OUTPUTS, 9));
    let told = world.run(&["dead-letters", "retry"]);
    let last = "1 taken, 0 taken except by a model, 1 still refused, 0 wait, 0 lost, 3 left out as duplicates";
    assert_eq!(told.lines().last(), Some(last), "{told}");
    assert_eq!(totals(&world, "duplicate"), one(3));
    send(&[position(2, 202, 9)]);
    eventually("the service to meet the key", || world.has_passed(OUTPUTS, 10));
    let printed = service.stop();
    assert!(printed.contains("has taken 1 of its 1 keys meanwhile"), "{printed}");
    assert_eq!(totals(&world, "duplicate"), one(4));
    let rows = world.query("SELECT id, n FROM positions ORDER BY id");
    let rows: Vec<_> = rows.into_iter().map(|row| row.into_iter().flatten().collect()).collect();
    let expected: [Vec<&str>; 5] =
        [vec!["v1", "5"], vec!["v2", "1"], vec!["v3", "3"], vec!["v5", "7"], vec!["v6", "8"]];
    assert_eq!(rows as Vec<Vec<String>>, expected);
    assert_exact(&world, 2);

    // Once more: nothing is judged twice.
    let told = world.run(&["dead-letters", "retry"]);
    let last = "0 taken, 0 taken except by a model, 1 still refused, 0 wait, 0 lost";
    assert_eq!(told.lines().last(), Some(last), "{told}");

    // Who comes later reads the retried records in their place, and the verdicts on them.
    world.declare_model("by_window_later", &windowed("by_window_later"));
    world.run_until_caught_up();
    assert_eq!(totals(&world, "duplicate"), one(4));
    assert_exact(&world, 3);
}

/// By the clock, as `idle` does.
const IDLE: &str = r#"topic = "{topic}"
format = "json"
event_time = "at"
max_disorder = "2s"
idle = "1s"
unique = ["id"]
within = "3s"
[columns]
id = "text"
at = "timestamptz"
[lake]
roll = { age = "300ms" }
[dead_letters]
stop_above = "100%"
"#;

const ZONES: &str = r#"
reference   = "lake:known/zones.csv"
primary_key = ["id"]
[columns]
id   = "text"
zone = "integer"
"#;

const PLACED: &str = "CREATE MATERIALIZED VIEW placed AS
    SELECT vehicles.id, at, zones.zone FROM vehicles LEFT JOIN zones ON zones.id = vehicles.id;";

fn strict(name: &str) -> String {
    format!(
        "CREATE MATERIALIZED VIEW {name} WITH (late = 'dead-letter') AS
         SELECT tumble(interval '2 seconds') AS window, count(*) AS rows
         FROM vehicles GROUP BY window;"
    )
}

#[test]
fn what_the_clock_has_forgotten_is_taken_again_and_may_be_late_and_all_of_it_is_proven() {
    let Some(world) = World::empty("unique_idle", 1, Lake::Local) else { return };
    let root = std::path::PathBuf::from(world.lake.trim_start_matches("file://"));
    std::fs::create_dir_all(root.join("known")).expect("the lake");
    std::fs::write(root.join("known/zones.csv"), "id,zone\nv1,1\nv3,3\n").expect("the reference");
    world.declare("vehicles", IDLE);
    world.declare("zones", ZONES);
    world.declare_model("placed", PLACED);
    world.declare_model("by_window", &strict("by_window"));
    let send = |values: &[(&str, i64)]| {
        world.produce(values.iter().map(|(id, second)| {
            let at = chrono::DateTime::from_timestamp(*second, 0).expect("in range").to_rfc3339();
            ("k".to_owned(), format!(r#"{{"id":"{id}","at":"{at}"}}"#))
        }));
    };
    let mut service = world.follow(&HURRY);
    let begin = chrono::Utc::now().timestamp();
    send(&[("v1", begin), ("v2", begin), ("v2", begin), ("v1", begin)]);
    eventually("what came", || world.has_passed(OUTPUTS, 4));
    let forgotten = format!(
        "SELECT count(*) FROM highwater.marks
         WHERE output = 'dead_letters' AND event_time_max >= to_timestamp({})",
        begin + 5
    );
    eventually("the clock to forget", || world.number(&forgotten) == 1);

    // Taken again, and late; then with a time that no clock comes to during this test.
    let ahead = chrono::Utc::now().timestamp() + 600;
    send(&[("v1", begin), ("v3", ahead), ("v3", ahead), ("v1", ahead), ("v1", begin)]);
    eventually("what came again", || world.has_passed(OUTPUTS, 9));
    let (_, metrics) = service.get("/metrics");
    let counted = |name: &str| -> i64 {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<i64>().ok()).sum()
    };
    assert_eq!(counted("highwater_reference_misses_total"), 1, "a duplicate is not looked up");
    assert_eq!(counted("highwater_duplicates_total"), 4);
    assert_eq!(counted("highwater_late_total"), 1, "nor is it late");
    service.signal(libc::SIGKILL);
    service.wait();
    let service = world.follow(&HURRY);
    send(&[("v3", ahead + 1), ("v1", begin), ("v4", ahead)]);
    eventually("what came after that", || world.has_passed(OUTPUTS, 12));
    service.stop();
    assert_eq!(totals(&world, "duplicate"), one(6));
    let status: serde_json::Value =
        serde_json::from_str(&world.run(&["status", "--json"])).expect("JSON");
    let lines = status["outputs"].as_array().expect("lines");
    assert!(lines.len() == 4 && lines.iter().all(|line| line["duplicate"] == 6), "{status}");
    let rows = world.query("SELECT id, zone FROM placed ORDER BY at, id");
    let rows: Vec<_> = rows.into_iter().map(|row| row.into_iter().flatten().collect()).collect();
    let expected: [Vec<&str>; 6] = [
        vec!["v1", "1"],
        vec!["v1", "1"],
        vec!["v2"],
        vec!["v1", "1"],
        vec!["v3", "3"],
        vec!["v4"],
    ];
    assert_eq!(rows as Vec<Vec<String>>, expected);

    // In its place it is still late; its key was its own, so it is no duplicate of itself.
    let told = world.run(&["dead-letters", "retry"]);
    let last = "0 taken, 0 taken except by a model, 1 still refused, 0 wait, 0 lost";
    assert_eq!(told.lines().last(), Some(last), "{told}");
    assert_exact(&world, 2);
    world.declare_model("by_window_later", &strict("by_window_later"));
    world.run_until_caught_up();
    let rows = |name| world.query(&format!("SELECT * FROM {name} ORDER BY 1"));
    assert_eq!(rows("by_window"), rows("by_window_later"));
    assert_eq!(world.number("SELECT count(*) FROM highwater.dead_letters"), 2);
    assert_eq!(totals(&world, "duplicate"), one(6));
    assert_exact(&world, 3);
    crate::replay::assert_made_anew(&world);
}
