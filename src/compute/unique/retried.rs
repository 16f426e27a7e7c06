//! The judge of records that were refused in their place and are good now.
//!
//! Owns: which of them are duplicates. Does not own: their transaction (`warehouse::retry`).
//!
//! A retried record is judged by the keys that are remembered when it is retried: what was taken
//! since its place came before it. It raises no watermark. In a batch, the order is that of offsets.
//!
//! SUBTLE: a judge that runs meanwhile does not know of the keys taken here, and meets them when it
//! commits. If by its end that cut has brought the partition to where such a key is forgotten, the
//! key counts as forgotten, also for records of the cut from before that.

use super::{Duplicate, Key, NewKey, Verdicts, remember_us};
use crate::record::{EventTime, Offset, Output, Partition};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What is known of a retried record's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing: decode refused it to every output that has passed it.
    None,
    /// An output took it in its place, by a mended topic file: so it is no duplicate, and the
    /// others believe that (U-2). The judge has not seen its key.
    Taken,
    /// The judge took its key, in its place or at an earlier retry; a model has refused it since.
    Judged,
}

impl Earlier {
    /// `passed`: outputs with their first and next offset, and the record's.
    pub fn of(
        passed: impl Iterator<Item = (Output, Offset, Offset)>,
        offset: i64,
        refused_by: &[Output],
    ) -> Self {
        if !refused_by.contains(&Output::DeadLetters) {
            return Self::Judged;
        }
        let mut passed = passed.filter(|(_, first, next)| (first.0..next.0).contains(&offset));
        match passed.any(|(output, ..)| !refused_by.contains(&output)) {
            true => Self::Taken,
            false => Self::None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Record {
    pub partition: Partition,
    pub offset: i64,
    pub event_time: EventTime,
    pub key: Key,
    pub earlier: Earlier,
}

/// Those of the records' keys that are taken and not forgotten.
#[derive(Debug, Default)]
pub struct Held {
    pub keys: BTreeSet<Key>,
    /// The number of the last batch of keys that was looked at.
    pub known_to: i64,
}

/// What a batch of retried records takes and finds, and of each record whether it is a duplicate.
/// `reached`: how far the partitions have come.
pub fn judge(
    records: &[Record],
    held: &Held,
    reached: &BTreeMap<Partition, EventTime>,
    (within, max_disorder): (Duration, Duration),
) -> (Verdicts, Vec<bool>) {
    let remember_us = remember_us(within, max_disorder);
    let mut taken: BTreeMap<Key, NewKey> = BTreeMap::new();
    let mut verdicts = Verdicts { known_to: held.known_to, ..Verdicts::default() };
    let mut answers = Vec::with_capacity(records.len());
    for &Record { partition, offset, event_time, key, earlier } in records {
        let remembered = |new: &NewKey| reached.get(&new.partition) < Some(&new.forget_at);
        let is_kept = held.keys.contains(&key) || taken.get(&key).is_some_and(remembered);
        let is_duplicate = match earlier {
            Earlier::None => is_kept,
            Earlier::Taken | Earlier::Judged => false,
        };
        if is_duplicate {
            verdicts.duplicates.push(Duplicate { partition, offset, event_time });
        } else if earlier != Earlier::Judged && !is_kept {
            let forget_at = EventTime(event_time.0.saturating_add(remember_us));
            taken.insert(key, NewKey { key, partition, offset, forget_at });
        }
        answers.push(is_duplicate);
    }
    verdicts.keys = taken.into_values().collect();
    (verdicts, answers)
}
