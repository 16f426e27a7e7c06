//! `highwater replay lake:TOPIC`: files of the lake written anew beside those that are read, and swapped in;
//! the service may run meanwhile.
//!
//! Owns: what a dry run says, when to swap, doing it again after a failure. Does not own: which files
//! (`pipeline::rewrite::reach`), their rows (`pipeline::rewrite`), the swap (`warehouse::rewrite`).

use super::{
    Request, SAMPLE, bounds, kafka_of, retried,
    told::{Shown, tell_aborted, told_left, whole_seconds},
};
use crate::{
    catalog::{Catalog, Topic},
    config::Config,
    decode::Secret,
    error::{Error, Kind, Result},
    lake::store::Store,
    ops::{require_registry, require_secret, service::hostname, table},
    pipeline::{
        owed,
        rebuild::Progress,
        rewrite::{
            Parts, Rewriter,
            reach::{self, Reach, Wanted},
        },
    },
    record::{Output, Partition, quantity},
    warehouse::{
        Warehouse,
        rewrite::{Rewrite, RewriteSpan, Rewritten},
        snapshot::ManifestFile,
    },
};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Instant};

/// The topic that `lake:TOPIC` or, where there is one lake only, `lake` names.
pub fn topic_of(output: &str, catalog: &Catalog) -> Result<Option<Arc<Topic>>> {
    let name = match output.strip_prefix("lake") {
        Some("") => None,
        Some(rest) => match rest.strip_prefix(':') {
            Some(name) => Some(name),
            None => return Ok(None),
        },
        None => return Ok(None),
    };
    let with_lake = catalog.topics.values().filter(|topic| topic.lake.is_some());
    let mut found = with_lake.filter(|topic| name.is_none_or(|name| *topic.name == *name));
    match (found.next(), found.next()) {
        (Some(topic), None) => Ok(Some(topic.clone())),
        (_, _) => {
            let all = catalog.topics.values().filter(|topic| topic.lake.is_some());
            let all: Vec<String> = all.map(|topic| format!("lake:{}", topic.name)).collect();
            Err(Error::config(format!(
                "replay {output}: no lake of one topic. Declared: {}",
                all.join(", ")
            )))
        }
    }
}

struct Lake {
    topic: Arc<Topic>,
    warehouse: Warehouse,
    store: Store,
    rewriter: Rewriter,
    owner: String,
    /// Of the manifest, when it was looked at.
    files: Vec<ManifestFile>,
    generations: BTreeMap<Partition, i32>,
}

pub async fn replay(
    config: &Config,
    catalog: &Catalog,
    topic: &Arc<Topic>,
    warehouse: Warehouse,
    request: &Request,
) -> Result<()> {
    let Some(url) = &config.lake else {
        return Err(Error::config("no lake is set: give --lake s3://bucket/prefix"));
    };
    let store = Store::open(url, &config.store_options)?.of_warehouse(warehouse.id().await?);
    if request.abort {
        let dropped = warehouse.abort_rewrite(&topic.name).await?;
        owed::abort_abandoned(&topic.name, &store, &warehouse).await?;
        tell_aborted(&format!("lake:{}", topic.name), dropped, "files", request.json);
        return Ok(());
    }
    if request.from_lake {
        return Err(Error::config(
            "--from-lake: the lake's own files are written anew from Kafka. Allowed: --from-lake for models",
        ));
    }
    require_secret(catalog, config)?;
    require_registry(catalog)?;
    let grace = quantity::duration(&request.grace)
        .map_err(|why| Error::config(format!("--grace: {why}")))?;
    let wanted = Wanted {
        from: bounds::bound("--from", &request.from)?,
        to: request.to.as_deref().map(|to| bounds::bound("--to", to)).transpose()?,
        partitions: request.partitions.as_deref().map(bounds::partitions).transpose()?,
    };
    let rewriter = Rewriter::new(Parts {
        topic: topic.clone(),
        secret: config.pii_secret.clone().map(Secret),
        warehouse: warehouse.clone(),
        store: store.clone(),
        kafka: kafka_of(config, topic)?,
        memory: config.memory / 4,
    })?;
    let owner = format!("{}/replay/{}", hostname(), uuid::Uuid::new_v4());
    let topic = topic.clone();
    let (files, generations) = (Vec::new(), BTreeMap::new());
    let mut lake = Lake { topic, warehouse, store, rewriter, owner, files, generations };
    lake.look().await?;
    let standing = lake.standing().await?;
    let found = match &standing {
        // It goes on with the files that it was begun with.
        Some(rewrite) => {
            let from = rewrite.spans.iter().map(|s| (s.partition, s.span.from)).collect();
            let to = rewrite.spans.iter().map(|s| (s.partition, s.span.to)).collect();
            let partitions = Some(rewrite.spans.iter().map(|s| s.partition).collect());
            let (from, to) = (reach::Bound::Offsets(from), Some(reach::Bound::Offsets(to)));
            reach::reach(&lake.files, &lake.generations, &Wanted { from, to, partitions })
        }
        None => lake.reach(&wanted)?,
    };
    if found.files == 0 {
        println!("no file of lake:{} holds such offsets: nothing is to be done", lake.topic.name);
        return Ok(());
    }
    if request.dry_run {
        return lake.dry_run(standing, &found, &request.grace, request.json).await;
    }
    match &standing {
        Some(rewrite) => eprintln!(
            "a replay of lake:{} is under way: going on with it, {} of {} offsets are written",
            lake.topic.name,
            rewrite.written(),
            rewrite.all()
        ),
        None => {
            let spans: Vec<_> =
                found.spans.iter().map(|(p, span)| (*p, lake.generations[p], *span)).collect();
            let definition = lake.topic.lake_fingerprint();
            let (warehouse, name) = (&lake.warehouse, &lake.topic.name);
            warehouse.begin_rewrite(name, &definition, &lake.owner, grace, &spans).await?;
        }
    }
    let began = Instant::now();
    let (rewritten, passed) = lake.write_and_swap().await?;
    tell_done(&lake.topic, &found, rewritten, passed, began.elapsed().as_secs_f64(), request);
    Ok(())
}

