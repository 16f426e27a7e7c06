//! Groups made of groups: what was aggregated in pieces becomes the groups that the table has.
//!
//! Owns: the two sides of it. Does not own: how a part's groups merge (`parts`), which groups belong
//! together (`aggregate`).

use super::parts::{Held, OpenPart};
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, UInt32Array};
use datafusion_common::DataFusionError;

/// What every part's source groups held, and the parts, which now hold the groups that they go to.
pub struct Combined<'p> {
    held: Vec<Held>,
    parts: &'p mut [OpenPart],
    groups: usize,
}

fn failed(error: DataFusionError) -> Error {
    Error::halt("put groups together").because(error)
}

impl<'p> Combined<'p> {
    /// Takes all that the parts hold.
    pub fn new(parts: &'p mut [OpenPart]) -> Result<Self> {
        let held = parts.iter_mut().map(|part| part.open.take());
        let held = held.collect::<Result<_, _>>().map_err(failed)?;
        Ok(Self { held, parts, groups: 0 })
    }

    /// Merges each source group into its target, of which there are so many up to now.
    pub fn add(&mut self, sources: &UInt32Array, targets: &[usize], groups: usize) -> Result<()> {
        self.groups = groups;
        for (held, part) in self.held.iter().zip(self.parts.iter_mut()) {
            part.open.merge(held, sources, targets, groups).map_err(failed)?;
        }
        Ok(())
    }

    /// Every part's columns by target group.
    pub fn finish(self) -> Result<Vec<Vec<ArrayRef>>> {
        let columns = self.parts.iter_mut().map(|part| part.open.finish(self.groups));
        columns.collect::<Result<_, _>>().map_err(failed)
    }
}
