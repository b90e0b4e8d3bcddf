//! Pipelines: each content of a name is one version, and a version never changes.

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, SortOrder, SortTarget, TxnOp};
use millrace_proto::v1::Pipeline;
use prost::Message;

use super::{Registry, RegistryError, check_name, check_size, leads, page, read_leader, still_leads};
use crate::election::Leadership;

impl Registry {
    /// Stores a pipeline as the next version of its name, and `true`; or gives the newest version and `false` if
    /// its digest is the same. `version` as given is not looked at.
    ///
    /// # Errors
    /// When it is too large, we do not lead any more, or etcd fails.
    pub async fn apply_pipeline(
        &self,
        lead: &Leadership,
        pipeline: Pipeline,
    ) -> Result<(Pipeline, bool), RegistryError> {
        check_name("pipeline", &pipeline.name)?;
        leads(lead)?;
        let counter_key = self.key(&format!("counters/pipelines/{}", pipeline.name));
        loop {
            if let Some(newest) = self.newest(&pipeline.name).await?
                && newest.digest == pipeline.digest
            {
                return Ok((newest, false));
            }
            let counter = self.etcd.get_one(&counter_key).await?;
            let last: u32 = counter
                .as_ref()
                .map_or(0, |kv| String::from_utf8_lossy(kv.value()).parse().unwrap_or(0));
            let next = Pipeline {
                version: last + 1,
                ..pipeline.clone()
            };
            let key = self.version_key(&next.name, next.version);
            let bytes = next.encode_to_vec();
            check_size("pipeline", &next.name, &bytes)?;
            let seen = counter.as_ref().map_or(0, KeyValue::mod_revision);
            let outcome = self
                .etcd
                .txn(
                    vec![
                        lead.guard(),
                        Compare::mod_revision(counter_key.as_str(), CompareOp::Equal, seen),
                    ],
                    vec![
                        TxnOp::put(counter_key.as_str(), next.version.to_string(), None),
                        TxnOp::put(key.as_str(), bytes.clone(), None),
                    ],
                    vec![TxnOp::get(key.as_str(), None), read_leader(lead)],
                )
                .await?;
            // The second: ours was applied, its response lost.
            if outcome.applied || outcome.first(0).is_some_and(|kv| kv.value() == bytes) {
                return Ok((next, true));
            }
            still_leads(lead, &outcome)?;
        }
    }

    /// One version of a pipeline; version 0 is the newest.
    ///
    /// # Errors
    /// When it is not there, or etcd fails.
    pub async fn get_pipeline(&self, name: &str, version: u32) -> Result<Pipeline, RegistryError> {
        check_name("pipeline", name)?;
        let found = match version {
            0 => self.newest(name).await?,
            version => {
                let found = self.etcd.get_one(&self.version_key(name, version)).await?;
                found.as_ref().map(read).transpose()?
            }
        };
        found.ok_or_else(|| RegistryError::NotFound {
            what: "pipeline",
            name: match version {
                0 => name.to_owned(),
                version => format!("{name} version {version}"),
            },
        })
    }

    /// The newest version of each pipeline, by name, and the token of the next page (empty: that was the last).
    ///
    /// # Errors
    /// When the token is not one of this list, or etcd fails.
    pub async fn list_pipelines(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Pipeline>, String), RegistryError> {
        let size = page::size(page_size);
        let end = self.key("pipelines0"); // '0' follows '/'
        let mut start = match page::after("pipelines", page_token)? {
            Some(last) => self.key(&format!("pipelines/{last}0")),
            None => self.key("pipelines/"),
        };
        let mut pipelines: Vec<Pipeline> = Vec::new();
        loop {
            let options = GetOptions::new()
                .with_range(end.as_str())
                .with_limit(1)
                .with_keys_only();
            let found = self.etcd.get(&start, Some(options)).await?;
            let Some(name) = found.kvs().first().and_then(name_of) else {
                return Ok((pipelines, String::new()));
            };
            if pipelines.len() == size {
                let last = pipelines.last().map_or("", |last| last.name.as_str());
                return Ok((pipelines.clone(), page::token("pipelines", last)));
            }
            pipelines.extend(self.newest(&name).await?);
            start = self.key(&format!("pipelines/{name}0"));
        }
    }

    /// Removes every version of a pipeline that no job waits for or runs.
    ///
    /// # Errors
    /// When it is not there, a job is active, we do not lead any more, or etcd fails.
    pub async fn delete_pipeline(&self, lead: &Leadership, name: &str) -> Result<(), RegistryError> {
        self.get_pipeline(name, 0).await?;
        leads(lead)?;
        let active = self.active_key(name, "");
        let outcome = self
            .etcd
            .txn(
                vec![
                    lead.guard(),
                    // Holds for a range only if it holds for each key in it: none may exist.
                    Compare::create_revision(active.as_str(), CompareOp::Equal, 0).with_prefix(),
                ],
                vec![TxnOp::delete(
                    self.key(&format!("pipelines/{name}/")),
                    Some(DeleteOptions::new().with_prefix()),
                )],
                vec![
                    TxnOp::get(
                        active.as_str(),
                        Some(GetOptions::new().with_prefix().with_limit(1).with_keys_only()),
                    ),
                    read_leader(lead),
                ],
            )
            .await?;
        if outcome.applied {
            return Ok(());
        }
        still_leads(lead, &outcome)?;
        let job = outcome.first(0).map(|kv| {
            let key = String::from_utf8_lossy(kv.key()).into_owned();
            key.rsplit('/').next().unwrap_or_default().to_owned()
        });
        Err(RegistryError::Active {
            pipeline: name.to_owned(),
            job: job.unwrap_or_default(),
        })
    }

    async fn newest(&self, name: &str) -> Result<Option<Pipeline>, RegistryError> {
        let options = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Key, SortOrder::Descend)
            .with_limit(1);
        let found = self
            .etcd
            .get(&self.key(&format!("pipelines/{name}/")), Some(options))
            .await?;
        found.kvs().first().map(read).transpose()
    }
}

fn name_of(kv: &KeyValue) -> Option<String> {
    let key = String::from_utf8_lossy(kv.key()).into_owned();
    key.rsplit('/').nth(1).map(str::to_owned)
}

fn read(kv: &KeyValue) -> Result<Pipeline, RegistryError> {
    Pipeline::decode(kv.value()).map_err(|source| RegistryError::Damaged {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        source,
    })
}
