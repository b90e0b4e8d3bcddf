//! A lake: an object store and the root below which [`millrace_proto::keys`] lays everything out.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use millrace_pipeline::source::S3Options;
use millrace_pipeline::spec::model::Pipeline;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

/// A lake's objects, by key below its root.
#[derive(Debug, Clone)]
pub struct Lake {
    /// `file:///...` or `s3://bucket/prefix`, as people see it.
    pub url: String,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The root within the store.
    pub root: Path,
    /// How AWS is reached: the warehouse's Data API takes the same credentials.
    pub s3: S3Options,
}

/// Why an object of the lake could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// Another writer was first.
    #[error("object `{key}` exists already")]
    Exists {
        /// Key below the root.
        key: String,
    },
    /// Not there.
    #[error("object `{key}` is missing")]
    Missing {
        /// Key below the root.
        key: String,
    },
    /// The store failed.
    #[error("object `{key}` could not be {what}")]
    Store {
        /// Key below the root.
        key: String,
        /// `read`, `written`, `listed` or `deleted`.
        what: &'static str,
        /// The store's error.
        #[source]
        source: object_store::Error,
    },
    /// A local folder could not be made durable.
    #[error("`{path}` could not be made durable")]
    Sync {
        /// Local path.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl Lake {
    /// A pipeline's lake, opened: its store, and its root there.
    #[must_use]
    pub fn of(pipeline: &Pipeline, (store, root): (Arc<dyn ObjectStore>, Path), s3: &S3Options) -> Self {
        let (endpoint, region) = (pipeline.lake.endpoint.as_deref(), pipeline.lake.region.as_deref());
        Self {
            s3: s3.at(endpoint, region),
            url: pipeline.lake.url.clone(),
            store,
            root,
        }
    }

    /// The full path of a key.
    #[must_use]
    pub fn path(&self, key: &str) -> Path {
        key.split('/')
            .filter(|part| !part.is_empty())
            .fold(self.root.clone(), |path, part| {
                // Keys are laid out by `proto::keys`, which encodes what must be encoded: parse, do not encode again.
                Path::parse(format!("{path}/{part}")).unwrap_or_else(|_| path.clone().join(part))
            })
    }

    /// The key of a path, if it lies in the lake.
    #[must_use]
    pub fn key(&self, path: &Path) -> Option<String> {
        let root = self.root.as_ref();
        let rest = path.as_ref().strip_prefix(root)?;
        Some(rest.trim_start_matches('/').to_owned())
    }

    /// The object's bytes.
    ///
    /// # Errors
    /// [`LakeError::Missing`], or the store's error.
    pub async fn get(&self, key: &str) -> Result<Bytes, LakeError> {
        let failed = |source| {
            let key = key.to_owned();
            if matches!(source, object_store::Error::NotFound { .. }) {
                LakeError::Missing { key }
            } else {
                LakeError::Store {
                    key,
                    what: "read",
                    source,
                }
            }
        };
        self.store
            .get(&self.path(key))
            .await
            .map_err(failed)?
            .bytes()
            .await
            .map_err(failed)
    }

    /// Puts an object that must not exist yet, durably.
    ///
    /// # Errors
    /// [`LakeError::Exists`] when another writer was first, or the store's error.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<(), LakeError> {
        let path = self.path(key);
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        match self
            .store
            .put_opts(&path, PutPayload::from_bytes(bytes), options)
            .await
        {
            Ok(_) => self.sync(key).await,
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Err(LakeError::Exists { key: key.to_owned() })
            }
            Err(source) => Err(LakeError::Store {
                key: key.to_owned(),
                what: "written",
                source,
            }),
        }
    }

    /// Puts an object in the place of the one that may be there, whole and durably.
    ///
    /// # Errors
    /// The store's error.
    pub async fn replace(&self, key: &str, bytes: Bytes) -> Result<(), LakeError> {
        let put = self
            .store
            .put(&self.path(key), PutPayload::from_bytes(bytes))
            .await;
        put.map_err(|source| LakeError::Store {
            key: key.to_owned(),
            what: "written",
            source,
        })?;
        self.sync(key).await
    }

    /// Deletes an object; one that is gone already is fine.
    ///
    /// # Errors
    /// The store's error.
    pub async fn delete(&self, key: &str) -> Result<(), LakeError> {
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(LakeError::Store {
                key: key.to_owned(),
                what: "deleted",
                source,
            }),
        }
    }

    /// Keys and sizes below a folder, sorted by key.
    ///
    /// # Errors
    /// The store's error.
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, LakeError> {
        let prefix = if folder.is_empty() {
            self.root.clone()
        } else {
            self.path(folder)
        };
        let found: Vec<_> = self
            .store
            .list(Some(&prefix))
            .try_collect()
            .await
            .map_err(|source| LakeError::Store {
                key: folder.to_owned(),
                what: "listed",
                source,
            })?;
        let mut keys: Vec<(String, u64)> = found
            .iter()
            .filter_map(|meta| Some((self.key(&meta.location)?, meta.size)))
            .collect();
        keys.sort();
        Ok(keys)
    }

    /// The folder on this machine, for a lake that is one.
    #[must_use]
    pub fn local(&self) -> Option<PathBuf> {
        self.url.strip_prefix("file://").map(PathBuf::from)
    }

    /// A local file and its folder survive a power failure once this returns; stores elsewhere promise it themselves.
    pub(crate) async fn sync(&self, key: &str) -> Result<(), LakeError> {
        let Some(root) = self.local() else { return Ok(()) };
        let file = root.join(key);
        let path = file.clone();
        let synced = tokio::task::spawn_blocking(move || {
            std::fs::File::open(&file)?.sync_all()?;
            if let Some(folder) = file.parent() {
                std::fs::File::open(folder)?.sync_all()?;
            }
            Ok(())
        });
        match synced.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(LakeError::Sync { path, source }),
            Err(stopped) => Err(LakeError::Sync {
                path,
                source: std::io::Error::other(stopped),
            }),
        }
    }
}
