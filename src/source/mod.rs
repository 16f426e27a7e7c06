//! Kafka in: group membership and records, from positions that the marks dictate; and the schemas
//! that records refer to.
//!
//! Owns: the consumer, who tells whom about assignment, one fetch queue per topic, asking a schema
//! registry.
//! Does not own: where to start (marks), when to fetch (`pipeline::worker`), decoding.
//!
//! S-1  Records come out only of partitions that were seeked since they were assigned, and only
//!      from the offset seeked to.
//! S-2  The group's committed offsets are written for lag tools and never read.
//! S-3  Not fetching is the whole of backpressure: the consumer is polled all the time, so the
//!      group sees no difference between slow and idle.

#[cfg(feature = "embedded")]
pub mod broker;
pub mod kafka;
pub mod registry;
