//! Deltas, rows, marks and the manifest in PostgreSQL, each cut in one transaction.
//!
//! Owns: migrations, tables of models, statements, encoding Arrow to PostgreSQL's binary format,
//! which SQLSTATE means what. Does not own: what is in a cut, when it is committed.
//!
//! W-1  A commit moves each mark from `span.from` at our epoch, or changes nothing at all.
//! W-2  Keys are written in sorted order, marks too: no deadlock between processes.
//! W-3  A lost reply is `Unknown`: the caller takes the partitions anew, which waits for the old
//!      transaction to end, and believes the marks.

pub mod encode;
pub mod postgres;
pub mod tables;

#[cfg(feature = "embedded")]
pub mod embedded;
