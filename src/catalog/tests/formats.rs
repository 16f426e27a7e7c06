//! What each format asks of a topic file, and what it takes from it.

use super::*;

const COLUMNS: &str = "[columns]\nid = \"bigint\"\nname = { type = \"text\", optional = true }\n";

fn file(format: &str, tables: &str) -> String {
    format!("topic = \"t\"\nformat = \"{format}\"\n{tables}\n{COLUMNS}")
}

#[test]
fn rows_of_csv_have_the_columns_in_order_or_a_header() {
    let plain = topic(&file("csv", ""));
    let csv = plain.csv.as_ref().unwrap();
    assert_eq!((&csv.header[..], csv.delimiter), (&["id", "name"].map(String::from)[..], b','));
    assert_eq!(plain.changes, None);

    let named = file("csv", "[csv]\nheader = [\"x\", \"name\", \"id\"]\ndelimiter = \"\\t\"");
    let named = topic(&named);
    assert_eq!(named.csv.as_ref().unwrap().delimiter, b'\t');
    assert_ne!(named.lake_fingerprint(), plain.lake_fingerprint());

    let rows = "[changes]\nkey = [\"id\"]\n[csv]\nheader = [\"header__change_seq\", \
                \"header__change_oper\", \"id\", \"name\"]";
    let qlik = topic(&file("qlik", rows));
    assert_eq!(qlik.csv.as_ref().unwrap().qlik("change_oper"), Some(1));
    // Messages in JSON.
    assert_eq!(topic(&file("qlik", "[changes]\nkey = [\"id\"]")).csv, None);
}

#[test]
fn mistakes_in_a_topic_of_csv_have_their_lines() {
    let from =
        "topic = \"t\"\nformat = \"csv\"\n[columns]\nid = { type = \"text\", from = \"/ID\" }\n";
    let cases = [
        (file("json", "[csv]"), 3, "[csv] is for rows of CSV"),
        (file("csv", "[csv]\nheader = [\"id\"]"), 3, "field of column `name` in csv.header"),
        (file("csv", "[csv]\nheader = [\"id\", \"id\", \"name\"]"), 4, "twice"),
        (file("csv", "[csv]\ndelimiter = \",,\""), 4, "one ASCII character"),
        (file("csv", "[csv]\nquote = \"x\""), 4, "unknown key `csv.quote`"),
        (file("qlik", "[changes]\nkey = []\n[csv]"), 5, "`csv.header` is missing"),
        (from.to_owned(), 1, "without csv.header the columns are the fields"),
    ];
    assert_each(cases, topic_mistakes);
}

#[test]
fn what_only_one_format_says_is_refused_of_others() {
    let rows = |changes: &str, header: &str| {
        file("qlik", &format!("[changes]\nkey = []\n{changes}\n[csv]\nheader = [{header}]"))
    };
    let of = |format, line: &str| file(format, &format!("[changes]\nkey = [\"id\"]\n{line}"));
    let operation = "\"header__change_oper\", \"id\", \"name\"";
    let sequence = "\"header__change_oper\", \"header__change_seq\", \"id\", \"name\"";
    let cases = [
        (of("maxwell", "unwrapped = true"), 5, "`changes.unwrapped` as it stands is for Debezium"),
        (of("qlik", "decimals = \"string\""), 5, "is for Debezium"),
        (of("qlik", "table = \"a.b\""), 5, "is for Maxwell's and Canal's"),
        (of("canal", "table = \"orders\""), 5, "DATABASE.TABLE"),
        (of("maxwell", "tombstones = \"delete\""), 5, "is for Debezium"),
        (of("debezium-json", "images = \"mask\""), 5, "is for Replicate"),
        (rows("before = \"full\"", sequence), 5, "a row of CSV has one image"),
        (rows("", operation), 3, "has no header__change_seq"),
        (rows("images = \"mask\"", sequence), 3, "has no header__change_mask"),
        (file("maxwell", ""), 1, "[changes] is missing"),
        (file("json", "batched = true"), 3, "cloudevents and canal; the format is json"),
        (
            file("cloudevents", "batched = true\nunique = [\"id\"]\nwithin = \"1h\""),
            4,
            "`unique` judges records",
        ),
    ];
    assert_each(cases, topic_mistakes);
    // Of a full load no row has an operation.
    topic(&rows("", "\"id\", \"name\""));
    topic(&rows("order = \"offset\"", operation));
}

#[test]
fn a_version_is_of_a_record_that_is_one_row() {
    let topic = file("canal", "batched = true\n[changes]\nkey = [\"id\"]");
    let model = "CREATE MATERIALIZED VIEW h WITH (history = 'validity') AS SELECT id, name FROM t";
    let mistakes = crate::catalog::check(
        &[("topics/t.toml".into(), topic)],
        &[("sql/models/h.sql".into(), model.to_owned())],
    );
    let mistakes = mistakes.expect_err("a mistake");
    assert!(mistakes[0].to_string().contains("known by the record that made it"), "{mistakes:?}");
}

#[test]
fn a_registry_is_that_of_the_topic_or_that_of_the_settings() {
    let own = file("avro", "registry = \"https://host/base/\"");
    let topics = [
        source("topics/own.toml", &own),
        source(
            "topics/other.toml",
            &file("debezium-avro", "[changes]\nkey = [\"id\"]").replace("\"t\"", "\"u\""),
        ),
        source("topics/json.toml", &file("json", "").replace("\"t\"", "\"v\"")),
    ];
    let mut catalog = check(&topics, &[]).unwrap();
    assert_eq!(catalog.topics["other"].registry, None);
    catalog.set_registry(Some("file:schemas"));
    let registry = |name: &str| catalog.topics[name].registry.as_deref();
    assert_eq!(registry("own"), Some("https://host/base"));
    assert_eq!(registry("other"), Some("file:schemas"));
    assert_eq!(registry("json"), None);
    let cases = [
        (file("avro", "registry = \"host:8081\""), 3, "no place of a schema registry"),
        (file("avro", "registry = \"file:\""), 3, "no place of a schema registry"),
        (file("json", "registry = \"file:x\""), 3, "`registry` is for Avro"),
        (file("avro", "[changes]\nkey = []"), 3, "[changes] is for topics of changes"),
    ];
    assert_each(cases, topic_mistakes);
}
