//! An SQL expression, planned once, evaluated by batch, row by row in its effects.
//!
//! In: the text, the table's columns, which of them it may see. Out: an [`Expression`], or what is wrong with the text.
//!
//! - The result is cast to the declared type by a checked cast: what does not fit fails its row. `TRY_CAST` is
//!   the way to ask for null instead. Integer arithmetic that overflows fails its row too.
//! - Functions that do not depend on their arguments alone (`now()`, `random()`) are refused: a batch's output is a
//!   function of its positions (invariant 10).
//! - A `json` column takes text that is JSON; other text fails its row.
//! - Names are compared as they are written: the columns' case is the file's case.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{can_cast_types, concat, nullif};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, Volatility, cast};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::prelude::SessionConfig;

use super::check::{explain, unknown_column};
use super::layout::type_name;
use crate::spec::model::{Column, ColumnType, ColumnValue};

/// A planned expression.
#[derive(Debug)]
pub(super) struct Expression {
    /// Table columns that it reads.
    pub(super) inputs: Vec<usize>,
    schema: SchemaRef,
    physical: Arc<dyn PhysicalExpr>,
    output: DataType,
    must_be_json: bool,
}

/// What is wrong with an expression, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExpressionError {
    pub(super) wrong: String,
    pub(super) right: String,
}

/// A result: one value per row, and the rows that failed (null in `values`), with the reason.
pub(super) struct Evaluated {
    pub(super) values: ArrayRef,
    pub(super) failed: Vec<(usize, &'static str)>,
}

/// Plans expressions; holds the functions.
pub(super) struct Planner {
    state: SessionState,
}

impl Planner {
    pub(super) fn new() -> Self {
        let mut config = SessionConfig::new();
        config.options_mut().sql_parser.enable_ident_normalization = false;
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .build();
        Self { state }
    }

    /// Plans a column's value.
    pub(super) fn value(
        &self,
        sql: &str,
        columns: &[Column],
        visible: &[bool],
        kind: &ColumnType,
    ) -> Result<Expression, ExpressionError> {
        let (expr, schema) = self.logical(sql, columns, visible)?;
        let target = kind.arrow();
        let found = expr
            .get_type(&schema)
            .map_err(|error| explain(&error, &self.functions()))?;
        if !can_cast_types(&found, &target) {
            return Err(ExpressionError {
                wrong: format!(
                    "the expression gives {found}, which cannot become {}",
                    type_name(kind)
                ),
                right: "convert it in the expression, or declare another type".to_owned(),
            });
        }
        let expr = if found == target {
            expr
        } else {
            cast(expr, target.clone())
        };
        self.physical(expr, &schema, columns, target, matches!(kind, ColumnType::Json))
    }

    /// Plans a version's condition: over every column, boolean.
    pub(super) fn condition(&self, sql: &str, columns: &[Column]) -> Result<Expression, ExpressionError> {
        let (expr, schema) = self.logical(sql, columns, &vec![true; columns.len()])?;
        let found = expr
            .get_type(&schema)
            .map_err(|error| explain(&error, &self.functions()))?;
        if found != DataType::Boolean {
            return Err(ExpressionError {
                wrong: format!("the condition gives {found}, not true or false"),
                right: "compare it with something: `kind = 'old'`, `id IS NULL`".to_owned(),
            });
        }
        self.physical(expr, &schema, columns, DataType::Boolean, false)
    }

