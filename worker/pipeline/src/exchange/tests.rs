//! Blocks against the rows that went in, as Arrow itself compares them; and damaged blocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array,
    ListArray, RecordBatch, StringArray, StringViewArray, TimestampMicrosecondArray, UInt32Array,
    UInt64Array, new_null_array,
};
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit, UInt64Type};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use millrace_proto::manifest::SplitCounts;
use proptest::prelude::*;

use super::exec::{PackExec, UnpackExec, bucket_names};
use super::pack::{Packer, note_block};
use super::unpack::Unpacker;
use crate::rows::{KEY_LOW, Note, event_schema, is_note};

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int32, true)));
    let table = Schema::new(vec![
        Field::new("text", DataType::Utf8View, true),
        Field::new("flag", DataType::Boolean, true),
        Field::new("count", DataType::Int32, true),
        Field::new("price", DataType::Float64, true),
        Field::new("amount", DataType::Decimal128(20, 2), true),
        Field::new("day", DataType::Date32, true),
        Field::new("time", time, true),
        Field::new("items", list, true),
    ]);
    event_schema(&table, true)
}

type Row = (
    Option<String>,
    Option<bool>,
    Option<i32>,
    Option<i128>,
    Option<Vec<Option<i32>>>,
    Option<u64>,
);

fn batch(rows: &[Row]) -> RecordBatch {
    let items = ListArray::from_iter_primitive::<Int32Type, _, _>(rows.iter().map(|row| row.4.clone()));
    let keys = UInt64Array::from_iter(rows.iter().map(|row| row.5));
    let count = Int32Array::from_iter(rows.iter().map(|row| row.2));
    let amounts = Decimal128Array::from_iter(rows.iter().map(|row| row.3));
    let price = Float64Array::from_iter(rows.iter().map(|row| row.2.map(|count| f64::from(count) / 7.0)));
    let times = TimestampMicrosecondArray::from_iter(rows.iter().map(|row| row.2.map(i64::from)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter(rows.iter().map(|row| row.0.clone()))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.1))),
        Arc::new(count),
        Arc::new(price),
        Arc::new(amounts.with_precision_and_scale(20, 2).unwrap()),
        Arc::new(Date32Array::from_iter(rows.iter().map(|row| row.2))),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(items),
        Arc::new(UInt32Array::from_iter_values((0u32..).take(rows.len()))),
        Arc::new(keys.clone()),
        Arc::new(keys),
        new_null_array(&DataType::Binary, rows.len()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn row() -> impl Strategy<Value = Row> {
    let text = prop::option::of(prop_oneof![
        "[a-zß\u{1F600}]{0,40}",
        "a common text, number [a-e]",
        Just(String::new())
    ]);
    let items = prop::option::of(prop::collection::vec(any::<Option<i32>>(), 0..4));
    let amount = prop::option::of(-(10i128.pow(20))..10i128.pow(20));
    (
        text,
        any::<Option<bool>>(),
        any::<Option<i32>>(),
        amount,
        items,
        any::<Option<u64>>(),
    )
}

/// Rows as text, by themselves: what a multiset is compared by.
fn printed(batches: &[RecordBatch]) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let shown = arrow::util::pretty::pretty_format_batches(&[batch.slice(row, 1)]).unwrap();
            *rows
                .entry(
                    shown
                        .to_string()
                        .lines()
                        .nth(3)
                        .unwrap()
                        .split_whitespace()
                        .collect(),
                )
                .or_default() += 1;
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_arrives_as_it_was_and_with_those_of_its_key(
        batches in prop::collection::vec(prop::collection::vec(row(), 0..40), 1..4), buckets in 1usize..9, cut in 0usize..3,
    ) {
        let batches: Vec<RecordBatch> = batches.iter().map(|rows| batch(rows)).collect();
        // Also rows that are a part of larger arrays.
        let batches: Vec<RecordBatch> =
            batches.iter().map(|batch| batch.slice(cut.min(batch.num_rows()), batch.num_rows().saturating_sub(cut))).collect();
        let mut packer = Packer::new(&schema(), buckets).unwrap();
        for batch in &batches {
            prop_assert!(packer.push(batch).unwrap().is_empty(), "no block is full yet");
        }
        let unpacker = Unpacker::new(schema());
        let mut homes = BTreeMap::new();
        let mut arrived = Vec::new();
        for block in packer.rest().unwrap() {
            let batch = unpacker.unpack(Buffer::from_vec(block.bytes)).unwrap();
            batch.column(0).to_data().validate_full().unwrap();
            let keys = batch.column_by_name(KEY_LOW).unwrap().as_primitive::<UInt64Type>();
            for key in keys.iter().flatten() {
                prop_assert_eq!(*homes.entry(key).or_insert(block.bucket), block.bucket);
            }
            arrived.push(batch);
        }
        prop_assert_eq!(printed(&arrived), printed(&batches));
        prop_assert!(packer.rest().unwrap().is_empty());
    }

    #[test]
    fn a_damaged_block_is_refused_or_read_within_its_bounds(rows in prop::collection::vec(row(), 1..20), at in any::<prop::sample::Index>(), to in any::<u8>(), end in any::<prop::sample::Index>()) {
        // Arrow's own streams, which the column of lists travels in, are Arrow's to check.
        let plain = batch(&rows);
        let plain = plain.project(&(0..plain.num_columns()).filter(|i| *i != 7).collect::<Vec<_>>()).unwrap();
        let mut packer = Packer::new(&plain.schema(), 1).unwrap();
        packer.push(&plain).unwrap();
        let block = packer.rest().unwrap().remove(0).bytes;
        let unpacker = Unpacker::new(plain.schema());
        let short = block[..end.index(block.len())].to_vec();
        let mut changed = block;
        let at = at.index(changed.len());
        changed[at] = to;
        for damaged in [short, changed] {
            if let Ok(batch) = unpacker.unpack(Buffer::from_vec(damaged)) {
                for column in batch.columns() {
                    column.to_data().validate_full().unwrap();
                }
            }
        }
    }
}

