//! `highwater accept-gap`: records offsets that Kafka has no more as lost, and lets them be passed.
//!
//! Owns: finding what is gone now, what is refused, what is told. Does not own: the transaction
//! (`warehouse::gaps`). The service may run: it is fenced, takes anew and goes on.

use super::{
    load,
    run::runtime,
    service::{hostname, outputs},
    status,
};
use crate::{
    catalog::{Catalog, Model, ModelKind, Order, Topic},
    config::Config,
    error::{Error, Result},
    record::{
        Output, Partition,
        gap::{self, Gap, Reason},
    },
    source::kafka::Kafka,
    warehouse::{
        MarkRow, Warehouse, WarehouseSettings,
        gaps::{Accepted, Then, plan},
    },
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

const KAFKA_WAIT: Duration = Duration::from_secs(10);

/// What was typed.
#[derive(Debug)]
pub struct Request {
    pub topic: String,
    /// All, if empty.
    pub partitions: Vec<i32>,
    pub dry_run: bool,
    pub json: bool,
}

/// A row of `highwater.gaps`, and what follows.
#[derive(Serialize)]
struct Line {
    topic: String,
    partition: i32,
    output: String,
    reason: &'static str,
    from_offset: i64,
    to_offset: i64,
    lost: i64,
    generation: i32,
    /// None: the generation goes on.
    begins_generation: Option<i32>,
    goes_on_at: i64,
    accepted: bool,
}

pub fn accept_gap(config: &Config, request: &Request) -> Result<()> {
    let catalog = load(config)?;
    let Some(topic) = catalog.topics.get(request.topic.as_str()) else {
        let known: Vec<&str> = catalog.topics.keys().map(|t| &**t).collect();
        return Err(Error::config(format!(
            "accept-gap {}: there is no such topic. Declared: {}",
            request.topic,
            known.join(", ")
        )));
    };
    let models: Vec<Arc<Model>> = catalog.models_of(&topic.name).collect();
    let declared = outputs(topic, &models);
    let kafka = status::client(config)?;
    let runtime = runtime()?;
    let warehouse = runtime.block_on(async {
        let settings = WarehouseSettings {
            ca_file: config.warehouse_ca.clone(),
            ..WarehouseSettings::default()
        };
        let warehouse = Warehouse::connect(config.warehouse()?, &settings).await?;
        warehouse.migrate().await?;
        Ok::<_, Error>(warehouse)
    })?;
    // Marks first: a log's end that is asked later cannot lie below one of them by chance.
    let marks = runtime.block_on(warehouse.marks(Some(&*topic.name)))?;
    let marks = wanted(marks, request)?;
    let gaps = find(&kafka, topic, &marks, &declared)?;
    if !request.json {
        for gaps in gaps.values() {
            println!("{}", gap::causes(&topic.name, gaps));
        }
    }
    let gaps: Vec<Gap> = gaps.into_values().flatten().collect();
    let planned = plan(&marks, &gaps, &declared);
    let loads = runtime.block_on(warehouse.loads(&topic.name))?;
    refuse(&catalog, topic, &planned, !loads.is_empty())?;
    let accepted = match request.dry_run || gaps.is_empty() {
        true => planned,
        false => {
            let by = hostname();
            runtime.block_on(warehouse.accept_gaps(&topic.name, &gaps, &declared, &by))?
        }
    };
    let lines: Vec<Line> =
        accepted.iter().map(|a| line(&topic.name, a, !request.dry_run)).collect();
    match request.json {
        true => println!("{}", serde_json::to_string_pretty(&lines).expect("numbers and texts")),
        false => print(&lines, request),
    }
    Ok(())
}

fn wanted(marks: Vec<MarkRow>, request: &Request) -> Result<Vec<MarkRow>> {
    for partition in &request.partitions {
        if marks.iter().all(|m| m.partition.0 != *partition) {
            return Err(Error::config(format!(
                "accept-gap: {}/{partition} has no marks: nothing was ever taken of it",
                request.topic
            )));
        }
    }
    let is_wanted =
        |m: &MarkRow| request.partitions.is_empty() || request.partitions.contains(&m.partition.0);
    Ok(marks.into_iter().filter(is_wanted).collect())
}

/// By partition.
fn find(
    kafka: &Kafka,
    topic: &Topic,
    marks: &[MarkRow],
    declared: &[Output],
) -> Result<BTreeMap<Partition, Vec<Gap>>> {
    let partitions: BTreeSet<Partition> = marks.iter().map(|m| m.partition).collect();
    let there = kafka.partitions(&topic.kafka_topic, KAFKA_WAIT)?;
    // A topic made again may have fewer.
    let partitions: Vec<_> = partitions.into_iter().filter(|p| there.contains(p)).collect();
    let logs = kafka.logs(&topic.kafka_topic, &partitions, KAFKA_WAIT)?;
    let mut gaps: BTreeMap<Partition, Vec<Gap>> = BTreeMap::new();
    for (partition, log) in logs {
        let of_partition = |m: &&MarkRow| m.partition == partition && declared.contains(&m.output);
        for gap in marks.iter().filter(of_partition).filter_map(|m| m.gap(&log)) {
            gaps.entry(partition).or_default().push(gap);
        }
    }
    Ok(gaps)
}

/// Offsets that begin anew meet what is known by offset: such rows would be mixed up in silence.
fn refuse(catalog: &Catalog, topic: &Topic, planned: &[Accepted], has_loads: bool) -> Result<()> {
    for accepted in planned {
        let (Then::Begin { .. }, Output::Model(name)) = (accepted.then, &accepted.output) else {
            continue;
        };
        let Some(model) = catalog.models.get(name) else { continue };
        let known_by_offset = match &model.kind {
            ModelKind::Rows(rows) if rows.primary_key.is_empty() => {
                "its rows are known by partition and offset, and offsets begin again"
            }
            ModelKind::Rows(_) | ModelKind::Aggregate(_) if model.join.is_some() => {
                "which version of its reference a row was looked up in is known by offset, and offsets \
                 begin again"
            }
            ModelKind::Rows(_) | ModelKind::Aggregate(_)
                if model.folding.as_ref().is_some_and(|f| f.order == Order::Offset) =>
            {
                "which of two changes is the later one is known by offset, and offsets begin again"
            }
            ModelKind::Rows(_) | ModelKind::Aggregate(_)
                if has_loads && model.folding.is_some() =>
            {
                "which rows are of a load (`highwater snapshot begin`) is known by offset, and offsets begin again"
            }
            ModelKind::Rows(_) | ModelKind::Aggregate(_) => continue,
        };
        return Err(Error::config(format!(
            "accept-gap {}: model {name} stands in the way: {known_by_offset}. Give its file another name \
             (the table {name} stays as it is, a new one begins with the new topic), then accept again. \
             Nothing was changed",
            topic.name
        )));
    }
    Ok(())
}

fn line(topic: &str, accepted: &Accepted, done: bool) -> Line {
    let (begins_generation, goes_on_at) = match accepted.then {
        Then::Pass => (None, accepted.to.0),
        Then::Begin { generation, at } => (Some(generation), at.0),
    };
    Line {
        topic: topic.to_owned(),
        partition: accepted.partition.0,
        output: accepted.output.to_string(),
        reason: accepted.reason.as_str(),
        from_offset: accepted.from.0,
        to_offset: accepted.to.0,
        lost: accepted.lost(),
        generation: accepted.generation,
        begins_generation,
        goes_on_at,
        accepted: done,
    }
}

fn print(lines: &[Line], request: &Request) {
    if lines.is_empty() {
        println!("nothing is gone of {}", request.topic);
        return;
    }
    let (recorded, begins) = match request.dry_run {
        true => ("would be recorded as lost", "would begin"),
        false => ("recorded as lost", "begins"),
    };
    for line in lines {
        let place = format!("{}/{} {}", line.topic, line.partition, line.output);
        match line.begins_generation {
            None => println!(
                "{place}: {} offsets {recorded}, {}..{}",
                line.lost, line.from_offset, line.to_offset
            ),
            Some(generation) => {
                println!("{place}: generation {generation} {begins} at offset {}", line.goes_on_at);
            }
        }
    }
    if lines.iter().any(|line| line.reason == Reason::Truncated.as_str()) {
        println!("what Kafka kept of the truncated log is read once more, as new records");
    }
}
