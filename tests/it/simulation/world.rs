//! The clock, the order of events, and what goes wrong when: everything by the seed.

use super::{
    group::{Group, Order},
    process::{Gone, News, Process},
    servers::{Bucket, Life, Log, Out, Warehouse},
    tasks::{Reply, Request, TaskId, Tasks},
};
use highwater::{
    pipeline::worker::{Input, Settings},
    record::{Lane, Offset, Partition},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::AddAssign,
    rc::Rc,
    time::Duration,
};

const SESSION_TIMEOUT: u64 = 1_500_000;
const RELEASE_TIMEOUT: u64 = 800_000;
/// Faults are over by then, and all must be done this much later.
const PATIENCE: u64 = 60_000_000;
const STEPS_MAX: u64 = 400_000;
/// Kept for the failure text.
const TRACE: usize = 400;

/// The last steps, kept outside so that a panic leaves them.
pub type Trace = Rc<RefCell<VecDeque<String>>>;

#[derive(Debug)]
pub enum Event {
    Step(Life),
    /// A request reaches its server; its answer takes `back` from then on, or is lost.
    Land {
        task: TaskId,
        request: Request,
        back: Option<u64>,
        stray: bool,
    },
    Reply {
        task: TaskId,
        reply: Reply,
    },
    Order(Order),
    Rebalance,
    /// The coordinator has not heard of it for long.
    Expire {
        life: Life,
        unheard: bool,
    },
    /// It learns that it was expelled.
    Notice(Life),
    ReleaseTimeout {
        life: Life,
        round: u64,
    },
    Start(usize),
    Kill(Life),
    Produce,
    /// A sweep of the bucket: lists, then reads what the warehouse names, then removes one by one.
    Sweep,
    SweepRead(Vec<u64>),
    SweepRemove(u64),
    Trouble,
    Calm,
    Check,
    /// An operator looks, and accepts what is gone.
    Accept,
}

/// Kinds of trouble that this seed has.
#[derive(Debug, Default)]
pub struct Faults {
    /// Share of requests that go wrong.
    requests: f64,
    slow: bool,
    /// Share of effects before or after which the process dies.
    effects: f64,
    pub repeats: bool,
    troubles: Vec<Trouble>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Crash,
    Freeze,
    KafkaAway,
    WarehouseAway,
    StoreAway,
    Expel,
    ClockJump,
    Halt,
    Drain,
    Rebalance,
    Retention,
}

const TROUBLES: [Trouble; 11] = [
    Trouble::Crash,
    Trouble::Freeze,
    Trouble::KafkaAway,
    Trouble::WarehouseAway,
    Trouble::StoreAway,
    Trouble::Expel,
    Trouble::ClockJump,
    Trouble::Halt,
    Trouble::Drain,
    Trouble::Rebalance,
    Trouble::Retention,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Trouble,
    /// No new faults; everything is to be read.
    Calm,
    Draining,
    /// One process more, which finds what the others left behind.
    Last,
    Over,
}

/// What a seed came to.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub steps: u64,
    pub lives: u64,
    pub commits: u64,
    pub fenced: u64,
    pub records: u64,
    /// Offsets gone unread, over all outputs.
    pub lost: u64,
    pub advances: u64,
    pub late: u64,
    /// Staged uploads that a sweep removed.
    pub swept: u64,
    pub duplicates: u64,
    pub conflicts: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, o: Self) {
        self.steps += o.steps;
        self.lives += o.lives;
        self.commits += o.commits;
        self.fenced += o.fenced;
        self.records += o.records;
        self.lost += o.lost;
        self.advances += o.advances;
        self.late += o.late;
        self.swept += o.swept;
        self.duplicates += o.duplicates;
        self.conflicts += o.conflicts;
    }
}

pub struct World {
    pub now: u64,
    pub rng: SmallRng,
    pub logs: Vec<Log>,
    pub warehouse: Warehouse,
    pub bucket: Bucket,
    pub tasks: Tasks,
    pub faults: Faults,
    pub kafka_away_until: u64,
    pub warehouse_away_until: u64,
    pub store_away_until: u64,
    /// Cuts that were on their way when their process gave them up.
    pub given_up: BTreeSet<(Life, Lane, u64)>,
    pub drained: BTreeSet<Life>,
    group: Group,
    lives: BTreeMap<Life, Process>,
    next_life: Life,
    slots: usize,
    settings: Settings,
    absent: f64,
    /// Of the records' keys; what else is drawn is not disturbed by it.
    keys_rng: SmallRng,
    key_space: u32,
    phase: Phase,
    calm_since: u64,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    steps: u64,
    swept: u64,
    trace: Option<Trace>,
}

