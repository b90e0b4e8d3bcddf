//! The quarantine of a pipeline that a cluster runs.
//!
//! In: the cluster's API, which tells of rejected events without their content. Out: the same records as a file's lake
//! gives. Content is read from the lake here, with this machine's own access, and opened with its own key: it never goes
//! through a coordinator. A redrive is a job of the cluster.

use anyhow::{Context, Result, anyhow};
use millrace_client::{Client, v1};
use millrace_coordinator::applied;
use millrace_coordinator::quarantine::{Record, record_at};
use millrace_pipeline::source::kafka::TopicPartition;
use millrace_pipeline::spec::model::Pipeline;

use super::Listed;
use crate::cli::Output;
use crate::jobs;
use crate::lakes;
use crate::output::{self, Exit};
use crate::reach::Reach;

/// Events of a page.
const PAGE: usize = 500;

/// The first events, and the counts of all.
pub(super) fn list(reach: &Reach, name: &str, limit: usize) -> Result<Listed> {
    let (summary, events) = reach.clone().patient().with(async |client| {
        let summary = client.summarize_quarantine(name).await?;
        let events = first(&client, name, limit).await?;
        Ok((summary, events))
    })?;
    let records = events.into_iter().map(record).collect::<Result<Vec<_>>>()?;
    let count = |reason: v1::QuarantineReason| {
        let column = (!reason.column.is_empty()).then_some(reason.column);
        (reason.kind, column, reason.events)
    };
    Ok(Listed {
        total: summary.events,
        lines: records.iter().flat_map(line).collect(),
        records,
        counts: summary.reasons.into_iter().map(count).collect(),
    })
}

/// The pipeline as it was applied last, with this machine's environment.
pub(super) fn pipeline(reach: &Reach, name: &str) -> Result<Pipeline> {
    let stored = reach.with(async |client| Ok(client.get_pipeline(name, 0).await?))?;
    let text = applied::text(&stored).map_err(|wrong| anyhow!(wrong))?;
    let loaded = text.load(&|name| std::env::var(name).ok());
    loaded.with_context(|| format!("the pipeline `{name}` cannot be read on this machine"))
}

/// The event at a place of the list, with its content.
pub(super) fn show(reach: &Reach, name: &str, pipeline: &Pipeline, at: usize) -> Result<Option<Record>> {
    let events = reach
        .clone()
        .patient()
        .with(async |client| first(&client, name, at + 1).await)?;
    let Some(told) = events.into_iter().nth(at).map(record).transpose()? else {
        return Ok(None);
    };
    let lake = &pipeline.lake;
    let lake = lakes::lake(&lake.url, lake.endpoint.clone(), lake.region.clone())?;
    let found = lakes::runtime(1)?.block_on(record_at(&lake, &told.batch, &told.file, told.row))?;
    Ok(found)
}

/// Submits a redrive, and waits for it where asked.
pub(super) fn redrive(
    reach: &Reach,
    name: &str,
    environment: &str,
    wait: bool,
    output: Output,
) -> Result<Exit> {
    reach.with(async |client| {
        let job = client.redrive_quarantine(name, environment).await?;
        if wait {
            output::note(&format!("{job} submitted"));
            return jobs::until_ended(&client, &job, output).await;
        }
        match output {
            Output::Table => output::result(&format!("{job} submitted"))?,
            Output::Json => jobs::print(&client.get_job(&job).await?, Output::Json)?,
        }
        Ok(Exit::Done)
    })
}

/// The absolute line of an event, where it is known: in a topic the offset is.
pub(super) fn line(record: &Record) -> Option<((String, u64), u64)> {
    let is_message = TopicPartition::is_at(&record.object);
    is_message.then(|| ((record.object.clone(), record.offset), record.offset))
}

async fn first(client: &Client, name: &str, limit: usize) -> Result<Vec<v1::QuarantinedEvent>> {
    let mut request = v1::ListQuarantineRequest {
        pipeline: name.to_owned(),
        ..v1::ListQuarantineRequest::default()
    };
    let mut events = Vec::new();
    while events.len() < limit {
        request.page_size = i32::try_from(PAGE.min(limit - events.len()))?;
        let page = client.list_quarantine(request.clone()).await?;
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    Ok(events)
}

/// An event as a record without its content.
fn record(event: v1::QuarantinedEvent) -> Result<Record> {
    let wrong = || format!("the coordinator tells of an event `{}` that is none", event.id);
    let (file, row) = event.id.rsplit_once('#').with_context(wrong)?;
    let reasons = event.reasons.iter().map(|reason| serde_json::from_str(reason));
    Ok(Record {
        file: file.to_owned(),
        row: row.parse().with_context(wrong)?,
        batch: event.batch_id.clone().try_into().with_context(wrong)?,
        object: event.object.clone(),
        split: event.split,
        line: event.line,
        offset: event.offset,
        reasons: reasons.collect::<Result<_, _>>().with_context(wrong)?,
        sealed: event.sealed,
        payload: Vec::new(),
    })
}
