//! PostgreSQL away, then the store, then both, for minutes, at full input.

use super::{Input, assert_alive, assert_exact, passed, short_or_long};
use crate::{
    faults::{RESIDENT_MIB_MAX, to_postgres, to_store},
    proxy::Fault,
    support::{Lake, eventually_within},
    taps::{self, OUTPUTS},
};
use std::time::{Duration, Instant};

#[test]
fn sinks_away_for_long_at_full_input_cost_no_memory_and_no_partition() {
    let Some(world) = taps::world("sinks", 3, Lake::S3) else { return };
    let roll = "[lake]\nroll = { bytes = \"16MiB\", age = \"1s\" }";
    world.declare("taps", &taps::TOPIC.replace("[lake]", roll));
    let (postgres, through) = to_postgres(&world);
    let (store, endpoint) = to_store(&world);
    let mut service = world.follow(&[
        ("HIGHWATER_WAREHOUSE", &through),
        ("AWS_ENDPOINT", &endpoint),
        ("HIGHWATER_MEMORY", "128MiB"),
    ]);
    let input = Input::start(&world, 20_000);
    let patience = Duration::from_secs(1200);
    eventually_within(patience, "a beginning", || passed(&world) > 0);
    let away = Duration::from_secs(short_or_long(5, 200));
    let every = Duration::from_secs(short_or_long(2, 10));
    let (begin, mut told, mut most) = (Instant::now(), Instant::now(), 0);
    let outages: [(&str, &[_]); 3] = [
        ("PostgreSQL", &[&postgres]),
        ("store", &[&store]),
        ("PostgreSQL and store", &[&postgres, &store]),
    ];
    for (name, gone) in outages {
        let mut watch = |what: &str, is_over: &mut dyn FnMut() -> bool| {
            eventually_within(patience, what, || {
                assert_alive(&mut service);
                most = most.max(service.resident_mib());
                if told.elapsed() > every {
                    told = Instant::now();
                    let tables = world.number("SELECT coalesce(sum(taps), 0) FROM by_stop");
                    println!(
                        "{:4.0} s, {what}: {} MiB resident, {} sent, tables {}, all {}",
                        begin.elapsed().as_secs_f64(),
                        service.resident_mib(),
                        input.sent(),
                        tables,
                        passed(&world)
                    );
                }
                is_over()
            });
        };
        gone.iter().for_each(|proxy| proxy.set(Fault::Refuse));
        let since = Instant::now();
        watch(&format!("{name} away"), &mut || since.elapsed() > away);
        let (from, to) = (passed(&world), input.sent());
        gone.iter().for_each(|proxy| proxy.set(Fault::None));
        let since = Instant::now();
        watch(&format!("{name} back"), &mut || passed(&world) >= to);
        let rate = (to - from) as f64 / since.elapsed().as_secs_f64();
        println!(
            "{name}: {} records behind, caught up after {:?}, {rate:.0} a second",
            to - from,
            since.elapsed()
        );
    }
    let records = input.end();
    eventually_within(patience, "all of it", || world.has_passed(OUTPUTS, records));
    println!("{records} records, {most} MiB resident at most");
    let printed = service.printed();
    assert!(printed.contains("assigned") && !printed.contains("revoked"), "{printed}");
    service.stop();
    assert_exact(&world, records);
    assert!(most < RESIDENT_MIB_MAX, "{most} MiB");
}
