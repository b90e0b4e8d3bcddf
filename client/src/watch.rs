//! A job watched through everything: a broken stream is opened again, elsewhere, and goes on where it was.

use std::time::{Duration, Instant};

use futures::Stream;
use tonic::{Status, Streaming};

use crate::connection::{Backoff, Connection, Repeat, Verdict, judge};
use crate::error::{ClientError, Refusal};
use crate::v1::job_service_client::JobServiceClient;
use crate::v1::{Job, JobState, WatchJobRequest, WatchJobResponse};

/// Without a word from anybody for so long, the watcher gives up.
const PATIENCE: Duration = Duration::from_secs(60);

struct Watch {
    connection: Connection,
    job_id: String,
    stream: Option<Streaming<WatchJobResponse>>,
    revision: i64,
    backoff: Backoff,
    until: Instant,
    ended: bool,
}

/// See [`crate::Client::watch_job`].
pub(crate) fn job(
    connection: Connection,
    job_id: String,
) -> impl Stream<Item = Result<Job, ClientError>> + Send + use<> {
    let watch = Watch {
        connection,
        job_id,
        stream: None,
        revision: i64::MIN,
        backoff: Backoff::default(),
        until: Instant::now() + PATIENCE,
        ended: false,
    };
    futures::stream::try_unfold(watch, |mut watch| async move {
        let job = watch.next().await?;
        Ok(job.map(|job| (job, watch)))
    })
}

impl Watch {
    async fn next(&mut self) -> Result<Option<Job>, ClientError> {
        while !self.ended {
            if self.stream.is_none() && !self.open().await? {
                continue;
            }
            let told = match self.told().await {
                Ok(told) => told,
                Err(status) => {
                    self.broken(status).await?;
                    continue;
                }
            };
            // A stream that ends before the job has is one that broke politely.
            let Some(job) = told else {
                self.stream = None;
                let why = Status::unavailable("the stream ended before the job").into();
                self.connection
                    .rest(&mut self.backoff, self.until, None, why)
                    .await?;
                continue;
            };
            self.backoff = Backoff::default();
            self.until = Instant::now() + PATIENCE;
            let fresh = job.revision > self.revision;
            self.ended = has_ended(&job);
            if fresh {
                self.revision = job.revision;
                return Ok(Some(job));
            }
        }
        Ok(None)
    }

    /// Opens the stream; whether it is open. A coordinator that cannot be connected to has been left already: leaving once
    /// more would pass over the next one, and of two for ever over the one that is alive.
    async fn open(&mut self) -> Result<bool, ClientError> {
        let channel = match self.connection.channel().await {
            Ok(channel) => channel,
            Err(error) => {
                self.connection
                    .rest(&mut self.backoff, self.until, None, error.into())
                    .await?;
                return Ok(false);
            }
        };
        let job_id = self.job_id.clone();
        let request = self.connection.request(WatchJobRequest { job_id }, None);
        match JobServiceClient::new(channel).watch_job(request).await {
            Ok(stream) => self.stream = Some(stream.into_inner()),
            Err(status) => self.broken(status).await?,
        }
        Ok(self.stream.is_some())
    }

    async fn told(&mut self) -> Result<Option<Job>, Status> {
        match &mut self.stream {
            Some(stream) => Ok(stream.message().await?.and_then(|response| response.job)),
            None => Ok(None),
        }
    }

    async fn broken(&mut self, status: Status) -> Result<(), ClientError> {
        self.stream = None;
        let verdict = judge(&status, Repeat::Safe);
        if verdict == Verdict::Tell {
            return Err(Refusal::of(&status).into());
        }
        if verdict == Verdict::Elsewhere {
            self.connection.leave();
        }
        self.connection
            .rest(&mut self.backoff, self.until, None, status.into())
            .await
    }
}

fn has_ended(job: &Job) -> bool {
    match job.state() {
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => true,
        JobState::Unspecified | JobState::Pending | JobState::Running => false,
    }
}
