//! The way to the leader: a coordinator that does not lead passes every call on, and callers never notice.
//!
//! In: a call, its message still encoded. Out: the answer of whoever leads, streams included.
//!
//! | the call is…                                   | then                                              |
//! |-------------------------------------------------|---------------------------------------------------|
//! | here, and we lead                               | answered here                                     |
//! | here, another leads                             | passed on, with the caller's token and what is left of the deadline |
//! | here, nobody leads, or the leader is just gone  | kept until one is known; after the deadline `UNAVAILABLE` |
//! | passed on to us, and we do not lead             | sent back marked, and the sender looks again       |
//!
//! The mark on a call that was passed on keeps it from going in circles. A call whose connection broke is sent
//! again, except where doing it twice shows ([`sent_once`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Request, Response, request::Parts};
use tonic::codegen::{Bytes, Service};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::deadline;
use super::errors::{NOT_LEADER_HEADER, Reason, not_leader, retry_after, status};
use crate::election::LeaderInfo;

/// Stands on a call that a coordinator passed on: its name.
const HOP_HEADER: &str = "millrace-forwarded-by";
/// How long a call waits for a leader where the caller gives no deadline.
const WAIT: Duration = Duration::from_secs(15);
/// Between two looks at a leader that does not answer yet.
const PAUSE: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_secs(2);

/// Finds the leader for a call.
pub(crate) struct Forward {
    pub(crate) name: String,
    pub(crate) leader: watch::Receiver<Option<LeaderInfo>>,
    /// Whether this process leads at this moment.
    pub(crate) leads: Arc<dyn Fn() -> bool + Send + Sync>,
    /// How other coordinators are spoken to.
    pub(crate) tls: Option<ClientTlsConfig>,
    pub(crate) channel: Mutex<Option<(String, Channel)>>,
    pub(crate) message_bytes: usize,
}

/// What came of one try.
enum Tried {
    Answered(Response<Body>),
    /// Nobody that leads took it; the text says why.
    Again(String),
}

impl Forward {
    /// Answers a call here or elsewhere.
    pub(crate) async fn answer<S>(&self, request: Request<Body>, inner: &S) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone,
        S::Error: std::fmt::Display,
    {
        let started = Instant::now();
        let given = deadline::of(request.headers());
        let until = started + given.unwrap_or(WAIT);
        let (parts, body) = request.into_parts();
        let message = self.collect(body).await?;
        let call = Call {
            parts,
            message,
            left: given.map(|_| until),
        };
        loop {
            let why = match self.try_once(&call, inner).await? {
                Tried::Answered(response) => return Ok(response),
                Tried::Again(why) => why,
            };
            if call.is_forwarded() {
                return Err(not_leader(why));
            }
            if Instant::now() + PAUSE >= until {
                return Err(retry_after(Reason::NoLeader, why, Duration::from_secs(1)));
            }
            let mut leader = self.leader.clone();
            // Whichever comes first; a sender that is gone changes nothing any more.
            let _ = tokio::time::timeout(PAUSE, leader.changed()).await;
            if leader.has_changed().is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn try_once<S>(&self, call: &Call, inner: &S) -> Result<Tried, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone,
        S::Error: std::fmt::Display,
    {
        if (self.leads)() {
            let response = call.send(inner.clone(), None).await;
            let response = response.map_err(|error| status(Reason::Internal, error, &[]))?;
            return Ok(judged(response, &self.name));
        }
        if call.is_forwarded() {
            return Ok(Tried::Again(format!("`{}` does not lead", self.name)));
        }
        let leader = self.leader.borrow().clone();
        let Some(leader) = leader.filter(|leader| leader.name != self.name) else {
            return Ok(Tried::Again("no coordinator leads at the moment".to_owned()));
        };
        let channel = match self.channel(&leader.address).await {
            Ok(channel) => channel,
            Err(error) => return Ok(Tried::Again(format!("the leader `{}`: {error}", leader.name))),
        };
        match call.send(channel, Some(&self.name)).await {
            Ok(response) => Ok(judged(response, &leader.name)),
            Err(error) => {
                self.channel.lock().take();
                let text = format!("the leader `{}`: {error}", leader.name);
                if sent_once(call.parts.uri.path()) {
                    return Err(retry_after(Reason::NoLeader, text, PAUSE));
                }
                Ok(Tried::Again(text))
            }
        }
    }

    async fn collect(&self, body: Body) -> Result<Bytes, Status> {
        let limited = Limited::new(body, self.message_bytes + FRAME);
        match limited.collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                let text = format!("the message is larger than {} bytes", self.message_bytes);
                Err(status(Reason::MessageTooLarge, text, &[]))
            }
            Err(error) => Err(Status::cancelled(format!(
                "the request did not come whole: {error}"
            ))),
        }
    }

    async fn channel(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        if let Some((of, channel)) = self.channel.lock().as_ref()
            && of == address
        {
            return Ok(channel.clone());
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.clone())?;
        }
        let channel = endpoint.connect().await?;
        *self.channel.lock() = Some((address.to_owned(), channel.clone()));
        Ok(channel)
    }
}

/// gRPC's frame around a message.
const FRAME: usize = 5;

/// A call that can be sent several times.
struct Call {
    parts: Parts,
    message: Bytes,
    left: Option<Instant>,
}

impl Call {
    fn is_forwarded(&self) -> bool {
        self.parts.headers.contains_key(HOP_HEADER)
    }

    async fn send<S>(&self, mut service: S, hop: Option<&str>) -> Result<Response<Body>, String>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
        S::Error: std::fmt::Display,
    {
        let mut request = Request::new(Body::new(Full::new(self.message.clone())));
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.headers_mut() = self.parts.headers.clone();
        *request.extensions_mut() = self.parts.extensions.clone();
        if let Some(until) = self.left {
            let left = until.saturating_duration_since(Instant::now());
            request
                .headers_mut()
                .insert(deadline::HEADER, deadline::value(left));
        }
        if let Some(name) = hop {
            let name = HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("unnamed"));
            request.headers_mut().insert(HOP_HEADER, name);
        }
        std::future::poll_fn(|context| service.poll_ready(context))
            .await
            .map_err(|error| error.to_string())?;
        service.call(request).await.map_err(|error| error.to_string())
    }
}

fn judged(response: Response<Body>, by: &str) -> Tried {
    if response.headers().contains_key(NOT_LEADER_HEADER) {
        return Tried::Again(format!("`{by}` does not lead any more"));
    }
    Tried::Answered(response)
}

/// Calls of which a second one is answered otherwise than the first: the caller must know that it is not known
/// what became of it. All others name a request id or end where they would have ended.
fn sent_once(path: &str) -> bool {
    path.ends_with("/DeletePipeline")
}
