//! Maps one batch: finds each row's format, fills the columns by format, puts the rows back in their order.
//!
//! In: a decoded batch. Out: the mapped batch, row for row.
//!
//! A batch of one format is evaluated as it is. Only a batch that really mixes formats is cut: each format's rows
//! are filled on their own, so that no expression meets rows of another format, and interleaved again; a
//! column that all formats present take from the same field is passed through whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{interleave, nullif, take};

use super::expression::Evaluated;
use super::faults::BatchFaults;
use super::layout::{Condition, Layout, Step};
use super::{MapError, MapPlan, Mapped};
use crate::enrich::LookupTable;
use crate::rows::{FAULTS, FaultKind};

/// Maps a decoded batch.
pub(super) fn map_batch(
    plan: &MapPlan,
    decoded: &RecordBatch,
    tables: &[Arc<LookupTable>],
) -> Result<Mapped, MapError> {
    check_schema(plan, decoded)?;
    let rows = decoded.num_rows();
    let faults = decoded.column(decoded.num_columns() - 1).as_string_view();
    let mut faults = BatchFaults::new(faults);
    let broken = faults.broken()?;
    let mut mapping = Mapping {
        plan,
        decoded,
        tables,
        broken: broken.as_ref(),
        faults: &mut faults,
        unmatched: BTreeMap::new(),
    };
    let formats = mapping.formats()?;
    mapping.faults.keep_decoded(plan, |row| formats.of(row))?;
    let mut columns = match &formats {
        RowFormats::One(format) => mapping.fill(plan.layout(*format), None)?,
        RowFormats::Mixed(of_row) => mapping.fill_mixed(of_row)?,
    };
    mapping.note_missing(&columns);
    let unmatched = std::mem::take(&mut mapping.unmatched);
    let origin = decoded.num_columns() - ORIGIN_COLUMNS;
    columns.extend((origin..decoded.num_columns() - 1).map(|i| Arc::clone(decoded.column(i))));
    columns.push(faults.finish()?);
    debug_assert!(columns.iter().all(|column| column.len() == rows));
    Ok(Mapped {
        rows: RecordBatch::try_new(plan.schema(), columns)?,
        unmatched,
    })
}

/// How many columns of [`crate::rows::origin_fields`] follow the data.
const ORIGIN_COLUMNS: usize = 5;

fn check_schema(plan: &MapPlan, decoded: &RecordBatch) -> Result<(), MapError> {
    let schema = decoded.schema_ref();
    let wanted = &plan.formats.decoded;
    let origin = crate::rows::origin_fields();
    let origin = origin.iter().map(|field| (field.name(), field.data_type()));
    let expected = wanted.iter().map(|(name, kind)| (name, kind)).chain(origin);
    for (i, (name, kind)) in expected.enumerate() {
        if i >= schema.fields().len() || schema.field(i).data_type() != kind || schema.field(i).name() != name
        {
            return Err(MapError::Decoded {
                column: name.clone(),
                expected: kind.to_string(),
            });
        }
    }
    if schema.fields().len() != wanted.len() + ORIGIN_COLUMNS {
        return Err(MapError::Decoded {
            column: FAULTS.to_owned(),
            expected: "the last column".to_owned(),
        });
    }
    Ok(())
}

/// Each row's version; none is the base format.
enum RowFormats {
    One(Option<usize>),
    Mixed(Vec<Option<usize>>),
}

impl RowFormats {
    fn of(&self, row: usize) -> Option<usize> {
        match self {
            Self::One(format) => *format,
            Self::Mixed(of_row) => of_row[row],
        }
    }
}

struct Mapping<'a, 'f> {
    plan: &'a MapPlan,
    decoded: &'a RecordBatch,
    tables: &'a [Arc<LookupTable>],
    broken: Option<&'a BooleanBuffer>,
    faults: &'f mut BatchFaults<'a>,
    unmatched: BTreeMap<String, u64>,
}

/// What comes up beside the values of a layout.
#[derive(Default)]
struct Noted {
    /// Column, row and why.
    failed: Vec<(usize, usize, &'static str)>,
    /// Lookup, and how many keys it did not find.
    unmatched: Vec<(usize, u64)>,
}

impl Mapping<'_, '_> {
    fn is_broken(&self, row: usize) -> bool {
        self.broken.is_some_and(|broken| broken.value(row))
    }

