//! Taking partitions and committing cuts: the two transactions that exactly-once rests upon.
//!
//! Owns: their order of steps. Does not own: the cut, nor what the caller does after a refusal.
//!
//! SUBTLE: the order of steps in a commit. First lock the marks in sorted order, then move them where
//! offset and epoch are still ours, then apply what the cut yields, then COMMIT. Marks come before rows: a fenced process learns it before it
//! has written anything, and two processes with the same partition meet at the mark, never in the
//! middle of each other's rows. Locks come in a statement of their own: what a statement sees is
//! fixed when it begins, so an UPDATE that had to wait would judge by re-checked rows, one by one
//! and in the order of its plan; after `lock_marks` it waits for nobody.
//! Taking locks the same rows in the same order. So a take waits until a commit in flight has ended
//! either way, and whoever reads a mark after taking it reads what is final.

use super::{
    Claim, Taken, Warehouse,
    dead_letters::add_dead_letters,
    encode::Instant,
    following::Followed,
    merge::{Merged, Way, merge},
    postgres::{Parameter, Row, Session},
    references, unique,
};
use crate::{
    compute::{Delta, unique::Memory},
    cut::{Advance, Cut, LakeFile, Yield},
    error::{Error, Kind, Result},
    record::{
        Epoch, EventTime, Fates, IdleAdvance, Lane, Mark, Offset, Output, Partition,
        gap::{self, Gap, PartitionLog, TopicId},
    },
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// What a commit has found on its way.
#[derive(Debug, Default)]
pub struct Committed {
    /// Differences of `delta(…)` that went below zero, by model: the counter was set back, or a
    /// value was wrong.
    pub below_zero: Vec<(Arc<str>, u64)>,
    /// What models over changes found, by model.
    pub followed: Vec<(Arc<str>, Followed)>,
    /// Of a topic with `unique`: keys that others have taken since this process looked.
    pub learned: Memory,
}

impl Committed {
    fn note(&mut self, model: &Arc<str>, merged: Merged) {
        if merged.below_zero > 0 {
            self.below_zero.push((model.clone(), merged.below_zero));
        }
        if merged.followed != Followed::default() {
            self.followed.push((model.clone(), merged.followed));
        }
    }
}

impl Warehouse {
    /// Makes this process the owner of a lane of some partitions, and says where to go on from.
    /// Waits for the former owner's commit in flight (at most its statement timeout).
    ///
    /// # Errors
    /// Never `Unknown`: taking again is right whether or not it happened.
    pub async fn take(&self, claim: &Claim) -> Result<Taken> {
        let taken = self.within("take partitions", self.take_now(claim)).await;
        taken.map_err(|error| match error.kind {
            Kind::Unknown => Error { kind: Kind::Retry, ..error },
            Kind::Retry | Kind::Fenced | Kind::Halt | Kind::Config => error,
        })
    }

    async fn take_now(&self, claim: &Claim) -> Result<Taken> {
        if let Some(stray) = claim.outputs.iter().find(|output| output.lane() != claim.lane) {
            let lane = claim.lane.as_str();
            return Err(Error::halt(format!(
                "an output is of another lane, output={stray} lane={lane}"
            )));
        }
        let doing = format!("take partitions, topic={} lane={}", claim.topic, claim.lane.as_str());
        let topic: &str = &claim.topic;
        let outputs: Vec<_> = claim.outputs.iter().map(Output::to_string).collect();
        let partitions: Vec<_> =
            claim.partitions.iter().map(|(partition, _)| partition.0).collect();
        let oldest: Vec<_> = claim.partitions.iter().map(|(_, log)| log.oldest.0).collect();
        let id = |log: &PartitionLog| log.topic_id.map(|id| id.to_string());
        let ids: Vec<_> = claim.partitions.iter().map(|(_, log)| id(log)).collect();
        let is_lake = claim.lane == Lane::Lake;

        let session = self.begin(&doing).await?;
        if claim.lane == Lane::Tables {
            know_partitions(&session, &doing, topic, claim.partition_count as i32).await?;
            let sql = include_str!("../../sql/warehouse/share_topic.sql");
            session.query(&doing, sql, &[&topic]).await?;
        }
        let sql = include_str!("../../sql/warehouse/insert_marks.sql");
        session
            .execute(&doing, sql, &[&topic, &outputs, &partitions, &oldest, &claim.owner, &ids])
            .await?;
        let sql = include_str!("../../sql/warehouse/lock_lane.sql");
        let found = session.query(&doing, sql, &[&topic, &partitions, &is_lake]).await?;
        self.refuse_other_definitions(&session, &doing, claim.outputs.iter()).await?;
        let gaps = found.iter().map(|row| judged(claim, row)).filter_map(Result::transpose);
        let gaps = gaps.collect::<Result<Vec<_>>>()?;
        // What cannot go on keeps its owner: nobody reads it.
        let whole = |p: Partition| gaps.iter().all(|gap| gap.partition != p);
        let taken = claim.partitions.iter().filter(|(partition, _)| whole(*partition));
        let (partitions, ids): (Vec<_>, Vec<_>) = taken.map(|(p, log)| (p.0, id(log))).unzip();
        let sql = include_str!("../../sql/warehouse/bump_epochs.sql");
        let values: [Parameter; 5] = [&topic, &partitions, &is_lake, &claim.owner, &ids];
        let rows = session.query(&doing, sql, &values).await?;
        let advances = match claim.lane {
            Lane::Tables => {
                let sql = include_str!("../../sql/warehouse/read_advances.sql");
                session.query(&doing, sql, &[&topic, &partitions, &outputs]).await?
            }
            Lane::Lake => Vec::new(),
        };
        let additions = rows.first().map(|row| (row.get(14), row.get(15)));
        session.commit(&doing).await?;

        let mut taken = Vec::with_capacity(rows.len());
        for row in &rows {
            let output = Output::parse(row.get(0));
            if let Some(output) = output.filter(|output| claim.outputs.contains(output)) {
                taken.push((output, Partition(row.get(1)), mark(row, 2)));
            }
        }
        taken.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        let advances = advances.iter().map(|row| advance(row, 0)).collect();
        Ok(Taken { marks: taken, gaps, advances, additions })
    }

    /// Moves the cut's marks and applies what it yields, or does neither (W-1).
    ///
    /// # Errors
    /// `Fenced`: a mark is not where the cut begins, or has another epoch. `Unknown`: COMMIT was
    /// sent and not answered. `Retry`: nothing happened. `Halt`: it cannot be applied at all.
    pub async fn commit(&self, cut: &Cut) -> Result<Committed> {
        let committing = AtomicBool::new(false);
        let work = self.commit_now(cut, &committing);
        match tokio::time::timeout(self.transaction_timeout(), work).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                if committing.load(Ordering::Relaxed) { Kind::Unknown } else { Kind::Retry },
                format!(
                    "commit of {} got no answer in time, seconds={}",
                    cut.topic,
                    self.transaction_timeout().as_secs()
                ),
            )),
        }
    }

    async fn commit_now(&self, cut: &Cut, committing: &AtomicBool) -> Result<Committed> {
        for advance in &cut.advances {
            if advance.fates.total() != advance.span.len() {
                return Err(Error::halt(format!(
                    "I-3: fates do not add up, output={} span={}/{}@{}..{} fates={:?}",
                    advance.output,
                    cut.topic,
                    advance.partition.0,
                    advance.span.from.0,
                    advance.span.to.0,
                    advance.fates
                )));
            }
        }
        let doing = format!("commit of {}", cut.topic);
        let session = self.begin(&doing).await?;
        if let Some(refusal) = move_marks(&session, &doing, cut).await? {
            // A rollback that fails leaves the connection to be thrown away: refused all the same.
            let _ = session.roll_back(&doing).await;
            return Err(refusal);
        }
        // Every process goes through tables in the same order, and through a table by key (W-2) or
        // under its model's lock (W-8).
        let mut yields: Vec<_> = cut.yields.iter().collect();
        yields.sort_by_key(|y| match y {
            Yield::Files(_) => (0, ""),
            Yield::IdleAdvances { .. } => (1, ""),
            Yield::DeadLetters(_) => (2, ""),
            Yield::References(_) | Yield::Judged => (3, ""),
            Yield::Table { model, .. } => (4, model as &str),
            // Whoever has written its keys waits for nobody any more.
            Yield::Verdicts(_) => (5, ""),
        });
        let mut committed = Committed::default();
        let models = cut.yields.iter().filter_map(|y| match y {
            Yield::Table { model, .. } => Some(model),
            Yield::IdleAdvances { .. }
            | Yield::Files(_)
            | Yield::DeadLetters(_)
            | Yield::Verdicts(_)
            | Yield::Judged
            | Yield::References(_) => None,
        });
        self.lock_models(&session, &doing, models).await?;
        for one in yields {
            match one {
                Yield::Files(files) => {
                    let lake = cut.advances.iter().filter(|a| a.output == Output::Lake);
                    let moved: Vec<_> = lake.clone().map(|a| (a.partition, a.epoch)).collect();
                    let sequence = lake.map(|a| a.sequence).max().unwrap_or_default();
                    let made = Made { moved: &moved, sequence, origin: "cut" };
                    add_files(&session, &doing, &cut.topic, &made, files).await?
                }
                Yield::IdleAdvances { recorded, obsolete } => {
                    let doing = format!("{doing}: record how far event time has come");
                    record_advances(&session, &doing, cut, recorded).await?;
                    forget_advances(&session, &doing, &cut.topic, obsolete).await?;
                }
                Yield::DeadLetters(letters) => {
                    add_dead_letters(&session, &doing, &cut.topic, letters).await?
                }
                Yield::Verdicts(verdicts) => {
                    committed.learned =
                        unique::remember(&session, &doing, &cut.topic, verdicts).await?;
                }
                Yield::Judged => unique::prove(&session, &doing, cut).await?,
                Yield::References(uses) => {
                    references::add_uses(&session, &doing, &cut.topic, uses).await?
                }
                Yield::Table { model, delta } => {
                    committed.note(model, self.merge(&session, model, delta).await?);
                }
            }
        }
        committing.store(true, Ordering::Relaxed);
        session.commit(&doing).await?;
        Ok(committed)
    }

    /// Merges a delta into its model's tables.
    pub(super) async fn merge(
        &self,
        session: &Session,
        model: &str,
        delta: &Delta,
    ) -> Result<Merged> {
        let way = Way::CopyAbove(self.settings.insert_rows_max);
        merge(session, &*self.table(model)?, delta, way).await
    }

    /// W-8: rows of these models depend on each other, so what changes them takes turns. All locks
    /// are taken at once and in order of names, after the marks and before any row is touched: two
    /// transactions cannot wait for each other.
    pub(super) async fn lock_models(
        &self,
        session: &Session,
        doing: &str,
        models: impl Iterator<Item = &Arc<str>>,
    ) -> Result<()> {
        let mut names = Vec::new();
        for model in models {
            if self.table(model)?.takes_turns() {
                names.push(model.to_string());
            }
        }
        names.sort();
        if names.is_empty() {
            return Ok(());
        }
        let sql = include_str!("../../sql/warehouse/lock_models.sql");
        session.query(doing, sql, &[&names]).await.map(drop)
    }
}

