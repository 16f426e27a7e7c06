//! Loads of the source's table that no connector marks, and a person has bracketed: Qlik Replicate's.
//!
//! Owns: N-5, as far as it can be seen in changes. Does not own: where a load begins and ends
//! (`warehouse::loads`), what waits for its end (`warehouse::swap`).
//!
//! Rows of a full load have no position, and beat nothing. A load that is bracketed is a snapshot, whose position
//! is made of its number and sorts above every change sequence. What else stands behind its beginning, in
//! whichever partition, is later: its position becomes that of the load, `~`, and its own. So does a row of a load
//! behind the end, which no bracket holds: it is merged, above the load's rows and below every change.
//!
//! SUBTLE: which load an operation is of follows from its partition and offset alone. So a cut, a replay and a
//! table that is made anew say the same, wherever cuts end, provided that a load's beginning is known before
//! anybody commits what is behind it.

use super::{ChangeDelta, Truncate, fold, snapshots::Seen};
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use std::{collections::BTreeMap, sync::Arc};

/// One load of a topic: half open spans of offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Of its topic, from 1 on.
    pub number: i32,
    /// By partition; of one that is not here, the beginning.
    pub from: BTreeMap<i32, i64>,
    /// None: a person has not said yet. Of a partition that is not here, the beginning.
    pub to: Option<BTreeMap<i32, i64>>,
    /// When its beginning was recorded, microseconds since 1970.
    pub begun_us: i64,
}

impl Load {
    /// Above the digits of every change sequence.
    pub fn position(&self) -> String {
        format!("L{:010}", self.number)
    }

    fn begins_by(&self, partition: i32, offset: i64) -> bool {
        self.from.get(&partition).copied().unwrap_or(0) <= offset
    }

    /// A row of a load there is one of this, if it does not begin behind it.
    fn holds(&self, partition: i32, offset: i64) -> bool {
        let end = self.to.as_ref().map(|to| to.get(&partition).copied().unwrap_or(0));
        end.is_none_or(|end| offset < end)
    }
}

/// Which operations are rows of a load.
pub(super) fn reads(ops: &StringArray) -> BooleanArray {
    ops.iter().map(|op| Some(op == Some("read"))).collect()
}

impl ChangeDelta {
    /// N-5: positions as these loads make them, and what is shown of each.
    pub fn bracketed(mut self, loads: &[Load]) -> Result<Self> {
        if loads.is_empty() {
            return Ok(self);
        }
        let of =
            |partition, offset| loads.iter().rev().find(|load| load.begins_by(partition, offset));
        let mut shown: BTreeMap<i32, Seen> = BTreeMap::new();
        let mut show = |load: &Load, read: Option<i64>| {
            let seen = shown.entry(load.number).or_default();
            seen.reads += u64::from(read.is_some());
            seen.time = seen.time.max(load.begun_us).max(read.unwrap_or(i64::MIN));
        };
        for truncate in &mut self.truncates {
            let Truncate { position, offset, partition, .. } = truncate;
            if let Some(load) = of(*partition, *offset) {
                show(load, None);
                *position = format!("{}~{position}", load.position());
            }
        }
        let ops = fold::Ops::new(&self.following.folding, &self.ops);
        let mut positions = Vec::with_capacity(self.ops.num_rows());
        for row in 0..self.ops.num_rows() {
            let (own, offset, partition) = ops.places.at(row);
            let Some(load) = of(partition, offset) else {
                positions.push(own.to_owned());
                continue;
            };
            let is_read = ops.reads.value(row) && load.holds(partition, offset);
            show(load, is_read.then(|| ops.places.time(row)));
            positions.push(match is_read {
                true => load.position(),
                false => format!("{}~{own}", load.position()),
            });
        }
        let position = |number| loads.iter().find(|load| load.number == number).map(Load::position);
        for (number, seen) in shown {
            self.shown.snapshots.extend(position(number).map(|position| (position, seen)));
        }
        let positions: ArrayRef = Arc::new(StringArray::from_iter_values(positions));
        let mut columns = self.ops.columns().to_vec();
        columns[self.following.folding.columns.len() + 1] = positions;
        self.ops = RecordBatch::try_new(self.ops.schema(), columns)
            .map_err(|e| Error::halt("bracket a load").because(e))?;
        Ok(self)
    }
}
