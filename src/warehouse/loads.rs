//! Loads of a source's table that a person brackets: where each begins and ends.
//!
//! Owns: N-5, as far as it is rows. Does not own: what an operation becomes of it (`compute::changes`), what waits
//! and the swap (`swap`).
//!
//! SUBTLE: the marks table is locked as a whole before a beginning or an end is recorded, and a commit moves its
//! marks before it looks for loads. So a commit either has ended, and what it took is below the offset that is
//! recorded; or it sees the load. Nobody takes a row of a load without knowing of it.

use super::{
    Warehouse,
    encode::Instant,
    listing,
    postgres::{Parameter, Session},
    swap::{Counts, SnapshotRow, State, Swap},
};
use crate::{
    catalog::Model,
    compute::changes::{Load, Seen},
    error::Result,
    record::{Offset, Output, Partition},
};
use std::collections::BTreeMap;

impl Warehouse {
    /// Of a topic, in order.
    pub async fn loads(&self, topic: &str) -> Result<Vec<Load>> {
        let doing = format!("read the loads of {topic}");
        self.within(&doing, async {
            let session = self.session().await?;
            let loads = read(&session, &doing, topic).await?;
            session.give_back();
            Ok(loads)
        })
        .await
    }

    /// Records that a load begins, at these ends of logs. None: another one is open.
    ///
    /// # Errors
    /// `Unknown`: COMMIT was not answered; what is recorded tells.
    pub async fn begin_load(
        &self,
        topic: &str,
        ends: &[(Partition, Offset)],
        by: &str,
    ) -> Result<Option<Load>> {
        let doing = format!("begin a load of {topic}");
        let sql = include_str!("../../sql/warehouse/begin_load.sql");
        let spans = include_str!("../../sql/warehouse/begin_load_spans.sql");
        let next = |loads: &[Load]| match loads.last() {
            Some(Load { to: None, .. }) => None,
            last => Some(last.map_or(1, |last| last.number + 1)),
        };
        self.bracket(&doing, topic, ends, by, [sql, spans], next).await
    }

    /// Records that the open load has ended, at these ends of logs. None: there is none.
    ///
    /// # Errors
    /// As of `begin_load`.
    pub async fn end_load(
        &self,
        topic: &str,
        ends: &[(Partition, Offset)],
        by: &str,
    ) -> Result<Option<Load>> {
        let doing = format!("end a load of {topic}");
        let sql = include_str!("../../sql/warehouse/end_load.sql");
        let spans = include_str!("../../sql/warehouse/end_load_spans.sql");
        let open = |loads: &[Load]| Some(loads.last().filter(|last| last.to.is_none())?.number);
        self.bracket(&doing, topic, ends, by, [sql, spans], open).await
    }

    async fn bracket(
        &self,
        doing: &str,
        topic: &str,
        ends: &[(Partition, Offset)],
        by: &str,
        [sql, spans]: [&str; 2],
        which: impl Fn(&[Load]) -> Option<i32>,
    ) -> Result<Option<Load>> {
        self.within(doing, async {
            let session = self.begin(doing).await?;
            session.batch(doing, include_str!("../../sql/warehouse/lock_all_marks.sql")).await?;
            let Some(number) = which(&read(&session, doing, topic).await?) else {
                session.roll_back(doing).await?;
                return Ok(None);
            };
            session.execute(doing, sql, &[&topic, &number, &by]).await?;
            let (partitions, offsets): (Vec<i32>, Vec<i64>) =
                ends.iter().map(|(partition, end)| (partition.0, end.0)).unzip();
            let values: [Parameter; 4] = [&topic, &number, &partitions, &offsets];
            session.execute(doing, spans, &values).await?;
            let loads = read(&session, doing, topic).await?;
            session.commit(doing).await?;
            Ok(loads.into_iter().find(|load| load.number == number))
        })
        .await
    }

    /// Loads that the model has read to their end count as ended, also the last one if nothing came of it.
    pub(super) async fn end_loads(
        &self,
        session: &Session,
        doing: &str,
        model: &Model,
        swap: &Swap,
        rows: &mut Vec<SnapshotRow>,
    ) -> Result<()> {
        let loads = read(session, doing, &swap.topic).await?;
        let topic: &str = &swap.topic;
        let sql = include_str!("../../sql/warehouse/read_marks.sql");
        let found = session.query(doing, sql, &[&Some(topic)]).await?;
        let marks = found.iter().map(listing::mark_row).collect::<Result<Vec<_>>>()?;
        let output = Output::Model(model.name.clone());
        let marks = marks.iter().filter(|mark| mark.output == output);
        let marks = marks.map(|mark| (mark.partition.0, mark.mark.next.0)).collect();
        for load in loads.iter().filter(|load| is_read(load, &marks)) {
            let position = load.position();
            match rows.iter_mut().find(|row| row.position == position) {
                Some(row) => row.seen.ended = true,
                None if loads.last() == Some(load) => {
                    let has_rows = session.query(doing, &swap.has_rows, &[]).await?;
                    rows.push(SnapshotRow {
                        position,
                        state: State::Open,
                        staged: has_rows[0].get(0),
                        seen: Seen { time: load.begun_us, ended: true, ..Seen::default() },
                        followed: false,
                        counts: Counts::default(),
                        decided_by: None,
                    });
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// Whether a model with these marks has read it to its end.
pub fn is_read(load: &Load, marks: &BTreeMap<i32, i64>) -> bool {
    let passed = |(partition, end): (&i32, &i64)| marks.get(partition).is_some_and(|m| m >= end);
    load.to.as_ref().is_some_and(|to| to.iter().all(passed))
}

pub(super) async fn read(session: &Session, doing: &str, topic: &str) -> Result<Vec<Load>> {
    let sql = include_str!("../../sql/warehouse/read_loads.sql");
    let rows = session.query(doing, sql, &[&topic]).await?;
    let load = |row: &super::postgres::Row| {
        let partitions: Vec<i32> = row.get(3);
        let span = |offsets: Vec<i64>| partitions.iter().copied().zip(offsets).collect();
        Load {
            number: row.get(0),
            begun_us: row.get::<_, Instant>(1).0,
            to: row.get::<_, bool>(2).then(|| span(row.get(5))),
            from: span(row.get(4)),
        }
    };
    Ok(rows.iter().map(load).collect())
}
