//! What a running service tells: health, status, metrics; and that deploy/ asks for nothing else.

use crate::{
    support::{Lake, Running, eventually, root},
    taps::{self, Tap, assert_tables, records, taps},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

/// Samples by name and labels.
fn samples(scrape: &str) -> BTreeMap<&str, f64> {
    let lines = scrape.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            (name, value.parse().unwrap_or_else(|e| panic!("{line}: {e}")))
        })
        .collect()
}

/// The sum over all labels.
pub fn total(scrape: &str, name: &str) -> f64 {
    let of_name = |key: &&str| key.split('{').next() == Some(name);
    samples(scrape).iter().filter(|(key, _)| of_name(key)).map(|(_, value)| value).sum()
}

fn is_exported(scrape: &str, name: &str) -> bool {
    samples(scrape).keys().any(|key| key.split('{').next() == Some(name))
}

/// Every `highwater_…` that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    text.match_indices("highwater_")
        .map(|(at, _)| text[at..].chars().take_while(|c| is_name(*c)).collect())
        .collect()
}

fn deployed() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut texts = vec![root().join("deploy/prometheus/alerts.yml")];
    let dashboards = std::fs::read_dir(root().join("deploy/grafana/dashboards")).expect("folder");
    texts.extend(dashboards.flatten().map(|entry| entry.path()));
    for path in texts {
        names.extend(named(&std::fs::read_to_string(path).expect("text")));
    }
    assert!(names.len() > 20, "{names:?}");
    names
}

fn busy() -> Option<(crate::support::World, Running)> {
    let world = taps::world("telling", 2, Lake::Local)?;
    let small = "[lake]\nroll = { bytes = \"1MiB\", age = \"200ms\" }";
    world.declare("taps", &taps::TOPIC.replace("[lake]", small));
    let mut service = world.follow(&[]);
    // A lane that comes later would have records read once more, and counted.
    eventually("both lanes hold both partitions", || {
        let status = service.status();
        let partitions = status["topics"][0]["partitions"].as_array().cloned().unwrap_or_default();
        let is_held = |p: &serde_json::Value| p["lake"].is_number() && p["tables"].is_number();
        partitions.len() == 2 && partitions.iter().all(is_held)
    });
    Some((world, service))
}

/// Taps, among them each kind of trouble that is counted.
fn troubled() -> impl Iterator<Item = (String, String)> {
    let strange = |tap: Tap| {
        let (key, _) = tap.record();
        let mut value = tap.json();
        value["colour"] = "red".into();
        (key, value.to_string())
    };
    let broken = (0..7).map(|n| (format!("card-{n}"), "no JSON".to_owned()));
    // More than an hour and a half after the others: their windows are over in each partition.
    records(0..1000)
        .chain(taps(1000..1010).map(strange))
        .chain(broken)
        .chain(records(60_000..60_200))
        .chain(records(0..20))
}

