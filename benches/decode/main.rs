//! Taps of about 180 bytes to rows of 7 columns, CPU time of this thread; the unit is records. Before
//! it, the same corpus to the same columns by libraries (`libraries`), in turns, and which hostile
//! records each of them takes: that is the ceiling that our own decoder is compared to.
//!
//! As many times the CPU time of ours, which also judges each record by itself and adds Kafka's three
//! columns: simd-json's tape 1.0, serde_json into a struct 1.5, sonic-rs 1.6 (built for any x86-64, as the
//! program is), arrow-json 1.9. `decode::scan` says why ours is used.
//!
//! `cargo bench --bench decode` compares with arrow-json and serde_json. simd-json and sonic-rs
//! need the feature `json-libraries`, and arrow-json the optimiser that the others have:
//! `cargo bench --bench decode --features json-libraries --config profile.release.package.arrow-json.opt-level=3`

#[path = "../cpu.rs"]
mod cpu;
mod libraries;

use cpu::CpuTime;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use highwater::{
    catalog::{self, Topic},
    decode::{Decoder, Secret},
    record::{EventTime, Partition, RawRecord},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{hint::black_box, sync::Arc, time::Duration};

const RECORDS: usize = 8192;
/// Turns of the comparison; each decoder has one batch in each.
const TURNS: usize = 60;
const TEXT: &str = r#""text""#;
const HASHED: &str = r#"{ type = "text", pii = "hash" }"#;

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

/// `token` is the type of the column of that name.
fn taps(token: &str) -> Arc<Topic> {
    let text = format!(
        r#"
topic        = "taps"
format       = "json"
event_time   = "event_time"
max_disorder = "90s"
max_future   = "10m"
lake         = false

[columns]
tap_id     = "text"
token_id   = {token}
kind       = "text"
device_id  = "text"
event_time = "timestamptz"
stop_id    = "text"
fare_cents = {{ type = "bigint", optional = true }}
"#
    );
    let catalog = catalog::check(&[("topics/taps.toml".into(), text)], &[]);
    catalog.unwrap_or_else(|mistakes| panic!("{mistakes:?}")).topics["taps"].clone()
}

/// What every decoder must refuse, in a tap that is good otherwise.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let good = r#"{"tapId":"t","tokenId":"1","kind":"EXIT","deviceId":"D","eventTime":"2024-03-01T08:00:00Z","stopId":"N15","fareCents":5}"#;
    let with = |from: &str, to: &str| good.replace(from, to).into_bytes();
    let beside = |field: &str| with("}", &format!(",{field}}}"));
    let mut not_utf8 = beside(r#""x":"?""#);
    *not_utf8.iter_mut().find(|byte| **byte == b'?').expect("it is there") = 0xff;
    vec![
        ("cut short", good.as_bytes()[..good.len() - 1].to_vec()),
        ("text behind the object", format!("{good}x").into_bytes()),
        ("a comma too many", with("}", ",}")),
        ("a lone surrogate", beside(r#""x":"\ud800""#)),
        ("no such escape", beside(r#""x":"\uzzzz""#)),
        ("a raw control character", beside("\"x\":\"\u{1}\"")),
        ("a number with a zero in front", beside(r#""x":01"#)),
        ("no UTF-8 in a field that none names", not_utf8),
        ("an instant without its offset from UTC", with("00Z", "00")),
        ("a number as an instant", with(r#""2024-03-01T08:00:00Z""#, "1709280000")),
        ("a fraction of a cent", with(":5}", ":5.5}")),
        ("a fare beyond 64 bits", with(":5}", ":18446744073709551616}")),
        ("a column that must be there and is null", with(r#""EXIT""#, "null")),
        ("a column that must be there and is not", with(r#""kind":"EXIT","#, "")),
    ]
}

/// In turns, so that what else the machine does meets all alike.
fn compare(records: &[RawRecord<'static>]) {
    let values: Vec<&[u8]> = records.iter().filter_map(|record| record.value).collect();
    let own = |values: &[&[u8]]| {
        let records: Vec<_> =
            values.iter().map(|value| RawRecord { value: Some(value), ..records[0] }).collect();
        Decoder::new(taps(TEXT), None).decode(&records)
    };
    let mut decoder = Decoder::new(taps(TEXT), None);
    let expected = decoder.decode(records).rows;
    let mut libraries = libraries::all();
    for (name, decode) in &mut libraries {
        let rows = decode(&values).expect("every tap is good");
        assert_eq!(rows.columns(), &expected.columns()[..7], "{name}");
    }
    let mut spent: Vec<Vec<Duration>> = vec![Vec::new(); 1 + libraries.len()];
    for _ in 0..TURNS {
        let mut turn = |place: usize, work: &mut dyn FnMut()| {
            let start = cpu::now();
            work();
            spent[place].push(cpu::now() - start);
        };
        turn(0, &mut || drop(black_box(decoder.decode(records))));
        for (place, (_, decode)) in libraries.iter_mut().enumerate() {
            turn(1 + place, &mut || drop(black_box(decode(&values))));
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() / RECORDS as f64
    };
    let seconds: Vec<f64> = spent.iter_mut().map(median).collect();

    let hostile = hostile();
    let refused = hostile.iter().filter(|(_, value)| own(&[value]).rejects.len() == 1);
    assert_eq!(refused.count(), hostile.len(), "our own decoder refuses all of them");
    println!(
        "{:<28}{:>15}{:>8}  of {} hostile records takes",
        "",
        "CPU-s/million",
        "times",
        hostile.len()
    );
    println!("{:<28}{:>15.3}{:>8.2}  none", "highwater", seconds[0] * 1e6, 1.0);
    for ((name, decode), cost) in libraries::all().iter_mut().zip(&seconds[1..]) {
        let takes = |value: &[u8]| decode(&[value]).is_some_and(|rows| rows.num_rows() > 0);
        println!(
            "{name:<28}{:>15.3}{:>8.2}  {}",
            cost * 1e6,
            cost / seconds[0],
            taken(&hostile, takes)
        );
    }
    println!();
}

fn taken(hostile: &[(&str, Vec<u8>)], mut takes: impl FnMut(&[u8]) -> bool) -> String {
    let taken: Vec<&str> =
        hostile.iter().filter(|(_, value)| takes(value)).map(|(name, _)| *name).collect();
    if taken.is_empty() { "none".to_owned() } else { taken.join("; ") }
}

fn decode(c: &mut Criterion<CpuTime>) {
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

    compare(&good);
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for (name, token, records) in [
        ("taps", TEXT, &good),
        ("taps, one column hashed", HASHED, &good),
        ("taps, one of a hundred broken", TEXT, &bad),
    ] {
        let mut decoder = Decoder::new(taps(token), Some(Secret(b"secret"[..].into())));
        assert!(decoder.decode(records).rows.num_rows() > RECORDS / 2);
        group.bench_function(name, |b| {
            b.iter_batched(|| (), |()| black_box(decoder.decode(records)), BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = decode
}
criterion_main!(benches);
