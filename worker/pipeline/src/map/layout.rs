//! How each format fills the table: one step per column, for the base format and for every version.
//!
//! In: the pipeline. Out: steps that name decoded fields by position, and the plan that decodes them.
//!
//! Formats share decoded fields: a path that two formats read as the same type is decoded once.

use arrow::datatypes::DataType;

use super::MapError;
use super::expression::{Expression, ExpressionError, Planner};
use crate::decode::{DecodePlan, Wanted, WantedKind};
use crate::spec::model::{Column, ColumnType, ColumnValue, Path, Pipeline, When};

/// The base format and the versions, in the order of matching.
#[derive(Debug)]
pub(super) struct Formats {
    pub(super) base: Layout,
    pub(super) versions: Vec<CompiledVersion>,
    /// By decoded field: its name and Arrow type.
    pub(super) decoded: Vec<(String, DataType)>,
}

#[derive(Debug)]
pub(super) struct CompiledVersion {
    pub(super) name: String,
    pub(super) when: Condition,
    pub(super) layout: Layout,
}

#[derive(Debug)]
pub(super) enum Condition {
    /// The decoded field that says whether the path is there.
    Missing(usize),
    /// Over the base format's columns.
    Sql(Box<Expression>),
}

/// One step per table column.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) steps: Vec<Step>,
}

#[derive(Debug)]
pub(super) enum Step {
    /// The decoded field as it is.
    Field(usize),
    /// An expression over other table columns.
    Sql(Box<Expression>),
    /// What a lookup adds, both by position.
    LookedUp(usize, usize),
}

impl Layout {
    /// The table columns that are filled from a decoded field.
    pub(super) fn columns_of(&self, field: usize) -> impl Iterator<Item = usize> {
        self.steps
            .iter()
            .enumerate()
            .filter_map(move |(column, step)| match step {
                Step::Field(from) if *from == field => Some(column),
                Step::Field(_) | Step::Sql(_) | Step::LookedUp(..) => None,
            })
    }
}

impl Formats {
    pub(super) fn compile(pipeline: &Pipeline) -> Result<(Self, DecodePlan), MapError> {
        let mut wanted = WantedFields::default();
        let planner = Planner::new();
        let base = layout(pipeline, &planner, &mut wanted, None)?;
        let versions = (0..pipeline.versions.len())
            .map(|version| {
                let layout = layout(pipeline, &planner, &mut wanted, Some(version))?;
                let declared = &pipeline.versions[version];
                let when = match &declared.when {
                    When::Missing(path) => Condition::Missing(wanted.position(path, &WantedKind::Present)),
                    When::Sql(sql) => {
                        let condition = planner.condition(sql, &pipeline.columns);
                        let condition =
                            condition.map_err(|error| refused(pipeline, Some(version), None, error))?;
                        Condition::Sql(Box::new(condition))
                    }
                };
                Ok(CompiledVersion {
                    name: declared.name.clone(),
                    when,
                    layout,
                })
            })
            .collect::<Result<_, MapError>>()?;
        let decoded = wanted.fields.iter().map(|field| {
            let kind = match &field.kind {
                WantedKind::Value(kind) => kind.arrow(),
                WantedKind::Present => DataType::Boolean,
            };
            (field.name.clone(), kind)
        });
        let formats = Self {
            base,
            versions,
            decoded: decoded.collect(),
        };
        let plan = DecodePlan {
            fields: wanted.fields,
            record_bytes_max: pipeline.limits.record_bytes,
            depth_max: pipeline.limits.depth,
        };
        Ok((formats, plan))
    }
}

/// The value of a column in a format: the version's own, or the column's.
pub(super) fn value_in<'a>(
    pipeline: &'a Pipeline,
    version: Option<usize>,
    column: &'a Column,
) -> &'a ColumnValue {
    version
        .and_then(|version| pipeline.versions[version].columns.get(&column.name))
        .unwrap_or(&column.value)
}

