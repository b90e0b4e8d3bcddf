//! `/metrics` (OpenMetrics), `/healthz` and `/readyz` of a process.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
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

/// What the kernel knows of this process, and which release it is.
#[derive(Debug)]
struct Process;

/// The kernel's clock of processes: a tick is a hundredth of a second on every Linux.
const TICKS_A_SECOND: f64 = 100.0;
const PAGE_BYTES: i64 = 4096;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let memory = ConstGauge::new(resident_bytes().unwrap_or(0));
        let help = "Memory of this process.";
        let unit = Some(&Unit::Bytes);
        memory.encode(encoder.encode_descriptor(
            "process_resident_memory",
            help,
            unit,
            memory.metric_type(),
        )?)?;
        let time = ConstCounter::new(cpu_seconds().unwrap_or(0.0));
        let help = "Processor time of this process, user and system.";
        let unit = Some(&Unit::Seconds);
        time.encode(encoder.encode_descriptor("process_cpu", help, unit, time.metric_type())?)?;
        let one = ConstGauge::new(1_i64);
        let help = "1; the label says which release this is.";
        let mut builds = encoder.encode_descriptor("millrace_build_info", help, None, one.metric_type())?;
        one.encode(builds.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)
    }
}

fn resident_bytes() -> Option<i64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let resident: i64 = pages.split_whitespace().nth(1)?.parse().ok()?;
    Some(resident.saturating_mul(PAGE_BYTES))
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name before it may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_A_SECOND)
}

#[cfg(test)]
#[path = "scrape_tests.rs"]
mod tests;
