//! Outputs that are new, made beside the others of their topic; and those that are not declared any more, dropped.
//!
//! Each of these was planted once and is caught: a swap over marks of a service that fills the model itself, or where the
//! topic stands further on; letters and refusals not taken over; the lake's beginning not read; takes that do not wait for
//! the swap; a drop that leaves letters, or a take that makes a dropped model's marks again; columns added and not filled;
//! windows told by the least event time of files.

use crate::{
    replay::{
        AT_ONCE, Ends, HURRY, KINDS, KINDS_OUTPUTS, Rows, assert_no_trace, assert_same,
        assert_verified, disordered, everything, first_column, half_done, killed_half_way, refused,
        replaying, retry_some, slowly, tables_of, world_of_kinds,
    },
    retention::forget,
    support::{Lake, Running, World, eventually},
    taps::{self, OUTPUTS, records},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::sync::atomic::{AtomicBool, Ordering};

/// The name of a model's twin: the same statement, declared later.
fn twin(model: &str) -> String {
    format!("{model}_too")
}

/// Declares a twin of each model, but for those who look into the folder that this names.
fn declare_twins(world: &World) -> String {
    let old = world.folder.path().join("models_of_before");
    std::fs::create_dir(&old).expect("a folder");
    for (model, sql) in KINDS {
        std::fs::write(old.join(format!("{model}.sql")), sql).expect("a model's file");
        let sql = sql.replacen(&format!("VIEW {model} "), &format!("VIEW {} ", twin(model)), 1);
        world.declare_model(&twin(model), &sql);
    }
    old.to_str().expect("a path").to_owned()
}

/// What a model has come to: its tables, totals, refusals and letters.
fn outcome(world: &World, model: &str) -> Vec<Rows> {
    let mut all = Vec::new();
    for table in tables_of(world, model) {
        all.push(world.query(&format!("SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1")));
    }
    for sql in [
        "SELECT partition, first_offset, next_offset, event_time_max, accepted, filtered, late, dead, absent, duplicate
         FROM highwater.marks WHERE output = '{}' ORDER BY partition",
        "SELECT partition, \"offset\", replace(letter, '{}', 'its own') FROM highwater.refusals
         WHERE output = '{}' AND retried_at IS NULL ORDER BY 1, 2",
        "SELECT partition, \"offset\", class, reason FROM highwater.dead_letters WHERE output = '{}' ORDER BY 1, 2",
    ] {
        all.push(world.query(&sql.replace("{}", &format!("model:{model}"))));
    }
    all
}

fn assert_twins(world: &World) {
    for (model, _) in KINDS {
        let (there, made) = (outcome(world, model), outcome(world, &twin(model)));
        assert_eq!(there.len(), made.len(), "{model}: tables");
        for (there, made) in there.iter().zip(&made) {
            let differing = made.iter().zip(there).find(|(a, b)| a != b);
            assert_eq!(
                (made.len(), differing),
                (there.len(), None),
                "{model}: made, and there before"
            );
        }
    }
}

#[test]
fn new_models_are_made_beside_live_traffic_whoever_is_killed() {
    const TAPS: i64 = 30_000;
    let Some(world) = world_of_kinds("filling_live", 3) else { return };
    let mut random = SmallRng::seed_from_u64(61);
    for begin in (0..TAPS).step_by(10_000) {
        world.produce(disordered(begin..begin + 10_000, &mut random));
        world.run_until_caught_up();
    }
    let old = declare_twins(&world);
    let settings = [HURRY[0], HURRY[1], ("HIGHWATER_MODELS", old.as_str())];
    slowly(&world);
    let over = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let (over, world) = (&over, &world);
        let ends = Ends(over);
        let writer = scope.spawn(move || {
            let mut random = SmallRng::seed_from_u64(67);
            let mut sent = TAPS;
            while sent < TAPS + 10_000 || !over.load(Ordering::Relaxed) {
                world.produce(disordered(sent..sent + 100, &mut random));
                sent += 100;
            }
            sent
        });
        // Two of them, which know nothing of the new models.
        let steady = world.follow(&settings);
        let mut other = Some(world.follow(&settings));
        for (model, _) in KINDS {
            let name = twin(model);
            let marks =
                format!("SELECT count(*) FROM highwater.marks WHERE output = 'model:{name}'");
            for _ in 0..2 {
                // One more would begin to make anew what is there.
                if world.number(&marks) > 0 {
                    break;
                }
                let mut replay = replaying(world, &[&name], &HURRY);
                let until = half_done(world) + random.random_range(1..TAPS / 3);
                eventually("some of it, or all", || {
                    half_done(world) >= until || !replay.is_running()
                });
                if random.random_ratio(1, 2) {
                    let killed: Running = other.take().expect("it runs");
                    killed.signal(libc::SIGKILL);
                    killed.wait();
                }
                replay.signal(libc::SIGKILL);
                replay.wait();
                other.get_or_insert_with(|| world.follow(&settings));
            }
            if world.number(&marks) == 0 {
                let said = world.run(&["replay", &name]);
                assert!(said.contains("its table is there now"), "{said}");
            }
        }
        drop(ends);
        let sent = writer.join().expect("the writer");
        eventually("all of it", || {
            let behind = "SELECT count(*) FROM (SELECT output FROM highwater.marks WHERE output NOT LIKE '%_too'
                          GROUP BY output HAVING sum(next_offset) = ";
            world.number(&format!("{behind}{sent}) AS done")) == KINDS_OUTPUTS
        });
        steady.stop();
        other.expect("it runs").stop();
        sent
    });
    assert_no_trace(&world);
    // From where their marks stand, and no further back.
    let firsts =
        "SELECT count(*) FROM highwater.marks WHERE output LIKE '%_too' AND first_offset > 0";
    assert_eq!(world.number(firsts), 0);
    world.run_until_caught_up();
    assert!(world.has_passed(KINDS_OUTPUTS + KINDS.len() as i64, sent));
    assert_twins(&world);
    assert_verified(&world);
}

