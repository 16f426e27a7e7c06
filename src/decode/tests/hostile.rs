//! What a scanner gets wrong first, against serde_json by way of the oracle: escapes, surrogates, control
//! characters, bytes that are no UTF-8, depth, huge numbers, tokens in any order, keys again.
//!
//! Each kind makes records that are good and records that are not, so that taking too much is seen as
//! well as refusing too much. Mutants seen to fail here: 0x1f taken in the words of eight bytes, a lone low
//! surrogate taken, one container more, zeros in front of a number, the first of two keys.

use super::oracle::{agree, everything, oracle};
use proptest::{prelude::*, sample::select, strategy::ValueTree, test_runner::TestRunner};

/// A record that is good with nothing more in it.
fn beside(fields: &str) -> Vec<u8> {
    let good = r#""tap_id":"t","eventTime":"2024-03-01T07:59:00Z","fare_cents":1"#;
    format!("{{{good},{fields}}}").into_bytes()
}

/// The text as a value of a column of text, of one of jsonb, of what no column names, in an object
/// that columns lie in.
fn as_value(text: &str) -> Vec<Vec<u8>> {
    let places = ["\"stop\":", "\"doc\":", "\"x\":", "\"at\":{\"y\":1,\"stop\":"];
    let whole =
        |place: &str| format!("{place}{text}{}", if place.contains('{') { "}" } else { "" });
    let mut values: Vec<_> = places.iter().map(|place| beside(&whole(place))).collect();
    values.push(beside(&format!("\"tap_id\":{text}")));
    values
}

fn tokens() -> BoxedStrategy<Vec<Vec<u8>>> {
    const TOKENS: [&str; 24] = [
        "{", "}", "[", "]", ",", ":", "\"a\"", "\"a\":1", "\"\"", "\"", "1", "-", "0", ".", "e",
        "+", "true", "fals", "null", " ", "\n", "[]", "{}", "\u{a0}",
    ];
    let soup = prop::collection::vec(select(&TOKENS[..]), 1..7);
    let list = prop::collection::vec(
        select(vec!["1", "[]", "{\"a\":null}", "-0.5e-7", "\"\"", "tru"]),
        0..5,
    );
    prop_oneof![
        soup.prop_map(|tokens| as_value(&tokens.concat())),
        list.prop_map(|items| as_value(&format!("[{}]", items.join(" ,")))),
    ]
    .boxed()
}

/// Pieces of strings, so long together that words of eight bytes are met at any place.
fn strings() -> BoxedStrategy<Vec<Vec<u8>>> {
    let unit = prop_oneof![0xD7F0u32..0xE010, 0u32..0x100, 0u32..0x1_0000,];
    let piece = prop_oneof![
        8 => "[ -!#-\\[\\]-~]{0,17}",
        3 => select(vec!["é", "😀", "\u{7f}", "\u{2028}"]).prop_map(str::to_owned),
        3 => select(vec!["\\n", "\\t", "\\r", "\\b", "\\f", "\\/", "\\\"", "\\\\"]).prop_map(str::to_owned),
        2 => (unit, any::<bool>()).prop_map(|(unit, upper)| {
            if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") }
        }),
        2 => (0xD800u32..0xDC00, 0xDC00u32..0xE000).prop_map(|(a, b)| format!("\\u{a:04x}\\u{b:04X}")),
        1 => select(vec!["\\x", "\\u12", "\\u+123", "\\", "\"", "\\ud800\\n", "\\U0041"])
            .prop_map(str::to_owned),
        // The last of them most of all: one less than what is good.
        2 => prop_oneof![Just(0x1fu8), 0u8..0x20].prop_map(|byte| char::from(byte).to_string()),
    ];
    let text = prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat());
    text.prop_map(|text| {
        let mut values = as_value(&format!("\"{text}\""));
        values.push(beside(&format!("\"{text}\":1")));
        values
    })
    .boxed()
}

/// Bytes that begin or go on a character, in a record that is good without them.
fn bytes() -> BoxedStrategy<Vec<Vec<u8>>> {
    let one = prop::collection::vec(0x80u8..=0xff, 1..5);
    let known = select(vec![
        "é".as_bytes().to_vec(),
        "😀".as_bytes().to_vec(),
        "\u{ffff}".as_bytes().to_vec(),
        vec![0xc0, 0xaf],             // longer than it need be
        vec![0xed, 0xa0, 0x80],       // half of a surrogate pair
        vec![0xf4, 0x90, 0x80, 0x80], // beyond Unicode
        vec![0xef, 0xbb, 0xbf],       // a byte order mark
        vec![0xe2, 0x82],             // cut short
    ]);
    let base = br#"{"tap_id":"a tap","eventTime":"2024-03-01T07:59:00Z","fare_cents":1,"x":["y"]}"#;
    (prop_oneof![one, known], 0..=base.len())
        .prop_map(|(bytes, at)| {
            let within = base.iter().position(|byte| *byte == b'p').expect("a tap") + 12;
            [at, within].map(|at| [&base[..at], &bytes[..], &base[at..]].concat()).into()
        })
        .boxed()
}

