//! The shape of the batches that flow between the steps.
//!
//! | between                | columns                                                                              |
//! |------------------------|--------------------------------------------------------------------------------------|
//! | source -> decode       | [`chunk_schema`]: pieces of input with their origin                                   |
//! | decode -> map          | one per wanted field, then [`RAW`], [`SPLIT`], [`LINE`], [`OFFSET`], [`FAULTS`]       |
//! | map -> quality         | the table's columns, then the same five                                              |
//! | quality -> ... -> sink | the table's columns, then [`SPLIT`], ([`KEY_HIGH`], [`KEY_LOW`],) [`NOTE`]            |
//!
//! Up to `quality` every record of the input is exactly one row, also a record that could not be decoded:
//! its columns are null and [`FAULTS`] says why. `quality` is the one place that takes rows out; from
//! there on, what is not an event (quarantined records, counts, statistics) travels in the same stream
//! as a *note*: a batch of one row whose columns are null and whose [`NOTE`] holds an encoded [`Note`].
//! So a retry of a task repeats its notes with its rows, and nothing leaves by a side door.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, ListArray, RecordBatch, RecordBatchOptions, StructArray, UInt64Array,
    new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use millrace_proto::manifest::SplitCounts;
use serde::{Deserialize, Serialize};

/// `BinaryView`: the record's bytes as they came.
pub const RAW: &str = "__raw";
/// `UInt32`: index of the split in the batch.
pub const SPLIT: &str = "__split";
/// `UInt64`: line in the split, from 1 (the record's number for formats without lines; a message's offset in its partition).
pub const LINE: &str = "__line";
/// `UInt64`: offset of the record's first byte in the (decompressed) object; a message's offset in its partition.
pub const OFFSET: &str = "__offset";
/// `Utf8View`, nullable: a JSON array of [`Fault`]; null for a sound record.
pub const FAULTS: &str = "__faults";
/// `UInt64`: upper half of the dedup key's 128-bit hash.
pub const KEY_HIGH: &str = "__key_high";
/// `UInt64`: lower half of the dedup key's 128-bit hash.
pub const KEY_LOW: &str = "__key_low";
/// `Binary`, nullable: an encoded [`Note`]; null for an event.
pub const NOTE: &str = "__note";

/// A piece of input: whole records and where they came from.
///
/// `payload` (`LargeBinary`, so that a batch can borrow the reader's buffer) holds whole lines for line
/// formats, each ended by `\n` but perhaps the last of an object.
///
/// `messages` is null for objects. For a topic it tells the messages apart, whatever bytes they hold: each one's offset
/// in its partition, and where it ends in `payload`. Each begins one byte behind the end of the one before: `\n` stands between.
#[must_use]
pub fn chunk_schema() -> SchemaRef {
    let message = Field::new("item", DataType::Struct(message_fields()), false);
    Arc::new(Schema::new(vec![
        Field::new(SPLIT, DataType::UInt32, false),
        Field::new(LINE, DataType::UInt64, false),
        Field::new(OFFSET, DataType::UInt64, false),
        Field::new("payload", DataType::LargeBinary, false),
        Field::new("messages", DataType::List(Arc::new(message)), true),
    ]))
}

fn message_fields() -> Fields {
    Fields::from(vec![
        Field::new("offset", DataType::UInt64, false),
        Field::new("end", DataType::UInt64, false),
    ])
}

/// The `messages` column of one chunk of a topic.
///
/// # Errors
/// When there are not as many ends as offsets.
pub fn messages_array(offsets: Vec<u64>, ends: Vec<u64>) -> Result<ListArray, ArrowError> {
    let count = offsets.len();
    messages_by_chunk(offsets, ends, &[count])
}

