//! Services that go away in the middle: nothing is lost, nothing doubled, the process stays.

use crate::{
    proxy::{Fault, Proxy},
    support::{Lake, Running, World, connect, eventually},
    taps::{self, OUTPUTS, assert_lake, assert_tables, records, taps},
};
use std::time::{Duration, Instant};

/// The budget of [`HURRY`] and a tenth: far less than a backlog would fill.
pub const RESIDENT_MIB_MAX: u64 = 140;

/// Small cuts and small files, so that faults meet every step of many.
pub fn hurried(name: &str, lake: Lake) -> Option<World> {
    taps::world(name, 3, lake).map(hurry)
}

pub fn hurry(world: World) -> World {
    let small = "[lake]\nroll = { bytes = \"1MiB\", age = \"100ms\" }";
    world.declare("taps", &taps::TOPIC.replace("[lake]", small));
    world
}

pub const HURRY: [(&str, &str); 3] = [
    ("HIGHWATER_COMMIT_INTERVAL", "40ms"),
    ("HIGHWATER_CATCH_UP_INTERVAL", "40ms"),
    ("HIGHWATER_MEMORY", "128MiB"),
];

fn assert_exact(world: &World, service: Running, records: i64) {
    let resident = service.resident_mib();
    service.stop();
    assert_tables(world, taps(0..records));
    assert_lake(world, records);
    world.assert_proof();
    assert!(resident < RESIDENT_MIB_MAX, "{resident} MiB resident");
}

/// Ends what the service has open in PostgreSQL; gives how many connections that were.
fn terminate(world: &World) -> i64 {
    world.number(&format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name = 'highwater' AND datname = '{}'",
        world.database
    ))
}

#[test]
fn connections_killed_again_and_again_change_nothing() {
    let Some(world) = hurried("pg_kill", Lake::Local) else { return };
    let mut service = world.follow(&HURRY);
    // At its start it gives up when the database does.
    world.produce(records(0..1000));
    eventually("a beginning", || world.has_passed(OUTPUTS, 1000));
    let mut killed = 0;
    for end in (2000..=20_000).step_by(1000) {
        world.produce(records(end - 1000..end));
        eventually("connections to kill", || {
            let ended = terminate(&world);
            killed += ended;
            ended > 0
        });
    }
    assert!(service.is_running());
    eventually("all outputs at the end", || world.has_passed(OUTPUTS, 20_000));
    println!("{killed} connections killed, {} MiB resident", service.resident_mib());
    assert_exact(&world, service, 20_000);
}

/// Statements of the server's own, outside of the world's database.
fn administer(world: &World, sql: &str) {
    world.runtime.block_on(async {
        let client = connect(&world.services.postgres).await;
        client.batch_execute(sql).await.expect(sql);
    });
}

