//! A table of Qlik Replicate's is loaded again between a person's `begin` and `end`: what the new load does not
//! hold goes at once, whatever is killed; and a person is asked where that would be too much.
//! What bugs are found by, planted one by one, is told in `warehouse/tests/loads.rs`.

use crate::{
    snapshots::{MODELS, PARTITIONS, Sent, assert_tables, assert_whole, held, rows, send, waiting},
    support::{Lake, World, eventually},
};

const COLUMNS: &str = r#"
[changes]
key = ["id"]

[columns]
id    = "integer"
state = "text"
qty   = "integer"

[lake]
roll = { bytes = "128MiB", age = "1s" }

[dead_letters]
stop_above = "100%"
"#;

#[derive(Clone, Copy, PartialEq)]
enum As {
    Json,
    /// Files of a full load: rows and nothing else.
    Csv,
}

fn world(name: &str, format: As, changes: &str) -> Option<World> {
    let world = World::empty(name, PARTITIONS as i32, Lake::Local)?;
    let csv = match format {
        As::Json => "",
        As::Csv => "\n[csv]\nheader = [\"id\", \"state\", \"qty\"]\n",
    };
    let columns = COLUMNS.replace("key = [\"id\"]", &format!("key = [\"id\"]\n{changes}"));
    world.declare("orders", &format!("topic = \"{{topic}}\"\nformat = \"qlik\"\n{csv}{columns}"));
    for (name, sql) in MODELS {
        world.declare_model(name, sql);
    }
    Some(world)
}

/// A row of a full load.
fn loaded(format: As, id: i64, state: &str) -> Sent {
    let qty = id % 100;
    let value = match format {
        As::Csv => format!("{id},{state},{qty}"),
        As::Json => format!(
            "{{\"magic\":\"atMSG\",\"type\":\"DT\",\"message\":{{\"data\":{{\"id\":\"{id}\",\"state\":\"{state}\",\"qty\":\
             \"{qty}\"}},\"beforeData\":null,\"headers\":{{\"operation\":\"REFRESH\",\"changeSequence\":\"\",\"timestamp\":\
             \"\"}}}}}}"
        ),
    };
    ((id % PARTITIONS) as i32, value)
}

fn load(format: As, ids: &[i64], state: &str) -> Vec<Sent> {
    ids.iter().map(|id| loaded(format, *id, state)).collect()
}

fn change(operation: &str, id: i64, state: &str, sequence: u64) -> Sent {
    let qty = id % 100;
    let value = format!(
        "{{\"magic\":\"atMSG\",\"type\":\"DT\",\"message\":{{\"data\":{{\"id\":\"{id}\",\"state\":\"{state}\",\"qty\":\"{qty}\"}},\
         \"beforeData\":null,\"headers\":{{\"operation\":\"{operation}\",\"changeSequence\":\
         \"202309110323{sequence:023}\",\"timestamp\":\"2023-09-11T03:23:25.000\"}}}}}}"
    );
    ((id % PARTITIONS) as i32, value)
}

const QUICKLY: [(&str, &str); 1] = [("HIGHWATER_COMMIT_INTERVAL", "50ms")];

fn all(ids: &[i64], state: &'static str) -> Vec<(i64, &'static str)> {
    ids.iter().map(|id| (*id, state)).collect()
}

