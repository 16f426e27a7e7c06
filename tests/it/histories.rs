//! Histories: whatever is done to tables and lake, in whatever order, they come to what one clean run over all records gives.
//!
//! A seed draws models, records and a dozen steps ([`plan`]): records late, broken, in disorder; processes that run,
//! are killed, run beside each other; models changed and added; partitions added; records that Kafka forgets; tables and
//! files made anew, from the beginning, from a time, from the lake, killed, gone on with, given up. After each
//! catching up all tables, totals, letters and refusals are compared with an oracle that takes one record after the
//! other ([`oracle`]), at the end the rows of the lake as well, and `verify --deep` must find that everything holds.
//!
//! The steps are told by the seed alone, the moments of kills are not: a seed that failed may have to be run again a
//! few times. `HIGHWATER_TEST_SEED=7` runs one, `HIGHWATER_TEST_LONG=1` many.
//!
//! What Kafka has forgotten is read from the lake, by whatever makes tables anew. Left out: `dead-letters retry`, which judges
//! by when it is asked (`tests/it/dead_letters.rs`); offsets without a record (`tests/it/transactions.rs`) and `idle`,
//! whose clock no seed tells (`tests/it/time.rs`).

mod oracle;
mod plan;

use crate::{
    oyster::rows_of,
    replay::{self, HURRY, assert_verified},
    replay_lake,
    retention::forget,
    support::{Lake, Running, World, eventually, services},
};
use arrow::array::AsArray;
use oracle::{Expected, Row, expected};
use plan::{Ending, Plan, Spec, Step, Tap, taps};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

const SEEDS: usize = 4;
const SEEDS_LONG: u64 = 60;
/// Histories that run beside each other: mostly they wait.
const AT_ONCE: usize = 2;

/// Small fetches with a pause between them, so that a life lasts long enough to be ended; who is killed is missed soon.
const KAFKA: &str = "session.timeout.ms=2000,heartbeat.interval.ms=300,queued.min.messages=200,\
                     fetch.message.max.bytes=20000,fetch.queue.backoff.ms=10";

struct History {
    world: World,
    plan: Plan,
    specs: BTreeMap<String, Spec>,
    /// By partition and offset.
    log: Vec<Vec<Tap>>,
    produced: i64,
    services: Vec<Running>,
    /// Those that run a definition of before.
    old: Vec<Running>,
    /// By model: from where its replay was begun that stands half done.
    half_done: BTreeMap<String, String>,
    /// Kafka has forgotten something.
    expired: bool,
}

impl History {
    fn new(plan: Plan) -> Option<Self> {
        let lake = if plan.seed.is_multiple_of(2) { Lake::Local } else { Lake::S3 };
        let world = World::empty("history", plan.partitions, lake)?;
        world.declare("taps", &plan::topic());
        let specs = plan.models.clone();
        for (model, spec) in &specs {
            world.declare_model(model, &spec.sql(model));
        }
        let log = vec![Vec::new(); plan.partitions as usize];
        let (services, old, half_done) = (Vec::new(), Vec::new(), BTreeMap::new());
        let (produced, expired) = (0, false);
        Some(Self { world, plan, specs, log, produced, services, old, half_done, expired })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.command(arguments);
        command.envs(HURRY).env("HIGHWATER_KAFKA", KAFKA);
        command
    }

    fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    fn run(&self, arguments: &[&str]) -> String {
        let (code, said) = self.start(arguments).wait();
        assert_eq!(code, Some(0), "highwater {arguments:?}:\n{said}");
        said
    }

