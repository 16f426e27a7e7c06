//! `highwater plan`: what `topics/` and `sql/models` say, held against what the tables were filled by;
//! and `run --apply`, which rebuilds what has changed.
//!
//! Owns: what is unchanged, new, changed or not declared any more. Does not own: the rebuild (`replay`).

use super::{load, replay::Replay, run, status, table};
use crate::{
    catalog::{Catalog, Model},
    config::Config,
    error::{Error, Result},
    record::Output,
    warehouse::{
        MarkRow, Warehouse,
        rebuild::{Filled, Rebuild, is_rebuild},
    },
};
use serde::Serialize;
use std::{collections::BTreeSet, sync::Arc};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Unchanged,
    New,
    Changed,
    NotDeclared,
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

pub fn plan(config: &Config, json: bool) -> Result<()> {
    let catalog = load(config)?;
    let runtime = run::runtime()?;
    let lines = runtime.block_on(async {
        let warehouse = run::connect(config).await?;
        let catalog = run::with_additions(&catalog, &warehouse).await?;
        compare(config, &catalog, &warehouse).await
    })?;
    if json {
        println!("{}", serde_json::to_string_pretty(&lines).expect("texts and numbers"));
        return Ok(());
    }
    let row = |line: &Line| {
        let state = match line.state {
            State::Unchanged => "unchanged",
            State::New => "new",
            State::Changed => "changed",
            State::NotDeclared => "not declared",
        };
        let reads_back = line.reads_back.map_or_else(String::new, |n| n.to_string());
        vec![line.output.clone(), line.topic.clone(), state.into(), reads_back, line.says.clone()]
    };
    let rows: Vec<_> = lines.iter().map(row).collect();
    print!("{}", table::render(&["output", "topic", "", "reads back", ""], &rows));
    let changed = lines.iter().filter(|line| line.state == State::Changed).count();
    if changed > 0 {
        println!(
            "`highwater run` refuses to start on this; `highwater run --apply` rebuilds what has changed"
        );
    }
    Ok(())
}

async fn compare(config: &Config, catalog: &Catalog, warehouse: &Warehouse) -> Result<Vec<Line>> {
    let marks = warehouse.marks(None).await?;
    let models: Vec<Arc<Model>> = catalog.models.values().cloned().collect();
    let filled = warehouse.filled(&models).await?;
    let under_way = warehouse.rebuilds(None).await?;
    let mut lines = Vec::new();
    for (model, filled) in models.iter().zip(filled) {
        let output = Output::Model(model.name.clone());
        let own: Vec<&MarkRow> = marks.iter().filter(|m| m.output == output).collect();
        let covers = own.iter().map(|m| (m.mark.next.0 - m.mark.first.0) as u64).sum();
        let (state, reads_back, says) = match filled {
            Filled::Same if !own.is_empty() => (State::Unchanged, None, String::new()),
            Filled::Same | Filled::Absent => {
                let there = in_kafka(config, catalog, model);
                (State::New, there, "filled from what Kafka has, beside the others".to_owned())
            }
            Filled::Other => {
                let half = under_way.iter().any(|row| row.output == output);
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
                says: "its table and marks are kept, and nobody goes on with them".to_owned(),
            });
        }
    }
    Ok(lines)
}

/// Offsets that Kafka has of the model's topic; None: it does not tell.
fn in_kafka(config: &Config, catalog: &Catalog, model: &Model) -> Option<u64> {
    let kafka = status::client(config).ok()?;
    let name = &catalog.topics[&model.topic].kafka_topic;
    let wait = status::KAFKA_WAIT;
    let partitions = kafka.partitions(name, wait).ok()?;
    let logs = partitions.into_iter().map(|p| kafka.log(name, p, wait).ok());
    let logs: Option<Vec<_>> = logs.collect();
    Some(logs?.iter().map(|(oldest, end)| (end.0 - oldest.0) as u64).sum())
}

/// Rebuilds the models whose tables were filled by another definition; without `apply` refuses to start on one.
pub async fn apply(
    config: &Config,
    catalog: &Catalog,
    warehouse: &Warehouse,
    apply: bool,
) -> Result<()> {
    let models: Vec<Arc<Model>> = catalog.models.values().cloned().collect();
    let filled = warehouse.filled(&models).await?;
    let changed = models.iter().zip(filled).filter(|(_, filled)| *filled == Filled::Other);
    let changed: Vec<&Arc<Model>> = changed.map(|(model, _)| model).collect();
    if let (Some(first), false) = (changed.first(), apply) {
        let names: Vec<&str> = changed.iter().map(|model| &*model.name).collect();
        return Err(Error::config(format!(
            "the definition of {} ({}) has changed since the table was filled: going on would mix rows of both. \
             `highwater plan` says what would be rebuilt, `highwater run --apply` rebuilds it beside the live table. Or \
             give the changed model a new name, which keeps the old table as it is",
            names.join(", "),
            first.file.display(),
        )));
    }
    for model in changed {
        tracing::info!(model = %model.name, "rebuilding by its changed definition");
        let mut replay =
            Replay::new(config, catalog, warehouse, Rebuild::of(model), true, false).await?;
        let (_, passed) = replay.to_the_swap().await?;
        tracing::info!(model = %model.name, offsets = passed, "rebuilt and swapped in");
    }
    Ok(())
}
