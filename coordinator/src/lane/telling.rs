//! How far an attempt is, told to the registry while it runs.

use std::sync::Arc;
use std::time::Duration;

use millrace_proto::ids::{Attempt, BatchId};
use millrace_proto::v1;
use tokio::sync::watch;

use super::Tools;
use crate::engine::ballista::TaskProgress;

/// Tells the registry how far an attempt is, once a second at most.
pub(super) struct Telling {
    now: watch::Sender<TaskProgress>,
    task: tokio::task::JoinHandle<()>,
}

impl Telling {
    pub(super) fn begin(tools: &Arc<Tools>, job: &str, batch: &BatchId, attempt: Attempt) -> Self {
        let (now, mut told) = watch::channel(TaskProgress::default());
        let (tools, job) = (Arc::clone(tools), job.to_owned());
        let (batch, attempt) = (batch.to_string(), attempt.to_string());
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if told.changed().await.is_err() {
                    return;
                }
                let progress = *told.borrow_and_update();
                let update = |job: &mut v1::Job| {
                    let known = job.progress.clone().unwrap_or_default();
                    job.progress = Some(v1::Progress {
                        batch_id: batch.clone(),
                        attempt: attempt.clone(),
                        phase: "running".to_owned(),
                        tasks_done: progress.done,
                        tasks: progress.tasks,
                        ..known
                    });
                };
                if let Err(error) = tools.registry.update_job(&tools.lead, &job, update).await {
                    tracing::debug!(job, %error, "progress was not told");
                }
            }
        });
        Self { now, task }
    }

    pub(super) fn tell(&self, progress: TaskProgress) {
        self.now.send_if_modified(|known| {
            let changed = *known != progress;
            *known = progress;
            changed
        });
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.task.abort();
    }
}
