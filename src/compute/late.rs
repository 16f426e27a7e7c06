//! Rows that came after their window was final, and how that is told.
//!
//! Owns: the sentence. Does not own: who is late (`event_time`), what becomes of it (the model).

use super::plan::Failures;
use crate::record::quantity::show_duration;
use std::time::Duration;

/// What a model's `judge` found.
#[derive(Default)]
pub(super) struct LateRows {
    /// Of each row of the batch; empty: none is late.
    pub late: Vec<bool>,
    /// Why, of the late ones, ascending; only where the model refuses them.
    pub reasons: Failures,
}

/// A sentence for `highwater.dead_letters.reason`.
pub(super) fn late_reason((start, end, overdue_us): (i64, i64, i64), allowed_us: i64) -> String {
    let instant = |us: i64| {
        chrono::DateTime::from_timestamp_micros(us)
            .map_or_else(|| format!("{us} us"), |t| t.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string())
    };
    let length = |us: i64| show_duration(Duration::from_micros(us.max(0) as u64));
    let watermark = end.saturating_add(allowed_us).saturating_add(overdue_us);
    format!(
        "late by {}: its window from {} to {} became final {} after its end, and the partition's \
         watermark was at {} when the record came",
        length(overdue_us),
        instant(start),
        instant(end),
        length(allowed_us),
        instant(watermark),
    )
}
