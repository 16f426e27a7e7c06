//! Reads for people and for `status`: marks, any query.
//!
//! Owns: nothing that changes. Does not own: how it is shown (`ops`).

use super::{
    MarkRow, Warehouse, WatermarkRow, commit,
    encode::Instant,
    postgres::{Parameter, Row},
};
use crate::{
    error::{Error, Result},
    record::{EventTime, Output, Partition},
};

impl Warehouse {
    /// By topic, output, partition; of all topics without one.
    pub async fn marks(&self, topic: Option<&str>) -> Result<Vec<MarkRow>> {
        let sql = include_str!("../../sql/warehouse/read_marks.sql");
        let rows = self.read("read marks", sql, &[&topic]).await?;
        rows.iter().map(mark_row).collect()
    }

    /// How far event time has come, by topic and output; of all topics without one.
    pub async fn watermarks(&self, topic: Option<&str>) -> Result<Vec<WatermarkRow>> {
        let sql = include_str!("../../sql/warehouse/read_watermarks.sql");
        let rows = self.read("read watermarks", sql, &[&topic]).await?;
        let watermark = |row: &Row| {
            Ok(WatermarkRow {
                topic: row.get::<_, &str>(0).into(),
                output: output(row.get(1))?,
                watermark: row.get::<_, Option<Instant>>(2).map(|instant| EventTime(instant.0)),
                held_back_by: Partition(row.get(3)),
                since: row.get::<_, Instant>(4).0,
            })
        };
        rows.iter().map(watermark).collect()
    }

    /// Any statements by the simple protocol: names of columns, then rows as text, of the last
    /// statement that gives any.
    pub async fn query_text(&self, sql: &str) -> Result<(Vec<String>, Vec<Vec<Option<String>>>)> {
        self.within("run a query", async {
            let session = self.session().await?;
            let answer = session.text(sql).await?;
            session.give_back();
            Ok(answer)
        })
        .await
    }

    /// One statement that reads.
    pub(super) async fn read(
        &self,
        doing: &str,
        sql: &str,
        values: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        self.within(doing, async {
            let session = self.session().await?;
            let rows = session.query(doing, sql, values).await?;
            session.give_back();
            Ok(rows)
        })
        .await
    }

    /// One statement that changes something, and may as well be done twice.
    pub(super) async fn change(
        &self,
        doing: &str,
        sql: &str,
        values: &[Parameter<'_>],
    ) -> Result<()> {
        self.within(doing, async {
            let session = self.session().await?;
            session.execute(doing, sql, values).await?;
            session.give_back();
            Ok(())
        })
        .await
    }
}

/// A row of `read_marks.sql`.
pub(super) fn mark_row(row: &Row) -> Result<MarkRow> {
    Ok(MarkRow {
        topic: row.get::<_, &str>(0).into(),
        output: output(row.get(1))?,
        partition: Partition(row.get(2)),
        mark: commit::mark(row, 3),
        owner: row.get(15),
        committed_at: row.get::<_, Option<Instant>>(16).map(|instant| instant.0),
        generation: row.get(17),
        topic_id: commit::topic_id(row.get(18))?,
    })
}

pub(super) fn output(text: &str) -> Result<Output> {
    Output::parse(text)
        .ok_or_else(|| Error::halt(format!("a mark of an output that nobody knows, output={text}")))
}
