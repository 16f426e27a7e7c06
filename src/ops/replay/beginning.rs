//! Where a new output begins: with what Kafka has, or the lake.
//!
//! Owns: the offsets, and the sentence on what is before them. Does not own: whether the lake can give what Kafka has
//! no more (`pipeline::rebuild::lake`).

use crate::{
    catalog::{Model, Topic},
    error::{Error, Result},
    record::{Offset, Output, Partition},
    source::kafka::Kafka,
    warehouse::{MarkRow, rebuild::is_rebuild_of},
};
use std::{collections::BTreeMap, time::Duration};

const KAFKA_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    pub begins: BTreeMap<Partition, Offset>,
    /// Offsets before these, which the lake has.
    pub only_in_lake: u64,
    /// Offsets from these on, up to where the topic's tables stand.
    pub reads_back: u64,
}

impl Beginning {
    /// Of the partitions that the topic's tables have begun. A rebuild that is under way goes on where it began.
    ///
    /// # Errors
    /// `Config`: one under way began later than the lake does, which is to be read.
    pub fn find(
        topic: &Topic,
        model: &Model,
        marks: &[MarkRow],
        kafka: &Kafka,
        from_lake: bool,
    ) -> Result<Self> {
        let marks = || marks.iter().filter(|m| m.topic == topic.name);
        let leading: Vec<&MarkRow> = marks().filter(|m| m.output == Output::DeadLetters).collect();
        let partitions: Vec<Partition> = leading.iter().map(|m| m.partition).collect();
        let logs = kafka.logs(&topic.kafka_topic, &partitions, KAFKA_WAIT)?;
        let mut found = Self { begins: BTreeMap::new(), only_in_lake: 0, reads_back: 0 };
        for (leader, (partition, log)) in leading.into_iter().zip(logs) {
            let of = |m: &&MarkRow| m.partition == partition && m.generation == leader.generation;
            let oldest = log.oldest.min(leader.mark.next);
            let lake = marks().filter(of).find(|m| m.output == Output::Lake);
            let lake = lake.map_or(oldest, |lake| lake.mark.first.min(oldest));
            let begun = marks().filter(of).find(|m| is_rebuild_of(&m.output, &model.name));
            let begin = match (begun, from_lake) {
                (Some(begun), true) if begun.mark.first > lake => {
                    return Err(Error::config(format!(
                        "model:{0} is half made already, from {1}/{2}@{3} on, and the lake has what is before: \
                         `highwater replay model:{0} --abort`, then begin it again with --from-lake",
                        model.name, topic.name, partition.0, begun.mark.first.0
                    )));
                }
                (Some(begun), _) => begun.mark.first,
                (None, true) => lake,
                (None, false) => oldest,
            };
            found.only_in_lake += (begin.0 - lake.0).max(0) as u64;
            found.reads_back += (leader.mark.next.0 - begin.0).max(0) as u64;
            found.begins.insert(partition, begin);
        }
        Ok(found)
    }

    pub fn told(&self) -> String {
        match self.only_in_lake {
            0 => "made: a new table, from the first offset that Kafka or the lake has".to_owned(),
            lake => format!(
                "made: a new table, from the first offset that Kafka has; {lake} offsets before are only in the lake, \
                 where --from-lake reads them"
            ),
        }
    }
}
