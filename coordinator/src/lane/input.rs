//! What a job reads next: its input as positions that nobody has planned.
//!
//! In: a job's input, the ledger's state. Out: the splits of one batch, or that there is nothing more, now or ever.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_pipeline::codec::Prepared;
use millrace_pipeline::source::cut;
use millrace_pipeline::source::kafka::KafkaOptions;
use millrace_pipeline::spec::model::Source;
use millrace_proto::split::{InputObject, Split};
use millrace_proto::v1;
use tokio::time::Instant;
use v1::job_input::Input as Asked;

use super::LaneError;
use super::reached::{Look, up_to, with_batch};
use crate::hours::{OBJECTS, PartitionTime};
use crate::ledger::{LostRange, State};
use crate::split::hours::Sight;
use crate::split::kafka::{Begin, Gap, Sizing, TopicClient, TopicRange, everything, onward, plan_range};
use crate::split::{PartitionOffsets, SPLIT_BYTES, next_batch, unpacked_bytes, unplanned};

/// Most hours that one job may span: a slip of the pen asks for millennia.
const HOURS_MAX: i64 = 24 * 366 * 2;
const HOUR_MS: i64 = 3_600_000;
const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
const EVENTS_DEFAULT: u64 = 1_000_000;
/// Ages that what waits is asked for, in rising order.
const AGES: [Duration; 6] = [
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
    Duration::from_secs(24 * 3600),
];

/// A job's input.
pub(super) enum Input {
    /// Objects, listed once.
    Objects(Vec<Split>),
    /// Time ranges of a topic, in order.
    Topic(TopicInput),
    /// What comes.
    Follow(FollowInput),
    /// What is in quarantine, once.
    Quarantine,
    /// Nothing: periods of models are computed again.
    Models(v1::ModelsInput),
    /// Nothing: what was written is to be kept, or let go.
    Upkeep,
}

pub(super) struct TopicInput {
    client: TopicClient,
    waiting: Waiting,
    /// Cut already: more than the next batch takes, unless there is no more.
    current: Vec<Split>,
    open: bool,
    sizing: Sizing,
    looked: Option<Look>,
    /// Found to be lost, and not told yet.
    lost: Vec<LostRange>,
}

/// What of a topic nobody has looked at yet.
enum Waiting {
    /// All of it.
    Whole,
    /// Hours, each from and to in milliseconds.
    Hours(VecDeque<(i64, i64)>),
}

pub(super) struct FollowInput {
    client: TopicClient,
    topic: String,
    interval: Duration,
    max_events: u64,
    due: Instant,
    sizing: Sizing,
    behind: u64,
    /// Of those, what the last batch left.
    left: u64,
    reached: Vec<PartitionTime>,
    seen: Vec<Seen>,
}

/// How far a followed partition was when it was looked at last.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) partition: i32,
    pub(super) high: u64,
    /// What is planned of it: committed, or about to be.
    pub(super) done: u64,
    /// How long what was there before the first look has waited, at least.
    pub(super) age: Duration,
}

/// What is to be done for a job.
#[derive(Debug)]
pub(super) enum Next {
    /// Run this batch.
    Batch(Vec<Split>),
    /// Send what is in quarantine through the pipeline again.
    Redrive,
    /// Compute the next of these periods again.
    Models(v1::ModelsInput),
    /// Do what the job asks for, which is not to read.
    Upkeep,
    /// Nothing until then.
    Wait(Duration),
    /// Nothing more. `open`: the time range is not over yet.
    Done {
        /// The time range is not over yet.
        open: bool,
    },
}

impl Input {
    /// Whether a job reads objects: they are listed first.
    pub(super) fn takes_objects(job: &v1::Job, prepared: &Prepared) -> bool {
        let asked = job.input.as_ref().and_then(|input| input.input.as_ref());
        let reads_objects = !matches!(prepared.steps.pipeline.source, Source::Kafka { .. });
        reads_objects && matches!(asked, None | Some(Asked::Prefix(_)))
    }

