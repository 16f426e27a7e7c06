//! Rows of a table that are found by their key, in the way that an index can find them.
//!
//! Owns: the condition. `IS NOT DISTINCT FROM`, which is what a key means, is found by no index: so
//! rows are sorted by which of their keys are NULL, and each sort has a condition of its own. Does
//! not own: what is done with the rows.

use super::tables::{array_type, quoted};
use crate::{
    catalog::PgType,
    error::{Error, Result},
};
use arrow::{
    array::{Array, RecordBatch, UInt32Array},
    compute::take_record_batch,
};
use std::collections::BTreeMap;

/// Columns of a key, by name and type.
pub type Keys = [(String, PgType)];

/// Rows whose keys are NULL in the same columns.
pub struct Alike {
    /// Of each key, whether it is NULL.
    pub nulls: Vec<bool>,
    /// Indexes in the batch they came from, ascending.
    pub rows: Vec<u32>,
    pub batch: RecordBatch,
}

/// The rows of a delta, sorted by which of these keys are NULL. Most deltas have one sort.
pub fn alike(delta: &RecordBatch, keys: &Keys) -> Result<Vec<Alike>> {
    let columns: Vec<_> = keys
        .iter()
        .map(|(name, _)| delta.column_by_name(name).expect("a delta has its keys"))
        .collect();
    let mut sorts: BTreeMap<Vec<bool>, Vec<u32>> = BTreeMap::new();
    for row in 0..delta.num_rows() {
        let nulls = columns.iter().map(|column| column.is_null(row)).collect();
        sorts.entry(nulls).or_default().push(row as u32);
    }
    let batches = sorts.into_iter().map(|(nulls, rows)| {
        let batch = take_record_batch(delta, &UInt32Array::from(rows.clone()))
            .map_err(|e| Error::halt("sort a delta by its NULLs").because(e))?;
        Ok(Alike { nulls, rows, batch })
    });
    batches.collect()
}

/// The keys that are not NULL: those that travel as parameters.
pub fn there<'k>(keys: &'k Keys, nulls: &[bool]) -> Vec<&'k (String, PgType)> {
    keys.iter().zip(nulls).filter(|(_, null)| !**null).map(|(key, _)| key).collect()
}

/// `$1::text[], $2::date[], …`
pub fn parameters(columns: &[&(String, PgType)]) -> String {
    let columns = columns.iter().enumerate();
    let arrays = columns.map(|(i, (_, pg))| format!("${}::{}[]", i + 1, array_type(*pg)));
    arrays.collect::<Vec<_>>().join(", ")
}

/// Whether a row of the table (by its alias) has the keys of `given`; true where there is none.
pub fn same(keys: &Keys, nulls: &[bool], table: &str, given: &str) -> String {
    let one = |((name, _), null): (&(String, PgType), &bool)| {
        let name = quoted(name);
        match null {
            true => format!("{table}.{name} IS NULL"),
            false => format!("{table}.{name} = {given}.{name}"),
        }
    };
    let all: Vec<String> = keys.iter().zip(nulls).map(one).collect();
    if all.is_empty() { "true".to_owned() } else { all.join(" AND ") }
}
