//! What dead processes left in the lake: `highwater sweep`, and the service's own task for the part
//! of it that nobody can see.
//!
//! Owns: the order of a sweep, what is said of it. Does not own: what may be removed, and why that is
//! safe (`lake::leftovers`).
//!
//! The service removes only what is staged, and files that a replay of the lake has replaced when their grace
//! is over. A visible file that no manifest names is somebody's file until a person says otherwise.

use super::{load, reload::Declared, run::runtime};
use crate::{
    config::Config,
    error::{Error, Kind, Result},
    lake::{
        leftovers::{Listed, find, staged_name},
        store::Store,
    },
    pipeline::owed::{abort_abandoned, complete},
    record::quantity,
    warehouse::{Warehouse, WarehouseSettings},
};
use serde::Serialize;
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// What a sweep found; with `dry_run` it was not removed.
#[derive(Debug, Default, Serialize)]
struct Report {
    dry_run: bool,
    /// Noted uploads that no cut can commit any more, aborted.
    uploads: usize,
    staged: Vec<Leftover>,
    /// Replaced by a replay of the lake, their grace over.
    replaced: Vec<Leftover>,
    /// Visible, in the folder of a topic, and in no manifest.
    files: Vec<Leftover>,
}

#[derive(Debug, Serialize)]
struct Leftover {
    name: String,
    bytes: u64,
    age_seconds: i64,
}

pub struct Sweeper {
    declared: Declared,
    warehouse: Warehouse,
    store: Store,
}

impl Sweeper {
    /// `store` must be named after the warehouse (`Store::of_warehouse`).
    pub fn new(declared: &Declared, warehouse: Warehouse, store: Store) -> Self {
        Self { declared: declared.clone(), warehouse, store }
    }

    /// Of those declared now, the ones with a lake.
    fn topics(&self) -> Vec<Arc<str>> {
        let declared = self.declared.read().unwrap_or_else(PoisonError::into_inner);
        let with_lake = declared.topics.values().filter(|topic| topic.lake.is_some());
        with_lake.map(|topic| topic.name.clone()).collect()
    }

    /// Until the process ends: what is staged, again and again.
    pub async fn run(self, every: Duration, older_than: Duration) {
        for what in ["uploads", "staged", "replaced"] {
            metrics::counter!("highwater_swept_total", "what" => what).absolute(0);
        }
        metrics::counter!("highwater_swept_bytes_total").absolute(0);
        for outcome in ["done", "failed"] {
            metrics::counter!("highwater_sweeps_total", "outcome" => outcome).absolute(0);
        }
        loop {
            tokio::time::sleep(every).await;
            let swept = async {
                let (uploads, staged) = self.sweep_staged(older_than, false).await?;
                Ok::<_, Error>((uploads, staged, self.sweep_replaced(false).await?))
            };
            let outcome = match swept.await {
                Ok((uploads, staged, replaced)) => {
                    self.count(uploads, &staged, &replaced);
                    "done"
                }
                Err(error) => {
                    tracing::warn!("the lake was not swept, it is tried again later: {error}");
                    "failed"
                }
            };
            metrics::counter!("highwater_sweeps_total", "outcome" => outcome).increment(1);
        }
    }

    fn count(&self, uploads: usize, staged: &[Leftover], replaced: &[Leftover]) {
        let bytes: u64 = staged.iter().chain(replaced).map(|one| one.bytes).sum();
        metrics::counter!("highwater_swept_total", "what" => "uploads").increment(uploads as u64);
        metrics::counter!("highwater_swept_total", "what" => "staged")
            .increment(staged.len() as u64);
        metrics::counter!("highwater_swept_total", "what" => "replaced")
            .increment(replaced.len() as u64);
        metrics::counter!("highwater_swept_bytes_total").increment(bytes);
        if uploads + staged.len() + replaced.len() > 0 {
            tracing::info!(
                uploads,
                staged = staged.len(),
                replaced = replaced.len(),
                bytes,
                "swept what was left in the lake"
            );
        }
    }

    /// Noted uploads that were abandoned, then staged objects without a note.
    async fn sweep_staged(
        &self,
        older_than: Duration,
        dry_run: bool,
    ) -> Result<(usize, Vec<Leftover>)> {
        let mut uploads = 0;
        for topic in &self.topics() {
            uploads += match dry_run {
                true => self.warehouse.abandoned(topic).await?.len(),
                false => abort_abandoned(topic, &self.store, &self.warehouse).await?,
            };
        }
        let named = async {
            let named = self.warehouse.named_uploads().await?;
            Ok(named.iter().map(|upload| staged_name(upload).to_owned()).collect())
        };
        let (listed, now) = (self.store.list_staged(), self.store.now());
        let (found, now) = find(listed, now, named, older_than).await?;
        let mut gone = Vec::new();
        for one in found {
            if !dry_run {
                self.store.remove_staged(&one.name).await?;
            }
            gone.push(Leftover::new(one, now));
        }
        Ok((uploads, gone))
    }

