//! What follows when something is lost: a commit, a partition, the topic itself.
//!
//! Owns: P-4 and P-5: abandoning, waiting, giving up partitions. Does not own: taking them.

use super::{
    Mode, Worker,
    lane::{Flight, Hold, Pending},
    port::{Effect, Moment, Ticket},
};
use crate::{
    error::Kind,
    record::{Lane, Partition},
};

impl Worker {
    /// Its next cut and claim: whoever goes on in its place counts from there, so that no late answer
    /// to it is taken for one to itself.
    pub fn numbers(&self) -> (u64, Ticket) {
        (self.next_cut, self.next_ticket)
    }

    pub fn number_from(&mut self, (cut, ticket): (u64, Ticket)) {
        (self.next_cut, self.next_ticket) = (cut, ticket);
    }

    pub(super) fn failed(&mut self, lane: Lane, cut: u64, kind: Kind, why: String) {
        let state = self.lane(lane);
        let sealed = matches!(&state.flight, Flight::Commit(sealed) if sealed.cut == cut);
        if sealed || state.open.as_ref().is_some_and(|open| open.cut == cut) {
            self.recover(lane, kind, why);
        }
    }

    /// Up to a quarter more or less, so that processes that failed together do not come back
    /// together. Settled by the seed and the number of the claim: a run can be run again.
    fn jittered(&self, wait: Moment) -> Moment {
        let Some(seed) = self.settings.jitter else { return wait };
        // SplitMix64 (Steele, Lea and Flood, 2014), one step.
        let mut bits = seed.wrapping_add(self.next_ticket.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = (bits ^ (bits >> 31)) as f64 / u64::MAX as f64;
        wait.mul_f64(0.75 + share / 2.0)
    }

    /// P-4: drop everything, wait, take the partitions anew.
    pub(super) fn recover(&mut self, lane: Lane, kind: Kind, why: String) {
        let wait = match kind {
            Kind::Halt | Kind::Config => return self.stop(why),
            Kind::Fenced => self.settings.fenced_wait,
            Kind::Retry | Kind::Unknown => {
                let doubled =
                    self.settings.backoff_min * 2u32.pow(self.lane(lane).failures.min(10));
                self.jittered(doubled.min(self.settings.backoff_max))
            }
        };
        let until = self.now + wait;
        let state = self.lane(lane);
        state.failures += 1;
        self.abandon(lane);
        self.lane(lane).flight = Flight::Backoff { until };
        self.skip_what_others_have();
    }

    /// What was read for the lane that failed is of no use to the others, which would never come to
    /// the log's end while a long outage has the reader thrown back to the failing lane's marks.
    fn skip_what_others_have(&mut self) {
        for (&partition, reader) in &mut self.readers {
            let lowest = self.lanes.iter().filter_map(|lane| lane.position(partition)).min();
            if let Some(lowest) = lowest
                && *reader < lowest
            {
                *reader = lowest;
                self.effects.push_back(Effect::Seek { partition, to: lowest });
            }
        }
    }

    pub(super) fn stop(&mut self, why: String) {
        self.mode = Mode::Stopped;
        for lane in &mut self.lanes {
            lane.open = None;
            lane.flight = Flight::None;
            lane.holds.clear();
            lane.gone.clear();
            self.effects.push_back(Effect::Abandon { lane: lane.lane });
        }
        let partitions = std::mem::take(&mut self.leaving).into_iter().collect();
        self.effects.push_back(Effect::Release { partitions });
        self.effects.push_back(Effect::Stop { why });
    }

    pub(super) fn abandon(&mut self, lane: Lane) {
        let state = self.lane(lane);
        state.open = None;
        if let Pending::Awaited(ticket) = state.claim {
            state.claim = Pending::GivenUp(ticket);
        }
        state.deferred.clear();
        state.wanted.clear();
        for hold in state.holds.values_mut() {
            *hold = Hold::Taking;
        }
        self.effects.push_back(Effect::Abandon { lane });
        // What was to leave needs no commit any more.
        for partition in self.leaving.clone() {
            self.lane(lane).forget(partition);
        }
    }

    /// A rebalance stops and starts the client's fetchers of partitions that stay, from positions
    /// of its own. Ours are the ones that count, so they are set again.
    pub(super) fn seek_again(&mut self) {
        for (&partition, &to) in &self.readers {
            self.effects.push_back(Effect::Seek { partition, to });
        }
    }

    pub(super) fn revoked(&mut self, partitions: Vec<Partition>) {
        for partition in partitions {
            self.readers.remove(&partition);
            self.suspects.remove(&partition);
            self.leaving.insert(partition);
            for lane in &mut self.lanes {
                lane.wanted.remove(&partition);
                lane.deferred.retain(|(_, p, _)| *p != partition);
                // Another lane's commit may keep it for a while: what is not open is not opened
                // any more, or a claim's answer would have a partition read that is going.
                if let Some(Hold::Taking | Hold::Gone { .. }) = lane.holds.get(&partition) {
                    lane.forget(partition);
                }
            }
        }
        self.seek_again();
    }

    /// P-5.
    pub(super) fn release_what_is_free(&mut self) {
        let free: Vec<_> = self
            .leaving
            .iter()
            .copied()
            .filter(|p| self.lanes.iter().all(|lane| !lane.covers(*p)))
            .collect();
        if free.is_empty() {
            return;
        }
        for partition in &free {
            self.leaving.remove(partition);
            for lane in &mut self.lanes {
                lane.forget(*partition);
            }
        }
        self.effects.push_back(Effect::Release { partitions: free });
    }

    pub(super) fn lost(&mut self, partitions: &[Partition]) {
        for lane in self.lanes.iter().map(|l| l.lane).collect::<Vec<_>>() {
            // A cut with a lost partition can hardly commit; its other partitions are read again.
            if partitions.iter().any(|p| self.lane(lane).covers(*p)) {
                self.abandon(lane);
                let now = self.now;
                self.lane(lane).flight = Flight::Backoff { until: now };
            }
        }
        for partition in partitions {
            self.readers.remove(partition);
            self.leaving.remove(partition);
            self.suspects.remove(partition);
            for lane in &mut self.lanes {
                lane.forget(*partition);
                lane.wanted.remove(partition);
                lane.deferred.retain(|(_, p, _)| p != partition);
            }
        }
    }
}
