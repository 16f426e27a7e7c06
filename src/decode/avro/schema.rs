//! A schema of Avro, read.
//!
//! Owns: types, names and references between them, what a type's attributes say of its values.
//! Does not own: values (`avro`).
//!
//! Why not apache-avro's parser: it drops the attributes of primitive types, and there stand
//! Connect's names (`io.debezium.time.MicroTimestamp`).
//!
//! Sources: Avro's specification 1.12; the mapping of Confluent's AvroData (`connect.name`,
//! `connect.parameters`).

use crate::{
    catalog::{Encoding, PgType, Unit, drift::UpstreamColumn},
    decode::{
        encoding::of_semantic_type,
        text::quote,
        upstream::{decimal, is_added_by_flattening, natural},
    },
};
use serde_json::Value;
use std::collections::HashMap;

/// Types, each at a place, since a record may hold itself.
#[derive(Debug)]
pub struct Schema {
    types: Vec<(Type, Encoding)>,
    /// By place, where its attributes name another type than its values have.
    natural: HashMap<usize, PgType>,
    root: usize,
    json_bytes: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    /// Sixteen bytes.
    Uuid,
    /// Symbols, as JSON.
    Enum(Vec<String>),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<Field>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    /// `"name":`, as in an object.
    pub key: String,
    pub place: usize,
}

impl Type {
    /// Keys, each with a comma and a value's quotes or digits.
    fn json_bytes(&self) -> usize {
        match self {
            Self::Record(fields) => fields.iter().map(|field| field.key.len() + 12).sum(),
            Self::Null | Self::Boolean | Self::Int | Self::Long | Self::Float | Self::Double => 0,
            Self::Bytes | Self::String | Self::Fixed(_) | Self::Uuid | Self::Enum(_) => 0,
            Self::Array(_) | Self::Map(_) | Self::Union(_) => 0,
        }
    }
}

/// Reads one schema after the other.
struct Parser {
    types: Vec<(Type, Encoding)>,
    natural: HashMap<usize, PgType>,
    /// By full name.
    names: HashMap<String, usize>,
}

impl Schema {
    /// Of the last of these texts; those before it are what it refers to.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        let mut parser =
            Parser { types: Vec::new(), natural: HashMap::new(), names: HashMap::new() };
        let mut root = None;
        for text in texts {
            let value: Value = serde_json::from_str(text).map_err(|e| format!("no JSON: {e}"))?;
            root = Some(parser.read(&value, "")?);
        }
        let root = root.ok_or("nothing at all")?;
        let json_bytes = parser.types.iter().map(|(kind, _)| kind.json_bytes()).sum();
        Ok(Self { types: parser.types, natural: parser.natural, root, json_bytes })
    }

    /// How much longer than its bytes a record is as JSON; a guess.
    pub fn json_bytes(&self) -> usize {
        self.json_bytes
    }

    pub fn root(&self) -> usize {
        self.root
    }

    pub fn at(&self, place: usize) -> &Type {
        &self.types[place].0
    }

    pub fn encoding(&self, place: usize) -> Encoding {
        self.types[place].1
    }

    /// The field of a record, which may be in a union with null.
    pub fn field(&self, place: usize, name: &str) -> Option<usize> {
        let Type::Record(fields) = self.at(self.value_of(place)) else { return None };
        fields.iter().find(|field| field.name == name).map(|field| field.place)
    }

    /// The fields of a record as columns of a table; None: it is no record.
    pub fn columns(&self, place: usize) -> Option<Vec<UpstreamColumn>> {
        let Type::Record(fields) = self.at(self.value_of(place)) else { return None };
        let columns = fields.iter().filter(|field| !is_added_by_flattening(&field.name));
        let column = |field: &Field| {
            let place = self.value_of(field.place);
            let pg = self.natural.get(&place).copied().unwrap_or_else(|| match self.at(place) {
                Type::Boolean => PgType::Boolean,
                Type::Int => PgType::Integer,
                Type::Long => PgType::BigInt,
                Type::Float => PgType::Real,
                Type::Double => PgType::Double,
                Type::Bytes | Type::Fixed(_) => PgType::Bytea,
                Type::Uuid => PgType::Uuid,
                Type::Null | Type::String | Type::Enum(_) => PgType::Text,
                Type::Array(_) | Type::Map(_) | Type::Union(_) | Type::Record(_) => PgType::Jsonb,
            });
            UpstreamColumn { name: field.name.clone(), pg }
        };
        Some(columns.map(column).collect())
    }

    /// What a union with null holds beside it.
    pub fn value_of(&self, place: usize) -> usize {
        let Type::Union(branches) = self.at(place) else { return place };
        let mut others = branches.iter().filter(|branch| *self.at(**branch) != Type::Null);
        match (others.next(), others.next()) {
            (Some(only), None) => *only,
            _ => place,
        }
    }
}

