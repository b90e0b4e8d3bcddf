//! Threads for long computing: queries of models, files that a compaction writes anew.
//!
//! A query's operators and the encoding of a file compute for seconds before they let others go on. Beside them, on the same
//! threads, the leader's lease would not be renewed in time. These threads live as long as the process does: connections to the
//! lake that are opened here stay usable for everybody.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};
use tracing::Instrument;

/// As many threads as there are cores; a query uses as many of them as its limits say, a compaction one.
static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();

/// Runs a future there, and ends it when nobody waits for it any more. None when it panicked, or there are no threads for it.
pub(crate) async fn run<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let begin = || {
        let mut builder = Builder::new_multi_thread();
        builder.thread_name("aside").enable_all().build().ok()
    };
    let mut running = AbortOnDrop(RUNTIME.get_or_init(begin).as_ref()?.spawn(work.in_current_span()));
    (&mut running.0).await.ok()
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_blocks_its_thread_blocks_nobody_else() {
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let query = run(async move { is_done.recv_timeout(Duration::from_secs(60)).is_ok() });
        let others = async {
            tokio::task::yield_now().await;
            done.send(()).unwrap();
        };
        let (query, ()) = tokio::join!(query, others);
        assert_eq!(query, Some(true), "the only thread here was free to say so");
    }

    #[tokio::test]
    async fn a_query_that_panics_is_told() {
        let lost: Option<()> = run(async { panic!("a bug") }).await;
        assert_eq!(lost, None);
    }

    #[tokio::test]
    async fn a_query_that_nobody_waits_for_ends() {
        let (held, mut is_gone) = tokio::sync::oneshot::channel::<()>();
        let (began, has_begun) = tokio::sync::oneshot::channel::<()>();
        let query = run(async move {
            let _held = held;
            began.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        tokio::select! {
            _ = query => panic!("it has no end"),
            begun = has_begun => begun.unwrap(),
        }
        assert!((&mut is_gone).await.is_err(), "what it held is dropped");
    }
}
