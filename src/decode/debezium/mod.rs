//! Debezium's change events in JSON: with or without schemas, whole or flattened.
//!
//! Owns: the envelope. Does not own: what it says of the source (`source`), values (`encoding`, `convert`), Avro.
//!
//! Sources: Debezium's documentation of its connectors ("Change event values"), of transaction
//! metadata, schema change topics and of the SMT ExtractNewRecordState; messages captured from
//! Debezium 3.5 and 3.7, which the tests read.

mod source;

use super::{
    alike::Alike,
    change::{Change, Image, Operation, Said, not_json},
    encoding::{field_schema, of_schema},
    fields::Row,
    formats::Spare,
    scan::{Broken, Scanner, plain, there},
    upstream,
};
use crate::catalog::{ChangeSpec, Encoding, Order, Pii, Tombstones, Topic, TopicColumn, Upstream};
use source::{Place, Source, Told};
use std::{borrow::Cow, sync::Arc};

/// Reads one topic's events.
pub struct Debezium {
    spec: ChangeSpec,
    /// Those that are kept, in order.
    columns: Vec<TopicColumn>,
    shapes: Shapes,
    /// Schemas seen, the last one first, and what they say: they seldom change.
    schemas: Vec<Schemas>,
    /// Of the record that was read last.
    upstream: Option<Arc<Upstream>>,
}

/// How the objects of a record look.
struct Shapes {
    /// The value's own, and that of the payload in it.
    envelopes: [Alike<Part>; 2],
    source: Alike<Told>,
    /// Of a flattened event.
    row: Alike<Beside>,
    key: Alike<Part>,
}

/// The schemas of a record's value and key, as they came.
struct Schemas {
    value: String,
    key: Option<String>,
    /// Of each column.
    encodings: Arc<[Encoding]>,
    upstream: Arc<Upstream>,
}

/// So many are remembered: partitions go from one to the next at different times.
const SCHEMAS_MAX: usize = 4;

/// What a member of an envelope is.
#[derive(Clone, Copy)]
enum Part {
    Op,
    Before,
    After,
    Source,
    EmittedMs,
    /// Of what is no change of a row.
    Border,
    Schema,
    Payload,
    Unknown,
}

/// What a member of a flattened event is.
#[derive(Clone, Copy)]
enum Beside {
    Op,
    Deleted,
    Source(Told),
    /// Of the row.
    Column,
}

/// The members of an envelope that matter.
#[derive(Default)]
struct Envelope<'a> {
    op: Option<&'a str>,
    before: Option<&'a str>,
    after: Option<&'a str>,
    /// Of `after`, how many fields were unknown, where they were looked for.
    found: Option<u64>,
    source: Option<Source<'a>>,
    emitted_ms: Option<i64>,
    /// A transaction's border, a change of schema.
    other: bool,
    /// Of `{"schema": …, "payload": …}`, in which the envelope is the payload.
    schema: Option<&'a str>,
    payload: Option<&'a str>,
    /// Whether there is anything but these two.
    others: bool,
}

impl Debezium {
    pub fn new(topic: &Topic, spec: &ChangeSpec) -> Self {
        let kept = topic.columns.iter().filter(|column| column.pii != Some(Pii::Drop));
        Self {
            spec: spec.clone(),
            columns: kept.cloned().collect(),
            shapes: Shapes {
                envelopes: [Alike::new(Part::of), Alike::new(Part::of)],
                source: Alike::new(Told::of),
                row: Alike::new(Beside::of),
                key: Alike::new(Part::of),
            },
            schemas: vec![],
            upstream: None,
        }
    }