impl Parser {
    fn put(&mut self, kind: Type, encoding: Encoding) -> usize {
        self.types.push((kind, encoding));
        self.types.len() - 1
    }

    fn read(&mut self, value: &Value, namespace: &str) -> Result<usize, String> {
        match value {
            Value::String(name) => self.named(name, namespace, &Value::Null),
            Value::Array(branches) => {
                let branches: Result<Vec<_>, _> =
                    branches.iter().map(|branch| self.read(branch, namespace)).collect();
                Ok(self.put(Type::Union(branches?), Encoding::Plain))
            }
            Value::Object(object) => match object.get("type") {
                Some(Value::String(kind)) => self.complex(kind, value, namespace),
                Some(inner) => self.read(inner, namespace),
                None => Err("a type without `type`".to_owned()),
            },
            _ => Err("a type that is neither a name nor an object nor an array".to_owned()),
        }
    }

    /// A primitive type with its attributes, or a type defined before.
    fn named(&mut self, name: &str, namespace: &str, value: &Value) -> Result<usize, String> {
        let kind = match name {
            "null" => Type::Null,
            "boolean" => Type::Boolean,
            "int" => Type::Int,
            "long" => Type::Long,
            "float" => Type::Float,
            "double" => Type::Double,
            "bytes" => Type::Bytes,
            "string" => Type::String,
            _ => {
                let full = full_name(name, namespace);
                let found = self.names.get(&full).or_else(|| self.names.get(name));
                return found.copied().ok_or_else(|| format!("an unknown type `{name}`"));
            }
        };
        let place = self.put(kind, encoding(value));
        self.natural.extend(named_type(value).map(|pg| (place, pg)));
        Ok(place)
    }

    fn complex(&mut self, kind: &str, value: &Value, namespace: &str) -> Result<usize, String> {
        let inner = |key: &str| value.get(key).ok_or_else(|| format!("an {kind} without `{key}`"));
        match kind {
            "array" => {
                let items = self.read(inner("items")?, namespace)?;
                Ok(self.put(Type::Array(items), encoding(value)))
            }
            "map" => {
                let values = self.read(inner("values")?, namespace)?;
                Ok(self.put(Type::Map(values), encoding(value)))
            }
            "record" | "error" | "enum" | "fixed" => self.definition(kind, value, namespace),
            _ => self.named(kind, namespace, value),
        }
    }

