//! Values that a connector writes in an encoding of its own (days, ticks, base64 decimals), as the
//! text that the column's type takes: after this the conversion is the same for every format.
//!
//! Owns: Debezium's and Connect's semantic types. Does not own: which column has which (`catalog`
//! or the record's own schema), what the text means (`convert`, `number`, `time`).
//!
//! Sources: Debezium's documentation of its PostgreSQL and MySQL connectors, "Data type mappings"
//! (`io.debezium.time.*`, `io.debezium.data.VariableScaleDecimal`); Kafka Connect's
//! `org.apache.kafka.connect.data.{Date, Time, Timestamp, Decimal}`.

use super::{
    convert::Refusal,
    fields::Cell,
    scan::{Scanner, elements, members, unescape},
};
use crate::catalog::{Encoding, Unit};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::Datelike;
use std::fmt::Write;

/// 38 digits are what `numeric` can hold here; no number of more than so many bytes has fewer.
const DECIMAL_BYTES_MAX: usize = 16;

/// One column's cells with texts of their own.
pub struct Rewritten {
    pub text: String,
    pub cells: Vec<Cell>,
}

impl Rewritten {
    /// Of so many.
    pub fn with_capacity(cells: usize) -> Self {
        Self { text: String::new(), cells: Vec::with_capacity(cells) }
    }

    /// Takes the value over as it stands.
    pub fn keep(&mut self, cell: Cell, raw: &str) {
        let start = self.text.len();
        self.text.push_str(raw);
        self.cells.push(cell.moved(start));
    }

    /// The value in the notation of its type. NULL and what is absent stay as they are.
    pub fn rewrite(&mut self, raw: &str, encoding: Encoding) -> Result<(), Refusal> {
        let start = self.text.len();
        let done = write(raw, encoding, &mut self.text);
        if done.is_err() {
            self.text.truncate(start);
        }
        self.cells.push(Cell::last(&self.text, start));
        done
    }
}

fn write(raw: &str, encoding: Encoding, out: &mut String) -> Result<(), Refusal> {
    if raw.is_empty() || raw == "null" {
        out.push_str(raw);
        return Ok(());
    }
    match encoding {
        Encoding::Plain => out.push_str(raw),
        Encoding::Days => {
            let days = ticks(raw, "the days since 1970-01-01")?;
            quoted(out, |out| day(days, out))?;
        }
        Encoding::TimeOfDay(unit) => {
            let nanos =
                i128::from(ticks(raw, "a time of day as a number")?) * i128::from(scale(unit));
            // A TIME of MySQL's may be negative, and longer than a day.
            if nanos.abs() >= 1000 * 3600 * 1_000_000_000 {
                return Err(Refusal::range("a time of less than 1000 hours is wanted"));
            }
            quoted(out, |out| {
                out.push_str(if nanos < 0 { "-" } else { "" });
                clock(nanos.abs() as i64, out);
                Ok(())
            })?;
        }
        Encoding::Instant(unit) => {
            let ticks = ticks(raw, "an instant as a number")?;
            let per_day = 86_400_000_000_000 / scale(unit);
            quoted(out, |out| {
                day(ticks.div_euclid(per_day), out)?;
                out.push('T');
                clock(ticks.rem_euclid(per_day) * scale(unit), out);
                out.push('Z');
                Ok(())
            })?;
        }
        Encoding::Duration(unit) => {
            let nanos = i128::from(ticks(raw, "a duration as a number")?) * i128::from(scale(unit));
            quoted(out, |out| {
                duration(nanos, out);
                Ok(())
            })?;
        }
        Encoding::Utc => {
            let text =
                content(raw).map_err(|_| Refusal::shape("an instant in quotes is wanted"))?;
            quoted(out, |out| {
                in_utc(text.trim(), out);
                Ok(())
            })?;
        }
        Encoding::Decimal(scale) => decimal(content(raw)?, scale.into(), out)?,
        Encoding::VariableDecimal => {
            let (mut scale, mut value) = (None, None);
            let read = members(raw, |key, raw| match key {
                "scale" => scale = raw.parse::<i32>().ok(),
                "value" => value = Some(raw),
                _ => {}
            });
            let (Ok(()), Some(scale), Some(value)) = (read, scale, value) else {
                return Err(Refusal::shape("a decimal as {\"scale\": …, \"value\": …} is wanted"));
            };
            decimal(content(value)?, scale, out)?;
        }
        Encoding::Json => {
            let Ok(inner) = content(raw) else {
                // Arrays and maps come as themselves.
                out.push_str(raw);
                return Ok(());
            };
            let mut text = String::new();
            unescape(inner, &mut text);
            let mut scan = Scanner::new(text.trim());
            scan.value().and_then(|()| scan.finish()).map_err(|broken| {
                Refusal::shape(format!(
                    "JSON in a string is wanted; at its byte {}: {}",
                    broken.at, broken.why
                ))
            })?;
            out.push_str(text.trim());
        }
    }
    Ok(())
}

