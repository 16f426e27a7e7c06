//! Ceiling: 0.23 CPU-seconds per million rows of seven columns, which is what zstd 1 without a
//! dictionary on unique ids and with delta-encoded times took in the prototype, with nothing
//! around it, on the prototype's corpus. `bare` measures that ceiling again on this corpus: the
//! same seven columns and encodings, straight into `ArrowWriter`. The others do the whole work on
//! ten columns (seven and the three of Kafka): path of each row, gathering, SHA-256, parts.
//!
//! Unit: rows per second of this thread's CPU, so that a busy machine does not change the figure.
//! The corpus is seeded: a million taps in event-time order with disorder of a minute.

mod cpu;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use highwater::catalog::{
    Drift, Format, LakeSpec, PartitionBy, PartitionFunction, Topic, types::timestamp,
};
use highwater::lake::layout::{FileName, Origin};
use highwater::lake::writer::{LakeWriter, WriterSettings};
use highwater::record::{Epoch, EventTime, Offset, Partition};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{sync::Arc, time::Duration};

const ROWS: usize = 1_000_000;
const BATCH: usize = 8192;
/// 2024-03-01 08:00 UTC.
const START_US: i64 = 1_709_280_000_000_000;

fn topic() -> Arc<Topic> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("tap_id", DataType::Utf8, false),
        Field::new("token_id", DataType::Utf8, false),
        Field::new("stop_id", DataType::Utf8, false),
        Field::new("device_id", DataType::Utf8, false),
        Field::new("event_time", timestamp(), false),
        Field::new("fare_cents", DataType::Int64, true),
        Field::new("direction", DataType::Utf8, false),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_timestamp", timestamp(), false),
    ]));
    let by = |name: &str, function| PartitionBy { name: name.into(), function, column: 4 };
    Arc::new(Topic {
        name: "taps".into(),
        file: "topics/taps.toml".into(),
        kafka_topic: "taps".into(),
        format: Format::Json,
        batched: false,
        columns: Vec::new(),
        event_time: Some(4),
        max_disorder: Duration::from_secs(90),
        service_day: None,
        time_zone: chrono_tz::UTC,
        idle: None,
        max_future: None,
        lake: Some(LakeSpec {
            partition_by: vec![
                by("date", PartitionFunction::Date),
                by("hour", PartitionFunction::Hour),
            ],
            roll_bytes: u64::MAX,
            roll_age: Duration::from_secs(60),
            time_zone: chrono_tz::Europe::London,
        }),
        stop_above: None,
        forward: None,
        changes: None,
        append_only: false,
        csv: None,
        registry: None,
        drift: Drift::Off,
        additions: Vec::new(),
        keep_raw: true,
        unique: None,
        schema,
    })
}

