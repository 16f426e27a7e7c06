//! One life of a process: a real [`Worker`], and a small driver that does its effects as
//! `pipeline::driver`, `pipeline::encoder` and `compute` do them.

use super::{
    judge::{KEYS_MAX, WITHIN},
    servers::{Commit, DISORDER, File, Life, Log, Out, Place, Verdict, WINDOW},
    tasks::{Task, TaskId, Upload, Work},
    world::World,
};
use highwater::{
    compute::unique::{Judge, Key, Memory, Verdicts},
    error::Kind,
    event_time::Lateness,
    pipeline::worker::{Arrival, Effect, Input, Move, Settings, Size, Ticket, Worker},
    record::{EventTime, IdleAdvance, Lane, Mark, Offset, Output, Partition},
    warehouse::Taken,
};
use rand::Rng;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// What reaches a process's driver.
#[derive(Debug)]
pub enum News {
    Assigned(Vec<i32>),
    Revoked(u64, Vec<i32>),
    Lost(Vec<i32>),
    Worker(Input),
    Taken { lane: Lane, ticket: Ticket, taken: Taken, memory: Memory },
    Committed { cut: u64, learned: Memory },
    Reached(Vec<(Partition, EventTime)>),
}

/// A fetch, ordered by partition and offset.
type Batch = Vec<Place>;

#[derive(Debug)]
pub struct OpenLake {
    cut: u64,
    name: String,
    noted_for: (i32, i64),
    /// Per file its upload's task and rows that are in no part yet.
    files: BTreeMap<i64, (TaskId, Vec<Place>)>,
    rows: usize,
    partitions: BTreeSet<i32>,
}

/// Where an output of the tables stands in a partition, as `compute` keeps it.
#[derive(Debug)]
struct Standing {
    floor: i64,
    lateness: Lateness,
    ahead: VecDeque<IdleAdvance>,
}

impl Standing {
    fn pass(&mut self, to: i64) {
        while let Some(advance) = self.ahead.pop_front_if(|advance| advance.before.0 <= to) {
            self.lateness.observe(advance.event_time);
        }
    }
}

#[derive(Debug)]
pub struct Process {
    pub life: Life,
    pub slot: usize,
    pub worker: Worker,
    /// Its models: of the lane of tables.
    pub outputs: Vec<Out>,
    pub inbox: VecDeque<News>,
    /// Frozen until then, with all its tasks.
    pub frozen_until: u64,
    pub skew: u64,
    pub stopped: bool,
    /// Committed cuts whose files are not completed.
    pub owed: usize,
    /// What the Kafka client owns; the driver hears of it later.
    pub assigned: BTreeSet<i32>,
    /// The revocation that the client waits for.
    pub revoking: Option<(u64, Vec<i32>)>,
    /// What the driver has heard to own and not to give up.
    held: BTreeSet<i32>,
    reading: BTreeMap<i32, i64>,
    seeks: BTreeMap<i32, i64>,
    /// Fetchers that a rebalance stopped and started: where they stand is anybody's guess.
    disturbed: BTreeSet<i32>,
    releases: Vec<(u64, BTreeSet<i32>)>,
    /// The lane of tables: floors per mark, and what is open.
    standing: BTreeMap<(Out, i32), Standing>,
    rows: Vec<Verdict>,
    advances: BTreeMap<Place, i64>,
    /// When the question for the ends of logs was put.
    pub asked: u64,
    lake_standing: BTreeSet<i32>,
    lake: Option<OpenLake>,
    flights: BTreeMap<Lane, (u64, Vec<Move>)>,
    /// Of a topic with `unique`.
    judge: Option<Judge>,
    memory: Memory,
    /// The one that is open.
    tables_cut: Option<u64>,
    /// What waits for its verdict on the way to the lake.
    waiting: BTreeMap<i32, VecDeque<i64>>,
}

