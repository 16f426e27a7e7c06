//! Tumbling windows: `[start, start + size)`, aligned to 1970-01-01 UTC, floor for times before.

use crate::record::EventTime;

/// Start of the window that holds `t`. `size_us` is at least 1.
///
/// Windows of a day or longer begin at midnight UTC, whatever the lake's time zone; windows of a
/// week begin on a Thursday, as 1970-01-01 was one.
pub fn window_start(t: EventTime, size_us: i64) -> EventTime {
    EventTime(bounds(t.0, size_us).0)
}

/// [`window_start`] of each. Neighbours in a partition mostly share a window, so a row costs two
/// comparisons and a division only where the window changes.
pub fn window_starts(times: &[EventTime], size_us: i64) -> Vec<i64> {
    // An empty window: the first row cannot be in it.
    let (mut start, mut end) = (i64::MAX, i64::MIN);
    let start_of = |t: &EventTime| {
        if t.0 < start || t.0 >= end {
            (start, end) = bounds(t.0, size_us);
        }
        start
    };
    times.iter().map(start_of).collect()
}

/// Start and end of the window that holds `t`, clamped to what 64 bits can say.
pub(super) fn bounds(t: i64, size_us: i64) -> (i64, i64) {
    assert!(size_us > 0, "a window has a size, size_us={size_us}");
    let since_start = t.rem_euclid(size_us);
    (t.saturating_sub(since_start), t.saturating_add(size_us - since_start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_window_starts_at_or_before_its_instants_also_before_1970() {
        for (t, size, start) in [
            (0, 10, 0),
            (9, 10, 0),
            (10, 10, 10),
            (-1, 10, -10),
            (-10, 10, -10),
            (-11, 10, -20),
            (7, 1, 7),
            (1_709_280_299_999_999, 300_000_000, 1_709_280_000_000_000),
            (1_709_280_300_000_000, 300_000_000, 1_709_280_300_000_000),
            (i64::MAX, 1_000, 9_223_372_036_854_775_000),
            (i64::MIN, 1_000, i64::MIN),
        ] {
            assert_eq!(window_start(EventTime(t), size).0, start, "t={t} size={size}");
        }
    }

    #[test]
    #[should_panic(expected = "size_us=0")]
    fn a_window_without_a_size_is_a_mistake_of_the_caller() {
        window_start(EventTime(1), 0);
    }

    proptest! {
        #[test]
        fn many_starts_are_the_starts_of_each(
            times in prop::collection::vec(prop_oneof![-50i64..50, any::<i64>()], 0..60),
            size in prop_oneof![1i64..40, 1i64..=i64::MAX],
        ) {
            let times: Vec<_> = times.into_iter().map(EventTime).collect();
            let slow: Vec<i64> = times
                .iter()
                .map(|t| {
                    let start = i128::from(t.0).div_euclid(i128::from(size)) * i128::from(size);
                    start.max(i128::from(i64::MIN)) as i64
                })
                .collect();
            prop_assert_eq!(window_starts(&times, size), slow);
        }
    }
}
