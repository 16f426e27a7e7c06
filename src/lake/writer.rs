//! One open cut of a topic's lake: rows in, parts of Parquet files out. CPU only.
//!
//! Owns: which rows are in which file, their order, offset ranges, totals; when rows are encoded.
//! Does not own: encodings (see `encoder`), uploads (see `store`), when to cut.
//!
//! Rows take the shortest way that keeps encoders from being fed crumbs:
//!
//! ```text
//! a batch of one path ───────────────► gathered per file ──► encoder, ENCODE_ROWS or more at once
//! a batch of several  ─► staged whole ─┘
//!                        until STAGE_ROWS, then one `take` per file
//! ```
//!
//! W-1  Rows of a file keep their order of arrival: nothing overtakes a staged row of its file.
//! W-2  Offsets of a partition ascend within a file (those of rows of one record are equal); the other way is
//!      refused, never written.
//! W-3  A file's ranges, rows and times are those of its rows and nothing else.

use super::encoder::{Encoder, Encodings, Sink};
use super::layout::{FileName, Group, Layout, Rows, fingerprint};
use crate::catalog::{INDEX, Topic};
use crate::cut::FileRange;
use crate::error::{Error, Result};
use crate::record::{EventTime, Offset, Partition, Span};
use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use std::sync::Arc;

/// Encoders start and continue with as many rows, or with what there is when the cut ends.
const ENCODE_ROWS: usize = 4096;
/// Or with as many bytes, where rows are large.
const ENCODE_BYTES: usize = 1 << 20;
/// Rows of mixed batches that wait to be dealt out to their files; or so many per file, since a piece of few
/// rows costs much more than its rows.
const STAGE_ROWS: usize = 32 << 10;
const STAGE_ROWS_PER_FILE: usize = 64;
const STAGE_BYTES: usize = 8 << 20;
/// What a column of a piece costs beside its values: the array, its buffers, their rounding up.
const PIECE_BYTES: usize = 512;
/// What a file costs before its first row: its path here and in the layout, what is known of it.
const FILE_BYTES: usize = 1 << 10;

/// The limits of a cut's files.
#[derive(Debug, Clone)]
pub struct WriterSettings {
    /// Bytes of each part but the last. S3 refuses less than 5 MiB and more than 10,000 parts.
    pub part_bytes: usize,
    /// Encoded bytes at which a row group ends and leaves as parts.
    pub row_group_bytes: usize,
    /// Rows at which a row group ends.
    pub row_group_rows: usize,
    pub zstd_level: i32,
    /// At as many files [`LakeWriter::should_end`]: each costs memory and requests.
    pub open_files_max: usize,
    /// At as many bytes held [`LakeWriter::should_end`]. Parts below 5 MiB cannot leave before the
    /// end of the cut, so many small files are held whole.
    pub memory_bytes_max: usize,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self {
            part_bytes: 8 << 20,
            row_group_bytes: 16 << 20,
            row_group_rows: 1 << 20,
            zstd_level: 1,
            open_files_max: 1024,
            memory_bytes_max: 128 << 20,
        }
    }
}

/// The next part of a file still open.
#[derive(Debug, Clone)]
pub struct Part {
    /// Counts the cut's files from 0, in order of first appearance.
    pub file: usize,
    /// Below the lake's root.
    pub path: String,
    pub bytes: Bytes,
}

/// A file that is whole.
#[derive(Debug, Clone)]
pub struct Finished {
    pub file: usize,
    pub path: String,
    /// The last part; always there when the file had no part before.
    pub last: Option<Bytes>,
    /// Of the whole file.
    pub bytes: u64,
    pub rows: u64,
    /// SHA-256 of the whole file, hexadecimal.
    pub checksum: String,
    /// In order of partition.
    pub ranges: Vec<FileRange>,
    pub event_time_min: EventTime,
    pub event_time_max: EventTime,
    /// Fingerprint of the schema, hexadecimal.
    pub schema: String,
}

pub struct LakeWriter {
    topic: Arc<Topic>,
    settings: WriterSettings,
    name: FileName,
    layout: Layout,
    /// By the layout's number of the path.
    files: Vec<OpenFile>,
    encodings: Option<Encodings>,
    staged: Vec<RecordBatch>,
    staged_rows: usize,
    staged_bytes: usize,
}

struct OpenFile {
    path: String,
    contents: Contents,
    /// Of the writer's staged rows: which are this file's, ascending.
    staged: Vec<u32>,
    gathered: Vec<RecordBatch>,
    gathered_rows: usize,
    gathered_bytes: usize,
    body: Body,
    /// As of the last change of `body`: asking all columns of all files each time is too slow.
    body_memory: usize,
    body_bytes: u64,
}

