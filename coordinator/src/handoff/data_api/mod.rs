//! Redshift's Data API: statements by HTTPS, with AWS credentials instead of a connection.
//!
//! In: what the pipeline file says of it, the lake's way to AWS. Out: statements run, rows read, and batches of statements
//! that are one transaction ([`transaction`]; [`load`] is the one of a load).
//!
//! A statement is accepted, runs on its own, and is asked for until it has ended: whether we are still there does not matter.
//!
//! | what is lost or refused        | then                                                                           |
//! |--------------------------------|--------------------------------------------------------------------------------|
//! | the answer to a batch          | the next try has the same token, which makes it the same statement (for 8 hours) |
//! | an answer while it runs        | it is asked again, a few times                                                 |
//! | it failed                      | the token is used up: the next try has another one ([`Salt`])                  |
//! | it had ended when first looked at | it may be an earlier try's, even of a table since emptied: the load ledger decides |
//! | too many statements, throttled | the round is tried again with growing pauses                                   |
//!
//! Requests are boxed: AWS's futures are deep enough to meet the compiler's limit in whoever awaits them.

mod error;
mod http;
mod load;
mod split;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_redshiftdata::Client;
use aws_sdk_redshiftdata::operation::describe_statement::DescribeStatementOutput;
use aws_sdk_redshiftdata::types::{Field, StatementStatusString, StatusString};
use futures::FutureExt;
use millrace_pipeline::spec::model::{DataApi, RedshiftTarget};
use parking_lot::Mutex;
use uuid::Uuid;

use super::ask::{Ask, Row};
use super::error::Refusal;
use super::{HandoffError, data_api};
use crate::lake::Lake;
use split::statements;

pub use error::ApiError;
pub(super) use load::{Loader, load};
pub(super) use transaction::{Loaded, Step, Transaction};

/// What goes into the token of a load beside the load itself: nothing at first, so that another process that tries the same
/// load meets the same statement; after a failure something new, as the same token would only tell of the failure again.
pub(super) type Salt = Arc<Mutex<Option<Uuid>>>;

/// Most statements of a batch.
const BATCH_MAX: usize = 40;
/// First pause before a statement is asked for.
const POLL: Duration = Duration::from_millis(20);
/// Longest pause.
const POLL_MAX: Duration = Duration::from_secs(1);
/// So many answers in a row may be missing while a statement runs.
const MISSED_MAX: u32 = 5;

/// A way to a warehouse by the Data API.
pub(super) struct DataApiClient {
    client: Client,
    api: DataApi,
}

/// How a statement, or a batch of them, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// It had ended when we looked first: it may be an earlier try's.
    at_once: bool,
    failure: Option<Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    /// Which of the batch; none where the API does not say.
    at: Option<usize>,
    /// Why, on one line.
    message: String,
}

/// A statement that has ended.
struct Told {
    id: String,
    ended: Ended,
}

impl DataApiClient {
    /// Nothing is sent yet.
    pub(super) fn open(api: &DataApi, lake: &Lake) -> Result<Self, HandoffError> {
        let client = http::client(api, &lake.s3).map_err(|source| HandoffError::Api {
            what: "be reached".to_owned(),
            source: Box::new(source),
        })?;
        let api = api.clone();
        Ok(Self { client, api })
    }

    fn workgroup(&self) -> Option<String> {
        match &self.api.target {
            RedshiftTarget::Workgroup(name) => Some(name.clone()),
            RedshiftTarget::Cluster { .. } => None,
        }
    }

    fn cluster(&self) -> (Option<String>, Option<String>) {
        match &self.api.target {
            RedshiftTarget::Workgroup(_) => (None, None),
            RedshiftTarget::Cluster { name, db_user } => (Some(name.clone()), db_user.clone()),
        }
    }

    /// One transaction of these statements: all of them, or nothing.
    pub(super) async fn batch(
        &self,
        what: &str,
        sqls: Vec<String>,
        token: Option<String>,
    ) -> Result<Ended, HandoffError> {
        Ok(self.batched(what, sqls, token).await?.ended)
    }

    async fn batched(
        &self,
        what: &str,
        sqls: Vec<String>,
        token: Option<String>,
    ) -> Result<Told, HandoffError> {
        let (cluster, db_user) = self.cluster();
        let asked = self
            .client
            .batch_execute_statement()
            .set_sqls(Some(sqls))
            .set_client_token(token)
            .set_workgroup_name(self.workgroup())
            .set_cluster_identifier(cluster)
            .set_db_user(db_user)
            .set_secret_arn(self.api.secret_arn.clone())
            .database(&self.api.database);
        let accepted = asked
            .send()
            .boxed()
            .await
            .map_err(|error| error::of(what, &error))?;
        self.ended(what, accepted.id.unwrap_or_default()).await
    }

