//! What a person accepted as gone, in one transaction: marks pass lost offsets, or begin a new generation.
//!
//! Owns: G-2. Does not own: what is gone (`record::gap`), whether to accept it (`ops::accept_gap`).
//!
//! SUBTLE: the marks table is locked as a whole before it is read again. So no commit, take or new mark
//! is between what is judged and what is written; and each mark written gets another epoch, which
//! fences its owner: it takes anew.

use super::{
    MarkRow, Warehouse, listing,
    postgres::{Parameter, Session},
};
use crate::{
    error::{Error, Result},
    record::{
        Offset, Output, Partition,
        gap::{Gap, Reason, TopicId},
    },
};

/// One output's mark as it is written down: a row of `highwater.gaps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub output: Output,
    pub partition: Partition,
    /// Which the gap is in, or which it ends.
    pub generation: i32,
    /// Half open; empty where nobody knows what is gone.
    pub from: Offset,
    pub to: Offset,
    pub reason: Reason,
    pub topic_id: Option<TopicId>,
    pub topic_id_now: Option<TopicId>,
    /// What follows for the mark.
    pub then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It passes the offsets.
    Pass,
    /// It begins anew.
    Begin { generation: i32, at: Offset },
}

impl Accepted {
    pub fn lost(&self) -> i64 {
        match self.then {
            Then::Pass => self.to.0 - self.from.0,
            Then::Begin { .. } => 0,
        }
    }
}

/// What accepting these gaps does to the marks of a topic, of which `marks` are all.
pub fn plan(marks: &[MarkRow], gaps: &[Gap], declared: &[Output]) -> Vec<Accepted> {
    let mut plan = Vec::new();
    for row in marks.iter().filter(|row| declared.contains(&row.output)) {
        let of_partition = || gaps.iter().filter(|gap| gap.partition == row.partition);
        let own = of_partition().find(|gap| gap.output == row.output);
        // Offsets that begin anew do so for all outputs of that generation.
        let generation_of = |gap: &Gap| {
            let gapped = |m: &&MarkRow| m.output == gap.output && m.partition == gap.partition;
            marks.iter().find(gapped).map(|m| m.generation)
        };
        let ending = of_partition()
            .find(|gap| gap.reason.ends_generation() && generation_of(gap) == Some(row.generation));
        let accepted = |gap: &Gap, from, to, then| Accepted {
            output: row.output.clone(),
            partition: row.partition,
            generation: row.generation,
            from,
            to,
            reason: gap.reason,
            topic_id: row.topic_id,
            topic_id_now: gap.log.topic_id,
            then,
        };
        let next = row.mark.next;
        if let Some(gap) = ending {
            let there = || marks.iter().filter(|m| m.partition == row.partition);
            let newest = there().map(|m| m.generation).max().unwrap_or(row.generation);
            let begun = newest > row.generation
                && there().any(|m| m.generation == newest && m.topic_id == gap.log.topic_id);
            let generation = if begun { newest } else { newest + 1 };
            let from = match gap.reason {
                Reason::Truncated => next.min(gap.log.end),
                Reason::Recreated | Reason::Retention => next,
            };
            let then = Then::Begin { generation, at: gap.log.oldest };
            plan.push(accepted(gap, from, next, then));
        } else if let Some(gap) = own {
            plan.push(accepted(gap, next, gap.log.oldest, Then::Pass));
        }
    }
    plan
}

