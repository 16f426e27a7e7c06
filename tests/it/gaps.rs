//! Offsets that are gone: a partition stands with an exact sentence until a person accepts the gap, and
//! nothing is skipped, doubled or mixed up before, meanwhile or after.

use crate::{
    support::{Lake, Running, World, eventually},
    taps::{self, Tap, assert_tables, seated, taps},
};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::{ops::Range, time::Duration};

const WAIT: Duration = Duration::from_secs(30);

fn admin(world: &World) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &world.services.kafka).create().expect("admin")
}

/// As retention does: everything below `offset` of the partition is gone.
fn forget(world: &World, partition: i32, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&world.kafka_topic, partition, Offset::Offset(offset))
        .expect("offset");
    let admin = admin(world);
    let done = admin.delete_records(&list, &AdminOptions::new());
    world.runtime.block_on(done).expect("delete records");
}

/// Deletes the topic and makes one of its name.
fn make_again(world: &World, partitions: i32) {
    let (admin, name) = (admin(world), world.kafka_topic.as_str());
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    let deleted = world.runtime.block_on(admin.delete_topics(&[name], &options)).expect("delete");
    deleted[0].as_ref().expect("delete the topic");
    let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    // Kafka deletes in its own time.
    eventually("a topic of the same name", || {
        let made = world.runtime.block_on(admin.create_topics([&new], &options)).expect("create");
        made[0].is_ok()
    });
}

/// Lake files a second apart, so that nobody waits for one.
fn world(name: &str, partitions: i32) -> Option<World> {
    let world = taps::world(name, partitions, Lake::Local)?;
    world.declare("taps", &format!("{}roll = {{ age = \"1s\" }}\n", taps::TOPIC));
    Some(world)
}

fn produce(world: &World, partition: i32, numbers: Range<i64>) {
    produce_all(world, partition, taps::records(numbers));
}

fn produce_all(world: &World, partition: i32, records: impl Iterator<Item = (String, String)>) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.services.kafka)
        .create()
        .expect("producer");
    for (key, value) in records {
        let to = BaseRecord::to(&world.kafka_topic).key(&key).payload(&value).partition(partition);
        producer.send(to).map_err(|(e, _)| e).expect("produce");
        producer.poll(Duration::ZERO);
    }
    producer.flush(WAIT).expect("flush");
}

/// The lowest mark of a partition.
fn mark(world: &World, partition: i32) -> i64 {
    world.number(&format!(
        "SELECT min(next_offset) FROM highwater.marks WHERE partition = {partition}"
    ))
}

fn is_ready(service: &mut Running) -> bool {
    service.get("/readyz").0 == 200
}

/// Waits until `/readyz` is false with these words.
fn stands(service: &mut Running, words: &str) {
    eventually(words, || {
        let (code, body) = service.get("/readyz");
        code == 503 && body.contains(words)
    });
}

/// Everything holds, by the proof and by every row.
fn assert_all_holds(world: &World) {
    world.assert_proof();
    let text = world.run(&["verify", "--deep"]);
    assert!(text.contains("everything holds"), "{text}");
    assert!(text.contains("2 tables rebuilt"), "{text}");
}

fn lake_rows(world: &World) -> i64 {
    world.number("SELECT coalesce(sum(rows), 0) FROM highwater.lake_files")
}

#[test]
fn retention_stops_its_partition_alone_until_a_person_accepts_what_is_gone() {
    let Some(world) = world("gap_retention", 2) else { return };
    produce(&world, 0, 0..300);
    produce(&world, 1, 1000..1300);
    world.run_until_caught_up();
    produce(&world, 0, 300..900);
    produce(&world, 1, 1300..1900);
    forget(&world, 0, 500);
    let sentence = "taps/0: offsets 300..500 are gone (200 offsets; retention passed the mark of \
                    dead_letters, lake, model:by_stop, model:paid_by_mode)";

    let (code, text) = Running::start(world.command(&["run", "--until-caught-up"])).wait();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(sentence), "{text}");
    assert_eq!(mark(&world, 0), 300, "nothing is skipped");
    assert_eq!(mark(&world, 1), 900, "the other partition is done");

    let mut service = world.follow(&[]);
    stands(&mut service, sentence);
    produce(&world, 1, 1900..2000);
    eventually("the other partition goes on", || mark(&world, 1) == 1000);
    let (_, metrics) = service.get("/metrics");
    let gauge = "highwater_gap_offsets{topic=\"taps\",partition=\"0\"} 200";
    assert!(metrics.contains(gauge), "{metrics}");
    let told = service.status()["topics"][0]["gaps"][0].as_str().map(str::to_owned);
    assert!(told.is_some_and(|told| told.starts_with(sentence)));
    assert!(world.run(&["status"]).contains(sentence));

    let dry = world.run(&["accept-gap", "taps", "--dry-run"]);
    assert!(dry.contains("taps/0 lake: 200 offsets would be recorded as lost, 300..500"), "{dry}");
    assert_eq!(mark(&world, 0), 300, "a dry run changes nothing");
    assert_eq!(world.number("SELECT count(*) FROM highwater.gaps"), 0);
    let none = world.run(&["accept-gap", "taps", "--partition", "1"]);
    assert!(none.contains("nothing is gone of taps"), "{none}");

    let json = world.run(&["accept-gap", "taps", "--partition", "0", "--json"]);
    let lines: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(lines.as_array().map(Vec::len), Some(4), "{json}");
    assert!(lines.as_array().is_some_and(|l| l.iter().all(|l| l["lost"] == 200)), "{json}");
    eventually("it goes on by itself", || mark(&world, 0) == 900 && is_ready(&mut service));
    let (_, metrics) = service.get("/metrics");
    assert!(metrics.contains("highwater_gap_offsets{topic=\"taps\",partition=\"0\"} 0"));
    service.stop();

    assert_tables(&world, taps(0..300).chain(taps(500..900)).chain(taps(1000..2000)));
    assert_eq!(lake_rows(&world), 1700);
    assert_all_holds(&world);
    let lost = "SELECT output, from_offset, to_offset, lost, reason FROM highwater.gaps
                WHERE output = 'lake'";
    let row = ["lake", "300", "500", "200", "retention"].map(|c| Some(c.to_owned()));
    assert_eq!(world.query(lost), [row]);
}

