//! A Kafka topic's bytes: offset ranges of partitions, read by assignment, without a consumer group.
//!
//! In: splits whose object is `kafka://<topic>/<partition>`, whose version is the topic's id and whose range is
//! offsets. Out: chunks of messages ([`crate::rows::chunk_schema`] with its `messages` column filled).
//!
//! | module       | has                                                                       |
//! |--------------|---------------------------------------------------------------------------|
//! | `access`     | how the brokers are reached: the user's options, and those that are ours  |
//! | [`place`]    | `kafka://topic/partition` and back                                        |
//! | `chunk`      | messages to chunks, the kernel                                            |
//! | `read`       | the loop that reads one split                                             |
//! | `client`     | clients of librdkafka, lent to one split at a time                        |
//! | `native`     | what librdkafka has and its Rust layer has not: batches, topic ids        |
//! | [`topic`]    | partitions, watermarks, offsets by time, for whoever plans splits         |
//!
//! | the range holds...                          | what happens                                             |
//! |---------------------------------------------|----------------------------------------------------------|
//! | transaction markers, aborted messages       | they are not delivered; the split ends at its end anyway |
//! | offsets that compaction removed             | not delivered either                                     |
//! | a message without a payload (a tombstone)   | an empty line: no event                                  |
//! | offsets that retention removed, or none yet | [`KafkaError::OutOfRange`], never a skip                 |
//! | offsets of a topic that was made anew       | [`KafkaError::Recreated`]                                |
//!
//! What the range has and what was delivered differ by [`Delivered::missing`].

mod access;
pub mod place;

#[cfg(feature = "kafka")]
mod chunk;
#[cfg(feature = "kafka")]
mod client;
#[cfg(feature = "kafka")]
mod native;
#[cfg(feature = "kafka")]
pub(super) mod read;
#[cfg(feature = "kafka")]
pub mod topic;

pub use access::{KafkaOptions, RESERVED};
#[cfg(feature = "kafka")]
pub use client::KafkaClients;
pub use place::TopicPartition;
#[cfg(feature = "kafka")]
pub use read::Delivered;
#[cfg(feature = "kafka")]
pub use topic::{PartitionOffsets, Topic};

/// Clients of a build that cannot reach Kafka.
#[cfg(not(feature = "kafka"))]
#[derive(Debug, Default)]
pub struct KafkaClients;

/// Why a topic could not be read or looked at. Names places and positions, no message.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// Not `kafka://topic/partition`.
    #[error("`{url}` is no partition of a topic: expected kafka://topic/partition")]
    Url {
        /// As given.
        url: String,
    },
    /// A split of a topic where no brokers were given.
    #[error("`{url}` lies in Kafka, but the pipeline's source is no topic")]
    NoBrokers {
        /// The partition.
        url: String,
    },
    /// Built without the feature.
    #[error("`{url}` lies in Kafka: this build reads none (cargo feature `kafka`)")]
    Absent {
        /// The partition.
        url: String,
    },
    /// librdkafka refuses an option.
    #[error("librdkafka refuses the option `{option}`: {reason}")]
    Option {
        /// Its name. Its value may be a secret.
        option: String,
        /// What is wrong.
        reason: String,
    },
    /// No client could be made of the options.
    #[error("no Kafka client could be made: {reason}")]
    Client {
        /// What librdkafka says.
        reason: String,
    },
    /// The topic does not exist, or nobody may know.
    #[error("the topic `{topic}` does not exist on {brokers}, or these credentials may not see it")]
    NoTopic {
        /// The topic.
        topic: String,
        /// Where it was looked for.
        brokers: String,
    },
    /// Another topic of the same name.
    #[error(
        "the topic of `{url}` was made anew: the split was planned on the topic with id {planned}, \
         now it has id {found}; its offsets mean other messages"
    )]
    Recreated {
        /// The partition.
        url: String,
        /// The id when the split was planned.
        planned: String,
        /// The id now.
        found: String,
    },
    /// Offsets that the broker does not hold.
    #[error(
        "offsets {start}..{end} of `{url}` are not all there: the broker holds {low}..{high}{why}",
        why = if start < low { " (retention was faster)" } else { " (the log was cut off)" }
    )]
    OutOfRange {
        /// The partition.
        url: String,
        /// First offset wanted.
        start: u64,
        /// One past the last.
        end: u64,
        /// First offset there is.
        low: u64,
        /// One past the last that can be read.
        high: u64,
    },
    /// The brokers refuse the client.
    #[error("the brokers refuse to give `{topic}`: {reason}")]
    Refused {
        /// The topic.
        topic: String,
        /// What they say.
        reason: String,
    },
    /// A message that librdkafka cannot read.
    #[error("the log of `{url}` is damaged after offset {position}: {reason}")]
    Damaged {
        /// The partition.
        url: String,
        /// Where reading stopped.
        position: u64,
        /// What librdkafka says.
        reason: String,
    },
    /// Nothing came for too long.
    #[error("`{url}` gave nothing after offset {position} for {seconds} s{last}")]
    Stalled {
        /// The partition.
        url: String,
        /// Where reading stopped.
        position: u64,
        /// For how long.
        seconds: u64,
        /// The last thing that librdkafka complained about.
        last: LastWords,
    },
    /// A request failed.
    #[error("could not {what} of topic `{topic}`: {reason}{last}")]
    Request {
        /// What was asked: `read the offsets`.
        what: &'static str,
        /// The topic.
        topic: String,
        /// What librdkafka says.
        reason: String,
        /// The last thing that it complained about.
        last: LastWords,
    },
}

/// What librdkafka said last about its connections, if anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastWords(pub Option<String>);

impl std::fmt::Display for LastWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(words) => write!(f, " (last: {words})"),
            None => Ok(()),
        }
    }
}

impl KafkaError {
    /// Whether the same may succeed later, without anyone changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            // Bytes may have been spoiled on their way.
            Self::Stalled { .. } | Self::Request { .. } | Self::Damaged { .. } => true,
            Self::Url { .. }
            | Self::NoBrokers { .. }
            | Self::Absent { .. }
            | Self::Option { .. }
            | Self::Client { .. }
            | Self::NoTopic { .. }
            | Self::Recreated { .. }
            | Self::OutOfRange { .. }
            | Self::Refused { .. } => false,
        }
    }
}
