//! The same seven columns by libraries, each as its documents say that it is fastest.
//!
//! Owns: their way from records to arrays. Instants are parsed by Arrow, which also parses those of
//! arrow-json. Does not own: what of bad input they should refuse (`main` shows what they do).

use arrow::{
    array::{ArrayRef, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder},
    compute::kernels::cast_utils::Parser,
    datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType},
};
use highwater::catalog::types::timestamp;
use serde::Deserialize;
use std::{borrow::Cow, sync::Arc};

/// Values of a batch of records to its columns; None: at least one record is refused.
pub type Decode = Box<dyn FnMut(&[&[u8]]) -> Option<RecordBatch>>;

pub fn all() -> Vec<(&'static str, Decode)> {
    vec![
        ("arrow-json", arrow_json()),
        ("serde_json, into a struct", typed(|value| serde_json::from_slice(value).ok())),
        #[cfg(feature = "json-libraries")]
        ("sonic-rs, into a struct", typed(|value| sonic_rs::from_slice(value).ok())),
        #[cfg(feature = "json-libraries")]
        ("simd-json, by its tape", simd::by_tape()),
    ]
}

fn schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("tapId"),
        text("tokenId"),
        text("kind"),
        text("deviceId"),
        Field::new("eventTime", timestamp(), false),
        text("stopId"),
        Field::new("fareCents", DataType::Int64, true),
    ]))
}

fn arrow_json() -> Decode {
    let builder = || {
        let reader = arrow_json::ReaderBuilder::new(schema()).with_batch_size(1 << 20);
        reader.build_decoder().expect("types that arrow-json knows")
    };
    let mut decoder = builder();
    Box::new(move |values| {
        let mut take = |value: &&[u8]| decoder.decode(value).is_ok_and(|len| len == value.len());
        let whole = values.iter().all(&mut take) && !decoder.has_partial_record();
        let rows = whole.then(|| decoder.flush().ok().flatten()).flatten();
        if rows.is_none() {
            // It does not go on after a broken record, and does not say which it was.
            decoder = builder();
        }
        rows
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tap<'a> {
    #[serde(borrow)]
    tap_id: Cow<'a, str>,
    #[serde(borrow)]
    token_id: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    device_id: Cow<'a, str>,
    #[serde(borrow)]
    event_time: Cow<'a, str>,
    #[serde(borrow)]
    stop_id: Cow<'a, str>,
    fare_cents: Option<i64>,
}

fn typed(read: impl for<'a> Fn(&'a [u8]) -> Option<Tap<'a>> + 'static) -> Decode {
    Box::new(move |values| {
        let mut columns = Columns::new(values.len());
        for value in values {
            let tap = read(value)?;
            let texts = [&tap.tap_id, &tap.token_id, &tap.kind, &tap.device_id, &tap.stop_id];
            columns.add(texts.map(|text| &**text), &tap.event_time, tap.fare_cents)?;
        }
        Some(columns.finish())
    })
}

struct Columns {
    texts: [StringBuilder; 5],
    times: TimestampMicrosecondBuilder,
    fares: Int64Builder,
}

impl Columns {
    fn new(rows: usize) -> Self {
        let text = || StringBuilder::with_capacity(rows, rows * 16);
        Self {
            texts: [text(), text(), text(), text(), text()],
            times: TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(timestamp()),
            fares: Int64Builder::with_capacity(rows),
        }
    }

    /// tapId, tokenId, kind, deviceId, stopId; the instant; the fare.
    #[inline]
    fn add(&mut self, texts: [&str; 5], time: &str, fare: Option<i64>) -> Option<()> {
        self.times.append_value(TimestampMicrosecondType::parse(time)?);
        self.texts.iter_mut().zip(texts).for_each(|(column, text)| column.append_value(text));
        self.fares.append_option(fare);
        Some(())
    }

    fn finish(mut self) -> RecordBatch {
        let mut columns: Vec<ArrayRef> =
            self.texts.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        columns.insert(4, Arc::new(self.times.finish()));
        columns.push(Arc::new(self.fares.finish()));
        RecordBatch::try_new(schema(), columns).expect("the schema's columns")
    }
}

#[cfg(feature = "json-libraries")]
mod simd {
    use super::{Columns, Decode};
    use simd_json::{Buffers, INPUT_PADDING, Node, StaticNode, Tape, fill_tape_padded};

    /// It writes into its input, so that each record is copied once: Kafka's buffers are shared.
    pub fn by_tape() -> Decode {
        let (mut buffers, mut input) = (Buffers::new(1024), Vec::new());
        let mut kept = Tape(Vec::new());
        Box::new(move |values| {
            let mut columns = Columns::new(values.len());
            for value in values {
                input.clear();
                input.extend_from_slice(value);
                input.resize(value.len() + INPUT_PADDING, 0);
                let mut tape = std::mem::replace(&mut kept, Tape(Vec::new())).reset();
                fill_tape_padded(&mut input, value.len(), &mut buffers, &mut tape).ok()?;
                row(&tape.0, &mut columns)?;
                kept = tape.reset();
            }
            Some(columns.finish())
        })
    }

    fn row(nodes: &[Node<'_>], columns: &mut Columns) -> Option<()> {
        let Some(Node::Object { len, .. }) = nodes.first() else { return None };
        let (mut texts, mut time, mut fare) = ([None; 5], None, None);
        let mut at = 1;
        for _ in 0..*len {
            let (Node::String(key), value) = (nodes[at], nodes[at + 1]) else { return None };
            at += 2;
            if let Node::Object { count, .. } | Node::Array { count, .. } = value {
                at += count;
            }
            let text = match key {
                "tapId" => &mut texts[0],
                "tokenId" => &mut texts[1],
                "kind" => &mut texts[2],
                "deviceId" => &mut texts[3],
                "stopId" => &mut texts[4],
                "eventTime" => &mut time,
                "fareCents" => {
                    fare = match value {
                        Node::Static(StaticNode::I64(fare)) => Some(fare),
                        Node::Static(StaticNode::U64(fare)) => Some(i64::try_from(fare).ok()?),
                        Node::Static(StaticNode::Null) => None,
                        _ => return None,
                    };
                    continue;
                }
                _ => continue,
            };
            let Node::String(value) = value else { return None };
            *text = Some(value);
        }
        let [Some(a), Some(b), Some(c), Some(d), Some(e)] = texts else { return None };
        columns.add([a, b, c, d, e], time?, fare)
    }
}
