//! Operations on rows: what every format of changes comes down to.
//!
//! Owns: the operation model ([`Change`]), what several formats ask of a message. Does not own: how
//! a message is taken apart (one file per format), what becomes of an operation
//! (`compute`).

use super::scan::{Broken, members, plain};
use crate::catalog::Encoding;
use std::{borrow::Cow, sync::Arc};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Insert,
    Update,
    Delete,
    /// Of a snapshot: the row is there now.
    Read,
    /// All rows of the table are gone.
    Truncate,
}

impl Operation {
    /// As in the column `_op`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Read => "read",
            Self::Truncate => "truncate",
        }
    }
}

/// What a read is of, where the record says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SnapshotRead {
    /// A snapshot of the whole table, during which nothing else is sent.
    Row,
    /// Its last row.
    Last,
    /// A row read again while changes go on: nothing follows for other rows.
    Incremental,
}

impl SnapshotRead {
    /// As in the column `_snapshot`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Row => "row",
            Self::Last => "last",
            Self::Incremental => "incremental",
        }
    }
}

/// What one record says, borrowed from it.
pub struct Change<'a> {
    pub operation: Operation,
    /// A JSON object: the row as it is now, or as it was before a delete. None: a truncate.
    pub image: Option<Image<'a>>,
    /// The row as it was before, as far as the record says; a part of it where the topic does not
    /// say that before-images are whole.
    pub before: Option<Cow<'a, str>>,
    /// Ascends byte by byte with the source's log; empty of what was read before any change, and
    /// where offsets are the order.
    pub position: String,
    /// Microseconds since 1970; None: the source does not say.
    pub source_time: Option<i64>,
    /// How each kept column is written, where the record carries its schema.
    pub encodings: Option<Arc<[Encoding]>>,
    /// By kept column, whether the image of an update leaves it out, where a mask says so.
    pub left_out: Option<Arc<[bool]>>,
    /// Of a read.
    pub snapshot: Option<SnapshotRead>,
}

/// The row's image, in this text.
pub struct Image<'a> {
    pub text: Cow<'a, str>,
    /// Its fields were found on the way, so many of them unknown.
    pub found: Option<u64>,
}

impl<'a> Image<'a> {
    pub fn of(text: impl Into<Cow<'a, str>>) -> Self {
        Self { text: text.into(), found: None }
    }
}

impl Change<'_> {
    /// With what was borrowed, copied.
    pub fn into_owned(self) -> Change<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let image = |image: Image<'_>| Image { text: owned(image.text), found: image.found };
        Change { image: self.image.map(image), before: self.before.map(owned), ..self }
    }
}

/// What a record is.
pub enum Said<'a> {
    /// A row, in JSON.
    Row(Cow<'a, str>),
    /// A row, in JSON, and how its schema says that each kept column is written.
    Encoded(String, Arc<[Encoding]>),
    Change(Change<'a>),
    /// Nothing about a row: a tombstone, a transaction's border, a heartbeat, a change of schema.
    Nothing,
}

/// The sentence of a part of a message that cannot be read.
pub fn not_json(what: &str, broken: Broken) -> String {
    format!("the {what} is not a JSON object: byte {}: {}", broken.at, broken.why)
}

/// The row as it was, where a message has the row as it is (of a delete: as it went) and, in `old`,
/// what its update changed. `whole`: the topic says that this makes a whole row.
pub fn before<'a>(
    operation: Operation,
    row: Option<&'a str>,
    old: Option<&'a str>,
    whole: bool,
) -> Result<Option<Cow<'a, str>>, String> {
    match operation {
        Operation::Update if whole => row.map(|row| overlaid(row, old)).transpose(),
        Operation::Update => Ok(old.map(Cow::Borrowed)),
        Operation::Delete if whole => Ok(row.map(Cow::Borrowed)),
        Operation::Delete | Operation::Insert | Operation::Read | Operation::Truncate => Ok(None),
    }
}

/// Microseconds of a whole number of units; None: it is none, or does not fit.
pub fn micros(raw: &str, unit_us: i64) -> Option<i64> {
    raw.parse::<i64>().ok()?.checked_mul(unit_us)
}

/// `old` has the columns that changed. Of a repeated key the last one counts.
fn overlaid<'a>(data: &'a str, old: Option<&'a str>) -> Result<Cow<'a, str>, String> {
    let Some(old) = old else { return Ok(data.into()) };
    let mut any = false;
    members(old, |_, _| any = true).map_err(|broken| not_json("`old`", broken))?;
    let begin = data.trim_end().strip_suffix('}').filter(|begin| begin.starts_with('{'));
    match (begin, old.strip_prefix('{')) {
        (Some("{"), _) => Ok(old.into()),
        (Some(begin), Some(end)) if any => Ok(format!("{begin},{end}").into()),
        (Some(_), Some(_)) => Ok(data.into()),
        _ => Err("`data` is not a JSON object".to_owned()),
    }
}

/// Whether a record is of the table that the topic file names, as `database.table`.
pub fn is_of(wanted: Option<&str>, database: Option<&str>, table: Option<&str>) -> bool {
    let Some(wanted) = wanted else { return true };
    let name = |raw: Option<&'_ str>| raw.map_or(String::new(), |raw| plain(raw).to_owned());
    wanted.split_once('.') == Some((&name(database), &name(table)))
}
