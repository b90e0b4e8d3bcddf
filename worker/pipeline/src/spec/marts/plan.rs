//! A mart's SQL as DataFusion plans it, for the check and for the run.
//!
//! Functions that do not depend on their arguments alone (`now()`, `random()`) are refused: a period that is computed again
//! over the same hours must give the same rows. A period's bounds are `$start` and `$end`.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{MemorySchemaProvider, TableProvider};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, ScalarValue, SchemaError, TableReference};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use futures::FutureExt;

use super::super::nearest::hint;
use super::SCHEMA;
use crate::spec::model::ColumnType;

/// What is wrong with a query, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueryFault {
    pub(super) wrong: String,
    pub(super) right: String,
}

fn fault(wrong: impl Into<String>, right: impl Into<String>) -> QueryFault {
    QueryFault {
        wrong: wrong.into(),
        right: right.into(),
    }
}

/// The values of `$start` and `$end`: microseconds since 1970 UTC.
#[must_use]
pub fn bounds(start_us: i64, end_us: i64) -> Vec<(&'static str, ScalarValue)> {
    let time = |us| ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into()));
    vec![("start", time(start_us)), ("end", time(end_us))]
}

/// A schema of nullable columns.
#[must_use]
pub fn schema<'a>(columns: impl Iterator<Item = (&'a str, &'a ColumnType)>) -> SchemaRef {
    let fields = columns.map(|(name, kind)| Field::new(name, kind.arrow(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Makes a place for marts' tables in a session.
///
/// # Errors
/// When the session has no catalog.
pub fn prepare(context: &SessionContext) -> Result<(), DataFusionError> {
    let options = context.copied_config();
    let catalog = context.catalog(&options.options().catalog.default_catalog);
    let catalog =
        catalog.ok_or_else(|| DataFusionError::Internal("a session without a catalog".to_owned()))?;
    catalog.register_schema(SCHEMA, Arc::new(MemorySchemaProvider::new()))?;
    Ok(())
}

/// Registers a mart's table under its name and below [`SCHEMA`].
///
/// # Errors
/// When the name is taken.
pub fn register(
    context: &SessionContext,
    name: &str,
    table: Arc<dyn TableProvider>,
) -> Result<(), DataFusionError> {
    context.register_table(TableReference::partial(SCHEMA, name), Arc::clone(&table))?;
    if !context.table_exist(TableReference::bare(name))? {
        context.register_table(TableReference::bare(name), table)?;
    }
    Ok(())
}

/// A query that was read: one statement, and the tables that it names.
pub(super) struct Parsed {
    statement: Statement,
    pub(super) tables: BTreeSet<String>,
}

/// Reads a query.
pub(super) fn parse(sql: &str) -> Result<Parsed, QueryFault> {
    let state = SessionContext::new().state();
    let dialect = state.config().options().sql_parser.dialect;
    let right = "one query: `SELECT ... FROM ... GROUP BY ...`";
    let statement = state
        .sql_to_statement(sql, &dialect)
        .map_err(|error| fault(format!("this is no SQL query: {}", said(&error)), right))?;
    let is_query =
        matches!(&statement, Statement::Statement(inner) if matches!(**inner, ast::Statement::Query(_)));
    if !is_query {
        return Err(fault("this is a statement, not a query", right));
    }
    let named = state
        .resolve_table_references(&statement)
        .map_err(|error| fault(format!("this is no SQL query: {}", said(&error)), right))?;
    let mut tables = BTreeSet::new();
    for table in named {
        match table.schema() {
            None => {}
            Some(SCHEMA) if table.catalog().is_none() => {}
            Some(_) => {
                let right = format!("a table's name, or `{SCHEMA}.<name>`");
                return Err(fault(format!("no table is named `{table}`"), right));
            }
        }
        tables.insert(table.table().to_owned());
    }
    Ok(Parsed { statement, tables })
}

/// Plans a query over these tables; what it gives.
pub(super) fn plan(
    parsed: Parsed,
    events: &[&str],
    tables: &[(&str, SchemaRef)],
) -> Result<Vec<(String, ColumnType)>, QueryFault> {
    let context = SessionContext::new();
    let broken = |error: DataFusionError| explain(&error, &[]);
    prepare(&context).map_err(broken)?;
    for (name, schema) in tables {
        let table: Arc<dyn TableProvider> = Arc::new(EmptyTable::new(Arc::clone(schema)));
        if events.contains(name) {
            context.register_table(*name, table).map_err(broken)?;
        } else {
            register(&context, name, table).map_err(broken)?;
        }
    }
    let state = context.state();
    let functions: Vec<String> = state
        .scalar_functions()
        .keys()
        .chain(state.aggregate_functions().keys())
        .chain(state.window_functions().keys())
        .cloned()
        .collect();
    let explain = |error: &DataFusionError| explain(error, &functions);
    // Tables in memory answer at once.
    let planned = state.statement_to_plan(parsed.statement).now_or_never();
    let planned =
        planned.ok_or_else(|| fault("the query does not plan", "a query over the tables in memory"))?;
    let plan = planned.map_err(|error| explain(&error))?;
    refuse_what_changes(&plan)?;
    let hour = 3_600_000_000;
    let plan = plan
        .with_param_values(bounds(0, hour))
        .map_err(|error| explain(&error))?;
    // With its types made to agree, and not yet rewritten: the optimizer may widen what a column is summed up in.
    let options = state.config_options();
    let analyzed = state
        .analyzer()
        .execute_and_check(plan.clone(), options, |_, _| {});
    let analyzed = analyzed.map_err(|error| explain(&error))?;
    let optimized = state.optimize(&plan).map_err(|error| explain(&error))?;
    probe(&state, &optimized).map_err(|error| explain(&error))?;
    outputs(&analyzed)
}

/// What plans and yet cannot run is found here and not in the first period.
fn probe(state: &SessionState, plan: &LogicalPlan) -> Result<(), DataFusionError> {
    match state
        .query_planner()
        .create_physical_plan(plan, state)
        .now_or_never()
    {
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => Ok(()),
    }
}

/// The columns of a plan, if each is one.
fn outputs(plan: &LogicalPlan) -> Result<Vec<(String, ColumnType)>, QueryFault> {
    let mut columns: Vec<(String, ColumnType)> = Vec::new();
    for (at, field) in plan.schema().fields().iter().enumerate() {
        let (name, place) = (field.name(), at + 1);
        if !is_plain_name(name) {
            let right = "a name behind it, of a-z, 0-9 and `_`: `count(*) AS orders`";
            return Err(fault(format!("column {place} is called `{name}`"), right));
        }
        if name == super::PERIOD {
            let wrong =
                format!("column {place} is called `{name}`, like the column that every model has besides");
            return Err(fault(wrong, "another name"));
        }
        if columns.iter().any(|(before, _)| before == name) {
            return Err(fault(
                format!("two columns are called `{name}`"),
                "a name of its own for each column",
            ));
        }
        let Some(kind) = kind_of(field.data_type()) else {
            let wrong = format!(
                "column `{name}` is {}, which no table here holds",
                field.data_type()
            );
            return Err(fault(wrong, "a cast to another type: `CAST(... AS DOUBLE)`"));
        };
        columns.push((name.clone(), kind));
    }
    if columns.is_empty() {
        return Err(fault("the query gives no column", "at least one column"));
    }
    Ok(columns)
}

fn is_plain_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// The type that a mart stores values of an Arrow type in.
fn kind_of(data_type: &DataType) -> Option<ColumnType> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other type has no place in a table"
    )]
    Some(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ColumnType::String,
        DataType::Dictionary(_, value) => kind_of(value)?,
        DataType::Boolean => ColumnType::Bool,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
            ColumnType::Int32
        }
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => ColumnType::Int64,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => ColumnType::Float64,
        DataType::Decimal128(precision, scale) if (0..=*precision as i8).contains(scale) => {
            ColumnType::Decimal(*precision, *scale)
        }
        DataType::Date32 | DataType::Date64 => ColumnType::Date,
        DataType::Timestamp(..) => ColumnType::Timestamp,
        DataType::List(item) | DataType::LargeList(item) => match kind_of(item.data_type())? {
            ColumnType::List(_) => return None,
            item => ColumnType::List(Box::new(item)),
        },
        _ => return None,
    })
}

