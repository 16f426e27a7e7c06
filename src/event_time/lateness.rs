//! How far a partition's event time has come, and which records come after their window was final.

use super::Windows;
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

    /// Whether a window that ends at `end_us` takes nothing more: the watermark has come to its
    /// end and the lateness that the model allows. Before the first record no window is final.
    pub fn is_final(&self, end_us: i64, allowed_lateness_us: i64) -> bool {
        let closes = end_us.saturating_add(allowed_lateness_us);
        self.value().is_some_and(|watermark| closes <= watermark.0)
    }
}

/// What became final before a record came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    InTime,
    /// Windows that begin before this one of those that take it.
    From(EventTime),
    /// Every window that takes it.
    Late,
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

    /// Judges each record, in offset order, and lets it raise the watermark; a late one raises
    /// nothing, as it is behind it. `times` are those of the rows from `first` on; verdicts go by
    /// row, and those at the end that are missing are in time: mostly there are none.
    pub fn judge(
        &mut self,
        times: &[EventTime],
        windows: &mut Windows,
        allowed_lateness_us: i64,
        first: usize,
        verdicts: &mut Vec<Verdict>,
    ) {
        for (row, t) in times.iter().enumerate() {
            let (first_end, last_end) = windows.ends(t.0);
            if self.watermark.is_final(first_end, allowed_lateness_us) {
                let is_final = |end| self.watermark.is_final(end, allowed_lateness_us);
                verdicts.resize(first + row, Verdict::InTime);
                verdicts.push(match is_final(last_end) {
                    true => Verdict::Late,
                    false => Verdict::From(EventTime(windows.first_open(t.0, is_final))),
                });
            }
            self.watermark.observe(*t);
        }
    }

    /// A record that is not judged (no windows, or left out by WHERE) still raises the watermark.
    pub fn observe(&mut self, t: EventTime) {
        self.watermark.observe(t);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Grid, Shape};
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

    fn tumbling(size_us: u64) -> Windows {
        Windows::new(&Shape::Tumble(Grid::Fixed(Duration::from_micros(size_us))))
    }

    fn judged(
        judge: &mut Lateness,
        times: &[i64],
        windows: &mut Windows,
        allowed: i64,
    ) -> Vec<Verdict> {
        let times: Vec<_> = times.iter().copied().map(EventTime).collect();
        let mut verdicts = Vec::new();
        judge.judge(&times, windows, allowed, 0, &mut verdicts);
        verdicts.resize(times.len(), Verdict::InTime);
        verdicts
    }

    #[test]
    fn a_record_is_late_from_the_instant_its_window_and_the_allowance_have_passed() {
        // Windows of 10, disorder 2, allowed lateness 5: [0, 10) is final at an event time of 17.
        for (max, verdict) in [
            (None, Verdict::InTime),
            (Some(16), Verdict::InTime),
            (Some(17), Verdict::Late),
            (Some(99), Verdict::Late),
        ] {
            let verdicts = judged(&mut lateness(max, 2), &[9], &mut tumbling(10), 5);
            assert_eq!(verdicts, [verdict], "max={max:?}");
        }
    }

    #[test]
    fn a_record_far_ahead_is_not_late_by_its_own_doing() {
        let verdicts =
            judged(&mut lateness(Some(0), 0), &[1_000_000, 5, 1_000_000], &mut tumbling(10), 0);
        assert_eq!(verdicts, [Verdict::InTime, Verdict::Late, Verdict::InTime]);
    }

    #[test]
    fn the_first_record_of_a_partition_is_never_late() {
        let verdicts = judged(&mut lateness(None, 0), &[i64::MIN], &mut tumbling(10), 0);
        assert_eq!(verdicts, [Verdict::InTime]);
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
            let slow: Vec<Verdict> = (0..times.len()).map(|i| {
                let end = times[i].div_euclid(size) * size + size;
                let seen = start.iter().chain(&times[..i]).max();
                match seen.is_some_and(|max| end + allowed <= max - disorder as i64) {
                    true => Verdict::Late,
                    false => Verdict::InTime,
                }
            }).collect();

            let mut windows = tumbling(size as u64);
            let mut one = lateness(start, disorder);
            let singly = times.iter().flat_map(|t| judged(&mut one, &[*t], &mut windows, allowed));
            prop_assert_eq!(&singly.collect::<Vec<_>>(), &slow);

            let times: Vec<_> = times.into_iter().map(EventTime).collect();
            let mut borders: Vec<_> = borders.into_iter().map(|b| b.min(times.len())).collect();
            borders.extend([0, times.len()]);
            borders.sort_unstable();
            let (mut many, mut verdicts) = (lateness(start, disorder), Vec::new());
            for pair in borders.windows(2) {
                many.judge(&times[pair[0]..pair[1]], &mut windows, allowed, pair[0], &mut verdicts);
            }
            verdicts.resize(times.len(), Verdict::InTime);
            prop_assert_eq!(verdicts, slow);
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
