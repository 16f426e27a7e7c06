//! Refused records: listed, shown, and taken after all when what refused them was mended.

use crate::{
    retention::forget,
    support::{Lake, Running, World, create_topic, eventually},
    taps::{Tap, taps},
};
use highwater::{
    catalog,
    lake::store::Store,
    pipeline::retry::{Plan, Retrier},
    source::kafka::KafkaSettings,
    warehouse::{
        Warehouse, WarehouseSettings,
        retry::{Retried, RetryFilter},
    },
};
use rand::Rng;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

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
    line.split(", ")
        .map(|part| part.split(' ').next().unwrap_or("").parse().unwrap_or(-1))
        .collect()
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
    assert!(text.contains("taken, except  by model:by_number"), "{text}");
    assert_as_clean(&world, &clean);

    let text = world.run(&RETRY);
    assert_eq!(counts(&text), [0, 0, 2 * BROKEN + NAMELESS, 0, 0], "{text}");
    assert_as_clean(&world, &clean);
    world.run_until_caught_up();
    assert_as_clean(&world, &clean);
    // Late as they were, and with the watermarks that they did not raise.
    crate::replay::assert_made_anew(&world);
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
    let whole = begun.elapsed();
    let places = world.query(
        "SELECT topic || '/' || partition || '@' || \"offset\" FROM highwater.dead_letters
         ORDER BY md5(\"offset\"::text)",
    );
    let places: Vec<String> = places.into_iter().filter_map(|mut row| row.remove(0)).collect();
    let mut rng = rand::rng();
    let mut left = Vec::new();
    // Each life has a tenth of the letters before it.
    for tenth in places.chunks(places.len().div_ceil(10)) {
        let mut arguments = RETRY.to_vec();
        arguments.extend(tenth.iter().map(String::as_str));
        let retry = Running::start(world.command(&arguments));
        std::thread::sleep(whole.mul_f64(rng.random_range(0.2..1.2)));
        retry.signal(libc::SIGKILL);
        retry.wait();
        left.push(letters(&world));
    }
    println!("letters left after each life: {left:?}");
    world.run(&RETRY);
    assert_as_clean(&world, &clean);
    // The next owner drops what the killed ones had uploaded and never committed.
    let mut owner = world.follow(&[]);
    eventually("ready", || owner.get("/readyz").0 == 200);
    eventually("no upload is left", || {
        world.number("SELECT count(*) FROM highwater.lake_uploads") == 0
    });
    owner.stop();
    assert_as_clean(&world, &clean);
}

/// What `dead-letters retry` does, to be ended between any two steps.
fn retrier(world: &World) -> Retrier {
    let catalog =
        catalog::load(&world.folder.path().join("topics"), &world.folder.path().join("models"));
    let catalog = catalog.expect("no mistake");
    let models: Vec<_> = catalog.models.values().cloned().collect();
    let store = Store::open(&world.lake, &[]).expect("lake");
    let kafka = KafkaSettings {
        brokers: world.services.kafka.clone(),
        topic_ids: true,
        group: world.group.clone(),
        properties: Default::default(),
        fetch_bytes: 1 << 20,
    };
    world.runtime.block_on(async {
        let settings = WarehouseSettings::default();
        let warehouse = Warehouse::connect(&world.warehouse(), &settings).await.expect("warehouse");
        warehouse.ensure_tables(&models).await.expect("tables");
        let topic = catalog.topics["taps"].clone();
        Retrier::new(topic, &models, None, warehouse, Some(store), kafka).expect("a retrier")
    })
}

fn plan(world: &World, retrier: &mut Retrier) -> Plan {
    let filter = RetryFilter { before: i64::MAX / 2, ..RetryFilter::default() };
    world.runtime.block_on(async {
        let letters = retrier.letters(&filter, None).await.expect("letters");
        retrier.plan(&letters).await.expect("a plan")
    })
}

