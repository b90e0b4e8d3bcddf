//! The cluster's ledger: the sequence as keys in etcd, written by the leader only.
//!
//! ```text
//! /<prefix>/ledger/<pipeline>/000000000042   what was appended at once, or the name of the object that holds it
//! /<prefix>/ledger/<pipeline>/lake           the lake that this ledger is about
//! /<prefix>/ledger/<pipeline>/snapshot       objects in the lake that hold every entry before the first such key
//! ```
//!
//! An append is one transaction that compares three things (invariant 2):
//!
//! | compared                                 | fails when                                                       |
//! |------------------------------------------|------------------------------------------------------------------|
//! | the leader's key has our epoch           | we were replaced                                                 |
//! | the place is empty                       | another handle of ours wrote; or it is ours, the response was lost |
//! | the place before is as we left it        | etcd was set back to an older state under us                     |
//!
//! etcd takes requests of 1.5 MiB and is a small store: a large append goes into the lake as an object and only its
//! digest into etcd, and old places are moved into objects too (see `snapshot`).

mod claim;
mod read;
mod snapshot;

use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, SortOrder, SortTarget, TxnOp};
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_proto::ids::PipelineName;
use serde::{Deserialize, Serialize};
use tracing::error;

use super::{Entry, FencedBy, Ledger, LedgerError, State};
use crate::election::Leadership;
use crate::etcd::{Etcd, EtcdError, Outcome, key};
use crate::lake::{Lake, LakeError};
use snapshot::Segment;

/// When large things leave etcd, and how long its alarm is waited out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest append that is kept in etcd itself, in bytes.
    pub inline_bytes: usize,
    /// So many appends in etcd are moved into an object.
    pub compact_after: usize,
    /// How long an append waits for the NOSPACE alarm to be disarmed.
    pub full_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inline_bytes: 512 << 10,
            compact_after: 512,
            full_patience: Duration::from_secs(60),
        }
    }
}

/// What one place holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    /// The handle that appended it: tells our own append, whose response was lost, from an equal one.
    by: String,
    /// The entries, unless they are large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<Entry>>,
    /// The object that holds them, if they are large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Body>,
}

/// An object that holds one append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    key: String,
    digest: String,
}

/// The key that the sequence ended with when we wrote or read it last.
#[derive(Debug, Clone)]
struct End {
    key: String,
    revision: i64,
}

/// A pipeline's ledger, open for writing by the leader.
#[derive(Debug)]
pub struct EtcdLedger {
    etcd: Etcd,
    lead: Leadership,
    folder: String,
    spill: Lake,
    limits: Limits,
    writer: String,
    lake_id: String,
    state: State,
    /// The next place.
    next: u64,
    /// What stands in etcd of the places before it, oldest first.
    live: Vec<Vec<Entry>>,
    segments: Vec<Segment>,
    snapshot_revision: i64,
    end: Option<End>,
    /// An append whose outcome is not known was the last thing this handle did.
    unknown: bool,
    /// Appends before compaction is tried again after a failure.
    compact_pause: usize,
}

impl EtcdLedger {
    /// Takes a pipeline's ledger over for a leader. `spill` is the pipeline's lake.
    ///
    /// # Errors
    /// When we do not lead any more, the lake is another pipeline's or another ledger's, the sequence is damaged,
    /// or etcd or the lake fail.
    pub async fn open(
        etcd: &Etcd,
        prefix: &str,
        pipeline: &PipelineName,
        lead: &Leadership,
        spill: Lake,
    ) -> Result<Self, LedgerError> {
        Self::open_with(etcd, prefix, pipeline, lead, spill, Limits::default()).await
    }

