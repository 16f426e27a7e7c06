//! What the worker hears and what it orders: its settings, inputs and effects.
//!
//! Owns: the words between worker and driver. Does not own: any decision.

use crate::{
    error::Kind,
    record::{
        Epoch, EventTime, IdleAdvance, Lane, Mark, Offset, Output, Partition, RawRecord, Span,
        gap::Gap,
    },
};
use std::{collections::BTreeMap, time::Duration};

/// Time since an origin that the driver chose.
pub type Moment = Duration;

/// A claim on partitions; an answer to an older one is not listened to.
pub type Ticket = u64;

/// When cuts end and how long to wait after a failure.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Age of a cut of the tables while the reader is near the log's end; of the first one since
    /// partitions were taken a quarter of it.
    pub tables_interval: Duration,
    /// The same while it is catching up: larger cuts cost less per event.
    pub tables_interval_behind: Duration,
    /// Bytes that an open cut of the tables may hold before it is cut early.
    pub tables_memory: usize,
    pub lake_age: Duration,
    pub lake_file_bytes: u64,
    pub lake_memory: usize,
    pub lake_files: usize,
    /// First wait after a failure; doubles up to `backoff_max` until a cut is committed: with the
    /// store away taking goes well each time, and committing never.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Wait after being fenced: the group's own news (revoked, lost) should come first.
    pub fenced_wait: Duration,
    /// The topic has a judge (`unique`) in the lane of tables, and the lake follows it (J-1).
    pub judged: bool,
    /// Partitions that stand because offsets are gone are taken again so often.
    pub look_again: Duration,
    /// A partition that had nothing to read for so long has its watermark moved by the clock; None:
    /// never, only records move it.
    pub idle_after: Option<Duration>,
    /// How often logs are asked for their ends, for that.
    pub idle_check: Duration,
    /// Seed by which waits differ between processes; None: they do not.
    pub jitter: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tables_interval: Duration::from_secs(1),
            tables_interval_behind: Duration::from_secs(5),
            tables_memory: 128 << 20,
            lake_age: Duration::from_secs(60),
            lake_file_bytes: 128 << 20,
            lake_memory: 128 << 20,
            lake_files: 10_000,
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(15),
            fenced_wait: Duration::from_secs(5),
            judged: false,
            look_again: Duration::from_secs(5),
            idle_after: None,
            idle_check: Duration::from_secs(5),
            jitter: None,
        }
    }
}

/// What one fetch brought for one partition, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub partition: Partition,
    /// After the last record, or the log's end: everything below has been delivered or is absent.
    pub next: Offset,
    pub records: u64,
}

impl Arrival {
    /// One per partition.
    pub fn of(records: &[RawRecord<'_>]) -> Vec<Self> {
        let mut arrivals: BTreeMap<Partition, Self> = BTreeMap::new();
        for run in records.chunk_by(|a, b| a.partition == b.partition) {
            let partition = run[0].partition;
            let next = Offset::after(run[run.len() - 1].offset);
            let arrival = arrivals.entry(partition).or_insert(Self { partition, next, records: 0 });
            arrival.next = next;
            arrival.records += run.len() as u64;
        }
        arrivals.into_values().collect()
    }
}

/// What an open cut holds, measured by the driver after each admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    pub memory: usize,
    pub largest_file: u64,
    pub files: usize,
}