    /// The rows of a query, in a session in which another statement ran before it.
    pub(super) async fn rows_after(
        &self,
        what: &str,
        first: &str,
        sql: &str,
    ) -> Result<Vec<Row>, HandoffError> {
        let told = self
            .batched(what, vec![first.to_owned(), sql.to_owned()], None)
            .await?;
        refused(what, told.ended)?;
        self.result(what, &format!("{}:2", told.id)).await
    }

    /// The same, where there is nothing to look at but whether it went well.
    pub(super) async fn transaction(&self, what: &str, sqls: Vec<String>) -> Result<(), HandoffError> {
        refused(what, self.batch(what, sqls, None).await?)
    }

    /// The rows of a statement that has ended.
    async fn result(&self, what: &str, id: &str) -> Result<Vec<Row>, HandoffError> {
        let (mut rows, mut token) = (Vec::new(), None);
        loop {
            let asked = self.client.get_statement_result().id(id).set_next_token(token);
            let page = asked
                .send()
                .boxed()
                .await
                .map_err(|error| error::of(what, &error))?;
            let page_rows = page.records.iter().map(|row| row.iter().map(text).collect());
            rows.extend(page_rows);
            token = page.next_token;
            if token.is_none() {
                return Ok(rows);
            }
        }
    }

    async fn statement(&self, what: &str, sql: &str) -> Result<Told, HandoffError> {
        let (cluster, db_user) = self.cluster();
        let asked = self
            .client
            .execute_statement()
            .sql(sql)
            .set_workgroup_name(self.workgroup())
            .set_cluster_identifier(cluster)
            .set_db_user(db_user)
            .set_secret_arn(self.api.secret_arn.clone())
            .database(&self.api.database);
        let accepted = asked
            .send()
            .boxed()
            .await
            .map_err(|error| error::of(what, &error))?;
        self.ended(what, accepted.id.unwrap_or_default()).await
    }

    /// Asks until it has ended.
    async fn ended(&self, what: &str, id: String) -> Result<Told, HandoffError> {
        let (mut pause, mut missed, mut looks) = (POLL, 0, 0_u64);
        loop {
            match self.client.describe_statement().id(&id).send().boxed().await {
                Ok(told) => {
                    (missed, looks) = (0, looks + 1);
                    if let Some(ended) = ended(&told, looks == 1) {
                        return Ok(Told { id, ended });
                    }
                }
                Err(error) => {
                    let error = error::of(what, &error);
                    missed += 1;
                    if !error.is_retryable() || missed > MISSED_MAX {
                        return Err(error);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_MAX);
        }
    }
}

impl Ask for DataApiClient {
    async fn rows(&self, what: &str, sql: &str) -> Result<Vec<Row>, HandoffError> {
        let told = self.statement(what, sql).await?;
        refused(what, told.ended)?;
        self.result(what, &told.id).await
    }

    async fn run(&self, what: &str, sql: &str) -> Result<(), HandoffError> {
        // More than a batch takes is several: whatever is run so can be run again.
        for some in statements(sql).chunks(BATCH_MAX) {
            let ended = match some {
                [one] => self.statement(what, one).await?.ended,
                some => self.batch(what, some.to_vec(), None).await?,
            };
            refused(what, ended)?;
        }
        Ok(())
    }
}

/// What a look says of the end; none while it runs.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else it is, it has not ended"
)]
fn ended(told: &DescribeStatementOutput, at_once: bool) -> Option<Ended> {
    let subs = told.sub_statements();
    match told.status()? {
        StatusString::Finished => Some(Ended {
            at_once,
            failure: None,
        }),
        StatusString::Failed | StatusString::Aborted => {
            let is_failed = |status: &StatementStatusString| *status == StatementStatusString::Failed;
            let at = subs.iter().position(|sub| sub.status().is_some_and(is_failed));
            let of_sub = at.and_then(|at| subs.get(at)?.error());
            let message = of_sub.or(told.error()).unwrap_or("it was aborted");
            let message = message.lines().next().unwrap_or_default();
            let message = message.strip_prefix("ERROR: ").unwrap_or(message).to_owned();
            let failure = Some(Failure { at, message });
            Some(Ended { at_once, failure })
        }
        _ => None,
    }
}

fn refused(what: &str, ended: Ended) -> Result<(), HandoffError> {
    match ended.failure {
        None => Ok(()),
        Some(failure) => Err(data_api::refusal(what, failure.message)),
    }
}

/// The warehouse's no.
fn refusal(what: &str, message: String) -> HandoffError {
    HandoffError::Refused {
        what: what.to_owned(),
        refusal: Box::new(Refusal {
            code: String::new(),
            message,
            table: None,
            column: None,
        }),
    }
}

/// A cell as the PostgreSQL protocol would show it.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "the rest are nulls, and types that no query of ours gives"
)]
fn text(field: &Field) -> String {
    match field {
        Field::StringValue(text) => text.clone(),
        Field::LongValue(number) => number.to_string(),
        Field::DoubleValue(number) => number.to_string(),
        Field::BooleanValue(true) => "t".to_owned(),
        Field::BooleanValue(false) => "f".to_owned(),
        _ => String::new(),
    }
}
