//! Which windows of a model are made anew: what `--from` and `--to` come to.
//!
//! Owns: why nothing but all of a table will do. Does not own: the text that is typed (`bounds`), which rows these windows
//! are (`warehouse::rebuild::windows`).

use super::{Request, bounds};
use crate::{
    catalog::{Column, Model, ModelKind, Role, Shape},
    error::{Error, Result},
    pipeline::rewrite::reach::Bound,
    record::EventTime,
    warehouse::Warehouse,
};
use std::collections::BTreeMap;

/// Those that begin in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Windows {
    pub since: Option<EventTime>,
    pub until: Option<EventTime>,
}

impl Windows {
    /// # Errors
    /// `Config`, with the reason: another bound than the beginning means nothing to this model.
    pub async fn of(request: &Request, model: &Model, warehouse: &Warehouse) -> Result<Self> {
        let Request { output, from, to, partitions, .. } = request;
        if partitions.is_some() {
            return Err(Error::config(format!(
                "replay {output}: --partitions is for files of a lake (lake:TOPIC). A table holds all of its topic"
            )));
        }
        let begin = bounds::bound("--from", from)?;
        let end = to.as_deref().map(|to| bounds::bound("--to", to)).transpose()?;
        if begin == Bound::Beginning && end.is_none() {
            return Ok(Self::default());
        }
        if let Some(why) = whole(model) {
            let to = to.as_ref().map_or(String::new(), |to| format!(" --to {to}"));
            return Err(Error::config(format!(
                "replay model:{} --from {from}{to}: {why}. Allowed: --from beginning",
                model.name
            )));
        }
        let until = match end {
            None => None,
            Some(Bound::Time(time)) => Some(time),
            Some(Bound::Beginning | Bound::Offset(_) | Bound::Offsets(_)) => {
                return Err(Error::config(format!(
                    "replay model:{} --to {}: late records of a window may stand behind any offset. Allowed: --to TIME",
                    model.name,
                    to.as_deref().unwrap_or_default()
                )));
            }
        };
        let nothing = BTreeMap::new();
        let (before, in_all) = match &begin {
            Bound::Beginning => return Ok(Self { since: None, until }),
            Bound::Time(time) => return Ok(Self { since: Some(*time), until }),
            Bound::Offset(offset) => (&nothing, Some(*offset)),
            Bound::Offsets(offsets) => (offsets, None),
        };
        let last = warehouse.event_time_before(model, before, in_all).await;
        let last = last.map_err(|error| {
            let context = format!("replay model:{} --from {from}: {}", model.name, error.context);
            Error { context, ..error }
        })?;
        // All that stands before these offsets is in windows that begin no later than it.
        let since = last.map(|EventTime(last)| EventTime(last + 1));
        Ok(Self { since, until })
    }
}

/// Why a part of the table cannot be made by itself.
fn whole(model: &Model) -> Option<&'static str> {
    let is_difference = |column: &Column| matches!(column.role, Role::Difference(_));
    match &model.kind {
        ModelKind::Rows(_) => Some("the latest row of a key may be of before"),
        ModelKind::Aggregate(_) => match model.window().map(|window| &window.shape) {
            None => Some(
                "its totals have no window: each holds what came before any offset or time, and cannot be taken apart",
            ),
            Some(_) if model.columns.iter().any(is_difference) => {
                Some("its differences (delta) reach back to the window before")
            }
            Some(Shape::Session { .. }) => {
                Some("a session that goes on at that time has begun before")
            }
            Some(Shape::Tumble(_) | Shape::Hop(_)) => None,
        },
    }
}
