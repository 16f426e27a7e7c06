//! CloudEvents, as their specification shows them.

use super::messages::{declared, decode, lines, message, messages, reasons};
use crate::{catalog::Topic, record::EventTime};
use std::sync::Arc;

pub const COLUMNS: &str = "tap_id = \"text\"\nfare = { type = \"numeric(8,2)\", optional = true }
doc = { type = \"jsonb\", optional = true }\nevent = { type = \"text\", from = \"/ce_id\" }
ce_time = { type = \"timestamptz\", optional = true }\nce_partitionkey = { type = \"text\", optional = true }";

pub const EVENTS: [&str; 5] = [
    r#"{"specversion":"1.0","type":"com.example.tap","source":"/gates/7","id":"A234-1234","time":"2024-03-01T08:00:00Z","partitionkey":"z\"oë","datacontenttype":"application/json","data":{"tapId":"t1","fare":"2.50","doc":{"a":[1,null]},"more":1}}"#,
    r#"[{"specversion":"1.0","type":"t","source":"s","id":"2","data":{"tap_id":"t2","fare":1.5}}]"#,
    r#"{"specversion":"1.0","type":"t","source":"s","id":"3","data_base64":"eyJ0YXBfaWQiOiAidDMifQ=="}"#,
    "[]",
    r#" {"id":"4","data" : { "tap_id":"🔥" } ,"specversion":"1.0","type":"t","source":"s"} "#,
];

pub fn topic() -> Arc<Topic> {
    declared("cloudevents", "", COLUMNS)
}

#[test]
fn an_event_is_its_data_with_the_attributes_that_columns_name() {
    let decoded = decode(&topic(), &messages(&EVENTS));
    assert_eq!(reasons(&decoded), [""; 0]);
    assert_eq!(decoded.empty, [3], "an array of no event");
    assert_eq!(decoded.unknown_fields, 1, "`more`; attributes that no column names are no fields");
    assert_eq!(
        lines(&decoded, &["tap_id", "fare", "doc", "event", "ce_time", "ce_partitionkey"]),
        [
            "t1 250 {\"a\":[1,null]} A234-1234 1709280000000000 z\"oë",
            "t2 150 - 2 - -",
            "t3 - - 3 - -",
            "🔥 - - 4 - -",
        ]
    );
    let optional = "ce_time = { type = \"timestamptz\", optional = true }";
    let columns = COLUMNS.replace(optional, "ce_time = \"timestamptz\"");
    let timed = declared("cloudevents", "event_time = \"ce_time\"", &columns);
    let timed = decode(&timed, &messages(&EVENTS[..2]));
    assert_eq!(timed.event_times, [EventTime(1_709_280_000_000_000)]);
    assert_eq!(reasons(&timed), ["the field is absent and the column is not optional"]);
}

#[test]
fn what_is_no_event_is_refused() {
    let event =
        |rest: &str| format!(r#"{{"specversion":"1.0","type":"t","source":"s","id":"1"{rest}}}"#);
    for (value, reason) in [
        (r#"{"tap_id":"t"}"#.to_owned(), "without the attribute `specversion`"),
        (
            r#"{"specversion":"1.0","type":"t","source":"","id":"1"}"#.to_owned(),
            "attribute `source`",
        ),
        (
            r#"{"specversion":"0.3","type":"t","source":"s","id":"1"}"#.to_owned(),
            "another `specversion`",
        ),
        (event(r#","data":{},"data_base64":"e30=""#), "`data` and `data_base64`"),
        (event(r#","data":"text""#), "`data` of the event is not a JSON object"),
        (event(r#","data_base64":"/w==""#), "not base64 of text"),
        (event(r#","data_base64":"ew==""#), "`data` of the event is not a JSON object"),
        (format!("[{0},{0}]", event("")), "an array of 2 events"),
        (event(""), "the field is absent"),
        ("7".to_owned(), "not an object"),
    ] {
        let decoded = decode(&topic(), &message(None, Some(&value)));
        assert!(reasons(&decoded)[0].contains(reason), "{value}: {:?}", decoded.rejects);
    }
    assert!(reasons(&decode(&topic(), &message(None, None)))[0].contains("tombstone"));
}
