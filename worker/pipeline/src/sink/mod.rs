//! Parquet by date/hour/source, key index, quarantine: files, and one report that names them.
