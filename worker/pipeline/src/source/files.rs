//! A local file's bytes, and that they are the bytes that were listed.
//!
//! Size, modification time and inode are compared before and after a read. A write that keeps all three (within
//! one tick of the file system's clock) is not seen.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use millrace_proto::split::InputObject;

use super::SourceError;
use super::stores::{Place, StoreError};

/// What tells two contents of one name apart: modification time in nanoseconds, then the inode.
pub(super) fn version(found: &Metadata) -> String {
    let nanoseconds = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    format!("{nanoseconds}-{}", found.ino())
}

/// Reads from a position to the end that the listing saw.
#[derive(Debug)]
pub(super) struct FileBytes {
    object: InputObject,
    path: PathBuf,
    file: File,
    position: u64,
}

impl FileBytes {
    pub(super) fn open(object: &InputObject, start: u64) -> Result<Self, SourceError> {
        let Place::File(path) = Place::parse(&object.url)? else {
            return Err(StoreError::File {
                url: object.url.clone(),
            }
            .into());
        };
        let failed = |source: std::io::Error, position| {
            if source.kind() == ErrorKind::NotFound {
                SourceError::Vanished {
                    url: object.url.clone(),
                    size: object.size,
                }
            } else {
                SourceError::Read {
                    url: object.url.clone(),
                    position,
                    source,
                }
            }
        };
        let mut file = File::open(&path).map_err(|error| failed(error, 0))?;
        file.seek(SeekFrom::Start(start))
            .map_err(|error| failed(error, start))?;
        let bytes = Self {
            object: object.clone(),
            path,
            file,
            position: start,
        };
        bytes.check()?;
        Ok(bytes)
    }

    /// That the name still leads to the content that was listed.
    pub(super) fn check(&self) -> Result<(), SourceError> {
        let object = &self.object;
        let found = match std::fs::metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(SourceError::Vanished {
                    url: object.url.clone(),
                    size: object.size,
                });
            }
            Err(source) => {
                return Err(SourceError::Read {
                    url: object.url.clone(),
                    position: self.position,
                    source,
                });
            }
        };
        let version = version(&found);
        if found.len() == object.size && version == object.version {
            return Ok(());
        }
        Err(SourceError::Changed {
            url: object.url.clone(),
            expected: object.version.clone(),
            expected_size: object.size,
            found: version,
            found_size: found.len(),
        })
    }
}

impl Read for FileBytes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.object.size.saturating_sub(self.position);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read(&mut buffer[..wanted])?;
        if read == 0 && wanted > 0 {
            // It ends before its listed size: say what it is now.
            self.check().map_err(std::io::Error::other)?;
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn listed(path: &std::path::Path) -> InputObject {
        let found = std::fs::metadata(path).unwrap();
        InputObject {
            url: format!("file://{}", path.display()),
            size: found.len(),
            version: version(&found),
        }
    }

    fn write(path: &std::path::Path, text: &str) {
        File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_file_that_goes_away_is_named_whenever_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write(&path, "1\n2\n");
        let object = listed(&path);
        let open = FileBytes::open(&object, 0).unwrap();
        std::fs::remove_file(&path).unwrap();
        for error in [
            open.check().unwrap_err(),
            FileBytes::open(&object, 0).unwrap_err(),
        ] {
            assert!(
                matches!(&error, SourceError::Vanished { url, size: 4 } if *url == object.url),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_changes_is_named_with_what_was_expected_and_what_was_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write(&path, "1\n2\n");
        let object = listed(&path);
        let mut open = FileBytes::open(&object, 0).unwrap();
        write(&path, "1");
        let error = open
            .read_to_end(&mut Vec::new())
            .unwrap_err()
            .downcast::<SourceError>()
            .unwrap();
        let text = error.to_string();
        assert!(
            text.contains(&object.url) && text.contains("expected 4 bytes") && text.contains("found 1 bytes")
        );
        // The same size and time under the same name, but another file.
        let other = folder.path().join("b.json");
        write(&other, "3\n4\n");
        std::fs::rename(&other, &path).unwrap();
        assert!(matches!(
            FileBytes::open(&object, 0),
            Err(SourceError::Changed { .. })
        ));
    }
}
