//! Lookups against a naive map, snapshots against changed ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Decimal128Array, Int64Array, StringArray, StringViewArray,
};
use arrow::datatypes::{Decimal128Type, Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use millrace_proto::keys;
use millrace_proto::manifest::{Snapshot, WrittenObject};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::*;
use crate::spec::model::Secret;

fn shape(kinds: &[ColumnType]) -> Shape {
    let column = |(i, kind): (usize, &ColumnType)| ShapeColumn {
        ours: format!("ours{i}"),
        theirs: format!("theirs{i}"),
        kind: kind.clone(),
    };
    Shape {
        table: "customers".to_owned(),
        columns: kinds.iter().enumerate().map(column).collect(),
    }
}

fn texts(columns: &[Vec<Option<&str>>]) -> Vec<StringArray> {
    columns
        .iter()
        .map(|column| StringArray::from(column.clone()))
        .collect()
}

fn two(rows: &[(Option<&str>, Option<&str>)]) -> Vec<StringArray> {
    let (keys, values) = rows.iter().copied().unzip();
    texts(&[keys, values])
}

fn sealer(secret: &str) -> Sealer {
    Sealer::new(&Secret::new(secret.to_owned()))
}

proptest! {
    #[test]
    fn every_key_finds_what_a_map_of_the_table_holds(
        table in proptest::collection::btree_map(-40i64..40, proptest::option::of("[a-c]{0,14}"), 0..40),
        asked in proptest::collection::vec(proptest::option::of(-60i64..60), 0..80),
        kind in 0..4usize,
    ) {
        let kinds = [ColumnType::Int64, ColumnType::String, ColumnType::Decimal(12, 2), ColumnType::Date];
        let as_text = |key: i64| match kind {
            1 => format!("customer number {key}"),
            2 => format!("{key}.50"),
            3 => format!("2026-{:02}-{:02}", 1 + (key + 60) / 28, 1 + (key + 60) % 28),
            _ => key.to_string(),
        };
        let asked_texts: Vec<Option<String>> = asked.iter().map(|key| key.map(as_text)).collect();
        let rows = table.iter().map(|(key, value)| (as_text(*key), value.clone()));
        let known: BTreeMap<String, Option<String>> = rows.clone().collect();
        let (keys, values): (Vec<String>, Vec<Option<String>>) = rows.rev().unzip();
        let columns = vec![StringArray::from(keys), StringArray::from(values)];
        let snapshot = convert(&shape(&[kinds[kind].clone(), ColumnType::String]), columns).unwrap();
        let lookup = LookupTable::new(&snapshot).unwrap();

        let texts: ArrayRef = Arc::new(StringArray::from(asked_texts.clone()));
        let keys = arrow::compute::cast(&texts, &kinds[kind].arrow()).unwrap();
        let found = lookup.find(&keys).unwrap();
        let values = lookup.values(0, &found).unwrap().unwrap();
        prop_assert_eq!(values.len(), asked.len());
        let mut unmatched = 0;
        for (row, key) in asked_texts.iter().enumerate() {
            let expected = key.as_ref().and_then(|key| known.get(key));
            unmatched += u64::from(key.is_some() && expected.is_none());
            let value = values.is_valid(row).then(|| values.as_string_view().value(row).to_owned());
            prop_assert_eq!(value, expected.cloned().flatten(), "{:?}", key);
        }
        prop_assert_eq!(found.unmatched, unmatched);
    }
}

#[test]
fn text_becomes_the_declared_types_as_postgresql_writes_them() {
    let kinds = [
        ColumnType::Int64,
        ColumnType::Bool,
        ColumnType::Int32,
        ColumnType::Float64,
        ColumnType::Decimal(12, 2),
        ColumnType::Date,
        ColumnType::Timestamp,
        ColumnType::Json,
    ];
    let one = |text| vec![Some(text), None];
    let columns = [
        vec![Some("7"), Some("8")],
        one("true"),
        one("-3"),
        one("0.1"),
        one("1234567.89"),
        one("2026-01-02"),
        one("2026-01-02 03:04:05.000006+00"),
        one("{\"a\": [1]}"),
    ];
    let rows = convert(&shape(&kinds), texts(&columns)).unwrap();
    assert!((1..8).all(|column| rows.column(column).is_null(1)));
    assert!(rows.column(1).as_boolean().value(0));
    assert_eq!(rows.column(2).as_primitive::<Int32Type>().value(0), -3);
    let decimal = rows.column(4).as_primitive::<Decimal128Type>();
    assert_eq!(decimal.value(0), 123_456_789);
    let time = rows.column(6).as_primitive::<TimestampMicrosecondType>();
    assert_eq!(time.value(0), 1_767_323_045_000_006);
    assert_eq!(rows.column(7).as_string_view().value(0), "{\"a\": [1]}");
}

#[test]
fn values_of_another_type_are_refused_by_column_and_never_shown() {
    let cases = [
        (ColumnType::Int32, "gold"),
        (ColumnType::Date, "tomorrow"),
        (ColumnType::Json, "{gold"),
        (ColumnType::Bool, "perhaps"),
    ];
    for (kind, wrong) in cases {
        let rows = [
            (Some("1"), Some(wrong)),
            (Some("2"), None),
            (Some("3"), Some(wrong)),
        ];
        let fault = convert(&shape(&[ColumnType::Int64, kind.clone()]), two(&rows)).unwrap_err();
        let said = fault.to_string();
        assert!(said.contains("2 values of `theirs1`"), "{said}");
        assert!(
            said.contains(&type_name(&kind)) && said.contains("`ours1`"),
            "{said}"
        );
        assert!(!format!("{fault:?} {said}").contains(wrong), "{said}");
    }
}

#[test]
fn a_key_in_several_rows_is_refused_by_column_and_null_keys_are_left_out() {
    let shape = shape(&[ColumnType::String, ColumnType::String]);
    let rows = [
        (Some("ada"), Some("x")),
        (None, Some("nobody")),
        (Some("bob"), Some("y")),
        (None, Some("nobody")),
    ];
    assert_eq!(convert(&shape, two(&rows)).unwrap().num_rows(), 2);
    let rows = [
        (Some("ada"), Some("x")),
        (Some("bob"), None),
        (Some("ada"), Some("x")),
    ];
    let said = convert(&shape, two(&rows)).unwrap_err().to_string();
    assert!(
        said.contains("1 values of `theirs0` stand in several rows, 2 in all"),
        "{said}"
    );
    assert!(!said.contains("ada"), "{said}");
}

#[test]
fn the_same_rows_in_any_order_are_the_same_version_and_other_rows_are_another() {
    let shape = shape(&[ColumnType::Int64, ColumnType::String]);
    let rows = [(Some("2"), Some("b")), (Some("1"), Some("a")), (Some("3"), None)];
    let version = |rows: &[(Option<&str>, Option<&str>)], sealer: Option<&Sealer>| {
        encode(&convert(&shape, two(rows)).unwrap(), sealer)
            .unwrap()
            .version
    };
    let mut turned = rows;
    turned.reverse();
    let mut other = rows;
    other[1].1 = Some("A");
    for sealer in [None, Some(&sealer("one"))] {
        assert_eq!(version(&rows, sealer), version(&turned, sealer));
        assert_ne!(version(&rows, sealer), version(&other, sealer));
    }
    assert_ne!(version(&rows, None), version(&rows, Some(&sealer("one"))));
    assert_ne!(
        version(&rows, Some(&sealer("one"))),
        version(&rows, Some(&sealer("other")))
    );
    assert_ne!(shape.digest(None), shape.digest(Some(&sealer("one"))));
}

#[test]
fn a_sealed_snapshot_gives_nothing_away_and_opens_only_whole_with_its_secret() {
    let shape = shape(&[ColumnType::String, ColumnType::String]);
    let rows = convert(&shape, two(&[(Some("ada@example.com"), Some("gold"))])).unwrap();
    let (one, other) = (sealer("one"), sealer("other"));
    let made = encode(&rows, Some(&one)).unwrap();
    let clear = encode(&rows, None).unwrap();
    let holds = |bytes: &[u8]| bytes.windows(15).any(|window| window == b"ada@example.com");
    assert!(holds(&clear.bytes) && !holds(&made.bytes));
    let open = |bytes: Vec<u8>, version: &str, sealer| decode("k", Bytes::from(bytes), version, sealer);
    assert_eq!(open(made.bytes.clone(), &made.version, Some(&one)).unwrap(), rows);
    let refused = open(made.bytes.clone(), &made.version, Some(&other));
    assert!(matches!(refused, Err(EnrichError::Sealed { .. })));
    // Sound, and not what the batch names.
    let stranger = encode(&rows.slice(0, 0), Some(&one)).unwrap();
    let refused = open(stranger.bytes, &made.version, Some(&one));
    assert!(matches!(refused, Err(EnrichError::Changed { .. })));
    let mut cut = clear.bytes.clone();
    cut.truncate(cut.len() - 9);
    assert!(open(cut, &clear.version, None).is_err());
}

/// Customers 1 and 2 in a store, and the snapshot that names them.
async fn stored(store: &InMemory, sealer: Option<&Sealer>) -> (Pipeline, Snapshot) {
    let pipeline = crate::map::made_up::looked_up();
    let shape = Shape::of(&pipeline, 0).unwrap();
    let rows = convert(&shape, two(&[(Some("1"), Some("gold")), (Some("2"), None)])).unwrap();
    let made = encode(&rows, sealer).unwrap();
    let key = keys::snapshot("customers", &made.version, 0, sealer.is_some());
    store
        .put(&Path::from(key.as_str()), made.bytes.into())
        .await
        .unwrap();
    let object = WrittenObject {
        key,
        bytes: 0,
        rows: made.rows,
        digest: String::new(),
    };
    let snapshot = Snapshot {
        lookup: "customers".to_owned(),
        object,
        version: made.version,
        shape: shape.digest(sealer),
        taken_us: 0,
    };
    (pipeline, snapshot)
}

#[tokio::test]
async fn a_process_fetches_a_snapshot_once_and_one_that_does_not_fit_is_named() {
    for sealer in [None, Some(sealer("one"))] {
        let store = Arc::new(InMemory::new());
        let (pipeline, snapshot) = stored(&store, sealer.as_ref()).await;
        let cache = Arc::new(SnapshotCache::default());
        let lookups = |snapshots: &[Snapshot], sealer: Option<&Sealer>| {
            let place = (Arc::clone(&store) as Arc<dyn ObjectStore>, Path::default());
            Lookups::new(&pipeline, sealer, place, snapshots, Arc::clone(&cache))
        };
        let fitting = lookups(std::slice::from_ref(&snapshot), sealer.as_ref());
        let (one, other) = tokio::join!(fitting.tables(), fitting.tables());
        assert!(Arc::ptr_eq(&one.unwrap()[0], &other.unwrap()[0]));
        store
            .delete(&Path::from(snapshot.object.key.as_str()))
            .await
            .unwrap();
        let kept = fitting.tables().await.unwrap();
        let found = kept[0]
            .find(&(Arc::new(Int64Array::from(vec![2, 3])) as ArrayRef))
            .unwrap();
        assert_eq!((found.unmatched, found.rows.null_count()), (1, 1));

        let other = Snapshot {
            shape: "another".to_owned(),
            ..snapshot.clone()
        };
        let error = lookups(&[other], sealer.as_ref()).tables().await.unwrap_err();
        assert!(
            error.to_string().contains("`customers`") && !error.is_retryable(),
            "{error}"
        );
        let secret = Sealer::new(&Secret::new("another".to_owned()));
        let with_another_secret = lookups(std::slice::from_ref(&snapshot), Some(&secret));
        assert!(with_another_secret.tables().await.is_err());
    }
}

#[test]
fn keys_of_another_type_than_the_snapshots_are_refused_and_an_empty_table_finds_nothing() {
    let shape = shape(&[ColumnType::Int64, ColumnType::String]);
    let empty = LookupTable::new(&convert(&shape, two(&[])).unwrap()).unwrap();
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let found = empty.find(&keys).unwrap();
    assert_eq!(found.unmatched, 1);
    assert_eq!(empty.values(0, &found).unwrap().unwrap().null_count(), 2);
    assert!(empty.values(1, &found).unwrap().is_none());
    let texts: ArrayRef = Arc::new(StringViewArray::from(vec!["1"]));
    assert!(matches!(empty.find(&texts), Err(EnrichError::KeyType { .. })));
    let wide: ArrayRef = Arc::new(Decimal128Array::from(vec![1]));
    assert!(empty.find(&wide).is_err());
    let days: ArrayRef = Arc::new(Date32Array::from(vec![1]));
    assert_eq!(empty.find(&days).unwrap().unmatched, 1);
    assert_eq!(keys.as_primitive::<Int64Type>().len(), 2);
}
