//! How far a partition's event time has come, and which records come after their window was final.

use super::window::bounds;
use crate::record::EventTime;
use std::time::Duration;

/// Of one partition: the highest event time seen, less the disorder that the topic allows
/// (Flink's bounded out-of-orderness). Only ever rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    max: Option<EventTime>,
    disorder_us: i64,
}

impl Watermark {
    /// `max` is the mark's `event_time_max`; None where nothing was seen yet.
    pub fn new(max: Option<EventTime>, max_disorder: Duration) -> Self {
        let disorder_us = i64::try_from(max_disorder.as_micros()).unwrap_or(i64::MAX);
        Self { max, disorder_us }
    }

    pub fn observe(&mut self, t: EventTime) {
        self.max = self.max.max(Some(t));
    }

    /// The highest event time seen: what the mark keeps.
    pub fn max(&self) -> Option<EventTime> {
        self.max
    }

    /// No record before this is expected any more. None before the first record.
    pub fn value(&self) -> Option<EventTime> {
        self.max.map(|max| EventTime(max.0.saturating_sub(self.disorder_us)))
    }

    /// How far the watermark was behind the end of the window that holds `t`, the allowed lateness
    /// included: the window's bounds and that distance, all in microseconds. None: not final.
    pub fn overdue(
        &self,
        t: EventTime,
        size_us: i64,
        allowed_lateness_us: i64,
    ) -> Option<(i64, i64, i64)> {
        let (start, end) = bounds(t.0, size_us);
        let closed = end.saturating_add(allowed_lateness_us);
        let watermark = self.value()?.0;
        (closed <= watermark).then(|| (start, end, watermark.saturating_sub(closed)))
    }

    /// Whether a window that ends at `end_us` takes nothing more: the watermark has come to its
    /// end and the lateness that the model allows. Before the first record no window is final.
    pub fn is_final(&self, end_us: i64, allowed_lateness_us: i64) -> bool {
        let closes = end_us.saturating_add(allowed_lateness_us);
        self.value().is_some_and(|watermark| closes <= watermark.0)
    }
}

/// The judge of one output in one partition. Records are given in offset order, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lateness {
    pub watermark: Watermark,
}

impl Lateness {
    /// From `Mark::event_time_max` and `Topic::max_disorder`.
    pub fn new(event_time_max: Option<EventTime>, max_disorder: Duration) -> Self {
        Self { watermark: Watermark::new(event_time_max, max_disorder) }
    }

    /// Whether the record's tumbling window was final before it came; then lets it raise the
    /// watermark. A late record raises nothing, as it is behind the watermark.
    pub fn late(&mut self, t: EventTime, size_us: i64, allowed_lateness_us: i64) -> bool {
        let (_, end) = bounds(t.0, size_us);
        let late = self.watermark.is_final(end, allowed_lateness_us);
        self.watermark.observe(t);
        late
    }

    /// [`Self::late`] of each, in offset order; the answers are appended to `late`. Returns how
    /// many are late.
    pub fn judge(
        &mut self,
        times: &[EventTime],
        size_us: i64,
        allowed_lateness_us: i64,
        late: &mut Vec<bool>,
    ) -> usize {
        late.reserve(times.len());
        let mut count = 0;
        let (mut start, mut end) = (i64::MAX, i64::MIN);
        for &t in times {
            if t.0 < start || t.0 >= end {
                (start, end) = bounds(t.0, size_us);
            }
            let is_late = self.watermark.is_final(end, allowed_lateness_us);
            self.watermark.observe(t);
            late.push(is_late);
            count += usize::from(is_late);
        }
        count
    }

    /// A record that is not judged (no windows, or left out by WHERE) still raises the watermark.
    pub fn observe(&mut self, t: EventTime) {
        self.watermark.observe(t);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lateness(max: Option<i64>, disorder_us: u64) -> Lateness {
        Lateness::new(max.map(EventTime), Duration::from_micros(disorder_us))
    }

    #[test]
    fn the_watermark_is_the_highest_event_time_less_the_disorder() {
        let mut watermark = Watermark::new(None, Duration::from_micros(5));
        assert_eq!(watermark.value(), None);
        for (seen, value) in [(10, 5), (7, 5), (11, 6), (-100, 6)] {
            watermark.observe(EventTime(seen));
            assert_eq!(watermark.value(), Some(EventTime(value)), "after {seen}");
        }
        assert_eq!(watermark.max(), Some(EventTime(11)));
    }

    #[test]
    fn a_disorder_of_ages_does_not_wrap_the_watermark() {
        let watermark = Watermark::new(Some(EventTime(-9)), Duration::MAX);
        assert_eq!(watermark.value(), Some(EventTime(i64::MIN)));
    }

    #[test]
    fn a_record_is_late_from_the_instant_its_window_and_the_allowance_have_passed() {
        // Windows of 10, disorder 2, allowed lateness 5: [0, 10) is final at an event time of 17.
        for (max, late) in [(None, false), (Some(16), false), (Some(17), true), (Some(99), true)] {
            assert_eq!(lateness(max, 2).late(EventTime(9), 10, 5), late, "max={max:?}");
        }
    }

    #[test]
    fn a_record_far_ahead_is_not_late_by_its_own_doing() {
        let mut judge = lateness(Some(0), 0);
        assert!(!judge.late(EventTime(1_000_000), 10, 0));
        assert!(judge.late(EventTime(5), 10, 0));
        assert!(!judge.late(EventTime(1_000_000), 10, 0));
    }

    #[test]
    fn the_first_record_of_a_partition_is_never_late() {
        assert!(!lateness(None, 0).late(EventTime(i64::MIN), 10, 0));
    }

    proptest! {
        /// E-1, E-2: the oracle looks at every earlier record again.
        #[test]
        fn a_judgement_depends_on_earlier_records_only_and_on_no_batch_border(
            start in prop::option::of(-60i64..60),
            times in prop::collection::vec(-100i64..100, 0..80),
            borders in prop::collection::vec(0usize..80, 0..6),
            size in 1i64..30, allowed in 0i64..30, disorder in 0u64..30,
        ) {
            let slow: Vec<bool> = (0..times.len()).map(|i| {
                let end = times[i].div_euclid(size) * size + size;
                let seen = start.iter().chain(&times[..i]).max();
                seen.is_some_and(|max| end + allowed <= max - disorder as i64)
            }).collect();

            let times: Vec<_> = times.into_iter().map(EventTime).collect();
            let mut one = lateness(start, disorder);
            let singly: Vec<bool> = times.iter().map(|t| one.late(*t, size, allowed)).collect();
            prop_assert_eq!(&singly, &slow);

            let mut borders: Vec<_> = borders.into_iter().map(|b| b.min(times.len())).collect();
            borders.extend([0, times.len()]);
            borders.sort_unstable();
            let (mut many, mut late, mut count) = (lateness(start, disorder), Vec::new(), 0);
            for pair in borders.windows(2) {
                count += many.judge(&times[pair[0]..pair[1]], size, allowed, &mut late);
            }
            prop_assert_eq!(&late, &slow);
            prop_assert_eq!(count, slow.iter().filter(|late| **late).count());
            prop_assert_eq!(many, one);
        }

        /// E-3.
        #[test]
        fn a_watermark_never_goes_back(times in prop::collection::vec(any::<i64>(), 0..40)) {
            let mut watermark = Watermark::new(None, Duration::from_secs(90));
            for t in times {
                let before = watermark.value();
                watermark.observe(EventTime(t));
                prop_assert!(watermark.value() >= before);
            }
        }
    }
}