    /// Finds a job's input; `objects` are those that it has listed.
    pub(super) fn of(job: &v1::Job, prepared: &Prepared, objects: &[InputObject]) -> Result<Self, LaneError> {
        let pipeline = &prepared.steps.pipeline;
        let asked = job.input.as_ref().and_then(|input| input.input.clone());
        if matches!(asked, Some(Asked::Redrive(_))) {
            return Ok(Self::Quarantine);
        }
        if let Some(Asked::Models(models)) = asked {
            return Ok(Self::Models(models));
        }
        if matches!(
            asked,
            Some(Asked::Retention(_) | Asked::Hold(_) | Asked::ReleaseHold(_) | Asked::Erasure(_))
        ) {
            return Ok(Self::Upkeep);
        }
        let topic = match (&pipeline.source, &asked) {
            (Source::Kafka { topic, .. }, _) => Some(topic.clone()),
            (Source::Files { .. } | Source::S3 { .. }, None | Some(Asked::Prefix(_))) => None,
            (Source::Files { .. } | Source::S3 { .. }, Some(_)) => {
                let text = "the pipeline reads objects: a job of it takes a prefix, not a time".to_owned();
                return Err(LaneError::Input(text));
            }
        };
        let Some(topic) = topic else {
            let objects = cut(objects, pipeline.source.format(), SPLIT_BYTES);
            return Ok(Self::Objects(objects));
        };
        let options = KafkaOptions::of(&pipeline.source)
            .ok_or_else(|| LaneError::Input("the pipeline's source names no brokers".to_owned()))?;
        let client = TopicClient::open(&options, &topic)?;
        let sizing = Sizing::default();
        if let Some(Asked::Follow(follow)) = asked {
            let millis = Duration::from_millis(u64::from(follow.interval_millis));
            return Ok(Self::Follow(FollowInput {
                client,
                topic,
                interval: if millis.is_zero() {
                    INTERVAL_DEFAULT
                } else {
                    millis
                },
                max_events: if follow.max_events == 0 {
                    EVENTS_DEFAULT
                } else {
                    follow.max_events
                },
                due: Instant::now(),
                sizing,
                behind: 0,
                left: 0,
                seen: Vec::new(),
                reached: Vec::new(),
            }));
        }
        Ok(Self::Topic(TopicInput {
            client,
            waiting: time_ranges(asked.as_ref())?,
            current: Vec::new(),
            open: false,
            sizing,
            looked: None,
            lost: Vec::new(),
        }))
    }

    /// Partitions that are read out once what [`Self::next`] said last is done.
    pub(super) fn reached(&self, state: &State, next: &Next) -> Vec<PartitionTime> {
        match (self, next) {
            (Self::Follow(follow), Next::Batch(_) | Next::Wait(_)) => follow.reached.clone(),
            (Self::Topic(topic), Next::Done { .. }) => topic
                .looked
                .as_ref()
                .map(|look| up_to(look, &state.covered))
                .unwrap_or_default(),
            (Self::Objects(_), Next::Done { .. }) => vec![PartitionTime {
                partition: OBJECTS.to_owned(),
                time_us: Some(i64::MAX),
            }],
            (
                Self::Objects(_)
                | Self::Topic(_)
                | Self::Follow(_)
                | Self::Quarantine
                | Self::Models(_)
                | Self::Upkeep,
                _,
            ) => Vec::new(),
        }
    }

    /// Whether it lists objects.
    pub(super) fn is_listing(&self) -> bool {
        matches!(self, Self::Objects(_))
    }

    /// Whether there certainly is another batch to be planned at once, as far as can be told without asking anybody.
    pub(super) fn has_more(&self, state: &State) -> bool {
        let any_left = |splits: &[Split]| splits.iter().rev().any(|split| left_of(split, state) > 0);
        match self {
            Self::Objects(all) => any_left(all),
            Self::Topic(input) => any_left(&input.current),
            Self::Follow(input) => input.is_behind(),
            Self::Quarantine | Self::Models(_) | Self::Upkeep => false,
        }
    }

    /// Whether it is a `follow` job's.
    pub(super) fn is_follow(&self) -> bool {
        matches!(self, Self::Follow(_))
    }

    /// About how many bytes of records a split holds.
    pub(super) fn weigh(&self, split: &Split) -> u64 {
        match self {
            Self::Objects(_) | Self::Quarantine | Self::Models(_) | Self::Upkeep => unpacked_bytes(split),
            Self::Topic(input) => input.sizing.bytes(split),
            Self::Follow(input) => input.sizing.bytes(split),
        }
    }

    /// What to do next, and what turned out to be lost.
    pub(super) async fn next(
        &mut self,
        state: &State,
        batch_bytes: u64,
    ) -> Result<(Next, Vec<LostRange>), LaneError> {
        match self {
            Self::Objects(all) => {
                let batch = next_batch(all, &state.covered, batch_bytes, &unpacked_bytes);
                let next = if batch.is_empty() {
                    Next::Done { open: false }
                } else {
                    Next::Batch(batch)
                };
                Ok((next, Vec::new()))
            }
            Self::Topic(input) => input.next(state, batch_bytes).await,
            Self::Follow(input) => input.next(state, batch_bytes).await,
            Self::Quarantine => Ok((Next::Redrive, Vec::new())),
            Self::Models(asked) => Ok((Next::Models(asked.clone()), Vec::new())),
            Self::Upkeep => Ok((Next::Upkeep, Vec::new())),
        }
    }

