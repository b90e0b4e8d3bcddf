//! The walk of an event, as a plan. Reads like the list of the steps.
//!
//! In one process no row moves between tasks: every task walks its own splits from end to end, and the
//! tasks share the key index. Deduplication stands before masking then, so that losers are never masked.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;

use crate::decode::container::ContainerExec;
use crate::decode::exec::DecodeExec;
use crate::dedup::KeyIndex;
use crate::dedup::exec::DedupExec;
use crate::dedup::key::KeyExec;
use crate::map::exec::MapExec;
use crate::map::{MapError, MapPlan};
use crate::privacy::exec::PrivacyExec;
use crate::privacy::{Policy, PrivacyError};
use crate::quality::{QualityError, QualityExec, QualityPlan, Suite, SuiteError, UniquenessExec};
use crate::sink::{SinkExec, SinkSpec};
use crate::source::Stores;
use crate::source::exec::{ScanExec, ScanOptions};
use crate::spec::model::{Format, Pipeline};

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

    /// The walk of one attempt: `splits` yields split descriptors (`source::split_schema`), each task of
    /// the result returns its report.
    ///
    /// # Errors
    /// When an operator refuses its input.
    pub fn walk(
        &self,
        splits: Arc<dyn ExecutionPlan>,
        objects: Vec<String>,
        stores: &Arc<Stores>,
        keys: &Arc<KeyIndex>,
        sink: SinkSpec,
    ) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
        let decoded = self.decoded(splits, stores);
        self.after_decode(decoded, objects, keys, sink)
    }

    /// The same from raw chunks (`rows::chunk_schema`) on, for records that are read a second time.
    ///
    /// # Errors
    /// When an operator refuses its input.
    pub fn walk_chunks(
        &self,
        chunks: Arc<dyn ExecutionPlan>,
        objects: Vec<String>,
        keys: &Arc<KeyIndex>,
        sink: SinkSpec,
    ) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
        let decoded = Arc::new(DecodeExec::new(chunks, Arc::clone(self.map.decode_plan())));
        self.after_decode(decoded, objects, keys, sink)
    }

    fn decoded(&self, splits: Arc<dyn ExecutionPlan>, stores: &Arc<Stores>) -> Arc<dyn ExecutionPlan> {
        let decode = self.map.decode_plan();
        match self.pipeline.source.format() {
            Format::Json => {
                let record_bytes_max = self.pipeline.limits.record_bytes;
                let options = ScanOptions {
                    record_bytes_max,
                    ..ScanOptions::default()
                };
                let chunks = Arc::new(ScanExec::new(splits, Arc::clone(stores), options));
                Arc::new(DecodeExec::new(chunks, Arc::clone(decode)))
            }
            format @ (Format::Csv | Format::Avro | Format::Parquet) => Arc::new(ContainerExec::new(
                splits,
                Arc::clone(stores),
                Arc::clone(decode),
                format,
            )),
        }
    }

    fn after_decode(
        &self,
        decoded: Arc<dyn ExecutionPlan>,
        objects: Vec<String>,
        keys: &Arc<KeyIndex>,
        sink: SinkSpec,
    ) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
        let quality = QualityPlan::new(&self.pipeline, self.suite.as_ref(), Arc::clone(&self.policy))?;
        let quality = Arc::new(quality.with_objects(objects));
        let mapped = Arc::new(MapExec::new(decoded, Arc::clone(&self.map)));
        let mut rows: Arc<dyn ExecutionPlan> = Arc::new(QualityExec::new(mapped, Arc::clone(&quality)));
        if let Some(dedup) = &self.pipeline.dedup {
            let column = |name: &String| self.pipeline.column(name).map(|(i, _)| i);
            let key: Vec<usize> = dedup.key.iter().filter_map(column).collect();
            let time = self
                .pipeline
                .column(&self.pipeline.partition.time)
                .map_or(0, |(i, _)| i);
            rows = Arc::new(KeyExec::new(rows, key));
            rows = Arc::new(DedupExec::new(rows, Arc::clone(keys), time));
        }
        if quality.has_uniqueness() {
            rows = Arc::new(UniquenessExec::new(rows, quality));
        }
        rows = Arc::new(PrivacyExec::new(rows, Arc::clone(&self.policy)));
        Ok(Arc::new(SinkExec::new(rows, Arc::new(sink))))
    }
}
