//! `/metrics` (OpenMetrics), `/healthz` and `/readyz` of a process.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;

/// Serves a registry until the process ends. `ready` says whether the process can do its work.
pub(crate) async fn serve(
    listen: SocketAddr,
    mut registry: Registry,
    ready: impl Fn() -> bool + Clone + Send + Sync + 'static,
) -> Result<SocketAddr> {
    registry.register_collector(Box::new(Process));
    let registry = Arc::new(registry);
    let metrics = move || {
        let registry = Arc::clone(&registry);
        async move {
            let mut text = String::new();
            match encode(&mut text, &registry) {
                Ok(()) => Ok((
                    [(
                        header::CONTENT_TYPE,
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    )],
                    text,
                )),
                Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
            }
        }
    };
    let readiness = move || {
        let ready = ready();
        async move {
            if ready {
                (StatusCode::OK, "ready\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
            }
        }
    };
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readiness));
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("metrics cannot be served at {listen}"))?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "metrics are no longer served");
        }
    });
    tracing::info!(%address, "metrics are served");
    Ok(address)
}

/// Memory of this process, from the kernel.
#[derive(Debug)]
struct Process;

impl prometheus_client::collector::Collector for Process {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        use prometheus_client::encoding::EncodeMetric;
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let resident: i64 = pages
            .split_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .unwrap_or(0);
        let memory = ConstGauge::new(resident.saturating_mul(4096));
        let encoder = encoder.encode_descriptor(
            "process_resident_memory",
            "Memory of this process.",
            Some(&Unit::Bytes),
            memory.metric_type(),
        )?;
        memory.encode(encoder)
    }
}
