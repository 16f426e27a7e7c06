//! Row models over a cut: rows as they are, or the latest per key.
//!
//! Owns: the rows of the open cut. The latest row of a key is the one with the highest (event
//! time, partition, offset): a total order, so any order of arrival and any cuts agree.

use super::plan::{Input, Plan};
use crate::{
    catalog::{Model, Role, Rows, types::timestamp},
    error::{Error, Result},
};
use arrow::{
    array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array},
    compute::{concat_batches, take_record_batch},
    datatypes::{
        DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType,
    },
    row::{RowConverter, SortField},
};
use std::sync::Arc;

/// Rows of a keyed model that pile up before they are reduced to the latest per key.
pub const REDUCE_AT_ROWS: usize = 65_536;

pub struct LatestRows {
    schema: SchemaRef,
    primary_key: Vec<usize>,
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
        Ok(Self {
            schema: Arc::new(Schema::new(fields)),
            primary_key: rows.primary_key.clone(),
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
        let all = concat_batches(&self.schema, &self.batches).map_err(failed)?;
        let count = all.num_columns();
        let times = all.column(count - 3).as_primitive::<TimestampMicrosecondType>().values();
        let partitions = all.column(count - 2).as_primitive::<Int32Type>().values();
        let offsets = all.column(count - 1).as_primitive::<Int64Type>().values();
        let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
        if self.primary_key.is_empty() {
            order.sort_unstable_by_key(|&i| (partitions[i as usize], offsets[i as usize]));
        } else {
            let keys: Vec<ArrayRef> =
                self.primary_key.iter().map(|i| all.column(*i).clone()).collect();
            let fields = keys.iter().map(|k| SortField::new(k.data_type().clone())).collect();
            let converter = RowConverter::new(fields).map_err(failed)?;
            let keys = converter.convert_columns(&keys).map_err(failed)?;
            let position = |i: u32| {
                let i = i as usize;
                (times[i], partitions[i], offsets[i])
            };
            // Latest first within a key, so that dedup keeps it.
            order.sort_unstable_by(|&a, &b| {
                let by_key = keys.row(a as usize).cmp(&keys.row(b as usize));
                by_key.then_with(|| position(b).cmp(&position(a)))
            });
            order.dedup_by(|b, a| keys.row(*a as usize) == keys.row(*b as usize));
        }
        take_record_batch(&all, &UInt32Array::from(order)).map_err(failed)
    }
}
