//! Numbers from decimal text, exactly (D-2): integers and `numeric` never wrap and never round.
//!
//! Owns: JSON numbers and the same written in strings, exponents included. Does not own: binary
//! floats' own rounding, which is what `real` and `double precision` mean.

use super::convert::Refusal;
use std::str::FromStr;

/// An integer within `min..=max`. `5.0` and `1e3` are whole numbers; `5.5` is refused.
#[inline]
pub fn integer(text: &str, min: i64, max: i64) -> Result<i64, Refusal> {
    let value = match short(text.as_bytes()) {
        Some(value) => value,
        None => match exact(text, 0) {
            Ok(value) => i64::try_from(value).map_err(|_| outside(min, max))?,
            Err(Inexact::NotANumber) => return Err(Refusal::shape("an integer is wanted")),
            Err(Inexact::Lossy) => {
                return Err(Refusal::range("an integer is wanted; this would be rounded"));
            }
            Err(Inexact::TooLarge) => return Err(outside(min, max)),
        },
    };
    if value < min || value > max { Err(outside(min, max)) } else { Ok(value) }
}

#[cold]
fn outside(min: i64, max: i64) -> Refusal {
    Refusal::range(format!("an integer from {min} to {max} is wanted"))
}

/// What nearly all integers look like: a sign and up to 18 digits, which cannot overflow.
#[inline]
fn short(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut value = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(if negative { -value } else { value })
}

