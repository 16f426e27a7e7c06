//! Records to rows: the order of work in a batch, whatever the format.
//!
//! Owns: that order, the columns that are not declared (`_op` and its neighbours, `_partition`,
//! `_offset`, `_timestamp`). Does not own: what a record says (a file per format), which field is
//! whose (`fields`), what a value means (`encoding`, `convert`).
//!
//! SUBTLE: the order of steps.
//! 1. Each record is read whole, to its last byte, before anything of it counts: so nothing of
//!    a broken record is ever a value.
//! 2. Columns are converted one by one in declared order, over all records. The first reject of a
//!    record stands, so its column is the first failing one in that order.
//! 3. An event time that follows from a service day is computed, a column like any other. Event
//!    times are judged (`max_future`) only for records that are good so far.
//! 4. Bad rows go out by one filter. Only then is the batch made: before that, columns that are
//!    not optional hold NULL where a record is bad, and Arrow refuses that.

use super::{
    Before, Decoded, RejectClass, Secret,
    change::{Change, Operation, Said},
    convert::{Column, instants},
    debezium::Debezium,
    encoding::Rewritten,
    fields::{Cell, Fields, Matrix, RECORD_BYTES_MAX},
    pii::Hasher,
    rejects::Rejects,
    scan::Broken,
    service_day::{ServiceDays, clock},
};
use crate::{
    catalog::{Decimals, Encoding, Format, Images, PgType, Pii, ServiceDay, Topic, TopicColumn},
    record::{EventTime, RawRecord},
};
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
    },
    compute::filter,
    datatypes::{Date32Type, Field, Schema, SchemaRef, TimestampMicrosecondType},
    util::display::{ArrayFormatter, FormatOptions},
};
use std::sync::Arc;

/// One topic's decoder. Its matrices and the remembered order of keys live from batch to batch;
/// neither changes a result.
pub struct RowDecoder {
    topic: Arc<Topic>,
    reader: Reader,
    fields: Fields,
    cells: Matrix,
    before: Matrix,
    hasher: Option<Hasher>,
    /// Columns of `topic.columns` that are in the schema, in its order.
    kept: Vec<TopicColumn>,
    /// Of those, the ones of the source's key.
    is_key: Vec<bool>,
    /// Of those (behind them stands the computed one), the event time; None: Kafka's timestamp, or
    /// the source's.
    event_time: Option<usize>,
    service_days: Option<(ServiceDay, ServiceDays)>,
    max_future_us: Option<i64>,
    /// The declared columns of a before-image.
    before_schema: SchemaRef,
}

/// Takes a record of the topic's format apart.
enum Reader {
    Json,
    Debezium(Debezium),
}

/// What was read of a batch; an entry per record.
#[derive(Default)]
struct Read<'a> {
    /// The texts that cells lie in; empty where a record gives no row.
    texts: Vec<&'a str>,
    before: Vec<&'a str>,
    /// Of a topic of changes.
    changes: Vec<Option<Change<'a>>>,
    /// Columns that an image does not hold, as a JSON array.
    unchanged: Vec<Option<String>>,
    unknown_fields: u64,
}

impl RowDecoder {
    /// The catalog has checked the topic: an event time is a `timestamptz` without `pii`, and
    /// there is a secret where a column is hashed.
    pub fn new(topic: Arc<Topic>, secret: Option<Secret>) -> Self {
        let is_kept = |column: &&TopicColumn| column.pii != Some(Pii::Drop);
        let kept: Vec<_> = topic.columns.iter().filter(is_kept).cloned().collect();
        let key = |place: &usize| topic.changes.as_ref().is_some_and(|c| c.key.contains(place));
        let is_key = (0..topic.columns.len())
            .filter(|place| is_kept(&&topic.columns[*place]))
            .map(|place| key(&place))
            .collect();
        // Beyond the declared ones there are the source's time and Kafka's.
        let computed = topic.service_day.is_some();
        let event_time =
            topic.event_time.filter(|&column| column < kept.len() + usize::from(computed));
        if let Some(column) = event_time.filter(|_| !computed).map(|column| &kept[column]) {
            assert!(
                column.pg == PgType::Timestamptz && column.pii.is_none(),
                "the catalog admits only a timestamptz as event time, column={}",
                column.name
            );
        }
        let reader = match (topic.format, &topic.changes) {
            (Format::DebeziumJson, Some(spec)) => Reader::Debezium(Debezium::new(&topic, spec)),
            (Format::DebeziumJson, None) | (Format::Json, _) => Reader::Json,
        };
        let before = topic.schema.fields().iter().take(kept.len());
        let before: Vec<Field> =
            before.map(|field| Field::clone(field).with_nullable(true)).collect();
        Self {
            fields: Fields::new(&topic.columns),
            cells: Matrix::default(),
            before: Matrix::default(),
            hasher: secret.as_ref().map(Hasher::new),
            reader,
            kept,
            is_key,
            event_time,
            service_days: topic.service_day.map(|day| (day, ServiceDays::new(topic.time_zone))),
            before_schema: Arc::new(Schema::new(before)),
            max_future_us: topic
                .max_future
                .map(|ahead| i64::try_from(ahead.as_micros()).unwrap_or(i64::MAX)),
            topic,
        }
    }

