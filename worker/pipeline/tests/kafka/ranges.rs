//! What a range gives: codecs, transactions, compaction, tombstones, long messages, times.

use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt64Type;
use millrace_pipeline::rows;
use millrace_pipeline::source::kafka::Topic;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};

use super::broker::{Message, send, shared, until};
use super::{Reader, splits};

const WAIT: Duration = Duration::from_secs(30);

fn numbered(count: usize) -> Vec<Message> {
    let line = |n| format!("{{\"n\":{n},\"filler\":\"{}\"}}", "x".repeat(n % 300));
    (0..count).map(|n| Message::of(line(n))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_gives_every_message_once_however_the_range_is_cut() {
    let broker = shared();
    let reader = Reader {
        chunk_bytes: 20_000,
        ..Reader::new(broker.options())
    };
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    broker.create("codecs", codecs.len() as i32, &[]).await;
    let sent = numbered(3000);
    for (partition, codec) in (0..).zip(codecs) {
        let producer = broker.producer(&[("compression.codec", codec)]);
        send(&producer, "codecs", partition, &sent);
    }
    let expected: Vec<(u64, Vec<u8>)> = sent
        .iter()
        .zip(0..)
        .map(|(message, n)| (n, message.payload.clone().unwrap()))
        .collect();
    for partition in reader.partitions("codecs").await {
        assert_eq!((partition.low, partition.high), (0, 3000));
        assert_eq!(partition.object.version.len(), 36, "{:?}", partition.object);
        for bounds in [vec![0, 3000], vec![0, 1, 2, 700, 701, 1999, 3000]] {
            let (read, missing) = reader.read(&splits(&partition.object, &bounds)).await.unwrap();
            assert_eq!(missing, 0);
            assert!(
                read == expected,
                "{}: {} messages",
                codecs[partition.partition as usize],
                read.len()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_messages_and_markers_are_not_read_and_the_range_ends_all_the_same() {
    let broker = shared();
    let reader = Reader::new(broker.options());
    broker.create("transactions", 1, &[]).await;
    let producer = broker.producer(&[("transactional.id", "t1")]);
    producer.init_transactions(WAIT).unwrap();
    let mut expected = Vec::new();
    let mut at = 0;
    for (round, commit) in [true, false, true, false, false].into_iter().enumerate() {
        producer.begin_transaction().unwrap();
        let sent: Vec<Message> = (0..5).map(|n| Message::of(format!("{round}-{n}"))).collect();
        send(&producer, "transactions", 0, &sent);
        if commit {
            expected.extend(
                sent.into_iter()
                    .zip(at..)
                    .map(|(message, n)| (n, message.payload.unwrap())),
            );
            producer.commit_transaction(WAIT).unwrap();
        } else {
            producer.abort_transaction(WAIT).unwrap();
        }
        at += 6; // five messages and the marker
    }
    let partition = reader.partitions("transactions").await.remove(0);
    assert_eq!(partition.high, 30);
    let every: Vec<u64> = (0..=30).collect();
    // Again and again: clients are used again, and a range that ends in markers must be known to end each time.
    for bounds in [&[0, 30][..], &[0, 6, 12, 18, 24, 30], &every, &[17, 30], &[0, 30]] {
        let (read, missing) = reader.read(&splits(&partition.object, bounds)).await.unwrap();
        let expected: Vec<_> = expected
            .iter()
            .filter(|(offset, _)| *offset >= bounds[0])
            .cloned()
            .collect();
        assert_eq!(read, expected, "{bounds:?}");
        assert_eq!(missing, 30 - bounds[0] - expected.len() as u64);
    }
    // What an open transaction holds may not be read yet: the partition ends before it.
    producer.begin_transaction().unwrap();
    send(&producer, "transactions", 0, &[Message::of("open")]);
    assert_eq!(reader.partitions("transactions").await[0].high, 30);
    producer.commit_transaction(WAIT).unwrap();
    until("the transaction is over", async || {
        reader.partitions("transactions").await[0].high == 32
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_compaction_took_are_counted_and_waited_for_by_nobody() {
    let broker = shared();
    let reader = Reader::new(broker.options());
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "200"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "0"),
    ];
    broker.create("compacted", 1, &settings).await;
    let producer = broker.producer(&[]);
    let keyed = |n: usize| Message {
        key: Some(format!("k{}", n % 3)),
        payload: Some(format!("{n}").into_bytes()),
        time_ms: None,
    };
    send(
        &producer,
        "compacted",
        0,
        &(0..100).map(keyed).collect::<Vec<_>>(),
    );
    let object = reader.partitions("compacted").await.remove(0).object;
    // New messages let the segment roll, and then the cleaner takes it.
    let mut sent = 100;
    until("the log is compacted", async || {
        send(&producer, "compacted", 0, &[keyed(sent)]);
        sent += 1;
        reader.read(&splits(&object, &[0, 100])).await.unwrap().1 > 90
    })
    .await;
    for bounds in [&[0, 100][..], &[0, 10, 50], &[10, 11], &[10, 97]] {
        let (read, missing) = reader.read(&splits(&object, bounds)).await.unwrap();
        let range = bounds[bounds.len() - 1] - bounds[0];
        assert_eq!(read.len() as u64 + missing, range, "{bounds:?}");
        assert!(
            read.iter()
                .all(|(offset, payload)| payload == offset.to_string().as_bytes())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_one_record_whatever_it_holds_and_a_tombstone_is_none() {
    let broker = shared();
    let reader = Reader::new(broker.options());
    broker
        .create("records", 1, &[("max.message.bytes", "20000000")])
        .await;
    let producer = broker.producer(&[("message.max.bytes", "20000000"), ("compression.codec", "lz4")]);
    let pretty = b"{\n  \"a\": \"pretty\",\n  \"b\": [\n    1\n  ]\n}\n".to_vec();
    let large = format!("{{\"a\":\"{}\"}}", "y".repeat(11 << 20)).into_bytes();
    let sent = [
        Message::of(&b"{\"a\":\"one\"}"[..]),
        Message::of(pretty.clone()),
        Message::default(),
        Message::of(&b""[..]),
        Message::of(large.clone()),
        Message::of(&b"{\"a\":\"broken\nin two\"}"[..]),
        Message::of(&b"{\"a\":\"last\"}\r\n"[..]),
    ];
    send(&producer, "records", 0, &sent);
    let partition = reader.partitions("records").await.remove(0);
    let batches = reader.decode(&splits(&partition.object, &[0, 7]), 10 << 20).await;
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let value = batch["a"].as_string_view();
            let faults = batch[rows::FAULTS].as_string_view();
            rows.push((
                batch[rows::OFFSET].as_primitive::<UInt64Type>().value(row),
                batch[rows::RAW].as_binary_view().value(row).to_vec(),
                value.is_valid(row).then(|| value.value(row).to_owned()),
                faults.is_valid(row).then(|| faults.value(row).to_owned()),
            ));
        }
    }
    let offsets: Vec<u64> = rows.iter().map(|row| row.0).collect();
    assert_eq!(
        offsets,
        [0, 1, 4, 5, 6],
        "tombstones and empty messages are no events"
    );
    for (offset, raw, _, _) in &rows {
        assert!(
            *raw == *sent[*offset as usize].payload.as_ref().unwrap(),
            "message {offset} is not as it came"
        );
    }
    let values: Vec<Option<&str>> = rows.iter().map(|row| row.2.as_deref()).collect();
    assert_eq!(values, [Some("one"), Some("pretty"), None, None, Some("last")]);
    assert!(rows[2].3.as_ref().unwrap().contains("too_large"));
    assert!(rows[3].3.is_some());
    assert!([0, 1, 4].iter().all(|row| rows[*row].3.is_none()));
    let (read, missing) = reader.read(&splits(&partition.object, &[0, 7])).await.unwrap();
    assert_eq!(
        (read.len(), missing),
        (7, 0),
        "a tombstone's offset has a message"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_has_its_offset_on_every_partition_and_offsets_can_be_mirrored() {
    let broker = shared();
    broker.create("times", 3, &[]).await;
    let producer = broker.producer(&[]);
    let at = |time_ms| Message {
        time_ms: Some(time_ms),
        ..Message::of("{}")
    };
    let hour = 3_600_000;
    let start = 1_767_225_600_000;
    send(
        &producer,
        "times",
        0,
        &(0..10).map(|n| at(start + n * hour)).collect::<Vec<_>>(),
    );
    send(&producer, "times", 1, &[at(start + 5 * hour)]);
    let options = broker.options();
    let config = broker.config();
    tokio::task::spawn_blocking(move || {
        let topic = Topic::open(&options, "times").unwrap();
        let at = |time_ms| topic.offsets_at(&[0, 1, 2], time_ms).unwrap();
        assert_eq!(at(0), [Some(0), Some(0), None]);
        assert_eq!(at(start + 3 * hour), [Some(3), Some(0), None]);
        assert_eq!(at(start + 3 * hour + 1), [Some(4), Some(0), None]);
        assert_eq!(at(start + 9 * hour + 1), [None, None, None]);

        topic.mirror("millrace-times", &[(0, 7), (1, 1)]).unwrap();
        topic.mirror("millrace-times", &[(0, 9)]).unwrap();
        let group: BaseConsumer = config.clone().set("group.id", "millrace-times").create().unwrap();
        let mut asked = TopicPartitionList::new();
        asked.add_partition("times", 0);
        asked.add_partition("times", 1);
        let found = group.committed_offsets(asked, WAIT).unwrap();
        let offset = |partition| found.find_partition("times", partition).unwrap().offset();
        assert_eq!((offset(0), offset(1)), (Offset::Offset(9), Offset::Offset(1)));
    })
    .await
    .unwrap();
}
