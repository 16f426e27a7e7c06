//! `highwater plan`: what `topics/` and `sql/models` say, held against what the tables were filled by;
//! and `run --apply`, which rebuilds what has changed.
//!
//! Owns: what is unchanged, new, changed or not declared any more. Does not own: the rebuild (`replay`).

use super::{
    load,
    replay::{Beginning, Replay, change, has_begun},
    run, status, table,
};
use crate::{
    catalog::{Catalog, Model, Topic},
    config::Config,
    error::{Error, Kind, Result},
    record::Output,
    source::kafka::Kafka,
    warehouse::{
        MarkRow, Warehouse,
        rebuild::{Change, Rebuild, is_rebuild},
    },
};
use serde::Serialize;
use std::{collections::BTreeSet, sync::Arc};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Unchanged,
    New,
    /// Columns more, and nothing else.
    Wider,
    Changed,
    NotDeclared,
    /// Files of a lake that are written anew, by a process that runs or has ended.
    UnderWay,
    /// Just now.
    Dropped,
}

/// One output.
#[derive(Debug, Serialize)]
struct Line {
    output: String,
    topic: String,
    state: State,
    /// Offsets that are read back for it.
    reads_back: Option<u64>,
    says: String,
}

/// With `drop` whatever is not declared any more goes.
pub fn plan(config: &Config, json: bool, drop: bool) -> Result<()> {
    let catalog = load(config)?;
    let runtime = run::runtime()?;
    let (lines, dropped) = runtime.block_on(async {
        let warehouse = run::connect(config).await?;
        let catalog = run::with_additions(&catalog, &warehouse).await?;
        let mut lines = compare(config, &catalog, &warehouse).await?;
        let gone = lines.iter_mut().filter(|line| drop && line.state == State::NotDeclared);
        let mut dropped = Ok(());
        for line in gone {
            dropped = drop_one(line, &warehouse).await;
            if dropped.is_err() {
                break;
            }
        }
        Ok::<_, Error>((lines, dropped))
    })?;
    if json {
        println!("{}", serde_json::to_string_pretty(&lines).expect("texts and numbers"));
        return dropped;
    }
    let row = |line: &Line| {
        let state = match line.state {
            State::Unchanged => "unchanged",
            State::New => "new",
            State::Wider => "columns more",
            State::Changed => "changed",
            State::NotDeclared => "not declared",
            State::UnderWay => "under way",
            State::Dropped => "dropped",
        };
        let reads_back = line.reads_back.map_or_else(String::new, |n| n.to_string());
        vec![line.output.clone(), line.topic.clone(), state.into(), reads_back, line.says.clone()]
    };
    let rows: Vec<_> = lines.iter().map(row).collect();
    print!("{}", table::render(&["output", "topic", "", "reads back", ""], &rows));
    if lines.iter().any(|line| matches!(line.state, State::Wider | State::Changed)) {
        println!(
            "`highwater run` refuses to start on this; `highwater run --apply` rebuilds what has changed, a service that runs \
             does on SIGHUP"
        );
    }
    dropped
}

async fn drop_one(line: &mut Line, warehouse: &Warehouse) -> Result<()> {
    let name = line.output.strip_prefix("model:").unwrap_or(&line.output);
    let dropped = warehouse.drop_model(name).await?;
    line.state = State::Dropped;
    let relations: Vec<&str> =
        dropped.tables.iter().chain(&dropped.views).map(String::as_str).collect();
    line.says = format!(
        "{}; {} marks, {} dead letters",
        relations.join(", "),
        dropped.marks,
        dropped.letters
    );
    Ok(())
}

async fn compare(config: &Config, catalog: &Catalog, warehouse: &Warehouse) -> Result<Vec<Line>> {
    let marks = warehouse.marks(None).await?;
    let models: Vec<Arc<Model>> = catalog.models.values().cloned().collect();
    let filled = warehouse.filled(&models).await?;
    let under_way = warehouse.rebuilds(None).await?;
    let kafka = status::client(config).ok();
    let mut lines = Vec::new();
    for (model, filled) in models.iter().zip(filled) {
        let output = Output::Model(model.name.clone());
        let own: Vec<&MarkRow> = marks.iter().filter(|m| m.output == output).collect();
        let covers = own.iter().map(|m| (m.mark.next.0 - m.mark.first.0) as u64).sum();
        let half = under_way.iter().any(|row| row.output == output);
        let (state, reads_back, says) = match change(model, filled, &marks) {
            Change::Same => {
                let says = if half { "made anew, half done already" } else { "" };
                (State::Unchanged, None, says.to_owned())
            }
            Change::New => {
                let (reads_back, says) = new(kafka.as_deref(), catalog, model, &marks, half);
                (State::New, reads_back, says)
            }
            Change::Wider => {
                let says = match half {
                    true => {
                        "made anew beside it, half done already; the table stays and gets the columns"
                    }
                    false => "made anew beside it; the table stays and gets the columns",
                };
                (State::Wider, Some(covers), says.to_owned())
            }
            Change::Changed => {
                let says = match half {
                    true => "rebuilt beside the old one, half done already",
                    false => "rebuilt beside the old one, which is read until the swap",
                };
                (State::Changed, Some(covers), says.to_owned())
            }
        };
        let (output, topic) = (output.to_string(), model.topic.to_string());
        lines.push(Line { output, topic, state, reads_back, says });
    }
    for topic in warehouse.rewrites().await? {
        let Some(rewrite) = warehouse.rewrite(&topic).await? else { continue };
        let left = rewrite.spans.iter().map(|s| (s.span.to.0 - s.next.0) as u64).sum();
        let output = format!("lake:{topic}");
        let says = format!(
            "{} of {} offsets are written anew: `highwater replay {output}` goes on, with --abort drops them",
            rewrite.all() - left,
            rewrite.all()
        );
        lines.push(Line { output, topic, state: State::UnderWay, reads_back: Some(left), says });
    }
    let gone: BTreeSet<(&Arc<str>, &Output)> = marks
        .iter()
        .filter(|m| catalog.topics.contains_key(&m.topic) && !is_rebuild(&m.output))
        .map(|m| (&m.topic, &m.output))
        .collect();
    for (topic, output) in gone {
        let Output::Model(name) = output else { continue };
        if !catalog.models.contains_key(name) {
            lines.push(Line {
                output: output.to_string(),
                topic: topic.to_string(),
                state: State::NotDeclared,
                reads_back: None,
                says:
                    "its table and marks are kept, and nobody goes on with them; --drop drops them"
                        .to_owned(),
            });
        }
    }
    Ok(lines)
}

