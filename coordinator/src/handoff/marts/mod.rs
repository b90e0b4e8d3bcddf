//! Models' tables in the warehouse: each period replaced whole, in one transaction with its row in `millrace_models`.
//!
//! In: the ledger's results. Out: rows in the tables. As for batches, what is to be done is the difference of two ledgers: of
//! the lake's, which names a version for each period, and of the warehouse's.
//!
//! | the warehouse's row of a period... | then                                                             |
//! |------------------------------------|------------------------------------------------------------------|
//! | is missing, or of a lower version  | its rows are deleted and the result's are copied, or neither     |
//! | is of the same version             | nothing is left to do                                            |
//! | is of a higher one                 | another loader knows more: this one would bring back what is old |

mod postgres;
mod redshift;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::catalog::ddl::TableColumn;
use millrace_pipeline::catalog::identifier::{literal, qualified};
use millrace_pipeline::catalog::mart_ddl;
use millrace_pipeline::spec::marts::Mart;
use millrace_pipeline::spec::model::{Pipeline, Warehouse};
use tokio::sync::watch;

use super::ask::{Ask, field};
use super::connection::Connection;
use super::redshift::Way;
use super::session::{Outcome, Remembered};
use super::table::compare;
use super::{HandoffError, Known, PAUSE, PAUSE_MAX, catalogue};
use crate::lake::Lake;
use crate::ledger::State;
use crate::lifecycle::Hook;
use crate::marts::{MartRun, period_name, start_of};

/// How long an unreachable warehouse is tried.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause where a person must act.
const PERSON_PAUSE: Duration = Duration::from_secs(60);

/// One mart's table, and the result that is to be loaded.
struct Load<'a> {
    mart: &'a Mart,
    /// `schema.table`, unquoted.
    table: &'a str,
    /// The load ledger, as SQL takes it.
    ledger: String,
    run: &'a MartRun,
}

impl Load<'_> {
    /// The period's bounds as SQL takes them.
    fn bounds(&self) -> (String, String) {
        let time = |hour| {
            let time = chrono::DateTime::from_timestamp_micros(start_of(hour)).unwrap_or_default();
            literal(&time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
        };
        (
            time(self.run.from_hour),
            time(self.run.from_hour + self.run.hours),
        )
    }

    /// The condition of the period's row in the load ledger.
    fn key(&self, pipeline: &Pipeline) -> String {
        format!(
            "pipeline = {} AND model = {} AND period = {}",
            literal(pipeline.name.as_str()),
            literal(&self.mart.name),
            self.bounds().0
        )
    }

    fn delete(&self) -> String {
        let (start, end) = self.bounds();
        format!(
            "DELETE FROM {} WHERE period >= {start} AND period < {end}",
            qualified(self.table)
        )
    }

    fn what(&self) -> String {
        let period = period_name(self.run.from_hour, self.run.hours);
        format!(
            "take model `{}`, period {period}, into `{}`",
            self.mart.name, self.table
        )
    }
}

/// Loads what is computed and not loaded, once. Gives how many periods.
async fn round(pipeline: &Pipeline, lake: &Lake, state: &State, hook: &Hook) -> Result<u64, HandoffError> {
    let wanted: Vec<(&Mart, &str)> = pipeline
        .marts
        .iter()
        .filter_map(|mart| Some((mart, mart.table.as_deref()?)))
        .filter(|(mart, _)| state.marts.of(&mart.name).next().is_some())
        .collect();
    let Some(warehouse) = pipeline.warehouse.as_ref().filter(|_| !wanted.is_empty()) else {
        return Ok(0);
    };
    let open = Open::of(warehouse, pipeline, lake).await?;
    let mut loaded = 0;
    for (mart, table) in wanted {
        open.settle_table(mart, table).await?;
        let versions = open.versions(pipeline, mart, table).await?;
        let known = |run: &MartRun| versions.get(&start_of(run.from_hour)).copied();
        let due = state
            .marts
            .of(&mart.name)
            .filter(|run| run.hours == mart.every.hours())
            .filter(|run| known(run).is_none_or(|version| version < run.version));
        for run in due {
            let ledger = mart_ddl::ledger(table);
            let load = Load {
                mart,
                table,
                ledger,
                run,
            };
            let began = Instant::now();
            if open.load(pipeline, lake, &load, hook).await? == Outcome::Loaded {
                loaded += 1;
                tracing::info!(
                    pipeline = %pipeline.name, model = mart.name, period = period_name(run.from_hour, run.hours),
                    version = run.version, rows = run.object.rows, milliseconds = began.elapsed().as_millis(),
                    "a model's period is loaded"
                );
            }
        }
    }
    Ok(loaded)
}

