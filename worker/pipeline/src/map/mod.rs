//! The table's columns from decoded fields: paths, SQL expressions, versions.
