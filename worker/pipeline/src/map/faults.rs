//! The faults of a batch while it is mapped: decode's, by the format of their row, and those found here.
//!
//! In: decode's `__faults`. Out: the mapped batch's `__faults`.
//!
//! | decode's fault is of...            | then it...                                     |
//! |------------------------------------|------------------------------------------------|
//! | the record                         | stays, and the row's columns are null          |
//! | a field that the row's format uses | stays, under the names of the columns it fills |
//! | a field that only others use       | goes                                           |

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringViewArray, StringViewBuilder};
use arrow::buffer::BooleanBuffer;

use super::MapError;
use super::MapPlan;
use crate::rows::{Fault, FaultKind};

/// The faults of one batch, by row.
pub(super) struct BatchFaults<'a> {
    decoded: &'a StringViewArray,
    found: BTreeMap<usize, Vec<Fault>>,
}

impl<'a> BatchFaults<'a> {
    pub(super) fn new(decoded: &'a StringViewArray) -> Self {
        Self {
            decoded,
            found: BTreeMap::new(),
        }
    }

    /// Rows whose record could not be decoded at all; none if there are none.
    pub(super) fn broken(&self) -> Result<Option<BooleanBuffer>, MapError> {
        if self.decoded.null_count() == self.decoded.len() {
            return Ok(None);
        }
        let mut broken = Vec::with_capacity(self.decoded.len());
        let mut known = HashMap::new();
        for text in self.decoded {
            broken.push(match text {
                None => false,
                Some(text) => match known.get(text) {
                    Some(broken) => *broken,
                    None => {
                        let faults: Vec<Fault> = serde_json::from_str(text)?;
                        let is_broken = faults.iter().any(|fault| fault.column.is_none());
                        known.insert(text, is_broken);
                        is_broken
                    }
                },
            });
        }
        let broken = BooleanBuffer::from(broken);
        Ok((broken.count_set_bits() > 0).then_some(broken))
    }

    /// Keeps of decode's faults what the rows' formats look at. `format_of` gives a row's format.
    pub(super) fn keep_decoded(
        &mut self,
        plan: &MapPlan,
        format_of: impl Fn(usize) -> Option<usize>,
    ) -> Result<(), MapError> {
        if self.decoded.null_count() == self.decoded.len() {
            return Ok(());
        }
        // Old formats fault alike in every row: each text is read once per format.
        let mut known: HashMap<(Option<usize>, &str), Vec<Fault>> = HashMap::new();
        for (row, text) in self.decoded.iter().enumerate() {
            let Some(text) = text else { continue };
            let format = format_of(row);
            let kept = match known.get(&(format, text)) {
                Some(kept) => kept.clone(),
                None => {
                    let kept = kept(plan, format, serde_json::from_str(text)?);
                    known.insert((format, text), kept.clone());
                    kept
                }
            };
            if !kept.is_empty() {
                self.found.entry(row).or_default().extend(kept);
            }
        }
        Ok(())
    }

    pub(super) fn add(&mut self, row: usize, kind: FaultKind, column: Option<&str>, detail: &str) {
        self.found.entry(row).or_default().push(Fault {
            kind,
            column: column.map(str::to_owned),
            detail: detail.to_owned(),
        });
    }

    /// Whether the row has a fault of this column already.
    pub(super) fn names(&self, row: usize, column: &str) -> bool {
        self.found
            .get(&row)
            .is_some_and(|faults| faults.iter().any(|fault| fault.column.as_deref() == Some(column)))
    }

    /// The mapped batch's `__faults`.
    pub(super) fn finish(self) -> Result<ArrayRef, MapError> {
        if self.found.is_empty() && self.decoded.null_count() == self.decoded.len() {
            return Ok(Arc::new(self.decoded.clone()));
        }
        let mut texts = StringViewBuilder::with_capacity(self.decoded.len());
        for row in 0..self.decoded.len() {
            match self.found.get(&row) {
                Some(faults) => texts.append_value(serde_json::to_string(faults)?),
                None => texts.append_null(),
            }
        }
        Ok(Arc::new(texts.finish()))
    }
}

fn kept(plan: &MapPlan, format: Option<usize>, faults: Vec<Fault>) -> Vec<Fault> {
    let layout = plan.layout(format);
    let mut kept = Vec::new();
    for fault in faults {
        let field = fault
            .column
            .as_ref()
            .and_then(|name| plan.formats.decoded.iter().position(|(field, _)| field == name));
        let Some(field) = field else {
            // Of the record; or of a field that nobody asked for, which is better shown than lost.
            kept.push(fault);
            continue;
        };
        kept.extend(layout.columns_of(field).map(|column| Fault {
            column: Some(plan.columns[column].0.clone()),
            ..fault.clone()
        }));
    }
    kept
}
