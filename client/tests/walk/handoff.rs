//! `millrace run` into a warehouse, without any cluster: a real PostgreSQL, read by `psql`.

use serde_json::Value;

use crate::database::Database;
use crate::sandbox::{SCALE, Sandbox, root};

fn status(sandbox: &Sandbox, more: &[&str]) -> Value {
    told(sandbox, &["handoff", "status"], more)
}

fn told(sandbox: &Sandbox, command: &[&str], more: &[&str]) -> Value {
    let mut arguments = vec!["--output", "json"];
    arguments.extend_from_slice(more);
    let output = sandbox.command(command, &arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"))
}

#[test]
fn a_run_loads_its_rows_once_and_a_killed_load_is_gone_on_with() {
    let mut sandbox = Sandbox::shop(100_000 / SCALE, 61);
    let warehouse = Database::start(&sandbox);
    let example = root().join("client/examples/shop");
    std::fs::copy(example.join("suite.json"), sandbox.path("suite.json")).unwrap();
    let text = std::fs::read_to_string(example.join("shop.yaml")).unwrap();
    let table = format!(
        "warehouse: {{postgres: {{dsn: \"{}\", table: analytics.shop}}}}\n",
        warehouse.dsn
    );
    sandbox.set_pipeline(&format!("{text}{table}"));

    // Killed between two loads: the lake is whole, the warehouse has one batch.
    let mut run = sandbox.run_command(&[]);
    let killed = run.env("MILLRACE_CRASH_AT", "loaded").output().unwrap();
    assert!(!killed.status.success(), "the fault did not happen");
    let loads = "SELECT count(*), sum(\"rows\") = (SELECT count(*) FROM analytics.shop) FROM analytics.millrace_loads";
    assert_eq!(warehouse.sql(loads), "1|t");
    let waiting = status(&sandbox, &["--state", "waiting"]);
    assert!(waiting["waiting"].as_u64().unwrap() > 0, "{waiting}");

    let again = sandbox.run(&[]);
    assert_eq!(again["events_read"], 0, "{again}");
    let whole = status(&sandbox, &[]);
    let batches = whole["batches"].as_array().unwrap();
    let all = batches.iter().all(|batch| batch["state"] == "loaded");
    assert!(all && batches.len() > 1, "{whole}");
    assert_eq!(warehouse.sql(loads), format!("{}|t", batches.len()));
    let ids = "SELECT count(*), count(DISTINCT event_id) FROM analytics.shop";
    let rows = sandbox.rows().len();
    assert_eq!(warehouse.sql(ids), format!("{rows}|{rows}"));
    assert_eq!(sandbox.verify(), Vec::<String>::new());

    let report = told(&sandbox, &["warehouse", "report"], &[]);
    assert_eq!(
        (&report["exists"], &report["waiting"]),
        (&true.into(), &0.into()),
        "{report}"
    );
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'analytics.shop'::regclass AND inhrelid::regclass::text ~ '[0-9]{8}$'";
    let days = format!("{} days, ", warehouse.sql(partitions));
    let said = report["facts"]["partitions"].as_str().unwrap();
    assert!(said.starts_with(&days), "{report}, {days}");
    // What a person spoilt is told with what settles it, and fails the command.
    warehouse.sql("ALTER TABLE analytics.shop ADD COLUMN theirs int NOT NULL DEFAULT 1; ALTER TABLE analytics.shop ALTER COLUMN theirs DROP DEFAULT");
    let output = sandbox.command(&["warehouse", "report"], &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("ALTER TABLE analytics.shop ALTER COLUMN theirs DROP NOT NULL;"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1), "{said}");
}
