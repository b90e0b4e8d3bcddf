//! A load by the Data API: one batch of statements, which is one transaction without a look in between. So conditions are
//! statements that fail ([`super::transaction`]):
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

use super::transaction::{Loaded, Step, Transaction};
use super::{DataApiClient, Salt};
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
    let transaction = Transaction {
        client: loader.client,
        salt: loader.salt,
        table: loader.table,
        what: redshift::what(loader.table, group),
        steps: steps(loader, pipeline, group, columns, source.as_deref()),
    };
    transaction.run(|| loaded(loader, pipeline, group), hook).await
}

async fn loaded(loader: &Loader<'_>, pipeline: &Pipeline, group: &[Load]) -> Result<Loaded, HandoffError> {
    let loaded = catalogue::loaded(loader.client, loader.ledger, pipeline).await?;
    let digest = |load: &Load| loaded.get(&load.candidate.batch);
    Ok(
        if group
            .iter()
            .all(|load| digest(load) == Some(&load.candidate.digest))
        {
            Loaded::All
        } else if group.iter().any(|load| digest(load).is_some()) {
            Loaded::Some
        } else {
            Loaded::None
        },
    )
}

fn steps(
    loader: &Loader<'_>,
    pipeline: &Pipeline,
    group: &[Load],
    columns: &[String],
    source: Option<&str>,
) -> Vec<Step> {
    let mut steps = vec![
        Step::plain(format!("LOCK TABLE {}", loader.ledger)),
        Step::claim(&redshift::there(loader.ledger, pipeline, group)),
    ];
    if let Some(url) = source {
        let nested = redshift::has_lists(pipeline);
        let copy = redshift::copy_statement(loader.table, columns, url, loader.role, nested);
        steps.push(Step::plain(copy));
        steps.push(Step::count(group.iter().map(|load| load.candidate.rows).sum()));
    }
    steps.push(Step::plain(redshift::note(loader.ledger, pipeline, group)));
    steps
}
