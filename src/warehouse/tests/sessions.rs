//! Sessions in their tables: whatever the order of cuts and whoever commits them, what touches is
//! one row (M-2).
//!
//! Mutant it has caught: no lock, so that two processes add neighbours unseen.

use super::{merging::instants, *};
use crate::catalog::{Extreme, Late, Moments, Rank, Shape, Window};
use arrow::array::{Decimal128Array, Float64Array, Int32Array, Int64Array, StringArray};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use std::{collections::BTreeMap, time::Duration};

const SECOND: i64 = 1_000_000;
const GAP: i64 = 10 * SECOND;

/// Of a gap of ten seconds, with every way to merge; `keyed`: by card and zone.
pub fn sessions(name: &str, keyed: bool) -> Model {
    let window = Window {
        name: "s".into(),
        shape: Shape::Session { gap: Duration::from_micros(GAP as u64) },
        allowed_lateness: Duration::ZERO,
        late: Late::Amend,
    };
    let kind = Aggregate { window: Some(window), keys: Vec::new(), parts: Vec::new() };
    let names = ["_last_time", "_last_partition", "_last_offset"];
    let place = names.map(str::to_owned);
    let rank = Arc::new(Rank { by: None, place, wins: Extreme::Greatest });
    let last = || Role::Part(Merge::Win(rank.clone()));
    let [count, mean, squares] = ["_m_count", "_m_mean", "_m_m2"].map(str::to_owned);
    let moments = Arc::new(Moments { count, mean, squares });
    let mut columns = vec![
        ("s_start", PgType::Timestamptz, Role::WindowStart),
        ("s_end", PgType::Timestamptz, Role::WindowEnd),
        ("card", PgType::Text, Role::Key),
        ("zone", PgType::BigInt, Role::Key),
        ("taps", PgType::BigInt, Role::Part(Merge::Add)),
        ("fare", PgType::NumericAny, Role::Part(Merge::Add)),
        ("low", PgType::Text, Role::Part(Merge::Least)),
        ("high", PgType::BigInt, Role::Part(Merge::Greatest)),
        ("last", PgType::Text, last()),
        ("_last_time", PgType::Timestamptz, last()),
        ("_last_partition", PgType::Integer, last()),
        ("_last_offset", PgType::BigInt, last()),
        ("_m_count", PgType::BigInt, Role::Part(Merge::Add)),
        ("_m_mean", PgType::Double, Role::Part(Merge::Mean(moments.clone()))),
        ("_m_m2", PgType::Double, Role::Part(Merge::SquaredDifferences(moments))),
        ("mean", PgType::NumericAny, Role::Derived("round(fare / nullif(taps, 0), 2)".into())),
    ];
    columns.retain(|c| keyed || c.2 != Role::Key);
    model(name, ModelKind::Aggregate(kind), columns)
}

#[derive(Debug, Clone)]
struct Event {
    at: i64,
    offset: i64,
    card: Option<String>,
    zone: Option<i64>,
    fare: Option<i64>,
    low: Option<&'static str>,
}

type Key = (Option<String>, Option<i64>);

#[derive(Debug, Clone, PartialEq)]
struct Row {
    start: i64,
    end: i64,
    taps: i64,
    fare: Option<i64>,
    low: Option<&'static str>,
    high: i64,
    /// `low` of the last event, NULL or not, by time and offset.
    last: Option<&'static str>,
    last_at: (i64, i64),
    fares: Vec<i64>,
}

impl Row {
    /// Whole numbers that mean and squared differences make with the count.
    fn moments(&self) -> (i64, i64) {
        let (sum, squares) = (self.fares.iter().sum(), self.fares.iter().map(|f| f * f).sum());
        let (sum, squares): (i64, i64) = (sum, squares);
        (sum, self.fares.len() as i64 * squares - sum * sum)
    }
}

/// The sessions of events, by sorting each key's by time.
fn slow(events: &[Event], keyed: bool) -> Vec<(Key, Row)> {
    let mut by_key: BTreeMap<Key, Vec<Event>> = BTreeMap::new();
    for event in events {
        let key = if keyed { (event.card.clone(), event.zone) } else { (None, None) };
        by_key.entry(key).or_default().push(event.clone());
    }
    let mut rows = Vec::new();
    for (key, mut events) in by_key {
        events.sort_by_key(|e| e.at);
        for session in events.chunk_by(|a, b| b.at - a.at <= GAP) {
            let last = session.iter().max_by_key(|e| (e.at, e.offset)).expect("an event");
            rows.push((
                key.clone(),
                Row {
                    start: session[0].at,
                    end: session[session.len() - 1].at + GAP,
                    taps: session.len() as i64,
                    fare: session.iter().filter_map(|e| e.fare).reduce(|a, b| a + b),
                    low: session.iter().filter_map(|e| e.low).min(),
                    high: session.iter().map(|e| e.at % 7).max().unwrap_or_default(),
                    last: last.low,
                    last_at: (last.at, last.offset),
                    fares: session.iter().filter_map(|e| e.fare).collect(),
                },
            ));
        }
    }
    // As a cut has them.
    rows.sort_by(|a, b| (a.1.start, &a.0).cmp(&(b.1.start, &b.0)));
    rows
}