    /// `done` hears the number of each step before it is done.
    fn live(mut self, done: &AtomicUsize) {
        for (number, step) in self.plan.steps.clone().iter().enumerate() {
            done.store(number, Ordering::Relaxed);
            self.step(step);
            if number == 1 {
                self.slowly();
            }
        }
        done.store(self.plan.steps.len(), Ordering::Relaxed);
        self.end();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Produce { count, begin, partitions, quiet, seed } => {
                let mut random = SmallRng::seed_from_u64(*seed);
                let taps = taps(self.produced, *begin, *count, &mut random);
                let placed = taps.into_iter().map(|tap| {
                    let p = random.random_range(0..*partitions);
                    (if p == *quiet { (p + 1) % partitions } else { p }, tap)
                });
                self.produce(placed.collect());
            }
            Step::CatchUp => self.catch_up(),
            Step::Run { permille, kill } => self.run_for_a_while(*permille, *kill),
            Step::Start => self.services.push(self.start(&["run", "--apply", "--from-lake"])),
            Step::End { which, kill } => {
                let mut service = self.services.remove(*which);
                if !kill {
                    // Before it listens, a signal is the end of it.
                    service.address();
                    service.stop();
                }
            }
            Step::Replay { output, arguments, kills, ending, twice } => {
                self.replay(output, arguments, kills, *ending, *twice)
            }
            Step::Change { model, spec, kills, beside } => self.change(model, spec, kills, *beside),
            Step::Add { model, spec, permille } => {
                // They would hold partitions of which the new model is owed something.
                self.services.clear();
                self.old.clear();
                self.declare(model, spec);
                self.run_for_a_while(*permille, true);
            }
            Step::Widen { partitions } => {
                self.world.add_partitions(*partitions as usize);
                self.log.resize(*partitions as usize, Vec::new());
            }
            Step::Expire { permille } => self.expire(*permille),
            Step::Sweep => drop(self.run(&["sweep", "--older-than", "1ms"])),
        }
    }

    fn declare(&mut self, model: &str, spec: &Spec) {
        self.world.declare_model(model, &spec.sql(model));
        self.specs.insert(model.to_owned(), spec.clone());
    }

    fn produce(&mut self, taps: Vec<(i32, Tap)>) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.world.services.kafka)
            .set("linger.ms", "20")
            .set("enable.idempotence", "true")
            .create()
            .expect("producer");
        let topic = &self.world.kafka_topic;
        eventually("all partitions", || {
            let known = producer.client().fetch_metadata(Some(topic), Duration::from_secs(30));
            known.is_ok_and(|known| known.topics()[0].partitions().len() == self.log.len())
        });
        for (partition, tap) in taps {
            let (key, value) = (tap.number.to_string(), tap.text());
            let record = BaseRecord::to(topic).partition(partition).key(&key).payload(&value);
            producer.send(record).map_err(|(error, _)| error).expect("produce");
            producer.poll(Duration::ZERO);
            self.log[partition as usize].push(tap);
            self.produced += 1;
        }
        producer.flush(Duration::from_secs(60)).expect("flush");
    }

    /// Offsets of all live outputs.
    fn passed(&self) -> i64 {
        match self.world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") {
            0 => 0,
            _ => self.world.number(
                "SELECT coalesce(sum(next_offset), 0) FROM highwater.marks WHERE output NOT LIKE 'model:\\_%'",
            ),
        }
    }

    fn all(&self) -> i64 {
        // The lake, the dead letters and the models.
        self.produced * (2 + self.specs.len() as i64)
    }

    fn tables(&self) -> usize {
        let names: Vec<_> = self.specs.keys().map(|model| format!("'{model}'")).collect();
        let names = names.join(", ");
        self.world.number(&format!("SELECT count(*) FROM pg_tables WHERE tablename IN ({names})"))
            as usize
    }

    fn run_for_a_while(&self, permille: i64, kill: bool) {
        let before = self.passed();
        let until = before + (self.all() - before) * permille / 1_000;
        let mut process = self.start(&["run", "--apply", "--from-lake"]);
        eventually("some of it", || {
            assert!(process.is_running(), "{}", process.printed());
            // It has looked at the models, and answers signals.
            let printed = process.printed();
            let serves = printed.contains("serving http://");
            serves && self.tables() == self.specs.len() && self.passed() >= until
        });
        match kill {
            true => drop(process),
            false => drop(process.stop()),
        }
    }

    fn catch_up(&self) {
        self.run(&["run", "--apply", "--from-lake", "--until-caught-up"]);
        assert_eq!(self.passed(), self.all(), "every output has passed every record");
        self.compare();
    }

    fn is_under_way(&self, output: &str) -> bool {
        let sql = match output.strip_prefix("lake:") {
            Some(_) => "SELECT count(*) FROM highwater.lake_rewrites".to_owned(),
            None => format!("SELECT count(*) FROM highwater.rebuilds WHERE output = '{output}'"),
        };
        self.world.number(&sql) > 0
    }

    fn abort(&mut self, output: &str) {
        self.run(&["replay", output, "--abort"]);
        assert!(!self.is_under_way(output));
    }

    fn replay(
        &mut self,
        output: &str,
        arguments: &[String],
        kills: &[u64],
        ending: Ending,
        twice: bool,
    ) {
        let is_lake = output.starts_with("lake:");
        let from = arguments.get(1).cloned().unwrap_or_default();
        // Of a model one from another time must be given up first; of the lake it is gone on with.
        if !is_lake && self.is_under_way(output) && self.half_done.get(output) != Some(&from) {
            self.abort(output);
        }
        let mut words = vec!["replay", output];
        words.extend(arguments.iter().map(String::as_str));
        for ms in kills {
            let mut replay = self.start(&words);
            eventually("its beginning, or its end", || {
                self.is_under_way(output) || !replay.is_running()
            });
            // The moment of the kill.
            std::thread::sleep(Duration::from_millis(*ms));
            drop(replay);
        }
        match ending {
            Ending::Abort => self.abort(output),
            Ending::Leave => drop(self.half_done.insert(output.to_owned(), from)),
            // The one that came last goes on.
            Ending::GoOn if twice => {
                let (one, other) = (self.start(&words), self.start(&words));
                let ((one, said), (other, told)) = (one.wait(), other.wait());
                assert!(one == Some(0) || other == Some(0), "{words:?}: {said}\n{told}");
            }
            Ending::GoOn => {
                let (code, said) = self.start(&words).wait();
                // Which files reach below what Kafka has, nobody could tell before.
                if is_lake && self.expired && code == Some(1) {
                    assert!(said.contains("Kafka begins at"), "{said}");
                    self.abort(output);
                } else {
                    assert_eq!(code, Some(0), "highwater {words:?}:\n{said}");
                }
            }
        }
    }

    fn change(&mut self, model: &str, spec: &Spec, kills: &[u64], beside: bool) {
        let output = format!("model:{model}");
        if self.is_under_way(&output) {
            self.abort(&output);
        }
        match beside {
            true => self.old.append(&mut self.services),
            false => self.services.clear(),
        }
        self.declare(model, spec);
        for ms in kills {
            let mut process = self.start(&["run", "--apply", "--from-lake"]);
            eventually("the rebuild's beginning, or its end", || {
                let is_over = process.printed().contains("serving http://");
                self.is_under_way(&output) || is_over || !process.is_running()
            });
            std::thread::sleep(Duration::from_millis(*ms));
            drop(process);
        }
        self.catch_up();
    }

    fn expire(&mut self, permille: i64) {
        let outputs = 2 + self.specs.len() as i64;
        for partition in 0..self.log.len() as i32 {
            // Who has no mark yet has passed nothing.
            let below = self.world.number(&format!(
                "SELECT CASE WHEN count(*) = {outputs} THEN min(next_offset) ELSE 0 END
                 FROM highwater.marks WHERE partition = {partition} AND output NOT LIKE 'model:\\_%'"
            ));
            if below * permille / 1_000 > 0 {
                forget(&self.world, partition, below * permille / 1_000);
                self.expired = true;
            }
        }
    }

    /// Each cut of a rebuild and each piece of a lake takes its time, as on a busy disk.
    fn slowly(&self) {
        self.world.slow_down(0.05, &[replay_lake::PIECES, replay::CUTS_OF_REBUILDS]);
    }

    fn end(&mut self) {
        self.services.clear();
        self.old.clear();
        for (output, from) in std::mem::take(&mut self.half_done) {
            if self.is_under_way(&output) {
                self.half_done.insert(output.clone(), from.clone());
                let mut arguments = Vec::new();
                if !output.starts_with("lake:") {
                    arguments.extend(["--from".to_owned(), from]);
                    arguments.extend(self.expired.then(|| "--from-lake".to_owned()));
                }
                self.replay(&output, &arguments, &[], Ending::GoOn, false);
            }
        }
        self.catch_up();
        self.assert_lake();
        assert_verified(&self.world);
        replay::assert_no_trace(&self.world);
        self.run(&["sweep", "--older-than", "1ms"]);
        replay_lake::assert_no_trace(&self.world);
        self.assert_lake();
        self.compare();
    }

    fn expected(&self) -> Expected {
        let began = self.world.query(
            "SELECT partition, extract(epoch FROM max(event_time))::bigint FROM highwater.idle_advances
             WHERE before_offset = 0 GROUP BY partition",
        );
        let began = began.iter().map(|row| (number(row, 0) as i32, number(row, 1)));
        expected(&self.specs, &self.log, &began.collect())
    }

    /// Everything but the lake, once all is passed.
    fn compare(&self) {
        let mut expected = self.expected();
        for (model, spec) in &self.specs {
            let mut rows = self.world.query(&spec.query(model));
            rows.sort();
            assert_rows(model, &rows, &expected.tables[model]);
        }
        let marks = self.world.query(
            "SELECT output, partition, accepted, filtered, late, dead, first_offset + absent + duplicate + lost
             FROM highwater.marks WHERE output NOT LIKE 'model:\\_%'",
        );
        let mut fates = BTreeMap::new();
        for row in &marks {
            assert_eq!(number(row, 6), 0, "{row:?}");
            let of = [2, 3, 4, 5].map(|column| number(row, column));
            fates.insert((cell(row, 0), number(row, 1) as i32), of);
        }
        // Of a partition without a record a mark may be there or not.
        let has_records =
            |(_, partition): &(String, i32)| !self.log[*partition as usize].is_empty();
        fates.retain(|of, _| has_records(of));
        expected.fates.retain(|of, _| has_records(of));
        let what = "totals (accepted, filtered, late, dead)";
        assert_sets(what, fates.into_iter(), expected.fates.into_iter());
        let letters = self.world.query(
            "SELECT output, partition, \"offset\", class FROM highwater.dead_letters WHERE output NOT LIKE 'model:\\_%'",
        );
        let letters = letters
            .iter()
            .map(|row| (cell(row, 0), number(row, 1) as i32, number(row, 2), cell(row, 3)));
        assert_sets("dead letters", letters, expected.letters.iter().cloned());
        let refusals = self.world.query(
            "SELECT output, partition, \"offset\" FROM highwater.refusals
             WHERE output NOT LIKE 'model:\\_%' AND retried_at IS NULL",
        );
        let refusals =
            refusals.iter().map(|row| (cell(row, 0), number(row, 1) as i32, number(row, 2)));
        assert_sets("refusals", refusals, expected.refusals.iter().cloned());
    }

    /// Each row once, and of the record that it is of.
    fn assert_lake(&self) {
        let files = replay_lake::current_files(&self.world);
        let mut found = BTreeMap::new();
        rows_of(&self.world, Some(&files), |path, batch, place| {
            let ids = batch.column_by_name("tap_id").expect("tap_id").clone();
            let ids = ids.as_string::<i32>();
            for row in 0..batch.num_rows() {
                let before = found.insert(place(row), ids.value(row).to_owned());
                assert_eq!(before, None, "{:?} twice, in {path}, too", place(row));
            }
        });
        let expected = self.expected().lake;
        assert_sets("rows of the lake", found.into_iter(), expected.into_iter());
    }
}

