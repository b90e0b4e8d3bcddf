//! The files that hold a person, written again without them.

use bytes::Bytes;
use millrace_pipeline::privacy::{Sealer, Subject};
use millrace_pipeline::sink::erase::{Without, without};
use millrace_proto::ids::{Attempt, BatchId, JobId};
use millrace_proto::keys::TaskNames;
use millrace_proto::manifest::{DataFile, Manifest, Removed, Replaced, WrittenObject};

use super::ErasureError;
use super::find::{Found, Reject, records_without, stored};
use crate::aside;
use crate::commit;
use crate::lifecycle::Batches;

/// Writes them; the manifest that stands for them from now on.
pub(super) async fn rewrite(
    batches: &Batches,
    subject: &Subject,
    (job, id, attempt): (&JobId, &BatchId, Attempt),
    found: &Found,
) -> Result<Manifest, ErasureError> {
    let environment = batches.environment.as_deref();
    let joined = commit::join(&batches.pipeline, environment, job, id, attempt, &[], Vec::new());
    let mut writing = Writing {
        batches,
        subject,
        sealer: Sealer::of(&batches.pipeline).ok(),
        names: TaskNames {
            batch: id.clone(),
            attempt,
            task: 0,
            run: String::new(),
        },
        next: 0,
        manifest: joined,
    };
    for (file, _) in &found.files {
        writing.data(file).await?;
    }
    for reject in &found.rejects {
        writing.reject(reject).await?;
    }
    Ok(writing.manifest)
}

struct Writing<'a> {
    batches: &'a Batches,
    subject: &'a Subject,
    sealer: Option<Sealer>,
    names: TaskNames,
    next: u32,
    manifest: Manifest,
}

impl Writing<'_> {
    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    fn replaces(&mut self) -> &mut Replaced {
        &mut self.manifest.replaces
    }

    fn removed(&mut self) -> &mut Removed {
        &mut self.manifest.removed
    }

    async fn data(&mut self, file: &DataFile) -> Result<(), ErasureError> {
        let object = stored(&self.batches.lake, &file.object.key, file.object.bytes);
        let time = &self.batches.pipeline.partition.time;
        let (subject, of, time) = (self.subject.clone(), file.clone(), time.clone());
        let what = format!("writing {} again", file.object.key);
        let sift = async move { without(&subject, object, &of, &time).await };
        let left = aside::run(what, sift).await??;
        self.removed().rows += left.erased;
        let number = self.number();
        let key = self.names.data(&file.partition, number);
        if let Some(object) = self.put(&left, key).await? {
            let (time_min, time_max) = left.times.unwrap_or((file.time_min, file.time_max));
            self.manifest.files.push(DataFile {
                object,
                partition: file.partition.clone(),
                time_min,
                time_max,
            });
        }
        self.replaces().files.push(file.clone());
        Ok(())
    }

    /// A file whose records a redrive took in is not needed any more: it leaves whole.
    async fn reject(&mut self, reject: &Reject) -> Result<(), ErasureError> {
        let old = &reject.object;
        if reject.is_consumed {
            self.removed().quarantined += old.rows;
            self.replaces().quarantine.push(old.clone());
            return Ok(());
        }
        let (lake, sealer) = (&self.batches.lake, self.sealer.as_ref());
        let left = records_without(lake, self.subject, sealer, &old.key).await?;
        self.removed().quarantined += left.erased;
        let number = self.number();
        let day = old
            .key
            .split('/')
            .nth(1)
            .and_then(|folder| folder.strip_prefix("date="));
        let key = self.names.quarantine(day.unwrap_or_default(), number);
        let object = self.put(&left, key).await?;
        self.manifest.quarantine.extend(object);
        self.replaces().quarantine.push(old.clone());
        Ok(())
    }

    async fn put(&self, left: &Without, key: String) -> Result<Option<WrittenObject>, ErasureError> {
        let Some((object, content)) = left.object(key).zip(left.content.clone()) else {
            return Ok(None);
        };
        self.batches
            .lake
            .create(&object.key, Bytes::from(content))
            .await?;
        Ok(Some(object))
    }
}
