//! ⇄ Properties of Kafka's clients: ours, the user's over them, and those that nobody may set.
//!
//! Owns: what is set and why. Does not own: the clients that are made by it.

use super::KafkaSettings;
use crate::error::{Error, Result};
use rdkafka::{ClientConfig, config::RDKafkaLogLevel, error::KafkaError};

/// Properties that exactness rests on.
const FIXED: [(&str, &str); 5] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_committed"),
    ("enable.partition.eof", "false"),
];

/// Of `[kafka.properties]`, what is a consumer's alone.
const CONSUMERS: [&str; 9] = [
    "session.timeout",
    "heartbeat.",
    "max.poll.",
    "group.",
    "fetch.",
    "queued.",
    "partition.assignment",
    "coordinator.",
    "check.crcs",
];

/// Librdkafka refuses a `fetch.max.bytes` below its `message.max.bytes`. A record that is larger comes alone.
const FETCH_BYTES_MIN: usize = 1_000_000;

/// A consumer's.
///
/// # Errors
/// `Config`: a property that exactness rests on is set.
pub(super) fn consumer(settings: &KafkaSettings) -> Result<ClientConfig> {
    for (key, _) in FIXED {
        if settings.properties.contains_key(key) {
            return Err(Error::config(format!(
                "the Kafka property {key} is highwater's own: exactness rests on it"
            )));
        }
    }
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "highwater")
        .set("group.id", &settings.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "30000")
        // Partitions added later are taken up within this time.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("allow.auto.create.topics", "false")
        .set("queued.max.messages.kbytes", (settings.fetch_bytes / 1024).max(1024).to_string())
        // Each record waiting costs some 300 bytes beside its own; and what one fetch of a broker brings
        // comes on top of what waits, however many partitions it is of: compressed, often to a fifth.
        .set("queued.min.messages", "50000")
        .set("fetch.message.max.bytes", "1048576")
        .set("fetch.max.bytes", (settings.fetch_bytes / 8).max(FETCH_BYTES_MIN).to_string())
        // The default of one second stalls a consumer whose queue was full.
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.wait.max.ms", "100")
        // The default of ten seconds is how long everything would stand when brokers are back.
        .set("reconnect.backoff.max.ms", "2000")
        .set("statistics.interval.ms", "5000")
        .set("socket.keepalive.enable", "true");
    for (key, value) in &settings.properties {
        config.set(key, value);
    }
    for (key, value) in FIXED {
        config.set(key, value);
    }
    config.set_log_level(RDKafkaLogLevel::Info);
    Ok(config)
}

/// A producer's: idempotent, and no record has a time limit of its own.
pub(super) fn producer(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.brokers).set("client.id", "highwater");
    for (key, value) in &settings.properties {
        if !CONSUMERS.iter().any(|prefix| key.starts_with(prefix)) {
            config.set(key, value);
        }
    }
    config
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "0")
        // What Kafka gave it takes back; the headers come on top.
        .set("message.max.bytes", "1000000000")
        .set("linger.ms", "5")
        .set("allow.auto.create.topics", "false");
    config
}

/// A client cannot be made of these properties: one is not there, or a file that it names is of no use.
pub(super) fn refused(error: KafkaError) -> Error {
    Error::config(
        "set up a Kafka client: check --kafka, the files that it names, and HIGHWATER_KAFKA_SSL_KEY_PASSWORD or \
         HIGHWATER_KAFKA_SSL_KEYSTORE_PASSWORD",
    )
    .because(error)
}
