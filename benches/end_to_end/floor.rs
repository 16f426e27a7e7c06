//! The floor: each stage alone, on one thread, over the same taps, in CPU-seconds.
//!
//! Consumption counts librdkafka's own threads too (they receive and decompress: nobody can do
//! without), so it is of the whole process, in which nothing else runs. The other stages count
//! the thread that does them. The taps of these come from memory, in batches of one partition.

use crate::{workload, world::Topic};
use highwater::{
    catalog::{Catalog, Model, Topic as Declared},
    compute::Tables,
    decode::Decoder,
    lake::{
        layout::{FileName, Origin},
        writer::{LakeWriter, WriterSettings},
    },
    record::{Epoch, EventTime, Fates, Mark, Offset, Partition, RawRecord},
};
use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList, bindings as rd,
    consumer::{BaseConsumer, Consumer},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// As many as the pipeline takes at a time.
const BATCH: usize = 8192;
const PATIENCE: Duration = Duration::from_secs(60);

/// CPU-seconds for all events.
pub struct Floor {
    pub consume: f64,
    pub decode: f64,
    pub aggregate: f64,
    pub encode: f64,
}

impl Floor {
    pub fn measure(topic: &Topic<'_>, catalog: &Catalog) -> Self {
        let consume = consume(topic);
        let declared = catalog.topics.values().next().expect("one topic");
        let models: Vec<Arc<Model>> = catalog.models.values().cloned().collect();
        let partitions = topic.shape.partitions;
        let mut stages = Stages::new(declared, &models, partitions);
        let mut waiting: Vec<Batch> = (0..partitions).map(|_| Batch::default()).collect();
        for tap in workload::taps(topic.shape) {
            let batch = &mut waiting[tap.partition];
            batch.add(&tap);
            if batch.ends.len() == BATCH {
                stages.work(tap.partition, batch);
            }
        }
        for (partition, batch) in waiting.iter_mut().enumerate() {
            stages.work(partition, batch);
        }
        stages.finish();
        let Stages { decode, aggregate, encode, .. } = stages;
        Self { consume, decode, aggregate, encode }
    }

    pub fn sum(&self) -> f64 {
        self.consume + self.decode + self.aggregate + self.encode
    }
}

/// Values of one partition, in one buffer as they would lie in librdkafka's.
#[derive(Default)]
struct Batch {
    text: Vec<u8>,
    ends: Vec<usize>,
    arrivals_ms: Vec<i64>,
    /// Offset of the first.
    base: i64,
}

impl Batch {
    fn add(&mut self, tap: &workload::Tap) {
        tap.json(&mut self.text);
        self.ends.push(self.text.len());
        self.arrivals_ms.push(tap.arrival_ms);
    }

    fn clear(&mut self) {
        self.base += self.ends.len() as i64;
        self.text.clear();
        self.ends.clear();
        self.arrivals_ms.clear();
    }

    fn records(&self, partition: usize) -> Vec<RawRecord<'_>> {
        let record = |index: usize| {
            let start = if index == 0 { 0 } else { self.ends[index - 1] };
            RawRecord {
                partition: Partition(partition as i32),
                offset: self.base + index as i64,
                timestamp: EventTime(self.arrivals_ms[index] * 1000),
                key: None,
                value: Some(&self.text[start..self.ends[index]]),
            }
        };
        (0..self.ends.len()).map(record).collect()
    }
}

struct Stages {
    topic: Arc<Declared>,
    decoder: Decoder,
    tables: Tables,
    writer: Option<LakeWriter>,
    cuts: i64,
    decode: f64,
    aggregate: f64,
    encode: f64,
}

impl Stages {
    fn new(topic: &Arc<Declared>, models: &[Arc<Model>], partitions: usize) -> Self {
        let mut tables = Tables::new(topic, models).expect("the model plans");
        let mark = Mark {
            first: Offset(0),
            next: Offset(0),
            epoch: Epoch(1),
            event_time_max: None,
            fates: Fates::default(),
            sequence: 0,
        };
        let outputs = tables.outputs();
        for partition in 0..partitions as i32 {
            let marks = outputs.iter().map(|o| (o.clone(), Partition(partition), mark));
            tables.adopt(&marks.collect::<Vec<_>>(), &[]);
        }
        Self {
            topic: topic.clone(),
            decoder: Decoder::new(topic.clone(), None),
            tables,
            writer: None,
            cuts: 0,
            decode: 0.0,
            aggregate: 0.0,
            encode: 0.0,
        }
    }

