//! What a batch is told of the one before it, whose tasks are done and which is still being committed.
//!
//! In: the reports of the batch before. Out: what stands in the ledger once that attempt is committed: its key files, its
//! newest event time. The next batch is planned as if it did already, and reads meanwhile; its rows meet no key before the
//! ledger says so, since the list of key files that its plan names is put only then. Where another attempt was committed, or
//! none, the attempt that was planned behind this one is dropped.
//!
//! | the batch before...                       | the attempt behind it                                          |
//! |--------------------------------------------|----------------------------------------------------------------|
//! | is committed as it was                     | counts like any other                                          |
//! | is committed by another attempt's manifest | is dropped; the next one is told of those key files            |
//! | does not add up, and is run again          | is dropped first: the slots are needed                         |
//! | is given up                                | is given up too: both are of one job, which fails              |
//! | is not known to be committed: a leader died | both are open in the ledger, and the next leader finishes them in order |

use millrace_proto::ids::{Attempt, BatchId};
use millrace_proto::manifest::{KeyFile, Manifest, TaskReport};

/// An attempt whose tasks are done.
#[derive(Debug, Clone)]
pub struct Ahead {
    batch: BatchId,
    attempt: Attempt,
    keys: Vec<KeyFile>,
    newest_us: Option<i64>,
}

impl Ahead {
    /// What the reports of an attempt say.
    #[must_use]
    pub fn of(batch: &BatchId, attempt: Attempt, reports: &[TaskReport]) -> Self {
        let files = reports.iter().flat_map(|report| &report.files);
        Self {
            batch: batch.clone(),
            attempt,
            keys: reports.iter().flat_map(|report| report.keys.clone()).collect(),
            newest_us: files.map(|file| file.time_max).max(),
        }
    }

    /// Whether this attempt is what was committed.
    #[must_use]
    pub fn is(&self, committed: &Manifest) -> bool {
        committed.batch == self.batch && committed.attempt == self.attempt
    }

    /// The batch.
    #[must_use]
    pub fn batch(&self) -> &BatchId {
        &self.batch
    }

    /// The key files that count once it is committed.
    #[must_use]
    pub fn after(&self, committed: &[KeyFile]) -> Vec<KeyFile> {
        committed.iter().chain(&self.keys).cloned().collect()
    }

    /// The newest event time once it is committed, microseconds since 1970 UTC.
    #[must_use]
    pub fn newest(&self, committed_us: Option<i64>) -> Option<i64> {
        committed_us.max(self.newest_us)
    }
}
