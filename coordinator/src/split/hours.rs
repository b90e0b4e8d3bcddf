//! Hours of a topic, one after the other, with few questions to the brokers.
//!
//! In: the hours that a job asks for, and which offsets times have. Out: ranges of offsets, in order: an hour's, or those of as
//! many hours as have no message between them. Of a year with a day of messages it asks about that day and little more.
//!
//! | asked                               | how often                                             |
//! |-------------------------------------|-------------------------------------------------------|
//! | the partitions and their watermarks | once a [`Sight`]                                      |
//! | the offsets of a time               | once a [`Sight`]: an hour begins where another ended  |
//! | about hours without a message       | in steps that double while none is met, and halve when one is |

use std::collections::{HashMap, VecDeque};
use std::future::Future;

use super::PartitionOffsets;
use super::kafka::{TopicClient, TopicError, TopicRange, between};

/// Who knows which offsets times have.
pub trait OffsetsByTime: Send + Sync {
    /// By partition the first offset whose message is of `time_ms` (milliseconds since 1970) or later; none where there is none.
    fn offsets_at(
        &self,
        partitions: &[PartitionOffsets],
        time_ms: i64,
    ) -> impl Future<Output = Result<Vec<Option<u64>>, TopicError>> + Send;
}

impl OffsetsByTime for TopicClient {
    async fn offsets_at(
        &self,
        partitions: &[PartitionOffsets],
        time_ms: i64,
    ) -> Result<Vec<Option<u64>>, TopicError> {
        Self::offsets_at(self, partitions, time_ms).await
    }
}

/// A topic at one moment. What comes later lies behind its watermarks.
#[derive(Debug)]
pub struct Sight<'a, T> {
    topic: &'a T,
    /// Its partitions.
    pub partitions: Vec<PartitionOffsets>,
    /// The clock, in milliseconds since 1970.
    pub at_ms: i64,
    known: HashMap<i64, Vec<Option<u64>>>,
}

impl<'a, T: OffsetsByTime> Sight<'a, T> {
    /// The topic with these partitions, which were read at `at_ms` or later.
    pub fn new(topic: &'a T, partitions: Vec<PartitionOffsets>, at_ms: i64) -> Self {
        Self {
            topic,
            partitions,
            at_ms,
            known: HashMap::new(),
        }
    }

    /// The offsets of `from_ms..to_ms` on every partition; a range that ends after the clock is open.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub async fn range(&mut self, from_ms: i64, to_ms: i64) -> Result<TopicRange, TopicError> {
        for time in [from_ms, to_ms] {
            if !self.known.contains_key(&time) {
                let offsets = self.topic.offsets_at(&self.partitions, time).await?;
                self.known.insert(time, offsets);
            }
        }
        let at = |time| self.known.get(&time).map(Vec::as_slice).unwrap_or_default();
        Ok(between(
            &self.partitions,
            at(from_ms),
            at(to_ms),
            to_ms <= self.at_ms,
        ))
    }

    /// The first of `hours`, or as many of them as have no message between them, and the offsets there. They are taken off.
    ///
    /// # Errors
    /// When the brokers do not answer; then nothing is taken off.
    pub async fn take(
        &mut self,
        hours: &mut VecDeque<(i64, i64)>,
    ) -> Result<Option<(TopicRange, i64)>, TopicError> {
        let Some(&(from_ms, mut to_ms)) = hours.front() else {
            return Ok(None);
        };
        let mut range = self.range(from_ms, to_ms).await?;
        let (mut taken, mut step) = (1, 1);
        while step > 0 && is_empty(&range) && taken < hours.len() {
            let more = (taken + step).min(hours.len());
            let Some(&(_, further_ms)) = hours.get(more - 1) else {
                break;
            };
            let further = self.range(from_ms, further_ms).await?;
            if is_empty(&further) {
                (range, to_ms, taken) = (further, further_ms, more);
                step *= 2;
            } else {
                step /= 2;
            }
        }
        hours.drain(..taken);
        Ok(Some((range, to_ms)))
    }
}

