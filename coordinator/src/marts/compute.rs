//! One period: its query over the files of its window, the rows into one object.
//!
//! In: the ledger's state, a mart, a period. Out: an object that nothing names yet. The query runs with bounded memory, sorts and
//! joins beyond it go to disk; rows are written as they come. Threads share the memory: where a thread's part is too small even
//! to go to disk, the query is run again by one. What it says when it fails holds no value of a row.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext, ident, lit};
use datafusion::scalar::ScalarValue;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use millrace_pipeline::spec::marts::{Mart, events_schema, plan};
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::manifest::WrittenObject;
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::properties::WriterProperties;

use super::due::Period;
use super::run::Limits;
use super::{start_of, writers};
use crate::aside::Lost;
use crate::commit::{CommitError, live};
use crate::lake::{Lake, LakeError};
use crate::ledger::State;
use crate::query::{QueryError, files_table, store_url};

/// Why a period was not computed. None of it quotes a row.
#[derive(Debug, thiserror::Error)]
pub enum MartError {
    /// What is committed cannot be read.
    #[error("what is committed cannot be read")]
    Committed(#[source] CommitError),
    /// The lake's files cannot be found or read.
    #[error(transparent)]
    Files(#[from] QueryError),
    /// The lake.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// A store failed under the query.
    #[error("the lake could not be read")]
    Store(#[source] Box<DataFusionError>),
    /// The query wants more than it may have.
    #[error(
        "the query needs more than {mib} MiB of memory and cannot go on from disk; give it more, or let it hold less: {what}"
    )]
    Memory {
        /// What it may have.
        mib: usize,
        /// Which of its operators has how much, and wants how much more.
        what: String,
    },
    /// The query takes longer than it may.
    #[error(
        "the query was ended after {seconds} s, its `timeout`: let it look at less, or give it more time"
    )]
    TimedOut {
        /// What it may take.
        seconds: u64,
    },
    /// The query fails on some row.
    #[error("the query fails: {0}")]
    Query(&'static str),
    /// It was ended from without, or has a bug.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The result cannot be written.
    #[error("the result could not be written")]
    Write(#[source] ParquetError),
}

impl MartError {
    /// Whether trying again may help without anybody's doing.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Committed(error) => matches!(error, CommitError::Lake(_)),
            Self::Files(_) | Self::Lake(_) | Self::Store(_) | Self::Write(_) => true,
            Self::Memory { .. } | Self::TimedOut { .. } | Self::Query(_) | Self::Lost(_) => false,
        }
    }
}

/// The part of a query's memory that its sorts set aside to merge what they have sorted. A merge holds each row's key once more, in
/// a form that takes 33 bytes for the shortest text: of narrow rows that is more than the rows themselves.
const MERGES: usize = 4;

/// What a period is computed from: the ledger goes on meanwhile.
pub(super) struct Source {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) lake: Lake,
    pub(super) state: State,
    pub(super) mart: Mart,
    pub(super) period: Period,
}

/// Computes a period into an object of this key, within the mart's time.
pub(super) async fn compute(source: Source, key: String, limits: Limits) -> Result<WrittenObject, MartError> {
    let seconds = source.mart.timeout_seconds;
    let computed = by_so_many_threads(source, key, limits);
    tokio::time::timeout(Duration::from_secs(seconds), computed)
        .await
        .unwrap_or(Err(MartError::TimedOut { seconds }))
}

/// By as many threads as the limits say, or by one.
async fn by_so_many_threads(source: Source, key: String, limits: Limits) -> Result<WrittenObject, MartError> {
    let computed = compute_within(&source, &key, limits).await;
    if limits.threads > 1 && matches!(computed, Err(MartError::Memory { .. })) {
        tracing::info!(
            model = source.mart.name,
            mib = limits.memory_bytes >> 20,
            threads = limits.threads,
            "the query does not fit into its memory by so many threads: it is run by one"
        );
        let alone = Limits { threads: 1, ..limits };
        return compute_within(&source, &key, alone).await;
    }
    computed
}

async fn compute_within(source: &Source, key: &str, limits: Limits) -> Result<WrittenObject, MartError> {
    let failed = |error: DataFusionError| of_query(error, limits.memory_bytes);
    let Source {
        lake, mart, period, ..
    } = source;
    let context = session(source, limits).await?;
    let (start, end) = period.bounds_us();
    let frame = context.sql(&mart.sql).await.map_err(failed)?;
    let frame = frame
        .with_param_values(plan::bounds(start, end))
        .map_err(failed)?;
    let schema = mart.schema();
    let mut out = Output::new(lake, key, SchemaRef::clone(&schema))?;
    let query = cooperative(frame.create_physical_plan().await.map_err(failed)?).map_err(failed)?;
    let mut rows = execute_stream(query, context.task_ctx()).map_err(failed)?;
    while let Some(batch) = rows.next().await {
        let batch = shaped(&batch.map_err(failed)?, &schema, start).map_err(|_| {
            MartError::Query("a value does not fit the type that its column was planned with")
        })?;
        out.write(&batch).await?;
    }
    out.finish(lake, key).await
}

