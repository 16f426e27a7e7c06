//! A model's expressions, ready to evaluate on batches of its topic.
//!
//! Owns: physical expressions over the columns a model needs, finding the rows they fail on.
//! Does not own: grouping (`aggregate`), keeping rows (`rows`).

use super::lookup::Lookup;
use crate::{
    catalog::{INDEX, Join, Model, ModelKind, Planner, Topic},
    error::{Error, Result},
    record::EventTime,
};
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_empty_array,
    },
    compute::{FilterBuilder, concat, prep_null_mask_filter},
    datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Field, Schema, SchemaRef},
};
use datafusion_common::{
    DFSchema, DataFusionError, ScalarValue,
    tree_node::{Transformed, TreeNode},
};
use datafusion_expr::{Expr, Operator, when};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, NegativeExpr, lit};
use std::{borrow::Cow, collections::BTreeSet, ops::Range, sync::Arc};

pub struct Plan {
    /// Columns of the topic that the model uses, then `_partition` and `_offset`.
    columns: Vec<usize>,
    schema: SchemaRef,
    lookup: Option<Lookup>,
    filter: Option<Expression>,
    /// What `evaluate` computes, in order: keys, then per part its arguments and its filter;
    /// or the selected columns of a row model.
    exprs: Vec<Expression>,
    /// The same, but each argument only where its filter is true, as PostgreSQL has it. Slower,
    /// so asked only where an expression of `exprs` has failed: values under a filter that is
    /// not true count for nothing.
    guarded: Vec<Expression>,
}

#[derive(Clone)]
struct Expression {
    expr: Arc<dyn PhysicalExpr>,
    /// Arrow keeps a result of 128 bits whose digits are more than PostgreSQL will take.
    may_exceed_digits: bool,
}

/// Which row of the batch each row of an input was.
pub enum Origin {
    /// All of them, in order.
    All,
    /// These, ascending.
    Rows(Vec<u32>),
}

/// The rows that a model sees, before or after its expressions.
pub struct Input<'d> {
    pub columns: Vec<ArrayRef>,
    pub event_times: Cow<'d, [EventTime]>,
    pub partitions: ArrayRef,
    pub offsets: ArrayRef,
    /// The places of rows within their records, where those may be several rows.
    pub indexes: Option<ArrayRef>,
    pub rows: usize,
    origin: Origin,
}

/// A row's number in the batch, and what went wrong with it; ascending.
pub type Failures = Vec<(usize, String)>;

impl Plan {
    pub fn new(topic: &Topic, model: &Model) -> Result<Self> {
        let refused =
            |e: DataFusionError| Error::config(format!("plan model {}", model.name)).because(e);
        let (exprs, guarded) = expressions(model).map_err(refused)?;
        let used: BTreeSet<&str> = exprs
            .iter()
            .chain(&model.filter)
            .flat_map(|e| e.column_refs())
            .map(|c| c.name.as_str())
            .collect();
        let all = topic.schema.fields();
        let looked_up = |name: &String| model.join.iter().any(|join| join.on.contains(name));
        let mut columns: Vec<usize> = (0..all.len())
            .filter(|i| used.contains(all[*i].name().as_str()) || looked_up(all[*i].name()))
            .collect();
        let own: Vec<Field> = columns.iter().map(|i| Field::clone(&all[*i])).collect();
        let lookup = model.join.as_ref().map(|join| {
            let names: Vec<&str> = own.iter().map(|field| field.name().as_str()).collect();
            Lookup::new(join, &names, |name| used.contains(name))
        });
        let joined = model.join.iter().flat_map(Join::fields);
        let joined = joined.filter(|field| used.contains(field.name().as_str()));
        let schema = Arc::new(Schema::new(own.into_iter().chain(joined).collect::<Vec<_>>()));
        let names = DFSchema::try_from(schema.clone()).map_err(refused)?;
        let planner = Planner::default();
        let physical = |expr: &Expr| Expression::new(&planner, &names, expr).map_err(refused);
        let filter = model.filter.as_ref().map(physical).transpose()?;
        let exprs = exprs.iter().map(physical).collect::<Result<_>>()?;
        let guarded = guarded.iter().map(physical).collect::<Result<_>>()?;
        columns.extend([all.len() - 3, all.len() - 2]);
        Ok(Self { columns, schema, lookup, filter, exprs, guarded })
    }

    /// Type of the expression with this index in `exprs`.
    pub fn type_of(&self, index: usize) -> Result<DataType> {
        let typed = self.exprs[index].expr.data_type(&self.schema);
        typed.map_err(|e| Error::config("type a model's expression").because(e))
    }

