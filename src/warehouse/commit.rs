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
    Claim, Warehouse,
    dead_letters::add_dead_letters,
    encode::{Elements, Instant},
    postgres::{Parameter, Row, Session},
    references,
    tables::Table,
    unique,
};
use crate::{
    cut::{Advance, Cut, LakeFile, Yield},
    error::{Error, Kind, Result},
    record::{Epoch, EventTime, Fates, Lane, Mark, Offset, Output, Partition},
};
use arrow::array::RecordBatch;
use std::sync::atomic::{AtomicBool, Ordering};

impl Warehouse {
    /// Makes this process the owner of a lane of some partitions, and says where to go on from.
    /// Waits for the former owner's commit in flight (at most its statement timeout).
    ///
    /// # Errors
    /// Never `Unknown`: taking again is right whether or not it happened.
    pub async fn take(&self, claim: &Claim) -> Result<Vec<(Output, Partition, Mark)>> {
        let taken = self.within("take partitions", self.take_now(claim)).await;
        taken.map_err(|error| match error.kind {
            Kind::Unknown => Error { kind: Kind::Retry, ..error },
            Kind::Retry | Kind::Fenced | Kind::Halt | Kind::Config => error,
        })
    }

    async fn take_now(&self, claim: &Claim) -> Result<Vec<(Output, Partition, Mark)>> {
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
        let oldest: Vec<_> = claim.partitions.iter().map(|(_, offset)| offset.0).collect();
        let is_lake = claim.lane == Lane::Lake;

        let session = self.begin(&doing).await?;
        let sql = include_str!("../../sql/warehouse/insert_marks.sql");
        session
            .execute(&doing, sql, &[&topic, &outputs, &partitions, &oldest, &claim.owner])
            .await?;
        let sql = include_str!("../../sql/warehouse/lock_lane.sql");
        session.query(&doing, sql, &[&topic, &partitions, &is_lake]).await?;
        let sql = include_str!("../../sql/warehouse/bump_epochs.sql");
        let rows =
            session.query(&doing, sql, &[&topic, &partitions, &is_lake, &claim.owner]).await?;
        session.commit(&doing).await?;

        let mut taken = Vec::with_capacity(rows.len());
        for row in &rows {
            let output = Output::parse(row.get(0));
            if let Some(output) = output.filter(|output| claim.outputs.contains(output)) {
                taken.push((output, Partition(row.get(1)), mark(row, 2)));
            }
        }
        taken.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        Ok(taken)
    }

