//! The atomic unit of work: spans of a topic's partitions, what they yield, what became of each
//! offset. Committing a cut is one PostgreSQL transaction.
//!
//! Owns: the shape of a cut. Does not own: when to cut (`pipeline::worker`), how a yield is
//! applied (`warehouse`) or written (`lake`).
//!
//! C-1  For each (output, partition) of a cut, `span.from` equals the mark it moves. (A retry of dead
//!      letters moves none: it changes the fates of offsets that are passed.)
//! C-2  `fates.total() == span.len()`: each offset has exactly one fate (I-3).
//! C-3  A cut's yield comes from the records of its spans and nothing else.
//!
//! # The crash table
//! A cut of the tables: poll, decode, admit, commit (marks, dead letters, rows), acknowledge. A cut of
//! the lake: poll, decode, admit, begin an upload, note it, put parts, seal, commit, complete (copy,
//! drop what was staged), note as completed, acknowledge. A life begins with a take. The process dies
//! right after the step; whoever takes the partitions next finds the second column. The tests that are
//! named exist: `tests/it/tidy.rs` looks.
//!
//! | after | what a restart sees | why nothing is lost or doubled | shown by |
//! | --- | --- | --- | --- |
//! | take sent, not answered | marks at an epoch that nobody knows | taking again adds one more; epochs are only compared | `every_record_is_applied_once_whatever_goes_wrong` |
//! | take, leftovers not looked at | marks as they were, files owed, old notes | each take looks at all of the topic; looking twice changes nothing | `a_restart_over_fifty_unfinished_uploads_commits_at_once` |
//! | poll | marks where the cut began | what was fetched is read again from there; the group's offsets are not asked (S-2) | `ten_kills_change_nothing_on_s3` |
//! | decode | the same | the same bytes give the same rows and rejects (D-3) | `rows_and_rejects_are_the_oracles` |
//! | admit | the same | open groups and files are memory; a row's fate depends on the records since the mark alone (E-1, M-1) | `any_batches_cuts_and_failures_give_what_one_event_at_a_time_gives` |
//! | begin of an upload | nothing: no note, nothing that a listing shows (S-4 of `lake::store`) | nothing was promised; S3's own list of uploads has an empty one | `what_is_staged_is_listed_for_its_own_warehouse_and_can_be_removed` |
//! | note | a note whose epoch the take makes old | no cut can commit it (W-4): aborted, then forgotten | `a_file_is_noted_committed_completed_and_an_upload_left_over_is_known` |
//! | part | the same, and hidden bytes | the same | `another_process_can_complete_an_upload_and_aborts_what_a_crash_left` |
//! | seal | the same, and a whole hidden object | the same; no reader lists it | `an_s3_server_keeps_the_promises_of_a_store` |
//! | dead letters, rows, marks sent; COMMIT not | nothing of it: the server rolls back | all of it is one transaction | `connections_killed_at_any_time_lose_and_double_nothing` |
//! | COMMIT sent | the mark moved, or not; a take waits until that is settled | it reads on from wherever the mark is (W-3) | `a_take_waits_for_the_commit_in_flight_and_sees_what_it_left` |
//! | COMMIT done, reply lost | the mark moved | the same: nobody repeats the cut | `a_database_behind_a_bad_network_changes_nothing` |
//! | dead letters written | they, their mark and the rows, or none of them | one transaction; the primary key would refuse a second | `a_commit_moves_marks_and_rows_together` |
//! | commit of the lake | files that are not completed, their uploads whole | owed: completed beside the cuts that follow; the sweep leaves them | `a_restart_over_fifty_unfinished_uploads_commits_at_once` |
//! | copy | the file, its staged copy, not noted as completed | completing again finds it whole and drops the copy | `a_file_completed_by_several_at_once_is_there_once_and_whole` |
//! | staged copy dropped | the file, not noted as completed | completing again finds it whole | `a_file_completed_by_several_at_once_is_there_once_and_whole` |
//! | completed noted | nothing owed | there is nothing to do | `ten_kills_change_nothing_on_a_local_directory` |
//! | acknowledge | the group's offsets at the marks, or behind | they are for lag tools, and written only after the commit | `only_what_every_lane_has_committed_is_acknowledged` |
//! | any step, and it wakes later | a new owner's epoch | its commit moves no mark (W-1); what it completes is completed; what it stages is dropped | `a_process_stopped_within_its_cuts_changes_nothing_when_it_wakes_on_s3` |
//! | any step of a sweep | the rest of what nobody names | the next sweep lists anew | `whatever_comes_between_its_steps_a_sweep_removes_nothing_that_is_or_will_be_committed` |

