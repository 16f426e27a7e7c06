//! The atomic unit of work: spans of a topic's partitions, what they yield, what became of each
//! offset. Committing a cut is one PostgreSQL transaction.
//!
//! Owns: the shape of a cut. Does not own: when to cut (`pipeline::worker`), how a yield is
//! applied (`warehouse`) or written (`lake`).
//!
//! C-1  For each (output, partition) of a cut, `span.from` equals the mark it moves. (A retry of dead
//!      letters moves none: it changes the fates of offsets that are passed.)
//! C-2  `fates.total() == span.len()`: each offset has exactly one fate (I-3).
//! C-3  A cut's yield comes from the records of its spans and nothing else.

use crate::{
    compute::unique::{Duplicate, NewKey},
    record::{Epoch, EventTime, Fates, Offset, Output, Partition, Span},
};
use arrow::array::RecordBatch;
use bytes::Bytes;
use std::sync::Arc;

/// One mark to move: `highwater.marks` where `next_offset = span.from` and `epoch = epoch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    pub output: Output,
    pub partition: Partition,
    pub span: Span,
    pub epoch: Epoch,
    pub fates: Fates,
    /// The highest event time seen up to `span.to`, not only within the span.
    pub event_time_max: Option<EventTime>,
    /// Of the lake: the cut's number; others keep 0.
    pub sequence: i64,
}

/// What is committed at once.
#[derive(Debug)]
pub struct Cut {
    pub topic: Arc<str>,
    /// Sorted by (output, partition), so that two processes lock rows in the same order.
    pub advances: Vec<Advance>,
    pub yields: Vec<Yield>,
}

#[derive(Debug)]
pub enum Yield {
    /// Of an aggregate or a row model: one row per key, unique and sorted by key; the columns of
    /// the model's table that are not derived, in order, by their Arrow types.
    Table {
        model: Arc<str>,
        rows: RecordBatch,
    },
    DeadLetters(Vec<DeadLetter>),
    /// Of a topic with `unique`, with the dead letters' marks; keys are sorted, each once.
    Verdicts {
        keys: Vec<NewKey>,
        duplicates: Vec<Duplicate>,
    },
    /// Of the lake of such a topic: what it counts as duplicates are the verdicts recorded (U-3).
    Judged,
    References(Vec<ReferenceUse>),
    Files(Vec<LakeFile>),
}

/// An output's records from this offset on were looked up in this version of a reference: a row of
/// `highwater.reference_uses` where the version is another one than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceUse {
    pub output: Output,
    pub partition: Partition,
    pub from: Offset,
    pub reference: Arc<str>,
    pub version: Arc<str>,
}

/// One row of `highwater.dead_letters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// What it is a letter of: `dead_letters` for what decode refuses, or the one output that
    /// refuses what others take.
    pub output: Output,
    pub partition: Partition,
    pub offset: i64,
    pub timestamp: EventTime,
    pub class: &'static str,
    pub column: Option<String>,
    pub reason: String,
    /// As it came; None: not kept, Kafka has it.
    pub raw: Option<Raw>,
    /// Who counts the record as dead in this cut, and the highest event time that each had seen
    /// before it.
    pub refused_by: Vec<(Output, Option<EventTime>)>,
}

/// A record's own bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl DeadLetter {
    /// What it costs to hold.
    pub fn memory(&self) -> usize {
        let raw = self.raw.as_ref().map_or(0, Raw::len);
        raw + self.reason.len() + 64 * self.refused_by.len() + 256
    }
}

impl Raw {
    /// Bytes of key and value.
    pub fn len(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One row of `highwater.lake_files`: uploaded whole, visible only once completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeFile {
    /// Below the lake's root: `TOPIC/date=2024-03-01/hour=08/NAME.parquet`.
    pub path: String,
    pub upload: UploadId,
    /// The store's tags of the parts, in order.
    pub parts: Vec<String>,
    pub bytes: u64,
    pub rows: u64,
    /// SHA-256 of the whole file, hexadecimal.
    pub checksum: String,
    /// Per partition: the rows' offsets lie within (first row's, after last row's).
    pub ranges: Vec<FileRange>,
    pub event_time_min: EventTime,
    pub event_time_max: EventTime,
    /// Fingerprint of the schema, hexadecimal.
    pub schema: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRange {
    pub partition: Partition,
    pub span: Span,
    pub rows: u64,
}

/// Name of what is staged at the store, with the store's own id of the upload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(pub String);
