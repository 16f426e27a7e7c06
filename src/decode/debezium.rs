//! Debezium's change events in JSON: with or without schemas, whole or flattened.
//!
//! Owns: the envelope, the source's position as text that sorts. Does not own: values (`encoding`,
//! `convert`), Avro.
//!
//! Sources: Debezium's documentation of its connectors ("Change event values"), of transaction
//! metadata, schema change topics and of the SMT ExtractNewRecordState; messages captured from
//! Debezium 3.5 and 3.7, which the tests read.

use super::{
    change::{Change, Operation, Said, SnapshotRead, micros, not_json},
    encoding::{field_schema, of_schema},
    scan::{Broken, members, there},
    upstream,
};
use crate::catalog::{ChangeSpec, Encoding, Order, Pii, Tombstones, Topic, TopicColumn, Upstream};
use std::{borrow::Cow, fmt::Write, sync::Arc};

/// Reads one topic's events.
pub struct Debezium {
    spec: ChangeSpec,
    /// Those that are kept, in order.
    columns: Vec<TopicColumn>,
    /// Schemas seen, the last one first, and what they say: they seldom change.
    schemas: Vec<Schemas>,
    /// Of the record that was read last.
    upstream: Option<Arc<Upstream>>,
}

/// The schemas of a record's row and key, as they came.
struct Schemas {
    row: String,
    key: Option<String>,
    /// Of each column.
    encodings: Arc<[Encoding]>,
    upstream: Arc<Upstream>,
}

/// So many are remembered: partitions go from one to the next at different times.
const SCHEMAS_MAX: usize = 4;

/// The members of an envelope that matter.
#[derive(Default)]
struct Envelope<'a> {
    op: Option<&'a str>,
    before: Option<&'a str>,
    after: Option<&'a str>,
    source: Option<&'a str>,
    time_us: Option<i64>,
    snapshot: Option<SnapshotRead>,
    /// A record that is no change of a row: a transaction's border, a change of schema, a heartbeat.
    other: bool,
}

impl Debezium {
    pub fn new(topic: &Topic, spec: &ChangeSpec) -> Self {
        let kept = topic.columns.iter().filter(|column| column.pii != Some(Pii::Drop));
        Self {
            spec: spec.clone(),
            columns: kept.cloned().collect(),
            schemas: vec![],
            upstream: None,
        }
    }

