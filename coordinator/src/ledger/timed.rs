//! A ledger whose appends are timed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Entry, Ledger, LedgerError, State};

/// Is told how long an append took, whatever came of it.
pub type Took = Arc<dyn Fn(Duration) + Send + Sync>;

/// The ledger inside, timed.
pub struct Timed {
    inner: Box<dyn Ledger>,
    took: Took,
}

impl Timed {
    /// Tells `took` of each append to `inner`.
    #[must_use]
    pub fn new(inner: Box<dyn Ledger>, took: Took) -> Self {
        Self { inner, took }
    }
}

impl Ledger for Timed {
    fn state(&self) -> &State {
        self.inner.state()
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    fn append(&mut self, entries: Vec<Entry>) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            let began = Instant::now();
            let appended = self.inner.append(entries).await;
            (self.took)(began.elapsed());
            appended
        }
        .boxed()
    }
}
