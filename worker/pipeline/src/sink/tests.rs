//! What goes in comes out: rows by set, in their partitions, in order, whatever the limits are.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array,
    Int64Array, ListBuilder, RecordBatch, StringViewArray, StringViewBuilder, TimestampMicrosecondArray,
    UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use millrace_proto::ids::Attempt;
use millrace_proto::keys::path_value;
use millrace_proto::manifest::{SplitCounts, TaskReport};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::rows::{Note, event_schema, reject_schema};
use crate::spec::model::PartitionLevel;

const START_US: i64 = 1_767_225_600_000_000; // 2026-01-01
const HOUR_US: i64 = 3_600_000_000;

fn table() -> SchemaRef {
    let list = Field::new("item", DataType::Utf8View, true);
    let columns = [
        ("id", DataType::Utf8View),
        (
            "at",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ),
        ("kind", DataType::Utf8View),
        ("is_bot", DataType::Boolean),
        ("small", DataType::Int32),
        ("large", DataType::Int64),
        ("real", DataType::Float64),
        ("price", DataType::Decimal128(9, 2)),
        ("amount", DataType::Decimal128(18, 4)),
        ("exact", DataType::Decimal128(38, 10)),
        ("day", DataType::Date32),
        ("channel", DataType::Utf8View),
        ("tags", DataType::List(Arc::new(list))),
    ];
    let fields = columns.map(|(name, data_type)| Field::new(name, data_type, name != "at"));
    Arc::new(Schema::new(fields.to_vec()))
}

/// Random events: some late, some null everywhere, sources with names that are no path.
fn events(rows: usize, seed: u64) -> RecordBatch {
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let sources = [
        "web",
        "a/b",
        "..",
        "",
        "x=y%2F",
        "a source of more than twelve bytes",
        "é",
    ];
    let mut time = START_US;
    let times: Vec<i64> = (0..rows)
        .map(|_| {
            time += random.random_range(0..3 * HOUR_US / rows as i64);
            let is_late = random.random_bool(0.1);
            if is_late {
                time - random.random_range(0..2 * HOUR_US)
            } else {
                time
            }
        })
        .collect();
    let mut numbers: Vec<Option<i64>> = Vec::new();
    for _ in 0..rows {
        numbers.push(
            random
                .random_bool(0.9)
                .then(|| random.random_range(-500_000..500_000)),
        );
    }
    let texts = |text: &dyn Fn(i64) -> String| -> ArrayRef {
        Arc::new(numbers.iter().map(|n| n.map(text)).collect::<StringViewArray>())
    };
    let decimals = |precision, scale, factor: i128| -> ArrayRef {
        let values = numbers.iter().map(|n| n.map(|n| i128::from(n) * factor));
        let array = values.collect::<Decimal128Array>();
        Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
    };
    let mut tags = ListBuilder::new(StringViewBuilder::new());
    for number in &numbers {
        let count = number.map_or(0, |n| n.rem_euclid(3));
        (0..count).for_each(|i| {
            tags.values()
                .append_value(format!("a tag that is long enough {i}"))
        });
        tags.append(number.is_some());
    }
    let source = |_| -> Option<&str> {
        random
            .random_bool(0.95)
            .then(|| sources[random.random_range(0..sources.len())])
    };
    let channel: StringViewArray = (0..rows).map(source).collect();
    let columns: Vec<ArrayRef> = vec![
        texts(&|n| {
            format!(
                "{:032x}",
                (n as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834)
            )
        }),
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        texts(&|n| format!("kind-{}", n.rem_euclid(5))),
        Arc::new(
            numbers
                .iter()
                .map(|n| n.map(|n| n % 2 == 0))
                .collect::<BooleanArray>(),
        ),
        Arc::new(
            numbers
                .iter()
                .map(|n| n.map(|n| n as i32 * 4_000))
                .collect::<Int32Array>(),
        ),
        Arc::new(
            numbers
                .iter()
                .map(|n| n.map(|n| n * 1_000_003))
                .collect::<Int64Array>(),
        ),
        Arc::new(
            numbers
                .iter()
                .map(|n| n.map(|n| n as f64 / 7.0))
                .collect::<Float64Array>(),
        ),
        decimals(9, 2, 1),
        decimals(18, 4, 100_000),
        decimals(38, 10, 1_000_000_000_000_000_000_000),
        Arc::new(
            numbers
                .iter()
                .map(|n| n.map(|n| n as i32 / 50))
                .collect::<Date32Array>(),
        ),
        Arc::new(channel),
        Arc::new(tags.finish()),
    ];
    RecordBatch::try_new(table(), columns).unwrap()
}