enum Body {
    Empty,
    Open(Box<Encoder>),
    Closed(Sink),
}

impl LakeWriter {
    pub fn new(topic: Arc<Topic>, settings: WriterSettings, name: FileName) -> Self {
        assert!(settings.part_bytes > 0 && settings.row_group_rows > 0, "limits of nothing");
        let layout = Layout::new(&topic);
        Self {
            topic,
            settings,
            name,
            layout,
            files: Vec::new(),
            encodings: None,
            staged: Vec::new(),
            staged_rows: 0,
            staged_bytes: 0,
        }
    }

    /// Rows of the topic's schema, each with its event time. Halts when a partition's offsets do
    /// not ascend or rows do not fit the schema; the writer is then of no use any more.
    pub fn append(&mut self, rows: &RecordBatch, event_times: &[EventTime]) -> Result<()> {
        assert_eq!(rows.num_rows(), event_times.len(), "each row has an event time");
        let origin = Origin::of(rows, event_times)?;
        let groups = self.layout.split(rows)?;
        for Group { path, rows } in &groups {
            while self.files.len() <= *path {
                let path = format!("{}/{}", self.layout.path(self.files.len()), self.name.file());
                self.files.push(OpenFile::new(path));
            }
            let file = &mut self.files[*path];
            match rows {
                Rows::All => file.contents.note(&origin, 0..event_times.len() as u32),
                Rows::Some(rows) => file.contents.note(&origin, rows.iter().copied()),
            }
            .map_err(|e| Error::halt(format!("file={}", file.path)).because(e))?;
        }
        match groups.as_slice() {
            [] => Ok(()),
            [Group { path, rows: Rows::All }] => {
                if !self.files[*path].staged.is_empty() {
                    if rows.num_rows() < ENCODE_ROWS {
                        return self.stage(rows, &groups);
                    }
                    self.deal()?;
                }
                self.gather(*path, rows.clone())
            }
            _ => self.stage(rows, &groups),
        }
    }

    fn stage(&mut self, rows: &RecordBatch, groups: &[Group]) -> Result<()> {
        let base = self.staged_rows as u32;
        for group in groups {
            let staged = &mut self.files[group.path].staged;
            match &group.rows {
                Rows::All => staged.extend(base..base + rows.num_rows() as u32),
                Rows::Some(rows) => staged.extend(rows.iter().map(|row| base + row)),
            }
        }
        self.staged.push(rows.clone());
        self.staged_rows += rows.num_rows();
        self.staged_bytes += bytes_of(rows);
        let rows_max = STAGE_ROWS.max(STAGE_ROWS_PER_FILE * self.files.len());
        let bytes_max = STAGE_BYTES.max(self.settings.memory_bytes_max / 4);
        if self.staged_rows >= rows_max || self.staged_bytes >= bytes_max {
            self.deal()?;
        }
        Ok(())
    }

    /// Gives each file its staged rows.
    fn deal(&mut self) -> Result<()> {
        let staged = self.unstage()?;
        (0..self.files.len()).try_for_each(|file| self.hand(file, &staged))
    }

    /// All that is staged, in one; the files' own lists of it stay.
    fn unstage(&mut self) -> Result<RecordBatch> {
        self.staged_rows = 0;
        self.staged_bytes = 0;
        match std::mem::take(&mut self.staged).as_slice() {
            [one] => Ok(one.clone()),
            several => concat_batches(&self.topic.schema, several).map_err(refused),
        }
    }

    fn hand(&mut self, file: usize, staged: &RecordBatch) -> Result<()> {
        let rows = std::mem::take(&mut self.files[file].staged);
        if rows.is_empty() {
            return Ok(());
        }
        let rows = take_record_batch(staged, &UInt32Array::from(rows)).map_err(refused)?;
        self.gather(file, rows)
    }

    fn gather(&mut self, file: usize, rows: RecordBatch) -> Result<()> {
        let open = &mut self.files[file];
        open.gathered_rows += rows.num_rows();
        open.gathered_bytes += bytes_of(&rows) + PIECE_BYTES * rows.num_columns();
        open.gathered.push(rows);
        if open.gathered_rows >= ENCODE_ROWS || open.gathered_bytes >= ENCODE_BYTES {
            self.encode(file)?;
        }
        Ok(())
    }

