//! Avro in a registry's frame: types, evolution, and Debezium's captured events, which must be the
//! rows that they are in JSON. What is written here is Avro as the specification has it, without a
//! schema to go by.

use super::{
    debezium::{ALL_TYPES, CUSTOMERS},
    messages::{Message, captured, declared, lines, reasons, records},
};
use crate::{
    catalog::Topic,
    decode::{Decoded, Decoder},
    record::schemas::{SchemaId, Schemas, Told},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};
use std::{collections::HashMap, sync::Arc};

/// A registry's schemas, and their ids.
#[derive(Default)]
pub struct Registered {
    pub schemas: Arc<Schemas>,
    ids: HashMap<String, SchemaId>,
}

/// A value, as it is written.
pub enum Value {
    Null,
    Boolean(bool),
    /// An int or a long, the place of an enum's symbol.
    Long(i64),
    Float(f32),
    Double(f64),
    Bytes(Vec<u8>),
    String(String),
    /// Of a union: which branch.
    Branch(i64, Box<Value>),
    /// A record's.
    Fields(Vec<Value>),
    Array(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => {}
            Self::Boolean(value) => out.push(u8::from(*value)),
            Self::Long(value) => long(*value, out),
            Self::Float(value) => out.extend(value.to_le_bytes()),
            Self::Double(value) => out.extend(value.to_le_bytes()),
            Self::Bytes(bytes) => {
                long(bytes.len() as i64, out);
                out.extend(bytes);
            }
            Self::String(text) => Self::Bytes(text.as_bytes().to_vec()).write(out),
            Self::Branch(branch, value) => {
                long(*branch, out);
                value.write(out);
            }
            Self::Fields(fields) => fields.iter().for_each(|field| field.write(out)),
            // In blocks of one, each with its size: what a writer may do.
            Self::Array(items) => {
                items.iter().for_each(|item| block(out, |out| item.write(out)));
                long(0, out);
            }
            Self::Map(items) => {
                for (key, item) in items {
                    block(out, |out| {
                        text(key).write(out);
                        item.write(out);
                    });
                }
                long(0, out);
            }
        }
    }
}

fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn block(out: &mut Vec<u8>, write: impl Fn(&mut Vec<u8>)) {
    let mut item = Vec::new();
    write(&mut item);
    long(-1, out);
    long(item.len() as i64, out);
    out.extend(item);
}

impl Registered {
    /// The value in a frame; its schema is registered where it is not yet.
    pub fn framed(&mut self, schema: &Json, value: Value) -> Vec<u8> {
        let text = schema.to_string();
        let next = SchemaId(300 + self.ids.len() as u32);
        let id = *self.ids.entry(text.clone()).or_insert(next);
        self.schemas.tell(id, Told::Schema([text].into()));
        let mut bytes = [&[0][..], &id.0.to_be_bytes()].concat();
        value.write(&mut bytes);
        bytes
    }

    pub fn decode(&self, topic: &Arc<Topic>, messages: &[Message]) -> Decoded {
        self.decoder(topic).decode(&records(messages))
    }

    pub fn decoder(&self, topic: &Arc<Topic>) -> Decoder {
        Decoder::with_schemas(topic.clone(), None, self.schemas.clone())
    }
}

fn value(bytes: Vec<u8>) -> Message {
    Message { offset: 0, key: None, value: Some(bytes) }
}

const COLUMNS: &str = r#"id = "bigint"
name = { type = "text", optional = true }
fare = { type = "numeric(9,2)", optional = true }
day = { type = "date", optional = true }
clock = { type = "text", optional = true }
at = { type = "timestamptz", optional = true }
at_ms = { type = "bigint", optional = true }
seen = { type = "timestamptz", optional = true, encoding = "timestamp-s" }
single = { type = "real", optional = true }
ratio = { type = "double precision", optional = true }
ok = { type = "boolean", optional = true }
raw = { type = "bytea", optional = true }
code = { type = "uuid", optional = true }
kind = { type = "text", optional = true }
tags = { type = "jsonb", optional = true }
doc = { type = "jsonb", optional = true }
stop = { type = "text", from = "/place/stop", optional = true }"#;

