//! Loads that a person brackets, against PostgreSQL: streams of Replicate's messages in cuts of any size, with
//! brackets recorded while cuts are open, give the tables that the source has, and the same ones however they
//! are cut.
//!
//! Bugs that these tests were seen to find, planted one by one: a change behind
//! the beginning that keeps its own position; a load row behind the end taken for one of the load; a swap before the
//! end is read; a load that begins with its partitions; a load that cuts see only when it has ended.

use super::*;
use crate::{
    compute::tests::changes::{DELETED, Declared, GROUPS, ROWS, VERSIONS, fresh},
    decode::Decoder,
    record::RawRecord,
    warehouse::swap::{State, Wish},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::{BTreeMap, VecDeque};

const STREAMS: u64 = 12;
const PARTITIONS: i32 = 3;
/// Later than any clock that tells when a load began.
const YEAR_2100_US: i64 = 4_102_444_800_000_000;

enum Event {
    Record { key: i32, text: String },
    Begin,
    End,
}

type Source = BTreeMap<i32, (String, i64, String)>;

/// What comes, and what the source has in the end.
fn stream(seed: u64) -> (Vec<Event>, Source) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut events, mut source) = (Vec::new(), Source::new());
    // The source's log may seem to go back where a table is loaded.
    let mut sequence = 1_000_000u64;
    for _ in 0..random.random_range(3..8) {
        for _ in 0..random.random_range(0..12) {
            sequence += 1;
            changed(&mut random, &mut source, &mut events, sequence);
        }
        if random.random_bool(0.2)
            && let Some((key, row)) = source.iter().next()
        {
            events.push(record("REFRESH", *key, row, None));
        }
        if random.random_bool(0.7) {
            for key in 0..12 {
                match random.random_range(0..10) {
                    0 => drop(source.remove(&key)),
                    1 => drop(source.insert(key, values(&mut random))),
                    _ => {}
                }
            }
            // A load of nothing may be held or passed over, as cuts fall.
            if source.is_empty() {
                source.insert(3, values(&mut random));
            }
            events.push(Event::Begin);
            let mut keys: Vec<i32> = source.keys().copied().collect();
            let from = random.random_range(0..keys.len());
            keys.rotate_left(from);
            events.extend(keys.iter().map(|key| record("REFRESH", *key, &source[key], None)));
            sequence -= random.random_range(0..100_000);
            for _ in 0..random.random_range(0..8) {
                sequence += 1;
                changed(&mut random, &mut source, &mut events, sequence);
            }
            events.push(Event::End);
        }
    }
    (events, source)
}

fn values(random: &mut StdRng) -> (String, i64, String) {
    let text = ["x", "hidden", "long"][random.random_range(0..3)];
    let group = ["north", "south"][random.random_range(0..2)];
    (text.to_owned(), random.random_range(0..5), group.to_owned())
}

fn changed(random: &mut StdRng, source: &mut Source, events: &mut Vec<Event>, sequence: u64) {
    let key = random.random_range(0..12);
    let gone = random.random_bool(0.3).then(|| source.remove(&key)).flatten();
    if let Some(row) = gone {
        return events.push(record("DELETE", key, &row, Some(sequence)));
    }
    let row = values(random);
    let operation = if source.contains_key(&key) { "UPDATE" } else { "INSERT" };
    events.push(record(operation, key, &row, Some(sequence)));
    source.insert(key, row);
}

fn record(operation: &str, key: i32, row: &(String, i64, String), sequence: Option<u64>) -> Event {
    let sequence = sequence.map_or(String::new(), |sequence| format!("{sequence:035}"));
    let (a, b, g) = row;
    let text = format!(
        "{{\"data\":{{\"k\":{key},\"a\":\"{a}\",\"b\":{b},\"g\":\"{g}\"}},\"headers\":{{\"operation\":\"{operation}\",\
         \"changeSequence\":\"{sequence}\"}}}}"
    );
    Event::Record { key, text }
}

