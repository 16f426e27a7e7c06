//! A rebuild of some windows only: where it begins, and its swap.
//!
//! Owns: B-5. Does not own: locks and comparing of marks (`rebuild`), the text of the exchange (`exchange`).
//!
//! SUBTLE: why it may begin so late. Below the offsets where it begins, no record has an event time of `since` or
//! later. So no row of a window that begins then or later lies there; and what the partition had seen by then,
//! which judges those who come after it, is below `since` as well: by it no such window is final, so that not having
//! read it changes no verdict. What the clock has moved is adopted with the marks (E-4). Windows of before are
//! made from a part of their rows, and dropped.
//!
//! Its totals are of a part of the offsets, with verdicts on windows of before that nobody takes; so the live
//! output's totals, refusals and letters stay. They are right as long as decode took the same records, which is
//! compared.

use super::{Rebuild, Swapped, contents::exchange_rows, stood_still};
use crate::{
    catalog::{Model, Role},
    error::{Error, Result},
    record::{EventTime, Offset, Output, Partition},
    warehouse::{
        Warehouse,
        encode::Instant,
        postgres::{Parameter, Session},
        tables::{Table, quoted},
    },
};
use std::collections::BTreeMap;

impl Rebuild {
    /// The rows that are exchanged, as a condition; None: all.
    pub(super) fn part(&self) -> Option<String> {
        let start = self.model.columns.iter().find(|c| c.role == Role::WindowStart)?;
        let bound = |than: &str, EventTime(time): EventTime| {
            format!(
                "{} {than} timestamptz '1970-01-01 00:00:00Z' + {time} * interval '1 microsecond'",
                quoted(&start.name)
            )
        };
        let since = self.since.map(|since| bound(">=", since));
        let bounds: Vec<_> = since.into_iter().chain(self.until.map(|to| bound("<", to))).collect();
        (!bounds.is_empty()).then(|| bounds.join(" AND "))
    }
}

impl Warehouse {
    /// How many rows each of the model's tables has, of the windows that are made anew.
    pub async fn table_rows(&self, rebuild: &Rebuild) -> Result<Vec<(String, u64)>> {
        let mut counts = Vec::new();
        let part = rebuild.part().map_or(String::new(), |part| format!(" WHERE {part}"));
        for shape in Table::new(&rebuild.model).shapes() {
            let sql = format!("SELECT count(*) FROM {}{part}", quoted(&shape.table));
            let rows = self.read("count the rows of a table", &sql, &[]).await?;
            let count = rows.first().map_or(0, |row| row.get::<_, i64>(0) as u64);
            counts.push((shape.table.clone(), count));
        }
        Ok(counts)
    }

    /// The highest event time that any partition of the output has before an offset of its own, or in all of them before
    /// one; the lake's list of files tells, to borders of files. None: there is no record.
    ///
    /// # Errors
    /// `Config`: the lake does not tell, or a partition is not named.
    pub async fn event_time_before(
        &self,
        model: &Model,
        before: &BTreeMap<Partition, Offset>,
        in_all: Option<Offset>,
    ) -> Result<Option<EventTime>> {
        let (topic, output) = (&*model.topic, Output::Model(model.name.clone()).to_string());
        let snapshot = self.snapshot().await?;
        let mut marks = snapshot.marks().await?;
        let not_in_lake = snapshot.not_in_lake().await?;
        snapshot.end().await?;
        marks.retain(|m| *m.topic == *topic && m.output == Output::Model(model.name.clone()));
        let mut bounds = Vec::new();
        for partition in marks.iter().map(|m| m.partition) {
            match before.get(&partition).copied().or(in_all) {
                Some(offset) => bounds.push((partition.0, offset.0)),
                None => {
                    return Err(Error::config(format!(
                        "a window has records of all partitions, and partition {} is not named. Allowed: an offset for \
                         each, or one for all",
                        partition.0
                    )));
                }
            }
        }
        let (partitions, offsets): (Vec<i32>, Vec<i64>) = bounds.into_iter().unzip();
        let has_more = not_in_lake.iter().any(|(t, o, _)| t == topic && *o == output);
        let sql = include_str!("../../../sql/warehouse/event_time_before.sql");
        let values: [Parameter; 5] = [&topic, &output, &partitions, &offsets, &has_more];
        let rows = self.read("find the event times before offsets", sql, &values).await?;
        if let Some(row) = rows.iter().find(|row| !row.get::<_, bool>(1)) {
            return Err(Error::config(format!(
                "the list of the lake's files tells which event times stand before an offset, and it does not hold all of \
                 {topic}/{} before it. Allowed: --from TIME",
                row.get::<_, i32>(0)
            )));
        }
        let times = rows.iter().filter_map(|row| row.get::<_, Option<Instant>>(2));
        Ok(times.map(|time| EventTime(time.0)).max())
    }

