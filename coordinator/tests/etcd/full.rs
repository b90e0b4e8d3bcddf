//! An etcd whose store is full, for real: it has a few MiB, and somebody else fills them.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, DeleteOptions};
use millrace_coordinator::etcd::EtcdError;
use millrace_coordinator::ledger::Ledger;
use millrace_coordinator::ledger::etcd::EtcdLedger;

use crate::conformance::{pipeline, planned};
use crate::ledger::lake;
use crate::server::{PREFIX, Server, candidate, eventually};

const QUOTA: u64 = 4 << 20;

/// Puts until etcd refuses.
async fn fill(raw: &mut Client) {
    let junk = vec![0_u8; 256 << 10];
    for n in 0..1000 {
        if raw.put(format!("junk/{n}"), junk.clone(), None).await.is_err() {
            return;
        }
    }
    panic!("etcd took everything");
}

/// What the error tells people to do.
async fn make_room(raw: &mut Client) {
    let everything = DeleteOptions::new().with_prefix();
    let deleted = raw.delete("junk/", Some(everything)).await.unwrap();
    let revision = deleted.header().unwrap().revision();
    let physical = CompactionOptions::new().with_physical();
    raw.compact(revision, Some(physical)).await.unwrap();
    raw.defragment().await.unwrap();
    // Each member has its own.
    let alarms = raw.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
    for member in alarms.alarms().iter().map(|alarm| alarm.member_id()) {
        let mut of = AlarmOptions::new();
        of.with_member(member);
        raw.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_stops_writes_loudly_and_goes_on_when_there_is_room() {
    let server = Server::start_with(1, QUOTA).await;
    let (etcd, lake) = (server.etcd().await, lake());
    let lead = server.lead("x").await;
    let mut ledger = EtcdLedger::open(&etcd, PREFIX, &pipeline(), &lead, lake.clone())
        .await
        .unwrap();
    ledger.append(planned(lead.epoch(), 1, 1)).await.unwrap();
    let mut raw = server.raw().await;
    fill(&mut raw).await;
    let alarms = raw.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
    let is_raised = alarms
        .alarms()
        .iter()
        .any(|alarm| alarm.alarm() == AlarmType::Nospace);
    assert!(is_raised, "{alarms:?}");

    let epoch = lead.epoch();
    let appending = tokio::spawn(async move {
        let appended = ledger.append(planned(epoch, 2, 1)).await;
        appended.map(|()| ledger)
    });
    let patience = Duration::from_secs(20);
    eventually("the append is refused", patience, async || etcd.is_full()).await;
    let error = etcd.knock(PREFIX).await.unwrap_err();
    assert!(matches!(error, EtcdError::Full), "{error:?}");
    assert!(error.to_string().contains("etcdctl alarm disarm"), "{error}");
    // Reading goes on, and so does the lease: nobody else could be elected.
    let read = async || EtcdLedger::read(&etcd, PREFIX, &pipeline(), &lake).await.unwrap();
    assert_eq!(read().await.batches.len(), 1);

    make_room(&mut raw).await;
    let mut ledger = appending.await.unwrap().unwrap();
    assert!(!etcd.is_full(), "the alarm is over");
    assert!(lead.is_held(), "the leader was lost to a full store");
    ledger.append(planned(epoch, 3, 1)).await.unwrap();
    assert_eq!(read().await.batches.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_elected_while_the_store_is_full_and_somebody_is_when_there_is_room() {
    let server = Server::start_with(1, QUOTA).await;
    let mut raw = server.raw().await;
    fill(&mut raw).await;
    let etcd = server.etcd().await;
    let hopeful = candidate(etcd.clone(), "x");
    let campaign = tokio::spawn(async move { hopeful.campaign().await });
    let patience = Duration::from_secs(20);
    eventually("the candidate is refused", patience, async || etcd.is_full()).await;
    assert!(!campaign.is_finished());
    make_room(&mut raw).await;
    let lead = campaign.await.unwrap().unwrap();
    assert!(lead.is_held() && !etcd.is_full());
}
