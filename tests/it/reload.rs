//! Topic files and models taken up by a running service: by `POST /reload` and by SIGHUP, while taps come in.
//!
//! Each of these was planted once and is caught: the pipeline not asked to stand before a swap; a topic that failed counted as
//! taken up; partitions that are assigned not told to who listens anew.

use crate::{
    replay::{Ends, HURRY},
    support::{Lake, Running, World, create_topic, eventually, produce, unique},
    taps::{self, BY_STOP, Tap, records, taps},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
};

const BY_MODE: &str = "
CREATE MATERIALIZED VIEW by_mode AS
SELECT mode, count(*) AS taps, count(fare_cents) AS paid FROM taps GROUP BY mode;
";

/// Files are as they are now, and the service says that it has them.
fn taken_up(service: &mut Running) -> String {
    let (code, body) = service.request("POST", "/reload");
    assert_eq!(code, 200, "{body}\n{}", service.printed());
    body
}

fn every_quarter(sql: &str) -> String {
    let changed = sql.replace("5 minutes", "15 minutes");
    assert_ne!(changed, sql);
    changed
}

fn undeclare(world: &World, file: &str) {
    std::fs::remove_file(world.folder.path().join(file)).expect("it was there");
}

/// `by_stop` holds exactly these taps, in windows of so many seconds, and with how many were paid.
fn assert_by_stop(world: &World, taps: impl Iterator<Item = Tap>, window: i64) {
    let mut expected: BTreeMap<(i64, String), (i64, i64)> = BTreeMap::new();
    for tap in taps {
        let at = tap.seconds().div_euclid(window) * window;
        let row = expected.entry((at, tap.stop())).or_default();
        *row = (row.0 + 1, row.1 + i64::from(tap.fare().is_some()));
    }
    let found = world.query(
        "SELECT extract(epoch FROM window_start)::bigint, stop_id, taps, paid FROM by_stop ORDER BY 1, 2",
    );
    let row = |((at, stop), (taps, paid)): (&(i64, String), &(i64, i64))| {
        [at.to_string(), stop.clone(), taps.to_string(), paid.to_string()].map(Some).to_vec()
    };
    assert_eq!(found, expected.iter().map(row).collect::<Vec<_>>(), "by_stop");
}

fn assert_by_mode(world: &World, taps: impl Iterator<Item = Tap>) {
    let mut expected: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for tap in taps {
        let row = expected.entry(tap.mode()).or_default();
        *row = (row.0 + 1, row.1 + i64::from(tap.fare().is_some()));
    }
    let found = world.query("SELECT mode, taps, paid FROM by_mode ORDER BY 1");
    let row = |(mode, (taps, paid)): (&&str, &(i64, i64))| {
        [(*mode).to_owned(), taps.to_string(), paid.to_string()].map(Some).to_vec()
    };
    assert_eq!(found, expected.iter().map(row).collect::<Vec<_>>(), "by_mode");
}

/// As [`taps::TOPIC`], with files that follow soon.
fn topic() -> String {
    format!("{}roll = {{ age = \"1s\" }}\n", taps::TOPIC)
}

/// All outputs that are declared stand at the end of what was sent.
fn stands_at(world: &World, models: &[&str], offsets: i64) -> bool {
    let outputs = models.iter().map(|model| format!("'model:{model}'"));
    let outputs: Vec<_> = outputs.chain(["'lake'".into(), "'dead_letters'".into()]).collect();
    let sql = format!(
        "SELECT count(*) FROM (SELECT output FROM highwater.marks WHERE output IN ({}) GROUP BY output
         HAVING sum(next_offset) = {offsets}) AS done",
        outputs.join(", ")
    );
    world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 1
        && world.number(&sql) == outputs.len() as i64
}

