//! Jobs: submitted once for each request, read in pages, changed by the leader only.

use std::time::SystemTime;

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, SortOrder, SortTarget, TxnOp};
use millrace_proto::v1::{Job, JobState};
use prost::Message;

use super::{
    Counter, JobFilter, NewJob, Registry, RegistryError, check_name, check_size, leads, page, read_leader,
    state, still_leads,
};
use crate::election::Leadership;

/// Jobs read at once.
const CHUNK: usize = 100;
/// Jobs looked at for one page; a page may be shorter than asked for when the filter takes few.
const SCAN_MAX: usize = 2000;

impl Registry {
    /// Stores a job, once for each request id: the same id gives the same job again, and `false`.
    ///
    /// # Errors
    /// When we do not lead any more, the pipeline is not there, a name is not one, or etcd fails.
    pub async fn submit(&self, lead: &Leadership, new: NewJob) -> Result<(Job, bool), RegistryError> {
        check_name("request id", &new.request_id)?;
        check_name("pipeline", &new.pipeline)?;
        leads(lead)?;
        let version = match new.pipeline_version {
            0 => match self.get_pipeline(&new.pipeline, 0).await {
                Ok(newest) => newest.version,
                // A request that was granted before its pipeline was deleted still gives its job.
                Err(error) => match self.job_of_request(&new.request_id).await? {
                    Some(job) => return Ok((job, false)),
                    None => return Err(error),
                },
            },
            version => version,
        };
        let mut counter = self.counter.lock().await;
        loop {
            let job = first_state(&new, version, counter.last + 1);
            match self.try_submit(lead, &job, &mut counter).await? {
                Submitted::New(job) => return Ok((*job, true)),
                Submitted::Before(id) => {
                    drop(counter);
                    let stored = self.get_job(&id).await?;
                    let ours = stored.job_id == job.job_id && stored.create_time == job.create_time;
                    return Ok((stored, ours));
                }
                Submitted::Again => {}
            }
        }
    }

    async fn try_submit(
        &self,
        lead: &Leadership,
        job: &Job,
        counter: &mut Counter,
    ) -> Result<Submitted, RegistryError> {
        let (counter_key, request_key) = (self.key("counters/jobs"), self.request_key(&job.request_id));
        let version_key = self.version_key(&job.pipeline, job.pipeline_version);
        let bytes = job.encode_to_vec();
        check_size("job", &job.job_id, &bytes)?;
        let outcome = self
            .etcd
            .txn(
                vec![
                    lead.guard(),
                    Compare::create_revision(request_key.as_str(), CompareOp::Equal, 0),
                    Compare::mod_revision(counter_key.as_str(), CompareOp::Equal, counter.revision),
                    Compare::create_revision(version_key.as_str(), CompareOp::Greater, 0),
                ],
                vec![
                    TxnOp::put(counter_key.as_str(), (counter.last + 1).to_string(), None),
                    TxnOp::put(self.job_key(&job.job_id), bytes, None),
                    TxnOp::put(request_key.as_str(), job.job_id.as_str(), None),
                    TxnOp::put(self.active_key(&job.pipeline, &job.job_id), "", None),
                ],
                vec![
                    TxnOp::get(request_key.as_str(), None),
                    TxnOp::get(counter_key.as_str(), None),
                    TxnOp::get(version_key.as_str(), Some(GetOptions::new().with_keys_only())),
                    read_leader(lead),
                ],
            )
            .await?;
        if outcome.applied {
            counter.last += 1;
            counter.revision = outcome.revision;
            let revision = outcome.revision;
            return Ok(Submitted::New(Box::new(Job {
                revision,
                ..job.clone()
            })));
        }
        *counter = outcome.first(1).map_or_else(Counter::default, |kv| Counter {
            last: String::from_utf8_lossy(kv.value()).parse().unwrap_or(0),
            revision: kv.mod_revision(),
        });
        if let Some(request) = outcome.first(0) {
            return Ok(Submitted::Before(
                String::from_utf8_lossy(request.value()).into_owned(),
            ));
        }
        still_leads(lead, &outcome)?;
        if outcome.first(2).is_none() {
            return Err(RegistryError::NotFound {
                what: "pipeline",
                name: format!("{} version {}", job.pipeline, job.pipeline_version),
            });
        }
        Ok(Submitted::Again)
    }

