//! A sound Avro file with changed bytes decodes to valid columns or is an error that names it; and what quarantine
//! would keep of a row decodes by itself to the same row.
//!
//! In: edits of three bytes each, a place and a value. The reader of the format is not ours and may panic on damage,
//! which the pipeline makes the file's error: only a panic of our own code counts.
#![no_main]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, UInt64Type};
use libfuzzer_sys::fuzz_target;
use millrace_pipeline_fuzz::decode::{DecodePlan, Wanted, WantedKind, avro_file, stored_record};
use millrace_pipeline_fuzz::rows::{LINE, RAW};
use millrace_pipeline_fuzz::spec::model::ColumnType;

static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let login: ArrayRef = Arc::new(StringArray::from(vec![Some("ann"), None, Some("bob")]));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, -2, i64::MAX]))),
        ("price", Arc::new(Float64Array::from(vec![0.5, f64::NAN, 2.0]))),
        ("login", Arc::clone(&login)),
        ("tags", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>((0..3).map(|n| Some(vec![Some(n), None]))))),
        ("actor", Arc::new(StructArray::from(vec![(Arc::new(Field::new("login", DataType::Utf8, true)), login)]))),
    ];
    let field = |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), *name == "login");
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap();
    let mut writer = arrow_avro::writer::AvroWriter::new(Vec::new(), schema).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner()
});

/// Ends the process where our own code panics, and only there.
static HOOK: LazyLock<()> = LazyLock::new(|| {
    std::panic::set_hook(Box::new(|panic| {
        if panic.location().is_some_and(|place| !place.file().contains(".cargo/registry")) {
            eprintln!("{panic}");
            std::process::abort();
        }
    }));
});

fn plan() -> DecodePlan {
    let wanted = |name: &str, path: &str, kind| Wanted {
        name: name.to_owned(),
        path: path.split('.').map(str::to_owned).collect(),
        kind: WantedKind::Value(kind),
    };
    let list = ColumnType::List(Box::new(ColumnType::Int64));
    DecodePlan {
        fields: vec![
            wanted("id", "id", ColumnType::Int32),
            wanted("time", "id", ColumnType::Timestamp),
            wanted("price", "price", ColumnType::Decimal(10, 2)),
            wanted("login", "actor.login", ColumnType::String),
            wanted("tags", "tags", list),
            wanted("actor", "actor", ColumnType::Json),
        ],
        record_bytes_max: 4096,
        depth_max: 20,
    }
}

fuzz_target!(|edits: &[u8]| {
    LazyLock::force(&HOOK);
    let mut file = SOUND.clone();
    for edit in edits.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % file.len();
        file[place] = edit[2];
    }
    let plan = plan();
    let Ok(Ok(batches)) = catch_unwind(AssertUnwindSafe(|| avro_file(&file, &plan))) else {
        return;
    };
    for batch in &batches {
        for column in batch.columns() {
            assert!(column.to_data().validate_full().is_ok(), "every column is valid");
        }
        for row in 0..batch.num_rows().min(8) {
            let number = batch[LINE].as_primitive::<UInt64Type>().value(row);
            let again = stored_record(batch[RAW].as_binary_view().value(row), number, &plan);
            let again = again.expect("a stored record is read again");
            for column in 0..plan.fields.len() {
                let wanted = batch.column(column).slice(row, 1);
                assert_eq!(&wanted, again.column(column), "the row is the same");
            }
        }
    }
});
