//! One topic's work as a value: which partitions it holds, what is open, what is in flight.
//!
//! Owns: positions, open and sealed spans, when to cut, what to do after each outcome.
//! Does not own: records, sockets, tasks, clocks, retries of a single request (see `driver`).
//!
//! `handle` never waits and never fails. Time is an argument: [`Moment`] since any fixed origin.
//! The invariants P-1 to P-5 and G-4 are in the stage's front page.

mod follow;
mod gone;
mod idle;
mod lane;
mod port;
mod recover;

pub use port::{Arrival, Effect, Input, Moment, Move, Reason, Settings, Size, Ticket};

use crate::{
    error::Kind,
    record::{IdleAdvance, Lane, Mark, Offset, Output, Partition, Span, gap::Gap},
};
use idle::Rest;
use lane::{Flight, Hold, LaneState, OpenCut, Pending, SealedCut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Running,
    Draining,
    Stopped,
}

/// See the front page.
#[derive(Debug)]
pub struct Worker {
    settings: Settings,
    now: Moment,
    mode: Mode,
    lanes: Vec<LaneState>,
    /// Where the next record of each partition comes from; absent: not positioned.
    readers: BTreeMap<Partition, Offset>,
    /// Told to give these up; not read any more.
    leaving: BTreeSet<Partition>,
    /// Kafka has not what comes next of these: taken anew when nothing of them is left to commit.
    suspects: BTreeSet<Partition>,
    targets: Option<BTreeMap<Partition, Offset>>,
    /// The last fetch found the log's end.
    near_end: bool,
    rest: Rest,
    next_cut: u64,
    next_ticket: Ticket,
    effects: VecDeque<Effect>,
}

impl Worker {
    pub fn new(settings: Settings, lanes: &[Lane]) -> Self {
        assert!(!lanes.is_empty(), "a topic without an output has no worker");
        Self {
            settings,
            now: Moment::ZERO,
            mode: Mode::Running,
            lanes: lanes.iter().map(|&lane| LaneState::new(lane)).collect(),
            readers: BTreeMap::new(),
            leaving: BTreeSet::new(),
            suspects: BTreeSet::new(),
            targets: None,
            near_end: false,
            rest: Rest::default(),
            next_cut: 1,
            next_ticket: 1,
            effects: VecDeque::new(),
        }
    }

    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub fn handle(&mut self, input: Input) {
        if self.mode == Mode::Stopped {
            // A stopped topic still gives up what it is asked for.
            if let Input::Revoked(partitions) = input {
                self.effects.push_back(Effect::Release { partitions });
            }
            return;
        }
        match input {
            Input::Assigned(partitions) => self.assigned(partitions),
            Input::Revoked(partitions) => self.revoked(partitions),
            Input::Lost(partitions) => self.lost(&partitions),
            Input::Taken { lane, ticket, marks, gaps, advances } => {
                self.taken(lane, ticket, marks, gaps, advances);
            }
            Input::TakeFailed { lane, ticket, kind, why } => {
                self.take_failed(lane, ticket, kind, why);
            }
            Input::Arrived { arrivals, more } => {
                self.near_end = !more;
                self.arrived(&arrivals);
            }
            Input::OutOfReach(partition) => self.out_of_reach(partition),
            Input::Measured { lane, size } => {
                if let Some(open) = &mut self.lane(lane).open {
                    open.size = size;
                }
            }
            Input::Committed { lane, cut } => self.committed(lane, cut),
            Input::Failed { lane, cut, kind, why } => self.failed(lane, cut, kind, why),
            Input::Halt { why } => self.stop(why),
            Input::Targets(targets) => self.targets = Some(targets),
            Input::Tick(now) => {
                self.now = now;
                self.retry_takes();
                self.ask_for_ends();
            }
            Input::Ends { at, ends } => self.heard_ends(at, ends),
            Input::Drain => {
                if self.mode == Mode::Running {
                    self.mode = Mode::Draining;
                }
            }
        }
        self.seal_what_is_due();
        self.release_what_is_free();
        self.take_suspects();
    }

