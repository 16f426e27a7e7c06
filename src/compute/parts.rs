//! What each part has of the open cut's groups: one accumulator per kind.
//!
//! Owns: feeding a part rows, merging its groups into others, its columns when the cut ends. The parts that
//! DataFusion counts. Does not own: the other kinds (`picked`, `distinct`, `sketch`), which groups there are
//! (`groups`).

use super::{
    distinct::{Distinct, Pairs},
    picked::{Best, Picked},
    plan::Input,
    sketch::{Sketch, Sketches},
};
use crate::catalog::{Part, PartFunction};
use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, UInt32Array},
    compute::{cast, take},
    datatypes::{DataType, Field, Float64Type, Schema},
};
use datafusion_common::DataFusionError;
use datafusion_expr::{AggregateUDF, EmitTo, GroupsAccumulator};
use datafusion_functions_aggregate::{
    bool_and_or::{bool_and_udaf, bool_or_udaf},
    count::count_udaf,
    min_max::{max_udaf, min_udaf},
    sum::sum_udaf,
    variance::var_samp_udaf,
};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::{aggregate::AggregateExprBuilder, expressions::Column};
use std::sync::Arc;

pub struct OpenPart {
    pub open: Open,
    pub args: usize,
    pub has_filter: bool,
}

/// What a part has of the open cut.
pub enum Open {
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

/// What a part's groups hold, taken out of it so that it goes into other groups.
pub enum Held {
    /// The columns of an accumulator's state.
    States(Vec<ArrayRef>),
    Picked(Vec<Option<Best>>),
    Pairs(Pairs),
    Sketches(Vec<Option<Sketch>>),
}

impl Open {
    pub fn new(part: &Part, args: Vec<DataType>) -> Result<Self, DataFusionError> {
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

    pub fn add(&mut self, rows: &Rows<'_>) -> Result<(), DataFusionError> {
        match self {
            Self::Value(accumulator) | Self::Moments(accumulator) => {
                accumulator.update_batch(rows.args, rows.groups, rows.filter, rows.count)
            }
            Self::Picked(picked) => picked.add(rows),
            Self::Distinct(distinct) => distinct.add(rows),
            Self::Sketches(sketches) => sketches.add(rows),
        }
    }

    /// Takes out what the groups hold.
    pub fn take(&mut self) -> Result<Held, DataFusionError> {
        Ok(match self {
            Self::Value(accumulator) | Self::Moments(accumulator) => {
                Held::States(accumulator.state(EmitTo::All)?)
            }
            Self::Picked(picked) => Held::Picked(picked.take()),
            Self::Distinct(distinct) => Held::Pairs(distinct.take()?),
            Self::Sketches(sketches) => Held::Sketches(sketches.take()),
        })
    }

    /// Merges what these groups held into the groups `targets`, of which there are `count` by now. A
    /// group may go into several, and several into one.
    pub fn merge(
        &mut self,
        held: &Held,
        sources: &UInt32Array,
        targets: &[usize],
        count: usize,
    ) -> Result<(), DataFusionError> {
        match (self, held) {
            (Self::Value(accumulator) | Self::Moments(accumulator), Held::States(states)) => {
                let states = states.iter().map(|state| take(state, sources, None));
                let states = states.collect::<Result<Vec<_>, _>>()?;
                accumulator.merge_batch(&states, targets, count)
            }
            (Self::Picked(picked), Held::Picked(best)) => {
                picked.merge(best, sources.values(), targets, count);
                Ok(())
            }
            (Self::Distinct(distinct), Held::Pairs(pairs)) => {
                distinct.merge(pairs, sources.values(), targets)
            }
            (Self::Sketches(sketches), Held::Sketches(groups)) => sketches
                .merge(groups, sources.values(), targets, count)
                .map_err(|e| DataFusionError::External(e.into())),
            _ => unreachable!("a part holds what its own kind does"),
        }
    }

    /// The part's columns, a value per group; nothing of the cut is left, but for a set's values.
    pub fn finish(&mut self, count: usize) -> Result<Vec<ArrayRef>, DataFusionError> {
        match self {
            Self::Value(accumulator) => Ok(vec![accumulator.evaluate(EmitTo::All)?]),
            Self::Moments(accumulator) => moments(&accumulator.state(EmitTo::All)?),
            Self::Picked(picked) => picked.finish(count),
            Self::Sketches(sketches) => Ok(vec![sketches.finish(count)]),
            // What is new is known where the values are.
            Self::Distinct(_) => Ok(vec![Arc::new(Int64Array::from(vec![0; count]))]),
        }
    }

    pub fn memory(&self) -> usize {
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
