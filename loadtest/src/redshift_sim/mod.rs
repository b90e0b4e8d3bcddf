//! A stand-in for Redshift: it speaks the PostgreSQL protocol, keeps its rows in a real PostgreSQL, and executes COPY of
//! Parquet by the documented rules, strictly.
//!
//! In: simple queries of one client per connection. Out: what Redshift would answer, as far as it is documented; where it is
//! not, a refusal. Statements other than COPY are PostgreSQL's, after Redshift's own words were taken out of them
//! (encodings, distribution, sort keys); keys are not enforced, as in Redshift.
//!
//! | told to ([`Fault`])     | it                                                              |
//! |-------------------------|-----------------------------------------------------------------|
//! | lose before the commit  | closes the connection when COMMIT arrives                       |
//! | lose after the commit   | commits, and closes the connection instead of answering         |
//! | conflict                | answers the next COPY with 1023 and aborts the transaction       |
//! | be slow                 | waits before the next COPY                                      |
//! | lose the answer         | accepts the next batch of the Data API, and closes the connection |
//! | throttle, too many      | refuses the next statement of the Data API                      |
//!
//! Each fault happens once. Everybody is let in, until it demands logins (logins.rs).

mod catalogue;
mod copy;
mod data_api;
mod http;
mod logins;
mod rules;
mod signature;
mod statement;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

pub use catalogue::Figures;
use copy::execute;
pub use logins::Account;
use logins::Door;
pub use signature::Key;
use statement::{Copy, translate};
use wire::{Answer, Wire};

/// What goes wrong next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is lost when COMMIT arrives.
    LoseBeforeCommit,
    /// The commit is done, the connection is lost instead of the answer.
    LoseAfterCommit,
    /// The next COPY is answered by 1023, a serializable isolation violation.
    Conflict,
    /// The next COPY takes this much longer.
    Slow(Duration),
    /// The Data API accepts the next batch, and the answer is lost.
    LoseAnswer,
    /// The Data API throttles the next statement.
    Throttle,
    /// The Data API has too many statements for the next one.
    TooMany,
}

impl Fault {
    /// Whether it is an answer to a request of the Data API.
    fn is_of_requests(self) -> bool {
        matches!(self, Self::Throttle | Self::TooMany)
    }
}

/// Why a statement is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refused {
    /// SQLSTATE.
    pub code: String,
    /// What Redshift would say, and which rule it is.
    pub message: String,
}

impl Refused {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

struct Shared {
    dsn: String,
    buckets: HashMap<String, Arc<dyn ObjectStore>>,
    fault: Mutex<Option<Fault>>,
    statements: data_api::Statements,
    catalogue: catalogue::Catalogue,
    door: Mutex<Option<Arc<Door>>>,
}

/// A running simulator.
pub struct Simulator {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Simulator {
    /// Listens; `dsn` is the PostgreSQL that keeps the rows, `buckets` are what COPY can read.
    ///
    /// # Errors
    /// When that PostgreSQL cannot be reached, or the address cannot be listened on.
    pub async fn start(
        listen: SocketAddr,
        dsn: String,
        buckets: HashMap<String, Arc<dyn ObjectStore>>,
    ) -> std::io::Result<Self> {
        statement::make_functions(&dsn)
            .await
            .map_err(std::io::Error::other)?;
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            dsn,
            buckets,
            fault: Mutex::new(None),
            statements: data_api::Statements::default(),
            catalogue: catalogue::Catalogue::default(),
            door: Mutex::default(),
        });
        let for_all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&for_all);
                // A client that goes away ends its own session only.
                tokio::spawn(async move { serve(stream, &shared).await.ok() });
            }
        });
        Ok(Self {
            address,
            shared,
            tasks: vec![task],
        })
    }

    /// Listens for AWS's requests too: the Data API's, and those for logins. Gives its address. `key` is the one that signs.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn serve_http(&mut self, listen: SocketAddr, key: Key) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::clone(&self.shared);
        self.tasks.push(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, key) = (Arc::clone(&shared), key.clone());
                tokio::spawn(async move { data_api::serve(stream, shared, key).await.ok() });
            }
        }));
        Ok(address)
    }

    /// From now on only those are let in, over TLS, who come with a login that was given to them. `certificate` and `key` are PEM.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn demand_logins(&self, account: Account, certificate: &[u8], key: &[u8]) -> std::io::Result<()> {
        *self.shared.door.lock() = Some(Arc::new(Door::new(account, certificate, key)?));
        Ok(())
    }

    /// Sets the clock by which logins end, so many seconds ahead of the machine's.
    pub fn set_clock(&self, ahead: i64) {
        if let Some(door) = &*self.shared.door.lock() {
            door.logins.set_clock(ahead);
        }
    }

    /// The actions by which logins were asked for, in their order.
    #[must_use]
    pub fn logins_asked(&self) -> Vec<String> {
        let door = self.shared.door.lock();
        door.as_ref().map(|door| door.logins.asked()).unwrap_or_default()
    }

    /// Says what a table's upkeep has come to; `schema.table`.
    pub fn has_come_to(&self, table: &str, figures: Figures) {
        self.shared.catalogue.set(table, figures);
    }

    /// Arms a fault.
    pub fn arm(&self, fault: Fault) {
        *self.shared.fault.lock() = Some(fault);
    }

    /// Whether the fault that was armed has happened.
    #[must_use]
    pub fn has_happened(&self) -> bool {
        self.shared.fault.lock().is_none()
    }
}

