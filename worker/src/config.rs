//! The worker's configuration file.
//!
//! In: the text of a YAML file, and what environment variables hold. Out: a [`WorkerConfig`], or every fault with file,
//! line and key. What it shares with a coordinator's file is in [`settings`]. The library reads no file itself.
//!
//! A documented sample is `deploy/local/worker.yaml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use millrace_pipeline::settings::{
    self, ConfigError, EtcdFile, EtcdSettings, LogFormat, Reader, Source, Telling, Text, TlsFile, TlsPaths,
};
use millrace_pipeline::spec::model::Secret;
use serde::Deserialize;
use serde_saphyr::Spanned;

const TWO_GIB: usize = 2 << 30;
const DRAIN_SECONDS: u64 = 110;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Text,
    listen: Option<Text>,
    advertise: Option<Text>,
    metrics_listen: Option<Text>,
    #[serde(default)]
    coordinators: Vec<Text>,
    etcd: Option<EtcdFile>,
    slots: Option<Spanned<usize>>,
    zone: Option<Text>,
    work_dir: Text,
    work_dir_bytes: Option<u64>,
    memory_bytes: Option<Spanned<usize>>,
    drain_seconds: Option<Spanned<u64>>,
    token: Option<Text>,
    tls: Option<TlsFile>,
    log_format: Option<LogFormat>,
    otlp_endpoint: Option<Text>,
}

/// A worker's settings.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// What people call this worker; unique in the cluster.
    pub name: String,
    /// Where other workers are served: claims of keys, and shuffle data. Default: any port of loopback.
    pub listen: SocketAddr,
    /// How other workers reach `listen`, `host:port`. Default: `listen` itself.
    pub advertise: Option<String>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; none for nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Addresses of coordinators, `host:port`. One of these and `etcd` must be given.
    pub coordinators: Vec<String>,
    /// The cluster's etcd.
    pub etcd: Option<EtcdSettings>,
    /// Tasks at once. Default: the machine's cores.
    pub slots: Option<usize>,
    /// Availability zone, for people and for Kafka's `client.rack`.
    pub zone: String,
    /// Folder on a fast disk; its subfolder `shuffle` is emptied at the start.
    pub work_dir: PathBuf,
    /// Most bytes of shuffle data in it. Default: as many as fit. Over it, tasks are done elsewhere.
    pub work_dir_bytes: Option<u64>,
    /// Memory for rows that wait to be written and for committed keys, in bytes. Default: 2 GiB.
    pub memory_bytes: usize,
    /// How long running tasks may go on after SIGTERM. Default: 110.
    pub drain_seconds: u64,
    /// Bearer token for the coordinators' API.
    pub token: Option<Secret>,
    /// TLS towards coordinators, and of shuffle data; none: in the clear, on loopback.
    pub tls: Option<TlsPaths>,
    /// What it tells of itself.
    pub telling: Telling,
}

impl WorkerConfig {
    /// Tasks at once.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.slots.unwrap_or_else(cores).max(1)
    }
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
) -> Result<WorkerConfig, ConfigError> {
    settings::load(text, Source { file, folder, env }, config)
}

