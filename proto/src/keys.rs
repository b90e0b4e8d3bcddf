//! Object keys of a lake. One place knows the layout:
//!
//! ```text
//! data/date=2026-01-01/hour=05/source=web/<batch>-<attempt>-<task>-<n>.parquet
//! quarantine/date=2026-01-01/<batch>-<attempt>-<task>-<n>.parquet
//! keys/hour=2026-01-01T05/<batch>-<attempt>-<task>-<n>.parquet
//! quality/<batch>-<attempt>-<task>.state
//! attempts/<batch>-<attempt>.json
//! manifests/<batch>.json
//! enrich/<lookup>/<version>.parquet              a snapshot of a lookup's table; `.sealed` where no clear data may lie;
//!                                                 `<version>-<n>` where the same content was erased n times before
//! holds/<batch>.json                            what was decided about a held batch
//! models/<model>/date=2026-01-01/hour=05/v<version>-e<epoch>-<unique>.parquet   a model's period; without `hour=`: a day
//! loads/<digest>.manifest                         what a warehouse was told to load
//! ledger/<sequence, 12 digits>.json
//! ledger/head.json
//! ledger/owner.json                              a cluster's ledger is in etcd: this tells which
//! ledger/bodies/<digest>.json                    what is too large for etcd
//! ledger/listings/<digest>.json                 which objects a job reads, as they were when it began; gone when it is over
//! ledger/keys/<digest>.json                     which key files an attempt may meet; gone when it is over
//! ledger/snapshots/<place, 12 digits>-<digest>.json   what etcd held before this place
//! ```

use crate::ids::{Attempt, BatchId};

/// Where a task's objects go: batch, attempt and task are in every name (invariant 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskNames {
    /// The batch.
    pub batch: BatchId,
    /// The attempt.
    pub attempt: Attempt,
    /// The task's number within the attempt.
    pub task: u32,
    /// Tells runs of one task apart, where an engine may repeat a task within the attempt: letters and
    /// digits. Empty where it does not.
    pub run: String,
}

impl TaskNames {
    fn stem(&self) -> String {
        let run = if self.run.is_empty() { "" } else { "x" };
        format!("{}-{}-{}{run}{}", self.batch, self.attempt, self.task, self.run)
    }

    /// The `n`-th data file of one partition.
    #[must_use]
    pub fn data(&self, partition: &[(String, String)], n: u32) -> String {
        let mut key = String::from("data/");
        for (column, value) in partition {
            key.push_str(column);
            key.push('=');
            key.push_str(&path_value(value));
            key.push('/');
        }
        format!("{key}{}-{n}.parquet", self.stem())
    }

    /// The `n`-th quarantine file; `date` is `YYYY-MM-DD`, the day of the batch.
    #[must_use]
    pub fn quarantine(&self, date: &str, n: u32) -> String {
        format!("quarantine/date={date}/{}-{n}.parquet", self.stem())
    }

    /// The `n`-th key index file of one hour; `hour` is `YYYY-MM-DDTHH`.
    #[must_use]
    pub fn keys(&self, hour: &str, n: u32) -> String {
        format!("keys/hour={hour}/{}-{n}.parquet", self.stem())
    }

    /// The task's quality state.
    #[must_use]
    pub fn quality(&self) -> String {
        format!("quality/{}.state", self.stem())
    }
}

/// Key of the object that joins the reports of one attempt's tasks, until the manifest holds them.
#[must_use]
pub fn attempt(batch: &BatchId, attempt: Attempt) -> String {
    format!("attempts/{batch}-{attempt}.json")
}

/// Key of a batch's manifest.
#[must_use]
pub fn manifest(batch: &BatchId) -> String {
    format!("manifests/{batch}.json")
}

/// Key of a snapshot of a lookup's table, by the hash of its content and how often the same content was erased before.
#[must_use]
pub fn snapshot(lookup: &str, version: &str, erased: usize, is_sealed: bool) -> String {
    let ending = if is_sealed { "sealed" } else { "parquet" };
    let again = if erased == 0 {
        String::new()
    } else {
        format!("-{erased}")
    };
    format!("enrich/{}/{version}{again}.{ending}", path_value(lookup))
}

/// Key of a result of a model's period: `2026-01-01`, or `2026-01-01T05` for an hour. `unique` tells tries of one writer apart.
#[must_use]
pub fn mart(model: &str, period: &str, version: u64, epoch: u64, unique: &str) -> String {
    let folder = match period.split_once('T') {
        Some((date, hour)) => format!("date={date}/hour={hour}"),
        None => format!("date={period}"),
    };
    format!("models/{model}/{folder}/v{version:08}-e{epoch}-{unique}.parquet")
}

/// The folder of decisions about held batches.
pub const HOLDS: &str = "holds";

/// Key of the decision about a held batch.
#[must_use]
pub fn hold(batch: &BatchId) -> String {
    format!("{HOLDS}/{batch}.json")
}

/// Key of a list of files that a warehouse is told to load, by the digest of its bytes.
#[must_use]
pub fn load(digest: &str) -> String {
    format!("loads/{digest}.manifest")
}

/// Key of the ledger's `sequence`-th entry.
#[must_use]
pub fn ledger(sequence: u64) -> String {
    format!("ledger/{sequence:012}.json")
}

/// Key of the object that names the ledger's last entry.
#[must_use]
pub fn ledger_head() -> String {
    "ledger/head.json".to_owned()
}

/// Key of the object that tells which cluster's ledger the lake belongs to.
#[must_use]
pub fn ledger_owner() -> String {
    "ledger/owner.json".to_owned()
}

/// Key of an append that is too large for etcd, by the digest of its bytes.
#[must_use]
pub fn ledger_body(digest: &str) -> String {
    format!("ledger/bodies/{digest}.json")
}

/// The folder of what jobs have listed.
pub const LISTINGS: &str = "ledger/listings";

/// Key of the objects that a job reads, by the digest of its bytes.
#[must_use]
pub fn listing(digest: &str) -> String {
    format!("{LISTINGS}/{digest}.json")
}

/// The folder of lists of key files.
pub const KEY_LISTS: &str = "ledger/keys";

/// Key of a list of the key files that an attempt may meet, by the digest of its bytes.
#[must_use]
pub fn key_list(digest: &str) -> String {
    format!("{KEY_LISTS}/{digest}.json")
}

/// Key of a segment of a snapshot: its end, and the digest of its bytes.
#[must_use]
pub fn ledger_snapshot(end: u64, digest: &str) -> String {
    format!("ledger/snapshots/{end:012}-{digest}.json")
}

/// A partition value as one path segment: everything but letters, digits, `-`, `_` and `.` is
/// percent-encoded as Hive does; the empty text becomes Hive's default partition.
#[must_use]
pub fn path_value(value: &str) -> String {
    if value.is_empty() {
        return "__HIVE_DEFAULT_PARTITION__".to_owned();
    }
    let mut path = String::with_capacity(value.len());
    let all_dots = value.bytes().all(|byte| byte == b'.');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && !all_dots) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_value_never_leaves_its_segment() {
        assert_eq!(path_value("web"), "web");
        assert_eq!(path_value("a/b c"), "a%2Fb%20c");
        assert_eq!(path_value(".."), "%2E%2E");
        assert_eq!(path_value(""), "__HIVE_DEFAULT_PARTITION__");
    }
}
