//! What deduplication promises, over whole batches, commits, restarts and any amount of memory.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, StringViewArray, TimestampMicrosecondArray, UInt32Array,
    new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, UInt64Type};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use millrace_proto::ids::BatchId;
use millrace_proto::manifest::{KeyFile, WrittenObject};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::claims::{Claim, ClaimBook, ClaimError, ClaimRoutes, Keeper, Keepers};
use super::exec::{Apart, DedupExec};
use super::grouping::hour_of;
use super::index::{KeyIndex, encode_keys, read_keys};
use super::key::KeyExec;
use crate::rows::{self, KEY_HIGH, KEY_LOW, NOTE, Note, SPLIT};

mod memory;

/// An event: key, event time, split.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Event {
    key: Option<String>,
    time: i64,
    split: u32,
}

const HOUR: i64 = 3_600_000_000;
const PLENTY: usize = 1 << 30;

fn table() -> Schema {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Schema::new(vec![
        Field::new("id", DataType::Utf8View, true),
        Field::new("time", time, false),
    ])
}

fn batch(events: &[Event]) -> RecordBatch {
    let schema = rows::event_schema(&table(), false);
    let ids: StringViewArray = events.iter().map(|event| event.key.as_deref()).collect();
    let times = TimestampMicrosecondArray::from_iter_values(events.iter().map(|event| event.time));
    let splits = UInt32Array::from_iter_values(events.iter().map(|event| event.split));
    let note = schema.field_with_name(NOTE).unwrap().data_type().clone();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(splits),
        new_null_array(&note, events.len()),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

/// What one attempt of a batch emitted.
#[derive(Default)]
struct Outcome {
    kept: Vec<Event>,
    duplicates: BTreeMap<u32, u64>,
    /// Keys by task and hour, as the sink would collect them.
    keys: Vec<BTreeMap<i64, Vec<u128>>>,
}

/// Keepers in this process, each named by its number.
#[derive(Debug)]
struct Books(Vec<ClaimBook>);

impl ClaimRoutes for Books {
    fn claim(&self, keeper: &Keeper, claim: Claim) -> BoxFuture<'static, Result<Vec<bool>, ClaimError>> {
        let book = &self.0[keeper.executor_id.parse::<usize>().unwrap()];
        std::future::ready(book.claim(&claim, Instant::now())).boxed()
    }
}

/// A lake with a key index, as a process sees it.
struct Lake {
    store: Arc<InMemory>,
    files: Vec<KeyFile>,
    index: Arc<KeyIndex>,
    memory_bytes: usize,
    held_bytes: usize,
    /// The next batch across processes.
    batch: u64,
}

impl Lake {
    fn new(memory_bytes: usize) -> Self {
        Self::holding(PLENTY, memory_bytes)
    }

    fn holding(held_bytes: usize, memory_bytes: usize) -> Self {
        let store = Arc::new(InMemory::new());
        let mut lake = Self {
            index: Arc::new(KeyIndex::new(
                store.clone(),
                Path::from("lake"),
                Vec::new(),
                memory_bytes,
            )),
            store,
            files: Vec::new(),
            memory_bytes,
            held_bytes,
            batch: 1,
        };
        lake.reopen();
        lake
    }

    /// Another process opens the lake.
    fn reopen(&mut self) {
        let store: Arc<dyn ObjectStore> = self.store.clone();
        let files = self.files.clone();
        self.index = Arc::new(KeyIndex::new(store, Path::from("lake"), files, self.memory_bytes));
    }

    /// Runs one attempt: a task for each list of batches, all at once.
    async fn attempt(&self, tasks: &[Vec<RecordBatch>]) -> Outcome {
        self.attempt_in(&self.index, None, tasks).await
    }

    /// The same with the claims kept by `keepers` others, as across processes.
    async fn attempt_apart(&self, keepers: u8, tasks: &[Vec<RecordBatch>]) -> Outcome {
        let (layer, apart) = self.apart(keepers);
        self.attempt_in(&layer, Some(apart), tasks).await
    }

