//! Reads one split of a topic: from its first offset to its last, no further, and never less.
//!
//! The loop waits for what the broker has: it ends when a message at or behind the range's end comes, or the end of the
//! log at or behind it. So it never waits for a message that transactions or compaction took away. Broker restarts and
//! leader changes are librdkafka's to survive; only where nothing at all comes for [`STALL`] does the read fail, and
//! may be repeated.
//!
//! Nobody may want the rest any more: then the loop ends within [`TURN`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_proto::split::Split;
use rdkafka::bindings::rd_kafka_resp_err_t as Error;

use super::chunk::Chunk;
use super::client::{Consumer, Lent, is_missing, is_refusal};
use super::native::{Code, Fetch, Fetched};
use super::{KafkaClients, KafkaError, KafkaOptions, TopicPartition};
use crate::source::SourceError;
use crate::source::read::Emit;

/// Longest wait without a message.
const STALL: Duration = Duration::from_secs(60);
/// Longest wait in one go: then is looked whether anybody still listens.
const TURN: Duration = Duration::from_millis(100);

/// What was read of a split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Messages, tombstones included.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Offsets of the range that have no message: transaction markers, aborted messages, what compaction took.
    pub missing: u64,
}

/// Reads splits of one pipeline's topic, one after the other.
#[derive(Debug)]
pub(in crate::source) struct TopicReader {
    clients: Arc<KafkaClients>,
    options: KafkaOptions,
    chunk_bytes: usize,
}

impl TopicReader {
    pub(in crate::source) fn new(
        clients: Arc<KafkaClients>,
        options: KafkaOptions,
        chunk_bytes: usize,
    ) -> Self {
        Self {
            clients,
            options,
            chunk_bytes,
        }
    }

    /// Reads a split. Blocks. Ends early, without an error, when `emit` or `is_wanted` says so.
    pub(in crate::source) fn read(
        &self,
        split: &Split,
        is_wanted: &dyn Fn() -> bool,
        emit: &mut Emit<'_>,
    ) -> Result<Delivered, SourceError> {
        let place = TopicPartition::parse(&split.object.url)?;
        let lent = self.clients.lend(&self.options)?;
        let delivered = self.read_with(&lent, &place, split, is_wanted, emit)?;
        lent.give_back();
        Ok(delivered)
    }

    fn read_with(
        &self,
        lent: &Lent,
        place: &TopicPartition,
        split: &Split,
        is_wanted: &dyn Fn() -> bool,
        emit: &mut Emit<'_>,
    ) -> Result<Delivered, SourceError> {
        let consumer = lent.consumer()?;
        check_topic(consumer, place, split)?;
        check_range(consumer, place, split)?;
        let mut walk = Walk {
            split,
            place,
            consumer,
            chunk: Chunk::new(self.chunk_bytes),
            full: Vec::new(),
            next: split.start,
            is_done: split.start >= split.end,
            is_heard: false,
            heard: Instant::now(),
            delivered: Delivered::default(),
            failure: None,
        };
        if !walk.run(is_wanted, emit)? {
            return Ok(walk.delivered);
        }
        // A topic that was made anew meanwhile may have given other messages at these offsets.
        check_topic(consumer, place, split)?;
        walk.delivered.missing = (split.end - split.start) - walk.delivered.messages;
        Ok(walk.delivered)
    }
}

/// One split under way.
struct Walk<'a> {
    split: &'a Split,
    place: &'a TopicPartition,
    consumer: &'a Consumer,
    chunk: Chunk,
    /// Chunks that wait until the messages that were fetched with theirs are taken.
    full: Vec<Chunk>,
    /// One past the last message taken.
    next: u64,
    is_done: bool,
    /// Whether a message came since it was looked at the clock.
    is_heard: bool,
    heard: Instant,
    delivered: Delivered,
    failure: Option<KafkaError>,
}

