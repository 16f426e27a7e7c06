//! What a history is: taps, models and steps, all of it told by a seed before anything runs.
//!
//! Owns: what is drawn. Does not own: doing it, nor what must come out.

use crate::taps::TOPIC;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use std::{collections::BTreeMap, fmt};

/// 2026-03-01 06:00 UTC.
const BEGIN_S: i64 = 1_772_344_800;
/// Of the topic file.
pub const DISORDER_S: i64 = 90;
const MODELS_MAX: usize = 6;
const PARTITIONS_MAX: i32 = 5;
/// Services of the group at the same time.
const SERVICES_MAX: usize = 2;

/// Many small files; what is refused stops nothing.
pub fn topic() -> String {
    TOPIC.to_owned()
        + "roll = { age = \"200ms\", bytes = \"8KiB\" }\n[dead_letters]\nstop_above = \"100%\"\n"
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    Malformed,
    Missing,
    Type,
}

impl Flaw {
    /// As a dead letter has it.
    pub fn class(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Malformed => Some("malformed"),
            Self::Missing => Some("missing"),
            Self::Type => Some("type"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Tap {
    pub number: i64,
    /// Seconds since 1970.
    pub at: i64,
    pub stop: String,
    pub mode: &'static str,
    pub fare: Option<i64>,
    pub flaw: Flaw,
}

impl Tap {
    pub fn id(&self) -> String {
        format!("tap-{}", self.number)
    }

    pub fn text(&self) -> String {
        let at = chrono::DateTime::from_timestamp(self.at, 0).expect("in range");
        let mut value = serde_json::json!({
            "tapId": self.id(), "stopId": self.stop, "mode": self.mode, "eventTime": at.to_rfc3339(),
            "fareCents": self.fare,
        });
        match self.flaw {
            Flaw::None => {}
            Flaw::Malformed => return "{\"tapId\":".to_owned(),
            Flaw::Missing => drop(value.as_object_mut().expect("object").remove("stopId")),
            Flaw::Type => value["fareCents"] = "free".into(),
        }
        value.to_string()
    }

    pub fn column(&self, column: Column) -> &str {
        match column {
            Column::Stop => &self.stop,
            Column::Mode => self.mode,
        }
    }
}

/// Mostly in order, some minutes back, hours back; some broken, some with a fare that doubled overflows.
pub fn taps(first: i64, begin: i64, count: usize, random: &mut SmallRng) -> Vec<Tap> {
    let tap = |i: i64| {
        let back = match random.random_range(0..100) {
            0..3 => random.random_range(0..7_200),
            3..13 => random.random_range(0..400),
            _ => 0,
        };
        let fare = match random.random_range(0..100) {
            0..20 => None,
            20 => Some(i64::MAX),
            _ => Some(random.random_range(100..500)),
        };
        let flaw = match random.random_range(0..100) {
            0 => Flaw::Missing,
            1 => Flaw::Type,
            2 | 3 => Flaw::Malformed,
            _ => Flaw::None,
        };
        Tap {
            number: first + i,
            at: begin + i / 2 - back,
            stop: format!("S{:02}", random.random_range(0..20)),
            mode: ["bus", "tram", "tube"].choose(random).expect("three"),
            fare,
            flaw,
        }
    };
    (0..count as i64).map(tap).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Stop,
    Mode,
}

impl Column {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop_id",
            Self::Mode => "mode",
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::Stop => Self::Mode,
            Self::Mode => Self::Stop,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    Paid,
    Elsewhere,
    Trams,
}

impl Filter {
    fn sql(self) -> &'static str {
        match self {
            Self::Paid => "fare_cents IS NOT NULL",
            Self::Elsewhere => "stop_id <> 'S00'",
            Self::Trams => "mode = 'tram'",
        }
    }

    pub fn takes(self, tap: &Tap) -> bool {
        match self {
            Self::Paid => tap.fare.is_some(),
            Self::Elsewhere => tap.stop != "S00",
            Self::Trams => tap.mode == "tram",
        }
    }
}

/// In minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    All,
    Tumble(i64),
    Hop(i64, i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    Amend,
    Drop,
    DeadLetter,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub kind: Kind,
    pub filter: Option<Filter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Aggregate {
        shape: Shape,
        late: Late,
        /// Minutes.
        lateness: i64,
        key: Column,
        /// `count(DISTINCT …)` of the other column.
        distinct: bool,
        most: bool,
    },
    /// The latest row of a stop.
    Latest,
    /// A row per tap, and a letter where the fare cannot be doubled.
    Each,
}

impl Spec {
    fn aggregate(random: &mut SmallRng) -> Self {
        let shapes = [
            Shape::All,
            Shape::Tumble(1),
            Shape::Tumble(5),
            Shape::Tumble(15),
            Shape::Hop(1, 3),
            Shape::Hop(5, 20),
        ];
        let late = [Late::Amend, Late::Drop, Late::DeadLetter];
        Self {
            kind: Kind::Aggregate {
                shape: *shapes.choose(random).expect("some"),
                late: *late.choose(random).expect("some"),
                lateness: *[0, 10].choose(random).expect("some"),
                key: *[Column::Stop, Column::Mode].choose(random).expect("some"),
                distinct: random.random_ratio(1, 2),
                most: random.random_ratio(1, 2),
            },
            filter: Self::filter(random),
        }
    }

    fn filter(random: &mut SmallRng) -> Option<Filter> {
        let filters =
            [None, None, Some(Filter::Paid), Some(Filter::Elsewhere), Some(Filter::Trams)];
        *filters.choose(random).expect("some")
    }

    fn any(random: &mut SmallRng) -> Self {
        match random.random_range(0..6) {
            0 => Self { kind: Kind::Latest, filter: Self::filter(random) },
            1 => Self { kind: Kind::Each, filter: Self::filter(random) },
            _ => Self::aggregate(random),
        }
    }

    /// Another one, of which the table is made anew.
    fn changed(&self, random: &mut SmallRng) -> Self {
        loop {
            let spec = match self.kind {
                Kind::Aggregate { .. } => Self::aggregate(random),
                Kind::Latest | Kind::Each => {
                    Self { kind: self.kind.clone(), filter: Self::filter(random) }
                }
            };
            if spec != *self {
                return spec;
            }
        }
    }

    fn is_windowed(&self) -> bool {
        matches!(self.kind, Kind::Aggregate { shape: Shape::Tumble(_) | Shape::Hop(..), .. })
    }

    pub fn sql(&self, name: &str) -> String {
        let filter = self.filter.map_or(String::new(), |f| format!(" WHERE {}", f.sql()));
        let (key, distinct, most, shape, late, lateness) = match &self.kind {
            Kind::Latest => {
                return format!(
                    "CREATE MATERIALIZED VIEW {name} WITH (primary_key = 'stop_id') AS
                     SELECT stop_id, tap_id, fare_cents FROM taps{filter};"
                );
            }
            Kind::Each => {
                return format!(
                    "CREATE MATERIALIZED VIEW {name} AS
                     SELECT tap_id, fare_cents * 2 AS doubled FROM taps{filter};"
                );
            }
            Kind::Aggregate { shape, late, lateness, key, distinct, most } => {
                (*key, distinct, most, shape, late, lateness)
            }
        };
        let window = match shape {
            Shape::All => None,
            Shape::Tumble(size) => Some(format!("tumble(interval '{size} minutes')")),
            Shape::Hop(slide, size) => {
                Some(format!("hop(interval '{slide} minutes', interval '{size} minutes')"))
            }
        };
        let options = window.as_ref().map_or(String::new(), |_| {
            let late = match late {
                Late::Amend => "amend",
                Late::Drop => "drop",
                Late::DeadLetter => "dead-letter",
            };
            format!(" WITH (allowed_lateness = '{lateness} minutes', late = '{late}')")
        });
        let select = window.as_ref().map_or(String::new(), |w| format!("{w} AS window, "));
        let group = window.as_ref().map_or("", |_| "window, ");
        let (column, other) = (key.name(), key.other().name());
        let mut more = String::new();
        if *distinct {
            more += &format!(", count(DISTINCT {other}) AS others");
        }
        if *most {
            more += ", max(fare_cents) AS most";
        }
        format!(
            "CREATE MATERIALIZED VIEW {name}{options} AS
             SELECT {select}{column}, count(*) AS taps, sum(fare_cents) AS fare{more}
             FROM taps{filter} GROUP BY {group}{column};"
        )
    }

    /// What asks for the rows as the oracle tells them.
    pub fn query(&self, name: &str) -> String {
        let columns = match &self.kind {
            Kind::Latest => "stop_id, tap_id, fare_cents".to_owned(),
            Kind::Each => "_partition, _offset, tap_id, doubled".to_owned(),
            Kind::Aggregate { shape, key, distinct, most, .. } => {
                let mut columns = Vec::new();
                if *shape != Shape::All {
                    columns.push("extract(epoch FROM window_start)::bigint");
                    columns.push("extract(epoch FROM window_end)::bigint");
                }
                columns.extend([key.name(), "taps", "fare"]);
                columns.extend(distinct.then_some("others"));
                columns.extend(most.then_some("most"));
                columns.join(", ")
            }
        };
        format!("SELECT {columns} FROM {name}")
    }
}

/// How a replay that was killed ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    GoOn,
    Abort,
    /// Half done, until another step or the end of the history meets it.
    Leave,
}

#[derive(Debug, Clone)]
pub enum Step {
    Produce {
        count: usize,
        begin: i64,
        partitions: i32,
        /// Which partition gets nothing.
        quiet: i32,
        seed: u64,
    },
    /// A process that runs until it has caught up, beside whoever runs; then all tables are compared.
    CatchUp,
    /// A process that is ended when it has done so much of what there was to do.
    Run {
        permille: i64,
        kill: bool,
    },
    /// A process that goes on running.
    Start,
    /// One of those ends.
    End {
        which: usize,
        kill: bool,
    },
    /// Killed so many milliseconds after each of its beginnings. `twice`: at last two processes go on with it.
    Replay {
        output: String,
        arguments: Vec<String>,
        kills: Vec<u64>,
        ending: Ending,
        twice: bool,
    },
    /// And `run --apply`, killed as a replay is. `beside`: processes of before run on.
    Change {
        model: String,
        spec: Spec,
        kills: Vec<u64>,
        beside: bool,
    },
    Add {
        model: String,
        spec: Spec,
        permille: i64,
    },
    /// So many partitions in all.
    Widen {
        partitions: i32,
    },
    /// Kafka forgets so much of what every output has passed.
    Expire {
        permille: i64,
    },
    Sweep,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replay { output, arguments, kills, ending, twice } => {
                let arguments = arguments.join(" ");
                let twice = if *twice { " twice" } else { "" };
                write!(
                    f,
                    "replay {output} {arguments}, killed after ms {kills:?}, then {ending:?}{twice}"
                )
            }
            Self::Change { model, spec, kills, beside } => {
                let sql = spec.sql(model);
                let sql: Vec<&str> = sql.split_whitespace().collect();
                let sql = sql.join(" ");
                write!(f, "change, killed after ms {kills:?}, old ones beside: {beside}: {sql}")
            }
            Self::Add { model, spec, permille } => {
                let sql = spec.sql(model);
                let sql: Vec<&str> = sql.split_whitespace().collect();
                write!(f, "add, run until {permille}‰: {}", sql.join(" "))
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// All of a history.
pub struct Plan {
    pub seed: u64,
    pub partitions: i32,
    pub models: BTreeMap<String, Spec>,
    pub steps: Vec<Step>,
}

/// What the steps so far have come to, as far as it can be known before they are done.
struct Drawn {
    random: SmallRng,
    partitions: i32,
    models: BTreeMap<String, Spec>,
    clock: i64,
    produced: i64,
    services: usize,
    expired: bool,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let partitions = random.random_range(1..4);
        let models = (0..4).map(|n| (format!("m{n}"), Spec::any(&mut random))).collect();
        let mut plan = Self { seed, partitions, models, steps: Vec::new() };
        let models = plan.models.clone();
        let (clock, produced, services, expired) = (BEGIN_S, 0, 0, false);
        let mut drawn = Drawn { random, partitions, models, clock, produced, services, expired };
        plan.steps.push(drawn.produce());
        plan.steps.push(Step::CatchUp);
        let count = drawn.random.random_range(10..15);
        while plan.steps.len() < count {
            let step = drawn.draw();
            drawn.note(&step);
            plan.steps.push(step);
        }
        plan
    }
}

impl Drawn {
    fn note(&mut self, step: &Step) {
        match step {
            Step::Change { model, spec, .. } => {
                self.models.insert(model.clone(), spec.clone());
                self.services = 0;
            }
            Step::Add { model, spec, .. } => {
                self.models.insert(model.clone(), spec.clone());
                self.services = 0;
            }
            Step::Widen { partitions } => self.partitions = *partitions,
            Step::Expire { .. } => self.expired = true,
            Step::Start => self.services += 1,
            Step::End { .. } => self.services -= 1,
            Step::Produce { .. }
            | Step::CatchUp
            | Step::Run { .. }
            | Step::Replay { .. }
            | Step::Sweep => {}
        }
    }

