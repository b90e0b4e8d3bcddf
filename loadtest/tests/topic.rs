//! The generator's lines in a real topic: the ledger names each message's place.
#![expect(
    clippy::unwrap_used,
    reason = "clippy excepts test functions only, not what they share"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use millrace_loadtest::ledger::Ledger;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// A broker in a temporary folder; killed when dropped.
struct Broker(tempfile::TempDir);

impl Broker {
    fn start() -> Self {
        let broker = Self(tempfile::tempdir().unwrap());
        broker.script("start");
        broker
    }

    fn script(&self, verb: &str) {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/local/kafka.sh");
        let status = Command::new(script)
            .args([verb, "--dir"])
            .arg(self.0.path())
            .status();
        assert!(status.unwrap().success(), "kafka.sh {verb}");
    }

    fn brokers(&self) -> String {
        let text = std::fs::read_to_string(self.0.path().join("endpoint")).unwrap();
        text.trim().to_owned()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.script("kill");
    }
}

fn generate(out: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace-loadtest"))
        .args(["generate", "--events", "20000", "--seed", "3", "--out"])
        .arg(out)
        .args(more)
        .output()
        .unwrap()
}

/// Everything in a partition: offset, time, payload.
fn messages(brokers: &str, partition: i32, count: u64) -> Vec<(u64, i64, Vec<u8>)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("shop", partition, Offset::Beginning)
        .unwrap();
    consumer.assign(&list).unwrap();
    (0..count)
        .map(|_| {
            let message = consumer.poll(Duration::from_secs(60)).unwrap().unwrap();
            let time = message.timestamp().to_millis().unwrap();
            (message.offset() as u64, time, message.payload().unwrap().to_vec())
        })
        .collect()
}

#[test]
fn a_topic_holds_the_lines_that_files_would_each_where_the_ledger_says() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let (files, topic) = (folder.path().join("files"), folder.path().join("topic"));
    assert!(generate(&files, &[]).status.success());
    let brokers = broker.brokers();
    let to_topic = ["--kafka", &brokers, "--topic", "shop", "--partitions", "3"];
    let sent = generate(&topic, &to_topic);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));

    let text = std::fs::read(files.join("events/events-00000.ndjson")).unwrap();
    let mut expected = Vec::new();
    Ledger::open(&files)
        .unwrap()
        .for_each(|line| {
            let start = line.offset as usize;
            expected.push(text[start..start + line.entry.bytes as usize - 1].to_vec());
        })
        .unwrap();
    let ledger = Ledger::open(&topic).unwrap();
    let found: Vec<_> = (ledger.sent.files.iter().zip(0..))
        .map(|(file, partition)| {
            assert_eq!(file.name, format!("kafka://shop/{partition}"));
            messages(&brokers, partition, file.lines)
        })
        .collect();
    let mut lines = 0;
    ledger
        .for_each(|line| {
            let (offset, _, payload) = &found[line.file][line.offset as usize];
            assert_eq!(*offset, line.offset);
            assert!(*payload == expected[line.number as usize], "line {}", line.number);
            lines += 1;
        })
        .unwrap();
    assert_eq!((lines, expected.len()), (20_000, 20_000));
    for partition in &found {
        assert!(partition.len() > 5000, "events spread over partitions");
        assert!(
            partition.is_sorted_by_key(|(_, time, _)| *time),
            "times rise with offsets"
        );
    }

    // A second run goes on behind the first.
    let again = folder.path().join("again");
    assert!(generate(&again, &to_topic).status.success());
    let first = Ledger::open(&again).unwrap().sent.topic.unwrap().first_offsets;
    let lines: Vec<u64> = ledger.sent.files.iter().map(|file| file.lines).collect();
    assert_eq!(first, lines);
}
