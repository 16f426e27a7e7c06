//! Records that are several rows, through everything: kills, dead letters, a retry, a replay, the proof.

use crate::support::{Lake, World, eventually};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const EVENTS: &str = r#"
topic        = "{topic}"
format       = "cloudevents"
batched      = true
event_time   = "at"
max_disorder = "3h"

[columns]
id     = { type = "bigint", from = "/ce_id" }
k      = "text"
at     = { type = "timestamptz", from = "/ce_time" }
number = "text"
seats  = "integer"
gate   = "text"

[lake]
partition_by = ["date(at)", "hour(at)"]
roll         = { bytes = "128MiB", age = "200ms" }

[dead_letters]
stop_above = "100%"
"#;

const MODELS: [(&str, &str); 4] = [
    ("facts", "CREATE MATERIALIZED VIEW facts AS SELECT id, k, seats FROM events;"),
    (
        "latest",
        "CREATE MATERIALIZED VIEW latest WITH (primary_key = 'k') AS SELECT k, id FROM events;",
    ),
    (
        "by_hour",
        "CREATE MATERIALIZED VIEW by_hour AS
         SELECT tumble(interval '1 hour') AS window, k, count(*) AS events, sum(seats) AS seats
         FROM events WHERE k <> 'k3' GROUP BY window, k;",
    ),
    (
        "by_number",
        "CREATE MATERIALIZED VIEW by_number AS
         SELECT CAST(number AS bigint) AS number, count(*) AS events, last_value(id) AS last
         FROM events GROUP BY CAST(number AS bigint);",
    ),
];

const TABLES: [&str; 4] = [
    "SELECT id, k, seats, _index FROM facts ORDER BY id",
    "SELECT k, id FROM latest ORDER BY k",
    "SELECT window_start, k, events, seats FROM by_hour ORDER BY 1, 2",
    "SELECT number, events, last FROM by_number ORDER BY 1",
];

const RECORDS: i64 = 4_000;
/// Seconds of event time between records; those of a record lie half an hour apart.
const STEP_S: i64 = 10;

/// Refused by decode, for one of its rows.
fn is_gateless(record: i64) -> bool {
    record % 40 == 3 && record % 5 > 1
}

/// Refused by one model, for one of its rows.
fn is_nameless(record: i64) -> bool {
    record % 50 == 7 && record % 5 > 0
}

/// Of a record its rows; some have none.
fn rows(record: i64) -> Vec<Value> {
    let row = |index: i64| {
        let id = record * 10 + index;
        let at = 1_700_000_000 + record * STEP_S + index * 1_800;
        let gate = if is_gateless(record) && index == 1 { Value::Null } else { "g1".into() };
        let nameless = is_nameless(record) && index == record % 5 - 1;
        json!({
            "specversion": "1.0", "type": "seated", "source": "gate", "id": id.to_string(),
            "time": chrono::DateTime::from_timestamp(at, 0).expect("in the calendar").to_rfc3339(),
            "data": {
                "k": format!("k{}", (record * 7 + index) % 23),
                "number": if nameless { format!("x{id}") } else { (id % 17).to_string() },
                "seats": id % 90,
                "gate": gate,
            },
        })
    };
    (0..record % 5).map(row).collect()
}

fn records(range: std::ops::Range<i64>) -> impl Iterator<Item = (String, String)> {
    range.map(|record| (format!("{}", record % 97), Value::from(rows(record)).to_string()))
}

fn world(name: &str, topic: &str) -> Option<World> {
    let world = World::empty(name, 3, Lake::S3)?;
    world.declare("events", topic);
    for (model, sql) in MODELS {
        world.declare_model(model, sql);
    }
    Some(world)
}

/// No model reads the gate.
fn mended() -> String {
    EVENTS.replace("gate   = \"text\"", "gate   = { type = \"text\", optional = true }")
}

fn tables(world: &World) -> Vec<Vec<Vec<Option<String>>>> {
    TABLES.iter().map(|sql| world.query(sql)).collect()
}

fn fates(world: &World, output: &str) -> Vec<Vec<Option<String>>> {
    world.query(&format!(
        "SELECT sum(accepted), sum(filtered), sum(dead) FROM highwater.marks WHERE output = '{output}'"
    ))
}

