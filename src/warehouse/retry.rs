//! The transaction of a retry: refused records are taken after all, once.
//!
//! Owns: its order of steps. Does not own: what the records are today (`pipeline::retry`).
//!
//! SUBTLE: what makes it exactly once. A letter is applied only by removing it, in the transaction
//! that changes the fates: of two retries the second finds it gone, and so does one that is repeated
//! because its reply was lost. All marks of the partitions are locked first, in the order in which
//! cuts lock theirs: no cut can add a refusal to a letter that is just being removed, which would
//! count as dead what no letter holds. What was read before the lock is compared after it; where it
//! differs, nothing is done and the caller plans anew.
//!
//! Of a topic with `unique` its keys and verdicts are written where a cut writes them. A key that
//! was taken since the plan was made rolls everything back (`Retry`), and is found by the next plan.
//!
//! No mark moves: totals change under `next_offset` and epoch, and the owner's next cut adds to them.

use super::{
    Warehouse,
    commit::{Made, add_files},
    dead_letters::printable,
    drift,
    encode::Instant,
    listing::output,
    postgres::{Parameter, Row, Session},
    unique,
};
use crate::{
    compute::{Delta, unique::Verdicts},
    cut::LakeFile,
    error::{Error, Kind, Result},
    record::{Epoch, EventTime, Fates, Output, Partition},
};
use std::{collections::BTreeSet, sync::Arc};

/// Letters that are retried at once: at most so many, and so many bytes of keys and values.
pub const LETTERS_MAX: i64 = 1_000;
const LETTER_BYTES_MAX: i64 = 16 << 20;

/// Where a letter lies; in the order in which they are retried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterKey {
    pub partition: Partition,
    pub offset: i64,
    /// As in the column `output`.
    pub output: String,
}

/// Which letters of a topic to retry; what is None is not looked at.
#[derive(Debug, Clone, Default)]
pub struct RetryFilter {
    pub output: Option<String>,
    pub class: Option<String>,
    pub places: Option<Vec<(Partition, i64)>>,
    /// Stored before, by the server's clock: microseconds since 1970.
    pub before: i64,
}

/// Key and value of a record.
pub type RawBytes = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A letter with all that a retry needs.
#[derive(Debug, Clone)]
pub struct RetryLetter {
    pub key: LetterKey,
    pub timestamp: EventTime,
    pub class: String,
    pub column: Option<String>,
    pub reason: String,
    /// None: not kept.
    pub raw: Option<RawBytes>,
    /// Who counts it as dead, with the highest event time that each had seen before it.
    pub refused_by: Vec<(Output, Option<EventTime>)>,
}

/// An output that does not take a record which others take now.
#[derive(Debug, Clone)]
pub struct Moved {
    pub letter: LetterKey,
    pub output: Output,
    pub class: &'static str,
    pub reason: String,
}

/// What a letter that stays says today.
#[derive(Debug, Clone)]
pub struct Refreshed {
    pub letter: LetterKey,
    pub class: &'static str,
    pub column: Option<String>,
    pub reason: String,
}

/// Dead offsets of an output and partition, and what becomes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub output: Output,
    pub partition: Partition,
    pub was_dead: u64,
    pub fates: Fates,
}

/// Files of a retry, sealed and noted.
#[derive(Debug)]
pub struct RetryFiles {
    /// What the uploads are noted for.
    pub noted_for: (Partition, Epoch),
    pub sequence: i64,
    pub files: Vec<LakeFile>,
}

/// What is done at once.
#[derive(Debug, Default)]
pub struct Retry {
    pub topic: Arc<str>,
    /// Letters that go.
    pub letters: Vec<LetterKey>,
    /// Of those: who takes the record now.
    pub settled: Vec<(LetterKey, Output)>,
    /// Of those: who still does not.
    pub moved: Vec<Moved>,
    /// Letters that stay.
    pub refreshed: Vec<Refreshed>,
    /// Sorted by (output, partition).
    pub changes: Vec<Change>,
    /// By model; sorted by name.
    pub tables: Vec<(Arc<str>, Delta)>,
    pub files: Option<RetryFiles>,
    /// Of a topic with `unique`: keys that the records take, and those that are duplicates.
    pub verdicts: Verdicts,
    /// of the topic by which the records were decoded.
    pub additions: (i64, i64),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    Done,
    /// Nothing happened: a letter, a refusal or an owner has changed since they were read.
    Changed,
}

