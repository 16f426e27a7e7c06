//! What a fold changes in the model's table: the model's SELECT over rows as they are afterwards.
//!
//! Owns: the columns that are stored of a row, expressions over them, what an aggregate adds and takes
//! back. Does not own: the fold, statements.

use super::{
    Truncate,
    fold::{Folded, Places, chosen, removes},
};
use crate::{
    catalog::{
        Folding, Keeps, Model, ModelKind, Topic,
        folding::{DELETED_AT, VALID_FROM, VALID_TO},
        types::timestamp,
    },
    compute::{
        aggregate::Deltas,
        plan::{Input, Plan},
    },
    error::{Error, Result},
    record::EventTime,
};
use arrow::{
    array::{
        ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray, UInt32Array,
    },
    compute::{filter_record_batch, take, take_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use std::sync::Arc;

/// A model over changes, ready to follow the source.
pub struct Following {
    pub(super) folding: Folding,
    model: Arc<Model>,
    plan: Plan,
    /// What is stored of a row, but for `_failed`: key, other columns, `_event_time`,
    /// `_source_position`, `_partition`, `_offset`, `_deleted`, `_image`.
    pub(super) stored: SchemaRef,
}

/// What a cut changes.
#[derive(Debug)]
pub struct Outcome {
    /// Rows as they are stored from now on, with the reason why one is left out, `_failed`.
    pub rows: RecordBatch,
    /// Of those, which were not stored.
    pub new: BooleanArray,
    pub table: Changed,
    /// Updates that found no row, and inserts that brought not all of one.
    pub orphans: u64,
    /// Changes that were not later than what was stored of their row.
    pub old: u64,
    /// Rows on which an expression fails.
    pub failed: u64,
}

/// What becomes of the model's table.
#[derive(Debug)]
pub enum Changed {
    /// Rows that are there from now on, and keys of those that are not.
    Rows { there: RecordBatch, gone: RecordBatch },
    /// New versions; those that hold no longer: `_partition`, `_offset`, `valid_to`.
    Versions { new: RecordBatch, closed: RecordBatch },
    /// Per group what rows add, and what they had added before.
    Groups { added: RecordBatch, taken_back: RecordBatch },
}

/// Evaluated rows of a batch.
struct Evaluated<'i> {
    input: Input<'i>,
    failures: Vec<(usize, String)>,
}

fn failed(e: arrow::error::ArrowError) -> Error {
    Error::halt("follow the changes of a cut").because(e)
}

impl Following {
    pub fn new(topic: &Topic, model: &Arc<Model>) -> Result<Self> {
        let folding = model.folding.clone().ok_or_else(|| {
            Error::halt(format!("a model follows no changes, model={}", model.name))
        })?;
        let mut fields: Vec<Field> =
            folding.columns.iter().map(|(name, pg)| Field::new(name, pg.arrow(), true)).collect();
        fields.push(Field::new("_event_time", timestamp(), false));
        fields.push(Field::new("_source_position", DataType::Utf8, false));
        fields.push(Field::new("_partition", DataType::Int32, false));
        fields.push(Field::new("_offset", DataType::Int64, false));
        fields.push(Field::new("_deleted", DataType::Boolean, false));
        fields.push(Field::new("_image", DataType::Boolean, false));
        let plan = Plan::new(topic, model)?;
        let stored = Arc::new(Schema::new(fields));
        Ok(Self { folding, model: model.clone(), plan, stored })
    }

    /// What follows from a fold. `stored` is what it was given.
    pub(super) fn outcome(
        &self,
        folded: Folded,
        stored: &RecordBatch,
        truncates: &[Truncate],
    ) -> Result<Outcome> {
        let places = Places::new(&self.folding, &folded.rows);
        let flag = |i: usize| folded.rows.column(self.folding.columns.len() + 4 + i).as_boolean();
        let (deleted, image) = (flag(0), flag(1));
        let order = self.folding.order;
        let removed = |row: usize| {
            let removed = truncates.iter().filter(|t| removes(order, t, places.at(row)));
            removed.map(|truncate| truncate.time).min()
        };
        let own = |row: usize| deleted.value(row).then(|| places.time(row));
        let gone_at = |row: usize| removed(row).into_iter().chain(own(row)).min();
        let rows = folded.rows.num_rows();
        let shown: BooleanArray = (0..rows)
            .map(|row| match self.folding.keeps {
                Keeps::Deleted => image.value(row),
                Keeps::Rows | Keeps::Groups { .. } | Keeps::Versions => {
                    image.value(row) && gone_at(row).is_none()
                }
            })
            .map(Some)
            .collect();
        let there = self.evaluate(&folded.rows, &shown)?;
        let mut why: Vec<Option<&str>> = vec![None; rows];
        there.failures.iter().for_each(|(row, reason)| why[*row] = Some(reason.as_str()));
        let table = match &self.folding.keeps {
            Keeps::Rows => self.rows(&there, &folded.rows, Vec::new())?,
            Keeps::Deleted => {
                let origins = (0..there.input.rows).map(|row| there.input.origin_of(row));
                let times: TimestampMicrosecondArray = origins.map(gone_at).collect();
                let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
                self.rows(&there, &folded.rows, vec![(DELETED_AT, times)])?
            }
            Keeps::Versions => self.versions(&folded)?,
            Keeps::Groups { .. } => {
                let before = chosen(stored, &folded.before)?;
                let taken_back = self.added_by(&before)?;
                Changed::Groups { added: self.grouped(&there.input)?, taken_back }
            }
        };
        let mut fields = folded.rows.schema().fields().to_vec();
        fields.push(Arc::new(Field::new("_failed", DataType::Utf8, true)));
        let mut columns = folded.rows.columns().to_vec();
        columns.push(Arc::new(StringArray::from(why)));
        let failures = there.failures.len() as u64;
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(failed)?;
        let Folded { new, orphans, old, .. } = folded;
        Ok(Outcome { rows, new, table, orphans, old, failed: failures })
    }

    /// What stored rows add to the groups; those that are deleted add nothing.
    pub(super) fn added_by(&self, stored: &RecordBatch) -> Result<RecordBatch> {
        let flag = |i: usize| stored.column(self.folding.columns.len() + 4 + i).as_boolean();
        let (deleted, image) = (flag(0), flag(1));
        let shown: BooleanArray = (0..stored.num_rows())
            .map(|row| Some(image.value(row) && !deleted.value(row)))
            .collect();
        self.grouped(&self.evaluate(stored, &shown)?.input)
    }

    fn grouped(&self, input: &Input<'_>) -> Result<RecordBatch> {
        let ModelKind::Aggregate(aggregate) = &self.model.kind else {
            return Err(Error::halt("groups are of an aggregate"));
        };
        let mut deltas = Deltas::new(&self.model, aggregate, &self.plan)?;
        deltas.add(input, &[])?;
        Ok(deltas.finish()?.rows)
    }

    /// The model's expressions over these of the rows.
    fn evaluate(&self, rows: &RecordBatch, shown: &BooleanArray) -> Result<Evaluated<'static>> {
        let places = Places::new(&self.folding, rows);
        let column = |name: &str| {
            let column = rows.column_by_name(name);
            column.cloned().ok_or_else(|| Error::halt(format!("a row is stored without {name}")))
        };
        let names = self.plan.names();
        let columns = names.map(&column).collect::<Result<Vec<_>>>()?;
        let times = (0..rows.num_rows()).map(|row| EventTime(places.time(row))).collect();
        let input = Input::of(columns, times, column("_partition")?, column("_offset")?);
        let (input, mut failures) = self.plan.filter(input.keep(shown)?)?;
        let (input, more) = self.plan.evaluate(input)?;
        failures.extend(more);
        Ok(Evaluated { input, failures })
    }

    /// The evaluated rows as the model's table has them, with more columns before those of the place.
    fn rows(
        &self,
        there: &Evaluated<'_>,
        rows: &RecordBatch,
        more: Vec<(&str, ArrayRef)>,
    ) -> Result<Changed> {
        let origins = (0..there.input.rows).map(|row| there.input.origin_of(row) as u32);
        let origins = UInt32Array::from_iter_values(origins);
        let mut gone = vec![true; rows.num_rows()];
        origins.values().iter().for_each(|row| gone[*row as usize] = false);
        let gone = filter_record_batch(rows, &BooleanArray::from(gone)).map_err(failed)?;
        let ModelKind::Rows(model) = &self.model.kind else {
            return Err(Error::halt("rows are of a model of rows"));
        };
        let names = model.primary_key.iter().map(|place| self.model.columns[*place].name.as_str());
        let keys = names.zip(gone.columns()).map(|(name, key)| (name, key.clone(), true));
        let gone = RecordBatch::try_from_iter_with_nullable(keys).map_err(failed)?;
        Ok(Changed::Rows { there: self.table_rows(there, rows, &origins, more)?, gone })
    }

    fn versions(&self, folded: &Folded) -> Result<Changed> {
        let all = BooleanArray::from(vec![true; folded.versions.num_rows()]);
        let there = self.evaluate(&folded.versions, &all)?;
        let origins = (0..there.input.rows).map(|row| there.input.origin_of(row) as u32);
        let origins = UInt32Array::from_iter_values(origins);
        let until: TimestampMicrosecondArray = folded.until.iter().copied().collect();
        let until = take(&until.with_timezone("UTC"), &origins, None).map_err(failed)?;
        let new = self.table_rows(&there, &folded.versions, &origins, vec![(VALID_TO, until)])?;
        let closed = || folded.closed.iter();
        let ends = TimestampMicrosecondArray::from_iter_values(closed().map(|c| c.2));
        let columns: [(&str, ArrayRef); 3] = [
            ("_partition", Arc::new(Int32Array::from_iter_values(closed().map(|c| c.0)))),
            ("_offset", Arc::new(Int64Array::from_iter_values(closed().map(|c| c.1)))),
            (VALID_TO, Arc::new(ends.with_timezone("UTC"))),
        ];
        let closed = RecordBatch::try_from_iter(columns).map_err(failed)?;
        Ok(Changed::Versions { new, closed })
    }

    /// The columns of the model's table, in its order.
    fn table_rows(
        &self,
        there: &Evaluated<'_>,
        rows: &RecordBatch,
        origins: &UInt32Array,
        more: Vec<(&str, ArrayRef)>,
    ) -> Result<RecordBatch> {
        let rows = take_record_batch(rows, origins).map_err(failed)?;
        let mut values = there.input.columns.iter();
        let columns = self.model.columns.iter().map(|column| {
            let name = column.name.as_str();
            let beside = more.iter().find(|(n, _)| *n == name).map(|(_, array)| array.clone());
            let array = match name {
                VALID_FROM if self.folding.keeps == Keeps::Versions => {
                    rows.column_by_name("_event_time").cloned()
                }
                _ if name.starts_with('_') => beside.or_else(|| rows.column_by_name(name).cloned()),
                _ => beside.or_else(|| values.next().cloned()),
            };
            let array = array.ok_or_else(|| Error::halt(format!("nothing gives {name}")))?;
            Ok((name, array, true))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        RecordBatch::try_from_iter_with_nullable(columns).map_err(failed)
    }
}
