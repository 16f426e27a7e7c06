//! The operations of the open cut.
//!
//! Owns: which columns of a change matter, leaving out operations that later ones make superfluous.
//! Does not own: what an operation does (`fold`).

use super::{
    ChangeDelta, Following, Truncate, fold, loads,
    snapshots::{self, Shown},
};
use crate::{
    catalog::{Keeps, Model, Snapshots, Topic},
    compute::runs::{Run, choose},
    decode::Decoded,
    error::{Error, Result},
};
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, StringBuilder,
        TimestampMicrosecondArray, UInt32Array, new_null_array,
    },
    compute::{
        CastOptions, cast_with_options, concat_batches, filter_record_batch, take_record_batch,
    },
    datatypes::{DataType, Field, Schema, SchemaRef},
    row::{RowConverter, SortField},
};
use std::sync::Arc;

/// Operations that pile up before superfluous ones are left out.
const REDUCE_AT_ROWS: usize = 65_536;

/// What changes take at once when their cut ends, as times what they take before: in one piece, their keys
/// as bytes and in order, the rows that they make, and the messages to PostgreSQL.
const TIMES_AT_THE_END: usize = 3;

pub struct OpenChanges {
    following: Arc<Following>,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    truncates: Vec<Truncate>,
    shown: Shown,
    rows: usize,
    memory: usize,
    /// Rows after the last reduction: reducing waits until as many came again.
    reduced: usize,
}

impl OpenChanges {
    pub fn new(topic: &Topic, model: &Arc<Model>) -> Result<Self> {
        let following = Arc::new(Following::new(topic, model)?);
        let schema = ops_schema(&following);
        Ok(Self {
            following,
            schema,
            batches: Vec::new(),
            truncates: Vec::new(),
            shown: Shown::default(),
            rows: 0,
            memory: 0,
            reduced: 0,
        })
    }

    /// Adds the changes of these runs.
    pub(in crate::compute) fn add(&mut self, decoded: &Decoded, runs: &[Run]) -> Result<()> {
        let failed = |e| Error::halt("take the changes of a batch").because(e);
        let (rows, times) = match choose(runs, decoded.rows.num_rows(), &[]) {
            None => (decoded.rows.clone(), decoded.event_times.clone()),
            Some(chosen) => {
                let times = decoded.event_times.iter().zip(&chosen);
                let times = times.filter(|(_, c)| *c == Some(true)).map(|(time, _)| *time);
                let times = times.collect();
                (filter_record_batch(&decoded.rows, &chosen).map_err(failed)?, times)
            }
        };
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let column = |name: &str| {
            let column = rows.column_by_name(name);
            column.cloned().ok_or_else(|| Error::halt(format!("changes have no column {name}")))
        };
        let kept = self.following.folding.columns.iter();
        let mut columns: Vec<ArrayRef> =
            kept.map(|(name, _)| column(name)).collect::<Result<_>>()?;
        let keys = columns[..self.following.folding.keys].to_vec();
        let times = TimestampMicrosecondArray::from_iter_values(times.iter().map(|t| t.0));
        columns.push(Arc::new(times.with_timezone("UTC")));
        for name in ["_source_position", "_partition", "_offset", "_op", "_unchanged"] {
            columns.push(column(name)?);
        }
        let (old, moved) = old_keys(&keys, &self.following, &column("_op")?, &column("_before")?)?;
        columns.extend(old);
        columns.push(Arc::new(moved));
        let marks = column("_snapshot")?;
        let reads = match self.following.folding.snapshots {
            Snapshots::Replace { .. } => snapshots::reads(marks.as_string()),
            Snapshots::Bracketed { .. } => loads::reads(column("_op")?.as_string()),
            Snapshots::Merge => BooleanArray::from(vec![false; marks.len()]),
        };
        columns.push(Arc::new(reads));
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(failed)?;
        let ops = fold::Ops::new(&self.following.folding, &batch);
        self.truncates.extend(snapshots::truncates(&ops));
        if let Snapshots::Replace { .. } = self.following.folding.snapshots {
            self.shown.look(&ops, marks.as_string());
        }
        self.rows += batch.num_rows();
        self.memory += batch.get_array_memory_size();
        self.batches.push(batch);
        if self.rows >= self.reduced * 2 + REDUCE_AT_ROWS {
            let batch = self.reduce()?;
            self.rows = batch.num_rows();
            self.reduced = self.rows;
            self.memory = batch.get_array_memory_size();
            self.batches = vec![batch];
        }
        Ok(())
    }

    /// With what the end of the cut makes of it.
    pub fn memory(&self) -> usize {
        self.memory * TIMES_AT_THE_END
    }

    pub fn finish(&mut self) -> Result<ChangeDelta> {
        let ops = self.reduce()?;
        let truncates = std::mem::take(&mut self.truncates);
        let shown = std::mem::take(&mut self.shown);
        self.clear();
        Ok(ChangeDelta { following: self.following.clone(), ops, truncates, shown })
    }

