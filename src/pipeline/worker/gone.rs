//! Offsets that are gone: the partition stops, and is looked at again from time to time.
//!
//! Owns: G-4: what stands is read by nobody, goes on only through a take, and keeps nobody else from
//! going on. Does not own: the judgement (`record::gap`, made in `warehouse::take`).

use super::{
    Worker,
    lane::{Flight, Hold, LaneState},
    port::Effect,
};
use crate::record::{Lane, Partition, gap::Gap};

impl Worker {
    /// Partitions that stand, lane by lane.
    pub fn gaps(&self) -> Vec<Gap> {
        self.lanes.iter().flat_map(|lane| lane.gone.values().flatten().cloned()).collect()
    }

    /// Kafka has not what comes next. What was read before is committed first: it may be gone.
    pub(super) fn out_of_reach(&mut self, partition: Partition) {
        if self.readers.remove(&partition).is_some() {
            self.suspects.insert(partition);
        }
    }

    /// Its marks are held against Kafka anew by every lane that has nothing of it left to commit.
    pub(super) fn take_suspects(&mut self) {
        let free = |p: &Partition| self.lanes.iter().all(|lane| !lane.covers(*p));
        let free: Vec<_> = self.suspects.iter().copied().filter(free).collect();
        for partition in free {
            self.suspects.remove(&partition);
            self.lanes.iter_mut().for_each(|lane| lane.take_again(partition));
        }
        self.take_what_is_wanted();
    }

    pub(super) fn stands(&mut self, lane: Lane, gaps: Vec<Gap>) {
        let look_at = self.now + self.settings.look_again;
        let state = self.lane(lane);
        let awaited = |gap: &Gap| {
            matches!(state.holds.get(&gap.partition), Some(Hold::Taking))
                && !state.wanted.contains(&gap.partition)
        };
        let gaps: Vec<_> = gaps.into_iter().filter(awaited).collect();
        // The other lane reads the same topic: it finds out now, and not when its cut ends.
        let ends =
            |gap: &&Gap| gap.reason.ends_generation() && !state.gone.contains_key(&gap.partition);
        let ending: Vec<_> = gaps.iter().filter(ends).map(|gap| gap.partition).collect();
        for gap in &gaps {
            state.holds.insert(gap.partition, Hold::Gone { look_at });
            state.gone.remove(&gap.partition);
        }
        ending.into_iter().for_each(|partition| self.out_of_reach(partition));
        for gap in gaps {
            let partition = gap.partition;
            self.lane(lane).gone.entry(partition).or_default().push(gap);
            // Whoever goes on is seeked: where the reader stood may be of another topic.
            if self.lanes.iter().all(|lane| lane.position(partition).is_none()) {
                self.readers.remove(&partition);
                self.effects.push_back(Effect::Stand { partition });
            }
        }
    }
}

impl LaneState {
    fn take_again(&mut self, partition: Partition) {
        if let Some(hold @ (Hold::Open { .. } | Hold::Gone { .. })) = self.holds.get_mut(&partition)
        {
            *hold = Hold::Taking;
            self.wanted.insert(partition);
        }
    }

    pub(super) fn look_again(&mut self, now: super::Moment) {
        if let Flight::Backoff { .. } = self.flight {
            return;
        }
        let due = |(p, hold): (&Partition, &Hold)| match hold {
            Hold::Gone { look_at } if *look_at <= now => Some(*p),
            Hold::Gone { .. } | Hold::Open { .. } | Hold::Taking => None,
        };
        let due: Vec<_> = self.holds.iter().filter_map(due).collect();
        due.into_iter().for_each(|partition| self.take_again(partition));
    }

    /// Held no more.
    pub(super) fn forget(&mut self, partition: Partition) {
        self.holds.remove(&partition);
        self.gone.remove(&partition);
    }
}
