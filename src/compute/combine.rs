//! Groups made of groups: what was aggregated in pieces becomes the groups that the table has.
//!
//! Owns: merging accumulators' states. Does not own: which groups belong together (`aggregate`).

use super::aggregate::OpenPart;
use crate::error::{Error, Result};
use arrow::{
    array::{ArrayRef, UInt32Array},
    compute::take,
};
use datafusion::{
    error::DataFusionError,
    logical_expr::{EmitTo, GroupsAccumulator},
};

/// Every part's states by source group, and the accumulators of the groups that they go to.
pub struct Combined {
    states: Vec<Vec<ArrayRef>>,
    parts: Vec<Box<dyn GroupsAccumulator>>,
}

fn failed(error: DataFusionError) -> Error {
    Error::halt("put groups together").because(error)
}

impl Combined {
    /// Takes all that the parts hold.
    pub fn new(parts: &mut [OpenPart]) -> Result<Self> {
        let mut combined = Self { states: Vec::new(), parts: Vec::new() };
        for part in parts {
            combined.states.push(part.accumulator.state(EmitTo::All).map_err(failed)?);
            combined.parts.push(part.fresh().map_err(failed)?);
        }
        Ok(combined)
    }

    /// Merges each source group into its target, of which there are so many up to now.
    pub fn add(&mut self, sources: &UInt32Array, targets: &[usize], groups: usize) -> Result<()> {
        for (states, part) in self.states.iter().zip(&mut self.parts) {
            let taken = states.iter().map(|state| take(state, sources, None));
            let taken = taken.collect::<Result<Vec<_>, _>>().map_err(|e| failed(e.into()))?;
            part.merge_batch(&taken, targets, groups).map_err(failed)?;
        }
        Ok(())
    }

    /// Every part's values by target group.
    pub fn finish(self) -> Result<Vec<ArrayRef>> {
        let values = self.parts.into_iter().map(|mut part| part.evaluate(EmitTo::All));
        values.collect::<Result<Vec<_>, _>>().map_err(failed)
    }
}
