//! GROUP BY over a cut: DataFusion's hash tables and accumulators, fed batch by batch.
//!
//! Owns: the groups of the open cut and their partial counts, sums, minima and maxima.
//! Does not own: merging them with stored rows, windows as a notion (`event_time`).

use super::plan::{Input, Plan};
use crate::{
    catalog::{Aggregate, Model, PartFunction, Role, types::timestamp},
    error::{Error, Result},
    event_time::Windows,
};
use arrow::{
    array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray},
    compute::{SortColumn, lexsort_to_indices, take},
    datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType},
};
use datafusion::{
    functions_aggregate::{
        count::count_udaf,
        min_max::{max_udaf, min_udaf},
        sum::sum_udaf,
    },
    logical_expr::{EmitTo, GroupsAccumulator},
    physical_expr::{aggregate::AggregateExprBuilder, expressions::Column},
    physical_plan::{
        PhysicalExpr,
        aggregates::{
            group_values::{GroupValues, new_group_values},
            order::GroupOrdering,
        },
    },
};
use std::sync::Arc;

pub struct Deltas {
    windows: Option<Windows>,
    keys: usize,
    groups: Box<dyn GroupValues>,
    parts: Vec<OpenPart>,
    /// The delta's columns: where each comes from.
    layout: Vec<From>,
    schema: SchemaRef,
    /// Group of each row of the last batch; kept for its memory.
    indexes: Vec<usize>,
}

struct OpenPart {
    accumulator: Box<dyn GroupsAccumulator>,
    has_arg: bool,
    has_filter: bool,
}

/// Where a column of the delta comes from.
#[derive(Clone, Copy)]
enum From {
    WindowStart,
    WindowEnd,
    Key(usize),
    Part(usize),
}

impl Deltas {
    pub fn new(model: &Model, aggregate: &Aggregate, plan: &Plan) -> Result<Self> {
        let refused = |e| Error::config(format!("plan model {}", model.name)).because(e);
        let windows = aggregate.window.as_ref().map(|w| Windows::new(&w.shape));
        let mut keys: Vec<Field> = Vec::new();
        if windows.is_some() {
            keys.push(Field::new("window", timestamp(), false));
        }
        for key in &aggregate.keys {
            keys.push(Field::new(&key.name, key.pg.arrow(), true));
        }
        let groups =
            new_group_values(Arc::new(Schema::new(keys)), &GroupOrdering::None).map_err(refused)?;
        let mut next = aggregate.keys.len();
        let mut parts = Vec::new();
        let mut types = Vec::new();
        for part in &aggregate.parts {
            let (accumulator, result) = match &part.arg {
                Some(_) => accumulator(part.function, plan.type_of(next)?),
                None => accumulator(part.function, DataType::Int64),
            }
            .map_err(refused)?;
            next += usize::from(part.arg.is_some()) + usize::from(part.filter.is_some());
            types.push(result);
            parts.push(OpenPart {
                accumulator,
                has_arg: part.arg.is_some(),
                has_filter: part.filter.is_some(),
            });
        }
        let (layout, fields) = layout(model, aggregate, &types);
        Ok(Self {
            windows,
            keys: aggregate.keys.len(),
            groups,
            parts,
            layout,
            schema: Arc::new(Schema::new(fields)),
            indexes: Vec::new(),
        })
    }

    /// Adds evaluated rows.
    pub fn add(&mut self, input: &Input<'_>) -> Result<()> {
        if input.rows == 0 {
            return Ok(());
        }
        let failed = |e| Error::halt("aggregate a batch").because(e);
        let mut keys = Vec::with_capacity(self.keys + 1);
        if let Some(windows) = &mut self.windows {
            let starts = input.event_times.iter().map(|t| windows.start(t.0));
            let starts = TimestampMicrosecondArray::from_iter_values(starts);
            keys.push(Arc::new(starts.with_timezone("UTC")) as ArrayRef);
        }
        keys.extend_from_slice(&input.columns[..self.keys]);
        self.groups.intern(&keys, &mut self.indexes).map_err(failed)?;
        let groups = self.groups.len();
        let mut next = self.keys;
        for part in &mut self.parts {
            let values: ArrayRef = match part.has_arg {
                true => {
                    next += 1;
                    input.columns[next - 1].clone()
                }
                // count(*): any column without NULLs will do.
                false => input.offsets.clone(),
            };
            let filter = part.has_filter.then(|| {
                next += 1;
                input.columns[next - 1].as_boolean()
            });
            part.accumulator
                .update_batch(&[values], &self.indexes, filter, groups)
                .map_err(failed)?;
        }
        Ok(())
    }

