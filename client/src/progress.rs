//! Progress on stderr: a bar on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use millrace_coordinator::job::Progress;

use crate::output::{self, grouped};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress until it is dropped with the task.
pub(crate) async fn show(progress: Arc<Progress>) {
    if std::io::stderr().is_terminal() {
        bar(&progress).await
    } else {
        lines(&progress).await
    }
}

async fn bar(progress: &Progress) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}  {eta} left") {
        bar.set_style(style);
    }
    let started = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (bytes, events) = progress.snapshot();
        bar.set_length(progress.bytes_total.load(Ordering::Relaxed).max(bytes));
        bar.set_position(bytes);
        bar.set_message(format!(
            "{} events, {}/s",
            grouped(events),
            grouped(rate(events, started))
        ));
    }
}

async fn lines(progress: &Progress) {
    let started = Instant::now();
    loop {
        tokio::time::sleep(LINE_EVERY).await;
        let (bytes, events) = progress.snapshot();
        let total = progress.bytes_total.load(Ordering::Relaxed).max(bytes);
        let percent = (bytes * 100).checked_div(total).unwrap_or(0);
        let left = remaining(bytes, total, started.elapsed())
            .map_or(String::new(), |left| format!(", {left} s left"));
        let rate = grouped(rate(events, started));
        output::note(&format!(
            "{percent}% of input, {} events, {rate}/s{left}",
            grouped(events)
        ));
    }
}

fn rate(events: u64, started: Instant) -> u64 {
    let ms = started.elapsed().as_millis().max(1);
    u64::try_from(u128::from(events) * 1000 / ms).unwrap_or(u64::MAX)
}

fn remaining(bytes: u64, total: u64, elapsed: Duration) -> Option<u64> {
    (bytes > 0).then(|| elapsed.as_secs() * (total - bytes) / bytes)
}
