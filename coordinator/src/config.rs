//! The coordinator's configuration file.
//!
//! In: the text of a YAML file, and what environment variables hold. Out: a [`CoordinatorConfig`], or every fault with
//! file, line and key. `${env:NAME}` stands in any text: secrets stay out of the file. The library reads no file
//! itself: certificates come in through a function.
//!
//! A documented sample is `deploy/local/coordinator.yaml`.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::api::{ApiConfig, Rate, Role, Tls, Token};

/// Every fault of a configuration file.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// What is wrong in it; never empty.
    pub faults: Vec<ConfigFault>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// Line, from 1; 0 where the file as a whole is meant.
    pub line: u64,
    /// The key: `etcd.endpoints`. Empty where the parser names it in its text.
    pub key: String,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, ConfigFault { line, key, text }) in self.faults.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            let key = if key.is_empty() {
                String::new()
            } else {
                format!(" {key}:")
            };
            write!(f, "{end}{}:{line}:{key} {text}", self.file)?;
        }
        Ok(())
    }
}

type Text = Spanned<String>;

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
    tls: Option<TlsFile>,
    #[serde(default)]
    tokens: Vec<TokenFile>,
    limits: Option<LimitsFile>,
    environment: Option<Text>,
    local_disk: Option<DiskFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EtcdFile {
    endpoints: Spanned<Vec<Text>>,
    prefix: Option<Text>,
    user: Option<Text>,
    password: Option<Text>,
    tls: Option<EtcdTlsFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EtcdTlsFile {
    ca: Text,
    certificate: Option<Text>,
    key: Option<Text>,
    domain: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsFile {
    certificate: Text,
    key: Text,
    ca: Text,
    client_ca: Option<Text>,
    domain: Option<Text>,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskFile {
    path: Text,
    bytes_max: Option<Spanned<u64>>,
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
    pub etcd: EtcdConfig,
    /// How long a dead leader blocks the next one.
    pub lease: Duration,
    /// Unpacked input that is committed at once, in bytes.
    pub batch_bytes: u64,
    /// TLS of the API; none: in the clear, on loopback.
    pub tls: Option<TlsPaths>,
    /// Who may call; empty: everybody on loopback.
    pub tokens: Vec<Token>,
    /// Largest message of the API, in bytes.
    pub message_bytes: usize,
    /// Calls of one caller.
    pub rate: Rate,
    /// Environment of jobs that name none; none: masked.
    pub environment: Option<String>,
    /// Where the coordinator may keep files of its own, and how much of them.
    pub local_disk: Option<LocalDisk>,
}

/// How etcd is reached.
#[derive(Clone)]
pub struct EtcdConfig {
    /// `http://host:port` of each member.
    pub endpoints: Vec<String>,
    /// Below which everything is kept.
    pub prefix: String,
    /// User and password.
    pub login: Option<(String, String)>,
    /// TLS.
    pub tls: Option<EtcdTlsPaths>,
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.login.as_ref().map(|(user, _)| user);
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &user)
            .field("tls", &self.tls)
            .finish()
    }
}

impl EtcdConfig {
    /// How etcd is connected to; `read` gives a file's bytes.
    ///
    /// # Errors
    /// When a certificate cannot be read; the error names it.
    pub fn options(&self, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> io::Result<ConnectOptions> {
        let mut options = ConnectOptions::new();
        if let Some((user, password)) = &self.login {
            options = options.with_user(user, password);
        }
        let Some(tls) = &self.tls else { return Ok(options) };
        let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(pem(read, &tls.ca)?));
        if let Some((certificate, key)) = &tls.identity {
            config = config.identity(Identity::from_pem(pem(read, certificate)?, pem(read, key)?));
        }
        if let Some(domain) = &tls.domain {
            config = config.domain_name(domain);
        }
        Ok(options.with_tls(config))
    }
}

/// A certificate's or key's bytes.
fn pem(read: &dyn Fn(&Path) -> io::Result<Vec<u8>>, path: &Path) -> io::Result<Vec<u8>> {
    read(path).map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display())))
}

/// PEM files for etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTlsPaths {
    /// Who vouches for etcd.
    pub ca: PathBuf,
    /// Our own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in etcd's certificate, where it is not its address.
    pub domain: Option<String>,
}

/// PEM files of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// The certificate with its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who vouches for the coordinators.
    pub ca: PathBuf,
    /// Who vouches for callers: they must show a certificate then.
    pub client_ca: Option<PathBuf>,
    /// The name in the coordinators' certificates, where it is not their address.
    pub domain: Option<String>,
}

/// Disk of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalDisk {
    /// The folder.
    pub path: PathBuf,
    /// At most so many bytes.
    pub bytes_max: u64,
}

/// What reading collects.
struct Reader<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    folder: &'a Path,
    faults: Vec<ConfigFault>,
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
    let error = |faults| ConfigError {
        file: file.to_owned(),
        faults,
    };
    let read: File = serde_saphyr::from_str(text).map_err(|wrong| {
        let line = wrong.location().map_or(0, |at| at.line());
        let text = wrong.without_snippet().to_string();
        error(vec![ConfigFault {
            line,
            key: String::new(),
            text,
        }])
    })?;
    let mut reader = Reader {
        env,
        folder,
        faults: Vec::new(),
    };
    let config = reader.config(&read);
    match config {
        Some(config) if reader.faults.is_empty() => Ok(config),
        Some(_) | None => Err(error(reader.faults)),
    }
}

