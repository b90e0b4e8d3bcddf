//! Why Redshift would refuse to COPY a Parquet file, said before it is asked: Redshift itself rarely names the column.
//!
//! In: a file's bytes, and the table's columns where they are known. Out: every broken rule, with its column.
//!
//! | rule       | what COPY wants                                                                                  |
//! |------------|--------------------------------------------------------------------------------------------------|
//! | `format`   | a readable Parquet file                                                                          |
//! | `count`    | as many columns as the table's list has                                                          |
//! | `type`     | at each position a type that goes into the table's: names do not count                           |
//! | `storage`  | no unsigned numbers, times of day, intervals, nanoseconds, bare bytes, or decimals past 38 digits |
//! | `nested`   | lists and structs only into SUPER                                                                |
//! | `null`     | no null for a NOT NULL column                                                                    |
//! | `length`   | no text of more bytes than its VARCHAR has                                                       |
//!
//! The rules are those of Redshift's guide, "COPY from columnar data formats" and "Data types"; where it leaves a
//! conversion open, this is the stricter reading.

use std::fmt;

use arrow::array::{Array, AsArray};
use bytes::Bytes;
use millrace_pipeline::catalog::ddl::TableColumn;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::errors::ParquetError;
use parquet::schema::types::Type;

/// Bytes of the longest VARCHAR.
const VARCHAR_MAX: usize = 65_535;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFault {
    /// The rule's name in the table above.
    pub rule: &'static str,
    /// The file's column.
    pub column: Option<String>,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for CopyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some(column) => write!(f, "column `{column}`: {} ({})", self.problem, self.rule),
            None => write!(f, "{} ({})", self.problem, self.rule),
        }
    }
}

/// Every rule that a file breaks; with `table`, also those of loading it into these columns.
#[must_use]
pub fn preflight(file: &Bytes, table: Option<&[TableColumn]>) -> Vec<CopyFault> {
    match check(file, table) {
        Ok(faults) => faults,
        Err(error) => vec![CopyFault {
            rule: "format",
            column: None,
            problem: format!("it cannot be read as Parquet: {error}"),
        }],
    }
}

fn check(file: &Bytes, table: Option<&[TableColumn]>) -> Result<Vec<CopyFault>, ParquetError> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options)?;
    let fields = builder.parquet_schema().root_schema().get_fields().to_vec();
    let mut faults = Vec::new();
    if let Some(table) = table
        && table.len() != fields.len()
    {
        faults.push(CopyFault {
            rule: "count",
            column: None,
            problem: format!(
                "it has {} columns, the table's list has {}",
                fields.len(),
                table.len()
            ),
        });
    }
    for (place, field) in fields.iter().enumerate() {
        let mut fault = |rule, problem| {
            let column = Some(field.name().to_owned());
            faults.push(CopyFault {
                rule,
                column,
                problem,
            });
        };
        let kind = match stored(field) {
            Ok(kind) => kind,
            Err(problem) => {
                fault("storage", problem);
                continue;
            }
        };
        let Some(wanted) = table.and_then(|table| table.get(place)) else {
            continue;
        };
        if !kind.fits(&wanted.kind) {
            let rule = if kind == Kind::Nested { "nested" } else { "type" };
            let (is, name, into) = (kind.name(), &wanted.name, &wanted.kind);
            fault(
                rule,
                format!("it is {is}, and the column at its place is `{name}` {into}"),
            );
        }
    }
    faults.extend(values(file, table)?);
    Ok(faults)
}

/// What reading the values finds: nulls and lengths.
fn values(file: &Bytes, table: Option<&[TableColumn]>) -> Result<Vec<CopyFault>, ParquetError> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options)?;
    let names: Vec<String> = builder
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let mut nulls = vec![0; names.len()];
    let mut longest = vec![0; names.len()];
    for batch in builder.with_projection(ProjectionMask::all()).build()? {
        for (at, column) in batch?.columns().iter().enumerate() {
            nulls[at] += column.null_count();
            if let Some(texts) = column.as_string_opt::<i32>() {
                let most = texts.iter().flatten().map(str::len).max().unwrap_or(0);
                longest[at] = most.max(longest[at]);
            }
        }
    }
    let mut faults = Vec::new();
    for (at, name) in names.into_iter().enumerate() {
        let wanted = table.and_then(|table| table.get(at));
        if nulls[at] > 0 && wanted.is_some_and(|wanted| wanted.not_null) {
            faults.push(CopyFault {
                rule: "null",
                column: Some(name.clone()),
                problem: format!("it has {} nulls, and its column is NOT NULL", nulls[at]),
            });
        }
        let most = match wanted {
            Some(wanted) => varchar(&wanted.kind).unwrap_or(usize::MAX),
            None => VARCHAR_MAX,
        };
        if longest[at] > most {
            faults.push(CopyFault {
                rule: "length",
                column: Some(name),
                problem: format!("it holds a text of {} bytes, the most is {most}", longest[at]),
            });
        }
    }
    Ok(faults)
}

/// `n` of `VARCHAR(n)`.
fn varchar(kind: &str) -> Option<usize> {
    let inner = kind.to_uppercase();
    inner.strip_prefix("VARCHAR(")?.strip_suffix(')')?.parse().ok()
}

/// What a file's column holds, as COPY sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Int32,
    Int64,
    Float,
    Double,
    Decimal(i32, i32),
    Text,
    Date,
    Timestamp,
    Nested,
}

