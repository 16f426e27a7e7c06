//! `highwater replay`: an output made anew beside the live one, and swapped in when it has caught up;
//! the service may run meanwhile.
//!
//! Owns: when to swap, doing it again after a failure, what is told. Does not own: what a rebuild reads
//! (`pipeline::rebuild`), its tables and the swap (`warehouse::rebuild`), files of the lake (`lake`).

mod beginning;
mod bounds;
mod lake;
mod told;
mod windows;

pub use beginning::Beginning;
use told::{Shown, tell_aborted, tell_done, told_left};
use windows::Windows;

use super::{
    kafka_settings, load, model, references, require_registry, require_secret, run,
    service::hostname, table,
};
use crate::{
    catalog::{Catalog, Drift, Model, Topic},
    config::Config,
    decode::Secret,
    error::{Error, Kind, Result},
    lake::store::Store,
    pipeline::rebuild::{Parts, Progress, Rebuilder},
    record::{EventTime, Output},
    source::kafka::Kafka,
    warehouse::{
        MarkRow, Warehouse,
        rebuild::{Change, Filled, Halt, Rebuild, Swapped, is_rebuild},
    },
};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What is left to read is read in less: then the live output is halted for it.
const NEAR: Duration = Duration::from_secs(2);
/// The rebuild finds the live output where it stands itself, without halting it; so often it is tried.
const TRIES_BESIDE: u32 = 3;
/// Failures in a row without an offset passed between them.
const ATTEMPTS: u32 = 8;
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A dry run reads for so long to say how long all of it would take.
const SAMPLE: Duration = Duration::from_secs(3);
/// Bytes of librdkafka's that wait to be decoded.
const FETCH_BYTES: usize = 32 << 20;

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
pub struct Request {
    /// `model:NAME`, or its name; `lake:TOPIC`.
    #[arg(value_name = "OUTPUT")]
    output: String,
    /// Where from: `beginning`; of a lake or of a model with windows also an offset (1200), offsets of partitions
    /// (0:1200,3:900) or a time.
    #[arg(long, default_value = "beginning")]
    from: String,
    /// Of a lake: where it ends, in the same words; without it at all that the lake has. Of a model with windows: the time
    /// before which they begin.
    #[arg(long)]
    to: Option<String>,
    /// Of a lake: only these (0,3).
    #[arg(long)]
    partitions: Option<String>,
    /// Of a model: read what Kafka has no more from the lake.
    #[arg(long)]
    from_lake: bool,
    /// Of a lake: how long the files of before stay, for readers with an old listing.
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    grace: String,
    /// Say what would be read and replaced, and how long it takes; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Drop a rebuild that is half done.
    #[arg(long, conflicts_with = "dry_run")]
    abort: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub fn replay(config: &Config, request: &Request) -> Result<()> {
    let catalog = load(config)?;
    let topic = lake::topic_of(&request.output, &catalog)?;
    let runtime = run::runtime()?;
    runtime.block_on(async {
        let warehouse = run::connect(config).await?;
        if let Some(topic) = topic {
            let catalog = run::with_additions(&catalog, &warehouse).await?;
            let topic = catalog.topics[&topic.name].clone();
            return lake::replay(config, &catalog, &topic, warehouse, request).await;
        }
        let name = model_name(&request.output)?;
        if request.abort {
            return abort(&warehouse, name, request.json).await;
        }
        let catalog = run::with_additions(&catalog, &warehouse).await?;
        let model = model(&catalog, name)?;
        let windows = Windows::of(request, model, &warehouse).await?;
        require_secret(&catalog, config)?;
        require_registry(&catalog)?;
        let filled = warehouse.filled(std::slice::from_ref(model)).await?;
        let marks = warehouse.marks(Some(&*model.topic)).await?;
        let change = change(model, filled.first().copied().unwrap_or(Filled::Absent), &marks);
        match change {
            Change::Same => {}
            Change::Wider | Change::Changed => {
                return Err(Error::config(format!(
                    "the definition of model {name} ({}) has changed since its table was filled: `highwater plan` says \
                     what is to be rebuilt, `highwater run --apply` rebuilds it",
                    model.file.display()
                )));
            }
            Change::New if windows != Windows::default() => {
                return Err(Error::config(format!(
                    "model {name} has no table yet, of which other windows could stay. Allowed: --from beginning"
                )));
            }
            Change::New => can_be_made_beside(model, &marks)?,
        }
        let mut replay = {
            let rebuild = Rebuild::of(model).windows(windows.since, windows.until);
            Replay::new(config, &catalog, &warehouse, rebuild, change, request.from_lake).await?
        };
        match request.dry_run {
            true => replay.dry_run(request.json).await,
            false => {
                let began = Instant::now();
                let (swapped, passed) = replay.to_the_swap().await?;
                tell_done(name, change, &swapped, passed, began.elapsed(), request.json);
                Ok(())
            }
        }
    })
}

fn model_name(output: &str) -> Result<&str> {
    match output.strip_prefix("model:").unwrap_or(output) {
        "dead_letters" => Err(Error::config(format!(
            "replay {output}: models and lakes are made anew. Letters are put back with `highwater dead-letters retry`"
        ))),
        name => Ok(name),
    }
}

/// What there is of the model, by its table and the marks of its topic.
pub fn change(model: &Model, filled: Filled, marks: &[MarkRow]) -> Change {
    let output = Output::Model(model.name.clone());
    match filled {
        _ if marks.iter().all(|m| m.topic != model.topic || m.output != output) => Change::New,
        Filled::Absent | Filled::Same => Change::Same,
        Filled::Narrower => Change::Wider,
        Filled::Other => Change::Changed,
    }
}

/// Outputs of the topic have begun: one that is new can be made beside them.
pub fn has_begun(topic: &str, marks: &[MarkRow]) -> bool {
    marks.iter().any(|m| *m.topic == *topic && m.output == Output::DeadLetters)
}

fn can_be_made_beside(model: &Model, marks: &[MarkRow]) -> Result<()> {
    if has_begun(&model.topic, marks) {
        return Ok(());
    }
    Err(Error::config(format!(
        "model {} has no table yet, and no output of topic {} has begun, beside which to make it: `highwater run` fills \
         it with them",
        model.name, model.topic
    )))
}

/// What a rebuild beside the live table does not follow.
async fn can_be_made_anew(
    topic: &Topic,
    model: &Model,
    change: Change,
    warehouse: &Warehouse,
) -> Result<()> {
    let replaces = model.folding.as_ref().and_then(|folding| folding.snapshots.max_deletes());
    let why = if topic.drift == Drift::Apply {
        "its topic gets columns from the source while it runs (drift = \"apply\")"
    } else if !warehouse.snapshots_of(model).await?.is_empty() {
        "it holds a snapshot of the source, which is swapped in when it has ended"
    } else if change == Change::New && replaces.is_some() {
        "snapshots of its source are swapped in by the service when they have ended"
    } else if !warehouse.loads(&topic.name).await?.is_empty() {
        "a load of its source is swapped in when it has ended"
    } else {
        return Ok(());
    };
    let instead = match change {
        Change::New => {
            "`highwater run` without --apply, which fills it from Kafka while the topic's other tables wait"
        }
        Change::Same | Change::Wider | Change::Changed => {
            "the model under a new name, which keeps this table as it is"
        }
    };
    Err(Error::config(format!(
        "model {} cannot be made beside what is live: {why}. Allowed: {instead}",
        model.name
    )))
}

async fn abort(warehouse: &Warehouse, name: &str, json: bool) -> Result<()> {
    let output = Output::Model(name.into());
    let rebuilds = warehouse.rebuilds(None).await?;
    let under_way = rebuilds.iter().find(|row| row.output == output);
    let dropped = match under_way {
        Some(row) => warehouse.abort_rebuild(&row.topic, name).await?,
        None => false,
    };
    tell_aborted(&output.to_string(), dropped, "table", json);
    Ok(())
}

/// A client outside of the group: nothing is heard.
fn kafka_of(config: &Config, topic: &Topic) -> Result<Arc<Kafka>> {
    let settings = kafka_settings(config, FETCH_BYTES.min(config.memory / 8));
    let kafka = Kafka::new(&settings, Duration::ZERO)?;
    kafka.listen(&topic.kafka_topic, Box::new(|_| {}));
    Ok(kafka)
}

/// Waits before the next try, or says why there is none.
async fn retried(error: Error, failures: u32, done: &str) -> Result<()> {
    match error.kind {
        Kind::Retry | Kind::Unknown => {}
        Kind::Fenced | Kind::Halt | Kind::Config => return Err(error),
    }
    if failures > ATTEMPTS {
        return Err(Error::retry(format!(
            "{error}; tried {ATTEMPTS} times. What is {done} stays: run it again to go on, or with --abort to drop it"
        )));
    }
    tracing::warn!("tried again: {error}");
    let wait = Duration::from_millis(200) * 2u32.pow(failures);
    tokio::time::sleep(wait.min(BACKOFF_MAX)).await;
    Ok(())
}

/// One output's way from nothing to the swap.
///
/// Two halves: [`Self::catch_up`], as long as it may take, while the live output goes on; and [`Self::try_swap`],
/// which halts it for what little is left. [`Self::to_the_swap`] is both, again after each failure.
pub struct Replay {
    rebuild: Rebuild,
    rebuilder: Rebuilder,
    warehouse: Warehouse,
    /// Of a new output.
    beginning: Option<Beginning>,
}

impl Replay {
    /// # Errors
    /// `Config`: it cannot be made beside what is live, with the reason.
    pub async fn new(
        config: &Config,
        catalog: &Catalog,
        warehouse: &Warehouse,
        rebuild: Rebuild,
        change: Change,
        from_lake: bool,
    ) -> Result<Self> {
        let model = rebuild.model.clone();
        let topic = catalog.topics[&model.topic].clone();
        can_be_made_anew(&topic, &model, change, warehouse).await?;
        let mut joined = catalog.clone();
        let reference = model.join.as_ref().map(|join| join.reference.name.clone());
        joined.references.retain(|name, _| Some(name) == reference.as_ref());
        let store = match &config.lake {
            Some(url) if reference.is_some() || from_lake => {
                Some(Store::open(url, &config.store_options)?)
            }
            None if from_lake => {
                return Err(Error::config(
                    "--from-lake: no lake is set: give --lake s3://bucket/prefix",
                ));
            }
            Some(_) | None => None,
        };
        let references = references::load_all(&joined, warehouse, store.as_ref()).await?;
        let kafka = kafka_of(config, &topic)?;
        let beginning = match change {
            Change::Same | Change::Wider | Change::Changed => None,
            Change::New => {
                let marks = warehouse.marks(Some(&*topic.name)).await?;
                Some(Beginning::find(&topic, &model, &marks, &kafka, from_lake)?)
            }
        };
        let rebuild = match &beginning {
            Some(beginning) => rebuild.new_output(beginning.begins.clone()),
            None => rebuild.by(change),
        };
        let rebuilder = Rebuilder::new(Parts {
            topic,
            rebuild: rebuild.clone(),
            references,
            secret: config.pii_secret.clone().map(Secret),
            warehouse: warehouse.clone(),
            lake: store.filter(|_| from_lake),
            kafka,
            owner: format!("{}/replay/{}", hostname(), uuid::Uuid::new_v4()),
            memory: config.memory / 4,
            interval: config.catch_up_interval.max(config.commit_interval),
        })?;
        Ok(Self { rebuild, rebuilder, warehouse: warehouse.clone(), beginning })
    }