/// While `during` goes on taps come in, and a reader never sees fewer than before; how many were sent.
fn beside_traffic(world: &World, begun: i64, look: &str, during: impl FnOnce(&AtomicI64)) -> i64 {
    let (sent, over) = (AtomicI64::new(begun), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Also when something fails here, or nothing would end.
        let ends = Ends(&over);
        let writer = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let from = sent.load(Ordering::Relaxed);
                world.produce(records(from..from + 100));
                sent.store(from + 100, Ordering::Relaxed);
            }
        });
        let reader = scope.spawn(|| {
            crate::support::runtime().block_on(async {
                let client = crate::support::connect(&world.warehouse()).await;
                let (mut seen, mut polls) = (1_i64, 0);
                while !over.load(Ordering::Relaxed) {
                    let now: i64 = client.query_one(look, &[]).await.expect("it is there").get(0);
                    assert!(now >= seen, "{look}: {seen}, then {now}");
                    (seen, polls) = (now, polls + 1);
                }
                polls
            })
        });
        during(&sent);
        drop(ends);
        writer.join().expect("the writer");
        assert!(reader.join().expect("the reader") > 10, "it looked");
    });
    sent.into_inner()
}

#[test]
fn models_are_changed_added_and_dropped_beside_live_traffic() {
    const TAPS: i64 = 30_000;
    let Some(world) = World::empty("reload_models", 3, Lake::Local) else { return };
    world.declare("taps", &topic());
    world.declare_model("by_stop", BY_STOP);
    world.declare_model("dropped", &BY_MODE.replace("by_mode", "dropped"));
    world.produce(records(0..TAPS));
    let mut service = world.follow(&HURRY);
    eventually("the first taps", || stands_at(&world, &["by_stop", "dropped"], TAPS));

    let look = "SELECT coalesce(sum(taps), 0)::bigint FROM by_stop";
    let sent = beside_traffic(&world, TAPS, look, |_| {
        world.declare_model("by_stop", &every_quarter(BY_STOP));
        let said = taken_up(&mut service);
        assert!(said.contains("model:by_stop is made anew by its new definition"), "{said}");
        assert_eq!(taken_up(&mut service), "nothing has changed\n");

        world.declare_model("by_mode", BY_MODE);
        let said = taken_up(&mut service);
        assert!(said.contains("model:by_mode is new, filled"), "{said}");
        assert!(!said.contains("by_stop"), "{said}");

        undeclare(&world, "models/dropped.sql");
        let said = taken_up(&mut service);
        assert!(said.contains("model:dropped is declared no more"), "{said}");

        let wider = every_quarter(BY_STOP).replace(", sum", ", count(fare_cents) AS paid, sum");
        world.declare_model("by_stop", &wider);
        // The other way to say it.
        service.signal(libc::SIGHUP);
        eventually("the column", || {
            let sql = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'by_stop'::regclass AND attname = 'paid'";
            world.number(sql) == 1
        });
    });
    eventually("all taps", || stands_at(&world, &["by_stop", "by_mode"], sent));
    let kept = world.number("SELECT sum(taps) FROM dropped");
    assert!(
        (TAPS..sent).contains(&kept),
        "{kept} of {sent}: kept as it was, and gone on with by nobody"
    );
    let (code, body) = service.get("/readyz");
    assert_eq!(code, 200, "{body}");
    let text = service.stop();
    assert!(!text.contains("stopped:"), "{text}");
    assert_by_stop(&world, taps(0..sent), 900);
    assert_by_mode(&world, taps(0..sent));
    taps::assert_lake(&world, sent);
    world.assert_proof();
    world.run(&["verify", "--deep"]);
    // A restart finds what was taken up.
    assert!(world.run(&["plan"]).contains("unchanged"));
    world.run_until_caught_up();
}

