//! What mapping promises, example by example.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use object_store::path::Path;
use serde_json::{Value, json};

use super::MapPlan;
use super::exec::MapExec;
use super::made_up::{column, decode, faults, from, missing, pipeline, sql, version};
use crate::enrich::Lookups;
use crate::rows::{FAULTS, FaultKind};
use crate::spec::model::*;

fn map(pipeline: &Pipeline, records: &[Value]) -> RecordBatch {
    let plan = MapPlan::new(pipeline).unwrap();
    plan.map_batch(&decode(&plan, records)).unwrap()
}

fn texts(mapped: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column = mapped.column_by_name(name).unwrap().as_string_view();
    column.iter().map(|text| text.map(str::to_owned)).collect()
}

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some((*text).to_owned())).collect()
}

#[test]
fn without_versions_and_sql_no_value_is_copied() {
    let columns = vec![
        column("b", ColumnType::String, from("x.b")),
        column("a", ColumnType::Int64, from("a")),
    ];
    let plan = MapPlan::new(&pipeline(columns, Vec::new())).unwrap();
    let decoded = decode(&plan, &[json!({"a": 1, "x": {"b": "y"}}), json!({})]);
    let mapped = plan.map_batch(&decoded).unwrap();
    assert_eq!(mapped.schema(), plan.schema());
    for (decoded, mapped) in decoded.columns().iter().zip(mapped.columns()) {
        assert!(decoded.to_data().ptr_eq(&mapped.to_data()));
    }
}

#[test]
fn a_path_that_two_formats_read_alike_is_decoded_once() {
    let columns = vec![
        column("a", ColumnType::String, from("a")),
        column("b", ColumnType::String, from("b")),
    ];
    let versions = vec![version("old", missing("a"), &[("a", from("b"))])];
    let plan = MapPlan::new(&pipeline(columns, versions)).unwrap();
    let names: Vec<_> = plan
        .decode_plan()
        .fields
        .iter()
        .map(|field| field.name.as_str())
        .collect();
    assert_eq!(names, ["a:string", "b:string", "a:present"]);
}

#[test]
fn the_first_version_that_matches_fills_the_row() {
    let columns = vec![
        column("actor", ColumnType::String, from("actor.login")),
        column("kind", ColumnType::String, from("type")),
        column("is_bot", ColumnType::Bool, sql("actor LIKE '%[bot]'")),
    ];
    let versions = vec![
        version(
            "legacy",
            When::Sql("kind = 'legacy'".to_owned()),
            &[("actor", from("who"))],
        ),
        version("flat", missing("actor.login"), &[("actor", from("actor"))]),
    ];
    let records = [
        json!({"type": "push", "actor": {"login": "ann"}}),
        json!({"type": "push", "actor": "dependa[bot]"}),
        json!({"type": "legacy", "who": "eve", "actor": "x"}),
        json!({"type": "push", "actor": {"login": "[bot]"}}),
    ];
    let mapped = map(&pipeline(columns, versions), &records);
    assert_eq!(
        texts(&mapped, "actor"),
        some(&["ann", "dependa[bot]", "eve", "[bot]"])
    );
    let bots = mapped.column_by_name("is_bot").unwrap().as_boolean();
    assert_eq!(
        bots.iter().flatten().collect::<Vec<_>>(),
        [false, true, false, true]
    );
}

#[test]
fn a_wrong_type_counts_only_where_the_rows_format_looks() {
    let columns = vec![column("actor", ColumnType::String, from("actor.login"))];
    let versions = vec![version(
        "flat",
        missing("actor.login"),
        &[("actor", from("actor"))],
    )];
    let records = [
        json!({"actor": {"login": "ann"}}), // `actor` is no string, but only the old format reads it so
        json!({"actor": "bob"}),
        json!({"actor": 7}),
    ];
    let mapped = map(&pipeline(columns, versions), &records);
    let wrong = vec![(FaultKind::WrongType, Some("actor".to_owned()))];
    assert_eq!(faults(&mapped), [vec![], vec![], wrong]);
}

#[test]
fn an_expression_that_fails_on_a_row_harms_no_other() {
    let columns = vec![
        column("text", ColumnType::String, from("text")),
        column("n", ColumnType::Int64, sql("cast(text as bigint)")),
        column("share", ColumnType::Int64, sql("100 / n")),
        column("small", ColumnType::Int32, sql("n * 4000000000")),
        column("soft", ColumnType::Int64, sql("try_cast(text as bigint)")),
    ];
    let records: Vec<Value> = ["4", "SECRET", "0", "5", "9000000000"]
        .iter()
        .map(|text| json!({ "text": text }))
        .collect();
    let mapped = map(&pipeline(columns, Vec::new()), &records);
    let shares = mapped
        .column_by_name("share")
        .unwrap()
        .as_primitive::<Int64Type>();
    assert_eq!(
        shares.iter().collect::<Vec<_>>(),
        [Some(25), None, None, Some(20), Some(0)]
    );
    let small = mapped
        .column_by_name("small")
        .unwrap()
        .as_primitive::<Int32Type>();
    assert_eq!(
        small.iter().collect::<Vec<_>>(),
        [None, None, Some(0), None, None]
    );
    let fault = |column: &str| (FaultKind::Conversion, Some(column.to_owned()));
    let expected = [
        vec![fault("small")],
        vec![fault("n")],
        vec![fault("share")],
        vec![fault("small")],
        vec![fault("small")],
    ];
    assert_eq!(faults(&mapped), expected);
    let shown = format!("{:?}", texts(&mapped, FAULTS));
    assert!(
        !shown.contains("SECRET") && !shown.contains("9000000000"),
        "{shown}"
    );
}

