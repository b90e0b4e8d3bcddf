//! Blocks of lines to files, by many threads.
//!
//! Threads take blocks in order, make and compress them alone, and wait for their turn only to learn the
//! offset: the write itself happens beside the other threads' work. A compressed file is a chain of
//! members (gzip) or frames (zstd), one a block, which every reader of these formats accepts.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::plan::{Plan, Recipe};
use super::{Block, Generator};
use crate::ledger::{Counts, ENTRY_BYTES, Ledger, Sent, SentFile};

/// Lines made at once: some 4 MB, a share of the second-level cache would be slower to write.
const BLOCK_LINES: u64 = 8_192;

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Compress {
    /// `.ndjson`
    None,
    /// `.ndjson.gz`
    Gzip,
    /// `.ndjson.zst`
    Zstd,
}

/// Where and how to write.
#[derive(Debug, Clone)]
pub struct Output {
    /// Folder of the ledger; the data goes to its folder `events`.
    pub folder: PathBuf,
    /// Number of data files; each holds a stretch of the event time.
    pub files: usize,
    /// Compression.
    pub compress: Compress,
    /// Threads.
    pub threads: usize,
    /// Whether events of an earlier run may be replaced.
    pub overwrite: bool,
}

/// Why nothing, or not everything, was written.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// An earlier run's files are there.
    #[error("`{folder}` holds events already: choose another folder or add --overwrite", folder = folder.display())]
    Occupied {
        /// The folder.
        folder: PathBuf,
    },
    /// A file could not be written.
    #[error("could not write `{path}`", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Another thread failed; its error is the one to look at.
    #[error("another thread failed")]
    Elsewhere,
}

/// Generates the recipe's events; returns what stands in `sent.json` too.
///
/// # Errors
/// When the folder holds events already, or a file cannot be written.
pub fn generate(recipe: &Recipe, output: &Output) -> Result<Sent, GenerateError> {
    let job = Job::prepare(recipe, output)?;
    let results: Vec<Result<Counts, GenerateError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..output.threads.max(1))
            .map(|_| scope.spawn(|| job.work()))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or(Err(GenerateError::Elsewhere)))
            .collect()
    });
    let mut counts = Counts::default();
    let mut failure = None;
    for result in results {
        match result {
            Ok(part) => counts.add(&part),
            Err(GenerateError::Elsewhere) if failure.is_some() => {}
            Err(error) => failure = Some(error),
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let sent = Sent {
        recipe: recipe.clone(),
        files: job.turn().files.clone(),
        counts,
        topic: None,
    };
    let path = Ledger::sent_path(&output.folder);
    let text = serde_json::to_vec_pretty(&sent).map_err(io::Error::from);
    text.and_then(|text| std::fs::write(&path, text))
        .map_err(|source| GenerateError::Write { path, source })?;
    Ok(sent)
}

/// Lines of one file that are made together.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    file: usize,
    first: u64,
    lines: u64,
}

#[derive(Debug)]
struct Job {
    generator: Generator,
    compress: Compress,
    stretches: Vec<Stretch>,
    next: AtomicUsize,
    paths: Vec<PathBuf>,
    ledger: File,
    ledger_path: PathBuf,
    turn: Mutex<Turn>,
    turned: Condvar,
}

/// Whose turn it is to be given an offset, and how far the files have grown.
#[derive(Debug)]
struct Turn {
    stretch: usize,
    has_failed: bool,
    files: Vec<SentFile>,
}

