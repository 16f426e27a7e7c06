//! Arrow columns in PostgreSQL's binary format: as array parameters and as rows of COPY.
//!
//! Owns: the bytes of each type. Does not own: which statement they go into.
//!
//! A column is matched with its PostgreSQL type once ([`Elements::new`]); after that a value costs
//! no allocation and no second look at its type. The formats are those of PostgreSQL's `*_recv`
//! functions (src/backend/utils/adt): big endian, dates and instants counted from 2000-01-01,
//! `numeric` as digits of base 10,000.

use crate::{
    catalog::PgType,
    error::{Error, Result},
};
use arrow::{
    array::{
        Array, AsArray, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array,
        Decimal256Array, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array,
        LargeBinaryArray, LargeStringArray, StringArray, StringViewArray,
        TimestampMicrosecondArray,
    },
    datatypes::{DataType, TimeUnit, i256},
};
use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};

/// Days and microseconds from 1970-01-01 to 2000-01-01.
const DAYS_TO_2000: i32 = 10_957;
const MICROS_TO_2000: i64 = DAYS_TO_2000 as i64 * 86_400_000_000;

type AnyError = Box<dyn std::error::Error + Sync + Send>;

/// One Arrow column, ready to be written as one PostgreSQL type.
pub struct Elements<'a> {
    array: &'a dyn Array,
    form: Form<'a>,
    element: Type,
}

