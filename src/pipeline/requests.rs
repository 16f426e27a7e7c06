//! What a topic asks of PostgreSQL and Kafka and waits for, as tasks: partitions, what a judge
//! (`unique`) has to know of others, ends of logs.
//!
//! Owns: the steps of a claim, the order of the questions. Does not own: what follows from an answer (`worker`).

use super::{
    driver::{Context, News},
    owed::Owed,
    report::{self, OutputWatermark},
    tables::Job,
    worker::{Input, Ticket},
};
use crate::{
    catalog::Topic,
    compute::unique::Memory,
    error::{Error, Result},
    record::{Lane, Offset, Output, Partition},
    warehouse::{Claim, Taken},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const KAFKA_WAIT: Duration = Duration::from_secs(10);

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
        let (kafka, name) = (context.kafka.clone(), topic.kafka_topic.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let oldest = |p| kafka.log(&name, p, KAFKA_WAIT).map(|(oldest, _)| (p, oldest));
            let oldest = partitions.into_iter().map(oldest).collect::<Result<Vec<_>>>()?;
            Ok((oldest, kafka.partitions(&name, KAFKA_WAIT)?.len()))
        });
        let (partitions, partition_count) =
            asked.await.map_err(|e| Error::halt("ask Kafka for offsets").because(e))??;
        let claim = Claim {
            topic: topic.name.clone(),
            lane,
            outputs,
            partitions,
            partition_count,
            owner: context.owner.to_string(),
        };
        let taken = context.warehouse.take(&claim).await?;
        if let Some(owed) = owed {
            owed.tidy().await?;
        }
        let memory = match lane {
            Lane::Tables => recall(&topic, context, &claim.partitions).await?,
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
pub async fn commit(topic: Arc<Topic>, context: Context, cut: u64, job: Job) {
    let started = Instant::now();
    match context.warehouse.commit(&job.cut).await {
        Ok(committed) => {
            report::committed(&topic.name, Lane::Tables, &job.cut, started.elapsed());
            report::below_zero(&topic.name, &committed.below_zero);
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

/// Where the logs end, of those whose leaders answer.
pub async fn ends(
    topic: &Topic,
    context: &Context,
    partitions: Vec<Partition>,
) -> Vec<(Partition, Offset)> {
    let (kafka, name) = (context.kafka.clone(), topic.kafka_topic.clone());
    let asked = tokio::task::spawn_blocking(move || kafka.ends(&name, &partitions, KAFKA_WAIT));
    asked.await.unwrap_or_else(|error| {
        tracing::warn!(topic = %topic.name, "cannot ask for the ends of logs: {error}");
        Vec::new()
    })
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
