//! The rules of COPY from Parquet that the simulator holds to: from which page of Amazon's "Database Developer Guide" each one
//! is, and the test that fails when it is not held to. Where the guide leaves something open, the simulator refuses. Those of logins
//! by IAM stand in [`super::logins`], those of the Data API in [`super::data_api`].
//!
//! | rule                                                                        | page                                     | test |
//! |-----------------------------------------------------------------------------|------------------------------------------|------|
//! | FROM, IAM_ROLE, MANIFEST, FILLRECORD, ACCEPTINVCHARS, STATUPDATE, EXPLICIT_IDS, SERIALIZETOJSON and a column list are taken; REGION, MAXERROR, ACCEPTANYDATE and every option of text formats are refused | "COPY from columnar data formats" | `every_option_that_parquet_does_not_allow_is_refused` (statement.rs) |
//! | a COPY is by a role                                                         | "Authorization parameters"               | `a_copy_without_a_role_is_refused` (statement.rs) |
//! | an entry has `meta.content_length`                                          | "Using a manifest to specify data files" | `an_entry_without_a_length_is_refused` |
//! | ... and it is the file's                                                    | the same                                 | `an_entry_with_another_length_is_refused` |
//! | a mandatory file that is missing fails the load                             | the same                                 | `a_mandatory_file_that_is_missing_is_refused` |
//! | another one that is missing is left out: `mandatory` is false unless said   | the same                                 | `a_file_that_is_not_mandatory_may_be_missing` |
//! | the list is there                                                           | the same                                 | `a_list_that_is_missing_is_refused` |
//! | the bucket is one of the cluster's region that the role may read            | "COPY from columnar data formats"        | `another_bucket_is_refused` |
//! | as many columns in the file as are listed                                   | the same                                 | `another_number_of_columns_is_refused` |
//! | columns are taken by position, whatever their names                         | the same                                 | `columns_are_taken_by_position` |
//! | a column's type goes into its table column's                                | the same; "Data types"                   | `a_type_of_another_column_is_refused` |
//! | timestamps are of micro- or milliseconds                                    | the same                                 | `a_type_of_another_column_is_refused` |
//! | nested columns need SUPER and SERIALIZETOJSON                               | "Data format parameters"                 | `a_nested_column_needs_super_and_serializetojson` |
//! | no text is longer than its VARCHAR, in bytes                                | "Character types"                        | `a_text_longer_than_its_column_in_bytes_is_refused` |
//! | no null for NOT NULL                                                        | "Load error reference"                   | `a_null_for_not_null_is_refused` |
//! | one bad file fails the whole COPY, and its transaction                      | "COPY from columnar data formats"; "Loading data from Amazon S3" | `a_refused_copy_names_file_column_and_rule` (the coordinator's `handoff`, both ways) |
//! | conflicting transactions are told 1023 and rolled back                      | "Serializable isolation"                 | `a_lost_connection_or_a_conflict_loads_each_event_once` (the same) |
//! | LOCK makes writers wait for each other                                      | "LOCK"                                   | `two_loaders_at_once_take_turns` (the same) |
//! | keys are not enforced                                                       | "Define primary key and foreign key constraints" | `keys_are_not_enforced` |

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStore, ObjectStoreExt};

    use crate::redshift_sim::copy::{Buckets, Column, files, matches, text};
    use crate::redshift_sim::statement::{Copy, translate};

    /// What COPY makes of a list with this one entry; the bucket `b` holds `file` of 4 bytes.
    async fn listed(list: &str) -> Result<usize, String> {
        let store = InMemory::new();
        store.put(&Path::from("file"), "PAR1".into()).await.unwrap();
        store
            .put(&Path::from("list"), list.to_owned().into())
            .await
            .unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        let buckets: Buckets = HashMap::from([("b".to_owned(), store)]);
        let copy = Copy::parse("COPY t FROM 's3://b/list' IAM_ROLE default FORMAT AS PARQUET MANIFEST");
        let found = files(&copy.unwrap(), &buckets).await;
        found.map(|files| files.len()).map_err(|refused| refused.message)
    }

    #[tokio::test]
    async fn an_entry_without_a_length_is_refused() {
        for meta in ["", ", \"meta\": {}"] {
            let list = format!("{{\"entries\": [{{\"url\": \"s3://b/file\", \"mandatory\": true{meta}}}]}}");
            assert!(
                listed(&list)
                    .await
                    .unwrap_err()
                    .contains("needs meta.content_length")
            );
        }
    }

    #[tokio::test]
    async fn an_entry_with_another_length_is_refused() {
        let list =
            r#"{"entries": [{"url": "s3://b/file", "mandatory": true, "meta": {"content_length": 5}}]}"#;
        let refused = listed(list).await.unwrap_err();
        assert!(
            refused.contains("content_length is 5, the file has 4"),
            "{refused}"
        );
        assert_eq!(listed(&list.replace('5', "4")).await, Ok(1));
    }

    #[tokio::test]
    async fn a_mandatory_file_that_is_missing_is_refused() {
        let list =
            r#"{"entries": [{"url": "s3://b/gone", "mandatory": true, "meta": {"content_length": 4}}]}"#;
        assert!(
            listed(list)
                .await
                .unwrap_err()
                .contains("mandatory file does not exist")
        );
    }

    #[tokio::test]
    async fn a_file_that_is_not_mandatory_may_be_missing() {
        for mandatory in ["", "\"mandatory\": false, "] {
            let entry =
                format!("{{{mandatory}\"url\": \"s3://b/gone\", \"meta\": {{\"content_length\": 4}}}}");
            assert_eq!(listed(&format!("{{\"entries\": [{entry}]}}")).await, Ok(0));
        }
    }

    #[tokio::test]
    async fn a_list_that_is_missing_is_refused() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let buckets: Buckets = HashMap::from([("b".to_owned(), store)]);
        let copy =
            Copy::parse("COPY t FROM 's3://b/list' IAM_ROLE default FORMAT AS PARQUET MANIFEST").unwrap();
        let refused = files(&copy, &buckets).await.unwrap_err();
        assert!(refused.message.contains("does not exist"), "{refused}");
    }

    #[tokio::test]
    async fn another_bucket_is_refused() {
        let list =
            r#"{"entries": [{"url": "s3://other/file", "mandatory": true, "meta": {"content_length": 4}}]}"#;
        assert!(listed(list).await.unwrap_err().contains("access denied"));
    }

    fn column(name: &str, kind: &str, not_null: bool) -> Column {
        Column {
            name: name.to_owned(),
            kind: kind.to_owned(),
            not_null,
        }
    }

    fn fields<const N: usize>(all: [(&str, DataType); N]) -> Fields {
        let field = |(name, kind): (&str, DataType)| Field::new(name, kind, true);
        all.into_iter().map(field).collect()
    }

    #[test]
    fn another_number_of_columns_is_refused() {
        let table = [column("a", "integer", false), column("b", "integer", false)];
        let refused = matches(&fields([("a", DataType::Int32)]), &table, false).unwrap_err();
        assert!(refused.contains("unmatched number of columns: 1 in the file, 2 listed"));
    }

    #[test]
    fn columns_are_taken_by_position() {
        let table = [column("a", "integer", false), column("b", "date", false)];
        let by_place = fields([("b", DataType::Int32), ("a", DataType::Date32)]);
        assert_eq!(matches(&by_place, &table, false), Ok(()));
        let by_name = fields([("b", DataType::Date32), ("a", DataType::Int32)]);
        assert!(
            matches(&by_name, &table, false)
                .unwrap_err()
                .contains("column 'a'")
        );
    }

    #[test]
    fn a_type_of_another_column_is_refused() {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let good = [
            (DataType::Boolean, "boolean"),
            (DataType::Int32, "integer"),
            (DataType::Int64, "bigint"),
            (DataType::Float64, "double precision"),
            (DataType::Decimal128(12, 2), "numeric(12,2)"),
            (DataType::Utf8, "character varying(10)"),
            (DataType::Date32, "date"),
            (micros, "timestamp without time zone"),
        ];
        for (found, kind) in good {
            let one = fields([("c", found.clone())]);
            assert_eq!(
                matches(&one, &[column("c", kind, false)], false),
                Ok(()),
                "{found}"
            );
        }
        let bad = [
            (DataType::Int64, "integer"),
            (DataType::Int32, "bigint"),
            (DataType::UInt32, "bigint"),
            (DataType::Float32, "double precision"),
            (DataType::Decimal128(12, 2), "numeric(12,3)"),
            (DataType::Utf8, "date"),
            (DataType::Binary, "character varying(10)"),
            (nanos, "timestamp without time zone"),
        ];
        for (found, kind) in bad {
            let one = fields([("c", found.clone())]);
            let refused = matches(&one, &[column("c", kind, false)], true).unwrap_err();
            assert!(
                refused.contains("incompatible Parquet schema for column 'c'"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_nested_column_needs_super_and_serializetojson() {
        let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let one = fields([("tags", list)]);
        assert_eq!(matches(&one, &[column("tags", "jsonb", false)], true), Ok(()));
        assert!(matches(&one, &[column("tags", "jsonb", false)], false).is_err());
        assert!(matches(&one, &[column("tags", "character varying(10)", false)], true).is_err());
    }

    fn texts(values: Vec<Option<&str>>) -> RecordBatch {
        let array: ArrayRef = Arc::new(StringArray::from(values));
        RecordBatch::try_from_iter([("c", array)]).unwrap()
    }

    #[test]
    fn a_text_longer_than_its_column_in_bytes_is_refused() {
        let table = [column("c", "character varying(4)", false)];
        assert_eq!(text(&texts(vec![Some("éé")]), &table).unwrap(), "éé\n");
        let refused = text(&texts(vec![Some("ééa")]), &table).unwrap_err();
        assert!(
            refused.contains("'c' is longer than the table's: 5 > 4"),
            "{refused}"
        );
    }

    #[test]
    fn a_null_for_not_null_is_refused() {
        let kind = "character varying(4)";
        let nulls = texts(vec![None]);
        assert_eq!(text(&nulls, &[column("c", kind, false)]).unwrap(), "\\N\n");
        let refused = text(&nulls, &[column("c", kind, true)]).unwrap_err();
        assert!(refused.contains("column 'c' is NOT NULL"), "{refused}");
    }

    #[test]
    fn keys_are_not_enforced() {
        let sql = translate("CREATE TABLE t (a INT,\n    PRIMARY KEY (a)\n)", 0).unwrap();
        assert!(!sql.contains("PRIMARY KEY"), "{sql}");
    }
}
