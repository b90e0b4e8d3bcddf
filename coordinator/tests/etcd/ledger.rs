//! What is promised of the ledger in etcd beyond what every ledger promises.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, GetOptions};
use millrace_coordinator::election::Leadership;
use millrace_coordinator::etcd::{Etcd, EtcdError};
use millrace_coordinator::lake::Lake;
use millrace_coordinator::ledger::etcd::{EtcdLedger, Limits};
use millrace_coordinator::ledger::{Entry, FencedBy, Ledger, LedgerError, State};
use object_store::memory::InMemory;
use object_store::path::Path;
use tokio::sync::Mutex;

use crate::conformance::{Place, pipeline, planned, started};
use crate::proxy::Proxy;
use crate::server::{PREFIX, Server, candidate};

const LIMITS: Limits = Limits {
    inline_bytes: 512 << 10,
    compact_after: 64,
    full_patience: Duration::from_secs(10),
};

/// In an etcd of its own, reached over a connection that can lose a response.
pub(crate) struct InEtcd {
    server: Server,
    proxy: Proxy,
    etcd: Etcd,
    lake: Lake,
    leads: Mutex<Option<Leadership>>,
}

impl Place for InEtcd {
    async fn new() -> Self {
        let server = Server::start(1).await;
        let proxy = Proxy::start(&server.endpoints[0]).await;
        let endpoints = std::slice::from_ref(&proxy.endpoint);
        let etcd = Etcd::connect(endpoints, etcd_client::ConnectOptions::new());
        Self {
            etcd: etcd.await.unwrap(),
            server,
            proxy,
            lake: lake(),
            leads: Mutex::default(),
        }
    }

    /// The leader before this one is not asked: its key is gone and it does not know yet.
    async fn open(&self) -> Result<Box<dyn Ledger>, LedgerError> {
        let lead = self.take_over().await;
        Ok(Box::new(self.open_as(&lead, LIMITS).await?))
    }

    async fn read(&self) -> State {
        EtcdLedger::read(&self.server.etcd().await, PREFIX, &pipeline(), &self.lake)
            .await
            .unwrap()
    }

    fn lose_next_response(&self) {
        self.proxy.lose_next();
    }

    fn responses_lost(&self) -> usize {
        self.proxy.lost()
    }
}

impl InEtcd {
    async fn take_over(&self) -> Leadership {
        let mut leads = self.leads.lock().await;
        if let Some(old) = leads.take() {
            self.server.raw().await.delete(old.key(), None).await.unwrap();
        }
        let lead = candidate(self.server.etcd().await, "x").campaign().await.unwrap();
        *leads = Some(lead.clone());
        lead
    }

    async fn open_with(&self, limits: Limits) -> (EtcdLedger, Leadership) {
        let lead = self.take_over().await;
        (self.open_as(&lead, limits).await.unwrap(), lead)
    }

    async fn open_as(&self, lead: &Leadership, limits: Limits) -> Result<EtcdLedger, LedgerError> {
        let lake = self.lake.clone();
        EtcdLedger::open_with(&self.etcd, PREFIX, &pipeline(), lead, lake, limits).await
    }

    async fn keys(&self) -> Vec<(String, usize)> {
        let folder = format!("/{PREFIX}/ledger/p/");
        let options = GetOptions::new().with_prefix();
        let mut client = self.server.raw().await;
        let found = client.get(folder, Some(options)).await.unwrap();
        let size = |kv: &etcd_client::KeyValue| (kv.key_str().unwrap().to_owned(), kv.value().len());
        found.kvs().iter().map(size).collect()
    }
}

pub(crate) fn lake() -> Lake {
    Lake {
        url: "memory:///".to_owned(),
        store: Arc::new(InMemory::new()),
        root: Path::default(),
        s3: millrace_pipeline::source::S3Options::default(),
    }
}

