//! Rows on their way to the lake: those of a fetch that are its own, and, of a judged topic, those
//! that wait for their verdict.
//!
//! Owns: what waits, by partition, in offset order. Does not own: when it goes on (`worker`),
//! verdicts (`compute::unique`).

use super::{encoder::LakeLane, tables::lake_refusal};
use crate::{
    compute::Counted,
    cut::DeadLetter,
    decode::Decoded,
    error::{Error, Result},
    record::{EventTime, Offset, Output, Partition, RawRecord},
};
use arrow::{
    array::{BooleanArray, RecordBatch},
    compute::filter_record_batch,
};
use std::collections::{BTreeMap, VecDeque};

/// What waits, with its size.
#[derive(Default)]
pub struct Held {
    runs: BTreeMap<Partition, VecDeque<Run>>,
}

/// Neighbouring records of one partition and fetch, in offset order.
struct Run {
    /// Of every record, before anything looked into it: one side of C-2.
    offsets: Vec<i64>,
    refused: Vec<DeadLetter>,
    /// Of records that say nothing of a row.
    empty: Vec<i64>,
    /// Offsets of the rows, their event times, and the rows.
    good: Vec<i64>,
    event_times: Vec<EventTime>,
    rows: RecordBatch,
    bytes: usize,
}

impl Run {
    /// Takes off what lies below `to`.
    fn split(&mut self, to: Offset) -> Self {
        let below = |offsets: &[i64]| offsets.partition_point(|offset| *offset < to.0);
        let records = below(&self.offsets);
        let refused = self.refused.partition_point(|letter| letter.offset < to.0);
        let (empty, good) = (below(&self.empty), below(&self.good));
        let bytes = self.bytes * records / self.offsets.len().max(1);
        self.bytes -= bytes;
        let rest = |values: &mut Vec<i64>, at: usize| {
            let rest = values.split_off(at);
            std::mem::replace(values, rest)
        };
        let later_refused = self.refused.split_off(refused);
        let later = self.event_times.split_off(good);
        let rows = self.rows.slice(0, good);
        self.rows = self.rows.slice(good, self.rows.num_rows() - good);
        Self {
            offsets: rest(&mut self.offsets, records),
            refused: std::mem::replace(&mut self.refused, later_refused),
            empty: rest(&mut self.empty, empty),
            good: rest(&mut self.good, good),
            event_times: std::mem::replace(&mut self.event_times, later),
            rows,
            bytes,
        }
    }
}

impl Held {
    pub fn bytes(&self) -> usize {
        self.runs.values().flatten().map(|run| run.bytes).sum()
    }

    pub fn forget(&mut self, partition: Partition) {
        self.runs.remove(&partition);
    }

    pub fn clear(&mut self) {
        self.runs.clear();
    }

    fn add(&mut self, partition: Partition, run: Run) {
        self.runs.entry(partition).or_default().push_back(run);
    }

    /// In offset order, what lies below `to`.
    fn take(&mut self, partition: Partition, to: Offset) -> Vec<Run> {
        let Some(runs) = self.runs.get_mut(&partition) else { return Vec::new() };
        let mut taken = Vec::new();
        while let Some(run) = runs.front_mut() {
            match run.offsets.last() {
                Some(last) if *last >= to.0 => {
                    taken.push(run.split(to));
                    break;
                }
                Some(_) | None => taken.extend(runs.pop_front()),
            }
        }
        taken
    }
}

