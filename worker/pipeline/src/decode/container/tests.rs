//! The operator over real files of each format.

use std::path::Path;

use ::parquet::arrow::ArrowWriter;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array,
    LargeBinaryArray, ListArray, RecordBatch, StringArray, StructArray, TimestampNanosecondArray,
};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int32Type, Int64Type, Schema, TimestampMicrosecondType, UInt64Type,
};
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use futures::TryStreamExt;
use rand::{Rng, SeedableRng};

use crate::decode::again::AgainExec;
use crate::decode::{Wanted, WantedKind};
use crate::rows::{self, Fault, FaultKind};
use crate::source::{cut, list, split_schema, splits_batch};
use crate::spec::model::{ColumnType, Source};

use super::*;

fn wanted(name: &str, path: &str, kind: ColumnType) -> Wanted {
    let path = path.split('.').map(str::to_owned).collect();
    Wanted {
        name: name.to_owned(),
        path,
        kind: WantedKind::Value(kind),
    }
}

fn plan(mut fields: Vec<Wanted>, record_bytes_max: u64) -> Arc<DecodePlan> {
    fields.push(Wanted {
        name: "has_login".into(),
        path: vec!["actor".into(), "login".into()],
        kind: WantedKind::Present,
    });
    Arc::new(DecodePlan {
        fields,
        record_bytes_max,
        depth_max: 10,
    })
}

async fn decode(
    file: &Path,
    format: Format,
    split_bytes: u64,
    plan: &Arc<DecodePlan>,
) -> Result<RecordBatch> {
    let source = Source::Files {
        path: file.to_str().unwrap().into(),
        format,
    };
    let objects = list(&Stores::default(), &source, &[]).await.unwrap();
    let rows = vec![vec![splits_batch(&cut(&objects, format, split_bytes)).unwrap()]];
    let input = MemorySourceConfig::try_new_exec(&rows, split_schema(), None).unwrap();
    let exec = ContainerExec::new(input, Arc::new(Stores::default()), Arc::clone(plan), format);
    let batches: Vec<_> = exec
        .execute(0, Arc::new(TaskContext::default()))?
        .try_collect()
        .await?;
    Ok(arrow::compute::concat_batches(&decoded_schema(plan), &batches)?)
}

fn faults(batch: &RecordBatch, row: usize) -> Vec<Fault> {
    let faults = batch.column_by_name(rows::FAULTS).unwrap().as_string_view();
    if faults.is_null(row) {
        Vec::new()
    } else {
        serde_json::from_str(faults.value(row)).unwrap()
    }
}

fn kinds(batch: &RecordBatch) -> Vec<Option<FaultKind>> {
    (0..batch.num_rows())
        .map(|row| faults(batch, row).first().map(|fault| fault.kind))
        .collect()
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    batch
        .column_by_name(name)
        .unwrap()
        .as_string_view()
        .iter()
        .map(|text| text.map(str::to_owned))
        .collect()
}

fn numbers(batch: &RecordBatch, name: &str) -> Vec<u64> {
    batch
        .column_by_name(name)
        .unwrap()
        .as_primitive::<UInt64Type>()
        .values()
        .to_vec()
}

fn raw(batch: &RecordBatch, row: usize) -> &[u8] {
    batch
        .column_by_name(rows::RAW)
        .unwrap()
        .as_binary_view()
        .value(row)
}

async fn csv(content: &[u8], plan: &Arc<DecodePlan>) -> RecordBatch {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.csv");
    std::fs::write(&file, content).unwrap();
    decode(&file, Format::Csv, 1, plan).await.unwrap()
}

