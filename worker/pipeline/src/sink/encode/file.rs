//! Whole files: row groups of sorted rows, partition columns last.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt64Array};
use arrow::compute::{cast, concat, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, compute_leaves};
use parquet::data_type::ByteArray;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::SchemaDescPtr;

use super::EncodeError;
use super::buffer::{Column, PartitionBuffer, Values, owned, settle};
use super::column::{Group, Workshop};
use super::compress::Pages;
use super::order::Order;
use super::page::codec;
use super::statistics::TextBounds;
use crate::spec::model::{Compression, PartitionLevel};

/// Most rows of a row group: readers take row groups in parallel and skip them whole.
const GROUP_ROWS: usize = 1 << 19;
/// Compressed share of buffered bytes until a file was written.
const RATIO: f64 = 0.4;

/// What all files of a task have in common.
#[derive(Debug)]
pub(crate) struct FileShape<'a> {
    /// The table.
    pub(crate) table: &'a Schema,
    /// Position of the event time in it.
    pub(crate) time: usize,
    /// Partition columns.
    pub(crate) levels: &'a [PartitionLevel],
    /// Compression.
    pub(crate) compression: Compression,
    /// Whether delta encodings may be used.
    pub(crate) delta: bool,
}

/// What a file's partition columns hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartitionValues<'a> {
    /// Days since 1970.
    pub(crate) day: i32,
    /// Hour of the day.
    pub(crate) hour: i32,
    /// Source.
    pub(crate) source: Option<&'a str>,
}

/// A finished file.
#[derive(Debug)]
pub(crate) struct EncodedFile {
    pub(crate) content: Vec<u8>,
    pub(crate) rows: u64,
    pub(crate) time_min: i64,
    pub(crate) time_max: i64,
}

/// Makes the files of a task.
#[derive(Debug)]
pub(crate) struct FileWriter {
    columns: Vec<Column>,
    levels: Vec<PartitionLevel>,
    time: usize,
    schema: SchemaRef,
    descriptor: SchemaDescPtr,
    properties: WriterPropertiesPtr,
    workshop: Workshop,
    buffered: usize,
    encoded: (f64, f64),
}

