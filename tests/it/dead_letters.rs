//! Refused records: listed, shown, and taken after all when what refused them was mended.

use crate::{
    support::{Lake, Running, World, eventually},
    taps::{Tap, taps},
};
use rand::Rng;
use std::time::Instant;

/// As `taps::TOPIC`, with two columns that no model reads and that some records have wrong.
const STRICT: &str = r#"
topic        = "{topic}"
format       = "json"
event_time   = "event_time"
max_disorder = "90s"

[columns]
tap_id     = "text"
stop_id    = "text"
mode       = "text"
event_time = "timestamptz"
fare_cents = { type = "bigint", optional = true }
device_id  = "text"
seats      = { type = "smallint", optional = true }

[lake]
partition_by = ["date(event_time)", "hour(event_time)"]
roll         = { bytes = "128MiB", age = "200ms" }

[dead_letters]
stop_above = "100%"
"#;

/// Mended: a device may be unknown, and nobody needs the seats.
fn mended() -> String {
    let optional = "device_id  = { type = \"text\", optional = true }";
    let text = STRICT.replace("device_id  = \"text\"", optional);
    text.lines().filter(|line| !line.starts_with("seats")).collect::<Vec<_>>().join("\n")
}

const MODELS: [(&str, &str); 4] = [
    ("by_stop", crate::taps::BY_STOP),
    ("paid_by_mode", crate::taps::PAID_BY_MODE),
    (
        "strictly",
        "CREATE MATERIALIZED VIEW strictly WITH (late = 'drop') AS
         SELECT tumble(interval '5 minutes') AS window, count(*) AS taps, sum(fare_cents) AS fare
         FROM taps GROUP BY window;",
    ),
    (
        "by_number",
        "CREATE MATERIALIZED VIEW by_number AS
         SELECT CAST(substr(tap_id, 5) AS bigint) % 10 AS number, count(*) AS taps
         FROM taps GROUP BY CAST(substr(tap_id, 5) AS bigint) % 10;",
    ),
];

fn world(name: &str, lake: Lake, topic: &str) -> Option<World> {
    let world = World::empty(name, 3, lake)?;
    world.declare("taps", topic);
    for (model, sql) in MODELS {
        world.declare_model(model, sql);
    }
    Some(world)
}

const TAPS: i64 = 20_000;
/// One in twenty is refused, of five kinds; the broken JSON stays so.
const REFUSED: i64 = TAPS / 20;
const BROKEN: i64 = REFUSED / 5;
/// Of a good record that one model cannot take, beside those that decode refuses first.
const NAMELESS: i64 = TAPS / 500;

fn record(tap: Tap) -> (String, String) {
    let (key, _) = tap.record();
    let mut value = tap.json();
    value["deviceId"] = "d1".into();
    value["seats"] = 4.into();
    if tap.0 % 200 == 150 {
        late(&mut value, tap);
    }
    if tap.0 % 500 == 77 {
        value["tapId"] = format!("tap-x{}", tap.0).into();
    }
    if tap.0 % 20 != 3 {
        return (key, value.to_string());
    }
    match tap.0 / 20 % 5 {
        0 => {
            value.as_object_mut().expect("an object").remove("deviceId");
            if tap.0 % 400 == 3 {
                late(&mut value, tap);
            }
        }
        1 => value["seats"] = 70_000.into(),
        2 => value["seats"] = "many".into(),
        3 => return (key, "{\"tapId\": ".to_owned()),
        _ => {
            value["deviceId"] = serde_json::Value::Null;
            value["tapId"] = format!("tap-x{}", tap.0).into();
        }
    }
    (key, value.to_string())
}

fn late(value: &mut serde_json::Value, tap: Tap) {
    let at = chrono::DateTime::from_timestamp(tap.seconds() - 7200, 0).expect("in range");
    value["eventTime"] = at.to_rfc3339().into();
}

fn records(numbers: std::ops::Range<i64>) -> impl Iterator<Item = (String, String)> {
    taps(numbers).map(record)
}

/// All that must not depend on whether a record was taken at once or by a retry.
fn state(world: &World) -> Vec<Vec<Option<String>>> {
    let mut state = Vec::new();
    for (model, order) in
        [("by_stop", "1, 2, 3"), ("paid_by_mode", "1"), ("strictly", "1"), ("by_number", "1")]
    {
        state.extend(world.query(&format!("SELECT * FROM {model} ORDER BY {order}")));
    }
    state.extend(world.query(
        "SELECT output, partition, first_offset, next_offset, accepted, filtered, late, dead, absent
         FROM highwater.marks ORDER BY output, partition",
    ));
    state.extend(world.query(
        "SELECT output, partition, \"offset\", class, reason FROM highwater.dead_letters ORDER BY 1, 2, 3",
    ));
    let mut places = crate::oyster::lake_places(world);
    places.sort_unstable();
    state.extend(places.into_iter().map(|place| vec![Some(format!("{place:?}"))]));
    state
}

/// What a run under the mended topic file gives of the same records.
fn clean(name: &str) -> Option<Vec<Vec<Option<String>>>> {
    let world = world(name, Lake::Local, &mended())?;
    world.produce(records(0..TAPS));
    world.run_until_caught_up();
    assert_proven(&world);
    Some(state(&world))
}

