//! `tls:` of a process's file.

use std::io;
use std::path::PathBuf;

use millrace_proto::tls::Tls;
use serde::Deserialize;

use super::{ReadFile, Reader, Text, pem};

/// As it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFile {
    certificate: Text,
    key: Text,
    ca: Text,
    client_ca: Option<Text>,
    domain: Option<Text>,
}

impl TlsFile {
    /// Where `client_ca` stands, if it does.
    #[must_use]
    pub fn client_ca_line(&self) -> Option<u64> {
        self.client_ca.as_ref().map(|text| text.referenced.line())
    }
}

/// PEM files of a process of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// The certificate with its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The cluster's own authority: it vouches for coordinators and workers.
    pub ca: PathBuf,
    /// Who vouches for callers of the API: they must show a certificate then.
    pub client_ca: Option<PathBuf>,
    /// The name in the cluster's certificates, where it is not the address.
    pub domain: Option<String>,
}

impl Reader<'_> {
    /// Reads `tls:`.
    pub fn tls(&mut self, tls: &TlsFile) -> Option<TlsPaths> {
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
}

impl TlsPaths {
    /// What stands in the files.
    ///
    /// # Errors
    /// When one cannot be read; the error names it.
    pub fn load(&self, read: ReadFile<'_>) -> io::Result<Tls> {
        Ok(Tls {
            certificate: pem(read, &self.certificate)?,
            key: pem(read, &self.key)?,
            ca: pem(read, &self.ca)?,
            client_ca: self
                .client_ca
                .as_deref()
                .map(|path| pem(read, path))
                .transpose()?,
            domain: self.domain.clone(),
        })
    }
}
