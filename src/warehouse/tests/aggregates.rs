//! Every aggregate, from records to the table, against PostgreSQL's own over all records at once.
//!
//! Records have disorder, ties of event time, NULLs and values at the ends of their types; several
//! processes take a partition each and commit at the same time, with batches and cuts of any size,
//! and lose what is open at any moment.

use super::*;
use crate::{
    catalog::{self, Topic},
    compute::Tables,
    decode::Decoder,
    record::RawRecord,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::fmt::Write;

const DECLARATION: &str = r#"topic = "taps"
format = "json"
event_time = "at"
max_future = "none"

[columns]
k      = { type = "text", optional = true }
txt    = { type = "text", optional = true }
small  = { type = "smallint", optional = true }
n      = { type = "integer", optional = true }
big    = { type = "bigint", optional = true }
amount = { type = "numeric(18,2)", optional = true }
ratio  = { type = "double precision", optional = true }
flag   = { type = "boolean", optional = true }
day    = { type = "date", optional = true }
id     = { type = "uuid", optional = true }
at     = "timestamptz"
"#;

/// What the table of raw records has besides: where each came from.
const RAW: &str = "CREATE TABLE raw (part integer, off bigint, k text COLLATE \"C\", txt text COLLATE \"C\",
  small smallint, n integer, big bigint, amount numeric(18,2), ratio double precision, flag boolean, day date,
  id uuid, at timestamptz)";

const PARTITIONS: i32 = 3;

pub struct Declared {
    pub topic: Arc<Topic>,
    pub model: Arc<Model>,
}

pub fn declared(statement: &str) -> Declared {
    let name = statement.split_whitespace().next().unwrap();
    let model = (
        PathBuf::from(format!("sql/models/{name}.sql")),
        format!("CREATE MATERIALIZED VIEW {statement}"),
    );
    let topic = (PathBuf::from("topics/taps.toml"), DECLARATION.to_owned());
    let catalog = catalog::check(&[topic], &[model]).unwrap();
    Declared { topic: catalog.topics["taps"].clone(), model: catalog.models[name].clone() }
}

/// One partition's records as JSON, at offsets from 0.
fn log(random: &mut StdRng, records: usize) -> Vec<String> {
    let one = |random: &mut StdRng| {
        let second = random.random_range(0..400) * random.random_range(0..2) + 1_700_000_000;
        let at = chrono::DateTime::from_timestamp(second, 0).unwrap();
        let mut out = format!("{{\"at\":\"{}\"", at.format("%Y-%m-%dT%H:%M:%SZ"));
        let mut member = |random: &mut StdRng, name: &str, values: &[&str]| {
            if random.random_bool(0.8) {
                let _ = write!(out, ",\"{name}\":{}", values.choose(random).unwrap());
            }
        };
        member(random, "k", &["\"a\"", "\"B\"", "\"é\"", "\"\""]);
        let text = format!("\"t{}\"", random.random_range(0..40));
        member(random, "txt", &[&text, "\"\"", "\"Z\"", "\"a\""]);
        member(random, "small", &["-32768", "32767", "0", "1", "2"]);
        member(random, "n", &["-2147483648", "2147483647", "0", "1", "2", "3", "7"]);
        let ends = ["-9223372036854775808", "9223372036854775807", "0", "5", "-6"];
        member(random, "big", &ends);
        member(random, "amount", &["9999999999999999.99", "-0.01", "0", "12.34", "12.35"]);
        member(random, "ratio", &["0.1", "-0.0", "0", "1e6", "1000000.25", "-3.5", "1e-200"]);
        member(random, "flag", &["true", "true", "true", "false"]);
        member(random, "day", &["\"2024-02-29\"", "\"0001-01-01\"", "\"9999-12-31\""]);
        let digit = random.random_range(0..9);
        let id = format!("\"00112233-4455-6677-8899-aabbccddee{digit}f\"");
        member(random, "id", &[&id]);
        out + "}"
    };
    (0..records).map(|_| one(random)).collect()
}