fn spec(lake: Arc<dyn ObjectStore>) -> SinkSpec {
    SinkSpec {
        table: table(),
        partition: Partition {
            time: "at".into(),
            by: vec![PartitionLevel::Date, PartitionLevel::Hour, PartitionLevel::Source],
            source: Some("channel".into()),
            lateness_seconds: 1_800,
        },
        lake,
        root: Path::from("lake"),
        local_root: None,
        batch: "b1".to_owned().try_into().unwrap(),
        attempt: Attempt { epoch: 3, number: 1 },
        first_task: 4,
        file_bytes: 256 << 20,
        compression: Compression::Zstd(1),
        delta_encodings: true,
        watermark_us: None,
        quarantine_date: "2026-01-02".to_owned(),
        memory_bytes: 1 << 30,
        runner: None,
        waiting: Arc::default(),
    }
}

/// Events with hidden columns, in batches of `size`, all of split 7.
fn hidden(events: &RecordBatch, size: usize) -> Vec<RecordBatch> {
    let schema = event_schema(&table(), true);
    let rows = events.num_rows();
    let mut columns = events.columns().to_vec();
    columns.push(Arc::new(UInt32Array::from(vec![7; rows])));
    columns.push(Arc::new(UInt64Array::from_iter_values((0..rows as u64).rev())));
    columns.push(Arc::new(UInt64Array::from_iter_values(0..rows as u64)));
    columns.push(new_null_array(&DataType::Binary, rows));
    let all = RecordBatch::try_new(schema, columns).unwrap();
    (0..rows)
        .step_by(size)
        .map(|start| all.slice(start, size.min(rows - start)))
        .collect()
}

async fn run(spec: SinkSpec, batches: Vec<RecordBatch>) -> TaskReport {
    let schema = event_schema(&table(), true);
    let input = MemorySourceConfig::try_new_exec(&[batches], schema, None).unwrap();
    let sink: Arc<dyn ExecutionPlan> = Arc::new(SinkExec::new(input, Arc::new(spec)));
    let out = collect(sink, SessionContext::new().task_ctx()).await.unwrap();
    assert_eq!(out.len(), 1, "exactly one batch");
    read_report(&out[0]).unwrap()
}

async fn get(lake: &dyn ObjectStore, key: &str) -> Bytes {
    let path = Path::parse(format!("lake/{key}")).unwrap();
    lake.get(&path).await.unwrap().bytes().await.unwrap()
}

fn read(file: Bytes) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = Arc::clone(reader.schema());
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// Rows as texts of their first `columns` values, counted.
fn rows(batch: &RecordBatch, columns: usize, into: &mut BTreeMap<Vec<String>, usize>) {
    for row in 0..batch.num_rows() {
        let value = |column: &ArrayRef| {
            let is_null = column.is_null(row);
            if is_null {
                "null".to_owned()
            } else {
                array_value_to_string(column, row).unwrap()
            }
        };
        let key = batch.columns()[..columns].iter().map(value).collect();
        *into.entry(key).or_default() += 1;
    }
}

