//! Models: the example's tables are what DuckDB makes of the same lake, whoever is killed when and whatever comes late.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use serde_json::Value;

use crate::database::Database;
use crate::github::python;
use crate::sandbox::{HASH_KEY, SCALE, Sandbox, root};

const EVENTS: u64 = 60_000 / SCALE;
const EXAMPLE: &str = "shop/models.yaml";

/// The shop with models, and its first run.
fn shop(events: u64, seed: u64) -> Sandbox {
    let sandbox = Sandbox::generated(EXAMPLE, events, seed);
    sandbox.run(&[]);
    sandbox
}

fn models(sandbox: &Sandbox, verb: &str, more: &[&str]) -> Value {
    let output = sandbox
        .command(&["models", verb], &[&["--output", "json"], more].concat())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Periods of a list, as `model period`.
fn named(list: &Value) -> Vec<String> {
    let name = |one: &Value| {
        format!(
            "{} {}",
            one["model"].as_str().unwrap(),
            one["period"].as_str().unwrap()
        )
    };
    list.as_array().unwrap().iter().map(name).collect()
}

fn states(sandbox: &Sandbox, state: &str) -> Vec<String> {
    let list = models(sandbox, "list", &[]);
    let all = list["periods"].as_array().unwrap().iter();
    let of: Vec<Value> = all.filter(|one| one["state"] == state).cloned().collect();
    named(&Value::from(of))
}

/// What DuckDB makes of the lake, compared with what was computed.
fn duckdb(sandbox: &Sandbox) -> Value {
    let output = Command::new(python())
        .arg(root().join("client/tests/models_oracle.py"))
        .arg(sandbox.path("lake"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every model has periods and rows, and no row differs from DuckDB's.
fn assert_duckdb_agrees(sandbox: &Sandbox, when: &str) -> Value {
    let verdict = duckdb(sandbox);
    for (model, found) in verdict.as_object().unwrap() {
        assert_eq!(found["differing"], serde_json::json!([]), "{when}: {model}");
        assert!(found["rows"].as_u64().unwrap() > 0, "{when}: {model}: {found}");
    }
    verdict
}

fn count(sandbox: &Sandbox, table: &str) -> u64 {
    let mut query = Command::new(env!("CARGO_BIN_EXE_millrace"));
    let sql = format!("SELECT count(*) AS n FROM {table}");
    query.args(["query", &sql, "--output", "json", "--lake"]);
    let output = query.arg(sandbox.path("lake")).output().unwrap();
    let rows: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    rows[0]["n"].as_u64().unwrap()
}

/// A purchase of the example's day that nobody has sent before.
fn purchase(id: u32, at: &str) -> String {
    format!(
        "{{\"event_id\":\"00000000-0000-4000-8000-{id:012}\",\"event_time\":\"{at}\",\"user_id\":424242,\"session_id\":\"s\",\
          \"event_type\":\"purchase\",\"channel\":\"web\",\"product_id\":\"p\",\"price\":19.99,\"quantity\":3,\"country\":\"DE\",\
          \"url\":\"https://shop.example/x?utm_campaign=late\",\"user_agent\":\"x\"}}\n"
    )
}

#[test]
fn the_examples_are_duckdbs_and_late_events_bring_just_their_periods_back() {
    let sandbox = shop(EVENTS, 61);
    let done = models(&sandbox, "run", &[]);
    assert_eq!(done["failed"], serde_json::json!([]), "{done}");
    let verdict = assert_duckdb_agrees(&sandbox, "the first time");
    assert_eq!(
        verdict["revenue_by_segment"]["periods"].as_array().unwrap().len(),
        24
    );
    let days = |model: &str| verdict[model]["periods"].as_array().unwrap().len();
    assert_eq!(
        (
            days("daily_funnel"),
            days("sessions"),
            days("hourly_sessions"),
            days("campaign_attribution")
        ),
        (1, 2, 2, 2),
        "what looks back has a day after the last one, and so has what reads it"
    );
    for model in ["sessions", "models.sessions", "models.revenue_by_segment"] {
        let name = model.rsplit('.').next().unwrap();
        assert_eq!(
            count(&sandbox, model),
            verdict[name]["rows"].as_u64().unwrap(),
            "{model}"
        );
    }
    assert_eq!(states(&sandbox, "due"), Vec::<String>::new());
    assert_eq!(
        models(&sandbox, "run", &[])["computed"],
        serde_json::json!([]),
        "nothing is due"
    );
    sandbox.input("late.ndjson", purchase(1, "2026-01-01T05:10:00Z"));
    assert_eq!(sandbox.run(&[])["events_written"], 1);
    let expected = [
        "campaign_attribution 2026-01-01",
        "campaign_attribution 2026-01-02",
        "daily_funnel 2026-01-01",
        "daily_revenue 2026-01-01",
        "hourly_sessions 2026-01-01",
        "revenue_by_segment 2026-01-01T05",
        "sessions 2026-01-01",
    ];
    let done = models(&sandbox, "run", &[]);
    let mut computed = named(&done["computed"]);
    computed.sort();
    assert_eq!(computed, expected, "{done}");
    let after = assert_duckdb_agrees(&sandbox, "after a late event");
    let late = |verdict: &Value| {
        verdict["campaign_attribution"]
            .to_string()
            .contains("late|1|1|59.97")
    };
    assert!(!late(&verdict) && late(&after), "{after}");
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

#[test]
fn a_kill_at_each_step_leaves_the_old_rows_or_the_new_ones() {
    let sandbox = shop(EVENTS / 4, 62);
    for (time, moment) in ["computed:1", "modelled:3", "computed:7"].into_iter().enumerate() {
        let mut run = sandbox.command(&["models", "run"], &[]);
        let crashed = run.env("MILLRACE_CRASH_AT", moment).output().unwrap();
        assert_eq!(
            crashed.status.signal(),
            Some(9),
            "the crash at {moment} did not fire"
        );
        let done = states(&sandbox, "current").len();
        assert_eq!(done, [0, 3, 9][time], "after a kill at {moment}");
    }
    models(&sandbox, "run", &[]);
    assert_duckdb_agrees(&sandbox, "after the kills");
    // A backfill computes what is there again, under new versions.
    let again = models(
        &sandbox,
        "backfill",
        &[
            "--model",
            "revenue_by_segment",
            "--from",
            "2026-01-01T03:00:00Z",
            "--to",
            "2026-01-01T05:00:00Z",
        ],
    );
    assert_eq!(
        named(&again["computed"]),
        [
            "revenue_by_segment 2026-01-01T03",
            "revenue_by_segment 2026-01-01T04"
        ]
    );
    assert_eq!(
        states(&sandbox, "due"),
        ["daily_revenue 2026-01-01"],
        "what reads it follows"
    );
    models(&sandbox, "run", &[]);
    assert_duckdb_agrees(&sandbox, "after a backfill");
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

/// Threads share a query's memory: where each has too little of it, one of them does it alone.
#[test]
fn a_query_that_does_not_fit_by_several_threads_is_computed_by_one() {
    let sandbox = shop(60_000, 64);
    let narrow = ["--memory", "20", "--threads", "2", "--log", "info"];
    let output = sandbox.command(&["models", "run"], &narrow).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("it is run by one"), "it fitted by two: {stderr}");
    assert_duckdb_agrees(&sandbox, "within little memory");
}

#[test]
fn a_query_that_takes_longer_than_it_may_is_ended_and_the_others_are_computed() {
    let sandbox = Sandbox::with_pipeline(
        "version: 1
pipeline: orders
source: {files: {path: sent/events, format: json}}
schema:
  - {name: id, type: int64, required: true}
  - {name: at, type: timestamp, required: true}
partition: {time: at, by: [date, hour]}
lake: {url: ./lake}
models:
  - name: endless
    every: day
    timeout: 1s
    sql: SELECT count(*) AS n FROM events a, events b, events c, events d, events e WHERE a.id + b.id + c.id + d.id > e.id
  - {name: daily, every: day, sql: SELECT count(*) AS n FROM events}
",
    );
    let event = |id: u32| format!("{{\"id\": {id}, \"at\": \"2026-01-01T01:00:00Z\"}}\n");
    sandbox.input("1.json", (0..1_000).map(event).collect::<String>());
    sandbox.run(&[]);
    let output = sandbox
        .command(&["models", "run"], &["--output", "json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(named(&done["failed"]), ["endless 2026-01-01"]);
    let error = done["failed"][0]["error"].as_str().unwrap();
    assert!(error.contains("ended after 1 s, its `timeout`"), "{error}");
    assert_eq!(named(&done["computed"]), ["daily 2026-01-01"]);
    assert_eq!(count(&sandbox, "daily WHERE n = 1000"), 1);
}

#[test]
fn a_changed_query_is_outdated_until_it_is_computed_again() {
    let model = |sql: &str| {
        format!(
            "version: 1
pipeline: orders
source: {{files: {{path: sent/events, format: json}}}}
schema:
  - {{name: id, type: string, required: true}}
  - {{name: at, type: timestamp, required: true}}
partition: {{time: at, by: [date, hour]}}
lake: {{url: ./lake}}
retention: {{replaced: 1s}}
models:
  - {{name: daily, every: day, sql: \"{sql}\"}}
"
        )
    };
    let mut sandbox = Sandbox::with_pipeline(&model("SELECT count(*) AS n FROM orders"));
    let event = |id: &str, at: &str| format!("{{\"id\": \"{id}\", \"at\": \"{at}\"}}\n");
    sandbox.input(
        "1.json",
        event("a", "2026-01-01T01:00:00Z") + &event("b", "2026-01-02T01:00:00Z"),
    );
    sandbox.run(&[]);
    models(&sandbox, "run", &[]);
    assert_eq!(count(&sandbox, "daily WHERE n = 1"), 2);
    sandbox.set_pipeline(&model("SELECT count(*) + 10 AS n FROM events WHERE at >= $start"));
    assert_eq!(
        states(&sandbox, "outdated"),
        ["daily 2026-01-01", "daily 2026-01-02"]
    );
    assert_eq!(models(&sandbox, "run", &[])["computed"], serde_json::json!([]));
    models(&sandbox, "backfill", &["--to", "2026-01-02T00:00:00Z"]);
    assert_eq!(states(&sandbox, "outdated"), ["daily 2026-01-02"]);
    assert_eq!(count(&sandbox, "daily WHERE n = 11"), 1);
    // What was replaced is gone some time, what counts is not.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while sandbox.objects("models").len() > 2 {
        assert!(std::time::Instant::now() < end, "replaced results stay");
        std::thread::sleep(std::time::Duration::from_millis(100));
        models(&sandbox, "run", &[]);
    }
    assert_eq!(count(&sandbox, "daily"), 2);
}

#[test]
fn the_warehouses_tables_are_duckdbs_whenever_the_loader_was_killed() {
    let mut sandbox = Sandbox::generated(EXAMPLE, EVENTS / 4, 63);
    let warehouse = Database::start(&sandbox);
    let example = root().join("client/examples/shop");
    std::fs::create_dir_all(sandbox.path("models")).unwrap();
    for file in std::fs::read_dir(example.join("models")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), sandbox.path("models").join(file.file_name())).unwrap();
    }
    std::fs::copy(example.join("suite.json"), sandbox.path("suite.json")).unwrap();
    let text = std::fs::read_to_string(example.join("models.yaml")).unwrap();
    let text = text
        .replace(
            "    file: models/daily_funnel.sql",
            "    file: models/daily_funnel.sql\n    warehouse: {table: analytics.funnel}",
        )
        .replace(
            "    file: models/revenue_by_segment.sql",
            "    file: models/revenue_by_segment.sql\n    warehouse: {table: analytics.revenue}",
        );
    let dsn = &warehouse.dsn;
    sandbox.set_pipeline(&format!(
        "{text}\nwarehouse: {{postgres: {{dsn: \"{dsn}\", table: analytics.shop}}}}\n"
    ));
    sandbox.run(&["--no-handoff"]);
    for moment in ["claimed:1", "copied:5", "loaded:9"] {
        let mut run = sandbox.command(&["models", "run"], &[]);
        let crashed = run
            .env("MILLRACE_CRASH_AT", moment)
            .env("MILLRACE_HASH_KEY", HASH_KEY)
            .output()
            .unwrap();
        assert_eq!(
            crashed.status.signal(),
            Some(9),
            "the crash at {moment} did not fire"
        );
    }
    models(&sandbox, "run", &[]);
    let table = |columns: &str, table: &str| -> Vec<String> {
        let rows = warehouse.sql(&format!("SELECT {columns} FROM analytics.{table}"));
        let mut rows: Vec<String> = rows.lines().map(str::to_owned).collect();
        rows.sort();
        rows
    };
    let assert_same = |when: &str| {
        let verdict = assert_duckdb_agrees(&sandbox, when);
        for (columns, name, model) in [
            ("channel, viewed, carted, ordered", "funnel", "daily_funnel"),
            (
                "segment, channel, orders, pieces, revenue, refunded",
                "revenue",
                "revenue_by_segment",
            ),
        ] {
            let expected: Vec<String> = serde_json::from_value(verdict[model]["expected"].clone()).unwrap();
            assert_eq!(table(columns, name), expected, "{when}: {name}");
        }
    };
    assert_same("after the kills");
    sandbox.input("late.ndjson", purchase(2, "2026-01-01T07:10:00Z"));
    sandbox.run(&["--no-handoff"]);
    models(&sandbox, "run", &[]);
    assert_same("after a late event");
    let loads = warehouse.sql(
        "SELECT model, count(*), sum(\"rows\") = (SELECT count(*) FROM analytics.revenue) FROM analytics.millrace_models \
         WHERE model = 'revenue_by_segment' GROUP BY model",
    );
    assert_eq!(loads, "revenue_by_segment|24|t");
    let comment = warehouse.sql("SELECT obj_description('analytics.funnel'::regclass)");
    assert!(comment.ends_with("Computed by day"), "{comment}");
}