    fn draw(&mut self) -> Step {
        let kill = self.random.random_ratio(2, 3);
        match self.random.random_range(0..100) {
            0..22 => self.produce(),
            22..28 => Step::CatchUp,
            28..38 => Step::Run { permille: self.random.random_range(0..1_000), kill },
            38..46 if self.services < SERVICES_MAX => Step::Start,
            46..52 if self.services > 0 => {
                Step::End { which: self.random.random_range(0..self.services), kill }
            }
            52..66 => self.replay(),
            66..76 => self.replay_lake(),
            76..85 => {
                let names: Vec<&String> = self.models.keys().collect();
                let model = (*names.choose(&mut self.random).expect("some")).clone();
                let spec = self.models[&model].changed(&mut self.random);
                let beside = self.random.random_ratio(1, 2);
                Step::Change { model, spec, kills: self.kills(), beside }
            }
            85..89 if self.models.len() < MODELS_MAX => {
                let model = format!("m{}", self.models.len());
                let spec = Spec::any(&mut self.random);
                Step::Add { model, spec, permille: self.random.random_range(0..1_000) }
            }
            89..92 if self.partitions < PARTITIONS_MAX => {
                let most = (self.partitions + 2).min(PARTITIONS_MAX);
                Step::Widen { partitions: self.random.random_range(self.partitions + 1..=most) }
            }
            92..98 => Step::Expire { permille: self.random.random_range(300..=1_000) },
            98..100 => Step::Sweep,
            _ => self.replay(),
        }
    }

