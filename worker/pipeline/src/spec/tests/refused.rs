//! Files that are refused: each rule by a change to a file that loads.

use super::*;

/// The one fault of the design's file after a change: `line: key: wrong | right`.
#[track_caller]
fn fault_after(from: &str, to: &str) -> String {
    let faults = faults_after(from, to);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    faults.into_iter().next().unwrap()
}

#[track_caller]
fn faults_after(from: &str, to: &str) -> Vec<String> {
    faults_of_change(DESIGN, from, to)
}

/// One test a rule: the change to the file, and what the fault must say.
macro_rules! refused {
    ($($name:ident: $from:literal => $to:literal, $($says:literal),+;)*) => {
        $(#[test] fn $name() {
            let fault = fault_after($from, $to);
            $(assert!(fault.contains($says), "{fault}");)+
        })*
    };
}

refused! {
    a_version_other_than_1_is_refused: "version: 1" => "version: 2", "1: version:", "`2`", "`version: 1`";
    a_name_that_fits_no_object_key_is_refused: "pipeline: github" => "pipeline: Git Hub", "2: pipeline:", "`Git Hub` is not a pipeline name";
    an_unknown_key_is_refused_with_the_nearest: "retention:" => "retnetion:", "29: retnetion:", "did you mean `retention`?";
    an_unknown_key_of_a_column_is_refused: "pii: name}" => "ppi: name}", "schema[2].ppi", "did you mean `pii`?";
    a_key_given_twice_is_refused: "limits:    {" => "limits:    {depth: 1, ", "limits.depth", "given twice, first on line 30";
    two_sources_are_refused: "  files: {path: events/, format: json}" => "  files: {path: events/, format: json}\n  kafka: {brokers: [a:1], topic: t, format: json}", "5: source.kafka", "both `files` and `kafka`";
    an_empty_source_is_refused: "  files: {path: events/, format: json}" => "  {}", "source", "none of `files`, `s3`, `kafka`";
    a_bucket_as_a_file_path_is_refused: "path: events/" => "path: \"s3://a/b\"", "source.files.path", "is a URL";
    a_broken_glob_is_refused: "path: events/" => "path: \"a[\"", "source.files.path", "not a glob";
    an_unknown_format_is_refused: "format: json}" => "format: jsn}", "source.files.format", "did you mean `json`?";
    a_column_given_twice_is_refused: "name: labels," => "name: price,", "schema[7].name", "a column already, in `schema[6]`";
    a_column_name_that_warehouses_fold_is_refused: "name: labels," => "name: allLabels,", "`all_labels`";
    a_hidden_column_name_is_refused: "name: labels," => "name: __labels,", "starts with `__`";
    a_column_called_like_a_partition_level_is_refused: "name: labels," => "name: hour,", "schema[7].name", "partition column", "event_hour";
    an_unknown_type_is_refused_with_what_is_meant: "type: int64," => "type: bigint,", "schema[5].type", "did you mean `int64`?";
    a_decimal_out_of_range_is_refused: "decimal(12,2)" => "decimal(50,2)", "schema[6].type", "1 to 38";
    from_and_sql_together_are_refused: "sql: \"actor LIKE" => "from: a, sql: \"actor LIKE", "schema[9].sql", "both `from` and `sql`";
    a_broken_path_is_refused: "from: repo.name" => "from: repo..name", "schema[3].from", "`repo..name` is not a path";
    text_that_yaml_reads_as_a_number_is_refused: "table: customers" => "table: 5", "enrich[0].from.postgres.table", "expected text, found `5`", "\"5\"";
    a_missing_key_is_refused: "name: labels, " => "", "schema[7].name", "`name` is missing";
    an_empty_value_is_refused: "limits:    {record_bytes: 1MiB, depth: 64}" => "limits:", "30: limits", "found nothing";
    an_unknown_class_is_refused: "pii: name}" => "pii: nmae}", "schema[2].pii", "did you mean `name`?";
    a_class_that_cannot_mask_the_type_is_refused: "type: list<string>}" => "type: list<string>, pii: id}", "schema[7].pii", "does not fit the type `list<string>`";
    a_strategy_that_does_not_fit_the_class_is_refused: "{email: redact}" => "{email: truncate}", "privacy.strategies.email", "does not fit the class `email`";
    an_unknown_strategy_is_refused: "{email: redact}" => "{email: redcat}", "did you mean `redact`?";
    privacy_without_a_hash_key_is_refused: ", hash_key: \"${env:MILLRACE_HASH_KEY}\"" => "", "privacy.hash_key", "`hash_key` is missing";
    personal_data_without_privacy_is_refused: "privacy:   {clear_in: [prod], hash_key: \"${env:MILLRACE_HASH_KEY}\", strategies: {email: redact}}" => "", "schema[2].pii", "no key to mask it";
    a_short_hash_key_is_refused: "${env:MILLRACE_HASH_KEY}" => "${env:SHORT}", "privacy.hash_key", "too short";
    a_missing_variable_is_refused_with_its_line: "${env:WAREHOUSE_DSN}" => "${env:NOT_SET}", "28: warehouse.redshift.dsn", "`NOT_SET` is not set";
    an_open_reference_is_refused: "events/" => "\"${env:A\"", "source.files.path", "not closed";
    a_reference_without_env_is_refused: "events/" => "\"${HOME}/events\"", "source.files.path", "${env:HOME}";
    a_version_of_an_unknown_column_is_refused: "repo: {from: repository.name}" => "rpeo: {from: repository.name}", "versions[0].columns.rpeo", "did you mean `repo`?";
    a_version_without_a_condition_is_refused: "when: {missing: id}" => "when: {}", "versions[0].when", "none of `missing`, `sql`";
    a_version_with_two_conditions_is_refused: "when: {missing: id}" => "when: {missing: id, sql: \"true\"}", "both `missing` and `sql`";
    a_version_of_a_looked_up_column_is_refused: "actor: {from: actor}" => "region: {from: actor}", "versions[0].columns.region", "looked up";
    a_lookup_by_an_unknown_column_is_refused: "key: {customer_id: id}" => "key: {customer: id}", "enrich[0].key.customer", "not a column";
    a_lookup_by_two_columns_is_refused: "key: {customer_id: id}" => "key: {customer_id: id, actor: a}", "exactly one column";
    a_lookup_over_a_column_with_a_value_is_refused: "add: {segment: segment" => "add: {repo: segment", "enrich[0].add.repo", "has a value already, in `schema[3]`";
    a_looked_up_list_is_refused: "{name: region,     type: string,    pii: id}" => "{name: region,     type: list<string>}", "schema[10].type", "no lookup gives a list", "`json` holds lists";
    a_dedup_key_that_is_looked_up_is_refused: "{key: event_id," => "{key: [event_id, region],", "dedup.key[1]", "another key when the table changes";
    an_alarm_that_always_sounds_is_refused: "max_age: 6h" => "max_age: 5m", "enrich[0].max_age", "`5m` is less than `refresh`";
    an_alarm_without_a_last_snapshot_is_refused: "max_age: 6h" => "max_age: 6h, on_down: wait", "enrich[0].max_age", "`on_down: wait`", "leave it out";
    an_unknown_way_of_being_down_is_refused: "max_age: 6h" => "on_down: weit", "enrich[0].on_down", "did you mean `wait`?";
    an_expression_over_what_is_looked_up_by_itself_is_refused: "type: int64,    from: 'payload.\"customer.id\"'}" => "type: int64,    sql: \"length(region)\"}", "schema[5].sql", "looked up by a key that is made here or below", "seen where its key is";
    a_share_above_1_is_refused: "minimum_clean: 0.995" => "minimum_clean: 99.5", "quality.minimum_clean", "`99.5` is not a share";
    a_suite_that_is_not_there_is_refused: "suites/github.json" => "suites/gone.json", "quality.suite", "cannot be read";
    a_suite_that_is_not_json_is_refused: "suites/github.json" => "not.json", "quality.suite", "is not JSON";
    json_that_is_no_suite_is_refused: "suites/github.json" => "no-suite.json", "no list `expectations`";
    an_expectation_without_a_type_is_refused: "suites/github.json" => "no-type.json", "`expectations[1]`";
    a_dedup_key_that_is_no_column_is_refused: "{key: event_id," => "{key: [evnet_id],", "dedup.key[0]", "did you mean `event_id`?";
    a_dedup_key_given_twice_is_refused: "{key: event_id," => "{key: [event_id, event_id],", "dedup.key[1]", "in the key already";
    a_partition_time_that_may_be_null_is_refused: "from: created_at, required: true" => "from: created_at", "partition.time", "`required: true` in `schema[1]`";
    a_partition_time_that_is_no_timestamp_is_refused: "type: timestamp," => "type: date,", "partition.time", "not a timestamp";
    a_masked_partition_time_is_refused: "from: created_at, required: true" => "from: created_at, required: true, pii: free_text", "partition.time", "personal data";
    a_partition_source_that_is_no_column_is_refused: "source: kind" => "source: knid", "partition.source", "did you mean `kind`?";
    a_partition_source_without_folder_names_is_refused: "source: kind" => "source: labels", "partition.source", "folder names";
    an_hour_without_its_date_is_refused: "[date, hour, source]" => "[hour, date, source]", "partition.by", "mixes the days";
    a_source_level_without_a_column_is_refused: ", source: kind" => "", "partition.by", "no column is named";
    a_source_column_without_its_level_is_refused: "[date, hour, source]" => "[date, hour]", "partition.source", "does not use";
    a_duration_without_a_unit_is_refused: "lateness: 2h" => "lateness: 2", "partition.lateness", "`2` has no unit";
    a_place_that_is_no_lake_is_refused: "\"./lake\"" => "\"gs://bucket\"", "lake.url", "not a place for a lake";
    an_endpoint_of_a_folder_is_refused: "\"./lake\"" => "\"./lake\", endpoint: \"http://a\"", "lake.endpoint", "for a bucket";
    credentials_in_an_endpoint_are_refused: "url: \"./lake\"" => "url: \"s3://bucket\", endpoint: \"http://u:p@a\"", "lake.endpoint", "not an endpoint";
    file_bytes_out_of_range_are_refused: "256MiB" => "1kB", "lake.file_bytes", "out of range";
    a_zstd_level_out_of_range_is_refused: "zstd(3)" => "zstd(23)", "lake.compression", "1 to 22";
    two_warehouses_are_refused: "warehouse: {" => "warehouse: {postgres: {dsn: a=b, table: a.b}, ", "warehouse.redshift", "both `postgres` and `redshift`";
    a_handoff_of_something_else_is_refused: "handoff:   job" => "handoff:   jobs", "31: handoff", "`jobs`", "did you mean `job`?";
    a_handoff_to_no_warehouse_is_refused: "warehouse: {redshift: {dsn: \"${env:WAREHOUSE_DSN}\", table: analytics.github, sort_key: [event_time], dist_key: actor, iam_role: default}}" => "# no warehouse", "31: handoff", "no `warehouse`";
    a_warehouse_table_without_a_schema_is_refused: "analytics.github" => "github", "warehouse.redshift.table", "`schema.table`";
    a_sort_key_that_is_no_column_is_refused: "sort_key: [event_time]" => "sort_key: [event_tmie]", "warehouse.redshift.sort_key[0]", "did you mean `event_time`?";
    a_distribution_key_of_a_super_column_is_refused: "dist_key: actor" => "dist_key: payload", "warehouse.redshift.dist_key", "SUPER";
    text_that_is_no_connection_string_is_refused: "${env:WAREHOUSE_DSN}" => "${env:NOT_A_DSN}", "warehouse.redshift.dsn", "not a connection string";
    two_ways_to_redshift_are_refused: "redshift: {" => "redshift: {data_api: {workgroup: a, database: dev}, ", "warehouse.redshift.data_api", "both `dsn` and `data_api`";
    no_way_to_redshift_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\", " => "", "warehouse.redshift", "none of `dsn`, `data_api`";
    a_data_api_of_nothing_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "data_api: {database: dev}", "warehouse.redshift.data_api", "none of `cluster`, `workgroup`";
    a_workgroups_user_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "data_api: {workgroup: a, database: dev, db_user: me}", "data_api.db_user", "is for a `cluster`";
    two_users_of_a_cluster_are_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "data_api: {cluster: a, database: dev, db_user: me, secret_arn: \"arn:aws:secretsmanager:r:1:secret:s\"}", "data_api.db_user", "one of them";
    what_is_no_secret_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "data_api: {cluster: a, database: dev, secret_arn: hunter2}", "data_api.secret_arn", "is not a secret";
    a_password_beside_iam_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "dsn: \"${env:WAREHOUSE_DSN}\", iam: {cluster: a}", "28: warehouse.redshift.iam", "both `iam` and a password", "`postgres://host:5439/dev`";
    a_user_beside_iam_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "dsn: \"host=h user=me dbname=dev\", iam: {cluster: a}", "warehouse.redshift.iam", "both `iam` and a user";
    iam_to_no_database_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "dsn: \"postgres://h:5439\", iam: {cluster: a}", "warehouse.redshift.iam", "`dsn` names none";
    iam_in_clear_text_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "dsn: \"postgres://h/dev?sslmode=disable\", iam: {cluster: a}", "warehouse.redshift.iam", "in clear text";
    iam_of_nothing_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "dsn: \"postgres://h/dev\", iam: {region: r}", "warehouse.redshift.iam", "none of `cluster`, `workgroup`";
    iam_of_two_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "dsn: \"postgres://h/dev\", iam: {cluster: a, workgroup: b}", "iam.workgroup", "both `cluster` and `workgroup`";
    a_workgroups_user_by_iam_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "dsn: \"postgres://h/dev\", iam: {workgroup: a, db_user: me}", "iam.db_user", "is for a `cluster`";
    an_unknown_key_of_iam_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "dsn: \"postgres://h/dev\", iam: {workgruop: a, workgroup: a}", "iam.workgruop", "did you mean `workgroup`?";
    iam_beside_the_data_api_is_refused: "dsn: \"${env:WAREHOUSE_DSN}\"" => "data_api: {cluster: a, database: dev}, iam: {cluster: a}", "warehouse.redshift.iam", "the Data API needs no login";
    a_quarantine_that_outlives_the_lake_is_refused: "quarantine: 30d" => "quarantine: 500d", "retention.quarantine", "longer than the lake's `400d`";
    keys_that_leave_before_the_lake_are_refused: "quarantine: 30d" => "keys: 399d", "29: retention.keys", "`399d` is shorter than the lake's `400d`";
    keys_that_leave_a_lake_that_stays_are_refused: "{lake: 400d, quarantine: 30d, warehouse: 90d}" => "{warehouse: 90d, keys: 800d}", "29: retention.keys", "there is no `retention.lake`";
    keys_that_leave_a_warehouse_that_stays_are_refused: "warehouse: 90d" => "keys: 800d", "29: retention.keys", "there is no `retention.warehouse`";
    a_lake_shorter_than_lateness_is_refused: "{lake: 400d, quarantine: 30d, warehouse: 90d}" => "{lake: 1h}", "retention.lake", "partition.lateness";
    a_record_limit_out_of_range_is_refused: "record_bytes: 1MiB" => "record_bytes: 2GiB", "limits.record_bytes", "out of range";
    a_depth_out_of_range_is_refused: "depth: 64" => "depth: 0", "limits.depth", "out of range";
    an_expression_that_does_not_plan_is_refused: "actor LIKE '%[bot]'" => "nonsense LIKE '%[bot]'", "schema[9].sql";
}

