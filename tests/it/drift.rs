//! Columns that a source gets, or that get wider there, while its changes are read: told, followed, or a
//! topic that stands. The records are Debezium's, with their schemas.

use crate::support::{Lake, Running, World, eventually};
use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Schema},
    util::display::array_value_to_string,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

const TOPIC: &str = r#"topic = "{topic}"
format = "debezium-json"
drift = "{drift}"

[changes]
key = ["id"]

[columns]
id    = "integer"
qty   = { type = "integer", optional = true }
price = { type = "numeric(6,2)", optional = true }

[lake]
partition_by = []
roll = { bytes = "128MiB", age = "{age}" }

[dead_letters]
stop_above = "100%"
"#;

const ALL: &str = "CREATE MATERIALIZED VIEW orders AS SELECT * FROM changes";
const SOME: &str = "CREATE MATERIALIZED VIEW few AS SELECT id, qty + 1 AS more FROM changes";
const QUICKLY: [(&str, &str); 1] = [("HIGHWATER_COMMIT_INTERVAL", "50ms")];

/// The source's table, version by version.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Table {
    First,
    /// `note` is added.
    Added,
    /// `qty` is a bigint, `price` has more digits.
    Wider,
    /// `note` is gone.
    Without,
    /// `qty` is text.
    Changed,
}

fn world(name: &str, partitions: i32, drift: &str, age: &str) -> Option<World> {
    let world = World::empty(name, partitions, Lake::Local)?;
    declare(&world, drift, age, "");
    world.declare_model("orders", ALL);
    Some(world)
}

fn declare(world: &World, drift: &str, age: &str, column: &str) {
    let topic = TOPIC.replace("{drift}", drift).replace("{age}", age);
    world.declare("changes", &topic.replace("\n[lake]", &format!("{column}\n[lake]")));
}

fn base64(number: i64) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(number.to_be_bytes())
}

/// A record as the connector writes it.
fn record(table: Table, id: i64, version: i64) -> (String, String) {
    let decimal = |precision: &str| {
        json!({"type": "bytes", "optional": true, "name": "org.apache.kafka.connect.data.Decimal", "version": 1,
               "parameters": {"scale": "2", "connect.decimal.precision": precision}, "field": "price"})
    };
    let wide = table >= Table::Wider;
    let qty = match table {
        Table::Changed => "string",
        _ if wide => "int64",
        _ => "int32",
    };
    let mut fields = vec![
        json!({"type": "int32", "optional": false, "field": "id"}),
        json!({"type": qty, "optional": true, "field": "qty"}),
        decimal(if wide { "12" } else { "6" }),
    ];
    let qty = if wide { 5_000_000_000 + version } else { version };
    let cents = if wide { 1_000_000_000 + version } else { version };
    let qty = if table == Table::Changed { json!(qty.to_string()) } else { json!(qty) };
    let mut row = json!({"id": id, "qty": qty, "price": base64(cents)});
    if table >= Table::Added && table != Table::Without {
        fields.push(json!({"type": "string", "optional": true, "field": "note"}));
        row["note"] = json!(format!("note {version}"));
    }
    let own = |name: &str| json!({"type": "struct", "fields": fields, "optional": true, "name": "s.Value", "field": name});
    let value = json!({
        "schema": {"type": "struct", "name": "s.Envelope", "optional": false,
                   "fields": [own("before"), own("after"), {"type": "string", "field": "op"}]},
        "payload": {"op": "u", "before": null, "after": row,
                    "source": {"lsn": version, "ts_us": 1_700_000_000_000_000i64 + version}},
    });
    let key = json!({
        "schema": {"type": "struct", "optional": false, "name": "s.Key",
                   "fields": [{"type": "int32", "optional": false, "field": "id"}]},
        "payload": {"id": id},
    });
    (key.to_string(), value.to_string())
}

fn produce(world: &World, partition: i32, records: impl IntoIterator<Item = (String, String)>) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.services.kafka)
        .set("enable.idempotence", "true")
        .create()
        .expect("producer");
    for (key, value) in records {
        let to = BaseRecord::to(&world.kafka_topic).key(&key).payload(&value).partition(partition);
        producer.send(to).map_err(|(e, _)| e).expect("produce");
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(30)).expect("flush");
}

fn text(cells: &[&str]) -> Vec<Option<String>> {
    cells.iter().map(|cell| (*cell != "NULL").then(|| (*cell).to_owned())).collect()
}

pub fn deep(world: &World) {
    world.assert_proof();
    let (code, text) = Running::start(world.command(&["verify", "--deep"])).wait();
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("was not rebuilt") && !text.contains("0 tables"), "{text}");
}