fn declared(statement: &str) -> Declared {
    let topic = "topic = \"taps\"\nformat = \"qlik\"\n[changes]\nkey = [\"k\"]\n[columns]\nk = \"integer\"\na = \"text\"\nb = \
                 \"bigint\"\ng = \"text\"\n";
    let model = format!("CREATE MATERIALIZED VIEW {}", statement.replace("FROM t ", "FROM taps "));
    let catalog = crate::catalog::check(
        &[(PathBuf::from("topics/taps.toml"), topic.to_owned())],
        &[(PathBuf::from("sql/models/m.sql"), model)],
    );
    let catalog = catalog.unwrap_or_else(|mistakes| panic!("{:?}", mistakes[0].to_string()));
    let (topic, model) = (catalog.topics["taps"].clone(), catalog.models["m"].clone());
    Declared { topic, model, sparse: false }
}

/// Swaps in what is whole; a person accepts what is held.
async fn swap(warehouse: &Warehouse, declared: &Declared) {
    let (topic, model) = (&declared.topic, &declared.model);
    let row = warehouse.swap(topic, model, &Wish::Ended, false).await.unwrap();
    if row.is_some_and(|row| row.state == State::Held) {
        let by = "a test".to_owned();
        let row = warehouse.swap(topic, model, &Wish::Accept { by }, false).await.unwrap();
        assert_eq!(row.map(|row| row.state), Some(State::Applied));
    }
}

/// Commits the stream in cuts, as `random` makes them.
async fn follow(warehouse: &Warehouse, declared: &Declared, events: &[Event], random: &mut StdRng) {
    let output = model_output("m");
    let partitions: Vec<i32> = (0..PARTITIONS).collect();
    let mut logs: BTreeMap<i32, i64> = partitions.iter().map(|p| (*p, 0)).collect();
    let mut open: BTreeMap<i32, VecDeque<(i64, String)>> = BTreeMap::new();
    let mut marks: BTreeMap<i32, Mark> = BTreeMap::new();
    let mut tables = fresh(declared);
    let mut events = events.iter();
    loop {
        let mut ended = false;
        for _ in 0..random.random_range(0..10) {
            let ends: Vec<_> = logs.iter().map(|(p, end)| (Partition(*p), Offset(*end))).collect();
            match events.next() {
                None => ended = true,
                Some(Event::Begin) => {
                    let begun = warehouse.begin_load(TOPIC, &ends, "a test").await.unwrap();
                    assert!(begun.is_some_and(|load| load.to.is_none()));
                    assert_eq!(warehouse.begin_load(TOPIC, &ends, "a test").await.unwrap(), None);
                }
                Some(Event::End) => {
                    let load = warehouse.end_load(TOPIC, &ends, "a test").await.unwrap();
                    assert!(load.is_some_and(|load| load.to.is_some()));
                    assert_eq!(warehouse.end_load(TOPIC, &ends, "a test").await.unwrap(), None);
                }
                Some(Event::Record { key, text }) => {
                    let offset = logs.get_mut(&(key % PARTITIONS)).unwrap();
                    let waiting = open.entry(key % PARTITIONS).or_default();
                    waiting.push_back((*offset, text.clone()));
                    *offset += 1;
                }
            }
        }
        if marks.is_empty() || random.random_bool(0.2) {
            // Another process.
            let claim = claim(std::slice::from_ref(&output), &partitions);
            let taken = warehouse.take(&claim).await.unwrap().marks;
            marks = taken.into_iter().map(|(_, partition, mark)| (partition.0, mark)).collect();
            tables = fresh(declared);
        }
        let mut advances = Vec::new();
        for (partition, mark) in &mut marks {
            let waiting = open.entry(*partition).or_default();
            let most = if ended { usize::MAX } else { random.random_range(0..6) };
            let taken: Vec<_> = waiting.drain(..most.min(waiting.len())).collect();
            let records: Vec<_> = taken
                .iter()
                .map(|(offset, text)| RawRecord {
                    partition: Partition(*partition),
                    offset: *offset,
                    timestamp: EventTime(YEAR_2100_US + offset * 1_000_000),
                    key: None,
                    value: Some(text.as_bytes()),
                })
                .collect();
            let decoded = Decoder::new(declared.topic.clone(), None).decode(&records);
            assert_eq!(decoded.rejects, []);
            let from: Vec<_> = (0..8).map(|p| (Partition(p), Offset(0))).collect();
            assert_eq!(tables.admit(&records, &decoded, &from, &[]).unwrap(), []);
            advances.push(super::advance(&output, *partition, mark, records.len() as u64));
            mark.next = Offset(mark.next.0 + records.len() as i64);
        }
        let yields = tables.seal().unwrap().tables.into_iter();
        let yields = yields.map(|(model, delta)| Yield::Table { model, delta });
        warehouse.commit(&super::cut(advances, yields.collect())).await.unwrap();
        if ended || random.random_bool(0.4) {
            swap(warehouse, declared).await;
        }
        if ended {
            return;
        }
    }
}

