//! A topic file: what one Kafka topic holds, where its lake goes, when it stops.

use super::PgType;
use arrow::datatypes::SchemaRef;
use std::{path::PathBuf, sync::Arc, time::Duration};

/// One `topics/NAME.toml`.
#[derive(Debug, Clone)]
pub struct Topic {
    /// The file's stem: what models say after FROM, and the name in marks and metrics.
    pub name: Arc<str>,
    pub file: PathBuf,
    /// The topic's name in Kafka.
    pub kafka_topic: String,
    pub format: Format,
    /// In order of the file.
    pub columns: Vec<TopicColumn>,
    /// Index of the event time's column in `schema`; None: the Kafka timestamp.
    pub event_time: Option<usize>,
    pub max_disorder: Duration,
    pub max_future: Option<Duration>,
    pub lake: Option<LakeSpec>,
    /// Share of rejects in the last 10,000 records that stops the topic, 0 to 1.
    pub stop_above: Option<f64>,
    /// `columns` without the dropped ones, then `_partition` int32, `_offset` int64, `_timestamp`.
    pub schema: SchemaRef,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
}

#[derive(Debug, Clone)]
pub struct TopicColumn {
    pub name: String,
    pub pg: PgType,
    /// Where in the record: object keys from the outside in (a JSON pointer, taken apart).
    pub path: Vec<String>,
    /// Whether `path` was not given: then `name` itself is tried when its camelCase is absent.
    pub path_is_default: bool,
    pub optional: bool,
    pub pii: Option<Pii>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pii {
    /// HMAC-SHA-256 under the secret, hexadecimal; the column becomes text.
    Hash,
    /// Replaced by `***`; the column becomes text.
    Mask,
    /// Not decoded at all.
    Drop,
}

#[derive(Debug, Clone)]
pub struct LakeSpec {
    pub partition_by: Vec<PartitionBy>,
    /// Encoded bytes of one file at which the lake's cut ends.
    pub roll_bytes: u64,
    pub roll_age: Duration,
    pub time_zone: chrono_tz::Tz,
}

/// One level of the hive path: `NAME=value`.
#[derive(Debug, Clone)]
pub struct PartitionBy {
    pub name: String,
    pub function: PartitionFunction,
    /// Index in the topic's schema.
    pub column: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionFunction {
    /// `date=2024-03-01`, in the lake's time zone.
    Date,
    /// `hour=08`, in the lake's time zone.
    Hour,
    /// The column's own value, percent-encoded; NULL is `__HIVE_DEFAULT_PARTITION__`.
    Value,
}
