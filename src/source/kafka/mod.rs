//! ⇄ Kafka: the only folder that names rdkafka (beside the demo's broker).
//!
//! One consumer for all topics. Its own queue carries the group's news and is polled by one
//! thread ([`Kafka::serve`]); each topic's partitions are forwarded to a queue of that topic, which
//! its pipeline drains in batches of librdkafka's own messages, uncopied.
//!
//! SUBTLE: a partition is assigned at the log's end and then seeked to its mark. Whatever was
//! fetched before the seek stands behind librdkafka's version barrier and is dropped there; and
//! until the first seek succeeds [`TopicReader`] itself drops what comes. Without both, a record
//! from beyond the mark would look like a gap of compacted ones. Pausing instead was refused:
//! resuming restores the position of before the pause, not that of the seek.
//!
//! Events of a partition's end are refused too: taken in a batch, librdkafka 2.12 counts one as a
//! record and goes on behind it after the next rebalance, which loses a record. That nothing but
//! transaction markers is left before the end is asked of the consumer's position instead.

mod client;
mod lookup;
mod producer;
mod reader;
mod refusal;
mod topic_id;

pub use lookup::Lookup;
pub use producer::{Producer, Sending};
pub use reader::{Fetched, TopicReader};

use crate::{
    catalog::Topic,
    error::{Error, Result},
    record::{Offset, Partition},
};
use rdkafka::{
    ClientContext, Offset as KafkaOffset, Statistics, TopicPartitionList, bindings as rd,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

/// How to reach Kafka.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    pub brokers: String,
    /// False: the broker answers no question for ids, so that none is asked.
    pub topic_ids: bool,
    pub group: String,
    /// Any librdkafka property; wins over ours, except those that exactness rests on.
    pub properties: BTreeMap<String, String>,
    /// Bytes fetched ahead per topic.
    pub fetch_bytes: usize,
}

/// What the group says of a topic's partitions.
#[derive(Debug)]
pub enum News {
    Assigned(Vec<Partition>),
    /// To be answered when they are given up; the group waits for it.
    Revoked(Vec<Partition>, SyncSender<()>),
    /// Given to somebody else already.
    Lost(Vec<Partition>),
}

pub type Listener = Box<dyn Fn(News) + Send + Sync>;

/// The consumer's context: passes the group's news on to the topics.
struct Group {
    /// Emptied before the client goes: librdkafka destroys queues only while it lives.
    topics: RwLock<BTreeMap<String, Listening>>,
    release_timeout: Duration,
    /// The process ends: what is not given up by now will not be.
    leaving: AtomicBool,
    /// What a person could do, by what the client said since all was well: it says so with each attempt.
    said: Mutex<BTreeSet<&'static str>>,
}

/// A topic that somebody listens to, or did.
struct Listening {
    listener: Option<Listener>,
    queue: Queue,
    /// What its listeners were told of, so that the next one can be.
    assigned: BTreeSet<Partition>,
}

/// Owned handle of a librdkafka queue.
struct Queue(*mut rd::rd_kafka_queue_t);

// SAFETY: librdkafka's queues lock for themselves.
unsafe impl Send for Queue {}
unsafe impl Sync for Queue {}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the handle was made by librdkafka for us and is destroyed once.
        unsafe { rd::rd_kafka_queue_destroy(self.0) }
    }
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::error!(target: "kafka", fac, "{message}"),
            RDKafkaLogLevel::Warning => tracing::warn!(target: "kafka", fac, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "kafka", fac, "{message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "kafka", fac, "{message}"),
        }
    }

    /// Librdkafka's own count of what it has fetched ahead.
    fn stats(&self, statistics: Statistics) {
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        let bytes: f64 = partitions.map(|p| p.fetchq_size as f64).sum();
        metrics::gauge!("highwater_memory_bytes", "component" => "kafka").set(bytes);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let remedy = error.rdkafka_error_code().and_then(|code| refusal::of(code).remedy);
        match remedy.is_none_or(|remedy| self.said().insert(remedy)) {
            true => tracing::warn!(target: "kafka", "{error}: {reason}"),
            false => tracing::debug!(target: "kafka", "{error}: {reason}"),
        }
    }
}

