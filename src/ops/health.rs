//! What people and probes are told of a running process: `/readyz`, `/status`, the gauges that follow from both.
//!
//! Owns: when a process is ready, the whole of `/status`. Does not own: a topic's own status (`pipeline::report`).

use super::metrics::Process;
use crate::pipeline::TopicStatus;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Where a topic puts its status; None: it has not come to that yet.
pub type Shared = Arc<Mutex<Option<TopicStatus>>>;

/// What people and probes are told.
pub struct Health {
    started: Instant,
    topics: Mutex<BTreeMap<Arc<str>, Shared>>,
    /// Why the group is not served.
    group: Mutex<Option<String>>,
}

fn read(status: &Shared) -> Option<TopicStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The whole of `/status`.
#[derive(Serialize)]
pub struct Status {
    pub version: &'static str,
    pub uptime_seconds: u64,
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
    pub not_ready: Option<String>,
    pub topics: Vec<TopicStatus>,
}

impl Default for Health {
    fn default() -> Self {
        Self { started: Instant::now(), topics: Mutex::default(), group: Mutex::default() }
    }
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Shared>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the topic is to put its status, which stays where it begins anew.
    pub fn watch(&self, topic: &Arc<str>) -> Shared {
        self.lock().entry(topic.clone()).or_default().clone()
    }

    pub fn forget(&self, topic: &str) {
        self.lock().remove(topic);
    }

    pub fn group(&self, trouble: Option<String>) {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// None: one is starting, and has none yet.
    pub fn all_topics(&self) -> Option<Vec<TopicStatus>> {
        self.lock().values().map(read).collect()
    }

    pub fn topics(&self) -> Vec<TopicStatus> {
        self.lock().values().filter_map(read).collect()
    }

    /// None: ready.
    pub fn why_not_ready(&self) -> Option<String> {
        if let Some(why) = &*self.group.lock().unwrap_or_else(PoisonError::into_inner) {
            return Some(why.clone());
        }
        let Some(topics) = self.all_topics() else { return Some("starting".to_owned()) };
        for topic in topics {
            if let Some(why) = topic.stopped {
                return Some(format!("topic {} stopped: {why}", topic.topic));
            }
            if !topic.gaps.is_empty() {
                return Some(topic.gaps.join("; "));
            }
            if let Some(why) = topic.stalled {
                return Some(format!("topic {}: {why}", topic.topic));
            }
        }
        None
    }

    /// A line for each snapshot that is held, and for each topic whose last commit failed and is tried again:
    /// what waits for a person (a full disk) is told long before it counts as not ready.
    pub fn tried_again(&self) -> String {
        let line = |topic: TopicStatus| {
            let held = topic.snapshots.iter().map(|told| format!("{told}\n"));
            let failed = topic.last_error.map(|why| format!("topic {}: {why}\n", topic.topic));
            held.chain(failed).collect::<String>()
        };
        self.topics().into_iter().map(line).collect()
    }

    pub fn status(&self) -> Status {
        let process = Process::now();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.started.elapsed().as_secs(),
            resident_bytes: process.resident_bytes,
            cpu_seconds: process.cpu_seconds,
            not_ready: self.why_not_ready(),
            topics: self.topics(),
        }
    }

    /// Sets the gauges that follow from the topics' snapshots.
    pub fn measure(&self) {
        let mut memory: BTreeMap<&'static str, u64> = BTreeMap::new();
        for topic in self.topics() {
            for (component, bytes) in topic.memory_bytes {
                *memory.entry(component).or_default() += bytes;
            }
        }
        for (component, bytes) in memory {
            metrics::gauge!("highwater_memory_bytes", "component" => component).set(bytes as f64);
        }
        let ready = if self.why_not_ready().is_none() { 1.0 } else { 0.0 };
        metrics::gauge!("highwater_ready").set(ready);
    }
}
