//! What the stage promises, from text to deltas: catalog, decoder and `Tables` together.

mod batched;
pub(crate) mod changes;
mod expressions;
mod groups;
mod merged;
mod oracle;
mod retried;
mod sketches;
mod tables;
mod unique;
mod unique_retried;

use super::{SealedTables, Tables};
use crate::{
    catalog::{self, Model, Topic},
    decode::{Decoded, Decoder},
    record::{Epoch, EventTime, Fates, Mark, Offset, Output, Partition, RawRecord},
};
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{
        DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
        Int64Type, TimestampMicrosecondType,
    },
};
use std::{path::PathBuf, sync::Arc};

/// Event times here are near 1970, so that windows begin on either side of it.
const TOPIC: &str = r#"topic = "events"
format = "json"
event_time = "at"
max_disorder = "10s"
max_future = "none"

[columns]
k      = { type = "text", optional = true }
txt    = { type = "text", optional = true }
small  = { type = "smallint", optional = true }
n      = { type = "integer", optional = true }
big    = { type = "bigint", optional = true }
amount = { type = "numeric(18,2)", optional = true }
wide   = { type = "numeric(38,0)", optional = true }
ratio  = { type = "double precision", optional = true }
single = { type = "real", optional = true }
flag   = { type = "boolean", optional = true }
day    = { type = "date", optional = true }
id     = { type = "uuid", optional = true }
raw    = { type = "bytea", optional = true }
doc    = { type = "jsonb", optional = true }
at     = "timestamptz"
"#;

struct Declared {
    topic: Arc<Topic>,
    models: Vec<Arc<Model>>,
}

/// Models by their statements after `CREATE MATERIALIZED VIEW`, in order of name.
fn declared(models: &[&str]) -> Declared {
    declared_on(TOPIC, models)
}

fn declared_on(topic: &str, models: &[&str]) -> Declared {
    let models: Vec<_> = models
        .iter()
        .map(|text| {
            let name = text.split_whitespace().next().expect("a name");
            let file = PathBuf::from(format!("sql/models/{name}.sql"));
            (file, format!("CREATE MATERIALIZED VIEW {text}"))
        })
        .collect();
    let topic = (PathBuf::from("topics/events.toml"), topic.to_owned());
    let catalog = catalog::check(&[topic], &models).unwrap_or_else(|mistakes| {
        panic!("{}", mistakes.iter().map(|m| format!("{m}\n")).collect::<String>())
    });
    Declared {
        topic: catalog.topics["events"].clone(),
        models: catalog.models.into_values().collect(),
    }
}

impl Declared {
    fn tables(&self) -> Tables {
        Tables::new(&self.topic, &self.models).expect("a plan for what the catalog accepts")
    }

    /// Taking up from the beginning of partition 0.
    fn fresh(&self) -> Tables {
        let mut tables = self.tables();
        let marks: Vec<_> =
            tables.outputs().into_iter().map(|o| (o, Partition(0), mark(0, None))).collect();
        tables.adopt(&marks, &[]);
        tables
    }

    fn decode(&self, records: &[RawRecord<'_>]) -> Decoded {
        Decoder::new(self.topic.clone(), None).decode(records)
    }

    /// One cut of these events of partition 0, at offsets from 0.
    fn cut(&self, events: &[String]) -> Cut {
        let mut tables = self.fresh();
        let records = records(events);
        let decoded = self.decode(&records);
        assert_eq!(decoded.rejects, [], "the test's events are good");
        let refusals =
            tables.admit(&records, &decoded, &[(Partition(0), Offset(0))], &[]).expect("admitted");
        let refused = refusals.into_iter().map(|r| (r.record, r.reason)).collect();
        Cut { refused, sealed: tables.seal().expect("sealed") }
    }
}

struct Cut {
    /// Index of the event, and why.
    refused: Vec<(usize, String)>,
    sealed: SealedTables,
}

impl Cut {
    /// The delta of the only model that has one, as text: a line a row.
    fn rows(&self) -> Vec<String> {
        match self.sealed.tables.as_slice() {
            [] => Vec::new(),
            [(_, delta)] => values(&delta.rows)
                .iter()
                .map(|row| row.iter().map(Value::text).collect())
                .collect(),
            several => panic!("{} models have a delta", several.len()),
        }
    }

    fn fates(&self, model: &str) -> Fates {
        self.sealed.counts[&(Output::Model(model.into()), Partition(0))].fates
    }
}

fn mark(next: i64, event_time_max: Option<i64>) -> Mark {
    Mark {
        next: Offset(next),
        epoch: Epoch(1),
        event_time_max: event_time_max.map(EventTime),
        ..Mark::BEGINNING
    }
}

fn fates(accepted: u64, filtered: u64, late: u64, dead: u64) -> Fates {
    Fates { accepted, filtered, late, dead, absent: 0, duplicate: 0, lost: 0 }
}

fn record(partition: i32, offset: i64, value: &str) -> RawRecord<'_> {
    RawRecord {
        partition: Partition(partition),
        offset,
        timestamp: EventTime(0),
        key: None,
        value: Some(value.as_bytes()),
    }
}

fn records(events: &[String]) -> Vec<RawRecord<'_>> {
    events.iter().enumerate().map(|(offset, text)| record(0, offset as i64, text)).collect()
}

/// An event at this second, with these members besides.
fn event(second: i64, members: &str) -> String {
    let comma = if members.is_empty() { "" } else { ", " };
    format!("{{\"at\": \"{}\"{comma}{members}}}", instant(second * 1_000_000))
}

fn instant(micros: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(micros).expect("in the calendar");
    time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// A cell, freed of its width: decimals by their digits, instants by their microseconds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Null,
    Int(i128),
    /// By its bits.
    Double(u64),
    Text(String),
    Bool(bool),
}

impl Value {
    fn text(&self) -> String {
        match self {
            Self::Null => "NULL ".to_owned(),
            Self::Int(v) => format!("{v} "),
            Self::Double(bits) => format!("{:?} ", f64::from_bits(*bits)),
            Self::Text(v) => format!("{v} "),
            Self::Bool(v) => format!("{v} "),
        }
    }
}

fn values(batch: &RecordBatch) -> Vec<Vec<Value>> {
    (0..batch.num_rows())
        .map(|row| batch.columns().iter().map(|column| value(column, row)).collect())
        .collect()
}

fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Int16 => Value::Int(column.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => Value::Int(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row).into()),
        DataType::Date32 => Value::Int(column.as_primitive::<Date32Type>().value(row).into()),
        DataType::Decimal128(..) => Value::Int(column.as_primitive::<Decimal128Type>().value(row)),
        DataType::Timestamp(..) => {
            Value::Int(column.as_primitive::<TimestampMicrosecondType>().value(row).into())
        }
        DataType::Float32 => {
            let single = column.as_primitive::<Float32Type>().value(row);
            Value::Double(f64::from(single).to_bits())
        }
        DataType::Float64 => {
            Value::Double(column.as_primitive::<Float64Type>().value(row).to_bits())
        }
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Utf8 => Value::Text(column.as_string::<i32>().value(row).to_owned()),
        DataType::Binary => Value::Text(format!("{:?}", column.as_binary::<i32>().value(row))),
        other => panic!("no column is {other}"),
    }
}