#[test]
fn a_new_model_begins_with_what_kafka_has_or_with_what_the_lake_has() {
    const TAPS: i64 = 12_000;
    let Some(world) = world_of_kinds("filling_lake", 3) else { return };
    let mut random = SmallRng::seed_from_u64(71);
    for begin in (0..TAPS).step_by(3_000) {
        world.produce(disordered(begin..begin + 3_000, &mut random));
        world.run_until_caught_up();
    }
    retry_some(&world, [2_000, 1_000]);
    declare_twins(&world);
    world.declare_model("of_kafka", &KINDS[0].1.replacen("VIEW by_stop ", "VIEW of_kafka ", 1));
    forget(&world, 0, 2_000);
    forget(&world, 1, 1_000);
    let plan: serde_json::Value =
        serde_json::from_str(&world.run(&["plan", "--json"])).expect("JSON");
    let lines = plan.as_array().expect("lines");
    let line = lines.iter().find(|line| line["output"] == "model:each_too").expect("a line");
    assert_eq!(line["state"], "new", "{plan}");
    assert_eq!(line["reads_back"], TAPS - 3_000, "{plan}");
    assert!(
        line["says"].as_str().expect("a text").contains("3000 offsets before are only in the lake"),
        "{plan}"
    );
    let said = world.run(&["replay", "each_too", "--dry-run"]);
    assert!(said.contains("3000 offsets before are only in the lake"), "{said}");
    let said = world.run(&["replay", "each_too", "--from-lake", "--dry-run"]);
    assert!(said.contains("3000 offsets are read from the lake, 9000 from Kafka"), "{said}");
    assert_no_trace(&world);

    slowly(&world);
    for (model, _) in KINDS {
        let name = twin(model);
        killed_half_way(&world, &[&name, "--from-lake"]);
        let marks = format!("SELECT count(*) FROM highwater.marks WHERE output = 'model:{name}'");
        if world.number(&marks) == 0 {
            world.run(&["replay", &name, "--from-lake"]);
        }
    }
    assert_no_trace(&world);
    assert_twins(&world);
    // The one that is left, from where Kafka begins; then all of them go on.
    world.produce(disordered(TAPS..TAPS + 3_000, &mut random));
    world.run(&["run", "--apply", "--until-caught-up"]);
    assert_twins(&world);
    let firsts = first_column(world.query(
        "SELECT first_offset::text FROM highwater.marks WHERE output = 'model:of_kafka' ORDER BY partition",
    ));
    assert_eq!(firsts, ["2000", "1000", "0"]);
    assert_verified(&world);
}