impl Lake {
    async fn look(&mut self) -> Result<()> {
        let snapshot = self.warehouse.snapshot().await?;
        let marks = snapshot.marks().await?;
        let mut files = snapshot.files().await?;
        snapshot.end().await?;
        files.retain(|file| file.topic == self.topic.name);
        let own = marks.iter().filter(|m| m.topic == self.topic.name && m.output == Output::Lake);
        self.generations = own.map(|m| (m.partition, m.generation)).collect();
        self.files = files;
        Ok(())
    }

    /// What is under way, by today's topic file.
    async fn standing(&self) -> Result<Option<Rewrite>> {
        let Some(rewrite) = self.warehouse.rewrite(&self.topic.name).await? else {
            return Ok(None);
        };
        if rewrite.definition != self.topic.lake_fingerprint() {
            return Err(Error::config(format!(
                "a replay of lake:{0} by another topic file stands half done: `highwater replay lake:{0} --abort` drops \
                 it",
                self.topic.name
            )));
        }
        Ok(Some(rewrite))
    }

    fn reach(&self, wanted: &Wanted) -> Result<Reach> {
        let found = reach::reach(&self.files, &self.generations, wanted);
        if let Some(path) = &found.former {
            return Err(Error::halt(format!(
                "{path} is to be replaced and holds rows of a topic that was made again since: Kafka has them no more. \
                 Allowed: --from later offsets, or other --partitions. The lake stays as it is"
            )));
        }
        Ok(found)
    }

    async fn write_and_swap(&mut self) -> Result<(Rewritten, u64)> {
        let mut shown = Shown::new(format!("lake:{}", self.topic.name));
        let mut failures = 0;
        loop {
            let before = shown.passed;
            let done = self.attempt(&mut shown).await;
            shown.end();
            let error = match done {
                Ok(rewritten) => {
                    self.complete().await?;
                    return Ok((rewritten, shown.passed));
                }
                Err(error) => error,
            };
            let name = &self.topic.name;
            if error.kind == Kind::Unknown && self.warehouse.rewrite(name).await?.is_none() {
                tracing::warn!("the answer to the swap was lost; it was done: {error}");
                self.complete().await?;
                return Ok((Rewritten::default(), shown.passed));
            }
            failures = if shown.passed > before { 1 } else { failures + 1 };
            retried(error, failures, "written").await?;
        }
    }

    async fn attempt(&mut self, shown: &mut Shown) -> Result<Rewritten> {
        let name = &self.topic.name;
        let rewrite = self.warehouse.take_rewrite(name, &self.owner).await?;
        // What others left, and what the swap must find completed.
        owed::tidy(name, &self.store, &self.warehouse).await?;
        let all = rewrite.all();
        let mut tell = |passed| shown.tell(Progress { passed, all });
        self.rewriter.write(&rewrite, &self.files, &mut tell).await?;
        owed::tidy(name, &self.store, &self.warehouse).await?;
        self.warehouse.swap_rewrite(name, rewrite.epoch).await
    }