/// Operators of several inputs may make endlessly many rows of few, and come to no point at which the query could be ended: each of
/// their batches is one now.
fn cooperative(query: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let wrapped = query.transform_up(|operator| {
        if operator.children().len() > 1 {
            Ok(Transformed::yes(Arc::new(CooperativeExec::new(operator)) as _))
        } else {
            Ok(Transformed::no(operator))
        }
    });
    Ok(wrapped?.data)
}

/// A session with the tables that the query may name, cut to the window.
async fn session(source: &Source, limits: Limits) -> Result<SessionContext, MartError> {
    let failed = |error: DataFusionError| of_query(error, limits.memory_bytes);
    let Source { mart, period, .. } = source;
    let pool = Arc::new(FairSpillPool::new(limits.memory_bytes));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc();
    let threads = limits.threads.max(1);
    let aside = limits.memory_bytes / MERGES / threads;
    let mut config = SessionConfig::new()
        .with_target_partitions(threads)
        .with_sort_spill_reservation_bytes(aside);
    // See `without_views`: what a query casts to a text is none either.
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    config.options_mut().execution.parquet.schema_force_view_types = false;
    let context = SessionContext::new_with_config_rt(config, runtime.map_err(failed)?);
    plan::prepare(&context).map_err(failed)?;
    let base = store_url(&source.lake.url)?;
    context.register_object_store(&base, Arc::clone(&source.lake.store));
    if mart.reads_events {
        let events = events(source, &context, period).await?;
        let name = source.pipeline.name.as_str();
        context
            .register_table(name, Arc::clone(&events))
            .map_err(failed)?;
        if name != "events" {
            context.register_table("events", events).map_err(failed)?;
        }
    }
    for used in &mart.uses {
        let Some(read) = source.pipeline.marts.iter().find(|mart| mart.name == *used) else {
            continue;
        };
        let keys: Vec<&str> = source
            .state
            .marts
            .of(used)
            .filter(|run| run.hours == read.every.hours())
            .filter(|run| period.window_hour < run.from_hour + run.hours && run.from_hour < period.end_hour())
            .map(|run| run.object.key.as_str())
            .collect();
        let table = table(&source.lake, &keys, read.schema())?;
        plan::register(&context, used, table).map_err(failed)?;
    }
    Ok(context)
}

/// The events of the window, as the files that count hold them.
async fn events(
    source: &Source,
    context: &SessionContext,
    period: &Period,
) -> Result<Arc<dyn TableProvider>, MartError> {
    let broken = |_| MartError::Query("the events' table cannot be cut to the window");
    let wrote = writers(&source.state, period.window_hour, period.end_hour());
    let batches = source.state.committed().filter(|(id, _)| wrote.contains(id));
    let manifests = live::all(live::each(&source.lake, batches).await);
    let manifests = manifests.map_err(|unread| MartError::Committed(unread.1))?;
    let (from, to) = (start_of(period.window_hour), start_of(period.end_hour()));
    let keys: Vec<&str> = live::files(&manifests)
        .into_iter()
        .map(|(_, file)| file)
        .filter(|file| file.time_min < to && from <= file.time_max)
        .map(|file| file.object.key.as_str())
        .collect();
    let partition = &source.pipeline.partition;
    let schema = events_schema(&source.pipeline.columns, &partition.by);
    let table = table(&source.lake, &keys, schema)?;
    let time = |us| lit(ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into())));
    let column = || ident(partition.time.as_str());
    let window = context
        .read_table(table)
        .and_then(|all| all.filter(column().gt_eq(time(from)).and(column().lt(time(to)))))
        .map_err(broken)?;
    Ok(window.into_view())
}

fn table(lake: &Lake, keys: &[&str], schema: SchemaRef) -> Result<Arc<dyn TableProvider>, MartError> {
    let schema = without_views(&schema);
    if keys.is_empty() {
        return Ok(Arc::new(EmptyTable::new(schema)));
    }
    Ok(files_table(lake, keys, schema)?)
}