impl Warehouse {
    /// The server's clock: microseconds since 1970.
    pub async fn now(&self) -> Result<i64> {
        let rows = self.read("ask for the time", "SELECT clock_timestamp()", &[]).await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, Instant>(0).0))
    }

    /// The next letters after a place, of those that somebody counts as dead.
    pub async fn letters_to_retry(
        &self,
        topic: &str,
        filter: &RetryFilter,
        after: Option<&LetterKey>,
    ) -> Result<Vec<RetryLetter>> {
        let places = filter.places.as_ref();
        let partitions = places.map(|p| p.iter().map(|(p, _)| p.0).collect::<Vec<_>>());
        let offsets = places.map(|p| p.iter().map(|(_, offset)| *offset).collect::<Vec<_>>());
        let before = Instant(filter.before);
        let (partition, offset, of) =
            after.map_or((-1, -1, ""), |k| (k.partition.0, k.offset, k.output.as_str()));
        let values: [Parameter; 11] = [
            &topic,
            &filter.output,
            &filter.class,
            &partitions,
            &offsets,
            &partition,
            &offset,
            &of,
            &LETTERS_MAX,
            &LETTER_BYTES_MAX,
            &before,
        ];
        let sql = include_str!("../../sql/warehouse/letters_to_retry.sql");
        let rows = self.read("read dead letters to retry", sql, &values).await?;
        rows.iter().map(retry_letter).collect()
    }

    /// Does all of it, or nothing.
    ///
    /// # Errors
    /// `Retry`: nothing happened. `Unknown`: it may have; what is read next says.
    pub async fn retry(&self, retry: &Retry) -> Result<Retried> {
        for change in &retry.changes {
            if change.fates.total() != change.was_dead {
                return Err(Error::halt(format!(
                    "I-3: fates of retried records do not add up, output={} partition={} dead={} fates={:?}",
                    change.output, change.partition.0, change.was_dead, change.fates
                )));
            }
        }
        let doing = format!("retry dead letters of {}", retry.topic);
        let work = self.retry_now(retry, &doing);
        match tokio::time::timeout(self.transaction_timeout(), work).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(Kind::Unknown, format!("{doing}: no answer in time"))),
        }
    }

    async fn retry_now(&self, retry: &Retry, doing: &str) -> Result<Retried> {
        let session = self.begin(doing).await?;
        if !self.apply(&session, retry, doing).await? {
            let _ = session.roll_back(doing).await;
            return Ok(Retried::Changed);
        }
        session.commit(doing).await?;
        Ok(Retried::Done)
    }

    /// False: something has changed meanwhile.
    async fn apply(&self, session: &Session, retry: &Retry, doing: &str) -> Result<bool> {
        let topic: &str = &retry.topic;
        let keys = retry.letters.iter().chain(retry.refreshed.iter().map(|r| &r.letter));
        let partitions: Vec<i32> =
            keys.map(|key| key.partition.0).collect::<BTreeSet<_>>().into_iter().collect();
        let sql = include_str!("../../sql/warehouse/lock_partitions.sql");
        let marks = session.query(doing, sql, &[&topic, &partitions]).await?;
        if drift::added(session, doing, topic).await? != retry.additions {
            return Err(Error::config(format!(
                "{topic} has got a column meanwhile (drift = \"apply\"): run it again"
            )));
        }
        let outputs: Vec<Output> =
            retry.tables.iter().map(|(model, _)| Output::Model(model.clone())).collect();
        self.refuse_other_definitions(session, doing, outputs.iter()).await?;
        if let Some(files) = &retry.files {
            let (partition, epoch) = files.noted_for;
            let owned = |row: &Row| {
                row.get::<_, &str>(0) == "lake"
                    && row.get::<_, i32>(1) == partition.0
                    && row.get::<_, i64>(2) == epoch.0
            };
            if !marks.iter().any(owned) {
                return Ok(false);
            }
        }
        if settle(session, doing, retry).await? != retry.settled.len() as u64
            || move_refusals(session, doing, retry).await? != retry.moved.len() as u64
            || claim(session, doing, retry).await? != retry.letters.len()
        {
            return Ok(false);
        }
        refresh(session, doing, retry).await?;
        if let Some(RetryFiles { noted_for, sequence, files }) = &retry.files {
            let made = Made { moved: &[*noted_for], sequence: *sequence, origin: "retry" };
            add_files(session, doing, topic, &made, files).await?;
        }
        self.lock_models(session, doing, retry.tables.iter().map(|(model, _)| model)).await?;
        for (model, delta) in &retry.tables {
            self.merge(session, model, delta).await?;
        }
        unique::remember(session, doing, topic, &retry.verdicts).await?;
        change_fates(session, doing, retry).await?;
        Ok(true)
    }
}

fn retry_letter(row: &Row) -> Result<RetryLetter> {
    let outputs: Vec<String> = row.get(10);
    let times: Vec<Option<Instant>> = row.get(11);
    let refused_by = outputs.iter().zip(times).map(|(name, time)| {
        let time = time.map(|instant| EventTime(instant.0));
        output(name).map(|output| (output, time))
    });
    Ok(RetryLetter {
        key: LetterKey { output: row.get(0), partition: Partition(row.get(1)), offset: row.get(2) },
        timestamp: EventTime(row.get::<_, Instant>(3).0),
        class: row.get(4),
        column: row.get(5),
        reason: row.get(6),
        raw: row.get::<_, bool>(7).then(|| (row.get(8), row.get(9))),
        refused_by: refused_by.collect::<Result<_>>()?,
    })
}

