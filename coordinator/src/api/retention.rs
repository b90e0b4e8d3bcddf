//! RetentionService: what would leave, and jobs that let it go, hold it or erase a person.

use std::sync::Arc;

use millrace_pipeline::privacy::{Sealer, Subject};
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::v1::job_input::Input;
use millrace_proto::v1::retention_service_server::RetentionService;
use millrace_proto::v1::{self, Job, JobInput, SubmitJobRequest};
use tonic::{Request, Response, Status};

use super::access::Caller;
use super::audit::Deed;
use super::errors::{Reason, Violations, invalid, retry_after, status};
use super::refusals::{self, AGAIN};
use super::{Shared, caller};
use crate::causes::chain;
use crate::retention::hold::{Asked, HoldError, check_reason};
use crate::retention::{RetentionError, plan_of, wire};

/// Longest value of a person, in bytes.
const VALUE_BYTES_MAX: usize = 4096;

/// The service.
pub(crate) struct Retentions(pub(crate) Shared);

#[tonic::async_trait]
impl RetentionService for Retentions {
    async fn plan_retention(
        &self,
        request: Request<v1::PlanRetentionRequest>,
    ) -> Result<Response<v1::PlanRetentionResponse>, Status> {
        let pipeline = Arc::new(self.0.pipeline(&request.into_inner().pipeline).await?);
        let opened = self.0.control.lakes.open(Arc::clone(&pipeline)).await;
        let (lake, state) = opened.map_err(|error| refusals::lake(error.as_ref()))?;
        let planned = plan_of(&pipeline, &lake, &state).await;
        let planned = planned.map_err(|error| refused(&error, pipeline.name.as_str()))?;
        let plan = Some((&planned).into());
        Ok(Response::new(v1::PlanRetentionResponse { plan }))
    }

    async fn apply_retention(
        &self,
        request: Request<v1::ApplyRetentionRequest>,
    ) -> Result<Response<v1::ApplyRetentionResponse>, Status> {
        let caller = caller(&request);
        let v1::ApplyRetentionRequest { request_id, pipeline } = request.into_inner();
        let asked = Input::Retention(v1::RetentionInput {});
        let job = self
            .0
            .submit_upkeep("ApplyRetention", &caller, request_id, pipeline, asked, "");
        let job_id = job.await?.job_id;
        Ok(Response::new(v1::ApplyRetentionResponse { job_id }))
    }

    async fn place_hold(
        &self,
        request: Request<v1::PlaceHoldRequest>,
    ) -> Result<Response<v1::PlaceHoldResponse>, Status> {
        let caller = caller(&request);
        let message = request.into_inner();
        check_hold(&message)?;
        let asked = Input::Hold(v1::HoldInput {
            from: message.from,
            to: message.to,
            reason: message.reason.clone(),
        });
        let (request_id, pipeline) = (message.request_id, message.pipeline);
        let job = self
            .0
            .submit_upkeep("PlaceHold", &caller, request_id, pipeline, asked, &message.reason);
        let job_id = job.await?.job_id;
        Ok(Response::new(v1::PlaceHoldResponse { job_id }))
    }

    async fn release_hold(
        &self,
        request: Request<v1::ReleaseHoldRequest>,
    ) -> Result<Response<v1::ReleaseHoldResponse>, Status> {
        let caller = caller(&request);
        let message = request.into_inner();
        check_reason(&message.reason).map_err(|error| invalid("reason", error.to_string()))?;
        let asked = Input::ReleaseHold(v1::ReleaseHoldInput {
            hold_id: message.hold_id,
            reason: message.reason.clone(),
        });
        let (request_id, pipeline) = (message.request_id, message.pipeline);
        let job = self.0.submit_upkeep(
            "ReleaseHold",
            &caller,
            request_id,
            pipeline,
            asked,
            &message.reason,
        );
        let job_id = job.await?.job_id;
        Ok(Response::new(v1::ReleaseHoldResponse { job_id }))
    }

    async fn erase_subject(
        &self,
        request: Request<v1::EraseSubjectRequest>,
    ) -> Result<Response<v1::EraseSubjectResponse>, Status> {
        let caller = caller(&request);
        let message = request.into_inner();
        let pipeline = self.0.pipeline(&message.pipeline).await?;
        let asked = erasure(&pipeline, &message)?;
        if let Some(before) = self.0.erasure_of_request(&message.request_id, &asked).await? {
            let job_id = before.job_id;
            return Ok(Response::new(v1::EraseSubjectResponse { job_id }));
        }
        let method = if message.dry_run {
            "FindSubject"
        } else {
            "EraseSubject"
        };
        let reason = format!("subject {}", asked.subject);
        let asked = Input::Erasure(asked);
        let (request_id, pipeline) = (message.request_id, message.pipeline);
        let job = self
            .0
            .submit_upkeep(method, &caller, request_id, pipeline, asked, &reason);
        let job_id = job.await?.job_id;
        Ok(Response::new(v1::EraseSubjectResponse { job_id }))
    }
}