#[test]
fn a_database_that_lets_nobody_in_for_a_while_changes_nothing() {
    let Some(world) = hurried("pg_closed", Lake::Local) else { return };
    let mut service = world.follow(&HURRY);
    world.produce(records(0..5000));
    eventually("the first of it", || world.has_passed(OUTPUTS, 5000));
    let before = service.resident_mib();
    let database = &world.database;
    for round in 1..=3 {
        administer(&world, &format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false"));
        administer(
            &world,
            &format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
            ),
        );
        world.produce(records(round * 5000..round * 5000 + 5000));
        eventually("it is noticed", || {
            let status = service.status();
            let topic = &status["topics"][0];
            assert!(topic["stopped"].is_null(), "{topic}");
            topic["recovering"] == true && topic["last_error"].is_string()
        });
        administer(&world, &format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true"));
        eventually("all of it", || world.has_passed(OUTPUTS, round * 5000 + 5000));
    }
    println!("{before} MiB, then {} MiB resident", service.resident_mib());
    assert_exact(&world, service, 20_000);
}

#[test]
fn a_database_behind_a_bad_network_changes_nothing() {
    let Some(world) = hurried("pg_network", Lake::Local) else { return };
    let (proxy, through) = to_postgres(&world);
    let mut settings = HURRY.to_vec();
    settings.push(("HIGHWATER_WAREHOUSE", &through));
    let mut service = world.follow(&settings);
    meet_faults(&world, &mut service, &proxy);
    assert_exact(&world, service, FAULTY);
}

const FAULTY: i64 = 50_000;
/// A fault lasts so long at least.
const FAULT: Duration = Duration::from_millis(700);
pub const REFUSED: &str = "highwater_commits_refused_total";

pub fn refused(service: &mut Running) -> f64 {
    crate::http::total(&service.get("/metrics").1, REFUSED)
}

/// Produces all taps, each part of them under another fault.
fn meet_faults(world: &World, service: &mut Running, proxy: &Proxy) {
    use Fault::{Cut, Hang, Mute, Refuse, Unavailable};
    let faults = [Refuse, Mute, Cut, Unavailable, Mute, Hang, Cut, Mute, Refuse, Mute];
    let part = FAULTY / faults.len() as i64;
    let mut most = 0;
    for (round, fault) in faults.into_iter().enumerate() {
        let end = (round as i64 + 1) * part;
        world.produce(records(end - part..end - part / 2));
        let (met, before) = (proxy.met(), refused(service));
        proxy.set(fault);
        let since = Instant::now();
        world.produce(records(end - part / 2..end));
        eventually("the fault is met", || {
            assert!(service.is_running(), "{}", service.printed());
            // What stands still meets it only once.
            let wanted = if fault == Hang { 1 } else { 3 };
            let is_met = proxy.met() >= met + wanted || refused(service) >= before + 2.0;
            since.elapsed() > FAULT && is_met
        });
        most = most.max(service.resident_mib());
        proxy.set(Fault::None);
        eventually("all of it", || {
            let status = service.status();
            assert!(status["topics"][0]["stopped"].is_null(), "{status}");
            world.has_passed(OUTPUTS, end)
        });
        println!("{fault:?}: all committed {:?} after it began", since.elapsed());
    }
    println!("{most} MiB resident at most, {} faults met", proxy.met());
    assert!(most < RESIDENT_MIB_MAX, "{most} MiB");
}

/// A proxy to PostgreSQL, and the world's warehouse through it.
pub fn to_postgres(world: &World) -> (Proxy, String) {
    let direct = world.warehouse();
    let (_, rest) = direct.rsplit_once('@').expect("user@host");
    let (host, _) = rest.split_once('/').expect("host/database");
    let proxy = Proxy::start(&world.runtime, host);
    let through = direct.replace(host, &proxy.address.to_string());
    (proxy, through)
}

/// A proxy to the store, and its endpoint.
pub fn to_store(world: &World) -> (Proxy, String) {
    let host = world.services.s3.trim_start_matches("http://").trim_end_matches('/');
    let proxy = Proxy::start(&world.runtime, host);
    let endpoint = format!("http://{}", proxy.address);
    (proxy, endpoint)
}

#[test]
fn a_store_behind_a_bad_network_changes_nothing() {
    let Some(world) = hurried("s3_network", Lake::S3) else { return };
    let (proxy, endpoint) = to_store(&world);
    let mut settings = HURRY.to_vec();
    settings.push(("AWS_ENDPOINT", &endpoint));
    let mut service = world.follow(&settings);
    meet_faults(&world, &mut service, &proxy);
    assert_exact(&world, service, FAULTY);
}

const BACKLOG: i64 = 300_000;

#[test]
fn memory_stays_bounded_while_the_database_is_away() {
    let Some(world) = hurried("pg_backlog", Lake::Local) else { return };
    let (proxy, through) = to_postgres(&world);
    let mut settings = HURRY.to_vec();
    settings.push(("HIGHWATER_WAREHOUSE", &through));
    let mut service = world.follow(&settings);
    world.produce(records(0..10_000));
    eventually("the first of it", || world.has_passed(OUTPUTS, 10_000));
    proxy.set(Fault::Refuse);
    world.produce(records(10_000..BACKLOG));
    let (mut most, before) = (0, refused(&mut service));
    eventually("tried again and again", || {
        most = most.max(service.resident_mib());
        refused(&mut service) >= before + 8.0
    });
    proxy.set(Fault::None);
    eventually("all of it", || {
        most = most.max(service.resident_mib());
        world.has_passed(OUTPUTS, BACKLOG)
    });
    println!("{most} MiB resident at most");
    assert!(most < RESIDENT_MIB_MAX, "{most} MiB");
    assert_exact(&world, service, BACKLOG);
}

#[test]
fn the_tables_go_on_while_the_store_is_away_and_the_lake_follows_later() {
    let Some(world) = hurried("s3_backlog", Lake::S3) else { return };
    let (proxy, endpoint) = to_store(&world);
    let mut settings = HURRY.to_vec();
    settings.push(("AWS_ENDPOINT", &endpoint));
    let mut service = world.follow(&settings);
    world.produce(records(0..10_000));
    eventually("the first of it", || world.has_passed(OUTPUTS, 10_000));
    proxy.set(Fault::Refuse);
    world.produce(records(10_000..BACKLOG));
    let mut most = 0;
    eventually("the tables go on", || {
        most = most.max(service.resident_mib());
        world.has_passed(OUTPUTS - 1, BACKLOG)
    });
    let before = refused(&mut service);
    let lag = "highwater_lag_records{topic=\"taps\",partition=\"0\",stage=\"lake\"} ";
    eventually("tried again, and its lag is told", || {
        let (_, scrape) = service.get("/metrics");
        let line = scrape.lines().find_map(|line| line.strip_prefix(lag));
        let behind = line.is_some_and(|n| n.parse::<f64>().expect("a number") > 1000.0);
        behind && crate::http::total(&scrape, REFUSED) > before
    });
    assert!(!world.has_passed(OUTPUTS, BACKLOG), "the store is away");
    proxy.set(Fault::None);
    eventually("all of it", || {
        most = most.max(service.resident_mib());
        world.has_passed(OUTPUTS, BACKLOG)
    });
    println!("{most} MiB resident at most");
    assert!(most < RESIDENT_MIB_MAX, "{most} MiB");
    assert_exact(&world, service, BACKLOG);
}

/// SIGTERM while what the service commits to stands still.
fn leaves_although(world: &World, mut service: Running, proxy: &Proxy) {
    world.produce(records(0..5_000));
    eventually("the first of it", || world.has_passed(OUTPUTS, 5_000));
    let met = proxy.met();
    proxy.set(Fault::Hang);
    world.produce(records(5_000..10_000));
    eventually("something hangs", || {
        assert!(service.is_running(), "{}", service.printed());
        proxy.met() > met
    });
    let asked = Instant::now();
    service.signal(libc::SIGTERM);
    let (code, text) = service.wait();
    println!("exit code {code:?} after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}\n{text}", asked.elapsed());
    assert_eq!(code, Some(0), "{text}");
    world.run_until_caught_up();
    assert_tables(world, taps(0..10_000));
    assert_lake(world, 10_000);
    world.assert_proof();
}

#[test]
fn sigterm_is_obeyed_within_ten_seconds_while_the_database_hangs() {
    let Some(world) = hurried("pg_term", Lake::Local) else { return };
    let (proxy, through) = to_postgres(&world);
    let mut settings = HURRY.to_vec();
    settings.push(("HIGHWATER_WAREHOUSE", &through));
    leaves_although(&world, world.follow(&settings), &proxy);
}

#[test]
fn sigterm_is_obeyed_within_ten_seconds_while_the_store_hangs() {
    let Some(world) = hurried("s3_term", Lake::S3) else { return };
    let (proxy, endpoint) = to_store(&world);
    let mut settings = HURRY.to_vec();
    settings.push(("AWS_ENDPOINT", &endpoint));
    leaves_although(&world, world.follow(&settings), &proxy);
}
