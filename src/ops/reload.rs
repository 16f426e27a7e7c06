//! SIGHUP and `POST /reload`: topics and models as their files say now, taken up by the running service.
//!
//! Owns: what has changed, the order of steps, what is told. Does not own: a table made beside the live one
//! (`replay`), how a pipeline ends to go on with something else (`pipeline::drift`), its thread (`service`).
//!
//! Q-1  A mistake in any file changes nothing. Topics are taken up one by one; one that fails goes on as before.
//! Q-2  A topic none of whose files has changed is not touched.
//! Q-3  What has to be made anew or filled is made beside, while the topic goes on by the files of before. For what
//!      little is left, and the swap, its pipeline stands: everything is committed, and nothing is read.

use super::{
    load, references,
    replay::{Replay, change, has_begun},
    require_lake, require_registry, require_secret, run,
    service::Service,
};
use crate::{
    catalog::{Catalog, Model, Source, Topic},
    error::{Error, Kind, Result},
    pipeline::{
        drift::{Next, Resolved, recorded},
        parts::News,
        rebuild::Progress,
    },
    warehouse::rebuild::{Change, Rebuild},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, mpsc::Sender},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};

pub const UNTIL_CAUGHT_UP: &str =
    "a run until caught up takes up no other files: it ends by itself";
/// Before a pipeline that was busy with something else is asked again, and after PostgreSQL did not answer.
const AGAIN: Duration = Duration::from_millis(200);
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What the process runs, for who looks at all topics now and then.
pub type Declared = Arc<RwLock<Arc<Catalog>>>;
/// A line for each thing that is other now.
pub type Told = Vec<String>;

/// Who takes up files, one time after the other.
#[derive(Clone)]
pub struct Reloads {
    asked: mpsc::UnboundedSender<oneshot::Sender<Result<Told>>>,
}

/// Its thread; ended before the runtime is.
pub struct Reloading {
    leaving: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

pub struct Reloader {
    service: Arc<Service>,
    declared: Declared,
    /// What is made anew reads there what Kafka has no more.
    from_lake: bool,
    /// By topic.
    running: BTreeMap<Arc<str>, Standing>,
}

/// What a topic runs by.
struct Standing {
    /// None: not all of it was taken up.
    files: Option<Vec<Source>>,
    catalog: Arc<Catalog>,
}

impl Reloads {
    pub fn start(reloader: Reloader) -> Result<(Self, Reloading)> {
        let (asked, asking) = mpsc::unbounded_channel();
        let (leaving, left) = watch::channel(false);
        for outcome in ["done", "failed"] {
            metrics::counter!("highwater_reloads_total", "outcome" => outcome).absolute(0);
        }
        let thread = std::thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || reloader.serve(asking, left))
            .map_err(|e| Error::halt("start the thread of reloads").because(e))?;
        Ok((Self { asked }, Reloading { leaving, thread }))
    }

    /// The log says what became of it.
    pub fn ask(&self) {
        let (answer, _) = oneshot::channel();
        // The process ends.
        let _ = self.asked.send(answer);
    }

    /// # Errors
    /// `Config`: a mistake, and nothing has changed. Else some topic goes on as before, with the reason.
    pub async fn asked(&self) -> Result<Told> {
        let (answer, answered) = oneshot::channel();
        let leaving = || Error::retry("the process ends");
        self.asked.send(answer).map_err(|_| leaving())?;
        answered.await.map_err(|_| leaving())?
    }
}

impl Reloading {
    pub fn end(self) {
        let _ = self.leaving.send(true);
        let _ = self.thread.join();
    }
}

impl Reloader {
    pub fn new(service: Arc<Service>, declared: Declared, from_lake: bool) -> Self {
        let catalog = declared.read().unwrap_or_else(PoisonError::into_inner).clone();
        let standing = |name: &Arc<str>| {
            let files = Some(catalog.files_of(name));
            (name.clone(), Standing { files, catalog: catalog.clone() })
        };
        let running = catalog.topics.keys().map(standing).collect();
        Self { service, declared, from_lake, running }
    }

    fn serve(
        mut self,
        mut asking: mpsc::UnboundedReceiver<oneshot::Sender<Result<Told>>>,
        mut left: watch::Receiver<bool>,
    ) {
        let runtime = self.service.runtime.clone();
        runtime.block_on(async {
            loop {
                let answer = tokio::select! {
                    _ = left.changed() => return,
                    answer = asking.recv() => answer,
                };
                let Some(answer) = answer else { return };
                let done = tokio::select! {
                    _ = left.changed() => return,
                    done = self.reload() => done,
                };
                let outcome = if done.is_ok() { "done" } else { "failed" };
                metrics::counter!("highwater_reloads_total", "outcome" => outcome).increment(1);
                match &done {
                    Ok(told) => told.iter().for_each(|line| tracing::info!("reload: {line}")),
                    Err(error) => tracing::error!("reload: {error}"),
                }
                // Who asked may be gone.
                let _ = answer.send(done);
            }
        });
    }

