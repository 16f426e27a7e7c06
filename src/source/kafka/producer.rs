//! ⇄ Records out, for dead letters that are sent on: idempotent, in order, confirmed one by one.
//!
//! Owns: a producer and what it was told of each record. Does not own: what is sent and whether it is
//! sent again (`pipeline::forward`).
//!
//! A record has no time limit of its own: one that is given up while a later one is not would change
//! their order. Instead all that is not confirmed in time is given up together, with the producer:
//! what was written is the beginning of what was sent, and sending the rest again keeps the order.

use super::{KafkaSettings, client};
use crate::error::{Error, Result};
use rdkafka::{
    ClientContext, Message,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext},
};
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// For all records of one call.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// One record to send.
#[derive(Debug, Clone)]
pub struct Sending {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// What became of the records of one call, by index.
#[derive(Default)]
struct Deliveries(Mutex<Vec<(usize, Option<KafkaError>)>>);

impl ClientContext for Deliveries {
    fn log(&self, _: RDKafkaLogLevel, fac: &str, message: &str) {
        tracing::debug!(target: "kafka", fac, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "kafka", "{error}: {reason}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, index: Box<usize>) {
        let error = result.as_ref().err().map(|(error, message)| {
            tracing::debug!(target: "kafka", topic = message.topic(), "not delivered: {error}");
            error.clone()
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((*index, error));
    }
}

/// A producer to one topic.
pub struct Producer {
    producer: BaseProducer<Deliveries>,
    topic: String,
    pub partitions: i32,
}

impl Producer {
    /// # Errors
    /// `Retry`: no broker answers, or the topic is not there.
    pub fn new(settings: &KafkaSettings, topic: &str) -> Result<Self> {
        let producer: BaseProducer<Deliveries> = client::producer(settings)
            .create_with_context(Deliveries::default())
            .map_err(client::refused)?;
        let metadata = producer.client().fetch_metadata(Some(topic), PATIENCE);
        let metadata = metadata
            .map_err(|e| Error::retry(format!("ask Kafka for the topic {topic}")).because(e))?;
        let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
        let partitions = found.map_or(0, |topic| topic.partitions().len() as i32);
        if partitions == 0 {
            return Err(Error::retry(format!("the topic {topic} is not there (yet)")));
        }
        Ok(Self { producer, topic: topic.to_owned(), partitions })
    }

    /// Sends all in order; gives for each whether Kafka confirmed it, and why it did not confirm
    /// the first that it did not. Then the producer is to be dropped.
    pub fn send(&self, records: &[Sending]) -> (Vec<bool>, Option<Error>) {
        let mut confirmed = vec![false; records.len()];
        let mut trouble = None;
        let mut open = 0;
        let deadline = Instant::now() + PATIENCE;
        for (index, record) in records.iter().enumerate() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            let headers = record.headers.iter().fold(headers, |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_ref() })
            });
            let mut message: BaseRecord<'_, Vec<u8>, Vec<u8>, Box<usize>> =
                BaseRecord::with_opaque_to(&self.topic, Box::new(index))
                    .partition(record.partition)
                    .headers(headers);
            message.key = record.key.as_ref();
            message.payload = record.value.as_ref();
            // A full queue empties with time.
            let refused = loop {
                let Err((error, back)) = self.producer.send(message) else { break None };
                let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                if !full || Instant::now() > deadline {
                    break Some(error);
                }
                self.producer.poll(POLL);
                message = back;
            };
            match refused {
                None => open += 1,
                Some(error) => trouble = trouble.or(Some(self.failed(error))),
            }
        }
        while open > 0 && Instant::now() < deadline {
            self.producer.poll(POLL);
            let deliveries = &self.producer.context().0;
            let told =
                std::mem::take(&mut *deliveries.lock().unwrap_or_else(PoisonError::into_inner));
            for (index, error) in told {
                open -= 1;
                match error {
                    None => confirmed[index] = true,
                    Some(error) => trouble = trouble.or(Some(self.failed(error))),
                }
            }
        }
        if open > 0 && trouble.is_none() {
            trouble = Some(Error::retry(format!(
                "send {} records to {}: {open} not confirmed in time",
                records.len(),
                self.topic
            )));
        }
        (confirmed, trouble)
    }

    fn failed(&self, error: KafkaError) -> Error {
        Error::retry(format!("send to {}", self.topic)).because(error)
    }
}
