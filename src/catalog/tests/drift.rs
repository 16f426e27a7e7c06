//! What is drift and what is not: all pairs of types, held against the decoder's own rules said anew.

use super::super::{
    Addition, Additions, Catalog, Drift, PgType, Topic, Upstream, check,
    drift::{Judged, UpstreamColumn, What, compare, judge, takes},
};
use crate::record::{Offset, Partition};
use std::{collections::BTreeMap, path::PathBuf};

const TYPES: [PgType; 17] = [
    PgType::Text,
    PgType::Boolean,
    PgType::SmallInt,
    PgType::Integer,
    PgType::BigInt,
    PgType::Real,
    PgType::Double,
    PgType::Numeric(6, 2),
    PgType::Numeric(10, 2),
    PgType::Numeric(12, 2),
    PgType::Numeric(12, 4),
    PgType::Numeric(38, 0),
    PgType::Date,
    PgType::Timestamptz,
    PgType::Uuid,
    PgType::Jsonb,
    PgType::Bytea,
];

/// Values at the edges of a type, in the text of JSON.
fn edges(pg: PgType) -> Vec<String> {
    let nines = |whole: i16, scale: i16| {
        let digits = |n: i16| "9".repeat(n.max(0) as usize);
        format!("{}.{}", if whole > 0 { digits(whole) } else { "0".into() }, digits(scale))
    };
    let all: Vec<String> = match pg {
        PgType::Text => vec!["\"x\"".into()],
        PgType::Boolean => vec!["true".into()],
        PgType::SmallInt => vec![i16::MIN.to_string(), i16::MAX.to_string()],
        PgType::Integer => vec![i32::MIN.to_string(), i32::MAX.to_string()],
        PgType::BigInt => vec![i64::MIN.to_string(), i64::MAX.to_string()],
        PgType::Real => vec!["3.5e9".into(), "0.5".into()],
        PgType::Double => vec!["1e300".into(), "0.5".into()],
        PgType::Numeric(p, s) => {
            vec![nines(i16::from(p) - i16::from(s), s.into()).trim_end_matches('.').into()]
        }
        PgType::NumericAny => vec!["1e40".into()],
        PgType::Date => vec!["\"2024-03-01\"".into()],
        PgType::Timestamptz => vec!["\"2024-03-01T08:00:00.000001Z\"".into()],
        PgType::Uuid => vec!["\"9b2f0a52-0000-4000-8000-000000000001\"".into()],
        PgType::Jsonb => vec!["{\"a\":1}".into()],
        PgType::Bytea => vec!["\"AAEC\"".into()],
    };
    all
}

/// What README's table of types says of a value.
fn fits(declared: PgType, upstream: PgType, value: &str) -> bool {
    let number = value.parse::<f64>().ok();
    let whole = value.parse::<i128>().ok();
    let within = |least: i128, most: i128| whole.is_some_and(|n| (least..=most).contains(&n));
    match declared {
        // An object is no text, and here no source's column of objects is declared as one.
        PgType::Text | PgType::Jsonb => true,
        PgType::SmallInt => within(i16::MIN.into(), i16::MAX.into()),
        PgType::Integer => within(i32::MIN.into(), i32::MAX.into()),
        PgType::BigInt => within(i64::MIN.into(), i64::MAX.into()),
        // Every value of the type must be the same number there.
        PgType::Real => number.is_some() && matches!(upstream, PgType::Real | PgType::SmallInt),
        PgType::Double => {
            use PgType::{Double, Integer, Real, SmallInt};
            number.is_some() && matches!(upstream, Double | Real | SmallInt | Integer)
        }
        PgType::Numeric(p, s) => {
            let exact = !matches!(upstream, PgType::Real | PgType::Double);
            let text = value.trim_start_matches('-');
            let (before, after) = text.split_once('.').unwrap_or((text, ""));
            let digits = before.trim_start_matches('0').len();
            exact
                && number.is_some()
                && digits <= p as usize - s as usize
                && after.len() <= s as usize
        }
        other => other == upstream,
    }
}

#[test]
fn a_declared_type_takes_another_when_it_takes_the_values_at_its_edges() {
    for declared in TYPES {
        for upstream in TYPES {
            let all = edges(upstream).iter().all(|value| fits(declared, upstream, value));
            assert_eq!(takes(declared, upstream), all, "{upstream} into {declared}");
        }
    }
}

