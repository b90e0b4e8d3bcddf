//! What masking promises, stated over whole policies.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, ListArray, StringViewArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
use proptest::prelude::*;

use super::{Policy, PrivacyError};
use crate::spec::model::{
    Column, ColumnType, ColumnValue, Format, HandoffUnit, Lake, Limits, Partition, PartitionLevel, PiiClass,
    Pipeline, Privacy, Retention, Secret, Source, Strategy as Masking,
};

/// A pipeline of the given columns; only what masking reads matters.
pub(super) fn pipeline(columns: &[(ColumnType, Option<PiiClass>)], privacy: Privacy) -> Pipeline {
    let columns = columns.iter().enumerate().map(|(i, (kind, pii))| Column {
        name: format!("c{i}"),
        kind: kind.clone(),
        value: ColumnValue::From(vec![format!("c{i}")]),
        required: false,
        pii: *pii,
        description: None,
    });
    Pipeline {
        name: "p".to_owned().try_into().unwrap(),
        source: Source::Files {
            path: "/in".into(),
            format: Format::Json,
        },
        columns: columns.collect(),
        versions: Vec::new(),
        enrich: Vec::new(),
        quality: None,
        dedup: None,
        privacy,
        partition: Partition {
            time: "c0".into(),
            by: vec![PartitionLevel::Date],
            source: None,
            lateness_seconds: 0,
        },
        lake: Lake {
            url: "file:///lake".into(),
            endpoint: None,
            region: None,
            file_bytes: 1,
            compression: crate::spec::model::Compression::None,
        },
        warehouse: None,
        handoff: HandoffUnit::Batch,
        retention: Retention::default(),
        limits: Limits::default(),
        marts: Vec::new(),
        digest: String::new(),
    }
}

fn privacy(secret: &str, strategies: &[(PiiClass, Masking)]) -> Privacy {
    Privacy {
        clear_in: vec!["prod".into()],
        hash_key: Some(Secret::new(secret.into())),
        strategies: strategies.iter().copied().collect::<BTreeMap<_, _>>(),
    }
}

/// The policy of one column, outside a clear environment.
fn policy(secret: &str, kind: ColumnType, class: PiiClass, strategy: Masking) -> Policy {
    let pipeline = pipeline(&[(kind, Some(class))], privacy(secret, &[(class, strategy)]));
    Policy::new(&pipeline, None).unwrap()
}

fn texts<T: AsRef<str>>(values: &[Option<T>]) -> ArrayRef {
    Arc::new(StringViewArray::from_iter(values.iter().map(Option::as_ref)))
}

fn masked_text(policy: &Policy, values: &[Option<&str>]) -> Vec<Option<String>> {
    let masked = policy.mask_values(0, &texts(values)).unwrap();
    masked.to_data().validate_full().unwrap();
    let masked = masked.as_string_view();
    masked.iter().map(|value| value.map(str::to_owned)).collect()
}

fn one(policy: &Policy, value: &str) -> String {
    masked_text(policy, &[Some(value)]).pop().flatten().unwrap()
}

fn any_class() -> impl proptest::strategy::Strategy<Value = PiiClass> {
    prop::sample::select(vec![
        PiiClass::Email,
        PiiClass::Name,
        PiiClass::Ip,
        PiiClass::Phone,
        PiiClass::Id,
        PiiClass::FreeText,
    ])
}

fn any_masking() -> impl proptest::strategy::Strategy<Value = Masking> {
    prop::sample::select(vec![
        Masking::Hash,
        Masking::HashKeepDomain,
        Masking::Truncate,
        Masking::Redact,
    ])
}

/// Texts of every kind that the strategies tell apart, and anything else.
fn any_value() -> impl proptest::strategy::Strategy<Value = String> {
    prop_oneof![
        "[A-Za-z.]{1,20}@[a-z]{1,10}\\.(com|ORG|io)",
        "[a-z ]{0,5}@[a-z @.]{0,20}",
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|ip| ip.to_string()),
        "[0-9]{1,4}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{0,3}",
        ".{0,40}",
    ]
}

