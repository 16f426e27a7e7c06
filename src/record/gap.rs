//! Offsets that are gone: a mark held against what Kafka says of the partition now.
//!
//! Owns: what a gap is, its reason, the sentence that tells it. Does not own: what follows (the
//! partition stops in `pipeline::worker`; `warehouse::gaps` records what a person accepted).
//!
//! G-1  A mark is gone when Kafka's topic is another one, begins above the mark, or ends below it.
//!      In this order: offsets of another topic say nothing.

use super::{Offset, Output, Partition};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use std::fmt;

/// Kafka's id of a topic (KIP-516): a topic that is deleted and made again gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(u128);

impl TopicId {
    /// None for the zero id, by which brokers say that they have none.
    pub fn new(high: i64, low: i64) -> Option<Self> {
        let id = (u128::from(high as u64) << 64) | u128::from(low as u64);
        (id != 0).then_some(Self(id))
    }

    /// The inverse of `Display`.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 16] = BASE64.decode(text).ok()?.try_into().ok()?;
        Some(Self(u128::from_be_bytes(bytes)))
    }
}

impl fmt::Display for TopicId {
    /// As Kafka's own tools print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0.to_be_bytes()))
    }
}

/// What Kafka says of a partition now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionLog {
    /// None: the broker has no ids (before 2.8), so that a new topic shows by its offsets alone.
    pub topic_id: Option<TopicId>,
    pub oldest: Offset,
    pub end: Offset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Kafka's oldest offset is above the mark.
    Retention,
    /// The topic was deleted and made again.
    Recreated,
    /// The log ends below the mark, under the same id: a restored broker, an unclean election.
    Truncated,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Recreated => "recreated",
            Self::Truncated => "truncated",
        }
    }

    /// Offsets begin anew: what comes is of another generation.
    pub fn ends_generation(self) -> bool {
        match self {
            Self::Retention => false,
            Self::Recreated | Self::Truncated => true,
        }
    }
}

/// G-1. None: the mark can go on.
pub fn judge(next: Offset, topic_id: Option<TopicId>, log: &PartitionLog) -> Option<Reason> {
    if let (Some(ours), Some(theirs)) = (topic_id, log.topic_id)
        && ours != theirs
    {
        return Some(Reason::Recreated);
    }
    if next < log.oldest {
        return Some(Reason::Retention);
    }
    (next > log.end).then_some(Reason::Truncated)
}

/// One output's mark in one partition that cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub output: Output,
    pub partition: Partition,
    pub reason: Reason,
    /// Where the mark stands.
    pub next: Offset,
    /// The id kept with the mark.
    pub topic_id: Option<TopicId>,
    pub log: PartitionLog,
}

impl Gap {
    /// Known to be gone unread. How much a deleted topic held above the mark nobody knows.
    pub fn lost(&self) -> u64 {
        match self.reason {
            Reason::Retention => (self.log.oldest.0 - self.next.0) as u64,
            Reason::Recreated | Reason::Truncated => 0,
        }
    }
}

/// Of one partition, for people: a sentence per reason.
pub fn sentence(topic: &str, gaps: &[Gap]) -> String {
    let mut told = causes(topic, gaps);
    if let Some(first) = gaps.first() {
        told += &format!(
            ". Nothing is skipped: this partition stands until `highwater accept-gap {topic} --partition {}`",
            first.partition.0
        );
    }
    told
}

/// How many offsets are gone; at least 1, for nobody knows what a deleted topic still held.
pub fn offsets(gaps: &[Gap]) -> u64 {
    let one = |gap: &Gap| match gap.reason {
        Reason::Retention => gap.lost(),
        Reason::Truncated => (gap.next.0 - gap.log.end.0) as u64,
        Reason::Recreated => 1,
    };
    gaps.iter().map(one).max().unwrap_or(0)
}