fn files(world: &World) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => walk(&path, found),
                false if path.extension().is_some_and(|e| e == "parquet") => found.push(path),
                false => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new(world.lake.strip_prefix("file://").expect("local")), &mut found);
    found.sort();
    found
}

fn batches(file: &Path) -> Vec<RecordBatch> {
    let file = std::fs::File::open(file).expect("a file");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
    reader.build().expect("Parquet").map(|batch| batch.expect("rows")).collect()
}

/// These columns of all files of the lake, found by their names; nothing where a file has none or it is NULL.
pub fn lake(world: &World, columns: &[&str]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for batch in files(world).iter().flat_map(|file| batches(file)) {
        for row in 0..batch.num_rows() {
            let cell = |name: &&str| match batch.column_by_name(name) {
                Some(column) => array_value_to_string(column, row).expect("a value"),
                None => String::new(),
            };
            rows.push(columns.iter().map(cell).collect());
        }
    }
    rows
}

/// The types that a column has in the files of the lake.
pub fn file_types(world: &World, column: &str) -> Vec<DataType> {
    let schemas = files(world).into_iter().map(|file| batches(&file)[0].schema());
    let mut types: Vec<_> = schemas
        .filter_map(|schema| Some(schema.field_with_name(column).ok()?.data_type().clone()))
        .collect();
    types.sort();
    types.dedup();
    types
}

/// In how many rows the column is not NULL.
pub fn filled(rows: &[Vec<String>], column: usize) -> usize {
    rows.iter().filter(|row| !row[column].is_empty()).count()
}

fn hidden(schema: &Schema) -> Vec<String> {
    let names = schema.fields().iter().map(|field| field.name().clone());
    names.skip_while(|name| !name.starts_with('_')).collect()
}

#[test]
fn columns_are_followed_by_two_processes_whatever_is_killed_and_where_partitions_meet_them() {
    let Some(world) = world("followed", 2, "apply", "300ms") else { return };
    world.declare_model("few", SOME);
    let mut random = StdRng::seed_from_u64(7);
    let mut at = [0; 2];
    let mut add = |world: &World, partition: i32, table: Table, count: i64| {
        let first = at[partition as usize];
        at[partition as usize] += count;
        let of = |n: i64| record(table, (n % 7) * 2 + i64::from(partition), n + 1);
        produce(world, partition, (first..first + count).map(of));
    };
    let mut services = vec![world.follow(&QUICKLY), world.follow(&QUICKLY)];
    // The first partition is a version ahead, and then two.
    for (partition, table, count) in [
        (0, Table::First, 200),
        (1, Table::First, 150),
        (0, Table::Added, 120),
        (1, Table::First, 80),
        (0, Table::Wider, 90),
        (1, Table::Added, 60),
        (0, Table::Added, 10),
        (0, Table::Wider, 40),
        (1, Table::Wider, 70),
    ] {
        add(&world, partition, table, count);
        let before = passed(&world);
        let killed = services.remove(random.random_range(0..2));
        killed.signal(libc::SIGKILL);
        killed.wait();
        services.push(world.follow(&QUICKLY));
        let goal = before + random.random_range(0..count);
        eventually("something is done", || passed(&world) >= goal);
    }
    eventually("all is read", || world.has_passed(4, at.iter().sum()));
    for service in services {
        service.stop();
    }
    let last = |partition: i64, n: i64| -> Vec<Option<String>> {
        let (id, version) = ((n % 7) * 2 + partition, n + 1);
        let qty = (5_000_000_000 + version).to_string();
        let price = format!("{}.{:02}", (1_000_000_000 + version) / 100, version % 100);
        text(&[&id.to_string(), &qty, &price, &format!("note {version}")])
    };
    let mut expected: Vec<_> = (0..2i64)
        .flat_map(|p| (at[p as usize] - 7..at[p as usize]).map(move |n| last(p, n)))
        .collect();
    expected.sort_by_key(|row| row[0].as_ref().and_then(|id| id.parse::<i64>().ok()));
    assert_eq!(world.query("SELECT id, qty, price, note FROM orders ORDER BY id"), expected);
    let few = "SELECT count(*) FROM few JOIN orders USING (id) WHERE more = qty + 1";
    assert_eq!(world.number(few), 14);
    let types = "SELECT string_agg(format_type(atttypid, atttypmod), ' ' ORDER BY attname) FROM pg_attribute WHERE \
                 attrelid = 'orders'::regclass AND attname IN ('note', 'price', 'qty')";
    assert_eq!(world.query(types), [text(&["text numeric(12,2) bigint"])]);
    let added =
        "SELECT number, column_name, type, was FROM highwater.added_columns ORDER BY number";
    let rows = [
        text(&["1", "note", "text", "NULL"]),
        text(&["2", "qty", "bigint", "integer"]),
        text(&["3", "price", "numeric(12,2)", "numeric(6,2)"]),
    ];
    assert_eq!(world.query(added), rows);
    assert_eq!(world.number("SELECT count(*) FROM highwater.dead_letters"), 0);

    // One table of all files; each file's hidden columns stand behind, in one order.
    let rows = lake(&world, &["note", "qty"]);
    let notes = 120 + 90 + 60 + 10 + 40 + 70;
    let all = (at[0] + at[1]) as usize;
    assert_eq!((rows.len(), filled(&rows, 0), filled(&rows, 1)), (all, notes, all));
    assert_eq!(
        file_types(&world, "qty"),
        [DataType::Int32, DataType::Int64],
        "files from before and since"
    );
    let orders: Vec<_> =
        files(&world).iter().map(|file| hidden(&batches(file)[0].schema())).collect();
    assert!(orders.iter().all(|order| *order == orders[0]), "{orders:?}");
    deep(&world);

    // The file may say it, too: it is the same.
    let column = "note = { type = \"text\", optional = true }\n";
    declare(&world, "apply", "300ms", column);
    world.run_until_caught_up();
    deep(&world);
    declare(&world, "apply", "300ms", "note = { type = \"bigint\", optional = true }\n");
    let output = world.output(&["run", "--until-caught-up"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("`note` is declared as bigint, and was added as text"), "{told}");
}

fn passed(world: &World) -> i64 {
    match world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") {
        0 => 0,
        _ => world.number("SELECT coalesce(min(s), 0)::bigint FROM (SELECT sum(next_offset) AS s FROM highwater.marks \
                           GROUP BY output) t"),
    }
}

