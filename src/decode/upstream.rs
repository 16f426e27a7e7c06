//! The source's table, as the schema of a record of Kafka Connect's tells it.
//!
//! Owns: Connect's types and Debezium's semantic ones as PostgreSQL's. Does not own: how values are
//! written (`encoding`), what a difference means (`catalog::drift`), schemas of Avro (`avro`).
//!
//! Sources: as of `encoding`; `connect.decimal.precision` is what Debezium's connectors put beside the scale.

use super::scan::{elements, members};
use crate::catalog::{PgType, drift::UpstreamColumn};

/// The fields of a struct; those of a flattened record that are no columns are left out.
pub fn columns(schema: &str) -> Vec<UpstreamColumn> {
    let mut found = Vec::new();
    let _ = members(schema, |key, fields| {
        if key == "fields" {
            let _ = elements(fields, |field| found.extend(column(field)));
        }
    });
    found
}

fn column(field: &str) -> Option<UpstreamColumn> {
    let (mut name, mut kind, mut semantic) = (None, "", "");
    let (mut scale, mut precision) = (None, None);
    let _ = members(field, |key, raw| match key {
        "field" => name = serde_json::from_str::<String>(raw).ok(),
        "type" => kind = raw.trim_matches('"'),
        "name" => semantic = raw.trim_matches('"'),
        "parameters" => {
            let _ = members(raw, |key, raw| match key {
                "scale" => scale = raw.trim_matches('"').parse().ok(),
                "connect.decimal.precision" => precision = raw.trim_matches('"').parse().ok(),
                _ => {}
            });
        }
        _ => {}
    });
    let name = name.filter(|name| !is_added_by_flattening(name))?;
    Some(UpstreamColumn { name, pg: natural(kind, semantic, (precision, scale)) })
}

/// `__op`, `__deleted`, `__source_lsn`: of the change, and no column of the table.
pub fn is_added_by_flattening(name: &str) -> bool {
    name.starts_with("__")
}

/// The narrowest type for a type of Connect's.
pub fn natural(kind: &str, semantic: &str, digits: (Option<u8>, Option<i8>)) -> PgType {
    match semantic {
        "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date" => PgType::Date,
        "io.debezium.time.Timestamp"
        | "io.debezium.time.MicroTimestamp"
        | "io.debezium.time.NanoTimestamp"
        | "io.debezium.time.ZonedTimestamp"
        | "org.apache.kafka.connect.data.Timestamp" => PgType::Timestamptz,
        "io.debezium.time.Time"
        | "io.debezium.time.MicroTime"
        | "io.debezium.time.NanoTime"
        | "io.debezium.time.ZonedTime"
        | "io.debezium.time.MicroDuration"
        | "io.debezium.time.NanoDuration"
        | "io.debezium.time.Interval"
        | "org.apache.kafka.connect.data.Time" => PgType::Text,
        "org.apache.kafka.connect.data.Decimal" => decimal(digits),
        "io.debezium.data.VariableScaleDecimal" => PgType::NumericAny,
        "io.debezium.data.Uuid" => PgType::Uuid,
        "io.debezium.data.Json" => PgType::Jsonb,
        _ => match kind {
            "boolean" => PgType::Boolean,
            "int8" | "int16" => PgType::SmallInt,
            "int32" => PgType::Integer,
            "int64" => PgType::BigInt,
            "float32" | "float" => PgType::Real,
            "float64" | "double" => PgType::Double,
            "bytes" => PgType::Bytea,
            "array" | "map" | "struct" => PgType::Jsonb,
            _ => PgType::Text,
        },
    }
}

/// Where the digits are not told, or more than a file keeps, nobody knows what fits.
pub fn decimal((precision, scale): (Option<u8>, Option<i8>)) -> PgType {
    match (precision, scale.unwrap_or(0)) {
        (Some(precision @ 1..=38), scale) if (0..=precision as i8).contains(&scale) => {
            PgType::Numeric(precision, scale)
        }
        _ => PgType::NumericAny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_tells_columns_with_the_types_of_the_source() {
        let schema = r#"{"type":"struct","fields":[
            {"type":"int32","optional":false,"field":"id"},
            {"type":"bytes","optional":true,"name":"org.apache.kafka.connect.data.Decimal","version":1,
             "parameters":{"scale":"2","connect.decimal.precision":"12"},"field":"price"},
            {"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"},"field":"fee"},
            {"type":"int64","optional":true,"name":"io.debezium.time.MicroTimestamp","field":"made\u0041t"},
            {"type":"string","optional":true,"name":"io.debezium.data.Enum","field":"kind"},
            {"type":"array","items":{"type":"string"},"field":"tags"},
            {"type":"string","field":"__op"}],"optional":true,"name":"s.public.t.Value","field":"after"}"#;
        let told: Vec<_> = columns(schema).into_iter().map(|c| (c.name, c.pg)).collect();
        let expected = [
            ("id", PgType::Integer),
            ("price", PgType::Numeric(12, 2)),
            ("fee", PgType::NumericAny),
            ("madeAt", PgType::Timestamptz),
            ("kind", PgType::Text),
            ("tags", PgType::Jsonb),
        ];
        assert_eq!(told, expected.map(|(name, pg)| (name.to_owned(), pg)));
        assert_eq!(columns("{"), [], "what is broken tells nothing, and is refused elsewhere");
    }
}