    async fn reload(&mut self) -> Result<Told> {
        let catalog = load(&self.service.config)?;
        require_secret(&catalog, &self.service.config)?;
        require_registry(&catalog)?;
        require_lake(&catalog, &self.service.config)?;
        let catalog = Arc::new(run::with_additions(&catalog, &self.service.warehouse).await?);
        self.require_same_references(&catalog)?;
        let names: BTreeSet<Arc<str>> = catalog.topics.keys().cloned().collect();
        let before: BTreeSet<Arc<str>> = self.running.keys().cloned().collect();
        self.load_new_references(&catalog).await?;
        let mut told = Told::new();
        let mut failed = Vec::new();
        for name in before.difference(&names) {
            self.service.stop_topic(name).await;
            self.running.remove(name);
            told.push(format!(
                "topic {name} is read no more; its tables, files and marks are kept"
            ));
        }
        for name in &names {
            let files = catalog.files_of(name);
            let is_same = self.running.get(name).is_some_and(|s| s.files.as_ref() == Some(&files));
            // Memory is divided among the topics.
            if is_same && names.len() == before.len() && self.service.news(name).is_some() {
                continue;
            }
            match self.take_up(&catalog, name, files).await {
                Ok(lines) => told.extend(lines),
                Err(error) => failed.push(format!("topic {name} goes on as before: {error}")),
            }
        }
        if before != names {
            self.service.subscribe()?;
        }
        *self.declared.write().unwrap_or_else(PoisonError::into_inner) = catalog;
        if !failed.is_empty() {
            told.extend(failed);
            return Err(Error::halt(told.join("\n")));
        }
        if told.is_empty() {
            told.push("nothing has changed".to_owned());
        }
        Ok(told)
    }

