//! The suite's figures against those of the real Great Expectations.
//!
//! The same seeded rows go through [`QualityExec`] and [`UniquenessExec`] (in random batches and partitions, states
//! sealed, sent, opened and merged) and, as Parquet, through Great Expectations in Python, which installs itself
//! on first use. Every figure must agree.
#![expect(
    clippy::unwrap_used,
    reason = "clippy excepts test functions only, not what they share"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array,
    Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray, UInt32Array, UInt64Array,
    new_null_array,
};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::{ExecutionPlan, collect_partitioned};
use datafusion::prelude::SessionContext;
use millrace_pipeline::privacy::Policy;
use millrace_pipeline::quality::{QualityExec, QualityPlan, QualityState, Suite, UniquenessExec};
use millrace_pipeline::rows::{self, Note};
use millrace_pipeline::spec::model::{
    Column, ColumnType, ColumnValue, Compression, Format, HandoffUnit, Lake, Limits, Partition,
    PartitionLevel, Pipeline, Privacy, Retention, Source,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

const ROWS: usize = 200;
const SEED: u64 = 7;

fn pipeline() -> Pipeline {
    let columns = [
        ("id", ColumnType::String),
        ("kind", ColumnType::String),
        ("amount", ColumnType::Float64),
        ("n", ColumnType::Int64),
        ("m", ColumnType::Int64),
        ("small", ColumnType::Int32),
        ("flag", ColumnType::Bool),
        ("day", ColumnType::Date),
        ("at", ColumnType::Timestamp),
        ("email", ColumnType::String),
        ("stamp", ColumnType::String),
        ("nothing", ColumnType::String),
        ("price", ColumnType::Decimal(10, 2)),
        ("dup", ColumnType::String),
        ("other", ColumnType::String),
        ("edge", ColumnType::Int64),
    ];
    Pipeline {
        name: "oracle".to_owned().try_into().unwrap(),
        source: Source::Files {
            path: "/in".into(),
            format: Format::Json,
        },
        columns: columns
            .into_iter()
            .map(|(name, kind)| Column {
                name: name.to_owned(),
                kind,
                value: ColumnValue::From(vec![name.to_owned()]),
                required: false,
                pii: None,
                description: None,
            })
            .collect(),
        versions: Vec::new(),
        enrich: Vec::new(),
        quality: None,
        dedup: None,
        privacy: Privacy {
            clear_in: vec!["test".into()],
            ..Privacy::default()
        },
        partition: Partition {
            time: "at".into(),
            by: vec![PartitionLevel::Date],
            source: None,
            lateness_seconds: 0,
        },
        lake: Lake {
            url: "file:///lake".into(),
            endpoint: None,
            region: None,
            file_bytes: 1,
            compression: Compression::None,
        },
        warehouse: None,
        handoff: HandoffUnit::Batch,
        retention: Retention::default(),
        limits: Limits::default(),
        marts: Vec::new(),
        digest: String::new(),
    }
}

/// `count` seeded rows of the table.
fn table(count: usize, seed: u64) -> RecordBatch {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut pick = |choices: &[Option<&'static str>]| -> Vec<Option<&'static str>> {
        (0..count)
            .map(|_| choices[random.random_range(0..choices.len())])
            .collect()
    };
    let kinds = pick(&[
        Some("a"),
        Some("a"),
        Some("b"),
        Some("c"),
        Some("a long value of a set"),
        Some("ü"),
        None,
    ]);
    let others = pick(&[Some("a"), Some("b"), Some("a"), None]);
    let emails = pick(&[
        Some("x@example.com"),
        Some("no mail"),
        Some("é@b"),
        Some("line\n"),
        Some(""),
        None,
    ]);
    let stamps = pick(&[
        Some("2026-01-31"),
        Some("2026-02-30"),
        Some("2026-1-3"),
        Some("2026-01-01T10:00:00"),
        Some("31/12/2025"),
        Some("24:00"),
        Some("9:05"),
        None,
    ]);
    let ints: Vec<i64> = (0..count).map(|_| random.random_range(0..10)).collect();
    let sparse: Vec<Option<i64>> = (0..count)
        .map(|_| random.random_bool(0.8).then(|| random.random_range(0..10)))
        .collect();
    let amounts: Vec<Option<f64>> = (0..count)
        .map(|_| {
            random
                .random_bool(0.9)
                .then(|| f64::from(random.random_range(-20_i32..40)) / 4.0)
        })
        .collect();
    let times: Vec<Option<i64>> = (0..count)
        .map(|_| {
            random
                .random_bool(0.9)
                .then(|| 1_767_225_600_000_000 + random.random_range(0..7_200_000_000_i64))
        })
        .collect();
    let text = |values: Vec<Option<&str>>| Arc::new(StringViewArray::from(values)) as ArrayRef;
    // Nine values stand twice, so that at most twenty rows repeat: their list is whole on both sides.
    let repeated = (0..count).map(|row| {
        if row < 18 {
            format!("d{}", row / 2)
        } else {
            format!("u{row}")
        }
    });
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter_values(
            (0..count).map(|row| format!("e{row:04}")),
        )),
        text(kinds),
        Arc::new(Float64Array::from(amounts)),
        Arc::new(Int64Array::from(ints)),
        Arc::new(Int64Array::from(sparse)),
        Arc::new(Int32Array::from_iter_values(
            (0..count).map(|_| random.random_range(0..5)),
        )),
        Arc::new(BooleanArray::from_iter(
            (0..count).map(|_| Some(random.random_bool(0.6))),
        )),
        Arc::new(Date32Array::from_iter(
            (0..count).map(|row| (row % 7 != 0).then_some(20_454 + row as i32 % 30)),
        )),
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        text(emails),
        text(stamps),
        new_null_array(&DataType::Utf8View, count),
        Arc::new(
            Decimal128Array::from_iter((0..count).map(|_| Some(random.random_range(-500..2000))))
                .with_precision_and_scale(10, 2)
                .unwrap(),
        ),
        Arc::new(StringViewArray::from_iter_values(repeated)),
        text(others),
        Arc::new(Int64Array::from_iter_values(
            (0..count).map(|row| i64::from(row % 5 != 0)),
        )),
    ];
    RecordBatch::try_new(pipeline().table(), columns).unwrap()
}

