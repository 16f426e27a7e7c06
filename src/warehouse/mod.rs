//! Deltas, rows, marks and the manifest in PostgreSQL, each cut in one transaction.
//!
//! Owns: migrations, tables of models, statements, encoding Arrow to PostgreSQL's binary format,
//! which SQLSTATE means what. Does not own: what is in a cut, when it is committed.
//!
//! W-1  A commit moves each mark from `span.from` at our epoch, or changes nothing at all.
//! W-2  Keys are written in sorted order, marks too: no deadlock between processes.
//! W-3  A lost reply is `Unknown`: the caller takes the partitions anew, which waits for the old
//!      transaction to end, and believes the marks.
//! W-4  A file is committed only with the note of its upload, and only by a cut that moves the mark
//!      which the note names: an upload whose note has an old epoch can never be committed.
//! G-2  Only a person has a mark pass offsets that were not read: they are `lost`, and written down.
//! G-3  A mark moves only while Kafka says that the topic is the one the mark is of.
//! W-5  A table's key is what `ON CONFLICT` infers, with NULL equal to NULL as in GROUP BY.
//! W-6  Text is COLLATE "C": the server's least, greatest and order are those of bytes.
//! W-7  A value is counted by `count(DISTINCT …)` in the transaction that first stores it.
//! W-8  A difference is to the last value of the window before, as both are at COMMIT.
//!
//! | file | does |
//! | --- | --- |
//! | `postgres` ⇄ | connections, transactions, time limits: the only one to name the client library |
//! | `embedded` ⇄ | PostgreSQL within the process, behind a Unix socket |
//! | `schema` | migrations, tables of models |
//! | `commit` | take partitions, commit cuts: where exactly-once is kept |
//! | `merge` | a delta into its model's tables, statement by statement |
//! | `finality` | topics for the views over marks, and per windowed table its view of final windows |
//! | `sessions` | merge a cut's sessions with the stored ones |
//! | `following` | a cut's changes folded into the source's rows, and the model's table after them |
//! | `swap` | snapshots of the source: what waits for their end, and the transaction that swaps them in |
//! | `loads` | where loads begin and end that a person brackets |
//! | `rebuild` | an output made anew beside the live one, and the swap |
//! | `dropped` | a model that is not declared any more |
//! | `gaps` | what a person accepted as gone; generations |
//! | `manifest` | lake files and uploads after their cut |
//! | `dead_letters` | letters and refusals: stored by a cut, read by people |
//! | `retry` | the transaction in which refused records are taken after all |
//! | `listing` | reads for people: marks, any query |
//! | `unique` | keys and duplicates of topics with `unique` |
//! | `references` | versions of references, and who was looked up in which |
//! | `snapshot` | reads for `verify`: everything of one moment, tables rebuilt beside the kept ones |
//! | `tables`, `sets`, `differences`, `sketches`, `keyed`, `merging`, `compare`, `exchange`, `encode`, `stored`, `sqlstate` | pure: statements, bytes, what an error means |

pub mod encode;
pub mod merging;
pub mod postgres;
pub mod sqlstate;
pub mod tables;

mod commit;
mod compare;
mod dead_letters;
mod differences;
pub mod drift;
pub mod dropped;
mod exchange;
pub mod finality;
mod following;
pub mod gaps;
mod keyed;
mod listing;
pub mod loads;
mod manifest;
mod merge;
pub mod rebuild;
pub mod references;
pub mod retry;
pub mod rewrite;
mod schema;
mod sessions;
mod sets;
mod sketches;
pub mod snapshot;
mod stored;
pub mod swap;
mod tls;
mod unique;
pub mod widening;

#[cfg(feature = "embedded")]
pub mod embedded;

#[cfg(test)]
pub(crate) mod tests;

pub use commit::Committed;
pub use following::Followed;
pub use postgres::{Warehouse, WarehouseSettings};
#[cfg(feature = "embedded")]
pub use schema::schema_id;