fn cell(row: &Row, column: usize) -> String {
    row[column].clone().expect("a value")
}

fn number(row: &Row, column: usize) -> i64 {
    cell(row, column).parse().expect("a number")
}

fn assert_rows(model: &str, found: &[Row], expected: &[Row]) {
    let found = found.iter().map(|row| format!("{row:?}"));
    assert_sets(model, found, expected.iter().map(|row| format!("{row:?}")));
}

/// Told by what is there and should not be, and the other way round. No value is there twice in what is expected.
fn assert_sets<T: Ord + std::fmt::Debug>(
    what: &str,
    found: impl Iterator<Item = T>,
    expected: impl Iterator<Item = T>,
) {
    let (mut found, mut expected): (Vec<_>, Vec<_>) = (found.collect(), expected.collect());
    found.sort();
    expected.sort();
    if found == expected {
        return;
    }
    let beyond = |one: &[T], other: &[T]| -> Vec<String> {
        let only = one.iter().filter(|value| other.binary_search(value).is_err());
        only.take(8).map(|value| format!("{value:?}")).collect()
    };
    let (more, less) = (beyond(&found, &expected), beyond(&expected, &found));
    let counts = (found.len(), expected.len());
    panic!(
        "{what}: {counts:?} found and expected; found only: {more:#?}, expected only: {less:#?}"
    );
}

