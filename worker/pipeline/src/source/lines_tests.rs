//! The oracle cuts the whole text at its line feeds; what the kernel gives for any cut into splits must be that.

use proptest::prelude::*;

use super::*;

const ROOMY: LineLimits = LineLimits {
    chunk_bytes: 64,
    record_bytes_max: 1 << 20,
};

/// Every line as `(number in its split, offset, bytes with the line feed)`, of all splits of `split_bytes`.
fn scan(text: &[u8], split_bytes: usize, limits: LineLimits) -> Vec<(u64, u64, Vec<u8>)> {
    let mut lines = Vec::new();
    for start in (0..text.len()).step_by(split_bytes) {
        let end = (start + split_bytes).min(text.len());
        let mut chunks = LineChunks::new(&text[start.saturating_sub(1)..], start as u64, end as u64, limits);
        let mut number = 1;
        while let Some(chunk) = chunks.next_chunk().unwrap() {
            assert!(!chunk.bytes.is_empty());
            assert_eq!(chunk.line, number);
            let mut offset = chunk.offset;
            for line in chunk.bytes.split_inclusive(|byte| *byte == b'\n') {
                assert!(
                    (start as u64..end as u64).contains(&offset),
                    "a line of another split"
                );
                lines.push((number, offset, line.to_vec()));
                offset += line.len() as u64;
                number += 1;
            }
        }
    }
    lines
}

/// The same from the text alone.
fn expected(text: &[u8], split_bytes: usize) -> Vec<(u64, u64, Vec<u8>)> {
    let (mut lines, mut offset, mut split, mut number) = (Vec::new(), 0, 0, 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if offset / split_bytes != split {
            (split, number) = (offset / split_bytes, 0);
        }
        number += 1;
        lines.push((number, offset as u64, line.to_vec()));
        offset += line.len();
    }
    lines
}

/// Text of lines: empty ones, `\r\n`, long ones, perhaps none at the end.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        3 => "[a-z]{0,12}",
        1 => Just(String::new()),
        1 => "[a-z]{0,6}\r",
        1 => "[a-z]{50,300}",
    ];
    (prop::collection::vec(line, 0..40), any::<bool>()).prop_map(|(lines, ended)| {
        let mut text = lines.join("\n").into_bytes();
        if ended {
            text.push(b'\n');
        }
        text
    })
}

proptest! {
    #[test]
    fn any_cut_gives_each_line_once(text in text(), split_bytes in 1_usize..400, chunk_bytes in 1_usize..200) {
        let limits = LineLimits { chunk_bytes, ..ROOMY };
        prop_assert_eq!(scan(&text, split_bytes, limits), expected(&text, split_bytes));
    }

    #[test]
    fn too_long_lines_are_cut_short_and_harm_no_neighbour(
        text in text(), split_bytes in 1_usize..400, chunk_bytes in 1_usize..60, record_bytes_max in 0_usize..100,
    ) {
        let limits = LineLimits { chunk_bytes, record_bytes_max };
        let longest = chunk_bytes.max(record_bytes_max);
        let mut expected = expected(&text, split_bytes);
        for (_, _, line) in &mut expected {
            let length = line.len() - usize::from(line.ends_with(b"\n"));
            if length > longest {
                line.truncate(record_bytes_max + 1);
            }
        }
        prop_assert_eq!(scan_by_chunk(&text, split_bytes, limits), expected);
    }
}

/// Like [`scan`] but trusts offsets and numbers of chunks: a cut line does not say where the next begins.
fn scan_by_chunk(text: &[u8], split_bytes: usize, limits: LineLimits) -> Vec<(u64, u64, Vec<u8>)> {
    let mut lines = Vec::new();
    for start in (0..text.len()).step_by(split_bytes) {
        let end = (start + split_bytes).min(text.len());
        let mut chunks = LineChunks::new(&text[start.saturating_sub(1)..], start as u64, end as u64, limits);
        while let Some(chunk) = chunks.next_chunk().unwrap() {
            let (mut number, mut offset) = (chunk.line, chunk.offset);
            for line in chunk.bytes.split_inclusive(|byte| *byte == b'\n') {
                lines.push((number, offset, line.to_vec()));
                offset += line.len() as u64;
                number += 1;
            }
        }
    }
    lines
}

#[test]
fn memory_stays_bounded_by_the_limits_however_long_a_line_is() {
    let text = [vec![b'x'; 1 << 20], b"\nnext\n".to_vec()].concat();
    let limits = LineLimits {
        chunk_bytes: 1000,
        record_bytes_max: 5000,
    };
    let mut chunks = LineChunks::new(text.as_slice(), 0, text.len() as u64, limits);
    let cut = chunks.next_chunk().unwrap().unwrap();
    assert_eq!((cut.line, cut.offset, cut.bytes.len()), (1, 0, 5001));
    assert!(cut.bytes.capacity() <= 16384);
    let next = chunks.next_chunk().unwrap().unwrap();
    assert_eq!(
        (next.line, next.offset, next.bytes.as_slice()),
        (2, (1 << 20) + 1, b"next\n".as_slice())
    );
    assert!(chunks.next_chunk().unwrap().is_none());
}

#[test]
fn a_byte_order_mark_belongs_to_no_line() {
    let text = b"\xEF\xBB\xBF{}\n{}\n";
    let mut chunks = LineChunks::new(text.as_slice(), 0, 9, ROOMY);
    let chunk = chunks.next_chunk().unwrap().unwrap();
    assert_eq!(
        (chunk.line, chunk.offset, chunk.bytes.as_slice()),
        (1, 3, b"{}\n{}\n".as_slice())
    );
}

#[test]
fn whole_lines_before_a_failed_read_are_passed_on_before_the_error() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(Error::other("broken"))
        }
    }
    for (text, whole) in [("1\n2\n3", Some("1\n2\n")), ("1", None)] {
        let mut chunks = LineChunks::new(text.as_bytes().chain(Broken), 0, u64::MAX, ROOMY);
        if let Some(whole) = whole {
            assert_eq!(chunks.next_chunk().unwrap().unwrap().bytes, whole.as_bytes());
        }
        assert_eq!(chunks.next_chunk().unwrap_err().to_string(), "broken");
        assert!(chunks.next_chunk().unwrap().is_none());
    }
}
