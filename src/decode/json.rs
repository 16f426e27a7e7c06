//! JSON objects, one per record.
//!
//! Owns: the order of work in a batch, the batch's last three columns. Does not own:
//! the grammar (`scan`), which field is whose (`fields`), what a value means (`convert`).
//!
//! SUBTLE: the order of steps.
//! 1. Each record is scanned whole, to its last byte, before anything of it counts: so nothing of
//!    a broken record is ever a value.
//! 2. Columns are converted one by one in declared order, over all records. The first reject of a
//!    record stands, so its column is the first failing one in that order.
//! 3. An event time that follows from a service day is computed, a column like any other. Event
//!    times are judged (`max_future`) only for records that are good so far.
//! 4. Bad rows go out by one filter. Only then is the batch made: before that, columns that are
//!    not optional hold NULL where a record is bad, and Arrow refuses that.

use super::{
    Decoded, RejectClass, Secret,
    convert::{Column, instants},
    fields::{Fields, Matrix, RECORD_BYTES_MAX},
    pii::Hasher,
    rejects::Rejects,
    service_day::{ServiceDays, clock},
};
use crate::{
    catalog::{PgType, Pii, ServiceDay, Topic},
    record::{EventTime, RawRecord},
};
use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch},
    compute::filter,
    datatypes::{Date32Type, TimestampMicrosecondType},
};
use std::sync::Arc;

/// One topic's decoder. Its matrix and the remembered order of keys live from batch to batch;
/// neither changes a result.
pub struct JsonDecoder {
    topic: Arc<Topic>,
    fields: Fields,
    cells: Matrix,
    hasher: Option<Hasher>,
    /// Columns of `topic.columns` that are in the schema, in its order.
    kept: Vec<usize>,
    /// Of those (behind them stands the computed one), the event time; None: Kafka's timestamp.
    event_time: Option<usize>,
    /// What it is called where it is refused.
    event_time_name: String,
    service_days: Option<(ServiceDay, ServiceDays)>,
    max_future_us: Option<i64>,
}

impl JsonDecoder {
    /// The catalog has checked the topic: an event time is a `timestamptz` without `pii`, and
    /// there is a secret where a column is hashed.
    pub fn new(topic: Arc<Topic>, secret: Option<Secret>) -> Self {
        let kept: Vec<usize> = (0..topic.columns.len())
            .filter(|&column| topic.columns[column].pii != Some(Pii::Drop))
            .collect();
        // Beyond the declared ones there is `_timestamp`, which is Kafka's.
        let computed = topic.service_day.is_some();
        let event_time =
            topic.event_time.filter(|&column| column < kept.len() + usize::from(computed));
        let declared = event_time.filter(|_| !computed).map(|column| &topic.columns[kept[column]]);
        if let Some(column) = declared {
            assert!(
                column.pg == PgType::Timestamptz && column.pii.is_none(),
                "the catalog admits only a timestamptz as event time, column={}",
                column.name
            );
        }
        let named = topic.service_day.map_or(event_time, |day| Some(day.clock));
        let named = named.map(|column| topic.columns[kept[column]].name.clone());
        Self {
            event_time_name: named.unwrap_or_default(),
            service_days: topic.service_day.map(|day| (day, ServiceDays::new(topic.time_zone))),
            fields: Fields::new(&topic.columns),
            cells: Matrix::default(),
            hasher: secret.as_ref().map(Hasher::new),
            kept,
            event_time,
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
        let mut texts = Vec::with_capacity(records.len());
        let unknown_fields = self.scan(records, &mut texts, &mut rejects);
        let mut columns = self.convert(&texts, &mut rejects);
        columns.extend(self.service_times(&columns, &mut rejects));
        let times = self.event_times(records, &columns, &mut rejects);

        let rows = self.batch(records, columns, &rejects);
        let good = times.into_iter().zip(rejects.bad()).filter(|(_, bad)| !**bad);
        let event_times: Vec<_> = good.map(|(time, _)| time).collect();
        let rejects = rejects.into_list();
        assert_eq!(rows.num_rows() + rejects.len(), records.len(), "D-1");
        Decoded { rows, event_times, rejects, unknown_fields }
    }

    /// Step 1: fills the matrix. `texts` gets one entry per record, empty where it is malformed.
    fn scan<'a>(
        &mut self,
        records: &[RawRecord<'a>],
        texts: &mut Vec<&'a str>,
        rejects: &mut Rejects,
    ) -> u64 {
        self.cells.clear(records.len(), self.kept.len());
        let mut unknown_fields = 0;
        for (row, record) in records.iter().enumerate() {
            let text = match readable(record.value) {
                Ok(text) => match self.fields.find(text, row, &mut self.cells) {
                    Ok(unknown) => {
                        unknown_fields += unknown;
                        Ok(text)
                    }
                    Err(broken) => {
                        self.cells.clear_row(row);
                        Err(format!("not a JSON object: byte {}: {}", broken.at, broken.why))
                    }
                },
                Err(reason) => Err(reason),
            };
            texts.push(*text.as_ref().unwrap_or(&""));
            if let Err(reason) = text {
                rejects.add(row, RejectClass::Malformed, None, || reason);
            }
        }
        unknown_fields
    }

    /// Step 2: one array per kept column, each as long as the batch.
    fn convert(&self, texts: &[&str], rejects: &mut Rejects) -> Vec<ArrayRef> {
        let convert = |(place, &column): (usize, &usize)| {
            let declared = &self.topic.columns[column];
            let cells = self.cells.column(place);
            Column { declared, cells, texts, hasher: self.hasher.as_ref() }.convert(rejects)
        };
        self.kept.iter().enumerate().map(convert).collect()
    }

    /// Step 3: the computed event time; of a bad record it means nothing.
    fn service_times(&mut self, columns: &[ArrayRef], rejects: &mut Rejects) -> Option<ArrayRef> {
        let (day, days) = self.service_days.as_mut()?;
        let (dates, clocks) =
            (columns[day.date].as_primitive::<Date32Type>(), columns[day.clock].as_string::<i32>());
        let mut times = Vec::with_capacity(dates.len());
        for row in 0..dates.len() {
            if rejects.bad()[row] {
                times.push(0);
                continue;
            }
            let begin = days.begin(dates.value(row)).map_err(|refusal| (day.date, refusal));
            let since = clock(clocks.value(row)).map_err(|refusal| (day.clock, refusal));
            let time =
                begin.and_then(|begin| Ok(begin + since?)).unwrap_or_else(|(at, refusal)| {
                    let name = &self.topic.columns[self.kept[at]].name;
                    rejects.add(row, refusal.class, Some(name), || refusal.why.into());
                    0
                });
            times.push(time);
        }
        Some(instants(times.into_iter()))
    }

    /// Step 3: one per record; of a bad record it means nothing.
    fn event_times(
        &self,
        records: &[RawRecord<'_>],
        columns: &[ArrayRef],
        rejects: &mut Rejects,
    ) -> Vec<EventTime> {
        let Some(place) = self.event_time else {
            return records.iter().map(|record| record.timestamp).collect();
        };
        let name = self.event_time_name.as_str();
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

/// The record's text, if it can be JSON at all. No reason quotes the text (it may be personal).
fn readable(value: Option<&[u8]>) -> Result<&str, String> {
    let Some(value) = value else {
        return Err("a tombstone: the record has no value".to_owned());
    };
    if value.len() > RECORD_BYTES_MAX {
        return Err(format!("longer than {RECORD_BYTES_MAX} bytes"));
    }
    std::str::from_utf8(value).map_err(|broken| format!("not UTF-8: byte {}", broken.valid_up_to()))
}
