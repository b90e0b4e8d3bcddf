//! What every ledger promises, wherever it is kept. Each test runs on both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::stream::BoxStream;
use millrace_coordinator::lake::Lake;
use millrace_coordinator::ledger::embedded::EmbeddedLedger;
use millrace_coordinator::ledger::{BatchState, Entry, Ledger, LedgerError, State};
use millrace_proto::ids::{Attempt, BatchId, JobId, PipelineName};
use millrace_proto::manifest::SplitCounts;
use millrace_proto::split::{InputObject, Split};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};

use crate::ledger::InEtcd;

/// Somewhere a ledger can be kept.
pub(crate) trait Place {
    async fn new() -> Self;
    /// Takes the ledger over: every handle before this one is stale.
    async fn open(&self) -> Result<Box<dyn Ledger>, LedgerError>;
    async fn read(&self) -> State;
    /// The next write arrives, its response does not.
    fn lose_next_response(&self);
    fn responses_lost(&self) -> usize;
}

/// Beside the lake, in a store that can lose a response.
pub(crate) struct Beside {
    lake: Lake,
    store: Arc<Lossy>,
}

impl Place for Beside {
    async fn new() -> Self {
        let store = Arc::new(Lossy::default());
        let lake = Lake {
            url: "memory:///".to_owned(),
            store: Arc::clone(&store) as _,
            root: Path::default(),
            s3: millrace_pipeline::source::S3Options::default(),
        };
        Self { lake, store }
    }

    async fn open(&self) -> Result<Box<dyn Ledger>, LedgerError> {
        let ledger = EmbeddedLedger::open(&self.lake, &pipeline()).await?;
        Ok(Box::new(ledger))
    }

    async fn read(&self) -> State {
        EmbeddedLedger::read(&self.lake).await.unwrap().state().clone()
    }

    fn lose_next_response(&self) {
        self.store.armed.store(true, Ordering::SeqCst);
    }

    fn responses_lost(&self) -> usize {
        self.store.lost.load(Ordering::SeqCst)
    }
}

macro_rules! conformance {
    ($($test:ident),* $(,)?) => {
        mod beside_the_lake {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test::<super::Beside>().await; })*
        }
        mod in_etcd {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test::<super::InEtcd>().await; })*
        }
    };
}

conformance!(
    a_writer_that_was_taken_over_cannot_write,
    a_reader_sees_what_the_writer_sees,
    a_lost_response_is_not_a_lost_or_doubled_append,
    a_lost_response_to_the_opening_is_no_other_writer,
    an_interrupted_batch_is_taken_over_as_it_stands,
    a_batch_may_be_planned_while_the_one_before_is_open,
    what_was_erased_is_known_to_whoever_takes_over,
    an_append_may_be_large,
    appends_may_be_many,
);

pub(crate) fn pipeline() -> PipelineName {
    PipelineName::try_from("p".to_owned()).unwrap()
}

pub(crate) fn batch(n: usize) -> BatchId {
    BatchId::try_from(format!("b{n:08}")).unwrap()
}

pub(crate) fn splits(count: u32) -> Vec<Split> {
    let object = |n: u32| InputObject {
        url: format!("s3://bucket/{}/{n}.json", "long-name".repeat(20)),
        size: 100,
        version: "1".to_owned(),
    };
    let split = |index| Split {
        index,
        object: object(index),
        start: 0,
        end: 100,
    };
    (0..count).map(split).collect()
}

pub(crate) fn planned(epoch: u64, n: usize, count: u32) -> Vec<Entry> {
    let planned = Entry::Planned {
        epoch,
        job: JobId::try_from("j".to_owned()).unwrap(),
        batch: batch(n),
        splits: splits(count),
        redrives: Vec::new(),
        compacts: Vec::new(),
        snapshots: Vec::new(),
        removes: None,
    };
    vec![planned, started(epoch, n, 1)]
}

pub(crate) fn started(epoch: u64, n: usize, number: u32) -> Entry {
    Entry::Started {
        epoch,
        batch: batch(n),
        attempt: Attempt { epoch, number },
    }
}

pub(crate) fn committed(epoch: u64, n: usize, attempt: Attempt) -> Entry {
    Entry::Committed {
        epoch,
        batch: batch(n),
        attempt,
        manifest: format!("manifest of {attempt}"),
        counts: SplitCounts::default(),
        newest_us: Some(i64::try_from(n).unwrap()),
        held: false,
        told: None,
    }
}

