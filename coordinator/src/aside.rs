//! Threads for long computing: queries of models, files that a compaction or an erasure reads and writes anew.
//!
//! A query's operators and the encoding of a file compute for seconds before they let others go on. Beside them, on the same
//! threads, the leader's lease would not be renewed in time. These threads live as long as the process does: connections to the
//! lake that are opened here stay usable for everybody.

use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tracing::Instrument;

/// As many threads as there are cores; a query uses as many of them as its limits say, a compaction or an erasure one for each
/// file that it has in hand.
static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();

/// Threads that read and write files for them. What a thread allocates and another one frees stays its own for its next
/// allocation, so each of them holds on to some MiB: as many as come up by themselves (hundreds) held several GB after a query
/// of 20M rows that may have 512 MiB.
const FILE_THREADS: usize = 8;

/// Work that did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} ended without a result: the process is being stopped, or this is a bug")]
pub struct Lost {
    what: String,
}

/// Work that was begun there, and is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Running<T> {
    what: String,
    /// None where there are no threads for it.
    task: Option<JoinHandle<T>>,
}

/// Begins a future there. `what` is what it computes, for who reads that it is lost.
pub(crate) fn begin<T: Send + 'static>(
    what: impl Into<String>,
    work: impl Future<Output = T> + Send + 'static,
) -> Running<T> {
    let threads = || {
        let mut builder = Builder::new_multi_thread();
        builder
            .thread_name("aside")
            .max_blocking_threads(FILE_THREADS)
            .enable_all()
            .build()
            .ok()
    };
    let runtime = RUNTIME.get_or_init(threads).as_ref();
    Running {
        what: what.into(),
        task: runtime.map(|runtime| runtime.spawn(work.in_current_span())),
    }
}

/// Runs a future there, and ends it when nobody waits for it any more.
pub(crate) async fn run<T: Send + 'static>(
    what: impl Into<String>,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Lost> {
    begin(what, work).await
}

impl<T> Running<T> {
    /// Whether it has come to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it, and waits until it has let go of everything: until it waits for something itself, that is.
    pub(crate) async fn stop(mut self) {
        if let Some(task) = &mut self.task {
            task.abort();
            let _ended = task.await;
        }
    }
}

impl<T> Future for Running<T> {
    type Output = Result<T, Lost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = match &mut self.task {
            Some(task) => std::task::ready!(Pin::new(task).poll(context)).ok(),
            None => None,
        };
        let what = &self.what;
        Poll::Ready(ended.ok_or_else(|| Lost { what: what.clone() }))
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_blocks_its_thread_blocks_nobody_else() {
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let query = run("it", async move {
            is_done.recv_timeout(Duration::from_secs(60)).is_ok()
        });
        let others = async {
            tokio::task::yield_now().await;
            done.send(()).unwrap();
        };
        let (query, ()) = tokio::join!(query, others);
        assert_eq!(query, Ok(true), "the only thread here was free to say so");
    }

    #[tokio::test]
    async fn files_are_read_by_few_threads() {
        let reads = run("it", async {
            let reads: Vec<_> = (0..200)
                .map(|_| tokio::task::spawn_blocking(|| std::thread::current().id()))
                .collect();
            futures::future::join_all(reads).await
        });
        let threads: std::collections::HashSet<_> =
            reads.await.unwrap().into_iter().map(Result::unwrap).collect();
        assert!(threads.len() <= FILE_THREADS, "{threads:?}");
    }

    #[tokio::test]
    async fn a_query_that_panics_is_told() {
        let lost: Result<(), Lost> = run("the query", async { panic!("a bug") }).await;
        let told = lost.unwrap_err().to_string();
        assert!(told.starts_with("the query ended without a result"), "{told}");
    }

    #[tokio::test]
    async fn a_query_that_is_stopped_has_let_go_of_everything() {
        let held = std::sync::Arc::new(());
        let theirs = std::sync::Arc::clone(&held);
        let query = begin("it", async move {
            let _theirs = theirs;
            std::future::pending::<()>().await;
        });
        assert!(!query.is_over());
        query.stop().await;
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn a_query_that_nobody_waits_for_ends() {
        let (held, mut is_gone) = tokio::sync::oneshot::channel::<()>();
        let (began, has_begun) = tokio::sync::oneshot::channel::<()>();
        let query = run("it", async move {
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
