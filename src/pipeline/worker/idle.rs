//! Partitions at rest: when the clock may move a watermark that no record moves.
//!
//! Owns: E-4, whom to ask about, and what an answer allows. Does not own: the clock (an argument),
//! the log's end (an answer of its leader), what an advance does to lateness (`compute`).
//!
//! SUBTLE: an advance says "when the clock showed T, nothing was left to read before N". The clock is
//! read first, then the leader is asked for its end, and the advance counts only where each lane
//! has admitted up to this very end: so whatever comes at N or above was appended after T. It joins
//! the open cut as a span of its own, empty or with what follows; so it is committed with the mark
//! or not at all, and by nobody but the mark's owner. No output has judged a record at N or above
//! by then, since each judges after the cut that the advance is in: hence all judge alike, those
//! that are rebuilt later, too.
//!
//! A lane that recovers, a full one, a reader behind and a leader that does not answer hold the
//! watermark where it is. So does a run to targets: it is no live clock.

use super::{
    Mode, Worker,
    lane::Hold,
    port::{Effect, Moment},
};
use crate::record::{EventTime, IdleAdvance, Lane, Offset, Partition, Span};
use std::collections::BTreeMap;

/// What is known of partitions at rest.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Since when nothing came, or since the partition was taken.
    quiet_since: BTreeMap<Partition, Moment>,
    /// A question is under way; there is no second one before it is answered.
    asking: bool,
    /// No question before this.
    next: Moment,
}

impl Rest {
    pub(super) fn disturb(&mut self, partition: Partition, now: Moment) {
        self.quiet_since.insert(partition, now);
    }
}

impl Worker {
    /// Asks for the ends of what is quiet long enough.
    pub(super) fn ask_for_ends(&mut self) {
        if self.rest.asking || self.now < self.rest.next {
            return;
        }
        let partitions: Vec<_> = self.readers.keys().copied().collect();
        let partitions: Vec<_> =
            partitions.into_iter().filter(|p| self.rests_at(*p).is_some()).collect();
        if !partitions.is_empty() {
            self.rest.asking = true;
            self.effects.push_back(Effect::AskEnds { partitions });
        }
    }

    /// The ends of logs, asked after the clock showed `at`; who did not answer is not there.
    pub(super) fn heard_ends(&mut self, at: EventTime, ends: Vec<(Partition, Offset)>) {
        self.rest.asking = false;
        self.rest.next = self.now + self.settings.idle_check;
        for (partition, end) in ends {
            if self.rests_at(partition) == Some(end) {
                self.advance(IdleAdvance { partition, before: end, event_time: at });
            }
        }
    }

    /// Where the partition rests: quiet long enough, and every lane has admitted what was read.
    fn rests_at(&self, partition: Partition) -> Option<Offset> {
        let after = self.settings.idle_after?;
        let quiet_since = *self.rest.quiet_since.get(&partition)?;
        let reader = *self.readers.get(&partition)?;
        let admitted = self.lanes.iter().all(|lane| match lane.holds.get(&partition) {
            // A mark above it: the log was made anew, which others notice.
            Some(Hold::Open { marks, position, .. }) => {
                *position == reader && marks.values().all(|mark| mark.next <= reader)
            }
            Some(Hold::Taking | Hold::Gone { .. }) | None => false,
        });
        let rests = self.mode == Mode::Running
            && self.targets.is_none()
            && admitted
            && self.wants_records()
            && !self.leaving.contains(&partition)
            && self.now.saturating_sub(quiet_since) >= after;
        rests.then_some(reader)
    }

    fn advance(&mut self, advance: IdleAdvance) {
        let Some(index) = self.lanes.iter().position(|lane| lane.lane == Lane::Tables) else {
            return;
        };
        let IdleAdvance { partition, before, .. } = advance;
        self.open_cut(index, partition, before);
        if let Some(open) = &mut self.lanes[index].open {
            let span = open.spans.entry(partition).or_insert(Span::new(before, before));
            assert_eq!(span.to, before, "E-4: an advance stands where the lane stands");
            open.advanced.insert(partition);
        }
        self.effects.push_back(Effect::Advance(advance));
    }
}
