//! The walk of an event, as a plan. Reads like the list of the steps.
//!
//! No row moves between tasks: every task walks its own splits from end to end. The tasks of one process share the key
//! index; across processes they share the claims of a batch, which the workers keep together. Deduplication stands before
//! masking, so that losers are never masked; but where rows wait for the answer of another process they are masked before:
//! by then their texts have left the processor's caches.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;

use millrace_proto::manifest::Snapshot;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::decode::again::AgainExec;
use crate::decode::container::ContainerExec;
use crate::decode::exec::DecodeExec;
use crate::dedup::KeyIndex;
use crate::dedup::exec::{Apart, DedupExec};
use crate::dedup::key::KeyExec;
use crate::enrich::{Lookups, SnapshotCache, find_snapshot};
use crate::map::exec::MapExec;
use crate::map::{MapError, MapPlan};
use crate::privacy::exec::PrivacyExec;
use crate::privacy::{Policy, PrivacyError};
use crate::quality::{QualityError, QualityExec, QualityPlan, Suite, SuiteError, UniquenessExec};
use crate::sink::{CollectExec, SinkExec, SinkSpec};
use crate::source::Stores;
use crate::source::exec::{ScanExec, ScanOptions};
use crate::spec::model::{DedupScope, Format, Pipeline};

