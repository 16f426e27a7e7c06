//! Records to rows: the order of work in a batch, whatever the format.
//!
//! Owns: that order, the columns `_partition`, `_offset`, `_timestamp`. Does not own: what a record
//! says (`formats` and a file per format), which field is whose (`fields`), what a value means
//! (`encoding`, `convert`), what a change has beside its row (`images`).
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
    Before, Decoded, Met, RejectClass, Secret,
    change::{Change, Image, Operation, Said},
    convert::{Column, instants},
    encoding::Rewritten,
    fields::{Cell, Fields, Matrix, RECORD_BYTES_MAX, Row},
    formats::{Reader, Spare, too_long},
    images::{change_columns, source_time},
    pii::Hasher,
    rejects::Rejects,
    service_day::{ServiceDays, clock},
};
use crate::{
    catalog::{
        Decimals, Drift, Encoding, Format, Images, PgType, Pii, ServiceDay, Topic, TopicColumn,
        Upstream,
    },
    record::{EventTime, RawRecord, schemas::Schemas},
};
use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch},
    compute::filter,
    datatypes::{Date32Type, Field, Schema, SchemaRef, TimestampMicrosecondType},
};
use std::{borrow::Cow, sync::Arc};

/// One topic's decoder. Its matrices and the remembered order of keys live from batch to batch;
/// neither changes a result.
pub struct RowDecoder {
    topic: Arc<Topic>,
    reader: Reader,
    spare: Spare,
    fields: Fields,
    cells: Matrix,
    before: Matrix,
    /// One row: what a part of the row before says of its key.
    old: Matrix,
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

/// What was read of a batch; an entry per record.
#[derive(Default)]
pub struct Read<'a> {
    /// The texts that cells lie in; empty where a record gives no row.
    texts: Vec<Cow<'a, str>>,
    before: Vec<Cow<'a, str>>,
    /// How its own schema says that the columns are written; not of JSON.
    encodings: Vec<Option<Arc<[Encoding]>>>,
    /// Of a topic of changes.
    pub changes: Vec<Option<Change<'a>>>,
    /// Columns that an image does not hold, as a JSON array.
    pub unchanged: Vec<Option<String>>,
    unknown_fields: u64,
    /// Where another table is told than by the record before, of whatever partition.
    met: Vec<Met>,
    untold: Option<usize>,
}