    /// The job that a request id was given, if it was.
    ///
    /// # Errors
    /// When etcd fails.
    pub async fn job_of_request(&self, request_id: &str) -> Result<Option<Job>, RegistryError> {
        check_name("request id", request_id)?;
        let Some(request) = self.etcd.get_one(&self.request_key(request_id)).await? else {
            return Ok(None);
        };
        let id = String::from_utf8_lossy(request.value()).into_owned();
        self.get_job(&id).await.map(Some)
    }

    /// One job.
    ///
    /// # Errors
    /// When it is not there, or etcd fails.
    pub async fn get_job(&self, id: &str) -> Result<Job, RegistryError> {
        check_name("job id", id)?;
        let found = self.etcd.get_one(&self.job_key(id)).await?;
        found.as_ref().map_or_else(|| Err(missing(id)), read)
    }

    /// Jobs, newest first, and the token of the next page (empty: that was the last). A page may be shorter
    /// than asked for, also empty, and still have a next one.
    ///
    /// # Errors
    /// When the token is not one of this filter, or etcd fails.
    pub async fn list_jobs(
        &self,
        filter: &JobFilter,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Job>, String), RegistryError> {
        let (of, size) = (filter.text(), page::size(page_size));
        let folder = self.job_key("");
        let mut end = match page::after(&of, page_token)? {
            Some(last) => self.job_key(&last),
            None => self.job_key("~"), // after every id
        };
        let (mut jobs, mut scanned) = (Vec::new(), 0);
        loop {
            let options = GetOptions::new()
                .with_range(end.as_str())
                .with_sort(SortTarget::Key, SortOrder::Descend)
                .with_limit(i64::try_from(CHUNK).unwrap_or(i64::MAX));
            let found = self.etcd.get(&folder, Some(options)).await?;
            let kvs = found.kvs();
            for (at, kv) in kvs.iter().enumerate() {
                scanned += 1;
                let job = read(kv)?;
                let id = job.job_id.clone();
                if filter.takes(&job) {
                    jobs.push(job);
                }
                let more = found.more() || at + 1 < kvs.len();
                if more && (jobs.len() == size || scanned == SCAN_MAX) {
                    return Ok((jobs, page::token(&of, &id)));
                }
                end = self.job_key(&id);
            }
            if !found.more() || kvs.is_empty() {
                return Ok((jobs, String::new()));
            }
        }
    }

    /// Every job that is pending or running, oldest first.
    ///
    /// # Errors
    /// When etcd fails.
    pub async fn active_jobs(&self) -> Result<Vec<Job>, RegistryError> {
        Ok(self.active().await?.0)
    }

    /// The same, and the revision after which a watch misses nothing.
    pub(super) async fn active(&self) -> Result<(Vec<Job>, i64), RegistryError> {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let found = self.etcd.get(&self.key("active/"), Some(options)).await?;
        let revision = found.header().map_or(0, etcd_client::ResponseHeader::revision);
        let mut ids: Vec<String> = found
            .kvs()
            .iter()
            .filter_map(|kv| {
                let key = String::from_utf8_lossy(kv.key()).into_owned();
                key.rsplit_once('/').map(|(_, id)| id.to_owned())
            })
            .collect();
        ids.sort();
        let mut jobs = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(CHUNK) {
            let reads = chunk
                .iter()
                .map(|id| TxnOp::get(self.job_key(id), None))
                .collect();
            let outcome = self.etcd.txn(Vec::new(), reads, Vec::new()).await?;
            for kv in outcome.reads.iter().flatten() {
                jobs.push(read(kv)?);
            }
        }
        jobs.retain(|job| state::is_active(job.state()));
        Ok((jobs, revision))
    }

