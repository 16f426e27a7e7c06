//! A game's events as a star schema: dimensions, facts and the questions asked of them, over as many
//! facts as a full reload of it once took minutes for.

use crate::support::{Lake, World, root};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

const FACTS: usize = 420_000;
const USERS: usize = 20_000;
const DAYS: i64 = 30;
/// 2024-02-15: the days go over a 29th of February.
const BEGIN_US: i64 = 1_707_955_200_000_000;
const DAY_US: i64 = 86_400_000_000;
const SECOND_MS: f64 = 1_000.0;
const MODELS: [&str; 6] = [
    "dim_users",
    "dim_devices",
    "fact_events",
    "fact_transactions",
    "fact_user_days",
    "fact_users",
];
const COUNTRIES: [&str; 5] = ["DE", "BR", "JP", "US", "ÅX"];

#[derive(Clone)]
struct Event {
    at_us: i64,
    user: i64,
    country: Option<&'static str>,
    device: String,
    os_version: String,
    kind: &'static str,
    /// Transaction, cents.
    paid: Option<(usize, i64)>,
}

/// The same events every time, in the order in which they come; each player's first is the
/// registration.
fn events() -> Vec<Event> {
    let mut random = SmallRng::seed_from_u64(42);
    let mut known = BTreeSet::new();
    let step = DAYS * DAY_US / FACTS as i64;
    let mut event = |number: usize| {
        // Few players come often.
        let share: f64 = random.random();
        let user = (share * share * USERS as f64) as i64;
        let at_us = BEGIN_US + number as i64 * step + random.random_range(0..60_000_000);
        let (kind, paid) = match (known.insert(user), random.random_range(0..100)) {
            (true, _) => ("registration", None),
            (false, 0..90) => ("login", None),
            // One in ten is for nothing.
            (false, n) => ("transaction", Some((number, (n - 90) * 99))),
        };
        let day = number as i64 * DAYS / FACTS as i64;
        let country = COUNTRIES.get(((user + day / 10) % 6) as usize).copied();
        let device = format!("phone-{user}-{}", random.random_range(0..3) / 2);
        Event { at_us, user, country, device, os_version: format!("17.{day}"), kind, paid }
    };
    (0..FACTS).map(&mut event).collect()
}

fn instant(at_us: i64) -> String {
    let at = chrono::DateTime::from_timestamp_micros(at_us).expect("in the calendar");
    at.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
}

fn day(at_us: i64) -> String {
    instant(at_us)[..10].to_owned()
}

fn record(number: usize, event: &Event) -> (String, String) {
    let transaction = event.paid.map(|(id, cents)| {
        serde_json::json!({
            "id": format!("t{id}"),
            "product": format!("gems_{}", cents / 99),
            "amount": { "value": format!("{}.{:02}", cents / 100, cents % 100), "currency": "EUR" },
        })
    });
    let value = serde_json::json!({
        "id": format!("e{number}"),
        "type": event.kind,
        "time": instant(event.at_us) + "Z",
        "user": { "id": event.user, "country": event.country },
        "device": { "id": event.device, "os": { "name": "iOS", "version": event.os_version } },
        "transaction": transaction,
        "sdk": { "version": "3.1" },
    });
    (event.user.to_string(), value.to_string())
}

fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

/// Rows of a query file, and how long the fastest of five took inside PostgreSQL.
fn asked(world: &World, file: &str) -> (Vec<Vec<Option<String>>>, f64) {
    let path = root().join("sql/queries").join(file);
    let sql = std::fs::read_to_string(path).expect("a query");
    let explain = format!("EXPLAIN (ANALYZE, FORMAT JSON) {sql}");
    let took = || {
        let plan = world.query(&explain)[0][0].clone().expect("a plan");
        let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
        plan[0]["Planning Time"].as_f64().expect("ms")
            + plan[0]["Execution Time"].as_f64().expect("ms")
    };
    let fastest = (0..5).map(|_| took()).fold(f64::INFINITY, f64::min);
    (world.query(&sql), fastest)
}

