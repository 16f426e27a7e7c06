//! The running service: `cargo bench --bench end_to_end -- --follow [--rate N] [--seconds N] [--events N]`.
//!
//! 1. **Start to first commit.** Half of `--events` taps wait in a topic. From the moment that `highwater run` is
//!    started, on a database without anything in it, until PostgreSQL shows the first mark that has moved, asked every
//!    5 ms. It is told to end, the other half comes, and the same is measured of the next start.
//! 2. **Freshness.** A thread produces `--rate` taps a second, evenly, for `--seconds`; a tap carries the time
//!    of its production, on a clock that began at 06:00, and an event time up to 90 s before. Of each tap: from just before
//!    it is given to the producer, whose 5 ms of linger and whose way to Kafka are in it, until a reader of
//!    PostgreSQL sees its offset below the model's mark, which moves in the transaction that changes the row. The
//!    reader asks every 20 ms, and its answer counts when it is there: what is printed is up to 20 ms too much. The
//!    broker and the producer share the machine with the service.
//! 3. **Idle.** When nothing comes any more and all is committed, the lake too: the CPU of the process over
//!    30 s, and the most memory that it ever had.
//!
//! CPU is user and system time of the service's process. The results of 1 and of 2 are checked as the job always is.

use crate::{
    check,
    running::Running,
    services::Services,
    workload::{Expected, Grouping, Model, Shape, taps},
    world::{Declared, Job, Lake, PATIENCE, Topic},
};
use rdkafka::producer::Producer;
use std::time::{Duration, Instant};

const START_EVERY: Duration = Duration::from_millis(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Short of this the producer's thread does not sleep.
const NAP: Duration = Duration::from_millis(1);
const IDLE: Duration = Duration::from_secs(30);
/// Longest that rows of the lake wait for their file's end.
const LAKE_AGE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
pub struct Pace {
    pub rate: u64,
    pub seconds: u64,
}

pub fn measure(services: &Services, runtime: &tokio::runtime::Runtime, backlog: u64, pace: Pace) {
    start(services, runtime, backlog);
    follow(services, runtime, pace);
}

fn start(services: &Services, runtime: &tokio::runtime::Runtime, backlog: u64) {
    let shape = Shape::usual(backlog);
    let name = format!("bench_{}_start", std::process::id());
    let topic = Topic::empty(services, runtime, name, shape);
    let job = Job::new(&topic, Lake::Local, Declared::usual());
    let half = (backlog / 2) as usize;
    topic.produce(taps(shape).take(half));
    let first = |before: u64| {
        let mut running = job.start();
        let moved = wait(&job, &mut running, START_EVERY, |marks| marks.all > before);
        (running, moved)
    };
    let (running, fresh) = first(0);
    running.end();
    let committed = Marks::of(&job, &job.connect()).expect("they are there");
    topic.produce(taps(shape).skip(half));
    let (mut running, again) = first(committed.all);
    println!("start to first commit, {backlog} taps in all");
    println!("  of a new database{:>24.2} s", fresh.as_secs_f64());
    println!("  of one that is there{:>21.2} s", again.as_secs_f64());
    wait(&job, &mut running, START_EVERY, |marks| marks.model == backlog);
    running.end();
    check(&job, &Expected::of(shape, Grouping::Window).csv());
}

/// Offsets that outputs have passed.
struct Marks {
    model: u64,
    /// Of all outputs.
    all: u64,
    /// Files without their name.
    unfinished: u64,
}

impl Marks {
    /// None: the tables are not there yet.
    fn of(job: &Job<'_>, client: &tokio_postgres::Client) -> Option<Self> {
        let model = Model::usual().name;
        let sql = format!(
            "SELECT coalesce(sum(next_offset - first_offset) FILTER (WHERE output = 'model:{model}'), 0)::bigint,
                    coalesce(sum(next_offset - first_offset), 0)::bigint,
                    (SELECT count(*) FROM highwater.lake_files WHERE completed_at IS NULL)
             FROM highwater.marks"
        );
        let row = job.topic.runtime.block_on(client.query_one(&sql, &[])).ok()?;
        let number = |i: usize| row.get::<_, i64>(i) as u64;
        Some(Self { model: number(0), all: number(1), unfinished: number(2) })
    }
}

/// Until the marks are as wanted: how long after the process started.
fn wait(
    job: &Job<'_>,
    running: &mut Running,
    every: Duration,
    done: impl Fn(&Marks) -> bool,
) -> Duration {
    let client = job.connect();
    loop {
        let marks = Marks::of(job, &client);
        let taken = running.started.elapsed();
        if marks.is_some_and(|marks| done(&marks)) {
            return taken;
        }
        running.insist();
        assert!(taken < PATIENCE, "not within {PATIENCE:?}");
        std::thread::sleep(every);
    }
}

fn follow(services: &Services, runtime: &tokio::runtime::Runtime, pace: Pace) {
    let events = pace.rate * pace.seconds;
    let shape = Shape { lasts_ms: pace.seconds as i64 * 1000, ..Shape::usual(events) };
    let name = format!("bench_{}_follow", std::process::id());
    let topic = Topic::empty(services, runtime, name, shape);
    let job = Job::new(&topic, Lake::Local, Declared::usual());
    let mut running = job.start();
    // Partitions are taken when their marks are there: of the model, of the dead letters, of the lake.
    let sql = "SELECT count(*) FROM highwater.marks";
    let client = job.connect();
    let ready = |rows: Vec<tokio_postgres::Row>| rows[0].get::<_, i64>(0) as usize;
    while runtime.block_on(client.query(sql, &[])).map_or(0, ready) < 3 * shape.partitions {
        running.insist();
        std::thread::sleep(START_EVERY);
    }
    let used = running.cpu_seconds();
    let begin = Instant::now();
    let (sent, seen) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&topic, pace, begin));
        let seen = look(&job, &client, &mut running, begin, pace);
        (sender.join().expect("all taps are produced"), seen)
    });
    let (spent, took) = (running.cpu_seconds() - used, begin.elapsed().as_secs_f64());
    let latencies = latencies(&sent.at, &seen);
    assert_eq!(latencies.len() as u64, events, "each tap was seen");
    let at = |share: f64| {
        let index = ((events as f64 * share) as usize).min(latencies.len() - 1);
        latencies[index].as_secs_f64()
    };
    println!();
    println!("following {} taps/s for {} s", pace.rate, pace.seconds);
    println!("  production to PostgreSQL, p50{:>12.3} s", at(0.5));
    println!("  p99{:>38.3} s", at(0.99));
    println!("  max{:>38.3} s", at(1.0));
    println!("  answers of PostgreSQL with news{:>6}", cuts(&seen));
    println!("  producer at most late by{:>17.3} s", sent.late.as_secs_f64());
    println!("  CPU, share of a core{:>20.1} %", 100.0 * spent / took);
    println!("  CPU-s per million events{:>15.2}", spent * 1e6 / events as f64);

    let all = |marks: &Marks| marks.all == 3 * events && marks.unfinished == 0;
    wait(&job, &mut running, LAKE_AGE / 100, all);
    let used = running.cpu_seconds();
    std::thread::sleep(IDLE);
    let spent = running.cpu_seconds() - used;
    println!();
    println!("idle for {} s", IDLE.as_secs());
    println!("  CPU, share of a core{:>21.2} %", 100.0 * spent / IDLE.as_secs_f64());
    println!("  peak RSS since the start{:>14.0} MiB", running.resident_mib_max());
    running.end();
    check(&job, &Expected::of(shape, Grouping::Window).csv());
}

