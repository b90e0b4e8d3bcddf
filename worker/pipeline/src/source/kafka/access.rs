//! How the brokers are reached: what the user declares, and what is ours to say.
//!
//! Every option of librdkafka is passed through but those in [`RESERVED`], on which exactness rests.

use std::collections::BTreeMap;
use std::fmt;

use crate::spec::model::Source;

/// Options that Millrace decides, each with the reason.
pub const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "`brokers` says it"),
    ("metadata.broker.list", "`brokers` says it"),
    ("client.rack", "`client_rack` says it"),
    (
        "group.id",
        "partitions are assigned, and offsets lie in the ledger",
    ),
    ("enable.auto.commit", "offsets lie in the ledger"),
    ("enable.auto.offset.store", "offsets lie in the ledger"),
    (
        "auto.offset.reset",
        "an offset that is not there is an error, never a skip",
    ),
    (
        "enable.partition.eof",
        "a range that ends in transaction markers is known to end by it",
    ),
    ("isolation.level", "aborted messages are no events"),
];

/// What reading needs. Chosen for splits of some 16 MiB: little is fetched beyond a split's end, and a range that ends at
/// the end of the log is known to end within `fetch.wait.max.ms`.
#[cfg(feature = "kafka")]
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "millrace"),
    ("socket.keepalive.enable", "true"),
    ("reconnect.backoff.max.ms", "1000"),
    ("check.crcs", "true"),
    // One request is under way at a time: large answers keep a reader busy while the next one comes.
    ("fetch.message.max.bytes", "4194304"),
    ("fetch.wait.max.ms", "50"),
    ("fetch.error.backoff.ms", "100"),
    ("fetch.queue.backoff.ms", "5"),
    ("queued.min.messages", "20000"),
    ("queued.max.messages.kbytes", "32768"),
    // Forgetting the brokers when all of them are away at once, as is the default, may end in none being asked again.
    ("metadata.recovery.strategy", "none"),
    // A limit, not a buffer: the largest message that any broker takes must come through.
    ("receive.message.max.bytes", "1100000000"),
];

#[cfg(feature = "kafka")]
const OURS: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_committed"),
];

/// How the brokers are reached.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct KafkaOptions {
    /// Bootstrap brokers, each `host:port`.
    pub brokers: Vec<String>,
    /// Where this reader stands, so that it reads from a replica nearby: the brokers' `broker.rack`.
    pub client_rack: Option<String>,
    /// Options of librdkafka. They may hold secrets.
    pub options: BTreeMap<String, String>,
}

impl KafkaOptions {
    /// What a pipeline declares, if its source is a topic.
    #[must_use]
    pub fn of(source: &Source) -> Option<Self> {
        match source {
            Source::Kafka {
                brokers,
                client_rack,
                options,
                ..
            } => Some(Self {
                brokers: brokers.clone(),
                client_rack: client_rack.clone(),
                options: options.clone(),
            }),
            Source::Files { .. } | Source::S3 { .. } => None,
        }
    }

    /// The same, read from another rack, if one is known: where a worker runs, only the worker knows.
    #[must_use]
    pub fn in_rack(mut self, rack: Option<&str>) -> Self {
        if let Some(rack) = rack {
            self.client_rack = Some(rack.to_owned());
        }
        self
    }

    /// All brokers in one text.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.brokers.join(",")
    }

    /// librdkafka's configuration for a reader.
    #[cfg(feature = "kafka")]
    pub(super) fn config(&self) -> rdkafka::ClientConfig {
        let mut config = rdkafka::ClientConfig::new();
        for (name, value) in DEFAULTS {
            config.set(*name, *value);
        }
        for (name, value) in &self.options {
            config.set(name, value);
        }
        for (name, value) in OURS {
            config.set(*name, *value);
        }
        config.set("bootstrap.servers", self.bootstrap());
        if let Some(rack) = &self.client_rack {
            config.set("client.rack", rack);
        }
        config.remove("group.id");
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Warning);
        config
    }
}

/// Only the names of the options: they may hold secrets.
impl fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("brokers", &self.brokers)
            .field("client_rack", &self.client_rack)
            .field("options", &self.options.keys().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(all(test, feature = "kafka"))]
mod tests {
    use super::*;

    #[test]
    fn the_users_options_win_over_defaults_and_not_over_what_exactness_rests_on() {
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let options = KafkaOptions {
            brokers: vec!["a:1".to_owned(), "b:2".to_owned()],
            client_rack: None,
            options: BTreeMap::from([
                text("fetch.wait.max.ms", "7"),
                text("auto.offset.reset", "latest"),
                text("group.id", "x"),
                text("sasl.password", "hush"),
            ]),
        };
        let config = options.clone().in_rack(Some("zone-a")).config();
        assert_eq!(config.get("bootstrap.servers"), Some("a:1,b:2"));
        assert_eq!(config.get("fetch.wait.max.ms"), Some("7"));
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
        assert_eq!(config.get("client.rack"), Some("zone-a"));
        assert_eq!(config.get("group.id"), None);
        assert!(!format!("{options:?}").contains("hush"));
    }
}
