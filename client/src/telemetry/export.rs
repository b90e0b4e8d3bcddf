//! Sends closed spans to a collector: OTLP over gRPC, from a thread of its own.
//!
//! In: spans, as they close. Out: requests of many, every second. A collector that is slow or gone costs its spans and
//! nothing else: the queue is bounded, a call has a deadline, and what fails is told once.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use super::wire::{self, METHOD, Value, attribute};

/// Spans that wait to be sent.
const QUEUE: usize = 8192;
/// Spans of one request.
const AT_ONCE: usize = 512;
/// Between requests, unless there are many.
const EVERY: Duration = Duration::from_secs(1);
const CALL: Duration = Duration::from_secs(5);
/// How long the end of the process waits for what is left.
const LAST: Duration = Duration::from_secs(2);

/// Who sends, and where to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target {
    /// `http://host:4317`.
    pub(crate) endpoint: String,
    /// PEM of who vouches for an `https` endpoint.
    pub(crate) ca: Option<Vec<u8>>,
    /// `key=value`, separated by commas: what the collector asks callers for.
    pub(crate) headers: String,
    /// `millrace-worker`, ...
    pub(crate) service: String,
    /// Which of them.
    pub(crate) instance: String,
}

/// Sends until it is dropped; then what is left, within [`LAST`].
pub(crate) struct Exporter {
    /// Dropping it tells the thread to end.
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    ended: Receiver<()>,
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.stop.take());
        match self.ended.recv_timeout(LAST) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => tracing::debug!("the last spans were not sent"),
        }
    }
}

/// Begins to send; gives where closed spans are put.
pub(super) fn start(target: Target) -> Result<(Exporter, mpsc::Sender<wire::Span>)> {
    let wrong = || format!("traces cannot be sent to `{}`", target.endpoint);
    let mut endpoint = Endpoint::from_shared(target.endpoint.clone())
        .with_context(wrong)?
        .connect_timeout(CALL)
        .timeout(CALL);
    if target.endpoint.starts_with("https:") {
        let ca = target
            .ca
            .as_ref()
            .context("OTEL_EXPORTER_OTLP_CERTIFICATE must name who vouches for the collector")
            .with_context(wrong)?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        endpoint = endpoint.tls_config(tls).with_context(wrong)?;
    }
    let metadata = headers(&target.headers).with_context(wrong)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (sender, spans) = mpsc::channel(QUEUE);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (end, ended) = sync_channel(1);
    std::thread::Builder::new()
        .name("traces".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let channel = endpoint.connect_lazy();
                let sending = Sending {
                    client: tonic::client::Grpc::new(channel),
                    metadata,
                    target,
                    is_down: false,
                };
                sending.run(spans, stopped).await;
            });
            // Whoever waited may be gone.
            let _ = end.send(());
        })?;
    let stop = Some(stop);
    Ok((Exporter { stop, ended }, sender))
}

/// `key=value,key=value`, as `OTEL_EXPORTER_OTLP_HEADERS` has it.
fn headers(text: &str) -> Result<MetadataMap> {
    let mut map = tonic::codegen::http::HeaderMap::new();
    for header in text.split(',').map(str::trim).filter(|header| !header.is_empty()) {
        let (key, value) = header
            .split_once('=')
            .context("a header is `key=value`; OTEL_EXPORTER_OTLP_HEADERS has one without `=`")?;
        let key: tonic::codegen::http::HeaderName = key.trim().parse()?;
        // The value is a secret: it stands in no error.
        let value = value.trim().parse().ok().context("a header's value is none")?;
        map.insert(key, value);
    }
    Ok(MetadataMap::from_headers(map))
}

struct Sending {
    client: tonic::client::Grpc<Channel>,
    metadata: MetadataMap,
    target: Target,
    is_down: bool,
}

impl Sending {
    async fn run(
        mut self,
        mut spans: mpsc::Receiver<wire::Span>,
        mut stopped: tokio::sync::oneshot::Receiver<()>,
    ) {
        loop {
            let mut waiting = Vec::with_capacity(AT_ONCE);
            let is_over = tokio::select! {
                received = spans.recv_many(&mut waiting, AT_ONCE) => received == 0,
                _ = &mut stopped => true,
            };
            if !is_over {
                // A moment for others to come along.
                let more = async {
                    while waiting.len() < AT_ONCE && spans.recv_many(&mut waiting, AT_ONCE).await > 0 {}
                };
                let is_told = tokio::select! {
                    _ = tokio::time::timeout(EVERY, more) => false,
                    _ = &mut stopped => true,
                };
                self.send(waiting).await;
                if !is_told {
                    continue;
                }
                waiting = Vec::new();
            }
            while let Ok(span) = spans.try_recv() {
                waiting.push(span);
            }
            if !waiting.is_empty() {
                self.send(waiting).await;
            }
            return;
        }
    }

    async fn send(&mut self, spans: Vec<wire::Span>) {
        let number = spans.len();
        match self.call(spans).await {
            Ok(()) if self.is_down => {
                self.is_down = false;
                tracing::info!(endpoint = self.target.endpoint, "spans are sent again");
            }
            Ok(()) => {}
            Err(error) if !self.is_down => {
                self.is_down = true;
                let (endpoint, code) = (&self.target.endpoint, error.code());
                tracing::warn!(endpoint, %code, number, "spans are lost: the collector does not take them");
            }
            Err(error) => tracing::debug!(%error, number, "spans are lost"),
        }
    }

    async fn call(&mut self, spans: Vec<wire::Span>) -> Result<(), Status> {
        let mut request = Request::new(request(&self.target, spans));
        *request.metadata_mut() = self.metadata.clone();
        let ready = self.client.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = tonic_prost::ProstCodec::<wire::ExportRequest, wire::ExportResponse>::default();
        let path = PathAndQuery::from_static(METHOD);
        self.client.unary(request, path, codec).await?;
        Ok(())
    }
}

fn request(target: &Target, spans: Vec<wire::Span>) -> wire::ExportRequest {
    let text = |text: &str| Value::Text(text.to_owned());
    let version = env!("CARGO_PKG_VERSION");
    let mut attributes = vec![
        attribute("service.name", text(&target.service)),
        attribute("service.version", text(version)),
    ];
    if !target.instance.is_empty() {
        attributes.push(attribute("service.instance.id", text(&target.instance)));
    }
    let scope = wire::Scope {
        name: "millrace".to_owned(),
        version: version.to_owned(),
    };
    wire::ExportRequest {
        resource_spans: vec![wire::ResourceSpans {
            resource: Some(wire::Resource { attributes }),
            scope_spans: vec![wire::ScopeSpans {
                scope: Some(scope),
                spans,
            }],
        }],
    }
}