    /// The table of the record that was read last, where its schema came with it.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.upstream.as_ref()
    }

    /// What a record says. The reason of a refusal quotes nothing of it. The fields of a row's new image are found
    /// on the way, where a place for them is given; it stays empty where the image does not say so.
    pub fn read<'a>(
        &mut self,
        key: Option<&'a str>,
        value: Option<&'a str>,
        spare: &mut Spare,
        mut into: Option<Row<'_>>,
    ) -> Result<Said<'a>, String> {
        self.upstream = None;
        let Some(value) = value else {
            return match (self.spec.tombstones, key) {
                (Tombstones::Ignore, _) => Ok(Said::Nothing),
                (Tombstones::Delete, Some(key)) => {
                    let (_, key) = self.shapes.key(key)?;
                    Ok(Said::Change(Change {
                        operation: Operation::Delete,
                        image: Some(Image::of(key)),
                        before: None,
                        position: self.position(None, spare)?,
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
        let broken = |broken| not_json("value", broken);
        if self.spec.unwrapped {
            let (schema, payload) =
                unpacked(&mut self.shapes.envelopes[0], value).map_err(broken)?;
            return match payload {
                "null" => self.read(key, None, spare, None),
                payload => self.flattened(schema, payload, key, spare),
            };
        }
        let [outer, inner] = self.shapes.envelope(value, &mut into).map_err(broken)?;
        let said = match outer.packed() {
            Some((_, "null")) => self.read(key, None, spare, None),
            Some((_, payload)) if !payload.starts_with('{') => {
                Err(broken(Broken { at: 0, why: "the payload is not an object" }))
            }
            Some((schema, _)) => self.enveloped(Some(schema), value, inner, key, spare),
            None => self.enveloped(None, value, outer, key, spare),
        }?;
        let is_found = matches!(&said, Said::Change(Change { image: Some(image), .. }) if image.found.is_some());
        if let Some(row) = into.filter(|_| !is_found) {
            row.clear();
        }
        Ok(said)
    }

    fn enveloped<'a>(
        &mut self,
        schema: Option<&'a str>,
        value: &'a str,
        envelope: Envelope<'a>,
        key: Option<&'a str>,
        spare: &mut Spare,
    ) -> Result<Said<'a>, String> {
        let Some(op) = envelope.op else {
            return match envelope.is_other() {
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
                (Some(before), _) => Some(Image::of(before)),
                (None, Some(key)) => Some(Image::of(self.shapes.key(key)?.1)),
                (None, None) => {
                    return Err("a delete without `before` and without a key".to_owned());
                }
            },
            Operation::Insert | Operation::Update | Operation::Read => {
                let after = envelope.after.ok_or("a change event without `after`")?;
                let text = if envelope.found.is_some() { value } else { after };
                Some(Image { text: text.into(), found: envelope.found })
            }
        };
        let before = match operation {
            // A change of the key is a delete and an insert: there is nothing to look for in it.
            Operation::Delete | Operation::Update => envelope.before.filter(|_| self.spec.before),
            Operation::Insert | Operation::Read | Operation::Truncate => None,
        };
        let source = envelope.source.as_ref();
        Ok(Said::Change(Change {
            operation,
            image,
            before: before.map(Cow::Borrowed),
            position: self.position(source.map(|source| &source.place), spare)?,
            source_time: source.and_then(Source::time),
            encodings: self.encodings(schema, key),
            left_out: None,
            snapshot: source.and_then(|s| s.snapshot).filter(|_| operation == Operation::Read),
        }))
    }

    /// The row itself, with `__op`, `__deleted`, `__source_…` beside its columns, as far as the
    /// connector adds them.
    fn flattened<'a>(
        &mut self,
        schema: Option<&'a str>,
        payload: &'a str,
        key: Option<&'a str>,
        spare: &mut Spare,
    ) -> Result<Said<'a>, String> {
        let (mut op, mut deleted, mut source) = (None, false, Source::default());
        let read = |member: Beside, raw: &'a str| match member {
            Beside::Op => op = Some(plain(raw)),
            Beside::Deleted => deleted = plain(raw) == "true",
            Beside::Source(told) => source.note(told, raw),
            Beside::Column => {}
        };
        self.shapes.row.each(payload, read).map_err(|broken| not_json("value", broken))?;
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
            image: (operation != Operation::Truncate).then_some(Image::of(payload)),
            before: None,
            position: self.position(Some(&source.place), spare)?,
            source_time: source.time(),
            encodings: self.encodings(schema, key),
            left_out: None,
            snapshot: source.snapshot.filter(|_| operation == Operation::Read),
        }))
    }

    /// By column, what the schema of the row says.
    fn encodings(&mut self, schema: Option<&str>, key: Option<&str>) -> Option<Arc<[Encoding]>> {
        let schema = schema?;
        // A key that is broken, or by another converter, tells nothing.
        let key = key.and_then(|key| self.shapes.key(key).ok()).and_then(|(schema, _)| schema);
        let seen = |s: &Schemas| s.value == schema && s.key.as_deref() == key;
        match self.schemas.iter().position(seen) {
            Some(at) => self.schemas[..=at].rotate_right(1),
            None => {
                let schemas = self.schemas_of(schema, key)?;
                self.schemas.truncate(SCHEMAS_MAX - 1);
                self.schemas.insert(0, schemas);
            }
        }
        let schemas = &self.schemas[0];
        self.upstream = Some(schemas.upstream.clone());
        Some(schemas.encodings.clone())
    }

    /// None: the schema tells of no row.
    fn schemas_of(&self, value: &str, key: Option<&str>) -> Option<Schemas> {
        let row = match self.spec.unwrapped {
            true => value,
            false => field_schema(value, "after")?,
        };
        let fields = of_schema(row);
        let of = |column: &TopicColumn| {
            let names = [Some(&column.name), column.path.first()];
            let named = |(name, _): &&(String, Encoding)| names.contains(&Some(name));
            fields.iter().find(named).map_or(Encoding::Plain, |(_, encoding)| *encoding)
        };
        let names = |schema| upstream::columns(schema).into_iter().map(|column| column.name);
        let upstream =
            Upstream { columns: upstream::columns(row), key: key.map(|key| names(key).collect()) };
        Some(Schemas {
            value: value.to_owned(),
            key: key.map(str::to_owned),
            encodings: self.columns.iter().map(of).collect(),
            upstream: Arc::new(upstream),
        })
    }

    fn position(&self, place: Option<&Place<'_>>, spare: &mut Spare) -> Result<String, String> {
        match (self.spec.order, place) {
            (Order::Offset, _) => Ok(String::new()),
            (Order::Source, Some(place)) => place.position(spare.take()).ok_or_else(|| {
                "no position of the source's log in the event; with changes.order = \"offset\" \
                 Kafka's offsets are the order"
                    .to_owned()
            }),
            (Order::Source, None) => Err(
                "a tombstone has no position of the source's log; with changes.order = \"offset\" \
                 Kafka's offsets are the order"
                    .to_owned(),
            ),
        }
    }
}

