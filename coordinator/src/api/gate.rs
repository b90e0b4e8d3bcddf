//! What every call passes before a service sees it: deadline, token, rate, and the way to the leader.
//!
//! Health checks pass freely: load balancers have no token.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tower::Layer;

use super::access::Access;
use super::deadline;
use super::errors::{Reason, retry_after, status};
use super::forward::Forward;
use super::rate::Rates;

/// What the gate knows.
pub(crate) struct Gate {
    pub(crate) access: Access,
    pub(crate) rates: Mutex<Rates>,
    pub(crate) forward: Forward,
}

/// Puts the gate before a service.
#[derive(Clone)]
pub(crate) struct GateLayer(pub(crate) Arc<Gate>);

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        let gate = Arc::clone(&self.0);
        Gated { gate, inner }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub(crate) struct Gated<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (gate, inner) = (Arc::clone(&self.gate), self.inner.clone());
        Box::pin(async move {
            let response = gate.pass(request, inner).await;
            Ok(response.unwrap_or_else(|status| status.into_http()))
        })
    }
}

impl Gate {
    async fn pass<S>(&self, mut request: Request<Body>, mut inner: S) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync,
        S::Future: Send,
    {
        let path = request.uri().path().to_owned();
        if !path.starts_with("/grpc.health.") {
            let caller = self.access.check(&path, request.headers())?;
            if let Err(wait) = self.rates.lock().take(&caller.name, Instant::now()) {
                let text = format!("`{}` calls too often", caller.name);
                return Err(retry_after(Reason::RateLimited, text, wait));
            }
            request.extensions_mut().insert(caller);
        }
        let given = deadline::of(request.headers());
        let answer = async {
            if path.starts_with("/millrace.") {
                self.forward.answer(request, &inner).await
            } else {
                match inner.call(request).await {
                    Ok(response) => Ok(response),
                    Err(never) => match never {},
                }
            }
        };
        match given {
            None => answer.await,
            Some(given) => tokio::time::timeout(given, answer).await.unwrap_or_else(|_| {
                let text = format!(
                    "not answered within the {} ms that the caller gave",
                    given.as_millis()
                );
                Err(status(Reason::DeadlineExceeded, text, &[]))
            }),
        }
    }
}