async fn streams_give_what_the_source_has(statement: &str, asked: &str, kept: &str) {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let declared = declared(statement);
    for seed in 0..STREAMS {
        let (events, source) = stream(seed);
        let mut wanted: Vec<String> = match statement {
            GROUPS => {
                let mut groups: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
                for (_, b, g) in source.values().filter(|row| row.0 != "hidden") {
                    let group = groups.entry(g).or_default();
                    *group = (group.0 + 1, group.1 + b);
                }
                groups.iter().map(|(g, (n, total))| format!("{g}|{n}|{total}")).collect()
            }
            _ => {
                let there = source.iter().filter(|(_, row)| row.0 != "hidden");
                there.map(|(k, (a, b, g))| format!("{k}|{a}|{b}|{g}")).collect()
            }
        };
        wanted.sort();
        let mut whole = Vec::new();
        for run in 0..3 {
            begin_anew(warehouse, &declared.model).await;
            let mut random = StdRng::seed_from_u64(seed * 100 + run);
            follow(warehouse, &declared, &events, &mut random).await;
            let mut found = read(warehouse, asked).await;
            found.sort();
            assert_eq!(found, wanted, "seed {seed}, run {run}");
            let mut all = read(warehouse, kept).await;
            all.sort();
            whole.push(all);
        }
        assert!(whole.windows(2).all(|two| two[0] == two[1]), "seed {seed}: {whole:#?}");
    }
    database.end().await;
}

const STORED: &str = "SELECT k, a, b, g, \"_source_position\", \"_deleted\" FROM m__source";

#[tokio::test]
async fn a_table_of_rows_is_what_the_source_has_after_loads() {
    streams_give_what_the_source_has(ROWS, "SELECT k, a, b, g FROM m", STORED).await;
}

#[tokio::test]
async fn soft_deletes_tell_what_loads_did_not_hold() {
    let asked = "SELECT k, a, b, g FROM m WHERE _deleted_at IS NULL";
    streams_give_what_the_source_has(DELETED, asked, "SELECT k, a, b, g, _deleted_at FROM m").await;
}

#[tokio::test]
async fn a_history_ends_what_loads_did_not_hold() {
    let asked = "SELECT k, a, b, g FROM m WHERE valid_to IS NULL";
    let kept = "SELECT k, a, b, g, valid_from, valid_to FROM m";
    streams_give_what_the_source_has(VERSIONS, asked, kept).await;
}

#[tokio::test]
async fn groups_give_back_what_loads_did_not_hold() {
    let asked = "SELECT g, n, total FROM m WHERE n > 0";
    streams_give_what_the_source_has(GROUPS, asked, STORED).await;
}