    /// Changes a job: `change` is called on what is stored, again if another change came between. Start and end
    /// times follow the state by themselves.
    ///
    /// # Errors
    /// When the job is not there, the change of state is illegal, we do not lead any more, or etcd fails.
    pub async fn update_job(
        &self,
        lead: &Leadership,
        id: &str,
        change: impl Fn(&mut Job) + Send,
    ) -> Result<Job, RegistryError> {
        check_name("job id", id)?;
        leads(lead)?;
        let key = self.job_key(id);
        let mut found = self.etcd.get_one(&key).await?;
        loop {
            let Some(kv) = found else { return Err(missing(id)) };
            let before = read(&kv)?;
            let job = changed(&before, &change)?;
            if job == before {
                return Ok(before);
            }
            let stored = Job {
                revision: 0,
                ..job.clone()
            };
            let bytes = marked(&stored);
            check_size("job", id, &bytes)?;
            let active_key = self.active_key(&job.pipeline, id);
            let active = if state::is_active(job.state()) {
                TxnOp::put(active_key, "", None)
            } else {
                TxnOp::delete(active_key, None)
            };
            let outcome = self
                .etcd
                .txn(
                    vec![
                        lead.guard(),
                        Compare::mod_revision(key.as_str(), CompareOp::Equal, kv.mod_revision()),
                    ],
                    vec![TxnOp::put(key.as_str(), bytes.clone(), None), active],
                    vec![TxnOp::get(key.as_str(), None), read_leader(lead)],
                )
                .await?;
            if outcome.applied {
                let revision = outcome.revision;
                return Ok(Job { revision, ..job });
            }
            if let Some(kv) = outcome.first(0)
                && kv.value() == bytes
            {
                return read(kv); // ours: the response was lost
            }
            still_leads(lead, &outcome)?;
            found = outcome.first(0).cloned();
        }
    }
}

enum Submitted {
    New(Box<Job>),
    Before(String),
    Again,
}

fn first_state(new: &NewJob, version: u32, number: u64) -> Job {
    Job {
        job_id: format!("j{number:010}"),
        request_id: new.request_id.clone(),
        pipeline: new.pipeline.clone(),
        pipeline_version: version,
        input: new.input.clone(),
        environment: new.environment.clone(),
        state: JobState::Pending.into(),
        create_time: Some(SystemTime::now().into()),
        submitter: new.submitter.clone(),
        ..Job::default()
    }
}

/// The job after a change, if the change is legal.
fn changed(before: &Job, change: &impl Fn(&mut Job)) -> Result<Job, RegistryError> {
    let mut job = before.clone();
    change(&mut job);
    state::change(before.state(), job.state()).map_err(|source| RegistryError::State {
        job: before.job_id.clone(),
        source,
    })?;
    if job.state() != before.state() {
        let now = Some(SystemTime::now().into());
        match job.state() {
            JobState::Running => job.start_time = job.start_time.or(now),
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => {
                job.end_time = now;
                job.progress = None;
            }
            JobState::Pending | JobState::Unspecified => {
                job.end_time = None;
                job.error.clear();
            }
        }
    }
    Ok(job)
}

/// Stands behind a job's own fields: tells our change, whose response was lost, from an equal one of another's.
#[derive(Clone, PartialEq, Message)]
struct Mark {
    #[prost(bytes = "vec", tag = "1000")]
    by: Vec<u8>,
}

/// A job's bytes; whoever decodes them as a job does not see the mark.
fn marked(job: &Job) -> Vec<u8> {
    let by = uuid::Uuid::new_v4().as_bytes().to_vec();
    let mut bytes = job.encode_to_vec();
    bytes.extend(Mark { by }.encode_to_vec());
    bytes
}

/// A stored job with its revision.
pub(super) fn read(kv: &KeyValue) -> Result<Job, RegistryError> {
    let job = Job::decode(kv.value()).map_err(|source| RegistryError::Damaged {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        source,
    })?;
    let revision = kv.mod_revision();
    Ok(Job { revision, ..job })
}

pub(super) fn missing(id: &str) -> RegistryError {
    RegistryError::NotFound {
        what: "job",
        name: id.to_owned(),
    }
}
