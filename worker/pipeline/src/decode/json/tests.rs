//! What the decoder promises, record by record; the property tests against another reader are in
//! `oracle`.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType, UInt64Type};
use arrow::util::pretty::pretty_format_columns;

use super::*;
use crate::decode::{Wanted, WantedKind};
use crate::rows;
use crate::spec::model::ColumnType;

pub(super) fn wanted(name: &str, path: &str, kind: ColumnType) -> Wanted {
    Wanted {
        name: name.to_owned(),
        path: path.split('.').map(str::to_owned).collect(),
        kind: WantedKind::Value(kind),
    }
}

pub(super) fn present(name: &str, path: &str) -> Wanted {
    Wanted {
        kind: WantedKind::Present,
        ..wanted(name, path, ColumnType::Json)
    }
}

pub(super) fn plan(fields: Vec<Wanted>) -> DecodePlan {
    DecodePlan {
        fields,
        record_bytes_max: 1 << 20,
        depth_max: 16,
    }
}

/// Decodes on every instruction set that the machine has; all must agree.
pub(super) fn decode(plan: &DecodePlan, lines: &[u8]) -> RecordBatch {
    let payload = Buffer::from_vec(lines.to_vec());
    let mut results = Isa::every().into_iter().map(|isa| {
        let mut decoder = Decoder::with_isa(Arc::new(plan.clone()), isa);
        let mut batches = Vec::new();
        decoder.decode(&payload, 7, 1, 0, &mut batches).unwrap();
        for batch in &batches {
            for column in batch.columns() {
                column.to_data().validate_full().unwrap();
            }
        }
        arrow::compute::concat_batches(decoder.schema(), &batches).unwrap()
    });
    let first = results.next().unwrap();
    for other in results {
        assert_eq!(first, other);
    }
    first
}

/// One column of one wanted field `a`, as text.
fn column(kind: ColumnType, lines: &str) -> Vec<Option<String>> {
    let batch = decode(&plan(vec![wanted("a", "a", kind)]), lines.as_bytes());
    texts(batch.column(0))
}

fn texts(column: &ArrayRef) -> Vec<Option<String>> {
    let options = arrow::util::display::FormatOptions::default();
    let formatter = arrow::util::display::ArrayFormatter::try_new(column, &options).unwrap();
    (0..column.len())
        .map(|row| column.is_valid(row).then(|| formatter.value(row).to_string()))
        .collect()
}

pub(super) fn faults(batch: &RecordBatch) -> Vec<Vec<Fault>> {
    let column = batch.column_by_name(rows::FAULTS).unwrap().as_string_view();
    column
        .iter()
        .map(|text| text.map_or(Vec::new(), |text| serde_json::from_str(text).unwrap()))
        .collect()
}