    fn work(&mut self, partition: usize, batch: &mut Batch) {
        let records = batch.records(partition);
        let start = thread_cpu();
        let decoded = self.decoder.decode(&records);
        let after_decode = thread_cpu();
        let from = [(Partition(partition as i32), Offset(0))];
        let refusals =
            self.tables.admit(&records, &decoded, &from, &[]).expect("taps fit the model");
        let after_aggregate = thread_cpu();
        assert!(decoded.rejects.is_empty() && refusals.is_empty(), "every tap is good");
        self.encode(&decoded.rows, &decoded.event_times);
        self.decode += after_decode - start;
        self.aggregate += after_aggregate - after_decode;
        self.encode += thread_cpu() - after_aggregate;
        batch.clear();
    }

    fn encode(&mut self, rows: &arrow::array::RecordBatch, event_times: &[EventTime]) {
        if rows.num_rows() == 0 {
            return;
        }
        let writer = self.writer.get_or_insert_with(|| {
            self.cuts += 1;
            let (partition, from, epoch) = (Partition(0), Offset(0), Epoch(1));
            let name =
                FileName { sequence: self.cuts, partition, from, epoch, origin: Origin::Cut };
            LakeWriter::new(self.topic.clone(), WriterSettings::default(), name)
        });
        writer.append(rows, event_times).expect("rows of the topic");
        std::hint::black_box(writer.take_parts());
        if writer.should_end() {
            let writer = self.writer.take().expect("it is there");
            std::hint::black_box(writer.finish().expect("rows of the topic"));
        }
    }

    fn finish(&mut self) {
        let start = thread_cpu();
        let sealed = self.tables.seal().expect("the model ends");
        std::hint::black_box(&sealed.tables);
        self.aggregate += thread_cpu() - start;
        let start = thread_cpu();
        if let Some(writer) = self.writer.take() {
            std::hint::black_box(writer.finish().expect("rows of the topic"));
        }
        self.encode += thread_cpu() - start;
    }
}

/// Reads the whole topic by librdkafka's batch queue, set as `source::kafka` sets it, and looks at
/// nothing.
fn consume(topic: &Topic<'_>) -> f64 {
    let start = cpu(libc::RUSAGE_SELF);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", topic.services.kafka())
        .set("group.id", "highwater-bench")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.min.messages", "50000")
        .set("fetch.message.max.bytes", "1048576")
        .create()
        .expect("consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..topic.shape.partitions as i32 {
        list.add_partition_offset(&topic.name, partition, KafkaOffset::Beginning).expect("offset");
    }
    consumer.assign(&list).expect("assign");
    let mut messages: Vec<*mut rd::rd_kafka_message_t> = Vec::with_capacity(BATCH);
    let (mut records, mut bytes) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    // SAFETY: the queue is the live client's; at most BATCH pointers are written, each message is
    // destroyed once.
    unsafe {
        let queue = rd::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        while records < topic.shape.events {
            assert!(Instant::now() < deadline, "{records} records within {PATIENCE:?}");
            let count = rd::rd_kafka_consume_batch_queue(queue, 50, messages.as_mut_ptr(), BATCH);
            messages.set_len(count.max(0) as usize);
            for &message in &messages {
                let good = (*message).err == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
                records += u64::from(good);
                bytes += if good { (*message).len as u64 } else { 0 };
                rd::rd_kafka_message_destroy(message);
            }
        }
        rd::rd_kafka_queue_destroy(queue);
    }
    let spent = cpu(libc::RUSAGE_SELF) - start;
    assert_eq!((records, bytes), (topic.shape.events, topic.bytes), "each tap once");
    spent
}

fn thread_cpu() -> f64 {
    cpu(libc::RUSAGE_THREAD)
}

/// User and system time, in seconds.
fn cpu(of: libc::c_int) -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the struct it is given.
    let usage = unsafe {
        libc::getrusage(of, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
