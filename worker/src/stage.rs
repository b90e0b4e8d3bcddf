//! A task as Ballista runs it: refused while there is no room for its report, and what it says when it fails is for people.
//!
//! In: a task of a stage. Out: where its report lies, or an error that the leader can read (see [`TaskFailure`]). A task that
//! failed leaves nothing: Ballista leaves a file that is sound and holds too little, which a later try of the same number may
//! be mistaken for.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ballista_core::JobId;
use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::{
    RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport,
};
use ballista_executor::execution_engine::{ExecutionEngine, QueryStageExecutor};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;
use millrace_pipeline::codec::TaskFailure;

use crate::disk::Disk;
use crate::task::WatchedEngine;

/// An engine that minds a disk.
pub(crate) struct Stages {
    engine: WatchedEngine,
    disk: Arc<Disk>,
}

impl Stages {
    pub(crate) fn new(engine: WatchedEngine, disk: Arc<Disk>) -> Self {
        Self { engine, disk }
    }
}

impl ExecutionEngine for Stages {
    fn create_query_stage_exec(
        &self,
        job_id: JobId,
        stage_id: usize,
        task_id: usize,
        outputs: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let folder = Path::new(work_dir)
            .join(job_id.as_str())
            .join(stage_id.to_string());
        let stage = self
            .engine
            .create_query_stage_exec(job_id, stage_id, task_id, outputs, plan, work_dir, config)?;
        Ok(Arc::new(Stage {
            stage,
            disk: Arc::clone(&self.disk),
            folder,
        }))
    }
}

#[derive(Debug)]
struct Stage {
    stage: Arc<dyn QueryStageExecutor>,
    disk: Arc<Disk>,
    /// Where the results of its stage lie.
    folder: PathBuf,
}

impl Stage {
    /// An error that says what is wrong in a form that comes through the engine. Steps have said so already.
    fn said(&self, error: DataFusionError) -> DataFusionError {
        if TaskFailure::find(&format!("{error:?}")).is_some() {
            return error;
        }
        let error = self.disk.explain(error);
        if is_the_engines(&error) {
            return error;
        }
        TaskFailure::of(&error, &[]).into()
    }
}

/// Whether an error is one that the engine must recognise: it finds out by it whose reports are lost, and what was cancelled.
fn is_the_engines(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::External(inner) if inner.is::<BallistaError>())
}

/// Deletes what a task has written: a file with its number in the folder of each output.
fn delete_results(folder: &Path, task: usize) -> std::io::Result<()> {
    let mut files = Vec::new();
    for output in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        files.push(output.path().join(format!("data-{task}.arrow")));
    }
    for file in files.iter().filter(|file| file.exists()) {
        std::fs::remove_file(file)?;
    }
    Ok(())
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stage.fmt(f)
    }
}

#[async_trait::async_trait]
impl QueryStageExecutor for Stage {
    async fn execute_query_stage(
        &self,
        task_id: usize,
        context: Arc<TaskContext>,
    ) -> Result<Vec<ShuffleWritePartition>> {
        self.disk.admit().map_err(|full| self.said(full))?;
        let ran = self.stage.execute_query_stage(task_id, context).await;
        let ran = ran.and_then(|results| self.disk.settle().map(|()| results));
        ran.map_err(|error| {
            if let Err(error) = delete_results(&self.folder, task_id) {
                tracing::warn!(%error, folder = %self.folder.display(), task_id, "a task that failed left its results");
            }
            self.said(error)
        })
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        self.stage.collect_plan_metrics()
    }

    fn collect_runtime_stats_reports(&self) -> Vec<RuntimeStatsReport> {
        self.stage.collect_runtime_stats_reports()
    }

    fn collect_window_state_reports(&self) -> Result<Vec<WindowStateReport>> {
        self.stage.collect_window_state_reports()
    }

    fn collect_column_stats(&self) -> Vec<TaskColumnStats> {
        self.stage.collect_column_stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_results_of_the_task_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "x").unwrap();
            file
        };
        let gone = ["0/data-1.arrow", "2/data-1.arrow"].map(put);
        let stay = ["0/data-0.arrow", "1/data-11.arrow"].map(put);
        delete_results(folder.path(), 1).unwrap();
        assert!(gone.iter().all(|file| !file.exists()));
        assert!(stay.iter().all(|file| file.exists()));
        delete_results(&folder.path().join("never written"), 1).unwrap();
    }
}
