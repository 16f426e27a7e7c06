//! Kafka's transactions: what was aborted is never read, and markers are nobody's records.

use crate::{
    support::{Lake, World},
    taps::{self, Tap, assert_lake, assert_tables, records, taps},
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(30);

fn producer(world: &World) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.services.kafka)
        .set("partitioner", "murmur2_random")
        .set("transactional.id", &world.kafka_topic)
        .create()
        .expect("producer");
    producer.init_transactions(WAIT).expect("transactions");
    producer
}

fn transaction(world: &World, producer: &BaseProducer, numbers: std::ops::Range<i64>, keep: bool) {
    producer.begin_transaction().expect("begin");
    for (key, value) in records(numbers) {
        let record = BaseRecord::to(&world.kafka_topic).key(&key).payload(&value);
        producer.send(record).map_err(|(e, _)| e).expect("produce");
        producer.poll(Duration::ZERO);
    }
    producer.flush(WAIT).expect("flush");
    match keep {
        true => producer.commit_transaction(WAIT).expect("commit"),
        false => producer.abort_transaction(WAIT).expect("abort"),
    }
}

/// Per output: the sum of what became of its offsets.
fn fates(world: &World) -> Vec<Vec<Option<String>>> {
    world.query(
        "SELECT DISTINCT sum(next_offset), sum(accepted + filtered + late + dead), sum(absent)
         FROM highwater.marks GROUP BY output",
    )
}

#[test]
fn aborted_transactions_are_not_read_and_a_marker_at_the_end_is_the_end() {
    let Some(world) = taps::world("transactions", 2, Lake::Local) else { return };
    let transactional = producer(&world);
    transaction(&world, &transactional, 0..1000, true);
    transaction(&world, &transactional, 1000..1500, false);
    world.produce(records(2000..2100));
    transaction(&world, &transactional, 2100..3000, true);
    world.run_until_caught_up();

    let kept = || taps(0..1000).chain(taps(2000..3000));
    assert_tables(&world, kept());
    assert_lake(&world, 2000);
    world.assert_proof();
    // Two partitions with three markers each, and five hundred that were taken back.
    let row = |cells: [i64; 3]| cells.iter().map(|c| Some(c.to_string())).collect::<Vec<_>>();
    assert_eq!(fates(&world), [row([2506, 2000, 506])], "the same in every output");

    // Nothing but what nobody may read is new; that, too, is the end.
    transaction(&world, &transactional, 3000..3500, false);
    world.run_until_caught_up();
    assert_tables(&world, kept());
    assert_eq!(fates(&world), [row([3008, 2000, 1008])]);
    world.assert_proof();

    transaction(&world, &transactional, 3000..3100, true);
    world.run_until_caught_up();
    assert_tables(&world, kept().chain((3000..3100).map(Tap)));
    assert_lake(&world, 2100);
    world.assert_proof();
}

#[test]
fn an_open_transaction_is_waited_for_and_read_when_it_ends() {
    let Some(world) = taps::world("open_transaction", 1, Lake::Local) else { return };
    world.produce(records(0..100));
    let transactional = producer(&world);
    transactional.begin_transaction().expect("begin");
    for (key, value) in records(100..200) {
        let record = BaseRecord::to(&world.kafka_topic).key(&key).payload(&value);
        transactional.send(record).map_err(|(e, _)| e).expect("produce");
    }
    transactional.flush(WAIT).expect("flush");
    world.produce(records(200..300));
    let service = world.follow(&[]);
    let in_tables = "SELECT coalesce(sum(taps), 0) FROM by_stop";
    crate::support::eventually("what came before it", || {
        world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'by_stop'") == 1
            && world.number(in_tables) == 100
    });
    transactional.commit_transaction(WAIT).expect("commit");
    crate::support::eventually("all", || world.number(in_tables) == 300);
    service.stop();
    assert_tables(&world, taps(0..300));
    assert_lake(&world, 300);
    world.assert_proof();
}
