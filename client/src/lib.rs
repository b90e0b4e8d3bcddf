//! The client library: jobs, pipelines, quarantine and the cluster, over gRPC.
//!
//! In: addresses of coordinators, any of them. Out: answers of whoever leads. A coordinator that is gone is
//! left for another one, what is safe to repeat is repeated within the deadline, and a watched job stays watched
//! through a change of leaders.
//!
//! ```no_run
//! # async fn example() -> Result<(), millrace_client::ClientError> {
//! use millrace_client::{Client, Options};
//!
//! let client = Client::connect(Options::new(["127.0.0.1:7400"])).await?;
//! for job in client.list_jobs("pipeline=shop AND state=failed").await? {
//!     client.retry_job(&job.job_id).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `node` off (the library alone) neither the data path nor the coordinator is compiled.

mod connection;
mod error;
mod watch;

use futures::Stream;
pub use millrace_proto::v1;
use v1::cluster_service_client::ClusterServiceClient;
use v1::handoff_service_client::HandoffServiceClient;
use v1::job_service_client::JobServiceClient;
use v1::model_service_client::ModelServiceClient;
use v1::pipeline_service_client::PipelineServiceClient;
use v1::quarantine_service_client::QuarantineServiceClient;
use v1::retention_service_client::RetentionServiceClient;

pub use connection::{Options, Tls};
pub use error::{ClientError, Refusal, Violation};

use connection::{Connection, Repeat};

/// Items of a page when everything is listed.
const PAGE: i32 = 500;

/// A connection to the cluster. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Connection,
}

/// One unary call: which client, which method, whether it may be repeated.
macro_rules! call {
    ($self:ident, $service:ident.$method:ident, $repeat:expr, $message:expr) => {{
        let most = $self.connection.message_bytes();
        $self
            .connection
            .call($message, $repeat, move |channel, request| async move {
                $service::new(channel)
                    .max_decoding_message_size(most)
                    .max_encoding_message_size(most)
                    .$method(request)
                    .await
            })
            .await
    }};
}

/// Every page of a list.
macro_rules! every_page {
    ($request:ident, $response:ident, $page:expr, $items:ident) => {{
        let mut all = Vec::new();
        loop {
            let $response = $page;
            all.extend($response.$items);
            if $response.next_page_token.is_empty() {
                break Ok(all);
            }
            $request.page_token = $response.next_page_token;
        }
    }};
}

impl Client {
    /// Connects to the first coordinator that answers.
    ///
    /// # Errors
    /// When an address is none, or nobody answers within the deadline.
    pub async fn connect(options: Options) -> Result<Self, ClientError> {
        let connection = Connection::open(options).await?;
        Ok(Self { connection })
    }

    /// Submits a job. A request without an id is given one, so that repeating it is safe.
    ///
    /// # Errors
    /// When it is refused, or nobody answers within the deadline.
    pub async fn submit_job(&self, mut request: v1::SubmitJobRequest) -> Result<v1::Job, ClientError> {
        if request.request_id.is_empty() {
            request.request_id = uuid::Uuid::new_v4().to_string();
        }
        let response = call!(self, JobServiceClient.submit_job, Repeat::Safe, request)?;
        response.job.ok_or(ClientError::Incomplete { field: "job" })
    }

    /// One job.
    ///
    /// # Errors
    /// When there is none, or nobody answers within the deadline.
    pub async fn get_job(&self, job_id: &str) -> Result<v1::Job, ClientError> {
        let job_id = job_id.to_owned();
        let response = call!(
            self,
            JobServiceClient.get_job,
            Repeat::Safe,
            v1::GetJobRequest { job_id }
        )?;
        response.job.ok_or(ClientError::Incomplete { field: "job" })
    }

    /// One page of jobs, newest first.
    ///
    /// # Errors
    /// When the filter or the token is none, or nobody answers within the deadline.
    pub async fn list_jobs_page(
        &self,
        request: v1::ListJobsRequest,
    ) -> Result<v1::ListJobsResponse, ClientError> {
        call!(self, JobServiceClient.list_jobs, Repeat::Safe, request)
    }

