//! Deltas and rows in their tables, by INSERT and by COPY: W-2, W-5, W-6.

use super::*;
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::BTreeMap;

pub fn instants(values: Vec<Option<i64>>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
}

/// (window start, stop) -> (taps, fare, low, high)
type Key = (i64, Option<String>);
type Parts = (i64, Option<i128>, Option<String>, Option<i64>);
type Groups = BTreeMap<Key, Parts>;

fn random_groups(random: &mut StdRng, count: usize) -> Groups {
    let texts = ["B", "a", "Ab", "ä", "_", ""];
    (0..count)
        .map(|_| {
            let window = 1_700_000_000_000_000 + random.random_range(0..4) * 300_000_000i64;
            let stop = random.random_bool(0.9).then(|| format!("s{}", random.random_range(0..300)));
            let fare = random.random_bool(0.7).then(|| random.random_range(-5i128..5) * (1 << 90));
            let low = random.random_bool(0.8).then(|| texts[random.random_range(0..6)].to_owned());
            let high = random.random_bool(0.8).then(|| random.random_range(-9..9));
            ((window, stop), (random.random_range(0..9), fare, low, high))
        })
        .collect()
}

pub fn delta(groups: &Groups) -> RecordBatch {
    let windows = groups.keys().map(|k| Some(k.0)).collect();
    let ends = groups.keys().map(|k| Some(k.0 + 300_000_000)).collect();
    let stops: StringArray = groups.keys().map(|k| k.1.as_deref()).collect();
    let taps: Int64Array = groups.values().map(|p| Some(p.0)).collect();
    let fare: Decimal128Array = groups.values().map(|p| p.1).collect();
    let low: StringArray = groups.values().map(|p| p.2.as_deref()).collect();
    let high: Int64Array = groups.values().map(|p| p.3).collect();
    batch(vec![
        ("window_start", instants(windows)),
        ("window_end", instants(ends)),
        ("stop_id", Arc::new(stops)),
        ("taps", Arc::new(taps)),
        ("fare", Arc::new(fare.with_precision_and_scale(38, 0).unwrap())),
        ("low", Arc::new(low)),
        ("high", Arc::new(high)),
    ])
}

/// The oracle: one group at a time.
fn merge(into: &mut Groups, delta: &Groups) {
    fn both<T: Clone>(a: &Option<T>, b: &Option<T>, merge: impl Fn(T, T) -> T) -> Option<T> {
        match (a.clone(), b.clone()) {
            (Some(a), Some(b)) => Some(merge(a, b)),
            (a, b) => a.or(b),
        }
    }
    for (key, parts) in delta {
        let there = into.entry(key.clone()).or_insert((0, None, None, None));
        there.0 += parts.0;
        there.1 = both(&there.1, &parts.1, |a, b| a + b);
        there.2 = both(&there.2, &parts.2, |a, b| a.min(b));
        there.3 = both(&there.3, &parts.3, |a, b| a.max(b));
    }
}

fn lines(groups: &Groups) -> Vec<String> {
    let text = |value: Option<String>| value.unwrap_or("NULL".into());
    let line = |(key, p): (&Key, &Parts)| {
        let stop = text(key.1.clone());
        let (fare, high) = (text(p.1.map(|v| v.to_string())), text(p.3.map(|v| v.to_string())));
        format!("{}|{stop}|{}|{fare}|{}|{high}", key.0 / 1_000_000, p.0, text(p.2.clone()))
    };
    groups.iter().map(line).collect()
}

const GROUPS: &str = "SELECT extract(epoch FROM window_start)::bigint, stop_id, taps, fare, low, high \
                      FROM taps_5m ORDER BY window_start, stop_id NULLS FIRST";

async fn merges_as_the_oracle(settings: &WarehouseSettings, options: &str) {
    let Some(database) = Database::new(settings, options).await else { return };
    let warehouse = &database.warehouse;
    warehouse.ensure_tables(&[Arc::new(aggregate("taps_5m"))]).await.unwrap();
    let output = model_output("taps_5m");
    let mut mark = take_one(warehouse, &output, 0).await;
    let (mut random, mut expected) = (StdRng::seed_from_u64(7), Groups::new());
    for _ in 0..12 {
        let groups = random_groups(&mut random, 400);
        let advances = vec![advance(&output, 0, &mark, 10)];
        let yields = vec![rows_of("taps_5m", delta(&groups))];
        warehouse.commit(&cut(advances, yields)).await.unwrap();
        merge(&mut expected, &groups);
        mark.next = Offset(mark.next.0 + 10);
    }
    assert_eq!(read(warehouse, GROUPS).await, lines(&expected));
    let mean =
        "SELECT count(*) FROM taps_5m WHERE mean IS DISTINCT FROM round(fare / nullif(taps, 0), 2)";
    assert_eq!(read(warehouse, mean).await, ["0"]);
    database.end().await;
}