/// Nanoseconds.
fn scale(unit: Unit) -> i64 {
    match unit {
        Unit::Seconds => 1_000_000_000,
        Unit::Millis => 1_000_000,
        Unit::Micros => 1_000,
        Unit::Nanos => 1,
    }
}

fn quoted(
    out: &mut String,
    write: impl FnOnce(&mut String) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    out.push('"');
    write(out)?;
    out.push('"');
    Ok(())
}

/// A whole number, in quotes or not.
fn ticks(raw: &str, wanted: &'static str) -> Result<i64, Refusal> {
    let inner = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(raw);
    inner.parse().map_err(|_| Refusal::shape(format!("{wanted} is wanted")))
}

fn content(raw: &str) -> Result<&str, Refusal> {
    let inner = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.ok_or_else(|| Refusal::shape("a decimal in base64 is wanted"))
}

fn no_such_day() -> Refusal {
    Refusal::range("the years 0001 to 9999 are kept")
}

fn day(days: i64, out: &mut String) -> Result<(), Refusal> {
    let day = i32::try_from(days).ok().and_then(chrono::NaiveDate::from_epoch_days);
    let day = day.filter(|day| (1..=9999).contains(&day.year()));
    let day = day.ok_or_else(no_such_day)?;
    two_digits(day.year() as i64 / 100, out);
    two_digits(day.year() as i64 % 100, out);
    out.push('-');
    two_digits(day.month().into(), out);
    out.push('-');
    two_digits(day.day().into(), out);
    Ok(())
}

/// `HH:MM:SS`, and a point with as many digits as there are. By hand, as `day`: formatting machinery
/// would cost more than all else of an instant.
fn clock(nanos: i64, out: &mut String) {
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    two_digits(seconds / 3600, out);
    out.push(':');
    two_digits(seconds / 60 % 60, out);
    out.push(':');
    two_digits(seconds % 60, out);
    fraction(nanos, out);
}

/// Hours may have three.
fn two_digits(number: i64, out: &mut String) {
    let digit = |number: i64| char::from(b'0' + (number % 10) as u8);
    if number >= 100 {
        out.push(digit(number / 100));
    }
    out.push(digit(number / 10));
    out.push(digit(number));
}

fn fraction(mut nanos: i64, out: &mut String) {
    if nanos != 0 {
        out.push('.');
        let mut unit = 100_000_000;
        while nanos != 0 {
            out.push(char::from(b'0' + (nanos / unit) as u8));
            nanos %= unit;
            unit /= 10;
        }
    }
}

/// Adds what an instant without an offset lacks, and cuts off what is below a microsecond.
pub fn in_utc(text: &str, out: &mut String) {
    let point = text.find('.').unwrap_or(text.len());
    let fraction = text[point..].get(1..).unwrap_or_default();
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let (kept, rest) = (digits.min(6), &fraction[digits..]);
    out.push_str(&text[..point]);
    if point < text.len() {
        out.push('.');
    }
    out.push_str(&fraction[..kept]);
    out.push_str(rest);
    // Of a date the hyphens are no offset.
    let zoned = |text: &str| text.get(10..).is_some_and(|t| t.contains(['Z', 'z', '+', '-']));
    if !text.is_empty() && !zoned(text) {
        out.push('Z');
    }
}

