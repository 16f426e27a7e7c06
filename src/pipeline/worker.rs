//! One topic's work as a value: which partitions it holds, what is open, what is in flight.
//!
//! Owns: positions, open and sealed spans, when to cut, what to do after each outcome.
//! Does not own: records, sockets, tasks, clocks, retries of a single request (see `driver`).
//!
//! `handle` never waits and never fails. Time is an argument: [`Moment`] since any fixed origin.
//! The invariants P-1 to P-5 are in the stage's front page.

use crate::{
    error::Kind,
    record::{Epoch, Lane, Mark, Offset, Output, Partition, Span},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// Time since an origin that the driver chose.
pub type Moment = Duration;

/// A claim on partitions; an answer to an older one is not listened to.
pub type Ticket = u64;

/// When cuts end and how long to wait after a failure.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Age of a cut of the tables while the reader is near the log's end.
    pub tables_interval: Duration,
    /// The same while it is catching up: larger cuts cost less per event.
    pub tables_interval_behind: Duration,
    /// Bytes that an open cut of the tables may hold before it is cut early.
    pub tables_memory: usize,
    pub lake_age: Duration,
    pub lake_file_bytes: u64,
    pub lake_memory: usize,
    pub lake_files: usize,
    /// First wait after a failure; doubles up to `backoff_max` until a cut is committed: with the
    /// store away taking goes well each time, and committing never.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Wait after being fenced: the group's own news (revoked, lost) should come first.
    pub fenced_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tables_interval: Duration::from_secs(1),
            tables_interval_behind: Duration::from_secs(5),
            tables_memory: 128 << 20,
            lake_age: Duration::from_secs(60),
            lake_file_bytes: 128 << 20,
            lake_memory: 128 << 20,
            lake_files: 10_000,
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(15),
            fenced_wait: Duration::from_secs(5),
        }
    }
}

/// What one fetch brought for one partition, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub partition: Partition,
    /// After the last record, or the log's end: everything below has been delivered or is absent.
    pub next: Offset,
    pub records: u64,
}

/// What an open cut holds, measured by the driver after each admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    pub memory: usize,
    pub largest_file: u64,
    pub files: usize,
}

#[derive(Debug, Clone)]
pub enum Input {
    Assigned(Vec<Partition>),
    /// To be given up in good order; answered by [`Effect::Release`].
    Revoked(Vec<Partition>),
    /// Gone already: somebody else may own them.
    Lost(Vec<Partition>),
    Taken {
        lane: Lane,
        ticket: Ticket,
        marks: Vec<(Output, Partition, Mark)>,
    },
    TakeFailed {
        lane: Lane,
        ticket: Ticket,
        kind: Kind,
        why: String,
    },
    /// One fetch, decoded; the driver keeps the records until it has done the effects.
    Arrived {
        arrivals: Vec<Arrival>,
        /// The fetch was cut off by its limit: there is more.
        more: bool,
    },
    Measured {
        lane: Lane,
        size: Size,
    },
    Committed {
        lane: Lane,
        cut: u64,
    },
    /// The cut, open or in flight, cannot be committed.
    Failed {
        lane: Lane,
        cut: u64,
        kind: Kind,
        why: String,
    },
    /// Nothing can go on: the breaker, a record that Kafka cannot deliver, a lost file.
    Halt {
        why: String,
    },
    /// End when these are committed (`--until-caught-up`).
    Targets(BTreeMap<Partition, Offset>),
    Tick(Moment),
    /// Commit what is held and stop reading.
    Drain,
}

/// Why a cut ended: a label of `highwater_cuts_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Interval,
    Bytes,
    Age,
    Memory,
    Files,
    Revoke,
    Drain,
    CaughtUp,
    Assignment,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Memory => "memory",
            Self::Files => "files",
            Self::Revoke => "revoke",
            Self::Drain => "drain",
            Self::CaughtUp => "caught_up",
            Self::Assignment => "assignment",
        }
    }
}