    /// The table of the record that was read last, where its schema came with it.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.upstream.as_ref()
    }

    /// What a record says. The reason of a refusal quotes nothing of it.
    pub fn read<'a>(
        &mut self,
        key: Option<&'a str>,
        value: Option<&'a str>,
    ) -> Result<Said<'a>, String> {
        self.upstream = None;
        let Some(value) = value else {
            return match (self.spec.tombstones, key) {
                (Tombstones::Ignore, _) => Ok(Said::Nothing),
                (Tombstones::Delete, Some(key)) => {
                    let (_, key) = unpacked(key).map_err(|broken| not_json("key", broken))?;
                    Ok(Said::Change(Change {
                        operation: Operation::Delete,
                        image: Some(key.into()),
                        before: None,
                        position: self.position(None)?,
                        source_time: None,
                        encodings: None,
                        left_out: None,
                        snapshot: None,
                    }))
                }
                (Tombstones::Delete, None) => {
                    Err("a record without key and value says not what is deleted".to_owned())
                }
            };
        };
        let (schema, payload) = unpacked(value).map_err(|broken| not_json("value", broken))?;
        if payload == "null" {
            return self.read(key, None);
        }
        match self.spec.unwrapped {
            true => self.flattened(schema, payload, key),
            false => self.enveloped(schema, payload, key),
        }
    }

    fn enveloped<'a>(
        &mut self,
        schema: Option<&'a str>,
        payload: &'a str,
        key: Option<&'a str>,
    ) -> Result<Said<'a>, String> {
        let envelope = Envelope::read(payload).map_err(|broken| not_json("value", broken))?;
        let Some(op) = envelope.op else {
            return match envelope.other {
                true => Ok(Said::Nothing),
                false => Err(
                    "a change event without `op`; a flattened one needs changes.unwrapped = true"
                        .to_owned(),
                ),
            };
        };
        let operation = match op {
            "c" => Operation::Insert,
            "u" => Operation::Update,
            "d" => Operation::Delete,
            "r" => Operation::Read,
            "t" => Operation::Truncate,
            // A message that a transaction wrote into the log by itself.
            "m" => return Ok(Said::Nothing),
            _ => return Err("an `op` that is none of c, u, d, r, t, m".to_owned()),
        };
        let image = match operation {
            Operation::Truncate => None,
            // Without a before-image the record's key says what is gone.
            Operation::Delete => match (envelope.before, key) {
                (Some(before), _) => Some(before),
                (None, Some(key)) => {
                    Some(unpacked(key).map_err(|broken| not_json("key", broken))?.1)
                }
                (None, None) => {
                    return Err("a delete without `before` and without a key".to_owned());
                }
            },
            Operation::Insert | Operation::Update | Operation::Read => {
                Some(envelope.after.ok_or("a change event without `after`")?)
            }
        };
        let before = match operation {
            // A change of the key is a delete and an insert: there is nothing to look for in it.
            Operation::Delete | Operation::Update => envelope.before.filter(|_| self.spec.before),
            Operation::Insert | Operation::Read | Operation::Truncate => None,
        };
        let row = schema.and_then(|schema| field_schema(schema, "after"));
        Ok(Said::Change(Change {
            operation,
            image: image.map(Cow::Borrowed),
            before: before.map(Cow::Borrowed),
            position: self.position(envelope.source)?,
            source_time: envelope.time_us,
            encodings: self.encodings(row, key),
            left_out: None,
            snapshot: envelope.snapshot.filter(|_| operation == Operation::Read),
        }))
    }

    /// The row itself, with `__op`, `__deleted`, `__source_…` beside its columns, as far as the
    /// connector adds them.
    fn flattened<'a>(
        &mut self,
        schema: Option<&'a str>,
        payload: &'a str,
        key: Option<&'a str>,
    ) -> Result<Said<'a>, String> {
        let (mut op, mut deleted, mut time_us, mut snapshot) = (None, false, None, None);
        let mut read = |name: &str, raw: &'a str| match name {
            "__op" => op = Some(raw.trim_matches('"')),
            "__deleted" => deleted = raw.trim_matches('"') == "true",
            "__source_ts_us" | "__ts_us" => time_us = raw.parse().ok(),
            "__source_ts_ms" | "__ts_ms" if time_us.is_none() => {
                time_us = micros(raw, 1_000);
            }
            "__source_snapshot" | "__snapshot" => snapshot = snapshot_read(raw),
            _ => {}
        };
        members(payload, &mut read).map_err(|broken| not_json("value", broken))?;
        let operation = match op {
            _ if deleted => Operation::Delete,
            Some("c") => Operation::Insert,
            Some("d") => Operation::Delete,
            Some("r") => Operation::Read,
            Some("u") | None => Operation::Update,
            Some("t") => Operation::Truncate,
            Some("m") => return Ok(Said::Nothing),
            Some(_) => return Err("an `__op` that is none of c, u, d, r, t, m".to_owned()),
        };
        Ok(Said::Change(Change {
            operation,
            image: (operation != Operation::Truncate).then_some(payload.into()),
            before: None,
            position: self.position(Some(payload))?,
            source_time: time_us,
            encodings: self.encodings(schema, key),
            left_out: None,
            snapshot: snapshot.filter(|_| operation == Operation::Read),
        }))
    }

    /// By column, what the schema of the row says.
    fn encodings(&mut self, schema: Option<&str>, key: Option<&str>) -> Option<Arc<[Encoding]>> {
        let schema = schema?;
        // A key that is broken, or by another converter, tells nothing.
        let key = key.and_then(|key| unpacked(key).ok()).and_then(|(schema, _)| schema);
        let seen = |s: &Schemas| s.row == schema && s.key.as_deref() == key;
        match self.schemas.iter().position(seen) {
            Some(at) => self.schemas[..=at].rotate_right(1),
            None => {
                self.schemas.truncate(SCHEMAS_MAX - 1);
                let schemas = self.schemas_of(schema, key);
                self.schemas.insert(0, schemas);
            }
        }
        let schemas = &self.schemas[0];
        self.upstream = Some(schemas.upstream.clone());
        Some(schemas.encodings.clone())
    }

    fn schemas_of(&self, row: &str, key: Option<&str>) -> Schemas {
        let fields = of_schema(row);
        let of = |column: &TopicColumn| {
            let names = [Some(&column.name), column.path.first()];
            let named = |(name, _): &&(String, Encoding)| names.contains(&Some(name));
            fields.iter().find(named).map_or(Encoding::Plain, |(_, encoding)| *encoding)
        };
        let names = |schema| upstream::columns(schema).into_iter().map(|column| column.name);
        let upstream =
            Upstream { columns: upstream::columns(row), key: key.map(|key| names(key).collect()) };
        Schemas {
            row: row.to_owned(),
            key: key.map(str::to_owned),
            encodings: self.columns.iter().map(of).collect(),
            upstream: Arc::new(upstream),
        }
    }

    fn position(&self, source: Option<&str>) -> Result<String, String> {
        match (self.spec.order, source) {
            (Order::Offset, _) => Ok(String::new()),
            (Order::Source, Some(source)) => {
                position(source, self.spec.unwrapped).ok_or_else(|| {
                    "no position of the source's log in the event; with changes.order = \"offset\" \
                 Kafka's offsets are the order"
                        .to_owned()
                })
            }
            (Order::Source, None) => Err(
                "a tombstone has no position of the source's log; with changes.order = \"offset\" \
                 Kafka's offsets are the order"
                    .to_owned(),
            ),
        }
    }
}