proptest! {
    #[test]
    fn masking_keeps_type_length_and_nulls_and_maps_equal_to_equal(
        class in any_class(), masking in any_masking(),
        values in proptest::collection::vec(proptest::option::of(any_value()), 0..60),
        repeats in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let mut values = values;
        for repeat in &repeats {
            if !values.is_empty() {
                values.push(repeat.get(&values).clone());
            }
        }
        let policy = policy("k", ColumnType::String, class, masking);
        let masked = policy.mask_values(0, &texts(&values)).unwrap();
        prop_assert_eq!(masked.data_type(), &DataType::Utf8View);
        masked.to_data().validate_full().unwrap();
        let masked = masked.as_string_view();
        prop_assert_eq!(masked.len(), values.len());
        let mut known = BTreeMap::new();
        for (value, masked) in values.iter().zip(masked) {
            prop_assert_eq!(value.is_none(), masked.is_none());
            if let (Some(value), Some(masked)) = (value, masked) {
                prop_assert_eq!(*known.entry(value.clone()).or_insert(masked), masked);
            }
        }
    }

    /// What may be seen of a value: nothing, its domain, its network.
    #[test]
    fn nothing_clear_survives(class in any_class(), masking in any_masking(), value in any_value()) {
        let masked = one(&policy("k", ColumnType::String, class, masking), &value);
        match masking {
            Masking::Keep => unreachable!(),
            Masking::Redact => prop_assert_eq!(masked, "[redacted]"),
            Masking::Hash => prop_assert!(is_hex(&masked, 32), "{}", masked),
            Masking::HashKeepDomain => match masked.split_once('@') {
                None => prop_assert!(is_hex(&masked, 32), "{}", masked),
                Some((local, domain)) => {
                    prop_assert!(is_hex(local, 16), "{}", masked);
                    let kept = format!("@{domain}");
                    prop_assert!(value.to_ascii_lowercase().ends_with(&kept));
                    prop_assert!(!domain.contains(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-'));
                    prop_assert!(domain.contains('.'));
                }
            },
            Masking::Truncate => prop_assert_eq!(masked, network(&value)),
        }
    }

    #[test]
    fn another_secret_gives_other_hashes(value in any_value(), class in any_class()) {
        let hash = |secret| one(&policy(secret, ColumnType::String, class, Masking::Hash), &value);
        prop_assert_ne!(hash("one"), hash("other"));
    }

    #[test]
    fn numbers_become_keyed_numbers_that_are_not_negative(values in proptest::collection::vec(proptest::option::of(any::<i32>()), 0..50)) {
        let narrow = policy("k", ColumnType::Int32, PiiClass::Id, Masking::Hash);
        let wide = policy("k", ColumnType::Int64, PiiClass::Id, Masking::Hash);
        let narrow = narrow.mask_values(0, &(Arc::new(Int32Array::from(values.clone())) as ArrayRef)).unwrap();
        let longs: Int64Array = values.iter().map(|value| value.map(i64::from)).collect();
        let wide = wide.mask_values(0, &(Arc::new(longs) as ArrayRef)).unwrap();
        for (i, value) in values.iter().enumerate() {
            prop_assert_eq!(narrow.is_null(i), value.is_none());
            prop_assert_eq!(wide.is_null(i), value.is_none());
        }
        prop_assert!(narrow.as_primitive::<Int32Type>().iter().flatten().all(|masked| masked >= 0));
        prop_assert!(wide.as_primitive::<Int64Type>().iter().flatten().all(|masked| masked >= 0));
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The network by the standard library's own parsers.
fn network(value: &str) -> String {
    match value.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0")
        }
        Ok(IpAddr::V6(address)) => {
            let mask = u128::MAX << 80;
            std::net::Ipv6Addr::from_bits(address.to_bits() & mask).to_string()
        }
        Err(_) => "[redacted]".to_owned(),
    }
}

#[test]
fn an_address_keeps_its_network_only() {
    let policy = policy("k", ColumnType::String, PiiClass::Ip, Masking::Truncate);
    for (clear, masked) in [
        ("192.168.100.254", "192.168.100.0"),
        ("8.8.8.8", "8.8.8.0"),
        ("2001:db8:85a3::8a2e:370:7334", "2001:db8:85a3::"),
        ("::ffff:10.1.2.3", "10.1.2.0"),
        ("::1", "::"),
        ("256.1.1.1", "[redacted]"),
        ("1.2.3", "[redacted]"),
        ("1.2.3.4.5", "[redacted]"),
        ("01.2.3.4", "[redacted]"),
        ("1.2.3.4 ", "[redacted]"),
        ("10.0.0.1:443", "[redacted]"),
        ("", "[redacted]"),
    ] {
        assert_eq!(one(&policy, clear), masked, "{clear}");
    }
}

#[test]
fn an_email_keeps_its_domain_only_where_it_is_one() {
    let policy = policy("k", ColumnType::String, PiiClass::Email, Masking::HashKeepDomain);
    let masked = one(&policy, "Ada.Lovelace@Example.COM");
    assert!(
        masked.ends_with("@example.com") && is_hex(&masked[..16], 16),
        "{masked}"
    );
    assert_eq!(masked, one(&policy, "Ada.Lovelace@example.com"));
    assert_ne!(masked[..16], one(&policy, "Ada.Lovelace@example.org")[..16]);
    for clear in [
        "ada",
        "@ada",
        "ada@",
        "ada@lovelace",
        "ada@a..b",
        "ada@.b",
        "ada@b.",
        "ada@+49.123",
        "ada@1.234",
        "write to ada@example.com or ring 1234",
        "ada@exämple.com",
    ] {
        assert!(is_hex(&one(&policy, clear), 32), "{clear}");
    }
}

#[test]
fn a_json_column_stays_json() {
    for masking in [
        Masking::Hash,
        Masking::HashKeepDomain,
        Masking::Truncate,
        Masking::Redact,
    ] {
        let policy = policy("k", ColumnType::Json, PiiClass::FreeText, masking);
        for clear in [
            "{\"a\":\"b@c.de\"}",
            "\"ada@example.com\"",
            "\"10.1.2.3\"",
            "\"\\\"@c.de\"",
            "7",
            "[]",
            "\"",
            "",
        ] {
            let masked = one(&policy, clear);
            let parsed: serde_json::Value = serde_json::from_str(&masked).unwrap();
            assert!(parsed.is_string(), "{masked}");
        }
    }
    let keep_domain = policy("k", ColumnType::Json, PiiClass::Email, Masking::HashKeepDomain);
    assert!(one(&keep_domain, "\"ada@example.com\"").ends_with("@example.com\""));
    let redact = policy("k", ColumnType::Json, PiiClass::FreeText, Masking::Redact);
    assert_eq!(one(&redact, "{\"name\":\"Ada\"}"), "\"[redacted]\"");
}

#[test]
fn a_list_is_masked_item_by_item_also_where_a_slice_hides_items() {
    let kind = ColumnType::List(Box::new(ColumnType::String));
    let policy = policy("k", kind, PiiClass::Name, Masking::Hash);
    let field = Arc::new(Field::new("item", DataType::Utf8View, true));
    let items = texts(&[Some("ada"), None, Some("bob"), Some("ada")]);
    let lists = ListArray::new(field, OffsetBuffer::new(vec![0, 2, 2, 3, 4].into()), items, None);
    let masked = policy
        .mask_values(0, &(Arc::new(lists.slice(0, 3)) as ArrayRef))
        .unwrap();
    let masked = masked.as_list::<i32>();
    assert_eq!(masked.len(), 3);
    assert_eq!(masked.value_length(0), 2);
    assert!(masked.value(0).is_null(1));
    for item in masked.values().as_string_view().iter().flatten() {
        assert!(is_hex(item, 32), "{item}");
    }
}

#[test]
fn what_has_no_mask_of_its_type_is_null() {
    let policy = policy("k", ColumnType::Bool, PiiClass::Id, Masking::Hash);
    let values: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
    let masked = policy.mask_values(0, &values).unwrap();
    assert_eq!((masked.data_type(), masked.null_count()), (&DataType::Boolean, 2));
}

#[test]
fn a_value_masks_alike_in_every_column_of_its_class_and_in_no_other() {
    let text = ColumnType::String;
    let columns = [
        (text.clone(), Some(PiiClass::Name)),
        (text.clone(), Some(PiiClass::Name)),
        (text, Some(PiiClass::Phone)),
    ];
    let policy = Policy::new(&pipeline(&columns, privacy("k", &[])), Some("dev")).unwrap();
    let [one, two, other] = [0, 1, 2].map(|column| {
        let masked = policy.mask_values(column, &texts(&[Some("ada")])).unwrap();
        masked.as_string_view().value(0).to_owned()
    });
    assert_eq!(one, two);
    assert_ne!(one, other);
}

#[test]
fn kept_undeclared_and_clear_columns_pass_uncopied() {
    let columns = [
        (ColumnType::String, None),
        (ColumnType::String, Some(PiiClass::Name)),
        (ColumnType::String, Some(PiiClass::Email)),
    ];
    let pipeline = pipeline(&columns, privacy("k", &[(PiiClass::Name, Masking::Keep)]));
    let values = texts(&[Some("ada@example.com")]);
    let passes =
        |policy: &Policy, column| Arc::ptr_eq(&policy.mask_values(column, &values).unwrap(), &values);
    let masked = Policy::new(&pipeline, Some("staging")).unwrap();
    assert!(passes(&masked, 0) && passes(&masked, 1) && !passes(&masked, 2));
    assert!(!masked.is_clear() && masked.sealer().is_some());
    let clear = Policy::new(&pipeline, Some("prod")).unwrap();
    assert!(passes(&clear, 0) && passes(&clear, 1) && passes(&clear, 2));
    assert!(clear.is_clear() && clear.sealer().is_none());
}

#[test]
fn personal_columns_without_a_secret_are_refused_with_what_to_set() {
    let no_key = Privacy {
        clear_in: vec!["prod".into()],
        ..Privacy::default()
    };
    let personal = pipeline(&[(ColumnType::String, Some(PiiClass::Name))], no_key.clone());
    for environment in [None, Some("dev")] {
        let error = Policy::new(&personal, environment).unwrap_err().to_string();
        assert!(
            error.contains("privacy.hash_key") && error.contains("`c0`"),
            "{error}"
        );
    }
    assert!(Policy::new(&personal, Some("prod")).unwrap().is_clear());
    let plain = pipeline(&[(ColumnType::String, None)], no_key);
    assert!(Policy::new(&plain, None).unwrap().sealer().is_none());
    assert!(super::Sealer::of(&plain).is_err());
}

#[test]
fn a_policy_shows_no_secret_and_refuses_another_type() {
    let policy = policy("hush", ColumnType::String, PiiClass::Name, Masking::Hash);
    assert!(!format!("{policy:?}").contains("hush"));
    let values: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    assert!(matches!(
        policy.mask_values(0, &values),
        Err(PrivacyError::Type { .. })
    ));
    assert!(matches!(
        policy.mask_values(1, &values),
        Err(PrivacyError::Column { .. })
    ));
}