fn kinds(batch: &RecordBatch) -> Vec<Vec<FaultKind>> {
    faults(batch)
        .iter()
        .map(|faults| faults.iter().map(|fault| fault.kind).collect())
        .collect()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn a_shop_event_becomes_its_columns() {
    let plan = plan(vec![
        wanted("id", "event_id", ColumnType::String),
        wanted("time", "event_time", ColumnType::Timestamp),
        wanted("amount", "order.amount", ColumnType::Decimal(10, 2)),
        wanted("order", "order", ColumnType::Json),
        wanted("tags", "tags", ColumnType::List(Box::new(ColumnType::String))),
        present("has_order", "order"),
    ]);
    let lines = concat!(
        r#"{"event_id":"e1","event_time":"2026-01-01T00:00:00.5Z","order":{"amount":12.5,"x":[1]},"tags":["a",null,"a tag that is long"]}"#,
        "\n\n",
        r#"{"tags": [], "event_id": "an id that is longer than a view", "order": null}"#,
        "\r\n",
    );
    let batch = decode(&plan, lines.as_bytes());
    let table = pretty_format_columns("t", &[Arc::clone(batch.column(0))])
        .unwrap()
        .to_string();
    assert!(table.contains("an id that is longer than a view"));
    assert_eq!(
        batch
            .column(1)
            .as_primitive::<TimestampMicrosecondType>()
            .value(0),
        1_767_225_600_500_000
    );
    assert_eq!(texts(batch.column(2)), [some("12.50"), None]);
    assert_eq!(texts(batch.column(3)), [some(r#"{"amount":12.5,"x":[1]}"#), None]);
    assert_eq!(
        texts(batch.column(4)),
        [some("[a, , a tag that is long]"), some("[]")]
    );
    assert_eq!(texts(batch.column(5)), [some("true"), some("false")]);
    assert_eq!(
        batch
            .column_by_name(rows::LINE)
            .unwrap()
            .as_primitive::<UInt64Type>()
            .values(),
        &[1, 3]
    );
    assert_eq!(batch.column_by_name(rows::FAULTS).unwrap().null_count(), 2);
    let raw = batch.column_by_name(rows::RAW).unwrap().as_binary_view();
    assert_eq!(
        raw.value(1),
        br#"{"tags": [], "event_id": "an id that is longer than a view", "order": null}"#
    );
    let offsets = batch
        .column_by_name(rows::OFFSET)
        .unwrap()
        .as_primitive::<UInt64Type>()
        .clone();
    assert!(lines[offsets.value(1) as usize..].starts_with(r#"{"tags""#));
}

#[test]
fn a_broken_record_says_every_reason_and_harms_no_neighbour() {
    let mut plan = plan(vec![wanted("a", "a", ColumnType::Int64)]);
    plan.record_bytes_max = 40;
    plan.depth_max = 3;
    let cases: [(&[u8], &[FaultKind]); 16] = [
        (br#"{"a":1"#, &[FaultKind::CutOff]),
        (br#"{"a":1,"b":"x\u00"#, &[FaultKind::CutOff]),
        (br#"{"a":tru"#, &[FaultKind::CutOff]),
        (br#"{"a":1}}"#, &[FaultKind::Syntax]),
        (br#"{"a":1} {"a":2}"#, &[FaultKind::Syntax]),
        (br#"{"a":01}"#, &[FaultKind::Syntax]),
        (br#"{"a":1,}"#, &[FaultKind::Syntax]),
        (br#"{a:1}"#, &[FaultKind::Syntax]),
        (br#"{"b":"\ud800"}"#, &[FaultKind::Syntax]),
        (b"{\"a\":1,\"b\":\"\x01\"}", &[FaultKind::Syntax]),
        (b"[1]", &[FaultKind::Syntax]),
        (b"null", &[FaultKind::Syntax]),
        (b"{\"a\":1,\"b\":\"\xff\"}", &[FaultKind::Encoding]),
        (br#"{"a":1,"b":[[[1]]]}"#, &[FaultKind::TooDeep]),
        (
            br#"{"a":1,"b":"0123456789012345678901234567890"}"#,
            &[FaultKind::TooLarge],
        ),
        (
            b"{\"a\":1,\"b\":[[[[\"\xff0123456789012345678901234567890",
            &[
                FaultKind::TooLarge,
                FaultKind::Encoding,
                FaultKind::TooDeep,
                FaultKind::CutOff,
            ],
        ),
    ];
    for (record, expected) in cases {
        let lines = [br#"{"a":1}"#, record, br#"{"a":2}"#].join(&b"\n"[..]);
        let batch = decode(&plan, &lines);
        let shown = String::from_utf8_lossy(record);
        assert_eq!(kinds(&batch), [&[], expected, &[]], "{shown}");
        assert_eq!(texts(batch.column(0)), [some("1"), None, some("2")], "{shown}");
        assert_eq!(
            batch.column_by_name(rows::RAW).unwrap().as_binary_view().value(1),
            record
        );
    }
}

#[test]
fn a_value_of_another_type_is_null_and_its_fault_tells_no_value() {
    let plan = plan(vec![
        wanted("n", "n", ColumnType::Int64),
        wanted("s", "s", ColumnType::String),
        wanted("l", "l", ColumnType::List(Box::new(ColumnType::Int32))),
    ]);
    let batch = decode(
        &plan,
        br#"{"n":"secret7","s":12345678,"l":[1,"secret",{"a":"secret"}]}"#,
    );
    let faults = faults(&batch);
    let details: Vec<_> = faults[0]
        .iter()
        .map(|fault| {
            (
                fault.kind,
                fault.column.as_deref().unwrap(),
                fault.detail.as_str(),
            )
        })
        .collect();
    assert_eq!(
        details,
        [
            (
                FaultKind::WrongType,
                "n",
                "expected int64, found a string of 7 bytes"
            ),
            (FaultKind::WrongType, "s", "expected string, found a number"),
            (
                FaultKind::WrongType,
                "l",
                "expected list<int32>, found a string of 6 bytes in it"
            ),
        ]
    );
    assert!((0..3).all(|column| batch.column(column).is_null(0)));
}

#[test]
fn of_a_repeated_key_the_last_counts() {
    let line = r#"{"a":"first","a":5}"#;
    assert_eq!(column(ColumnType::Int64, line), [some("5")]);
    // A second line of the same shape goes by the guessed order.
    let lines = [r#"{"a":1,"a":2}"#, r#"{"a":1,"a":2}"#, r#"{"a":1,"a":null}"#].join("\n");
    assert_eq!(column(ColumnType::Int64, &lines), [some("2"), some("2"), None]);
    let list = ColumnType::List(Box::new(ColumnType::Int64));
    assert_eq!(column(list, r#"{"a":[1,2],"a":[3]}"#), [some("[3]")]);
    let nested = plan(vec![
        wanted("x", "o.x", ColumnType::Int64),
        wanted("y", "o.y", ColumnType::Int64),
    ]);
    let batch = decode(&nested, br#"{"o":{"x":"wrong","y":1},"o":{"y":2}}"#);
    assert_eq!(
        (texts(batch.column(0)), texts(batch.column(1))),
        (vec![None], vec![some("2")])
    );
    assert_eq!(kinds(&batch), [[]]);
}

#[test]
fn lists_of_lists_survive_what_is_taken_back() {
    let list = ColumnType::List(Box::new(ColumnType::List(Box::new(ColumnType::Bool))));
    let lines = [
        r#"{"a":[[true,true],[true]]}"#,
        r#"{"a":[[true],[true,7]]}"#,
        r#"{"a":[[true,true,true"#,
        r#"{"a":[[],[null,false],null]}"#,
        "{}",
        r#"{"a":[[false]]}"#,
    ];
    let shown = column(list, &lines.join("\n"));
    assert_eq!(
        shown,
        [
            some("[[true, true], [true]]"),
            None,
            None,
            some("[[], [, false], ]"),
            None,
            some("[[false]]")
        ]
    );
}

#[test]
fn an_escaped_key_is_the_key_it_spells() {
    let plan = plan(vec![wanted("login", "actor.login", ColumnType::String)]);
    let batch = decode(
        &plan,
        br#"{"\u0061ctor":{"l\u006fgin":"caf\u00e9 \ud83d\ude00 and more than a view"}}"#,
    );
    assert_eq!(texts(batch.column(0)), [some("café 😀 and more than a view")]);
}

#[test]
fn a_path_through_something_else_is_absent() {
    let plan = plan(vec![wanted("x", "a.b.c", ColumnType::Int64), present("p", "a.b")]);
    let batch = decode(
        &plan,
        b"{\"a\":5}\n{\"a\":[{\"b\":1}]}\n{\"a\":{\"b\":1}}\n{\"a\":null}\n{\"a\":{\"b\":{\"c\":3}}}",
    );
    assert_eq!(texts(batch.column(0)), [None, None, None, None, some("3")]);
    assert_eq!(
        texts(batch.column(1)),
        ["false", "false", "true", "false", "true"].map(some)
    );
    assert_eq!(kinds(&batch), vec![Vec::new(); 5]);
}

#[test]
fn two_types_may_be_read_from_one_path() {
    let plan = plan(vec![
        wanted("text", "a", ColumnType::String),
        wanted("number", "a", ColumnType::Int32),
        wanted("json", "a", ColumnType::Json),
    ]);
    let batch = decode(&plan, br#"{"a":5}"#);
    assert_eq!(batch.column(1).as_primitive::<Int32Type>().value(0), 5);
    assert_eq!(texts(batch.column(2)), [some("5")]);
    assert_eq!(faults(&batch)[0][0].column.as_deref(), Some("text"));
}

#[test]
fn numbers_become_what_they_are_exactly() {
    assert_eq!(
        column(ColumnType::Int32, "{\"a\":1.0}\n{\"a\":-2e3}\n{\"a\":2147483648}"),
        [some("1"), some("-2000"), None]
    );
    assert_eq!(
        column(
            ColumnType::Decimal(6, 3),
            "{\"a\":\"-1.25\"}\n{\"a\":1.2345}\n{\"a\":\"x\"}"
        ),
        [some("-1.250"), None, None]
    );
    assert_eq!(
        column(ColumnType::Bool, "{\"a\":true}\n{\"a\":false}\n{\"a\":\"true\"}"),
        [some("true"), some("false"), None]
    );
    assert_eq!(
        column(
            ColumnType::Date,
            "{\"a\":\"2026-01-31\"}\n{\"a\":\"2026-01-31T23:30:00-01:00\"}"
        ),
        [some("2026-01-31"), some("2026-02-01")]
    );
}

#[test]
fn blank_lines_are_no_events_but_keep_their_numbers() {
    let plan = plan(vec![wanted("a", "a", ColumnType::Int64)]);
    assert_eq!(decode(&plan, b"").num_rows(), 0);
    assert_eq!(decode(&plan, b"\n \t\r\n").num_rows(), 0);
    let batch = decode(&plan, b"\n\r\n  {\"a\":1}  \r\n\n {\"a\":2}");
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[1, 2]);
    assert_eq!(
        batch
            .column_by_name(rows::LINE)
            .unwrap()
            .as_primitive::<UInt64Type>()
            .values(),
        &[3, 5]
    );
    assert_eq!(
        batch.column_by_name(rows::RAW).unwrap().as_binary_view().value(0),
        b"  {\"a\":1}  "
    );
}

#[test]
fn a_payload_of_many_batches_keeps_lines_and_offsets() {
    let plan = plan(vec![
        wanted("a", "a", ColumnType::Int64),
        wanted("t", "t", ColumnType::String),
    ]);
    let lines: String = (0..20_000)
        .map(|i| format!("{{\"a\":{i},\"t\":\"a text of number {i}\"}}\n"))
        .collect();
    let mut batches = Vec::new();
    let mut decoder = Decoder::new(Arc::new(plan));
    decoder
        .decode(
            &Buffer::from_vec(lines.clone().into_bytes()),
            0,
            100,
            1000,
            &mut batches,
        )
        .unwrap();
    assert_eq!(batches.len(), 3);
    let mut i = 0;
    for batch in &batches {
        for row in 0..batch.num_rows() {
            assert_eq!(
                batch.column(1).as_string_view().value(row),
                format!("a text of number {i}")
            );
            assert_eq!(batch.column(4).as_primitive::<UInt64Type>().value(row), 100 + i);
            let offset = batch.column(5).as_primitive::<UInt64Type>().value(row) as usize - 1000;
            assert!(lines[offset..].starts_with(&format!("{{\"a\":{i},")));
            i += 1;
        }
    }
    assert_eq!(i, 20_000);
}

#[test]
fn a_batch_has_room_for_the_records_that_come_and_not_for_many_more() {
    let plan = plan(vec![wanted("a", "a", ColumnType::Int64)]);
    let mut decoder = Decoder::new(Arc::new(plan));
    let mut decode = |lines: &str| {
        let mut batches = Vec::new();
        let payload = Buffer::from_vec(lines.as_bytes().to_vec());
        decoder.decode(&payload, 0, 1, 0, &mut batches).unwrap();
        batches
    };
    let long = format!("{{\"a\":1,\"t\":\"{}\"}}\n", "x".repeat(480)).repeat(200);
    let rows = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    assert_eq!(rows(&decode(&long)), 200);
    let again = decode(&long);
    assert_eq!((again.len(), rows(&again)), (1, 200));
    let bytes = again[0].column(0).to_data().buffers()[0].capacity();
    assert!(bytes <= 200 * 8 * 5 / 4, "{bytes} bytes for 200 numbers");
    // Where shorter ones follow than were expected, they make batches of their own.
    assert_eq!(rows(&decode(&"{\"a\":1}\n".repeat(5_000))), 5_000);
}