#[derive(Debug, Clone)]
pub enum Input {
    Assigned(Vec<Partition>),
    /// To be given up in good order; answered by [`Effect::Release`].
    Revoked(Vec<Partition>),
    /// Gone already: somebody else may own them.
    Lost(Vec<Partition>),
    Taken {
        lane: Lane,
        ticket: Ticket,
        marks: Vec<(Output, Partition, Mark)>,
        /// Of partitions that cannot go on; there is no mark of them.
        gaps: Vec<Gap>,
        /// Recorded at or above the marks; of the tables.
        advances: Vec<IdleAdvance>,
    },
    TakeFailed {
        lane: Lane,
        ticket: Ticket,
        kind: Kind,
        why: String,
    },
    /// One fetch, decoded; the driver keeps the records until it has done the effects.
    Arrived {
        arrivals: Vec<Arrival>,
        /// The fetch was cut off by its limit: there is more.
        more: bool,
    },
    /// Kafka has not what comes next of the partition.
    OutOfReach(Partition),
    Measured {
        lane: Lane,
        size: Size,
    },
    Committed {
        lane: Lane,
        cut: u64,
    },
    /// The cut, open or in flight, cannot be committed.
    Failed {
        lane: Lane,
        cut: u64,
        kind: Kind,
        why: String,
    },
    /// Nothing can go on: the breaker, a record that Kafka cannot deliver, a lost file.
    Halt {
        why: String,
    },
    /// End when these are committed (`--until-caught-up`).
    Targets(BTreeMap<Partition, Offset>),
    Tick(Moment),
    /// The answer to [`Effect::AskEnds`].
    Ends {
        /// What the clock showed before anybody was asked.
        at: EventTime,
        /// Of the partitions whose leaders answered: the end as a reader of committed records has it.
        ends: Vec<(Partition, Offset)>,
    },
    /// Commit what is held and stop reading.
    Drain,
}

/// Why a cut ended: a label of `highwater_cuts_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Interval,
    Bytes,
    Age,
    Memory,
    Files,
    Revoke,
    Drain,
    CaughtUp,
    Assignment,
    OutOfReach,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Memory => "memory",
            Self::Files => "files",
            Self::Revoke => "revoke",
            Self::Drain => "drain",
            Self::CaughtUp => "caught_up",
            Self::Assignment => "assignment",
            Self::OutOfReach => "out_of_reach",
        }
    }
}

/// A mark that a sealed cut will move; the driver adds the fates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub output: Output,
    pub partition: Partition,
    pub span: Span,
    pub epoch: Epoch,
    pub sequence: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Take partitions in PostgreSQL: bump their epochs, finish or abort what owners before left,
    /// tell the marks.
    Take { lane: Lane, ticket: Ticket, partitions: Vec<Partition> },
    /// The lane's marks are these now; forget what was held for these partitions.
    Adopt { lane: Lane, marks: Vec<(Output, Partition, Mark)>, advances: Vec<IdleAdvance> },
    /// Read this partition from here on.
    Seek { partition: Partition, to: Offset },
    /// Nobody reads this partition: its records are not wanted until it is seeked.
    Stand { partition: Partition },
    /// A new cut begins; of the lake with its files' name.
    Open { lane: Lane, cut: u64, sequence: i64, partition: Partition, from: Offset, epoch: Epoch },
    /// Add the records of the fetch at hand, per partition those at or above the offset.
    Admit { lane: Lane, from: Vec<(Partition, Offset)> },
    /// Of the lake of a judged topic: hold the records of the fetch at hand, per partition those
    /// at or above the offset, until `Follow`.
    Hold { from: Vec<(Partition, Offset)> },
    /// Verdicts below these offsets are committed: add what is held of them to the lake's cut.
    Follow { to: Vec<(Partition, Offset)> },
    /// Read the clock, then ask the partitions' leaders where their logs end; answered by `Ends`.
    AskEnds { partitions: Vec<Partition> },
    /// The open cut of the tables: event time had come so far before the record at this offset.
    Advance(IdleAdvance),
    /// End the open cut and commit it; answered by `Committed` or `Failed`.
    Seal { lane: Lane, cut: u64, reason: Reason, moves: Vec<Move> },
    /// Drop the open cut and whatever is in flight, without looking back.
    Abandon { lane: Lane },
    /// Nothing of these is held any more.
    Release { partitions: Vec<Partition> },
    /// Committed by every lane: for the group's offsets, which only lag tools read.
    Acknowledge { offsets: Vec<(Partition, Offset)> },
    /// The topic stops here: a person has to look.
    Stop { why: String },
}