/// Why a pipeline cannot be run as it is.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Expressions or versions.
    #[error("the columns cannot be mapped")]
    Map(#[from] MapError),
    /// The suite's text.
    #[error("the suite cannot be read")]
    Suite(#[from] SuiteError),
    /// The suite against the table.
    #[error("the suite cannot be applied")]
    Quality(#[from] QualityError),
    /// Masking.
    #[error("personal data cannot be protected")]
    Privacy(#[from] PrivacyError),
    /// An operator refused its input.
    #[error("the steps do not fit together")]
    Steps(#[from] DataFusionError),
}

impl From<PlanError> for DataFusionError {
    fn from(error: PlanError) -> Self {
        Self::External(Box::new(error))
    }
}

/// Everything about a pipeline that stays the same from batch to batch.
#[derive(Debug)]
pub struct Steps {
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// Decoded fields to columns.
    pub map: Arc<MapPlan>,
    /// The suite, bound to the table: makes results out of merged states.
    pub quality: Arc<QualityPlan>,
    suite: Option<Suite>,
    /// Masks and the quarantine's cipher.
    pub policy: Arc<Policy>,
}

impl Steps {
    /// Binds a pipeline to an environment.
    ///
    /// # Errors
    /// When an expression, the suite or masking does not fit.
    pub fn new(pipeline: Arc<Pipeline>, environment: Option<&str>) -> Result<Self, PlanError> {
        let policy = Arc::new(Policy::new(&pipeline, environment)?);
        let suite = match &pipeline.quality {
            Some(quality) => Some(Suite::parse(&quality.suite_text, &quality.parameters)?),
            None => None,
        };
        let quality = Arc::new(QualityPlan::new(&pipeline, suite.as_ref(), Arc::clone(&policy))?);
        Ok(Self {
            map: Arc::new(MapPlan::new(&pipeline)?),
            quality,
            suite,
            policy,
            pipeline,
        })
    }

    /// The walk of one attempt in this process: `splits` yields split descriptors
    /// (`source::split_schema`), each task of the result returns its report.
    ///
    /// # Errors
    /// When an operator refuses its input.
    pub fn walk(
        &self,
        splits: Arc<dyn ExecutionPlan>,
        tools: &Tools,
    ) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
        let steps = [Step::Scan]
            .into_iter()
            .chain(self.after_scan(tools.apart.is_some()));
        steps
            .into_iter()
            .try_fold(splits, |input, step| self.step(step, input, tools))
    }

    /// The same from raw chunks (`rows::chunk_schema`) on, for records that are read a second time.
    ///
    /// # Errors
    /// When an operator refuses its input.
    pub fn walk_chunks(
        &self,
        chunks: Arc<dyn ExecutionPlan>,
        tools: &Tools,
    ) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
        let records: Arc<dyn ExecutionPlan> = match self.pipeline.source.format() {
            Format::Json => chunks,
            format @ (Format::Csv | Format::Avro | Format::Parquet) => {
                let decode = Arc::clone(self.map.decode_plan());
                Arc::new(AgainExec::new(chunks, decode, format))
            }
        };
        self.after_scan(tools.apart.is_some())
            .into_iter()
            .try_fold(records, |input, step| self.step(step, input, tools))
    }

    /// The steps of a task in a cluster, from its splits to its report.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let after_scan = self.after_scan(self.claims_together());
        [Step::Scan].into_iter().chain(after_scan).collect()
    }

    /// All steps but the first; `waits` where rows wait for keepers.
    fn after_scan(&self, waits: bool) -> Vec<Step> {
        let has_key = self.pipeline.dedup.is_some();
        // It looks at clear values of the rows that won.
        let has_uniqueness = self.quality.has_uniqueness();
        let masks_first = waits && !has_uniqueness;
        let steps = [
            (Step::Decode, true),
            (Step::Map, true),
            (Step::Quality, true),
            (Step::Key, has_key),
            (Step::Privacy, masks_first),
            (Step::Dedup, has_key),
            (Step::Uniqueness, has_uniqueness),
            (Step::Privacy, !masks_first),
            (Step::Sink, true),
        ];
        let taken = steps.into_iter().filter(|(_, is_taken)| *is_taken);
        taken.map(|(step, _)| step).collect()
    }

    /// Whether copies of a key can meet anywhere in a batch, so that the tasks must claim keys together.
    #[must_use]
    pub fn claims_together(&self) -> bool {
        let dedup = self.pipeline.dedup.as_ref();
        dedup.is_some_and(|dedup| dedup.scope == DedupScope::Global)
    }

    /// One step over the one before it.
    ///
    /// # Errors
    /// When the operator refuses its input.
    pub fn step(
        &self,
        step: Step,
        input: Arc<dyn ExecutionPlan>,
        tools: &Tools,
    ) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
        let pipeline = &self.pipeline;
        let decode = self.map.decode_plan();
        let lines = pipeline.source.format() == Format::Json;
        Ok(match step {
            Step::Scan if lines => {
                let options = ScanOptions {
                    record_bytes_max: pipeline.limits.record_bytes,
                    ..ScanOptions::default()
                };
                Arc::new(ScanExec::new(input, Arc::clone(&tools.stores), options))
            }
            // Other formats are read and decoded by one operator.
            Step::Scan => Arc::new(ContainerExec::new(
                input,
                Arc::clone(&tools.stores),
                Arc::clone(decode),
                pipeline.source.format(),
            )),
            Step::Decode if lines => Arc::new(DecodeExec::new(input, Arc::clone(decode))),
            Step::Decode => input,
            Step::Map => Arc::new(MapExec::new(input, Arc::clone(&self.map), &tools.lookups)),
            Step::Quality => Arc::new(QualityExec::new(input, self.judge(tools)?)),
            Step::Key => {
                let key = pipeline.dedup.iter().flat_map(|dedup| &dedup.key);
                let key = key.filter_map(|name| Some(pipeline.column(name)?.0)).collect();
                Arc::new(KeyExec::new(input, key))
            }
            Step::Dedup => {
                let time = pipeline.column(&pipeline.partition.time).map_or(0, |(i, _)| i);
                Arc::new(DedupExec::new(
                    input,
                    Arc::clone(&tools.keys),
                    tools.apart.clone(),
                    time,
                ))
            }
            Step::Uniqueness => Arc::new(UniquenessExec::new(input, self.judge(tools)?)),
            Step::Privacy => Arc::new(PrivacyExec::new(input, Arc::clone(&self.policy))),
            Step::Sink => Arc::new(SinkExec::new(input, Arc::clone(&tools.sink))),
            Step::Collect => Arc::new(CollectExec::new(input, Arc::clone(&tools.sink))),
        })
    }

    /// Whether these snapshots are what the pipeline looks up in.
    #[must_use]
    pub fn fits(&self, snapshots: &[Snapshot]) -> bool {
        let sealer = self.policy.sealer();
        (0..self.pipeline.enrich.len())
            .all(|lookup| find_snapshot(&self.pipeline, lookup, sealer, snapshots).is_some())
    }

    /// The snapshots of an attempt, in the lake at `place`.
    #[must_use]
    pub fn lookups(
        &self,
        place: (Arc<dyn ObjectStore>, Path),
        snapshots: &[Snapshot],
        cache: &Arc<SnapshotCache>,
    ) -> Arc<Lookups> {
        let (sealer, cache) = (self.policy.sealer(), Arc::clone(cache));
        Arc::new(Lookups::new(&self.pipeline, sealer, place, snapshots, cache))
    }

    fn judge(&self, tools: &Tools) -> Result<Arc<QualityPlan>, PlanError> {
        let plan = QualityPlan::new(&self.pipeline, self.suite.as_ref(), Arc::clone(&self.policy))?;
        Ok(Arc::new(plan.with_objects(tools.objects.clone())))
    }
}

