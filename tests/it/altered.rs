//! A real source whose table is altered under load: PostgreSQL, Debezium's connector with schemas, Kafka. With
//! `drift = "apply"` table and lake get the columns while highwater and the connector are killed; another type
//! stops the topic.
//!
//! Bugs that these tests were seen to find, planted one by one: digits that the
//! declared type takes counted as drift; a table that was there before, sent again, taken for a new one; prepared
//! statements kept over a change of their table; a type of the source's taken for another.

use crate::{
    drift::{deep, file_types, lake},
    mirrored::connector,
    support::{
        Lake, Running, World, connect, create_topic, eventually, runtime,
        servers::{Connect, Postgres},
    },
};
use arrow::datatypes::DataType;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// What is written beside `id` and `state` says `fill`, which is replaced whenever the table is altered.
const SOURCE: &str = "
CREATE SEQUENCE versions;
CREATE TABLE altered (stage bigint, version bigint);
CREATE TABLE orders (id integer PRIMARY KEY, state text, version bigint, qty integer, code varchar(8), price \
                     numeric(8,2), digits numeric(6,2), at timestamp(3));
CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER fill BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION fill();
";

/// In the end the source's table has these; `digits` and `at` are wider in the file than they were there.
const TOPIC: &str = r#"topic = "{topic}.public.orders"
format = "debezium-json"
drift = "apply"

[changes]
key = ["id"]

[columns]
id      = "integer"
state   = { type = "text", optional = true }
version = { type = "bigint", optional = true }
qty     = { type = "integer", optional = true }
code    = { type = "text", optional = true }
price   = { type = "numeric(8,2)", optional = true }
digits  = { type = "numeric(12,2)", optional = true }
at      = { type = "timestamptz", optional = true }

[lake]
partition_by = []
roll = { bytes = "128MiB", age = "1s" }

[dead_letters]
stop_above = "100%"
"#;

const MODELS: [(&str, &str); 2] = [
    ("orders_now", "CREATE MATERIALIZED VIEW orders_now AS SELECT * FROM orders"),
    (
        "by_state",
        "CREATE MATERIALIZED VIEW by_state AS SELECT state, count(*) AS n, count(code) AS coded FROM orders GROUP BY state",
    ),
];

/// What `fill` does, and the statement after which it does so.
const ALTERED: [(&str, &str); 5] = [
    (
        "",
        "NEW.qty := n % 1000; NEW.code := 'c' || n % 100; NEW.price := n % 1000 + 0.25; NEW.digits := 0.01; NEW.at := \
         timestamp '2024-02-29 00:00:00.123' + n * interval '1 s'",
    ),
    // Without a default, and one that no reader of the log is told for the rows that are there.
    (
        "ADD COLUMN note text, ADD COLUMN big bigint, ADD COLUMN flag boolean NOT NULL DEFAULT true",
        "NEW.note := 'Ünï \"' || n; NEW.big := 9223372036854775807 - n; NEW.flag := n % 2 = 0",
    ),
    // What the declared types take anyway: more characters, digits and microseconds.
    (
        "ALTER COLUMN code TYPE varchar(80), ALTER COLUMN digits TYPE numeric(12,2), ALTER COLUMN at TYPE timestamp(6)",
        "NEW.code := repeat('long ', 10) || n; NEW.digits := 9999999999.99; NEW.at := timestamp \
         '1960-01-01 00:00:00.000001' + n * interval '1 h'",
    ),
    (
        "ALTER COLUMN qty TYPE bigint, ALTER COLUMN price TYPE numeric(14,4)",
        "NEW.qty := 5000000000 + n; NEW.price := 9999999999.0001",
    ),
    (
        "ADD COLUMN fee numeric(10,3) DEFAULT 1.5, ADD COLUMN made timestamptz DEFAULT now(), ADD COLUMN doc jsonb, ADD \
         COLUMN tags text[], ADD COLUMN raw bytea, ADD COLUMN ref uuid, ADD COLUMN day date, ADD COLUMN ratio double \
         precision, ADD COLUMN small smallint, ADD COLUMN \"orderNo\" integer, ADD COLUMN mood mood DEFAULT 'calm', ADD \
         COLUMN pairs hstore",
        "NEW.fee := n / 8.0; NEW.made := timestamptz '2024-02-29 23:59:59.999999+01' + n * interval '1 h'; NEW.doc := \
         jsonb_build_object('n', n, 'nothing', NULL); NEW.tags := ARRAY['a', 'b' || n]; NEW.raw := \
         decode(md5(n::text), 'hex'); NEW.ref := md5(n::text)::uuid; NEW.day := date '1999-12-31' + (n % 1000)::integer; \
         NEW.ratio := n / 3.0; NEW.small := n % 100; NEW.\"orderNo\" := n; NEW.mood := 'wild'; \
         NEW.pairs := hstore(ARRAY['n', n::text, 'q\"', 'ü', 'nothing', NULL])",
    ),
];

