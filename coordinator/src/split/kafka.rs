//! Positions of a topic: a time range to offsets, offsets to splits, and what is gone.
//!
//! In: the topic's partitions with their watermarks (one reading, taken by [`TopicClient`]), and what the ledger has
//! planned. Out: splits that nobody has planned, and gaps. Only [`TopicClient`] talks to brokers; the rest is pure.
//!
//! ```text
//! TopicClient::partitions -> between (hours) | onward (follow) -> plan_range -> splits + gaps -> the ledger
//! ```
//!
//! | found                                              | decided                                                  |
//! |----------------------------------------------------|----------------------------------------------------------|
//! | the range ends in the future, or behind the log    | it is taken up to the high watermark, and is `open`      |
//! | offsets below the low watermark that nobody planned | a gap: [`Reason::Retention`]; what is left is planned    |
//! | the topic's id is another one than the ledger knows | a gap: [`Reason::Recreated`]; the new topic is planned   |
//! | a log shorter than what was planned                | a gap: [`Reason::Truncated`]                              |
//! | a partition that the ledger does not know          | it joins, from its first offset                          |

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_pipeline::source::kafka::{KafkaError, KafkaOptions, Topic, TopicPartition};
use millrace_proto::split::{InputObject, Split};

pub use millrace_pipeline::source::kafka::PartitionOffsets;

/// Bytes of a message where none has been read yet.
pub const EVENT_BYTES_DEFAULT: u64 = 500;

/// How large splits become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizing {
    /// Bytes of a split, by estimate.
    pub split_bytes: u64,
    /// Messages of a split, at most.
    pub split_events_max: u64,
    /// Estimated bytes of a message.
    pub event_bytes: u64,
}

impl Default for Sizing {
    fn default() -> Self {
        Self {
            split_bytes: 16 << 20,
            split_events_max: 1_000_000,
            event_bytes: EVENT_BYTES_DEFAULT,
        }
    }
}

impl Sizing {
    /// The same, with what an earlier batch had: its bytes and messages.
    #[must_use]
    pub fn learned(self, bytes: u64, events: u64) -> Self {
        match bytes.checked_div(events) {
            Some(event_bytes) => Self {
                event_bytes: event_bytes.max(1),
                ..self
            },
            None => self,
        }
    }

    /// Offsets of a split.
    fn step(&self) -> u64 {
        (self.split_bytes / self.event_bytes.max(1))
            .min(self.split_events_max)
            .max(1)
    }

    /// About how many bytes of records the offsets of a split hold.
    #[must_use]
    pub fn bytes(&self, split: &Split) -> u64 {
        (split.end - split.start).saturating_mul(self.event_bytes)
    }
}

/// Offsets of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetRange {
    /// The partition, of the topic with this id.
    pub object: InputObject,
    /// First offset.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

/// A range of every partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicRange {
    /// By partition.
    pub ranges: Vec<OffsetRange>,
    /// Whether more may come into the range: it is not over yet, or the log did not reach its end.
    pub open: bool,
}

/// Why offsets cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The brokers deleted them before they were planned.
    Retention,
    /// The topic was deleted and made anew: what was not planned of the old one is lost.
    Recreated,
    /// The log is shorter than what was planned of it: it lost its end, and offsets may come to mean other messages.
    Truncated,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Retention => "retention",
            Self::Recreated => "recreated",
            Self::Truncated => "truncated",
        })
    }
}

/// Offsets that will never be read. To be recorded and alarmed (invariant 9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The partition, of the topic that had the offsets.
    pub object: InputObject,
    /// First offset that is lost.
    pub start: u64,
    /// One past the last; equal to `start` where nobody knows how many there were.
    pub end: u64,
    /// Why.
    pub reason: Reason,
}

/// What is to be read, and what cannot be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KafkaPlan {
    /// Splits, numbered from 0, partitions taking turns: the first ones are the oldest of every partition.
    pub splits: Vec<Split>,
    /// What is gone.
    pub gaps: Vec<Gap>,
}

