//! ⇄ Kafka, the only file that names rdkafka.
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

use crate::{
    error::{Error, Result},
    record::{EventTime, Offset, Partition, RawRecord},
};
use rdkafka::{
    ClientConfig, ClientContext, Offset as KafkaOffset, TopicPartitionList, bindings as rd,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CStr, CString},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

/// How to reach Kafka.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    pub brokers: String,
    pub group: String,
    /// Any librdkafka property; wins over ours, except those that exactness rests on.
    pub properties: BTreeMap<String, String>,
    /// Bytes fetched ahead per topic.
    pub fetch_bytes: usize,
}

/// Properties that exactness rests on, and why they cannot be set.
const FIXED: [(&str, &str); 5] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_committed"),
    ("enable.partition.eof", "false"),
];

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
    listeners: HashMap<String, Listener>,
    /// Emptied before the client goes: librdkafka destroys queues only while it lives.
    queues: RwLock<HashMap<String, Queue>>,
    release_timeout: Duration,
    /// The process ends: what is not given up by now will not be.
    leaving: AtomicBool,
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

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "kafka", "{error}: {reason}");
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
    fn tell(&self, topic: &str, news: News) {
        if let Some(listener) = self.listeners.get(topic) {
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
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = queues.get(topic) else { return };
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
    topics: Vec<String>,
    trouble: Mutex<Trouble>,
}

/// What the client said of brokers or topics is asked again until it is well.
#[derive(Default)]
struct Trouble {
    suspected: bool,
    why: Option<String>,
    asked: Option<Instant>,
}

/// How often, and for how long, a broker in trouble is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

impl Kafka {
    /// Makes the client; connects and joins the group only in [`Kafka::subscribe`].
    pub fn new(
        settings: &KafkaSettings,
        listeners: HashMap<String, Listener>,
        release_timeout: Duration,
    ) -> Result<Arc<Self>> {
        for (key, _) in FIXED {
            if settings.properties.contains_key(key) {
                return Err(Error::config(format!(
                    "the Kafka property {key} is highwater's own: exactness rests on it"
                )));
            }
        }
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &settings.brokers)
            .set("group.id", &settings.group)
            .set("client.id", "highwater")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", "30000")
            // Partitions added later are taken up within this time.
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("allow.auto.create.topics", "false")
            .set("queued.max.messages.kbytes", (settings.fetch_bytes / 1024).max(1024).to_string())
            .set("queued.min.messages", "1000000")
            .set("fetch.message.max.bytes", "4194304")
            // The default of one second stalls a consumer whose queue was full.
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.wait.max.ms", "100")
            .set("socket.keepalive.enable", "true");
        for (key, value) in &settings.properties {
            config.set(key, value);
        }
        for (key, value) in FIXED {
            config.set(key, value);
        }
        config.set_log_level(RDKafkaLogLevel::Info);
        let topics: Vec<String> = listeners.keys().cloned().collect();
        let leaving = AtomicBool::new(false);
        let group = Group { listeners, queues: RwLock::default(), release_timeout, leaving };
        let consumer: BaseConsumer<Group> = config
            .create_with_context(group)
            .map_err(|e| Error::config("set up the Kafka consumer").because(e))?;
        // SAFETY: the client outlives the queues, see `Drop`.
        let queue = || Queue(unsafe { rd::rd_kafka_queue_new(consumer.client().native_ptr()) });
        let queues = topics.iter().map(|topic| (topic.clone(), queue())).collect();
        *consumer.context().queues.write().unwrap_or_else(PoisonError::into_inner) = queues;
        Ok(Arc::new(Self { consumer, topics, trouble: Mutex::default() }))
    }

    /// Joins the group.
    pub fn subscribe(&self) -> Result<()> {
        let names: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        self.consumer
            .subscribe(&names)
            .map_err(|e| Error::config("subscribe to the topics").because(e))
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
                if let Some(
                    RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::TopicAuthorizationFailed,
                ) = code
                {
                    self.lock_trouble().suspected = true;
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
        let ask = |topic: &String| self.partitions(topic, ASK_EVERY).err();
        trouble.why = self.topics.iter().find_map(ask).map(|error| error.to_string());
        trouble.suspected = trouble.why.is_some();
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

    pub fn reader(self: &Arc<Self>, topic: &str) -> TopicReader {
        TopicReader {
            kafka: self.clone(),
            topic: topic.to_owned(),
            reading: BTreeMap::new(),
            seeks: BTreeMap::new(),
        }
    }

    fn queue(&self, topic: &str) -> *mut rd::rd_kafka_queue_t {
        let queues = &self.consumer.context().queues;
        queues.read().unwrap_or_else(PoisonError::into_inner)[topic].0
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.consumer.context().queues.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Drains one topic's queue.
pub struct TopicReader {
    kafka: Arc<Kafka>,
    topic: String,
    /// Seeked since they were assigned, with the offset that comes next.
    reading: BTreeMap<Partition, Offset>,
    /// Not yet successful.
    seeks: BTreeMap<Partition, Offset>,
}

impl TopicReader {
    /// Reads the partition from `to` on. Done at the next poll, and again until it succeeds.
    pub fn seek(&mut self, partition: Partition, to: Offset) {
        self.reading.remove(&partition);
        self.seeks.insert(partition, to);
    }

    /// Drops what still comes of the partition, until it is seeked anew.
    pub fn stop(&mut self, partition: Partition) {
        self.reading.remove(&partition);
        self.seeks.remove(&partition);
    }

    /// At most `max` records, waiting no longer than `timeout` for that many.
    pub fn poll(&mut self, max: usize, timeout: Duration) -> Result<Fetched> {
        self.seek_what_is_due();
        let mut messages: Vec<*mut rd::rd_kafka_message_t> = Vec::with_capacity(max);
        // SAFETY: the queue lives as long as the client; at most `max` pointers are written.
        let count = unsafe {
            let count = rd::rd_kafka_consume_batch_queue(
                self.kafka.queue(&self.topic),
                timeout.as_millis() as i32,
                messages.as_mut_ptr(),
                max,
            );
            messages.set_len(count.max(0) as usize);
            count
        };
        let mut fetched = Fetched {
            messages: Vec::with_capacity(messages.len()),
            passed: Vec::new(),
            more: count == max as isize,
            _kafka: self.kafka.clone(),
        };
        let mut trouble = Ok(());
        let quiet = messages.is_empty();
        for message in messages {
            // SAFETY: a message that librdkafka gave us and that `Message` destroys once.
            let message = Message(unsafe { &mut *message });
            let partition = Partition(message.0.partition);
            match message.0.err {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
                    // Offsets ascend, whatever a rebalance makes the client fetch again.
                    if let Some(next) = self.reading.get_mut(&partition)
                        && message.0.offset >= next.0
                    {
                        *next = Offset::after(message.0.offset);
                        fetched.messages.push(message);
                    }
                }
                code => trouble = self.refused(partition, code, &message),
            }
        }
        if quiet {
            fetched.passed = self.pass_markers();
        }
        trouble.map(|()| fetched)
    }

    /// Partitions of which more than was delivered is read: what came was no record.
    fn pass_markers(&mut self) -> Vec<(Partition, Offset)> {
        let mut list = TopicPartitionList::new();
        for (partition, next) in &self.reading {
            if self.kafka.known_end(&self.topic, *partition).is_some_and(|end| end > *next) {
                list.add_partition(&self.topic, partition.0);
            }
        }
        if list.count() == 0 {
            return Vec::new();
        }
        // SAFETY: a live client and a list of our own, whose offsets are filled in.
        unsafe { rd::rd_kafka_position(self.kafka.consumer.client().native_ptr(), list.ptr()) };
        let mut passed = Vec::new();
        for element in list.elements() {
            let partition = Partition(element.partition());
            if let (KafkaOffset::Offset(position), Some(next)) =
                (element.offset(), self.reading.get_mut(&partition))
                && position > next.0
            {
                *next = Offset(position);
                passed.push((partition, *next));
            }
        }
        passed
    }

    /// An error in place of a record: passing, or the end of reading this partition.
    fn refused(&self, partition: Partition, code: RDKafkaRespErr, message: &Message) -> Result<()> {
        let code: RDKafkaErrorCode = code.into();
        let place = format!("{}/{}@{}", self.topic, partition.0, message.0.offset);
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange
                if self.reading.contains_key(&partition) =>
            {
                Err(Error::halt(format!(
                    "{place} is not in Kafka any more (or not yet): retention has passed the mark, or the topic was made anew ({})",
                    message.text()
                )))
            }
            RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::TopicAuthorizationFailed => {
                Err(Error::halt(format!("Kafka cannot deliver {place}: {code}")))
            }
            _ => {
                tracing::warn!(target: "kafka", "{place}: {code}: {}", message.text());
                Ok(())
            }
        }
    }

    fn seek_what_is_due(&mut self) {
        if self.seeks.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        for (partition, to) in &self.seeks {
            let _ = list.add_partition_offset(&self.topic, partition.0, KafkaOffset::Offset(to.0));
        }
        // Right after an assignment the partition may not be started yet; then it is tried again.
        match self.kafka.consumer.seek_partitions(list, Duration::from_secs(5)) {
            Ok(answers) => {
                for answer in answers.elements() {
                    let partition = Partition(answer.partition());
                    match answer.error() {
                        Ok(()) => {
                            if let Some(to) = self.seeks.remove(&partition) {
                                self.reading.insert(partition, to);
                            }
                        }
                        Err(error) => {
                            tracing::debug!(
                                topic = self.topic,
                                partition = partition.0,
                                "seek: {error}"
                            );
                        }
                    }
                }
            }
            Err(error) => tracing::debug!(topic = self.topic, "seek: {error}"),
        }
    }
}

/// A message of librdkafka's, destroyed with this.
struct Message(&'static mut rd::rd_kafka_message_t);

// SAFETY: a message belongs to whoever holds it; librdkafka counts its buffers atomically.
unsafe impl Send for Message {}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: owned, destroyed once.
        unsafe { rd::rd_kafka_message_destroy(self.0) }
    }
}

impl Message {
    fn text(&self) -> String {
        // SAFETY: for a message with an error the payload is its text; librdkafka reads it.
        unsafe {
            let text = rd::rd_kafka_message_errstr(&*self.0);
            if text.is_null() {
                return String::new();
            }
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }

    fn record(&self) -> RawRecord<'_> {
        let m = &*self.0;
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: payload and key are librdkafka's for as long as the message lives.
        unsafe {
            let millis = rd::rd_kafka_message_timestamp(m, &mut kind);
            RawRecord {
                partition: Partition(m.partition),
                offset: m.offset,
                timestamp: EventTime(millis.max(0) * 1000),
                key: slice(m.key.cast(), m.key_len),
                value: slice(m.payload.cast(), m.len),
            }
        }
    }
}

/// None for a null pointer; an empty value is not a null one.
unsafe fn slice<'a>(data: *const u8, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller vouches for data and len.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data, len) })
}

