//! Debezium's events: captured ones, in every mode of the connector, and broken ones.
//!
//! The captured ones lie outside of the repository (`HIGHWATER_TEST_DATA`).

use super::{
    messages::{Message, captured, declared, decode, lines, message, messages},
    shown,
};
use crate::catalog::Topic;
use proptest::prelude::*;
use std::sync::Arc;

fn topic(changes: &str, columns: &str) -> Arc<Topic> {
    declared("debezium-json", &format!("[changes]\n{changes}"), columns)
}

pub const CUSTOMERS: &str = "id = \"integer\"\nfirst_name = \"text\"\nemail = { type = \"text\", optional = true }
balance = { type = \"numeric(12,2)\", optional = true }\nvip = \"boolean\"\ncreated_at = \"timestamptz\"";

/// Inserts, updates, a changed key (delete and insert), deletes; the unscaled balance.
const CUSTOMER_CHANGES: [&str; 11] = [
    "0 read 1 Sally 1050 true 1704164645678901",
    "1 read 2 George -325 false 1709251199000000",
    "2 read 3 Zoë \"Z\" 9999999999 false 946598400000000",
    "3 insert 4 Ann 1 true 1717200000000000",
    "4 update 1 Sally 1160 true 1704164645678901",
    "5 update 4 Ann 1 false 1717200000000000",
    "6 delete 4 - - - -",
    "8 insert 1004 Ann 1 false 1717200000000000",
    "9 delete 2 - - - -",
    "11 insert 5 New 0 false 1719792000000000",
    "12 update 1 Sally 1160 true 1704164645678901",
];

const MODES: [(&str, &str, &str); 4] = [
    ("postgres_json.jsonl", "pgplain", ""),
    ("postgres_json_schemas.jsonl", "pgschema", ""),
    ("postgres_tx_strings.jsonl", "pgtx", "decimals = \"string\""),
    ("postgres_unwrapped.jsonl", "pgunwrap", "decimals = \"double\"\nunwrapped = true"),
];

#[test]
fn captured_changes_are_the_same_operations_in_every_mode_of_the_connector() {
    for (file, prefix, changes) in MODES {
        let name = format!("{prefix}.inventory.customers");
        let Some(messages) = captured(file, &name) else { return };
        let topic = topic(&format!("key = [\"id\"]\n{changes}"), CUSTOMERS);
        let decoded = decode(&topic, &messages);
        let marks = lines(&decoded, &["_snapshot"]);
        let told =
            if changes.contains("unwrapped") { ["-"; 4] } else { ["row", "row", "last", "-"] };
        assert_eq!(marks[..4], told, "{file}");
        let columns = ["_offset", "_op", "id", "first_name", "balance", "vip", "created_at"];
        assert_eq!(lines(&decoded, &columns), CUSTOMER_CHANGES, "{file}");
        // The tombstones after the deletes of 4 and 2.
        assert_eq!(decoded.empty, [7, 10], "{file}");
        // From offset 13 the source has no column `vip` any more.
        assert!(decoded.rejects.iter().all(|r| r.record >= 13), "{file}");
        assert!(decoded.rejects.iter().all(|r| r.column.as_deref() == Some("vip")), "{file}");
        // Positions ascend with what happened; the deletion and insertion of a changed key share one.
        let positions = lines(&decoded, &["_source_position"]);
        assert!(positions.is_sorted() && positions.iter().all(|p| p.len() == 20), "{positions:?}");
    }
}

pub const ALL_TYPES: &str = r#"
id = "bigint"
c_smallint = { type = "smallint", optional = true }
c_real = { type = "real", optional = true }
c_double = { type = "double precision", optional = true }
c_numeric = { type = "numeric(38,9)", optional = true }
c_numeric_p = { type = "numeric(20,4)", optional = true }
c_bytea = { type = "bytea", optional = true }
c_date = { type = "date", optional = true }
c_time = { type = "text", optional = true, encoding = "time-us" }
c_ts = { type = "timestamptz", optional = true, encoding = "timestamp-us" }
c_ts3 = { type = "timestamptz", optional = true, encoding = "timestamp-ms" }
c_tstz = { type = "timestamptz", optional = true }
c_interval = { type = "text", optional = true, encoding = "duration-us" }
c_json = { type = "jsonb", optional = true }
c_uuid = { type = "uuid", optional = true }
c_enum = { type = "text", optional = true }
c_int_arr = { type = "jsonb", optional = true }
c_money = { type = "numeric(10,2)", optional = true }
"#;

#[test]
fn every_type_of_a_captured_table_comes_out_whole_with_and_without_schemas() {
    let whole = "1 -32768 1.5 0.1 12345678901234567890123456789 12345678901234 [0, 255, 16] 19782 \
                 12:34:56.789012 1709210096789012 1709210096789000 1709202896789012 PT10303H5M6.7S \
                 {\"a\": 1, \"b\": [true, null]} 123e4567-e89b-12d3-a456-426614174000 happy \
                 [1,null,3] 1234";
    let nothing = " -".repeat(17);
    for (file, prefix) in
        [("postgres_json.jsonl", "pgplain"), ("postgres_json_schemas.jsonl", "pgschema")]
    {
        let name = format!("{prefix}.inventory.alltypes");
        let Some(messages) = captured(file, &name) else { return };
        let topic = topic("key = [\"id\"]", ALL_TYPES);
        let decoded = decode(&topic, &messages);
        let columns: Vec<&str> = topic.columns.iter().map(|column| column.name.as_str()).collect();
        let columns = [&["_op"], &columns[..]].concat();
        let expected = [
            format!("read {whole}"),
            format!("read 2{nothing}"),
            format!("update {whole}"),
            format!("delete 2{nothing}"),
        ];
        assert_eq!(lines(&decoded, &columns), expected, "{file}");
        // Infinity is a timestamptz of PostgreSQL's and no instant.
        let [infinite] = &decoded.rejects[..] else { panic!("{file}: {:?}", decoded.rejects) };
        assert_eq!((infinite.record, infinite.column.as_deref()), (2, Some("c_tstz")));
    }
}

#[test]
fn a_value_stored_out_of_line_and_not_changed_is_said_to_be_unchanged() {
    let columns = "id = \"integer\"\ntitle = \"text\"\nbody = { type = \"text\", optional = true }";
    for (file, prefix, changes) in MODES {
        let name = format!("{prefix}.inventory.docs");
        let Some(messages) = captured(file, &name) else { return };
        let decoded = decode(&topic(&format!("key = [\"id\"]\n{changes}"), columns), &messages);
        assert_eq!(decoded.rejects, [], "{file}");
        let found = lines(&decoded, &["_op", "id", "title", "_unchanged"]);
        assert!(found.contains(&"update 1 big2 [\"body\"]".to_owned()), "{file}: {found:?}");
        let truncated = found.contains(&"truncate - - -".to_owned());
        // The SMT swallows truncates.
        assert_eq!(truncated, prefix != "pgunwrap", "{file}: {found:?}");
    }
}

#[test]
fn before_images_are_rows_where_the_topic_says_that_they_are_whole() {
    let columns = "tenant = \"text\"\norder_id = \"integer\"\nitem = \"text\"\nqty = \"integer\"";
    let Some(messages) = captured("postgres_json.jsonl", "pgplain.inventory.orders") else {
        return;
    };
    let changes = "key = [\"tenant\", \"order_id\"]\nbefore = \"full\"";
    let decoded = decode(&topic(changes, columns), &messages);
    assert_eq!(decoded.rejects, []);
    let before = decoded.before.clone().expect("the topic has them");
    let rows = lines(&decoded, &["_op", "tenant", "order_id", "qty", "_before"]);
    let there: Vec<bool> = before.there.iter().map(|there| there == Some(true)).collect();
    for (row, line) in rows.iter().enumerate() {
        let has = line.starts_with("update") || line.starts_with("delete");
        assert_eq!(there[row], has, "{line}");
        assert_eq!(line.ends_with('}'), has, "{line}");
    }
    let updated = rows.iter().position(|line| line.starts_with("update acme")).expect("an update");
    let column =
        |name| shown(before.rows.column_by_name(name).expect("a column").as_ref(), updated);
    assert_eq!(column("qty").as_deref(), Some("3"));
    assert!(rows[updated].contains(r#""qty":3"#), "{}", rows[updated]);
}

#[test]
fn captured_mariadb_changes_go_by_the_place_in_the_binlog() {
    let columns = "id = \"integer\"\nname = \"text\"\nprice = { type = \"numeric(10,2)\", optional = true }
made = { type = \"date\", optional = true }\nt = { type = \"text\", optional = true, encoding = \"time-us\" }
dt = { type = \"timestamptz\", optional = true, encoding = \"timestamp-us\" }
ts = { type = \"timestamptz\", optional = true }";
    for (file, prefix) in
        [("mariadb_json.jsonl", "maplain"), ("mariadb_json_schemas.jsonl", "maschema")]
    {
        let topic = topic("key = [\"id\"]\nbefore = \"full\"", columns);
        let Some(messages) = captured(file, &format!("{prefix}.shop.items")) else { return };
        let decoded = decode(&topic, &messages);
        assert_eq!(decoded.rejects, [], "{file}");
        let found = lines(&decoded, &["_op", "id", "name", "price", "made", "t", "dt", "ts"]);
        assert_eq!(
            found[0], "read 1 pen 150 19782 -01:02:03.004 1709210096789012 1709210096789000",
            "{file}"
        );
        let operations: Vec<&str> =
            found.iter().map(|line| line.split(' ').next().unwrap_or("")).collect();
        assert_eq!(
            operations,
            [
                "read", "read", "insert", "update", "delete", "insert", "delete", "insert",
                "insert", "update", "truncate"
            ],
            "{file}"
        );
        assert!(lines(&decoded, &["_source_position"]).is_sorted(), "{file}");

        // The topic of changes of the schema: nothing about a row.
        let Some(messages) = captured(file, prefix) else { return };
        let decoded = decode(&topic, &messages);
        assert_eq!((decoded.rows.num_rows(), decoded.rejects.len()), (0, 0), "{file}");
        assert_eq!(decoded.empty.len(), messages.len());
    }
}

#[test]
fn borders_of_transactions_and_messages_in_the_log_say_nothing_about_a_row() {
    let topic = topic("key = [\"id\"]", "id = \"integer\"");
    for name in ["pgtx.transaction", "pgtx.message"] {
        let Some(messages) = captured("postgres_tx_strings.jsonl", name) else { return };
        let decoded = decode(&topic, &messages);
        assert_eq!(decoded.empty.len(), messages.len(), "{name}: {:?}", decoded.rejects);
    }
}

#[test]
fn a_tombstone_deletes_only_where_the_topic_says_so() {
    let columns = "id = \"integer\"\nname = \"text\"";
    let tombstone = message(Some(r#"{"id":7}"#), None);
    assert_eq!(decode(&topic("key = [\"id\"]", columns), &tombstone).empty, [0]);
    let deleting = topic("key = [\"id\"]\ntombstones = \"delete\"\norder = \"offset\"", columns);
    let decoded = decode(&deleting, &tombstone);
    assert_eq!(lines(&decoded, &["_op", "id", "name"]), ["delete 7 -"]);
    let nameless = decode(&deleting, &message(None, None));
    assert!(nameless.rejects[0].reason.contains("not what is deleted"), "{:?}", nameless.rejects);
}

#[test]
fn of_rows_that_are_only_added_each_is_an_event_and_all_else_is_refused() {
    let columns =
        "id = \"integer\"\nat = \"timestamptz\"\nn = { type = \"integer\", optional = true }";
    let topic = topic("key = [\"id\"]\nappend_only = true", columns);
    let image = r#"{"id":1,"at":"2024-03-01T08:00:00Z"}"#;
    let event = |op: &str, before: &str, after: &str| {
        let place = r#""source":{"lsn":7,"ts_us":1709251199000000}"#;
        format!(r#"{{"op":"{op}","before":{before},"after":{after},{place}}}"#)
    };
    for (op, after, expected) in [
        ("c", image, "insert 1 1709280000000000 -"),
        ("r", r#"{"id":2,"at":"2024-03-01T08:00:00Z","n":3}"#, "read 2 1709280000000000 3"),
    ] {
        let decoded = decode(&topic, &message(None, Some(&event(op, "null", after))));
        assert_eq!(lines(&decoded, &["_op", "id", "at", "n"]), [expected], "{:?}", decoded.rejects);
    }
    for (op, before, after, reason) in [
        ("u", "null", image, "an update, of a table whose rows are only added"),
        ("d", image, "null", "a delete, of a table whose rows are only added"),
        ("t", "null", "null", "a truncate, of a table whose rows are only added"),
        ("c", "null", r#"{"id":1}"#, "the column is not optional"),
    ] {
        let decoded = decode(&topic, &message(None, Some(&event(op, before, after))));
        let [reject] = &decoded.rejects[..] else { panic!("{op}: {:?}", decoded.rows) };
        assert!(reject.reason.contains(reason), "{op}: {}", reject.reason);
    }
    let tombstone = decode(&topic, &message(Some(r#"{"id":1}"#), None));
    assert_eq!((tombstone.empty.len(), tombstone.rejects.len()), (1, 0));
}

#[test]
fn what_is_no_change_event_is_refused_with_its_remedy() {
    let plain = topic("key = [\"id\"]", "id = \"integer\"");
    for (value, reason) in [
        (r#"{"id":1}"#, "changes.unwrapped = true"),
        (r#"{"op":"x","after":{"id":1},"source":{"lsn":1}}"#, "none of c, u, d, r, t, m"),
        (r#"{"op":"c","after":{"id":1},"source":{}}"#, "changes.order = \"offset\""),
        (r#"{"op":"c","source":{"lsn":1}}"#, "without `after`"),
        (r#"{"op":"d","source":{"lsn":1}}"#, "without `before` and without a key"),
        (r#"{"op":"c","after":[1],"source":{"lsn":1}}"#, "not an object"),
        (r#"{"op":"c","after":{"id":1}"#, "ends too early"),
        ("7", "not an object"),
    ] {
        let decoded = decode(&plain, &message(None, Some(value)));
        let [reject] = &decoded.rejects[..] else { panic!("{value}: {:?}", decoded.rows) };
        assert!(reject.reason.contains(reason), "{value}: {}", reject.reason);
    }
}

#[test]
fn the_image_is_that_of_the_operation_wherever_it_stands() {
    let topic =
        topic("key = [\"id\"]", "id = \"integer\"\nname = { type = \"text\", optional = true }");
    let source = r#""source":{"lsn":1}"#;
    for (value, told) in [
        (r#""after":{"id":1,"name":"a"},"op":"c""#, "insert 1 a"),
        (r#""op":"u","before":{"id":1,"name":"b"},"after":{"id":1}"#, "update 1 -"),
        (r#""op":"d","before":{"id":5,"name":"b"},"after":{"id":6,"name":"c"}"#, "delete 5 -"),
        (r#""op":"c","after":{"id":1,"name":"a"},"after":{"id":3}"#, "insert 3 -"),
        (r#""op":"c","after":{"id":1},"payload":{"after":{"id":2,"name":"a"}}"#, "insert 1 -"),
        (r#""op":"c","payload":{"after":{"id":2,"name":"a"}},"after":{"id":1}"#, "insert 1 -"),
        (r#""after":{"id":4,"name":"a"},"op":"t""#, "truncate - -"),
    ] {
        let value = format!("{{{value},{source}}}");
        let decoded = decode(&topic, &message(None, Some(&value)));
        assert_eq!(lines(&decoded, &["_op", "id", "name"]), [told], "{value}");
    }
    let packed = format!(
        r#"{{"payload":{{"op":"c","after":{{"id":2,"name":"a"}},{source}}},"schema":{{}}}}"#
    );
    let decoded = decode(&topic, &message(None, Some(&packed)));
    assert_eq!(lines(&decoded, &["_op", "id", "name"]), ["insert 2 a"]);
    let nothing = format!(r#"{{"op":"m","after":{{"id":2}},{source}}}"#);
    assert_eq!(decode(&topic, &message(None, Some(&nothing))).empty, [0]);
    let null = format!(r#"{{"op":"c","after":{{"id":2}},"after":null,{source}}}"#);
    let decoded = decode(&topic, &message(None, Some(&null)));
    assert!(decoded.rejects[0].reason.contains("without `after`"), "{:?}", decoded.rejects);
}

/// A value: one of these, perhaps with another byte somewhere.
fn value() -> impl Strategy<Value = String> {
    let source = r#""source":{"ts_ms":1704164645678,"snapshot":"false","sequence":"[\"7\",\"9\"]","lsn":LSN}"#;
    let schema = r#"{"fields":[{"field":"after","type":"struct","fields":[{"type":"int32","field":"id"},
        {"type":"int32","name":"io.debezium.time.Date","field":"name"}]}]}"#;
    let templates = [
        format!(r#"{{"before":null,"after":{{"id":LSN,"name":"a"}},{source},"op":"c","ts_ms":1}}"#),
        format!(r#"{{"before":{{"id":3}},"after":null,{source},"op":"d"}}"#),
        format!(
            r#"{{"schema":{schema},"payload":{{"after":{{"id":LSN,"name":19782}},"op":"u",{source}}}}}"#
        ),
        format!(r#"{{"schema":{schema},"payload":null}}"#),
        format!(r#"{{"payload":{{"op":"c"}},"payload":[],"schema":{schema}}}"#),
        r#"{"status":"BEGIN","id":"7","ts_ms":1}"#.to_owned(),
        r#"{"ts_ms":1}"#.to_owned(),
    ];
    let lsn = prop_oneof![Just("7"), Just("42"), Just("\"8\""), Just("null"), Just("{\"a\":[7]}")];
    let byte = prop_oneof![Just(b'"'), Just(b'}'), Just(b','), Just(b'7'), Just(b' '), Just(b'[')];
    let change = prop::option::weighted(0.4, (any::<prop::sample::Index>(), byte));
    (prop::sample::select(templates.to_vec()), lsn, change).prop_map(|(template, lsn, change)| {
        let mut text = template.replace("LSN", lsn).into_bytes();
        if let Some((place, byte)) = change {
            let place = place.index(text.len());
            text[place] = byte;
        }
        String::from_utf8(text).expect("ASCII")
    })
}

proptest! {
    /// What a decoder remembers is there for speed alone.
    #[test]
    fn a_message_says_the_same_whatever_came_before_it(values in prop::collection::vec(value(), 1..40)) {
        let topic = topic("key = [\"id\"]", "id = \"integer\"\nname = \"text\"");
        let columns = ["_op", "id", "name", "_source_position", "_source_time"];
        let told = |messages: &[Message]| {
            let decoded = decode(&topic, messages);
            let rejects = decoded.rejects.iter().map(|r| (r.record, r.class, r.column.clone(), r.reason.clone()));
            (lines(&decoded, &columns), rejects.collect::<Vec<_>>(), decoded.empty.clone())
        };
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let together = told(&messages(&values));
        let mut alone = (Vec::new(), Vec::new(), Vec::new());
        for (nth, message) in messages(&values).into_iter().enumerate() {
            let (lines, rejects, empty) = told(&[message]);
            alone.0.extend(lines);
            alone.1.extend(rejects.into_iter().map(|(_, class, column, reason)| (nth, class, column, reason)));
            alone.2.extend(empty.iter().map(|_| nth));
        }
        prop_assert_eq!(together, alone);
    }
}
