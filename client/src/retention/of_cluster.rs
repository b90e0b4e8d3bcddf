//! Retention and erasure of a pipeline that a cluster runs: each is a job of its leader, which is waited for.

use anyhow::{Result, anyhow, bail};
use futures::StreamExt;
use millrace_client::Client;
use millrace_client::v1::{self, JobState, upkeep_outcome::Outcome as Told};
use millrace_coordinator::erasure;
use millrace_coordinator::ledger::LegalHold;
use millrace_coordinator::retention::hold::Asked;
use millrace_coordinator::retention::{Outcome, wire};

use crate::reach::Reach;

/// What would leave now.
pub(super) fn plan(reach: &Reach, name: &str) -> Result<Outcome> {
    let plan = reach
        .clone()
        .patient()
        .with(async |client| Ok(client.plan_retention(name).await?))?;
    Ok(plan.into())
}

/// Lets it go.
pub(super) fn apply(reach: &Reach, name: &str) -> Result<Outcome> {
    let told = reach.with(async |client| {
        let job = client.apply_retention(name).await?;
        ended(&client, &job).await
    })?;
    match told {
        Told::Retention(outcome) => Ok(outcome.into()),
        Told::Hold(_) | Told::Erasure(_) => Err(strange()),
    }
}

/// Places a legal hold.
pub(super) fn hold(reach: &Reach, name: &str, asked: &Asked) -> Result<LegalHold> {
    let request = v1::PlaceHoldRequest {
        pipeline: name.to_owned(),
        from: Some(wire::stamp(asked.from_us)),
        to: Some(wire::stamp(asked.to_us)),
        reason: asked.reason.clone(),
        ..v1::PlaceHoldRequest::default()
    };
    let told = reach.with(async |client| {
        let job = client.place_hold(request).await?;
        ended(&client, &job).await
    })?;
    held(told)
}

/// Releases one.
pub(super) fn release(reach: &Reach, name: &str, hold: &str, reason: &str) -> Result<LegalHold> {
    let told = reach.with(async |client| {
        let job = client.release_hold(name, hold, reason).await?;
        ended(&client, &job).await
    })?;
    held(told)
}

/// Finds a person, or erases them.
pub(super) fn erase(
    reach: &Reach,
    name: &str,
    value: &str,
    column: Option<&str>,
    apply: bool,
) -> Result<erasure::Outcome> {
    let told = reach.with(async |client| {
        let column = column.unwrap_or_default();
        let job = client.erase_subject(name, value, column, !apply).await?;
        ended(&client, &job).await
    })?;
    match told {
        Told::Erasure(outcome) => Ok(outcome.into()),
        Told::Hold(_) | Told::Retention(_) => Err(strange()),
    }
}

fn held(told: Told) -> Result<LegalHold> {
    match told {
        Told::Hold(hold) => Ok(hold.into()),
        Told::Retention(_) | Told::Erasure(_) => Err(strange()),
    }
}

fn strange() -> anyhow::Error {
    anyhow!("the job has another outcome than was asked for")
}

/// The outcome of a job, once it has ended.
async fn ended(client: &Client, id: &str) -> Result<Told> {
    let mut seen = Box::pin(client.watch_job(id));
    let mut last: Option<v1::Job> = None;
    while let Some(job) = seen.next().await {
        last = Some(job?);
    }
    let Some(job) = last else {
        bail!("nothing is known of job {id}");
    };
    if job.state() != JobState::Succeeded {
        let why = if job.error.is_empty() {
            "it was cancelled"
        } else {
            &job.error
        };
        bail!("job {id} did not succeed: {why}");
    }
    job.upkeep.and_then(|upkeep| upkeep.outcome).ok_or_else(strange)
}
