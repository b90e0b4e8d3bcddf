//! From a process's settings to a connection.

use std::io;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use millrace_pipeline::settings::{EtcdSettings, ReadFile, pem};

/// How etcd is connected to; `read` gives a file's bytes.
///
/// # Errors
/// When a certificate cannot be read; the error names it.
pub fn options(settings: &EtcdSettings, read: ReadFile<'_>) -> io::Result<ConnectOptions> {
    let mut options = ConnectOptions::new();
    if let Some((user, password)) = &settings.login {
        options = options.with_user(user, password);
    }
    let Some(tls) = &settings.tls else {
        return Ok(options);
    };
    let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(pem(read, &tls.ca)?));
    if let Some((certificate, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(pem(read, certificate)?, pem(read, key)?));
    }
    if let Some(domain) = &tls.domain {
        config = config.domain_name(domain);
    }
    Ok(options.with_tls(config))
}
