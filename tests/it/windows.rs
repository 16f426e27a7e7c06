//! Windows of every shape through real Kafka, against answers that take one event at a time.

use crate::support::{Lake, Running, World, data, lines};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use std::collections::{BTreeMap, BTreeSet};

const EVENTS: &str = r#"topic = "{topic}"
format = "json"
event_time = "at"
max_disorder = "1h"

[columns]
k  = "text"
n  = "integer"
at = "timestamptz"

[lake]
roll = { age = "1s" }
"#;

/// An event: seconds since 1970, key, number.
type Event = (i64, String, i64);

fn world(name: &str, models: &[(&str, &str)]) -> Option<World> {
    let world = World::empty(name, 3, Lake::Local)?;
    world.declare("events", EVENTS);
    for (model, sql) in models {
        world.declare_model(model, &format!("CREATE MATERIALIZED VIEW {model} {sql}"));
    }
    Some(world)
}

fn records(events: &[Event]) -> Vec<(String, String)> {
    let record = |(at, k, n): &Event| {
        let at = chrono::DateTime::from_timestamp(*at, 0).expect("in the calendar");
        let at = at.format("%Y-%m-%dT%H:%M:%SZ");
        // Spread over the partitions by number: each key is in every partition.
        (n.to_string(), format!(r#"{{"at":"{at}","k":"{k}","n":{n}}}"#))
    };
    events.iter().map(record).collect()
}

fn assert_verified(world: &World, tables: usize) {
    world.assert_proof();
    let proof = world.run(&["verify", "--deep"]);
    let rebuilt = format!("{tables} tables rebuilt");
    assert!(proof.contains("everything holds") && proof.contains(&rebuilt), "{proof}");
}

/// Doubles and sketches are of the order in which cuts were merged: near, as the proof has it.
fn assert_nearly_made_anew(world: &World, models: &[&str]) {
    for model in models {
        world.query(&format!("DELETE FROM {model} AS t WHERE hashtext(t::text) % 3 = 0"));
        world.run(&["replay", model]);
    }
    assert_verified(world, models.len());
}

fn text(cells: &[&dyn ToString]) -> Vec<Option<String>> {
    cells.iter().map(|cell| Some(cell.to_string())).collect()
}

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
/// 2024-01-01, and the two instants of 2024 at which London set its clock.
const NEW_YEAR: i64 = 1_704_067_200;
const SUMMER: i64 = 1_711_846_800;
const WINTER: i64 = 1_729_990_800;

#[test]
fn a_year_of_london_days_has_one_of_23_and_one_of_25_hours() {
    let models = [
        (
            "daily",
            "AS SELECT tumble(interval '1 day', 'Europe/London') AS window, k, count(*) AS events,
             sum(n) AS n FROM events GROUP BY window, k",
        ),
        (
            "hourly",
            "AS SELECT tumble(interval '1 hour', 'Europe/London') AS window, count(*) AS events
             FROM events GROUP BY window",
        ),
        (
            "monthly",
            "AS SELECT tumble(interval '1 month', 'Europe/London') AS window, count(*) AS events
             FROM events GROUP BY window",
        ),
    ];
    let Some(world) = world("london", &models) else { return };
    let mut random = SmallRng::seed_from_u64(2024);
    let mut events: Vec<Event> = (0..366 * 24 * 4)
        .map(|n| {
            let at = NEW_YEAR + n * HOUR / 4 + random.random_range(-1_800..1_800);
            (at, format!("k{}", random.random_range(0..2)), n)
        })
        .collect();
    // The very instants around both changes.
    for at in [SUMMER, WINTER, WINTER - HOUR, WINTER + HOUR, WINTER + DAY, SUMMER - HOUR] {
        events.extend([(at - 1, "k0".to_owned(), 1), (at, "k1".to_owned(), 1)]);
    }
    events.sort();
    for piece in events.chunks_mut(500) {
        piece.shuffle(&mut random);
    }
    world.produce(records(&events));
    world.run_until_caught_up();

    let is_summer = |at: i64| (SUMMER..WINTER).contains(&at);
    let local = |at: i64| at + if is_summer(at) { HOUR } else { 0 };
    let mut daily: BTreeMap<(i64, &str), (i64, i64)> = BTreeMap::new();
    let mut hourly: BTreeMap<i64, i64> = BTreeMap::new();
    let mut monthly: BTreeMap<String, i64> = BTreeMap::new();
    for (at, k, n) in &events {
        let day = daily.entry((local(*at).div_euclid(DAY), k)).or_default();
        *day = (day.0 + 1, day.1 + n);
        *hourly.entry(at.div_euclid(HOUR) * HOUR).or_default() += 1;
        let month = chrono::DateTime::from_timestamp(local(*at), 0).expect("in the calendar");
        *monthly.entry(month.format("%Y-%m").to_string()).or_default() += 1;
    }
    let hours = |day: i64| match day {
        // 2024-03-31 and 2024-10-27.
        19_813 => 23,
        20_023 => 25,
        _ => 24,
    };
    let wanted: Vec<_> = daily
        .iter()
        .map(|((day, k), (events, n))| text(&[day, k, events, n, &hours(*day)]))
        .collect();
    let found = world.query(
        "SELECT (window_start AT TIME ZONE 'Europe/London')::date - date '1970-01-01', k, events, n,
                (extract(epoch FROM window_end - window_start) / 3600)::integer
         FROM daily ORDER BY window_start, k",
    );
    assert_eq!(found, wanted);
    let wanted: Vec<_> =
        hourly.iter().map(|(start, events)| text(&[start, &HOUR, events])).collect();
    let found = world.query(
        "SELECT extract(epoch FROM window_start)::bigint,
                extract(epoch FROM window_end - window_start)::bigint, events
         FROM hourly ORDER BY window_start",
    );
    assert_eq!(found, wanted, "the hour that comes twice is two");
    let wanted: Vec<_> = monthly.iter().map(|(month, events)| text(&[month, events])).collect();
    let found = world.query(
        "SELECT to_char(window_start AT TIME ZONE 'Europe/London', 'YYYY-MM'), events
         FROM monthly ORDER BY window_start",
    );
    assert_eq!(found, wanted);
    assert_verified(&world, 3);
}

/// Events of so many seconds, disordered by up to `disorder`, in the order of their arrival.
fn disordered(count: i64, seconds: i64, disorder: i64, seed: u64) -> Vec<Event> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut event = |n| {
        let at = NEW_YEAR + n * seconds / count - random.random_range(0..disorder);
        (at, format!("k{}", random.random_range(0..40)), n)
    };
    (0..count).map(&mut event).collect()
}

#[test]
fn windows_that_overlap_hold_what_each_of_them_should() {
    let models = [
        (
            "sliding",
            "AS SELECT hop(interval '5 minutes', interval '1 hour') AS window, k, count(*) AS events,
             sum(n) AS n, min(n) AS low, max(n) AS high, avg(n) AS mean,
             count(DISTINCT n % 7) AS sevenths, arg_max(n % 11, n) AS eleventh,
             round(stddev_pop(n), 3) AS spread, bool_and(n % 5 > 0) AS no_fifth,
             approx_distinct(n) AS about, approx_percentile(n, 1) AS high_too FROM events
             GROUP BY window, k",
        ),
        (
            "uneven",
            "AS SELECT hop(interval '10 minutes', interval '25 minutes') AS window, count(*) AS events
             FROM events GROUP BY window",
        ),
        (
            "dropping",
            "WITH (late = 'drop') AS SELECT hop(interval '1 hour', interval '3 hours') AS window,
             count(*) AS events FROM events GROUP BY window",
        ),
    ];
    let Some(world) = world("hop", &models) else { return };
    let events = disordered(20_000, DAY, 4 * HOUR, 5);
    world.produce(records(&events));
    world.run_until_caught_up();

    let slow = |slide: i64, size: i64| {
        let mut windows: BTreeMap<(i64, &str), Vec<i64>> = BTreeMap::new();
        for (at, k, n) in &events {
            let mut start = at.div_euclid(slide) * slide;
            while start + size > *at {
                windows.entry((start, k)).or_default().push(*n);
                start -= slide;
            }
        }
        windows
    };
    let wanted: Vec<_> = slow(300, HOUR)
        .iter()
        .map(|((start, k), ns)| {
            let (count, sum) = (ns.len() as i64, ns.iter().sum::<i64>());
            let (low, high) = (ns.iter().min().unwrap(), ns.iter().max().unwrap());
            let sevenths = ns.iter().map(|n| n % 7).collect::<BTreeSet<_>>().len();
            let no_fifth = ns.iter().all(|n| n % 5 > 0);
            // So few are counted exactly.
            let more = text(&[&sevenths, &(high % 11), &no_fifth, &count, high]);
            let row = text(&[start, &HOUR, k, &count, &sum, low, high, &(sum * 100 / count)]);
            [row, more].concat()
        })
        .collect();
    let found = world.query(
        "SELECT extract(epoch FROM window_start)::bigint,
                extract(epoch FROM window_end - window_start)::bigint, k, events, n, low, high,
                trunc(mean * 100), sevenths, eleventh, no_fifth::text, about, high_too::bigint
         FROM sliding ORDER BY window_start, k COLLATE \"C\"",
    );
    assert_eq!(found, wanted);
    let mut uneven: BTreeMap<i64, usize> = BTreeMap::new();
    for ((start, _), ns) in slow(600, 1_500) {
        *uneven.entry(start).or_default() += ns.len();
    }
    let wanted: Vec<_> = uneven.iter().map(|(start, events)| text(&[start, events])).collect();
    let found = world.query(
        "SELECT extract(epoch FROM window_start)::bigint, events FROM uneven ORDER BY window_start",
    );
    assert_eq!(found, wanted);
    // What was late depends on each partition's order: the lake has it, and `verify` rebuilds from it.
    let late =
        world.number("SELECT sum(late) FROM highwater.marks WHERE output = 'model:dropping'");
    let whole = 3 * events.len() as i64;
    let held = world.number("SELECT sum(events) FROM dropping");
    assert!(
        late > 0 && held < whole - 3 * late,
        "some are late for some windows only: {late} {held}"
    );
    assert_verified(&world, 3);
    assert_nearly_made_anew(&world, &["sliding", "dropping", "uneven"]);
}

/// The sessions of a Sunday's taps: (key, first, last), taps, fares, least of the other column.
type Sessions = BTreeMap<(String, i64, i64), (i64, Option<i64>, String)>;

fn sessions(taps: &[serde_json::Value], key: &str, other: &str, gap: i64) -> Sessions {
    let word = |tap: &serde_json::Value, name: &str| tap[name].as_str().expect(name).to_owned();
    let mut by_key: BTreeMap<String, Vec<(i64, Option<i64>, String)>> = BTreeMap::new();
    for tap in taps {
        let at =
            chrono::DateTime::parse_from_rfc3339(tap["eventTime"].as_str().expect("eventTime"));
        let tapped = (at.expect("an instant").timestamp(), tap["fare"].as_i64(), word(tap, other));
        by_key.entry(word(tap, key)).or_default().push(tapped);
    }
    let mut sessions = Sessions::new();
    for (key, mut taps) in by_key {
        taps.sort();
        for session in taps.chunk_by(|a, b| b.0 - a.0 <= gap) {
            let fare = session.iter().filter_map(|tap| tap.1).reduce(|a, b| a + b);
            let least = session.iter().map(|tap| tap.2.clone()).min().expect("a tap");
            let place = (key.clone(), session[0].0, session[session.len() - 1].0);
            sessions.insert(place, (session.len() as i64, fare, least));
        }
    }
    sessions
}

#[test]
fn sessions_of_the_oyster_sunday_are_those_of_a_slow_look() {
    let Some(data) = data() else { return };
    // Column and member of the key, and of what is looked for the least of.
    let (token, stop) = (("token_id", "tokenId"), ("stop_id", "stopId"));
    let models = [("journeys", token, stop, 7_200), ("at_stops", stop, token, 240)];
    let Some(world) = World::new("sessions", 6, Lake::Local, "oyster_taps", &[]) else { return };
    for (model, (key, _), (other, _), gap) in models {
        world.declare_model(
            model,
            &format!(
                "CREATE MATERIALIZED VIEW {model} AS
                 SELECT session(interval '{gap} seconds') AS session, {key}, count(*) AS taps,
                        sum(fare) AS fare, min({other}) AS least,
                        first_value({other}) AS first, last_value({other}) AS last,
                        arg_max({other}, fare) AS dearest, bool_or(fare > 0) AS paid,
                        stddev_pop(fare::double precision) AS spread
                 FROM oyster_taps GROUP BY session, {key}"
            ),
        );
    }
    let taps = lines(&data.join("oyster_sunday_taps.jsonl.zst"));
    let parsed: Vec<serde_json::Value> =
        taps.iter().map(|tap| serde_json::from_str(tap).expect("JSON")).collect();
    // By tap, not by token: both ends of a journey are in partitions of their own, and two
    // processes meet in one session.
    let word = |tap: &serde_json::Value| tap["tapId"].as_str().expect("tapId").to_owned();
    world.produce(parsed.iter().map(word).zip(taps));
    let run = || {
        let mut command = world.command(&["run", "--until-caught-up"]);
        command.env("HIGHWATER_COMMIT_INTERVAL", "50ms").env("HIGHWATER_CATCH_UP_INTERVAL", "50ms");
        command.args(["--kafka", "queued.min.messages=2000,fetch.message.max.bytes=200000"]);
        Running::start(command)
    };
    for process in [run(), run()] {
        let (code, text) = process.wait();
        assert_eq!(code, Some(0), "{text}");
    }
    for (model, (key, member), (_, other_member), gap) in models {
        let wanted = sessions(&parsed, member, other_member, gap);
        let found = world.query(&format!(
            "SELECT {key}, extract(epoch FROM session_start)::bigint,
                    extract(epoch FROM session_end)::bigint - {gap}, taps, fare, least FROM {model}"
        ));
        let number =
            |cell: &Option<String>| cell.as_ref().map(|c| c.parse::<i64>().expect("number"));
        let found: Vec<_> = found
            .iter()
            .map(|row| {
                let text = |i: usize| row[i].clone().expect("not NULL");
                let whole = |i: usize| number(&row[i]).expect("not NULL");
                ((text(0), whole(1), whole(2)), (whole(3), number(&row[4]), text(5)))
            })
            .collect();
        assert_eq!(found.len(), wanted.len(), "sessions of {model}");
        assert_eq!(found.into_iter().collect::<Sessions>(), wanted, "{model}");
    }
    assert_verified(&world, 2);
    assert_nearly_made_anew(&world, &["journeys", "at_stops"]);
}
