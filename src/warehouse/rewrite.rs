//! Files of the lake written anew beside those that are read, and the transaction that swaps them in.
//!
//! Owns: the rows of `highwater.lake_rewrites` and below, the order of steps of the swap, which files wait
//! out their grace. Does not own: which offsets (`lake::generation`), their rows (`pipeline::rewrite`).
//!
//! Z-1  A rewrite goes on from the offsets that it has written, whoever is killed; one process at a time.
//! Z-2  The swap is one transaction: in every partition as many rows come as go, and no file that goes holds
//!      a row of without; or nothing happens. Marks, fates and letters stay as they are.
//! Z-3  What a swap replaces is removed only when its grace is over and all that replaces it is there.
//!
//! SUBTLE: the lake's marks are locked first, as every cut of the lake and every retry of dead letters
//! does, so that no file comes into the spans between comparing and swapping.

use super::{
    Warehouse, commit,
    encode::Instant,
    postgres::{Parameter, Row, Session},
};
use crate::{
    cut::{LakeFile, UploadId},
    error::{Error, Kind, Result},
    record::{Epoch, Offset, Output, Partition, Span, gap::TopicId},
};
use std::time::Duration;

/// The rewrite of a topic's lake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    pub number: i64,
    pub epoch: Epoch,
    /// Fingerprint of what it is written by.
    pub definition: String,
    pub owner: String,
    /// Microseconds since 1970.
    pub started_at: i64,
    pub spans: Vec<RewriteSpan>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewriteSpan {
    pub partition: Partition,
    pub generation: i32,
    pub span: Span,
    /// Below it all is written.
    pub next: Offset,
    /// Of the lake's mark.
    pub topic_id: Option<TopicId>,
}

/// Files of one partition's offsets from `span.from` to `span.to`, uploaded whole.
#[derive(Debug)]
pub struct Piece {
    pub partition: Partition,
    pub span: Span,
    pub sequence: i64,
    pub files: Vec<LakeFile>,
}

/// What a swap has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewritten {
    pub files_before: u64,
    pub files_after: u64,
}

impl Rewrite {
    pub fn written(&self) -> u64 {
        self.spans.iter().map(|s| (s.next.0 - s.span.from.0) as u64).sum()
    }

    pub fn all(&self) -> u64 {
        self.spans.iter().map(|s| s.span.len()).sum()
    }
}

impl Warehouse {
    pub async fn rewrite(&self, topic: &str) -> Result<Option<Rewrite>> {
        let sql = include_str!("../../sql/warehouse/read_rewrite.sql");
        of_rows(&self.read("read a rewrite of the lake", sql, &[&topic]).await?)
    }

