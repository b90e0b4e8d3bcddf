//! A load by the Data API: one batch of statements, which is one transaction without a look in between. So conditions are
//! statements that fail:
//!
//! ```text
//! LOCK millrace_loads
//! SELECT 1 / CASE WHEN count(*) = 0 THEN 1 ELSE 0 END FROM millrace_loads WHERE ...   another loader was faster: it fails
//! COPY table ...
//! SELECT 1 / CASE WHEN pg_last_copy_count() = N THEN 1 ELSE 0 END                     not the manifests' rows: it fails
//! INSERT INTO millrace_loads ...
//! ```
//!
//! Which statement failed tells which condition did; whether another loader was faster, the load ledger tells.

use millrace_pipeline::spec::model::Pipeline;
use uuid::Uuid;

use super::{DataApiClient, Ended, Salt, refusal};
use crate::handoff::catalogue;
use crate::handoff::session::{Load, Outcome};
use crate::handoff::{HandoffError, redshift};
use crate::lake::Lake;
use crate::lifecycle::{Hook, Moment};

/// By whom, and into what.
pub(in crate::handoff) struct Loader<'a> {
    pub(in crate::handoff) client: &'a DataApiClient,
    pub(in crate::handoff) salt: &'a Salt,
    pub(in crate::handoff) table: &'a str,
    pub(in crate::handoff) ledger: &'a str,
    pub(in crate::handoff) role: Option<&'a str>,
}

/// A statement, and what it means that it fails.
struct Step {
    sql: String,
    condition: Option<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// None of the batches is in the load ledger.
    Claim,
    /// COPY brought as many rows as the manifests say.
    Count(u64),
}

fn plain(sql: String) -> Step {
    Step { sql, condition: None }
}

/// Loads a group of batches, or changes nothing.
pub(in crate::handoff) async fn load(
    loader: &Loader<'_>,
    pipeline: &Pipeline,
    lake: &Lake,
    group: &[Load],
    columns: &[String],
    hook: &Hook,
) -> Result<Outcome, HandoffError> {
    hook(Moment::Loading);
    let source = redshift::put_manifest(lake, group).await?;
    let steps = steps(loader, pipeline, group, columns, source.as_deref());
    let what = redshift::what(loader.table, group);
    hook(Moment::Claimed);
    let mut ended = batch(loader, &what, &steps).await?;
    if ended.at_once {
        // It may be an earlier try's end: what is so now, the load ledger tells. A try of our own has a token of its own.
        match (there(loader, pipeline, group).await?, &ended.failure) {
            (There::All, None) => {
                hook(Moment::Loaded);
                return Ok(Outcome::Loaded);
            }
            (There::All | There::Some, _) => return Ok(Outcome::WasThere),
            (There::None, _) => {}
        }
        *loader.salt.lock() = Some(Uuid::new_v4());
        ended = batch(loader, &what, &steps).await?;
    }
    hook(Moment::Copied);
    let Some(failure) = ended.failure else {
        hook(Moment::Loaded);
        return Ok(Outcome::Loaded);
    };
    *loader.salt.lock() = Some(Uuid::new_v4());
    if there(loader, pipeline, group).await? != There::None {
        return Ok(Outcome::WasThere);
    }
    let condition = failure.at.and_then(|at| steps.get(at)?.condition);
    let error = refusal(&what, failure.message);
    match condition {
        Some(Condition::Count(expected)) if !error.is_retryable() => Err(HandoffError::Count {
            table: loader.table.to_owned(),
            expected,
        }),
        Some(Condition::Count(_) | Condition::Claim) | None => Err(error),
    }
}

/// How much of a group is in the load ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    All,
    Some,
    None,
}

async fn there(loader: &Loader<'_>, pipeline: &Pipeline, group: &[Load]) -> Result<There, HandoffError> {
    let loaded = catalogue::loaded(loader.client, loader.ledger, pipeline).await?;
    let digest = |load: &Load| loaded.get(&load.candidate.batch);
    Ok(
        if group
            .iter()
            .all(|load| digest(load) == Some(&load.candidate.digest))
        {
            There::All
        } else if group.iter().any(|load| digest(load).is_some()) {
            There::Some
        } else {
            There::None
        },
    )
}

async fn batch(loader: &Loader<'_>, what: &str, steps: &[Step]) -> Result<Ended, HandoffError> {
    let sqls: Vec<String> = steps.iter().map(|step| step.sql.clone()).collect();
    let token = token(&sqls, *loader.salt.lock());
    loader.client.batch(what, sqls, Some(token)).await
}

/// The same load has the same token, unless an earlier one is used up. At most 64 characters are allowed.
fn token(sqls: &[String], salt: Option<Uuid>) -> String {
    let mut hasher = blake3::Hasher::new();
    for sql in sqls {
        hasher.update(&(sql.len() as u64).to_le_bytes());
        hasher.update(sql.as_bytes());
    }
    if let Some(salt) = salt {
        hasher.update(salt.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn steps(
    loader: &Loader<'_>,
    pipeline: &Pipeline,
    group: &[Load],
    columns: &[String],
    source: Option<&str>,
) -> Vec<Step> {
    let found = redshift::there(loader.ledger, pipeline, group);
    let mut steps = vec![
        plain(format!("LOCK TABLE {}", loader.ledger)),
        Step {
            sql: format!("SELECT 1 / CASE WHEN count(*) = 0 THEN 1 ELSE 0 END {found}"),
            condition: Some(Condition::Claim),
        },
    ];
    if let Some(url) = source {
        let rows: u64 = group.iter().map(|load| load.candidate.rows).sum();
        let nested = redshift::has_lists(pipeline);
        let copy = redshift::copy_statement(loader.table, columns, url, loader.role, nested);
        steps.push(plain(copy));
        steps.push(Step {
            sql: format!("SELECT 1 / CASE WHEN pg_last_copy_count() = {rows} THEN 1 ELSE 0 END"),
            condition: Some(Condition::Count(rows)),
        });
    }
    steps.push(plain(redshift::note(loader.ledger, pipeline, group)));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_loads_own_until_it_is_used_up() {
        let sqls = ["LOCK t".to_owned(), "COPY t".to_owned()];
        let others = ["LOCK tC".to_owned(), "OPY t".to_owned()];
        assert_eq!(token(&sqls, None), token(&sqls, None));
        assert_ne!(token(&sqls, None), token(&others, None));
        assert_ne!(token(&sqls, None), token(&sqls, Some(Uuid::new_v4())));
        assert_eq!(token(&sqls, None).len(), 64);
    }
}
