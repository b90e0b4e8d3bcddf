//! The disk that the reports of tasks lie on until they are joined: bounded, and clean when a worker begins and when it ends.
//!
//! In: the folder, and how much may lie there. Out: whether tasks are taken, and errors that name the disk. Rows never lie here:
//! a report is some kilobytes, and the leader says when nobody needs it any more.
//!
//! | what happens                                        | then                                                            |
//! |------------------------------------------------------|------------------------------------------------------------------|
//! | a report makes it more than `work_dir_bytes`        | that task is done elsewhere, and leaves nothing here             |
//! | the system has no room for a report                 | the same                                                         |
//! | either                                              | the leader is told and no task taken, until there was room a while |
//! | an attempt's reports are older than six hours       | they are deleted: whoever should have said so is gone            |

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use datafusion::error::DataFusionError;
use parking_lot::Mutex;

/// How long a disk that was full is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// Reports are needed for minutes.
const STALE: Duration = Duration::from_hours(6);
/// How the system's errors read: no space, over quota. Ballista wraps them in errors without a source.
const SYSTEM: [&str; 4] = ["os error 28", "os error 122", "StorageFull", "QuotaExceeded"];

/// There is no room for a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// More lies there than may.
    #[error(
        "the disk of worker `{worker}` is full: {used} bytes of reports lie in `{folder}`, {limit} may; raise `work_dir_bytes`"
    )]
    Limit {
        /// The worker.
        worker: String,
        /// The folder.
        folder: String,
        /// What lies there.
        used: u64,
        /// What may.
        limit: u64,
    },
    /// The system says so.
    #[error("the disk of worker `{worker}` is full: the system has no room in `{folder}`")]
    System {
        /// The worker.
        worker: String,
        /// The folder.
        folder: String,
    },
}

/// The disk of one worker.
#[derive(Debug)]
pub struct Disk {
    worker: String,
    folder: PathBuf,
    limit: Option<u64>,
    used: AtomicU64,
    /// Why no task is taken, and when that was seen last.
    trouble: Mutex<Option<(DiskError, Instant)>>,
}

impl Disk {
    /// The disk below `folder`, of which so many bytes may be taken; all of it where nothing is said.
    #[must_use]
    pub fn new(worker: &str, folder: PathBuf, limit: Option<u64>) -> Self {
        Self {
            worker: worker.to_owned(),
            folder,
            limit,
            used: AtomicU64::new(0),
            trouble: Mutex::default(),
        }
    }

    /// Deletes what lies there: it is of use to nobody.
    ///
    /// # Errors
    /// The system's.
    pub fn empty(&self) -> io::Result<()> {
        self.clear()?;
        std::fs::create_dir_all(&self.folder)
    }

