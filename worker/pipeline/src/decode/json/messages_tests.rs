//! Messages against the same records as lines.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::UInt64Type;
use proptest::prelude::*;

use super::*;
use crate::decode::{DecodePlan, Wanted, WantedKind};
use crate::rows;
use crate::spec::model::ColumnType;

fn plan() -> Arc<DecodePlan> {
    let wanted = |name: &str, kind| Wanted {
        name: name.to_owned(),
        path: vec![name.to_owned()],
        kind: WantedKind::Value(kind),
    };
    Arc::new(DecodePlan {
        fields: vec![wanted("a", ColumnType::String), wanted("j", ColumnType::Json)],
        record_bytes_max: 1 << 20,
        depth_max: 64,
    })
}

fn decode(messages: &[(u64, &[u8])]) -> Vec<RecordBatch> {
    decode_by(&mut Decoder::new(plan()), messages)
}

fn decode_by(decoder: &mut Decoder, messages: &[(u64, &[u8])]) -> Vec<RecordBatch> {
    let (mut payload, mut offsets, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for (offset, message) in messages {
        payload.extend_from_slice(message);
        offsets.push(*offset);
        ends.push(payload.len() as u64);
        payload.push(b'\n');
    }
    let mut out = Vec::new();
    let messages = Messages {
        offsets: &offsets,
        ends: &ends,
    };
    decoder
        .decode_messages(&Buffer::from_vec(payload), 3, messages, &mut out)
        .unwrap();
    out
}

fn raws(batch: &RecordBatch) -> Vec<&[u8]> {
    batch[rows::RAW].as_binary_view().iter().flatten().collect()
}

fn offsets(batch: &RecordBatch) -> Vec<u64> {
    let offsets = batch[rows::OFFSET].as_primitive::<UInt64Type>().values().to_vec();
    assert_eq!(
        batch[rows::LINE].as_primitive::<UInt64Type>().values(),
        offsets.as_slice()
    );
    offsets
}

#[test]
fn a_message_of_many_lines_is_one_record_and_stays_as_it_came() {
    let pretty: &[u8] = b"{\n  \"a\": \"a \\\"quoted\\\" text\",\n  \"j\": {\n\"x\": [1,\n2]}\n}\n";
    let sent: &[(u64, &[u8])] = &[
        (7, b"{\"a\":\"before\"}"),
        (9, pretty),
        (10, b""),
        (11, b" \n \n"),
        (20, b"{\"a\":\"after\"}\r"),
    ];
    let batches = decode(sent);
    let [batch] = batches.as_slice() else {
        panic!("{batches:?}")
    };
    assert_eq!(offsets(batch), [7, 9, 20]);
    assert_eq!(raws(batch), [sent[0].1, pretty, sent[4].1]);
    let texts: Vec<_> = batch["a"].as_string_view().iter().flatten().collect();
    assert_eq!(texts, ["before", "a \"quoted\" text", "after"]);
    assert_eq!(batch[rows::FAULTS].null_count(), 3);
    let json: serde_json::Value = serde_json::from_str(batch["j"].as_string_view().value(1)).unwrap();
    assert_eq!(json, serde_json::json!({"x": [1, 2]}));
}

#[test]
fn a_line_end_within_a_string_is_a_fault_of_its_record_alone() {
    let broken: &[u8] = b"{\"a\":\"one\ntwo\"}";
    let batches = decode(&[
        (1, broken),
        (2, b"{\"a\":\"x\"}\n{\"a\":\"y\"}"),
        (3, b"{\"a\":\"z\"}"),
    ]);
    let [batch] = batches.as_slice() else {
        panic!("{batches:?}")
    };
    let faulty: Vec<bool> = batch[rows::FAULTS]
        .as_string_view()
        .iter()
        .map(|f| f.is_some())
        .collect();
    assert_eq!(
        faulty,
        [true, true, false],
        "two values in a message are no record either"
    );
    assert_eq!(raws(batch)[0], broken);
}

proptest! {
    /// Whatever the messages' bytes: one row for each that is not blank, in order, with its offset and bytes.
    #[test]
    fn every_message_that_is_not_blank_is_one_row(
        messages in proptest::collection::vec((1u64..5, "[{}\":,a1\\\\ \n\r]{0,12}"), 0..40),
    ) {
        let mut at = 0;
        let sent: Vec<(u64, &[u8])> = messages.iter().map(|(step, text)| {
            at += step;
            (at, text.as_bytes())
        }).collect();
        let mut decoder = Decoder::new(plan());
        for _ in 0..2 {
            let batches = decode_by(&mut decoder, &sent);
            let got: Vec<(u64, Vec<u8>)> = batches.iter()
                .flat_map(|batch| offsets(batch).into_iter().zip(raws(batch).into_iter().map(<[u8]>::to_vec)))
                .collect();
            let expected: Vec<(u64, Vec<u8>)> = sent.iter()
                .filter(|(_, text)| text.iter().any(|byte| !byte.is_ascii_whitespace()))
                .map(|(offset, text)| (*offset, text.to_vec()))
                .collect();
            prop_assert_eq!(got, expected);
        }
    }

    /// JSON that is laid out over lines says the same as in one line.
    #[test]
    fn layout_changes_no_value(texts in proptest::collection::vec("\\PC{0,20}", 1..10)) {
        let values: Vec<serde_json::Value> = texts.iter()
            .map(|text| serde_json::json!({"a": text, "j": [text, {"k\n": 1}]})).collect();
        let pretty: Vec<String> = values.iter().map(|value| serde_json::to_string_pretty(value).unwrap()).collect();
        let sent: Vec<(u64, &[u8])> = pretty.iter().zip(0..).map(|(text, n)| (n, text.as_bytes())).collect();
        let batches = decode(&sent);
        prop_assert_eq!(batches.len(), 1);
        prop_assert_eq!(batches[0][rows::FAULTS].null_count(), values.len());
        for (row, value) in values.iter().enumerate() {
            prop_assert_eq!(batches[0]["a"].as_string_view().value(row), value["a"].as_str().unwrap());
            let json: serde_json::Value = serde_json::from_str(batches[0]["j"].as_string_view().value(row)).unwrap();
            prop_assert_eq!(&json, &value["j"]);
        }
    }
}
