//! The embedded ledger: the sequence as objects `ledger/<sequence>.json` beside the lake.
//!
//! Works on any store with a conditional put, so also for a lake on S3. Each object holds the entries
//! that happened at once and the hash of the object before (see `chain`); an append is one
//! `put if absent` of the next object. Two writers can not both succeed at one place, so the loser learns
//! that it was taken over. Each object names its writer, so a put that is sent again after a lost response
//! recognises the first one as its own. A torn put does not exist: stores put whole objects (local ones: written aside,
//! linked, synced).

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use millrace_proto::ids::PipelineName;
use millrace_proto::keys;

use super::chain::{self, Chain, Head, Link};
use super::{Entry, FencedBy, Ledger, LedgerError, State};
use crate::lake::{Lake, LakeError};

/// Objects fetched side by side when a ledger is opened.
const OPEN_READS: usize = 32;
/// How often a put whose outcome is not known is sent.
const PUT_TRIES: u32 = 3;

/// A ledger that is open for writing under an epoch of its own, or for reading.
#[derive(Debug)]
pub struct EmbeddedLedger {
    lake: Lake,
    state: State,
    objects: u64,
    last: Option<String>,
    head_place: Option<u64>,
    writer: String,
}

impl EmbeddedLedger {
    /// Reads the ledger as it is. An empty lake has an empty ledger.
    ///
    /// # Errors
    /// When the store fails or the sequence is damaged.
    pub fn read<'a>(lake: &'a Lake) -> BoxFuture<'a, Result<Self, LedgerError>> {
        async move {
            let head = Self::head(lake).await?; // before the listing: it must never be ahead of it
            let listed = lake.list("ledger").await?.into_iter().map(|(key, _)| key);
            let keys: Vec<String> = listed.filter(|key| *key != keys::ledger_head()).collect();
            if keys.contains(&keys::ledger_owner()) {
                let url = lake.url.clone();
                return Err(LedgerError::Cluster { url });
            }
            for (place, key) in keys.iter().enumerate() {
                let expected = keys::ledger(place as u64);
                if *key != expected {
                    return Err(LedgerError::Sequence {
                        key: key.clone(),
                        expected,
                    });
                }
            }
            let objects: Vec<(String, Bytes)> = futures::stream::iter(keys)
                .map(|key| async move { lake.get(&key).await.map(|bytes| (key, bytes)) })
                .buffered(OPEN_READS)
                .try_collect()
                .await?;
            let Chain { entries, last } = chain::follow(&objects, head.as_ref())?;
            Ok(Self {
                lake: lake.clone(),
                state: entries.iter().fold(State::default(), State::next),
                objects: objects.len() as u64,
                last,
                head_place: head.map(|head| head.place),
                writer: uuid::Uuid::new_v4().simple().to_string(),
            })
        }
        .boxed()
    }

    async fn head(lake: &Lake) -> Result<Option<Head>, LedgerError> {
        let key = keys::ledger_head();
        let bytes = match lake.get(&key).await {
            Ok(bytes) => bytes,
            Err(LakeError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let head = serde_json::from_slice(&bytes);
        head.map(Some)
            .map_err(|source| LedgerError::Damaged { key, source })
    }

    /// Opens the ledger for writing: appends the entry that makes every earlier writer stale.
    ///
    /// # Errors
    /// When the lake is another pipeline's, the store fails or the sequence is damaged.
    pub fn open<'a>(lake: &'a Lake, pipeline: &'a PipelineName) -> BoxFuture<'a, Result<Self, LedgerError>> {
        async move {
            loop {
                let mut ledger = Self::read(lake).await?;
                if let Some(owner) = &ledger.state.pipeline
                    && owner != pipeline
                {
                    let (owner, ours) = (owner.clone(), pipeline.clone());
                    return Err(LedgerError::Foreign {
                        url: lake.url.clone(),
                        owner,
                        ours,
                    });
                }
                match ledger
                    .put(vec![Entry::Opened {
                        pipeline: pipeline.clone(),
                        epoch: None,
                    }])
                    .await
                {
                    Ok(()) => return Ok(ledger),
                    Err(LedgerError::Fenced { .. }) => {} // someone was faster: read again, then take over
                    Err(error) => return Err(error),
                }
            }
        }
        .boxed()
    }

    async fn put(&mut self, entries: Vec<Entry>) -> Result<(), LedgerError> {
        // A crash may have left the head one behind; it must not fall further back.
        self.name_head().await?;
        let key = keys::ledger(self.objects);
        let link = Link {
            previous: self.last.clone(),
            by: Some(self.writer.clone()),
            entries,
        };
        let body = encode(&key, &link)?;
        let digest = chain::digest(&body);
        self.create(&key, body).await?;
        self.objects += 1;
        self.last = Some(digest);
        self.state = link
            .entries
            .iter()
            .fold(std::mem::take(&mut self.state), State::next);
        self.name_head().await
    }

    /// Puts the next object; one that is there already may be ours, put by a request whose response was lost.
    async fn create(&self, key: &str, body: Bytes) -> Result<(), LedgerError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.lake.create(key, body.clone()).await {
                Ok(()) => return Ok(()),
                Err(LakeError::Exists { .. }) if self.lake.get(key).await? == body => return Ok(()),
                Err(LakeError::Exists { .. }) => {
                    let by = FencedBy::Place;
                    let place = self.objects;
                    return Err(LedgerError::Fenced { place, by });
                }
                Err(error) if tries == PUT_TRIES => return Err(error.into()),
                Err(_) => {}
            }
        }
    }

    /// Makes the head name the last object, if it does not yet.
    async fn name_head(&mut self) -> Result<(), LedgerError> {
        let Some((place, digest)) = self.objects.checked_sub(1).zip(self.last.clone()) else {
            return Ok(());
        };
        if self.head_place == Some(place) {
            return Ok(());
        }
        let key = keys::ledger_head();
        let body = encode(&key, &Head { place, digest })?;
        self.lake.replace(&key, body).await?;
        self.head_place = Some(place);
        Ok(())
    }
}

