//! Neighbouring rows of one partition: what a batch is taken apart into.
//!
//! Owns: runs, and which of their rows are above a floor. Does not own: what becomes of a row.

use super::{offsets, partitions};
use crate::record::{Offset, Partition};
use arrow::array::{BooleanArray, BooleanBufferBuilder, RecordBatch};
use std::ops::Range;

/// Neighbouring rows of one partition, at least one.
pub(super) struct Run {
    pub partition: Partition,
    pub rows: Range<usize>,
}

impl Run {
    pub fn len(&self) -> u64 {
        self.rows.len() as u64
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
