//! How a compaction writes files anew: as Parquet, by the sink that every batch writes with. The simulation has a way of its own.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::sink::{SinkError, SinkSpec, fits, rewrite};
use millrace_proto::ids::{Attempt, BatchId};
use millrace_proto::manifest::{DataFile, TaskReport};

use super::select::Selection;
use crate::aside;
use crate::job::RunError;
use crate::lifecycle::Batches;

/// Files written anew.
pub(crate) struct Rewritten {
    /// Those of the selection that were.
    pub(crate) files: Vec<DataFile>,
    /// What stands in their place, and in the place of the key files.
    pub(crate) report: TaskReport,
}

/// Writes the files of a selection anew.
pub(crate) trait Rewrite: Send + Sync {
    /// As an attempt of a compaction. The key files are rewritten whole.
    fn rewrite<'a>(
        &'a self,
        batches: &'a Batches,
        id: &'a BatchId,
        attempt: Attempt,
        selection: &'a Selection,
    ) -> BoxFuture<'a, Result<Rewritten, RunError>>;
}

/// As Parquet.
pub(super) struct InParquet {
    pub(super) memory_bytes: usize,
}

impl Rewrite for InParquet {
    fn rewrite<'a>(
        &'a self,
        batches: &'a Batches,
        id: &'a BatchId,
        attempt: Attempt,
        selection: &'a Selection,
    ) -> BoxFuture<'a, Result<Rewritten, RunError>> {
        async move {
            let spec = Arc::new(batches.sink(id, attempt, self.memory_bytes));
            let failed = |source| RunError::Compaction {
                batch: id.clone(),
                source: Box::new(source),
            };
            let Selection { files, keys, .. } = selection.clone();
            let written = aside::run(format!("compaction {id}"), async move {
                let files = fitting(&spec, files).await?;
                let report = rewrite(spec, &files, &keys).await?;
                Ok(Rewritten { files, report })
            });
            written.await?.map_err(failed)
        }
        .boxed()
    }
}

/// Files that can be written as the table is now; a partition of which only one is left stays as it is.
async fn fitting(spec: &SinkSpec, files: Vec<DataFile>) -> Result<Vec<DataFile>, SinkError> {
    let mut fitting: Vec<DataFile> = Vec::with_capacity(files.len());
    for file in files {
        if fits(spec, &file).await? {
            fitting.push(file);
        } else {
            tracing::info!(file = file.object.key, "of another table: it stays as it is");
        }
    }
    let of = |partition: &[(String, String)]| {
        let same = fitting.iter().filter(|file| file.partition == partition);
        same.count()
    };
    let lonely: Vec<bool> = fitting.iter().map(|file| of(&file.partition) < 2).collect();
    let mut lonely = lonely.into_iter();
    fitting.retain(|_| !lonely.next().unwrap_or(false));
    Ok(fitting)
}
