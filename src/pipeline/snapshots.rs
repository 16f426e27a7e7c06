//! ⇄ Snapshots of the source that have ended: a task per topic that sees to it that they are swapped in.
//!
//! Owns: the barrier between a snapshot's end and its swap, what people are told meanwhile. Does not own: what
//! waits, the transaction (`warehouse::swap`).
//!
//! SUBTLE: the end of a snapshot stands in one partition, and rows of it in all. When its end is committed, the
//! logs of all partitions are asked for their ends; what the connector had sent before is below them. When the
//! marks of the model, of whichever process, have come there, the snapshot is whole. The ends are asked once per
//! snapshot and process: asked again and again, a source that never rests would always be ahead.
//! Where a person brackets a load, its end is recorded with the offsets, and nothing is asked.
//! Any process may swap, whatever partitions it holds: the transaction looks again under the model's lock.

use super::parts::Context;
use crate::{
    catalog::{Model, Topic},
    error::{Error, Kind, Result},
    record::{Offset, Output, Partition},
    warehouse::{
        loads::is_read,
        swap::{SnapshotRow, State, Wish, newest},
    },
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::JoinHandle};

/// Looks so often, whatever it was told; and again so soon while a snapshot waits for its partitions.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_SOON: Duration = Duration::from_millis(500);
const KAFKA_WAIT: Duration = Duration::from_secs(10);

/// The driver's end.
pub struct Swapper {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// Grows when there may be something to swap in.
    wanted: AtomicU64,
    /// Of `wanted`: seen to, as far as it can be now.
    done: AtomicU64,
    /// By model: what a person has to decide.
    held: Mutex<BTreeMap<Arc<str>, String>>,
    wake: Notify,
}

impl Swapper {
    /// None: no model of the topic follows changes.
    pub fn start(topic: Arc<Topic>, models: &[Arc<Model>], context: Context) -> Option<Self> {
        let models: Vec<_> = models.iter().filter(|m| m.folding.is_some()).cloned().collect();
        if models.is_empty() {
            return None;
        }
        // A process before may have left something to be done.
        let shared = Arc::new(Shared { wanted: AtomicU64::new(1), ..Shared::default() });
        let runtime = context.runtime.clone();
        let looker =
            Looker { topic, models, context, shared: shared.clone(), barriers: BTreeMap::new() };
        Some(Self { shared, task: runtime.spawn(looker.run()) })
    }

    /// Something was committed.
    pub fn look(&self) {
        self.shared.wanted.fetch_add(1, Ordering::SeqCst);
        self.shared.wake.notify_one();
    }

    /// Nothing can be done now that is not done.
    pub fn is_idle(&self) -> bool {
        self.shared.done.load(Ordering::SeqCst) >= self.shared.wanted.load(Ordering::SeqCst)
    }

