//! Records in Avro: their schemas come from a registry, which may be away, and may have none.

use crate::{
    drift::{deep, filled, lake},
    proxy::{Fault, Proxy},
    support::{Lake, World, certificates::Certificates, eventually, servers::Registry, variable},
};
use std::{
    io::{Read, Write},
    net::TcpStream,
};

const TOPIC: &str = r#"
topic    = "{topic}"
format   = "avro"
registry = "{registry}"
[columns]
id   = "bigint"
name = { type = "text", optional = true }
fare = { type = "numeric(9,2)", optional = true }
[lake]
roll = { age = "300ms" }
"#;

const ROWS: &str = "CREATE MATERIALIZED VIEW rides WITH (primary_key = 'id') AS
SELECT id, name, fare FROM rides_topic;";

/// The model, the lake, the dead letters.
const OUTPUTS: i64 = 3;

const FIRST: &str = r#"{"type":"record","name":"Ride","fields":[{"name":"id","type":"int"}]}"#;
const SECOND: &str = r#"{"type":"record","name":"Ride","fields":[
{"name":"name","type":["null","string"],"default":null},
{"name":"id","type":"long"},
{"name":"fare","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}]}"#;

fn world(name: &str, registry: &str) -> Option<World> {
    let world = World::empty(name, 3, Lake::Local)?;
    world.declare("rides_topic", &TOPIC.replace("{registry}", registry));
    world.declare_model("rides", ROWS);
    Some(world)
}

fn long(value: i64) -> Vec<u8> {
    let (mut rest, mut out) = (((value << 1) ^ (value >> 63)) as u64, Vec::new());
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

fn framed(schema: u32, datum: &[u8]) -> Vec<u8> {
    [&[0][..], &schema.to_be_bytes(), datum].concat()
}

fn first(schema: u32, ids: std::ops::Range<i64>) -> impl Iterator<Item = (String, Vec<u8>)> {
    ids.map(move |id| (id.to_string(), framed(schema, &long(id))))
}

fn second(schema: u32, ids: std::ops::Range<i64>) -> impl Iterator<Item = (String, Vec<u8>)> {
    ids.map(move |id| {
        let name = format!("Zoë {id}");
        let fare = (id as i32).to_be_bytes();
        let datum = [
            &long(1)[..],
            &long(name.len() as i64),
            name.as_bytes(),
            &long(id),
            &long(fare.len() as i64),
            &fare,
        ];
        (id.to_string(), framed(schema, &datum.concat()))
    })
}

/// Registers a schema; gives its id.
fn register(registry: &str, subject: &str, schema: &str) -> u32 {
    let rest = registry.strip_prefix("http://").expect("over HTTP");
    let (host, path) = rest.split_once('/').expect("a path");
    let body = serde_json::json!({ "schema": schema }).to_string();
    let mut stream = TcpStream::connect(host).expect("the registry listens");
    write!(
        stream,
        "POST /{path}/subjects/{subject}/versions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let id = answer.split_once("{\"id\":").and_then(|(_, rest)| rest.split(['}', ',']).next());
    id.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

const LETTERS: &str = "SELECT count(*) FROM highwater.dead_letters";

#[test]
fn records_wait_for_a_registry_that_is_away_and_are_refused_only_for_a_schema_that_it_denies() {
    let Some(registry) = variable("HIGHWATER_TEST_REGISTRY") else { return };
    let rest = registry.strip_prefix("http://").expect("over HTTP");
    let (host, path) = rest.split_once('/').expect("a path");
    let runtime = crate::support::runtime();
    let proxy = Proxy::start(&runtime, host);
    let Some(world) = world("avro", &format!("http://{}/{path}", proxy.address)) else { return };
    let subject = format!("{}-value", world.kafka_topic);
    let ids = [register(&registry, &subject, FIRST), register(&registry, &subject, SECOND)];
    world.produce(first(ids[0], 0..300));
    world.produce(second(ids[1], 300..600));

    proxy.set(Fault::Refuse);
    let mut service = world.follow(&[]);
    eventually("the outage is told", || {
        service.status().to_string().contains("schema registry http://")
    });
    assert_eq!(world.number("SELECT coalesce(sum(next_offset), 0) FROM highwater.marks"), 0);
    // Neither is an answer that is none of a registry's a denial.
    proxy.set(Fault::Unavailable);
    eventually("its answer is told", || service.status().to_string().contains("503"));
    assert_eq!(world.number("SELECT coalesce(sum(next_offset), 0) FROM highwater.marks"), 0);

    proxy.set(Fault::None);
    eventually("all is read", || world.has_passed(OUTPUTS, 600));
    assert_eq!(world.number(LETTERS), 0);
    let sums = "SELECT count(*), sum(id), count(name), sum(fare) FROM rides";
    let expected = ["600", "179700", "300", "1348.50"].map(|n| Some(n.to_owned()));
    assert_eq!(world.query(sums), [expected]);
    let one = "SELECT name, fare FROM rides WHERE id = 301";
    assert_eq!(world.query(one), [[Some("Zoë 301".to_owned()), Some("3.01".to_owned())]]);

    world.produce(first(999_999, 0..3));
    eventually("the unknown ones are letters", || world.has_passed(OUTPUTS, 603));
    let reasons = "SELECT DISTINCT class, reason FROM highwater.dead_letters";
    let reason = "schema 999999: the schema registry has none of this id";
    assert_eq!(world.query(reasons), [["malformed", reason].map(|text| Some(text.to_owned()))]);
    service.stop();
    world.assert_proof();
    world.run(&["verify", "--deep"]);
}

#[test]
fn a_registry_whose_certificate_is_not_trusted_is_not_believed() {
    let certificates = Certificates::new();
    let Some(registry) = Registry::secured(&certificates) else { return };
    let Some(world) = world("avro_https", &registry.encrypted()) else { return };
    let schema = register(&registry.plain(), &format!("{}-value", world.kafka_topic), FIRST);
    world.produce(first(schema, 0..300));
    let mut service = world.follow(&[]);
    eventually("it is said what to do", || {
        let said = service.status().to_string();
        said.contains("SSL_CERT_FILE names the file") && said.contains("schema registry https://")
    });
    service.stop();
    assert_eq!(world.number("SELECT coalesce(sum(next_offset), 0) FROM highwater.marks"), 0);
    let service = world.follow(&[("SSL_CERT_FILE", &certificates.path("ca.pem"))]);
    eventually("all is read", || world.has_passed(OUTPUTS, 300));
    service.stop();
    assert_eq!(world.number("SELECT count(*) FROM rides"), 300);
    assert_eq!(world.number(LETTERS), 0);
}

#[test]
fn letters_of_an_unknown_schema_are_taken_when_the_folder_of_schemas_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = format!("file:{}", folder.path().display());
    let Some(world) = world("avro_folder", &place) else { return };
    let write = |id: u32, schema: &str| {
        std::fs::write(folder.path().join(format!("{id}.avsc")), schema).expect("a schema");
    };
    write(1, FIRST);
    world.produce(first(1, 0..50));
    world.produce(second(2, 50..80));
    world.run_until_caught_up();
    assert_eq!(world.number("SELECT count(*) FROM rides"), 50);
    assert_eq!(world.number(LETTERS), 30);
    write(2, SECOND);
    world.run(&["dead-letters", "retry"]);
    assert_eq!(world.number("SELECT count(*) FROM rides WHERE fare = id / 100.0"), 30);
    assert_eq!(world.number(LETTERS), 0);
    world.assert_proof();
    world.run(&["verify", "--deep"]);
}

#[test]
fn columns_that_a_second_schema_adds_or_widens_are_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = format!("file:{}", folder.path().display());
    let Some(world) = World::empty("avro_drift", 3, Lake::Local) else { return };
    world.declare(
        "rides_topic",
        &format!(
            "topic = \"{{topic}}\"\nformat = \"avro\"\nregistry = \"{place}\"\ndrift = \"apply\"\n[columns]\nid = \
             \"integer\"\n[lake]\npartition_by = []\nroll = {{ age = \"300ms\" }}\n"
        ),
    );
    let all = ROWS.replace("id, name, fare", "*");
    world.declare_model("rides", &all);
    for (id, schema) in [(1, FIRST), (2, SECOND)] {
        std::fs::write(folder.path().join(format!("{id}.avsc")), schema).expect("a schema");
    }
    let large = 5_000_000_000;
    world.produce(first(1, 0..60));
    let quickly = [("HIGHWATER_COMMIT_INTERVAL", "50ms")];
    let service = world.follow(&quickly);
    eventually("the first are read", || world.has_passed(OUTPUTS, 60));
    // Each partition meets it at another record, and the process dies meanwhile.
    world.produce(second(2, large..large + 90));
    eventually("it is followed", || {
        world.number("SELECT count(*) FROM highwater.added_columns") > 0
    });
    service.signal(libc::SIGKILL);
    service.wait();
    // Producers that have not got it yet.
    world.produce(first(1, 60..70));
    world.run_until_caught_up();
    let sums = "SELECT count(*), max(id), count(name), count(fare) FROM rides";
    let expected = ["160", "5000000089", "90", "90"].map(|n| Some(n.to_owned()));
    assert_eq!(world.query(sums), [expected]);
    assert_eq!(world.number(LETTERS), 0);
    let added = "SELECT string_agg(column_name || ' ' || type, ', ' ORDER BY column_name) FROM highwater.added_columns";
    let expected = "fare numeric(9,2), id bigint, name text";
    assert_eq!(world.query(added), [[Some(expected.to_owned())]]);
    let rows = lake(&world, &["id", "name", "fare"]);
    assert_eq!((rows.len(), filled(&rows, 1), filled(&rows, 2)), (160, 90, 90));
    assert_eq!(rows.iter().map(|row| row[0].parse::<i64>().unwrap()).max(), Some(5_000_000_089));
    deep(&world);
}

#[test]
fn a_topic_in_avro_without_a_registry_does_not_start() {
    let Some(world) = world("avro_none", "file:x") else { return };
    world.declare("rides_topic", &TOPIC.replace("registry = \"{registry}\"", ""));
    let output = world.output(&["run", "--until-caught-up"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("topic rides_topic is in Avro"), "{told}");
    let mut command = world.command(&["check"]);
    command.env("HIGHWATER_REGISTRY", "nowhere");
    let output = command.output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(2));
}
