//! The last operator of an attempt across processes: one task joins the reports of all.
//!
//! In: one partition with the report of each task. Out: the same number of reports as one row. On the way the
//! reports are put, if absent, as `attempts/<batch>-<attempt>.json`, which the leader reads: an engine's own list of
//! results can name tasks that were repeated elsewhere, this operator sees each task of the plan exactly once.
//!
//! | the object...                              | then                                                          |
//! |---------------------------------------------|---------------------------------------------------------------|
//! | was not there                               | ours is it                                                    |
//! | is there, put by a run of this very operator | it stands: its files are whole, ours are swept with the rest |

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use millrace_proto::keys;
use millrace_proto::manifest::TaskReport;
use object_store::{PutMode, PutOptions, PutPayload};

use super::report::{read_report, report_schema};
use super::upload::path_of;
use super::{SinkError, SinkSpec};
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Joins the reports of an attempt's tasks.
pub type CollectExec = UnaryExec<Collect>;

/// What [`CollectExec`] does.
#[derive(Debug)]
pub struct Collect {
    /// Where the attempt writes.
    pub spec: Arc<SinkSpec>,
}

impl CollectExec {
    /// Joins what `input`, which must have one partition, reports.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, spec: Arc<SinkSpec>) -> Self {
        Self::over(input, Arc::new(Collect { spec }))
    }
}

impl Unary for Collect {
    const NAME: &'static str = "CollectExec";
    const WHOLE_INPUT: bool = true;

    fn schema(&self, _: &SchemaRef) -> SchemaRef {
        report_schema()
    }

    fn settings(&self, _: &SchemaRef) -> String {
        format!("batch={}, attempt={}", self.spec.batch, self.spec.attempt)
    }

    fn emission(&self, _: EmissionType) -> EmissionType {
        EmissionType::Final
    }

    fn boundedness(&self, _: Boundedness) -> Boundedness {
        Boundedness::Bounded
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        _: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        Ok(futures::stream::once(collect(input, Arc::clone(&self.spec))).boxed())
    }
}

/// The reports in one object, as the leader reads them.
///
/// # Errors
/// When the bytes are no list of reports.
pub fn read_reports(bytes: &[u8]) -> std::result::Result<Vec<TaskReport>, serde_json::Error> {
    serde_json::from_slice(bytes)
}

async fn collect(mut input: SendableRecordBatchStream, spec: Arc<SinkSpec>) -> Result<RecordBatch> {
    let mut reports: Vec<TaskReport> = Vec::new();
    while let Some(batch) = input.try_next().await? {
        for row in 0..batch.num_rows() {
            reports.push(read_report(&batch.slice(row, 1))?);
        }
    }
    let body = serde_json::to_vec(&reports).map_err(|error| DataFusionError::External(Box::new(error)))?;
    let key = keys::attempt(&spec.batch, spec.attempt);
    put_if_absent(&spec, &key, body).await?;
    let column = Arc::new(StringArray::from(vec![key]));
    Ok(RecordBatch::try_new(report_schema(), vec![column])?)
}

async fn put_if_absent(spec: &SinkSpec, key: &str, body: Vec<u8>) -> Result<(), SinkError> {
    let path = path_of(&spec.root, key)?;
    let options = PutOptions::from(PutMode::Create);
    match spec.lake.put_opts(&path, PutPayload::from(body), options).await {
        Ok(_) | Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
            Ok(())
        }
        Err(source) => Err(SinkError::put(key, source)),
    }
}