#[test]
fn every_change_of_a_type_is_none_or_wider_or_stops() {
    let family = |pg| match pg {
        PgType::SmallInt | PgType::Integer | PgType::BigInt => 1,
        PgType::Real | PgType::Double => 2,
        PgType::Numeric(..) => 3,
        _ => 0,
    };
    for declared in TYPES {
        for now in TYPES {
            // A difference that is there from the beginning is what the file means.
            for before in [None, Some(now)] {
                match judge(declared, before, now) {
                    Judged::Fits => assert!(
                        takes(declared, now)
                            || family(declared) != family(now)
                            || family(declared) == 0
                            || declared == PgType::Numeric(38, 0)
                            || now == PgType::Numeric(38, 0),
                        "{declared} {now}"
                    ),
                    Judged::Widened(to) => {
                        assert!(takes(to, declared) && takes(to, now) && to != declared);
                        assert!(!takes(declared, now) && family(declared) == family(now));
                    }
                    stops => panic!("{declared}, always {now}: {stops:?}"),
                }
            }
            for before in TYPES.into_iter().filter(|before| *before != now) {
                let judged = judge(declared, Some(before), now);
                let label = format!("{declared}: {before} to {now}: {judged:?}");
                let numeric = family(before) == 3 && family(now) == 3;
                match judged {
                    Judged::Fits => {
                        assert!(takes(declared, now), "{label}");
                        assert!(takes(now, before) || numeric, "{label}");
                    }
                    Judged::Widened(to) => {
                        assert!(takes(to, now) && takes(to, declared), "{label}");
                        assert!(!takes(declared, now), "{label}");
                    }
                    Judged::Narrowed => {
                        assert!(takes(declared, now) && takes(before, now), "{label}");
                        assert!(family(before) == family(now) && family(now) != 3, "{label}");
                    }
                    Judged::Changed => {
                        assert!(!takes(now, before) || !takes(declared, now), "{label}")
                    }
                }
            }
        }
    }
}

#[test]
fn changes_that_people_make_are_judged_as_they_mean_them() {
    use Judged::{Changed, Fits, Narrowed, Widened};
    use PgType as P;
    for (declared, before, now, judged) in [
        (P::Integer, P::Integer, P::BigInt, Widened(P::BigInt)),
        (P::BigInt, P::Integer, P::BigInt, Fits),
        (P::BigInt, P::BigInt, P::Integer, Narrowed),
        (P::Real, P::Real, P::Double, Widened(P::Double)),
        (P::Numeric(10, 2), P::Numeric(10, 2), P::Numeric(12, 2), Widened(P::Numeric(12, 2))),
        (P::Numeric(10, 2), P::Numeric(10, 2), P::Numeric(9, 4), Widened(P::Numeric(12, 4))),
        (P::Numeric(12, 4), P::Numeric(10, 2), P::Numeric(10, 4), Fits),
        (P::Numeric(10, 2), P::Numeric(10, 2), P::Numeric(8, 1), Fits),
        (P::Numeric(38, 0), P::Numeric(38, 0), P::Numeric(38, 10), Changed),
        (P::Timestamptz, P::Timestamptz, P::Timestamptz, Fits),
        (P::Timestamptz, P::Timestamptz, P::Date, Changed),
        (P::BigInt, P::BigInt, P::Text, Changed),
        (P::Text, P::BigInt, P::Text, Fits),
        (P::Text, P::Text, P::BigInt, Changed),
        (P::Numeric(12, 2), P::Numeric(12, 2), P::NumericAny, Fits),
        (P::Numeric(12, 2), P::Text, P::NumericAny, Changed),
        (P::Uuid, P::Uuid, P::Text, Changed),
    ] {
        assert_eq!(judge(declared, Some(before), now), judged, "{declared}: {before} to {now}");
    }
}

const HEAD: &str = "topic = \"t\"\nformat = \"debezium-json\"\n";

