//! What a person types: exit codes, the sentence that goes with them, `check`, `status`, `demo`.

use crate::{
    support::{Lake, World, create_topic, eventually, root, unique},
    taps::{self, OUTPUTS, records},
};
use std::process::{Command, Output};

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Insists on the exit code and on each of the words on standard error.
pub fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not said in:\n{said}");
    }
}

/// The binary without any service variable.
pub fn offline(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command.args(arguments).current_dir(root());
    for (name, _) in std::env::vars() {
        if name.starts_with("HIGHWATER_") || name.starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command
}

#[test]
fn check_needs_no_service_and_prints_what_each_model_keeps() {
    let output = offline(&["check"]).output().expect("check");
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for word in ["topic taps", "topic oyster_taps", "taps_by_stop_5m", "latest_tap_by_device"] {
        assert!(printed.contains(word), "{word} is not in:\n{printed}");
    }
}

#[test]
fn explain_tells_expressions_deltas_and_statements() {
    let output = offline(&["explain", "taps_by_stop_5m"]).output().expect("explain");
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for words in [
        "belongs to stop_id = stop_id",
        "adds to fare_cents_max: max(fare_cents)",
        "CREATE TABLE",
        "taps_by_stop_5m_final",
        "ON CONFLICT",
    ] {
        assert!(printed.contains(words), "{words} is not in:\n{printed}");
    }
    assert_refused(&offline(&["explain", "tap"]).output().expect("explain"), 2, &["taps_by_mode"]);
}

#[test]
fn every_mistake_of_a_topic_file_is_told_with_its_line_and_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let topics = folder.path().join("topics");
    std::fs::create_dir_all(&topics).expect("topics");
    let broken =
        "topic = \"taps\"\nformat = \"json\"\nevent_tiem = \"at\"\n\n[columns]\nat = \"instant\"\n";
    std::fs::write(topics.join("broken.toml"), broken).expect("topic file");
    for command in ["check", "run", "status"] {
        let output = offline(&[command])
            .env("HIGHWATER_TOPICS", &topics)
            .env("HIGHWATER_MODELS", folder.path())
            .output()
            .expect(command);
        let words = ["broken.toml:3: ", "event_tiem", "event_time", "broken.toml:6: ", "instant"];
        assert_refused(&output, 2, &words);
    }
}

#[test]
fn settings_that_cannot_be_meant_end_with_2() {
    for (arguments, words) in [
        (vec!["run", "--memory", "1MiB"], vec!["128MiB"]),
        (vec!["run", "--memory", "much"], vec!["memory", "much"]),
        (vec!["run", "--listen", "nowhere"], vec!["nowhere", "127.0.0.1:9469"]),
        (vec!["run", "--log", "xml"], vec!["xml", "json"]),
        (vec!["run", "--kafka", "acks"], vec!["acks", "KEY=VALUE"]),
        (vec!["run", "--commit-interval", "1 month"], vec!["commit_interval", "month"]),
        (vec!["run", "--config", "/nowhere.toml"], vec!["/nowhere.toml"]),
        (vec!["run", "--topic", "tips"], vec!["tips", "taps"]),
        (vec!["run", "--pii-secret", "short"], vec!["16"]),
        (vec!["run", "--pii-secret", "long enough for it"], vec!["--warehouse"]),
        (vec!["run"], vec!["HIGHWATER_PII_SECRET", "token_id"]),
    ] {
        assert_refused(&offline(&arguments).output().expect("run"), 2, &words);
    }
}

#[test]
fn a_database_out_of_reach_ends_with_3() {
    let mut command = offline(&["run", "--topic", "oyster_taps"]);
    command.args(["--warehouse", "postgres://nobody@127.0.0.1:1/none"]);
    assert_refused(&command.output().expect("run"), 3, &["warehouse", "refused"]);
}

#[test]
fn a_broker_out_of_reach_ends_a_run_until_caught_up_with_3() {
    let Some(world) = taps::world("no_broker", 1, Lake::Local) else { return };
    let mut command = world.command(&["run", "--until-caught-up"]);
    command.env("HIGHWATER_BROKERS", "127.0.0.1:1");
    assert_refused(&command.output().expect("run"), 3, &["Kafka", &world.kafka_topic]);
}

#[test]
fn a_topic_that_is_not_there_ends_a_run_until_caught_up_with_3() {
    let Some(world) = taps::world("no_topic", 1, Lake::Local) else { return };
    world.declare("taps", &taps::TOPIC.replace("{topic}", "{topic}_elsewhere"));
    let output = world.output(&["run", "--until-caught-up"]);
    assert_refused(&output, 3, &[&format!("{}_elsewhere", world.kafka_topic)]);
}

