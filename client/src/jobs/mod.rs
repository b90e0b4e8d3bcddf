//! `millrace job`: jobs of the cluster.

mod follow;
mod input;
mod show;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use millrace_client::v1;
use serde_json::json;

use crate::cli::Output;
use crate::output::{self, Exit};
use crate::reach::Reach;

pub(crate) use follow::until_ended;
pub(crate) use input::{instant, timestamp};
pub(crate) use show::{print, time};

/// Subcommands of `job`.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Submit a job: run an applied pipeline over an hour, a range, a prefix, or without end.
    Submit(Box<Submit>),
    /// Jobs, newest first; with `--hours`, a pipeline's event hours.
    List(List),
    /// One job.
    Show(One),
    /// One job, live, until it has ended.
    Watch(One),
    /// Cancel a job; what is committed stays.
    Cancel(One),
    /// Run a failed or cancelled job again, from what is committed on.
    Retry(One),
}

#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// The name of an applied pipeline.
    pipeline: String,
    #[command(flatten)]
    input: input::Input,
    /// The environment that decides about masking; personal data stays clear only in those of `privacy.clear_in`.
    #[arg(long, value_name = "NAME", env = "MILLRACE_ENVIRONMENT")]
    environment: Option<String>,
    /// A UUID of this request: the same one again gives the same job.
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
    /// Only check whether the job could be submitted.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until the job has ended.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    reach: Reach,
    /// How the job is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only jobs in this state.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only jobs of this pipeline.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// The event hours of this pipeline instead of jobs.
    #[arg(long, value_name = "PIPELINE", conflicts_with_all = ["state", "pipeline"])]
    hours: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit: i32,
    #[command(flatten)]
    reach: Reach,
    /// How they are printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Pending,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// The job's id.
    id: String,
    #[command(flatten)]
    reach: Reach,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Job {
    pub(crate) fn execute(self) -> Result<Exit> {
        match self {
            Self::Submit(submit) => submit.execute(),
            Self::List(list) => list.execute(),
            Self::Show(one) => {
                let job = one
                    .reach
                    .with(async |client| Ok(client.get_job(&one.id).await?))?;
                show::print(&job, one.output)?;
                Ok(Exit::Done)
            }
            Self::Watch(one) => one
                .reach
                .with(async |client| follow::until_ended(&client, &one.id, one.output).await),
            Self::Cancel(one) => {
                let job = one
                    .reach
                    .with(async |client| Ok(client.cancel_job(&one.id).await?))?;
                show::print(&job, one.output)?;
                Ok(Exit::Done)
            }
            Self::Retry(one) => {
                let job = one
                    .reach
                    .with(async |client| Ok(client.retry_job(&one.id).await?))?;
                show::print(&job, one.output)?;
                Ok(Exit::Done)
            }
        }
    }
}

impl Submit {
    fn execute(self) -> Result<Exit> {
        let request = v1::SubmitJobRequest {
            request_id: self.request_id.unwrap_or_default(),
            pipeline: self.pipeline,
            input: self.input.message(),
            environment: self.environment.unwrap_or_default(),
            validate_only: self.dry_run,
        };
        self.reach.with(async |client| {
            let job = client.submit_job(request).await?;
            if self.wait {
                output::note(&format!("{} submitted", job.job_id));
                return follow::until_ended(&client, &job.job_id, self.output).await;
            }
            match self.output {
                Output::Table if self.dry_run => output::result("the job could be submitted")?,
                Output::Table => output::result(&format!("{} submitted", job.job_id))?,
                Output::Json => show::print(&job, Output::Json)?,
            }
            Ok(Exit::Done)
        })
    }
}

impl List {
    fn execute(self) -> Result<Exit> {
        if let Some(pipeline) = self.hours {
            let request = v1::ListHoursRequest {
                pipeline,
                page_size: self.limit,
                page_token: String::new(),
            };
            let hours = self
                .reach
                .with(async |client| Ok(client.list_hours(request).await?))?;
            show::hours(&hours, self.output)?;
            return Ok(Exit::Done);
        }
        let state = self.state.and_then(|state| state.to_possible_value());
        let terms = [
            self.pipeline.map(|name| format!("pipeline={name}")),
            state.map(|state| format!("state={}", state.get_name())),
        ];
        let filter = terms.into_iter().flatten().collect::<Vec<_>>().join(" AND ");
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let jobs = self.reach.with(async |client| {
            let mut request = v1::ListJobsRequest {
                page_size: self.limit,
                page_token: String::new(),
                filter,
            };
            // A page of a filtered list may be shorter than asked for and still have a next one.
            let mut jobs = Vec::new();
            loop {
                let page = client.list_jobs_page(request.clone()).await?;
                jobs.extend(page.jobs);
                if page.next_page_token.is_empty() || jobs.len() >= limit {
                    jobs.truncate(limit);
                    return Ok(jobs);
                }
                request.page_token = page.next_page_token;
            }
        })?;
        match self.output {
            Output::Json => {
                let jobs: Vec<_> = jobs.iter().map(show::json).collect();
                output::result(&json!({ "jobs": jobs }).to_string())?;
            }
            Output::Table => output::result(&show::table(&jobs))?,
        }
        Ok(Exit::Done)
    }
}
