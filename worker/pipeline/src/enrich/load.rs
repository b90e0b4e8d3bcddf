//! The snapshots of an attempt, fetched when its first rows come, and kept for the attempts after it.
//!
//! A process fetches a snapshot once: tasks that need it at the same time wait for the one that fetches. What is kept is
//! bounded; a snapshot that is in use stays in memory until its last task has ended.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_proto::manifest::Snapshot;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{EnrichError, LookupTable, Shape, decode};
use crate::privacy::Sealer;
use crate::sink::path_of;
use crate::spec::model::{Enrich, Pipeline};

/// Snapshots that a process keeps, in bytes.
const KEPT_BYTES: usize = 256 << 20;

type Cell = Arc<OnceCell<Arc<LookupTable>>>;

/// Snapshots that were fetched. One for a process.
#[derive(Debug, Default)]
pub struct SnapshotCache {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// By key, which the content makes (so no lake need be told): the snapshot, and when it was last asked for.
    cells: HashMap<String, (Cell, u64)>,
    asked: u64,
}

impl SnapshotCache {
    /// The snapshot of a key, or a cell to put it in.
    fn cell(&self, key: &str) -> Cell {
        let mut kept = self.kept.lock();
        kept.asked += 1;
        let now = kept.asked;
        let (cell, asked) = kept.cells.entry(key.to_owned()).or_default();
        *asked = now;
        Arc::clone(cell)
    }

    /// Lets go of what was not asked for the longest.
    fn make_room(&self) {
        let mut kept = self.kept.lock();
        while kept.bytes() > KEPT_BYTES && kept.cells.len() > 1 {
            let oldest = kept.cells.iter().min_by_key(|(_, (_, asked))| *asked);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            kept.cells.remove(&oldest);
        }
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        let loaded = self.cells.values().filter_map(|(cell, _)| cell.get());
        loaded.map(|table| table.bytes()).sum()
    }
}

/// The snapshot that a lookup, by position, can use.
#[must_use]
pub fn find_snapshot<'a>(
    pipeline: &Pipeline,
    lookup: usize,
    sealer: Option<&Sealer>,
    snapshots: &'a [Snapshot],
) -> Option<&'a Snapshot> {
    let name = &pipeline.enrich.get(lookup)?.name;
    let shape = Shape::of(pipeline, lookup)?.digest(sealer);
    snapshots
        .iter()
        .find(|snapshot| snapshot.lookup == *name && snapshot.shape == shape)
}

/// The snapshots that one attempt looks up in.
#[derive(Debug, Clone)]
pub struct Lookups {
    store: Arc<dyn ObjectStore>,
    root: Path,
    sealer: Option<Sealer>,
    /// In the order of the pipeline's lookups; none where the batch names none that fits.
    snapshots: Vec<Result<Snapshot, String>>,
    cache: Arc<SnapshotCache>,
}

impl Lookups {
    /// The snapshots of a batch, for a pipeline whose records are sealed by `sealer`.
    #[must_use]
    pub fn new(
        pipeline: &Pipeline,
        sealer: Option<&Sealer>,
        (store, root): (Arc<dyn ObjectStore>, Path),
        snapshots: &[Snapshot],
        cache: Arc<SnapshotCache>,
    ) -> Self {
        let find = |(i, enrich): (usize, &Enrich)| {
            let found = find_snapshot(pipeline, i, sealer, snapshots);
            found.cloned().ok_or_else(|| enrich.name.clone())
        };
        Self {
            store,
            root,
            sealer: sealer.cloned(),
            snapshots: pipeline.enrich.iter().enumerate().map(find).collect(),
            cache,
        }
    }

    /// The pipeline's lookups, ready.
    ///
    /// # Errors
    /// When the batch names no snapshot that fits, or one cannot be read.
    pub async fn tables(&self) -> Result<Vec<Arc<LookupTable>>, EnrichError> {
        let mut tables = Vec::with_capacity(self.snapshots.len());
        for snapshot in &self.snapshots {
            let snapshot = snapshot.as_ref().map_err(|lookup| EnrichError::Missing {
                lookup: lookup.clone(),
            })?;
            tables.push(self.table(snapshot).await?);
        }
        Ok(tables)
    }

    async fn table(&self, snapshot: &Snapshot) -> Result<Arc<LookupTable>, EnrichError> {
        let key = &snapshot.object.key;
        let cell = self.cache.cell(key);
        let table = cell.get_or_try_init(|| self.fetch(snapshot)).await?;
        self.cache.make_room();
        Ok(Arc::clone(table))
    }

    async fn fetch(&self, snapshot: &Snapshot) -> Result<Arc<LookupTable>, EnrichError> {
        let key = &snapshot.object.key;
        let failed = |source| EnrichError::Read {
            key: key.clone(),
            source,
        };
        let path = path_of(&self.root, key).map_err(|_| EnrichError::Missing {
            lookup: snapshot.lookup.clone(),
        })?;
        let object = self.store.get(&path).await.map_err(failed)?;
        let bytes = object.bytes().await.map_err(failed)?;
        let rows = decode(key, bytes, &snapshot.version, self.sealer.as_ref())?;
        tracing::debug!(
            lookup = snapshot.lookup,
            key,
            rows = rows.num_rows(),
            "a snapshot is loaded"
        );
        Ok(Arc::new(LookupTable::new(&rows)?))
    }
}