    pub fn memory(&self) -> usize {
        self.groups.size() + self.parts.iter().map(|p| p.accumulator.size()).sum::<usize>()
    }

    /// The cut's delta: one row per group, sorted by key.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        let failed = |e| Error::halt("finish an aggregate").because(e);
        if self.groups.is_empty() {
            return Ok(RecordBatch::new_empty(self.schema.clone()));
        }
        let keys = self.groups.emit(EmitTo::All).map_err(failed)?;
        self.groups.clear_shrink(0);
        let parts = self.parts.iter_mut().map(|p| p.accumulator.evaluate(EmitTo::All));
        let parts = parts.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let sorted = |e| Error::halt("sort a delta by key").because(e);
        let by_key: Vec<_> = keys
            .iter()
            .map(|values| SortColumn { values: values.clone(), options: None })
            .collect();
        let order = lexsort_to_indices(&by_key, None).map_err(sorted)?;
        let in_order = |array: &ArrayRef| take(array, &order, None).map_err(sorted);
        let first_key = usize::from(self.windows.is_some());
        let columns = self.layout.iter().map(|from| match from {
            From::WindowStart => in_order(&keys[0]),
            From::WindowEnd => {
                let starts = in_order(&keys[0])?;
                let starts = starts.as_primitive::<TimestampMicrosecondType>();
                let windows = self.windows.as_mut().expect("a window's end is of a window");
                let ends = starts.values().iter().map(|t| windows.ends(*t).1);
                let ends = TimestampMicrosecondArray::from_iter_values(ends);
                Ok(Arc::new(ends.with_timezone("UTC")) as ArrayRef)
            }
            From::Key(i) => in_order(&keys[first_key + i]),
            From::Part(i) => in_order(&parts[*i]),
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| Error::halt("build a delta").because(e))
    }
}

type Accumulator = (Box<dyn GroupsAccumulator>, DataType);

fn accumulator(
    function: PartFunction,
    arg: DataType,
) -> Result<Accumulator, datafusion::error::DataFusionError> {
    let function = match function {
        PartFunction::Count => count_udaf(),
        PartFunction::Sum => sum_udaf(),
        PartFunction::Min => min_udaf(),
        PartFunction::Max => max_udaf(),
    };
    let schema = Arc::new(Schema::new(vec![Field::new("arg", arg, true)]));
    let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new("arg", 0));
    let expr =
        AggregateExprBuilder::new(function, vec![column]).schema(schema).alias("part").build()?;
    Ok((expr.create_groups_accumulator()?, expr.field().data_type().clone()))
}

fn layout(model: &Model, aggregate: &Aggregate, parts: &[DataType]) -> (Vec<From>, Vec<Field>) {
    let mut layout = Vec::new();
    let mut fields = Vec::new();
    for column in &model.columns {
        let key = || aggregate.keys.iter().position(|k| k.name == column.name);
        let part = || aggregate.parts.iter().position(|p| p.name == column.name);
        let (from, data_type) = match &column.role {
            Role::WindowStart => (Some(From::WindowStart), timestamp()),
            Role::WindowEnd => (Some(From::WindowEnd), timestamp()),
            Role::Key => (key().map(From::Key), column.pg.arrow()),
            Role::Part(_) => match part() {
                Some(i) => (Some(From::Part(i)), parts[i].clone()),
                None => (None, column.pg.arrow()),
            },
            // Computed by PostgreSQL; of row models.
            Role::Derived(_) | Role::Value | Role::Position => continue,
        };
        layout.push(from.expect("catalog gives every key and part its column"));
        fields.push(Field::new(&column.name, data_type, true));
    }
    (layout, fields)
}
