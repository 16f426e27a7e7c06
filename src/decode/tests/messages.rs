//! Messages and topics of the tests of formats.
//!
//! Captured messages lie outside of the repository (`HIGHWATER_TEST_DATA`).

use super::shown;
use crate::{
    catalog::{self, Topic},
    decode::{Decoded, Decoder},
    record::{EventTime, Partition, RawRecord},
};
use std::{path::PathBuf, sync::Arc};

/// A topic as its file declares it: `tables` before its columns.
pub fn declared(format: &str, tables: &str, columns: &str) -> Arc<Topic> {
    let text = format!("topic = \"t\"\nformat = \"{format}\"\n{tables}\n[columns]\n{columns}\n");
    let catalog = catalog::check(&[("topics/t.toml".into(), text)], &[]);
    let catalog = catalog.unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    catalog.topics["t"].clone()
}

#[derive(Clone)]
pub struct Message {
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

pub fn message(key: Option<&str>, value: Option<&str>) -> [Message; 1] {
    let bytes = |text: &str| text.as_bytes().to_vec();
    [Message { offset: 0, key: key.map(bytes), value: value.map(bytes) }]
}

/// Messages without keys.
pub fn messages(values: &[&str]) -> Vec<Message> {
    let one = |(offset, value): (usize, &&str)| Message {
        offset: offset as i64,
        key: None,
        value: Some(value.as_bytes().to_vec()),
    };
    values.iter().enumerate().map(one).collect()
}

/// Where the captured ones lie.
pub fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("HIGHWATER_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: HIGHWATER_TEST_DATA is not set");
    }
    folder
}

/// The captured messages of one topic of Debezium's.
pub fn captured(file: &str, topic: &str) -> Option<Vec<Message>> {
    let path = data()?.join("debezium").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON"));
    let of_topic = lines.filter(|line: &serde_json::Value| line["topic"] == topic);
    let bytes = |value: &serde_json::Value| value.as_str().map(|text| text.as_bytes().to_vec());
    let message = |line: serde_json::Value| Message {
        offset: line["offset"].as_i64().expect("an offset"),
        key: bytes(&line["key"]),
        value: bytes(&line["value"]),
    };
    Some(of_topic.map(message).collect())
}

pub fn records(messages: &[Message]) -> Vec<RawRecord<'_>> {
    let mut records = Vec::new();
    for Message { offset, key, value } in messages {
        records.push(RawRecord {
            partition: Partition(0),
            offset: *offset,
            timestamp: EventTime(super::KAFKA_US),
            key: key.as_deref(),
            value: value.as_deref(),
        });
    }
    records
}

pub fn decode(topic: &Arc<Topic>, messages: &[Message]) -> Decoded {
    Decoder::new(topic.clone(), None).decode(&records(messages))
}

/// One line per row: the named columns, NULL as `-`.
pub fn lines(decoded: &Decoded, columns: &[&str]) -> Vec<String> {
    let rows = 0..decoded.rows.num_rows();
    rows.map(|row| {
        let value = |name: &&str| {
            let array = decoded.rows.column_by_name(name).expect("a column");
            shown(array.as_ref(), row).unwrap_or_else(|| "-".into())
        };
        columns.iter().map(value).collect::<Vec<_>>().join(" ")
    })
    .collect()
}

/// Each reject's reason.
pub fn reasons(decoded: &Decoded) -> Vec<&str> {
    decoded.rejects.iter().map(|reject| reject.reason.as_str()).collect()
}
