//! `[dead_letters]` of a topic file: when to stop, what is kept, where letters are sent on to.
//!
//! Owns: the keys of that table. Does not own: the rest of the file (see `topic_file`).

use super::{
    Topic,
    toml_table::{Found, Table},
    topic_file::check_kafka_topic,
};
use crate::record::quantity::percent;
use std::sync::Arc;

const KEYS: [&str; 3] = ["stop_above", "keep_raw", "forward"];

/// Sets what the table says; without it the topic's defaults stay.
pub(super) fn read(top: &Table<'_>, topic: &mut Topic, found: &mut Found) {
    if let Some(table) = top.table("dead_letters", found) {
        table.only(&KEYS, found);
        if let Some(share) = table.parsed("stop_above", percent, found) {
            // More than all of them is never reached.
            topic.stop_above = (share < 1.0).then_some(share);
        }
        if let Some(keep) = table.boolean("keep_raw", found) {
            topic.keep_raw = keep;
        }
        topic.forward = forward(&table, &topic.kafka_topic, found);
    }
}

fn forward(table: &Table<'_>, kafka_topic: &str, found: &mut Found) -> Option<Arc<str>> {
    let to = table.text("forward", found)?;
    let byte = table.byte("forward");
    check_kafka_topic(&to, byte, found);
    if to == kafka_topic {
        found.push((
            byte,
            format!(
                "dead letters of `{to}` would be read by the topic that they come from, again and                  again. Allowed: another Kafka topic"
            ),
        ));
    }
    Some(to.into())
}