impl Warehouse {
    /// Writes down what `gaps` say, if the marks are still where they were judged.
    ///
    /// # Errors
    /// `Retry`: nothing happened. `Unknown`: COMMIT was not answered; doing it again is right, for the
    /// gaps are looked for anew.
    pub async fn accept_gaps(
        &self,
        topic: &str,
        gaps: &[Gap],
        declared: &[Output],
        by: &str,
    ) -> Result<Vec<Accepted>> {
        let doing = format!("accept the gaps of {topic}");
        self.within(&doing, async {
            let session = self.begin(&doing).await?;
            session.batch(&doing, include_str!("../../sql/warehouse/lock_all_marks.sql")).await?;
            let sql = include_str!("../../sql/warehouse/read_marks.sql");
            let rows = session.query(&doing, sql, &[&Some(topic)]).await?;
            let marks = rows.iter().map(listing::mark_row).collect::<Result<Vec<_>>>()?;
            let unmoved = |gap: &Gap| {
                marks.iter().any(|m| {
                    (&m.output, m.partition) == (&gap.output, gap.partition)
                        && (m.mark.next, m.topic_id) == (gap.next, gap.topic_id)
                })
            };
            if let Some(gap) = gaps.iter().find(|gap| !unmoved(gap)) {
                let (output, partition) = (&gap.output, gap.partition.0);
                return Err(Error::retry(format!(
                    "the mark of {output} in {topic}/{partition} moved meanwhile: nothing was accepted, look again"
                )));
            }
            let accepted = plan(&marks, gaps, declared);
            write(&session, &doing, topic, &accepted, by).await?;
            session.commit(&doing).await?;
            Ok(accepted)
        })
        .await
    }
}

async fn write(
    session: &Session,
    doing: &str,
    topic: &str,
    accepted: &[Accepted],
    by: &str,
) -> Result<()> {
    let outputs = |of: &[&Accepted]| of.iter().map(|a| a.output.to_string()).collect::<Vec<_>>();
    let partitions = |of: &[&Accepted]| of.iter().map(|a| a.partition.0).collect::<Vec<_>>();
    let id = |id: Option<TopicId>| id.map(|id| id.to_string());
    let all: Vec<&Accepted> = accepted.iter().collect();
    let generations: Vec<_> = all.iter().map(|a| a.generation).collect();
    let from: Vec<_> = all.iter().map(|a| a.from.0).collect();
    let to: Vec<_> = all.iter().map(|a| a.to.0).collect();
    let reasons: Vec<_> = all.iter().map(|a| a.reason.as_str()).collect();
    let old: Vec<_> = all.iter().map(|a| id(a.topic_id)).collect();
    let new: Vec<_> = all.iter().map(|a| id(a.topic_id_now)).collect();
    let lost: Vec<_> = all.iter().map(|a| a.lost()).collect();
    let sql = include_str!("../../sql/warehouse/insert_gaps.sql");
    let (names, places) = (outputs(&all), partitions(&all));
    let values: [Parameter; 11] =
        [&topic, &names, &places, &generations, &from, &to, &reasons, &old, &new, &by, &lost];
    session.execute(doing, sql, &values).await?;

    let (passing, beginning): (Vec<_>, Vec<_>) = all.iter().partition(|a| a.then == Then::Pass);
    let (names, places) = (outputs(&passing), partitions(&passing));
    let from: Vec<_> = passing.iter().map(|a| a.from.0).collect();
    let to: Vec<_> = passing.iter().map(|a| a.to.0).collect();
    let sql = include_str!("../../sql/warehouse/lose_offsets.sql");
    let passed = session.execute(doing, sql, &[&topic, &names, &places, &from, &to]).await?;

    let (names, places) = (outputs(&beginning), partitions(&beginning));
    let sql = include_str!("../../sql/warehouse/archive_marks.sql");
    let archived = session.execute(doing, sql, &[&topic, &names, &places]).await?;
    let begin = beginning.iter().filter_map(|a| match a.then {
        Then::Begin { generation, at } => Some((at.0, generation)),
        Then::Pass => None,
    });
    let (at, generations): (Vec<_>, Vec<_>) = begin.unzip();
    let new: Vec<_> = beginning.iter().map(|a| id(a.topic_id_now)).collect();
    let sql = include_str!("../../sql/warehouse/begin_generation.sql");
    let values: [Parameter; 6] = [&topic, &names, &places, &at, &generations, &new];
    let begun = session.execute(doing, sql, &values).await?;
    let sql = include_str!("../../sql/warehouse/forget_starts.sql");
    session.execute(doing, sql, &[&topic, &places]).await?;
    let expected = (passing.len() as u64, beginning.len() as u64, beginning.len() as u64);
    if (passed, archived, begun) != expected {
        return Err(Error::halt(format!(
            "G-2: not every mark could be written, topic={topic} expected={expected:?} \
             written={:?}",
            (passed, archived, begun)
        )));
    }
    Ok(())
}
