//! Records that Kafka dropped before anybody took the topic: it begins later. What was owed is in `gaps`.

use crate::{
    support::{Lake, World},
    taps::{self, assert_lake, assert_tables, records, taps},
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

/// As retention does: everything of the partition below `offset` is gone.
pub fn forget(world: &World, partition: i32, offset: i64) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &world.services.kafka)
        .create()
        .expect("admin");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&world.kafka_topic, partition, Offset::Offset(offset))
        .expect("offset");
    let done = admin.delete_records(&list, &AdminOptions::new());
    world.runtime.block_on(done).expect("delete records");
}

#[test]
fn a_first_run_begins_at_the_oldest_record_that_is_left() {
    let Some(world) = taps::world("oldest", 1, Lake::Local) else { return };
    world.produce(records(0..1000));
    forget(&world, 0, 400);
    world.run_until_caught_up();
    assert_tables(&world, taps(400..1000));
    assert_lake(&world, 600);
    world.assert_proof();
    let firsts = "SELECT DISTINCT first_offset, next_offset FROM highwater.marks";
    assert_eq!(world.query(firsts), [[Some("400".to_owned()), Some("1000".to_owned())]]);
}

#[test]
fn a_topic_emptied_by_retention_is_caught_up() {
    let Some(world) = taps::world("emptied", 1, Lake::Local) else { return };
    world.produce(records(0..100));
    forget(&world, 0, 100);
    world.run_until_caught_up();
    assert_eq!(world.number("SELECT count(*) FROM by_stop"), 0);
}
