//! The disk that shuffle data lies on: bounded, watched, cleaned.
//!
//! In: the folder, and how much may lie there. Out: whether tasks may be taken, and errors that name the disk.
//!
//! | what happens                                       | then                                                           |
//! |-----------------------------------------------------|----------------------------------------------------------------|
//! | more lies there than `work_dir_bytes`               | the tasks that run end with an error; they are done elsewhere   |
//! | the system has no room for a task's data            | that task ends with an error, and is done elsewhere             |
//! | either                                              | the leader is told, and gives no tasks until there is room again |
//! | a job's data was not touched for six hours        | it is deleted: whoever should have said so is gone              |

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use datafusion::error::DataFusionError;
use parking_lot::Mutex;

/// How long a disk that was full is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// Data of an attempt is needed for minutes; the leader says when it is not any more.
const STALE: Duration = Duration::from_hours(6);
/// Between searches for what is stale.
const SWEEP_EVERY: Duration = Duration::from_mins(5);
/// How the system's errors read: no space, over quota, file too large. Ballista wraps them in errors without a source.
const SYSTEM: [&str; 5] = [
    "os error 28",
    "os error 122",
    "os error 27",
    "code: 28",
    "StorageFull",
];

/// There is no room for a task's data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// More lies there than may.
    #[error(
        "the disk of worker `{worker}` is full: {used} bytes of shuffle data lie in `{folder}`, {limit} may; raise `work_dir_bytes`, or lower the coordinators' `batch_mib`"
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
pub struct Disk {
    worker: String,
    folder: PathBuf,
    limit: Option<u64>,
    state: Mutex<State>,
}

struct State {
    used: u64,
    trouble: Option<(DiskError, Instant)>,
    /// It has become too much since somebody asked.
    has_filled: bool,
    swept: Instant,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = self.folder.display();
        write!(f, "Disk({folder}, limit {:?})", self.limit)
    }
}

impl Disk {
    /// The disk below `folder`, of which so many bytes may be taken; all of it where nothing is said.
    #[must_use]
    pub fn new(worker: &str, folder: PathBuf, limit: Option<u64>) -> Self {
        let state = State {
            used: 0,
            trouble: None,
            has_filled: false,
            swept: Instant::now(),
        };
        Self {
            worker: worker.to_owned(),
            folder,
            limit,
            state: Mutex::new(state),
        }
    }

    /// Bytes of shuffle data when it was looked at last.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state.lock().used
    }

    /// Why no task is taken, if none is.
    #[must_use]
    pub fn trouble(&self) -> Option<DiskError> {
        self.state.lock().trouble.as_ref().map(|(error, _)| error.clone())
    }

    /// Whether it has become too much since this was asked last: tasks that run are to be stopped then.
    #[must_use]
    pub fn has_filled(&self) -> bool {
        std::mem::take(&mut self.state.lock().has_filled)
    }

    /// Looks how much lies there.
    pub fn look(&self, now: Instant) {
        let used = bytes_below(&self.folder);
        let mut state = self.state.lock();
        state.used = used;
        if let Some(limit) = self.limit.filter(|limit| used > *limit) {
            let error = DiskError::Limit {
                worker: self.worker.clone(),
                folder: self.folder.display().to_string(),
                used,
                limit,
            };
            if state.trouble.is_none() {
                tracing::warn!("{error}");
                state.has_filled = true;
            }
            state.trouble = Some((error, now));
        } else {
            let is_over = |(_, since): &mut (DiskError, Instant)| now.duration_since(*since) >= PAUSE;
            state.trouble.take_if(is_over);
        }
        if now.duration_since(state.swept) >= SWEEP_EVERY {
            state.swept = now;
            sweep(&self.folder, SystemTime::now());
        }
    }

    /// Refuses a task while there is no room.
    ///
    /// # Errors
    /// Then.
    pub fn admit(&self) -> Result<(), DataFusionError> {
        match self.trouble() {
            None => Ok(()),
            Some(error) => Err(retried(error)),
        }
    }

    /// Refuses the results of a task that have made it too much.
    ///
    /// # Errors
    /// Then.
    pub fn settle(&self) -> Result<(), DataFusionError> {
        match self.limit {
            Some(_) => {
                self.look(Instant::now());
                self.admit()
            }
            None => Ok(()),
        }
    }

    /// What a task's error means: where the disk is to blame, it says so, and the task is tried again elsewhere.
    #[must_use]
    pub fn explain(&self, error: DataFusionError) -> DataFusionError {
        let text = error.to_string();
        let debug = format!("{error:?}");
        if SYSTEM
            .iter()
            .any(|says| text.contains(says) || debug.contains(says))
        {
            let full = DiskError::System {
                worker: self.worker.clone(),
                folder: self.folder.display().to_string(),
            };
            tracing::warn!(cause = text, "{full}");
            self.state.lock().trouble = Some((full.clone(), Instant::now()));
            return retried(full);
        }
        match self.trouble() {
            Some(full @ DiskError::Limit { .. }) => retried(full),
            Some(DiskError::System { .. }) | None => error,
        }
    }
}

