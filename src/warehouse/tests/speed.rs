//! What a cut costs: 86,000 groups, ten times over. Run by hand:
//! `cargo test --release --lib warehouse::tests::speed -- --ignored --nocapture`

use super::*;
use arrow::array::{Int64Array, StringArray};
use std::time::Instant;

const GROUPS: i64 = 86_000;
const CUTS: i64 = 10;

/// Of the whole process: the client, since the server is another one.
fn cpu_seconds() -> f64 {
    // SAFETY: getrusage fills the struct that it is given, all of whose bit patterns are valid.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn groups() -> RecordBatch {
    let windows = (0..GROUPS).map(|i| Some(1_700_000_000_000_000 + i / 860 * 300_000_000));
    let windows: Vec<_> = windows.collect();
    let ends = windows.iter().map(|w| w.map(|w| w + 300_000_000)).collect();
    let stops: StringArray = (0..GROUPS).map(|i| Some(format!("490000{:06}", i % 860))).collect();
    let fare = arrow::array::Decimal128Array::from_iter_values((0..GROUPS).map(i128::from));
    batch(vec![
        ("window_start", merging::instants(windows)),
        ("window_end", merging::instants(ends)),
        ("stop_id", Arc::new(stops)),
        ("taps", Arc::new(Int64Array::from_iter_values(0..GROUPS))),
        ("fare", Arc::new(fare.with_precision_and_scale(38, 0).unwrap())),
        ("low", Arc::new(StringArray::from(vec![Some("device-1234"); GROUPS as usize]))),
        ("high", Arc::new(Int64Array::from_iter_values(0..GROUPS))),
    ])
}

async fn measure(name: &str, warehouse: &Warehouse, cuts: i64) {
    warehouse.ensure_tables(&[Arc::new(aggregate("taps_5m"))]).await.unwrap();
    let output = model_output("taps_5m");
    let mut mark = take_one(warehouse, &output, 0).await;
    let rows = groups();
    for (what, cuts) in [("first cut, all new", 1), ("later cuts, all there", cuts - 1)] {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        for _ in 0..cuts {
            let yields = vec![rows_of("taps_5m", rows.clone())];
            warehouse.commit(&cut(vec![advance(&output, 0, &mark, 1)], yields)).await.unwrap();
            mark.next = Offset(mark.next.0 + 1);
        }
        let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let count = (GROUPS * cuts) as f64;
        println!(
            "{name}, {what}: {:.0} rows/s, {:.2} s per cut, client CPU {:.2} µs per row",
            count / wall,
            wall / cuts as f64,
            cpu / count * 1e6
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; see the file's first lines"]
async fn upserting_many_groups() {
    let insert = WarehouseSettings { insert_rows_max: usize::MAX, ..Default::default() };
    for (name, settings) in [("COPY", WarehouseSettings::default()), ("INSERT", insert)] {
        let Some(database) = Database::new(&settings, "").await else { return };
        measure(name, &database.warehouse, CUTS).await;
        database.end().await;
    }
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; see the file's first lines"]
async fn upserting_many_groups_embedded() {
    let insert = WarehouseSettings { insert_rows_max: usize::MAX, ..Default::default() };
    for (name, settings) in [("COPY", WarehouseSettings::default()), ("INSERT", insert)] {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("embedded:{}", directory.path().join("db").display());
        let warehouse = Warehouse::connect(&url, &settings).await.unwrap();
        warehouse.migrate().await.unwrap();
        measure(&format!("embedded {name}"), &warehouse, 3).await;
        warehouse.close().await;
    }
}
