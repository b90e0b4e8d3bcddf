//! A lake as its manifests tell it: what no manifest names does not exist, and what one replaces no longer does.
//!
//! In: `manifests/*.json` and the Parquet files they name. Out: event ids and rejects. The structures here
//! are written from the format's description, not shared with the writer.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde::Deserialize;

/// A manifest, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Manifest {
    files: Vec<DataFile>,
    quarantine: Vec<Object>,
    #[serde(default)]
    replaces: Replaces,
}

/// What a compaction's files stand for.
#[derive(Debug, Default, Deserialize)]
struct Replaces {
    #[serde(default)]
    files: Vec<DataFile>,
}

/// A file of events.
#[derive(Debug, Clone, Deserialize)]
pub struct DataFile {
    /// The object.
    pub object: Object,
    /// Partition columns and values, in path order.
    pub partition: Vec<(String, String)>,
}

/// An object of the lake.
#[derive(Debug, Clone, Deserialize)]
pub struct Object {
    /// Key below the lake's root.
    pub key: String,
    /// Rows that it is said to hold.
    pub rows: u64,
}

/// A quarantined record: where it came from and why it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// URL of the input object.
    pub object: String,
    /// Offset of its first byte.
    pub offset: u64,
    /// Kinds of its faults, as the reasons name them.
    pub faults: Vec<String>,
}