/// The same columns with texts that hold their own bytes. A window joins the rows of each partition to those before: views would
/// hold on to every buffer that was read, and each step would pass over all of them.
fn without_views(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let field = field.as_ref().clone();
        if *field.data_type() == DataType::Utf8View {
            field.with_data_type(DataType::Utf8)
        } else {
            field
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Rows as the mart declares them, with the period behind.
fn shaped(batch: &RecordBatch, schema: &SchemaRef, start_us: i64) -> Result<RecordBatch, ArrowError> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let mut columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast_with_options(column, field.data_type(), &options))
        .collect::<Result<_, _>>()?;
    let period = TimestampMicrosecondArray::from_value(start_us, batch.num_rows()).with_timezone("UTC");
    columns.push(Arc::new(period));
    RecordBatch::try_new(SchemaRef::clone(schema), columns)
}

/// The result on its way into the lake.
struct Output {
    writer: AsyncArrowWriter<Summed>,
    rows: u64,
}

impl Output {
    fn new(lake: &Lake, key: &str, schema: SchemaRef) -> Result<Self, MartError> {
        let inner = BufWriter::new(Arc::clone(&lake.store), lake.path(key));
        let summed = Summed {
            inner,
            sum: Box::default(),
        };
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("millrace ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let writer = AsyncArrowWriter::try_new(summed, schema, Some(properties)).map_err(MartError::Write)?;
        Ok(Self { writer, rows: 0 })
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), MartError> {
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch).await.map_err(MartError::Write)
    }

    async fn finish(mut self, lake: &Lake, key: &str) -> Result<WrittenObject, MartError> {
        self.writer.finish().await.map_err(MartError::Write)?;
        let Summed { sum, .. } = self.writer.into_inner();
        lake.sync(key).await?;
        let (bytes, hasher) = *sum;
        Ok(WrittenObject {
            key: key.to_owned(),
            bytes,
            rows: self.rows,
            digest: hasher.finalize().to_hex().to_string(),
        })
    }
}

/// Sums up the bytes that pass.
struct Summed {
    inner: BufWriter,
    sum: Box<(u64, blake3::Hasher)>,
}

impl AsyncFileWriter for Summed {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, ParquetResult<()>> {
        self.sum.0 += bytes.len() as u64;
        self.sum.1.update(&bytes);
        AsyncFileWriter::write(&mut self.inner, bytes).boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, ParquetResult<()>> {
        AsyncFileWriter::complete(&mut self.inner)
    }
}

/// Sorts of a large day go on from some 10 GB of files.
const ON_DISK: &str =
    "what it keeps in the folder for temporary files cannot be written or read; is there room?";

/// What a query's failure comes to, without its text: that one may quote values.
fn of_query(error: DataFusionError, memory_bytes: usize) -> MartError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other causes read alike to the user"
    )]
    match error.find_root() {
        // Names of operators and sizes: nothing of a row.
        DataFusionError::ResourcesExhausted(what) => MartError::Memory {
            mib: memory_bytes >> 20,
            what: what.clone(),
        },
        DataFusionError::ObjectStore(_) => MartError::Store(Box::new(error)),
        DataFusionError::ArrowError(error, _) => MartError::Query(match **error {
            ArrowError::DivideByZero => "it divides by zero",
            ArrowError::ArithmeticOverflow(_) => "its arithmetic overflows",
            ArrowError::CastError(_) | ArrowError::ParseError(_) => {
                "a value does not convert to the type that the query asks for"
            }
            ArrowError::IoError(..) => ON_DISK,
            _ => "a value is out of the range of the query's types",
        }),
        DataFusionError::ParquetError(_) => MartError::Query("a file of its input cannot be read"),
        DataFusionError::IoError(_) => MartError::Query(ON_DISK),
        DataFusionError::Plan(_) | DataFusionError::SchemaError(..) | DataFusionError::NotImplemented(_) => {
            MartError::Query("it does not plan; `millrace pipeline check` says why")
        }
        _ => MartError::Query("some row of its input is not what it expects"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An exchange between threads hands one error to each of them, shared.
    #[test]
    fn causes_are_known_however_the_engine_wraps_them() {
        let shared = |error| DataFusionError::Shared(Arc::new(error)).context("in an exchange");
        let full = DataFusionError::ResourcesExhausted("16 MiB are left".to_owned());
        assert!(matches!(
            of_query(shared(full), 64 << 20),
            MartError::Memory { mib: 64, what } if what == "16 MiB are left"
        ));
        let store = object_store::Error::Generic {
            store: "S3",
            source: "503".into(),
        };
        let failed = of_query(shared(DataFusionError::ObjectStore(Box::new(store))), 0);
        assert!(matches!(failed, MartError::Store(_)) && failed.is_retryable());
        let full = ArrowError::IoError(String::new(), std::io::ErrorKind::StorageFull.into());
        let full = of_query(shared(DataFusionError::ArrowError(Box::new(full), None)), 0);
        assert!(full.to_string().ends_with("is there room?"), "{full}");
        let row = DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None);
        assert_eq!(
            of_query(shared(row), 0).to_string(),
            "the query fails: it divides by zero"
        );
    }
}