/// Reads every file of the report and judges it against the events.
async fn judge(lake: &dyn ObjectStore, report: &TaskReport, events: &RecordBatch) {
    let width = table().fields().len();
    let (mut found, mut expected) = (BTreeMap::new(), BTreeMap::new());
    rows(events, width, &mut expected);
    for file in &report.files {
        let content = get(lake, &file.object.key).await;
        assert_eq!(content.len() as u64, file.object.bytes);
        assert_eq!(blake3::hash(&content).to_hex().as_str(), file.object.digest);
        let batch = read(content);
        assert_eq!(batch.num_rows() as u64, file.object.rows);
        rows(&batch, width, &mut found);
        let names: Vec<&str> = batch.schema_ref().fields()[width..]
            .iter()
            .map(|f| f.name().as_str())
            .collect();
        assert_eq!(names, ["date", "hour", "source"]);
        let times = batch
            .column(1)
            .as_primitive::<TimestampMicrosecondType>()
            .values();
        assert!(times.is_sorted(), "{}", file.object.key);
        assert_eq!((times[0], times[times.len() - 1]), (file.time_min, file.time_max));
        let path: Vec<String> = file
            .partition
            .iter()
            .map(|(name, value)| format!("{name}={}", path_value(value)))
            .collect();
        assert!(
            file.object
                .key
                .starts_with(&format!("data/{}/b1-e3a1-4-", path.join("/")))
        );
        for row in 0..batch.num_rows() {
            let at = chrono::DateTime::from_timestamp_micros(times[row]).unwrap();
            let value = |i: usize| array_value_to_string(batch.column(width + i), row).unwrap();
            assert_eq!(value(0), at.format("%Y-%m-%d").to_string());
            assert_eq!(format!("{:0>2}", value(1)), at.format("%H").to_string());
            assert_eq!(file.partition[0].1, value(0));
            assert_eq!(file.partition[1].1, format!("{:0>2}", value(1)));
            assert_eq!(
                batch.column(width + 2).is_null(row),
                batch.column(11).is_null(row)
            );
            assert_eq!(value(2), array_value_to_string(batch.column(11), row).unwrap());
            assert_eq!(file.partition[2].1, value(2));
        }
    }
    assert!(found == expected, "rows were lost, doubled or changed");
    let mut keys: Vec<&str> = report.files.iter().map(|file| file.object.key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), report.files.len(), "names are used once");
}

#[tokio::test]
async fn every_row_is_in_its_partition_and_in_order() {
    for (seed, count) in [(1, 1), (2, 40), (3, 6_000)] {
        let lake: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let events = events(count, seed);
        let report = run(spec(Arc::clone(&lake)), hidden(&events, 700)).await;
        judge(lake.as_ref(), &report, &events).await;
        assert_eq!(report.splits[0].written, count as u64);
        let keys: u64 = report.keys.iter().map(|file| file.object.rows).sum();
        assert_eq!(keys, count as u64, "each event's key is in the index");
    }
}

#[tokio::test]
async fn limits_change_the_files_but_not_the_rows() {
    let events = events(5_000, 4);
    let mut counts = Vec::new();
    for (memory_bytes, file_bytes) in [
        (1 << 30, 1 << 30),
        (300_000, 1 << 30),
        (1, 1 << 30),
        (1 << 30, 2_000),
    ] {
        let lake: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let spec = SinkSpec {
            memory_bytes,
            file_bytes,
            ..spec(Arc::clone(&lake))
        };
        let report = run(spec, hidden(&events, 900)).await;
        judge(lake.as_ref(), &report, &events).await;
        counts.push(report.files.len());
    }
    assert!(counts[1..].iter().all(|count| *count > counts[0]), "{counts:?}");
}

#[tokio::test]
async fn every_compression_and_both_kinds_of_encodings_are_read_back() {
    let events = events(3_000, 5);
    for compression in [
        Compression::None,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd(3),
    ] {
        for delta_encodings in [false, true] {
            let lake: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let spec = SinkSpec {
                compression,
                delta_encodings,
                ..spec(Arc::clone(&lake))
            };
            let report = run(spec, hidden(&events, 1_000)).await;
            judge(lake.as_ref(), &report, &events).await;
        }
    }
}

