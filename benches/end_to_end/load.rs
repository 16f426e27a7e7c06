//! The job under loads that are hard on memory: does the process stay within its budget?
//! `cargo bench --bench end_to_end -- --load kafka-partitions,paths,… [--memory 512MiB] [--events N]`.
//!
//! Peak resident memory of the process as the kernel counted it, and how many times `--memory` that is; at
//! more than a tenth over it the bench fails. Each result is checked as the job always is.

use crate::{
    run,
    services::Services,
    workload::{Expected, Grouping, Model, Shape, form::Form},
    world::{Declared, Job, Lake, Topic},
};
use clap::ValueEnum;
use highwater::record::quantity;

/// How far over its budget a process may be.
const TIMES_MAX: f64 = 1.1;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Load {
    /// The usual taps, for comparison.
    Usual,
    /// 1,000 partitions, with a backlog each.
    KafkaPartitions,
    /// 10,000 paths of the lake, all written to all the time.
    Paths,
    /// Records of 10 MiB; one for each 5,000 events that are asked for.
    LargeRecords,
    /// One partition, one stop.
    HotKey,
    /// As many keys as events, and a cut that lasts as long as the whole job.
    DistinctKeys,
}

impl Load {
    fn shape(self, events: u64) -> Shape {
        let usual = Shape::usual(events);
        match self {
            Self::Usual => usual,
            Self::KafkaPartitions => Shape { partitions: 1_000, ..usual },
            Self::Paths => Shape { stops: 10_000, ..usual },
            Self::LargeRecords => {
                Shape { form: Form::Huge, events: events.div_ceil(5_000), ..usual }
            }
            Self::HotKey => Shape { partitions: 1, stops: 1, ..usual },
            Self::DistinctKeys => Shape { stops: events as usize, ..usual },
        }
    }

    fn grouping(self) -> Grouping {
        match self {
            Self::Usual | Self::KafkaPartitions | Self::LargeRecords | Self::HotKey => {
                Grouping::Window
            }
            Self::Paths | Self::DistinctKeys => Grouping::Stop,
        }
    }

    fn declared(self, memory: &str) -> Declared<'static> {
        let mut settings = vec![("HIGHWATER_MEMORY", memory.to_owned())];
        if self == Self::DistinctKeys {
            settings.push(("HIGHWATER_CATCH_UP_INTERVAL", "1h".to_owned()));
        }
        let models = vec![Model { grouping: self.grouping(), ..Model::usual() }];
        let partition_by = (self == Self::Paths).then_some(r#"["stop_id"]"#);
        Declared { models, partition_by, settings, ..Declared::usual() }
    }
}

pub fn run_each(
    services: &Services,
    runtime: &tokio::runtime::Runtime,
    loads: &[Load],
    memory: &str,
    events: u64,
) {
    let budget = quantity::size(memory).expect("a size") as f64 / 1_048_576.0;
    println!(
        "{:>18} {:>10} {:>8} {:>7} {:>6} {:>8} {:>7}",
        "load", "events", "RSS MiB", "budget", "times", "CPU-s/M", "files"
    );
    let mut over = Vec::new();
    for load in loads {
        let name = load.to_possible_value().expect("none is hidden");
        let (name, shape) = (name.get_name(), load.shape(events));
        let topic = format!("bench_{}_{}", std::process::id(), name.replace('-', "_"));
        let topic = Topic::fill(services, runtime, topic, shape);
        let expected = Expected::of(shape, load.grouping());
        let job = Job::new(&topic, Lake::Local, load.declared(memory));
        let outcome = run(job, &[], 1, &expected.csv());
        let resident = outcome.cost.resident_mib_max();
        println!(
            "{name:>18} {:>10} {resident:>8.0} {budget:>7.0} {:>6.2} {:>8.2} {:>7}",
            shape.events,
            resident / budget,
            outcome.cost.cpu_seconds() * 1e6 / shape.events as f64,
            outcome.files,
        );
        if resident > budget * TIMES_MAX {
            over.push(name.to_owned());
        }
    }
    assert!(over.is_empty(), "over the budget: {}", over.join(", "));
}
