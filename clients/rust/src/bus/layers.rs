//! Layers that every bus has.

use std::{
    future::Future,
    task::{Context, Poll},
};

use tokio::time::Instant;
use tower::{Service, ServiceExt as _};
use tracing::Instrument as _;

use super::{BoxFuture, Handling, Message, Outcome};

/// Logs each call in a span of its own.
#[derive(Clone)]
pub(super) struct Traced<S>(pub(super) S);

impl<M: Message> Service<M> for Traced<Handling<M>> {
    type Response = M::Answer;
    type Error = M::Error;
    type Future = BoxFuture<Outcome<M>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, message: M) -> Self::Future {
        let span = message.span();
        let called = span.in_scope(|| self.0.call(message));
        let logged = async move {
            let started = Instant::now();
            let outcome = called.await;
            let elapsed = started.elapsed();
            match &outcome {
                Ok(_) => tracing::debug!(?elapsed, "done"),
                Err(error) => tracing::info!(%error, ?elapsed, "not done"),
            }
            outcome
        };
        Box::pin(logged.instrument(span))
    }
}

/// Asks before each call.
#[derive(Clone)]
pub(super) struct Authorized<S, F> {
    pub(super) inner: S,
    pub(super) hook: F,
}

impl<M, F, A> Service<M> for Authorized<Handling<M>, F>
where
    M: Message,
    F: Fn(M) -> A,
    A: Future<Output = Result<(), String>> + Send + 'static,
{
    type Response = M::Answer;
    type Error = M::Error;
    type Future = BoxFuture<Outcome<M>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        // The inner service is asked when the hook has allowed the call.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: M) -> Self::Future {
        let asked = (self.hook)(message.clone());
        let inner = self.inner.clone();
        Box::pin(async move {
            match asked.await {
                Ok(()) => inner.oneshot(message).await,
                Err(why) => Err(message.forbidden(why)),
            }
        })
    }
}
