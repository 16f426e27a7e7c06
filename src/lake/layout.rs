//! Where each row goes: the hive path of its file, and the file's name.
//!
//! Owns: names of files, percent-encoding of values, event time to local date and hour.
//! Does not own: bytes (see `writer`), which columns may stand in a path (`catalog`).
//!
//! A path is rendered once per value, never once per row: rows carry small numbers, and the hour
//! of an event time is looked up by its quarter of an hour. Offsets of zones are multiples of 15
//! minutes but for a few of before 1972; a quarter in which the local hour changes is therefore
//! worked out row by row, so that the cache cannot be wrong.

use crate::catalog::{PartitionFunction, Topic};
use crate::error::{Error, Result};
use crate::record::{Epoch, Offset, Partition};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Field, Schema, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, NaiveDate, Timelike};
use chrono_tz::Tz;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write as _;

/// What Hive, Spark and DuckDB read as NULL. An empty text goes there too, as Hive has it; the
/// column itself is in the file and keeps the difference.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// A folder's name on a file system has at most 255 bytes. A value that is longer when encoded is
/// cut, and its SHA-256 appended, so that two long values keep two folders.
const VALUE_BYTES_MAX: usize = 200;

/// The name of one cut's files: its number, and its lowest partition with first offset and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileName {
    pub sequence: i64,
    pub partition: Partition,
    pub from: Offset,
    pub epoch: Epoch,
    pub origin: Origin,
}

/// What made a file. A retry of dead letters takes offsets that cuts have passed, so its files
/// stand beside those of cuts: their names end in `-retry` and are exempt from L-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Cut,
    Retry,
    /// Of a rewrite, by its number, which no other has: its names recur nowhere, and stand in the
    /// order of those of cuts.
    Rewrite(i64),
}

impl FileName {
    /// Zero-padded: order of name is order of sequence (L-2). A retry's is told from others by
    /// its first offset, which the lake takes once.
    pub fn file(&self) -> String {
        let Self { sequence, partition, from, epoch, origin } = self;
        let retry = match origin {
            Origin::Cut => String::new(),
            Origin::Retry => "-retry".to_owned(),
            Origin::Rewrite(number) => format!("-g{number}"),
        };
        format!("{sequence:012}-{:05}-{:019}-{}{retry}.parquet", partition.0, from.0, epoch.0)
    }
}

/// Rows of a batch that share a path; `path` counts the layout's paths from 0, in order of first
/// appearance.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    pub path: usize,
    pub rows: Rows,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Rows {
    All,
    /// Ascending.
    Some(Vec<u32>),
}

/// The paths of one cut. Grows with the number of distinct paths, which the writer limits.
pub struct Layout {
    root: String,
    levels: Vec<Level>,
    sources: Vec<Source>,
    /// Sources after the first are folded into one key per row, two numbers at a time.
    folds: Vec<Fold>,
    /// By key: the path. Several keys may share one (hours of a day, where only the day counts).
    path_of: Vec<usize>,
    paths: Vec<String>,
    ids: HashMap<String, usize>,
    keys: Vec<u32>,
    other: Vec<u32>,
    slots: Vec<u32>,
}

struct Level {
    name: String,
    function: PartitionFunction,
    source: usize,
}

/// A column that paths depend on: its values, numbered.
enum Source {
    Time(Box<Times>),
    Value(Values),
}