    /// Learns from a batch how large messages are.
    pub(super) fn learn(&mut self, bytes: u64, events: u64) {
        match self {
            Self::Objects(_) | Self::Quarantine | Self::Models(_) | Self::Upkeep => {}
            Self::Topic(input) => input.sizing = input.sizing.learned(bytes, events),
            Self::Follow(input) => input.sizing = input.sizing.learned(bytes, events),
        }
    }

    /// Positions that are left, by estimate: events for topics, bytes for objects.
    pub(super) fn left(&self, state: &State) -> u64 {
        let splits = match self {
            Self::Objects(all) => all,
            Self::Topic(input) => &input.current,
            Self::Follow(_) | Self::Quarantine | Self::Models(_) | Self::Upkeep => return 0,
        };
        splits.iter().map(|split| left_of(split, state)).sum()
    }
}

/// The time ranges of a topic that a job asks for, hour by hour.
fn time_ranges(asked: Option<&Asked>) -> Result<Waiting, LaneError> {
    let millis = |time: &Option<prost_types::Timestamp>| {
        time.as_ref()
            .map(|time| time.seconds * 1000 + i64::from(time.nanos) / 1_000_000)
            .ok_or_else(|| LaneError::Input("the job's input names no time".to_owned()))
    };
    let (from, to) = match asked {
        Some(Asked::Hour(hour)) => {
            let from = millis(&hour.hour)?;
            (from, from + HOUR_MS)
        }
        Some(Asked::Range(range)) => (millis(&range.from)?, millis(&range.to)?),
        _ => return Ok(Waiting::Whole),
    };
    if to <= from || (to - from) / HOUR_MS > HOURS_MAX {
        let text = "a time range has a begin before its end, and two years at most";
        return Err(LaneError::Input(text.to_owned()));
    }
    let mut hours = VecDeque::new();
    let mut at = from;
    while at < to {
        let end = (at.div_euclid(HOUR_MS) * HOUR_MS + HOUR_MS).min(to);
        hours.push_back((at, end));
        at = end;
    }
    Ok(Waiting::Hours(hours))
}

impl Waiting {
    /// The next range of what waits, and its end in milliseconds if it has one; none when nothing waits.
    async fn take(
        &mut self,
        sight: &mut Sight<'_, TopicClient>,
    ) -> Result<Option<(TopicRange, Option<i64>)>, LaneError> {
        match self {
            Self::Whole => {
                *self = Self::Hours(VecDeque::new());
                Ok(Some((everything(&sight.partitions), None)))
            }
            Self::Hours(hours) => {
                let taken = sight.take(hours).await?;
                Ok(taken.map(|(range, to_ms)| (range, Some(to_ms))))
            }
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Hours(hours) if hours.is_empty())
    }
}

impl TopicInput {
    async fn next(&mut self, state: &State, batch_bytes: u64) -> Result<(Next, Vec<LostRange>), LaneError> {
        self.look_ahead(state, batch_bytes).await?;
        let batch = next_batch(&self.current, &state.covered, batch_bytes, &|split| {
            self.sizing.bytes(split)
        });
        let next = if batch.is_empty() {
            Next::Done { open: self.open }
        } else {
            Next::Batch(batch)
        };
        Ok((next, std::mem::take(&mut self.lost)))
    }

    /// Cuts as many hours as fill more than one batch: small ones share a batch, which costs what one of them would, and
    /// whether there is another batch is known while this one is read.
    async fn look_ahead(&mut self, state: &State, batch_bytes: u64) -> Result<(), LaneError> {
        self.current.retain(|split| left_of(split, state) > 0);
        if self.waiting.is_empty() || self.left_bytes(state) > batch_bytes {
            return Ok(());
        }
        let at_ms = now_ms();
        let partitions = self.client.partitions().await?;
        let mut sight = Sight::new(&self.client, partitions, at_ms);
        while self.left_bytes(state) <= batch_bytes {
            let Some((range, to_ms)) = self.waiting.take(&mut sight).await? else {
                break;
            };
            self.open |= range.open;
            let (splits, more) = plan(&range, &sight.partitions, state, self.sizing);
            self.looked = Some(Look {
                range,
                to_us: to_ms.map(|to_ms| to_ms.saturating_mul(1_000)),
                partitions: sight.partitions.clone(),
                at_us: at_ms.saturating_mul(1_000),
            });
            self.current.extend(splits);
            self.lost.extend(more);
        }
        Ok(())
    }

    /// About how many bytes of what is cut nobody has planned.
    fn left_bytes(&self, state: &State) -> u64 {
        let events: u64 = self.current.iter().map(|split| left_of(split, state)).sum();
        events.saturating_mul(self.sizing.event_bytes)
    }
}