    /// The first version that matches each row.
    fn formats(&mut self) -> Result<RowFormats, MapError> {
        let rows = self.decoded.num_rows();
        let versions = &self.plan.formats.versions;
        if versions.is_empty() || rows == 0 {
            return Ok(RowFormats::One(None));
        }
        let mut base = None;
        let mut open = BooleanBuffer::new_set(rows);
        let mut of_row: Vec<Option<usize>> = vec![None; rows];
        for (v, version) in versions.iter().enumerate() {
            let matched = match &version.when {
                Condition::Missing(field) => !self.decoded.column(*field).as_boolean().values(),
                Condition::Sql(_) => self.condition(v, &mut base)?,
            };
            let matched = &matched & &open;
            match matched.count_set_bits() {
                0 => continue,
                all if all == rows => return Ok(RowFormats::One(Some(v))),
                _ => {}
            }
            for row in matched.set_indices() {
                of_row[row] = Some(v);
            }
            open = &open & &!&matched;
        }
        let first = of_row[0];
        if of_row.iter().all(|format| *format == first) {
            return Ok(RowFormats::One(first));
        }
        Ok(RowFormats::Mixed(of_row))
    }

    /// Rows on which a version's SQL condition is true. Where it fails, the row gets a fault: no format is sure.
    fn condition(
        &mut self,
        version: usize,
        base: &mut Option<Vec<ArrayRef>>,
    ) -> Result<BooleanBuffer, MapError> {
        let version = &self.plan.formats.versions[version];
        let Condition::Sql(condition) = &version.when else {
            return Ok(BooleanBuffer::new_unset(self.decoded.num_rows()));
        };
        if base.is_none() {
            // Faults of the base format matter only to rows that turn out to be of it: they are found again then.
            *base = Some(self.evaluate(&self.plan.formats.base, None, &mut Noted::default())?);
        }
        let columns = base.as_deref().unwrap_or_default();
        let rows = self.decoded.num_rows();
        let Evaluated { values, failed } = condition.evaluate(rows, |i| Arc::clone(&columns[i]))?;
        for (row, detail) in failed {
            if !self.is_broken(row) {
                let detail = format!("condition of version `{}`: {detail}", version.name);
                self.faults.add(row, FaultKind::Conversion, None, &detail);
            }
        }
        let values = values.as_boolean();
        Ok(match values.nulls() {
            Some(nulls) => values.values() & nulls.inner(),
            None => values.values().clone(),
        })
    }

    /// The table's columns by one layout, over all rows or the given ones, with the faults noted.
    fn fill(&mut self, layout: &Layout, rows: Option<&UInt32Array>) -> Result<Vec<ArrayRef>, MapError> {
        let mut noted = Noted::default();
        let columns = self.evaluate(layout, rows, &mut noted)?;
        for (lookup, keys) in noted.unmatched.into_iter().filter(|(_, keys)| *keys > 0) {
            let name = self.plan.lookups[lookup].name.clone();
            *self.unmatched.entry(name).or_default() += keys;
        }
        for (column, row, detail) in noted.failed {
            let row = rows.map_or(row, |rows| rows.value(row) as usize);
            if !self.is_broken(row) {
                let name = &self.plan.columns[column].0;
                self.faults.add(row, FaultKind::Conversion, Some(name), detail);
            }
        }
        Ok(columns)
    }

    fn evaluate(
        &self,
        layout: &Layout,
        rows: Option<&UInt32Array>,
        noted: &mut Noted,
    ) -> Result<Vec<ArrayRef>, MapError> {
        let count = rows.map_or(self.decoded.num_rows(), Array::len);
        let broken = self.broken_among(rows);
        let mut columns: Vec<Option<ArrayRef>> = vec![None; layout.steps.len()];
        for (i, step) in layout.steps.iter().enumerate() {
            if let Step::Field(field) = step {
                let whole = self.decoded.column(*field);
                columns[i] = Some(match rows {
                    Some(rows) => take(whole, rows, None)?,
                    None => Arc::clone(whole),
                });
            }
        }
        for (i, step) in layout.steps.iter().enumerate() {
            if matches!(step, Step::Field(_)) {
                self.look_up_by(i, layout, &mut columns, noted)?;
            }
        }
        for (i, step) in layout.steps.iter().enumerate() {
            if let Step::Sql(expression) = step {
                let input = |i: usize| {
                    // The planner lets an expression see filled columns only.
                    columns[i].clone().unwrap_or_else(|| {
                        arrow::array::new_null_array(self.plan.schema.field(i).data_type(), count)
                    })
                };
                let evaluated = expression.evaluate(count, input)?;
                let failed = evaluated.failed.into_iter();
                noted.failed.extend(failed.map(|(row, detail)| (i, row, detail)));
                columns[i] = Some(match &broken {
                    Some(broken) => nullif(&evaluated.values, broken)?,
                    None => evaluated.values,
                });
                self.look_up_by(i, layout, &mut columns, noted)?;
            }
        }
        Ok(columns.into_iter().flatten().collect())
    }

