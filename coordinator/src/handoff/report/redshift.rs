//! Redshift's part: what its system views say of the table.
//!
//! `pg_table_def` shows only what the search path leads to; `svv_table_info` shows no table without rows.

use millrace_pipeline::catalog::ddl;
use millrace_pipeline::catalog::encodings::Statistics;
use millrace_pipeline::catalog::identifier::{identifier, literal};
use millrace_pipeline::spec::model::Pipeline;

use super::Report;
use super::tuning::{Described, Info, advise};
use crate::handoff::HandoffError;
use crate::handoff::ask::{Ask, field};
use crate::handoff::redshift::Way;

/// Looks at a table that is there.
pub(super) async fn look(
    way: &Way,
    pipeline: &Pipeline,
    stored: &Statistics,
    report: &mut Report,
) -> Result<(), HandoffError> {
    let (schema, name) = report.table.split_once('.').unwrap_or(("public", &report.table));
    let path = format!("SET search_path TO {}", identifier(schema));
    let sql = format!(
        "SELECT \"column\", encoding, distkey, sortkey FROM pg_table_def WHERE schemaname = {} AND tablename = {}",
        literal(schema),
        literal(name)
    );
    let rows = way.rows_after("describe its table", &path, &sql).await?;
    let columns: Vec<Described> = rows
        .iter()
        .map(|row| Described {
            name: field(row, 0).to_owned(),
            encoding: field(row, 1).trim().to_owned(),
            is_dist_key: matches!(field(row, 2), "t" | "true"),
            sort_key: field(row, 3).parse().unwrap_or(0),
        })
        .collect();
    let sql = format!(
        "SELECT encoded, diststyle, sortkey1, tbl_rows, unsorted, stats_off, skew_rows, estimated_visible_rows
         FROM svv_table_info WHERE \"schema\" = {} AND \"table\" = {}",
        literal(schema),
        literal(name)
    );
    let rows = way.rows("show its statistics", &sql).await?;
    let info = rows.first().map(|row| Info {
        encoded: field(row, 0).to_owned(),
        dist_style: field(row, 1).to_owned(),
        sort_key: field(row, 2).to_owned(),
        rows: number(field(row, 3)),
        unsorted: number(field(row, 4)),
        stats_off: number(field(row, 5)),
        skew: number(field(row, 6)),
        visible: number(field(row, 7)),
    });
    match &info {
        Some(info) => {
            let facts = [
                ("rows", format!("{:.0}", info.rows)),
                ("distribution", info.dist_style.clone()),
                ("sort key", info.sort_key.clone()),
                ("unsorted", format!("{} %", info.unsorted)),
                ("statistics off by", format!("{} %", info.stats_off)),
            ];
            report
                .facts
                .extend(facts.map(|(name, value)| (name.to_owned(), value)));
        }
        None => report.facts.push(("rows".to_owned(), "0".to_owned())),
    }
    let files = stored.files.to_string();
    report.facts.push(("files looked at".to_owned(), files));
    let design = ddl::redshift_design(pipeline, stored);
    let advice = advise(&report.table, &design, &columns, info.as_ref());
    report.findings.extend(advice);
    Ok(())
}

/// A number of a view; what is not known is nothing to worry about.
fn number(text: &str) -> f64 {
    text.parse().unwrap_or(0.0)
}