impl Walk<'_> {
    /// Reads to the end. False when nobody wants the rest.
    fn run(&mut self, is_wanted: &dyn Fn() -> bool, emit: &mut Emit<'_>) -> Result<bool, SourceError> {
        if self.is_done {
            return Ok(true);
        }
        let start = i64::try_from(self.split.start).unwrap_or(i64::MAX);
        let mut fetch = Fetch::start(self.consumer, &self.place.topic, self.place.partition, start)
            .map_err(|code| self.consumer.asked("fetch a partition", &self.place.topic, code))?;
        while !self.is_done {
            let came = fetch.next(TURN, &mut |fetched| self.take(fetched));
            if std::mem::take(&mut self.is_heard) {
                self.heard = Instant::now();
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure.into());
            }
            if came == 0 {
                self.wait()?;
                if !is_wanted() {
                    return Ok(false);
                }
            }
            for chunk in self.full.drain(..) {
                if !emit(chunk.into_row(self.split.index)?) {
                    return Ok(false);
                }
            }
        }
        // Stops the fetching before the last chunk waits for its consumer.
        drop(fetch);
        Ok(self.chunk.is_empty() || emit(self.chunk.renew().into_row(self.split.index)?))
    }

    fn take(&mut self, fetched: Fetched<'_>) {
        if self.is_done {
            return;
        }
        match fetched {
            Fetched::Message { offset, payload } => {
                self.is_heard = true;
                // Compressed batches are fetched whole: librdkafka may pass on what lies before the start.
                if offset < self.next {
                    return;
                }
                if offset < self.split.end {
                    self.chunk.push(offset, payload);
                    if self.chunk.is_full() {
                        self.full.push(self.chunk.renew());
                    }
                    self.next = offset + 1;
                    self.delivered.messages += 1;
                    self.delivered.bytes += payload.len() as u64;
                }
                self.is_done = self.next >= self.split.end || offset >= self.split.end;
            }
            Fetched::End { offset } => self.is_done = offset >= self.split.end,
            Fetched::Failed { code, words } => self.failure = self.failed(code, words),
        }
    }

    /// Nothing came: is that bad?
    fn wait(&self) -> Result<(), KafkaError> {
        self.consumer.listen(&self.place.topic)?;
        if self.heard.elapsed() < STALL {
            return Ok(());
        }
        Err(KafkaError::Stalled {
            url: self.split.object.url.clone(),
            position: self.next,
            seconds: STALL.as_secs(),
            last: self.consumer.last_words(),
        })
    }

    /// What an error means; none when librdkafka tries again by itself.
    fn failed(&self, code: Code, words: &str) -> Option<KafkaError> {
        let url = || self.split.object.url.clone();
        let is = |error: Error| Code::of(error) == code;
        if is(Error::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE) || is(Error::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET)
        {
            // A topic that was made anew looks like this too, and is the better thing to say.
            if let Err(error) = check_topic(self.consumer, self.place, self.split) {
                return Some(error);
            }
            return Some(
                match self.consumer.watermarks(&self.place.topic, self.place.partition) {
                    Ok((low, high)) => KafkaError::OutOfRange {
                        url: url(),
                        start: self.next,
                        end: self.split.end,
                        low,
                        high,
                    },
                    Err(error) => error,
                },
            );
        }
        if is_missing(code) {
            // While metadata spreads a partition may be unknown for a moment; a topic that is gone says so itself.
            return check_topic(self.consumer, self.place, self.split).err();
        }
        if is_refusal(code) {
            return Some(self.consumer.asked("fetch a partition", &self.place.topic, code));
        }
        let is_damage = is(Error::RD_KAFKA_RESP_ERR__BAD_MSG)
            || is(Error::RD_KAFKA_RESP_ERR__BAD_COMPRESSION)
            || is(Error::RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED);
        if is_damage {
            return Some(KafkaError::Damaged {
                url: url(),
                position: self.next,
                reason: code.to_string(),
            });
        }
        tracing::debug!(url = %self.split.object.url, %code, words, "a fetch failed and is tried again");
        None
    }
}

/// The offsets must mean the messages that they meant when the split was planned.
fn check_topic(consumer: &Consumer, place: &TopicPartition, split: &Split) -> Result<(), KafkaError> {
    let planned = &split.object.version;
    // Asked for in any case: no other request tells a refusal at once.
    let found = consumer.topic_id(&place.topic)?;
    if found == *planned || planned.is_empty() {
        return Ok(());
    }
    Err(KafkaError::Recreated {
        url: split.object.url.clone(),
        planned: planned.clone(),
        found,
    })
}

/// Every offset must be there, or have been there: what retention took cannot be told from what never was.
fn check_range(consumer: &Consumer, place: &TopicPartition, split: &Split) -> Result<(), KafkaError> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (low, high) = consumer.watermarks(&place.topic, place.partition)?;
        if low <= split.start && split.end <= high {
            return Ok(());
        }
        // A leader that has just been elected may not know yet how far the log is safe.
        if low <= split.start && Instant::now() < deadline {
            std::thread::sleep(TURN);
            continue;
        }
        return Err(KafkaError::OutOfRange {
            url: split.object.url.clone(),
            start: split.start,
            end: split.end,
            low,
            high,
        });
    }
}