fn depths() -> BoxedStrategy<Vec<Vec<u8>>> {
    let opened = prop::collection::vec(any::<bool>(), 120..131);
    (opened, select(vec![0, 0, 0, -1, 1]), any::<bool>())
        .prop_map(|(objects, more, in_the_middle)| {
            let open = |object: &bool| if *object { "{\"a\":" } else { "[" };
            let close = |object: &bool| if *object { '}' } else { ']' };
            let text: String = objects.iter().map(open).collect();
            let mut ends: String = objects.iter().rev().map(close).collect();
            match more {
                -1 => drop(ends.pop()),
                1 => ends.push(']'),
                // Most have as many ends as they need.
                _ => {}
            }
            as_value(&format!("{text}{}{ends}", if in_the_middle { "1" } else { "{}" }))
        })
        .boxed()
}

fn numbers() -> BoxedStrategy<Vec<Vec<u8>>> {
    let number = prop_oneof![
        "-?(0|[1-9][0-9]{0,400})(\\.[0-9]{1,200})?([eE][+-]?[0-9]{1,24})?",
        "-?(0|[1-9][0-9]{0,20})([eE][+-]?[0-9]{1,6})?",
        "-?0(\\.0{1,30})?[eE][+-]?[0-9]{1,24}",
        "[-+]?0{0,2}[0-9]{0,3}\\.?[0-9]{0,2}[eE]?[+-]?[0-9]{0,2}",
        select(vec![
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "1e400",
            "1e-400"
        ])
        .prop_map(str::to_owned),
    ];
    number
        .prop_map(|number| {
            let columns = ["flag", "small", "count", "ratio", "price", "rider", "service_date"];
            let mut values: Vec<_> =
                columns.iter().map(|name| beside(&format!("\"{name}\":{number}"))).collect();
            values.push(beside(&format!("\"at\":{{\"geo\":{{\"lat\":{number}}}}}")));
            values.push(beside(&format!("\"fare_cents\":{number}")));
            values.extend(as_value(&number));
            values
        })
        .boxed()
}

/// One column by all of its names, as they are and in escapes, and again.
fn keys() -> BoxedStrategy<Vec<Vec<u8>>> {
    let name = select(vec![
        "tap_id",
        "tapId",
        "t\\u0061p_id",
        "tapI\\u0064",
        "\\u0074apId",
        "TapId",
        "tap_id ",
        "tap\\u005fid",
    ]);
    let value = select(vec!["1", "null", "\"b\"", "\"\\u0063\"", "[]", "\"\"", "{\"stop\":1}"]);
    let field = (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"));
    let within =
        select(vec!["\"stop\":\"a\"", "\"st\\u006fp\":\"b\"", "\"geo\":{\"lat\":1}", "\"geo\":2"]);
    let nested = prop::collection::vec(within, 0..4)
        .prop_map(|fields| format!("\"at\":{{{}}}", fields.join(",")));
    let nested = prop_oneof![4 => nested, 1 => Just("\"at\":null".to_owned())];
    prop::collection::vec(prop_oneof![field, nested], 1..6)
        .prop_map(|fields| vec![beside(&fields.join(","))])
        .boxed()
}

proptest! {
    #[test]
    fn tokens_in_any_order_are_judged_as_serde_json_judges_them(values in tokens()) {
        agree(&everything(), &values)?;
    }

    #[test]
    fn escapes_surrogates_and_control_characters_are_judged_as_serde_json_judges_them(
        values in strings(),
    ) {
        agree(&everything(), &values)?;
    }

    #[test]
    fn bytes_that_are_no_utf_8_refuse_their_record_wherever_they_stand(values in bytes()) {
        agree(&everything(), &values)?;
    }

    #[test]
    fn containers_are_taken_as_deep_as_serde_json_takes_them(values in depths()) {
        agree(&everything(), &values)?;
    }

    #[test]
    fn numbers_of_any_length_and_exponent_are_the_oracles(values in numbers()) {
        agree(&everything(), &values)?;
    }

    #[test]
    fn of_a_key_that_comes_again_the_oracles_counts_however_it_is_written(values in keys()) {
        agree(&everything(), &values)?;
    }
}

#[test]
fn each_kind_has_good_records_and_bad_ones() {
    let topic = everything();
    let kinds = [
        ("tokens", tokens()),
        ("strings", strings()),
        ("bytes", bytes()),
        ("depths", depths()),
        ("numbers", numbers()),
        ("keys", keys()),
    ];
    for (name, kind) in kinds {
        let mut runner = TestRunner::deterministic();
        let (mut good, mut all) = (0, 0);
        for _ in 0..200 {
            for value in kind.new_tree(&mut runner).expect("records").current() {
                good += usize::from(oracle(&topic, &value).0.is_ok());
                all += 1;
            }
        }
        assert!(good * 20 > all && good * 20 < all * 19, "{name}: {good} of {all} are good");
    }
}
