//! Every operator over the wire.
//!
//! An operator that travels is a [`Travelling`] one: the operator itself, the name of its [`Step`], and the
//! attempt that it belongs to ([`AttemptSpec`]). On the wire stand only the step and the attempt; the other side
//! reads the pipeline again, from the same text, and makes the same operator of the input that arrives with it. So
//! no secret travels (`${env:NAME}` is filled in by each process), and an operator can have any fields.
//!
//! ```text
//! 0xff "mill" | version (1 byte) | JSON of {step, extra, attempt}
//! ```
//!
//! A plan of another version is refused by name. What is not ours goes to the engine's own codec. The way back has a form too:
//! why a task failed is a [`TaskFailure`].

mod attempt;
mod counters;
mod failure;
mod origin;
mod travelling;
mod workplace;

use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use serde::{Deserialize, Serialize};

pub use attempt::{AttemptSpec, PipelineText};
pub use counters::{Held, StepCount, StepCounters};
pub use failure::TaskFailure;
pub use travelling::{Travelling, assemble};
pub use workplace::{CodecError, Environment, Prepared, Workplace, WorkplaceOptions};

use crate::dedup::claims::Keeper;
use crate::plan::Step;
use millrace_proto::manifest::KeyFile;

/// First bytes of an operator of ours: no protobuf message starts so.
const MAGIC: &[u8; 5] = b"\xffmill";
/// Version of what follows.
const VERSION: u8 = 3;

/// What one operator needs beside the attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extra {
    /// For judging: the input objects by split index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// For deduplication: every committed key file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyFile>,
    /// For deduplication: who keeps the attempt's claims; none where copies of a key meet in one task only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keepers: Vec<Keeper>,
}

#[derive(Serialize)]
struct NodeOut<'a> {
    step: Step,
    extra: &'a Extra,
    attempt: &'a AttemptSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeIn {
    step: Step,
    extra: Extra,
    attempt: AttemptSpec,
}

/// Our operators, and for everything else the engine's codec.
#[derive(Debug)]
pub struct Codec {
    workplace: Arc<Workplace>,
    other: Arc<dyn PhysicalExtensionCodec>,
}

impl Codec {
    /// A codec that makes operators at `workplace` and leaves the rest to `other`.
    #[must_use]
    pub fn new(workplace: Arc<Workplace>, other: Arc<dyn PhysicalExtensionCodec>) -> Self {
        Self { workplace, other }
    }
}

/// What the engine hands on of it is what people read of it.
fn refused(error: CodecError) -> DataFusionError {
    TaskFailure::of(&DataFusionError::External(Box::new(error)), &[]).into()
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(rest) = buf.strip_prefix(MAGIC) else {
            return self.other.try_decode(buf, inputs, ctx, proto_converter);
        };
        let (&version, body) = rest.split_first().unwrap_or((&0, &[]));
        if version != VERSION {
            return Err(refused(CodecError::Version {
                version,
                ours: VERSION,
            }));
        }
        let node: NodeIn =
            serde_json::from_slice(body).map_err(|error| refused(CodecError::Damaged(error)))?;
        let [input] = inputs else {
            return Err(refused(CodecError::Inputs { found: inputs.len() }));
        };
        let prepared = self
            .workplace
            .prepare(&node.attempt.pipeline, node.attempt.environment.as_deref())
            .map_err(refused)?;
        let attempt = Arc::new(node.attempt);
        let operator = travelling::make(
            node.step,
            &attempt,
            node.extra,
            Arc::clone(input),
            &prepared,
            &self.workplace,
        );
        Ok(Arc::new(operator.map_err(|error| refused(error.into()))?))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(ours) = node.downcast_ref::<Travelling>() else {
            return self.other.try_encode(node, buf, proto_converter);
        };
        buf.extend_from_slice(MAGIC);
        buf.push(VERSION);
        let out = NodeOut {
            step: ours.step(),
            extra: ours.extra(),
            attempt: ours.attempt(),
        };
        serde_json::to_writer(buf, &out).map_err(|error| refused(CodecError::Damaged(error)))
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        self.other.try_decode_udf(name, buf)
    }

    fn try_encode_udf(&self, node: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.other.try_encode_udf(node, buf)
    }

    fn try_decode_higher_order_function(&self, name: &str, buf: &[u8]) -> Result<Arc<HigherOrderUDF>> {
        self.other.try_decode_higher_order_function(name, buf)
    }

    fn try_encode_higher_order_function(&self, node: &HigherOrderUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.other.try_encode_higher_order_function(node, buf)
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        self.other.try_decode_udaf(name, buf)
    }

    fn try_encode_udaf(&self, node: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.other.try_encode_udaf(node, buf)
    }

    fn try_decode_udwf(&self, name: &str, buf: &[u8]) -> Result<Arc<WindowUDF>> {
        self.other.try_decode_udwf(name, buf)
    }

    fn try_encode_udwf(&self, node: &WindowUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.other.try_encode_udwf(node, buf)
    }
}