    /// Files that a replay of the lake has replaced (Z-3); first what replaces them is completed, should its
    /// process have been killed.
    async fn sweep_replaced(&self, dry_run: bool) -> Result<Vec<Leftover>> {
        let mut gone = Vec::new();
        for topic in &self.topics() {
            if !dry_run {
                let unfinished = self.warehouse.unfinished(topic).await?;
                complete(&self.store, &self.warehouse, &unfinished).await?;
            }
            let mut removed = Vec::new();
            for (name, bytes, age_seconds) in self.warehouse.retired_files(topic).await? {
                if !dry_run {
                    self.store.remove(&name).await?;
                    removed.push(name.clone());
                }
                gone.push(Leftover { name, bytes, age_seconds });
            }
            if !removed.is_empty() {
                self.warehouse.forget_retired_files(&removed).await?;
            }
        }
        Ok(gone)
    }

    /// Visible files that no manifest names.
    async fn sweep_files(&self, older_than: Duration, dry_run: bool) -> Result<Vec<Leftover>> {
        let mut gone = Vec::new();
        for topic in &self.topics() {
            let listed = async {
                let mut listed = self.store.list_dated(topic).await?;
                // highwater writes nothing else: whatever else lies there has another owner.
                listed.retain(|file| file.name.ends_with(".parquet"));
                Ok(listed)
            };
            let (now, named) = (self.store.now(), self.warehouse.paths(topic));
            let (found, now) = find(listed, now, named, older_than).await?;
            for one in found {
                if !dry_run {
                    self.store.remove(&one.name).await?;
                }
                gone.push(Leftover::new(one, now));
            }
        }
        Ok(gone)
    }
}

impl Leftover {
    fn new(listed: Listed, now: i64) -> Self {
        let age_seconds = (now - listed.modified) / 1_000_000;
        Self { name: listed.name, bytes: listed.bytes, age_seconds }
    }
}

/// Removes staged leftovers and visible files that no manifest names, and says which.
pub fn sweep(config: &Config, older_than: &str, dry_run: bool, json: bool) -> Result<()> {
    let older_than = quantity::duration(older_than)
        .map_err(|why| Error::config(format!("--older-than: {why}")))?;
    let catalog = load(config)?;
    let Some(url) = &config.lake else {
        return Err(Error::config("no lake is set: give --lake s3://bucket/prefix"));
    };
    let report = runtime()?.block_on(async {
        let settings = WarehouseSettings {
            ca_file: config.warehouse_ca.clone(),
            ..WarehouseSettings::default()
        };
        let warehouse = Warehouse::connect(config.warehouse()?, &settings).await?;
        warehouse.migrate().await?;
        let store = Store::open(url, &config.store_options)?.of_warehouse(warehouse.id().await?);
        let declared = Declared::new(RwLock::new(Arc::new(catalog)));
        let sweeper = Sweeper::new(&declared, warehouse, store);
        let (uploads, staged) = sweeper.sweep_staged(older_than, dry_run).await?;
        let replaced = sweeper.sweep_replaced(dry_run).await?;
        let files = sweeper.sweep_files(older_than, dry_run).await?;
        Ok(Report { dry_run, uploads, staged, replaced, files })
    });
    // At a command somebody is there to mend it.
    let report: Report = report.map_err(|error: Error| match error.kind {
        Kind::Unknown => Error { kind: Kind::Retry, ..error },
        Kind::Retry | Kind::Fenced | Kind::Halt | Kind::Config => error,
    })?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&report).expect("texts and numbers")),
        false => report.print(),
    }
    Ok(())
}

impl Report {
    fn print(&self) {
        for (what, found) in
            [("staged", &self.staged), ("replaced", &self.replaced), ("file", &self.files)]
        {
            for one in found {
                println!("{what} {} ({} bytes, {} s old)", one.name, one.bytes, one.age_seconds);
            }
        }
        let done = if self.dry_run { "would be removed" } else { "removed" };
        let uploads = if self.dry_run { "would be aborted" } else { "aborted" };
        println!(
            "{} uploads {uploads}; {} staged objects and {} files {done}",
            self.uploads,
            self.staged.len(),
            self.replaced.len() + self.files.len()
        );
    }
}
