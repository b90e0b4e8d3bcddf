//! Looked-up columns beside all others: where they are seen, what they give, what is counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::Int64Type;
use serde_json::{Value, json};

use super::made_up::{column, decode, faults, from, looked_up, missing, pipeline, sql, version};
use super::{MapError, MapPlan, Mapped};
use crate::enrich::LookupTable;
use crate::rows::FaultKind;
use crate::spec::model::*;

/// Customer 1 is gold and of age 30, customer 2 has no segment.
fn customers() -> Arc<LookupTable> {
    let columns: [(&str, ArrayRef); 3] = [
        ("customer", Arc::new(Int64Array::from(vec![1, 2]))),
        ("age", Arc::new(Int64Array::from(vec![30, 40]))),
        (
            "segment",
            Arc::new(StringViewArray::from(vec![Some("gold"), None])),
        ),
    ];
    let rows = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, values)| (name, values, true)),
    );
    Arc::new(LookupTable::new(&rows.unwrap()).unwrap())
}

fn enriched(columns: Vec<Column>, versions: Vec<Version>) -> Pipeline {
    let mut pipeline = pipeline(columns, versions);
    let lookup = looked_up().enrich.remove(0);
    let add = [("age", "age"), ("segment", "tier")];
    pipeline.enrich.push(Enrich {
        add: add
            .map(|(ours, theirs)| (ours.to_owned(), theirs.to_owned()))
            .into(),
        ..lookup
    });
    pipeline
}

fn theirs(name: &str) -> ColumnValue {
    ColumnValue::Enriched(0, name.to_owned())
}

fn map(pipeline: &Pipeline, records: &[Value]) -> Mapped {
    let plan = MapPlan::new(pipeline).unwrap();
    plan.map_and_look_up(&decode(&plan, records), &[customers()])
        .unwrap()
}

fn texts(mapped: &Mapped, name: &str) -> Vec<Option<String>> {
    let column = mapped.rows.column_by_name(name).unwrap().as_string_view();
    column.iter().map(|text| text.map(str::to_owned)).collect()
}

fn numbers(mapped: &Mapped, name: &str) -> Vec<Option<i64>> {
    let column = mapped.rows.column_by_name(name).unwrap();
    column.as_primitive::<Int64Type>().iter().collect()
}

fn gold() -> Option<String> {
    Some("gold".to_owned())
}

#[test]
fn a_key_gives_its_row_and_what_is_not_there_gives_null_and_is_counted() {
    let columns = vec![
        column("segment", ColumnType::String, theirs("tier")),
        column("customer", ColumnType::Int64, from("customer")),
        column("age", ColumnType::Int64, theirs("age")),
    ];
    let records = [
        json!({"customer": 2}),
        json!({"customer": 1}),
        json!({"customer": 9}),
        json!({}),
        Value::Null,
        json!({"customer": 8}),
    ];
    let mapped = map(&enriched(columns, Vec::new()), &records);
    assert_eq!(texts(&mapped, "segment"), [None, gold(), None, None, None, None]);
    assert_eq!(
        numbers(&mapped, "age"),
        [Some(40), Some(30), None, None, None, None]
    );
    assert_eq!(mapped.unmatched, BTreeMap::from([("customers".to_owned(), 2)]));
}

#[test]
fn expressions_use_looked_up_columns_below_them_and_a_key_may_be_an_expression() {
    let columns = vec![
        column("is_gold", ColumnType::Bool, sql("segment = 'gold'")),
        column("customer", ColumnType::Int64, from("customer")),
        column("segment", ColumnType::String, theirs("tier")),
        column("age", ColumnType::Int64, theirs("age")),
        column("next", ColumnType::Int64, sql("age + 1")),
    ];
    let records = [json!({"customer": 1}), json!({"customer": 2})];
    let mapped = map(&enriched(columns, Vec::new()), &records);
    assert!(mapped.rows.column(0).as_boolean().value(0) && mapped.rows.column(0).is_null(1));
    assert_eq!(numbers(&mapped, "next"), [Some(31), Some(41)]);
    assert_eq!(mapped.unmatched, BTreeMap::new());

    let columns = vec![
        column("age", ColumnType::Int64, theirs("age")),
        column("customer", ColumnType::Int64, sql("cast(text as bigint)")),
        column("text", ColumnType::String, from("text")),
        column("segment", ColumnType::String, theirs("tier")),
        column("older", ColumnType::Int64, sql("age + 1")),
    ];
    let records = [
        json!({"text": "2"}),
        json!({"text": "words"}),
        json!({"text": "1"}),
    ];
    let mapped = map(&enriched(columns, Vec::new()), &records);
    assert_eq!(numbers(&mapped, "age"), [Some(40), None, Some(30)]);
    assert_eq!(numbers(&mapped, "older"), [Some(41), None, Some(31)]);
    let conversion = (FaultKind::Conversion, Some("customer".to_owned()));
    assert_eq!(faults(&mapped.rows)[1], [conversion]);
}

#[test]
fn every_format_looks_up_by_its_own_key_and_a_batch_of_several_counts_each_event_once() {
    let columns = vec![
        column("customer", ColumnType::Int64, from("customer")),
        column("segment", ColumnType::String, theirs("tier")),
        column("age", ColumnType::Int64, theirs("age")),
    ];
    let when = When::Sql("segment IS NULL AND customer IS NULL".to_owned());
    let versions = vec![
        version("old", missing("id"), &[("customer", from("old.customer"))]),
        version("none", when, &[("customer", sql("1"))]),
    ];
    let records = [
        json!({"id": 1, "customer": 1}),
        json!({"old": {"customer": 2}}),
        json!({"old": {"customer": 7}}),
        json!({"id": 1, "customer": 7}),
        json!({"id": 1}),
    ];
    let mapped = map(&enriched(columns, versions), &records);
    let ages = [Some(30), Some(40), None, None, Some(30)];
    assert_eq!(numbers(&mapped, "age"), ages);
    assert_eq!(mapped.unmatched["customers"], 2);
}

#[test]
fn a_required_column_that_a_lookup_does_not_give_is_missing_and_says_so() {
    let mut columns = vec![
        column("customer", ColumnType::Int64, from("customer")),
        column("segment", ColumnType::String, theirs("tier")),
        column("age", ColumnType::Int64, theirs("age")),
    ];
    columns[1].required = true;
    let mapped = map(&enriched(columns, Vec::new()), &[json!({"customer": 2})]);
    let fault = (FaultKind::Missing, Some("segment".to_owned()));
    assert_eq!(faults(&mapped.rows)[0], [fault]);
    let text = mapped.rows.column(mapped.rows.num_columns() - 1).as_string_view();
    assert!(
        text.value(0).contains("the lookup gives no value"),
        "{}",
        text.value(0)
    );
}

#[test]
fn without_its_snapshot_a_lookup_is_an_error_that_names_it() {
    let plan = MapPlan::new(&looked_up()).unwrap();
    assert!(plan.has_lookups());
    let error = plan
        .map_batch(&decode(&plan, &[json!({"customer": 1})]))
        .unwrap_err();
    assert!(
        matches!(&error, MapError::NoSnapshot { lookup } if lookup == "customers"),
        "{error}"
    );
}