/// The `messages` column of several chunks: `counts` messages each, null where there are none.
///
/// # Errors
/// When there are not as many ends as offsets, or the counts do not add up to them.
pub fn messages_by_chunk(
    offsets: Vec<u64>,
    ends: Vec<u64>,
    counts: &[usize],
) -> Result<ListArray, ArrowError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(offsets)),
        Arc::new(UInt64Array::from(ends)),
    ];
    let messages = StructArray::try_new(message_fields(), columns, None)?;
    let item = Arc::new(Field::new("item", DataType::Struct(message_fields()), false));
    let lengths = OffsetBuffer::from_lengths(counts.iter().copied());
    let nulls = NullBuffer::from_iter(counts.iter().map(|&count| count > 0));
    ListArray::try_new(item, lengths, Arc::new(messages), Some(nulls))
}

/// The `messages` column of `chunks` chunks of objects, which have none.
#[must_use]
pub fn no_messages(chunks: usize) -> ArrayRef {
    new_null_array(chunk_schema().field(4).data_type(), chunks)
}

/// Names, in the metadata of a batch up to `quality`, the split and the number of its blank lines (of a topic: tombstones and blank
/// messages) that were met since the batch before: they are no events, and yet positions that were read.
const BLANKS: &str = "millrace.blanks";

/// The batch, which tells of `blanks` blank lines of a split.
#[must_use]
pub fn with_blanks(batch: RecordBatch, split: u32, blanks: u64) -> RecordBatch {
    let mut metadata = batch.schema_ref().metadata().clone();
    metadata.insert(BLANKS.to_owned(), format!("{split} {blanks}"));
    tagged(batch, metadata)
}

/// The blank lines that a batch tells of: their split and how many.
#[must_use]
pub fn blanks_of(batch: &RecordBatch) -> Option<(u32, u64)> {
    let text = batch.schema_ref().metadata().get(BLANKS)?;
    let (split, blanks) = text.split_once(' ')?;
    Some((split.parse().ok()?, blanks.parse().ok()?))
}

/// `to`, which was made of `from`, telling of the same blank lines.
#[must_use]
pub fn keep_blanks(from: &RecordBatch, to: RecordBatch) -> RecordBatch {
    match blanks_of(from) {
        Some((split, blanks)) => with_blanks(to, split, blanks),
        None => to,
    }
}

fn tagged(batch: RecordBatch, metadata: HashMap<String, String>) -> RecordBatch {
    let schema = batch.schema_ref().as_ref().clone().with_metadata(metadata);
    let untagged = batch.clone();
    // Only refused where metadata would be taken away.
    batch.with_schema(Arc::new(schema)).unwrap_or(untagged)
}

/// Holds, in the metadata of a batch up to `quality`, how many keys were not found by each lookup, as JSON.
const UNMATCHED: &str = "millrace.unmatched";

/// The batch, which tells how many of its keys each lookup did not find.
#[must_use]
pub fn with_unmatched(batch: RecordBatch, unmatched: &BTreeMap<String, u64>) -> RecordBatch {
    let Ok(text) = serde_json::to_string(unmatched) else {
        return batch;
    };
    let mut metadata = batch.schema_ref().metadata().clone();
    metadata.insert(UNMATCHED.to_owned(), text);
    tagged(batch, metadata)
}

/// How many keys of a batch each lookup did not find, where some were not.
#[must_use]
pub fn unmatched_of(batch: &RecordBatch) -> Option<BTreeMap<String, u64>> {
    serde_json::from_str(batch.schema_ref().metadata().get(UNMATCHED)?).ok()
}

/// The five hidden columns that follow the data up to `quality`.
#[must_use]
pub fn origin_fields() -> Vec<Field> {
    vec![
        Field::new(RAW, DataType::BinaryView, false),
        Field::new(SPLIT, DataType::UInt32, false),
        Field::new(LINE, DataType::UInt64, false),
        Field::new(OFFSET, DataType::UInt64, false),
        Field::new(FAULTS, DataType::Utf8View, true),
    ]
}

