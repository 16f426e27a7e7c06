//! Topics with `unique` in the world: what the servers keep of keys, and the oracle that looks at
//! every record again.
//!
//! Held at every commit of the judge: a taken key is its record's; within a partition a record is a
//! duplicate if and only if one with its key was taken before it there, or elsewhere, and is not
//! forgotten; of two partitions the second one finds the first one's key. The rest of the world
//! holds the outputs to the verdicts: no output has a duplicate, each has everything else.

use super::servers::{Advances, Commit, DISORDER, Life, Log, Out, Place};
use highwater::{
    compute::unique::{Key, Memory},
    record::{EventTime, Offset, Partition},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Of event time: less than a seed lasts, more than its records are out of order.
pub const WITHIN: Duration = Duration::from_millis(400);
pub const KEYS_MAX: usize = 1_000_000;

/// A key in `highwater.unique_keys`.
#[derive(Debug, Clone, Copy)]
struct Row {
    partition: i32,
    forget_at: i64,
    life: Life,
    /// By a cut that its process had given up: it does not know.
    given_up: bool,
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    place: Place,
    forget_at: i64,
    commit: u64,
}

#[derive(Debug, Default)]
pub struct Records {
    /// By number, of which the first is 1; those that are forgotten are taken out.
    batches: Vec<BTreeMap<Key, Row>>,
    pub duplicates: BTreeSet<Place>,
    /// The oracle's: every record that was taken, by key.
    taken: BTreeMap<u32, Vec<Taken>>,
    pub conflicts: u64,
}

/// What a cut of the judge is held against.
pub struct Kept<'a> {
    /// By partition: how far event time has come when the cut is committed.
    pub reached: &'a BTreeMap<i32, i64>,
    /// Those of the cut as well.
    pub advances: &'a Advances,
    pub logs: &'a [Log],
    /// What the judge never saw, by partition and offset.
    pub lost: &'a dyn Fn(i32, i64) -> bool,
}

impl Kept<'_> {
    fn is_over(&self, p: i32, forget_at: i64) -> bool {
        self.reached.get(&p).is_some_and(|time| *time >= forget_at)
    }

    /// How far event time had come before the record at an offset: by records, and by the clock.
    fn before(&self, p: i32, offset: i64) -> Option<i64> {
        let log = &self.logs[p as usize];
        let seen = log.records(log.start, offset).filter(|offset| !(self.lost)(p, *offset));
        let by_records = seen.map(|offset| log.event_time(offset)).max();
        by_records.max(self.advances.range((p, 0)..=(p, offset)).map(|(_, time)| *time).max())
    }
}

fn remember() -> i64 {
    WITHIN.as_micros() as i64 + DISORDER
}

impl Records {
    /// `floors`: the lowest mark of each partition taken.
    pub fn recall(&self, reached: Vec<(Partition, EventTime)>, floors: &[(i32, i64)]) -> Memory {
        let forgotten = |row: &Row| {
            reached.iter().any(|(p, time)| p.0 == row.partition && time.0 >= row.forget_at)
        };
        let keys = self.batches.iter().flatten().filter(|(_, row)| !forgotten(row));
        let keys: Vec<_> = keys
            .map(|(key, row)| (*key, Partition(row.partition), EventTime(row.forget_at)))
            .collect();
        let known_to = self.batches.len() as i64;
        let verdicts = floors.iter().map(|&(p, from)| {
            let offsets = self.duplicates.range((p, from)..(p + 1, 0)).map(|(_, o)| *o);
            (Partition(p), Offset(from), offsets.collect())
        });
        Memory { keys, verdicts: verdicts.collect(), reached, known_to }
    }

