//! One task of the sink: takes batches, gives a report.
//!
//! Memory is bounded by `memory_bytes`: when buffers exceed it, the largest partitions are written out
//! until half is left. A partition is also written when it would make a file of `file_bytes`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringViewArray};
use arrow::compute::{cast, filter_record_batch, is_null};
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType, UInt32Type, UInt64Type};
use millrace_proto::keys::TaskNames;
use millrace_proto::manifest::{DataFile, KeyFile};

use super::encode::{FileShape, FileWriter, PartitionBuffer, PartitionValues};
use super::fanout::{Fanout, HOUR_US};
use super::keys::{self, Keys};
use super::quarantine::{Rejects, count_reasons};
use super::report::{Report, push_state, written};
use super::upload::Uploads;
use super::{SinkError, SinkSpec};
use crate::rows::{KEY_HIGH, KEY_LOW, NOTE, Note, SPLIT, is_note};
use crate::spec::model::PartitionLevel;

/// More open partitions than this are written out: each costs buffers of its own.
const PARTITIONS_MAX: usize = 20_000;
/// No file is made from more than this: positions in a buffer are 32 bits wide.
const RAW_BYTES_MAX: usize = 1 << 30;

/// Where the columns stand in the input.
#[derive(Debug)]
struct Layout {
    table: usize,
    time: usize,
    source: Option<usize>,
    split: usize,
    note: usize,
    key: Option<(usize, usize)>,
}

impl Layout {
    fn new(spec: &SinkSpec, input: &SchemaRef) -> Result<Self, SinkError> {
        let find = |name: &str| {
            input.index_of(name).map_err(|_| SinkError::Input {
                what: format!("there is no column `{name}`"),
            })
        };
        let source = match &spec.partition.source {
            Some(name) if spec.partition.by.contains(&PartitionLevel::Source) => Some(find(name)?),
            _ => None,
        };
        Ok(Self {
            table: spec.table.fields().len(),
            time: find(&spec.partition.time)?,
            source,
            split: find(SPLIT)?,
            note: find(NOTE)?,
            key: find(KEY_HIGH).ok().zip(find(KEY_LOW).ok()),
        })
    }
}

/// A task at work.
#[derive(Debug)]
pub(super) struct TaskSink {
    spec: Arc<SinkSpec>,
    names: TaskNames,
    layout: Layout,
    fanout: Fanout,
    buffers: Vec<PartitionBuffer>,
    writer: FileWriter,
    keys: Keys,
    rejects: Rejects,
    states: Vec<u8>,
    state_count: u64,
    report: Report,
    uploads: Uploads,
    files: u32,
    late_before: i64,
    waiting: Waiting,
}

/// What this task adds to the memory that all tasks of the process hold.
#[derive(Debug)]
struct Waiting {
    all: Arc<AtomicUsize>,
    mine: usize,
}

impl Waiting {
    fn is(&mut self, bytes: usize) {
        self.all.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_sub(self.mine, Ordering::Relaxed);
        self.mine = bytes;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.is(0);
    }
}

impl TaskSink {
    /// A task that calls its objects by `names`.
    pub(super) fn new(spec: Arc<SinkSpec>, names: TaskNames, input: SchemaRef) -> Result<Self, SinkError> {
        let lateness = i64::try_from(spec.partition.lateness_seconds)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        let watermark = spec.watermark_us.unwrap_or(i64::MIN);
        let layout = Layout::new(&spec, &input)?;
        let writer = FileWriter::new(&FileShape {
            table: &spec.table,
            time: layout.time,
            levels: &spec.partition.by,
            compression: spec.compression,
            delta: spec.delta_encodings,
        })?;
        Ok(Self {
            names,
            layout,
            fanout: Fanout::new(&spec.partition),
            buffers: Vec::new(),
            writer,
            keys: Keys::default(),
            rejects: Rejects::default(),
            states: Vec::new(),
            state_count: 0,
            report: Report::default(),
            uploads: Uploads::new(&spec),
            files: 0,
            late_before: watermark.saturating_sub(lateness),
            waiting: Waiting {
                all: Arc::clone(&spec.waiting),
                mine: 0,
            },
            spec,
        })
    }