impl Process {
    pub fn new(life: Life, slot: usize, settings: Settings, outputs: Vec<Out>) -> Self {
        let judge = settings.judged.then(|| {
            let disorder = Duration::from_micros(DISORDER as u64);
            Judge::new(WITHIN, disorder, KEYS_MAX)
        });
        Self {
            life,
            slot,
            worker: Worker::new(settings, &[Lane::Tables, Lane::Lake]),
            outputs,
            inbox: VecDeque::new(),
            frozen_until: 0,
            skew: 0,
            stopped: false,
            owed: 0,
            assigned: BTreeSet::new(),
            revoking: None,
            held: BTreeSet::new(),
            reading: BTreeMap::new(),
            seeks: BTreeMap::new(),
            disturbed: BTreeSet::new(),
            releases: Vec::new(),
            standing: BTreeMap::new(),
            rows: Vec::new(),
            advances: BTreeMap::new(),
            asked: 0,
            lake_standing: BTreeSet::new(),
            lake: None,
            flights: BTreeMap::new(),
            judge,
            memory: Memory::default(),
            tables_cut: None,
            waiting: BTreeMap::new(),
        }
    }

    pub fn outputs_of(&self, lane: Lane) -> Vec<Out> {
        match lane {
            Lane::Tables => self.outputs.clone(),
            Lane::Lake => vec![Out::Lake],
        }
    }

    /// Whether a cut, open or on its way and not given up, has anything of the partition.
    fn holds_work_of(&self, partition: i32) -> bool {
        let mut moves = self.flights.values().flat_map(|(_, moves)| moves);
        moves.any(|m| m.partition.0 == partition)
            || self.rows.iter().any(|(_, (p, _), _)| *p == partition)
            || self.advances.keys().any(|(p, _)| *p == partition)
            || self.lake.as_ref().is_some_and(|lake| lake.partitions.contains(&partition))
    }
}

fn numbers(partitions: &[Partition]) -> Vec<i32> {
    partitions.iter().map(|p| p.0).collect()
}

fn partitions(numbers: &[i32]) -> Vec<Partition> {
    numbers.iter().map(|n| Partition(*n)).collect()
}

/// The process ended within a step.
pub struct Gone;

impl World {
    /// One turn of the driver's loop.
    pub fn step(&mut self, p: &mut Process) -> Result<(), Gone> {
        while let Some(news) = p.inbox.pop_front() {
            self.hear(p, news)?;
        }
        let now = Duration::from_micros(self.now + p.skew);
        self.decide(p, Input::Tick(now), &[])?;
        if p.worker.is_drained() && !p.stopped && p.owed == 0 {
            self.trace(|| format!("life {} is drained", p.life));
            self.drained.insert(p.life);
            return Err(Gone);
        }
        if p.worker.wants_records() {
            self.fetch(p)?;
        }
        Ok(())
    }

    fn hear(&mut self, p: &mut Process, news: News) -> Result<(), Gone> {
        self.trace(|| format!("life {} hears {news:?}", p.life));
        let input = match news {
            News::Assigned(list) => {
                self.disturb(p);
                p.held.extend(&list);
                Input::Assigned(partitions(&list))
            }
            News::Revoked(round, list) => {
                self.disturb(p);
                for partition in &list {
                    p.held.remove(partition);
                    p.reading.remove(partition);
                    p.seeks.remove(partition);
                }
                p.releases.push((round, list.iter().copied().collect()));
                Input::Revoked(partitions(&list))
            }
            News::Lost(list) => {
                for partition in &list {
                    p.held.remove(partition);
                    p.reading.remove(partition);
                    p.seeks.remove(partition);
                    p.waiting.remove(partition);
                }
                Input::Lost(partitions(&list))
            }
            News::Taken { lane, ticket, taken: Taken { marks, gaps, advances, .. }, memory } => {
                p.memory = memory;
                self.decide(p, Input::Taken { lane, ticket, marks, gaps, advances }, &[])?;
                return self.give_up_contested(p);
            }
            News::Committed { cut, learned } => {
                if p.flights.get(&Lane::Tables).is_some_and(|(flight, _)| *flight == cut) {
                    p.flights.remove(&Lane::Tables);
                    if let Some(judge) = &mut p.judge {
                        judge.learn(&learned);
                    }
                }
                self.decide(p, Input::Committed { lane: Lane::Tables, cut }, &[])?;
                return self.give_up_contested(p);
            }
            News::Reached(reached) => {
                if let Some(judge) = &mut p.judge {
                    judge.hear(&reached);
                }
                return Ok(());
            }
            News::Worker(input) => {
                if let Input::Committed { lane, cut } = input
                    && p.flights.get(&lane).is_some_and(|(flight, _)| *flight == cut)
                {
                    p.flights.remove(&lane);
                }
                input
            }
        };
        self.decide(p, input, &[])
    }

