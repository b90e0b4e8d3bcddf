//! `millrace warehouse report`: what the warehouse is beside what the pipeline asks for.
//!
//! PIPELINE is a file, where the command looks at the warehouse itself, or the name of an applied pipeline, where its
//! coordinators do.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use millrace_client::v1;
use millrace_coordinator::handoff::Known;
use millrace_coordinator::handoff::report::report;
use millrace_coordinator::ledger::Ledger;
use millrace_coordinator::ledger::embedded::EmbeddedLedger;
use serde_json::{Value, json};

use crate::cli::Output;
use crate::lakes::{self, Opened, Whose};
use crate::output::{self, Exit};

/// Subcommands of `warehouse`.
#[derive(Debug, Subcommand)]
pub(crate) enum Warehouse {
    /// Columns, keys, encodings, partitions, statistics and waiting loads: what is, and what the pipeline asks for.
    Report(Report),
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    #[command(flatten)]
    whose: Whose,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Warehouse {
    /// Exit 1 where a fault stops loads; advice is no failure.
    pub(crate) fn execute(self) -> Result<Exit> {
        match self {
            Self::Report(report) => report.execute(),
        }
    }
}

impl Report {
    fn execute(self) -> Result<Exit> {
        let whose = &self.whose;
        let (name, report) = match whose.name() {
            Some(name) => {
                let report = whose
                    .reach
                    .with(async |client| Ok(client.report_warehouse(name).await?))?;
                (name.to_owned(), report)
            }
            None => {
                let opened = whose.open()?;
                (opened.pipeline.name.to_string(), of_lake(&opened)?)
            }
        };
        let shown = match self.output {
            Output::Json => json(&name, &report).to_string(),
            Output::Table => table(&report),
        };
        output::result(&shown)?;
        let is_faulty = report.findings.iter().any(|finding| finding.level == "fault");
        Ok(if is_faulty { Exit::Failed } else { Exit::Done })
    }
}

fn of_lake(opened: &Opened) -> Result<v1::ReportWarehouseResponse> {
    if opened.pipeline.warehouse.is_none() {
        bail!("pipeline `{}` has no `warehouse`", opened.pipeline.name);
    }
    let report = lakes::runtime(1)?.block_on(async {
        let ledger = EmbeddedLedger::read(&opened.lake).await?;
        let known = Known {
            state: ledger.state().clone(),
            ..Known::default()
        };
        Ok::<_, anyhow::Error>(report(&opened.pipeline, &opened.lake, &known).await?)
    })?;
    Ok(report.into())
}

fn json(name: &str, report: &v1::ReportWarehouseResponse) -> Value {
    let facts = report
        .facts
        .iter()
        .map(|fact| (fact.name.clone(), json!(fact.value)));
    let facts: serde_json::Map<String, Value> = facts.collect();
    let finding = |finding: &v1::WarehouseFinding| {
        json!({
            "level": finding.level, "what": finding.what, "found": finding.found, "wanted": finding.wanted,
            "statement": finding.statement,
        })
    };
    let findings: Vec<Value> = report.findings.iter().map(finding).collect();
    json!({
        "pipeline": name, "warehouse": report.warehouse, "table": report.table, "exists": report.exists,
        "waiting": report.waiting, "unfinished": report.unfinished, "held": report.held,
        "facts": facts, "findings": findings,
    })
}

fn table(report: &v1::ReportWarehouseResponse) -> String {
    let mut lines = vec![if report.exists {
        format!("{} in {}", report.table, report.warehouse)
    } else {
        format!(
            "{} in {}: not there yet, the first load makes it",
            report.table, report.warehouse
        )
    }];
    lines.extend(
        report
            .facts
            .iter()
            .map(|fact| format!("  {}: {}", fact.name, fact.value)),
    );
    lines.push(format!(
        "  loads: {} waiting, {} of unfinished jobs, {} held",
        report.waiting, report.unfinished, report.held
    ));
    if report.findings.is_empty() {
        lines.push("nothing to settle".to_owned());
        return lines.join("\n");
    }
    let mut table = output::table(&["level", "what", "found", "asked for"]);
    for finding in &report.findings {
        table.add_row([&finding.level, &finding.what, &finding.found, &finding.wanted]);
    }
    lines.push(table.to_string());
    // Apart, so that they can be copied.
    let statements = report.findings.iter().map(|finding| finding.statement.clone());
    lines.extend(statements.filter(|statement| !statement.is_empty()));
    lines.join("\n")
}