    /// The columns that `filter` and `evaluate` read, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.schema.fields().iter().map(|field| field.name().as_str())
    }

    /// What its records are looked up in.
    pub fn lookup(&mut self) -> Option<&mut Lookup> {
        self.lookup.as_mut()
    }

    /// The chosen rows (None: all), with the columns the model needs; and how many of them found
    /// nothing in the reference.
    pub fn input<'d>(
        &self,
        rows: &RecordBatch,
        event_times: &'d [EventTime],
        chosen: Option<BooleanArray>,
    ) -> Result<(Input<'d>, u64)> {
        let mut columns: Vec<ArrayRef> =
            self.columns.iter().map(|i| rows.column(*i).clone()).collect();
        let offsets = columns.pop().expect("_offset is always there");
        let partitions = columns.pop().expect("_partition is always there");
        let all = Input {
            columns,
            event_times: Cow::Borrowed(event_times),
            partitions,
            offsets,
            indexes: rows.column_by_name(INDEX).cloned(),
            rows: rows.num_rows(),
            origin: Origin::All,
        };
        let mut input = match chosen {
            None => all,
            Some(mask) => all.keep(&mask)?,
        };
        let misses = match &self.lookup {
            Some(lookup) => lookup.join(&mut input.columns, input.rows)?,
            None => 0,
        };
        Ok((input, misses))
    }

    /// Rows that pass WHERE; NULL does not.
    pub fn filter<'d>(&self, input: Input<'d>) -> Result<(Input<'d>, Failures)> {
        let Some(filter) = &self.filter else { return Ok((input, Vec::new())) };
        let filter = std::slice::from_ref(filter);
        let (mut columns, failed) = self.evaluate_all(&input, filter, filter)?;
        let mask = columns.pop().expect("one expression, one column");
        let mask = mask.as_boolean_opt().ok_or_else(|| Error::halt("WHERE is not boolean"))?;
        let (input, failures) = input.without(failed)?;
        let input = match mask.true_count() == mask.len() {
            true => input,
            false if mask.null_count() > 0 => input.keep(&prep_null_mask_filter(mask))?,
            false => input.keep(mask)?,
        };
        Ok((input, failures))
    }

    /// The model's expressions; rows on which one fails are taken out.
    pub fn evaluate<'d>(&self, input: Input<'d>) -> Result<(Input<'d>, Failures)> {
        let (columns, failed) = self.evaluate_all(&input, &self.exprs, &self.guarded)?;
        let (input, failures) = input.without(failed)?;
        Ok((Input { columns, ..input }, failures))
    }

    /// The expressions over the rows on which none fails, and the rows (of the input) on which
    /// one does. A batch that fails is halved until the guilty rows stand alone: `AND`, CASE and
    /// the like protect a row alone whenever they protect it in company (M-1).
    fn evaluate_all(
        &self,
        input: &Input<'_>,
        exprs: &[Expression],
        guarded: &[Expression],
    ) -> Result<(Vec<ArrayRef>, Failures)> {
        let options = RecordBatchOptions::new().with_row_count(Some(input.rows));
        let batch =
            RecordBatch::try_new_with_options(self.schema.clone(), input.columns.clone(), &options)
                .map_err(|e| Error::halt("build a model's input").because(e))?;
        if let Ok(columns) = evaluate(&batch, exprs) {
            return Ok((columns, Vec::new()));
        }
        let (mut pieces, mut failed) = (Vec::new(), Vec::new());
        halve(&batch, 0, guarded, &mut pieces, &mut failed);
        let columns = exprs.iter().enumerate().map(|(i, expression)| {
            let parts: Vec<&dyn Array> = pieces.iter().map(|p| p[i].as_ref()).collect();
            match parts.is_empty() {
                true => expression
                    .expr
                    .data_type(&self.schema)
                    .map(|t| new_empty_array(&t))
                    .map_err(|e| Error::halt("type a model's expression").because(e)),
                false => {
                    concat(&parts).map_err(|e| Error::halt("join a model's pieces").because(e))
                }
            }
        });
        Ok((columns.collect::<Result<_>>()?, failed))
    }
}

/// What the plan computes, plain and guarded.
fn expressions(model: &Model) -> Result<(Vec<Expr>, Vec<Expr>), DataFusionError> {
    let aggregate = match &model.kind {
        ModelKind::Aggregate(aggregate) => aggregate,
        ModelKind::Rows(rows) => return Ok((rows.exprs.clone(), rows.exprs.clone())),
    };
    let mut exprs: Vec<Expr> = aggregate.keys.iter().map(|k| k.expr.clone()).collect();
    let mut guarded = exprs.clone();
    for part in &aggregate.parts {
        for arg in &part.args {
            guarded.push(match &part.filter {
                Some(filter) => when(filter.clone(), arg.clone()).end()?,
                None => arg.clone(),
            });
        }
        guarded.extend(part.filter.clone());
        exprs.extend(part.args.iter().chain(&part.filter).cloned());
    }
    Ok((exprs, guarded))
}

