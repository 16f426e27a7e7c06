//! Which windows are final, as SQL: topics for `highwater.watermarks`, and beside each windowed table
//! `NAME` a view `NAME_final` of the windows that the watermark has left behind.
//!
//! Owns: the views' text, when one is made anew, whose a view is. Does not own: what a watermark is
//! (`sql/migrations/0018_watermarks.sql`), how far behind a window's end finality is (`catalog`).

use super::{Warehouse, postgres::Session, schema, tables::quoted};
use crate::{
    catalog::{Column, Late, Model, Role, Topic, Window},
    error::{Error, Result},
    record::{Output, quantity::show_duration},
};
use std::sync::Arc;

/// What each comment of ours begins with: a view without it is somebody else's.
const OURS: &str = "highwater: final windows of";

/// The view of one windowed model.
pub struct FinalView {
    model: Arc<str>,
    name: String,
    create: String,
    comment: String,
}

impl FinalView {
    /// The statement that makes it.
    pub fn create(&self) -> &str {
        &self.create
    }

    /// None: the model has no windows.
    pub fn of(model: &Model) -> Option<Self> {
        let window = model.window()?;
        let end = model.columns.iter().find(|column| column.role == Role::WindowEnd)?;
        // Hidden columns begin with a line.
        let shown = model.columns.iter().filter(|column| !column.name.starts_with('_'));
        let shown: Vec<_> = shown.map(|column| column.name.as_str()).collect();
        Some(Self::showing(model, window, end, &shown))
    }

    fn showing(model: &Model, window: &Window, end: &Column, shown: &[&str]) -> Self {
        let shown: Vec<_> = shown.iter().map(|name| quoted(name)).collect();
        let name = model.final_view();
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let create = format!(
            "CREATE OR REPLACE VIEW {} AS\nSELECT {}\nFROM {}\nWHERE {} + interval '{} microseconds' <=\n  \
             (SELECT w.watermark FROM highwater.watermarks w WHERE w.topic = {} AND w.output = {})",
            quoted(&name),
            shown.join(", "),
            quoted(&model.name),
            quoted(&end.name),
            window.closes_after().as_micros(),
            literal(&model.topic),
            literal(&Output::Model(model.name.clone()).to_string()),
        );
        let changes = match window.late {
            Late::Amend => {
                "a late record still amends them (late = 'amend'), which highwater_late_total counts"
            }
            Late::DeadLetter => "they never change: a late record is a dead letter of the model",
            Late::Drop => "they never change: a late record is left out and counted as late",
        };
        let comment = format!(
            "{OURS} {}: the watermark of every partition is {} or more behind their end; {changes}",
            model.name,
            show_duration(window.closes_after()),
        );
        Self { model: model.name.clone(), name, create, comment }
    }

    /// Shows columns that its table got behind those that it shows; made where it is absent.
    pub(super) async fn widen(model: &Model, session: &Session) -> Result<()> {
        let (Some(mut view), Some(window)) = (Self::of(model), model.window()) else {
            return Ok(());
        };
        let doing = format!("widen the view of final windows, model={}", model.name);
        if Self::is_there(session, &doing, &view.name).await? {
            let found = schema::columns_of(session, &doing, &view.name).await?;
            let is_there = |name: &str| found.iter().any(|found| found.name == name);
            let shown = model.columns.iter().map(|column| column.name.as_str());
            let more = shown.filter(|name| !name.starts_with('_') && !is_there(name));
            let all: Vec<&str> = found.iter().map(|f| f.name.as_str()).chain(more).collect();
            if let Some(end) = model.columns.iter().find(|c| c.role == Role::WindowEnd) {
                view = Self::showing(model, window, end, &all);
            }
            session.batch(&doing, &view.create).await?;
        }
        view.ensure(session).await
    }

    pub(super) fn name_of(model: &str) -> String {
        format!("{model}_final")
    }

    /// Whether a view of ours has this name.
    pub(super) async fn is_there(session: &Session, doing: &str, name: &str) -> Result<bool> {
        let sql = include_str!("../../sql/warehouse/read_relation.sql");
        let found = session.query(doing, sql, &[&name]).await?;
        let is_ours = |kind: &str, comment: &str| kind == "v" && comment.starts_with(OURS);
        Ok(found.first().is_some_and(|row| is_ours(row.get(0), row.get(1))))
    }

    /// Makes the view where it is absent or says something else than its comment.
    pub(super) async fn ensure(&self, session: &Session) -> Result<()> {
        let doing = format!("make the view of final windows, model={}", self.model);
        let sql = include_str!("../../sql/warehouse/read_relation.sql");
        let found = session.query(&doing, sql, &[&self.name]).await?;
        if let Some(found) = found.first() {
            let (kind, comment): (String, String) = (found.get(0), found.get(1));
            if kind != "v" || !comment.starts_with(OURS) {
                return Err(Error::config(format!(
                    "{name} is there already, and is not highwater's: the final windows of model \
                     {model} are a view of that name. Rename it (ALTER … {name} RENAME TO …) or drop \
                     it, or give the model another name",
                    name = self.name,
                    model = self.model
                )));
            }
            if comment == self.comment {
                return Ok(());
            }
        }
        session.batch(&doing, &self.create).await?;
        let comment = self.comment.replace('\'', "''");
        let comment = format!("COMMENT ON VIEW {} IS '{comment}'", quoted(&self.name));
        session.batch(&doing, &comment).await
    }
}

impl Warehouse {
    /// Tells `highwater.watermarks` of these topics.
    pub async fn declare_topics(&self, topics: impl Iterator<Item = &Arc<Topic>>) -> Result<()> {
        let sql = include_str!("../../sql/warehouse/declare_topic.sql");
        for topic in topics {
            let name: &str = &topic.name;
            let disorder = i64::try_from(topic.max_disorder.as_micros()).unwrap_or(i64::MAX);
            self.change("declare a topic", sql, &[&name, &disorder]).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::{ModelKind, Shape, Window},
        warehouse::tests::{aggregate, latest},
    };
    use std::time::Duration;

    #[test]
    fn a_windowed_table_has_a_view_without_hidden_columns() {
        let mut model = aggregate("taps_5m");
        assert!(FinalView::of(&model).is_none(), "a group without windows is never final");
        let ModelKind::Aggregate(aggregate) = &mut model.kind else { panic!("it groups") };
        aggregate.window = Some(Window {
            name: "window".into(),
            shape: Shape::Session { gap: Duration::from_secs(5) },
            allowed_lateness: Duration::from_secs(60),
            late: Late::Drop,
        });
        let view = FinalView::of(&model).unwrap();
        assert!(view.create.contains("interval '65000000 microseconds'"), "{}", view.create);
        assert!(view.comment.ends_with("counted as late"), "{}", view.comment);
        assert!(
            view.create.contains("FROM \"taps_5m\"\nWHERE \"window_end\" +"),
            "{}",
            view.create
        );
        assert!(view.create.contains("w.output = 'model:taps_5m'"), "{}", view.create);
        assert!(!view.create.contains("\"_"), "{}", view.create);
        assert!(FinalView::of(&latest("orders")).is_none());
    }
}
