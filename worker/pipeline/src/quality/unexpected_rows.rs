//! `unexpected_rows_expectation`: an SQL query whose result should be empty.
//!
//! The row-local form is supported: `SELECT … FROM {batch} [alias] WHERE <predicate>`. Its predicate becomes a
//! DataFusion expression that is evaluated batch by batch. A query that needs the whole set (joins, groups,
//! aggregates, windows, subqueries, limits) is refused with the reason, and the expectation reported as an
//! exception: an answer from one batch would be wrong.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{
    GroupByExpr, Query, Select, SelectItem, SetExpr, Statement, TableFactor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

const TABLE: &str = "millrace_batch";

/// The predicate of the query; none when it asks for every row.
pub(super) fn compile(query: &str, table: &Schema) -> Result<Option<Arc<dyn PhysicalExpr>>, String> {
    let (predicate, alias) = row_local(query)?;
    let Some(predicate) = predicate else {
        return Ok(None);
    };
    // The planner would only say that it does not find the table.
    if predicate.to_ascii_uppercase().contains("(SELECT ") {
        return Err(refusal("a subquery"));
    }
    let wrong = |error: datafusion::error::DataFusionError| {
        format!("unexpected_rows_query: {}", error.strip_backtrace())
    };
    let schema = DFSchema::try_from_qualified_schema(alias.as_str(), table).map_err(wrong)?;
    let context = SessionContext::new();
    let expression = context.parse_sql_expr(&predicate, &schema).map_err(wrong)?;
    let mut refused = None;
    expression
        .apply(|part| {
            refused = match part {
                Expr::AggregateFunction(_) => Some("an aggregate"),
                Expr::WindowFunction(_) => Some("a window"),
                Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) => Some("a subquery"),
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            Ok(TreeNodeRecursion::Stop)
        })
        .map_err(wrong)?;
    if let Some(what) = refused {
        return Err(refusal(what));
    }
    context
        .create_physical_expr(expression, &schema)
        .map(Some)
        .map_err(wrong)
}

fn refusal(what: &str) -> String {
    format!(
        "unexpected_rows_query uses {what}: only `SELECT * FROM {{batch}} WHERE <predicate on one row>` can be \
         judged row by row"
    )
}

/// The text of the predicate and the name by which it calls the table.
fn row_local(query: &str) -> Result<(Option<String>, String), String> {
    if !query.contains("{batch}") {
        return Err("unexpected_rows_query does not read from {batch}".to_owned());
    }
    let query = query
        .replace("{batch}", TABLE)
        .replace("{{", "{")
        .replace("}}", "}");
    let query = query.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    let statements = Parser::parse_sql(&GenericDialect {}, query)
        .map_err(|error| format!("unexpected_rows_query cannot be read: {error}"))?;
    let [Statement::Query(query)] = statements.as_slice() else {
        return Err(refusal("another statement than one SELECT"));
    };
    let Query {
        with: None,
        limit_clause: None,
        fetch: None,
        body,
        ..
    } = query.as_ref()
    else {
        return Err(refusal("WITH or LIMIT"));
    };
    let SetExpr::Select(select) = body.as_ref() else {
        return Err(refusal("UNION or VALUES"));
    };
    let alias = the_table(select)?;
    let has_groups = !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
    let refused = [
        (has_groups || select.having.is_some(), "GROUP BY or HAVING"),
        (select.distinct.is_some(), "DISTINCT"),
        (select.top.is_some(), "TOP"),
        (select.qualify.is_some(), "QUALIFY"),
        (
            !select.projection.iter().all(is_row_local),
            "a calculated column in its SELECT list",
        ),
    ];
    match refused.into_iter().find(|(is_there, _)| *is_there) {
        Some((_, what)) => Err(refusal(what)),
        None => Ok((select.selection.as_ref().map(ToString::to_string), alias)),
    }
}

fn the_table(select: &Select) -> Result<String, String> {
    let [from] = select.from.as_slice() else {
        return Err(refusal("several tables"));
    };
    if !from.joins.is_empty() {
        return Err(refusal("a join"));
    }
    match &from.relation {
        TableFactor::Table { name, alias, .. } if name.to_string() == TABLE => Ok(alias
            .as_ref()
            .map_or_else(|| TABLE.to_owned(), |alias| alias.name.value.clone())),
        _ => Err(refusal("another table than {batch}")),
    }
}

/// Columns and literals; a calculation may be an aggregate, which only the planner would know.
fn is_row_local(item: &SelectItem) -> bool {
    use datafusion::sql::sqlparser::ast::Expr as Sql;
    match item {
        SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(_, _) => true,
        SelectItem::UnnamedExpr(expression) | SelectItem::ExprWithAlias { expr: expression, .. } => {
            matches!(
                expression,
                Sql::Identifier(_) | Sql::CompoundIdentifier(_) | Sql::Value(_)
            )
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field};

    fn table() -> Schema {
        Schema::new(vec![
            Field::new("x", DataType::Int64, true),
            Field::new("Name", DataType::Utf8View, true),
        ])
    }

    #[test]
    fn row_local_queries_compile() {
        for query in [
            "SELECT * FROM {batch} WHERE x > 3;",
            "select b.x from {batch} b where b.x is null or b.x < 0",
            "SELECT * FROM {batch}",
            "SELECT * FROM {batch} WHERE \"Name\" = 'a' ORDER BY x",
        ] {
            compile(query, &table()).unwrap_or_else(|error| panic!("{query}: {error}"));
        }
    }

    #[test]
    fn queries_over_the_whole_set_are_refused_with_a_reason() {
        for (query, reason) in [
            ("SELECT x FROM {batch} GROUP BY x HAVING count(*) > 1", "GROUP BY"),
            ("SELECT * FROM {batch} a JOIN {batch} b ON a.x = b.x", "join"),
            ("SELECT count(*) FROM {batch}", "calculated"),
            (
                "SELECT * FROM {batch} WHERE x > (SELECT avg(x) FROM {batch})",
                "ubquer",
            ),
            ("SELECT * FROM other WHERE x > 1", "{batch}"),
            ("SELECT * FROM {batch} WHERE y > 1", "y"),
            ("SELECT * FROM {batch} LIMIT 1", "LIMIT"),
            ("DELETE FROM {batch}", "SELECT"),
        ] {
            let error = compile(query, &table()).unwrap_err();
            assert!(error.contains(reason), "{query}: {error}");
        }
    }
}