/// G-1, of a row of `lock_lane.sql`. Marks of models that this process does not know are nobody's
/// to read, so nothing is missing to them.
fn judged(claim: &Claim, row: &Row) -> Result<Option<Gap>> {
    let (output, partition) = (Output::parse(row.get(0)), Partition(row.get(1)));
    let Some(output) = output.filter(|output| claim.outputs.contains(output)) else {
        return Ok(None);
    };
    let claimed = claim.partitions.iter().find(|(claimed, _)| *claimed == partition);
    let Some((_, log)) = claimed else { return Ok(None) };
    let (next, topic_id) = (Offset(row.get(2)), topic_id(row.get(3))?);
    let gap = |reason| Gap { output, partition, reason, next, topic_id, log: *log };
    Ok(gap::judge(next, topic_id, log).map(gap))
}

pub(super) fn topic_id(text: Option<&str>) -> Result<Option<TopicId>> {
    let Some(text) = text else { return Ok(None) };
    let unknown = || Error::halt(format!("a mark has a topic id that is none, topic_id={text}"));
    TopicId::parse(text).map(Some).ok_or_else(unknown)
}

/// A mark from the twelve columns that begin at `at`: offsets, epoch, event time, fates, sequence.
pub(super) fn mark(row: &Row, at: usize) -> Mark {
    let number = |i: usize| row.get::<_, i64>(at + i);
    Mark {
        first: Offset(number(0)),
        next: Offset(number(1)),
        epoch: Epoch(number(2)),
        event_time_max: row.get::<_, Option<Instant>>(at + 3).map(|instant| EventTime(instant.0)),
        fates: Fates {
            accepted: number(4) as u64,
            filtered: number(5) as u64,
            late: number(6) as u64,
            dead: number(7) as u64,
            absent: number(8) as u64,
            duplicate: number(9) as u64,
            lost: number(10) as u64,
        },
        sequence: number(11),
    }
}

