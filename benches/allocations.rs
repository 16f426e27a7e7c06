//! Allocations per event on the way from librdkafka to Arrow, to groups and to Parquet.
//!
//! The ceiling is 0 up to Arrow and to groups: what a batch allocates does not grow with its records.
//! Each stage runs over the same events in batches of 4,096 and of 8,192, after a first pass that
//! fills what is kept from batch to batch; where the difference per event exceeds what the table allows, this
//! fails. Parquet allocates for each page of 20,000 rows of a column, whose buffers double as they fill:
//! 0.02 per event of one hour, 0.03 where hours are mixed and rows are dealt out to their files.
//! Unit: calls of the allocator on this thread, per batch and per event; librdkafka's own, in C, are not
//! counted. A cut's end (`seal`, `finish`) goes by groups and files and is not part of it.
//!
//! What is fetched comes from librdkafka's mock cluster through [`TopicReader`]; the other stages
//! take the taps of the end-to-end bench from memory, in the same type. Not seen here is what lies
//! between them in `pipeline`: per batch three vectors, of flags, event times and counts.
//!
//! [`TopicReader`]: highwater::source::kafka::TopicReader

#[allow(dead_code)]
#[path = "end_to_end/workload.rs"]
mod workload;

use highwater::{
    catalog::{self, Catalog, Model, Topic},
    compute::unique::Memory,
    decode::{Decoded, Decoder},
    lake::{
        layout::{FileName, Origin},
        writer::{LakeWriter, WriterSettings},
    },
    pipeline::{References, TablesLane},
    record::{Epoch, EventTime, Mark, Offset, Partition, RawRecord, schemas::Schemas},
    source::{
        broker::{Broker, Outgoing},
        kafka::{Kafka, KafkaSettings},
    },
};
use serde::Deserialize;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::BTreeMap,
    hint::black_box,
    ops::{AddAssign, Sub},
    sync::Arc,
    time::Duration,
};
use workload::{Shape, form::Form};

const EVENTS: usize = 1 << 17;
/// Of what is fetched: the mock cluster keeps 5 MiB of a partition.
const FETCHED: usize = 1 << 14;
const SMALL: usize = 4096;
const LARGE: usize = 8192;
/// Allocations per event that a stage without any may come to: what doubles as it grows.
const NONE: f64 = 0.01;
/// What pages of Parquet come to.
const PAGES: f64 = 0.05;
const PARTITION: Partition = Partition(0);

struct Counting;

#[derive(Clone, Copy, Default)]
struct Counts {
    allocations: u64,
    bytes: u64,
    /// Of what grew: bytes there before, which may have been copied.
    regrown: u64,
}

thread_local! {
    static COUNTS: Cell<Counts> = const {
        Cell::new(Counts { allocations: 0, bytes: 0, regrown: 0 })
    };
}

fn count(bytes: usize, regrown: usize) {
    // Of a thread that ends nothing is counted any more.
    let _ = COUNTS.try_with(|counts| {
        let mut now = counts.get();
        now += Counts { allocations: 1, bytes: bytes as u64, regrown: regrown as u64 };
        counts.set(now);
    });
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.saturating_sub(layout.size()), layout.size().min(size));
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.allocations += other.allocations;
        self.bytes += other.bytes;
        self.regrown += other.regrown;
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            allocations: self.allocations - other.allocations,
            bytes: self.bytes - other.bytes,
            regrown: self.regrown - other.regrown,
        }
    }
}

fn counted<T>(total: &mut Counts, work: impl FnOnce() -> T) -> T {
    let before = COUNTS.get();
    let result = work();
    *total += COUNTS.get() - before;
    result
}

/// What a stage allocated over all events, in batches of a size.
struct Found {
    counts: Counts,
    events: usize,
    size: usize,
}

impl Found {
    fn per_batch(&self) -> f64 {
        self.counts.allocations as f64 * self.size as f64 / self.events as f64
    }
}

/// Prints a stage; false: it allocates more per event than it may.
fn judge(name: &str, max: f64, measure: impl Fn(usize) -> Found) -> bool {
    let (small, large) = (measure(SMALL), measure(LARGE));
    let per_event = (large.per_batch() - small.per_batch()) / (LARGE - SMALL) as f64;
    let of_event = |total: u64| total as f64 / large.events as f64;
    let good = per_event < max;
    println!(
        "{name:<28}{:>10.1}{:>10.1}{per_event:>11.4}{:>10.0}{:>10.1}  below {max}: {}",
        small.per_batch(),
        large.per_batch(),
        of_event(large.counts.bytes),
        of_event(large.counts.regrown),
        if good { "yes" } else { "NO" }
    );
    good
}

/// Events of a format, as they lie in Kafka's buffers.
#[derive(Default)]
struct Corpus {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    arrivals_ms: Vec<i64>,
}

