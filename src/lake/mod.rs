//! Rows to Parquet files that appear only when committed.
//!
//! Owns: file layout and names, encoding, when a file is large enough, publishing in two phases.
//! Does not own: the marks, the manifest's rows (`warehouse`), when to cut (`pipeline::worker`).
//!
//! ```text
//! RecordBatch ─► layout ─► writer ─► encoder ─► parts ─► store ─► begin, put_part … complete
//!               which path  gathers    Parquet   8 MiB             invisible ……… visible
//!               has a row   per file   in memory
//! ```
//!
//! L-1  Several event-time partitions are open at once: one file per hive path and cut.
//! L-2  In a hive path, files in order of name hold each Kafka partition's offsets in order.
//! L-3  An upload is whole before its cut is committed, and gets its name only afterwards.
//! L-4  Memory does not grow with file size: row groups leave as parts.
//! L-5  Nothing is removed that a cut, committed or under way, refers to.

pub mod layout;
pub mod leftovers;
pub mod reader;
pub mod refusal;
pub mod store;
pub mod writer;

mod directory;
mod encoder;
mod services;

#[cfg(test)]
mod fixture;