impl LakeLane {
    /// Keeps the records at or above `from` until [`Self::follow`].
    pub fn hold(
        &mut self,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        from: &[(Partition, Offset)],
    ) {
        let (_, all_offsets) = crate::compute::places(&decoded.rows);
        let bytes = decoded.rows.get_array_memory_size() / records.len().max(1);
        let mut rejects = decoded.rejects.iter().peekable();
        let mut empties = decoded.empty.iter().peekable();
        let (mut index, mut row) = (0, 0);
        for run in records.chunk_by(|a, b| a.partition == b.partition) {
            let partition = run[0].partition;
            let end = index + run.len();
            let mut refused = Vec::new();
            while let Some(reject) = rejects.next_if(|reject| reject.record < end) {
                refused.push(lake_refusal(&records[reject.record], reject));
            }
            let mut empty = Vec::new();
            while let Some(index) = empties.next_if(|index| **index < end) {
                empty.push(records[*index].offset);
            }
            let rows = row..row + run.len() - refused.len() - empty.len();
            (index, row) = (end, rows.end);
            let Some((_, floor)) = from.iter().find(|(p, _)| *p == partition) else { continue };
            let offsets: Vec<i64> =
                run.iter().map(|record| record.offset).filter(|o| *o >= floor.0).collect();
            if offsets.is_empty() {
                continue;
            }
            refused.retain(|letter| letter.offset >= floor.0);
            empty.retain(|offset| *offset >= floor.0);
            let below = all_offsets[rows.clone()].partition_point(|offset| *offset < floor.0);
            let rows = rows.start + below..rows.end;
            let run = Run {
                bytes: bytes * offsets.len(),
                offsets,
                refused,
                empty,
                good: all_offsets[rows.clone()].to_vec(),
                event_times: decoded.event_times[rows.clone()].to_vec(),
                rows: decoded.rows.slice(rows.start, rows.len()),
            };
            self.held.add(partition, run);
        }
    }

    /// Adds what is held below these offsets to the open cut, without the duplicates.
    pub fn follow(
        &mut self,
        to: &[(Partition, Offset)],
        duplicates: impl Fn(Partition, i64, Offset) -> Result<Vec<i64>>,
    ) -> Result<()> {
        for &(partition, to) in to {
            for run in self.held.take(partition, to) {
                let first = run.offsets.first().copied().unwrap_or(to.0);
                let twice = duplicates(partition, first, to)?;
                self.pass(partition, run, &twice)?;
            }
        }
        Ok(())
    }

    fn pass(&mut self, partition: Partition, run: Run, twice: &[i64]) -> Result<()> {
        let fresh: Vec<bool> =
            run.good.iter().map(|offset| twice.binary_search(offset).is_err()).collect();
        let mut counted = Counted::default();
        counted.fates.dead = run.refused.len() as u64;
        counted.fates.filtered = run.empty.len() as u64;
        counted.fates.accepted = fresh.iter().filter(|fresh| **fresh).count() as u64;
        counted.fates.duplicate = fresh.len() as u64 - counted.fates.accepted;
        counted.event_time_max = run.event_times.iter().copied().max();
        run.refused.into_iter().for_each(|letter| self.refuse(letter));
        self.count(partition, run.offsets.len() as u64, counted);
        let (rows, event_times) = keep(&run.rows, &run.event_times, fresh)?;
        self.encode(rows, event_times);
        Ok(())
    }
}

/// Of a fetch the rows at or above `from`.
pub fn at_or_above(
    decoded: &Decoded,
    from: &[(Partition, Offset)],
) -> Result<(RecordBatch, Vec<EventTime>)> {
    let (partitions, offsets) = crate::compute::places(&decoded.rows);
    let mut mask = Vec::with_capacity(offsets.len());
    for run in partitions.chunk_by(|a, b| a == b) {
        let floor = from.iter().find(|(p, _)| p.0 == run[0]).map_or(i64::MAX, |(_, o)| o.0);
        let offsets = &offsets[mask.len()..mask.len() + run.len()];
        mask.extend(offsets.iter().map(|offset| *offset >= floor));
    }
    keep(&decoded.rows, &decoded.event_times, mask)
}

pub(super) fn keep(
    rows: &RecordBatch,
    event_times: &[EventTime],
    mask: Vec<bool>,
) -> Result<(RecordBatch, Vec<EventTime>)> {
    if mask.iter().all(|wanted| *wanted) {
        return Ok((rows.clone(), event_times.to_vec()));
    }
    let times = event_times.iter().zip(&mask).filter(|(_, w)| **w).map(|(t, _)| *t).collect();
    let rows = filter_record_batch(rows, &BooleanArray::from(mask))
        .map_err(|e| Error::halt("filter rows for the lake").because(e))?;
    Ok((rows, times))
}

/// Adds to what the lake counts.
pub fn add(
    counts: &mut BTreeMap<(Output, Partition), Counted>,
    partition: Partition,
    counted: Counted,
) {
    let total = counts.entry((Output::Lake, partition)).or_default();
    total.fates += counted.fates;
    total.event_time_max = total.event_time_max.max(counted.event_time_max);
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