impl ConsumerContext for Group {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let by_topic = by_topic(list);
        if err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            tracing::info!(partitions = ?by_topic, "assigned");
            let _ = list.set_all_offsets(KafkaOffset::End);
            let done =
                if cooperative { consumer.incremental_assign(list) } else { consumer.assign(list) };
            if let Err(error) = done {
                tracing::error!("cannot take an assignment: {error}");
            }
            for (topic, partitions) in by_topic {
                self.forward(consumer, &topic, &partitions);
                self.tell(&topic, News::Assigned(partitions));
            }
            return;
        }
        let lost = consumer.assignment_lost();
        tracing::info!(partitions = ?by_topic, lost, "revoked");
        if lost {
            for (topic, partitions) in by_topic {
                self.tell(&topic, News::Lost(partitions));
            }
        } else {
            self.release(by_topic);
        }
        let done =
            if cooperative { consumer.incremental_unassign(list) } else { consumer.unassign() };
        if let Err(error) = done {
            tracing::error!("cannot give up an assignment: {error}");
        }
    }
}

impl Group {
    fn said(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, topic: &str, news: News) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let Some(listening) = topics.get_mut(topic) else { return };
        match &news {
            News::Assigned(partitions) => listening.assigned.extend(partitions),
            News::Revoked(partitions, _) | News::Lost(partitions) => {
                listening.assigned.retain(|partition| !partitions.contains(partition));
            }
        }
        if let Some(listener) = &listening.listener {
            listener(news);
        }
    }

    /// Waits until the topics gave up what is revoked, or the time is over: then the partitions
    /// count as lost, and the epoch fences what is still under way.
    fn release(&self, by_topic: BTreeMap<String, Vec<Partition>>) {
        let patience = match self.leaving.load(Ordering::Relaxed) {
            true => Duration::ZERO,
            false => self.release_timeout,
        };
        let deadline = Instant::now() + patience;
        let mut waiting = Vec::new();
        for (topic, partitions) in by_topic {
            let (done, answer) = std::sync::mpsc::sync_channel(1);
            self.tell(&topic, News::Revoked(partitions.clone(), done));
            waiting.push((topic, partitions, answer));
        }
        for (topic, partitions, answer) in waiting {
            let left = deadline.saturating_duration_since(Instant::now());
            // A topic that ended holds nothing: its end of the channel is gone.
            if answer.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!(topic, "not given up in time, counted as lost");
                self.tell(&topic, News::Lost(partitions));
            }
        }
    }

    /// Sends what is fetched of the partitions to the topic's queue.
    fn forward(&self, consumer: &BaseConsumer<Self>, topic: &str, partitions: &[Partition]) {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let Some(Listening { queue, .. }) = topics.get(topic) else { return };
        let Ok(name) = CString::new(topic) else { return };
        for partition in partitions {
            // SAFETY: the client lives while its callback runs; a null queue is not used.
            unsafe {
                let client = consumer.client().native_ptr();
                let source = rd::rd_kafka_queue_get_partition(client, name.as_ptr(), partition.0);
                if !source.is_null() {
                    rd::rd_kafka_queue_forward(source, queue.0);
                    rd::rd_kafka_queue_destroy(source);
                }
            }
        }
    }
}

fn by_topic(list: &TopicPartitionList) -> BTreeMap<String, Vec<Partition>> {
    let mut topics: BTreeMap<String, Vec<Partition>> = BTreeMap::new();
    for element in list.elements() {
        topics.entry(element.topic().to_owned()).or_default().push(Partition(element.partition()));
    }
    topics
}

/// The consumer of all topics.
pub struct Kafka {
    consumer: BaseConsumer<Group>,
    settings: KafkaSettings,
    trouble: Mutex<Trouble>,
}

