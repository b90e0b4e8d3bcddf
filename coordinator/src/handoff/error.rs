//! Why a load did not happen, and whether trying again can help.

use millrace_proto::ids::BatchId;

use super::copy::CellError;
use super::data_api::ApiError;
use super::preflight::CopyFault;
use super::table::TableFault;
use crate::causes::chain;
use crate::commit::CommitError;
use crate::lake::LakeError;

/// What a warehouse answered, without the parts of its answer that may quote values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", place(.code, .table.as_deref(), .column.as_deref()))]
pub struct Refusal {
    /// SQLSTATE; empty where the Data API told the message alone.
    pub code: String,
    /// Its message.
    pub message: String,
    /// The table that it names.
    pub table: Option<String>,
    /// The column that it names.
    pub column: Option<String>,
}

/// What passes, in the words of an answer without SQLSTATE.
const PASSING: &[&str] = &[
    "deadlock detected",
    "terminating connection due to administrator command",
    "canceling statement due to system",
    "could not obtain lock",
];

fn place(code: &str, table: Option<&str>, column: Option<&str>) -> String {
    let named = |what, name: &str| format!("{what} `{name}`");
    let code = (!code.is_empty()).then(|| format!("SQLSTATE {code}"));
    let table = table.map(|name| named("table", name));
    let column = column.map(|name| named("column", name));
    let all: Vec<String> = [code, table, column].into_iter().flatten().collect();
    match all.is_empty() {
        true => String::new(),
        false => format!(" ({})", all.join(", ")),
    }
}

impl Refusal {
    /// What a server answered. Detail, hint and context may quote rows: they stay behind.
    pub(crate) fn of(answer: &tokio_postgres::error::DbError) -> Self {
        Self {
            code: answer.code().code().to_owned(),
            message: answer.message().to_owned(),
            table: answer.table().map(str::to_owned),
            column: answer.column().map(str::to_owned),
        }
    }

    /// Whether the same statement may succeed later, without anybody's doing.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        // Serialization and deadlock, lock not available, connection trouble, resources (disk, memory, connections),
        // operator intervention (shutdown, restart), idle session ended.
        let class = self.code.get(..2).unwrap_or_default();
        matches!(
            self.code.as_str(),
            "40001" | "40P01" | "55P03" | "25P03" | "XX001"
        ) || matches!(class, "08" | "53" | "57" | "58")
            || self.is_serializable_conflict()
            || (self.code.is_empty() && PASSING.iter().any(|text| self.message.contains(text)))
    }

    /// Its kind, for metrics.
    fn kind(&self) -> &'static str {
        match self.code.get(..2).unwrap_or_default() {
            _ if self.is_serializable_conflict() => "conflict",
            "40" | "55" => "conflict",
            "28" => "credentials",
            "53" => "resources",
            "08" | "57" => "connection",
            _ => "refused",
        }
    }

    /// Whether another transaction held a lock for longer than we wait.
    pub(super) fn is_lock_timeout(&self) -> bool {
        self.code == "55P03"
    }

    /// Whether a row had no partition to go into.
    pub(super) fn is_of_no_partition(&self) -> bool {
        self.code == "23514" && self.message.starts_with("no partition of relation")
    }

    /// Redshift's 1023: it comes with the code of an internal error.
    fn is_serializable_conflict(&self) -> bool {
        self.message.contains("1023") && self.message.to_lowercase().contains("serializable")
    }
}