    fn encode(&mut self, file: usize) -> Result<()> {
        let open = &mut self.files[file];
        let gathered = std::mem::take(&mut open.gathered);
        let Some(first) = gathered.first() else { return Ok(()) };
        if !self.encodings.as_ref().is_some_and(|encodings| encodings.settled) {
            let largest = gathered.iter().max_by_key(|rows| rows.num_rows()).unwrap_or(first);
            self.encodings = Some(Encodings::decide(&self.topic, &self.settings, largest)?);
        }
        if let (Body::Empty, Some(encodings)) = (&open.body, &self.encodings) {
            let schema = self.topic.schema.clone();
            let encoder = Encoder::open(schema, encodings, self.settings.part_bytes)?;
            open.body = Body::Open(Box::new(encoder));
        }
        let Body::Open(encoder) = &mut open.body else {
            return Err(Error::halt(format!("rows for a file that is closed, file={}", open.path)));
        };
        if open.gathered_rows >= ENCODE_ROWS && first.num_rows() * 2 >= ENCODE_ROWS {
            // Large pieces go as they are: putting them together would only copy.
            gathered.iter().try_for_each(|rows| encoder.write(rows))?;
        } else {
            let rows = concat_batches(&self.topic.schema, &gathered).map_err(refused)?;
            encoder.write(&rows)?;
        }
        open.gathered_rows = 0;
        open.gathered_bytes = 0;
        open.body_memory = encoder.memory();
        open.body_bytes = encoder.bytes();
        Ok(())
    }

    /// Parts that can leave, in order within each file. Each is `part_bytes` long.
    pub fn take_parts(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        for (file, open) in self.files.iter_mut().enumerate() {
            let taken = parts.len();
            let part = |bytes| Part { file, path: open.path.clone(), bytes };
            match &mut open.body {
                Body::Empty => {}
                Body::Open(encoder) => parts.extend(encoder.take_parts().map(part)),
                Body::Closed(sink) => parts.extend(sink.ready.drain(..).map(part)),
            }
            let left: usize = parts[taken..].iter().map(|part| part.bytes.len()).sum();
            open.body_memory = open.body_memory.saturating_sub(left);
        }
        parts
    }

    /// Writes every footer; nothing can be appended after. Then [`Self::take_parts`] still gives
    /// parts of one size, which only stores that insist on it (Cloudflare R2) need: without,
    /// [`Self::finish`] puts all that was not taken into `last`.
    pub fn close(&mut self) -> Result<()> {
        let staged = self.unstage()?;
        for file in 0..self.files.len() {
            // One after the other: pieces and encoders of all files at once would be many times their rows.
            self.hand(file, &staged)?;
            self.encode(file)?;
            let schema = fingerprint(&self.topic.schema);
            let open = &mut self.files[file];
            match std::mem::replace(&mut open.body, Body::Empty) {
                Body::Open(encoder) => {
                    let metadata = open.contents.metadata(&self.topic, self.name, schema);
                    let sink = encoder.close(metadata)?;
                    open.body_memory = sink.memory();
                    open.body_bytes = sink.bytes;
                    open.body = Body::Closed(sink);
                }
                other => open.body = other,
            }
        }
        Ok(())
    }

    /// Closes all files: one [`Finished`] per path, in order of `file`. None when nothing was
    /// appended.
    pub fn finish(mut self) -> Result<Vec<Finished>> {
        self.close()?;
        let schema = fingerprint(&self.topic.schema);
        let mut finished = Vec::with_capacity(self.files.len());
        for (file, open) in self.files.into_iter().enumerate() {
            let Body::Closed(mut sink) = open.body else {
                return Err(Error::halt(format!("file without rows, file={}", open.path)));
            };
            finished.push(Finished {
                file,
                path: open.path,
                last: sink.rest(),
                bytes: sink.bytes,
                rows: open.contents.rows(),
                checksum: sink.checksum(),
                ranges: open.contents.ranges,
                event_time_min: open.contents.event_time_min,
                event_time_max: open.contents.event_time_max,
                schema: schema.clone(),
            });
        }
        Ok(finished)
    }

    /// Bytes held: rows not yet encoded, encoders, parts that have not left.
    pub fn memory(&self) -> usize {
        let files: usize = self.files.iter().map(OpenFile::memory).sum();
        self.staged_bytes + files
    }

    /// Encoded so far, with an estimate of what is in progress.
    pub fn largest_file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.body_bytes).max().unwrap_or(0)
    }

    pub fn open_files(&self) -> usize {
        self.files.len()
    }

    /// Whether the cut should end for its size: a file is as large as the topic wants, or there
    /// are too many, or too much is held. Age is the caller's to judge, who has the clock.
    pub fn should_end(&self) -> bool {
        let roll = self.topic.lake.as_ref().map_or(u64::MAX, |lake| lake.roll_bytes);
        self.largest_file_bytes() >= roll
            || self.open_files() >= self.settings.open_files_max
            || self.memory() >= self.settings.memory_bytes_max
    }
}

impl OpenFile {
    fn new(path: String) -> Self {
        Self {
            path,
            contents: Contents::default(),
            staged: Vec::new(),
            gathered: Vec::new(),
            gathered_rows: 0,
            gathered_bytes: 0,
            body: Body::Empty,
            body_memory: 0,
            body_bytes: 0,
        }
    }

