//! PostgreSQL's types as users write them, and the Arrow types that carry them.
//!
//! Owns: the spelling of types, both ways of the mapping. Does not own: values (see `decode` and
//! `warehouse`).

use super::mistake::unknown;
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

    /// The column type in PostgreSQL that holds what an expression of DataFusion's gives; None
    /// where nothing does. Types that PostgreSQL lacks take the next wider one.
    pub fn holding(arrow: &DataType) -> Option<Self> {
        Some(match arrow {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Dictionary(_, value) => return Self::holding(value),
            DataType::Boolean => Self::Boolean,
            DataType::Int8 | DataType::UInt8 | DataType::Int16 => Self::SmallInt,
            DataType::UInt16 | DataType::Int32 => Self::Integer,
            DataType::UInt32 | DataType::Int64 => Self::BigInt,
            DataType::UInt64 => Self::Numeric(20, 0),
            DataType::Float16 | DataType::Float32 => Self::Real,
            DataType::Float64 => Self::Double,
            DataType::Decimal32(p, s)
            | DataType::Decimal64(p, s)
            | DataType::Decimal128(p, s)
            | DataType::Decimal256(p, s)
                if *p <= 38 && *s >= 0 && *s <= *p as i8 =>
            {
                Self::Numeric(*p, *s)
            }
            DataType::Date32 | DataType::Date64 => Self::Date,
            // Without a zone it is UTC: every instant that an expression can meet is.
            DataType::Timestamp(..) => Self::Timestamptz,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Self::Bytea,
            _ => return None,
        })
    }

    /// Reads a type in PostgreSQL's spelling; the error says what is allowed instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let spelled = text.to_lowercase();
        let (head, arguments, tail) = match spelled.split_once('(') {
            Some((head, rest)) => {
                let (inner, tail) = rest
                    .split_once(')')
                    .ok_or_else(|| format!("the type `{text}` lacks its closing `)`"))?;
                let numbers: Result<Vec<i64>, _> =
                    inner.split(',').map(|n| n.trim().parse::<i64>()).collect();
                let numbers = numbers.map_err(|_| {
                    format!("the type `{text}` has something other than numbers in its brackets")
                })?;
                (head, Some(numbers), tail)
            }
            None => (spelled.as_str(), None, ""),
        };
        let words: Vec<&str> = head.split_whitespace().chain(tail.split_whitespace()).collect();
        let name = words.join(" ");
        let plain = |pg: Self| match &arguments {
            None => Ok(pg),
            Some(_) => Err(format!("`{text}`: {pg} takes no length. Allowed: {pg}")),
        };
        match name.as_str() {
            "text" => plain(Self::Text),
            "varchar" | "character varying" if arguments.is_none() => Ok(Self::Text),
            "varchar" | "character varying" | "char" | "character" | "bpchar" => Err(format!(
                "the type `{text}` limits a text's length, which a file of the lake does not \
                 keep. Allowed: text"
            )),
            "boolean" | "bool" => plain(Self::Boolean),
            "smallint" | "int2" => plain(Self::SmallInt),
            "integer" | "int" | "int4" => plain(Self::Integer),
            "bigint" | "int8" => plain(Self::BigInt),
            "real" | "float4" => plain(Self::Real),
            "double precision" | "float8" => plain(Self::Double),
            "float" => match arguments.as_deref() {
                None => Ok(Self::Double),
                Some([1..=24]) => Ok(Self::Real),
                Some([25..=53]) => Ok(Self::Double),
                Some(_) => Err(format!(
                    "`{text}`: float takes 1 to 53 bits. Allowed: double precision, real"
                )),
            },
            "numeric" | "decimal" | "dec" => numeric(text, arguments.as_deref()),
            "date" => plain(Self::Date),
            "timestamptz" | "timestamp with time zone" => match arguments.as_deref() {
                None | Some([6]) => Ok(Self::Timestamptz),
                Some(_) => Err(format!(
                    "`{text}`: instants are kept to the microsecond. Allowed: timestamptz"
                )),
            },
            "timestamp" | "timestamp without time zone" => Err(format!(
                "the type `{text}` does not say which instant it is. Allowed: timestamptz (a value without a zone \
                 is read as UTC)"
            )),
            "uuid" => plain(Self::Uuid),
            "jsonb" => plain(Self::Jsonb),
            "bytea" => plain(Self::Bytea),
            "json" => Err("the type `json` is not kept as such. Allowed: jsonb".to_owned()),
            "string" | "str" | "citext" | "name" => {
                Err(format!("the type `{text}` is not supported. Allowed: text"))
            }
            "serial" | "serial4" => Err(format!("`{text}` is an integer. Allowed: integer")),
            "bigserial" | "serial8" => Err(format!("`{text}` is a bigint. Allowed: bigint")),
            "money" => {
                Err("the type `money` depends on a locale. Allowed: numeric(19,2)".to_owned())
            }
            "datetime" => Err("PostgreSQL has no type `datetime`. Allowed: timestamptz".to_owned()),
            "float64" | "double" => {
                Err(format!("PostgreSQL has no type `{text}`. Allowed: double precision"))
            }
            "int16" | "int32" | "int64" | "long" => Err(format!(
                "PostgreSQL has no type `{text}`. Allowed: smallint (16 bits), integer (32), \
                 bigint (64)"
            )),
            other if other.ends_with("[]") || other.starts_with("array") => Err(format!(
                "the type `{text}` is an array, which is not supported yet. Allowed: jsonb"
            )),
            _ => Err(unknown("type", text, &ALLOWED)),
        }
    }
}

