//! The operator that reads quarantined records again: one record a row in, decoded batches out.
//!
//! In: batches of [`crate::rows::chunk_schema`], each payload one record as quarantine keeps it. Out: batches of
//! [`super::decoded_schema`], as many rows, each with the origin that it had. JSON lines need no operator of their
//! own here: their record is its line.
//!
//! | a payload...                                   | is read as                                             |
//! |------------------------------------------------|--------------------------------------------------------|
//! | CSV: the file's header line, then the record   | a file of one record                                   |
//! | CSV: an empty line, then the record            | a fault: it was cut, or its file has no header         |
//! | Avro, Parquet: see [`super::container::stored`] | a batch of one row                                     |
//! | anything else                                  | a fault: the record stays in quarantine as it is       |

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, new_null_array};
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{SchemaRef, UInt32Type, UInt64Type};
use arrow::error::ArrowError;
use datafusion::common::{Result, internal_err};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::container::origin::{Origin, Place};
use super::container::{arrays, stored};
use super::{DecodePlan, WantedKind, csv, decoded_schema};
use crate::rows::{Fault, FaultKind};
use crate::spec::model::Format;
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Records of an output batch.
const RECORDS: usize = 1024;

/// Decodes records one by one.
pub type AgainExec = UnaryExec<Again>;

/// What [`AgainExec`] does.
#[derive(Debug)]
pub struct Again {
    /// What is decoded.
    pub plan: Arc<DecodePlan>,
    /// The format of the objects that the records came from.
    pub format: Format,
}

impl AgainExec {
    /// Decodes the records that `input` gives, which has [`crate::rows::chunk_schema`].
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, plan: Arc<DecodePlan>, format: Format) -> Self {
        Self::over(input, Arc::new(Again { plan, format }))
    }
}

impl Unary for Again {
    const NAME: &'static str = "AgainExec";

    fn schema(&self, _: &SchemaRef) -> SchemaRef {
        decoded_schema(&self.plan)
    }

    fn settings(&self, _: &SchemaRef) -> String {
        format!("{:?}, {} fields", self.format, self.plan.fields.len())
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        if self.format == Format::Json {
            return internal_err!("JSON records are lines, read by DecodeExec");
        }
        let (plan, format, metrics) = (Arc::clone(&self.plan), self.format, task.metrics());
        let decoded = input.map_ok(move |chunk| {
            let (plan, metrics) = (Arc::clone(&plan), metrics.clone());
            let groups = (0..chunk.num_rows()).step_by(RECORDS).map(move |from| {
                let _timer = metrics.elapsed_compute().timer();
                let group = chunk.slice(from, RECORDS.min(chunk.num_rows() - from));
                let decoded = decode(&group, &plan, format)?;
                metrics.output_rows().add(decoded.num_rows());
                Ok(decoded)
            });
            stream::iter(groups)
        });
        Ok(decoded.try_flatten().boxed())
    }
}

fn decode(records: &RecordBatch, plan: &DecodePlan, format: Format) -> Result<RecordBatch> {
    let splits = records.column(0).as_primitive::<UInt32Type>().values();
    let lines = records.column(1).as_primitive::<UInt64Type>().values();
    let offsets = records.column(2).as_primitive::<UInt64Type>().values();
    let payloads = records.column(3).as_binary::<i64>();
    let rows: Result<Vec<RecordBatch>, ArrowError> = (0..records.num_rows())
        .map(|row| {
            let from = Place {
                split: splits[row],
                line: lines[row],
                offset: offsets[row],
            };
            record(payloads.value(row), from, plan, format)
        })
        .collect();
    Ok(concat_batches(&decoded_schema(plan), &rows?)?)
}

fn record(payload: &[u8], from: Place, plan: &DecodePlan, format: Format) -> Result<RecordBatch, ArrowError> {
    let decoded = match format {
        Format::Csv => csv::decode_record(payload, from, plan)?,
        Format::Avro | Format::Parquet => match stored::row(payload) {
            Ok(row) => Some(arrays::decode(&row, plan, from.split, from.line)?),
            Err(_) => None,
        },
        Format::Json => None,
    };
    match decoded.filter(|decoded| decoded.num_rows() == 1) {
        Some(decoded) => Ok(decoded),
        None => unreadable(payload, from, plan),
    }
}

/// A row of nulls that says why.
fn unreadable(payload: &[u8], from: Place, plan: &DecodePlan) -> Result<RecordBatch, ArrowError> {
    let mut origin = Origin::new(from.split);
    let row = origin.push((0, payload.len()), from.line, from.offset);
    origin.fault(
        row,
        Fault {
            kind: FaultKind::Syntax,
            column: None,
            detail:
                "what quarantine keeps of it is not a whole record; mend its file and run that as new input"
                    .to_owned(),
        },
    );
    let null = |kind: &WantedKind| match kind {
        WantedKind::Value(kind) => new_null_array(&kind.arrow(), 1),
        WantedKind::Present => Arc::new(BooleanArray::from(vec![false])) as ArrayRef,
    };
    let mut columns: Vec<ArrayRef> = plan.fields.iter().map(|wanted| null(&wanted.kind)).collect();
    columns.extend(origin.finish(Buffer::from_vec(payload.to_vec()))?);
    RecordBatch::try_new(decoded_schema(plan), columns)
}
