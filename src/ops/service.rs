//! The pipelines of a process, started, watched and ended together.

use super::metrics::Process;
use crate::{
    catalog::{Catalog, Model, Topic},
    config::Config,
    decode::Secret,
    error::{Error, Result},
    lake::{store::Store, writer::WriterSettings},
    pipeline::{
        References, TopicStatus,
        drift::Known,
        driver::Driver,
        owed,
        parts::{Context, Lasting, News, Parts},
        worker::Settings,
    },
    record::{Offset, Output, Partition},
    source::kafka::{Kafka, KafkaSettings, Listener},
    warehouse::postgres::Warehouse,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
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

type Shared = Arc<Mutex<Option<TopicStatus>>>;
/// Per topic and partition: where its log ended at the start.
pub type Targets = BTreeMap<Arc<str>, BTreeMap<Partition, Offset>>;

/// What people and probes are told.
pub struct Health {
    started: Instant,
    topics: BTreeMap<Arc<str>, Shared>,
    group: Mutex<Option<String>>,
}

/// The whole of `/status`.
#[derive(Serialize)]
pub struct Status {
    pub version: &'static str,
    pub uptime_seconds: u64,
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
    pub not_ready: Option<String>,
    pub topics: Vec<TopicStatus>,
}

impl Health {
    pub fn topics(&self) -> Vec<TopicStatus> {
        let read = |s: &Shared| s.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.topics.values().filter_map(read).collect()
    }

    /// None: ready.
    pub fn why_not_ready(&self) -> Option<String> {
        if let Some(why) = &*self.group.lock().unwrap_or_else(PoisonError::into_inner) {
            return Some(why.clone());
        }
        let topics = self.topics();
        if topics.len() < self.topics.len() {
            return Some("starting".to_owned());
        }
        for topic in topics {
            if let Some(why) = topic.stopped {
                return Some(format!("topic {} stopped: {why}", topic.topic));
            }
            if !topic.gaps.is_empty() {
                return Some(topic.gaps.join("; "));
            }
            if let Some(why) = topic.stalled {
                return Some(format!("topic {}: {why}", topic.topic));
            }
        }
        None
    }

    /// A line for each snapshot that is held, and for each topic whose last commit failed and is tried again:
    /// what waits for a person (a full disk) is told long before it counts as not ready.
    pub fn tried_again(&self) -> String {
        let line = |topic: TopicStatus| {
            let held = topic.snapshots.iter().map(|told| format!("{told}\n"));
            let failed = topic.last_error.map(|why| format!("topic {}: {why}\n", topic.topic));
            held.chain(failed).collect::<String>()
        };
        self.topics().into_iter().map(line).collect()
    }

    pub fn status(&self) -> Status {
        let process = Process::now();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.started.elapsed().as_secs(),
            resident_bytes: process.resident_bytes,
            cpu_seconds: process.cpu_seconds,
            not_ready: self.why_not_ready(),
            topics: self.topics(),
        }
    }

    /// Sets the gauges that follow from the topics' snapshots.
    pub fn measure(&self) {
        let mut memory: BTreeMap<&'static str, u64> = BTreeMap::new();
        for topic in self.topics() {
            for (component, bytes) in topic.memory_bytes {
                *memory.entry(component).or_default() += bytes;
            }
        }
        for (component, bytes) in memory {
            metrics::gauge!("highwater_memory_bytes", "component" => component).set(bytes as f64);
        }
        let ready = if self.why_not_ready().is_none() { 1.0 } else { 0.0 };
        metrics::gauge!("highwater_ready").set(ready);
    }
}

/// How the process's memory is divided.
struct Shares {
    fetch: usize,
    tables: usize,
    keys: usize,
    lake: usize,
}

impl Shares {
    /// What remains is for batches under way, connections and the code itself.
    fn of(memory: usize, topics: usize) -> Self {
        let topic = memory / topics.max(1);
        Self { fetch: topic / 12, tables: topic / 6, keys: topic / 4, lake: topic / 6 }
    }
}

