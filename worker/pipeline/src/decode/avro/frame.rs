//! The frame of an Avro object container file: a header, then blocks of records, each behind a marker.
//!
//! In: the file's bytes. Out: the same records as a file without compression, whose blocks are known to be whole: the
//! marker is the header's, the block unpacks, and its bytes are as many records as it says.
//!
//! That is checked here because arrow-avro 59 passes over markers, and never comes to an end in a block that says fewer
//! records than it has.

use std::io::{self, BufRead, Read, Write};

use super::walk::Walk;

const MAGIC: &[u8; 4] = b"Obj\x01";
const MARKER_BYTES: usize = 16;
/// Largest block, packed or unpacked. Writers make blocks of some 64 KiB.
const BLOCK_BYTES_MAX: u64 = 1 << 30;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
enum FrameError {
    #[error("it does not begin as an Avro object container file does")]
    Magic,
    #[error("its header has no schema that is one")]
    Schema,
    #[error("blocks packed with `{codec}` cannot be read: only null, deflate, snappy and zstandard")]
    Codec { codec: String },
    #[error("it ends in the middle of {}", place(*block))]
    CutOff { block: u64 },
    #[error("{} has a length that no writer gives: {length} bytes", place(*block))]
    Length { block: u64, length: i64 },
    #[error("{} does not end with the file's marker", place(*block))]
    Marker { block: u64 },
    #[error("{} does not unpack", place(*block))]
    Packing { block: u64 },
    #[error("{} is not the {count} records that it says", place(*block))]
    Records { block: u64, count: i64 },
}

/// The header is block 0.
fn place(block: u64) -> String {
    match block {
        0 => "the header".to_owned(),
        block => format!("block {block}"),
    }
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[derive(Debug, Clone, Copy)]
enum Packing {
    Null,
    Deflate,
    Snappy,
    Zstandard,
}

#[derive(Debug)]
struct Header {
    packing: Packing,
    walk: Walk,
    marker: [u8; MARKER_BYTES],
}

/// A reader of the same file with sound, unpacked blocks.
#[derive(Debug)]
pub(super) struct Framed<R> {
    input: R,
    header: Option<Header>,
    block: u64,
    /// What is ready, from `at` on.
    ready: Vec<u8>,
    at: usize,
}

impl<R: BufRead> Framed<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            header: None,
            block: 0,
            ready: Vec::new(),
            at: 0,
        }
    }

    fn read_header(&mut self) -> io::Result<Header> {
        let mut magic = [0; MAGIC.len()];
        self.input
            .read_exact(&mut magic)
            .map_err(|error| at_end(error, FrameError::Magic))?;
        if &magic != MAGIC {
            return Err(FrameError::Magic.into());
        }
        self.ready.extend_from_slice(MAGIC);
        let (mut packing, mut walk) = (Packing::Null, None);
        loop {
            let count = self.long()?;
            if count == 0 {
                break;
            }
            if count < 0 {
                self.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                let (name, value) = (self.sized()?, self.sized()?);
                match name.as_slice() {
                    b"avro.codec" => packing = packing_of(&value)?,
                    b"avro.schema" => walk = Walk::of(&value),
                    _ => {}
                }
                if name != b"avro.codec" {
                    put_long(&mut self.ready, 1);
                    for part in [name, value] {
                        put_long(&mut self.ready, part.len() as u64);
                        self.ready.extend(part);
                    }
                }
            }
        }
        put_long(&mut self.ready, 0);
        let marker = self.marker()?;
        self.ready.extend_from_slice(&marker);
        let walk = walk.ok_or(FrameError::Schema)?;
        Ok(Header {
            packing,
            walk,
            marker,
        })
    }

    /// Makes the next block ready; none at the end of the file.
    fn read_block(&mut self, header: &Header) -> io::Result<()> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(());
        }
        self.block += 1;
        let block = self.block;
        let (count, packed) = (self.long()?, self.sized()?);
        if self.marker()? != header.marker {
            return Err(FrameError::Marker { block }.into());
        }
        let bytes = unpack(packed, header.packing).ok_or(FrameError::Packing { block })?;
        if count < 0 || !header.walk.is_records(&bytes, count) {
            return Err(FrameError::Records { block, count }.into());
        }
        put_long(&mut self.ready, count.unsigned_abs());
        put_long(&mut self.ready, bytes.len() as u64);
        self.ready.extend(bytes);
        self.ready.extend_from_slice(&header.marker);
        Ok(())
    }

    fn marker(&mut self) -> io::Result<[u8; MARKER_BYTES]> {
        let mut marker = [0; MARKER_BYTES];
        let read = self.input.read_exact(&mut marker);
        read.map_err(|error| self.cut_off(error))?;
        Ok(marker)
    }

    fn long(&mut self) -> io::Result<i64> {
        let (mut bytes, mut length) = ([0; 10], 0);
        loop {
            let Some(byte) = bytes.get_mut(length..=length) else {
                let (block, length) = (self.block, i64::MAX);
                return Err(FrameError::Length { block, length }.into());
            };
            let read = self.input.read_exact(byte);
            read.map_err(|error| self.cut_off(error))?;
            length += 1;
            if bytes[length - 1] & 0x80 == 0 {
                let cut_off = FrameError::CutOff { block: self.block };
                return Ok(super::walk::varint(&mut &bytes[..]).ok_or(cut_off)?);
            }
        }
    }

    /// Bytes behind their length. They are taken as they come: a wrong length costs no memory.
    fn sized(&mut self) -> io::Result<Vec<u8>> {
        let (block, length) = (self.block, self.long()?);
        let wanted = u64::try_from(length)
            .ok()
            .filter(|length| *length <= BLOCK_BYTES_MAX);
        let wanted = wanted.ok_or(FrameError::Length { block, length })?;
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(wanted).read_to_end(&mut bytes)?;
        if (read as u64) < wanted {
            return Err(FrameError::CutOff { block }.into());
        }
        Ok(bytes)
    }

    fn cut_off(&self, error: io::Error) -> io::Error {
        at_end(error, FrameError::CutOff { block: self.block })
    }
}