/// The rows as `quality` gets them, cut into partitions of batches at random places.
fn input(table: &RecordBatch, random: &mut ChaCha8Rng) -> (SchemaRef, Vec<Vec<RecordBatch>>) {
    let count = table.num_rows();
    let mut fields: Vec<_> = table
        .schema()
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    fields.extend(rows::origin_fields());
    let schema = Arc::new(Schema::new(fields));
    let mut columns = table.columns().to_vec();
    columns.push(Arc::new(BinaryViewArray::from_iter_values(
        (0..count).map(|row| format!("{{\"row\":{row}}}")),
    )));
    columns.push(Arc::new(UInt32Array::from_iter_values(
        (0..count).map(|row| (row * 3 / count.max(1)) as u32),
    )));
    columns.push(Arc::new(UInt64Array::from_iter_values(
        (0..count).map(|row| row as u64 + 1),
    )));
    columns.push(Arc::new(UInt64Array::from_iter_values(
        (0..count).map(|row| row as u64 * 10),
    )));
    columns.push(new_null_array(&DataType::Utf8View, count));
    let whole = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let mut partitions = vec![Vec::new(); 3];
    let mut at = 0;
    while at < count {
        let rows = random.random_range(1..=60).min(count - at);
        partitions[random.random_range(0..3)].push(whole.slice(at, rows));
        at += rows;
    }
    (schema, partitions)
}

