//! Claims of keys between workers: the desk that takes them, and the way to the desks of others.
//!
//! In: what tasks ask, here and at other workers. Out: which rows won, as this worker's [`ClaimBook`] says. The desk is open
//! for one tenure at a time: under the next leader the worker has another id, and another book.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::dedup::claims::{Claim, ClaimBook, ClaimError, ClaimRoutes, ClaimedKeys, Keeper};
use millrace_proto::v1;
use millrace_proto::v1::claim_service_client::ClaimServiceClient;
use millrace_proto::v1::claim_service_server::{ClaimService, ClaimServiceServer};
use parking_lot::Mutex;
use tonic::transport::{Channel, ClientTlsConfig};
use tonic::{Code, Request, Response, Status};

use crate::leader::endpoint;

/// A keeper that does not answer a claim within this has no answer: it is frozen, and the leader finds out before.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between attempts to connect. A claim that was never sent may be sent again.
const RECONNECT: Duration = Duration::from_millis(100);
const MESSAGE_BYTES: usize = 128 << 20;
const KEY_BYTES: usize = size_of::<u128>();

/// Keys that went between this worker and others, for its metrics.
#[derive(Debug, Default)]
pub struct ClaimCounts {
    sent: AtomicU64,
    taken: AtomicU64,
}

impl ClaimCounts {
    /// Keys that tasks here claimed with others, and those that others claimed here.
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        (
            self.sent.load(Ordering::Relaxed),
            self.taken.load(Ordering::Relaxed),
        )
    }
}

/// Where other workers' claims are taken.
#[derive(Debug, Default)]
pub struct ClaimDesk {
    open: Mutex<Option<(String, Arc<ClaimBook>)>>,
    counts: Arc<ClaimCounts>,
}

impl ClaimDesk {
    /// A desk that counts so; it is closed.
    #[must_use]
    pub fn new(counts: Arc<ClaimCounts>) -> Self {
        Self {
            open: Mutex::default(),
            counts,
        }
    }

    /// Takes claims that are meant for this executor id from now on, and no others.
    pub fn open(&self, executor_id: String, book: Arc<ClaimBook>) {
        *self.open.lock() = Some((executor_id, book));
    }