/// One process: takes its partition, reads on from the mark, commits, and sometimes starts again.
async fn work(
    warehouse: Warehouse,
    declared: Arc<Declared>,
    partition: i32,
    log: Arc<Vec<String>>,
    seed: u64,
) {
    let mut random = StdRng::seed_from_u64(seed);
    let output = model_output(&declared.model.name);
    loop {
        let mut mark = take_one(&warehouse, &output, partition).await;
        let mut tables =
            Tables::new(&declared.topic, std::slice::from_ref(&declared.model)).unwrap();
        let other = Output::DeadLetters;
        let place = Partition(partition);
        tables.adopt(&[(output.clone(), place, mark), (other, place, mark)], &[]);
        let mut next = mark.next.0 as usize;
        let mut decoder = Decoder::new(declared.topic.clone(), None);
        while next < log.len() || mark.next.0 < next as i64 {
            let end = (next + random.random_range(0..60)).min(log.len());
            let records: Vec<_> = (next..end)
                .map(|offset| RawRecord {
                    partition: place,
                    offset: offset as i64,
                    timestamp: EventTime(0),
                    key: None,
                    value: Some(log[offset].as_bytes()),
                })
                .collect();
            let decoded = decoder.decode(&records);
            assert_eq!(decoded.rejects, []);
            let refused = tables.admit(&records, &decoded, &[(place, mark.next)], &[]).unwrap();
            assert_eq!(refused, []);
            next = end;
            if random.random_bool(0.05) {
                break;
            }
            if random.random_bool(0.4) && mark.next.0 < next as i64 {
                let sealed = tables.seal().unwrap().tables;
                let yields = sealed.into_iter();
                let yields = yields.map(|(model, delta)| Yield::Table { model, delta }).collect();
                let count = next as u64 - mark.next.0 as u64;
                let advances = vec![advance(&output, partition, &mark, count)];
                warehouse.commit(&cut(advances, yields)).await.unwrap();
                mark.next = Offset(next as i64);
            }
        }
        if mark.next.0 as usize == log.len() {
            return;
        }
    }
}

/// The model's table from random logs by three processes at once, and the raw records beside it;
/// seeds of the records and of the cuts.
async fn filled(database: &Database, statement: &str, (seed, cuts): (u64, u64), records: usize) {
    let declared = Arc::new(declared(statement));
    let warehouse = &database.warehouse;
    warehouse.ensure_tables(std::slice::from_ref(&declared.model)).await.unwrap();
    warehouse.query_text(RAW).await.unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let mut cuts = StdRng::seed_from_u64(cuts);
    let mut workers = Vec::new();
    for partition in 0..PARTITIONS {
        let log = Arc::new(log(&mut random, records));
        let lines = log.iter().enumerate();
        let lines =
            lines.map(|(i, text)| format!("{{\"part\":{partition},\"off\":{i},{}", &text[1..]));
        let all = lines.collect::<Vec<_>>().join(",").replace('\'', "''");
        let insert = format!(
            "INSERT INTO raw SELECT * FROM jsonb_populate_recordset(NULL::raw, '[{all}]'::jsonb)"
        );
        warehouse.query_text(&insert).await.unwrap();
        let work = work(warehouse.clone(), declared.clone(), partition, log, cuts.random());
        workers.push(tokio::spawn(work));
    }
    for worker in workers {
        worker.await.unwrap();
    }
    // A second start finds the tables as they should be.
    warehouse.ensure_tables(std::slice::from_ref(&declared.model)).await.unwrap();
}

