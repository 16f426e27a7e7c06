//! GROUP BY over a cut: DataFusion's hash tables, and an accumulator per part, fed batch by batch.
//!
//! Owns: the groups of the open cut, the delta's columns, the parts that DataFusion counts.
//! Does not own: the others (`picked`, `distinct`, `sketch`), merging deltas with stored rows, windows as a
//! notion (`event_time`).

use super::{
    Delta,
    distinct::Distinct,
    picked::Picked,
    plan::{Input, Plan},
    sketch::{self, Sketches},
};
use crate::{
    catalog::{Aggregate, Estimate, Model, Part, PartFunction, Role, types::timestamp},
    error::{Error, Result},
    event_time::window_starts,
};
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch,
        TimestampMicrosecondArray,
    },
    compute::{SortColumn, cast, lexsort_to_indices, take},
    datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, TimestampMicrosecondType},
};
use datafusion::{
    error::DataFusionError,
    functions_aggregate::{
        bool_and_or::{bool_and_udaf, bool_or_udaf},
        count::count_udaf,
        min_max::{max_udaf, min_udaf},
        sum::sum_udaf,
        variance::var_samp_udaf,
    },
    logical_expr::{AggregateUDF, EmitTo, GroupsAccumulator},
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
    window_us: Option<i64>,
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
    open: Open,
    args: usize,
    has_filter: bool,
}

/// What a part has of the open cut.
enum Open {
    /// One value per group, by DataFusion.
    Value(Box<dyn GroupsAccumulator>),
    /// Count, mean and squared differences: the state of DataFusion's variance.
    Moments(Box<dyn GroupsAccumulator>),
    Picked(Picked),
    /// The set for this column.
    Distinct(Distinct),
    Sketches(Sketches),
}

/// The rows of a batch, as one part sees them.
pub struct Rows<'r> {
    /// The part's arguments, of equal length.
    pub args: &'r [ArrayRef],
    pub filter: Option<&'r BooleanArray>,
    /// Of each row.
    pub groups: &'r [usize],
    /// How many groups there are.
    pub count: usize,
    /// For event times and places.
    pub input: &'r Input<'r>,
}

impl Rows<'_> {
    /// Rows whose filter is true.
    pub fn kept(&self) -> impl Iterator<Item = usize> {
        let kept = |row: &usize| self.filter.is_none_or(|f| f.is_valid(*row) && f.value(*row));
        (0..self.groups.len()).filter(kept)
    }
}

/// Where a column of the delta comes from.
#[derive(Clone, Copy)]
enum From {
    WindowStart,
    WindowEnd,
    Key(usize),
    /// A part and a column of it.
    Part(usize, usize),
    /// Read off a part that is a sketch.
    Estimate(usize, Estimate),
}

