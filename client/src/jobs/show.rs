//! Jobs and hours, for people and for programs.

use anyhow::Result;
use chrono::{DateTime, SecondsFormat, Utc};
use millrace_client::v1::{self, Counts, HourState, Job, job_input::Input};
use millrace_coordinator::registry::state;
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::cli::Output;
use crate::output::{self, bytes, grouped};

/// A time as in RFC 3339; none where there is none.
pub(crate) fn time(time: Option<&Timestamp>) -> Option<String> {
    let nanos = u32::try_from(time?.nanos).ok()?;
    let time = DateTime::<Utc>::from_timestamp(time?.seconds, nanos)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// `running`.
pub(crate) fn state(job: &Job) -> &'static str {
    state::name(job.state())
}

/// What a job reads, in a few words.
fn input(job: &Job) -> String {
    match job.input.as_ref().and_then(|input| input.input.as_ref()) {
        None => "the whole source".to_owned(),
        Some(Input::Hour(hour)) => format!("hour {}", time(hour.hour.as_ref()).unwrap_or_default()),
        Some(Input::Range(range)) => {
            let at = |at: &Option<Timestamp>| time(at.as_ref()).unwrap_or_default();
            format!("{} to {}", at(&range.from), at(&range.to))
        }
        Some(Input::Prefix(prefix)) => prefix.url.clone(),
        Some(Input::Follow(_)) => "follow".to_owned(),
        Some(Input::Redrive(_)) => "quarantine".to_owned(),
        Some(Input::Models(models)) => {
            let at = |at: &Option<Timestamp>| time(at.as_ref()).unwrap_or_default();
            format!("models, {} to {}", at(&models.from), at(&models.to))
        }
        Some(Input::Retention(_)) => "what is too old".to_owned(),
        Some(Input::Hold(_)) => "a legal hold".to_owned(),
        Some(Input::ReleaseHold(release)) => format!("release of legal hold {}", release.hold_id),
        Some(Input::Erasure(erasure)) => format!("subject {}", erasure.subject),
    }
}

