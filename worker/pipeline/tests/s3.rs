//! Input in S3, against a real server: MinIO, installed and started by `deploy/local/s3.sh`.
#![expect(
    clippy::unwrap_used,
    reason = "clippy excepts test functions only, not what they share"
)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use millrace_pipeline::decode::container::ContainerExec;
use millrace_pipeline::decode::{DecodePlan, Wanted, WantedKind};
use millrace_pipeline::source::exec::{ScanExec, ScanOptions};
use millrace_pipeline::source::{S3Options, Stores, cut, list, split_schema, splits_batch};
use millrace_pipeline::spec::model::{ColumnType, Format, Secret, Source};
use millrace_proto::split::InputObject;
use object_store::{ObjectStoreExt, PutMode, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

const BUCKET: &str = "raw";

/// A server of its own in a temporary folder; stopped when dropped.
struct Server {
    folder: tempfile::TempDir,
    options: S3Options,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("data").join(BUCKET)).unwrap();
        let mut server = Self {
            folder,
            options: S3Options::default(),
        };
        server.script("start");
        let endpoint = std::fs::read_to_string(server.folder.path().join("endpoint")).unwrap();
        server.options = S3Options {
            endpoint: Some(endpoint.trim().to_owned()),
            access_key_id: Some("millrace".into()),
            secret_access_key: Some(Secret::new("millrace-local-only".into())),
            ..S3Options::default()
        };
        server
    }

    fn script(&self, verb: &str) {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/local/s3.sh");
        let status = Command::new(script)
            .args([verb, "--dir"])
            .arg(self.folder.path())
            .status()
            .unwrap();
        assert!(status.success(), "s3.sh {verb}");
    }

    async fn put(&self, key: &str, content: impl Into<PutPayload>) {
        let (store, path) = self.stores().open(&format!("s3://{BUCKET}/{key}")).unwrap();
        store.put(&path, content.into()).await.unwrap();
    }

    async fn list(&self, key: &str) -> Result<Vec<InputObject>, millrace_pipeline::source::SourceError> {
        let url = format!("s3://{BUCKET}/{key}");
        let source = Source::S3 {
            url,
            format: Format::Json,
            endpoint: None,
            region: None,
        };
        list(&self.stores(), &source, &[]).await
    }

    async fn keys(&self, key: &str) -> Vec<String> {
        let objects = self.list(key).await.unwrap();
        objects
            .iter()
            .map(|object| object.url.strip_prefix("s3://raw/").unwrap().to_owned())
            .collect()
    }

    async fn scan(&self, objects: &[InputObject], split_bytes: u64) -> datafusion::error::Result<Vec<u8>> {
        let splits = splits_batch(&cut(objects, Format::Json, split_bytes)).unwrap();
        let input = MemorySourceConfig::try_new_exec(&[vec![splits]], split_schema(), None).unwrap();
        let scan = ScanExec::new(input, Arc::new(self.stores()), ScanOptions::default());
        let batches: Vec<RecordBatch> = scan
            .execute(0, Arc::new(TaskContext::default()))
            .unwrap()
            .try_collect()
            .await?;
        Ok(batches
            .iter()
            .flat_map(|batch| batch.column(3).as_binary::<i64>().value(0).to_vec())
            .collect())
    }

    fn stores(&self) -> Stores {
        Stores::new(self.options.clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.script("kill");
    }
}

fn lines(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", "x".repeat(n % 300)).into_bytes())
        .collect()
}