/// Runs a suite and gives its result and the rows that came out.
async fn run(table: &RecordBatch, suite: &Value, seed: u64) -> (Value, usize, usize) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let pipeline = pipeline();
    let policy = Arc::new(Policy::new(&pipeline, Some("test")).unwrap());
    let suite = Suite::parse(&suite.to_string(), &Map::new()).unwrap();
    let plan = QualityPlan::new(&pipeline, Some(&suite), policy).unwrap();
    let plan = Arc::new(plan.with_objects(vec!["a".into(), "b".into(), "c".into()]));
    let (schema, partitions) = input(table, &mut random);
    let source = MemorySourceConfig::try_new_exec(&partitions, schema, None).unwrap();
    let judged = Arc::new(QualityExec::new(source, Arc::clone(&plan)));
    let seen: Arc<dyn ExecutionPlan> = Arc::new(UniquenessExec::new(judged, Arc::clone(&plan)));
    let batches = collect_partitioned(seen, SessionContext::new().task_ctx())
        .await
        .unwrap();
    let mut states = Vec::new();
    let (mut kept, mut rejected) = (0, 0);
    for batch in batches.iter().flatten() {
        if !rows::is_note(batch) {
            kept += batch.num_rows();
        }
        for note in Note::from_batch(batch).unwrap() {
            match note {
                Note::Quality(bytes) => states.push(plan.open(&bytes).unwrap()),
                Note::Rejects(rejects) => rejected += rejects.num_rows(),
                Note::Counts(_) | Note::Unmatched(_) => {}
            }
        }
    }
    let mut merged: QualityState = plan.empty_state();
    while !states.is_empty() {
        merged
            .merge(states.swap_remove(random.random_range(0..states.len())))
            .unwrap();
    }
    (plan.result(&merged, Map::new()), kept, rejected)
}

fn expectations(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(here().join(file)).unwrap();
    let mut list: Vec<Value> = serde_json::from_str(&text).unwrap();
    // Uniqueness looks at what is left after the verdict: nothing may be taken out here.
    list.iter_mut()
        .for_each(|expectation| expectation["severity"] = json!("warning"));
    list
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/quality_oracle")
}

/// Great Expectations' results by case.
fn ask_great_expectations(cases: &Value, folder: &Path) -> Value {
    let environment = std::env::var_os("MILLRACE_GE_VENV").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/millrace/venv-ge"),
        PathBuf::from,
    );
    let installed = Command::new(here().join("install.sh"))
        .arg(&environment)
        .status()
        .unwrap();
    assert!(installed.success(), "great_expectations could not be installed");
    let (asked, answered) = (folder.join("cases.json"), folder.join("results.json"));
    std::fs::write(&asked, cases.to_string()).unwrap();
    let run = Command::new(environment.join("bin/python"))
        .arg(here().join("oracle.py"))
        .args([&asked, &answered])
        .env("GX_ANALYTICS_ENABLED", "false")
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    // Python writes NaN and NaT, which are no JSON; they stand for "no value".
    let text = std::fs::read_to_string(answered)
        .unwrap()
        .replace("NaN", "null")
        .replace("\"NaT\"", "null");
    serde_json::from_str(&text).unwrap()
}

fn write_parquet(table: &RecordBatch, path: &Path) {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, table.schema(), None).unwrap();
    writer.write(table).unwrap();
    writer.close().unwrap();
}

/// Results by the index that stands in each expectation's meta.
fn by_index(result: &Value) -> Vec<Value> {
    let mut entries = result["results"].as_array().unwrap().clone();
    entries.sort_by_key(|entry| entry["expectation_config"]["meta"]["index"].as_u64());
    entries
}

fn raised(entry: &Value) -> bool {
    let info = &entry["exception_info"];
    info["raised_exception"].as_bool().unwrap_or_else(|| {
        info.as_object()
            .is_some_and(|all| all.values().any(|one| one["raised_exception"] == json!(true)))
    })
}

/// Whether two figures are the same: numbers to 1e-9, times as text of any shape, lists in any order.
fn agree(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Array(a), Value::Array(b)) => {
            let mut left: Vec<&Value> = b.iter().collect();
            a.len() == b.len()
                && a.iter().all(|value| {
                    let at = left.iter().position(|other| agree(value, other));
                    at.map(|at| left.swap_remove(at)).is_some()
                })
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, value)| b.get(key).is_some_and(|other| agree(value, other)))
        }
        (Value::String(a), Value::String(b)) => a == b || a.replace('T', " ") == b.replace('T', " "),
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0),
            _ => a == b,
        },
    }
}

fn number(value: &Value) -> Option<f64> {
    value
        .as_f64()
        .or_else(|| value.as_bool().map(|bit| f64::from(u8::from(bit))))
}

const FIGURES: [&str; 11] = [
    "element_count",
    "unexpected_count",
    "unexpected_percent",
    "missing_count",
    "missing_percent",
    "unexpected_percent_total",
    "unexpected_percent_nonmissing",
    "observed_value",
    "details",
    "partial_unexpected_list",
    "partial_missing_list",
];

