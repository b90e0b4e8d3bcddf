//! Which coordinator leads, and under which epoch.
//!
//! The leader's key `/<prefix>/leader` is put by a transaction if it is absent, under a lease that the leader
//! keeps alive. Its create-revision is the **epoch**: it grows from leader to leader, and a transaction that
//! compares it cannot be done by a leader that was replaced (invariant 2).
//!
//! | the leader...                     | then                                                               |
//! |-----------------------------------|--------------------------------------------------------------------|
//! | dies                              | its lease ends, the key goes, a candidate that watches it takes over |
//! | sleeps past its lease             | [`Leadership::is_held`] is false by its own clock when it wakes, and its guard fails |
//! | cannot reach etcd                 | it stops acting before the lease can have ended at the server      |
//! | is asked to stop                  | [`Leadership::resign`] ends the lease at once                      |
//!
//! Nothing relies on the lease alone: it decides who should act, the guard decides who can.

mod leadership;
mod observe;

use std::time::{Duration, Instant};

use etcd_client::{Compare, CompareOp, PutOptions, TxnOp};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::etcd::{Etcd, EtcdError, key};
pub use leadership::Leadership;
pub use observe::observe;

/// Pause after a failed try.
const PAUSE: Duration = Duration::from_millis(250);

/// How a coordinator is reached; the value of the leader's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// `host:port` of the API.
    pub address: String,
    /// `host:port` of the scheduler, for workers.
    pub scheduler_address: String,
}

/// The leader as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderInfo {
    /// Its name.
    pub name: String,
    /// `host:port` of the API.
    pub address: String,
    /// `host:port` of the scheduler, for workers.
    pub scheduler_address: String,
    /// The fencing token.
    pub epoch: u64,
}

impl From<LeaderInfo> for millrace_proto::v1::Coordinator {
    fn from(leader: LeaderInfo) -> Self {
        Self {
            name: leader.name,
            address: leader.address,
            scheduler_address: leader.scheduler_address,
            epoch: leader.epoch,
        }
    }
}

/// A coordinator that wants to lead.
#[derive(Debug, Clone)]
pub struct Candidate {
    etcd: Etcd,
    key: String,
    me: Identity,
    lease: Duration,
}

/// The leader's key below a prefix.
fn leader_key(prefix: &str) -> String {
    key(prefix, "leader")
}

impl Candidate {
    /// A candidate below a prefix. `lease` is how long a dead leader blocks the next one; whole seconds, at least 2.
    #[must_use]
    pub fn new(etcd: Etcd, prefix: &str, me: Identity, lease: Duration) -> Self {
        Self {
            etcd,
            key: leader_key(prefix),
            me,
            lease,
        }
    }

    /// Waits until this candidate leads, however long that takes and whatever becomes of etcd meanwhile.
    ///
    /// # Errors
    /// Only what waiting cannot mend: etcd refuses us.
    pub async fn campaign(&self) -> Result<Leadership, EtcdError> {
        loop {
            match self.attempt().await {
                Ok(Some(leadership)) => {
                    info!(name = self.me.name, epoch = leadership.epoch(), "leads");
                    return Ok(leadership);
                }
                Ok(None) => {}
                // A lease that ended before the key was put under it: the next attempt has a new one.
                Err(error) if error.is_retryable() || matches!(error, EtcdError::LeaseEnded) => {
                    warn!(name = self.me.name, error = %error, "could not campaign");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the key if nobody holds it; else waits until something may have changed.
    async fn attempt(&self) -> Result<Option<Leadership>, EtcdError> {
        let found = self.etcd.get(&self.key, None).await?;
        if !found.kvs().is_empty() {
            let revision = found.header().map_or(0, etcd_client::ResponseHeader::revision);
            self.etcd.changed(&self.key, revision, true).await?;
            return Ok(None);
        }
        let asked = Instant::now();
        let (lease, ttl) = self.etcd.grant(self.lease).await?;
        match self.take(lease).await {
            Ok(Some(epoch)) => {
                let etcd = self.etcd.clone();
                Ok(Some(Leadership::begin(
                    etcd,
                    self.key.clone(),
                    epoch,
                    lease,
                    ttl,
                    asked,
                )))
            }
            lost => {
                // A key that was put after all goes with its lease.
                self.etcd.revoke(lease).await?;
                lost.map(|_| None)
            }
        }
    }

    /// Puts the key under the lease if it is absent; gives the epoch if it is ours now.
    async fn take(&self, lease: i64) -> Result<Option<u64>, EtcdError> {
        let value = serde_json::json!(self.me).to_string();
        let options = PutOptions::new().with_lease(lease);
        let outcome = self
            .etcd
            .txn(
                vec![Compare::create_revision(self.key.as_str(), CompareOp::Equal, 0)],
                vec![TxnOp::put(self.key.as_str(), value, Some(options))],
                vec![TxnOp::get(self.key.as_str(), None)],
            )
            .await?;
        let epoch = if outcome.applied {
            Some(outcome.revision)
        } else {
            // Sent twice, the response to the first one lost: the lease tells that it is ours.
            let holder = outcome.first(0).filter(|holder| holder.lease() == lease);
            holder.map(etcd_client::KeyValue::create_revision)
        };
        Ok(epoch.and_then(|revision| u64::try_from(revision).ok()))
    }
}
