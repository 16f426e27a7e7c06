//! The judge of a topic with `unique`: of records with the same key the first is taken, the others
//! are duplicates.
//!
//! Owns: what a key is, which keys are remembered and until when, the verdicts that are not yet
//! passed by every output. Does not own: where keys and verdicts are kept (`warehouse`), who asks
//! when (`pipeline::tables`).
//!
//! A record is a duplicate if and only if a record with the same key was taken before it and is
//! not forgotten. A key is forgotten when the watermark of the partition where it was taken has
//! come to its event time plus `within`. Keys are values after decoding, NULL equal to NULL;
//! rejects have no key. Every good record raises the watermark, a duplicate too: were it not so, a
//! key that never stops coming would hold the watermark back and never be forgotten.
//!
//! U-1  Within a partition a verdict depends on the records before it in that partition alone.
//!      Between partitions the one that is committed first wins: the cut of the other is rolled back
//!      and judged again.
//! U-2  A verdict is given once, at the position of the dead letters, and recorded in the
//!      transaction that moves their mark. Below it everybody believes the record.
//!
//! A key is kept as 128 bits of SipHash-2-4. Two keys that agree in all of them would cost a good
//! record: with a hundred million keys remembered and a million million records, about 3 in 10^19
//! that it ever happens.

pub mod retried;

use crate::{
    catalog::Topic,
    decode::Decoded,
    error::{Error, Result},
    record::{EventTime, IdleAdvance, Mark, Offset, Output, Partition},
};
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{
        DataType, Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type,
        TimestampMicrosecondType,
    },
};
use sha2::{Digest, Sha256};
use siphasher::sip128::{Hasher128, SipHasher24};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    time::Duration,
};

/// What one key costs in memory at most: its place in a table that has just doubled, and in a list
/// by the time at which it is forgotten.
pub const KEY_BYTES: usize = 128;
/// Keys are forgotten in this many steps per horizon: the more, the less stays too long.
const STEPS: i64 = 32;
const DUPLICATE_BYTES: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u128);

/// A key that a cut takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NewKey {
    pub key: Key,
    pub partition: Partition,
    pub offset: i64,
    /// The partition forgets it when its highest event time has come to this.
    pub forget_at: EventTime,
}

/// A verdict: one row of `highwater.duplicates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duplicate {
    pub partition: Partition,
    pub offset: i64,
    pub event_time: EventTime,
}

/// What is kept of a topic, as a process finds it that takes partitions; and what it learns of
/// others when it commits.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Of all partitions, also those of other processes.
    pub keys: Vec<(Key, Partition, EventTime)>,
    /// The highest event time of each partition.
    pub reached: Vec<(Partition, EventTime)>,
    /// Of the partitions taken: the duplicates from the lowest mark of any output on.
    pub verdicts: Vec<(Partition, Offset, Vec<i64>)>,
    /// The number of the last batch of keys that was read.
    pub known_to: i64,
}

/// What a cut, or a retry, of a topic with `unique` takes and finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    pub keys: Vec<NewKey>,
    /// In order of place.
    pub duplicates: Vec<Duplicate>,
    /// No key is among those of the batches up to this number; later ones are still to be compared.
    pub known_to: i64,
}

impl Verdicts {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.duplicates.is_empty()
    }
}

/// The keys remembered, and those taken since the last seal.
#[derive(Debug)]
pub struct Keys {
    remember_us: i64,
    step_us: i64,
    kept: HashMap<Key, Kept, BuildHasherDefault<TopBits>>,
    reached: BTreeMap<Partition, EventTime>,
    /// By partition and step of `forget_at`.
    to_forget: BTreeMap<(Partition, i64), Vec<Key>>,
    taken: Vec<NewKey>,
    /// Every batch of keys up to this number is known.
    known_to: i64,
    /// And was when each key of the open cut was taken: the commit has to look at later ones.
    taken_knowing: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    forget_at: EventTime,
    partition: Partition,
}

/// A key is a hash already.
#[derive(Debug, Default)]
struct TopBits(u64);

impl Hasher for TopBits {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            self.0 ^= chunk.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        }
    }
    fn write_u128(&mut self, key: u128) {
        self.0 = (key >> 64) as u64;
    }
}

/// From a key's event time to the event time of its partition at which it is forgotten.
fn remember_us(within: Duration, max_disorder: Duration) -> i64 {
    let us = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    us(within).saturating_add(us(max_disorder))
}

