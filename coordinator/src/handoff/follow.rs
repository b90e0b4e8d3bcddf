//! The handoff without end: round after round, for as long as its pipeline is led.
//!
//! | a round...                                  | the next one comes                                              |
//! |----------------------------------------------|------------------------------------------------------------------|
//! | loaded what there was                       | when something is committed; to look for decisions, each 5 s     |
//! | failed, and time may help                    | after a pause that grows to 5 s                                  |
//! | failed, and a person must act                | after a minute: whoever acted need not tell us                   |

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Handoff, HandoffError, Known, PAUSE, PAUSE_MAX};

/// Pause where a person must act.
const PERSON_PAUSE: Duration = Duration::from_secs(60);
/// How often decisions about held batches are looked for.
const DECISIONS_EVERY: Duration = Duration::from_secs(5);

impl Handoff {
    /// Loads what is committed, and what will be, until it is dropped.
    pub async fn follow(mut self, known: watch::Receiver<Arc<Known>>) {
        let watching = self.backlog.clone().watch(self.watched.service_level);
        tokio::select! {
            () = self.keep_up(known) => {}
            () = watching => {}
        }
    }

    async fn keep_up(&mut self, mut known: watch::Receiver<Arc<Known>>) {
        let mut pause = PAUSE;
        loop {
            let now = Arc::clone(&known.borrow_and_update());
            match self.round_of(&now.state, &now.open).await {
                Ok(round) => {
                    pause = PAUSE;
                    let changed = until_changed(&mut known);
                    if round.held == 0 {
                        changed.await;
                    } else {
                        // Whether it changed or not: the next round looks.
                        let _ = tokio::time::timeout(DECISIONS_EVERY, changed).await;
                    }
                }
                // New batches do not help while the warehouse is down.
                Err(error) => {
                    let retryable = error.is_retryable();
                    self.report(&error, retryable);
                    tokio::time::sleep(if retryable { pause } else { PERSON_PAUSE }).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    fn report(&self, error: &HandoffError, retryable: bool) {
        let (pipeline, waiting) = (&self.pipeline.name, self.backlog.waiting());
        let (error, lag_seconds) = (error.text(), self.backlog.lag().as_secs());
        if retryable {
            tracing::warn!(%pipeline, waiting, lag_seconds, error, "the warehouse takes no batches now");
        } else {
            tracing::error!(%pipeline, waiting, lag_seconds, error, "the warehouse takes no batches until a person acts");
        }
    }
}

/// Returns when something changed; never once nobody tells any more.
async fn until_changed(known: &mut watch::Receiver<Arc<Known>>) {
    if known.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
