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
    /// Another definition.
    Other,
}

impl Warehouse {
    /// By which definition the models' tables were filled, in the same order.
    pub async fn filled(&self, models: &[Arc<Model>]) -> Result<Vec<Filled>> {
        let names: Vec<String> = models.iter().map(|model| model.name.to_string()).collect();
        let sql = include_str!("../../../sql/warehouse/read_definitions.sql");
        let rows = self.read("read what tables were filled by", sql, &[&names]).await?;
        let filled = |model: &Arc<Model>| {
            let row = rows.iter().find(|row| row.get::<_, &str>(0) == &*model.name);
            match row.map(|row| row.get::<_, Option<String>>(1)) {
                None => Filled::Absent,
                Some(None) => Filled::Same,
                Some(Some(comment)) if comment == tables::definition_comment(model) => Filled::Same,
                Some(Some(_)) => Filled::Other,
            }
        };
        Ok(models.iter().map(filled).collect())
    }

    /// B-3: a process that knows a model by another definition than its table was filled by would mix rows
    /// of both. Asked under the lock of its marks.
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
        for row in session.query(doing, sql, &[&names]).await? {
            let (name, comment): (String, Option<String>) = (row.get(0), row.get(1));
            let ours = known.iter().find(|table| *table.model == *name);
            if let (Some(ours), Some(comment)) = (ours, comment)
                && ours.definition != comment
            {
                return Err(Error::config(format!(
                    "the table of model {name} was rebuilt by another definition than this process runs: start it \
                     again with the model's new file"
                )));
            }
        }
        Ok(())
    }
}
