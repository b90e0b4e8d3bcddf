//! JobService: a handler converts, calls the registry, answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::BoxStream;
use millrace_proto::v1::{self, Job, JobState, job_service_server::JobService};
use tonic::{Request, Response, Status};

use super::audit::Deed;
use super::errors::{Reason, Violations, invalid, status};
use super::pages::Page;
use super::{Shared, caller, deadline, filter, pipelines, refusals, submit};
use crate::registry::NewJob;

/// The service.
pub(crate) struct Jobs(pub(crate) Shared);

/// Retries' request ids that a job remembers.
const RETRIES_REMEMBERED: usize = 8;

#[tonic::async_trait]
impl JobService for Jobs {
    type WatchJobStream = BoxStream<'static, Result<v1::WatchJobResponse, Status>>;

    async fn submit_job(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Result<Response<v1::SubmitJobResponse>, Status> {
        let caller = caller(&request);
        let message = request.into_inner();
        submit::refuse_upkeep(&message)?;
        let resource = format!("pipelines/{}/jobs", message.pipeline);
        if message.validate_only {
            let job = Some(self.0.validate(&message, &caller.name).await?);
            return Ok(Response::new(v1::SubmitJobResponse { job }));
        }
        let deed = Deed {
            caller: &caller,
            method: "SubmitJob",
            resource: &resource,
            request_id: &message.request_id,
        };
        let job = Some(deed.note(self.0.submit(&message, &caller.name).await)?);
        Ok(Response::new(v1::SubmitJobResponse { job }))
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let job = self.0.registry.get_job(&request.into_inner().job_id).await?;
        Ok(Response::new(v1::GetJobResponse { job: Some(job) }))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let message = request.into_inner();
        Page::check_size(message.page_size)?;
        let filter = filter::parse(&message.filter)?;
        let (jobs, next_page_token) = self
            .0
            .registry
            .list_jobs(&filter, message.page_size, &message.page_token)
            .await?;
        Ok(Response::new(v1::ListJobsResponse {
            jobs,
            next_page_token,
        }))
    }

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let given = deadline::of(&request.metadata().clone().into_headers());
        let jobs = self.0.registry.watch_job(&request.into_inner().job_id).await?;
        // The one that has ended is told, and is the last.
        let told = jobs.scan(false, |ended, job| {
            let go_on = !*ended;
            *ended = has_ended(&job);
            std::future::ready(go_on.then(|| Ok(v1::WatchJobResponse { job: Some(job) })))
        });
        Ok(Response::new(until(told.boxed(), given)))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let caller = caller(&request);
        let id = request.into_inner().job_id;
        let lead = self.0.control.lead()?;
        let changed = self
            .0
            .registry
            .update_job(&lead, &id, |job| job.set_state(JobState::Cancelled))
            .await;
        let deed = Deed {
            caller: &caller,
            method: "CancelJob",
            resource: &format!("jobs/{id}"),
            request_id: "",
        };
        let job = Some(deed.note(changed.map_err(Status::from))?);
        Ok(Response::new(v1::CancelJobResponse { job }))
    }

    async fn retry_job(
        &self,
        request: Request<v1::RetryJobRequest>,
    ) -> Result<Response<v1::RetryJobResponse>, Status> {
        let caller = caller(&request);
        let v1::RetryJobRequest { job_id, request_id } = request.into_inner();
        let deed = Deed {
            caller: &caller,
            method: "RetryJob",
            resource: &format!("jobs/{job_id}"),
            request_id: &request_id,
        };
        let job = Some(deed.note(self.0.retry(&job_id, &request_id).await)?);
        Ok(Response::new(v1::RetryJobResponse { job }))
    }

    async fn list_hours(
        &self,
        request: Request<v1::ListHoursRequest>,
    ) -> Result<Response<v1::ListHoursResponse>, Status> {
        let message = request.into_inner();
        let list = format!("hours {}", message.pipeline);
        let page = Page::of(message.page_size, &message.page_token, list)?;
        let pipeline = Arc::new(self.0.pipeline(&message.pipeline).await?);
        let hours = self.0.control.lakes.hours(pipeline).await;
        let hours = hours.map_err(|error| refusals::lake(error.as_ref()))?;
        let lag_seconds = hours.lag_seconds(std::time::SystemTime::now());
        let watermark = hours.watermark.map(Into::into);
        let partitions = hours.partitions;
        // Newest first: what comes after an hour is older.
        let after = |hour: &v1::Hour| page.after.as_ref().is_none_or(|after| hour.hour < *after);
        let mut hours: Vec<v1::Hour> = hours
            .hours
            .into_iter()
            .filter(after)
            .take(page.size + 1)
            .collect();
        let next_page_token = page.cut(&mut hours, |hour| &hour.hour);
        Ok(Response::new(v1::ListHoursResponse {
            hours,
            next_page_token,
            watermark,
            lag_seconds,
            partitions,
        }))
    }
}

