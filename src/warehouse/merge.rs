//! A cut's delta brought into its model's tables: the statements in their order.
//!
//! Owns: which way the rows go (arrays or COPY), what is done after the upsert. Does not own: the
//! text of the statements (`tables`), the transaction around them (`commit`, `snapshot`).
//!
//! W-7  A value is counted by `count(DISTINCT …)` in the transaction that first stores it.
//! W-8  A difference is to the last value of the window before, as both are at COMMIT.

use super::{
    differences::Differences,
    encode::{ArrayParameter, Elements},
    following::{Followed, follow},
    keyed::{self, Alike},
    postgres::{Parameter, Session},
    sketches::{Sketches, Stored},
    tables::{Sets, Table},
};
use crate::{
    catalog::PgType,
    compute::Delta,
    error::{Error, Result},
};
use arrow::array::RecordBatch;

/// Rows of one statement with arrays.
const ARRAY_ROWS: usize = 20_000;

/// The way of the rows.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// Arrays as parameters, in pieces. One transaction may merge several deltas of a model.
    Arrays,
    /// Arrays for up to so many rows, COPY through a temporary table for more. Only where COMMIT
    /// empties the temporary table.
    CopyAbove(usize),
}

impl Way {
    fn copies(self, rows: usize) -> bool {
        match self {
            Self::Arrays => false,
            Self::CopyAbove(max) => rows > max,
        }
    }
}

/// What turned out while a delta was merged.
#[derive(Debug, Default, Clone, Copy)]
pub struct Merged {
    /// How many differences of `delta(…)` went below zero.
    pub below_zero: u64,
    pub followed: Followed,
}

pub async fn merge(session: &Session, table: &Table, delta: &Delta, way: Way) -> Result<Merged> {
    let doing = format!("merge a cut into its table, model={}", table.model);
    if let Some(changes) = &delta.changes {
        let followed = follow(session, &doing, table, changes, way).await?;
        return Ok(Merged { followed, ..Merged::default() });
    }
    match &table.sketches {
        Some(sketches) => {
            let rows = unite(session, &doing, sketches, &delta.rows).await?;
            upsert(session, &doing, table, &rows, way).await?;
        }
        None => upsert(session, &doing, table, &delta.rows, way).await?,
    }
    if let Some(sets) = &table.sets {
        add_values(session, &doing, sets, &delta.sets, way).await?;
    }
    let below_zero = match &table.differences {
        Some(differences) => renew(session, &doing, differences, &delta.rows).await?,
        None => 0,
    };
    Ok(Merged { below_zero, ..Merged::default() })
}

/// The delta with the stored sketches in it. Nobody else changes them meanwhile: cuts take turns.
async fn unite(
    session: &Session,
    doing: &str,
    sketches: &Sketches,
    rows: &RecordBatch,
) -> Result<RecordBatch> {
    let mut stored: Stored = vec![vec![None; rows.num_rows()]; sketches.count()];
    for alike in keyed::alike(rows, &sketches.keys)? {
        let sql = sketches.read(&alike.nulls);
        let given = keyed::there(&sketches.keys, &alike.nulls);
        let columns = key_elements(&alike, &given)?;
        for (from, piece) in pieces(&columns, alike.rows.len()) {
            for row in session.query(doing, &sql, &parameters(&piece)).await? {
                let place = alike.rows[from + row.get::<_, i64>(0) as usize - 1] as usize;
                for (i, column) in stored.iter_mut().enumerate() {
                    column[place] = row.get(i + 1);
                }
            }
        }
    }
    sketches.united(rows, &stored)
}

/// Makes the differences anew of the windows in the delta, and of those after them (W-8).
async fn renew(
    session: &Session,
    doing: &str,
    differences: &Differences,
    rows: &RecordBatch,
) -> Result<u64> {
    let mut below = 0;
    for alike in keyed::alike(rows, &differences.keys)? {
        let sql = differences.renew(&alike.nulls);
        let mut given = keyed::there(&differences.keys, &alike.nulls);
        given.push(&differences.window_start);
        let columns = key_elements(&alike, &given)?;
        for (_, piece) in pieces(&columns, alike.rows.len()) {
            let counted = session.query(doing, &sql, &parameters(&piece)).await?;
            below += counted[0].get::<_, i64>(0) as u64;
        }
    }
    Ok(below)
}

pub(super) fn key_elements<'a>(
    alike: &'a Alike,
    given: &[&(String, PgType)],
) -> Result<Vec<Elements<'a>>> {
    let columns = given.iter().map(|(name, pg)| {
        let column = alike.batch.column_by_name(name).expect("rows have their keys");
        Elements::new(name, column.as_ref(), *pg)
    });
    columns.collect()
}

