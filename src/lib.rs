//! highwater: Kafka to partitioned Parquet and PostgreSQL tables, exactly once, provably.

pub mod catalog;
pub mod compute;
pub mod config;
pub mod cut;
pub mod decode;
pub mod error;
pub mod event_time;
pub mod lake;
pub mod ops;
pub mod pipeline;
pub mod record;
pub mod source;
pub mod warehouse;
