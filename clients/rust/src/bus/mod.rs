//! Buses: an application's commands, queries and events, each to who handles it.
//!
//! ```text
//! CommandBus ── layers ──► the one handler of its type ──► Repository ──append──► server
//!   trace, validate, authorize, timeout, idempotency, retry      │ after the append
//! QueryBus ──── layers ──► the one handler of its type           ▼
//!   trace, authorize, timeout, QueryCache                     EventBus ──► every handler of its type
//! ```
//!
//! Layers are [`tower`](https://docs.rs/tower) layers, those of this crate, of `tower` and of your own; the first one that is
//! added is the outermost. Commands and queries have one handler each, and an answer; events have as many as want them, and
//! none. Everything is in this process: what must not be missed is for a [`projection`](crate::projection) or a consumer group.

mod command;
mod command_bus;
mod event;
mod layers;
mod query;
mod query_cache;

use std::{
    any::TypeId, collections::HashMap, error::Error as StdError, fmt, future::Future, pin::Pin,
    sync::Arc, time::Duration,
};

pub use command::{Command, CommandEnvelope, CommandError, Receipt, Violation};
pub use command_bus::CommandBus;
pub use event::EventBus;
pub use query::{Query, QueryBus, QueryEnvelope, QueryError};
pub use query_cache::{CacheOptions, QueryCache};
use tower::{BoxError, Layer, Service, ServiceExt as _, util::BoxCloneSyncService};

use layers::{Authorized, Traced};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// What a call of a bus comes to.
type Outcome<M> = Result<<M as Message>::Answer, <M as Message>::Error>;
/// What handles messages: the handlers, within layers.
type Handling<M> = BoxCloneSyncService<M, <M as Message>::Answer, <M as Message>::Error>;
type Handler<M> = Arc<dyn Fn(M) -> BoxFuture<Outcome<M>> + Send + Sync>;
/// Puts a layer around what is handled so far.
type Wrap<M> = Box<dyn FnOnce(Handling<M>) -> Handling<M> + Send>;

/// What a bus carries: [`CommandEnvelope`] and [`QueryEnvelope`].
pub trait Message: Clone + Send + Sync + 'static + sealed::Sealed {
    /// What its handler answers.
    type Answer: Send + 'static;
    /// Why there is no answer.
    type Error: StdError + From<BoxError> + Send + Sync + 'static;

    /// The name of its type.
    fn name(&self) -> &'static str;

    #[doc(hidden)]
    fn type_id(&self) -> TypeId;

    #[doc(hidden)]
    fn span(&self) -> tracing::Span;

    #[doc(hidden)]
    fn forbidden(&self, why: String) -> Self::Error;

    #[doc(hidden)]
    fn unhandled(&self) -> Self::Error;
}

mod sealed {
    pub trait Sealed {}
}

/// A bus that is being put together: handlers by the type of what they handle, and layers around them.
#[must_use = "nothing is handled before `build`"]
pub struct Builder<M: Message> {
    handlers: HashMap<TypeId, Handler<M>>,
    layers: Vec<Wrap<M>>,
}

impl<M: Message> fmt::Debug for Builder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (handlers, layers) = (self.handlers.len(), self.layers.len());
        f.debug_struct("Builder").field("handlers", &handlers).field("layers", &layers).finish()
    }
}

impl<M: Message> Builder<M> {
    fn new() -> Self {
        Self { handlers: HashMap::new(), layers: Vec::new() }
    }

    fn add(mut self, message_type: TypeId, name: &str, handler: Handler<M>) -> Self {
        let earlier = self.handlers.insert(message_type, handler);
        assert!(earlier.is_none(), "{name} has two handlers");
        self
    }

    /// A layer around what comes after it: any of `tower`'s, or your own. Its errors become the bus's; those that it does not
    /// know are its `Other`.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Handling<M>> + Send + 'static,
        L::Service: Service<M, Response = M::Answer> + Clone + Send + Sync + 'static,
        <L::Service as Service<M>>::Error: Into<BoxError>,
        <L::Service as Service<M>>::Future: Send + 'static,
    {
        self.layers.push(Box::new(move |inner| {
            let outer = layer.layer(inner).map_err(|error| M::Error::from(error.into()));
            BoxCloneSyncService::new(outer)
        }));
        self
    }

    /// A span around each call, with name and ids, in which its outcome and how long it took are logged.
    pub fn trace(self) -> Self {
        self.layer(tower::layer::layer_fn(Traced))
    }

    /// Asks the hook before each call, which gives the reason where it is not allowed.
    pub fn authorize<F, A>(self, hook: F) -> Self
    where
        F: Fn(M) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.layer(tower::layer::layer_fn(move |inner| Authorized { inner, hook: hook.clone() }))
    }

    /// Gives a call up after so long. What it has begun on the server may be done all the same.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.layer(tower::timeout::TimeoutLayer::new(timeout))
    }

    fn service(self) -> Handling<M> {
        let handlers = Arc::new(self.handlers);
        let dispatched = tower::service_fn(move |message: M| {
            let handler = handlers.get(&message.type_id()).map(Arc::clone);
            async move {
                match handler {
                    Some(handler) => handler(message).await,
                    None => Err(message.unhandled()),
                }
            }
        });
        let layers = self.layers.into_iter().rev();
        layers.fold(BoxCloneSyncService::new(dispatched), |inner, layer| layer(inner))
    }
}
