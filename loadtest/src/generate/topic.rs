//! Lines to a Kafka topic, with the same ledger as files have.
//!
//! Each line is a message of its own, without its line end, in the partition that the event's id says: copies lie where
//! their originals do. Every message's offset is checked as the brokers acknowledge it: the ledger names no offset that
//! is not the line's.
//!
//! The message's time is when the line is due: from the recipe's start on, so that it rises with the offset and an hour
//! by message time is one stretch of the lines; or now, when lines are sent at a rate. Brokers may be restarted only under
//! the latter: on their start they forget the producers of messages that are older than a day
//! (`producer.id.expiration.ms`), and then a batch that is sent again stands in the topic twice.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::files::{GenerateError, clear};
use super::plan::{Plan, Recipe};
use super::sample::{self, Sample};
use super::{Block, Generator};
use crate::ledger::{Counts, ENTRY_BYTES, Entry, Ledger, Sent, SentFile, SentTopic};

/// Lines made at once.
const BLOCK_LINES: u64 = 8_192;
/// How long the brokers may take for anything.
const WAIT: Duration = Duration::from_secs(120);

/// Where and how to send.
#[derive(Debug, Clone)]
pub struct TopicOutput {
    /// Folder of the ledger.
    pub folder: PathBuf,
    /// Bootstrap brokers, `host:port,host:port`.
    pub brokers: String,
    /// The topic; it is made when it is not there.
    pub topic: String,
    /// Partitions, and copies of each, of a topic that is made.
    pub partitions: u32,
    /// Copies of each partition of a topic that is made.
    pub replication: u32,
    /// Compression: `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    pub codec: String,
    /// Lines a second, each with the time when it is sent; none for as fast as it goes, with the recipe's times.
    pub rate: Option<u64>,
    /// Just these of the recipe's lines; the ledger has no others then.
    pub stretch: Option<Range<u64>>,
    /// Also note when each event was sent whose id ends with so many zeros, see [`super::sample`].
    pub sample_digits: Option<u32>,
    /// Further options of librdkafka.
    pub options: Vec<(String, String)>,
    /// Whether a ledger of an earlier run may be replaced.
    pub overwrite: bool,
}

/// Why a topic does not hold what was to be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The ledger.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The brokers.
    #[error("could not {what}")]
    Kafka {
        /// What was tried.
        what: &'static str,
        /// What librdkafka says.
        #[source]
        source: KafkaError,
    },
    /// No runtime.
    #[error("could not start an asynchronous runtime")]
    Runtime(#[source] io::Error),
    /// A message was not taken, or lies elsewhere than the ledger says: somebody else writes to the topic.
    #[error("{failed} messages of `{topic}` were lost or lie at another offset; the first: {first}")]
    Misplaced {
        /// The topic.
        topic: String,
        /// How many.
        failed: u64,
        /// The first one.
        first: String,
    },
}

fn kafka(what: &'static str) -> impl FnOnce(KafkaError) -> SendError {
    move |source| SendError::Kafka { what, source }
}

/// What the brokers acknowledged otherwise than expected.
#[derive(Debug, Default)]
struct Receipts {
    failed: Mutex<(u64, String)>,
}

impl ClientContext for Receipts {}

impl ProducerContext for Receipts {
    /// The offset that the message must get.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, expected: usize) {
        let problem = match result {
            Ok(message) if message.offset() == expected as i64 => return,
            Ok(message) => format!(
                "partition {} gave offset {}, expected {expected}",
                message.partition(),
                message.offset()
            ),
            Err((error, message)) => format!("partition {}: {error}", message.partition()),
        };
        let mut failed = self
            .failed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if failed.0 == 0 {
            failed.1 = problem;
        }
        failed.0 += 1;
    }
}

/// Sends the recipe's events; returns what stands in `sent.json` too.
///
/// # Errors
/// When the brokers do not take every message at the offset that the ledger says, or the ledger cannot be written.
pub fn send(recipe: &Recipe, output: &TopicOutput) -> Result<Sent, SendError> {
    clear(&output.folder, &output.folder.join("events"), output.overwrite)?;
    let firsts = prepare_topic(output)?;
    let producer: ThreadedProducer<Receipts> = config(output)
        .set("compression.codec", &output.codec)
        .set("enable.idempotence", "true")
        // Forgetting the brokers when all of them are away at once, as is the default, may end in none being asked again.
        .set("metadata.recovery.strategy", "none")
        .set("linger.ms", "20")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.kbytes", "262144")
        .create_with_context(Receipts::default())
        .map_err(kafka("make a producer"))?;
    let mut sending = Sending {
        output,
        producer,
        next: firsts.clone(),
        bytes: vec![0; firsts.len()],
        began: Instant::now(),
    };
    let counts = sending.send_all(recipe)?;
    sending.finish()?;
    let files = (firsts.iter().zip(&sending.next).zip(&sending.bytes))
        .enumerate()
        .map(|(partition, ((first, next), bytes))| SentFile {
            name: format!("kafka://{}/{partition}", output.topic),
            lines: next - first,
            bytes: *bytes,
            stored_bytes: *bytes,
        });
    let sent = Sent {
        recipe: recipe.clone(),
        files: files.collect(),
        counts,
        topic: Some(SentTopic {
            first_offsets: firsts,
        }),
    };
    let path = Ledger::sent_path(&output.folder);
    let text = serde_json::to_vec_pretty(&sent).map_err(io::Error::from);
    text.and_then(|text| std::fs::write(&path, text))
        .map_err(|source| GenerateError::Write { path, source })?;
    Ok(sent)
}