    fn apart(&self, keepers: u8) -> (Arc<KeyIndex>, Apart) {
        let layer = KeyIndex::layer(Arc::clone(&self.index), self.named(), self.files.clone());
        let routes = Books((0..keepers).map(|_| ClaimBook::new(PLENTY)).collect());
        let keepers = (0..keepers).map(|keeper| Keeper {
            executor_id: keeper.to_string(),
            address: String::new(),
        });
        let keepers = Keepers::new("a".to_owned(), keepers.collect(), Some(Arc::new(routes)));
        let apart = Apart {
            keepers: Arc::new(keepers),
            runner: "r".to_owned(),
        };
        (Arc::new(layer), apart)
    }

    fn named(&self) -> BatchId {
        BatchId::try_from(format!("b{:08}", self.batch)).unwrap()
    }

    async fn attempt_in(
        &self,
        index: &Arc<KeyIndex>,
        apart: Option<Apart>,
        tasks: &[Vec<RecordBatch>],
    ) -> Outcome {
        let plan = self.plan(index, apart, tasks);
        let partitions = plan.output_partitioning().partition_count();
        let running: Vec<_> = (0..partitions)
            .map(|partition| {
                let stream = plan.execute(partition, Arc::new(TaskContext::default())).unwrap();
                tokio::spawn(stream.try_collect::<Vec<_>>())
            })
            .collect();
        let mut outcome = Outcome::default();
        for task in running {
            outcome.add(&task.await.unwrap().unwrap());
        }
        outcome
    }

    fn plan(
        &self,
        index: &Arc<KeyIndex>,
        apart: Option<Apart>,
        tasks: &[Vec<RecordBatch>],
    ) -> Arc<dyn ExecutionPlan> {
        let schema = rows::event_schema(&table(), false);
        let source = MemorySourceConfig::try_new_exec(tasks, schema, None).unwrap();
        let keyed = Arc::new(KeyExec::new(source, vec![0]));
        assert_eq!(keyed.schema(), rows::event_schema(&table(), true));
        let index = Arc::clone(index);
        Arc::new(DedupExec::holding(self.held_bytes, keyed, index, apart, 1))
    }