/// Rows of `table` that `expected` lacks, and the other way round.
async fn assert_equal(database: &Database, table: &str, expected: &str) {
    let sql = format!(
        "WITH t AS ({table}), e AS ({expected})
         SELECT 'table', to_jsonb(x)::text FROM (TABLE t EXCEPT ALL TABLE e) x
         UNION ALL SELECT 'wanted', to_jsonb(x)::text FROM (TABLE e EXCEPT ALL TABLE t) x ORDER BY 2, 1 LIMIT 10"
    );
    let wrong = read(&database.warehouse, &sql).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Settings, and the seed of the records.
fn ways() -> [(WarehouseSettings, u64); 4] {
    let copy = || WarehouseSettings { insert_rows_max: 0, ..WarehouseSettings::default() };
    [
        (WarehouseSettings::default(), 1),
        (WarehouseSettings::default(), 2),
        (copy(), 3),
        (WarehouseSettings { insert_rows_max: 20, ..copy() }, 4),
    ]
}

const DISTINCT: &str = "m AS
  SELECT k, tumble(interval '1 minute') AS w, count(*) AS rows, count(DISTINCT txt) AS texts,
         count(DISTINCT n) FILTER (WHERE flag) AS numbers, count(DISTINCT big) AS bigs,
         count(DISTINCT amount) AS amounts, count(DISTINCT day) AS days, count(DISTINCT id) AS ids,
         count(DISTINCT at) AS times, count(DISTINCT flag) AS flags,
         100 * count(DISTINCT small) / count(*) AS share
  FROM taps GROUP BY k, w";

#[tokio::test(flavor = "multi_thread")]
async fn distinct_values_are_counted_as_postgresql_counts_them() {
    for (settings, seed) in ways() {
        let Some(database) = Database::new(&settings, "").await else { return };
        filled(&database, DISTINCT, (seed, seed), 700).await;
        assert_equal(
            &database,
            "SELECT k, w_start, rows, texts, numbers, bigs, amounts, days, ids, times, flags, share FROM m",
            "SELECT k, date_bin('1 minute', at, 'epoch'), count(*), count(DISTINCT txt),
                    count(DISTINCT n) FILTER (WHERE flag), count(DISTINCT big), count(DISTINCT amount),
                    count(DISTINCT day), count(DISTINCT id), count(DISTINCT at), count(DISTINCT flag),
                    100 * count(DISTINCT small) / count(*)
             FROM raw GROUP BY 1, 2",
        )
        .await;
        assert_equal(
            &database,
            "SELECT k, w_start, _value FROM m__numbers",
            "SELECT DISTINCT k, date_bin('1 minute', at, 'epoch'), n FROM raw WHERE flag AND n IS NOT NULL",
        )
        .await;
        database.end().await;
    }
}

const CHOSEN: &str = "m AS
  SELECT k, n % 2 AS odd, first_value(txt) AS first_txt, last_value(big) FILTER (WHERE n > 0) AS last_big,
         last_value(at) AS last_at, last_value(flag) FILTER (WHERE flag IS NOT NULL) AS last_flag,
         arg_max(txt, amount) AS txt_most, arg_min(day, ratio) AS day_least, arg_max(id, txt) AS id_txt,
         arg_min(amount, flag) FILTER (WHERE big > 0) AS amount_flag, first_value(big) AS first_big,
         last_value(big) - first_value(big) AS grown,
         bool_and(flag) AS all_of, bool_or(n > 2) FILTER (WHERE small > 0) AS any_of, every(big > 0) AS each
  FROM taps GROUP BY k, odd";

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_chosen_as_postgresql_orders_them() {
    for (settings, seed) in ways() {
        let Some(database) = Database::new(&settings, "").await else { return };
        filled(&database, CHOSEN, (seed, seed), 500).await;
        assert_equal(
            &database,
            "SELECT k, odd, first_txt, last_big, last_at, last_flag, txt_most, day_least, id_txt, amount_flag,
                    grown, all_of, any_of, each FROM m",
            "SELECT k, n % 2, (array_agg(txt ORDER BY at, part, off))[1],
                    (array_agg(big ORDER BY at DESC, part DESC, off DESC) FILTER (WHERE n > 0))[1], max(at),
                    (array_agg(flag ORDER BY at DESC, part DESC, off DESC) FILTER (WHERE flag IS NOT NULL))[1],
                    (array_agg(txt ORDER BY amount DESC, at, part, off) FILTER (WHERE amount IS NOT NULL))[1],
                    (array_agg(day ORDER BY ratio, at, part, off) FILTER (WHERE ratio IS NOT NULL))[1],
                    (array_agg(id ORDER BY txt DESC, at, part, off) FILTER (WHERE txt IS NOT NULL))[1],
                    (array_agg(amount ORDER BY flag, at, part, off)
                       FILTER (WHERE flag IS NOT NULL AND big > 0))[1],
                    (array_agg(big::numeric ORDER BY at DESC, part DESC, off DESC))[1]
                      - (array_agg(big ORDER BY at, part, off))[1],
                    bool_and(flag), bool_or(n > 2) FILTER (WHERE small > 0), every(big > 0)
             FROM raw GROUP BY 1, 2",
        )
        .await;
        database.end().await;
    }
}

const SPREAD: &str = "m AS
  SELECT k, tumble(interval '2 minutes') AS w, var_samp(small) AS small_v, stddev(n) AS n_s,
         var_pop(big) AS big_p, stddev_pop(amount) FILTER (WHERE flag) AS amount_p, variance(amount) AS amount_v,
         sum(amount) AS amount_sum, variance(ratio) AS ratio_v, stddev_pop(ratio) AS ratio_p,
         var_samp(ratio) FILTER (WHERE flag) AS ratio_f, sum(ratio) AS ratio_sum, 2 * stddev(ratio) AS twice
  FROM taps GROUP BY k, w";

#[tokio::test(flavor = "multi_thread")]
async fn variances_are_those_of_postgresql() {
    for (settings, seed) in ways() {
        let Some(database) = Database::new(&settings, "").await else { return };
        filled(&database, SPREAD, (seed, seed), 500).await;
        let expected = "SELECT k, date_bin('2 minutes', at, 'epoch') AS w_start, var_samp(small) AS small_v,
                    stddev(n) AS n_s, var_pop(big) AS big_p, stddev_pop(amount) FILTER (WHERE flag) AS amount_p,
                    variance(amount) AS amount_v, sum(amount) AS amount_sum, variance(ratio) AS ratio_v,
                    stddev_pop(ratio) AS ratio_p, var_samp(ratio) FILTER (WHERE flag) AS ratio_f,
                    sum(ratio) AS ratio_sum, 2 * stddev(ratio) AS twice
             FROM raw GROUP BY 1, 2";
        // Of exact numbers the variances are the very same; PostgreSQL's roots of large ones are whole.
        let exact = "k, w_start, small_v, round(n_s, 0) AS n, big_p, round(amount_p, 2) AS a, amount_v, amount_sum";
        assert_equal(
            &database,
            &format!("SELECT {exact} FROM m"),
            &format!("SELECT {exact} FROM ({expected}) AS raw"),
        )
        .await;
        let near = ["ratio_v", "ratio_p", "ratio_f", "ratio_sum", "twice"].map(|c| {
            format!(
                "m.{c} IS DISTINCT FROM e.{c} AND coalesce(abs(m.{c} - e.{c}) > 1e-12 * abs(e.{c}) + 1e-3, true)"
            )
        });
        let far = format!(
            "SELECT m.ratio_v, e.ratio_v, m.ratio_f, e.ratio_f FROM m JOIN ({expected}) AS e
               ON m.k IS NOT DISTINCT FROM e.k AND m.w_start = e.w_start WHERE {}",
            near.join(" OR ")
        );
        let far = read(&database.warehouse, &far).await;
        assert!(far.is_empty(), "{}", far.join("\n"));
        database.end().await;
    }
}

const GROWN: &str = "m AS
  SELECT k, small, tumble(interval '20 seconds') AS w, delta(n) AS grown, count(*) AS rows,
         delta(amount) FILTER (WHERE flag) AS paid, 1 + delta(big) AS more, delta(n) * 2 AS twice
  FROM taps GROUP BY k, small, w";

/// Per window the last value, and from it the difference to the window before that has one.
const GROWN_EXPECTED: &str = "SELECT k, small, w_start, n - coalesce((
        SELECT b.n FROM last AS b WHERE b.k IS NOT DISTINCT FROM last.k AND b.small IS NOT DISTINCT FROM last.small
          AND b.w_start < last.w_start AND b.n IS NOT NULL ORDER BY b.w_start DESC LIMIT 1), 0) AS grown, rows,
      amount - coalesce((
        SELECT b.amount FROM last AS b WHERE b.k IS NOT DISTINCT FROM last.k
          AND b.small IS NOT DISTINCT FROM last.small AND b.w_start < last.w_start AND b.amount IS NOT NULL
        ORDER BY b.w_start DESC LIMIT 1), 0) AS paid,
      1 + big - coalesce((
        SELECT b.big FROM last AS b WHERE b.k IS NOT DISTINCT FROM last.k AND b.small IS NOT DISTINCT FROM last.small
          AND b.w_start < last.w_start AND b.big IS NOT NULL ORDER BY b.w_start DESC LIMIT 1), 0) AS more
    FROM (SELECT * FROM last) AS last";