fn is_long() -> bool {
    std::env::var_os("HIGHWATER_TEST_LONG").is_some()
}

/// Why it failed, with all that it takes to see it again.
fn live(seed: u64) -> Result<(), String> {
    let plan = Plan::of(seed);
    let (steps, done) = (plan.steps.clone(), AtomicUsize::new(0));
    let life = AssertUnwindSafe(|| History::new(plan).expect("services").live(&done));
    let Err(panic) = std::panic::catch_unwind(life) else { return Ok(()) };
    let why = panic.downcast_ref::<String>().cloned();
    let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned()));
    let done = done.load(Ordering::Relaxed);
    let told = steps.iter().enumerate().map(|(number, step)| {
        let mark = if number == done { ">" } else { " " };
        format!("{mark} {number:2} {step}")
    });
    let told: Vec<String> = told.collect();
    Err(format!(
        "history {seed} failed at step {done} of {}. Alone: HIGHWATER_TEST_SEED={seed} tests/run --test it histories\n\
         {}\n{}",
        steps.len(),
        told.join("\n"),
        why.unwrap_or_default()
    ))
}

/// Every kind that a step may be of.
const KINDS: [&str; 22] = [
    "produce",
    "catch up",
    "killed",
    "stopped",
    "start",
    "end",
    "replay of a model",
    "replay of the lake",
    "replay killed",
    "replay twice",
    "replay given up",
    "replay left half done",
    "from the lake",
    "from a time",
    "some offsets",
    "change",
    "change killed",
    "change beside old ones",
    "add",
    "widen",
    "expire",
    "sweep",
];

