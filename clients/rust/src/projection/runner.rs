//! Runs a projection: subscribes behind the checkpoint, folds, commits, goes on; over broken connections, restarts of
//! either side, and other runners.

use std::{future::Future, time::Duration};

use tokio::sync::watch;
use uuid::Uuid;

use super::{Batch, HandlerError, Projection, Target, TargetError};
use crate::{
    Client, Error, Event, ExpectedVersion, NewEvent,
    client::{Backoff, Retry},
    subscribe::{Message, Subscription},
};

/// The checkpoint follows the log at least so often, also when nothing matched: who waits for a position of their own
/// does not wait for longer.
const CHECKPOINT_WAIT: Duration = Duration::from_millis(200);

/// What to do with an event that cannot be handled, after all tries.
///
/// ```
/// # use annals_client::{Event, Filter, NewEvent, client::Retry, testing::TestStore};
/// # use annals_client::projection::{Documents, HandlerError, OnFailure, Projection, ReadModelTarget, Runner};
/// # struct Broken;
/// # impl Projection<Documents> for Broken {
/// #     fn name(&self) -> &str { "broken" }
/// #     fn filters(&self) -> Vec<Filter> { Vec::new() }
/// #     async fn handle(&mut self, _: &Event, _: &mut Documents) -> Result<(), HandlerError> {
/// #         Err("no amount".into())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("A")]).await?;
/// # let model = client.read_model("broken");
/// # model.create(&[]).await?;
/// # let runner = Runner::new(&client, Broken, ReadModelTarget::new(model));
/// # let runner = runner.retry(Retry { tries: 1, ..Retry::default() });
/// let runner = runner.on_failure(OnFailure::Park);
/// runner.run_until_caught_up().await?;
/// let parked = client.read_stream("ProjectionParked-broken").collect().await?;
/// let parked: serde_json::Value = parked[0].json()?;
/// assert_eq!((&parked["position"], &parked["error"]), (&1.into(), &"no amount".into()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Stop, with the checkpoint before the event: [`RunError::Handler`].
    #[default]
    Stop,
    /// Note it in the stream `ProjectionParked-<name>` of the log, and go on behind it.
    Park,
    /// Log it, and go on behind it.
    Skip,
}

/// Why a projection has stopped.
///
/// ```
/// # use annals_client::{Event, Filter, NewEvent, client::Retry, testing::TestStore};
/// # use annals_client::projection::{Documents, HandlerError, Projection, ReadModelTarget, RunError, Runner};
/// # struct Broken;
/// # impl Projection<Documents> for Broken {
/// #     fn name(&self) -> &str { "broken" }
/// #     fn filters(&self) -> Vec<Filter> { Vec::new() }
/// #     async fn handle(&mut self, _: &Event, _: &mut Documents) -> Result<(), HandlerError> {
/// #         Err("no amount".into())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("A")]).await?;
/// # let model = client.read_model("broken");
/// # model.create(&[]).await?;
/// # let runner = Runner::new(&client, Broken, ReadModelTarget::new(model));
/// # let runner = runner.retry(Retry { tries: 1, ..Retry::default() });
/// match runner.run_until_caught_up().await {
///     Err(RunError::Handler { position, source, .. }) => {
///         assert_eq!((position, source.to_string().as_str()), (1, "no amount"));
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An event cannot be handled. The checkpoint is before it.
    #[error("the {event_type} at position {position} cannot be handled: {source}")]
    Handler {
        /// The event's position.
        position: u64,
        /// Its type.
        event_type: String,
        /// What the handler said.
        source: HandlerError,
    },
    /// The target cannot be read or written.
    #[error("the target failed: {0}")]
    Target(#[from] TargetError),
    /// The log cannot be followed.
    #[error("the log cannot be followed: {0}")]
    Subscription(#[from] Error),
}

/// How far a projection is.
///
/// ```
/// # use annals_client::{Event, Filter, NewEvent, testing::TestStore};
/// # use annals_client::projection::{Documents, HandlerError, Projection, ReadModelTarget, Runner};
/// # #[derive(Default, serde::Serialize, serde::Deserialize)]
/// # struct Count { events: u64 }
/// # struct Counts;
/// # impl Projection<Documents> for Counts {
/// #     fn name(&self) -> &str { "counts" }
/// #     fn filters(&self) -> Vec<Filter> { vec![Filter::new().category("Payment")] }
/// #     async fn handle(&mut self, event: &Event, counts: &mut Documents) -> Result<(), HandlerError> {
/// #         let mut count: Count = counts.get(&event.stream).await?.unwrap_or_default();
/// #         count.events += 1;
/// #         counts.put(&event.stream, &count)?;
/// #         Ok(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("A"), NewEvent::new("B")]).await?;
/// # let model = client.read_model("counts");
/// # model.create(&[]).await?;
/// # let runner = Runner::new(&client, Counts, ReadModelTarget::new(model));
/// let mut progress = runner.progress();
/// let running = tokio::spawn(runner.run(std::future::pending()));
/// let now = progress.wait_for(|progress| progress.live).await?.clone();
/// assert_eq!((now.checkpoint, now.handled, now.pending), (2, 2, 0));
/// assert_eq!((now.passed_over, now.last_error), (0, None));
/// # running.abort();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Everything up to this position is in the read model.
    pub checkpoint: u64,
    /// At most so many matching events are not: the lag.
    pub pending: u64,
    /// It has caught up, and not fallen behind since.
    pub live: bool,
    /// How many events this runner has handled.
    pub handled: u64,
    /// How many it has parked or skipped.
    pub passed_over: u64,
    /// What went wrong last, and was tried again.
    pub last_error: Option<String>,
}