/// What a user may write, in one spelling each.
const ALLOWED: [&str; 13] = [
    "text",
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "real",
    "double precision",
    "numeric(p,s)",
    "date",
    "timestamptz",
    "uuid",
    "jsonb",
    "bytea",
];

fn numeric(text: &str, arguments: Option<&[i64]>) -> Result<PgType, String> {
    let (precision, scale) = match arguments {
        Some([precision]) => (*precision, 0),
        Some([precision, scale]) => (*precision, *scale),
        Some(_) => return Err(format!("`{text}` has too many numbers. Allowed: numeric(p,s)")),
        None => {
            return Err(format!(
                "`{text}` does not say its precision: files have a fixed one. Allowed: numeric(p,s) with p up to \
                 38, such as numeric(18,2)"
            ));
        }
    };
    if !(1..=38).contains(&precision) || !(0..=precision).contains(&scale) {
        return Err(format!(
            "`{text}` cannot be kept. Allowed: numeric(p,s) with 1 <= p <= 38 and 0 <= s <= p"
        ));
    }
    Ok(PgType::Numeric(precision as u8, scale as i8))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_in_postgresqls_spellings() {
        for (text, pg) in [
            ("text", PgType::Text),
            ("VARCHAR", PgType::Text),
            ("character  varying", PgType::Text),
            ("bool", PgType::Boolean),
            ("int2", PgType::SmallInt),
            ("int", PgType::Integer),
            ("INT4", PgType::Integer),
            ("int8", PgType::BigInt),
            ("float4", PgType::Real),
            ("float(24)", PgType::Real),
            ("float", PgType::Double),
            ("Double  Precision", PgType::Double),
            ("numeric(18,2)", PgType::Numeric(18, 2)),
            ("decimal( 38 , 0 )", PgType::Numeric(38, 0)),
            ("numeric (9)", PgType::Numeric(9, 0)),
            ("date", PgType::Date),
            ("timestamp with time zone", PgType::Timestamptz),
            ("timestamp(6) with time zone", PgType::Timestamptz),
            ("timestamptz", PgType::Timestamptz),
            ("uuid", PgType::Uuid),
            ("jsonb", PgType::Jsonb),
            ("bytea", PgType::Bytea),
        ] {
            assert_eq!(PgType::parse(text), Ok(pg), "{text}");
        }
    }

    #[test]
    fn a_refused_type_says_what_to_write_instead() {
        for (text, allowed) in [
            ("varchar(20)", "Allowed: text"),
            ("char(2)", "Allowed: text"),
            ("string", "Allowed: text"),
            ("timestamp", "Allowed: timestamptz"),
            ("timestamp without time zone", "Allowed: timestamptz"),
            ("timestamptz(3)", "Allowed: timestamptz"),
            ("datetime", "Allowed: timestamptz"),
            ("numeric", "say its precision"),
            ("decimal(39,2)", "1 <= p <= 38"),
            ("numeric(5,6)", "0 <= s <= p"),
            ("numeric(5,-1)", "0 <= s <= p"),
            ("numeric(1,2,3)", "too many"),
            ("numeric(5", "closing"),
            ("numeric(a)", "other than numbers"),
            ("int(11)", "takes no length"),
            ("int64", "bigint (64)"),
            ("json", "Allowed: jsonb"),
            ("text[]", "Allowed: jsonb"),
            ("money", "numeric(19,2)"),
            ("bigit", "did you mean `bigint`?"),
            ("interval", "unknown type `interval`"),
        ] {
            let error = PgType::parse(text).unwrap_err();
            assert!(error.contains(allowed), "{text}: {error}");
        }
    }

    #[test]
    fn every_type_is_held_by_its_own_arrow_type() {
        for text in [
            "text",
            "bool",
            "int2",
            "int4",
            "int8",
            "real",
            "float8",
            "numeric(9,3)",
            "date",
            "timestamptz",
            "bytea",
        ] {
            let pg = PgType::parse(text).unwrap();
            assert_eq!(PgType::holding(&pg.arrow()), Some(pg));
            assert_eq!(PgType::parse(&pg.to_string()), Ok(pg), "a type prints as it is read");
        }
        assert_eq!(PgType::holding(&DataType::UInt64), Some(PgType::Numeric(20, 0)));
        assert_eq!(PgType::holding(&DataType::Decimal256(40, 2)), None);
        assert_eq!(PgType::holding(&DataType::Null), None);
    }
}
