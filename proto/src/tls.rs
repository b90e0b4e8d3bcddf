//! TLS of a process of the cluster, as values: how it is served, how others are called.
//!
//! | connection                                  | who shows a certificate                                           |
//! |---------------------------------------------|--------------------------------------------------------------------|
//! | a caller, a follower or a worker -> the API  | the coordinator; the caller too where there is a `client_ca`      |
//! | a worker -> the scheduler                    | both, of the cluster's `ca`: there are no tokens on that connection |
//! | a worker -> a worker's shuffle data          | both, of the cluster's `ca`: the same                              |
//!
//! So `ca` is the cluster's own authority: whoever has a certificate of it may take tasks.

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// Everything is PEM.
#[derive(Clone)]
pub struct Tls {
    /// The certificate, with its chain.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// Who vouches for coordinators and workers.
    pub ca: Vec<u8>,
    /// Who vouches for callers of the API (mTLS); none: any caller may connect, and tokens decide.
    pub client_ca: Option<Vec<u8>>,
    /// The name in the cluster's certificates, where it is not the address.
    pub domain: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mutual = self.client_ca.is_some();
        f.debug_struct("Tls")
            .field("mutual", &mutual)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// How the API is served.
    #[must_use]
    pub fn api_server(&self) -> ServerTlsConfig {
        match &self.client_ca {
            Some(ca) => self.server().client_ca_root(Certificate::from_pem(ca)),
            None => self.server(),
        }
    }

    /// How the scheduler and shuffle data are served: only to the cluster's own.
    #[must_use]
    pub fn inner_server(&self) -> ServerTlsConfig {
        self.server().client_ca_root(Certificate::from_pem(&self.ca))
    }

    /// How others of the cluster are called.
    #[must_use]
    pub fn client(&self) -> ClientTlsConfig {
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(self.identity());
        match &self.domain {
            Some(domain) => config.domain_name(domain.clone()),
            None => config,
        }
    }

    fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.identity())
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }
}
