//! Migrations of `highwater.*` and the tables of models: made, or compared with what is there.
//!
//! Owns: what may be created, and when a difference stops the process. Does not own: the text of a
//! model's statements (`tables`).
//!
//! Each step is one transaction under one advisory lock that ends with it: processes which start at
//! the same time take turns, a death holds nobody up, and a pooler in between does no harm.

use super::{
    Warehouse,
    finality::FinalView,
    postgres::{Row, Session},
    tables::{self, Found, FoundKey, Shape, Table},
};
use crate::{
    catalog::{Definition, Model},
    error::{Error, Result},
    record::Output,
};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// `UNIQUE NULLS NOT DISTINCT` came with 15.
const VERSION_MIN: i32 = 150_000;

pub(super) struct Migration {
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($name:literal)*) => {
        [$(Migration {
            name: $name,
            sql: include_str!(concat!("../../sql/migrations/", $name, ".sql")),
        }),*]
    };
}

/// In order. A published one never changes: its checksum stands in every database.
static MIGRATIONS: [Migration; 28] = migrations![
    "0001_marks"
    "0002_lake_files"
    "0003_lake_file_ranges"
    "0004_lake_uploads"
    "0005_dead_letters"
    "0006_lake_files_unfinished"
    "0007_lake_file_ranges_by_path"
    "0008_refusals"
    "0009_dead_letters_forwarded"
    "0012_warehouse_id"
    "0017_event_time"
    "0018_watermarks"
    "0019_duplicates"
    "0020_unique_keys"
    "0021_reference_versions"
    "0022_reference_uses"
    "0030_generations"
    "0031_gaps"
    "0032_accepted_deletes"
    "0035_upstream_versions"
    "0036_upstream_places"
    "0037_added_columns"
    "0038_rebuilds"
    "0039_rows_of_records"
    "0043_loads"
    "0044_lake_rewrites"
    "0045_rebuild_leaders"
    "0046_definitions"
];