impl Reader<'_> {
    fn config(&mut self, file: &File) -> Option<CoordinatorConfig> {
        let name = self.name("name", &file.name);
        let listen = self.socket("listen", &file.listen);
        let scheduler_listen = self.socket("scheduler_listen", &file.scheduler_listen);
        let metrics_listen = file
            .metrics_listen
            .as_ref()
            .map(|text| self.socket("metrics_listen", text));
        let advertise = self.reached("advertise", file.advertise.as_ref(), listen, &file.listen);
        let scheduler_advertise = self.reached(
            "scheduler_advertise",
            file.scheduler_advertise.as_ref(),
            scheduler_listen,
            &file.scheduler_listen,
        );
        let etcd = self.etcd(&file.etcd);
        let tls = file.tls.as_ref().map(|tls| self.tls(tls));
        let tokens = self.tokens(&file.tokens);
        let limits = self.limits(file.limits.as_ref());
        let lease_seconds = file.lease_seconds.as_ref().map_or(3, |lease| {
            if !(2..=60).contains(&lease.value) {
                self.fault(lease.referenced.line(), "lease_seconds", "2 to 60 seconds");
            }
            lease.value
        });
        let batch_mib = file.batch_mib.as_ref().map_or(512, |batch| {
            if !(1..=65_536).contains(&batch.value) {
                self.fault(batch.referenced.line(), "batch_mib", "1 to 65536 MiB");
            }
            batch.value
        });
        let environment = file
            .environment
            .as_ref()
            .map(|text| self.text("environment", text));
        let local_disk = file.local_disk.as_ref().map(|disk| self.disk(disk));
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
            tls: tls.map_or(Some(None), |tls| tls.map(Some))?,
            tokens,
            message_bytes: limits.0,
            rate: limits.1,
            environment: environment.flatten(),
            local_disk: local_disk.map_or(Some(None), |disk| disk.map(Some))?,
        })
    }

    fn fault(&mut self, line: u64, key: &str, text: impl Into<String>) {
        self.faults.push(ConfigFault {
            line,
            key: key.to_owned(),
            text: text.into(),
        });
    }

    /// A text with `${env:NAME}` filled in.
    fn text(&mut self, key: &str, text: &Text) -> Option<String> {
        let line = text.referenced.line();
        let (mut rest, mut whole) = (text.value.as_str(), String::new());
        while let Some((before, after)) = rest.split_once("${env:") {
            whole.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                self.fault(line, key, "`${env:` without its `}`");
                return None;
            };
            let Some(value) = (self.env)(name) else {
                self.fault(line, key, format!("the environment variable `{name}` is not set"));
                return None;
            };
            whole.push_str(&value);
            rest = after;
        }
        whole.push_str(rest);
        if whole.is_empty() {
            self.fault(line, key, "empty");
            return None;
        }
        Some(whole)
    }

    fn name(&mut self, key: &str, text: &Text) -> Option<String> {
        let name = self.text(key, text)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.len() > 63 || !name.bytes().all(plain) {
            self.fault(
                text.referenced.line(),
                key,
                format!("`{name}`: use 1 to 63 letters, digits, `-`, `_`, `.`"),
            );
            return None;
        }
        Some(name)
    }

    fn socket(&mut self, key: &str, text: &Text) -> Option<SocketAddr> {
        let given = self.text(key, text)?;
        let parsed = given.parse().ok();
        if parsed.is_none() {
            let right =
                format!("`{given}` is no address to listen on; use `127.0.0.1:7400` or `0.0.0.0:7400`");
            self.fault(text.referenced.line(), key, right);
        }
        parsed
    }

    /// How others reach an address: as told, or as it listens.
    fn reached(
        &mut self,
        key: &str,
        told: Option<&Text>,
        listen: Option<SocketAddr>,
        beside: &Text,
    ) -> Option<String> {
        if let Some(told) = told {
            let given = self.text(key, told)?;
            let port = given.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
                self.fault(
                    told.referenced.line(),
                    key,
                    format!("`{given}` is not `host:port`"),
                );
                return None;
            }
            return Some(given);
        }
        let listen = listen?;
        if listen.ip().is_unspecified() {
            let text = format!("missing: others cannot reach {listen}; say `host:port`");
            self.fault(beside.referenced.line(), key, text);
            return None;
        }
        Some(listen.to_string())
    }

    fn path(&mut self, key: &str, text: &Text) -> Option<PathBuf> {
        Some(self.folder.join(self.text(key, text)?))
    }

    fn etcd(&mut self, etcd: &EtcdFile) -> Option<EtcdConfig> {
        if etcd.endpoints.value.is_empty() {
            let right = "empty; give `http://host:port` of each member";
            self.fault(etcd.endpoints.referenced.line(), "etcd.endpoints", right);
        }
        let endpoints: Vec<String> = etcd
            .endpoints
            .value
            .iter()
            .enumerate()
            .filter_map(|(i, text)| self.text(&format!("etcd.endpoints[{i}]"), text))
            .collect();
        let prefix = match &etcd.prefix {
            Some(text) => self.text("etcd.prefix", text)?,
            None => "/millrace".to_owned(),
        };
        let login = match (&etcd.user, &etcd.password) {
            (Some(user), Some(password)) => {
                let user = self.text("etcd.user", user);
                let password = self.text("etcd.password", password);
                Some((user?, password?))
            }
            (Some(one), None) | (None, Some(one)) => {
                self.fault(one.referenced.line(), "etcd", "`user` and `password` go together");
                None
            }
            (None, None) => None,
        };
        let tls = match &etcd.tls {
            Some(tls) => Some(self.etcd_tls(tls)?),
            None => None,
        };
        Some(EtcdConfig {
            endpoints,
            prefix,
            login,
            tls,
        })
    }

    fn etcd_tls(&mut self, tls: &EtcdTlsFile) -> Option<EtcdTlsPaths> {
        let ca = self.path("etcd.tls.ca", &tls.ca);
        let identity = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => {
                let certificate = self.path("etcd.tls.certificate", certificate);
                let key = self.path("etcd.tls.key", key);
                Some((certificate?, key?))
            }
            (Some(one), None) | (None, Some(one)) => {
                self.fault(
                    one.referenced.line(),
                    "etcd.tls",
                    "`certificate` and `key` go together",
                );
                None
            }
            (None, None) => None,
        };
        let domain = tls
            .domain
            .as_ref()
            .and_then(|text| self.text("etcd.tls.domain", text));
        Some(EtcdTlsPaths {
            ca: ca?,
            identity,
            domain,
        })
    }

    fn tls(&mut self, tls: &TlsFile) -> Option<TlsPaths> {
        let certificate = self.path("tls.certificate", &tls.certificate);
        let key = self.path("tls.key", &tls.key);
        let ca = self.path("tls.ca", &tls.ca);
        let client_ca = tls
            .client_ca
            .as_ref()
            .and_then(|text| self.path("tls.client_ca", text));
        let domain = tls.domain.as_ref().and_then(|text| self.text("tls.domain", text));
        Some(TlsPaths {
            certificate: certificate?,
            key: key?,
            ca: ca?,
            client_ca,
            domain,
        })
    }

    fn tokens(&mut self, files: &[TokenFile]) -> Vec<Token> {
        let mut names = BTreeSet::new();
        let mut tokens = Vec::new();
        for (i, file) in files.iter().enumerate() {
            let name = self.text(&format!("tokens[{i}].name"), &file.name);
            let hash = self.text(&format!("tokens[{i}].blake3"), &file.blake3);
            if let Some(name) = &name
                && !names.insert(name.clone())
            {
                let line = file.name.referenced.line();
                self.fault(
                    line,
                    &format!("tokens[{i}].name"),
                    format!("`{name}` has a token already"),
                );
            }
            let hash = hash.and_then(|hash| {
                let parsed = blake3::Hash::from_hex(&hash).ok();
                if parsed.is_none() {
                    let right = "not a hash; use the 64 hex digits of `printf %s TOKEN | b3sum`";
                    self.fault(
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

    fn limits(&mut self, limits: Option<&LimitsFile>) -> (usize, Rate) {
        let defaults = ApiConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        let (mut message_bytes, mut rate) = (defaults.message_bytes, defaults.rate);
        let Some(limits) = limits else {
            return (message_bytes, rate);
        };
        if let Some(given) = &limits.message_bytes {
            if !(64 << 10..=256 << 20).contains(&given.value) {
                self.fault(
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
                self.fault(given.referenced.line(), key, "a number from 1 on");
            }
            *into = given.value;
        }
        (message_bytes, rate)
    }

    fn disk(&mut self, disk: &DiskFile) -> Option<LocalDisk> {
        let path = self.path("local_disk.path", &disk.path)?;
        let bytes_max = disk.bytes_max.as_ref().map_or(10 << 30, |bytes| bytes.value);
        Some(LocalDisk { path, bytes_max })
    }
}

impl CoordinatorConfig {
    /// What the API is served with; `read` gives a file's bytes, it is asked for the certificates.
    ///
    /// # Errors
    /// When one cannot be read; the error names it.
    pub fn api(&self, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> io::Result<ApiConfig> {
        let pem = |path: &Path| pem(read, path);
        let tls = match &self.tls {
            None => None,
            Some(tls) => Some(Tls {
                certificate: pem(&tls.certificate)?,
                key: pem(&tls.key)?,
                ca: pem(&tls.ca)?,
                client_ca: tls.client_ca.as_deref().map(pem).transpose()?,
                domain: tls.domain.clone(),
            }),
        };
        Ok(ApiConfig {
            listen: self.listen,
            tls,
            tokens: self.tokens.clone(),
            message_bytes: self.message_bytes,
            rate: self.rate,
        })
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
