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
pub use query_cache::{CacheOptions, Cached, QueryCache};
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
///
/// ```
/// # use annals_client::{bus::{Command, CommandEnvelope}, Filter, bus::{Query, QueryEnvelope}};
/// use annals_client::bus::Message;
/// # struct Deposit { account: String, amount: u64 }
/// # impl annals_client::bus::Command for Deposit {
/// #     const NAME: &'static str = "Deposit";
/// # }
/// # #[derive(PartialEq, Eq, Hash)]
/// # struct EventCount { account: String }
/// # impl Query for EventCount {
/// #     const NAME: &'static str = "EventCount";
/// #     type Answer = usize;
/// #     fn depends_on(&self) -> Vec<Filter> { vec![Filter::new().stream(format!("Account-{}", self.account))] }
/// # }
///
/// /// For the command bus and for the query bus.
/// fn noted<M: Message>(message: &M) -> String {
///     format!("somebody sends a {}", message.name())
/// }
///
/// let command = CommandEnvelope::new(Deposit { account: "1".into(), amount: 10 });
/// assert_eq!(noted(&command), "somebody sends a Deposit");
/// let query = QueryEnvelope::from(EventCount { account: "1".into() });
/// assert_eq!(noted(&query), "somebody sends a EventCount");
/// ```
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
///
/// ```
/// # use annals_client::bus::{CommandBus, Receipt};
/// # use std::{sync::Arc, time::Duration};
/// # struct Deposit { account: String, amount: u64 }
/// # impl annals_client::bus::Command for Deposit {
/// #     const NAME: &'static str = "Deposit";
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bus = CommandBus::builder()
///     .trace()
///     .timeout(Duration::from_secs(5))
///     .handle(|deposit: Arc<Deposit>, _| async move {
///         Ok(Receipt { version: deposit.amount, position: 1, duplicate: false })
///     })
///     .build();
/// let receipt = bus.send(Deposit { account: "1".into(), amount: 10 }).await?;
/// assert_eq!(receipt.version, 10);
/// # Ok(())
/// # }
/// ```
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
    ///
    /// ```
    /// # use annals_client::{aggregate::Context, bus::{CommandBus, CommandEnvelope, Receipt}};
    /// # use std::sync::Arc;
    /// use tower::util::MapRequestLayer;
    /// # struct Deposit { account: String, amount: u64 }
    /// # impl annals_client::bus::Command for Deposit {
    /// #     const NAME: &'static str = "Deposit";
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let bus = CommandBus::builder()
    ///     .layer(MapRequestLayer::new(|command: CommandEnvelope| command.metadata("host", "a")))
    ///     .handle(|_: Arc<Deposit>, context: Context| async move {
    ///         assert_eq!(context.metadata["host"], "a");
    ///         Ok(Receipt { version: 1, position: 1, duplicate: false })
    ///     })
    ///     .build();
    /// bus.send(Deposit { account: "1".into(), amount: 10 }).await?;
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```
    /// # use annals_client::bus::{CommandBus, Receipt};
    /// # use std::sync::{Arc, Mutex};
    /// # struct Deposit { account: String, amount: u64 }
    /// # impl annals_client::bus::Command for Deposit {
    /// #     const NAME: &'static str = "Deposit";
    /// # }
    /// # #[derive(Clone, Default)]
    /// # struct Lines(Arc<Mutex<String>>);
    /// # impl std::io::Write for Lines {
    /// #     fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
    /// #         self.0.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
    /// #         Ok(bytes.len())
    /// #     }
    /// #     fn flush(&mut self) -> std::io::Result<()> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let lines = Lines::default();
    /// # let writer = lines.clone();
    /// # let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    /// # let _guard = tracing::subscriber::set_default(log.with_writer(move || writer.clone()).finish());
    /// # let done = |_: Arc<Deposit>, _| async { Ok(Receipt { version: 1, position: 1, duplicate: false }) };
    /// let bus = CommandBus::builder().trace().handle(done).build();
    /// bus.send(Deposit { account: "1".into(), amount: 10 }).await?;
    /// # let log = lines.0.lock().unwrap().clone();
    /// assert!(log.contains(r#"command{name="Deposit" id="#), "{log}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn trace(self) -> Self {
        self.layer(tower::layer::layer_fn(Traced))
    }

    /// Asks the hook before each call, which gives the reason where it is not allowed.
    ///
    /// ```
    /// # use annals_client::{Filter, bus::{Query, QueryBus, QueryEnvelope, QueryError}};
    /// # use std::sync::Arc;
    /// # #[derive(PartialEq, Eq, Hash)]
    /// # struct EventCount { account: String }
    /// # impl Query for EventCount {
    /// #     const NAME: &'static str = "EventCount";
    /// #     type Answer = usize;
    /// #     fn depends_on(&self) -> Vec<Filter> { vec![Filter::new().stream(format!("Account-{}", self.account))] }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let bus = QueryBus::builder()
    ///     .authorize(|query: QueryEnvelope| async move {
    ///         query.fact("userId").map(|_| ()).ok_or("who are you?".into())
    ///     })
    ///     .handle(|_: Arc<EventCount>, _| async { Ok(7) })
    ///     .build();
    /// let query = || QueryEnvelope::from(EventCount { account: "1".into() });
    /// let refused = bus.ask_in::<EventCount>(query()).await;
    /// assert!(matches!(refused, Err(QueryError::Forbidden { why, .. }) if why == "who are you?"));
    /// assert_eq!(*bus.ask_in::<EventCount>(query().metadata("userId", "ada")).await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn authorize<F, A>(self, hook: F) -> Self
    where
        F: Fn(M) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.layer(tower::layer::layer_fn(move |inner| Authorized { inner, hook: hook.clone() }))
    }

    /// Gives a call up after so long. What it has begun on the server may be done all the same.
    ///
    /// ```
    /// # use annals_client::bus::{CommandBus, CommandError};
    /// # use std::{sync::Arc, time::Duration};
    /// # struct Deposit { account: String, amount: u64 }
    /// # impl annals_client::bus::Command for Deposit {
    /// #     const NAME: &'static str = "Deposit";
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let bus = CommandBus::builder()
    ///     .timeout(Duration::from_millis(10))
    ///     .handle(|_: Arc<Deposit>, _| std::future::pending())
    ///     .build();
    /// let given_up = bus.send(Deposit { account: "1".into(), amount: 10 }).await;
    /// assert!(matches!(given_up, Err(CommandError::TimedOut)));
    /// # }
    /// ```
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