    /// Takes a batch of events, of notes, or of both.
    pub(super) async fn append(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if !is_note(batch) {
            return self.append_events(batch).await;
        }
        for note in Note::from_batch(batch)? {
            self.append_note(note).await?;
        }
        let notes = batch.column(self.layout.note);
        if notes.null_count() == 0 {
            return Ok(());
        }
        let events: BooleanArray = is_null(notes)?;
        let events = filter_record_batch(batch, &events)?;
        self.append_events(&events).await
    }

    async fn append_note(&mut self, note: Note) -> Result<(), SinkError> {
        match note {
            Note::Counts(counts) => self.report.add(&counts),
            Note::Quality(state) => {
                push_state(&mut self.states, &state)?;
                self.state_count += 1;
            }
            Note::Unmatched(counts) => {
                for (lookup, events) in counts {
                    *self.report.task.unmatched.entry(lookup).or_default() += events;
                }
            }
            Note::Rejects(rejects) => {
                count_reasons(&rejects, &mut self.report.task.reasons)?;
                if let Some(file) = self.rejects.push(rejects)? {
                    self.put_rejects(file).await?;
                }
            }
        }
        Ok(())
    }

    async fn append_events(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        let times = batch.column(self.layout.time);
        let times = times
            .as_primitive_opt::<TimestampMicrosecondType>()
            .filter(|times| times.null_count() == 0)
            .ok_or_else(|| SinkError::Input {
                what: format!(
                    "column `{}` is not a timestamp without nulls",
                    self.spec.partition.time
                ),
            })?
            .values();
        let sources = self.layout.source.map(|column| texts(batch.column(column)));
        let sources = sources.transpose()?;
        self.count(batch, times)?;
        self.append_keys(batch, times)?;
        let groups = self.fanout.group(times, sources.as_ref());
        let columns = &batch.columns()[..self.layout.table];
        while self.buffers.len() < self.fanout.len() {
            self.buffers.push(self.writer.new_buffer());
        }
        for group in &groups {
            let rows = &self.fanout.rows()[group.range.clone()];
            self.writer.append(&mut self.buffers[group.slot], columns, rows)?;
        }
        self.writer.settle(&mut self.buffers);
        for group in groups {
            let buffer = &self.buffers[group.slot];
            if self.writer.file_bytes(buffer) >= self.spec.file_bytes || buffer.bytes() >= RAW_BYTES_MAX {
                self.write(group.slot).await?;
            }
        }
        self.make_room().await
    }

    fn count(&mut self, batch: &RecordBatch, times: &[i64]) -> Result<(), SinkError> {
        let splits = batch
            .column(self.layout.split)
            .as_primitive_opt::<UInt32Type>()
            .filter(|splits| splits.null_count() == 0)
            .ok_or_else(|| SinkError::Input {
                what: format!("column `{SPLIT}` of events is not a number without nulls"),
            })?;
        let mut start = 0;
        while start < times.len() {
            // Rows of a split stand together: mostly one run a batch.
            let split = splits.value(start);
            let run = splits.values()[start..]
                .iter()
                .take_while(|other| **other == split)
                .count();
            let of_split = &times[start..start + run];
            let late = of_split.iter().filter(|time| **time < self.late_before).count();
            let counts = self.report.split(split);
            counts.written += run as u64;
            counts.late += late as u64;
            counts.time_max = counts.time_max.max(of_split.iter().max().copied());
            start += run;
        }
        Ok(())
    }