/// What a failed read means where more was to come.
fn at_end(error: io::Error, meaning: FrameError) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return meaning.into();
    }
    error
}

impl<R: BufRead> BufRead for Framed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.ready.len() {
            self.ready.clear();
            self.at = 0;
            let header = match self.header.take() {
                Some(header) => {
                    self.read_block(&header)?;
                    header
                }
                None => self.read_header()?,
            };
            self.header = Some(header);
        }
        Ok(self.ready.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.ready.len());
    }
}

impl<R: BufRead> Read for Framed<R> {
    fn read(&mut self, mut out: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let written = out.write(ready)?;
        self.consume(written);
        Ok(written)
    }
}

fn packing_of(codec: &[u8]) -> Result<Packing, FrameError> {
    match codec {
        b"null" => Ok(Packing::Null),
        b"deflate" => Ok(Packing::Deflate),
        b"snappy" => Ok(Packing::Snappy),
        b"zstandard" => Ok(Packing::Zstandard),
        other => Err(FrameError::Codec {
            codec: String::from_utf8_lossy(other).into_owned(),
        }),
    }
}

/// A block's records; none when it does not unpack, or to more than [`BLOCK_BYTES_MAX`].
fn unpack(packed: Vec<u8>, packing: Packing) -> Option<Vec<u8>> {
    match packing {
        Packing::Null => Some(packed),
        Packing::Deflate => all(flate2::read::DeflateDecoder::new(packed.as_slice())),
        Packing::Zstandard => all(zstd::Decoder::new(packed.as_slice()).ok()?),
        Packing::Snappy => {
            let (packed, sum) = packed.split_last_chunk::<4>()?;
            let length = snap::raw::decompress_len(packed).ok()?;
            if length as u64 > BLOCK_BYTES_MAX {
                return None;
            }
            let bytes = snap::raw::Decoder::new().decompress_vec(packed).ok()?;
            let mut found = flate2::Crc::new();
            found.update(&bytes);
            (found.sum() == u32::from_be_bytes(*sum)).then_some(bytes)
        }
    }
}

