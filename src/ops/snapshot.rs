//! `highwater snapshot accept|discard` and `accept-deletes`: a person decides on what would delete too much.
//!
//! Owns: which models it is about, what is told. Does not own: the transaction (`warehouse::swap`). The service
//! may run: it finds the table as it is then.

use super::{load, run::runtime, service::hostname};
use crate::{
    catalog::{Catalog, Model, Topic},
    config::Config,
    error::{Error, Result},
    warehouse::{
        Warehouse, WarehouseSettings,
        swap::{SnapshotRow, Wish, newest},
    },
};
use serde::Serialize;
use std::sync::Arc;

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

/// A topic, and its models over changes.
fn of_topic<'c>(catalog: &'c Catalog, name: &str) -> Result<(&'c Topic, Vec<Arc<Model>>)> {
    let Some(topic) = catalog.topics.get(name) else {
        let known: Vec<&str> = catalog.topics.keys().map(|t| &**t).collect();
        return Err(Error::config(format!(
            "there is no topic {name}. Declared: {}",
            known.join(", ")
        )));
    };
    let own = |model: &&Arc<Model>| model.topic == topic.name && model.folding.is_some();
    Ok((topic, catalog.models.values().filter(own).cloned().collect()))
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
