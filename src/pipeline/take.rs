//! ⇄ What a topic asks of its services around a cut of the tables: taking partitions, and what a
//! judge (`unique`) has to know of others.
//!
//! Owns: the order of the questions. Does not own: when they are asked (`driver`).

use super::{
    driver::{Context, News},
    owed,
    worker::{Input, Ticket},
};
use crate::{
    catalog::Topic,
    compute::unique::Memory,
    error::{Error, Result},
    lake::store::Store,
    record::{Lane, Mark, Offset, Output, Partition},
    warehouse::Claim,
};
use std::{sync::Arc, time::Duration};

const KAFKA_WAIT: Duration = Duration::from_secs(10);

/// What is to be taken.
pub struct Taking {
    pub topic: Arc<Topic>,
    pub store: Option<Store>,
    pub lane: Lane,
    pub outputs: Vec<Output>,
    pub partitions: Vec<Partition>,
}

impl Taking {
    /// Answers with [`News::Taken`] or a `TakeFailed`.
    pub async fn run(self, context: Context, ticket: Ticket) {
        let lane = self.lane;
        context.tell(match self.take(&context).await {
            Ok((marks, memory)) => News::Taken { lane, ticket, marks, memory },
            Err(error) => {
                let (kind, why) = (error.kind, error.to_string());
                News::Worker(Input::TakeFailed { lane, ticket, kind, why })
            }
        });
    }

    async fn take(self, context: &Context) -> Result<(Vec<(Output, Partition, Mark)>, Memory)> {
        let Self { topic, store, lane, outputs, partitions } = self;
        let (kafka, name) = (context.kafka.clone(), topic.kafka_topic.clone());
        let oldest = tokio::task::spawn_blocking(move || {
            let oldest = |p| kafka.log(&name, p, KAFKA_WAIT).map(|(oldest, _)| (p, oldest));
            partitions.into_iter().map(oldest).collect::<Result<Vec<_>>>()
        });
        let oldest =
            oldest.await.map_err(|e| Error::halt("ask Kafka for offsets").because(e))??;
        let claim = Claim {
            topic: topic.name.clone(),
            lane,
            outputs,
            partitions: oldest,
            owner: context.owner.to_string(),
        };
        let marks = context.warehouse.take(&claim).await?;
        if let (Lane::Lake, Some(store)) = (lane, &store) {
            owed::tidy(&topic.name, store, &context.warehouse).await?;
        }
        let memory = match lane {
            Lane::Tables => recall(&topic, context, &claim.partitions).await?,
            Lane::Lake => Memory::default(),
        };
        Ok((marks, memory))
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

/// After a cut of a judged topic: forgets old keys, hears how far other processes have come. What
/// fails here is done after the next cut.
pub async fn forget(topic: &str, context: &Context) {
    match context.warehouse.forget(topic).await {
        Ok(reached) => context.tell(News::Reached(reached)),
        Err(error) => tracing::warn!(topic, "old keys are kept for now: {error}"),
    }
}