#[test]
fn retention_that_overtakes_a_running_service_is_found_by_the_reader() {
    let Some(world) = world("gap_running", 1) else { return };
    produce(&world, 0, 0..100);
    let mut service = world.follow(&[("HIGHWATER_KAFKA", "session.timeout.ms=45000")]);
    eventually("a hundred in the tables", || mark_of_tables(&world) == 100);
    service.signal(libc::SIGSTOP);
    // More than one fetch, of which the first may be under way.
    produce(&world, 0, 100..40_000);
    forget(&world, 0, 35_000);
    service.signal(libc::SIGCONT);
    stands(&mut service, "35000 are gone");
    // What was under way when it was stopped came through, and is in the tables and the lake.
    let read = mark(&world, 0);
    assert!((100..35_000).contains(&read), "{read}");
    let text = world.run(&["accept-gap", "taps"]);
    let lost = 35_000 - read;
    assert!(text.contains(&format!("{lost} offsets recorded as lost, {read}..35000")), "{text}");
    eventually("it goes on", || mark(&world, 0) == 40_000 && is_ready(&mut service));
    service.stop();
    assert_tables(&world, taps(0..read).chain(taps(35_000..40_000)));
    assert_eq!(lake_rows(&world), read + 5000);
    assert_all_holds(&world);
}

/// The lowest mark of the models.
fn mark_of_tables(world: &World) -> i64 {
    match world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") {
        0 => 0,
        _ => world.number("SELECT min(next_offset) FROM highwater.marks WHERE output <> 'lake'"),
    }
}

/// Three hundred were read; the topic is made again with `count` others.
fn made_again(name: &str, count: i64, running: bool) {
    let Some(world) = world(name, 1) else { return };
    produce(&world, 0, 0..300);
    world.run_until_caught_up();
    let before = running.then(|| {
        let mut service = world.follow(&[]);
        eventually("ready", || {
            is_ready(&mut service) && service.status()["topics"][0]["partitions"][0]["lake"] == 300
        });
        service
    });
    make_again(&world, 1);
    produce(&world, 0, 1000..1000 + count);
    let mut service = before.unwrap_or_else(|| world.follow(&[]));
    stands(&mut service, "taps/0: the topic was deleted and made again");
    assert_eq!(mark(&world, 0), 300);
    assert_tables(&world, taps(0..300));

    let text = world.run(&["accept-gap", "taps"]);
    assert!(text.contains("taps/0 lake: generation 2 begins at offset 0"), "{text}");
    let begun = || mark(&world, 0) == count;
    eventually("it goes on by itself", || begun() && is_ready(&mut service));
    service.stop();
    let all = || taps(0..300).chain((1000..1000 + count).map(Tap));
    assert_tables(&world, all());
    assert_eq!(lake_rows(&world), 300 + count);
    assert_all_holds(&world);
    assert_eq!(world.number("SELECT count(*) FROM highwater.former_marks"), taps::OUTPUTS);
    assert_eq!(world.number("SELECT count(DISTINCT topic_id_new) FROM highwater.gaps"), 1);

    // What follows is nothing special any more.
    produce(&world, 0, 3000..3050);
    world.run_until_caught_up();
    assert_tables(&world, all().chain(taps(3000..3050)));
    assert_all_holds(&world);
}

#[test]
fn a_topic_made_again_while_down_stands_though_it_is_shorter_than_the_mark() {
    made_again("gap_again_down_short", 100, false);
}

#[test]
fn a_topic_made_again_while_down_stands_though_it_has_grown_past_the_mark() {
    made_again("gap_again_down_long", 500, false);
}

#[test]
fn a_topic_made_again_under_a_running_service_stands_though_it_is_shorter_than_the_mark() {
    made_again("gap_again_running_short", 100, true);
}

#[test]
fn a_topic_made_again_under_a_running_service_stands_though_it_has_grown_past_the_mark() {
    made_again("gap_again_running_long", 500, true);
}

