//! What the stage promises, by tables of good and bad inputs and by a slow oracle (`oracle`).

mod avro;
mod batched;
mod canal;
mod cloudevents;
mod csv;
mod cut;
mod debezium;
mod hostile;
mod maxwell;
mod messages;
mod oracle;
mod qlik;
mod types;

use super::{Decoded, Decoder, RejectClass, Secret};
use crate::{
    catalog::{Drift, Encoding, Format, PgType, Pii, Topic, TopicColumn, types::timestamp},
    record::{EventTime, Partition, RawRecord},
};
use arrow::{
    array::{Array, AsArray},
    datatypes::{
        DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type,
        Int32Type, Int64Type, Schema, TimestampMicrosecondType,
    },
};
use std::{sync::Arc, time::Duration};

pub const SECRET: &[u8] = b"a secret of the tests";
/// Kafka's timestamp of all records: 2024-03-01T08:00:00Z.
pub const KAFKA_US: i64 = 1_709_280_000_000_000;

pub fn column(name: &str, pg: PgType) -> TopicColumn {
    TopicColumn {
        name: name.to_owned(),
        pg,
        path: vec![name.to_owned()],
        path_is_default: true,
        optional: false,
        pii: None,
        encoding: Encoding::Plain,
    }
}

pub fn optional(name: &str, pg: PgType) -> TopicColumn {
    TopicColumn { optional: true, ..column(name, pg) }
}

pub fn topic(columns: Vec<TopicColumn>, event_time: Option<&str>) -> Topic {
    let kept = || columns.iter().filter(|column| column.pii != Some(Pii::Drop));
    let mut fields: Vec<_> = kept()
        .map(|column| {
            let pg = if column.pii.is_some() { PgType::Text } else { column.pg };
            Field::new(&column.name, pg.arrow(), column.optional)
        })
        .collect();
    fields.push(Field::new("_partition", DataType::Int32, false));
    fields.push(Field::new("_offset", DataType::Int64, false));
    fields.push(Field::new("_timestamp", timestamp(), false));
    Topic {
        name: "taps".into(),
        file: "topics/taps.toml".into(),
        kafka_topic: "taps".to_owned(),
        format: Format::Json,
        batched: false,
        event_time: event_time.map(|name| kept().position(|it| it.name == name).expect("there")),
        columns,
        max_disorder: Duration::from_secs(90),
        service_day: None,
        time_zone: chrono_tz::UTC,
        idle: None,
        max_future: Some(Duration::from_secs(600)),
        lake: None,
        stop_above: None,
        keep_raw: true,
        unique: None,
        forward: None,
        changes: None,
        append_only: false,
        csv: None,
        registry: None,
        drift: Drift::Off,
        additions: Vec::new(),
        schema: Arc::new(Schema::new(fields)),
    }
}

pub fn decoder(topic: &Topic) -> Decoder {
    Decoder::new(Arc::new(topic.clone()), Some(Secret(SECRET.into())))
}

pub fn records<'a, T: AsRef<[u8]> + 'a>(values: &'a [T]) -> Vec<RawRecord<'a>> {
    let record = |(i, value): (usize, &'a T)| RawRecord {
        partition: Partition(3),
        offset: 120 + i as i64,
        timestamp: EventTime(KAFKA_US),
        key: None,
        value: Some(value.as_ref()),
    };
    values.iter().enumerate().map(record).collect()
}

/// A value as text that tells any two values of a type apart.
pub fn shown(array: &dyn Array, row: usize) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float32 => format!("{:?}", array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value(row).to_string(),
        DataType::Date32 => array.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Timestamp(..) => {
            array.as_primitive::<TimestampMicrosecondType>().value(row).to_string()
        }
        DataType::Binary => format!("{:?}", array.as_binary::<i32>().value(row)),
        other => panic!("no column has type {other}"),
    })
}

fn taps() -> Topic {
    let columns = vec![
        column("tap_id", PgType::Text),
        optional("stop_id", PgType::Text),
        column("event_time", PgType::Timestamptz),
        optional("fare_cents", PgType::BigInt),
    ];
    topic(columns, Some("event_time"))
}

const GOOD: &str = r#"{"tapId":"t1","stop_id":"N15","eventTime":"2024-03-01T07:59:00Z"}"#;

