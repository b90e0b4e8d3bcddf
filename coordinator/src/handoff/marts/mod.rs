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

use millrace_pipeline::catalog::identifier::{literal, qualified};
use millrace_pipeline::catalog::mart_ddl;
use millrace_pipeline::spec::marts::Mart;
use millrace_pipeline::spec::model::{Pipeline, RedshiftAccess, Secret, Warehouse};
use tokio::sync::watch;

use super::ask::{Ask, field};
use super::connection::Connection;
use super::session::Outcome;
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
    let (dsn, role, is_redshift) = match &pipeline.warehouse {
        Some(Warehouse::Postgres { dsn, .. }) => (dsn, None, false),
        Some(Warehouse::Redshift { access, iam_role, .. }) => match access {
            RedshiftAccess::Dsn(dsn) => (dsn, iam_role.as_deref(), true),
            // The pipeline file is refused with such a model.
            RedshiftAccess::DataApi(_) => return Ok(0),
        },
        None => return Ok(0),
    };
    if wanted.is_empty() {
        return Ok(0);
    }
    let connection = connect(dsn, pipeline, is_redshift).await?;
    let mut loaded = 0;
    for (mart, table) in wanted {
        settle_table(&connection, mart, table, is_redshift).await?;
        let versions = versions(&connection, pipeline, mart, table).await?;
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
            let outcome = if is_redshift {
                redshift::load(&connection, pipeline, lake, role, &load, hook).await
            } else {
                postgres::load(&connection, pipeline, lake, &load, hook).await
            };
            if outcome? == Outcome::Loaded {
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

async fn connect(dsn: &Secret, pipeline: &Pipeline, is_redshift: bool) -> Result<Connection, HandoffError> {
    let connection = Connection::open(dsn).await?;
    if !is_redshift {
        let application = super::postgres::application(pipeline);
        let settings = format!(
            "{}; SET application_name = {application}; SET timezone = 'UTC'",
            super::postgres::SESSION
        );
        connection.run("take session settings", &settings).await?;
    }
    Ok(connection)
}

/// What the load ledger holds of a mart: versions by the period's first microsecond.
async fn versions(
    connection: &Connection,
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

/// Makes, widens or refuses a mart's table.
async fn settle_table(
    connection: &Connection,
    mart: &Mart,
    table: &str,
    is_redshift: bool,
) -> Result<(), HandoffError> {
    let what = format!("make table `{table}`");
    let (schema, _) = table.split_once('.').unwrap_or(("public", table));
    let ledger = catalogue::columns(connection, &format!("{schema}.millrace_models")).await?;
    let found = catalogue::columns(connection, table).await?;
    let wanted = if is_redshift {
        mart_ddl::redshift_columns(mart)
    } else {
        mart_ddl::postgres_columns(mart)
    };
    if !found.is_empty() {
        let comparison = compare(table, &wanted, &found);
        if !comparison.faults.is_empty() {
            return Err(HandoffError::Table {
                table: table.to_owned(),
                faults: comparison.faults,
            });
        }
        for column in &comparison.missing {
            let sql = format!(
                "ALTER TABLE {} ADD COLUMN {}",
                qualified(table),
                column.definition()
            );
            connection.run(&what, &sql).await?;
        }
        if !ledger.is_empty() {
            return Ok(());
        }
    }
    if is_redshift {
        let schema = format!("CREATE SCHEMA IF NOT EXISTS {}", qualified(schema));
        connection.run(&what, &schema).await?;
        return connection.run(&what, &mart_ddl::redshift(mart)).await;
    }
    // Two makers take turns.
    let sql = format!(
        "BEGIN; SELECT pg_advisory_xact_lock(hashtext({})); CREATE SCHEMA IF NOT EXISTS {}; {} COMMIT",
        literal(&format!("millrace {schema}")),
        qualified(schema),
        mart_ddl::postgres(mart)
    );
    let made = connection.run(&what, &sql).await;
    connection.settle(made).await
}

/// Loads what is computed, for as long as trying again may help within a minute. Gives how many periods.
///
/// # Errors
/// The last round's.
pub async fn settle(
    pipeline: &Pipeline,
    lake: &Lake,
    state: &State,
    hook: &Hook,
) -> Result<u64, HandoffError> {
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