#[tokio::test]
async fn late_events_are_written_and_counted() {
    let lake: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let events = events(500, 6);
    let spec = SinkSpec {
        watermark_us: Some(START_US + 2 * HOUR_US),
        ..spec(Arc::clone(&lake))
    };
    let limit = START_US + 3 * HOUR_US / 2;
    let times = events
        .column(1)
        .as_primitive::<TimestampMicrosecondType>()
        .values();
    let late = times.iter().filter(|time| **time < limit).count() as u64;
    let report = run(spec, hidden(&events, 100)).await;
    assert_eq!((report.splits[0].written, report.splits[0].late), (500, late));
    judge(lake.as_ref(), &report, &events).await;
}

/// Key columns that are all null make a null hash: the event is written, and claims nothing.
#[tokio::test]
async fn events_without_a_key_are_written_and_stand_in_no_key_index() {
    let lake: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let events = events(300, 7);
    let width = table().fields().len();
    let has_key = |row: usize| row % 7 > 1;
    let batches: Vec<RecordBatch> = hidden(&events, 300)
        .into_iter()
        .map(|batch| {
            let mut columns = batch.columns().to_vec();
            for column in &mut columns[width + 1..=width + 2] {
                let hash = column.as_primitive::<arrow::datatypes::UInt64Type>();
                let hash = (0..300).map(|row| has_key(row).then(|| hash.value(row)));
                *column = Arc::new(hash.collect::<UInt64Array>());
            }
            RecordBatch::try_new(batch.schema(), columns).unwrap()
        })
        .collect();
    let report = run(spec(Arc::clone(&lake)), batches).await;
    judge(lake.as_ref(), &report, &events).await;
    let times = events.column(1).as_primitive::<TimestampMicrosecondType>();
    let mut expected: BTreeMap<i64, Vec<u128>> = BTreeMap::new();
    for row in (0..300).filter(|row| has_key(*row)) {
        let key = (299 - row as u128) << 64 | row as u128;
        let hour = times.value(row).div_euclid(HOUR_US);
        expected.entry(hour).or_default().push(key);
    }
    expected.values_mut().for_each(|keys| keys.sort_unstable());
    let mut found = BTreeMap::new();
    for file in &report.keys {
        let keys = crate::dedup::index::read_keys(get(lake.as_ref(), &file.object.key).await).unwrap();
        assert!(found.insert(file.hour, keys).is_none());
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn notes_become_counts_quarantine_and_quality_state() {
    let lake: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let schema = event_schema(&table(), true);
    let rejects = RecordBatch::try_new(
        reject_schema(),
        vec![
            Arc::new(arrow::array::StringArray::from(vec!["file:///x"; 2])),
            Arc::new(UInt32Array::from(vec![7, 7])),
            Arc::new(UInt64Array::from(vec![1, 2])),
            Arc::new(UInt64Array::from(vec![0, 9])),
            Arc::new(arrow::array::StringArray::from(vec!["[]", "[]"])),
            Arc::new(BooleanArray::from(vec![true, true])),
            Arc::new(arrow::array::BinaryArray::from_vec(vec![b"a", b"b"])),
        ],
    )
    .unwrap();
    let counts = SplitCounts {
        split: 7,
        read: 14,
        duplicates: 2,
        quarantined: 2,
        lines: 15,
        ..SplitCounts::default()
    };
    let notes = [
        Note::Rejects(rejects.clone()),
        Note::Counts(vec![counts]),
        Note::Quality(b"one".to_vec()),
        Note::Quality(b"two".to_vec()),
    ];
    let events = events(10, 7);
    let mut batches = hidden(&events, 10);
    batches.extend(notes.iter().map(|note| note.to_batch(&schema).unwrap()));
    // Where batches are joined notes and events may share one.
    let batches = vec![concat_batches(&schema, &batches).unwrap()];
    let report = run(spec(Arc::clone(&lake)), batches).await;
    judge(lake.as_ref(), &report, &events).await;
    assert_eq!(
        report.splits,
        [SplitCounts {
            written: 10,
            time_max: report.files.iter().map(|file| file.time_max).max(),
            ..counts
        }]
    );
    assert_eq!(report.quarantine.len(), 1);
    assert!(
        report.quarantine[0]
            .key
            .starts_with("quarantine/date=2026-01-02/b1-e3a1-4-")
    );
    assert_eq!(read(get(lake.as_ref(), &report.quarantine[0].key).await), rejects);
    let states = get(lake.as_ref(), &report.quality[0].key).await;
    assert_eq!(read_states(&states), [b"one".to_vec(), b"two".to_vec()]);
}

#[tokio::test]
async fn a_local_lake_holds_the_files_under_their_keys_and_another_engine_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let lake: Arc<dyn ObjectStore> = Arc::new(store);
    let events = events(4_000, 8);
    let root = folder.path().join("lake");
    let spec = SinkSpec {
        local_root: Some(root.clone()),
        ..spec(Arc::clone(&lake))
    };
    let report = run(spec, hidden(&events, 500)).await;
    for file in &report.files {
        let size = std::fs::metadata(root.join(&file.object.key)).unwrap().len();
        assert_eq!(size, file.object.bytes);
    }
    judge(lake.as_ref(), &report, &events).await;
    let Ok(python) = std::env::var("MILLRACE_TEST_PYTHON") else {
        println!("MILLRACE_TEST_PYTHON is not set: DuckDB was not asked");
        return;
    };
    let sum: i64 = events
        .column(5)
        .as_primitive::<arrow::datatypes::Int64Type>()
        .iter()
        .flatten()
        .sum();
    let query = format!(
        "import duckdb; r = duckdb.connect().execute(\"select count(*), sum(large), count(distinct id), sum(len(tags)), count(source), sum(exact) \
         from read_parquet('{}/data/**/*.parquet', hive_partitioning=false)\").fetchone(); print(r[0], r[1])",
        root.display()
    );
    let answer = std::process::Command::new(python)
        .args(["-c", &query])
        .output()
        .unwrap();
    let (text, fault) = (
        String::from_utf8_lossy(&answer.stdout),
        String::from_utf8_lossy(&answer.stderr),
    );
    assert_eq!(text.trim(), format!("4000 {sum}"), "{fault}");
}

/// Twenty small files of a lake, written again.
#[tokio::test]
async fn files_written_again_hold_the_same_rows_in_fewer_files() {
    let lake: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let events = events(4_000, 9);
    let (mut files, mut keys) = (Vec::new(), Vec::new());
    for (n, part) in hidden(&events, 400).into_iter().enumerate() {
        let batch = format!("c{n}").try_into().unwrap();
        let spec = SinkSpec {
            batch,
            ..spec(Arc::clone(&lake))
        };
        let report = run(spec, vec![part]).await;
        files.extend(report.files);
        keys.extend(report.keys);
    }
    let again = Arc::new(spec(Arc::clone(&lake)));
    for file in &files {
        assert!(fits(&again, file).await.unwrap());
    }
    let report = rewrite(Arc::clone(&again), &files, &keys).await.unwrap();
    let partitions: std::collections::BTreeSet<_> = files.iter().map(|file| &file.partition).collect();
    // The folder of events without a source is that of events whose source is the empty text, too: two files.
    let most = partitions.len() * 2;
    assert!(
        files.len() > most && report.files.len() <= most,
        "{}",
        report.files.len()
    );
    let hours: std::collections::BTreeSet<_> = keys.iter().map(|file| file.hour).collect();
    assert!(keys.len() > hours.len() && report.keys.len() == hours.len());
    judge(lake.as_ref(), &report, &events).await;
    // A table that lost a column would lose its values.
    let narrow = Schema::new(table().fields()[..5].to_vec());
    let narrow = SinkSpec {
        table: Arc::new(narrow),
        ..spec(Arc::clone(&lake))
    };
    assert!(!fits(&narrow, &files[0]).await.unwrap());
}