/// Positions of a split that nobody has planned.
fn left_of(split: &Split, state: &State) -> u64 {
    let missing = unplanned(&state.covered, &split.object, split.start, split.end);
    missing.iter().map(|(start, end)| end - start).sum()
}

impl FollowInput {
    async fn next(&mut self, state: &State, batch_bytes: u64) -> Result<(Next, Vec<LostRange>), LaneError> {
        let at_us = now_ms().saturating_mul(1_000);
        let partitions = self.client.partitions().await?;
        let prefix = format!("kafka://{}/", self.topic);
        let planned: Vec<(InputObject, u64)> = state
            .covered
            .iter()
            .filter(|(object, _)| object.url.starts_with(&prefix))
            .map(|(object, ranges)| (object.clone(), ranges.end()))
            .collect();
        let (range, gaps) = onward(&partitions, &planned, Begin::Earliest);
        self.look(&partitions, &range).await?;
        let known = |gap: &LostRange| state.lost.contains(gap);
        let mut lost: Vec<LostRange> = gaps.iter().map(lost_range).filter(|gap| !known(gap)).collect();
        let (splits, more) = plan(&range, &partitions, state, self.sizing);
        lost.extend(more);
        let events: u64 = splits.iter().map(|split| split.end - split.start).sum();
        self.behind = events;
        self.left = 0;
        self.reached = with_batch(&partitions, &splits, &[], at_us);
        let now = Instant::now();
        if events < self.max_events && now < self.due {
            // Looked at again before its time: a burst may fill a batch early.
            let pause = (self.due - now).min(Duration::from_secs(1));
            return Ok((Next::Wait(pause), lost));
        }
        self.due = now + self.interval;
        if splits.is_empty() {
            return Ok((Next::Wait(self.interval.min(Duration::from_secs(1))), lost));
        }
        let sizing = self.sizing;
        let most = batch_bytes.min(self.max_events.saturating_mul(sizing.event_bytes));
        let batch = next_batch(&splits, &state.covered, most, &|split| sizing.bytes(split));
        let taken: u64 = batch.iter().map(|split| split.end - split.start).sum();
        self.left = events.saturating_sub(taken);
        self.reached = with_batch(&partitions, &splits, &batch, at_us);
        Ok((Next::Batch(batch), lost))
    }

    /// Remembers how far the partitions are. The first time what waits is asked for its age, roughly: brokers know
    /// which offset a time has, not which time an offset has.
    async fn look(&mut self, partitions: &[PartitionOffsets], range: &TopicRange) -> Result<(), LaneError> {
        let is_first = self.seen.is_empty();
        let starts = range.ranges.iter().map(|range| range.start);
        self.seen = partitions
            .iter()
            .zip(starts)
            .map(|(partition, start)| Seen {
                partition: partition.partition,
                high: partition.high,
                done: start,
                age: Duration::ZERO,
            })
            .collect();
        if !is_first {
            return Ok(());
        }
        for age in AGES {
            if self.seen.iter().all(|seen| seen.done >= seen.high) {
                return Ok(());
            }
            let then = now_ms() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            let since = self.client.offsets_at(partitions, then).await?;
            for (seen, since) in self.seen.iter_mut().zip(since) {
                // The first message that is younger lies behind what waits.
                if seen.done < since.unwrap_or(seen.high) {
                    seen.age = age;
                }
            }
        }
        Ok(())
    }

    /// Whether what was left by the last batch is enough for another one now.
    fn is_behind(&self) -> bool {
        self.left >= self.max_events || (self.left > 0 && Instant::now() >= self.due)
    }

    /// How far the partitions were when it was looked at last.
    pub(super) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Positions that nobody had planned when it was looked at last.
    pub(super) fn behind(&self) -> u64 {
        self.behind
    }

    /// The topic's client, for mirroring offsets.
    pub(super) fn client(&self) -> &TopicClient {
        &self.client
    }
}

fn plan(
    range: &TopicRange,
    partitions: &[PartitionOffsets],
    state: &State,
    sizing: Sizing,
) -> (Vec<Split>, Vec<LostRange>) {
    let uncovered = |object: &InputObject, start, end| unplanned(&state.covered, object, start, end);
    let plan = plan_range(range, partitions, &uncovered, sizing);
    (plan.splits, plan.gaps.iter().map(lost_range).collect())
}

fn lost_range(gap: &Gap) -> LostRange {
    LostRange {
        object: gap.object.clone(),
        start: gap.start,
        end: gap.end,
        reason: gap.reason.to_string(),
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A prepared pipeline, shared by the jobs that run the same version.
pub(super) type SharedPipeline = Arc<Prepared>;
