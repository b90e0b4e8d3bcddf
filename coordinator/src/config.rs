//! The coordinator's configuration file.