fn kinds(step: &Step) -> Vec<&'static str> {
    match step {
        Step::Produce { .. } => vec!["produce"],
        Step::CatchUp => vec!["catch up"],
        Step::Run { kill, .. } => vec![if *kill { "killed" } else { "stopped" }],
        Step::Start => vec!["start"],
        Step::End { .. } => vec!["end"],
        Step::Replay { output, arguments, kills, ending, twice } => {
            let of_lake = output.starts_with("lake:");
            let is_said = |words: &str| arguments.iter().any(|said| said == words);
            let mut kinds = vec![if of_lake { "replay of the lake" } else { "replay of a model" }];
            kinds.extend((!kills.is_empty()).then_some("replay killed"));
            kinds.extend(twice.then_some("replay twice"));
            kinds.extend((*ending == Ending::Abort).then_some("replay given up"));
            kinds.extend((*ending == Ending::Leave).then_some("replay left half done"));
            kinds.extend(is_said("--from-lake").then_some("from the lake"));
            kinds.extend((!of_lake && !is_said("beginning")).then_some("from a time"));
            kinds.extend((of_lake && is_said("--from")).then_some("some offsets"));
            kinds
        }
        Step::Change { kills, beside, .. } => {
            let mut kinds = vec!["change"];
            kinds.extend((!kills.is_empty()).then_some("change killed"));
            kinds.extend(beside.then_some("change beside old ones"));
            kinds
        }
        Step::Add { .. } => vec!["add"],
        Step::Widen { .. } => vec!["widen"],
        Step::Expire { .. } => vec!["expire"],
        Step::Sweep => vec!["sweep"],
    }
}

/// The few seeds of the suite: each the one that holds most kinds of steps that those before have not.
fn chosen() -> Vec<u64> {
    let held_by = |seed| Plan::of(seed).steps.iter().flat_map(kinds).collect::<BTreeSet<_>>();
    let all: Vec<_> = (0..SEEDS_LONG).map(held_by).collect();
    let (mut held, mut seeds) = (BTreeSet::new(), Vec::new());
    while seeds.len() < SEEDS {
        let news = |seed: &u64| all[*seed as usize].difference(&held).count();
        let best = (0..SEEDS_LONG).rev().filter(|seed| !seeds.contains(seed)).max_by_key(news);
        let best = best.expect("seeds");
        held.extend(&all[best as usize]);
        seeds.push(best);
    }
    let missing: Vec<_> = KINDS.iter().filter(|kind| !held.contains(*kind)).collect();
    assert!(missing.is_empty(), "not in the suite: {missing:?}; {seeds:?} hold {held:?}");
    seeds
}

#[test]
fn any_history_comes_to_what_one_clean_run_over_all_records_gives() {
    if services().is_none() {
        return;
    }
    let seed = std::env::var("HIGHWATER_TEST_SEED").ok();
    let seed = seed.map(|seed| seed.parse::<u64>().expect("HIGHWATER_TEST_SEED is a number"));
    let seeds: Vec<u64> = match seed {
        Some(seed) => vec![seed],
        None if is_long() => (0..SEEDS_LONG).collect(),
        None => chosen(),
    };
    let next = AtomicUsize::new(0);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let lives = || {
            let mut failed = Vec::new();
            loop {
                let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return failed;
                };
                let began = std::time::Instant::now();
                failed.extend(live(seed).err());
                println!("history {seed}: {:.1?}", began.elapsed());
            }
        };
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(lives)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
