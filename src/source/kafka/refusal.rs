//! What a code of librdkafka's means for the caller: whether it passes, and what to do.
//!
//! Owns: the table. Does not own: where codes come from (`reader`, the consumer). Pure, so that each
//! row has a test.
//!
//! The client connects, authenticates and joins again by itself, for ever: whatever a broker, the
//! network or an administrator can mend is `Retry`, and `/readyz` says what it waits for. `Halt` is
//! what going on would turn into a loss: a batch that cannot be read must not be passed over, since
//! what is passed over counts as absent. Records that are gone stop their partition alone (G-4).

use crate::error::Kind::{self, Halt, Retry};
use rdkafka::error::RDKafkaErrorCode as Code;

/// What comes next, and what a person can do about it; None: nothing but wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub kind: Kind,
    pub remedy: Option<&'static str>,
}

const CREDENTIALS: &str =
    "the broker does not let us in: check security.protocol, sasl.* and ssl.* of --kafka";
const NOBODY: &str =
    "no broker answers: if none ever did, check --brokers, and security.protocol of --kafka";
const TOPIC_RIGHTS: &str = "this user may not read the topic: it needs Read and Describe on it";
const GROUP_RIGHTS: &str = "this user may not use the group: it needs Read on the group of --group";
const NO_TOPIC: &str = "the topic is not there: create it, or correct `topic` in its file";
const GONE: &str = "it is not in Kafka any more, or not yet";
const UNREADABLE: &str = "the batch cannot be read: it is damaged, or compressed in a way that this build does not know; \
     nothing is passed over";
const FATAL: &str = "the client can not go on: restart it";

/// Of any code that a consumer meets.
pub fn of(code: Code) -> Verdict {
    let (kind, remedy) = match code {
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::SSL
        | Code::UnsupportedSASLMechanism
        | Code::ClusterAuthorizationFailed => (Retry, Some(CREDENTIALS)),
        Code::AllBrokersDown => (Retry, Some(NOBODY)),
        Code::TopicAuthorizationFailed => (Retry, Some(TOPIC_RIGHTS)),
        Code::GroupAuthorizationFailed => (Retry, Some(GROUP_RIGHTS)),
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            (Retry, Some(NO_TOPIC))
        }
        code if is_gone(code) => (Retry, Some(GONE)),
        Code::BadMessage
        | Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::MessageSizeTooLarge
        | Code::BadCompression
        | Code::UnsupportedCompressionType
        | Code::NotImplemented
        | Code::UnsupportedFeature => (Halt, Some(UNREADABLE)),
        Code::Fatal | Code::FencedInstanceId => (Halt, Some(FATAL)),
        // Transport, leaders and coordinators on the move, timeouts, rebalances.
        _ => (Retry, None),
    };
    Verdict { kind, remedy }
}

/// The log has not the offset that was asked for: its partition's marks must be held against Kafka anew.
pub fn is_gone(code: Code) -> bool {
    matches!(code, Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_says_what_to_do_next() {
        for (code, kind, words) in [
            (Code::BrokerTransportFailure, Retry, ""),
            (Code::AllBrokersDown, Retry, "--brokers"),
            (Code::Resolve, Retry, ""),
            (Code::OperationTimedOut, Retry, ""),
            (Code::RequestTimedOut, Retry, ""),
            (Code::NetworkException, Retry, ""),
            (Code::LeaderNotAvailable, Retry, ""),
            (Code::NotLeaderForPartition, Retry, ""),
            (Code::ReplicaNotAvailable, Retry, ""),
            (Code::CoordinatorNotAvailable, Retry, ""),
            (Code::NotCoordinator, Retry, ""),
            (Code::IllegalGeneration, Retry, ""),
            (Code::UnknownMemberId, Retry, ""),
            (Code::RebalanceInProgress, Retry, ""),
            (Code::FencedLeaderEpoch, Retry, ""),
            (Code::OffsetNotAvailable, Retry, ""),
            (Code::KafkaStorageError, Retry, ""),
            (Code::Unknown, Retry, ""),
            (Code::Authentication, Retry, "sasl.*"),
            (Code::SaslAuthenticationFailed, Retry, "sasl.*"),
            (Code::UnsupportedSASLMechanism, Retry, "sasl.*"),
            (Code::SSL, Retry, "ssl.*"),
            (Code::ClusterAuthorizationFailed, Retry, "let us in"),
            (Code::TopicAuthorizationFailed, Retry, "Read and Describe"),
            (Code::GroupAuthorizationFailed, Retry, "Read on the group"),
            (Code::UnknownTopic, Retry, "create it"),
            (Code::UnknownTopicOrPartition, Retry, "create it"),
            (Code::UnknownPartition, Retry, "create it"),
            (Code::OffsetOutOfRange, Retry, "not in Kafka"),
            (Code::AutoOffsetReset, Retry, "not in Kafka"),
            (Code::LogTruncation, Retry, "not in Kafka"),
            (Code::BadMessage, Halt, "damaged"),
            (Code::InvalidMessage, Halt, "damaged"),
            (Code::InvalidMessageSize, Halt, "damaged"),
            (Code::MessageSizeTooLarge, Halt, "damaged"),
            (Code::BadCompression, Halt, "compressed"),
            (Code::UnsupportedCompressionType, Halt, "compressed"),
            (Code::NotImplemented, Halt, "compressed"),
            (Code::UnsupportedFeature, Halt, "compressed"),
            (Code::Fatal, Halt, "restart"),
            (Code::FencedInstanceId, Halt, "restart"),
        ] {
            let found = of(code);
            assert_eq!(found.kind, kind, "{code:?}");
            assert!(found.remedy.unwrap_or_default().contains(words), "{code:?}: {found:?}");
            assert_eq!(found.remedy.is_none(), words.is_empty(), "{code:?}: {found:?}");
            assert_eq!(is_gone(code), words == "not in Kafka", "{code:?}");
        }
    }

    /// By number, as librdkafka and the protocol have them: what arrives is an integer.
    #[test]
    fn codes_arrive_by_number() {
        use rdkafka::types::RDKafkaRespErr;
        for (raw, kind) in [
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT, Retry),
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR__AUTHENTICATION, Retry),
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Retry),
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, Retry),
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE, Retry),
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET, Retry),
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_MSG, Halt),
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG, Halt),
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_COMPRESSION, Halt),
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED, Halt),
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR__FATAL, Halt),
        ] {
            assert_eq!(of(raw.into()).kind, kind, "{raw:?}");
        }
    }
}