    /// Every job that a filter takes, newest first.
    ///
    /// # Errors
    /// As for [`Self::list_jobs_page`].
    pub async fn list_jobs(&self, filter: &str) -> Result<Vec<v1::Job>, ClientError> {
        let mut request = v1::ListJobsRequest {
            page_size: PAGE,
            filter: filter.to_owned(),
            ..v1::ListJobsRequest::default()
        };
        every_page!(request, page, self.list_jobs_page(request.clone()).await?, jobs)
    }

    /// The job as it is, and then at each change until it has ended. Goes on through a change of leaders; what is
    /// older than what was seen is left out.
    pub fn watch_job(&self, job_id: &str) -> impl Stream<Item = Result<v1::Job, ClientError>> + Send + use<> {
        watch::job(self.connection.clone(), job_id.to_owned())
    }

    /// Cancels a job.
    ///
    /// # Errors
    /// When there is none, it has ended, or nobody answers within the deadline.
    pub async fn cancel_job(&self, job_id: &str) -> Result<v1::Job, ClientError> {
        let job_id = job_id.to_owned();
        let response = call!(
            self,
            JobServiceClient.cancel_job,
            Repeat::Safe,
            v1::CancelJobRequest { job_id }
        )?;
        response.job.ok_or(ClientError::Incomplete { field: "job" })
    }

    /// Runs a failed or cancelled job again.
    ///
    /// # Errors
    /// When there is none, it has not failed, or nobody answers within the deadline.
    pub async fn retry_job(&self, job_id: &str) -> Result<v1::Job, ClientError> {
        let request = v1::RetryJobRequest {
            job_id: job_id.to_owned(),
            request_id: uuid::Uuid::new_v4().to_string(),
        };
        let response = call!(self, JobServiceClient.retry_job, Repeat::Safe, request)?;
        response.job.ok_or(ClientError::Incomplete { field: "job" })
    }

    /// One page of a pipeline's event hours, newest first.
    ///
    /// # Errors
    /// When there is no such pipeline, or nobody answers within the deadline.
    pub async fn list_hours(
        &self,
        request: v1::ListHoursRequest,
    ) -> Result<v1::ListHoursResponse, ClientError> {
        call!(self, JobServiceClient.list_hours, Repeat::Safe, request)
    }

    /// Applies a pipeline: its text, and the files that it names, by the path that names them.
    ///
    /// # Errors
    /// When it has faults, or nobody answers within the deadline.
    pub async fn apply_pipeline(
        &self,
        request: v1::ApplyPipelineRequest,
    ) -> Result<v1::ApplyPipelineResponse, ClientError> {
        call!(self, PipelineServiceClient.apply_pipeline, Repeat::Safe, request)
    }

    /// Checks a pipeline with the leader's environment.
    ///
    /// # Errors
    /// When nobody answers within the deadline; the faults are an answer.
    pub async fn check_pipeline(
        &self,
        request: v1::CheckPipelineRequest,
    ) -> Result<Vec<v1::PipelineFault>, ClientError> {
        let response = call!(self, PipelineServiceClient.check_pipeline, Repeat::Safe, request)?;
        Ok(response.faults)
    }

    /// A version of a pipeline; 0 is the newest.
    ///
    /// # Errors
    /// When there is none, or nobody answers within the deadline.
    pub async fn get_pipeline(&self, name: &str, version: u32) -> Result<v1::Pipeline, ClientError> {
        let name = name.to_owned();
        let request = v1::GetPipelineRequest { name, version };
        let response = call!(self, PipelineServiceClient.get_pipeline, Repeat::Safe, request)?;
        response
            .pipeline
            .ok_or(ClientError::Incomplete { field: "pipeline" })
    }