    /// The same, and the folder with it.
    ///
    /// # Errors
    /// The system's.
    pub fn clear(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Bytes of reports when it was looked at last.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Why no task is taken, if none is.
    #[must_use]
    pub fn trouble(&self) -> Option<DiskError> {
        self.trouble.lock().as_ref().map(|(error, _)| error.clone())
    }

    /// Looks how much lies there, and deletes what is stale.
    pub fn look(&self, now: Instant) {
        sweep(&self.folder, SystemTime::now());
        let used = bytes_below(&self.folder);
        self.used.store(used, Ordering::Relaxed);
        match self.limit.filter(|limit| used > *limit) {
            Some(limit) => self.is_full(
                DiskError::Limit {
                    worker: self.worker.clone(),
                    folder: self.folder.display().to_string(),
                    used,
                    limit,
                },
                now,
            ),
            None => {
                let is_over = |(_, seen): &mut (DiskError, Instant)| now.duration_since(*seen) >= PAUSE;
                self.trouble.lock().take_if(is_over);
            }
        }
    }

    fn is_full(&self, error: DiskError, now: Instant) {
        let before = self.trouble.lock().replace((error.clone(), now));
        if before.is_none() {
            tracing::warn!("{error}");
        }
    }

    /// Refuses a task while there is no room.
    ///
    /// # Errors
    /// Then.
    pub fn admit(&self) -> Result<(), DataFusionError> {
        self.trouble().map_or(Ok(()), |error| Err(retried(error)))
    }

    /// Refuses the report of a task that has made it too much.
    ///
    /// # Errors
    /// Then.
    pub fn settle(&self) -> Result<(), DataFusionError> {
        if self.limit.is_none() {
            return Ok(());
        }
        self.look(Instant::now());
        self.admit()
    }

    /// What an error means that is no step's: where the disk is to blame, it says so, and the task is done elsewhere.
    #[must_use]
    pub fn explain(&self, error: DataFusionError) -> DataFusionError {
        let text = format!("{error} {error:?}");
        if !SYSTEM.iter().any(|says| text.contains(says)) {
            return error;
        }
        let full = DiskError::System {
            worker: self.worker.clone(),
            folder: self.folder.display().to_string(),
        };
        self.is_full(full.clone(), Instant::now());
        retried(full)
    }
}

/// The engine gives a task to another worker after an I/O error only.
fn retried(error: DiskError) -> DataFusionError {
    DataFusionError::IoError(io::Error::other(error))
}

/// Bytes of all files below a folder; what vanishes meanwhile counts nothing.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// Deletes the folders of attempts that began long ago.
fn sweep(folder: &Path, now: SystemTime) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let begun = entry.metadata().and_then(|metadata| metadata.modified());
        let age = begun.ok().and_then(|begun| now.duration_since(begun).ok());
        if age.is_none_or(|age| age < STALE) {
            continue;
        }
        let path = entry.path();
        tracing::warn!(folder = %path.display(), "reports that nobody asked to delete are deleted");
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(folder = %path.display(), %error, "stale reports stay");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(limit: Option<u64>) -> (tempfile::TempDir, Disk) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("job/1/0")).unwrap();
        let disk = Disk::new("w1", folder.path().to_owned(), limit);
        (folder, disk)
    }

    #[test]
    fn more_than_may_lie_there_is_a_trouble_until_it_is_gone_for_a_while() {
        let (folder, disk) = disk(Some(100));
        let file = folder.path().join("job/1/0/data.arrow");
        let now = Instant::now();
        std::fs::write(&file, [0; 100]).unwrap();
        disk.look(now);
        assert!(disk.admit().is_ok() && disk.settle().is_ok());
        std::fs::write(&file, [0; 101]).unwrap();
        assert!(disk.admit().is_ok(), "nobody has looked");
        let refused = disk.settle().unwrap_err().to_string();
        assert!(
            refused.contains("`w1`") && refused.contains("101 bytes"),
            "{refused}"
        );
        std::fs::remove_file(&file).unwrap();
        disk.look(now + PAUSE / 2);
        assert!(disk.admit().is_err());
        disk.look(Instant::now() + PAUSE);
        assert!(disk.admit().is_ok());
        assert_eq!(disk.used(), 0);
    }

    #[test]
    fn an_error_of_the_system_names_the_disk_and_others_stay_what_they_are() {
        let (_folder, disk) = disk(None);
        let other = DataFusionError::Execution("no such column".to_owned());
        assert!(disk.explain(other).to_string().contains("no such column"));
        assert!(disk.trouble().is_none());
        for system in [28, 122] {
            let full = io::Error::from_raw_os_error(system);
            let explained = disk.explain(DataFusionError::IoError(full));
            assert!(matches!(explained, DataFusionError::IoError(_)));
            assert!(explained.to_string().contains("the disk of worker `w1` is full"));
        }
        assert!(disk.trouble().is_some());
    }

    #[test]
    fn what_began_hours_ago_is_swept_and_an_end_leaves_nothing() {
        let (folder, disk) = disk(None);
        std::fs::write(folder.path().join("job/1/0/data.arrow"), "x").unwrap();
        sweep(folder.path(), SystemTime::now());
        assert!(folder.path().join("job").exists());
        sweep(folder.path(), SystemTime::now() + STALE + Duration::from_mins(1));
        assert!(!folder.path().join("job").exists());
        std::fs::write(folder.path().join("left"), "x").unwrap();
        disk.empty().unwrap();
        assert_eq!(bytes_below(folder.path()), 0);
        disk.clear().unwrap();
        disk.clear().unwrap();
        assert!(!folder.path().exists());
    }
}