#[tokio::test]
async fn a_csv_record_becomes_a_row_with_values_or_reasons() {
    let plan = plan(
        vec![
            wanted("id", "id", ColumnType::Int64),
            wanted("login", "actor.login", ColumnType::String),
            wanted("tags", "tags", ColumnType::List(Box::new(ColumnType::Int32))),
            wanted("absent", "absent", ColumnType::Date),
        ],
        1000,
    );
    let text = b"\xEF\xBB\xBFid,actor.login,tags\r\n1,ann,\"[1,2]\"\r\n\r\n2,\"\",\n3,,x\nfour,\"a \"\"b\"\"\nc\",[]\n5,two\n6,\xFF,\n7,z,[3]";
    let batch = csv(text, &plan).await;
    assert_eq!(
        kinds(&batch),
        [
            None,
            None,
            Some(FaultKind::WrongType),
            Some(FaultKind::WrongType),
            Some(FaultKind::Syntax),
            Some(FaultKind::Encoding),
            None
        ]
    );
    let ids = batch.column(0).as_primitive::<Int64Type>();
    assert_eq!(
        ids.iter().collect::<Vec<_>>(),
        [Some(1), Some(2), Some(3), None, None, None, Some(7)]
    );
    let logins: Vec<_> = texts(&batch, "login");
    let logins: Vec<_> = logins.iter().map(Option::as_deref).collect();
    assert_eq!(
        logins,
        [
            Some("ann"),
            Some(""),
            None,
            Some("a \"b\"\nc"),
            None,
            None,
            Some("z")
        ]
    );
    let present = batch.column_by_name("has_login").unwrap().as_boolean();
    assert_eq!(
        present.values().iter().collect::<Vec<_>>(),
        [true, true, false, true, false, false, true]
    );
    assert_eq!(numbers(&batch, rows::LINE), [2, 4, 5, 6, 8, 9, 10]);
    for row in 0..batch.num_rows() {
        let offset = numbers(&batch, rows::OFFSET)[row] as usize;
        let record = raw(&batch, row).strip_prefix(b"id,actor.login,tags\n").unwrap();
        assert!(text[offset..].starts_with(record), "row {row}");
    }
    assert_eq!(raw(&batch, 3), b"id,actor.login,tags\nfour,\"a \"\"b\"\"\nc\",[]");
    assert_eq!(
        faults(&batch, 4)[0].detail,
        "expected 3 fields as in the header, found 2"
    );
    assert_eq!(
        faults(&batch, 2)[0].detail,
        "expected list<int32>, found a text of 1 bytes that is none"
    );
    assert!(!faults(&batch, 3)[0].detail.contains("four"));
}