    fn append_keys(&mut self, batch: &RecordBatch, times: &[i64]) -> Result<(), SinkError> {
        let Some((high, low)) = self.layout.key else {
            return Ok(());
        };
        let half = |column: usize| {
            batch
                .column(column)
                .as_primitive_opt::<UInt64Type>()
                .ok_or_else(|| SinkError::Input {
                    what: "the key hash is not a number".to_owned(),
                })
        };
        let (high, low) = (half(high)?, half(low)?);
        if high.nulls() != low.nulls() {
            let what = "an event has one half of a key hash".to_owned();
            return Err(SinkError::Input { what });
        }
        let hour = |row: usize| times[row].div_euclid(HOUR_US);
        match high.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => self.keys.append(high.values(), low.values(), hour),
            // Key columns that are all null make no key: such an event is never a duplicate.
            Some(nulls) => {
                for (start, end) in nulls.valid_slices() {
                    let (high, low) = (&high.values()[start..end], &low.values()[start..end]);
                    self.keys.append(high, low, |row| hour(start + row));
                }
            }
        }
        Ok(())
    }

    /// Writes the largest partitions out when memory or the number of partitions runs over.
    async fn make_room(&mut self) -> Result<(), SinkError> {
        let held = self.keys.bytes() + self.rejects.bytes() + self.fanout.bytes() + self.writer.bytes();
        let buffered: usize = self.writer.buffered();
        self.waiting.is(buffered + held);
        if buffered + held <= self.spec.memory_bytes && self.buffers.len() <= PARTITIONS_MAX {
            return Ok(());
        }
        if self.buffers.len() > PARTITIONS_MAX {
            self.write_all().await?;
            self.fanout.clear();
            self.buffers.clear();
            return Ok(());
        }
        let mut by_size: Vec<usize> = (0..self.buffers.len())
            .filter(|slot| self.buffers[*slot].rows() > 0)
            .collect();
        by_size.sort_by_key(|slot| std::cmp::Reverse(self.buffers[*slot].bytes()));
        for slot in by_size {
            self.write(slot).await?;
            if self.writer.buffered() <= self.spec.memory_bytes / 2 {
                break;
            }
        }
        if self.keys.bytes() > self.spec.memory_bytes / 4 {
            self.write_keys().await?;
        }
        Ok(())
    }

    /// Writes every partition, in the order of time and source.
    pub(super) async fn write_all(&mut self) -> Result<(), SinkError> {
        let mut slots: Vec<usize> = (0..self.buffers.len()).collect();
        slots.sort_by_key(|&slot| {
            (
                self.fanout.day_and_hour(slot),
                self.fanout.source(slot).map(str::to_owned),
            )
        });
        for slot in slots {
            self.write(slot).await?;
        }
        Ok(())
    }

    async fn write(&mut self, slot: usize) -> Result<(), SinkError> {
        if self.buffers[slot].rows() == 0 {
            return Ok(());
        }
        let (day, hour) = self.fanout.day_and_hour(slot);
        let narrow = |value: Option<i64>| value.and_then(|value| i32::try_from(value).ok());
        let values = PartitionValues {
            day: narrow(day).unwrap_or_default(),
            hour: narrow(hour).unwrap_or_default(),
            source: self.fanout.source(slot),
        };
        let file = self.writer.write(&mut self.buffers[slot], values)?;
        let partition = self.fanout.values(slot);
        let number = self.next_file();
        let key = self.names.data(&partition, number);
        let object = written(key.clone(), file.rows, &file.content);
        self.report.task.files.push(DataFile {
            object,
            partition,
            time_min: file.time_min,
            time_max: file.time_max,
        });
        self.uploads.put(&key, file.content).await
    }

    /// Counts over the whole task: a partition that is forgotten and comes back shares no name with itself.
    fn next_file(&mut self) -> u32 {
        let number = self.files;
        self.files += 1;
        number
    }

    async fn write_keys(&mut self) -> Result<(), SinkError> {
        for (hour, mut hour_keys) in self.keys.drain() {
            let content = keys::encode(hour, &mut hour_keys)?;
            let number = self.next_file();
            let key = self.names.keys(&keys::hour_name(hour), number);
            let object = written(key.clone(), hour_keys.len() as u64, &content);
            self.report.task.keys.push(KeyFile { object, hour });
            self.uploads.put(&key, content).await?;
        }
        Ok(())
    }

    async fn put_rejects(&mut self, (rows, content): (u64, Vec<u8>)) -> Result<(), SinkError> {
        let number = self.next_file();
        let key = self.names.quarantine(&self.spec.quarantine_date, number);
        let object = written(key.clone(), rows, &content);
        self.report.task.quarantine.push(object);
        self.uploads.put(&key, content).await
    }

    /// Writes what is left; the report holds when this returns.
    pub(super) async fn finish(mut self) -> Result<Report, SinkError> {
        self.write_all().await?;
        self.write_keys().await?;
        if let Some(file) = self.rejects.take()? {
            self.put_rejects(file).await?;
        }
        if self.state_count > 0 {
            let states = std::mem::take(&mut self.states);
            let key = self.names.quality();
            let object = written(key.clone(), self.state_count, &states);
            self.report.task.quality.push(object);
            self.uploads.put(&key, states).await?;
        }
        self.uploads.finish().await?;
        Ok(self.report)
    }
}

/// A source column as texts, whatever its type.
fn texts(column: &ArrayRef) -> Result<StringViewArray, SinkError> {
    let views = cast(column, &DataType::Utf8View)?;
    Ok(views.as_string_view().clone())
}
