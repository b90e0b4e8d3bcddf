//! The coordinator's configuration file.
//!
//! In: the text of a YAML file, and what environment variables hold. Out: a [`CoordinatorConfig`], or every fault with
//! file, line and key. What it shares with a worker's file is in [`settings`]. The library reads no file itself:
//! certificates come in through a function.
//!
//! A documented sample is `deploy/local/coordinator.yaml`.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use millrace_pipeline::settings::{
    self, ConfigError, EtcdFile, EtcdSettings, LogFormat, ReadFile, Reader, Source, Telling, Text, TlsFile,
    TlsPaths,
};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::api::{ApiConfig, Rate, Role, Token};
use crate::handoff::SERVICE_LEVEL;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Text,
    listen: Text,
    advertise: Option<Text>,
    scheduler_listen: Text,
    scheduler_advertise: Option<Text>,
    metrics_listen: Option<Text>,
    etcd: EtcdFile,
    lease_seconds: Option<Spanned<u64>>,
    batch_mib: Option<Spanned<u64>>,
    service_level_seconds: Option<Spanned<u64>>,
    tls: Option<TlsFile>,
    #[serde(default)]
    tokens: Vec<TokenFile>,
    limits: Option<LimitsFile>,
    environment: Option<Text>,
    log_format: Option<LogFormat>,
    otlp_endpoint: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    name: Text,
    role: Role,
    blake3: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsFile {
    message_bytes: Option<Spanned<usize>>,
    calls_per_second: Option<Spanned<f64>>,
    burst: Option<Spanned<f64>>,
}

/// What a coordinator is told.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// What people call it; unique in the cluster.
    pub name: String,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// How others reach the API, `host:port`.
    pub advertise: String,
    /// Where the scheduler listens, for workers.
    pub scheduler_listen: SocketAddr,
    /// How workers reach the scheduler, `host:port`.
    pub scheduler_advertise: String,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; none: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// The registry's and the ledger's store.
    pub etcd: EtcdSettings,
    /// How long a dead leader blocks the next one.
    pub lease: Duration,
    /// Unpacked input that is committed at once, in bytes.
    pub batch_bytes: u64,
    /// How long a committed batch may wait for the warehouse before it is alarmed.
    pub service_level: Duration,
    /// TLS of the API and of the scheduler; none: in the clear, on loopback.
    pub tls: Option<TlsPaths>,
    /// Who may call; empty: everybody on loopback.
    pub tokens: Vec<Token>,
    /// Largest message of the API, in bytes.
    pub message_bytes: usize,
    /// Calls of one caller.
    pub rate: Rate,
    /// Environment of jobs that name none; none: masked.
    pub environment: Option<String>,
    /// What it tells of itself.
    pub telling: Telling,
}