use crate::{
    compute::{Delta, unique::Verdicts},
    record::{Epoch, EventTime, Fates, IdleAdvance, Offset, Output, Partition, Span, gap::TopicId},
};
use bytes::Bytes;
use std::sync::Arc;

/// One mark to move: `highwater.marks` where `next_offset = span.from` and `epoch = epoch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    pub output: Output,
    pub partition: Partition,
    pub span: Span,
    pub epoch: Epoch,
    pub fates: Fates,
    /// The highest event time seen up to `span.to`, not only within the span.
    pub event_time_max: Option<EventTime>,
    /// Of the lake: the cut's number; others keep 0.
    pub sequence: i64,
}

/// What is committed at once.
#[derive(Debug)]
pub struct Cut {
    pub topic: Arc<str>,
    /// What Kafka said after the cut's last record was read (G-3): ids never come back, so if it is the
    /// marks', every record is of their topic. None: the broker has no ids.
    pub topic_id: Option<TopicId>,
    /// Sorted by (output, partition), so that two processes lock rows in the same order.
    pub advances: Vec<Advance>,
    pub yields: Vec<Yield>,
}

#[derive(Debug)]
pub enum Yield {
    /// Of an aggregate or a row model.
    Table {
        model: Arc<str>,
        delta: Delta,
    },
    DeadLetters(Vec<DeadLetter>),
    IdleAdvances {
        /// One per place at most, in order of place.
        recorded: Vec<IdleAdvance>,
        /// Places of earlier ones that change nothing any more.
        obsolete: Vec<(Partition, Offset)>,
    },
    /// Of a topic with `unique`, with the dead letters' marks.
    Verdicts(Verdicts),
    /// Of the lake of such a topic: what it counts as duplicates are the verdicts recorded (U-3).
    Judged,
    References(Vec<ReferenceUse>),
    Files(Vec<LakeFile>),
}

/// An output's records from this offset on were looked up in this version of a reference: a row of
/// `highwater.reference_uses` where the version is another one than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceUse {
    pub output: Output,
    pub partition: Partition,
    pub from: Offset,
    pub reference: Arc<str>,
    pub version: Arc<str>,
}

/// One row of `highwater.dead_letters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// What it is a letter of: `dead_letters` for what decode refuses, or the one output that
    /// refuses what others take.
    pub output: Output,
    pub partition: Partition,
    pub offset: i64,
    pub timestamp: EventTime,
    pub class: &'static str,
    pub column: Option<String>,
    pub reason: String,
    /// As it came; None: not kept, Kafka has it.
    pub raw: Option<Raw>,
    /// Who counts the record as dead in this cut, and the highest event time that each had seen
    /// before it.
    pub refused_by: Vec<(Output, Option<EventTime>)>,
}

/// A record's own bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl DeadLetter {
    /// What it costs to hold.
    pub fn memory(&self) -> usize {
        let raw = self.raw.as_ref().map_or(0, Raw::len);
        raw + self.reason.len() + 64 * self.refused_by.len() + 256
    }
}

impl Raw {
    /// Bytes of key and value.
    pub fn len(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One row of `highwater.lake_files`: uploaded whole, visible only once completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeFile {
    /// Below the lake's root: `TOPIC/date=2024-03-01/hour=08/NAME.parquet`.
    pub path: String,
    pub upload: UploadId,
    /// The store's tags of the parts, in order.
    pub parts: Vec<String>,
    pub bytes: u64,
    pub rows: u64,
    /// SHA-256 of the whole file, hexadecimal.
    pub checksum: String,
    /// Per partition: the rows' offsets lie within (first row's, after last row's).
    pub ranges: Vec<FileRange>,
    pub event_time_min: EventTime,
    pub event_time_max: EventTime,
    /// Fingerprint of the schema, hexadecimal.
    pub schema: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRange {
    pub partition: Partition,
    pub span: Span,
    pub rows: u64,
    /// Of them, those that are not the first row of their record: of a `batched` topic.
    pub extra_rows: u64,
}

impl FileRange {
    /// How many records begin in it.
    pub fn records(&self) -> u64 {
        self.rows - self.extra_rows
    }
}

/// Name of what is staged at the store, with the store's own id of the upload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(pub String);