    /// An attempt whose task is dropped when it has waited so often; false when it need not wait so often.
    async fn attempt_stopped(&self, waits: usize, task: Vec<RecordBatch>) -> bool {
        let (layer, apart) = self.apart(1);
        let plan = self.plan(&layer, Some(apart), &[task]);
        let mut rows = plan.execute(0, Arc::new(TaskContext::default())).unwrap();
        let mut waited = 0;
        std::future::poll_fn(|context| {
            while let Poll::Ready(next) = rows.poll_next_unpin(context) {
                if next.transpose().unwrap().is_none() {
                    return Poll::Ready(false);
                }
            }
            waited += 1;
            if waited > waits {
                Poll::Ready(true)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    async fn commit(&mut self, outcome: &mut Outcome) {
        let files = self.write_keys(outcome).await;
        self.index.commit(&files);
        self.files.extend(files);
    }

    async fn write_keys(&self, outcome: &mut Outcome) -> Vec<KeyFile> {
        let mut files = Vec::new();
        for keys in &mut outcome.keys {
            for (hour, keys) in keys {
                let bytes = encode_keys(keys).unwrap();
                let key = format!("keys/hour={hour}/{}.parquet", self.files.len() + files.len());
                let object = WrittenObject {
                    key: key.clone(),
                    bytes: bytes.len() as u64,
                    rows: keys.len() as u64,
                    digest: String::new(),
                };
                self.store
                    .put(&Path::from(format!("lake/{key}")), bytes.into())
                    .await
                    .unwrap();
                files.push(KeyFile { object, hour: *hour });
            }
        }
        files
    }

    async fn run(&mut self, tasks: &[Vec<RecordBatch>]) -> Outcome {
        let mut outcome = self.attempt(tasks).await;
        self.commit(&mut outcome).await;
        outcome
    }
}

impl Outcome {
    fn add(&mut self, batches: &[RecordBatch]) {
        let mut keys: BTreeMap<i64, Vec<u128>> = BTreeMap::new();
        for batch in batches {
            if rows::is_note(batch) {
                for note in Note::from_batch(batch).unwrap() {
                    let Note::Counts(counts) = note else { continue };
                    for count in counts {
                        *self.duplicates.entry(count.split).or_default() += count.duplicates;
                    }
                }
                continue;
            }
            let column = |name: &str| batch.column_by_name(name).unwrap();
            let ids = column("id").as_string_view();
            let times = column("time").as_primitive::<TimestampMicrosecondType>();
            let splits = column(SPLIT).as_primitive::<arrow::datatypes::UInt32Type>();
            let high = column(KEY_HIGH).as_primitive::<UInt64Type>();
            let low = column(KEY_LOW).as_primitive::<UInt64Type>();
            for row in 0..batch.num_rows() {
                let key = ids.is_valid(row).then(|| ids.value(row).to_owned());
                assert_eq!(key.is_some(), high.is_valid(row));
                if key.is_some() {
                    let hash = u128::from(high.value(row)) << 64 | u128::from(low.value(row));
                    keys.entry(hour_of(times.value(row))).or_default().push(hash);
                }
                self.kept.push(Event {
                    key,
                    time: times.value(row),
                    split: splits.value(row),
                });
            }
        }
        self.keys.push(keys);
    }
}

/// The oracle: what was seen, by floor division of the time and the clear key.
#[derive(Default)]
struct Seen(HashSet<(i64, String)>);

impl Seen {
    /// Checks an outcome against the events that went in.
    fn check(&mut self, events: &[Event], outcome: &Outcome) {
        let hour = |time: i64| (time as f64 / HOUR as f64).floor() as i64;
        let mut expected: HashSet<(i64, String)> = HashSet::new();
        let mut keyless = 0;
        for event in events {
            match &event.key {
                Some(key) => {
                    expected.insert((hour(event.time), key.clone()));
                }
                None => keyless += 1,
            }
        }
        let expected: HashSet<_> = expected.difference(&self.0).cloned().collect();
        let kept: Vec<(i64, String)> = outcome
            .kept
            .iter()
            .filter_map(|event| Some((hour(event.time), event.key.clone()?)))
            .collect();
        assert_eq!(
            outcome.kept.len() - kept.len(),
            keyless,
            "events without a key are kept"
        );
        assert_eq!(kept.len(), expected.len(), "kept twice or lost");
        assert_eq!(kept.iter().cloned().collect::<HashSet<_>>(), expected);
        for (split, duplicates) in by_split(events) {
            let kept = by_split(&outcome.kept).get(&split).copied().unwrap_or(0);
            let dropped = outcome.duplicates.get(&split).copied().unwrap_or(0);
            assert_eq!(kept + dropped, duplicates, "split {split} does not add up");
        }
        self.0.extend(expected);
    }
}

fn by_split(events: &[Event]) -> BTreeMap<u32, u64> {
    let mut counts = BTreeMap::new();
    for event in events {
        *counts.entry(event.split).or_default() += 1;
    }
    counts
}

fn any_event() -> impl Strategy<Value = Event> {
    // Few keys and the two sides of hours' borders, before 1970 as well.
    let time = prop_oneof![
        (-2..3_i64).prop_map(|hour| hour * HOUR),
        (-2..3_i64).prop_map(|hour| hour * HOUR - 1),
        -3 * HOUR..3 * HOUR,
    ];
    let key = prop_oneof![9 => (0..60_u32).prop_map(|n| Some(format!("key-{n}"))), 1 => Just(None)];
    (key, time, 0..3_u32).prop_map(|(key, time, split)| Event { key, time, split })
}

/// What happens to a lake, one after the other.
#[derive(Debug, Clone)]
enum Step {
    Run(Vec<Vec<Vec<Event>>>),
    /// In the midst of a batch.
    Die(Vec<Vec<Vec<Event>>>),
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    let tasks = || {
        let batch = proptest::collection::vec(any_event(), 0..40);
        proptest::collection::vec(proptest::collection::vec(batch, 0..4), 1..4)
    };
    prop_oneof![
        4 => tasks().prop_map(Step::Run),
        1 => tasks().prop_map(Step::Die),
        1 => Just(Step::Reopen),
    ]
}

fn batches(tasks: &[Vec<Vec<Event>>]) -> Vec<Vec<RecordBatch>> {
    let of_task = |task: &Vec<Vec<Event>>| task.iter().map(|events| batch(events)).collect();
    tasks.iter().map(of_task).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_key_is_kept_once_an_hour_whatever_the_memory_and_the_restarts(
        steps in proptest::collection::vec(any_step(), 1..7),
        // Nothing fits; a hour or two fit; everything fits.
        memory_bytes in prop::sample::select(vec![0, 5_000, 12_000, PLENTY]),
        held_bytes in prop::sample::select(vec![0, 3_000, PLENTY]),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).build().unwrap();
        runtime.block_on(async {
            let mut lake = Lake::holding(held_bytes, memory_bytes);
            let mut seen = Seen::default();
            for step in &steps {
                match step {
                    Step::Run(tasks) => {
                        let outcome = lake.run(&batches(tasks)).await;
                        seen.check(&tasks.concat().concat(), &outcome);
                    }
                    Step::Die(tasks) => {
                        lake.attempt(&batches(tasks)).await;
                        lake.reopen();
                    }
                    Step::Reopen => lake.reopen(),
                }
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Across processes a task that failed is repeated, and batches that other processes committed are
    /// learnt of: each attempt claims apart, so it never meets its own claims or those of a dead one.
    #[test]
    fn claims_kept_elsewhere_give_the_same_and_last_as_long_as_their_attempt(
        keepers in 1u8..4,
        batch_rows in 1_usize..20,
        lists in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(any_event(), 0..40), 1..4), 1..6),
        memory_bytes in prop_oneof![Just(0_usize), Just(5_000), Just(1 << 30)],
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let mut lake = Lake::new(memory_bytes);
            let mut seen = Seen::default();
            for list in lists {
                // Each task has a split of its own, in several batches.
                let of_split = |(split, mut events): (usize, Vec<Event>)| -> Vec<Vec<Event>> {
                    events.iter_mut().for_each(|event| event.split = split as u32);
                    events.chunks(batch_rows).map(<[Event]>::to_vec).collect()
                };
                let list: Vec<_> = list.into_iter().enumerate().map(of_split).collect();
                let events: Vec<Event> = list.iter().flatten().flatten().cloned().collect();
                let tasks = batches(&list);
                lake.attempt_apart(keepers, &tasks).await; // died before its batch was committed
                let mut outcome = lake.attempt_apart(keepers, &tasks).await;
                seen.check(&events, &outcome);
                let files = lake.write_keys(&mut outcome).await;
                lake.files.extend(files);
                lake.batch += 1;
            }
        });
    }
}

/// Lets everybody win, and counts how often it is asked.
#[derive(Debug, Default)]
struct Asked(AtomicUsize);

impl ClaimRoutes for Asked {
    fn claim(&self, _: &Keeper, claim: Claim) -> BoxFuture<'static, Result<Vec<bool>, ClaimError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let keys = claim.groups.iter().map(|group| group.keys.len()).sum();
        std::future::ready(Ok(vec![true; keys])).boxed()
    }
}

#[tokio::test]
async fn small_batches_are_asked_for_together_and_large_ones_alone() {
    for (rows, questions) in [(1, 5), (8_192, 20)] {
        let lake = Lake::new(PLENTY);
        let events: Vec<Event> = (0..20 * rows).map(|n| event(n, 5)).collect();
        let input: Vec<RecordBatch> = events.chunks(rows as usize).map(batch).collect();
        let routes = Arc::new(Asked::default());
        let keeper = Keeper {
            executor_id: "0".to_owned(),
            address: String::new(),
        };
        let apart = Apart {
            keepers: Arc::new(Keepers::new("a".to_owned(), vec![keeper], Some(routes.clone()))),
            runner: "r".to_owned(),
        };
        let outcome = lake.attempt_in(&lake.index, Some(apart), &[input]).await;
        assert_eq!(outcome.kept, events);
        assert_eq!(routes.0.load(Ordering::Relaxed), questions);
    }
}

fn event(key: u64, time: i64) -> Event {
    Event {
        key: Some(format!("{key:032x}")),
        time,
        split: 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn eight_tasks_with_the_same_events_keep_each_once() {
    let mut lake = Lake::new(PLENTY);
    let events: Vec<Event> = (0..40_000).map(|n| event(n, n as i64 % 3 * HOUR)).collect();
    let tasks: Vec<Vec<RecordBatch>> = (0..8)
        .map(|task| {
            let mut chunks: Vec<_> = events.chunks(1_000).map(batch).collect();
            chunks.rotate_left(task * 5);
            chunks
        })
        .collect();
    let outcome = lake.run(&tasks).await;
    assert_eq!(outcome.kept.len(), events.len());
    assert_eq!(outcome.kept.iter().collect::<HashSet<_>>().len(), events.len());
    assert_eq!(outcome.duplicates[&0], 7 * events.len() as u64);
    let index: usize = KeyIndex::bytes(&lake.index);
    assert!(
        index < events.len() * 64,
        "{index} bytes for {} keys",
        events.len()
    );
}

#[tokio::test]
async fn a_batch_without_repeats_passes_uncopied_and_uncounted() {
    let lake = Lake::new(PLENTY);
    let events: Vec<Event> = (0..100).map(|n| event(n, 5)).collect();
    let input = batch(&events);
    let outcome = lake.attempt(&[vec![input]]).await;
    assert_eq!((outcome.kept.len(), outcome.duplicates.len()), (100, 0));
}

#[tokio::test]
async fn notes_pass_in_their_place() {
    let schema = rows::event_schema(&table(), false);
    let note = Note::Quality(vec![1, 2, 3]).to_batch(&schema).unwrap();
    let lake = Lake::new(PLENTY);
    let source =
        MemorySourceConfig::try_new_exec(&[vec![note, batch(&[event(1, 0), event(1, 0)])]], schema, None)
            .unwrap();
    let keyed = Arc::new(KeyExec::new(source, vec![0]));
    let plan = DedupExec::new(keyed, Arc::clone(&lake.index), None, 1);
    let out: Vec<_> = plan
        .execute(0, Arc::new(TaskContext::default()))
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let notes: Vec<bool> = out.iter().map(rows::is_note).collect();
    assert_eq!(notes, [true, false, true]);
    assert!(matches!(&Note::from_batch(&out[0]).unwrap()[..], [Note::Quality(state)] if state == &[1, 2, 3]));
}

#[tokio::test]
async fn a_key_file_that_is_not_as_its_manifest_says_is_an_error_that_names_it() {
    let mut lake = Lake::new(PLENTY);
    lake.run(&[vec![batch(&[event(1, 0)])]]).await;
    lake.files[0].object.rows = 2;
    lake.reopen();
    let source = |events: &[Event]| -> Arc<dyn ExecutionPlan> {
        let schema: SchemaRef = rows::event_schema(&table(), false);
        MemorySourceConfig::try_new_exec(&[vec![batch(events)]], schema, None).unwrap()
    };
    for what in ["holds 1 keys", "could not read"] {
        let keyed = Arc::new(KeyExec::new(source(&[event(1, 0)]), vec![0]));
        let plan = DedupExec::new(keyed, Arc::clone(&lake.index), None, 1);
        let stream = plan.execute(0, Arc::new(TaskContext::default())).unwrap();
        let error = stream.try_collect::<Vec<_>>().await.unwrap_err().to_string();
        assert!(
            error.contains(what) && error.contains(&lake.files[0].object.key),
            "{error}"
        );
        let path = Path::from(format!("lake/{}", lake.files[0].object.key));
        lake.store.delete(&path).await.unwrap_or_default();
        lake.reopen();
    }
}

#[tokio::test]
async fn a_column_that_cannot_be_a_key_is_refused_by_name() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("blob", DataType::Binary, true),
        Field::new(NOTE, DataType::Binary, true),
    ]));
    let nothing = new_null_array(&DataType::Binary, 1);
    let input = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(&nothing), nothing]).unwrap();
    let source = MemorySourceConfig::try_new_exec(&[vec![input]], schema, None).unwrap();
    let plan = KeyExec::new(source, vec![0]);
    let stream = plan.execute(0, Arc::new(TaskContext::default())).unwrap();
    let error = stream.try_collect::<Vec<_>>().await.unwrap_err().to_string();
    assert!(error.contains("`blob`") && error.contains("Binary"), "{error}");
}