fn catalog(head: &str, columns: &str, models: &[(&str, &str)]) -> Result<Catalog, String> {
    let text = format!("{head}[changes]\nkey = [\"id\"]\n[columns]\nid = \"integer\"\n{columns}");
    let models = models.iter().map(|(name, sql)| {
        let sql = format!("CREATE MATERIALIZED VIEW {name} AS {sql}");
        (PathBuf::from(format!("{name}.sql")), sql)
    });
    let models: Vec<_> = models.collect();
    check(&[(PathBuf::from("t.toml"), text)], &models)
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn topic(columns: &str) -> Topic {
    Topic::clone(&catalog(HEAD, columns, &[]).expect("a catalog").topics["t"])
}

fn table(columns: &[(&str, PgType)], key: &[&str]) -> Upstream {
    let columns = columns.iter().map(|(name, pg)| UpstreamColumn { name: (*name).into(), pg: *pg });
    Upstream {
        columns: columns.collect(),
        key: Some(key.iter().map(|name| (*name).to_owned()).collect()),
    }
}

#[test]
fn a_table_is_compared_column_by_column_with_what_is_declared() {
    let topic = topic(
        "device_id = { type = \"text\", optional = true }\nqty = { type = \"integer\", optional = true }\n\
         secret = { type = \"text\", pii = \"drop\" }\ndeep = { type = \"text\", from = \"/doc/a\", optional = true }\n",
    );
    let id = ("id", PgType::Integer);
    let first = table(
        &[
            id,
            ("deviceId", PgType::Text),
            ("qty", PgType::Integer),
            ("secret", PgType::Text),
            ("doc", PgType::Jsonb),
        ],
        &["id"],
    );
    let found = |before: Option<&Upstream>, now: &Upstream| -> Vec<(String, What)> {
        compare(&topic, before, now).into_iter().map(|f| (f.column, f.what)).collect()
    };
    assert_eq!(found(None, &first), []);
    assert_eq!(found(Some(&first), &first), []);
    let more = table(
        &[id, ("deviceId", PgType::Text), ("qty", PgType::BigInt), ("newOne", PgType::Date)],
        &["id"],
    );
    let widened =
        What::Widened { declared: PgType::Integer, upstream: PgType::BigInt, to: PgType::BigInt };
    let expected =
        [("qty".to_owned(), widened.clone()), ("new_one".to_owned(), What::Added(PgType::Date))];
    assert_eq!(found(Some(&first), &more), expected, "what is dropped may be gone");
    let less = table(&[id, ("qty", PgType::SmallInt)], &["id", "no"]);
    let gone = What::Removed { declared: PgType::Text };
    let (before, upstream) = (PgType::Integer, PgType::SmallInt);
    let narrowed = What::Narrowed { declared: PgType::Integer, before, upstream };
    let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let key = What::Key { before: names(&["id"]), now: names(&["id", "no"]) };
    assert_eq!(
        found(Some(&first), &less),
        [("device_id".into(), gone), ("qty".into(), narrowed), ("(key)".into(), key)]
    );
    assert_eq!(found(None, &less), [], "not yet there is not gone");
    let lines: Vec<_> = compare(&topic, None, &more).iter().filter_map(|f| f.line()).collect();
    assert_eq!(
        lines,
        ["qty: type = \"bigint\"", "new_one = { type = \"date\", optional = true }"],
        "as it is to be written"
    );
    assert_eq!(Upstream::from_json(&more.to_json()), Some(more.clone()));
    assert_ne!(more.id(), first.id());
}

#[test]
fn a_topic_says_what_it_does_where_that_makes_sense() {
    for (head, personal, wrong) in [
        ("topic = \"t\"\nformat = \"debezium-json\"\ndrift = \"apply\"\n", "", None),
        (
            "topic = \"t\"\nformat = \"debezium-json\"\ndrift = \"on\"\n",
            "",
            Some("unknown drift `on`"),
        ),
        ("topic = \"t\"\nformat = \"maxwell\"\ndrift = \"plan\"\n", "", None),
        ("topic = \"t\"\nformat = \"maxwell\"\ndrift = \"apply\"\n", "", Some("do not say")),
        (
            "topic = \"t\"\nformat = \"debezium-json\"\ndrift = \"apply\"\n",
            "mail = { type = \"text\", pii = \"hash\" }\n",
            Some("`mail` shows that this source has personal data"),
        ),
        (
            "topic = \"t\"\nformat = \"debezium-json\"\ndrift = \"apply\"\n",
            "mail = { type = \"text\", pii = \"drop\" }\n",
            None,
        ),
    ] {
        match (catalog(head, personal, &[]), wrong) {
            (Ok(catalog), None) => assert_ne!(catalog.topics["t"].drift, Drift::Off),
            (Err(told), Some(wrong)) => assert!(told.contains(wrong), "{told}"),
            (found, _) => panic!("{head}: {found:?}"),
        }
    }
    let json = "topic = \"t\"\nformat = \"json\"\ndrift = \"plan\"\n[columns]\nid = \"bigint\"\n";
    let told = check(&[(PathBuf::from("t.toml"), json.to_owned())], &[]).expect_err("no source");
    assert!(told[0].what.contains("the format is json"), "{told:?}");
}

fn added(column: &str, pg: PgType, from: Option<PgType>, since: i64) -> Addition {
    let since = BTreeMap::from([(Partition(0), Offset(since))]);
    Addition { column: column.into(), field: column.into(), pg, from, since }
}

#[test]
fn an_addition_is_the_same_as_its_line_in_the_file() {
    let apply = format!("{HEAD}drift = \"apply\"\n");
    let star = [("orders", "SELECT * FROM t")];
    let plain = catalog(&apply, "qty = { type = \"integer\", optional = true }\n", &star).unwrap();
    let all = Additions::from([(
        "t".into(),
        vec![
            added("note", PgType::Text, None, 10),
            added("qty", PgType::BigInt, Some(PgType::Integer), 20),
        ],
    )]);
    let wider = plain.with_additions(&all).expect("compatible");
    let line = "note = { type = \"text\", optional = true }\nqty = { type = \"bigint\", optional = true }\n";
    let written = catalog(&apply, line, &star).unwrap();
    let again = written.with_additions(&all).expect("the same");
    for other in [&written, &again] {
        let fields = |catalog: &Catalog| {
            let mut fields = catalog.topics["t"].schema.fields().to_vec();
            fields.sort_by(|a, b| a.name().cmp(b.name()));
            fields
        };
        assert_eq!(fields(&wider), fields(other));
        assert_eq!(wider.models["orders"].fingerprint(), other.models["orders"].fingerprint());
    }
    assert_ne!(wider.models["orders"].fingerprint(), plain.models["orders"].fingerprint());
    let names: Vec<_> =
        wider.topics["t"].schema.fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names[..4], ["id", "qty", "note", "_op"], "hidden columns stay behind the others");

    for line in [
        "note = { type = \"bigint\", optional = true }\n",
        "note = \"text\"\n",
        "note = { type = \"text\", optional = true, from = \"/other\" }\n",
    ] {
        let other = catalog(&apply, &format!("qty = \"integer\"\n{line}"), &[]).unwrap();
        let told = other.with_additions(&all).expect_err("another column");
        assert!(told[0].what.contains("was added as text"), "{told:?}");
    }
}