    /// A sentence per model of which a snapshot is held.
    pub fn held(&self) -> Vec<String> {
        let held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.values().cloned().collect()
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Looker {
    topic: Arc<Topic>,
    models: Vec<Arc<Model>>,
    context: Context,
    shared: Arc<Shared>,
    /// By model: of which snapshot, in which generations of the partitions, and where their logs ended.
    barriers: BTreeMap<Arc<str>, Barrier>,
}

struct Barrier {
    position: String,
    generations: BTreeMap<Partition, i32>,
    ends: Vec<(Partition, Offset)>,
}

impl Looker {
    async fn run(mut self) {
        loop {
            let wanted = self.shared.wanted.load(Ordering::SeqCst);
            let (mut wait, mut failed) = (LOOK_EVERY, false);
            for model in self.models.clone() {
                match self.look_at(&model).await {
                    Ok(true) => {}
                    Ok(false) => wait = LOOK_SOON,
                    Err(error) => {
                        failed |= matches!(error.kind, Kind::Retry | Kind::Unknown);
                        wait = LOOK_SOON;
                        let topic = &self.topic.name;
                        tracing::warn!(%topic, model = %model.name, "no snapshot is swapped in: {error}");
                    }
                }
            }
            // What may go well the next time is still to be done.
            if !failed {
                self.shared.done.fetch_max(wanted, Ordering::SeqCst);
            }
            let _ = tokio::time::timeout(wait, self.shared.wake.notified()).await;
        }
    }

    /// False: a snapshot waits for its partitions.
    async fn look_at(&mut self, model: &Arc<Model>) -> Result<bool> {
        let rows = self.context.warehouse.snapshots_of(model).await?;
        let row = newest(&rows);
        self.tell(model, row);
        if model.folding.as_ref().is_some_and(|folding| folding.snapshots.is_bracketed()) {
            return self.look_at_load(model, &rows).await;
        }
        let Some(row) = row.filter(|row| row.state == State::Open && row.is_over()) else {
            self.barriers.remove(&model.name);
            return Ok(true);
        };
        if !self.is_whole(model, &row.position).await? {
            return Ok(false);
        }
        self.swap(model).await?;
        self.barriers.remove(&model.name);
        Ok(true)
    }

    /// False: a load that a person has ended is not read to its end.
    async fn look_at_load(&self, model: &Arc<Model>, rows: &[SnapshotRow]) -> Result<bool> {
        let warehouse = &self.context.warehouse;
        let loads = warehouse.loads(&self.topic.name).await?;
        let Some(load) = loads.last().filter(|load| load.to.is_some()) else { return Ok(true) };
        let position = load.position();
        if rows.iter().any(|row| row.position == position && row.state != State::Open) {
            return Ok(true);
        }
        let output = Output::Model(model.name.clone());
        let marks = warehouse.marks(Some(&self.topic.name)).await?;
        let marks = marks.iter().filter(|mark| mark.output == output);
        let marks = marks.map(|mark| (mark.partition.0, mark.mark.next.0)).collect();
        if !is_read(load, &marks) {
            return Ok(false);
        }
        self.swap(model).await?;
        Ok(true)
    }

    async fn swap(&self, model: &Arc<Model>) -> Result<()> {
        let swapped = self.context.warehouse.swap(&self.topic, model, &Wish::Ended, false).await?;
        if let Some(row) = &swapped {
            let state = row.state.as_str();
            tracing::info!(topic = %self.topic.name, model = %model.name, deleted = row.counts.deletes,
                rows = row.counts.rows, "the snapshot at {} is {state}", row.position);
            metrics::counter!("highwater_snapshots_total", "topic" => self.topic.name.to_string(),
                "model" => model.name.to_string(), "outcome" => state)
            .increment(1);
            self.tell(model, Some(row));
        }
        Ok(())
    }

    /// Whether every partition has been read to where its log ended after the snapshot's end was committed.
    async fn is_whole(&mut self, model: &Arc<Model>, position: &str) -> Result<bool> {
        let output = Output::Model(model.name.clone());
        let marks = self.context.warehouse.marks(Some(&self.topic.name)).await?;
        let marks: Vec<_> = marks.into_iter().filter(|mark| mark.output == output).collect();
        let generations = marks.iter().map(|mark| (mark.partition, mark.generation)).collect();
        let known = self.barriers.get(&model.name);
        if known.is_none_or(|b| b.position != position || b.generations != generations) {
            let name = self.topic.kafka_topic.clone();
            let ends = self.context.ask(move |kafka| {
                let partitions = kafka.partitions(&name, KAFKA_WAIT)?;
                let ends = kafka.ends(&name, &partitions, KAFKA_WAIT);
                match ends.len() == partitions.len() {
                    true => Ok(ends),
                    false => Err(Error::retry("not every partition tells where its log ends")),
                }
            });
            let (position, ends) = (position.to_owned(), ends.await?);
            let barrier = Barrier { position, generations, ends };
            self.barriers.insert(model.name.clone(), barrier);
        }
        let Some(barrier) = self.barriers.get(&model.name) else { return Ok(false) };
        let passed = |(partition, end): &(Partition, Offset)| {
            marks.iter().any(|mark| mark.partition == *partition && mark.mark.next >= *end)
        };
        Ok(barrier.ends.iter().all(passed))
    }

    fn tell(&self, model: &Arc<Model>, row: Option<&SnapshotRow>) {
        let told = row.and_then(|row| row.sentence(&self.topic, &model.name));
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Some(told) => {
                if held.get(&model.name) != Some(&told) {
                    tracing::error!("{told}");
                }
                held.insert(model.name.clone(), told);
            }
            None => drop(held.remove(&model.name)),
        }
        metrics::gauge!("highwater_snapshots_held", "topic" => self.topic.name.to_string())
            .set(held.len() as f64);
    }
}