/// Why a handoff stands still.
#[derive(Debug, thiserror::Error)]
pub enum HandoffError {
    /// The connection string.
    #[error(
        "`warehouse` has a connection string that is not understood; right is `postgres://user:password@host:port/database`"
    )]
    Dsn,
    /// TLS cannot be set up.
    #[error("TLS towards the warehouse cannot be set up")]
    Tls(#[source] rustls::Error),
    /// Nobody answers, or the connection broke: whether the last statement was carried out is not known.
    #[error("the connection to the warehouse {what}")]
    Connection {
        /// `could not be made` or `was lost`.
        what: &'static str,
        /// What the system says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// It said nothing.
    #[error("the warehouse did not answer within {seconds} s")]
    Silent {
        /// For how long it was waited.
        seconds: u64,
    },
    /// The Data API did not do it: whether it was done is not known.
    #[error("the Data API of the warehouse failed to {what}")]
    Api {
        /// What was asked of it.
        what: String,
        /// Its answer, or why there is none.
        #[source]
        source: Box<ApiError>,
    },
    /// AWS gave no user and password.
    #[error("AWS gave no login to the warehouse: {target}")]
    Login {
        /// Whom, and of which cluster or workgroup.
        target: String,
        /// Its answer, or why there is none.
        #[source]
        source: Box<ApiError>,
    },
    /// A COPY brought another number of rows than the manifests of its batches say.
    #[error(
        "table `{table}`: COPY did not bring the {expected} rows that the manifests say; nothing was loaded"
    )]
    Count {
        /// The table.
        table: String,
        /// Rows written.
        expected: u64,
    },
    /// The warehouse said no.
    #[error("the warehouse refused to {what}")]
    Refused {
        /// What was asked of it.
        what: String,
        /// Its answer.
        #[source]
        refusal: Box<Refusal>,
    },
    /// The table is not the pipeline's.
    #[error("table `{table}` does not fit the pipeline, nothing was loaded:\n{}", lines(.faults))]
    Table {
        /// The table.
        table: String,
        /// Column by column.
        faults: Vec<TableFault>,
    },
    /// A COPY was refused, and we see why.
    #[error("table `{table}` cannot take file `{file}`: {fault}")]
    Copy {
        /// The table.
        table: String,
        /// Key of the file.
        file: String,
        /// The column and the rule.
        fault: Box<CopyFault>,
        /// What the warehouse said.
        #[source]
        refused: Box<HandoffError>,
    },
    /// A value that the warehouse cannot hold.
    #[error("batch {batch} cannot be loaded into `{table}`: file `{file}`")]
    Cell {
        /// The batch.
        batch: BatchId,
        /// The table.
        table: String,
        /// Key of the file.
        file: String,
        /// The column and the rule.
        #[source]
        source: Box<CellError>,
    },
    /// A column of a file that the table lacks.
    #[error(
        "batch {batch}: file `{file}` has a column `{column}` that the pipeline no longer declares; declare it again, or discard the batch"
    )]
    Stray {
        /// The batch.
        batch: BatchId,
        /// Key of the file.
        file: String,
        /// The column.
        column: String,
    },
    /// The file is not what the manifest says.
    #[error(
        "batch {batch}: file `{file}` gave {found} rows, its manifest says {expected}; nothing was loaded"
    )]
    Rows {
        /// The batch.
        batch: BatchId,
        /// Key of the file, or of the last of several.
        file: String,
        /// Rows loaded.
        found: u64,
        /// Rows written.
        expected: u64,
    },
    /// A data file cannot be read.
    #[error("batch {batch}: file `{file}` cannot be read")]
    File {
        /// The batch.
        batch: BatchId,
        /// Key of the file.
        file: String,
        /// What the reader says.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A model's result cannot be read.
    #[error("model `{model}`: object `{key}` cannot be read")]
    Model {
        /// The model.
        model: String,
        /// Key of the object.
        key: String,
        /// What the reader says.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A model's result holds a value that the warehouse cannot hold.
    #[error("model `{model}` cannot be loaded into `{table}`: object `{key}`")]
    ModelCell {
        /// The model.
        model: String,
        /// The table.
        table: String,
        /// Key of the object.
        key: String,
        /// The column and the rule.
        #[source]
        source: Box<CellError>,
    },
    /// A model's result is not what the ledger says.
    #[error(
        "model `{model}`: object `{key}` gave {found} rows, the ledger says {expected}; nothing was loaded"
    )]
    ModelRows {
        /// The model.
        model: String,
        /// Key of the object.
        key: String,
        /// Rows loaded.
        found: u64,
        /// Rows written.
        expected: u64,
    },
    /// What the load ledger holds is another batch of the same name.
    #[error(
        "batch {batch} of pipeline `{pipeline}` was loaded from a manifest with digest {loaded}, the lake's has {committed}: \
         the warehouse belongs to another lake; nothing is loaded until `warehouse.table` or the load ledger is put right"
    )]
    Digest {
        /// The pipeline.
        pipeline: String,
        /// The batch.
        batch: BatchId,
        /// In the load ledger.
        loaded: String,
        /// In the lake.
        committed: String,
    },
    /// A manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] CommitError),
    /// The lake.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// A decision about a held batch cannot be read.
    #[error("the decision `{key}` is damaged")]
    Decision {
        /// Its key.
        key: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A decision that makes no sense.
    #[error("batch {batch} {problem}")]
    Undecidable {
        /// The batch.
        batch: BatchId,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

fn lines(faults: &[TableFault]) -> String {
    let lines: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
    lines.join("\n")
}

impl HandoffError {
    /// Whether trying again may help without anybody's doing.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Silent { .. } | Self::Lake(_) => true,
            Self::Refused { refusal, .. } => refusal.is_passing(),
            Self::Api { source, .. } | Self::Login { source, .. } => source.is_passing,
            // The store may have failed; a file that is damaged stays so, and costs a try now and then.
            Self::File { .. } | Self::Model { .. } => true,
            Self::Manifest(error) => matches!(error, CommitError::Lake(_)),
            Self::Dsn
            | Self::Tls(_)
            | Self::Table { .. }
            | Self::Cell { .. }
            | Self::Copy { .. }
            | Self::Stray { .. }
            | Self::Rows { .. }
            | Self::Count { .. }
            | Self::ModelCell { .. }
            | Self::ModelRows { .. }
            | Self::Digest { .. }
            | Self::Decision { .. }
            | Self::Undecidable { .. } => false,
        }
    }

    /// Whether who we say we are is not let in.
    pub(super) fn is_login_refused(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. } if refusal.kind() == "credentials")
    }

    /// Whether another transaction held a lock for longer than we wait.
    pub(super) fn is_lock_timeout(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. } if refusal.is_lock_timeout())
    }

    /// Its kind, for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connection { .. } | Self::Silent { .. } | Self::Tls(_) => "connection",
            Self::Api { source, .. } | Self::Login { source, .. } => source.kind(),
            Self::Refused { refusal, .. } => refusal.kind(),
            Self::Table { .. } | Self::Stray { .. } => "table",
            Self::Copy { .. }
            | Self::Cell { .. }
            | Self::Rows { .. }
            | Self::Count { .. }
            | Self::ModelCell { .. }
            | Self::ModelRows { .. } => "data",
            Self::File { .. }
            | Self::Model { .. }
            | Self::Manifest(_)
            | Self::Lake(_)
            | Self::Decision { .. } => "lake",
            Self::Dsn | Self::Digest { .. } | Self::Undecidable { .. } => "configuration",
        }
    }

    /// The whole chain, on one line.
    #[must_use]
    pub fn text(&self) -> String {
        chain(self)
    }

    /// An error of the client library, for what was asked.
    pub(super) fn of(what: impl Into<String>, error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(answer) => Self::Refused {
                what: what.into(),
                refusal: Box::new(Refusal::of(answer)),
            },
            None => Self::Connection {
                what: "was lost",
                source: error,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: &str, message: &str) -> Refusal {
        Refusal {
            code: code.to_owned(),
            message: message.to_owned(),
            table: None,
            column: None,
        }
    }

    #[test]
    fn conflicts_and_outages_pass_and_the_rest_goes_to_a_person() {
        for (code, message) in [
            ("40001", "could not serialize access"),
            ("XX000", "1023: Serializable isolation violation on table"),
            ("57P01", "terminating connection due to administrator command"),
            ("53100", "could not extend file"),
        ] {
            assert!(refusal(code, message).is_passing(), "{code}");
        }
        for (code, message) in [
            ("42501", "permission denied"),
            ("XX000", "Spectrum Scan Error"),
            ("23502", "null value"),
        ] {
            assert!(!refusal(code, message).is_passing(), "{code}");
        }
    }

    #[test]
    fn a_refusal_names_table_and_column() {
        let refusal = Refusal {
            table: Some("events".to_owned()),
            column: Some("price".to_owned()),
            ..refusal("23502", "null value")
        };
        assert_eq!(
            refusal.to_string(),
            "null value (SQLSTATE 23502, table `events`, column `price`)"
        );
    }
}