/// Where a take takes its time, the next reload comes while partitions are still being taken by the definition of before.
#[test]
fn one_reload_right_after_the_other_finds_partitions_that_are_being_taken() {
    let Some(world) = World::empty("reload_often", 3, Lake::Local) else { return };
    let with_paid = BY_STOP.replace(", sum", ", count(fare_cents) AS paid, sum");
    world.declare("taps", &topic());
    world.declare_model("by_stop", &with_paid);
    world.produce(records(0..3_000));
    let mut service = world.follow(&HURRY);
    eventually("the first taps", || stands_at(&world, &["by_stop"], 3_000));
    world.slow_down(0.15, &[("UPDATE OF epoch ON highwater.marks", "")]);
    for definition in [every_quarter(&with_paid), with_paid.clone(), every_quarter(&with_paid)] {
        world.declare_model("by_stop", &definition);
        let said = taken_up(&mut service);
        assert!(said.contains("is made anew by its new definition: 3000 offsets"), "{said}");
    }
    world.produce(records(3_000..4_000));
    eventually("it goes on", || stands_at(&world, &["by_stop"], 4_000));
    let text = service.stop();
    assert!(!text.contains("stopped:"), "{text}");
    assert_by_stop(&world, taps(0..4_000), 900);
    world.run(&["verify", "--deep"]);
}

