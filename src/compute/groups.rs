//! Which group each row is of: rows with equal keys are one, NULLs among them; numbered as they first come.
//!
//! Keys are compared in Arrow's row format, as bytes. What PostgreSQL takes for equal is made the same before, for two
//! groups of a delta must not be one row of the table.

use arrow::{
    array::{ArrayRef, AsArray},
    datatypes::{DataType, Float32Type, Float64Type, Schema},
    error::ArrowError,
    row::{RowConverter, Rows, SortField},
};
use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};
use std::{hash::BuildHasher, sync::Arc};

pub struct Groups {
    converter: RowConverter,
    /// The key of each group.
    keys: Rows,
    /// The hash of each group's key, and the group.
    known: HashTable<(u64, usize)>,
    hasher: DefaultHashBuilder,
    /// Keys of a batch, kept for its memory.
    batch: Rows,
}

impl Groups {
    /// # Errors
    /// A type that has no order.
    pub fn new(keys: &Schema) -> Result<Self, ArrowError> {
        let fields = keys.fields().iter().map(|f| SortField::new(f.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let (keys, batch) = (converter.empty_rows(0, 0), converter.empty_rows(0, 0));
        Ok(Self {
            converter,
            keys,
            known: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            batch,
        })
    }

    /// `groups` becomes the group of each row of these columns.
    pub fn intern(
        &mut self,
        columns: &[ArrayRef],
        groups: &mut Vec<usize>,
    ) -> Result<(), ArrowError> {
        self.batch.clear();
        let columns: Vec<_> = columns.iter().map(canonical).collect();
        self.converter.append(&mut self.batch, &columns)?;
        groups.clear();
        groups.reserve(self.batch.num_rows());
        for key in self.batch.iter() {
            let hash = self.hasher.hash_one(key.data());
            let is_it = |(known, group): &(u64, usize)| {
                *known == hash && self.keys.row(*group).data() == key.data()
            };
            let group = match self.known.entry(hash, is_it, |(known, _)| *known) {
                Entry::Occupied(entry) => entry.get().1,
                Entry::Vacant(entry) => {
                    let group = self.keys.num_rows();
                    entry.insert((hash, group));
                    self.keys.push(key);
                    group
                }
            };
            groups.push(group);
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.keys.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn memory(&self) -> usize {
        self.keys.size() + self.batch.size() + self.known.allocation_size()
    }

    /// The keys of all groups in their order; all memory is given back.
    pub fn take(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        let keys = std::mem::replace(&mut self.keys, self.converter.empty_rows(0, 0));
        self.batch = self.converter.empty_rows(0, 0);
        self.known = HashTable::new();
        self.converter.convert_rows(keys.iter())
    }
}

/// With one zero, and one NaN.
fn canonical(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => {
            Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(|value| {
                if value.is_nan() { f32::NAN } else { value + 0.0 }
            }))
        }
        DataType::Float64 => {
            Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(|value| {
                if value.is_nan() { f64::NAN } else { value + 0.0 }
            }))
        }
        _ => column.clone(),
    }
}