    /// Whether to fetch: something is held, nothing is over its budget. Not while a lane is being taken: it
    /// would have the reader go back, and a breaker that trips on the first records must find it open.
    pub fn wants_records(&self) -> bool {
        self.mode == Mode::Running
            && self.lanes.iter().any(LaneState::is_open)
            && !self.reached_targets()
            && !self.is_judge_away()
            && !self.lanes.iter().any(LaneState::is_claimed)
            && !self.is_over_budget()
    }

    /// A lane is over its share with nowhere to go until its flight lands.
    pub fn is_over_budget(&self) -> bool {
        self.lanes.iter().any(|lane| lane.in_flight() && lane.is_full(&self.settings))
    }

    /// Draining, and nothing is left to commit.
    pub fn is_drained(&self) -> bool {
        self.mode == Mode::Stopped
            || self.mode == Mode::Draining
                && self.lanes.iter().all(|l| match l.flight {
                    // What recovers holds nothing: its marks say where to go on.
                    Flight::Backoff { .. } => true,
                    Flight::None => l.open.is_none(),
                    Flight::Commit(_) => false,
                })
    }

    pub fn is_stopped(&self) -> bool {
        self.mode == Mode::Stopped
    }

    /// Every held partition is committed up to its target by every lane.
    pub fn is_caught_up(&self) -> bool {
        self.reached_targets() && self.lanes.iter().all(|l| l.open.is_none() && !l.in_flight())
    }

    /// Whether the lane counts on this cut, which is on its way.
    pub fn is_committing(&self, lane: Lane, cut: u64) -> bool {
        let lane = self.lanes.iter().find(|l| l.lane == lane);
        lane.is_some_and(|l| matches!(&l.flight, Flight::Commit(sealed) if sealed.cut == cut))
    }

    /// Where the lane stands: admitted, and committed by its slowest output.
    pub fn positions(&self, lane: Lane) -> Vec<(Partition, Offset, Offset)> {
        let Some(state) = self.lanes.iter().find(|l| l.lane == lane) else { return Vec::new() };
        state
            .holds
            .iter()
            .filter_map(|(&partition, hold)| match hold {
                Hold::Open { marks, position, .. } => {
                    let committed = marks.values().map(|m| m.next).min()?;
                    Some((partition, *position, committed))
                }
                Hold::Taking | Hold::Gone { .. } => None,
            })
            .collect()
    }

    pub fn held(&self) -> usize {
        self.lanes[0].holds.len()
    }

