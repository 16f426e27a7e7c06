//! Event time on real parts: late records under each policy, silent, stalled and added partitions,
//! a clock in 2099; and that whoever reads it all again decides alike.

use crate::support::{Lake, Running, World, eventually};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const WINDOW_S: i64 = 10;
const DISORDER_S: i64 = 2;
const POLICIES: [&str; 3] = ["amend", "dead-letter", "drop"];

/// With models `NAME_amend`, `NAME_dead_letter`, `NAME_drop`.
fn declare_models(world: &World, name: &str) {
    for policy in POLICIES {
        let model = format!("{name}_{}", policy.replace('-', "_"));
        let sql = format!(
            "CREATE MATERIALIZED VIEW {model} WITH (late = '{policy}') AS
             SELECT tumble(interval '{WINDOW_S} seconds') AS window, count(*) AS events,
                    max(id) AS last FROM events GROUP BY window;"
        );
        world.declare_model(&model, &sql);
    }
}

fn world(name: &str, partitions: i32, idle: &str) -> Option<World> {
    let world = World::empty(name, partitions, Lake::Local)?;
    world.declare(
        "events",
        &format!(
            "topic = \"{{topic}}\"\nformat = \"json\"\nevent_time = \"at\"\n\
             max_disorder = \"{DISORDER_S}s\"\nidle = \"{idle}\"\n\n\
             [columns]\nid = \"text\"\nat = \"timestamptz\"\n\n\
             [lake]\npartition_by = []\nroll = {{ age = \"1s\" }}\n\n\
             [dead_letters]\nstop_above = \"100%\"\n"
        ),
    );
    declare_models(&world, "by");
    Some(world)
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

/// Events of these seconds, in order.
fn send(world: &World, partition: i32, events: &[(&str, i64)]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.services.kafka)
        .set("topic.metadata.refresh.interval.ms", "500")
        .create()
        .expect("producer");
    for (id, at_s) in events {
        let at = chrono::DateTime::from_timestamp(*at_s, 0).expect("in range").to_rfc3339();
        let value = format!("{{\"id\": \"{id}\", \"at\": \"{at}\"}}");
        let record =
            BaseRecord::to(&world.kafka_topic).partition(partition).key("").payload(&value);
        producer.send(record).map_err(|(error, _)| error).expect("produce");
    }
    producer.flush(Duration::from_secs(60)).expect("flush");
}

/// One process per partition, each holding one.
fn three(world: &World, settings: &[(&str, &str)]) -> Vec<Running> {
    let mut processes: Vec<_> = (0..3).map(|_| world.follow(settings)).collect();
    eventually("each holds a partition", || {
        processes.iter_mut().all(|process| held(process).len() == 1)
    });
    processes
}

fn held(process: &mut Running) -> Vec<i64> {
    let status = process.status();
    let partitions = status["topics"][0]["partitions"].as_array().cloned().unwrap_or_default();
    partitions.iter().filter_map(|p| p["partition"].as_i64()).collect()
}

fn has_marks(world: &World) -> bool {
    world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 1
}

/// Of `by_amend`, seconds since 1970; None: a partition has none yet.
fn watermark(world: &World) -> Option<i64> {
    let rows = world.query(
        "SELECT extract(epoch FROM watermark)::bigint FROM highwater.watermarks
         WHERE output = 'model:by_amend'",
    );
    rows.first()?.first()?.as_deref()?.parse().ok()
}

fn late_counted(processes: &mut [Running], model: &str) -> i64 {
    let of = |process: &mut Running| {
        let (_, text) = process.get("/metrics");
        let line = text.lines().find(|line| {
            line.starts_with("highwater_late_total") && line.contains(&format!("model=\"{model}\""))
        });
        line.and_then(|l| l.rsplit(' ').next()?.parse::<i64>().ok()).unwrap_or_default()
    };
    processes.iter_mut().map(of).sum()
}

/// Models over the same topic, read from its beginning, decide as was decided; and so does the
/// proof.
fn assert_a_replay_decides_alike(world: &World) {
    let proof = world.run(&["verify", "--deep"]);
    assert!(proof.contains("3 tables rebuilt: everything holds"), "{proof}");
    declare_models(world, "again");
    world.run_until_caught_up();
    for policy in POLICIES {
        let policy = policy.replace('-', "_");
        let rows = |name: &str| world.query(&format!("SELECT * FROM {name}_{policy} ORDER BY 1"));
        assert_eq!(rows("again"), rows("by"), "{policy}");
        let fates = |name: &str| {
            world.query(&format!(
                "SELECT partition, next_offset, accepted, late, dead FROM highwater.marks
                 WHERE output = 'model:{name}_{policy}' ORDER BY partition"
            ))
        };
        assert_eq!(fates("again"), fates("by"), "{policy}");
    }
    let proof = world.run(&["verify", "--deep"]);
    assert!(proof.contains("6 tables rebuilt: everything holds"), "{proof}");
    world.assert_proof();
}