/// A projection with its target.
///
/// ```
/// # use annals_client::{Event, Filter, NewEvent, client::Retry, testing::TestStore};
/// # use annals_client::projection::{Documents, HandlerError, OnFailure, Projection, ReadModelTarget, Runner};
/// # #[derive(Default, serde::Serialize, serde::Deserialize)]
/// # struct Count { events: u64 }
/// # struct Counts;
/// # impl Projection<Documents> for Counts {
/// #     fn name(&self) -> &str { "counts" }
/// #     fn filters(&self) -> Vec<Filter> { vec![Filter::new().category("Payment")] }
/// #     async fn handle(&mut self, event: &Event, counts: &mut Documents) -> Result<(), HandlerError> {
/// #         let mut count: Count = counts.get(&event.stream).await?.unwrap_or_default();
/// #         count.events += 1;
/// #         counts.put(&event.stream, &count)?;
/// #         Ok(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("A"), NewEvent::new("B")]).await?;
/// # let model = client.read_model("counts");
/// # model.create(&[]).await?;
/// let runner = Runner::new(&client, Counts, ReadModelTarget::new(model.clone()))
///     .batch_size(100)
///     .retry(Retry { tries: 3, ..Retry::default() })
///     .on_failure(OnFailure::Skip);
/// runner.run_until_caught_up().await?;
/// assert_eq!(model.get::<Count>("Payment-1").await?.unwrap().value.events, 2);
/// # Ok(())
/// # }
/// ```
pub struct Runner<P, T> {
    client: Client,
    projection: P,
    target: T,
    batch_size: u32,
    retry: Retry,
    on_failure: OnFailure,
    progress: watch::Sender<Progress>,
}

/// Whether a commit went through.
enum Committed {
    Yes,
    /// Somebody else was first: begin again behind the checkpoint that there is.
    Overtaken,
}

/// When to end by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Stopped,
    CaughtUp,
}