fn input_json(job: &Job) -> Value {
    match job.input.as_ref().and_then(|input| input.input.as_ref()) {
        None => Value::Null,
        Some(Input::Hour(hour)) => json!({"hour": time(hour.hour.as_ref())}),
        Some(Input::Range(range)) => {
            json!({"from": time(range.from.as_ref()), "to": time(range.to.as_ref())})
        }
        Some(Input::Prefix(prefix)) => json!({"prefix": prefix.url}),
        Some(Input::Follow(follow)) => {
            json!({"follow": {"interval_millis": follow.interval_millis, "max_events": follow.max_events}})
        }
        Some(Input::Redrive(_)) => json!({"redrive": true}),
        Some(Input::Models(models)) => {
            json!({"models": models.models, "from": time(models.from.as_ref()), "to": time(models.to.as_ref())})
        }
        Some(Input::Retention(_)) => json!({"retention": true}),
        Some(Input::Hold(hold)) => {
            json!({"hold": {"from": time(hold.from.as_ref()), "to": time(hold.to.as_ref()), "reason": hold.reason}})
        }
        Some(Input::ReleaseHold(release)) => {
            json!({"release_hold": {"hold": release.hold_id, "reason": release.reason}})
        }
        Some(Input::Erasure(erasure)) => {
            json!({"erasure": {"subject": erasure.subject, "column": erasure.column, "dry_run": erasure.dry_run}})
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn clean_ratio(counts: &Counts) -> f64 {
    if counts.read == 0 {
        1.0
    } else {
        (counts.read.saturating_sub(counts.quarantined)) as f64 / counts.read as f64
    }
}

/// A job for programs.
pub(crate) fn json(job: &Job) -> Value {
    let counts = job.counts.unwrap_or_default();
    let gap = |gap: &v1::Gap| json!({"object": gap.object, "start": gap.start, "end": gap.end, "reason": gap.reason});
    let progress = job.progress.as_ref().map(|now| {
        json!({
            "batch": now.batch_id, "attempt": now.attempt, "phase": now.phase,
            "tasks_done": now.tasks_done, "tasks": now.tasks,
            "positions_done": now.positions_done, "positions": now.positions,
        })
    });
    json!({
        "job": job.job_id,
        "request_id": job.request_id,
        "pipeline": job.pipeline,
        "pipeline_version": job.pipeline_version,
        "input": input_json(job),
        "environment": job.environment,
        "state": state(job),
        "events_read": counts.read,
        "events_written": counts.written,
        "duplicates": counts.duplicates,
        "quarantined": counts.quarantined,
        "late": counts.late,
        "clean_ratio": clean_ratio(&counts),
        "batches": job.batches,
        "batches_held": job.batches_held,
        "progress": progress,
        "error": if job.error.is_empty() { Value::Null } else { json!(job.error) },
        "open": job.open,
        "gaps": job.gaps.iter().map(gap).collect::<Vec<_>>(),
        "create_time": time(job.create_time.as_ref()),
        "start_time": time(job.start_time.as_ref()),
        "end_time": time(job.end_time.as_ref()),
        "submitter": job.submitter,
    })
}

/// A job whole.
pub(crate) fn print(job: &Job, output: Output) -> Result<()> {
    match output {
        Output::Json => output::result(&json(job).to_string()),
        Output::Table => output::result(&text(job)),
    }
}

/// A job for people.
pub(crate) fn text(job: &Job) -> String {
    let counts = job.counts.unwrap_or_default();
    let mut table = output::table(&[job.job_id.as_str(), state(job)]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row(
        "pipeline",
        format!("{} version {}", job.pipeline, job.pipeline_version),
    );
    row("input", input(job));
    row(
        "submitted",
        format!(
            "{} by {}",
            time(job.create_time.as_ref()).unwrap_or_default(),
            job.submitter
        ),
    );
    for (name, at) in [("started", &job.start_time), ("ended", &job.end_time)] {
        if let Some(at) = time(at.as_ref()) {
            row(name, at);
        }
    }
    for (name, count) in [
        ("read", counts.read),
        ("written", counts.written),
        ("duplicates", counts.duplicates),
        ("quarantined", counts.quarantined),
        ("late", counts.late),
    ] {
        row(name, grouped(count));
    }
    row("clean", format!("{:.3}%", clean_ratio(&counts) * 100.0));
    row("batches", grouped(u64::from(job.batches)));
    if job.batches_held > 0 {
        row(
            "held",
            format!(
                "{} under the minimum: see `millrace quarantine list`",
                job.batches_held
            ),
        );
    }
    if let Some(now) = &job.progress {
        row(
            "under way",
            format!(
                "batch {} {}: {}, {} of {} tasks",
                now.batch_id, now.attempt, now.phase, now.tasks_done, now.tasks
            ),
        );
    }
    if job.open {
        row(
            "open",
            "the hour is not over: submit it again for the rest".to_owned(),
        );
    }
    for gap in &job.gaps {
        row(
            "gap",
            format!("{} {}..{}: {}", gap.object, gap.start, gap.end, gap.reason),
        );
    }
    if !job.error.is_empty() {
        row("error", job.error.clone());
    }
    table.to_string()
}

/// Jobs for people.
pub(crate) fn table(jobs: &[Job]) -> String {
    let mut table = output::table(&[
        "job",
        "pipeline",
        "input",
        "state",
        "read",
        "written",
        "quarantined",
        "submitted",
    ]);
    for job in jobs {
        let counts = job.counts.unwrap_or_default();
        table.add_row([
            job.job_id.clone(),
            job.pipeline.clone(),
            input(job),
            state(job).to_owned(),
            grouped(counts.read),
            grouped(counts.written),
            grouped(counts.quarantined),
            time(job.create_time.as_ref()).unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn hour_state(hour: &v1::Hour) -> &'static str {
    match hour.state() {
        HourState::Unspecified => "unspecified",
        HourState::Open => "open",
        HourState::Complete => "complete",
        HourState::Compacted => "compacted",
        HourState::Reopened => "reopened",
    }
}

/// The event time that has still to pass.
fn waits(hour: &v1::Hour) -> String {
    match hour.state() {
        HourState::Complete | HourState::Compacted => String::new(),
        HourState::Open | HourState::Reopened | HourState::Unspecified => {
            format!("{:.0} s", hour.lag_seconds)
        }
    }
}

/// Event hours.
pub(crate) fn hours(response: &v1::ListHoursResponse, output: Output) -> Result<()> {
    let watermark = time(response.watermark.as_ref());
    if output == Output::Json {
        let hour = |hour: &v1::Hour| {
            let counts = hour.counts.unwrap_or_default();
            json!({
                "hour": hour.hour, "state": hour_state(hour),
                "events_read": counts.read, "events_written": counts.written, "duplicates": counts.duplicates,
                "quarantined": counts.quarantined, "late": counts.late,
                "clean_ratio": hour.clean_ratio, "files": hour.files, "bytes": hour.bytes,
                "lag_seconds": hour.lag_seconds,
            })
        };
        let partition = |of: &v1::PartitionWatermark| json!({"partition": of.partition, "watermark": time(of.watermark.as_ref()), "closed": of.closed});
        let hours: Vec<Value> = response.hours.iter().map(hour).collect();
        let partitions: Vec<Value> = response.partitions.iter().map(partition).collect();
        let all = json!({
            "hours": hours, "watermark": watermark, "lag_seconds": response.lag_seconds, "partitions": partitions,
        });
        return output::result(&all.to_string());
    }
    let mut table = output::table(&[
        "hour",
        "state",
        "complete in",
        "written",
        "clean",
        "files",
        "size",
    ]);
    for hour in &response.hours {
        table.add_row([
            hour.hour.clone(),
            hour_state(hour).to_owned(),
            waits(hour),
            grouped(hour.counts.unwrap_or_default().written),
            format!("{:.3}%", hour.clean_ratio * 100.0),
            grouped(u64::from(hour.files)),
            bytes(hour.bytes),
        ]);
    }
    let watermark = watermark.map_or("no watermark yet".to_owned(), |at| {
        format!("watermark {at}, lag {:.0} s", response.lag_seconds)
    });
    output::result(&format!("{table}\n{watermark}"))
}
