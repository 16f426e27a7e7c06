//! The whole job, from Kafka's first offset to committed files and tables, by the real binary:
//! `cargo bench --bench end_to_end -- [--events N] [--lake local|s3|both] [--unique WITHIN]`.
//!
//! Ceiling: the floor, which is each stage alone on one thread (`floor`), measured in the same run.
//! Unit: CPU-seconds per million events, user and system, of the process; broker, database and
//! store are not counted. Elapsed time depends on who else uses the machine and decides nothing.
//! The result is checked against the bench's own (`workload`) before any figure is printed.

mod floor;
mod services;
mod workload;
mod world;

use clap::{Parser, ValueEnum};
use floor::Floor;
use services::Services;
use workload::{Expected, PARTITIONS, SEED, TABLE};
use world::{Cost, Job, Lake, Topic};

/// How many, their rows and bytes, and how many readers do not see yet.
const FILES: &str = "SELECT count(*), sum(rows), sum(bytes), count(*) - count(completed_at) FROM highwater.lake_files";

#[derive(Parser)]
struct Options {
    /// How many taps; the published figure is of 5,000,000.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    #[arg(long, value_enum, default_value_t = Lakes::Both)]
    lake: Lakes,
    /// Remember the id of each tap for so long, as "45m"; no tap comes twice. The floor has no judge.
    #[arg(long)]
    unique: Option<String>,
    /// Run the binary under this command, as "perf record -g -o FILE"; its cost counts too.
    #[arg(long, value_delimiter = ' ')]
    under: Vec<String>,
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
    let lakes: &[Lake] = match options.lake {
        Lakes::Local => &[Lake::Local],
        Lakes::S3 => &[Lake::S3],
        Lakes::Both => &[Lake::Local, Lake::S3],
    };
    let services = Services::find_or_start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("tokio");
    let topic = Topic::fill(&services, &runtime, options.events);
    let expected = Expected::of(workload::taps(options.events)).rows();
    println!(
        "{} events of {:.0} bytes in {PARTITIONS} partitions, {} groups, seed {SEED}",
        topic.events,
        topic.bytes as f64 / topic.events as f64,
        expected.len()
    );
    let within = options.unique.as_deref();
    let run = |lake: &Lake| run(Job::new(&topic, *lake, within), &options.under, &expected);
    let outcomes: Vec<Outcome> = lakes.iter().map(run).collect();

    let folder = world::folder(&topic.name, None);
    let files = |name: &str| folder.path().join(name);
    let catalog = highwater::catalog::load(&files("topics"), &files("models"));
    let floor = Floor::measure(&topic, &catalog.expect("topic and model are right"));
    print(&topic, &outcomes, &floor);
}

fn run(job: Job<'_>, under: &[String], expected: &[Vec<Option<String>>]) -> Outcome {
    let cost = job.run(under);
    let found = job.query(TABLE);
    assert_eq!(found.len(), expected.len(), "groups in the table");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected, "a group of the table");
    }
    let proof = job.query(&world::proof());
    assert_eq!(proof.len(), 3, "outputs with marks: {proof:?}");
    for row in proof {
        assert_eq!(row.last().cloned().flatten().as_deref(), Some("adds up"), "{row:?}");
    }
    job.verify();
    let number = |cell: &Option<String>| cell.as_deref().unwrap_or("0").parse().expect("a number");
    let files: Vec<u64> = job.query(FILES)[0].iter().map(number).collect();
    assert_eq!(files[1], job.topic.events, "rows in the lake");
    assert_eq!(files[3], 0, "files that readers do not see yet");
    Outcome { lake: job.lake, cost, files: files[0], bytes: files[2] }
}

fn print(topic: &Topic<'_>, outcomes: &[Outcome], floor: &Floor) {
    let events = topic.events as f64;
    let per_million = |seconds: f64| seconds * 1e6 / events;
    let line = |what: &str, of: &dyn Fn(&Outcome) -> String| {
        let cells: Vec<String> = outcomes.iter().map(|o| format!("{:>10}", of(o))).collect();
        println!("{what:<34}{}", cells.concat());
    };
    let total = |o: &Outcome| o.cost.user_seconds + o.cost.system_seconds;
    println!();
    line("lake", &|o| o.lake.name().to_owned());
    line("events/s", &|o| format!("{:.0}", events / o.cost.seconds));
    line("CPU-s per million events", &|o| format!("{:.2}", per_million(total(o))));
    line("  of them in the kernel", &|o| format!("{:.2}", per_million(o.cost.system_seconds)));
    line("cores busy", &|o| format!("{:.2}", total(o) / o.cost.seconds));
    line("peak RSS, MiB", &|o| format!("{:.0}", o.cost.resident_bytes_max as f64 / 1048576.0));
    line("files", &|o| o.files.to_string());
    line("bytes per event in the lake", &|o| format!("{:.1}", o.bytes as f64 / events));
    line("times the floor", &|o| format!("{:.2}", total(o) / floor.sum()));
    println!();
    println!("floor, CPU-s per million events, one thread");
    for (stage, seconds) in [
        ("consume (librdkafka, all threads)", floor.consume),
        ("decode", floor.decode),
        ("aggregate", floor.aggregate),
        ("encode", floor.encode),
        ("sum", floor.sum()),
    ] {
        println!("  {stage:<42}{:.2}", per_million(seconds));
    }
}