/// Places as arrays: outputs, partitions, offsets.
fn places<'a>(keys: impl Iterator<Item = &'a LetterKey>) -> (Vec<i32>, Vec<i64>, Vec<&'a str>) {
    let (mut partitions, mut offsets, mut letters) = (Vec::new(), Vec::new(), Vec::new());
    for key in keys {
        partitions.push(key.partition.0);
        offsets.push(key.offset);
        letters.push(key.output.as_str());
    }
    (partitions, offsets, letters)
}

async fn settle(session: &Session, doing: &str, retry: &Retry) -> Result<u64> {
    let topic: &str = &retry.topic;
    let outputs: Vec<_> = retry.settled.iter().map(|(_, output)| output.to_string()).collect();
    let (partitions, offsets, letters) = places(retry.settled.iter().map(|(key, _)| key));
    let sql = include_str!("../../sql/warehouse/settle_refusals.sql");
    session.execute(doing, sql, &[&topic, &outputs, &partitions, &offsets, &letters]).await
}

async fn move_refusals(session: &Session, doing: &str, retry: &Retry) -> Result<u64> {
    if retry.moved.is_empty() {
        return Ok(0);
    }
    let topic: &str = &retry.topic;
    let outputs: Vec<_> = retry.moved.iter().map(|m| m.output.to_string()).collect();
    let (partitions, offsets, letters) = places(retry.moved.iter().map(|m| &m.letter));
    let classes: Vec<_> = retry.moved.iter().map(|m| m.class).collect();
    let reasons: Vec<_> = retry.moved.iter().map(|m| printable(&m.reason)).collect();
    let sql = include_str!("../../sql/warehouse/move_refusals.sql");
    let values: [Parameter; 7] =
        [&topic, &outputs, &partitions, &offsets, &letters, &classes, &reasons];
    session.execute(doing, sql, &values).await
}

async fn claim(session: &Session, doing: &str, retry: &Retry) -> Result<usize> {
    let topic: &str = &retry.topic;
    let (partitions, offsets, letters) = places(retry.letters.iter());
    let sql = include_str!("../../sql/warehouse/claim_letters.sql");
    let claimed = session.query(doing, sql, &[&topic, &letters, &partitions, &offsets]).await?;
    Ok(claimed.len())
}

async fn refresh(session: &Session, doing: &str, retry: &Retry) -> Result<()> {
    if retry.refreshed.is_empty() {
        return Ok(());
    }
    let topic: &str = &retry.topic;
    let (partitions, offsets, letters) = places(retry.refreshed.iter().map(|r| &r.letter));
    let classes: Vec<_> = retry.refreshed.iter().map(|r| r.class).collect();
    let columns: Vec<_> =
        retry.refreshed.iter().map(|r| r.column.as_deref().map(printable)).collect();
    let reasons: Vec<_> = retry.refreshed.iter().map(|r| printable(&r.reason)).collect();
    let sql = include_str!("../../sql/warehouse/refresh_letters.sql");
    let values: [Parameter; 7] =
        [&topic, &letters, &partitions, &offsets, &classes, &columns, &reasons];
    session.execute(doing, sql, &values).await.map(drop)
}

async fn change_fates(session: &Session, doing: &str, retry: &Retry) -> Result<()> {
    let topic: &str = &retry.topic;
    let outputs: Vec<_> = retry.changes.iter().map(|c| c.output.to_string()).collect();
    let partitions: Vec<_> = retry.changes.iter().map(|c| c.partition.0).collect();
    let numbers = |of: fn(&Change) -> u64| {
        retry.changes.iter().map(|change| of(change) as i64).collect::<Vec<_>>()
    };
    let was_dead = numbers(|c| c.was_dead);
    let accepted = numbers(|c| c.fates.accepted);
    let filtered = numbers(|c| c.fates.filtered);
    let late = numbers(|c| c.fates.late);
    let dead = numbers(|c| c.fates.dead);
    let duplicate = numbers(|c| c.fates.duplicate);
    let sql = include_str!("../../sql/warehouse/change_fates.sql");
    let values: [Parameter; 9] =
        [&topic, &outputs, &partitions, &was_dead, &accepted, &filtered, &late, &dead, &duplicate];
    let changed = session.execute(doing, sql, &values).await?;
    match changed == retry.changes.len() as u64 {
        true => Ok(()),
        false => Err(Error::halt(format!("{doing}: a refusal of an output without a mark"))),
    }
}