/// Of more than twenty repeated values the two show different ones: after deduplication a stream has no order.
fn shows_others(kind: &str, theirs: &Value) -> bool {
    let is_uniqueness =
        kind == "expect_column_values_to_be_unique" || kind == "expect_compound_columns_to_be_unique";
    is_uniqueness && theirs["result"]["unexpected_count"].as_u64() > Some(20)
}

fn compare(case: &str, ours: &Value, theirs: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let (our_entries, their_entries) = (by_index(ours), by_index(theirs));
    assert_eq!(our_entries.len(), their_entries.len(), "{case}");
    for (ours, theirs) in our_entries.iter().zip(&their_entries) {
        let config = &ours["expectation_config"];
        let name = format!(
            "{case}: {} {}",
            config["type"].as_str().unwrap_or_default(),
            config["kwargs"]
        );
        if raised(ours) != raised(theirs) {
            faults.push(format!(
                "{name}\n    raised: ours {}\n    theirs {}",
                ours["exception_info"], theirs["exception_info"]
            ));
            continue;
        }
        if ours["success"] != theirs["success"] {
            faults.push(format!(
                "{name}\n    success: ours {} theirs {}\n    {}\n    {}",
                ours["success"], theirs["success"], ours["result"], theirs["result"]
            ));
        }
        for figure in FIGURES {
            let (our, their) = (&ours["result"][figure], &theirs["result"][figure]);
            let shows_others = figure == "partial_unexpected_list"
                && shows_others(config["type"].as_str().unwrap_or_default(), theirs);
            if !shows_others && !agree(our, their) {
                faults.push(format!("{name}\n    {figure}: ours {our}\n    theirs {their}"));
            }
        }
    }
    if !agree(&ours["statistics"], &theirs["statistics"]) {
        faults.push(format!(
            "{case}: statistics {} {}",
            ours["statistics"], theirs["statistics"]
        ));
    }
    faults
}

#[tokio::test]
async fn every_figure_agrees_with_great_expectations() {
    println!("seed {SEED}");
    let folder = tempfile::tempdir().unwrap();
    let (plain, sql) = (
        expectations("expectations.json"),
        expectations("expectations_sql.json"),
    );
    let cases = [
        ("mixed", ROWS, "pandas", &plain),
        ("empty", 0, "pandas", &plain),
        ("sql", ROWS, "sqlite", &sql),
    ];
    let mut asked = Vec::new();
    for (name, count, engine, expectations) in &cases {
        let path = folder.path().join(format!("{name}.parquet"));
        write_parquet(&table(*count, SEED), &path);
        asked.push(json!({"name": name, "parquet": path, "engine": engine, "expectations": expectations}));
    }
    let theirs = ask_great_expectations(&Value::Array(asked), folder.path());
    let mut faults = Vec::new();
    for (name, count, _, expectations) in &cases {
        let table = table(*count, SEED);
        let new = json!({"name": name, "expectations": expectations, "meta": {}});
        let (ours, kept, rejected) = run(&table, &new, SEED).await;
        assert_eq!((kept, rejected), (*count, 0), "warnings take no rows out");
        faults.extend(compare(name, &ours, &theirs[name]));
        let (old, _, _) = run(&table, &as_old_file(name, expectations), SEED + 1).await;
        assert!(
            agree(&old["statistics"], &ours["statistics"]),
            "a 0.x file of the same suite"
        );
    }
    assert!(
        faults.is_empty(),
        "{} differences:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// The suite as Great Expectations 0.x would have written it.
fn as_old_file(name: &str, expectations: &[Value]) -> Value {
    let old: Vec<Value> = expectations
        .iter()
        .map(|expectation| {
            json!({
                "expectation_type": expectation["type"],
                "kwargs": expectation["kwargs"],
                "meta": expectation["meta"],
                // 0.x knows no severity, and without one everything is critical: uniqueness would see fewer rows.
                "severity": "warning",
            })
        })
        .collect();
    json!({"expectation_suite_name": name, "expectations": old, "meta": {}, "data_asset_type": null})
}
