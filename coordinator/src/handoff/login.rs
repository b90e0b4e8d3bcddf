//! Logging in to Redshift by IAM: AWS gives a user and a password that last an hour at most, for connections of the PostgreSQL
//! protocol.
//!
//! In: what the pipeline file says of it, the lake's way to AWS. Out: a connection, over TLS, as that user. The login is fetched
//! with the credentials that S3 is reached with, and kept until shortly before it ends.
//!
//! | declared                | asked                                            | answered in |
//! |-------------------------|--------------------------------------------------|-------------|
//! | `cluster` and `db_user` | `redshift:GetClusterCredentials`                 | XML         |
//! | `cluster`               | `redshift:GetClusterCredentialsWithIAM`          | XML         |
//! | `workgroup`             | `redshift-serverless:GetCredentials`             | JSON        |
//!
//! A connection outlives its login, which matters when one is made only. A kept login that is refused is fetched anew, once.

mod answer;
mod question;

use std::sync::Arc;

use http_body_util::BodyExt;
use millrace_pipeline::source::S3Options;
use millrace_pipeline::spec::model::{Iam, RedshiftTarget, Secret};
use object_store::ClientOptions;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpConnector, ReqwestConnector};
use parking_lot::Mutex;

use super::HandoffError;
use super::connection::Connection;
use super::data_api::ApiError;
use crate::causes::chain;
use crate::lifecycle::now_us;
use question::Question;

/// A login that ends sooner is not used for a new connection.
const LEFT_US: i64 = 120_000_000;

/// A user and a password.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: Secret,
    until_us: i64,
}

impl Login {
    fn lasts_at(&self, now_us: i64) -> bool {
        self.until_us.saturating_sub(now_us) > LEFT_US
    }
}

/// The login that is known, from one connection to the next.
pub(super) type Kept = Arc<Mutex<Option<Login>>>;

/// Connects.
pub(super) async fn connect(
    dsn: &Secret,
    iam: &Iam,
    s3: &S3Options,
    kept: &Kept,
) -> Result<Connection, HandoffError> {
    let known = kept.lock().clone().filter(|login| login.lasts_at(now_us()));
    if let Some(login) = known {
        match Connection::open_as(dsn, &login).await {
            Err(error) if error.is_login_refused() => {
                tracing::info!(
                    user = login.user,
                    error = error.text(),
                    "a login to the warehouse is fetched anew"
                );
            }
            connected => return connected,
        }
    }
    *kept.lock() = None;
    let database = Connection::database(dsn)?;
    let login = fetch(iam, &database, s3)
        .await
        .map_err(|source| HandoffError::Login {
            target: shown(&iam.target),
            source: Box::new(source),
        })?;
    let connection = Connection::open_as(dsn, &login).await?;
    *kept.lock() = Some(login);
    Ok(connection)
}

fn shown(target: &RedshiftTarget) -> String {
    match target {
        RedshiftTarget::Workgroup(name) => format!("workgroup `{name}`"),
        RedshiftTarget::Cluster { name, db_user: None } => format!("cluster `{name}`"),
        RedshiftTarget::Cluster {
            name,
            db_user: Some(user),
        } => format!("user `{user}` of cluster `{name}`"),
    }
}

async fn fetch(iam: &Iam, database: &str, s3: &S3Options) -> Result<Login, ApiError> {
    let unusable = |error: &dyn std::error::Error| ApiError::unusable(chain(error));
    let no_answer = |error: &dyn std::error::Error| ApiError::no_answer(chain(error));
    let region = iam.region.as_deref().or(s3.region.as_deref()).ok_or_else(|| {
        ApiError::unusable(
            "no region is known; right is `warehouse.redshift.iam.region: eu-central-1`".to_owned(),
        )
    })?;
    let question = Question::of(&iam.target, database);
    let url = iam.endpoint.clone().unwrap_or_else(|| question.url(region));
    let credentials = s3.credentials().map_err(|error| unusable(&error))?;
    let credential = credentials
        .get_credential()
        .await
        .map_err(|error| no_answer(&error))?;
    let mut request = question
        .request(&url)
        .ok_or_else(|| ApiError::unusable(format!("`{url}` is no address")))?;
    AwsAuthorizer::new(&credential, question.service, region).authorize(&mut request, None);
    let options = ClientOptions::new().with_allow_http(url.starts_with("http://"));
    let client = ReqwestConnector::default()
        .connect(&options)
        .map_err(|error| unusable(&error))?;
    let answer = client.execute(request).await.map_err(|error| no_answer(&error))?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| no_answer(&error))?.to_bytes();
    answer::read(status, &String::from_utf8_lossy(&body), question.protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_not_used_shortly_before_it_ends() {
        let login = Login {
            user: "IAM:loader".to_owned(),
            password: Secret::new("hunter2".to_owned()),
            until_us: 3_600_000_000,
        };
        assert!(login.lasts_at(0) && login.lasts_at(3_479_999_999));
        assert!(!login.lasts_at(3_480_000_000) && !login.lasts_at(i64::MAX));
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
