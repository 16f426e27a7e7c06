//! `surrogate_key(a, b, …)`: one bigint for the values that name a thing, the same for good.
//!
//! Owns: which types it takes, how values are written for the hash. Does not own: SHA-256.
//!
//! The key is the first eight bytes, big-endian, of SHA-256 (FIPS 180-4) of the arguments one after
//! another. NULL is written `-`; every other value as its kind, the number of bytes that follow the
//! colon, a colon, and those bytes:
//!
//! | type | kind | bytes |
//! | --- | --- | --- |
//! | text, uuid | `t` | UTF-8 as it is |
//! | smallint, integer, bigint, numeric | `n` | decimal digits, `-` before them; no zeros before or behind that say nothing |
//! | boolean | `b` | `true`, `false` |
//! | date | `d` | days since 1970-01-01 |
//! | timestamptz | `i` | microseconds since 1970-01-01 UTC |
//! | bytea | `x` | lower-case hexadecimal |
//!
//! So `surrogate_key('ab', 7, NULL)` is of `t2:abn1:7-`. Each item says where it ends, so no two lists of values are
//! written alike. A column that becomes wider (integer to bigint, numeric(10,2) to numeric(12,4)) keeps its keys.
//!
//! SHA-256 because PostgreSQL and every language can compute it: a key can be made wherever a row is
//! looked up. Stored keys depend on all of the above: none of it may ever change.

use super::PgType;
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array,
        Int64Array, StringArray, TimestampMicrosecondArray,
    },
    datatypes::{
        DataType, Date32Type, Decimal128Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    },
};
use datafusion_common::{
    Result, ScalarValue, exec_err, plan_err,
    tree_node::{TreeNode, TreeNodeRecursion},
};
use datafusion_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use sha2::{Digest, Sha256};
use std::{fmt::Write, sync::Arc};

const NAME: &str = "surrogate_key";

/// As DataFusion calls it.
pub fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(SurrogateKey {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

/// Whether the expression makes a key of a jsonb column, whose text is what its producer wrote.
pub fn is_of_jsonb(expr: &Expr, kept: impl Fn(&str) -> Option<PgType>) -> bool {
    let is_jsonb = |arg: &Expr| match arg {
        Expr::Column(column) => kept(column.name()) == Some(PgType::Jsonb),
        _ => false,
    };
    let mut found = false;
    let _ = expr.apply(|e| {
        if let Expr::ScalarFunction(call) = e {
            found |= call.func.name() == NAME && call.args.iter().any(is_jsonb);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SurrogateKey {
    signature: Signature,
}

impl ScalarUDFImpl for SurrogateKey {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [] => plan_err!("{NAME} takes one argument or more"),
            _ => Ok(DataType::Int64),
        }
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        types.iter().map(written_as).collect()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let values = arrays.iter().map(Values::new).collect::<Result<Vec<_>>>()?;
        let rows = arrays.first().map_or(0, |array| array.len());
        let (mut text, mut digits) = (String::new(), String::new());
        let keys = (0..rows).map(|row| {
            text.clear();
            for value in &values {
                value.write(row, &mut text, &mut digits);
            }
            key(text.as_bytes())
        });
        let keys = Int64Array::from_iter_values(keys);
        Ok(match is_constant {
            true => ColumnarValue::Scalar(ScalarValue::Int64(Some(keys.value(0)))),
            false => ColumnarValue::Array(Arc::new(keys)),
        })
    }
}

fn key(text: &[u8]) -> i64 {
    let hash = Sha256::digest(text);
    i64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"))
}

/// The type that a value is brought to before it is written.
fn written_as(given: &DataType) -> Result<DataType> {
    Ok(match given {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
            DataType::Utf8
        }
        DataType::Dictionary(_, value) => return written_as(value),
        DataType::UInt64 => DataType::Decimal128(20, 0),
        whole if whole.is_integer() => DataType::Int64,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s)
            if *s >= 0 =>
        {
            DataType::Decimal128(*p, *s)
        }
        DataType::Boolean => DataType::Boolean,
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => DataType::Binary,
        other if other.is_floating() => {
            return plan_err!(
                "a real or double precision has no one way to be written, so it makes no key; a cast to numeric(p,s) or \
                 text does"
            );
        }
        other => return plan_err!("a value of the type {other} makes no key"),
    })
}

/// One argument, row by row.
enum Values<'a> {
    Text(&'a StringArray),
    Whole(&'a Int64Array),
    Decimal(&'a Decimal128Array),
    Boolean(&'a BooleanArray),
    Date(&'a Date32Array),
    Instant(&'a TimestampMicrosecondArray),
    Bytes(&'a BinaryArray),
}

impl<'a> Values<'a> {
    fn new(array: &'a ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Utf8 => Self::Text(array.as_string()),
            DataType::Int64 => Self::Whole(array.as_primitive::<Int64Type>()),
            DataType::Decimal128(..) => Self::Decimal(array.as_primitive::<Decimal128Type>()),
            DataType::Boolean => Self::Boolean(array.as_boolean()),
            DataType::Date32 => Self::Date(array.as_primitive::<Date32Type>()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Instant(array.as_primitive::<TimestampMicrosecondType>())
            }
            DataType::Binary => Self::Bytes(array.as_binary()),
            other => return exec_err!("{NAME} of the type {other}"),
        })
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::Text(array) => *array,
            Self::Whole(array) => *array,
            Self::Decimal(array) => *array,
            Self::Boolean(array) => *array,
            Self::Date(array) => *array,
            Self::Instant(array) => *array,
            Self::Bytes(array) => *array,
        }
    }

    fn write(&self, row: usize, out: &mut String, digits: &mut String) {
        if self.array().is_null(row) {
            out.push('-');
            return;
        }
        digits.clear();
        // Writing to a String cannot fail.
        let (kind, bytes) = match self {
            Self::Text(array) => ('t', array.value(row)),
            Self::Whole(array) => {
                let _ = write!(digits, "{}", array.value(row));
                ('n', digits.as_str())
            }
            Self::Decimal(array) => {
                decimal(array.value(row), array.scale().unsigned_abs().into(), digits);
                ('n', digits.as_str())
            }
            Self::Boolean(array) => ('b', if array.value(row) { "true" } else { "false" }),
            Self::Date(array) => {
                let _ = write!(digits, "{}", array.value(row));
                ('d', digits.as_str())
            }
            Self::Instant(array) => {
                let _ = write!(digits, "{}", array.value(row));
                ('i', digits.as_str())
            }
            Self::Bytes(array) => {
                for byte in array.value(row) {
                    let _ = write!(digits, "{byte:02x}");
                }
                ('x', digits.as_str())
            }
        };
        let _ = write!(out, "{kind}{}:{bytes}", bytes.len());
    }
}

/// `value / 10^scale`, without zeros at its end.
fn decimal(mut value: i128, mut scale: usize, out: &mut String) {
    while scale > 0 && value % 10 == 0 {
        value /= 10;
        scale -= 1;
    }
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let point = if scale > 0 { "." } else { "" };
    let _ = write!(out, "{sign}{whole}{point}{fraction}");
}
