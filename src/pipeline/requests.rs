//! ⇄ What a topic asks of PostgreSQL and Kafka and waits for, as tasks: partitions, ends of logs, commits.
//!
//! Owns: the steps of a claim, the order of asking. Does not own: the judgement of what is gone
//! (`record::gap`), what follows from an answer (`worker`).
//!
//! SUBTLE: a mark is compared with a log's end that was asked *after* the mark was read: read the other
//! way round, a commit between the two would stand behind the end and look like a truncation. And a cut's
//! topic id is asked *after* its last record was read (G-3): ids never come back, so if it is still the
//! marks', every record of the cut is of their topic.

use super::{driver::Context, owed::Owed, report::OutputWatermark};
use crate::{
    catalog::Topic,
    cut::Cut,
    error::{Error, Result},
    record::{Lane, Offset, Output, Partition, gap},
    source::kafka::Kafka,
    warehouse::{Claim, Committed, Taken},
};
use std::time::Duration;

const KAFKA_WAIT: Duration = Duration::from_secs(10);

impl Context {
    /// A call of librdkafka's that waits.
    async fn ask<T, F>(&self, question: F) -> Result<T>
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

/// Takes a lane of partitions, and finishes or drops what owners before left in the lake.
pub async fn take(
    topic: &Topic,
    owed: Option<Owed>,
    context: &Context,
    lane: Lane,
    outputs: Vec<Output>,
    partitions: Vec<Partition>,
) -> Result<Taken> {
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
    Ok(taken)
}

/// Where the logs end, of those whose leaders answer.
pub async fn ends(
    topic: &Topic,
    context: &Context,
    partitions: Vec<Partition>,
) -> Vec<(Partition, Offset)> {
    let name = topic.kafka_topic.clone();
    let asked = context.ask(move |kafka| Ok(kafka.ends(&name, &partitions, KAFKA_WAIT))).await;
    asked.unwrap_or_else(|error| {
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
