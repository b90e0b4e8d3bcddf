//! A lake that lies elsewhere, brought here to be judged: its manifests, and the files of events and rejects.
//!
//! In: a folder, or `s3://bucket/prefix` with the usual `AWS_*` variables. Out: a folder, gone when dropped if it is ours.
//! What is fetched is what manifests name, and nothing else: key files and reports are not judged here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};

/// Objects fetched side by side.
const SIDE_BY_SIDE: usize = 16;

/// How a store is reached; what is none comes from the environment's `AWS_*` variables.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Where it answers.
    pub endpoint: Option<String>,
    /// Key id and secret.
    pub keys: Option<(String, String)>,
}

/// A lake in a folder.
#[derive(Debug)]
pub struct Fetched {
    folder: PathBuf,
    ours: bool,
}

impl Fetched {
    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if self.ours {
            // A folder that stays in the place for temporary files does no harm.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Why a lake could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not an address of a bucket.
    #[error("`{url}` is not a lake's address; give a folder or `s3://bucket/prefix`")]
    Address {
        /// As given.
        url: String,
    },
    /// The store.
    #[error("the lake `{url}` cannot be read")]
    Store {
        /// The lake.
        url: String,
        /// What the store says.
        #[source]
        source: object_store::Error,
    },
    /// The folder for it.
    #[error("could not write to the folder for temporary files")]
    Write(#[source] std::io::Error),
}

/// Brings a lake here, unless it is here.
///
/// # Errors
/// When the store or the folder for temporary files fail.
pub fn fetch(lake: &str, access: &Access) -> Result<Fetched, FetchError> {
    let Some(rest) = lake.strip_prefix("s3://") else {
        if lake.contains("://") && !lake.starts_with("file://") {
            return Err(FetchError::Address { url: lake.to_owned() });
        }
        let folder = PathBuf::from(lake.strip_prefix("file://").unwrap_or(lake));
        return Ok(Fetched { folder, ours: false });
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let store = store(bucket, access).map_err(|source| FetchError::Store {
        url: lake.to_owned(),
        source,
    })?;
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let folder = std::env::temp_dir().join(format!("millrace-lake-{}-{nanos}", std::process::id()));
    let fetched = Fetched { folder, ours: true };
    let runtime = tokio::runtime::Runtime::new().map_err(FetchError::Write)?;
    runtime.block_on(copy(&store, lake, prefix, &fetched.folder))?;
    Ok(fetched)
}

fn store(bucket: &str, access: &Access) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_allow_http(true);
    if let Some(endpoint) = &access.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some((id, secret)) = &access.keys {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    Ok(Arc::new(builder.build()?))
}

async fn copy(store: &Arc<dyn ObjectStore>, url: &str, prefix: &str, to: &Path) -> Result<(), FetchError> {
    let failed = |source| FetchError::Store {
        url: url.to_owned(),
        source,
    };
    std::fs::create_dir_all(to.join("manifests")).map_err(FetchError::Write)?;
    for folder in ["manifests", "data", "quarantine", "models", "enrich"] {
        let below = Key::from(format!("{}/{folder}", prefix.trim_matches('/')));
        let keys: Vec<Key> = store
            .list(Some(&below))
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(failed)?;
        let mut copies = stream::iter(keys)
            .map(|key| async move {
                let bytes = store.get(&key).await?.bytes().await?;
                Ok::<_, object_store::Error>((key, bytes))
            })
            .buffer_unordered(SIDE_BY_SIDE);
        while let Some((key, bytes)) = copies.try_next().await.map_err(failed)? {
            let name = key
                .as_ref()
                .strip_prefix(prefix.trim_matches('/'))
                .unwrap_or(key.as_ref());
            let file = to.join(name.trim_start_matches('/'));
            if let Some(parent) = file.parent() {
                std::fs::create_dir_all(parent).map_err(FetchError::Write)?;
            }
            std::fs::write(&file, &bytes).map_err(FetchError::Write)?;
        }
    }
    Ok(())
}
