//! Bytes to a [`Decoded`]: rows in Arrow, or a reject with its reason. Total: it cannot fail.
//!
//! Owns: formats (one file each), conversion to the declared types, personal data (hash, mask,
//! drop: nothing after this stage has seen it). Does not own: lateness, models, where rejects go.
//!
//! D-1  Each record is exactly one row (of a `batched` topic: one or several), or one reject, or says
//!      nothing about a row; in the order given.
//! D-2  A number is never wrapped or rounded in silence; a code never loses its zeros.
//! D-3  The same records and topic give the same result: no clock, no randomness.
//! D-4  The rows of a record stand or fall together: one that is refused refuses the record.

mod alike;
mod avro;
mod batched;
mod canal;
pub mod change;
mod cloudevents;
mod convert;
mod csv;
mod debezium;
mod encoding;
mod fields;
mod formats;
mod images;
mod layers;
mod maxwell;
mod number;
mod pii;
mod qlik;
mod rejects;
mod rows;
mod scan;
mod service_day;
#[cfg(test)]
mod tests;
mod text;
mod time;
mod upstream;

use crate::{
    catalog::{Format, Topic, Upstream},
    record::{EventTime, Partition, RawRecord, schemas::Schemas},
};
use arrow::array::{BooleanArray, RecordBatch};
use std::{ops::Range, sync::Arc};

/// Key of `pii = "hash"`.
#[derive(Clone)]
pub struct Secret(pub Arc<[u8]>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What leaves this stage.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Good records, in the order given; the topic's schema.
    pub rows: RecordBatch,
    /// Of each row of a `batched` topic: index of its record, ascending. None: each row is a record of its own.
    pub several: Option<Vec<u32>>,
    /// Of each row: its event time (the declared column, or Kafka's timestamp).
    pub event_times: Vec<EventTime>,
    pub rejects: Vec<Reject>,
    /// Records that say nothing about a row (tombstones, borders of transactions), ascending.
    pub empty: Vec<usize>,
    /// Of a topic whose changes bring whole before-images: those of `rows`.
    pub before: Option<Before>,
    /// Fields that no column names, summed over the records.
    pub unknown_fields: u64,
    /// Where a partition's records come of another table than those before, in order.
    pub met: Vec<Met>,
    /// The first change that brings no schema, of a topic that follows its source by them.
    pub untold: Option<usize>,
}

/// A record that tells another table of its source than the one before it in its partition.
#[derive(Debug, Clone)]
pub struct Met {
    /// Index in the records given.
    pub record: usize,
    pub partition: Partition,
    pub offset: i64,
    pub upstream: Arc<Upstream>,
}

/// Rows as they were before the changes of a batch.
#[derive(Debug, Clone)]
pub struct Before {
    /// The declared columns, each nullable; as many rows as there are changes.
    pub rows: RecordBatch,
    /// Whether a change has one.
    pub there: BooleanArray,
}

/// A record that is not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Index in the records given.
    pub record: usize,
    pub class: RejectClass,
    /// Column it failed at, if it was one.
    pub column: Option<String>,
    /// A sentence for people: what was found and what is wanted. Never holds a value of a
    /// column with `pii`.
    pub reason: String,
}

/// The label of `highwater_rejects_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectClass {
    /// Not the topic's format at all (broken JSON, not UTF-8, not an object, a tombstone).
    Malformed,
    /// A column that is not optional is absent, null or blank.
    Missing,
    /// There, but not of the column's type.
    Type,
    /// Of the type, but outside its range or precision.
    Range,
    /// Event time further ahead of Kafka's timestamp than `max_future`.
    Future,
    /// An expression of a model failed on it (division by zero, a cast).
    Model,
    /// Its window was final before it came, and the model refuses such rows.
    Late,
}

impl Decoded {
    /// Rows that were decoded before, all of them good.
    pub fn good(rows: RecordBatch, several: Option<Vec<u32>>, event_times: Vec<EventTime>) -> Self {
        Self {
            rows,
            several,
            event_times,
            rejects: Vec::new(),
            empty: Vec::new(),
            before: None,
            unknown_fields: 0,
            met: Vec::new(),
            untold: None,
        }
    }

    /// The rows of each record that gives any, in order.
    pub fn rows_by_record(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        std::iter::from_fn(move || {
            let rows = match &self.several {
                None => start..(start + 1).min(self.event_times.len()),
                Some(several) => {
                    let of = several.get(start)?;
                    start..start + several[start..].iter().take_while(|r| *r == of).count()
                }
            };
            start = rows.end;
            (!rows.is_empty()).then_some(rows)
        })
    }
}

impl RejectClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Missing => "missing",
            Self::Type => "type",
            Self::Range => "range",
            Self::Future => "future",
            Self::Model => "model",
            Self::Late => "late",
        }
    }
}

/// A topic's decoder; keeps its buffers from batch to batch.
pub struct Decoder {
    layers: layers::Layers,
    /// Of a `batched` topic.
    batched: Option<Format>,
}

impl Decoder {
    /// `secret` must be there if a column is hashed; `config` sees to that.
    pub fn new(topic: Arc<Topic>, secret: Option<Secret>) -> Self {
        Self::with_schemas(topic, secret, Arc::default())
    }

    /// Of a topic whose records refer to schemas: what is told of them before records come.
    pub fn with_schemas(topic: Arc<Topic>, secret: Option<Secret>, schemas: Arc<Schemas>) -> Self {
        let batched = topic.batched.then_some(topic.format);
        Self { layers: layers::Layers::new(&topic, secret, &schemas), batched }
    }

    pub fn decode(&mut self, records: &[RawRecord<'_>]) -> Decoded {
        match self.batched {
            None => self.layers.decode(records),
            Some(format) => batched::decode(format, records, &mut self.layers),
        }
    }

    /// Names of fields that no column names, which came for the first time since it was asked.
    pub fn take_new_names(&mut self) -> Vec<String> {
        self.layers.take_new_names()
    }
}