fn all(unpacked: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = unpacked.take(BLOCK_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    (read as u64 <= BLOCK_BYTES_MAX).then_some(bytes)
}

/// Appends a number that is not negative, as Avro writes it.
fn put_long(out: &mut Vec<u8>, number: u64) {
    let mut zigzag = number << 1;
    while zigzag >= 0x80 {
        out.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use arrow_avro::compression::CompressionCodec;
    use arrow_avro::writer::WriterBuilder;
    use arrow_avro::writer::format::AvroOcfFormat;

    use super::*;

    /// Two blocks of three records each.
    fn file(codec: Option<CompressionCodec>) -> Vec<u8> {
        let ids: Arc<Int64Array> = Arc::new((0..3).collect());
        let texts = Arc::new(StringArray::from(vec![
            Some("a long text a long text"),
            None,
            Some(""),
        ]));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("id", ids as Arc<dyn arrow::array::Array>, false),
            ("text", texts, true),
        ])
        .unwrap();
        let builder = WriterBuilder::new(batch.schema().as_ref().clone()).with_compression(codec);
        let mut writer = builder.build::<_, AvroOcfFormat>(Vec::new()).unwrap();
        writer.write(&batch).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        writer.into_inner()
    }

    fn framed(file: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Framed::new(file).read_to_end(&mut out)?;
        Ok(out)
    }

    fn error(file: &[u8]) -> String {
        framed(file).unwrap_err().to_string()
    }

    #[test]
    fn every_packing_gives_the_same_blocks() {
        let plain = framed(&file(None)).unwrap();
        let rows = |bytes: &[u8]| -> usize {
            let reader = arrow_avro::reader::ReaderBuilder::new().build(bytes).unwrap();
            reader.map(|batch| batch.unwrap().num_rows()).sum()
        };
        assert_eq!(rows(&plain), 6);
        for codec in [
            CompressionCodec::Deflate,
            CompressionCodec::Snappy,
            CompressionCodec::ZStandard,
        ] {
            let unpacked = framed(&file(Some(codec))).unwrap();
            assert_eq!(rows(&unpacked), 6, "{codec:?}");
            // Only the markers, which are random, differ.
            assert_eq!(unpacked.len(), plain.len(), "{codec:?}");
        }
    }

    #[test]
    fn damage_is_an_error_that_says_where() {
        let sound = file(None);
        let marker = sound[sound.len() - MARKER_BYTES..].to_vec();
        let header = sound
            .windows(MARKER_BYTES)
            .position(|bytes| bytes == marker)
            .unwrap()
            + MARKER_BYTES;
        // The first block begins with its count: three.
        assert_eq!(sound[header], 6);
        for count in [0, 2, 4, 8, 5] {
            let mut file = sound.clone();
            file[header] = count;
            assert!(
                error(&file).starts_with("block 1 is not the "),
                "{}",
                error(&file)
            );
        }
        let mut file = sound.clone();
        *file.last_mut().unwrap() ^= 1;
        assert_eq!(error(&file), "block 2 does not end with the file's marker");
        for end in header + 1..sound.len() {
            if let Err(error) = framed(&sound[..end]) {
                assert!(
                    error.to_string().contains("ends in the middle of block"),
                    "{error}"
                );
            }
        }
        assert_eq!(error(&sound[..header - 1]), "it ends in the middle of the header");
        assert!(error(b"PAR1").contains("does not begin"));
    }

    #[test]
    fn a_packed_block_that_was_changed_does_not_unpack() {
        let mut file = file(Some(CompressionCodec::Snappy));
        // The last byte of the checksum of the last block.
        let at = file.len() - MARKER_BYTES - 1;
        file[at] ^= 1;
        assert_eq!(error(&file), "block 2 does not unpack");
    }
}