use crate::{
    cut::UploadId,
    record::{
        EventTime, IdleAdvance, Lane, Mark, Output, Partition,
        gap::{self, Gap, PartitionLog, TopicId},
    },
};
use std::sync::Arc;

/// What a process wants to own: one lane of some partitions of a topic.
#[derive(Debug, Clone)]
pub struct Claim {
    pub topic: Arc<str>,
    pub lane: Lane,
    /// Of this lane.
    pub outputs: Vec<Output>,
    /// With what Kafka says of them: a new mark begins at the oldest offset.
    pub partitions: Vec<(Partition, PartitionLog)>,
    /// How many the topic has, held by whomever.
    pub partition_count: usize,
    /// Who takes it, for people: host, process, life.
    pub owner: String,
}

/// What a claim came to.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// To go on from.
    pub marks: Vec<(Output, Partition, Mark)>,
    /// Of partitions that cannot go on; of these nothing was taken.
    pub gaps: Vec<Gap>,
    /// What moved event time without a record from the marks on.
    pub advances: Vec<IdleAdvance>,
    /// how many additions the topic has, and the sum of where they begin; None: nothing was taken.
    pub additions: Option<(i64, i64)>,
}

/// A row of `highwater.watermarks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatermarkRow {
    pub topic: Arc<str>,
    pub output: Output,
    /// None: a partition has none yet.
    pub watermark: Option<EventTime>,
    pub held_back_by: Partition,
    /// When it came there, by the server's clock: microseconds since 1970.
    pub since: i64,
}

/// A lake file that is committed but not yet completed, so that no reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    pub path: String,
    pub upload: UploadId,
    pub bytes: u64,
}

/// A row of `highwater.marks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkRow {
    pub topic: Arc<str>,
    pub output: Output,
    pub partition: Partition,
    pub mark: Mark,
    pub owner: String,
    /// When its last cut was committed, by the server's clock: microseconds since 1970.
    pub committed_at: Option<i64>,
    /// Another one each time that offsets begin anew (G-2).
    pub generation: i32,
    pub topic_id: Option<TopicId>,
}

impl MarkRow {
    /// Why it cannot go on (G-1). The log is to be asked of after the mark.
    pub fn gap(&self, log: &PartitionLog) -> Option<Gap> {
        let (next, topic_id) = (self.mark.next, self.topic_id);
        let reason = gap::judge(next, topic_id, log)?;
        let (output, partition) = (self.output.clone(), self.partition);
        Some(Gap { output, partition, reason, next, topic_id, log: *log })
    }
}

/// How many records one output refused for one class of reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterCount {
    pub topic: Arc<str>,
    pub output: Output,
    pub class: String,
    pub count: u64,
    /// When the last one was stored: microseconds since 1970.
    pub last_stored_at: i64,
}

/// A row of `highwater.dead_letters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDeadLetter {
    pub topic: Arc<str>,
    pub output: Output,
    pub partition: Partition,
    pub offset: i64,
    pub timestamp: EventTime,
    pub class: String,
    pub column: Option<String>,
    pub reason: String,
    /// Whether key, value and headers are as they came; without, they are in Kafka alone.
    pub raw: bool,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// JSON: `[{"name": …, "value": …}]`, or `value_base64` where it is not text.
    pub headers: String,
    /// Microseconds since 1970.
    pub stored_at: i64,
    /// Microseconds since 1970; None: not sent on.
    pub forwarded_at: Option<i64>,
    /// Of the partition: offsets recur from one to the next.
    pub generation: i32,
}

/// A row of `highwater.refusals`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalRow {
    pub output: Output,
    /// The output of the letter that holds the record.
    pub letter: Output,
    /// The highest event time that the output had seen before the record.
    pub event_time_max: Option<EventTime>,
    /// When a retry made the output take it: microseconds since 1970.
    pub retried_at: Option<i64>,
    pub generation: i32,
}

/// Which letters; what is None is not looked at.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    pub topics: Option<Vec<String>>,
    /// As in the column `output`.
    pub output: Option<String>,
    pub class: Option<String>,
}
