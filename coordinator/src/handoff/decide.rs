//! Which batches are to be loaded next: the lake's ledger against the load ledger, and what operators decided.
//!
//! In: the ledger's state, what the load ledger holds, the decisions about held batches. Out: one standing per committed
//! batch, in order. Pure, so a new leader comes to the same list.

use std::collections::BTreeMap;

use millrace_proto::ids::{Attempt, BatchId};

use super::HandoffError;
use super::hold::{Decision, Verdict};
use crate::ledger::{Batch, BatchState, State};

/// Where a committed batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its rows are in the warehouse.
    Loaded,
    /// It is to be loaded.
    Waiting,
    /// A quality breach keeps it back until somebody decides.
    Held,
    /// It was held, and somebody decided that it is never loaded.
    Discarded,
}

impl Standing {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::Discarded => "discarded",
        }
    }
}

/// A committed batch as the handoff sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The batch.
    pub batch: BatchId,
    /// The attempt whose files it is.
    pub attempt: Attempt,
    /// Digest of its manifest.
    pub digest: String,
    /// Rows in its data files.
    pub rows: u64,
    /// Where it stands.
    pub standing: Standing,
}

/// Digests of the manifests that the load ledger holds, by batch.
pub type Loaded = BTreeMap<BatchId, String>;

/// Every committed batch and where it stands, in order.
///
/// # Errors
/// [`HandoffError::Digest`] when the warehouse was loaded from another lake.
pub fn candidates(
    state: &State,
    loaded: &Loaded,
    decisions: &BTreeMap<BatchId, Decision>,
) -> Result<Vec<Candidate>, HandoffError> {
    let mut candidates = Vec::new();
    for (id, batch) in state.committed() {
        let BatchState::Committed(attempt) = batch.state else {
            continue;
        };
        let digest = batch.manifest.clone().unwrap_or_default();
        let standing = match loaded.get(id) {
            Some(there) if *there == digest => Standing::Loaded,
            Some(there) => {
                return Err(HandoffError::Digest {
                    pipeline: state
                        .pipeline
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                    batch: id.clone(),
                    loaded: there.clone(),
                    committed: digest,
                });
            }
            None => standing(batch, decisions.get(id)),
        };
        candidates.push(Candidate {
            batch: id.clone(),
            attempt,
            digest,
            rows: batch.counts.written,
            standing,
        });
    }
    Ok(candidates)
}

fn standing(batch: &Batch, decision: Option<&Decision>) -> Standing {
    match (batch.held, decision.map(|decision| decision.verdict)) {
        (false, _) | (true, Some(Verdict::Released)) => Standing::Waiting,
        (true, None) => Standing::Held,
        (true, Some(Verdict::Discarded)) => Standing::Discarded,
    }
}
