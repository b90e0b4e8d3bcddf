//! The way to the leader: a coordinator that does not lead passes every call on, and callers never notice.
//!
//! In: a call, its message still encoded. Out: the answer of whoever leads, streams included.
//!
//! | the call is…                                   | then                                              |
//! |-------------------------------------------------|---------------------------------------------------|
//! | here, and we lead                               | answered here                                     |
//! | here, another leads                             | passed on, with the caller's token and what is left of the deadline |
//! | here, nobody leads, or the leader is just gone  | kept until one is known; after the deadline `UNAVAILABLE` |
//! | passed on, and another leads before it is answered | passed on to that one                           |
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
        let error = tokio::select! {
            sent = call.send(channel, Some(&self.name)) => match sent {
                Ok(response) => return Ok(judged(response, &leader.name)),
                Err(error) => error,
            },
            () = self.is_replaced(&leader) => "it was replaced before it answered".to_owned(),
        };
        self.channel.lock().take();
        let text = format!("the leader `{}`: {error}", leader.name);
        if sent_once(call.parts.uri.path()) {
            return Err(retry_after(Reason::NoLeader, text, PAUSE));
        }
        Ok(Tried::Again(text))
    }

    /// Waits until another leads than the one given, or the same one in another epoch: a frozen one answers nobody.
    async fn is_replaced(&self, given: &LeaderInfo) {
        let mut leader = self.leader.clone();
        let another = |now: &Option<LeaderInfo>| now.as_ref().is_some_and(|now| now.epoch != given.epoch);
        if leader.wait_for(another).await.is_err() {
            // Nobody looks any more: the process ends.
            std::future::pending::<()>().await;
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::task::{Context, Poll};

    use tokio::net::TcpListener;

    use super::*;

    /// The services of a coordinator that is asked nothing.
    #[derive(Clone)]
    struct Nothing;

    impl Service<Request<Body>> for Nothing {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            ready(Ok(Response::new(Body::empty())))
        }
    }

    fn leader(name: &str, address: &str, epoch: u64) -> LeaderInfo {
        LeaderInfo {
            name: name.to_owned(),
            address: address.to_owned(),
            scheduler_address: address.to_owned(),
            epoch,
        }
    }

    #[tokio::test]
    async fn a_call_does_not_wait_for_a_leader_that_was_replaced() {
        // Takes connections, as the kernel does for a frozen process, and never answers.
        let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = frozen.local_addr().unwrap().to_string();
        let (elected, known) = watch::channel(Some(leader("one", &address, 1)));
        let forward = Forward {
            name: "three".to_owned(),
            leader: known,
            leads: Arc::new(|| false),
            tls: None,
            channel: Mutex::default(),
            message_bytes: 1024,
        };
        // One that is not sent a second time: its caller is told why.
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/millrace.v1.PipelineService/DeletePipeline".parse().unwrap();
        let asked = forward.answer(request, &Nothing);
        let replaced = async {
            let connection = frozen.accept().await.unwrap();
            elected.send(Some(leader("two", &address, 2))).unwrap();
            connection
        };
        let (told, _connection) = tokio::join!(asked, replaced);
        let told = told.unwrap_err();
        assert!(
            told.message().contains("replaced before it answered"),
            "{}",
            told.message()
        );
    }
}
