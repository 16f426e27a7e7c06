//! A source is read anew: rows that went untold go from the tables, at once and not before the end of the
//! snapshot, whatever is killed; and a person is asked where that would be too much.
//!
//! Bugs that these tests were seen to find, planted one by one: a change of an open transaction taken for an old
//! one; a discarded snapshot whose rows come in; no guard of what is deleted; refused records not counted.

use crate::support::{Lake, Running, World, connect, eventually};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::{ops::Range, time::Duration};

pub const PARTITIONS: i64 = 3;

const ORDERS: &str = r#"topic = "{topic}"
format = "debezium-json"

[changes]
key = ["id"]

[columns]
id    = "integer"
state = "text"
qty   = "integer"

[lake]
roll = { bytes = "128MiB", age = "1s" }

[dead_letters]
stop_above = "100%"
"#;

pub const MODELS: [(&str, &str); 4] = [
    ("kept", "CREATE MATERIALIZED VIEW kept AS SELECT id, state, qty FROM orders"),
    (
        "by_state",
        "CREATE MATERIALIZED VIEW by_state AS SELECT state, count(*) AS n, sum(qty) AS qty FROM orders GROUP BY state",
    ),
    (
        "ever",
        "CREATE MATERIALIZED VIEW ever WITH (deletes = 'soft') AS SELECT id, state, qty FROM orders",
    ),
    (
        "history",
        "CREATE MATERIALIZED VIEW history WITH (history = 'validity') AS SELECT id, state, qty FROM orders",
    ),
];

/// Partition and value.
pub type Sent = (i32, String);

fn change(op: char, id: i64, state: &str, lsn: u64, mark: &str) -> Sent {
    let row = format!("{{\"id\":{id},\"state\":\"{state}\",\"qty\":{}}}", id % 100);
    let (before, after) = if op == 'd' { (row.as_str(), "null") } else { ("null", row.as_str()) };
    let value = format!(
        "{{\"op\":\"{op}\",\"before\":{before},\"after\":{after},\"source\":{{\"lsn\":{lsn},\"ts_us\":{},\
         \"snapshot\":\"{mark}\"}}}}",
        1_700_000_000_000_000 + lsn * 1_000
    );
    ((id % PARTITIONS) as i32, value)
}

/// All of the source's rows, as a connector reads them.
fn snapshot(ids: &[i64], state: &str, lsn: u64) -> Vec<Sent> {
    let mark = |place: usize| match place {
        _ if place + 1 == ids.len() => "last",
        0 => "first",
        _ => "true",
    };
    ids.iter().enumerate().map(|(i, id)| change('r', *id, state, lsn, mark(i))).collect()
}

pub fn rows(ids: Range<i64>, but: i64) -> Vec<i64> {
    ids.filter(|id| id % but != 0).collect()
}

pub fn send(world: &World, sent: &[Sent]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.services.kafka)
        .create()
        .expect("producer");
    for (partition, value) in sent {
        let to =
            BaseRecord::<str, str>::to(&world.kafka_topic).payload(value).partition(*partition);
        producer.send(to).map_err(|(e, _)| e).expect("produce");
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(30)).expect("flush");
}

fn world(name: &str, changes: &str) -> Option<World> {
    let world = World::empty(name, PARTITIONS as i32, Lake::Local)?;
    world.declare(
        "orders",
        &ORDERS.replace("key = [\"id\"]", &format!("key = [\"id\"]\n{changes}")),
    );
    for (name, sql) in MODELS {
        world.declare_model(name, sql);
    }
    Some(world)
}

/// The tables hold these rows now, whatever came in between.
pub fn assert_tables(world: &World, wanted: &[(i64, &str)]) {
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    let cells = |id: i64, state: &str| {
        vec![Some(id.to_string()), Some(state.to_owned()), Some((id % 100).to_string())]
    };
    let wanted: Vec<_> = wanted.iter().map(|(id, state)| cells(*id, state)).collect();
    for sql in [
        "SELECT id, state, qty FROM kept ORDER BY id",
        "SELECT id, state, qty FROM ever WHERE _deleted_at IS NULL ORDER BY id",
        "SELECT id, state, qty FROM history WHERE valid_to IS NULL ORDER BY id",
    ] {
        assert_eq!(world.query(sql), wanted, "{sql}");
    }
    let groups = "SELECT state, n, qty FROM by_state ORDER BY state";
    let anew = "SELECT state, count(*), sum(qty) FROM kept GROUP BY state ORDER BY state";
    assert_eq!(world.query(groups), world.query(anew));
}

