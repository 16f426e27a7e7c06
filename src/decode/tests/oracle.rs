//! The decoder again, stupid on purpose: one record at a time through serde_json, numbers by
//! moving digits in strings, instants by chrono. Values, rejects and counts must agree on random
//! records: repeated keys, escapes, white space, wrong types, texts cut or altered at any byte.
//! `hostile` has it judge what a scanner gets wrong first.

use super::{KAFKA_US, SECRET, column, decoder, optional, records, shown, topic};
use crate::{
    catalog::{PgType, Pii, Topic, TopicColumn},
    decode::RejectClass::{self, Future, Malformed, Missing, Range, Type},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Datelike, NaiveDate};
use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

pub type Refused = (RejectClass, Option<String>);
/// A row as shown and its event time.
pub type Row = (Vec<Option<String>>, i64);

/// An object's entries as they stand, repeated keys and all.
struct Entries(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = vec![];
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    entries.push((key, value.get().to_owned()));
                }
                Ok(Entries(entries))
            }
        }
        from.deserialize_map(Collect)
    }
}

/// Whether all of a value is good JSON: serde_json's raw values do not look at surrogates.
fn is_json(raw: &str, depth: usize) -> bool {
    match raw.as_bytes()[0] {
        b'{' | b'[' if depth > 127 => false,
        b'{' => serde_json::from_str::<Entries>(raw)
            .is_ok_and(|it| it.0.iter().all(|(_, value)| is_json(value, depth + 1))),
        b'[' => serde_json::from_str::<Vec<Box<RawValue>>>(raw)
            .is_ok_and(|it| it.iter().all(|value| is_json(value.get(), depth + 1))),
        b'"' => serde_json::from_str::<String>(raw).is_ok(),
        _ => true,
    }
}

fn entries(value: &[u8]) -> Option<Vec<(String, String)>> {
    let text = std::str::from_utf8(value).ok()?;
    let raw = serde_json::from_str::<Box<RawValue>>(text).ok()?;
    let good = raw.get().starts_with('{') && is_json(raw.get(), 1);
    good.then(|| serde_json::from_str::<Entries>(raw.get()).expect("an object").0)
}

fn last<'a>(entries: &'a [(String, String)], key: &str) -> Option<&'a String> {
    entries.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or("").to_owned();
    parts.fold(first, |all, part| all + &part[..1].to_uppercase() + &part[1..])
}

fn lookup(column: &TopicColumn, entries: &[(String, String)]) -> Option<String> {
    if column.path_is_default {
        return last(entries, &column.name).or(last(entries, &camel(&column.name))).cloned();
    }
    let (name, inner) = column.path.split_first().expect("no empty pointer here");
    let mut value = last(entries, name)?.clone();
    for name in inner {
        value = last(&serde_json::from_str::<Entries>(&value).ok()?.0, name)?.clone();
    }
    Some(value)
}

pub fn hmac_hex(text: &str) -> String {
    let pad = |with: u8| -> Vec<u8> {
        (0..64).map(|i| SECRET.get(i).copied().unwrap_or(0) ^ with).collect()
    };
    let inner = Sha256::digest([pad(0x36), text.as_bytes().to_vec()].concat());
    let outer = Sha256::digest([pad(0x5c), inner.to_vec()].concat());
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// value × 10^scale as digits without a point.
fn shifted(text: &str, scale: i64) -> Result<i128, RejectClass> {
    let lower = text.to_lowercase();
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let exponent: i64 = match exponent.parse() {
        Ok(exponent) => exponent,
        Err(_) if exponent.len() > 9 => i64::MAX,
        Err(_) => return Err(Type),
    };
    let unsigned = mantissa.trim_start_matches(['-', '+']);
    let (int, frac) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let is_number = (mantissa.len() - unsigned.len()) < 2
        && !(int.is_empty() && frac.is_empty())
        && [int, frac].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()));
    if !is_number {
        return Err(Type);
    }
    let exponent = match exponent {
        -900..=900 => exponent,
        _ if [int, frac].concat().bytes().all(|digit| digit == b'0') => 0,
        _ => return Err(Range),
    };
    let zeros = "0".repeat(1000);
    let digits = format!("{zeros}{int}{frac}{zeros}");
    let (whole, rest) = digits.split_at((1000 + int.len() as i64 + exponent + scale) as usize);
    if rest.contains(|digit| digit != '0') {
        return Err(Range);
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() > 38 {
        return Err(Range);
    }
    let value: i128 = format!("0{whole}").parse().expect("digits");
    Ok(if mantissa.starts_with('-') { -value } else { value })
}

