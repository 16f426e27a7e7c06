//! Sketches of a table: what is stored is read, united with a delta's, and stored again.
//!
//! Owns: which columns those are, the statement that reads them, the delta with both in it. Does not
//! own: how two sketches become one (`compute::sketch`), the lock that makes cuts take turns
//! (`commit`).

use super::{
    keyed::{parameters, same, there},
    tables::{list, quoted},
};
use crate::{
    catalog::{Estimate, Merge, Model, PgType, Role, SketchKind},
    compute::sketch,
    error::{Error, Result},
};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch};
use std::sync::Arc;

#[derive(Debug)]
pub struct Sketches {
    table: String,
    /// With the window.
    pub keys: Vec<(String, PgType)>,
    columns: Vec<(String, SketchKind)>,
    /// Column, sketch's column, what is read.
    estimates: Vec<(String, String, Estimate)>,
}

/// The sketches that are stored, by column and by row of the delta.
pub type Stored = Vec<Vec<Option<Vec<u8>>>>;

impl Sketches {
    pub fn of(model: &Model) -> Option<Self> {
        let columns: Vec<_> = model
            .columns
            .iter()
            .filter_map(|c| match &c.role {
                Role::Part(Merge::Sketch(kind)) => Some((c.name.clone(), *kind)),
                _ => None,
            })
            .collect();
        if columns.is_empty() {
            return None;
        }
        let is_key = |role: &Role| matches!(role, Role::WindowStart | Role::Key);
        let keys = model.columns.iter().filter(|c| is_key(&c.role));
        let estimates = model.columns.iter().filter_map(|c| match &c.role {
            Role::Estimate(sketch, estimate) => Some((c.name.clone(), sketch.clone(), *estimate)),
            _ => None,
        });
        Some(Self {
            table: quoted(&model.name),
            keys: keys.map(|c| (c.name.clone(), c.pg)).collect(),
            estimates: estimates.collect(),
            columns,
        })
    }

    pub fn count(&self) -> usize {
        self.columns.len()
    }

    /// Gives the place of each key that is there, counted from 1, and its sketches. Parameters: arrays
    /// of the keys that are not NULL.
    pub fn read(&self, nulls: &[bool]) -> String {
        let given = there(&self.keys, nulls);
        let names: String = given.iter().map(|(name, _)| format!("{}, ", quoted(name))).collect();
        let keys = match given.is_empty() {
            // All of them are NULL: that is one row.
            true => "(SELECT 1::bigint AS _place) AS g".to_owned(),
            false => {
                format!("unnest({}) WITH ORDINALITY AS g ({names}_place)", parameters(&given))
            }
        };
        let columns = list(&self.columns, |(name, _)| format!("s.{}", quoted(name)));
        // LIMIT makes each row one look into the key's index, however large the table is.
        format!(
            "SELECT g._place, m.* FROM {keys} CROSS JOIN LATERAL (SELECT {columns} FROM {} AS s WHERE {} \
             LIMIT 1) AS m",
            self.table,
            same(&self.keys, nulls, "s", "g")
        )
    }

    /// The delta with what is stored in it.
    pub fn united(&self, rows: &RecordBatch, stored: &Stored) -> Result<RecordBatch> {
        let mut columns = rows.columns().to_vec();
        let place = |name: &str| {
            let place = rows.schema().index_of(name);
            place.map_err(|e| Error::halt("a delta lacks its sketch").because(e))
        };
        for ((name, kind), stored) in self.columns.iter().zip(stored) {
            let at = place(name)?;
            let new: &BinaryArray = columns[at].as_binary();
            let both = stored.iter().enumerate().map(|(row, stored)| {
                let new = new.is_valid(row).then(|| new.value(row));
                match (stored, new) {
                    (Some(a), Some(b)) => sketch::united(*kind, a, b).map(Some),
                    (Some(one), None) => Ok(Some(one.clone())),
                    (None, new) => Ok(new.map(<[u8]>::to_vec)),
                }
            });
            let both = both.collect::<Result<Vec<_>>>()?;
            columns[at] = Arc::new(both.iter().map(|b| b.as_deref()).collect::<BinaryArray>());
        }
        for (name, sketch, estimate) in &self.estimates {
            let estimated: ArrayRef =
                sketch::estimates(columns[place(sketch)?].as_binary(), *estimate)?;
            columns[place(name)?] = estimated;
        }
        RecordBatch::try_new(rows.schema(), columns)
            .map_err(|e| Error::halt("unite sketches").because(e))
    }
}
