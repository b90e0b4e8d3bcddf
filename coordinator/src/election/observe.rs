//! Following the leader: for coordinators that forward to it and workers that ask it for work.

use tokio::sync::watch;
use tracing::warn;

use super::{Identity, LeaderInfo, PAUSE, leader_key};
use crate::etcd::{Etcd, EtcdError};

/// The leader, whenever it changes; none while an election is under way. While etcd cannot be reached the last
/// one that was seen stays. The watching ends when every receiver is dropped.
#[must_use]
pub fn observe(etcd: &Etcd, prefix: &str) -> watch::Receiver<Option<LeaderInfo>> {
    let (sender, receiver) = watch::channel(None);
    let (etcd, key) = (etcd.clone(), leader_key(prefix));
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = follow(&etcd, &key, &sender) => {}
        }
    });
    receiver
}

async fn follow(etcd: &Etcd, key: &str, sender: &watch::Sender<Option<LeaderInfo>>) {
    loop {
        if let Err(error) = step(etcd, key, sender).await {
            warn!(error = %error, "the leader cannot be looked up");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Looks the leader up, then waits for a change.
async fn step(etcd: &Etcd, key: &str, sender: &watch::Sender<Option<LeaderInfo>>) -> Result<(), EtcdError> {
    let found = etcd.get(key, None).await?;
    let leader = found.kvs().first().and_then(|kv| {
        let identity: Identity = serde_json::from_slice(kv.value()).ok()?;
        Some(LeaderInfo {
            name: identity.name,
            address: identity.address,
            scheduler_address: identity.scheduler_address,
            epoch: u64::try_from(kv.create_revision()).ok()?,
        })
    });
    sender.send_if_modified(|known| {
        let new = *known != leader;
        *known = leader;
        new
    });
    let revision = found.header().map_or(0, etcd_client::ResponseHeader::revision);
    etcd.changed(key, revision, false).await
}
