//! How the command line reaches the cluster: addresses, TLS and the token, from options and the environment.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use millrace_client::{Client, ClientError, Options, Tls};

use crate::lakes;

/// Where the cluster is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reach {
    /// Coordinators, `host:port`, separated by commas; any of them will do.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "MILLRACE_COORDINATORS",
        value_delimiter = ','
    )]
    coordinators: Vec<String>,
    /// The authority that vouches for the coordinators, PEM; turns TLS on.
    #[arg(long, value_name = "FILE", env = "MILLRACE_CA")]
    ca: Option<PathBuf>,
    /// Our own certificate, PEM, where coordinators ask for one.
    #[arg(
        long,
        value_name = "FILE",
        env = "MILLRACE_CERTIFICATE",
        requires = "ca",
        requires = "key"
    )]
    certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", env = "MILLRACE_KEY", requires = "certificate")]
    key: Option<PathBuf>,
    /// The name in the coordinators' certificates, where it is not their address.
    #[arg(long, value_name = "NAME", env = "MILLRACE_TLS_NAME")]
    tls_name: Option<String>,
    /// How long a call may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

impl Reach {
    /// For calls that take as long as reading a lake does: an hour at least.
    #[must_use]
    pub(crate) fn patient(mut self) -> Self {
        self.timeout = self.timeout.max(3600);
        self
    }

    /// Connects, and does something with the connection.
    pub(crate) fn with<T, A>(&self, what: impl FnOnce(Client) -> A) -> Result<T>
    where
        A: Future<Output = Result<T>>,
    {
        let options = self.options()?;
        lakes::runtime(1)?.block_on(async {
            let client = Client::connect(options).await?;
            what(client).await
        })
    }

    fn options(&self) -> Result<Options> {
        let addresses: Vec<String> = self
            .coordinators
            .iter()
            .filter(|address| !address.is_empty())
            .cloned()
            .collect();
        if addresses.is_empty() {
            return Err(ClientError::NoAddress)
                .context("name the coordinators by `--coordinators` or MILLRACE_COORDINATORS");
        }
        let mut options = Options::new(addresses);
        options.deadline = Duration::from_secs(self.timeout);
        options.token = std::env::var("MILLRACE_TOKEN")
            .ok()
            .filter(|token| !token.is_empty());
        options.tls = self.tls()?;
        if options.tls.is_none() && self.tls_name.is_some() {
            bail!("`--tls-name` needs `--ca`");
        }
        Ok(options)
    }

    fn tls(&self) -> Result<Option<Tls>> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            (None, _) | (_, None) => None,
        };
        Ok(Some(Tls {
            ca: read(ca)?,
            identity,
            domain: self.tls_name.clone(),
        }))
    }
}

fn read(file: &PathBuf) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("`{}` cannot be read", file.display()))
}