    fn functions(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn logical(
        &self,
        sql: &str,
        columns: &[Column],
        visible: &[bool],
    ) -> Result<(Expr, DFSchema), ExpressionError> {
        let fields: Vec<_> = columns
            .iter()
            .map(|column| column.field().with_nullable(true))
            .collect();
        let explain = |error: &DataFusionError| {
            unknown_column(error, columns, visible).unwrap_or_else(|| explain(error, &self.functions()))
        };
        let schema = DFSchema::try_from(Schema::new(fields)).map_err(|error| explain(&error))?;
        let expr = self
            .state
            .create_logical_expr(sql, &schema)
            .map_err(|error| explain(&error))?;
        let expr = expr.unalias();
        refuse_what_is_no_function_of_the_row(&expr)?;
        for reference in expr.column_refs() {
            if let Some(below) = columns.iter().position(|column| column.name == reference.name)
                && !visible[below]
            {
                let name = &reference.name;
                return Err(match columns[below].value {
                    ColumnValue::Enriched(..) => ExpressionError {
                        wrong: format!("column `{name}` is looked up by a key that is made here or below"),
                        right: "move the lookup's key above this column: a looked-up column is seen where its key is"
                            .to_owned(),
                    },
                    ColumnValue::From(_) | ColumnValue::Sql(_) => ExpressionError {
                        wrong: format!("column `{name}` stands below and is not read from a path"),
                        right: "move that column above this one: expressions are evaluated from the top"
                            .to_owned(),
                    },
                });
            }
        }
        Ok((expr, schema))
    }

    /// Plans over the columns that are used and no others, so that no other is touched at run time.
    fn physical(
        &self,
        expr: Expr,
        table: &DFSchema,
        columns: &[Column],
        output: DataType,
        must_be_json: bool,
    ) -> Result<Expression, ExpressionError> {
        let plan = || {
            let expr = self.simplified(expr, table)?;
            let used = expr.column_refs();
            let is_used = |i: &usize| used.iter().any(|reference| reference.name == columns[*i].name);
            let inputs: Vec<usize> = (0..columns.len()).filter(is_used).collect();
            let fields = inputs.iter().map(|&i| columns[i].field().with_nullable(true));
            let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            let narrow = DFSchema::try_from(schema.as_ref().clone())?;
            let physical = fail_on_overflow(self.state.create_physical_expr(expr, &narrow)?)?;
            probe(physical.as_ref(), &schema)?;
            Ok(Expression {
                inputs,
                schema,
                physical,
                output,
                must_be_json,
            })
        };
        plan().map_err(|error| explain(&error, &self.functions()))
    }

    /// Types made to agree, constants folded; some functions (`coalesce`) exist in simplified form only.
    fn simplified(&self, expr: Expr, table: &DFSchema) -> Result<Expr, DataFusionError> {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(table.clone()))
            .with_config_options(Arc::clone(self.state.config_options()))
            .build();
        let simplifier = ExprSimplifier::new(context);
        simplifier.simplify(simplifier.coerce(expr, table)?)
    }
}

/// Runs the expression on nothing, so that what DataFusion plans but cannot run is found here and not in every row.
fn probe(physical: &dyn PhysicalExpr, schema: &SchemaRef) -> Result<(), DataFusionError> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| new_null_array(field.data_type(), 1));
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let nulls = RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options)?;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other errors come from the nulls"
    )]
    match physical.evaluate(&nulls) {
        Ok(_) => Ok(()),
        Err(error) => match error.find_root() {
            DataFusionError::Internal(_) | DataFusionError::NotImplemented(_) | DataFusionError::Plan(_) => {
                Err(error)
            }
            _ => Ok(()),
        },
    }
}

fn refuse_what_is_no_function_of_the_row(expr: &Expr) -> Result<(), ExpressionError> {
    let mut fault = None;
    // The visitor fails never: it only looks.
    let _ = expr.exists(|node| {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "all other expressions are of the row"
        )]
        let found = match node {
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                Some((
                    format!("`{}()` gives another value at every run", call.func.name()),
                    "use columns of the event: a retry must write the same rows",
                ))
            }
            Expr::AggregateFunction(call) => Some((
                format!("`{}()` looks at many rows", call.func.name()),
                "use functions of one row; figures over rows belong in the quality suite",
            )),
            Expr::WindowFunction(call) => Some((
                format!("`{}` looks at many rows", call.fun.name()),
                "use functions of one row",
            )),
            Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) => {
                Some((
                    "a subquery looks at many rows".to_owned(),
                    "use columns of the event; lookups belong under `enrich`",
                ))
            }
            Expr::Placeholder(_) | Expr::ScalarVariable(..) => Some((
                "a parameter has no value here".to_owned(),
                "write the value itself",
            )),
            _ => None,
        };
        fault = found.map(|(wrong, right)| ExpressionError {
            wrong,
            right: right.to_owned(),
        });
        Ok(fault.is_some())
    });
    fault.map_or(Ok(()), Err)
}

