//! What every way to a warehouse can do: run statements, and give the rows of a query.

use super::HandoffError;

/// A row as texts; a null is the empty text.
pub(super) type Row = Vec<String>;

/// A way to a warehouse; `what` completes "the warehouse refused to".
pub(super) trait Ask: Sync {
    /// The rows of a query.
    fn rows(&self, what: &str, sql: &str) -> impl Future<Output = Result<Vec<Row>, HandoffError>> + Send;

    /// Runs statements.
    fn run(&self, what: &str, sql: &str) -> impl Future<Output = Result<(), HandoffError>> + Send;
}

/// A column of a row.
pub(super) fn field(row: &Row, at: usize) -> &str {
    row.get(at).map(String::as_str).unwrap_or_default()
}