    /// A batch holds less than 2 GiB of text per column (Arrow's 32-bit offsets); the queues in
    /// front of this stage, counted in bytes, are far below that.
    pub fn decode(&mut self, records: &[RawRecord<'_>]) -> Decoded {
        let mut rejects = Rejects::new(records.len());
        let read = self.read(records, &mut rejects);
        let mut columns = self.convert(&read, &mut rejects);
        let before = self.convert_before(&read, &mut rejects);
        columns.extend(self.service_times(&columns, &mut rejects));
        let times = self.event_times(records, &read, &columns, &mut rejects);
        if self.topic.changes.is_some() {
            columns.extend(change_columns(records, &read, before.as_ref()));
        }

        let rows = self.batch(records, columns, &rejects);
        let before = before.map(|before| before.filtered(&rejects));
        let good = times.into_iter().zip(rejects.bad()).filter(|(_, bad)| !**bad);
        let event_times: Vec<_> = good.map(|(time, _)| time).collect();
        let (rejects, empty) = rejects.into_lists();
        assert_eq!(rows.num_rows() + rejects.len() + empty.len(), records.len(), "D-1");
        Decoded { rows, before, event_times, rejects, empty, unknown_fields: read.unknown_fields }
    }

    /// Step 1: fills the matrices.
    fn read<'a>(&mut self, records: &[RawRecord<'a>], rejects: &mut Rejects) -> Read<'a> {
        let mut read = Read::default();
        self.cells.clear(records.len(), self.kept.len());
        if self.topic.changes.as_ref().is_some_and(|changes| changes.before) {
            self.before.clear(records.len(), self.kept.len());
        }
        for (row, record) in records.iter().enumerate() {
            let said = readable(record.value).and_then(|value| match &mut self.reader {
                Reader::Json => value
                    .map(Said::Row)
                    .ok_or_else(|| "a tombstone: the record has no value".to_owned()),
                Reader::Debezium(debezium) => debezium.read(readable(record.key)?, value),
            });
            let done = said.and_then(|said| self.take(row, said, &mut read, rejects));
            if let Err(reason) = done {
                self.cells.forget(row, |_| true);
                rejects.add(row, RejectClass::Malformed, None, || reason);
            }
            // What a record does not give is empty.
            read.texts.resize(row + 1, "");
            if self.topic.changes.is_some() {
                read.changes.resize_with(row + 1, || None);
                read.unchanged.resize(row + 1, None);
                read.before.resize(row + 1, "");
            }
        }
        read
    }

    /// Finds the row's fields.
    fn take<'a>(
        &mut self,
        row: usize,
        said: Said<'a>,
        read: &mut Read<'a>,
        rejects: &mut Rejects,
    ) -> Result<(), String> {
        let broken =
            |broken: Broken| format!("not a JSON object: byte {}: {}", broken.at, broken.why);
        let change = match said {
            Said::Row(text) => {
                read.unknown_fields +=
                    self.fields.find(text, row, &mut self.cells).map_err(broken)?;
                read.texts.push(text);
                return Ok(());
            }
            Said::Nothing => {
                rejects.leave_out(row);
                return Ok(());
            }
            Said::Change(change) => change,
        };
        let spec = self.topic.changes.as_ref().expect("a change comes of a topic of changes");
        if let Some(image) = change.image {
            let found = self.fields.find(image, row, &mut self.cells).map_err(broken)?;
            if change.operation != Operation::Delete {
                read.unknown_fields += found;
            }
            read.texts.push(image);
        } else {
            read.texts.push("");
        }
        // Of what is gone only the key is sure, unless whole images come.
        if change.operation == Operation::Delete && !spec.before {
            let is_key = &self.is_key;
            self.cells.forget(row, |column| !is_key[column]);
        }
        if let (true, Some(before)) = (spec.before, change.before) {
            self.fields.find(before, row, &mut self.before).map_err(broken)?;
            read.before.push(before);
        } else {
            read.before.push("");
        }
        read.unchanged.push(self.unchanged(row, &change, read.texts[row], spec.images));
        read.changes.push(Some(change));
        Ok(())
    }

    /// Which columns the image of an update does not hold; their cells become absent.
    fn unchanged(
        &mut self,
        row: usize,
        change: &Change<'_>,
        text: &str,
        images: Images,
    ) -> Option<String> {
        if change.operation == Operation::Delete || change.operation == Operation::Truncate {
            return None;
        }
        let sparse = images == Images::Sparse && change.operation == Operation::Update;
        let mut names = Vec::new();
        for (column, declared) in self.kept.iter().enumerate() {
            let raw = self.cells.column(column)[row].raw(text);
            let absent = raw.is_empty() || raw == "null";
            if is_unavailable(raw) || (sparse && absent && !self.is_key[column]) {
                names.push(declared.name.as_str());
                self.cells.forget(row, |other| other == column);
            }
        }
        (!names.is_empty()).then(|| serde_json::to_string(&names).expect("names are text"))
    }

    /// Step 2: one array per kept column, each as long as the batch.
    fn convert(&self, read: &Read<'_>, rejects: &mut Rejects) -> Vec<ArrayRef> {
        let convert = |(place, declared): (usize, &TopicColumn)| {
            if self.topic.changes.is_none() {
                return self.column(
                    declared,
                    place,
                    self.cells.column(place),
                    &read.texts,
                    read,
                    rejects,
                );
            }
            // Whether a value must be there depends on the operation.
            let lenient = TopicColumn { optional: true, ..declared.clone() };
            let cells = self.cells.column(place);
            let array = self.column(&lenient, place, cells, &read.texts, read, rejects);
            if !declared.optional || self.is_key[place] {
                self.must_be_there(place, &array, read, rejects);
            }
            array
        };
        self.kept.iter().enumerate().map(convert).collect()
    }

    fn must_be_there(
        &self,
        place: usize,
        array: &ArrayRef,
        read: &Read<'_>,
        rejects: &mut Rejects,
    ) {
        let column = &self.kept[place];
        for (row, change) in read.changes.iter().enumerate() {
            let Some(change) = change else { continue };
            let wanted = match change.operation {
                Operation::Insert | Operation::Update | Operation::Read => {
                    let unchanged = read.unchanged[row].as_deref().unwrap_or_default();
                    !column.optional && !unchanged.contains(&format!("\"{}\"", column.name))
                }
                Operation::Delete => self.is_key[place] && !column.optional,
                Operation::Truncate => false,
            };
            if wanted && array.is_null(row) {
                rejects.add(row, RejectClass::Missing, Some(&column.name), || {
                    "the field is absent or null and the column is not optional".to_owned()
                });
            }
        }
    }

    fn convert_before(&self, read: &Read<'_>, rejects: &mut Rejects) -> Option<Before> {
        self.topic.changes.as_ref().filter(|changes| changes.before)?;
        let convert = |(place, declared): (usize, &TopicColumn)| {
            let lenient = TopicColumn { optional: true, ..declared.clone() };
            let cells = self.before.column(place);
            self.column(&lenient, place, cells, &read.before, read, rejects)
        };
        let columns = self.kept.iter().enumerate().map(convert).collect();
        let rows = RecordBatch::try_new(self.before_schema.clone(), columns)
            .expect("the schema was made from these columns");
        let there = read.before.iter().map(|text| Some(!text.is_empty())).collect();
        Some(Before { rows, there })
    }

    fn column(
        &self,
        declared: &TopicColumn,
        place: usize,
        cells: &[Cell],
        texts: &[&str],
        read: &Read<'_>,
        rejects: &mut Rejects,
    ) -> ArrayRef {
        let hasher = self.hasher.as_ref();
        let column = Column { declared, cells, texts, hasher };
        let encoding = |row: usize| {
            let own = read.changes.get(row).and_then(|c| c.as_ref()?.encodings.as_ref());
            let raw = || cells[row].raw(texts[row]);
            match own {
                Some(encodings) => encodings[place],
                None => self.declared_encoding(declared, raw()),
            }
        };
        let plain = declared.encoding == Encoding::Plain && self.topic.changes.is_none();
        if plain || (0..cells.len()).all(|row| encoding(row) == Encoding::Plain) {
            return column.convert(rejects);
        }
        let mut rewritten = Rewritten::default();
        for (row, cell) in cells.iter().enumerate() {
            let raw = cell.raw(texts[row]);
            match encoding(row) {
                Encoding::Plain => rewritten.keep(*cell, raw),
                encoding => {
                    if let Err(refusal) = rewritten.rewrite(raw, encoding) {
                        column.refuse(row, raw, refusal, rejects);
                    }
                }
            }
        }
        let texts = vec![rewritten.text.as_str(); cells.len()];
        Column { declared, cells: &rewritten.cells, texts: &texts, hasher }.convert(rejects)
    }

    /// Where the record does not carry its schema.
    fn declared_encoding(&self, declared: &TopicColumn, raw: &str) -> Encoding {
        let Some(changes) = &self.topic.changes else { return declared.encoding };
        let first = raw.as_bytes().first();
        match (declared.encoding, declared.pg, first) {
            (Encoding::Plain, PgType::Numeric(..), Some(b'{')) => Encoding::VariableDecimal,
            // NaN and infinities stand for themselves.
            (Encoding::Plain, PgType::Numeric(_, scale), Some(b'"'))
                if changes.decimals == Decimals::Precise =>
            {
                Encoding::Decimal(scale)
            }
            (Encoding::Plain, PgType::Date, Some(b'-' | b'0'..=b'9')) => Encoding::Days,
            (Encoding::Plain, PgType::Jsonb, Some(b'"')) => Encoding::Json,
            (encoding, ..) => encoding,
        }
    }

    /// Step 3: the computed event time; of a bad record it means nothing.
    fn service_times(&mut self, columns: &[ArrayRef], rejects: &mut Rejects) -> Option<ArrayRef> {
        let (day, days) = self.service_days.as_mut()?;
        let dates = columns[day.date].as_primitive::<Date32Type>();
        let clocks = columns[day.clock].as_string::<i32>();
        let mut times = vec![0; dates.len()];
        for (row, time) in times.iter_mut().enumerate() {
            if rejects.bad()[row] {
                continue;
            }
            let begin = days.begin(dates.value(row)).map_err(|refusal| (day.date, refusal));
            let since = clock(clocks.value(row)).map_err(|refusal| (day.clock, refusal));
            match begin.and_then(|begin| Ok(begin + since?)) {
                Ok(instant) => *time = instant,
                Err((at, refusal)) => {
                    let name = &self.kept[at].name;
                    rejects.add(row, refusal.class, Some(name), || refusal.why.into());
                }
            }
        }
        Some(instants(times.into_iter()))
    }

    /// Step 3: one per record; of a bad record it means nothing.
    fn event_times(
        &self,
        records: &[RawRecord<'_>],
        read: &Read<'_>,
        columns: &[ArrayRef],
        rejects: &mut Rejects,
    ) -> Vec<EventTime> {
        let Some(place) = self.event_time else {
            return (0..records.len()).map(|row| source_time(records, read, row)).collect();
        };
        let named = self.service_days.as_ref().map_or(place, |(day, _)| day.clock);
        let name = &self.kept[named].name;
        let times = columns[place].as_primitive::<TimestampMicrosecondType>();
        let mut judged = Vec::with_capacity(records.len());
        for (row, (&time, record)) in times.values().iter().zip(records).enumerate() {
            judged.push(EventTime(time));
            if rejects.bad()[row] {
                continue;
            }
            if times.is_null(row) {
                rejects.add(row, RejectClass::Missing, Some(name), || {
                    "without an event time a record has no place in windows".to_owned()
                });
                continue;
            }
            let ahead_us = time.saturating_sub(record.timestamp.0);
            if let Some(max_us) = self.max_future_us.filter(|&max_us| ahead_us > max_us) {
                rejects.add(row, RejectClass::Future, Some(name), || {
                    format!(
                        "the event time is {} s ahead of Kafka's timestamp; at most {} s are allowed",
                        ahead_us / 1_000_000,
                        max_us / 1_000_000
                    )
                });
            }
        }
        judged
    }

    /// Step 4.
    fn batch(
        &self,
        records: &[RawRecord<'_>],
        mut columns: Vec<ArrayRef>,
        rejects: &Rejects,
    ) -> RecordBatch {
        let bad = rejects.bad();
        if rejects.any() {
            let good: BooleanArray = bad.iter().map(|bad| Some(!bad)).collect();
            for column in &mut columns {
                *column = filter(column, &good).expect("a mask as long as the column");
            }
        }
        let good = || records.iter().zip(bad).filter(|(_, bad)| !**bad).map(|(record, _)| record);
        columns.push(Arc::new(Int32Array::from_iter_values(good().map(|r| r.partition.0))));
        columns.push(Arc::new(Int64Array::from_iter_values(good().map(|r| r.offset))));
        columns.push(instants(good().map(|r| r.timestamp.0)));
        RecordBatch::try_new(self.topic.schema.clone(), columns)
            .expect("the catalog made the schema from these columns")
    }
}

/// The time of a change at its source; otherwise Kafka's timestamp.
fn source_time(records: &[RawRecord<'_>], read: &Read<'_>, row: usize) -> EventTime {
    let change = read.changes.get(row).and_then(Option::as_ref);
    change.and_then(|change| change.source_time).map_or(records[row].timestamp, EventTime)
}

/// The columns of [`crate::catalog::topic::CHANGE_COLUMNS`], each as long as the batch.
fn change_columns(
    records: &[RawRecord<'_>],
    read: &Read<'_>,
    before: Option<&Before>,
) -> Vec<ArrayRef> {
    let changes = || read.changes.iter().map(Option::as_ref);
    let operations = changes().map(|change| change.map_or("", |c| c.operation.as_str()));
    let positions = changes().map(|change| change.map_or("", |c| c.position.as_str()));
    let images: StringArray = match before {
        Some(before) => (0..records.len()).map(|row| before.object(row)).collect(),
        None => StringArray::new_null(records.len()),
    };
    let times = (0..records.len()).map(|row| source_time(records, read, row).0);
    vec![
        Arc::new(StringArray::from_iter_values(operations)),
        Arc::new(images),
        Arc::new(read.unchanged.iter().map(Option::as_deref).collect::<StringArray>()),
        Arc::new(StringArray::from_iter_values(positions)),
        instants(times),
    ]
}

impl Before {
    /// Of the rows that stay.
    fn filtered(self, rejects: &Rejects) -> Self {
        if !rejects.any() {
            return self;
        }
        let good: BooleanArray = rejects.bad().iter().map(|bad| Some(!bad)).collect();
        let keep = |array: &dyn Array| filter(array, &good).expect("a mask as long as the column");
        let columns = self.rows.columns().iter().map(|column| keep(column)).collect();
        let rows = RecordBatch::try_new(self.rows.schema(), columns).expect("as before");
        Self { rows, there: keep(&self.there).as_boolean().clone() }
    }

    /// The image as a JSON object of what was converted: personal data stays what became of it.
    fn object(&self, row: usize) -> Option<String> {
        if !self.there.value(row) {
            return None;
        }
        let mut object = serde_json::Map::new();
        for (field, array) in self.rows.schema().fields().iter().zip(self.rows.columns()) {
            let shown = || {
                let formatter = ArrayFormatter::try_new(array.as_ref(), &FormatOptions::default());
                formatter.expect("every type has a text").value(row).to_string()
            };
            let value = match array.data_type() {
                _ if array.is_null(row) => serde_json::Value::Null,
                t if t.is_integer() || t.is_floating() => {
                    serde_json::from_str(&shown()).unwrap_or_else(|_| shown().into())
                }
                arrow::datatypes::DataType::Boolean => array.as_boolean().value(row).into(),
                _ => shown().into(),
            };
            object.insert(field.name().clone(), value);
        }
        Some(serde_json::Value::Object(object).to_string())
    }
}

/// What Debezium puts in place of a value that PostgreSQL stores out of line and did not change:
/// as text, as bytes, in an array, in a map.
fn is_unavailable(raw: &str) -> bool {
    const MARKS: [&str; 4] = [
        "\"__debezium_unavailable_value\"",
        "\"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==\"",
        "[\"__debezium_unavailable_value\"]",
        "{\"__debezium_unavailable_value\":\"__debezium_unavailable_value\"}",
    ];
    raw.len() >= MARKS[0].len() && MARKS.contains(&raw)
}

/// The text of a key or a value, if it can be JSON at all; None: there is none. No reason quotes
/// the text (it may be personal).
fn readable(bytes: Option<&[u8]>) -> Result<Option<&str>, String> {
    let Some(bytes) = bytes else { return Ok(None) };
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(format!("longer than {RECORD_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(bytes);
    text.map(Some).map_err(|broken| format!("not UTF-8: byte {}", broken.valid_up_to()))
}
