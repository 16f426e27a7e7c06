//! What a topic asks of PostgreSQL and Kafka and waits for, as tasks: partitions, ends of logs.
//!
//! Owns: the steps of a claim. Does not own: what follows from an answer (`worker`).

use super::{driver::Context, owed::Owed, report::OutputWatermark};
use crate::{
    catalog::Topic,
    error::{Error, Result},
    record::{Lane, Offset, Output, Partition},
    warehouse::{Claim, Taken},
};
use std::time::Duration;

const KAFKA_WAIT: Duration = Duration::from_secs(10);

/// Takes a lane of partitions, and finishes or drops what owners before left in the lake.
pub async fn take(
    topic: &Topic,
    owed: Option<Owed>,
    context: &Context,
    lane: Lane,
    outputs: Vec<Output>,
    partitions: Vec<Partition>,
) -> Result<Taken> {
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
    Ok(taken)
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
