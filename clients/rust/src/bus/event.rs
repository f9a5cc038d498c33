//! The event bus: what was appended just now, to handlers in this process.

use std::{fmt, future::Future, sync::Arc};

use super::BoxFuture;
use crate::{Event, projection::HandlerError};

type Handler = Arc<dyn Fn(Arc<Event>) -> BoxFuture<Result<(), HandlerError>> + Send + Sync>;

/// Handlers of events in this process, each for one event type or for all.
///
/// [`Repository::publish_to`](crate::aggregate::Repository::publish_to) tells it what was appended. Handlers run one after the
/// other, in the order of the events and then of the handlers, also when the caller is not there any more; one that fails or
/// panics is logged and holds up nobody. Each event is told at most once: not after a crash between the append and the
/// handler, and not for an append that was repeated because its first answer was lost.
///
/// ```
/// # use annals_client::{Event, bus::EventBus, testing::TestStore};
/// # use annals_client::aggregate::{Aggregate, Context, Repository};
/// # use serde::{Deserialize, Serialize};
/// # use std::sync::Arc;
/// # #[derive(Serialize, Deserialize)]
/// # #[serde(tag = "type", content = "data")]
/// # enum AccountEvent { Opened }
/// # #[derive(Default)]
/// # struct Account;
/// # impl Aggregate for Account {
/// #     const CATEGORY: &'static str = "Account";
/// #     type Event = AccountEvent;
/// #     fn apply(&mut self, _: &AccountEvent) {}
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// let bus = EventBus::new().on("Opened", |event: Arc<Event>| async move {
///     println!("{} is open", event.stream);
///     Ok(())
/// });
/// let accounts = Repository::<Account>::new(client).publish_to(bus);
/// # let mut account = accounts.load("1").await?;
/// # account.record(AccountEvent::Opened);
/// # accounts.save(&mut account, &Context::default()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct EventBus {
    /// `None`: of every type.
    handlers: Vec<(Option<Arc<str>>, Handler)>,
}

impl fmt::Debug for EventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<_> = self.handlers.iter().map(|(event_type, _)| event_type).collect();
        f.debug_struct("EventBus").field("types", &types).finish()
    }
}

impl EventBus {
    /// Without handlers.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more handler, of events of this type.
    #[must_use]
    pub fn on<F, D>(self, event_type: &str, handler: F) -> Self
    where
        F: Fn(Arc<Event>) -> D + Send + Sync + 'static,
        D: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        self.add(Some(event_type.into()), handler)
    }

    /// With one more handler, of every event.
    ///
    /// ```
    /// # use annals_client::{Event, NewEvent, bus::EventBus, testing::TestStore};
    /// # use std::sync::{Arc, Mutex};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Account-1", 0, [NewEvent::new("Opened"), NewEvent::new("Closed")]).await?;
    /// # let told = Arc::new(Mutex::new(Vec::new()));
    /// # let types = Arc::clone(&told);
    /// let bus = EventBus::new().on_every(move |event: Arc<Event>| {
    ///     types.lock().unwrap().push(event.event_type.clone());
    ///     async { Ok(()) }
    /// });
    /// bus.publish(client.read_stream("Account-1").collect().await?).await;
    /// assert_eq!(*told.lock().unwrap(), ["Opened", "Closed"]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn on_every<F, D>(self, handler: F) -> Self
    where
        F: Fn(Arc<Event>) -> D + Send + Sync + 'static,
        D: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        self.add(None, handler)
    }

    fn add<F, D>(mut self, event_type: Option<Arc<str>>, handler: F) -> Self
    where
        F: Fn(Arc<Event>) -> D + Send + Sync + 'static,
        D: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        self.handlers.push((event_type, Arc::new(move |event| Box::pin(handler(event)))));
        self
    }

    /// Tells the handlers of these events, and returns when all have been told.
    ///
    /// ```
    /// # use annals_client::{Event, NewEvent, bus::EventBus, testing::TestStore};
    /// # use std::sync::{Arc, atomic::{AtomicU64, Ordering::SeqCst}};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let last = Arc::new(AtomicU64::new(0));
    /// # let seen = Arc::clone(&last);
    /// # let bus = EventBus::new().on("Opened", move |event: Arc<Event>| {
    /// #     seen.store(event.position, SeqCst);
    /// #     async { Ok(()) }
    /// # });
    /// let appended = client.append("Account-1", 0, [NewEvent::new("Opened")]).await?;
    /// bus.publish(client.read_stream("Account-1").collect().await?).await;
    /// assert_eq!(last.load(SeqCst), appended.position, "its handlers have been told");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(&self, events: Vec<Event>) {
        let handlers = self.handlers.clone();
        // A task of its own: who gives up waiting for the append must not stop a handler half way.
        let told = tokio::spawn(async move {
            for event in events.into_iter().map(Arc::new) {
                let concerned = handlers.iter().filter(|(event_type, _)| {
                    event_type.as_deref().is_none_or(|it| it == event.event_type)
                });
                for (_, handler) in concerned {
                    tell(handler, &event).await;
                }
            }
        });
        if let Err(error) = told.await {
            tracing::error!(%error, "the event bus stopped");
        }
    }
}

async fn tell(handler: &Handler, event: &Arc<Event>) {
    let (handler, told) = (Arc::clone(handler), Arc::clone(event));
    let failed: Option<HandlerError> = match tokio::spawn(async move { handler(told).await }).await
    {
        Ok(done) => done.err(),
        Err(panicked) => Some(panicked.into()),
    };
    if let Some(error) = failed {
        let Event { event_type, stream, position, .. } = &**event;
        tracing::error!(event_type, stream, position, %error, "an event handler failed");
    }
}
