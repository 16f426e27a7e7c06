//! Operations on rows: what every format of changes comes down to.
//!
//! Owns: the operation model ([`Change`]), the columns that a change has beside its row. Does not
//! own: how a message is taken apart (one file per format), what becomes of an operation
//! (`compute`).

use crate::catalog::Encoding;
use std::sync::Arc;

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

/// What one record says, borrowed from it.
pub struct Change<'a> {
    pub operation: Operation,
    /// A JSON object: the row as it is now, or as it was before a delete. None: a truncate.
    pub image: Option<&'a str>,
    /// The row as it was before, as far as the record says.
    pub before: Option<&'a str>,
    /// Ascends byte by byte with the source's log.
    pub position: String,
    /// Microseconds since 1970; None: the source does not say.
    pub source_time: Option<i64>,
    /// How each kept column is written, where the record carries its schema.
    pub encodings: Option<Arc<[Encoding]>>,
}

/// What a record is.
pub enum Said<'a> {
    /// A row, in JSON.
    Row(&'a str),
    Change(Change<'a>),
    /// Nothing about a row: a tombstone, a transaction's border, a heartbeat, a change of schema.
    Nothing,
}