/// The engine gives a task to another worker after an I/O error only.
fn retried(error: DiskError) -> DataFusionError {
    DataFusionError::IoError(std::io::Error::other(error))
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

/// When anything in a folder was last written.
fn newest(folder: &Path) -> Option<SystemTime> {
    let own = std::fs::metadata(folder)
        .and_then(|metadata| metadata.modified())
        .ok();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| newest(&entry.path())).chain(own).max()
}

/// Deletes the folders of jobs that nobody has written to for long.
fn sweep(folder: &Path, now: SystemTime) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let job = entry.path();
        let age = newest(&job).and_then(|newest| now.duration_since(newest).ok());
        if age.is_some_and(|age| age >= STALE) {
            tracing::warn!(folder = %job.display(), "shuffle data that nobody asked to delete is deleted");
            if let Err(error) = std::fs::remove_dir_all(&job) {
                tracing::warn!(folder = %job.display(), %error, "stale shuffle data stays");
            }
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
        assert!(!disk.has_filled() && disk.admit().is_ok());
        std::fs::write(&file, [0; 101]).unwrap();
        disk.look(now);
        disk.look(now);
        assert!(disk.has_filled() && !disk.has_filled(), "it is told once");
        let refused = disk.admit().unwrap_err().to_string();
        assert!(
            refused.contains("`w1`") && refused.contains("101 bytes"),
            "{refused}"
        );
        std::fs::remove_file(&file).unwrap();
        disk.look(now + PAUSE / 2);
        assert!(disk.admit().is_err());
        disk.look(now + PAUSE);
        assert!(disk.admit().is_ok());
        assert_eq!(disk.used(), 0);
    }

    #[test]
    fn an_error_of_the_system_names_the_disk_and_others_stay_what_they_are() {
        let (_folder, disk) = disk(None);
        let other = DataFusionError::Execution("no such column".to_owned());
        assert!(disk.explain(other).to_string().contains("no such column"));
        assert!(disk.trouble().is_none());
        let full = std::io::Error::from_raw_os_error(28);
        let explained = disk.explain(DataFusionError::IoError(full));
        assert!(matches!(explained, DataFusionError::IoError(_)));
        assert!(explained.to_string().contains("the disk of worker `w1` is full"));
        assert!(disk.trouble().is_some());
    }

    #[test]
    fn what_nobody_has_written_to_for_hours_is_swept() {
        let (folder, _disk) = disk(None);
        std::fs::write(folder.path().join("job/1/0/data.arrow"), "x").unwrap();
        sweep(folder.path(), SystemTime::now());
        assert!(folder.path().join("job").exists());
        sweep(folder.path(), SystemTime::now() + STALE + Duration::from_mins(1));
        assert!(!folder.path().join("job").exists());
    }
}