    /// Notes the rebuild, or goes on with the one that is noted.
    pub async fn begin(&self) -> Result<()> {
        self.warehouse.begin_rebuild(&self.rebuild).await.map(drop)
    }

    /// Rebuilds and swaps, however often a service goes away meanwhile; and how many offsets were passed.
    pub async fn to_the_swap(&mut self) -> Result<(Swapped, u64)> {
        self.begin().await?;
        let mut shown = Shown::new(self.rebuild.output().to_string());
        let mut failures = 0;
        loop {
            let before = shown.passed;
            let done = self.attempt(&mut shown).await;
            shown.end();
            let error = match done {
                Ok(swapped) => return Ok((swapped, shown.passed)),
                Err(error) => error,
            };
            if error.kind == Kind::Unknown && self.is_over().await? {
                tracing::warn!("the answer to the swap was lost; it was done: {error}");
                let change = self.rebuild.change;
                let replaced = matches!(change, Change::Changed | Change::New);
                let widened = change == Change::Wider;
                let swapped = Swapped { replaced, widened, ..Swapped::default() };
                return Ok((swapped, shown.passed));
            }
            failures = if shown.passed > before { 1 } else { failures + 1 };
            retried(error, failures, "rebuilt").await?;
        }
    }

    /// The first half alone, however often a service goes away meanwhile; [`Self::to_the_swap`] goes on. How many
    /// offsets were passed.
    pub async fn beside(&mut self, tell: &mut (dyn FnMut(Progress) + Send)) -> Result<u64> {
        self.begin().await?;
        let (mut begun, mut come, mut failures) = (None, 0, 0);
        loop {
            let before = come;
            let mut noted = |now: Progress| {
                come = now.passed - *begun.get_or_insert(now.passed);
                tell(now);
            };
            let Err(error) = self.catch_up(&mut noted).await else { return Ok(come) };
            failures = if come > before { 1 } else { failures + 1 };
            retried(error, failures, "rebuilt").await?;
        }
    }

