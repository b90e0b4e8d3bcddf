//! The operator: chunks of lines in, decoded batches out.
//!
//! In: batches of [`crate::rows::chunk_schema`]. Out: batches of
//! [`super::decoded_schema`], whose texts and raw records borrow the chunks' buffers.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, AsArray, LargeBinaryArray, ListArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{SchemaRef, UInt32Type, UInt64Type};
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{BaselineMetrics, Count};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};

use super::json::Decoder;
use super::json::messages::Messages;
use super::{DecodePlan, decoded_schema};
use crate::rows;
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Decodes JSON lines.
pub type DecodeExec = UnaryExec<Decode>;

/// What [`DecodeExec`] does.
#[derive(Debug)]
pub struct Decode {
    /// What is decoded.
    pub plan: Arc<DecodePlan>,
}

impl DecodeExec {
    /// Decodes `input`, which has [`rows::chunk_schema`], as `plan` says.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, plan: Arc<DecodePlan>) -> Self {
        Self::over(input, Arc::new(Decode { plan }))
    }
}

impl Unary for Decode {
    const NAME: &'static str = "DecodeExec";

    fn schema(&self, _: &SchemaRef) -> SchemaRef {
        decoded_schema(&self.plan)
    }

    fn settings(&self, _: &SchemaRef) -> String {
        format!("json, {} fields", self.plan.fields.len())
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let kernel = Kernel {
            decoder: Decoder::new(Arc::clone(&self.plan)),
            metrics: task.metrics(),
            bytes: task.counter("bytes_decoded"),
        };
        Ok(decoded(input, kernel).boxed())
    }
}

/// The decoder of one partition and what it counts.
struct Kernel {
    decoder: Decoder,
    metrics: BaselineMetrics,
    bytes: Count,
}

/// Decodes each chunk when the batches of the one before are gone.
fn decoded(chunks: SendableRecordBatchStream, kernel: Kernel) -> impl Stream<Item = Result<RecordBatch>> {
    let start = (chunks, kernel, VecDeque::new());
    stream::try_unfold(start, |(mut chunks, mut kernel, mut ready)| async move {
        loop {
            if let Some(batch) = ready.pop_front() {
                return Ok(Some((batch, (chunks, kernel, ready))));
            }
            match chunks.next().await {
                Some(chunk) => ready.extend(kernel.decode(&chunk?)?),
                None => return Ok(None),
            }
        }
    })
}

impl Kernel {
    fn decode(&mut self, chunk: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let _timer = self.metrics.elapsed_compute().timer();
        let (splits, lines, offsets, payloads, messages) = columns(chunk)?;
        let mut batches = Vec::new();
        for row in 0..chunk.num_rows() {
            let bounds = payloads.value_offsets();
            let (start, end) = (bounds[row] as usize, bounds[row + 1] as usize);
            let payload = payloads.values().slice_with_length(start, end - start);
            let before = batches.len();
            let decoded = if messages.is_null(row) {
                self.decoder
                    .decode(&payload, splits[row], lines[row], offsets[row], &mut batches)
            } else {
                let (offsets, ends) = of_messages(messages, row)?;
                let messages = Messages {
                    offsets: &offsets,
                    ends: &ends,
                };
                self.decoder
                    .decode_messages(&payload, splits[row], messages, &mut batches)
            };
            let found = decoded.map_err(|error| DataFusionError::External(Box::new(error)))?;
            let records: usize = batches[before..].iter().map(RecordBatch::num_rows).sum();
            let blanks = found.saturating_sub(records as u64);
            if blanks > 0 {
                if batches.len() == before {
                    batches.push(RecordBatch::new_empty(Arc::clone(self.decoder.schema())));
                }
                let last = batches.pop();
                batches.extend(last.map(|last| rows::with_blanks(last, splits[row], blanks)));
            }
            self.bytes.add(payload.len());
        }
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        self.metrics.record_output(rows);
        Ok(batches)
    }
}

/// Splits, first lines, first offsets, payloads and messages.
type Chunks<'a> = (
    &'a [u32],
    &'a [u64],
    &'a [u64],
    &'a LargeBinaryArray,
    &'a ListArray,
);

