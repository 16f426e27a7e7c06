//! Avro in a schema registry's frame, to the JSON that the same record would be.
//!
//! Owns: the frame, the binary encoding. Does not own: schemas (`schema`), asking a registry for
//! them (`source`), what the JSON says (`fields`, `debezium`).
//!
//! A record is read by the schema that it was written with; the declared columns are the reader's.
//! By Avro's rules of evolution fields go by name, what no column names is left out, what the
//! writer does not have is NULL where the column is optional, and numbers become wider ones. No
//! default of a registry's newest schema is taken: the same record would be another row tomorrow.
//!
//! Why not arrow-avro or apache-avro: the one reads a batch or none of it, so that one broken
//! record could not be told from the next; the other goes as deep as a record says, and a hostile
//! one of a million levels would end the process.

mod schema;

use super::text::quote;
use crate::{
    catalog::{Encoding, PgType, Pii, Topic, TopicColumn, Upstream},
    record::schemas::{SchemaId, Schemas, Told, framed},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use schema::{Schema, Type};
use std::{collections::HashMap, fmt::Write, sync::Arc};

/// Records, arrays and maps inside each other; as deep as JSON may go.
const DEPTH_MAX: u32 = 127;
/// Bytes of a record's JSON; what has no bytes of its own (null, an empty record) makes some.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Reads one topic's keys or values.
pub struct Avro {
    /// Those that are kept, in order.
    columns: Vec<TopicColumn>,
    /// The field of an event that is the row.
    row: Option<&'static str>,
    schemas: Arc<Schemas>,
    /// Read already, or what is wrong with them.
    parsed: HashMap<SchemaId, Result<Arc<Parsed>, String>>,
    keyed: Vec<Keyed>,
    /// Of the record that was read last.
    upstream: Option<Arc<Upstream>>,
}

struct Parsed {
    schema: Schema,
    encodings: Arc<[Encoding]>,
    /// The table of its rows; None: the schema is of no record with rows.
    upstream: Option<Arc<Upstream>>,
    /// Of the record itself, which a key's are.
    fields: Arc<[String]>,
}

/// A table with a key, and what it was put together from.
struct Keyed {
    row: Arc<Upstream>,
    key: Arc<[String]>,
    whole: Arc<Upstream>,
}

/// A record's JSON, and how its columns are written.
pub struct Text {
    pub json: String,
    pub encodings: Arc<[Encoding]>,
    pub upstream: Option<Arc<Upstream>>,
    pub fields: Arc<[String]>,
}

impl Avro {
    pub fn new(topic: &Topic, schemas: Arc<Schemas>) -> Self {
        let kept = topic.columns.iter().filter(|column| column.pii != Some(Pii::Drop));
        let whole = topic.changes.as_ref().is_some_and(|changes| !changes.unwrapped);
        let row = whole.then_some("after");
        Self {
            columns: kept.cloned().collect(),
            row,
            schemas,
            parsed: HashMap::new(),
            keyed: Vec::new(),
            upstream: None,
        }
    }

    /// The table of the record that was read last.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.upstream.as_ref()
    }

    /// Notes the table of a record of this value and key.
    pub fn note(&mut self, value: Option<&Text>, key: Option<&Text>) {
        let Some(row) = value.and_then(|text| text.upstream.as_ref()) else {
            self.upstream = None;
            return;
        };
        let Some(key) = key.map(|text| &text.fields) else {
            self.upstream = Some(row.clone());
            return;
        };
        let same = |k: &&Keyed| Arc::ptr_eq(&k.row, row) && Arc::ptr_eq(&k.key, key);
        let known = self.keyed.iter().find(same).map(|keyed| keyed.whole.clone());
        self.upstream = Some(known.unwrap_or_else(|| {
            let columns = row.columns.clone();
            let whole = Arc::new(Upstream { columns, key: Some(key.to_vec()) });
            self.keyed.push(Keyed { row: row.clone(), key: key.clone(), whole: whole.clone() });
            whole
        }));
    }

    /// What stands in a frame, written to `json`, which is empty. The reason of a refusal quotes nothing
    /// of it.
    pub fn read(&mut self, bytes: &[u8], mut json: String) -> Result<Text, String> {
        let (id, content) = framed(bytes).ok_or(
            "not in the frame of a schema registry: a zero and the schema's id in four bytes",
        )?;
        let parsed = self.parsed(id)?;
        let mut cursor = Cursor { bytes: content, at: 0, schema: &parsed.schema, depth: 0 };
        json.reserve(content.len() + parsed.schema.json_bytes());
        let read = cursor.value(parsed.schema.root(), &mut json).and_then(|()| cursor.finish());
        match read {
            Ok(()) => {
                let (encodings, fields) = (parsed.encodings.clone(), parsed.fields.clone());
                Ok(Text { json, encodings, upstream: parsed.upstream.clone(), fields })
            }
            Err(why) => {
                let at = cursor.at;
                Err(format!("not Avro of schema {id}: byte {at} after the frame: {why}"))
            }
        }
    }

    fn parsed(&mut self, id: SchemaId) -> Result<Arc<Parsed>, String> {
        if let Some(parsed) = self.parsed.get(&id) {
            return parsed.clone();
        }
        let texts = match self.schemas.get(id) {
            Some(Told::Schema(texts)) => texts,
            Some(Told::Denied(why)) => return Err(format!("schema {id}: {why}")),
            None => return Err(format!("schema {id} was not asked for")),
        };
        let parsed = match Schema::parse(&texts) {
            Ok(schema) => {
                // A key is the row's beginning itself.
                let found = self.row.and_then(|name| schema.field(schema.root(), name));
                let row = found.unwrap_or(schema.root());
                let encodings = self.columns.iter().map(|column| of_column(&schema, row, column));
                let encodings = encodings.collect();
                let has_rows = self.row.is_none() || found.is_some();
                let columns = schema.columns(row).filter(|columns| has_rows && !columns.is_empty());
                let upstream = columns.map(|columns| Arc::new(Upstream { columns, key: None }));
                let fields = schema.columns(schema.root()).into_iter().flatten();
                let fields = fields.map(|column| column.name).collect();
                Ok(Arc::new(Parsed { schema, encodings, upstream, fields }))
            }
            Err(why) => Err(format!("schema {id} is none of Avro: {why}")),
        };
        self.parsed.insert(id, parsed.clone());
        parsed
    }
}