/// ISO 8601, in hours, minutes and seconds: a duration in ticks says nothing of days or months.
fn duration(nanos: i128, out: &mut String) {
    if nanos < 0 {
        out.push('-');
    }
    let nanos = nanos.abs();
    let seconds = nanos / 1_000_000_000;
    let _ = write!(out, "PT{}H{}M{}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    fraction((nanos % 1_000_000_000) as i64, out);
    out.push('S');
}

/// Digits of an unscaled integer, with the point where the scale says.
fn decimal(base64: &str, scale: i32, out: &mut String) -> Result<(), Refusal> {
    let broken = || Refusal::shape("a decimal in base64 is wanted");
    // A JSON writer may escape the slash of base64.
    let bytes = match base64.contains('\\') {
        true => STANDARD.decode(base64.replace("\\/", "/")),
        false => STANDARD.decode(base64),
    };
    let bytes = bytes.map_err(|_| broken())?;
    let Some(first) = bytes.first() else { return Err(broken()) };
    let sign = if first & 0x80 == 0 { 0 } else { 0xFF };
    let padding = bytes.iter().take_while(|byte| **byte == sign).count();
    // One byte of the sign may be what tells it.
    let bytes = &bytes[padding.saturating_sub(1)..];
    let too_large = || Refusal::range("at most 38 digits are wanted");
    if bytes.len() > DECIMAL_BYTES_MAX || !(-38..=76).contains(&scale) {
        return Err(too_large());
    }
    let mut wide = [sign; DECIMAL_BYTES_MAX];
    wide[DECIMAL_BYTES_MAX - bytes.len()..].copy_from_slice(bytes);
    let _ = write!(out, "{}e{}", i128::from_be_bytes(wide), -scale);
    Ok(())
}

/// What a record's own schema says of the fields of its row.
pub fn of_schema(schema: &str) -> Vec<(String, Encoding)> {
    let mut found = Vec::new();
    let _ = members(schema, |key, fields| {
        if key == "fields" {
            let _ = elements(fields, |field| found.extend(of_field(field)));
        }
    });
    found
}

/// The schema of the struct in the field `name`; schemas of Connect are structs of fields.
pub fn field_schema<'a>(schema: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    let _ = members(schema, |key, fields| {
        if key == "fields" {
            let _ = elements(fields, |field| {
                let mut named = false;
                let _ = members(field, |key, raw| {
                    named |= key == "field" && raw.trim_matches('"') == name;
                });
                if named {
                    found = Some(field);
                }
            });
        }
    });
    found
}

fn of_field(field: &str) -> Option<(String, Encoding)> {
    let (mut name, mut kind, mut scale) = (None, "", 0);
    let _ = members(field, |key, raw| match key {
        "field" => name = Some(raw.trim_matches('"').to_owned()),
        "name" => kind = raw.trim_matches('"'),
        "parameters" => {
            let _ = members(raw, |key, raw| {
                if key == "scale" {
                    scale = raw.trim_matches('"').parse().unwrap_or(0);
                }
            });
        }
        _ => {}
    });
    Some((name?, of_semantic_type(kind, scale)))
}

