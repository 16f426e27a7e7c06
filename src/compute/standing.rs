//! Where an output stands in a partition: its floor, how far event time has come, fates since the
//! last seal, and the advances of event time that lie ahead.
//!
//! Owns: that an advance counts before the first record at or above its offset, whoever reads it
//! and however often (E-4). Does not own: when one is recorded (`pipeline::worker`).

use super::Counted;
use crate::{
    event_time::Lateness,
    record::{EventTime, Fates, IdleAdvance, Mark, Offset, Output, Partition},
};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Duration,
};

pub(super) type Standings = BTreeMap<Partition, Standing>;

pub(super) struct Standing {
    /// Nothing below is the output's any more.
    pub floor: Offset,
    /// Moved on by every admission.
    lateness: Lateness,
    /// Since the last seal.
    pub fates: Fates,
    /// Not passed yet, ascending.
    ahead: VecDeque<IdleAdvance>,
    /// A refused record stands at or above this: taken after all one day, it is to be judged as in
    /// its place. So an advance at or below it stays recorded.
    refused: Option<i64>,
    /// Passed, with no record behind it yet that says whether it was needed.
    unproven: Option<IdleAdvance>,
    /// The next record had come as far by itself: judging without the advance gives the same.
    obsolete: Vec<IdleAdvance>,
}

impl Standing {
    /// `advances` are those of its partition, ascending.
    pub fn new<'a>(
        mark: &Mark,
        max_disorder: Duration,
        advances: impl Iterator<Item = &'a IdleAdvance>,
    ) -> Self {
        let mut standing = Self {
            floor: mark.next,
            lateness: Lateness::new(mark.event_time_max, max_disorder),
            fates: Fates::default(),
            ahead: advances.copied().collect(),
            refused: None,
            unproven: None,
            obsolete: Vec::new(),
        };
        standing.pass(mark.next);
        standing.unproven = standing.unproven.filter(|advance| advance.before == mark.next);
        standing
    }

    /// Counts a record that decode refuses; false: it is below the floor.
    pub fn refuse(&mut self, offset: i64) -> bool {
        let counts = offset >= self.floor.0;
        self.fates.dead += u64::from(counts);
        if counts {
            self.refused = self.refused.max(Some(offset));
            self.unproven = None;
        }
        counts
    }

    /// Nothing was left to read before `advance.before`, up to which everything is admitted. False:
    /// event time had come so far already.
    pub fn advance(&mut self, advance: IdleAdvance) -> bool {
        let rises = self.lateness.watermark.max().is_none_or(|max| max < advance.event_time);
        self.lateness.observe(advance.event_time);
        // A clock that was set back takes nothing back.
        let known = self.unproven.filter(|known| {
            known.before == advance.before && known.event_time > advance.event_time
        });
        let refused = self.refused.is_some_and(|offset| offset >= advance.before.0);
        self.unproven = known.or(Some(advance)).filter(|_| !refused);
        rises
    }

    /// Everything below is admitted or absent.
    pub fn pass(&mut self, to: Offset) {
        while let Some(advance) = self.ahead.pop_front_if(|advance| advance.before <= to) {
            self.advance(advance);
        }
    }

    /// Records with these offsets and event times, both of `rows`, to be judged in this order: by
    /// pieces, between which event time advances. `judge` lets each piece raise the watermark.
    pub fn judge(
        &mut self,
        offsets: &[i64],
        times: &[EventTime],
        rows: &Range<usize>,
        mut judge: impl FnMut(&mut Lateness, Range<usize>),
    ) {
        let mut start = rows.start;
        while start < rows.end {
            let first = Offset(offsets[start]);
            self.pass(first);
            let end = match self.ahead.front() {
                None => rows.end,
                Some(advance) => {
                    let before = |offset: &i64| *offset < advance.before.0;
                    start + offsets[start..rows.end].partition_point(before)
                }
            };
            if let Some(advance) = self.unproven.take()
                && advance.event_time <= times[start]
            {
                self.obsolete.push(advance);
            }
            judge(&mut self.lateness, start..end);
            start = end;
        }
    }

    /// As [`Self::judge`], of rows that no window holds.
    pub fn observe(&mut self, offsets: &[i64], times: &[EventTime], rows: &Range<usize>) {
        self.judge(offsets, times, rows, |lateness, piece| {
            if let Some(max) = times[piece].iter().max() {
                lateness.observe(*max);
            }
        });
    }

    /// A record that came and is not at hand.
    pub fn raise(&mut self, event_time: EventTime) {
        self.lateness.observe(event_time);
    }

    /// What was seen so far, and what will be on the way.
    pub fn before(&self) -> Before {
        Before { seen: self.event_time_max(), ahead: self.ahead.iter().copied().collect() }
    }

    fn event_time_max(&self) -> Option<EventTime> {
        self.lateness.watermark.max()
    }
}

/// What a partition had seen before a batch, for the records that are refused in it.
pub(super) struct Before {
    seen: Option<EventTime>,
    ahead: Vec<IdleAdvance>,
}

impl Before {
    /// Without the batch's own records: the highest event time before the record at this offset.
    pub fn at(&self, offset: i64) -> Option<EventTime> {
        let passed = self.ahead.iter().filter(|advance| advance.before.0 <= offset);
        passed.map(|advance| advance.event_time).max().max(self.seen)
    }
}

pub(super) fn take_counts(
    counts: &mut BTreeMap<(Output, Partition), Counted>,
    output: &Output,
    standings: &mut Standings,
) {
    for (partition, standing) in standings {
        let fates = std::mem::take(&mut standing.fates);
        let event_time_max = standing.event_time_max();
        counts.insert((output.clone(), *partition), Counted { fates, event_time_max });
    }
}

/// See `SealedTables::obsolete`.
pub(super) fn take_obsolete(standings: &mut Standings) -> Vec<IdleAdvance> {
    standings.values_mut().flat_map(|standing| standing.obsolete.drain(..)).collect()
}
