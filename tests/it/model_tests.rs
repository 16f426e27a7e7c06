//! `highwater test`: fixtures beside models, played without any service.

use crate::commands::{assert_refused, offline, text};
use std::{path::Path, process::Output};

const TOPIC: &str = r#"
topic        = "rides"
format       = "json"
event_time   = "at"
max_disorder = "1m"
idle         = "5m"
unique       = ["id"]
within       = "1h"
[columns]
id   = "text"
at   = "timestamptz"
stop = { type = "text", from = "/place/stop" }
lake = false
"#;
const STOPS: &str = r#"
reference   = "lake:stops.csv"
primary_key = ["stop"]
[columns]
stop = "text"
zone = "integer"
"#;
const HOURLY: &str =
    "CREATE MATERIALIZED VIEW hourly WITH (allowed_lateness = '5 minutes', late = 'drop') AS
SELECT tumble(interval '1 hour') AS window, stops.zone, count(*) AS rides
FROM rides LEFT JOIN stops ON rides.stop = stops.stop GROUP BY window, stops.zone;";
const VISITS: &str = "CREATE MATERIALIZED VIEW visits AS
SELECT session(interval '10 minutes') AS window, stop, count(*) AS rides FROM rides GROUP BY window, stop;";

fn play(folder: &Path, fixtures: &[(&str, &str)], arguments: &[&str]) -> Output {
    let topic = TOPIC.replace("lake = false\n", "").replace("[columns]", "lake = false\n[columns]");
    let files = [
        ("topics/rides.toml", topic.as_str()),
        ("topics/stops.toml", STOPS),
        ("models/hourly.sql", HOURLY),
        ("models/visits.sql", VISITS),
    ];
    for (name, text) in files.iter().chain(fixtures) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        std::fs::write(&path, text).expect(name);
    }
    offline(&[&["test"], arguments].concat())
        .env("HIGHWATER_TOPICS", folder.join("topics"))
        .env("HIGHWATER_MODELS", folder.join("models"))
        .output()
        .expect("test")
}

#[test]
fn the_tests_of_the_repositorys_models_pass() {
    let output = offline(&["test"]).output().expect("test");
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}{}", text(&output.stderr));
    assert!(printed.contains(" 0 failed") && !printed.contains("0 passed"), "{printed}");
    assert!(!printed.contains("without tests"), "{printed}");
}

/// Judge, clock, reference, lateness, cuts and kills; each test twice, once with a wrong expectation.
#[test]
fn a_fixture_says_what_is_there_and_is_told_what_is_not() {
    let hourly = r#"
[defaults]
place = { stop = "A" }
[[test]]
name = "right"
reference = [{ stop = "A", zone = 1 }]
events = [
  { value = { id = "1", at = 2024-03-01T08:00:00Z } },
  { value = { id = "2", at = 2024-03-01T08:10:00Z, place = { stop = "B" } } },
  { cut = true },
  { value = { id = "1", at = 2024-03-01T08:00:00Z } }, # again
  { kill = true },
  { clock = 2024-03-01T09:10:00Z },                    # the watermark is at 09:09 then
  { value = { id = "3", at = 2024-03-01T08:59:00Z } }, # final since 09:05
]
rows  = [{ window_start = 2024-03-01T08:00:00Z, zone = 1, rides = 1 }, { window_start = 2024-03-01T08:00:00Z, rides = 1 }]
final = [{ window_start = 2024-03-01T08:00:00Z, zone = 1, rides = 1 }, { window_start = 2024-03-01T08:00:00Z, rides = 1 }]
fates = { accepted = 2, late = 1, duplicate = 1 }
"#;
    let wrong = hourly
        .replace("\"right\"", "\"wrong\"")
        .replace("zone = 1, rides = 1 }, {", "zone = 1, rides = 7 }, {");
    let wrong = wrong.replace(
        "fates = { accepted = 2, late = 1,",
        "rejects = [{ offset = 9 }]\nfates = { accepted = 2,",
    );
    let wrong = wrong.split_once("[[test]]").expect("a test").1;
    let visits = r#"
[defaults]
place = { stop = "A" }
[[test]]
name = "sessions join over a kill"
events = [
  { value = { id = "1", at = 2024-03-01T08:00:00Z } },
  { cut = true },
  { partition = 1, value = { id = "2", at = 2024-03-01T08:16:00Z } },
  { cut = true },
  { kill = true },
  { value = { id = "3", at = 2024-03-01T08:08:00Z } },
]
rows = [{ window_start = 2024-03-01T08:00:00Z, window_end = 2024-03-01T08:26:00Z, stop = "A", rides = 3 }]
"#;
    let folder = tempfile::tempdir().expect("a folder");
    let both = format!("{hourly}[[test]]{wrong}");
    let fixtures =
        [("models/hourly.test.toml", both.as_str()), ("models/visits.test.toml", visits)];
    let output = play(folder.path(), &fixtures, &[]);
    let printed = text(&output.stdout);
    assert_refused(&output, 1, &["1 of 3 tests failed"]);
    assert!(printed.contains("2 passed, 1 failed"), "{printed}");
    for words in [
        "hourly.test.toml: wrong: FAILED",
        "expected  2024-03-01 08:00:00+00     1      7",
        "found     2024-03-01 08:00:00+00     1      1",
        "rejects: expected, and not there: offset 9",
        "fates: 0 late expected, found 1",
    ] {
        assert!(printed.contains(words), "{words} is not in:\n{printed}");
    }
    let output = play(folder.path(), &fixtures, &["visits"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("1 passed, 0 failed"));
}

#[test]
fn every_mistake_of_a_fixture_is_told_with_its_place_and_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let hourly = "[[test]]\nname = \"a\"\nevents = [{ value = {}, cut = true }, { clock = 5 }]\nrows = [{ riders = 1 }]\n";
    let visits = "[[test]]\nname = \"b\"\nevents = []\nrwos = []\n";
    let fixtures = [
        ("models/hourly.test.toml", hourly),
        ("models/visits.test.toml", visits),
        ("models/daily.test.toml", hourly),
    ];
    let output = play(folder.path(), &fixtures, &[]);
    let words = [
        "daily.test.toml:1: there is no model `daily`",
        "hourly.test.toml:1: a: event 1: value and cut",
        "event 2: `5` is no instant",
        "no column `riders`. Allowed: window_start",
        "visits.test.toml:4: unknown field `rwos`",
    ];
    assert_refused(&output, 2, &words);
    assert_refused(&play(folder.path(), &fixtures, &["weekly"]), 2, &["weekly"]);
}
