//! Which batches are to be loaded next: the lake's ledger against the load ledger, and what operators decided.
//!
//! In: the ledger's state, what the load ledger holds, the decisions about held batches, the jobs that have not ended. Out:
//! one standing per committed batch, in order. Pure, so a new leader comes to the same list.

use std::collections::{BTreeMap, BTreeSet};

use millrace_proto::ids::{Attempt, BatchId, JobId};

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
    /// Its job has not ended, and the pipeline hands off whole jobs.
    Unfinished,
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
            Self::Unfinished => "unfinished",
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
    /// The job that asked for it.
    pub job: JobId,
    /// The attempt whose files it is.
    pub attempt: Attempt,
    /// Digest of its manifest.
    pub digest: String,
    /// Rows in its data files.
    pub rows: u64,
    /// Where it stands.
    pub standing: Standing,
    /// What somebody decided, if it was held.
    pub decision: Option<Decision>,
}

/// Digests of the manifests that the load ledger holds, by batch.
pub type Loaded = BTreeMap<BatchId, String>;

/// Every committed batch that brought rows, and where it stands, in order.
///
/// # Errors
/// [`HandoffError::Digest`] when the warehouse was loaded from another lake.
pub fn candidates(
    state: &State,
    loaded: &Loaded,
    decisions: &BTreeMap<BatchId, Decision>,
    open: &BTreeSet<JobId>,
) -> Result<Vec<Candidate>, HandoffError> {
    let mut candidates = Vec::new();
    // What upkeep writes are rows of batches that are loaded by themselves.
    for (id, batch) in state.committed().filter(|(_, batch)| !batch.is_upkeep()) {
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
            None => standing(batch, decisions.get(id), open.contains(&batch.job)),
        };
        candidates.push(Candidate {
            batch: id.clone(),
            job: batch.job.clone(),
            attempt,
            digest,
            rows: batch.counts.written,
            standing,
            decision: decisions.get(id).cloned(),
        });
    }
    Ok(candidates)
}

fn standing(batch: &Batch, decision: Option<&Decision>, is_unfinished: bool) -> Standing {
    match (batch.held, decision.map(|decision| decision.verdict)) {
        (true, None) => Standing::Held,
        (true, Some(Verdict::Discarded)) => Standing::Discarded,
        (false, _) | (true, Some(Verdict::Released)) if is_unfinished => Standing::Unfinished,
        (false, _) | (true, Some(Verdict::Released)) => Standing::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(job: u8, held: bool) -> Batch {
        let attempt = Attempt { epoch: 1, number: 1 };
        let job = JobId::try_from(format!("j{job}")).unwrap();
        Batch {
            state: BatchState::Committed(attempt),
            attempts: vec![attempt],
            committed_by: Some(1),
            manifest: Some("digest".to_owned()),
            held,
            ..Batch::planned(&job, &[])
        }
    }

    fn decision(verdict: Verdict) -> Decision {
        Decision {
            verdict,
            reason: "looked at it".to_owned(),
            by: "ada".to_owned(),
            at: chrono::DateTime::UNIX_EPOCH,
        }
    }

    proptest! {
        /// A batch is loaded if and only if it is not there, nobody keeps it back, and its job is over.
        #[test]
        fn a_batch_waits_only_when_nothing_speaks_against_it(
            batches in proptest::collection::vec((0u8..3, any::<bool>(), 0u8..3, any::<bool>()), 0..20),
            open in proptest::collection::btree_set(0u8..3, 0..3),
        ) {
            let (mut state, mut loaded, mut decisions) = (State::default(), Loaded::new(), BTreeMap::new());
            for (n, (job, held, verdict, there)) in batches.iter().enumerate() {
                let id = BatchId::try_from(format!("b{n:02}")).unwrap();
                state.batches.insert(id.clone(), batch(*job, *held));
                match verdict {
                    1 => { decisions.insert(id.clone(), decision(Verdict::Released)); }
                    2 => { decisions.insert(id.clone(), decision(Verdict::Discarded)); }
                    _ => {}
                }
                if *there {
                    loaded.insert(id, "digest".to_owned());
                }
            }
            let jobs = open.iter().map(|job| JobId::try_from(format!("j{job}")).unwrap()).collect();
            let found = candidates(&state, &loaded, &decisions, &jobs).unwrap();
            prop_assert_eq!(found.len(), batches.len());
            for (candidate, (job, held, verdict, there)) in found.iter().zip(&batches) {
                let is_free = !held || *verdict == 1;
                let waits = !there && is_free && !open.contains(job);
                prop_assert_eq!(candidate.standing == Standing::Waiting, waits);
                prop_assert_eq!(candidate.standing == Standing::Loaded, *there);
            }
        }
    }
}
