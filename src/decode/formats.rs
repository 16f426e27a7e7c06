//! The formats: which of them takes a topic's records apart.
//!
//! Owns: the choice, what is asked of every record before (UTF-8, its length), the buffers of rows
//! that are written anew as JSON. Does not own: any format (a file each).

use super::{
    avro::Avro,
    canal::Canal,
    change::{Change, Said},
    cloudevents::CloudEvents,
    csv::Csv,
    debezium::Debezium,
    fields::{RECORD_BYTES_MAX, Row},
    maxwell::Maxwell,
    qlik::Qlik,
};
use crate::{
    catalog::{Format, Topic, Upstream},
    record::{RawRecord, schemas::Schemas},
};
use std::{borrow::Cow, sync::Arc};

/// Texts of the batch before, so that none is allocated per record.
#[derive(Default)]
pub struct Spare(Vec<String>);

/// As many as the largest usual batch has records; those beyond are freed.
const SPARE_TEXTS_MAX: usize = 8192;
/// A longer one is freed: 8 MiB are kept at most.
const SPARE_BYTES_MAX: usize = 1024;

impl Spare {
    /// An empty text.
    pub fn take(&mut self) -> String {
        self.0.pop().unwrap_or_default()
    }

    pub fn give_back(&mut self, text: Cow<'_, str>) {
        if let Cow::Owned(mut text) = text
            && (1..=SPARE_BYTES_MAX).contains(&text.capacity())
            && self.0.len() < SPARE_TEXTS_MAX
        {
            text.clear();
            self.0.push(text);
        }
    }
}

pub enum Reader {
    Json,
    Csv(Csv),
    Avro(Avro),
    CloudEvents(CloudEvents),
    Debezium(Debezium),
    DebeziumAvro(Avro, Debezium),
    Maxwell(Maxwell),
    Canal(Canal),
    Qlik(Qlik),
}

impl Reader {
    pub fn new(topic: &Topic, schemas: Arc<Schemas>) -> Self {
        let changes = || topic.changes.as_ref().expect("the catalog gives each its [changes]");
        match topic.format {
            Format::Json => Self::Json,
            Format::Csv => {
                let spec = topic.csv.as_ref().expect("the catalog gives each its [csv]");
                Self::Csv(Csv::new(topic, spec))
            }
            Format::Avro => Self::Avro(Avro::new(topic, schemas)),
            Format::CloudEvents => Self::CloudEvents(CloudEvents::new(topic)),
            Format::DebeziumJson => Self::Debezium(Debezium::new(topic, changes())),
            Format::DebeziumAvro => {
                let avro = Avro::new(topic, schemas);
                Self::DebeziumAvro(avro, Debezium::new(topic, changes()))
            }
            Format::Maxwell => Self::Maxwell(Maxwell::new(changes())),
            Format::Canal => Self::Canal(Canal::new(changes())),
            Format::Qlik => Self::Qlik(Qlik::new(topic, changes())),
        }
    }

    /// The source's table, as the record that was read last tells it.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        match self {
            Self::Avro(avro) | Self::DebeziumAvro(avro, _) => avro.upstream(),
            Self::Debezium(debezium) => debezium.upstream(),
            Self::Json | Self::Csv(_) | Self::CloudEvents(_) => None,
            Self::Maxwell(_) | Self::Canal(_) | Self::Qlik(_) => None,
        }
    }

    /// What a record says. The reason of a refusal quotes nothing of it: it may be personal. `into` is for the
    /// fields of rows that are found on the way.
    pub fn read<'a>(
        &mut self,
        record: &RawRecord<'a>,
        spare: &mut Spare,
        into: Row<'_>,
    ) -> Result<Said<'a>, String> {
        let (key, value) = (record.key, record.value);
        match self {
            Self::Json => Ok(Said::Row(Cow::Borrowed(there(readable(value)?)?))),
            Self::Csv(csv) => {
                let mut object = spare.take();
                Ok(match csv.row(there(readable(value)?)?, &mut object)? {
                    true => Said::Row(Cow::Owned(object)),
                    false => Said::Nothing,
                })
            }
            Self::Avro(avro) => {
                avro.note(None, None);
                let text = avro.read(there(value)?, spare.take())?;
                avro.note(Some(&text), None);
                Ok(Said::Encoded(text.json, text.encodings))
            }
            Self::CloudEvents(events) => events.read(there(readable(value)?)?),
            Self::Debezium(debezium) => {
                debezium.read(readable(key)?, readable(value)?, spare, Some(into))
            }
            Self::DebeziumAvro(avro, debezium) => {
                avro.note(None, None);
                let value = value.map(|bytes| avro.read(bytes, spare.take())).transpose()?;
                // Most events need no key, and it may be written by another converter.
                let key = key.and_then(|bytes| avro.read(bytes, spare.take()).ok());
                avro.note(value.as_ref(), key.as_ref());
                let encodings = value.as_ref().or(key.as_ref()).map(|text| text.encodings.clone());
                let (key, value) = (key.map(|text| text.json), value.map(|text| text.json));
                match debezium.read(key.as_deref(), value.as_deref(), spare, None)? {
                    Said::Change(change) => {
                        Ok(Said::Change(Change { encodings, ..change.into_owned() }))
                    }
                    Said::Row(_) | Said::Encoded(..) | Said::Nothing => Ok(Said::Nothing),
                }
            }
            // A record without a value follows a delete, for the sake of compaction.
            Self::Maxwell(maxwell) => said(readable(value)?, |value| maxwell.read(value)),
            Self::Canal(canal) => said(readable(value)?, |value| canal.read(value)),
            Self::Qlik(qlik) => said(readable(value)?, |value| qlik.read(value)),
        }
    }
}

/// Where a record without a value says nothing about a row.
fn said<'a>(
    value: Option<&'a str>,
    read: impl FnOnce(&'a str) -> Result<Said<'a>, String>,
) -> Result<Said<'a>, String> {
    value.map_or(Ok(Said::Nothing), read)
}

/// Where it cannot be without one.
fn there<T>(value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| "a tombstone: the record has no value".to_owned())
}

/// The text of a key or a value; None: there is none.
fn readable(bytes: Option<&[u8]>) -> Result<Option<&str>, String> {
    let Some(bytes) = bytes else { return Ok(None) };
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(too_long());
    }
    let text = simdutf8::compat::from_utf8(bytes);
    text.map(Some).map_err(|broken| format!("not UTF-8: byte {}", broken.valid_up_to()))
}

pub fn too_long() -> String {
    format!("longer than {RECORD_BYTES_MAX} bytes")
}
