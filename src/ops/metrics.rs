//! ⇄ Prometheus: names, help texts, buckets, and what is measured of the process itself.

use crate::error::{Error, Result};
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Seconds, from a fast commit to a slow upload.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
const ROWS: [f64; 8] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7];

/// Installs the process's recorder. Only once per process.
pub fn install(memory_budget: usize) -> Result<PrometheusHandle> {
    let wrong = |e| Error::halt("set up metrics").because(e);
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .map_err(wrong)?
        .set_buckets_for_metric(Matcher::Suffix("_rows".into()), &ROWS)
        .map_err(wrong)?
        .install_recorder()
        .map_err(wrong)?;
    describe();
    gauge!("highwater_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gauge!("highwater_memory_budget_bytes").set(memory_budget as f64);
    Ok(handle)
}

/// What a scrape gets. The recorder's counters are whole numbers, too coarse for CPU seconds: those
/// are kept in a gauge and told as the counter that they are.
pub fn exposition(handle: &PrometheusHandle) -> String {
    let name = "# TYPE highwater_process_cpu_seconds_total ";
    handle.render().replacen(&format!("{name}gauge"), &format!("{name}counter"), 1)
}

fn describe() {
    describe_counter!("highwater_records_total", Unit::Count, "Records fetched from Kafka");
    describe_counter!("highwater_bytes_total", Unit::Bytes, "Bytes of values fetched from Kafka");
    describe_counter!(
        "highwater_rejects_total",
        Unit::Count,
        "Records refused by decode, by class"
    );
    describe_counter!("highwater_unknown_fields_total", Unit::Count, "Fields that no column names");
    describe_counter!(
        "highwater_late_total",
        Unit::Count,
        "Rows that came after their window was final"
    );
    describe_counter!(
        "highwater_negative_deltas_total",
        Unit::Count,
        "Differences of delta(x) that went below zero"
    );
    describe_counter!(
        "highwater_old_changes_total",
        Unit::Count,
        "Changes that were not later than what was stored of their row"
    );
    describe_counter!(
        "highwater_orphans_total",
        Unit::Count,
        "Updates of rows that were not there, and inserts without all of a row"
    );
    describe_gauge!(
        "highwater_snapshots_held",
        Unit::Count,
        "Models of which a snapshot of the source waits for a person"
    );
    describe_counter!(
        "highwater_snapshots_total",
        Unit::Count,
        "Snapshots of a source that have ended, by what became of them"
    );
    describe_counter!(
        "highwater_unfit_rows_total",
        Unit::Count,
        "Rows of a source, changed, that an expression of a model fails on"
    );
    describe_counter!(
        "highwater_filtered_total",
        Unit::Count,
        "Rows that a model's WHERE left out"
    );
    describe_counter!(
        "highwater_duplicates_total",
        Unit::Count,
        "Records whose key was taken before, committed"
    );
    describe_counter!(
        "highwater_reference_misses_total",
        Unit::Count,
        "Rows that found nothing in a model's reference"
    );
    describe_counter!(
        "highwater_reference_failures_total",
        Unit::Count,
        "Loads of a reference that failed"
    );
    describe_gauge!("highwater_reference_rows", Unit::Count, "Rows of the newest version");
    describe_counter!("highwater_cuts_total", Unit::Count, "Cuts sealed, by lane and reason");
    describe_histogram!("highwater_cut_rows", Unit::Count, "Rows accepted per committed cut");
    describe_histogram!("highwater_cut_open_seconds", Unit::Seconds, "How long a cut was open");
    describe_histogram!(
        "highwater_commit_seconds",
        Unit::Seconds,
        "Duration of a commit in PostgreSQL"
    );
    describe_counter!(
        "highwater_commits_refused_total",
        Unit::Count,
        "Cuts and claims that failed, by kind"
    );
    describe_counter!("highwater_lake_files_total", Unit::Count, "Lake files committed");
    describe_counter!("highwater_lake_bytes_total", Unit::Bytes, "Bytes of lake files committed");
    describe_counter!("highwater_lake_rolls_total", Unit::Count, "Lake cuts sealed, by reason");
    describe_histogram!("highwater_upload_seconds", Unit::Seconds, "Duration of putting one part");
    describe_counter!(
        "highwater_swept_total",
        Unit::Count,
        "What dead processes left in the lake, removed: uploads aborted, staged objects"
    );
    describe_counter!(
        "highwater_swept_bytes_total",
        Unit::Bytes,
        "Bytes of staged objects removed"
    );
    describe_counter!("highwater_sweeps_total", Unit::Count, "Sweeps of the lake, by outcome");
    describe_counter!(
        "highwater_reloads_total",
        Unit::Count,
        "Times that files were taken up while running, by outcome"
    );
    describe_counter!(
        "highwater_dead_letters_forwarded_total",
        Unit::Count,
        "Dead letters that Kafka confirmed, at least once each"
    );
    describe_gauge!(
        "highwater_dead_letters_unforwarded",
        Unit::Count,
        "Dead letters that wait to be sent on"
    );
    describe_gauge!(
        "highwater_gap_offsets",
        Unit::Count,
        "Offsets that are gone from Kafka while the partition stands"
    );
    describe_gauge!(
        "highwater_drift_columns",
        Unit::Count,
        "Columns of the source that the topic file does not declare, or declares narrower"
    );
    describe_gauge!("highwater_watermark_seconds", Unit::Seconds, "Watermark, seconds since 1970");
    describe_gauge!("highwater_lag_records", Unit::Count, "Records behind the log's end, by stage");
    describe_gauge!(
        "highwater_lag_seconds",
        Unit::Seconds,
        "Age of the last record fetched while behind"
    );
    describe_gauge!("highwater_mark_offset", Unit::Count, "Committed high-water mark");
    describe_gauge!("highwater_memory_bytes", Unit::Bytes, "Memory by component");
    describe_histogram!(
        "highwater_fetch_paused_seconds",
        Unit::Seconds,
        "Waits in which nothing was fetched, since what was fetched before had no room"
    );
    describe_gauge!("highwater_memory_budget_bytes", Unit::Bytes, "Memory budget of the process");
    describe_gauge!("highwater_partitions_held", Unit::Count, "Partitions this process holds");
    describe_gauge!(
        "highwater_topic_stopped",
        Unit::Count,
        "1 where a topic stands and a person must look"
    );
    describe_gauge!("highwater_ready", Unit::Count, "1 while /readyz says yes");
    describe_gauge!("highwater_info", Unit::Count, "Version of the process");
    describe_gauge!(
        "highwater_process_cpu_seconds_total",
        Unit::Seconds,
        "CPU time, user and system"
    );
    describe_gauge!("highwater_process_resident_bytes", Unit::Bytes, "Resident memory");
}

/// Memory and CPU of the process, as the system counts them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub resident_bytes_max: u64,
}

impl Process {
    pub fn now() -> Self {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: getrusage fills the struct it is given.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        // Second field of statm: resident pages.
        let resident = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
            .map_or(0, |pages| pages * 4096);
        Self {
            cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            resident_bytes: resident,
            resident_bytes_max: usage.ru_maxrss as u64 * 1024,
        }
    }

    /// Sets the gauges; called before each scrape and once a second.
    pub fn measure() -> Self {
        let now = Self::now();
        gauge!("highwater_process_cpu_seconds_total").set(now.cpu_seconds);
        gauge!("highwater_process_resident_bytes").set(now.resident_bytes as f64);
        gauge!("highwater_memory_bytes", "component" => "process").set(now.resident_bytes as f64);
        now
    }
}
