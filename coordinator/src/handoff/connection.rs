//! A connection to a database that speaks the PostgreSQL protocol: a warehouse, or what lookups read.
//!
//! In: the pipeline's connection string. Out: statements by the simple query protocol, which PostgreSQL and Redshift
//! have alike, and COPY. TLS is used where the server offers it (`sslmode=prefer`, the default), and its certificate is
//! then checked against the system's authorities; `sslmode=require` insists on TLS, and so does a login by IAM.

use std::time::Duration;

use millrace_pipeline::spec::model::Secret;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::HandoffError;
use super::ask::{Ask, Row};
use super::login::Login;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which the network is asked whether the other side is there.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// An open connection; closed, and its transaction rolled back, when dropped.
pub(crate) struct Connection {
    pub(crate) client: Client,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why there is no connection.
pub(crate) enum ConnectError {
    /// The connection string.
    Dsn,
    /// TLS cannot be set up.
    Tls(rustls::Error),
    /// Nobody answers, or we are not let in.
    Postgres(tokio_postgres::Error),
}

impl Connection {
    /// Connects to a warehouse.
    pub(super) async fn open(dsn: &Secret) -> Result<Self, HandoffError> {
        Self::connect(dsn).await.map_err(of_warehouse)
    }

    /// The same as somebody whom the connection string does not name, over TLS.
    pub(super) async fn open_as(dsn: &Secret, login: &Login) -> Result<Self, HandoffError> {
        let mut config = config(dsn).map_err(of_warehouse)?;
        config
            .user(&login.user)
            .password(login.password.reveal())
            .ssl_mode(SslMode::Require);
        Self::by(config).await.map_err(of_warehouse)
    }

    /// The database that a connection string names.
    pub(super) fn database(dsn: &Secret) -> Result<String, HandoffError> {
        let config = config(dsn).map_err(of_warehouse)?;
        config.get_dbname().map(str::to_owned).ok_or(HandoffError::Dsn)
    }

    /// Connects.
    pub(crate) async fn connect(dsn: &Secret) -> Result<Self, ConnectError> {
        Self::by(config(dsn)?).await
    }

    async fn by(mut config: Config) -> Result<Self, ConnectError> {
        if config.get_application_name().is_none() {
            config.application_name("millrace");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config
            .keepalives_idle(KEEPALIVE)
            .keepalives_interval(KEEPALIVE)
            .keepalives_retries(3)
            .tcp_user_timeout(UNACKNOWLEDGED);
        let connected = config.connect(tls()?).await;
        let (client, connection) = connected.map_err(ConnectError::Postgres)?;
        let task = tokio::spawn(async move {
            // Whoever waits for an answer is told of the error; this is for the log.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a database ended");
            }
        });
        Ok(Self { client, task })
    }

    /// Whether it is known to be gone.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Rolls back what failed, and hands the outcome on.
    pub(super) async fn settle<T>(&self, outcome: Result<T, HandoffError>) -> Result<T, HandoffError> {
        if outcome.is_err() && !self.is_closed() {
            // The error that matters is the first one; a session that is dropped is rolled back too.
            let _ = self.run("roll back", "ROLLBACK").await;
        }
        outcome
    }
}

impl Ask for Connection {
    async fn rows(&self, what: &str, sql: &str) -> Result<Vec<Row>, HandoffError> {
        let answer = self.client.simple_query(sql).await;
        let messages = answer.map_err(|error| HandoffError::of(what, error))?;
        let row = |message| {
            if let SimpleQueryMessage::Row(row) = message {
                let cell = |at| row.try_get(at).ok().flatten().map(str::to_owned);
                Some((0..row.len()).map(cell).map(Option::unwrap_or_default).collect())
            } else {
                None
            }
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    async fn run(&self, what: &str, sql: &str) -> Result<(), HandoffError> {
        let ran = self.client.batch_execute(sql).await;
        ran.map_err(|error| HandoffError::of(what, error))
    }
}

fn config(dsn: &Secret) -> Result<Config, ConnectError> {
    dsn.reveal().parse().map_err(|_| ConnectError::Dsn)
}

fn of_warehouse(error: ConnectError) -> HandoffError {
    match error {
        ConnectError::Dsn => HandoffError::Dsn,
        ConnectError::Tls(source) => HandoffError::Tls(source),
        ConnectError::Postgres(source) => {
            let mut error = HandoffError::of("let us in", source);
            if let HandoffError::Connection { what, .. } = &mut error {
                *what = "could not be made";
            }
            error
        }
    }
}

fn tls() -> Result<MakeRustlsConnect, ConnectError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ConnectError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