impl RowDecoder {
    /// The catalog has checked the topic: an event time is a `timestamptz` without `pii`, and
    /// there is a secret where a column is hashed.
    pub fn new(topic: Arc<Topic>, secret: Option<Secret>, schemas: Arc<Schemas>) -> Self {
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
        let before = topic.schema.fields().iter().take(kept.len());
        let before: Vec<Field> =
            before.map(|field| Field::clone(field).with_nullable(true)).collect();
        Self {
            fields: Fields::new(&topic.columns),
            cells: Matrix::default(),
            before: Matrix::default(),
            old: Matrix::default(),
            hasher: secret.as_ref().map(Hasher::new),
            reader: Reader::new(&topic, schemas),
            spare: Spare::default(),
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

    /// Names of fields that no column names, since it was asked.
    pub fn take_new_names(&mut self) -> Vec<String> {
        self.fields.take_new_names()
    }

    /// A batch holds less than 2 GiB of text per column (Arrow's 32-bit offsets); the queues in
    /// front of this stage, counted in bytes, are far below that.
    pub fn decode(&mut self, records: &[RawRecord<'_>]) -> Decoded {
        let mut rejects = Rejects::new(records.len());
        let indexes = if self.topic.batched { indexes(records) } else { Vec::new() };
        let read = self.read(records, &indexes, &mut rejects);
        let mut columns = self.convert(&read, &mut rejects);
        let before = self.convert_before(&read, &mut rejects);
        columns.extend(self.service_times(&columns, &mut rejects));
        let times = self.event_times(records, &read, &columns, &mut rejects);
        if self.topic.changes.is_some() {
            columns.extend(change_columns(records, &read, before.as_ref()));
        }

        let rows = self.batch(records, columns, &indexes, &rejects);
        let before = before.map(|before| before.filtered(&rejects));
        let good = times.into_iter().zip(rejects.bad()).filter(|(_, bad)| !**bad);
        let event_times: Vec<_> = good.map(|(time, _)| time).collect();
        let (rejects, empty) = rejects.into_lists();
        assert_eq!(rows.num_rows() + rejects.len() + empty.len(), records.len(), "D-1");
        let (unknown_fields, met, untold) = (read.unknown_fields, read.met, read.untold);
        let positions = read.changes.into_iter().flatten().map(|change| change.position.into());
        read.texts.into_iter().chain(positions).for_each(|text| self.spare.give_back(text));
        let several = None;
        Decoded { rows, several, before, event_times, rejects, empty, unknown_fields, met, untold }
    }

    /// Step 1: fills the matrices.
    fn read<'a>(
        &mut self,
        records: &[RawRecord<'a>],
        indexes: &[i32],
        rejects: &mut Rejects,
    ) -> Read<'a> {
        let mut read = Read::default();
        self.cells.clear(records.len(), self.kept.len());
        if self.topic.changes.as_ref().is_some_and(|changes| changes.before) {
            self.before.clear(records.len(), self.kept.len());
        }
        for (row, record) in records.iter().enumerate() {
            let into = Row { fields: &mut self.fields, cells: &mut self.cells, row };
            let mut said = self.reader.read(record, &mut self.spare, into);
            if let (Some(index), Ok(Said::Change(change))) = (indexes.get(row), &mut said) {
                change.position = placed(&change.position, record.offset, *index);
            }
            if let Some(upstream) = self.reader.upstream() {
                read.meet(row, record, upstream);
            } else if self.topic.drift == Drift::Apply && record.value.is_some() {
                let is_change = matches!(said, Ok(Said::Change(_)));
                read.untold = read.untold.or(is_change.then_some(row));
            }
            let done = said.and_then(|said| self.take(row, said, &mut read, rejects));
            if let Err(reason) = done {
                self.cells.forget(row, |_| true);
                rejects.add(row, RejectClass::Malformed, None, || reason);
            }
            // What a record does not give is empty.
            read.texts.resize(row + 1, Cow::Borrowed(""));
            if self.topic.format != Format::Json {
                read.encodings.resize(row + 1, None);
            }
            if self.topic.changes.is_some() {
                read.changes.resize_with(row + 1, || None);
                read.unchanged.resize(row + 1, None);
                read.before.resize(row + 1, Cow::Borrowed(""));
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
        let mut change = match said {
            Said::Row(text) => {
                read.unknown_fields += find(&mut self.fields, &text, row, &mut self.cells)?;
                read.texts.push(text);
                return Ok(());
            }
            Said::Encoded(text, encodings) => {
                read.unknown_fields += find(&mut self.fields, &text, row, &mut self.cells)?;
                read.texts.push(text.into());
                read.encodings.push(Some(encodings));
                return Ok(());
            }
            Said::Nothing => {
                rejects.leave_out(row);
                return Ok(());
            }
            Said::Change(change) => change,
        };
        let spec = self.topic.changes.as_ref().expect("a change comes of a topic of changes");
        if self.topic.append_only {
            only_adds(change.operation)?;
        }
        let (whole, images) = (spec.before, spec.images);
        let image = change.image.take();
        let unknown = match &image {
            None => 0,
            Some(Image { found: Some(unknown), .. }) => *unknown,
            Some(Image { text, .. }) => find(&mut self.fields, text, row, &mut self.cells)?,
        };
        if change.operation != Operation::Delete {
            read.unknown_fields += unknown;
        }
        read.texts.push(image.map(|image| image.text).unwrap_or_default());
        read.encodings.push(change.encodings.take());
        // Of what is gone only the key is sure, unless whole images come.
        if change.operation == Operation::Delete && !whole {
            let is_key = &self.is_key;
            self.cells.forget(row, |column| !is_key[column]);
        }
        let before = change.before.take().unwrap_or_default();
        if whole && !before.is_empty() {
            find(&mut self.fields, &before, row, &mut self.before)?;
            read.before.push(before);
        } else {
            read.before.push(Cow::Borrowed(""));
            if change.operation == Operation::Update && !before.is_empty() {
                self.keeps_key(row, &read.texts[row], &before)?;
            }
        }
        read.unchanged.push(self.unchanged(row, &change, &read.texts[row], images));
        read.changes.push(Some(change));
        Ok(())
    }

    /// Refuses an update that gives its row another key: where the row was, would not be known.
    fn keeps_key(&mut self, row: usize, text: &str, before: &str) -> Result<(), String> {
        self.old.clear(1, self.kept.len());
        find(&mut self.fields, before, 0, &mut self.old)?;
        let changed = |column: usize| {
            let old = self.old.column(column)[0].raw(before);
            !old.is_empty() && old != self.cells.column(column)[row].raw(text)
        };
        match (0..self.kept.len()).any(|column| self.is_key[column] && changed(column)) {
            false => Ok(()),
            true => Err("an update that changes the key; with changes.before = \"full\" the row \
                         before is taken along"
                .to_owned()),
        }
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
            let left_out = change.left_out.as_ref().is_some_and(|left_out| left_out[column]);
            if left_out || is_unavailable(raw) || (sparse && absent && !self.is_key[column]) {
                names.push(declared.name.as_str());
                self.cells.forget(row, |other| other == column);
            }
        }
        (!names.is_empty()).then(|| serde_json::to_string(&names).expect("names are text"))
    }

    /// Step 2: one array per kept column, each as long as the batch.
    fn convert(&self, read: &Read<'_>, rejects: &mut Rejects) -> Vec<ArrayRef> {
        let texts: Vec<&str> = read.texts.iter().map(|text| &**text).collect();
        let convert = |(place, declared): (usize, &TopicColumn)| {
            let cells = self.cells.column(place);
            if self.topic.followed().is_none() {
                return self.column(declared, place, cells, &texts, read, rejects);
            }
            // Whether a value must be there depends on the operation.
            let lenient = TopicColumn { optional: true, ..declared.clone() };
            let array = self.column(&lenient, place, cells, &texts, read, rejects);
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
        if array.null_count() == 0 {
            return;
        }
        let column = &self.kept[place];
        let quoted = format!("\"{}\"", column.name);
        for (row, change) in read.changes.iter().enumerate() {
            let Some(change) = change else { continue };
            let wanted = match change.operation {
                Operation::Insert | Operation::Update | Operation::Read => {
                    let unchanged = read.unchanged[row].as_deref().unwrap_or_default();
                    !column.optional && !unchanged.contains(&quoted)
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
        let texts: Vec<&str> = read.before.iter().map(|text| &**text).collect();
        let convert = |(place, declared): (usize, &TopicColumn)| {
            let lenient = TopicColumn { optional: true, ..declared.clone() };
            let cells = self.before.column(place);
            self.column(&lenient, place, cells, &texts, read, rejects)
        };
        let columns = self.kept.iter().enumerate().map(convert).collect();
        let rows = RecordBatch::try_new(self.before_schema.clone(), columns)
            .expect("the schema was made from these columns");
        let there = texts.iter().map(|text| Some(!text.is_empty())).collect();
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
            match read.encodings.get(row).and_then(|own| Some(own.as_ref()?[place])) {
                // Of what its schema says nothing the file may.
                Some(Encoding::Plain) => declared.encoding,
                Some(own) => own,
                None => self.declared_encoding(declared, cells[row].raw(texts[row])),
            }
        };
        let plain = !self.may_be_encoded(declared) && read.encodings.iter().all(Option::is_none);
        if plain || (0..cells.len()).all(|row| encoding(row) == Encoding::Plain) {
            return column.convert(rejects);
        }
        let mut rewritten = Rewritten::with_capacity(cells.len());
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

    /// Whether any value may be, where no record says so: a value tells by its first byte.
    fn may_be_encoded(&self, declared: &TopicColumn) -> bool {
        let encoded = |raw| self.declared_encoding(declared, raw) != Encoding::Plain;
        ["{", "\"", "-", "0"].into_iter().any(encoded)
    }

    /// Where the record does not carry its schema.
    fn declared_encoding(&self, declared: &TopicColumn, raw: &str) -> Encoding {
        if declared.encoding != Encoding::Plain {
            return declared.encoding;
        }
        let precise =
            || self.topic.changes.as_ref().is_some_and(|c| c.decimals == Decimals::Precise);
        match (self.topic.format, declared.pg, raw.as_bytes().first()) {
            (Format::DebeziumJson, PgType::Numeric(..), Some(b'{')) => Encoding::VariableDecimal,
            // NaN and infinities stand for themselves.
            (Format::DebeziumJson, PgType::Numeric(_, scale), Some(b'"')) if precise() => {
                Encoding::Decimal(scale)
            }
            (Format::DebeziumJson, PgType::Date, Some(b'-' | b'0'..=b'9')) => Encoding::Days,
            // Formats that know no JSON within JSON.
            (
                Format::DebeziumJson | Format::Csv | Format::Canal | Format::Qlik,
                PgType::Jsonb,
                Some(b'"'),
            ) => Encoding::Json,
            _ => Encoding::Plain,
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
        indexes: &[i32],
        rejects: &Rejects,
    ) -> RecordBatch {
        let bad = rejects.bad();
        if rejects.any() {
            let good: BooleanArray = bad.iter().map(|bad| Some(!bad)).collect();
            for column in &mut columns {
                *column = filter(column, &good).expect("a mask as long as the column");
            }
        }
        if self.topic.batched {
            let good = indexes.iter().zip(bad).filter(|(_, bad)| !**bad).map(|(index, _)| *index);
            columns.push(Arc::new(Int32Array::from_iter_values(good)));
        }
        let good = || records.iter().zip(bad).filter(|(_, bad)| !**bad).map(|(record, _)| record);
        columns.push(Arc::new(Int32Array::from_iter_values(good().map(|r| r.partition.0))));
        columns.push(Arc::new(Int64Array::from_iter_values(good().map(|r| r.offset))));
        columns.push(instants(good().map(|r| r.timestamp.0)));
        RecordBatch::try_new(self.topic.schema.clone(), columns)
            .expect("the catalog made the schema from these columns")
    }
}

impl Read<'_> {
    fn meet(&mut self, row: usize, record: &RawRecord<'_>, upstream: &Arc<Upstream>) {
        let (partition, offset) = (record.partition, record.offset);
        let same = |m: &Met| m.partition == partition && Arc::ptr_eq(&m.upstream, upstream);
        if !self.met.last().is_some_and(same) {
            self.met.push(Met { record: row, partition, offset, upstream: upstream.clone() });
        }
    }
}

/// The place of each row within its record: neighbours at one offset are of one.
fn indexes(records: &[RawRecord<'_>]) -> Vec<i32> {
    let same =
        |a: &RawRecord<'_>, b: &RawRecord<'_>| (a.partition, a.offset) == (b.partition, b.offset);
    records.chunk_by(same).flat_map(|rows| 0..rows.len() as i32).collect()
}

/// Refuses what is no new row.
fn only_adds(operation: Operation) -> Result<(), String> {
    let what = match operation {
        Operation::Insert | Operation::Read => return Ok(()),
        Operation::Update => "an update",
        Operation::Delete => "a delete",
        Operation::Truncate => "a truncate",
    };
    Err(format!("{what}, of a table whose rows are only added (changes.append_only)"))
}

/// Of two changes of a record the one behind is the later.
fn placed(position: &str, offset: i64, index: i32) -> String {
    match position {
        "" => format!("{offset:020}.{index:05}"),
        position => format!("{position}.{index:05}"),
    }
}

/// Finds a text's fields; gives the number of unknown ones.
fn find(fields: &mut Fields, text: &str, row: usize, into: &mut Matrix) -> Result<u64, String> {
    if text.len() > RECORD_BYTES_MAX {
        return Err(too_long());
    }
    let found = fields.find(text, row, into);
    found.map_err(|broken| format!("not a JSON object: byte {}: {}", broken.at, broken.why))
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