#[test]
fn a_column_counts_from_where_all_outputs_stand_when_a_topic_begins_to_follow() {
    let Some(world) = world("follows_late", 1, "plan", "1h") else { return };
    let of = |table, range: std::ops::Range<i64>| range.map(move |n| record(table, n % 5, n + 1));
    produce(&world, 0, of(Table::First, 0..10));
    world.run_until_caught_up();
    produce(&world, 0, of(Table::Wider, 10..40));
    // The tables take them under `plan`, and the lake has them open still when the process dies.
    let mut service = world.follow(&QUICKLY);
    let tables = "SELECT coalesce(min(next_offset), 0) FROM highwater.marks WHERE output <> 'lake'";
    eventually("the tables are ahead", || world.number(tables) == 40);
    eventually("it is told", || {
        let told = service.status()["topics"][0]["drift"].to_string();
        told.contains("column note (text) of the source is not declared")
    });
    service.signal(libc::SIGKILL);
    service.wait();
    let refused = world.number("SELECT count(*) FROM highwater.dead_letters");
    assert_eq!(refused, 30, "values that an integer does not take");
    let behind = "SELECT next_offset FROM highwater.marks WHERE output = 'lake'";
    assert_eq!(world.number(behind), 10);
    declare(&world, "apply", "1h", "");
    produce(&world, 0, of(Table::Wider, 40..50));
    world.run_until_caught_up();
    let rows = lake(&world, &["note", "_offset"]);
    let noted = rows.iter().filter(|row| !row[0].is_empty());
    let first = noted.map(|row| row[1].parse::<i64>().expect("an offset")).min();
    let counted = (rows.len(), filled(&rows, 0), first);
    assert_eq!(counted, (20, 10, Some(40)), "the lake took as little of the thirty as the tables");
    deep(&world);
    // In the same places they are refused for the same reasons.
    let text = world.run(&["dead-letters", "retry"]);
    assert!(text.contains("0 taken"), "{text}");
    deep(&world);
}

