//! Keys and verdicts of topics with `unique`: kept with the cut that gave them, read by who takes.
//!
//! Owns: their statements, the bytes of a batch of keys. Does not own: what a duplicate is
//! (`compute::unique`).
//!
//! Keys are written in batches, by a cut for a partition, and numbered in the order of commits. A
//! process knows all batches up to a number, in memory, and its cut names it; the commit reads those
//! behind it, and finds them without a key of the cut, or rolls back.
//!
//! SUBTLE: two processes that take the same key at the same time. Both insert the batch with the
//! next number; the second waits for the first one's COMMIT at the primary key, finds the number
//! taken, and reads what the first one took. A key of its own among those: its cut is rolled back as a whole
//! (`Retry`), its lane taken anew, which reads the key, and the record is judged a duplicate. None: it
//! goes on with the number after. This is the last that a transaction does, so whoever has a number
//! waits for nobody, and there is no deadlock. The last batch is never removed: a number that is
//! given twice would hide one.

use super::{
    Warehouse,
    encode::Instant,
    postgres::{Parameter, Row, Session},
};
use crate::{
    compute::unique::{Key, Memory, NewKey, Verdicts, retried::Held},
    cut::Cut,
    error::{Error, Result},
    record::{EventTime, Offset, Output, Partition},
};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Rows of one statement.
const ROWS_MAX: usize = 20_000;
/// A key in its batch: its 128 bits, and the microseconds since 1970 at which it is forgotten.
const KEY_BYTES: usize = 24;
/// Keys of one batch.
const BATCH_KEYS: usize = 2_000;
/// Batches of one page while reading all: 12 MiB at most.
const PAGE_BATCHES: i64 = 256;
/// Forgotten batches that are removed after a cut, per partition: more than a cut mostly adds.
const FORGET_MAX: i64 = 500;

impl Warehouse {
    /// What a process must know to go on judging: read after taking, so that of the partitions
    /// taken nothing more is committed by anybody else.
    pub async fn recall(
        &self,
        topic: &str,
        partitions: &[(Partition, Offset)],
        has_lake: bool,
    ) -> Result<Memory> {
        let doing = format!("read the keys of {topic}");
        self.within(&doing, async {
            let session = self.session().await?;
            session.batch(&doing, include_str!("../../sql/warehouse/begin_snapshot.sql")).await?;
            let mut memory = keys_behind(&session, &doing, topic, 0).await?;
            let verdicts = verdicts(&session, &doing, topic, partitions, has_lake).await?;
            session.roll_back(&doing).await?;
            memory.verdicts = verdicts;
            Ok(memory)
        })
        .await
    }

    /// Recorded duplicates that an output of these partitions has still to pass.
    pub async fn duplicates_ahead(
        &self,
        topic: &str,
        partitions: &[(Partition, Offset)],
        has_lake: bool,
    ) -> Result<u64> {
        let doing = format!("read the duplicates of {topic}");
        self.within(&doing, async {
            let session = self.session().await?;
            let verdicts = verdicts(&session, &doing, topic, partitions, has_lake).await?;
            session.give_back();
            Ok(verdicts.iter().map(|(_, _, offsets)| offsets.len() as u64).sum())
        })
        .await
    }

    /// Which of these keys are taken and not forgotten.
    pub async fn held_keys(&self, topic: &str, keys: &[Key]) -> Result<Held> {
        let memory = self.recall(topic, &[], false).await?;
        let wanted: BTreeSet<&Key> = keys.iter().collect();
        let held = memory.keys.iter().map(|(key, ..)| *key).filter(|key| wanted.contains(key));
        Ok(Held { keys: held.collect(), known_to: memory.known_to })
    }

    /// Removes keys that are forgotten, and says how far each partition has come.
    pub async fn forget(&self, topic: &str) -> Result<Vec<(Partition, EventTime)>> {
        let doing = format!("forget keys of {topic}");
        let sql = include_str!("../../sql/warehouse/forget_unique_keys.sql");
        self.change(&doing, sql, &[&topic, &FORGET_MAX]).await?;
        let sql = include_str!("../../sql/warehouse/read_reached.sql");
        Ok(self.read(&doing, sql, &[&topic]).await?.iter().map(watermark).collect())
    }
}

