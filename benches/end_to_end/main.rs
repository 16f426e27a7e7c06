//! The whole job, from Kafka's first offset to committed files and tables, by the real binary:
//! `cargo bench --bench end_to_end -- [--events N] [--lake local|s3|both] [--unique WITHIN]
//! [--shape taps|wide|large|avro|debezium|debezium-append|debezium-updates]`.
//! With `--grow AXIS` it runs at several sizes of one thing instead (`grow`); with `--produce FOLDER`
//! it only makes the input, for others to do the same job (`benches/compare`). With `--follow` it measures
//! the running service (`follow`), with `--keys N` how fast rows of tables change (`keys`).
//!
//! Ceiling: the floor, which is each stage alone on one thread (`floor`), measured in the same run: before the job
//! and after it, since the machine's speed changes meanwhile; a ratio is one to the mean.
//! Unit: CPU-seconds per million events, user and system, of the process; broker, database and
//! store are not counted. Elapsed time depends on who else uses the machine and decides nothing.
//! The result is checked against the bench's own (`workload`) before any figure is printed.

mod floor;
mod follow;
mod grow;
mod keys;
mod load;
mod running;
mod services;
mod workload;
mod world;

use clap::{Parser, ValueEnum};
use floor::Floor;
use grow::Axis;
use load::Load;
use services::Services;
use std::path::{Path, PathBuf};
use workload::{Expected, Model, SEED, Shape, form::Form};
use world::{Cost, Declared, Job, Lake, Topic};

/// How many, their rows and bytes, and how many readers do not see yet.
const FILES: &str = "SELECT count(*), sum(rows), sum(bytes), count(*) - count(completed_at) FROM highwater.lake_files";