    /// The same with limits of one's own.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(
        etcd: &Etcd,
        prefix: &str,
        pipeline: &PipelineName,
        lead: &Leadership,
        spill: Lake,
        limits: Limits,
    ) -> Result<Self, LedgerError> {
        let folder = folder(prefix, pipeline);
        loop {
            let read = read::read(etcd, &folder, &spill).await?;
            let lake_id = claim::claim(&spill, pipeline, read.lake_id.as_deref()).await?;
            let mut ledger = Self {
                etcd: etcd.clone(),
                lead: lead.clone(),
                folder: folder.clone(),
                spill: spill.clone(),
                limits,
                writer: uuid::Uuid::new_v4().simple().to_string(),
                lake_id,
                state: read.state,
                next: read.next,
                live: read.live,
                segments: read.segments,
                snapshot_revision: read.snapshot_revision,
                end: read.end,
                unknown: false,
                compact_pause: 0,
            };
            let opened = Entry::Opened {
                pipeline: pipeline.clone(),
                epoch: Some(lead.epoch()),
            };
            match ledger.put(vec![opened]).await {
                Ok(()) => return Ok(ledger),
                // Another handle of this leader was faster: read again.
                Err(LedgerError::Fenced {
                    by: FencedBy::Place, ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What a pipeline's ledger adds up to, read without leading.
    ///
    /// # Errors
    /// When etcd or the lake fail, or the sequence is damaged.
    pub async fn read(
        etcd: &Etcd,
        prefix: &str,
        pipeline: &PipelineName,
        spill: &Lake,
    ) -> Result<State, LedgerError> {
        Ok(read::read(etcd, &folder(prefix, pipeline), spill).await?.state)
    }

    /// The revision of the last change to a pipeline's ledger: another one says that [`Self::read`] may give more. One
    /// small read.
    ///
    /// # Errors
    /// When etcd fails.
    pub async fn revision(etcd: &Etcd, prefix: &str, pipeline: &PipelineName) -> Result<i64, EtcdError> {
        let newest = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Mod, SortOrder::Descend)
            .with_limit(1)
            .with_keys_only();
        let found = etcd.get(&folder(prefix, pipeline), Some(newest)).await?;
        Ok(found.kvs().first().map_or(0, KeyValue::mod_revision))
    }

    async fn put(&mut self, entries: Vec<Entry>) -> Result<(), LedgerError> {
        let place = self.next;
        if self.unknown {
            return Err(LedgerError::Unknown { place, source: None });
        }
        let value = self.value(&entries).await?;
        let revision = self.commit(place, value).await?;
        self.next += 1;
        let key = place_key(&self.folder, place);
        self.end = Some(End { key, revision });
        self.state = entries.iter().fold(std::mem::take(&mut self.state), State::next);
        self.live.push(entries);
        self.compact_if_due().await;
        Ok(())
    }

    /// What is put at the place; a large one goes into the lake first.
    async fn value(&self, entries: &[Entry]) -> Result<Vec<u8>, LedgerError> {
        let by = self.writer.clone();
        let entries = encode("entries", &entries)?;
        let value = if entries.len() <= self.limits.inline_bytes {
            let entries = serde_json::from_slice(&entries).map_err(damaged("entries"))?;
            Value {
                by,
                entries: Some(entries),
                body: None,
            }
        } else {
            let digest = blake3::hash(&entries).to_hex().to_string();
            let key = millrace_proto::keys::ledger_body(&digest);
            put_object(&self.spill, &key, entries).await?;
            Value {
                by,
                entries: None,
                body: Some(Body { key, digest }),
            }
        };
        encode("value", &value)
    }

    /// Puts the value at the place; gives its revision.
    async fn commit(&mut self, place: u64, value: Vec<u8>) -> Result<i64, LedgerError> {
        let key = place_key(&self.folder, place);
        let mut when = vec![
            self.lead.guard(),
            Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
        ];
        let mut then = vec![TxnOp::put(key.as_str(), value.clone(), None)];
        match &self.end {
            Some(end) => when.push(Compare::mod_revision(
                end.key.as_str(),
                CompareOp::Equal,
                end.revision,
            )),
            None => then.push(TxnOp::put(lake_key(&self.folder), self.lake_id.as_str(), None)),
        }
        let otherwise = vec![TxnOp::get(key.as_str(), None), TxnOp::get(self.lead.key(), None)];
        let patience = Instant::now() + self.limits.full_patience;
        loop {
            if !self.lead.is_held() {
                return Err(self.fenced(place));
            }
            match self.etcd.txn(when.clone(), then.clone(), otherwise.clone()).await {
                Ok(outcome) if outcome.applied => return Ok(outcome.revision),
                Ok(outcome) => return self.refused(place, &outcome, &value),
                Err(EtcdError::Full) if Instant::now() < patience => {
                    error!(place, "{}; the append waits for that", EtcdError::Full);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(source @ EtcdError::Unreachable { .. }) => {
                    self.unknown = true;
                    let source = Some(source);
                    return Err(LedgerError::Unknown { place, source });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Why a transaction was refused; or that it was applied the first time it was sent.
    fn refused(&self, place: u64, outcome: &Outcome, value: &[u8]) -> Result<i64, LedgerError> {
        let there = outcome.first(0);
        if let Some(kv) = there
            && kv.value() == value
        {
            return Ok(kv.mod_revision());
        }
        if !leads(&self.lead, outcome.first(1)) {
            return Err(self.fenced(place));
        }
        match (there, &self.end) {
            (None, Some(end)) => Err(LedgerError::Rewound { key: end.key.clone() }),
            (Some(_), _) | (None, None) => Err(LedgerError::Fenced {
                place,
                by: FencedBy::Place,
            }),
        }
    }

    fn fenced(&self, place: u64) -> LedgerError {
        let ours = self.lead.epoch();
        let by = FencedBy::Epoch { ours };
        LedgerError::Fenced { place, by }
    }
}

impl Ledger for EtcdLedger {
    fn state(&self) -> &State {
        &self.state
    }

    fn epoch(&self) -> u64 {
        self.lead.epoch()
    }

    fn append(&mut self, entries: Vec<Entry>) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.put(entries).boxed()
    }
}

fn leads(lead: &Leadership, leader: Option<&KeyValue>) -> bool {
    let current = leader.and_then(|kv| u64::try_from(kv.create_revision()).ok());
    current == Some(lead.epoch())
}

fn folder(prefix: &str, pipeline: &PipelineName) -> String {
    key(prefix, &format!("ledger/{pipeline}/"))
}

fn place_key(folder: &str, place: u64) -> String {
    format!("{folder}{place:012}")
}

fn lake_key(folder: &str) -> String {
    format!("{folder}lake")
}

fn snapshot_key(folder: &str) -> String {
    format!("{folder}snapshot")
}

fn damaged(key: &str) -> impl Fn(serde_json::Error) -> LedgerError {
    move |source| LedgerError::Damaged {
        key: key.to_owned(),
        source,
    }
}

fn encode(key: &str, value: &impl Serialize) -> Result<Vec<u8>, LedgerError> {
    serde_json::to_vec(value).map_err(damaged(key))
}

/// Puts an object whose name tells its content: one that is there already is the same.
async fn put_object(lake: &Lake, key: &str, bytes: Vec<u8>) -> Result<(), LedgerError> {
    match lake.create(key, Bytes::from(bytes)).await {
        Ok(()) | Err(LakeError::Exists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// An object, checked against the digest by which it is named.
async fn get_object(lake: &Lake, key: &str, digest: &str) -> Result<Bytes, LedgerError> {
    let bytes = lake.get(key).await?;
    if blake3::hash(&bytes).to_hex().as_str() == digest {
        return Ok(bytes);
    }
    let key = key.to_owned();
    Err(LedgerError::Digest { key })
}
