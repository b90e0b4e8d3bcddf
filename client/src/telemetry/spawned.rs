//! What the engine spawns stays in the span that spawned it.

use std::any::Any;

use datafusion::common::runtime::JoinSetTracer;
use futures::FutureExt;
use futures::future::BoxFuture;
use tracing::{Instrument, Span};

type Anything = Box<dyn Any + Send>;

/// Carries the current span over.
pub(super) struct InSpan;

impl JoinSetTracer for InSpan {
    fn trace_future(&self, future: BoxFuture<'static, Anything>) -> BoxFuture<'static, Anything> {
        future.in_current_span().boxed()
    }

    fn trace_block(
        &self,
        block: Box<dyn FnOnce() -> Anything + Send>,
    ) -> Box<dyn FnOnce() -> Anything + Send> {
        let span = Span::current();
        Box::new(move || span.in_scope(block))
    }
}
