//! From fetched records to committed cuts: one pipeline per topic.
//!
//! Owns: which offsets go into which cut, when a cut ends, what follows each outcome.
//! Does not own: what a cut yields (`compute`, `lake`) and how it is committed (`warehouse`).
//!
//! [`worker`] decides and does nothing; [`driver`] does and decides nothing, so that the whole
//! worker runs under seeded faults in one thread. Both know two *lanes* (the tables, and the
//! lake), which fail, recover and commit independently of each other over one reader.
//!
//! A topic whose source gets another table ends, notes what it met, and begins anew in its place ([`drift`]).
//! Beside the flow: [`rebuild`] makes a model anew, [`rewrite`] files of the lake, [`retry`] takes dead letters after all, `forward` sends
//! them on to Kafka, `snapshots` has snapshots of a source swapped in when they have ended.
//!
//! P-1  At most one commit is in flight per lane, so per output.
//! P-2  A lane admits each offset once, in order, from its mark.
//! P-3  The reader of a partition never stands above a lane that is open on it: what the reader
//!      passes without a record was compacted or is a transaction's marker.
//! P-4  After any failure a lane's partitions are taken anew (which fences whatever may still be
//!      under way) and the reader goes back to the marks. There is no other way to recover.
//! P-5  A revoked partition is released only when nothing of it is open or in flight.
//! G-4  A partition whose offsets are gone is read by nobody and keeps nobody else from going on; each
//!      lane is judged by its own marks, anew at every take, and takes are repeated while it stands.
//! X-1  The first record of a table of the source that is not known is admitted by nobody before the table is
//!      recorded, and is no addition that nobody follows.
//! X-2  A table is compared with the one before it in its partition, across restarts.
//! J-1  The lake's cuts of a judged topic end at or below the mark of the dead letters (`worker`'s
//!      `follow`).

pub mod drift;
pub mod driver;
pub mod owed;
pub mod parts;
pub mod rebuild;
pub mod retry;
pub mod rewrite;
pub mod worker;

mod breaker;
mod counting;
mod encoder;
mod forward;
mod held;
mod report;
mod requests;
mod snapshots;
mod tables;
mod whole;

pub use report::{PartitionStatus, TopicStatus};
pub use tables::{References, TablesLane};