/// A mark that a sealed cut will move; the driver adds the fates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub output: Output,
    pub partition: Partition,
    pub span: Span,
    pub epoch: Epoch,
    pub sequence: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Take partitions in PostgreSQL: bump their epochs, finish or abort what owners before left,
    /// tell the marks.
    Take { lane: Lane, ticket: Ticket, partitions: Vec<Partition> },
    /// The lane's marks are these now; forget what was held for these partitions.
    Adopt { lane: Lane, marks: Vec<(Output, Partition, Mark)> },
    /// Read this partition from here on.
    Seek { partition: Partition, to: Offset },
    /// A new cut begins; of the lake with its files' name.
    Open { lane: Lane, cut: u64, sequence: i64, partition: Partition, from: Offset, epoch: Epoch },
    /// Add the records of the fetch at hand, per partition those at or above the offset.
    Admit { lane: Lane, from: Vec<(Partition, Offset)> },
    /// End the open cut and commit it; answered by `Committed` or `Failed`.
    Seal { lane: Lane, cut: u64, reason: Reason, moves: Vec<Move> },
    /// Drop the open cut and whatever is in flight, without looking back.
    Abandon { lane: Lane },
    /// Nothing of these is held any more.
    Release { partitions: Vec<Partition> },
    /// Committed by every lane: for the group's offsets, which only lag tools read.
    Acknowledge { offsets: Vec<(Partition, Offset)> },
    /// The topic stops here: a person has to look.
    Stop { why: String },
}

/// A lane's hold on one partition.
#[derive(Debug, Clone)]
enum Hold {
    /// Claimed; the marks are not known yet.
    Taking,
    Open {
        marks: BTreeMap<Output, Mark>,
        /// Admitted up to here: at or above every mark.
        position: Offset,
    },
}

#[derive(Debug, Clone)]
struct OpenCut {
    cut: u64,
    since: Moment,
    sequence: i64,
    spans: BTreeMap<Partition, Span>,
    size: Size,
}

#[derive(Debug, Clone)]
struct SealedCut {
    cut: u64,
    moves: Vec<Move>,
}

#[derive(Debug, Clone)]
enum Flight {
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
enum Pending {
    None,
    Awaited(Ticket),
    /// Its answer says only that it is over.
    GivenUp(Ticket),
}

#[derive(Debug)]
struct LaneState {
    lane: Lane,
    holds: BTreeMap<Partition, Hold>,
    open: Option<OpenCut>,
    flight: Flight,
    /// It concerns other partitions than the flight does.
    claim: Pending,
    /// To be claimed when the claim under way is answered.
    wanted: BTreeSet<Partition>,
    failures: u32,
    /// Marks of partitions taken while a lake cut was open whose number is not above theirs.
    deferred: Vec<(Output, Partition, Mark)>,
}

impl LaneState {
    fn new(lane: Lane) -> Self {
        Self {
            lane,
            holds: BTreeMap::new(),
            open: None,
            flight: Flight::None,
            claim: Pending::None,
            wanted: BTreeSet::new(),
            failures: 0,
            deferred: Vec::new(),
        }
    }

    fn position(&self, partition: Partition) -> Option<Offset> {
        match self.holds.get(&partition) {
            Some(Hold::Open { position, .. }) => Some(*position),
            Some(Hold::Taking) | None => None,
        }
    }

    fn in_flight(&self) -> bool {
        match self.flight {
            Flight::Commit(_) | Flight::Backoff { .. } => true,
            Flight::None => false,
        }
    }

    /// Takes records of some partition: without one, reading would be for nothing.
    fn is_open(&self) -> bool {
        self.holds.values().any(|hold| matches!(hold, Hold::Open { .. }))
    }

    /// Whether an open or sealed cut covers the partition.
    fn covers(&self, partition: Partition) -> bool {
        let open = self.open.as_ref().is_some_and(|o| o.spans.contains_key(&partition));
        let sealed = match &self.flight {
            Flight::Commit(sealed) => sealed.moves.iter().any(|m| m.partition == partition),
            Flight::None | Flight::Backoff { .. } => false,
        };
        open || sealed
    }