impl Layout {
    pub fn new(topic: &Topic) -> Self {
        let mut sources: Vec<Source> = Vec::new();
        let mut levels = Vec::new();
        if let Some(lake) = &topic.lake {
            for by in &lake.partition_by {
                let source = sources.iter().position(|s| s.serves(by.column, by.function));
                let source = source.unwrap_or_else(|| {
                    sources.push(match by.function {
                        PartitionFunction::Date | PartitionFunction::Hour => {
                            Source::Time(Box::new(Times::new(by.column, lake.time_zone)))
                        }
                        PartitionFunction::Value => Source::Value(Values::new(by.column)),
                    });
                    sources.len() - 1
                });
                levels.push(Level { name: by.name.clone(), function: by.function, source });
            }
        }
        let folds = sources.iter().skip(1).map(|_| Fold::default()).collect();
        Self {
            root: topic.name.to_string(),
            levels,
            sources,
            folds,
            path_of: Vec::new(),
            paths: Vec::new(),
            ids: HashMap::new(),
            keys: Vec::new(),
            other: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// `TOPIC/date=2024-03-01/hour=08`, of a [`Group`].
    pub fn path(&self, path: usize) -> &str {
        &self.paths[path]
    }

    /// Distinct paths seen.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Groups the rows by path; each row is in exactly one group.
    pub fn split(&mut self, rows: &RecordBatch) -> Result<Vec<Group>> {
        if rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        self.keys.clear();
        match self.sources.split_first_mut() {
            None => self.keys.push(0),
            Some((first, rest)) => {
                first.keys(rows, &mut self.keys)?;
                for (source, fold) in rest.iter_mut().zip(&mut self.folds) {
                    self.other.clear();
                    source.keys(rows, &mut self.other)?;
                    fold.combine(&mut self.keys, &self.other);
                }
            }
        }
        self.render_new_keys();

        let first = self.keys[0];
        if self.keys.iter().all(|key| *key == first) {
            return Ok(vec![Group { path: self.path_of[first as usize], rows: Rows::All }]);
        }
        let mut groups: Vec<(usize, Vec<u32>)> = Vec::new();
        self.slots.resize(self.paths.len(), u32::MAX);
        for (row, key) in self.keys.iter().enumerate() {
            let path = self.path_of[*key as usize];
            let slot = &mut self.slots[path];
            if *slot == u32::MAX {
                *slot = groups.len() as u32;
                groups.push((path, Vec::new()));
            }
            groups[*slot as usize].1.push(row as u32);
        }
        for (path, _) in &groups {
            self.slots[*path] = u32::MAX;
        }
        if let [(path, _)] = groups.as_slice() {
            return Ok(vec![Group { path: *path, rows: Rows::All }]);
        }
        Ok(groups.into_iter().map(|(path, rows)| Group { path, rows: Rows::Some(rows) }).collect())
    }

    fn render_new_keys(&mut self) {
        let keys = match (self.folds.last(), self.sources.first()) {
            (Some(fold), _) => fold.members.len(),
            (None, Some(source)) => source.len(),
            (None, None) => 1,
        };
        for key in self.path_of.len()..keys {
            let path = self.render(key as u32);
            let next = self.paths.len();
            let id = *self.ids.entry(path).or_insert_with_key(|path| {
                self.paths.push(path.clone());
                next
            });
            self.path_of.push(id);
        }
    }

    fn render(&self, key: u32) -> String {
        let mut of_sources = vec![key; self.sources.len()];
        let mut key = key;
        for (i, fold) in self.folds.iter().enumerate().rev() {
            let (before, own) = fold.members[key as usize];
            of_sources[i + 1] = own;
            key = before;
        }
        if let Some(first) = of_sources.first_mut() {
            *first = key;
        }
        let mut path = self.root.clone();
        for level in &self.levels {
            let value = self.sources[level.source].text(of_sources[level.source], level.function);
            let _ = write!(path, "/{}={value}", level.name);
        }
        path
    }
}

impl Source {
    fn serves(&self, column: usize, function: PartitionFunction) -> bool {
        match self {
            Self::Time(times) => times.column == column && function != PartitionFunction::Value,
            Self::Value(values) => values.column == column && function == PartitionFunction::Value,
        }
    }

    /// Appends one number per row.
    fn keys(&mut self, rows: &RecordBatch, keys: &mut Vec<u32>) -> Result<()> {
        match self {
            Self::Time(times) => times.keys(rows, keys),
            Self::Value(values) => values.keys(rows, keys),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Time(times) => times.hours.len(),
            Self::Value(values) => values.texts.len(),
        }
    }

    fn text(&self, key: u32, function: PartitionFunction) -> String {
        match self {
            Self::Time(times) => match (times.hours[key as usize], function) {
                (None, _) => NULL.into(),
                (Some((_, hour)), PartitionFunction::Hour) => format!("{hour:02}"),
                (Some((date, _)), PartitionFunction::Date | PartitionFunction::Value) => {
                    format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day())
                }
            },
            Self::Value(values) => values.texts[key as usize].clone(),
        }
    }
}

/// Pairs of (key so far, key of one more source), numbered.
#[derive(Default)]
struct Fold {
    pairs: HashMap<(u32, u32), u32>,
    members: Vec<(u32, u32)>,
}

impl Fold {
    fn combine(&mut self, keys: &mut [u32], other: &[u32]) {
        let mut last: Option<((u32, u32), u32)> = None;
        for (key, other) in keys.iter_mut().zip(other) {
            let pair = (*key, *other);
            *key = match last {
                Some((same, id)) if same == pair => id,
                _ => *self.pairs.entry(pair).or_insert_with(|| {
                    self.members.push(pair);
                    self.members.len() as u32 - 1
                }),
            };
            last = Some((pair, *key));
        }
    }
}

const QUARTER_US: i64 = 900_000_000;
const DAY_US: i64 = 86_400_000_000;
const RECENT: usize = 64;

/// None: no time, or one that no calendar reaches.
type Hour = Option<(NaiveDate, u8)>;

/// Instants to hours of a zone. A `date` column has no zone: it stands for its midnight.
struct Times {
    column: usize,
    zone: Tz,
    hours: Vec<Hour>,
    ids: HashMap<Hour, u32>,
    /// By quarter of an hour since 1970. One entry per quarter of data seen in the cut.
    quarters: HashMap<i64, u32>,
    /// The same by the quarter's low bits: rows that jump between hours cost no hashing.
    recent: [(i64, u32); RECENT],
}

impl Times {
    fn new(column: usize, zone: Tz) -> Self {
        Self {
            column,
            zone,
            hours: Vec::new(),
            ids: HashMap::new(),
            quarters: HashMap::new(),
            // No quarter has this number: microseconds end before.
            recent: [(i64::MIN, 0); RECENT],
        }
    }