pub fn assert_whole(world: &World) {
    world.assert_proof();
    let (code, text) = Running::start(world.command(&["verify", "--deep"])).wait();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("4 tables rebuilt"), "{text}");
}

pub fn waiting(world: &World, model: &str) -> i64 {
    world.number(&format!("SELECT count(*) FROM {model}__staged"))
}

/// `run --until-caught-up` that ends because a person is asked.
pub fn held(world: &World) -> String {
    let (code, text) = Running::start(world.command(&["run", "--until-caught-up"])).wait();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("would delete") && text.contains("snapshot accept orders"), "{text}");
    text
}

#[test]
fn what_a_new_snapshot_does_not_hold_goes_at_once_whatever_is_killed() {
    let Some(world) = world("resnapshot", "") else { return };
    let (old, new) = (rows(1..601, 1_000), rows(1..601, 10));
    send(&world, &snapshot(&old, "old", 1_000));
    world.run_until_caught_up();
    let before: Vec<_> = rows(1..601, 1_000).into_iter().map(|id| (id, "old")).collect();
    assert_tables(&world, &before);
    assert_eq!(waiting(&world, "kept"), 0, "the first snapshot of an empty table waits for nobody");

    // A tenth of the rows went while nobody looked, and the connector that comes then dies midway.
    let quickly = [("HIGHWATER_COMMIT_INTERVAL", "50ms")];
    send(&world, &snapshot(&old, "lost", 4_000)[..200]);
    let running = world.follow(&quickly);
    eventually("half a snapshot waits", || waiting(&world, "kept") >= 200);
    running.signal(libc::SIGKILL);
    running.wait();
    assert_tables(&world, &before);

    let all = snapshot(&new, "new", 5_000);
    send(&world, &all[..300]);
    let running = world.follow(&quickly);
    eventually("more of it waits", || waiting(&world, "history") >= 500);
    running.signal(libc::SIGKILL);
    running.wait();
    assert_tables(&world, &before);
    assert_eq!(world.number("SELECT count(*) FROM kept__snapshots WHERE state = 'open'"), 2);

    // A transaction that was open meanwhile, with positions before it; and changes of later ones.
    let open = [change('c', 1_001, "open", 4_900, "false"), change('u', 1, "open", 4_901, "false")];
    let later = [change('u', 2, "later", 5_100, "false"), change('d', 3, "new", 5_101, "false")];
    // The swap stands in its middle: somebody reads what it is to change.
    let reader = world.runtime.block_on(async {
        let client = connect(&world.warehouse()).await;
        client.batch_execute("BEGIN; SELECT * FROM kept__source FOR SHARE").await.expect("a lock");
        client
    });
    send(&world, &all[300..]);
    send(&world, &open);
    send(&world, &later);
    let running = world.follow(&quickly);
    let stands = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND \
                  wait_event_type = 'Lock' AND query LIKE '%kept__source%'";
    eventually("a swap in its middle", || world.number(stands) > 0);
    assert_eq!(world.number("SELECT count(*) FROM kept WHERE state <> 'old'"), 0);
    assert_eq!(world.number("SELECT count(*) FROM kept"), 600);
    running.signal(libc::SIGKILL);
    running.wait();
    drop(reader);
    eventually("the dead process's transaction is over", || world.number(stands) == 0);
    assert_eq!(world.number("SELECT count(*) FROM kept WHERE state <> 'old'"), 0);

    // Two processes: whoever finds it first swaps it in, and each reader sees all or nothing of it.
    let pair = [world.follow(&quickly), world.follow(&quickly)];
    let seen = "SELECT count(*) FILTER (WHERE state = 'old'), count(*) FROM kept";
    eventually("swapped in", || {
        let seen = world.query(seen).remove(0);
        let (old, all) = (seen[0].clone().unwrap(), seen[1].clone().unwrap());
        let whole = [("600", "600"), ("0", "540")];
        assert!(whole.contains(&(old.as_str(), all.as_str())), "{old} of {all}");
        old == "0"
    });
    pair.into_iter().for_each(|process| drop(process.stop()));
    world.run_until_caught_up();
    let state = |id: i64| match id {
        1 | 1_001 => "open",
        2 => "later",
        _ => "new",
    };
    let ids = new.iter().copied().chain([1_001]).filter(|id| *id != 3);
    let wanted: Vec<_> = ids.map(|id| (id, state(id))).collect();
    assert_tables(&world, &wanted);
    let states = "SELECT DISTINCT state FROM history__snapshots ORDER BY state";
    let found: Vec<_> = world.query(states).into_iter().flatten().flatten().collect();
    assert_eq!(found, ["applied", "superseded"]);
    for model in ["kept", "by_state", "ever", "history"] {
        assert_eq!(waiting(&world, model), 0);
    }
    assert_eq!(world.number("SELECT count(*) FROM ever WHERE _deleted_at IS NOT NULL"), 61);
    assert_whole(&world);

    // A model of today reads all of it from the beginning.
    world.declare_model("again", &MODELS[0].1.replace("kept", "again"));
    world.run_until_caught_up();
    let both =
        ["kept", "again"].map(|m| world.query(&format!("SELECT id, state FROM {m} ORDER BY id")));
    assert_eq!(both[0], both[1]);
}