#[derive(Parser)]
struct Options {
    /// How many taps; the published figure is of 5,000,000.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    #[arg(long, value_enum, default_value_t = Lakes::Both)]
    lake: Lakes,
    /// What a record is.
    #[arg(long = "shape", value_enum, default_value_t = Form::Taps, conflicts_with_all = ["grow", "produce"])]
    form: Form,
    /// No table: the lake alone.
    #[arg(long, conflicts_with_all = ["grow", "produce", "load", "follow", "keys"])]
    lake_only: bool,
    /// Remember the id of each tap for so long, as "45m"; no tap comes twice. The floor has no judge.
    #[arg(long)]
    unique: Option<String>,
    /// Run the binary under this command, as "perf record -g -o FILE"; its cost counts too.
    #[arg(long, value_delimiter = ' ')]
    under: Vec<String>,
    /// Do the job at growing sizes of this, to a local lake, and print what each costs.
    #[arg(long, value_enum, value_name = "AXIS")]
    grow: Option<Axis>,
    /// The sizes, as "1,8,64"; without it, those of the axis.
    #[arg(long, value_delimiter = ',', requires = "grow")]
    steps: Vec<usize>,
    /// Do the job under loads that are hard on memory, and insist on the budget.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LOAD,…", conflicts_with = "grow")]
    load: Vec<Load>,
    /// The process's budget, of `--load`.
    #[arg(long, default_value = "512MiB", requires = "load")]
    memory: String,
    /// The running service: its start, how long after an event its result is there, and what it costs when
    /// nothing comes; to a local lake.
    #[arg(long, conflicts_with_all = ["grow", "produce"])]
    follow: bool,
    /// Taps per second.
    #[arg(long, default_value_t = 50_000, requires = "follow")]
    rate: u64,
    #[arg(long, default_value_t = 60, requires = "follow")]
    seconds: u64,
    /// So many keys, all of them new and then all of them changed: how many a second; to a local lake.
    #[arg(long, conflicts_with_all = ["grow", "produce", "follow"])]
    keys: Option<usize>,
    /// Only produce: the right table (answer.csv) and the two declarations go to this folder. Says
    /// on standard output by `export NAME=VALUE` where all is, and keeps it until standard input ends.
    #[arg(long, value_name = "FOLDER", conflicts_with = "grow")]
    produce: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Lakes {
    Local,
    S3,
    Both,
}

/// One finished and checked job.
struct Outcome {
    lake: Lake,
    cost: Cost,
    files: u64,
    bytes: u64,
}

fn main() {
    let options = Options::parse();
    let services = Services::find_or_start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("tokio");
    if let Some(axis) = options.grow {
        return grow::run_steps(&services, &runtime, axis, &options.steps, options.events);
    }
    if !options.load.is_empty() {
        return load::run_each(&services, &runtime, &options.load, &options.memory, options.events);
    }
    if options.follow {
        let pace = follow::Pace { rate: options.rate, seconds: options.seconds };
        return follow::measure(&services, &runtime, options.events, pace);
    }
    if let Some(keys) = options.keys {
        return keys::measure(&services, &runtime, keys, &options.under);
    }
    let name = format!("bench_{}", std::process::id());
    let shape = Shape { form: options.form, ..Shape::usual(options.events) };
    let topic = Topic::fill(&services, &runtime, name, shape);
    let expected = Expected::of(shape, shape.form.grouping());
    if let Some(folder) = &options.produce {
        return keep(&topic, &expected, folder);
    }
    println!(
        "{} events of {:.0} bytes in {} partitions, {} groups, seed {SEED}",
        shape.events,
        topic.bytes as f64 / shape.events as f64,
        shape.partitions,
        expected.groups()
    );
    let lakes: &[Lake] = match options.lake {
        Lakes::Local => &[Lake::Local],
        Lakes::S3 => &[Lake::S3],
        Lakes::Both => &[Lake::Local, Lake::S3],
    };
    let within = options.unique.as_deref();
    let models = || match options.lake_only {
        true => Vec::new(),
        false => vec![Model { grouping: shape.form.grouping(), ..Model::usual() }],
    };
    let declared = || Declared { models: models(), within, ..Declared::usual() };
    let expected = expected.csv();
    let run = |lake: &Lake| run(Job::new(&topic, *lake, declared()), &options.under, 1, &expected);

    let folder = tempfile::tempdir().expect("a folder");
    world::declare(folder.path(), &topic, &declared());
    let files = |name: &str| folder.path().join(name);
    let catalog = highwater::catalog::load(&files("topics"), &files("models"));
    let catalog = catalog.expect("topic and model are right");
    let before = Floor::measure(&topic, &catalog);
    let outcomes: Vec<Outcome> = lakes.iter().map(run).collect();
    let after = Floor::measure(&topic, &catalog);
    print(&topic, &outcomes, &[before, after]);
}

/// The job in so many processes; every table of it must be what is expected.
fn run(job: Job<'_>, under: &[String], processes: usize, expected: &str) -> Outcome {
    let cost = job.run(under, processes);
    let (files, bytes) = check(&job, expected);
    Outcome { lake: job.lake, cost, files, bytes }
}

/// Files and bytes in the lake, of a finished job that has done everything right.
fn check(job: &Job<'_>, expected: &str) -> (u64, u64) {
    for model in &job.declared.models {
        let found = job.csv(&model.table());
        let pairs = found.lines().zip(expected.lines());
        for (found, expected) in pairs {
            assert_eq!(found, expected, "a group of {}", model.name);
        }
        assert_eq!(found.len(), expected.len(), "bytes of {} as CSV", model.name);
    }
    let proof = job.query(&world::proof());
    assert_eq!(proof.len(), 2 + job.declared.models.len(), "outputs with marks: {proof:?}");
    for row in proof {
        assert_eq!(row.last().cloned().flatten().as_deref(), Some("adds up"), "{row:?}");
    }
    job.verify();
    let number = |cell: &Option<String>| cell.as_deref().unwrap_or("0").parse().expect("a number");
    let files: Vec<u64> = job.query(FILES)[0].iter().map(number).collect();
    assert_eq!(files[1], job.topic.shape.events, "rows in the lake");
    assert_eq!(files[3], 0, "files that readers do not see yet");
    (files[0], files[2])
}

fn keep(topic: &Topic<'_>, expected: &Expected, folder: &Path) {
    world::declare(folder, topic, &Declared::usual());
    std::fs::write(folder.join("answer.csv"), expected.csv()).expect("the answer");
    for (name, value) in topic.services.variables() {
        println!("export {name}={value}");
    }
    println!("export HIGHWATER_BENCH_BINARY={}", world::BINARY);
    println!("export HIGHWATER_BENCH_TOPIC={}", topic.name);
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("standard input");
}

fn print(topic: &Topic<'_>, outcomes: &[Outcome], floors: &[Floor; 2]) {
    let events = topic.shape.events as f64;
    let per_million = |seconds: f64| seconds * 1e6 / events;
    let line = |what: &str, of: &dyn Fn(&Outcome) -> String| {
        let cells: Vec<String> = outcomes.iter().map(|o| format!("{:>10}", of(o))).collect();
        println!("{what:<34}{}", cells.concat());
    };
    println!();
    line("lake", &|o| o.lake.name().to_owned());
    line("events/s", &|o| format!("{:.0}", events / o.cost.seconds));
    line("CPU-s per million events", &|o| format!("{:.2}", per_million(o.cost.cpu_seconds())));
    line("  of them in the kernel", &|o| format!("{:.2}", per_million(o.cost.system_seconds)));
    line("cores busy", &|o| format!("{:.2}", o.cost.cpu_seconds() / o.cost.seconds));
    line("peak RSS, MiB", &|o| format!("{:.0}", o.cost.resident_mib_max()));
    line("files", &|o| o.files.to_string());
    line("bytes per event in the lake", &|o| format!("{:.1}", o.bytes as f64 / events));
    let floor = floors.iter().map(Floor::sum).sum::<f64>() / floors.len() as f64;
    line("times the floor", &|o| format!("{:.2}", o.cost.cpu_seconds() / floor));
    println!();
    println!("floor, CPU-s per million events, one thread");
    println!("{:<34}{:>10}{:>10}", "", "before", "after");
    let stage = |what: &str, of: &dyn Fn(&Floor) -> f64| {
        let [before, after] = floors.each_ref().map(|floor| per_million(of(floor)));
        println!("  {what:<32}{before:>10.2}{after:>10.2}");
    };
    stage("consume (librdkafka)", &|f| f.consume);
    stage("decode", &|f| f.decode);
    stage("aggregate", &|f| f.aggregate);
    stage("encode", &|f| f.encode);
    stage("sum", &Floor::sum);
}