impl Deltas {
    pub fn new(model: &Model, aggregate: &Aggregate, plan: &Plan) -> Result<Self> {
        let refused = |e| Error::config(format!("plan model {}", model.name)).because(e);
        let window = aggregate.window.as_ref().map(|w| w.size.as_micros() as i64);
        let mut keys: Vec<Field> = Vec::new();
        if window.is_some() {
            keys.push(Field::new("window", timestamp(), false));
        }
        for key in &aggregate.keys {
            keys.push(Field::new(&key.name, key.pg.arrow(), true));
        }
        let groups =
            new_group_values(Arc::new(Schema::new(keys)), &GroupOrdering::None).map_err(refused)?;
        let mut next = aggregate.keys.len();
        let mut parts = Vec::new();
        for part in &aggregate.parts {
            let args = (next..next + part.args.len()).map(|i| plan.type_of(i));
            let open = Open::new(part, args.collect::<Result<_>>()?).map_err(refused)?;
            next += part.args.len() + usize::from(part.filter.is_some());
            parts.push(OpenPart { open, args: part.args.len(), has_filter: part.filter.is_some() });
        }
        let (layout, fields) = layout(model, aggregate);
        Ok(Self {
            window_us: window,
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
        if let Some(size) = self.window_us {
            let starts = TimestampMicrosecondArray::from(window_starts(&input.event_times, size));
            keys.push(Arc::new(starts.with_timezone("UTC")) as ArrayRef);
        }
        keys.extend_from_slice(&input.columns[..self.keys]);
        self.groups.intern(&keys, &mut self.indexes).map_err(failed)?;
        let groups = self.groups.len();
        let mut next = self.keys;
        for part in &mut self.parts {
            let mut args = &input.columns[next..next + part.args];
            if args.is_empty() {
                // count(*): any column without NULLs will do.
                args = std::slice::from_ref(&input.offsets);
            }
            next += part.args;
            let filter = part.has_filter.then(|| {
                next += 1;
                input.columns[next - 1].as_boolean()
            });
            let rows = Rows { args, filter, groups: &self.indexes, count: groups, input };
            part.open.add(&rows).map_err(failed)?;
        }
        Ok(())
    }

    pub fn memory(&self) -> usize {
        self.groups.size() + self.parts.iter().map(|p| p.open.memory()).sum::<usize>()
    }

    /// The cut's delta: one row per group, sorted by key.
    pub fn finish(&mut self) -> Result<Delta> {
        let failed = |e| Error::halt("finish an aggregate").because(e);
        if self.groups.is_empty() {
            return Ok(Delta::of(RecordBatch::new_empty(self.schema.clone())));
        }
        let count = self.groups.len();
        let keys = self.groups.emit(EmitTo::All).map_err(failed)?;
        self.groups.clear_shrink(0);
        let sorted = |e| Error::halt("sort a delta by key").because(e);
        let by_key: Vec<_> = keys
            .iter()
            .map(|values| SortColumn { values: values.clone(), options: None })
            .collect();
        let order = lexsort_to_indices(&by_key, None).map_err(sorted)?;
        let in_order = |array: &ArrayRef| take(array, &order, None).map_err(sorted);
        let keys = keys.iter().map(in_order).collect::<Result<Vec<_>>>()?;
        let parts = self.parts.iter_mut().map(|p| p.open.finish(count));
        let parts = parts.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let first_key = usize::from(self.window_us.is_some());
        let columns = self.layout.iter().map(|from| match from {
            From::WindowStart => Ok(keys[0].clone()),
            From::WindowEnd => {
                let size = self.window_us.unwrap_or_default();
                let ends = keys[0]
                    .as_primitive::<TimestampMicrosecondType>()
                    .unary(|t| t.saturating_add(size));
                let ends: TimestampMicrosecondArray = ends;
                Ok(Arc::new(ends.with_timezone("UTC")) as ArrayRef)
            }
            From::Key(i) => Ok(keys[first_key + i].clone()),
            From::Part(part, column) => in_order(&parts[*part][*column]),
            From::Estimate(part, estimate) => {
                in_order(&sketch::estimates(parts[*part][0].as_binary(), *estimate)?)
            }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let rows = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| Error::halt("build a delta").because(e))?;
        let mut sets = Vec::new();
        for part in &mut self.parts {
            if let Open::Distinct(distinct) = &mut part.open {
                sets.push(distinct.finish(&keys, &order)?);
            }
        }
        Ok(Delta { rows, sets })
    }
}

impl Open {
    fn new(part: &Part, args: Vec<DataType>) -> Result<Self, DataFusionError> {
        let value = |function| Ok(Self::Value(accumulator(function, args.first())?));
        match part.function {
            PartFunction::Count => value(count_udaf()),
            PartFunction::Sum => value(sum_udaf()),
            PartFunction::Min => value(min_udaf()),
            PartFunction::Max => value(max_udaf()),
            PartFunction::And => value(bool_and_udaf()),
            PartFunction::Or => value(bool_or_udaf()),
            PartFunction::Moments => Ok(Self::Moments(accumulator(var_samp_udaf(), args.first())?)),
            PartFunction::Pick(pick) => Ok(Self::Picked(Picked::new(pick, &args)?)),
            PartFunction::CountDistinct(_) => Ok(Self::Distinct(Distinct::new(&args)?)),
            PartFunction::Sketch(kind) => Ok(Self::Sketches(Sketches::new(kind))),
        }
    }

    fn add(&mut self, rows: &Rows<'_>) -> Result<(), DataFusionError> {
        match self {
            Self::Value(accumulator) | Self::Moments(accumulator) => {
                accumulator.update_batch(rows.args, rows.groups, rows.filter, rows.count)
            }
            Self::Picked(picked) => picked.add(rows),
            Self::Distinct(distinct) => distinct.add(rows),
            Self::Sketches(sketches) => sketches.add(rows),
        }
    }

    /// The part's columns, a value per group; nothing of the cut is left, but for a set's values.
    fn finish(&mut self, count: usize) -> Result<Vec<ArrayRef>, DataFusionError> {
        match self {
            Self::Value(accumulator) => Ok(vec![accumulator.evaluate(EmitTo::All)?]),
            Self::Moments(accumulator) => moments(&accumulator.state(EmitTo::All)?),
            Self::Picked(picked) => picked.finish(count),
            Self::Sketches(sketches) => Ok(vec![sketches.finish(count)]),
            // What is new is known where the values are.
            Self::Distinct(_) => Ok(vec![Arc::new(Int64Array::from(vec![0; count]))]),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Value(accumulator) | Self::Moments(accumulator) => accumulator.size(),
            Self::Picked(picked) => picked.memory(),
            Self::Distinct(distinct) => distinct.memory(),
            Self::Sketches(sketches) => sketches.memory(),
        }
    }
}

/// Within these bounds neither PostgreSQL's arithmetic of doubles nor ours leaves their range when
/// two rows merge: it would fail there, where IEEE 754 has infinity.
const MEAN_MAX: f64 = 1e140;
const SQUARES: std::ops::RangeInclusive<f64> = 1e-280..=1e290;

fn moments(state: &[ArrayRef]) -> Result<Vec<ArrayRef>, DataFusionError> {
    let counts = cast(&state[0], &DataType::Int64)?;
    let means = state[1].as_primitive::<Float64Type>().values();
    let squares = state[2].as_primitive::<Float64Type>().values();
    let (means, squares): (Vec<f64>, Vec<f64>) = means
        .iter()
        .zip(squares)
        .map(|(mean, squares)| match squares {
            _ if mean.is_nan() || mean.abs() > MEAN_MAX => (f64::NAN, f64::NAN),
            s if s.is_nan() || s > SQUARES.end() => (f64::NAN, f64::NAN),
            s if s < SQUARES.start() => (*mean, 0.0),
            s => (*mean, *s),
        })
        .unzip();
    let double = |values: Vec<f64>| Arc::new(Float64Array::from(values)) as ArrayRef;
    Ok(vec![counts, double(means), double(squares)])
}

fn accumulator(
    function: Arc<AggregateUDF>,
    arg: Option<&DataType>,
) -> Result<Box<dyn GroupsAccumulator>, DataFusionError> {
    let arg = arg.unwrap_or(&DataType::Int64).clone();
    let schema = Arc::new(Schema::new(vec![Field::new("arg", arg, true)]));
    let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new("arg", 0));
    let expr =
        AggregateExprBuilder::new(function, vec![column]).schema(schema).alias("part").build()?;
    expr.create_groups_accumulator()
}

fn layout(model: &Model, aggregate: &Aggregate) -> (Vec<From>, Vec<Field>) {
    let part = |name: &str| {
        aggregate.parts.iter().enumerate().find_map(|(i, part)| {
            let column = part.columns.iter().position(|c| c.name == name)?;
            Some((From::Part(i, column), part.columns[column].arrow.clone()))
        })
    };
    let mut layout = Vec::new();
    let mut fields = Vec::new();
    for column in model.columns.iter().filter(|c| c.role.travels()) {
        let key = || aggregate.keys.iter().position(|k| k.name == column.name);
        let found = match &column.role {
            Role::WindowStart => Some((From::WindowStart, timestamp())),
            Role::WindowEnd => Some((From::WindowEnd, timestamp())),
            Role::Key => key().map(|i| (From::Key(i), column.pg.arrow())),
            Role::Part(_) => part(&column.name),
            Role::Estimate(sketch, estimate) => part(sketch).and_then(|(from, _)| match from {
                From::Part(i, _) => Some((From::Estimate(i, *estimate), column.pg.arrow())),
                _ => None,
            }),
            // Computed where the rows are; of row models.
            Role::Derived(_) | Role::Difference(_) | Role::Value | Role::Position => continue,
        };
        let (from, data_type) = found.expect("catalog gives every key and part its column");
        layout.push(from);
        fields.push(Field::new(&column.name, data_type, true));
    }
    (layout, fields)
}
