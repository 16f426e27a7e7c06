//! A model's expressions, ready to evaluate on batches of its topic.
//!
//! Owns: physical expressions over the columns a model needs, finding the rows they fail on.
//! Does not own: grouping (`aggregate`), keeping rows (`rows`).

use crate::{
    catalog::{self, Model, ModelKind, Topic},
    error::{Error, Result},
    record::EventTime,
};
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array,
        new_empty_array,
    },
    compute::{concat, filter},
    datatypes::{DataType, SchemaRef, UInt32Type},
};
use datafusion::{
    common::{
        DFSchema,
        tree_node::{Transformed, TreeNode},
    },
    error::DataFusionError,
    logical_expr::Expr,
    physical_expr::expressions::BinaryExpr,
    physical_plan::PhysicalExpr,
    prelude::SessionContext,
};
use std::{collections::BTreeSet, sync::Arc};

pub struct Plan {
    /// Columns of the topic that the model uses, then `_partition` and `_offset`.
    columns: Vec<usize>,
    schema: SchemaRef,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// What `evaluate` computes, in order: keys, then per part its argument and its filter;
    /// or the selected columns of a row model.
    pub exprs: Vec<Arc<dyn PhysicalExpr>>,
}

/// Which row of the batch each row of an input was.
pub enum Origin {
    /// All of them, in order.
    All,
    /// These, ascending.
    Rows(Vec<u32>),
}

/// The rows that a model sees, before or after its expressions.
pub struct Input {
    pub columns: Vec<ArrayRef>,
    pub event_times: Vec<EventTime>,
    pub partitions: ArrayRef,
    pub offsets: ArrayRef,
    pub origin: Origin,
    pub rows: usize,
}

/// A row's number in the batch, and what went wrong with it.
pub type Failures = Vec<(usize, String)>;

impl Plan {
    pub fn new(topic: &Topic, model: &Model) -> Result<Self> {
        let exprs: Vec<Expr> = match &model.kind {
            ModelKind::Aggregate(aggregate) => {
                let keys = aggregate.keys.iter().map(|k| k.expr.clone());
                let parts = aggregate.parts.iter().flat_map(|p| p.arg.iter().chain(&p.filter));
                keys.chain(parts.cloned()).collect()
            }
            ModelKind::Rows(rows) => rows.exprs.clone(),
        };
        let used: BTreeSet<&str> = exprs
            .iter()
            .chain(&model.filter)
            .flat_map(|e| e.column_refs())
            .map(|c| c.name.as_str())
            .collect();
        let all = topic.schema.fields();
        let mut columns: Vec<usize> =
            (0..all.len()).filter(|i| used.contains(all[*i].name().as_str())).collect();
        let projected = topic.schema.project(&columns).map_err(|e| refused(model, e))?;
        let schema = Arc::new(projected);
        let names = DFSchema::try_from(schema.as_ref().clone()).map_err(|e| refused(model, e))?;
        let context = catalog::scalar_context();
        let physical =
            |expr: &Expr| physical(&context, &names, expr).map_err(|e| refused(model, e));
        let filter = model.filter.as_ref().map(physical).transpose()?;
        let exprs = exprs.iter().map(physical).collect::<Result<_>>()?;
        columns.extend([all.len() - 3, all.len() - 2]);
        Ok(Self { columns, schema, filter, exprs })
    }

    /// Type of the expression with this index in `exprs`.
    pub fn type_of(&self, index: usize) -> Result<DataType> {
        let typed = self.exprs[index].data_type(&self.schema);
        typed.map_err(|e| Error::config("type a model's expression").because(e))
    }

    /// The chosen rows (None: all), with the columns the model needs.
    pub fn input(
        &self,
        rows: &RecordBatch,
        event_times: &[EventTime],
        chosen: Option<BooleanArray>,
    ) -> Result<Input> {
        let mut columns: Vec<ArrayRef> =
            self.columns.iter().map(|i| rows.column(*i).clone()).collect();
        let offsets = columns.pop().expect("_offset is always there");
        let partitions = columns.pop().expect("_partition is always there");
        let all = Input {
            columns,
            event_times: event_times.to_vec(),
            partitions,
            offsets,
            origin: Origin::All,
            rows: rows.num_rows(),
        };
        match chosen {
            None => Ok(all),
            Some(mask) => all.keep(&mask),
        }
    }

    /// Rows that pass WHERE; NULL does not.
    pub fn filter(&self, input: Input) -> Result<(Input, Failures)> {
        let Some(filter) = &self.filter else { return Ok((input, Vec::new())) };
        let (mut columns, failed) = self.evaluate_all(&input, std::slice::from_ref(filter))?;
        let mask = columns.pop().expect("one expression, one column");
        let mask = mask.as_boolean_opt().ok_or_else(|| Error::halt("WHERE is not boolean"))?;
        let (input, failures) = input.without(&failed)?;
        // NULL counts as false.
        let mask: BooleanArray = mask.iter().map(|v| Some(v == Some(true))).collect();
        Ok((if mask.true_count() == mask.len() { input } else { input.keep(&mask)? }, failures))
    }

