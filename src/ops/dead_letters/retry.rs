//! `highwater dead-letters retry`: letters decoded again and taken where they are good now, whether
//! the service runs or not.
//!
//! Owns: going through the letters batch by batch, doing a batch again, telling what came of it.
//! Does not own: what becomes of a letter (`pipeline::retry`).

use super::{Filter, Place, print_json, shortened};
use crate::{
    catalog::{Catalog, Topic},
    config::Config,
    decode::Secret,
    error::{Error, Kind, Result},
    ops::{kafka_settings, load, replay, require_registry, require_secret, run, table},
    pipeline::retry::{Outcome, Plan, Retrier},
    warehouse::{
        Warehouse,
        retry::{LetterKey, Retried, RetryFilter},
    },
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// A batch that others change under us, or whose services fail, is done again so often.
const ATTEMPTS: u32 = 10;
/// Letters told one by one; the others are counted.
const TOLD: usize = 20;

/// What came of all letters.
#[derive(Default)]
struct Tally {
    taken: u64,
    taken_but: u64,
    refused: u64,
    waits: u64,
    lost: u64,
    duplicates: u64,
    /// Not taken, with the reason: the first of them.
    told: Vec<Told>,
}

struct Told {
    place: Place,
    output: String,
    now: &'static str,
    why: String,
}

/// Retries the letters that the filter and `places` leave; all without either.
pub fn retry(
    config: &Config,
    filter: &Filter,
    places: &[Place],
    dry_run: bool,
    json: bool,
) -> Result<()> {
    let catalog = load(config)?;
    require_secret(&catalog, config)?;
    require_registry(&catalog)?;
    if let Some(place) = places.iter().find(|p| !catalog.topics.contains_key(p.topic.as_str())) {
        return Err(Error::config(format!("{place}: no topic of this name is declared")));
    }
    let runtime = run::runtime()?;
    let tally = runtime.block_on(retry_all(&catalog, config, filter, places, dry_run))?;
    match json {
        true => print_json(&tally.json(dry_run)),
        false => print!("{}", tally.text(dry_run)),
    }
    Ok(())
}

async fn retry_all(
    catalog: &Catalog,
    config: &Config,
    filter: &Filter,
    places: &[Place],
    dry_run: bool,
) -> Result<Tally> {
    let (warehouse, store, catalog) = run::open(catalog, config).await?;
    let mut tally = Tally::default();
    let before = warehouse.now().await?;
    for topic in catalog.topics.values() {
        let here: Vec<_> = places.iter().filter(|p| *p.topic == *topic.name).collect();
        if here.is_empty() && !places.is_empty() {
            continue;
        }
        let named = here.iter().map(|p| (p.partition, p.offset)).collect::<Vec<_>>();
        let filter = RetryFilter {
            output: filter.output.clone(),
            class: filter.class.clone(),
            places: (!named.is_empty()).then_some(named),
            before,
        };
        let models: Vec<_> = catalog.models_of(&topic.name).collect();
        let kafka = kafka_settings(config, 1 << 20);
        let secret = config.pii_secret.clone().map(Secret);
        let store = topic.lake.as_ref().and(store.clone());
        let retrier =
            Retrier::new(topic.clone(), &models, secret, warehouse.clone(), store, kafka)?;
        retry_topic(topic, &warehouse, retrier, &filter, dry_run, &mut tally).await?;
    }
    warehouse.close().await;
    Ok(tally)
}

async fn retry_topic(
    topic: &Arc<Topic>,
    warehouse: &Warehouse,
    mut retrier: Retrier,
    filter: &RetryFilter,
    dry_run: bool,
    tally: &mut Tally,
) -> Result<()> {
    if let Some(output) = replay::under_way(warehouse, &topic.name).await? {
        return Err(Error::retry(format!(
            "{output} is being rebuilt, and reads what is retried: wait for it (`highwater replay {output}` goes on with \
             it, --abort drops it), then retry"
        )));
    }
    if !dry_run {
        retrier.tidy().await?;
    }
    let mut after: Option<LetterKey> = None;
    let mut failures = 0;
    loop {
        let letters = retrier.letters(filter, after.as_ref()).await?;
        let Some(last) = letters.last() else { return Ok(()) };
        let mut plan = retrier.plan(&letters).await?;
        let done = match dry_run {
            true => Ok(Retried::Done),
            false => apply(&retrier, &mut plan).await,
        };
        let why = match done {
            Ok(Retried::Done) => {
                tally.add(&topic.name, plan);
                after = Some(last.key.clone());
                failures = 0;
                continue;
            }
            Ok(Retried::Changed) => "letters or owners changed meanwhile".to_owned(),
            Err(error) => match error.kind {
                Kind::Retry | Kind::Unknown => error.to_string(),
                Kind::Fenced | Kind::Halt | Kind::Config => return Err(error),
            },
        };
        failures += 1;
        if failures == ATTEMPTS {
            return Err(Error::retry(format!(
                "dead letters of {} after {ATTEMPTS} attempts: {why}; what was taken is taken, run it again for the rest",
                topic.name
            )));
        }
        tracing::warn!(topic = %topic.name, "done again: {why}");
        tokio::time::sleep(Duration::from_millis(50) * 2u32.pow(failures)).await;
    }
}

/// From uploads to files that readers see; after an error the batch is read and planned anew.
async fn apply(retrier: &Retrier, plan: &mut Plan) -> Result<Retried> {
    if !plan.changes_something() {
        return Ok(Retried::Done);
    }
    retrier.upload(plan).await?;
    let done = retrier.commit(plan).await;
    match &done {
        Ok(Retried::Done) => {
            // Committed: should completing fail, `tidy` of whoever comes next does it.
            if let Err(error) = retrier.complete(plan).await {
                tracing::warn!("committed files wait to be completed: {error}");
            }
        }
        Ok(Retried::Changed) => retrier.give_up(plan).await,
        Err(error) => match error.kind {
            Kind::Retry | Kind::Halt | Kind::Config => retrier.give_up(plan).await,
            // It may be committed: its uploads may be owed.
            Kind::Unknown | Kind::Fenced => {}
        },
    }
    done
}

impl Tally {
    fn add(&mut self, topic: &str, plan: Plan) {
        for (key, outcome) in plan.outcomes {
            let (now, why) = match outcome {
                Outcome::Taken => {
                    self.taken += 1;
                    continue;
                }
                Outcome::TakenBut(outputs) => {
                    self.taken_but += 1;
                    let names: Vec<String> = outputs.iter().map(ToString::to_string).collect();
                    ("taken, except", format!("by {}", names.join(", ")))
                }
                Outcome::Duplicate => {
                    self.duplicates += 1;
                    ("duplicate", "a record with its key was taken before".to_owned())
                }
                Outcome::Refused { class, column, reason } => {
                    self.refused += 1;
                    let column = column.map(|c| format!("{c}: ")).unwrap_or_default();
                    ("refused", format!("{class}: {column}{reason}"))
                }
                Outcome::Waits(why) => {
                    self.waits += 1;
                    ("waits", why)
                }
                Outcome::Lost(why) => {
                    self.lost += 1;
                    ("lost", why)
                }
            };
            if self.told.len() < TOLD {
                let (partition, offset) = (key.partition, key.offset);
                let place = Place { topic: topic.to_owned(), partition, offset };
                self.told.push(Told { place, output: key.output, now, why });
            }
        }
    }

    fn text(&self, dry_run: bool) -> String {
        let mut text = String::new();
        if !self.told.is_empty() {
            let row = |told: &Told| {
                let why = match told.now {
                    "waits" | "lost" => told.why.clone(),
                    _ => shortened(&told.why),
                };
                vec![told.place.to_string(), told.output.clone(), told.now.to_owned(), why]
            };
            let rows: Vec<_> = self.told.iter().map(row).collect();
            text.push_str(&table::render(&["record", "letter of", "now", "why"], &rows));
            let told = self.told.len() as u64;
            let all = self.taken_but + self.refused + self.waits + self.lost + self.duplicates;
            if told < all {
                text.push_str(&format!("the first {told} of {all}\n"));
            }
            text.push('\n');
        }
        let would = if dry_run { " would be" } else { "" };
        text.push_str(&format!(
            "{}{would} taken, {}{would} taken except by a model, {} still refused, {} wait, {} lost",
            self.taken, self.taken_but, self.refused, self.waits, self.lost
        ));
        if self.duplicates > 0 {
            text.push_str(&format!(", {} left out as duplicates", self.duplicates));
        }
        text.push('\n');
        text
    }

    fn json(&self, dry_run: bool) -> Value {
        let told = |told: &Told| {
            json!({
                "topic": told.place.topic,
                "partition": told.place.partition.0,
                "offset": told.place.offset,
                "output": told.output,
                "now": told.now,
                "why": told.why,
            })
        };
        json!({
            "dry_run": dry_run,
            "taken": self.taken,
            "taken_except_by_a_model": self.taken_but,
            "refused": self.refused,
            "wait": self.waits,
            "lost": self.lost,
            "duplicates": self.duplicates,
            "first_not_taken": self.told.iter().map(told).collect::<Vec<_>>(),
        })
    }
}
