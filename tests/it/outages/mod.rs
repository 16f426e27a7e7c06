//! Outages as they happen: servers stopped, killed and started again under load, disks that are
//! full, networks that cut and delay, processes killed again and again.
//!
//! Each test ends in the same way: all that was produced is in the tables and once in the lake, by
//! a computation of its own and by `verify --deep`. Each is short; with HIGHWATER_TEST_LONG set an
//! outage lasts for minutes and there are dozens of them.

mod brokers;
mod database;
mod disk;
mod kills;
mod sinks;
mod store;

use crate::{
    support::{Running, World},
    taps::{assert_lake, assert_tables, records, taps},
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// The long form is asked for.
fn is_long() -> bool {
    std::env::var_os("HIGHWATER_TEST_LONG").is_some()
}

fn short_or_long<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// A producer that goes on all the time.
struct Input {
    ends: Arc<AtomicBool>,
    sent: Arc<AtomicI64>,
    thread: JoinHandle<i64>,
}

/// Records are sent so often.
const PACE: Duration = Duration::from_millis(10);

impl Input {
    /// `rate` records a second, or as many as go.
    fn start(world: &World, rate: i64) -> Self {
        let (ends, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let (brokers, topic) = (world.services.kafka.clone(), world.kafka_topic.clone());
        let (told, so_far) = (ends.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            let producer: BaseProducer = ClientConfig::new()
                .set("bootstrap.servers", brokers)
                .set("partitioner", "murmur2_random")
                .set("linger.ms", "20")
                .set("compression.type", "lz4")
                .set("enable.idempotence", "true")
                .set("acks", "all")
                .create()
                .expect("producer");
            let begin = Instant::now();
            let mut next = 0;
            while !told.load(Ordering::Relaxed) {
                let due = (begin.elapsed().as_secs_f64() * rate as f64) as i64;
                for (key, value) in records(next..due.min(next + rate / 10)) {
                    while let Err((error, _)) =
                        producer.send(BaseRecord::to(&topic).key(&key).payload(&value))
                    {
                        let full = error.rdkafka_error_code();
                        assert_eq!(full, Some(rdkafka::types::RDKafkaErrorCode::QueueFull));
                        producer.poll(PACE);
                    }
                    next += 1;
                }
                so_far.store(next, Ordering::Relaxed);
                producer.poll(PACE);
            }
            producer.flush(Duration::from_secs(120)).expect("flush");
            next
        });
        Self { ends, sent, thread }
    }

    fn sent(&self) -> i64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// All that was sent, acknowledged.
    fn end(self) -> i64 {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().expect("the producer")
    }
}

/// What every output has passed.
fn passed(world: &World) -> i64 {
    if world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 0 {
        return 0;
    }
    world.number(
        "SELECT coalesce(min(passed), 0) FROM
         (SELECT sum(next_offset) AS passed FROM highwater.marks GROUP BY output) AS outputs",
    )
}

/// Nothing is lost and nothing is there twice.
fn assert_exact(world: &World, records: i64) {
    assert_tables(world, taps(0..records));
    assert_lake(world, records);
    world.assert_proof();
    let proof = world.run(&["verify", "--deep"]);
    assert!(proof.contains("everything holds") && proof.contains("2 tables rebuilt"), "{proof}");
}

/// The topic does not stand, and the process is there.
fn assert_alive(service: &mut Running) {
    assert!(service.is_running(), "{}", service.printed());
    let status = service.status();
    assert!(status["topics"][0]["stopped"].is_null(), "{status}\n{}", service.printed());
}

fn last_error(service: &mut Running) -> String {
    let status = service.status();
    status["topics"][0]["last_error"].as_str().unwrap_or_default().to_owned()
}