fn watermark(row: &Row) -> (Partition, EventTime) {
    (Partition(row.get(0)), EventTime(row.get::<_, Instant>(1).0))
}

/// What is kept behind a batch and not forgotten, as far as this transaction sees.
async fn keys_behind(session: &Session, doing: &str, topic: &str, known_to: i64) -> Result<Memory> {
    let mut memory = Memory { known_to, ..Memory::default() };
    let sql = include_str!("../../sql/warehouse/read_unique_keys.sql");
    loop {
        let rows = session.query(doing, sql, &[&topic, &memory.known_to, &PAGE_BATCHES]).await?;
        for row in &rows {
            let (partition, batch): (_, &[u8]) = (Partition(row.get(1)), row.get(2));
            let (batch, _) = batch.as_chunks::<KEY_BYTES>();
            memory.keys.extend(batch.iter().map(|entry| {
                let (key, forget_at) = unpack(entry);
                (key, partition, forget_at)
            }));
            memory.known_to = row.get(0);
        }
        if rows.len() < PAGE_BATCHES as usize {
            break;
        }
    }
    let sql = include_str!("../../sql/warehouse/read_reached.sql");
    let reached = session.query(doing, sql, &[&topic]).await?;
    memory.reached = reached.iter().map(watermark).collect();
    let reached: BTreeMap<_, _> = memory.reached.iter().copied().collect();
    memory.keys.retain(|(_, partition, at)| reached.get(partition).is_none_or(|now| now < at));
    Ok(memory)
}

fn pack(new: &NewKey, into: &mut Vec<u8>) {
    into.extend(new.key.0.to_be_bytes());
    into.extend(new.forget_at.0.to_be_bytes());
}

fn unpack(entry: &[u8; KEY_BYTES]) -> (Key, EventTime) {
    let (key, forget_at) = entry.split_at(16);
    let key = u128::from_be_bytes(key.try_into().expect("16 bytes"));
    (Key(key), EventTime(i64::from_be_bytes(forget_at.try_into().expect("8 bytes"))))
}

async fn verdicts(
    session: &Session,
    doing: &str,
    topic: &str,
    partitions: &[(Partition, Offset)],
    has_lake: bool,
) -> Result<Vec<(Partition, Offset, Vec<i64>)>> {
    let numbers: Vec<_> = partitions.iter().map(|(partition, _)| partition.0).collect();
    let oldest: Vec<_> = partitions.iter().map(|(_, offset)| offset.0).collect();
    let sql = include_str!("../../sql/warehouse/read_duplicates.sql");
    let rows = session.query(doing, sql, &[&topic, &numbers, &oldest, &has_lake]).await?;
    Ok(rows.iter().map(|row| (Partition(row.get(0)), Offset(row.get(1)), row.get(2))).collect())
}

/// U-1, U-2: keys that a cut takes and verdicts that it gives, as the last step before COMMIT.
/// Records that a retry takes, below the judge's mark, go through here as well, and a judge that
/// does not know of their keys meets them in the same way: by `Retry`. Gives the keys of others
/// that were met.
///
/// # Errors
/// `Retry`: somebody else took one of the keys first.
pub(super) async fn remember(
    session: &Session,
    doing: &str,
    topic: &str,
    verdicts: &Verdicts,
) -> Result<Memory> {
    let sql = include_str!("../../sql/warehouse/insert_duplicates.sql");
    for now in verdicts.duplicates.chunks(ROWS_MAX) {
        let partitions: Vec<_> = now.iter().map(|d| d.partition.0).collect();
        let offsets: Vec<_> = now.iter().map(|d| d.offset).collect();
        let times: Vec<_> = now.iter().map(|d| Instant(d.event_time.0)).collect();
        session.execute(doing, sql, &[&topic, &partitions, &offsets, &times]).await?;
    }
    if verdicts.keys.is_empty() {
        return Ok(Memory::default());
    }
    let mut batches = Batches::of(&verdicts.keys);
    let rest = batches.split_off(1);
    let mut learned = Memory { known_to: verdicts.known_to, ..Memory::default() };
    loop {
        let others = keys_behind(session, doing, topic, learned.known_to).await?;
        refuse_taken(doing, &verdicts.keys, &others)?;
        learned.keys.extend(others.keys);
        (learned.reached, learned.known_to) = (others.reached, others.known_to);
        // Waits for whoever is about to commit this number.
        if batches.insert(session, doing, topic, learned.known_to).await? == 1 {
            break;
        }
    }
    learned.known_to += 1;
    rest.insert(session, doing, topic, learned.known_to).await?;
    learned.known_to += rest.partitions.len() as i64;
    Ok(learned)
}

