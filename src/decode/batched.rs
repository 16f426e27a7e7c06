//! Records that are several rows, as rows of their own and back: arrays of CloudEvents, messages of
//! Canal's.
//!
//! Owns: which records fall apart into which, and that a record's rows stand or fall together (D-4).
//! Does not own: what a row says (`rows` and a file per format).
//!
//! Each row is decoded as a record of one row at the same offset would be.

use super::{
    Decoded, Reject, RejectClass,
    change::not_json,
    fields::RECORD_BYTES_MAX,
    layers::Layers,
    scan::{elements, members, there},
};
use crate::{catalog::Format, record::RawRecord};
use arrow::{array::BooleanArray, compute::filter_record_batch};
use std::borrow::Cow;

/// Rows of one record; who needs more sends more records.
pub const ROWS_MAX: usize = 10_000;

/// Records as they are decoded.
#[derive(Default)]
struct Apart<'a> {
    /// Of each row: its record, and the record of one row that it is.
    values: Vec<(usize, Cow<'a, [u8]>)>,
    /// Not taken apart: they are no arrays, or not of the format at all, which decoding tells.
    whole: Vec<usize>,
    refused: Vec<Reject>,
    empty: Vec<usize>,
}

pub fn decode(format: Format, records: &[RawRecord<'_>], layers: &mut Layers) -> Decoded {
    let mut apart = Apart::default();
    for (index, record) in records.iter().enumerate() {
        let text = record.value.filter(|value| value.len() <= RECORD_BYTES_MAX);
        match text.and_then(|value| std::str::from_utf8(value).ok()) {
            Some(text) => apart.take(index, text, format),
            None => apart.whole.push(index),
        }
    }
    apart.decode(records, layers)
}

impl<'a> Apart<'a> {
    fn take(&mut self, index: usize, text: &'a str, format: Format) {
        let rows = match format {
            Format::CloudEvents => events(text),
            Format::Canal => messages(text),
            _ => unreachable!("the catalog admits `batched` of these alone"),
        };
        match rows {
            Ok(None) => self.whole.push(index),
            Ok(Some(rows)) if rows.is_empty() => self.empty.push(index),
            Ok(Some(rows)) if rows.len() > ROWS_MAX => {
                let reason = format!("{} rows in a record; at most {ROWS_MAX}", rows.len());
                self.refuse(index, reason);
            }
            Ok(Some(rows)) => self.values.extend(rows.into_iter().map(|row| (index, row))),
            Err(reason) => self.refuse(index, reason),
        }
    }

    fn refuse(&mut self, record: usize, reason: String) {
        self.refused.push(Reject { record, class: RejectClass::Malformed, column: None, reason });
    }

    fn decode(self, records: &[RawRecord<'_>], layers: &mut Layers) -> Decoded {
        // In order: those taken apart, and those that were not.
        let mut single: Vec<(usize, RawRecord<'_>)> = self
            .values
            .iter()
            .map(|(index, value)| (*index, RawRecord { value: Some(value), ..records[*index] }))
            .chain(self.whole.iter().map(|index| (*index, records[*index])))
            .collect();
        single.sort_by_key(|(index, _)| *index);
        let (of, rows): (Vec<usize>, Vec<_>) = single.into_iter().unzip();
        let mut decoded = layers.decode(&rows);
        // Row by row: the record it was.
        let mut lacking = vec![false; of.len()];
        decoded.rejects.iter().for_each(|reject| lacking[reject.record] = true);
        decoded.empty.iter().for_each(|row| lacking[*row] = true);
        let mut several: Vec<u32> =
            (0..of.len()).filter(|row| !lacking[*row]).map(|row| of[row] as u32).collect();

        for reject in &mut decoded.rejects {
            reject.record = of[reject.record];
        }
        decoded.rejects.dedup_by_key(|reject| reject.record);
        let is_refused = |record: u32| {
            decoded.rejects.binary_search_by_key(&(record as usize), |r| r.record).is_ok()
        };
        let good: Vec<bool> = several.iter().map(|record| !is_refused(*record)).collect();
        if good.contains(&false) {
            let mut kept = good.iter();
            decoded.event_times.retain(|_| *kept.next().expect("as many"));
            let mut kept = good.iter();
            several.retain(|_| *kept.next().expect("as many"));
            let mask = BooleanArray::from(good);
            let rows = filter_record_batch(&decoded.rows, &mask);
            decoded.rows = rows.expect("a mask as long as the rows");
            if let Some(before) = decoded.before.take() {
                decoded.before = Some(before.kept(&mask));
            }
        }
        // A record of which some rows say nothing is not empty.
        let says_nothing = |record: &usize| {
            several.binary_search(&(*record as u32)).is_err()
                && decoded.rejects.binary_search_by_key(record, |r| r.record).is_err()
        };
        let mut empty: Vec<usize> = decoded.empty.iter().map(|row| of[*row]).collect();
        empty.dedup();
        empty.retain(says_nothing);
        empty.extend(self.empty);
        empty.sort_unstable();
        decoded.empty = empty;
        decoded.rejects.extend(self.refused);
        decoded.rejects.sort_by_key(|reject| reject.record);
        decoded.met.iter_mut().for_each(|met| met.record = of[met.record]);
        decoded.untold = decoded.untold.map(|row| of[row]);
        decoded.several = Some(several);
        decoded
    }
}

/// The events of an array; None: it is none.
fn events(text: &str) -> Result<Option<Vec<Cow<'_, [u8]>>>, String> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let mut events = Vec::new();
    let broken = elements(text, |event| events.push(Cow::Borrowed(event.as_bytes())));
    broken.map_err(|broken| format!("not an array: byte {}: {}", broken.at, broken.why))?;
    Ok(Some(events))
}

/// Messages of one row each; None: it is of one row, or of none.
fn messages(text: &str) -> Result<Option<Vec<Cow<'_, [u8]>>>, String> {
    let (mut data, mut old, mut others) = (None, None, String::from("{"));
    let read = |name: &str, raw| match name {
        "data" => data = Some(raw),
        "old" => old = Some(raw),
        "type" | "database" | "table" | "es" | "isDdl" | "_tidb" => {
            others.push('"');
            others.push_str(name);
            others.push_str("\":");
            others.push_str(raw);
            others.push(',');
        }
        _ => {}
    };
    members(text, read).map_err(|broken| not_json("value", broken))?;
    let rows = listed(data, "data")?;
    if rows.len() < 2 {
        return Ok(None);
    }
    let old = listed(old, "old")?;
    if !old.is_empty() && old.len() != rows.len() {
        return Err(format!("{} rows in `data` and {} in `old`", rows.len(), old.len()));
    }
    let message = |(nth, row): (usize, &&str)| {
        let old = old.get(nth).copied().unwrap_or("null");
        let old = if old == "null" { "null".to_owned() } else { format!("[{old}]") };
        Cow::Owned(format!("{others}\"data\":[{row}],\"old\":{old}}}").into_bytes())
    };
    Ok(Some(rows.iter().enumerate().map(message).collect()))
}

/// The elements of an array; of what is not there or null none.
fn listed<'a>(raw: Option<&'a str>, name: &str) -> Result<Vec<&'a str>, String> {
    let mut rows = Vec::new();
    let Some(raw) = raw.and_then(there) else { return Ok(rows) };
    elements(raw, |row| rows.push(row)).map_err(|broken| {
        format!("`{name}` is not an array: its byte {}: {}", broken.at, broken.why)
    })?;
    Ok(rows)
}