#[test]
fn silent_partitions_let_windows_become_final_and_what_comes_late_meets_its_policy() {
    let Some(world) = world("idle", 3, "1s") else { return };
    let mut processes = three(&world, &[]);
    // Nothing was ever produced: the clock alone gives each partition a watermark.
    eventually("a watermark of silence", || {
        has_marks(&world) && watermark(&world).is_some_and(|at| at >= now_s() - 30)
    });

    let begin = now_s();
    send(&world, 0, &[("a", begin)]);
    send(&world, 1, &[("b", begin)]);
    let window = begin.div_euclid(WINDOW_S) * WINDOW_S;
    let is_final = format!(
        "SELECT coalesce(sum(events), 0) FROM by_amend_final
         WHERE window_start = to_timestamp({window})"
    );
    // Partition 2 says nothing at all, and the others nothing more.
    eventually("the window is final", || world.number(&is_final) == 2);
    let behind = now_s() - (window + WINDOW_S + DISORDER_S);
    println!("final {behind} s after it could be");

    // The silent one wakes, with an old event and a new one.
    let woken = now_s();
    send(&world, 2, &[("old", begin), ("new", woken)]);
    let sum =
        |policy: &str| world.number(&format!("SELECT coalesce(sum(events), 0) FROM by_{policy}"));
    eventually("both are judged", || {
        let passed = "SELECT count(*) FROM highwater.marks
                      WHERE partition = 2 AND output <> 'lake' AND next_offset = 2";
        world.number(passed) == 4
    });
    assert_eq!([sum("amend"), sum("dead_letter"), sum("drop")], [4, 3, 3]);
    assert_eq!(world.number(&is_final), 3, "a late event amends what is final, as it says");
    for policy in ["dead_letter", "drop"] {
        let of_window = world.number(&format!(
            "SELECT events FROM by_{policy}_final WHERE window_start = to_timestamp({window})"
        ));
        assert_eq!(of_window, 2, "{policy}: what is final stays");
    }
    let letters =
        world.query("SELECT output, class, reason FROM highwater.dead_letters ORDER BY output");
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!(letter[0].as_deref(), Some("model:by_dead_letter"));
    assert_eq!(letter[1].as_deref(), Some("late"));
    let reason = letter[2].as_deref().expect("a reason");
    assert!(reason.starts_with("late by ") && reason.contains("watermark was at"), "{reason}");
    let late = "SELECT sum(late) FROM highwater.marks WHERE output = 'model:by_drop'";
    assert_eq!(world.number(late), 1);
    for policy in ["amend", "dead_letter", "drop"] {
        assert_eq!(late_counted(&mut processes, &format!("by_{policy}")), 1, "{policy}");
    }

    // A clock in 2099, with no `max_future` in the topic file.
    send(&world, 1, &[("2099", 4_070_908_800), ("c", now_s())]);
    eventually("the others are not affected", || sum("amend") == 5);
    let future = "SELECT count(*) FROM highwater.dead_letters WHERE class = 'future'";
    assert_eq!(world.number(future), 1);
    assert!(watermark(&world).is_some_and(|at| at <= now_s()), "{:?}", watermark(&world));

    for process in processes {
        process.stop();
    }
    assert_a_replay_decides_alike(&world);

    // The watermark is known after a restart before any record comes.
    let mut process = world.follow(&[]);
    eventually("gauges", || {
        let (_, text) = process.get("/metrics");
        text.lines().filter(|l| l.starts_with("highwater_watermark_seconds{")).count() == 3
    });
    eventually("what holds back is told", || {
        let told = &process.status()["topics"][0]["watermarks"];
        told.as_array().is_some_and(|all| all.iter().any(|w| w["output"] == "model:by_amend"))
    });
    process.stop();
}

#[test]
fn a_stalled_partition_holds_the_watermark_back_and_is_named() {
    let Some(world) = world("stalled", 3, "1s") else { return };
    // The group must not give the partition to another one meanwhile.
    let patient = ("HIGHWATER_KAFKA", "session.timeout.ms=45000,max.poll.interval.ms=600000");
    let mut processes = three(&world, &[patient]);
    eventually("a watermark", || has_marks(&world) && watermark(&world).is_some());
    let stalled = held(&mut processes[1])[0];
    processes[1].signal(libc::SIGSTOP);
    let stopped = now_s();
    let others = format!(
        "SELECT min(extract(epoch FROM watermark)::bigint) FROM highwater.partition_watermarks
         WHERE output = 'model:by_amend' AND partition <> {stalled}"
    );
    eventually("the others go on", || world.number(&others) >= stopped + 4);
    let back = world.query(
        "SELECT held_back_by, extract(epoch FROM watermark)::bigint, since < now() - interval '3 s'
         FROM highwater.watermarks WHERE output = 'model:by_amend'",
    );
    assert_eq!(back[0][0].as_deref(), Some(stalled.to_string().as_str()), "{back:?}");
    assert_eq!(back[0][2].as_deref(), Some("t"), "{back:?}");
    assert!(watermark(&world).expect("one") <= stopped - DISORDER_S + 1, "{back:?} {stopped}");
    processes[1].signal(libc::SIGCONT);
    eventually("it catches up", || watermark(&world).is_some_and(|at| at >= stopped + 4));
    for process in processes {
        process.stop();
    }
    world.run(&["verify", "--deep"]);
}

