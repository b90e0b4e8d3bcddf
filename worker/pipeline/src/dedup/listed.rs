//! An attempt's committed key files, by name of an object that lists them: a plan that carried the list would grow with the
//! lake, and goes to every task.
//!
//! The object's name tells its content, and it is put only when every file that it lists is committed. So a plan may name
//! it before that: the next batch is read while the last one is being committed, and whoever asks for the first key waits
//! until the list is there. A list that never comes belongs to an attempt that is given up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_proto::keys;
use millrace_proto::manifest::KeyFile;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::DedupError;

/// How long a list is waited for: longer than a commit is tried.
const PATIENCE: Duration = Duration::from_secs(180);
/// First pause before it is looked for again; doubles.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// The name of a list of key files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyList {
    /// The object's key in the lake.
    pub key: String,
    /// BLAKE3 of its bytes, in hex.
    pub digest: String,
}

impl KeyList {
    /// The list of these files, and the bytes to be put under its name.
    ///
    /// # Errors
    /// When they cannot be written as JSON; it points at a bug.
    pub fn of(files: &[KeyFile]) -> Result<(Self, Bytes), DedupError> {
        let bytes = serde_json::to_vec(files).map_err(|source| DedupError::ListDamaged {
            key: keys::KEY_LISTS.to_owned(),
            source,
        })?;
        let bytes = Bytes::from(bytes);
        let digest = blake3::hash(&bytes).to_hex().to_string();
        let key = keys::key_list(&digest);
        Ok((Self { key, digest }, bytes))
    }

    /// Reads the list, once it is there.
    pub(super) async fn read(
        &self,
        store: &Arc<dyn ObjectStore>,
        root: &Path,
    ) -> Result<Vec<KeyFile>, DedupError> {
        self.read_within(store, root, PATIENCE).await
    }

    async fn read_within(
        &self,
        store: &Arc<dyn ObjectStore>,
        root: &Path,
        patience: Duration,
    ) -> Result<Vec<KeyFile>, DedupError> {
        let path = Path::parse(format!("{root}/{}", self.key)).map_err(|source| DedupError::Path {
            key: self.key.clone(),
            source,
        })?;
        let failed = |source| DedupError::List {
            key: self.key.clone(),
            source,
        };
        let until = Instant::now() + patience;
        let mut pause = PAUSE;
        let found = loop {
            match store.get(&path).await {
                Err(object_store::Error::NotFound { .. }) if Instant::now() < until => {}
                found => break found.map_err(failed)?,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        let bytes = found.bytes().await.map_err(failed)?;
        if blake3::hash(&bytes).to_hex().as_str() != self.digest {
            let key = self.key.clone();
            return Err(DedupError::ListChanged { key });
        }
        serde_json::from_slice(&bytes).map_err(|source| DedupError::ListDamaged {
            key: self.key.clone(),
            source,
        })
    }
}

/// The committed key files that an attempt was given.
#[derive(Debug)]
pub(super) enum Listed {
    /// With its plan.
    Here(Vec<KeyFile>),
    /// In an object.
    There(KeyList),
}

#[cfg(test)]
mod tests {
    use millrace_proto::manifest::WrittenObject;
    use object_store::memory::InMemory;

    use super::*;

    fn files() -> Vec<KeyFile> {
        let file = |n: u32| KeyFile {
            object: WrittenObject {
                key: format!("keys/hour=h/b{n}.parquet"),
                bytes: 1,
                rows: 1,
                digest: String::new(),
            },
            hour: i64::from(n),
        };
        (0..3).map(file).collect()
    }

    #[tokio::test]
    async fn a_list_is_waited_for_and_checked() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (list, bytes) = KeyList::of(&files()).unwrap();
        let root = Path::from("lake");
        {
            let mut reading = std::pin::pin!(list.read(&store, &root));
            assert!(futures::poll!(reading.as_mut()).is_pending(), "it did not wait");
            let path = Path::from(format!("lake/{}", list.key));
            store.put(&path, bytes.into()).await.unwrap();
            assert_eq!(reading.await.unwrap(), files());
            store.put(&path, Bytes::from_static(b"[]").into()).await.unwrap();
        }
        let changed = list.read(&store, &root).await.unwrap_err();
        assert!(matches!(changed, DedupError::ListChanged { .. }), "{changed}");
        assert!(!changed.is_retryable());
    }

    #[tokio::test]
    async fn a_list_that_never_comes_is_an_error_that_names_it() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (list, _) = KeyList::of(&files()).unwrap();
        let read = list.read_within(&store, &Path::default(), Duration::ZERO).await;
        let error = read.unwrap_err();
        assert!(error.to_string().contains(&list.key), "{error}");
        assert!(error.is_retryable());
    }
}