    fn give_up_contested(&mut self, p: &mut Process) -> Result<(), Gone> {
        match (p.judge.as_ref().is_some_and(Judge::is_contested), p.tables_cut) {
            (true, Some(cut)) => {
                let (kind, why) = (Kind::Retry, "contested".to_owned());
                self.decide(p, Input::Failed { lane: Lane::Tables, cut, kind, why }, &[])
            }
            (true, None) | (false, _) => Ok(()),
        }
    }

    fn disturb(&mut self, p: &mut Process) {
        for &partition in p.reading.keys() {
            if self.rng.random_bool(0.5) {
                p.disturbed.insert(partition);
            }
        }
    }

    fn decide(&mut self, p: &mut Process, input: Input, batch: &[Place]) -> Result<(), Gone> {
        p.worker.handle(input);
        while let Some(effect) = p.worker.next_effect() {
            if !matches!(effect, Effect::Admit { .. }) {
                self.trace(|| format!("life {} does {effect:?}", p.life));
            }
            let crash = self.crash_at_an_effect();
            if crash == Some(true) {
                return Err(Gone);
            }
            if let Some(input) = self.act(p, effect, batch) {
                self.decide(p, input, batch)?;
            }
            if crash == Some(false) {
                return Err(Gone);
            }
        }
        Ok(())
    }

    fn fetch(&mut self, p: &mut Process) -> Result<(), Gone> {
        if self.now < self.kafka_away_until {
            return Ok(());
        }
        let seeks = std::mem::take(&mut p.seeks);
        for (partition, to) in seeks {
            // Not started yet: tried again at the next poll.
            if !p.assigned.contains(&partition) || self.chance(0.1) {
                p.seeks.insert(partition, to);
            } else {
                p.reading.insert(partition, to);
            }
        }
        // What retention has passed while it was not fetched cannot be.
        let log = |partition: i32| &self.logs[partition as usize];
        let gone = |(p, next): (&i32, &i64)| (*next < log(*p).oldest).then_some(*p);
        let gone: Vec<i32> = p.reading.iter().filter_map(gone).collect();
        for partition in &gone {
            p.reading.remove(partition);
        }
        let (batch, passed, more) = self.poll(p);
        let mut arrivals: Vec<Arrival> = Vec::new();
        for run in batch.chunk_by(|a, b| a.0 == b.0) {
            let (partition, last) = run[run.len() - 1];
            arrivals.push(Arrival {
                partition: Partition(partition),
                next: Offset::after(last),
                records: run.len() as u64,
            });
        }
        for (partition, next) in passed {
            arrivals.push(Arrival {
                partition: Partition(partition),
                next: Offset(next),
                records: 0,
            });
        }
        self.trace(|| format!("life {} reads {arrivals:?} more={more}", p.life));
        self.decide(p, Input::Arrived { arrivals, more }, &batch)?;
        for partition in gone {
            self.trace(|| format!("life {}: {partition} is out of reach", p.life));
            self.decide(p, Input::OutOfReach(Partition(partition)), &[])?;
        }
        let waiting = p.waiting.values().map(VecDeque::len).sum::<usize>();
        let size = Size { memory: p.rows.len() + waiting, ..Size::default() };
        self.decide(p, Input::Measured { lane: Lane::Tables, size }, &[])?;
        let size = match &p.lake {
            Some(lake) => Size {
                memory: lake.rows,
                largest_file: lake.files.values().map(|f| f.1.len() as u64).max().unwrap_or(0),
                files: lake.files.len(),
            },
            None => Size::default(),
        };
        self.decide(p, Input::Measured { lane: Lane::Lake, size }, &[])
    }