#[test]
fn a_mistake_in_any_file_leaves_what_runs_as_it_is() {
    let Some(world) = taps::world("reload_mistake", 2, Lake::Local) else { return };
    world.declare("taps", &topic());
    world.produce(records(0..2_000));
    let mut service = world.follow(&HURRY);
    eventually("the first taps", || world.has_passed(taps::OUTPUTS, 2_000));
    let marks = "SELECT to_jsonb(m)::text FROM highwater.marks m ORDER BY 1";
    let before = world.query(marks);

    // A good one and a bad one: neither is taken up.
    world.declare_model("by_stop", &every_quarter(BY_STOP));
    world.declare_model(
        "paid_by_mode",
        "CREATE MATERIALIZED VIEW paid_by_mode AS SELECT fare FROM taps",
    );
    world.declare("more", "topic = 7");
    let (code, said) = service.request("POST", "/reload");
    assert_eq!(code, 422, "{said}");
    for part in ["paid_by_mode.sql:1", "more.toml:1", "mistakes in topics and models"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    service.signal(libc::SIGHUP);
    eventually("the log says so", || service.printed().contains("reload: "));
    assert_eq!(world.query(marks), before, "nobody took anything anew");
    world.produce(records(2_000..3_000));
    eventually("more taps", || world.has_passed(taps::OUTPUTS, 3_000));

    // Files without a mistake, of which one cannot be followed: somebody's table is in the way.
    world.declare_model("by_stop", BY_STOP);
    world.declare_model("paid_by_mode", taps::PAID_BY_MODE);
    undeclare(&world, "topics/more.toml");
    world.declare_model("by_mode", BY_MODE);
    world.query("CREATE TABLE by_mode (mode text)");
    let (code, said) = service.request("POST", "/reload");
    assert_eq!(code, 503, "{said}");
    assert!(said.contains("topic taps goes on as before") && said.contains("by_mode"), "{said}");
    world.produce(records(3_000..4_000));
    eventually("it goes on", || stands_at(&world, &["by_stop", "paid_by_mode"], 4_000));
    assert_eq!(world.number("SELECT count(*) FROM by_mode"), 0, "it is as it was");
    world.query("DROP TABLE by_mode");
    taken_up(&mut service);
    eventually("it is filled", || {
        stands_at(&world, &["by_stop", "paid_by_mode", "by_mode"], 4_000)
    });
    let text = service.stop();
    assert!(!text.contains("stopped:"), "{text}");
    taps::assert_tables(&world, taps(0..4_000));
    assert_by_mode(&world, taps(0..4_000));
}

#[test]
fn topics_come_and_go_and_one_that_stopped_is_started_again() {
    let Some(world) = taps::world("reload_topics", 2, Lake::Local) else { return };
    world.declare("taps", &topic());
    let other = unique("reload_more");
    world.runtime.block_on(create_topic(&world.services.kafka, &other, 2));
    let brokers = &world.services.kafka;
    world.produce(records(0..2_000));
    produce(brokers, &other, records(0..500));
    let mut service = world.follow(&HURRY);
    eventually("the first taps", || world.has_passed(taps::OUTPUTS, 2_000));

    let limited = |share: &str| {
        let text = topic().replace("{topic}", &other);
        format!("{text}\n[dead_letters]\nstop_above = \"{share}\"\n")
    };
    let (strict, good) = (limited("1%"), limited("100%"));
    world.declare("more", &strict);
    world.declare_model(
        "more_by_mode",
        &BY_MODE.replace("by_mode", "more_by_mode").replace("FROM taps", "FROM more"),
    );
    let said = taken_up(&mut service);
    assert!(said.contains("topic more is new"), "{said}");
    let of_more = |offsets: i64| {
        let sql = "SELECT count(*) FROM (SELECT output FROM highwater.marks WHERE topic = 'more' GROUP BY output HAVING";
        world.number(&format!("{sql} sum(next_offset) = {offsets}) AS done")) == 3
    };
    eventually("the new topic's taps", || of_more(500));

    // More than a hundred of the last 10,000 are refused: it stops, and the other goes on.
    produce(brokers, &other, (0..400).map(|n| (n.to_string(), "{".to_owned())));
    eventually("it stops", || service.get("/readyz").1.contains("topic more stopped"));
    world.produce(records(2_000..2_500));
    world.declare("more", &good);
    taken_up(&mut service);
    eventually("it is started again", || of_more(900));
    eventually("ready", || service.get("/readyz").0 == 200);
    assert_eq!(
        world.number("SELECT count(*) FROM highwater.dead_letters WHERE topic = 'more'"),
        400
    );

    undeclare(&world, "topics/more.toml");
    undeclare(&world, "models/more_by_mode.sql");
    let said = taken_up(&mut service);
    assert!(said.contains("topic more is read no more"), "{said}");
    produce(brokers, &other, records(500..600));
    world.produce(records(2_500..3_000));
    eventually("the first topic goes on", || {
        world.number(
            "SELECT sum(next_offset) FROM highwater.marks WHERE topic = 'taps' AND output = 'lake'",
        ) == 3_000
    });
    assert!(of_more(900), "nobody reads it");
    world.declare("more", &good);
    world.declare_model(
        "more_by_mode",
        &BY_MODE.replace("by_mode", "more_by_mode").replace("FROM taps", "FROM more"),
    );
    taken_up(&mut service);
    eventually("it is read again", || of_more(1_000));
    service.stop();
    taps::assert_tables(&world, taps(0..3_000));
    let sql = "SELECT sum(taps)::bigint, sum(paid)::bigint FROM more_by_mode";
    let paid = taps(0..600).filter(|tap| tap.fare().is_some()).count();
    assert_eq!(world.query(sql), [["600".to_owned(), paid.to_string()].map(Some).to_vec()]);
    world.run(&["verify", "--deep"]);
}

#[test]
fn killed_while_files_are_taken_up_a_start_goes_on_with_them() {
    const TAPS: i64 = 20_000;
    let Some(world) = World::empty("reload_killed", 2, Lake::Local) else { return };
    let mut random = SmallRng::seed_from_u64(23);
    world.declare("taps", &topic());
    let definitions = [5, 15, 10, 20].map(|minutes| {
        BY_STOP
            .replace("5 minutes", &format!("{minutes} minutes"))
            .replace(", sum", ", count(fare_cents) AS paid, sum")
    });
    world.declare_model("by_stop", &definitions[0]);
    world.produce(records(0..TAPS));
    let look = "SELECT coalesce(sum(taps), 0)::bigint FROM by_stop";
    world.run_until_caught_up();
    let sent = beside_traffic(&world, TAPS, look, |_| {
        for definition in &definitions[1..] {
            let mut service = world.follow(&HURRY);
            service.address();
            world.declare_model("by_stop", definition);
            service.signal(libc::SIGHUP);
            std::thread::sleep(std::time::Duration::from_millis(random.random_range(0..1_500)));
            service.signal(libc::SIGKILL);
            service.wait();
            world.run(&["run", "--until-caught-up", "--apply"]);
        }
    });
    world.run_until_caught_up();
    assert_by_stop(&world, taps(0..sent), 1_200);
    taps::assert_lake(&world, sent);
    world.assert_proof();
    world.run(&["verify", "--deep"]);
}
