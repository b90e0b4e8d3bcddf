//! Masks columns by class and environment; seals what goes to quarantine.
//!
//! In: batches of accepted events, personal data still clear.
//! Out: the same rows, the same types, each personal column masked as its class's strategy says.
//!
//! | the column…                        | outside `clear_in`                                            |
//! |------------------------------------|---------------------------------------------------------------|
//! | has no class                       | untouched                                                     |
//! | text, `hash`                       | 32 hex digits, keyed by the pipeline's secret and the class   |
//! | text, `hash_keep_domain`           | 16 hex digits and the lower-cased domain; no address: `hash`  |
//! | text, `truncate`                   | IPv4 as /24, IPv6 as /48; no address: `[redacted]`            |
//! | text, `redact`                     | `[redacted]`                                                  |
//! | `json`                             | the same, as a JSON string, so that the column stays JSON     |
//! | int32, int64; `hash*`              | a keyed number >= 0                                           |
//! | any other type or strategy         | null                                                          |
//! | a list                             | each item by these rules                                      |
//!
//! Null stays null. The same value of the same class masks alike in every column, so joins and distinct
//! counts over masked columns still answer; another secret gives unrelated masks.
//!
//! A [`Policy`] decides, [`exec::PrivacyExec`] applies it, and a [`Sealer`] makes of a rejected record's
//! bytes what only the holder of the secret can read.

mod address;
pub mod exec;
mod keyed_hash;
mod marks;
mod policy;
mod seal;
mod strategy;
mod subject;
#[cfg(test)]
mod tests;
mod views;

pub use marks::Marks;
pub use policy::Policy;
pub use seal::Sealer;
pub use subject::{Subject, SubjectError};

/// Why a value could not be masked, sealed or opened. No text of it holds a value.
#[derive(Debug, thiserror::Error)]
pub enum PrivacyError {
    /// Masking or sealing without a secret.
    #[error(
        "{what}, and the environment ({environment}) is not in `privacy.clear_in`: set `privacy.hash_key`, \
         for example to `${{env:MILLRACE_HASH_KEY}}`, or name the environment in `privacy.clear_in`"
    )]
    MissingKey {
        /// What needs the secret.
        what: String,
        /// The environment's name, or `none named`.
        environment: String,
    },
    /// A column's values are of another type than the pipeline declares.
    #[error("column `{column}` holds {found} values, the pipeline declares {expected}")]
    Type {
        /// The column.
        column: String,
        /// Type found.
        found: String,
        /// Type declared.
        expected: String,
    },
    /// A position that the table does not have.
    #[error("column {column} of a table with {columns} columns")]
    Column {
        /// The position asked for.
        column: usize,
        /// How many there are.
        columns: usize,
    },
    /// Fewer bytes than a sealed record has at least.
    #[error("a sealed record has {bytes} bytes, at least {least} are needed")]
    SealedTooShort {
        /// Bytes found.
        bytes: usize,
        /// Bytes that an empty record takes.
        least: usize,
    },
    /// A seal of a later version of this program.
    #[error("a sealed record has the unknown version {0}")]
    SealedVersion(u8),
    /// Damaged, or sealed with another secret.
    #[error(
        "a sealed record does not open: it is damaged, or `privacy.hash_key` is not the one it was sealed with"
    )]
    SealedOtherwise,
    /// Arrow refused an array.
    #[error("masked values do not form an array")]
    Arrow(#[from] arrow::error::ArrowError),
}