    fn memory(&self) -> usize {
        FILE_BYTES + self.body_memory + self.gathered_bytes + self.staged.capacity() * 4
    }
}

/// Where rows come from: the columns that every topic's schema ends with.
struct Origin<'a> {
    partitions: &'a [i32],
    offsets: &'a [i64],
    event_times: &'a [EventTime],
    /// Of rows of records that may be several, all at one offset: their places there.
    indexes: Option<&'a [i32]>,
}

impl<'a> Origin<'a> {
    fn of(rows: &'a RecordBatch, event_times: &'a [EventTime]) -> Result<Self> {
        let partitions =
            rows.column_by_name("_partition").and_then(|c| c.as_primitive_opt::<Int32Type>());
        let offsets =
            rows.column_by_name("_offset").and_then(|c| c.as_primitive_opt::<Int64Type>());
        let indexes = rows.column_by_name(INDEX).and_then(|c| c.as_primitive_opt::<Int32Type>());
        match (partitions, offsets) {
            (Some(partitions), Some(offsets)) => Ok(Self {
                partitions: partitions.values(),
                offsets: offsets.values(),
                event_times,
                indexes: indexes.map(|indexes| &indexes.values()[..]),
            }),
            _ => Err(Error::halt("rows for the lake without _partition int32 and _offset int64")),
        }
    }
}

/// What a file holds (W-3).
struct Contents {
    ranges: Vec<FileRange>,
    event_time_min: EventTime,
    event_time_max: EventTime,
}

impl Default for Contents {
    fn default() -> Self {
        let (event_time_min, event_time_max) = (EventTime(i64::MAX), EventTime(i64::MIN));
        Self { ranges: Vec::new(), event_time_min, event_time_max }
    }
}

impl Contents {
    fn note(&mut self, origin: &Origin, rows: impl Iterator<Item = u32>) -> Result<()> {
        let mut at = 0;
        for row in rows {
            let row = row as usize;
            let partition = Partition(origin.partitions[row]);
            let offset = origin.offsets[row];
            if self.ranges.get(at).is_none_or(|range| range.partition != partition) {
                at = match self.ranges.binary_search_by_key(&partition, |range| range.partition) {
                    Ok(at) => at,
                    Err(at) => {
                        let span = Span::new(Offset(offset), Offset(offset));
                        self.ranges
                            .insert(at, FileRange { partition, span, rows: 0, extra_rows: 0 });
                        at
                    }
                };
            }
            let range = &mut self.ranges[at];
            let is_extra = origin.indexes.is_some_and(|indexes| indexes[row] > 0);
            let again = is_extra && range.rows > 0 && Offset::after(offset) == range.span.to;
            if offset < range.span.to.0 && !again {
                return Err(Error::halt(format!(
                    "W-2: offsets go backwards, partition={} offset={offset} expected>={}",
                    partition.0, range.span.to.0
                )));
            }
            range.span.to = Offset::after(offset);
            range.rows += 1;
            range.extra_rows += u64::from(is_extra);
            let event_time = origin.event_times[row];
            self.event_time_min = self.event_time_min.min(event_time);
            self.event_time_max = self.event_time_max.max(event_time);
        }
        Ok(())
    }

    fn rows(&self) -> u64 {
        self.ranges.iter().map(|range| range.rows).sum()
    }

    /// What the footer says, so that a file explains itself without the manifest.
    fn metadata(
        &self,
        topic: &Topic,
        name: FileName,
        schema: String,
    ) -> Vec<(&'static str, String)> {
        let ranges: Vec<_> = self
            .ranges
            .iter()
            .map(|FileRange { partition, span, rows, .. }| {
                serde_json::json!({
                    "partition": partition.0, "from": span.from.0, "to": span.to.0, "rows": rows,
                })
            })
            .collect();
        vec![
            ("highwater.topic", topic.name.to_string()),
            ("highwater.rows", self.rows().to_string()),
            ("highwater.ranges", serde_json::Value::from(ranges).to_string()),
            ("highwater.event_time_min", self.event_time_min.0.to_string()),
            ("highwater.event_time_max", self.event_time_max.0.to_string()),
            ("highwater.schema", schema),
            ("highwater.sequence", name.sequence.to_string()),
            ("highwater.version", env!("CARGO_PKG_VERSION").to_string()),
        ]
    }
}

/// The rows' own bytes; a slice does not count the rest of the buffers that it borrows.
fn bytes_of(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or(0)).sum()
}

fn refused(e: arrow::error::ArrowError) -> Error {
    Error::halt("rows could not be gathered for the lake").because(e)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