#[test]
fn a_partition_that_is_added_reopens_nothing() {
    let Some(world) = world("added", 2, "never") else { return };
    let mut command = world.command(&["run"]);
    command.args(["--kafka", "topic.metadata.refresh.interval.ms=500"]);
    let mut process = Running::start(command);
    // Long past, as a load of history is; no clock takes part.
    let begin = 1_700_000_000;
    for partition in [0, 1] {
        send(&world, partition, &[("first", begin), ("later", begin + 60)]);
    }
    let finals = "SELECT coalesce(sum(events), 0) FROM by_drop_final";
    eventually("final", || {
        world.number("SELECT count(*) FROM pg_views WHERE viewname = 'by_drop_final'") == 1
            && world.number(finals) == 2
    });
    world.add_partitions(3);
    eventually("taken up", || held(&mut process).len() == 3);
    assert_eq!(world.number(finals), 2, "what is final stays final");
    let known = "SELECT count(*) FROM highwater.idle_advances WHERE partition = 2";
    assert_eq!(world.number(known), 1);
    send(&world, 2, &[("late", begin), ("in time", begin + 61)]);
    eventually("judged", || {
        let passed = "SELECT count(*) FROM highwater.marks
                      WHERE partition = 2 AND output <> 'lake' AND next_offset = 2";
        world.number(passed) == 4
    });
    assert_eq!(world.number("SELECT sum(late) FROM highwater.marks"), 1);
    assert_eq!(world.number(finals), 2);
    process.stop();
    assert_a_replay_decides_alike(&world);
}

/// 4:30 in the morning is still the service day of before, through both changes of the clocks.
#[test]
fn a_service_day_and_its_clock_are_instants_in_tables_and_lake() {
    let Some(world) = World::empty("service", 1, Lake::Local) else { return };
    world.declare(
        "departures",
        "topic = \"{topic}\"\nformat = \"json\"\ntime_zone = \"Europe/London\"\n\
         event_time = { date = \"service_date\", clock = \"departure\" }\nmax_disorder = \"3d\"\n\n\
         [columns]\nservice_date = \"date\"\ndeparture = \"text\"\n\n\
         [lake]\npartition_by = [\"service_date\", \"date(_event_time)\"]\n\n\
         [dead_letters]\nstop_above = \"100%\"\n",
    );
    world.declare_model(
        "by_hour",
        "CREATE MATERIALIZED VIEW by_hour AS
         SELECT tumble(interval '1 hour') AS window, service_date, count(*) AS departures
         FROM departures GROUP BY window, service_date;",
    );
    let send = [
        ("2024-03-30", "28:30"),
        ("2024-03-31", "28:30"),
        ("2024-10-26", "25:30"),
        ("2024-10-26", "26:30"),
        ("2024-10-27", "04:70"),
        ("2024-10-27", "half past four"),
    ];
    world.produce(send.map(|(day, clock)| {
        let value = format!("{{\"serviceDate\": \"{day}\", \"departure\": \"{clock}\"}}");
        (String::new(), value)
    }));
    world.run_until_caught_up();
    let rows = world.query(
        "SELECT to_char(window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), service_date, departures
         FROM by_hour ORDER BY 1",
    );
    let row = |cells: [&str; 3]| cells.map(|cell| Some(cell.to_owned())).to_vec();
    // On the night of 31 March the clock counts from noon minus twelve hours of the day before.
    let expected = [
        row(["2024-03-31 04:00", "2024-03-30", "1"]),
        row(["2024-04-01 03:00", "2024-03-31", "1"]),
        row(["2024-10-27 00:00", "2024-10-26", "1"]),
        row(["2024-10-27 01:00", "2024-10-26", "1"]),
    ];
    assert_eq!(rows, expected);
    let refused = world.query(
        "SELECT class, column_name FROM highwater.dead_letters
         WHERE output = 'dead_letters' ORDER BY \"offset\"",
    );
    let refusal = |class: &str| vec![Some(class.to_owned()), Some("departure".to_owned())];
    assert_eq!(refused, [refusal("range"), refusal("type")]);
    let paths = "SELECT count(*) FROM highwater.lake_files
                 WHERE path LIKE 'departures/service_date=2024-03-30/date=2024-03-31/%'";
    assert_eq!(world.number(paths), 1);
    world.run(&["verify", "--deep"]);
}