    fn declared(&self) -> Arc<Catalog> {
        self.declared.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every model that joins a reference would have to change at once, whatever topic it is of.
    fn require_same_references(&self, catalog: &Catalog) -> Result<()> {
        let declared = self.declared();
        for (name, reference) in &catalog.references {
            let file = &reference.rows.file;
            let before = declared.references.get(name);
            if before.is_some_and(|b| declared.file(&b.rows.file) != catalog.file(file)) {
                return Err(Error::config(format!(
                    "{}: reference {name} is declared otherwise than it was loaded: restart to take that up",
                    file.display()
                )));
            }
        }
        Ok(())
    }

    async fn load_new_references(&self, catalog: &Catalog) -> Result<()> {
        let declared = self.declared();
        let mut new = catalog.clone();
        new.references.retain(|name, _| !declared.references.contains_key(name));
        let Service { warehouse, references: all, runtime, .. } = &*self.service;
        let store = self.service.store.as_ref();
        let loaded = references::load_all(&new, warehouse, store).await?;
        loaded.newest().into_iter().for_each(|version| drop(all.publish(version)));
        references::keep_fresh(&new, all, warehouse, store, runtime);
        Ok(())
    }

    /// One topic, to the end.
    async fn take_up(
        &mut self,
        catalog: &Arc<Catalog>,
        name: &Arc<str>,
        files: Vec<Source>,
    ) -> Result<Told> {
        let topic = &catalog.topics[name];
        let former = self.running.get(name).map(|standing| standing.catalog.clone());
        let mut told = differences(former.as_deref(), catalog, topic);
        self.service.warehouse.declare_topics([topic].into_iter()).await?;
        let mut replays = self.beside(catalog, topic, &mut told).await?;
        let moved = |former: &Arc<Catalog>| former.topics[name].kafka_topic != topic.kafka_topic;
        if former.as_ref().is_some_and(moved) {
            self.service.stop_topic(name).await;
        }
        let news = self.service.news(name);
        if let Some(news) = &news {
            stand(news).await?;
        }
        let (mut swapped, mut failed) = (0, Vec::new());
        let mut partly = Catalog::clone(catalog);
        for (model, change, replay, passed) in &mut replays {
            match replay.to_the_swap().await {
                Ok((_, more)) => {
                    swapped += 1;
                    told.push(made(model, *change, *passed + more));
                }
                Err(error) => {
                    partly.models.remove(&model.name);
                    failed.push(format!("model {} stands still: {error}", model.name));
                }
            }
        }
        let (catalog, files) = match former {
            _ if failed.is_empty() => (catalog.clone(), Some(files)),
            // Its tables are as they were, so what was before goes on.
            Some(former) if swapped == 0 => (former, None),
            Some(_) | None => (Arc::new(partly), None),
        };
        self.go_on(&catalog, name, news).await?;
        self.running.insert(name.clone(), Standing { files, catalog });
        match failed.is_empty() {
            true => Ok(told),
            false => Err(Error::halt(failed.join("; "))),
        }
    }

    /// Makes what the models need, as far as it can be done while the topic goes on; how many offsets each has passed.
    async fn beside(
        &self,
        catalog: &Catalog,
        topic: &Topic,
        told: &mut Told,
    ) -> Result<Vec<(Arc<Model>, Change, Replay, u64)>> {
        let models: Vec<_> = catalog.models_of(&topic.name).collect();
        let Service { config, warehouse, .. } = &*self.service;
        let filled = warehouse.filled(&models).await?;
        let marks = warehouse.marks(Some(&*topic.name)).await?;
        let (mut replays, mut others) = (Vec::new(), Vec::new());
        for (model, filled) in models.into_iter().zip(filled) {
            let change = change(&model, filled, &marks);
            if change == Change::Same || change == Change::New && !has_begun(&topic.name, &marks) {
                others.push(model);
                continue;
            }
            let rebuild = Rebuild::of(&model);
            let from_lake = self.from_lake;
            match Replay::new(config, catalog, warehouse, rebuild, change, from_lake).await {
                Ok(mut replay) => {
                    let (output, mut logged) = (model.name.clone(), Instant::now());
                    let mut tell = |Progress { passed, all }| {
                        if logged.elapsed() >= TELL_EVERY {
                            logged = Instant::now();
                            tracing::info!(model = %output, passed, all, "made beside");
                        }
                    };
                    let passed = replay.beside(&mut tell).await?;
                    replays.push((model, change, replay, passed));
                }
                // The pipeline fills it, which reads no lake, and its other outputs wait.
                Err(error) if change == Change::New && error.kind == Kind::Config && !from_lake => {
                    told.push(format!(
                        "model:{} is new, filled by the topic's pipeline while its other tables wait: {error}",
                        model.name
                    ));
                    others.push(model);
                }
                Err(error) => return Err(error),
            }
        }
        // What is wrong with one is found while the topic goes on.
        warehouse.ensure_tables(&others).await?;
        Ok(replays)
    }

    /// Has the pipeline go on by this catalog; where there is none, starts it.
    async fn go_on(
        &self,
        catalog: &Catalog,
        name: &Arc<str>,
        news: Option<Sender<News>>,
    ) -> Result<()> {
        let recorded = loop {
            match recorded(catalog, name, &self.service.warehouse).await {
                Err(error) if matches!(error.kind, Kind::Retry | Kind::Unknown | Kind::Fenced) => {
                    tracing::warn!(topic = %name, "tried again: {error}");
                    tokio::time::sleep(AGAIN).await;
                }
                recorded => break recorded,
            }
        };
        let Some(news) = news else {
            let (catalog, known) = recorded?;
            return self.service.start_topic(&catalog, name, known);
        };
        let (resolved, outcome) = match recorded {
            Ok((catalog, known)) => {
                let lasting = self.service.lasting(&catalog, name, news.clone());
                (Resolved::Again(Box::new(Next::of(name, known, lasting))), Ok(()))
            }
            Err(error) => (Resolved::Stop(error.to_string()), Err(error)),
        };
        // A pipeline that ended needs no news.
        let _ = news.send(News::Drift(Ok(Box::new(resolved))));
        outcome
    }
}

/// Waits until everything of the topic that was read is committed; then it stands, and has to be told to go on.
async fn stand(news: &Sender<News>) -> Result<()> {
    loop {
        let (ready, quiet) = oneshot::channel();
        let asked = news.send(News::Change(ready));
        asked.map_err(|_| Error::halt("it has stopped just now; ask again to start it"))?;
        if quiet.await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What is other for a reader of the files, beside what is made anew.
fn differences(former: Option<&Catalog>, catalog: &Catalog, topic: &Topic) -> Told {
    let name = &topic.name;
    let Some(former) = former else { return vec![format!("topic {name} is new")] };
    let mut told = Told::new();
    if former.file(&former.topics[name].file) != catalog.file(&topic.file) {
        told.push(format!("topic {name} goes on by its file of now"));
    }
    for model in former.models_of(name).filter(|m| !catalog.models.contains_key(&m.name)) {
        let name = &model.name;
        told.push(format!("model:{name} is declared no more: its table and marks are kept, and nobody goes on with them"));
    }
    told
}

fn made(model: &Model, change: Change, offsets: u64) -> String {
    let how = match change {
        Change::New => "is new, filled",
        Change::Wider => "has its new columns",
        Change::Same | Change::Changed => "is made anew by its new definition",
    };
    format!("model:{} {how}: {offsets} offsets were read", model.name)
}
