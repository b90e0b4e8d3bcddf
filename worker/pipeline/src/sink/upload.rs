//! Puts finished objects, a few at once, while the next ones are encoded.
//!
//! Names are an attempt's own, so an object is never overwritten: `put` asks for creation, and when the
//! store says that the name is taken (a put whose answer was lost, then repeated) the content decides.
//! A large object goes to a remote store in parts; parts of a put that failed are aborted.

use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart};
use tokio::task::JoinSet;

use super::{SinkError, SinkSpec};

/// Objects of this size go up in parts.
const PART_BYTES: usize = 16 << 20;
/// Puts under way at once: each holds its object in memory.
const IN_FLIGHT_MAX: usize = 4;

/// Puts under way.
#[derive(Debug)]
pub(super) struct Uploads {
    lake: Arc<dyn ObjectStore>,
    root: Path,
    local_root: Option<PathBuf>,
    running: JoinSet<Result<(), SinkError>>,
    folders: BTreeSet<PathBuf>,
}

impl Uploads {
    /// Nothing yet.
    pub(super) fn new(spec: &SinkSpec) -> Self {
        Self {
            lake: Arc::clone(&spec.lake),
            root: spec.root.clone(),
            local_root: spec.local_root.clone(),
            running: JoinSet::new(),
            folders: BTreeSet::new(),
        }
    }

    /// Starts to put an object; waits while too many are under way.
    pub(super) async fn put(&mut self, key: &str, content: Vec<u8>) -> Result<(), SinkError> {
        while self.running.len() >= IN_FLIGHT_MAX {
            self.join_one().await?;
        }
        let key = key.to_owned();
        let path = path_of(&self.root, &key)?;
        let file = self.local_root.as_ref().map(|root| root.join(&key));
        if let (Some(root), Some(file)) = (&self.local_root, &file) {
            let below = file
                .ancestors()
                .skip(1)
                .take_while(|folder| folder.starts_with(root));
            self.folders.extend(below.map(FilePath::to_path_buf));
        }
        let lake = Arc::clone(&self.lake);
        self.running
            .spawn(async move { put(lake.as_ref(), &key, &path, Bytes::from(content), file).await });
        Ok(())
    }

    /// Waits until everything is stored, and on a local disk synced.
    pub(super) async fn finish(&mut self) -> Result<(), SinkError> {
        while !self.running.is_empty() {
            self.join_one().await?;
        }
        let folders = std::mem::take(&mut self.folders);
        blocking("folders", move || {
            folders.iter().rev().try_for_each(|folder| sync(folder))
        })
        .await
    }

    async fn join_one(&mut self) -> Result<(), SinkError> {
        match self.running.join_next().await {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(source)) => Err(SinkError::put("an object", source.into())),
        }
    }
}

/// The path of a key below a lake's root.
pub(crate) fn path_of(root: &Path, key: &str) -> Result<Path, SinkError> {
    Path::parse(format!("{root}/{key}").trim_start_matches('/')).map_err(|source| SinkError::Key {
        key: key.to_owned(),
        source,
    })
}

async fn put(
    lake: &dyn ObjectStore,
    key: &str,
    path: &Path,
    content: Bytes,
    file: Option<PathBuf>,
) -> Result<(), SinkError> {
    let failed = |source| SinkError::put(key, source);
    if let Some(file) = file {
        create(lake, key, path, content).await?;
        return blocking(key, move || sync(&file)).await;
    }
    if content.len() < PART_BYTES {
        return create(lake, key, path, content).await;
    }
    let upload = lake.put_multipart(path).await.map_err(failed)?;
    let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES / 2);
    writer.put(content);
    writer.finish().await.map_err(failed)?; // aborts by itself on failure
    Ok(())
}

async fn create(lake: &dyn ObjectStore, key: &str, path: &Path, content: Bytes) -> Result<(), SinkError> {
    let options = PutOptions::from(PutMode::Create);
    let payload = PutPayload::from_bytes(content.clone());
    match lake.put_opts(path, payload, options).await {
        Ok(_) => Ok(()),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
            let get = async { lake.get(path).await?.bytes().await };
            let stored = get.await.map_err(|source| SinkError::put(key, source))?;
            if stored == content {
                Ok(())
            } else {
                Err(SinkError::Exists { key: key.to_owned() })
            }
        }
        Err(source) => Err(SinkError::put(key, source)),
    }
}

fn sync(path: &FilePath) -> Result<(), SinkError> {
    let result = std::fs::File::open(path).and_then(|file| file.sync_all());
    result.map_err(|source| SinkError::Sync {
        path: path.display().to_string(),
        source,
    })
}

async fn blocking(
    what: &str,
    work: impl FnOnce() -> Result<(), SinkError> + Send + 'static,
) -> Result<(), SinkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(source) => Err(SinkError::put(what, source.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_put_that_is_repeated_is_fine_but_other_content_is_not_overwritten() {
        let lake = InMemory::new();
        let path = Path::from("data/x");
        let put_again =
            |content: &'static [u8]| put(&lake, "data/x", &path, Bytes::from_static(content), None);
        put_again(b"one").await.unwrap();
        put_again(b"one").await.unwrap();
        assert!(matches!(put_again(b"two").await, Err(SinkError::Exists { .. })));
    }

    #[tokio::test]
    async fn a_large_object_arrives_whole() {
        let lake = InMemory::new();
        let path = Path::from("data/large");
        let content: Bytes = (0..40_000_000u32).map(|i| (i % 251) as u8).collect();
        put(&lake, "data/large", &path, content.clone(), None)
            .await
            .unwrap();
        assert!(lake.get(&path).await.unwrap().bytes().await.unwrap() == content);
    }
}