/// How a column is written, by the schema of the row.
fn of_column(schema: &Schema, row: usize, column: &TopicColumn) -> Encoding {
    let own = column.path_is_default.then(|| vec![column.name.clone()]);
    let field =
        |path: &Vec<String>| path.iter().try_fold(row, |place, name| schema.field(place, name));
    let paths = own.iter().chain([&column.path]);
    let Some(place) = paths.filter_map(field).next() else { return Encoding::Plain };
    let place = schema.value_of(place);
    match (schema.encoding(place), column.pg) {
        // A number is wanted, as it stands.
        (
            Encoding::Days | Encoding::TimeOfDay(_) | Encoding::Instant(_) | Encoding::Duration(_),
            PgType::SmallInt | PgType::Integer | PgType::BigInt,
        ) => Encoding::Plain,
        (Encoding::Plain, PgType::Jsonb) if *schema.at(place) == Type::String => Encoding::Json,
        (encoding, _) => encoding,
    }
}

/// A place in a record's bytes.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    schema: &'a Schema,
    depth: u32,
}

type Why = &'static str;

impl<'a> Cursor<'a> {
    fn finish(&self) -> Result<(), Why> {
        match self.at == self.bytes.len() {
            true => Ok(()),
            false => Err("there is more after the end of the record"),
        }
    }

