//! What the operators promise, over whole plans.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, Float64Array, Int64Array, RecordBatch, StringViewArray,
    UInt32Array, UInt64Array,
};
use arrow::datatypes::{Schema, UInt64Type};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::pass::Stage;
use super::{QualityExec, QualityPlan, QualityState, Suite, UniquenessExec};
use crate::privacy::Policy;
use crate::rows::{self, Fault, FaultKind, Note};
use crate::spec::model::{
    Column, ColumnType, ColumnValue, Compression, Format, HandoffUnit, Lake, Limits, Partition,
    PartitionLevel, PiiClass, Pipeline, Privacy, Retention, Secret, Source,
};

fn pipeline() -> Pipeline {
    let column = |name: &str, kind, pii| Column {
        name: name.to_owned(),
        kind,
        value: ColumnValue::From(vec![name.to_owned()]),
        required: false,
        pii,
        description: None,
    };
    Pipeline {
        name: "p".to_owned().try_into().unwrap(),
        source: Source::Files {
            path: "/in".into(),
            format: Format::Json,
        },
        columns: vec![
            column("id", ColumnType::String, None),
            column("n", ColumnType::Int64, None),
            column("x", ColumnType::Float64, None),
            column("mail", ColumnType::String, Some(PiiClass::Email)),
        ],
        versions: Vec::new(),
        enrich: Vec::new(),
        quality: None,
        dedup: None,
        privacy: Privacy {
            clear_in: vec!["clear".into()],
            hash_key: Some(Secret::new("0123456789abcdef0123456789abcdef".into())),
            strategies: BTreeMap::new(),
        },
        partition: Partition {
            time: "id".into(),
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

fn plan(environment: &str, expectations: Value) -> Arc<QualityPlan> {
    let pipeline = pipeline();
    let policy = Arc::new(Policy::new(&pipeline, Some(environment)).unwrap());
    let suite = json!({"name": "s", "expectations": expectations}).to_string();
    let suite = Suite::parse(&suite, &Map::new()).unwrap();
    let plan = QualityPlan::new(&pipeline, Some(&suite), policy).unwrap();
    Arc::new(plan.with_objects(vec!["file:///in/a.json".into()]))
}

type Row = (
    Option<&'static str>,
    Option<i64>,
    Option<f64>,
    Option<&'static str>,
    Option<&'static str>,
);

/// Rows of `(id, n, x, mail, faults)`, one line each.
fn batch(rows: &[Row]) -> RecordBatch {
    let mut fields: Vec<_> = pipeline()
        .table()
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    fields.extend(rows::origin_fields());
    let count = rows.len() as u64;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.3).collect::<StringViewArray>()),
        Arc::new(BinaryViewArray::from_iter_values(
            (1..=count).map(|line| format!("raw {line} private@x.org")),
        )),
        Arc::new(UInt32Array::from_iter_values((0..count).map(|_| 0))),
        Arc::new(UInt64Array::from_iter_values(1..=count)),
        Arc::new(UInt64Array::from_iter_values((0..count).map(|row| row * 9))),
        Arc::new(rows.iter().map(|row| row.4).collect::<StringViewArray>()),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

async fn run(plan: &Arc<QualityPlan>, batches: Vec<RecordBatch>) -> (Vec<RecordBatch>, Vec<Note>) {
    let schema = batches[0].schema();
    let source = MemorySourceConfig::try_new_exec(&[batches], schema, None).unwrap();
    let mut last: Arc<dyn ExecutionPlan> = Arc::new(QualityExec::new(source, Arc::clone(plan)));
    if plan.has_uniqueness() {
        last = Arc::new(UniquenessExec::new(last, Arc::clone(plan)));
    }
    let out = collect(last, SessionContext::new().task_ctx()).await.unwrap();
    let (notes, events): (Vec<_>, Vec<_>) = out.into_iter().partition(rows::is_note);
    (
        events,
        notes
            .iter()
            .flat_map(|note| Note::from_batch(note).unwrap())
            .collect(),
    )
}

fn merged(plan: &QualityPlan, notes: &[Note]) -> QualityState {
    let mut state = plan.empty_state();
    for note in notes {
        if let Note::Quality(bytes) = note {
            state.merge(plan.open(bytes).unwrap()).unwrap();
        }
    }
    state
}

fn expectation(kind: &str, kwargs: Value, severity: &str) -> Value {
    json!({"type": kind, "kwargs": kwargs, "severity": severity})
}

const FAULT: &str = r#"[{"kind":"syntax","detail":"not JSON"}]"#;

#[tokio::test]
async fn a_failing_row_is_quarantined_with_every_reason_and_no_value() {
    let plan = plan(
        "test",
        json!([
            expectation(
                "expect_column_values_to_be_between",
                json!({"column": "n", "min_value": 0}),
                "critical"
            ),
            expectation(
                "expect_column_values_to_be_in_set",
                json!({"column": "id", "value_set": ["a"], "mostly": 0.1}),
                "critical"
            ),
            expectation(
                "expect_column_values_to_not_be_null",
                json!({"column": "x"}),
                "warning"
            ),
        ]),
    );
    let rows = batch(&[
        (Some("a"), Some(1), None, None, None),
        (Some("secret"), Some(-7), Some(1.0), None, None),
        (None, None, None, None, Some(FAULT)),
        (Some("secret"), Some(3), Some(1.0), None, None),
    ]);
    let (events, notes) = run(&plan, vec![rows]).await;
    assert_eq!(
        events.iter().map(RecordBatch::num_rows).sum::<usize>(),
        1,
        "warnings stay"
    );
    let rejects = notes.iter().find_map(|note| {
        if let Note::Rejects(rejects) = note {
            Some(rejects)
        } else {
            None
        }
    });
    let rejects = rejects.unwrap();
    assert_eq!(
        rejects.column(2).as_primitive::<UInt64Type>().values(),
        &[3, 2, 4],
        "lines; mostly saves no row"
    );
    let reasons: Vec<Vec<Fault>> = rejects
        .column(4)
        .as_string::<i32>()
        .iter()
        .map(|text| serde_json::from_str(text.unwrap()).unwrap())
        .collect();
    assert_eq!(reasons[0][0].kind, FaultKind::Syntax);
    assert_eq!(reasons[1].len(), 2);
    assert_eq!(
        reasons[1][0].detail,
        "expect_column_values_to_be_between: not at least min_value 0"
    );
    assert_eq!(reasons[1][0].column.as_deref(), Some("n"));
    let told = format!("{reasons:?}");
    assert!(!told.contains("secret") && !told.contains("-7"), "{told}");
    let payload = rejects.column(6).as_binary::<i32>();
    assert!(rejects.column(5).as_boolean().value(0), "sealed");
    assert!(!String::from_utf8_lossy(payload.value(0)).contains("private"));
    let opened = plan.policy.sealer().unwrap().open(payload.value(1)).unwrap();
    assert_eq!(opened, b"raw 2 private@x.org");
    let Some(Note::Counts(counts)) = notes.iter().find(|note| matches!(note, Note::Counts(_))) else {
        panic!("no counts")
    };
    assert_eq!((counts[0].read, counts[0].quarantined), (4, 3));
    let state = merged(&plan, &notes);
    let result = plan.result(&state, Map::new());
    assert_eq!(
        result["results"][0]["result"]["element_count"],
        json!(3),
        "rows with faults are not judged"
    );
    assert_eq!(
        result["results"][1]["success"],
        json!(true),
        "mostly decides about the suite"
    );
    assert_eq!(plan.summary(&state).successful, 1);
}

#[tokio::test]
async fn clean_columns_pass_through_without_a_copy() {
    let plan = plan(
        "clear",
        json!([expectation(
            "expect_column_values_to_not_be_null",
            json!({"column": "id"}),
            "critical"
        )]),
    );
    let rows = batch(&[
        (Some("a"), Some(1), None, None, None),
        (Some("b"), Some(2), None, None, None),
    ]);
    let numbers = rows.column(1).to_data().buffers()[0].as_ptr();
    let (events, _) = run(&plan, vec![rows]).await;
    assert_eq!(events[0].column(1).to_data().buffers()[0].as_ptr(), numbers);
}

#[tokio::test]
async fn personal_values_are_masked_in_the_result_and_sealed_in_the_state() {
    let expectations = json!([
        expectation(
            "expect_column_values_to_match_regex",
            json!({"column": "mail", "regex": "^x"}),
            "warning"
        ),
        expectation(
            "expect_column_max_to_be_between",
            json!({"column": "mail", "max_value": "zz"}),
            "warning"
        ),
        expectation(
            "expect_column_distinct_values_to_be_in_set",
            json!({"column": "mail", "value_set": ["q"]}),
            "warning"
        ),
        expectation(
            "expect_column_values_to_be_unique",
            json!({"column": "mail"}),
            "warning"
        ),
    ]);
    let row = (Some("a"), Some(1), None, Some("ann@private.org"), None);
    let masked = plan("test", expectations.clone());
    let (_, notes) = run(&masked, vec![batch(&[row, row])]).await;
    for note in &notes {
        if let Note::Quality(bytes) = note {
            assert!(
                !String::from_utf8_lossy(bytes).contains("ann@"),
                "the state shows a value"
            );
        }
    }
    let told = masked.result(&merged(&masked, &notes), Map::new()).to_string();
    assert!(!told.contains("ann@"), "{told}");
    let clear = plan("clear", expectations);
    let (_, notes) = run(&clear, vec![batch(&[row, row])]).await;
    assert!(
        clear
            .result(&merged(&clear, &notes), Map::new())
            .to_string()
            .contains("ann@private.org")
    );
}

#[tokio::test]
async fn repeated_values_fail_the_suite_and_take_no_row_out() {
    let plan = plan(
        "clear",
        json!([expectation(
            "expect_column_values_to_be_unique",
            json!({"column": "id"}),
            "critical"
        )]),
    );
    let row = (Some("a"), Some(1), None, None, None);
    let (events, notes) = run(&plan, vec![batch(&[row]), batch(&[row])]).await;
    assert_eq!(events.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    let result = plan.result(&merged(&plan, &notes), Map::new());
    assert_eq!(result["success"], json!(false));
    assert_eq!(
        result["results"][0]["result"]["partial_unexpected_list"],
        json!(["a", "a"])
    );
}

#[test]
fn what_cannot_be_judged_is_an_exception_and_never_a_success() {
    let plan = plan(
        "clear",
        json!([
            expectation("expect_the_unexpected", json!({}), "critical"),
            expectation(
                "expect_column_values_to_be_null",
                json!({"column": "zzz"}),
                "critical"
            ),
            expectation(
                "expect_column_values_to_be_null",
                json!({"column": "id", "row_condition": "a ?? b"}),
                "info"
            ),
            expectation(
                "expect_column_values_to_be_null",
                json!({"column": "id", "mostly": 2}),
                "info"
            ),
            expectation(
                "expect_column_values_to_match_regex",
                json!({"column": "id", "regex": "(?=a)"}),
                "info"
            ),
        ]),
    );
    let result = plan.result(&plan.empty_state(), Map::new());
    for entry in result["results"].as_array().unwrap() {
        assert_eq!(entry["success"], json!(false), "{entry}");
        assert_eq!(
            entry["exception_info"]["raised_exception"],
            json!(true),
            "{entry}"
        );
        assert!(
            entry["exception_info"]["exception_message"].is_string(),
            "{entry}"
        );
    }
    assert_eq!(plan.summary(&plan.empty_state()).exceptions, 5);
}

#[test]
fn a_damaged_state_is_an_error() {
    let plan = plan(
        "clear",
        json!([expectation(
            "expect_column_max_to_be_between",
            json!({"column": "n"}),
            "info"
        )]),
    );
    let bytes = plan.empty_state().encode();
    assert!(QualityState::decode(&bytes).is_ok());
    for end in 0..bytes.len() {
        assert!(QualityState::decode(&bytes[..end]).is_err(), "{end}");
    }
}

fn statistics() -> Value {
    let all = [
        (
            "expect_column_values_to_be_between",
            json!({"column": "n", "min_value": 3}),
        ),
        (
            "expect_column_values_to_be_in_set",
            json!({"column": "id", "value_set": ["a", "b"], "row_condition": "n > 2"}),
        ),
        ("expect_column_min_to_be_between", json!({"column": "n"})),
        ("expect_column_max_to_be_between", json!({"column": "id"})),
        ("expect_column_mean_to_be_between", json!({"column": "x"})),
        ("expect_column_stdev_to_be_between", json!({"column": "x"})),
        ("expect_column_median_to_be_between", json!({"column": "x"})),
        (
            "expect_column_distinct_values_to_be_in_set",
            json!({"column": "n", "value_set": [1]}),
        ),
        (
            "expect_column_most_common_value_to_be_in_set",
            json!({"column": "id", "value_set": ["a"]}),
        ),
        (
            "expect_column_unique_value_count_to_be_between",
            json!({"column": "n", "max_value": 3}),
        ),
        ("expect_table_row_count_to_equal", json!({"value": 3})),
    ];
    all.into_iter()
        .map(|(kind, kwargs)| expectation(kind, kwargs, "info"))
        .collect()
}

/// Equal but for the rounding of floats.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
        }
        _ => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(1.0),
            _ => a == b,
        },
    }
}

