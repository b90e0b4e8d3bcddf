//! The quality report of a run: the suite's result over the batches that it committed, in Great
//! Expectations' format, as `reports/quality-<job>.json`.
//!
//! In: the mergeable state that the batches' tasks left. Out: the result, written and handed on.
//!
//! A run that was killed after a commit and before its report left none. The next run writes it first, so
//! every committed batch stands in exactly one report.

use millrace_pipeline::quality::QualityState;
use millrace_pipeline::sink::read_states;
use millrace_proto::ids::{BatchId, JobId};
use millrace_proto::manifest::{Manifest, WrittenObject};

use crate::commit;
use crate::job::{RunError, Runner, job_of};
use crate::lake::LakeError;

/// Key of a report, and what it says.
pub(crate) type Report = (String, serde_json::Value);

impl Runner {
    /// Writes the report over the batches that a job committed; none without a suite.
    pub(crate) async fn report(&self, job: &JobId, done: &[Manifest]) -> Result<Option<Report>, RunError> {
        if self.batches.pipeline.quality.is_none() {
            return Ok(None);
        }
        let key = report_key(job);
        let result = self.quality_result(job, done).await?;
        let body = serde_json::to_vec_pretty(&result).map_err(|error| RunError::State {
            key: key.clone(),
            reason: error.to_string(),
        })?;
        self.batches.lake.create(&key, body.into()).await?;
        Ok(Some((key, result)))
    }

    /// Writes the report of the last run that committed anything, if it could not do so itself; which of
    /// its batches a breach holds back is told too.
    pub(crate) async fn missing_report(&self) -> Result<Option<(Report, Vec<BatchId>)>, RunError> {
        if self.batches.pipeline.quality.is_none() {
            return Ok(None);
        }
        let state = self.batches.ledger.state();
        let Some(last) = state
            .committed()
            .filter(|(_, batch)| !batch.is_upkeep())
            .filter_map(|(_, batch)| batch.committed_by)
            .max()
        else {
            return Ok(None);
        };
        let job = job_of(last)?;
        match self.batches.lake.get(&report_key(&job)).await {
            Ok(_) => return Ok(None),
            Err(LakeError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut done = Vec::new();
        let mut held = Vec::new();
        for (id, batch) in state
            .committed()
            .filter(|(_, batch)| batch.committed_by == Some(last) && !batch.is_upkeep())
        {
            let digest = batch.manifest.as_deref().unwrap_or_default();
            let manifest = commit::committed(&self.batches.lake, id, digest).await;
            let manifest = manifest.map_err(|source| RunError::Commit {
                batch: id.clone(),
                source,
            })?;
            held.extend(batch.held.then(|| id.clone()));
            done.push(manifest);
        }
        if !done.iter().any(|manifest| self.answers_our_suite(manifest)) {
            return Ok(None);
        }
        match self.report(&job, &done).await {
            Ok(report) => Ok(report.map(|report| (report, held))),
            // Such as another `hash_key`: a report that cannot be had must not keep events out.
            Err(RunError::State { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A batch of another version of the pipeline answers another suite; one of another environment may be
    /// sealed otherwise.
    fn answers_our_suite(&self, manifest: &Manifest) -> bool {
        manifest.pipeline_digest == self.batches.pipeline.digest
            && manifest.environment == self.options.environment
    }

    async fn quality_result(&self, job: &JobId, done: &[Manifest]) -> Result<serde_json::Value, RunError> {
        let plan = &self.engine.steps.quality;
        let mut merged = plan.empty_state();
        for manifest in done.iter().filter(|manifest| self.answers_our_suite(manifest)) {
            for object in &manifest.quality {
                // What an erasure took is missing in the figures.
                if !self.batches.ledger.state().forgotten.contains(&object.key) {
                    self.merge_states(&mut merged, object).await?;
                }
            }
        }
        let mut meta = serde_json::Map::new();
        meta.insert("pipeline".to_owned(), self.batches.pipeline.name.as_str().into());
        meta.insert("job".to_owned(), job.as_str().into());
        Ok(plan.result(&merged, meta))
    }

    async fn merge_states(&self, merged: &mut QualityState, object: &WrittenObject) -> Result<(), RunError> {
        let damaged = |reason: String| RunError::State {
            key: object.key.clone(),
            reason,
        };
        let plan = &self.engine.steps.quality;
        let bytes = self.batches.lake.get(&object.key).await?;
        for state in read_states(&bytes) {
            let state = plan.open(&state).map_err(|error| damaged(error.to_string()))?;
            merged.merge(state).map_err(|error| damaged(error.to_string()))?;
        }
        Ok(())
    }
}

fn report_key(job: &JobId) -> String {
    format!("reports/quality-{job}.json")
}
