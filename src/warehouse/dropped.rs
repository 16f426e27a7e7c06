//! A model that is not declared any more, dropped: tables, marks, and what goes with them.
//!
//! Owns: B-8, the order of steps. Does not own: which models are not declared (`ops::plan`).
//!
//! B-8  A drop is one transaction; who still runs the model is fenced, and does not make its marks again.
//!
//! SUBTLE: its marks are locked first, so no cut of it is under way, and the next one of whoever runs it finds no mark: it
//! is fenced, and takes the partitions anew. That take would make the marks again, at the beginning, over a
//! table that is gone; it waits for the topic's lock, held here, and is refused then, since the table that its process made is
//! not there (`rebuild::definitions`). A process that starts meanwhile makes its tables under the schema's lock: before
//! the drop, and they are dropped, or after it, as those of a new model.

use super::{
    Warehouse,
    finality::FinalView,
    rebuild::{PREFIX, contents},
    schema, tables,
};
use crate::{
    error::{Error, Result},
    record::Output,
};
use std::time::Duration;

/// Readers hold a table for no longer than this, or it is tried again.
const LOCK: Duration = Duration::from_secs(5);
const STATEMENT: Duration = Duration::from_secs(60);

/// What is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    pub tables: Vec<String>,
    pub views: Vec<String>,
    pub marks: u64,
    pub letters: u64,
}

impl Warehouse {
    /// Drops what there is of a model, and of its rebuild.
    ///
    /// # Errors
    /// `Halt`: a view of somebody's is over one of its tables. `Retry`: a reader holds one.
    pub async fn drop_model(&self, model: &str) -> Result<Dropped> {
        let output = Output::Model(model.into()).to_string();
        let doing = format!("drop {output}");
        let rebuild = format!("{PREFIX}{model}");
        let shadow = Output::Model(rebuild.as_str().into()).to_string();
        let session = self.begin(&doing).await?;
        let limit = |limit: Duration| format!("{}ms", limit.as_millis());
        let sql = include_str!("../../sql/warehouse/limit_swap.sql");
        session.query(&doing, sql, &[&limit(STATEMENT), &limit(LOCK)]).await?;
        schema::lock(&session, &doing).await?;
        let sql = include_str!("../../sql/warehouse/topics_of_output.sql");
        let topics = session.query(&doing, sql, &[&output]).await?;
        let topics: Vec<String> = topics.iter().map(|row| row.get(0)).collect();
        for topic in &topics {
            let sql = include_str!("../../sql/warehouse/lock_topic.sql");
            session.query(&doing, sql, &[topic]).await?;
        }
        let mut dropped = Dropped::default();
        for topic in &topics {
            for of in [&output, &shadow] {
                let sql = include_str!("../../sql/warehouse/lock_output_marks.sql");
                session.query(&doing, sql, &[topic, of]).await?;
                let sql = include_str!("../../sql/warehouse/drop_rebuild_letters.sql");
                dropped.letters += session.execute(&doing, sql, &[topic, of]).await?;
                for sql in [
                    include_str!("../../sql/warehouse/drop_reference_uses.sql"),
                    include_str!("../../sql/warehouse/drop_gaps.sql"),
                    include_str!("../../sql/warehouse/drop_former_marks.sql"),
                ] {
                    session.execute(&doing, sql, &[topic, of]).await?;
                }
                let sql = include_str!("../../sql/warehouse/drop_output_marks.sql");
                dropped.marks += session.execute(&doing, sql, &[topic, of]).await?;
            }
            let sql = include_str!("../../sql/warehouse/end_rebuild.sql");
            session.execute(&doing, sql, &[topic, &output]).await?;
        }
        let sql = include_str!("../../sql/warehouse/drop_accepted_deletes.sql");
        session.execute(&doing, sql, &[&model]).await?;
        let view = FinalView::name_of(model);
        if FinalView::is_there(&session, &doing, &view).await? {
            let gone = session.batch(&doing, &format!("DROP VIEW {}", tables::quoted(&view))).await;
            gone.map_err(|error| contents::held(&doing, &view, error, ""))?;
            dropped.views.push(view);
        }
        for model in [model, &rebuild] {
            dropped.tables.extend(contents::drop_tables(&session, &doing, model, "").await?);
        }
        let sql = include_str!("../../sql/warehouse/topics_of_output.sql");
        if !session.query(&doing, sql, &[&output]).await?.is_empty() {
            return Err(Error::retry(format!("{doing}: it got marks meanwhile")));
        }
        session.commit(&doing).await?;
        Ok(dropped)
    }
}
