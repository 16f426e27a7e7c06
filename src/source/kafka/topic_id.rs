//! ⇄ A topic's id (KIP-516), by librdkafka's DescribeTopics.
//!
//! Owns: the request and its handles. Does not own: what another id means (`record::gap`).

use super::{Kafka, KafkaOffset, Queue};
use crate::{
    error::{Error, Result},
    record::{
        Offset, Partition,
        gap::{PartitionLog, TopicId},
    },
};
use rdkafka::{
    bindings as rd,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    types::RDKafkaRespErr,
};
use std::{collections::BTreeMap, ffi::CString, time::Duration};

/// A handle of librdkafka's with the function that ends it.
struct Handle<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: made by librdkafka for us, ended once; its destructors take null as well.
        unsafe { (self.1)(self.0) }
    }
}

/// The id that the topic has now; None where the broker has no ids.
///
/// # Errors
/// `Retry`: nobody answers, or the topic is not there.
pub(super) fn ask<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<TopicId>> {
    use RDKafkaRespErr as Code;
    let failed = |why: &dyn std::fmt::Debug| {
        Error::retry(format!("ask Kafka for the id of {topic}: {why:?}"))
    };
    let name = CString::new(topic).map_err(|e| failed(&e))?;
    let mut names = [name.as_ptr()];
    let millis = timeout.as_millis() as i32;
    let op = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: handles live until the end of this function, which waits for the answer; the
    // client lives as long as `consumer`. What the result points to lives as long as the event.
    unsafe {
        let client = consumer.client().native_ptr();
        let queue = Queue(rd::rd_kafka_queue_new(client));
        let options =
            Handle(rd::rd_kafka_AdminOptions_new(client, op), rd::rd_kafka_AdminOptions_destroy);
        let mut text = [0; 128];
        rd::rd_kafka_AdminOptions_set_request_timeout(
            options.0,
            millis,
            text.as_mut_ptr(),
            text.len(),
        );
        let topics = Handle(
            rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1),
            rd::rd_kafka_TopicCollection_destroy,
        );
        rd::rd_kafka_DescribeTopics(client, topics.0, options.0, queue.0);
        // The request's own limit ends the waiting; the rest is for its answer.
        let event = rd::rd_kafka_queue_poll(queue.0, millis.saturating_add(1_000));
        if event.is_null() {
            return Err(failed(&"no answer"));
        }
        let event = Handle(event, rd::rd_kafka_event_destroy);
        match rd::rd_kafka_event_error(event.0) {
            Code::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            Code::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE => return Ok(None),
            code => return Err(failed(&code)),
        }
        let result = rd::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(failed(&"another answer"));
        }
        let mut count = 0;
        let found = rd::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count != 1 {
            return Err(failed(&"no description"));
        }
        let error = rd::rd_kafka_TopicDescription_error(*found);
        match rd::rd_kafka_error_code(error) {
            Code::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            code => return Err(failed(&code)),
        }
        let id = rd::rd_kafka_TopicDescription_topic_id(*found);
        if id.is_null() {
            return Ok(None);
        }
        let high = rd::rd_kafka_Uuid_most_significant_bits(id);
        Ok(TopicId::new(high, rd::rd_kafka_Uuid_least_significant_bits(id)))
    }
}

impl Kafka {
    /// The id that the topic has now; None where the broker has no ids, or is not to be asked.
    ///
    /// # Errors
    /// `Retry`: nobody answers, or the topic is not there.
    pub fn topic_id(&self, topic: &str, timeout: Duration) -> Result<Option<TopicId>> {
        match self.settings.topic_ids {
            true => ask(&self.consumer, topic, timeout),
            false => Ok(None),
        }
    }

    /// What Kafka says of these partitions now. The id is asked before and after the offsets:
    /// they must be of one topic.
    pub fn logs(
        &self,
        topic: &str,
        partitions: &[Partition],
        timeout: Duration,
    ) -> Result<Vec<(Partition, PartitionLog)>> {
        let topic_id = self.topic_id(topic, timeout)?;
        // Of all at once: a question waits behind the fetch that is under way, which waits for records.
        let ask = |which| {
            let asked = self.offsets_at_once(topic, partitions, which, timeout);
            let told = asked.map_err(|e| {
                Error::retry(format!("ask Kafka for the offsets of {topic}")).because(e)
            })?;
            Ok(told.into_iter().collect::<BTreeMap<Partition, Offset>>())
        };
        let (oldest, ends) = (ask(KafkaOffset::Beginning)?, ask(KafkaOffset::End)?);
        let log = |partition: &Partition| match (oldest.get(partition), ends.get(partition)) {
            (Some(&oldest), Some(&end)) => Ok((*partition, PartitionLog { topic_id, oldest, end })),
            (Some(_), None) | (None, _) => {
                let partition = partition.0;
                Err(Error::retry(format!("Kafka does not tell the offsets of {topic}/{partition}")))
            }
        };
        let logs = partitions.iter().map(log).collect::<Result<Vec<_>>>()?;
        match self.topic_id(topic, timeout)? == topic_id {
            true => Ok(logs),
            false => Err(Error::retry(format!("{topic} was made again just now"))),
        }
    }
}