#[test]
fn a_missing_bucket_is_told_with_its_remedy() {
    let Some(world) = taps::world("no_bucket", 1, Lake::S3) else { return };
    let mut command = world.command(&["run"]);
    command.env("HIGHWATER_LAKE", "s3://highwater-no-such-bucket/lake");
    let output = command.output().expect("run");
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}", output.status);
    let said = text(&output.stderr);
    assert!(said.contains("highwater-no-such-bucket") && said.contains("bucket"), "{said}");
}

#[test]
fn a_lake_that_is_declared_and_not_set_ends_with_2() {
    let Some(world) = taps::world("no_lake", 1, Lake::Local) else { return };
    let mut command = world.command(&["run"]);
    command.env_remove("HIGHWATER_LAKE");
    assert_refused(&command.output().expect("run"), 2, &["--lake", "taps"]);
}

#[test]
fn a_taken_port_ends_with_2() {
    let Some(world) = taps::world("taken", 1, Lake::Local) else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("address").to_string();
    let mut command = world.command(&["run"]);
    command.env("HIGHWATER_LISTEN", &address);
    assert_refused(&command.output().expect("run"), 2, &["listen", &address]);
}

#[test]
fn everything_may_stand_in_a_file_and_secrets_in_files_of_their_own() {
    let Some(world) = taps::world("settings", 2, Lake::S3) else { return };
    world.produce(records(0..500));
    let path = |name: &str| world.folder.path().join(name);
    std::fs::write(path("warehouse"), world.warehouse() + "\n").expect("secret");
    std::fs::write(path("key"), std::env::var("AWS_SECRET_ACCESS_KEY").expect("key") + "\n")
        .expect("secret");
    let settings = format!(
        "topics = {:?}\nmodels = {:?}\nbrokers = {:?}\ngroup = {:?}\nlake = {:?}\n\
         warehouse_file = {:?}\nlisten = \"127.0.0.1:0\"\nlog = \"json\"\n\n\
         [kafka.properties]\n\"session.timeout.ms\" = \"6000\"\n\n\
         [store]\nAWS_ENDPOINT = {:?}\nAWS_ALLOW_HTTP = \"true\"\n",
        path("topics"),
        path("models"),
        world.services.kafka,
        world.group,
        world.lake,
        path("warehouse"),
        world.services.s3,
    );
    std::fs::write(path("highwater.toml"), settings).expect("settings");
    let mut command = offline(&["run", "--until-caught-up", "--config"]);
    command
        .arg(path("highwater.toml"))
        .env("AWS_ACCESS_KEY_ID", std::env::var("AWS_ACCESS_KEY_ID").expect("key"))
        .env("AWS_SECRET_ACCESS_KEY_FILE", path("key"))
        .env("AWS_REGION", "us-east-1");
    let output = command.output().expect("run");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for line in said.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
    taps::assert_tables(&world, taps::taps(0..500));
    taps::assert_lake(&world, 500);
}

fn status(world: &World, brokers: Option<&str>) -> Vec<serde_json::Value> {
    let whole = whole_status(world, brokers);
    whole["outputs"].as_array().expect("outputs").clone()
}

fn whole_status(world: &World, brokers: Option<&str>) -> serde_json::Value {
    let mut command = world.command(&["status", "--json"]);
    command.envs(brokers.map(|b| ("HIGHWATER_BROKERS", b)));
    let output = command.output().expect("status");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON alone on standard output")
}

fn sum(lines: &[serde_json::Value], output: &str, field: &str) -> i64 {
    let of_output = lines.iter().filter(|line| line["output"] == output);
    of_output.map(|line| line[field].as_i64().expect(field)).sum()
}