impl FileWriter {
    pub(crate) fn new(shape: &FileShape<'_>) -> Result<Self, EncodeError> {
        let mut fields: Vec<Field> = Vec::new();
        for (i, field) in shape.table.fields().iter().enumerate() {
            let field = field.as_ref().clone().with_nullable(i != shape.time);
            let owned = owned(field.data_type());
            fields.push(field.with_data_type(owned));
        }
        for level in shape.levels {
            let (name, data_type, is_nullable) = match level {
                PartitionLevel::Date => ("date", DataType::Date32, false),
                PartitionLevel::Hour => ("hour", DataType::Int32, false),
                PartitionLevel::Source => ("source", DataType::Utf8, true),
            };
            if fields.iter().any(|field| field.name() == name) {
                return Err(EncodeError::Twice {
                    column: name.to_owned(),
                });
            }
            fields.push(Field::new(name, data_type, is_nullable));
        }
        let schema = Arc::new(Schema::new(fields));
        let descriptor = ArrowSchemaConverter::new()
            .schema_root("event")
            .convert(&schema)?;
        let properties = WriterProperties::builder()
            .set_compression(codec(shape.compression))
            .set_created_by(concat!("millrace ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_sorting_columns(Some(vec![SortingColumn {
                column_idx: shape.time as i32,
                descending: false,
                nulls_first: false,
            }]))
            .build();
        let columns = shape.table.fields().iter();
        Ok(Self {
            columns: columns
                .map(|field| Column::new(field.name(), field.data_type()))
                .collect(),
            levels: shape.levels.to_vec(),
            time: shape.time,
            schema,
            descriptor: Arc::new(descriptor),
            properties: Arc::new(properties),
            workshop: Workshop::new(Pages::new(shape.compression)?, shape.delta),
            buffered: 0,
            encoded: (0.0, 0.0),
        })
    }

    /// A buffer for a partition.
    pub(crate) fn new_buffer(&self) -> PartitionBuffer {
        PartitionBuffer::new(&self.columns)
    }

    /// Copies some rows of a batch into a partition's buffer.
    pub(crate) fn append(
        &mut self,
        buffer: &mut PartitionBuffer,
        arrays: &[ArrayRef],
        rows: &[u32],
    ) -> Result<(), EncodeError> {
        let before = buffer.bytes();
        buffer.append(&mut self.columns, arrays, rows)?;
        self.buffered += buffer.bytes() - before;
        Ok(())
    }

    /// Lets columns change how they are kept. All buffers of the task must be given.
    pub(crate) fn settle(&mut self, buffers: &mut [PartitionBuffer]) {
        settle(&mut self.columns, buffers);
        self.buffered = buffers.iter().map(PartitionBuffer::bytes).sum();
    }

    /// Size of the file that the buffer would make, by experience.
    pub(crate) fn file_bytes(&self, buffer: &PartitionBuffer) -> u64 {
        let (raw, encoded) = self.encoded;
        let ratio = if raw > 0.0 { encoded / raw } else { RATIO };
        (buffer.bytes() as f64 * ratio) as u64
    }

    /// Memory held beside the buffers.
    pub(crate) fn bytes(&self) -> usize {
        self.columns.iter().map(|column| column.interner.bytes()).sum()
    }

    /// Memory held by all buffers.
    pub(crate) fn buffered(&self) -> usize {
        self.buffered
    }

    /// Turns the buffer into a file and leaves it empty.
    pub(crate) fn write(
        &mut self,
        buffer: &mut PartitionBuffer,
        partition: PartitionValues<'_>,
    ) -> Result<EncodedFile, EncodeError> {
        let empty = self.new_buffer();
        let buffer = std::mem::replace(buffer, empty);
        self.buffered = self.buffered.saturating_sub(buffer.bytes());
        let Values::Int64(times) = &buffer.values[self.time] else {
            return Err(EncodeError::Type {
                column: self.columns[self.time].name.clone(),
                found: self.columns[self.time].data_type.to_string(),
                expected: "timestamp".to_owned(),
            });
        };
        let time_min = times.iter().min().copied().unwrap_or_default();
        let time_max = times.iter().max().copied().unwrap_or_default();
        let order = Order::by_time(times);
        let nested = self.nested(&buffer, &order)?;
        let mut file = SerializedFileWriter::new(
            Vec::with_capacity(self.file_bytes(&buffer) as usize + (64 << 10)),
            self.descriptor.root_schema_ptr(),
            Arc::clone(&self.properties),
        )?;
        let groups = buffer.rows().div_ceil(GROUP_ROWS).max(1);
        let size = buffer.rows().div_ceil(groups).max(1);
        for (number, start) in (0..buffer.rows()).step_by(size).enumerate() {
            let group = Group {
                order: &order,
                positions: start..buffer.rows().min(start + size),
            };
            let lists = ArrowRowGroupWriterFactory::new(&file, Arc::clone(&self.schema));
            let mut writer = file.next_row_group()?;
            for (i, nested) in nested.iter().enumerate() {
                match nested {
                    Some(array) => {
                        let array = array.slice(start, group.positions.len());
                        self.write_nested(&lists, number, i, &array, &mut writer)?;
                    }
                    None => {
                        let descriptor = self.descriptor.column(i);
                        let (bytes, close) = self.workshop.encode(
                            &mut self.columns[i],
                            &buffer.values[i],
                            buffer.valid[i].as_deref(),
                            &group,
                            &descriptor,
                        )?;
                        writer.append_column(&bytes, close)?;
                    }
                }
            }
            self.write_partition(partition, group.positions.len(), &mut writer)?;
            writer.close()?;
        }
        let content = file.into_inner()?;
        self.encoded.0 += buffer.bytes() as f64;
        self.encoded.1 += content.len() as f64;
        Ok(EncodedFile {
            content,
            rows: buffer.rows() as u64,
            time_min,
            time_max,
        })
    }

    /// Sorted arrays of the columns that the general writer writes.
    fn nested(&self, buffer: &PartitionBuffer, order: &Order) -> Result<Vec<Option<ArrayRef>>, EncodeError> {
        let sorted = |values: &Values| {
            let Values::Nested(arrays) = values else {
                return Ok(None);
            };
            let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
            let rows = order.ranges(0..buffer.rows()).flatten().map(|row| row as u64);
            let rows = UInt64Array::from_iter_values(rows);
            Ok(Some(take(&concat(&arrays)?, &rows, None)?))
        };
        buffer.values.iter().map(sorted).collect()
    }

    fn write_nested(
        &self,
        lists: &ArrowRowGroupWriterFactory,
        group: usize,
        column: usize,
        array: &ArrayRef,
        row_group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    ) -> Result<(), EncodeError> {
        let field = self.schema.field(column);
        let array = cast(array, field.data_type())?;
        // A list has one leaf, so leaves count like columns.
        let writer = lists.create_column_writers(group)?.into_iter().nth(column);
        if let Some(mut writer) = writer {
            for leaf in compute_leaves(field, &array)? {
                writer.write(&leaf)?;
            }
            writer.close()?.append_to_row_group(row_group)?;
        }
        Ok(())
    }

    fn write_partition(
        &mut self,
        partition: PartitionValues<'_>,
        rows: usize,
        row_group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    ) -> Result<(), EncodeError> {
        for (i, level) in self.levels.iter().enumerate() {
            let number = |value: i32| {
                let statistics = Statistics::int32(Some(value), Some(value), None, Some(0), false);
                (Some(value.to_le_bytes().to_vec()), statistics)
            };
            let (value, statistics) = match (level, partition.source) {
                (PartitionLevel::Date, _) => number(partition.day),
                (PartitionLevel::Hour, _) => number(partition.hour),
                (PartitionLevel::Source, None) => {
                    let nulls = Some(rows as u64);
                    let statistics = Statistics::byte_array(None::<ByteArray>, None, None, nulls, false);
                    (None, statistics)
                }
                (PartitionLevel::Source, Some(source)) => {
                    let mut bounds = TextBounds::default();
                    bounds.add(source.as_bytes());
                    let mut plain = (source.len() as u32).to_le_bytes().to_vec();
                    plain.extend_from_slice(source.as_bytes());
                    (Some(plain), bounds.finish(0))
                }
            };
            let descriptor = self.descriptor.column(self.columns.len() + i);
            let (bytes, close) = self
                .workshop
                .constant(value.as_deref(), rows, statistics, &descriptor)?;
            row_group.append_column(&bytes, close)?;
        }
        Ok(())
    }
}