impl Ledger for EmbeddedLedger {
    fn state(&self) -> &State {
        &self.state
    }

    fn epoch(&self) -> u64 {
        self.state.epoch
    }

    fn append(&mut self, entries: Vec<Entry>) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.put(entries).boxed()
    }
}

fn encode(key: &str, value: &impl serde::Serialize) -> Result<Bytes, LedgerError> {
    let body = serde_json::to_vec(value).map_err(|source| LedgerError::Damaged {
        key: key.to_owned(),
        source,
    })?;
    Ok(Bytes::from(body))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_proto::ids::{Attempt, BatchId};
    use object_store::local::LocalFileSystem;
    use object_store::path::Path;

    use super::*;

    fn lake(folder: &std::path::Path) -> Lake {
        let root = Path::from_absolute_path(folder).unwrap();
        Lake {
            s3: millrace_pipeline::source::S3Options::default(),
            url: format!("file://{}", folder.display()),
            store: Arc::new(LocalFileSystem::new()),
            root,
        }
    }

    fn name(text: &str) -> PipelineName {
        PipelineName::try_from(text.to_owned()).unwrap()
    }

    /// The first writer sleeps, the second takes over, the first wakes: it cannot write (invariant 2).
    #[tokio::test]
    async fn a_writer_that_was_taken_over_is_fenced() {
        let folder = tempfile::tempdir().unwrap();
        let lake = lake(folder.path());
        let mut first = EmbeddedLedger::open(&lake, &name("p")).await.unwrap();
        let second = EmbeddedLedger::open(&lake, &name("p")).await.unwrap();
        let batch = BatchId::try_from("b".to_owned()).unwrap();
        let attempt = Attempt {
            epoch: first.epoch(),
            number: 1,
        };
        let started = Entry::Started {
            epoch: first.epoch(),
            batch,
            attempt,
        };
        assert!(matches!(
            first.append(vec![started]).await,
            Err(LedgerError::Fenced { .. })
        ));
        assert!(second.epoch() > first.epoch());
    }

    #[tokio::test]
    async fn a_lake_belongs_to_one_pipeline() {
        let folder = tempfile::tempdir().unwrap();
        let lake = lake(folder.path());
        EmbeddedLedger::open(&lake, &name("p")).await.unwrap();
        assert!(matches!(
            EmbeddedLedger::open(&lake, &name("q")).await,
            Err(LedgerError::Foreign { .. })
        ));
    }

    #[tokio::test]
    async fn a_missing_entry_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let lake = lake(folder.path());
        for _ in 0..3 {
            EmbeddedLedger::open(&lake, &name("p")).await.unwrap();
        }
        lake.delete(&keys::ledger(1)).await.unwrap();
        assert!(matches!(
            EmbeddedLedger::read(&lake).await,
            Err(LedgerError::Sequence { .. })
        ));
    }

    /// A crash between an object and the head leaves the head behind; the next writer mends that first.
    #[tokio::test]
    async fn a_head_left_behind_is_mended_by_the_next_writer() {
        let folder = tempfile::tempdir().unwrap();
        let lake = lake(folder.path());
        EmbeddedLedger::open(&lake, &name("p")).await.unwrap();
        let head = lake.get(&keys::ledger_head()).await.unwrap();
        EmbeddedLedger::open(&lake, &name("p")).await.unwrap();
        lake.replace(&keys::ledger_head(), head).await.unwrap();
        EmbeddedLedger::open(&lake, &name("p")).await.unwrap();
        lake.delete(&keys::ledger(2)).await.unwrap();
        let error = EmbeddedLedger::read(&lake).await.unwrap_err();
        assert!(matches!(error, LedgerError::Cut { .. }), "{error}");
    }
}
