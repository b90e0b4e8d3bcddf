//! One leader at a time, soon again after one is gone.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::TxnOp;
use millrace_coordinator::election::{Leadership, observe};
use millrace_coordinator::etcd::EtcdError;
use tokio::sync::Mutex;

use crate::server::{PREFIX, Server, candidate, eventually};

/// Three candidates, each in a runtime of its own so that one can be stopped as a whole, as `kill -9` would.
struct Node {
    runtime: Option<tokio::runtime::Runtime>,
    won: Arc<Mutex<Option<Leadership>>>,
}

impl Node {
    async fn start(server: &Server, name: &'static str) -> Self {
        let endpoints = server.endpoints.clone();
        let won = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&won);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let etcd =
                millrace_coordinator::etcd::Etcd::connect(&endpoints, etcd_client::ConnectOptions::new());
            let leadership = candidate(etcd.await.unwrap(), name).campaign().await.unwrap();
            *shared.lock().await = Some(leadership);
        });
        Self {
            runtime: Some(runtime),
            won,
        }
    }

    /// No task of it runs on; nothing is given back.
    fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    async fn epoch(&self) -> Option<u64> {
        self.won.lock().await.as_ref().map(Leadership::epoch)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_within_five_seconds_under_a_greater_epoch() {
    let server = Server::start(1).await;
    let leader = observe(&server.etcd().await, PREFIX);
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Node::start(&server, name).await);
    }
    let mut last = 0;
    for round in 0..2 {
        let mut leads = None;
        eventually("a leader", Duration::from_secs(5), async || {
            leads = None;
            for (n, node) in nodes.iter().enumerate() {
                if let Some(epoch) = node.epoch().await
                    && epoch > last
                {
                    assert!(leads.is_none(), "two leaders");
                    leads = Some((n, epoch));
                }
            }
            leads.is_some()
        })
        .await;
        let (n, epoch) = leads.unwrap();
        eventually("followers see it", Duration::from_secs(2), async || {
            leader
                .borrow()
                .as_ref()
                .is_some_and(|leader| leader.epoch == epoch)
        })
        .await;
        assert_eq!(leader.borrow().as_ref().unwrap().name, ["a", "b", "c"][n]);
        println!("round {round}: {n} leads under epoch {epoch}");
        last = epoch;
        nodes[n].kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_resigns_is_replaced_at_once() {
    let server = Server::start(1).await;
    let first = server.lead("a").await;
    let etcd = server.etcd().await;
    let waiting = tokio::spawn(async move { candidate(etcd, "b").campaign().await.unwrap() });
    assert!(first.is_held());
    first.resign().await.unwrap();
    assert!(!first.is_held());
    first.ended().await;
    let second = tokio::time::timeout(Duration::from_millis(1900), waiting).await;
    assert!(second.unwrap().unwrap().epoch() > first.epoch());
}

/// A paused leader's tasks stand still while the clock goes on: it knows that it may be replaced before it asks
/// anyone, and what it still sends is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_wakes_unheld_and_its_guard_fails() {
    let server = Server::start(1).await;
    let paused = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let etcd = server.etcd().await;
    let endpoints = server.endpoints.clone();
    // Nobody drives this runtime after the campaign: its tasks are stopped, as by SIGSTOP.
    let (paused, old) = tokio::task::spawn_blocking(move || {
        let old = paused.block_on(async {
            let options = etcd_client::ConnectOptions::new();
            let etcd = millrace_coordinator::etcd::Etcd::connect(&endpoints, options);
            candidate(etcd.await.unwrap(), "a").campaign().await.unwrap()
        });
        (paused, old)
    })
    .await
    .unwrap();
    assert!(old.is_held());
    let write = |lead: &Leadership| {
        let put = TxnOp::put(format!("/{PREFIX}/by"), lead.epoch().to_string(), None);
        (vec![lead.guard()], vec![put])
    };
    let (when, then) = write(&old);
    assert!(etcd.txn(when, then, Vec::new()).await.unwrap().applied);

    let new = candidate(etcd.clone(), "b").campaign().await.unwrap();
    assert!(!old.is_held(), "it was replaced while it believed to lead");
    assert!(new.epoch() > old.epoch());
    let (when, then) = write(&old);
    assert!(!etcd.txn(when, then, Vec::new()).await.unwrap().applied);
    let (when, then) = write(&new);
    assert!(etcd.txn(when, then, Vec::new()).await.unwrap().applied);

    tokio::task::spawn_blocking(move || paused.block_on(old.ended()))
        .await
        .unwrap();
    assert!(new.is_held(), "the one that woke took the key away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_key_was_taken_away_notices() {
    let server = Server::start(1).await;
    let leader = server.lead("a").await;
    let key = leader.key().to_owned();
    server.raw().await.delete(key, None).await.unwrap();
    // The lease is 3 s, and may have been renewed while etcd had not noticed yet.
    tokio::time::timeout(Duration::from_secs(15), leader.ended())
        .await
        .expect("still believes to lead");
}

/// A member that is gone may have been etcd's own leader, and its election may cost ours; writes go on all the same.
#[tokio::test(flavor = "multi_thread")]
async fn one_member_of_three_may_hang_or_die() {
    let server = Server::start(3).await;
    let mut leader = server.lead("a").await;
    let etcd = server.etcd().await;
    let mut changes = 0;
    for (verb, undo) in [("kill", "start"), ("pause", "resume")] {
        for member in 1..=3 {
            server.member(verb, member).await;
            let begun = std::time::Instant::now();
            let (mut writes, mut last, mut gap) = (0, begun, Duration::ZERO);
            while begun.elapsed() < Duration::from_secs(5) {
                if !leader.is_held() {
                    changes += 1;
                    leader = candidate(etcd.clone(), "a").campaign().await.unwrap();
                }
                let put = TxnOp::put(format!("/{PREFIX}/k"), "v", None);
                if etcd
                    .txn(vec![leader.guard()], vec![put], Vec::new())
                    .await
                    .unwrap()
                    .applied
                {
                    gap = gap.max(last.elapsed());
                    last = std::time::Instant::now();
                    writes += 1;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            println!("{verb} {member}: {writes} writes, longest gap {gap:?}");
            assert!(
                gap.max(last.elapsed()) < Duration::from_secs(5),
                "{verb} {member} stopped all writes"
            );
            server.member(undo, member).await;
        }
    }
    println!("{changes} changes of leader");
}

/// Without a quorum nobody leads, and nobody gives up: when it is back one of the same candidates leads on.
#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_that_is_lost_for_half_a_minute_is_waited_out() {
    let server = Server::start(3).await;
    let leader = server.lead("a").await;
    let (epoch, etcd) = (leader.epoch(), server.etcd().await);
    let seen = observe(&etcd, PREFIX);
    let waiting = tokio::spawn(async move { candidate(etcd, "b").campaign().await.unwrap() });
    server.member("kill", 1).await;
    server.member("kill", 2).await;
    let gone = std::time::Instant::now();
    // The lease is 3 s, and may have been renewed while etcd had not noticed yet.
    tokio::time::timeout(Duration::from_secs(15), leader.ended())
        .await
        .expect("acts without a quorum");
    tokio::time::sleep(Duration::from_secs(30).saturating_sub(gone.elapsed())).await;
    assert!(!waiting.is_finished());
    server.member("start", 1).await;
    let next = tokio::time::timeout(Duration::from_secs(15), waiting).await;
    let next = next.expect("nobody leads").unwrap();
    assert!(next.epoch() > epoch);
    eventually("followers see it", Duration::from_secs(5), async || {
        seen.borrow()
            .as_ref()
            .is_some_and(|leader| leader.epoch == next.epoch())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_epoch_is_the_create_revision_of_the_leaders_key() {
    let server = Server::start(1).await;
    let leader = server.lead("a").await;
    let found = server.raw().await.get(leader.key(), None).await.unwrap();
    let revision = found.kvs()[0].create_revision();
    assert_eq!(u64::try_from(revision).unwrap(), leader.epoch());
}

/// A lease can end before the key is put under it, where etcd is slow: a coordinator campaigns again then, and does not end.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ended_before_it_was_used_is_told_apart_from_a_refusal() {
    let server = Server::start(1).await;
    let etcd = server.etcd().await;
    let (lease, _) = etcd.grant(Duration::from_secs(3)).await.unwrap();
    etcd.revoke(lease).await.unwrap();
    etcd.revoke(lease).await.unwrap();
    let options = Some(etcd_client::PutOptions::new().with_lease(lease));
    let put = TxnOp::put("/late", "x", options);
    let late = etcd.txn(Vec::new(), vec![put], Vec::new()).await;
    assert!(matches!(late, Err(EtcdError::LeaseEnded)), "{late:?}");
}
