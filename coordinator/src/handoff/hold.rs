//! What operators decided about held batches: one object in the lake per decision, put if absent.
//!
//! In: a batch, a verdict, a reason, who. Out: `holds/<batch>.json`, for ever: it is the audit record too.
//!
//! A decision is nobody's epoch: it may be made while no coordinator leads, or beside an embedded run. So it is not an
//! entry of the ledger, which only one writer appends to. The conditional put makes the first decision the only one.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_proto::ids::BatchId;
use millrace_proto::keys;
use serde::{Deserialize, Serialize};

use super::HandoffError;
use crate::lake::{Lake, LakeError};
use crate::ledger::State;

/// What becomes of a held batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is loaded after all.
    Released,
    /// It is never loaded. It stays in the lake.
    Discarded,
}

/// A decision about a held batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// By whom.
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
}

impl Verdict {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Discarded => "discarded",
        }
    }
}

impl Decision {
    /// Whether it says the same: the same person may ask twice.
    fn agrees(&self, other: &Self) -> bool {
        (self.verdict, &self.reason, &self.by) == (other.verdict, &other.reason, &other.by)
    }
}

/// Records a decision about a held batch; gives the one that stands. The same decision again is that decision.
///
/// # Errors
/// When the batch is not held, was decided upon otherwise, or the lake fails.
pub fn decide<'a>(
    lake: &'a Lake,
    state: &'a State,
    batch: &'a BatchId,
    decision: &'a Decision,
) -> BoxFuture<'a, Result<Decision, HandoffError>> {
    async move {
        let undecidable = |problem: &str| HandoffError::Undecidable {
            batch: batch.clone(),
            problem: problem.to_owned(),
        };
        match state.committed().find(|(id, _)| *id == batch) {
            None => {
                return Err(undecidable(
                    "is not committed; `millrace handoff status` lists the held ones",
                ));
            }
            Some((_, found)) if !found.held => {
                return Err(undecidable("is not held: it is loaded in its turn"));
            }
            Some(_) => {}
        }
        if decision.reason.trim().is_empty() {
            return Err(undecidable("needs a reason: it is kept with the decision"));
        }
        let key = keys::hold(batch);
        let bytes = serde_json::to_vec_pretty(decision).map_err(|source| HandoffError::Decision {
            key: key.clone(),
            source,
        })?;
        match lake.create(&key, Bytes::from(bytes)).await {
            Ok(()) => Ok(decision.clone()),
            Err(LakeError::Exists { .. }) => {
                let first = read(lake, &key).await?;
                if first.agrees(decision) {
                    return Ok(first);
                }
                Err(undecidable(&format!(
                    "was {} by {} at {}: {}",
                    first.verdict.name(),
                    first.by,
                    first.at.to_rfc3339(),
                    first.reason
                )))
            }
            Err(error) => Err(error.into()),
        }
    }
    .boxed()
}

/// All decisions of a lake.
///
/// # Errors
/// When the lake fails or a decision is damaged.
pub async fn decisions(lake: &Lake) -> Result<BTreeMap<BatchId, Decision>, HandoffError> {
    let mut decisions = BTreeMap::new();
    for (key, _) in lake.list(keys::HOLDS).await? {
        let name = key.rsplit('/').next().and_then(|name| name.strip_suffix(".json"));
        if let Some(batch) = name.and_then(|name| BatchId::try_from(name.to_owned()).ok()) {
            decisions.insert(batch, read(lake, &key).await?);
        }
    }
    Ok(decisions)
}

async fn read(lake: &Lake, key: &str) -> Result<Decision, HandoffError> {
    let bytes = lake.get(key).await?;
    serde_json::from_slice(&bytes).map_err(|source| HandoffError::Decision {
        key: key.to_owned(),
        source,
    })
}
