//! Against the real thing: PostgreSQL at `HIGHWATER_TEST_POSTGRES` (a URL of a superuser), each
//! test in a database of its own; and the embedded one. Skipped with a printed line without it.

mod aggregates;
mod embedded;
mod following;
mod loads;
mod merging;
mod protocol;
mod rebuild;
pub mod sessions;
mod tables;
mod unique;

use super::{Claim, Warehouse, WarehouseSettings};
use crate::{
    catalog::{Aggregate, Column, Merge, Model, ModelKind, PgType, Role, Rows},
    compute::Delta,
    cut::{Advance, Cut, Yield},
    record::{EventTime, Fates, Lane, Mark, Offset, Output, Partition, Span, gap::PartitionLog},
};
use arrow::array::RecordBatch;
use std::{path::PathBuf, sync::Arc};

pub const TOPIC: &str = "taps";

fn model(name: &str, kind: ModelKind, columns: Vec<(&str, PgType, Role)>) -> Model {
    Model {
        name: name.into(),
        file: PathBuf::from(format!("sql/models/{name}.sql")),
        topic: TOPIC.into(),
        join: None,
        filter: None,
        kind,
        columns: columns
            .into_iter()
            .map(|(name, pg, role)| Column { name: name.into(), pg, role })
            .collect(),
        folding: None,
        declaration: String::new(),
    }
}

fn grouped(name: &str, columns: Vec<(&str, PgType, Role)>) -> Model {
    let kind = Aggregate { window: None, keys: Vec::new(), parts: Vec::new() };
    model(name, ModelKind::Aggregate(kind), columns)
}

/// Every way to merge, and a derived column.
pub fn aggregate(name: &str) -> Model {
    let mean = Role::Derived("round(fare / nullif(taps, 0), 2)".into());
    grouped(
        name,
        vec![
            ("window_start", PgType::Timestamptz, Role::WindowStart),
            ("window_end", PgType::Timestamptz, Role::WindowEnd),
            ("stop_id", PgType::Text, Role::Key),
            ("taps", PgType::BigInt, Role::Part(Merge::Add)),
            ("fare", PgType::NumericAny, Role::Part(Merge::Add)),
            ("low", PgType::Text, Role::Part(Merge::Least)),
            ("high", PgType::BigInt, Role::Part(Merge::Greatest)),
            ("mean", PgType::NumericAny, mean),
        ],
    )
}

/// Groups by nothing.
pub fn global(name: &str) -> Model {
    grouped(name, vec![("taps", PgType::BigInt, Role::Part(Merge::Add))])
}

fn position() -> Vec<(&'static str, PgType, Role)> {
    vec![
        ("_event_time", PgType::Timestamptz, Role::Position),
        ("_partition", PgType::Integer, Role::Position),
        ("_offset", PgType::BigInt, Role::Position),
    ]
}

/// The latest row per key.
pub fn latest(name: &str) -> Model {
    let mut columns = vec![("id", PgType::BigInt, Role::Key), ("state", PgType::Text, Role::Value)];
    columns.extend(position());
    model(name, ModelKind::Rows(Rows { exprs: Vec::new(), primary_key: vec![0] }), columns)
}

/// Rows as they come, of every type.
pub fn append(name: &str) -> Model {
    let mut columns = vec![
        ("a_text", PgType::Text, Role::Value),
        ("a_boolean", PgType::Boolean, Role::Value),
        ("a_smallint", PgType::SmallInt, Role::Value),
        ("an_integer", PgType::Integer, Role::Value),
        ("a_bigint", PgType::BigInt, Role::Value),
        ("a_real", PgType::Real, Role::Value),
        ("a_double", PgType::Double, Role::Value),
        ("a_numeric", PgType::Numeric(20, 5), Role::Value),
        ("any_numeric", PgType::NumericAny, Role::Value),
        ("a_date", PgType::Date, Role::Value),
        ("an_instant", PgType::Timestamptz, Role::Value),
        ("a_uuid", PgType::Uuid, Role::Value),
        ("a_jsonb", PgType::Jsonb, Role::Value),
        ("a_bytea", PgType::Bytea, Role::Value),
    ];
    columns.extend(position());
    model(name, ModelKind::Rows(Rows { exprs: Vec::new(), primary_key: Vec::new() }), columns)
}

/// A database of one test.
pub struct Database {
    pub url: String,
    pub warehouse: Warehouse,
    admin: Warehouse,
    name: String,
}