/// The offsets of a time range: `from` is the first offset at or after its begin, `to` the first at or after its end, by
/// partition as [`TopicClient::offsets_at`] gives them; `is_over` says whether the end has passed by the clock.
///
/// A range that is over by the clock but has no later message is closed too: timestamps come from producers, so
/// the clock is all there is to go by. None of `from` means that there is no such message.
#[must_use]
pub fn between(
    partitions: &[PartitionOffsets],
    from: &[Option<u64>],
    to: &[Option<u64>],
    is_over: bool,
) -> TopicRange {
    let bounds = from.iter().zip(to);
    let ranges = partitions.iter().zip(bounds).map(|(partition, (from, to))| {
        let clamp = |offset: Option<u64>| offset.map_or(partition.high, |offset| offset.min(partition.high));
        // Timestamps need not rise with offsets: the later bound may come out below the earlier one.
        let start = clamp(*from);
        OffsetRange {
            object: partition.object.clone(),
            start,
            end: clamp(*to).max(start),
        }
    });
    TopicRange {
        ranges: ranges.collect(),
        open: !is_over,
    }
}

/// Everything that the topic holds.
#[must_use]
pub fn everything(partitions: &[PartitionOffsets]) -> TopicRange {
    TopicRange {
        ranges: partitions
            .iter()
            .map(|partition| range(partition, partition.low))
            .collect(),
        open: true,
    }
}

/// Where a `follow` job begins where the ledger knows nothing of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Begin {
    /// At the first offset there is.
    #[default]
    Earliest,
    /// At the log's end.
    Latest,
}

/// What has come since the offsets that the ledger has planned: `planned` is the end of what was planned, by object, of
/// this topic under whatever id. Partitions unknown to a known topic are new, and taken from their first offset.
///
/// Gaps found here are those that no range can show: a topic made anew, a log cut off. Those of retention come out of
/// [`plan_range`], since the ranges begin where planning stopped.
#[must_use]
pub fn onward(
    partitions: &[PartitionOffsets],
    planned: &[(InputObject, u64)],
    begin: Begin,
) -> (TopicRange, Vec<Gap>) {
    let mut gaps = Vec::new();
    let is_known = !planned.is_empty();
    let ranges = partitions.iter().map(|partition| {
        let same = |(object, _): &&(InputObject, u64)| *object == partition.object;
        if let Some((object, end)) = planned.iter().find(same) {
            if *end > partition.high {
                gaps.push(gap(object, partition.high, *end, Reason::Truncated));
            }
            return range(partition, *end);
        }
        let others = planned
            .iter()
            .filter(|(object, _)| object.url == partition.object.url);
        for (object, end) in others {
            gaps.push(gap(object, *end, *end, Reason::Recreated));
        }
        // A partition that joined begins at 0, whatever is left of it: retention shows as a gap.
        match (is_known, begin) {
            (true, _) => range(partition, 0),
            (false, Begin::Earliest) => range(partition, partition.low),
            (false, Begin::Latest) => range(partition, partition.high),
        }
    });
    let range = TopicRange {
        ranges: ranges.collect(),
        open: true,
    };
    (range, gaps)
}

fn range(partition: &PartitionOffsets, start: u64) -> OffsetRange {
    OffsetRange {
        object: partition.object.clone(),
        start,
        end: partition.high.max(start),
    }
}

fn gap(object: &InputObject, start: u64, end: u64, reason: Reason) -> Gap {
    Gap {
        object: object.clone(),
        start,
        end,
        reason,
    }
}

/// The parts of a range of an object that nobody has planned.
pub type Uncovered<'a> = dyn Fn(&InputObject, u64, u64) -> Vec<(u64, u64)> + 'a;

/// Cuts what nobody has planned of `range` into splits. `uncovered` gives the parts of `start..end` of an object that
/// the ledger has not planned, in order. Never plans an offset that the brokers do not hold.
#[must_use]
pub fn plan_range(
    range: &TopicRange,
    partitions: &[PartitionOffsets],
    uncovered: &Uncovered<'_>,
    sizing: Sizing,
) -> KafkaPlan {
    let held: BTreeMap<&str, &PartitionOffsets> = partitions
        .iter()
        .map(|partition| (partition.object.url.as_str(), partition))
        .collect();
    let mut plan = KafkaPlan::default();
    let mut by_partition = Vec::with_capacity(range.ranges.len());
    for wanted in &range.ranges {
        let mut splits = Vec::new();
        for (start, end) in uncovered(&wanted.object, wanted.start, wanted.end) {
            let now = held.get(wanted.object.url.as_str());
            let Some(now) = now.filter(|now| now.object == wanted.object) else {
                plan.gaps.push(gap(&wanted.object, start, end, Reason::Recreated));
                continue;
            };
            let low = now.low.clamp(start, end);
            if start < low {
                plan.gaps.push(gap(&wanted.object, start, low, Reason::Retention));
            }
            cut(&wanted.object, low, end.min(now.high), sizing.step(), &mut splits);
        }
        by_partition.push(splits);
    }
    plan.splits = in_turns(by_partition);
    plan
}