impl Shared {
    /// Submits a job of upkeep, and leaves a line in the audit log whatever comes of it.
    async fn submit_upkeep(
        &self,
        method: &'static str,
        caller: &Caller,
        request_id: String,
        pipeline: String,
        asked: Input,
        reason: &str,
    ) -> Result<Job, Status> {
        let resource = format!("pipelines/{pipeline}");
        let submit = SubmitJobRequest {
            request_id,
            pipeline,
            input: Some(JobInput { input: Some(asked) }),
            ..SubmitJobRequest::default()
        };
        let deed = Deed {
            caller,
            method,
            resource: &resource,
            request_id: &submit.request_id,
        };
        deed.note_because(reason, self.submit(&submit, &caller.name).await)
    }

    /// The job of an erasure that was asked for before: each seal of a value is another one.
    async fn erasure_of_request(
        &self,
        request_id: &str,
        asked: &v1::ErasureInput,
    ) -> Result<Option<Job>, Status> {
        let Some(before) = self.registry.job_of_request(request_id).await? else {
            return Ok(None);
        };
        let is_same = |known: &v1::ErasureInput| {
            (&known.subject, &known.column, known.dry_run) == (&asked.subject, &asked.column, asked.dry_run)
        };
        match before.input.as_ref().and_then(|input| input.input.as_ref()) {
            Some(Input::Erasure(known)) if is_same(known) => Ok(Some(before)),
            Some(_) | None => {
                let text = format!(
                    "request {request_id} was made before, for another job: {}",
                    before.job_id
                );
                Err(status(Reason::RequestIdReused, text, &[("job", &before.job_id)]))
            }
        }
    }
}

fn check_hold(message: &v1::PlaceHoldRequest) -> Result<(), Status> {
    let mut violations = Violations::default();
    for (field, stamp) in [("from", &message.from), ("to", &message.to)] {
        let sound = stamp.is_some_and(|stamp| (0..1_000_000_000).contains(&stamp.nanos));
        if !sound {
            violations.add(field, "an event time");
        }
    }
    let at = |stamp: &Option<prost_types::Timestamp>| stamp.as_ref().map(wire::micros).unwrap_or_default();
    let asked = Asked {
        from_us: at(&message.from),
        to_us: at(&message.to),
        reason: message.reason.clone(),
        by: String::new(),
    };
    match asked.check() {
        Ok(()) => {}
        Err(error @ HoldError::Range) => violations.add("to", error.to_string()),
        Err(error) => violations.add("reason", error.to_string()),
    }
    violations.into_result()
}

/// What an erasure's job is told: the value sealed. No text of a refusal holds it.
fn erasure(pipeline: &Pipeline, message: &v1::EraseSubjectRequest) -> Result<v1::ErasureInput, Status> {
    if message.value.len() > VALUE_BYTES_MAX {
        return Err(invalid("value", format!("at most {VALUE_BYTES_MAX} bytes")));
    }
    let column = Some(message.column.as_str()).filter(|column| !column.is_empty());
    let subject = Subject::new(pipeline, &message.value, column);
    let subject = subject.map_err(|error| invalid("column", chain(&error)))?;
    let sealer = Sealer::of(pipeline).map_err(|error| invalid("pipeline", chain(&error)))?;
    Ok(v1::ErasureInput {
        subject: subject.id().to_owned(),
        sealed_value: sealer.seal(message.value.as_bytes()),
        column: message.column.clone(),
        dry_run: message.dry_run,
    })
}

fn refused(error: &RetentionError, pipeline: &str) -> Status {
    let text = chain(error);
    match error {
        RetentionError::Warehouse(source) | RetentionError::Rows(source) if !source.is_retryable() => {
            status(Reason::WarehouseRefused, text, &[("pipeline", pipeline)])
        }
        RetentionError::Warehouse(_) | RetentionError::Rows(_) => {
            retry_after(Reason::WarehouseUnavailable, text, AGAIN)
        }
        RetentionError::Run(_) | RetentionError::Hold(_) => retry_after(Reason::LakeUnavailable, text, AGAIN),
    }
}
