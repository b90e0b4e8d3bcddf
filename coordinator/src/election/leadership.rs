//! A leadership that was won: kept alive by a task, told lost by our own clock.
//!
//! The lease's end at the server is at least its time to live after the moment *before* the request that renewed
//! it was sent. We count from that moment, less a margin for clocks that run apart, so we stop first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Compare, CompareOp};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::etcd::{Etcd, EtcdError};

/// Renewals in a lease's time to live: so many that etcd may elect a leader of its own between two that succeed.
const RENEWALS: u32 = 6;

/// A leadership. Cheap to clone; when the last clone is dropped it is no longer kept alive.
#[derive(Debug, Clone)]
pub struct Leadership {
    inner: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    tenure: Arc<Tenure>,
    keeper: AbortHandle,
}

#[derive(Debug)]
struct Tenure {
    etcd: Etcd,
    key: String,
    epoch: u64,
    lease: i64,
    ttl: Duration,
    until: Mutex<Instant>,
    lost: watch::Sender<bool>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keeper.abort();
        self.tenure.lost.send_replace(true);
    }
}

impl Leadership {
    /// Starts keeping a lease alive that was asked for at `asked`.
    pub(super) fn begin(
        etcd: Etcd,
        key: String,
        epoch: u64,
        lease: i64,
        ttl: Duration,
        asked: Instant,
    ) -> Self {
        let tenure = Arc::new(Tenure {
            etcd,
            key,
            epoch,
            lease,
            ttl,
            until: Mutex::new(asked + safe(ttl)),
            lost: watch::Sender::new(false),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&tenure))).abort_handle();
        Self {
            inner: Arc::new(Held { tenure, keeper }),
        }
    }

    /// The fencing token: the create-revision of the leader's key.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.inner.tenure.epoch
    }

    /// Whether the lease cannot have ended yet, by our own clock. Once false it stays false.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.inner.tenure.is_held()
    }

    /// Turns true when the leadership is lost or given up.
    #[must_use]
    pub fn lost(&self) -> watch::Receiver<bool> {
        self.inner.tenure.lost.subscribe()
    }

    /// Returns when the leadership is lost or given up.
    pub async fn ended(&self) {
        // An error means that the sender is gone, and with it the leadership.
        let _ = self.lost().wait_for(|lost| *lost).await;
    }

    /// The condition that every transaction of this leader compares (invariant 2).
    #[must_use]
    pub fn guard(&self) -> Compare {
        let epoch = i64::try_from(self.epoch()).unwrap_or(i64::MAX);
        Compare::create_revision(self.key(), CompareOp::Equal, epoch)
    }

    /// The leader's key, which the guard compares.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.inner.tenure.key
    }

    /// Gives the leadership up, so that the next leader need not wait for the lease's end.
    ///
    /// # Errors
    /// When etcd cannot be reached; the lease then ends by itself.
    pub async fn resign(&self) -> Result<(), EtcdError> {
        let tenure = &self.inner.tenure;
        tenure.lost.send_replace(true);
        self.inner.keeper.abort();
        tenure.etcd.revoke(tenure.lease).await
    }
}

/// How much of a lease may be used: what is left out covers clocks that run apart.
fn safe(ttl: Duration) -> Duration {
    ttl.mul_f64(0.9)
}

impl Tenure {
    fn is_held(&self) -> bool {
        !*self.lost.borrow() && Instant::now() < *self.until.lock()
    }

    fn left(&self) -> Duration {
        self.until.lock().saturating_duration_since(Instant::now())
    }

    /// A lease that lapsed once is not taken up again: someone may have seen it lapsed.
    fn extend(&self, asked: Instant) -> bool {
        let mut until = self.until.lock();
        if Instant::now() >= *until {
            return false;
        }
        *until = asked + safe(self.ttl);
        true
    }

    /// Renews the lease; false when it has ended.
    async fn renew(&self) -> bool {
        let asked = Instant::now();
        let left = self.left();
        match tokio::time::timeout(left, self.etcd.renew(self.lease, left)).await {
            Ok(Ok(())) => self.extend(asked),
            Ok(Err(error)) => {
                warn!(epoch = self.epoch, error = %error, "the lease could not be renewed");
                false
            }
            Err(_) => false,
        }
    }

    /// Whether the key is still the one that we put; true when that cannot be told.
    async fn is_ours(&self) -> bool {
        let patience = self.left().min(self.ttl / RENEWALS);
        match tokio::time::timeout(patience, self.etcd.get_one(&self.key)).await {
            Ok(Ok(found)) => {
                let epoch = found.and_then(|found| u64::try_from(found.create_revision()).ok());
                epoch == Some(self.epoch)
            }
            Ok(Err(_)) | Err(_) => true,
        }
    }
}

/// Renews the lease until it is lost.
async fn keep(tenure: Arc<Tenure>) {
    loop {
        tokio::time::sleep(tenure.ttl / RENEWALS).await;
        if !tenure.renew().await || !tenure.is_ours().await {
            break;
        }
    }
    tenure.lost.send_replace(true);
    info!(epoch = tenure.epoch, "leads no more");
    if let Err(error) = tenure.etcd.revoke(tenure.lease).await {
        warn!(epoch = tenure.epoch, error = %error, "the lease is left to end by itself");
    }
}