impl Expression {
    fn new(planner: &Planner, names: &DFSchema, expr: &Expr) -> Result<Self, DataFusionError> {
        let schema = names.as_arrow();
        let expr = planner.bind(expr.clone(), names)?;
        let expr = expr.transform_up(|e| fail_on_overflow(e, schema))?.data;
        let widest =
            matches!(expr.data_type(schema)?, DataType::Decimal128(DECIMAL128_MAX_PRECISION, _));
        let may_exceed_digits = widest && expr.exists(|e| Ok(e.is::<BinaryExpr>()))?;
        Ok(Self { expr, may_exceed_digits })
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
        let values = self.expr.evaluate(batch)?.into_array(batch.num_rows())?;
        if self.may_exceed_digits {
            let digits = values.as_primitive::<Decimal128Type>();
            digits.validate_decimal_precision(DECIMAL128_MAX_PRECISION)?;
        }
        Ok(values)
    }
}

/// Whole numbers that do not fit are an error of that record (M-3), never wrapped.
fn fail_on_overflow(
    expr: Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> Result<Transformed<Arc<dyn PhysicalExpr>>, DataFusionError> {
    let checked = |binary: BinaryExpr| {
        let checked: Arc<dyn PhysicalExpr> = Arc::new(binary.with_fail_on_overflow(true));
        Ok(Transformed::yes(checked))
    };
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        return checked(binary.clone());
    }
    // Arrow's negation wraps, its subtraction need not.
    if let Some(negative) = expr.downcast_ref::<NegativeExpr>() {
        let data_type = negative.arg().data_type(schema)?;
        if data_type.is_integer() {
            let zero = lit(ScalarValue::new_zero(&data_type)?);
            return checked(BinaryExpr::new(zero, Operator::Minus, negative.arg().clone()));
        }
    }
    Ok(Transformed::no(expr))
}

fn evaluate(batch: &RecordBatch, exprs: &[Expression]) -> Result<Vec<ArrayRef>, DataFusionError> {
    exprs.iter().map(|e| e.evaluate(batch)).collect()
}

fn halve(
    batch: &RecordBatch,
    first: usize,
    exprs: &[Expression],
    pieces: &mut Vec<Vec<ArrayRef>>,
    failed: &mut Failures,
) {
    match evaluate(batch, exprs) {
        Ok(columns) => pieces.push(columns),
        Err(error) if batch.num_rows() == 1 => failed.push((first, error.strip_backtrace())),
        Err(_) => {
            let half = batch.num_rows() / 2;
            halve(&batch.slice(0, half), first, exprs, pieces, failed);
            let rest = batch.slice(half, batch.num_rows() - half);
            halve(&rest, first + half, exprs, pieces, failed);
        }
    }
}

impl Input<'static> {
    /// All of these rows.
    pub fn of(
        columns: Vec<ArrayRef>,
        event_times: Vec<EventTime>,
        partitions: ArrayRef,
        offsets: ArrayRef,
    ) -> Self {
        let (rows, event_times) = (event_times.len(), Cow::Owned(event_times));
        let (indexes, origin) = (None, Origin::All);
        Self { columns, event_times, partitions, offsets, indexes, rows, origin }
    }
}

impl<'d> Input<'d> {
    /// The row of the batch that this row was.
    pub fn origin_of(&self, row: usize) -> usize {
        match &self.origin {
            Origin::All => row,
            Origin::Rows(rows) => rows[row] as usize,
        }
    }

    /// How many of these rows of the batch are there.
    pub fn count_within(&self, batch_rows: &Range<usize>) -> u64 {
        match &self.origin {
            Origin::All => batch_rows.len() as u64,
            Origin::Rows(rows) => {
                let below = |end| rows.partition_point(|row| (*row as usize) < end);
                (below(batch_rows.end) - below(batch_rows.start)) as u64
            }
        }
    }

    fn without(self, failed: Failures) -> Result<(Self, Failures)> {
        if failed.is_empty() {
            return Ok((self, failed));
        }
        let mut mask = vec![true; self.rows];
        for (row, _) in &failed {
            mask[*row] = false;
        }
        let kept = self.keep(&BooleanArray::from(mask))?;
        let failures = failed.into_iter().map(|(row, why)| (self.origin_of(row), why)).collect();
        Ok((kept, failures))
    }

    /// The rows where the mask, which has no NULL, is true.
    pub fn keep<'k>(&self, mask: &BooleanArray) -> Result<Input<'k>> {
        let filter = FilterBuilder::new(mask).optimize().build();
        let kept = |array: &ArrayRef| {
            filter.filter(array).map_err(|e| Error::halt("filter a model's rows").because(e))
        };
        let rows = || mask.values().set_indices();
        Ok(Input {
            columns: self.columns.iter().map(kept).collect::<Result<_>>()?,
            event_times: rows().map(|row| self.event_times[row]).collect(),
            partitions: kept(&self.partitions)?,
            offsets: kept(&self.offsets)?,
            indexes: self.indexes.as_ref().map(kept).transpose()?,
            rows: filter.count(),
            origin: Origin::Rows(rows().map(|row| self.origin_of(row) as u32).collect()),
        })
    }
}