/// Integer arithmetic wraps silently by default; here it fails its row.
fn fail_on_overflow(physical: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let checked = physical.transform_up(|node| {
        let Some(binary) = node.downcast_ref::<BinaryExpr>() else {
            return Ok(Transformed::no(node));
        };
        if !matches!(binary.op(), Operator::Plus | Operator::Minus | Operator::Multiply) {
            return Ok(Transformed::no(node));
        }
        let (left, right) = (Arc::clone(binary.left()), Arc::clone(binary.right()));
        let checked = BinaryExpr::new(left, *binary.op(), right).with_fail_on_overflow(true);
        Ok(Transformed::yes(Arc::new(checked) as Arc<dyn PhysicalExpr>))
    })?;
    Ok(checked.data)
}

impl Expression {
    /// Evaluates over table columns; `column` gives the array of a table column that stands in `inputs`.
    pub(super) fn evaluate(
        &self,
        rows: usize,
        column: impl Fn(usize) -> ArrayRef,
    ) -> Result<Evaluated, ArrowError> {
        let inputs = self.inputs.iter().map(|&i| column(i)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), inputs, &options)?;
        let mut pieces = Vec::new();
        let mut failed = Vec::new();
        self.bisect(&batch, 0, &mut pieces, &mut failed);
        let values = match pieces.as_slice() {
            [] => new_null_array(&self.output, rows),
            [whole] => Arc::clone(whole),
            pieces => concat(&pieces.iter().map(AsRef::as_ref).collect::<Vec<_>>())?,
        };
        if self.must_be_json {
            refuse_non_json(values, failed)
        } else {
            Ok(Evaluated { values, failed })
        }
    }

    /// A batch that fails is halved until single rows fail: the result is what evaluating row by row gives.
    fn bisect(
        &self,
        batch: &RecordBatch,
        first: usize,
        pieces: &mut Vec<ArrayRef>,
        failed: &mut Vec<(usize, &'static str)>,
    ) {
        let rows = batch.num_rows();
        if rows == 0 {
            return;
        }
        let result = self
            .physical
            .evaluate(batch)
            .and_then(|value| value.into_array(rows));
        match result {
            Ok(values) => pieces.push(values),
            Err(error) if rows == 1 => {
                failed.push((first, reason(&error)));
                pieces.push(new_null_array(&self.output, 1));
            }
            Err(_) => {
                let half = rows / 2;
                self.bisect(&batch.slice(0, half), first, pieces, failed);
                self.bisect(&batch.slice(half, rows - half), first + half, pieces, failed);
            }
        }
    }
}

fn refuse_non_json(
    values: ArrayRef,
    mut failed: Vec<(usize, &'static str)>,
) -> Result<Evaluated, ArrowError> {
    let texts = values.as_string_view();
    let is_bad = |text: Option<&str>| {
        text.is_some_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_err())
    };
    let bad: BooleanBuffer = texts.iter().map(is_bad).collect();
    if bad.count_set_bits() == 0 {
        return Ok(Evaluated { values, failed });
    }
    failed.extend(
        bad.set_indices()
            .map(|row| (row, "the expression's text is not JSON")),
    );
    failed.sort_unstable_by_key(|(row, _)| *row);
    let values = nullif(&values, &BooleanArray::new(bad, None))?;
    Ok(Evaluated { values, failed })
}

/// Why a row failed, without the error's text: that one quotes the record's values.
fn reason(error: &DataFusionError) -> &'static str {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other causes read alike to the user"
    )]
    match error.find_root() {
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::DivideByZero => "the expression divides by zero",
            ArrowError::ArithmeticOverflow(_) => "the expression's arithmetic overflows",
            ArrowError::CastError(_) | ArrowError::ParseError(_) => {
                "a value does not convert to the type that the expression asks for"
            }
            ArrowError::InvalidArgumentError(_) | ArrowError::ComputeError(_) => {
                "a value is out of the range of the expression's types"
            }
            _ => "the expression fails on this record",
        },
        _ => "the expression fails on this record",
    }
}
