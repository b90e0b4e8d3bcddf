//! What is there to read: a file, a folder with all below it, an S3 prefix, or a glob.
//!
//! In: the pipeline's source, or the places that a user names instead. Out: objects with size and version,
//! sorted by URL, each once.
//!
//! | place                          | gives                                                           |
//! |--------------------------------|-----------------------------------------------------------------|
//! | a name that exists as it is    | that file, hidden or not, even if it looks like a glob           |
//! | a folder, or a prefix in S3    | every file below it                                             |
//! | a glob                         | every file that matches, and every file below a folder that does |
//! | nothing that counts            | an error that names the place                                   |
//!
//! Hidden files and folders (`.name`, `_name`: markers and temporary files of other programs) and empty files
//! are left out. A prefix in S3 ends at a `/`: `s3://b/day=1` does not take `day=10/`.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use millrace_proto::split::InputObject;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::spec::model::Source;

use super::stores::{Place, StoreError, Stores};
use super::{Found, SourceError, files, pattern, s3};

/// The objects to read: the source's own place, or those of `inputs` where it is not empty.
///
/// # Errors
/// When a place holds nothing to read, a store does not answer, or the source is Kafka.
pub async fn list(
    stores: &Stores,
    source: &Source,
    inputs: &[String],
) -> Result<Vec<InputObject>, SourceError> {
    let own = match source {
        Source::Files { path, .. } => path,
        Source::S3 { url, .. } => url,
        Source::Kafka { topic, .. } if inputs.is_empty() => {
            return Err(SourceError::Kafka { topic: topic.clone() });
        }
        Source::Kafka { .. } => "",
    };
    let own = [own.to_owned()];
    let mut objects = Vec::new();
    for place in if inputs.is_empty() { &own } else { inputs } {
        let (found, skipped) = match place.split_once("://") {
            Some(("s3", _)) => bucket_objects(stores, place).await?,
            Some(_) => match Place::parse(place)? {
                Place::File(path) => local_files(place, path).await?,
                Place::S3 { .. } => return Err(StoreError::Scheme { url: place.clone() }.into()),
            },
            None => local_files(place, PathBuf::from(place)).await?,
        };
        if found.is_empty() {
            let found = if skipped == 0 {
                Found::Nowhere
            } else {
                Found::Skipped(skipped)
            };
            return Err(SourceError::Nothing {
                pattern: place.clone(),
                found,
            });
        }
        objects.extend(found);
    }
    objects.sort_by(|a, b| a.url.cmp(&b.url));
    objects.dedup_by(|a, b| a.url == b.url);
    Ok(objects)
}

/// Objects that count, and how many do not.
type Listed = (Vec<InputObject>, u64);

fn is_hidden(path: &str) -> bool {
    path.split('/').any(|name| name.starts_with(['.', '_']))
}

async fn bucket_objects(stores: &Stores, place: &str) -> Result<Listed, SourceError> {
    let failed = |source| SourceError::Store {
        url: place.to_owned(),
        source,
    };
    let Place::S3 { bucket, key } = Place::parse(place)? else {
        return Err(StoreError::Scheme {
            url: place.to_owned(),
        }
        .into());
    };
    let object = |meta: &object_store::ObjectMeta| InputObject {
        url: format!("s3://{bucket}/{}", meta.location),
        size: meta.size,
        version: s3::version(meta),
    };
    if !key.is_empty() && !key.ends_with('/') {
        let (store, path) = stores.open(place)?;
        match store.head(&path).await {
            Ok(meta) if meta.size > 0 => return Ok((vec![object(&meta)], 0)),
            Ok(_) => return Ok((Vec::new(), 1)),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(failed(source)),
        }
    }
    let (folder, patterns) = if pattern::is_glob(&key) {
        let patterns = pattern::expand(key.trim_end_matches('/')).map_err(|fault| SourceError::Pattern {
            pattern: place.to_owned(),
            fault,
        })?;
        (pattern::base(&key).to_owned(), Some(patterns))
    } else {
        (
            if key.is_empty() {
                key.clone()
            } else {
                format!("{}/", key.trim_end_matches('/'))
            },
            None,
        )
    };
    let (store, prefix) = stores.open(&format!("s3://{bucket}/{folder}"))?;
    let mut listing = store.list(Some(&prefix));
    let (mut objects, mut skipped) = (Vec::new(), 0);
    while let Some(meta) = listing.try_next().await.map_err(failed)? {
        let key = meta.location.as_ref();
        if patterns
            .as_deref()
            .is_some_and(|patterns| !pattern::matches(patterns, key))
        {
            continue;
        }
        if meta.size == 0 || is_hidden(key.strip_prefix(folder.as_str()).unwrap_or(key)) {
            skipped += 1;
        } else {
            objects.push(object(&meta));
        }
    }
    Ok((objects, skipped))
}

