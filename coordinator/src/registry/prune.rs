//! Ended jobs go after a while, so that what is stored stays bounded.
//!
//! A job and its request id go together, never within a day of the job's end: whoever repeats a request that
//! soon still gets the same job.

use std::time::{Duration, SystemTime};

use etcd_client::{Compare, CompareOp, GetOptions, TxnOp};
use millrace_proto::v1::Job;

use super::jobs::read;
use super::{Registry, RegistryError, leads, read_leader, state, still_leads};
use crate::election::Leadership;

/// How long a request id is kept at least after its job has ended.
const REQUEST_AGE_MIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Jobs of one transaction: two deletes each, under 128 operations.
const CHUNK: usize = 50;

/// Which ended jobs are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many jobs.
    pub jobs: usize,
    /// Of those, none that ended longer ago.
    pub age: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            jobs: 10_000,
            age: Duration::from_secs(90 * 24 * 60 * 60),
        }
    }
}

impl Retention {
    /// Whether a job goes, `newer` jobs being newer than it.
    fn drops(&self, job: &Job, newer: usize, now: SystemTime) -> bool {
        if state::is_active(job.state()) {
            return false;
        }
        let ended = job.end_time.and_then(|time| SystemTime::try_from(time).ok());
        let age = ended.and_then(|ended| now.duration_since(ended).ok());
        age.is_some_and(|age| age >= REQUEST_AGE_MIN && (newer >= self.jobs || age >= self.age))
    }
}

impl Registry {
    /// Deletes ended jobs and their request ids; gives how many.
    ///
    /// # Errors
    /// When we do not lead any more, or etcd fails.
    pub async fn prune(
        &self,
        lead: &Leadership,
        keep: &Retention,
        now: SystemTime,
    ) -> Result<usize, RegistryError> {
        leads(lead)?;
        let folder = self.job_key("");
        let count = GetOptions::new().with_prefix().with_count_only();
        let total = self.etcd.get(&folder, Some(count)).await?.count();
        let mut newer = usize::try_from(total).unwrap_or(0);
        let (mut start, end) = (folder.clone(), self.key("jobs0")); // '0' follows '/'
        let mut pruned = 0;
        loop {
            let options = GetOptions::new()
                .with_range(end.as_str())
                .with_limit(i64::try_from(CHUNK).unwrap_or(i64::MAX));
            let found = self.etcd.get(&start, Some(options)).await?;
            let mut dropped = Vec::new();
            for kv in found.kvs() {
                newer = newer.saturating_sub(1);
                let job = read(kv)?;
                start = format!("{}\0", self.job_key(&job.job_id));
                if keep.drops(&job, newer, now) {
                    dropped.push(job);
                }
            }
            pruned += self.delete(lead, &dropped).await?;
            if !found.more() {
                return Ok(pruned);
            }
        }
    }

    async fn delete(&self, lead: &Leadership, jobs: &[Job]) -> Result<usize, RegistryError> {
        if jobs.is_empty() {
            return Ok(0);
        }
        let mut when = vec![lead.guard()];
        when.extend(
            jobs.iter()
                .map(|job| Compare::mod_revision(self.job_key(&job.job_id), CompareOp::Equal, job.revision)),
        );
        let keys = jobs
            .iter()
            .flat_map(|job| [self.job_key(&job.job_id), self.request_key(&job.request_id)]);
        let deletes = keys.map(|key| TxnOp::delete(key, None)).collect();
        let outcome = self.etcd.txn(when, deletes, vec![read_leader(lead)]).await?;
        if outcome.applied {
            return Ok(jobs.len());
        }
        // A job was retried meanwhile: the next round sees it as it is.
        still_leads(lead, &outcome).map(|()| 0)
    }
}