/// A step of the walk, by name: what stands for an operator where plans travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Splits to chunks of lines (for formats that are not lines: to decoded rows).
    Scan,
    /// Chunks to columns.
    Decode,
    /// The old format to the table's columns.
    Map,
    /// Verdicts: takes rows out.
    Quality,
    /// Hashes the dedup key.
    Key,
    /// Drops repeats.
    Dedup,
    /// Looks for repeated values.
    Uniqueness,
    /// Masks.
    Privacy,
    /// Writes files, gives a report.
    Sink,
    /// Joins the reports of all tasks into one object.
    Collect,
}

impl Step {
    /// All of them, in the order of the walk.
    pub const ALL: [Self; 10] = [
        Self::Scan,
        Self::Decode,
        Self::Map,
        Self::Quality,
        Self::Key,
        Self::Dedup,
        Self::Uniqueness,
        Self::Privacy,
        Self::Sink,
        Self::Collect,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Decode => "decode",
            Self::Map => "map",
            Self::Quality => "quality",
            Self::Key => "key",
            Self::Dedup => "dedup",
            Self::Uniqueness => "uniqueness",
            Self::Privacy => "privacy",
            Self::Sink => "sink",
            Self::Collect => "collect",
        }
    }
}

/// What the steps of one attempt work with, beside the pipeline.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Where input is read.
    pub stores: Arc<Stores>,
    /// Keys committed and claimed.
    pub keys: Arc<KeyIndex>,
    /// Who keeps the attempt's claims, where several processes do.
    pub apart: Option<Apart>,
    /// Where output is written.
    pub sink: Arc<SinkSpec>,
    /// The input objects by split index, for the origins of quarantined records.
    pub objects: Vec<String>,
    /// Snapshots that events are looked up in.
    pub lookups: Arc<Lookups>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    const PIPELINE: &str = "
version: 1
pipeline: shop
source: {files: {path: /events, format: json}}
schema:
  - {name: event_id, type: string, required: true}
  - {name: event_time, type: timestamp, required: true}
quality: {suite: suite.json, minimum_clean: 0.9, on_breach: hold}
dedup: {key: [event_id], scope: SCOPE}
partition: {time: event_time, by: [date]}
lake: {url: /lake}
";
    const NO_NULLS: &str = "expect_column_values_to_not_be_null";
    const UNIQUE: &str = "expect_column_values_to_be_unique";

    /// The names of the last steps of a task in a cluster.
    fn last_steps(scope: &str, expectation: &str) -> Vec<&'static str> {
        let suite = format!(
            r#"{{"name": "s", "expectations": [{{"type": "{expectation}", "kwargs": {{"column": "event_id"}}}}]}}"#
        );
        let text = PIPELINE.replace("SCOPE", scope);
        let read = |_: &std::path::Path| Ok(suite.clone());
        let pipeline = spec::load(&text, "shop.yaml", std::path::Path::new("/"), &|_| None, &read).unwrap();
        let steps = Steps::new(Arc::new(pipeline), None).unwrap().steps();
        let after_key = steps.iter().skip_while(|step| **step != Step::Key).skip(1);
        after_key.map(|step| step.name()).collect()
    }

    #[test]
    fn rows_that_wait_for_keepers_are_masked_first_unless_clear_values_are_counted() {
        let masked_last = ["dedup", "privacy", "sink"];
        assert_eq!(last_steps("global", NO_NULLS), ["privacy", "dedup", "sink"]);
        assert_eq!(last_steps("partition", NO_NULLS), masked_last);
        let uniqueness = ["dedup", "uniqueness", "privacy", "sink"];
        assert_eq!(last_steps("global", UNIQUE), uniqueness);
        assert_eq!(last_steps("partition", UNIQUE), uniqueness);
    }
}
