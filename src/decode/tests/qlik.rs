//! Replicate's changes: messages as its documentation shows them, and files of changes as they were
//! written (`HIGHWATER_TEST_DATA`).

use super::messages::{data, declared, decode, lines, message, messages, reasons};
use crate::catalog::Topic;
use std::{io::Read, sync::Arc};

pub const COLUMNS: &str = "id = { type = \"integer\", from = \"/ID\" }
name = { type = \"text\", from = \"/NAME\", optional = true }
note = { type = \"text\", from = \"/NOTE\", optional = true }
at = { type = \"timestamptz\", from = \"/AT\", encoding = \"timestamp-utc\", optional = true }";

pub const EVENTS: [&str; 7] = [
    r#"{"magic":"atMSG","type":"MD","headers":null,"messageSchemaId":null,"messageSchema":null,"message":{"schemaId":"S","lineage":{},"tableStructure":{"tableColumns":{}}}}"#,
    r#"{"magic":"atMSG","type":"DT","headers":null,"messageSchemaId":null,"messageSchema":null,"message":{"data":{"ID":"1","NAME":"Zoë 🔥","NOTE":null,"AT":"2021-12-01T11:20:30.4444444"},"beforeData":null,"headers":{"operation":"REFRESH","changeSequence":"","timestamp":"","streamPosition":"","transactionId":"","changeMask":null,"columnMask":null,"transactionEventCounter":null,"transactionLastEvent":null}}}"#,
    r#"{"magic":"atMSG","type":"DT","headers":null,"messageSchemaId":null,"messageSchema":null,"message":{"data":{"ID":"2","NAME":"test Kafka","NOTE":"kit","AT":null},"beforeData":null,"headers":{"operation":"INSERT","changeSequence":"20230911032325000000000000000000001","timestamp":"2023-09-11T03:23:25.000","streamPosition":"00000000.00bb2531.00000001.0000.02.0000:154.6963.16","transactionId":"00000000000000000000000000060008","changeMask":"07","columnMask":"0F","transactionEventCounter":1,"transactionLastEvent":true}}}"#,
    r#"{"magic":"atMSG","type":"DT","headers":null,"messageSchemaId":null,"messageSchema":null,"message":{"data":{"ID":"2","NAME":"changed","NOTE":null,"AT":null},"beforeData":{"ID":"2","NAME":"test Kafka","NOTE":null,"AT":null},"headers":{"operation":"UPDATE","changeSequence":"20230911032325000000000000000000005","timestamp":"2023-09-11T03:23:25.250","changeMask":"0A","columnMask":"0B","transactionEventCounter":1,"transactionLastEvent":true}}}"#,
    r#"{"data":{"ID":2,"NAME":"changed","NOTE":"kit","AT":null},"beforeData":null,"headers":{"operation":"DELETE","changeSequence":"20230911032325000000000000000000006","timestamp":"2023-09-11T03:23:26"}}"#,
    r#"{"schemaId":"S","lineage":{},"tableStructure":{"tableColumns":{}},"dataSchema":"{}"}"#,
    r#"{"data":null,"beforeData":{"ID":3},"headers":{"operation":"DELETE","changeSequence":"20230911032325000000000000000000007","timestamp":"2023-09-11T03:23:27"}}"#,
];

fn topic(changes: &str) -> Arc<Topic> {
    declared("qlik", &format!("[changes]\nkey = [\"id\"]\n{changes}"), COLUMNS)
}

const SHOWN: [&str; 6] = ["_op", "id", "name", "note", "at", "_unchanged"];

#[test]
fn messages_are_operations_with_and_without_the_envelope() {
    let decoded = decode(&topic(""), &messages(&EVENTS));
    assert_eq!(reasons(&decoded), [""; 0]);
    assert_eq!(decoded.empty, [0, 5], "metadata says nothing of a row");
    assert_eq!(
        lines(&decoded, &SHOWN),
        [
            "read 1 Zoë 🔥 - 1638357630444444 -",
            "insert 2 test Kafka kit - -",
            "update 2 changed - - -",
            "delete 2 - - - -",
            "delete 3 - - - -",
        ]
    );
    let order = lines(&decoded, &["_source_position", "_source_time"]);
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order[0], format!(" {}", super::KAFKA_US), "a full load has no sequence");
    assert_eq!(order[1], "20230911032325000000000000000000001 1694402605000000");
}

#[test]
fn what_an_update_leaves_out_is_said_to_be_unchanged() {
    let updated = |changes: &str| {
        let decoded = decode(&topic(changes), &messages(&EVENTS[2..4]));
        assert_eq!(reasons(&decoded), [""; 0]);
        lines(&decoded, &SHOWN)
    };
    // An insert is whole: there NULL means NULL.
    assert_eq!(updated("")[1], "update 2 changed - - -");
    assert_eq!(
        updated("images = \"sparse\""),
        ["insert 2 test Kafka kit - -", "update 2 changed - - [\"note\",\"at\"]"]
    );
    // The mask 0B: the third column is not in it, the fourth is, and is NULL.
    assert_eq!(
        updated("images = \"mask\""),
        ["insert 2 test Kafka kit - -", "update 2 changed - - [\"note\"]"]
    );
}

#[test]
fn images_before_a_change_come_where_the_topic_says_that_they_are_whole() {
    let decoded = decode(&topic("before = \"full\""), &messages(&EVENTS[2..5]));
    let before = lines(&decoded, &["_before"]);
    assert_eq!(before[0], "-");
    assert!(before[1].contains("test Kafka"), "{}", before[1]);
    assert!(before[2].contains("changed"), "{}", before[2]);
}

#[test]
fn what_is_no_message_is_refused_with_its_remedy() {
    let sequence = r#""changeSequence":"20230911032325000000000000000000005""#;
    for (changes, value, reason) in [
        ("", r#"{"magic":"xyz","type":"DT","message":{}}"#.to_owned(), "not atMSG"),
        ("", r#"{"magic":"atMSG","type":"DT"}"#.to_owned(), "neither DT"),
        ("", r#"{"magic":"atMSG","type":"DT","message":"AAA="}"#.to_owned(), "not an object"),
        ("", r#"{"data":{"ID":1}}"#.to_owned(), "without `headers`"),
        ("", r#"{"data":{"ID":1},"headers":{"operation":"MERGE"}}"#.to_owned(), "`operation`"),
        (
            "",
            r#"{"data":{"ID":1},"headers":{"operation":"UPDATE"}}"#.to_owned(),
            "changes.order = \"offset\"",
        ),
        (
            "",
            r#"{"data":{"ID":1},"headers":{"operation":"UPDATE","changeSequence":"x"}}"#.to_owned(),
            "35 digits",
        ),
        (
            "",
            format!(
                r#"{{"data":{{"ID":1}},"headers":{{"operation":"INSERT","timestamp":"now",{sequence}}}}}"#
            ),
            "no instant",
        ),
        (
            "",
            format!(r#"{{"data":null,"headers":{{"operation":"UPDATE",{sequence}}}}}"#),
            "without `data`",
        ),
        (
            "images = \"mask\"",
            format!(r#"{{"data":{{"ID":1}},"headers":{{"operation":"UPDATE",{sequence}}}}}"#),
            "without a mask",
        ),
        (
            "images = \"mask\"",
            format!(
                r#"{{"data":{{"ID":1}},"headers":{{"operation":"UPDATE","columnMask":"0G",{sequence}}}}}"#
            ),
            "hexadecimal",
        ),
        (
            "images = \"mask\"",
            format!(
                r#"{{"data":{{"ID":1}},"headers":{{"operation":"UPDATE","columnMask":"02",{sequence}}}}}"#
            ),
            "more columns",
        ),
    ] {
        let decoded = decode(&topic(changes), &message(None, Some(&value)));
        assert!(reasons(&decoded)[0].contains(reason), "{value}: {:?}", decoded.rejects);
    }
    assert_eq!(decode(&topic(""), &message(Some("1"), None)).empty, [0]);
}

pub const ROWS: &str = "[csv]\nheader = [\"header__change_seq\", \"header__change_oper\", \
\"header__change_mask\", \"header__timestamp\", \"ID\", \"NAME\", \"NOTE\", \"AT\"]";

pub const ROW_EVENTS: [&str; 5] = [
    "header__change_seq,header__change_oper,header__change_mask,header__timestamp,ID,NAME,NOTE,AT",
    "20210915031230320000000000000000040,I,,2021-10-08 13:12:31.320000,4,\"Sample 4 🔥\",,2021-12-01 11:20:30",
    "20210915031230320000000000000000041,B,0A,2021-10-08 14:12:31.320000,4,\"Sample 4 🔥\",,2021-12-01 11:20:30",
    "20210915031230320000000000000000041,U,0A,2021-10-08 14:12:31.320000,4,\"Sample, 4\",,",
    "20210915031230320000000000000000042,D,01,2021-10-08 15:12:31.320000,4,,,",
];

#[test]
fn rows_of_csv_are_operations_and_before_images_say_nothing() {
    for (images, unchanged) in
        [("full", "-"), ("sparse", "[\"note\",\"at\"]"), ("mask", "[\"note\"]")]
    {
        let tables = format!("[changes]\nkey = [\"id\"]\nimages = \"{images}\"\n{ROWS}");
        let decoded = decode(&declared("qlik", &tables, COLUMNS), &messages(&ROW_EVENTS));
        assert_eq!(reasons(&decoded), [""; 0]);
        assert_eq!(decoded.empty, [0, 2]);
        assert_eq!(decoded.unknown_fields, 0, "Replicate's own fields are known");
        assert_eq!(
            lines(&decoded, &SHOWN),
            [
                "insert 4 Sample 4 🔥 - 1638357630000000 -".to_owned(),
                format!("update 4 Sample, 4 - - {unchanged}"),
                "delete 4 - - - -".to_owned(),
            ]
        );
    }
}

#[test]
fn a_key_may_be_null_where_its_column_is_optional() {
    let tables = format!("[changes]\nkey = [\"id\"]\n{ROWS}");
    let row = messages(&["20210915031230320000000000000000042,D,,2021-10-08 15:12:31,,,,"]);
    let strict = decode(&declared("qlik", &tables, COLUMNS), &row);
    assert_eq!(reasons(&strict), ["the field is absent or null and the column is not optional"]);
    let columns = COLUMNS.replacen("/ID\"", "/ID\", optional = true", 1);
    let decoded = decode(&declared("qlik", &tables, &columns), &row);
    assert_eq!(lines(&decoded, &["_op", "id"]), ["delete -"]);
}

#[test]
fn an_update_that_changes_the_key_is_taken_only_with_the_row_before() {
    let moved = EVENTS[3].replacen("\"ID\":\"2\"", "\"ID\":\"7\"", 1);
    let decoded = decode(&topic(""), &messages(&[&moved]));
    assert!(reasons(&decoded)[0].contains("changes.before = \"full\""), "{:?}", decoded.rejects);
    let decoded = decode(&topic("before = \"full\""), &messages(&[&moved]));
    assert_eq!(lines(&decoded, &["_op", "id"]), ["update 7"]);
    assert!(lines(&decoded, &["_before"])[0].contains("\"id\":2"));
}

const SAMPLE: &str = "sample_id = { type = \"integer\", from = \"/SAMPLE_ID\" }
sample_name = { type = \"text\", from = \"/SAMPLE_NAME\" }
edw_inserted_dtm = { type = \"timestamptz\", from = \"/EDW_INSERTED_DTM\", encoding = \"timestamp-utc\" }
edw_updated_dtm = { type = \"timestamptz\", from = \"/EDW_UPDATED_DTM\", encoding = \"timestamp-utc\" }";

/// A file of Replicate's, and its rows as messages; the header is declared from the file's first.
fn written(file: &str) -> Option<(Arc<Topic>, Vec<String>)> {
    let path = data()?.join("qlik").join(file);
    let packed = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(packed).read_to_string(&mut text).expect("gzip");
    let rows: Vec<String> = text.lines().map(str::to_owned).collect();
    let header: Vec<&str> = rows[0].split(',').collect();
    let tables = format!("[changes]\nkey = [\"sample_id\"]\n[csv]\nheader = {header:?}");
    Some((declared("qlik", &tables, SAMPLE), rows))
}

#[test]
fn the_files_that_replicate_wrote_are_the_operations_they_stand_for() {
    for (file, expected) in [
        (
            "EDW.SAMPLE/LOAD1.csv.gz",
            vec![
                "read 1 Sample 1 🔥 1638357630444444 1638357631444444  1709280000000000",
                "read 2 Sample 2 1638357630444444 1638357631444444  1709280000000000",
            ],
        ),
        (
            "EDW.SAMPLE/LOAD2.csv.gz",
            vec!["read 3 Sample 3 1638357690444444 1638357690444444  1709280000000000"],
        ),
        (
            "EDW.SAMPLE__ct/20211201-112233444.csv.gz",
            vec![
                "insert 4 Sample 4 🔥🔥🔥🔥 1638357630444444 1638357631444444 20210915031230320000000000000000041 1633698751320000",
                "update 2 Sample 2 🔥🔥 1638357630444444 1638357631444444 20210915031231320000000000000000041 1633698751320000",
            ],
        ),
        (
            "EDW.SAMPLE__ct/20211201-122433444.csv.gz",
            vec![
                "update 4 Sample 4 🔥🔥🔥🔥 1638357630444444 1638357631444444 20210915031230320000000000000000041 1633702351320000",
                "insert 5 Sample 5 🔥🔥🔥🔥🔥 1638357630444444 1638357631444444 20210915031231320000000000000000041 1633705951320000",
            ],
        ),
    ] {
        let Some((topic, rows)) = written(file) else { return };
        let values: Vec<&str> = rows.iter().map(String::as_str).collect();
        let decoded = decode(&topic, &messages(&values));
        assert_eq!(reasons(&decoded), [""; 0], "{file}");
        assert_eq!(decoded.empty, [0], "{file}: the header");
        let columns = ["_op", "sample_id", "sample_name", "edw_inserted_dtm", "edw_updated_dtm"];
        let columns = [&columns[..], &["_source_position", "_source_time"]].concat();
        assert_eq!(lines(&decoded, &columns), expected, "{file}");
    }
}
