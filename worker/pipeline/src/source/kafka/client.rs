//! Clients of librdkafka: connected once, lent to one split at a time, kept for the next.
//!
//! A client has a connection and a thread for each broker, so it is dear to make and cheap to keep. It can fetch a
//! partition only once at a time; so each is lent to one reader, and readers that work beside each other have several.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::bindings::rd_kafka_resp_err_t as Error;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError as Native;
use rdkafka::types::{RDKafka, RDKafkaErrorCode};

use super::native::{Code, topic_id};
use super::{KafkaError, KafkaOptions, LastWords};

/// Clients that wait for the next split, for each set of options: as many as a worker has slots on most machines.
const IDLE_MAX: usize = 16;

/// How long a question to the brokers may take.
const ASK: Duration = Duration::from_secs(30);

/// The clients of a process, shared by all its [`Stores`](crate::source::Stores).
#[derive(Debug, Default)]
pub struct KafkaClients {
    idle: Mutex<HashMap<KafkaOptions, Vec<Consumer>>>,
}

impl KafkaClients {
    /// A client of these options, an idle one if there is one.
    pub(super) fn lend(self: &Arc<Self>, options: &KafkaOptions) -> Result<Lent, KafkaError> {
        let idle = self.idle.lock().get_mut(options).and_then(Vec::pop);
        let consumer = match idle {
            Some(consumer) => consumer,
            None => Consumer::connect(options)?,
        };
        Ok(Lent {
            consumer: Some(consumer),
            home: Arc::clone(self),
            options: options.clone(),
        })
    }
}

/// A client that is lent to a reader; it comes back unless the reader gave it up.
#[derive(Debug)]
pub(super) struct Lent {
    consumer: Option<Consumer>,
    home: Arc<KafkaClients>,
    options: KafkaOptions,
}

impl Lent {
    /// Gives the client back. One that met an error is dropped instead: the next reader begins afresh.
    pub(super) fn give_back(mut self) {
        if let Some(consumer) = self.consumer.take() {
            let mut idle = self.home.idle.lock();
            let idle = idle.entry(self.options.clone()).or_default();
            if idle.len() < IDLE_MAX {
                idle.push(consumer);
            }
        }
    }

    pub(super) fn consumer(&self) -> Result<&Consumer, KafkaError> {
        self.consumer.as_ref().ok_or(KafkaError::Client {
            reason: "it was given back".to_owned(),
        })
    }
}

/// A connected client.
pub(super) struct Consumer {
    client: BaseConsumer<Context>,
    brokers: String,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer")
            .field("brokers", &self.brokers)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    /// A client; no connection is waited for.
    pub(super) fn connect(options: &KafkaOptions) -> Result<Self, KafkaError> {
        let client = options
            .config()
            .create_with_context(Context::default())
            .map_err(not_made)?;
        Ok(Self {
            client,
            brokers: options.bootstrap(),
        })
    }

    /// librdkafka's handle, live as long as `self`.
    pub(super) fn native(&self) -> *mut RDKafka {
        self.client.client().native_ptr()
    }

    /// The topic's id; empty where the brokers give none.
    pub(super) fn topic_id(&self, topic: &str) -> Result<String, KafkaError> {
        let mut refused = None;
        let id = topic_id(self, topic, ASK, &mut || {
            refused = self.listen(topic).err();
            refused.is_none()
        });
        match (id, refused) {
            (Ok((0, 0)), _) => Ok(String::new()),
            (Ok((high, low)), _) => Ok(uuid_text(high, low)),
            (Err(_), Some(refused)) => Err(refused),
            (Err(code), None) => Err(self.asked("read the id", topic, code)),
        }
    }

    /// The partitions' numbers.
    pub(super) fn partitions(&self, topic: &str) -> Result<Vec<i32>, KafkaError> {
        let what = "list the partitions";
        let failed = |error: Native| self.asked(what, topic, code_of(&error));
        let metadata = self.client.fetch_metadata(Some(topic), ASK).map_err(failed)?;
        let missing = || {
            self.asked(
                what,
                topic,
                Code::of(Error::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART),
            )
        };
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let found = found.ok_or_else(missing)?;
        if let Some(error) = found.error() {
            return Err(self.asked(what, topic, Code::of(error)));
        }
        let mut partitions: Vec<i32> = found.partitions().iter().map(|p| p.id()).collect();
        partitions.sort_unstable();
        Ok(partitions)
    }