/// The column's value as `shown` has it.
fn convert(column: &TopicColumn, raw: Option<String>) -> Result<Option<String>, RejectClass> {
    let null = || if column.optional { Ok(None) } else { Err(Missing) };
    let Some(raw) = raw.filter(|raw| raw != "null") else { return null() };
    let string = serde_json::from_str::<String>(&raw).ok();
    let is_nested = raw.starts_with(['{', '[']);
    let keeps_blanks = matches!(column.pg, PgType::Text | PgType::Jsonb);
    if !keeps_blanks && string.as_ref().is_some_and(|it| it.trim().is_empty()) {
        return null();
    }
    let given = string.clone().unwrap_or(raw.clone());
    match column.pii {
        Some(_) if is_nested && column.pg != PgType::Jsonb => return Err(Type),
        Some(Pii::Hash) => return Ok(Some(hmac_hex(&given))),
        Some(Pii::Mask) => return Ok(Some("***".to_owned())),
        Some(Pii::Drop) | None => {}
    }
    let is_number = raw.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    let trimmed = given.trim();
    let integer = |min: i128, max: i128| match shifted(trimmed, 0)? {
        value if value < min || value > max => Err(Range),
        value => Ok(value.to_string()),
    };
    let has_digit = || {
        trimmed.split(['e', 'E']).next().is_some_and(|m| m.contains(|c| ('1'..='9').contains(&c)))
    };
    let value = match column.pg {
        PgType::Text if is_nested || given.contains('\0') => Err(Type),
        PgType::Text => Ok(given),
        PgType::Boolean => match (&string, trimmed.to_lowercase().as_str()) {
            (_, "true" | "1") | (Some(_), "t" | "yes" | "y" | "on") => Ok("true".to_owned()),
            (_, "false" | "0") | (Some(_), "f" | "no" | "n" | "off") => Ok("false".to_owned()),
            _ => Err(Type),
        },
        PgType::SmallInt => integer(i16::MIN.into(), i16::MAX.into()),
        PgType::Integer => integer(i32::MIN.into(), i32::MAX.into()),
        PgType::BigInt => integer(i64::MIN.into(), i64::MAX.into()),
        PgType::Numeric(p, s) => match shifted(trimmed, s.into())? {
            value if value.to_string().trim_start_matches('-').len() > p.into() => Err(Range),
            value => Ok(value.to_string()),
        },
        PgType::Double | PgType::Real => match trimmed {
            "NaN" => Ok("NaN".to_owned()),
            "Infinity" => Ok("inf".to_owned()),
            "-Infinity" => Ok("-inf".to_owned()),
            // Whether it is a number at all; its size is the float's own matter.
            _ if shifted(trimmed, 0) == Err(Type) => Err(Type),
            _ if column.pg == PgType::Real => match trimmed.parse::<f32>().expect("a number") {
                value if value.is_infinite() || value == 0.0 && has_digit() => Err(Range),
                value => Ok(format!("{value:?}")),
            },
            _ => match trimmed.parse::<f64>().expect("a number") {
                value if value.is_infinite() || value == 0.0 && has_digit() => Err(Range),
                value => Ok(format!("{value:?}")),
            },
        },
        PgType::Date if is_number => Err(Type),
        PgType::Date if zeroed(trimmed) != "0000-00-00" => Err(Type),
        PgType::Date => match NaiveDate::parse_from_str(trimmed, "%Y-%m-%d") {
            Ok(day) if day.year() > 0 => Ok((day - NaiveDate::default()).num_days().to_string()),
            _ => Err(Range),
        },
        PgType::Timestamptz if is_number => Err(Type),
        // The notation first: chrono takes blanks in odd places.
        PgType::Timestamptz if !is_rfc_3339(&strict(trimmed)) => Err(Type),
        PgType::Timestamptz => match DateTime::parse_from_rfc3339(&strict(trimmed)) {
            Ok(at) if at.timestamp_subsec_nanos() % 1000 == 0 && at.year() > 0 => {
                Ok(at.timestamp_micros().to_string())
            }
            _ => Err(Range),
        },
        PgType::Uuid => {
            let inner = trimmed.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
            let inner = inner.unwrap_or(trimmed).to_lowercase();
            let hex = inner.replace('-', "");
            let shape: String = inner.chars().map(|c| if c == '-' { '-' } else { 'x' }).collect();
            let canonical = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
            let good = hex.len() == 32
                && hex.bytes().all(|b| b.is_ascii_hexdigit())
                && (shape == canonical || shape == canonical.replace('-', ""));
            let parts = || [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
            if good { Ok(parts().join("-")) } else { Err(Type) }
        }
        PgType::Jsonb => jsonb(&raw).map(|()| raw.clone()),
        PgType::Bytea if string.is_none() => Err(Type),
        PgType::Bytea => STANDARD.decode(trimmed).map(|it| format!("{it:?}")).map_err(|_| Type),
        PgType::NumericAny => panic!("not of a topic"),
    };
    if is_nested && column.pg != PgType::Jsonb { Err(Type) } else { value.map(Some) }
}

/// In upper case, without the blanks that are taken for T and before an offset.
fn strict(text: &str) -> String {
    let mut chars: Vec<_> = text.to_ascii_uppercase().chars().collect();
    if chars.get(10) == Some(&' ') {
        chars[10] = 'T';
    }
    if chars.len() >= 26 && matches!(chars[chars.len() - 7..], [' ', '+' | '-', ..]) {
        chars.remove(chars.len() - 7);
    }
    chars.into_iter().collect()
}

/// The notation, whatever the numbers.
fn is_rfc_3339(text: &str) -> bool {
    let zeroed = zeroed(text);
    let Some(rest) = zeroed.strip_prefix("0000-00-00T00:00:00") else { return false };
    let zone = match rest.strip_prefix('.') {
        Some(digits) => digits.trim_start_matches('0'),
        None => rest,
    };
    let digits = (rest.len() - zone.len()).saturating_sub(1);
    if rest.starts_with('.') && !(1..=9).contains(&digits) {
        return false;
    }
    ["Z", "+00:00", "-00:00"].contains(&zone)
}

/// What PostgreSQL's jsonb refuses: the first of NUL or a number beyond `numeric`.
fn jsonb(raw: &str) -> Result<(), RejectClass> {
    let string = |text: &str| if text.contains('\0') { Err(Type) } else { Ok(()) };
    match raw.as_bytes()[0] {
        b'{' => {
            let entries = serde_json::from_str::<Entries>(raw).expect("an object").0;
            entries.iter().try_for_each(|(key, value)| string(key).and_then(|()| jsonb(value)))
        }
        b'[' => {
            let values = serde_json::from_str::<Vec<Box<RawValue>>>(raw).expect("an array");
            values.iter().try_for_each(|value| jsonb(value.get()))
        }
        b'"' => string(&serde_json::from_str::<String>(raw).expect("a string")),
        b'-' | b'0'..=b'9' => {
            let lower = raw.trim_start_matches('-').to_lowercase();
            let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
            let exponent: i64 = exponent.parse().map_err(|_| Range)?;
            let (int, frac) = mantissa.split_once('.').unwrap_or((mantissa, ""));
            let fits =
                int.len() as i64 + exponent <= 131_072 && frac.len() as i64 - exponent <= 16_383;
            if fits { Ok(()) } else { Err(Range) }
        }
        _ => Ok(()),
    }
}

fn zeroed(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect()
}

/// The row or the first reject, and the unknown fields.
pub fn oracle(topic: &Topic, value: &[u8]) -> (Result<Row, Refused>, u64) {
    let Some(entries) = entries(value) else { return (Err((Malformed, None)), 0) };
    let known = |key: &str| {
        topic.columns.iter().any(|column| {
            key == column.path[0]
                || column.path_is_default && (key == column.name || key == camel(&column.name))
        })
    };
    let unknown = entries.iter().filter(|(key, _)| !known(key)).count() as u64;
    let row = || {
        let mut row = vec![];
        for column in topic.columns.iter().filter(|column| column.pii != Some(Pii::Drop)) {
            let value = convert(column, lookup(column, &entries));
            row.push(value.map_err(|class| (class, Some(column.name.clone())))?);
        }
        let place = topic.event_time.expect("declared");
        let time: i64 = row[place].as_ref().expect("not optional").parse().expect("micros");
        let max = topic.max_future.expect("declared").as_micros() as i64;
        if time > KAFKA_US + max {
            return Err((Future, Some(topic.columns[place].name.clone())));
        }
        Ok((row, time))
    };
    (row(), unknown)
}

pub fn everything() -> Topic {
    let deep = |path: &[&str], column: TopicColumn| TopicColumn {
        path: path.iter().map(|key| (*key).to_owned()).collect(),
        path_is_default: false,
        ..column
    };
    let columns = vec![
        column("tap_id", PgType::Text),
        column("event_time", PgType::Timestamptz),
        TopicColumn { pii: Some(Pii::Drop), ..optional("given_name", PgType::Text) },
        deep(&["at", "stop"], optional("stop_id", PgType::Text)),
        deep(&["at", "geo", "lat"], optional("lat", PgType::Double)),
        optional("flag", PgType::Boolean),
        optional("small", PgType::SmallInt),
        optional("count", PgType::Integer),
        column("fare_cents", PgType::BigInt),
        optional("ratio", PgType::Real),
        optional("price", PgType::Numeric(8, 3)),
        optional("service_date", PgType::Date),
        optional("rider", PgType::Uuid),
        optional("doc", PgType::Jsonb),
        deep(&["at"], optional("place", PgType::Jsonb)),
        optional("raw", PgType::Bytea),
        TopicColumn { pii: Some(Pii::Hash), ..optional("token_id", PgType::BigInt) },
        TopicColumn { pii: Some(Pii::Mask), ..optional("name", PgType::Text) },
    ];
    topic(columns, Some("event_time"))
}

/// A JSON string, some characters as escapes.
fn quoted(text: &str, escapes: u64) -> String {
    let mut out = String::from("\"");
    for (i, c) in text.chars().enumerate() {
        if c < ' ' || c == '"' || c == '\\' || escapes >> (i % 64) & 1 == 1 {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out + "\""
}

fn string(text: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    // Most strings have no escape, as in life.
    (text, prop_oneof![3 => Just(0), 1 => any::<u64>()])
        .prop_map(|(t, escapes)| quoted(&t, escapes))
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        40 => (-3000i16..3000).prop_map(|n| n.to_string()),
        1 => any::<i64>().prop_map(|n| n.to_string()),
        1 => "-?(0|[1-9][0-9]{0,6})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?",
        1 => "-?[1-9][0-9]{0,45}(\\.[0-9]{1,20})?([eE][+-]?[0-3]?[0-9]{1,2})?",
    ]
}

fn instant() -> impl Strategy<Value = String> {
    prop_oneof![
        30 => "2024-03-01T0[0-7]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+]0[0-3]:[0-5]0)",
        1 => "20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:00)?",
    ]
}

fn of(pg: PgType) -> BoxedStrategy<String> {
    match pg {
        PgType::Text => {
            string(prop_oneof![30 => "[ -~é😀]{0,12}", 1 => "[\u{0}-\u{2}]{1,2}"]).boxed()
        }
        PgType::Boolean => prop_oneof![
            "true|false|0|1",
            string(" ?(TRUE|f|Yes|no|ON|off|0|1)".prop_map(String::from))
        ]
        .boxed(),
        PgType::SmallInt
        | PgType::Integer
        | PgType::BigInt
        | PgType::Real
        | PgType::Double
        | PgType::Numeric(..)
        | PgType::NumericAny => prop_oneof![
            20 => number(),
            2 => string("[ ]?[+-]?0{0,2}[0-9]{1,3}(\\.0{0,2}[0-9]?)?[ ]?".prop_map(String::from)),
            1 => string("NaN|-?Infinity|[.]|".prop_map(String::from)),
        ]
        .boxed(),
        PgType::Date => string(prop_oneof![
            20 => "2024-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9])",
            1 => "20[0-9]{2}-[01][0-9]-[0-3][0-9]",
        ])
        .boxed(),
        PgType::Timestamptz => string(instant()).boxed(),
        PgType::Uuid => string(prop_oneof![
            "[0-9a-fA-F]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
            "\\{[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\\}",
            "[0-9A-F]{32}",
            "[0-9A-G-]{32}",
        ])
        .boxed(),
        PgType::Jsonb => anything().boxed(),
        PgType::Bytea => {
            let bytes = prop::collection::vec(any::<u8>(), 0..9);
            string(bytes.prop_map(|bytes| STANDARD.encode(bytes))).boxed()
        }
    }
}

fn anything() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![number(), "true|false|null", string(".{0,9}".prop_map(String::from)),];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let entry = (string("[a-c]{1,2}".prop_map(String::from)), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|it| format!("[{}]", it.join(" , "))),
            prop::collection::vec(entry, 0..4).prop_map(|it| {
                let it: Vec<_> = it.into_iter().map(|(key, value)| key + ":" + &value).collect();
                format!("{{{}}}", it.join(","))
            }),
        ]
    })
}