fn is_empty(range: &TopicRange) -> bool {
    range
        .ranges
        .iter()
        .all(|partition| partition.start >= partition.end)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use millrace_proto::split::InputObject;
    use proptest::prelude::*;

    use super::*;

    /// Partitions as lists of their messages' times, in order; it counts what it is asked.
    struct Log {
        times: Vec<Vec<i64>>,
        asked: Mutex<Vec<i64>>,
    }

    impl Log {
        fn new(times: Vec<Vec<i64>>) -> Self {
            let asked = Mutex::default();
            Self { times, asked }
        }

        fn partitions(&self) -> Vec<PartitionOffsets> {
            let partition = |(number, times): (i32, &Vec<i64>)| PartitionOffsets {
                object: InputObject {
                    url: format!("kafka://t/{number}"),
                    size: 0,
                    version: "id".to_owned(),
                },
                partition: number,
                low: 0,
                high: times.len() as u64,
            };
            (0..).zip(&self.times).map(partition).collect()
        }
    }

    impl OffsetsByTime for Log {
        async fn offsets_at(
            &self,
            _: &[PartitionOffsets],
            time_ms: i64,
        ) -> Result<Vec<Option<u64>>, TopicError> {
            self.asked.lock().unwrap().push(time_ms);
            let first = |times: &Vec<i64>| times.iter().position(|time| *time >= time_ms);
            let offsets = self.times.iter().map(first);
            Ok(offsets.map(|at| at.map(|at| at as u64)).collect())
        }
    }

    fn hours(count: i64) -> VecDeque<(i64, i64)> {
        (0..count).map(|hour| (hour * 10, hour * 10 + 10)).collect()
    }

    /// Everything that is taken of some hours: the end of each range, and its offsets by partition.
    async fn taken(log: &Log, mut hours: VecDeque<(i64, i64)>) -> Vec<(i64, Vec<(u64, u64)>)> {
        let mut sight = Sight::new(log, log.partitions(), i64::MAX);
        let mut all = Vec::new();
        while let Some((range, to_ms)) = sight.take(&mut hours).await.unwrap() {
            let offsets = range.ranges.iter().map(|one| (one.start, one.end)).collect();
            all.push((to_ms, offsets));
        }
        all
    }

    #[tokio::test]
    async fn hours_without_a_message_are_taken_together_and_cost_few_questions() {
        let log = Log::new(vec![vec![50_001, 50_009, 50_012], vec![50_013]]);
        let all = taken(&log, hours(10_000)).await;
        let expected = [
            (50_000, vec![(0, 0), (0, 0)]),
            (50_010, vec![(0, 2), (0, 0)]),
            (50_020, vec![(2, 3), (0, 1)]),
            (100_000, vec![(3, 3), (1, 1)]),
        ];
        assert_eq!(all, expected);
        let asked = log.asked.lock().unwrap();
        assert!(asked.len() < 150, "{} questions: {asked:?}", asked.len());
        let times: std::collections::HashSet<&i64> = asked.iter().collect();
        assert_eq!(times.len(), asked.len(), "no time is asked for twice");
    }

    #[tokio::test]
    async fn an_hour_that_is_not_over_stays_open_though_it_is_empty() {
        let log = Log::new(vec![vec![5]]);
        let mut sight = Sight::new(&log, log.partitions(), 95);
        let mut left = hours(12);
        let (first, _) = sight.take(&mut left).await.unwrap().unwrap();
        let (rest, to_ms) = sight.take(&mut left).await.unwrap().unwrap();
        assert!(!first.open && rest.open && to_ms == 120 && left.is_empty());
    }

    proptest! {
        /// Whatever the messages' times: the ranges follow each other without a hole to the end, none but an empty one is of
        /// several hours, and each has what hour by hour it would have.
        #[test]
        fn nothing_is_skipped_that_has_a_message(
            times in prop::collection::vec(prop::collection::vec(0i64..400, 0..12), 1..4),
            count in 1i64..40,
        ) {
            let mut times = times;
            times.iter_mut().for_each(|times| times.sort_unstable());
            let log = Log::new(times);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let all = runtime.block_on(taken(&log, hours(count)));
            let mut from = 0;
            for (to, offsets) in &all {
                for (partition, (start, end)) in offsets.iter().enumerate() {
                    let held = log.times[partition].iter().filter(|time| (from..*to).contains(*time)).count();
                    prop_assert_eq!(end - start, held as u64);
                }
                let is_empty = offsets.iter().all(|(start, end)| start == end);
                prop_assert!(*to == from + 10 || (is_empty && *to > from));
                from = *to;
            }
            prop_assert_eq!(from, count * 10);
        }
    }
}