/// One fetch; keeps librdkafka's buffers until dropped.
pub struct Fetched {
    messages: Vec<Message>,
    /// Read up to here without a record: compacted ones, markers of transactions.
    pub passed: Vec<(Partition, Offset)>,
    /// As many as asked for: there is more.
    pub more: bool,
    /// Buffers belong to the client.
    _kafka: Arc<Kafka>,
}

impl Fetched {
    pub fn records(&self) -> Vec<RawRecord<'_>> {
        self.messages.iter().map(Message::record).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.passed.is_empty()
    }

    /// Headers of the record with this index in `records`.
    pub fn headers(&self, record: usize) -> Vec<(String, Option<bytes::Bytes>)> {
        let mut headers = Vec::new();
        let mut list = std::ptr::null_mut();
        let message: *const rd::rd_kafka_message_t = &*self.messages[record].0;
        // SAFETY: headers and their values live as long as the message.
        unsafe {
            if rd::rd_kafka_message_headers(message, &mut list)
                != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                return headers;
            }
            let (mut name, mut value, mut len) = (std::ptr::null(), std::ptr::null(), 0usize);
            while rd::rd_kafka_header_get_all(list, headers.len(), &mut name, &mut value, &mut len)
                == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                let key = CStr::from_ptr(name).to_string_lossy().into_owned();
                let value = slice(value.cast(), len).map(bytes::Bytes::copy_from_slice);
                headers.push((key, value));
            }
        }
        headers
    }
}
