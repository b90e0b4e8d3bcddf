//! A story's warehouse: a real PostgreSQL, read by `psql` and judged by the generator's ledger.
//!
//! Nothing of the handoff is used here: what stands in the table is compared with what was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use millrace_loadtest::ledger::Ledger;
use serde_json::Value;

use crate::sandbox::Sandbox;

/// Where the warehouse answers.
pub(crate) struct Warehouse {
    dsn: String,
}

impl Sandbox {
    /// Starts a warehouse.
    pub(crate) fn with_warehouse(mut self) -> Self {
        self.service("postgres", &["start"]);
        let dsn = std::fs::read_to_string(self.path("postgres/endpoint")).unwrap();
        let dsn = dsn.trim().to_owned();
        self.warehouse = Some(Warehouse { dsn });
        self
    }

    /// The YAML of a warehouse's table `analytics.<name>`, and of a quality section that holds nothing back.
    pub(crate) fn table_yaml(&self, name: &str) -> String {
        let dsn = &self.warehouse.as_ref().unwrap().dsn;
        format!(
            "warehouse: {{postgres: {{dsn: \"{dsn}\", table: analytics.{name}}}}}\nquality: {{suite: suite.json, minimum_clean: 0.5}}"
        )
    }

    /// Where the warehouse answers.
    pub(crate) fn warehouse_dsn(&self) -> &str {
        &self.warehouse.as_ref().unwrap().dsn
    }

    /// Crashes the warehouse.
    pub(crate) fn crash_warehouse(&mut self) {
        self.service("postgres", &["kill"]);
    }

    /// Starts it again on the same data, once the processes of the old one are gone.
    pub(crate) fn restart_warehouse(&self) {
        self.until("the warehouse is back", |sandbox| {
            sandbox.script("postgres", &["start"]).then_some(())
        });
    }

    /// Rows of a query, each with its columns joined by `|`; none when the warehouse does not answer.
    pub(crate) fn try_sql(&self, sql: &str) -> Option<Vec<String>> {
        let dsn = &self.warehouse.as_ref().unwrap().dsn;
        let output = Command::new("psql")
            .args(["-XAtq", "-d", dsn, "-c", sql])
            .output()
            .unwrap();
        output.status.success().then_some(())?;
        let text = String::from_utf8(output.stdout).unwrap();
        Some(text.lines().map(str::to_owned).collect())
    }

    /// The same, and it must not fail.
    pub(crate) fn sql(&self, sql: &str) -> Vec<String> {
        self.try_sql(sql).unwrap_or_else(|| panic!("{sql}"))
    }

    /// Batches in the load ledger of a pipeline.
    pub(crate) fn batches_loaded(&self, pipeline: &str) -> Option<u64> {
        let sql = format!("SELECT count(*) FROM analytics.millrace_loads WHERE pipeline = '{pipeline}'");
        self.try_sql(&sql)?.first()?.parse().ok()
    }

    /// Waits until every batch of a job is in the load ledger; how many there are.
    pub(crate) fn has_loaded(&self, pipeline: &str, job: &str) -> u64 {
        let batches = self.job(job)["batches"].as_u64().unwrap();
        self.until(&format!("{batches} batches are loaded"), |sandbox| {
            (sandbox.batches_loaded(pipeline)? >= batches).then_some(())
        });
        batches
    }

    /// Each good event that was sent stands in the warehouse once, and nothing else; the load ledger adds up.
    pub(crate) fn judge_warehouse(&self, pipeline: &str, ledger: &str) {
        let mut expected = BTreeSet::new();
        Ledger::open(&self.path(ledger))
            .unwrap()
            .for_each(|line| {
                if line.entry.damage.is_none() {
                    expected.insert(line.entry.id);
                }
            })
            .unwrap();
        let mut found: BTreeMap<u128, u32> = BTreeMap::new();
        let ids = self.sql(&format!("SELECT event_id FROM analytics.{pipeline}"));
        for id in &ids {
            let id = u128::from_str_radix(&id.replace('-', ""), 16).unwrap();
            *found.entry(id).or_default() += 1;
        }
        let twice = found.values().filter(|times| **times > 1).count();
        let missing = expected.iter().filter(|id| !found.contains_key(id)).count();
        let unknown = found.keys().filter(|id| !expected.contains(id)).count();
        assert_eq!(
            (missing, twice, unknown),
            (0, 0, 0),
            "missing, twice, unknown of {}",
            expected.len()
        );
        let sums = self.sql(&format!(
            "SELECT sum(\"rows\") = (SELECT count(*) FROM analytics.{pipeline}) FROM analytics.millrace_loads WHERE pipeline = '{pipeline}'"
        ));
        assert_eq!(sums, ["t"], "the load ledger's rows are not the table's");
    }

    /// What `millrace handoff status` says of a pipeline.
    pub(crate) fn handoff_status(&self, pipeline: &str) -> Value {
        self.json(&["handoff", "status", pipeline])
    }
}