fn config(reader: &mut Reader<'_>, file: &File) -> Option<WorkerConfig> {
    let name = reader.name("name", &file.name);
    let listen = match &file.listen {
        Some(text) => reader.socket("listen", text),
        None => Some(SocketAddr::from(([127, 0, 0, 1], 0))),
    };
    let advertise = advertise(reader, file, listen);
    let metrics_listen = file
        .metrics_listen
        .as_ref()
        .map(|text| reader.socket("metrics_listen", text));
    let coordinators = file
        .coordinators
        .iter()
        .enumerate()
        .filter_map(|(i, text)| reader.address(&format!("coordinators[{i}]"), text))
        .collect();
    let etcd = file.etcd.as_ref().map(|etcd| reader.etcd(etcd));
    if file.coordinators.is_empty() && file.etcd.is_none() {
        let right = "give `coordinators` or `etcd`: without either a worker cannot find a leader";
        reader.fault(file.name.referenced.line(), "coordinators", right);
    }
    let token = file.token.as_ref().map(|text| reader.text("token", text));
    let zone = file.zone.as_ref().map(|text| reader.text("zone", text));
    let work_dir = reader.path("work_dir", &file.work_dir);
    let tls = file.tls.as_ref().map(|tls| reader.tls(tls));
    if let Some(line) = file.tls.as_ref().and_then(TlsFile::client_ca_line) {
        let right = "remove it: shuffle data is for the cluster's own workers, those of `tls.ca`";
        reader.fault(line, "tls.client_ca", right);
    }
    let telling = reader.telling(file.log_format, file.otlp_endpoint.as_ref());
    Some(WorkerConfig {
        name: name?,
        listen: listen?,
        advertise: advertise?,
        metrics_listen: metrics_listen.map_or(Some(None), |listen| listen.map(Some))?,
        coordinators,
        etcd: etcd.map_or(Some(None), |etcd| etcd.map(Some))?,
        slots: at_least(reader, "slots", file.slots.as_ref(), 1),
        zone: zone.flatten().unwrap_or_default(),
        work_dir: work_dir?,
        work_dir_bytes: file.work_dir_bytes,
        memory_bytes: at_least(reader, "memory_bytes", file.memory_bytes.as_ref(), 64 << 20)
            .unwrap_or(TWO_GIB),
        drain_seconds: file
            .drain_seconds
            .as_ref()
            .map_or(DRAIN_SECONDS, |given| given.value),
        token: token.flatten().map(Secret::new),
        tls: tls.map_or(Some(None), |tls| tls.map(Some))?,
        telling,
    })
}

/// How other workers are told to reach this one; the inner none: as it listens.
fn advertise(reader: &mut Reader<'_>, file: &File, listen: Option<SocketAddr>) -> Option<Option<String>> {
    match (&file.advertise, &file.listen) {
        (Some(told), _) => reader.address("advertise", told).map(Some),
        (None, Some(text)) if listen.is_some_and(|listen| listen.ip().is_unspecified()) => {
            // Its fault is noted there.
            reader
                .reached("advertise", None, listen, text.referenced.line())
                .map(Some)
        }
        (None, _) => Some(None),
    }
}

fn at_least(
    reader: &mut Reader<'_>,
    key: &str,
    given: Option<&Spanned<usize>>,
    least: usize,
) -> Option<usize> {
    let given = given?;
    if given.value < least {
        reader.fault(given.referenced.line(), key, format!("{least} at least"));
    }
    Some(given.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../deploy/local/worker.yaml");

    fn of(text: &str) -> Result<WorkerConfig, ConfigError> {
        let env = |name: &str| (name == "MILLRACE_WORKER_TOKEN").then(|| "hidden-word".to_owned());
        load(text, "w.yaml", Path::new("/etc/millrace"), &env)
    }

    #[test]
    fn the_documented_sample_is_sound_also_with_everything_in_it() {
        let config = of(SAMPLE).unwrap();
        assert_eq!(
            (config.drain_seconds, config.memory_bytes),
            (DRAIN_SECONDS, TWO_GIB)
        );
        // What is commented out with `#~` is sound too.
        let whole = SAMPLE.replace("#~ ", "").replace("#~", "");
        let config = of(&whole).unwrap();
        assert_eq!(config.token.as_ref().unwrap().reveal(), "hidden-word");
        assert_eq!(
            config.tls.as_ref().unwrap().ca,
            Path::new("/etc/millrace/tls/ca.pem")
        );
        assert_eq!(config.telling.log_format, Some(LogFormat::Json));
        assert!(!format!("{config:?}").contains("hidden-word"));
    }

    #[test]
    fn every_fault_is_named_with_its_line_and_key() {
        let text = "name: w 1\nlisten: 0.0.0.0:7500\nwork_dir: '${env:GONE}'\nslots: 0\nmemory_bytes: 1\n\
            otlp_endpoint: here\n";
        let error = of(text).unwrap_err();
        let places: Vec<_> = error
            .faults
            .iter()
            .map(|fault| (fault.line, fault.key.as_str()))
            .collect();
        assert_eq!(
            places,
            [
                (1, "name"),
                (2, "advertise"),
                (1, "coordinators"),
                (3, "work_dir"),
                (6, "otlp_endpoint"),
            ],
            "{error}"
        );
        let small = of("name: w\ncoordinators: ['127.0.0.1:7400']\nwork_dir: w\nslots: 0\nmemory_bytes: 1\n");
        assert_eq!(small.unwrap_err().faults.len(), 2);
    }
}