/// Half of the rows are not in it: it waits, and the changes behind it do.
fn half(name: &str) -> Option<(World, Vec<i64>, Vec<i64>)> {
    let world = world(name, "")?;
    let (old, new) = (rows(1..91, 1_000), rows(1..91, 2));
    send(&world, &snapshot(&old, "old", 1_000));
    world.run_until_caught_up();
    send(&world, &snapshot(&new, "new", 5_000));
    send(&world, &[change('u', 1, "later", 6_000, "false"), change('d', 2, "old", 6_001, "false")]);
    let told = held(&world);
    assert!(told.contains("45 of the 90 rows") || told.contains("44 of the 90 rows"), "{told}");
    let before: Vec<_> = old.iter().map(|id| (*id, "old")).collect();
    assert_tables(&world, &before);
    world.assert_proof();
    let status = world.run(&["status"]);
    assert!(status.contains("highwater snapshot discard orders"), "{status}");
    let mut running = world.follow(&[]);
    eventually("the page tells", || {
        let status = running.status();
        status["topics"][0]["snapshots"].as_array().is_some_and(|held| held.len() == 4)
    });
    let (code, ready) = running.get("/readyz");
    assert!(code == 200 && ready.contains("would delete"), "{code} {ready}");
    let (_, metrics) = running.get("/metrics");
    assert!(metrics.contains("highwater_snapshots_held{topic=\"orders\"} 4"), "{metrics}");
    running.stop();
    let (code, text) = Running::start(world.command(&["verify", "--deep"])).wait();
    assert!(code == Some(0) && text.contains("wait for a snapshot"), "{text}");
    Some((world, old, new))
}

#[test]
fn a_snapshot_that_would_delete_too_much_waits_until_it_is_accepted() {
    let Some((world, _, new)) = half("accepted") else { return };
    let dry = world.run(&["snapshot", "accept", "orders", "--dry-run"]);
    assert!(dry.contains("would be applied"), "{dry}");
    assert_eq!(world.number("SELECT count(*) FROM kept"), 90);
    let done = world.run(&["snapshot", "accept", "orders"]);
    assert!(done.contains("is applied"), "{done}");
    let state = |id: i64| if id == 1 { "later" } else { "new" };
    let wanted: Vec<_> = new.iter().map(|id| (*id, state(*id))).collect();
    assert_tables(&world, &wanted);
    world.run_until_caught_up();
    assert_whole(&world);
    let none = world.run(&["snapshot", "accept", "orders"]);
    assert!(none.contains("no snapshot of orders waits"), "{none}");
}

#[test]
fn a_snapshot_that_is_discarded_leaves_only_the_changes_behind_it() {
    let Some((world, old, _)) = half("discarded") else { return };
    let done = world.run(&["snapshot", "discard", "orders", "--json"]);
    assert!(done.contains("\"discarded\""), "{done}");
    let state = |id: i64| if id == 1 { "later" } else { "old" };
    let wanted: Vec<_> = old.iter().filter(|id| **id != 2).map(|id| (*id, state(*id))).collect();
    assert_tables(&world, &wanted);
    // What is sent of it afterwards does not come in either.
    send(&world, &[change('r', 4, "new", 5_000, "true"), change('u', 5, "later", 7_000, "false")]);
    world.run_until_caught_up();
    assert_eq!(world.number("SELECT count(*) FROM kept WHERE state = 'new'"), 0);
    assert_eq!(world.number("SELECT count(*) FROM kept WHERE state = 'later'"), 2);
    assert_whole(&world);
}

