//! ⇄ What a topic asks of PostgreSQL and Kafka and waits for, as tasks: partitions, what a judge
//! (`unique`) has to know of others, ends of logs, commits.
//!
//! Owns: the steps of a claim, the order of asking. Does not own: the judgement of what is gone
//! (`record::gap`), what follows from an answer (`worker`).
//!
//! SUBTLE: a mark is compared with a log's end that was asked *after* the mark was read: read the other
//! way round, a commit between the two would stand behind the end and look like a truncation. And a cut's
//! topic id is asked *after* its last record was read (G-3): ids never come back, so if it is still the
//! marks', every record of the cut is of their topic.

use super::{
    owed::Owed,
    parts::{Context, News},
    report::{self, OutputWatermark},
    tables::Job,
    worker::{Input, Ticket},
};
use crate::{
    catalog::Topic,
    compute::unique::Memory,
    cut::Cut,
    error::{Error, Result},
    record::{EventTime, Lane, Offset, Output, Partition, gap},
    source::kafka::Kafka,
    warehouse::{Claim, Committed, Taken},
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const KAFKA_WAIT: Duration = Duration::from_secs(10);

impl Context {
    /// A call of librdkafka's that waits.
    pub(super) async fn ask<T, F>(&self, question: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Kafka) -> Result<T> + Send + 'static,
    {
        let kafka = self.kafka.clone();
        let answer = self.runtime.spawn_blocking(move || question(&kafka)).await;
        answer.map_err(|e| Error::halt("ask Kafka").because(e))?
    }

    pub(super) async fn commit(&self, kafka_topic: &str, cut: &mut Cut) -> Result<Committed> {
        let name = kafka_topic.to_owned();
        cut.topic_id = self.ask(move |kafka| kafka.topic_id(&name, KAFKA_WAIT)).await?;
        self.warehouse.commit(cut).await
    }
}

/// What is to be taken.
pub struct Taking {
    pub topic: Arc<Topic>,
    /// Of the lake: what owners before left in it is finished or dropped.
    pub owed: Option<Owed>,
    pub lane: Lane,
    pub outputs: Vec<Output>,
    pub partitions: Vec<Partition>,
}

impl Taking {
    /// Answers with [`News::Taken`] or a `TakeFailed`.
    pub async fn run(self, context: Context, ticket: Ticket) {
        let lane = self.lane;
        context.tell(match self.take(&context).await {
            Ok((taken, memory)) => News::Taken { lane, ticket, taken, memory },
            Err(error) => {
                let (kind, why) = (error.kind, error.to_string());
                News::Worker(Input::TakeFailed { lane, ticket, kind, why })
            }
        });
    }

    async fn take(self, context: &Context) -> Result<(Taken, Memory)> {
        let Self { topic, owed, lane, outputs, partitions } = self;
        let logs = |partitions: Vec<Partition>| {
            let name = topic.kafka_topic.clone();
            context.ask(move |kafka| kafka.logs(&name, &partitions, KAFKA_WAIT))
        };
        let name = topic.kafka_topic.clone();
        let partition_count =
            context.ask(move |kafka| Ok(kafka.partitions(&name, KAFKA_WAIT)?.len())).await?;
        let claim = Claim {
            topic: topic.name.clone(),
            lane,
            outputs,
            partitions: logs(partitions).await?,
            partition_count,
            owner: context.owner.to_string(),
        };
        let mut taken = context.warehouse.take(&claim).await?;
        if !taken.gaps.is_empty() {
            let mut standing: Vec<Partition> = taken.gaps.iter().map(|gap| gap.partition).collect();
            standing.dedup();
            let logs = logs(standing).await?;
            for gap in &mut taken.gaps {
                let log = logs.iter().find(|(partition, _)| *partition == gap.partition);
                gap.log = log.map_or(gap.log, |(_, log)| *log);
                gap.reason = gap::judge(gap.next, gap.topic_id, &gap.log).ok_or_else(|| {
                    Error::retry(format!(
                        "the mark of {} in {}/{} moved while it was taken",
                        gap.output, topic.name, gap.partition.0
                    ))
                })?;
            }
        }
        if let Some(owed) = owed {
            owed.tidy().await?;
        }
        let memory = match lane {
            Lane::Tables => {
                let oldest = claim.partitions.iter().map(|(p, log)| (*p, log.oldest));
                recall(&topic, context, &oldest.collect::<Vec<_>>()).await?
            }
            Lane::Lake => Memory::default(),
        };
        Ok((taken, memory))
    }
}

/// What the judge goes on from. Without one, nobody is left to believe recorded verdicts: outputs
/// that have yet to pass some would take what the others left out.
async fn recall(
    topic: &Topic,
    context: &Context,
    partitions: &[(Partition, Offset)],
) -> Result<Memory> {
    let (name, has_lake) = (&*topic.name, topic.lake.is_some());
    if topic.unique.is_some() {
        return context.warehouse.recall(name, partitions, has_lake).await;
    }
    match context.warehouse.duplicates_ahead(name, partitions, has_lake).await? {
        0 => Ok(Memory::default()),
        count => Err(Error::config(format!(
            "topic {name} has no `unique` any more, but its lake or a model has still to pass {count} \
             recorded duplicates, which its other outputs left out: put `unique` back into {}",
            topic.file.display()
        ))),
    }
}

/// Commits a cut of the tables; answers with `Committed` or `Failed`.
pub async fn commit(topic: Arc<Topic>, context: Context, cut: u64, mut job: Job) {
    let started = Instant::now();
    match context.commit(&topic.kafka_topic, &mut job.cut).await {
        Ok(committed) => {
            report::committed(&topic.name, Lane::Tables, &job.cut, started.elapsed());
            report::found(&topic.name, &committed);
            job.count();
            context.tell(News::Committed { cut, learned: committed.learned });
            if topic.unique.is_some() {
                forget(&topic.name, &context).await;
            }
        }
        Err(error) => context.fail(Lane::Tables, cut, &error),
    }
}

/// After a cut of a judged topic: forgets old keys, hears how far other processes have come. What
/// fails here is done after the next cut.
async fn forget(topic: &str, context: &Context) {
    match context.warehouse.forget(topic).await {
        Ok(reached) => context.tell(News::Reached(reached)),
        Err(error) => tracing::warn!(topic, "old keys are kept for now: {error}"),
    }
}

/// Asks where the logs end, of those whose leaders answer. The clock first: what is appended after it
/// was read does not count as missing.
pub fn ends(
    topic: Arc<Topic>,
    context: Context,
    partitions: Vec<Partition>,
) -> impl Future<Output = ()> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
    async move {
        let name = topic.kafka_topic.clone();
        let asked = context.ask(move |kafka| Ok(kafka.ends(&name, &partitions, KAFKA_WAIT))).await;
        let ends = asked.unwrap_or_else(|error| {
            tracing::warn!(topic = %topic.name, "cannot ask for the ends of logs: {error}");
            Vec::new()
        });
        context.tell(News::Worker(Input::Ends { at: EventTime(at), ends }));
    }
}

/// How far event time has come over all processes; None: the database did not tell.
pub async fn watermarks(topic: &Topic, context: &Context) -> Option<Vec<OutputWatermark>> {
    let rows = context.warehouse.watermarks(Some(&topic.name)).await.ok()?;
    let told = rows.into_iter().map(|row| OutputWatermark {
        output: row.output.to_string(),
        watermark_us: row.watermark.map(|t| t.0),
        held_back_by: row.held_back_by.0,
        since_us: row.since,
    });
    Some(told.collect())
}