    fn keys(&mut self, rows: &RecordBatch, keys: &mut Vec<u32>) -> Result<()> {
        let column = rows.column(self.column);
        match column.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let column = column.as_primitive::<TimestampMicrosecondType>();
                if column.null_count() == 0 {
                    keys.extend(column.values().iter().map(|at| self.key(*at)));
                } else {
                    keys.extend(column.iter().map(|at| match at {
                        Some(at) => self.key(at),
                        None => self.number(None),
                    }));
                }
            }
            DataType::Date32 => {
                self.zone = Tz::UTC;
                let column = column.as_primitive::<Date32Type>();
                keys.extend(column.iter().map(|day| match day {
                    Some(day) => self.key(i64::from(day) * DAY_US),
                    None => self.number(None),
                }));
            }
            other => {
                let name = rows.schema_ref().field(self.column).name().clone();
                return Err(Error::halt(format!(
                    "lake paths need a time: date() and hour() take timestamptz or date, column={name} type={other}"
                )));
            }
        }
        Ok(())
    }

    #[inline]
    fn key(&mut self, at: i64) -> u32 {
        let quarter = at.div_euclid(QUARTER_US);
        let (cached, id) = self.recent[quarter as usize % RECENT];
        if cached == quarter { id } else { self.look_up(quarter, at) }
    }

    #[cold]
    fn look_up(&mut self, quarter: i64, at: i64) -> u32 {
        let id = match self.quarters.get(&quarter) {
            Some(id) => *id,
            None => {
                let start = quarter.saturating_mul(QUARTER_US);
                let first = self.hour(start);
                if first != self.hour(start.saturating_add(QUARTER_US - 1)) {
                    let hour = self.hour(at);
                    return self.number(hour);
                }
                let id = self.number(first);
                self.quarters.insert(quarter, id);
                id
            }
        };
        self.recent[quarter as usize % RECENT] = (quarter, id);
        id
    }

    fn hour(&self, at: i64) -> Hour {
        let local = DateTime::from_timestamp_micros(at)?.with_timezone(&self.zone).naive_local();
        Some((local.date(), local.hour() as u8))
    }

    fn number(&mut self, hour: Hour) -> u32 {
        *self.ids.entry(hour).or_insert_with(|| {
            self.hours.push(hour);
            self.hours.len() as u32 - 1
        })
    }
}

/// A column's own values, by their text.
struct Values {
    column: usize,
    ids: HashMap<Box<[u8]>, u32>,
    /// Encoded.
    texts: Vec<String>,
}

impl Values {
    fn new(column: usize) -> Self {
        Self { column, ids: HashMap::new(), texts: Vec::new() }
    }

    fn keys(&mut self, rows: &RecordBatch, keys: &mut Vec<u32>) -> Result<()> {
        let column = rows.column(self.column);
        match column.data_type() {
            DataType::Utf8 => {
                self.number(column.as_string::<i32>().iter().map(|v| v.map(str::as_bytes)), keys)
            }
            DataType::Binary => self.number(column.as_binary::<i32>().iter(), keys),
            other => {
                let text = cast(column, &DataType::Utf8).map_err(|e| {
                    Error::halt(format!("a lake path cannot hold this column, type={other}"))
                        .because(e)
                })?;
                self.number(text.as_string::<i32>().iter().map(|v| v.map(str::as_bytes)), keys)
            }
        }
        Ok(())
    }

    fn number<'a>(&mut self, values: impl Iterator<Item = Option<&'a [u8]>>, keys: &mut Vec<u32>) {
        let mut last: Option<(&[u8], u32)> = None;
        keys.extend(values.map(|value| {
            let value = value.unwrap_or_default();
            if let Some((same, id)) = last
                && same == value
            {
                return id;
            }
            let id = match self.ids.get(value) {
                Some(id) => *id,
                None => {
                    self.texts.push(if value.is_empty() { NULL.into() } else { encode(value) });
                    let id = self.texts.len() as u32 - 1;
                    self.ids.insert(value.into(), id);
                    id
                }
            };
            last = Some((value, id));
            id
        }));
    }
}

/// Percent-encodes all but letters, digits and `-._~`: what URLs, shells and Hive leave alone.
fn encode(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(*byte));
            }
            other => {
                let _ = write!(text, "%{other:02X}");
            }
        }
    }
    if text.len() > VALUE_BYTES_MAX {
        let mut end = VALUE_BYTES_MAX - 33;
        // Not through the middle of a `%2F`.
        while text.as_bytes()[end - 1] == b'%' || text.as_bytes()[end - 2] == b'%' {
            end -= 1;
        }
        text.truncate(end);
        text.push('~');
        text.push_str(&hex(&Sha256::digest(value)[..16]));
    }
    text
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Two files with the same fingerprint have the same columns: names, types, nullability, order.
pub fn fingerprint(schema: &Schema) -> String {
    let mut sha = Sha256::new();
    for field in schema.fields() {
        let line: &Field = field;
        sha.update(format!("{} {} {}\n", line.name(), line.data_type(), line.is_nullable()));
    }
    hex(&sha.finalize()[..16])
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
