//! Any bytes decode as CSV to rows with valid columns, in order of lines; and what quarantine would keep of a row
//! decodes by itself to the same row.
#![no_main]

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use libfuzzer_sys::fuzz_target;
use millrace_pipeline_fuzz::decode::{DecodePlan, Wanted, WantedKind, csv_file, csv_record};
use millrace_pipeline_fuzz::rows::{FAULTS, LINE, OFFSET, RAW};
use millrace_pipeline_fuzz::spec::model::ColumnType;

fn plan() -> DecodePlan {
    let wanted = |name: &str, path: &str, kind| Wanted {
        name: name.to_owned(),
        path: vec![path.to_owned()],
        kind,
    };
    let value = |name: &str, path: &str, kind| wanted(name, path, WantedKind::Value(kind));
    DecodePlan {
        fields: vec![
            value("text", "a", ColumnType::String),
            value("integer", "b", ColumnType::Int64),
            value("decimal", "b", ColumnType::Decimal(20, 5)),
            value("time", "c", ColumnType::Timestamp),
            value("json", "d", ColumnType::Json),
            value("list", "d", ColumnType::List(Box::new(ColumnType::Int32))),
            wanted("present", "c", WantedKind::Present),
        ],
        record_bytes_max: 512,
        depth_max: 20,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let plan = plan();
    // A header that has the wanted fields, unless the input brings its own.
    let file = match bytes.first() {
        Some(b'#') => bytes[1..].to_vec(),
        _ => [b"a,b,c,d\n", bytes].concat(),
    };
    let Ok(batches) = csv_file(&file, &plan) else {
        panic!("bad input is never an error");
    };
    let mut last = 0;
    for batch in &batches {
        for column in batch.columns() {
            assert!(column.to_data().validate_full().is_ok(), "every column is valid");
        }
        for row in 0..batch.num_rows() {
            let line = number(batch, LINE, row);
            assert!(line > last, "lines ascend");
            last = line;
            again(batch, row, line, &plan);
        }
    }
});

fn number(batch: &RecordBatch, name: &str, row: usize) -> u64 {
    batch[name].as_primitive::<UInt64Type>().value(row)
}

fn again(batch: &RecordBatch, row: usize, line: u64, plan: &DecodePlan) {
    let record = batch[RAW].as_binary_view().value(row);
    let Ok(decoded) = csv_record(record, line, number(batch, OFFSET, row), plan) else {
        panic!("a record is never an error");
    };
    let is_sound = batch[FAULTS].is_null(row);
    let Some(decoded) = decoded else {
        assert!(!is_sound, "a sound record is read again");
        return;
    };
    assert_eq!(decoded.num_rows(), 1, "a record is one row");
    assert_eq!(decoded[FAULTS].is_null(0), is_sound, "the verdict is the same");
    if is_sound {
        assert_eq!(decoded, batch.slice(row, 1), "the row is the same");
    }
}
