//! Maxwell's events, as its documentation shows them.

use super::messages::{declared, decode, lines, message, messages, reasons};
use crate::catalog::Topic;
use std::sync::Arc;

pub const COLUMNS: &str = "id = \"integer\"\nm = { type = \"numeric(10,4)\", optional = true }
c = { type = \"timestamptz\", encoding = \"timestamp-utc\", optional = true }
comment = { type = \"text\", optional = true }\ndoc = { type = \"jsonb\", optional = true }";

pub const EVENTS: [&str; 7] = [
    r#"{"database":"test","table":"e","type":"insert","ts":1477053217,"xid":23396,"commit":true,"position":"master.000006:800911","server_id":23042,"thread_id":108,"primary_key":[1],"primary_key_columns":["id"],"data":{"id":1,"m":4.2341,"c":"2016-10-21 05:33:37.523000","comment":"I am a créature of light.","doc":{"a":[1,null]}}}"#,
    r#"{"database":"test","table":"e","type":"update","ts":1477053234,"position":"master.000006:801200","data":{"id":1,"m":5.4440,"c":"2016-10-21 05:33:54.631000","comment":"I am a créature of light.","doc":null},"old":{"m":4.2341,"c":"2016-10-21 05:33:37.523000","doc":{"a":[1,null]}}}"#,
    r#"{"database":"test","table":"e","type":"delete","ts":1477053240,"position":"master.000010:4","data":{"id":1,"m":5.4440,"c":"2016-10-21 05:33:54.631000","comment":"I am a créature of light.","doc":null}}"#,
    r#"{"type":"table-alter","database":"test","table":"e","old":{"database":"test"},"def":{"database":"test"},"ts":1477053308000,"sql":"alter table test.e add column torvalds bigint unsigned after m"}"#,
    r#"{"database":"test","table":"e","type":"bootstrap-start","ts":1450557744,"data":{}}"#,
    r#"{"database":"test","table":"e","type":"bootstrap-insert","ts":1450557744,"data":{"id":2,"m":null,"c":null,"comment":"hello","doc":null}}"#,
    r#"{"database":"test","table":"e","type":"bootstrap-complete","ts":1450557744,"data":{}}"#,
];

fn topic(changes: &str) -> Arc<Topic> {
    declared("maxwell", &format!("[changes]\nkey = [\"id\"]\n{changes}"), COLUMNS)
}

#[test]
fn events_are_operations_in_the_order_of_the_binlog() {
    let decoded = decode(&topic(""), &messages(&EVENTS));
    assert_eq!(reasons(&decoded), [""; 0]);
    assert_eq!(decoded.empty, [3, 4, 6], "changes of schema, borders of a bootstrap");
    assert_eq!(
        lines(&decoded, &["_op", "id", "m", "c", "comment", "doc", "_before", "_source_time"]),
        [
            "insert 1 42341 1477028017523000 I am a créature of light. {\"a\":[1,null]} - 1477053217000000",
            "update 1 54440 1477028034631000 I am a créature of light. - - 1477053234000000",
            "delete 1 - - - - - 1477053240000000",
            "read 2 - - hello - - 1450557744000000",
        ]
    );
    let positions = lines(&decoded, &["_source_position"]);
    assert!(positions[..3].is_sorted(), "{positions:?}");
    assert_eq!(positions[0], "000000000006:00000000000000800911");
    assert_eq!(positions[3], "", "read before any change");
}

#[test]
fn an_update_that_changes_the_key_is_taken_only_with_the_row_before() {
    let moved = EVENTS[1].replace("\"old\":{", "\"old\":{\"id\":7,");
    let decoded = decode(&topic(""), &messages(&[&moved]));
    assert!(reasons(&decoded)[0].contains("changes.before = \"full\""), "{:?}", decoded.rejects);
    let decoded = decode(&topic("before = \"full\""), &messages(&[&moved]));
    assert!(lines(&decoded, &["_before"])[0].contains("\"id\":7"));
}

#[test]
fn events_of_other_tables_say_nothing() {
    let count = |table: &str| decode(&topic(table), &messages(&EVENTS)).rows.num_rows();
    assert_eq!(count("table = \"test.e\""), 4);
    assert_eq!(count("table = \"test.f\""), 0);
    assert_eq!(count("table = \"prod.e\""), 0);
}

#[test]
fn a_before_image_is_the_row_with_what_had_been_there() {
    let decoded = decode(&topic("before = \"full\""), &messages(&EVENTS[..3]));
    let before = lines(&decoded, &["_before"]);
    assert_eq!(before[0], "-");
    assert_eq!(
        before[1],
        r#"{"c":"2016-10-21T05:33:37.523Z","comment":"I am a créature of light.","doc":"{\"a\":[1,null]}","id":1,"m":"4.2341"}"#
    );
    assert!(before[2].contains("5.4440"), "{}", before[2]);
    assert_eq!(lines(&decoded, &["m"]), ["42341", "54440", "54440"]);
}

#[test]
fn what_is_no_event_is_refused_with_its_remedy() {
    for (value, reason) in [
        (r#"{"data":{"id":1}}"#, "without `type`"),
        (r#"{"type":"upsert","data":{"id":1}}"#, "does not have"),
        (r#"{"type":"insert","ts":1,"position":"a.1:2"}"#, "without `data`"),
        (r#"{"type":"insert","ts":1,"data":{"id":1}}"#, "output_binlog_position = true"),
        (r#"{"type":"insert","position":"a.1","data":{"id":1}}"#, "FILE.NUMBER:OFFSET"),
        (r#"{"type":"insert","ts":"x","position":"a.1:2","data":{"id":1}}"#, "`ts`"),
        (r#"{"type":"insert","position":"a.1:2","data":[1]}"#, "not an object"),
        ("[]", "not an object"),
    ] {
        let decoded = decode(&topic(""), &message(None, Some(value)));
        assert!(reasons(&decoded)[0].contains(reason), "{value}: {:?}", decoded.rejects);
    }
    let decoded = decode(&topic(""), &message(Some("{}"), None));
    assert_eq!(decoded.empty, [0], "a tombstone follows a delete");
}
