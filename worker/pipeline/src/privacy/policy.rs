//! Decides for one pipeline in one environment: which columns are masked, how, and whether records are sealed.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};

use super::keyed_hash::KeyedHash;
use super::strategy::{self, Mask};
use super::{PrivacyError, Sealer};
use crate::spec::model::{Column, ColumnType, Pipeline, Privacy, Secret, Strategy};

/// What a pipeline's `privacy` means in one environment.
///
/// A pipeline that declares no personal column runs without a secret anywhere; its quarantine is then
/// clear, since nothing was declared that it could give away. One with a secret is sealed all the same.
#[derive(Debug)]
pub struct Policy {
    clear: bool,
    columns: Vec<ColumnPolicy>,
    sealer: Option<Sealer>,
}

#[derive(Debug)]
struct ColumnPolicy {
    name: String,
    kind: ColumnType,
    /// None: values pass as they are.
    mask: Option<Mask>,
}

impl Policy {
    /// The policy of a pipeline in an environment; none named is never clear.
    ///
    /// # Errors
    /// When something must be masked or sealed and the pipeline has no secret.
    pub fn new(pipeline: &Pipeline, environment: Option<&str>) -> Result<Self, PrivacyError> {
        let privacy = &pipeline.privacy;
        let clear = privacy.is_clear(environment);
        let key = secret(privacy);
        if !clear && key.is_none() {
            refuse_personal_columns(&pipeline.columns, environment)?;
        }
        let columns = pipeline
            .columns
            .iter()
            .map(|column| ColumnPolicy {
                name: column.name.clone(),
                kind: column.kind.clone(),
                mask: key.filter(|_| !clear).and_then(|key| mask(column, privacy, key)),
            })
            .collect();
        Ok(Self {
            clear,
            columns,
            sealer: key.filter(|_| !clear).map(Sealer::new),
        })
    }

    /// Whether personal data stays clear here.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.clear
    }

    /// Seals rejected records; none where they stay clear.
    #[must_use]
    pub fn sealer(&self) -> Option<&Sealer> {
        self.sealer.as_ref()
    }

    /// Whether [`Self::mask_values`] changes this column's values.
    #[must_use]
    pub fn masks(&self, column: usize) -> bool {
        self.columns
            .get(column)
            .is_some_and(|policy| policy.mask.is_some())
    }

    /// The values of the table's `column`-th column as they may leave the worker: of the same type and
    /// length, null where they were null. A column that is not masked comes back as it is, uncopied.
    ///
    /// # Errors
    /// When there is no such column, or the values are not of its type.
    pub fn mask_values(&self, column: usize, values: &ArrayRef) -> Result<ArrayRef, PrivacyError> {
        let policy = self.columns.get(column).ok_or(PrivacyError::Column {
            column,
            columns: self.columns.len(),
        })?;
        let Some(mask) = &policy.mask else {
            return Ok(Arc::clone(values));
        };
        let expected = policy.kind.arrow();
        if !values.data_type().equals_datatype(&expected) {
            return Err(PrivacyError::Type {
                column: policy.name.clone(),
                found: values.data_type().to_string(),
                expected: expected.to_string(),
            });
        }
        strategy::mask(mask, &policy.kind, values)
    }
}

/// The pipeline's secret; an empty one (a variable that is set to nothing) is none.
pub(super) fn secret(privacy: &Privacy) -> Option<&Secret> {
    privacy.hash_key.as_ref().filter(|key| !key.reveal().is_empty())
}

fn mask(column: &Column, privacy: &Privacy, key: &Secret) -> Option<Mask> {
    let class = column.pii?;
    match privacy.strategy(class) {
        Strategy::Keep => None,
        Strategy::Hash => Some(Mask::Hash(KeyedHash::new(key, class))),
        Strategy::HashKeepDomain => Some(Mask::HashKeepDomain(KeyedHash::new(key, class))),
        Strategy::Truncate => Some(Mask::Truncate),
        Strategy::Redact => Some(Mask::Redact),
    }
}

fn refuse_personal_columns(columns: &[Column], environment: Option<&str>) -> Result<(), PrivacyError> {
    let personal: Vec<_> = columns.iter().filter(|column| column.pii.is_some()).collect();
    let Some(first) = personal.first() else {
        return Ok(());
    };
    let what = match personal.len() {
        1 => format!("column `{}` is personal data", first.name),
        n => format!("column `{}` and {} more are personal data", first.name, n - 1),
    };
    Err(PrivacyError::MissingKey {
        what,
        environment: environment.unwrap_or("none named").to_owned(),
    })
}
