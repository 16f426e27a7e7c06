//! Rows of which a window was final before they came, and how that is told.
//!
//! Owns: verdicts by row, the sentence of a refusal. Does not own: who is late (`event_time`), what
//! becomes of it (the model).

use super::plan::Failures;
use crate::{
    event_time::{Lateness, Verdict, Windows},
    record::{EventTime, quantity::show_duration},
};
use std::{ops::Range, time::Duration};

/// What was final before each row of a batch came.
#[derive(Default)]
pub(super) struct Verdicts {
    /// By row; empty: nothing of any.
    pub of_rows: Vec<Verdict>,
    /// Why, of the late ones, ascending; only where the model refuses them.
    reasons: Failures,
}

impl Verdicts {
    pub fn judge(
        &mut self,
        lateness: &mut Lateness,
        times: &[EventTime],
        windows: &mut Windows,
        allowed_us: i64,
        first: usize,
    ) {
        lateness.judge(times, windows, allowed_us, first, &mut self.of_rows);
    }

    /// Makes the sentences of these rows, which were judged last; `lateness` as it was before them.
    pub fn tell(
        &mut self,
        mut lateness: Lateness,
        times: &[EventTime],
        windows: &mut Windows,
        allowed_us: i64,
        rows: Range<usize>,
    ) {
        if self.of_rows.len() <= rows.start {
            return;
        }
        for row in rows {
            if self.of_rows.get(row) == Some(&Verdict::Late) {
                let (_, end) = windows.ends(times[row].0);
                let watermark = lateness.watermark.value().map_or(i64::MAX, |t| t.0);
                self.reasons.push((row, sentence(end, allowed_us, watermark)));
            }
            lateness.observe(times[row]);
        }
    }

    /// So that there is one for each row, or none at all.
    pub fn fill(&mut self, rows: usize) {
        if !self.of_rows.is_empty() {
            self.of_rows.resize(rows, Verdict::InTime);
        }
    }

    /// Of a late row.
    pub fn reason(&self, row: usize) -> (usize, String) {
        let at = self.reasons.partition_point(|(other, _)| *other < row);
        self.reasons[at].clone()
    }
}

/// For `highwater.dead_letters.reason`.
fn sentence(end: i64, allowed_us: i64, watermark: i64) -> String {
    let instant = |us: i64| {
        chrono::DateTime::from_timestamp_micros(us)
            .map_or_else(|| format!("{us} us"), |t| t.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string())
    };
    let length = |us: i64| show_duration(Duration::from_micros(us.max(0) as u64));
    let overdue = watermark.saturating_sub(end.saturating_add(allowed_us));
    format!(
        "late by {}: its window ended at {} and was final {} later, and the partition's watermark was \
         at {} when the record came",
        length(overdue),
        instant(end),
        length(allowed_us),
        instant(watermark),
    )
}