/// What a command that is refused says.
fn refused(world: &World, arguments: &[&str]) -> String {
    let output = world.output(arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
    told
}

#[test]
fn what_a_new_load_does_not_hold_goes_at_once_whatever_is_killed() {
    for format in [As::Json, As::Csv] {
        reloaded_while_killed(format);
    }
}

fn reloaded_while_killed(format: As) {
    let Some(world) = world("reload", format, "") else { return };
    let (old, new) = (rows(1..601, 1_000), rows(1..601, 10));
    send(&world, &load(format, &old, "old"));
    let changed = match format {
        As::Json => vec![change("UPDATE", 4, "old", 5_000), change("DELETE", 9, "old", 5_001)],
        As::Csv => Vec::new(),
    };
    send(&world, &changed);
    world.run_until_caught_up();
    let before: Vec<i64> = old.iter().copied().filter(|id| format == As::Csv || *id != 9).collect();
    assert_tables(&world, &all(&before, "old"));

    // Records that come and are not read yet are of before.
    send(&world, &load(format, &[5], "old"));
    let told = world.run(&["snapshot", "begin", "orders"]);
    assert!(told.contains("load 1 begins at 0@"), "{told}");
    send(&world, &load(format, &new[..200], "new"));
    let running = world.follow(&QUICKLY);
    eventually("part of the load waits", || waiting(&world, "kept") >= 200);
    running.signal(libc::SIGKILL);
    running.wait();
    assert_tables(&world, &all(&before, "old"));

    // What Replicate had kept back while it loaded: of an older log, as it seems.
    send(&world, &load(format, &new[200..], "new"));
    if format == As::Json {
        send(
            &world,
            &[
                change("INSERT", 1_001, "kept back", 4_000),
                change("UPDATE", 1, "kept back", 4_001),
                change("DELETE", 2, "new", 4_002),
            ],
        );
    }
    let running = world.follow(&QUICKLY);
    eventually("all of it waits", || waiting(&world, "history") >= 540);
    running.signal(libc::SIGKILL);
    running.wait();
    assert_tables(&world, &all(&before, "old"));
    assert!(world.run(&["status"]).contains("load 1 has begun and not ended"));
    let told = world.run(&["snapshot", "end", "orders", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert!(told["load"] == 1 && told["to"]["2"].as_i64() > told["from"]["2"].as_i64(), "{told}");

    // Two processes: whoever finds it first swaps it in, and each reader sees all or nothing of it.
    let pair = [world.follow(&QUICKLY), world.follow(&QUICKLY)];
    let gone = before.len().to_string();
    let seen = "SELECT count(*) FILTER (WHERE state = 'old'), count(*) FROM kept";
    eventually("swapped in", || {
        let seen = world.query(seen).remove(0);
        let (old, all) = (seen[0].clone().unwrap(), seen[1].clone().unwrap());
        let whole = [(gone.as_str(), gone.as_str()), ("0", "540")];
        assert!(whole.contains(&(old.as_str(), all.as_str())), "{old} of {all}");
        old == "0"
    });
    pair.into_iter().for_each(|process| drop(process.stop()));

    // A row that no bracket holds is merged, below every change.
    send(&world, &load(format, &[1, 3, 2_001], "late"));
    world.run_until_caught_up();
    let state = |id: i64| match (id, format) {
        (1 | 1_001, As::Json) => "kept back",
        (1 | 3 | 2_001, _) => "late",
        _ => "new",
    };
    let more: &[i64] = if format == As::Json { &[1_001, 2_001] } else { &[2_001] };
    let ids = new.iter().chain(more).filter(|id| format == As::Csv || **id != 2);
    let wanted: Vec<_> = ids.map(|id| (*id, state(*id))).collect();
    assert_tables(&world, &wanted);
    let states = "SELECT DISTINCT state FROM history__snapshots";
    assert_eq!(world.query(states), [[Some("applied".to_owned())]]);
    for (model, _) in MODELS {
        assert_eq!(waiting(&world, model), 0);
    }
    assert_whole(&world);

    // A model of today reads all of it from the beginning.
    world.declare_model("again", &MODELS[0].1.replace("kept", "again"));
    world.run_until_caught_up();
    let both =
        ["kept", "again"].map(|m| world.query(&format!("SELECT id, state FROM {m} ORDER BY id")));
    assert_eq!(both[0], both[1]);
    let told = refused(&world, &["replay", "model:again"]);
    assert!(told.contains("it holds a snapshot of the source"), "{told}");
}

#[test]
fn a_load_that_would_delete_too_much_waits_until_a_person_decides() {
    for (decision, is_applied) in [("accept", true), ("discard", false)] {
        let Some(world) = world("reload_held", As::Json, "") else { return };
        let (old, new) = (rows(1..91, 1_000), rows(1..91, 2));
        send(&world, &load(As::Json, &old, "old"));
        world.run_until_caught_up();
        world.run(&["snapshot", "begin", "orders"]);
        send(&world, &load(As::Json, &new, "new"));
        send(&world, &[change("UPDATE", 1, "later", 1), change("DELETE", 2, "old", 2)]);
        world.run_until_caught_up();
        let told = refused(&world, &["snapshot", "discard", "orders"]);
        assert!(told.contains("`highwater snapshot end orders` first"), "{told}");
        world.run(&["snapshot", "end", "orders"]);
        let told = held(&world);
        assert!(told.contains("of the 90 rows"), "{told}");
        assert!(!told.contains("no row at all"), "{told}");
        assert_tables(&world, &all(&old, "old"));
        let done = world.run(&["snapshot", decision, "orders"]);
        assert!(done.contains(if is_applied { "is applied" } else { "is discarded" }), "{done}");
        world.run_until_caught_up();
        let ids = if is_applied { &new } else { &old };
        let state = |id: i64| match (id, is_applied) {
            (1, _) => "later",
            (_, true) => "new",
            (_, false) => "old",
        };
        let wanted = ids.iter().filter(|id| **id != 2).map(|id| (*id, state(*id)));
        assert_tables(&world, &wanted.collect::<Vec<_>>());
        assert_whole(&world);
    }
}

#[test]
fn a_load_of_no_rows_is_held_though_everything_may_be_deleted() {
    let Some(world) = world("reload_empty", As::Json, "max_deletes = \"100%\"") else { return };
    let old = rows(1..31, 1_000);
    send(&world, &load(As::Json, &old, "old"));
    world.run_until_caught_up();
    world.run(&["snapshot", "begin", "orders"]);
    world.run(&["snapshot", "end", "orders"]);
    let told = held(&world);
    assert!(told.contains("30 of the 30 rows") && told.contains("it has no row at all"), "{told}");
    send(&world, &[change("INSERT", 40, "later", 1)]);
    held(&world);
    assert_tables(&world, &all(&old, "old"));
    // It is loaded once more, and nobody needs to decide.
    world.run(&["snapshot", "begin", "orders"]);
    send(&world, &load(As::Json, &rows(1..31, 3), "new"));
    world.run(&["snapshot", "end", "orders"]);
    world.run_until_caught_up();
    assert_tables(&world, &all(&rows(1..31, 3), "new"));
    assert_whole(&world);
    world.run(&["snapshot", "begin", "orders"]);
    world.run(&["snapshot", "end", "orders"]);
    held(&world);
    world.run(&["snapshot", "accept", "orders"]);
    world.run_until_caught_up();
    assert_tables(&world, &[]);
    assert_whole(&world);
}

#[test]
fn begin_and_end_say_what_is_wrong_where_there_is_nothing_to_bracket() {
    let Some(world) = world("reload_wrong", As::Json, "") else { return };
    let told = refused(&world, &["snapshot", "end", "orders"]);
    assert!(told.contains("no load of orders has begun"), "{told}");
    world.run(&["snapshot", "begin", "orders"]);
    let told = refused(&world, &["snapshot", "begin", "orders"]);
    assert!(told.contains("has begun already and not ended"), "{told}");
    let topic = |format: &str, changes: &str| {
        let columns = COLUMNS.replace("key = [\"id\"]", &format!("key = [\"id\"]\n{changes}"));
        world
            .declare("orders", &format!("topic = \"{{topic}}\"\nformat = \"{format}\"\n{columns}"));
        refused(&world, &["snapshot", "begin", "orders"])
    };
    for (format, changes, why) in [
        ("debezium-json", "", "its connector says itself"),
        ("maxwell", "", "only loads of Qlik Replicate"),
        ("qlik", "snapshots = \"merge\"", "changes.snapshots = \"merge\""),
        ("qlik", "order = \"offset\"", "changes.order = \"offset\""),
    ] {
        let told = topic(format, changes);
        assert!(told.contains("needs no begin and end") && told.contains(why), "{told}");
    }
    let told = refused(&world, &["snapshot", "begin", "nothing"]);
    assert!(told.contains("Declared: orders"), "{told}");
}
