//! How Redshift is to encode each column: by its type, its place in the sort key, and what the lake's files say of its values.
//!
//! In: the pipeline, figures of stored values where there are any. Out: an encoding for each column, and why.
//!
//! | a column...                                                         | encoding   |
//! |---------------------------------------------------------------------|------------|
//! | the first one of the sort key                                       | `raw`: blocks are skipped without being unpacked |
//! | text of at most 256 values, each of 1 KiB at most on average         | `bytedict`: a block's dictionary holds 256, and scans compare numbers |
//! | the hour                                                            | the same   |
//! | integers, decimals, dates, times                                    | `az64`     |
//! | all others                                                          | `zstd`     |
//!
//! What fewer than 10,000 values say is not believed: any column has few values then.

use std::collections::BTreeMap;

use super::ddl::{encoding, partition_column};
use crate::spec::model::{ColumnType, PartitionLevel, Pipeline};

/// Values from which on figures are believed.
const VALUES_MIN: u64 = 10_000;
/// Values in the dictionary of one of Redshift's blocks.
const DICTIONARY_VALUES: u64 = 256;
/// Bytes of a value, on average, from which on 256 of them fill a quarter of a block of 1 MB.
const VALUE_BYTES_MAX: u64 = 1_024;

/// What stored files say of a column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Rows that were looked at.
    pub rows: u64,
    /// Those of them without a value.
    pub nulls: u64,
    /// Bytes of the column before compression.
    pub bytes: u64,
    /// Values that differ, where dictionaries tell.
    pub distinct: Option<Distinct>,
}

/// Values that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distinct {
    /// At most so many.
    pub values: u64,
    /// Their bytes together.
    pub bytes: u64,
}

/// What stored files say of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Files that were looked at.
    pub files: u64,
    /// By column.
    pub columns: BTreeMap<String, Figures>,
}

/// A column's encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// The column.
    pub column: String,
    /// As `ENCODE` takes it.
    pub name: &'static str,
    /// The reason, where there is one beyond the type.
    pub why: String,
}

/// Every column's, in the order of the table.
pub(super) fn choose(pipeline: &Pipeline, sort_key: &[String], known: &Statistics) -> Vec<Encoding> {
    let first = sort_key.first();
    let declared = pipeline.columns.iter().map(|column| {
        let (name, why) = if first == Some(&column.name) {
            let why = "the first sort key column decides which blocks are read";
            ("raw", why.to_owned())
        } else {
            by_figures(&column.kind, known.columns.get(&column.name), known.files)
        };
        Encoding {
            column: column.name.clone(),
            name,
            why,
        }
    });
    let levels = pipeline.partition.by.iter().map(|level| {
        let column = partition_column(*level).0.to_owned();
        let (name, why) = match level {
            PartitionLevel::Date => ("az64", String::new()),
            PartitionLevel::Hour => ("bytedict", "an hour is one of 24".to_owned()),
            PartitionLevel::Source => {
                by_figures(&ColumnType::String, known.columns.get(&column), known.files)
            }
        };
        Encoding { column, name, why }
    });
    declared.chain(levels).collect()
}

fn by_figures(kind: &ColumnType, figures: Option<&Figures>, files: u64) -> (&'static str, String) {
    let Some(figures) = figures.filter(|figures| figures.rows - figures.nulls >= VALUES_MIN) else {
        return (encoding(kind), String::new());
    };
    let is_few = figures.distinct.is_some_and(|distinct| {
        distinct.values <= DICTIONARY_VALUES && distinct.bytes <= distinct.values * VALUE_BYTES_MAX
    });
    let name = match kind {
        ColumnType::String if is_few => "bytedict",
        ColumnType::String
        | ColumnType::Bool
        | ColumnType::Int32
        | ColumnType::Int64
        | ColumnType::Float64
        | ColumnType::Decimal(..)
        | ColumnType::Date
        | ColumnType::Timestamp
        | ColumnType::Json
        | ColumnType::List(_) => encoding(kind),
    };
    (name, told(kind, figures, files))
}

/// The figures in a sentence.
fn told(kind: &ColumnType, figures: &Figures, files: u64) -> String {
    let Figures {
        rows, nulls, bytes, ..
    } = *figures;
    let values = match (kind, figures.distinct) {
        (ColumnType::String, Some(distinct)) => format!(
            "at most {} values of {} bytes",
            distinct.values,
            distinct.bytes / distinct.values.max(1)
        ),
        (ColumnType::String, None) => "more values than a dictionary holds".to_owned(),
        (_, _) => format!("{:.1} bytes a value", bytes as f64 / (rows - nulls).max(1) as f64),
    };
    let share = (nulls > 0).then(|| format!(", {:.1} % null", 100.0 * nulls as f64 / rows.max(1) as f64));
    let share = share.unwrap_or_default();
    format!("{values}{share} in {rows} rows of {files} files")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rows: u64, nulls: u64, distinct: Option<(u64, u64)>) -> Figures {
        Figures {
            rows,
            nulls,
            bytes: rows * 8,
            distinct: distinct.map(|(values, bytes)| Distinct { values, bytes }),
        }
    }

    fn chosen(kind: &ColumnType, figures: Figures) -> &'static str {
        by_figures(kind, Some(&figures), 3).0
    }

    #[test]
    fn few_values_of_text_get_a_dictionary_and_few_rows_are_not_believed() {
        let text = ColumnType::String;
        assert_eq!(
            chosen(&text, figures(10_000, 0, Some((256, 256_000)))),
            "bytedict"
        );
        assert_eq!(chosen(&text, figures(10_000, 0, Some((257, 2_570)))), "zstd");
        assert_eq!(chosen(&text, figures(10_000, 0, Some((2, 2_049)))), "zstd");
        assert_eq!(chosen(&text, figures(10_000, 0, None)), "zstd");
        assert_eq!(chosen(&text, figures(10_000, 1, Some((2, 20)))), "zstd");
        assert_eq!(
            chosen(&ColumnType::Json, figures(10_000, 0, Some((2, 20)))),
            "zstd"
        );
        assert_eq!(chosen(&ColumnType::Int64, figures(10_000, 0, None)), "az64");
        assert_eq!(by_figures(&text, None, 3), ("zstd", String::new()));
    }

    #[test]
    fn the_reason_tells_the_figures() {
        let (_, why) = by_figures(&ColumnType::String, Some(&figures(20_000, 500, Some((7, 63)))), 3);
        assert_eq!(
            why,
            "at most 7 values of 9 bytes, 2.5 % null in 20000 rows of 3 files"
        );
        let (_, why) = by_figures(&ColumnType::Int64, Some(&figures(20_000, 0, None)), 3);
        assert_eq!(why, "8.0 bytes a value in 20000 rows of 3 files");
    }
}
