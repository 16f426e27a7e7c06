//! The distinct values of each group of a cut.
//!
//! Owns: the set of (group, value). Does not own: which of them are new to the table (`warehouse`).

use super::{groups::Groups, parts::Rows};
use crate::error::{Error, Result};
use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array, UInt64Array},
    compute::{
        SortColumn, and, filter, is_not_null, lexsort_to_indices, prep_null_mask_filter, take,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type},
};
use datafusion_common::DataFusionError;
use std::sync::Arc;

pub struct Distinct {
    pairs: Groups,
    /// Kept for its memory.
    indexes: Vec<usize>,
}

/// Pairs that were taken out, by group.
pub struct Pairs {
    values: ArrayRef,
    /// Indexes of values, those of a group beside each other.
    order: Vec<u32>,
    /// Where those of each group begin in `order`, and where the last end.
    starts: Vec<u32>,
}

/// Pairs that go into other groups at a time.
const MERGED_PAIRS: usize = 65_536;

impl Distinct {
    pub fn new(args: &[DataType]) -> Result<Self, DataFusionError> {
        let pair = Schema::new(vec![
            Field::new("group", DataType::UInt64, false),
            Field::new("value", args[0].clone(), false),
        ]);
        let pairs = Groups::new(&pair)?;
        Ok(Self { pairs, indexes: Vec::new() })
    }

    pub fn add(&mut self, rows: &Rows<'_>) -> Result<(), DataFusionError> {
        let values = &rows.args[0];
        let groups = UInt64Array::from_iter_values(rows.groups.iter().map(|g| *g as u64));
        let mut pair: [ArrayRef; 2] = [Arc::new(groups), values.clone()];
        let mut mask: Option<BooleanArray> = rows.filter.map(|filter| match filter.null_count() {
            0 => filter.clone(),
            _ => prep_null_mask_filter(filter),
        });
        if values.null_count() > 0 {
            let there = is_not_null(values)?;
            mask = Some(match mask {
                Some(mask) => and(&mask, &there)?,
                None => there,
            });
        }
        if let Some(mask) = mask {
            pair = [filter(&pair[0], &mask)?, filter(&pair[1], &mask)?];
        }
        if pair[0].is_empty() {
            return Ok(());
        }
        Ok(self.pairs.intern(&pair, &mut self.indexes)?)
    }

    /// Takes out the pairs.
    pub fn take(&mut self) -> Result<Pairs, DataFusionError> {
        let pairs = self.pairs.take()?;
        let groups = pairs[0].as_primitive::<UInt64Type>().values();
        let count = groups.iter().max().map_or(0, |most| *most as usize + 1);
        let mut starts = vec![0u32; count + 1];
        for group in groups {
            starts[*group as usize + 1] += 1;
        }
        for group in 0..count {
            starts[group + 1] += starts[group];
        }
        let mut free = starts.clone();
        let mut order = vec![0u32; groups.len()];
        for (index, group) in groups.iter().enumerate() {
            let place = &mut free[*group as usize];
            order[*place as usize] = index as u32;
            *place += 1;
        }
        Ok(Pairs { values: pairs[1].clone(), order, starts })
    }

    /// Each value of these groups is one of the groups `targets`.
    pub fn merge(
        &mut self,
        held: &Pairs,
        sources: &[u32],
        targets: &[usize],
    ) -> Result<(), DataFusionError> {
        let (mut groups, mut values): (Vec<u64>, Vec<u32>) = (Vec::new(), Vec::new());
        for (source, target) in sources.iter().zip(targets) {
            let source = *source as usize;
            // The last groups may have had no value.
            let Some(end) = held.starts.get(source + 1) else { continue };
            values.extend(&held.order[held.starts[source] as usize..*end as usize]);
            groups.resize(values.len(), *target as u64);
            if values.len() >= MERGED_PAIRS {
                self.intern(held, &mut groups, &mut values)?;
            }
        }
        self.intern(held, &mut groups, &mut values)
    }

    fn intern(
        &mut self,
        held: &Pairs,
        groups: &mut Vec<u64>,
        values: &mut Vec<u32>,
    ) -> Result<(), DataFusionError> {
        if values.is_empty() {
            return Ok(());
        }
        let values = take(&held.values, &UInt32Array::from(std::mem::take(values)), None)?;
        let groups: ArrayRef = Arc::new(UInt64Array::from(std::mem::take(groups)));
        Ok(self.pairs.intern(&[groups, values], &mut self.indexes)?)
    }

    pub fn memory(&self) -> usize {
        self.pairs.memory()
    }

    /// Keys and value of each pair, sorted; `keys` are those of the delta's rows, `order` is the
    /// group of each of them.
    pub fn finish(&mut self, keys: &[ArrayRef], order: &UInt32Array) -> Result<RecordBatch> {
        let failed = |e| Error::halt("finish distinct values").because(e);
        let sorted = |e| Error::halt("sort distinct values").because(e);
        let pairs = self.pairs.take().map_err(failed)?;
        let mut row_of = vec![0u32; order.len()];
        for (row, group) in order.values().iter().enumerate() {
            row_of[*group as usize] = row as u32;
        }
        let groups = pairs[0].as_primitive::<UInt64Type>().values();
        let rows = UInt32Array::from_iter_values(groups.iter().map(|g| row_of[*g as usize]));
        let rows: ArrayRef = Arc::new(rows);
        let by =
            [&rows, &pairs[1]].map(|values| SortColumn { values: values.clone(), options: None });
        let sequence = lexsort_to_indices(&by, None).map_err(sorted)?;
        let rows = take(&rows, &sequence, None).map_err(sorted)?;
        let mut columns = Vec::with_capacity(keys.len() + 1);
        for key in keys {
            columns.push(take(key, &rows, None).map_err(sorted)?);
        }
        columns.push(take(&pairs[1], &sequence, None).map_err(sorted)?);
        RecordBatch::try_new(schema(&columns), columns).map_err(sorted)
    }
}

/// Keys without their names, which the table knows, then the value.
fn schema(columns: &[ArrayRef]) -> SchemaRef {
    let last = columns.len() - 1;
    let field = |(i, column): (usize, &ArrayRef)| {
        let name = if i == last { "value".to_owned() } else { format!("key_{i}") };
        Field::new(name, column.data_type().clone(), true)
    };
    Arc::new(Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>()))
}
