//! ⇄ One topic's records, as librdkafka holds them: a batch at a time, uncopied.
//!
//! Owns: seeking, what may come out (S-1), librdkafka's messages until they are dropped, holding
//! them back until the schemas that they refer to are known.
//! Does not own: where to seek to, when to poll (`pipeline`).

use super::{Kafka, KafkaOffset, refusal};
use crate::{
    catalog::Topic,
    error::{Error, Kind, Result},
    record::{EventTime, Offset, Partition, RawRecord, schemas::Schemas},
    source::registry::{Inquiry, referred},
};
use rdkafka::{
    TopicPartitionList, bindings as rd, consumer::Consumer, error::RDKafkaErrorCode,
    types::RDKafkaRespErr,
};
use std::{collections::BTreeMap, ffi::CStr, sync::Arc, time::Duration};

/// Of one batch, as far as the last one tells: rows, groups and files are made of it before the next comes.
const BATCH_BYTES: usize = 8 << 20;

/// Drains one topic's queue.
pub struct TopicReader {
    kafka: Arc<Kafka>,
    topic: String,
    declared: Arc<Topic>,
    /// Seeked since they were assigned, with the offset that comes next.
    reading: BTreeMap<Partition, Offset>,
    /// Not yet successful.
    seeks: BTreeMap<Partition, Offset>,
    /// Of a topic whose records refer to schemas.
    inquiry: Option<Inquiry>,
    /// Fetched, and waiting for schemas.
    held: Option<Fetched>,
    /// Of a record, in the last batch.
    bytes_per_record: usize,
}

impl TopicReader {
    pub(super) fn new(kafka: Arc<Kafka>, declared: &Arc<Topic>) -> Result<Self> {
        Ok(Self {
            kafka,
            topic: declared.kafka_topic.clone(),
            declared: declared.clone(),
            reading: BTreeMap::new(),
            seeks: BTreeMap::new(),
            inquiry: Inquiry::start(declared)?,
            held: None,
            bytes_per_record: 0,
        })
    }

    /// What is known of the schemas that records refer to: before a record comes out, all it needs.
    pub fn schemas(&self) -> Arc<Schemas> {
        self.inquiry.as_ref().map(Inquiry::schemas).unwrap_or_default()
    }

    /// Reads the partition from `to` on. Done at the next poll, and again until it succeeds.
    pub fn seek(&mut self, partition: Partition, to: Offset) {
        self.forget(partition);
        self.seeks.insert(partition, to);
    }

    /// Drops what still comes of the partition, until it is seeked anew.
    pub fn stop(&mut self, partition: Partition) {
        self.forget(partition);
        self.seeks.remove(&partition);
    }

    fn forget(&mut self, partition: Partition) {
        self.reading.remove(&partition);
        if let Some(held) = &mut self.held {
            held.messages.retain(|message| message.0.partition != partition.0);
            held.gone.retain(|gone| *gone != partition);
        }
    }

    /// At most `max` records, or about as many as have [`BATCH_BYTES`], waiting no longer than `timeout` for that many.
    pub fn poll(&mut self, max: usize, timeout: Duration) -> Result<Fetched> {
        self.seek_what_is_due();
        let fetched = match self.held.take() {
            Some(held) => held,
            None => self.fetch(max, timeout)?,
        };
        let Some(inquiry) = &mut self.inquiry else { return Ok(fetched) };
        if inquiry.is_done(&referred(&self.declared, &fetched.records()), timeout) {
            return Ok(fetched);
        }
        let trouble = inquiry.trouble();
        self.held = Some(fetched);
        Ok(Fetched {
            messages: Vec::new(),
            passed: Vec::new(),
            trouble,
            gone: Vec::new(),
            more: true,
            _kafka: self.kafka.clone(),
        })
    }

    fn fetch(&mut self, max: usize, timeout: Duration) -> Result<Fetched> {
        let max = (BATCH_BYTES / self.bytes_per_record.max(1)).clamp(1, max);
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
            trouble: None,
            gone: Vec::new(),
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
                code => match self.refused(partition, code, &message) {
                    Ok(Refused::Waits(why)) => fetched.trouble = Some(why),
                    Ok(Refused::Gone) => {
                        self.reading.remove(&partition);
                        fetched.gone.push(partition);
                        if let Err(error) = self.kafka.restart(&self.topic, partition) {
                            trouble = Err(error);
                        }
                    }
                    Err(error) => trouble = Err(error),
                },
            }
        }
        if quiet {
            fetched.passed = self.pass_markers();
        } else {
            self.bytes_per_record = fetched.bytes() / fetched.messages.len().max(1);
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

    /// An error in place of a record: what it says, or the end of reading this topic.
    fn refused(
        &self,
        partition: Partition,
        code: RDKafkaRespErr,
        message: &Message,
    ) -> Result<Refused> {
        let code: RDKafkaErrorCode = code.into();
        let verdict = refusal::of(code);
        let place = format!("{}/{}@{}", self.topic, partition.0, message.0.offset);
        let remedy = verdict.remedy.map(|remedy| format!(": {remedy}")).unwrap_or_default();
        let why = format!("Kafka does not deliver {place}{remedy} ({code}: {})", message.text());
        match verdict.kind {
            // Of before a seek: what lies at the mark is another matter.
            _ if refusal::is_gone(code) && self.reading.contains_key(&partition) => {
                tracing::warn!(target: "kafka", "{why}");
                Ok(Refused::Gone)
            }
            Kind::Halt if self.reading.contains_key(&partition) => Err(Error::halt(why)),
            Kind::Halt | Kind::Retry | Kind::Unknown | Kind::Fenced | Kind::Config => {
                tracing::warn!(target: "kafka", "{why}");
                Ok(Refused::Waits(why))
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

/// What an error in place of a record says.
enum Refused {
    /// It passes; why nothing comes.
    Waits(String),
    /// Kafka has not what comes next.
    Gone,
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
    /// Kafka has not what comes next: not read any more until they are seeked.
    pub gone: Vec<Partition>,
    /// Why some partition gives nothing, where it said so.
    pub trouble: Option<String>,
    /// As many as asked for: there is more.
    pub more: bool,
    /// Buffers belong to the client.
    _kafka: Arc<Kafka>,
}

impl Fetched {
    pub fn records(&self) -> Vec<RawRecord<'_>> {
        self.messages.iter().map(Message::record).collect()
    }

    /// Of keys and values.
    fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.0.key_len + message.0.len).sum()
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
