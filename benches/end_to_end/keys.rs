//! How many rows of a table change in a second: `cargo bench --bench end_to_end -- --keys N`.
//!
//! The model groups by stop alone, and there are N stops. The first N taps are each of another stop, so
//! that all rows are new; when they are committed, N more are again each of another stop, in another
//! order, so that all rows change. Both are done from a backlog by `run --until-caught-up`.
//!
//! Unit: changed keys per second, from the start of the process to its end, everything else that a tap
//! costs included (decoding, the lake); and CPU-seconds per million keys, of the process and of
//! PostgreSQL with all of its processes where it runs on this machine. Elapsed time depends on
//! who else uses the machine. The result is checked as the job always is.

use crate::{
    check,
    running::postgres_cpu_seconds,
    services::Services,
    workload::{Expected, Grouping, Model, Shape, round},
    world::{Declared, Job, Lake, Topic},
};

/// MiB of the table and of its key, and the share of changes that needed no new entry in the key's index.
const SIZES: &str = "SELECT pg_relation_size(relid) >> 20, pg_indexes_size(relid) >> 20,
    coalesce(round(100.0 * n_tup_hot_upd / nullif(n_tup_upd, 0)), 0) FROM pg_stat_user_tables WHERE relname = ";

pub fn measure(
    services: &Services,
    runtime: &tokio::runtime::Runtime,
    keys: usize,
    under: &[String],
) {
    let usual = Shape::usual(keys as u64);
    let shape = Shape { stops: keys, ..usual };
    let name = format!("bench_{}_keys", std::process::id());
    let both = Shape { events: 2 * shape.events, ..shape };
    let topic = Topic::empty(services, runtime, name, both);
    let model = Model { grouping: Grouping::Stop, ..Model::usual() };
    let sizes = format!("{SIZES} '{}'", model.name);
    let job = Job::new(&topic, Lake::Local, Declared { models: vec![model], ..Declared::usual() });
    println!(
        "{:>8} {:>10} {:>10} {:>11} {:>14} {:>8} {:>9} {:>9} {:>6}",
        "rows",
        "changed",
        "keys/s",
        "CPU-s/M",
        "PostgreSQL's",
        "RSS MiB",
        "table MiB",
        "index MiB",
        "HOT %"
    );
    for (number, rows) in ["new", "there"].into_iter().enumerate() {
        topic.produce(round(shape, number));
        let before = postgres(&job);
        let cost = job.run(under, 1);
        let after = postgres(&job);
        let per_million = |seconds: f64| seconds * 1e6 / keys as f64;
        let spent = before.zip(after).map(|(before, after)| per_million(after - before));
        let size = &job.query(&sizes)[0];
        let size = |i: usize| size[i].as_deref().unwrap_or("?");
        println!(
            "{rows:>8} {keys:>10} {:>10.0} {:>11.2} {:>14} {:>8.0} {:>9} {:>9} {:>6}",
            keys as f64 / cost.seconds,
            per_million(cost.cpu_seconds()),
            spent.map_or("elsewhere".to_owned(), |seconds| format!("{seconds:.2}")),
            cost.resident_mib_max(),
            size(0),
            size(1),
            size(2),
        );
    }
    let taps = round(shape, 0).chain(round(shape, 1));
    check(&job, &Expected::of_taps(shape, Grouping::Stop, taps).csv());
}

fn postgres(job: &Job<'_>) -> Option<f64> {
    let client = job.connect();
    let row = job.topic.runtime.block_on(client.query_one("SELECT pg_backend_pid()", &[]));
    postgres_cpu_seconds(row.expect("PostgreSQL").get::<_, i32>(0) as u32)
}