impl Database {
    /// None, with a line, where there is no server.
    pub async fn new(settings: &WarehouseSettings, options: &str) -> Option<Self> {
        let Ok(server) = std::env::var("HIGHWATER_TEST_POSTGRES") else {
            eprintln!("skipped: HIGHWATER_TEST_POSTGRES names no server");
            return None;
        };
        let name = format!("hw_{}", uuid::Uuid::new_v4().simple());
        let few = WarehouseSettings { max_connections: 1, ..Default::default() };
        let admin = Warehouse::connect(&server, &few).await.unwrap();
        admin.query_text(&format!("CREATE DATABASE {name} {options}")).await.unwrap();
        let (base, query) = server.split_once('?').unwrap_or((&server, ""));
        let host = base.rfind('/').filter(|at| *at > "postgres://".len()).unwrap_or(base.len());
        let url = format!("{}/{name}?{query}", &base[..host]);
        let warehouse = Warehouse::connect(&url, settings).await.unwrap();
        warehouse.migrate().await.unwrap();
        Some(Self { url, warehouse, admin, name })
    }

    pub async fn plain() -> Option<Self> {
        Self::new(&WarehouseSettings::default(), "").await
    }

    pub async fn end(self) {
        self.warehouse.close().await;
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        self.admin.query_text(&sql).await.unwrap();
        self.admin.close().await;
    }
}

pub fn model_output(model: &str) -> Output {
    Output::Model(model.into())
}

/// A log that no mark of a test outgrows.
pub const EMPTY: PartitionLog =
    PartitionLog { topic_id: None, oldest: Offset(0), end: Offset(i64::MAX) };

pub fn claim(outputs: &[Output], partitions: &[i32]) -> Claim {
    Claim {
        topic: TOPIC.into(),
        lane: outputs.first().map_or(Lane::Tables, Output::lane),
        outputs: outputs.to_vec(),
        partitions: partitions.iter().map(|p| (Partition(*p), EMPTY)).collect(),
        partition_count: 2,
        owner: "test".into(),
    }
}

/// The mark of the one output and partition claimed.
pub async fn take_one(warehouse: &Warehouse, output: &Output, partition: i32) -> Mark {
    let taken =
        warehouse.take(&claim(std::slice::from_ref(output), &[partition])).await.unwrap().marks;
    let [(_, _, mark)] = taken[..] else { panic!("{taken:?}") };
    mark
}

/// The next `count` offsets after `mark`, all accepted.
pub fn advance(output: &Output, partition: i32, mark: &Mark, count: u64) -> Advance {
    Advance {
        output: output.clone(),
        partition: Partition(partition),
        span: Span::new(mark.next, Offset(mark.next.0 + count as i64)),
        epoch: mark.epoch,
        fates: Fates { accepted: count, ..Fates::default() },
        event_time_max: Some(EventTime(1_700_000_000_000_000 + mark.next.0)),
        sequence: 0,
    }
}

pub fn cut(advances: Vec<Advance>, yields: Vec<Yield>) -> Cut {
    Cut { topic: TOPIC.into(), topic_id: None, advances, yields }
}

pub fn rows_of(model: &str, rows: RecordBatch) -> Yield {
    Yield::Table { model: model.into(), delta: Delta::of(rows) }
}

/// A batch by names and arrays.
pub fn batch(columns: Vec<(&str, arrow::array::ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))
        .unwrap()
}

/// The one row of `taps`, of the model `global`.
pub fn taps(count: i64) -> RecordBatch {
    batch(vec![("taps", Arc::new(arrow::array::Int64Array::from(vec![count])))])
}

/// The tables of the model `m`, empty, and of no cut or load before.
pub async fn begin_anew(warehouse: &Warehouse, model: &Arc<Model>) {
    let drop = "DROP TABLE IF EXISTS m, m__source, m__truncates, m__snapshots, m__staged; DELETE FROM highwater.marks; \
                DELETE FROM highwater.load_spans; DELETE FROM highwater.loads";
    warehouse.query_text(drop).await.unwrap();
    warehouse.ensure_tables(std::slice::from_ref(model)).await.unwrap();
}

/// The rows of a query, cells joined by `|`.
pub async fn read(warehouse: &Warehouse, sql: &str) -> Vec<String> {
    let (_, rows) = warehouse.query_text(sql).await.unwrap();
    let line = |row: Vec<Option<String>>| {
        row.into_iter().map(|c| c.unwrap_or("NULL".into())).collect::<Vec<_>>().join("|")
    };
    rows.into_iter().map(line).collect()
}
