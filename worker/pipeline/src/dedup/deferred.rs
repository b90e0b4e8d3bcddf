//! Rows held back until their hour's committed keys have been read past them.
//!
//! An hour whose keys do not fit in memory is settled when the input has ended, or before when the held rows
//! take too much memory: their keys are sorted and walked beside the hour's sorted key files, of which only
//! the row groups that can matter are read. What is found in a file is a duplicate, the rest goes on. Memory
//! is the held rows, and of the files one row group at a time. Nothing is written to disk: held rows are not
//! masked yet.

use std::collections::BTreeMap;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;

use super::compact::compacted;
use super::files::join;
use super::grouping::{Columns, hour_of};
use super::{DedupError, KeyIndex};

/// The held rows of one task.
#[derive(Default)]
pub(super) struct HeldBack {
    batches: Vec<RecordBatch>,
    hours: BTreeMap<i64, Vec<HeldRow>>,
    bytes: usize,
}

/// A held row and its key; sorts by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct HeldRow {
    key: u128,
    batch: usize,
    row: usize,
}

/// A held batch after its hours were read.
pub(super) struct Settled {
    pub(super) batch: RecordBatch,
    /// The rows whose keys no file holds.
    pub(super) kept: BooleanBuffer,
}

impl HeldBack {
    /// Memory of the held rows and their keys.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds a batch, all of whose rows have a key and a time.
    pub(super) fn push(&mut self, batch: &RecordBatch, columns: &Columns) -> Result<(), DedupError> {
        let batch = compacted(batch)?;
        self.bytes += batch.get_array_memory_size() + batch.num_rows() * size_of::<HeldRow>();
        let keyed = columns.keyed(&batch)?;
        for row in 0..batch.num_rows() {
            let held = HeldRow {
                key: join(keyed.high.value(row), keyed.low.value(row)),
                batch: self.batches.len(),
                row,
            };
            let hour = hour_of(keyed.times.value(row));
            self.hours.entry(hour).or_default().push(held);
        }
        self.batches.push(batch);
        Ok(())
    }

    /// Compares the held rows with the committed keys of their hours.
    pub(super) async fn settle(self, index: &KeyIndex) -> Result<Vec<Settled>, DedupError> {
        let mut kept: Vec<Vec<bool>> = self
            .batches
            .iter()
            .map(|batch| vec![true; batch.num_rows()])
            .collect();
        for (hour, mut rows) in self.hours {
            rows.sort_unstable();
            let keys: Vec<u128> = rows.iter().map(|held| held.key).collect();
            let found = index.committed(hour, &keys).await?;
            for (held, found) in rows.iter().zip(found) {
                kept[held.batch][held.row] = !found;
            }
        }
        let settled = self.batches.into_iter().zip(kept).map(|(batch, kept)| Settled {
            batch,
            kept: BooleanBuffer::from(kept),
        });
        Ok(settled.collect())
    }
}

impl Settled {
    /// The rows that go on.
    pub(super) fn survivors(&self) -> Result<RecordBatch, DedupError> {
        let kept = BooleanArray::new(self.kept.clone(), None);
        Ok(filter_record_batch(&self.batch, &kept)?)
    }
}

/// Marks in `found` which of the sorted `keys` from `next` on stand in the sorted `piece`; returns where
/// the next piece of the same file goes on.
pub(super) fn mark_common(keys: &[u128], mut next: usize, piece: &[u128], found: &mut [bool]) -> usize {
    for committed in piece {
        while keys.get(next).is_some_and(|key| key < committed) {
            next += 1;
        }
        if keys.get(next).is_none() {
            break;
        }
        // A task holds a key once, but nothing here relies on it.
        let mut same = next;
        while keys.get(same) == Some(committed) {
            found[same] = true;
            same += 1;
        }
    }
    next
}