/// What the client said of brokers or topics is asked again until it is well.
#[derive(Default)]
struct Trouble {
    suspected: bool,
    /// What the client said last that a person could mend.
    remedy: Option<&'static str>,
    why: Option<String>,
    asked: Option<Instant>,
}

/// How often, and for how long, a broker in trouble is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

impl Kafka {
    /// Makes the client; connects and joins the group only in [`Kafka::subscribe`].
    pub fn new(settings: &KafkaSettings, release_timeout: Duration) -> Result<Arc<Self>> {
        let config = client::consumer(settings)?;
        let (leaving, said) = (AtomicBool::new(false), Mutex::default());
        let group = Group { topics: RwLock::default(), release_timeout, leaving, said };
        let consumer: BaseConsumer<Group> =
            config.create_with_context(group).map_err(client::refused)?;
        Ok(Arc::new(Self { consumer, settings: settings.clone(), trouble: Mutex::default() }))
    }

    fn topics(&self) -> RwLockReadGuard<'_, BTreeMap<String, Listening>> {
        self.consumer.context().topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has news of the topic told to this listener from now on; and what the one before it was told of and has
    /// still. Of a new topic there is none before [`Kafka::subscribe`].
    pub fn listen(&self, topic: &str, listener: Listener) -> Vec<Partition> {
        let topics = &self.consumer.context().topics;
        let mut topics = topics.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(listening) = topics.get_mut(topic) {
            listening.listener = Some(listener);
            return listening.assigned.iter().copied().collect();
        }
        // SAFETY: the client outlives the queues, see `Drop`.
        let queue = Queue(unsafe { rd::rd_kafka_queue_new(self.consumer.client().native_ptr()) });
        let listening = Listening { listener: Some(listener), queue, assigned: BTreeSet::new() };
        topics.insert(topic.to_owned(), listening);
        Vec::new()
    }

    /// Nobody reads the topic any more; to be followed by [`Kafka::subscribe`]. What is assigned of it is known until it
    /// is taken away, for who listens again before.
    pub fn forget(&self, topic: &str) {
        let topics = &self.consumer.context().topics;
        let mut topics = topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.entry(topic.to_owned()).and_modify(|listening| listening.listener = None);
    }

    fn listened(&self) -> Vec<String> {
        let topics = self.topics();
        let listened = topics.iter().filter(|(_, listening)| listening.listener.is_some());
        listened.map(|(name, _)| name.clone()).collect()
    }

    pub fn settings(&self) -> &KafkaSettings {
        &self.settings
    }

    /// Joins the group, or tells it that other topics are listened to now.
    pub fn subscribe(&self) -> Result<()> {
        let names = self.listened();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.consumer
            .subscribe(&names)
            .map_err(|e| Error::config("subscribe to the topics").because(e))
    }

    /// Reads these partitions outside of the group, instead of [`Self::subscribe`]: nobody takes them away,
    /// and nobody else is kept from them. `serve` is to be called meanwhile. From these offsets, since an
    /// end that is still being asked for would come after the first seek and undo it.
    pub fn assign(&self, topic: &str, partitions: &[(Partition, Offset)]) -> Result<()> {
        let context = || format!("read {topic} outside of the group");
        let mut list = TopicPartitionList::new();
        for (partition, from) in partitions {
            list.add_partition_offset(topic, partition.0, KafkaOffset::Offset(from.0))
                .map_err(|e| Error::halt(context()).because(e))?;
        }
        self.consumer.assign(&list).map_err(|e| Error::halt(context()).because(e))?;
        let partitions: Vec<Partition> = partitions.iter().map(|(p, _)| *p).collect();
        self.consumer.context().forward(&self.consumer, topic, &partitions);
        Ok(())
    }