#[test]
fn every_metric_that_deploy_names_is_in_a_scrape() {
    let Some((world, mut service)) = busy() else { return };
    world.produce(troubled());
    eventually("all in tables and lake", || world.has_passed(taps::OUTPUTS, 1237));
    eventually("the gauges follow", || {
        let status = service.status();
        let partitions = status["topics"][0]["partitions"].as_array().cloned().unwrap_or_default();
        let is_even = |p: &serde_json::Value| p["lake"] == p["end"] && p["tables"] == p["end"];
        partitions.len() == 2 && partitions.iter().all(is_even)
    });
    // PostgreSQL is asked for watermarks every few seconds.
    eventually("watermarks", || {
        service.get("/metrics").1.contains("\nhighwater_watermark_seconds{")
    });
    let (code, scrape) = service.get("/metrics");
    assert_eq!(code, 200);
    let exported: BTreeSet<&str> =
        samples(&scrape).keys().filter_map(|key| key.split('{').next()).collect();
    let missing: Vec<_> =
        deployed().into_iter().filter(|name| !exported.contains(&**name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not exported:\n{scrape}");
    for (name, expected) in [
        ("highwater_records_total", 1237.0),
        ("highwater_rejects_total", 7.0),
        ("highwater_unknown_fields_total", 10.0),
        ("highwater_late_total", 20.0),
        // One in five pays nothing, late or not.
        ("highwater_filtered_total", 246.0),
        ("highwater_lag_records", 0.0),
        ("highwater_ready", 1.0),
        ("highwater_partitions_held", 2.0),
        ("highwater_topic_stopped", 0.0),
    ] {
        assert_eq!(total(&scrape, name), expected, "{name}:\n{scrape}");
    }
    let files = world.number("SELECT count(*) FROM highwater.lake_files");
    assert_eq!(total(&scrape, "highwater_lake_files_total"), files as f64);
    for name in exported.iter().filter(|n| n.starts_with("highwater_")) {
        let of_histogram = ["_bucket", "_sum", "_count"];
        let base = of_histogram.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(scrape.contains(&format!("# HELP {base} ")), "{base} is not explained");
    }
    promtool(&["check", "metrics"], Some(&scrape));
    service.stop();
    world.assert_proof();
}

#[test]
fn what_alerts_count_begins_at_zero() {
    let Some((_world, mut service)) = busy() else { return };
    eventually("ready", || service.get("/readyz").0 == 200);
    let (_, scrape) = service.get("/metrics");
    for name in [
        "highwater_rejects_total",
        "highwater_unknown_fields_total",
        "highwater_late_total",
        "highwater_filtered_total",
        "highwater_commits_refused_total",
        "highwater_bytes_total",
        "highwater_lake_files_total",
        "highwater_lake_bytes_total",
        "highwater_commit_seconds_count",
        "highwater_upload_seconds_count",
    ] {
        assert!(is_exported(&scrape, name), "{name} is not there from the start:\n{scrape}");
        assert_eq!(total(&scrape, name), 0.0, "{name}");
    }
    service.stop();
}

#[test]
fn health_and_status_are_told_by_http() {
    let Some((world, mut service)) = busy() else { return };
    world.produce(records(0..500));
    eventually("all in tables and lake", || world.has_passed(taps::OUTPUTS, 500));
    eventually("ready", || service.get("/readyz") == (200, "ready\n".to_owned()));
    assert_eq!(service.get("/livez"), (200, "ok\n".to_owned()));
    eventually("status follows", || {
        let status = service.status();
        let topic = &status["topics"][0];
        topic["records"] == 500 && topic["partitions"].as_array().is_some_and(|p| p.len() == 2)
    });
    let status = service.status();
    assert!(status["not_ready"].is_null() && status["version"].is_string(), "{status}");
    let (code, page) = service.get("/");
    assert_eq!(code, 200);
    for word in ["<!doctype html>", "ready", "taps", "watermark", "2026-03-01"] {
        assert!(page.contains(word), "{word} is not in {page}");
    }
    assert_eq!(service.get("/nowhere").0, 404);
    service.stop();
    assert_tables(&world, taps(0..500));
}

#[test]
fn a_broker_out_of_reach_is_why_the_service_is_not_ready() {
    let Some(world) = taps::world("unready", 1, Lake::Local) else { return };
    let mut service = world.follow(&[("HIGHWATER_BROKERS", "127.0.0.1:1")]);
    let mut why = String::new();
    eventually("not ready", || {
        let (code, body) = service.get("/readyz");
        why = body;
        code == 503 && !why.contains("starting")
    });
    assert!(why.contains("Kafka"), "{why}");
    assert_eq!(service.get("/livez").0, 200);
    service.stop();
}

/// promtool, or a printed line where it is not there.
fn promtool(arguments: &[&str], input: Option<&str>) {
    let Some(tool) = std::env::var_os("HIGHWATER_TEST_PROMTOOL") else {
        println!("skipped: HIGHWATER_TEST_PROMTOOL is not set");
        return;
    };
    let mut child = Command::new(tool)
        .args(arguments)
        .current_dir(root().join("deploy/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(input.unwrap_or_default().as_bytes()).expect("input");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn prometheus_takes_the_alerts_and_they_fire_when_they_should() {
    promtool(&["check", "config", "prometheus.yml"], None);
    promtool(&["check", "rules", "alerts.yml"], None);
    promtool(&["test", "rules", "alerts_test.yml"], None);
}