/// A way to the warehouse.
enum Open<'a> {
    Postgres(Connection),
    Redshift(Way, Option<&'a str>),
}

impl<'a> Open<'a> {
    async fn of(warehouse: &'a Warehouse, pipeline: &Pipeline, lake: &Lake) -> Result<Self, HandoffError> {
        let dsn = match warehouse {
            Warehouse::Postgres { dsn, .. } => dsn,
            Warehouse::Redshift { access, iam_role, .. } => {
                let way = Way::open(access, lake, &Remembered::default()).await?;
                return Ok(Self::Redshift(way, iam_role.as_deref()));
            }
        };
        let connection = Connection::open(dsn).await?;
        let application = super::postgres::application(pipeline);
        let settings = format!(
            "{}; SET application_name = {application}; SET timezone = 'UTC'",
            super::postgres::SESSION
        );
        connection.run("take session settings", &settings).await?;
        Ok(Self::Postgres(connection))
    }

    /// Makes, widens or refuses a mart's table.
    async fn settle_table(&self, mart: &Mart, table: &str) -> Result<(), HandoffError> {
        match self {
            Self::Postgres(connection) => {
                if widen(connection, table, &mart_ddl::postgres_columns(mart)).await? {
                    return Ok(());
                }
                make_in_postgres(connection, mart, table).await
            }
            Self::Redshift(way, _) => {
                if widen(way, table, &mart_ddl::redshift_columns(mart)).await? {
                    return Ok(());
                }
                let what = format!("make table `{table}`");
                let schema = format!("CREATE SCHEMA IF NOT EXISTS {}", qualified(schema_of(table)));
                way.run(&what, &schema).await?;
                way.run(&what, &mart_ddl::redshift(mart)).await
            }
        }
    }

    async fn versions(
        &self,
        pipeline: &Pipeline,
        mart: &Mart,
        table: &str,
    ) -> Result<BTreeMap<i64, u64>, HandoffError> {
        match self {
            Self::Postgres(connection) => versions(connection, pipeline, mart, table).await,
            Self::Redshift(way, _) => versions(way, pipeline, mart, table).await,
        }
    }

    /// Replaces a period, or changes nothing.
    async fn load(
        &self,
        pipeline: &Pipeline,
        lake: &Lake,
        load: &Load<'_>,
        hook: &Hook,
    ) -> Result<Outcome, HandoffError> {
        match self {
            Self::Postgres(connection) => postgres::load(connection, pipeline, lake, load, hook).await,
            Self::Redshift(way, role) => redshift::load(way, pipeline, lake, *role, load, hook).await,
        }
    }
}

fn schema_of(table: &str) -> &str {
    table.split_once('.').map_or("public", |(schema, _)| schema)
}

/// What the load ledger holds of a mart: versions by the period's first microsecond.
async fn versions(
    connection: &impl Ask,
    pipeline: &Pipeline,
    mart: &Mart,
    table: &str,
) -> Result<BTreeMap<i64, u64>, HandoffError> {
    let sql = format!(
        "SELECT CAST(extract(epoch FROM period) AS bigint), version FROM {} WHERE pipeline = {} AND model = {}",
        mart_ddl::ledger(table),
        literal(pipeline.name.as_str()),
        literal(&mart.name)
    );
    let rows = connection.rows("show its load ledger", &sql).await?;
    let entry = |row| {
        let seconds: i64 = field(row, 0).parse().ok()?;
        Some((seconds.saturating_mul(1_000_000), field(row, 1).parse().ok()?))
    };
    Ok(rows.iter().filter_map(entry).collect())
}

