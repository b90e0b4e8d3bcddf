//! An S3 object's bytes by ranges, several requests in flight, each for the version that was listed.
//!
//! All ranges of a partition's splits form one queue, in reading order, so that the next small object is
//! fetched while this one is decoded. At most [`IN_FLIGHT`] ranges of [`RANGE_BYTES`] wait in memory.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use millrace_proto::split::{InputObject, Split};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::SourceError;
use super::stores::Stores;

/// Large enough that a request's latency is small beside its transfer.
const RANGE_BYTES: u64 = 8 << 20;
const IN_FLIGHT: usize = 4;
/// First step beyond a split's end, where its last line ends; it doubles.
const BEYOND_BYTES: u64 = 64 << 10;

/// What tells two contents of one key apart.
pub(super) fn version(meta: &ObjectMeta) -> String {
    meta.e_tag
        .clone()
        .unwrap_or_else(|| format!("{UNTAGGED}{}", meta.last_modified.timestamp_micros()))
}

/// How the version of an object starts whose store gives no ETag.
const UNTAGGED: &str = "modified-";

/// Whether the server understood and said no. The client tells statuses apart for requests of one object only, not for
/// listings, and its error keeps the status to itself: its text is all there is.
pub(super) fn is_refusal(error: &object_store::Error) -> bool {
    let text = error.to_string();
    let status = text.split("status code: ").nth(1).unwrap_or_default();
    status.starts_with('4') && !["408", "429"].iter().any(|busy| status.starts_with(busy))
}

/// Some bytes of the object as it was listed.
pub(crate) async fn fetch(
    stores: &Stores,
    object: &InputObject,
    range: Range<u64>,
) -> Result<Bytes, SourceError> {
    let failed = |source| SourceError::Store {
        url: object.url.clone(),
        source,
    };
    let gone = || SourceError::Vanished {
        url: object.url.clone(),
        size: object.size,
    };
    let (store, path) = stores.open(&object.url)?;
    let options = GetOptions {
        range: Some(GetRange::Bounded(range.clone())),
        if_match: (!object.version.starts_with(UNTAGGED)).then(|| object.version.clone()),
        ..GetOptions::default()
    };
    let (meta, found) = match store.get_opts(&path, options).await {
        Ok(found) => (found.meta.clone(), Some(found)),
        Err(object_store::Error::NotFound { .. }) => return Err(gone()),
        Err(object_store::Error::Precondition { .. }) => match store.head(&path).await {
            Ok(meta) => (meta, None),
            Err(object_store::Error::NotFound { .. }) => return Err(gone()),
            Err(source) => return Err(failed(source)),
        },
        Err(source) => return Err(failed(source)),
    };
    // Compared here too: not every store heeds the condition.
    match found {
        Some(found)
            if meta.size == object.size && version(&meta) == object.version && found.range == range =>
        {
            found.bytes().await.map_err(failed)
        }
        _ => Err(SourceError::Changed {
            url: object.url.clone(),
            expected: object.version.clone(),
            expected_size: object.size,
            found: version(&meta),
            found_size: meta.size,
        }),
    }
}

/// The ranges that a reader of this split certainly needs; see [`super::read`] for the byte before it.
fn ranges(split: &Split) -> Vec<Range<u64>> {
    let (mut from, mut ranges) = (split.start.saturating_sub(1), Vec::new());
    while from < split.end {
        let to = split.end.min(from + RANGE_BYTES);
        ranges.push(from..to);
        from = to;
    }
    ranges
}

/// The queue of fetched ranges of one partition's splits.
#[derive(Debug)]
pub(super) struct Queue {
    stores: Arc<Stores>,
    fetched: mpsc::Receiver<Result<Bytes, SourceError>>,
    runtime: Handle,
}

impl Queue {
    /// Starts to fetch the ranges of those splits that lie in S3. Needs a Tokio runtime.
    pub(super) fn start(stores: &Arc<Stores>, splits: &[Split]) -> Self {
        let (sender, fetched) = mpsc::channel(1);
        let wanted: Vec<(InputObject, Range<u64>)> = splits
            .iter()
            .filter(|split| is_remote(split))
            .flat_map(|split| {
                ranges(split)
                    .into_iter()
                    .map(|range| (split.object.clone(), range))
            })
            .collect();
        if !wanted.is_empty() {
            let stores = Arc::clone(stores);
            tokio::spawn(async move {
                let fetches = wanted.into_iter().map(|(object, range)| {
                    let stores = Arc::clone(&stores);
                    async move { fetch(&stores, &object, range).await }
                });
                let mut blocks = futures::stream::iter(fetches).buffered(IN_FLIGHT);
                while let Some(block) = blocks.next().await {
                    // Nobody listens any more: the reader failed or was cancelled.
                    if sender.send(block).await.is_err() {
                        return;
                    }
                }
            });
        }
        Self {
            stores: Arc::clone(stores),
            fetched,
            runtime: Handle::current(),
        }
    }
}

/// Whether a split's bytes come through the queue.
pub(super) fn is_remote(split: &Split) -> bool {
    split.object.url.starts_with("s3://")
}

/// Reads one split from the queue, then on to the object's end as far as it is asked to. Blocks.
#[derive(Debug)]
pub(super) struct ObjectBytes<'a> {
    queue: &'a mut Queue,
    object: &'a InputObject,
    queued: usize,
    block: Bytes,
    position: u64,
    beyond_bytes: u64,
}

impl<'a> ObjectBytes<'a> {
    /// The next split of the queue.
    pub(super) fn new(queue: &'a mut Queue, split: &'a Split) -> Self {
        Self {
            queue,
            object: &split.object,
            queued: ranges(split).len(),
            block: Bytes::new(),
            position: split.start.saturating_sub(1),
            beyond_bytes: BEYOND_BYTES,
        }
    }

    fn next_block(&mut self) -> Result<Bytes, SourceError> {
        if self.queued > 0 {
            self.queued -= 1;
            return self.queue.fetched.blocking_recv().unwrap_or_else(|| {
                // Only when the runtime is going down.
                Err(SourceError::Read {
                    url: self.object.url.clone(),
                    position: self.position,
                    source: std::io::ErrorKind::Interrupted.into(),
                })
            });
        }
        let to = self.object.size.min(self.position + self.beyond_bytes);
        self.beyond_bytes = RANGE_BYTES.min(self.beyond_bytes * 2);
        if to <= self.position {
            return Ok(Bytes::new());
        }
        let range = self.position..to;
        self.queue
            .runtime
            .block_on(fetch(&self.queue.stores, self.object, range))
    }

    /// Leaves the queue at the next split's first range.
    pub(super) fn finish(mut self) -> Result<(), SourceError> {
        while self.queued > 0 {
            self.next_block()?;
        }
        Ok(())
    }
}

impl Read for ObjectBytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.block.is_empty() {
            self.block = self.next_block().map_err(std::io::Error::other)?;
        }
        let read = buffer.len().min(self.block.len());
        self.block.copy_to_slice(&mut buffer[..read]);
        self.position += read as u64;
        Ok(read)
    }
}
