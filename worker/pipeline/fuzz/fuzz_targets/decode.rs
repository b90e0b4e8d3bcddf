//! Any bytes decode to one row a line, valid columns, and the oracle's verdict on each line.
#![no_main]

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::buffer::Buffer;
use libfuzzer_sys::fuzz_target;
use millrace_pipeline_fuzz::decode::json::Decoder;
use millrace_pipeline_fuzz::decode::{DecodePlan, Wanted, WantedKind};
use millrace_pipeline_fuzz::rows::FAULTS;
use millrace_pipeline_fuzz::spec::model::ColumnType;

fn plan() -> DecodePlan {
    let wanted = |name: &str, path: &str, kind| Wanted {
        name: name.to_owned(),
        path: path.split('.').map(str::to_owned).collect(),
        kind,
    };
    let value = |name: &str, path: &str, kind| wanted(name, path, WantedKind::Value(kind));
    let list = |item| ColumnType::List(Box::new(item));
    DecodePlan {
        fields: vec![
            value("text", "a", ColumnType::String),
            value("integer", "a", ColumnType::Int64),
            value("float", "b", ColumnType::Float64),
            value("decimal", "b", ColumnType::Decimal(20, 5)),
            value("time", "c", ColumnType::Timestamp),
            value("day", "c", ColumnType::Date),
            value("json", "d", ColumnType::Json),
            value("nested", "d.a", ColumnType::Bool),
            value("list", "e", list(list(ColumnType::String))),
            wanted("present", "e", WantedKind::Present),
        ],
        record_bytes_max: 4096,
        depth_max: 100,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut batches = Vec::new();
    let payload = Buffer::from_vec(bytes.to_vec());
    let decoded = Decoder::new(Arc::new(plan())).decode(&payload, 0, 1, 0, &mut batches);
    assert!(decoded.is_ok(), "bad input is never an error");
    let mut lines = bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.iter().all(|byte| b" \t\r".contains(byte)));
    for batch in &batches {
        for column in batch.columns() {
            assert!(column.to_data().validate_full().is_ok(), "every column is valid");
        }
        let faults = batch.column_by_name(FAULTS).map(|column| column.as_string_view());
        for row in 0..batch.num_rows() {
            let line = lines.next().unwrap_or_default();
            let reasons = faults
                .filter(|faults| faults.is_valid(row))
                .map_or("", |faults| faults.value(row));
            let is_refused = ["cut_off", "encoding", "syntax", "too_large", "too_deep"]
                .iter()
                .any(|kind| reasons.contains(&format!("\"kind\":\"{kind}\"")));
            judge(line, is_refused);
        }
    }
    assert!(lines.next().is_none(), "a line has no row");
});

/// The verdict must be the oracle's, limits aside.
fn judge(line: &[u8], is_refused: bool) {
    match serde_json::from_slice::<serde_json::Value>(line) {
        Ok(record) if record.is_object() => {
            let may_be_refused =
                line.len() > 4096 || line.iter().filter(|byte| b"[{".contains(byte)).count() > 100;
            assert!(!is_refused || may_be_refused, "a sound record is refused");
        }
        Err(error) if error.to_string().contains("number out of range") => {}
        Err(error) if error.to_string().contains("recursion limit") => {}
        Ok(_) | Err(_) => assert!(is_refused, "a broken record is accepted"),
    }
}