fn all_types() -> Json {
    json!({"type": "record", "name": "taps.Tap", "fields": [
        {"name": "id", "type": "long"},
        {"name": "name", "type": ["null", "string"], "default": null},
        {"name": "fare", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}]},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "clock", "type": {"type": "long", "logicalType": "time-micros"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "atMs", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "seen", "type": "long"},
        {"name": "single", "type": "float"},
        {"name": "ratio", "type": "double"},
        {"name": "ok", "type": "boolean"},
        {"name": "raw", "type": "bytes"},
        {"name": "code", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["IN", "OUT"]}},
        {"name": "tags", "type": {"type": "array", "items": ["null", "string"]}},
        {"name": "doc", "type": "string"},
        {"name": "place", "type": ["null", {"type": "record", "name": "Place", "fields": [{"name": "stop", "type": "string"}]}]},
    ]})
}

fn some(value: Value) -> Value {
    Value::Branch(1, Box::new(value))
}

fn none() -> Value {
    Value::Branch(0, Box::new(Value::Null))
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn tap() -> Value {
    Value::Fields(vec![
        Value::Long(i64::MIN),
        some(text("Zoë \"Z\" 🔥")),
        some(Value::Bytes((-325i16).to_be_bytes().to_vec())),
        Value::Long(19782),
        Value::Long(45_296_789_012),
        Value::Long(1_709_210_096_789_012),
        Value::Long(1_709_210_096_789),
        Value::Long(1_709_210_096),
        Value::Float(0.1),
        Value::Double(f64::NEG_INFINITY),
        Value::Boolean(true),
        Value::Bytes(vec![0, 255, 16]),
        text("123e4567-e89b-12d3-a456-426614174000"),
        Value::Long(1),
        Value::Array(vec![some(text("a")), none()]),
        text("{\"a\": [1, null]}"),
        some(Value::Fields(vec![text("N15")])),
    ])
}

/// For the test that cuts: one message of all types.
pub fn tap_message() -> (Registered, Arc<Topic>, Message) {
    let mut registered = Registered::default();
    let message = value(registered.framed(&all_types(), tap()));
    (registered, declared("avro", "registry = \"file:schemas\"", COLUMNS), message)
}

/// The same record as fastavro 1.13 wrote it, in hexadecimal.
const OF_FASTAVRO: &str = "ffffffffffffffffff01021a5a6fc3ab20225a2220f09f94a50204febb8cb502a898b1be\
d102a898d3ca8fa18906aad2e2cdbe63e0e783de0ccdcccc3d000000000000f0ff010600ff1048313233653435363\
72d653839622d313264332d613435362d34323636313431373430303002040202610000207b2261223a205b312c20\
6e756c6c5d7d02064e3135";

#[test]
fn every_type_comes_out_whole_and_as_another_writer_wrote_it() {
    let (registered, topic, message) = tap_message();
    let hex = OF_FASTAVRO.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("hex"));
    let datum: Vec<u8> = hex.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect();
    let frame = message.value.clone().expect("a value")[..5].to_vec();
    let decoded = registered.decode(&topic, &[message, value([frame, datum].concat())]);
    assert_eq!(reasons(&decoded), [""; 0]);
    let columns: Vec<&str> = topic.columns.iter().map(|column| column.name.as_str()).collect();
    let expected = "-9223372036854775808 Zoë \"Z\" 🔥 -325 19782 12:34:56.789012 \
                    1709210096789012 1709210096789 1709210096000000 0.1 -inf true [0, 255, 16] \
                    123e4567-e89b-12d3-a456-426614174000 OUT [\"a\",null] {\"a\": [1, null]} N15";
    assert_eq!(lines(&decoded, &columns), [expected; 2]);
}

