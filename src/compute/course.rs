//! How a batch's event times rise, partition by partition: what stood before a refused record.
//!
//! Owns: the highest event time of a batch's good rows below an offset. Does not own: what was seen
//! in earlier batches (`Lateness`). Worked out only when it is asked for: most batches refuse nothing.

use super::{offsets, runs::Run};
use crate::{
    decode::Decoded,
    record::{EventTime, Offset, Partition},
};
use std::collections::BTreeMap;

pub(super) struct Courses<'a> {
    decoded: &'a Decoded,
    runs: &'a [Run],
    courses: Option<BTreeMap<Partition, Course>>,
}

/// Of one partition, in offset order.
#[derive(Default)]
struct Course {
    offsets: Vec<i64>,
    times: Vec<EventTime>,
    /// The highest of `times` up to and with each.
    highest: Vec<EventTime>,
}

impl<'a> Courses<'a> {
    pub fn new(decoded: &'a Decoded, runs: &'a [Run]) -> Self {
        Self { decoded, runs, courses: None }
    }

    /// The highest event time of the rows at offsets `from` to `to` (not included).
    pub fn highest(&mut self, partition: Partition, from: Offset, to: i64) -> Option<EventTime> {
        let (decoded, runs) = (self.decoded, self.runs);
        let courses = self.courses.get_or_insert_with(|| courses(decoded, runs));
        let course = courses.get(&partition)?;
        let begin = course.offsets.partition_point(|offset| *offset < from.0);
        let end = course.offsets.partition_point(|offset| *offset < to);
        match begin {
            // The usual case: the output takes the whole batch.
            0 => end.checked_sub(1).map(|last| course.highest[last]),
            _ => course.times.get(begin..end)?.iter().max().copied(),
        }
    }
}

fn courses(decoded: &Decoded, runs: &[Run]) -> BTreeMap<Partition, Course> {
    let mut courses: BTreeMap<Partition, Course> = BTreeMap::new();
    for run in runs {
        let course = courses.entry(run.partition).or_default();
        let times = &decoded.event_times[run.rows.clone()];
        for (offset, time) in offsets(&decoded.rows)[run.rows.clone()].iter().zip(times) {
            let highest = course.highest.last().copied().max(Some(*time)).unwrap_or(*time);
            course.offsets.push(*offset);
            course.times.push(*time);
            course.highest.push(highest);
        }
    }
    courses
}