#[tokio::test]
async fn a_stray_quote_or_a_long_record_costs_its_line_and_no_other() {
    let plan = plan(vec![wanted("id", "id", ColumnType::Int64)], 20);
    let long = "9".repeat(3000);
    let text = format!("id,b\n1,\"x\"y\n2,b\n3,\"open\n4,b\n{long},b\n5,b\n6,\"open");
    let batch = csv(text.as_bytes(), &plan).await;
    let ids: Vec<_> = batch.column(0).as_primitive::<Int64Type>().iter().collect();
    assert_eq!(ids, [None, Some(2), None, Some(4), None, Some(5), None]);
    assert_eq!(
        kinds(&batch),
        [
            Some(FaultKind::Syntax),
            None,
            Some(FaultKind::Syntax),
            None,
            Some(FaultKind::TooLarge),
            None,
            Some(FaultKind::CutOff)
        ]
    );
    assert_eq!(numbers(&batch, rows::LINE), [2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn records_across_blocks_are_read_whole() {
    let plan = plan(
        vec![
            wanted("id", "id", ColumnType::Int64),
            wanted("t", "t", ColumnType::String),
        ],
        1 << 20,
    );
    let text: String = (0..30_000)
        .map(|n| format!("{n},\"{}\n{n}\"\n", "é".repeat(n % 60)))
        .collect();
    let batch = csv(format!("id,t\n{text}").as_bytes(), &plan).await;
    assert!(text.len() > 2 << 20);
    assert_eq!(batch.num_rows(), 30_000);
    let ids = batch.column(0).as_primitive::<Int64Type>();
    assert!(ids.values().iter().enumerate().all(|(n, id)| *id == n as i64));
    let expected = |n: usize| format!("{}\n{n}", "é".repeat(n % 60));
    assert!(
        batch
            .column(1)
            .as_string_view()
            .iter()
            .enumerate()
            .all(|(n, text)| text == Some(&expected(n)))
    );
}

/// Records with a nested one, a list, a time, a decimal, and a text.
fn events(count: usize) -> RecordBatch {
    let numbers: Vec<i64> = (0..count as i64).collect();
    let login: ArrayRef = Arc::new(
        numbers
            .iter()
            .map(|n| (n % 3 > 0).then(|| format!("u{n}")))
            .collect::<StringArray>(),
    );
    let age: ArrayRef = Arc::new(Float64Array::from_iter_values(
        numbers.iter().map(|n| *n as f64 / 2.0),
    ));
    let actor = StructArray::from(vec![
        (Arc::new(Field::new("login", DataType::Utf8, true)), login),
        (Arc::new(Field::new("age", DataType::Float64, false)), age),
    ]);
    let tags = ListArray::from_iter_primitive::<Int32Type, _, _>(
        numbers.iter().map(|n| Some(vec![Some(*n as i32), None])),
    );
    let time = TimestampNanosecondArray::from_iter_values(numbers.iter().map(|n| n * 1_000_000_000 + 999));
    let price = Decimal128Array::from_iter_values(numbers.iter().map(|n| i128::from(*n) * 10))
        .with_precision_and_scale(20, 3);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(numbers.clone()))),
        ("actor", Arc::new(actor)),
        ("tags", Arc::new(tags)),
        ("time", Arc::new(time.with_timezone("UTC"))),
        ("price", Arc::new(price.unwrap())),
        (
            "flag",
            Arc::new(BooleanArray::from_iter(numbers.iter().map(|n| Some(n % 2 == 0)))),
        ),
        (
            "small",
            Arc::new(Int32Array::from_iter_values(numbers.iter().map(|n| *n as i32))),
        ),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), *name == "actor"))
        .collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn event_plan() -> Arc<DecodePlan> {
    plan(
        vec![
            wanted("id", "id", ColumnType::Int64),
            wanted("login", "actor.login", ColumnType::String),
            wanted("age", "actor.age", ColumnType::Int32),
            wanted("actor", "actor", ColumnType::Json),
            wanted("tags", "tags", ColumnType::List(Box::new(ColumnType::Int64))),
            wanted("time", "time", ColumnType::Timestamp),
            wanted("price", "price", ColumnType::Decimal(10, 2)),
            wanted("small", "small", ColumnType::Int64),
            wanted("absent", "actor.absent", ColumnType::Bool),
        ],
        1 << 20,
    )
}

fn check_events(batch: &RecordBatch, count: usize) {
    assert_eq!(batch.num_rows(), count);
    let value = |name: &str| batch.column_by_name(name).unwrap();
    for row in 0..count {
        let n = row as i64;
        assert_eq!(value("id").as_primitive::<Int64Type>().value(row), n);
        assert_eq!(value("small").as_primitive::<Int64Type>().value(row), n);
        let login = (n % 3 > 0).then(|| format!("u{n}"));
        assert_eq!(value("has_login").as_boolean().value(row), login.is_some());
        let actor: serde_json::Value =
            serde_json::from_str(value("actor").as_string_view().value(row)).unwrap();
        assert_eq!(actor, serde_json::json!({"login": login, "age": n as f64 / 2.0}));
        assert_eq!(
            value("time")
                .as_primitive::<TimestampMicrosecondType>()
                .value(row),
            n * 1_000_000
        );
        assert_eq!(
            value("price").as_primitive::<Decimal128Type>().value(row),
            i128::from(n)
        );
        let tags = value("tags").as_list::<i32>().value(row);
        assert_eq!(
            tags.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(),
            [Some(n), None]
        );
        assert!(value("absent").is_null(row));
        // Half an age is no integer: a fault. The others have none.
        let faults = faults(batch, row);
        if n % 2 == 0 {
            assert!(faults.is_empty());
        } else {
            assert_eq!(
                (faults.len(), faults[0].kind, faults[0].column.as_deref()),
                (1, FaultKind::WrongType, Some("age"))
            );
        }
        let stored = stored::Block::read(raw(batch, row)).unwrap();
        let record = stored::readable(Format::Avro, stored.record(n as u64 + 1).unwrap());
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_eq!((&record["id"], &record["small"]), (&n.into(), &n.into()));
    }
    let expected: Vec<u64> = (1..=count as u64).collect();
    assert_eq!(numbers(batch, rows::LINE), expected);
    assert_eq!(numbers(batch, rows::OFFSET), expected);
}

