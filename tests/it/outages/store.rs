//! The object store frozen, killed, unavailable and slow.

use super::{Input, assert_alive, assert_exact, passed, short_or_long};
use crate::{
    faults::{HURRY, hurry, to_store},
    proxy::Fault,
    support::{Lake, eventually, servers::Minio, services},
    taps::{self, OUTPUTS},
};
use std::time::{Duration, Instant};

const RATE: i64 = 3_000;

#[derive(Debug, Clone, Copy)]
enum Outage {
    Frozen,
    Killed,
    Through(Fault),
}

#[test]
fn a_store_frozen_killed_unavailable_and_slow_loses_nothing() {
    let Some(mut minio) = Minio::start() else { return };
    let Some(mut services) = services() else { return };
    services.s3 = minio.endpoint();
    let world = hurry(taps::world_on(services, "s3_outages", 3, Lake::S3));
    let (proxy, endpoint) = to_store(&world);
    let mut settings = HURRY.to_vec();
    settings.push(("AWS_ENDPOINT", &endpoint));
    let mut service = world.follow(&settings);
    let input = Input::start(&world, RATE);
    eventually("a beginning", || passed(&world) > 0);
    let lasts = Duration::from_secs(short_or_long(4, 60));
    let faults = [Fault::Unavailable, Fault::Slow].map(Outage::Through);
    for outage in [Outage::Frozen, Outage::Killed].into_iter().chain(faults) {
        let (begun, met) = (Instant::now(), proxy.met());
        match outage {
            Outage::Frozen => minio.server.signal(libc::SIGSTOP),
            Outage::Killed => minio.server.end(libc::SIGKILL),
            Outage::Through(fault) => proxy.set(fault),
        }
        let sent = input.sent();
        eventually("the tables go on", || {
            assert_alive(&mut service);
            let tables = "SELECT coalesce(sum(taps), 0) FROM by_stop";
            let is_met = !matches!(outage, Outage::Through(_)) || proxy.met() > met;
            begun.elapsed() > lasts && is_met && world.number(tables) > sent
        });
        match outage {
            Outage::Frozen => minio.server.signal(libc::SIGCONT),
            Outage::Killed => minio.start_again(),
            Outage::Through(_) => proxy.set(Fault::None),
        }
        let (back, sent) = (Instant::now(), input.sent());
        eventually("the lake has caught up", || passed(&world) >= sent);
        println!("{outage:?}: {:?}, caught up {:?} after", back - begun, back.elapsed());
    }
    let records = input.end();
    eventually("all of it", || world.has_passed(OUTPUTS, records));
    service.stop();
    assert_exact(&world, records);
}
