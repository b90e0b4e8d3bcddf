//! What the warehouse is beside what the pipeline asks for.
//!
//! In: the pipeline, its lake's ledger, the warehouse's own catalogue. Out: facts, and findings: what stops loads, and what
//! would make queries faster, each with the statement that does it. Nothing is made or changed.
//!
//! | looked at                         | PostgreSQL                          | Redshift                                       |
//! |-----------------------------------|-------------------------------------|------------------------------------------------|
//! | columns and their types           | `pg_attribute`                      | the same                                       |
//! | keys and encodings                |                                     | `pg_table_def`, and what the lake's files say of the values |
//! | partitions, and those ahead       | `pg_inherits`                       |                                                |
//! | dead or unsorted rows, statistics | `pg_stat_user_tables`               | `svv_table_info`                               |
//! | loads that wait or are held       | `millrace_loads` beside the lake's ledger | the same                                 |

mod postgres;
mod redshift;
mod tuning;

use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::catalog::ddl::{self, TableColumn};
use millrace_pipeline::catalog::identifier::{identifier, qualified};
use millrace_pipeline::spec::model::{Pipeline, Warehouse};

use super::ask::Ask;
use super::connection::Connection;
use super::decide::Standing;
use super::redshift::Way;
use super::session::Remembered;
use super::table::compare;
use super::{HandoffError, Known, catalogue, standings, statistics};
use crate::lake::Lake;

/// What stands in the report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// `postgres` or `redshift`.
    pub warehouse: &'static str,
    /// `schema.table`.
    pub table: String,
    /// Whether it is there.
    pub exists: bool,
    /// What is so: a name and a value each.
    pub facts: Vec<(String, String)>,
    /// What could be otherwise.
    pub findings: Vec<Finding>,
    /// Batches that are to be loaded.
    pub waiting: u64,
    /// Batches whose job has not ended.
    pub unfinished: u64,
    /// Batches that wait for a decision.
    pub held: u64,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nothing is loaded until it is settled.
    Fault,
    /// Loads go on.
    Advice,
}

impl Level {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Advice => "advice",
        }
    }
}

/// One difference between what is and what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What it is about: a column, a key, the table.
    pub what: String,
    /// What is so.
    pub found: String,
    /// What is asked for, and why.
    pub wanted: String,
    /// The statement that settles it; empty where there is none.
    pub statement: String,
}

impl Finding {
    fn advice(
        what: impl Into<String>,
        found: impl Into<String>,
        wanted: impl Into<String>,
        statement: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Advice,
            what: what.into(),
            found: found.into(),
            wanted: wanted.into(),
            statement: statement.into(),
        }
    }
}

/// Looks at a pipeline's warehouse.
///
/// # Errors
/// When the pipeline has none, or it or the lake cannot be read.
pub fn report<'a>(
    pipeline: &'a Pipeline,
    lake: &'a Lake,
    known: &'a Known,
) -> BoxFuture<'a, Result<Report, HandoffError>> {
    async move {
        let mut report = Report {
            table: ddl::table(pipeline).to_owned(),
            ..Report::default()
        };
        match &pipeline.warehouse {
            Some(Warehouse::Postgres { dsn, .. }) => {
                report.warehouse = "postgres";
                let connection = Connection::open(dsn).await?;
                let wanted = ddl::postgres_columns(pipeline);
                if columns(&connection, &wanted, &mut report).await? {
                    postgres::look(&connection, pipeline, &mut report).await?;
                }
            }
            Some(Warehouse::Redshift { access, .. }) => {
                report.warehouse = "redshift";
                let way = Way::open(access, lake, &Remembered::default()).await?;
                let wanted = ddl::redshift_columns(pipeline);
                if columns(&way, &wanted, &mut report).await? {
                    let stored = statistics::look(lake, &known.state).await;
                    redshift::look(&way, pipeline, &stored, &mut report).await?;
                }
            }
            None => return Err(HandoffError::Dsn),
        }
        for candidate in standings(pipeline, lake, known).await? {
            match candidate.standing {
                Standing::Waiting => report.waiting += 1,
                Standing::Unfinished => report.unfinished += 1,
                Standing::Held => report.held += 1,
                Standing::Loaded | Standing::Discarded => {}
            }
        }
        Ok(report)
    }
    .boxed()
}

/// Compares columns; whether there is a table.
async fn columns(
    connection: &impl Ask,
    wanted: &[TableColumn],
    report: &mut Report,
) -> Result<bool, HandoffError> {
    let found = catalogue::columns(connection, &report.table).await?;
    report.exists = !found.is_empty();
    if found.is_empty() {
        return Ok(false);
    }
    let comparison = compare(&report.table, wanted, &found);
    for fault in comparison.faults {
        report.findings.push(Finding {
            level: Level::Fault,
            what: fault.what,
            found: fault.problem,
            wanted: "what the pipeline says".to_owned(),
            statement: fault.statement,
        });
    }
    for column in comparison.missing {
        let statement = format!(
            "ALTER TABLE {} ADD COLUMN {};",
            qualified(&report.table),
            column.definition()
        );
        let what = format!("column {}", identifier(&column.name));
        let wanted = format!("{}: the next load adds it", column.kind);
        report
            .findings
            .push(Finding::advice(what, "not there", wanted, statement));
    }
    Ok(true)
}