pub struct Service {
    pub health: Arc<Health>,
    kafka: Arc<Kafka>,
    warehouse: Warehouse,
    store: Option<Store>,
    targets: Option<Targets>,
    topics: Vec<RunningTopic>,
    group: Option<JoinHandle<()>>,
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
    name: Arc<str>,
    /// What has marks of this topic.
    outputs: Vec<Output>,
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
    ) -> Result<Self> {
        let Resources { warehouse, store, references, mut known } = resources;
        let whole = Arc::new(catalog.clone());
        let shares = Shares::of(config.memory, catalog.topics.len());
        let mut listeners: HashMap<String, Listener> = HashMap::new();
        let mut inboxes = BTreeMap::new();
        for topic in catalog.topics.values() {
            let (news, inbox) = mpsc::channel();
            let sender = news.clone();
            let listener = Box::new(move |of_group| drop(sender.send(News::Group(of_group))));
            if listeners.insert(topic.kafka_topic.clone(), listener).is_some() {
                return Err(Error::config(format!("two topic files read {}", topic.kafka_topic)));
            }
            inboxes.insert(topic.name.clone(), (news, inbox));
        }
        let settings = KafkaSettings {
            brokers: config.brokers.clone(),
            topic_ids: config.topic_ids,
            group: config.group.clone(),
            properties: config.kafka_properties.clone(),
            fetch_bytes: shares.fetch,
        };
        let kafka = Kafka::new(&settings, listeners, RELEASE_TIMEOUT)?;
        let targets = match until_caught_up {
            true => Some(targets(catalog, &kafka)?),
            false => None,
        };
        let owner: Arc<str> = format!("{}/{}", hostname(), uuid::Uuid::new_v4()).into();
        let mut health =
            Health { started: Instant::now(), topics: BTreeMap::new(), group: Mutex::new(None) };
        let mut topics = Vec::new();
        for topic in catalog.topics.values() {
            let (news, inbox) = inboxes.remove(&topic.name).expect("made above");
            let status = Shared::default();
            health.topics.insert(topic.name.clone(), status.clone());
            let models = catalog.models.values().filter(|m| m.topic == topic.name).cloned();
            let models: Vec<_> = models.collect();
            let outputs = outputs(topic, &models);
            let lasting = Lasting {
                catalog: whole.clone(),
                references: references.clone(),
                secret: config.pii_secret.clone().map(Secret),
                store: topic.lake.as_ref().and(store.clone()),
                worker: worker_settings(config, topic, &shares),
                keys_memory: shares.keys,
                writer: WriterSettings::default(),
                context: Context {
                    runtime: runtime.clone(),
                    kafka: kafka.clone(),
                    warehouse: warehouse.clone(),
                    owner: owner.clone(),
                    news: news.clone(),
                },
                status,
                targets: targets.as_ref().and_then(|t| t.get(&topic.name).cloned()),
            };
            let driver = Driver::new(Parts {
                topic: topic.clone(),
                models,
                known: known.remove(&topic.name).unwrap_or_default(),
                lasting,
                inbox,
                assigned: BTreeSet::new(),
                numbers: None,
            })?;
            let thread = std::thread::Builder::new()
                .name(format!("topic-{}", topic.name))
                .spawn(move || run(driver))
                .map_err(|e| Error::halt("start a topic's thread").because(e))?;
            let name = topic.name.clone();
            topics.push(RunningTopic { name, outputs, news, thread: Some(thread), outcome: None });
        }
        kafka.subscribe()?;
        let health = Arc::new(health);
        let leaving = Arc::new(AtomicBool::new(false));
        let group = serve_group(kafka.clone(), health.clone(), leaving.clone())?;
        Ok(Self { health, kafka, warehouse, store, targets, topics, group: Some(group), leaving })
    }

    /// All topics ended by themselves.
    pub fn is_over(&mut self) -> bool {
        for topic in &mut self.topics {
            if topic.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                topic.join();
            }
        }
        self.topics.iter().all(|topic| topic.outcome.is_some())
    }

    /// A topic that ended although nobody asked for it.
    pub fn has_stopped_topic(&mut self) -> bool {
        self.is_over();
        self.topics.iter().any(|topic| topic.outcome.is_some())
    }

    /// Everything that was in the topics at the start is committed, here or by another process, and files of it have
    /// their names. An error: partitions stand, or a snapshot waits for a person, and everything else is done: waiting is
    /// for nothing.
    pub async fn is_caught_up(&self) -> Result<bool> {
        let Some(targets) = &self.targets else { return Ok(false) };
        let topics = self.health.topics();
        if topics.len() < self.topics.len() || !topics.iter().all(|topic| topic.caught_up) {
            return Ok(false);
        }
        let waiting =
            topics.into_iter().flat_map(|topic| topic.gaps.into_iter().chain(topic.snapshots));
        let waiting: Vec<String> = waiting.collect();
        if !waiting.is_empty() {
            return Err(Error::halt(waiting.join("; ")));
        }
        let marks = self.warehouse.marks(None).await?;
        for topic in &self.topics {
            // Each output by name: one that was declared just now has no mark yet.
            let reached = |output: &Output, partition: Partition, target: Offset| {
                marks.iter().any(|m| {
                    m.topic == topic.name
                        && m.partition == partition
                        && m.output == *output
                        && m.mark.next >= target
                })
            };
            for (&partition, &target) in &targets[&topic.name] {
                let all = topic.outputs.iter().all(|output| reached(output, partition, target));
                if target > Offset(0) && !all {
                    return Ok(false);
                }
            }
        }
        // What a process that was killed owes is done by who takes its partitions: that need not be this one.
        if let Some(store) = &self.store {
            for topic in self.topics.iter().filter(|topic| topic.outputs.contains(&Output::Lake)) {
                owed::tidy(&topic.name, store, &self.warehouse).await?;
            }
        }
        Ok(true)
    }

    /// Commits what is held, leaves the group, and tells what went wrong; within `patience`.
    pub fn end(mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        for topic in &self.topics {
            let _ = topic.news.send(News::Drain);
        }
        while !self.is_over() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        for topic in self.topics.iter().filter(|t| t.outcome.is_none()) {
            tracing::warn!(topic = %topic.name, "not drained in time; the marks say where to go on");
        }
        self.kafka.leave();
        self.leaving.store(true, Ordering::Relaxed);
        if let Some(group) = self.group.take() {
            let _ = group.join();
        }
        let mut outcome = Ok(());
        for topic in &mut self.topics {
            if let Some(Err(error)) = topic.outcome.take() {
                outcome = Err(error);
            }
        }
        outcome
    }
}

impl RunningTopic {
    fn join(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.outcome = Some(thread.join().unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Error::halt(format!("topic {}: a defect in highwater: {text}", self.name)))
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

/// Serves the group until told to leave and left.
fn serve_group(
    kafka: Arc<Kafka>,
    health: Arc<Health>,
    leaving: Arc<AtomicBool>,
) -> Result<JoinHandle<()>> {
    let serve = move || {
        let mut gave_up = None;
        while !leaving.load(Ordering::Relaxed) {
            if let Err(error) = kafka.serve(SERVE_WAIT) {
                tracing::error!("{error}");
                gave_up = Some(error.to_string());
                std::thread::sleep(SERVE_WAIT);
            }
            *health.group.lock().unwrap_or_else(PoisonError::into_inner) =
                gave_up.clone().or_else(|| kafka.trouble());
        }
        // The revocation that follows from leaving.
        let _ = kafka.serve(SERVE_WAIT);
    };
    std::thread::Builder::new()
        .name("kafka-group".to_owned())
        .spawn(serve)
        .map_err(|e| Error::halt("start the group's thread").because(e))
}

pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "highwater".to_owned(), |name| name.trim().to_owned())
}