async fn local_files(place: &str, path: PathBuf) -> Result<Listed, SourceError> {
    let place = place.to_owned();
    tokio::task::spawn_blocking(move || find_files(&place, &path)).await?
}

fn find_files(place: &str, path: &Path) -> Result<Listed, SourceError> {
    let path = std::path::absolute(path).map_err(|source| unreadable(path, source))?;
    let mut walk = Walk::default();
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() => walk.file(&path, &found)?,
        Ok(_) => walk.folder(&path)?,
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(unreadable(&path, error)),
        Err(_) => {
            let text = text(&path)?;
            if pattern::is_glob(text) {
                walk.glob(place, text)?;
            }
        }
    }
    Ok((walk.objects, walk.skipped))
}

fn text(path: &Path) -> Result<&str, SourceError> {
    path.to_str().ok_or_else(|| SourceError::Name {
        path: path.to_string_lossy().into_owned(),
    })
}

fn unreadable(path: &Path, source: std::io::Error) -> SourceError {
    SourceError::Read {
        url: path.to_string_lossy().into_owned(),
        position: 0,
        source,
    }
}

#[derive(Default)]
struct Walk {
    objects: Vec<InputObject>,
    skipped: u64,
    /// Folders seen, by device and inode: links may form a ring.
    seen: HashSet<(u64, u64)>,
}

impl Walk {
    fn file(&mut self, path: &Path, found: &std::fs::Metadata) -> Result<(), SourceError> {
        if found.len() == 0 {
            self.skipped += 1;
            return Ok(());
        }
        text(path)?;
        let url = url::Url::from_file_path(path).map_err(|()| SourceError::Name {
            path: path.to_string_lossy().into_owned(),
        })?;
        self.objects.push(InputObject {
            url: url.into(),
            size: found.len(),
            version: files::version(found),
        });
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> Result<(), SourceError> {
        let found = std::fs::metadata(path).map_err(|source| unreadable(path, source))?;
        if !self.seen.insert((found.dev(), found.ino())) {
            return Ok(());
        }
        for entry in std::fs::read_dir(path).map_err(|source| unreadable(path, source))? {
            let entry = entry.map_err(|source| unreadable(path, source))?;
            let hidden = is_hidden(&entry.file_name().to_string_lossy());
            let path = entry.path();
            let found = match std::fs::metadata(&path) {
                Ok(found) => found,
                // A link to nothing, or a file that went away while the folder was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(unreadable(&path, source)),
            };
            match (found.is_dir(), found.is_file()) {
                (true, _) if !hidden => self.folder(&path)?,
                (_, true) if !hidden => self.file(&path, &found)?,
                (_, true) => self.skipped += 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn glob(&mut self, place: &str, path: &str) -> Result<(), SourceError> {
        let base = pattern::base(path);
        let patterns = pattern::expand(path).map_err(|fault| SourceError::Pattern {
            pattern: place.to_owned(),
            fault,
        })?;
        for pattern in patterns {
            let paths = glob::glob_with(pattern.as_str(), pattern::MATCHING).map_err(|error| {
                SourceError::Pattern {
                    pattern: place.to_owned(),
                    fault: error.msg.to_owned(),
                }
            })?;
            for path in paths {
                let path =
                    path.map_err(|error| unreadable(error.path().to_owned().as_path(), error.into()))?;
                let found = std::fs::metadata(&path).map_err(|source| unreadable(&path, source))?;
                let hidden = is_hidden(
                    path.strip_prefix(base)
                        .unwrap_or(&path)
                        .to_string_lossy()
                        .as_ref(),
                );
                match (hidden, found.is_dir()) {
                    (true, _) => self.skipped += u64::from(found.is_file()),
                    (false, true) => self.folder(&path)?,
                    (false, false) => self.file(&path, &found)?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
