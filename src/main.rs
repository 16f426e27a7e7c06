//! The command line: parse, run, exit code (0 done, 1 found wrong, 2 bad configuration, 3 a service
//! out of reach).

use clap::{Parser, Subcommand};
use highwater::{
    config::{LogFormat, Options},
    error::Result,
    ops::{
        self,
        dead_letters::{Filter, Place},
    },
};
use std::{io::IsTerminal, process::ExitCode};

/// Kafka to partitioned Parquet and PostgreSQL tables, exactly once, provably.
#[derive(Parser)]
#[command(name = "highwater", version)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The whole job with everything embedded: generated taps, to the end, with proof.
    #[cfg(feature = "embedded")]
    Demo {
        /// Keep the lake and the database, and say where.
        #[arg(long)]
        keep: bool,
    },
    /// The always-on service; SIGTERM commits what it holds and leaves.
    Run {
        #[command(flatten)]
        request: ops::run::Request,
    },
    /// Topics and models held against what the tables were filled by: new, changed, unchanged, not declared.
    Plan {
        /// Drop tables, marks and dead letters of models that are not declared any more.
        #[arg(long)]
        drop: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a model's table or files of a lake anew, beside the live ones, and swap them in; the service may run.
    Replay {
        #[command(flatten)]
        request: ops::replay::Request,
    },
    /// Topics and models, offline: every mistake with its place, or what each model keeps.
    Check,
    /// How one model is computed and kept, offline: expressions, deltas, tables, statements.
    Explain {
        /// As its file is named.
        model: String,
    },
    /// Models against the events and rows of their NAME.test.toml, offline; exit code 1 on any difference.
    #[cfg(feature = "embedded")]
    Test {
        /// Only of these models.
        model: Vec<String>,
    },
    /// The proof: gaps, overlaps, orphans, missing or altered files; exit code 1 on any.
    Verify {
        /// Read every row, and rebuild the tables from the lake to compare them.
        #[arg(long)]
        deep: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Record offsets that Kafka has no more as lost, and go on behind them. Says what they are.
    AcceptGap {
        /// As its file is named.
        topic: String,
        /// Only of this partition; may be given several times.
        #[arg(long)]
        partition: Vec<i32>,
        /// Say what would be recorded, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Snapshots of a source: loads that a person brackets, and those that wait because they would delete too much.
    Snapshot {
        #[command(subcommand)]
        command: Snapshot,
    },
    /// Let the next cut of a topic's models delete more than `max_cut_deletes`.
    AcceptDeletes {
        /// As its file is named.
        topic: String,
    },
    /// How sources' tables differ from what topics declare, and what to do about it.
    Drift {
        /// As its file is named; all without it.
        topic: Option<String>,
        /// Let pass what stopped the topic: it goes on as it is declared when it is started again.
        #[arg(long)]
        accept: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Removes from the lake what no manifest names: staged leftovers, and files of the topics.
    Sweep {
        /// Leave what is younger, by the store's clock.
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        older_than: String,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// What was refused and why; taken after all when topic file or models were mended.
    DeadLetters {
        #[command(subcommand)]
        command: DeadLetters,
    },
    /// Marks, lag and totals per output and partition; the service may be down.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum Snapshot {
    /// Before a table is loaded again (Qlik Replicate's): load rows from here on are of a new snapshot.
    Begin {
        #[command(flatten)]
        request: ops::snapshot::Bracket,
    },
    /// After it was loaded: when all of it is read, rows that it does not hold go.
    End {
        #[command(flatten)]
        request: ops::snapshot::Bracket,
    },
    /// Swap it in: rows that it does not hold go.
    Accept {
        #[command(flatten)]
        request: ops::snapshot::Request,
    },
    /// Leave it out, and take the changes that came after it.
    Discard {
        #[command(flatten)]
        request: ops::snapshot::Request,
    },
}

#[derive(Subcommand)]
enum DeadLetters {
    /// The newest letters and how many there are; of all topics, or of those that --topic names.
    List {
        #[command(flatten)]
        filter: Filter,
        /// Letters to list.
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Everything of one record: letters, key, value and headers, who refuses it.
    Show {
        /// As `list` prints it.
        #[arg(value_name = "TOPIC/PARTITION@OFFSET")]
        place: Place,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Decode again under today's topic file and models, and take what is good now, once.
    Retry {
        #[command(flatten)]
        filter: Filter,
        /// Only these records.
        #[arg(value_name = "TOPIC/PARTITION@OFFSET")]
        places: Vec<Place>,
        /// Say what would become of each, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("highwater: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    let config = cli.options.resolve()?;
    let filter = match &cli.command {
        // The demo prints its own story.
        #[cfg(feature = "embedded")]
        Command::Demo { .. } | Command::Test { .. } => {
            "warn,oliphaunt_wasix=off,tokio_postgres=off,deadpool.postgres=off".to_owned()
        }
        Command::Run { .. } => config.log_level.clone(),
        Command::Check
        | Command::Explain { .. }
        | Command::Status { .. }
        | Command::Sweep { .. }
        | Command::Verify { .. }
        | Command::AcceptGap { .. }
        | Command::Snapshot { .. }
        | Command::AcceptDeletes { .. }
        | Command::Drift { .. }
        | Command::Plan { .. }
        | Command::Replay { .. }
        | Command::DeadLetters { .. } => "warn".to_owned(),
    };
    log(config.log, &filter)?;
    match cli.command {
        #[cfg(feature = "embedded")]
        Command::Demo { keep } => ops::demo::demo(config, keep),
        Command::Run { request } => ops::run::run(&config, request),
        Command::Plan { json, drop } => ops::plan::plan(&config, json, drop),
        Command::Replay { request } => ops::replay::replay(&config, &request),
        Command::Check => ops::check::check(&config),
        Command::Explain { model } => ops::explain::explain(&config, &model),
        #[cfg(feature = "embedded")]
        Command::Test { model } => ops::model_tests::test(&config, &model),
        Command::Verify { deep, json } => ops::verify::verify(&config, deep, json),
        Command::AcceptGap { topic, partition, dry_run, json } => {
            let request = ops::accept_gap::Request { topic, partitions: partition, dry_run, json };
            ops::accept_gap::accept_gap(&config, &request)
        }
        Command::AcceptDeletes { topic } => ops::snapshot::accept_deletes(&config, &topic),
        Command::Snapshot { command } => match command {
            Snapshot::Begin { request } => ops::snapshot::begin(&config, &request),
            Snapshot::End { request } => ops::snapshot::end(&config, &request),
            Snapshot::Accept { request } => ops::snapshot::accept(&config, &request),
            Snapshot::Discard { request } => ops::snapshot::discard(&config, &request),
        },
        Command::Drift { topic, accept, json } => {
            ops::drift::drift(&config, &ops::drift::Request { topic, accept, json })
        }
        Command::Sweep { older_than, dry_run, json } => {
            ops::sweep::sweep(&config, &older_than, dry_run, json)
        }
        Command::DeadLetters { command } => match command {
            DeadLetters::List { filter, limit, json } => {
                ops::dead_letters::list(&config, &filter, limit, json)
            }
            DeadLetters::Show { place, json } => ops::dead_letters::show(&config, &place, json),
            DeadLetters::Retry { filter, places, dry_run, json } => {
                ops::dead_letters::retry::retry(&config, &filter, &places, dry_run, json)
            }
        },
        Command::Status { json } => ops::status::status(&config, json),
    }
}

fn log(format: LogFormat, filter: &str) -> Result<()> {
    use highwater::error::Error;
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| Error::config(format!("log level {filter:?}")).because(e))?;
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