    /// What the cut's transaction does with its keys, and which of others it meets; None: one that
    /// is in its way.
    pub fn commit(
        &mut self,
        commit: &Commit,
        kept: &Kept<'_>,
        number: u64,
        given_up: bool,
    ) -> Option<Memory> {
        let logs = kept.logs;
        let verdicts = &commit.verdicts;
        let mut learned = Memory::default();
        if !verdicts.keys.is_empty() {
            let others = self.batches[verdicts.known_to as usize..].iter().flatten();
            let others = others.filter(|(_, row)| !kept.is_over(row.partition, row.forget_at));
            for (key, row) in others {
                if let Some(new) = verdicts.keys.iter().find(|new| new.key == *key) {
                    let own = row.life == commit.life && !given_up && !row.given_up;
                    assert!(!own, "U-1: a key is taken twice by the same life, {new:?} {row:?}");
                    self.conflicts += 1;
                    return None;
                }
                let (partition, forget_at) = (Partition(row.partition), EventTime(row.forget_at));
                learned.keys.push((*key, partition, forget_at));
            }
            self.batches.push(BTreeMap::new());
            learned.known_to = self.batches.len() as i64;
        }
        for new in &verdicts.keys {
            let (partition, offset) = (new.partition.0, new.offset);
            let (key, time) = logs[partition as usize].record(offset);
            assert_eq!(new.key, Key(u128::from(key)), "another record's key");
            assert_eq!(new.forget_at.0, time + remember(), "forgotten at another time");
            let (forget_at, life) = (new.forget_at.0, commit.life);
            let row = Row { partition, forget_at, life, given_up };
            self.batches.last_mut().expect("pushed above").insert(new.key, row);
        }
        for duplicate in &verdicts.duplicates {
            let place = (duplicate.partition.0, duplicate.offset);
            assert!(self.duplicates.insert(place), "U-2: judged twice, {place:?}");
            let (_, time) = logs[place.0 as usize].record(place.1);
            assert_eq!(duplicate.event_time.0, time);
        }
        if number.is_multiple_of(3) {
            for batch in &mut self.batches {
                batch.retain(|_, row| !kept.is_over(row.partition, row.forget_at));
            }
        }
        self.look_again(commit, kept, number);
        Some(learned)
    }

    /// The oracle.
    fn look_again(&mut self, commit: &Commit, kept: &Kept<'_>, number: u64) {
        let spans: Vec<_> =
            commit.moves.iter().filter(|m| Out::of(&m.output) == Out::DeadLetters).collect();
        for m in &spans {
            let p = m.partition.0;
            let log = &kept.logs[p as usize];
            for offset in log.records(m.span.from.0, m.span.to.0) {
                if !self.duplicates.contains(&(p, offset)) {
                    let (key, time) = log.record(offset);
                    let forget_at = time + remember();
                    let taken = Taken { place: (p, offset), forget_at, commit: number };
                    self.taken.entry(key).or_default().push(taken);
                }
            }
        }
        for m in spans {
            let p = m.partition.0;
            let log = &kept.logs[p as usize];
            for offset in log.records(m.span.from.0, m.span.to.0) {
                let (key, _) = log.record(offset);
                let before = kept.before(p, offset);
                let others = self.taken.get(&key).into_iter().flatten();
                let mut others = others.filter(|t| t.place != (p, offset));
                let remembered_here = |t: &Taken| {
                    t.place.0 == p
                        && t.place.1 < offset
                        && before.is_none_or(|reached| reached < t.forget_at)
                };
                if self.duplicates.contains(&(p, offset)) {
                    // Of other partitions it was known at some time; of its own, exactly now.
                    let why = others.any(|t| remembered_here(t) || t.place.0 != p);
                    assert!(why, "U-1: no duplicate of anything: {p}@{offset}");
                } else {
                    let first = others.find(|t| {
                        remembered_here(t)
                            || t.place.0 != p
                                && t.commit < number
                                && !kept.is_over(t.place.0, t.forget_at)
                    });
                    assert!(
                        first.is_none(),
                        "U-1: {p}@{offset} was taken, and {first:?} before it"
                    );
                }
            }
        }
    }
}