impl World {
    pub fn new(seed: u64, trace: Option<Trace>) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let partitions = rng.random_range(1..=4);
        let logs = (0..partitions).map(|_| Log::new(rng.random_range(0..30))).collect();
        let millis = Duration::from_millis;
        let settings = Settings {
            tables_interval: millis(rng.random_range(20..200)),
            tables_interval_behind: millis(rng.random_range(50..400)),
            tables_memory: rng.random_range(20..400),
            lake_age: millis(rng.random_range(200..1_500)),
            lake_file_bytes: rng.random_range(10..200),
            lake_memory: rng.random_range(20..200),
            lake_files: rng.random_range(2..4),
            backoff_min: millis(20),
            backoff_max: millis(500),
            fenced_wait: millis(200),
            look_again: millis(200),
            idle_after: rng.random_bool(0.7).then(|| millis(rng.random_range(20..300))),
            idle_check: millis(rng.random_range(10..100)),
            jitter: Some(seed),
            // Every other seed has a judge.
            judged: seed % 2 == 1,
        };
        // Each seed has some of the troubles: a rare mix shows more than all of them always.
        let faults = Faults {
            requests: [0.0, 0.01, 0.05, 0.15][rng.random_range(0..4)],
            slow: rng.random_bool(0.5),
            effects: [0.0, 0.0, 0.002, 0.02][rng.random_range(0..4)],
            repeats: rng.random_bool(0.5),
            troubles: TROUBLES.into_iter().filter(|_| rng.random_bool(0.4)).collect(),
        };
        let mut keys_rng = SmallRng::seed_from_u64(!seed);
        let key_space = [3, 30, 300][keys_rng.random_range(0..3)];
        let absent = [0.0, 0.1, 0.5][rng.random_range(0..3)];
        let slots = rng.random_range(1..=3);
        let group = Group::new(rng.random_bool(0.4), partitions);
        let calm_since = rng.random_range(2_000_000..6_000_000);
        let mut world = Self {
            now: 0,
            rng,
            logs,
            warehouse: Warehouse::new(settings.judged),
            bucket: Bucket::default(),
            tasks: Tasks::default(),
            faults,
            kafka_away_until: 0,
            warehouse_away_until: 0,
            store_away_until: 0,
            given_up: BTreeSet::new(),
            drained: BTreeSet::new(),
            group,
            lives: BTreeMap::new(),
            next_life: 0,
            slots,
            settings,
            absent,
            keys_rng,
            key_space,
            phase: Phase::Trouble,
            calm_since,
            events: BTreeMap::new(),
            next_event: 0,
            steps: 0,
            swept: 0,
            trace,
        };
        for slot in 0..slots {
            world.after(slot as u64 * 1_000, Event::Start(slot));
        }
        world.after(0, Event::Produce);
        world.after(0, Event::Rebalance);
        world.after(50_000, Event::Sweep);
        world.after(100_000, Event::Trouble);
        world.after(300_000, Event::Accept);
        world.after(calm_since, Event::Calm);
        world
    }

    /// Runs the seed to its end; panics where an invariant does not hold.
    pub fn run(mut self) -> Tally {
        while self.phase != Phase::Over {
            let ((time, _), event) = self.events.pop_first().expect("something always goes on");
            self.now = time;
            self.steps += 1;
            let late = self.now > self.calm_since + PATIENCE || self.steps > STEPS_MAX;
            assert!(
                !late,
                "no end in sight, in phase {:?} after {} steps: {}; lives {:?}",
                self.phase,
                self.steps,
                self.warehouse.describe(),
                self.lives.keys()
            );
            self.happen(event);
        }
        self.warehouse.check_at_the_end(&self.logs, &self.bucket);
        let records = self.logs.iter().map(|l| l.records(l.start, l.end()).count() as u64).sum();
        Tally {
            steps: self.steps,
            lives: self.next_life as u64,
            commits: self.warehouse.commits,
            fenced: self.warehouse.fenced,
            records,
            lost: self.warehouse.lost,
            advances: self.warehouse.advanced,
            late: self.warehouse.late(),
            swept: self.swept,
            duplicates: self.warehouse.records.duplicates.len() as u64,
            conflicts: self.warehouse.records.conflicts,
        }
    }

    pub fn trace(&self, text: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let mut trace = trace.borrow_mut();
            if trace.len() == TRACE {
                trace.pop_front();
            }
            trace.push_back(format!("{:>10.6} {}", self.now as f64 / 1e6, text()));
        }
    }

    pub fn after(&mut self, wait: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now + wait, self.next_event), event);
    }

    /// False once the world is calm.
    pub fn chance(&mut self, share: f64) -> bool {
        self.phase == Phase::Trouble && share > 0.0 && self.rng.random_bool(share)
    }

    pub fn latency(&mut self) -> u64 {
        if self.faults.slow && self.chance(0.03) {
            self.rng.random_range(8_000..1_200_000)
        } else {
            self.rng.random_range(300..8_000)
        }
    }

    pub fn request_fails(&mut self) -> bool {
        self.chance(self.faults.requests)
    }

    /// Some(true): die before it; Some(false): after it.
    pub fn crash_at_an_effect(&mut self) -> Option<bool> {
        self.chance(self.faults.effects).then(|| self.rng.random_bool(0.5))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Step(life) => self.turn(life),
            Event::Land { task, request, back, stray } => self.land(task, request, back, stray),
            Event::Reply { task, reply } => self.deliver(task, reply),
            Event::Order(order) => self.carry_out(order),
            Event::Rebalance => {
                let orders = self.group.rebalance();
                self.give(orders);
                let wait = self.rng.random_range(20_000..100_000);
                self.after(wait, Event::Rebalance);
            }
            Event::Expire { life, unheard } => self.expire(life, unheard),
            Event::Notice(life) => self.notice(life),
            Event::ReleaseTimeout { life, round } => self.time_out(life, round),
            Event::Start(slot) => self.start_in_place(slot),
            Event::Kill(life) => self.kill(life),
            Event::Produce => self.produce(),
            Event::Sweep => {
                let listed = self.bucket.staged();
                let wait = self.rng.random_range(300..300_000);
                self.after(wait, Event::SweepRead(listed));
            }
            Event::SweepRead(listed) => self.sweep(&listed),
            Event::SweepRemove(upload) => {
                self.swept += 1;
                self.bucket.remove_staged(upload, &self.warehouse);
            }
            Event::Trouble => self.trouble(),
            Event::Calm => self.calm(),
            Event::Check => self.check(),
            Event::Accept => self.accept(),
        }
    }

    fn start_in_place(&mut self, slot: usize) {
        if matches!(self.phase, Phase::Trouble | Phase::Calm) {
            self.start(slot);
        }
    }

    fn start(&mut self, slot: usize) {
        self.next_life += 1;
        let life = self.next_life;
        let mut outputs = vec![Out::DeadLetters, Out::Old];
        if self.phase != Phase::Trouble || self.rng.random_bool(0.5) {
            outputs.push(Out::New);
        }
        self.trace(|| format!("life {life} starts with {outputs:?}"));
        let process = Process::new(life, slot, self.settings.clone(), outputs);
        self.lives.insert(life, process);
        self.group.join(life);
        self.after(1_000, Event::Step(life));
    }

    fn turn(&mut self, life: Life) {
        let Some(mut process) = self.lives.remove(&life) else { return };
        if process.frozen_until > self.now {
            self.after(process.frozen_until - self.now, Event::Step(life));
            self.lives.insert(life, process);
            return;
        }
        match self.step(&mut process) {
            Ok(()) => {
                self.lives.insert(life, process);
                let wait = match self.chance(0.02) {
                    true => self.rng.random_range(30_000..1_000_000),
                    false => self.rng.random_range(1_000..30_000),
                };
                self.after(wait, Event::Step(life));
            }
            Err(Gone) if self.drained.contains(&life) => {
                self.tasks.end(life);
                let orders = self.group.remove(life);
                self.give(orders);
                self.start_again(process.slot);
            }
            Err(Gone) => self.bury(&process),
        }
    }

    /// The process is dead; its group learns it late.
    fn bury(&mut self, process: &Process) {
        self.trace(|| format!("life {} dies", process.life));
        self.tasks.end(process.life);
        self.after(SESSION_TIMEOUT, Event::Expire { life: process.life, unheard: true });
        self.start_again(process.slot);
    }

    fn start_again(&mut self, slot: usize) {
        let wait = self.rng.random_range(10_000..2_500_000);
        self.after(wait, Event::Start(slot));
    }

    fn kill(&mut self, life: Life) {
        if let Some(process) = self.lives.remove(&life) {
            self.bury(&process);
        }
    }

    fn deliver(&mut self, task: TaskId, reply: Reply) {
        let Some(life) = self.tasks.life(task) else { return };
        let mut process = self.lives.remove(&life).expect("tasks end with their process");
        if process.frozen_until > self.now {
            let wait = process.frozen_until - self.now + self.rng.random_range(0..5_000);
            self.after(wait, Event::Reply { task, reply });
        } else {
            self.reply(&mut process, task, reply);
        }
        self.lives.insert(life, process);
    }

    fn give(&mut self, orders: Vec<Order>) {
        for order in orders {
            self.after(0, Event::Order(order));
        }
    }

    fn carry_out(&mut self, order: Order) {
        self.trace(|| format!("group: {order:?}"));
        match order {
            Order::Assign { life, partitions } => {
                if let Some(process) = self.lives.get_mut(&life)
                    && self.group.is_member(life)
                {
                    process.assigned.extend(&partitions);
                    process.inbox.push_back(News::Assigned(partitions));
                }
            }
            Order::Revoke { life, round, partitions } => {
                let Some(process) = self.lives.get_mut(&life) else { return };
                process.revoking = Some((round, partitions.clone()));
                process.inbox.push_back(News::Revoked(round, partitions));
                self.after(RELEASE_TIMEOUT, Event::ReleaseTimeout { life, round });
            }
        }
    }

    pub fn answer_revocation(&mut self, process: &mut Process, round: u64) {
        if process.revoking.as_ref().is_none_or(|(asked, _)| *asked != round) {
            return;
        }
        let (_, partitions) = process.revoking.take().expect("seen above");
        for partition in partitions {
            process.assigned.remove(&partition);
        }
        let orders = self.group.answered(process.life, round);
        self.give(orders);
    }

    fn time_out(&mut self, life: Life, round: u64) {
        let Some(mut process) = self.lives.remove(&life) else { return };
        if process.frozen_until > self.now {
            let wait = process.frozen_until - self.now;
            self.after(wait, Event::ReleaseTimeout { life, round });
        } else if let Some((asked, partitions)) = &process.revoking
            && *asked == round
        {
            process.inbox.push_back(News::Lost(partitions.clone()));
            self.answer_revocation(&mut process, round);
        }
        self.lives.insert(life, process);
    }

    fn expire(&mut self, life: Life, unheard: bool) {
        let frozen_until = self.lives.get(&life).map(|process| process.frozen_until);
        let alive = frozen_until.is_some_and(|until| until <= self.now);
        if alive && !unheard || !self.group.is_member(life) {
            return;
        }
        self.trace(|| format!("group: life {life} is expelled"));
        let orders = self.group.remove(life);
        self.give(orders);
        if let Some(until) = frozen_until {
            let wait = until.saturating_sub(self.now) + self.rng.random_range(0..800_000);
            self.after(wait, Event::Notice(life));
        }
    }

    fn notice(&mut self, life: Life) {
        let Some(process) = self.lives.get_mut(&life) else { return };
        if process.frozen_until > self.now {
            let wait = process.frozen_until - self.now;
            return self.after(wait, Event::Notice(life));
        }
        process.revoking = None;
        let lost = std::mem::take(&mut process.assigned).into_iter().collect();
        process.inbox.push_back(News::Lost(lost));
        self.group.join(life);
    }

    fn produce(&mut self) {
        if self.phase != Phase::Trouble {
            return;
        }
        let index = self.rng.random_range(0..self.logs.len());
        for _ in 0..self.rng.random_range(0..10) {
            let record = !self.rng.random_bool(self.absent);
            // Behind by up to three windows, now and then ahead.
            let behind = self.rng.random_range(-20_000..300_000);
            let key = self.keys_rng.random_range(0..self.key_space);
            self.logs[index].append(record.then_some(key), self.now as i64 - behind, self.now);
        }
        let wait = self.rng.random_range(0..60_000);
        self.after(wait, Event::Produce);
    }

    /// Age is no part of the argument, so there is no limit on it here.
    fn sweep(&mut self, listed: &[u64]) {
        let named = self.warehouse.named_uploads();
        for upload in listed.iter().filter(|upload| !named.contains(upload)) {
            let wait = self.rng.random_range(300..300_000);
            self.after(wait, Event::SweepRemove(*upload));
        }
        let wait = self.rng.random_range(1_000..200_000);
        self.after(wait, Event::Sweep);
    }

    fn trouble(&mut self) {
        if self.phase != Phase::Trouble {
            return;
        }
        if !self.faults.troubles.is_empty() {
            let which = self.faults.troubles[self.rng.random_range(0..self.faults.troubles.len())];
            self.strike(which);
        }
        let wait = self.rng.random_range(20_000..500_000);
        self.after(wait, Event::Trouble);
    }

    fn strike(&mut self, trouble: Trouble) {
        let away = self.now + self.rng.random_range(10_000..1_500_000);
        let alive: Vec<Life> = self.lives.keys().copied().collect();
        if alive.is_empty() {
            return;
        }
        let life = alive[self.rng.random_range(0..alive.len())];
        self.trace(|| format!("trouble: {trouble:?}, of life {life} if of any"));
        match trouble {
            Trouble::Crash => self.kill(life),
            Trouble::Freeze => {
                self.lives.get_mut(&life).expect("alive").frozen_until = away + away - self.now;
                self.after(SESSION_TIMEOUT, Event::Expire { life, unheard: false });
            }
            Trouble::KafkaAway => self.kafka_away_until = away,
            Trouble::WarehouseAway => self.warehouse_away_until = away,
            Trouble::StoreAway => self.store_away_until = away,
            Trouble::Expel => self.after(0, Event::Expire { life, unheard: true }),
            Trouble::ClockJump => {
                let jump = self.rng.random_range(0..3_000_000);
                self.lives.get_mut(&life).expect("alive").skew += jump;
            }
            Trouble::Halt => {
                let why = "a person has to look".to_owned();
                self.tell(life, Input::Halt { why });
                // Who looked and starts it again.
                self.after(1_000_000, Event::Kill(life));
            }
            Trouble::Drain => self.tell(life, Input::Drain),
            Trouble::Retention => {
                let index = self.rng.random_range(0..self.logs.len());
                let log = &mut self.logs[index];
                let by = self.rng.random_range(1..40);
                log.oldest = (log.oldest + by).min(log.end());
            }
            Trouble::Rebalance => {
                self.group.turn += 1;
                self.group.stale = true;
            }
        }
    }

    /// He comes when he comes; until then nothing is passed.
    fn accept(&mut self) {
        for (partition, log) in self.logs.iter().enumerate() {
            self.warehouse.accept(partition as i32, log.oldest);
        }
        self.trace(|| "operator: what is gone is accepted".to_owned());
        if matches!(self.phase, Phase::Trouble | Phase::Calm) {
            let wait = self.rng.random_range(50_000..2_000_000);
            self.after(wait, Event::Accept);
        }
    }

    fn tell(&mut self, life: Life, input: Input) {
        if let Some(process) = self.lives.get_mut(&life) {
            process.inbox.push_back(News::Worker(input));
        }
    }

    fn calm(&mut self) {
        self.trace(|| "calm".to_owned());
        self.phase = Phase::Calm;
        self.kafka_away_until = 0;
        self.warehouse_away_until = 0;
        self.store_away_until = 0;
        let lives: Vec<Life> = self.lives.keys().copied().collect();
        for life in lives {
            let process = self.lives.get_mut(&life).expect("alive");
            process.frozen_until = process.frozen_until.min(self.now);
            // The old version is replaced, in good order.
            if !process.outputs.contains(&Out::New) {
                self.tell(life, Input::Drain);
            } else if self.rng.random_bool(0.5) {
                self.tell(life, Input::Targets(self.ends()));
            }
        }
        self.after(100_000, Event::Check);
    }

    fn ends(&self) -> BTreeMap<Partition, Offset> {
        let end = |(p, log): (usize, &Log)| (Partition(p as i32), Offset(log.end()));
        self.logs.iter().enumerate().map(end).collect()
    }

    fn check(&mut self) {
        self.after(100_000, Event::Check);
        match self.phase {
            Phase::Trouble | Phase::Over => {}
            Phase::Calm => {
                let whole = self.lives.len() == self.slots
                    && self.lives.values().all(|p| p.outputs.contains(&Out::New) && !p.stopped);
                if whole && self.warehouse.is_complete(&self.logs) {
                    self.trace(|| "all is committed and visible: drain".to_owned());
                    self.phase = Phase::Draining;
                    for life in self.lives.keys().copied().collect::<Vec<_>>() {
                        self.tell(life, Input::Drain);
                    }
                }
            }
            Phase::Draining => {
                // What is still on its way lands first: it could leave something behind.
                let lands = |event: &Event| matches!(event, Event::Land { .. });
                if self.lives.is_empty() && !self.events.values().any(lands) {
                    self.phase = Phase::Last;
                    self.start(0);
                }
            }
            Phase::Last => {
                let held = |p: &Process| {
                    p.owed == 0
                        && [Lane::Tables, Lane::Lake]
                            .iter()
                            .all(|lane| p.worker.positions(*lane).len() == self.logs.len())
                };
                if self.lives.values().all(held) {
                    assert_eq!(self.warehouse.notes(), 0, "uploads that nobody aborted");
                    assert!(self.warehouse.is_complete(&self.logs));
                    self.phase = Phase::Over;
                }
            }
        }
    }
}
