//! Reading a ledger: the objects of its snapshot, then the places that stand in etcd, as of one revision.

use etcd_client::{GetOptions, KeyValue, ResponseHeader};

use super::snapshot::{Segment, Snapshot};
use super::{Body, End, Value, damaged, get_object, place_key};
use crate::etcd::{Etcd, EtcdError};
use crate::lake::{Lake, LakeError};
use crate::ledger::{Entry, LedgerError, State};

/// Places of one response; each holds at most half a MiB.
const PAGE: i64 = 64;
/// Reads that a leader's compaction may get in the way of, before the error is believed.
const TRIES: u32 = 5;

/// A ledger as it was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) state: State,
    pub(super) next: u64,
    pub(super) live: Vec<Vec<Entry>>,
    pub(super) segments: Vec<Segment>,
    pub(super) snapshot_revision: i64,
    pub(super) end: Option<End>,
    pub(super) lake_id: Option<String>,
}

/// Reads the whole ledger. A leader that compacts it meanwhile only makes this start again.
pub(super) async fn read(etcd: &Etcd, folder: &str, spill: &Lake) -> Result<Read, LedgerError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match try_read(etcd, folder, spill).await {
            Err(LedgerError::Etcd(EtcdError::Compacted) | LedgerError::Lake(LakeError::Missing { .. }))
                if tries < TRIES => {}
            read => return read,
        }
    }
}

async fn try_read(etcd: &Etcd, folder: &str, spill: &Lake) -> Result<Read, LedgerError> {
    let mut read = Read::default();
    let mut places = Vec::new();
    for kv in keys(etcd, folder).await? {
        let key = String::from_utf8_lossy(kv.key()).into_owned();
        match key.strip_prefix(folder).unwrap_or_default() {
            "lake" => read.lake_id = Some(String::from_utf8_lossy(kv.value()).into_owned()),
            "snapshot" => {
                let snapshot: Snapshot = serde_json::from_slice(kv.value()).map_err(damaged(&key))?;
                read.segments = snapshot.segments;
                read.snapshot_revision = kv.mod_revision();
                let revision = kv.mod_revision();
                read.end = Some(End { key, revision });
            }
            _ => places.push((key, kv)),
        }
    }
    for segment in &read.segments {
        for entries in segment.read(spill).await? {
            read.state = entries.iter().fold(read.state, State::next);
        }
        read.next = segment.end;
    }
    // Places that the snapshot holds are left where a compaction was cut short.
    let first = place_key(folder, read.next);
    for (key, kv) in places.into_iter().filter(|(key, _)| *key >= first) {
        let expected = place_key(folder, read.next);
        if key != expected {
            return Err(LedgerError::Sequence { key, expected });
        }
        let entries = entries(&key, &kv, spill).await?;
        read.state = entries.iter().fold(read.state, State::next);
        read.live.push(entries);
        read.next += 1;
        let revision = kv.mod_revision();
        read.end = Some(End { key, revision });
    }
    Ok(read)
}

/// Every key of the folder as of one revision.
async fn keys(etcd: &Etcd, folder: &str) -> Result<Vec<KeyValue>, EtcdError> {
    let mut end = folder.to_owned();
    end.pop();
    end.push('0'); // follows '/'
    let (mut start, mut revision, mut keys) = (folder.to_owned(), 0, Vec::new());
    loop {
        let options = GetOptions::new()
            .with_range(end.as_str())
            .with_limit(PAGE)
            .with_revision(revision);
        let mut found = etcd.get(&start, Some(options)).await?;
        if revision == 0 {
            revision = found.header().map_or(0, ResponseHeader::revision);
        }
        let more = found.more();
        keys.extend(found.take_kvs());
        let Some(last) = keys.last().filter(|_| more) else {
            return Ok(keys);
        };
        start = format!("{}\0", String::from_utf8_lossy(last.key()));
    }
}

async fn entries(key: &str, kv: &KeyValue, spill: &Lake) -> Result<Vec<Entry>, LedgerError> {
    let value: Value = serde_json::from_slice(kv.value()).map_err(damaged(key))?;
    match value.body {
        Some(Body { key, digest }) => {
            let bytes = get_object(spill, &key, &digest).await?;
            serde_json::from_slice(&bytes).map_err(damaged(&key))
        }
        None => Ok(value.entries.unwrap_or_default()),
    }
}
