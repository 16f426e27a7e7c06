//! ⇄ What of a take and of a commit is asked of Kafka: offsets, and which topic it is.
//!
//! Owns: the order of asking. Does not own: the judgement (`record::gap`), what follows from it.
//!
//! SUBTLE: a mark is compared with a log's end that was asked *after* the mark was read: read the other
//! way round, a commit between the two would stand behind the end and look like a truncation. And a cut's
//! topic id is asked *after* its last record was read (G-3): ids never come back, so if it is still the
//! marks', every record of the cut is of their topic.

use super::{driver::Context, encoder};
use crate::{
    catalog::Topic,
    cut::Cut,
    error::{Error, Result},
    lake::store::Store,
    record::{Lane, Output, Partition, gap},
    source::kafka::Kafka,
    warehouse::{Claim, Taken},
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

    pub(super) async fn commit(&self, kafka_topic: &str, cut: &mut Cut) -> Result<()> {
        let name = kafka_topic.to_owned();
        cut.topic_id = self.ask(move |kafka| kafka.topic_id(&name, KAFKA_WAIT)).await?;
        self.warehouse.commit(cut).await
    }
}

pub(super) async fn take(
    topic: &Topic,
    store: Option<&Store>,
    context: &Context,
    lane: Lane,
    outputs: Vec<Output>,
    partitions: Vec<Partition>,
) -> Result<Taken> {
    let logs = |partitions: Vec<Partition>| {
        let name = topic.kafka_topic.clone();
        context.ask(move |kafka| kafka.logs(&name, &partitions, KAFKA_WAIT))
    };
    let claim = Claim {
        topic: topic.name.clone(),
        lane,
        outputs,
        partitions: logs(partitions).await?,
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
    if let (Lane::Lake, Some(store)) = (lane, store) {
        encoder::tidy(&topic.name, store, context).await?;
    }
    Ok(taken)
}
