//! Lakes with committed batches, made by the embedded run; and what stands in their files, read without the handoff.

use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use millrace_coordinator::commit;
use millrace_coordinator::handoff::{self, Candidate, Handoff, Known, Watched};
use millrace_coordinator::job::{Progress, RunOptions, Runner};
use millrace_coordinator::lake::Lake;
use millrace_coordinator::ledger::embedded::EmbeddedLedger;
use millrace_coordinator::ledger::{Ledger, State};
use millrace_coordinator::marts::{self, Asked, Limits};
use millrace_coordinator::retention::apply;
use millrace_pipeline::source::{S3Options, Stores};
use millrace_pipeline::spec;
use millrace_pipeline::spec::model::{Pipeline, Secret, Warehouse};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;
use tokio::sync::watch;

/// Columns of every type.
pub(crate) const COLUMNS: &str = "
  - {name: id, type: string, required: true}
  - {name: at, type: timestamp, required: true}
  - {name: flag, type: bool}
  - {name: small, type: int32}
  - {name: big, type: int64}
  - {name: ratio, type: float64}
  - {name: price, type: \"decimal(12,3)\"}
  - {name: wide, type: \"decimal(38,10)\"}
  - {name: day, type: date}
  - {name: payload, type: json}
  - {name: tags, type: \"list<string>\"}
  - {name: user, type: string}";

/// A lake, its pipeline and its input folder.
pub(crate) struct Bench {
    folder: TempDir,
    pub(crate) pipeline: Pipeline,
    pub(crate) lake: Lake,
}

impl Bench {
    pub(crate) fn new(columns: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        std::fs::create_dir(folder.path().join("lake")).unwrap();
        let pipeline = pipeline(folder.path(), columns, more);
        let (store, root) = Stores::new(S3Options::default())
            .open(&pipeline.lake.url)
            .unwrap();
        let lake = Lake {
            url: pipeline.lake.url.clone(),
            store,
            root,
            s3: millrace_pipeline::source::S3Options::default(),
        };
        Self {
            folder,
            pipeline,
            lake,
        }
    }

    /// The same lake under another declaration.
    pub(crate) fn declare(&mut self, columns: &str, more: &str) {
        self.pipeline = pipeline(self.folder.path(), columns, more);
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Reads what is new; every file is a batch.
    pub(crate) async fn run(&self) {
        let options = RunOptions {
            environment: None,
            inputs: Vec::new(),
            threads: 2,
            batch_bytes: 1,
            memory_bytes: 256 << 20,
            hook: Arc::new(|_| {}),
        };
        let (_stop, stopped) = watch::channel(false);
        let stores = Arc::new(Stores::new(S3Options::default()));
        let pipeline = Arc::new(self.pipeline.clone());
        let runner = Runner::open(pipeline, self.lake.clone(), stores, options, stopped)
            .await
            .unwrap();
        runner.run(&Progress::default()).await.unwrap();
    }

    /// `batches` files of `rows` events each, run into the lake.
    pub(crate) async fn fill(&self, first: usize, batches: usize, rows: usize) {
        for batch in first..first + batches {
            let lines: String = (0..rows)
                .map(|row| {
                    format!(
                        "{{\"id\":\"e{batch}-{row}\",\"at\":\"2026-01-{:02}T{:02}:00:00Z\",\"big\":{row},\"payload\":{{\"n\":[{row},\"é\"]}},\"tags\":[\"a\",\"b{row}\"],\"user\":\"u{}\"}}\n",
                        1 + row % 3,
                        row % 24,
                        row % 7
                    )
                })
                .collect();
            self.write(&format!("in/{batch:04}.json"), &lines);
        }
        self.run().await;
    }

    /// Computes what models are due.
    pub(crate) async fn compute(&self) {
        let limits = Limits {
            threads: 2,
            memory_bytes: 64 << 20,
        };
        let pipeline = Arc::new(self.pipeline.clone());
        let asked = Asked::default();
        let made = marts::run(pipeline, self.lake.clone(), &asked, limits, Arc::new(|_| {})).await;
        assert!(made.unwrap().failed.is_empty());
    }

    pub(crate) async fn state(&self) -> State {
        EmbeddedLedger::read(&self.lake).await.unwrap().state().clone()
    }

    /// The pipeline with a table as its warehouse.
    pub(crate) fn pipeline_into(&self, dsn: &str, table: &str) -> Pipeline {
        let mut pipeline = self.pipeline.clone();
        pipeline.warehouse = Some(Warehouse::Postgres {
            dsn: Secret::new(dsn.to_owned()),
            table: table.to_owned(),
        });
        pipeline
    }

    /// The handoff into a table.
    pub(crate) fn handoff(&self, dsn: &str, table: &str) -> Handoff {
        self.watched(dsn, table, Watched::default())
    }

    /// The same, watched.
    pub(crate) fn watched(&self, dsn: &str, table: &str, watched: Watched) -> Handoff {
        let pipeline = Arc::new(self.pipeline_into(dsn, table));
        Handoff::new(pipeline, self.lake.clone(), watched).unwrap()
    }

    /// Where every batch stands.
    pub(crate) async fn standings(&self, dsn: &str, table: &str, known: &Known) -> Vec<Candidate> {
        handoff::standings(&self.pipeline_into(dsn, table), &self.lake, known)
            .await
            .unwrap()
    }

    /// Lets go of what is older than the pipeline keeps it, at a time.
    pub(crate) async fn expire_at(&self, at_us: i64) -> u64 {
        let (pipeline, lake) = (Arc::new(self.pipeline.clone()), self.lake.clone());
        let done = apply(pipeline, lake, "test", at_us, Arc::new(|_| {})).await;
        done.unwrap().data.rows
    }

    /// Ids of all committed events, sorted, straight from the files.
    pub(crate) async fn ids(&self) -> Vec<String> {
        let mut ids = Vec::new();
        for (id, batch) in self.state().await.committed() {
            let digest = batch.manifest.as_deref().unwrap();
            for file in commit::committed(&self.lake, id, digest).await.unwrap().files {
                ids.extend(self.ids_in(&file.object.key).await);
            }
        }
        ids.sort();
        ids
    }

    /// Ids of all events that are stored, counted or not, sorted.
    pub(crate) async fn ids_stored(&self) -> Vec<String> {
        let mut ids = Vec::new();
        for (key, _) in self.lake.list("data").await.unwrap() {
            ids.extend(self.ids_in(&key).await);
        }
        ids.sort();
        ids
    }

    async fn ids_in(&self, key: &str) -> Vec<String> {
        let bytes = self.lake.get(key).await.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap()
            .build()
            .unwrap();
        let mut ids = Vec::new();
        for batch in reader {
            let batch = batch.unwrap();
            let column = batch.column_by_name("id").unwrap();
            let column = arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8).unwrap();
            ids.extend(column.as_string::<i32>().iter().flatten().map(str::to_owned));
        }
        ids
    }
}

fn pipeline(folder: &Path, columns: &str, more: &str) -> Pipeline {
    let text = format!(
        "version: 1
pipeline: events
source: {{files: {{path: ./in, format: json}}}}
schema:{columns}
dedup: {{key: [id]}}
partition: {{time: at, by: [date, hour]}}
lake: {{url: ./lake}}
{more}"
    );
    let read = |path: &Path| std::fs::read_to_string(path);
    spec::load(&text, "events.yaml", folder, &|_| None, &read).unwrap()
}