    /// The newest version of every pipeline, by name.
    ///
    /// # Errors
    /// When nobody answers within the deadline.
    pub async fn list_pipelines(&self) -> Result<Vec<v1::Pipeline>, ClientError> {
        let mut request = v1::ListPipelinesRequest {
            page_size: PAGE,
            page_token: String::new(),
        };
        every_page!(
            request,
            page,
            call!(
                self,
                PipelineServiceClient.list_pipelines,
                Repeat::Safe,
                request.clone()
            )?,
            pipelines
        )
    }

    /// Has everything that is committed read and compared; no fault is the proof. It takes as long as reading does.
    ///
    /// # Errors
    /// When there is no such pipeline, its lake cannot be read, or nobody answers within the deadline.
    pub async fn verify_pipeline(&self, name: &str) -> Result<v1::VerifyPipelineResponse, ClientError> {
        let name = name.to_owned();
        let request = v1::VerifyPipelineRequest { name };
        call!(self, PipelineServiceClient.verify_pipeline, Repeat::Safe, request)
    }

    /// Where a pipeline's lake is, and every committed batch of it, in order.
    ///
    /// # Errors
    /// When there is no such pipeline, or nobody answers within the deadline.
    pub async fn list_batches(&self, name: &str) -> Result<v1::ListBatchesResponse, ClientError> {
        let mut request = v1::ListBatchesRequest {
            name: name.to_owned(),
            page_size: PAGE,
            page_token: String::new(),
        };
        let mut all = v1::ListBatchesResponse::default();
        loop {
            let page = call!(
                self,
                PipelineServiceClient.list_batches,
                Repeat::Safe,
                request.clone()
            )?;
            let batches = std::mem::take(&mut all.batches);
            request.page_token.clone_from(&page.next_page_token);
            all = page;
            all.batches.splice(0..0, batches);
            if request.page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Deletes a pipeline. Not repeated once it may have arrived: the second answer would be another.
    ///
    /// # Errors
    /// When there is none, jobs still run it, or nobody answers within the deadline.
    pub async fn delete_pipeline(&self, name: &str) -> Result<(), ClientError> {
        let name = name.to_owned();
        let request = v1::DeletePipelineRequest { name };
        call!(
            self,
            PipelineServiceClient.delete_pipeline,
            Repeat::Never,
            request
        )?;
        Ok(())
    }

    /// Why events of a pipeline are in quarantine, and how many.
    ///
    /// # Errors
    /// When there is no such pipeline, or nobody answers within the deadline.
    pub async fn summarize_quarantine(
        &self,
        pipeline: &str,
    ) -> Result<v1::SummarizeQuarantineResponse, ClientError> {
        let pipeline = pipeline.to_owned();
        let request = v1::SummarizeQuarantineRequest { pipeline };
        call!(
            self,
            QuarantineServiceClient.summarize_quarantine,
            Repeat::Safe,
            request
        )
    }

    /// One page of a pipeline's rejected events.
    ///
    /// # Errors
    /// When there is no such pipeline, or nobody answers within the deadline.
    pub async fn list_quarantine(
        &self,
        request: v1::ListQuarantineRequest,
    ) -> Result<v1::ListQuarantineResponse, ClientError> {
        call!(
            self,
            QuarantineServiceClient.list_quarantine,
            Repeat::Safe,
            request
        )
    }

    /// Submits a job that reads a pipeline's rejected events again; its id. `environment` decides about masking, empty:
    /// as for a job that names none.
    ///
    /// # Errors
    /// When it is refused, or nobody answers within the deadline.
    pub async fn redrive_quarantine(&self, pipeline: &str, environment: &str) -> Result<String, ClientError> {
        let request = v1::RedriveQuarantineRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            pipeline: pipeline.to_owned(),
            environment: environment.to_owned(),
        };
        let response = call!(
            self,
            QuarantineServiceClient.redrive_quarantine,
            Repeat::Safe,
            request
        )?;
        Ok(response.job_id)
    }

    /// One page of a pipeline's committed batches, each with where it stands in the warehouse.
    ///
    /// # Errors
    /// When there is no such pipeline, it has no warehouse, that one cannot be read, or nobody answers within the deadline.
    pub async fn list_loads_page(
        &self,
        request: v1::ListLoadsRequest,
    ) -> Result<v1::ListLoadsResponse, ClientError> {
        call!(self, HandoffServiceClient.list_loads, Repeat::Safe, request)
    }

    /// All of them; unspecified: in every state.
    ///
    /// # Errors
    /// As for [`Self::list_loads_page`].
    pub async fn list_loads(
        &self,
        pipeline: &str,
        state: v1::LoadState,
    ) -> Result<Vec<v1::Load>, ClientError> {
        let mut request = v1::ListLoadsRequest {
            pipeline: pipeline.to_owned(),
            state: state.into(),
            page_size: PAGE,
            page_token: String::new(),
        };
        every_page!(request, page, self.list_loads_page(request.clone()).await?, loads)
    }

    /// What a pipeline's warehouse is beside what the pipeline asks for.
    ///
    /// # Errors
    /// As for [`Self::list_loads_page`].
    pub async fn report_warehouse(&self, pipeline: &str) -> Result<v1::ReportWarehouseResponse, ClientError> {
        let request = v1::ReportWarehouseRequest {
            pipeline: pipeline.to_owned(),
        };
        call!(self, HandoffServiceClient.report_warehouse, Repeat::Safe, request)
    }

    /// Loads a held batch after all.
    ///
    /// # Errors
    /// When it is not held, was decided upon otherwise, or nobody answers within the deadline.
    pub async fn release_batch(
        &self,
        pipeline: &str,
        batch_id: &str,
        reason: &str,
    ) -> Result<v1::Decision, ClientError> {
        let request = v1::ReleaseBatchRequest {
            pipeline: pipeline.to_owned(),
            batch_id: batch_id.to_owned(),
            reason: reason.to_owned(),
        };
        let response = call!(self, HandoffServiceClient.release_batch, Repeat::Safe, request)?;
        response
            .decision
            .ok_or(ClientError::Incomplete { field: "decision" })
    }

    /// Never loads a held batch; it stays in the lake.
    ///
    /// # Errors
    /// As for [`Self::release_batch`].
    pub async fn discard_batch(
        &self,
        pipeline: &str,
        batch_id: &str,
        reason: &str,
    ) -> Result<v1::Decision, ClientError> {
        let request = v1::DiscardBatchRequest {
            pipeline: pipeline.to_owned(),
            batch_id: batch_id.to_owned(),
            reason: reason.to_owned(),
        };
        let response = call!(self, HandoffServiceClient.discard_batch, Repeat::Safe, request)?;
        response
            .decision
            .ok_or(ClientError::Incomplete { field: "decision" })
    }

    /// The models of a pipeline, each with how far it is.
    ///
    /// # Errors
    /// When there is no such pipeline, or nobody answers within the deadline.
    pub async fn list_models(&self, pipeline: &str) -> Result<Vec<v1::Model>, ClientError> {
        let pipeline = pipeline.to_owned();
        let request = v1::ListModelsRequest { pipeline };
        let response = call!(self, ModelServiceClient.list_models, Repeat::Safe, request)?;
        Ok(response.models)
    }

    /// Periods of a pipeline's models; an empty model: of all, an unspecified state: in all.
    ///
    /// # Errors
    /// As for [`Self::list_models`], or when there is no such model.
    pub async fn list_periods(
        &self,
        pipeline: &str,
        model: &str,
        state: v1::PeriodState,
    ) -> Result<Vec<v1::Period>, ClientError> {
        let mut request = v1::ListPeriodsRequest {
            pipeline: pipeline.to_owned(),
            model: model.to_owned(),
            state: state.into(),
            page_size: PAGE,
            page_token: String::new(),
        };
        every_page!(
            request,
            page,
            call!(
                self,
                ModelServiceClient.list_periods,
                Repeat::Safe,
                request.clone()
            )?,
            periods
        )
    }

    /// What of a pipeline is older than it is kept, and the legal holds that stand.
    ///
    /// # Errors
    /// When there is no such pipeline, its lake or warehouse cannot be read, or nobody answers within the deadline.
    pub async fn plan_retention(&self, pipeline: &str) -> Result<v1::RetentionOutcome, ClientError> {
        let pipeline = pipeline.to_owned();
        let request = v1::PlanRetentionRequest { pipeline };
        let response = call!(self, RetentionServiceClient.plan_retention, Repeat::Safe, request)?;
        response.plan.ok_or(ClientError::Incomplete { field: "plan" })
    }

    /// Submits a job that lets go of it; its id.
    ///
    /// # Errors
    /// When it is refused, or nobody answers within the deadline.
    pub async fn apply_retention(&self, pipeline: &str) -> Result<String, ClientError> {
        let request = v1::ApplyRetentionRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            pipeline: pipeline.to_owned(),
        };
        let response = call!(
            self,
            RetentionServiceClient.apply_retention,
            Repeat::Safe,
            request
        )?;
        Ok(response.job_id)
    }

