//! Keys and verdicts of topics with `unique`: kept with the cut that gave them, read by who takes.
//!
//! Owns: their statements. Does not own: what a duplicate is (`compute::unique`).
//!
//! SUBTLE: two processes that take the same key at the same time. Both insert; the second waits
//! for the first one's COMMIT at the primary key, then finds the key there and not forgotten, and
//! counts a row too few: its cut is rolled back as a whole (`Retry`), its lane taken anew, which
//! reads the key, and the record is judged a duplicate. Keys are sorted (W-2): no deadlock.

use super::{
    Warehouse,
    encode::Instant,
    postgres::{Parameter, Row, Session},
};
use crate::{
    compute::unique::{Duplicate, Key, Memory, NewKey},
    cut::Cut,
    error::{Error, Result},
    record::{EventTime, Offset, Output, Partition},
};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Rows of one statement.
const ROWS_MAX: usize = 20_000;
/// Keys of one page while reading all.
const PAGE_KEYS: i64 = 50_000;
/// Forgotten keys that are removed after a cut, per partition: more than a cut mostly adds.
const FORGET_MAX: i64 = 50_000;

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
            let sql = include_str!("../../sql/warehouse/read_reached.sql");
            let reached = session.query(&doing, sql, &[&topic]).await?;
            let keys = keys(&session, &doing, topic).await?;
            let verdicts = verdicts(&session, &doing, topic, partitions, has_lake).await?;
            session.roll_back(&doing).await?;
            Ok(Memory { keys, reached: reached.iter().map(watermark).collect(), verdicts })
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
    pub async fn held_keys(&self, topic: &str, keys: &[Key]) -> Result<BTreeSet<Key>> {
        let uuids: Vec<_> = keys.iter().map(|key| Uuid::from_u128(key.0)).collect();
        let sql = include_str!("../../sql/warehouse/held_unique_keys.sql");
        let rows = self.read(&format!("read keys of {topic}"), sql, &[&topic, &uuids]).await?;
        Ok(rows.iter().map(|row| Key(row.get::<_, Uuid>(0).as_u128())).collect())
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

async fn keys(
    session: &Session,
    doing: &str,
    topic: &str,
) -> Result<Vec<(Key, Partition, EventTime)>> {
    let sql = include_str!("../../sql/warehouse/read_unique_keys.sql");
    let (mut all, mut last) = (Vec::new(), Uuid::nil());
    loop {
        let rows = session.query(doing, sql, &[&topic, &last, &PAGE_KEYS]).await?;
        let Some(keys) = rows.first().and_then(|row| row.get::<_, Option<Vec<Uuid>>>(0)) else {
            return Ok(all);
        };
        let partitions: Vec<i32> = rows[0].get(1);
        let forget_at: Vec<Instant> = rows[0].get(2);
        last = *keys.last().expect("an aggregate of rows is not empty");
        let page = keys.into_iter().zip(partitions).zip(forget_at);
        all.extend(page.map(|((key, partition), forget_at)| {
            (Key(key.as_u128()), Partition(partition), EventTime(forget_at.0))
        }));
    }
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

/// U-1, U-2: keys that a cut takes and verdicts that it gives. Records that a retry takes, below
/// the judge's mark, go through here as well, and a judge that does not know of their keys meets
/// them in the same way: by `Retry`.
///
/// # Errors
/// `Retry`: somebody else took one of the keys first.
pub(super) async fn remember(
    session: &Session,
    doing: &str,
    topic: &str,
    keys: &[NewKey],
    duplicates: &[Duplicate],
) -> Result<()> {
    let sql = include_str!("../../sql/warehouse/insert_duplicates.sql");
    for now in duplicates.chunks(ROWS_MAX) {
        let partitions: Vec<_> = now.iter().map(|d| d.partition.0).collect();
        let offsets: Vec<_> = now.iter().map(|d| d.offset).collect();
        let times: Vec<_> = now.iter().map(|d| Instant(d.event_time.0)).collect();
        session.execute(doing, sql, &[&topic, &partitions, &offsets, &times]).await?;
    }
    let sql = include_str!("../../sql/warehouse/insert_unique_keys.sql");
    let mut taken = 0;
    for now in keys.chunks(ROWS_MAX) {
        let uuids: Vec<_> = now.iter().map(|k| Uuid::from_u128(k.key.0)).collect();
        let partitions: Vec<_> = now.iter().map(|k| k.partition.0).collect();
        let offsets: Vec<_> = now.iter().map(|k| k.offset).collect();
        let forget_at: Vec<_> = now.iter().map(|k| Instant(k.forget_at.0)).collect();
        let values: [Parameter; 5] = [&topic, &uuids, &partitions, &offsets, &forget_at];
        taken += session.execute(doing, sql, &values).await?;
    }
    match keys.len() as u64 - taken {
        0 => Ok(()),
        others => Err(Error::retry(format!(
            "{doing}: another process has taken {others} of its {} keys meanwhile; the records are judged again",
            keys.len()
        ))),
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