#[tokio::test]
async fn every_cut_of_a_parquet_file_gives_each_record_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.parquet");
    let events = events(100);
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(7))
        .build();
    let mut writer = ArrowWriter::try_new(
        std::fs::File::create(&file).unwrap(),
        events.schema(),
        Some(properties),
    )
    .unwrap();
    writer.write(&events).unwrap();
    writer.close().unwrap();
    for split_bytes in [100, 1000, 1 << 20] {
        check_events(
            &decode(&file, Format::Parquet, split_bytes, &event_plan())
                .await
                .unwrap(),
            100,
        );
    }
}

#[tokio::test]
async fn an_avro_file_gives_its_records_with_their_logical_types() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.avro");
    let events = events(100);
    let mut writer = arrow_avro::writer::AvroWriter::new(
        std::fs::File::create(&file).unwrap(),
        events.schema().as_ref().clone(),
    )
    .unwrap();
    writer.write(&events).unwrap();
    writer.finish().unwrap();
    check_events(&decode(&file, Format::Avro, 1, &event_plan()).await.unwrap(), 100);
}

/// Decodes each row by itself, from what quarantine would keep of it: nothing may tell the two apart.
async fn check_again(batch: &RecordBatch, format: Format, plan: &Arc<DecodePlan>) {
    let lines = numbers(batch, rows::LINE);
    let record = |row: usize| match format {
        Format::Csv | Format::Json => raw(batch, row).to_vec(),
        Format::Avro | Format::Parquet => {
            let block = stored::Block::read(raw(batch, row)).unwrap();
            block.record(lines[row]).unwrap()
        }
    };
    let records = LargeBinaryArray::from_iter_values((0..batch.num_rows()).map(record));
    let chunk = RecordBatch::try_new(
        rows::chunk_schema(),
        vec![
            Arc::clone(batch.column_by_name(rows::SPLIT).unwrap()),
            Arc::clone(batch.column_by_name(rows::LINE).unwrap()),
            Arc::clone(batch.column_by_name(rows::OFFSET).unwrap()),
            Arc::new(records),
            rows::no_messages(batch.num_rows()),
        ],
    );
    let input = MemorySourceConfig::try_new_exec(&[vec![chunk.unwrap()]], rows::chunk_schema(), None);
    let exec = AgainExec::new(input.unwrap(), Arc::clone(plan), format);
    let again: Vec<_> = exec
        .execute(0, Arc::new(TaskContext::default()))
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let again = arrow::compute::concat_batches(&decoded_schema(plan), &again).unwrap();
    for field in decoded_schema(plan).fields().iter().map(|field| field.name()) {
        if field != rows::RAW {
            assert_eq!(
                batch.column_by_name(field),
                again.column_by_name(field),
                "{field}"
            );
        }
    }
}

