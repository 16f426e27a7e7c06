//! Slices of JSON text to one typed Arrow array, a column at a time in a loop per type.
//!
//! Owns: what each PostgreSQL type takes, what counts as NULL, the sentence of a reject. Does not
//! own: where slices come from (`fields`), the arithmetic of numbers (`number`), instants (`time`)
//! and hashes (`pii`), nor which rows stay (`json`).
//!
//! C-1  A cell gives exactly one array entry, NULL where it is refused; the array has as many
//!      entries as the batch has records.
//! C-2  Why a value is refused ([`Refusal`]) never holds the value. It is quoted in one place,
//!      which leaves it out for columns with `pii`.

use super::{
    RejectClass,
    fields::Cell,
    number,
    pii::{Hasher, MASK},
    rejects::Rejects,
    scan::unescape,
    time,
};
use crate::catalog::{PgType, Pii, TopicColumn, types::timestamp};
use arrow::{
    array::{
        ArrayRef, ArrowPrimitiveType, BinaryBuilder, BooleanBuilder, PrimitiveBuilder,
        StringBuilder,
    },
    datatypes::{
        Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
        TimestampMicrosecondType,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{borrow::Cow, sync::Arc};

/// Characters of a value that a reason quotes.
const QUOTE_MAX: usize = 40;

/// Why a value is not taken; without the value (C-2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub class: RejectClass,
    pub why: Cow<'static, str>,
}

impl Refusal {
    /// Not of the type at all.
    pub fn shape(why: impl Into<Cow<'static, str>>) -> Self {
        Self { class: RejectClass::Type, why: why.into() }
    }
    /// Of the type, but outside its range or precision.
    pub fn range(why: impl Into<Cow<'static, str>>) -> Self {
        Self { class: RejectClass::Range, why: why.into() }
    }
}

/// A JSON value that is there and not null.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Bool(bool),
    /// Its raw text.
    Number(&'a str),
    /// Its content, unescaped.
    Text(&'a str),
    /// An object or an array.
    Nested,
}

/// One column of a batch, to be converted.
pub struct Column<'a> {
    pub declared: &'a TopicColumn,
    pub cells: &'a [Cell],
    /// The records' texts; a malformed record's is empty and its cells are absent.
    pub texts: &'a [&'a str],
    /// Must be there if the column is hashed.
    pub hasher: Option<&'a Hasher>,
}