/// The guard itself is what refuses: the old leader still believes in its lease when it asks.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_is_refused_by_the_guard_and_says_so() {
    let place = InEtcd::new().await;
    let (mut old, lead) = place.open_with(LIMITS).await;
    place.server.raw().await.delete(lead.key(), None).await.unwrap();
    assert!(lead.is_held(), "the test is too slow to test the guard");
    let refused = old.append(vec![started(lead.epoch(), 1, 1)]).await;
    let ours = lead.epoch();
    assert!(
        matches!(refused, Err(LedgerError::Fenced { by: FencedBy::Epoch { ours: of }, .. }) if of == ours),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_handles_of_one_leader_do_not_write_one_place() {
    let place = InEtcd::new().await;
    let (mut first, lead) = place.open_with(LIMITS).await;
    let mut second = place.open_as(&lead, LIMITS).await.unwrap();
    let refused = first.append(planned(lead.epoch(), 1, 1)).await;
    assert!(
        matches!(
            refused,
            Err(LedgerError::Fenced {
                by: FencedBy::Place,
                ..
            })
        ),
        "{refused:?}"
    );
    second.append(planned(lead.epoch(), 1, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_holds_little_however_much_is_appended() {
    let place = InEtcd::new().await;
    let (mut ledger, lead) = place.open_with(LIMITS).await;
    for n in 0..400 {
        let count = if n % 50 == 0 { 4_000 } else { 1 };
        ledger.append(planned(lead.epoch(), n, count)).await.unwrap();
        if n % 40 == 0 {
            let keys = place.keys().await;
            assert!(keys.len() <= LIMITS.compact_after + 2, "{} keys", keys.len());
            assert!(keys.iter().all(|(_, bytes)| *bytes <= LIMITS.inline_bytes));
        }
    }
    let segments = place.lake.list("ledger/snapshots").await.unwrap();
    assert!((1..=4).contains(&segments.len()), "{segments:?}");
    assert_eq!(&place.read().await, ledger.state());
}

/// A reader beside a leader that compacts sees a state that was, and never an older one than before.
#[tokio::test(flavor = "multi_thread")]
async fn readers_are_undisturbed_by_compaction() {
    let place = Arc::new(InEtcd::new().await);
    let limits = Limits {
        compact_after: 5,
        ..LIMITS
    };
    let (mut ledger, lead) = place.open_with(limits).await;
    let writer = tokio::spawn(async move {
        for n in 0..300 {
            ledger.append(planned(lead.epoch(), n, 1)).await.unwrap();
        }
        ledger.state().clone()
    });
    let mut last = State::default();
    while !writer.is_finished() {
        let state = place.read().await;
        assert!(state.length >= last.length);
        assert!(state.length == 0 || state.length % 2 == 1, "half an append");
        assert!(last.batches.keys().all(|id| state.batches.contains_key(id)));
        last = state;
    }
    assert_eq!(place.read().await, writer.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_is_named_and_waited_out() {
    let place = InEtcd::new().await;
    let (mut ledger, lead) = place.open_with(LIMITS).await;
    let alarm = async |action| {
        let mut client = place.server.raw().await;
        client.alarm(action, AlarmType::Nospace, None).await.unwrap();
    };
    alarm(AlarmAction::Activate).await;
    let disarmed = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        alarm(AlarmAction::Deactivate).await;
    };
    let (appended, ()) = tokio::join!(ledger.append(planned(lead.epoch(), 1, 1)), disarmed);
    appended.unwrap();

    alarm(AlarmAction::Activate).await;
    let impatient = Limits {
        full_patience: Duration::ZERO,
        ..LIMITS
    };
    let error = place.open_as(&lead, impatient).await.unwrap_err();
    assert!(matches!(error, LedgerError::Etcd(EtcdError::Full)), "{error:?}");
    assert!(error.is_retryable());
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("alarm disarm"), "{cause}");
    alarm(AlarmAction::Deactivate).await;
    ledger.append(planned(lead.epoch(), 2, 1)).await.unwrap();
    assert_eq!(place.read().await.batches.len(), 2);
}

/// etcd restored from a backup while the leader runs on: the leader must not leave a hole.
#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_was_set_back_is_noticed() {
    let place = InEtcd::new().await;
    let (mut ledger, lead) = place.open_with(LIMITS).await;
    for n in 0..3 {
        ledger.append(planned(lead.epoch(), n, 1)).await.unwrap();
    }
    let last = format!("/{PREFIX}/ledger/p/{:012}", 3);
    assert_eq!(
        place
            .server
            .raw()
            .await
            .delete(last, None)
            .await
            .unwrap()
            .deleted(),
        1
    );
    let error = ledger.append(planned(lead.epoch(), 3, 1)).await.unwrap_err();
    assert!(matches!(error, LedgerError::Rewound { .. }), "{error:?}");
}

/// An empty etcd knows of no batch; planning again what is committed in the lake would double every event.
#[tokio::test(flavor = "multi_thread")]
async fn a_lake_with_batches_is_not_started_over_in_an_empty_etcd() {
    let place = InEtcd::new().await;
    let (mut ledger, lead) = place.open_with(LIMITS).await;
    ledger.append(planned(lead.epoch(), 1, 1)).await.unwrap();
    place
        .lake
        .create("manifests/b00000001.json", "{}".into())
        .await
        .unwrap();
    let open = async |prefix| {
        let etcd = &place.etcd;
        EtcdLedger::open(etcd, prefix, &pipeline(), &lead, place.lake.clone()).await
    };
    open(PREFIX).await.unwrap();
    let error = open("another").await.unwrap_err();
    assert!(matches!(error, LedgerError::Orphan { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_has_one_ledger() {
    use millrace_coordinator::ledger::embedded::EmbeddedLedger;
    let place = InEtcd::new().await;
    let (_, lead) = place.open_with(LIMITS).await;
    let embedded = EmbeddedLedger::open(&place.lake, &pipeline()).await;
    assert!(matches!(embedded, Err(LedgerError::Cluster { .. })));
    let other = millrace_proto::ids::PipelineName::try_from("q".to_owned()).unwrap();
    let foreign = EtcdLedger::open(&place.etcd, PREFIX, &other, &lead, place.lake.clone()).await;
    assert!(matches!(foreign, Err(LedgerError::Foreign { .. })));
    let own = lake();
    EmbeddedLedger::open(&own, &pipeline()).await.unwrap();
    let cluster = EtcdLedger::open(&place.etcd, PREFIX, &other, &lead, own).await;
    assert!(matches!(cluster, Err(LedgerError::Embedded { .. })));
}

/// A crash between the snapshot and the deletes leaves places that are held twice: they count once.
#[tokio::test(flavor = "multi_thread")]
async fn places_left_behind_by_a_cut_compaction_count_once() {
    let place = InEtcd::new().await;
    let limits = Limits {
        compact_after: 8,
        ..LIMITS
    };
    let (mut ledger, lead) = place.open_with(limits).await;
    ledger.append(planned(lead.epoch(), 0, 1)).await.unwrap();
    let second = format!("/{PREFIX}/ledger/p/{:012}", 1);
    let mut raw = place.server.raw().await;
    let kept = raw.get(second.as_str(), None).await.unwrap().kvs()[0]
        .value()
        .to_vec();
    for n in 1..8 {
        ledger.append(planned(lead.epoch(), n, 1)).await.unwrap();
    }
    assert!(
        raw.get(second.as_str(), None).await.unwrap().kvs().is_empty(),
        "not compacted"
    );
    raw.put(second.as_str(), kept, None).await.unwrap();
    assert_eq!(&place.read().await, ledger.state());
    for n in 8..17 {
        ledger.append(planned(lead.epoch(), n, 1)).await.unwrap();
    }
    assert!(
        raw.get(second.as_str(), None).await.unwrap().kvs().is_empty(),
        "never swept"
    );
    assert_eq!(&place.read().await, ledger.state());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_names_the_leaders_epoch() {
    let place = InEtcd::new().await;
    let (ledger, lead) = place.open_with(LIMITS).await;
    assert_eq!(ledger.state().epoch, lead.epoch());
    let (ledger, next) = place.open_with(LIMITS).await;
    assert_eq!(ledger.state().epoch, next.epoch());
    // An opening of an older epoch changes nothing.
    let stale = Entry::Opened {
        pipeline: pipeline(),
        epoch: Some(lead.epoch()),
    };
    assert_eq!(ledger.state().clone().next(&stale).epoch, next.epoch());
}
