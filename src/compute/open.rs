//! What a model has of the open cut, by its kind.
//!
//! Owns: which kind is whose. Does not own: any of them.

use super::{
    Delta,
    aggregate::Deltas,
    changes::OpenChanges,
    plan::{Input, Plan},
    rows::LatestRows,
};
use crate::{
    catalog::{Model, ModelKind, Topic},
    error::Result,
    event_time::Verdict,
};
use arrow::{array::RecordBatch, datatypes::Schema};
use std::sync::Arc;

pub(super) enum OpenModel {
    Aggregate(Box<Deltas>),
    Rows(LatestRows),
    Changes(Box<OpenChanges>),
}

impl OpenModel {
    pub fn new(topic: &Topic, model: &Arc<Model>, plan: &Plan) -> Result<Self> {
        if model.folding.is_some() {
            return Ok(Self::Changes(Box::new(OpenChanges::new(topic, model)?)));
        }
        Self::of_events(model, plan)
    }

    fn of_events(model: &Model, plan: &Plan) -> Result<Self> {
        Ok(match &model.kind {
            ModelKind::Aggregate(aggregate) => {
                Self::Aggregate(Box::new(Deltas::new(model, aggregate, plan)?))
            }
            ModelKind::Rows(rows) => Self::Rows(LatestRows::new(model, rows, plan)?),
        })
    }

    /// Adds evaluated rows. Changes are not evaluated one by one: they are added as they come.
    pub fn add(&mut self, input: &Input<'_>, verdicts: &[Verdict]) -> Result<()> {
        match self {
            Self::Aggregate(deltas) => deltas.add(input, verdicts),
            Self::Rows(rows) => rows.add(input),
            Self::Changes(_) => Ok(()),
        }
    }

    pub fn finish(&mut self) -> Result<Delta> {
        match self {
            Self::Aggregate(deltas) => deltas.finish(),
            Self::Rows(rows) => rows.finish().map(Delta::of),
            Self::Changes(changes) => {
                let nothing = RecordBatch::new_empty(Arc::new(Schema::empty()));
                Ok(Delta { changes: Some(changes.finish()?), ..Delta::of(nothing) })
            }
        }
    }

    /// Nothing of the open cut is left.
    pub fn abandon(&mut self, model: &Model, plan: &Plan) -> Result<()> {
        match self {
            Self::Changes(changes) => changes.clear(),
            Self::Aggregate(_) | Self::Rows(_) => *self = Self::of_events(model, plan)?,
        }
        Ok(())
    }

    pub fn memory(&self) -> usize {
        match self {
            Self::Aggregate(deltas) => deltas.memory(),
            Self::Rows(rows) => rows.memory(),
            Self::Changes(changes) => changes.memory(),
        }
    }
}
