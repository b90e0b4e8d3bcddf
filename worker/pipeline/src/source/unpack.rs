//! Decompression by file name: `.gz` (also several members in a row) and `.zst` (also several frames).
//!
//! What ends early or is damaged gives an error where it happens; all that came before was passed on. Bytes
//! behind the last gzip member that are no member are damage too: whoever wrote them meant something.

use std::io::{BufReader, Read};

/// How an object is packed, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Packed bytes are taken in pieces of this size.
const PACKED_BYTES: usize = 256 << 10;

impl Packing {
    pub(crate) fn of(url: &str) -> Self {
        let extension = url.rsplit_once('.').map_or("", |(_, extension)| extension);
        if extension.eq_ignore_ascii_case("gz") {
            Self::Gzip
        } else if extension.eq_ignore_ascii_case("zst") {
            Self::Zstd
        } else {
            Self::Plain
        }
    }

    /// The unpacked bytes.
    ///
    /// # Errors
    /// When no decompressor can be made, for want of memory.
    pub(crate) fn unpack<'a>(self, packed: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
        let buffered = |packed| BufReader::with_capacity(PACKED_BYTES, packed);
        Ok(match self {
            Self::Plain => Box::new(packed),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(packed))),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(buffered(packed))?),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn members_and_frames_in_a_row_are_one_content() {
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        for (packing, packed) in [
            (
                Packing::Gzip,
                [gzip(b"one\n"), gzip(b""), gzip(b"two\n")].concat(),
            ),
            (
                Packing::Zstd,
                [zstd(b"one\n"), zstd(b""), zstd(b"two\n")].concat(),
            ),
        ] {
            let mut content = Vec::new();
            packing
                .unpack(packed.as_slice())
                .unwrap()
                .read_to_end(&mut content)
                .unwrap();
            assert_eq!(content, b"one\ntwo\n", "{packing:?}");
        }
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let text = "line of text\n".repeat(1000);
        for (packing, packed) in [
            (Packing::Gzip, gzip(text.as_bytes())),
            (Packing::Zstd, zstd::encode_all(text.as_bytes(), 1).unwrap()),
        ] {
            for end in [1, packed.len() / 2, packed.len() - 1] {
                let mut content = Vec::new();
                let read = packing.unpack(&packed[..end]).unwrap().read_to_end(&mut content);
                assert!(read.is_err(), "{packing:?} cut at {end}");
            }
        }
    }
}