/// Invariant 2.
async fn a_writer_that_was_taken_over_cannot_write<P: Place>() {
    let place = P::new().await;
    let mut first = place.open().await.unwrap();
    let epoch = first.epoch();
    first.append(planned(epoch, 1, 1)).await.unwrap();
    let mut second = place.open().await.unwrap();
    assert!(second.epoch() > epoch);
    for _ in 0..2 {
        let attempt = Attempt { epoch, number: 1 };
        let refused = first.append(vec![committed(epoch, 1, attempt)]).await;
        assert!(matches!(refused, Err(LedgerError::Fenced { .. })), "{refused:?}");
    }
    let epoch = second.epoch();
    second.append(vec![started(epoch, 1, 1)]).await.unwrap();
    let state = place.read().await;
    assert_eq!(&state, second.state());
    assert_eq!(
        state.batches[&batch(1)].state,
        BatchState::Started(Attempt { epoch, number: 1 })
    );
}

/// In order, all of an append or nothing, whoever reads.
async fn a_reader_sees_what_the_writer_sees<P: Place>() {
    let place = P::new().await;
    assert_eq!(place.read().await, State::default());
    for round in 0..3 {
        let mut ledger = place.open().await.unwrap();
        let epoch = ledger.epoch();
        for n in 0..5 {
            let n = round * 5 + n;
            ledger.append(planned(epoch, n, 3)).await.unwrap();
            let attempt = Attempt { epoch, number: 1 };
            ledger.append(vec![committed(epoch, n, attempt)]).await.unwrap();
            assert_eq!(&place.read().await, ledger.state());
        }
    }
    let state = place.read().await;
    assert_eq!(state.length, 3 * (1 + 5 * 3));
    assert_eq!(state.committed().count(), 15);
    assert_eq!(state.newest_us, Some(14));
}

async fn a_lost_response_is_not_a_lost_or_doubled_append<P: Place>() {
    let place = P::new().await;
    let mut ledger = place.open().await.unwrap();
    let epoch = ledger.epoch();
    for n in 0..6 {
        if n % 2 == 1 {
            place.lose_next_response();
        }
        ledger.append(planned(epoch, n, 1)).await.unwrap();
    }
    assert_eq!(place.responses_lost(), 3, "the fault did not happen");
    let state = place.read().await;
    assert_eq!(&state, ledger.state());
    assert_eq!(state.length, 1 + 6 * 2);
}

async fn a_lost_response_to_the_opening_is_no_other_writer<P: Place>() {
    let place = P::new().await;
    place.open().await.unwrap();
    place.lose_next_response();
    let mut ledger = place.open().await.unwrap();
    assert_eq!(place.responses_lost(), 1, "the fault did not happen");
    let epoch = ledger.epoch();
    ledger.append(planned(epoch, 1, 1)).await.unwrap();
    assert_eq!(&place.read().await, ledger.state());
}

async fn an_interrupted_batch_is_taken_over_as_it_stands<P: Place>() {
    let place = P::new().await;
    let mut first = place.open().await.unwrap();
    let epoch = first.epoch();
    first.append(planned(epoch, 1, 2)).await.unwrap();
    drop(first);
    let mut second = place.open().await.unwrap();
    let open: Vec<_> = second
        .state()
        .open_batches()
        .map(|(id, b)| (id.clone(), b.clone()))
        .collect();
    assert_eq!(open.len(), 1);
    let (id, interrupted) = &open[0];
    assert_eq!((id, &interrupted.splits), (&batch(1), &splits(2)), "invariant 1");
    let epoch = second.epoch();
    let attempt = interrupted.next_attempt(epoch);
    assert!(!interrupted.attempts.contains(&attempt), "invariant 3");
    second
        .append(vec![started(epoch, 1, attempt.number)])
        .await
        .unwrap();
    second.append(vec![committed(epoch, 1, attempt)]).await.unwrap();
    let third = place.open().await.unwrap();
    assert_eq!(third.state().open_batches().count(), 0);
    assert_eq!(
        third.state().batches[&batch(1)].state,
        BatchState::Committed(attempt)
    );
}