/// `start..end` in equal pieces of about `step`.
fn cut(object: &InputObject, start: u64, end: u64, step: u64, splits: &mut Vec<Split>) {
    let length = end.saturating_sub(start);
    let pieces = length.div_ceil(step);
    let bound = |piece: u64| {
        let share = u128::from(length) * u128::from(piece) / u128::from(pieces.max(1));
        start + u64::try_from(share).unwrap_or(length)
    };
    splits.extend((0..pieces).map(|piece| Split {
        index: 0,
        object: object.clone(),
        start: bound(piece),
        end: bound(piece + 1),
    }));
}

/// The first of each partition, then the second: a batch that takes the front takes the same time of every partition,
/// and neighbours read from different partitions.
fn in_turns(by_partition: Vec<Vec<Split>>) -> Vec<Split> {
    let mut waiting: Vec<_> = by_partition.into_iter().map(Vec::into_iter).collect();
    let mut splits = Vec::new();
    loop {
        let before = splits.len();
        for partition in &mut waiting {
            splits.extend(partition.next());
        }
        if splits.len() == before {
            break;
        }
    }
    for (index, split) in splits.iter_mut().enumerate() {
        split.index = u32::try_from(index).unwrap_or(u32::MAX);
    }
    splits
}

/// The brokers behind a topic, for planning. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TopicClient {
    topic: Arc<Topic>,
}

/// Why the brokers gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// What they say.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The thread that asked ended without a word.
    #[error("the thread that asked the brokers ended unexpectedly")]
    Thread(#[from] tokio::task::JoinError),
}

impl TopicError {
    /// Whether the same may succeed later, without anyone changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Kafka(error) => error.is_retryable(),
            Self::Thread(_) => true,
        }
    }
}

impl TopicClient {
    /// A client for the topic; no connection is waited for.
    ///
    /// # Errors
    /// When librdkafka refuses the options.
    pub fn open(options: &KafkaOptions, topic: &str) -> Result<Self, TopicError> {
        let topic = Arc::new(Topic::open(options, topic)?);
        Ok(Self { topic })
    }

    /// The partitions with their watermarks as they are now, under the topic's present id.
    ///
    /// # Errors
    /// When the topic does not exist or the brokers do not answer.
    pub async fn partitions(&self) -> Result<Vec<PartitionOffsets>, TopicError> {
        self.ask(|topic| topic.partitions()).await
    }

    /// By partition the first offset whose message is of `time_ms` (milliseconds since 1970) or later; none where there
    /// is none.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub async fn offsets_at(
        &self,
        partitions: &[PartitionOffsets],
        time_ms: i64,
    ) -> Result<Vec<Option<u64>>, TopicError> {
        let numbers: Vec<i32> = partitions.iter().map(|partition| partition.partition).collect();
        self.ask(move |topic| topic.offsets_at(&numbers, time_ms)).await
    }

    /// Writes committed offsets to a consumer group, for tools that show lag. Nothing is read back from there.
    ///
    /// # Errors
    /// When the brokers refuse or do not answer; nothing depends on it.
    pub async fn mirror(&self, group: &str, offsets: &[(InputObject, u64)]) -> Result<(), TopicError> {
        let mut by_partition = Vec::with_capacity(offsets.len());
        for (object, offset) in offsets {
            let place = TopicPartition::parse(&object.url)?;
            if place.topic == self.topic.name() {
                by_partition.push((place.partition, *offset));
            }
        }
        let group = group.to_owned();
        self.ask(move |topic| topic.mirror(&group, &by_partition)).await
    }

    async fn ask<T, F>(&self, question: F) -> Result<T, TopicError>
    where
        T: Send + 'static,
        F: FnOnce(&Topic) -> Result<T, KafkaError> + Send + 'static,
    {
        let topic = Arc::clone(&self.topic);
        Ok(tokio::task::spawn_blocking(move || question(&topic)).await??)
    }
}

#[cfg(test)]
#[path = "kafka_tests.rs"]
mod tests;