/// When each tap was produced, by partition and offset.
struct Sent {
    at: Vec<Vec<Duration>>,
    /// How far the thread was behind its pace at worst.
    late: Duration,
}

fn send(topic: &Topic<'_>, pace: Pace, begin: Instant) -> Sent {
    let mut sent = Sent { at: vec![Vec::new(); topic.shape.partitions], late: Duration::ZERO };
    let producer = topic.producer("5");
    let mut text = Vec::new();
    for (n, tap) in taps(topic.shape).enumerate() {
        text.clear();
        tap.json(&mut text);
        let due = Duration::from_secs_f64(n as f64 / pace.rate as f64);
        while begin.elapsed() + NAP < due {
            producer.poll(Duration::ZERO);
            std::thread::sleep(NAP);
        }
        let now = begin.elapsed();
        sent.late = sent.late.max(now.saturating_sub(due));
        // The topic was empty and the producer keeps the order: the place is the offset.
        sent.at[tap.partition].push(now);
        topic.send(&producer, &tap, &[], &text);
    }
    producer.flush(PATIENCE).expect("all taps are produced");
    sent
}

/// An answer: when it was there, and the model's next offset by partition.
type Seen = (Duration, Vec<usize>);

fn look(
    job: &Job<'_>,
    client: &tokio_postgres::Client,
    running: &mut Running,
    begin: Instant,
    pace: Pace,
) -> Vec<Seen> {
    let sql = "SELECT partition, next_offset FROM highwater.marks WHERE output = $1";
    let output = format!("model:{}", Model::usual().name);
    let statement = job.topic.runtime.block_on(client.prepare(sql)).expect(sql);
    let mut seen: Vec<Seen> = Vec::new();
    loop {
        let asked = Instant::now();
        let rows = job.topic.runtime.block_on(client.query(&statement, &[&output])).expect(sql);
        let there = begin.elapsed();
        let mut next = vec![0; job.topic.shape.partitions];
        for row in rows {
            next[row.get::<_, i32>(0) as usize] = row.get::<_, i64>(1) as usize;
        }
        let all = next.iter().sum::<usize>() as u64;
        seen.push((there, next));
        if all == job.topic.shape.events {
            return seen;
        }
        running.insist();
        assert!(
            there < Duration::from_secs(pace.seconds) + PATIENCE,
            "{all} taps are in PostgreSQL"
        );
        std::thread::sleep(LOOK_EVERY.saturating_sub(asked.elapsed()));
    }
}

/// Sorted.
fn latencies(sent: &[Vec<Duration>], seen: &[Seen]) -> Vec<Duration> {
    let mut latencies = Vec::new();
    for (partition, sent) in sent.iter().enumerate() {
        let mut from = 0;
        for (at, next) in seen {
            let to = next[partition];
            latencies.extend(sent[from..to].iter().map(|sent| *at - *sent));
            from = to;
        }
    }
    latencies.sort_unstable();
    latencies
}

/// How often PostgreSQL had something new.
fn cuts(seen: &[Seen]) -> usize {
    seen.windows(2).filter(|pair| pair[0].1 != pair[1].1).count()
}
