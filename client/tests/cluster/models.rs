//! Models of a cluster: computed by whoever leads, loaded once, and DuckDB's whoever dies.

use std::process::Command;

use serde_json::Value;

use crate::sandbox::{Sandbox, root};

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;

/// The example's models that have no time in their rows, inline, with tables.
fn models_yaml(sandbox: &Sandbox) -> String {
    let query = |name: &str| {
        let file = root().join(format!("client/examples/shop/models/{name}.sql"));
        let text = std::fs::read_to_string(file).unwrap();
        text.lines()
            .map(|line| format!("      {line}\n"))
            .collect::<String>()
    };
    format!(
        "{}\nmodels:\n  - name: daily_funnel\n    every: day\n    warehouse: {{table: analytics.funnel}}\n    sql: |\n{}  \
         - name: revenue_by_segment\n    every: hour\n    warehouse: {{table: analytics.revenue}}\n    sql: |\n{}  \
         - name: daily_revenue\n    every: day\n    \
         sql: \"SELECT segment, sum(orders) AS orders, sum(revenue) - sum(refunded) AS net FROM revenue_by_segment GROUP BY 1\"\n",
        sandbox.table_yaml("shop"),
        query("daily_funnel"),
        query("revenue_by_segment")
    )
}

/// Periods of a pipeline in a state, or none while nobody answers.
fn periods(sandbox: &Sandbox, state: &str) -> Option<Vec<Value>> {
    let list = sandbox.try_json(&["models", "list", "shop"])?;
    let all = list["periods"].as_array()?.iter();
    Some(all.filter(|period| period["state"] == state).cloned().collect())
}

/// Waits until all periods are current, and loaded: 24 hours, a day of two models.
fn has_settled(sandbox: &Sandbox, newest: u64) {
    sandbox.until("all periods are current and loaded", |sandbox| {
        let current = periods(sandbox, "current")?;
        let versions = current.iter().filter_map(|period| period["version"].as_u64());
        let is_new = versions.max()? >= newest;
        let sql = "SELECT count(*), max(version) FROM analytics.millrace_models";
        let wanted = current.iter().filter(|period| period["model"] != "daily_revenue");
        let highest = wanted.filter_map(|period| period["version"].as_u64()).max()?;
        let loaded = sandbox.try_sql(sql)?;
        (current.len() == 26 && is_new && loaded.first()? == &format!("25|{highest}")).then_some(())
    });
}