    fn definition(&mut self, kind: &str, value: &Value, namespace: &str) -> Result<usize, String> {
        let name = value["name"].as_str().ok_or_else(|| format!("{kind} without a name"))?;
        let own = value["namespace"].as_str().unwrap_or(namespace);
        let full = full_name(name, own);
        // Names in it are of its namespace.
        let namespace = full.rsplit_once('.').map_or("", |(space, _)| space).to_owned();
        let place = self.put(Type::Null, encoding(value));
        self.natural.extend(named_type(value).map(|pg| (place, pg)));
        if self.names.insert(full.clone(), place).is_some() {
            return Err(format!("two types of the name `{full}`"));
        }
        let list = |key: &str| value[key].as_array().ok_or_else(|| format!("{kind} without {key}"));
        self.types[place].0 = match kind {
            "enum" => {
                let symbol = |symbol: &Value| symbol.as_str().map(quoted);
                let symbols: Option<Vec<_>> = list("symbols")?.iter().map(symbol).collect();
                Type::Enum(symbols.ok_or("an enum with a symbol that is no text")?)
            }
            "fixed" => {
                let size = value["size"].as_u64().and_then(|size| usize::try_from(size).ok());
                match (size.ok_or("a fixed without `size`")?, value["logicalType"].as_str()) {
                    (16, Some("uuid")) => Type::Uuid,
                    (size, _) => Type::Fixed(size),
                }
            }
            _ => {
                let mut fields = Vec::new();
                for field in list("fields")? {
                    let name = field["name"].as_str().ok_or("a field without a name")?;
                    let kind = field.get("type").ok_or("a field without `type`")?;
                    let place = self.read(kind, &namespace)?;
                    let key = format!("{}:", quoted(name));
                    fields.push(Field { name: name.to_owned(), key, place });
                }
                Type::Record(fields)
            }
        };
        Ok(place)
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    quote(text, &mut out);
    out
}

fn full_name(name: &str, namespace: &str) -> String {
    match name.contains('.') || namespace.is_empty() {
        true => name.to_owned(),
        false => format!("{namespace}.{name}"),
    }
}

/// How a type's attributes say that its values are written.
fn encoding(value: &Value) -> Encoding {
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let scale = number(&value["scale"]).or_else(|| number(&value["connect.parameters"]["scale"]));
    let scale = scale.and_then(|scale| i8::try_from(scale).ok()).unwrap_or(0);
    let connect = value["connect.name"].as_str();
    match connect.map_or(Encoding::Plain, |name| of_semantic_type(name, scale)) {
        Encoding::Plain => {}
        known => return known,
    }
    match value["logicalType"].as_str().unwrap_or_default() {
        "decimal" => Encoding::Decimal(scale),
        "date" => Encoding::Days,
        "time-millis" => Encoding::TimeOfDay(Unit::Millis),
        "time-micros" => Encoding::TimeOfDay(Unit::Micros),
        "timestamp-millis" | "local-timestamp-millis" => Encoding::Instant(Unit::Millis),
        "timestamp-micros" | "local-timestamp-micros" => Encoding::Instant(Unit::Micros),
        "timestamp-nanos" | "local-timestamp-nanos" => Encoding::Instant(Unit::Nanos),
        _ => Encoding::Plain,
    }
}

/// The type that attributes name; None: the values' own.
fn named_type(value: &Value) -> Option<PgType> {
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let parameters = &value["connect.parameters"];
    let scale = number(&value["scale"]).or_else(|| number(&parameters["scale"]));
    let precision = number(&value["precision"]);
    let precision = precision.or_else(|| number(&parameters["connect.decimal.precision"]));
    let digits = (
        precision.and_then(|precision| u8::try_from(precision).ok()),
        scale.and_then(|scale| i8::try_from(scale).ok()),
    );
    let connect = value["connect.name"].as_str().unwrap_or_default();
    let semantic = natural("", connect, digits);
    // What it does not know is text to it.
    if semantic != PgType::Text || connect.starts_with("io.debezium.time.") {
        return Some(semantic);
    }
    match value["logicalType"].as_str().unwrap_or_default() {
        "decimal" => Some(decimal(digits)),
        "date" => Some(PgType::Date),
        "time-millis" | "time-micros" => Some(PgType::Text),
        "uuid" => Some(PgType::Uuid),
        timestamp if timestamp.contains("timestamp-") => Some(PgType::Timestamptz),
        _ => match value["connect.type"].as_str() {
            Some("int8" | "int16") => Some(PgType::SmallInt),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Schema, String> {
        Schema::parse(&[text.to_owned()])
    }

    #[test]
    fn names_are_found_in_their_namespace_and_a_record_may_hold_itself() {
        let schema = parse(
            r#"{"type":"record","name":"a.b.Envelope","fields":[
                {"name":"before","type":["null",{"type":"record","name":"Value","fields":[
                    {"name":"id","type":{"type":"long","connect.name":"io.debezium.time.MicroTimestamp"}},
                    {"name":"next","type":["null","Value"]}]}]},
                {"name":"after","type":["null","a.b.Value"]}]}"#,
        )
        .expect("a schema");
        let after = schema.field(schema.root(), "after").expect("a field");
        let next = schema.field(after, "next").expect("a field");
        let id = schema.field(next, "id").expect("a field");
        assert_eq!(schema.encoding(id), Encoding::Instant(Unit::Micros));
        assert_eq!(schema.at(id), &Type::Long);
    }

    #[test]
    fn attributes_say_how_values_are_written() {
        for (text, expected) in [
            (
                r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#,
                Encoding::Decimal(2),
            ),
            (
                r#"{"type":"bytes","connect.name":"org.apache.kafka.connect.data.Decimal","connect.parameters":{"scale":"4"}}"#,
                Encoding::Decimal(4),
            ),
            (r#"{"type":"int","logicalType":"date"}"#, Encoding::Days),
            (
                r#"{"type":{"type":"long","logicalType":"timestamp-millis"}}"#,
                Encoding::Instant(Unit::Millis),
            ),
            (r#"{"type":"string","connect.name":"io.debezium.data.Json"}"#, Encoding::Json),
            (r#"{"type":"string","connect.name":"io.debezium.data.Uuid"}"#, Encoding::Plain),
            (r#""string""#, Encoding::Plain),
        ] {
            let schema = parse(text).expect("a schema");
            assert_eq!(schema.encoding(schema.root()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for (text, why) in [
            ("{", "no JSON"),
            ("7", "neither a name"),
            (r#"{"name":"x"}"#, "without `type`"),
            (r#""strang""#, "unknown type `strang`"),
            (r#"{"type":"record","name":"R"}"#, "without fields"),
            (r#"{"type":"record","fields":[]}"#, "without a name"),
            (r#"{"type":"array"}"#, "without `items`"),
            (
                r#"["null",{"type":"fixed","name":"F","size":1},{"type":"fixed","name":"F","size":2}]"#,
                "two types",
            ),
            (r#"{"type":"fixed","name":"F","size":-1}"#, "without `size`"),
        ] {
            let refused = parse(text).expect_err("no schema");
            assert!(refused.contains(why), "{text}: {refused}");
        }
        assert!(Schema::parse(&[]).is_err());
        assert!(parse(&"[".repeat(1_000_000)).is_err(), "no overflow of the stack");
    }
}