fn refuse_taken(doing: &str, keys: &[NewKey], others: &Memory) -> Result<()> {
    if others.keys.is_empty() {
        return Ok(());
    }
    let others: HashSet<Key> = others.keys.iter().map(|(key, ..)| *key).collect();
    match keys.iter().filter(|new| others.contains(&new.key)).count() {
        0 => Ok(()),
        taken => Err(Error::retry(format!(
            "{doing}: another process has taken {taken} of its {} keys meanwhile; the records are \
             judged again",
            keys.len()
        ))),
    }
}

/// Rows of `highwater.unique_keys` without their numbers.
struct Batches {
    partitions: Vec<i32>,
    keys: Vec<Vec<u8>>,
    /// The last of a batch.
    forget_at: Vec<Instant>,
}

impl Batches {
    fn of(keys: &[NewKey]) -> Self {
        let mut by_partition: BTreeMap<i32, Vec<&NewKey>> = BTreeMap::new();
        for new in keys {
            by_partition.entry(new.partition.0).or_default().push(new);
        }
        let (mut partitions, mut packed, mut forget_at) = (Vec::new(), Vec::new(), Vec::new());
        for (partition, keys) in by_partition {
            for batch in keys.chunks(BATCH_KEYS) {
                let mut bytes = Vec::with_capacity(batch.len() * KEY_BYTES);
                batch.iter().for_each(|new| pack(new, &mut bytes));
                let last = batch.iter().map(|new| new.forget_at.0).max().unwrap_or_default();
                partitions.push(partition);
                packed.push(bytes);
                forget_at.push(Instant(last));
            }
        }
        Self { partitions, keys: packed, forget_at }
    }

    fn split_off(&mut self, at: usize) -> Self {
        Self {
            partitions: self.partitions.split_off(at),
            keys: self.keys.split_off(at),
            forget_at: self.forget_at.split_off(at),
        }
    }

    /// Behind this number; says how many rows there are now, which is fewer when a number is taken.
    async fn insert(
        &self,
        session: &Session,
        doing: &str,
        topic: &str,
        behind: i64,
    ) -> Result<u64> {
        let sql = include_str!("../../sql/warehouse/insert_unique_keys.sql");
        let values: [Parameter; 5] =
            [&topic, &behind, &self.partitions, &self.keys, &self.forget_at];
        session.execute(doing, sql, &values).await
    }
}

/// U-3: what a cut of the lake left out as duplicates are the verdicts recorded, and all of its
/// records were judged.
pub(super) async fn prove(session: &Session, doing: &str, cut: &Cut) -> Result<()> {
    let topic: &str = &cut.topic;
    let lake: Vec<_> = cut.advances.iter().filter(|a| a.output == Output::Lake).collect();
    let partitions: Vec<_> = lake.iter().map(|a| a.partition.0).collect();
    let from: Vec<_> = lake.iter().map(|a| a.span.from.0).collect();
    let to: Vec<_> = lake.iter().map(|a| a.span.to.0).collect();
    let duplicates: Vec<_> = lake.iter().map(|a| a.fates.duplicate as i64).collect();
    let sql = include_str!("../../sql/warehouse/unproved_duplicates.sql");
    let wrong = session.query(doing, sql, &[&topic, &partitions, &from, &to, &duplicates]).await?;
    match wrong.first() {
        None => Ok(()),
        Some(row) => Err(Error::halt(format!(
            "U-3: the lake left out other duplicates than were recorded, topic={topic} partition={} \
             judged_to={:?} recorded={}",
            row.get::<_, i32>(0),
            row.get::<_, Option<i64>>(1),
            row.get::<_, i64>(2)
        ))),
    }
}