    /// Gives the files their names; until all have them, readers get those of before.
    async fn complete(&self) -> Result<()> {
        let mut failures = 0;
        loop {
            let done = owed::tidy(&self.topic.name, &self.store, &self.warehouse).await;
            let Err(error) = done else { return Ok(()) };
            failures += 1;
            let context = format!(
                "lake:{} is swapped in, and its files wait for their names, which `highwater sweep` and any process that \
                 takes its partitions gives them: {}",
                self.topic.name, error.context
            );
            retried(Error { context, ..error }, failures, "swapped in").await?;
        }
    }

    async fn dry_run(
        &mut self,
        standing: Option<Rewrite>,
        found: &Reach,
        grace: &str,
        as_json: bool,
    ) -> Result<()> {
        let marks = self.warehouse.marks(Some(&self.topic.name)).await?;
        let id = |p| {
            let mut own = marks.iter().filter(|m| m.output == Output::Lake && m.partition == p);
            own.next().and_then(|m| m.topic_id)
        };
        let fresh = |(p, span): (&Partition, &crate::record::Span)| RewriteSpan {
            partition: *p,
            generation: self.generations[p],
            span: *span,
            next: span.from,
            topic_id: id(*p),
        };
        let spans: Vec<RewriteSpan> = match standing {
            Some(rewrite) => rewrite.spans,
            None => found.spans.iter().map(fresh).collect(),
        };
        let rate = self.rewriter.sample(&spans, SAMPLE).await?;
        let left: i64 = spans.iter().map(|s| s.span.to.0 - s.next.0).sum();
        let seconds = rate.map(|rate| left as f64 / rate);
        let topic = &self.topic.name;
        if as_json {
            let spans: Vec<_> = spans
                .iter()
                .map(|s| {
                    json!({ "topic": topic, "partition": s.partition.0, "from": s.span.from.0, "to": s.span.to.0,
                            "written_to": s.next.0 })
                })
                .collect();
            let printed = json!({
                "output": format!("lake:{topic}"), "spans": spans, "records_at_most": left,
                "replaces": { "files": found.files, "rows": found.rows, "bytes": found.bytes },
                "widened": found.widened, "records_per_second": rate, "seconds": seconds,
            });
            println!("{}", serde_json::to_string_pretty(&printed).expect("texts and numbers"));
            return Ok(());
        }
        let row = |s: &RewriteSpan| {
            let numbers = [s.span.from.0, s.span.to.0, s.span.to.0 - s.next.0];
            let mut row = vec![format!("{topic}/{}", s.partition.0)];
            row.extend(numbers.map(|n| n.to_string()));
            row
        };
        let rows: Vec<_> = spans.iter().map(row).collect();
        print!("{}", table::render(&["partition", "from", "to", "offsets"], &rows));
        if found.widened {
            println!(
                "more than was asked for: a file is replaced whole, with all offsets that it holds"
            );
        }
        println!("{left} offsets are read from Kafka");
        println!(
            "replaced: {} files with {} rows and {} MiB, which stay for {grace} for readers with an old listing",
            found.files,
            found.rows,
            found.bytes >> 20
        );
        told_left(rate, seconds, "encoded", "uploading comes on top");
        Ok(())
    }
}

fn tell_done(
    topic: &Topic,
    found: &Reach,
    rewritten: Rewritten,
    passed: u64,
    seconds: f64,
    request: &Request,
) {
    let rate = passed as f64 / seconds.max(0.001);
    let Rewritten { files_before, files_after } = rewritten;
    if request.json {
        let printed = json!({
            "output": format!("lake:{}", topic.name), "offsets": passed, "seconds": seconds,
            "files_before": files_before, "files_after": files_after, "rows": found.rows, "widened": found.widened,
        });
        println!("{}", serde_json::to_string_pretty(&printed).expect("texts and numbers"));
        return;
    }
    println!(
        "lake:{}: {passed} offsets in {} ({rate:.0}/s), swapped in",
        topic.name,
        whole_seconds(seconds)
    );
    println!(
        "{files_after} files in the place of {files_before}, which are removed by a sweep after {}",
        request.grace
    );
}