/// An advance from the three columns that begin at `at`.
pub(super) fn advance(row: &Row, at: usize) -> IdleAdvance {
    IdleAdvance {
        partition: Partition(row.get(at)),
        before: Offset(row.get(at + 1)),
        event_time: EventTime(row.get::<_, Instant>(at + 2).0),
    }
}

/// E-5: notes how many partitions the topic has. Those that were added begin where the slowest of
/// the others stands: a reader of before sees them not at all, one of afterwards so far.
async fn know_partitions(session: &Session, doing: &str, topic: &str, count: i32) -> Result<()> {
    let sql = include_str!("../../sql/warehouse/read_topic.sql");
    let known = session.query(doing, sql, &[&topic]).await?;
    if known.first().is_none_or(|row| row.get::<_, i32>(0) >= count) {
        return Ok(());
    }
    // The topic before its marks, here as everywhere (W-2).
    let sql = include_str!("../../sql/warehouse/lock_topic.sql");
    let known: i32 = session.query(doing, sql, &[&topic]).await?[0].get(0);
    if (1..count).contains(&known) {
        let sql = include_str!("../../sql/warehouse/lock_topic_marks.sql");
        session.query(doing, sql, &[&topic]).await?;
        let sql = include_str!("../../sql/warehouse/begin_added_partitions.sql");
        session.execute(doing, sql, &[&topic, &known, &count]).await?;
    }
    let sql = include_str!("../../sql/warehouse/know_partitions.sql");
    session.execute(doing, sql, &[&topic, &count]).await.map(drop)
}

