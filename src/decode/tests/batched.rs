//! Records that are several rows: what becomes of each row, and of the record.

use super::{
    canal, cloudevents,
    messages::{declared, decode, lines, message, messages, reasons},
};
use crate::{catalog::Topic, decode::RejectClass};
use proptest::prelude::*;
use std::sync::Arc;

pub fn events_topic() -> Arc<Topic> {
    declared("cloudevents", "batched = true", cloudevents::COLUMNS)
}

pub fn canal_topic(changes: &str) -> Arc<Topic> {
    let tables = format!("batched = true\n[changes]\nkey = [\"id\"]\n{changes}");
    declared("canal", &tables, canal::COLUMNS)
}

fn event(id: &str) -> String {
    format!(r#"{{"specversion":"1.0","type":"t","source":"s","id":"e","data":{{"tapId":{id}}}}}"#)
}

#[test]
fn each_event_of_an_array_is_a_row_with_its_place() {
    let values = [
        format!("[{},{} , {}]", event("\"a\""), event("\"b\""), event("\"c\"")),
        "[]".to_owned(),
        event("\"d\""),
        format!("[{}]", event("\"e\"")),
    ];
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let decoded = decode(&events_topic(), &messages(&values));
    assert_eq!(reasons(&decoded), [""; 0]);
    assert_eq!(decoded.empty, [1]);
    assert_eq!(
        lines(&decoded, &["tap_id", "_index", "_offset"]),
        ["a 0 0", "b 1 0", "c 2 0", "d 0 2", "e 0 3"]
    );
    assert_eq!(decoded.several, Some(vec![0, 0, 0, 2, 3]));
    let ranges: Vec<_> = decoded.rows_by_record().collect();
    assert_eq!(ranges, [0..3, 3..4, 4..5]);
}

#[test]
fn a_row_that_is_refused_refuses_its_record() {
    let missing = r#"{"specversion":"1.0","type":"t","source":"s","id":"e","data":{}}"#;
    let values = [
        format!("[{},{missing},{missing}]", event("\"a\"")),
        format!("[{},7]", event("\"b\"")),
        format!("[{},", event("\"c\"")),
        format!("[{}]", event("\"d\"")),
    ];
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let decoded = decode(&events_topic(), &messages(&values));
    assert_eq!(lines(&decoded, &["tap_id", "_index", "_offset"]), ["d 0 3"]);
    let refused: Vec<_> = decoded.rejects.iter().map(|r| (r.record, r.class)).collect();
    let malformed = RejectClass::Malformed;
    assert_eq!(refused, [(0, RejectClass::Missing), (1, malformed), (2, malformed)]);
    assert!(reasons(&decoded)[2].contains("not an array: byte"), "{:?}", decoded.rejects);
    assert_eq!(decoded.empty, [0; 0]);

    let many = vec!["7"; 10_001].join(",");
    let decoded = decode(&events_topic(), &message(None, Some(&format!("[{many}]"))));
    assert_eq!(reasons(&decoded), ["10001 rows in a record; at most 10000"]);
}

#[test]
fn each_row_of_a_message_of_canal_is_a_change_behind_the_one_before() {
    let update = r#"{"database":"test","table":"t","type":"UPDATE","es":1639633141222,"isDdl":false,
        "data":[{"id":"1","name":"a"},{"id":"2","name":"b"},{"id":"1","name":"c"}],
        "old":[{"name":"x"},null,{"name":"a"}]}"#;
    let insert =
        r#"{"database":"test","table":"t","type":"INSERT","es":1,"data":[{"id":"3"}],"old":null}"#;
    let values = [canal::EVENTS[0], update, canal::EVENTS[5], insert];
    let decoded = decode(&canal_topic("order = \"offset\"\nbefore = \"full\""), &messages(&values));
    assert_eq!(reasons(&decoded), [""; 0]);
    assert_eq!(decoded.empty, [0], "a change of schema");
    assert_eq!(
        lines(&decoded, &["_op", "id", "name", "_index", "_offset"]),
        [
            "update 1 a 0 1",
            "update 2 b 1 1",
            "update 1 c 2 1",
            "truncate - - 0 2",
            "insert 3 - 0 3"
        ]
    );
    let before = lines(&decoded, &["_before"]);
    assert!(before[0].contains("\"x\"") && before[2].contains("\"a\""), "{before:?}");
    let positions = lines(&decoded, &["_source_position"]);
    assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");

    let two = canal::EVENTS[1].replace("\"data\":[", "\"data\":[{\"id\":\"7\"},");
    let decoded = decode(&canal_topic(""), &message(None, Some(&two)));
    let positions = ["00429918020114153473.00000", "00429918020114153473.00001"];
    assert_eq!(lines(&decoded, &["_source_position"]), positions);
    let uneven = update.replace(",null,", ",");
    let decoded = decode(&canal_topic("order = \"offset\""), &message(None, Some(&uneven)));
    assert_eq!(reasons(&decoded), ["3 rows in `data` and 2 in `old`"]);
}

proptest! {
    /// Held against records of one event each.
    #[test]
    fn a_batched_record_is_its_events_or_a_reject(
        records in prop::collection::vec(
            (prop::collection::vec(prop::option::weighted(0.9, 0u16..1000), 0..6), any::<bool>()), 0..12),
    ) {
        let text = |id: &Option<u16>| match id {
            Some(id) => event(&format!("\"{id}\"")),
            None => event("null"),
        };
        let value = |(events, _): &(Vec<Option<u16>>, bool)| {
            format!("[{}]", events.iter().map(text).collect::<Vec<_>>().join(","))
        };
        let values: Vec<String> = records.iter().map(value).collect();
        let mut sent = messages(&values.iter().map(String::as_str).collect::<Vec<_>>());
        // Some are broken as a whole.
        for (message, (_, cut)) in sent.iter_mut().zip(&records) {
            if *cut {
                message.value.as_mut().expect("a value").pop();
            }
        }
        let decoded = decode(&events_topic(), &sent);
        let (mut rows, mut rejects, mut empty) = (Vec::new(), Vec::new(), Vec::new());
        for (offset, (events, cut)) in records.iter().enumerate() {
            if *cut || events.iter().any(Option::is_none) {
                rejects.push(offset);
            } else if events.is_empty() {
                empty.push(offset);
            }
            else {
                let own = events.iter().flatten().enumerate();
                rows.extend(own.map(|(index, id)| format!("{id} {index} {offset}")));
            }
        }
        prop_assert_eq!(lines(&decoded, &["tap_id", "_index", "_offset"]), rows);
        prop_assert_eq!(decoded.rejects.iter().map(|r| r.record).collect::<Vec<_>>(), rejects);
        prop_assert_eq!(decoded.empty, empty);
    }
}