/// Why a lake could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// A file or folder is not there or not readable.
    #[error("could not read `{path}`", path = path.display())]
    Read {
        /// Path.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Not a manifest.
    #[error("`{path}` is not a manifest", path = path.display())]
    Manifest {
        /// Path.
        path: PathBuf,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// Not Parquet, or damaged.
    #[error("`{path}` is not readable as Parquet", path = path.display())]
    Parquet {
        /// Path.
        path: PathBuf,
        /// Cause.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A row group is damaged.
    #[error("`{path}` has rows that do not decode", path = path.display())]
    Rows {
        /// Path.
        path: PathBuf,
        /// Cause.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// A column is missing or of another type.
    #[error("`{path}` has no column `{column}` of type {expected}", path = path.display())]
    Column {
        /// Path.
        path: PathBuf,
        /// Column.
        column: &'static str,
        /// Its type as it should be.
        expected: &'static str,
    },
}

/// What the manifests name.
#[derive(Debug)]
pub struct Lake {
    root: PathBuf,
    /// Files of events.
    pub data: Vec<DataFile>,
    /// Files of rejects.
    pub quarantine: Vec<Object>,
    /// Manifests read.
    pub manifests: usize,
}

impl Lake {
    /// Reads the manifests below `root`.
    ///
    /// # Errors
    /// When there is no folder of manifests or one of them is damaged.
    pub fn open(root: &Path) -> Result<Self, LakeError> {
        let folder = root.join("manifests");
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| LakeError::Read { path, source }
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(read(&folder))? {
            let path = entry.map_err(read(&folder))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut lake = Self {
            root: root.to_owned(),
            data: Vec::new(),
            quarantine: Vec::new(),
            manifests: paths.len(),
        };
        let mut replaced = HashSet::new();
        for path in paths {
            let text = std::fs::read(&path).map_err(read(&path))?;
            let manifest: Manifest =
                serde_json::from_slice(&text).map_err(|source| LakeError::Manifest { path, source })?;
            lake.data.extend(manifest.files);
            lake.quarantine.extend(manifest.quarantine);
            replaced.extend(manifest.replaces.files.into_iter().map(|file| file.object.key));
        }
        lake.data.retain(|file| !replaced.contains(&file.object.key));
        Ok(lake)
    }

    /// Calls `each` with the event id of every row of a data file: none if it is no UUID.
    ///
    /// # Errors
    /// When the file is missing, damaged or has no such column.
    pub fn for_each_id(&self, file: &DataFile, mut each: impl FnMut(Option<u128>)) -> Result<u64, LakeError> {
        let path = self.root.join(&file.object.key);
        let mut rows = 0;
        scan(&path, &["event_id"], |batch| {
            let ids = batch
                .column(0)
                .as_string_opt::<i32>()
                .ok_or_else(|| wrong(&path, "event_id", "string"))?;
            rows += ids.len() as u64;
            for id in ids {
                each(id.and_then(uuid));
            }
            Ok(())
        })?;
        Ok(rows)
    }

    /// The rejects of a quarantine file.
    ///
    /// # Errors
    /// When the file is missing, damaged or of another shape.
    pub fn rejects(&self, file: &Object) -> Result<Vec<Reject>, LakeError> {
        let path = self.root.join(&file.key);
        let mut rejects = Vec::new();
        scan(&path, &["object", "offset", "reasons"], |batch| {
            let text = |name| {
                let column = batch
                    .column_by_name(name)
                    .and_then(|column| column.as_string_opt::<i32>());
                column.ok_or_else(|| wrong(&path, name, "string"))
            };
            let (objects, reasons) = (text("object")?, text("reasons")?);
            let offsets = batch
                .column_by_name("offset")
                .and_then(|column| column.as_primitive_opt::<UInt64Type>());
            let offsets = offsets.ok_or_else(|| wrong(&path, "offset", "uint64"))?;
            for row in 0..batch.num_rows() {
                rejects.push(Reject {
                    object: objects.value(row).to_owned(),
                    offset: offsets.value(row),
                    faults: fault_kinds(reasons.value(row)),
                });
            }
            Ok(())
        })?;
        Ok(rejects)
    }
}

/// Calls `each` with batches of just these columns. The writer's Arrow types are left aside: what counts is
/// what any Parquet reader sees.
fn scan(
    path: &Path,
    columns: &[&'static str],
    mut each: impl FnMut(&RecordBatch) -> Result<(), LakeError>,
) -> Result<(), LakeError> {
    let file = File::open(path).map_err(|source| LakeError::Read {
        path: path.to_owned(),
        source,
    })?;
    let damaged = |source| LakeError::Parquet {
        path: path.to_owned(),
        source,
    };
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(damaged)?;
    for column in columns {
        if builder.schema().field_with_name(column).is_err() {
            return Err(wrong(path, column, "any type"));
        }
    }
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    let reader = builder
        .with_projection(mask)
        .with_batch_size(16_384)
        .build()
        .map_err(damaged)?;
    for batch in reader {
        each(&batch.map_err(|source| LakeError::Rows {
            path: path.to_owned(),
            source,
        })?)?;
    }
    Ok(())
}

fn wrong(path: &Path, column: &'static str, expected: &'static str) -> LakeError {
    LakeError::Column {
        path: path.to_owned(),
        column,
        expected,
    }
}

/// The number that a UUID's text stands for.
fn uuid(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 || [8, 13, 18, 23].iter().any(|&place| bytes[place] != b'-') {
        return None;
    }
    let mut id = 0;
    for (place, &byte) in bytes.iter().enumerate() {
        if !matches!(place, 8 | 13 | 18 | 23) {
            id = id << 4 | u128::from(char::from(byte).to_digit(16)?);
        }
    }
    Some(id)
}

fn fault_kinds(reasons: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Fault {
        kind: String,
    }
    match serde_json::from_str::<Vec<Fault>>(reasons) {
        Ok(faults) => faults.into_iter().map(|fault| fault.kind).collect(),
        Err(_) => vec!["unreadable".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_strictly() {
        assert_eq!(
            uuid("00000000-0000-4000-8000-0000000000ff"),
            Some((4 << 76) | (8 << 60) | 0xff)
        );
        for bad in [
            "",
            "00000000-0000-4000-8000-0000000000f",
            "00000000_0000-4000-8000-0000000000ff",
            "é",
        ] {
            assert_eq!(uuid(bad), None, "{bad}");
        }
    }
}