#[test]
fn a_table_of_rows_known_by_offset_refuses_offsets_that_begin_again() {
    let Some(world) = world("gap_append", 1) else { return };
    world
        .declare_model("all_taps", "CREATE MATERIALIZED VIEW all_taps AS SELECT tap_id FROM taps;");
    produce(&world, 0, 0..30);
    world.run_until_caught_up();
    make_again(&world, 1);
    produce(&world, 0, 30..90);
    let answer = world.output(&["accept-gap", "taps"]);
    assert_eq!(answer.status.code(), Some(2));
    let text = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(text.contains("model all_taps stands in the way"), "{text}");
    assert!(text.contains("Give its file another name"), "{text}");
    assert_eq!(mark(&world, 0), 30, "nothing was changed");

    // The remedy that the sentence names.
    let models = world.folder.path().join("models");
    std::fs::remove_file(models.join("all_taps.sql")).expect("the model");
    world
        .declare_model("new_taps", "CREATE MATERIALIZED VIEW new_taps AS SELECT tap_id FROM taps;");
    world.run(&["accept-gap", "taps"]);
    world.run_until_caught_up();
    assert_eq!(world.number("SELECT count(*) FROM all_taps"), 30);
    assert_eq!(world.number("SELECT count(*) FROM new_taps"), 60);
    assert_tables(&world, taps(0..90));
    world.assert_proof();
}

#[test]
fn offsets_that_compaction_took_are_no_gap() {
    let Some(world) = world("gap_compacted", 1) else { return };
    let (admin, name) = (admin(&world), world.kafka_topic.as_str());
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    world.runtime.block_on(admin.delete_topics(&[name], &options)).expect("delete");
    let new = NewTopic::new(name, 1, TopicReplication::Fixed(1))
        .set("cleanup.policy", "compact")
        .set("segment.ms", "100")
        .set("min.cleanable.dirty.ratio", "0.01");
    eventually("a compacted topic", || {
        let made = world.runtime.block_on(admin.create_topics([&new], &options)).expect("create");
        made[0].is_ok()
    });
    produce(&world, 0, 0..300);
    world.run_until_caught_up();
    // The same 97 keys again: what went before of them is swept away, in segments that are closed.
    produce(&world, 0, 300..2000);
    let mut next = 2000;
    eventually("a swept log", || {
        produce(&world, 0, next..next + 1);
        next += 1;
        (left(&world) as i64) < next - 1000
    });
    world.run_until_caught_up();
    let absent = "SELECT min(absent) FROM highwater.marks";
    assert!(world.number(absent) > 1000, "{}", world.number(absent));
    assert_eq!(world.number("SELECT sum(lost) FROM highwater.marks"), 0);
    assert_eq!(mark(&world, 0), next);
    assert_all_holds(&world);
}

/// Records that a reader from the beginning gets.
fn left(world: &World) -> usize {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.services.kafka)
        .set("group.id", "none")
        .create()
        .expect("consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&world.kafka_topic, 0, Offset::Beginning).expect("beginning");
    consumer.assign(&list).expect("assign");
    let (_, end) = consumer.fetch_watermarks(&world.kafka_topic, 0, WAIT).expect("the log's end");
    let mut count = 0;
    loop {
        let record = consumer.poll(WAIT).expect("a record").expect("a record");
        count += 1;
        if record.offset() + 1 == end {
            return count;
        }
    }
}

#[test]
fn refused_records_of_both_topics_at_the_same_offsets_are_held_apart() {
    let Some(world) = world("gap_letters", 1) else { return };
    let mended = format!(
        "{}roll = {{ age = \"1s\" }}\n[dead_letters]\nstop_above = \"100%\"\n",
        taps::TOPIC
    );
    let strict = mended.replace("[lake]", "seats = \"smallint\"\n[lake]");
    world.declare("taps", &strict);
    produce_all(&world, 0, seated(0..100));
    world.run_until_caught_up();
    world.declare("taps", &mended);
    let text = world.run(&["dead-letters", "retry", "taps/0@5"]);
    assert!(text.contains("1 taken"), "{text}");

    world.declare("taps", &strict);
    make_again(&world, 1);
    produce_all(&world, 0, seated(1000..1100));
    world.run(&["accept-gap", "taps"]);
    world.run_until_caught_up();
    world.assert_proof();
    assert_eq!(world.number("SELECT count(*) FROM highwater.dead_letters"), 39);
    let shown = world.run(&["dead-letters", "show", "taps/0@10"]);
    assert!(shown.contains("tap-10\"") && shown.contains("tap-1010\""), "{shown}");

    world.declare("taps", &mended);
    let text = world.run(&["dead-letters", "retry"]);
    assert!(text.contains("20 taken"), "{text}");
    assert_eq!(
        world.number("SELECT count(*) FROM highwater.dead_letters WHERE generation = 1"),
        19,
        "what is closed stays"
    );
    let taken = taps(0..100).filter(|tap| tap.0 % 5 != 0 || tap.0 == 5);
    assert_tables(&world, taken.chain(taps(1000..1100)));
    assert_all_holds(&world);
}
