//! QuarantineService: rejected events without their content. Their bytes leave the lake only through the command
//! line, in an environment where they may be clear.

use std::sync::Arc;

use millrace_proto::v1::job_input::Input;
use millrace_proto::v1::quarantine_service_server::QuarantineService;
use millrace_proto::v1::{self, JobInput, RedriveInput, SubmitJobRequest};
use tonic::{Request, Response, Status};

use super::audit::Deed;
use super::errors::invalid;
use super::pages::Page;
use super::{Shared, caller, refusals};
use crate::quarantine::{Record, by_reason, records_of};

/// The service.
pub(crate) struct Quarantine(pub(crate) Shared);

#[tonic::async_trait]
impl QuarantineService for Quarantine {
    async fn summarize_quarantine(
        &self,
        request: Request<v1::SummarizeQuarantineRequest>,
    ) -> Result<Response<v1::SummarizeQuarantineResponse>, Status> {
        let all = self
            .0
            .quarantined(&request.into_inner().pipeline, usize::MAX)
            .await?;
        let reason = |(kind, column, events): (String, Option<String>, u64)| v1::QuarantineReason {
            kind,
            column: column.unwrap_or_default(),
            events,
        };
        let reasons = by_reason(&all).into_iter().map(reason).collect();
        let events = all.len() as u64;
        Ok(Response::new(v1::SummarizeQuarantineResponse { reasons, events }))
    }

    async fn list_quarantine(
        &self,
        request: Request<v1::ListQuarantineRequest>,
    ) -> Result<Response<v1::ListQuarantineResponse>, Status> {
        let message = request.into_inner();
        let list = format!("quarantine {}", message.pipeline);
        let page = Page::of(message.page_size, &message.page_token, list)?;
        let all = self.0.quarantined(&message.pipeline, usize::MAX).await?;
        let start = match &page.after {
            None => 0,
            // An event that was redriven since is gone, and its place with it.
            Some(after) => all
                .iter()
                .position(|record| id(record) == *after)
                .map(|at| at + 1)
                .ok_or_else(|| {
                    invalid(
                        "page_token",
                        "start again without one: what it pointed to was redriven",
                    )
                })?,
        };
        let mut events: Vec<_> = all.iter().skip(start).take(page.size + 1).map(event).collect();
        let next_page_token = page.cut(&mut events, |event| &event.id);
        Ok(Response::new(v1::ListQuarantineResponse {
            events,
            next_page_token,
        }))
    }

    async fn redrive_quarantine(
        &self,
        request: Request<v1::RedriveQuarantineRequest>,
    ) -> Result<Response<v1::RedriveQuarantineResponse>, Status> {
        let caller = caller(&request);
        let v1::RedriveQuarantineRequest {
            request_id,
            pipeline,
            environment,
        } = request.into_inner();
        let resource = format!("pipelines/{pipeline}/quarantine");
        let submit = SubmitJobRequest {
            request_id,
            pipeline,
            input: Some(JobInput {
                input: Some(Input::Redrive(RedriveInput {})),
            }),
            environment,
            ..SubmitJobRequest::default()
        };
        let deed = Deed {
            caller: &caller,
            method: "RedriveQuarantine",
            resource: &resource,
            request_id: &submit.request_id,
        };
        let job = deed.note(self.0.submit(&submit, &caller.name).await)?;
        Ok(Response::new(v1::RedriveQuarantineResponse {
            job_id: job.job_id,
        }))
    }
}

impl Shared {
    async fn quarantined(&self, pipeline: &str, stop_after: usize) -> Result<Vec<Record>, Status> {
        let pipeline = Arc::new(self.pipeline(pipeline).await?);
        let opened = self.control.lakes.open(pipeline).await;
        let (lake, state) = opened.map_err(|error| refusals::lake(error.as_ref()))?;
        Ok(records_of(&lake, &state, stop_after).await?)
    }
}

fn id(record: &Record) -> String {
    format!("{}#{}", record.file, record.row)
}

fn event(record: &Record) -> v1::QuarantinedEvent {
    let reason = |fault| serde_json::to_string(fault).unwrap_or_default();
    v1::QuarantinedEvent {
        id: id(record),
        object: record.object.clone(),
        line: record.line,
        offset: record.offset,
        reasons: record.reasons.iter().map(reason).collect(),
        batch_id: record.batch.to_string(),
        split: record.split,
        sealed: record.sealed,
    }
}