    /// The lane cannot commit now; why readiness may fail.
    pub fn is_recovering(&self) -> bool {
        self.lanes.iter().any(|l| matches!(l.flight, Flight::Backoff { .. }))
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneState {
        let known = self.lanes.iter_mut().find(|l| l.lane == lane);
        known.expect("the driver names only the lanes it was given")
    }

    fn reached_targets(&self) -> bool {
        let Some(targets) = &self.targets else { return false };
        self.lanes.iter().all(|lane| {
            lane.holds.iter().all(|(partition, hold)| {
                match (targets.get(partition), lane.position(*partition)) {
                    // It gets no further, and is told as a gap.
                    _ if matches!(hold, Hold::Gone { .. }) => true,
                    (Some(target), Some(position)) => position >= *target,
                    (Some(_), None) => false,
                    // Added after the start: not part of what was asked for.
                    (None, _) => true,
                }
            })
        })
    }

    fn assigned(&mut self, partitions: Vec<Partition>) {
        for index in 0..self.lanes.len() {
            for &partition in &partitions {
                self.lanes[index].holds.insert(partition, Hold::Taking);
                self.lanes[index].wanted.insert(partition);
            }
        }
        for partition in &partitions {
            self.leaving.remove(partition);
            self.suspects.remove(partition);
            self.readers.remove(partition);
        }
        self.seek_again();
        self.take_what_is_wanted();
    }

    /// One claim at a time per lane; none before the wait of a recovery is over.
    fn take_what_is_wanted(&mut self) {
        for lane in &mut self.lanes {
            let waits =
                lane.claim != Pending::None || matches!(lane.flight, Flight::Backoff { .. });
            if lane.wanted.is_empty() || waits {
                continue;
            }
            let partitions: Vec<_> = std::mem::take(&mut lane.wanted).into_iter().collect();
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            lane.claim = Pending::Awaited(ticket);
            self.effects.push_back(Effect::Take { lane: lane.lane, ticket, partitions });
        }
    }

    fn taken(
        &mut self,
        lane: Lane,
        ticket: Ticket,
        marks: Vec<(Output, Partition, Mark)>,
        gaps: Vec<Gap>,
        advances: Vec<IdleAdvance>,
    ) {
        if !self.is_awaited(lane, ticket) {
            return;
        }
        self.stands(lane, gaps);
        let state = self.lane(lane);
        // Given up meanwhile: the epoch was bumped for nothing, which harms nobody. Given up and
        // assigned again: it is to be claimed anew, and somebody else may have had it in between.
        let marks: Vec<_> = marks
            .into_iter()
            .filter(|(_, p, _)| matches!(state.holds.get(p), Some(Hold::Taking)))
            .filter(|(_, p, _)| !state.wanted.contains(p))
            .collect();
        // A file's name must not sort before one that holds earlier offsets of its partition
        // (L-2): a lake cut that is open already with a lower number ends first.
        let newest = marks.iter().map(|(_, _, m)| m.sequence).max().unwrap_or(0);
        match &state.open {
            Some(open) if lane == Lane::Lake && open.sequence <= newest => {
                state.deferred.extend(marks);
            }
            Some(_) | None => self.adopt(lane, marks, advances),
        }
        self.take_what_is_wanted();
    }

    fn adopt(
        &mut self,
        lane: Lane,
        marks: Vec<(Output, Partition, Mark)>,
        advances: Vec<IdleAdvance>,
    ) {
        if marks.is_empty() {
            return;
        }
        let state = self.lane(lane);
        let mut taken: BTreeMap<Partition, BTreeMap<Output, Mark>> = BTreeMap::new();
        for (output, partition, mark) in &marks {
            taken.entry(*partition).or_default().insert(output.clone(), *mark);
        }
        let partitions: Vec<Partition> = taken.keys().copied().collect();
        for (partition, marks) in taken {
            let position = marks.values().map(|m| m.next).min().unwrap_or_default();
            let admitted = position;
            state.holds.insert(partition, Hold::Open { marks, position, admitted });
            state.gone.remove(&partition);
        }
        state.has_committed = false;
        self.effects.push_back(Effect::Adopt { lane, marks, advances });
        for partition in partitions {
            self.rest.disturb(partition, self.now);
            self.position_reader(partition);
        }
        self.follow();
    }

    /// Keeps P-3: the reader goes back when it stands above a lane.
    fn position_reader(&mut self, partition: Partition) {
        let Some(lowest) = self.lanes.iter().filter_map(|l| l.position(partition)).min() else {
            return;
        };
        match self.readers.get(&partition) {
            Some(reader) if *reader <= lowest => {}
            Some(_) | None => {
                self.readers.insert(partition, lowest);
                self.near_end = false;
                self.effects.push_back(Effect::Seek { partition, to: lowest });
            }
        }
    }

    fn take_failed(&mut self, lane: Lane, ticket: Ticket, kind: Kind, why: String) {
        if self.is_awaited(lane, ticket) {
            self.recover(lane, kind, why);
        }
    }

    /// Whether to listen to this answer; ends the claim that it is of.
    fn is_awaited(&mut self, lane: Lane, ticket: Ticket) -> bool {
        let state = self.lane(lane);
        match state.claim {
            Pending::Awaited(awaited) if awaited == ticket => {
                state.claim = Pending::None;
                true
            }
            Pending::GivenUp(given_up) if given_up == ticket => {
                state.claim = Pending::None;
                self.take_what_is_wanted();
                false
            }
            Pending::None | Pending::Awaited(_) | Pending::GivenUp(_) => false,
        }
    }

    fn retry_takes(&mut self) {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if let Flight::Backoff { until } = lane.flight
                && until <= self.now
            {
                lane.flight = Flight::None;
                lane.wanted = lane.holds.keys().copied().collect();
            }
            lane.look_again(self.now);
        }
        self.take_what_is_wanted();
    }

