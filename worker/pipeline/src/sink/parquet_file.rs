//! A partition's rows as a Parquet file, sorted by event time, partition columns last.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Date32Array, Int32Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, sort_to_indices, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::buffer::PartitionBuffer;
use super::{SinkError, SinkSpec};
use crate::spec::model::{Compression, PartitionLevel};

/// A finished file.
#[derive(Debug)]
pub(super) struct EncodedFile {
    pub(super) content: Vec<u8>,
    pub(super) rows: u64,
    pub(super) time_min: i64,
    pub(super) time_max: i64,
}

/// Makes files.
#[derive(Debug)]
pub(super) struct FileWriter {
    table: SchemaRef,
    schema: SchemaRef,
    levels: Vec<PartitionLevel>,
    time: usize,
    codec: Codec,
    buffered: usize,
}

impl FileWriter {
    pub(super) fn new(spec: &SinkSpec) -> Result<Self, SinkError> {
        let mut fields: Vec<Field> = spec
            .table
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        let table = Arc::new(Schema::new(fields.clone()));
        for level in &spec.partition.by {
            fields.push(match level {
                PartitionLevel::Date => Field::new("date", DataType::Date32, false),
                PartitionLevel::Hour => Field::new("hour", DataType::Int32, false),
                PartitionLevel::Source => Field::new("source", DataType::Utf8, true),
            });
        }
        let time = table.index_of(&spec.partition.time)?;
        let codec = match spec.compression {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Snappy => Codec::SNAPPY,
            Compression::Lz4 => Codec::LZ4_RAW,
            Compression::Zstd(level) => Codec::ZSTD(ZstdLevel::try_new(level).unwrap_or_default()),
        };
        Ok(Self {
            table,
            schema: Arc::new(Schema::new(fields)),
            levels: spec.partition.by.clone(),
            time,
            codec,
            buffered: 0,
        })
    }

    pub(super) fn new_buffer(&self) -> PartitionBuffer {
        PartitionBuffer::default()
    }

    pub(super) fn append(
        &mut self,
        buffer: &mut PartitionBuffer,
        columns: &[ArrayRef],
        rows: &[u32],
    ) -> Result<(), SinkError> {
        let rows = UInt32Array::from(rows.to_vec());
        let taken: Result<Vec<_>, _> = columns.iter().map(|column| take(column, &rows, None)).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.table), taken?)?;
        let bytes = batch.num_rows() * 300;
        self.buffered += bytes;
        buffer.bytes += bytes;
        buffer.rows += batch.num_rows();
        buffer.batches.push(batch);
        Ok(())
    }

    pub(super) fn settle(&mut self, _: &mut [PartitionBuffer]) {}

    pub(super) fn file_bytes(&self, buffer: &PartitionBuffer) -> u64 {
        buffer.bytes as u64 / 3
    }

    pub(super) fn bytes(&self) -> usize {
        0
    }

    pub(super) fn buffered(&self) -> usize {
        self.buffered
    }

    pub(super) fn write(
        &mut self,
        buffer: &mut PartitionBuffer,
        day: Option<i64>,
        hour: Option<i64>,
        source: Option<&str>,
    ) -> Result<EncodedFile, SinkError> {
        let wrap = |source| SinkError::Encode {
            column: "data".to_owned(),
            source,
        };
        let buffer = std::mem::take(buffer);
        self.buffered -= buffer.bytes;
        let batch = concat_batches(&self.table, &buffer.batches)?;
        let order = sort_to_indices(batch.column(self.time), None, None)?;
        let batch = take_record_batch(&batch, &order)?;
        let rows = batch.num_rows();
        let mut columns = batch.columns().to_vec();
        for level in &self.levels {
            columns.push(match level {
                PartitionLevel::Date => {
                    Arc::new(Date32Array::from(vec![day.unwrap_or_default() as i32; rows])) as ArrayRef
                }
                PartitionLevel::Hour => {
                    Arc::new(Int32Array::from(vec![hour.unwrap_or_default() as i32; rows]))
                }
                PartitionLevel::Source => Arc::new(StringArray::from(vec![source; rows])),
            });
        }
        let times = batch.column(self.time).as_primitive::<TimestampMicrosecondType>();
        let (time_min, time_max) = (times.value(0), times.value(times.len() - 1));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let properties = WriterProperties::builder().set_compression(self.codec).build();
        let mut writer =
            ArrowWriter::try_new(Vec::new(), Arc::clone(&self.schema), Some(properties)).map_err(wrap)?;
        writer.write(&batch).map_err(wrap)?;
        Ok(EncodedFile {
            content: writer.into_inner().map_err(wrap)?,
            rows: rows as u64,
            time_min,
            time_max,
        })
    }
}
