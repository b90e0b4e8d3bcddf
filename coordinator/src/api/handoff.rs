//! HandoffService: what the warehouse holds of a pipeline, and decisions about held batches.
//!
//! The loads themselves are the leader's own doing: nobody asks for them here.

use std::sync::Arc;

use chrono::Utc;
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::BatchId;
use millrace_proto::v1::handoff_service_server::HandoffService;
use millrace_proto::v1::{self, LoadState};
use tonic::{Request, Response, Status};

use super::access::Caller;
use super::audit::Deed;
use super::errors::{Reason, Violations, retry_after, status};
use super::pages::Page;
use super::refusals::AGAIN;
use super::{Shared, caller, refusals};
use crate::handoff::hold::{self, Decision, Verdict};
use crate::handoff::report::{Finding, Report, report};
use crate::handoff::{self, Candidate, HandoffError, Known, Standing};
use crate::lake::Lake;

/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 2000;

/// The service.
pub(crate) struct Handoffs(pub(crate) Shared);

#[tonic::async_trait]
impl HandoffService for Handoffs {
    async fn list_loads(
        &self,
        request: Request<v1::ListLoadsRequest>,
    ) -> Result<Response<v1::ListLoadsResponse>, Status> {
        let message = request.into_inner();
        let asked = message.state();
        let list = format!("loads {} {}", message.pipeline, asked.as_str_name());
        let page = Page::of(message.page_size, &message.page_token, list)?;
        let (pipeline, lake, known) = self.0.known(&message.pipeline).await?;
        let all = match asked {
            LoadState::Held | LoadState::Discarded => handoff::held(&lake, &known).await,
            LoadState::Unspecified | LoadState::Loaded | LoadState::Waiting | LoadState::Unfinished => {
                handoff::standings(&pipeline, &lake, &known).await
            }
        };
        let all = all.map_err(|error| refused(&error, &message.pipeline))?;
        let count = |standing| {
            let found = all.iter().filter(|one| one.standing == standing).count();
            u32::try_from(found).unwrap_or(u32::MAX)
        };
        let (waiting, held) = (count(Standing::Waiting), count(Standing::Held));
        let after = |one: &&Candidate| {
            page.after
                .as_deref()
                .is_none_or(|after| one.batch.as_str() > after)
        };
        let mut loads: Vec<v1::Load> = all
            .iter()
            .filter(|one| asked == LoadState::Unspecified || state(one.standing) == asked)
            .filter(after)
            .take(page.size + 1)
            .map(load)
            .collect();
        let next_page_token = page.cut(&mut loads, |load| &load.batch_id);
        Ok(Response::new(v1::ListLoadsResponse {
            loads,
            next_page_token,
            waiting,
            held,
        }))
    }

    async fn report_warehouse(
        &self,
        request: Request<v1::ReportWarehouseRequest>,
    ) -> Result<Response<v1::ReportWarehouseResponse>, Status> {
        let message = request.into_inner();
        let (pipeline, lake, known) = self.0.known(&message.pipeline).await?;
        let report = report(&pipeline, &lake, &known).await;
        let report = report.map_err(|error| refused(&error, &message.pipeline))?;
        Ok(Response::new(report.into()))
    }

    async fn release_batch(
        &self,
        request: Request<v1::ReleaseBatchRequest>,
    ) -> Result<Response<v1::ReleaseBatchResponse>, Status> {
        let caller = caller(&request);
        let v1::ReleaseBatchRequest {
            pipeline,
            batch_id,
            reason,
        } = request.into_inner();
        let asked = Asked {
            caller: &caller,
            pipeline,
            batch_id,
            reason,
            verdict: Verdict::Released,
        };
        let decision = Some(self.0.decide("ReleaseBatch", asked).await?);
        Ok(Response::new(v1::ReleaseBatchResponse { decision }))
    }

    async fn discard_batch(
        &self,
        request: Request<v1::DiscardBatchRequest>,
    ) -> Result<Response<v1::DiscardBatchResponse>, Status> {
        let caller = caller(&request);
        let v1::DiscardBatchRequest {
            pipeline,
            batch_id,
            reason,
        } = request.into_inner();
        let asked = Asked {
            caller: &caller,
            pipeline,
            batch_id,
            reason,
            verdict: Verdict::Discarded,
        };
        let decision = Some(self.0.decide("DiscardBatch", asked).await?);
        Ok(Response::new(v1::DiscardBatchResponse { decision }))
    }
}

/// A decision as it is asked for.
struct Asked<'a> {
    caller: &'a Caller,
    pipeline: String,
    batch_id: String,
    reason: String,
    verdict: Verdict,
}