/// Columns of the source that a change tells only from so many alterations on.
const ADDED: [(usize, &[&str]); 2] = [
    (1, &["note", "big", "flag"]),
    (
        4,
        &[
            "fee",
            "made",
            "doc",
            "to_jsonb(tags)",
            "raw",
            "ref",
            "day",
            "ratio",
            "small",
            "\"orderNo\"",
            "mood",
            "hstore_to_jsonb(pairs)",
        ],
    ),
];

/// Alters the table with what fills it; notes how many changes there were before.
fn alter(asked: &tokio_postgres::Client, world: &World, stage: usize) {
    let (alteration, _) = ALTERED[stage];
    let fills: String = ALTERED[..=stage].iter().map(|(_, fill)| format!("{fill}; ")).collect();
    let alteration = match alteration {
        "" => String::new(),
        actions => format!("ALTER TABLE orders {actions};"),
    };
    let sql = format!(
        "BEGIN; LOCK TABLE orders; {alteration} CREATE OR REPLACE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ \
         DECLARE n bigint; BEGIN n := nextval('versions'); NEW.version := n; {fills} RETURN NEW; END $$; INSERT INTO \
         altered SELECT {stage}, last_value FROM versions; COMMIT"
    );
    world.runtime.block_on(async { asked.batch_execute(&sql).await.expect(&sql) });
}

fn load(url: String, seed: u64) -> (std::thread::JoinHandle<u64>, Arc<AtomicBool>) {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let writer = std::thread::spawn(move || {
        let runtime = runtime();
        runtime.block_on(async {
            let client = connect(&url).await;
            let mut random = StdRng::seed_from_u64(seed);
            let mut written = 0;
            while !told.load(Ordering::Relaxed) {
                let statements: Vec<String> =
                    (0..random.random_range(1..4)).map(|_| write(&mut random)).collect();
                let sql = format!("BEGIN; {}; COMMIT", statements.join("; "));
                client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
                written += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            written
        })
    });
    (writer, stop)
}

fn write(random: &mut StdRng) -> String {
    // Some rows are never touched.
    let id = random.random_range(50..200);
    match random.random_range(0..10) {
        0..4 => format!(
            "INSERT INTO orders (id, state) VALUES ({id}, 'new') ON CONFLICT (id) DO UPDATE SET state = 'again'"
        ),
        4..8 => format!("UPDATE orders SET state = 'paid' WHERE id = {id}"),
        _ => format!("DELETE FROM orders WHERE id = {id}"),
    }
}

struct Altered {
    world: World,
    source: Postgres,
    asked: tokio_postgres::Client,
    connect: Connect,
}

fn altered(name: &str) -> Option<Altered> {
    let world = World::empty(name, 1, Lake::Local)?;
    let source = Postgres::start()?;
    let topic = format!("{}.public.orders", world.kafka_topic);
    world.runtime.block_on(create_topic(&world.services.kafka, &topic, 2));
    world.declare("orders", TOPIC);
    for (name, sql) in MODELS {
        world.declare_model(name, sql);
    }
    let asked = world.runtime.block_on(async {
        let client = connect(&source.url()).await;
        client
            .batch_execute("CREATE TYPE mood AS ENUM ('calm', 'wild'); CREATE EXTENSION hstore")
            .await
            .expect("a type");
        client.batch_execute(SOURCE).await.expect("the source's tables");
        client
    });
    alter(&asked, &world, 0);
    world.runtime.block_on(async {
        let rows =
            "INSERT INTO orders (id, state) SELECT n, 'old' FROM generate_series(1, 80) AS n";
        asked.batch_execute(rows).await.expect("rows");
    });
    let converter = |of: &str| format!("{of}.converter");
    let json = "org.apache.kafka.connect.json.JsonConverter".to_owned();
    let names = [converter("key"), converter("value")];
    let enables = names.clone().map(|name| format!("{name}.schemas.enable"));
    let mut settings = connector(&source, &world.kafka_topic, "source").to_vec();
    settings.extend(names.iter().map(|name| (name.as_str(), json.clone())));
    settings.extend(enables.iter().map(|name| (name.as_str(), "true".to_owned())));
    let connect = Connect::start(&world.services.kafka, &settings)?;
    Some(Altered { world, source, asked, connect })
}

impl Altered {
    fn source(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.world.runtime.block_on(async {
            let messages = self.asked.simple_query(sql).await.expect(sql);
            let row = |message: &tokio_postgres::SimpleQueryMessage| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
                }
                _ => None,
            };
            messages.iter().filter_map(row).collect()
        })
    }

    /// The table is what changes have told of the source's: a default that filled rows which no change has
    /// touched since is no change.
    fn await_same(&self, running: &Running, told: &str) {
        let mut columns: Vec<String> =
            ["id", "state", "version", "qty", "code", "price::numeric(14,4)", "digits", "at"]
                .map(str::to_owned)
                .to_vec();
        for (stage, names) in ADDED {
            let since = format!("(SELECT version FROM altered WHERE stage = {stage})");
            columns.extend(
                names.iter().map(|name| format!("CASE WHEN version > {since} THEN {name} END")),
            );
        }
        let wanted = self.source(&format!("SELECT {} FROM orders ORDER BY id", columns.join(", ")));
        let found = "SELECT id, state, version, qty, code, price, digits, at AT TIME ZONE 'UTC', note, big, flag, fee, made, \
                     doc, tags, raw, ref, day, ratio, small, order_no, mood, pairs FROM orders_now ORDER BY id";
        let (mut last, deadline) =
            (Vec::new(), std::time::Instant::now() + Duration::from_secs(60));
        eventually("the table equals the source's", || {
            if !has_column(&self.world, "orders_now", "mood") {
                assert!(std::time::Instant::now() < deadline, "{told}\n{}", running.printed());
                return false;
            }
            last = self.world.query(found);
            if last != wanted && std::time::Instant::now() > deadline {
                let lacks: Vec<_> =
                    wanted.iter().filter(|row| !last.contains(row)).take(2).collect();
                let more: Vec<_> =
                    last.iter().filter(|row| !wanted.contains(row)).take(2).collect();
                panic!("{told}: lacks {lacks:?}\nhas {more:?}\n{}", running.printed());
            }
            last == wanted
        });
        let groups = "SELECT state, count(*), count(code) FROM orders GROUP BY state ORDER BY state COLLATE \"C\"";
        let of_model = "SELECT state, n, coded FROM by_state ORDER BY state";
        assert_eq!(self.world.query(of_model), self.source(groups), "{told}");
    }
}