/// Reads a configuration. `folder` is the file's: relative paths in it start there.
///
/// # Errors
/// Every fault; where the text is no YAML or a key is unknown, that is the only one.
pub fn load(
    text: &str,
    file: &str,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<CoordinatorConfig, ConfigError> {
    settings::load(text, Source { file, folder, env }, config)
}

fn config(reader: &mut Reader<'_>, file: &File) -> Option<CoordinatorConfig> {
    let name = reader.name("name", &file.name);
    let listen = reader.socket("listen", &file.listen);
    let scheduler_listen = reader.socket("scheduler_listen", &file.scheduler_listen);
    let metrics_listen = file
        .metrics_listen
        .as_ref()
        .map(|text| reader.socket("metrics_listen", text));
    let line = file.listen.referenced.line();
    let advertise = reader.reached("advertise", file.advertise.as_ref(), listen, line);
    let scheduler_advertise = reader.reached(
        "scheduler_advertise",
        file.scheduler_advertise.as_ref(),
        scheduler_listen,
        file.scheduler_listen.referenced.line(),
    );
    let etcd = reader.etcd(&file.etcd);
    let tls = file.tls.as_ref().map(|tls| reader.tls(tls));
    let tokens = tokens(reader, &file.tokens);
    let limits = limits(reader, file.limits.as_ref());
    let lease_seconds = file.lease_seconds.as_ref().map_or(3, |lease| {
        if !(2..=60).contains(&lease.value) {
            reader.fault(lease.referenced.line(), "lease_seconds", "2 to 60 seconds");
        }
        lease.value
    });
    let batch_mib = file.batch_mib.as_ref().map_or(512, |batch| {
        if !(1..=65_536).contains(&batch.value) {
            reader.fault(batch.referenced.line(), "batch_mib", "1 to 65536 MiB");
        }
        batch.value
    });
    let service_level = file
        .service_level_seconds
        .as_ref()
        .map_or(SERVICE_LEVEL, |level| {
            if !(1..=86_400).contains(&level.value) {
                let line = level.referenced.line();
                reader.fault(line, "service_level_seconds", "1 to 86400 seconds, a day");
            }
            Duration::from_secs(level.value)
        });
    let environment = file
        .environment
        .as_ref()
        .map(|text| reader.name("environment", text));
    let telling = reader.telling(file.log_format, file.otlp_endpoint.as_ref());
    Some(CoordinatorConfig {
        name: name?,
        listen: listen?,
        advertise: advertise?,
        scheduler_listen: scheduler_listen?,
        scheduler_advertise: scheduler_advertise?,
        metrics_listen: metrics_listen.map_or(Some(None), |listen| listen.map(Some))?,
        etcd: etcd?,
        lease: Duration::from_secs(lease_seconds),
        batch_bytes: batch_mib << 20,
        service_level,
        tls: tls.map_or(Some(None), |tls| tls.map(Some))?,
        tokens,
        message_bytes: limits.0,
        rate: limits.1,
        environment: environment.flatten(),
        telling,
    })
}

fn tokens(reader: &mut Reader<'_>, files: &[TokenFile]) -> Vec<Token> {
    let mut names = BTreeSet::new();
    let mut tokens = Vec::new();
    for (i, file) in files.iter().enumerate() {
        let name = reader.text(&format!("tokens[{i}].name"), &file.name);
        let hash = reader.text(&format!("tokens[{i}].blake3"), &file.blake3);
        if let Some(name) = &name
            && !names.insert(name.clone())
        {
            let line = file.name.referenced.line();
            reader.fault(
                line,
                &format!("tokens[{i}].name"),
                format!("`{name}` has a token already"),
            );
        }
        let hash = hash.and_then(|hash| {
            let parsed = blake3::Hash::from_hex(&hash).ok();
            if parsed.is_none() {
                let right = "not a hash; use the 64 hex digits of `printf %s TOKEN | b3sum`";
                reader.fault(
                    file.blake3.referenced.line(),
                    &format!("tokens[{i}].blake3"),
                    right,
                );
            }
            parsed
        });
        if let (Some(name), Some(hash)) = (name, hash) {
            let role = file.role;
            tokens.push(Token { name, role, hash });
        }
    }
    tokens
}

fn limits(reader: &mut Reader<'_>, limits: Option<&LimitsFile>) -> (usize, Rate) {
    let defaults = ApiConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let (mut message_bytes, mut rate) = (defaults.message_bytes, defaults.rate);
    let Some(limits) = limits else {
        return (message_bytes, rate);
    };
    if let Some(given) = &limits.message_bytes {
        if !(64 << 10..=256 << 20).contains(&given.value) {
            reader.fault(
                given.referenced.line(),
                "limits.message_bytes",
                "64 KiB to 256 MiB, in bytes",
            );
        }
        message_bytes = given.value;
    }
    for (key, given, into) in [
        (
            "limits.calls_per_second",
            &limits.calls_per_second,
            &mut rate.per_second,
        ),
        ("limits.burst", &limits.burst, &mut rate.burst),
    ] {
        let Some(given) = given else { continue };
        if !(given.value >= 1.0 && given.value.is_finite()) {
            reader.fault(given.referenced.line(), key, "a number from 1 on");
        }
        *into = given.value;
    }
    (message_bytes, rate)
}

impl CoordinatorConfig {
    /// What the API is served with; `read` gives a file's bytes, it is asked for the certificates.
    ///
    /// # Errors
    /// When one cannot be read; the error names it.
    pub fn api(&self, read: ReadFile<'_>) -> io::Result<ApiConfig> {
        Ok(ApiConfig {
            listen: self.listen,
            tls: self.tls.as_ref().map(|tls| tls.load(read)).transpose()?,
            tokens: self.tokens.clone(),
            message_bytes: self.message_bytes,
            rate: self.rate,
        })
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
