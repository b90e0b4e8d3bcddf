//! From a declared expectation to what is done about it.
//!
//! In: an expectation and the table. Out: a row check, a statistic with its verdict, an answer that needs no
//! row, or the reason why there is none: that reason becomes the exception in the result.

use arrow::datatypes::{DataType, Schema};
use serde_json::{Map, Value, json};

use super::column_types;
use super::kernels::compare::Comparison;
use super::kernels::pattern::Pattern;
use super::kernels::range::{Bounds, Range};
use super::kernels::set::ValueSet;
use super::kernels::strftime::TimeFormat;
use super::measure::{self, Measure};
use super::suite::Expectation;
use super::unexpected_rows;
use super::verdict::{ColumnsTest, Ignore, Judge, Quantifier, ValueTest};

/// What is done about an expectation.
#[derive(Debug)]
pub(super) enum Kind {
    /// Row by row; the text says what a failing row is told.
    Rows(Judge, String),
    /// A statistic.
    Measure(Measure),
    /// Known from the table alone: success and result.
    Fixed(bool, Value),
    /// Not answered, and why.
    Broken(String),
}

/// Never fails: what cannot be compiled is [`Kind::Broken`].
pub(super) fn compile(declared: &Expectation, table: &Schema) -> Kind {
    let arguments = Arguments {
        kwargs: &declared.kwargs,
        table,
    };
    arguments.kind(&declared.kind).unwrap_or_else(Kind::Broken)
}

/// How a text becomes a pattern.
type Make = fn(&str) -> Result<Pattern, String>;

/// An expectation's arguments, by name.
pub(super) struct Arguments<'a> {
    pub(super) kwargs: &'a Map<String, Value>,
    pub(super) table: &'a Schema,
}

