//! Rows of the lake as verify gives them to a model: chosen, and some at a time.

use crate::{
    compute::places,
    error::{Error, Result},
};
use arrow::{
    array::{BooleanArray, RecordBatch},
    compute::filter_record_batch,
};

/// Rows given to a model at a time.
const ROWS: usize = 8_192;

pub fn only(rows: &RecordBatch, mask: &BooleanArray) -> Result<RecordBatch> {
    filter_record_batch(rows, mask).map_err(|e| Error::halt("filter rows of the lake").because(e))
}

/// Neighbouring rows, about so many at a time, and those of a record together.
pub fn pieces(rows: &RecordBatch) -> Vec<RecordBatch> {
    let (partitions, offsets) = places(rows);
    let place = |row: usize| (partitions[row], offsets[row]);
    let (mut pieces, mut start) = (Vec::new(), 0);
    while start < rows.num_rows() {
        let mut end = (start + ROWS).min(rows.num_rows());
        while end < rows.num_rows() && place(end) == place(end - 1) {
            end += 1;
        }
        pieces.push(rows.slice(start, end - start));
        start = end;
    }
    pieces
}