fn classes(decoded: &Decoded) -> Vec<(usize, RejectClass, Option<&str>)> {
    decoded.rejects.iter().map(|r| (r.record, r.class, r.column.as_deref())).collect()
}

#[test]
fn good_records_become_rows_with_partition_offset_and_timestamp() {
    let decoded = decoder(&taps()).decode(&records(&["[]", GOOD, "{", GOOD]));
    assert_eq!(decoded.rows.num_rows(), 2);
    let row = |row: usize| -> Vec<_> {
        decoded.rows.columns().iter().map(|column| shown(column, row)).collect()
    };
    let kafka = KAFKA_US.to_string();
    let event = KAFKA_US - 60_000_000;
    let expected = |offset: &str| {
        [
            Some("t1"),
            Some("N15"),
            Some(&event.to_string()),
            None,
            Some("3"),
            Some(offset),
            Some(&kafka),
        ]
        .map(|value| value.map(str::to_owned))
        .to_vec()
    };
    assert_eq!(row(0), expected("121"));
    assert_eq!(row(1), expected("123"));
    assert_eq!(decoded.event_times, [EventTime(event); 2]);
    assert_eq!(decoded.rows.schema(), taps().schema);
}

#[test]
fn a_batch_of_nothing_or_of_rejects_only_is_an_empty_batch() {
    let mut decoder = decoder(&taps());
    assert_eq!(decoder.decode(&[]).rows.num_rows(), 0);
    let decoded = decoder.decode(&records(&["x", "y"]));
    assert_eq!((decoded.rows.num_rows(), decoded.rejects.len()), (0, 2));
    assert_eq!(decoder.decode(&records(&[GOOD])).rows.num_rows(), 1);
}

#[test]
fn what_is_not_a_json_object_is_malformed_and_the_place_is_said() {
    for (value, reason) in [
        (&b""[..], "byte 0: the text ends too early"),
        (b"[1]", "byte 0: not an object"),
        (b"null", "byte 0: not an object"),
        (b"{\"a\":1}x", "byte 7: there is more after the end"),
        (b"{\"a\":1,}", "byte 7: a key in quotes"),
        (b"{\"a\":01}", "byte 6: a number begins with a zero"),
        (b"{\"a\":\"\\ud800\"}", "byte 6: a high surrogate"),
        (b"{\"a\":\"\xff\"}", "not UTF-8: byte 6"),
    ] {
        let decoded = decoder(&taps()).decode(&records(&[value]));
        assert_eq!(classes(&decoded), [(0, RejectClass::Malformed, None)]);
        assert!(decoded.rejects[0].reason.contains(reason), "{}", decoded.rejects[0].reason);
    }
    let mut tombstone = records(&[GOOD]);
    tombstone[0].value = None;
    let decoded = decoder(&taps()).decode(&tombstone);
    assert_eq!(decoded.rejects[0].reason, "a tombstone: the record has no value");
}

