//! A collector of traces: takes what processes send by OpenTelemetry's protocol, read by field numbers of its own.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::codegen::{Context, Poll, Service};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    processes: Vec<Process>,
}

#[derive(Clone, PartialEq, Message)]
struct Process {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scope>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Sent>,
}

#[derive(Clone, PartialEq, Message)]
struct Sent {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct Taken {}

/// A span that came.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    /// `service.instance.id` of who sent it.
    pub(crate) process: String,
    pub(crate) name: String,
    pub(crate) trace: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) parent: Vec<u8>,
    pub(crate) nanos: u64,
    attributes: Vec<Attribute>,
}

impl Span {
    /// An attribute that is a text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        text(&self.attributes, key)
    }
}

fn text<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(found.value.as_ref()?.text.as_str())
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Span>>>);

impl NamedService for Spans {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<HttpRequest<Body>> for Spans {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let spans = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Taken, Export>::default());
            Ok(grpc.unary(spans, request).await)
        })
    }
}

impl UnaryService<Export> for Spans {
    type Response = Taken;
    type Future = BoxFuture<'static, Result<Response<Taken>, Status>>;

    fn call(&mut self, request: Request<Export>) -> Self::Future {
        let mut all = self.0.lock().unwrap();
        for process in request.into_inner().processes {
            let resource = process.resource.unwrap_or_default();
            let name = text(&resource.attributes, "service.instance.id").unwrap_or_default();
            let sent = process.scopes.into_iter().flat_map(|scope| scope.spans);
            all.extend(sent.map(|span| Span {
                process: name.to_owned(),
                name: span.name,
                trace: span.trace,
                id: span.id,
                parent: span.parent,
                nanos: span.end - span.start,
                attributes: span.attributes,
            }));
        }
        Box::pin(async { Ok(Response::new(Taken {})) })
    }
}

/// Collects until it is dropped.
pub(crate) struct Collector {
    spans: Spans,
    pub(crate) endpoint: String,
    _runtime: Runtime,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let spans = Spans::default();
        let service = spans.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            spans,
            endpoint,
            _runtime: runtime,
        }
    }

    /// Every span that came so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.spans.0.lock().unwrap().clone()
    }
}
