//! Expressions that fail, one record at a time (M-3), and what they give where they do not.

use super::{declared, event, fates};

/// The column `x` of a model of rows over one event: its text, or why it was refused.
fn computed(expr: &str, members: &str) -> Result<String, String> {
    let cut =
        declared(&[&format!("m AS SELECT {expr} AS x FROM events")]).cut(&[event(0, members)]);
    match cut.refused.as_slice() {
        [] => Ok(cut.rows()[0].split(' ').next().expect("a column").to_owned()),
        [(0, why)] => Err(why.clone()),
        several => panic!("{several:?}"),
    }
}

#[test]
fn what_does_not_fit_is_refused_and_never_wrapped() {
    let edge = r#""small": 32767, "n": 2147483647, "big": 9223372036854775807"#;
    let low = r#""small": -32768, "n": -2147483648, "big": -9223372036854775808"#;
    let mut wrong = Vec::new();
    for (expr, members) in [
        ("big + 1", edge),
        ("big + n", edge),
        ("big - 1", low),
        ("big * 2", edge),
        ("big / -1", low),
        ("n * n", edge),
        ("n + n", edge),
        ("n - n - n - n", low),
        ("small + small", edge),
        ("small * small", low),
        ("-big", low),
        ("-n", low),
        ("-small", low),
        ("1 - -n", low),
        ("abs(-big - 1 + 1)", low),
        ("abs(big)", low),
        ("abs(n)", low),
        ("CASE WHEN n < 0 THEN -n ELSE n END", low),
        ("coalesce(-big, 0)", low),
        ("greatest(n * n, n)", edge),
        ("CAST(big AS integer)", edge),
        ("CAST(n AS smallint)", low),
        ("big::numeric(5,0)", edge),
        ("amount::integer", r#""amount": "99999999999.00""#),
        ("amount::numeric(4,2)", r#""amount": "100.00""#),
        ("ratio::bigint", r#""ratio": 1e300"#),
        ("ratio::integer", r#""ratio": -2147483649"#),
        ("txt::bigint", r#""txt": "9223372036854775808""#),
        ("txt::integer", r#""txt": "ten""#),
        ("txt::date", r#""txt": "2024-02-30""#),
        ("1 / n", r#""n": 0"#),
        ("big % n", r#""n": 0, "big": 1"#),
        ("amount / n", r#""n": 0, "amount": "1.00""#),
        // Fits 128 bits, not 38 digits.
        ("wide + wide", r#""wide": "60000000000000000000000000000000000000""#),
        ("wide * 3", r#""wide": "50000000000000000000000000000000000000""#),
        ("-wide - wide", r#""wide": "60000000000000000000000000000000000000""#),
        ("to_timestamp(txt)", r#""txt": "noon""#),
    ] {
        let got = computed(expr, members);
        if got.is_ok() {
            wrong.push(format!("{expr} gives {got:?}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn what_fits_is_computed() {
    let low = r#""n": -2147483648, "big": -9223372036854775808"#;
    for (expr, members, gives) in [
        ("big % -1", low, "0"),
        ("n % 7", low, "-2"),
        ("-n", r#""n": 5"#, "-5"),
        ("-n", "", "NULL"),
        ("-ratio", r#""ratio": 0"#, "-0.0"),
        ("-amount", r#""amount": "1.50""#, "-150"),
        ("-big", r#""big": 9223372036854775807"#, "-9223372036854775807"),
        ("big + n", low.replace("-9", "-8").as_str(), "-8223372039002259456"),
        ("n + n", "\"n\": 1073741823", "2147483646"),
        ("1 / n", "", "NULL"),
        ("CASE WHEN n = 0 THEN 0 ELSE 10 / n END", "\"n\": 0", "0"),
        ("coalesce(n, 1 / n)", "\"n\": 0", "0"),
        (
            "wide + 1",
            r#""wide": "99999999999999999999999999999999999998""#,
            "99999999999999999999999999999999999999",
        ),
        ("ratio / 0", r#""ratio": 1"#, "inf"),
    ] {
        assert_eq!(computed(expr, members).as_deref(), Ok(gives), "{expr} of {members}");
    }
}

/// Each made by `hashlib.sha256(text.encode()).digest()[:8]` of Python's, big-endian and signed. Keys are
/// stored: a change here means that every star has to be built anew.
#[test]
fn a_surrogate_key_is_what_it_always_was() {
    let values = r#""k": "ab", "txt": "", "small": 7, "n": 7, "big": -7, "amount": "1.50", "flag": true,
        "wide": "120", "day": "2024-03-01", "raw": "\\x00ff""#;
    for (arguments, text, key) in [
        ("k, n, id", "t2:abn1:7-", -903158279217280422_i64),
        ("'ab', 7, NULL", "t2:abn1:7-", -903158279217280422),
        ("k, small, doc::text", "t2:abn1:7-", -903158279217280422),
        ("k, big * -1, single::text", "t2:abn1:7-", -903158279217280422),
        ("k, 7.00, NULL", "t2:abn1:7-", -903158279217280422),
        ("txt", "t0:", -5163410747113608),
        ("id", "-", 4139898923029504249),
        ("NULL", "-", 4139898923029504249),
        ("'abc'", "t3:abc", -3872706202462961695),
        ("'a', 'bc'", "t1:at2:bc", -1905330385125104428),
        ("k, 'c'", "t2:abt1:c", 7186224653328582730),
        ("wide / 10", "n2:12", 4323202444778071424),
        ("'12'", "t2:12", 1241796370739699834),
        ("amount", "n3:1.5", 7549742057018240195),
        ("amount::numeric(30,10)", "n3:1.5", 7549742057018240195),
        ("big", "n2:-7", 5493686442086841613),
        ("(amount - 2)::numeric(5,4)", "n4:-0.5", -3410700081242625112),
        ("amount - amount", "n1:0", -7088532876460924467),
        ("flag", "b4:true", -720258410886676531),
        ("NOT flag", "b5:false", -5281211139101862828),
        ("day", "d5:19783", -2369347746267304488),
        (
            "day::timestamptz + interval '8 hours 1 microsecond'",
            "i16:1709280000000001",
            -2464924439931959212,
        ),
        ("raw", "x4:00ff", -4338543187705219739),
        ("'Zoë 🔥'", "t9:Zoë 🔥", 8569366152480475776),
    ] {
        let made = computed(&format!("surrogate_key({arguments})"), values);
        assert_eq!(made, Ok(key.to_string()), "{arguments}, written {text}");
    }
}

#[test]
fn no_two_lists_of_values_have_the_same_surrogate_key() {
    let m = declared(&["m AS SELECT k, txt, surrogate_key(k, txt) AS x FROM events"]);
    let letters = ["", "t", "1", ":", "-", "t1:", "t0:", "1:t", "-t0:", "t1:t"];
    let texts = || letters.iter().flat_map(|a| letters.iter().map(move |b| format!("\"{a}{b}\"")));
    let texts: std::collections::BTreeSet<String> = texts().chain(["null".to_owned()]).collect();
    let pairs = texts.iter().flat_map(|k| texts.iter().map(move |txt| (k, txt)));
    let events: Vec<_> =
        pairs.map(|(k, txt)| event(0, &format!("\"k\": {k}, \"txt\": {txt}"))).collect();
    let rows = m.cut(&events).rows();
    let keys: std::collections::BTreeSet<_> =
        rows.iter().map(|row| row.split(' ').nth_back(4)).collect();
    assert!(rows.len() > 5_000);
    assert_eq!(keys.len(), rows.len(), "{:?}", &rows[..3]);
}

#[test]
fn one_event_of_five_thousand_that_fails_takes_no_other_with_it() {
    let m =
        declared(&["m AS SELECT n % 10 AS digit, sum(1000 / n) AS x FROM events GROUP BY digit"]);
    for guilty in [0, 1, 2_499, 2_500, 4_999] {
        let number = |i| if i == guilty { 0 } else { i + 1 };
        let events: Vec<_> =
            (0..5_000).map(|i| event(i, &format!("\"n\": {}", number(i)))).collect();
        let cut = m.cut(&events);
        let refused: Vec<_> = cut.refused.iter().map(|(event, _)| *event).collect();
        assert_eq!(refused, [guilty as usize]);
        assert!(cut.refused[0].1.to_lowercase().contains("by zero"), "{:?}", cut.refused);
        assert_eq!(cut.fates("m"), fates(4_999, 0, 0, 1));
        let mut sums = [0i64; 10];
        for n in (0..5_000).filter(|i| *i != guilty).map(number) {
            sums[(n % 10) as usize] += 1000 / n;
        }
        let sums: Vec<_> = sums.iter().enumerate().map(|(i, sum)| format!("{i} {sum} ")).collect();
        assert_eq!(cut.rows(), sums);
    }
}

#[test]
fn all_events_of_a_batch_may_fail() {
    let m = declared(&["m AS SELECT k, 1 / n AS x FROM events WHERE txt IS NULL"]);
    let mut events: Vec<_> = (0..100).map(|i| event(i, "\"n\": 0")).collect();
    events.push(event(100, "\"n\": 0, \"txt\": \"left out\""));
    let cut = m.cut(&events);
    assert_eq!(
        cut.refused.iter().map(|(event, _)| *event).collect::<Vec<_>>(),
        Vec::from_iter(0..100)
    );
    assert_eq!(cut.fates("m"), fates(0, 1, 0, 100));
    assert!(cut.sealed.tables.is_empty());
}

/// As in PostgreSQL, which asks FILTER before it computes the argument.
#[test]
fn filter_keeps_events_from_its_argument() {
    let m = declared(&[
        "m AS SELECT k, sum(10 / n) FILTER (WHERE n <> 0) AS x, count(*) AS rows FROM events GROUP BY k",
    ]);
    let events = [event(0, "\"n\": 0"), event(1, "\"n\": 5"), event(2, ""), event(3, "\"n\": 0")];
    let cut = m.cut(&events);
    assert_eq!(cut.refused, []);
    assert_eq!(cut.rows(), ["NULL 2 4 "]);
}

/// `AND` computes its right side or not by how many rows of the batch need it: no event's fate
/// may come of that.
#[test]
fn an_event_that_a_condition_protects_is_protected_in_any_company() {
    let m = declared(&["m AS SELECT k, n FROM events WHERE n <> 0 AND 10 / n > 1"]);
    for good in [0, 1, 2, 3, 5, 9, 50] {
        let mut events = vec![event(0, "\"n\": 0"); 5];
        events.extend(vec![event(0, "\"n\": 2"); good]);
        let cut = m.cut(&events);
        assert_eq!(cut.refused, []);
        assert_eq!(cut.fates("m"), fates(good as u64, 5, 0, 0));
    }
}

#[test]
fn an_event_that_where_leaves_out_is_not_computed() {
    let m = declared(&["m AS SELECT 10 / n AS x FROM events WHERE n <> 0"]);
    let cut = m.cut(&[event(0, "\"n\": 0"), event(0, "\"n\": 3"), event(0, "")]);
    assert_eq!(cut.refused, []);
    assert_eq!(cut.fates("m"), fates(1, 2, 0, 0));
}