/// The next batch is read while this one is committed: whoever takes over finds both, in order, and what one of them covers is
/// free again when it is dropped.
async fn a_batch_may_be_planned_while_the_one_before_is_open<P: Place>() {
    let place = P::new().await;
    let mut first = place.open().await.unwrap();
    let epoch = first.epoch();
    let mut next = planned(epoch, 2, 4);
    if let Entry::Planned { splits, .. } = &mut next[0] {
        splits.drain(..2);
    }
    first.append(planned(epoch, 1, 2)).await.unwrap();
    first.append(next).await.unwrap();
    drop(first);
    let mut second = place.open().await.unwrap();
    let open: Vec<_> = second.state().open_batches().map(|(id, _)| id.clone()).collect();
    assert_eq!(open, [batch(1), batch(2)]);
    let epoch = second.epoch();
    for n in [1, 2] {
        let attempt = second.state().batches[&batch(n)].next_attempt(epoch);
        second
            .append(vec![started(epoch, n, attempt.number)])
            .await
            .unwrap();
        if n == 1 {
            second.append(vec![committed(epoch, n, attempt)]).await.unwrap();
        }
    }
    let dropped = Entry::Dropped {
        epoch,
        batch: batch(2),
    };
    second.append(vec![dropped]).await.unwrap();
    let state = place.read().await;
    assert_eq!(state.open_batches().count(), 0);
    let is_free = |split: &Split| {
        let covered = state.covered.get(&split.object);
        covered.is_none_or(|ranges| !ranges.missing(split.start, split.end).is_empty())
    };
    let free: Vec<bool> = splits(4).iter().map(is_free).collect();
    assert_eq!(free, [false, false, true, true]);
}

async fn what_was_erased_is_known_to_whoever_takes_over<P: Place>() {
    let place = P::new().await;
    let mut first = place.open().await.unwrap();
    let forgotten = |epoch, key: &str| Entry::Forgotten {
        epoch,
        objects: vec![key.to_owned(), "quality/b00000001-e1-a1-0.state".to_owned()],
    };
    let epoch = first.epoch();
    first
        .append(vec![forgotten(epoch, "enrich/customers/v.sealed")])
        .await
        .unwrap();
    let second = place.open().await.unwrap();
    let refused = first
        .append(vec![forgotten(epoch, "enrich/customers/v-1.sealed")])
        .await;
    assert!(matches!(refused, Err(LedgerError::Fenced { .. })), "{refused:?}");
    let state = place.read().await;
    assert_eq!(&state, second.state());
    let known: Vec<&str> = state.forgotten.iter().map(String::as_str).collect();
    assert_eq!(
        known,
        ["enrich/customers/v.sealed", "quality/b00000001-e1-a1-0.state"]
    );
}

async fn an_append_may_be_large<P: Place>() {
    let place = P::new().await;
    let mut ledger = place.open().await.unwrap();
    let epoch = ledger.epoch();
    for n in 0..3 {
        let entries = planned(epoch, n, 8_000);
        assert!(serde_json::to_vec(&entries).unwrap().len() > 2 << 20);
        ledger.append(entries).await.unwrap();
    }
    assert_eq!(&place.read().await, ledger.state());
    let again = place.open().await.unwrap();
    assert_eq!(again.state().batches, ledger.state().batches);
}

async fn appends_may_be_many<P: Place>() {
    let place = P::new().await;
    let mut ledger = place.open().await.unwrap();
    let epoch = ledger.epoch();
    for n in 0..1000 {
        ledger.append(planned(epoch, n, 1)).await.unwrap();
    }
    let state = place.read().await;
    assert_eq!(&state, ledger.state());
    assert_eq!(state.batches.len(), 1000);
    let mut next = place.open().await.unwrap();
    let epoch = next.epoch();
    next.append(planned(epoch, 1000, 1)).await.unwrap();
    assert_eq!(place.read().await.batches.len(), 1001);
}

/// A store in memory whose next conditional put is done and then reported as failed.
#[derive(Debug, Default)]
pub(crate) struct Lossy {
    store: InMemory,
    armed: AtomicBool,
    lost: AtomicUsize,
}

impl std::fmt::Display for Lossy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Lossy {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> StoreResult<PutResult> {
        let conditional = options.mode == PutMode::Create;
        let put = self.store.put_opts(path, payload, options).await;
        if conditional && self.armed.swap(false, Ordering::SeqCst) {
            self.lost.fetch_add(1, Ordering::SeqCst);
            return Err(object_store::Error::Generic {
                store: "lossy",
                source: "the response was lost".into(),
            });
        }
        put
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.store.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.store.copy_opts(from, to, options).await
    }
}