struct Sending<'a> {
    output: &'a TopicOutput,
    producer: ThreadedProducer<Receipts>,
    /// The next offset of each partition.
    next: Vec<u64>,
    bytes: Vec<u64>,
    began: Instant,
}

impl Sending<'_> {
    fn send_all(&mut self, recipe: &Recipe) -> Result<Counts, SendError> {
        let path = Ledger::entries_path(&self.output.folder);
        let fail = |source| GenerateError::Write {
            path: path.clone(),
            source,
        };
        let mut ledger = File::create(&path).map_err(fail)?;
        let mut sample = self.sample()?;
        let generator = Generator::new(Plan::new(recipe));
        let block_lines = self
            .output
            .rate
            .map_or(BLOCK_LINES, |rate| (rate / 20).clamp(1, BLOCK_LINES));
        let whole = 0..recipe.events;
        let stretch = self.output.stretch.clone().unwrap_or_else(|| whole.clone());
        let (mut first, end) = (stretch.start, stretch.end.min(whole.end));
        let (mut counts, mut block) = (Counts::default(), Block::default());
        while first < end {
            let lines = block_lines.min(end - first);
            generator.fill(&mut block, first, lines);
            counts.add(&block.counts);
            self.send_block(recipe, first, &block, sample.as_mut())?;
            ledger.write_all(&block.ledger).map_err(fail)?;
            first += lines;
            self.pace(first - stretch.start);
        }
        Ok(counts)
    }

    fn sample(&self) -> Result<Option<Sample>, SendError> {
        let Some(digits) = self.output.sample_digits else {
            return Ok(None);
        };
        let folder = &self.output.folder;
        let path = folder.join(sample::NAME);
        let made = Sample::create(folder, digits);
        Ok(Some(
            made.map_err(|source| GenerateError::Write { path, source })?,
        ))
    }

    fn send_block(
        &mut self,
        recipe: &Recipe,
        first: u64,
        block: &Block,
        mut sample: Option<&mut Sample>,
    ) -> Result<(), SendError> {
        let mut at = 0;
        for (entry, number) in block.ledger.as_chunks::<ENTRY_BYTES>().0.iter().zip(first..) {
            let entry = Entry::decode(entry);
            let end = at + entry.bytes as usize;
            let partition = SentTopic::partition(entry.id, self.next.len());
            let time_ms = self.time_ms(recipe, number);
            self.send_line(time_ms, partition, &block.text[at..end - 1])?;
            if let Some(sample) = &mut sample {
                sample.note(&entry, time_ms);
            }
            self.bytes[partition] += u64::from(entry.bytes);
            at = end;
        }
        if let Some(sample) = sample {
            let path = self.output.folder.join(sample::NAME);
            sample
                .tell()
                .map_err(|source| GenerateError::Write { path, source })?;
        }
        Ok(())
    }

    fn send_line(&mut self, time_ms: i64, partition: usize, line: &[u8]) -> Result<(), SendError> {
        let expected = usize::try_from(self.next[partition]).unwrap_or(usize::MAX);
        let mut record = BaseRecord::<(), [u8], usize>::with_opaque_to(&self.output.topic, expected)
            .partition(i32::try_from(partition).unwrap_or(i32::MAX))
            .timestamp(time_ms)
            .payload(line);
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((error, unsent)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    std::thread::sleep(Duration::from_millis(2));
                    record = unsent;
                }
                Err((source, _)) => {
                    let what = "send a message";
                    return Err(SendError::Kafka { what, source });
                }
            }
        }
        self.next[partition] += 1;
        Ok(())
    }

    fn time_ms(&self, recipe: &Recipe, number: u64) -> i64 {
        if self.output.rate.is_none() {
            return due_ms(recipe, number);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
    }

    /// Waits until `sent` lines are due.
    fn pace(&self, sent: u64) {
        if let Some(rate) = self.output.rate {
            let due = Duration::from_secs_f64(sent as f64 / rate.max(1) as f64);
            std::thread::sleep(due.saturating_sub(self.began.elapsed()));
        }
    }

    fn finish(&self) -> Result<(), SendError> {
        self.producer
            .flush(WAIT)
            .map_err(kafka("send the last messages"))?;
        let receipts = self.producer.context();
        let (failed, first) = receipts
            .failed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        if failed == 0 {
            return Ok(());
        }
        Err(SendError::Misplaced {
            topic: self.output.topic.clone(),
            failed,
            first,
        })
    }
}