fn assert_proven(world: &World) {
    world.assert_proof();
    let text = world.run(&["verify", "--deep"]);
    assert!(text.contains("everything holds") && text.contains("4 tables rebuilt"), "{text}");
}

fn assert_as_clean(world: &World, clean: &[Vec<Option<String>>]) {
    let state = state(world);
    let differing = state.iter().zip(clean).find(|(a, b)| a != b);
    assert_eq!((state.len(), differing), (clean.len(), None), "retried, against a clean run");
    assert_proven(world);
}

/// What the last line of a retry counts: taken, taken but, refused.
fn counts(text: &str) -> Vec<i64> {
    let line = text.lines().last().unwrap_or_default();
    line.split(", ").map(|part| part.split(' ').next().unwrap_or("").parse().unwrap_or(-1)).collect()
}

fn letters(world: &World) -> i64 {
    world.number("SELECT count(*) FROM highwater.dead_letters")
}

const RETRY: [&str; 2] = ["dead-letters", "retry"];

#[test]
fn mended_letters_give_the_tables_of_a_clean_run_and_only_once() {
    let Some(clean) = clean("letters_clean") else { return };
    let world = world("letters", Lake::S3, STRICT).expect("services");
    world.produce(records(0..TAPS));
    world.run_until_caught_up();
    assert_eq!(letters(&world), REFUSED + NAMELESS);
    assert_proven(&world);

    // Nothing is mended: each is refused as before.
    let text = world.run(&RETRY);
    assert_eq!(counts(&text), [0, 0, REFUSED + NAMELESS, 0, 0], "{text}");
    assert_eq!(letters(&world), REFUSED + NAMELESS);

    world.declare("taps", &mended());
    let taken = REFUSED - 2 * BROKEN;
    let expected = [taken, BROKEN, BROKEN + NAMELESS, 0, 0];
    let text = world.run(&["dead-letters", "retry", "--dry-run"]);
    assert_eq!(counts(&text), expected, "{text}");
    assert!(text.contains("would be taken"), "{text}");
    assert_eq!(letters(&world), REFUSED + NAMELESS, "a dry run");
    let text = world.run(&RETRY);
    assert_eq!(counts(&text), expected, "{text}");
    assert!(text.contains("refused by model:by_number"), "{text}");
    assert_as_clean(&world, &clean);

    let text = world.run(&RETRY);
    assert_eq!(counts(&text), [0, 0, 2 * BROKEN + NAMELESS, 0, 0], "{text}");
    assert_as_clean(&world, &clean);
    world.run_until_caught_up();
    assert_as_clean(&world, &clean);
}

#[test]
fn two_at_a_time_beside_live_traffic_take_each_letter_once() {
    let Some(clean) = clean("letters_live_clean") else { return };
    let world = world("letters_live", Lake::Local, STRICT).expect("services");
    world.produce(records(0..TAPS / 2));
    world.run_until_caught_up();
    let before = letters(&world);
    world.declare("taps", &mended());
    let service = world.follow(&[("HIGHWATER_COMMIT_INTERVAL", "40ms")]);
    let mut from = TAPS / 2;
    let mut taken = 0;
    while from < TAPS {
        let to = (from + 1000).min(TAPS);
        world.produce(records(from..to));
        from = to;
        let both = [(); 2].map(|()| Running::start(world.command(&RETRY)));
        for retry in both {
            let (code, text) = retry.wait();
            assert_eq!(code, Some(0), "{text}");
            taken += counts(&text)[..2].iter().sum::<i64>();
        }
    }
    // Four of five; what came under the mended file was no letter, but for the broken.
    assert_eq!(taken, (before - NAMELESS / 2) / 5 * 4);
    eventually("all outputs at the end", || world.has_passed(6, TAPS));
    service.stop();
    assert_as_clean(&world, &clean);
}

#[test]
fn a_retry_killed_at_any_moment_and_done_again_takes_each_letter_once() {
    let Some(clean) = clean("letters_killed_clean") else { return };
    let world = world("letters_killed", Lake::S3, STRICT).expect("services");
    world.produce(records(0..TAPS));
    world.run_until_caught_up();
    world.declare("taps", &mended());
    let begun = Instant::now();
    world.run(&["dead-letters", "retry", "--dry-run"]);
    let whole = begun.elapsed() * 2;
    let mut rng = rand::rng();
    let mut left = Vec::new();
    for round in 0..10 {
        // One class, then another, so that there is something to take in each life.
        let class = ["missing", "range", "type", "missing", "malformed"][round / 2];
        let retry =
            Running::start(world.command(&["dead-letters", "retry", "--class", class]));
        std::thread::sleep(whole.mul_f64(rng.random_range(0.0..1.0)));
        retry.signal(libc::SIGKILL);
        retry.wait();
        left.push(letters(&world));
    }
    println!("letters left after each life: {left:?}");
    world.run(&RETRY);
    assert_as_clean(&world, &clean);
    // The next owner drops what the killed ones had uploaded and never committed.
    world.run_until_caught_up();
    assert_eq!(world.number("SELECT count(*) FROM highwater.lake_uploads"), 0);
    assert_as_clean(&world, &clean);
}
