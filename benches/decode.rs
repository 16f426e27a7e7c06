//! Taps of about 180 bytes to rows of 7 columns; the unit is records. The ceiling it is compared
//! to, on two shared cores: simd-json 0.22 and arrow-json 0.33 CPU-seconds per million.

use arrow::datatypes::{DataType, Field, Schema};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use highwater::{
    catalog::{Drift, Encoding, Format, PgType, Pii, Topic, TopicColumn, types::timestamp},
    decode::{Decoder, Secret},
    record::{EventTime, Partition, RawRecord},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{hint::black_box, sync::Arc, time::Duration};

const RECORDS: usize = 8192;

fn corpus() -> Vec<String> {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut tap = |n: usize| {
        let (minute, second) = (rng.random_range(0..60), rng.random_range(0..60));
        format!(
            concat!(
                r#"{{"tapId":"tap-{:010}","tokenId":"{:08}","kind":"{}","deviceId":"D{:05}","#,
                r#""eventTime":"2024-03-01T08:{:02}:{:02}.{:03}Z","stopId":"{}","fareCents":{},"capped":{}}}"#
            ),
            n,
            rng.random_range(0..1_000_000),
            ["BUSTRIP", "ENTRY", "EXIT"][rng.random_range(0..3)],
            rng.random_range(0..9000),
            minute,
            second,
            rng.random_range(0..1000),
            ["940GZZLUBNK", "N15", "490008660N"][rng.random_range(0..3)],
            rng.random_range(0..900),
            rng.random_bool(0.1),
        )
    };
    (0..RECORDS).map(&mut tap).collect()
}

fn taps(pii: Option<Pii>) -> Topic {
    let column = |name: &str, pg, pii| TopicColumn {
        name: name.to_owned(),
        pg,
        path: vec![name.to_owned()],
        path_is_default: true,
        optional: name == "fare_cents",
        pii,
        encoding: Encoding::Plain,
    };
    let columns = vec![
        column("tap_id", PgType::Text, None),
        column("token_id", PgType::Text, pii),
        column("kind", PgType::Text, None),
        column("device_id", PgType::Text, None),
        column("event_time", PgType::Timestamptz, None),
        column("stop_id", PgType::Text, None),
        column("fare_cents", PgType::BigInt, None),
    ];
    let mut fields: Vec<_> =
        columns.iter().map(|it| Field::new(&it.name, it.pg.arrow(), it.optional)).collect();
    fields.push(Field::new("_partition", DataType::Int32, false));
    fields.push(Field::new("_offset", DataType::Int64, false));
    fields.push(Field::new("_timestamp", timestamp(), false));
    Topic {
        name: "taps".into(),
        file: "topics/taps.toml".into(),
        kafka_topic: "taps".to_owned(),
        format: Format::Json,
        batched: false,
        columns,
        event_time: Some(4),
        max_disorder: Duration::from_secs(90),
        service_day: None,
        time_zone: chrono_tz::UTC,
        idle: None,
        max_future: Some(Duration::from_secs(600)),
        lake: None,
        stop_above: None,
        forward: None,
        changes: None,
        csv: None,
        registry: None,
        drift: Drift::Off,
        additions: Vec::new(),
        keep_raw: true,
        unique: None,
        schema: Arc::new(Schema::new(fields)),
    }
}

fn decode(c: &mut Criterion) {
    let corpus = corpus();
    let record = |(n, value): (usize, &'static str)| RawRecord {
        partition: Partition(0),
        offset: n as i64,
        timestamp: EventTime(1_709_283_600_000_000),
        key: None,
        value: Some(value.as_bytes()),
    };
    let leaked = corpus.into_iter().map(|text| &*text.leak());
    let good: Vec<_> = leaked.enumerate().map(record).collect();
    let mut bad = good.clone();
    for record in bad.iter_mut().step_by(100) {
        record.value = Some(b"{");
    }

    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for (name, pii, records) in [
        ("taps", None, &good),
        ("taps, one column hashed", Some(Pii::Hash), &good),
        ("taps, one of a hundred broken", None, &bad),
    ] {
        let mut decoder = Decoder::new(Arc::new(taps(pii)), Some(Secret(b"secret"[..].into())));
        assert!(decoder.decode(records).rows.num_rows() > RECORDS / 2);
        group.bench_function(name, |b| {
            b.iter_batched(|| (), |()| black_box(decoder.decode(records)), BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