    fn produce(&mut self) -> Step {
        let count = self.random.random_range(200..1_200);
        let step = Step::Produce {
            count,
            begin: self.clock,
            partitions: self.partitions,
            quiet: self.random.random_range(0..PARTITIONS_MAX),
            seed: self.random.random(),
        };
        self.clock += count as i64 / 2 + self.random.random_range(0..900);
        self.produced += count as i64;
        step
    }

    /// Often none.
    fn kills(&mut self) -> Vec<u64> {
        let count = self.random.random_range(0..4_u32).saturating_sub(1);
        (0..count).map(|_| self.random.random_range(0..900)).collect()
    }

    fn ending(&mut self, kills: &[u64]) -> Ending {
        let endings = [Ending::GoOn, Ending::GoOn, Ending::Abort, Ending::Leave];
        match kills.is_empty() {
            true => Ending::GoOn,
            false => *endings.choose(&mut self.random).expect("some"),
        }
    }

    fn time(&mut self) -> String {
        let at = self.random.random_range(BEGIN_S..self.clock);
        let at = chrono::DateTime::from_timestamp(at, 0).expect("in range");
        at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    fn replay(&mut self) -> Step {
        let names: Vec<&String> = self.models.keys().collect();
        let model = (*names.choose(&mut self.random).expect("some")).clone();
        let from = match self.models[&model].is_windowed() && self.random.random_ratio(1, 2) {
            true => self.time(),
            false => "beginning".to_owned(),
        };
        let mut arguments = vec!["--from".to_owned(), from];
        if self.expired || self.random.random_ratio(1, 4) {
            arguments.push("--from-lake".to_owned());
        }
        let kills = self.kills();
        let ending = self.ending(&kills);
        let twice = self.random.random_ratio(1, 4);
        Step::Replay { output: format!("model:{model}"), arguments, kills, ending, twice }
    }

    fn replay_lake(&mut self) -> Step {
        let mut arguments = Vec::new();
        let most = self.produced / i64::from(self.partitions);
        if self.random.random_ratio(1, 2) {
            let from = match self.random.random_range(0..3) {
                0 => self.time(),
                1 => self.random.random_range(0..most).to_string(),
                _ => {
                    let p = self.random.random_range(0..self.partitions);
                    format!("{p}:{}", self.random.random_range(0..most))
                }
            };
            arguments.extend(["--from".to_owned(), from]);
        }
        if self.random.random_ratio(1, 3) {
            let to = match self.random.random_ratio(1, 2) {
                true => self.time(),
                false => self.random.random_range(0..=most).to_string(),
            };
            arguments.extend(["--to".to_owned(), to]);
        }
        if self.random.random_ratio(1, 3) {
            let p = self.random.random_range(0..self.partitions);
            arguments.extend(["--partitions".to_owned(), p.to_string()]);
        }
        if self.random.random_ratio(1, 2) {
            arguments.extend(["--grace".to_owned(), "0s".to_owned()]);
        }
        let kills = self.kills();
        let ending = self.ending(&kills);
        let twice = !self.expired && self.random.random_ratio(1, 4);
        Step::Replay { output: "lake:taps".to_owned(), arguments, kills, ending, twice }
    }
}
