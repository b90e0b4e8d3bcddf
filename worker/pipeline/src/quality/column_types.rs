//! Names of types: what a suite may call a column's type.
//!
//! A column is observed under the name that pandas gives it. Suites also name types as Python, NumPy,
//! Spark, SQL and Arrow do, so a suite that was made on another engine of Great Expectations keeps its meaning.

use arrow::datatypes::DataType;

/// The type's name in results.
pub(super) fn observed(kind: &DataType) -> &'static str {
    match kind {
        DataType::Utf8View => "str",
        DataType::Boolean => "bool",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::Float64 => "float64",
        DataType::Decimal128(_, _) => "Decimal",
        DataType::Date32 => "date",
        DataType::Timestamp(_, _) => "Timestamp",
        DataType::List(_) => "list",
        _ => "object_",
    }
}

/// Whether a column of this type may be called so. Upper case, for SQL, counts as lower case; a length or
/// precision in parentheses is not looked at.
pub(super) fn is(kind: &DataType, name: &str) -> bool {
    let base = name.split('(').next().unwrap_or_default().trim();
    let accepted: &[&str] = match kind {
        DataType::Utf8View => &[
            "str",
            "string",
            "string_types",
            "StringDtype",
            "StringType",
            "varchar",
            "text",
            "char",
            "character varying",
            "utf8",
            "large_utf8",
            "utf8view",
        ],
        DataType::Boolean => &["bool", "bool_", "boolean", "BooleanType", "BooleanDtype"],
        DataType::Int32 => &["int32", "i4", "intc", "integer", "IntegerType", "Int32Dtype"],
        DataType::Int64 => &[
            "int64",
            "i8",
            "int",
            "int_",
            "long",
            "bigint",
            "LongType",
            "Int64Dtype",
        ],
        DataType::Float64 => &[
            "float64",
            "f8",
            "float",
            "float_",
            "double",
            "double precision",
            "DoubleType",
            "Float64Dtype",
        ],
        DataType::Decimal128(_, _) => &["decimal", "numeric", "DecimalType", "decimal128"],
        DataType::Date32 => &["date", "DateType", "date32"],
        DataType::Timestamp(_, _) => &[
            "Timestamp",
            "timestamptz",
            "timestamp with time zone",
            "TimestampType",
            "datetime64",
            "datetime",
        ],
        DataType::List(_) => &["list", "ArrayType", "array", "super"],
        _ => &[],
    };
    accepted
        .iter()
        .any(|accepted| accepted.eq_ignore_ascii_case(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_answers_to_its_names_on_every_engine() {
        for name in ["str", "VARCHAR(20)", "StringType"] {
            assert!(is(&DataType::Utf8View, name), "{name}");
        }
        assert!(is(&DataType::Float64, "float64") && !is(&DataType::Float64, "int64"));
        assert_eq!(observed(&DataType::Int64), "int64");
    }
}