impl Shapes {
    /// The value's own envelope, and that of the payload in it.
    fn envelope<'a>(
        &mut self,
        value: &'a str,
        into: &mut Option<Row<'_>>,
    ) -> Result<[Envelope<'a>; 2], Broken> {
        let mut found = <[Envelope<'_>; 2]>::default();
        let mut scan = Scanner::new(value);
        scan.skip_space();
        envelope(&mut self.envelopes, &mut self.source, &mut scan, &mut found, into)?;
        scan.finish()?;
        Ok(found)
    }

    /// Schema and payload of a key.
    fn key<'a>(&mut self, key: &'a str) -> Result<(Option<&'a str>, &'a str), String> {
        unpacked(&mut self.key, key).map_err(|broken| not_json("key", broken))
    }
}

impl<'a> Envelope<'a> {
    /// Schema and payload, where it is no envelope but holds one.
    fn packed(&self) -> Option<(&'a str, &'a str)> {
        self.schema.zip(self.payload).filter(|_| !self.others)
    }

    /// Whether it is no change of a row. A heartbeat is a time and nothing else.
    fn is_other(&self) -> bool {
        let is_empty = self.op.is_none() && self.after.is_none() && self.source.is_none();
        self.other || (is_empty && self.emitted_ms.is_some())
    }
}