#[test]
fn records_of_several_schemas_are_read_by_the_columns() {
    let mut registered = Registered::default();
    let topic = declared(
        "avro",
        "",
        "id = \"bigint\"\nname = { type = \"text\", optional = true }\nratio = { type = \"double precision\", optional = true }",
    );
    let of = |fields: Json| json!({"type": "record", "name": "R", "fields": fields});
    // Narrower numbers, no name; then wider ones, another order, a field that no column names.
    let first = of(json!([{"name": "id", "type": "int"}, {"name": "ratio", "type": "float"}]));
    let second = of(json!([
        {"name": "name", "type": "string"},
        {"name": "more", "type": {"type": "map", "values": "long"}},
        {"name": "ratio", "type": ["double", "null"]},
        {"name": "id", "type": "long"},
    ]));
    let missing = of(json!([{"name": "name", "type": "string"}]));
    let more = Value::Map(vec![("x".to_owned(), Value::Long(1)), ("y".to_owned(), Value::Long(2))]);
    let second_value =
        vec![text("b"), more, Value::Branch(1, Box::new(Value::Null)), Value::Long(1 << 40)];
    let messages = [
        value(registered.framed(&first, Value::Fields(vec![Value::Long(7), Value::Float(0.5)]))),
        value(registered.framed(&second, Value::Fields(second_value))),
        value(registered.framed(&missing, Value::Fields(vec![text("c")]))),
    ];
    let decoded = registered.decode(&topic, &messages);
    assert_eq!(lines(&decoded, &["id", "name", "ratio"]), ["7 - 0.5", "1099511627776 b -"]);
    assert_eq!(decoded.unknown_fields, 1);
    assert_eq!(reasons(&decoded), ["the field is absent and the column is not optional"]);
}

#[test]
fn what_is_not_in_a_known_schema_is_a_reject_with_its_reason() {
    let (registered, topic, message) = tap_message();
    registered.schemas.tell(SchemaId(1), Told::Denied("the schema registry has none".into()));
    registered.schemas.tell(SchemaId(2), Told::Schema(["[".to_owned()].into()));
    let framed = |id: u32, rest: &[u8]| value([&[0][..], &id.to_be_bytes(), rest].concat());
    let whole = message.value.clone().expect("a value");
    for (message, reason) in [
        (value(b"{}".to_vec()), "not in the frame of a schema registry"),
        (value(vec![]), "not in the frame"),
        (framed(1, b"x"), "schema 1: the schema registry has none"),
        (framed(2, b"x"), "schema 2 is none of Avro: no JSON"),
        (framed(3, b"x"), "schema 3 was not asked for"),
        (value(whole[..9].to_vec()), "byte 4 after the frame: the record ends too early"),
        (value([&whole[..], b"x"].concat()), "there is more after the end"),
        (Message { offset: 0, key: None, value: None }, "a tombstone"),
    ] {
        let decoded = registered.decode(&topic, &[message]);
        assert!(reasons(&decoded)[0].contains(reason), "{reason}: {:?}", decoded.rejects);
    }
}

