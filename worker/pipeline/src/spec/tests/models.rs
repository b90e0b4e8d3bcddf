//! Models: what loads, and every fault by a change to a file that loads.

use super::*;
use crate::spec::marts::Every;
use crate::spec::model::ColumnType;

const MODELS: &str = r#"version: 1
pipeline: shop
source: {files: {path: events/, format: json}}
schema:
  - {name: event_time, type: timestamp, required: true}
  - {name: user_id, type: int64}
  - {name: price, type: "decimal(12,2)"}
partition: {time: event_time, by: [date, hour]}
lake: {url: ./lake}
warehouse: {postgres: {dsn: "${env:DSN}", table: analytics.shop}}
models:
  - name: weekly
    every: day
    look_back: 6d
    timeout: 30m
    sql: "SELECT sum(buyers) AS buyers, max(period) AS newest FROM models.daily"
  - name: daily
    every: day
    sql: |
      SELECT hour, count(DISTINCT user_id) AS buyers, sum(price) AS revenue
      FROM shop
      WHERE event_time >= $start
      GROUP BY hour
    description: "Buyers by hour"
    columns: {buyers: "Who bought"}
    warehouse: {table: analytics.daily}
  - name: hourly
    every: hour
    sql: "SELECT count(*) AS n FROM events"
"#;

#[test]
fn models_stand_behind_what_they_read_with_the_columns_that_they_give() {
    let pipeline = check(MODELS).unwrap_or_else(|report| panic!("{report}"));
    let names: Vec<&str> = pipeline.marts.iter().map(|mart| mart.name.as_str()).collect();
    assert_eq!(names, ["daily", "weekly", "hourly"]);
    let daily = &pipeline.marts[0];
    let columns: Vec<(&str, &ColumnType)> = daily
        .columns
        .iter()
        .map(|column| (column.name.as_str(), &column.kind))
        .collect();
    assert_eq!(
        columns,
        [
            ("hour", &ColumnType::Int32),
            ("buyers", &ColumnType::Int64),
            ("revenue", &ColumnType::Decimal(22, 2))
        ]
    );
    assert_eq!(daily.columns[1].description.as_deref(), Some("Who bought"));
    assert_eq!(daily.table.as_deref(), Some("analytics.daily"));
    assert!(daily.reads_events && daily.uses.is_empty());
    let weekly = &pipeline.marts[1];
    assert!(weekly.uses.contains("daily") && !weekly.reads_events);
    assert_eq!((weekly.every, weekly.look_back_hours), (Every::Day, 144));
    assert_eq!((weekly.timeout_seconds, daily.timeout_seconds), (1_800, 7_200));
    assert_eq!(weekly.columns[1].kind, ColumnType::Timestamp);
}

/// On the small stack of a thread that serves calls.
#[test]
fn the_shops_models_load() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../client/examples/shop");
    let text = std::fs::read_to_string(folder.join("models.yaml")).unwrap();
    let read = |path: &Path| std::fs::read_to_string(path);
    let pipeline = load(&text, "models.yaml", &folder.canonicalize().unwrap(), &env, &read);
    let pipeline = pipeline.unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(pipeline.marts.len(), 6);
}

#[test]
fn a_model_is_another_one_when_what_it_reads_is() {
    let digests = |text: &str| -> Vec<String> {
        let pipeline = check(text).unwrap_or_else(|report| panic!("{report}"));
        pipeline.marts.into_iter().map(|mart| mart.digest).collect()
    };
    let (before, after) = (
        digests(MODELS),
        digests(
            &MODELS
                .replace("sum(price)", "max(price)")
                .replace("every: hour", "every: hour\n    timeout: 1h"),
        ),
    );
    let same: Vec<bool> = before.iter().zip(&after).map(|(a, b)| a == b).collect();
    assert_eq!(same, [false, false, true], "daily, weekly, hourly");
}

/// The faults after a change: `line: key: wrong | right`.
#[track_caller]
fn faults_after(from: &str, to: &str) -> Vec<String> {
    faults_of_change(MODELS, from, to)
}

/// One test a rule: the change to the file, and what the one fault must say.
macro_rules! refused {
    ($($name:ident: $from:literal => $to:literal, $($says:literal),+;)*) => {
        $(#[test] fn $name() {
            let faults = faults_after($from, $to);
            assert_eq!(faults.len(), 1, "{faults:#?}");
            $(assert!(faults[0].contains($says), "{}", faults[0]);)+
        })*
    };
}

