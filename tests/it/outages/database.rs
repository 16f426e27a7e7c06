//! PostgreSQL restarted, crashed, and its answers to COMMIT lost.

use super::{Input, assert_alive, assert_exact, last_error, passed, short_or_long};
use crate::{
    faults::{HURRY, REFUSED, hurried, hurry, refused, to_postgres},
    proxy::Fault,
    support::{Lake, Running, eventually, servers::Postgres, services},
    taps::{self, OUTPUTS},
};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

const RATE: i64 = 4_000;

#[test]
fn a_database_restarted_and_crashed_under_load_loses_nothing() {
    let Some(mut postgres) = Postgres::start() else { return };
    let Some(mut services) = services() else { return };
    services.postgres = postgres.url();
    let world = hurry(taps::world_on(services, "pg_restart", 3, Lake::Local));
    let mut service = world.follow(&HURRY);
    let input = Input::start(&world, RATE);
    eventually("a beginning", || passed(&world) > 0);
    let ways = [("fast", libc::SIGINT), ("immediate", libc::SIGQUIT), ("killed", libc::SIGKILL)];
    for round in 0..short_or_long(4, 30) {
        let (way, signal) = ways[round % ways.len()];
        let before = refused(&mut service);
        postgres.server.end(signal);
        let away = Instant::now();
        eventually("it is noticed", || {
            assert_alive(&mut service);
            refused(&mut service) >= before + 2.0 && last_error(&mut service).contains("warehouse")
        });
        let told = last_error(&mut service);
        postgres.start_again();
        let (back, sent) = (Instant::now(), input.sent());
        eventually("it has caught up", || passed(&world) >= sent);
        println!(
            "{way}: {:?} away, caught up {:?} after; told: {told}",
            back - away,
            back.elapsed()
        );
    }
    let records = input.end();
    eventually("all of it", || world.has_passed(OUTPUTS, records));
    service.stop();
    assert_exact(&world, records);
}

/// Commits refused of one kind.
fn refused_as(service: &mut Running, kind: &str) -> f64 {
    let (_, scrape) = service.get("/metrics");
    let of_kind = format!("kind=\"{kind}\"");
    let lines = scrape.lines().filter(|l| l.starts_with(REFUSED) && l.contains(&of_kind));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn a_commit_whose_answer_is_lost_counts_once_whether_it_was_done_or_not() {
    let Some(world) = hurried("pg_commit", Lake::Local) else { return };
    let (proxy, through) = to_postgres(&world);
    let mut settings = HURRY.to_vec();
    settings.push(("HIGHWATER_WAREHOUSE", &through));
    let mut service = world.follow(&settings);
    let input = Input::start(&world, RATE);
    eventually("a beginning", || passed(&world) > 0);
    proxy.set(Fault::Ambiguous);
    let often = short_or_long(3, 60);
    let begun = Instant::now();
    let mut seen = [0; 3];
    while seen.iter().any(|times| *times < often) {
        assert_alive(&mut service);
        // The long form goes on for longer than anything else is waited for.
        assert!(begun.elapsed() < Duration::from_secs(120 * often), "{seen:?}");
        let commits = &proxy.commits;
        let all = [&commits.done, &commits.late, &commits.never];
        seen = all.map(|count| count.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(50));
    }
    proxy.set(Fault::None);
    let unknown = refused_as(&mut service, "unknown");
    let [done, late, never] = seen;
    println!(
        "answers lost to COMMIT: {done} done, {late} done late, {never} never; {unknown} unknown to \
         highwater, after {:?}",
        begun.elapsed()
    );
    // The others were of takes, which commit as well.
    assert!(unknown >= often as f64, "{unknown} of {seen:?}");
    let records = input.end();
    eventually("all of it", || world.has_passed(OUTPUTS, records));
    service.stop();
    assert_exact(&world, records);
}