    /// Swapped in, or given up: after an `Unknown` of [`Self::try_swap`].
    pub async fn is_over(&self) -> Result<bool> {
        let rebuilds = self.warehouse.rebuilds(Some(&*self.rebuild.model.topic)).await?;
        Ok(rebuilds.iter().all(|row| row.output != self.rebuild.output()))
    }

    async fn attempt(&mut self, shown: &mut Shown) -> Result<Swapped> {
        let mut tell = |now| shown.tell(now);
        self.catch_up(&mut tell).await?;
        self.try_swap(&mut tell).await
    }

    /// Reads until what is left is read in no time.
    pub async fn catch_up(&mut self, tell: &mut dyn FnMut(Progress)) -> Result<()> {
        loop {
            let began = Instant::now();
            let passed = self.rebuilder.catch_up(tell).await?;
            if passed == 0 || began.elapsed() < NEAR {
                return Ok(());
            }
        }
    }

    /// # Errors
    /// As [`Warehouse::swap_rebuild`] and [`Rebuilder::catch_up`] tell them; after `Retry` [`Self::catch_up`] goes on.
    pub async fn try_swap(&mut self, tell: &mut dyn FnMut(Progress)) -> Result<Swapped> {
        for _ in 0..TRIES_BESIDE {
            let halt = self.warehouse.halt(&self.rebuild).await?;
            if stands_there(&halt, &self.rebuild) {
                return self.warehouse.swap_rebuild(halt, &self.rebuild).await;
            }
            drop(halt);
            self.rebuilder.catch_up(tell).await?;
        }
        // Its owner commits between any two looks: it waits for what little is left.
        let halt = self.warehouse.halt(&self.rebuild).await?;
        self.rebuilder.catch_up(tell).await?;
        self.warehouse.swap_rebuild(halt, &self.rebuild).await
    }

