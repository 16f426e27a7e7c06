//! One integration binary: the whole product against real Kafka, PostgreSQL and an S3 server.

mod commands;
mod dead_letters;
mod faults;
mod fencing;
mod following;
mod gaps;
mod http;
mod lake;
mod mirrored;
mod outages;
mod oyster;
mod proxy;
mod references;
mod refusing;
mod replay;
mod retention;
mod schemas;
mod simulation;
mod support;
mod taps;
mod tidy;
mod time;
mod transactions;
mod unique;
mod verify;
mod windows;
