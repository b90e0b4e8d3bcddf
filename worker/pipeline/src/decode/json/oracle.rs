//! The decoder against `serde_json`, which shares no code with it: whatever that accepts as an object must
//! be accepted and give the same values, whatever it refuses must be refused.

use std::io::Read;
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use serde_json::Value;

use super::tests::{decode, faults, plan, present, wanted};
use super::*;
use crate::spec::model::ColumnType;

/// A small generator of the written form: white space, escapes and key order vary by its seed.
struct Writer {
    seed: u64,
    text: String,
}

impl Writer {
    fn write(value: &Value, seed: u64) -> String {
        let mut writer = Self {
            seed,
            text: String::new(),
        };
        writer.value(value);
        writer.text
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % bound
    }

    fn space(&mut self) {
        if self.below(6) == 0 {
            let space = [" ", "\t", "\r", "  "][self.below(4) as usize];
            self.text.push_str(space);
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for character in text.chars() {
            if character < ' ' || self.below(12) == 0 {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    self.text.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                match character {
                    '"' | '\\' => self.text.extend(['\\', character]),
                    _ => self.text.push(character),
                }
            }
        }
        self.text.push('"');
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                self.text.push('[');
                self.space();
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        self.text.push(',');
                        self.space();
                    }
                    self.value(item);
                    self.space();
                }
                self.text.push(']');
            }
            Value::Object(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                for i in (1..entries.len()).rev() {
                    entries.swap(i, self.below(i as u64 + 1) as usize);
                }
                // Now and then a key stands twice; then the last must count.
                if let Some(&first) = entries.first()
                    && self.below(8) == 0
                {
                    entries.push((first.0, &Value::Null));
                }
                self.text.push('{');
                self.space();
                for (i, (key, item)) in entries.into_iter().enumerate() {
                    if i > 0 {
                        self.text.push(',');
                        self.space();
                    }
                    self.string(key);
                    self.space();
                    self.text.push(':');
                    self.space();
                    self.value(item);
                    self.space();
                }
                self.text.push('}');
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.text.push_str(&value.to_string()),
        }
    }
}

fn values() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[ -~]{0,20}",
        "\\PC{0,8}",
        "[\\x00-\\x1f\"\\\\😀é]{0,6}",
        "[a-z]{30,90}"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1000i64..1000).prop_map(Value::from),
        (-1000i64..1000).prop_map(|whole| Value::from(whole as f64 / 8.0)),
        proptest::num::f64::NORMAL.prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            objects(inner),
        ]
    })
}

fn objects(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let keys = prop_oneof!["[a-e]", "[a-e]", "[a-e]", "\\PC{0,3}", "[a-z]{10,40}"];
    proptest::collection::vec((keys, inner), 0..7)
        .prop_map(|entries| Value::Object(entries.into_iter().collect()))
}

fn wide_plan() -> DecodePlan {
    let list = ColumnType::List(Box::new(ColumnType::String));
    plan(vec![
        wanted("a_text", "a", ColumnType::String),
        wanted("a_int", "a", ColumnType::Int64),
        wanted("b_float", "b", ColumnType::Float64),
        wanted("b_bool", "b", ColumnType::Bool),
        wanted("c_json", "c", ColumnType::Json),
        wanted("ca_text", "c.a", ColumnType::String),
        present("cb", "c.b"),
        wanted("d_list", "d", list),
        wanted("eab_text", "e.a.b", ColumnType::String),
    ])
}

fn at<'a>(record: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(record, |value, key| value.as_object()?.get(key))
}

/// Whether the number is whole and in range; none where an f64 cannot tell.
fn whole(value: Option<&Value>) -> Option<Option<i64>> {
    match value {
        Some(Value::Number(number)) if number.is_f64() => {
            let float = number.as_f64()?;
            if float.fract() != 0.0 {
                return Some(None);
            }
            (1.0..1e6).contains(&float.abs()).then_some(Some(float as i64))
        }
        Some(Value::Number(number)) => Some(number.as_i64()),
        _ => Some(None),
    }
}

