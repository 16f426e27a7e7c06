//! What a pipeline tells of itself: numbers for Prometheus, a snapshot for `/status`.

use crate::{
    catalog::{Model, Topic},
    cut::Cut,
    decode::RejectClass,
    record::{EventTime, Lane, Offset, Partition},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A topic as this process sees it.
#[derive(Debug, Clone, Serialize)]
pub struct TopicStatus {
    pub topic: String,
    pub partitions: Vec<PartitionStatus>,
    /// Why it stands, if it does.
    pub stopped: Option<String>,
    /// A lane waits to take its partitions again.
    pub recovering: bool,
    /// The last failure that made a lane recover.
    pub last_error: Option<String>,
    pub seconds_since_commit: f64,
    pub records: u64,
    pub rejects: u64,
    pub memory_bytes: BTreeMap<&'static str, u64>,
    pub caught_up: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct PartitionStatus {
    pub partition: i32,
    pub end: Option<i64>,
    pub fetched: i64,
    pub tables: Option<i64>,
    pub lake: Option<i64>,
    /// Highest event time minus `max_disorder`, microseconds since 1970.
    pub watermark_us: Option<i64>,
}

/// Remembers what rates and lags in seconds need.
pub struct Reporter {
    topic: String,
    disorder_us: i64,
    /// Per partition: highest event time decoded, and the Kafka timestamp of the last record.
    seen: BTreeMap<Partition, Seen>,
    pub records: u64,
    pub rejects: u64,
    pub last_commit: Instant,
    pub last_error: Option<String>,
    pub stopped: Option<String>,
}

#[derive(Clone, Copy)]
struct Seen {
    event_time_max: Option<EventTime>,
    fetched: Offset,
    timestamp: EventTime,
}

/// Where a lane stands in one partition.
pub struct Standing {
    pub lane: Lane,
    pub partition: Partition,
    pub admitted: Offset,
    pub committed: Offset,
}

impl Reporter {
    pub fn new(topic: &str, disorder: Duration) -> Self {
        metrics::gauge!("highwater_topic_stopped", "topic" => topic.to_owned()).set(0.0);
        Self {
            topic: topic.to_owned(),
            disorder_us: disorder.as_micros() as i64,
            seen: BTreeMap::new(),
            records: 0,
            rejects: 0,
            last_commit: Instant::now(),
            last_error: None,
            stopped: None,
        }
    }

    /// The last record fetched of a partition.
    pub fn saw(&mut self, partition: Partition, next: Offset, timestamp: EventTime) {
        let seen = self.seen.entry(partition).or_insert(Seen {
            event_time_max: None,
            fetched: next,
            timestamp,
        });
        seen.fetched = next;
        seen.timestamp = timestamp;
    }

    pub fn observe(&mut self, partition: Partition, event_time: Option<EventTime>) {
        if let Some(seen) = self.seen.get_mut(&partition) {
            seen.event_time_max = seen.event_time_max.max(event_time);
        }
    }

    pub fn forget(&mut self, partition: Partition) {
        self.seen.remove(&partition);
    }

    /// Sets the gauges and gives the snapshot.
    pub fn snapshot(
        &self,
        standings: &[Standing],
        end: impl Fn(Partition) -> Option<Offset>,
        memory: BTreeMap<&'static str, u64>,
    ) -> TopicStatus {
        let now_us =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        let mut partitions: BTreeMap<Partition, PartitionStatus> = BTreeMap::new();
        for standing in standings {
            let partition = standing.partition;
            let end = end(partition);
            let seen = self.seen.get(&partition);
            let fetched = seen.map_or(standing.admitted, |s| s.fetched);
            let status = partitions.entry(partition).or_insert(PartitionStatus {
                partition: partition.0,
                end: end.map(|o| o.0),
                fetched: fetched.0,
                tables: None,
                lake: None,
                watermark_us: seen.and_then(|s| s.event_time_max).map(|t| t.0 - self.disorder_us),
            });
            match standing.lane {
                Lane::Tables => status.tables = Some(standing.committed.0),
                Lane::Lake => status.lake = Some(standing.committed.0),
            }
            let label = partition.0.to_string();
            let (stage, committed) = (standing.lane.as_str(), standing.committed);
            self.lag(&label, "fetched", fetched, end, seen, now_us);
            self.lag(&label, stage, committed, end, seen, now_us);
            metrics::gauge!("highwater_mark_offset", "topic" => self.topic.clone(),
                "partition" => label.clone(), "output" => stage)
            .set(committed.0 as f64);
            if let Some(watermark) = status.watermark_us {
                metrics::gauge!("highwater_watermark_seconds", "topic" => self.topic.clone(),
                    "partition" => label)
                .set(watermark as f64 / 1e6);
            }
        }
        metrics::gauge!("highwater_partitions_held", "topic" => self.topic.clone())
            .set(partitions.len() as f64);
        TopicStatus {
            topic: self.topic.clone(),
            partitions: partitions.into_values().collect(),
            stopped: self.stopped.clone(),
            recovering: false,
            last_error: self.last_error.clone(),
            seconds_since_commit: self.last_commit.elapsed().as_secs_f64(),
            records: self.records,
            rejects: self.rejects,
            memory_bytes: memory,
            caught_up: false,
        }
    }

    /// Seconds: the age of the last record fetched, as long as something is missing.
    fn lag(
        &self,
        partition: &str,
        stage: &'static str,
        at: Offset,
        end: Option<Offset>,
        seen: Option<&Seen>,
        now_us: i64,
    ) {
        let Some(end) = end else { return };
        let records = (end.0 - at.0).max(0);
        let seconds = match seen {
            Some(seen) if records > 0 => (now_us - seen.timestamp.0).max(0) as f64 / 1e6,
            Some(_) | None => 0.0,
        };
        metrics::gauge!("highwater_lag_records", "topic" => self.topic.clone(),
            "partition" => partition.to_owned(), "stage" => stage)
        .set(records as f64);
        metrics::gauge!("highwater_lag_seconds", "topic" => self.topic.clone(),
            "partition" => partition.to_owned(), "stage" => stage)
        .set(seconds);
    }
}

const REJECT_CLASSES: [RejectClass; 6] = [
    RejectClass::Malformed,
    RejectClass::Missing,
    RejectClass::Type,
    RejectClass::Range,
    RejectClass::Future,
    RejectClass::Model,
];

/// Lets everything that alerts count begin at zero: a series that is born with its first event
/// hides that event from `rate` and `increase`.
pub fn register(topic: &Topic, models: &[Arc<Model>], lanes: &[Lane], kinds: &[&'static str]) {
    let name = || topic.name.to_string();
    for class in REJECT_CLASSES {
        metrics::counter!("highwater_rejects_total", "topic" => name(), "class" => class.as_str())
            .absolute(0);
    }
    metrics::counter!("highwater_unknown_fields_total", "topic" => name()).absolute(0);
    for model in models.iter().map(|model| model.name.to_string()) {
        metrics::counter!("highwater_late_total", "topic" => name(), "model" => model.clone())
            .absolute(0);
        metrics::counter!("highwater_filtered_total", "topic" => name(), "model" => model)
            .absolute(0);
    }
    for lane in lanes.iter().map(|lane| lane.as_str()) {
        for kind in kinds {
            metrics::counter!("highwater_commits_refused_total", "topic" => name(),
                "lane" => lane, "kind" => *kind)
            .absolute(0);
        }
        drop(metrics::histogram!("highwater_commit_seconds", "topic" => name(), "lane" => lane));
    }
    if topic.lake.is_some() {
        metrics::counter!("highwater_lake_files_total", "topic" => name()).absolute(0);
        metrics::counter!("highwater_lake_bytes_total", "topic" => name()).absolute(0);
        drop(metrics::histogram!("highwater_upload_seconds", "topic" => name()));
    }
}

/// Counts a commit.
pub fn committed(topic: &str, lane: Lane, cut: &Cut, took: Duration) {
    let topic = topic.to_owned();
    let rows: u64 = cut.advances.iter().map(|a| a.fates.accepted).sum();
    metrics::histogram!("highwater_commit_seconds", "topic" => topic.clone(), "lane" => lane.as_str())
        .record(took.as_secs_f64());
    metrics::histogram!("highwater_cut_rows", "topic" => topic, "lane" => lane.as_str())
        .record(rows as f64);
}