#[test]
fn text_that_is_no_yaml_gives_one_fault_with_its_line() {
    let faults = faults_after("version: 1", "version: [1");
    assert_eq!(faults.len(), 1);
    assert!(faults[0].contains("not YAML"), "{faults:?}");
}

#[test]
fn an_empty_file_is_refused() {
    for text in ["", "# nothing\n", "~", "[]", "text"] {
        assert!(!check(text).unwrap_err().faults.is_empty(), "{text}");
    }
}

#[test]
fn expressions_are_planned_although_another_section_has_a_fault() {
    let text = DESIGN
        .replace("actor LIKE", "nonsense LIKE")
        .replace("depth: 64", "depth: x");
    assert_eq!(check(&text).unwrap_err().faults.len(), 2);
}

/// A warehouse keeps nothing longer than the lake, so whoever breaks this breaks another rule too.
#[test]
fn keys_that_leave_before_the_warehouse_are_refused() {
    let to = "{lake: 20d, warehouse: 90d, keys: 30d}";
    let faults = faults_after("{lake: 400d, quarantine: 30d, warehouse: 90d}", to);
    let said = faults.iter().find(|fault| fault.contains("retention.keys"));
    let said = said.unwrap_or_else(|| panic!("{faults:#?}"));
    assert!(
        said.contains("`30d` is shorter than the warehouse's `90d`"),
        "{said}"
    );
}