#[test]
fn a_snapshot_of_which_a_record_was_refused_waits_for_a_person() {
    let Some(world) = world("malformed", "max_deletes = \"50%\"") else { return };
    let (old, new) = (rows(1..91, 1_000), rows(1..91, 10));
    send(&world, &snapshot(&old, "old", 1_000));
    world.run_until_caught_up();
    let mut sent = snapshot(&new, "new", 5_000);
    sent[7].1 = sent[7].1.replace("\"qty\":", "\"qty\":\"many\",\"was\":");
    send(&world, &sent);
    let told = held(&world);
    assert!(told.contains("1 records were refused"), "{told}");
    assert_eq!(world.number("SELECT count(*) FROM kept WHERE state = 'old'"), 90);
    // The connector is made once more: a whole snapshot needs nobody. Who reads it waits for the partitions of a
    // process that was just killed, and so knows of the held one long before it has any.
    let mut dead = world.follow(&[]);
    eventually("it has the partitions", || {
        let status = dead.status();
        status["topics"][0]["partitions"].as_array().is_some_and(|held| held.len() == 3)
    });
    dead.signal(libc::SIGKILL);
    dead.wait();
    send(&world, &snapshot(&new, "whole", 8_000));
    world.run_until_caught_up();
    let wanted: Vec<_> = new.iter().map(|id| (*id, "whole")).collect();
    assert_tables(&world, &wanted);
    assert_whole(&world);
}

#[test]
fn an_incremental_snapshot_deletes_nothing_and_waits_for_nothing() {
    let Some(world) = world("incremental", "") else { return };
    send(&world, &snapshot(&rows(1..31, 1_000), "old", 1_000));
    world.run_until_caught_up();
    let again = rows(1..31, 2);
    let read: Vec<_> =
        again.iter().map(|id| change('r', *id, "again", 2_000, "incremental")).collect();
    send(&world, &read);
    world.run_until_caught_up();
    let state = |id: i64| if id % 2 == 0 { "old" } else { "again" };
    let wanted: Vec<_> = (1..31).map(|id| (id, state(id))).collect();
    assert_tables(&world, &wanted);
    assert_whole(&world);
}

#[test]
fn snapshots_merge_where_the_topic_says_so() {
    let Some(world) = world("merged", "snapshots = \"merge\"") else { return };
    send(&world, &snapshot(&rows(1..31, 1_000), "old", 1_000));
    send(&world, &snapshot(&rows(1..31, 3), "new", 2_000));
    world.run_until_caught_up();
    let state = |id: i64| if id % 3 == 0 { "old" } else { "new" };
    let wanted: Vec<_> = (1..31).map(|id| (id, state(id))).collect();
    assert_tables(&world, &wanted);
    assert_whole(&world);
}

#[test]
fn a_cut_that_would_delete_too_much_is_not_committed_until_a_person_accepts_it() {
    let Some(world) = world("much_deleted", "max_cut_deletes = \"20%\"") else { return };
    send(&world, &snapshot(&rows(1..91, 1_000), "old", 1_000));
    send(&world, &[change('d', 90, "old", 2_000, "false"), change('c', 91, "new", 2_001, "false")]);
    world.run_until_caught_up();
    let before =
        (1..92).filter(|id| *id != 90).map(|id| (id, if id == 91 { "new" } else { "old" }));
    let before: Vec<_> = before.collect();
    assert_tables(&world, &before);
    send(
        &world,
        &[(0, "{\"op\":\"t\",\"source\":{\"lsn\":3000,\"ts_us\":1700000003000000}}".to_owned())],
    );
    send(&world, &[change('c', 5, "after", 4_000, "false")]);
    for _ in 0..2 {
        let (code, text) = Running::start(world.command(&["run", "--until-caught-up"])).wait();
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains("accept-deletes orders") && text.contains("of the 90 rows"),
            "{text}"
        );
        assert_tables(&world, &before);
    }
    let told = world.run(&["accept-deletes", "orders"]);
    assert!(told.contains("4 models"), "{told}");
    world.run_until_caught_up();
    assert_tables(&world, &[(5, "after")]);
    assert_whole(&world);
    assert_eq!(world.number("SELECT count(*) FROM highwater.accepted_deletes"), 0);
}