#[test]
fn absent_null_and_blank_are_null_where_the_column_is_optional_and_missing_where_not() {
    for (value, rejects) in [
        (r#"{"stop_id":"x","event_time":"2024-03-01T07:59:00Z"}"#, Some("tap_id")),
        (r#"{"tap_id":null,"event_time":"2024-03-01T07:59:00Z"}"#, Some("tap_id")),
        (r#"{"tap_id":"","event_time":"2024-03-01T07:59:00Z"}"#, None),
        (r#"{"tap_id":"t","event_time":" \t\u00a0"}"#, Some("event_time")),
        (r#"{"tap_id":"t","event_time":"2024-03-01T07:59:00Z","fare_cents":"  "}"#, None),
    ] {
        let decoded = decoder(&taps()).decode(&records(&[value]));
        let column = decoded.rejects.first().map(|r| (r.class, r.column.as_deref()));
        assert_eq!(column, rejects.map(|name| (RejectClass::Missing, Some(name))), "{value}");
    }
}

#[test]
fn the_first_failing_column_in_declared_order_is_the_one_that_is_named() {
    let decoded = decoder(&taps()).decode(&records(&[
        r#"{"fare_cents":"x","event_time":"never","tap_id":{}}"#,
        r#"{"fare_cents":"x","event_time":"never","tap_id":"t"}"#,
        r#"{"fare_cents":"x","event_time":"2024-03-01T07:59:00Z","tap_id":"t"}"#,
    ]));
    assert_eq!(
        classes(&decoded),
        [
            (0, RejectClass::Type, Some("tap_id")),
            (1, RejectClass::Type, Some("event_time")),
            (2, RejectClass::Type, Some("fare_cents")),
        ]
    );
    assert_eq!(decoded.rejects[2].reason, "found \"x\": an integer is wanted");
}

#[test]
fn an_event_time_too_far_ahead_of_kafkas_is_a_reject() {
    let at = |time: &str| format!(r#"{{"tap_id":"t","event_time":"{time}"}}"#);
    let values =
        [at("2024-03-01T08:10:00Z"), at("2024-03-01T08:10:00.000001Z"), at("2000-01-01T00:00Z")];
    let decoded = decoder(&taps()).decode(&records(&values));
    assert_eq!(classes(&decoded), [(1, RejectClass::Future, Some("event_time"))]);
}

#[test]
fn without_an_event_time_kafkas_timestamp_stands_for_it_and_a_null_one_is_missing() {
    let decoded = decoder(&topic(vec![], None)).decode(&records(&["{}"]));
    assert_eq!(decoded.event_times, [EventTime(KAFKA_US)]);
    let columns = vec![optional("event_time", PgType::Timestamptz)];
    let decoded = decoder(&topic(columns, Some("event_time"))).decode(&records(&["{}"]));
    assert_eq!(classes(&decoded), [(0, RejectClass::Missing, Some("event_time"))]);
}

#[test]
fn unknown_fields_are_counted_and_dropped_columns_are_known() {
    let mut columns = vec![optional("a", PgType::Text), optional("b", PgType::Text)];
    columns[0].pii = Some(Pii::Drop);
    columns.push(TopicColumn {
        path: vec!["c".to_owned(), "d".to_owned()],
        path_is_default: false,
        ..optional("d", PgType::Text)
    });
    let values = [r#"{"a":1,"b":2,"c":{"d":3,"e":4},"f":5,"f":6}"#, r#"{"d":1}"#, r#"{"g":1"#];
    let decoded = decoder(&topic(columns, None)).decode(&records(&values));
    assert_eq!(decoded.unknown_fields, 3);
    assert_eq!(decoded.rows.num_columns(), 2 + 3);
}

#[test]
fn personal_data_is_hashed_or_masked_and_stands_in_no_reason() {
    let columns = || {
        vec![
            TopicColumn { pii: Some(Pii::Hash), ..optional("card", PgType::BigInt) },
            TopicColumn { pii: Some(Pii::Mask), ..optional("name", PgType::Text) },
        ]
    };
    let topic = topic(columns(), None);
    let decoded = decoder(&topic).decode(&records(&[
        r#"{"card":4711,"name":"Ada"}"#,
        r#"{"card":"4711","name":null}"#,
        r#"{"card":" "}"#,
    ]));
    assert_eq!(decoded.rejects, []);
    let (card, name) = (decoded.rows.column(0), decoded.rows.column(1));
    assert_eq!(shown(card, 0), Some(oracle::hmac_hex("4711")));
    assert_eq!(shown(card, 0), shown(card, 1));
    assert_eq!([0, 1].map(|row| shown(name, row)), [Some("***".to_owned()), None]);
    assert_eq!(shown(card, 2), None);

    let secret = "Lovelace";
    let decoded = decoder(&topic).decode(&records(&[
        format!(r#"{{"card":["{secret}"]}}"#),
        format!(r#"{{"name":{{"family":"{secret}"}}}}"#),
        format!(r#"{{"name":"{secret}"#),
    ]));
    assert_eq!(decoded.rejects.len(), 3);
    for reject in decoded.rejects {
        assert!(!reject.reason.contains(secret), "{}", reject.reason);
    }
}

#[test]
fn a_long_value_is_quoted_in_part() {
    let columns = vec![column("n", PgType::Integer)];
    let value = format!(r#"{{"n":"{}"}}"#, "é".repeat(1000));
    let decoded = decoder(&topic(columns, None)).decode(&records(&[value]));
    let expected = format!("found \"{}…: an integer is wanted", "é".repeat(39));
    assert_eq!(decoded.rejects[0].reason, expected);
}
