//! What tables were filled by, held against what a process knows of them.
//!
//! Owns: which definition a table's comment names. Does not own: what makes two definitions one (`catalog`).

use crate::{
    catalog::Model,
    error::{Error, Result},
    record::Output,
    warehouse::{
        Warehouse,
        postgres::Session,
        tables::{self, Table},
    },
};
use std::sync::Arc;

/// What a model's table was filled by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// There is none.
    Absent,
    /// The model as it is declared; or nobody knows, since the comment was taken off.
    Same,
    /// A definition that says the same, but of fewer columns.
    Narrower,
    /// Another definition.
    Other,
}

impl Warehouse {
    /// By which definition the models' tables were filled, in the same order.
    pub async fn filled(&self, models: &[Arc<Model>]) -> Result<Vec<Filled>> {
        let names: Vec<String> = models.iter().map(|model| model.name.to_string()).collect();
        let sql = include_str!("../../../sql/warehouse/read_definitions.sql");
        let rows = self.read("read what tables were filled by", sql, &[&names]).await?;
        let by = |comment: &str| comment.rsplit(' ').next().unwrap_or_default().to_owned();
        let comments = rows.iter().filter_map(|row| row.get::<_, Option<String>>(1));
        let found: Vec<String> = comments.map(|comment| by(&comment)).collect();
        let sql = include_str!("../../../sql/warehouse/read_known_definitions.sql");
        let known = self.read("read what definitions consist of", sql, &[&found]).await?;
        let is_narrower = |comment: &str, model: &Model| {
            let mut known = known.iter().filter(|row| row.get::<_, &str>(0) == by(comment));
            known.next().is_some_and(|row| {
                let (frame, pieces): (String, Vec<String>) = (row.get(1), row.get(2));
                model.definition().widens(&frame, &pieces)
            })
        };
        let filled = |model: &Arc<Model>| {
            let row = rows.iter().find(|row| row.get::<_, &str>(0) == &*model.name);
            match row.map(|row| row.get::<_, Option<String>>(1)) {
                None => Filled::Absent,
                Some(None) => Filled::Same,
                Some(Some(comment)) if comment == tables::definition_comment(model) => Filled::Same,
                Some(Some(comment)) if is_narrower(&comment, model) => Filled::Narrower,
                Some(Some(_)) => Filled::Other,
            }
        };
        Ok(models.iter().map(filled).collect())
    }

    /// B-3, B-8: a process that knows a model by another definition than its table was filled by would mix rows
    /// of both; one whose table was dropped would fill nothing. Asked under the lock of its marks.
    pub(in crate::warehouse) async fn refuse_other_definitions(
        &self,
        session: &Session,
        doing: &str,
        outputs: impl Iterator<Item = &Output>,
    ) -> Result<()> {
        let known = outputs.filter_map(|output| match output {
            Output::Model(name) => self.table(name).ok(),
            Output::Lake | Output::DeadLetters => None,
        });
        let known: Vec<Arc<Table>> = known.collect();
        if known.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = known.iter().map(|table| table.model.to_string()).collect();
        let sql = include_str!("../../../sql/warehouse/read_definitions.sql");
        let rows = session.query(doing, sql, &[&names]).await?;
        for ours in known {
            let row = rows.iter().find(|row| row.get::<_, &str>(0) == &*ours.model);
            let name = &ours.model;
            match row.map(|row| row.get::<_, Option<String>>(1)) {
                // Its process has made it, or found it.
                None => {
                    return Err(Error::config(format!(
                        "the table of model {name} was dropped since this process began: start it again with the files \
                         of today"
                    )));
                }
                Some(Some(comment)) if comment != ours.definition => {
                    return Err(Error::config(format!(
                        "the table of model {name} was rebuilt by another definition than this process runs: start it \
                         again with the model's new file"
                    )));
                }
                Some(Some(_) | None) => {}
            }
        }
        Ok(())
    }
}