    /// Serves the group's news once, for at most `timeout`. To be called without pause by one
    /// thread; an error says why the client can not go on.
    pub fn serve(&self, timeout: Duration) -> Result<()> {
        match self.consumer.poll(timeout) {
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                return Err(Error::halt(format!("the Kafka client gave up: {code}")));
            }
            // Told by `ClientContext::error` already; the client goes on by itself.
            Some(Err(error)) => {
                tracing::debug!(target: "kafka", "{error}");
                let code = error.rdkafka_error_code();
                let remedy = code.and_then(|code| refusal::of(code).remedy);
                if let Some(remedy) = remedy {
                    let mut trouble = self.lock_trouble();
                    trouble.suspected = true;
                    // All are down, too, where none lets us in.
                    if code != Some(RDKafkaErrorCode::AllBrokersDown) || trouble.remedy.is_none() {
                        trouble.remedy = Some(remedy);
                    }
                }
            }
            Some(Ok(_)) | None => {}
        }
        self.ask_after_trouble();
        Ok(())
    }

    /// Why nothing can be read: no broker answers, or a topic is not there. As of a second ago.
    pub fn trouble(&self) -> Option<String> {
        self.lock_trouble().why.clone()
    }

    /// The client tells when brokers go, and not when they come back.
    fn ask_after_trouble(&self) {
        let mut trouble = self.lock_trouble();
        if !trouble.suspected || trouble.asked.is_some_and(|at| at.elapsed() < ASK_EVERY) {
            return;
        }
        let names = self.listened();
        let ask = |topic: &String| self.partitions(topic, ASK_EVERY).err();
        let why = names.iter().find_map(ask).map(|error| error.to_string());
        trouble.why = match (why, trouble.remedy) {
            (Some(why), Some(remedy)) if !why.contains(remedy) => Some(format!("{why}; {remedy}")),
            (why, _) => why,
        };
        trouble.suspected = trouble.why.is_some();
        if !trouble.suspected {
            trouble.remedy = None;
            self.consumer.context().said().clear();
            tracing::info!(target: "kafka", "all topics are answered for again");
        }
        trouble.asked = Some(Instant::now());
    }

    fn lock_trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the group, with whatever is still held: to be called when the topics have had their
    /// time. The partitions are revoked, so `serve` must go on meanwhile.
    pub fn leave(&self) {
        self.consumer.context().leaving.store(true, Ordering::Relaxed);
        self.consumer.unsubscribe();
    }

    pub fn partitions(&self, topic: &str, timeout: Duration) -> Result<Vec<Partition>> {
        let metadata = self.consumer.fetch_metadata(Some(topic), timeout).map_err(|e| {
            Error::retry(format!("ask Kafka for the partitions of {topic}")).because(e)
        })?;
        let found = metadata.topics().iter().find(|t| t.name() == topic);
        match found {
            Some(t) if t.error().is_none() => {
                let mut partitions: Vec<_> =
                    t.partitions().iter().map(|p| Partition(p.id())).collect();
                partitions.sort();
                Ok(partitions)
            }
            Some(_) | None => Err(Error::retry(format!("the topic {topic} is not there (yet)"))),
        }
    }

    /// In place of a reset librdkafka ends the fetching of a partition, and does not seek it any more:
    /// it is given up and taken up again, at the end as ever. One that the group took away
    /// meanwhile is left alone.
    pub(super) fn restart(&self, topic: &str, partition: Partition) -> Result<()> {
        let context = || format!("take up {topic}/{} again", partition.0);
        if !matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative) {
            return Err(Error::halt(format!(
                "{topic}/{}: Kafka has not the offset that comes next. Restart highwater to see what is gone; \
                 with cooperative-sticky assignment it would have gone on by itself",
                partition.0
            )));
        }
        let mut list = TopicPartitionList::new();
        let added = list.add_partition_offset(topic, partition.0, KafkaOffset::End);
        added.map_err(|e| Error::halt(context()).because(e))?;
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            tracing::debug!(topic, partition = partition.0, "not given up: {error}");
            return Ok(());
        }
        let taken = self.consumer.incremental_assign(&list);
        taken.map_err(|e| Error::halt(context()).because(e))?;
        self.consumer.context().forward(&self.consumer, topic, &[partition]);
        Ok(())
    }

    /// Oldest offset and end of a partition, asked of its leader.
    pub fn log(
        &self,
        topic: &str,
        partition: Partition,
        timeout: Duration,
    ) -> Result<(Offset, Offset)> {
        let asked = self.consumer.fetch_watermarks(topic, partition.0, timeout);
        let context = || format!("ask Kafka for the offsets of {topic}/{}", partition.0);
        let (low, high) = asked.map_err(|e| Error::retry(context()).because(e))?;
        Ok((Offset(low), Offset(high)))
    }

    /// Ends as a reader of committed records has them (the last stable offset), asked of the leaders
    /// now. A partition whose leader does not answer within `timeout` is not there; it keeps none of
    /// the others waiting for longer.
    pub fn ends(
        &self,
        topic: &str,
        partitions: &[Partition],
        timeout: Duration,
    ) -> Vec<(Partition, Offset)> {
        match self.offsets_at_once(topic, partitions, KafkaOffset::End, timeout) {
            Ok(ends) => ends,
            // All or none: so one by one.
            Err(error) if partitions.len() > 1 => {
                tracing::debug!(topic, "ends of logs: {error}");
                let end = KafkaOffset::End;
                let one = |p: &Partition| self.offsets_at_once(topic, &[*p], end, ASK_EVERY);
                partitions.iter().filter_map(|p| one(p).ok()).flatten().collect()
            }
            Err(error) => {
                tracing::debug!(topic, "ends of logs: {error}");
                Vec::new()
            }
        }
    }

    /// Where the logs begin, or end, in one request per leader.
    fn offsets_at_once(
        &self,
        topic: &str,
        partitions: &[Partition],
        which: KafkaOffset,
        timeout: Duration,
    ) -> Result<Vec<(Partition, Offset)>, KafkaError> {
        // The request behind takes Kafka's numbers for beginning and end in the place of a time.
        let mut wanted = TopicPartitionList::new();
        for partition in partitions {
            wanted.add_partition_offset(topic, partition.0, which)?;
        }
        let told = self.consumer.offsets_for_times(wanted, timeout)?;
        let offset = |element: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match (
            element.error(),
            element.offset(),
        ) {
            (Ok(()), KafkaOffset::Offset(offset)) => {
                Some((Partition(element.partition()), Offset(offset)))
            }
            _ => None,
        };
        Ok(told.elements().into_iter().filter_map(offset).collect())
    }

    /// The end as of the last fetch, without asking anybody; None before the first.
    pub fn known_end(&self, topic: &str, partition: Partition) -> Option<Offset> {
        let name = CString::new(topic).ok()?;
        let (mut low, mut high) = (-1i64, -1i64);
        // SAFETY: plain out-parameters of a live client.
        let code = unsafe {
            rd::rd_kafka_get_watermark_offsets(
                self.consumer.client().native_ptr(),
                name.as_ptr(),
                partition.0,
                &mut low,
                &mut high,
            )
        };
        let known = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0;
        known.then_some(Offset(high))
    }

    /// For lag tools only (S-2): a failure is not worth more than a line.
    pub fn acknowledge(&self, topic: &str, offsets: &[(Partition, Offset)]) {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let _ = list.add_partition_offset(topic, partition.0, KafkaOffset::Offset(offset.0));
        }
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(topic, "group offsets not written: {error}");
        }
    }

    pub fn reader(self: &Arc<Self>, topic: &Arc<Topic>) -> Result<TopicReader> {
        TopicReader::new(self.clone(), topic)
    }

    fn queue(&self, topic: &str) -> *mut rd::rd_kafka_queue_t {
        self.topics()[topic].queue.0
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.consumer.context().topics.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