/// `numeric(precision, scale)` as the integer value × 10^scale.
pub fn numeric(text: &str, precision: u8, scale: i8) -> Result<i128, Refusal> {
    match exact(text, scale) {
        Ok(value) if value.unsigned_abs() < 10u128.pow(u32::from(precision)) => Ok(value),
        Ok(_) | Err(Inexact::TooLarge) => {
            let before = i32::from(precision) - i32::from(scale);
            Err(Refusal::range(format!("at most {before} digits before the point are wanted")))
        }
        Err(Inexact::Lossy) => Err(Refusal::range(format!(
            "at most {scale} digits after the point are wanted; this would be rounded"
        ))),
        Err(Inexact::NotANumber) => Err(Refusal::shape("a decimal number is wanted")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inexact {
    NotANumber,
    Lossy,
    TooLarge,
}

/// A decimal text taken apart: `digits of int, digits of frac, × 10^exponent`.
struct Decimal<'a> {
    negative: bool,
    int: &'a [u8],
    frac: &'a [u8],
    exponent: i64,
}

impl<'a> Decimal<'a> {
    /// JSON's numbers, and what PostgreSQL takes besides: a plus, leading zeros, `.5`, `5.`.
    fn parse(text: &'a str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (int, rest) = digits(rest);
        let (frac, rest) = match rest {
            [b'.', rest @ ..] => digits(rest),
            rest => (&[][..], rest),
        };
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => {
                let (sign, rest) = match rest {
                    [b'-', rest @ ..] => (-1, rest),
                    [b'+', rest @ ..] => (1, rest),
                    rest => (1, rest),
                };
                let (power, rest) = digits(rest);
                if power.is_empty() || !rest.is_empty() {
                    return None;
                }
                // Held far below overflow; whatever is that large is out of any range.
                let add = |sum: i64, digit: &u8| (sum * 10 + i64::from(digit - b'0')).min(1 << 40);
                sign * power.iter().fold(0, add)
            }
            _ => return None,
        };
        (!int.is_empty() || !frac.is_empty()).then_some(Self { negative, int, frac, exponent })
    }

    fn digit(&self, place: usize) -> u8 {
        let byte = self.int.get(place).or_else(|| self.frac.get(place - self.int.len()));
        byte.map_or(0, |byte| byte - b'0')
    }

    /// Places of the first and the last digit that is not zero.
    fn significant(&self) -> Option<(usize, usize)> {
        let places = 0..self.int.len() + self.frac.len();
        let first = places.clone().find(|&place| self.digit(place) != 0)?;
        let last = places.rev().find(|&place| self.digit(place) != 0)?;
        Some((first, last))
    }
}

fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// The number × 10^scale, if that is an integer of at most 38 digits.
fn exact(text: &str, scale: i8) -> Result<i128, Inexact> {
    let decimal = Decimal::parse(text).ok_or(Inexact::NotANumber)?;
    let Some((first, last)) = decimal.significant() else { return Ok(0) };
    // The power of ten that the last significant digit stands for, after scaling.
    let power = decimal.exponent + decimal.int.len() as i64 - 1 - last as i64 + i64::from(scale);
    if (last - first + 1) as i64 + power > 38 {
        return Err(Inexact::TooLarge);
    }
    if power < 0 {
        return Err(Inexact::Lossy);
    }
    let mantissa = (first..=last).fold(0, |sum, place| sum * 10 + i128::from(decimal.digit(place)));
    let value = mantissa * 10i128.pow(power as u32);
    Ok(if decimal.negative { -value } else { value })
}

/// A binary float that the text names: the nearest one, as IEEE 754 and PostgreSQL have it, but
/// neither infinity nor zero in place of a number that is too large or too small.
pub fn float<T>(text: &str, named: bool) -> Result<T, Refusal>
where
    T: FromStr + Copy + Into<f64>,
{
    let special = named && matches!(text, "NaN" | "Infinity" | "-Infinity");
    // Rust's own parser takes more ("inf", "nan"), so the shape is checked when it is not JSON's.
    if named && !special && Decimal::parse(text).is_none() {
        return Err(Refusal::shape("a number is wanted"));
    }
    let Ok(value) = text.parse::<T>() else {
        return Err(Refusal::shape("a number is wanted"));
    };
    let wide: f64 = value.into();
    if !special && wide.is_infinite() {
        return Err(Refusal::range("the number is too large for the type"));
    }
    if wide == 0.0 && Decimal::parse(text).is_some_and(|it| it.significant().is_some()) {
        return Err(Refusal::range("the number is too small for the type and would become zero"));
    }
    Ok(value)
}

/// Whether PostgreSQL's `jsonb` takes the JSON number: it keeps `numeric`, which ends at 131,072
/// digits before the point and 16,383 after it.
pub fn fits_jsonb(text: &str) -> bool {
    Decimal::parse(text).is_some_and(|it| {
        it.int.len() as i64 + it.exponent <= 131_072 && it.frac.len() as i64 - it.exponent <= 16_383
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::RejectClass::{self, Range, Type};

    fn class<T>(result: Result<T, Refusal>) -> Result<T, RejectClass> {
        result.map_err(|refusal| refusal.class)
    }

    #[test]
    fn integers_are_exact_or_refused() {
        for (text, value) in [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("007", Ok(7)),
            ("+7", Ok(7)),
            ("5.0", Ok(5)),
            ("1e3", Ok(1000)),
            ("12.50e1", Ok(125)),
            ("1000e-3", Ok(1)),
            ("0e999999999999", Ok(0)),
            ("32767", Ok(32767)),
            ("-32768", Ok(-32768)),
            ("32768", Err(Range)),
            ("-32769", Err(Range)),
            ("5.5", Err(Range)),
            ("1e-1", Err(Range)),
            ("9223372036854775808", Err(Range)),
            ("1e99999999999999999999", Err(Range)),
            ("99999999999999999999999999999999999999999999", Err(Range)),
            ("", Err(Type)),
            ("-", Err(Type)),
            ("1_000", Err(Type)),
            ("0x10", Err(Type)),
            ("1e", Err(Type)),
            ("1 2", Err(Type)),
            ("٣", Err(Type)),
            ("NaN", Err(Type)),
            (".", Err(Type)),
        ] {
            assert_eq!(class(integer(text, -32768, 32767)), value, "{text}");
        }
        let max = |text| class(integer(text, i64::MIN, i64::MAX));
        assert_eq!(max("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(max("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(max("9223372036854775808"), Err(Range));
    }

    #[test]
    fn numerics_are_never_rounded() {
        for (text, value) in [
            ("1.5", Ok(150)),
            ("1.50", Ok(150)),
            ("1.500000", Ok(150)),
            ("-0.01", Ok(-1)),
            ("999.99", Ok(99999)),
            ("99999e-2", Ok(99999)),
            ("0.00999e3", Ok(999)),
            (".5", Ok(50)),
            ("5.", Ok(500)),
            ("0", Ok(0)),
            ("0.000", Ok(0)),
            ("1000", Err(Range)),
            ("999.995", Err(Range)),
            ("0.001", Err(Range)),
            ("1e300", Err(Range)),
            ("1e-300", Err(Range)),
            ("Infinity", Err(Type)),
            ("1,5", Err(Type)),
        ] {
            assert_eq!(class(numeric(text, 5, 2)), value, "{text}");
        }
        let nines = "9".repeat(38);
        assert_eq!(class(numeric(&nines, 38, 0)), Ok(10i128.pow(38) - 1));
        assert_eq!(class(numeric(&format!("{nines}0"), 38, 0)), Err(Range));
        assert_eq!(class(numeric(&format!("-.{nines}"), 38, 38)), Ok(1 - 10i128.pow(38)));
    }

    #[test]
    fn floats_are_the_nearest_but_never_infinite_or_zero_by_overflow() {
        let double = |text| class(float::<f64>(text, true));
        assert_eq!(double("0.1"), Ok(0.1));
        assert_eq!(double("-1e308"), Ok(-1e308));
        assert_eq!(double("Infinity"), Ok(f64::INFINITY));
        assert!(double("NaN").is_ok_and(f64::is_nan));
        assert_eq!(double("0e400"), Ok(0.0));
        for (text, why) in
            [("1e309", Range), ("1e-400", Range), ("inf", Type), ("nan", Type), ("infinity", Type)]
        {
            assert_eq!(double(text), Err(why), "{text}");
        }
        let real = |text| class(float::<f32>(text, false));
        assert_eq!(real("16777217"), Ok(16777216.0));
        assert_eq!(real("3.4e38"), Ok(3.4e38));
        assert_eq!(real("3.5e38"), Err(Range));
        assert_eq!(real("1e-60"), Err(Range));
    }

    #[test]
    fn a_jsonb_number_stays_within_postgresqls_numeric() {
        for (text, fits) in [("1e131071", true), ("1e131072", false), ("1e-16383", true)] {
            assert_eq!(fits_jsonb(text), fits, "{text}");
        }
        assert!(!fits_jsonb("1e-16384") && fits_jsonb("0.5") && !fits_jsonb("1e999999999"));
    }
}