    pub fn clear(&mut self) {
        self.batches.clear();
        self.truncates.clear();
        self.shown = Shown::default();
        (self.rows, self.memory, self.reduced) = (0, 0, 0);
    }

    /// Without truncates, and without whole images and deletes that the next operation on their row
    /// overrides, whatever is stored.
    fn reduce(&mut self) -> Result<RecordBatch> {
        let failed = |e| Error::halt("reduce the changes of a cut").because(e);
        if self.batches.is_empty() {
            return Ok(RecordBatch::new_empty(self.schema.clone()));
        }
        let batches = std::mem::take(&mut self.batches);
        let all = concat_batches(&self.schema, &batches).map_err(failed)?;
        drop(batches);
        let superfluous = fold::superfluous(&self.following.folding, &all)?;
        let rows = (0..all.num_rows() as u32).filter(|row| !superfluous[*row as usize]);
        let rows = UInt32Array::from_iter_values(rows);
        if rows.len() == all.num_rows() {
            return Ok(all);
        }
        take_record_batch(&all, &rows).map_err(failed)
    }
}

/// The columns of an operation: what is kept of the row, its place, what it is, and the key that the
/// row had before, where that was another, and whether it is a row of a snapshot.
pub(super) fn ops_schema(following: &Following) -> SchemaRef {
    let folding = &following.folding;
    let mut fields: Vec<Field> = following.stored.fields()[..folding.columns.len() + 4]
        .iter()
        .map(|field| Field::clone(field))
        .collect();
    fields.push(Field::new("_op", DataType::Utf8, false));
    fields.push(Field::new("_unchanged", DataType::Utf8, true));
    for (name, pg) in &folding.columns[..folding.keys] {
        fields.push(Field::new(format!("_old_{name}"), pg.arrow(), true));
    }
    fields.push(Field::new("_moved", DataType::Boolean, false));
    fields.push(Field::new("_read", DataType::Boolean, false));
    Arc::new(Schema::new(fields))
}

/// The keys before updates, where any has a before-image, and which updates changed them: it holds the whole key.
fn old_keys(
    keys: &[ArrayRef],
    following: &Following,
    ops: &ArrayRef,
    before: &ArrayRef,
) -> Result<(Vec<ArrayRef>, BooleanArray)> {
    let failed = |e| Error::halt("read the key before a change").because(e);
    let (ops, before) = (ops.as_string::<i32>(), before.as_string::<i32>());
    let images: Vec<Option<serde_json::Value>> = (0..ops.len())
        .map(|row| match before.is_valid(row) && ops.value(row) == "update" {
            true => serde_json::from_str(before.value(row)).ok(),
            false => None,
        })
        .collect();
    if images.iter().all(Option::is_none) {
        let none = keys.iter().map(|key| new_null_array(key.data_type(), ops.len()));
        return Ok((none.collect(), BooleanArray::from(vec![false; ops.len()])));
    }
    let mut old = Vec::new();
    let names = following.folding.columns.iter().map(|(name, _)| name.as_str());
    for (name, now) in names.zip(keys) {
        let mut texts = StringBuilder::new();
        for image in &images {
            texts.append_option(image.as_ref().and_then(|image| match image.get(name)? {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            }));
        }
        let texts = texts.finish();
        old.push(typed(&texts, now.data_type()).map_err(failed)?);
    }
    let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
    let converter = RowConverter::new(fields).map_err(failed)?;
    let (now, was) = (converter.convert_columns(keys), converter.convert_columns(&old));
    let (now, was) = (now.map_err(failed)?, was.map_err(failed)?);
    let moved =
        (0..ops.len()).map(|row| Some(images[row].is_some() && now.row(row) != was.row(row)));
    Ok((old, moved.collect()))
}

/// A key as a before-image tells it.
fn typed(texts: &StringArray, data_type: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    match data_type {
        // Told in hexadecimal.
        DataType::Binary => {
            let bytes = texts.iter().map(|text| {
                let text = text?.as_bytes();
                let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
                let pairs = text.chunks_exact(2);
                pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
            });
            let bytes: Vec<Option<Vec<u8>>> = bytes.collect();
            let bytes = bytes.iter().map(|bytes| bytes.as_deref());
            Ok(Arc::new(bytes.collect::<arrow::array::BinaryArray>()))
        }
        other => cast_with_options(texts, other, &options),
    }
}

/// Whether an operation may be left out before the next one on its row, whatever is stored.
pub(super) fn overrides(keeps: &Keeps, first: &fold::Kind, next: &fold::Kind) -> bool {
    use fold::Kind;
    let settles = |kind: &Kind| matches!(kind, Kind::Whole | Kind::Delete);
    match keeps {
        Keeps::Rows | Keeps::Groups { .. } => settles(first) && settles(next),
        // A deleted row keeps its values, and the time of its first deletion.
        Keeps::Deleted => settles(first) && *next == Kind::Whole,
        Keeps::Versions => false,
    }
}
