//! The job at growing sizes of one thing, the others held: does what an event costs stay the same?
//! `cargo bench --bench end_to_end -- --grow events|partitions|keys|models|processes [--steps N,…]`.
//!
//! Unit: CPU-seconds per million events, of all processes of the job, and how many times those of
//! the first step they are. Each step is checked as the job always is. Of `keys`, the model groups by
//! stop alone and there are as many stops; of `models`, each is the same question in a table of its own.

use crate::{
    run,
    services::Services,
    workload::{Expected, Grouping, Model, Shape},
    world::{Declared, Job, Lake, Topic},
};
use clap::ValueEnum;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Axis {
    Events,
    Partitions,
    Keys,
    Models,
    Processes,
}

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Partitions => "partitions",
            Self::Keys => "keys",
            Self::Models => "models",
            Self::Processes => "processes",
        }
    }

    fn steps(self) -> &'static [usize] {
        match self {
            Self::Events => &[1_000_000, 5_000_000, 20_000_000, 50_000_000],
            Self::Partitions => &[1, 8, 64, 256],
            Self::Keys => &[10, 1_000, 100_000, 10_000_000],
            Self::Models => &[1, 5, 10, 20],
            Self::Processes => &[1, 2, 4],
        }
    }

    fn step(self, size: usize, events: u64) -> Step {
        let mut step = Step {
            shape: Shape::usual(events),
            grouping: Grouping::Window,
            models: 1,
            processes: 1,
        };
        match self {
            Self::Events => step.shape.events = size as u64,
            Self::Partitions => step.shape.partitions = size,
            Self::Keys => {
                step.shape.stops = size;
                step.grouping = Grouping::Stop;
            }
            Self::Models => step.models = size,
            Self::Processes => step.processes = size,
        }
        step
    }
}

struct Step {
    shape: Shape,
    grouping: Grouping,
    models: usize,
    processes: usize,
}

impl Step {
    fn declared(&self) -> Declared<'static> {
        let name = |n: usize| match n {
            0 => Model::usual().name,
            _ => format!("{}_{n}", Model::usual().name),
        };
        let model = |n| Model { name: name(n), grouping: self.grouping };
        Declared { models: (0..self.models).map(model).collect(), ..Declared::usual() }
    }
}

pub fn run_steps(
    services: &Services,
    runtime: &tokio::runtime::Runtime,
    axis: Axis,
    sizes: &[usize],
    events: u64,
) {
    let sizes = if sizes.is_empty() { axis.steps() } else { sizes };
    println!(
        "{:>10} {:>10} {:>10} {:>10} {:>8} {:>6} {:>8} {:>7}",
        axis.name(),
        "events",
        "groups",
        "events/s",
        "CPU-s/M",
        "times",
        "RSS MiB",
        "files"
    );
    let mut first = None;
    for &size in sizes {
        let step = axis.step(size, events);
        let events = step.shape.events;
        let name = format!("bench_{}_{size}", std::process::id());
        let topic = Topic::fill(services, runtime, name, step.shape);
        let expected = Expected::of(step.shape, step.grouping);
        let job = Job::new(&topic, Lake::Local, step.declared());
        let outcome = run(job, &[], step.processes, &expected.csv());
        let cost = outcome.cost.cpu_seconds() * 1e6 / events as f64;
        println!(
            "{size:>10} {events:>10} {:>10} {:>10.0} {cost:>8.2} {:>6.2} {:>8.0} {:>7}",
            expected.groups(),
            events as f64 / outcome.cost.seconds,
            cost / *first.get_or_insert(cost),
            outcome.cost.resident_mib_max(),
            outcome.files,
        );
    }
}
