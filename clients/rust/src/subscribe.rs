//! Subscriptions: every event after a position, each once and in order, without end, over broken connections too.
//!
//! The position is the subscriber's: who keeps it beside what it has done with the events can go on after a crash.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use tonic::{Request, Streaming};

use crate::{
    Client, Event, Filter, Result,
    client::{Backoff, Retry},
    event::timestamp,
    proto::{self, subscribe_request::Start, subscribe_response},
};

/// A subscription that is being described: [`Client::subscribe`] begins one.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = ["PaymentRequested", "PaymentProcessed", "PaymentNoted"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// use annals_client::Filter;
/// use std::time::Duration;
///
/// let payments = client
///     .subscribe()
///     .after(1)
///     .filter(Filter::new().category("Payment"))
///     .name("mailer")
///     .checkpoint_wait_max(Duration::from_secs(1));
/// let mut subscription = payments.start().await?;
/// assert_eq!(subscription.next().await?.position, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is sent before `start`"]
pub struct Subscribe {
    client: Client,
    request: proto::SubscribeRequest,
    retry: Retry,
}

impl Client {
    /// Follows the log from its start, or from where the methods of [`Subscribe`] say.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let events = ["PaymentRequested", "PaymentProcessed", "PaymentNoted"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// let mut subscription = client.subscribe().from_now().start().await?;
    /// client.append("Payment-2", 0, [NewEvent::new("PaymentFailed")]).await?;
    /// assert_eq!(subscription.next().await?.event_type, "PaymentFailed");
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe(&self) -> Subscribe {
        Subscribe {
            client: self.clone(),
            request: proto::SubscribeRequest::default(),
            retry: Retry::for_ever(),
        }
    }
}

impl Subscribe {
    /// Begin after this position: the last one that was handled.
    pub fn after(mut self, position: u64) -> Self {
        self.request.start = Some(Start::After(position));
        self
    }

    /// Begin with the next event that is committed.
    pub fn from_now(mut self) -> Self {
        self.request.start = Some(Start::FromNow(()));
        self
    }

    /// Begin with the first event that happened at this time or later.
    pub fn from_time(mut self, at: DateTime<Utc>) -> Self {
        self.request.start = Some(Start::FromTime(proto::StartTime {
            at: Some(timestamp(at)),
            time_base: proto::TimeBase::Occurred.into(),
        }));
        self
    }

    /// Only what one of the filters picks; of several any one.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.request.filters.push(filter.0);
        self
    }

    /// At most so many events in one message: 1 to 10 000, 1000 where nothing is said.
    pub fn batch_size(mut self, events: u32) -> Self {
        self.request.batch_size = events;
        self
    }

    /// Say where it is when events were passed over and nothing was sent for so long: 100 ms to 1 h, 10 s where nothing
    /// is said.
    pub fn checkpoint_wait_max(mut self, wait: Duration) -> Self {
        self.request.checkpoint_wait_max = wait.try_into().ok();
        self
    }

    /// How the subscriber is called in the server's list.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.request.name = name.into();
        self
    }

    /// How it connects again when the connection breaks: for ever.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The subscription: when this returns it stands, and nothing after its start will be missed.
    pub async fn start(self) -> Result<Subscription> {
        let backoff = Backoff::new(&self.retry);
        let mut subscription = Subscription {
            client: self.client,
            request: self.request,
            backoff,
            messages: None,
            head: 0,
            ready: VecDeque::new(),
        };
        subscription.connect().await?;
        Ok(subscription)
    }
}

/// What a subscription tells.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = ["PaymentRequested", "PaymentProcessed", "PaymentNoted"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// use annals_client::subscribe::Message;
///
/// let mut subscription = client.subscribe().start().await?;
/// let mut handled = 0;
/// let live_from = loop {
///     match subscription.next_message().await? {
///         Message::Events { events, .. } => handled += events.len(),
///         Message::CaughtUp(position) => break position,
///         Message::Checkpoint(_) | Message::FellBehind { .. } => {}
///     }
/// };
/// assert_eq!((handled, live_from), (3, 3));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Events, in the order of their positions.
    Events {
        /// At least one.
        events: Vec<Event>,
        /// All of them were there when the subscription began.
        replaying: bool,
        /// At most so many more match and were not sent yet.
        pending: u64,
    },
    /// Everything up to this position was sent or does not match.
    Checkpoint(u64),
    /// The same, and it is the head: from here on the subscription is live.
    CaughtUp(u64),
    /// More came in than was sent: no longer live. Everything up to the position was sent or does not match.
    FellBehind {
        /// Up to where.
        position: u64,
        /// The head.
        head: u64,
    },
}