impl Shared {
    fn take(&self, is_due: impl Fn(Fault) -> bool) -> Option<Fault> {
        self.fault.lock().take_if(|fault| is_due(*fault))
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let door = shared.door.lock().clone();
    let mut wire = Wire::welcome(stream, door.as_deref()).await?;
    let Ok(mut session) = connect(shared).await else {
        return Ok(());
    };
    while let Some(sql) = wire.query().await? {
        let commits = sql.trim().trim_end_matches(';').eq_ignore_ascii_case("commit");
        if commits && shared.take(|fault| fault == Fault::LoseBeforeCommit).is_some() {
            break;
        }
        let answer = session.run(&sql).await;
        if commits && shared.take(|fault| fault == Fault::LoseAfterCommit).is_some() {
            break;
        }
        wire.answer(answer).await?;
    }
    Ok(())
}

async fn connect(shared: &Shared) -> Result<Session<'_>, Refused> {
    let connected = tokio_postgres::connect(&shared.dsn, NoTls).await;
    let (client, connection) = connected.map_err(|error| refused(&error))?;
    let running = tokio::spawn(connection);
    let session = Session {
        client,
        running,
        copied: 0,
        shared,
    };
    let settings = session.client.batch_execute(statement::SETTINGS).await;
    settings.map_err(|error| refused(&error))?;
    Ok(session)
}

struct Session<'a> {
    client: Client,
    running: tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>,
    /// Rows of the last COPY.
    copied: u64,
    shared: &'a Shared,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Session<'_> {
    async fn run(&mut self, sql: &str) -> Result<Vec<Answer>, Refused> {
        if statement::is_copy(sql) {
            let copied = self.copy(sql).await;
            if copied.is_err() {
                self.abort().await;
            }
            self.copied = copied?;
            return Ok(vec![Answer::Done(format!("COPY {}", self.copied))]);
        }
        if self.shared.catalogue.takes(sql) {
            return Ok(vec![Answer::Done("OK".to_owned())]);
        }
        let sql = self.shared.catalogue.resolve(&translate(sql, self.copied)?);
        let messages = self
            .client
            .simple_query(&sql)
            .await
            .map_err(|error| refused(&error))?;
        Ok(messages.into_iter().filter_map(answer).collect())
    }

    async fn copy(&self, sql: &str) -> Result<u64, Refused> {
        let copy = Copy::parse(sql)?;
        if let Some(Fault::Slow(pause)) = self.shared.take(|fault| matches!(fault, Fault::Slow(_))) {
            tokio::time::sleep(pause).await;
        }
        if self.shared.take(|fault| fault == Fault::Conflict).is_some() {
            let message = "1023 DETAIL: Serializable isolation violation on table";
            return Err(Refused::new("XX000", message));
        }
        execute(&self.client, &copy, &self.shared.buckets).await
    }

    /// Within a transaction, a refused statement aborts it.
    async fn abort(&self) {
        let raise = "DO $$ BEGIN RAISE EXCEPTION 'aborted'; END $$";
        // It fails: that is what it is for.
        let _ = self.client.batch_execute(raise).await;
    }
}

fn refused(error: &tokio_postgres::Error) -> Refused {
    match error.as_db_error() {
        Some(answer) => Refused::new(answer.code().code(), answer.message()),
        None => Refused::new("58000", "the store of the simulator is gone"),
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "the library may add messages, and no client waits for them"
)]
fn answer(message: SimpleQueryMessage) -> Option<Answer> {
    match message {
        SimpleQueryMessage::RowDescription(columns) => {
            let names = columns.iter().map(|column| column.name().to_owned());
            Some(Answer::Columns(names.collect()))
        }
        SimpleQueryMessage::Row(row) => {
            // The catalogue shows the type by its name there.
            let cell = |at| {
                row.get(at)
                    .map(|text| if text == "jsonb" { "super" } else { text }.to_owned())
            };
            Some(Answer::Row((0..row.len()).map(cell).collect()))
        }
        SimpleQueryMessage::CommandComplete(rows) => Some(Answer::Done(format!("SELECT {rows}"))),
        _ => None,
    }
}