impl Corpus {
    fn in_form(form: Form, taps: impl Iterator<Item = workload::Tap>) -> Self {
        let mut corpus = Self::default();
        for tap in taps {
            form.value(&tap, &mut corpus.bytes);
            corpus.ends.push(corpus.bytes.len());
            corpus.arrivals_ms.push(tap.arrival_ms);
        }
        corpus
    }

    fn value(&self, event: usize) -> &[u8] {
        let start = if event == 0 { 0 } else { self.ends[event - 1] };
        &self.bytes[start..self.ends[event]]
    }

    /// Batches of a size; offsets begin at `first`.
    fn batches(&self, size: usize, first: i64) -> impl Iterator<Item = Vec<RawRecord<'_>>> {
        let record = move |event: usize| RawRecord {
            partition: PARTITION,
            offset: first + event as i64,
            timestamp: EventTime(self.arrivals_ms[event] * 1000),
            key: None,
            value: Some(self.value(event)),
        };
        let starts = (0..EVENTS).step_by(size);
        starts.map(move |start| (start..start + size).map(record).collect())
    }
}

/// As close together as those of the published figure; the latest ones, too, are of the same hour.
fn of_one_hour() -> impl Iterator<Item = workload::Tap> {
    workload::taps(Shape::usual(5_000_000)).skip(1_450_000).take(EVENTS)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    tap_id: &'a str,
    token_id: &'a str,
    stop_id: &'a str,
    device_id: &'a str,
    event_time: &'a str,
    mode: &'a str,
    fare_cents: Option<i64>,
}

