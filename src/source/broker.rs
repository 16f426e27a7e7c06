//! ⇄ The embedded broker of the demo: librdkafka's mock cluster, and a producer for it.
//!
//! Consumer groups work; nothing is kept on disk. It keeps at most 5 MiB or 100,000 records of a
//! partition and drops the oldest in silence: [`Broker::produce`] counts what is there afterwards.

use crate::{
    error::{Error, Result},
    record::{EventTime, Partition},
};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(30);

pub struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

/// One record to produce.
pub struct Outgoing {
    pub key: String,
    pub value: String,
    pub timestamp: EventTime,
}

impl Broker {
    pub fn start() -> Result<Self> {
        let cluster = MockCluster::new(1)
            .map_err(|e| Error::halt("start the embedded Kafka broker").because(e))?;
        Ok(Self { cluster })
    }

    pub fn servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.cluster
            .create_topic(topic, partitions, 1)
            .map_err(|e| Error::halt(format!("create topic {topic}")).because(e))
    }

    /// Produces all, by key, and makes sure that the broker still has all of them.
    pub fn produce(&self, topic: &str, partitions: i32, records: &[Outgoing]) -> Result<()> {
        let failed = |e| Error::halt(format!("produce to {topic}")).because(e);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.servers()).set("partitioner", "murmur2_random");
        let producer: BaseProducer =
            config.set("queue.buffering.max.messages", "1000000").create().map_err(failed)?;
        for record in records {
            let message = BaseRecord::to(topic)
                .key(&record.key)
                .payload(&record.value)
                .timestamp(record.timestamp.0 / 1000);
            producer.send(message).map_err(|(e, _)| failed(e))?;
            producer.poll(Duration::ZERO);
        }
        producer.flush(WAIT).map_err(failed)?;
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.servers())
            .set("group.id", "count")
            .create()
            .map_err(failed)?;
        let mut there = 0;
        for partition in (0..partitions).map(Partition) {
            let (oldest, end) =
                consumer.fetch_watermarks(topic, partition.0, WAIT).map_err(failed)?;
            there += (end - oldest) as usize;
        }
        match there == records.len() {
            true => Ok(()),
            false => Err(Error::halt(format!(
                "the embedded broker keeps {there} of {} records: a partition holds 5 MiB at most",
                records.len()
            ))),
        }
    }
}
