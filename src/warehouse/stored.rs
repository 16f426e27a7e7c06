//! Stored rows read back into Arrow, as they were before they were written.
//!
//! Owns: how each type is asked for and read. Does not own: statements, how a value is written
//! (`encode`).

use super::{
    encode::Instant,
    postgres::Row,
    tables::{list, quoted},
};
use crate::{
    catalog::PgType,
    error::{Error, Result},
};
use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
        Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray,
    },
    datatypes::{Field, Schema},
};
use std::sync::Arc;
use tokio_postgres::types::{FromSql, Type};

/// Days from 1970-01-01 to 2000-01-01.
const DAYS_TO_2000: i32 = 10_957;

/// The columns of the table `s`, as [`batch`] reads them.
pub fn selected(columns: &[(String, PgType)]) -> String {
    list(columns, |(name, pg)| {
        let name = quoted(name);
        match pg {
            PgType::Numeric(..) | PgType::NumericAny | PgType::Uuid => {
                format!("s.{name}::text AS {name}")
            }
            _ => format!("s.{name}"),
        }
    })
}

/// What is stored of every row.
const NEVER_NULL: [&str; 9] = [
    "_event_time",
    "_source_position",
    "_partition",
    "_offset",
    "_deleted",
    "_image",
    "_op",
    "_moved",
    "_read",
];

/// Rows of `selected`.
pub fn batch(columns: &[(String, PgType)], rows: &[Row]) -> Result<RecordBatch> {
    let arrays = columns.iter().enumerate().map(|(i, (name, pg))| {
        let array = column(rows, i, *pg);
        array.ok_or_else(|| Error::halt(format!("a stored value cannot be read, column={name}")))
    });
    let arrays = arrays.collect::<Result<Vec<_>>>()?;
    let fields = columns.iter().zip(&arrays).map(|((name, _), array)| {
        let never = NEVER_NULL.contains(&name.as_str());
        Field::new(name, array.data_type().clone(), !never)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, arrays).map_err(|e| Error::halt("read stored rows").because(e))
}

fn column(rows: &[Row], i: usize, pg: PgType) -> Option<ArrayRef> {
    fn of<'r, T: FromSql<'r>>(rows: &'r [Row], i: usize) -> impl Iterator<Item = Option<T>> {
        rows.iter().map(move |row| row.get::<_, Option<T>>(i))
    }
    Some(match pg {
        PgType::Text | PgType::Uuid => Arc::new(of::<&str>(rows, i).collect::<StringArray>()),
        PgType::Jsonb => return None,
        PgType::Boolean => Arc::new(of::<bool>(rows, i).collect::<BooleanArray>()),
        PgType::SmallInt => Arc::new(of::<i16>(rows, i).collect::<Int16Array>()),
        PgType::Integer => Arc::new(of::<i32>(rows, i).collect::<Int32Array>()),
        PgType::BigInt => Arc::new(of::<i64>(rows, i).collect::<Int64Array>()),
        PgType::Real => Arc::new(of::<f32>(rows, i).collect::<Float32Array>()),
        PgType::Double => Arc::new(of::<f64>(rows, i).collect::<Float64Array>()),
        PgType::Bytea => Arc::new(of::<&[u8]>(rows, i).collect::<BinaryArray>()),
        PgType::Date => {
            let days = of::<Day>(rows, i).map(|day| day.map(|day| day.0));
            Arc::new(days.collect::<Date32Array>())
        }
        PgType::Timestamptz => {
            let times = of::<Instant>(rows, i).map(|instant| instant.map(|instant| instant.0));
            Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        PgType::Numeric(precision, scale) => {
            let unscaled = of::<&str>(rows, i).map(|text| match text {
                None => Some(None),
                Some(text) => unscaled(text, scale).map(Some),
            });
            let unscaled = unscaled.collect::<Option<Vec<Option<i128>>>>()?;
            let array = Decimal128Array::from(unscaled);
            Arc::new(array.with_precision_and_scale(precision, scale).ok()?)
        }
        PgType::NumericAny => return None,
    })
}

/// A number as PostgreSQL writes one of this scale: that many digits behind the point.
fn unscaled(text: &str, scale: i8) -> Option<i128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    (part.len() == scale as usize).then(|| format!("{whole}{part}").parse().ok())?
}

/// A date as days since 1970.
struct Day(i32);

impl<'a> FromSql<'a> for Day {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(i32::from_be_bytes(raw.try_into()?) + DAYS_TO_2000))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::DATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_with_all_its_digits() {
        let all = "99999999999999999999999999999999999999";
        assert_eq!(unscaled(all, 0), all.parse().ok());
        assert_eq!(unscaled("-0.05", 2), Some(-5));
        assert_eq!(unscaled("12.50", 2), Some(1250));
        assert_eq!(unscaled("12.5", 2), None);
        assert_eq!(unscaled("NaN", 0), None);
    }
}