fn delta(rows: &[(Key, Row)], keyed: bool) -> RecordBatch {
    let of = |value: fn(&Row) -> i64| rows.iter().map(|(_, r)| Some(value(r))).collect();
    let fare: Decimal128Array = rows.iter().map(|(_, r)| r.fare.map(i128::from)).collect();
    let double = |value: fn(&Row) -> i64| -> Arc<Float64Array> {
        let of = |r: &Row| value(r) as f64 / r.fares.len().max(1) as f64;
        Arc::new(rows.iter().map(|(_, r)| Some(of(r))).collect())
    };
    let mut columns: Vec<(&str, arrow::array::ArrayRef)> = vec![
        ("s_start", instants(of(|r| r.start))),
        ("s_end", instants(of(|r| r.end))),
        ("card", Arc::new(rows.iter().map(|(k, _)| k.0.as_deref()).collect::<StringArray>())),
        ("zone", Arc::new(rows.iter().map(|(k, _)| k.1).collect::<Int64Array>())),
        ("taps", Arc::new(Int64Array::from_iter(of(|r| r.taps)))),
        ("fare", Arc::new(fare.with_precision_and_scale(38, 0).unwrap())),
        ("low", Arc::new(rows.iter().map(|(_, r)| r.low).collect::<StringArray>())),
        ("high", Arc::new(Int64Array::from_iter(of(|r| r.high)))),
        ("last", Arc::new(rows.iter().map(|(_, r)| r.last).collect::<StringArray>())),
        ("_last_time", instants(of(|r| r.last_at.0))),
        ("_last_partition", Arc::new(Int32Array::from(vec![0; rows.len()]))),
        ("_last_offset", Arc::new(Int64Array::from_iter(of(|r| r.last_at.1)))),
        ("_m_count", Arc::new(Int64Array::from_iter(of(|r| r.fares.len() as i64)))),
        ("_m_mean", double(|r| r.moments().0)),
        ("_m_m2", double(|r| r.moments().1)),
    ];
    columns.retain(|(name, _)| keyed || !["card", "zone"].contains(name));
    batch(columns)
}

fn lines(rows: &[(Key, Row)], keyed: bool) -> Vec<String> {
    fn text<T: ToString>(value: &Option<T>) -> String {
        value.as_ref().map_or("NULL".into(), T::to_string)
    }
    let mut lines: Vec<_> = rows
        .iter()
        .map(|((card, zone), r)| {
            let (fare, low) = (text(&r.fare), text(&r.low));
            let key = if keyed { format!("{}|{}|", text(card), text(zone)) } else { String::new() };
            let (last, (sum, squares)) = (text(&r.last), r.moments());
            let more = format!("{last}|{}|{}|{sum}|{squares}", r.last_at.1, r.fares.len());
            format!("{key}{}|{}|{}|{fare}|{low}|{}|{more}", r.start, r.end, r.taps, r.high)
        })
        .collect();
    lines.sort();
    lines
}

async fn stored(warehouse: &Warehouse, table: &str, keyed: bool) -> Vec<String> {
    let keys = if keyed { "card, zone, " } else { "" };
    let micros = |column| format!("(extract(epoch FROM {column}) * 1000000)::bigint");
    let (start, end) = (micros("s_start"), micros("s_end"));
    let sql = format!(
        "SELECT {keys}{start}, {end}, taps, fare, low, high, last, _last_offset, _m_count,
                round(_m_mean * _m_count)::bigint, round(_m_m2 * _m_count)::bigint FROM {table}"
    );
    let mut lines = read(warehouse, &sql).await;
    lines.sort();
    lines
}

/// Near each other: neighbours touch, just touch, or just do not.
fn random_events(random: &mut StdRng, count: usize, cards: i64) -> Vec<Event> {
    let start = 1_700_000_000 * SECOND;
    let event = |_| Event {
        at: start + random.random_range(0..60) * GAP / 2 + random.random_range(-1..=1),
        offset: random.random(),
        card: random.random_bool(0.9).then(|| format!("c{}", random.random_range(0..cards))),
        zone: random.random_bool(0.8).then(|| random.random_range(0..2)),
        fare: random.random_bool(0.7).then(|| random.random_range(-5..9)),
        low: random.random_bool(0.7).then(|| ["B", "a", "Ab", "ä"][random.random_range(0..4)]),
    };
    (0..count).map(event).collect()
}

