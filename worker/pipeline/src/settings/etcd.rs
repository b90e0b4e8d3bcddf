//! `etcd:` of a process's file: where the cluster's store is, and how it is spoken to.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Reader, Text};

/// As it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdFile {
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

/// How etcd is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// `http://host:port` of each member.
    pub endpoints: Vec<String>,
    /// Below which everything is kept. Default: `/millrace`.
    pub prefix: String,
    /// User and password.
    pub login: Option<(String, String)>,
    /// TLS.
    pub tls: Option<EtcdTlsPaths>,
}

impl fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.login.as_ref().map(|(user, _)| user);
        f.debug_struct("EtcdSettings")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &user)
            .field("tls", &self.tls)
            .finish()
    }
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

impl Reader<'_> {
    /// Reads `etcd:`.
    pub fn etcd(&mut self, etcd: &EtcdFile) -> Option<EtcdSettings> {
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
        let login = self.pair("etcd", ("user", &etcd.user), ("password", &etcd.password));
        let login = match login {
            Some((user, password)) => {
                let user = self.text("etcd.user", user);
                let password = self.text("etcd.password", password);
                Some((user?, password?))
            }
            None => None,
        };
        let tls = match &etcd.tls {
            Some(tls) => Some(self.etcd_tls(tls)?),
            None => None,
        };
        Some(EtcdSettings {
            endpoints,
            prefix,
            login,
            tls,
        })
    }

    fn etcd_tls(&mut self, tls: &EtcdTlsFile) -> Option<EtcdTlsPaths> {
        let ca = self.path("etcd.tls.ca", &tls.ca);
        let pair = self.pair("etcd.tls", ("certificate", &tls.certificate), ("key", &tls.key));
        let identity = match pair {
            Some((certificate, key)) => {
                let certificate = self.path("etcd.tls.certificate", certificate);
                let key = self.path("etcd.tls.key", key);
                Some((certificate?, key?))
            }
            None => None,
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

    /// Two keys that are given both or neither.
    fn pair<'f>(
        &mut self,
        of: &str,
        (one, first): (&str, &'f Option<Text>),
        (other, second): (&str, &'f Option<Text>),
    ) -> Option<(&'f Text, &'f Text)> {
        match (first, second) {
            (Some(first), Some(second)) => Some((first, second)),
            (Some(alone), None) | (None, Some(alone)) => {
                let text = format!("`{one}` and `{other}` go together");
                self.fault(alone.referenced.line(), of, text);
                None
            }
            (None, None) => None,
        }
    }
}