/// A schema of Connect's as its converter to Avro (AvroData) writes it; `defined` are the names so
/// far.
fn of_connect(schema: &Json, defined: &mut Vec<String>) -> Json {
    let name = schema["name"].as_str();
    let kind = schema["type"].as_str().expect("a type");
    let mut plain = match kind {
        "struct" => {
            let full = name.unwrap_or("ConnectDefault").to_owned();
            if defined.contains(&full) {
                json!(full)
            } else {
                defined.push(full.clone());
                let fields = schema["fields"].as_array().expect("fields").iter();
                let fields: Vec<Json> = fields
                    .map(|f| json!({"name": f["field"], "type": of_connect(f, defined)}))
                    .collect();
                json!({"type": "record", "name": full, "fields": fields})
            }
        }
        "array" => json!({"type": "array", "items": of_connect(&schema["items"], defined)}),
        "map" => json!({"type": "map", "values": of_connect(&schema["values"], defined)}),
        "int8" | "int16" => json!({"type": "int", "connect.type": kind}),
        "int32" => json!({"type": "int"}),
        "int64" => json!({"type": "long"}),
        _ => json!({"type": kind}),
    };
    if let (Some(name), Some(object)) = (name, plain.as_object_mut()) {
        object.insert("connect.name".to_owned(), json!(name));
        if schema["parameters"].is_object() {
            object.insert("connect.parameters".to_owned(), schema["parameters"].clone());
        }
        if name == "org.apache.kafka.connect.data.Decimal" {
            let scale: u32 = schema["parameters"]["scale"].as_str().unwrap().parse().unwrap();
            object.insert("logicalType".to_owned(), json!("decimal"));
            object.insert("scale".to_owned(), json!(scale));
            object.insert("precision".to_owned(), json!(38));
        }
    }
    match schema["optional"].as_bool() {
        Some(true) => json!(["null", plain]),
        _ => plain,
    }
}

/// What is none in JSON stands there as a text.
fn number(payload: &Json) -> f64 {
    let named = || payload.as_str().expect("a text").parse().expect("NaN or infinite");
    payload.as_f64().unwrap_or_else(named)
}

/// A payload of Connect's JSON as a value of that schema.
fn of_payload(schema: &Json, payload: &Json) -> Value {
    let is_optional = schema["optional"].as_bool() == Some(true);
    if is_optional && payload.is_null() {
        return none();
    }
    let plain = match schema["type"].as_str().expect("a type") {
        "struct" => {
            let fields = schema["fields"].as_array().expect("fields").iter();
            let field = |f: &Json| of_payload(f, &payload[f["field"].as_str().expect("a name")]);
            Value::Fields(fields.map(field).collect())
        }
        "array" => {
            let items = payload.as_array().expect("an array").iter();
            Value::Array(items.map(|item| of_payload(&schema["items"], item)).collect())
        }
        "map" => {
            let items = payload.as_object().expect("a map").iter();
            let item = |(key, v): (&String, _)| (key.clone(), of_payload(&schema["values"], v));
            Value::Map(items.map(item).collect())
        }
        "int8" | "int16" | "int32" | "int64" => Value::Long(payload.as_i64().expect("a number")),
        "float" => Value::Float(number(payload) as f32),
        "double" => Value::Double(number(payload)),
        "boolean" => Value::Boolean(payload.as_bool().expect("a boolean")),
        "string" => text(payload.as_str().expect("a text")),
        "bytes" => Value::Bytes(STANDARD.decode(payload.as_str().expect("text")).expect("base64")),
        other => panic!("no type of Connect's: {other}"),
    };
    match is_optional {
        true => some(plain),
        false => plain,
    }
}

/// The messages of Connect's JSON with schemas, in Avro.
fn in_avro(registered: &mut Registered, messages: &[Message]) -> Vec<Message> {
    let mut part = |bytes: &Option<Vec<u8>>| {
        let json: Json = serde_json::from_slice(bytes.as_ref()?).expect("JSON");
        let schema = of_connect(&json["schema"], &mut Vec::new());
        Some(registered.framed(&schema, of_payload(&json["schema"], &json["payload"])))
    };
    messages
        .iter()
        .map(|m| Message { offset: m.offset, key: part(&m.key), value: part(&m.value) })
        .collect()
}

