//! The data plane: an executor that follows the leader, drains and reports.
