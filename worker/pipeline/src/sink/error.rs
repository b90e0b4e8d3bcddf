//! What can go wrong in the sink, and whether trying again helps.

use std::error::Error as StdError;
use std::io;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use millrace_proto::manifest::DataFile;
use parquet::errors::ParquetError;

use super::EncodeError;
use crate::rows::NoteError;

/// Why a task could not write.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The device of a local lake has no room.
    #[error("could not write `{key}`: the disk is full; free space or move the lake, then run again")]
    DiskFull {
        /// Object key below the lake's root.
        key: String,
        /// What the store said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The store refused or did not answer.
    #[error("could not write `{key}`")]
    Put {
        /// Object key below the lake's root.
        key: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// A committed data file that is to be written again.
    #[error("could not read data file `{key}` of {rows} rows")]
    Read {
        /// Object key below the lake's root.
        key: String,
        /// Rows it should hold.
        rows: u64,
        /// Why not.
        #[source]
        source: ParquetError,
    },
    /// Another content stands under the name: two attempts shared a name.
    #[error("`{key}` exists already with other content: names of attempts must differ")]
    Exists {
        /// Object key below the lake's root.
        key: String,
    },
    /// A written file could not be made durable.
    #[error("could not sync `{path}` to disk")]
    Sync {
        /// File or folder.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The key does not name an object.
    #[error("`{key}` is not an object key")]
    Key {
        /// Object key below the lake's root.
        key: String,
        /// Why.
        #[source]
        source: object_store::path::Error,
    },
    /// A data file could not be encoded.
    #[error("could not encode a data file")]
    Encode(#[from] EncodeError),
    /// A quarantine file could not be encoded.
    #[error("could not encode a quarantine file")]
    Quarantine(#[from] ParquetError),
    /// A batch of another shape than the plan promised.
    #[error("the sink's input: {what}")]
    Input {
        /// What is wrong.
        what: String,
    },
    /// Arrow refused.
    #[error("the sink's input cannot be read as its schema says")]
    Arrow(#[from] ArrowError),
    /// A damaged note.
    #[error("the sink's input holds a damaged note")]
    Note(#[from] NoteError),
    /// Keys could not be encoded.
    #[error("could not encode the key index of hour {hour}")]
    Keys {
        /// Event hour, `YYYY-MM-DDTHH`.
        hour: String,
        /// Why.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl SinkError {
    pub(super) fn read(file: &DataFile, source: ParquetError) -> Self {
        Self::Read {
            key: file.object.key.clone(),
            rows: file.object.rows,
            source,
        }
    }

    /// A failed put: full disks are told apart.
    pub(super) fn put(key: &str, source: object_store::Error) -> Self {
        let key = key.to_owned();
        if is_disk_full(&source) {
            Self::DiskFull {
                key,
                source: Box::new(source),
            }
        } else {
            Self::Put { key, source }
        }
    }

    /// Whether the same task may succeed when it runs again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Put { source, .. } => matches!(
                source,
                object_store::Error::Generic { .. } | object_store::Error::JoinError { .. }
            ),
            Self::Read { source, .. } => matches!(source, ParquetError::External(_)),
            Self::Sync { .. } => true,
            Self::DiskFull { .. }
            | Self::Exists { .. }
            | Self::Key { .. }
            | Self::Encode(_)
            | Self::Quarantine(_)
            | Self::Input { .. }
            | Self::Arrow(_)
            | Self::Note(_)
            | Self::Keys { .. } => false,
        }
    }
}

fn is_disk_full(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Engines retry tasks whose root error is an I/O error, and no others.
impl From<SinkError> for DataFusionError {
    fn from(error: SinkError) -> Self {
        if error.is_retryable() {
            Self::IoError(io::Error::other(error))
        } else {
            Self::External(Box::new(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store_error(kind: io::ErrorKind) -> object_store::Error {
        object_store::Error::Generic {
            store: "test",
            source: Box::new(io::Error::from(kind)),
        }
    }

    #[test]
    fn a_full_disk_says_so_and_is_not_tried_again() {
        let error = SinkError::put("data/x.parquet", store_error(io::ErrorKind::StorageFull));
        assert!(error.to_string().contains("disk is full"), "{error}");
        assert!(!error.is_retryable());
        assert!(matches!(
            DataFusionError::from(error),
            DataFusionError::External(_)
        ));
    }

    #[test]
    fn a_store_that_does_not_answer_is_tried_again_and_the_object_is_named() {
        let error = SinkError::put("data/x.parquet", store_error(io::ErrorKind::TimedOut));
        assert!(error.to_string().contains("data/x.parquet"), "{error}");
        assert!(matches!(
            DataFusionError::from(error),
            DataFusionError::IoError(_)
        ));
    }
}
