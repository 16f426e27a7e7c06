//! Rows of the lake, read back: in order, and as they were when they were decoded.
//!
//! Owns: the way from rows with their places to a [`Decoded`] of good ones. Does not own: reading files
//! (`lake::reader`), which offsets had no row (whoever reads back).

use super::{indexes, places};
use crate::{
    catalog::Topic,
    decode::Decoded,
    error::{Error, Result},
    record::EventTime,
};
use arrow::{
    array::{AsArray, RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    datatypes::TimestampMicrosecondType,
};

/// By partition, offset and place within the record.
pub fn in_order(topic: &Topic, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let failed = |e| Error::halt("sort rows of the lake").because(e);
    let all = concat_batches(&topic.schema, batches).map_err(failed)?;
    let (partitions, offsets) = places(&all);
    let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
    let indexes = indexes(&all);
    let index = |row: usize| indexes.map_or(0, |indexes| indexes[row]);
    order.sort_by_key(|&i| (partitions[i as usize], offsets[i as usize], index(i as usize)));
    take_record_batch(&all, &UInt32Array::from(order)).map_err(failed)
}

/// Rows as they were when they were decoded.
pub fn decoded(topic: &Topic, rows: RecordBatch) -> Decoded {
    let event_times = event_times(topic, &rows);
    let several = topic.batched.then(|| records_of(&rows));
    Decoded::good(rows, several, event_times)
}

/// Of each row, which record it is of: neighbours at one place are of one.
fn records_of(rows: &RecordBatch) -> Vec<u32> {
    let (partitions, offsets) = places(rows);
    let places: Vec<_> = partitions.iter().zip(offsets).collect();
    let numbered = places.chunk_by(|a, b| a == b).zip(0..);
    numbered.flat_map(|(rows, number)| rows.iter().map(move |_| number)).collect()
}

/// The declared column's, or Kafka's timestamp.
pub fn event_times(topic: &Topic, rows: &RecordBatch) -> Vec<EventTime> {
    let index = topic.event_time.unwrap_or(rows.num_columns() - 1);
    let times = rows.column(index).as_primitive::<TimestampMicrosecondType>();
    times.values().iter().map(|t| EventTime(*t)).collect()
}