    fn sequence(&self) -> i64 {
        let held = self.holds.values().filter_map(|hold| match hold {
            Hold::Open { marks, .. } => marks.get(&Output::Lake).map(|m| m.sequence),
            Hold::Taking => None,
        });
        let sealed = match &self.flight {
            Flight::Commit(sealed) => sealed.moves.iter().map(|m| m.sequence).max(),
            Flight::None | Flight::Backoff { .. } => None,
        };
        held.chain(sealed).max().unwrap_or(0)
    }
}

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
    targets: Option<BTreeMap<Partition, Offset>>,
    /// The last fetch found the log's end.
    near_end: bool,
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
            targets: None,
            near_end: false,
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
            Input::Taken { lane, ticket, marks } => self.taken(lane, ticket, marks),
            Input::TakeFailed { lane, ticket, kind, why } => {
                self.take_failed(lane, ticket, kind, why);
            }
            Input::Arrived { arrivals, more } => {
                self.near_end = !more;
                self.arrived(&arrivals);
            }
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
            }
            Input::Drain => {
                if self.mode == Mode::Running {
                    self.mode = Mode::Draining;
                }
            }
        }
        self.seal_what_is_due();
        self.release_what_is_free();
    }

    /// Whether to fetch: something is held, nothing is over its budget.
    pub fn wants_records(&self) -> bool {
        self.mode == Mode::Running
            && self.lanes.iter().any(LaneState::is_open)
            && !self.reached_targets()
            && self.lanes.iter().all(|lane| !self.is_full(lane))
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

    /// Where the lane stands: admitted, and committed by its slowest output.
    pub fn positions(&self, lane: Lane) -> Vec<(Partition, Offset, Offset)> {
        let Some(state) = self.lanes.iter().find(|l| l.lane == lane) else { return Vec::new() };
        state
            .holds
            .iter()
            .filter_map(|(&partition, hold)| match hold {
                Hold::Open { marks, position } => {
                    let committed = marks.values().map(|m| m.next).min()?;
                    Some((partition, *position, committed))
                }
                Hold::Taking => None,
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

    fn is_full(&self, lane: &LaneState) -> bool {
        let Some(open) = &lane.open else { return false };
        let limit = match lane.lane {
            Lane::Tables => self.settings.tables_memory,
            Lane::Lake => self.settings.lake_memory,
        };
        // Over its share with nowhere to go: stop fetching until the flight lands.
        open.size.memory >= limit && lane.in_flight()
    }

    fn reached_targets(&self) -> bool {
        let Some(targets) = &self.targets else { return false };
        self.lanes.iter().all(|lane| {
            lane.holds.keys().all(|partition| {
                match (targets.get(partition), lane.position(*partition)) {
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

    fn taken(&mut self, lane: Lane, ticket: Ticket, marks: Vec<(Output, Partition, Mark)>) {
        if !self.is_awaited(lane, ticket) {
            return;
        }
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
            Some(_) | None => self.adopt(lane, marks),
        }
        self.take_what_is_wanted();
    }

    fn adopt(&mut self, lane: Lane, marks: Vec<(Output, Partition, Mark)>) {
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
            state.holds.insert(partition, Hold::Open { marks, position });
        }
        self.effects.push_back(Effect::Adopt { lane, marks });
        for partition in partitions {
            self.position_reader(partition);
        }
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
            fresh.push(*arrival);
        }
        for index in 0..self.lanes.len() {
            self.admit(index, &fresh);
        }
    }

    fn admit(&mut self, index: usize, arrivals: &[Arrival]) {
        let mut from = Vec::new();
        for arrival in arrivals {
            let lane = &self.lanes[index];
            let Some(position) = lane.position(arrival.partition) else { continue };
            if arrival.next <= position {
                continue;
            }
            self.open_cut(index, arrival.partition, position);
            let lane = &mut self.lanes[index];
            if let Some(Hold::Open { position, .. }) = lane.holds.get_mut(&arrival.partition) {
                *position = arrival.next;
            }
            if let Some(open) = &mut lane.open {
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
            self.effects.push_back(Effect::Admit { lane: self.lanes[index].lane, from });
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
            Some(Hold::Taking) | None => None,
        };
        self.next_cut += 1;
        lane.open = Some(OpenCut {
            cut,
            since: now,
            sequence,
            spans: BTreeMap::new(),
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
            if let Some(reason) = self.due(&self.lanes[index]) {
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
        if !lane.deferred.is_empty() {
            return Some(Reason::Assignment);
        }
        if self.reached_targets() {
            return Some(Reason::CaughtUp);
        }
        match lane.lane {
            Lane::Tables => {
                let interval =
                    if self.near_end { s.tables_interval } else { s.tables_interval_behind };
                if open.size.memory >= s.tables_memory {
                    Some(Reason::Memory)
                } else if age >= interval {
                    Some(Reason::Interval)
                } else {
                    None
                }
            }
            Lane::Lake => {
                if open.size.largest_file >= s.lake_file_bytes {
                    Some(Reason::Bytes)
                } else if open.size.memory >= s.lake_memory {
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
                if from < span.to {
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
        self.adopt(lane, deferred);
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
        for moved in &moves {
            if let Some(Hold::Open { marks, .. }) = state.holds.get_mut(&moved.partition)
                && let Some(mark) = marks.get_mut(&moved.output)
            {
                mark.next = moved.span.to;
                mark.sequence = moved.sequence;
            }
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
            Some(Hold::Taking) | None => None,
        });
        lanes.collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    fn failed(&mut self, lane: Lane, cut: u64, kind: Kind, why: String) {
        let state = self.lane(lane);
        let sealed = matches!(&state.flight, Flight::Commit(sealed) if sealed.cut == cut);
        if sealed || state.open.as_ref().is_some_and(|open| open.cut == cut) {
            self.recover(lane, kind, why);
        }
    }

    /// P-4: drop everything, wait, take the partitions anew.
    fn recover(&mut self, lane: Lane, kind: Kind, why: String) {
        let wait = match kind {
            Kind::Halt | Kind::Config => return self.stop(why),
            Kind::Fenced => self.settings.fenced_wait,
            Kind::Retry | Kind::Unknown => {
                let doubled =
                    self.settings.backoff_min * 2u32.pow(self.lane(lane).failures.min(10));
                doubled.min(self.settings.backoff_max)
            }
        };
        let until = self.now + wait;
        let state = self.lane(lane);
        state.failures += 1;
        self.abandon(lane);
        self.lane(lane).flight = Flight::Backoff { until };
    }

    fn stop(&mut self, why: String) {
        self.mode = Mode::Stopped;
        for lane in &mut self.lanes {
            lane.open = None;
            lane.flight = Flight::None;
            lane.holds.clear();
            self.effects.push_back(Effect::Abandon { lane: lane.lane });
        }
        let partitions = std::mem::take(&mut self.leaving).into_iter().collect();
        self.effects.push_back(Effect::Release { partitions });
        self.effects.push_back(Effect::Stop { why });
    }

    fn abandon(&mut self, lane: Lane) {
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
            self.lane(lane).holds.remove(&partition);
        }
    }

    /// A rebalance stops and starts the client's fetchers of partitions that stay, from positions
    /// of its own. Ours are the ones that count, so they are set again.
    fn seek_again(&mut self) {
        for (&partition, &to) in &self.readers {
            self.effects.push_back(Effect::Seek { partition, to });
        }
    }

    fn revoked(&mut self, partitions: Vec<Partition>) {
        for partition in partitions {
            self.readers.remove(&partition);
            self.leaving.insert(partition);
            for lane in &mut self.lanes {
                lane.wanted.remove(&partition);
                lane.deferred.retain(|(_, p, _)| *p != partition);
                // Another lane's commit may keep it for a while: what is not open is not opened
                // any more, or a claim's answer would have a partition read that is going.
                if let Some(Hold::Taking) = lane.holds.get(&partition) {
                    lane.holds.remove(&partition);
                }
            }
        }
        self.seek_again();
    }

    /// P-5.
    fn release_what_is_free(&mut self) {
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
                lane.holds.remove(partition);
            }
        }
        self.effects.push_back(Effect::Release { partitions: free });
    }

    fn lost(&mut self, partitions: &[Partition]) {
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
            for lane in &mut self.lanes {
                lane.holds.remove(partition);
                lane.wanted.remove(partition);
                lane.deferred.retain(|(_, p, _)| p != partition);
            }
        }
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