/// Where a fault was found, and so which file of the quarantine's readers to look at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Ends before it is complete.
    CutOff,
    /// Not UTF-8.
    Encoding,
    /// Not of the format (JSON, CSV, ...).
    Syntax,
    /// Longer than the record limit.
    TooLarge,
    /// Nested deeper than the limit.
    TooDeep,
    /// A value of another type than the column's.
    WrongType,
    /// A required column is null or missing.
    Missing,
    /// A value that does not convert, or an SQL expression that failed on the record.
    Conversion,
    /// A critical expectation.
    Expectation,
}

impl FaultKind {
    /// Its name, as it is stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CutOff => "cut_off",
            Self::Encoding => "encoding",
            Self::Syntax => "syntax",
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::WrongType => "wrong_type",
            Self::Missing => "missing",
            Self::Conversion => "conversion",
            Self::Expectation => "expectation",
        }
    }
}

/// One reason why a record is quarantined. Its text names no value of the record: reasons are shown
/// and logged where the record itself must not be (invariant 8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// The column, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<String>,
    /// What is wrong and what would be right: `expected int64, found a string of 7 bytes`.
    pub detail: String,
}

/// What travels beside the events.
#[derive(Debug, Clone)]
pub enum Note {
    /// Quarantined records, in the quarantine file's schema, sealed already.
    Rejects(RecordBatch),
    /// Counts by split: each step reports what it alone knows, the sink adds them up.
    Counts(Vec<SplitCounts>),
    /// A task's mergeable quality state, opaque here.
    Quality(Vec<u8>),
    /// By lookup: events whose key was not in its snapshot.
    Unmatched(BTreeMap<String, u64>),
}

/// Why a note could not be read. It points at a bug, never at the input.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// Unknown first byte.
    #[error("a note starts with the unknown tag {0}")]
    Tag(u8),
    /// No bytes at all.
    #[error("a note is empty")]
    Empty,
    /// The batch inside is damaged.
    #[error("a note's record batch is damaged")]
    Batch(#[from] ArrowError),
    /// The counts inside are damaged.
    #[error("a note's counts are damaged")]
    Counts(#[from] serde_json::Error),
}

impl Note {
    const REJECTS: u8 = 1;
    const COUNTS: u8 = 2;
    const QUALITY: u8 = 3;
    const UNMATCHED: u8 = 4;

    /// One row of `schema` that carries the note; `schema` must have a [`NOTE`] column.
    ///
    /// # Errors
    /// When `schema` has no such column or Arrow refuses to write.
    pub fn to_batch(&self, schema: &SchemaRef) -> Result<RecordBatch, NoteError> {
        let encoded = self.encode()?;
        let note = schema.index_of(NOTE)?;
        // Hidden columns are declared nullable after `quality`, so that a note can leave them out.
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .enumerate()
            .map(|(i, field)| {
                if i == note {
                    Arc::new(BinaryArray::from_vec(vec![encoded.as_slice()])) as ArrayRef
                } else {
                    new_null_array(field.data_type(), 1)
                }
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(schema),
            columns,
            &options,
        )?)
    }

    /// The notes of a batch, none for a batch of events.
    ///
    /// # Errors
    /// When a note is damaged.
    pub fn from_batch(batch: &RecordBatch) -> Result<Vec<Self>, NoteError> {
        let Some(notes) = batch
            .column_by_name(NOTE)
            .and_then(|column| column.as_any().downcast_ref::<BinaryArray>())
        else {
            return Ok(Vec::new());
        };
        notes.iter().flatten().map(Self::decode).collect()
    }

    fn encode(&self) -> Result<Vec<u8>, NoteError> {
        Ok(match self {
            Self::Rejects(batch) => {
                let mut bytes = vec![Self::REJECTS];
                let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema())?;
                writer.write(batch)?;
                writer.finish()?;
                drop(writer);
                bytes
            }
            Self::Counts(counts) => {
                let mut bytes = vec![Self::COUNTS];
                bytes.extend(serde_json::to_vec(counts)?);
                bytes
            }
            Self::Quality(state) => {
                let mut bytes = vec![Self::QUALITY];
                bytes.extend_from_slice(state);
                bytes
            }
            Self::Unmatched(counts) => {
                let mut bytes = vec![Self::UNMATCHED];
                bytes.extend(serde_json::to_vec(counts)?);
                bytes
            }
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, NoteError> {
        match bytes.split_first().ok_or(NoteError::Empty)? {
            (&Self::REJECTS, body) => {
                let mut reader = StreamReader::try_new(body, None)?;
                let schema = reader.schema();
                Ok(Self::Rejects(
                    reader
                        .next()
                        .transpose()?
                        .unwrap_or_else(|| RecordBatch::new_empty(schema)),
                ))
            }
            (&Self::COUNTS, body) => Ok(Self::Counts(serde_json::from_slice(body)?)),
            (&Self::QUALITY, body) => Ok(Self::Quality(body.to_vec())),
            (&Self::UNMATCHED, body) => Ok(Self::Unmatched(serde_json::from_slice(body)?)),
            (&tag, _) => Err(NoteError::Tag(tag)),
        }
    }
}

/// Whether the batch carries a note instead of events. The steps keep the two apart; where
/// batches are joined, note rows are found by [`NOTE`] not being null.
#[must_use]
pub fn is_note(batch: &RecordBatch) -> bool {
    batch
        .column_by_name(NOTE)
        .is_some_and(|notes| notes.null_count() < batch.num_rows())
}

/// The quarantine file's schema: what a note of rejects holds.
#[must_use]
pub fn reject_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("object", DataType::Utf8, false), // URL of the input object
        Field::new("split", DataType::UInt32, false),
        Field::new("line", DataType::UInt64, false), // in the split, from 1
        Field::new("offset", DataType::UInt64, false), // of the record's first byte in the object
        Field::new("reasons", DataType::Utf8, false), // JSON array of `Fault`
        Field::new("sealed", DataType::Boolean, false),
        Field::new("payload", DataType::Binary, false), // the record's bytes, sealed or clear
    ]))
}

