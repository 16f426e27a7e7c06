//! One Parquet file in memory: rows in, parts of equal size and a running SHA-256 out.
//!
//! Owns: every choice of encoding, and its reason. Does not own: which rows (see `writer`).
//!
//! | choice | reason |
//! | --- | --- |
//! | zstd 1 | a third smaller than snappy for the same time; higher levels cost more than they save here |
//! | no dictionary on nearly unique columns | hashing each value, only to give up when the dictionary is full, was a fifth of the time |
//! | dictionary pages of 256 KiB at most | what does not fit by then will not repeat enough; bounds memory per column and file |
//! | delta encoding for times, `_offset`, integers without dictionary | neighbours differ little: one to three bytes instead of eight, before zstd |
//! | statistics per chunk, per page for event time and `_offset` | readers prune pages by time, `verify` and `replay` by offset; other columns are not sorted, so page statistics would prune nothing and grow the footer |
//! | pages of 1 MiB or 20,000 rows | the defaults of all readers; the unit of pruning |
//! | no bloom filters | a file is one hour of one cut: a reader opens it by time, not by key |
//! | no Arrow schema in the footer | 1 kB per file that Parquet's own types say already |
//! | parts of one size | Cloudflare R2 takes no others, and a part buffer is never copied |

use super::layout::hex;
use super::writer::WriterSettings;
use crate::catalog::Topic;
use crate::error::{Error, Result};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Int16Type, Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType,
};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use sha2::{Digest, Sha256};
use std::collections::{HashSet, VecDeque};
use std::io::{self, Write};

const PAGE_ROWS: usize = 20_000;
const PAGE_BYTES: usize = 1 << 20;
const DICTIONARY_BYTES: usize = 256 << 10;
/// Rows looked at to tell whether a column repeats.
const SAMPLE_ROWS: usize = 4096;
/// Fewer rows say nothing: the first row of any column is unique.
const SAMPLE_ROWS_MIN: usize = 256;
/// Working memory of zstd per column that has finished a page, which `ArrowWriter` does not count.
const ZSTD_BYTES: usize = 576 << 10;

/// How a topic's columns are encoded; decided from the first rows and kept for the cut.
#[derive(Clone)]
pub struct Encodings {
    properties: WriterProperties,
    /// Whether it was decided from enough rows.
    pub settled: bool,
}

impl Encodings {
    pub fn decide(topic: &Topic, settings: &WriterSettings, sample: &RecordBatch) -> Result<Self> {
        let level = ZstdLevel::try_new(settings.zstd_level).map_err(|e| {
            Error::config(format!("zstd level out of range, level={}", settings.zstd_level))
                .because(e)
        })?;
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .set_data_page_size_limit(PAGE_BYTES)
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_max_row_group_row_count(Some(settings.row_group_rows))
            .set_max_row_group_bytes(Some(settings.row_group_bytes))
            .set_statistics_enabled(EnabledStatistics::Chunk);
        // Without an event time of its own, a topic goes by `_timestamp`, its last column.
        let event_time = topic.event_time.unwrap_or(topic.schema.fields().len() - 1);
        for (i, field) in topic.schema.fields().iter().enumerate() {
            let path = || ColumnPath::from(field.name().as_str());
            let (dictionary, delta) = match field.data_type() {
                DataType::Timestamp(_, _) => (false, true),
                DataType::Int64 if field.name() == "_offset" => (false, true),
                DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                    let repeats = repeats(sample.column(i));
                    (repeats, !repeats)
                }
                _ => (repeats(sample.column(i)), false),
            };
            properties = properties.set_column_dictionary_enabled(path(), dictionary);
            if delta {
                properties = properties.set_column_encoding(path(), Encoding::DELTA_BINARY_PACKED);
            }
            if i == event_time || field.name() == "_offset" {
                properties =
                    properties.set_column_statistics_enabled(path(), EnabledStatistics::Page);
            }
        }
        let settled = sample.num_rows() >= SAMPLE_ROWS_MIN;
        Ok(Self { properties: properties.build(), settled })
    }
}

