//! The model of the lake: a store in memory that counts every name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use futures::FutureExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use super::{Broken, World, step};
use crate::lake::Lake;

/// The objects themselves, without faults: what the checks look at.
#[derive(Debug)]
pub(super) struct ModelLake {
    objects: InMemory,
    names: Mutex<BTreeSet<String>>,
    /// What every object held first, also those that are deleted.
    history: Mutex<BTreeMap<String, Vec<u8>>>,
    fault: Mutex<Option<String>>,
    broken: Broken,
}

impl ModelLake {
    pub(super) fn new(broken: Broken) -> Self {
        Self {
            objects: InMemory::new(),
            names: Mutex::default(),
            history: Mutex::default(),
            fault: Mutex::default(),
            broken,
        }
    }

    pub(super) fn fault(&self) -> Option<String> {
        self.fault.lock().take()
    }

    /// The object's bytes, at once.
    pub(super) fn look(&self, key: &str) -> Option<Vec<u8>> {
        let got = async { self.objects.get(&Path::from(key)).await?.bytes().await };
        got.now_or_never()?.ok().map(|bytes| bytes.to_vec())
    }

    /// What an object held, also if it is deleted.
    pub(super) fn remember(&self, key: &str) -> Vec<u8> {
        self.history.lock().get(key).cloned().unwrap_or_default()
    }

    /// Puts an object, at once.
    fn put(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        // Whoever is second finds the same there, and uses it.
        let is_shared = ["manifests/", "enrich/"]
            .iter()
            .any(|folder| path.as_ref().starts_with(folder));
        if !is_shared && !self.names.lock().insert(path.to_string()) {
            let fault = format!("invariant 3: object `{path}` was written twice");
            self.fault.lock().get_or_insert(fault);
            options.mode = PutMode::Overwrite;
        }
        if !is_shared {
            let bytes: Vec<u8> = payload.iter().flat_map(|part| part.to_vec()).collect();
            self.history.lock().entry(path.to_string()).or_insert(bytes);
        }
        if self.broken == Broken::PutIfAbsent {
            options.mode = PutMode::Overwrite;
        }
        let put = self.objects.put_opts(path, payload, options).now_or_never();
        put.unwrap_or(Err(object_store::Error::NotImplemented {
            operation: "put".to_owned(),
            implementer: "the model waits for nothing".to_owned(),
        }))
    }
}

/// The lake as one leader reaches it: with steps, and with faults.
#[derive(Debug)]
struct Reached {
    lake: Arc<ModelLake>,
    world: WorldHandle,
}

struct WorldHandle(Weak<World>);

impl std::fmt::Debug for WorldHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("world")
    }
}

impl std::fmt::Display for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the model lake")
    }
}

pub(super) fn reach(world: &Arc<World>) -> Lake {
    Lake {
        s3: millrace_pipeline::source::S3Options::default(),
        url: "memory:///".to_owned(),
        store: Arc::new(Reached {
            lake: Arc::clone(&world.lake),
            world: WorldHandle(Arc::downgrade(world)),
        }),
        root: Path::default(),
    }
}

fn lost() -> object_store::Error {
    object_store::Error::Generic {
        store: "model",
        source: "no answer".into(),
    }
}

impl Reached {
    fn chance(&self, one_in: u64) -> bool {
        self.world.0.upgrade().is_some_and(|world| world.chance(one_in))
    }
}

#[async_trait::async_trait]
impl ObjectStore for Reached {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        step().await;
        if self.chance(60) {
            return Err(lost()); // the request
        }
        let put = self.lake.put(path, payload, options);
        step().await;
        if self.chance(60) {
            return Err(lost()); // the response
        }
        put
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.lake.objects.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        step().await;
        if self.chance(80) {
            return Err(lost());
        }
        self.lake.objects.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.lake.objects.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lake.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.lake.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.lake.objects.copy_opts(from, to, options).await
    }
}
