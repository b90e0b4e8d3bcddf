//! One connection to whichever coordinator answers, and the rules of trying again.
//!
//! | what went wrong                                       | a call that is safe to repeat | one that is not |
//! |--------------------------------------------------------|-------------------------------|------------------|
//! | nobody took the connection                              | the next coordinator          | the next coordinator |
//! | it broke under way, or the server is `UNAVAILABLE`      | the next coordinator          | the caller is told |
//! | too many calls (`RESOURCE_EXHAUSTED` with a delay)      | again after that delay        | again after that delay |
//! | anything else                                           | the caller is told            | the caller is told |
//!
//! All of it ends with the deadline.

mod backoff;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use crate::error::{ClientError, Refusal, is_ours};
pub(crate) use backoff::Backoff;

const CONNECT: Duration = Duration::from_secs(2);
/// A connection on which an answer is waited for is asked this often whether it lives: a frozen coordinator accepts calls.
const ALIVE_EVERY: Duration = Duration::from_millis(500);
/// How long it may take to say so.
const ALIVE_WITHIN: Duration = Duration::from_millis(1_500);

/// Where the cluster is, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Options {
    /// Coordinators, each `host:port`; any of them will do.
    pub addresses: Vec<String>,
    /// TLS; none: in the clear.
    pub tls: Option<Tls>,
    /// The bearer token; none: without.
    pub token: Option<String>,
    /// How long a call may take, with everything that is tried again. Default 30 s.
    pub deadline: Duration,
    /// Largest message, in bytes. Default 16 MiB.
    pub message_bytes: usize,
}

impl Options {
    /// Addresses, and the defaults for the rest.
    pub fn new<S: Into<String>>(addresses: impl IntoIterator<Item = S>) -> Self {
        Self {
            addresses: addresses.into_iter().map(Into::into).collect(),
            tls: None,
            token: None,
            deadline: Duration::from_secs(30),
            message_bytes: 16 << 20,
        }
    }
}

/// TLS of a client; everything is PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Who vouches for the coordinators.
    pub ca: Vec<u8>,
    /// The client's own certificate and key, where coordinators ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in the coordinators' certificates, where it is not the address.
    pub domain: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

impl Tls {
    fn config(&self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca));
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(domain) = &self.domain {
            config = config.domain_name(domain.clone());
        }
        config
    }
}

/// Whether a call may be made twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It reads, or it carries a request id, or it ends where the first one ended.
    Safe,
    /// The second answer would be another.
    Never,
}

/// The connection.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Shared>);

