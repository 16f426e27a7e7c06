//! Of a judged topic (`unique`): the lake takes what the judge's verdicts are committed for.
//!
//! Owns: J-1. Does not own: verdicts (`compute::unique`), what is held meanwhile (`held`).
//!
//! The lane of tables judges each record as it admits it, and a verdict counts when its cut is
//! committed: before, another process may take the key first, and the cut is judged again. So the
//! lake's records wait beside it, about as long as one cut of the tables, and nothing that stands
//! in a file can turn out to be a duplicate. A failure of the tables costs the lake nothing: what
//! it holds was not looked at yet.
//!
//! J-1  The lake's cuts of a judged topic end at or below the mark of the dead letters.

use super::{
    Worker,
    lane::{Flight, Hold, LaneState},
    port::{Effect, Reason},
};
use crate::record::{Lane, Offset, Output, Partition, Span};

impl Worker {
    /// Whether this lane takes its records later than it gets them.
    pub(super) fn follows(&self, lane: &LaneState) -> bool {
        self.settings.judged && lane.lane == Lane::Lake
    }

    /// Gives the lake what was judged and committed since.
    pub(super) fn follow(&mut self) {
        let Some(index) = self.lanes.iter().position(|lane| self.follows(lane)) else { return };
        let mut free = Vec::new();
        for (&partition, hold) in &self.lanes[index].holds {
            let Hold::Open { position, admitted, .. } = hold else { continue };
            let to = self.judged(partition).unwrap_or_default().min(*position);
            if to > *admitted {
                free.push((partition, *admitted, to));
            }
        }
        for &(partition, from, to) in &free {
            self.open_cut(index, partition, from);
            let lane = &mut self.lanes[index];
            if let Some(Hold::Open { admitted, .. }) = lane.holds.get_mut(&partition) {
                *admitted = to;
            }
            if let Some(open) = &mut lane.open {
                let span = open.spans.entry(partition).or_insert(Span::new(from, from));
                assert_eq!(span.to, from, "P-2: a lane admits each offset once, in order");
                span.to = to;
            }
        }
        if !free.is_empty() {
            let to = free.into_iter().map(|(partition, _, to)| (partition, to)).collect();
            self.effects.push_back(Effect::Follow { to });
        }
    }

    /// Verdicts up to here are committed; None: the lane of tables has yet to take the partition.
    fn judged(&self, partition: Partition) -> Option<Offset> {
        let tables = self.lanes.iter().find(|lane| lane.lane == Lane::Tables)?;
        match tables.holds.get(&partition)? {
            Hold::Open { marks, .. } => marks.get(&Output::DeadLetters).map(|mark| mark.next),
            Hold::Taking | Hold::Gone { .. } => None,
        }
    }

    /// What nobody judges is not fetched: the lake would hold it for as long as it takes.
    pub(super) fn is_judge_away(&self) -> bool {
        let Some(lake) = self.lanes.iter().find(|lane| self.follows(lane)) else { return false };
        let tables = self.lanes.iter().find(|lane| lane.lane == Lane::Tables);
        // What stands is not fetched by anybody, and keeps nobody else from it (G-4).
        let stands = |partition: &Partition| {
            tables.is_some_and(|t| matches!(t.holds.get(partition), Some(Hold::Gone { .. })))
        };
        lake.holds.iter().any(|(partition, hold)| {
            matches!(hold, Hold::Open { .. })
                && !self.leaving.contains(partition)
                && self.judged(*partition).is_none()
                && !stands(partition)
        })
    }

    /// Whether the lake's cut is to wait for what the tables are about to commit: the rest would
    /// make another cut of files.
    pub(super) fn waits_for_judge(&self, lane: &LaneState, reason: Reason) -> bool {
        if !self.follows(lane) {
            return false;
        }
        let others = self.lanes.iter().filter(|other| other.lane != lane.lane);
        others.into_iter().any(|tables| match reason {
            Reason::Drain | Reason::CaughtUp => {
                tables.open.is_some() || matches!(tables.flight, Flight::Commit(_))
            }
            Reason::OutOfReach => self.suspects.iter().any(|partition| tables.covers(*partition)),
            Reason::Revoke => self.leaving.iter().any(|partition| tables.covers(*partition)),
            Reason::Interval
            | Reason::Bytes
            | Reason::Age
            | Reason::Memory
            | Reason::Files
            | Reason::Assignment => false,
        })
    }
}