/// Reads the object on which the scanner stands, and the payload in it as one of the level below.
fn envelope<'a>(
    shapes: &mut [Alike<Part>],
    source: &mut Alike<Told>,
    scan: &mut Scanner<'a>,
    found: &mut [Envelope<'a>],
    into: &mut Option<Row<'_>>,
) -> Result<(), Broken> {
    let (Some((shape, below)), Some((found, inner))) =
        (shapes.split_first_mut(), found.split_first_mut())
    else {
        return scan.value();
    };
    *found = Envelope::default();
    let mut members = shape.open(scan)?;
    while let Some(part) = members.next(scan)? {
        let start = scan.at;
        match part {
            Part::Payload if scan.peek() == Some(b'{') => {
                envelope(below, source, scan, inner, into)?;
                found.payload = Some(&scan.text[start..scan.at]);
                // The fields that were found are its own now.
                found.found = None;
                continue;
            }
            Part::Source if scan.peek() == Some(b'{') => {
                let mut told = Source::default();
                let mut members = source.open(scan)?;
                while let Some(member) = members.next(scan)? {
                    told.note(member, members.value(scan)?);
                }
                found.source = Some(told);
                found.others = true;
                continue;
            }
            Part::After if scan.peek() == Some(b'{') => {
                if let Some(row) = into {
                    found.found = Some(row.find(scan)?);
                    found.after = Some(&scan.text[start..scan.at]);
                    found.others = true;
                    continue;
                }
            }
            _ => {}
        }
        let raw = members.value(scan)?;
        match part {
            Part::Schema => found.schema = Some(raw),
            Part::Payload => found.payload = Some(raw),
            Part::Op => found.op = Some(plain(raw)),
            Part::Before => found.before = there(raw),
            Part::After => (found.after, found.found) = (there(raw), None),
            Part::Source if raw == "null" => found.source = None,
            Part::Source => return Err(Broken { at: start, why: "not an object" }),
            Part::EmittedMs => found.emitted_ms = raw.parse().ok(),
            Part::Border => found.other = true,
            Part::Unknown => {}
        }
        found.others |= !matches!(part, Part::Schema | Part::Payload);
    }
    Ok(())
}

/// Schema and payload of `{"schema": …, "payload": …}`; of anything else it is the payload.
fn unpacked<'a>(
    shape: &mut Alike<Part>,
    text: &'a str,
) -> Result<(Option<&'a str>, &'a str), Broken> {
    let (mut schema, mut payload, mut others) = (None, None, false);
    shape.each(text, |part, raw| match part {
        Part::Schema => schema = Some(raw),
        Part::Payload => payload = Some(raw),
        _ => others = true,
    })?;
    Ok(match (schema, payload) {
        (Some(schema), Some(payload)) if !others => (Some(schema), payload),
        _ => (None, text),
    })
}

impl Part {
    fn of(name: &str) -> Self {
        match name {
            "op" => Self::Op,
            "before" => Self::Before,
            "after" => Self::After,
            "source" => Self::Source,
            "ts_ms" => Self::EmittedMs,
            "status" | "ddl" | "databaseName" | "tableChanges" => Self::Border,
            "schema" => Self::Schema,
            "payload" => Self::Payload,
            _ => Self::Unknown,
        }
    }
}

impl Beside {
    fn of(name: &str) -> Self {
        match name {
            "__op" => Self::Op,
            "__deleted" => Self::Deleted,
            _ => match name.strip_prefix("__source_").or(name.strip_prefix("__")) {
                Some(name) => Self::Source(Told::of(name)),
                None => Self::Column,
            },
        }
    }
}
