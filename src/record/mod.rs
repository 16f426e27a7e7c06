//! The nouns that every stage shares: offsets and spans of Kafka, event time, marks and fates.
//!
//! Owns: arithmetic on offsets (the only `+ 1` on one is here). Does not own: anything that acts.
//!
//! I-1  An [`Offset`] is always the next one to read.
//! I-2  A [`Span`] is half open; spans of one output and partition follow each other without gap.
//! I-3  Each offset of a span has exactly one fate: `fates.total() == span.len()`.

pub mod gap;
pub mod quantity;
pub mod schemas;

use std::{fmt, ops::AddAssign, sync::Arc};

/// A partition's number, as Kafka counts: from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub i32);

/// The next offset to read; never the last one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub i64);

impl Offset {
    /// What to read next, after the record at `offset`.
    pub fn after(offset: i64) -> Self {
        Self(offset + 1)
    }
}

/// Offsets `from` (included) to `to` (not included).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    pub from: Offset,
    pub to: Offset,
}

impl Span {
    pub fn new(from: Offset, to: Offset) -> Self {
        assert!(from <= to, "I-2: span runs backwards, from={} to={}", from.0, to.0);
        Self { from, to }
    }
    /// Offsets covered.
    pub fn len(&self) -> u64 {
        (self.to.0 - self.from.0) as u64
    }
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }
}

/// Who may move a mark: taking a partition adds one, so that an older owner's cuts move nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub i64);

/// Microseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(pub i64);

/// What became of the offsets of a span. Each has exactly one fate (I-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Fates {
    /// Taken into the output.
    pub accepted: u64,
    /// Good, but the model's WHERE (or, for dead letters, their being good) leaves it out.
    pub filtered: u64,
    /// Came after its window was final, and the model drops such records.
    pub late: u64,
    /// Refused: it stands in `highwater.dead_letters`.
    pub dead: u64,
    /// No record there: compacted, or a transaction's marker.
    pub absent: u64,
    /// A record with the same key came before: it stands in `highwater.duplicates`.
    pub duplicate: u64,
    /// Gone from Kafka before it was read, and accepted as lost by a person; never a cut's doing.
    pub lost: u64,
}

impl Fates {
    pub fn total(&self) -> u64 {
        self.accepted
            + self.filtered
            + self.late
            + self.dead
            + self.absent
            + self.duplicate
            + self.lost
    }
}

impl AddAssign for Fates {
    fn add_assign(&mut self, o: Self) {
        self.accepted += o.accepted;
        self.filtered += o.filtered;
        self.late += o.late;
        self.dead += o.dead;
        self.absent += o.absent;
        self.duplicate += o.duplicate;
        self.lost += o.lost;
    }
}

/// What reads a topic and keeps a mark of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Output {
    Lake,
    DeadLetters,
    Model(Arc<str>),
}

impl fmt::Display for Output {
    /// As in `highwater.marks.output`: `lake`, `dead_letters`, `model:NAME`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lake => f.write_str("lake"),
            Self::DeadLetters => f.write_str("dead_letters"),
            Self::Model(name) => write!(f, "model:{name}"),
        }
    }
}

impl Output {
    /// The inverse of `Display`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "lake" => Some(Self::Lake),
            "dead_letters" => Some(Self::DeadLetters),
            _ => text.strip_prefix("model:").map(|name| Self::Model(name.into())),
        }
    }
}

/// Outputs that are cut together: the lake by bytes and age, all others about every second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    Tables,
    Lake,
}

impl Lane {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tables => "tables",
            Self::Lake => "lake",
        }
    }
}

impl Output {
    pub fn lane(&self) -> Lane {
        match self {
            Self::Lake => Lane::Lake,
            Self::DeadLetters | Self::Model(_) => Lane::Tables,
        }
    }
}

/// The high-water mark of one output in one partition: one row of `highwater.marks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Where the output began: the oldest offset Kafka had when the mark was made.
    pub first: Offset,
    pub next: Offset,
    pub epoch: Epoch,
    /// Highest event time seen below `next`; the watermark follows from it.
    pub event_time_max: Option<EventTime>,
    /// Totals over `first..next`.
    pub fates: Fates,
    /// Of the lake only: the number of the last cut, so that file names ascend with offsets.
    pub sequence: i64,
}

impl Mark {
    /// Of an output that has passed nothing, by nobody.
    pub const BEGINNING: Self = Self {
        first: Offset(0),
        next: Offset(0),
        epoch: Epoch(0),
        event_time_max: None,
        fates: Fates {
            accepted: 0,
            filtered: 0,
            late: 0,
            dead: 0,
            absent: 0,
            duplicate: 0,
            lost: 0,
        },
        sequence: 0,
    };
}

/// What no record says: before the record at `before` came, the partition's event time had come to
/// `event_time`, by the clock (nothing was left to read) or because the partition was added when
/// the others had come that far. A row of `highwater.idle_advances`; who reads these offsets again
/// judges by it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleAdvance {
    pub partition: Partition,
    pub before: Offset,
    pub event_time: EventTime,
}

/// A record as Kafka gave it; borrows the client's buffers.
#[derive(Debug, Clone, Copy)]
pub struct RawRecord<'a> {
    pub partition: Partition,
    /// Of this very record.
    pub offset: i64,
    /// Microseconds since 1970 (Kafka's milliseconds, widened).
    pub timestamp: EventTime,
    pub key: Option<&'a [u8]>,
    /// None is a tombstone.
    pub value: Option<&'a [u8]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_reads_back_from_its_name() {
        for output in [Output::Lake, Output::DeadLetters, Output::Model("taps_5m".into())] {
            assert_eq!(Output::parse(&output.to_string()), Some(output));
        }
        assert_eq!(Output::parse("table"), None);
    }

    #[test]
    #[should_panic(expected = "I-2")]
    fn a_span_cannot_run_backwards() {
        Span::new(Offset(2), Offset(1));
    }
}