    /// Moves the cut's marks and applies what it yields, or does neither (W-1).
    ///
    /// # Errors
    /// `Fenced`: a mark is not where the cut begins, or has another epoch. `Unknown`: COMMIT was
    /// sent and not answered. `Retry`: nothing happened. `Halt`: it cannot be applied at all.
    pub async fn commit(&self, cut: &Cut) -> Result<()> {
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

    async fn commit_now(&self, cut: &Cut, committing: &AtomicBool) -> Result<()> {
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
        // Every process goes through tables in the same order, and through a table by key (W-2) or,
        // of sessions, under a lock that it takes at the table's place in that order.
        let mut yields: Vec<_> = cut.yields.iter().collect();
        yields.sort_by_key(|y| match y {
            Yield::Files(_) => (0, ""),
            Yield::DeadLetters(_) => (1, ""),
            Yield::Verdicts { .. } | Yield::Judged => (2, ""),
            Yield::References(_) => (2, ""),
            Yield::Table { model, .. } => (3, model as &str),
        });
        for one in yields {
            match one {
                Yield::Files(files) => {
                    let lake = cut.advances.iter().filter(|a| a.output == Output::Lake);
                    let moved: Vec<_> = lake.clone().map(|a| (a.partition, a.epoch)).collect();
                    let sequence = lake.map(|a| a.sequence).max().unwrap_or_default();
                    let made = Made { moved: &moved, sequence, origin: "cut" };
                    add_files(&session, &doing, &cut.topic, &made, files).await?
                }
                Yield::DeadLetters(letters) => {
                    add_dead_letters(&session, &doing, &cut.topic, letters).await?
                }
                Yield::Verdicts { keys, duplicates } => {
                    unique::remember(&session, &doing, &cut.topic, keys, duplicates).await?;
                }
                Yield::Judged => unique::prove(&session, &doing, cut).await?,
                Yield::References(uses) => {
                    references::add_uses(&session, &doing, &cut.topic, uses).await?
                }
                Yield::Table { model, rows } => {
                    self.merge(&session, &*self.table(model)?, rows).await?
                }
            }
        }
        committing.store(true, Ordering::Relaxed);
        session.commit(&doing).await
    }

    /// Merges a delta into its model's table: one INSERT for a small one, COPY for a large one.
    pub(super) async fn merge(
        &self,
        session: &Session,
        table: &Table,
        rows: &RecordBatch,
    ) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let doing = format!("merge a cut into its table, model={}", table.model);
        let given = rows.schema();
        let given: Vec<_> = given.fields().iter().map(|field| field.name().as_str()).collect();
        let wanted: Vec<_> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
        if given != wanted {
            return Err(Error::halt(format!(
                "{doing}: the delta has other columns than the table, given={given:?} wanted={wanted:?}"
            )));
        }
        let columns = table.columns.iter().zip(rows.columns());
        let columns = columns.map(|((name, pg), array)| Elements::new(name, array.as_ref(), *pg));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        if let Some(sessions) = &table.sessions {
            let sql = include_str!("../../sql/warehouse/lock_sessions.sql");
            session.query(&doing, sql, &[&&*table.model]).await?;
            return sessions.merge(session, &doing, &columns, rows.num_rows()).await;
        }
        if rows.num_rows() <= self.settings.insert_rows_max {
            let arrays: Vec<_> = columns.iter().map(|c| c.slice(0, rows.num_rows())).collect();
            let values: Vec<Parameter> = arrays.iter().map(|array| array as _).collect();
            return session.execute(&doing, &table.merge_arrays, &values).await.map(drop);
        }
        // The staging table is read in the order in which COPY wrote it (temporary tables take no
        // part in synchronized scans), so keys stay sorted without an ORDER BY.
        match &table.staging {
            None => session.copy(&doing, &table.copy, &columns, rows.num_rows()).await,
            Some(staging) => {
                session.batch(&doing, &staging.create).await?;
                session.copy(&doing, &table.copy, &columns, rows.num_rows()).await?;
                session.execute(&doing, &staging.merge, &[]).await.map(drop)
            }
        }
    }
}

/// A mark from the eleven columns that begin at `at`: offsets, epoch, event time, fates, sequence.
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
        },
        sequence: number(10),
    }
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

    let sql = include_str!("../../sql/warehouse/lock_marks.sql");
    let found = session.query(doing, sql, &[&topic, &outputs, &partitions]).await?;
    let sql = include_str!("../../sql/warehouse/move_marks.sql");
    let values: [Parameter; 14] = [
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
    ];
    let moved = session.execute(doing, sql, &values).await?;
    if moved == advances.len() as u64 {
        return Ok(None);
    }
    let found: Vec<_> = found
        .iter()
        .map(|row| {
            (row.get::<_, String>(0), row.get::<_, i32>(1), row.get::<_, i64>(2), row.get(3))
        })
        .collect();
    Ok(Some(refusal(cut, &found)))
}

/// Names the first mark that is not where the cut begins: (output, partition, next, epoch) found.
fn refusal(cut: &Cut, found: &[(String, i32, i64, i64)]) -> Error {
    let topic = &cut.topic;
    for a in &cut.advances {
        let (output, partition) = (a.output.to_string(), a.partition.0);
        let there = found.iter().find(|f| f.0 == output && f.1 == partition);
        let there = match there {
            Some((_, _, next, epoch)) if *next == a.span.from.0 && *epoch == a.epoch.0 => continue,
            Some((_, _, next, epoch)) => format!("{topic}/{partition}@{next} epoch {epoch}"),
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
        let sql = include_str!("../../sql/warehouse/insert_lake_file_ranges.sql");
        session.execute(&doing, sql, &[&file.path, &topic, &partitions, &from, &to, &rows]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Span;

    #[test]
    fn a_refusal_says_what_was_expected_and_what_was_found() {
        let cut = Cut {
            topic: "taps".into(),
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
        let error = refusal(&cut, &[("lake".into(), 3, 180, 5)]);
        assert_eq!(
            error.context,
            "commit refused, expected=taps/3@120 epoch 4, found=taps/3@180 epoch 5, output=lake"
        );
        assert!(refusal(&cut, &[]).context.contains("found=nothing"));
        assert_eq!(refusal(&cut, &[("lake".into(), 3, 120, 4)]).kind, Kind::Halt);
    }
}