    /// Submits a job that places a legal hold; its id. A request without an id is given one.
    ///
    /// # Errors
    /// When it is refused, or nobody answers within the deadline.
    pub async fn place_hold(&self, mut request: v1::PlaceHoldRequest) -> Result<String, ClientError> {
        if request.request_id.is_empty() {
            request.request_id = uuid::Uuid::new_v4().to_string();
        }
        let response = call!(self, RetentionServiceClient.place_hold, Repeat::Safe, request)?;
        Ok(response.job_id)
    }

    /// Submits a job that releases a legal hold; its id.
    ///
    /// # Errors
    /// When it is refused, or nobody answers within the deadline.
    pub async fn release_hold(
        &self,
        pipeline: &str,
        hold_id: &str,
        reason: &str,
    ) -> Result<String, ClientError> {
        let request = v1::ReleaseHoldRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            pipeline: pipeline.to_owned(),
            hold_id: hold_id.to_owned(),
            reason: reason.to_owned(),
        };
        let response = call!(self, RetentionServiceClient.release_hold, Repeat::Safe, request)?;
        Ok(response.job_id)
    }

    /// Submits a job that finds one person, or, unless it is a dry run, erases them; its id. An empty column: all personal ones.
    ///
    /// # Errors
    /// When it is refused, or nobody answers within the deadline.
    pub async fn erase_subject(
        &self,
        pipeline: &str,
        value: &str,
        column: &str,
        dry_run: bool,
    ) -> Result<String, ClientError> {
        let request = v1::EraseSubjectRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            pipeline: pipeline.to_owned(),
            value: value.to_owned(),
            column: column.to_owned(),
            dry_run,
        };
        let response = call!(self, RetentionServiceClient.erase_subject, Repeat::Safe, request)?;
        Ok(response.job_id)
    }

    /// Who leads, who works.
    ///
    /// # Errors
    /// When nobody answers within the deadline.
    pub async fn cluster(&self) -> Result<v1::GetClusterResponse, ClientError> {
        call!(
            self,
            ClusterServiceClient.get_cluster,
            Repeat::Safe,
            v1::GetClusterRequest {}
        )
    }

    /// Asks a worker to take no new task and to leave.
    ///
    /// # Errors
    /// When there is none, or nobody answers within the deadline.
    pub async fn drain_worker(&self, name: &str) -> Result<v1::Worker, ClientError> {
        let name = name.to_owned();
        let request = v1::DrainWorkerRequest { name };
        let response = call!(self, ClusterServiceClient.drain_worker, Repeat::Safe, request)?;
        response.worker.ok_or(ClientError::Incomplete { field: "worker" })
    }

    /// A worker's heartbeat.
    ///
    /// # Errors
    /// When it is refused, or nobody answers within the deadline.
    pub async fn join_cluster(
        &self,
        request: v1::JoinClusterRequest,
    ) -> Result<v1::JoinClusterResponse, ClientError> {
        call!(self, ClusterServiceClient.join_cluster, Repeat::Safe, request)
    }
}
