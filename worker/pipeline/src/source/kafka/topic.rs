//! A topic as whoever plans splits sees it: its partitions, how far they reach, and which offsets a time has.
//!
//! Every call asks the brokers and blocks while it does.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Consumer, code_of};
use super::{KafkaError, KafkaOptions, TopicPartition};
use millrace_proto::split::InputObject;

/// How long a question to the brokers may take.
const ASK: Duration = Duration::from_secs(30);

/// A partition and the offsets that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// The partition, of the topic with this id: what splits of it name.
    pub object: InputObject,
    /// Its number.
    pub partition: i32,
    /// First offset that is there.
    pub low: u64,
    /// One past the last that may be read: where an open transaction begins, or the log ends.
    pub high: u64,
}

/// A topic.
pub struct Topic {
    consumer: Consumer,
    options: KafkaOptions,
    name: String,
    /// A client for each group that offsets are mirrored to.
    groups: Mutex<HashMap<String, BaseConsumer>>,
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Topic {
    /// A client for the topic; no connection is waited for.
    ///
    /// # Errors
    /// When librdkafka refuses the options.
    pub fn open(options: &KafkaOptions, name: &str) -> Result<Self, KafkaError> {
        Ok(Self {
            consumer: Consumer::connect(options)?,
            options: options.clone(),
            name: name.to_owned(),
            groups: Mutex::default(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its partitions in order, with their watermarks, under the topic's present id.
    ///
    /// # Errors
    /// When the topic does not exist or the brokers do not answer.
    pub fn partitions(&self) -> Result<Vec<PartitionOffsets>, KafkaError> {
        let id = self.consumer.topic_id(&self.name)?;
        let partitions = self.consumer.partitions(&self.name)?;
        let mut found = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let (low, high) = self.consumer.watermarks(&self.name, partition)?;
            let place = TopicPartition {
                topic: self.name.clone(),
                partition,
            };
            found.push(PartitionOffsets {
                object: place.object(&id),
                partition,
                low,
                high,
            });
        }
        // Watermarks of one topic and the id of another would make a false pair.
        let now = self.consumer.topic_id(&self.name)?;
        if now != id {
            return Err(self.asked(
                "list the partitions",
                super::native::Code::of(
                    rdkafka::bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID,
                ),
            ));
        }
        Ok(found)
    }

    /// For each partition the first offset whose message is of `time_ms` (milliseconds since 1970) or later; none where
    /// there is no such message.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub fn offsets_at(&self, partitions: &[i32], time_ms: i64) -> Result<Vec<Option<u64>>, KafkaError> {
        let mut asked = TopicPartitionList::with_capacity(partitions.len());
        let what = "look up offsets by time";
        for &partition in partitions {
            asked
                .add_partition_offset(&self.name, partition, Offset::Offset(time_ms.max(0)))
                .map_err(|error| self.asked(what, code_of(&error)))?;
        }
        let answer = self
            .consumer
            .raw()
            .offsets_for_times(asked, ASK)
            .map_err(|error| self.asked(what, code_of(&error)))?;
        let mut found = Vec::with_capacity(partitions.len());
        for &partition in partitions {
            let Some(element) = answer.find_partition(&self.name, partition) else {
                return Err(self.asked(what, super::native::Code(-1)));
            };
            if let Err(error) = element.error() {
                return Err(self.asked(what, code_of(&error)));
            }
            found.push(match element.offset() {
                Offset::Offset(offset) => u64::try_from(offset).ok(),
                Offset::Beginning
                | Offset::End
                | Offset::Stored
                | Offset::Invalid
                | Offset::OffsetTail(_) => None,
            });
        }
        Ok(found)
    }

    /// Writes offsets (one past the last event read) to a consumer group, for tools that show lag. Nothing reads them back.
    ///
    /// # Errors
    /// When the brokers refuse or do not answer; nothing depends on it.
    pub fn mirror(&self, group: &str, offsets: &[(i32, u64)]) -> Result<(), KafkaError> {
        let what = "mirror offsets";
        let failed = |error: rdkafka::error::KafkaError| self.asked(what, code_of(&error));
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for &(partition, offset) in offsets {
            let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
            list.add_partition_offset(&self.name, partition, offset)
                .map_err(failed)?;
        }
        let mut groups = self.groups.lock();
        if !groups.contains_key(group) {
            let mut config = self.options.config();
            config.set("group.id", group);
            groups.insert(group.to_owned(), config.create().map_err(failed)?);
        }
        match groups.get(group) {
            Some(client) => client.commit(&list, CommitMode::Sync).map_err(failed),
            None => Ok(()),
        }
    }

    fn asked(&self, what: &'static str, code: super::native::Code) -> KafkaError {
        self.consumer.asked(what, &self.name, code)
    }
}