    fn arrived(&mut self, arrivals: &[Arrival]) {
        let mut fresh = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            // Not positioned or leaving: left over from before a seek or a revoke.
            let Some(reader) = self.readers.get_mut(&arrival.partition) else { continue };
            if arrival.next < *reader || self.leaving.contains(&arrival.partition) {
                continue;
            }
            *reader = arrival.next;
            self.rest.disturb(arrival.partition, self.now);
            fresh.push(*arrival);
        }
        for index in 0..self.lanes.len() {
            self.admit(index, &fresh);
        }
        self.follow();
    }

    fn admit(&mut self, index: usize, arrivals: &[Arrival]) {
        let mut from = Vec::new();
        let follows = self.follows(&self.lanes[index]);
        for arrival in arrivals {
            let lane = &self.lanes[index];
            let Some(position) = lane.position(arrival.partition) else { continue };
            if arrival.next <= position {
                continue;
            }
            if !follows {
                self.open_cut(index, arrival.partition, position);
            }
            let lane = &mut self.lanes[index];
            if let Some(Hold::Open { position, admitted, .. }) =
                lane.holds.get_mut(&arrival.partition)
            {
                *position = arrival.next;
                if !follows {
                    *admitted = arrival.next;
                }
            }
            if !follows && let Some(open) = &mut lane.open {
                let span =
                    open.spans.entry(arrival.partition).or_insert(Span::new(position, position));
                assert_eq!(span.to, position, "P-2: a lane admits each offset once, in order");
                span.to = arrival.next;
            }
            if arrival.records > 0 {
                from.push((arrival.partition, position));
            }
        }
        if !from.is_empty() {
            self.effects.push_back(match follows {
                true => Effect::Hold { from },
                false => Effect::Admit { lane: self.lanes[index].lane, from },
            });
        }
    }

    fn open_cut(&mut self, index: usize, partition: Partition, from: Offset) {
        let now = self.now;
        let cut = self.next_cut;
        let lane = &mut self.lanes[index];
        if lane.open.is_some() {
            return;
        }
        let sequence = match lane.lane {
            Lane::Lake => lane.sequence() + 1,
            Lane::Tables => 0,
        };
        let epoch = match lane.holds.get(&partition) {
            Some(Hold::Open { marks, .. }) => marks.values().map(|m| m.epoch).max(),
            Some(Hold::Taking | Hold::Gone { .. }) | None => None,
        };
        self.next_cut += 1;
        lane.open = Some(OpenCut {
            cut,
            since: now,
            sequence,
            spans: BTreeMap::new(),
            advanced: BTreeSet::new(),
            size: Size::default(),
        });
        self.effects.push_back(Effect::Open {
            lane: lane.lane,
            cut,
            sequence,
            partition,
            from,
            epoch: epoch.unwrap_or_default(),
        });
    }

    fn seal_what_is_due(&mut self) {
        for index in 0..self.lanes.len() {
            if let Some(reason) = self.due(&self.lanes[index])
                && !self.waits_for_judge(&self.lanes[index], reason)
            {
                self.seal(index, reason);
            }
        }
    }

    fn due(&self, lane: &LaneState) -> Option<Reason> {
        let open = lane.open.as_ref()?;
        // P-1.
        if lane.in_flight() {
            return None;
        }
        let s = &self.settings;
        let age = self.now.saturating_sub(open.since);
        if self.mode == Mode::Draining {
            return Some(Reason::Drain);
        }
        if self.leaving.iter().any(|p| open.spans.contains_key(p)) {
            return Some(Reason::Revoke);
        }
        if self.suspects.iter().any(|p| open.spans.contains_key(p)) {
            return Some(Reason::OutOfReach);
        }
        if !lane.deferred.is_empty() {
            return Some(Reason::Assignment);
        }
        if self.reached_targets() {
            return Some(Reason::CaughtUp);
        }
        match lane.lane {
            Lane::Tables => {
                let interval = lane.interval(s, self.near_end);
                if lane.is_full(s) {
                    Some(Reason::Memory)
                // After a failure the next cut is a small one: where two processes take the same
                // keys, what was committed in between is little.
                } else if age >= interval || s.judged && lane.failures > 0 {
                    Some(Reason::Interval)
                } else {
                    None
                }
            }
            Lane::Lake => {
                if open.size.largest_file >= s.lake_file_bytes {
                    Some(Reason::Bytes)
                } else if lane.is_full(s) {
                    Some(Reason::Memory)
                } else if open.size.files >= s.lake_files {
                    Some(Reason::Files)
                } else if age >= s.lake_age {
                    Some(Reason::Age)
                } else {
                    None
                }
            }
        }
    }

    fn seal(&mut self, index: usize, reason: Reason) {
        let lane = &mut self.lanes[index];
        let Some(open) = lane.open.take() else { return };
        let mut moves = Vec::new();
        for (&partition, span) in &open.spans {
            let Some(Hold::Open { marks, .. }) = lane.holds.get(&partition) else {
                panic!("an open cut covers only held partitions");
            };
            for (output, mark) in marks {
                // An output that is ahead of its lane (a model added later stands behind) moves
                // only by what it has not seen.
                let from = span.from.max(mark.next);
                if from < span.to || open.advanced.contains(&partition) {
                    moves.push(Move {
                        output: output.clone(),
                        partition,
                        span: Span::new(from, span.to),
                        epoch: mark.epoch,
                        sequence: open.sequence,
                    });
                }
            }
        }
        moves.sort_by(|a, b| (&a.output, a.partition).cmp(&(&b.output, b.partition)));
        lane.flight = Flight::Commit(SealedCut { cut: open.cut, moves: moves.clone() });
        let (lane, cut) = (lane.lane, open.cut);
        self.effects.push_back(Effect::Seal { lane, cut, reason, moves });
        self.adopt_deferred(lane);
    }

    fn adopt_deferred(&mut self, lane: Lane) {
        let deferred = std::mem::take(&mut self.lane(lane).deferred);
        self.adopt(lane, deferred, Vec::new());
    }

    fn committed(&mut self, lane: Lane, cut: u64) {
        let state = self.lane(lane);
        let Flight::Commit(sealed) = &state.flight else { return };
        if sealed.cut != cut {
            return;
        }
        let moves = sealed.moves.clone();
        state.flight = Flight::None;
        state.failures = 0;
        state.has_committed = true;
        for moved in &moves {
            if let Some(Hold::Open { marks, .. }) = state.holds.get_mut(&moved.partition)
                && let Some(mark) = marks.get_mut(&moved.output)
            {
                mark.next = moved.span.to;
                mark.sequence = moved.sequence;
            }
        }
        if lane == Lane::Tables {
            self.follow();
        }
        let partitions: BTreeSet<_> = moves.iter().map(|m| m.partition).collect();
        let offsets = partitions.into_iter().filter_map(|p| Some((p, self.committed_by_all(p)?)));
        let offsets: Vec<_> = offsets.collect();
        if !offsets.is_empty() {
            self.effects.push_back(Effect::Acknowledge { offsets });
        }
        self.take_what_is_wanted();
    }

    fn committed_by_all(&self, partition: Partition) -> Option<Offset> {
        let lanes = self.lanes.iter().map(|lane| match lane.holds.get(&partition) {
            Some(Hold::Open { marks, .. }) => marks.values().map(|m| m.next).min(),
            Some(Hold::Taking | Hold::Gone { .. }) | None => None,
        });
        lanes.collect::<Option<Vec<_>>>()?.into_iter().min()
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
