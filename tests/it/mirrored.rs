//! A real source: PostgreSQL under a random load of writes, Debezium's connector, Kafka. Tables follow
//! it while highwater and the connector are killed and started, and in the end equal the source's.

use crate::support::{
    Lake, Running, World, connect, create_topic, eventually, runtime,
    servers::{Connect, Postgres},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// `orders` has REPLICA IDENTITY DEFAULT: what it was before, its changes do not say.
const SOURCE: &str = "
CREATE TABLE orders (
  id integer PRIMARY KEY, state text, qty integer, price numeric(12,2), big bigint, small smallint, single real,
  ratio double precision, flag boolean, day date, at timestamptz, local timestamp, ref uuid, doc jsonb, raw bytea,
  body text);
ALTER TABLE orders ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE TABLE items (tenant text, no integer, title text, body text, PRIMARY KEY (tenant, no));
ALTER TABLE items REPLICA IDENTITY FULL;
ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO orders (id, state, qty, price) SELECT n, 'old', n, n + 0.5 FROM generate_series(1, 40) AS n;
INSERT INTO items SELECT 't' || n % 3, n, 'old', repeat('x', 5000) FROM generate_series(1, 40) AS n;
";

const ORDERS: &str = r#"topic = "{topic}.public.orders"
format = "debezium-json"
max_disorder = "1s"

[changes]
key = ["id"]

[columns]
id     = "integer"
state  = { type = "text", optional = true }
qty    = { type = "integer", optional = true }
price  = { type = "numeric(12,2)", optional = true }
big    = { type = "bigint", optional = true }
small  = { type = "smallint", optional = true }
single = { type = "real", optional = true }
ratio  = { type = "double precision", optional = true }
flag   = { type = "boolean", optional = true }
day    = { type = "date", optional = true }
at     = { type = "timestamptz", optional = true }
local  = { type = "timestamptz", optional = true, encoding = "timestamp-us" }
ref    = { type = "uuid", optional = true }
doc    = { type = "jsonb", optional = true }
raw    = { type = "bytea", optional = true }
body   = { type = "text", optional = true }

[lake]
roll = { bytes = "128MiB", age = "1s" }
"#;

const ITEMS: &str = r#"topic = "{topic}.public.items"
format = "debezium-json"

[changes]
key = ["tenant", "no"]
before = "full"

[columns]
tenant = "text"
no     = "integer"
title  = { type = "text", optional = true }
body   = { type = "text", optional = true }

[lake]
roll = { bytes = "128MiB", age = "1s" }
"#;

const MODELS: [(&str, &str); 6] = [
    (
        "orders_now",
        "CREATE MATERIALIZED VIEW orders_now AS SELECT id, state, qty, price, big, small, single, ratio, flag, day, at, \
         local, ref, doc, raw, body FROM orders",
    ),
    (
        "orders_large",
        "CREATE MATERIALIZED VIEW orders_large AS SELECT id, upper(state) AS state, qty * 2 AS twice FROM orders \
         WHERE qty > 50",
    ),
    (
        "orders_by_state",
        "CREATE MATERIALIZED VIEW orders_by_state AS SELECT state, count(*) AS n, count(price) AS priced, sum(price) AS \
         total, avg(qty) AS mean, sum(qty) FILTER (WHERE flag) AS flagged FROM orders GROUP BY state",
    ),
    (
        "items_now",
        "CREATE MATERIALIZED VIEW items_now AS SELECT tenant, no, title, body FROM items",
    ),
    (
        "items_ever",
        "CREATE MATERIALIZED VIEW items_ever WITH (deletes = 'soft') AS SELECT tenant, no, title FROM items",
    ),
    (
        "items_history",
        "CREATE MATERIALIZED VIEW items_history WITH (history = 'validity') AS SELECT tenant, no, title FROM items",
    ),
];

/// What stands in a model's table, and the same asked of the source.
const SAME: [(&str, &str); 6] = [
    (
        "SELECT id, state, qty, price, big, small, single, ratio, flag, day, at, local AT TIME ZONE 'UTC', ref, doc, raw, \
         body FROM orders_now ORDER BY id",
        "SELECT id, state, qty, price, big, small, single, ratio, flag, day, at, local, ref, doc, raw, body FROM orders \
         ORDER BY id",
    ),
    (
        "SELECT id, state, twice FROM orders_large ORDER BY id",
        "SELECT id, upper(state), qty * 2 FROM orders WHERE qty > 50 ORDER BY id",
    ),
    (
        "SELECT state, n, priced, total, round(mean, 6), flagged FROM orders_by_state ORDER BY state COLLATE \"C\"",
        "SELECT state, count(*), count(price), sum(price), round(avg(qty), 6), sum(qty) FILTER (WHERE flag) FROM orders \
         GROUP BY state ORDER BY state COLLATE \"C\"",
    ),
    (
        "SELECT tenant, no, title, body FROM items_now ORDER BY 1, 2",
        "SELECT tenant, no, title, body FROM items ORDER BY 1, 2",
    ),
    (
        "SELECT tenant, no, title FROM items_ever WHERE _deleted_at IS NULL ORDER BY 1, 2",
        "SELECT tenant, no, title FROM items ORDER BY 1, 2",
    ),
    (
        "SELECT tenant, no, title FROM items_history WHERE valid_to IS NULL ORDER BY 1, 2",
        "SELECT tenant, no, title FROM items ORDER BY 1, 2",
    ),
];

/// Writes until it is told to end; gives how many transactions there were.
fn write(url: &str, seed: u64, stop: &AtomicBool) -> u64 {
    let runtime = runtime();
    runtime.block_on(async {
        let client = connect(url).await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut written = 0;
        while !stop.load(Ordering::Relaxed) {
            let sql = transaction(&mut random, written);
            client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            written += 1;
        }
        written
    })
}

/// The same beside others: what meets another's change is given up. No TRUNCATE, for of a table without rows a
/// connector reads nothing, and tells nothing.
fn write_together(url: &str, seed: u64, stop: &AtomicBool) -> u64 {
    let runtime = runtime();
    runtime.block_on(async {
        let client = connect(url).await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut written = 0;
        while !stop.load(Ordering::Relaxed) {
            let sql = transaction(&mut random, u64::MAX);
            if sql.contains("TRUNCATE") {
                continue;
            }
            match client.batch_execute(&sql).await {
                Ok(()) => written += 1,
                Err(_) => client.batch_execute("ROLLBACK").await.expect("the source"),
            }
        }
        written
    })
}

/// Its changes, each a statement.
fn transaction(random: &mut StdRng, number: u64) -> String {
    if number == 200 {
        return "ALTER TABLE orders ADD COLUMN note text DEFAULT 'later'".to_owned();
    }
    let end = if random.random_bool(0.1) { "ROLLBACK" } else { "COMMIT" };
    let statements = random.random_range(1..4);
    let all: Vec<String> = (0..statements)
        .map(|_| match random.random_bool(0.6) {
            true => order(random),
            false => item(random),
        })
        .collect();
    format!("BEGIN; {}; {end}", all.join("; "))
}

fn order(random: &mut StdRng) -> String {
    let (id, other) = (random.random_range(1..120), random.random_range(1..120));
    let state = ["'new'", "'paid'", "'sent'", "NULL", "'Ünï \"q\"'"][random.random_range(0..5)];
    let qty = random.random_range(0..100);
    let price = ["NULL", "0.01", "-99.5", "9999999999.99"][random.random_range(0..4)];
    // Out of line, and compressed by nobody.
    let body = format!("repeat(md5('{}'), 200)", random.random::<u32>());
    let all = format!(
        "state = {state}, qty = {qty}, price = {price}, big = 9223372036854775807 - {qty}, small = -{qty}, single = \
         {qty} / 8.0, ratio = {qty} / 3.0, flag = {qty} % 3 = 0, day = date '1999-12-31' + {qty}, at = \
         timestamptz '2024-02-29 23:59:59.999999+01' + {qty} * interval '1 hour 1 microsecond', local = timestamp \
         '1960-01-01 00:00:00.000001' + {qty} * interval '1 year', ref = md5('{qty}')::uuid, doc = \
         jsonb_build_object('q', {qty}, 'n', NULL, 't', 'a\"b'), raw = decode(md5('{qty}'), 'hex')"
    );
    match random.random_range(0..300) * 100 / 299 {
        0..30 => format!(
            "INSERT INTO orders (id, state, qty, price, body) VALUES ({id}, {state}, {qty}, {price}, {body}) ON CONFLICT \
             (id) DO UPDATE SET {all}"
        ),
        30..55 => format!("UPDATE orders SET {all} WHERE id = {id}"),
        55..65 => format!("UPDATE orders SET body = {body} WHERE id = {id}"),
        65..75 => format!("UPDATE orders SET state = {state} WHERE id % 9 = {}", id % 9),
        75..87 => format!("DELETE FROM orders WHERE id = {id}"),
        // Without the row before, a new key says nothing of values that are out of line.
        87..94 => format!(
            "UPDATE orders SET id = {other}, body = {body} WHERE id = {id} AND NOT EXISTS (SELECT FROM orders WHERE id = \
             {other})"
        ),
        94..100 => format!(
            "DELETE FROM orders WHERE id = {id}; INSERT INTO orders (id, state, qty) VALUES ({id}, {state}, {qty})"
        ),
        _ => "TRUNCATE orders".to_owned(),
    }
}

fn item(random: &mut StdRng) -> String {
    let (tenant, no, other) =
        (random.random_range(0..3), random.random_range(1..60), random.random_range(1..60));
    let title = format!("'title {}'", random.random_range(0..50));
    match random.random_range(0..300) * 100 / 299 {
        0..30 => format!(
            "INSERT INTO items VALUES ('t{tenant}', {no}, {title}, repeat(md5({title}), 200)) ON CONFLICT (tenant, no) DO \
             NOTHING"
        ),
        30..70 => {
            format!("UPDATE items SET title = {title} WHERE tenant = 't{tenant}' AND no = {no}")
        }
        70..82 => format!("DELETE FROM items WHERE tenant = 't{tenant}' AND no = {no}"),
        82..100 => format!(
            "UPDATE items SET no = {other} WHERE tenant = 't{tenant}' AND no = {no} AND NOT EXISTS (SELECT FROM items \
             WHERE tenant = 't{tenant}' AND no = {other})"
        ),
        _ => "TRUNCATE items".to_owned(),
    }
}

/// A connector's settings; its slot has its name.
pub fn connector(source: &Postgres, prefix: &str, name: &str) -> [(&'static str, String); 13] {
    let url = source.url();
    let port = url.rsplit([':', '/']).nth(1).expect("a port").to_owned();
    [
        ("name", name.to_owned()),
        ("slot.name", name.to_owned()),
        ("connector.class", "io.debezium.connector.postgresql.PostgresConnector".to_owned()),
        ("database.hostname", "127.0.0.1".to_owned()),
        ("database.port", port),
        ("database.user", "postgres".to_owned()),
        ("database.password", "none".to_owned()),
        ("database.dbname", "postgres".to_owned()),
        ("topic.prefix", prefix.to_owned()),
        ("plugin.name", "pgoutput".to_owned()),
        ("publication.autocreate.mode", "filtered".to_owned()),
        ("table.include.list", "public.orders,public.items".to_owned()),
        ("skipped.operations", "none".to_owned()),
    ]
}

#[test]
fn tables_equal_a_source_under_load_whatever_is_killed() {
    let Some(world) = World::empty("mirrored", 1, Lake::Local) else { return };
    let Some(source) = Postgres::start() else { return };
    let prefix = &world.kafka_topic;
    for (table, partitions) in [("orders", 3), ("items", 2)] {
        let topic = format!("{prefix}.public.{table}");
        world.runtime.block_on(create_topic(&world.services.kafka, &topic, partitions));
    }
    world.declare("orders", ORDERS);
    world.declare("items", ITEMS);
    for (name, sql) in MODELS {
        world.declare_model(name, sql);
    }
    let asked = world.runtime.block_on(async {
        let client = connect(&source.url()).await;
        client.batch_execute(SOURCE).await.expect("the source's tables");
        client
    });
    let settings = connector(&source, prefix, "source");
    let Some(mut connector) = Connect::start(&world.services.kafka, &settings) else { return };

    let long = std::env::var_os("HIGHWATER_TEST_LONG").is_some();
    let (lives, life) = if long { (40, 5_000) } else { (4, 1_500) };
    let stop = Arc::new(AtomicBool::new(false));
    let seed = rand::random();
    println!("seed {seed}");
    let writer = {
        let (url, stop) = (source.url(), stop.clone());
        std::thread::spawn(move || write(&url, seed, &stop))
    };
    let mut random = StdRng::seed_from_u64(seed);
    let mut killed = 0;
    let quickly = [("HIGHWATER_COMMIT_INTERVAL", "50ms")];
    for n in 0..lives {
        let running = world.follow(&quickly);
        let until = Instant::now() + Duration::from_millis(random.random_range(life / 3..life));
        let before = accepted(&world);
        // It is to die with something done, wherever it is then.
        eventually("a cut", || Instant::now() > until && accepted(&world) > before);
        running.signal(libc::SIGKILL);
        killed += u64::from(running.wait().0.is_none());
        if n % 2 == 1 {
            connector.server.end(libc::SIGKILL);
            connector.start_again();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let written = writer.join().expect("the load");
    assert!(killed == lives && written > 300, "{killed} killed, {written} transactions");

    let running = world.follow(&quickly);
    assert_same(&world, &asked, &running, &format!("seed {seed}, {written} transactions"));
    running.stop();
    world.run_until_caught_up();
    world.assert_proof();
    assert_eq!(world.number("SELECT count(*) FROM highwater.dead_letters"), 0);
    let versions = "SELECT count(*) FROM items_history WHERE valid_to < valid_from";
    assert_eq!(world.number(versions), 0);
    let gone = "SELECT count(*) FROM items_ever WHERE _deleted_at IS NOT NULL";
    assert!(world.number(gone) > 0, "the load deletes");
    let (code, text) = Running::start(world.command(&["verify", "--deep"])).wait();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("6 tables rebuilt"), "{text}");
    let refused = world.output(&["replay", "model:orders_now"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("it holds a snapshot of the source"), "{said}");
}

#[test]
fn a_refused_change_is_not_given_to_a_table_that_has_gone_on_without_it() {
    let Some(world) = World::empty("refused_change", 1, Lake::Local) else { return };
    let orders = ORDERS.replace("{topic}.public.orders", "{topic}");
    world.declare("orders", &format!("{orders}\n[dead_letters]\nstop_above = \"100%\"\n"));
    let (name, sql) = MODELS[1];
    world.declare_model(name, sql);
    let change = |op: &str, qty: &str, lsn: u64| {
        let text = format!(
            "{{\"op\":\"{op}\",\"before\":null,\"after\":{{\"id\":1,\"state\":\"new\",\"qty\":{qty}}},\
             \"source\":{{\"lsn\":{lsn},\"ts_us\":1700000000000000}}}}"
        );
        ("1".to_owned(), text)
    };
    world.produce([change("c", "60", 1), change("u", "\"many\"", 2), change("u", "80", 3)]);
    world.run_until_caught_up();
    let rows = "SELECT id, state, twice FROM orders_large";
    let expected = [["1", "NEW", "160"].map(|cell| Some(cell.to_owned())).to_vec()];
    assert_eq!(world.query(rows), expected);
    let text = world.run(&["dead-letters", "retry"]);
    assert!(text.contains("follows changes in their order"), "{text}");
    assert!(text.contains("0 taken") && text.contains("1 wait"), "{text}");
    assert_eq!(world.query(rows), expected);
    world.assert_proof();
}

/// In the end the tables are what the source has.
fn assert_same(world: &World, asked: &tokio_postgres::Client, running: &Running, told: &str) {
    let rows = |sql: &str| -> Vec<Vec<Option<String>>> {
        world.runtime.block_on(async {
            let messages = asked.simple_query(sql).await.expect(sql);
            let row = |message: &tokio_postgres::SimpleQueryMessage| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
                }
                _ => None,
            };
            messages.iter().filter_map(row).collect()
        })
    };
    for (table, of_source) in SAME {
        let wanted = rows(of_source);
        let deadline = Instant::now() + Duration::from_secs(60);
        eventually(table, || {
            let found = world.query(table);
            if Instant::now() > deadline && found != wanted {
                let lacks: Vec<_> =
                    wanted.iter().filter(|row| !found.contains(row)).take(3).collect();
                let more: Vec<_> =
                    found.iter().filter(|row| !wanted.contains(row)).take(3).collect();
                panic!("{told}, {table}: lacks {lacks:?}, has {more:?}\n{}", running.printed());
            }
            found == wanted
        });
        println!("{} rows, {told}: {table}", wanted.len());
    }
}

/// The slot is lost, and with it whatever happened until there is another one.
#[test]
fn tables_equal_a_source_whose_connector_was_lost_and_made_anew() {
    let Some(world) = World::empty("anew", 1, Lake::Local) else { return };
    let Some(source) = Postgres::start() else { return };
    let prefix = &world.kafka_topic;
    for (table, partitions) in [("orders", 3), ("items", 2)] {
        let topic = format!("{prefix}.public.{table}");
        world.runtime.block_on(create_topic(&world.services.kafka, &topic, partitions));
    }
    // The load deletes as it likes.
    for (name, text, before) in [("orders", ORDERS, "[columns]"), ("items", ITEMS, "[columns]")] {
        let allowed = format!("max_deletes = \"100%\"\n\n{before}");
        world.declare(name, &text.replace(before, &allowed));
    }
    for (name, sql) in MODELS {
        world.declare_model(name, sql);
    }
    let asked = world.runtime.block_on(async {
        let client = connect(&source.url()).await;
        client.batch_execute(SOURCE).await.expect("the source's tables");
        client
    });
    let settings = connector(&source, prefix, "first");
    let Some(mut first) = Connect::start(&world.services.kafka, &settings) else { return };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let load = |seed: u64| {
        let (url, stop) = (source.url(), Arc::new(AtomicBool::new(false)));
        let told = stop.clone();
        (std::thread::spawn(move || write_together(&url, seed, &told)), stop)
    };
    let quickly = [("HIGHWATER_COMMIT_INTERVAL", "50ms")];
    let running = world.follow(&quickly);
    let (writer, stop) = load(seed);
    eventually("some load", || accepted(&world) > 1_000);
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the load");
    first.server.end(libc::SIGKILL);
    let untold = "DELETE FROM orders WHERE id % 5 = 0; DELETE FROM items WHERE no % 4 = 0";
    let drop_slot = "SELECT pg_drop_replication_slot('first')";
    eventually("the slot is gone", || {
        world.runtime.block_on(async { asked.batch_execute(drop_slot).await.is_ok() })
    });
    world.runtime.block_on(async { asked.batch_execute(untold).await.expect("deletes") });
    // Transactions are open while the new connector reads the tables.
    let loads = [load(seed ^ 1), load(seed ^ 2), load(seed ^ 3)];
    let settings = connector(&source, prefix, "second");
    let Some(second) = Connect::start(&world.services.kafka, &settings) else { return };
    for (writer, stop) in loads {
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the load");
    }
    assert_same(&world, &asked, &running, &format!("seed {seed}"));
    drop(second);
    running.stop();
    world.run_until_caught_up();
    world.assert_proof();
    let applied = "SELECT count(*) FROM orders_now__snapshots WHERE state = 'applied' AND staged";
    assert_eq!(world.number(applied), 1);
    let (code, text) = Running::start(world.command(&["verify", "--deep"])).wait();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("6 tables rebuilt"), "{text}");
}

/// Changes that tables have taken.
fn accepted(world: &World) -> i64 {
    match world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") {
        0 => 0,
        _ => world.number(
            "SELECT coalesce(sum(accepted), 0) FROM highwater.marks WHERE output <> 'lake'",
        ),
    }
}