refused! {
    an_unknown_column_is_refused_with_what_is_meant: "user_id) AS buyers" => "usre_id) AS buyers", "20: models[1].sql", "no column is named `usre_id`", "did you mean `user_id`?";
    an_unknown_table_is_refused_with_what_is_meant: "FROM models.daily" => "FROM daliy", "16: models[0].sql", "no table is named `daliy`", "did you mean `daily`?";
    a_column_that_a_model_does_not_give_is_refused: "max(period)" => "max(buyer)", "models[0].sql", "no column is named `buyer`", "did you mean `buyers`?";
    an_unknown_function_is_refused: "max(period)" => "maxx(period)", "models[0].sql", "no function is named `maxx`", "did you mean `max`?";
    text_that_is_no_sql_is_refused: "GROUP BY hour" => "GRUOP BY hour", "20: models[1].sql", "this is no SQL query", "Line: 4";
    a_statement_is_refused: "SELECT count(*) AS n FROM events" => "DROP TABLE events", "models[2].sql", "a statement, not a query";
    two_statements_are_refused: "SELECT count(*) AS n FROM events" => "SELECT 1 AS n; SELECT 2 AS n", "models[2].sql", "this is no SQL query";
    a_circle_is_refused: "FROM shop\n" => "FROM shop, weekly\n", "models[1].sql", "in a circle: daily -> weekly -> daily";
    a_model_that_reads_itself_is_refused: "FROM events" => "FROM hourly", "models[2].sql", "in a circle: hourly -> hourly";
    an_hour_cannot_read_a_day: "FROM events" => "FROM daily", "models[2].sql", "`daily` has a day as its period";
    the_clock_is_refused: "event_time >= $start" => "event_time >= now()", "models[1].sql", "`now()` gives another value at every run", "$start";
    an_unknown_parameter_is_refused: "event_time >= $start" => "event_time >= $begin", "models[1].sql", "`$begin` has no value here";
    a_column_without_a_name_is_refused: "count(*) AS n" => "count(*)", "models[2].sql", "column 1 is called `count(*)`", "AS orders";
    a_column_called_like_the_period_is_refused: "count(*) AS n" => "count(*) AS period", "models[2].sql", "every model has besides";
    a_type_that_no_table_holds_is_refused: "count(*) AS n" => "max(event_time) - min(event_time) AS n", "models[2].sql", "column `n` is Duration";
    a_description_of_another_column_is_refused: "{buyers: " => "{buyer: ", "25: models[1].columns.buyer", "gives no column `buyer`", "did you mean `buyers`?";
    a_name_given_twice_is_refused: "name: hourly" => "name: weekly", "models[2].name", "a model already, in `models[0]`";
    a_name_that_is_taken_is_refused: "name: hourly" => "name: quarantine", "models[2].name", "names another table";
    the_pipelines_name_is_refused: "name: hourly" => "name: shop", "models[2].name", "names another table";
    a_look_back_of_half_an_hour_is_refused: "look_back: 6d" => "look_back: 90m", "14: models[0].look_back", "no number of whole hours";
    a_query_without_any_time_is_refused: "timeout: 30m" => "timeout: 0s", "15: models[0].timeout", "ends every query before it begins", "`30m`";
    another_period_is_refused: "every: hour" => "every: week", "models[2].every", "one of hour, day";
    a_lake_that_is_not_cut_by_hour_has_no_hourly_models: ", by: [date, hour]" => ", by: [hour]", "partition.by", "mixes the days";
    a_table_of_two_models_is_refused: "analytics.daily" => "analytics.shop", "models[1].warehouse.table", "another table of this pipeline";
    a_table_in_no_warehouse_is_refused: "warehouse: {postgres" => "# {postgres", "models[1].warehouse.table", "no `warehouse`";
    both_sql_and_file_are_refused: "every: hour" => "every: hour\n    file: x.sql", "models[2].file", "both `sql` and `file`";
    neither_sql_nor_file_is_refused: "    sql: \"SELECT count(*) AS n FROM events\"\n" => "", "models[2]", "none of `sql`, `file` is given";
    a_file_that_is_not_there_is_refused: "sql: \"SELECT count(*) AS n FROM events\"" => "file: gone.sql", "models[2].file", "`gone.sql` cannot be read";
}

#[test]
fn a_lake_that_is_cut_by_days_has_daily_models_only() {
    let faults = faults_after(", by: [date, hour]", ", by: [date]");
    let keys: Vec<&str> = faults
        .iter()
        .map(|fault| fault.split(": ").nth(1).unwrap())
        .collect();
    assert!(keys.contains(&"models[2].every"), "{faults:#?}");
}

#[test]
fn each_fault_of_several_models_is_told_and_no_more() {
    let text = MODELS
        .replace("FROM events", "FROM evnets")
        .replace("sum(price)", "sum(prcie)");
    let faults = check(&text).unwrap_err().faults;
    let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(
        keys,
        ["models[1].sql", "models[2].sql"],
        "weekly reads daily, whose fault is told"
    );
}
