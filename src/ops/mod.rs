//! Commands, beside the flow: one file each, and the two edges that watch it.
//!
//! Owns: what an operator types and sees. Does not own: any decision about data.

pub mod accept_gap;
pub mod check;
pub mod dead_letters;
pub mod drift;
pub mod explain;
pub mod health;
pub mod http;
pub mod metrics;
pub mod plan;
pub mod references;
pub mod reload;
pub mod replay;
pub mod run;
pub mod snapshot;
pub mod status;
pub mod sweep;
pub mod verify;

#[cfg(feature = "embedded")]
pub mod demo;
#[cfg(feature = "embedded")]
pub mod model_tests;

mod memory;
#[cfg(feature = "embedded")]
mod scratch;
mod service;
mod table;

use crate::{
    catalog::{self, Catalog, Mistake, Model, Topic},
    config::Config,
    error::{Error, Result},
    source::kafka::KafkaSettings,
};
use std::sync::Arc;

/// The declared topics and models, of them those that `--topic` names. The error names every mistake.
pub fn load(config: &Config) -> Result<Catalog> {
    let mut catalog = match catalog::load(&config.topics, &config.models) {
        Ok(catalog) => catalog,
        Err(mistakes) => return Err(told(mistakes, "topics and models")),
    };
    let registry = config.registry.as_deref().map(catalog::check_registry).transpose();
    let registry = registry.map_err(|why| Error::config(format!("registry: {why}")))?;
    catalog.set_registry(registry.as_deref());
    if !config.only.is_empty() {
        for name in &config.only {
            if !catalog.topics.contains_key(name.as_str()) {
                let known: Vec<&str> = catalog.topics.keys().map(|t| &**t).collect();
                return Err(Error::config(format!(
                    "--topic {name}: there is no such topic. Declared: {}",
                    known.join(", ")
                )));
            }
        }
        catalog.topics.retain(|name, _| config.only.iter().any(|only| **only == **name));
        catalog.models.retain(|_, model| catalog.topics.contains_key(&model.topic));
        catalog.references.retain(|name, _| {
            let joins =
                |model: &Model| model.join.as_ref().is_some_and(|j| j.reference.name == *name);
            catalog.models.values().any(|model| joins(model))
        });
    }
    Ok(catalog)
}

/// Every mistake, in order, behind how many they are.
fn told(mut mistakes: Vec<Mistake>, of: &str) -> Error {
    mistakes.sort();
    let plural = if mistakes.len() == 1 { "mistake" } else { "mistakes" };
    let mut text = format!("{} {plural} in {of}", mistakes.len());
    for mistake in &mistakes {
        text.push_str(&format!("\n{mistake}"));
    }
    Error::config(text)
}

/// How to reach Kafka, with so many bytes fetched ahead per topic.
pub fn kafka_settings(config: &Config, fetch_bytes: usize) -> KafkaSettings {
    KafkaSettings {
        brokers: config.brokers.clone(),
        topic_ids: config.topic_ids,
        group: config.group.clone(),
        properties: config.kafka_properties.clone(),
        fetch_bytes,
    }
}

/// The model of this name.
///
/// # Errors
/// `Config`: there is none.
pub fn model<'c>(catalog: &'c Catalog, name: &str) -> Result<&'c Arc<Model>> {
    catalog.models.get(name).ok_or_else(|| {
        let declared = names(catalog);
        Error::config(format!("there is no model {name}. Declared: {declared}"))
    })
}

/// Of all models.
fn names(catalog: &Catalog) -> String {
    catalog.models.keys().map(|name| &**name).collect::<Vec<_>>().join(", ")
}

/// Records that refer to schemas need to have them.
pub fn require_registry(catalog: &Catalog) -> Result<()> {
    let without = |topic: &Topic| topic.format.has_schemas() && topic.registry.is_none();
    match catalog.topics.values().find(|topic| without(topic)) {
        None => Ok(()),
        Some(topic) => Err(Error::config(format!(
            "topic {} is in Avro, and no schema registry is set: give `registry` in its file, or \
             HIGHWATER_REGISTRY",
            topic.name
        ))),
    }
}

/// A topic's lake needs a place.
pub fn require_lake(catalog: &Catalog, config: &Config) -> Result<()> {
    let wanting = catalog.topics.values().find(|topic| topic.lake.is_some());
    match wanting.filter(|_| config.lake.is_none()) {
        None => Ok(()),
        Some(topic) => Err(Error::config(format!(
            "topic {} has a lake, but --lake is not set: give s3://bucket/prefix or file:///directory, or write lake = \
             false in its file",
            topic.name
        ))),
    }
}

/// `pii = "hash"` without a secret must not start: hashes under another secret join with nothing.
pub fn require_secret(catalog: &Catalog, config: &Config) -> Result<()> {
    use crate::catalog::Pii;
    for topic in catalog.topics.values() {
        let hashed = topic.columns.iter().find(|c| c.pii == Some(Pii::Hash));
        if let (Some(column), None) = (hashed, &config.pii_secret) {
            return Err(Error::config(format!(
                "column {} of topic {} is hashed, but no secret is set: give HIGHWATER_PII_SECRET or \
                 HIGHWATER_PII_SECRET_FILE (16 characters or more, the same in every process and for good)",
                column.name, topic.name
            )));
        }
    }
    Ok(())
}
