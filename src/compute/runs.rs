//! Neighbouring rows of one partition: what a batch is taken apart into, and back to its records.
//!
//! Owns: runs, which of their rows are above a floor, which record a row was. Does not own: what becomes of a row.

use super::{Refusal, offsets, partitions};
use crate::{
    decode::{Decoded, RejectClass},
    record::{EventTime, Offset, Output, Partition, RawRecord},
};
use arrow::array::{BooleanArray, BooleanBufferBuilder, RecordBatch};
use std::ops::Range;

/// Neighbouring rows of one partition, at least one.
pub(super) struct Run {
    pub partition: Partition,
    pub rows: Range<usize>,
}

impl Run {
    /// How many records its rows are.
    pub fn records(&self, decoded: &Decoded) -> u64 {
        match &decoded.several {
            None => self.rows.len() as u64,
            Some(of) => of[self.rows.clone()].chunk_by(|a, b| a == b).count() as u64,
        }
    }

    /// Its rows at or above the floor: offsets ascend within a run.
    pub fn above(&self, batch: &RecordBatch, floor: Offset) -> Option<Self> {
        let offsets = &offsets(batch)[self.rows.clone()];
        let below = match offsets[0] >= floor.0 {
            true => 0,
            false => offsets.partition_point(|offset| *offset < floor.0),
        };
        let rows = self.rows.start + below..self.rows.end;
        (!rows.is_empty()).then_some(Self { partition: self.partition, rows })
    }
}

pub(super) fn runs(batch: &RecordBatch, from: &[(Partition, Offset)]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut start = 0;
    for chunk in partitions(batch).chunk_by(|a, b| a == b) {
        let run = Run { partition: Partition(chunk[0]), rows: start..start + chunk.len() };
        start = run.rows.end;
        if let Some((_, floor)) = from.iter().find(|(p, _)| *p == run.partition) {
            runs.extend(run.above(batch, *floor));
        }
    }
    runs
}

/// The rows of these runs, of so many, without the duplicates; None: all of them.
pub(super) fn choose(runs: &[Run], rows: usize, duplicates: &[bool]) -> Option<BooleanArray> {
    if !duplicates.is_empty() {
        let mut chosen = vec![false; rows];
        for row in runs.iter().flat_map(|run| run.rows.clone()) {
            chosen[row] = !duplicates[row];
        }
        return Some(BooleanArray::from(chosen));
    }
    if runs.iter().map(|run| run.rows.len()).sum::<usize>() == rows {
        return None;
    }
    let mut chosen = BooleanBufferBuilder::new(rows);
    for run in runs {
        chosen.append_n(run.rows.start - chosen.len(), false);
        chosen.append_n(run.rows.len(), true);
    }
    chosen.append_n(rows - chosen.len(), false);
    Some(BooleanArray::new(chosen.finish(), None))
}

/// How many of these rows are duplicates.
pub(super) fn count_duplicates(duplicates: &[bool], rows: &Range<usize>) -> u64 {
    match duplicates.is_empty() {
        true => 0,
        false => duplicates[rows.clone()].iter().filter(|twice| **twice).count() as u64,
    }
}

/// Index of the record that a row was: rows are the records without what gives none, in order (D-1).
pub(super) fn record_of(row: usize, decoded: &Decoded) -> usize {
    if let Some(several) = &decoded.several {
        return several[row] as usize;
    }
    let without_row = |upto: usize| {
        decoded.rejects.partition_point(|reject| reject.record <= upto)
            + decoded.empty.partition_point(|empty| *empty <= upto)
    };
    let mut record = row;
    while row + without_row(record) > record {
        record = row + without_row(record);
    }
    record
}

/// Whether a record is of what is to be admitted.
pub(super) fn is_wanted(record: &RawRecord<'_>, from: &[(Partition, Offset)]) -> bool {
    from.iter().any(|(p, from)| *p == record.partition && record.offset >= from.0)
}

impl Refusal {
    /// Of one model alone.
    pub(super) fn by_model(
        output: Output,
        record: usize,
        seen: Option<EventTime>,
        class: RejectClass,
        reason: String,
    ) -> Self {
        let refused_by = vec![(output.clone(), seen)];
        Self { record, output, refused_by, class, column: None, reason }
    }
}