fn declared(topic: &str, models: &[&str]) -> Catalog {
    let models: Vec<_> = models
        .iter()
        .enumerate()
        .map(|(n, sql)| {
            let name = sql.split_whitespace().skip_while(|word| *word != "VIEW").nth(1);
            let name = name.unwrap_or_else(|| panic!("model {n} has a name"));
            (format!("sql/models/{name}.sql").into(), (*sql).to_owned())
        })
        .collect();
    let topics = [("topics/taps.toml".into(), topic.to_owned())];
    catalog::check(&topics, &models).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

fn taps(models: &[&str]) -> (Arc<Topic>, Vec<Arc<Model>>) {
    let catalog = declared(&format!("topic = \"taps\"\n{}", workload::TOPIC), models);
    (catalog.topics["taps"].clone(), catalog.models.into_values().collect())
}

/// Runs all events twice, the second time counted.
fn measured<'a>(
    corpus: &'a Corpus,
    size: usize,
    mut work: impl FnMut(&[RawRecord<'a>], &mut Counts),
) -> Found {
    let mut counts = Counts::default();
    for first in [0, EVENTS as i64] {
        counts = Counts::default();
        for records in corpus.batches(size, first) {
            work(&records, &mut counts);
        }
    }
    Found { counts, events: EVENTS, size }
}

fn decoding(corpus: &Corpus, topic: &Arc<Topic>, schemas: &Arc<Schemas>, size: usize) -> Found {
    let mut decoder = Decoder::with_schemas(topic.clone(), None, schemas.clone());
    measured(corpus, size, |records, counts| {
        let decoded = counted(counts, || decoder.decode(records));
        assert_eq!(decoded.rows.num_rows(), records.len(), "{:?}", decoded.rejects.first());
        drop(black_box(decoded));
    })
}

fn admitting(corpus: &Corpus, models: &[&str], size: usize) -> Found {
    let (topic, models) = taps(models);
    let mut decoder = Decoder::new(topic.clone(), None);
    let mut lane = TablesLane::new(&topic, &models, References::default(), 0).expect("a plan");
    let marks: Vec<_> =
        lane.outputs().into_iter().map(|o| (o, PARTITION, Mark::BEGINNING)).collect();
    lane.adopt(&marks, &[], &Memory::default());
    let from = [(PARTITION, Offset(0))];
    measured(corpus, size, |records, counts| {
        let decoded = decoder.decode(records);
        let admit = || lane.admit(|_| Vec::new(), records, &decoded, &from);
        counted(counts, admit).expect("taps fit the model");
    })
}

fn encoding(corpus: &Corpus, size: usize) -> Found {
    let (topic, _) = taps(&[]);
    let mut decoder = Decoder::new(topic.clone(), None);
    let (partition, from, epoch) = (PARTITION, Offset(0), Epoch(1));
    let name = FileName { sequence: 1, partition, from, epoch, origin: Origin::Cut };
    let mut writer = LakeWriter::new(topic, WriterSettings::default(), name);
    measured(corpus, size, |records, counts| {
        let Decoded { rows, event_times, .. } = decoder.decode(records);
        counted(counts, || writer.append(&rows, &event_times).expect("rows of the topic"));
        drop(black_box(writer.take_parts()));
    })
}

/// From librdkafka's queue to [`RawRecord`]s, through its mock cluster.
fn fetching(corpus: &Corpus, size: usize) -> Found {
    let broker = Broker::start().expect("the mock cluster");
    broker.create_topic("taps", 1).expect("a topic");
    let record = |event: usize| Outgoing {
        key: String::new(),
        value: String::from_utf8(corpus.value(event).to_vec()).expect("JSON"),
        timestamp: EventTime(corpus.arrivals_ms[event] * 1000),
    };
    let records: Vec<Outgoing> = (0..FETCHED).map(record).collect();
    broker.produce("taps", 1, &records).expect("it keeps them");
    let settings = KafkaSettings {
        brokers: broker.servers(),
        topic_ids: false,
        group: "allocations".to_owned(),
        properties: BTreeMap::new(),
        fetch_bytes: 64 << 20,
    };
    let kafka = Kafka::new(&settings, Duration::ZERO).expect("a client");
    kafka.listen("taps", Box::new(|_| {}));
    kafka.assign("taps", &[(PARTITION, Offset(0))]).expect("a partition");
    let (topic, _) = taps(&[]);
    let mut reader = kafka.reader(&topic).expect("a reader");
    let mut counts = Counts::default();
    for _ in 0..2 {
        counts = Counts::default();
        reader.seek(PARTITION, Offset(0));
        let mut there = 0;
        while there < FETCHED {
            kafka.serve(Duration::ZERO).expect("the client goes on");
            let before = COUNTS.get();
            let fetched = reader.poll(size, Duration::from_secs(10)).expect("records");
            let records = black_box(fetched.records());
            let now = COUNTS.get();
            // The seek itself may have to be tried again.
            if !records.is_empty() {
                assert_eq!(records.len(), size, "whole batches");
                counts += now - before;
                there += records.len();
            }
        }
    }
    Found { counts, events: FETCHED, size }
}

fn in_form(form: Form) -> (Corpus, Arc<Topic>, Arc<Schemas>) {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!("topic = \"taps\"\n{}", form.topic_file(folder.path()));
    let topic = declared(&text, &[]).topics["taps"].clone();
    (Corpus::in_form(form, of_one_hour()), topic, form.schemas())
}

fn csv() -> (Corpus, Arc<Topic>) {
    let (mut corpus, mut json) = (Corpus::default(), Vec::new());
    for tap in of_one_hour() {
        json.clear();
        tap.json(&mut json);
        let arrival_ms = tap.arrival_ms;
        let tap: Fields<'_> = serde_json::from_slice(&json).expect("a tap");
        let fare = tap.fare_cents.map(|cents| cents.to_string()).unwrap_or_default();
        let fields =
            [tap.tap_id, tap.token_id, tap.stop_id, tap.device_id, tap.event_time, tap.mode, &fare];
        corpus.bytes.extend(fields.join(",").as_bytes());
        corpus.ends.push(corpus.bytes.len());
        corpus.arrivals_ms.push(arrival_ms);
    }
    let text = format!("topic = \"taps\"\n{}", workload::TOPIC.replace("\"json\"", "\"csv\""));
    (corpus, declared(&text, &[]).topics["taps"].clone())
}

fn main() {
    let json = Corpus::in_form(Form::Taps, of_one_hour());
    let mixed = Corpus::in_form(Form::Taps, workload::taps(Shape::usual(EVENTS as u64)));
    let by_stop = include_str!("../sql/models/taps_by_stop_5m.sql");
    let latest = include_str!("../sql/models/latest_tap_by_device.sql");
    let none = Arc::new(Schemas::default());
    println!(
        "{:<28}{:>10}{:>10}{:>11}{:>10}{:>10}",
        "allocations", "of 4,096", "of 8,192", "per event", "bytes", "regrown"
    );
    let (topic, _) = taps(&[]);
    let mut good = judge("fetch", NONE, |size| fetching(&json, size));
    good &= judge("decode JSON", NONE, |size| decoding(&json, &topic, &none, size));
    good &= judge("admit, by stop and mode", NONE, |size| admitting(&json, &[by_stop], size));
    good &= judge("admit, latest by device", NONE, |size| admitting(&json, &[latest], size));
    good &= judge("encode Parquet", PAGES, |size| encoding(&json, size));
    good &= judge("encode Parquet, six hours", PAGES, |size| encoding(&mixed, size));
    let (corpus, topic, schemas) = in_form(Form::Avro);
    good &= judge("decode Avro", NONE, |size| decoding(&corpus, &topic, &schemas, size));
    let (corpus, topic) = csv();
    good &= judge("decode CSV", NONE, |size| decoding(&corpus, &topic, &none, size));
    let (corpus, topic, none) = in_form(Form::Debezium);
    good &= judge("decode Debezium's JSON", NONE, |size| decoding(&corpus, &topic, &none, size));
    assert!(good, "a stage allocates for each event");
}