impl Keys {
    pub fn new(within: Duration, max_disorder: Duration) -> Self {
        let remember_us = remember_us(within, max_disorder);
        Self {
            remember_us,
            step_us: (remember_us / STEPS).max(1),
            kept: HashMap::default(),
            reached: BTreeMap::new(),
            to_forget: BTreeMap::new(),
            taken: Vec::new(),
            known_to: 0,
            taken_knowing: 0,
        }
    }

    /// Whether the record is a duplicate; if not, its key is taken. Then it raises the watermark.
    pub fn judge(
        &mut self,
        partition: Partition,
        offset: i64,
        event_time: EventTime,
        key: Key,
    ) -> bool {
        let duplicate = self.kept.get(&key).is_some_and(|kept| !self.is_forgotten(kept));
        if !duplicate {
            let forget_at = EventTime(event_time.0.saturating_add(self.remember_us));
            self.keep(key, Kept { forget_at, partition });
            self.taken.push(NewKey { key, partition, offset, forget_at });
        }
        self.observe(partition, event_time);
        duplicate
    }

    fn is_forgotten(&self, kept: &Kept) -> bool {
        self.reached.get(&kept.partition).is_some_and(|reached| *reached >= kept.forget_at)
    }

    fn keep(&mut self, key: Key, kept: Kept) {
        if self.kept.insert(key, kept).is_some_and(|before| before == kept) {
            return;
        }
        let step = kept.forget_at.0.div_euclid(self.step_us);
        self.to_forget.entry((kept.partition, step)).or_default().push(key);
    }

    /// The partition's event time has come so far.
    pub fn observe(&mut self, partition: Partition, event_time: EventTime) {
        let reached = self.reached.entry(partition).or_insert(event_time);
        let before = std::mem::replace(reached, event_time.max(*reached));
        let (now, step) = (*reached, reached.0.div_euclid(self.step_us));
        if before == now || before.0.div_euclid(self.step_us) == step {
            return;
        }
        // Of the step that is under way some are to be remembered: it waits until it is over.
        let whole = (partition, i64::MIN)..(partition, step);
        let steps: Vec<_> = self.to_forget.range(whole).map(|(step, _)| *step).collect();
        for step in steps {
            for key in self.to_forget.remove(&step).into_iter().flatten() {
                // Taken again since, it stands in another step, or another partition's.
                if let Some(kept) = self.kept.get(&key)
                    && kept.partition == partition
                    && kept.forget_at <= now
                {
                    self.kept.remove(&key);
                }
            }
        }
    }

    /// Adds what other lives and processes have kept. True: the open cut takes a key that was taken
    /// elsewhere before, so it cannot stand.
    pub fn recall(&mut self, memory: &Memory) -> bool {
        for (partition, event_time) in &memory.reached {
            self.observe(*partition, *event_time);
        }
        let mut contested = false;
        let taken: HashSet<Key, BuildHasherDefault<TopBits>> = match memory.keys.is_empty() {
            true => HashSet::default(),
            false => self.taken.iter().map(|new| new.key).collect(),
        };
        self.kept.reserve(memory.keys.len().saturating_sub(self.kept.len()));
        for (key, partition, forget_at) in &memory.keys {
            let kept = Kept { forget_at: *forget_at, partition: *partition };
            if !self.is_forgotten(&kept) {
                contested |= taken.contains(key);
                self.keep(*key, kept);
            }
        }
        self.known_to = self.known_to.max(memory.known_to);
        if !contested {
            self.taken_knowing = self.known_to;
        }
        contested
    }

    /// What was taken since the last time, and up to which batch each was compared with what
    /// others had taken. A key that was forgotten and taken again stands twice.
    pub fn seal(&mut self) -> (Vec<NewKey>, i64) {
        let taken_knowing = std::mem::replace(&mut self.taken_knowing, self.known_to);
        (std::mem::take(&mut self.taken), taken_knowing)
    }

    pub fn clear(&mut self) {
        self.kept.clear();
        self.reached.clear();
        self.to_forget.clear();
        self.taken.clear();
        (self.known_to, self.taken_knowing) = (0, 0);
    }