#[test]
fn a_star_of_420_000_facts_equals_its_events_and_answers_within_a_second() {
    let Some(world) = World::new("star", 4, Lake::Local, "raw_events", &MODELS) else { return };
    let events = events();
    let records = (0..FACTS).flat_map(|number| {
        // One in a hundred comes again, a little later.
        let again = number.checked_sub(50).filter(|earlier| earlier % 100 == 0);
        [Some(number), again].into_iter().flatten().map(|number| record(number, &events[number]))
    });
    let records: Vec<_> = records.collect();
    let produced = records.len() as i64;
    assert!(produced > FACTS as i64);
    world.produce(records);
    let begun = Instant::now();
    world.run_until_caught_up();
    println!("{FACTS} facts in {:.1} s", begun.elapsed().as_secs_f64());

    // One event at a time.
    let (mut users, mut devices) = (BTreeMap::<i64, &Event>::new(), HashMap::<&str, &Event>::new());
    let mut active = BTreeMap::<String, BTreeSet<i64>>::new();
    let mut paying = BTreeMap::<String, BTreeSet<i64>>::new();
    let mut first_paid = BTreeMap::<i64, i64>::new();
    let (mut transactions, mut cents) = (0, 0);
    for event in &events {
        // Of one partition each: of equal times the later offset stands.
        let latest = |stored: &&Event| stored.at_us <= event.at_us;
        if users.get(&event.user).is_none_or(latest) {
            users.insert(event.user, event);
        }
        if devices.get(event.device.as_str()).is_none_or(latest) {
            devices.insert(&event.device, event);
        }
        active.entry(day(event.at_us)).or_default().insert(event.user);
        if let Some((_, paid)) = event.paid {
            transactions += 1;
            cents += paid;
            if paid > 0 {
                paying.entry(day(event.at_us)).or_default().insert(event.user);
                let first = first_paid.entry(event.user).or_insert(event.at_us);
                *first = event.at_us.min(*first);
            }
        }
    }

    let found = world.query(
        "SELECT user_id, country, to_char(seen_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')
         FROM dim_users ORDER BY user_id",
    );
    let expected = users.iter().map(|(user, event)| {
        vec![text(user), event.country.map(str::to_owned), text(instant(event.at_us))]
    });
    assert!(found == expected.collect::<Vec<_>>(), "dim_users");
    let found = world.query("SELECT device_id, os, os_version FROM dim_devices");
    let expected: BTreeSet<_> = devices
        .iter()
        .map(|(id, event)| vec![text(id), text("iOS"), text(&event.os_version)])
        .collect();
    assert!(
        found.len() == expected.len() && found.into_iter().collect::<BTreeSet<_>>() == expected
    );
    let sums = world.query("SELECT count(*), (sum(amount) * 100)::bigint FROM fact_transactions");
    assert_eq!(sums, [vec![text(transactions), text(cents)]]);
    assert_eq!(world.number("SELECT count(*) FROM fact_events"), FACTS as i64);
    let judged = world.number("SELECT sum(duplicate) FROM highwater.marks WHERE output = 'lake'");
    assert_eq!(judged, produced - FACTS as i64);

    // Every fact finds its dimensions, and PostgreSQL makes the same keys.
    let strangers = world.number(
        "SELECT count(*) FROM fact_events f LEFT JOIN dim_users u USING (user_key)
         LEFT JOIN dim_devices d USING (device_key) WHERE u.user_id IS NULL OR d.device_id IS NULL",
    );
    assert_eq!(strangers, 0);
    let others = world.number(
        "SELECT count(*) FROM dim_users WHERE user_key IS DISTINCT FROM
         ('x' || encode(substr(sha256(convert_to('n' || length(user_id::text) || ':' || user_id, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint",
    );
    assert_eq!(others, 0);

    let (daily, daily_ms) = asked(&world, "daily_active_users.sql");
    let expected = active.iter().map(|(day, users)| vec![text(day), text(users.len())]);
    assert_eq!(daily, expected.collect::<Vec<_>>());
    let (ratios, ratios_ms) = asked(&world, "paying_ratio.sql");
    assert_eq!(ratios.len(), active.len());
    for (found, (date, users)) in ratios.iter().zip(&active) {
        let paying = paying.get(date).map_or(0, BTreeSet::len);
        let converting = first_paid.values().filter(|at| day(**at) == *date).count();
        // To four digits, half away from zero.
        let share = |part: usize| {
            let digits = (part * 20_000 + users.len()) / (2 * users.len());
            text(format!("{}.{:04}", digits / 10_000, digits % 10_000))
        };
        assert_eq!(
            *found,
            [
                text(date),
                text(users.len()),
                text(paying),
                text(converting),
                share(paying),
                share(converting)
            ]
        );
    }
    println!(
        "over {FACTS} facts: daily_active_users.sql {daily_ms:.0} ms, paying_ratio.sql {ratios_ms:.0} ms"
    );
    assert!(daily_ms < SECOND_MS && ratios_ms < SECOND_MS, "{daily_ms} ms, {ratios_ms} ms");

    world.assert_proof();
    let proof = world.run(&["verify", "--deep"]);
    assert!(proof.contains("6 tables rebuilt") && proof.contains("everything holds"), "{proof}");
}
