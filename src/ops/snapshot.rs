//! `highwater snapshot begin|end|accept|discard` and `accept-deletes`: a person says where a load begins and ends,
//! and decides on what would delete too much.
//!
//! Owns: which models it is about, what is told. Does not own: the transactions (`warehouse::swap`,
//! `warehouse::loads`). The service may run: it finds the table as it is then.

use super::{
    load,
    run::runtime,
    service::hostname,
    status::{KAFKA_WAIT, client},
};
use crate::{
    catalog::{Catalog, Format, Model, Order, Snapshots, Topic},
    compute::changes::Load,
    config::Config,
    error::{Error, Result},
    record::{Offset, Partition},
    warehouse::{
        Warehouse, WarehouseSettings,
        swap::{SnapshotRow, Wish, newest},
    },
};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
pub struct Request {
    /// As its file is named.
    topic: String,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
pub struct Bracket {
    /// As its file is named.
    topic: String,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// A load of a topic.
#[derive(Serialize)]
struct Told {
    topic: String,
    load: i32,
    /// By partition: the offset that it begins at, and where it ends.
    from: BTreeMap<i32, i64>,
    to: Option<BTreeMap<i32, i64>>,
}

/// What became of a model's snapshot.
#[derive(Serialize)]
struct Line {
    topic: String,
    model: String,
    position: String,
    state: &'static str,
    deletes: u64,
    rows: u64,
    refused: u64,
    done: bool,
}

pub fn accept(config: &Config, request: &Request) -> Result<()> {
    decide(config, request, &Wish::Accept { by: hostname() })
}

pub fn discard(config: &Config, request: &Request) -> Result<()> {
    decide(config, request, &Wish::Discard { by: hostname() })
}

/// The next cut that deletes too much may do so.
pub fn accept_deletes(config: &Config, name: &str) -> Result<()> {
    let catalog = load(config)?;
    let (topic, models) = of_topic(&catalog, name)?;
    runtime()?.block_on(async {
        let warehouse = open(config).await?;
        warehouse.accept_deletes(&models, &hostname()).await
    })?;
    println!(
        "{}: the next cut of each of its {} models may delete what it does",
        topic.name,
        models.len()
    );
    Ok(())
}

/// Load rows behind the logs' ends of now are of a new load.
pub fn begin(config: &Config, request: &Bracket) -> Result<()> {
    let (topic, ends) = bracketed(config, request)?;
    let load = runtime()?.block_on(async {
        let warehouse = open(config).await?;
        if let Some(rebuild) = warehouse.rebuilds(Some(&topic)).await?.first() {
            return Err(Error::config(format!(
                "a rebuild of {} is under way, which follows no load: let it end, or give it up by `highwater replay {0} \
                 --abort`, and begin again",
                rebuild.output
            )));
        }
        let begun = warehouse.begin_load(&topic, &ends, &hostname()).await?;
        begun.ok_or_else(|| {
            Error::config(format!(
                "a load of {topic} has begun already and not ended: `highwater snapshot end {topic}` when it is done, \
                 then `highwater snapshot discard {topic}` if it is to be left out"
            ))
        })
    })?;
    let next = format!("reload the table, then `highwater snapshot end {topic}`");
    tell(&topic, &load, request.json, "begins", &next);
    Ok(())
}

/// The load that has begun ends at the logs' ends of now.
pub fn end(config: &Config, request: &Bracket) -> Result<()> {
    let (topic, ends) = bracketed(config, request)?;
    let load = runtime()?.block_on(async {
        let ended = open(config).await?.end_load(&topic, &ends, &hostname()).await?;
        ended.ok_or_else(|| {
            Error::config(format!(
                "no load of {topic} has begun: `highwater snapshot begin {topic}` before the table is loaded. Load rows \
                 that came without it are merged, and nothing is deleted"
            ))
        })
    })?;
    tell(&topic, &load, request.json, "ends", "it is swapped in when all models have read so far");
    Ok(())
}

type Ends = Vec<(Partition, Offset)>;

/// The topic's name, and where its logs end.
fn bracketed(config: &Config, request: &Bracket) -> Result<(Arc<str>, Ends)> {
    let catalog = load(config)?;
    let (topic, models) = of_topic(&catalog, &request.topic)?;
    let name = &topic.name;
    let merges = "so its load rows are merged and delete nothing";
    let spec = topic.followed();
    let why = match spec.map(|spec| (spec.snapshots, spec.order)) {
        None if topic.append_only => Some("its rows are only added (append_only)".to_owned()),
        None => Some("it has no changes".to_owned()),
        Some((Snapshots::Bracketed { .. }, _)) if models.is_empty() => {
            Some("no model is over its changes".to_owned())
        }
        Some((Snapshots::Bracketed { .. }, _)) => None,
        Some((Snapshots::Replace { .. }, _)) => {
            Some("its connector says itself where a snapshot begins and ends".to_owned())
        }
        Some((Snapshots::Merge, Order::Offset)) if topic.format == Format::Qlik => {
            Some(format!("it has changes.order = \"offset\", {merges}"))
        }
        Some((Snapshots::Merge, _)) if topic.format == Format::Qlik => {
            Some(format!("it has changes.snapshots = \"merge\", {merges}"))
        }
        Some((Snapshots::Merge, _)) => {
            Some("only loads of Qlik Replicate are bracketed".to_owned())
        }
    };
    if let Some(why) = why {
        return Err(Error::config(format!("{name} needs no begin and end of a load: {why}")));
    }
    let kafka = client(config)?;
    let partitions = kafka.partitions(&topic.kafka_topic, KAFKA_WAIT)?;
    let ends = kafka.ends(&topic.kafka_topic, &partitions, KAFKA_WAIT);
    if ends.len() != partitions.len() {
        return Err(Error::retry(format!(
            "{name}: not every partition tells where its log ends; nothing was recorded"
        )));
    }
    Ok((name.clone(), ends))
}

fn tell(topic: &str, load: &Load, json: bool, what: &str, next: &str) {
    if json {
        let (from, to) = (load.from.clone(), load.to.clone());
        let told = Told { topic: topic.to_owned(), load: load.number, from, to };
        println!("{}", serde_json::to_string_pretty(&told).expect("numbers and texts"));
        return;
    }
    let places = load.to.as_ref().unwrap_or(&load.from);
    let places: Vec<String> = places.iter().map(|(p, offset)| format!("{p}@{offset}")).collect();
    println!("{topic}: load {} {what} at {}; {next}", load.number, places.join(" "));
}

/// A topic, and its models over changes.
fn of_topic<'c>(catalog: &'c Catalog, name: &str) -> Result<(&'c Topic, Vec<Arc<Model>>)> {
    let Some(topic) = catalog.topics.get(name) else {
        let known: Vec<&str> = catalog.topics.keys().map(|t| &**t).collect();
        return Err(Error::config(format!(
            "there is no topic {name}. Declared: {}",
            known.join(", ")
        )));
    };
    let models = catalog.models_of(&topic.name).filter(|model| model.folding.is_some());
    Ok((topic, models.collect()))
}

async fn open(config: &Config) -> Result<Warehouse> {
    let settings =
        WarehouseSettings { ca_file: config.warehouse_ca.clone(), ..WarehouseSettings::default() };
    let warehouse = Warehouse::connect(config.warehouse()?, &settings).await?;
    warehouse.migrate().await?;
    Ok(warehouse)
}

fn decide(config: &Config, request: &Request, wish: &Wish) -> Result<()> {
    let catalog = load(config)?;
    let (topic, models) = of_topic(&catalog, &request.topic)?;
    let lines = runtime()?.block_on(decide_all(config, topic, &models, wish, request.dry_run))?;
    if request.json {
        println!("{}", serde_json::to_string_pretty(&lines).expect("numbers and texts"));
    } else {
        print(&lines, request);
    }
    Ok(())
}

async fn decide_all(
    config: &Config,
    topic: &Topic,
    models: &[Arc<Model>],
    wish: &Wish,
    dry_run: bool,
) -> Result<Vec<Line>> {
    let warehouse = open(config).await?;
    warehouse.ensure_tables(models).await?;
    if let Wish::Discard { .. } = wish {
        can_be_discarded(&warehouse, topic, models).await?;
    }
    let mut lines = Vec::new();
    for model in models {
        if newest(&warehouse.snapshots_of(model).await?).is_none() {
            continue;
        }
        if let Some(row) = warehouse.swap(topic, model, wish, dry_run).await? {
            lines.push(line(topic, model, &row, !dry_run));
        }
    }
    Ok(lines)
}

/// All models discard the same: a load whose end is known, and which each has read so far as to know of it.
async fn can_be_discarded(
    warehouse: &Warehouse,
    topic: &Topic,
    models: &[Arc<Model>],
) -> Result<()> {
    let name = &topic.name;
    let loads = warehouse.loads(name).await?;
    let Some(load) = loads.last() else { return Ok(()) };
    if load.to.is_none() {
        return Err(Error::config(format!(
            "the load of {name} has not ended: `highwater snapshot end {name}` first, when no more of its rows come"
        )));
    }
    for model in models {
        let rows = warehouse.snapshots_of(model).await?;
        if rows.iter().all(|row| row.position != load.position()) {
            return Err(Error::config(format!(
                "model {} has not read the load of {name} yet: let the service run, and discard it then",
                model.name
            )));
        }
    }
    Ok(())
}

fn line(topic: &Topic, model: &Model, row: &SnapshotRow, done: bool) -> Line {
    Line {
        topic: topic.name.to_string(),
        model: model.name.to_string(),
        position: row.position.clone(),
        state: row.state.as_str(),
        deletes: row.counts.deletes,
        rows: row.counts.rows,
        refused: row.counts.refused,
        done,
    }
}

fn print(lines: &[Line], request: &Request) {
    if lines.is_empty() {
        println!("no snapshot of {} waits for this", request.topic);
    }
    for line in lines {
        let Line { topic, model, position, state, deletes, rows, .. } = line;
        let is = if line.done { "is" } else { "would be" };
        let what = match *state {
            "applied" => format!(": {deletes} of {rows} rows deleted"),
            _ => String::new(),
        };
        println!("{topic} {model}: the snapshot at {position} {is} {state}{what}");
    }
}
