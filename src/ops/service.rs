//! The pipelines of a process, started, watched and ended together.

use super::{health::Health, kafka_settings, memory::Shares};
use crate::{
    catalog::{Catalog, Model, Topic},
    config::Config,
    decode::Secret,
    error::{Error, Result},
    lake::{store::Store, writer::WriterSettings},
    pipeline::{
        References,
        drift::Known,
        driver::Driver,
        owed,
        parts::{Context, Lasting, News, Parts},
        worker::Settings,
    },
    record::{Offset, Output, Partition},
    source::kafka::Kafka,
    warehouse::{postgres::Warehouse, swap::newest},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

/// A revoked partition may take this long to commit what is open.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(20);
const SERVE_WAIT: Duration = Duration::from_millis(100);
const KAFKA_WAIT: Duration = Duration::from_secs(10);

/// Per topic and partition: where its log ended at the start.
pub type Targets = BTreeMap<Arc<str>, BTreeMap<Partition, Offset>>;

pub struct Service {
    pub health: Arc<Health>,
    pub config: Config,
    kafka: Arc<Kafka>,
    pub warehouse: Warehouse,
    pub store: Option<Store>,
    pub references: References,
    targets: Option<Targets>,
    /// Name of this life of the process.
    owner: Arc<str>,
    pub runtime: Handle,
    topics: Mutex<BTreeMap<Arc<str>, RunningTopic>>,
    group: Mutex<Option<JoinHandle<()>>>,
    leaving: Arc<AtomicBool>,
}

/// What was made ready for all topics.
pub struct Resources {
    pub warehouse: Warehouse,
    pub store: Option<Store>,
    /// Loaded.
    pub references: References,
    /// By topic.
    pub known: BTreeMap<Arc<str>, Known>,
}

struct RunningTopic {
    topic: Arc<Topic>,
    models: Vec<Arc<Model>>,
    news: Sender<News>,
    thread: Option<JoinHandle<Result<()>>>,
    outcome: Option<Result<()>>,
}

impl Service {
    /// Checks everything that can be checked, then starts all pipelines.
    pub fn start(
        catalog: &Catalog,
        config: &Config,
        resources: Resources,
        until_caught_up: bool,
        runtime: &Handle,
    ) -> Result<Arc<Self>> {
        let Resources { warehouse, store, references, mut known } = resources;
        let settings =
            kafka_settings(config, Shares::of(config.memory, catalog.topics.len()).fetch);
        let kafka = Kafka::new(&settings, RELEASE_TIMEOUT)?;
        let targets = match until_caught_up {
            true => Some(targets(catalog, &kafka)?),
            false => None,
        };
        let service = Self {
            health: Arc::default(),
            config: config.clone(),
            kafka,
            warehouse,
            store,
            references,
            targets,
            owner: format!("{}/{}", hostname(), uuid::Uuid::new_v4()).into(),
            runtime: runtime.clone(),
            topics: Mutex::default(),
            group: Mutex::default(),
            leaving: Arc::new(AtomicBool::new(false)),
        };
        let catalog = Arc::new(catalog.clone());
        for name in catalog.topics.keys() {
            service.start_topic(&catalog, name, known.remove(name).unwrap_or_default())?;
        }
        service.kafka.subscribe()?;
        *service.group.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(service.serve_group()?);
        Ok(Arc::new(service))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, RunningTopic>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the pipeline of a topic that has none, or whose own has ended; of a new one nothing comes before
    /// [`Self::subscribe`].
    pub fn start_topic(&self, catalog: &Arc<Catalog>, name: &Arc<str>, known: Known) -> Result<()> {
        let topic = catalog.topics[name].clone();
        let models: Vec<_> = catalog.models_of(name).collect();
        let (news, inbox) = mpsc::channel();
        let sender = news.clone();
        let listener = Box::new(move |of_group| drop(sender.send(News::Group(of_group))));
        let assigned = self.kafka.listen(&topic.kafka_topic, listener);
        let lasting = self.lasting(catalog, name, news.clone());
        let parts = Parts {
            topic: topic.clone(),
            models: models.clone(),
            known,
            lasting,
            inbox,
            assigned: assigned.into_iter().collect(),
            numbers: None,
        };
        let driver = Driver::new(parts)?;
        let thread = std::thread::Builder::new()
            .name(format!("topic-{name}"))
            .spawn(move || run(driver))
            .map_err(|e| Error::halt("start a topic's thread").because(e))?;
        let running = RunningTopic { topic, models, news, thread: Some(thread), outcome: None };
        self.lock().insert(name.clone(), running);
        Ok(())
    }

    /// What a topic's pipeline has as this catalog says.
    pub fn lasting(&self, catalog: &Arc<Catalog>, name: &Arc<str>, news: Sender<News>) -> Lasting {
        let topic = &catalog.topics[name];
        let shares = Shares::of(self.config.memory, catalog.topics.len());
        Lasting {
            catalog: catalog.clone(),
            references: self.references.clone(),
            secret: self.config.pii_secret.clone().map(Secret),
            store: topic.lake.as_ref().and(self.store.clone()),
            worker: worker_settings(&self.config, topic, &shares),
            keys_memory: shares.keys,
            writer: WriterSettings { memory_bytes_max: shares.lake, ..WriterSettings::default() },
            context: Context {
                runtime: self.runtime.clone(),
                kafka: self.kafka.clone(),
                warehouse: self.warehouse.clone(),
                owner: self.owner.clone(),
                news,
            },
            status: self.health.watch(name),
            targets: self.targets.as_ref().and_then(|targets| targets.get(name).cloned()),
        }
    }

    /// To be told when topics came or went.
    pub fn subscribe(&self) -> Result<()> {
        self.kafka.subscribe()
    }

    /// To tell the topic something; None: it is not there, or has stopped.
    pub fn news(&self, name: &str) -> Option<Sender<News>> {
        self.is_over();
        self.lock()
            .get(name)
            .filter(|topic| topic.outcome.is_none())
            .map(|topic| topic.news.clone())
    }

    /// Ends a topic, with what is open committed; [`Self::subscribe`] gives its partitions up.
    pub async fn stop_topic(&self, name: &str) {
        while let Some(news) = self.news(name) {
            // Between the two it may have ended by itself.
            let _ = news.send(News::Drain);
            tokio::time::sleep(SERVE_WAIT).await;
        }
        if let Some(topic) = self.lock().remove(name) {
            self.kafka.forget(&topic.topic.kafka_topic);
        }
        self.health.forget(name);
    }

    /// All topics ended by themselves.
    pub fn is_over(&self) -> bool {
        let mut topics = self.lock();
        for (name, topic) in topics.iter_mut() {
            if topic.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                topic.join(name);
            }
        }
        topics.values().all(|topic| topic.outcome.is_some())
    }

    /// A topic that ended although nobody asked for it.
    pub fn has_stopped_topic(&self) -> bool {
        self.is_over();
        self.lock().values().any(|topic| topic.outcome.is_some())
    }

    /// Everything that was in the topics at the start is committed, here or by another process, and files of it have
    /// their names. An error: partitions stand, or a snapshot waits for a person, and everything else is done: waiting is
    /// for nothing.
    pub async fn is_caught_up(&self) -> Result<bool> {
        let Some(targets) = &self.targets else { return Ok(false) };
        let done = || self.health.all_topics().filter(|topics| topics.iter().all(|t| t.caught_up));
        if done().is_none() {
            return Ok(false);
        }
        let marks = self.warehouse.marks(None).await?;
        // SUBTLE: asked again behind the marks. A pipeline that has no partitions yet is done, too, and what one
        // told before its last commit says nothing of the snapshots that commit may have ended.
        let Some(topics) = done() else { return Ok(false) };
        let gaps: Vec<String> = topics.into_iter().flat_map(|topic| topic.gaps).collect();
        if !gaps.is_empty() {
            return Err(Error::halt(gaps.join("; ")));
        }
        let (mut with_lake, mut following) = (Vec::new(), Vec::new());
        for (name, running) in self.lock().iter() {
            let outputs = outputs(&running.topic, &running.models);
            // Each output by name: one that was declared just now has no mark yet.
            let reached = |output: &Output, partition: Partition, target: Offset| {
                marks.iter().any(|m| {
                    m.topic == *name
                        && m.partition == partition
                        && m.output == *output
                        && m.mark.next >= target
                })
            };
            for (&partition, &target) in &targets[name] {
                let all = outputs.iter().all(|output| reached(output, partition, target));
                if target > Offset(0) && !all {
                    return Ok(false);
                }
            }
            with_lake.extend(running.topic.lake.as_ref().map(|_| name.clone()));
            let models = running.models.iter().filter(|model| model.folding.is_some());
            following.extend(models.map(|model| (running.topic.clone(), model.clone())));
        }
        // What a process that was killed owes is done by who takes its partitions: that need not be this one.
        if let Some(store) = &self.store {
            for name in with_lake {
                owed::tidy(&name, store, &self.warehouse).await?;
            }
        }
        // From the tables: another process may have decided what the pipelines here still tell.
        let mut held = Vec::new();
        for (topic, model) in following {
            let rows = self.warehouse.snapshots_of(&model).await?;
            held.extend(newest(&rows).and_then(|row| row.sentence(&topic, &model.name)));
        }
        match held.is_empty() {
            true => Ok(true),
            false => Err(Error::halt(held.join("; "))),
        }
    }

    /// Commits what is held, leaves the group, and tells what went wrong; within `patience`.
    pub fn end(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        for topic in self.lock().values() {
            let _ = topic.news.send(News::Drain);
        }
        while !self.is_over() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        for (name, _) in self.lock().iter().filter(|(_, topic)| topic.outcome.is_none()) {
            tracing::warn!(topic = %name, "not drained in time; the marks say where to go on");
        }
        self.kafka.leave();
        self.leaving.store(true, Ordering::Relaxed);
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(group) = group {
            let _ = group.join();
        }
        let mut outcome = Ok(());
        for topic in self.lock().values_mut() {
            if let Some(Err(error)) = topic.outcome.take() {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Serves the group until told to leave and left.
    fn serve_group(&self) -> Result<JoinHandle<()>> {
        let (kafka, health) = (self.kafka.clone(), self.health.clone());
        let leaving = self.leaving.clone();
        let serve = move || {
            let mut gave_up = None;
            while !leaving.load(Ordering::Relaxed) {
                if let Err(error) = kafka.serve(SERVE_WAIT) {
                    tracing::error!("{error}");
                    gave_up = Some(error.to_string());
                    std::thread::sleep(SERVE_WAIT);
                }
                health.group(gave_up.clone().or_else(|| kafka.trouble()));
            }
            // The revocation that follows from leaving.
            let _ = kafka.serve(SERVE_WAIT);
        };
        std::thread::Builder::new()
            .name("kafka-group".to_owned())
            .spawn(serve)
            .map_err(|e| Error::halt("start the group's thread").because(e))
    }
}

impl RunningTopic {
    fn join(&mut self, name: &str) {
        let Some(thread) = self.thread.take() else { return };
        self.outcome = Some(thread.join().unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Error::halt(format!("topic {name}: a defect in highwater: {text}")))
        }));
        if let Some(Err(error)) = &self.outcome {
            tracing::error!("{error}");
        }
    }
}

/// A topic to its end, pipeline by pipeline: each goes on where the one before it ended.
fn run(mut driver: Driver) -> Result<()> {
    while let Some(parts) = driver.run()? {
        driver = Driver::new(parts)?;
    }
    Ok(())
}

pub fn outputs(topic: &Topic, models: &[Arc<Model>]) -> Vec<Output> {
    let models = models.iter().map(|model| Output::Model(model.name.clone()));
    let lake = topic.lake.as_ref().map(|_| Output::Lake);
    models.chain(lake).chain([Output::DeadLetters]).collect()
}

fn worker_settings(config: &Config, topic: &Topic, shares: &Shares) -> Settings {
    let defaults = Settings::default();
    Settings {
        tables_interval: config.commit_interval,
        tables_interval_behind: config.catch_up_interval.max(config.commit_interval),
        tables_memory: shares.tables,
        lake_age: topic.lake.as_ref().map_or(defaults.lake_age, |lake| lake.roll_age),
        lake_file_bytes: topic
            .lake
            .as_ref()
            .map_or(defaults.lake_file_bytes, |lake| lake.roll_bytes),
        lake_memory: shares.lake,
        idle_after: topic.idle,
        idle_check: topic.idle.map_or(defaults.idle_check, |idle| idle.min(defaults.idle_check)),
        jitter: Some(rand::random()),
        judged: topic.unique.is_some(),
        ..defaults
    }
}

fn targets(catalog: &Catalog, kafka: &Kafka) -> Result<Targets> {
    let mut targets = Targets::new();
    for topic in catalog.topics.values() {
        let mut ends = BTreeMap::new();
        for partition in kafka.partitions(&topic.kafka_topic, KAFKA_WAIT)? {
            let (oldest, end) = kafka.log(&topic.kafka_topic, partition, KAFKA_WAIT)?;
            // Nothing in it: nothing to wait for.
            ends.insert(partition, if oldest == end { Offset(0) } else { end });
        }
        targets.insert(topic.name.clone(), ends);
    }
    Ok(targets)
}

pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "highwater".to_owned(), |name| name.trim().to_owned())
}