struct Shared {
    addresses: Vec<String>,
    endpoints: Vec<Endpoint>,
    token: Option<MetadataValue<Ascii>>,
    deadline: Duration,
    message_bytes: usize,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// Which address is tried.
    index: usize,
    channel: Option<Channel>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("addresses", &self.0.addresses)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) async fn open(options: Options) -> Result<Self, ClientError> {
        if options.addresses.is_empty() {
            return Err(ClientError::NoAddress);
        }
        let tls = options.tls.as_ref().map(Tls::config);
        let endpoint = |address: &String| {
            endpoint(address, tls.as_ref()).map_err(|source| ClientError::Address {
                address: address.clone(),
                source,
            })
        };
        let endpoints = options.addresses.iter().map(endpoint).collect::<Result<_, _>>()?;
        let token = options
            .token
            .map(|token| MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| ClientError::Token));
        let connection = Self(Arc::new(Shared {
            addresses: options.addresses,
            endpoints,
            token: token.transpose()?,
            deadline: options.deadline,
            message_bytes: options.message_bytes,
            current: Mutex::default(),
        }));
        let until = Instant::now() + connection.0.deadline;
        let mut backoff = Backoff::default();
        loop {
            match connection.channel().await {
                Ok(_) => return Ok(connection),
                Err(error) => connection.rest(&mut backoff, until, None, error.into()).await?,
            }
        }
    }

    pub(crate) fn message_bytes(&self) -> usize {
        self.0.message_bytes
    }

    /// Makes a call, and makes it again where that is safe.
    pub(crate) async fn call<M, T, F, A>(&self, message: M, repeat: Repeat, send: F) -> Result<T, ClientError>
    where
        M: Clone,
        F: Fn(Channel, Request<M>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let until = Instant::now() + self.0.deadline;
        let mut backoff = Backoff::default();
        loop {
            let channel = match self.channel().await {
                Ok(channel) => channel,
                Err(error) => {
                    self.rest(&mut backoff, until, None, error.into()).await?;
                    continue;
                }
            };
            let left = until.saturating_duration_since(Instant::now());
            let answer = send(channel, self.request(message.clone(), Some(left))).await;
            let status = match answer {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            let verdict = judge(&status, repeat);
            if verdict == Verdict::Tell || Instant::now() >= until {
                return Err(Refusal::of(&status).into());
            }
            if verdict == Verdict::Elsewhere {
                self.leave();
            }
            let delay = status
                .get_details_retry_info()
                .and_then(|retry| retry.retry_delay);
            self.rest(&mut backoff, until, delay, status.into()).await?;
        }
    }

    /// A request with the token and a deadline.
    pub(crate) fn request<M>(&self, message: M, left: Option<Duration>) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(token) = &self.0.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        if let Some(left) = left {
            request.set_timeout(left);
        }
        request
    }

    /// The channel in use, or a new one to the coordinator whose turn it is.
    pub(crate) async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let index = {
            let current = self.current();
            if let Some(channel) = &current.channel {
                return Ok(channel.clone());
            }
            current.index
        };
        match self.0.endpoints[index].connect().await {
            Ok(channel) => {
                let mut current = self.current();
                if current.index == index {
                    current.channel = Some(channel.clone());
                }
                Ok(channel)
            }
            Err(error) => {
                self.leave();
                Err(error)
            }
        }
    }

    /// Turns to the next coordinator.
    pub(crate) fn leave(&self) {
        let mut current = self.current();
        current.index = (current.index + 1) % self.0.endpoints.len();
        current.channel = None;
    }

    /// Waits before the next try; the deadline ends it.
    pub(crate) async fn rest(
        &self,
        backoff: &mut Backoff,
        until: Instant,
        asked: Option<Duration>,
        why: Box<dyn std::error::Error + Send + Sync>,
    ) -> Result<(), ClientError> {
        let pause = backoff.next(asked, &mut rand::rng());
        if Instant::now() + pause >= until {
            return Err(ClientError::Unreachable {
                addresses: self.0.addresses.clone(),
                waited: self.0.deadline,
                source: why,
            });
        }
        tracing::debug!(pause_ms = pause.as_millis(), why = %why, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        // Nothing panics while it is held; a poisoned lock's value is sound.
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn endpoint(address: &str, tls: Option<&ClientTlsConfig>) -> Result<Endpoint, tonic::transport::Error> {
    let bare = address
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{bare}"))?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(ALIVE_EVERY)
        .keep_alive_timeout(ALIVE_WITHIN)
        .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))?;
    match tls {
        Some(tls) => endpoint.tls_config(tls.clone()),
        None => Ok(endpoint),
    }
}

/// What follows from a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The caller is told.
    Tell,
    /// The same coordinator, later.
    Later,
    /// Another coordinator.
    Elsewhere,
}

/// See the table above.
pub(crate) fn judge(status: &Status, repeat: Repeat) -> Verdict {
    let delayed = status.get_details_retry_info().is_some();
    if status.code() == Code::ResourceExhausted && delayed {
        return Verdict::Later;
    }
    if repeat == Repeat::Never {
        return Verdict::Tell;
    }
    if is_ours(status) {
        return if status.code() == Code::Unavailable {
            Verdict::Elsewhere
        } else {
            Verdict::Tell
        };
    }
    // Not the server's word: the connection broke, or something between us did.
    let broke = [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled];
    if broke.contains(&status.code()) {
        Verdict::Elsewhere
    } else {
        Verdict::Tell
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn only_what_is_safe_is_made_again() {
        let broken = Status::unknown("transport error");
        assert_eq!(judge(&broken, Repeat::Safe), Verdict::Elsewhere);
        assert_eq!(judge(&broken, Repeat::Never), Verdict::Tell);
        let mut details =
            ErrorDetails::with_error_info("RATE_LIMITED", "millrace", std::collections::HashMap::new());
        details.set_retry_info(Some(Duration::from_millis(5)));
        let limited = Status::with_error_details(Code::ResourceExhausted, "slow down", details.clone());
        assert_eq!(judge(&limited, Repeat::Never), Verdict::Later);
        let gone = Status::with_error_details(Code::Unavailable, "no leader", details.clone());
        assert_eq!(judge(&gone, Repeat::Safe), Verdict::Elsewhere);
        let internal = Status::with_error_details(Code::Internal, "a fault", details);
        assert_eq!(judge(&internal, Repeat::Safe), Verdict::Tell);
        assert_eq!(judge(&Status::not_found("x"), Repeat::Safe), Verdict::Tell);
    }

    #[tokio::test]
    async fn nobody_there_is_told_within_the_deadline_and_names_who_was_tried() {
        let mut options = Options::new(["127.0.0.1:1", "127.0.0.1:2"]);
        options.deadline = Duration::from_millis(300);
        let started = Instant::now();
        let error = Connection::open(options).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(error.to_string().contains("127.0.0.1:1, 127.0.0.1:2"), "{error}");
        assert!(error.is_retryable());
    }
}