#[test]
fn arrays_of_events_count_whole_or_not_at_all_whatever_is_killed() {
    let Some(clean) = world("batched_clean", &mended()) else { return };
    clean.produce(records(0..RECORDS));
    clean.run_until_caught_up();

    let world = world("batched", EVENTS).expect("services");
    let mut from = 0;
    for to in [RECORDS / 4, RECORDS / 2, RECORDS] {
        let service = world.follow(&[("HIGHWATER_COMMIT_INTERVAL", "40ms")]);
        for step in (from..to).step_by(200) {
            world.produce(records(step..(step + 200).min(to)));
        }
        eventually("something is committed", || {
            world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 1
                && world.number("SELECT count(*) FROM highwater.marks WHERE next_offset > 0") > 0
        });
        service.signal(libc::SIGKILL);
        service.wait();
        from = to;
    }
    world.run_until_caught_up();

    let gateless = (0..RECORDS).filter(|record| is_gateless(*record)).count() as i64;
    let nameless = |record: &i64| is_nameless(*record) && !is_gateless(*record);
    let nameless = (0..RECORDS).filter(nameless).count() as i64;
    let taken = (0..RECORDS).filter(|record| !is_gateless(*record));
    let taken: i64 = taken.map(|record| record % 5).sum();
    assert_eq!(world.number("SELECT count(*) FROM facts"), taken);
    let text = |values: [i64; 3]| vec![values.map(|value| Some(value.to_string())).to_vec()];
    // An array of nothing says nothing of a row.
    let empty = RECORDS / 5;
    assert_eq!(fates(&world, "lake"), text([RECORDS - gateless - empty, empty, gateless]));
    assert_eq!(fates(&world, "model:facts"), fates(&world, "lake"));
    let numbered = [RECORDS - gateless - empty - nameless, empty, gateless + nameless];
    assert_eq!(fates(&world, "model:by_number"), text(numbered));
    world.assert_proof();
    world.run(&["verify", "--deep"]);

    world.declare("events", &mended());
    world.run(&["dead-letters", "retry"]);
    world.run(&["verify", "--deep"]);
    assert_eq!(tables(&world), tables(&clean));
    world.run_until_caught_up();
    world.assert_proof();
    crate::replay::assert_made_anew(&world);
    assert_eq!(tables(&world), tables(&clean));
    world.run(&["verify", "--deep"]);
}

const ORDERS: &str = r#"
topic   = "{topic}"
format  = "canal"
batched = true

[changes]
key   = ["id"]
order = "offset"

[columns]
id    = "integer"
shop  = { type = "text", optional = true }
total = { type = "numeric(10,2)", optional = true }

[lake]
partition_by = ["date(_timestamp)"]
roll         = { bytes = "128MiB", age = "200ms" }
"#;

#[test]
fn messages_of_several_rows_are_changes_one_behind_the_other() {
    let Some(world) = World::empty("batched_canal", 3, Lake::Local) else { return };
    world.declare("orders", ORDERS);
    world.declare_model(
        "current",
        "CREATE MATERIALIZED VIEW current AS SELECT id, shop, total FROM orders;",
    );
    world.declare_model(
        "by_shop",
        "CREATE MATERIALIZED VIEW by_shop AS
         SELECT shop, count(*) AS orders, sum(total) AS total FROM orders GROUP BY shop;",
    );
    let mut rng = SmallRng::seed_from_u64(7);
    // By key; the keys of a group go to one partition.
    let mut source = BTreeMap::<i64, (String, i64)>::new();
    let mut sent = Vec::new();
    for _ in 0..3_000 {
        let group = rng.random_range(0..20);
        let (mut data, mut old) = (Vec::new(), Vec::new());
        let kind = ["INSERT", "UPDATE", "DELETE"][rng.random_range(0..3)];
        for _ in 0..rng.random_range(1..5) {
            let id = group * 10 + rng.random_range(0..10);
            let row = |id: i64, (shop, total): &(String, i64)| {
                let total = format!("{}.{:02}", total / 100, total % 100);
                json!({"id": id.to_string(), "shop": shop, "total": total})
            };
            let new = (format!("s{}", rng.random_range(0..5)), rng.random_range(0..10_000));
            match (kind, source.get(&id).cloned()) {
                ("INSERT", None) | ("UPDATE", Some(_)) => {
                    data.push(row(id, &new));
                    source.insert(id, new);
                }
                ("DELETE", Some(before)) => {
                    data.push(row(id, &before));
                    source.remove(&id);
                }
                _ => continue,
            }
            old.push(json!({"total": "0"}));
        }
        if data.is_empty() {
            continue;
        }
        let old = if kind == "UPDATE" { Value::from(old) } else { Value::Null };
        let message = json!({
            "id": 1, "database": "test", "table": "orders", "isDdl": false, "type": kind,
            "es": 1_639_633_141_221i64, "data": data, "old": old,
        });
        sent.push((group.to_string(), message.to_string()));
    }
    let half = sent.len() / 2;
    let rest = sent.split_off(half);
    world.produce(sent);
    let service = world.follow(&[("HIGHWATER_COMMIT_INTERVAL", "40ms")]);
    world.produce(rest);
    eventually("something is committed", || {
        world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 1
            && world.number("SELECT count(*) FROM highwater.marks WHERE next_offset > 0") > 0
    });
    service.signal(libc::SIGKILL);
    service.wait();
    world.run_until_caught_up();

    let total = |total: i64| Some(format!("{}.{:02}", total / 100, total % 100));
    let expected = source
        .iter()
        .map(|(id, (shop, cents))| vec![Some(id.to_string()), Some(shop.clone()), total(*cents)]);
    let expected: Vec<_> = expected.collect();
    assert_eq!(world.query("SELECT id, shop, total FROM current ORDER BY id"), expected);
    let mut shops = BTreeMap::<&str, (i64, i64)>::new();
    for (shop, cents) in source.values() {
        let known = shops.entry(shop).or_default();
        *known = (known.0 + 1, known.1 + cents);
    }
    let expected = shops.iter().map(|(shop, (orders, cents))| {
        vec![Some((*shop).to_owned()), Some(orders.to_string()), total(*cents)]
    });
    let expected: Vec<_> = expected.collect();
    assert_eq!(world.query("SELECT shop, orders, total FROM by_shop ORDER BY shop"), expected);
    world.assert_proof();
    world.run(&["verify", "--deep"]);
}