    /// Topics whose lake is being written anew.
    pub async fn rewrites(&self) -> Result<Vec<String>> {
        let sql = include_str!("../../sql/warehouse/read_rewrite_topics.sql");
        let rows = self.read("read rewrites of the lake", sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Notes a rewrite of these spans; where one is under way, nothing.
    pub async fn begin_rewrite(
        &self,
        topic: &str,
        definition: &str,
        owner: &str,
        grace: Duration,
        spans: &[(Partition, i32, Span)],
    ) -> Result<()> {
        let partitions: Vec<i32> = spans.iter().map(|(p, ..)| p.0).collect();
        let generations: Vec<i32> = spans.iter().map(|(_, g, _)| *g).collect();
        let from: Vec<i64> = spans.iter().map(|(.., span)| span.from.0).collect();
        let to: Vec<i64> = spans.iter().map(|(.., span)| span.to.0).collect();
        let grace = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let sql = include_str!("../../sql/warehouse/begin_rewrite.sql");
        let values: [Parameter; 8] =
            [&topic, &definition, &owner, &grace, &partitions, &generations, &from, &to];
        self.change("begin to rewrite the lake", sql, &values).await
    }

    /// Makes this process the one that goes on with it; what another has left half uploaded is given up.
    ///
    /// # Errors
    /// `Fenced`: it was swapped in or dropped meanwhile.
    pub async fn take_rewrite(&self, topic: &str, owner: &str) -> Result<Rewrite> {
        let doing = format!("take the rewrite of {topic}'s lake");
        let taken = self.within(&doing, async {
            let session = self.begin(&doing).await?;
            let sql = include_str!("../../sql/warehouse/take_rewrite.sql");
            if session.query(&doing, sql, &[&topic, &owner]).await?.is_empty() {
                return Err(over(&doing));
            }
            let sql = include_str!("../../sql/warehouse/give_up_rewrite_uploads.sql");
            session.execute(&doing, sql, &[&topic]).await?;
            let sql = include_str!("../../sql/warehouse/read_rewrite.sql");
            let rewrite = of_rows(&session.query(&doing, sql, &[&topic]).await?)?;
            session.commit(&doing).await?;
            rewrite.ok_or_else(|| over(&doing))
        });
        taken.await.map_err(|error| match error.kind {
            // Taking again is right whether or not it happened.
            Kind::Unknown => Error { kind: Kind::Retry, ..error },
            Kind::Retry | Kind::Fenced | Kind::Halt | Kind::Config => error,
        })
    }

    /// W-4, before the upload's first part.
    pub async fn note_rewrite_upload(
        &self,
        topic: &str,
        path: &str,
        upload: &UploadId,
        partition: Partition,
        epoch: Epoch,
    ) -> Result<()> {
        let doing = format!("note an upload, path={path}");
        let noted = self.within(&doing, async {
            let session = self.session().await?;
            let sql = include_str!("../../sql/warehouse/note_rewrite_upload.sql");
            let values: [Parameter; 5] = [&upload.0, &topic, &path, &partition.0, &epoch.0];
            let noted = session.execute(&doing, sql, &values).await?;
            session.give_back();
            Ok(noted)
        });
        match noted.await? {
            0 => Err(over(&doing)),
            _ => Ok(()),
        }
    }

    /// Offsets between these two, both included, that the lake has passed without a row; ascending.
    pub async fn left_out_of_lake(
        &self,
        topic: &str,
        partition: Partition,
        generation: i32,
        (first, last): (i64, i64),
    ) -> Result<Vec<i64>> {
        let sql = include_str!("../../sql/warehouse/left_out_of_lake.sql");
        let values: [Parameter; 5] = [&topic, &partition.0, &generation, &first, &last];
        let rows = self.read("read what the lake leaves out", sql, &values).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Z-1.
    pub async fn add_piece(&self, topic: &str, epoch: Epoch, piece: &Piece) -> Result<()> {
        let Piece { partition, span, sequence, files } = piece;
        let doing = format!("add files of {topic}/{}@{}..", partition.0, span.from.0);
        self.within(&doing, async {
            let session = self.begin(&doing).await?;
            lock(&session, &doing, topic, epoch).await?;
            let sql = include_str!("../../sql/warehouse/move_rewrite.sql");
            let values: [Parameter; 4] = [&topic, &partition.0, &span.from.0, &span.to.0];
            if session.execute(&doing, sql, &values).await? != 1 {
                return Err(Error::fenced(format!("{doing}: it stands elsewhere")));
            }
            let uploads: Vec<&str> = files.iter().map(|file| file.upload.0.as_str()).collect();
            let sql = include_str!("../../sql/warehouse/claim_rewrite_uploads.sql");
            let claimed = session.execute(&doing, sql, &[&topic, &epoch.0, &uploads]).await?;
            if claimed != files.len() as u64 {
                return Err(Error::halt(format!(
                    "W-4: {doing}: {} files, {claimed} uploads noted",
                    files.len()
                )));
            }
            for file in files {
                let [range] = file.ranges.as_slice() else {
                    return Err(Error::halt(format!("{} holds several partitions", file.path)));
                };
                let sql = include_str!("../../sql/warehouse/insert_rewrite_file.sql");
                let values: [Parameter; 15] = [
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
                    sequence,
                    &range.partition.0,
                    &range.span.from.0,
                    &range.span.to.0,
                    &(range.extra_rows as i64),
                ];
                session.execute(&doing, sql, &values).await?;
            }
            session.commit(&doing).await
        })
        .await
    }

    /// The swap.
    ///
    /// # Errors
    /// `Retry`: a file that goes is not there yet, nothing happened. `Halt`: the rows would be others;
    /// nothing happened. `Unknown`: it may have happened; then the rewrite is not there any more.
    pub async fn swap_rewrite(&self, topic: &str, epoch: Epoch) -> Result<Rewritten> {
        let doing = format!("swap in the rewrite of {topic}'s lake");
        self.within(&doing, self.swap_rewrite_now(topic, epoch, &doing)).await
    }

    async fn swap_rewrite_now(&self, topic: &str, epoch: Epoch, doing: &str) -> Result<Rewritten> {
        let session = self.begin(doing).await?;
        let sql = include_str!("../../sql/warehouse/lock_output_marks.sql");
        session.query(doing, sql, &[&topic, &Output::Lake.to_string()]).await?;
        let (number, grace) = lock(&session, doing, topic, epoch).await?;
        let sql = include_str!("../../sql/warehouse/unready_spans.sql");
        if let Some(row) = session.query(doing, sql, &[&topic]).await?.first() {
            let (partition, next, to): (i32, i64, i64) = (row.get(0), row.get(1), row.get(2));
            return Err(match row.get(3) {
                true => Error::halt(format!(
                    "{doing}: {topic}/{partition} has begun anew since it began: `highwater replay lake:{topic} --abort`"
                )),
                false => Error::fenced(format!(
                    "{doing}: {topic}/{partition} is written to {next}, not to {to}"
                )),
            });
        }
        let sql = include_str!("../../sql/warehouse/rewrite_differs.sql");
        if let Some(row) = session.query(doing, sql, &[&topic]).await?.first() {
            return Err(differs(doing, topic, row));
        }
        let sql = include_str!("../../sql/warehouse/retire_files.sql");
        let files_before = session.execute(doing, sql, &[&topic, &number, &grace]).await?;
        let sql = include_str!("../../sql/warehouse/swap_rewritten_files.sql");
        let files_after = session.execute(doing, sql, &[&topic, &number]).await?;
        let sql = include_str!("../../sql/warehouse/swap_rewritten_ranges.sql");
        session.execute(doing, sql, &[&topic]).await?;
        for sql in [
            include_str!("../../sql/warehouse/drop_rewrite_files.sql"),
            include_str!("../../sql/warehouse/give_up_rewrite_uploads.sql"),
            include_str!("../../sql/warehouse/end_rewrite.sql"),
        ] {
            session.execute(doing, sql, &[&topic]).await?;
        }
        session.commit(doing).await?;
        Ok(Rewritten { files_before, files_after })
    }

    /// Drops it; false: there was none. Its uploads are abandoned: any process aborts them.
    pub async fn abort_rewrite(&self, topic: &str) -> Result<bool> {
        let doing = format!("give up the rewrite of {topic}'s lake");
        self.within(&doing, async {
            let session = self.begin(&doing).await?;
            let sql = include_str!("../../sql/warehouse/lock_any_rewrite.sql");
            let there = !session.query(&doing, sql, &[&topic]).await?.is_empty();
            for sql in [
                include_str!("../../sql/warehouse/give_up_rewrite_uploads.sql"),
                include_str!("../../sql/warehouse/give_up_rewrite_files.sql"),
                include_str!("../../sql/warehouse/end_rewrite.sql"),
            ] {
                session.execute(&doing, sql, &[&topic]).await?;
            }
            session.commit(&doing).await?;
            Ok(there)
        })
        .await
    }

    /// Z-3: files that may be removed, with their bytes and for how many seconds they have waited.
    pub async fn retired_files(&self, topic: &str) -> Result<Vec<(String, u64, i64)>> {
        let sql = include_str!("../../sql/warehouse/retired_files.sql");
        let rows = self.read("read which files were replaced", sql, &[&topic]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1) as u64, row.get(2))).collect())
    }

