//! `kafka://topic/partition`: how a partition is named in splits, manifests and quarantine.

use millrace_proto::split::InputObject;

use super::KafkaError;

const SCHEME: &str = "kafka://";

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
}

impl TopicPartition {
    /// Whether a URL leads to Kafka.
    #[must_use]
    pub fn is_at(url: &str) -> bool {
        url.starts_with(SCHEME)
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// When it is not `kafka://topic/partition`.
    pub fn parse(url: &str) -> Result<Self, KafkaError> {
        let wrong = || KafkaError::Url { url: url.to_owned() };
        let place = url.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (topic, partition) = place.split_once('/').ok_or_else(wrong)?;
        let is_number = !partition.is_empty() && partition.bytes().all(|byte| byte.is_ascii_digit());
        match partition.parse() {
            Ok(partition) if is_number && !topic.is_empty() => Ok(Self {
                topic: topic.to_owned(),
                partition,
            }),
            Ok(_) | Err(_) => Err(wrong()),
        }
    }

    /// The URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{SCHEME}{}/{}", self.topic, self.partition)
    }

    /// The input object: this partition of the topic with this id.
    #[must_use]
    pub fn object(&self, topic_id: &str) -> InputObject {
        InputObject {
            url: self.url(),
            size: 0,
            version: topic_id.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_comes_back_from_its_url_and_nothing_else_does() {
        let place = TopicPartition {
            topic: "shop.events-1_a".to_owned(),
            partition: 12,
        };
        assert_eq!(TopicPartition::parse(&place.url()).unwrap(), place);
        for bad in [
            "kafka://t",
            "kafka:///1",
            "kafka://t/",
            "kafka://t/-1",
            "kafka://t/+1",
            "kafka://t/1/2",
            "s3://t/1",
            "kafka://t/99999999999",
        ] {
            assert!(TopicPartition::parse(bad).is_err(), "{bad}");
        }
    }
}
