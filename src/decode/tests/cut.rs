//! Messages of every format, cut at each byte and altered at each byte: a row, a reject, or nothing
//! about a row; one of them, never a panic, and the same alone as in a batch with others.

use super::{
    avro, batched, canal, cloudevents,
    debezium::ALL_TYPES,
    maxwell,
    messages::{Message, captured, declared, messages, records},
    qlik,
};
use crate::{catalog::Topic, decode::Decoder};
use std::sync::Arc;

/// What became of each message: R a row, X a reject, N nothing.
fn fates(decoder: &mut Decoder, messages: &[Message]) -> String {
    let decoded = decoder.decode(&records(messages));
    let mut fates = vec!['R'; messages.len()];
    for reject in &decoded.rejects {
        fates[reject.record] = 'X';
        assert!(!reject.reason.is_empty());
    }
    for &record in &decoded.empty {
        assert_eq!(fates[record], 'R', "two fates");
        fates[record] = 'N';
    }
    let rows = fates.iter().filter(|fate| **fate == 'R').count();
    assert_eq!(rows, decoded.rows.num_rows(), "D-1");
    assert_eq!(rows, decoded.event_times.len());
    fates.into_iter().collect()
}

fn cut_and_altered(topic: &Arc<Topic>, message: &Message) -> usize {
    cut_and_altered_by(Decoder::new(topic.clone(), None), message)
}

/// Gives how many of the cut ones are rejects.
fn cut_and_altered_by(mut decoder: Decoder, message: &Message) -> usize {
    let value = message.value.as_deref().expect("with a value");
    let with = |value: Vec<u8>| Message { value: Some(value), ..message.clone() };
    let cut: Vec<_> = (0..value.len()).map(|at| with(value[..at].to_vec())).collect();
    let all = fates(&mut decoder, &cut);
    // One by one they fare as together.
    for (at, one) in cut.iter().enumerate().step_by(7) {
        assert_eq!(fates(&mut decoder, std::slice::from_ref(one)), all[at..=at]);
    }
    for to in [|byte: u8| byte.wrapping_add(1), |byte| byte ^ 0x80, |_| b'"', |_| b'9', |_| 0] {
        let altered = (0..value.len()).map(|at| {
            let mut value = value.to_vec();
            value[at] = to(value[at]);
            with(value)
        });
        fates(&mut decoder, &altered.collect::<Vec<_>>());
    }
    if let Some(key) = &message.key {
        let keys = (0..key.len()).flat_map(|at| {
            let mut altered = key.clone();
            altered[at] ^= 1;
            [key[..at].to_vec(), altered].map(|key| Message { key: Some(key), ..message.clone() })
        });
        fates(&mut decoder, &keys.collect::<Vec<_>>());
    }
    all.matches('X').count()
}

#[test]
fn messages_of_json_formats_cut_or_altered_anywhere_have_one_fate() {
    let json = declared("json", "", maxwell::COLUMNS);
    let maxwell = |before| {
        let changes = format!("[changes]\nkey = [\"id\"]\nbefore = \"{before}\"");
        declared("maxwell", &changes, maxwell::COLUMNS)
    };
    let qlik = |images| {
        let changes = format!("[changes]\nkey = [\"id\"]\nimages = \"{images}\"");
        declared("qlik", &changes, qlik::COLUMNS)
    };
    let canal = |before| {
        let changes = format!("[changes]\nkey = [\"id\"]\nbefore = \"{before}\"");
        declared("canal", &changes, canal::COLUMNS)
    };
    for (topic, corpus) in [
        (canal("key"), &canal::EVENTS[..]),
        (canal("full"), &canal::EVENTS[1..4]),
        (cloudevents::topic(), &cloudevents::EVENTS[..]),
        (batched::events_topic(), &cloudevents::EVENTS[..]),
        (batched::canal_topic(""), &canal::EVENTS[..]),
        (json, &maxwell::EVENTS[..1]),
        (maxwell("key"), &maxwell::EVENTS[..]),
        (maxwell("full"), &maxwell::EVENTS[..]),
        (qlik("full"), &qlik::EVENTS[..]),
        (qlik("sparse"), &qlik::EVENTS[..]),
        (qlik("mask"), &qlik::EVENTS[..]),
    ] {
        for message in messages(corpus) {
            // Whatever is cut is broken, up to white space at the end.
            let value = message.value.clone().unwrap_or_default();
            assert!(cut_and_altered(&topic, &message) >= value.trim_ascii_end().len());
        }
    }
}

#[test]
fn rows_of_csv_cut_or_altered_anywhere_have_one_fate() {
    let mut corpus = vec![];
    for images in ["full", "sparse", "mask"] {
        let tables = format!("[changes]\nkey = [\"id\"]\nimages = \"{images}\"\n{}", qlik::ROWS);
        corpus.push((declared("qlik", &tables, qlik::COLUMNS), &qlik::ROW_EVENTS[..]));
    }
    let columns = "id = \"integer\"\nname = \"text\"\nat = \"date\"";
    corpus.push((
        declared("csv", "", columns),
        &["1,\"a \"\"b\"\", é\",2024-03-01", "id,name,at\r\n", "2,🔥,2024-02-29\n"],
    ));
    for (topic, rows) in corpus {
        for message in messages(rows) {
            // A cut in the last field may leave a row; before it there are too few fields.
            let broken = cut_and_altered(&topic, &message);
            let value = message.value.expect("with a value");
            let last = value.iter().rposition(|byte| *byte == b',').expect("a delimiter");
            assert!(broken >= last, "{broken} of {last}");
        }
    }
}

#[test]
fn captured_events_of_debezium_cut_or_altered_anywhere_have_one_fate() {
    let topic = declared("debezium-json", "[changes]\nkey = [\"id\"]", ALL_TYPES);
    for (file, name) in [
        ("postgres_json.jsonl", "pgplain.inventory.alltypes"),
        ("postgres_json_schemas.jsonl", "pgschema.inventory.alltypes"),
    ] {
        let Some(messages) = captured(file, name) else { return };
        for message in messages.iter().filter(|m| m.value.is_some()).take(2) {
            let len = message.value.as_ref().map_or(0, Vec::len);
            assert_eq!(cut_and_altered(&topic, message), len);
        }
    }
}

#[test]
fn records_in_avro_cut_or_altered_anywhere_have_one_fate() {
    let (registered, topic, message) = avro::tap_message();
    let len = message.value.as_ref().map_or(0, Vec::len);
    assert_eq!(cut_and_altered_by(registered.decoder(&topic), &message), len);
    let Some((registered, topic, messages)) = avro::captured_in_avro() else { return };
    for message in messages.iter().filter(|m| m.value.is_some()) {
        let len = message.value.as_ref().map_or(0, Vec::len);
        assert_eq!(cut_and_altered_by(registered.decoder(&topic), message), len);
    }
}