#[test]
fn a_retry_that_ends_after_any_step_has_done_all_of_it_or_nothing() {
    let Some(clean) = clean("letters_steps_clean") else { return };
    let world = world("letters_steps", Lake::Local, STRICT).expect("services");
    world.produce(records(0..TAPS));
    world.run_until_caught_up();
    let before = state(&world);
    world.declare("taps", &mended());

    // Uploaded and noted, not committed: nothing has happened, and the next owner aborts it.
    let mut first = retrier(&world);
    let mut uploaded = plan(&world, &mut first);
    world.runtime.block_on(first.upload(&mut uploaded)).expect("uploaded");
    assert!(world.number("SELECT count(*) FROM highwater.lake_uploads") > 0);
    assert_eq!(state(&world), before);
    let mut owner = world.follow(&[]);
    eventually("ready", || owner.get("/readyz").0 == 200);
    eventually("no upload is left", || {
        world.number("SELECT count(*) FROM highwater.lake_uploads") == 0
    });
    owner.stop();
    // Its epoch is not the mark's any more: it must not commit what was aborted.
    let committed = world.runtime.block_on(first.commit(&uploaded)).expect("answered");
    assert_eq!(committed, Retried::Changed);
    assert_eq!(state(&world), before);

    // Committed, not completed: the rows count, and whoever comes next shows them.
    let mut second = retrier(&world);
    let mut owed = plan(&world, &mut second);
    let mut rival = plan(&world, &mut first);
    world.runtime.block_on(async {
        second.upload(&mut owed).await.expect("uploaded");
        first.upload(&mut rival).await.expect("uploaded");
        assert_eq!(second.commit(&owed).await.expect("committed"), Retried::Done);
        // Of two with the same letters one is late; a repeated one as well.
        assert_eq!(first.commit(&rival).await.expect("answered"), Retried::Changed);
        assert_eq!(second.commit(&owed).await.expect("answered"), Retried::Changed);
    });
    let owed = "SELECT count(*) FROM highwater.lake_files WHERE completed_at IS NULL";
    assert!(world.number(owed) > 0);
    world.run(&RETRY);
    assert_eq!(world.number(owed), 0);
    assert_as_clean(&world, &clean);
}

#[test]
fn an_output_that_took_the_record_by_itself_is_left_out_of_the_retry() {
    let Some(clean) = clean("letters_model_clean") else { return };
    let world = world("letters_model", Lake::Local, STRICT).expect("services");
    let file = world.folder.path().join("models/strictly.sql");
    let strictly = std::fs::read_to_string(&file).expect("model");
    std::fs::remove_file(&file).expect("remove");
    world.produce(records(0..TAPS));
    world.run_until_caught_up();

    // A model that has not read them yet will do so by itself.
    world.declare("taps", &mended());
    world.declare_model("strictly", &strictly);
    let text = world.run(&RETRY);
    assert_eq!(counts(&text), [0, 0, 0, REFUSED + NAMELESS, 0], "{text}");
    assert!(text.contains("model:strictly has not come to it (its mark is at nothing)"), "{text}");
    world.run_until_caught_up();
    let text = world.run(&["verify", "--deep"]);
    assert!(text.contains("strictly was not rebuilt: the lake refused 800 records"), "{text}");
    assert!(text.contains("3 tables rebuilt: everything holds"), "{text}");
    // It took the mended ones in their place; the others take them now, and it does not again.
    let text = world.run(&RETRY);
    assert_eq!(counts(&text)[0], REFUSED - 2 * BROKEN, "{text}");
    assert_as_clean(&world, &clean);
}

#[test]
fn letters_without_their_record_are_read_from_kafka_as_long_as_it_is_there() {
    let private = STRICT
        .replace("\n[lake]", "card = { type = \"text\", pii = \"hash\", optional = true }\n[lake]");
    let Some(world) = world("letters_private", Lake::Local, &private) else { return };
    world.produce(records(0..2000));
    world.run_until_caught_up();
    assert_eq!(world.number("SELECT count(value) FROM highwater.dead_letters"), 0);
    let refused = letters(&world);
    let place = world.query(
        "SELECT topic || '/' || partition || '@' || \"offset\" FROM highwater.dead_letters
         WHERE reason LIKE '%absent%' ORDER BY partition, \"offset\"",
    );
    let place = place[0][0].clone().expect("a place");
    let text = world.run(&["dead-letters", "show", &place]);
    assert!(text.contains("not kept (dead_letters.keep_raw)"), "{text}");

    let mended = mended()
        .replace("\n[lake]", "card = { type = \"text\", pii = \"hash\", optional = true }\n[lake]");
    world.declare("taps", &mended);
    let mut without = world.command(&RETRY);
    without.env_remove("HIGHWATER_PII_SECRET");
    let (code, text) = Running::start(without).wait();
    assert!(code == Some(2) && text.contains("HIGHWATER_PII_SECRET"), "{code:?} {text}");
    // One by its place, then all that Kafka still has.
    let text = world.run(&["dead-letters", "retry", &place]);
    assert_eq!(counts(&text), [1, 0, 0, 0, 0], "{text}");
    let text = world.run(&["dead-letters", "show", &place]);
    assert!(text.contains("lake took it by a retry at"), "{text}");
    let first =
        world.number("SELECT min(\"offset\") FROM highwater.dead_letters WHERE partition = 0");
    forget(&world, 0, first + 1);
    let text = world.run(&RETRY);
    assert_eq!(counts(&text)[4], 1, "{text}");
    assert!(text.contains(&format!("Kafka has {}/0@{first} no more", world.kafka_topic)), "{text}");
    assert_eq!(counts(&text).iter().sum::<i64>() + 1, refused);
    assert_proven(&world);
}