    /// By partition, where a rebuild begins; what is not there begins where its leader began.
    pub(super) async fn rebuild_starts(
        &self,
        rebuild: &Rebuild,
    ) -> Result<BTreeMap<Partition, Offset>> {
        let Some(EventTime(since)) = rebuild.since else { return Ok(rebuild.begins.clone()) };
        let (topic, output) = (&*rebuild.model.topic, rebuild.output().to_string());
        let snapshot = self.snapshot().await?;
        let not_in_lake = snapshot.not_in_lake().await?;
        snapshot.end().await?;
        let has_more = not_in_lake.iter().any(|(t, o, _)| t == topic && *o == output);
        let sql = include_str!("../../../sql/warehouse/rebuild_starts.sql");
        let values: [Parameter; 4] = [&topic, &output, &Instant(since), &has_more];
        let rows = self.read("find where to begin", sql, &values).await?;
        Ok(rows.iter().map(|row| (Partition(row.get(0)), Offset(row.get(1)))).collect())
    }
}

/// Marks of both are locked, and stand at the same offsets.
pub(super) async fn swap(
    session: Session,
    doing: &str,
    rebuild: &Rebuild,
    partitions: &[i32],
    absent: u64,
) -> Result<Swapped> {
    let topic: &str = &rebuild.model.topic;
    let (output, shadow) = (rebuild.output().to_string(), rebuild.beside().to_string());
    if absent > 0 {
        return Err(Error::halt(format!(
            "{doing}: Kafka has no record at {absent} offsets, as compaction and transactions leave them, and of some \
             windows only it is not known whether the live output saw more. Allowed: --from beginning, after \
             `highwater replay {output} --abort`. The live table stays as it is"
        )));
    }
    let sql = include_str!("../../../sql/warehouse/decode_refusals_differ.sql");
    if let Some(row) = session.query(doing, sql, &[&topic, &output, &shadow]).await?.first() {
        let (partition, offset): (i32, i64) = (row.get(0), row.get(1));
        let (now, then) = match row.get(2) {
            true => ("takes", "refused"),
            false => ("refuses", "took"),
        };
        return Err(Error::halt(format!(
            "{doing}: today's topic file {now} {topic}/{partition}@{offset}, which the live output {then}: its totals would \
             be others. Allowed: --from beginning, after `highwater replay {output} --abort`. The live table stays as it is"
        )));
    }
    let swapped = exchange_rows(&session, doing, rebuild).await?;
    for sql in [
        include_str!("../../../sql/warehouse/drop_rebuild_letters.sql"),
        include_str!("../../../sql/warehouse/drop_reference_uses.sql"),
        include_str!("../../../sql/warehouse/drop_output_marks.sql"),
    ] {
        session.execute(doing, sql, &[&topic, &shadow]).await?;
    }
    let sql = include_str!("../../../sql/warehouse/end_rebuild.sql");
    session.execute(doing, sql, &[&topic, &output]).await?;
    stood_still(&session, doing, rebuild, partitions, partitions.len() as u64).await?;
    session.commit(doing).await?;
    Ok(swapped)
}
