//! ⇄ A topic is declared otherwise, or its source's table is another one, while it is read: what is known of the table,
//! and what follows.
//!
//! Owns: at which record a topic ends to begin anew, the order of noting and going on, what people are
//! told. Does not own: the judgement (`catalog::drift`), the rows (`warehouse::drift`).
//!
//! There is one way, whatever follows. What comes before the first record of a table that is not known
//! is committed, as at a drain. Then the table is recorded (known, refused, or with what is added for
//! it), and the pipeline begins anew with the topic as it is then, or stops. So no cut has rows of two
//! schemas, and nothing of the new table is taken before a restart would know of it.

use super::parts::{Context, Lasting, News};
use crate::{
    catalog::{
        Addition, Catalog, Drift, Mistake, Model, Topic, Upstream,
        drift::{Finding, What, compare, diff},
    },
    decode::Met,
    error::{Error, Kind, Result},
    record::Partition,
    warehouse::{
        drift::{Sighting, Verdict, Wider},
        postgres::Warehouse,
        widening,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// What is known of the tables of a topic's source.
#[derive(Debug, Clone, Default)]
pub struct Known {
    versions: BTreeMap<String, Verdict>,
    /// The table that each partition's records came of last, and from which offset on.
    places: BTreeMap<Partition, (i64, Upstream)>,
}

impl Known {
    pub async fn load(warehouse: &Warehouse, topic: &str) -> Result<Self> {
        let versions = warehouse.upstream_versions(Some(topic)).await?;
        let versions = versions.into_iter().map(|row| (row.version, row.verdict)).collect();
        Ok(Self { versions, places: warehouse.upstream_places(topic).await? })
    }
}

/// What a pipeline goes on with.
pub struct Next {
    pub topic: Arc<Topic>,
    pub models: Vec<Arc<Model>>,
    pub known: Known,
    pub lasting: Lasting,
}

impl Next {
    /// As the catalog in `lasting` says.
    pub fn of(topic: &str, known: Known, lasting: Lasting) -> Self {
        let models = lasting.catalog.models_of(topic).collect();
        Self { topic: lasting.catalog.topics[topic].clone(), models, known, lasting }
    }
}

/// What became of a table that was met.
pub enum Resolved {
    Again(Box<Next>),
    Stop(String),
}

#[derive(Debug, Clone)]
enum Pending {
    Nothing,
    /// Something was added elsewhere.
    Anew,
    /// Other files are to be gone on with: who brings them is told when all before them is committed.
    Change,
    Note(Sighting),
    Widen(Sighting, Vec<Addition>),
    Refuse(Sighting, String),
    /// Without a table to note.
    Stop(String),
}

/// Looks at what records tell of their source's table.
pub struct Watch {
    topic: Arc<Topic>,
    known: Known,
    pending: Pending,
    asked: bool,
    /// Of a change: who waits for it.
    ready: Option<oneshot::Sender<()>>,
    pub next: Option<Box<Next>>,
    /// Told, each once: columns of the tables, fields of records without a schema.
    columns: Vec<String>,
    names: BTreeSet<String>,
}

impl Watch {
    pub fn new(topic: &Arc<Topic>, known: Known, catalog: &Catalog) -> Self {
        let columns = outstanding(topic, known.places.values().map(|(_, table)| table));
        let told = sentences(catalog, topic, &columns);
        for sentence in &told {
            tracing::warn!(topic = %topic.name, "{sentence}");
        }
        let watch = Self {
            topic: topic.clone(),
            known,
            pending: Pending::Nothing,
            asked: false,
            ready: None,
            next: None,
            columns: told,
            names: BTreeSet::new(),
        };
        watch.measure();
        watch
    }

    pub fn is_pending(&self) -> bool {
        !matches!(self.pending, Pending::Nothing)
    }

    pub fn begin_anew(&mut self) {
        if !self.is_pending() {
            self.pending = Pending::Anew;
        }
    }

    /// `ready` hears when nothing is open any more, and then has to tell what is gone on with by `News::Drift`. Where
    /// the pipeline ends for something else first it is dropped, to be asked again.
    pub fn change(&mut self, ready: oneshot::Sender<()>) {
        if !self.is_pending() {
            self.pending = Pending::Change;
            self.ready = Some(ready);
        }
    }

    /// Everything is committed, and tables may become those of another definition meanwhile.
    pub fn stands(&self) -> bool {
        matches!(self.pending, Pending::Change) && self.ready.is_none()
    }

    pub fn give_up(&mut self) {
        self.pending = Pending::Nothing;
    }

    /// What the source has and the topic file does not declare.
    pub fn sentences(&self) -> Vec<String> {
        self.columns.iter().chain(&self.names).cloned().collect()
    }

    fn measure(&self) {
        let count = self.columns.len() + self.names.len();
        metrics::gauge!("highwater_drift_columns", "topic" => self.topic.name.to_string())
            .set(count as f64);
    }

    /// Fields that no column names, of records that bring no schema.
    pub fn hear_names(&mut self, names: Vec<String>) {
        if !self.known.places.is_empty() || self.is_pending() {
            return;
        }
        let names: Vec<_> = names.into_iter().filter(|name| !name.starts_with("__")).collect();
        if names.is_empty() {
            return;
        }
        tracing::info!(topic = %self.topic.name, "fields that no column names, left out: {}", names.join(", "));
        if self.topic.format.is_change() {
            let sentence = |name| {
                format!("the field `{name}` is in no column and left out; records say no type")
            };
            self.names.extend(names.into_iter().map(sentence));
            self.measure();
        }
    }

    /// The record before which to end, if there is one; behind `last` none is looked at.
    pub fn look(
        &mut self,
        met: &[Met],
        untold: Option<usize>,
        last: Option<usize>,
        lasting: &Lasting,
    ) -> Option<usize> {
        if self.is_pending() {
            return None;
        }
        let limit = last.map_or(usize::MAX, |last| last + 1);
        let untold = untold.filter(|record| *record < limit);
        for met in met.iter().filter(|met| met.record < untold.unwrap_or(limit)) {
            if self.stops_at(met, &lasting.context) {
                return Some(met.record);
            }
        }
        if untold.is_some() {
            self.pending = Pending::Stop(
                "drift = \"apply\" needs records with their schema, and one has none: set \
                 value.converter.schemas.enable=true in the connector, or drift = \"plan\""
                    .to_owned(),
            );
        }
        untold
    }

    fn stops_at(&mut self, met: &Met, context: &Context) -> bool {
        let Met { partition, offset, upstream, .. } = met;
        let verdict = self.known.versions.get(&upstream.id()).copied();
        let before = match verdict {
            // A table that was there before may come again: a connector that starts anew sends it.
            Some(Verdict::Known | Verdict::Accepted) => Some(&**upstream),
            Some(Verdict::Refused) | None => {
                self.known.places.get(partition).map(|(_, table)| table)
            }
        };
        let findings = compare(&self.topic, before, upstream);
        let sighting = Sighting {
            topic: self.topic.name.clone(),
            upstream: upstream.clone(),
            partition: *partition,
            offset: *offset,
            diff: if findings.is_empty() { String::new() } else { diff(&findings) },
        };
        let follows = self.topic.drift == Drift::Apply && !findings.is_empty();
        match verdict {
            Some(Verdict::Accepted) => self.pass(sighting, context),
            Some(Verdict::Known) if !follows => self.pass(sighting, context),
            Some(Verdict::Known | Verdict::Refused) | None => {
                self.pending = judged(&self.topic, sighting, &findings, follows);
                return true;
            }
        }
        false
    }

    /// Notes that the partition's records come of a table that is known; without it, the next change
    /// would be compared with the one before.
    fn pass(&mut self, sighting: Sighting, context: &Context) {
        let last = self.known.places.get(&sighting.partition);
        // A lane that stands behind reads again what came before it.
        if last.is_some_and(|(from, u)| *from >= sighting.offset || *u == *sighting.upstream) {
            return;
        }
        let place = (sighting.offset, (*sighting.upstream).clone());
        self.known.places.insert(sighting.partition, place);
        let warehouse = context.warehouse.clone();
        context.runtime.spawn(async move {
            if let Err(error) = warehouse.meet(&sighting, Verdict::Known).await {
                tracing::warn!(topic = %sighting.topic, "the source's table is not noted for now: {error}");
            }
        });
    }

    /// Once everything before is committed: asks for what follows, and hears it as `News::Drift`.
    pub fn resolve(&mut self, lasting: &Lasting) {
        if std::mem::replace(&mut self.asked, true) {
            return;
        }
        match self.ready.take().map(|ready| ready.send(())) {
            Some(Ok(())) => return,
            // Nobody waits any more.
            Some(Err(())) => self.pending = Pending::Anew,
            None => {}
        }
        let (pending, topic, lasting) = (self.pending.clone(), self.topic.clone(), lasting.clone());
        let context = lasting.context.clone();
        context.runtime.clone().spawn(async move {
            let mut wait = BACKOFF_MIN;
            loop {
                let resolved = match attempt(&pending, &topic, &lasting).await {
                    Ok(resolved) => resolved,
                    Err(error) => match error.kind {
                        Kind::Retry | Kind::Unknown | Kind::Fenced => {
                            tracing::warn!(topic = %topic.name, "drift: {error}");
                            context.tell(News::Drift(Err(error.to_string())));
                            tokio::time::sleep(wait).await;
                            wait = (wait * 2).min(BACKOFF_MAX);
                            continue;
                        }
                        Kind::Halt | Kind::Config => Resolved::Stop(error.to_string()),
                    },
                };
                return context.tell(News::Drift(Ok(Box::new(resolved))));
            }
        });
    }
}

fn judged(topic: &Topic, sighting: Sighting, findings: &[Finding], follows: bool) -> Pending {
    let stopping: Vec<Finding> = findings.iter().filter(|f| !f.is_compatible()).cloned().collect();
    if !stopping.is_empty() {
        let why = stop(topic, &sighting, &diff(&stopping));
        return Pending::Refuse(sighting, why);
    }
    if !follows {
        return Pending::Note(sighting);
    }
    let unfit = findings.iter().find_map(|finding| Some((finding, finding.unfit(topic)?)));
    if let Some((finding, why)) = unfit {
        let why = format!("\n  column {} cannot be added by itself: {why}", finding.field);
        let why = stop(topic, &sighting, &format!("{}{why}", sighting.diff));
        return Pending::Refuse(sighting, why);
    }
    Pending::Widen(sighting, findings.iter().filter_map(addition).collect())
}

fn addition(finding: &Finding) -> Option<Addition> {
    let (pg, from) = match finding.what {
        What::Added(pg) => (pg, None),
        What::Widened { declared, to, .. } => (to, Some(declared)),
        What::Removed { .. } | What::Changed { .. } | What::Narrowed { .. } | What::Key { .. } => {
            return None;
        }
    };
    let (column, field) = (finding.column.clone(), finding.field.clone());
    Some(Addition { column, field, pg, from, since: BTreeMap::new() })
}

fn stop(topic: &Topic, sighting: &Sighting, diff: &str) -> String {
    let Sighting { partition, offset, .. } = sighting;
    format!(
        "the source's table is another one from {}/{}@{offset} on:{diff}\nNothing from there on was taken. Mend the \
         source or {} and start again; or let it pass by `highwater drift {} --accept`, and start again",
        topic.kafka_topic,
        partition.0,
        topic.file.display(),
        topic.name
    )
}

async fn attempt(pending: &Pending, topic: &Arc<Topic>, lasting: &Lasting) -> Result<Resolved> {
    let warehouse = &lasting.context.warehouse;
    match pending {
        Pending::Nothing | Pending::Anew | Pending::Change => {}
        Pending::Stop(why) => return Ok(Resolved::Stop(why.clone())),
        Pending::Note(sighting) => warehouse.meet(sighting, Verdict::Known).await?,
        Pending::Refuse(sighting, why) => {
            warehouse.meet(sighting, Verdict::Refused).await?;
            return Ok(Resolved::Stop(why.clone()));
        }
        Pending::Widen(sighting, additions) => {
            match widen(sighting, additions, topic, lasting).await {
                Ok(()) => {}
                Err(error) if matches!(error.kind, Kind::Halt | Kind::Config) => {
                    warehouse.meet(sighting, Verdict::Refused).await?;
                    let why = format!("{}\n  it cannot be followed: {error}", sighting.diff);
                    return Ok(Resolved::Stop(stop(topic, sighting, &why)));
                }
                Err(error) => return Err(error),
            }
        }
    }
    again(topic, lasting).await.map(|next| Resolved::Again(Box::new(next)))
}

/// Where another process was first, there is nothing to do: what it added is read again.
async fn widen(
    sighting: &Sighting,
    additions: &[Addition],
    topic: &Topic,
    lasting: &Lasting,
) -> Result<()> {
    let (catalog, warehouse) = (&lasting.catalog, &lasting.context.warehouse);
    let wider = wider(catalog, topic, additions).map_err(|mistakes| config(&mistakes))?;
    let models = catalog.models_of(&topic.name).zip(wider.models_of(&topic.name)).collect();
    let wider = Wider { after: topic.additions.len(), additions: additions.to_vec(), models };
    let done = warehouse.widen(sighting, &wider).await?;
    if done {
        let names: Vec<_> = additions.iter().map(|a| format!("{} {}", a.column, a.pg)).collect();
        tracing::info!(topic = %topic.name, partition = sighting.partition.0, offset = sighting.offset,
            "followed the source: {}", names.join(", "));
    }
    Ok(())
}

/// The catalog as it would be with these.
fn wider(catalog: &Catalog, topic: &Topic, more: &[Addition]) -> Result<Catalog, Vec<Mistake>> {
    let recorded = |topic: &Arc<Topic>| (topic.name.clone(), topic.additions.clone());
    let mut additions: BTreeMap<_, _> = catalog.topics.values().map(recorded).collect();
    additions.entry(topic.name.clone()).or_default().extend_from_slice(more);
    catalog.with_additions(&additions)
}

/// Recorded additions and the files say different things.
pub fn config(mistakes: &[Mistake]) -> Error {
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    Error::config(lines.join("\n"))
}

async fn again(topic: &Topic, lasting: &Lasting) -> Result<Next> {
    let (catalog, known) =
        recorded(&lasting.catalog, &topic.name, &lasting.context.warehouse).await?;
    Ok(Next::of(&topic.name, known, Lasting { catalog, ..lasting.clone() }))
}

/// The catalog with what is recorded as added by now, and what is known of the topic's source; its models have their
/// tables then.
pub async fn recorded(
    catalog: &Catalog,
    topic: &str,
    warehouse: &Warehouse,
) -> Result<(Arc<Catalog>, Known)> {
    let additions = warehouse.additions(None).await?;
    let catalog = catalog.with_additions(&additions).map_err(|found| config(&found))?;
    warehouse.ensure_tables(&catalog.models_of(topic).collect::<Vec<_>>()).await?;
    warehouse.forget_statements();
    Ok((Arc::new(catalog), Known::load(warehouse, topic).await?))
}

/// What tables of a source have beside what the topic declares, each once.
pub fn outstanding<'a>(topic: &Topic, tables: impl Iterator<Item = &'a Upstream>) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for finding in tables.flat_map(|table| compare(topic, Some(table), table)) {
        if !found.iter().any(|other| other.column == finding.column) {
            found.push(finding);
        }
    }
    found
}

