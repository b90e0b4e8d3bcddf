//! What a process must know to take part in an attempt.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use millrace_proto::ids::{Attempt, BatchId, JobId};
use millrace_proto::manifest::Snapshot;
use serde::{Deserialize, Serialize};

use crate::dedup::KeyList;
use crate::spec::model::Pipeline;
use crate::spec::{self, Report};

/// A pipeline as it was applied: its text, secrets left out, and the files that it names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineText {
    /// What faults call the file.
    pub file: String,
    /// The folder that relative paths start from.
    pub folder: PathBuf,
    /// The file's text.
    pub text: String,
    /// Text files that it names (suites), by the path that it names them with.
    pub files: BTreeMap<String, String>,
}

impl PipelineText {
    /// Reads the pipeline; `env` fills in `${env:NAME}`.
    ///
    /// # Errors
    /// A report with every fault.
    pub fn load(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Pipeline, Report> {
        let read = |path: &Path| {
            let found = self
                .files
                .iter()
                .find(|(name, _)| spec::resolve_path(&self.folder, name) == path);
            found
                .map(|(_, text)| text.clone())
                .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
        };
        spec::load(&self.text, &self.file, &self.folder, env, &read)
    }
}

/// One attempt, as every process that takes part in it must see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptSpec {
    /// The pipeline.
    pub pipeline: PipelineText,
    /// Decides about masking.
    pub environment: Option<String>,
    /// The job that asked for the batch.
    pub job: JobId,
    /// The batch.
    pub batch: BatchId,
    /// The attempt.
    pub attempt: Attempt,
    /// Newest event time committed before, microseconds since 1970 UTC.
    pub watermark_us: Option<i64>,
    /// Day of the batch, `YYYY-MM-DD`.
    pub quarantine_date: String,
    /// The attempt's span, for those of its tasks; none where nobody exports spans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The snapshots that it looks up in: those that were fixed with the batch's positions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
    /// The list of every committed key file, where the plan does not carry them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeyList>,
}
