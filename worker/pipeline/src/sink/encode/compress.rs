//! Compression of pages. For Zstandard there are three ways to a valid frame, and each column learns from
//! its first page which one pays: the declared level; entropy coding alone, for texts without repeats
//! (ids, hashes), at a multiple of the speed; or stored as it is, for bits that are packed already.

use std::io;

use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use crate::spec::model::Compression;

/// How a column's pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As declared.
    Declared,
    /// Entropy coding without a search for repeats.
    Entropy,
    /// Not at all, in a frame of its own.
    Stored,
}

/// A smaller page says nothing about the next ones.
const SAMPLE_MIN: usize = 4 << 10;
/// Pages after which a column's mode is looked at again.
const SAMPLE_AGE: u32 = 200;

/// What a column has learned.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Learned {
    mode: Option<Mode>,
    age: u32,
}

/// Compressors of a task, reused from page to page.
pub(crate) struct Pages {
    declared: Compression,
    level: Option<Compressor<'static>>,
    entropy: Option<Compressor<'static>>,
    out: Vec<u8>,
    other: Vec<u8>,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").field("declared", &self.declared).finish()
    }
}

impl Pages {
    /// Compressors for what is declared.
    pub(crate) fn new(declared: Compression) -> io::Result<Self> {
        let (level, entropy) = match declared {
            Compression::Zstd(level) => {
                let mut entropy = Compressor::new(1)?;
                // The smallest table and the longest match: the search finds nothing and skips ahead.
                entropy.set_parameter(CParameter::HashLog(6))?;
                entropy.set_parameter(CParameter::MinMatch(7))?;
                (Some(Compressor::new(level)?), Some(entropy))
            }
            Compression::None | Compression::Snappy | Compression::Lz4 => (None, None),
        };
        Ok(Self {
            declared,
            level,
            entropy,
            out: Vec::new(),
            other: Vec::new(),
        })
    }

    /// What is declared.
    pub(crate) fn declared(&self) -> Compression {
        self.declared
    }

    /// The page, compressed as the column has learned.
    pub(crate) fn compress(&mut self, page: &[u8], learned: &mut Learned) -> io::Result<&[u8]> {
        if let Compression::Zstd(_) = self.declared {
            learned.age += 1;
            match learned.mode {
                Some(mode) if learned.age < SAMPLE_AGE => self.run(page, mode)?,
                _ => {
                    let mode = self.try_all(page)?;
                    if page.len() >= SAMPLE_MIN {
                        *learned = Learned {
                            mode: Some(mode),
                            age: 0,
                        };
                    }
                }
            }
        } else {
            self.run(page, Mode::Declared)?;
        }
        Ok(&self.out)
    }

    /// The page, compressed as declared: for pages that come once a chunk.
    pub(crate) fn compress_once(&mut self, page: &[u8]) -> io::Result<&[u8]> {
        self.run(page, Mode::Declared)?;
        Ok(&self.out)
    }

    /// Leaves the best of all ways in `out`: a slower one must earn its time.
    fn try_all(&mut self, page: &[u8]) -> io::Result<Mode> {
        self.run(page, Mode::Declared)?;
        let declared = self.out.len();
        std::mem::swap(&mut self.out, &mut self.other);
        self.run(page, Mode::Entropy)?;
        let entropy = self.out.len();
        if declared.min(entropy) * 100 >= page.len() * 96 {
            self.run(page, Mode::Stored)?;
            return Ok(Mode::Stored);
        }
        if entropy * 100 <= declared * 103 {
            return Ok(Mode::Entropy);
        }
        std::mem::swap(&mut self.out, &mut self.other);
        Ok(Mode::Declared)
    }

    fn run(&mut self, page: &[u8], mode: Mode) -> io::Result<()> {
        let out = &mut self.out;
        out.clear();
        let compressor = match mode {
            Mode::Declared => self.level.as_mut(),
            Mode::Entropy => self.entropy.as_mut(),
            Mode::Stored => {
                store(page, out);
                return Ok(());
            }
        };
        match (compressor, self.declared) {
            (Some(compressor), _) => {
                out.reserve(zstd::zstd_safe::compress_bound(page.len()));
                compressor.compress_to_buffer(page, out)?;
            }
            (None, Compression::Snappy) => {
                out.resize(snap::raw::max_compress_len(page.len()), 0);
                let length = snap::raw::Encoder::new()
                    .compress(page, out)
                    .map_err(io::Error::other)?;
                out.truncate(length);
            }
            (None, Compression::Lz4) => {
                out.resize(lz4_flex::block::get_maximum_output_size(page.len()), 0);
                let length = lz4_flex::block::compress_into(page, out).map_err(io::Error::other)?;
                out.truncate(length);
            }
            (None, Compression::None | Compression::Zstd(_)) => out.extend_from_slice(page),
        }
        Ok(())
    }
}

/// A Zstandard frame (RFC 8878) of raw blocks.
fn store(page: &[u8], out: &mut Vec<u8>) {
    const BLOCK_MAX: usize = 128 << 10;
    out.extend_from_slice(&0xFD2F_B528_u32.to_le_bytes());
    out.push(0xA0); // one segment, content size in four bytes
    out.extend_from_slice(&(page.len() as u32).to_le_bytes());
    let mut blocks = page.chunks(BLOCK_MAX).peekable();
    if page.is_empty() {
        out.extend_from_slice(&[1, 0, 0]);
    }
    while let Some(block) = blocks.next() {
        let is_last = u32::from(blocks.peek().is_none());
        let header = (block.len() as u32) << 3 | is_last;
        out.extend_from_slice(&header.to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_a_frame_is_read_back() {
        let mut pages = Pages::new(Compression::Zstd(1)).unwrap();
        for size in [0usize, 1, 300, 128 << 10, (128 << 10) + 1, 400_000] {
            let page: Vec<u8> = (0..size as u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 25) as u8)
                .collect();
            for mode in [Mode::Declared, Mode::Entropy, Mode::Stored] {
                pages.run(&page, mode).unwrap();
                let back = zstd::bulk::decompress(&pages.out, size.max(1)).unwrap();
                assert!(back == page, "{mode:?} of {size} bytes");
            }
        }
    }

    #[test]
    fn a_column_learns_what_pays() {
        let learn = |page: &[u8]| {
            let mut pages = Pages::new(Compression::Zstd(1)).unwrap();
            let mut learned = Learned::default();
            pages.compress(page, &mut learned).unwrap();
            learned.mode
        };
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        let bits: Vec<u8> = (0..100_000).map(|_| random()).collect();
        let hex: Vec<u8> = bits
            .iter()
            .map(|byte| b"0123456789abcdef"[usize::from(byte & 15)])
            .collect();
        let words = [
            "https://shop.example/shoes",
            "https://shop.example/garden",
            "?utm_source=mail",
            "&utm_medium=web",
        ];
        let text: String = bits
            .iter()
            .take(8_000)
            .map(|byte| format!("{}/{byte}", words[usize::from(byte & 3)]))
            .collect();
        let text = text.into_bytes();
        assert_eq!(learn(&bits), Some(Mode::Stored));
        assert_eq!(learn(&hex), Some(Mode::Entropy));
        assert_eq!(learn(&text), Some(Mode::Declared));
        assert_eq!(learn(b"short"), None);
    }
}