#[test]
fn status_tells_marks_and_lag_while_the_service_is_down() {
    let Some(world) = taps::world("status", 3, Lake::Local) else { return };
    assert_eq!(status(&world, None).len(), 0, "nothing yet");
    world.produce(records(0..900));
    world.run_until_caught_up();
    world.produce(records(900..1000));

    let lines = status(&world, None);
    assert_eq!(lines.len() as i64, 3 * OUTPUTS);
    for output in ["lake", "dead_letters", "model:by_stop", "model:paid_by_mode"] {
        assert_eq!(sum(&lines, output, "mark"), 900, "{output}");
        assert_eq!(sum(&lines, output, "end"), 1000, "{output}");
        assert_eq!(sum(&lines, output, "lag_records"), 100, "{output}");
    }
    assert_eq!(sum(&lines, "lake", "accepted"), 900);
    assert_eq!(sum(&lines, "model:paid_by_mode", "filtered"), 180, "one in five pays nothing");

    let without_kafka = status(&world, Some("127.0.0.1:1"));
    assert!(without_kafka.iter().all(|l| l["lag_records"].is_null() && l["end"].is_null()));
    assert_eq!(sum(&without_kafka, "lake", "mark"), 900);

    let table = text(&world.output(&["status"]).stdout);
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    for word in ["topic", "partition", "output", "mark", "lag", "accepted", "committed"] {
        assert!(head.contains(word), "{word} is not in {head}");
    }
    let marks = lines.by_ref().take_while(|line| !line.is_empty()).count() as i64;
    assert_eq!(marks, 3 * OUTPUTS, "{table}");
    // Then the watermarks: a head, the dead letters and two models.
    assert!(lines.next().is_some_and(|head| head.contains("held back by")), "{table}");
    let marks = lines.by_ref().take_while(|line| !line.is_empty()).count();
    assert_eq!(marks, 3, "{table}");
    assert!(lines.next().is_some_and(|line| line.starts_with("no service answers")), "{table}");
    assert_eq!(lines.next(), None, "all that is committed is visible: {table}");
}

#[test]
fn status_asks_the_service_that_listens_here() {
    let Some(world) = taps::world("status_running", 2, Lake::Local) else { return };
    let mut service = world.follow(&[]);
    world.produce(records(0..300));
    eventually("all of it", || world.has_passed(OUTPUTS, 300));
    let address = service.address();
    let told = |arguments: &[&str]| {
        let mut command = world.command(&[&["status"], arguments].concat());
        let output = command.env("HIGHWATER_LISTEN", &address).output().expect("status");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let ready = format!("the service at {address} runs for ");
    let table = told(&[]);
    assert!(table.contains(&ready) && table.contains(" and is ready"), "{table}");
    let whole: serde_json::Value = serde_json::from_str(&told(&["--json"])).expect("JSON");
    assert_eq!(whole["service"]["topics"][0]["topic"], "taps", "{whole}");
    let lines = whole["outputs"].as_array().expect("outputs");
    assert_eq!(sum(lines, "lake", "unread_records"), 0);
    assert_eq!(whole["uploads"][0]["not_visible"], 0, "{whole}");
    service.stop();
}

#[test]
fn every_query_of_the_repository_answers() {
    let Some(world) = taps::world("queries", 2, Lake::Local) else { return };
    world.produce(records(0..500).chain([("broken".to_owned(), "{".to_owned())]));
    world.run_until_caught_up();
    for entry in std::fs::read_dir(root().join("sql/queries")).expect("queries").flatten() {
        let sql = std::fs::read_to_string(entry.path()).expect("a query");
        // Those of a star are asked where one is: in `star.rs`.
        if sql.contains(" fact_") {
            continue;
        }
        // Nothing is made anew here; `replay.rs` asks, by `status`, while something is.
        let may_be_empty = sql.contains("highwater.rebuilds");
        let rows = world.query(&sql);
        assert!(may_be_empty || !rows.is_empty(), "{} is empty", entry.path().display());
    }
}

#[test]
fn two_topic_files_of_one_topic_are_refused() {
    let Some(world) = taps::world("twice", 1, Lake::Local) else { return };
    world.declare("taps_again", taps::TOPIC);
    assert_refused(&world.output(&["run"]), 2, &["taps_again.toml:2: ", &world.kafka_topic]);
}

#[test]
fn one_topic_alone_may_be_run() {
    let Some(world) = taps::world("only", 1, Lake::Local) else { return };
    let other = unique("only_other");
    world.runtime.block_on(create_topic(&world.services.kafka, &other, 1));
    world.declare("others", &taps::TOPIC.replace("{topic}", &other));
    world.produce(records(0..100));
    world.run(&["run", "--until-caught-up", "--topic", "taps"]);
    let topics = world.query("SELECT DISTINCT topic FROM highwater.marks");
    assert_eq!(topics, [[Some("taps".to_owned())]]);
}

#[test]
fn the_demo_proves_itself_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = offline(&["demo"]).env("TMPDIR", folder.path()).output().expect("demo");
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}\n{}", text(&output.stderr));
    let words =
        ["has exactly one fate in each output", "table taps_by_stop_5m", "refused, and why"];
    for word in words {
        assert!(printed.contains(word), "{word:?} is not in:\n{printed}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("folder").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