/// The schema between `quality` and `sink`: the table's columns, all nullable, then the hidden ones.
#[must_use]
pub fn event_schema(table: &Schema, keyed: bool) -> SchemaRef {
    let mut fields: Vec<Field> = table
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    fields.push(Field::new(SPLIT, DataType::UInt32, true));
    if keyed {
        fields.push(Field::new(KEY_HIGH, DataType::UInt64, true));
        fields.push(Field::new(KEY_LOW, DataType::UInt64, true));
    }
    fields.push(Field::new(NOTE, DataType::Binary, true));
    Arc::new(Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_tells_of_blank_lines_and_hands_that_on() {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8, true)]));
        let plain = RecordBatch::new_empty(schema);
        assert_eq!(blanks_of(&plain), None);
        let telling = with_blanks(plain.clone(), 3, 70);
        assert_eq!(blanks_of(&keep_blanks(&telling, plain.clone())), Some((3, 70)));
        assert_eq!(blanks_of(&keep_blanks(&plain, plain.clone())), None);
    }

    #[test]
    fn a_note_comes_back_as_it_was_sent() {
        let table = Schema::new(vec![Field::new("id", DataType::Utf8View, false)]);
        let schema = event_schema(&table, true);
        let counts = vec![SplitCounts {
            split: 3,
            read: 7,
            ..SplitCounts::default()
        }];
        let batch = Note::Counts(counts.clone()).to_batch(&schema).unwrap();
        assert!(is_note(&batch));
        match Note::from_batch(&batch).unwrap().as_slice() {
            [Note::Counts(back)] => assert_eq!(back, &counts),
            other => panic!("{other:?}"),
        }
        let rejects = RecordBatch::new_empty(reject_schema());
        let batch = Note::Rejects(rejects).to_batch(&schema).unwrap();
        assert!(matches!(
            Note::from_batch(&batch).unwrap().as_slice(),
            [Note::Rejects(_)]
        ));
    }
}
