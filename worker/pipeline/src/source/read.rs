//! A partition's splits, read one after the other in a thread that may block.
//!
//! In: rows of splits. Out: whatever batches `work` makes of each split's bytes, in order; a bounded number of them
//! waits, so that the next piece is read while the last one is used, and no more. Where the consumer goes away,
//! the thread ends at its next batch.
//!
//! A split that does not start at 0 is given with the byte before it: only that byte tells whether a line starts
//! with the split.

use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::error::{DataFusionError, Result as DataResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use futures::{StreamExt, TryStreamExt};
use millrace_proto::split::{InputObject, Split};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use super::files::FileBytes;
use super::s3::{ObjectBytes, Queue, fetch, is_remote};
use super::unpack::Packing;
use super::{SourceError, Stores, splits_of};

/// Batches that wait between the reading thread and its consumer.
const BATCHES_AHEAD: usize = 2;
/// Requests for ranges of one object at a time.
const RANGES_IN_FLIGHT: usize = 8;

/// Takes a batch. False when nobody wants more: then `work` returns.
pub(crate) type Emit<'a> = dyn FnMut(RecordBatch) -> bool + 'a;

/// A split's unpacked bytes, from the byte before its start to the end of its object.
pub(crate) struct SplitBytes<'a> {
    /// Which split.
    pub(crate) split: &'a Split,
    /// Its bytes.
    pub(crate) bytes: &'a mut dyn Read,
    packing: Packing,
}

impl SplitBytes<'_> {
    /// One past the last byte whose record belongs to the split; no such limit for unpacked bytes.
    pub(crate) fn end(&self) -> u64 {
        match self.packing {
            Packing::Plain => self.split.end,
            Packing::Gzip | Packing::Zstd => u64::MAX,
        }
    }

    /// What a failed read of `bytes` means, after `position` bytes of it.
    pub(crate) fn failure(&self, error: std::io::Error, position: u64) -> SourceError {
        failure(self.split, self.packing, error, position)
    }
}

/// What an error of `position` bytes into a split's content means: what the system says of a packed file is no damage.
fn failure(split: &Split, packing: Packing, error: std::io::Error, position: u64) -> SourceError {
    let url = split.object.url.clone();
    match error.downcast::<SourceError>() {
        Ok(error) => error,
        Err(source) if packing == Packing::Plain || source.raw_os_error().is_some() => SourceError::Read {
            url,
            position,
            source,
        },
        Err(source) => SourceError::Unpack {
            url,
            position,
            source,
        },
    }
}

/// Runs `work` over the bytes of every split of `input`. Must be called within a Tokio runtime.
pub(crate) fn each_split<W>(
    input: SendableRecordBatchStream,
    stores: Arc<Stores>,
    schema: SchemaRef,
    work: W,
) -> SendableRecordBatchStream
where
    W: FnMut(&mut SplitBytes<'_>, &mut Emit<'_>) -> Result<(), SourceError> + Clone + Send + 'static,
{
    each_range(input, schema, move |splits| {
        let mut objects = Objects::start(&stores, splits);
        let mut work = work.clone();
        move |split, emit| objects.read(split, &mut work, emit)
    })
}

/// The objects of some splits, of which the next ones are fetched while one is read.
pub(crate) struct Objects(Queue);

impl Objects {
    /// Begins to fetch.
    pub(crate) fn start(stores: &Arc<Stores>, splits: &[Split]) -> Self {
        Self(Queue::start(stores, splits))
    }

    /// Runs `work` over a split's bytes. Splits come in the order in which they were given.
    pub(crate) fn read<W>(
        &mut self,
        split: &Split,
        work: &mut W,
        emit: &mut Emit<'_>,
    ) -> Result<(), SourceError>
    where
        W: FnMut(&mut SplitBytes<'_>, &mut Emit<'_>) -> Result<(), SourceError>,
    {
        read_split(split, &mut self.0, work, emit)
    }
}