/// Batches, each with its event times. `hours`: over how many hours each batch is scattered.
fn corpus(topic: &Topic, hours: i64) -> Vec<(RecordBatch, Vec<EventTime>)> {
    let mut random = SmallRng::seed_from_u64(7);
    (0..ROWS)
        .step_by(BATCH)
        .map(|from| {
            let rows = from..(from + BATCH).min(ROWS);
            let at: Vec<i64> = rows
                .clone()
                .map(|row| {
                    let scattered = random.random_range(0..hours) * 3_600_000_000;
                    START_US + row as i64 * 3500 + random.random_range(0..60_000_000) + scattered
                })
                .collect();
            let mut text = |value: &dyn Fn(&mut SmallRng) -> String| -> ArrayRef {
                Arc::new(StringArray::from_iter_values(rows.clone().map(|_| value(&mut random))))
            };
            let tap_id = text(&|r| format!("{:016x}{:016x}", r.random::<u64>(), r.random::<u64>()));
            let token_id = text(&|r| {
                format!(
                    "{:016x}",
                    r.random_range(0..200_000_u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
                )
            });
            let stop_id = text(&|r| format!("stop-{:04}", r.random_range(0..500)));
            let device_id = text(&|r| format!("device-{:05}", r.random_range(0..3000)));
            let direction = text(&|r| if r.random_bool(0.5) { "in".into() } else { "out".into() });
            let fares: Int64Array = rows
                .clone()
                .map(|_| random.random_bool(0.9).then(|| random.random_range(5..40) * 10))
                .collect();
            let offsets: Int64Array = rows.clone().map(|row| Some(row as i64)).collect();
            let timestamps: Vec<i64> =
                rows.clone().map(|row| (START_US / 1000 + row as i64 * 7 / 2) * 1000).collect();
            let times = |at: Vec<i64>| TimestampMicrosecondArray::from(at).with_timezone("UTC");
            let columns: Vec<ArrayRef> = vec![
                tap_id,
                token_id,
                stop_id,
                device_id,
                Arc::new(times(at.clone())),
                Arc::new(fares),
                direction,
                Arc::new(Int32Array::from(vec![3; rows.len()])),
                Arc::new(offsets),
                Arc::new(times(timestamps)),
            ];
            let rows = RecordBatch::try_new(topic.schema.clone(), columns).expect("the schema");
            (rows, at.into_iter().map(EventTime).collect())
        })
        .collect()
}

/// Bytes and files that one cut of the corpus makes.
fn cut(topic: &Arc<Topic>, corpus: &[(RecordBatch, Vec<EventTime>)]) -> (u64, usize) {
    let name = FileName {
        sequence: 1,
        partition: Partition(3),
        from: Offset(0),
        epoch: Epoch(1),
        origin: Origin::Cut,
    };
    let mut writer = LakeWriter::new(topic.clone(), WriterSettings::default(), name);
    for (rows, event_times) in corpus {
        writer.append(rows, event_times).expect("rows of the topic");
        std::hint::black_box(writer.take_parts());
    }
    let files = writer.finish().expect("rows of the topic");
    (files.iter().map(|file| file.bytes).sum(), files.len())
}

/// The seven columns with the encodings that `lake::encoder` decides on, and nothing around them.
fn bare(corpus: &[(RecordBatch, Vec<EventTime>)]) -> usize {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("a level")))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_column_encoding("event_time".into(), Encoding::DELTA_BINARY_PACKED);
    for column in ["tap_id", "token_id", "event_time"] {
        properties = properties.set_column_dictionary_enabled(column.into(), false);
    }
    let seven: Vec<usize> = (0..7).collect();
    let schema = Arc::new(corpus[0].0.schema().project(&seven).expect("seven columns"));
    let mut writer =
        ArrowWriter::try_new(Vec::new(), schema, Some(properties.build())).expect("a writer");
    for (rows, _) in corpus {
        writer.write(&rows.project(&seven).expect("seven columns")).expect("rows of the topic");
    }
    writer.into_inner().expect("a footer").len()
}

fn writer(criterion: &mut Criterion<cpu::CpuTime>) {
    let topic = topic();
    let mut group = criterion.benchmark_group("parquet");
    group
        .throughput(Throughput::Elements(ROWS as u64))
        .sample_size(10)
        .measurement_time(Duration::from_secs(8));
    let plain = corpus(&topic, 1);
    println!("bare: {:.1} bytes per row", bare(&plain) as f64 / ROWS as f64);
    group.bench_function("bare", |bencher| {
        bencher.iter(|| bare(&plain));
    });
    drop(plain);
    for (name, hours) in [("one hour at a time", 1), ("8 hours mixed", 8), ("500 hours mixed", 500)]
    {
        let corpus = corpus(&topic, hours);
        let (bytes, files) = cut(&topic, &corpus);
        println!("{name}: {:.1} bytes per row, {files} files", bytes as f64 / ROWS as f64);
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| cut(&topic, &corpus));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(cpu::CpuTime);
    targets = writer
}
criterion_main!(benches);
