//! Dead letters sent on to another Kafka topic, after their commit and at least once.
//!
//! Owns: what is sent, in which order, and that it is sent again until Kafka has confirmed it. Does not
//! own: the producer (`source::kafka`), the letters (`warehouse`).
//!
//! PostgreSQL and Kafka have no transaction in common. A letter is sent when it is committed, and its
//! `forwarded_at` is written when Kafka has confirmed it: a crash in between sends it again. Its place
//! in the headers lets a reader drop the second. A partition's letters go to one partition, in order
//! of offset. Nothing waits for this: while it fails, the pipeline goes on and the backlog grows.

use super::parts::Context;
use crate::{
    catalog::Topic,
    error::{Error, Result},
    record::Partition,
    source::kafka::{Producer, Sending},
    warehouse::StoredDeadLetter,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::JoinHandle};

/// Letters sent and confirmed at a time.
const LETTERS: i64 = 500;
/// Looks for letters at least so often, whatever it was told.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(15);

/// The driver's end.
pub struct Forwarder {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// Partitions whose letters this process sends.
    held: Mutex<BTreeSet<Partition>>,
    /// Grows when there may be something to send.
    wanted: AtomicU64,
    /// Of `wanted`: seen to, with everything sent.
    done: AtomicU64,
    failing: AtomicBool,
    wake: Notify,
}

impl Forwarder {
    pub fn start(topic: Arc<Topic>, to: Arc<str>, context: Context) -> Self {
        let shared = Arc::new(Shared::default());
        let runtime = context.runtime.clone();
        let sender = Sender { topic, to, context, shared: shared.clone(), producer: None };
        Self { shared, task: runtime.spawn(sender.run()) }
    }

    /// Something may have been committed, or other partitions are held.
    pub fn look(&self, held: BTreeSet<Partition>) {
        *self.shared.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.shared.wanted.fetch_add(1, Ordering::SeqCst);
        self.shared.wake.notify_one();
    }

    /// Whether other partitions are held than it knows.
    pub fn holds(&self, held: &BTreeSet<Partition>) -> bool {
        *self.shared.held.lock().unwrap_or_else(PoisonError::into_inner) == *held
    }

