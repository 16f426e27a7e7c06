//! Stops a topic whose records are refused too often: rather a topic that stands, and a person
//! who looks, than a table that is quietly wrong.

use super::worker::Arrival;
use crate::{
    catalog::Topic,
    decode::Reject,
    record::{Offset, Partition, RawRecord},
};
use std::collections::{BTreeMap, VecDeque};

/// Records that the share is taken of.
const WINDOW: u64 = 10_000;

/// Counts rejects among the last [`WINDOW`] records, each record once however often it is read.
pub struct Breaker {
    /// More rejects than this break.
    limit: u64,
    seen: u64,
    /// Below these it has counted.
    counted: BTreeMap<Partition, Offset>,
    /// Numbers of the rejected records within the window.
    rejects: VecDeque<u64>,
}

impl Breaker {
    /// `share` from 0 to 1; 1 never breaks.
    pub fn new(share: f64) -> Self {
        let limit = (share * WINDOW as f64) as u64;
        Self { limit, seen: 0, counted: BTreeMap::new(), rejects: VecDeque::new() }
    }

    /// Adds a batch that was read; `rejects` are indexes in it, ascending. Gives the one at which to
    /// stop: it and what comes after it are not counted.
    pub fn read(&mut self, records: &[RawRecord<'_>], rejects: &[Reject]) -> Option<usize> {
        let arrivals = Arrival::of(records);
        let counted = |p: Partition| self.counted.get(&p).copied().unwrap_or_default();
        // A lane that was set back reads again what the other has.
        if arrivals.iter().all(|a| a.next <= counted(a.partition)) {
            return None;
        }
        let fresh: Vec<usize> = rejects
            .iter()
            .map(|reject| reject.record)
            .filter(|&at| records[at].offset >= counted(records[at].partition).0)
            .collect();
        for arrival in arrivals {
            let counted = self.counted.entry(arrival.partition).or_default();
            *counted = arrival.next.max(*counted);
        }
        self.add(records.len(), fresh.into_iter())
    }

    fn add(&mut self, records: usize, rejects: impl Iterator<Item = usize>) -> Option<usize> {
        for index in rejects {
            let number = self.seen + index as u64;
            self.rejects.push_back(number);
            while self.rejects.front().is_some_and(|first| first + WINDOW <= number) {
                self.rejects.pop_front();
            }
            if self.rejects.len() as u64 > self.limit {
                self.rejects.pop_back();
                self.seen = number;
                return Some(index);
            }
        }
        self.seen += records as u64;
        None
    }
}

/// Why a topic stops before the reject of this record.
pub fn sentence(topic: &Topic, records: &[RawRecord<'_>], rejects: &[Reject], at: usize) -> String {
    let share = topic.stop_above.unwrap_or(1.0) * 100.0;
    let last = rejects.iter().find(|reject| reject.record == at).map(|reject| {
        let record = &records[reject.record];
        let column = reject.column.as_deref().map(|c| format!(" column {c}:")).unwrap_or_default();
        format!(
            "; it stands before {}/{}@{}:{column} {}",
            topic.kafka_topic, record.partition.0, record.offset, reject.reason
        )
    });
    format!(
        "more than {share} % of the last 10,000 records were refused{}. Mend the topic file or the \
         producer (or raise stop_above) and start again; those before it are in `highwater dead-letters list`",
        last.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode::RejectClass, record::EventTime};

    #[test]
    fn it_breaks_above_the_share_and_not_at_it() {
        let mut breaker = Breaker::new(0.01);
        assert_eq!(breaker.add(1000, 0..100), None, "100 of 10,000 is the limit itself");
        assert_eq!(breaker.add(1, 0..1), Some(0));
    }

    #[test]
    fn old_rejects_are_forgotten() {
        let mut breaker = Breaker::new(0.01);
        assert_eq!(breaker.add(10_000, 0..100), None);
        assert_eq!(breaker.add(100, 0..100), None, "each new one pushes an old one out");
        assert_eq!(breaker.add(1, 0..1), Some(0), "101 within the last 10,000");
    }

    #[test]
    fn a_share_of_one_never_breaks() {
        let mut breaker = Breaker::new(1.0);
        assert_eq!(breaker.add(50_000, 0..50_000), None);
    }

    #[test]
    fn a_record_that_is_read_again_counts_once() {
        let mut breaker = Breaker::new(0.01);
        let read = |breaker: &mut Breaker, offsets: std::ops::Range<i64>| {
            let record = |offset| RawRecord {
                partition: Partition(0),
                offset,
                timestamp: EventTime(0),
                key: None,
                value: None,
            };
            let reject = |record| Reject {
                record,
                class: RejectClass::Malformed,
                column: None,
                reason: "not JSON".into(),
            };
            let rejects: Vec<_> = offsets.clone().enumerate().map(|(n, _)| reject(n)).collect();
            breaker.read(&offsets.map(record).collect::<Vec<_>>(), &rejects)
        };
        assert_eq!(read(&mut breaker, 0..60), None);
        assert_eq!(read(&mut breaker, 0..60), None);
        assert_eq!(read(&mut breaker, 40..100), None, "a hundred are the limit itself");
        assert_eq!(read(&mut breaker, 90..102), Some(10), "the one at offset 100");
    }

    #[test]
    fn it_says_at_which_record_it_breaks() {
        let mut breaker = Breaker::new(0.01);
        let rejects = (0..300).map(|n| n * 3);
        assert_eq!(
            breaker.add(1000, rejects),
            Some(300),
            "the hundred before are within the limit"
        );
    }
}
