//! A column chunk as its pages come up.
//!
//! Data pages are of version 1: every reader knows them.

use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression as Codec, Encoding, Type, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescPtr;

use super::EncodeError;
use super::bits::{hybrid, varint, zigzag};
use super::compress::{Learned, Pages};
use crate::spec::model::Compression;

/// What a page's values are encoded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Dictionary,
    Delta,
    DeltaLength,
}

impl Form {
    fn encoding(self) -> (u8, Encoding) {
        match self {
            Self::Plain => (0, Encoding::PLAIN),
            // The name that version 1 pages give to it.
            #[allow(deprecated)]
            Self::Dictionary => (2, Encoding::PLAIN_DICTIONARY),
            Self::Delta => (5, Encoding::DELTA_BINARY_PACKED),
            Self::DeltaLength => (6, Encoding::DELTA_LENGTH_BYTE_ARRAY),
        }
    }
}

const DATA_PAGE: i64 = 0;
const DICTIONARY_PAGE: i64 = 2;
const RLE: i64 = 3;

/// Pages of one column chunk.
pub(super) struct Chunk {
    bytes: Vec<u8>,
    raw_bytes: usize,
    dictionary_bytes: Option<usize>,
    encodings: Vec<Encoding>,
    offsets: OffsetIndexBuilder,
    bounds: Option<ColumnIndexBuilder>,
    rows: usize,
}

impl Chunk {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            raw_bytes: 0,
            dictionary_bytes: None,
            encodings: vec![Encoding::RLE], // of the definition levels
            offsets: OffsetIndexBuilder::new(),
            bounds: None,
            rows: 0,
        }
    }

    /// The dictionary, before any data page. Its values are plain.
    pub(super) fn dictionary(
        &mut self,
        raw: &[u8],
        values: usize,
        pages: &mut Pages,
    ) -> Result<(), EncodeError> {
        let compressed = pages.compress_once(raw)?;
        let mut header = page_header(DICTIONARY_PAGE, raw.len(), compressed.len());
        header.push(0x4C); // field 7: struct
        field(&mut header, values as i64);
        field(&mut header, i64::from(Form::Dictionary.encoding().0));
        header.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(compressed);
        self.raw_bytes += header.len() + raw.len();
        self.dictionary_bytes = Some(self.bytes.len());
        Ok(())
    }

    /// A data page of `rows` rows: levels, then values.
    pub(super) fn data(
        &mut self,
        raw: &[u8],
        rows: usize,
        form: Form,
        pages: &mut Pages,
        learned: &mut Learned,
    ) -> Result<(), EncodeError> {
        let compressed = pages.compress(raw, learned)?;
        let (number, encoding) = form.encoding();
        let mut header = page_header(DATA_PAGE, raw.len(), compressed.len());
        header.push(0x2C); // field 5: struct
        field(&mut header, rows as i64);
        field(&mut header, i64::from(number));
        field(&mut header, RLE);
        field(&mut header, RLE);
        header.extend_from_slice(&[0, 0]);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(compressed);
        self.offsets.append_row_count(rows as i64);
        self.offsets
            .append_offset_and_size(start as i64, (self.bytes.len() - start) as i32);
        self.raw_bytes += header.len() + raw.len();
        self.rows += rows;
        if !self.encodings.contains(&encoding) {
            self.encodings.push(encoding);
        }
        Ok(())
    }

    /// Bytes so far.
    pub(super) fn compressed_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Least and greatest value of the page just written; ascending from page to page.
    pub(super) fn ascending_bounds(&mut self, min: i64, max: i64) {
        let bounds = self.bounds.get_or_insert_with(|| {
            let mut bounds = ColumnIndexBuilder::new(Type::INT64);
            bounds.set_boundary_order(BoundaryOrder::ASCENDING);
            bounds
        });
        bounds.append(false, min.to_le_bytes().to_vec(), max.to_le_bytes().to_vec(), 0);
    }

    /// The chunk, ready to be spliced into a row group.
    pub(super) fn finish(
        self,
        descriptor: ColumnDescPtr,
        statistics: Option<Statistics>,
        declared: Compression,
    ) -> Result<(Bytes, ColumnCloseResult), EncodeError> {
        let mut metadata = ColumnChunkMetaData::builder(descriptor)
            .set_encodings(self.encodings)
            .set_compression(codec(declared))
            .set_num_values(self.rows as i64)
            .set_total_compressed_size(self.bytes.len() as i64)
            .set_total_uncompressed_size(self.raw_bytes as i64)
            .set_dictionary_page_offset(self.dictionary_bytes.map(|_| 0))
            .set_data_page_offset(self.dictionary_bytes.unwrap_or_default() as i64);
        if let Some(statistics) = statistics {
            metadata = metadata.set_statistics(statistics);
        }
        let close = ColumnCloseResult {
            bytes_written: self.bytes.len() as u64,
            rows_written: self.rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: self.bounds.map(ColumnIndexBuilder::build).transpose()?,
            offset_index: Some(self.offsets.build()),
        };
        Ok((Bytes::from(self.bytes), close))
    }
}

/// The codec's name in the file.
pub(super) fn codec(declared: Compression) -> Codec {
    match declared {
        Compression::None => Codec::UNCOMPRESSED,
        Compression::Snappy => Codec::SNAPPY,
        Compression::Lz4 => Codec::LZ4_RAW,
        Compression::Zstd(level) => Codec::ZSTD(ZstdLevel::try_new(level).unwrap_or_default()),
    }
}

/// Definition levels of an optional column: 1 where there is a value.
pub(super) fn levels(out: &mut Vec<u8>, valid: Option<&[bool]>, rows: usize) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    match valid {
        None => {
            varint(out, (rows as u64) << 1);
            out.push(1);
        }
        Some(valid) => {
            let levels: Vec<u32> = valid.iter().map(|valid| u32::from(*valid)).collect();
            hybrid(out, &levels, 1);
        }
    }
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// The first three fields of a page header, in Thrift's compact protocol.
fn page_header(kind: i64, raw: usize, compressed: usize) -> Vec<u8> {
    let mut header = Vec::with_capacity(32);
    field(&mut header, kind);
    field(&mut header, raw as i64);
    field(&mut header, compressed as i64);
    header
}

/// The next field, an i32.
fn field(out: &mut Vec<u8>, value: i64) {
    out.push(0x15);
    zigzag(out, value);
}