    /// Records, partitions passed without a record, whether there is more.
    fn poll(&mut self, p: &mut Process) -> (Batch, Vec<(i32, i64)>, bool) {
        let mut batch = Vec::new();
        let mut quiet = true;
        let mut more = false;
        for (&partition, next) in &mut p.reading {
            let log = &self.logs[partition as usize];
            if !self.rng.random_bool(0.7) {
                quiet &= log.records(*next, log.end()).next().is_none();
                continue;
            }
            let from = if p.disturbed.contains(&partition) {
                // Ahead: what lies between would look like a gap, were it not for the new seek.
                *next + self.rng.random_range(0..4)
            } else if self.faults.repeats && self.rng.random_bool(0.2) {
                *next - self.rng.random_range(0..10)
            } else {
                *next
            };
            let limit = self.rng.random_range(1..24);
            let before = batch.len();
            batch.extend(log.records(from, log.end()).take(limit).map(|o| (partition, o)));
            if batch.len() > before {
                quiet = false;
                let last = batch[batch.len() - 1].1;
                *next = (*next).max(Offset::after(last).0);
                more |= batch.len() - before == limit;
            }
        }
        let mut passed = Vec::new();
        if quiet {
            for (&partition, next) in &mut p.reading {
                let end = self.logs[partition as usize].end();
                if end > *next && !p.disturbed.contains(&partition) {
                    *next = self.rng.random_range(*next..end) + 1;
                    passed.push((partition, *next));
                }
            }
        }
        (batch, passed, more)
    }

    /// Some: a cut that cannot stand.
    fn act(&mut self, p: &mut Process, effect: Effect, batch: &[Place]) -> Option<Input> {
        match effect {
            Effect::Take { lane, ticket, partitions } => {
                let outputs = p.outputs_of(lane);
                self.start_take(p.life, lane, ticket, numbers(&partitions), outputs);
            }
            Effect::Adopt { lane, marks, advances } => adopt(p, lane, &marks, &advances),
            Effect::AskEnds { partitions } => {
                p.asked = self.now;
                let at = EventTime((self.now + p.skew) as i64);
                self.start_ends(p.life, at, numbers(&partitions));
            }
            Effect::Advance(advance) => self.advance(p, advance),
            Effect::Seek { partition, to } => {
                let partition = partition.0;
                assert!(p.held.contains(&partition), "a seek of {partition}, which is not held");
                p.reading.remove(&partition);
                p.disturbed.remove(&partition);
                p.seeks.insert(partition, to.0);
            }
            Effect::Open { lane: Lane::Tables, cut, .. } => {
                p.tables_cut = Some(cut);
                let empty = p.rows.is_empty() && p.advances.is_empty();
                assert!(empty, "a cut opens on another's rows");
            }
            Effect::Open { lane: Lane::Lake, cut, sequence, partition, from, epoch } => {
                assert!(p.lake.is_none(), "a cut of the lake opens within another");
                let name = format!("{sequence:06}-{}-{:06}-{}", partition.0, from.0, epoch.0);
                let noted_for = (partition.0, epoch.0);
                let (files, partitions) = (BTreeMap::new(), BTreeSet::new());
                p.lake = Some(OpenLake { cut, name, noted_for, files, rows: 0, partitions });
            }
            Effect::Admit { lane, from } => {
                let wanted = |&(p, offset): &Place| {
                    from.iter().any(|(q, floor)| q.0 == p && offset >= floor.0)
                };
                let rows: Vec<Place> = batch.iter().copied().filter(wanted).collect();
                match lane {
                    Lane::Tables => admit_to_tables(p, &rows, &self.logs),
                    Lane::Lake => self.admit_to_lake(p, &rows),
                }
            }
            Effect::Hold { from } => {
                for &(partition, offset) in batch {
                    if from.iter().any(|(q, floor)| q.0 == partition && offset >= floor.0) {
                        p.waiting.entry(partition).or_default().push_back(offset);
                    }
                }
            }
            Effect::Follow { to } => return self.follow(p, &to),
            Effect::Seal { lane, cut, moves, .. } => self.seal(p, lane, cut, moves),
            Effect::Abandon { lane } => self.abandon(p, lane),
            Effect::Release { partitions } => self.release(p, &numbers(&partitions)),
            Effect::Acknowledge { offsets } => {
                for (partition, offset) in offsets {
                    for out in p.outputs.iter().chain([&Out::Lake]) {
                        let next = self.warehouse.next(*out, partition.0);
                        assert!(next >= Some(offset.0), "acknowledged before it was committed");
                    }
                    if let Some(judge) = &mut p.judge {
                        judge.passed(partition, offset);
                    }
                }
            }
            Effect::Stand { partition } => {
                p.reading.remove(&partition.0);
                p.seeks.remove(&partition.0);
            }
            Effect::Stop { .. } => p.stopped = true,
        }
        None
    }