    /// The store has removed them.
    pub async fn forget_retired_files(&self, paths: &[String]) -> Result<()> {
        let sql = include_str!("../../sql/warehouse/forget_retired_files.sql");
        self.change("forget files that were removed", sql, &[&paths]).await
    }
}

async fn lock(session: &Session, doing: &str, topic: &str, epoch: Epoch) -> Result<(i64, i64)> {
    let sql = include_str!("../../sql/warehouse/lock_rewrite.sql");
    let rows = session.query(doing, sql, &[&topic, &epoch.0]).await?;
    let row = rows.first().ok_or_else(|| over(doing))?;
    Ok((row.get(0), row.get(1)))
}

fn over(doing: &str) -> Error {
    Error::fenced(format!(
        "{doing}: another process goes on with it, or it was swapped in or dropped"
    ))
}

/// Of a row of `rewrite_differs.sql`.
fn differs(doing: &str, topic: &str, row: &Row) -> Error {
    let (partition, before, after): (i32, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let unfinished: i64 = row.get(4);
    if before == after && !row.get::<_, bool>(3) {
        return Error::retry(format!("{doing}: {unfinished} files wait to be completed"));
    }
    Error::halt(format!(
        "{doing}: of {topic}/{partition} it holds {after} rows, the lake {before}. Dead letters were retried since it \
         began, Kafka's log was compacted, or today's topic file takes other records. The lake stays as it is: \
         `highwater replay lake:{topic} --abort`, then begin it again"
    ))
}

fn of_rows(rows: &[Row]) -> Result<Option<Rewrite>> {
    let Some(first) = rows.first() else { return Ok(None) };
    let spans = rows.iter().map(|row| {
        let topic_id = match row.get::<_, Option<i32>>(11) == Some(row.get(6)) {
            true => commit::topic_id(row.get(10))?,
            false => {
                return Err(Error::halt(
                    "the topic was made again since its lake began to be written anew: drop that with --abort",
                ));
            }
        };
        Ok(RewriteSpan {
            partition: Partition(row.get(5)),
            generation: row.get(6),
            span: Span::new(Offset(row.get(7)), Offset(row.get(9))),
            next: Offset(row.get(8)),
            topic_id,
        })
    });
    Ok(Some(Rewrite {
        number: first.get(0),
        epoch: Epoch(first.get(1)),
        definition: first.get(2),
        owner: first.get(3),
        started_at: first.get::<_, Instant>(4).0,
        spans: spans.collect::<Result<_>>()?,
    }))
}
