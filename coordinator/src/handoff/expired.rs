//! Files that expired before the warehouse was loaded with them: their rows are older than the lake keeps, and gone.
//!
//! In: the ledger. Out: keys of files that a load leaves out. An expiry does not take what the warehouse waits for, so this
//! counts only where a warehouse is loaded again from the beginning: what has expired there stays out, and the rest is loaded.

use std::collections::HashSet;

use millrace_proto::manifest::DataFile;

use super::HandoffError;
use crate::commit;
use crate::lake::Lake;
use crate::ledger::{Batch, State, Why};

/// What expired, as far as it was looked at.
#[derive(Debug, Default)]
pub(super) struct Expired {
    /// Expiries that were looked at.
    seen: usize,
    keys: HashSet<String>,
}

impl Expired {
    /// Takes in the expiries that are new.
    pub(super) async fn look(&mut self, lake: &Lake, state: &State) -> Result<(), HandoffError> {
        let is_expiry = |batch: &Batch| {
            let removal = batch.removes.as_ref();
            removal.is_some_and(|removal| removal.why == Why::Expired)
        };
        let all = state.committed().filter(|(_, batch)| is_expiry(batch));
        for (id, batch) in all.skip(self.seen) {
            let digest = batch.manifest.as_deref().unwrap_or_default();
            let manifest = commit::committed(lake, id, digest).await?;
            let gone = manifest.replaces.files.into_iter().map(|file| file.object.key);
            self.keys.extend(gone);
            self.seen += 1;
        }
        Ok(())
    }

    /// Leaves out the files that expired.
    pub(super) fn sift(&self, files: &mut Vec<DataFile>) {
        files.retain(|file| !self.keys.contains(&file.object.key));
    }
}