impl Arguments<'_> {
    fn kind(&self, kind: &str) -> Result<Kind, String> {
        if let Some(fixed) = self.by_table_alone(kind)? {
            return Ok(fixed);
        }
        if let Some(measure) = measure::compile(kind, self)? {
            return Ok(Kind::Measure(measure));
        }
        let (judge, what) = match kind {
            "expect_column_values_to_not_be_null" => {
                (Judge::NotNull(self.column("column")?), "is null".to_owned())
            }
            "expect_column_values_to_be_null" => {
                (Judge::Null(self.column("column")?), "is not null".to_owned())
            }
            "unexpected_rows_expectation" => (
                Judge::Sql(unexpected_rows::compile(
                    self.text("unexpected_rows_query")?,
                    self.table,
                )?),
                self.kwargs
                    .get("description")
                    .and_then(Value::as_str)
                    .unwrap_or("is a row that the query finds")
                    .to_owned(),
            ),
            _ => match self.value_test(kind)? {
                Some((test, what)) => (Judge::Value(self.column("column")?, test), what),
                None => self
                    .columns_test(kind)?
                    .ok_or_else(|| format!("`{kind}` is not supported"))?,
            },
        };
        Ok(Kind::Rows(judge, format!("{kind}: {what}")))
    }

    fn value_test(&self, kind: &str) -> Result<Option<(ValueTest, String)>, String> {
        let of_column =
            || -> Result<&DataType, String> { Ok(self.table.field(self.column("column")?).data_type()) };
        Ok(Some(match kind {
            "expect_column_values_to_be_between" => {
                let bounds = Bounds::of(self.kwargs);
                let range = Range::compile(of_column()?, &bounds)?;
                (ValueTest::Range(range), format!("not {}", bounds.describe()))
            }
            "expect_column_values_to_be_in_set" => match self.list("value_set")? {
                None => (ValueTest::Always, String::new()),
                Some(set) => {
                    let what = format!("not one of the {} values of the set", set.len());
                    (ValueTest::In(ValueSet::compile(of_column()?, set)?), what)
                }
            },
            "expect_column_values_to_not_be_in_set" => match self.list("value_set")? {
                None => (ValueTest::Always, String::new()),
                Some(set) => (
                    ValueTest::NotIn(ValueSet::compile(of_column()?, set)?),
                    "in the forbidden set".to_owned(),
                ),
            },
            "expect_column_value_lengths_to_be_between" => {
                self.text_column()?;
                let bounds = Bounds::of(self.kwargs);
                match Range::compile(&DataType::Int64, &bounds)
                    .map_err(|_| "Invalid configuration".to_owned())?
                {
                    Range::Int(min, max) if max >= 0 => (
                        ValueTest::Length(u64::try_from(min).unwrap_or(0), max.unsigned_abs()),
                        format!("length not {}", bounds.describe()),
                    ),
                    _ => (ValueTest::Length(1, 0), "length below 0 is wanted".to_owned()),
                }
            }
            "expect_column_value_lengths_to_equal" => {
                self.text_column()?;
                let wanted = self.number("value")?;
                let what = format!("length not {wanted}");
                if wanted < 0.0 || wanted.fract() != 0.0 {
                    (ValueTest::Length(1, 0), what)
                } else {
                    (ValueTest::Length(wanted as u64, wanted as u64), what)
                }
            }
            "expect_column_values_to_match_strftime_format" => {
                self.text_column()?;
                let format = self.text("strftime_format")?;
                (
                    ValueTest::Time(TimeFormat::compile(format)?),
                    format!("not of the format {format}"),
                )
            }
            "expect_column_values_to_be_json_parseable" => {
                self.text_column()?;
                (ValueTest::Json, "not JSON".to_owned())
            }
            _ => match self.patterns(kind)? {
                Some((patterns, quantifier)) => {
                    self.text_column()?;
                    let what = if quantifier == Quantifier::None {
                        "matches"
                    } else {
                        "does not match"
                    };
                    (
                        ValueTest::Matches(patterns, quantifier),
                        format!("{what} the pattern"),
                    )
                }
                None => return Ok(None),
            },
        }))
    }

    fn patterns(&self, kind: &str) -> Result<Option<(Vec<Pattern>, Quantifier)>, String> {
        let match_on = || match self.kwargs.get("match_on").and_then(Value::as_str) {
            None | Some("any") => Ok(Quantifier::Any),
            Some("all") => Ok(Quantifier::All),
            Some(_) => Err("match_on must be either 'any' or 'all'".to_owned()),
        };
        let (key, make, quantifier): (_, Make, _) = match kind {
            "expect_column_values_to_match_regex" => ("regex", Pattern::regex, Quantifier::Any),
            "expect_column_values_to_not_match_regex" => ("regex", Pattern::regex, Quantifier::None),
            "expect_column_values_to_match_regex_list" => ("regex_list", Pattern::regex, match_on()?),
            "expect_column_values_to_not_match_regex_list" => {
                ("regex_list", Pattern::regex, Quantifier::None)
            }
            "expect_column_values_to_match_like_pattern" => ("like_pattern", Pattern::like, Quantifier::Any),
            "expect_column_values_to_not_match_like_pattern" => {
                ("like_pattern", Pattern::like, Quantifier::None)
            }
            "expect_column_values_to_match_like_pattern_list" => {
                ("like_pattern_list", Pattern::like, match_on()?)
            }
            "expect_column_values_to_not_match_like_pattern_list" => {
                ("like_pattern_list", Pattern::like, Quantifier::None)
            }
            _ => return Ok(None),
        };
        let texts = match self.kwargs.get(key) {
            Some(Value::String(text)) => vec![text.as_str()],
            Some(Value::Array(texts)) if !texts.is_empty() && texts.iter().all(Value::is_string) => {
                texts.iter().filter_map(Value::as_str).collect()
            }
            _ => return Err(format!("`{key}` must be given as text")),
        };
        let patterns = texts.into_iter().map(make).collect::<Result<_, _>>()?;
        Ok(Some((patterns, quantifier)))
    }

    fn columns_test(&self, kind: &str) -> Result<Option<(Judge, String)>, String> {
        let pair = || Ok::<_, String>(vec![self.column("column_A")?, self.column("column_B")?]);
        let (columns, test, what) = match kind {
            "expect_column_pair_values_a_to_be_greater_than_b" => {
                let or_equal = self.flag("or_equal", false);
                let comparison = if or_equal {
                    Comparison::GreaterOrEqual
                } else {
                    Comparison::Greater
                };
                let columns = pair()?;
                self.comparable(&columns)?;
                (
                    columns,
                    ColumnsTest::Compare(comparison),
                    "column_A is not greater than column_B",
                )
            }
            "expect_column_pair_values_to_be_equal" => (
                pair()?,
                ColumnsTest::Compare(Comparison::Equal),
                "column_A and column_B differ",
            ),
            "expect_column_pair_values_to_be_in_set" => {
                let columns = pair()?;
                let test = self.pair_set(&columns)?;
                (columns, test, "the pair is not one of the set")
            }
            "expect_multicolumn_sum_to_equal" => {
                let columns = self.columns()?;
                let number = |column: &usize| {
                    let kind = self.table.field(*column).data_type();
                    kind.is_numeric() || kind == &DataType::Boolean
                };
                if !columns.iter().all(number) {
                    return Err("a sum needs numeric columns".to_owned());
                }
                (
                    columns,
                    ColumnsTest::Sum(self.number("sum_total")?),
                    "the columns do not add up to sum_total",
                )
            }
            "expect_select_column_values_to_be_unique_within_record"
            | "expect_multicolumn_values_to_be_unique" => (
                self.columns()?,
                ColumnsTest::Different,
                "two of the columns hold the same value",
            ),
            "expect_multicolumn_values_to_be_equal" => (
                self.columns()?,
                ColumnsTest::Same,
                "the columns do not hold the same value",
            ),
            _ => return Ok(None),
        };
        let judge = Judge::Columns {
            columns,
            ignore: self.ignore()?,
            test,
        };
        Ok(Some((judge, what.to_owned())))
    }

    fn comparable(&self, columns: &[usize]) -> Result<(), String> {
        let kinds: Vec<_> = columns
            .iter()
            .map(|column| self.table.field(*column).data_type())
            .collect();
        match kinds.as_slice() {
            [a, b] if super::kernels::compare::meeting_type(a, b).is_none() => {
                Err(format!("columns of type {a} and {b} cannot be compared"))
            }
            _ => Ok(()),
        }
    }

    fn pair_set(&self, columns: &[usize]) -> Result<ColumnsTest, String> {
        let Some(pairs) = self.list("value_pairs_set")? else {
            return Ok(ColumnsTest::Always);
        };
        let side = |at: usize, value: &Value| {
            if value.is_null() {
                return Ok(None);
            }
            let column = columns.get(at).copied().unwrap_or_default();
            ValueSet::compile(self.table.field(column).data_type(), std::slice::from_ref(value)).map(Some)
        };
        let pairs: Result<Vec<_>, String> = pairs
            .iter()
            .map(|pair| match pair.as_array().map(Vec::as_slice) {
                Some([left, right]) => Ok((side(0, left)?, side(1, right)?)),
                _ => Err("`value_pairs_set` must be a list of pairs".to_owned()),
            })
            .collect();
        Ok(ColumnsTest::PairIn(pairs?))
    }

    /// What `ignore_row_if` says; by default rows in which everything is null are left out.
    pub(super) fn ignore(&self) -> Result<Ignore, String> {
        match self.kwargs.get("ignore_row_if").and_then(Value::as_str) {
            None | Some("both_values_are_missing" | "all_values_are_missing") => Ok(Ignore::AllNull),
            Some("either_value_is_missing" | "any_value_is_missing") => Ok(Ignore::AnyNull),
            Some("neither" | "never") => Ok(Ignore::Never),
            Some(other) => Err(format!("Unrecognized value of ignore_row_if (\"{other}\").")),
        }
    }

    fn by_table_alone(&self, kind: &str) -> Result<Option<Kind>, String> {
        let names: Vec<&str> = self
            .table
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        let observed = |value: Value| json!({ "observed_value": value });
        Ok(Some(match kind {
            "expect_column_to_exist" => {
                let wanted = self.text("column")?;
                let is_there = match self.kwargs.get("column_index").and_then(Value::as_i64) {
                    None | Some(0) => names.contains(&wanted),
                    Some(index) => {
                        // As in Python, a negative index counts from the end.
                        let index = if index < 0 {
                            index + names.len() as i64
                        } else {
                            index
                        };
                        usize::try_from(index).ok().and_then(|index| names.get(index)) == Some(&wanted)
                    }
                };
                Kind::Fixed(is_there, json!({}))
            }
            "expect_table_column_count_to_equal" => {
                let wanted = self.number("value")?;
                Kind::Fixed(wanted == names.len() as f64, observed(names.len().into()))
            }
            "expect_table_column_count_to_be_between" => {
                let is_within = Bounds::of(self.kwargs).contain(names.len() as f64)?;
                Kind::Fixed(is_within, observed(names.len().into()))
            }
            "expect_table_columns_to_match_ordered_list" => self.ordered_list(&names)?,
            "expect_table_columns_to_match_set" => self.column_set(&names)?,
            "expect_column_values_to_be_of_type" | "expect_column_type_to_be" => {
                self.type_is_one_of(self.kwargs.get("type_").map(std::slice::from_ref))?
            }
            "expect_column_values_to_be_in_type_list" => {
                self.type_is_one_of(self.list("type_list")?.map(Vec::as_slice))?
            }
            _ => return Ok(None),
        }))
    }

    fn ordered_list(&self, names: &[&str]) -> Result<Kind, String> {
        let wanted = self.list("column_list")?;
        let Some(wanted) = wanted else {
            return Ok(Kind::Fixed(true, json!({"observed_value": names})));
        };
        let mismatched: Vec<Value> = (0..wanted.len().max(names.len()))
            .filter(|at| wanted.get(*at).and_then(Value::as_str) != names.get(*at).copied())
            .map(|at| json!({"Expected Column Position": at, "Expected": wanted.get(at), "Found": names.get(at)}))
            .collect();
        if mismatched.is_empty() {
            return Ok(Kind::Fixed(true, json!({"observed_value": names})));
        }
        Ok(Kind::Fixed(
            false,
            json!({"observed_value": names, "details": {"mismatched": mismatched}}),
        ))
    }

    fn column_set(&self, names: &[&str]) -> Result<Kind, String> {
        let wanted: Option<Vec<&str>> = self
            .list("column_set")?
            .map(|set| set.iter().filter_map(Value::as_str).collect());
        let mut found = names.to_vec();
        found.sort_unstable();
        let observed = json!({"observed_value": found});
        let is_exact = self.flag("exact_match", true);
        let wanted = match wanted {
            None if !is_exact => return Ok(Kind::Fixed(true, observed)),
            None => Vec::new(),
            Some(wanted) => wanted,
        };
        let mut unexpected: Vec<&str> = names
            .iter()
            .filter(|name| !wanted.contains(name))
            .copied()
            .collect();
        let mut missing: Vec<&str> = wanted
            .iter()
            .filter(|name| !names.contains(name))
            .copied()
            .collect();
        unexpected.sort_unstable();
        missing.sort_unstable();
        missing.dedup();
        if unexpected.is_empty() && missing.is_empty() {
            return Ok(Kind::Fixed(true, observed));
        }
        let success = !is_exact && missing.is_empty();
        let mut mismatched = Map::new();
        for (key, list) in [("unexpected", unexpected), ("missing", missing)] {
            if !list.is_empty() {
                mismatched.insert(key.to_owned(), json!(list));
            }
        }
        Ok(Kind::Fixed(
            success,
            json!({"observed_value": found, "details": {"mismatched": mismatched}}),
        ))
    }

    fn type_is_one_of(&self, names: Option<&[Value]>) -> Result<Kind, String> {
        let kind = self.table.field(self.column("column")?).data_type();
        let success = match names {
            None => true,
            Some(names) => names
                .iter()
                .any(|name| name.is_null() || name.as_str().is_some_and(|name| column_types::is(kind, name))),
        };
        Ok(Kind::Fixed(
            success,
            json!({"observed_value": column_types::observed(kind)}),
        ))
    }

    /// A named column's position.
    pub(super) fn column(&self, key: &str) -> Result<usize, String> {
        self.find(self.text(key)?)
    }

    fn find(&self, name: &str) -> Result<usize, String> {
        self.table.index_of(name).map_err(|_| {
            let names: Vec<&str> = self
                .table
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect();
            format!(
                "the column `{name}` does not exist; the table has {}",
                names.join(", ")
            )
        })
    }

    fn text_column(&self) -> Result<(), String> {
        let field = self.table.field(self.column("column")?);
        if field.data_type() == &DataType::Utf8View {
            return Ok(());
        }
        Err(format!(
            "the column `{}` is of type {}, and this expectation needs text",
            field.name(),
            field.data_type()
        ))
    }

    /// The positions of `column_list`.
    pub(super) fn columns(&self) -> Result<Vec<usize>, String> {
        let names = self.list("column_list")?.filter(|names| !names.is_empty());
        let names = names.ok_or("`column_list` is empty")?;
        names
            .iter()
            .map(|name| self.find(name.as_str().ok_or("`column_list` must hold names of columns")?))
            .collect()
    }

    pub(super) fn text(&self, key: &str) -> Result<&str, String> {
        self.kwargs
            .get(key)
            .and_then(Value::as_str)
            .ok_or_else(|| format!("`{key}` must be given as text"))
    }

    pub(super) fn number(&self, key: &str) -> Result<f64, String> {
        self.kwargs
            .get(key)
            .and_then(Value::as_f64)
            .ok_or_else(|| format!("`{key}` must be given as a number"))
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> bool {
        self.kwargs.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    /// A list; none when it is absent or null.
    pub(super) fn list(&self, key: &str) -> Result<Option<&Vec<Value>>, String> {
        match self.kwargs.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(format!("`{key}` must be a list")),
        }
    }
}
