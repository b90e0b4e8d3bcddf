//! Topics read from a real broker: every message of a range once, nothing else, and an error where that cannot be.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy excepts test functions only, not what they share"
)]

mod broker;
mod faults;
mod ranges;

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use millrace_pipeline::decode::exec::DecodeExec;
use millrace_pipeline::decode::{DecodePlan, Wanted, WantedKind};
use millrace_pipeline::source::exec::{ScanExec, ScanOptions};
use millrace_pipeline::source::kafka::{KafkaClients, KafkaOptions, PartitionOffsets, Topic};
use millrace_pipeline::source::{Stores, split_schema, splits_batch};
use millrace_pipeline::spec::model::ColumnType;
use millrace_proto::split::{InputObject, Split};

/// A reader with clients of its own.
#[derive(Clone)]
struct Reader {
    options: KafkaOptions,
    clients: Arc<KafkaClients>,
    chunk_bytes: usize,
}

impl Reader {
    fn new(options: KafkaOptions) -> Self {
        Self {
            options,
            clients: Arc::default(),
            chunk_bytes: 4 << 20,
        }
    }

    /// The topic's partitions as they are now.
    async fn partitions(&self, topic: &str) -> Vec<PartitionOffsets> {
        let (options, topic) = (self.options.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || Topic::open(&options, &topic).unwrap().partitions().unwrap())
            .await
            .unwrap()
    }

    fn plan(&self, splits: &[Split]) -> Arc<ScanExec> {
        let rows = splits
            .iter()
            .map(|split| splits_batch(std::slice::from_ref(split)).unwrap());
        let input = MemorySourceConfig::try_new_exec(&[rows.collect()], split_schema(), None).unwrap();
        let stores = Stores::default().with_kafka(self.options.clone(), Arc::clone(&self.clients));
        let options = ScanOptions {
            chunk_bytes: self.chunk_bytes,
            ..ScanOptions::default()
        };
        Arc::new(ScanExec::new(input, Arc::new(stores), options))
    }

    fn scan(&self, splits: &[Split]) -> SendableRecordBatchStream {
        self.plan(splits)
            .execute(0, Arc::new(TaskContext::default()))
            .unwrap()
    }

    /// Offsets and payloads of the splits, and how many offsets had no message.
    async fn read(&self, splits: &[Split]) -> Result<(Vec<(u64, Vec<u8>)>, u64), DataFusionError> {
        let plan = self.plan(splits);
        let stream = plan.execute(0, Arc::new(TaskContext::default()))?;
        let chunks: Vec<RecordBatch> = stream.try_collect().await?;
        let missing = plan.metrics().unwrap().sum_by_name("offsets_missing").unwrap();
        let messages = chunks.iter().flat_map(messages).collect();
        Ok((messages, missing.as_usize() as u64))
    }

    /// Decoded rows: the column `a`, and what every record has.
    async fn decode(&self, splits: &[Split], record_bytes_max: u64) -> Vec<RecordBatch> {
        let plan = DecodePlan {
            fields: vec![Wanted {
                name: "a".to_owned(),
                path: vec!["a".to_owned()],
                kind: WantedKind::Value(ColumnType::String),
            }],
            record_bytes_max,
            depth_max: 64,
        };
        let decode = DecodeExec::new(self.plan(splits), Arc::new(plan));
        let stream = decode.execute(0, Arc::new(TaskContext::default())).unwrap();
        stream.try_collect().await.unwrap()
    }
}

/// A chunk's messages, told apart as the contract says.
fn messages(chunk: &RecordBatch) -> Vec<(u64, Vec<u8>)> {
    let payload = chunk.column(3).as_binary::<i64>().value(0);
    let list = chunk.column(4).as_list::<i32>().value(0);
    let list = list.as_struct();
    let offsets = list.column(0).as_primitive::<UInt64Type>().values();
    let ends = list.column(1).as_primitive::<UInt64Type>().values();
    let mut start = 0;
    let mut found = Vec::new();
    for (&offset, &end) in offsets.iter().zip(ends) {
        found.push((offset, payload[start..end as usize].to_vec()));
        assert_eq!(payload[end as usize], b'\n');
        start = end as usize + 1;
    }
    assert_eq!(start, payload.len());
    found
}

/// Splits of these ranges, numbered.
fn splits(object: &InputObject, bounds: &[u64]) -> Vec<Split> {
    bounds
        .windows(2)
        .zip(0..)
        .map(|(bounds, index)| Split {
            index,
            object: object.clone(),
            start: bounds[0],
            end: bounds[1],
        })
        .collect()
}