impl Job {
    fn prepare(recipe: &Recipe, output: &Output) -> Result<Self, GenerateError> {
        let events = output.folder.join("events");
        clear(&output.folder, &events, output.overwrite)?;
        let count = output.files.max(1) as u64;
        let (mut stretches, mut files, mut paths) = (Vec::new(), Vec::new(), Vec::new());
        for file in 0..count {
            let share = |part| (u128::from(recipe.events) * u128::from(part) / u128::from(count)) as u64;
            let (start, end) = (share(file), share(file + 1));
            for first in (start..end).step_by(BLOCK_LINES as usize) {
                stretches.push(Stretch {
                    file: file as usize,
                    first,
                    lines: BLOCK_LINES.min(end - first),
                });
            }
            let name = format!("events-{file:05}.ndjson{}", output.compress.extension());
            let path = events.join(&name);
            File::create(&path).map_err(|source| GenerateError::Write {
                path: path.clone(),
                source,
            })?;
            paths.push(path);
            files.push(SentFile {
                name,
                lines: end - start,
                bytes: 0,
                stored_bytes: 0,
            });
        }
        let ledger_path = Ledger::entries_path(&output.folder);
        let ledger = File::create(&ledger_path).map_err(|source| GenerateError::Write {
            path: ledger_path.clone(),
            source,
        })?;
        Ok(Self {
            generator: Generator::new(Plan::new(recipe)),
            compress: output.compress,
            stretches,
            next: AtomicUsize::new(0),
            paths,
            ledger,
            ledger_path,
            turn: Mutex::new(Turn {
                stretch: 0,
                has_failed: false,
                files,
            }),
            turned: Condvar::new(),
        })
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes blocks until none is left. A failure lets the other threads stop too.
    fn work(&self) -> Result<Counts, GenerateError> {
        let result = self.work_on();
        if result.is_err() {
            self.turn().has_failed = true;
            self.turned.notify_all();
        }
        result
    }

    fn work_on(&self) -> Result<Counts, GenerateError> {
        let (mut counts, mut block, mut packed) = (Counts::default(), Block::default(), Vec::new());
        let mut open: Option<(usize, File)> = None;
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(&stretch) = self.stretches.get(index) else {
                return Ok(counts);
            };
            let path = &self.paths[stretch.file];
            let fail = |source| GenerateError::Write {
                path: path.clone(),
                source,
            };
            self.generator.fill(&mut block, stretch.first, stretch.lines);
            counts.add(&block.counts);
            let stored = self.compress.pack(&block.text, &mut packed).map_err(fail)?;
            let offset = self.claim(index, stretch.file, block.text.len(), stored.len())?;
            let file = match open.take() {
                Some((file, handle)) if file == stretch.file => handle,
                _ => OpenOptions::new().write(true).open(path).map_err(fail)?,
            };
            file.write_all_at(stored, offset).map_err(fail)?;
            open = Some((stretch.file, file));
            self.ledger
                .write_all_at(&block.ledger, stretch.first * ENTRY_BYTES as u64)
                .map_err(|source| GenerateError::Write {
                    path: self.ledger_path.clone(),
                    source,
                })?;
        }
    }

    /// Waits for the stretch's turn; returns where its bytes belong.
    fn claim(&self, index: usize, file: usize, bytes: usize, stored: usize) -> Result<u64, GenerateError> {
        let mut turn = self.turn();
        while turn.stretch != index {
            if turn.has_failed {
                return Err(GenerateError::Elsewhere);
            }
            turn = self.turned.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        turn.stretch += 1;
        let grown = &mut turn.files[file];
        let offset = grown.stored_bytes;
        grown.bytes += bytes as u64;
        grown.stored_bytes += stored as u64;
        self.turned.notify_all();
        Ok(offset)
    }
}

impl Compress {
    fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    /// The bytes to store for `text`.
    fn pack<'a>(self, text: &'a [u8], packed: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        packed.clear();
        match self {
            Self::None => return Ok(text),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(&mut *packed, flate2::Compression::new(5));
                encoder.write_all(text)?;
                encoder.finish()?;
            }
            Self::Zstd => zstd::stream::copy_encode(text, &mut *packed, 3)?,
        }
        Ok(packed)
    }
}

/// Makes the folder, without an earlier run's files.
pub(super) fn clear(folder: &Path, events: &Path, overwrite: bool) -> Result<(), GenerateError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| GenerateError::Write { path, source }
    };
    std::fs::create_dir_all(events).map_err(fail(events))?;
    for entry in std::fs::read_dir(events).map_err(fail(events))? {
        let path = entry.map_err(fail(events))?.path();
        let is_ours = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("events-") && name.contains(".ndjson"));
        if !is_ours || !overwrite {
            return Err(GenerateError::Occupied {
                folder: folder.to_owned(),
            });
        }
        std::fs::remove_file(&path).map_err(fail(&path))?;
    }
    Ok(())
}
