//! Models over changes: the operations of a cut, folded into what is stored of the source's rows.
//!
//! Owns: the operations of the open cut, the fold, what the fold changes in the model's table. Does
//! not own: where rows are stored, the transaction (`warehouse::following`).
//!
//! F-1  A change counts only if it is later than what is stored of its row: by the source's position,
//!      then offset, then partition. What is deleted is remembered with its position. So old changes,
//!      sent again or read again, never bring a row back.
//! F-2  Folding the operations of any cuts, in their order, gives what folding them one by one gives.
//! F-3  A value that an image does not hold is never overwritten.
//!
//! A truncate comes in one partition, and is about the rows of all. It is kept with its position, and
//! rows of an earlier one are gone, those that come afterwards in other partitions too. Where offsets
//! are the order there is none between partitions: there a truncate is about its own partition's rows.
//!
//! N-1  A snapshot of the source is known by its position. Its rows, and all that comes after them, wait beside
//!      the table until it has ended and every partition was read as far; then they are folded and the rows
//!      that it does not hold go, in one transaction, as by a truncate just before its first row.
//! N-2  A change behind a snapshot's rows in its partition is later than the snapshot.
//! N-3  A snapshot that would delete more than the topic allows, or of which rows were refused, is not swapped
//!      in: what waits goes on waiting until a person decides.
//! N-4  A cut that would leave fewer of the rows than the topic allows is not committed without a person's leave.
//! N-5  Where no connector tells which rows are of a snapshot, a person has said where a load begins and ends: its
//!      position is later than all before its first offset, and all else from there on is later than it.
//!
//! So whatever the cuts are and whenever it is swapped in, the table is what the truncate's position and the
//! changes make it: F-1 and F-2 hold for both.
//!
//! An update that brings no whole image and finds no row is an orphan: it is counted and changes nothing.
//! A row on which an expression of the model fails is left out of the table, until it changes again; the
//! reason stands with the row (`_failed`).

mod fold;
mod follow;
mod keys;
mod loads;
mod open;
mod snapshots;

pub use follow::{Changed, Following, Outcome};
pub use loads::Load;
pub use open::OpenChanges;
pub use snapshots::{Known, Seen};

use crate::{
    catalog::{Folding, Keeps, Order},
    error::Result,
};
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use snapshots::Shown;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// What a cut yields for a model over changes.
#[derive(Clone)]
pub struct ChangeDelta {
    following: Arc<Following>,
    /// Operations on rows, per partition in offset order.
    ops: RecordBatch,
    truncates: Vec<Truncate>,
    shown: Shown,
}

/// All rows of the source were removed at this place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Truncate {
    pub position: String,
    pub offset: i64,
    pub partition: i32,
    /// Microseconds since 1970.
    pub time: i64,
}

impl fmt::Debug for ChangeDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations, {} truncates", self.ops.num_rows(), self.truncates.len())
    }
}

impl ChangeDelta {
    pub fn is_empty(&self) -> bool {
        self.ops.num_rows() == 0 && self.truncates.is_empty() && self.shown.snapshots.is_empty()
    }

    pub fn truncates(&self) -> &[Truncate] {
        &self.truncates
    }

    /// How stored rows are given to `fold`.
    pub fn stored(&self) -> SchemaRef {
        self.following.stored.clone()
    }

    /// The keys of the rows to be read, each once, by the names of the source's columns.
    pub fn keys(&self) -> Result<RecordBatch> {
        fold::keys(&self.following.folding, &self.ops)
    }

    /// Folds the operations into the stored rows of their keys. `truncates` are all that there were,
    /// this cut's too; rows that they removed are not among the stored ones, unless the model keeps
    /// what is deleted.
    pub fn fold(&self, stored: &RecordBatch, truncates: &[Truncate]) -> Result<Outcome> {
        let folding = &self.following.folding;
        let truncates = latest(folding, truncates);
        let folded = fold::fold(folding, stored, &self.ops, &truncates)?;
        self.following.outcome(folded, stored, &truncates)
    }

    /// What these stored rows had added to the groups of an aggregate.
    pub fn added_by(&self, stored: &RecordBatch) -> Result<RecordBatch> {
        self.following.added_by(stored)
    }
}

/// Those that say all of what the others say: where nothing that is gone is kept, the last ones.
fn latest(folding: &Folding, truncates: &[Truncate]) -> Vec<Truncate> {
    match (&folding.keeps, folding.order) {
        (Keeps::Deleted | Keeps::Versions, _) => truncates.to_vec(),
        (Keeps::Rows | Keeps::Groups { .. }, Order::Source) => {
            truncates.iter().max().cloned().into_iter().collect()
        }
        (Keeps::Rows | Keeps::Groups { .. }, Order::Offset) => {
            let mut last: BTreeMap<i32, &Truncate> = BTreeMap::new();
            for truncate in truncates {
                let known = last.entry(truncate.partition).or_insert(truncate);
                *known = (*known).max(truncate);
            }
            last.into_values().cloned().collect()
        }
    }
}
