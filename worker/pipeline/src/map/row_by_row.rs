//! A judge for `map_batch`: random tables, versions and records, mapped one record at a time from `serde_json`
//! values by Rust closures. It shares nothing with the mapper but the contract.

use std::fmt::Write as _;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::made_up::{column, decode, faults, from, missing, pipeline, sql, version};
use super::*;
use crate::rows::FaultKind;
use crate::spec::model::{ColumnType, ColumnValue, Version, When};

type Row = Vec<Option<Value>>;
type Judge = fn(&Row) -> Result<Option<Value>, ()>;

const COLUMNS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// How a column may be filled: by a path, or by SQL with a closure that says what it means.
#[derive(Clone, Copy)]
enum Way {
    Path(&'static str),
    Sql(&'static str, Judge),
}

fn integer(row: &Row, column: usize) -> Option<i64> {
    row[column].as_ref().and_then(Value::as_i64)
}

fn text(row: &Row, column: usize) -> Option<String> {
    row[column].as_ref().and_then(Value::as_str).map(str::to_owned)
}

fn ways(column: usize) -> Vec<Way> {
    match column {
        0 => vec![
            Way::Path("n"),
            Way::Path("old.n"),
            Way::Sql("7", |_| Ok(Some(json!(7)))),
        ],
        1 => vec![Way::Path("s"), Way::Path("old.s"), Way::Path("n")],
        2 => vec![
            Way::Path("n"),
            Way::Sql("100 / a", |row| match integer(row, 0) {
                Some(0) => Err(()),
                a => Ok(a.map(|a| json!(100 / a))),
            }),
            Way::Sql("a * 4000000000000000000", |row| {
                let product = integer(row, 0).map(|a| a.checked_mul(4_000_000_000_000_000_000).ok_or(()));
                Ok(product.transpose()?.map(|product| json!(product)))
            }),
            Way::Sql("cast(b as bigint)", |row| {
                let number = text(row, 1).map(|text| text.parse::<i64>().map_err(drop));
                Ok(number.transpose()?.map(|number| json!(number)))
            }),
            Way::Sql("try_cast(b as bigint)", |row| {
                Ok(text(row, 1)
                    .and_then(|text| text.parse::<i64>().ok())
                    .map(|number| json!(number)))
            }),
        ],
        3 => vec![
            Way::Sql("concat('v', b)", |row| {
                Ok(Some(json!(format!("v{}", text(row, 1).unwrap_or_default()))))
            }),
            Way::Sql("upper(b)", |row| {
                Ok(text(row, 1).map(|text| json!(text.to_uppercase())))
            }),
            Way::Path("old.s"),
        ],
        _ => vec![
            Way::Sql("c", |row| narrow(integer(row, 2))),
            Way::Sql("c + a", |row| match (integer(row, 2), integer(row, 0)) {
                (Some(c), Some(a)) => narrow(Some(c.checked_add(a).ok_or(())?)),
                _ => Ok(None),
            }),
        ],
    }
}

fn narrow(number: Option<i64>) -> Result<Option<Value>, ()> {
    let number = number.map(|number| i32::try_from(number).map_err(drop));
    Ok(number.transpose()?.map(|number| json!(number)))
}

fn kind(column: usize) -> ColumnType {
    match column {
        0 | 2 => ColumnType::Int64,
        1 | 3 => ColumnType::String,
        _ => ColumnType::Int32,
    }
}

/// A version: its condition (a path to miss, or `b = 'x'`), and a way for some columns.
#[derive(Debug, Clone)]
struct Plan {
    base: [usize; 5],
    required: [bool; 5],
    versions: Vec<(Option<&'static str>, [Option<usize>; 5])>,
}

impl Plan {
    fn way(&self, version: Option<usize>, column: usize) -> Way {
        let over = version.and_then(|version| self.versions[version].1[column]);
        let ways = ways(column);
        ways[over.unwrap_or(self.base[column]) % ways.len()]
    }

    fn compile(&self) -> MapPlan {
        let value = |way| match way {
            Way::Path(path) => from(path),
            Way::Sql(text, _) => sql(text),
        };
        let columns = (0..5).map(|i| {
            let mut column = column(COLUMNS[i], kind(i), value(self.way(None, i)));
            column.required = self.required[i];
            column
        });
        let versions = (0..self.versions.len()).map(|v| -> Version {
            let (missed, over) = &self.versions[v];
            let when = missed.map_or_else(|| When::Sql("b = 'x'".to_owned()), missing);
            let over: Vec<(&str, ColumnValue)> = (0..5)
                .filter(|i| over[*i].is_some())
                .map(|i| (COLUMNS[i], value(self.way(Some(v), i))))
                .collect();
            version(&format!("v{v}"), when, &over)
        });
        MapPlan::new(&pipeline(columns.collect(), versions.collect())).unwrap()
    }

    /// What one record becomes: its values and its faults.
    fn judge(&self, record: &Value) -> (Row, Vec<(FaultKind, Option<String>)>) {
        if record.is_null() {
            return (vec![None; 5], vec![(FaultKind::Syntax, None)]);
        }
        let base = self.fill(record, None).0;
        let version = self.versions.iter().position(|(missed, _)| match missed {
            Some(path) => look(record, path).is_none(),
            None => text(&base, 1).as_deref() == Some("x"),
        });
        let (row, mut faults) = self.fill(record, version);
        for i in 0..5 {
            let name = Some(COLUMNS[i].to_owned());
            if self.required[i] && row[i].is_none() && faults.iter().all(|(_, column)| *column != name) {
                faults.push((FaultKind::Missing, name));
            }
        }
        (row, faults)
    }

    fn fill(&self, record: &Value, version: Option<usize>) -> (Row, Vec<(FaultKind, Option<String>)>) {
        let mut row: Row = vec![None; 5];
        let mut faults = Vec::new();
        for i in 0..5 {
            if let Way::Path(path) = self.way(version, i) {
                let value = look(record, path);
                let sound = |value: &&Value| {
                    if kind(i) == ColumnType::String {
                        value.is_string()
                    } else {
                        value.is_i64()
                    }
                };
                if value.is_some_and(|value| !sound(&value)) {
                    faults.push((FaultKind::WrongType, Some(COLUMNS[i].to_owned())));
                }
                row[i] = value.filter(sound).cloned();
            }
        }
        for i in 0..5 {
            if let Way::Sql(_, judge) = self.way(version, i) {
                match judge(&row) {
                    Ok(value) => row[i] = value,
                    Err(()) => faults.push((FaultKind::Conversion, Some(COLUMNS[i].to_owned()))),
                }
            }
        }
        (row, faults)
    }
}

fn look<'a>(record: &'a Value, path: &str) -> Option<&'a Value> {
    let value = path.split('.').try_fold(record, |value, key| value.get(key))?;
    (!value.is_null()).then_some(value)
}

fn plans() -> impl Strategy<Value = Plan> {
    let over = proptest::array::uniform5(proptest::option::of(0..6usize));
    let when = prop_oneof![Just(Some("old.n")), Just(Some("s")), Just(Some("id")), Just(None)];
    (
        proptest::array::uniform5(0..6usize),
        proptest::array::uniform5(proptest::bool::weighted(0.3)),
        proptest::collection::vec((when, over), 0..4),
    )
        .prop_map(|(base, required, versions)| Plan {
            base,
            required,
            versions,
        })
}

fn records() -> impl Strategy<Value = Vec<Value>> {
    let number = prop_oneof![
        4 => (-3i64..4).prop_map(|n| json!(n)),
        1 => Just(json!(3_000_000_000i64)),
        1 => Just(json!("wrong")),
        1 => Just(Value::Null),
    ];
    let text = prop_oneof![
        4 => prop_oneof![Just("x"), Just("7"), Just("-3"), Just("words"), Just("ß")].prop_map(|text| json!(text)),
        1 => Just(json!(5)),
        1 => Just(Value::Null),
    ];
    let sides = (number.clone(), text.clone(), number, text, proptest::bool::ANY);
    let record = sides.prop_map(|(n, s, old_n, old_s, has_id)| {
        let mut record = json!({"n": n, "s": s, "old": {"n": old_n, "s": old_s}});
        if has_id {
            record["id"] = json!("id");
        }
        record
    });
    let record = prop_oneof![9 => record, 1 => Just(Value::Null)];
    proptest::collection::vec(record, 0..60)
}

fn value_at(mapped: &RecordBatch, column: usize, row: usize) -> Option<Value> {
    let array = mapped.column(column);
    if array.is_null(row) {
        return None;
    }
    Some(if let Some(numbers) = array.as_primitive_opt::<Int64Type>() {
        json!(numbers.value(row))
    } else if let Some(numbers) = array.as_primitive_opt::<Int32Type>() {
        json!(numbers.value(row))
    } else {
        json!(array.as_string_view().value(row))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_batch_maps_as_its_records_would_one_by_one(plan in plans(), records in records()) {
        let compiled = plan.compile();
        let mapped = compiled.map_batch(&decode(&compiled, &records)).unwrap();
        prop_assert_eq!(mapped.num_rows(), records.len());
        let found_faults = faults(&mapped);
        for (row, record) in records.iter().enumerate() {
            let (values, mut expected) = plan.judge(record);
            let mut context = String::new();
            write!(context, "row {row} of {record}").unwrap();
            for (i, value) in values.iter().enumerate() {
                prop_assert_eq!(&value_at(&mapped, i, row), value, "{} column {}", context, COLUMNS[i]);
            }
            let key = |fault: &(FaultKind, Option<String>)| format!("{fault:?}");
            let mut found = found_faults[row].clone();
            found.sort_by_key(key);
            expected.sort_by_key(key);
            prop_assert_eq!(found, expected, "{}", context);
        }
    }
}