#[test]
fn debeziums_captured_events_are_the_same_rows_in_avro_as_in_json() {
    let postgres = "postgres_json_schemas.jsonl";
    let docs = "id = \"integer\"\ntitle = \"text\"\nbody = { type = \"text\", optional = true }";
    let orders = "tenant = \"text\"\norder_id = \"integer\"\nitem = \"text\"\nqty = \"integer\"";
    let items =
        "id = \"integer\"\nname = \"text\"\nprice = { type = \"numeric(10,2)\", optional = true }
made = { type = \"date\", optional = true }\nt = { type = \"text\", optional = true }
dt = { type = \"timestamptz\", optional = true }\nts = { type = \"timestamptz\", optional = true }";
    let key = "[changes]\nkey = [\"id\"]";
    let full = "[changes]\nkey = [\"id\"]\nbefore = \"full\"";
    let two = "[changes]\nkey = [\"tenant\", \"order_id\"]\nbefore = \"full\"";
    for (file, name, changes, columns, rows) in [
        (postgres, "pgschema.inventory.alltypes", key, ALL_TYPES, 4),
        (postgres, "pgschema.inventory.customers", key, CUSTOMERS, 11),
        (postgres, "pgschema.inventory.docs", key, docs, 5),
        (postgres, "pgschema.inventory.orders", two, orders, 6),
        ("mariadb_json_schemas.jsonl", "maschema.shop.items", full, items, 11),
        ("mariadb_json_schemas.jsonl", "maschema", full, items, 0),
    ] {
        let Some(messages) = captured(file, name) else { return };
        let json = super::messages::decode(&declared("debezium-json", changes, columns), &messages);
        let mut registered = Registered::default();
        let messages = in_avro(&mut registered, &messages);
        let topic = declared("debezium-avro", changes, columns);
        let avro = registered.decode(&topic, &messages);
        assert_eq!(avro.rows, json.rows, "{name}");
        assert_eq!(avro.empty, json.empty, "{name}");
        let refused = |decoded: &Decoded| -> Vec<_> {
            decoded.rejects.iter().map(|r| (r.record, r.column.clone())).collect()
        };
        assert_eq!(refused(&avro), refused(&json), "{name}");
        assert!(json.rows.num_rows() >= rows, "{name}: {} rows", json.rows.num_rows());
    }
}

/// Of the table with all types.
pub fn captured_in_avro() -> Option<(Registered, Arc<Topic>, Vec<Message>)> {
    let messages = captured("postgres_json_schemas.jsonl", "pgschema.inventory.alltypes")?;
    let mut registered = Registered::default();
    let messages = in_avro(&mut registered, &messages);
    let topic = declared("debezium-avro", "[changes]\nkey = [\"id\"]", ALL_TYPES);
    Some((registered, topic, messages))
}

#[test]
fn a_tombstone_deletes_by_a_key_in_avro_and_flattened_rows_are_read_by_their_own_schema() {
    let mut registered = Registered::default();
    let day = json!({"type": "int", "connect.name": "io.debezium.time.Date"});
    let key = json!({"type": "record", "name": "Key", "fields": [{"name": "day", "type": day}]});
    let row = json!({"type": "record", "name": "Row", "fields": [
        {"name": "day", "type": day}, {"name": "after", "type": "string"},
        {"name": "__op", "type": "string"}, {"name": "__lsn", "type": "long"}]});
    let key_bytes = registered.framed(&key, Value::Fields(vec![Value::Long(19782)]));
    let fields = vec![Value::Long(1), text("x"), text("u"), Value::Long(9)];
    let row_bytes = registered.framed(&row, Value::Fields(fields));
    let changes =
        "[changes]\nkey = [\"day\"]\nunwrapped = true\ntombstones = \"delete\"\norder = \"offset\"";
    let topic = declared("debezium-avro", changes, "day = \"date\"\nafter = \"text\"");
    let messages = [
        // Keys are written by another converter, and not needed.
        Message { offset: 0, key: Some(b"plain".to_vec()), value: Some(row_bytes) },
        Message { offset: 1, key: Some(key_bytes), value: None },
        Message { offset: 2, key: Some(b"plain".to_vec()), value: None },
    ];
    let decoded = registered.decode(&topic, &messages);
    assert_eq!(lines(&decoded, &["_op", "day", "after"]), ["update 1 x", "delete 19782 -"]);
    assert_eq!(reasons(&decoded), ["a record without key and value says not what is deleted"]);
}
