//! `highwater drift`: how the tables of sources differ from what topics declare, and what to do; the
//! service may be down. With `--accept` a person lets pass what stopped a topic.

use super::{
    load,
    run::{runtime, with_additions},
    service::hostname,
};
use crate::{
    catalog::{Catalog, Topic, Upstream},
    config::Config,
    error::{Error, Result},
    pipeline::drift::{outstanding, sentences},
    warehouse::{
        drift::{Verdict, VersionRow},
        postgres::{Warehouse, WarehouseSettings},
    },
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Of one topic.
#[derive(Serialize)]
pub struct Told {
    topic: String,
    drift: &'static str,
    /// Columns that were added or widened by themselves, with the place of the first record.
    followed: Vec<String>,
    /// What the source has and the topic does not declare; of `plan`, with what to do.
    told: Vec<String>,
    /// What stops the topic.
    refused: Vec<String>,
}

pub struct Request {
    /// None: all.
    pub topic: Option<String>,
    pub accept: bool,
    pub json: bool,
}

/// Prints a paragraph per topic, or with `json` an array of objects.
pub fn drift(config: &Config, request: &Request) -> Result<()> {
    let catalog = load(config)?;
    if let Some(name) = &request.topic
        && !catalog.topics.contains_key(name.as_str())
    {
        let known: Vec<&str> = catalog.topics.keys().map(|name| &**name).collect();
        let known = known.join(", ");
        return Err(Error::config(format!("there is no topic {name}. Declared: {known}")));
    }
    if request.accept && request.topic.is_none() {
        return Err(Error::config("--accept is of one topic: highwater drift TOPIC --accept"));
    }
    let told = runtime()?.block_on(told(config, &catalog, request))?;
    match request.json {
        true => println!("{}", serde_json::to_string_pretty(&told).expect("texts")),
        false => told.iter().for_each(print),
    }
    Ok(())
}

async fn told(config: &Config, catalog: &Catalog, request: &Request) -> Result<Vec<Told>> {
    let settings =
        WarehouseSettings { ca_file: config.warehouse_ca.clone(), ..WarehouseSettings::default() };
    let warehouse = Warehouse::connect(config.warehouse()?, &settings).await?;
    warehouse.migrate().await?;
    let catalog = with_additions(catalog, &warehouse).await?;
    if let Some(topic) = request.topic.as_ref().filter(|_| request.accept) {
        let accepted = warehouse.accept_drift(topic, &hostname()).await?;
        eprintln!("{} tables of the source accepted; start the service again", accepted.len());
    }
    of_topics(&warehouse, &catalog, request.topic.as_deref()).await
}

/// What `highwater status` has of it: topics that stand, and those whose source has what they do not declare.
pub async fn open(warehouse: &Warehouse, catalog: &Catalog) -> Result<Vec<Told>> {
    let catalog = with_additions(catalog, warehouse).await?;
    let mut told = of_topics(warehouse, &catalog, None).await?;
    told.retain(|told| !told.refused.is_empty() || !told.told.is_empty());
    Ok(told)
}

impl Told {
    /// Lines for people, each with the topic; how to mend it is told by `highwater drift`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let refused = self.refused.iter().map(|refused| format!("stopped {refused}"));
        let lines = refused.chain(self.told.iter().cloned());
        lines.map(|line| format!("{}: {line}", self.topic))
    }
}

async fn of_topics(
    warehouse: &Warehouse,
    catalog: &Catalog,
    only: Option<&str>,
) -> Result<Vec<Told>> {
    let versions = warehouse.upstream_versions(only).await?;
    let mut all = Vec::new();
    let wanted = |name: &str| only.is_none_or(|topic| topic == name);
    for topic in catalog.topics.values().filter(|topic| wanted(&topic.name)) {
        let places = warehouse.upstream_places(&topic.name).await?;
        let tables: Vec<Upstream> = places.into_values().map(|(_, table)| table).collect();
        all.push(of_topic(catalog, topic, &versions, &tables));
    }
    Ok(all)
}

fn of_topic(
    catalog: &Catalog,
    topic: &Topic,
    versions: &[VersionRow],
    places: &[Upstream],
) -> Told {
    let mut followed = BTreeMap::new();
    for (number, addition) in topic.additions.iter().enumerate() {
        let was = addition.from.map(|pg| format!(", was {pg}")).unwrap_or_default();
        followed.insert(number, format!("{} {}{was}", addition.column, addition.pg));
    }
    let refused =
        versions.iter().filter(|row| row.topic == topic.name && row.verdict == Verdict::Refused);
    let refused = refused.map(|row| {
        format!("from {}/{}@{} on:{}", topic.kafka_topic, row.partition.0, row.offset, row.diff)
    });
    Told {
        topic: topic.name.to_string(),
        drift: topic.drift.as_str(),
        followed: followed.into_values().collect(),
        told: sentences(catalog, topic, &outstanding(topic, places.iter())),
        refused: refused.collect(),
    }
}

fn print(told: &Told) {
    println!("{} (drift = \"{}\")", told.topic, told.drift);
    for followed in &told.followed {
        println!("  followed: {followed}");
    }
    for sentence in &told.told {
        println!("  {sentence}");
    }
    for refused in &told.refused {
        println!("  stopped {}", refused.replace('\n', "\n  "));
    }
    if told.followed.is_empty() && told.told.is_empty() && told.refused.is_empty() {
        println!("  nothing that the topic file does not declare");
    }
}