const LAST: &str = "SELECT k, small, date_bin('20 seconds', at, 'epoch') AS w_start, count(*) AS rows,
      (array_agg(n::numeric ORDER BY at DESC, part DESC, off DESC) FILTER (WHERE n IS NOT NULL))[1] AS n,
      (array_agg(amount ORDER BY at DESC, part DESC, off DESC)
         FILTER (WHERE amount IS NOT NULL AND flag))[1] AS amount,
      (array_agg(big::numeric ORDER BY at DESC, part DESC, off DESC) FILTER (WHERE big IS NOT NULL))[1] AS big
    FROM raw GROUP BY 1, 2, 3";

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_to_the_window_before_whatever_comes_late() {
    for (settings, seed) in ways() {
        let Some(database) = Database::new(&settings, "").await else { return };
        filled(&database, GROWN, (seed, seed), 600).await;
        database.warehouse.query_text(&format!("CREATE TABLE last AS {LAST}")).await.unwrap();
        assert_equal(
            &database,
            "SELECT k, small, w_start, grown, rows, paid, more, twice FROM m",
            &format!("SELECT *, grown * 2 FROM ({GROWN_EXPECTED}) AS e"),
        )
        .await;
        database.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_falls_is_told_and_one_window_after_another_needs_no_key() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let declared = declared(
        "m AS SELECT tumble(interval '1 minute') AS w, delta(n) AS grown FROM taps GROUP BY w",
    );
    warehouse.ensure_tables(std::slice::from_ref(&declared.model)).await.unwrap();
    let output = model_output("m");
    let mut mark = take_one(warehouse, &output, 0).await;
    let mut told = Vec::new();
    // Minutes and readings; the third and the fifth come late.
    for (minute, reading) in [(0, "10"), (3, "25"), (1, "12"), (4, "20"), (2, "30"), (5, "null")] {
        let record = format!("{{\"at\":\"2024-03-01T00:0{minute}:00Z\",\"n\":{reading}}}");
        let place = Partition(0);
        let mut tables =
            Tables::new(&declared.topic, std::slice::from_ref(&declared.model)).unwrap();
        let letters = Output::DeadLetters;
        tables.adopt(&[(output.clone(), place, mark), (letters, place, mark)], &[]);
        let records = [RawRecord {
            partition: place,
            offset: mark.next.0,
            timestamp: EventTime(0),
            key: None,
            value: Some(record.as_bytes()),
        }];
        let decoded = Decoder::new(declared.topic.clone(), None).decode(&records);
        tables.admit(&records, &decoded, &[(place, mark.next)], &[]).unwrap();
        let sealed = tables.seal().unwrap().tables.into_iter();
        let yields = sealed.map(|(model, delta)| Yield::Table { model, delta }).collect();
        let advances = vec![advance(&output, 0, &mark, 1)];
        let committed = warehouse.commit(&cut(advances, yields)).await.unwrap();
        told.push(committed.below_zero.iter().map(|(_, count)| *count).sum::<u64>());
        mark.next = Offset(mark.next.0 + 1);
    }
    // 20 after 25 is one; 25 after 30, which came between, another.
    assert_eq!(told, [0, 0, 0, 1, 1, 0]);
    let grown = read(warehouse, "SELECT grown FROM m ORDER BY w_start").await;
    assert_eq!(grown, ["10", "2", "18", "-5", "-5", "NULL"]);
    database.end().await;
}

const ROUGH: &str = "m AS
  SELECT k, tumble(interval '1 minute') AS w, approx_distinct(txt) AS texts,
         approx_distinct(big) FILTER (WHERE flag) AS bigs, approx_distinct(amount) AS amounts,
         approx_distinct(day) AS days, approx_distinct(id) AS ids, approx_distinct(flag) AS flags,
         approx_distinct(at) AS times, approx_percentile(n, 0.5) AS half, approx_percentile(n, 0.9) AS most,
         approx_percentile(ratio, 0) AS least, approx_percentile(amount, 1) FILTER (WHERE flag) AS greatest,
         100 * approx_distinct(small) / count(*) AS share
  FROM taps GROUP BY k, w";

#[tokio::test(flavor = "multi_thread")]
async fn sketches_are_near_what_postgresql_counts_and_the_same_whatever_the_cuts() {
    let columns = "k, w_start, texts, bigs, amounts, days, ids, flags, times, half, most, least, greatest, share";
    let sql = format!("SELECT {columns} FROM m ORDER BY w_start, k NULLS FIRST");
    let mut before: Option<Vec<String>> = None;
    for (settings, seed) in ways() {
        let Some(database) = Database::new(&settings, "").await else { return };
        // The same records each time, and other cuts.
        filled(&database, ROUGH, (9, seed), 500).await;
        let nth = |share: &str, x: &str, filter: &str| {
            format!(
                "(array_agg({x} ORDER BY {x}) FILTER (WHERE {x} IS NOT NULL{filter}))[1 + \
                     floor({share} * (count({x}) FILTER (WHERE true{filter}) - 1))::integer]"
            )
        };
        let expected = format!(
            "SELECT k, date_bin('1 minute', at, 'epoch') AS w_start, count(DISTINCT txt) AS texts,
                    count(DISTINCT big) FILTER (WHERE flag) AS bigs, count(DISTINCT amount) AS amounts,
                    count(DISTINCT day) AS days, count(DISTINCT id) AS ids, count(DISTINCT flag) AS flags,
                    count(DISTINCT at) AS times, {} AS half, {} AS most, {} AS least, {} AS greatest,
                    100 * count(DISTINCT small) / count(*) AS share
             FROM raw GROUP BY 1, 2",
            nth("0.5", "n", ""),
            nth("0.9", "n", ""),
            nth("0.0", "ratio", ""),
            nth("1.0", "amount", " AND flag"),
        );
        // So few are counted exactly.
        let exact = "k, w_start, texts, bigs, amounts, days, ids, flags, times, share";
        assert_equal(
            &database,
            &format!("SELECT {exact} FROM m"),
            &format!("SELECT {exact} FROM ({expected}) AS e"),
        )
        .await;
        let far = ["half", "most", "least", "greatest"].map(|c| {
            format!("(m.{c} IS NULL) <> (e.{c} IS NULL) OR abs(m.{c} - e.{c}) > 0.0101 * abs(e.{c}) + 1e-8")
        });
        let far = format!(
            "SELECT m.k, m.half, e.half, m.most, e.most, m.least, e.least, m.greatest, e.greatest
             FROM m JOIN ({expected}) AS e ON m.k IS NOT DISTINCT FROM e.k AND m.w_start = e.w_start WHERE {}",
            far.join(" OR ")
        );
        let far = read(&database.warehouse, &far).await;
        assert!(far.is_empty(), "{}", far.join("\n"));
        let rows = read(&database.warehouse, &sql).await;
        if let Some(before) = before {
            assert_eq!(before, rows);
        }
        before = Some(rows);
        database.end().await;
    }
}
