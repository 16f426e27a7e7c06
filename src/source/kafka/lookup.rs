//! ⇄ Single records by their offsets, read once more: for dead letters that were stored without them.
//!
//! Owns: a consumer of its own, outside of any group. Does not own: what the records are for.

use super::{KafkaSettings, client, topic_id};
use crate::{
    error::{Error, Result},
    record::{Offset, Partition, gap::TopicId},
};
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Without a record for this long, Kafka counts as out of reach.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);
/// What lies further ahead is sought, what is nearer read past.
const NEAR: i64 = 2_000;

/// A record's key and value, copied.
pub type Found = (Option<Vec<u8>>, Option<Vec<u8>>);

pub struct Lookup {
    consumer: BaseConsumer,
}

impl Lookup {
    pub fn new(settings: &KafkaSettings) -> Result<Self> {
        let consumer = client::consumer(settings)?.create().map_err(client::refused)?;
        Ok(Self { consumer })
    }

    /// The records at exactly these offsets of a partition, which ascend; those that Kafka does not
    /// have any more are absent. All are, if the topic is another one than that of `id` by now.
    ///
    /// # Errors
    /// `Retry`: Kafka does not answer.
    pub fn read(
        &self,
        topic: &str,
        partition: Partition,
        id: Option<TopicId>,
        offsets: &[i64],
    ) -> Result<BTreeMap<i64, Found>> {
        let doing = || format!("read records of {topic}/{} once more", partition.0);
        let lost = |e| Error::retry(doing()).because(e);
        let (low, high) =
            self.consumer.fetch_watermarks(topic, partition.0, PATIENCE).map_err(lost)?;
        let mut found = BTreeMap::new();
        let mut next: Option<Offset> = None;
        for &offset in offsets.iter().filter(|offset| (low..high).contains(*offset)) {
            match next {
                // Compacted, or a transaction's marker: what came last was behind it already.
                Some(next) if offset < next.0 => continue,
                Some(next) if offset - next.0 < NEAR => {}
                Some(_) | None => {
                    let mut list = TopicPartitionList::new();
                    list.add_partition_offset(topic, partition.0, KafkaOffset::Offset(offset))
                        .map_err(lost)?;
                    self.consumer.assign(&list).map_err(lost)?;
                    next = Some(Offset(offset));
                }
            }
            let mut heard = Instant::now();
            while next.is_none_or(|next| next.0 <= offset) {
                match self.consumer.poll(POLL) {
                    Some(Ok(message)) => {
                        heard = Instant::now();
                        next = Some(Offset::after(message.offset()));
                        if message.offset() == offset {
                            let copied = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                            found
                                .insert(offset, (copied(message.key()), copied(message.payload())));
                        }
                    }
                    Some(Err(error)) => tracing::debug!(target: "kafka", "{}: {error}", doing()),
                    None => {
                        if let Some(position) = self.position(topic, partition) {
                            next = next.max(Some(position));
                        }
                    }
                }
                if heard.elapsed() > PATIENCE {
                    return Err(Error::retry(format!("{}: no answer in time", doing())));
                }
            }
        }
        // Asked after the last record was read (G-3).
        let is_another = id.is_some() && topic_id::ask(&self.consumer, topic, PATIENCE)? != id;
        if is_another {
            found.clear();
        }
        Ok(found)
    }

    /// Moves past what is no record, as the last of a log may be.
    fn position(&self, topic: &str, partition: Partition) -> Option<Offset> {
        let positions = self.consumer.position().ok()?;
        match positions.find_partition(topic, partition.0)?.offset() {
            KafkaOffset::Offset(offset) => Some(Offset(offset)),
            _ => None,
        }
    }
}
