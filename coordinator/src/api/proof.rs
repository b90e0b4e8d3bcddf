//! What is committed, told and proved: `ListBatches` and `VerifyPipeline`.
//!
//! The ledger lies in etcd, which callers do not reach; the lake's files they read themselves.

use std::sync::Arc;

use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::manifest::{Removed, SplitCounts};
use millrace_proto::v1;
use tonic::Status;

use super::pages::Page;
use super::{Shared, refusals};
use crate::verify::verify_of;

impl Shared {
    pub(crate) async fn verify(&self, name: &str) -> Result<v1::VerifyPipelineResponse, Status> {
        let pipeline = Arc::new(self.pipeline(name).await?);
        let (lake, state) = self.opened(&pipeline).await?;
        // It hashes every byte: not beside the calls and heartbeats that this process answers.
        let runtime = tokio::runtime::Handle::current();
        let proving =
            tokio::task::spawn_blocking(move || runtime.block_on(verify_of(&lake, &state, &pipeline)));
        let verdict = proving
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| refusals::lake(&error))?;
        Ok(v1::VerifyPipelineResponse {
            batches: verdict.batches,
            objects: verdict.objects,
            bytes: verdict.bytes,
            keys: verdict.keys,
            events: Some(counts(&verdict.events)),
            expired: Some(removed(&verdict.expired)),
            erased: Some(removed(&verdict.erased)),
            leftovers: verdict.leftovers,
            faults: verdict.faults,
        })
    }

    pub(crate) async fn batches(
        &self,
        message: v1::ListBatchesRequest,
    ) -> Result<v1::ListBatchesResponse, Status> {
        let list = format!("batches {}", message.name);
        let page = Page::of(message.page_size, &message.page_token, list)?;
        let pipeline = Arc::new(self.pipeline(&message.name).await?);
        let (_, state) = self.opened(&pipeline).await?;
        let mut batches: Vec<v1::Batch> = state
            .committed()
            .filter(|(id, _)| {
                page.after
                    .as_ref()
                    .is_none_or(|after| id.as_str() > after.as_str())
            })
            .take(page.size + 1)
            .map(|(id, batch)| v1::Batch {
                batch_id: id.to_string(),
                job_id: batch.job.to_string(),
                manifest_digest: batch.manifest.clone().unwrap_or_default(),
                counts: Some(counts(&batch.counts)),
            })
            .collect();
        let next_page_token = page.cut(&mut batches, |batch| &batch.batch_id);
        Ok(v1::ListBatchesResponse {
            lake_url: pipeline.lake.url.clone(),
            lake_endpoint: pipeline.lake.endpoint.clone().unwrap_or_default(),
            lake_region: pipeline.lake.region.clone().unwrap_or_default(),
            batches,
            next_page_token,
        })
    }

    async fn opened(
        &self,
        pipeline: &Arc<Pipeline>,
    ) -> Result<(crate::lake::Lake, crate::ledger::State), Status> {
        let opened = self.control.lakes.open(Arc::clone(pipeline)).await;
        opened.map_err(|error| refusals::lake(error.as_ref()))
    }
}

fn removed(removed: &Removed) -> v1::Removed {
    v1::Removed {
        rows: removed.rows,
        keys: removed.keys,
        quarantined: removed.quarantined,
    }
}

fn counts(counts: &SplitCounts) -> v1::Counts {
    v1::Counts {
        read: counts.read,
        written: counts.written,
        duplicates: counts.duplicates,
        quarantined: counts.quarantined,
        late: counts.late,
    }
}