impl Column<'_> {
    /// The array, in the column's declared Arrow type (`pii`: text).
    pub fn convert(&self, rejects: &mut Rejects) -> ArrayRef {
        match (self.declared.pii, self.declared.pg) {
            (Some(Pii::Hash), pg) => {
                let hasher = self.hasher.expect("config sees to a secret where a column is hashed");
                let mut hex = [0; 64];
                self.text(64, rejects, |value, raw, to| {
                    to.append_value(hasher.hash(as_given(value, raw, pg)?, &mut hex));
                    Ok(())
                })
            }
            (Some(Pii::Mask), pg) => self.text(MASK.len(), rejects, |value, raw, to| {
                as_given(value, raw, pg)?;
                to.append_value(MASK);
                Ok(())
            }),
            (Some(Pii::Drop) | None, PgType::Text) => {
                self.text(self.bytes_mean(), rejects, |value, raw, to| {
                    to.append_value(text(value, raw)?);
                    Ok(())
                })
            }
            (_, PgType::Jsonb) => self.text(self.bytes_mean(), rejects, |_, raw, to| {
                jsonb(raw)?;
                to.append_value(raw);
                Ok(())
            }),
            (_, PgType::Uuid) => self.text(36, rejects, |value, _, to| {
                let mut canonical = [0; 36];
                to.append_value(uuid(value, &mut canonical)?);
                Ok(())
            }),
            (_, PgType::Boolean) => self.boolean(rejects),
            (_, PgType::Bytea) => self.bytea(rejects),
            (_, PgType::SmallInt) => self.primitive::<Int16Type>(rejects, |value| {
                integer(value, i16::MIN.into(), i16::MAX.into()).map(|value| value as i16)
            }),
            (_, PgType::Integer) => self.primitive::<Int32Type>(rejects, |value| {
                integer(value, i32::MIN.into(), i32::MAX.into()).map(|value| value as i32)
            }),
            (_, PgType::BigInt) => {
                self.primitive::<Int64Type>(rejects, |value| integer(value, i64::MIN, i64::MAX))
            }
            (_, PgType::Real) => self.primitive::<Float32Type>(rejects, |value| match value {
                Value::Number(raw) => number::float(raw, false),
                Value::Text(text) => number::float(text.trim(), true),
                Value::Bool(_) | Value::Nested => Err(Refusal::shape("a number is wanted")),
            }),
            (_, PgType::Double) => self.primitive::<Float64Type>(rejects, |value| match value {
                Value::Number(raw) => number::float(raw, false),
                Value::Text(text) => number::float(text.trim(), true),
                Value::Bool(_) | Value::Nested => Err(Refusal::shape("a number is wanted")),
            }),
            (_, PgType::Numeric(precision, scale)) => self.numeric(rejects, precision, scale),
            (_, PgType::NumericAny) => self.numeric(rejects, 38, 0),
            (_, PgType::Date) => self.primitive::<Date32Type>(rejects, |value| match value {
                Value::Text(text) => time::date(text.trim()),
                Value::Number(_) | Value::Bool(_) | Value::Nested => {
                    Err(Refusal::shape("a date in quotes is wanted, as in 2024-03-01"))
                }
            }),
            (_, PgType::Timestamptz) => {
                self.primitive::<TimestampMicrosecondType>(rejects, |value| match value {
                    Value::Text(text) => time::timestamptz(text.trim()),
                    Value::Number(_) => Err(Refusal::shape(
                        "a number could be seconds or milliseconds; an instant in quotes is \
                         wanted, as in 2024-03-01T08:00:00Z",
                    )),
                    Value::Bool(_) | Value::Nested => Err(Refusal::shape(
                        "an instant in quotes is wanted, as in 2024-03-01T08:00:00Z",
                    )),
                })
            }
        }
    }

    /// The loop of all types. `put` appends one entry per call: the value given, or NULL for
    /// None; on a refusal it has appended nothing.
    #[inline(always)]
    fn each(
        &self,
        rejects: &mut Rejects,
        mut put: impl FnMut(Option<(Value<'_>, &str)>) -> Result<(), Refusal>,
    ) {
        let column = Some(self.declared.name.as_str());
        let blank_is_null = !matches!(self.declared.pg, PgType::Text | PgType::Jsonb);
        let mut unescaped = String::new();
        for (row, (cell, text)) in self.cells.iter().zip(self.texts).enumerate() {
            let raw = cell.raw(text);
            let value = match raw.as_bytes() {
                [b'"', ..] => {
                    let mut content = &raw[1..raw.len() - 1];
                    if cell.escaped() {
                        unescape(content, &mut unescaped);
                        content = &unescaped;
                    }
                    if blank_is_null && is_blank(content) {
                        Err("blank")
                    } else {
                        Ok(Value::Text(content))
                    }
                }
                [] => Err("absent"),
                [b'n', ..] => Err("null"),
                [b't', ..] => Ok(Value::Bool(true)),
                [b'f', ..] => Ok(Value::Bool(false)),
                [b'{' | b'[', ..] => Ok(Value::Nested),
                _ => Ok(Value::Number(raw)),
            };
            match value {
                Ok(value) => {
                    if let Err(refusal) = put(Some((value, raw))) {
                        put(None).expect("NULL is never refused");
                        self.refuse(row, raw, refusal, rejects);
                    }
                }
                Err(how) => {
                    put(None).expect("NULL is never refused");
                    if !self.declared.optional {
                        rejects.add(row, RejectClass::Missing, column, || {
                            format!("the field is {how} and the column is not optional")
                        });
                    }
                }
            }
        }
    }

    pub fn refuse(&self, row: usize, raw: &str, refusal: Refusal, rejects: &mut Rejects) {
        let column = Some(self.declared.name.as_str());
        rejects.add(row, refusal.class, column, || self.sentence(raw, &refusal.why));
    }

    /// What was found and what is wanted.
    fn sentence(&self, raw: &str, why: &str) -> String {
        let found = match (self.declared.pii, raw.as_bytes().first()) {
            (None, _) if raw.chars().count() <= QUOTE_MAX => raw.to_owned(),
            (None, _) => format!("{}…", raw.chars().take(QUOTE_MAX).collect::<String>()),
            (Some(_), Some(b'{')) => "an object".to_owned(),
            (Some(_), Some(b'[')) => "an array".to_owned(),
            (Some(_), _) => "a personal value".to_owned(),
        };
        format!("found {found}: {why}")
    }

    /// Bytes to reserve per entry; a guess.
    fn bytes_mean(&self) -> usize {
        let bytes: usize = self.cells.iter().map(|cell| cell.bytes()).sum();
        bytes / self.cells.len().max(1) + 1
    }

    #[inline(always)]
    fn text(
        &self,
        bytes_mean: usize,
        rejects: &mut Rejects,
        mut append: impl FnMut(Value<'_>, &str, &mut StringBuilder) -> Result<(), Refusal>,
    ) -> ArrayRef {
        let rows = self.cells.len();
        let mut builder = StringBuilder::with_capacity(rows, rows * bytes_mean);
        self.each(rejects, |value| match value {
            Some((value, raw)) => append(value, raw, &mut builder),
            None => {
                builder.append_null();
                Ok(())
            }
        });
        Arc::new(builder.finish())
    }

    #[inline(always)]
    fn builder<T: ArrowPrimitiveType>(
        &self,
        mut builder: PrimitiveBuilder<T>,
        rejects: &mut Rejects,
        parse: impl Fn(Value<'_>) -> Result<T::Native, Refusal>,
    ) -> ArrayRef {
        self.each(rejects, |value| {
            match value {
                Some((value, _)) => builder.append_value(parse(value)?),
                None => builder.append_null(),
            }
            Ok(())
        });
        Arc::new(builder.finish())
    }

    #[inline(always)]
    fn primitive<T: ArrowPrimitiveType>(
        &self,
        rejects: &mut Rejects,
        parse: impl Fn(Value<'_>) -> Result<T::Native, Refusal>,
    ) -> ArrayRef {
        let builder = PrimitiveBuilder::<T>::with_capacity(self.cells.len());
        self.builder(builder.with_data_type(self.declared.pg.arrow()), rejects, parse)
    }

    fn numeric(&self, rejects: &mut Rejects, precision: u8, scale: i8) -> ArrayRef {
        self.primitive::<Decimal128Type>(rejects, |value| match value {
            Value::Number(raw) => number::numeric(raw, precision, scale),
            Value::Text(text) => number::numeric(text.trim(), precision, scale),
            Value::Bool(_) | Value::Nested => Err(Refusal::shape("a decimal number is wanted")),
        })
    }

    fn boolean(&self, rejects: &mut Rejects) -> ArrayRef {
        let mut builder = BooleanBuilder::with_capacity(self.cells.len());
        self.each(rejects, |value| {
            match value {
                Some((value, _)) => builder.append_value(boolean(value)?),
                None => builder.append_null(),
            }
            Ok(())
        });
        Arc::new(builder.finish())
    }

    fn bytea(&self, rejects: &mut Rejects) -> ArrayRef {
        let rows = self.cells.len();
        let mut builder = BinaryBuilder::with_capacity(rows, rows * self.bytes_mean());
        let mut bytes = Vec::new();
        self.each(rejects, |value| {
            match value {
                Some((value, _)) => {
                    bytea(value, &mut bytes)?;
                    builder.append_value(&bytes);
                }
                None => builder.append_null(),
            }
            Ok(())
        });
        Arc::new(builder.finish())
    }
}

/// Empty, or only white space. Most values show by their first byte that they are not.
#[inline(always)]
fn is_blank(content: &str) -> bool {
    let maybe = |byte: &u8| *byte <= b' ' || *byte >= 0x80;
    content.as_bytes().first().is_none_or(maybe) && content.trim().is_empty()
}

/// A code stays as it came: numbers and booleans by their raw text, strings untrimmed.
#[inline(always)]
fn text<'a>(value: Value<'a>, raw: &'a str) -> Result<&'a str, Refusal> {
    match value {
        // Only an escape can hold NUL, and then the content is another string than in `raw`.
        Value::Text(content) if content.len() + 2 == raw.len() => Ok(content),
        Value::Text(content) if content.contains('\0') => Err(nul()),
        Value::Text(content) => Ok(content),
        Value::Number(_) | Value::Bool(_) => Ok(raw),
        Value::Nested => Err(Refusal::shape("a text is wanted; declare the column as jsonb")),
    }
}

#[cold]
fn nul() -> Refusal {
    Refusal::shape("PostgreSQL holds no \\u0000 in text or jsonb")
}

/// What is hashed: `"5"` and `5` alike.
fn as_given<'a>(value: Value<'a>, raw: &'a str, pg: PgType) -> Result<&'a str, Refusal> {
    match value {
        Value::Text(content) => Ok(content),
        Value::Number(_) | Value::Bool(_) => Ok(raw),
        Value::Nested if pg == PgType::Jsonb => Ok(raw),
        Value::Nested => Err(Refusal::shape("a single value is wanted")),
    }
}

#[inline(always)]
fn integer(value: Value<'_>, min: i64, max: i64) -> Result<i64, Refusal> {
    match value {
        Value::Number(raw) => number::integer(raw, min, max),
        Value::Text(text) => number::integer(text.trim(), min, max),
        Value::Bool(_) | Value::Nested => Err(Refusal::shape("an integer is wanted")),
    }
}

fn boolean(value: Value<'_>) -> Result<bool, Refusal> {
    let is_one_of = |text: &str, words: &[&str]| words.iter().any(|w| text.eq_ignore_ascii_case(w));
    match value {
        Value::Bool(value) => Ok(value),
        Value::Number("1") => Ok(true),
        Value::Number("0") => Ok(false),
        Value::Text(text) if is_one_of(text.trim(), &["true", "t", "yes", "y", "on", "1"]) => {
            Ok(true)
        }
        Value::Text(text) if is_one_of(text.trim(), &["false", "f", "no", "n", "off", "0"]) => {
            Ok(false)
        }
        Value::Number(_) | Value::Text(_) | Value::Nested => {
            Err(Refusal::shape("true or false is wanted"))
        }
    }
}

/// Canonical, without hyphens, or either in braces; to lower case with hyphens.
fn uuid<'a>(value: Value<'_>, canonical: &'a mut [u8; 36]) -> Result<&'a str, Refusal> {
    let refused = || Refusal::shape("a uuid is wanted, 32 hexadecimal digits, as 8-4-4-4-12");
    let Value::Text(text) = value else { return Err(refused()) };
    let text = text.trim();
    let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
    let hyphen = |place: usize| matches!(place, 8 | 13 | 18 | 23);
    let mut given = inner.bytes();
    for (place, to) in canonical.iter_mut().enumerate() {
        if hyphen(place) {
            if inner.len() == 36 && given.next() != Some(b'-') {
                return Err(refused());
            }
            *to = b'-';
            continue;
        }
        *to = given.next().filter(u8::is_ascii_hexdigit).ok_or_else(refused)?.to_ascii_lowercase();
    }
    match given.next() {
        None => Ok(std::str::from_utf8(canonical).expect("hexadecimal digits and hyphens")),
        Some(_) => Err(refused()),
    }
}

/// PostgreSQL's `\x` hexadecimal, or base64 (RFC 4648, padded).
fn bytea(value: Value<'_>, bytes: &mut Vec<u8>) -> Result<(), Refusal> {
    let refused = || Refusal::shape("bytes are wanted, as \\x and hexadecimal or as padded base64");
    let Value::Text(text) = value else { return Err(refused()) };
    bytes.clear();
    let text = text.trim();
    let Some(hex) = text.strip_prefix("\\x") else {
        return STANDARD.decode_vec(text, bytes).map_err(|_| refused());
    };
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    for pair in hex.as_bytes().chunks(2) {
        let &[high, low] = pair else { return Err(refused()) };
        let (Some(high), Some(low)) = (digit(high), digit(low)) else { return Err(refused()) };
        bytes.push(high << 4 | low);
    }
    Ok(())
}

/// JSON is kept as it came; only what PostgreSQL's `jsonb` cannot hold is refused here, since
/// there it would stop the whole cut: NUL, and numbers beyond `numeric`.
fn jsonb(raw: &str) -> Result<(), Refusal> {
    let bytes = raw.as_bytes();
    let (mut at, mut in_string) = (0, false);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' => {
                if bytes[at..].starts_with(b"\\u0000") {
                    return Err(nul());
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' if !in_string => {
                let part =
                    |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let rest = &bytes[at..];
                let len = rest.iter().position(|byte| !part(byte)).unwrap_or(rest.len());
                if !number::fits_jsonb(&raw[at..at + len]) {
                    return Err(Refusal::range("PostgreSQL's jsonb cannot hold such a number"));
                }
                at += len - 1;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Kafka's timestamp and the event time travel in this type.
pub fn instants(values: impl Iterator<Item = i64>) -> ArrayRef {
    let mut builder = PrimitiveBuilder::<TimestampMicrosecondType>::new();
    builder.extend(values.map(Some));
    let mut builder = builder.with_data_type(timestamp());
    Arc::new(builder.finish())
}