    /// The model's expressions; rows on which one fails are taken out.
    pub fn evaluate(&self, input: Input) -> Result<(Input, Failures)> {
        let (columns, failed) = self.evaluate_all(&input, &self.exprs)?;
        let (input, failures) = input.without(&failed)?;
        Ok((Input { columns, ..input }, failures))
    }

    /// The expressions over the rows on which none fails, and the rows (of the input) on which
    /// one does. A batch that fails is halved until the guilty rows stand alone.
    fn evaluate_all(
        &self,
        input: &Input,
        exprs: &[Arc<dyn PhysicalExpr>],
    ) -> Result<(Vec<ArrayRef>, Vec<(usize, String)>)> {
        let options = RecordBatchOptions::new().with_row_count(Some(input.rows));
        let batch =
            RecordBatch::try_new_with_options(self.schema.clone(), input.columns.clone(), &options)
                .map_err(|e| Error::halt("build a model's input").because(e))?;
        match evaluate(&batch, exprs) {
            Ok(columns) => Ok((columns, Vec::new())),
            Err(_) => {
                let (mut pieces, mut failed) = (Vec::new(), Vec::new());
                halve(&batch, 0, exprs, &mut pieces, &mut failed);
                let columns = (0..exprs.len()).map(|i| {
                    let parts: Vec<&dyn Array> = pieces.iter().map(|p| p[i].as_ref()).collect();
                    match parts.is_empty() {
                        true => exprs[i]
                            .data_type(&self.schema)
                            .map(|t| new_empty_array(&t))
                            .map_err(|e| Error::halt("type a model's expression").because(e)),
                        false => concat(&parts)
                            .map_err(|e| Error::halt("join a model's pieces").because(e)),
                    }
                });
                Ok((columns.collect::<Result<_>>()?, failed))
            }
        }
    }
}

fn physical(
    context: &SessionContext,
    names: &DFSchema,
    expr: &Expr,
) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let expr = context.create_physical_expr(expr.clone(), names)?;
    // Whole numbers that do not fit are an error of that record (M-3), never wrapped.
    let checked = expr.transform_up(|e| {
        let checked = e.downcast_ref::<BinaryExpr>().map(|binary| {
            Arc::new(binary.clone().with_fail_on_overflow(true)) as Arc<dyn PhysicalExpr>
        });
        Ok(match checked {
            Some(checked) => Transformed::yes(checked),
            None => Transformed::no(e),
        })
    })?;
    Ok(checked.data)
}

fn refused(model: &Model, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::config(format!("plan model {}", model.name)).because(source)
}

fn evaluate(
    batch: &RecordBatch,
    exprs: &[Arc<dyn PhysicalExpr>],
) -> Result<Vec<ArrayRef>, DataFusionError> {
    exprs.iter().map(|e| e.evaluate(batch)?.into_array(batch.num_rows())).collect()
}

fn halve(
    batch: &RecordBatch,
    first: usize,
    exprs: &[Arc<dyn PhysicalExpr>],
    pieces: &mut Vec<Vec<ArrayRef>>,
    failed: &mut Vec<(usize, String)>,
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

impl Input {
    fn origin_of(&self, row: usize) -> usize {
        match &self.origin {
            Origin::All => row,
            Origin::Rows(rows) => rows[row] as usize,
        }
    }

    fn without(self, failed: &[(usize, String)]) -> Result<(Self, Failures)> {
        if failed.is_empty() {
            return Ok((self, Vec::new()));
        }
        let failures =
            failed.iter().map(|(row, why)| (self.origin_of(*row), why.clone())).collect();
        let mut mask = vec![true; self.rows];
        for (row, _) in failed {
            mask[*row] = false;
        }
        Ok((self.keep(&BooleanArray::from(mask))?, failures))
    }

    fn keep(self, mask: &BooleanArray) -> Result<Self> {
        let kept = |array: &ArrayRef| {
            filter(array, mask).map_err(|e| Error::halt("filter a model's rows").because(e))
        };
        let origin = match &self.origin {
            Origin::All => UInt32Array::from_iter_values(0..self.rows as u32),
            Origin::Rows(rows) => UInt32Array::from(rows.clone()),
        };
        let origin = kept(&(Arc::new(origin) as ArrayRef))?;
        let chosen = self.event_times.iter().zip(mask.values().iter());
        Ok(Self {
            columns: self.columns.iter().map(kept).collect::<Result<_>>()?,
            event_times: chosen.filter(|(_, keep)| *keep).map(|(t, _)| *t).collect(),
            partitions: kept(&self.partitions)?,
            offsets: kept(&self.offsets)?,
            rows: origin.len(),
            origin: Origin::Rows(origin.as_primitive::<UInt32Type>().values().to_vec()),
        })
    }
}