    /// Nothing to wait for: all is sent, or it cannot be now.
    pub fn is_idle(&self) -> bool {
        let wanted = self.shared.wanted.load(Ordering::SeqCst);
        self.shared.done.load(Ordering::SeqCst) >= wanted
            || self.shared.failing.load(Ordering::SeqCst)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Sender {
    topic: Arc<Topic>,
    to: Arc<str>,
    context: Context,
    shared: Arc<Shared>,
    /// Made when it is needed, and anew after a failure.
    producer: Option<Arc<Producer>>,
}

impl Sender {
    async fn run(mut self) {
        let mut wait = WAIT_MIN;
        loop {
            let wanted = self.shared.wanted.load(Ordering::SeqCst);
            match self.send_all().await {
                Ok(()) => {
                    self.shared.failing.store(false, Ordering::SeqCst);
                    self.shared.done.store(wanted, Ordering::SeqCst);
                    wait = WAIT_MIN;
                    let _ = tokio::time::timeout(LOOK_EVERY, self.shared.wake.notified()).await;
                }
                Err(error) => {
                    self.producer = None;
                    self.shared.failing.store(true, Ordering::SeqCst);
                    tracing::warn!(topic = %self.topic.name, "dead letters are not forwarded: {error}");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
            }
        }
    }

    async fn send_all(&mut self) -> Result<()> {
        loop {
            let held: Vec<Partition> = {
                let held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
                held.iter().copied().collect()
            };
            let warehouse = &self.context.warehouse;
            let (letters, waiting) =
                warehouse.letters_to_forward(&self.topic.name, &held, LETTERS).await?;
            metrics::gauge!("highwater_dead_letters_unforwarded", "topic" => self.topic.name.to_string())
                .set(waiting as f64);
            if letters.is_empty() {
                return Ok(());
            }
            self.send(letters).await?;
        }
    }

    /// Sends, and marks what was confirmed; an error if that was not all.
    async fn send(&mut self, letters: Vec<StoredDeadLetter>) -> Result<()> {
        let producer = self.producer().await?;
        let records: Vec<Sending> =
            letters.iter().map(|letter| sending(letter, producer.partitions)).collect();
        let sent = tokio::task::spawn_blocking(move || producer.send(&records));
        let (confirmed, trouble) =
            sent.await.map_err(|e| Error::halt("send dead letters on").because(e))?;
        let sent: Vec<_> =
            letters.iter().zip(&confirmed).filter(|(_, ok)| **ok).map(|(l, _)| l).collect();
        self.context.warehouse.forwarded(&self.topic.name, &sent).await?;
        metrics::counter!("highwater_dead_letters_forwarded_total", "topic" => self.topic.name.to_string())
            .increment(sent.len() as u64);
        trouble.map_or(Ok(()), Err)
    }

    async fn producer(&mut self) -> Result<Arc<Producer>> {
        if let Some(producer) = &self.producer {
            return Ok(producer.clone());
        }
        let (settings, to) = (self.context.kafka.settings().clone(), self.to.clone());
        let made = tokio::task::spawn_blocking(move || Producer::new(&settings, &to));
        let made = made.await.map_err(|e| Error::halt("make a producer").because(e))??;
        Ok(self.producer.insert(Arc::new(made)).clone())
    }
}

/// The record as it came, with where it stood and why it was refused in its headers.
fn sending(letter: &StoredDeadLetter, partitions: i32) -> Sending {
    let mut headers = stored_headers(&letter.headers);
    let mut say = |name: &str, text: Option<String>| {
        headers.push((format!("highwater.{name}"), text.map(String::into_bytes)));
    };
    say("topic", Some(letter.topic.to_string()));
    say("partition", Some(letter.partition.0.to_string()));
    say("offset", Some(letter.offset.to_string()));
    say("output", Some(letter.output.to_string()));
    say("class", Some(letter.class.clone()));
    say("column", letter.column.clone());
    say("reason", Some(letter.reason.clone()));
    Sending {
        partition: letter.partition.0 % partitions,
        key: letter.key.clone(),
        value: letter.value.clone(),
        headers,
    }
}

/// `[{"name": …, "value": …}]`, or `value_base64`.
fn stored_headers(json: &str) -> Vec<(String, Option<Vec<u8>>)> {
    let parsed: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let one = |header: &serde_json::Value| {
        let name = header["name"].as_str()?.to_owned();
        let text = header["value"].as_str().map(|text| text.as_bytes().to_vec());
        let bytes = header["value_base64"].as_str().and_then(|text| BASE64.decode(text).ok());
        Some((name, text.or(bytes)))
    };
    parsed.as_array().into_iter().flatten().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EventTime, Output};

    #[test]
    fn a_letter_is_sent_as_it_came_with_its_place_and_reason_behind_its_own_headers() {
        let letter = StoredDeadLetter {
            topic: "taps".into(),
            output: Output::DeadLetters,
            partition: Partition(5),
            offset: 7,
            timestamp: EventTime(0),
            class: "missing".into(),
            column: Some("stop_id".into()),
            reason: "it is not there".into(),
            raw: true,
            key: Some(b"k".to_vec()),
            value: Some(b"\xff".to_vec()),
            headers: r#"[{"name":"a","value":"x"},{"name":"b","value_base64":"AA=="},{"name":"c","value":null}]"#
                .into(),
            stored_at: 0,
            forwarded_at: None,
            generation: 1,
        };
        let sent = sending(&letter, 3);
        assert_eq!((sent.partition, sent.key, sent.value), (2, letter.key, letter.value));
        let text = |(name, value): (String, Option<Vec<u8>>)| {
            format!(
                "{name}={}",
                value.map_or("null".into(), |v| String::from_utf8(v).expect("text"))
            )
        };
        let headers: Vec<String> = sent.headers.into_iter().map(text).collect();
        assert_eq!(
            headers,
            [
                "a=x",
                "b=\0",
                "c=null",
                "highwater.topic=taps",
                "highwater.partition=5",
                "highwater.offset=7",
                "highwater.output=dead_letters",
                "highwater.class=missing",
                "highwater.column=stop_id",
                "highwater.reason=it is not there",
            ]
        );
    }
}
