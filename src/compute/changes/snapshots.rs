//! Snapshots of the source that a cut shows: which rows were read for which, and whether they have ended.
//!
//! Owns: N-1 and N-2, as far as they can be seen in changes. Does not own: what waits and when it is swapped
//! in (`warehouse::swap`).
//!
//! A snapshot has one position, which all its rows share: so it is known by that, whichever of its rows comes
//! first, in whichever partition, to whichever process. It has ended when its last row was read, or when the
//! source tells a change from its position on: a connector reads all of a snapshot before it tells changes.
//! What else the partitions hold of it is known only when they have been read (`pipeline::snapshots`).
//!
//! SUBTLE: a transaction that was open when the snapshot was taken has changes of earlier positions, and none
//! of its rows are in the snapshot. Its changes come behind the snapshot's rows in their partition. So a change
//! behind the first row of a snapshot in its partition counts as later than it: its position becomes that of
//! the snapshot, `~`, and its own, which sorts between the two. Without it such a change would be taken for an
//! old one, and what it inserted would go when the snapshot is swapped in.

use super::{ChangeDelta, Following, Truncate, fold, open::ops_schema};
use crate::error::{Error, Result};
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray, new_null_array,
    },
    compute::filter_record_batch,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What a cut, or several, show of one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Rows read.
    pub reads: u64,
    /// By partition: the offset of the first of them.
    pub first: BTreeMap<i32, i64>,
    /// The latest time of any, microseconds since 1970.
    pub time: i64,
    /// Its last row is among them.
    pub ended: bool,
}

impl Seen {
    pub fn add(&mut self, other: &Self) {
        self.time = if self.reads == 0 { other.time } else { self.time.max(other.time) };
        self.reads += other.reads;
        self.ended |= other.ended;
        for (partition, offset) in &other.first {
            let first = self.first.entry(*partition).or_insert(*offset);
            *first = (*first).min(*offset);
        }
    }
}

/// All snapshots that are known, by position.
pub type Known = BTreeMap<String, Seen>;

/// What the open cut shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    pub snapshots: Known,
    /// The highest position of a change that was told, not read.
    pub told: Option<String>,
}

impl Shown {
    /// Looks at operations, of which `marks` says what they were read for.
    pub fn look(&mut self, ops: &fold::Ops<'_>, marks: &StringArray) {
        for row in 0..ops.kind.len() {
            let (position, offset, partition) = ops.places.at(row);
            if !ops.reads.value(row) {
                let is_read = marks.is_valid(row);
                if !is_read && self.told.as_deref().is_none_or(|told| position > told) {
                    self.told = Some(position.to_owned());
                }
                continue;
            }
            let one = Seen {
                reads: 1,
                first: BTreeMap::from([(partition, offset)]),
                time: ops.places.time(row),
                ended: marks.value(row) == "last",
            };
            match self.snapshots.get_mut(position) {
                Some(seen) => seen.add(&one),
                None => drop(self.snapshots.insert(position.to_owned(), one)),
            }
        }
    }
}

/// Which operations are rows of a snapshot that replaces.
pub(super) fn reads(marks: &StringArray) -> BooleanArray {
    marks.iter().map(|mark| Some(matches!(mark, Some("row" | "last")))).collect()
}

impl ChangeDelta {
    /// By position.
    pub fn snapshots(&self) -> &Known {
        &self.shown.snapshots
    }

    /// The highest position of a change that was told, not read.
    pub fn told(&self) -> Option<&str> {
        self.shown.told.as_deref()
    }

    /// Whether a row may be gone after it.
    pub fn may_delete(&self) -> bool {
        let ops = fold::Ops::new(&self.following.folding, &self.ops);
        !self.truncates.is_empty() || ops.kind.contains(&fold::Kind::Delete)
    }

    /// Operations, as they wait for a snapshot's end.
    pub fn ops(&self) -> &RecordBatch {
        &self.ops
    }

    /// Whether there is a change of an earlier position than the snapshot's.
    pub fn begins_before(&self, position: &str) -> bool {
        let ops = fold::Ops::new(&self.following.folding, &self.ops);
        let rows = (0..self.ops.num_rows()).any(|row| ops.places.at(row).0 < position);
        rows || self.truncates.iter().any(|truncate| truncate.position.as_str() < position)
    }