#[test]
fn a_new_model_that_a_service_runs_already_is_left_to_it() {
    let Some(world) = taps::world("filling_fenced", 2, Lake::Local) else { return };
    world.produce(records(0..20_000));
    world.run_until_caught_up();
    let name = "by_mode_too";
    world.declare_model(name, &taps::PAID_BY_MODE.replace("paid_by_mode", name));
    refused(&world, &["replay", name, "--from", "2026-03-01"], 2, "cannot be taken apart");
    slowly(&world);
    let mut command = world.command(&["replay", name]);
    command.envs(AT_ONCE);
    let replay = Running::start(command);
    eventually("some of it", || half_done(&world) > 0);
    replay.signal(libc::SIGSTOP);
    world.run_until_caught_up();
    let filled = world.query("SELECT to_jsonb(t)::text FROM by_mode_too t ORDER BY 1");
    replay.signal(libc::SIGCONT);
    let (code, said) = replay.wait();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("has begun to fill it by itself"), "{said}");
    world.run(&["replay", name, "--abort"]);
    assert_no_trace(&world);
    assert_eq!(world.query("SELECT to_jsonb(t)::text FROM by_mode_too t ORDER BY 1"), filled);
    assert_eq!(
        filled,
        world.query("SELECT to_jsonb(t)::text FROM paid_by_mode t ORDER BY 1"),
        "the service's own"
    );
    assert_verified(&world);
}

#[test]
fn what_is_not_declared_any_more_is_dropped_and_who_still_runs_it_does_not_make_it_again() {
    let Some(world) = world_of_kinds("filling_drop", 2) else { return };
    let mut random = SmallRng::seed_from_u64(73);
    world.produce(disordered(0..6_000, &mut random));
    let old = world.follow(&HURRY);
    eventually("all of it", || world.has_passed(KINDS_OUTPUTS, 6_000));
    world.query("CREATE VIEW mine AS SELECT * FROM strictly");
    let rest = |model: &str| {
        world.number(&format!(
            "SELECT (SELECT count(*) FROM pg_class WHERE relname LIKE '{model}%' AND relkind IN ('r', 'v'))
                  + (SELECT count(*) FROM highwater.marks WHERE output = 'model:{model}')
                  + (SELECT count(*) FROM highwater.refusals WHERE output = 'model:{model}')
                  + (SELECT count(*) FROM highwater.dead_letters WHERE output = 'model:{model}')"
        ))
    };
    for gone in ["strictly", "refusing"] {
        assert!(rest(gone) > 0);
        let file = world.folder.path().join(format!("models/{gone}.sql"));
        std::fs::remove_file(file).expect("a model's file");
    }
    let said = world.run(&["plan"]);
    assert!(said.contains("--drop drops them"), "{said}");
    assert!(rest("refusing") > 0);
    // In order of names: the second is held by a view.
    refused(&world, &["plan", "--drop"], 1, "Views of your own over it are to be dropped first");
    assert_eq!(rest("refusing"), 0);
    assert!(rest("strictly") > 0);
    world.query("DROP VIEW mine");
    let said = world.run(&["plan", "--drop"]);
    assert!(said.contains("strictly") && said.contains("2 marks"), "{said}");
    // Its next commit finds no mark, and its next take no table.
    world.produce(disordered(6_000..9_000, &mut random));
    let (code, said) = old.wait();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("was dropped since this process began"), "{said}");
    for gone in ["strictly", "refusing"] {
        assert_eq!(rest(gone), 0, "{gone}");
    }
    world.run_until_caught_up();
    assert!(world.has_passed(KINDS_OUTPUTS - 2, 9_000));
    let said = world.run(&["plan", "--drop"]);
    assert!(!said.contains("dropped"), "{said}");
    assert_verified(&world);
    // Declared again, it is a new one.
    let (name, sql) = KINDS[2];
    world.declare_model(name, sql);
    world.run(&["run", "--apply", "--until-caught-up"]);
    assert!(world.has_passed(KINDS_OUTPUTS - 1, 9_000));
    assert_verified(&world);
}

