//! The committed key files of a lane's pipeline, and how attempts are told of them.
//!
//! | the list...                                         | an attempt finds it                                        |
//! |-----------------------------------------------------|-------------------------------------------------------------|
//! | is short                                            | in its plan                                                |
//! | is long: it grows with hours and batches            | in the lake, under its digest                              |
//! | holds files of a batch that is not committed yet    | there too, once that batch is committed, and never before  |
//!
//! One list is kept: when the next is put, nobody asks for the one before any more.

use millrace_pipeline::dedup::KeyList;
use millrace_proto::keys::KEY_LISTS;
use millrace_proto::manifest::{KeyFile, Manifest};

use crate::ahead::Ahead;
use crate::commit::live;
use crate::engine::EngineError;
use crate::lake::{Lake, LakeError};

/// So many files are told in the plan.
const IN_PLAN_MAX: usize = 64;

/// The key files that count.
#[derive(Debug, Default)]
pub(super) struct Keys {
    files: Vec<KeyFile>,
    /// The list that was put last.
    put: Option<String>,
}

/// What an attempt is told of committed keys.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// In its plan.
    pub(super) files: Vec<KeyFile>,
    /// In the lake, with the bytes to be put there.
    pub(super) list: Option<(KeyList, bytes::Bytes)>,
}

impl Keys {
    /// Those that count when a lane begins.
    pub(super) fn of(manifests: &[Manifest]) -> Self {
        Self {
            files: live::key_files(manifests).into_iter().cloned().collect(),
            put: None,
        }
    }

    pub(super) fn files(&self) -> &[KeyFile] {
        &self.files
    }

    /// A batch was committed.
    pub(super) fn add(&mut self, manifest: &Manifest) {
        self.files.extend(manifest.keys.iter().cloned());
    }

    /// A compaction was committed.
    pub(super) fn replace(&mut self, manifest: &Manifest) {
        let gone = live::replaced(std::slice::from_ref(manifest));
        self.files.retain(|file| !gone.contains(file.object.key.as_str()));
        self.add(manifest);
    }

    /// What the next attempt is told, once the batch `ahead` of it is committed.
    pub(super) fn told(&self, ahead: Option<&Ahead>) -> Result<Told, EngineError> {
        let files = match ahead {
            Some(ahead) => ahead.after(&self.files),
            None if self.files.len() <= IN_PLAN_MAX => {
                return Ok(Told {
                    files: self.files.clone(),
                    list: None,
                });
            }
            None => self.files.clone(),
        };
        let list = Some(KeyList::of(&files)?);
        Ok(Told {
            files: Vec::new(),
            list,
        })
    }

    /// Puts a list all of whose files are committed, and deletes the one before it.
    pub(super) async fn put(
        &mut self,
        lake: &Lake,
        (list, bytes): (KeyList, bytes::Bytes),
    ) -> Result<(), EngineError> {
        match lake.create(&list.key, bytes).await {
            Ok(()) | Err(LakeError::Exists { .. }) => {}
            Err(error) => return Err(EngineError::List(error)),
        }
        let before = self.put.replace(list.key);
        if let Some(before) = before.filter(|before| self.put.as_ref() != Some(before))
            && let Err(error) = lake.delete(&before).await
        {
            tracing::debug!(key = before, %error, "a list of key files stays");
        }
        Ok(())
    }

    /// Deletes all lists but the last one: of attempts that are over.
    pub(super) async fn sweep(&self, lake: &Lake) -> Result<(), LakeError> {
        for (key, _) in lake.list(KEY_LISTS).await? {
            if self.put.as_ref() != Some(&key) {
                lake.delete(&key).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_proto::ids::{Attempt, BatchId};
    use millrace_proto::manifest::{TaskReport, WrittenObject};
    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;

    fn file(n: usize) -> KeyFile {
        KeyFile {
            object: WrittenObject {
                key: format!("keys/hour=h/b{n:08}.parquet"),
                bytes: 1,
                rows: 1,
                digest: String::new(),
            },
            hour: 0,
        }
    }

    fn keys(count: usize) -> Keys {
        Keys {
            files: (0..count).map(file).collect(),
            put: None,
        }
    }

    fn lake() -> Lake {
        Lake {
            s3: millrace_pipeline::source::S3Options::default(),
            url: "memory:///".to_owned(),
            store: Arc::new(InMemory::new()),
            root: Path::default(),
        }
    }

    #[test]
    fn a_long_list_and_one_that_is_not_committed_yet_travel_by_name() {
        let short = keys(IN_PLAN_MAX).told(None).unwrap();
        assert_eq!((short.files.len(), short.list.is_none()), (IN_PLAN_MAX, true));
        let long = keys(IN_PLAN_MAX + 1).told(None).unwrap();
        assert_eq!((long.files.len(), long.list.is_some()), (0, true));
        let report = TaskReport {
            keys: vec![file(7)],
            ..TaskReport::default()
        };
        let attempt = Attempt { epoch: 1, number: 1 };
        let ahead = Ahead::of(&BatchId::try_from("b1".to_owned()).unwrap(), attempt, &[report]);
        let (_, bytes) = keys(1).told(Some(&ahead)).unwrap().list.unwrap();
        let listed: Vec<KeyFile> = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(listed, [file(0), file(7)]);
    }

    #[tokio::test]
    async fn one_list_is_kept() {
        let lake = lake();
        let mut keys = keys(IN_PLAN_MAX + 1);
        for round in 0..3 {
            let list = keys.told(None).unwrap().list.unwrap();
            let name = list.0.key.clone();
            keys.put(&lake, list.clone()).await.unwrap();
            // Another attempt of the same batch is told the same.
            keys.put(&lake, list).await.unwrap();
            let there: Vec<String> = lake
                .list(KEY_LISTS)
                .await
                .unwrap()
                .into_iter()
                .map(|(key, _)| key)
                .collect();
            assert_eq!(there, [name]);
            keys.files.push(file(1000 + round));
        }
        keys.sweep(&lake).await.unwrap();
        assert_eq!(lake.list(KEY_LISTS).await.unwrap().len(), 1);
        Keys::default().sweep(&lake).await.unwrap();
        assert!(lake.list(KEY_LISTS).await.unwrap().is_empty());
    }
}