    /// The value as JSON.
    fn value(&mut self, place: usize, out: &mut String) -> Result<(), Why> {
        if out.len() > TEXT_BYTES_MAX {
            return Err("more than 64 MiB as JSON");
        }
        let schema = self.schema;
        match schema.at(place) {
            Type::Null => out.push_str("null"),
            Type::Boolean => match self.take(1)? {
                [0] => out.push_str("false"),
                [1] => out.push_str("true"),
                _ => return Err("a boolean is 0 or 1"),
            },
            Type::Int => match i32::try_from(self.long()?) {
                Ok(value) => number(out, value),
                Err(_) => return Err("an int of more than 32 bits"),
            },
            Type::Long => number(out, self.long()?),
            Type::Float => {
                let bytes = self.take(4)?.try_into().expect("four bytes");
                float(out, f32::from_le_bytes(bytes).into());
            }
            Type::Double => {
                let bytes = self.take(8)?.try_into().expect("eight bytes");
                float(out, f64::from_le_bytes(bytes));
            }
            Type::Bytes => {
                let len = self.len()?;
                base64(out, self.take(len)?);
            }
            Type::String => quote(self.text()?, out),
            Type::Fixed(size) => base64(out, self.take(*size)?),
            Type::Uuid => {
                let bytes = self.take(16)?.try_into().expect("sixteen bytes");
                let _ = write!(out, "\"{}\"", uuid::Uuid::from_bytes(bytes));
            }
            Type::Enum(symbols) => {
                let symbol = usize::try_from(self.long()?).ok().and_then(|at| symbols.get(at));
                out.push_str(symbol.ok_or("no such symbol of the enum")?);
            }
            Type::Union(branches) => {
                let branch = usize::try_from(self.long()?).ok().and_then(|at| branches.get(at));
                self.nested(|cursor| {
                    cursor.value(*branch.ok_or("no such branch of the union")?, out)
                })?;
            }
            Type::Record(fields) => self.nested(|cursor| {
                out.push('{');
                for (nth, field) in fields.iter().enumerate() {
                    out.push_str(if nth > 0 { "," } else { "" });
                    out.push_str(&field.key);
                    cursor.value(field.place, out)?;
                }
                out.push('}');
                Ok(())
            })?,
            Type::Array(items) => self.nested(|cursor| {
                out.push('[');
                cursor.blocks(out, |cursor, out| cursor.value(*items, out))?;
                out.push(']');
                Ok(())
            })?,
            Type::Map(values) => self.nested(|cursor| {
                out.push('{');
                cursor.blocks(out, |cursor, out| {
                    quote(cursor.text()?, out);
                    out.push(':');
                    cursor.value(*values, out)
                })?;
                out.push('}');
                Ok(())
            })?,
        }
        Ok(())
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<(), Why>) -> Result<(), Why> {
        if self.depth == DEPTH_MAX {
            return Err("more than 127 values inside each other");
        }
        self.depth += 1;
        let done = read(self);
        self.depth -= 1;
        done
    }

    /// Items in blocks, each with its count, until an empty one.
    fn blocks(
        &mut self,
        out: &mut String,
        mut item: impl FnMut(&mut Self, &mut String) -> Result<(), Why>,
    ) -> Result<(), Why> {
        let mut first = true;
        loop {
            let mut count = self.long()?;
            if count < 0 {
                // Then its size in bytes follows, for who would skip it.
                self.long()?;
                count = count.checked_neg().ok_or("a block of more items than there can be")?;
            }
            for _ in 0..count {
                out.push_str(if first { "" } else { "," });
                first = false;
                item(self, out)?;
            }
            if count == 0 {
                return Ok(());
            }
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Why> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or("the record ends too early")?;
        self.at += len;
        Ok(taken)
    }

    fn len(&mut self) -> Result<usize, Why> {
        usize::try_from(self.long()?).map_err(|_| "a length below zero")
    }

    fn text(&mut self) -> Result<&'a str, Why> {
        let len = self.len()?;
        std::str::from_utf8(self.take(len)?).map_err(|_| "a string that is not UTF-8")
    }

    /// Zigzag, seven bits a byte, the lowest first.
    fn long(&mut self) -> Result<i64, Why> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let &[byte] = self.take(1)? else { unreachable!("one byte was taken") };
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("an integer of more than 64 bits")
    }
}