impl Kind {
    fn name(self) -> String {
        match self {
            Self::Bool => "a boolean".to_owned(),
            Self::Int32 => "a 32-bit integer".to_owned(),
            Self::Int64 => "a 64-bit integer".to_owned(),
            Self::Float => "a 32-bit float".to_owned(),
            Self::Double => "a 64-bit float".to_owned(),
            Self::Decimal(precision, scale) => format!("a decimal({precision},{scale})"),
            Self::Text => "text".to_owned(),
            Self::Date => "a date".to_owned(),
            Self::Timestamp => "a timestamp".to_owned(),
            Self::Nested => "nested".to_owned(),
        }
    }

    fn fits(self, column: &str) -> bool {
        let column = column.to_uppercase();
        match self {
            Self::Bool => column == "BOOLEAN",
            Self::Int32 => column == "INTEGER" || column == "SMALLINT",
            Self::Int64 => column == "BIGINT",
            Self::Float => column == "REAL",
            Self::Double => column == "DOUBLE PRECISION",
            Self::Decimal(precision, scale) => column == format!("DECIMAL({precision},{scale})"),
            // SUPER takes text as a scalar; JSON_PARSE makes a document of it.
            Self::Text => column.starts_with("VARCHAR(") || column == "SUPER",
            Self::Date => column == "DATE",
            Self::Timestamp => column == "TIMESTAMPTZ" || column == "TIMESTAMP",
            Self::Nested => column == "SUPER",
        }
    }
}

fn stored(field: &Type) -> Result<Kind, String> {
    if field.is_group() || field.get_basic_info().repetition() == Repetition::REPEATED {
        return Ok(Kind::Nested);
    }
    let info = field.get_basic_info();
    match (field.get_physical_type(), info.logical_type_ref()) {
        (_, Some(LogicalType::Decimal(decimal))) if decimal.precision > 38 => Err(format!(
            "decimals have 38 digits at most, not {}",
            decimal.precision
        )),
        (_, Some(LogicalType::Decimal(decimal))) => Ok(Kind::Decimal(decimal.precision, decimal.scale)),
        (_, Some(LogicalType::Integer(integer))) if !integer.is_signed => {
            Err("unsigned integers are not taken; store signed ones".to_owned())
        }
        (_, Some(LogicalType::Time(_))) => Err("times of day are not taken; store text".to_owned()),
        (_, Some(LogicalType::Timestamp(time))) if time.unit == TimeUnit::NANOS => {
            Err("nanoseconds are not taken; store microseconds".to_owned())
        }
        (Physical::INT64, Some(LogicalType::Timestamp(_))) | (Physical::INT96, _) => Ok(Kind::Timestamp),
        (Physical::INT32, Some(LogicalType::Date)) => Ok(Kind::Date),
        (Physical::BOOLEAN, _) => Ok(Kind::Bool),
        (Physical::INT32, _) => Ok(Kind::Int32),
        (Physical::INT64, _) => Ok(Kind::Int64),
        (Physical::FLOAT, _) => Ok(Kind::Float),
        (Physical::DOUBLE, _) => Ok(Kind::Double),
        (Physical::BYTE_ARRAY, Some(LogicalType::String | LogicalType::Json | LogicalType::Enum)) => {
            Ok(Kind::Text)
        }
        (Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY, _) => {
            Err("bytes that are not marked as text are not taken".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BinaryArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
        TimestampNanosecondArray, UInt32Array,
    };
    use arrow::datatypes::Int64Type;
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn file(columns: Vec<(&str, ArrayRef)>) -> Bytes {
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, array)| (name, array, true)),
        )
        .unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes.into()
    }

    fn column(name: &str, kind: &str, not_null: bool) -> TableColumn {
        TableColumn {
            name: name.to_owned(),
            kind: kind.to_owned(),
            not_null,
        }
    }

    fn ids() -> ArrayRef {
        Arc::new(StringArray::from(vec![Some("abc"), None]))
    }

    fn rules(file: &Bytes, table: &[TableColumn]) -> Vec<&'static str> {
        preflight(file, Some(table))
            .into_iter()
            .map(|fault| fault.rule)
            .collect()
    }

    #[test]
    fn a_file_that_fits_breaks_no_rule() {
        let table = [column("id", "VARCHAR(3)", false), column("n", "BIGINT", true)];
        let file = file(vec![("id", ids()), ("n", Arc::new(Int64Array::from(vec![1, 2])))]);
        assert_eq!(preflight(&file, Some(&table)), []);
        assert_eq!(preflight(&file, None), []);
    }

    #[test]
    fn each_rule_is_found_and_names_its_column() {
        let one = |array: ArrayRef| file(vec![("id", array)]);
        assert_eq!(rules(&Bytes::from_static(b"PAR1 not"), &[]), ["format"]);
        assert_eq!(rules(&one(ids()), &[]), ["count"]);
        let int32: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        assert_eq!(rules(&one(int32), &[column("id", "BIGINT", false)]), ["type"]);
        assert_eq!(rules(&one(ids()), &[column("id", "VARCHAR(9)", true)]), ["null"]);
        assert_eq!(
            rules(&one(ids()), &[column("id", "VARCHAR(2)", false)]),
            ["length"]
        );
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(
            1,
        )])]));
        assert_eq!(
            rules(&one(Arc::clone(&list)), &[column("id", "VARCHAR(9)", false)]),
            ["nested"]
        );
        assert_eq!(rules(&one(list), &[column("id", "SUPER", false)]), [""; 0]);
        let refused: [ArrayRef; 3] = [
            Arc::new(UInt32Array::from(vec![1])),
            Arc::new(TimestampNanosecondArray::from(vec![1])),
            Arc::new(BinaryArray::from(vec![b"x".as_slice()])),
        ];
        for array in refused {
            let faults = preflight(&one(array), None);
            assert_eq!(
                (faults[0].rule, faults[0].column.as_deref()),
                ("storage", Some("id"))
            );
        }
    }
}
