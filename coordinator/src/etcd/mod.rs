//! Calls to etcd that go on over a lost member.
//!
//! In: endpoints of the members. Out: reads, transactions, leases and watches, each tried on one member after
//! another until one answers or the call's patience is over.
//!
//! A balancing channel would keep handing calls to the member that fails fastest; here a call leaves a member
//! only when it failed or hung there, and the next call starts where the last one succeeded.
//!
//! | a call that...                     | is                                                                   |
//! |------------------------------------|----------------------------------------------------------------------|
//! | was not answered, or by a member without a leader | sent again, elsewhere                                 |
//! | was refused for what it asks       | an error at once                                                     |
//! | is a transaction                   | sent again too: its compares must refuse it the second time, and its |
//! |                                    | `otherwise` must let the caller see that it was applied              |

mod error;
mod options;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{
    Client, Compare, ConnectOptions, Error, Event, EventType, GetOptions, GetResponse, KeyValue, Txn, TxnOp,
    TxnOpResponse, WatchOptions, WatchStream,
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tracing::debug;

pub use error::EtcdError;
use error::{Verdict, verdict};
pub use options::options;

/// How long one member may take to answer.
const ANSWER: Duration = Duration::from_millis(1500);
/// How long a call is tried, over all members.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after each member was tried once.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// How long a watch may be silent before the key is read again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Largest response that is taken: a page of large values.
const RESPONSE_BYTES: usize = 64 << 20;

/// What a transaction came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Whether the compares held: `then` was done, else `otherwise`.
    pub applied: bool,
    /// The store's revision after it.
    pub revision: i64,
    /// What each read of the branch found, in order.
    pub reads: Vec<Vec<KeyValue>>,
}

impl Outcome {
    /// The first key that the `n`-th read found.
    #[must_use]
    pub fn first(&self, n: usize) -> Option<&KeyValue> {
        self.reads.get(n).and_then(|found| found.first())
    }
}

/// A handle on a whole etcd cluster. Cheap to clone.
#[derive(Clone)]
pub struct Etcd {
    members: Arc<Members>,
}

struct Members {
    endpoints: Vec<String>,
    clients: Vec<Client>,
    current: AtomicUsize,
    /// When one of them answered last.
    answered: Mutex<Instant>,
    /// Whether the last write was refused for want of space.
    full: AtomicBool,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Etcd").field(&self.members.endpoints).finish()
    }
}

/// A key below a prefix: `/prefix/rest`.
#[must_use]
pub fn key(prefix: &str, rest: &str) -> String {
    format!("/{}/{rest}", prefix.trim_matches('/'))
}