/// What a new output reads back, and from where; None: Kafka does not tell.
fn new(
    kafka: Option<&Kafka>,
    catalog: &Catalog,
    model: &Model,
    marks: &[MarkRow],
    half: bool,
) -> (Option<u64>, String) {
    let topic = &catalog.topics[&model.topic];
    if !has_begun(&topic.name, marks) {
        let says = "filled from what Kafka has, with the others of its topic";
        return (kafka.and_then(|kafka| in_kafka(kafka, topic)), says.to_owned());
    }
    let beginning = kafka.and_then(|kafka| Beginning::find(topic, model, marks, kafka, false).ok());
    let mut says = match half {
        true => "made beside the others, half done already".to_owned(),
        false => "made beside the others with --apply; else filled while they wait".to_owned(),
    };
    if let Some(lake) = beginning.as_ref().map(|b| b.only_in_lake).filter(|lake| *lake > 0) {
        says += &format!(
            ". From where Kafka begins: {lake} offsets before are only in the lake (`highwater replay model:{} --from-lake`)",
            model.name
        );
    }
    (beginning.map(|beginning| beginning.reads_back), says)
}

/// Offsets that Kafka has of a topic; None: it does not tell.
fn in_kafka(kafka: &Kafka, topic: &Topic) -> Option<u64> {
    let name = &topic.kafka_topic;
    let wait = status::KAFKA_WAIT;
    let partitions = kafka.partitions(name, wait).ok()?;
    let logs = partitions.into_iter().map(|p| kafka.log(name, p, wait).ok());
    let logs: Option<Vec<_>> = logs.collect();
    Some(logs?.iter().map(|(oldest, end)| (end.0 - oldest.0) as u64).sum())
}

/// Makes anew, beside what is live, the models whose tables were filled by another definition, and makes those that
/// are new in topics whose other outputs have begun. Without `apply` refuses to start on a changed one.
pub async fn apply(
    config: &Config,
    catalog: &Catalog,
    warehouse: &Warehouse,
    apply: bool,
    from_lake: bool,
) -> Result<()> {
    let models: Vec<Arc<Model>> = catalog.models.values().cloned().collect();
    let filled = warehouse.filled(&models).await?;
    let marks = warehouse.marks(None).await?;
    let all =
        models.iter().zip(filled).map(|(model, filled)| (model, change(model, filled, &marks)));
    let all: Vec<(&Arc<Model>, Change)> = all.collect();
    let changed =
        || all.iter().filter(|(_, change)| matches!(change, Change::Wider | Change::Changed));
    if let (Some((first, _)), false) = (changed().next(), apply) {
        let names: Vec<&str> = changed().map(|(model, _)| &*model.name).collect();
        return Err(Error::config(format!(
            "the definition of {} ({}) has changed since the table was filled: going on would mix rows of both. \
             `highwater plan` says what would be rebuilt, `highwater run --apply` rebuilds it beside the live table. Or \
             give the changed model a new name, which keeps the old table as it is",
            names.join(", "),
            first.file.display(),
        )));
    }
    if !apply {
        return Ok(());
    }
    for (model, change) in changed() {
        tracing::info!(model = %model.name, "rebuilding by its changed definition");
        let rebuild = Rebuild::of(model);
        let mut replay =
            Replay::new(config, catalog, warehouse, rebuild, *change, from_lake).await?;
        let (_, passed) = replay.to_the_swap().await?;
        tracing::info!(model = %model.name, offsets = passed, "rebuilt and swapped in");
    }
    for (model, change) in &all {
        if *change == Change::New && has_begun(&model.topic, &marks) {
            fill(config, catalog, warehouse, model, from_lake).await?;
        }
    }
    Ok(())
}

/// A new model, beside the others; where that cannot be, the service fills it, which reads no lake.
async fn fill(
    config: &Config,
    catalog: &Catalog,
    warehouse: &Warehouse,
    model: &Arc<Model>,
    from_lake: bool,
) -> Result<()> {
    let rebuild = Rebuild::of(model);
    let mut replay =
        match Replay::new(config, catalog, warehouse, rebuild, Change::New, from_lake).await {
            Ok(replay) => replay,
            Err(error) if error.kind == Kind::Config && !from_lake => {
                tracing::warn!(model = %model.name, "the service fills it: {error}");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
    tracing::info!(model = %model.name, "making it beside the others");
    match replay.to_the_swap().await {
        Ok((_, passed)) => tracing::info!(model = %model.name, offsets = passed, "made"),
        // Another process runs it already, and fills it.
        Err(error) if error.kind == Kind::Fenced => {
            let output = Output::Model(model.name.clone());
            let marks = warehouse.marks(Some(&*model.topic)).await?;
            if marks.iter().all(|m| m.output != output) {
                return Err(error);
            }
            tracing::warn!(model = %model.name, "{error}");
            warehouse.abort_rebuild(&model.topic, &model.name).await?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