/// E-4: in the transaction that moves the marks, after they are moved.
async fn record_advances(
    session: &Session,
    doing: &str,
    cut: &Cut,
    recorded: &[IdleAdvance],
) -> Result<()> {
    if recorded.is_empty() {
        return Ok(());
    }
    let judged = |a: &IdleAdvance| {
        let mut of_partition = cut.advances.iter().filter(|m| m.partition == a.partition);
        of_partition.any(|m| m.span.from > a.before || m.span.to < a.before)
    };
    if let Some(a) = recorded.iter().find(|a| judged(a)) {
        return Err(Error::halt(format!(
            "E-4: an advance of event time lies outside of its cut, at {}/{}@{}",
            cut.topic, a.partition.0, a.before.0
        )));
    }
    let topic: &str = &cut.topic;
    let outputs: Vec<_> = cut.advances.iter().map(|a| a.output.to_string()).collect();
    let partitions: Vec<_> = recorded.iter().map(|a| a.partition.0).collect();
    let before: Vec<_> = recorded.iter().map(|a| a.before.0).collect();
    let times: Vec<_> = recorded.iter().map(|a| Instant(a.event_time.0)).collect();
    let sql = include_str!("../../sql/warehouse/record_advances.sql");
    let values: [Parameter; 5] = [&topic, &outputs, &partitions, &before, &times];
    let stored = session.execute(doing, sql, &values).await?;
    if stored != recorded.len() as u64 {
        return Err(Error::halt(format!(
            "E-4: an output has judged records behind an advance of event time already, topic={topic}"
        )));
    }
    Ok(())
}

