//! What a change has beside its row: the columns `_op` and its neighbours, the row before.
//!
//! Owns: their arrays. Does not own: what a record says (a file per format), what becomes of an
//! operation (`compute`).

use super::{Before, convert::instants, rejects::Rejects, rows::Read};
use crate::record::{EventTime, RawRecord};
use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray},
    compute::filter,
    util::display::{ArrayFormatter, FormatOptions},
};
use std::sync::Arc;

/// The time of a change at its source; otherwise Kafka's timestamp.
pub fn source_time(records: &[RawRecord<'_>], read: &Read<'_>, row: usize) -> EventTime {
    let change = read.changes.get(row).and_then(Option::as_ref);
    change.and_then(|change| change.source_time).map_or(records[row].timestamp, EventTime)
}

/// The columns of [`crate::catalog::topic::CHANGE_COLUMNS`], each as long as the batch.
pub fn change_columns(
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
    let snapshots = changes().map(|change| Some(change?.snapshot?.as_str()));
    let times = (0..records.len()).map(|row| source_time(records, read, row).0);
    vec![
        Arc::new(StringArray::from_iter_values(operations)),
        Arc::new(images),
        Arc::new(read.unchanged.iter().map(Option::as_deref).collect::<StringArray>()),
        Arc::new(StringArray::from_iter_values(positions)),
        instants(times),
        Arc::new(snapshots.collect::<StringArray>()),
    ]
}

impl Before {
    /// Of the rows that stay.
    pub fn filtered(self, rejects: &Rejects) -> Self {
        if !rejects.any() {
            return self;
        }
        self.kept(&rejects.bad().iter().map(|bad| Some(!bad)).collect())
    }

    pub fn kept(self, good: &BooleanArray) -> Self {
        let keep = |array: &dyn Array| filter(array, good).expect("a mask as long as the column");
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