/// A sentence for each; where the topic says `plan`, with what to do.
pub fn sentences(catalog: &Catalog, topic: &Topic, findings: &[Finding]) -> Vec<String> {
    let file = topic.file.display();
    let told = findings.iter().filter_map(|finding| {
        let what = match &finding.what {
            What::Added(pg) => {
                format!("column {} ({pg}) of the source is not declared and left out", finding.field)
            }
            What::Widened { declared, upstream, .. } => format!(
                "column {} is {upstream} in the source and declared {declared}: what does not fit is a dead letter",
                finding.column
            ),
            What::Removed { .. } | What::Changed { .. } | What::Narrowed { .. } | What::Key { .. } => {
                return None;
            }
        };
        Some(match topic.drift {
            Drift::Off => what,
            Drift::Plan | Drift::Apply => {
                let line = finding.line().unwrap_or_default();
                format!("{what}. To take it, in [columns] of {file}: {line}")
            }
        })
    });
    let mut told: Vec<String> = told.collect();
    if topic.drift != Drift::Off && !told.is_empty() {
        told.extend(statements(catalog, topic, findings));
    }
    told
}

/// What the tables need before a start with the findings declared, or why no statement does.
fn statements(catalog: &Catalog, topic: &Topic, findings: &[Finding]) -> Vec<String> {
    let fit = findings.iter().filter(|finding| finding.unfit(topic).is_none());
    let additions: Vec<Addition> = fit.filter_map(addition).collect();
    let wider = match wider(catalog, topic, &additions) {
        Ok(wider) => wider,
        Err(mistakes) => return vec![config(&mistakes).to_string()],
    };
    let mut statements = Vec::new();
    for (old, new) in catalog.models_of(&topic.name).zip(wider.models_of(&topic.name)) {
        match widening::alterations(&old, &new) {
            Ok(of_model) => statements.extend(of_model.into_iter().map(|sql| format!("{sql};"))),
            Err(why) => statements.push(why),
        }
    }
    statements
}
