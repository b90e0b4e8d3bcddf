//! A job watched until it has ended: a bar on a terminal, lines elsewhere, the summary last.

use std::io::IsTerminal;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use millrace_client::Client;
use millrace_client::v1::{Job, JobState};

use super::show;
use crate::cli::Output;
use crate::output::{self, Exit, grouped};

/// Between two lines that say nothing but numbers.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Watches, tells, sums up.
pub(crate) async fn until_ended(client: &Client, id: &str, output: Output) -> Result<Exit> {
    let mut told = Teller::new();
    let mut last: Option<Job> = None;
    let mut jobs = pin!(client.watch_job(id));
    while let Some(job) = jobs.next().await {
        let job = job?;
        told.tell(&job);
        last = Some(job);
    }
    told.finish();
    let Some(job) = last else {
        bail!("job {id} was deleted while it was watched")
    };
    show::print(&job, output)?;
    Ok(exit(&job))
}

/// The exit code of an ended job.
fn exit(job: &Job) -> Exit {
    match job.state() {
        JobState::Succeeded if job.batches_held > 0 => Exit::Breach,
        JobState::Succeeded => Exit::Done,
        JobState::Failed
        | JobState::Cancelled
        | JobState::Unspecified
        | JobState::Pending
        | JobState::Running => Exit::Failed,
    }
}

struct Teller {
    bar: Option<ProgressBar>,
    said: String,
    at: Option<Instant>,
}

impl Teller {
    fn new() -> Self {
        let style = "{spinner} [{elapsed_precise}] {bar:30} {percent}% {msg}";
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            // A template of ours that is wrong shows the default bar.
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            said: String::new(),
            at: None,
        }
    }

    fn tell(&mut self, job: &Job) {
        let counts = job.counts.unwrap_or_default();
        let message = format!(
            "{} {}: {} batches, {} events read, {} written",
            job.job_id,
            show::state(job),
            job.batches,
            grouped(counts.read),
            grouped(counts.written)
        );
        if let Some(bar) = &self.bar {
            if let Some(now) = &job.progress {
                bar.set_length(now.positions);
                bar.set_position(now.positions_done);
            }
            bar.set_message(message);
            return;
        }
        // A change of state is said at once, numbers now and then.
        let state = show::state(job).to_owned();
        let due = self.at.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        if state != self.said || due {
            output::note(&message);
            self.said = state;
            self.at = Some(Instant::now());
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_batch_is_a_breach_and_a_job_that_did_not_succeed_a_failure() {
        let ended = |state: JobState, batches_held| {
            exit(&Job {
                state: state.into(),
                batches_held,
                ..Job::default()
            })
        };
        assert_eq!(ended(JobState::Succeeded, 0), Exit::Done);
        assert_eq!(ended(JobState::Succeeded, 1), Exit::Breach);
        assert_eq!(ended(JobState::Failed, 1), Exit::Failed);
        assert_eq!(ended(JobState::Cancelled, 0), Exit::Failed);
    }
}