fn number(out: &mut String, value: impl std::fmt::Display) {
    let _ = write!(out, "{value}");
}

/// The shortest text that is the same number again; what JSON has no number for, in quotes.
fn float(out: &mut String, value: f64) {
    let _ = match value {
        _ if value.is_nan() => write!(out, "\"NaN\""),
        f64::INFINITY => write!(out, "\"Infinity\""),
        f64::NEG_INFINITY => write!(out, "\"-Infinity\""),
        _ => write!(out, "{value:?}"),
    };
}

fn base64(out: &mut String, bytes: &[u8]) {
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(schema: &str, bytes: &[u8]) -> Result<String, Why> {
        let schema = Schema::parse(&[schema.to_owned()]).expect("a schema");
        let mut cursor = Cursor { bytes, at: 0, schema: &schema, depth: 0 };
        let mut out = String::new();
        cursor.value(schema.root(), &mut out)?;
        cursor.finish().map(|()| out)
    }

    #[test]
    fn values_are_read_as_the_specification_shows_them() {
        for (schema, bytes, json) in [
            (r#""long""#, &[0x80, 1][..], "64"),
            (r#""long""#, &[0x7f], "-64"),
            (
                r#""long""#,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
                "-9223372036854775808",
            ),
            (r#""string""#, b"\x06foo", "\"foo\""),
            (r#""string""#, b"\x04\"\n", "\"\\\"\\n\""),
            (r#""float""#, &[0, 0, 0xc0, 0x7f], "\"NaN\""),
            (r#""float""#, &0.1f32.to_le_bytes(), "0.10000000149011612"),
            (r#""double""#, &1e300f64.to_le_bytes(), "1e300"),
            (r#"{"type":"array","items":"long"}"#, &[4, 6, 0x36, 0], "[3,27]"),
            (r#"{"type":"array","items":"long"}"#, &[3, 4, 6, 0x36, 2, 2, 0], "[3,27,1]"),
            (r#"{"type":"map","values":"int"}"#, b"\x02\x02a\x02\x00", "{\"a\":1}"),
            (r#"["null","string"]"#, &[2, 2, 0x61], "\"a\""),
            (r#"["null","string"]"#, &[0], "null"),
            (r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, &[2], "\"B\""),
            (r#"{"type":"fixed","name":"F","size":3}"#, b"foo", "\"Zm9v\""),
            (
                r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"b","type":"string"}]}"#,
                b"\x36\x06foo",
                "{\"a\":27,\"b\":\"foo\"}",
            ),
        ] {
            assert_eq!(written(schema, bytes).as_deref(), Ok(json), "{schema}");
        }
    }

    #[test]
    fn what_no_record_can_be_is_refused_without_more_than_its_bytes_cost() {
        let itself = r#"{"type":"record","name":"R","fields":[{"name":"r","type":"R"}]}"#;
        let huge = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        for (schema, bytes, why) in [
            (r#""long""#, &[0x80][..], "ends too early"),
            (r#""long""#, &[0xff; 11], "64 bits"),
            (r#""long""#, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], "64 bits"),
            (r#""int""#, &[0xff, 0xff, 0xff, 0xff, 0x1f], "32 bits"),
            (r#""boolean""#, &[2], "0 or 1"),
            (r#""string""#, &[1], "below zero"),
            (r#""string""#, &huge, "ends too early"),
            (r#""string""#, &[2, 0xff], "not UTF-8"),
            (r#"["null"]"#, &[2], "no such branch"),
            (r#"{"type":"enum","name":"E","symbols":["A"]}"#, &[2], "no such symbol"),
            (r#"{"type":"array","items":"null"}"#, &huge, "64 MiB"),
            (itself, &[], "127 values"),
            (r#""null""#, &[0], "more after the end"),
        ] {
            let refused = written(schema, bytes).expect_err("not Avro");
            assert!(refused.contains(why), "{schema}: {refused}");
        }
    }
}