/// The columns of [`rows::chunk_schema`].
fn columns(chunk: &RecordBatch) -> Result<Chunks<'_>> {
    let expected = rows::chunk_schema();
    let is_expected = chunk.num_columns() == expected.fields().len()
        && (expected.fields().iter().zip(chunk.columns()))
            .all(|(field, column)| field.data_type() == column.data_type());
    if !is_expected {
        return internal_err!(
            "DecodeExec expects chunks of input, got columns {}",
            chunk.schema()
        );
    }
    Ok((
        chunk.column(0).as_primitive::<UInt32Type>().values(),
        chunk.column(1).as_primitive::<UInt64Type>().values(),
        chunk.column(2).as_primitive::<UInt64Type>().values(),
        chunk.column(3).as_binary::<i64>(),
        chunk.column(4).as_list::<i32>(),
    ))
}

/// Offsets and ends of a chunk's messages.
fn of_messages(messages: &ListArray, row: usize) -> Result<(ScalarBuffer<u64>, ScalarBuffer<u64>)> {
    let messages = messages.value(row);
    match messages.as_struct().columns() {
        [offsets, ends] => Ok((
            offsets.as_primitive::<UInt64Type>().values().clone(),
            ends.as_primitive::<UInt64Type>().values().clone(),
        )),
        columns => internal_err!("a chunk's messages have {} columns, expected 2", columns.len()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, UInt32Array, UInt64Array};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::execution::TaskContext;

    use super::*;
    use crate::decode::{Wanted, WantedKind};
    use crate::spec::model::ColumnType;

    #[test]
    fn the_operator_borrows_the_chunks_and_keeps_their_origin() {
        let payloads = LargeBinaryArray::from_vec(vec![
            b"{\"a\":\"a text that is long\"}\n\n{\"a\":1}\n".as_slice(),
            b"{\"a\":\"x\"}",
        ]);
        let values = payloads.values().clone();
        let chunk = RecordBatch::try_new(
            rows::chunk_schema(),
            vec![
                Arc::new(UInt32Array::from(vec![4, 5])) as ArrayRef,
                Arc::new(UInt64Array::from(vec![10, 1])),
                Arc::new(UInt64Array::from(vec![1000, 0])),
                Arc::new(payloads),
                rows::no_messages(2),
            ],
        )
        .unwrap();
        let input = MemorySourceConfig::try_new_exec(&[vec![chunk]], rows::chunk_schema(), None).unwrap();
        let plan = DecodePlan {
            fields: vec![Wanted {
                name: "a".to_owned(),
                path: vec!["a".to_owned()],
                kind: WantedKind::Value(ColumnType::String),
            }],
            record_bytes_max: 1 << 20,
            depth_max: 128,
        };
        let operator = DecodeExec::new(input, Arc::new(plan));
        let stream = operator.execute(0, Arc::new(TaskContext::default())).unwrap();
        let batches: Vec<RecordBatch> =
            futures::executor::block_on(stream.map(std::result::Result::unwrap).collect());
        let [first, second] = batches.as_slice() else {
            panic!("one batch a payload, got {}", batches.len());
        };
        assert_eq!(first.schema().fields(), operator.schema().fields());
        assert_eq!(
            (rows::blanks_of(first), rows::blanks_of(second)),
            (Some((4, 1)), None)
        );
        assert_eq!(first["a"].as_string_view().value(0), "a text that is long");
        assert_eq!(
            first["a"].as_string_view().data_buffers()[0].as_ptr(),
            values.as_ptr()
        );
        assert_eq!(first[rows::LINE].as_primitive::<UInt64Type>().values(), &[10, 12]);
        assert_eq!(
            first[rows::OFFSET].as_primitive::<UInt64Type>().values(),
            &[1000, 1029]
        );
        assert_eq!(first[rows::FAULTS].null_count(), 1);
        assert_eq!(second[rows::SPLIT].as_primitive::<UInt32Type>().values(), &[5]);
        assert_eq!(operator.metrics().unwrap().output_rows(), Some(3));
    }
}