/// A subscription that stands. It connects again by itself, and goes on where it was.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = ["PaymentRequested", "PaymentProcessed", "PaymentNoted"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// // Kept beside what was done with the events.
/// let mut handled = 1;
/// let mut subscription = client.subscribe().after(handled).start().await?;
/// while handled < subscription.head() {
///     let event = subscription.next().await?;
///     println!("{} {}", event.position, event.event_type);
///     handled = event.position;
/// }
/// assert_eq!(handled, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    /// With the position up to which everything was given out.
    request: proto::SubscribeRequest,
    backoff: Backoff,
    messages: Option<Streaming<proto::SubscribeResponse>>,
    head: u64,
    ready: VecDeque<Event>,
}

impl Subscription {
    /// The next event. It waits for one as long as it takes, and fails where a new connection cannot help.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if let Message::Events { events, .. } = self.next_message().await? {
                self.ready.extend(events);
            }
        }
    }

    /// The next message: what [`Subscription::next`] has begun to give out comes first only there.
    ///
    /// Safe to drop and call again (as in `select!`): nothing is lost.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let events = ["PaymentRequested", "PaymentProcessed", "PaymentNoted"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// use annals_client::subscribe::Message;
    ///
    /// let mut subscription = client.subscribe().batch_size(2).start().await?;
    /// let Message::Events { events, replaying, .. } = subscription.next_message().await? else {
    ///     panic!("events come first");
    /// };
    /// assert_eq!((events.len(), replaying, subscription.position()), (2, true, 2));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next_message(&mut self) -> Result<Message> {
        loop {
            let Some(messages) = &mut self.messages else {
                self.connect().await?;
                continue;
            };
            let answer = match messages.message().await {
                Ok(Some(answer)) => answer,
                ended => {
                    self.messages = None;
                    self.backoff
                        .wait_after(
                            ended.err().unwrap_or_else(ended_without_error).into(),
                            "the subscription",
                        )
                        .await?;
                    continue;
                }
            };
            self.backoff.reset();
            if let Some(message) = self.take(answer)? {
                return Ok(message);
            }
        }
    }

    /// The log's head when the subscription was confirmed last.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Everything up to this position has been given out, by [`Subscription::next_message`], or does not match.
    pub fn position(&self) -> u64 {
        match self.request.start {
            Some(Start::After(position)) => position,
            _ => 0,
        }
    }

    fn take(&mut self, answer: proto::SubscribeResponse) -> Result<Option<Message>> {
        let proto::SubscribeResponse { message, pending, replaying } = answer;
        let (position, message) = match message {
            Some(subscribe_response::Message::Events(batch)) => {
                let events: Vec<Event> =
                    batch.events.into_iter().map(Event::from_proto).collect::<Result<_>>()?;
                let Some(last) = events.last() else { return Ok(None) };
                (last.position, Some(Message::Events { events, replaying, pending }))
            }
            Some(subscribe_response::Message::Checkpoint(at)) => {
                (at.position, Some(Message::Checkpoint(at.position)))
            }
            Some(subscribe_response::Message::CaughtUp(at)) => {
                (at.position, Some(Message::CaughtUp(at.position)))
            }
            Some(subscribe_response::Message::FellBehind(at)) => {
                let head = at.head;
                (at.position, Some(Message::FellBehind { position: at.position, head }))
            }
            Some(subscribe_response::Message::Heartbeat(at)) => (at.position, None),
            Some(subscribe_response::Message::Confirmed(at)) => {
                self.head = at.head;
                (at.after, None)
            }
            None => return Ok(None),
        };
        self.request.start = Some(Start::After(position));
        Ok(message)
    }

    /// Returns when the server has confirmed.
    async fn connect(&mut self) -> Result<()> {
        loop {
            let request = Request::new(self.request.clone());
            let confirmed = async {
                let mut messages =
                    self.client.subscriptions().subscribe(request).await?.into_inner();
                let first = messages.message().await?;
                Ok::<_, tonic::Status>((messages, first))
            };
            let status = match confirmed.await {
                Ok((messages, Some(first))) => {
                    self.take(first)?;
                    self.messages = Some(messages);
                    return Ok(());
                }
                Ok((_, None)) => ended_without_error(),
                Err(status) => status,
            };
            self.backoff.wait_after(status.into(), "the subscription").await?;
        }
    }
}

/// A server ends a subscription with a reason; something between it and us may end it without.
pub(crate) fn ended_without_error() -> tonic::Status {
    tonic::Status::unavailable("the server ended the call")
}