    /// Fills what is looked up by a column, now that it is filled itself.
    fn look_up_by(
        &self,
        key: usize,
        layout: &Layout,
        columns: &mut [Option<ArrayRef>],
        noted: &mut Noted,
    ) -> Result<(), MapError> {
        let lookups = self.plan.lookups.iter().enumerate();
        for (l, lookup) in lookups.filter(|(_, lookup)| lookup.key == key) {
            let no_snapshot = || MapError::NoSnapshot {
                lookup: lookup.name.clone(),
            };
            let table = self.tables.get(l).ok_or_else(no_snapshot)?;
            let Some(keys) = &columns[key] else { continue };
            let found = table.find(keys)?;
            noted.unmatched.push((l, found.unmatched));
            for (column, step) in columns.iter_mut().zip(&layout.steps) {
                if let Step::LookedUp(of, added) = step
                    && *of == l
                {
                    *column = Some(table.values(*added, &found)?.ok_or_else(no_snapshot)?);
                }
            }
        }
        Ok(())
    }

    fn broken_among(&self, rows: Option<&UInt32Array>) -> Option<BooleanArray> {
        let broken = self.broken?;
        let among = match rows {
            None => broken.clone(),
            Some(rows) => rows
                .values()
                .iter()
                .map(|row| broken.value(*row as usize))
                .collect(),
        };
        Some(BooleanArray::new(among, None))
    }

    /// Fills each format's rows on their own and interleaves them.
    fn fill_mixed(&mut self, of_row: &[Option<usize>]) -> Result<Vec<ArrayRef>, MapError> {
        let mut groups: Vec<(Option<usize>, Vec<u32>)> = Vec::new();
        let mut place = Vec::with_capacity(of_row.len());
        for (row, format) in (0u32..).zip(of_row) {
            let group = groups.iter().position(|(of_group, _)| of_group == format);
            let group = group.unwrap_or_else(|| {
                groups.push((*format, Vec::new()));
                groups.len() - 1
            });
            place.push((group, groups[group].1.len()));
            groups[group].1.push(row);
        }
        let mut filled = Vec::with_capacity(groups.len());
        for (format, rows) in &groups {
            let rows = UInt32Array::from(rows.clone());
            filled.push(self.fill(self.plan.layout(*format), Some(&rows))?);
        }
        let layouts: Vec<&Layout> = groups
            .iter()
            .map(|(format, _)| self.plan.layout(*format))
            .collect();
        (0..self.plan.columns.len())
            .map(|column| match shared_field(&layouts, column) {
                Some(field) => Ok(Arc::clone(self.decoded.column(field))),
                None => {
                    let pieces: Vec<&dyn Array> =
                        filled.iter().map(|columns| columns[column].as_ref()).collect();
                    Ok(interleave(&pieces, &place)?)
                }
            })
            .collect()
    }

    /// Faults of required columns that are null, where nothing else explains it.
    fn note_missing(&mut self, columns: &[ArrayRef]) {
        let steps = &self.plan.formats.base.steps;
        for (((name, required), column), step) in self.plan.columns.iter().zip(columns).zip(steps) {
            if !required || column.null_count() == 0 {
                continue;
            }
            // A lookup is the same in every format.
            let detail = if matches!(step, Step::LookedUp(..)) {
                "the column is required, and the lookup gives no value"
            } else {
                "the column is required, and the record gives no value"
            };
            for row in (0..column.len()).filter(|row| column.is_null(*row)) {
                if !self.is_broken(row) && !self.faults.names(row, name) {
                    self.faults.add(row, FaultKind::Missing, Some(name), detail);
                }
            }
        }
    }
}

/// The field that all layouts take the column from, if it is one.
fn shared_field(layouts: &[&Layout], column: usize) -> Option<usize> {
    let field = |layout: &Layout| match layout.steps[column] {
        Step::Field(field) => Some(field),
        Step::Sql(_) | Step::LookedUp(..) => None,
    };
    let first = field(layouts.first()?)?;
    layouts
        .iter()
        .all(|layout| field(layout) == Some(first))
        .then_some(first)
}