/// Which columns an expression for `column` may use: those above it, those read from a path, and those that are looked
/// up by one of these.
pub(super) fn visible_to(pipeline: &Pipeline, version: Option<usize>, column: usize) -> Vec<bool> {
    let is_seen = |i: usize, other: &Column| {
        i < column || (i != column && matches!(value_in(pipeline, version, other), ColumnValue::From(_)))
    };
    let all = pipeline.columns.iter().enumerate();
    all.map(|(i, other)| match &other.value {
        ColumnValue::Enriched(lookup, _) => key_of(pipeline, *lookup).is_some_and(|(i, key)| is_seen(i, key)),
        ColumnValue::From(_) | ColumnValue::Sql(_) => is_seen(i, other),
    })
    .collect()
}

/// The column that a lookup goes by.
pub(super) fn key_of(pipeline: &Pipeline, lookup: usize) -> Option<(usize, &Column)> {
    pipeline.column(&pipeline.enrich.get(lookup)?.key.0)
}

fn layout(
    pipeline: &Pipeline,
    planner: &Planner,
    wanted: &mut WantedFields,
    version: Option<usize>,
) -> Result<Layout, MapError> {
    let step = |(i, column): (usize, &Column)| match value_in(pipeline, version, column) {
        ColumnValue::From(path) => Ok(Step::Field(
            wanted.position(path, &WantedKind::Value(column.kind.clone())),
        )),
        ColumnValue::Sql(sql) => {
            let visible = visible_to(pipeline, version, i);
            let expression = planner.value(sql, &pipeline.columns, &visible, &column.kind);
            let expression = expression.map_err(|error| refused(pipeline, version, Some(i), error))?;
            Ok(Step::Sql(Box::new(expression)))
        }
        ColumnValue::Enriched(lookup, _) => {
            let mut added = pipeline
                .enrich
                .get(*lookup)
                .into_iter()
                .flat_map(|one| one.add.keys());
            let added = added.position(|ours| *ours == column.name);
            added
                .map(|added| Step::LookedUp(*lookup, added))
                .ok_or_else(|| MapError::Enriched {
                    column: column.name.clone(),
                })
        }
    };
    let steps = pipeline
        .columns
        .iter()
        .enumerate()
        .map(step)
        .collect::<Result<_, _>>()?;
    Ok(Layout { steps })
}

fn refused(
    pipeline: &Pipeline,
    version: Option<usize>,
    column: Option<usize>,
    error: ExpressionError,
) -> MapError {
    let version = version.map(|version| format!("version `{}`", pipeline.versions[version].name));
    let column = column.map(|column| format!("column `{}`", pipeline.columns[column].name));
    MapError::Expression {
        place: [version, column]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", "),
        wrong: error.wrong,
        right: error.right,
    }
}

/// The decoded fields, each (path, kind) once.
#[derive(Default)]
struct WantedFields {
    fields: Vec<Wanted>,
}

impl WantedFields {
    fn position(&mut self, path: &Path, kind: &WantedKind) -> usize {
        let known = |field: &Wanted| field.path == *path && field.kind == *kind;
        if let Some(position) = self.fields.iter().position(known) {
            return position;
        }
        let mut name = format!("{}:{}", path.join("."), kind_name(kind));
        if self.fields.iter().any(|field| field.name == name) {
            // `["a.b"]` and `["a", "b"]` read alike.
            name = format!("{name}:{}", self.fields.len());
        }
        self.fields.push(Wanted {
            name,
            path: path.clone(),
            kind: kind.clone(),
        });
        self.fields.len() - 1
    }
}

fn kind_name(kind: &WantedKind) -> String {
    match kind {
        WantedKind::Value(kind) => type_name(kind),
        WantedKind::Present => "present".to_owned(),
    }
}

/// A column type as a pipeline file writes it.
pub(crate) fn type_name(kind: &ColumnType) -> String {
    match kind {
        ColumnType::String => "string".to_owned(),
        ColumnType::Bool => "bool".to_owned(),
        ColumnType::Int32 => "int32".to_owned(),
        ColumnType::Int64 => "int64".to_owned(),
        ColumnType::Float64 => "float64".to_owned(),
        ColumnType::Decimal(precision, scale) => format!("decimal({precision},{scale})"),
        ColumnType::Date => "date".to_owned(),
        ColumnType::Timestamp => "timestamp".to_owned(),
        ColumnType::Json => "json".to_owned(),
        ColumnType::List(item) => format!("list<{}>", type_name(item)),
    }
}