/// Widens or refuses a table that is there; whether it and its load ledger are.
async fn widen(connection: &impl Ask, table: &str, wanted: &[TableColumn]) -> Result<bool, HandoffError> {
    let ledger = format!("{}.millrace_models", schema_of(table));
    let ledger = catalogue::columns(connection, &ledger).await?;
    let found = catalogue::columns(connection, table).await?;
    if found.is_empty() {
        return Ok(false);
    }
    let comparison = compare(table, wanted, &found);
    if !comparison.faults.is_empty() {
        return Err(HandoffError::Table {
            table: table.to_owned(),
            faults: comparison.faults,
        });
    }
    for column in &comparison.missing {
        let (table, column) = (qualified(table), column.definition());
        let sql = format!("ALTER TABLE {table} ADD COLUMN {column}");
        connection.run(&format!("widen table `{table}`"), &sql).await?;
    }
    Ok(!ledger.is_empty())
}

/// Two makers take turns.
async fn make_in_postgres(connection: &Connection, mart: &Mart, table: &str) -> Result<(), HandoffError> {
    let schema = schema_of(table);
    let sql = format!(
        "BEGIN; SELECT pg_advisory_xact_lock(hashtext({})); CREATE SCHEMA IF NOT EXISTS {}; {} COMMIT",
        literal(&format!("millrace {schema}")),
        qualified(schema),
        mart_ddl::postgres(mart)
    );
    let made = connection.run(&format!("make table `{table}`"), &sql).await;
    connection.settle(made).await
}

/// Loads what is computed, for as long as trying again may help within a minute. Gives how many periods.
///
/// # Errors
/// The last round's.
pub fn settle<'a>(
    pipeline: &'a Pipeline,
    lake: &'a Lake,
    state: &'a State,
    hook: &'a Hook,
) -> BoxFuture<'a, Result<u64, HandoffError>> {
    async move {
    let (began, mut pause) = (Instant::now(), PAUSE);
    loop {
        match round(pipeline, lake, state, hook).await {
            Ok(loaded) => return Ok(loaded),
            Err(error) if error.is_retryable() && began.elapsed() + pause < PATIENCE => {
                tracing::warn!(pipeline = %pipeline.name, error = error.text(), "the models' handoff is tried again");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}.boxed()
}

/// Loads what is computed, and what will be, until it is dropped.
pub(super) async fn follow(
    pipeline: Arc<Pipeline>,
    lake: Lake,
    hook: Hook,
    mut known: watch::Receiver<Arc<Known>>,
) {
    if pipeline.marts.iter().all(|mart| mart.table.is_none()) {
        return std::future::pending().await;
    }
    let (mut pause, mut seen) = (PAUSE, None);
    loop {
        let now = Arc::clone(&known.borrow_and_update());
        // Batches come every few seconds, results seldom: only a new one is worth a connection.
        let newest = now.state.marts.versions;
        if seen == Some(newest) {
            if known.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        }
        match round(&pipeline, &lake, &now.state, &hook).await {
            Ok(_) => (pause, seen) = (PAUSE, Some(newest)),
            Err(error) => {
                let (retryable, error) = (error.is_retryable(), error.text());
                if retryable {
                    tracing::warn!(pipeline = %pipeline.name, error, "the warehouse takes no results of models now");
                } else {
                    tracing::error!(pipeline = %pipeline.name, error, "the warehouse takes no results of models until a person acts");
                }
                tokio::time::sleep(if retryable { pause } else { PERSON_PAUSE }).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}