impl Migration {
    fn checksum(&self) -> String {
        Sha256::digest(self.sql).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a database is that these migrations made, and nothing else.
#[cfg(feature = "embedded")]
pub fn schema_id() -> String {
    let all: String = MIGRATIONS.iter().map(Migration::checksum).collect();
    Sha256::digest(all).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The first that is not applied yet; refuses a history which is not a beginning of ours.
fn next_migration(applied: &[(String, String)]) -> Result<Option<&'static Migration>> {
    for (i, (name, checksum)) in applied.iter().enumerate() {
        let Some(ours) = MIGRATIONS.get(i).filter(|ours| ours.name == name) else {
            return Err(Error::config(format!(
                "the warehouse was migrated by another, newer highwater, migration={name}: \
                 run that version, or one after it"
            )));
        };
        if ours.checksum() != *checksum {
            return Err(Error::config(format!(
                "a migration was changed after it was applied, migration={name} applied={checksum} \
                 ours={}: run the highwater that applied it",
                ours.checksum()
            )));
        }
    }
    Ok(MIGRATIONS.get(applied.len()))
}

impl Warehouse {
    /// Brings `highwater.*` up to this version.
    ///
    /// # Errors
    /// `Config`: PostgreSQL before 15, or a database of another version of highwater.
    pub async fn migrate(&self) -> Result<()> {
        let doing = "migrate the warehouse";
        self.within(doing, async {
            let session = self.begin(doing).await?;
            let version: i32 = session
                .query(doing, "SELECT current_setting('server_version_num')::integer", &[])
                .await?[0]
                .get(0);
            if version < VERSION_MIN {
                return Err(Error::config(format!(
                    "the warehouse needs PostgreSQL 15 or later (NULLS NOT DISTINCT), found={}.{}",
                    version / 10_000,
                    version % 10_000
                )));
            }
            lock(&session, doing).await?;
            session.batch(doing, include_str!("../../sql/warehouse/create_schema.sql")).await?;
            session.batch(doing, include_str!("../../sql/warehouse/create_migrations.sql")).await?;
            session.commit(doing).await
        })
        .await?;
        while self.within(doing, self.migrate_once(doing)).await? {}
        Ok(())
    }

    /// Applies the next migration; false when there is none.
    async fn migrate_once(&self, doing: &str) -> Result<bool> {
        let session = self.begin(doing).await?;
        lock(&session, doing).await?;
        let sql = include_str!("../../sql/warehouse/read_migrations.sql");
        let applied = session.query(doing, sql, &[]).await?;
        let applied: Vec<_> = applied.iter().map(|row| (row.get(0), row.get(1))).collect();
        let Some(migration) = next_migration(&applied)? else {
            session.roll_back(doing).await?;
            return Ok(false);
        };
        session.batch(&format!("{doing} to {}", migration.name), migration.sql).await?;
        let sql = include_str!("../../sql/warehouse/record_migration.sql");
        session.execute(doing, sql, &[&migration.name, &migration.checksum()]).await?;
        session.commit(doing).await?;
        Ok(true)
    }

    /// Creates the models' tables where they are absent, compares them where they are there, and
    /// remembers the models: a cut may yield rows of these and no others.
    ///
    /// # Errors
    /// `Config`: a table is not what its model keeps, or does not belong to its marks.
    pub async fn ensure_tables(&self, models: &[Arc<Model>]) -> Result<()> {
        let views: Vec<_> = models.iter().filter_map(|model| FinalView::of(model)).collect();
        self.ensure(models, &views).await
    }

    /// The same of a rebuild, which nobody reads: it has no view.
    pub(super) async fn ensure_rebuild_tables(&self, shadow: &Arc<Model>) -> Result<()> {
        self.ensure(std::slice::from_ref(shadow), &[]).await
    }

    async fn ensure(&self, models: &[Arc<Model>], views: &[FinalView]) -> Result<()> {
        let tables: Vec<_> = models.iter().map(|model| Table::new(model)).collect();
        let doing = "make the tables of models";
        self.within(doing, async {
            let session = self.begin(doing).await?;
            lock(&session, doing).await?;
            for table in &tables {
                ensure(&session, table).await?;
                let sql = include_str!("../../sql/warehouse/note_definition.sql");
                let Definition { fingerprint, frame, pieces } = &table.consists_of;
                session.execute(doing, sql, &[fingerprint, frame, pieces]).await?;
            }
            for view in views {
                view.ensure(&session).await?;
            }
            session.commit(doing).await
        })
        .await?;
        self.know(tables);
        Ok(())
    }
}

/// How a person makes a model's tables anew.
fn rebuild(table: &Table) -> String {
    let model = &table.model;
    format!(
        "To rebuild it from what Kafka still has, stop highwater, then: DROP VIEW IF EXISTS {}; \
         DROP TABLE IF EXISTS {}; \
         DELETE FROM highwater.marks WHERE output = 'model:{model}'; \
         DELETE FROM highwater.dead_letters WHERE output = 'model:{model}'; \
         DELETE FROM highwater.gaps WHERE output = 'model:{model}'; \
         DELETE FROM highwater.former_marks WHERE output = 'model:{model}'; and start again.",
        tables::quoted(&format!("{model}_final")),
        tables::list(table.shapes(), |shape| tables::quoted(&shape.table))
    )
}

pub(super) async fn lock(session: &Session, doing: &str) -> Result<()> {
    let sql = include_str!("../../sql/warehouse/migration_lock.sql");
    session.query(doing, sql, &[]).await.map(drop)
}

async fn ensure(session: &Session, table: &Table) -> Result<()> {
    let model = &table.model;
    let doing = format!("make the table of a model, model={model}");
    let output = Output::Model(model.clone()).to_string();
    let sql = include_str!("../../sql/warehouse/marks_of_output.sql");
    let marks = session.query(&doing, sql, &[&output]).await?;
    let (marks, passed): (i64, i64) = (marks[0].get(0), marks[0].get(1));
    let mut there = Vec::new();
    for (shape, (create, comment)) in table.shapes().zip(table.creates()) {
        let name = &shape.table;
        let found = columns_of(session, &doing, name).await?;
        if !found.is_empty() {
            compare(session, &doing, table, shape, &found).await?;
            there.push(name);
            continue;
        }
        if passed > 0 && table.waiting().all(|waiting| waiting.table != *name) {
            return Err(Error::config(format!(
                "table {name} is absent, but the marks of model {model} have passed {passed} \
                 offsets whose rows it held. {}",
                rebuild(table)
            )));
        }
        session.batch(&doing, create).await?;
        session.batch(&doing, comment).await?;
    }
    // Without marks a model starts from the beginning, and would count everything in it twice.
    for name in there.into_iter().filter(|_| marks == 0) {
        let sql = format!("SELECT NOT EXISTS (SELECT FROM {})", tables::quoted(name));
        if !session.query(&doing, &sql, &[]).await?[0].get::<_, bool>(0) {
            return Err(Error::config(format!(
                "table {name} holds rows, but no mark says which offsets they come from. \
                 Drop the table, or give the model another name"
            )));
        }
    }
    Ok(())
}

/// Empty: there is no such table.
pub(super) async fn columns_of(session: &Session, doing: &str, table: &str) -> Result<Vec<Found>> {
    let sql = include_str!("../../sql/warehouse/read_table.sql");
    let rows = session.query(doing, sql, &[&table]).await?;
    let found = rows.iter().map(|row| Found {
        name: row.get(0),
        pg: row.get(1),
        generated: row.get(2),
        collation: row.get(3),
    });
    Ok(found.collect())
}

/// Between the table found and the one wanted.
pub(super) async fn differences(
    session: &Session,
    doing: &str,
    shape: &Shape,
    found: &[Found],
) -> Result<Vec<[String; 3]>> {
    let sql = include_str!("../../sql/warehouse/read_keys.sql");
    let keys = session.query(doing, sql, &[&shape.table]).await?;
    let key = |row: &Row| FoundKey { columns: row.get(0), nulls_equal: row.get(1) };
    let keys: Vec<_> = keys.iter().map(key).collect();
    Ok(shape.differences(found, &keys))
}

/// Refuses a table that is not what its model keeps, or was filled by another definition.
async fn compare(
    session: &Session,
    doing: &str,
    table: &Table,
    shape: &Shape,
    found: &[Found],
) -> Result<()> {
    let (model, name) = (&table.model, &shape.table);
    let differences = differences(session, doing, shape, found).await?;
    if !differences.is_empty() {
        return Err(Error::config(format!(
            "table {name} is not what its model keeps ({}):{}\n\
             {} Or give the changed model a new name, which keeps the old table as it is.",
            table.file,
            tables::print_differences(&differences),
            rebuild(table)
        )));
    }
    let sql = include_str!("../../sql/warehouse/read_comment.sql");
    let comment: Option<String> = session.query(doing, sql, &[name]).await?[0].get(0);
    if comment.as_ref().is_some_and(|c| *c != table.definition) {
        return Err(Error::config(format!(
            "the definition of model {model} ({}) has changed since its table was filled: going on \
             would mix rows of both. `highwater run --apply` makes it anew beside the old one. Or give the \
             changed model a new name, which keeps the old table as it is.",
            table.file
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn applied(count: usize) -> Vec<(String, String)> {
        MIGRATIONS[..count].iter().map(|m| (m.name.to_owned(), m.checksum())).collect()
    }

    #[test]
    fn migrations_are_applied_in_order_and_once() {
        for (count, migration) in MIGRATIONS.iter().enumerate() {
            let next = next_migration(&applied(count)).unwrap().unwrap();
            assert_eq!(next.name, migration.name);
        }
        assert!(next_migration(&applied(MIGRATIONS.len())).unwrap().is_none());
    }

    #[test]
    fn a_changed_or_unknown_migration_is_refused() {
        let mut changed = applied(2);
        changed[1].1 = "0".into();
        let mut newer = applied(MIGRATIONS.len());
        newer.push(("0999_later".into(), "0".into()));
        for (history, word) in [(changed, "changed"), (newer, "newer")] {
            let error = next_migration(&history).map(drop).unwrap_err();
            assert_eq!(error.kind, Kind::Config);
            assert!(error.context.contains(word), "{error}");
        }
    }

    #[test]
    fn every_file_of_migrations_is_applied_and_numbered_in_order() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations");
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap().replace(".sql", ""))
            .collect();
        files.sort();
        assert_eq!(files, MIGRATIONS.each_ref().map(|m| m.name.to_owned()));
    }
}