#[tokio::test]
async fn a_record_decodes_by_itself_as_it_did_in_its_file() {
    let (folder, events) = (tempfile::tempdir().unwrap(), events(60));
    let file = folder.path().join("a.parquet");
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(&file).unwrap(), events.schema(), None).unwrap();
    writer.write(&events).unwrap();
    writer.close().unwrap();
    let parquet = decode(&file, Format::Parquet, 1 << 20, &event_plan()).await;
    check_again(&parquet.unwrap(), Format::Parquet, &event_plan()).await;
    let file = folder.path().join("a.avro");
    let schema = events.schema().as_ref().clone();
    let mut writer =
        arrow_avro::writer::AvroWriter::new(std::fs::File::create(&file).unwrap(), schema).unwrap();
    writer.write(&events).unwrap();
    writer.finish().unwrap();
    let avro = decode(&file, Format::Avro, 1, &event_plan()).await;
    check_again(&avro.unwrap(), Format::Avro, &event_plan()).await;
    let plan = plan(
        vec![
            wanted("id", "id", ColumnType::Int64),
            wanted("b", "b", ColumnType::String),
        ],
        1000,
    );
    let text = b"id,\"b\"\r\n1,\"x\"y\n2,\"two\nlines\"\n\nx,b\n5\n6,\xFF\n7,\n8,\"\"\n9,\"open";
    check_again(&csv(text, &plan).await, Format::Csv, &plan).await;
}

/// Its end is gone: what is left may look whole.
#[tokio::test]
async fn a_csv_record_that_was_cut_is_not_taken_for_whole() {
    let wanted = || vec![wanted("id", "id", ColumnType::Int64)];
    let batch = csv(
        format!("id,b\n1,{}\n", "9".repeat(100)).as_bytes(),
        &plan(wanted(), 50),
    )
    .await;
    assert_eq!(kinds(&batch), [Some(FaultKind::TooLarge)]);
    let longer = plan(wanted(), 1000);
    let from = origin::Place {
        split: 0,
        line: 2,
        offset: 5,
    };
    assert!(
        super::csv::decode_record(raw(&batch, 0), from, &longer)
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_file_that_is_not_of_its_format_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in [("a.avro", Format::Avro), ("a.parquet", Format::Parquet)] {
        let file = folder.path().join(name);
        for content in [
            "x".to_owned(),
            "PAR1 and more text that is none PAR1".to_owned(),
            "Obj\u{1}".repeat(50),
        ] {
            std::fs::write(&file, content).unwrap();
            let error = decode(&file, format, 1 << 20, &event_plan())
                .await
                .unwrap_err()
                .to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}

/// Bytes changed at random, by a seed: rows or an error that names the file, and no panic.
#[tokio::test]
async fn damaged_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let events = events(50);
    let mut avro = arrow_avro::writer::AvroWriter::new(Vec::new(), events.schema().as_ref().clone()).unwrap();
    avro.write(&events).unwrap();
    avro.finish().unwrap();
    let mut parquet = ArrowWriter::try_new(Vec::new(), events.schema(), None).unwrap();
    parquet.write(&events).unwrap();
    for (name, format, sound) in [
        ("a.avro", Format::Avro, avro.into_inner()),
        ("a.parquet", Format::Parquet, parquet.into_inner().unwrap()),
    ] {
        for seed in 0..300 {
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let mut bytes = sound.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            let file = folder.path().join(format!("{seed}-{name}"));
            std::fs::write(&file, &bytes).unwrap();
            if let Err(error) = decode(&file, format, 1 << 20, &event_plan()).await {
                let text = error.to_string();
                assert!(text.contains(name), "seed {seed}: {error:?}");
                assert!(!format!("{error:?}").contains("panic"), "seed {seed}: {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_column_of_another_type_is_a_fault_in_each_of_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.parquet");
    let events = events(3);
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(&file).unwrap(), events.schema(), None).unwrap();
    writer.write(&events).unwrap();
    writer.close().unwrap();
    let plan = plan(
        vec![
            wanted("flag", "flag", ColumnType::Int64),
            wanted("id", "id", ColumnType::Int64),
        ],
        1000,
    );
    let batch = decode(&file, Format::Parquet, 1 << 20, &plan).await.unwrap();
    assert_eq!(kinds(&batch), [Some(FaultKind::WrongType); 3]);
    assert_eq!(batch.column(0).null_count(), 3);
    assert_eq!(batch.column(1).null_count(), 0);
}