    pub fn len(&self) -> usize {
        self.kept.len()
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

/// Where the judge stands in one partition.
#[derive(Debug)]
struct Bench {
    /// The dead letters' mark when it was taken: below, verdicts are recorded.
    floor: Offset,
    /// Verdicts are known from here on: what no output has to pass any more is dropped.
    known_from: Offset,
    duplicates: BTreeSet<i64>,
}

/// See the front page.
#[derive(Debug)]
pub struct Judge {
    keys: Keys,
    keys_max: usize,
    benches: BTreeMap<Partition, Bench>,
    /// Since the last seal.
    found: Vec<Duplicate>,
    contested: bool,
}

impl Judge {
    /// With more than `keys_max` keys to remember it judges no more.
    pub fn new(within: Duration, max_disorder: Duration, keys_max: usize) -> Self {
        let keys = Keys::new(within, max_disorder);
        Self { keys, keys_max, benches: BTreeMap::new(), found: Vec::new(), contested: false }
    }

    /// Goes on from these marks, with what moved event time without a record up to them. What
    /// `memory` has of other partitions is added as well.
    pub fn adopt(
        &mut self,
        marks: &[(Output, Partition, Mark)],
        advances: &[IdleAdvance],
        memory: &Memory,
    ) {
        for (_, partition, mark) in marks.iter().filter(|(out, ..)| *out == Output::DeadLetters) {
            let verdicts = memory.verdicts.iter().find(|(p, ..)| p == partition);
            let (known_from, duplicates) = match verdicts {
                Some((_, from, offsets)) => (*from, offsets.iter().copied().collect()),
                None => (mark.next, BTreeSet::new()),
            };
            let bench = Bench { floor: mark.next, known_from, duplicates };
            self.benches.insert(*partition, bench);
            let own = |a: &&IdleAdvance| a.partition == *partition && a.before <= mark.next;
            let advanced = advances.iter().filter(own).map(|a| a.event_time).max();
            if let Some(event_time) = mark.event_time_max.max(advanced) {
                self.keys.observe(*partition, event_time);
            }
        }
        self.contested |= self.keys.recall(memory);
    }

    /// A commit has found keys that others have taken meanwhile, none of them its own.
    pub fn learn(&mut self, memory: &Memory) {
        self.contested |= self.keys.recall(memory);
    }

    /// SUBTLE: keys become known that the open cut has taken as well, with a partition or by a
    /// commit. Its own commit alone might not see it: the cut goes on with that partition, and may
    /// by its end have come so far that the key counts as forgotten. So the cut is given up at
    /// once; where it was sealed before that, its commit still looks at those keys.
    pub fn is_contested(&self) -> bool {
        self.contested
    }

    /// Other processes' partitions have come so far.
    pub fn hear(&mut self, reached: &[(Partition, EventTime)]) {
        for (partition, event_time) in reached {
            self.keys.observe(*partition, *event_time);
        }
    }

    pub fn abandon(&mut self) {
        self.keys.clear();
        self.benches.clear();
        self.found.clear();
        self.contested = false;
    }

    /// Whether the record is a duplicate: as recorded, or judged now.
    pub fn verdict(
        &mut self,
        partition: Partition,
        offset: i64,
        event_time: EventTime,
        key: Key,
    ) -> bool {
        let bench = self.benches.get_mut(&partition).expect("marks are adopted before records");
        if offset < bench.floor.0 {
            return bench.duplicates.contains(&offset);
        }
        let duplicate = self.keys.judge(partition, offset, event_time, key);
        if duplicate {
            bench.duplicates.insert(offset);
            self.found.push(Duplicate { partition, offset, event_time });
        }
        duplicate
    }

    /// [`Self::verdict`] of each row at or above `from`; empty: none is a duplicate.
    ///
    /// # Errors
    /// `Halt`: more keys than there is room for.
    pub fn judge(
        &mut self,
        hashing: &Hashing,
        decoded: &Decoded,
        from: &[(Partition, Offset)],
    ) -> Result<Vec<bool>> {
        let (partitions, offsets) = super::places(&decoded.rows);
        let columns = hashing.columns(&decoded.rows);
        let (mut answers, mut any, mut start) = (vec![false; offsets.len()], false, 0);
        for run in partitions.chunk_by(|a, b| a == b) {
            let partition = Partition(run[0]);
            let rows = start..start + run.len();
            start = rows.end;
            let Some((_, from)) = from.iter().find(|(p, _)| *p == partition) else { continue };
            for row in rows.filter(|row| offsets[*row] >= from.0) {
                let key = hashing.key(&columns, row)?;
                let event_time = decoded.event_times[row];
                answers[row] = self.verdict(partition, offsets[row], event_time, key);
                any |= answers[row];
            }
        }
        if self.keys.len() > self.keys_max {
            return Err(Error::halt(format!(
                "`unique` has to remember {} keys, and there is room for {}: give more --memory (a \
                 quarter of a topic's share, {KEY_BYTES} bytes a key), or a shorter `within`",
                self.keys.len(),
                self.keys_max
            )));
        }
        Ok(if any { answers } else { Vec::new() })
    }

    /// The duplicates among these offsets, which were judged.
    ///
    /// # Errors
    /// `Fenced`: every output has passed them, so who asks has an old mark.
    pub fn duplicates(&self, partition: Partition, from: i64, to: Offset) -> Result<Vec<i64>> {
        match self.benches.get(&partition) {
            Some(bench) if bench.known_from.0 <= from => {
                Ok(bench.duplicates.range(from..to.0.max(from)).copied().collect())
            }
            Some(_) | None => Err(Error::fenced(format!(
                "every output has passed these verdicts, partition={} from={from} to={}",
                partition.0, to.0
            ))),
        }
    }

    /// Every output has passed these.
    pub fn passed(&mut self, partition: Partition, offset: Offset) {
        if let Some(bench) = self.benches.get_mut(&partition)
            && bench.known_from < offset
        {
            bench.known_from = offset;
            bench.duplicates = bench.duplicates.split_off(&offset.0);
        }
    }

    /// What a cut takes and finds; the next begins.
    pub fn seal(&mut self) -> Verdicts {
        let mut duplicates = std::mem::take(&mut self.found);
        duplicates.sort_unstable();
        let (keys, known_to) = self.keys.seal();
        Verdicts { keys, duplicates, known_to }
    }

    /// Of the open cut: what ends it when it grows.
    pub fn open_bytes(&self) -> usize {
        self.keys.taken.len() * KEY_BYTES + self.found.len() * DUPLICATE_BYTES
    }

    pub fn memory(&self) -> usize {
        let verdicts: usize = self.benches.values().map(|bench| bench.duplicates.len()).sum();
        self.keys.len() * KEY_BYTES + verdicts * DUPLICATE_BYTES
    }
}

/// What the key of a topic's rows is made of.
pub struct Hashing {
    columns: Vec<usize>,
    hasher: SipHasher24,
}

impl Hashing {
    /// None: the topic takes every good record.
    pub fn new(topic: &Topic) -> Option<Self> {
        let spec = topic.unique.as_ref()?;
        let declared = Sha256::digest(topic.unique_declaration()?);
        let secret: [u8; 16] = declared[..16].try_into().expect("SHA-256 has 32 bytes");
        let hasher = SipHasher24::new_with_key(&secret);
        Some(Self { columns: spec.columns.clone(), hasher })
    }

    /// Of each row.
    pub fn keys(&self, rows: &RecordBatch) -> Result<Vec<Key>> {
        let columns = self.columns(rows);
        (0..rows.num_rows()).map(|row| self.key(&columns, row)).collect()
    }

    fn columns(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.columns.iter().map(|index| rows.column(*index).clone()).collect()
    }

    /// Each value behind a byte that says whether it is NULL, and what has a length behind it: no
    /// two rows of different values give the same bytes.
    fn key(&self, columns: &[ArrayRef], row: usize) -> Result<Key> {
        let mut hasher = self.hasher;
        for column in columns {
            if column.is_null(row) {
                hasher.write(&[0]);
                continue;
            }
            hasher.write(&[1]);
            match column.data_type() {
                DataType::Utf8 => {
                    write_bytes(&mut hasher, column.as_string::<i32>().value(row).as_bytes())
                }
                DataType::Binary => write_bytes(&mut hasher, column.as_binary::<i32>().value(row)),
                DataType::Boolean => hasher.write(&[u8::from(column.as_boolean().value(row))]),
                DataType::Int16 => {
                    hasher.write(&column.as_primitive::<Int16Type>().value(row).to_le_bytes());
                }
                DataType::Int32 => {
                    hasher.write(&column.as_primitive::<Int32Type>().value(row).to_le_bytes());
                }
                DataType::Int64 => {
                    hasher.write(&column.as_primitive::<Int64Type>().value(row).to_le_bytes());
                }
                DataType::Date32 => {
                    hasher.write(&column.as_primitive::<Date32Type>().value(row).to_le_bytes());
                }
                DataType::Decimal128(_, _) => {
                    hasher.write(&column.as_primitive::<Decimal128Type>().value(row).to_le_bytes());
                }
                DataType::Timestamp(_, _) => {
                    let value = column.as_primitive::<TimestampMicrosecondType>().value(row);
                    hasher.write(&value.to_le_bytes());
                }
                other => return Err(Error::halt(format!("`unique` cannot take a key of {other}"))),
            }
        }
        Ok(Key(hasher.finish128().as_u128()))
    }
}

fn write_bytes(hasher: &mut SipHasher24, bytes: &[u8]) {
    hasher.write(&(bytes.len() as u64).to_le_bytes());
    hasher.write(bytes);
}