    async fn dry_run(&mut self, json: bool) -> Result<()> {
        let standing = self.warehouse.look_at_rebuild(&self.rebuild).await?;
        let spans = self.rebuilder.spans(&standing)?;
        let rate = self.rebuilder.sample(&standing, SAMPLE)?;
        let is_new = self.rebuild.change == Change::New;
        let tables = match is_new {
            true => Vec::new(),
            false => self.warehouse.table_rows(&self.rebuild).await?,
        };
        let only_in_lake = self.beginning.as_ref().map_or(0, |beginning| beginning.only_in_lake);
        let all: u64 = spans.values().map(|span| span.len()).sum();
        let seconds = rate.map(|rate| all as f64 / rate);
        let topic = &self.rebuild.model.topic;
        if json {
            let of_lake = self.rebuilder.of_lake(&spans);
            let spans: Vec<_> = spans
                .iter()
                .map(|(p, span)| {
                    json!({ "topic": topic, "partition": p.0, "from": span.from.0, "to": span.to.0 })
                })
                .collect();
            let tables: Vec<_> =
                tables.iter().map(|(t, rows)| json!({ "table": t, "rows": rows })).collect();
            let printed = json!({
                "output": self.rebuild.output().to_string(), "spans": spans, "records_at_most": all,
                "from_lake": of_lake, "only_in_lake": only_in_lake, "new": is_new, "replaces": tables, "records_per_second": rate, "seconds": seconds,
            });
            println!("{}", serde_json::to_string_pretty(&printed).expect("texts and numbers"));
            return Ok(());
        }
        let row = |(p, span): (&crate::record::Partition, &crate::record::Span)| {
            vec![
                format!("{topic}/{}", p.0),
                span.from.0.to_string(),
                span.to.0.to_string(),
                span.len().to_string(),
            ]
        };
        let rows: Vec<_> = spans.iter().map(row).collect();
        print!("{}", table::render(&["partition", "from", "to", "offsets"], &rows));
        match self.rebuilder.of_lake(&spans) {
            0 => println!("{all} offsets are read from Kafka"),
            lake => println!("{lake} offsets are read from the lake, {} from Kafka", all - lake),
        }
        if let Some(beginning) = &self.beginning {
            println!("{}", beginning.told());
        }
        for (table, rows) in tables {
            let time = |time: Option<EventTime>| time.map(told::time);
            let of = match (time(self.rebuild.since), time(self.rebuild.until)) {
                (None, None) => String::new(),
                (Some(since), None) => format!(", of windows that begin then or later ({since})"),
                (None, Some(until)) => format!(", of windows that begin before {until}"),
                (Some(since), Some(until)) => {
                    format!(", of windows that begin from {since} to before {until}")
                }
            };
            println!("replaced: {rows} rows of {table}{of}, where they differ");
        }
        told_left(rate, seconds, "aggregated", "PostgreSQL's part comes on top");
        Ok(())
    }
}

/// Both marks at the same offsets.
fn stands_there(halt: &Halt, rebuild: &Rebuild) -> bool {
    let (live, beside) = (rebuild.leader(), rebuild.beside());
    let at = |output: &Output, partition| {
        let row = halt.marks.iter().find(|m| m.output == *output && m.partition == partition);
        row.map(|m| m.mark.next)
    };
    let mut of_live = halt.marks.iter().filter(|m| m.output == live);
    of_live.all(|m| at(&beside, m.partition) == Some(m.mark.next))
}

/// What whoever changes fates waits for, as `replay` names it.
pub async fn under_way(warehouse: &Warehouse, topic: &str) -> Result<Option<String>> {
    let rebuilds = warehouse.rebuilds(Some(topic)).await?;
    let outputs = rebuilds.into_iter().map(|row| row.output);
    let mut models = outputs.filter(|output| !is_rebuild(output)).map(|output| output.to_string());
    let lake = warehouse.rewrites().await?.into_iter().find(|rewritten| rewritten == topic);
    Ok(models.next().or(lake.map(|topic| format!("lake:{topic}"))))
}
