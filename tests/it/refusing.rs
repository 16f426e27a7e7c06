//! Records that nobody can take: dead letters, and the breaker that stops a topic.

use crate::{
    support::{Lake, Running, World, create_topic, eventually, produce, unique},
    taps::{self, OUTPUTS, Tap, assert_lake, assert_tables, records, taps},
};

#[test]
fn a_row_on_which_a_model_fails_is_refused_by_that_model_alone() {
    let Some(world) = taps::world("failing_model", 2, Lake::Local) else { return };
    world.declare_model(
        "by_number",
        "CREATE MATERIALIZED VIEW by_number AS
         SELECT CAST(substr(tap_id, 5) AS bigint) % 10 AS number, count(*) AS taps
         FROM taps GROUP BY CAST(substr(tap_id, 5) AS bigint) % 10;",
    );
    let nameless = |tap: Tap| {
        let (key, _) = tap.record();
        let mut value = tap.json();
        if tap.0 % 100 == 7 {
            value["tapId"] = format!("tap-x{}", tap.0).into();
        }
        (key, value.to_string())
    };
    world.produce(taps(0..3000).map(nameless));
    world.run_until_caught_up();
    let letters = world.query(
        "SELECT output, class, count(*), min(reason) <> '', count(value) FROM highwater.dead_letters
         GROUP BY output, class",
    );
    let row = |cells: &[&str]| cells.iter().map(|c| Some((*c).to_owned())).collect::<Vec<_>>();
    assert_eq!(letters, [row(&["model:by_number", "model", "30", "t", "30"])]);
    assert_eq!(world.number("SELECT sum(taps) FROM by_number"), 2970);
    assert_eq!(world.number("SELECT taps FROM by_number WHERE number = 7"), 270);
    assert_tables(&world, taps(0..3000));
    assert_lake(&world, 3000);
    world.assert_proof();
}

/// A world with a second topic, `good`, which has one partition as the first one has.
fn two_topics(name: &str) -> Option<(World, String)> {
    let world = taps::world(name, 1, Lake::Local)?;
    let strict = format!("{}\n[dead_letters]\nstop_above = \"5%\"\n", taps::TOPIC);
    world.declare("taps", &strict);
    let good = unique(&format!("{name}_good"));
    world.runtime.block_on(create_topic(&world.services.kafka, &good, 1));
    world.declare("good", &taps::TOPIC.replace("{topic}", &good));
    Some((world, good))
}

fn broken(count: i64) -> impl Iterator<Item = (String, String)> {
    (0..count).map(|n| (format!("broken-{n}"), "{\"tapId\": ".to_owned()))
}

const MARK: &str = "SELECT coalesce(sum(next_offset), 0) FROM highwater.marks WHERE ";

#[test]
fn the_breaker_stops_one_topic_and_the_other_goes_on() {
    let Some((world, good)) = two_topics("breaker") else { return };
    let mut service = world.follow(&[]);
    world.produce(records(0..2000));
    // The last 10,000 records are those that were: five hundred may be broken, no more.
    world.produce(broken(400));
    let committed = format!("{MARK} topic = 'taps' AND output = 'dead_letters'");
    eventually("the first batch", || {
        world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 1
            && world.number(&committed) == 2400
    });
    // The other topic may still be starting.
    eventually("ready", || service.get("/readyz").0 == 200);
    world.produce(broken(200));
    let mut why = String::new();
    eventually("not ready", || {
        let (code, body) = service.get("/readyz");
        why = body;
        code == 503
    });
    for word in ["topic taps stopped", "5 %", "10,000", "stop_above"] {
        assert!(why.contains(word), "{word} is not in: {why}");
    }
    let (_, metrics) = service.get("/metrics");
    assert!(metrics.contains("highwater_topic_stopped{topic=\"taps\"} 1"), "{metrics}");
    assert!(metrics.contains("highwater_topic_stopped{topic=\"good\"} 0"), "{metrics}");
    assert!(metrics.contains("highwater_ready 0"), "{metrics}");

    produce(&world.services.kafka, &good, records(0..1000));
    let others = format!("{MARK} topic = 'good' AND output = 'dead_letters'");
    eventually("the other topic", || world.number(&others) == 1000);
    assert_eq!(service.get("/livez").0, 200);
    assert!(service.status()["topics"].to_string().contains("stop_above"));
    // What came before the record that broke it is committed, and nothing else.
    eventually("the letters before it", || world.number(&committed) == 2500);
    let list = world.run(&["dead-letters", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list["counts"][0]["letters"], 500, "{list}");
    assert!(why.contains("it stands before"), "{why}");

    service.signal(libc::SIGTERM);
    let (code, text) = service.wait();
    assert_eq!(code, Some(1), "a stopped topic is told by the exit code:\n{text}");

    // Mended: it goes on where it stood.
    world.declare("taps", &format!("{}\n[dead_letters]\nstop_above = \"100%\"\n", taps::TOPIC));
    world.produce(records(2000..2500));
    world.run_until_caught_up();
    assert_tables(&world, taps(0..2500));
    assert_eq!(world.number("SELECT count(*) FROM highwater.dead_letters"), 600);
    world.assert_proof();
}

#[test]
fn the_breaker_ends_a_run_until_caught_up_with_1() {
    let Some((world, _)) = two_topics("breaker_once") else { return };
    world.produce(records(0..100).chain(broken(501)));
    let (code, text) = Running::start(world.command(&["run", "--until-caught-up"])).wait();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("topic taps: more than 5 %"), "{text}");
    // The lake may not have been open yet: it reads them from its own mark the next time.
    let tables = format!("{MARK} topic = 'taps' AND output <> 'lake'");
    assert_eq!(world.number(&tables), (OUTPUTS - 1) * 600);
    assert_eq!(world.number("SELECT count(*) FROM highwater.dead_letters"), 500);
    world.assert_proof();
}