fn rows_of_chance() -> impl Strategy<Value = Vec<Row>> {
    let text = prop::sample::select(vec![
        None,
        Some("a"),
        Some("b"),
        Some("a text beyond twelve bytes"),
    ]);
    let row = (
        text,
        prop::option::of(-5_i64..9),
        prop::option::of(-1e6..1e6_f64),
        Just(None),
        Just(None),
    );
    prop::collection::vec(row, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn parts_merged_in_any_order_are_the_whole(
        rows in rows_of_chance(),
        cuts in prop::collection::vec(0_usize..120, 0..6),
        turn in 0_usize..6,
    ) {
        let plan = plan("clear", statistics());
        let all = batch(&rows);
        let mut whole = plan.empty_state();
        plan.pass(Stage::BeforeDedup, &all, &mut whole).unwrap();
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < rows.len()).collect();
        cuts.extend([0, rows.len()]);
        cuts.sort_unstable();
        let mut parts: Vec<QualityState> = cuts
            .windows(2)
            .map(|ends| {
                let mut part = plan.empty_state();
                plan.pass(Stage::BeforeDedup, &all.slice(ends[0], ends[1] - ends[0]), &mut part).unwrap();
                QualityState::decode(&part.encode()).unwrap()
            })
            .collect();
        let turn = turn % parts.len();
        parts.rotate_left(turn);
        // Grouped from the right, then from the left: merging is associative.
        let mut right = plan.empty_state();
        for part in parts.iter().rev() {
            let mut next = part.clone();
            next.merge(right).unwrap();
            right = next;
        }
        let mut left = plan.empty_state();
        parts.into_iter().for_each(|part| left.merge(part).unwrap());
        let expected = plan.result(&whole, Map::new());
        for merged in [left, right] {
            let found = plan.result(&merged, Map::new());
            prop_assert!(alike(&found, &expected), "{found}\n{expected}");
        }
    }
}