fn by_copy() -> WarehouseSettings {
    WarehouseSettings { insert_rows_max: 0, ..WarehouseSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_by_insert_merge_as_the_oracle() {
    merges_as_the_oracle(&WarehouseSettings::default(), "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_by_copy_merge_as_the_oracle() {
    merges_as_the_oracle(&by_copy(), "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_compared_by_bytes_whatever_the_databases_collation() {
    let icu = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' ENCODING 'UTF8'";
    merges_as_the_oracle(&WarehouseSettings::default(), icu).await;
    merges_as_the_oracle(&by_copy(), icu).await;
}

/// Every type, with its NULL; `from` is the first offset.
pub fn every_type(from: i64) -> RecordBatch {
    let decimal = |values: Vec<Option<i128>>, scale: i8| -> ArrayRef {
        let array = Decimal128Array::from(values).with_precision_and_scale(38, scale).unwrap();
        Arc::new(array)
    };
    batch(vec![
        ("a_text", Arc::new(StringArray::from(vec![Some("a'\"\\\n\t€"), Some(""), None]))),
        ("a_boolean", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ("a_smallint", Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None]))),
        ("an_integer", Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None]))),
        ("a_bigint", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None]))),
        ("a_real", Arc::new(Float32Array::from(vec![Some(1.5), Some(f32::NEG_INFINITY), None]))),
        ("a_double", Arc::new(Float64Array::from(vec![Some(-0.1), Some(f64::NAN), None]))),
        ("a_numeric", decimal(vec![Some(-123_456_789), Some(1), None], 5)),
        ("any_numeric", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(10_000), None]))),
        ("a_date", Arc::new(Date32Array::from(vec![Some(-1), Some(19_783), None]))),
        ("an_instant", instants(vec![Some(-1), Some(1_709_280_000_123_456), None])),
        (
            "a_uuid",
            Arc::new(StringArray::from(vec![
                Some("00112233-4455-6677-8899-aabbccddeeff"),
                Some("00000000-0000-0000-0000-000000000000"),
                None,
            ])),
        ),
        (
            "a_jsonb",
            Arc::new(StringArray::from(vec![Some(r#"{"b": [1, null]}"#), Some("1"), None])),
        ),
        ("a_bytea", Arc::new(BinaryArray::from(vec![Some(&b"\0\xff"[..]), Some(b""), None]))),
        ("_event_time", instants(vec![Some(1); 3])),
        ("_partition", Arc::new(Int32Array::from(vec![0; 3]))),
        ("_offset", Arc::new(Int64Array::from_iter_values(from..from + 3))),
    ])
}

pub const EVERY_TYPE: [&str; 3] = [
    "a'\"\\\n\t€|t|-32768|-2147483648|-9223372036854775808|1.5|-0.1|-1234.56789|-9223372036854775808|\
     1969-12-31|1969-12-31 23:59:59.999999|00112233-4455-6677-8899-aabbccddeeff|{\"b\": [1, null]}|\\x00ff",
    "|f|32767|2147483647|9223372036854775807|-Infinity|NaN|0.00001|10000|2024-03-01|\
     2024-03-01 08:00:00.123456|00000000-0000-0000-0000-000000000000|1|\\x",
    "NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL",
];

pub const READ_EVERY_TYPE: &str = "SELECT a_text, a_boolean, a_smallint, an_integer, a_bigint, a_real, a_double, a_numeric, \
     any_numeric, a_date, an_instant AT TIME ZONE 'UTC', a_uuid, a_jsonb, a_bytea FROM everything \
     ORDER BY _offset";

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_as_it_was_by_both_ways() {
    for settings in [WarehouseSettings::default(), by_copy()] {
        let Some(database) = Database::new(&settings, "").await else { return };
        let warehouse = &database.warehouse;
        warehouse.ensure_tables(&[Arc::new(append("everything"))]).await.unwrap();
        let output = model_output("everything");
        let mark = take_one(warehouse, &output, 0).await;
        let yields = vec![rows_of("everything", every_type(0))];
        warehouse.commit(&cut(vec![advance(&output, 0, &mark, 3)], yields)).await.unwrap();
        assert_eq!(read(warehouse, READ_EVERY_TYPE).await, EVERY_TYPE);
        database.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numerics_of_any_size_read_back_from_the_server() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let model = grouped(
        "numbers",
        vec![
            ("n", PgType::BigInt, Role::Key),
            ("value", PgType::NumericAny, Role::Part(Merge::Greatest)),
        ],
    );
    warehouse.ensure_tables(&[Arc::new(model)]).await.unwrap();
    let output = model_output("numbers");
    let mut mark = take_one(warehouse, &output, 0).await;
    let mut random = StdRng::seed_from_u64(11);
    let mut expected = Vec::new();
    for scale in 0..=38u32 {
        let limit = 10i128.pow(38);
        let values: Vec<i128> = (0..40)
            .map(|i| {
                (random.random::<i128>() >> random.random_range(0..127)) % limit * (i % 5).min(1)
            })
            .collect();
        let first = i64::from(scale) * 100;
        let keys = Int64Array::from_iter_values(first..first + 40);
        let array = Decimal128Array::from(values.clone());
        let array = array.with_precision_and_scale(38, scale as i8).unwrap();
        let rows = batch(vec![("n", Arc::new(keys)), ("value", Arc::new(array))]);
        let advances = vec![advance(&output, 0, &mark, 1)];
        warehouse.commit(&cut(advances, vec![rows_of("numbers", rows)])).await.unwrap();
        mark.next = Offset(mark.next.0 + 1);
        expected.extend(values.iter().map(|value| format!("{value}|{scale}")));
    }
    let sql = "SELECT (value * 10::numeric ^ scale(value))::numeric(60, 0), scale(value) \
               FROM numbers ORDER BY n";
    assert_eq!(read(warehouse, sql).await, expected);
    database.end().await;
}

fn states(rows: &[(i64, &str, i64, i64)]) -> RecordBatch {
    let (ids, offsets) = (rows.iter().map(|r| r.0), rows.iter().map(|r| r.3));
    let states: StringArray = rows.iter().map(|r| Some(r.1)).collect();
    batch(vec![
        ("id", Arc::new(Int64Array::from_iter_values(ids))),
        ("state", Arc::new(states)),
        ("_event_time", instants(rows.iter().map(|r| Some(r.2)).collect())),
        ("_partition", Arc::new(Int32Array::from(vec![0; rows.len()]))),
        ("_offset", Arc::new(Int64Array::from_iter_values(offsets))),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_row_of_a_key_stays_in_whatever_order_rows_come() {
    for settings in [WarehouseSettings::default(), by_copy()] {
        let Some(database) = Database::new(&settings, "").await else { return };
        let warehouse = &database.warehouse;
        warehouse.ensure_tables(&[Arc::new(latest("orders"))]).await.unwrap();
        let output = model_output("orders");
        let mut mark = take_one(warehouse, &output, 0).await;
        for rows in [
            states(&[(1, "new", 10, 0), (2, "new", 10, 1)]),
            states(&[(1, "paid", 20, 2), (2, "older", 9, 3)]),
            states(&[(1, "same time, later offset", 20, 4)]),
        ] {
            let advances = vec![advance(&output, 0, &mark, 2)];
            warehouse.commit(&cut(advances, vec![rows_of("orders", rows)])).await.unwrap();
            mark.next = Offset(mark.next.0 + 2);
        }
        let found = read(warehouse, "SELECT id, state FROM orders ORDER BY id").await;
        assert_eq!(found, ["1|same time, later offset", "2|new"]);
        database.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_write_the_same_keys_do_not_deadlock() {
    for settings in [WarehouseSettings::default(), by_copy()] {
        let Some(database) = Database::new(&settings, "").await else { return };
        let model = Arc::new(aggregate("taps_5m"));
        database.warehouse.ensure_tables(&[model]).await.unwrap();
        let worker = |partition: i32| {
            let warehouse = database.warehouse.clone();
            tokio::spawn(async move {
                let output = model_output("taps_5m");
                let mut mark = take_one(&warehouse, &output, partition).await;
                let mut random = StdRng::seed_from_u64(partition as u64);
                let mut all = Groups::new();
                for _ in 0..15 {
                    let groups = random_groups(&mut random, 700);
                    let yields = vec![rows_of("taps_5m", delta(&groups))];
                    let advances = vec![advance(&output, partition, &mark, 1)];
                    warehouse.commit(&cut(advances, yields)).await.unwrap();
                    merge(&mut all, &groups);
                    mark.next = Offset(mark.next.0 + 1);
                }
                all
            })
        };
        let mut expected = Groups::new();
        for done in (0..4).map(worker).collect::<Vec<_>>() {
            merge(&mut expected, &done.await.unwrap());
        }
        assert_eq!(read(&database.warehouse, GROUPS).await, lines(&expected));
        database.end().await;
    }
}

#[test]
fn arrow_types_of_the_catalog_are_those_that_can_be_written() {
    for column in append("everything").columns {
        let array = arrow::array::new_null_array(&column.pg.arrow(), 1);
        assert!(super::super::encode::Elements::new(&column.name, &array, column.pg).is_ok());
    }
}
