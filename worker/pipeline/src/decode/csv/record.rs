//! One CSV record out of a buffer, as RFC 4180 writes it.
//!
//! A field that starts with `"` runs to the closing quote, line ends included, `""` standing for one quote; every
//! other field is taken as it is, a quote in its midst too. Records end at `\n`, with or without `\r`.

use memchr::{memchr, memchr2};

/// A field's place in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) quoting: Quoting,
}

/// How a field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quoting {
    /// Without quotes: empty means null.
    Bare,
    /// Between quotes, which are not part of the range.
    Quoted,
    /// Between quotes, with doubled quotes inside.
    Doubled,
}

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    /// Its bytes end at the first position, the next record starts at the second.
    Record(usize, usize),
    /// The buffer ends inside it.
    Incomplete,
    /// Something else than a comma or a line's end stands behind the closing quote of the field with this number.
    Stray(usize),
}

/// Reads the record at `start` into `cells`. `last` says that nothing follows the buffer: then its end ends a record.
pub(super) fn record(bytes: &[u8], start: usize, last: bool, cells: &mut Vec<Cell>) -> Parsed {
    cells.clear();
    let mut at = start;
    loop {
        let quoted = bytes.get(at) == Some(&b'"');
        let (mut cell, behind) = if quoted {
            match quoted_field(bytes, at + 1) {
                Some((cell, behind)) => (cell, behind),
                None => return Parsed::Incomplete,
            }
        } else {
            let end = memchr2(b',', b'\n', &bytes[at..]).map_or(bytes.len(), |found| at + found);
            (
                Cell {
                    start: at,
                    end,
                    quoting: Quoting::Bare,
                },
                end,
            )
        };
        match (bytes.get(behind), bytes.get(behind + 1)) {
            (Some(b','), _) => {
                cells.push(cell);
                at = behind + 1;
            }
            (Some(b'\n'), _) => {
                let end = if !quoted && cell.end > cell.start && bytes[cell.end - 1] == b'\r' {
                    behind - 1
                } else {
                    behind
                };
                cell.end = cell.end.min(end);
                cells.push(cell);
                return Parsed::Record(end, behind + 1);
            }
            (Some(b'\r'), Some(b'\n')) => {
                cells.push(cell);
                return Parsed::Record(behind, behind + 2);
            }
            (None, _) | (Some(b'\r'), None) if !last => return Parsed::Incomplete,
            (None, _) | (Some(b'\r'), None) => {
                cells.push(cell);
                return Parsed::Record(behind, bytes.len());
            }
            (Some(_), _) => return Parsed::Stray(cells.len() + 1),
        }
    }
}

fn quoted_field(bytes: &[u8], start: usize) -> Option<(Cell, usize)> {
    let (mut at, mut quoting) = (start, Quoting::Quoted);
    loop {
        let end = at + memchr(b'"', bytes.get(at..)?)?;
        if bytes.get(end + 1) != Some(&b'"') {
            return Some((Cell { start, end, quoting }, end + 1));
        }
        quoting = Quoting::Doubled;
        at = end + 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(bytes: &[u8]) -> Vec<Vec<Option<String>>> {
        let (mut records, mut cells, mut at) = (Vec::new(), Vec::new(), 0);
        while at < bytes.len() {
            let Parsed::Record(_, next) = record(bytes, at, true, &mut cells) else {
                panic!("not a record");
            };
            let text = |cell: &Cell| {
                let text = String::from_utf8(bytes[cell.start..cell.end].to_vec()).unwrap();
                match cell.quoting {
                    Quoting::Bare => (!text.is_empty()).then_some(text),
                    Quoting::Quoted => Some(text),
                    Quoting::Doubled => Some(text.replace("\"\"", "\"")),
                }
            };
            records.push(cells.iter().map(text).collect());
            at = next;
        }
        records
    }

    #[test]
    fn quotes_commas_and_line_ends_are_read_as_rfc_4180_writes_them() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            texts(b"a,,\"\",\"x,\r\n\"\"y\"\"\"\r\nb\"c, d \r\n1,"),
            vec![
                vec![some("a"), None, some(""), some("x,\r\n\"y\"")],
                vec![some("b\"c"), some(" d ")],
                vec![some("1"), None],
            ]
        );
    }

    #[test]
    fn what_cannot_be_a_record_is_told_from_what_is_not_yet_one() {
        let mut cells = Vec::new();
        assert_eq!(record(b"a,\"b\"c,d\n", 0, true, &mut cells), Parsed::Stray(2));
        assert_eq!(record(b"a,\"b\n", 0, true, &mut cells), Parsed::Incomplete);
        assert_eq!(record(b"a,b", 0, false, &mut cells), Parsed::Incomplete);
        assert_eq!(record(b"a,\"b\"\r", 0, false, &mut cells), Parsed::Incomplete);
    }

    proptest! {
        #[test]
        fn what_is_written_comes_back(
            records in prop::collection::vec(prop::collection::vec(prop::option::of("[a,\"\r\n é]{0,6}"), 2..5), 1..6),
            crlf: bool,
        ) {
            let mut text = String::new();
            for record in &records {
                let fields: Vec<String> = record
                    .iter()
                    .map(|field| field.as_ref().map_or(String::new(), |text| format!("\"{}\"", text.replace('"', "\"\""))))
                    .collect();
                text.push_str(&fields.join(","));
                text.push_str(if crlf { "\r\n" } else { "\n" });
            }
            prop_assert_eq!(texts(text.as_bytes()), records);
        }

        #[test]
        fn no_input_harms(bytes in prop::collection::vec(prop_oneof![Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r'), any::<u8>()], 0..60), last: bool) {
            let mut cells = Vec::new();
            if let Parsed::Record(end, next) = record(&bytes, 0, last, &mut cells) {
                prop_assert!(end <= next && next <= bytes.len());
                prop_assert!(cells.iter().all(|cell| cell.start <= cell.end && cell.end <= end));
            }
        }
    }
}
