//! Streams of jobs as they change, which outlive the etcd member that they are read from.

use std::time::Duration;

use etcd_client::{EventType, WatchOptions};
use futures::StreamExt;
use futures::stream::BoxStream;
use millrace_proto::v1::Job;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

use super::jobs::{missing, read};
use super::{Registry, RegistryError, check_name};
use crate::etcd::EtcdError;

/// Jobs that wait for a slow reader.
const WAITING: usize = 256;
/// Pause before a stream that broke is taken up again.
const PAUSE: Duration = Duration::from_millis(200);

impl Registry {
    /// The job now, and whenever it has changed; changes in quick succession may come as one. Ends when the job
    /// is deleted, else never: the caller stops when the job has ended.
    ///
    /// # Errors
    /// When the job is not there, or etcd fails.
    pub async fn watch_job(&self, id: &str) -> Result<BoxStream<'static, Job>, RegistryError> {
        check_name("job id", id)?;
        let key = self.job_key(id);
        if self.etcd.get_one(&key).await?.is_none() {
            return Err(missing(id));
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        let registry = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = registry.follow_job(&key, &sender) => {}
            }
        });
        Ok(ReceiverStream::new(receiver).boxed())
    }

    async fn follow_job(&self, key: &str, sender: &mpsc::Sender<Job>) {
        let mut seen = 0;
        loop {
            let step = async {
                let found = self.etcd.get(key, None).await?;
                let Some(kv) = found.kvs().first() else {
                    return Ok(false);
                };
                let job = read(kv)?;
                if job.revision > seen {
                    seen = job.revision;
                    if sender.send(job).await.is_err() {
                        return Ok(false);
                    }
                }
                let revision = found.header().map_or(0, etcd_client::ResponseHeader::revision);
                self.etcd.changed(key, revision, false).await?;
                Ok(true)
            };
            match step.await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let error: RegistryError = error;
                    if !error.is_retryable() {
                        warn!(key, error = %error, "a watched job cannot be read");
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Every active job now, and then each job whenever it changes, submitted ones included. Never ends by
    /// itself. After a gap in the history a job may come twice, with the same revision.
    #[must_use]
    pub fn watch_jobs(&self) -> BoxStream<'static, Job> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let registry = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = registry.follow_jobs(&sender) => {}
            }
        });
        ReceiverStream::new(receiver).boxed()
    }

    async fn follow_jobs(&self, sender: &mpsc::Sender<Job>) {
        let mut from = None;
        while !sender.is_closed() {
            let known = from;
            if let Err(error) = self.follow_events(&mut from, sender).await {
                debug!(error = %error, "the watch of jobs is taken up again");
                if matches!(error, RegistryError::Etcd(EtcdError::Compacted)) {
                    from = None;
                }
            }
            if from == known {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Sends jobs until the stream breaks; `from` is the revision up to which all is sent.
    async fn follow_events(
        &self,
        from: &mut Option<i64>,
        sender: &mpsc::Sender<Job>,
    ) -> Result<(), RegistryError> {
        let start = match *from {
            Some(revision) => revision,
            None => {
                let (jobs, revision) = self.active().await?;
                for job in jobs {
                    if sender.send(job).await.is_err() {
                        return Ok(());
                    }
                }
                *from = Some(revision);
                revision
            }
        };
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(start + 1)
            .with_progress_notify();
        let mut watch = self.etcd.watch(&self.job_key(""), options).await?;
        loop {
            let message = match watch.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.etcd.avoid_current();
                    return Err(EtcdError::Refused(error).into());
                }
            };
            if message.canceled() {
                let compacted = message.compact_revision() > 0;
                *from = from.filter(|_| !compacted);
                return Ok(());
            }
            let puts = message
                .events()
                .iter()
                .filter(|event| event.event_type() == EventType::Put);
            for kv in puts.filter_map(etcd_client::Event::kv) {
                match read(kv) {
                    Ok(job) => {
                        if sender.send(job).await.is_err() {
                            return Ok(());
                        }
                    }
                    Err(error) => warn!(error = %error, "a job cannot be read"),
                }
            }
            if let Some(header) = message.header() {
                *from = Some((*from).unwrap_or(0).max(header.revision()));
            }
        }
    }
}