#[test]
fn what_is_not_declared_is_told_with_off_and_planned_with_what_to_do() {
    let Some(world) = world("planned", 1, "plan", "300ms") else { return };
    let of = |table, range: std::ops::Range<i64>| range.map(move |n| record(table, n % 5, n + 1));
    produce(&world, 0, of(Table::First, 0..10));
    produce(&world, 0, of(Table::Added, 10..20));
    let printed = world.run_until_caught_up();
    let line = "note = { type = \"text\", optional = true }";
    let alter = "ALTER TABLE \"orders\" ADD COLUMN \"note\" text COLLATE \"C\"";
    assert!(printed.contains(line) && printed.contains(alter), "{printed}");
    let told = world.run(&["drift"]);
    assert!(told.contains("changes (drift = \"plan\")") && told.contains(line), "{told}");
    let json: Value =
        serde_json::from_str(&world.run(&["drift", "changes", "--json"])).expect("JSON");
    let plan: Vec<&str> =
        json[0]["told"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(world.number("SELECT count(*) FROM orders"), 5);
    let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'note'";
    assert_eq!(world.number(columns), 0);

    // With what the plan says the column is there from here on.
    let statements: String = plan.iter().filter(|text| text.ends_with(';')).copied().collect();
    assert!(
        statements.contains("orders__source") && statements.contains("COMMENT"),
        "{statements}"
    );
    world.query(&statements);
    declare(&world, "plan", "300ms", &format!("{line}\n"));
    produce(&world, 0, of(Table::Added, 20..23));
    world.run_until_caught_up();
    assert_eq!(world.number("SELECT count(*) FROM orders WHERE note IS NOT NULL"), 3);
    assert!(world.run(&["drift"]).contains("nothing that the topic file does not declare"));

    // Off: told and left out.
    let Some(world) = self::world("off", 1, "off", "300ms") else { return };
    world.declare_model("orders", "CREATE MATERIALIZED VIEW orders AS SELECT id, qty FROM changes");
    produce(&world, 0, of(Table::First, 0..10));
    produce(&world, 0, of(Table::Added, 10..20));
    let mut service = world.follow(&QUICKLY);
    eventually("all is read", || world.has_passed(3, 20));
    let (_, metrics) = service.get("/metrics");
    assert!(metrics.contains("highwater_drift_columns{topic=\"changes\"} 1"), "{metrics}");
    let printed = service.stop();
    let said = printed.matches("column note (text) of the source is not declared and left out");
    assert_eq!(said.count(), 1, "{printed}");
    assert!(!printed.contains("ALTER"), "{printed}");
    deep(&world);
}

#[test]
fn another_table_stops_its_topic_with_a_diff_before_its_first_record_and_others_go_on() {
    for (table, what) in [(Table::Without, "(gone)"), (Table::Changed, "text, was bigint")] {
        let Some(world) = world("stops", 1, "apply", "300ms") else { return };
        let of =
            |table, range: std::ops::Range<i64>| range.map(move |n| record(table, n % 5, n + 1));
        world.declare(
            "other",
            "topic = \"{topic}_other\"\nformat = \"json\"\n[columns]\nid = \"bigint\"\n",
        );
        let other = format!("{}_other", world.kafka_topic);
        let made = crate::support::create_topic(&world.services.kafka, &other, 1);
        world.runtime.block_on(made);
        produce(&world, 0, of(Table::Wider, 0..20));
        produce(&world, 0, of(table, 20..30));
        let mut service = world.follow(&QUICKLY);
        eventually("it stops", || service.get("/readyz").1.contains("stopped"));
        let told = service.get("/readyz").1;
        assert!(told.contains(what) && told.contains("@20 on"), "{told}");
        assert!(told.contains("highwater drift changes --accept"), "{told}");
        let marks = "SELECT max(next_offset) FROM highwater.marks WHERE topic = 'changes'";
        assert_eq!(world.number(marks), 20);
        let record = [("1".to_owned(), "{\"id\":1}".to_owned())];
        crate::support::produce(&world.services.kafka, &other, record);
        let others =
            "SELECT coalesce(min(next_offset), 0) FROM highwater.marks WHERE topic = 'other'";
        eventually("the other goes on", || world.number(others) == 1);
        service.signal(libc::SIGTERM);
        assert_eq!(service.wait().0, Some(1), "a topic stopped");
        // It does so again, until a person lets it pass.
        let (code, text_again) =
            Running::start(world.command(&["run", "--until-caught-up"])).wait();
        assert_eq!(code, Some(1), "{text_again}");
        assert!(text_again.contains(what), "{text_again}");
        assert!(world.run(&["drift", "changes"]).contains(what));
        world.run(&["drift", "changes", "--accept"]);
        world.run_until_caught_up();
        let behind =
            "SELECT count(*) FROM highwater.marks WHERE topic = 'changes' AND next_offset < 30";
        assert_eq!(world.number(behind), 0);
        let notes = world.number("SELECT count(note) FROM orders");
        assert_eq!(notes, if table == Table::Without { 0 } else { 5 });
        deep(&world);
    }
}