/// What lies in a bucket is found by key, prefix and glob, read by ranges in several splits exactly once, refused
/// once it has changed, and written conditionally.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_listed_and_read_as_it_was_listed() {
    let server = Server::start();
    let large = lines(130_000); // More than two ranges of 8 MiB.
    let small = lines(100);
    server.put("in/dt=1/a.json", large.clone()).await;
    server
        .put(
            "in/dt=1/b.json.zst",
            zstd::encode_all(small.as_slice(), 1).unwrap(),
        )
        .await;
    server.put("in/dt=10/c d%20e.json", small.clone()).await;
    server.put("in/dt=1/_SUCCESS", "done").await;
    server.put("in/dt=1/empty.json", "").await;

    assert_eq!(
        server.keys("in/dt=1").await,
        ["in/dt=1/a.json", "in/dt=1/b.json.zst"]
    );
    assert_eq!(server.keys("in/dt=1/a.json").await, ["in/dt=1/a.json"]);
    assert_eq!(
        server.keys("in/dt=*/*.json").await,
        ["in/dt=1/a.json", "in/dt=10/c d%20e.json"]
    );
    assert_eq!(server.keys("in/{dt=10,x}").await, ["in/dt=10/c d%20e.json"]);
    assert_eq!(server.keys("").await.len(), 3);
    let nothing = server.list("in/dt=2/").await.unwrap_err().to_string();
    assert!(nothing.contains("s3://raw/in/dt=2/"), "{nothing}");

    let objects = server.list("in/").await.unwrap();
    let content = server.scan(&objects, 3_000_000).await.unwrap();
    assert!(
        content == [large.as_slice(), &small, &small].concat(),
        "not the bytes that were put"
    );

    server
        .put("in/dt=1/a.json", lines(130_000).to_ascii_uppercase())
        .await;
    let changed = server.scan(&objects, 3_000_000).await.unwrap_err().to_string();
    assert!(
        changed.contains("s3://raw/in/dt=1/a.json") && changed.contains("has changed"),
        "{changed}"
    );
    let (store, path) = server.stores().open("s3://raw/in/dt=1/a.json").unwrap();
    store.delete(&path).await.unwrap();
    let gone = server.scan(&objects, 3_000_000).await.unwrap_err().to_string();
    assert!(
        gone.contains("s3://raw/in/dt=1/a.json") && gone.contains("is gone"),
        "{gone}"
    );

    let (store, path) = server.stores().open("s3://raw/manifests/b1.json").unwrap();
    let mut puts = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (store, path) = (Arc::clone(&store), path.clone());
        puts.spawn(async move {
            store
                .put_opts(&path, format!("{n}").into(), PutMode::Create.into())
                .await
                .is_ok()
        });
    }
    let winners = puts.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(winners, 1, "several puts of one name succeeded");
}

/// Parquet is read by the ranges of its wanted columns, row group by row group, each in one split; a packed CSV object whole.
#[tokio::test(flavor = "multi_thread")]
async fn whole_formats_are_read_from_a_bucket_too() {
    let server = Server::start();
    let ids: Vec<i64> = (0..50_000).collect();
    let unwanted: Vec<String> = ids
        .iter()
        .map(|id| format!("{id}-{}", id.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64)))
        .collect();
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(ids.clone())) as ArrayRef),
        ("unwanted", Arc::new(StringArray::from(unwanted)) as ArrayRef),
    ])
    .unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(7000))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    server.put("in/a.parquet", writer.into_inner().unwrap()).await;
    let csv: String = std::iter::once("other,id\n".to_owned())
        .chain(ids.iter().map(|id| format!("x,{id}\n")))
        .collect();
    server
        .put("in/a.csv.zst", zstd::encode_all(csv.as_bytes(), 1).unwrap())
        .await;

    for (key, format) in [("in/a.parquet", Format::Parquet), ("in/a.csv.zst", Format::Csv)] {
        let objects = server.list(key).await.unwrap();
        let splits = splits_batch(&cut(&objects, format, 100_000)).unwrap();
        let input = MemorySourceConfig::try_new_exec(&[vec![splits]], split_schema(), None).unwrap();
        let id = Wanted {
            name: "id".into(),
            path: vec!["id".into()],
            kind: WantedKind::Value(ColumnType::Int64),
        };
        let plan = DecodePlan {
            fields: vec![id],
            record_bytes_max: 1 << 20,
            depth_max: 10,
        };
        let exec = ContainerExec::new(input, Arc::new(server.stores()), Arc::new(plan), format);
        let batches: Vec<RecordBatch> = exec
            .execute(0, Arc::new(TaskContext::default()))
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let read: Vec<i64> = batches
            .iter()
            .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec())
            .collect();
        assert!(read == ids, "{key}: not the ids that were put");
    }
}

/// Wrong keys are an error that says so at once, and one that repeating does not mend.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_refused_and_not_tried_again() {
    let mut server = Server::start();
    server.options.secret_access_key = Some(Secret::new("wrong-secret".into()));
    let error = server.list("in/").await.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
    assert!(!format!("{error:?}").contains("wrong-secret"));
}
