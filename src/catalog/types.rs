//! PostgreSQL's types as users write them, and the Arrow types that carry them.

use arrow::datatypes::{DataType, TimeUnit};
use std::{fmt, sync::Arc};

/// A column type in PostgreSQL's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PgType {
    Text,
    Boolean,
    SmallInt,
    Integer,
    BigInt,
    Real,
    Double,
    /// `numeric(p,s)`, 1 <= p <= 38, 0 <= s <= p.
    Numeric(u8, i8),
    /// `numeric` without bounds; only of kept tables (sums), never of a topic's column.
    NumericAny,
    Date,
    Timestamptz,
    /// Carried as its canonical lower-case text.
    Uuid,
    /// Carried as JSON text.
    Jsonb,
    Bytea,
}

/// Instants everywhere: microseconds, UTC.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
}

impl PgType {
    /// How the column travels through decode, models and the lake.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Text | Self::Uuid | Self::Jsonb => DataType::Utf8,
            Self::Boolean => DataType::Boolean,
            Self::SmallInt => DataType::Int16,
            Self::Integer => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Real => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Numeric(p, s) => DataType::Decimal128(p, s),
            Self::NumericAny => DataType::Decimal128(38, 0),
            Self::Date => DataType::Date32,
            Self::Timestamptz => timestamp(),
            Self::Bytea => DataType::Binary,
        }
    }
}

impl fmt::Display for PgType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Boolean => f.write_str("boolean"),
            Self::SmallInt => f.write_str("smallint"),
            Self::Integer => f.write_str("integer"),
            Self::BigInt => f.write_str("bigint"),
            Self::Real => f.write_str("real"),
            Self::Double => f.write_str("double precision"),
            Self::Numeric(p, s) => write!(f, "numeric({p},{s})"),
            Self::NumericAny => f.write_str("numeric"),
            Self::Date => f.write_str("date"),
            Self::Timestamptz => f.write_str("timestamptz"),
            Self::Uuid => f.write_str("uuid"),
            Self::Jsonb => f.write_str("jsonb"),
            Self::Bytea => f.write_str("bytea"),
        }
    }
}
