//! One lane of a topic: its hold on partitions, what is open and what is in flight.
//!
//! Owns: state and what can be read off it. Does not own: what follows from it (`worker`).

use super::port::{Moment, Move, Settings, Size, Ticket};
use crate::record::{Lane, Mark, Offset, Output, Partition, Span, gap::Gap};
use std::collections::{BTreeMap, BTreeSet};

/// Librdkafka holds 16 KiB of a partition that is idle, and of one that is read 30 (measured with 1,000 of
/// them). A quarter is each lane's, and as much that of its cut in flight.
const PARTITION_BYTES: usize = 8 << 10;

/// A lane's hold on one partition.
#[derive(Debug, Clone)]
pub(super) enum Hold {
    /// Claimed; the marks are not known yet.
    Taking,
    Open {
        marks: BTreeMap<Output, Mark>,
        /// Received up to here: at or above every mark.
        position: Offset,
        /// In a cut up to here: below `position` only where the lake waits for the judge.
        admitted: Offset,
    },
    /// Claimed, and stands: offsets of its marks are gone.
    Gone { look_at: Moment },
}

#[derive(Debug, Clone)]
pub(super) struct OpenCut {
    pub(super) cut: u64,
    pub(super) since: Moment,
    pub(super) sequence: i64,
    pub(super) spans: BTreeMap<Partition, Span>,
    /// Partitions whose event time the clock moved in it: their spans may be empty.
    pub(super) advanced: BTreeSet<Partition>,
    pub(super) size: Size,
}

#[derive(Debug, Clone)]
pub(super) struct SealedCut {
    pub(super) cut: u64,
    pub(super) moves: Vec<Move>,
}

#[derive(Debug, Clone)]
pub(super) enum Flight {
    None,
    Commit(SealedCut),
    /// Recovering: nothing is held; take the lane's partitions anew at `until`.
    Backoff {
        until: Moment,
    },
}

/// The claim under way: the lane has no second one before it is answered, or the two could reach
/// PostgreSQL in either order and the epoch of the wrong one be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pending {
    None,
    Awaited(Ticket),
    /// Its answer says only that it is over.
    GivenUp(Ticket),
}

#[derive(Debug)]
pub(super) struct LaneState {
    pub(super) lane: Lane,
    pub(super) holds: BTreeMap<Partition, Hold>,
    pub(super) open: Option<OpenCut>,
    pub(super) flight: Flight,
    /// It concerns other partitions than the flight does.
    pub(super) claim: Pending,
    /// To be claimed when the claim under way is answered.
    pub(super) wanted: BTreeSet<Partition>,
    pub(super) failures: u32,
    /// A cut was committed since partitions were taken last.
    pub(super) has_committed: bool,
    /// Marks of partitions taken while a lake cut was open whose number is not above theirs.
    pub(super) deferred: Vec<(Output, Partition, Mark)>,
    /// Why partitions stand; kept while they are looked at again.
    pub(super) gone: BTreeMap<Partition, Vec<Gap>>,
}

impl LaneState {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            holds: BTreeMap::new(),
            open: None,
            flight: Flight::None,
            claim: Pending::None,
            wanted: BTreeSet::new(),
            failures: 0,
            has_committed: false,
            deferred: Vec::new(),
            gone: BTreeMap::new(),
        }
    }

    pub(super) fn position(&self, partition: Partition) -> Option<Offset> {
        match self.holds.get(&partition) {
            Some(Hold::Open { position, .. }) => Some(*position),
            Some(Hold::Taking | Hold::Gone { .. }) | None => None,
        }
    }

    pub(super) fn in_flight(&self) -> bool {
        match self.flight {
            Flight::Commit(_) | Flight::Backoff { .. } => true,
            Flight::None => false,
        }
    }

    /// Takes records of some partition: without one, reading would be for nothing.
    pub(super) fn is_open(&self) -> bool {
        self.holds.values().any(|hold| matches!(hold, Hold::Open { .. }))
    }

    /// Some of its partitions will be open as soon as PostgreSQL answers.
    pub(super) fn is_claimed(&self) -> bool {
        matches!(self.claim, Pending::Awaited(_))
    }

    /// Whether an open or sealed cut covers the partition.
    pub(super) fn covers(&self, partition: Partition) -> bool {
        let open = self.open.as_ref().is_some_and(|o| o.spans.contains_key(&partition));
        let sealed = match &self.flight {
            Flight::Commit(sealed) => sealed.moves.iter().any(|m| m.partition == partition),
            Flight::None | Flight::Backoff { .. } => false,
        };
        open || sealed
    }

    /// Whether the open cut holds all that it may: less of many partitions, of each of which the client holds some.
    pub(super) fn is_full(&self, settings: &Settings) -> bool {
        let share = match self.lane {
            Lane::Tables => settings.tables_memory,
            Lane::Lake => settings.lake_memory,
        };
        let room = share.saturating_sub(self.holds.len() * PARTITION_BYTES).max(share / 4);
        self.open.as_ref().is_some_and(|open| open.size.memory >= room)
    }

    /// How old a cut of the tables becomes.
    pub(super) fn interval(&self, settings: &Settings, near_end: bool) -> Moment {
        match (self.has_committed, near_end) {
            // Who has just started it sees soon that it goes on.
            (false, _) => settings.tables_interval / 4,
            (true, true) => settings.tables_interval,
            (true, false) => settings.tables_interval_behind,
        }
    }

    pub(super) fn sequence(&self) -> i64 {
        let held = self.holds.values().filter_map(|hold| match hold {
            Hold::Open { marks, .. } => marks.get(&Output::Lake).map(|m| m.sequence),
            Hold::Taking | Hold::Gone { .. } => None,
        });
        let sealed = match &self.flight {
            Flight::Commit(sealed) => sealed.moves.iter().map(|m| m.sequence).max(),
            Flight::None | Flight::Backoff { .. } => None,
        };
        held.chain(sealed).max().unwrap_or(0)
    }
}