/// Asserts that the row holds what the record does.
fn assert_row(batch: &RecordBatch, row: usize, record: &Value) {
    let text = |name: &str| {
        let column = batch.column_by_name(name).unwrap().as_string_view();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    for (name, path) in [("a_text", "a"), ("ca_text", "c.a"), ("eab_text", "e.a.b")] {
        let expected = at(record, path).and_then(Value::as_str).map(str::to_owned);
        assert_eq!(text(name), expected, "{name} of {record}");
    }
    if let Some(expected) = whole(at(record, "a")) {
        let column = batch.column_by_name("a_int").unwrap().as_primitive::<Int64Type>();
        assert_eq!(
            column.is_valid(row).then(|| column.value(row)),
            expected,
            "a_int of {record}"
        );
    }
    let floats = batch
        .column_by_name("b_float")
        .unwrap()
        .as_primitive::<Float64Type>();
    match at(record, "b").and_then(Value::as_f64) {
        // serde_json may be off by some units in the last place; `number` tests exactness.
        Some(expected) => {
            let found = floats.value(row);
            let tolerance = expected.abs() * 4.0 * f64::EPSILON + f64::MIN_POSITIVE;
            assert!((found - expected).abs() <= tolerance, "{found} {expected}");
        }
        None => assert!(floats.is_null(row)),
    }
    let bools = batch.column_by_name("b_bool").unwrap().as_boolean();
    let expected = at(record, "b").and_then(Value::as_bool);
    assert_eq!(bools.is_valid(row).then(|| bools.value(row)), expected);
    let json = text("c_json").map(|text| serde_json::from_str::<Value>(&text).unwrap());
    assert_eq!(json.as_ref(), at(record, "c").filter(|value| !value.is_null()));
    let is_present = at(record, "c.b").is_some_and(|value| !value.is_null());
    assert_eq!(
        batch.column_by_name("cb").unwrap().as_boolean().value(row),
        is_present
    );
    let lists = batch.column_by_name("d_list").unwrap().as_list::<i32>();
    let expected = at(record, "d").and_then(Value::as_array).and_then(|items| {
        let sound = items.iter().all(|item| item.is_string() || item.is_null());
        sound.then(|| {
            items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        })
    });
    let found = lists.is_valid(row).then(|| {
        let items = lists.value(row);
        items
            .as_string_view()
            .iter()
            .map(|item| item.map(str::to_owned))
            .collect::<Vec<_>>()
    });
    assert_eq!(found, expected, "d_list of {record}");
}

/// Decodes the lines together and asserts each by itself.
fn assert_lines(lines: &[Vec<u8>]) {
    let batch = decode(&wide_plan(), &lines.join(&b"\n"[..]));
    let faults = faults(&batch);
    assert_eq!(batch.num_rows(), lines.len());
    for (row, line) in lines.iter().enumerate() {
        let shown = String::from_utf8_lossy(line);
        let is_refused = faults[row].iter().any(|fault| fault.kind != FaultKind::WrongType);
        match serde_json::from_slice::<Value>(line) {
            Ok(record @ Value::Object(_)) => {
                assert!(!is_refused, "refused {shown}: {:?}", faults[row]);
                assert_row(&batch, row, &record);
            }
            Err(error) if error.to_string().contains("number out of range") => {}
            Ok(_) | Err(_) => {
                assert!(is_refused, "accepted {shown}");
                assert_row(&batch, row, &Value::Null);
            }
        }
    }
}

/// A line that the decoder takes for one record.
fn one_line(mut line: Vec<u8>) -> Vec<u8> {
    for byte in &mut line {
        if *byte == b'\n' {
            *byte = b'n';
        }
    }
    if line.iter().all(|byte| b" \t\r".contains(byte)) {
        line.push(b'x');
    }
    line
}

proptest! {
    // Each case is dozens of lines on every instruction set.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_object_gives_the_values_that_it_holds(
        records in proptest::collection::vec((objects(values()), any::<u64>()), 1..12),
    ) {
        let lines: Vec<_> = records.iter().map(|(record, seed)| Writer::write(record, *seed).into_bytes()).collect();
        assert_lines(&lines);
    }

    #[test]
    fn a_record_cut_off_anywhere_is_refused(record in objects(values()), seed: u64) {
        let line = Writer::write(&record, seed).into_bytes();
        let lines: Vec<_> = (1..=line.len()).map(|end| one_line(line[..end].to_vec())).collect();
        assert_lines(&lines);
    }

    #[test]
    fn changed_bytes_are_judged_as_the_oracle_does(
        record in objects(values()),
        seed: u64,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), prop::sample::select(&br#"{}[]",:\u0-+.eEtfn "#[..])]), 1..40),
    ) {
        let line = Writer::write(&record, seed).into_bytes();
        let lines: Vec<_> = changes.iter().map(|(index, byte)| {
            let mut line = line.clone();
            let at = index.index(line.len());
            line[at] = *byte;
            one_line(line)
        }).collect();
        assert_lines(&lines);
    }

    #[test]
    fn any_bytes_at_all_are_one_row_a_line(bytes: Vec<u8>) {
        let lines: Vec<_> = bytes.split(|&byte| byte == b'\n').map(|line| one_line(line.to_vec())).collect();
        assert_lines(&lines);
    }
}

#[test]
fn real_events_give_the_values_that_they_hold() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/github-2017/events.ndjson.gz");
    let Ok(file) = std::fs::File::open(&path) else {
        eprintln!("{} is absent: nothing is tested", path.display());
        return;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .unwrap();
    let plan = plan(vec![
        wanted("id", "id", ColumnType::String),
        wanted("time", "created_at", ColumnType::Timestamp),
        wanted("actor", "actor.login", ColumnType::String),
        wanted("repo", "repo.id", ColumnType::Int64),
        wanted("payload", "payload", ColumnType::Json),
    ]);
    let payload = Buffer::from_vec(text.clone().into_bytes());
    let mut batches = Vec::new();
    Decoder::new(Arc::new(plan))
        .decode(&payload, 0, 1, 0, &mut batches)
        .unwrap();
    let mut lines = text.lines();
    for batch in &batches {
        assert_eq!(
            batch.column_by_name(crate::rows::FAULTS).unwrap().null_count(),
            batch.num_rows()
        );
        let texts = |column: usize| batch.column(column).as_string_view();
        for row in 0..batch.num_rows() {
            let record: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
            assert_eq!(texts(0).value(row), record["id"].as_str().unwrap());
            let time = chrono::DateTime::parse_from_rfc3339(record["created_at"].as_str().unwrap()).unwrap();
            let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
            assert_eq!(times.value(row), time.timestamp_micros());
            assert_eq!(texts(2).value(row), record["actor"]["login"].as_str().unwrap());
            assert_eq!(
                batch.column(3).as_primitive::<Int64Type>().value(row),
                record["repo"]["id"].as_i64().unwrap()
            );
            let subtree: Value = serde_json::from_str(texts(4).value(row)).unwrap();
            assert_eq!(subtree, record["payload"]);
        }
    }
    assert_eq!(lines.next(), None);
}