/// How a value is written; each case holds the array by its own type.
enum Form<'a> {
    Boolean(&'a BooleanArray),
    Int2(&'a Int16Array),
    Int4(&'a Int32Array),
    Int8(&'a Int64Array),
    Float4(&'a Float32Array),
    Float8(&'a Float64Array),
    NumericOfInt(&'a Int64Array),
    Numeric(&'a Decimal128Array, u8),
    WideNumeric(&'a Decimal256Array, u8),
    Date(&'a Date32Array),
    Instant(&'a TimestampMicrosecondArray),
    Text(Strings<'a>),
    Uuid(Strings<'a>),
    Jsonb(Strings<'a>),
    Bytes(&'a BinaryArray),
    LargeBytes(&'a LargeBinaryArray),
    BytesView(&'a BinaryViewArray),
}

enum Strings<'a> {
    Small(&'a StringArray),
    Large(&'a LargeStringArray),
    View(&'a StringViewArray),
}

impl<'a> Strings<'a> {
    fn new(array: &'a dyn Array) -> Option<Self> {
        match array.data_type() {
            DataType::Utf8 => Some(Self::Small(array.as_string())),
            DataType::LargeUtf8 => Some(Self::Large(array.as_string())),
            DataType::Utf8View => Some(Self::View(array.as_string_view())),
            _ => None,
        }
    }

    fn value(&self, row: usize) -> &str {
        match self {
            Self::Small(array) => array.value(row),
            Self::Large(array) => array.value(row),
            Self::View(array) => array.value(row),
        }
    }
}

impl<'a> Elements<'a> {
    /// `name` is for the message: that this Arrow type cannot be written as this PostgreSQL type.
    pub fn new(name: &str, array: &'a dyn Array, pg: PgType) -> Result<Self> {
        let given = array.data_type();
        let form = match (pg, given) {
            (PgType::Boolean, DataType::Boolean) => Form::Boolean(array.as_boolean()),
            (PgType::SmallInt, DataType::Int16) => Form::Int2(array.as_primitive()),
            (PgType::Integer, DataType::Int32) => Form::Int4(array.as_primitive()),
            (PgType::BigInt, DataType::Int64) => Form::Int8(array.as_primitive()),
            (PgType::Real, DataType::Float32) => Form::Float4(array.as_primitive()),
            (PgType::Double, DataType::Float64) => Form::Float8(array.as_primitive()),
            (PgType::Numeric(..) | PgType::NumericAny, DataType::Int64) => {
                Form::NumericOfInt(array.as_primitive())
            }
            (PgType::Numeric(..) | PgType::NumericAny, DataType::Decimal128(_, s @ 0..)) => {
                Form::Numeric(array.as_primitive(), *s as u8)
            }
            (PgType::NumericAny, DataType::Decimal256(_, s @ 0..)) => {
                Form::WideNumeric(array.as_primitive(), *s as u8)
            }
            (PgType::Date, DataType::Date32) => Form::Date(array.as_primitive()),
            (PgType::Timestamptz, DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                Form::Instant(array.as_primitive())
            }
            (PgType::Bytea, DataType::Binary) => Form::Bytes(array.as_binary()),
            (PgType::Bytea, DataType::LargeBinary) => Form::LargeBytes(array.as_binary()),
            (PgType::Bytea, DataType::BinaryView) => Form::BytesView(array.as_binary_view()),
            (PgType::Text | PgType::Uuid | PgType::Jsonb, _) => match Strings::new(array) {
                Some(strings) if pg == PgType::Uuid => Form::Uuid(strings),
                Some(strings) if pg == PgType::Jsonb => Form::Jsonb(strings),
                Some(strings) => Form::Text(strings),
                None => return Err(cannot_write(name, given, pg)),
            },
            _ => return Err(cannot_write(name, given, pg)),
        };
        Ok(Self { array, form, element: element_type(pg) })
    }

    /// Writes the value of `row` as PostgreSQL frames it everywhere: its length, then its bytes;
    /// NULL is the length -1.
    pub fn put(&self, row: usize, out: &mut BytesMut) -> Result<(), AnyError> {
        if self.array.is_null(row) {
            out.put_i32(-1);
            return Ok(());
        }
        match &self.form {
            Form::Boolean(a) => {
                out.put_i32(1);
                out.put_u8(a.value(row) as u8);
            }
            Form::Int2(a) => {
                out.put_i32(2);
                out.put_i16(a.value(row));
            }
            Form::Int4(a) => {
                out.put_i32(4);
                out.put_i32(a.value(row));
            }
            Form::Int8(a) => {
                out.put_i32(8);
                out.put_i64(a.value(row));
            }
            Form::Float4(a) => {
                out.put_i32(4);
                out.put_f32(a.value(row));
            }
            Form::Float8(a) => {
                out.put_i32(8);
                out.put_f64(a.value(row));
            }
            Form::NumericOfInt(a) => put_numeric(a.value(row).into(), 0, out),
            Form::Numeric(a, scale) => put_numeric(a.value(row), *scale, out),
            Form::WideNumeric(a, scale) => put_wide_numeric(a.value(row), *scale, out),
            Form::Date(a) => {
                out.put_i32(4);
                out.put_i32(a.value(row) - DAYS_TO_2000);
            }
            Form::Instant(a) => {
                out.put_i32(8);
                out.put_i64(a.value(row) - MICROS_TO_2000);
            }
            Form::Text(a) => put_bytes(a.value(row).as_bytes(), out)?,
            Form::Uuid(a) => {
                out.put_i32(16);
                out.put_slice(&uuid_of(a.value(row))?);
            }
            Form::Jsonb(a) => {
                let text = a.value(row).as_bytes();
                out.put_i32(i32::try_from(text.len() + 1)?);
                // The version of jsonb's binary format; there has been one only.
                out.put_u8(1);
                out.put_slice(text);
            }
            Form::Bytes(a) => put_bytes(a.value(row), out)?,
            Form::LargeBytes(a) => put_bytes(a.value(row), out)?,
            Form::BytesView(a) => put_bytes(a.value(row), out)?,
        }
        Ok(())
    }

    pub fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    /// Rows `from..to` as one array parameter.
    pub fn slice(&'a self, from: usize, to: usize) -> ArrayParameter<'a> {
        ArrayParameter { elements: self, from, to }
    }
}

impl std::fmt::Debug for Elements<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows of {}", self.array.len(), self.element)
    }
}

fn cannot_write(name: &str, given: &DataType, pg: PgType) -> Error {
    Error::halt(format!("a column cannot be written, column={name} arrow={given} postgres={pg}"))
}

/// The type of one element; numeric's bounds are the table's business.
fn element_type(pg: PgType) -> Type {
    match pg {
        PgType::Text => Type::TEXT,
        PgType::Boolean => Type::BOOL,
        PgType::SmallInt => Type::INT2,
        PgType::Integer => Type::INT4,
        PgType::BigInt => Type::INT8,
        PgType::Real => Type::FLOAT4,
        PgType::Double => Type::FLOAT8,
        PgType::Numeric(..) | PgType::NumericAny => Type::NUMERIC,
        PgType::Date => Type::DATE,
        PgType::Timestamptz => Type::TIMESTAMPTZ,
        PgType::Uuid => Type::UUID,
        PgType::Jsonb => Type::JSONB,
        PgType::Bytea => Type::BYTEA,
    }
}

/// A column, or a piece of it, as a parameter of an array type: `unnest($1::text[], …)`.
#[derive(Debug)]
pub struct ArrayParameter<'a> {
    elements: &'a Elements<'a>,
    from: usize,
    to: usize,
}

impl ToSql for ArrayParameter<'_> {
    /// The binary array format (`array_recv`): dimensions, whether there are NULLs, the elements'
    /// type, then per dimension its length and lower bound, then the elements.
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        out.put_i32(1);
        out.put_i32((self.elements.array.null_count() > 0) as i32);
        out.put_u32(self.elements.element.oid());
        out.put_i32(i32::try_from(self.to - self.from)?);
        out.put_i32(1);
        for row in self.from..self.to {
            self.elements.put(row, out)?;
        }
        Ok(IsNull::No)
    }

    /// Each statement casts its parameters, so only a statement of another model could differ;
    /// the server checks the elements' type again.
    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

/// Rows in the format of `COPY … FROM STDIN (FORMAT binary)`.
pub mod copy {
    use super::{AnyError, BufMut, BytesMut, Elements};

    /// The signature, no flags, no header extension.
    pub fn put_header(out: &mut BytesMut) {
        out.put_slice(b"PGCOPY\n\xff\r\n\0");
        out.put_i64(0);
    }

    pub fn put_row(
        columns: &[Elements<'_>],
        row: usize,
        out: &mut BytesMut,
    ) -> Result<(), AnyError> {
        out.put_i16(columns.len() as i16);
        columns.iter().try_for_each(|column| column.put(row, out))
    }

    pub fn put_trailer(out: &mut BytesMut) {
        out.put_i16(-1);
    }
}

fn put_bytes(bytes: &[u8], out: &mut BytesMut) -> Result<(), AnyError> {
    out.put_i32(i32::try_from(bytes.len())?);
    out.put_slice(bytes);
    Ok(())
}

/// `unscaled / 10^scale` in PostgreSQL's numeric: digits of base 10,000 around the decimal point,
/// without leading or trailing zero digits; `scale` is kept as the digits to show.
fn put_numeric(unscaled: i128, scale: u8, out: &mut BytesMut) {
    // 2^127 has 39 decimal digits: 10 of base 10,000, and one more where the point splits one.
    let mut digits = [0u16; 12];
    let mut count = 0;
    // The last digit holds `scale % 4` decimal places; shifting it left, instead of the whole
    // number, is what keeps 38 decimal digits within 128 bits.
    let rest = u32::from(scale % 4);
    let mut value = unscaled.unsigned_abs();
    if rest > 0 {
        let unit = 10u128.pow(rest);
        digits[0] = ((value % unit) as u16) * 10u16.pow(4 - rest);
        value /= unit;
        count = 1;
    }
    while value > u128::from(u64::MAX) {
        digits[count] = (value % 10_000) as u16;
        value /= 10_000;
        count += 1;
    }
    // Most values fit 64 bits, where division costs a tenth.
    let mut value = value as u64;
    while value > 0 {
        digits[count] = (value % 10_000) as u16;
        value /= 10_000;
        count += 1;
    }
    put_digits(&digits[..count], unscaled < 0, scale, out);
}

/// The same of 256 bits.
fn put_wide_numeric(unscaled: i256, scale: u8, out: &mut BytesMut) {
    if let Some(narrow) = unscaled.to_i128() {
        return put_numeric(narrow, scale, out);
    }
    // Each digit is of the absolute value, which need not fit: the remainder has the sign.
    let next = |value: i256, unit: u16| {
        let unit = i256::from_i128(unit.into());
        let rest = value.wrapping_rem(unit).as_i128().unsigned_abs() as u16;
        (value.wrapping_div(unit), rest)
    };
    let (mut value, mut digits) = (unscaled, Vec::with_capacity(22));
    let rest = u32::from(scale % 4);
    if rest > 0 {
        let (whole, part) = next(value, 10u16.pow(rest));
        digits.push(part * 10u16.pow(4 - rest));
        value = whole;
    }
    while value != i256::ZERO {
        let (whole, digit) = next(value, 10_000);
        digits.push(digit);
        value = whole;
    }
    put_digits(&digits, unscaled.is_negative(), scale, out);
}

/// Digits of base 10,000, the last of the fraction first.
fn put_digits(digits: &[u16], negative: bool, scale: u8, out: &mut BytesMut) {
    let fraction_digits = usize::from(scale).div_ceil(4);
    let mut count = digits.len();
    while count > 0 && digits[count - 1] == 0 {
        count -= 1;
    }
    let low = digits[..count].iter().take_while(|digit| **digit == 0).count();
    let kept = &digits[low..count];

    out.put_i32(8 + 2 * kept.len() as i32);
    out.put_i16(kept.len() as i16);
    // The place of the first digit: 0 is the one just before the decimal point.
    let weight = if kept.is_empty() { 0 } else { count as i16 - fraction_digits as i16 - 1 };
    out.put_i16(weight);
    out.put_u16(if negative && !kept.is_empty() { 0x4000 } else { 0 });
    out.put_u16(scale.into());
    kept.iter().rev().for_each(|digit| out.put_u16(*digit));
}

/// 32 hexadecimal digits, hyphens between them ignored.
fn uuid_of(text: &str) -> Result<[u8; 16], AnyError> {
    let mut bytes = [0u8; 16];
    let mut count = 0;
    for byte in text.bytes().filter(|byte| *byte != b'-') {
        let digit = (byte as char).to_digit(16).filter(|_| count < 32);
        let digit = digit.ok_or_else(|| format!("not a uuid: {text:?}"))? as u8;
        bytes[count / 2] = bytes[count / 2] << 4 | digit;
        count += 1;
    }
    if count == 32 { Ok(bytes) } else { Err(format!("not a uuid: {text:?}").into()) }
}

/// A timestamptz as microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instant(pub i64);

impl ToSql for Instant {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        out.put_i64(self.0 - MICROS_TO_2000);
        Ok(IsNull::No)
    }
    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
    tokio_postgres::types::to_sql_checked!();
}

impl<'a> FromSql<'a> for Instant {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, AnyError> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?) + MICROS_TO_2000))
    }
    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// PostgreSQL's numeric as text, the slow way: every digit by hand.
    fn read_numeric(raw: &[u8]) -> String {
        let word = |at: usize| i16::from_be_bytes([raw[at], raw[at + 1]]);
        assert_eq!(i32::from_be_bytes(raw[..4].try_into().unwrap()) as usize, raw.len() - 4);
        let (count, weight, sign, scale) = (word(4), word(6), word(8), word(10) as usize);
        assert_eq!(raw.len(), 12 + 2 * count as usize);
        let digit = |place: i16| {
            let index = weight - place;
            if (0..count).contains(&index) { word(12 + 2 * index as usize) } else { 0 }
        };
        if count > 0 {
            assert_ne!(digit(weight), 0, "leading zero digit");
            assert_ne!(digit(weight - count + 1), 0, "trailing zero digit");
        }
        let whole: String = (0..=weight.max(0)).rev().map(|p| format!("{:04}", digit(p))).collect();
        let part: String = (1..=10).map(|p| format!("{:04}", digit(-p))).collect();
        let whole = match whole.trim_start_matches('0') {
            "" => "0",
            digits => digits,
        };
        let point = if scale > 0 { "." } else { "" };
        format!("{}{whole}{point}{}", if sign == 0 { "" } else { "-" }, &part[..scale])
    }

    fn decimal(unscaled: i128, scale: u8) -> String {
        let digits = format!("{:0width$}", unscaled.unsigned_abs(), width = scale as usize + 1);
        let (whole, part) = digits.split_at(digits.len() - scale as usize);
        let point = if scale > 0 { "." } else { "" };
        format!("{}{whole}{point}{part}", if unscaled < 0 { "-" } else { "" })
    }

    fn written(unscaled: i128, scale: u8) -> String {
        let mut out = BytesMut::new();
        put_numeric(unscaled, scale, &mut out);
        read_numeric(&out)
    }

    proptest! {
        #[test]
        fn a_numeric_reads_back_as_it_was(unscaled: i128, shift in 0u32..127, scale in 0u8..=38) {
            let unscaled = unscaled >> shift;
            prop_assert_eq!(written(unscaled, scale), decimal(unscaled, scale));
        }
    }

    proptest! {
        #[test]
        fn a_wide_numeric_is_the_narrow_one_with_more_digits(
            high in 1i128..10i128.pow(36), low in 0u64..10_000_000_000, scale in 0u8..=39, negative: bool,
        ) {
            // high * 10^40 + low, beyond 128 bits.
            let whole = i256::from_string(&format!("{high}{low:040}")).unwrap();
            let whole = if negative { whole.wrapping_neg() } else { whole };
            let mut out = BytesMut::new();
            put_wide_numeric(whole, scale, &mut out);
            let digits = format!("{high}{low:040}");
            let (left, right) = digits.split_at(digits.len() - scale as usize);
            let point = if scale > 0 { "." } else { "" };
            let sign = if negative { "-" } else { "" };
            prop_assert_eq!(read_numeric(&out), format!("{sign}{left}{point}{right}"));
        }
    }

    #[test]
    fn numerics_at_the_edges_read_back() {
        for scale in 0..=38 {
            for unscaled in [0, 1, -1, 9_999, 10_000, 99_999_999, i128::MAX, i128::MIN] {
                assert_eq!(written(unscaled, scale), decimal(unscaled, scale));
            }
            let power = 10i128.pow(scale.into());
            assert_eq!(written(power, scale), decimal(power, scale));
        }
    }

    #[test]
    fn an_array_says_its_length_its_type_and_its_nulls() {
        let array = Int32Array::from(vec![Some(1), None, Some(-1)]);
        let elements = Elements::new("n", &array, PgType::Integer).unwrap();
        let mut out = BytesMut::new();
        elements.slice(1, 3).to_sql(&Type::INT4_ARRAY, &mut out).unwrap();
        let words: Vec<i32> =
            out.chunks(4).map(|w| i32::from_be_bytes(w.try_into().unwrap())).collect();
        assert_eq!(words, [1, 1, 23, 2, 1, -1, 4, -1]);
    }

    #[test]
    fn a_column_of_the_wrong_type_is_named() {
        let array = Int32Array::from(vec![1]);
        let error = Elements::new("taps", &array, PgType::BigInt).unwrap_err();
        assert_eq!(
            error.context,
            "a column cannot be written, column=taps arrow=Int32 postgres=bigint"
        );
    }

    #[test]
    fn a_uuid_is_read_from_its_text_or_refused() {
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(uuid_of(text).unwrap()[..3], [0x00, 0x11, 0x22]);
        for wrong in ["", "0011", "zz112233-4455-6677-8899-aabbccddeeff", &format!("{text}0")] {
            assert!(uuid_of(wrong).is_err(), "{wrong}");
        }
    }
}