fn has_column(world: &World, table: &str, column: &str) -> bool {
    let sql = format!(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('{table}') AND attname = '{column}'"
    );
    world.number(&sql) == 1
}

/// Offsets that every output has passed.
fn passed(world: &World) -> i64 {
    match world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") {
        0 => 0,
        _ => world.number(
            "SELECT coalesce(min(s), 0)::bigint FROM (SELECT sum(next_offset) AS s FROM highwater.marks GROUP BY output) t",
        ),
    }
}

const QUICKLY: [(&str, &str); 1] = [("HIGHWATER_COMMIT_INTERVAL", "50ms")];

#[test]
fn table_and_lake_follow_a_source_that_is_altered_under_load_whatever_is_killed() {
    let Some(mut altered) = altered("altered") else { return };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (writer, stop) = load(altered.source.url(), seed);
    let mut killed = 0;
    for stage in 1..ALTERED.len() {
        let running = altered.world.follow(&QUICKLY);
        let before = passed(&altered.world);
        let goal = before + random.random_range(20..300);
        eventually("something is done", || passed(&altered.world) > goal);
        // Before, while or after highwater is away.
        match random.random_range(0..3) {
            0 => {
                alter(&altered.asked, &altered.world, stage);
                let goal = passed(&altered.world) + random.random_range(0..200);
                eventually("some of it is met", || passed(&altered.world) > goal);
                running.signal(libc::SIGKILL);
            }
            1 => {
                alter(&altered.asked, &altered.world, stage);
                running.signal(libc::SIGKILL);
            }
            _ => {
                running.signal(libc::SIGKILL);
                alter(&altered.asked, &altered.world, stage);
            }
        }
        killed += usize::from(running.wait().0.is_none());
        // What it sends again has the table of then.
        if stage % 2 == 1 {
            altered.connect.server.end(libc::SIGKILL);
            altered.connect.start_again();
        }
    }
    assert_eq!(killed, ALTERED.len() - 1);
    let pair = [altered.world.follow(&QUICKLY), altered.world.follow(&QUICKLY)];
    let goal = passed(&altered.world) + 300;
    eventually("the load goes on", || passed(&altered.world) > goal);
    stop.store(true, Ordering::Relaxed);
    let written = writer.join().expect("the load");
    let told = format!("seed {seed}, {written} transactions");
    altered.await_same(&pair[0], &told);
    let rows = "SELECT count(*) FILTER (WHERE made IS NULL), count(*) FILTER (WHERE made IS NOT NULL) FROM orders_now";
    println!("{told}: not touched, touched since: {:?}", altered.world.query(rows));
    // Touched, all rows have what the defaults gave them.
    let touch =
        "ALTER TABLE orders DISABLE TRIGGER fill; UPDATE orders SET version = nextval('versions')";
    altered.source(touch);
    altered.await_same(&pair[0], &told);
    pair.into_iter().for_each(|process| drop(process.stop()));
    let world = &altered.world;
    world.run_until_caught_up();
    assert_eq!(world.number("SELECT count(*) FROM highwater.dead_letters"), 0);
    let untold = "SELECT count(*) FROM orders_now WHERE flag IS NULL OR fee IS NULL OR made IS NULL OR mood IS NULL";
    assert_eq!(world.number(untold), 0);
    let types = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attname) FROM \
                 pg_attribute WHERE attrelid = 'orders_now'::regclass AND attname IN ('code', 'digits', 'at', 'price', 'qty')";
    let expected = "at timestamp with time zone, code text, digits numeric(12,2), price numeric(14,4), qty bigint";
    assert_eq!(world.query(types), [[Some(expected.to_owned())]]);

    // All files by the names of columns: the last image of each key is its row at the source.
    const COLUMNS: &str =
        "id, version, qty, price, note, big, flag, fee, ref, day, small, order_no, mood";
    let names: Vec<&str> = ["_offset", "_op"].into_iter().chain(COLUMNS.split(", ")).collect();
    let mut last: BTreeMap<i64, (i64, Vec<String>)> = BTreeMap::new();
    for row in lake(world, &names) {
        let [offset, id] = [0, 2].map(|place| row[place].parse::<i64>().expect("a number"));
        let known = last.entry(id).or_insert((offset, row.clone()));
        if known.0 < offset {
            *known = (offset, row);
        }
    }
    let of_lake: Vec<String> = last
        .into_values()
        .filter(|(_, row)| row[1] != "delete")
        .map(|(_, row)| row[2..].join("|"))
        .collect();
    for (column, last) in [("qty", DataType::Int64), ("price", DataType::Decimal128(14, 4))] {
        assert!(
            file_types(world, column).contains(&last),
            "{column}: {:?}",
            file_types(world, column)
        );
    }
    let of_source = altered.source(
        "SELECT id, version, qty, price, note, big, flag::text, fee, ref, day, small, \"orderNo\", mood FROM orders \
         ORDER BY id",
    );
    let of_source: Vec<String> = of_source
        .into_iter()
        .map(|row| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join("|"))
        .collect();
    assert_eq!(of_lake, of_source, "{told}");
    deep(world);
    let drift = world.run(&["drift", "orders"]);
    assert!(drift.contains("followed: qty bigint, was integer"), "{drift}");
    assert!(!drift.contains("followed: code") && !drift.contains("followed: digits"), "{drift}");
    assert!(!drift.contains("stopped"), "{drift}");
}