    fn follow(&mut self, p: &mut Process, to: &[(Partition, Offset)]) -> Option<Input> {
        for &(partition, to) in to {
            let waiting = p.waiting.entry(partition.0).or_default();
            let later = waiting.split_off(waiting.partition_point(|offset| *offset < to.0));
            let free = std::mem::replace(waiting, later);
            let Some(first) = free.front() else { continue };
            let judge = p.judge.as_ref().expect("only a judge is followed");
            let twice = match judge.duplicates(partition, *first, to) {
                Ok(twice) => twice,
                Err(error) => {
                    let (kind, why) = (error.kind, error.to_string());
                    let cut = p.lake.as_ref().expect("a cut is open when it is added to").cut;
                    return Some(Input::Failed { lane: Lane::Lake, cut, kind, why });
                }
            };
            let fresh = free.iter().filter(|offset| !twice.contains(offset));
            let rows: Vec<Place> = fresh.map(|offset| (partition.0, *offset)).collect();
            self.admit_to_lake(p, &rows);
        }
        None
    }

    fn admit_to_lake(&mut self, p: &mut Process, rows: &[Place]) {
        let life = p.life;
        let lake = p.lake.as_mut().expect("a cut is open when records come");
        for &place in rows {
            assert!(p.lake_standing.contains(&place.0), "a record before its mark");
            // Two files per cut, as of two hours.
            let file = place.1 / 5 % 2;
            let path = format!("{file}/{}", lake.name);
            let (_, waiting) = lake.files.entry(file).or_insert_with(|| {
                let upload = Upload::new(lake.cut, path, lake.noted_for);
                (self.tasks.add(Task { life, work: Work::Upload(upload) }), Vec::new())
            });
            waiting.push(place);
            lake.rows += 1;
            lake.partitions.insert(place.0);
        }
        let mut put = Vec::new();
        for (task, waiting) in lake.files.values_mut() {
            if waiting.len() >= 4 && self.rng.random_bool(0.5) {
                put.push((*task, std::mem::take(waiting)));
            }
        }
        for (task, rows) in put {
            self.put_part(task, rows);
        }
    }

    /// Only at the log's end, as it was when the clock was read or later.
    fn advance(&mut self, p: &mut Process, advance: IdleAdvance) {
        let IdleAdvance { partition, before, event_time } = advance;
        let end = self.logs[partition.0 as usize].end_at(p.asked);
        assert!(before.0 >= end, "E-4: an advance at {}@{}, before {end}", partition.0, before.0);
        if let Some(judge) = &mut p.judge {
            judge.hear(&[(partition, event_time)]);
        }
        let mut rises = false;
        for (_, standing) in p.standing.iter_mut().filter(|((_, of), _)| *of == partition.0) {
            assert!(standing.floor <= before.0, "E-4: an advance below a mark");
            standing.pass(before.0);
            rises |= standing.lateness.watermark.max() < Some(event_time);
            standing.lateness.observe(event_time);
        }
        if rises {
            let known = p.advances.entry((partition.0, before.0)).or_insert(event_time.0);
            *known = event_time.0.max(*known);
        }
    }

