//! Versions of references, and which one an output's records were looked up in.
//!
//! Owns: their two tables. Does not own: what a version holds (`compute::lookup`), when another one
//! is loaded (`ops::references`).

use super::{
    Warehouse, listing,
    postgres::{Parameter, Row, Session},
    snapshot::Snapshot,
};
use crate::{
    catalog::Reference,
    cut::ReferenceUse,
    error::{Error, Result},
    record::{Offset, Output, Partition},
};
use std::sync::Arc;

const USES: &str = include_str!("../../sql/warehouse/read_reference_uses.sql");
const CONTENT: &str = include_str!("../../sql/warehouse/read_reference_version.sql");

/// Rows of a table that is a reference, at most: they are all held in memory.
const ROWS_MAX: usize = 5_000_000;

impl Warehouse {
    /// Keeps a version, before any record is looked up in it.
    pub async fn keep_reference(
        &self,
        reference: &str,
        version: &str,
        rows: usize,
        content: &[u8],
    ) -> Result<()> {
        let doing = format!("keep a version of reference {reference}");
        let sql = include_str!("../../sql/warehouse/insert_reference_version.sql");
        let values: [Parameter; 4] = [&reference, &version, &(rows as i64), &content];
        self.change(&doing, sql, &values).await
    }

    /// Which version the outputs of a topic looked up in, in order of output, partition, offset.
    pub async fn reference_uses(&self, topic: &str) -> Result<Vec<ReferenceUse>> {
        let rows = self.read("read uses of references", USES, &[&Some(topic)]).await?;
        rows.iter().map(reference_use).collect()
    }

    /// The content of a version that was kept.
    pub async fn reference_content(&self, reference: &str, version: &str) -> Result<Vec<u8>> {
        let rows = self.read("read a reference", CONTENT, &[&reference, &version]).await?;
        the_content(&rows, reference, version)
    }

    /// Each row of a table as a JSON object.
    ///
    /// # Errors
    /// `Halt`: the table is not there, or may not be read.
    pub async fn reference_rows(&self, reference: &Reference, table: &str) -> Result<Vec<String>> {
        let doing = format!("load reference {} from the table {table}", reference.name);
        // Found as a name first: whatever else is written there is no table.
        let named = self.read(&doing, "SELECT to_regclass($1)::text", &[&table]).await?;
        let named: Option<String> = named.first().and_then(|row| row.get(0));
        let named = named.ok_or_else(|| {
            Error::halt(format!("{doing}: there is no such table (or no right to see it)"))
        })?;
        let sql = format!("SELECT to_jsonb(t)::text FROM {named} t LIMIT {}", ROWS_MAX + 1);
        let rows = self.read(&doing, &sql, &[]).await?;
        if rows.len() > ROWS_MAX {
            return Err(Error::halt(format!(
                "{doing}: it has more than {ROWS_MAX} rows, and a reference is held in memory"
            )));
        }
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// The content of a version that was kept.
pub async fn content(snapshot: &Snapshot, reference: &str, version: &str) -> Result<Vec<u8>> {
    let rows =
        snapshot.session().query("read a reference", CONTENT, &[&reference, &version]).await?;
    the_content(&rows, reference, version)
}

fn the_content(rows: &[Row], reference: &str, version: &str) -> Result<Vec<u8>> {
    let row = rows.first().ok_or_else(|| {
        Error::halt(format!("version {version} of reference {reference} is not kept"))
    })?;
    Ok(row.get(0))
}

/// A row of `highwater.reference_uses`, with its topic.
pub type Use = (Arc<str>, ReferenceUse);

/// All uses, in order of topic, output, partition, offset.
pub async fn uses(snapshot: &Snapshot) -> Result<Vec<Use>> {
    let all: Option<&str> = None;
    let rows = snapshot.session().query("read uses of references", USES, &[&all]).await?;
    rows.iter().map(|row| Ok((row.get::<_, &str>(0).into(), reference_use(row)?))).collect()
}

fn reference_use(row: &Row) -> Result<ReferenceUse> {
    Ok(ReferenceUse {
        output: listing::output(row.get(1))?,
        partition: Partition(row.get(2)),
        from: Offset(row.get(3)),
        reference: row.get::<_, &str>(4).into(),
        version: row.get::<_, &str>(5).into(),
    })
}

/// Notes versions that differ from those before.
pub(super) async fn add_uses(
    session: &Session,
    doing: &str,
    topic: &str,
    uses: &[ReferenceUse],
) -> Result<()> {
    let doing = format!("{doing}: note the versions of references");
    let outputs: Vec<String> = uses.iter().map(|u| Output::to_string(&u.output)).collect();
    let partitions: Vec<i32> = uses.iter().map(|u| u.partition.0).collect();
    let from: Vec<i64> = uses.iter().map(|u| u.from.0).collect();
    let references: Vec<&str> = uses.iter().map(|u| &*u.reference).collect();
    let versions: Vec<&str> = uses.iter().map(|u| &*u.version).collect();
    let sql = include_str!("../../sql/warehouse/insert_reference_uses.sql");
    let values: [Parameter; 6] = [&topic, &outputs, &partitions, &from, &references, &versions];
    session.execute(&doing, sql, &values).await.map(drop)
}
