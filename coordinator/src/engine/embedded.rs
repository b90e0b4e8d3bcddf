//! The engine in this process: one task a thread, all tasks share the key index.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::execution::{SessionStateBuilder, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use millrace_pipeline::dedup::KeyIndex;
use millrace_pipeline::enrich::SnapshotCache;
use millrace_pipeline::plan::{Steps, Tools};
use millrace_pipeline::sink::SinkSpec;
use millrace_pipeline::source::Stores;
use millrace_proto::manifest::{Snapshot, TaskReport};
use millrace_proto::split::Split;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::queue::SplitQueue;
use super::{EngineError, stopped};
use crate::job::Progress;

/// How often progress is read from the running plan.
const PROGRESS_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// The embedded engine.
#[derive(Debug)]
pub struct Embedded {
    /// The pipeline, bound to its environment.
    pub steps: Arc<Steps>,
    /// Where input is read.
    pub stores: Arc<Stores>,
    /// Keys committed and claimed.
    pub keys: Arc<KeyIndex>,
    /// Tasks at once.
    pub threads: usize,
    /// Snapshots of lookups that were fetched.
    pub snapshots: Arc<SnapshotCache>,
}

impl Embedded {
    /// Runs one attempt over splits, looking up in these snapshots; returns each task's report.
    ///
    /// # Errors
    /// The first task's error; the others are cancelled then.
    pub async fn run(
        &self,
        splits: &[Split],
        snapshots: &[Snapshot],
        sink: SinkSpec,
        progress: &Progress,
        stop: &watch::Receiver<bool>,
    ) -> Result<Vec<TaskReport>, EngineError> {
        let objects = splits.iter().map(|split| split.object.url.clone()).collect();
        let tasks = self.threads.clamp(1, splits.len().max(1));
        let queue = Arc::new(SplitQueue::new(splits.to_vec(), tasks));
        let plan = self.steps.walk(queue, &self.tools(objects, snapshots, sink))?;
        execute(plan, tasks, progress, stop).await
    }

    /// Runs one attempt over raw chunks, `tasks` of them side by side.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_chunks(
        &self,
        chunks: Arc<dyn ExecutionPlan>,
        objects: Vec<String>,
        snapshots: &[Snapshot],
        sink: SinkSpec,
        progress: &Progress,
        stop: &watch::Receiver<bool>,
    ) -> Result<Vec<TaskReport>, EngineError> {
        let tasks = chunks.properties().partitioning.partition_count();
        let plan = self
            .steps
            .walk_chunks(chunks, &self.tools(objects, snapshots, sink))?;
        execute(plan, tasks, progress, stop).await
    }

    fn tools(&self, objects: Vec<String>, snapshots: &[Snapshot], sink: SinkSpec) -> Tools {
        let lake = (Arc::clone(&sink.lake), sink.root.clone());
        Tools {
            lookups: self.steps.lookups(lake, snapshots, &self.snapshots),
            stores: Arc::clone(&self.stores),
            keys: Arc::clone(&self.keys),
            sink: Arc::new(sink),
            objects,
            apart: None,
        }
    }
}

async fn execute(
    plan: Arc<dyn ExecutionPlan>,
    tasks: usize,
    progress: &Progress,
    stop: &watch::Receiver<bool>,
) -> Result<Vec<TaskReport>, EngineError> {
    let context = Arc::new(TaskContext::from(&SessionStateBuilder::new().build()));
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let mut rows = plan.execute(task, Arc::clone(&context))?;
        let task = async move {
            let mut reports = Vec::new();
            while let Some(batch) = rows.try_next().await? {
                reports.extend(reports_of(&batch)?);
            }
            Ok::<_, EngineError>(reports)
        };
        running.spawn(task.in_current_span());
    }
    let mut stop = stop.clone();
    let mut reports = Vec::new();
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    let before = progress.snapshot();
    loop {
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(ended) => reports.extend(ended??),
                None => break,
            },
            _ = tick.tick() => progress.running(before, metric(&plan, "ScanExec", "bytes_read"), rows_decoded(&plan)),
            () = stopped(&mut stop) => return Err(EngineError::Stopped),
        }
    }
    progress.running(
        before,
        metric(&plan, "ScanExec", "bytes_read"),
        rows_decoded(&plan),
    );
    Ok(reports)
}

fn reports_of(batch: &RecordBatch) -> Result<Vec<TaskReport>, EngineError> {
    let texts = batch.column(0).as_any().downcast_ref::<StringArray>();
    texts
        .into_iter()
        .flatten()
        .flatten()
        .map(|text| Ok(serde_json::from_str(text)?))
        .collect()
}

fn rows_decoded(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let own = match plan.name() {
        "DecodeExec" | "ContainerExec" => plan
            .metrics()
            .and_then(|metrics| metrics.output_rows())
            .unwrap_or(0),
        _ => 0,
    };
    own as u64 + plan.children().into_iter().map(rows_decoded).sum::<u64>()
}

/// A metric of one operator, summed over its tasks.
fn metric(plan: &Arc<dyn ExecutionPlan>, operator: &str, name: &str) -> u64 {
    let own = if plan.name() == operator {
        plan.metrics()
            .and_then(|metrics| metrics.sum_by_name(name))
            .map_or(0, |value| value.as_usize() as u64)
    } else {
        0
    };
    own + plan
        .children()
        .into_iter()
        .map(|child| metric(child, operator, name))
        .sum::<u64>()
}

/// Counts that grow while an attempt runs.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes: AtomicU64,
    pub(crate) events: AtomicU64,
}

impl Counters {
    pub(crate) fn set(&self, bytes: u64, events: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.events.store(events, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> (u64, u64) {
        (
            self.bytes.load(Ordering::Relaxed),
            self.events.load(Ordering::Relaxed),
        )
    }
}