impl<P, T> Runner<P, T>
where
    T: Target,
    P: Projection<T::Batch>,
{
    /// At most 500 events in a batch; an event is tried 5 times; then the runner stops.
    pub fn new(client: &Client, projection: P, target: T) -> Self {
        Self {
            client: client.clone(),
            projection,
            target,
            batch_size: 500,
            retry: Retry { tries: 5, ..Retry::default() },
            on_failure: OnFailure::Stop,
            progress: watch::Sender::default(),
        }
    }

    /// At most so many events in a batch: 1 to 10 000.
    #[must_use]
    pub fn batch_size(mut self, events: u32) -> Self {
        self.batch_size = events;
        self
    }

    /// How often an event is tried that cannot be handled. Connections and targets that are away are tried for ever.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// What to do with an event then.
    #[must_use]
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// How far it is, whenever that changes.
    ///
    /// ```
    /// # use annals_client::{Event, Filter, NewEvent, testing::TestStore};
    /// # use annals_client::projection::{Documents, HandlerError, Projection, ReadModelTarget, Runner};
    /// # #[derive(Default, serde::Serialize, serde::Deserialize)]
    /// # struct Count { events: u64 }
    /// # struct Counts;
    /// # impl Projection<Documents> for Counts {
    /// #     fn name(&self) -> &str { "counts" }
    /// #     fn filters(&self) -> Vec<Filter> { vec![Filter::new().category("Payment")] }
    /// #     async fn handle(&mut self, event: &Event, counts: &mut Documents) -> Result<(), HandlerError> {
    /// #         let mut count: Count = counts.get(&event.stream).await?.unwrap_or_default();
    /// #         count.events += 1;
    /// #         counts.put(&event.stream, &count)?;
    /// #         Ok(())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Payment-1", 0, [NewEvent::new("A"), NewEvent::new("B")]).await?;
    /// # let model = client.read_model("counts");
    /// # model.create(&[]).await?;
    /// # let runner = Runner::new(&client, Counts, ReadModelTarget::new(model));
    /// let progress = runner.progress(); // Before `run`, which takes the runner.
    /// runner.run_until_caught_up().await?;
    /// assert_eq!(progress.borrow().checkpoint, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Runs until `stop` is ready. What was handled and not committed is handled again by the next run.
    ///
    /// ```
    /// # use annals_client::{Event, Filter, NewEvent, testing::TestStore};
    /// # use annals_client::projection::{Documents, HandlerError, Projection, ReadModelTarget, Runner};
    /// # #[derive(Default, serde::Serialize, serde::Deserialize)]
    /// # struct Count { events: u64 }
    /// # struct Counts;
    /// # impl Projection<Documents> for Counts {
    /// #     fn name(&self) -> &str { "counts" }
    /// #     fn filters(&self) -> Vec<Filter> { vec![Filter::new().category("Payment")] }
    /// #     async fn handle(&mut self, event: &Event, counts: &mut Documents) -> Result<(), HandlerError> {
    /// #         let mut count: Count = counts.get(&event.stream).await?.unwrap_or_default();
    /// #         count.events += 1;
    /// #         counts.put(&event.stream, &count)?;
    /// #         Ok(())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let model = client.read_model("counts");
    /// # model.create(&[]).await?;
    /// # let runner = Runner::new(&client, Counts, ReadModelTarget::new(model.clone()));
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// let running = tokio::spawn(runner.run(async { drop(stopped.await) }));
    /// let written = client.append("Payment-1", 0, [NewEvent::new("A")]).await?;
    /// let model = model.min_position(written.position); // It waits for the runner.
    /// assert_eq!(model.get::<Count>("Payment-1").await?.unwrap().value.events, 1);
    /// stop.send(()).unwrap();
    /// running.await??;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send) -> Result<(), RunError> {
        tokio::select! {
            ran = self.go(Until::Stopped) => ran,
            () = stop => Ok(()),
        }
    }

    /// Runs until everything that was there when it began is in the read model.
    pub async fn run_until_caught_up(mut self) -> Result<(), RunError> {
        self.go(Until::CaughtUp).await
    }

    async fn go(&mut self, until: Until) -> Result<(), RunError> {
        // Its own retries, without end: a database that restarts is waited for.
        let mut backoff = Backoff::new(&Retry::for_ever());
        loop {
            let checkpoint = loop {
                match self.target.checkpoint().await {
                    Ok(checkpoint) => break checkpoint,
                    Err(TargetError::Transient(error)) => self.pause(&mut backoff, &error).await,
                    Err(error) => return Err(error.into()),
                }
            };
            self.progress.send_modify(|progress| progress.checkpoint = checkpoint);
            let subscription = self.subscribe(checkpoint).await?;
            if self.follow(subscription, checkpoint, until).await? {
                return Ok(());
            }
            if self.progress.borrow().checkpoint > checkpoint {
                backoff.reset();
            }
            let (name, checkpoint) = (self.projection.name(), self.progress.borrow().checkpoint);
            tracing::warn!(name, checkpoint, "another runner of this projection was first");
            self.note("another runner of this projection was first");
            // Two runners in step would only be in each other's way.
            if let Some(pause) = backoff.next() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    async fn subscribe(&self, after: u64) -> Result<Subscription, Error> {
        let mut subscribe = self.client.subscribe().after(after).batch_size(self.batch_size);
        for filter in self.projection.filters() {
            subscribe = subscribe.filter(filter);
        }
        let subscribe = subscribe.checkpoint_wait_max(CHECKPOINT_WAIT);
        subscribe.name(format!("projection {}", self.projection.name())).start().await
    }

    /// Whether it has ended where it was to; otherwise somebody else was first.
    async fn follow(
        &mut self,
        mut subscription: Subscription,
        mut checkpoint: u64,
        until: Until,
    ) -> Result<bool, RunError> {
        let head = subscription.head();
        loop {
            if until == Until::CaughtUp && checkpoint >= head {
                return Ok(true);
            }
            let message = subscription.next_message().await?;
            let mut batch = self.target.begin();
            let (position, live) = match message {
                Message::Events { events, pending, .. } => {
                    let mut handled = checkpoint;
                    for event in &events {
                        if let Err(error) = self.handle(event, &mut batch).await {
                            if handled > checkpoint {
                                self.commit(checkpoint, handled, &mut batch).await?;
                            }
                            return Err(error);
                        }
                        handled = event.position;
                    }
                    let count = events.len() as u64;
                    self.progress.send_modify(|progress| {
                        progress.pending = pending;
                        progress.handled += count;
                    });
                    (handled, None)
                }
                Message::Checkpoint(position) => (position, None),
                Message::CaughtUp(position) => (position, Some(true)),
                Message::FellBehind { position, .. } => (position, Some(false)),
            };
            if position > checkpoint {
                if let Committed::Overtaken = self.commit(checkpoint, position, &mut batch).await? {
                    return Ok(false);
                }
                checkpoint = position;
            }
            self.progress.send_modify(|progress| {
                progress.checkpoint = checkpoint;
                progress.live = live.unwrap_or(progress.live);
                if live == Some(true) {
                    progress.pending = 0;
                }
            });
        }
    }

    /// Handles one event, tries again where that fails, and passes over it in the end if it is told to.
    async fn handle(&mut self, event: &Event, batch: &mut T::Batch) -> Result<(), RunError> {
        let mut backoff = Backoff::new(&self.retry);
        loop {
            batch.mark();
            let Err(source) = self.projection.handle(event, batch).await else { return Ok(()) };
            batch.undo();
            self.note(&format!("position {}: {source}", event.position));
            // What the connection has spoiled is not the event's fault.
            let is_elsewhere = source.downcast_ref().is_some_and(Error::is_on_the_way);
            if let Some(pause) = backoff.next() {
                tokio::time::sleep(pause).await;
                continue;
            }
            if is_elsewhere {
                backoff.reset();
                continue;
            }
            let (position, event_type) = (event.position, event.event_type.clone());
            match self.on_failure {
                OnFailure::Stop => return Err(RunError::Handler { position, event_type, source }),
                OnFailure::Park => self.park(event, &source).await?,
                OnFailure::Skip => {
                    let name = self.projection.name();
                    tracing::error!(name, position, event_type, error = %source, "an event is skipped");
                }
            }
            self.progress.send_modify(|progress| progress.passed_over += 1);
            return Ok(());
        }
    }

    /// Notes the event in the log; once, however often it comes to this.
    async fn park(&self, event: &Event, error: &HandlerError) -> Result<(), Error> {
        let name = self.projection.name();
        let id = Uuid::new_v5(&event.id, format!("parked by {name}").as_bytes());
        let parked = serde_json::json!({
            "projection": name,
            "eventId": event.id,
            "position": event.position,
            "stream": event.stream,
            "type": event.event_type,
            "error": error.to_string(),
        });
        let parked = NewEvent::json("ProjectionEventParked", &parked)?
            .id(id)
            .causation_id(event.id.to_string());
        let stream = format!("ProjectionParked-{name}");
        self.client.append(stream, ExpectedVersion::Any, [parked]).await?;
        Ok(())
    }

    async fn commit(
        &mut self,
        expected: u64,
        checkpoint: u64,
        batch: &mut T::Batch,
    ) -> Result<Committed, RunError> {
        let mut backoff = Backoff::new(&Retry::for_ever());
        let mut is_repeat = false;
        loop {
            match self.target.commit(expected, checkpoint, batch).await {
                Ok(()) => return Ok(Committed::Yes),
                // The answer to an earlier try was lost; or another runner did the same, which is as good.
                Err(TargetError::Conflict { actual }) if is_repeat && actual == checkpoint => {
                    return Ok(Committed::Yes);
                }
                Err(TargetError::Conflict { .. }) => return Ok(Committed::Overtaken),
                Err(TargetError::Transient(error)) => {
                    is_repeat = true;
                    self.pause(&mut backoff, &error).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn pause(&self, backoff: &mut Backoff, error: &HandlerError) {
        let name = self.projection.name();
        tracing::warn!(name, %error, "the target is tried again");
        self.note(&error.to_string());
        if let Some(pause) = backoff.next() {
            tokio::time::sleep(pause).await;
        }
    }

    fn note(&self, error: &str) {
        self.progress.send_modify(|progress| progress.last_error = Some(error.to_owned()));
    }
}
