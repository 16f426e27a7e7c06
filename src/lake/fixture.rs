//! A topic and its rows for the tests of this stage: every column type, values given or default.

use crate::catalog::{
    Drift, Format, LakeSpec, PartitionBy, PartitionFunction, PgType, Topic, types::timestamp,
};
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use std::{sync::Arc, time::Duration};

/// Columns `at`, `stop`, `fare`, `price`, `photo`, all nullable. `by`: `date(at)`, `hour(at)` or a
/// column.
pub fn topic(by: &[&str], time_zone: chrono_tz::Tz) -> Arc<Topic> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("at", timestamp(), true),
        Field::new("stop", DataType::Utf8, true),
        Field::new("fare", DataType::Int32, true),
        Field::new("price", PgType::Numeric(20, 2).arrow(), true),
        Field::new("photo", DataType::Binary, true),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_timestamp", timestamp(), false),
    ]));
    let partition_by = by
        .iter()
        .map(|by| {
            let (name, column, function) = match by.split_once('(') {
                Some(("date", rest)) => ("date", rest, PartitionFunction::Date),
                Some((_, rest)) => ("hour", rest, PartitionFunction::Hour),
                None => (*by, *by, PartitionFunction::Value),
            };
            let column = schema.index_of(column.trim_end_matches(')')).unwrap();
            PartitionBy { name: name.into(), function, column }
        })
        .collect();
    Arc::new(Topic {
        name: "taps".into(),
        file: "topics/taps.toml".into(),
        kafka_topic: "taps".into(),
        format: Format::Json,
        batched: false,
        columns: Vec::new(),
        event_time: Some(0),
        max_disorder: Duration::from_secs(90),
        service_day: None,
        time_zone: chrono_tz::UTC,
        idle: None,
        max_future: None,
        lake: Some(LakeSpec {
            partition_by,
            roll_bytes: 128 << 20,
            roll_age: Duration::from_secs(60),
            time_zone,
        }),
        stop_above: None,
        keep_raw: true,
        unique: None,
        forward: None,
        changes: None,
        append_only: false,
        csv: None,
        registry: None,
        drift: Drift::Off,
        additions: Vec::new(),
        schema,
    })
}

/// Rows of partition 0 from offset 0; columns not given are NULL.
pub fn rows(topic: &Topic, columns: &[(&str, ArrayRef)]) -> RecordBatch {
    let len = columns[0].1.len();
    let offsets: Vec<i64> = (0..len as i64).collect();
    rows_at(topic, columns, 0, &offsets)
}

pub fn rows_at(
    topic: &Topic,
    columns: &[(&str, ArrayRef)],
    partition: i32,
    offsets: &[i64],
) -> RecordBatch {
    let arrays = topic
        .schema
        .fields()
        .iter()
        .map(|field| {
            match (columns.iter().find(|(name, _)| name == field.name()), field.name().as_str()) {
                (Some((_, values)), _) => values.clone(),
                (None, "_partition") => Arc::new(Int32Array::from(vec![partition; offsets.len()])),
                (None, "_offset") => Arc::new(Int64Array::from(offsets.to_vec())),
                (None, "_timestamp") => Arc::new(
                    arrow::array::TimestampMicrosecondArray::from(offsets.to_vec())
                        .with_timezone("UTC"),
                ),
                (None, _) => new_null_array(field.data_type(), offsets.len()),
            }
        })
        .collect();
    RecordBatch::try_new(topic.schema.clone(), arrays).unwrap()
}