    /// First offset, and one past the last that may be read: where an open transaction begins, or the log ends.
    pub(super) fn watermarks(&self, topic: &str, partition: i32) -> Result<(u64, u64), KafkaError> {
        let (low, high) = self
            .client
            .fetch_watermarks(topic, partition, ASK)
            .map_err(|error| self.asked("read the watermarks", topic, code_of(&error)))?;
        Ok((low.max(0).cast_unsigned(), high.max(0).cast_unsigned()))
    }

    pub(super) fn raw(&self) -> &BaseConsumer<Context> {
        &self.client
    }

    /// Hears what librdkafka has to say about its connections. An error that waiting does not help is returned.
    pub(super) fn listen(&self, topic: &str) -> Result<(), KafkaError> {
        // A poll without any time would return after the first log line.
        while self.client.poll(Duration::from_millis(1)).is_some() {}
        match self.client.context().refused.lock().take() {
            Some(reason) => Err(KafkaError::Refused {
                topic: topic.to_owned(),
                reason,
            }),
            None => Ok(()),
        }
    }

    /// The last complaint.
    pub(super) fn last_words(&self) -> LastWords {
        LastWords(self.client.context().last.lock().clone())
    }

    /// What the answer `code` to a request means.
    pub(super) fn asked(&self, what: &'static str, topic: &str, code: Code) -> KafkaError {
        // The reason for a request that never got through stands in the complaints.
        if let Err(refused) = self.listen(topic) {
            return refused;
        }
        let topic = topic.to_owned();
        if is_missing(code) {
            let brokers = self.brokers.clone();
            return KafkaError::NoTopic { topic, brokers };
        }
        if is_refusal(code) {
            let reason = format!("{code}{}", self.last_words());
            return KafkaError::Refused { topic, reason };
        }
        KafkaError::Request {
            what,
            topic,
            reason: code.to_string(),
            last: self.last_words(),
        }
    }
}

/// Whether the topic or partition is not there.
pub(super) fn is_missing(code: Code) -> bool {
    [
        Error::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
        Error::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION,
        Error::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        Error::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID,
        Error::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
    ]
    .into_iter()
    .any(|known| Code::of(known) == code)
}

/// Whether the brokers would refuse again.
pub(super) fn is_refusal(code: Code) -> bool {
    [
        Error::RD_KAFKA_RESP_ERR__AUTHENTICATION,
        Error::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        Error::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
        Error::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
        Error::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
    ]
    .into_iter()
    .any(|known| Code::of(known) == code)
}

pub(super) fn code_of(error: &Native) -> Code {
    // The Rust layer's codes have the native numbers.
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
    Code(code as i32)
}

/// Names the option, never its value.
fn not_made(error: Native) -> KafkaError {
    if let Native::ClientConfig(_, reason, option, value) = error {
        let reason = if value.is_empty() {
            reason
        } else {
            reason.replace(&value, "...")
        };
        return KafkaError::Option { option, reason };
    }
    KafkaError::Client {
        reason: error.to_string(),
    }
}

fn uuid_text(high: u64, low: u64) -> String {
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// Keeps the last complaint and passes log lines on.
#[derive(Debug, Default)]
pub(super) struct Context {
    last: Mutex<Option<String>>,
    /// Why the brokers will not have us, once they said so.
    refused: Mutex<Option<String>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if (level as i32) <= (RDKafkaLogLevel::Warning as i32) {
            *self.last.lock() = Some(message.to_owned());
            tracing::warn!(facility, message, "librdkafka");
        } else {
            tracing::debug!(facility, message, "librdkafka");
        }
    }

    fn error(&self, error: Native, reason: &str) {
        *self.last.lock() = Some(reason.to_owned());
        if is_refusal(code_of(&error)) {
            *self.refused.lock() = Some(reason.to_owned());
        }
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Context {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_option_is_named_and_its_value_is_not() {
        let options = |name: &str, value: &str| KafkaOptions {
            brokers: vec!["127.0.0.1:1".to_owned()],
            client_rack: None,
            options: [(name.to_owned(), value.to_owned())].into(),
        };
        for (name, value) in [("sasl.pasword", "hush"), ("security.protocol", "hush")] {
            let error = Consumer::connect(&options(name, value)).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(name) && !text.contains("hush"), "{text}");
        }
    }

    #[test]
    fn a_topic_id_is_written_as_a_uuid() {
        assert_eq!(
            uuid_text(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210),
            "01234567-89ab-cdef-fedc-ba9876543210"
        );
    }
}
