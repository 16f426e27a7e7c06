//! What a pipeline tells of itself: numbers for Prometheus, a snapshot for `/status`.

use crate::{
    catalog::{Model, Topic},
    cut::Cut,
    decode::{Decoded, RejectClass},
    record::{
        EventTime, IdleAdvance, Lane, Mark, Offset, Output, Partition, RawRecord,
        gap::{self, Gap},
    },
    warehouse::{Committed, swap::State},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A topic as this process sees it.
#[derive(Debug, Clone, Serialize)]
pub struct TopicStatus {
    pub topic: String,
    pub partitions: Vec<PartitionStatus>,
    /// A sentence per partition that stands because offsets are gone.
    pub gaps: Vec<String>,
    /// A sentence per model of which a snapshot waits for a person.
    pub snapshots: Vec<String>,
    /// What the source has and the topic file does not declare, a sentence each.
    pub drift: Vec<String>,
    /// Over all processes, as of some seconds ago.
    pub watermarks: Vec<OutputWatermark>,
    /// Why it stands, if it does.
    pub stopped: Option<String>,
    /// A lane waits to take its partitions again.
    pub recovering: bool,
    /// A lane has had something to commit for too long; with its last failure.
    pub stalled: Option<String>,
    /// The last failure of a lane that has committed nothing since.
    pub last_error: Option<String>,
    pub seconds_since_commit: f64,
    pub records: u64,
    pub rejects: u64,
    pub memory_bytes: BTreeMap<&'static str, u64>,
    pub caught_up: bool,
}

/// How far an output has come in event time, and the partition that holds it back.
#[derive(Debug, Clone, Serialize)]
pub struct OutputWatermark {
    pub output: String,
    /// Microseconds since 1970; None: a partition has none yet.
    pub watermark_us: Option<i64>,
    pub held_back_by: i32,
    pub since_us: i64,
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
    /// Per partition: where reading is, and the Kafka timestamp of the last record.
    seen: BTreeMap<Partition, Seen>,
    /// Per partition: the highest event time of its mark, of what was decoded, or of the clock where
    /// nothing came.
    event_times: BTreeMap<Partition, EventTime>,
    pub watermarks: Vec<OutputWatermark>,
    /// Where each lane stands or, while it recovers, last stood.
    standings: BTreeMap<(Lane, Partition), Standing>,
    lanes: BTreeMap<Lane, LaneReport>,
    pub records: u64,
    pub rejects: u64,
    last_commit: Instant,
    pub stopped: Option<String>,
    /// Told already.
    gaps: BTreeMap<Partition, String>,
}

/// Of one lane.
struct LaneReport {
    /// Since when something waits for a commit that does not come.
    behind_since: Option<Instant>,
    last_error: Option<String>,
    /// Behind for longer is stalled.
    limit: Duration,
}

/// Without a commit although there is something to commit; of the lake after its age, too.
pub const STALLED_AFTER: Duration = Duration::from_secs(120);

impl LaneReport {
    fn look(&mut self, behind: bool, now: Instant) {
        match behind {
            true => drop(self.behind_since.get_or_insert(now)),
            false => self.behind_since = None,
        }
    }

    fn committed(&mut self) {
        self.behind_since = None;
        self.last_error = None;
    }

    fn stalled(&self, lane: Lane, now: Instant) -> Option<String> {
        let behind = now.saturating_duration_since(self.behind_since?);
        let why = self.last_error.as_deref().unwrap_or("no error was seen");
        (behind > self.limit).then(|| {
            let (lane, seconds) = (lane.as_str(), behind.as_secs());
            format!("the {lane} waits for a commit for {seconds} s: {why}")
        })
    }
}

#[derive(Clone, Copy)]
struct Seen {
    fetched: Offset,
    timestamp: EventTime,
}

/// Where a lane stands in one partition.
#[derive(Clone, Copy)]
pub struct Standing {
    pub lane: Lane,
    pub partition: Partition,
    pub admitted: Offset,
    pub committed: Offset,
}

impl Reporter {
    pub fn new(topic: &Topic) -> Self {
        let name = topic.name.to_string();
        metrics::gauge!("highwater_topic_stopped", "topic" => name.clone()).set(0.0);
        let report = |limit| LaneReport { behind_since: None, last_error: None, limit };
        let mut lanes = BTreeMap::from([(Lane::Tables, report(STALLED_AFTER))]);
        if let Some(lake) = &topic.lake {
            lanes.insert(Lane::Lake, report(STALLED_AFTER + lake.roll_age));
        }
        Self {
            topic: name,
            disorder_us: topic.max_disorder.as_micros() as i64,
            seen: BTreeMap::new(),
            event_times: BTreeMap::new(),
            watermarks: Vec::new(),
            standings: BTreeMap::new(),
            lanes,
            records: 0,
            rejects: 0,
            last_commit: Instant::now(),
            stopped: None,
            gaps: BTreeMap::new(),
        }
    }

    /// Tells what is new in the log, sets the gauges (of the partitions that are held, too), gives the
    /// sentences.
    pub fn gaps(&mut self, found: &[Gap], held: &[PartitionStatus]) -> Vec<String> {
        let mut now: BTreeMap<Partition, Vec<Gap>> = BTreeMap::new();
        for gap in found {
            now.entry(gap.partition).or_default().push(gap.clone());
        }
        let gauge = |partition: Partition| {
            metrics::gauge!("highwater_gap_offsets", "topic" => self.topic.clone(),
                "partition" => partition.0.to_string())
        };
        for partition in self.gaps.keys().filter(|partition| !now.contains_key(partition)) {
            tracing::info!(topic = self.topic, partition = partition.0, "stands no more");
            gauge(*partition).set(0.0);
        }
        for whole in held.iter().map(|p| Partition(p.partition)).filter(|p| !now.contains_key(p)) {
            gauge(whole).set(0.0);
        }
        let mut told = BTreeMap::new();
        for (partition, gaps) in now {
            let sentence = gap::sentence(&self.topic, &gaps);
            if self.gaps.get(&partition) != Some(&sentence) {
                tracing::error!("{sentence}");
            }
            gauge(partition).set(gap::offsets(&gaps) as f64);
            told.insert(partition, sentence);
        }
        self.gaps = told;
        self.gaps.values().cloned().collect()
    }

    pub fn committed(&mut self, lane: Lane) {
        self.last_commit = Instant::now();
        if let Some(report) = self.lanes.get_mut(&lane) {
            report.committed();
        }
    }

    pub fn failed(&mut self, lane: Lane, why: &str) {
        if let Some(report) = self.lanes.get_mut(&lane) {
            report.last_error = Some(why.to_owned());
        }
    }

    /// Nothing was fetched for so long, since what was fetched before has no room yet.
    pub fn paused(&self, took: Duration) {
        metrics::histogram!("highwater_fetch_paused_seconds", "topic" => self.topic.clone())
            .record(took.as_secs_f64());
    }

    /// Of one fetch, before it is admitted.
    pub fn count(&mut self, records: &[RawRecord<'_>], decoded: &Decoded) {
        let topic = &self.topic;
        let bytes: usize = records.iter().filter_map(|r| r.value).map(<[u8]>::len).sum();
        metrics::counter!("highwater_bytes_total", "topic" => topic.clone())
            .increment(bytes as u64);
        for run in records.chunk_by(|a, b| a.partition == b.partition) {
            metrics::counter!("highwater_records_total", "topic" => topic.clone(),
                "partition" => run[0].partition.0.to_string())
            .increment(run.len() as u64);
        }
        for reject in &decoded.rejects {
            metrics::counter!("highwater_rejects_total", "topic" => topic.clone(),
                "class" => reject.class.as_str())
            .increment(1);
        }
        if decoded.unknown_fields > 0 {
            metrics::counter!("highwater_unknown_fields_total", "topic" => topic.clone())
                .increment(decoded.unknown_fields);
        }
        self.records += records.len() as u64;
        self.rejects += decoded.rejects.len() as u64;
    }

    /// Remembers how far each partition has come, in offsets and in event time.
    pub fn watch(&mut self, records: &[RawRecord<'_>], decoded: &Decoded) {
        for run in records.chunk_by(|a, b| a.partition == b.partition) {
            if let Some(last) = run.last() {
                let seen = Seen { fetched: Offset::after(last.offset), timestamp: last.timestamp };
                self.seen.insert(last.partition, seen);
            }
        }
        let (partitions, _) = crate::compute::places(&decoded.rows);
        let mut start = 0;
        for run in partitions.chunk_by(|a, b| a == b) {
            let times = &decoded.event_times[start..start + run.len()];
            start += run.len();
            if let Some(max) = times.iter().copied().max() {
                self.observe(Partition(run[0]), max);
            }
        }
    }

    pub fn observe(&mut self, partition: Partition, event_time: EventTime) {
        let highest = self.event_times.entry(partition).or_insert(event_time);
        *highest = (*highest).max(event_time);
    }

    /// The tables go on from these: a watermark is known before the first record.
    pub fn adopt(&mut self, marks: &[(Output, Partition, Mark)], advances: &[IdleAdvance]) {
        for (output, partition, mark) in marks {
            if *output != Output::DeadLetters {
                continue;
            }
            self.event_times.remove(partition);
            let own = |a: &&IdleAdvance| a.partition == *partition && a.before <= mark.next;
            let advanced = advances.iter().filter(own).map(|a| a.event_time);
            for event_time in mark.event_time_max.into_iter().chain(advanced) {
                self.observe(*partition, event_time);
            }
        }
    }

    /// Somebody else's now: what was behind here is not behind for ever.
    pub fn forget(&mut self, partition: Partition) {
        self.seen.remove(&partition);
        self.event_times.remove(&partition);
        self.standings.retain(|(_, p), _| *p != partition);
        let label = partition.0.to_string();
        for stage in self.lanes.keys().map(|lane| lane.as_str()).chain(["fetched"]) {
            self.set_lag(&label, stage, 0, 0.0);
        }
    }

    /// Where a lane stands now. One that recovers keeps its last place, and so its lag.
    pub fn stands(&mut self, standing: Standing) {
        self.standings.insert((standing.lane, standing.partition), standing);
    }

    /// Sets the gauges and gives the snapshot.
    pub fn snapshot(
        &mut self,
        end: impl Fn(Partition) -> Option<Offset>,
        memory: BTreeMap<&'static str, u64>,
    ) -> TopicStatus {
        let now_us =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        let mut partitions: BTreeMap<Partition, PartitionStatus> = BTreeMap::new();
        let mut behind: BTreeSet<Lane> = BTreeSet::new();
        for standing in self.standings.values() {
            let partition = standing.partition;
            let end = end(partition);
            if end.is_some_and(|end| standing.committed < end) {
                behind.insert(standing.lane);
            }
            let seen = self.seen.get(&partition);
            let fetched = seen.map_or(standing.admitted, |s| s.fetched);
            let status = partitions.entry(partition).or_insert(PartitionStatus {
                partition: partition.0,
                end: end.map(|o| o.0),
                fetched: fetched.0,
                tables: None,
                lake: None,
                watermark_us: self
                    .event_times
                    .get(&partition)
                    .map(|t| t.0.saturating_sub(self.disorder_us)),
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
        let now = Instant::now();
        for (lane, report) in &mut self.lanes {
            report.look(behind.contains(lane), now);
        }
        TopicStatus {
            topic: self.topic.clone(),
            partitions: partitions.into_values().collect(),
            gaps: Vec::new(),
            snapshots: Vec::new(),
            drift: Vec::new(),
            watermarks: self.watermarks.clone(),
            stopped: self.stopped.clone(),
            recovering: false,
            stalled: self.lanes.iter().find_map(|(lane, report)| report.stalled(*lane, now)),
            last_error: self.lanes.values().find_map(|report| report.last_error.clone()),
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
        self.set_lag(partition, stage, records, seconds);
    }

    fn set_lag(&self, partition: &str, stage: &'static str, records: i64, seconds: f64) {
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
    metrics::counter!("highwater_dead_letters_forwarded_total", "topic" => name()).absolute(0);
    metrics::gauge!("highwater_dead_letters_unforwarded", "topic" => name()).set(0.0);
    metrics::gauge!("highwater_snapshots_held", "topic" => name()).set(0.0);
    for model in models.iter().filter(|model| model.folding.is_some()) {
        for outcome in [State::Applied, State::Held].map(State::as_str) {
            metrics::counter!("highwater_snapshots_total", "topic" => name(),
                "model" => model.name.to_string(), "outcome" => outcome)
            .absolute(0);
        }
    }
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

/// What a commit has found on its way.
pub fn found(topic: &str, committed: &Committed) {
    let topic = || topic.to_owned();
    for (model, count) in &committed.below_zero {
        let model = model.to_string();
        metrics::counter!("highwater_negative_deltas_total", "topic" => topic(), "model" => model)
            .increment(*count);
    }
    for (model, followed) in &committed.followed {
        let model = || model.to_string();
        metrics::counter!("highwater_orphans_total", "topic" => topic(), "model" => model())
            .increment(followed.orphans);
        metrics::counter!("highwater_old_changes_total", "topic" => topic(), "model" => model())
            .increment(followed.old);
        metrics::counter!("highwater_unfit_rows_total", "topic" => topic(), "model" => model())
            .increment(followed.failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_stalled_when_what_it_has_waits_too_long_and_not_when_it_is_idle() {
        let limit = Duration::from_secs(100);
        let mut lane = LaneReport { behind_since: None, last_error: None, limit };
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        lane.look(false, at(0));
        // The first record after a long silence.
        lane.look(true, at(1000));
        lane.look(true, at(1100));
        assert_eq!(lane.stalled(Lane::Lake, at(1100)), None);
        lane.last_error = Some("nobody is there".to_owned());
        let why = lane.stalled(Lane::Lake, at(1101));
        let expected = "the lake waits for a commit for 101 s: nobody is there";
        assert_eq!(why.as_deref(), Some(expected));
        lane.committed();
        lane.look(true, at(1102));
        assert_eq!(lane.stalled(Lane::Lake, at(1150)), None, "behind, and going on");
    }
}