/// By the name of Debezium's or Connect's semantic type.
pub fn of_semantic_type(name: &str, scale: i8) -> Encoding {
    match name {
        "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date" => Encoding::Days,
        "io.debezium.time.Time" | "org.apache.kafka.connect.data.Time" => {
            Encoding::TimeOfDay(Unit::Millis)
        }
        "io.debezium.time.MicroTime" => Encoding::TimeOfDay(Unit::Micros),
        "io.debezium.time.NanoTime" => Encoding::TimeOfDay(Unit::Nanos),
        "io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp" => {
            Encoding::Instant(Unit::Millis)
        }
        "io.debezium.time.MicroTimestamp" => Encoding::Instant(Unit::Micros),
        "io.debezium.time.NanoTimestamp" => Encoding::Instant(Unit::Nanos),
        "io.debezium.time.MicroDuration" => Encoding::Duration(Unit::Micros),
        "io.debezium.time.NanoDuration" => Encoding::Duration(Unit::Nanos),
        "org.apache.kafka.connect.data.Decimal" => Encoding::Decimal(scale),
        "io.debezium.data.VariableScaleDecimal" => Encoding::VariableDecimal,
        "io.debezium.data.Json" => Encoding::Json,
        _ => Encoding::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(raw: &str, encoding: Encoding) -> Result<String, String> {
        let mut out = String::new();
        write(raw, encoding, &mut out).map(|()| out).map_err(|refusal| refusal.why.into_owned())
    }

    #[test]
    fn each_encoding_becomes_the_text_of_its_type() {
        use {Encoding as E, Unit as U};
        for (raw, encoding, text) in [
            ("null", E::Days, "null"),
            ("", E::Decimal(2), ""),
            ("19782", E::Days, "\"2024-02-29\""),
            ("-1", E::Days, "\"1969-12-31\""),
            ("45296789012", E::TimeOfDay(U::Micros), "\"12:34:56.789012\""),
            ("86400000", E::TimeOfDay(U::Millis), "\"24:00:00\""),
            ("-3723004000", E::TimeOfDay(U::Micros), "\"-01:02:03.004\""),
            ("1709210096789012", E::Instant(U::Micros), "\"2024-02-29T12:34:56.789012Z\""),
            ("\"1709210096789\"", E::Instant(U::Millis), "\"2024-02-29T12:34:56.789Z\""),
            ("-1", E::Instant(U::Nanos), "\"1969-12-31T23:59:59.999999999Z\""),
            ("1709210096", E::Instant(U::Seconds), "\"2024-02-29T12:34:56Z\""),
            ("14706700000", E::Duration(U::Micros), "\"PT4H5M6.7S\""),
            ("-1000", E::Duration(U::Nanos), "\"-PT0H0M0.000001S\""),
            ("\"Czpzzi/y\"", E::Decimal(4), "12345678901234e-4"),
            ("\"Czpzzi\\/y\"", E::Decimal(4), "12345678901234e-4"),
            ("\"2021-12-01 11:20:30.4444444\"", E::Utc, "\"2021-12-01 11:20:30.444444Z\""),
            ("\"2021-12-01 11:20:30\"", E::Utc, "\"2021-12-01 11:20:30Z\""),
            ("\"2021-12-01T11:20:30.5+01:00\"", E::Utc, "\"2021-12-01T11:20:30.5+01:00\""),
            ("\" \"", E::Utc, "\"\""),
            (r#""{\"a\": 1}""#, E::Json, r#"{"a": 1}"#),
            ("[1,null]", E::Json, "[1,null]"),
            ("\"AA==\"", E::Decimal(2), "0e-2"),
            ("\"/w==\"", E::Decimal(0), "-1e0"),
            ("\"//////////////////////////////8=\"", E::Decimal(0), "-1e0"),
            (
                "{\"scale\":9,\"value\":\"J+QbMka+ybFuOYEV\"}",
                E::VariableDecimal,
                "12345678901234567890123456789e-9",
            ),
        ] {
            assert_eq!(written(raw, encoding).as_deref(), Ok(text), "{raw} {encoding:?}");
        }
    }

    #[test]
    fn what_is_not_in_the_encoding_is_refused_with_what_is_wanted() {
        use {Encoding as E, Unit as U};
        for (raw, encoding, why) in [
            ("\"x\"", E::Days, "days since"),
            ("1.5", E::Instant(U::Micros), "an instant as a number"),
            ("3652059999", E::Days, "years"),
            ("99999999999999999", E::Instant(U::Seconds), "years"),
            ("3600000000000", E::TimeOfDay(U::Micros), "1000 hours"),
            ("12.34", E::Decimal(2), "base64"),
            ("\"12.34\"", E::Decimal(2), "base64"),
            ("\"\"", E::Decimal(2), "base64"),
            ("\"AQAAAAAAAAAAAAAAAAAAAAAAAA==\"", E::Decimal(2), "38 digits"),
            ("{\"scale\":1}", E::VariableDecimal, "scale"),
            ("7", E::VariableDecimal, "scale"),
            ("7", E::Utc, "in quotes"),
            ("\"{\"", E::Json, "at its byte 1"),
        ] {
            let refused = written(raw, encoding).unwrap_err();
            assert!(refused.contains(why), "{raw} {encoding:?}: {refused}");
        }
    }
}