impl Etcd {
    /// A handle on the cluster with these members. Connections are made when they are needed.
    ///
    /// # Errors
    /// When an endpoint is no address, or the credentials in `options` are not taken.
    pub async fn connect(endpoints: &[String], options: ConnectOptions) -> Result<Self, EtcdError> {
        let options = options
            .with_require_leader(true)
            .with_connect_timeout(ANSWER)
            .with_keep_alive(Duration::from_secs(6), Duration::from_secs(3))
            .with_keep_alive_while_idle(false);
        let bad = |source| EtcdError::Endpoints {
            endpoints: endpoints.to_vec(),
            source,
        };
        let mut clients = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            clients.push(
                Client::connect([endpoint], Some(options.clone()))
                    .await
                    .map_err(bad)?,
            );
        }
        if clients.is_empty() {
            return Err(bad(Error::InvalidArgs("there are none".to_owned())));
        }
        Ok(Self {
            members: Arc::new(Members {
                endpoints: endpoints.to_vec(),
                clients,
                current: AtomicUsize::new(0),
                answered: Mutex::new(Instant::now()),
                full: AtomicBool::new(false),
            }),
        })
    }

    /// Reads keys, linearizably.
    ///
    /// # Errors
    /// When no member answers, or the read is refused.
    pub async fn get(&self, key: &str, options: Option<GetOptions>) -> Result<GetResponse, EtcdError> {
        let call = |client: Client| {
            let (key, options) = (key.to_owned(), options.clone());
            async move {
                let mut kv = client.kv_client().max_decoding_message_size(RESPONSE_BYTES);
                kv.get(key, options).await
            }
        };
        self.call(PATIENCE, call).await
    }

    /// One key.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_one(&self, key: &str) -> Result<Option<KeyValue>, EtcdError> {
        Ok(self.get(key, None).await?.take_kvs().into_iter().next())
    }

    /// Does `then` if all of `when` hold, else `otherwise`, in one transaction. It may be sent more than once.
    ///
    /// # Errors
    /// [`EtcdError::Unreachable`] when the outcome is not known, or why it was refused.
    pub async fn txn(
        &self,
        when: Vec<Compare>,
        then: Vec<TxnOp>,
        otherwise: Vec<TxnOp>,
    ) -> Result<Outcome, EtcdError> {
        let txn = Txn::new().when(when).and_then(then).or_else(otherwise);
        let call = |client: Client| {
            let txn = txn.clone();
            async move {
                let mut kv = client.kv_client().max_decoding_message_size(RESPONSE_BYTES);
                kv.txn(txn).await
            }
        };
        let response = self.call(PATIENCE, call).await?;
        let responses = response.op_responses();
        // The alarm lets reads and deletions pass.
        if responses.iter().any(|op| matches!(op, TxnOpResponse::Put(_))) {
            self.members.full.store(false, Ordering::Relaxed);
        }
        let reads = responses.into_iter().filter_map(|op| match op {
            TxnOpResponse::Get(mut got) => Some(got.take_kvs()),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        Ok(Outcome {
            applied: response.succeeded(),
            revision: response.header().map_or(0, etcd_client::ResponseHeader::revision),
            reads: reads.collect(),
        })
    }

    /// Makes a lease; gives its id and the time to live that the server chose.
    ///
    /// # Errors
    /// When no member answers, or the lease is refused.
    pub async fn grant(&self, ttl: Duration) -> Result<(i64, Duration), EtcdError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let call = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        let granted = self.call(PATIENCE, call).await?;
        let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
        Ok((granted.id(), ttl))
    }

    /// Gives a lease its whole time to live again.
    ///
    /// # Errors
    /// [`EtcdError::LeaseGone`] when it has ended, or when no member answers within `patience`.
    pub async fn renew(&self, lease: i64, patience: Duration) -> Result<(), EtcdError> {
        let call = |client: Client| async move {
            match client.lease_client().keep_alive(lease).await {
                Ok(_) => Ok(true),
                Err(Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        };
        if self.call(patience, call).await? {
            Ok(())
        } else {
            Err(EtcdError::LeaseGone { lease })
        }
    }

    /// Ends a lease; its keys are deleted. One that has ended already is fine.
    ///
    /// # Errors
    /// When no member answers.
    pub async fn revoke(&self, lease: i64) -> Result<(), EtcdError> {
        let call = |client: Client| async move {
            match client.lease_client().revoke(lease).await {
                Ok(_) => Ok(()),
                Err(Error::GRpcStatus(status)) if status.code() == Code::NotFound => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.call(PATIENCE, call).await
    }

    /// A stream of changes. It ends with its member: whoever reads it must also look at the keys now and then,
    /// for a member that hangs says nothing.
    ///
    /// # Errors
    /// When no member answers.
    pub async fn watch(&self, key: &str, options: WatchOptions) -> Result<WatchStream, EtcdError> {
        let call = |client: Client| {
            let (key, options) = (key.to_owned(), options.clone());
            async move {
                let mut watch = client.watch_client().max_decoding_message_size(RESPONSE_BYTES);
                watch.watch(key, Some(options)).await
            }
        };
        self.call(PATIENCE, call).await
    }

    /// Returns when a key has changed (or, if asked so, was deleted) after `revision`, or may have: a second without
    /// news is news too, for a member that hangs says nothing.
    ///
    /// # Errors
    /// When no member answers.
    pub async fn changed(&self, key: &str, revision: i64, only_deleted: bool) -> Result<(), EtcdError> {
        let options = WatchOptions::new().with_start_revision(revision + 1);
        let mut watch = self.watch(key, options).await?;
        let look_again = sleep(LOOK_AGAIN);
        tokio::pin!(look_again);
        loop {
            let message = tokio::select! {
                () = &mut look_again => return Ok(()),
                message = watch.message() => message,
            };
            let counts = |event: &Event| !only_deleted || event.event_type() == EventType::Delete;
            match message {
                Ok(Some(message)) if message.canceled() => break,
                Ok(Some(message)) if message.events().iter().any(counts) => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    debug!(key, error = %error, "a watch ended");
                    self.avoid_current();
                    break;
                }
            }
        }
        sleep(ROUND_PAUSE).await;
        Ok(())
    }

    /// How long ago a call was answered last. Somebody always calls: a coordinator looks at the leader each second.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.members.answered.lock().elapsed()
    }

    /// Whether etcd's NOSPACE alarm refused the last write.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.members.full.load(Ordering::Relaxed)
    }

    /// Writes next to nothing: tells whether the NOSPACE alarm still stands where nobody else would find out.
    ///
    /// # Errors
    /// [`EtcdError::Full`] if it does, or when no member answers.
    pub async fn knock(&self, prefix: &str) -> Result<(), EtcdError> {
        let put = TxnOp::put(key(prefix, "room"), "", None);
        self.txn(Vec::new(), vec![put], Vec::new()).await.map(|_| ())
    }

    /// Lets the next call start at another member.
    pub fn avoid_current(&self) {
        self.members.current.fetch_add(1, Ordering::Relaxed);
    }

    async fn call<T, Answer>(
        &self,
        patience: Duration,
        call: impl Fn(Client) -> Answer + Send,
    ) -> Result<T, EtcdError>
    where
        Answer: Future<Output = Result<T, Error>> + Send,
    {
        let deadline = Instant::now() + patience;
        let answer = ANSWER.min(patience / 3); // the last try must not wait for the first
        let count = self.members.clients.len();
        let mut last = None;
        let mut tried = 0;
        loop {
            let now = Instant::now();
            if now >= deadline && tried > 0 {
                return Err(EtcdError::Unreachable {
                    endpoints: self.members.endpoints.clone(),
                    seconds: patience.as_secs(),
                    source: last,
                });
            }
            let current = self.members.current.load(Ordering::Relaxed);
            let client = self.members.clients[current % count].clone();
            match timeout(answer.min(deadline - now), call(client)).await {
                Ok(Ok(value)) => {
                    *self.members.answered.lock() = Instant::now();
                    return Ok(value);
                }
                Ok(Err(error)) => match verdict(&error) {
                    Verdict::Elsewhere => last = Some(error),
                    Verdict::Full => {
                        self.members.full.store(true, Ordering::Relaxed);
                        return Err(EtcdError::Full);
                    }
                    Verdict::Compacted => return Err(EtcdError::Compacted),
                    Verdict::LeaseEnded => return Err(EtcdError::LeaseEnded),
                    Verdict::Refused => return Err(EtcdError::Refused(error)),
                },
                Err(_) => {}
            }
            // Only whoever saw this member fail leaves it: concurrent calls do not skip a good one.
            let next = current.wrapping_add(1);
            let moved = &self.members.current;
            let _ = moved.compare_exchange(current, next, Ordering::Relaxed, Ordering::Relaxed);
            tried += 1;
            if tried % count == 0 {
                sleep(ROUND_PAUSE).await;
            }
        }
    }
}