/// One field: what a column wants, in nine cases of ten, under one of its names.
fn field(column: &TopicColumn) -> BoxedStrategy<String> {
    let value = if column.path_is_default {
        prop_oneof![60 => of(column.pg), 2 => Just("null".to_owned()), 1 => anything()].boxed()
    } else {
        let (stop, lat) = (of(PgType::Text), of(PgType::Double));
        prop_oneof![
            6 => (stop, lat).prop_map(|(stop, lat)| {
                format!(r#"{{"stop":{stop},"geo":{{"x":[{{}}],"lat":{lat}}}}}"#)
            }),
            1 => lat_twice(),
            1 => anything(),
        ]
        .boxed()
    };
    let names = if column.path_is_default {
        vec![column.name.clone(), camel(&column.name)]
    } else {
        vec![column.path[0].clone()]
    };
    (string(prop::sample::select(names)), value, "[ \n]?", "[\t\r]?")
        .prop_map(|(name, value, before, after)| {
            format!("{before}{name}{after}:{before}{value}{after}")
        })
        .boxed()
}

fn lat_twice() -> impl Strategy<Value = String> {
    (number(), "(,\"geo\":[^\"\\\\\u{0}-\u{1f}]?)?").prop_map(|(lat, _)| {
        format!(r#"{{"geo":{{"lat":1}},"stop":"a","geo":{{"lat":{lat},"lat":{lat}}}}}"#)
    })
}

/// A record: mostly each column once, in mostly the same order, some absent, repeated, unknown.
fn record() -> impl Strategy<Value = String> {
    let columns: Vec<_> = everything().columns.into_iter().filter(|c| c.name != "place").collect();
    let required: Vec<_> = columns.iter().filter(|c| !c.optional).map(field).collect();
    let all: Vec<_> = columns.iter().map(field).collect();
    let some = prop::sample::subsequence(
        columns.iter().filter(|c| c.optional).map(field).collect::<Vec<_>>(),
        0..12,
    )
    .prop_flat_map(|fields| fields);
    let unknown = (string("[a-z]{1,9}".prop_map(String::from)), anything());
    let unknown = unknown.prop_map(|(name, value)| format!("{name}: {value}"));
    let extra = prop_oneof![6 => unknown, 1 => prop::strategy::Union::new(all)];
    (required, some, prop::collection::vec((extra, any::<prop::sample::Index>()), 0..3)).prop_map(
        |(mut fields, some, extra)| {
            fields.extend(some);
            for (field, place) in extra {
                fields.insert(place.index(fields.len() + 1), field);
            }
            format!("{{{}}}", fields.join(","))
        },
    )
}

pub fn agree(topic: &Topic, values: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let whole = decoder(topic).decode(&records(values));
    prop_assert_eq!(whole.rows.num_rows() + whole.rejects.len(), values.len(), "D-1");
    prop_assert_eq!(whole.rows.num_rows(), whole.event_times.len());
    let (mut row, mut rejects, mut unknown) = (0, whole.rejects.iter(), 0);
    for (i, value) in values.iter().enumerate() {
        let (expected, fields) = oracle(topic, value);
        unknown += fields;
        let text = String::from_utf8_lossy(value);
        match expected {
            Ok((expected, time)) => {
                let columns = whole.rows.columns().iter().take(expected.len());
                prop_assert!(row < whole.rows.num_rows(), "{} {:?}", text, whole.rejects);
                let found: Vec<_> = columns.map(|column| shown(column, row)).collect();
                prop_assert_eq!(found, expected, "{}", text);
                prop_assert_eq!(whole.event_times[row].0, time);
                row += 1;
            }
            Err(expected) => {
                let found = rejects.next().map(|r| (r.record, r.class, r.column.clone()));
                prop_assert_eq!(found, Some((i, expected.0, expected.1)), "{}", text);
            }
        }
    }
    prop_assert_eq!(whole.unknown_fields, unknown);

    // One decoder, one record at a time: the same rows, rejects and counts.
    let mut singly = decoder(topic);
    let (mut row, mut rejects, mut unknown) = (0, vec![], 0);
    for (i, record) in records(values).into_iter().enumerate() {
        let one = singly.decode(&[record]);
        prop_assert_eq!(&one.rows, &whole.rows.slice(row, one.rows.num_rows()));
        row += one.rows.num_rows();
        rejects.extend(one.rejects.into_iter().map(|mut reject| {
            reject.record = i;
            reject
        }));
        unknown += one.unknown_fields;
    }
    prop_assert_eq!(rejects, whole.rejects);
    prop_assert_eq!(unknown, whole.unknown_fields);
    Ok(())
}

proptest! {
    #[test]
    fn rows_and_rejects_are_the_oracles(values in prop::collection::vec(record(), 0..12)) {
        let values: Vec<_> = values.into_iter().map(String::into_bytes).collect();
        agree(&everything(), &values)?;
    }

    #[test]
    fn texts_cut_or_altered_at_any_byte_are_judged_as_serde_json_judges_them(
        values in prop::collection::vec(
            (record(), any::<prop::sample::Index>(), prop::option::of(any::<u8>()), "[\"\\\\{}\\[\\],:0-9eud ]"),
            1..12,
        ),
    ) {
        let broken = |(text, at, byte, token): (String, prop::sample::Index, Option<u8>, String)| {
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            match byte {
                None => bytes.truncate(at),
                Some(byte) if byte < 64 => bytes[at] = byte,
                Some(byte) if byte < 128 => bytes.insert(at, token.as_bytes()[0]),
                Some(_) => bytes[at] = token.as_bytes()[0],
            }
            bytes
        };
        agree(&everything(), &values.into_iter().map(broken).collect::<Vec<_>>())?;
    }

    #[test]
    fn any_bytes_at_all_give_a_row_or_a_reject(value in prop::collection::vec(any::<u8>(), 0..60)) {
        agree(&everything(), &[value])?;
    }
}

#[test]
fn the_oracles_records_are_mostly_good() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let (topic, mut runner) = (everything(), TestRunner::deterministic());
    let strategy = record();
    let good = (0..300).filter(|_| {
        let value = strategy.new_tree(&mut runner).expect("a record").current();
        oracle(&topic, value.as_bytes()).0.is_ok()
    });
    let good = good.count();
    assert!((60..290).contains(&good), "{good} of 300 are good: the properties would test little");
}
