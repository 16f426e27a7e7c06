//! One integration binary: the whole product against real Kafka, PostgreSQL and an S3 server.

mod oyster;
mod simulation;
mod support;
mod tidy;
