//! Bytes in: files, S3 objects and topics, found, cut into splits, read and unpacked.
//!
//! In: a pipeline's source, or the places that a user names instead. Out: batches of
//! [`crate::rows::chunk_schema`]: pieces of whole lines and where they came from.
//!
//! ```text
//! list (what is there) -> cut (splits) -> the ledger, then rows -> ScanExec -> chunks of lines -> decode
//! ```
//!
//! | module     | has                                                            |
//! |------------|----------------------------------------------------------------|
//! | [`stores`] | URLs to object stores                                          |
//! | [`mod@list`] | a file, folder, prefix or glob to objects with size and version |
//! | [`mod@cut`]  | objects to splits, splits to rows and back                     |
//! | `read`     | a split's bytes: `files`, `s3`, unpacked by `unpack`           |
//! | [`lines`]  | bytes to chunks of whole lines, the kernel                     |
//! | [`kafka`]  | offset ranges of a topic's partitions to chunks of messages    |
//! | [`exec`]   | the operator                                                   |
//!
//! An object is what it was when it was listed: a reader that meets another size or version refuses to go
//! on, since the ledger's positions would not mean the same bytes.

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

pub mod cut;
pub mod exec;
mod files;
pub mod kafka;
pub mod lines;
pub mod list;
mod pattern;
pub(crate) mod read;
mod s3;
pub mod stores;
mod unpack;

pub use cut::{cut, split_schema, splits_batch, splits_of};
pub use list::list;
pub use stores::{S3Options, StoreError, Stores};

/// Why input could not be found or read. Names places and positions, never what stands there.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The place does not exist or holds nothing to read.
    #[error("nothing to read at `{pattern}`: {found}")]
    Nothing {
        /// As the user wrote it.
        pattern: String,
        /// What is there instead.
        found: Found,
    },
    /// A glob that is none.
    #[error("`{pattern}` is no glob: {fault}")]
    Pattern {
        /// As the user wrote it.
        pattern: String,
        /// What is wrong, and where.
        fault: String,
    },
    /// A Kafka source, which has positions of its own.
    #[error(
        "the pipeline reads the Kafka topic `{topic}`: submit it with `millrace job submit`, or name files with --input"
    )]
    Kafka {
        /// The topic.
        topic: String,
    },
    /// A file name that is no text.
    #[error("the file name `{path}` is not UTF-8: rename it")]
    Name {
        /// The name, with replacements.
        path: String,
    },
    /// The object is gone.
    #[error(
        "`{url}` is gone: it was there with {size} bytes when the input was listed; put it back, or submit the input again \
         to read what is there now"
    )]
    Vanished {
        /// The object.
        url: String,
        /// Its size when it was listed.
        size: u64,
    },
    /// The object is not what it was.
    #[error(
        "`{url}` has changed since it was listed: expected {expected_size} bytes of version {expected}, \
         found {found_size} bytes of version {found}; put that version back, or submit the input again to read what is there now"
    )]
    Changed {
        /// The object.
        url: String,
        /// Version when it was listed.
        expected: String,
        /// Size when it was listed.
        expected_size: u64,
        /// Version now.
        found: String,
        /// Size now.
        found_size: u64,
    },
    /// A file or folder could not be read.
    #[error("could not read `{url}` at byte {position}")]
    Read {
        /// The file or folder.
        url: String,
        /// Position in its bytes, unpacked where they are packed.
        position: u64,
        /// What the system says.
        source: std::io::Error,
    },
    /// Compressed data ends early or is damaged. What came before was passed on.
    #[error(
        "`{url}` is damaged or cut off: it does not unpack beyond byte {position} of its unpacked content"
    )]
    Unpack {
        /// The object.
        url: String,
        /// How many bytes could be unpacked.
        position: u64,
        /// What the unpacker says.
        source: std::io::Error,
    },
    /// A file is not of its format as a whole: no header, a damaged block, a damaged page.
    #[error("`{url}` is not a sound {format} file")]
    Format {
        /// The object.
        url: String,
        /// `Avro`, `Parquet`.
        format: &'static str,
        /// What its reader says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The reader of a format could not cope with the file.
    #[error("the reader of `{url}` gave up: the file is damaged")]
    GaveUp {
        /// The object.
        url: String,
    },
    /// A request to a store failed.
    #[error("could not read `{url}`")]
    Store {
        /// The object, or the prefix that was listed.
        url: String,
        /// What the store says.
        source: object_store::Error,
    },
    /// A topic could not be read.
    #[error(transparent)]
    Topic(#[from] kafka::KafkaError),
    /// A URL leads nowhere.
    #[error(transparent)]
    Open(#[from] StoreError),
    /// Rows that should be splits are something else.
    #[error("the rows are not splits: expected one text column `split`")]
    NotSplits,
    /// A row that should be a split does not parse.
    #[error("a split is damaged")]
    Split(#[from] serde_json::Error),
    /// Arrow refuses a batch.
    #[error("a batch of input could not be built")]
    Arrow(#[from] ArrowError),
    /// A reading thread ended without a word.
    #[error("the thread that reads input ended unexpectedly")]
    Thread(#[from] tokio::task::JoinError),
}

/// What stands where nothing is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nowhere,
    /// Files, but none that counts.
    Skipped(u64),
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nowhere => f.write_str("no file is there; give a file, a folder, a prefix or a glob"),
            Self::Skipped(files) => {
                write!(
                    f,
                    "{files} files are there, all empty or hidden (their name starts with `.` or `_`)"
                )
            }
        }
    }
}

impl SourceError {
    /// Whether the same read may succeed later, without anyone changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read { source, .. } => !matches!(
                source.kind(),
                std::io::ErrorKind::NotFound
                    | std::io::ErrorKind::PermissionDenied
                    | std::io::ErrorKind::IsADirectory
            ),
            Self::Store { source, .. } => {
                matches!(
                    source,
                    object_store::Error::JoinError { .. } | object_store::Error::Generic { .. }
                ) && !s3::is_refusal(source)
            }
            Self::Topic(error) => error.is_retryable(),
            Self::Thread(_) => true,
            Self::Nothing { .. }
            | Self::Pattern { .. }
            | Self::Kafka { .. }
            | Self::Name { .. }
            | Self::Vanished { .. }
            | Self::Changed { .. }
            | Self::Unpack { .. }
            | Self::Format { .. }
            | Self::GaveUp { .. }
            | Self::Open(_)
            | Self::NotSplits
            | Self::Split(_)
            | Self::Arrow(_) => false,
        }
    }

    /// Whether an object is not what it was when the batch was planned, or never was sound: no attempt over the same positions
    /// can read it. (What brokers say of a topic may change while others come to lead its partitions.)
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Vanished { .. }
            | Self::Changed { .. }
            | Self::Unpack { .. }
            | Self::Format { .. }
            | Self::GaveUp { .. } => true,
            Self::Nothing { .. }
            | Self::Pattern { .. }
            | Self::Kafka { .. }
            | Self::Name { .. }
            | Self::Read { .. }
            | Self::Store { .. }
            | Self::Topic(_)
            | Self::Open(_)
            | Self::NotSplits
            | Self::Split(_)
            | Self::Arrow(_)
            | Self::Thread(_) => false,
        }
    }
}

/// The engine repeats a task only after an I/O error, so what may pass by itself becomes one.
impl From<SourceError> for DataFusionError {
    fn from(error: SourceError) -> Self {
        if error.is_retryable() {
            Self::IoError(std::io::Error::other(error))
        } else {
            Self::External(Box::new(error))
        }
    }
}