    /// N-2: what stands behind the first row of a snapshot counts as later than it.
    pub fn lifted(mut self, known: &Known) -> Result<Self> {
        let floor = |partition: i32, offset: i64| {
            let behind = |(_, seen): &(&String, &Seen)| {
                seen.first.get(&partition).is_some_and(|first| *first < offset)
            };
            known.iter().rev().find(behind).map(|(position, _)| position.as_str())
        };
        let lift = |position: &str, offset, partition| match floor(partition, offset) {
            Some(floor) if position < floor => Some(format!("{floor}~{position}")),
            Some(_) | None => None,
        };
        for truncate in &mut self.truncates {
            let Truncate { position, offset, partition, .. } = truncate;
            if let Some(lifted) = lift(position, *offset, *partition) {
                *position = lifted;
            }
        }
        let ops = fold::Ops::new(&self.following.folding, &self.ops);
        let lifted: Vec<Option<String>> = (0..self.ops.num_rows())
            .map(|row| {
                let (position, offset, partition) = ops.places.at(row);
                let told = !ops.reads.value(row);
                told.then(|| lift(position, offset, partition)).flatten()
            })
            .collect();
        if lifted.iter().all(Option::is_none) {
            return Ok(self);
        }
        let positions = lifted.iter().enumerate().map(|(row, lifted)| match lifted {
            Some(position) => position.as_str(),
            None => ops.places.at(row).0,
        });
        let positions: ArrayRef = Arc::new(StringArray::from_iter_values(positions));
        let mut columns = self.ops.columns().to_vec();
        columns[self.following.folding.columns.len() + 1] = positions;
        self.ops = RecordBatch::try_new(self.ops.schema(), columns)
            .map_err(|e| Error::halt("lift positions of changes").because(e))?;
        Ok(self)
    }

    /// Without the rows of these snapshots.
    pub fn without_reads(mut self, of: &BTreeSet<String>) -> Result<Self> {
        let ops = fold::Ops::new(&self.following.folding, &self.ops);
        let kept: BooleanArray = (0..self.ops.num_rows())
            .map(|row| Some(!(ops.reads.value(row) && of.contains(ops.places.at(row).0))))
            .collect();
        self.ops = filter_record_batch(&self.ops, &kept)
            .map_err(|e| Error::halt("leave out a snapshot").because(e))?;
        Ok(self)
    }

    /// Truncates, as they wait.
    pub fn truncates_as_ops(&self) -> Result<RecordBatch> {
        let schema = self.ops.schema();
        let count = self.truncates.len();
        let own = self.following.folding.columns.len();
        let all = || self.truncates.iter();
        let columns = schema.fields().iter().enumerate().map(|(i, field)| -> ArrayRef {
            let no = || Arc::new(BooleanArray::from(vec![false; count]));
            match field.name().as_str() {
                _ if i < own => new_null_array(field.data_type(), count),
                "_event_time" => {
                    let times = TimestampMicrosecondArray::from_iter_values(all().map(|t| t.time));
                    Arc::new(times.with_timezone("UTC"))
                }
                "_source_position" => {
                    Arc::new(StringArray::from_iter_values(all().map(|t| t.position.as_str())))
                }
                "_partition" => Arc::new(Int32Array::from_iter_values(all().map(|t| t.partition))),
                "_offset" => Arc::new(Int64Array::from_iter_values(all().map(|t| t.offset))),
                "_op" => Arc::new(StringArray::from(vec!["truncate"; count])),
                "_moved" | "_read" => no(),
                _ => new_null_array(field.data_type(), count),
            }
        });
        RecordBatch::try_new(schema.clone(), columns.collect())
            .map_err(|e| Error::halt("stage truncates").because(e))
    }

    /// No change at all.
    pub fn nothing(following: &Arc<Following>) -> Self {
        Self {
            following: following.clone(),
            ops: RecordBatch::new_empty(ops_schema(following)),
            truncates: Vec::new(),
            shown: Shown::default(),
        }
    }

    /// From operations that have waited: `ops` and truncates among them, in order.
    pub fn staged(following: &Arc<Following>, staged: &RecordBatch) -> Result<Self> {
        let failed = |e| Error::halt("take staged changes").because(e);
        let batch = RecordBatch::try_new(ops_schema(following), staged.columns().to_vec());
        let batch = batch.map_err(failed)?;
        let ops = fold::Ops::new(&following.folding, &batch);
        let truncates = truncates(&ops);
        let op = batch.column(following.folding.columns.len() + 4).as_string::<i32>();
        let rows: BooleanArray = op.iter().map(|op| Some(op != Some("truncate"))).collect();
        let ops = filter_record_batch(&batch, &rows).map_err(failed)?;
        Ok(Self { following: following.clone(), ops, truncates, shown: Shown::default() })
    }
}

pub(super) fn truncates(ops: &fold::Ops<'_>) -> Vec<Truncate> {
    let rows = (0..ops.kind.len()).filter(|row| ops.kind[*row] == fold::Kind::Truncate);
    let truncate = |row| {
        let (position, offset, partition) = ops.places.at(row);
        let position = position.to_owned();
        Truncate { position, offset, partition, time: ops.places.time(row) }
    };
    rows.map(truncate).collect()
}
