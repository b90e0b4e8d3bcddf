//! Old places leave etcd for objects in the lake.
//!
//! The key `snapshot` lists segments: objects that hold the entries of consecutive places, oldest first. A new
//! segment swallows those before it that are not longer than itself, so there are few of them and each entry is
//! rewritten only as often as lengths double.
//!
//! Order: the object is put, the key is moved by a guarded transaction, the places are deleted. A crash in between
//! leaves an object that nothing names, or places that the snapshot holds too, which reading passes over.

use etcd_client::{Compare, CompareOp, DeleteOptions, TxnOp};
use millrace_proto::keys;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::{End, EtcdLedger, damaged, encode, get_object, leads, place_key, put_object, snapshot_key};
use crate::lake::Lake;
use crate::ledger::{Entry, LedgerError};

/// Places that one transaction deletes.
const DELETES: u64 = 100;

/// The value of the key `snapshot`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Snapshot {
    pub(super) segments: Vec<Segment>,
}

/// An object that holds the entries of the places `first..end`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Segment {
    pub(super) key: String,
    pub(super) digest: String,
    pub(super) first: u64,
    pub(super) end: u64,
}

impl Segment {
    /// The entries, by place.
    pub(super) async fn read(&self, lake: &Lake) -> Result<Vec<Vec<Entry>>, LedgerError> {
        let bytes = get_object(lake, &self.key, &self.digest).await?;
        serde_json::from_slice(&bytes).map_err(damaged(&self.key))
    }

    fn places(&self) -> u64 {
        self.end - self.first
    }
}

impl EtcdLedger {
    /// Compacts when enough has gathered. The append before it stands whatever comes of this, so a failure is
    /// logged and tried again later.
    pub(super) async fn compact_if_due(&mut self) {
        if self.live.len() < self.limits.compact_after {
            return;
        }
        if self.compact_pause > 0 {
            self.compact_pause -= 1;
            return;
        }
        if let Err(error) = self.compact().await {
            warn!(ledger = self.folder, error = %error, "the ledger could not be compacted");
            self.compact_pause = self.limits.compact_after / 8;
        }
    }

    async fn compact(&mut self) -> Result<(), LedgerError> {
        let (segments, swallowed) = self.new_segments().await?;
        let value = encode(
            "snapshot",
            &Snapshot {
                segments: segments.clone(),
            },
        )?;
        let key = snapshot_key(&self.folder);
        let outcome = self
            .etcd
            .txn(
                vec![
                    self.lead.guard(),
                    Compare::mod_revision(key.as_str(), CompareOp::Equal, self.snapshot_revision),
                ],
                vec![TxnOp::put(key.as_str(), value.clone(), None)],
                vec![TxnOp::get(key.as_str(), None), TxnOp::get(self.lead.key(), None)],
            )
            .await?;
        let ours = outcome.first(0).filter(|kv| kv.value() == value);
        let revision = match ours {
            _ if outcome.applied => outcome.revision,
            Some(kv) => kv.mod_revision(),
            None if leads(&self.lead, outcome.first(1)) => return Err(LedgerError::Rewound { key }),
            None => return Err(self.fenced(self.next)),
        };
        let first = self.next - self.live.len() as u64;
        self.segments = segments;
        self.snapshot_revision = revision;
        self.live.clear();
        self.end = Some(End { key, revision });
        debug!(ledger = self.folder, places = self.next, "compacted");
        self.delete_places(first).await?;
        for segment in swallowed {
            self.spill.delete(&segment.key).await?;
        }
        Ok(())
    }

    /// Puts the object that holds every place in etcd, and what it swallows.
    async fn new_segments(&self) -> Result<(Vec<Segment>, Vec<Segment>), LedgerError> {
        let mut segments = self.segments.clone();
        let mut swallowed = Vec::new();
        let mut first = self.next - self.live.len() as u64;
        while let Some(last) = segments.pop_if(|last| last.places() <= self.next - first) {
            first = last.first;
            swallowed.push(last);
        }
        let mut places = Vec::new();
        for segment in swallowed.iter().rev() {
            places.extend(segment.read(&self.spill).await?);
        }
        places.extend(self.live.iter().cloned());
        let bytes = encode("segment", &places)?;
        let digest = blake3::hash(&bytes).to_hex().to_string();
        let key = keys::ledger_snapshot(self.next, &digest);
        put_object(&self.spill, &key, bytes).await?;
        let end = self.next;
        segments.push(Segment {
            key,
            digest,
            first,
            end,
        });
        Ok((segments, swallowed))
    }

    /// Deletes the places from `first` on that the snapshot holds, and what an earlier crash left before them.
    async fn delete_places(&self, first: u64) -> Result<(), LedgerError> {
        let mut from = 0;
        while from < self.next {
            // Only the first round reaches further back: what is there is a remainder.
            let to = (from.max(first) + DELETES).min(self.next);
            let range = DeleteOptions::new().with_range(place_key(&self.folder, to));
            let delete = TxnOp::delete(place_key(&self.folder, from), Some(range));
            let guard = vec![self.lead.guard()];
            if !self.etcd.txn(guard, vec![delete], Vec::new()).await?.applied {
                return Err(self.fenced(self.next));
            }
            from = to;
        }
        Ok(())
    }
}