/// When a line is due: lines spread evenly over the recipe's hours.
fn due_ms(recipe: &Recipe, number: u64) -> i64 {
    let span_ms = recipe.hours * 3_600_000.0;
    let share = number as f64 / recipe.events.max(1) as f64;
    recipe.start_ms as i64 + (span_ms * share) as i64
}

fn config(output: &TopicOutput) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in &output.options {
        config.set(name, value);
    }
    config.set("bootstrap.servers", &output.brokers);
    config
}

/// Makes the topic unless it is there; returns the first free offset of each partition.
fn prepare_topic(output: &TopicOutput) -> Result<Vec<u64>, SendError> {
    let what = "make the topic";
    let admin: AdminClient<DefaultClientContext> = config(output).create().map_err(kafka(what))?;
    let copies = i32::try_from(output.replication).unwrap_or(1);
    let partitions = i32::try_from(output.partitions.max(1)).unwrap_or(1);
    // Message times are the recipe's, which may lie before any retention.
    let topic = NewTopic::new(&output.topic, partitions, TopicReplication::Fixed(copies))
        .set("retention.ms", "-1")
        .set("message.timestamp.type", "CreateTime");
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(SendError::Runtime)?;
    let made = runtime
        .block_on(admin.create_topics([&topic], &options))
        .map_err(kafka(what))?;
    for result in made {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(kafka(what)(KafkaError::AdminOp(code))),
        }
    }
    let what = "read the topic's offsets";
    let consumer: BaseConsumer = config(output).create().map_err(kafka(what))?;
    // A topic that was just made has no leaders for a moment.
    let end = Instant::now() + WAIT;
    loop {
        match ends(&consumer, &output.topic) {
            Ok(ends) if ends.len() >= output.partitions.max(1) as usize => return Ok(ends),
            Ok(ends) if !ends.is_empty() && Instant::now() >= end => return Ok(ends),
            Err(error) if Instant::now() >= end => return Err(kafka(what)(error)),
            Ok(_) if Instant::now() >= end => {
                let nothing = RDKafkaErrorCode::UnknownTopicOrPartition;
                return Err(kafka(what)(KafkaError::SetPartitionOffset(nothing)));
            }
            Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Deletes what a topic holds before these offsets, one for each partition, for whoever has read it and needs the disk:
/// segments go when all of their records have, so up to one of each partition stays.
///
/// # Errors
/// When the brokers do not answer or refuse.
pub fn forget(brokers: &str, topic: &str, first_kept: &[u64]) -> Result<(), SendError> {
    let what = "delete the topic's records";
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    let mut before = TopicPartitionList::new();
    for (partition, first) in (0..).zip(first_kept) {
        let offset = Offset::Offset(i64::try_from(*first).unwrap_or(i64::MAX));
        before
            .add_partition_offset(topic, partition, offset)
            .map_err(kafka(what))?;
    }
    let admin: AdminClient<DefaultClientContext> = config.create().map_err(kafka(what))?;
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(SendError::Runtime)?;
    let deleted = runtime
        .block_on(admin.delete_records(&before, &options))
        .map_err(kafka(what))?;
    for partition in deleted.elements() {
        partition.error().map_err(kafka(what))?;
    }
    Ok(())
}

/// The node that leads each partition of a topic now; -1 where none does.
///
/// # Errors
/// When no broker answers.
pub fn leaders(brokers: &str, topic: &str) -> Result<Vec<i32>, SendError> {
    let what = "read the topic's leaders";
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .map_err(kafka(what))?;
    let metadata = consumer.fetch_metadata(Some(topic), WAIT).map_err(kafka(what))?;
    let partitions = metadata
        .topics()
        .first()
        .map_or(&[][..], |topic| topic.partitions());
    Ok(partitions.iter().map(|partition| partition.leader()).collect())
}

/// Whether a topic is there and each of its partitions has a leader.
///
/// # Errors
/// When the brokers do not answer.
pub fn is_led(brokers: &str, topic: &str) -> Result<bool, SendError> {
    let leaders = leaders(brokers, topic)?;
    Ok(!leaders.is_empty() && leaders.iter().all(|&leader| leader >= 0))
}

/// Where each partition of a topic ends.
fn ends(consumer: &BaseConsumer, topic: &str) -> Result<Vec<u64>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), WAIT)?;
    let partitions = metadata
        .topics()
        .first()
        .map_or(0, |topic| topic.partitions().len());
    let end = |partition| {
        let (_, high) = consumer.fetch_watermarks(topic, partition, WAIT)?;
        Ok(u64::try_from(high).unwrap_or(0))
    };
    (0..i32::try_from(partitions).unwrap_or(0)).map(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_due_in_order_and_within_the_recipes_hours() {
        let recipe = Recipe {
            events: 1000,
            hours: 2.0,
            ..Recipe::default()
        };
        let due: Vec<i64> = (0..1000).map(|number| due_ms(&recipe, number)).collect();
        assert!(due.is_sorted());
        let start = recipe.start_ms as i64;
        assert_eq!((due[0], due[500]), (start, start + 3_600_000));
        assert!(due[999] < start + 7_200_000);
    }
}