#[test]
fn a_guard_in_an_expression_holds_row_by_row() {
    let columns = vec![
        column("a", ColumnType::Int64, from("a")),
        column("big", ColumnType::Bool, sql("a <> 0 AND 100 / a > 10")),
    ];
    let mapped = map(
        &pipeline(columns, Vec::new()),
        &[json!({"a": 0}), json!({"a": 5}), json!({"a": 50})],
    );
    let big = mapped.column_by_name("big").unwrap().as_boolean();
    assert_eq!(big.iter().flatten().collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn a_json_column_takes_json_text_only() {
    let columns = vec![
        column("text", ColumnType::String, from("text")),
        column("doc", ColumnType::Json, sql("text")),
    ];
    let records = [json!({"text": "{\"a\": [1]}"}), json!({"text": "{a}"}), json!({})];
    let mapped = map(&pipeline(columns, Vec::new()), &records);
    assert_eq!(
        texts(&mapped, "doc"),
        [Some("{\"a\": [1]}".to_owned()), None, None]
    );
    let wrong = vec![(FaultKind::Conversion, Some("doc".to_owned()))];
    assert_eq!(faults(&mapped), [vec![], wrong, vec![]]);
}

#[test]
fn a_required_value_that_is_not_there_is_a_fault_and_so_is_a_missing_event_time() {
    let mut columns = vec![
        column("id", ColumnType::String, from("id")),
        column("event_time", ColumnType::Timestamp, from("at")),
    ];
    columns[0].required = true;
    let records = [
        json!({"id": "a", "at": 1}),
        json!({"at": 2}),
        json!({"id": "b"}),
        json!({"id": 3, "at": 4}),
    ];
    let mapped = map(&pipeline(columns, Vec::new()), &records);
    let fault = |kind, column: &str| vec![(kind, Some(column.to_owned()))];
    let expected = [
        vec![],
        fault(FaultKind::Missing, "id"),
        fault(FaultKind::Missing, "event_time"),
        fault(FaultKind::WrongType, "id"),
    ];
    assert_eq!(faults(&mapped), expected);
}

#[test]
fn a_record_that_could_not_be_decoded_keeps_its_fault_and_has_no_values() {
    let mut columns = vec![
        column("id", ColumnType::String, from("id")),
        column("label", ColumnType::String, sql("coalesce(id, 'none')")),
    ];
    columns[0].required = true;
    let mapped = map(&pipeline(columns, Vec::new()), &[Value::Null, json!({"id": "a"})]);
    assert_eq!(texts(&mapped, "label"), [None, Some("a".to_owned())]);
    assert_eq!(faults(&mapped), [vec![(FaultKind::Syntax, None)], vec![]]);
}

#[test]
fn an_id_can_be_made_of_columns_below_it_that_are_read_from_paths() {
    let columns = vec![
        column("event_id", ColumnType::String, from("id")),
        column("kind", ColumnType::String, from("type")),
        column("event_time", ColumnType::Timestamp, from("at")),
    ];
    let id = sql("encode(sha256(concat_ws('|', kind, event_time)), 'hex')");
    let versions = vec![version("old", missing("id"), &[("event_id", id)])];
    let mapped = map(
        &pipeline(columns, versions),
        &[json!({"type": "push", "at": 0}), json!({"type": "pull", "at": 0})],
    );
    let ids = texts(&mapped, "event_id");
    assert!(
        ids.iter().all(|id| id.as_ref().is_some_and(|id| id.len() == 64)),
        "{ids:?}"
    );
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn an_empty_batch_maps_to_an_empty_batch() {
    let columns = vec![column("a", ColumnType::Int64, sql("1"))];
    assert_eq!(map(&pipeline(columns, Vec::new()), &[]).num_rows(), 0);
}

#[test]
fn a_batch_of_another_plan_is_refused_by_the_columns_name() {
    let one = MapPlan::new(&pipeline(
        vec![column("a", ColumnType::Int64, from("a"))],
        Vec::new(),
    ))
    .unwrap();
    let other = MapPlan::new(&pipeline(
        vec![column("b", ColumnType::Int64, from("b"))],
        Vec::new(),
    ))
    .unwrap();
    let error = one.map_batch(&decode(&other, &[json!({})])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the decoded batch has no column `a:int64` of type Int64"
    );
}

#[tokio::test]
async fn the_operator_maps_every_batch_of_its_input() {
    let columns = vec![
        column("a", ColumnType::Int64, from("a")),
        column("b", ColumnType::Int64, sql("a + 1")),
    ];
    let plan = Arc::new(MapPlan::new(&pipeline(columns, Vec::new())).unwrap());
    let batches = [
        decode(&plan, &[json!({"a": 1})]),
        decode(&plan, &[json!({"a": 2}), json!({"a": 3})]),
    ];
    let input = MemorySourceConfig::try_new_exec(&[batches.to_vec()], batches[0].schema(), None).unwrap();
    let store = Arc::new(object_store::memory::InMemory::new());
    let lookups = Lookups::new(
        &pipeline(Vec::new(), Vec::new()),
        None,
        (store, Path::default()),
        &[],
        Arc::default(),
    );
    let exec: Arc<dyn ExecutionPlan> = Arc::new(MapExec::new(input, Arc::clone(&plan), &Arc::new(lookups)));
    let mapped = collect(exec, SessionContext::new().task_ctx()).await.unwrap();
    let sums: Vec<i64> = mapped
        .iter()
        .flat_map(|batch| batch.column(1).as_primitive::<Int64Type>().values().to_vec())
        .collect();
    assert_eq!(sums, [2, 3, 4]);
}