/// The same without what to do about it.
pub fn causes(topic: &str, gaps: &[Gap]) -> String {
    let mut told = Vec::new();
    for reason in [Reason::Retention, Reason::Recreated, Reason::Truncated] {
        let of_reason: Vec<&Gap> = gaps.iter().filter(|g| g.reason == reason).collect();
        let Some(first) = of_reason.first() else { continue };
        let mut outputs: Vec<String> = of_reason.iter().map(|g| g.output.to_string()).collect();
        outputs.sort();
        let outputs = outputs.join(", ");
        let lowest = of_reason.iter().map(|g| g.next.0).min().unwrap_or_default();
        let highest = of_reason.iter().map(|g| g.next.0).max().unwrap_or_default();
        let (place, log) = (format!("{topic}/{}", first.partition.0), first.log);
        let (oldest, end) = (log.oldest.0, log.end.0);
        let id = |id: Option<TopicId>| id.map_or("unknown".to_owned(), |id| id.to_string());
        told.push(match reason {
            Reason::Retention => format!(
                "{place}: offsets {lowest}..{oldest} are gone ({} offsets; retention passed the mark of {outputs})",
                oldest - lowest
            ),
            Reason::Recreated => format!(
                "{place}: the topic was deleted and made again (id {}, now {}): what the former one held from \
                 offset {lowest} on is gone (mark of {outputs}), the new one holds {oldest}..{end}",
                id(first.topic_id),
                id(log.topic_id)
            ),
            Reason::Truncated => format!(
                "{place}: Kafka ends at {end}, the mark stands at {highest} ({outputs}): Kafka has lost offsets \
                 {end}..{highest}, which were read before; what comes there now are other records"
            ),
        });
    }
    told.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(topic_id: Option<TopicId>, oldest: i64, end: i64) -> PartitionLog {
        PartitionLog { topic_id, oldest: Offset(oldest), end: Offset(end) }
    }

    #[test]
    fn a_mark_is_judged_by_the_id_first_and_then_by_the_ends_of_the_log() {
        let (a, b) = (TopicId::new(0, 1), TopicId::new(7, -2));
        let cases = [
            (100, a, log(a, 0, 100), None),
            (100, a, log(a, 100, 100), None),
            (99, a, log(a, 100, 100), Some(Reason::Retention)),
            (101, a, log(a, 0, 100), Some(Reason::Truncated)),
            (50, a, log(b, 0, 100), Some(Reason::Recreated)),
            (500, a, log(b, 0, 100), Some(Reason::Recreated)),
            (50, None, log(b, 0, 100), None),
            (50, a, log(None, 0, 100), None),
            (500, None, log(b, 0, 100), Some(Reason::Truncated)),
        ];
        for (next, id, log, expected) in cases {
            assert_eq!(judge(Offset(next), id, &log), expected, "{next} {id:?} {log:?}");
        }
    }

    #[test]
    fn an_id_reads_back_from_what_kafka_prints_and_zero_is_none() {
        assert_eq!(TopicId::new(0, 0), None);
        let id = TopicId::new(-3, 9).expect("not zero");
        assert_eq!(TopicId::parse(&id.to_string()), Some(id));
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(TopicId::parse("short"), None);
    }

    #[test]
    fn a_sentence_names_the_offsets_and_the_marks() {
        let gap = |output, next| Gap {
            output,
            partition: Partition(3),
            reason: Reason::Retention,
            next: Offset(next),
            topic_id: None,
            log: log(None, 5000, 6000),
        };
        let gaps = [gap(Output::Model("x".into()), 1300), gap(Output::Lake, 1200)];
        assert_eq!(
            sentence("taps", &gaps),
            "taps/3: offsets 1200..5000 are gone (3800 offsets; retention passed the mark of lake, model:x). \
             Nothing is skipped: this partition stands until `highwater accept-gap taps --partition 3`"
        );
        assert_eq!(offsets(&gaps), 3800);
    }
}
