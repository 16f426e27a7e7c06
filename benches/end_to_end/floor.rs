//! The floor: each stage alone, on one thread, over the same taps, in CPU-seconds.
//!
//! Consumption counts librdkafka's own threads too (they receive and decompress: nobody can do
//! without), so it is of the whole process, in which nothing else runs. The other stages count
//! the thread that does them. The taps of these come from memory, in batches of one partition.

use crate::{
    workload::{self, Tap, form::Form},
    world::Topic,
};
use arrow::array::RecordBatch;
use highwater::{
    catalog::{Catalog, Model, Topic as Declared},
    compute::Tables,
    decode::Decoder,
    lake::{
        layout::{FileName, Origin},
        writer::{LakeWriter, WriterSettings},
    },
    record::{Epoch, EventTime, Mark, Offset, Partition, RawRecord},
};
use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList, bindings as rd,
    consumer::{BaseConsumer, Consumer},
};
use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

/// As many as the pipeline takes at a time.
const BATCH: usize = 8192;
/// What models hold of a cut before it ends: of changes each one, of taps their groups.
const CUT_BYTES: usize = 64 << 20;
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
        let form = topic.shape.form;
        let mut stages = Stages::new(declared, &models, partitions, form);
        let mut waiting: Vec<Batch> = (0..partitions).map(|_| Batch::default()).collect();
        for tap in workload::taps(topic.shape) {
            let batch = &mut waiting[tap.partition];
            batch.add(&tap, form);
            if batch.places.len() == BATCH {
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

/// Records of one partition, in one buffer as they would lie in librdkafka's.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// Offset of the first.
    base: i64,
}

struct Place {
    key: Option<Range<usize>>,
    value: Range<usize>,
    arrival_ms: i64,
}

impl Batch {
    fn add(&mut self, tap: &Tap, form: Form) {
        let start = self.bytes.len();
        form.key(tap, &mut self.bytes);
        let middle = self.bytes.len();
        form.value(tap, &mut self.bytes);
        self.places.push(Place {
            key: form.has_keys().then_some(start..middle),
            value: middle..self.bytes.len(),
            arrival_ms: tap.arrival_ms,
        });
    }

    fn clear(&mut self) {
        self.base += self.places.len() as i64;
        self.bytes.clear();
        self.places.clear();
    }

    fn records(&self, partition: usize) -> Vec<RawRecord<'_>> {
        let record = |(index, place): (usize, &Place)| RawRecord {
            partition: Partition(partition as i32),
            offset: self.base + index as i64,
            timestamp: EventTime(place.arrival_ms * 1000),
            key: place.key.clone().map(|key| &self.bytes[key]),
            value: Some(&self.bytes[place.value.clone()]),
        };
        self.places.iter().enumerate().map(record).collect()
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
    fn new(topic: &Arc<Declared>, models: &[Arc<Model>], partitions: usize, form: Form) -> Self {
        let mut tables = Tables::new(topic, models).expect("the model plans");
        let outputs = tables.outputs();
        for partition in 0..partitions as i32 {
            let partition = Partition(partition);
            let marks = outputs.iter().map(|o| (o.clone(), partition, Mark::BEGINNING));
            tables.adopt(&marks.collect::<Vec<_>>(), &[]);
        }
        Self {
            topic: topic.clone(),
            decoder: Decoder::with_schemas(topic.clone(), None, form.schemas()),
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
        if self.tables.memory() > CUT_BYTES {
            self.seal();
        }
        let after_aggregate = thread_cpu();
        assert!(decoded.rejects.is_empty() && refusals.is_empty(), "every tap is good");
        self.encode(&decoded.rows, &decoded.event_times);
        self.decode += after_decode - start;
        self.aggregate += after_aggregate - after_decode;
        self.encode += thread_cpu() - after_aggregate;
        batch.clear();
    }

    fn encode(&mut self, rows: &RecordBatch, event_times: &[EventTime]) {
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

    /// Ends the models' cut. Of changes: folds them into a table that has none of their rows.
    fn seal(&mut self) {
        let sealed = self.tables.seal().expect("the model ends");
        for changes in sealed.tables.iter().filter_map(|(_, delta)| delta.changes.as_ref()) {
            std::hint::black_box(changes.keys().expect("changes have keys"));
            let stored = RecordBatch::new_empty(changes.stored());
            std::hint::black_box(changes.fold(&stored, &[]).expect("changes fold"));
        }
        std::hint::black_box(&sealed.tables);
    }

    fn finish(&mut self) {
        let start = thread_cpu();
        self.seal();
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