impl Shared {
    /// Stores a job, or finds the one that the same request was given.
    pub(crate) async fn submit(&self, message: &v1::SubmitJobRequest, who: &str) -> Result<Job, Status> {
        submit::checked(message)?;
        let lead = self.control.lead()?;
        if let Some(before) = self.registry.job_of_request(&message.request_id).await? {
            return same_request(before, message);
        }
        let version = self.fitting_version(message).await?;
        let new = NewJob {
            request_id: message.request_id.clone(),
            pipeline: message.pipeline.clone(),
            pipeline_version: version,
            input: message.input.clone(),
            environment: self.environment(message),
            submitter: who.to_owned(),
        };
        let (job, _) = self.registry.submit(&lead, new).await?;
        same_request(job, message)
    }

    async fn validate(&self, message: &v1::SubmitJobRequest, who: &str) -> Result<Job, Status> {
        submit::checked(message)?;
        Ok(Job {
            request_id: message.request_id.clone(),
            pipeline: message.pipeline.clone(),
            pipeline_version: self.fitting_version(message).await?,
            input: message.input.clone(),
            environment: self.environment(message),
            submitter: who.to_owned(),
            ..Job::default()
        })
    }

    /// The environment that decides about masking: as asked, or as this cluster is told.
    fn environment(&self, message: &v1::SubmitJobRequest) -> String {
        let default = self.control.jobs_environment.clone();
        let asked = Some(message.environment.clone()).filter(|asked| !asked.is_empty());
        asked.or(default).unwrap_or_default()
    }

    /// The newest version of the pipeline, if it can be read that way.
    async fn fitting_version(&self, message: &v1::SubmitJobRequest) -> Result<u32, Status> {
        let stored = self.registry.get_pipeline(&message.pipeline, 0).await?;
        let pipeline = pipelines::loaded(&stored, &self.control.environment)?;
        let mut violations = Violations::default();
        submit::fits(message.input.as_ref(), &pipeline.source, &mut violations);
        violations.into_result()?;
        Ok(stored.version)
    }

    async fn retry(&self, job_id: &str, request_id: &str) -> Result<Job, Status> {
        let mut violations = Violations::default();
        submit::request_id(request_id, &mut violations);
        violations.into_result()?;
        let lead = self.control.lead()?;
        let job = self.registry.get_job(job_id).await?;
        let known = |job: &Job| job.retry_request_ids.iter().any(|id| id == request_id);
        if known(&job) {
            return Ok(job);
        }
        if !matches!(job.state(), JobState::Failed | JobState::Cancelled) {
            let state = crate::registry::state::name(job.state());
            let text = format!("job {job_id} is {state}; only a failed or cancelled one can be retried");
            return Err(status(
                Reason::WrongState,
                text,
                &[("job", job_id), ("state", state)],
            ));
        }
        let retried = self.registry.update_job(&lead, job_id, |job| {
            if known(job) {
                return;
            }
            job.set_state(JobState::Pending);
            job.retry_request_ids.push(request_id.to_owned());
            let over = job.retry_request_ids.len().saturating_sub(RETRIES_REMEMBERED);
            job.retry_request_ids.drain(..over);
        });
        Ok(retried.await?)
    }

    /// The newest version of a pipeline, read.
    pub(crate) async fn pipeline(
        &self,
        name: &str,
    ) -> Result<millrace_pipeline::spec::model::Pipeline, Status> {
        if name.is_empty() {
            return Err(invalid("pipeline", "the name of an applied pipeline"));
        }
        let stored = self.registry.get_pipeline(name, 0).await?;
        pipelines::loaded(&stored, &self.control.environment)
    }
}

/// The job of a request, unless that request was another one.
fn same_request(job: Job, message: &v1::SubmitJobRequest) -> Result<Job, Status> {
    let same = job.pipeline == message.pipeline
        && job.input == message.input
        // One that named none was given the cluster's.
        && (message.environment.is_empty() || job.environment == message.environment);
    if same {
        return Ok(job);
    }
    let text = format!(
        "request {} was made before, for another job: {}",
        message.request_id, job.job_id
    );
    Err(status(Reason::RequestIdReused, text, &[("job", &job.job_id)]))
}

fn has_ended(job: &Job) -> bool {
    !crate::registry::state::is_active(job.state())
}

/// Ends a stream with the caller's deadline.
fn until<T: Send + 'static>(
    stream: BoxStream<'static, Result<T, Status>>,
    given: Option<Duration>,
) -> BoxStream<'static, Result<T, Status>> {
    let Some(given) = given else { return stream };
    let end = tokio::time::Instant::from_std(Instant::now() + given);
    let told = futures::stream::unfold(Some(stream), move |stream| async move {
        let mut stream = stream?;
        match tokio::time::timeout_at(end, stream.next()).await {
            Ok(item) => item.map(|item| (item, Some(stream))),
            Err(_) => {
                let text = "the caller's deadline has passed";
                Some((Err(status(Reason::DeadlineExceeded, text, &[])), None))
            }
        }
    });
    told.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_ends_by_itself_or_with_the_deadline() {
        let short = futures::stream::iter([Ok(1), Ok(2)]).boxed();
        let all: Vec<_> = until(short, Some(Duration::from_secs(3600))).collect().await;
        assert_eq!(all.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [1, 2]);
        let endless = futures::stream::pending::<Result<u8, Status>>().boxed();
        let mut ended: Vec<_> = until(endless, Some(Duration::from_millis(5))).collect().await;
        assert_eq!(
            ended.pop().unwrap().unwrap_err().code(),
            tonic::Code::DeadlineExceeded
        );
    }
}
