//! For tests: pipelines in a line, and a decoder that makes decoded batches of JSON values as `decode` is bound to.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringViewArray, TimestampMicrosecondArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{Field, Schema};
use millrace_proto::ids::PipelineName;
use serde_json::Value;

use super::MapPlan;
use crate::decode::WantedKind;
use crate::rows::{FAULTS, Fault, FaultKind};
use crate::spec::model::*;

pub(super) fn column(name: &str, kind: ColumnType, value: ColumnValue) -> Column {
    Column {
        name: name.to_owned(),
        kind,
        value,
        required: false,
        pii: None,
        description: None,
    }
}

pub(super) fn from(path: &str) -> ColumnValue {
    ColumnValue::From(path.split('.').map(str::to_owned).collect())
}

pub(super) fn sql(text: &str) -> ColumnValue {
    ColumnValue::Sql(text.to_owned())
}

pub(super) fn version(name: &str, when: When, columns: &[(&str, ColumnValue)]) -> Version {
    Version {
        name: name.to_owned(),
        when,
        columns: columns
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    }
}

pub(super) fn missing(path: &str) -> When {
    When::Missing(path.split('.').map(str::to_owned).collect())
}

pub(super) fn pipeline(columns: Vec<Column>, versions: Vec<Version>) -> Pipeline {
    Pipeline {
        name: PipelineName::try_from("test".to_owned()).unwrap(),
        source: Source::Files {
            path: "/events".to_owned(),
            format: Format::Json,
        },
        columns,
        versions,
        enrich: Vec::new(),
        quality: None,
        dedup: None,
        privacy: Privacy::default(),
        partition: Partition {
            time: "event_time".to_owned(),
            by: vec![PartitionLevel::Date],
            source: None,
            lateness_seconds: 0,
        },
        lake: Lake {
            url: "file:///lake".to_owned(),
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

/// A table with a customer's number and the segment that is looked up by it.
pub(crate) fn looked_up() -> Pipeline {
    let columns = vec![
        column("customer", ColumnType::Int64, from("customer")),
        column(
            "segment",
            ColumnType::String,
            ColumnValue::Enriched(0, "tier".to_owned()),
        ),
    ];
    let mut pipeline = pipeline(columns, Vec::new());
    pipeline.enrich.push(Enrich {
        name: "customers".to_owned(),
        dsn: Secret::new(String::new()),
        table: "customers".to_owned(),
        key: ("customer".to_owned(), "id".to_owned()),
        add: [("segment".to_owned(), "tier".to_owned())].into(),
        refresh_seconds: None,
        on_down: OnDown::Last,
        max_age_seconds: None,
    });
    pipeline
}

/// Decodes JSON values as `decode` is bound to; `Value::Null` stands for a record that is not JSON.
pub(super) fn decode(plan: &MapPlan, records: &[Value]) -> RecordBatch {
    let mut faults: Vec<Vec<Fault>> = vec![Vec::new(); records.len()];
    for (record, faults) in records.iter().zip(&mut faults) {
        if record.is_null() {
            faults.push(Fault {
                kind: FaultKind::Syntax,
                column: None,
                detail: "not JSON".to_owned(),
            });
        }
    }
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for wanted in &plan.decode_plan().fields {
        let values: Vec<&Value> = records
            .iter()
            .map(|record| {
                wanted
                    .path
                    .iter()
                    .fold(record, |value, key| value.get(key).unwrap_or(&Value::Null))
            })
            .collect();
        let mut wrong = |row: usize, is_sound: bool| {
            if !is_sound {
                faults[row].push(Fault {
                    kind: FaultKind::WrongType,
                    column: Some(wanted.name.clone()),
                    detail: "another type".to_owned(),
                });
            }
        };
        let mut typed = |is_sound: fn(&Value) -> bool| {
            for (row, value) in values.iter().enumerate() {
                wrong(row, value.is_null() || is_sound(value));
            }
        };
        let array: ArrayRef = match &wanted.kind {
            WantedKind::Present => Arc::new(
                values
                    .iter()
                    .map(|value| Some(!value.is_null()))
                    .collect::<BooleanArray>(),
            ),
            WantedKind::Value(ColumnType::String) => {
                typed(Value::is_string);
                Arc::new(
                    values
                        .iter()
                        .map(|value| value.as_str())
                        .collect::<StringViewArray>(),
                )
            }
            WantedKind::Value(ColumnType::Json) => Arc::new(
                values
                    .iter()
                    .map(|value| (!value.is_null()).then(|| value.to_string()))
                    .collect::<StringViewArray>(),
            ),
            WantedKind::Value(ColumnType::Int64) => {
                typed(Value::is_i64);
                Arc::new(values.iter().map(|value| value.as_i64()).collect::<Int64Array>())
            }
            WantedKind::Value(ColumnType::Int32) => Arc::new(
                values
                    .iter()
                    .map(|value| value.as_i64().map(|n| n as i32))
                    .collect::<Int32Array>(),
            ),
            WantedKind::Value(ColumnType::Float64) => Arc::new(
                values
                    .iter()
                    .map(|value| value.as_f64())
                    .collect::<Float64Array>(),
            ),
            WantedKind::Value(ColumnType::Timestamp) => {
                let micros = values.iter().map(|value| value.as_i64());
                Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
            }
            other => panic!("the test decoder has no {other:?}"),
        };
        fields.push(Field::new(&wanted.name, array.data_type().clone(), true));
        columns.push(array);
    }
    fields.extend(crate::rows::origin_fields());
    let rows = records.len();
    let lines = 1..=rows as u64;
    columns.push(Arc::new(
        records
            .iter()
            .map(|record| Some(record.to_string().into_bytes()))
            .collect::<BinaryViewArray>(),
    ));
    columns.push(Arc::new(UInt32Array::from(vec![0; rows])));
    columns.push(Arc::new(lines.clone().collect::<UInt64Array>()));
    columns.push(Arc::new(lines.collect::<UInt64Array>()));
    let faults = faults
        .iter()
        .map(|faults| (!faults.is_empty()).then(|| serde_json::to_string(faults).unwrap()));
    columns.push(Arc::new(faults.collect::<StringViewArray>()));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The faults of each row: kind and column.
pub(super) fn faults(mapped: &RecordBatch) -> Vec<Vec<(FaultKind, Option<String>)>> {
    mapped
        .column_by_name(FAULTS)
        .unwrap()
        .as_string_view()
        .iter()
        .map(|text| {
            let faults: Vec<Fault> = text.map_or_else(Vec::new, |text| serde_json::from_str(text).unwrap());
            faults
                .into_iter()
                .map(|fault| (fault.kind, fault.column))
                .collect()
        })
        .collect()
}