async fn forget_advances(
    session: &Session,
    doing: &str,
    topic: &str,
    obsolete: &[(Partition, Offset)],
) -> Result<()> {
    if obsolete.is_empty() {
        return Ok(());
    }
    let partitions: Vec<_> = obsolete.iter().map(|(partition, _)| partition.0).collect();
    let before: Vec<_> = obsolete.iter().map(|(_, before)| before.0).collect();
    let sql = include_str!("../../sql/warehouse/forget_advances.sql");
    session.execute(doing, sql, &[&topic, &partitions, &before]).await.map(drop)
}

/// The refusal, if not every mark could be moved.
async fn move_marks(session: &Session, doing: &str, cut: &Cut) -> Result<Option<Error>> {
    let topic: &str = &cut.topic;
    let advances = &cut.advances;
    let outputs: Vec<_> = advances.iter().map(|a| a.output.to_string()).collect();
    let partitions: Vec<_> = advances.iter().map(|a| a.partition.0).collect();
    let numbers = |of: fn(&Advance) -> i64| advances.iter().map(of).collect::<Vec<_>>();
    let from = numbers(|a| a.span.from.0);
    let to = numbers(|a| a.span.to.0);
    let epochs = numbers(|a| a.epoch.0);
    let times: Vec<_> = advances.iter().map(|a| a.event_time_max.map(|t| Instant(t.0))).collect();
    let accepted = numbers(|a| a.fates.accepted as i64);
    let filtered = numbers(|a| a.fates.filtered as i64);
    let late = numbers(|a| a.fates.late as i64);
    let dead = numbers(|a| a.fates.dead as i64);
    let absent = numbers(|a| a.fates.absent as i64);
    let duplicate = numbers(|a| a.fates.duplicate as i64);
    let sequences = numbers(|a| a.sequence);
    let topic_id = cut.topic_id.map(|id| id.to_string());

    let sql = include_str!("../../sql/warehouse/lock_marks.sql");
    let found = session.query(doing, sql, &[&topic, &outputs, &partitions]).await?;
    let sql = include_str!("../../sql/warehouse/move_marks.sql");
    let values: [Parameter; 15] = [
        &topic,
        &outputs,
        &partitions,
        &from,
        &to,
        &epochs,
        &times,
        &accepted,
        &filtered,
        &late,
        &dead,
        &absent,
        &duplicate,
        &sequences,
        &topic_id,
    ];
    let moved = session.execute(doing, sql, &values).await?;
    if moved == advances.len() as u64 {
        return Ok(None);
    }
    let found: Vec<_> = found
        .iter()
        .map(|row| Found {
            output: row.get(0),
            partition: row.get(1),
            next: row.get(2),
            epoch: row.get(3),
            topic_id: row.get(4),
        })
        .collect();
    Ok(Some(refusal(cut, &found)))
}

/// A row of `lock_marks.sql`.
struct Found {
    output: String,
    partition: i32,
    next: i64,
    epoch: i64,
    topic_id: Option<String>,
}

/// Names the first mark that is not where the cut begins, or of another topic.
fn refusal(cut: &Cut, found: &[Found]) -> Error {
    let topic = &cut.topic;
    let now = cut.topic_id.map(|id| id.to_string());
    for a in &cut.advances {
        let (output, partition) = (a.output.to_string(), a.partition.0);
        let there = found.iter().find(|f| f.output == output && f.partition == partition);
        let there = match there {
            Some(f) if f.next == a.span.from.0 && f.epoch == a.epoch.0 => {
                if let (Some(ours), Some(now)) = (&f.topic_id, &now)
                    && ours != now
                {
                    return Error::fenced(format!(
                        "commit refused, {topic} was deleted and made again while it was read: \
                         the marks are of id {ours}, Kafka has {now}"
                    ));
                }
                continue;
            }
            Some(f) => format!("{topic}/{partition}@{} epoch {}", f.next, f.epoch),
            None => "nothing".to_owned(),
        };
        return Error::fenced(format!(
            "commit refused, expected={topic}/{partition}@{} epoch {}, found={there}, output={output}",
            a.span.from.0, a.epoch.0
        ));
    }
    Error::halt(format!("W-1: a cut names a mark twice, topic={topic}"))
}