impl<'a> Envelope<'a> {
    fn read(payload: &'a str) -> Result<Self, Broken> {
        let mut envelope = Self::default();
        let (mut time_ms, mut emitted_ms) = (None, None);
        members(payload, |name, raw| match name {
            "op" => envelope.op = Some(raw.trim_matches('"')),
            "before" => envelope.before = there(raw),
            "after" => envelope.after = there(raw),
            "source" => envelope.source = there(raw),
            "ts_ms" => emitted_ms = raw.parse::<i64>().ok(),
            // Of a transaction, of a schema change.
            "status" | "ddl" | "databaseName" | "tableChanges" => envelope.other = true,
            _ => {}
        })?;
        if let Some(source) = envelope.source {
            members(source, |name, raw| match name {
                "ts_us" => envelope.time_us = raw.parse().ok(),
                "ts_ms" => time_ms = micros(raw, 1_000),
                "snapshot" => envelope.snapshot = snapshot_read(raw),
                _ => {}
            })?;
        } else if emitted_ms.is_some() && envelope.op.is_none() && envelope.after.is_none() {
            // A heartbeat is a time and nothing else.
            envelope.other = true;
        }
        envelope.time_us = envelope.time_us.or(time_ms);
        Ok(envelope)
    }
}

/// `first` and `last` are of everything that the connector reads, the others of one table. A table of one
/// row is told by its end alone. What is none of these is no snapshot.
fn snapshot_read(raw: &str) -> Option<SnapshotRead> {
    match raw.trim_matches('"') {
        "true" | "first" | "first_in_data_collection" => Some(SnapshotRead::Row),
        "last" | "last_in_data_collection" => Some(SnapshotRead::Last),
        "incremental" => Some(SnapshotRead::Incremental),
        _ => None,
    }
}

/// Schema and payload of `{"schema": …, "payload": …}`; of anything else it is the payload.
fn unpacked(text: &str) -> Result<(Option<&str>, &str), Broken> {
    let (mut schema, mut payload, mut others) = (None, None, false);
    members(text, |name, raw| match name {
        "schema" => schema = Some(raw),
        "payload" => payload = Some(raw),
        _ => others = true,
    })?;
    Ok(match (schema, payload) {
        (Some(schema), Some(payload)) if !others => (Some(schema), payload),
        _ => (None, text),
    })
}

/// The place in the source's log, as text that ascends byte by byte: PostgreSQL's LSN, the binlog
/// file and position of MySQL and MariaDB, SQL Server's LSNs, Oracle's SCN.
fn position(source: &str, flattened: bool) -> Option<String> {
    let (mut lsn, mut sequence, mut scn) = (None, None, None);
    let (mut file, mut pos, mut row) = (None, None, None);
    let (mut commit_lsn, mut change_lsn, mut serial) = (None, None, None);
    let text = |raw| there(raw).map(|raw| raw.trim_matches('"').to_owned());
    let read = members(source, |name, raw| {
        let name = match flattened {
            true => match name.strip_prefix("__source_").or(name.strip_prefix("__")) {
                Some(name) => name,
                None => return,
            },
            false => name,
        };
        match name {
            "lsn" => lsn = text(raw).and_then(|text| text.parse::<u64>().ok()),
            "sequence" => sequence = text(raw),
            "file" => file = text(raw),
            "pos" => pos = text(raw).and_then(|text| text.parse::<u64>().ok()),
            "row" => row = text(raw).and_then(|text| text.parse::<u64>().ok()),
            "commit_lsn" => commit_lsn = text(raw),
            "change_lsn" => change_lsn = text(raw),
            "event_serial_no" => serial = text(raw).and_then(|text| text.parse::<u64>().ok()),
            "scn" => scn = text(raw).and_then(|text| text.parse::<u128>().ok()),
            _ => {}
        }
    });
    read.ok()?;
    let mut out = String::new();
    // An incremental snapshot has no LSN of its own; `sequence` tells where the log stood then:
    // `["committed","current"]`, as a string.
    let lsn = lsn.or_else(|| {
        let text = sequence.as_deref()?;
        let last = text.trim_end_matches([']', '"', '\\']).rsplit(['"', ',']).next()?;
        last.trim_end_matches('\\').parse::<u64>().ok()
    });
    if let Some(lsn) = lsn {
        let _ = write!(out, "{lsn:020}");
    } else if let (Some(file), Some(pos)) = (&file, pos) {
        let number: u64 = file.rsplit('.').next()?.parse().ok()?;
        let _ = write!(out, "{number:012}:{pos:020}:{:010}", row.unwrap_or(0));
    } else if let Some(commit) = &commit_lsn {
        let change = change_lsn.as_deref().unwrap_or_default();
        let _ = write!(out, "{commit}:{change}:{:010}", serial.unwrap_or(0));
    } else if let Some(scn) = scn {
        let _ = write!(out, "{scn:039}");
    } else {
        return None;
    }
    Some(out)
}