    /// The service, to be served beside shuffle data.
    pub(crate) fn service(self: Arc<Self>) -> ClaimServiceServer<Taking> {
        ClaimServiceServer::new(Taking(self))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    fn claim(&self, request: v1::ClaimKeysRequest) -> Result<Vec<bool>, ClaimError> {
        let book = match &*self.open.lock() {
            Some((executor_id, book)) if *executor_id == request.executor_id => Arc::clone(book),
            Some(_) | None => {
                let executor_id = request.executor_id;
                return Err(ClaimError::Gone { executor_id });
            }
        };
        let claim = Claim {
            attempt: request.attempt,
            run: request.run,
            groups: request.groups.into_iter().map(group_of).collect(),
        };
        let won = book.claim(&claim, Instant::now())?;
        self.counts.taken.fetch_add(won.len() as u64, Ordering::Relaxed);
        Ok(won)
    }
}

fn group_of(group: v1::ClaimedKeys) -> ClaimedKeys {
    let (keys, _) = group.keys.as_chunks::<KEY_BYTES>();
    ClaimedKeys {
        split: group.split,
        hour: group.event_hour,
        keys: keys.iter().map(|key| u128::from_le_bytes(*key)).collect(),
    }
}

fn group_to(group: ClaimedKeys) -> v1::ClaimedKeys {
    let mut keys = Vec::with_capacity(group.keys.len() * KEY_BYTES);
    for key in group.keys {
        keys.extend_from_slice(&key.to_le_bytes());
    }
    v1::ClaimedKeys {
        split: group.split,
        event_hour: group.hour,
        keys,
    }
}

/// The desk as a service.
#[derive(Debug)]
pub(crate) struct Taking(Arc<ClaimDesk>);

#[tonic::async_trait]
impl ClaimService for Taking {
    async fn claim_keys(
        &self,
        request: Request<v1::ClaimKeysRequest>,
    ) -> Result<Response<v1::ClaimKeysResponse>, Status> {
        let won = self.0.claim(request.into_inner()).map_err(refusal)?;
        let won = won.into_iter().map(u8::from).collect();
        Ok(Response::new(v1::ClaimKeysResponse { won }))
    }
}

/// The one place where this error meets gRPC; [`refused`] reads it.
fn refusal(error: ClaimError) -> Status {
    let code = match &error {
        ClaimError::Gone { .. } => Code::NotFound,
        ClaimError::Over { .. } => Code::FailedPrecondition,
        ClaimError::Superseded { .. } => Code::Aborted,
        ClaimError::Full { .. } => Code::ResourceExhausted,
        ClaimError::NoRoutes
        | ClaimError::Unanswered { .. }
        | ClaimError::Refused { .. }
        | ClaimError::Answers { .. } => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// What a keeper's refusal means to the one who asked.
fn refused(keeper: &Keeper, attempt: &str, status: Status) -> ClaimError {
    let code = status.code();
    if code == Code::NotFound {
        let executor_id = keeper.executor_id.clone();
        return ClaimError::Gone { executor_id };
    }
    if code == Code::FailedPrecondition {
        let attempt = attempt.to_owned();
        return ClaimError::Over { attempt };
    }
    let address = keeper.address.clone();
    if code == Code::ResourceExhausted {
        let reason = status.message().to_owned();
        return ClaimError::Refused { address, reason };
    }
    // The task is run again, or it is not: the leader knows.
    ClaimError::Unanswered {
        address,
        source: Box::new(status),
    }
}

/// The way to all keepers, this worker's own book included.
#[derive(Debug)]
pub struct Routes {
    executor_id: String,
    book: Arc<ClaimBook>,
    others: Arc<Others>,
}

/// Connections to other workers.
#[derive(Debug)]
struct Others {
    tls: Option<ClientTlsConfig>,
    channels: Mutex<HashMap<String, Channel>>,
    counts: Arc<ClaimCounts>,
}

impl Routes {
    /// Of the worker that keeps `book` under this executor id.
    #[must_use]
    pub fn new(
        executor_id: String,
        book: Arc<ClaimBook>,
        counts: Arc<ClaimCounts>,
        tls: Option<ClientTlsConfig>,
    ) -> Self {
        let others = Others {
            tls,
            channels: Mutex::default(),
            counts,
        };
        Self {
            executor_id,
            book,
            others: Arc::new(others),
        }
    }
}

impl ClaimRoutes for Routes {
    fn claim(&self, keeper: &Keeper, claim: Claim) -> BoxFuture<'static, Result<Vec<bool>, ClaimError>> {
        if keeper.executor_id == self.executor_id {
            return std::future::ready(self.book.claim(&claim, Instant::now())).boxed();
        }
        let (others, keeper) = (Arc::clone(&self.others), keeper.clone());
        async move { others.ask(&keeper, claim).await }.boxed()
    }
}

impl Others {
    async fn ask(&self, keeper: &Keeper, claim: Claim) -> Result<Vec<bool>, ClaimError> {
        let attempt = claim.attempt.clone();
        let mut request = Request::new(v1::ClaimKeysRequest {
            executor_id: keeper.executor_id.clone(),
            attempt: claim.attempt,
            run: claim.run,
            groups: claim.groups.into_iter().map(group_to).collect(),
        });
        request.set_timeout(PATIENCE);
        let channel = self.channel(&keeper.address).await?;
        let mut client = ClaimServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let answer = tokio::time::timeout(PATIENCE, client.claim_keys(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        match answer {
            Ok(answer) => {
                let won = answer.into_inner().won;
                self.counts.sent.fetch_add(won.len() as u64, Ordering::Relaxed);
                Ok(won.into_iter().map(|won| won != 0).collect())
            }
            Err(status) => {
                // The next claim finds out whether anybody is there.
                self.channels.lock().remove(&keeper.address);
                Err(refused(keeper, &attempt, status))
            }
        }
    }

    /// A connection that stands. A process that is not there is tried for longer than it takes the leader to notice: a claim that
    /// was never sent may wait.
    async fn channel(&self, address: &str) -> Result<Channel, ClaimError> {
        if let Some(channel) = self.channels.lock().get(address) {
            return Ok(channel.clone());
        }
        let unanswered = |source: tonic::transport::Error| ClaimError::Unanswered {
            address: address.to_owned(),
            source: Box::new(source),
        };
        let endpoint = endpoint(address, self.tls.as_ref()).map_err(unanswered)?;
        let endpoint = endpoint.connect_timeout(PATIENCE).tcp_nodelay(true);
        let end = Instant::now() + PATIENCE;
        loop {
            match endpoint.connect().await {
                Ok(channel) => {
                    self.channels.lock().insert(address.to_owned(), channel.clone());
                    return Ok(channel);
                }
                Err(error) if Instant::now() >= end => return Err(unanswered(error)),
                Err(_) => tokio::time::sleep(RECONNECT).await,
            }
        }
    }
}