#[test]
fn a_column_more_is_added_to_the_table_that_is_there_with_all_that_others_made_of_it() {
    let Some(world) = taps::world("filling_wider", 3, Lake::Local) else { return };
    let topic = taps::TOPIC.replace("[lake]", "[lake]\nroll = { age = \"300ms\" }");
    world.declare("taps", &topic);
    let old = world.follow(&HURRY);
    world.produce(records(0..9_000));
    eventually("the first of it", || world.has_passed(OUTPUTS, 9_000));
    let role = format!("reader_of_{}", world.database);
    world.query(&format!(
        "CREATE ROLE {role}; GRANT SELECT ON by_stop, by_stop_final TO {role};
         CREATE INDEX mine ON by_stop (fare);
         CREATE VIEW dear AS SELECT * FROM by_stop WHERE fare > 0;
         CREATE VIEW ended AS SELECT * FROM by_stop_final"
    ));
    let table = "SELECT 'by_stop'::regclass::oid::bigint";
    let before = world.number(table);
    let more = "count(DISTINCT mode) AS modes, avg(fare_cents) AS mean, max(fare_cents) AS highest, count(*) AS taps";
    let wider = taps::BY_STOP.replace("count(*) AS taps", more);
    world.declare_model("by_stop", &wider);
    let plan: serde_json::Value =
        serde_json::from_str(&world.run(&["plan", "--json"])).expect("JSON");
    let lines = plan.as_array().expect("lines");
    let line = lines.iter().find(|line| line["output"] == "model:by_stop").expect("a line");
    assert_eq!((&line["state"], &line["reads_back"]), (&"wider".into(), &9_000.into()), "{plan}");
    refused(&world, &["run", "--until-caught-up"], 2, "highwater run --apply");

    world.produce(records(9_000..12_000));
    let mut command = world.command(&["run", "--apply"]);
    command.envs(HURRY);
    let new = Running::start(command);
    let there = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'by_stop' AND column_name = 'modes'";
    eventually("the swap", || world.number(there) == 1);
    world.produce(records(12_000..15_000));
    let (code, said) = old.wait();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another definition"), "{said}");
    eventually("all of it", || world.has_passed(OUTPUTS, 15_000));
    new.stop();
    assert_no_trace(&world);
    assert_eq!(world.number(table), before, "the same table");
    assert_eq!(world.number("SELECT count(*) FROM pg_indexes WHERE indexname = 'mine'"), 1);
    assert!(world.number("SELECT count(*) FROM dear") > 0);
    // Nothing is final yet, so nothing is in it: its columns tell.
    assert_eq!(world.number("SELECT count(*) FROM ended"), 0);
    let of_view = "SELECT column_name::text FROM information_schema.columns WHERE table_name = 'by_stop_final'
                   ORDER BY ordinal_position";
    assert_eq!(
        first_column(world.query(of_view)),
        ["window_start", "window_end", "stop_id", "taps", "fare", "modes", "mean", "highest"]
    );
    let grants = format!(
        "SELECT count(*) FROM information_schema.table_privileges WHERE grantee = '{role}'"
    );
    assert_eq!(world.number(&grants), 2);
    world.query(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    assert_verified(&world);

    // As a table that had these columns from its beginning.
    world.declare_model("by_stop_too", &wider.replace("VIEW by_stop ", "VIEW by_stop_too "));
    world.run(&["replay", "by_stop_too"]);
    for tables in [["by_stop", "by_stop_too"], ["by_stop__modes", "by_stop_too__modes"]] {
        let [there, twin] = tables.map(|table| {
            world.query(&format!("SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1"))
        });
        assert_eq!(there, twin);
    }
    let said = world.run(&["replay", "by_stop"]);
    assert!(said.contains("every row is as it was"), "{said}");

    // What a version of before filled, of which nobody knows more; what says less, or something else.
    let state = |sql: &str| {
        world.declare_model("by_stop", sql);
        let plan: serde_json::Value =
            serde_json::from_str(&world.run(&["plan", "--json"])).expect("JSON");
        let lines = plan.as_array().expect("lines");
        let line = lines.iter().find(|line| line["output"] == "model:by_stop").expect("a line");
        line["state"].as_str().expect("a text").to_owned()
    };
    let least = wider.replace("avg(", "min(fare_cents) AS lowest, avg(");
    assert_eq!(state(&least), "wider");
    assert_eq!(state(taps::BY_STOP), "changed");
    assert_eq!(state(&least.replace("GROUP BY", "WHERE stop_id <> 'S00' GROUP BY")), "changed");
    assert_eq!(state(&least.replace("max(", "min(")), "changed");
    assert_eq!(state(&least.replace("5 minutes", "6 minutes")), "changed");
    world.query("DELETE FROM highwater.definitions");
    assert_eq!(state(&least), "changed");
    assert_eq!(state(&wider), "unchanged");
}

#[test]
fn windows_are_made_anew_behind_offsets_and_up_to_a_time() {
    const TAPS: i64 = 24_000;
    const OFFSET: i64 = 2_500;
    const UNTIL: &str = "2026-03-01T06:20:00Z";
    let Some(world) = world_of_kinds("filling_windows", 3) else { return };
    let mut random = SmallRng::seed_from_u64(79);
    for begin in (0..TAPS).step_by(3_000) {
        world.produce(disordered(begin..begin + 3_000, &mut random));
        world.run_until_caught_up();
    }
    let windowed = ["by_stop", "strictly", "refusing"];
    let rows = |condition: &str| -> Vec<Rows> {
        let rows = |table: &String| {
            let sql =
                format!("SELECT to_jsonb(t)::text FROM {table} t WHERE {condition} ORDER BY 1");
            world.query(&sql)
        };
        windowed.iter().flat_map(|model| tables_of(&world, model)).map(|t| rows(&t)).collect()
    };
    let damage = || {
        for table in windowed.iter().flat_map(|model| tables_of(&world, model)) {
            world.query(&format!("DELETE FROM {table} AS t WHERE hashtext(t::text) % 3 = 0"));
        }
    };
    let before = everything(&world);
    let all = rows("true");
    let offset = OFFSET.to_string();
    let each = format!("0:{offset},1:{offset},2:{offset}");
    let said = world.run(&["replay", "strictly", "--from", &each, "--dry-run"]);
    let (_, since) = said.split_once("begin then or later (").expect(&said);
    let since = since.split(')').next().expect("a time");
    // Every record that has a number, by its offset.
    let judge =
        format!("SELECT count(*) FROM each WHERE _event_time >= '{since}' AND _offset < {OFFSET}");
    assert_eq!(world.number(&judge), 0, "{since}");
    let behind = format!("window_start >= '{since}'");
    let ahead = format!("window_start < '{since}'");
    let sound = rows(&behind);
    assert!(sound.iter().all(|rows| !rows.is_empty()), "{since}");

    damage();
    let damaged = rows(&ahead);
    for model in windowed {
        world.run(&["replay", model, "--from", &offset]);
    }
    assert_eq!(rows(&behind), sound);
    assert_eq!(rows(&ahead), damaged);
    for model in windowed {
        world.run(&["replay", model]);
    }
    assert_same(&everything(&world), &before);

    damage();
    let later = rows(&format!("window_start >= '{UNTIL}'"));
    for model in windowed {
        world.run(&["replay", model, "--to", UNTIL]);
    }
    assert_eq!(rows(&format!("window_start >= '{UNTIL}'")), later);
    for model in windowed {
        world.run(&["replay", model, "--from", UNTIL, "--to", "2030-01-01"]);
    }
    assert_eq!(rows("true"), all);
    assert_same(&everything(&world), &before);
    assert_no_trace(&world);
    assert_verified(&world);

    refused(&world, &["replay", "strictly", "--from", "0:7"], 2, "partition 1 is not named");
    refused(&world, &["replay", "strictly", "--to", "7"], 2, "Allowed: --to TIME");
    refused(
        &world,
        &["replay", "latest", "--from", "7"],
        2,
        "the latest row of a key may be of before",
    );
    refused(&world, &["replay", "paid_by_mode", "--to", UNTIL], 2, "cannot be taken apart");
    world.query("UPDATE highwater.marks SET first_offset = 1, accepted = accepted - 1 WHERE output = 'lake' AND partition = 2");
    refused(&world, &["replay", "strictly", "--from", "7"], 2, "it does not hold all of taps/2");
}
