//! Row models over a cut: rows as they are, or the latest per key.
//!
//! Owns: the rows of the open cut. The latest row of a key is the one with the highest (event
//! time, partition, offset): a total order over records, so any order of arrival and any cuts agree. Rows
//! of one record come together, in their order: of two at the same time the one behind is the later.

use super::{
    groups::Groups,
    plan::{Input, Plan},
};
use crate::{
    catalog::{INDEX, Model, Role, Rows, types::timestamp},
    error::{Error, Result},
};
use arrow::{
    array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray},
    compute::{
        SortColumn, concat_batches, interleave_record_batch, lexsort_to_indices, take_record_batch,
    },
    datatypes::{
        DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType,
    },
    error::ArrowError,
};
use std::sync::Arc;

/// Rows of a keyed model that pile up before they are reduced to the latest per key.
pub const REDUCE_AT_ROWS: usize = 65_536;

pub struct LatestRows {
    schema: SchemaRef,
    primary_key: Vec<usize>,
    indexed: bool,
    batches: Vec<RecordBatch>,
    rows: usize,
    memory: usize,
    /// Rows after the last reduction: reducing waits until as many came again.
    reduced: usize,
}

impl LatestRows {
    pub fn new(model: &Model, rows: &Rows, plan: &Plan) -> Result<Self> {
        let mut fields = Vec::new();
        let values = model.columns.iter().filter(|c| c.role != Role::Position);
        for (index, column) in values.enumerate() {
            fields.push(Field::new(&column.name, plan.type_of(index)?, true));
        }
        fields.push(Field::new("_event_time", timestamp(), false));
        fields.push(Field::new("_partition", DataType::Int32, false));
        fields.push(Field::new("_offset", DataType::Int64, false));
        // Rows of one record, which only a place within it tells apart.
        let indexed = model.columns.iter().any(|column| column.name == INDEX);
        if indexed {
            fields.push(Field::new(INDEX, DataType::Int32, false));
        }
        Ok(Self {
            schema: Arc::new(Schema::new(fields)),
            primary_key: rows.primary_key.clone(),
            indexed,
            batches: Vec::new(),
            rows: 0,
            memory: 0,
            reduced: 0,
        })
    }

    pub fn add(&mut self, input: &Input<'_>) -> Result<()> {
        if input.rows == 0 {
            return Ok(());
        }
        let times = input.event_times.iter().map(|t| t.0);
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
        let mut columns = input.columns.clone();
        columns.push(Arc::new(times) as ArrayRef);
        columns.push(input.partitions.clone());
        columns.push(input.offsets.clone());
        if self.indexed {
            columns.push(input.indexes.clone().expect("the topic's rows have their places"));
        }
        let batch = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| Error::halt("build rows of a model").because(e))?;
        self.rows += batch.num_rows();
        self.memory += batch.get_array_memory_size();
        self.batches.push(batch);
        if !self.primary_key.is_empty() && self.rows >= self.reduced * 2 + REDUCE_AT_ROWS {
            let latest = self.reduce()?;
            self.rows = latest.num_rows();
            self.reduced = self.rows;
            self.memory = latest.get_array_memory_size();
            self.batches = vec![latest];
        }
        Ok(())
    }

    pub fn memory(&self) -> usize {
        self.memory
    }

    /// The cut's rows, sorted by key (or by partition and offset).
    pub fn finish(&mut self) -> Result<RecordBatch> {
        let rows = self.reduce()?;
        self.batches.clear();
        self.rows = 0;
        self.memory = 0;
        self.reduced = 0;
        Ok(rows)
    }

    fn reduce(&self) -> Result<RecordBatch> {
        let failed = |e| Error::halt("reduce rows of a model").because(e);
        if self.batches.is_empty() {
            return Ok(RecordBatch::new_empty(self.schema.clone()));
        }
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let (rows, keys) = match self.primary_key.is_empty() {
            true => (concat_batches(&self.schema, batches).map_err(failed)?, self.place()),
            false => {
                let latest = self.latest()?;
                let rows = interleave_record_batch(&batches, &latest).map_err(failed)?;
                (rows, self.primary_key.clone())
            }
        };
        let key = |i: usize| SortColumn { values: rows.column(i).clone(), options: None };
        let keys: Vec<_> = keys.into_iter().map(key).collect();
        let order = lexsort_to_indices(&keys, None).map_err(failed)?;
        take_record_batch(&rows, &order).map_err(failed)
    }

    /// `_partition` and `_offset`, and `_index` where it is there.
    fn place(&self) -> Vec<usize> {
        let count = self.schema.fields().len();
        (count - 2 - usize::from(self.indexed)..count).collect()
    }

    /// Batch and row of the latest row of each key.
    fn latest(&self) -> Result<Vec<(usize, usize)>> {
        let failed = |e: ArrowError| Error::halt("find the latest rows of a model").because(e);
        let keys = self.schema.project(&self.primary_key).map_err(failed)?;
        let mut groups = Groups::new(&keys).map_err(failed)?;
        let positions: Vec<_> = self.batches.iter().map(Positions::of).collect();
        let mut latest: Vec<Option<(usize, usize)>> = Vec::new();
        let mut indexes = Vec::new();
        for (batch, rows) in self.batches.iter().enumerate() {
            let keys: Vec<_> = self.primary_key.iter().map(|i| rows.column(*i).clone()).collect();
            groups.intern(&keys, &mut indexes).map_err(failed)?;
            latest.resize(groups.len(), None);
            for (row, group) in indexes.iter().enumerate() {
                let known = &mut latest[*group];
                let newer =
                    |(b, r): (usize, usize)| positions[batch].get(row) >= positions[b].get(r);
                if known.is_none_or(newer) {
                    *known = Some((batch, row));
                }
            }
        }
        Ok(latest.into_iter().flatten().collect())
    }
}

/// Event time, partition and offset of each row of a batch.
struct Positions<'b>(&'b [i64], &'b [i32], &'b [i64]);

impl<'b> Positions<'b> {
    fn of(batch: &'b RecordBatch) -> Self {
        let column = |from_end| batch.column(batch.num_columns() - from_end);
        Self(
            column(3).as_primitive::<TimestampMicrosecondType>().values(),
            column(2).as_primitive::<Int32Type>().values(),
            column(1).as_primitive::<Int64Type>().values(),
        )
    }

    fn get(&self, row: usize) -> (i64, i32, i64) {
        (self.0[row], self.1[row], self.2[row])
    }
}