#[test]
fn letters_are_listed_counted_and_shown() {
    let Some(world) = world("letters_list", Lake::Local, STRICT) else { return };
    assert!(world.run(&["dead-letters", "list"]).contains("no dead letters"));
    world.produce(records(0..2000));
    world.produce([("key".to_owned(), "caf\u{e9}".to_owned())]);
    world.run_until_caught_up();
    let text = world.run(&["dead-letters", "list", "--limit", "7"]);
    for words in
        ["the newest 7 of 105", "dead_letters     range", "model:by_number  model", "record "]
    {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    let text = world.run(&[
        "dead-letters",
        "list",
        "--json",
        "--class",
        "range",
        "--output",
        "dead_letters",
    ]);
    let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(list["counts"][0]["letters"], 20);
    let letter = &list["letters"][0];
    assert_eq!(list["letters"].as_array().map(Vec::len), Some(20));
    assert!(letter["value"].as_str().expect("a value").contains("70000"), "{letter}");
    assert_eq!(letter["column"], "seats");
    let place = format!("taps/{}@{}", letter["partition"], letter["offset"]);
    let text = world.run(&["dead-letters", "show", &place]);
    for words in [place.as_str(), "70000", "card-", "model:strictly refuses it", "lake refuses it"]
    {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    let shown = world.output(&["dead-letters", "show", "taps/0@99999"]);
    assert_eq!(shown.status.code(), Some(1));
    let shown = world.output(&["dead-letters", "show", "taps"]);
    assert_eq!(shown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&shown.stderr).contains("taps/3@120"));
}

/// All records of a topic: key, value, headers as text, by partition and offset.
fn consume(world: &World, topic: &str) -> Vec<(i32, String, String, BTreeMap<String, String>)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.services.kafka)
        .set("group.id", "reads dead letters")
        .create()
        .expect("consumer");
    let text =
        |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for partition in 0..2 {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition, Duration::from_secs(20))
            .expect("watermarks");
        left += high - low;
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("partition");
    }
    consumer.assign(&list).expect("assign");
    let mut records = Vec::new();
    eventually("all that was forwarded", || {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            left -= 1;
            let headers = message.headers().expect("headers");
            let headers = headers.iter().map(|h| (h.key.to_owned(), text(h.value))).collect();
            records.push((
                message.partition(),
                text(message.key()),
                text(message.payload()),
                headers,
            ));
        }
        left <= 0
    });
    records
}

#[test]
fn letters_are_sent_on_in_order_and_a_topic_that_is_not_there_holds_nobody_up() {
    let Some(world) = world("letters_forward", Lake::Local, STRICT) else { return };
    let to = format!("{}.dead", world.kafka_topic);
    world.declare("taps", &format!("{STRICT}forward = \"{to}\"\n"));
    world.produce(records(0..2000));
    let mut service = world.follow(&[]);
    eventually("all outputs at the end", || world.has_passed(6, 2000));
    let waiting = "SELECT count(*) FROM highwater.dead_letters WHERE forwarded_at IS NULL";
    eventually("a backlog", || {
        let (_, metrics) = service.get("/metrics");
        metrics.contains("highwater_dead_letters_unforwarded{topic=\"taps\"} 104")
    });
    assert_eq!(world.number(waiting), 104);
    service.signal(libc::SIGKILL);
    service.wait();

    world.runtime.block_on(create_topic(&world.services.kafka, &to, 2));
    let service = world.follow(&[]);
    eventually("nothing waits", || world.number(waiting) == 0);
    world.produce(records(2000..3000));
    eventually("all outputs at the end", || world.has_passed(6, 3000));
    eventually("nothing waits", || world.number(waiting) == 0);
    service.stop();

    let sent = consume(&world, &to);
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    let mut places = BTreeSet::new();
    for (partition, _, _, headers) in &sent {
        let (from, offset) = (&headers["highwater.partition"], &headers["highwater.offset"]);
        let offset: i64 = offset.parse().expect("an offset");
        assert_eq!(*partition, from.parse::<i32>().expect("a partition") % 2);
        let last = last.insert(from.clone(), offset);
        assert!(last.is_none_or(|last| last <= offset), "out of order: {headers:?}");
        places.insert((from.clone(), offset, headers["highwater.output"].clone()));
    }
    assert_eq!(places.len() as i64, letters(&world));
    let (_, key, value, headers) =
        sent.iter().find(|(.., h)| h["highwater.class"] == "range").expect("one out of range");
    assert!(key.starts_with("card-") && value.contains("70000"), "{key} {value}");
    assert_eq!(headers["highwater.topic"], "taps");
    assert_eq!(headers["highwater.column"], "seats");
    assert!(!headers["highwater.reason"].is_empty());
}