    fn seal(&mut self, p: &mut Process, lane: Lane, cut: u64, moves: Vec<Move>) {
        let before = p.flights.insert(lane, (cut, moves.clone()));
        assert!(before.is_none(), "P-1: {lane:?} has a second commit in flight");
        let (rows, advances, files) = (Vec::new(), Vec::new(), Vec::new());
        let (life, times, verdicts) = (p.life, BTreeMap::new(), Verdicts::default());
        let mut commit = Commit { life, lane, cut, moves, rows, advances, times, verdicts, files };
        match lane {
            Lane::Tables => {
                p.tables_cut = None;
                for m in &commit.moves {
                    let key = (Out::of(&m.output), m.partition.0);
                    let standing = p.standing.get_mut(&key).expect("a mark was adopted");
                    standing.pass(m.span.to.0);
                    commit.times.insert(key, standing.lateness.watermark.max().map(|t| t.0));
                }
                let rows = std::mem::take(&mut p.rows);
                let advances = std::mem::take(&mut p.advances).into_iter().collect();
                let verdicts = p.judge.as_mut().map(Judge::seal).unwrap_or_default();
                self.start_commit(Commit { rows, advances, verdicts, ..commit });
            }
            Lane::Lake => {
                let lake = p.lake.take().expect("a cut is open when it is sealed");
                assert_eq!(lake.cut, cut);
                self.start_publication(commit, lake.files.into_values().collect());
            }
        }
    }

    fn abandon(&mut self, p: &mut Process, lane: Lane) {
        if let Some((cut, _)) = p.flights.remove(&lane) {
            self.given_up.insert((p.life, lane, cut));
        }
        match lane {
            Lane::Tables => {
                p.tables_cut = None;
                p.rows.clear();
                p.advances.clear();
                p.standing.clear();
                if let Some(judge) = &mut p.judge {
                    judge.abandon();
                }
            }
            Lane::Lake => {
                p.lake_standing.clear();
                p.waiting.clear();
                for (task, _) in p.lake.take().into_iter().flat_map(|lake| lake.files.into_values())
                {
                    self.tasks.remove(task);
                }
            }
        }
    }

    fn release(&mut self, p: &mut Process, partitions: &[i32]) {
        for &partition in partitions {
            assert!(!p.holds_work_of(partition), "P-5: {partition} is released while it has work");
            p.waiting.remove(&partition);
        }
        let mut answers = Vec::new();
        for (round, waiting) in &mut p.releases {
            waiting.retain(|partition| !partitions.contains(partition));
            if waiting.is_empty() {
                answers.push(*round);
            }
        }
        p.releases.retain(|(_, waiting)| !waiting.is_empty());
        for round in answers {
            self.answer_revocation(p, round);
        }
    }
}

fn adopt(
    p: &mut Process,
    lane: Lane,
    marks: &[(Output, Partition, Mark)],
    advances: &[IdleAdvance],
) {
    if let (Lane::Tables, Some(judge)) = (lane, &mut p.judge) {
        judge.adopt(marks, advances, &p.memory);
    }
    for (output, partition, mark) in marks {
        match lane {
            Lane::Tables => {
                let disorder = Duration::from_micros(DISORDER as u64);
                let lateness = Lateness::new(mark.event_time_max, disorder);
                let ahead = advances.iter().filter(|a| a.partition == *partition).copied();
                let floor = mark.next.0;
                let mut standing = Standing { floor, lateness, ahead: ahead.collect() };
                standing.pass(floor);
                p.standing.insert((Out::of(output), partition.0), standing);
            }
            Lane::Lake => {
                p.lake_standing.insert(partition.0);
                p.waiting.remove(&partition.0);
            }
        }
    }
}

fn admit_to_tables(p: &mut Process, rows: &[Place], logs: &[Log]) {
    for &(partition, offset) in rows {
        let (key, time) = logs[partition as usize].record(offset);
        let (key, time) = (Key(u128::from(key)), EventTime(time));
        let judge = p.judge.as_mut();
        let is_duplicate =
            judge.is_some_and(|judge| judge.verdict(Partition(partition), offset, time, key));
        for &out in &p.outputs {
            let standing = p.standing.get_mut(&(out, partition));
            let standing = standing.expect("a record before its mark");
            if offset >= standing.floor {
                standing.pass(offset);
                let end = time.0.div_euclid(WINDOW) * WINDOW + WINDOW;
                let late = standing.lateness.watermark.is_final(end, 0);
                standing.lateness.observe(time);
                if !is_duplicate {
                    p.rows.push((out, (partition, offset), late));
                }
            }
        }
    }
}

impl File {
    pub fn new(path: String) -> Self {
        Self { path, upload: 0, parts: 0, rows: Vec::new() }
    }
}