/// Whether at most half of the sampled values are distinct. NULLs do not count either way.
fn repeats(column: &dyn Array) -> bool {
    if column.len() < SAMPLE_ROWS_MIN {
        return true;
    }
    fn at_most_half<T: std::hash::Hash + Eq>(values: impl Iterator<Item = Option<T>>) -> bool {
        let mut seen = HashSet::new();
        let count = values.take(SAMPLE_ROWS).flatten().map(|v| seen.insert(v)).count();
        seen.len() * 2 <= count
    }
    match column.data_type() {
        DataType::Utf8 => at_most_half(column.as_string::<i32>().iter()),
        DataType::Binary => at_most_half(column.as_binary::<i32>().iter()),
        DataType::Int16 => at_most_half(column.as_primitive::<Int16Type>().iter()),
        DataType::Int32 => at_most_half(column.as_primitive::<Int32Type>().iter()),
        DataType::Int64 => at_most_half(column.as_primitive::<Int64Type>().iter()),
        DataType::Timestamp(_, _) => {
            at_most_half(column.as_primitive::<TimestampMicrosecondType>().iter())
        }
        // Few bytes each, or rarely unique; the page limit ends a dictionary that does not pay.
        _ => true,
    }
}

/// An open file.
pub struct Encoder {
    writer: ArrowWriter<Sink>,
    columns: usize,
    flushed: usize,
}

impl Encoder {
    pub fn open(schema: SchemaRef, encodings: &Encodings, part_bytes: usize) -> Result<Self> {
        let columns = schema.fields().len();
        let options = ArrowWriterOptions::new()
            .with_properties(encodings.properties.clone())
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Sink::new(part_bytes), schema, options)
            .map_err(refused)?;
        Ok(Self { writer, columns, flushed: 0 })
    }

    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.writer.write(rows).map_err(refused)?;
        let flushed = self.writer.flushed_row_groups().len();
        if flushed > self.flushed {
            // A row group has left the encoder; it may still stand in a buffer above the sink.
            self.flushed = flushed;
            self.writer.sync().map_err(|e| Error::halt("Parquet buffer not flushed").because(e))?;
        }
        Ok(())
    }

    /// Parts of exactly the part size, ready to leave.
    pub fn take_parts(&mut self) -> impl Iterator<Item = Bytes> {
        self.writer.inner_mut().ready.drain(..)
    }

    /// Encoded so far, with an estimate of the row group in progress.
    pub fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        let pages = self.writer.in_progress_rows() > PAGE_ROWS;
        let zstd = if pages { self.columns * ZSTD_BYTES } else { 0 };
        self.writer.memory_size() + zstd + self.writer.inner().memory()
    }

    /// Writes the footer. The sink then holds the file's remaining bytes and its checksum.
    pub fn close(mut self, metadata: Vec<(&str, String)>) -> Result<Sink> {
        for (key, value) in metadata {
            self.writer.append_key_value_metadata(KeyValue::new(key.to_string(), value));
        }
        self.writer.into_inner().map_err(refused)
    }
}

fn refused(e: parquet::errors::ParquetError) -> Error {
    Error::halt("rows could not be encoded as Parquet").because(e)
}

/// The file's bytes in order, cut into parts.
pub struct Sink {
    part_bytes: usize,
    current: Vec<u8>,
    pub ready: VecDeque<Bytes>,
    sha: Sha256,
    pub bytes: u64,
}

impl Sink {
    fn new(part_bytes: usize) -> Self {
        let (current, ready) = (Vec::new(), VecDeque::new());
        Self { part_bytes, current, ready, sha: Sha256::new(), bytes: 0 }
    }

    /// Doubles, but never beyond a part: a full part's buffer has no slack.
    fn grow(&mut self, more: usize) {
        let (len, capacity) = (self.current.len(), self.current.capacity());
        if len + more > capacity {
            let wanted = (capacity * 2).clamp(len + more, self.part_bytes);
            self.current.reserve_exact(wanted - len);
        }
    }

    pub fn memory(&self) -> usize {
        self.current.capacity() + self.ready.iter().map(Bytes::len).sum::<usize>()
    }

    /// All that was not taken, as one; None when nothing is left.
    pub fn rest(&mut self) -> Option<Bytes> {
        let current = std::mem::take(&mut self.current);
        if self.ready.is_empty() {
            return (!current.is_empty()).then(|| Bytes::from(current));
        }
        let mut rest = Vec::with_capacity(self.memory() + current.len());
        self.ready.drain(..).for_each(|part| rest.extend_from_slice(&part));
        rest.extend_from_slice(&current);
        Some(Bytes::from(rest))
    }

    pub fn checksum(&self) -> String {
        hex(&self.sha.clone().finalize())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sha.update(bytes);
        self.bytes += bytes.len() as u64;
        let mut left = bytes;
        while !left.is_empty() {
            let (now, later) = left.split_at(left.len().min(self.part_bytes - self.current.len()));
            self.grow(now.len());
            self.current.extend_from_slice(now);
            if self.current.len() == self.part_bytes {
                self.ready.push_back(Bytes::from(std::mem::take(&mut self.current)));
            }
            left = later;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
