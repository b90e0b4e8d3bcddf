//! The asking side: which keeper is asked for which rows of a batch, and what its answers say.

use std::sync::Arc;

use datafusion::common::runtime::SpawnedTask;
use futures::future::try_join_all;

use super::{Claim, ClaimError, ClaimRoutes, ClaimedKeys, Keeper, keeper_of};

/// The keepers of an attempt, and the way to them.
#[derive(Debug)]
pub struct Keepers {
    attempt: String,
    keepers: Vec<Keeper>,
    routes: Option<Arc<dyn ClaimRoutes>>,
}

/// One run of a task, as keepers know it.
#[derive(Debug, Clone)]
pub(in crate::dedup) struct Run {
    pub(in crate::dedup) keepers: Arc<Keepers>,
    pub(in crate::dedup) id: u64,
}

/// Keys of one event hour that are not known to be committed, and their rows.
#[derive(Debug)]
pub(in crate::dedup) struct Question {
    pub(in crate::dedup) hour: i64,
    pub(in crate::dedup) keys: Vec<u128>,
    pub(in crate::dedup) rows: Vec<u32>,
}

/// Keys that one keeper is asked for, and their rows.
#[derive(Debug, Default)]
struct Sheet {
    groups: Vec<ClaimedKeys>,
    rows: Vec<Vec<u32>>,
}

impl Sheet {
    fn add(&mut self, split: u32, hour: i64, key: u128, row: u32) {
        // Rows of a split stand together: mostly the last group is the one.
        let known = self
            .groups
            .iter()
            .rposition(|group| group.split == split && group.hour == hour);
        let at = known.unwrap_or_else(|| {
            self.groups.push(ClaimedKeys {
                split,
                hour,
                keys: Vec::new(),
            });
            self.rows.push(Vec::new());
            self.groups.len() - 1
        });
        self.groups[at].keys.push(key);
        self.rows[at].push(row);
    }
}

impl Keepers {
    /// Those of an attempt, `<pipeline>/<batch>-<attempt>`. A process without `routes` can name them, and not ask them.
    #[must_use]
    pub fn new(attempt: String, keepers: Vec<Keeper>, routes: Option<Arc<dyn ClaimRoutes>>) -> Self {
        Self {
            attempt,
            keepers,
            routes,
        }
    }
}

impl Run {
    /// Asks for rows of a batch whose rows are of `splits`; the answer has the rows that lost. It comes while the task does
    /// something else.
    pub(in crate::dedup) fn ask(
        &self,
        questions: &[Question],
        splits: &[u32],
    ) -> SpawnedTask<Result<Vec<u32>, ClaimError>> {
        let keepers = &self.keepers.keepers;
        let mut sheets: Vec<Sheet> = keepers.iter().map(|_| Sheet::default()).collect();
        for question in questions {
            for (key, row) in question.keys.iter().zip(&question.rows) {
                let sheet = &mut sheets[keeper_of(*key, keepers.len())];
                sheet.add(splits[*row as usize], question.hour, *key, *row);
            }
        }
        let run = self.clone();
        SpawnedTask::spawn(async move {
            let asked = run.keepers.keepers.iter().zip(sheets);
            let asked = asked.filter(|(_, sheet)| !sheet.groups.is_empty());
            let lost = try_join_all(asked.map(|(keeper, sheet)| run.put(keeper, sheet))).await?;
            Ok(lost.concat())
        })
    }

    async fn put(&self, keeper: &Keeper, sheet: Sheet) -> Result<Vec<u32>, ClaimError> {
        let rows = sheet.rows.concat();
        let claim = Claim {
            attempt: self.keepers.attempt.clone(),
            run: self.id,
            groups: sheet.groups,
        };
        let routes = self.keepers.routes.as_ref().ok_or(ClaimError::NoRoutes)?;
        let won = routes.claim(keeper, claim).await?;
        if won.len() != rows.len() {
            return Err(ClaimError::Answers {
                found: won.len(),
                expected: rows.len(),
            });
        }
        let lost = rows.into_iter().zip(won).filter(|(_, won)| !won);
        Ok(lost.map(|(row, _)| row).collect())
    }
}
