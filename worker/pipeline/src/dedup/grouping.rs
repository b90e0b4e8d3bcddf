//! Groups a batch's rows by event hour and shard, so that each shard is locked once a batch.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Schema, SchemaRef, TimestampMicrosecondType, UInt64Type};
use hashbrown::HashMap;

use super::DedupError;
use super::files::join;
use super::set::{SHARDS, shard_of};
use crate::rows::{KEY_HIGH, KEY_LOW, SPLIT};

const HOUR_US: i64 = 3_600_000_000;
/// Slots of the cache of hours; a batch with more hours at once is slower, not wrong.
const RECENT_HOURS: usize = 64;

/// Hours since 1970 UTC of an event time; before 1970 as well.
#[inline]
pub(super) fn hour_of(time_us: i64) -> i64 {
    time_us.div_euclid(HOUR_US)
}

/// Where the columns that decide stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    pub(super) time: usize,
    pub(super) high: usize,
    pub(super) low: usize,
    pub(super) split: usize,
}

/// The columns that decide, of one batch.
pub(super) struct Keyed<'a> {
    pub(super) times: &'a TimestampMicrosecondArray,
    pub(super) high: &'a UInt64Array,
    pub(super) low: &'a UInt64Array,
}

impl Columns {
    pub(super) fn of(schema: &SchemaRef, time: usize) -> Result<Self, DedupError> {
        let find = |column: &str, expected: &str| {
            schema.index_of(column).map_err(|_| DedupError::Input {
                column: column.to_owned(),
                expected: expected.to_owned(),
            })
        };
        Ok(Self {
            time,
            high: find(KEY_HIGH, "uint64")?,
            low: find(KEY_LOW, "uint64")?,
            split: find(SPLIT, "uint32")?,
        })
    }

    /// These columns alone, of all batches one after the other, and where they stand there.
    pub(super) fn of_all(&self, batches: &[RecordBatch]) -> Result<(Self, RecordBatch), DedupError> {
        let only = [self.time, self.high, self.low, self.split];
        let pieces: Vec<RecordBatch> = batches
            .iter()
            .map(|batch| batch.project(&only))
            .collect::<Result<_, _>>()?;
        let schema = pieces
            .first()
            .map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        let columns = Self {
            time: 0,
            high: 1,
            low: 2,
            split: 3,
        };
        Ok((columns, concat_batches(&schema, &pieces)?))
    }

    pub(super) fn keyed<'a>(&self, batch: &'a RecordBatch) -> Result<Keyed<'a>, DedupError> {
        let missing = |column: usize, expected: DataType| DedupError::Input {
            column: batch.schema().field(column).name().clone(),
            expected: expected.to_string(),
        };
        let half = |column: usize| {
            batch
                .column(column)
                .as_primitive_opt::<UInt64Type>()
                .ok_or_else(|| missing(column, DataType::UInt64))
        };
        let time = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
        Ok(Keyed {
            times: batch
                .column(self.time)
                .as_primitive_opt::<TimestampMicrosecondType>()
                .ok_or_else(|| missing(self.time, time))?,
            high: half(self.high)?,
            low: half(self.low)?,
        })
    }
}

impl Keyed<'_> {
    /// Rows that have a key and a time; none means all. The others (notes, events whose key columns are
    /// all null) are never duplicates.
    fn judged(&self) -> Option<NullBuffer> {
        NullBuffer::union(
            NullBuffer::union(self.times.nulls(), self.high.nulls()).as_ref(),
            self.low.nulls(),
        )
    }
}

/// Rows that are judged, by hour, then shard, then place in the batch.
pub(super) struct Groups {
    /// Event hours, in order of appearance.
    pub(super) hours: Vec<i64>,
    /// Row numbers.
    pub(super) rows: Vec<u32>,
    /// Their keys.
    pub(super) keys: Vec<u128>,
    /// Group `hour * SHARDS + shard` is `starts[group]..starts[group + 1]`.
    starts: Vec<u32>,
}

impl Groups {
    /// The rows of one hour and shard.
    pub(super) fn range(&self, hour: usize, shard: usize) -> std::ops::Range<usize> {
        let group = hour * SHARDS + shard;
        self.starts[group] as usize..self.starts[group + 1] as usize
    }

    /// Sorts by counting: one pass to count, one to place.
    pub(super) fn of(keyed: &Keyed<'_>) -> Self {
        const NOT_JUDGED: u32 = u32::MAX;
        let judged = keyed.judged();
        let (high, low) = (keyed.high.values(), keyed.low.values());
        let mut hours = Hours::default();
        let mut groups = Vec::with_capacity(high.len());
        for (row, (time, high)) in keyed.times.values().iter().zip(high.iter()).enumerate() {
            let group = if judged.as_ref().is_none_or(|judged| judged.is_valid(row)) {
                (hours.slot(hour_of(*time)) * SHARDS + shard_of(*high)) as u32
            } else {
                NOT_JUDGED
            };
            groups.push(group);
        }
        let mut starts = vec![0_u32; hours.hours.len() * SHARDS + 1];
        for group in groups.iter().filter(|group| **group != NOT_JUDGED) {
            starts[*group as usize + 1] += 1;
        }
        let mut total = 0;
        for start in &mut starts {
            total += *start;
            *start = total;
        }
        let mut next = starts.clone();
        let mut rows = vec![0_u32; total as usize];
        let mut keys = vec![0_u128; total as usize];
        for (row, group) in groups
            .iter()
            .enumerate()
            .filter(|(_, group)| **group != NOT_JUDGED)
        {
            let place = &mut next[*group as usize];
            rows[*place as usize] = row as u32;
            keys[*place as usize] = join(high[row], low[row]);
            *place += 1;
        }
        Self {
            hours: hours.hours,
            rows,
            keys,
            starts,
        }
    }
}

/// Numbers hours in order of appearance.
struct Hours {
    hours: Vec<i64>,
    slots: HashMap<i64, usize>,
    recent: [(i64, usize); RECENT_HOURS],
}

impl Default for Hours {
    fn default() -> Self {
        Self {
            hours: Vec::new(),
            slots: HashMap::new(),
            // No event time in microseconds lies in this hour.
            recent: [(i64::MIN, 0); RECENT_HOURS],
        }
    }
}

impl Hours {
    #[inline]
    fn slot(&mut self, hour: i64) -> usize {
        let recent = &mut self.recent[hour as usize % RECENT_HOURS];
        if recent.0 != hour {
            let slot = *self.slots.entry(hour).or_insert_with(|| {
                self.hours.push(hour);
                self.hours.len() - 1
            });
            *recent = (hour, slot);
        }
        recent.1
    }
}