fn refuse_what_changes(plan: &LogicalPlan) -> Result<(), QueryFault> {
    let mut found = None;
    // The visitor only looks: it fails never.
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.exists(|inner| {
                if let Expr::ScalarFunction(call) = inner
                    && call.func.signature().volatility != Volatility::Immutable
                {
                    found = Some(call.func.name().to_owned());
                }
                Ok(found.is_some())
            })?;
            Ok(TreeNodeRecursion::Continue)
        })
    });
    match found {
        Some(name) => Err(fault(
            format!("`{name}()` gives another value at every run"),
            "columns of the rows, or the period's bounds `$start` and `$end`: the same hours must give the same rows",
        )),
        None => Ok(()),
    }
}

/// Why a query does not plan, in words for the one who wrote it.
fn explain(error: &DataFusionError, functions: &[String]) -> QueryFault {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other causes speak for themselves"
    )]
    match error.find_root() {
        DataFusionError::SchemaError(cause, _) => match cause.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let names: Vec<&str> = valid_fields.iter().map(|field| field.name.as_str()).collect();
                let hint = hint(&field.name, names.iter().copied());
                fault(
                    format!("no column is named `{}`", field.flat_name()),
                    format!("{hint}columns here are {}", names.join(", ")),
                )
            }
            SchemaError::AmbiguousReference { .. }
            | SchemaError::DuplicateQualifiedField { .. }
            | SchemaError::DuplicateUnqualifiedField { .. } => fault(
                format!("the query does not plan: {}", said(error)),
                "a table's name before the column: `s.user_id`",
            ),
        },
        DataFusionError::Plan(text) if text.starts_with("Invalid function '") => {
            let name = text.split('\'').nth(1).unwrap_or_default();
            fault(
                format!("no function is named `{name}`"),
                format!(
                    "{}one of DataFusion's functions",
                    hint(name, functions.iter().map(String::as_str))
                ),
            )
        }
        DataFusionError::Plan(text) if text.starts_with("No value found for placeholder") => {
            let name = text.rsplit(' ').next().unwrap_or_default();
            fault(
                format!("`{name}` has no value here"),
                "`$start` and `$end`: the period's bounds",
            )
        }
        _ => fault(
            format!("the query does not plan: {}", said(error)),
            "a query that DataFusion can run over these tables",
        ),
    }
}

/// The first line of what DataFusion says.
fn said(error: &DataFusionError) -> String {
    let root = error.find_root();
    let text = if let DataFusionError::SQL(cause, _) = root {
        cause.to_string()
    } else {
        root.strip_backtrace()
    };
    let text = text.trim_start_matches("sql parser error: ");
    text.lines().next().unwrap_or_default().to_owned()
}