#[test]
fn a_record_is_decoded_by_the_additions_before_it() {
    let plain = catalog(HEAD, "qty = { type = \"integer\", optional = true }\n", &[]).unwrap();
    let all = Additions::from([(
        "t".into(),
        vec![
            added("note", PgType::Text, None, 10),
            added("qty", PgType::BigInt, Some(PgType::Integer), 20),
        ],
    )]);
    let wider = plain.with_additions(&all).expect("compatible");
    let topic = &wider.topics["t"];
    let layers = [0, 9, 10, 19, 20].map(|offset| topic.layer_at(Partition(0), offset));
    assert_eq!(layers, [0, 0, 1, 1, 2]);
    assert_eq!(topic.layer_at(Partition(1), 0), 2, "a partition that had nothing then");
    let pg = |layer: usize| topic.layer(layer).columns.iter().map(|c| c.pg).collect::<Vec<_>>();
    assert_eq!(pg(1), [PgType::Integer, PgType::Integer, PgType::Text]);
    assert_eq!(pg(2), [PgType::Integer, PgType::BigInt, PgType::Text]);
    assert_eq!(topic.additions_mark(), (2, 30));
}

#[test]
fn a_star_is_of_topics_that_say_what_becomes_of_new_columns() {
    let star = [("orders", "SELECT * FROM t")];
    let told = catalog(HEAD, "", &star).expect_err("off");
    assert!(told.contains("SELECT * would change") && told.contains("drift = \"plan\""), "{told}");
    let plan = format!("{HEAD}drift = \"plan\"\n");
    let columns =
        "a = { type = \"text\", optional = true }\nb = { type = \"text\", pii = \"drop\" }\n";
    let model = &catalog(&plan, columns, &star).expect("a catalog").models["orders"];
    let names: Vec<_> = model.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names[..2], ["id", "a"], "what is dropped is in no table");
}
