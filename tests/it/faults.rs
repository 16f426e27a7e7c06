//! Services that go away in the middle: nothing is lost, nothing doubled, the process stays.

use crate::{
    proxy::{Fault, Proxy},
    support::{Lake, Running, World, connect, eventually},
    taps::{self, OUTPUTS, assert_lake, assert_tables, records, taps},
};
use std::time::{Duration, Instant};

/// More than a service of this size ever needs, and far less than a backlog would fill.
const RESIDENT_MIB_MAX: u64 = 256;

/// Small cuts and small files, so that faults meet every step of many.
fn hurried(name: &str, lake: Lake) -> Option<World> {
    let world = taps::world(name, 3, lake)?;
    let small = "[lake]\nroll = { bytes = \"1MiB\", age = \"100ms\" }";
    world.declare("taps", &taps::TOPIC.replace("[lake]", small));
    Some(world)
}

const HURRY: [(&str, &str); 3] = [
    ("HIGHWATER_COMMIT_INTERVAL", "40ms"),
    ("HIGHWATER_CATCH_UP_INTERVAL", "40ms"),
    ("HIGHWATER_MEMORY", "64MiB"),
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
    let mut killed = 0;
    for end in (1000..=20_000).step_by(1000) {
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
#[ignore = "connecting to it ends with SQLSTATE 55000, which warehouse/sqlstate.rs takes for final"]
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
    let Some(mut world) = hurried("pg_network", Lake::Local) else { return };
    let direct = world.services.postgres.clone();
    let (_, rest) = direct.rsplit_once('@').expect("user@host");
    let (host, _) = rest.split_once('/').expect("host/database");
    let proxy = Proxy::start(&world.runtime, host);
    let through = direct.replace(host, &proxy.address.to_string());
    world.services.postgres = through;
    let service_url = world.warehouse();
    world.services.postgres = direct;
    let mut settings = HURRY.to_vec();
    settings.push(("HIGHWATER_WAREHOUSE", &service_url));
    let mut service = world.follow(&settings);
    meet_faults(&world, &mut service, &proxy);
    assert_exact(&world, service, FAULTY);
}

const FAULTY: i64 = 50_000;
/// A fault lasts so long at least.
const FAULT: Duration = Duration::from_millis(700);
const REFUSED: &str = "highwater_commits_refused_total";

fn refused(service: &mut Running) -> f64 {
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
            since.elapsed() > FAULT && (proxy.met() > met || refused(service) > before)
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

#[test]
fn a_store_behind_a_bad_network_changes_nothing() {
    let Some(world) = hurried("s3_network", Lake::S3) else { return };
    let host = world.services.s3.trim_start_matches("http://").trim_end_matches('/');
    let proxy = Proxy::start(&world.runtime, host);
    let endpoint = format!("http://{}", proxy.address);
    let mut settings = HURRY.to_vec();
    settings.push(("AWS_ENDPOINT", &endpoint));
    let mut service = world.follow(&settings);
    meet_faults(&world, &mut service, &proxy);
    assert_exact(&world, service, FAULTY);
}
