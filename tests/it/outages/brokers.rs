//! Kafka: three brokers of which one dies and then another, and one behind a bad network.

use super::{Input, assert_alive, assert_exact, passed, short_or_long};
use crate::{
    faults::{HURRY, hurry},
    proxy::Fault,
    support::{Lake, eventually, servers::Kafka},
    taps::{self, OUTPUTS},
};
use std::time::{Duration, Instant};

const RATE: i64 = 3_000;

#[test]
fn of_three_brokers_one_after_the_other_is_killed_and_nothing_is_lost() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    let Some(services) = kafka.services() else { return };
    let world = hurry(taps::world_on(services, "brokers", 6, Lake::Local));
    let mut service = world.follow(&HURRY);
    let input = Input::start(&world, RATE);
    eventually("a beginning", || passed(&world) > 0);
    eventually("every replica", || kafka.is_whole());
    for round in 0..short_or_long(2, 12) {
        let killed = round % kafka.brokers.len();
        kafka.brokers[killed].server.end(libc::SIGKILL);
        let (begun, sent) = (Instant::now(), input.sent());
        // As much again as may have been on its way.
        eventually("all goes on without it", || {
            assert_alive(&mut service);
            passed(&world) > sent + 2 * RATE
        });
        let without = begun.elapsed();
        kafka.brokers[killed].start_again();
        eventually("every replica", || kafka.is_whole());
        println!(
            "broker {} killed: went on after {without:?}, whole after {:?}",
            killed + 1,
            begun.elapsed()
        );
    }
    let records = input.end();
    eventually("all of it", || world.has_passed(OUTPUTS, records));
    service.stop();
    assert_exact(&world, records);
}

#[test]
fn a_network_to_kafka_that_cuts_and_delays_loses_nothing() {
    let Some(kafka) = Kafka::start(1) else { return };
    let Some(services) = kafka.services() else { return };
    let world = hurry(taps::world_on(services, "kafka_network", 3, Lake::Local));
    let through = kafka.proxied();
    let mut settings = HURRY.to_vec();
    settings.push(("HIGHWATER_BROKERS", &through));
    let mut service = world.follow(&settings);
    let input = Input::start(&world, RATE);
    eventually("a beginning", || passed(&world) > 0);
    let proxy = &kafka.brokers[0].proxy;
    let lasts = Duration::from_secs(short_or_long(3, 60));
    for fault in [Fault::Rough, Fault::Slow, Fault::Hang, Fault::Refuse, Fault::Rough] {
        let (begun, met) = (Instant::now(), proxy.met());
        proxy.set(fault);
        eventually("the fault is met", || {
            assert_alive(&mut service);
            begun.elapsed() > lasts && proxy.met() > met
        });
        let ready = service.get("/readyz");
        proxy.set(Fault::None);
        let (back, sent) = (Instant::now(), input.sent());
        eventually("it has caught up", || passed(&world) >= sent);
        println!(
            "{fault:?}: met {} times in {:?}, caught up {:?} after; then {ready:?}",
            proxy.met() - met,
            back - begun,
            back.elapsed()
        );
    }
    let records = input.end();
    eventually("all of it", || world.has_passed(OUTPUTS, records));
    // Once for as long as they are away, however often the client tries.
    let printed = service.stop();
    let (away, back) = (printed.matches("AllBrokersDown"), printed.matches("answered for again"));
    let (away, back) = (away.count(), back.count());
    println!("told {away} times that no broker answers, {back} times that all do");
    assert!(away > 0 && away <= back + 1, "{printed}");
    assert_exact(&world, records);
}
