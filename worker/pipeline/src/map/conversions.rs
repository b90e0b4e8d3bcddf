//! Functions that migrations need and SQL lacks.

use datafusion::execution::SessionState;

/// Adds the functions to a session.
pub(super) fn register(_state: &mut SessionState) {}