async fn sessions_of_any_cuts_are_those_of_all_events(keyed: bool, seed: u64) {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let mut random = StdRng::seed_from_u64(seed);
    for world in 0..12 {
        let name = format!("sessions_{world}");
        warehouse.ensure_tables(&[Arc::new(sessions(&name, keyed))]).await.unwrap();
        let output = model_output(&name);
        let mut mark = take_one(warehouse, &output, 0).await;
        let cards = random.random_range(1..12);
        let mut events = random_events(&mut random, 150, cards);
        match world % 3 {
            0 => events.sort_by_key(|e| e.at),
            1 => events.sort_by_key(|e| std::cmp::Reverse(e.at)),
            _ => events.shuffle(&mut random),
        }
        let mut rest = &events[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(random.random_range(1..=rest.len().min(40)));
            rest = later;
            let yields = vec![rows_of(&name, delta(&slow(now, keyed), keyed))];
            let advances = vec![advance(&output, 0, &mark, 1)];
            warehouse.commit(&cut(advances, yields)).await.unwrap();
            mark.next = Offset(mark.next.0 + 1);
            let done = &events[..events.len() - rest.len()];
            let wanted = lines(&slow(done, keyed), keyed);
            assert_eq!(stored(warehouse, &name, keyed).await, wanted, "{name}");
        }
        let wrong = format!(
            "SELECT count(*) FROM {name} WHERE mean IS DISTINCT FROM round(fare / nullif(taps, 0), 2)"
        );
        assert_eq!(read(warehouse, &wrong).await, ["0"]);
    }
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_with_keys_of_any_cuts_are_those_of_all_events() {
    sessions_of_any_cuts_are_those_of_all_events(true, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_without_keys_of_any_cuts_are_those_of_all_events() {
    sessions_of_any_cuts_are_those_of_all_events(false, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_may_bridge_stored_sessions_and_a_stored_one_those_of_a_cut() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    warehouse.ensure_tables(&[Arc::new(sessions("s", true))]).await.unwrap();
    let output = model_output("s");
    let mut mark = take_one(warehouse, &output, 0).await;
    let event = |second: i64| Event {
        at: second * SECOND,
        offset: second,
        card: Some("a".into()),
        zone: None,
        fare: Some(second),
        low: None,
    };
    let mut all = Vec::new();
    for (seconds, rows) in [
        // Three apart; then one that joins the first two, a gap from each; one before them all.
        (vec![0, 20, 60], 3),
        (vec![10], 2),
        (vec![-10], 2),
        // Two of a cut with a stored one between them, and one that joins everything.
        (vec![-30, 80, 90], 4),
        (vec![70, 30, 40, 50, -20], 1),
    ] {
        let now: Vec<_> = seconds.into_iter().map(event).collect();
        let yields = vec![rows_of("s", delta(&slow(&now, true), true))];
        warehouse.commit(&cut(vec![advance(&output, 0, &mark, 1)], yields)).await.unwrap();
        mark.next = Offset(mark.next.0 + 1);
        all.extend(now);
        let found = stored(warehouse, "s", true).await;
        assert_eq!(found.len(), rows, "{found:#?}");
        assert_eq!(found, lines(&slow(&all, true), true));
    }
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_with_the_same_keys_make_one_session_of_neighbours() {
    let Some(database) = Database::plain().await else { return };
    let models = ["ones", "twos"].map(|name| Arc::new(sessions(name, true)));
    database.warehouse.ensure_tables(&models).await.unwrap();
    let worker = |partition: i32| {
        let warehouse = database.warehouse.clone();
        tokio::spawn(async move {
            let outputs = ["ones", "twos"].map(model_output);
            let marks = warehouse.take(&claim(&outputs, &[partition])).await.unwrap().marks;
            let mut random = StdRng::seed_from_u64(partition as u64);
            let mut all = Vec::new();
            for cut_number in 0..15 {
                let events = random_events(&mut random, 60, 3);
                let rows = delta(&slow(&events, true), true);
                let yields = || vec![rows_of("twos", rows.clone()), rows_of("ones", rows.clone())];
                let advances = marks.iter().map(|(output, _, mark)| {
                    let mark = Mark { next: Offset(mark.next.0 + cut_number), ..*mark };
                    advance(output, partition, &mark, 1)
                });
                warehouse.commit(&cut(advances.collect(), yields())).await.unwrap();
                all.extend(events);
            }
            all
        })
    };
    let mut events = Vec::new();
    for done in (0..4).map(worker).collect::<Vec<_>>() {
        events.extend(done.await.unwrap());
    }
    for table in ["ones", "twos"] {
        let found = stored(&database.warehouse, table, true).await;
        assert_eq!(found, lines(&slow(&events, true), true), "{table}");
    }
    database.end().await;
}
