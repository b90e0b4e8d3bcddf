//! What a job over a prefix or a folder reads: listed once, when it begins.
//!
//! In: the job, the ledger. Out: its objects, by key, size and version. They are put into the lake under their digest, and the
//! ledger names that before the job runs; so a later batch, and a later leader, reads the same objects however the prefix has
//! changed. One that was written over since has another version: its reader refuses it by name.
//!
//! | the job...                                        | its objects are                       |
//! |---------------------------------------------------|----------------------------------------|
//! | begins, or is begun again after it failed or was cancelled | listed                       |
//! | runs, and another coordinator has come to lead    | those that the ledger names            |

use std::collections::BTreeSet;

use bytes::Bytes;
use millrace_pipeline::codec::Prepared;
use millrace_pipeline::source::list;
use millrace_proto::ids::JobId;
use millrace_proto::keys;
use millrace_proto::split::InputObject;
use millrace_proto::v1::{self, JobState, job_input::Input as Asked};

use super::LaneError;
use crate::job::RunError;
use crate::lake::{Lake, LakeError};
use crate::ledger::{Entry, LedgerError, Listing, State};
use crate::lifecycle::{Batches, Moment};

/// So many objects stand in the ledger itself.
const HERE_MAX: usize = 64;

/// The objects of a job, fixed in the ledger. A short listing goes there with the positions of the job's first batch: nothing
/// is read before.
pub(super) async fn fixed(
    job: &v1::Job,
    id: &JobId,
    prepared: &Prepared,
    batches: &mut Batches,
) -> Result<Vec<InputObject>, LaneError> {
    let known = batches.ledger.state().listings.get(id);
    if let Some(listing) = known.filter(|_| job.state() == JobState::Running) {
        return read(&batches.lake, listing).await;
    }
    let inputs = match job.input.as_ref().and_then(|input| input.input.clone()) {
        Some(Asked::Prefix(prefix)) => vec![prefix.url],
        _ => Vec::new(),
    };
    let objects = list(&prepared.stores, &prepared.steps.pipeline.source, &inputs);
    let objects = objects.await.map_err(RunError::from)?;
    let is_short = objects.len() <= HERE_MAX;
    let entry = Entry::Listed {
        epoch: batches.ledger.epoch(),
        job: id.clone(),
        listing: if is_short {
            let objects = objects.clone();
            Listing::Here { objects }
        } else {
            put(&batches.lake, &objects).await?
        },
    };
    if is_short {
        batches.beside.push(entry);
    } else {
        batches.ledger.append(vec![entry]).await?;
    }
    (batches.hook)(Moment::Listed);
    tracing::info!(
        job = job.job_id,
        objects = objects.len(),
        "its objects are listed"
    );
    Ok(objects)
}

async fn put(lake: &Lake, objects: &[InputObject]) -> Result<Listing, LaneError> {
    let bytes = serde_json::to_vec(objects).map_err(|source| LedgerError::Damaged {
        key: keys::LISTINGS.to_owned(),
        source,
    })?;
    let digest = blake3::hash(&bytes).to_hex().to_string();
    let key = keys::listing(&digest);
    match lake.create(&key, Bytes::from(bytes)).await {
        Ok(()) | Err(LakeError::Exists { .. }) => {}
        Err(error) => return Err(RunError::from(error).into()),
    }
    let count = objects.len() as u64;
    Ok(Listing::There { key, digest, count })
}

async fn read(lake: &Lake, listing: &Listing) -> Result<Vec<InputObject>, LaneError> {
    let (key, expected) = match listing {
        Listing::Here { objects } => return Ok(objects.clone()),
        Listing::There { key, digest, .. } => (key.clone(), digest),
    };
    let bytes = lake.get(&key).await.map_err(RunError::from)?;
    if blake3::hash(&bytes).to_hex().as_str() != expected {
        return Err(LedgerError::Digest { key }.into());
    }
    let objects = serde_json::from_slice(&bytes);
    objects.map_err(|source| LedgerError::Damaged { key, source }.into())
}

/// Deletes the listings of jobs that are over.
///
/// # Errors
/// When the lake fails.
pub(super) async fn sweep(lake: &Lake, state: &State, active: &BTreeSet<JobId>) -> Result<(), LakeError> {
    let of_active = state.listings.iter().filter(|(job, _)| active.contains(*job));
    let needed: BTreeSet<&str> = of_active
        .filter_map(|(_, listing)| match listing {
            Listing::Here { .. } => None,
            Listing::There { key, .. } => Some(key.as_str()),
        })
        .collect();
    for (key, _) in lake.list(keys::LISTINGS).await? {
        if !needed.contains(key.as_str()) {
            lake.delete(&key).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_pipeline::source::S3Options;
    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;

    fn objects(count: usize) -> Vec<InputObject> {
        let object = |n: usize| InputObject {
            url: format!("s3://raw/events/{n}.json"),
            size: 1,
            version: format!("etag-{n}"),
        };
        (0..count).map(object).collect()
    }

    fn key_of(listing: &Listing) -> String {
        match listing {
            Listing::Here { .. } => panic!("it is in the ledger"),
            Listing::There { key, .. } => key.clone(),
        }
    }

    fn lake() -> Lake {
        Lake {
            s3: S3Options::default(),
            url: "memory:///".to_owned(),
            store: Arc::new(InMemory::new()),
            root: Path::default(),
        }
    }

    #[tokio::test]
    async fn a_listing_comes_back_as_it_was_or_not_at_all() {
        let lake = lake();
        let listing = put(&lake, &objects(3)).await.unwrap();
        assert_eq!(read(&lake, &listing).await.unwrap(), objects(3));
        lake.replace(&key_of(&listing), Bytes::from_static(b"[]"))
            .await
            .unwrap();
        let error = read(&lake, &listing).await.unwrap_err();
        assert!(
            matches!(error, LaneError::Ledger(LedgerError::Digest { .. })),
            "{error}"
        );
    }

    #[tokio::test]
    async fn listings_of_jobs_that_are_over_go() {
        let (lake, mut state) = (lake(), State::default());
        let id = |n: usize| JobId::try_from(format!("j{n}")).unwrap();
        let mut keys = Vec::new();
        for n in 1..=3 {
            let listing = put(&lake, &objects(n)).await.unwrap();
            keys.push(key_of(&listing));
            state.listings.insert(id(n), listing);
        }
        sweep(&lake, &state, &BTreeSet::from([id(2)])).await.unwrap();
        let left: Vec<String> = lake
            .list(keys::LISTINGS)
            .await
            .unwrap()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(left, [keys[1].clone()]);
    }
}