/// The tables are what DuckDB makes of the lake.
fn judge(sandbox: &Sandbox) {
    let python = Command::new(root().join("deploy/local/python.sh"))
        .args(["install", "duckdb==2.0.0"])
        .output()
        .unwrap();
    let lake = sandbox.lake("shop");
    let output = Command::new(String::from_utf8(python.stdout).unwrap().trim())
        .arg(root().join("client/tests/models_oracle.py"))
        .arg(lake.folder())
        .args(["daily_funnel", "revenue_by_segment", "daily_revenue"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (model, found) in verdict.as_object().unwrap() {
        assert_eq!(found["differing"], serde_json::json!([]), "{model}");
    }
    for (columns, table, model) in [
        ("channel, viewed, carted, ordered", "funnel", "daily_funnel"),
        (
            "segment, channel, orders, pieces, revenue, refunded",
            "revenue",
            "revenue_by_segment",
        ),
    ] {
        let expected: Vec<String> = serde_json::from_value(verdict[model]["expected"].clone()).unwrap();
        let mut found = sandbox.sql(&format!("SELECT {columns} FROM analytics.{table}"));
        found.sort();
        assert!(!found.is_empty());
        assert_eq!(found, expected, "{table}");
    }
}

/// The heir tells where every period stands, whoever computed it, and how long its own ones took.
fn counted(sandbox: &Sandbox) {
    let metric = |name: &str, more: &str| {
        let labels = format!("pipeline=\"shop\",model=\"revenue_by_segment\"{more}");
        sandbox.metric("heir", &format!("millrace_model_{name}{{{labels}}}"))
    };
    let stand = |state: &str| metric("periods", &format!(",state=\"{state}\""));
    sandbox.until("all periods are told as current", |_| {
        (stand("current") == Some(24.0)).then_some(())
    });
    assert_eq!((stand("due"), stand("waiting")), (Some(0.0), Some(0.0)));
    // The events are of a day that is long over.
    assert!(metric("lag_seconds", "").is_some_and(|lag| lag > 86_400.0));
    assert!(metric("compute_seconds", "").is_some_and(|took| took > 0.0));
    assert_eq!(metric("failures_total", ""), None);
}

#[test]
fn leaders_compute_what_is_due_and_the_warehouse_is_duckdbs_whoever_died() {
    let mut sandbox = Sandbox::start(1, 0).with_warehouse();
    sandbox.upload("shop", 10_000, 71);
    // The first one dies with a result that nobody names, the second one between a period's rows and its commit.
    sandbox.coordinator("first", &[("MILLRACE_CRASH_AT", "computed:4")]);
    let mut sandbox = sandbox.with(0, 1);
    sandbox.apply_with("shop", SOURCE, &models_yaml(&sandbox));
    let job = sandbox.submit("shop", &[]);
    sandbox.coordinator_begins("second", &[("MILLRACE_CRASH_AT", "modelled:9")]);
    assert_eq!(sandbox.ended("first"), Some(9), "the fault did not happen");
    assert_eq!(sandbox.ended("second"), Some(9), "the fault did not happen");
    sandbox.coordinator("heir", &[]);
    sandbox.done(&job);
    has_settled(&sandbox, 26);
    counted(&sandbox);
    judge(&sandbox);
    sandbox.judge("shop", "shop");
    // Events of the same hours come later: their periods are computed again when the hours are complete again.
    sandbox.upload("late", 2_000, 72);
    sandbox.done(&sandbox.submit("shop", &["--prefix", "s3://millrace/raw/late/"]));
    has_settled(&sandbox, 52);
    judge(&sandbox);
    let backfill = ["models", "backfill", "shop", "--model", "daily_funnel", "--wait"];
    sandbox.json(&backfill);
    has_settled(&sandbox, 53);
    judge(&sandbox);
    let query = sandbox.json(&[
        "query",
        "SELECT count(*) AS n FROM models.daily_funnel",
        "--pipeline",
        "shop",
    ]);
    assert_eq!(query[0]["n"], 4, "{query}");
    sandbox.verify("shop");
}

/// Comes to no end: some 10^13 rows of a few thousand.
const ENDLESS: &str = "SELECT count(*) AS n FROM events a CROSS JOIN events b CROSS JOIN events c CROSS JOIN events d \
                       WHERE a.quantity + b.quantity + c.quantity + d.quantity > 4";

#[test]
fn jobs_go_on_while_a_period_is_computed_and_what_needs_its_query_to_end_ends_it() {
    let sandbox = Sandbox::cluster(1, 1);
    for (name, seed) in [("shop", 73), ("more", 74)] {
        sandbox.upload(name, 3_000, seed);
    }
    let model = format!("models:\n  - {{name: endless, every: day, sql: \"{ENDLESS}\"}}\n");
    sandbox.apply_with("shop", SOURCE, &model);
    sandbox.done(&sandbox.submit("shop", &[]));
    let metric = |name: &str, more: &str| {
        let labels = format!("pipeline=\"shop\",model=\"endless\"{more}");
        sandbox.metric("coordinator-1", &format!("millrace_model_{name}{{{labels}}}"))
    };
    // It is told where periods stand when a query has begun.
    sandbox.until("the period is being computed", |_| {
        (metric("periods", ",state=\"due\"") == Some(1.0)).then_some(())
    });
    sandbox.done(&sandbox.submit("shop", &["--prefix", "s3://millrace/raw/more/"]));
    let nobody = [
        "erase",
        "shop",
        "--pii-id",
        "nobody@example.com",
        "--column",
        "email",
    ];
    let erased = sandbox.json(&[&nobody[..], &["--apply", "--timeout", "120"]].concat());
    assert_eq!(erased["remaining"], 0, "{erased}");
    // A backfill waits until no other period is computed: then it is one that a cancelled job leaves behind.
    let backfill = sandbox.json(&["models", "backfill", "shop", "--model", "endless"]);
    let backfill = backfill["job"].as_str().unwrap().to_owned();
    sandbox.json(&["job", "cancel", &backfill]);
    sandbox.json(&[&nobody[..], &["--apply", "--timeout", "120"]].concat());
    assert_eq!(sandbox.job(&backfill)["state"], "cancelled");
    assert_eq!(metric("periods", ",state=\"current\""), Some(0.0));
    assert_eq!(metric("failures_total", ""), None);
    sandbox.verify("shop");
}
