//! The formats: which of them takes a topic's records apart.
//!
//! Owns: the choice, and what is asked of every record before (UTF-8, its length). Does not own:
//! any format (a file each).

use super::{
    change::Said, csv::Csv, debezium::Debezium, fields::RECORD_BYTES_MAX, maxwell::Maxwell,
    qlik::Qlik,
};
use crate::{
    catalog::{Format, Topic},
    record::RawRecord,
};
use std::borrow::Cow;

pub enum Reader {
    Json,
    Csv(Csv),
    Debezium(Debezium),
    Maxwell(Maxwell),
    Qlik(Qlik),
}

impl Reader {
    pub fn new(topic: &Topic) -> Self {
        let changes = || topic.changes.as_ref().expect("the catalog gives each its [changes]");
        match topic.format {
            Format::Json => Self::Json,
            Format::Csv => {
                let spec = topic.csv.as_ref().expect("the catalog gives each its [csv]");
                Self::Csv(Csv::new(topic, spec))
            }
            Format::DebeziumJson => Self::Debezium(Debezium::new(topic, changes())),
            Format::Maxwell => Self::Maxwell(Maxwell::new(changes())),
            Format::Qlik => Self::Qlik(Qlik::new(topic, changes())),
        }
    }

    /// What a record says. The reason of a refusal quotes nothing of it: it may be personal.
    pub fn read<'a>(&mut self, record: &RawRecord<'a>) -> Result<Said<'a>, String> {
        let value = readable(record.value)?;
        let row = |value: Option<&'a str>| {
            value.ok_or_else(|| "a tombstone: the record has no value".to_owned())
        };
        match (self, value) {
            (Self::Json, value) => Ok(Said::Row(Cow::Borrowed(row(value)?))),
            (Self::Csv(csv), value) => Ok(match csv.row(row(value)?)? {
                Some(object) => Said::Row(Cow::Owned(object)),
                None => Said::Nothing,
            }),
            (Self::Debezium(debezium), value) => debezium.read(readable(record.key)?, value),
            (Self::Maxwell(maxwell), Some(value)) => maxwell.read(value),
            (Self::Qlik(qlik), Some(value)) => qlik.read(value),
            // It follows a delete, for the sake of compaction.
            (Self::Maxwell(_) | Self::Qlik(_), None) => Ok(Said::Nothing),
        }
    }
}

/// The text of a key or a value; None: there is none.
fn readable(bytes: Option<&[u8]>) -> Result<Option<&str>, String> {
    let Some(bytes) = bytes else { return Ok(None) };
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(too_long());
    }
    let text = std::str::from_utf8(bytes);
    text.map(Some).map_err(|broken| format!("not UTF-8: byte {}", broken.valid_up_to()))
}

pub fn too_long() -> String {
    format!("longer than {RECORD_BYTES_MAX} bytes")
}