/// Runs the work that `start` makes over every split of `input`, for formats that choose what to read. It may block.
pub(crate) fn each_range<S, W>(
    mut input: SendableRecordBatchStream,
    schema: SchemaRef,
    mut start: S,
) -> SendableRecordBatchStream
where
    S: FnMut(&[Split]) -> W + Send + 'static,
    W: FnMut(&Split, &mut Emit<'_>) -> Result<(), SourceError> + Send + 'static,
{
    let mut builder = RecordBatchReceiverStream::builder(schema, BATCHES_AHEAD);
    let sender = builder.tx();
    builder.spawn(async move {
        // Splits are taken as they are needed: tasks may share a queue, and what one took no other can.
        while let Some(batch) = input.try_next().await? {
            let splits = splits_of(&batch)?;
            let work = start(&splits);
            let sender = sender.clone();
            let reading = tokio::task::spawn_blocking(move || read_all(&splits, work, &sender));
            let wanted = reading
                .await
                .map_err(|error| DataFusionError::from(SourceError::Thread(error)))?;
            if !wanted {
                break;
            }
        }
        Ok(())
    });
    builder.build()
}

/// Reads some splits; whether anybody wants more.
fn read_all<W>(splits: &[Split], mut work: W, sender: &Sender<DataResult<RecordBatch>>) -> bool
where
    W: FnMut(&Split, &mut Emit<'_>) -> Result<(), SourceError>,
{
    let mut wanted = true;
    for split in splits {
        // Readers of whole formats are not all proof against damage: a panic of theirs is that file's error.
        let read = catch_unwind(AssertUnwindSafe(|| {
            work(split, &mut |batch| {
                wanted = sender.blocking_send(Ok(batch)).is_ok();
                wanted
            })
        }));
        let read = read.unwrap_or_else(|_| {
            Err(SourceError::GaveUp {
                url: split.object.url.clone(),
            })
        });
        if let Err(error) = read {
            // In order behind the batches before it; if nobody listens there is nobody to tell.
            let _ = sender.blocking_send(Err(error.into()));
            return false;
        }
        if !wanted {
            return false;
        }
    }
    true
}

/// Ranges of an object as it was listed, each whole, wherever it lies. Blocks, on a thread that may.
pub(crate) fn fetch_ranges(
    stores: &Stores,
    runtime: &Handle,
    object: &InputObject,
    ranges: &[Range<u64>],
) -> Result<Vec<Bytes>, SourceError> {
    if object.url.starts_with("s3://") {
        let fetches = ranges.iter().map(|range| fetch(stores, object, range.clone()));
        return runtime.block_on(
            futures::stream::iter(fetches)
                .buffered(RANGES_IN_FLIGHT)
                .try_collect(),
        );
    }
    let mut found = Vec::with_capacity(ranges.len());
    for range in ranges {
        let mut file = FileBytes::open(object, range.start)?;
        let mut bytes = Vec::new();
        let length = range.end - range.start;
        let read = file.by_ref().take(length).read_to_end(&mut bytes);
        file.check()?;
        match read {
            Ok(read) if read as u64 == length => found.push(Bytes::from(bytes)),
            Ok(_) => return Err(failed_read(object, range.end, ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(failed_read(object, range.start, error)),
        }
    }
    Ok(found)
}

fn failed_read(object: &InputObject, position: u64, error: std::io::Error) -> SourceError {
    match error.downcast::<SourceError>() {
        Ok(error) => error,
        Err(source) => SourceError::Read {
            url: object.url.clone(),
            position,
            source,
        },
    }
}

fn read_split<W>(
    split: &Split,
    queue: &mut Queue,
    work: &mut W,
    emit: &mut Emit<'_>,
) -> Result<(), SourceError>
where
    W: FnMut(&mut SplitBytes<'_>, &mut Emit<'_>) -> Result<(), SourceError>,
{
    let packing = Packing::of(&split.object.url);
    let mut run = |packed: &mut dyn Read| {
        let mut bytes = packing
            .unpack(packed)
            .map_err(|error| failure(split, packing, error, 0))?;
        work(
            &mut SplitBytes {
                split,
                bytes: &mut *bytes,
                packing,
            },
            emit,
        )
    };
    if is_remote(split) {
        let mut object = ObjectBytes::new(queue, split);
        run(&mut object)?;
        object.finish()
    } else {
        let mut file = FileBytes::open(&split.object, split.start.saturating_sub(1))?;
        run(&mut file)?;
        file.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_under_a_packed_file_is_not_a_damaged_file() {
        let split = Split {
            index: 0,
            object: InputObject {
                url: "/in/a.json.gz".to_owned(),
                size: 10,
                version: "1".to_owned(),
            },
            start: 0,
            end: 10,
        };
        let failed = |error| failure(&split, Packing::Gzip, error, 7);
        let disk = failed(std::io::Error::from_raw_os_error(5));
        assert!(matches!(disk, SourceError::Read { position: 7, .. }) && !disk.is_final());
        let damaged = failed(ErrorKind::InvalidData.into());
        assert!(matches!(damaged, SourceError::Unpack { position: 7, .. }) && damaged.is_final());
    }
}
