//! Canal's events, as TiCDC writes them.

use super::messages::{declared, decode, lines, message, messages, reasons};
use crate::catalog::Topic;
use std::sync::Arc;

pub const COLUMNS: &str = "id = \"integer\"\nname = { type = \"text\", optional = true }
price = { type = \"numeric(10,2)\", optional = true }
made = { type = \"timestamptz\", encoding = \"timestamp-utc\", optional = true }
doc = { type = \"jsonb\", optional = true }";

pub const EVENTS: [&str; 7] = [
    r#"{"id":0,"database":"test","table":"t","pkNames":["id"],"isDdl":true,"type":"CREATE","es":1639633094670,"ts":1639633095489,"sql":"CREATE TABLE t (id INT)","sqlType":null,"mysqlType":null,"data":null,"old":null,"_tidb":{"commitTs":429918007904436226}}"#,
    r#"{"id":0,"database":"test","table":"t","pkNames":["id"],"isDdl":false,"type":"INSERT","es":1639633141221,"ts":1639633142960,"sql":"","sqlType":{"id":4},"mysqlType":{"id":"int"},"data":[{"id":"1","name":"Zoë 🔥","price":"3.14","made":"2021-12-16 13:39:01","doc":"{\"a\": [1]}"}],"old":null,"_tidb":{"commitTs":429918020114153473}}"#,
    r#"{"id":0,"database":"test","table":"t","isDdl":false,"type":"UPDATE","es":1639633141222,"data":[{"id":"1","name":null,"price":"3.15","made":"2021-12-16 13:39:01","doc":null}],"old":[{"name":"Zoë 🔥","price":"3.14","doc":"{\"a\": [1]}"}],"_tidb":{"commitTs":429918020114153474}}"#,
    r#"{"id":0,"database":"test","table":"t","isDdl":false,"type":"DELETE","es":1639633141223,"data":[{"id":"1","name":null,"price":"3.15","made":"2021-12-16 13:39:01","doc":null}],"old":null,"_tidb":{"commitTs":429918020114153475}}"#,
    r#"{"id":0,"database":"","table":"","isDdl":false,"type":"TIDB_WATERMARK","es":1640007049196,"ts":1640007050284,"data":null,"old":null,"_tidb":{"watermarkTs":429918020114153476}}"#,
    r#"{"id":0,"database":"test","table":"t","isDdl":true,"type":"TRUNCATE","es":1639633141229,"sql":"TRUNCATE TABLE t","data":null,"old":null,"_tidb":{"commitTs":429918020114153477}}"#,
    r#"{"id":0,"database":"test","table":"other","isDdl":false,"type":"INSERT","es":1639633141230,"data":[{"id":"9","name":"not ours"}],"old":null,"_tidb":{"commitTs":429918020114153478}}"#,
];

fn topic(changes: &str) -> Arc<Topic> {
    declared("canal", &format!("[changes]\nkey = [\"id\"]\n{changes}"), COLUMNS)
}

#[test]
fn events_are_operations_and_those_of_other_tables_say_nothing() {
    let decoded = decode(&topic("table = \"test.t\""), &messages(&EVENTS));
    assert_eq!(reasons(&decoded), [""; 0]);
    assert_eq!(decoded.empty, [0, 4, 6], "a change of schema, a watermark, another table");
    assert_eq!(
        lines(&decoded, &["_op", "id", "name", "price", "made", "doc", "_source_time"]),
        [
            "insert 1 Zoë 🔥 314 1639661941000000 {\"a\": [1]} 1639633141221000",
            "update 1 - 315 1639661941000000 - 1639633141222000",
            "delete 1 - - - - 1639633141223000",
            "truncate - - - - - 1639633141229000",
        ]
    );
    let positions = lines(&decoded, &["_source_position"]);
    assert!(positions.is_sorted(), "{positions:?}");
    assert_eq!(positions[0], "00429918020114153473");
    assert_eq!(decode(&topic(""), &messages(&EVENTS)).rows.num_rows(), 5, "all of one table");
}

#[test]
fn a_before_image_is_the_row_with_what_had_been_there() {
    let decoded = decode(&topic("before = \"full\""), &messages(&EVENTS[1..4]));
    let before = lines(&decoded, &["_before"]);
    assert_eq!(before[0], "-");
    assert!(before[1].contains("Zoë 🔥") && before[1].contains("3.14"), "{}", before[1]);
    assert!(before[2].contains("3.15"), "{}", before[2]);
}

#[test]
fn what_is_no_event_of_one_row_is_refused_with_its_remedy() {
    for (value, reason) in [
        (r#"{"data":[{"id":1}]}"#, "without `type`"),
        (r#"{"type":"UPSERT","data":[{"id":1}]}"#, "does not have"),
        (r#"{"type":"INSERT","data":null}"#, "without `data`"),
        (r#"{"type":"INSERT","data":{"id":1}}"#, "`data` is not an array"),
        (r#"{"type":"INSERT","data":[{"id":1},{"id":2}]}"#, "of 2 rows in `data`"),
        (r#"{"type":"INSERT","data":[]}"#, "of 0 rows"),
        (r#"{"type":"INSERT","data":[{"id":1}]}"#, "changes.order = \"offset\""),
        (r#"{"type":"INSERT","data":[7],"_tidb":{"commitTs":1}}"#, "not an object"),
        (r#"{"type":"INSERT","es":1.5,"data":[{"id":1}],"_tidb":{"commitTs":1}}"#, "`es`"),
    ] {
        let decoded = decode(&topic(""), &message(None, Some(value)));
        assert!(reasons(&decoded)[0].contains(reason), "{value}: {:?}", decoded.rejects);
    }
    let by_offset = decode(
        &topic("order = \"offset\""),
        &messages(&[r#"{"type":"INSERT","data":[{"id":1}]}"#]),
    );
    assert_eq!(lines(&by_offset, &["_op", "id", "_source_position"]), ["insert 1 "]);
}