impl Shared {
    /// Decides, and leaves a line in the audit log whatever comes of it.
    async fn decide(&self, method: &'static str, asked: Asked<'_>) -> Result<v1::Decision, Status> {
        let resource = format!("pipelines/{}/batches/{}", asked.pipeline, asked.batch_id);
        let deed = Deed {
            caller: asked.caller,
            method,
            resource: &resource,
            request_id: "",
        };
        let reason = asked.reason.clone();
        deed.note_because(&reason, self.try_decide(asked).await)
    }

    async fn try_decide(&self, asked: Asked<'_>) -> Result<v1::Decision, Status> {
        // Only its leader's word counts: who has lost the lead sends the call on.
        self.control.lead()?;
        let batch = checked(&asked)?;
        let (_, lake, known) = self.known(&asked.pipeline).await?;
        let wanted = Decision {
            verdict: asked.verdict,
            reason: asked.reason,
            by: asked.caller.name.clone(),
            at: Utc::now(),
        };
        let stands = hold::decide(&lake, &known.state, &batch, &wanted).await;
        let stands = stands.map_err(|error| refused(&error, &asked.pipeline))?;
        Ok(decision(&stands))
    }

    /// A pipeline with what its handoff goes by.
    async fn known(&self, name: &str) -> Result<(Arc<Pipeline>, Lake, Known), Status> {
        let pipeline = Arc::new(self.pipeline(name).await?);
        if pipeline.warehouse.is_none() {
            let text = format!("pipeline `{name}` has no `warehouse`: nothing of it is handed off");
            return Err(status(Reason::NoWarehouse, text, &[("pipeline", name)]));
        }
        let open = handoff::open_jobs(&self.registry, &pipeline).await?;
        let opened = self.control.lakes.open(Arc::clone(&pipeline)).await;
        let (lake, state) = opened.map_err(|error| refusals::lake(error.as_ref()))?;
        Ok((pipeline, lake, Known { state, open }))
    }
}

/// The batch that is meant, if the request can be one.
fn checked(asked: &Asked<'_>) -> Result<BatchId, Status> {
    let mut violations = Violations::default();
    let batch = BatchId::try_from(asked.batch_id.clone()).ok();
    if batch.is_none() {
        violations.add("batch_id", "a batch, as `ListLoads` names it");
    }
    if asked.reason.trim().is_empty() || asked.reason.len() > REASON_BYTES_MAX {
        let right = format!("why, in at most {REASON_BYTES_MAX} bytes: it is kept with the decision");
        violations.add("reason", right);
    }
    violations.into_result()?;
    batch.ok_or_else(|| Status::internal("a batch id without violations"))
}

/// The one place where a handoff's error meets gRPC.
fn refused(error: &HandoffError, pipeline: &str) -> Status {
    let text = error.text();
    match error.kind() {
        "lake" => retry_after(Reason::LakeUnavailable, text, AGAIN),
        _ if matches!(error, HandoffError::Undecidable { .. }) => {
            status(Reason::BatchNotHeld, text, &[("pipeline", pipeline)])
        }
        _ if error.is_retryable() => retry_after(Reason::WarehouseUnavailable, text, AGAIN),
        _ => status(Reason::WarehouseRefused, text, &[("pipeline", pipeline)]),
    }
}

fn load(candidate: &Candidate) -> v1::Load {
    v1::Load {
        batch_id: candidate.batch.to_string(),
        job_id: candidate.job.to_string(),
        attempt: candidate.attempt.to_string(),
        rows: candidate.rows,
        state: state(candidate.standing).into(),
        decision: candidate.decision.as_ref().map(decision),
    }
}

fn state(standing: Standing) -> LoadState {
    match standing {
        Standing::Loaded => LoadState::Loaded,
        Standing::Waiting => LoadState::Waiting,
        Standing::Unfinished => LoadState::Unfinished,
        Standing::Held => LoadState::Held,
        Standing::Discarded => LoadState::Discarded,
    }
}

fn decision(decision: &Decision) -> v1::Decision {
    let verdict = match decision.verdict {
        Verdict::Released => v1::Verdict::Released,
        Verdict::Discarded => v1::Verdict::Discarded,
    };
    v1::Decision {
        verdict: verdict.into(),
        reason: decision.reason.clone(),
        decider: decision.by.clone(),
        decide_time: Some(std::time::SystemTime::from(decision.at).into()),
    }
}

impl From<Report> for v1::ReportWarehouseResponse {
    fn from(report: Report) -> Self {
        let fact = |(name, value)| v1::WarehouseFact { name, value };
        let finding = |finding: Finding| v1::WarehouseFinding {
            level: finding.level.name().to_owned(),
            what: finding.what,
            found: finding.found,
            wanted: finding.wanted,
            statement: finding.statement,
        };
        Self {
            warehouse: report.warehouse.to_owned(),
            table: report.table,
            exists: report.exists,
            facts: report.facts.into_iter().map(fact).collect(),
            findings: report.findings.into_iter().map(finding).collect(),
            waiting: report.waiting,
            unfinished: report.unfinished,
            held: report.held,
        }
    }
}
