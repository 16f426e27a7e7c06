//! Decoded taps into the tables of a model, by admissions of 8,192 and one seal at the end; the
//! unit is CPU time of records. The ceiling it is compared to, on two shared cores: 0.06
//! CPU-seconds per million (17 million rows/s a core, DataFusion's bare hash aggregation).

mod cpu;

use cpu::CpuTime;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use highwater::{
    catalog,
    compute::Tables,
    decode::{Decoder, Secret},
    record::{EventTime, Mark, Offset, Partition, RawRecord},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{hint::black_box, time::Duration};

const BATCHES: usize = 16;
const RECORDS: usize = 8192;
const STOPS: usize = 300;
const DEVICES: usize = 9000;
/// 2024-03-01T08:00:00Z.
const START_US: i64 = 1_709_280_000_000_000;

/// Ten minutes of taps, a burst of disorder in them, partition by partition in each batch.
fn corpus(partitions: usize) -> Vec<Vec<(i32, i64, String)>> {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut offsets = vec![0; partitions];
    let mut tap = |n: usize, partition: usize| {
        let stop = rng.random_range(0..STOPS);
        let behind = if rng.random_bool(0.05) { rng.random_range(0..90_000_000) } else { 0 };
        let at = START_US + n as i64 * 600_000_000 / (BATCHES * RECORDS) as i64 - behind;
        let at = chrono::DateTime::from_timestamp_micros(at).expect("in the calendar");
        let text = format!(
            concat!(
                r#"{{"tapId":"tap-{:010}","tokenId":"{:08}","stopId":"4900{:05}N","deviceId":"D{:05}","#,
                r#""eventTime":"{}","mode":"{}","fareCents":{}}}"#
            ),
            n,
            rng.random_range(0..1_000_000),
            stop,
            rng.random_range(0..DEVICES),
            at.format("%Y-%m-%dT%H:%M:%S%.3fZ"),
            if stop % 3 == 0 { "tube" } else { "bus" },
            match rng.random_bool(0.1) {
                true => "null".to_owned(),
                false => rng.random_range(0..900).to_string(),
            },
        );
        let offset = offsets[partition];
        offsets[partition] += 1;
        (partition as i32, offset, text)
    };
    let batch = |b: usize| (0..RECORDS).map(move |i| (b * RECORDS + i, i * partitions / RECORDS));
    (0..BATCHES).map(|b| batch(b).map(|(n, partition)| tap(n, partition)).collect()).collect()
}

fn records(batch: &[(i32, i64, String)]) -> Vec<RawRecord<'_>> {
    batch
        .iter()
        .map(|(partition, offset, text)| RawRecord {
            partition: Partition(*partition),
            offset: *offset,
            timestamp: EventTime(START_US),
            key: None,
            value: Some(text.as_bytes()),
        })
        .collect()
}

/// The repository's own topic with this model.
fn job(name: &str, sql: &str) -> (Decoder, Tables) {
    let topic = ("topics/taps.toml".into(), include_str!("../topics/taps.toml").to_owned());
    let model = (format!("sql/models/{name}.sql").into(), sql.to_owned());
    let catalog = catalog::check(&[topic], &[model]).expect("no mistake");
    let topic = &catalog.topics["taps"];
    let models: Vec<_> = catalog.models.into_values().collect();
    let tables = Tables::new(topic, &models).expect("a plan");
    (Decoder::new(topic.clone(), Some(Secret(b"secret"[..].into()))), tables)
}

fn aggregate(c: &mut Criterion<CpuTime>) {
    let by_stop = include_str!("../sql/models/taps_by_stop_5m.sql");
    let latest = include_str!("../sql/models/latest_tap_by_device.sql");
    let failing = by_stop.replace("FROM taps", "FROM taps WHERE 1 / (fare_cents - 450) <= 1");
    let mut group = c.benchmark_group("aggregate");
    group.throughput(Throughput::Elements((BATCHES * RECORDS) as u64));
    for (name, model, sql, partitions) in [
        ("by stop and mode", "taps_by_stop_5m", by_stop, 1),
        ("by stop and mode, 8 partitions", "taps_by_stop_5m", by_stop, 8),
        ("by stop and mode, one of a thousand fails", "taps_by_stop_5m", &failing, 1),
        ("latest by device", "latest_tap_by_device", latest, 1),
    ] {
        let (mut decoder, mut tables) = job(model, sql);
        let corpus = corpus(partitions);
        let from: Vec<_> = (0..partitions).map(|p| (Partition(p as i32), Offset(0))).collect();
        for output in tables.outputs() {
            let marks: Vec<_> =
                from.iter().map(|(p, _)| (output.clone(), *p, Mark::BEGINNING)).collect();
            tables.adopt(&marks, &[]);
        }
        let records: Vec<_> = corpus.iter().map(|batch| records(batch)).collect();
        let decoded: Vec<_> = records.iter().map(|batch| decoder.decode(batch)).collect();
        assert!(decoded.iter().all(|batch| batch.rejects.is_empty()));
        group.bench_function(name, |b| {
            b.iter(|| {
                for (records, decoded) in records.iter().zip(&decoded) {
                    black_box(tables.admit(records, decoded, &from, &[]).expect("admitted"));
                }
                black_box(tables.seal().expect("sealed"))
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).sample_size(20).measurement_time(Duration::from_secs(4));
    targets = aggregate
}
criterion_main!(benches);
