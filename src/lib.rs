//! highwater: Kafka to partitioned Parquet and PostgreSQL tables, exactly once, provably.

pub mod catalog;
pub mod cut;
pub mod decode;
pub mod error;
pub mod event_time;
pub mod lake;
pub mod record;
pub mod warehouse;
