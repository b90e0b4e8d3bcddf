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

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::TryStreamExt;
use millrace_proto::keys;
use millrace_proto::manifest::TaskReport;
use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutPayload};

use super::report::{read_report, report_schema};
use super::{SinkError, SinkSpec};

/// Joins the reports of an attempt's tasks.
#[derive(Debug)]
pub struct CollectExec {
    input: Arc<dyn ExecutionPlan>,
    spec: Arc<SinkSpec>,
    properties: Arc<PlanProperties>,
}

impl CollectExec {
    /// Joins what `input`, which must have one partition, reports.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, spec: Arc<SinkSpec>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(report_schema()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            input,
            spec,
            properties: Arc::new(properties),
        }
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

async fn put_if_absent(spec: &SinkSpec, key: &str, body: Vec<u8>) -> Result<()> {
    let path = key.split('/').fold(spec.root.clone(), Path::join);
    let options = PutOptions {
        mode: PutMode::Create,
        ..PutOptions::default()
    };
    match spec.lake.put_opts(&path, PutPayload::from(body), options).await {
        Ok(_) | Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
            Ok(())
        }
        Err(source) => {
            let key = key.to_owned();
            Err(SinkError::Put { key, source }.into())
        }
    }
}

impl DisplayAs for CollectExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SinkSpec { batch, attempt, .. } = &*self.spec;
        write!(f, "CollectExec: batch={batch}, attempt={attempt}")
    }
}

impl ExecutionPlan for CollectExec {
    fn name(&self) -> &'static str {
        "CollectExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(Self::new(input, Arc::clone(&self.spec))))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let row = futures::stream::once(collect(input, Arc::clone(&self.spec)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(report_schema(), row)))
    }
}
