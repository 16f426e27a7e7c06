//! `highwater verify`: the proof, against lake, tables and Kafka. The service may run meanwhile.
//!
//! Owns: what must hold and how a breach is told. Does not own: mending it.
//!
//! V-1  Of each output and partition: offsets passed = accepted + filtered + late + dead + absent +
//!      duplicate + lost, and the lost ones are those that a person accepted.
//! V-2  The manifest's files hold what the lake's marks accepted: no gap, no overlap. Files of retried
//!      dead letters stand between those of cuts: of them the number of rows and the bounds.
//! V-3  Every file of the manifest is there, with its size and checksum; nothing else is.
//! V-4  Every dead letter and every duplicate that a mark counts is stored, and no other; of retried
//!      letters none.
//! V-5  No mark is ahead of Kafka's end.
//! V-6  (deep) Each (`_partition`, `_offset`) stands in the lake once, below its mark.
//! V-7  (deep) Each model's table equals what its SQL makes of the lake's rows.
//!
//! Offsets begin anew with each generation of a partition: all of this holds within each.

mod deep;
mod shallow;

use super::{
    load,
    run::{runtime, with_additions},
};
use crate::{
    catalog::Catalog,
    config::Config,
    error::{Error, Result},
    lake::store::Store,
    warehouse::{Warehouse, WarehouseSettings, references},
};
use serde::Serialize;

/// One thing that does not hold, in a sentence.
#[derive(Debug, Serialize)]
struct Finding {
    /// The invariant: `V-3`.
    breaks: &'static str,
    sentence: String,
}

/// What was looked at and what was found.
#[derive(Debug, Default, Serialize)]
struct Report {
    findings: Vec<Finding>,
    /// Not wrong, but worth knowing: what could not be compared, and why.
    notes: Vec<String>,
    marks: usize,
    files: usize,
    bytes: u64,
    rows: u64,
    tables: usize,
}

impl Report {
    fn finding(&mut self, breaks: &'static str, sentence: impl Into<String>) {
        self.findings.push(Finding { breaks, sentence: sentence.into() });
    }

    fn note(&mut self, sentence: impl Into<String>) {
        self.notes.push(sentence.into());
    }

    fn print(&self, deep: bool) {
        for note in &self.notes {
            println!("note: {note}");
        }
        for finding in &self.findings {
            println!("{}: {}", finding.breaks, finding.sentence);
        }
        let tables = if deep { format!(", {} tables rebuilt", self.tables) } else { String::new() };
        println!(
            "{} marks, {} files with {} rows and {} MiB{tables}: {}",
            self.marks,
            self.files,
            self.rows,
            self.bytes >> 20,
            match self.findings.len() {
                0 => "everything holds".to_owned(),
                1 => "1 finding".to_owned(),
                n => format!("{n} findings"),
            }
        );
    }
}

/// Checks V-1 to V-5, with `deep` all; an error when something does not hold.
pub fn verify(config: &Config, deep: bool, json: bool) -> Result<()> {
    let catalog = load(config)?;
    let runtime = runtime()?;
    let report = runtime.block_on(examine(config, &catalog, deep))?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&report).expect("texts and numbers")),
        false => report.print(deep),
    }
    match report.findings.len() {
        0 => Ok(()),
        n => Err(Error::halt(format!("{n} of the promises do not hold"))),
    }
}

async fn examine(config: &Config, catalog: &Catalog, deep: bool) -> Result<Report> {
    let settings =
        WarehouseSettings { ca_file: config.warehouse_ca.clone(), ..WarehouseSettings::default() };
    let warehouse = Warehouse::connect(config.warehouse()?, &settings).await?;
    warehouse.migrate().await?;
    let catalog = &with_additions(catalog, &warehouse).await?;
    let store = match &config.lake {
        Some(url) => Some(Store::open(url, &config.store_options)?),
        None => None,
    };
    let mut report = Report::default();
    // Kafka first: its ends only grow, so a mark that is ahead of them was ahead.
    let marks_before = warehouse.marks(None).await?;
    let ends = super::status::ends(config, catalog, &marks_before);
    let mut snapshot = warehouse.snapshot().await?;
    let evidence = shallow::Evidence {
        marks: snapshot.marks().await?,
        former: snapshot.former_marks().await?,
        gaps: snapshot.gaps().await?,
        files: snapshot.files().await?,
        dead_letters: snapshot.dead_letters().await?,
        duplicates: snapshot.duplicates().await?,
        advances: snapshot.advances().await?,
        stray_letters: snapshot.stray_letters().await?,
        retried: snapshot.retried().await?,
        refused_alone: snapshot.refused_alone().await?,
        not_in_lake: snapshot.not_in_lake().await?,
        references: references::uses(&snapshot).await?,
    };
    shallow::counts(&evidence, &mut report);
    shallow::manifest(&evidence, &mut report);
    shallow::ends(&marks_before, &ends, &mut report);
    match &store {
        Some(store) => {
            let mut visit = deep.then(|| deep::Rebuild::new(catalog, &evidence, &mut report));
            if let Some(rebuild) = &mut visit {
                rebuild.begin(&mut snapshot, &evidence).await?;
            }
            shallow::objects(&evidence, store, &mut report, visit.as_mut(), &snapshot).await?;
            if let Some(rebuild) = visit {
                rebuild.finish(&snapshot, &mut report).await?;
            }
        }
        None => report.note("no --lake is given: files were not looked at"),
    }
    snapshot.end().await?;
    shallow::orphans(&warehouse, store.as_ref(), catalog, &mut report).await?;
    Ok(report)
}