pub(super) async fn upsert(
    session: &Session,
    doing: &str,
    table: &Table,
    rows: &RecordBatch,
    way: Way,
) -> Result<()> {
    let given = rows.schema();
    let given: Vec<_> = given.fields().iter().map(|field| field.name().as_str()).collect();
    let wanted: Vec<_> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
    if given != wanted {
        return Err(Error::halt(format!(
            "{doing}: the delta has other columns than the table, given={given:?} wanted={wanted:?}"
        )));
    }
    if rows.num_rows() == 0 {
        return Ok(());
    }
    let columns = elements(&table.columns, rows)?;
    if let Some(sessions) = &table.sessions {
        sessions.merge(session, doing, &columns, rows.num_rows()).await?;
        return match way {
            Way::Arrays => sessions.empty(session, doing).await,
            Way::CopyAbove(_) => Ok(()),
        };
    }
    if !way.copies(rows.num_rows()) {
        return send(session, doing, &table.merge_arrays, &columns, rows.num_rows()).await;
    }
    // The staging table is read in the order in which COPY wrote it (temporary tables take no
    // part in synchronized scans), so keys stay sorted without an ORDER BY.
    if let Some(staging) = &table.staging {
        session.batch(doing, &staging.create).await?;
    }
    session.copy(doing, &table.copy, &columns, rows.num_rows()).await?;
    match &table.staging {
        Some(staging) => session.execute(doing, &staging.merge, &[]).await.map(drop),
        None => Ok(()),
    }
}

/// Stores values, and adds to the counts what was new (W-7). Their rows are locked already, by the
/// upsert before: nobody else can be storing values of the same keys.
async fn add_values(
    session: &Session,
    doing: &str,
    sets: &Sets,
    values: &[RecordBatch],
    way: Way,
) -> Result<()> {
    if values.len() != sets.all.len() {
        let (given, wanted) = (values.len(), sets.all.len());
        return Err(Error::halt(format!("{doing}: {given} sets of values for {wanted} tables")));
    }
    let most = values.iter().map(RecordBatch::num_rows).max().unwrap_or(0);
    if most == 0 {
        return Ok(());
    }
    let columns = sets.all.iter().zip(values).map(|(set, rows)| elements(&set.columns, rows));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    if way.copies(most) {
        for ((set, rows), columns) in sets.all.iter().zip(values).zip(&columns) {
            session.batch(doing, &set.staging).await?;
            session.copy(doing, &set.copy, columns, rows.num_rows()).await?;
        }
        return session.execute(doing, &sets.add_staged, &[]).await.map(drop);
    }
    for from in (0..most).step_by(ARRAY_ROWS) {
        let mut piece = Vec::new();
        for (columns, rows) in columns.iter().zip(values) {
            let end = |at: usize| at.min(rows.num_rows());
            piece.extend(columns.iter().map(|c| c.slice(end(from), end(from + ARRAY_ROWS))));
        }
        session.execute(doing, &sets.add_arrays, &parameters(&piece)).await?;
    }
    Ok(())
}

/// Runs a statement with an array of each column, piece by piece.
pub(super) async fn send(
    session: &Session,
    doing: &str,
    sql: &str,
    columns: &[Elements<'_>],
    rows: usize,
) -> Result<()> {
    for (_, piece) in pieces(columns, rows) {
        session.execute(doing, sql, &parameters(&piece)).await?;
    }
    Ok(())
}

/// Columns of so many rows in pieces of what one statement takes, and where each begins.
pub(super) fn pieces<'e>(
    columns: &'e [Elements<'e>],
    rows: usize,
) -> impl Iterator<Item = (usize, Vec<ArrayParameter<'e>>)> {
    (0..rows).step_by(ARRAY_ROWS).map(move |from| {
        let to = (from + ARRAY_ROWS).min(rows);
        (from, columns.iter().map(|c| c.slice(from, to)).collect())
    })
}

pub(super) fn parameters<'p>(piece: &'p [ArrayParameter<'_>]) -> Vec<Parameter<'p>> {
    piece.iter().map(|array| array as _).collect()
}

pub(super) fn elements<'r>(
    columns: &[(String, PgType)],
    rows: &'r RecordBatch,
) -> Result<Vec<Elements<'r>>> {
    let columns = columns.iter().zip(rows.columns());
    columns.map(|((name, pg), array)| Elements::new(name, array.as_ref(), *pg)).collect()
}