#[test]
fn another_type_at_a_real_source_stops_the_topic_with_a_diff_until_a_person_lets_it_pass() {
    let Some(altered) = altered("altered_type") else { return };
    let world = &altered.world;
    let mut running = world.follow(&QUICKLY);
    eventually("the snapshot is read", || passed(world) == 80);
    altered.source(
        "ALTER TABLE orders DISABLE TRIGGER fill; ALTER TABLE orders ALTER COLUMN qty TYPE text USING qty || ' pieces'; \
         UPDATE orders SET state = 'new' WHERE id <= 10",
    );
    eventually("it stops", || running.get("/readyz").1.contains("stopped"));
    running.signal(libc::SIGTERM);
    assert_eq!(running.wait().0, Some(1), "a topic stopped");
    assert_eq!(world.number("SELECT count(*) FROM orders_now WHERE state = 'old'"), 80);
    for command in [&["drift", "orders"][..], &["drift"], &["status"]] {
        let told = world.run(command);
        assert!(told.contains("qty") && told.contains("text, was integer"), "{command:?}: {told}");
    }
    let status: serde_json::Value =
        serde_json::from_str(&world.run(&["status", "--json"])).expect("JSON");
    let refused = status["drift"][0]["refused"][0].as_str().expect("a sentence");
    assert!(
        status["drift"][0]["topic"] == "orders" && refused.contains("text, was integer"),
        "{status}"
    );

    // Let pass, what does not fit is a letter; and the source goes back.
    world.run(&["drift", "orders", "--accept"]);
    let running = world.follow(&QUICKLY);
    eventually("the ten are letters", || {
        world.number("SELECT count(*) FROM highwater.dead_letters") >= 10
    });
    altered.source(
        "ALTER TABLE orders ALTER COLUMN qty TYPE integer USING split_part(qty, ' ', 1)::integer; UPDATE orders SET state = \
         'mended'",
    );
    let wanted = altered.source("SELECT id, state, qty FROM orders ORDER BY id");
    eventually("the table equals the source's", || {
        world.query("SELECT id, state, qty FROM orders_now ORDER BY id") == wanted
    });
    running.stop();
    world.run_until_caught_up();
    assert!(!world.run(&["status"]).contains("text, was integer"));
    deep(world);
}