/// How lake files came about.
pub(super) struct Made<'a> {
    /// Lake marks that the transaction has locked and found at these epochs.
    pub moved: &'a [(Partition, Epoch)],
    pub sequence: i64,
    /// `cut` or `retry`.
    pub origin: &'static str,
}

pub(super) async fn add_files(
    session: &Session,
    doing: &str,
    topic: &str,
    made: &Made<'_>,
    files: &[LakeFile],
) -> Result<()> {
    let doing = format!("{doing}: add lake files");
    let partitions: Vec<_> = made.moved.iter().map(|(partition, _)| partition.0).collect();
    let epochs: Vec<_> = made.moved.iter().map(|(_, epoch)| epoch.0).collect();
    let uploads: Vec<_> = files.iter().map(|file| file.upload.0.as_str()).collect();
    let sql = include_str!("../../sql/warehouse/claim_uploads.sql");
    let claimed = session.execute(&doing, sql, &[&topic, &uploads, &partitions, &epochs]).await?;
    if claimed != files.len() as u64 {
        return Err(Error::halt(format!(
            "W-4: not every file's upload was noted for a mark of this cut, topic={topic} files={} \
             noted={claimed}",
            files.len()
        )));
    }
    for file in files {
        let sql = include_str!("../../sql/warehouse/insert_lake_file.sql");
        let values: [Parameter; 12] = [
            &file.path,
            &topic,
            &file.upload.0,
            &file.parts,
            &(file.bytes as i64),
            &(file.rows as i64),
            &file.checksum,
            &Instant(file.event_time_min.0),
            &Instant(file.event_time_max.0),
            &file.schema,
            &made.sequence,
            &made.origin,
        ];
        session.execute(&doing, sql, &values).await?;
        let partitions: Vec<_> = file.ranges.iter().map(|r| r.partition.0).collect();
        let from: Vec<_> = file.ranges.iter().map(|r| r.span.from.0).collect();
        let to: Vec<_> = file.ranges.iter().map(|r| r.span.to.0).collect();
        let rows: Vec<_> = file.ranges.iter().map(|r| r.rows as i64).collect();
        let extra: Vec<_> = file.ranges.iter().map(|r| r.extra_rows as i64).collect();
        let sql = include_str!("../../sql/warehouse/insert_lake_file_ranges.sql");
        let values: [Parameter; 7] = [&file.path, &topic, &partitions, &from, &to, &rows, &extra];
        session.execute(&doing, sql, &values).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Span;

    #[test]
    fn a_refusal_says_what_was_expected_and_what_was_found() {
        let mut cut = Cut {
            topic: "taps".into(),
            topic_id: None,
            advances: vec![Advance {
                output: Output::Lake,
                partition: Partition(3),
                span: Span::new(Offset(120), Offset(120)),
                epoch: Epoch(4),
                fates: Fates::default(),
                event_time_max: None,
                sequence: 0,
            }],
            yields: Vec::new(),
        };
        let found = |next, epoch, topic_id: Option<TopicId>| Found {
            output: "lake".into(),
            partition: 3,
            next,
            epoch,
            topic_id: topic_id.map(|id| id.to_string()),
        };
        let error = refusal(&cut, &[found(180, 5, None)]);
        assert_eq!(
            error.context,
            "commit refused, expected=taps/3@120 epoch 4, found=taps/3@180 epoch 5, output=lake"
        );
        assert!(refusal(&cut, &[]).context.contains("found=nothing"));
        assert_eq!(refusal(&cut, &[found(120, 4, None)]).kind, Kind::Halt);
        cut.topic_id = TopicId::new(1, 2);
        let error = refusal(&cut, &[found(120, 4, TopicId::new(3, 4))]);
        assert!(error.context.contains("deleted and made again"), "{error}");
        assert_eq!(error.kind, Kind::Fenced);
    }
}