#[test]
fn a_block_may_lie_anywhere_in_memory() {
    let rows: Vec<Row> = (0..100)
        .map(|i| {
            (
                Some(format!("a text of number {i}")),
                Some(true),
                Some(i),
                Some(9),
                None,
                Some(7),
            )
        })
        .collect();
    let mut packer = Packer::new(&schema(), 1).unwrap();
    packer.push(&batch(&rows)).unwrap();
    let block = packer.rest().unwrap().remove(0).bytes;
    for shift in 0..17 {
        let mut moved = vec![0; shift];
        moved.extend(&block);
        let moved = Buffer::from_vec(moved).slice(shift);
        let arrived = Unpacker::new(schema()).unpack(moved).unwrap();
        assert_eq!(arrived, batch(&rows));
    }
}

#[test]
fn names_of_buckets_are_such_that_each_gets_a_task_of_its_own() {
    for buckets in [1, 2, 3, 16, 100] {
        let names = bucket_names(buckets).unwrap();
        assert_eq!(names.len(), buckets);
        assert_eq!(
            names.iter().collect::<std::collections::BTreeSet<_>>().len(),
            buckets
        );
    }
}

#[tokio::test]
async fn events_and_notes_pass_both_operators() {
    let rows: Vec<Row> = (0..30_000u64)
        .map(|i| {
            (
                Some(format!("event number {i}")),
                None,
                Some(5),
                None,
                None,
                Some(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            )
        })
        .collect();
    let counts = vec![SplitCounts {
        split: 3,
        read: 7,
        ..SplitCounts::default()
    }];
    let note = Note::Counts(counts).to_batch(&schema()).unwrap();
    let input: Vec<RecordBatch> = rows.chunks(5_000).map(batch).chain([note.clone()]).collect();
    let source = MemorySourceConfig::try_new_exec(std::slice::from_ref(&input), schema(), None).unwrap();
    let packed: Arc<dyn ExecutionPlan> = Arc::new(PackExec::new(source, bucket_names(3).unwrap()));
    let unpacked: Arc<dyn ExecutionPlan> = Arc::new(UnpackExec::new(Arc::clone(&packed), schema()));
    let context = SessionContext::new().task_ctx();
    let moved = collect(packed, Arc::clone(&context)).await.unwrap();
    assert!(
        moved.iter().map(RecordBatch::num_rows).sum::<usize>() < 10,
        "few rows for the engine"
    );
    let (notes, events): (Vec<_>, Vec<_>) = collect(unpacked, context)
        .await
        .unwrap()
        .into_iter()
        .partition(is_note);
    assert_eq!(concat_batches(&schema(), &notes).unwrap(), note);
    let texts = |batches: &[RecordBatch]| {
        let all = concat_batches(&schema(), batches).unwrap();
        let texts = arrow::compute::cast(all.column(0), &DataType::Utf8).unwrap();
        let mut texts: Vec<String> = texts
            .as_any()
            .downcast_ref::<StringArray>()
            .unwrap()
            .iter()
            .flatten()
            .map(str::to_owned)
            .collect();
        texts.sort();
        texts
    };
    assert_eq!(texts(&events), texts(&input[..input.len() - 1]));
}

#[test]
fn a_note_is_a_block_of_its_own() {
    let note = Note::Quality(vec![1, 2, 3]).to_batch(&schema()).unwrap();
    let block = note_block(&note).unwrap();
    let unpacker = Unpacker::new(schema());
    assert_eq!(unpacker.unpack(Buffer::from_vec(block.clone())).unwrap(), note);
    let other = Unpacker::new(event_schema(&Schema::empty(), true));
    let error = other.unpack(Buffer::from_vec(block)).unwrap_err();
    assert!(error.to_string().contains("a note of another schema"), "{error}");
}
