//! Real brokers, started by `deploy/local/kafka.sh`, and what tests do with them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use millrace_pipeline::source::kafka::KafkaOptions;

/// Longest wait for a broker to come to a state.
const DEADLINE: Duration = Duration::from_secs(60);

/// A broker in a temporary folder; killed when the last test lets go of it.
pub(crate) struct Broker {
    folder: tempfile::TempDir,
}

/// The broker that tests share: each has topics of its own.
pub(crate) fn shared() -> Arc<Broker> {
    static SHARED: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock();
    shared.upgrade().unwrap_or_else(|| {
        let broker = Arc::new(Broker::start());
        *shared = Arc::downgrade(&broker);
        broker
    })
}

impl Broker {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Self { folder };
        broker.script(&["start", "--sasl"]);
        broker
    }

    pub(crate) fn script(&self, arguments: &[&str]) {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/local/kafka.sh");
        let mut command = Command::new(script);
        command
            .arg(arguments[0])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&arguments[1..]);
        assert!(command.status().unwrap().success(), "kafka.sh {arguments:?}");
    }

    fn read(&self, file: &str) -> String {
        let text = std::fs::read_to_string(self.folder.path().join(file)).unwrap();
        text.trim().to_owned()
    }

    pub(crate) fn options(&self) -> KafkaOptions {
        KafkaOptions {
            brokers: vec![self.read("endpoint")],
            ..KafkaOptions::default()
        }
    }

    /// Access by TLS and SCRAM with this password.
    pub(crate) fn sasl(&self, password: &str) -> KafkaOptions {
        let ca = self.folder.path().join("sasl/ca.pem");
        let options = [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "millrace"),
            ("sasl.password", password),
            ("ssl.ca.location", ca.to_str().unwrap()),
        ];
        let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        KafkaOptions {
            brokers: vec![self.read("sasl/endpoint")],
            client_rack: None,
            options: options.into_iter().map(text).collect(),
        }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.read("endpoint"));
        config
    }

    pub(crate) async fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            let made = self
                .admin()
                .create_topics([&new], &AdminOptions::new())
                .await
                .unwrap();
            match &made[0] {
                Ok(_) => return,
                // A topic of this name is being deleted.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) if Instant::now() < deadline => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    pub(crate) async fn delete(&self, topic: &str) {
        let deleted = self
            .admin()
            .delete_topics(&[topic], &AdminOptions::new())
            .await
            .unwrap();
        deleted[0].as_ref().unwrap();
    }

    /// What retention does: deletes everything before `offset`.
    pub(crate) async fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .unwrap();
        self.admin()
            .delete_records(&list, &AdminOptions::new())
            .await
            .unwrap();
    }

    /// A producer; `settings` are librdkafka's.
    pub(crate) fn producer(&self, settings: &[(&str, &str)]) -> BaseProducer {
        let mut config = self.config();
        config.set("linger.ms", "5").set("enable.idempotence", "true");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        config.create().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.script(&["kill"]);
    }
}

/// One message.
#[derive(Default, Clone)]
pub(crate) struct Message {
    pub(crate) key: Option<String>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) time_ms: Option<i64>,
}

impl Message {
    pub(crate) fn of(payload: impl Into<Vec<u8>>) -> Self {
        Self {
            payload: Some(payload.into()),
            ..Self::default()
        }
    }
}

/// Sends messages and waits until the broker has them.
pub(crate) fn send(producer: &BaseProducer, topic: &str, partition: i32, messages: &[Message]) {
    for message in messages {
        let mut record: BaseRecord<'_, String, Vec<u8>> = BaseRecord::to(topic).partition(partition);
        record.key = message.key.as_ref();
        record.payload = message.payload.as_ref();
        record.timestamp = message.time_ms;
        while let Err((error, unsent)) = producer.send(record) {
            assert_eq!(
                error.rdkafka_error_code(),
                Some(RDKafkaErrorCode::QueueFull),
                "{error}"
            );
            producer.poll(Duration::from_millis(10));
            record = unsent;
        }
    }
    producer.flush(DEADLINE).unwrap();
}

/// Asks again until `state` holds.
pub(crate) async fn until<F>(what: &str, mut state: F)
where
    F: AsyncFnMut() -> bool,
{
    let deadline = Instant::now() + DEADLINE;
    while !state().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
