//! Each PostgreSQL type: what it takes, what it makes of it, what it refuses.

use super::{decoder, optional, records, shown, topic};
use crate::{
    catalog::PgType,
    decode::RejectClass::{self, Range, Type},
};

/// Raw JSON values and what becomes of them: a value, NULL, or a reject.
fn check(pg: PgType, cases: &[(&str, Result<Option<&str>, RejectClass>)]) {
    let topic = topic(vec![optional("v", pg)], None);
    for (raw, expected) in cases {
        let decoded = decoder(&topic).decode(&records(&[format!(r#"{{"v":{raw}}}"#)]));
        let found = match decoded.rejects.first() {
            Some(reject) => Err(reject.class),
            None => Ok(shown(decoded.rows.column(0), 0)),
        };
        assert_eq!(found, expected.map(|value| value.map(str::to_owned)), "{raw} as {pg}");
    }
}

#[test]
fn text_keeps_codes_as_they_came() {
    check(
        PgType::Text,
        &[
            (r#""0042""#, Ok(Some("0042"))),
            (r#""Bank  ""#, Ok(Some("Bank  "))),
            (r#""  ""#, Ok(Some("  "))),
            (r#""""#, Ok(Some(""))),
            (r#""a\"\u00e9\n\ud83d\ude00""#, Ok(Some("a\"é\n😀"))),
            ("1.50", Ok(Some("1.50"))),
            ("1E2", Ok(Some("1E2"))),
            ("true", Ok(Some("true"))),
            ("null", Ok(None)),
            ("{}", Err(Type)),
            ("[1]", Err(Type)),
            (r#""a\u0000b""#, Err(Type)),
            (r#""a\\u0000b""#, Ok(Some(r"a\u0000b"))),
        ],
    );
}

#[test]
fn booleans_are_taken_in_postgresqls_words() {
    let mut cases = vec![
        ("1", Ok(Some("true"))),
        ("0", Ok(Some("false"))),
        ("true", Ok(Some("true"))),
        ("false", Ok(Some("false"))),
        ("null", Ok(None)),
        (r#"" ""#, Ok(None)),
        ("2", Err(Type)),
        (r#""ja""#, Err(Type)),
        ("[]", Err(Type)),
    ];
    for word in [r#""TRUE""#, r#""t""#, r#""Yes""#, r#""y""#, r#""1""#, r#"" on ""#] {
        cases.push((word, Ok(Some("true"))));
    }
    for word in [r#""false""#, r#""F""#, r#""no""#, r#""N""#, r#""0""#, r#""Off""#] {
        cases.push((word, Ok(Some("false"))));
    }
    check(PgType::Boolean, &cases);
}

#[test]
fn integers_keep_to_their_width() {
    let both = [
        (r#"" 007 ""#, Ok(Some("7"))),
        (r#""-5""#, Ok(Some("-5"))),
        ("5.0", Ok(Some("5"))),
        ("1e3", Ok(Some("1000"))),
        (r#""""#, Ok(None)),
        ("5.5", Err(Range)),
        ("true", Err(Type)),
        (r#""five""#, Err(Type)),
        ("{}", Err(Type)),
    ];
    for pg in [PgType::SmallInt, PgType::Integer, PgType::BigInt] {
        check(pg, &both);
    }
    check(PgType::SmallInt, &[("32767", Ok(Some("32767"))), ("32768", Err(Range))]);
    check(PgType::Integer, &[("-2147483648", Ok(Some("-2147483648"))), ("2147483648", Err(Range))]);
    check(
        PgType::BigInt,
        &[
            ("9223372036854775807", Ok(Some("9223372036854775807"))),
            ("9007199254740993", Ok(Some("9007199254740993"))),
            ("9223372036854775808", Err(Range)),
        ],
    );
}

#[test]
fn floats_and_numerics_keep_to_what_they_can_say() {
    check(
        PgType::Double,
        &[
            ("0.1", Ok(Some("0.1"))),
            ("-0", Ok(Some("-0.0"))),
            (r#"" 1e3 ""#, Ok(Some("1000.0"))),
            (r#""NaN""#, Ok(Some("NaN"))),
            (r#""-Infinity""#, Ok(Some("-inf"))),
            ("1e400", Err(Range)),
            (r#""inf""#, Err(Type)),
            ("false", Err(Type)),
        ],
    );
    check(
        PgType::Real,
        &[("0.1", Ok(Some("0.1"))), ("1e39", Err(Range)), (r#""1e39""#, Err(Range))],
    );
    check(
        PgType::Numeric(5, 2),
        &[
            ("1.5", Ok(Some("150"))),
            ("15e-1", Ok(Some("150"))),
            (r#""-999.990""#, Ok(Some("-99999"))),
            ("1.005", Err(Range)),
            ("1000", Err(Range)),
            (r#""NaN""#, Err(Type)),
            (r#""""#, Ok(None)),
        ],
    );
}

#[test]
fn days_and_instants_say_what_they_mean_or_are_refused() {
    check(
        PgType::Date,
        &[
            (r#""1970-01-02""#, Ok(Some("1"))),
            (r#"" 1969-12-31 ""#, Ok(Some("-1"))),
            (r#""2024-03-01T00:00:00Z""#, Err(Type)),
            (r#""2023-02-29""#, Err(Range)),
            ("20240301", Err(Type)),
        ],
    );
    check(
        PgType::Timestamptz,
        &[
            (r#""1970-01-01T00:00:01.5Z""#, Ok(Some("1500000"))),
            (r#""1970-01-01 01:00:00+01:00""#, Ok(Some("0"))),
            (r#""1970-01-01T00:00:00""#, Err(Type)),
            (r#""1970-01-01T00:00:00.0000001Z""#, Err(Range)),
            ("1709280000000", Err(Type)),
            ("1709280000", Err(Type)),
        ],
    );
}

#[test]
fn uuids_become_canonical() {
    let canonical = Ok(Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"));
    check(
        PgType::Uuid,
        &[
            (r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#, canonical),
            (r#""A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11""#, canonical),
            (r#""{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}""#, canonical),
            (r#""a0eebc999c0b4ef8bb6d6bb9bd380a11""#, canonical),
            (r#""a0eebc999c0b4ef8bb6d6bb9bd380a1""#, Err(Type)),
            (r#""a0eebc999-c0b-4ef8-bb6d-6bb9bd380a11""#, Err(Type)),
            (r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g""#, Err(Type)),
            (r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a112""#, Err(Type)),
            (r#""""#, Ok(None)),
            ("1", Err(Type)),
        ],
    );
}

#[test]
fn jsonb_keeps_the_text_that_postgresql_can_hold() {
    let deep = r#"{"a":[1, "x\\u0000", {"b":-1.5e3}]}"#;
    check(
        PgType::Jsonb,
        &[
            (deep, Ok(Some(deep))),
            (r#""""#, Ok(Some(r#""""#))),
            (r#""x""#, Ok(Some(r#""x""#))),
            ("1.50", Ok(Some("1.50"))),
            ("false", Ok(Some("false"))),
            ("null", Ok(None)),
            (r#"{"a":"\u0000"}"#, Err(Type)),
            (r#"{"\u0000":1}"#, Err(Type)),
            (r#"[1,{"a":1e999999}]"#, Err(Range)),
            (r#"["1e999999"]"#, Ok(Some(r#"["1e999999"]"#))),
        ],
    );
}

#[test]
fn bytes_come_as_hexadecimal_or_base64() {
    check(
        PgType::Bytea,
        &[
            (r#""\\x00fF""#, Ok(Some("[0, 255]"))),
            (r#""\\x""#, Ok(Some("[]"))),
            (r#""AP8=""#, Ok(Some("[0, 255]"))),
            (r#""""#, Ok(None)),
            (r#""\\x0""#, Err(Type)),
            (r#""\\xgg""#, Err(Type)),
            (r#""AP8""#, Err(Type)),
            ("12", Err(Type)),
        ],
    );
}
