//! Consumers: events of a group, and what becomes of them, over broken connections too.

use std::{collections::VecDeque, time::Duration};

use tokio::sync::mpsc::{self, Sender, WeakSender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    Client, Error, Event, Result,
    client::{Backoff, Retry},
    proto::{self, consume_request::Message as Says, consume_response::Message as Told},
    query::duration,
    subscribe::ended_without_error,
};

/// So many messages wait to be sent; then who settles an event waits.
const UNSENT_MAX: usize = 64;

/// A consumer that is being described: [`Client::consume`] begins one.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.group("mails").create(annals_client::group::NewGroup::new()).await?;
/// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// use std::time::Duration;
///
/// let mailer = client
///     .consume("mails")
///     .name("mailer-1")
///     .in_flight_max(5)
///     .heartbeat_interval(Duration::from_secs(5));
/// let mut consumer = mailer.start().await?;
/// let delivery = consumer.next().await?;
/// assert_eq!(delivery.event.event_type, "PaymentRequested");
/// delivery.ack().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is delivered before `start`"]
pub struct Consume {
    client: Client,
    start: proto::ConsumeStart,
    retry: Retry,
}

impl Client {
    /// Takes events of a group. Every event is delivered at least once, to one consumer at a time.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.group("mails").create(annals_client::group::NewGroup::new()).await?;
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// let mut consumer = client.consume("mails").start().await?;
    /// let delivery = consumer.next().await?;
    /// assert_eq!(delivery.event.event_type, "PaymentRequested");
    /// delivery.ack().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn consume(&self, group: impl Into<String>) -> Consume {
        Consume {
            client: self.clone(),
            start: proto::ConsumeStart { group: group.into(), ..Default::default() },
            retry: Retry::for_ever(),
        }
    }
}

impl Consume {
    /// How the consumer is called in the server's list: at most 256 bytes.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.start.consumer = name.into();
        self
    }

    /// How many events it has in flight at once, at most: 1 to the group's maximum, which is also what it is where
    /// nothing is said.
    pub fn in_flight_max(mut self, events: u32) -> Self {
        self.start.in_flight_max = events;
        self
    }

    /// Let the server say that it is alive when nothing else was sent for so long: 100 ms to 1 h, 10 s where nothing is
    /// said. [`Consumer::next`] answers, so that a consumer which let an event time out gets others.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.start.heartbeat_interval = Some(duration(interval));
        self
    }

    /// How it connects again when the connection breaks: for ever.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The consumer: when this returns, events may come.
    ///
    /// An unknown group is [`Error::Server`] with the reason `UNKNOWN_GROUP`, one that has as many consumers as it may
    /// with `TOO_MANY_CONSUMERS`.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// let error = client.consume("nobody").start().await.unwrap_err();
    /// assert_eq!(error.reason(), "UNKNOWN_GROUP");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn start(self) -> Result<Consumer> {
        let mut consumer = Consumer {
            backoff: Backoff::new(&self.retry),
            client: self.client,
            start: self.start,
            call: None,
            id: String::new(),
            ready: VecDeque::new(),
        };
        consumer.connect().await?;
        Ok(consumer)
    }
}

/// What is to become of an event that is not handled.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.group("mails").create(annals_client::group::NewGroup::new()).await?;
/// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// use annals_client::group::NackAction;
/// use std::time::Duration;
///
/// let mut consumer = client.consume("mails").start().await?;
/// let requested = consumer.next().await?;
/// requested.nack(NackAction::Skip, "it is no mail").await;
/// let processed = consumer.next().await?;
/// processed.nack(NackAction::RetryAfter(Duration::ZERO), "the mail server is away").await;
///
/// let again = consumer.next().await?;
/// assert_eq!((again.event.event_type.as_str(), again.deliveries), ("PaymentProcessed", 2));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NackAction {
    /// Deliver it again, after as long as the group's settings say; park it if it had its last try.
    Retry,
    /// Deliver it again after so long, at most 24 h; park it if it had its last try.
    RetryAfter(Duration),
    /// Park it at once.
    Park,
    /// Count it as handled.
    Skip,
}

/// An event to handle, and then to settle, each in any order and from any task. Dropped without that, it is delivered
/// again when its time has passed.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.group("mails").create(annals_client::group::NewGroup::new()).await?;
/// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// let mut consumer = client.consume("mails").start().await?;
/// let first = consumer.next().await?;
/// assert_eq!((first.event.event_type.as_str(), first.deliveries), ("PaymentRequested", 1));
/// let second = consumer.next().await?;
///
/// // From another task, and in another order.
/// tokio::spawn(second.ack()).await.unwrap();
/// first.ack().await;
/// consumer.stop().await?;
/// assert_eq!(client.group("mails").get().await?.group.unwrap().settled_count, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "an event that is not settled is delivered again"]
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// How often it has been delivered, from 1.
    pub deliveries: u32,
    call: WeakSender<proto::ConsumeRequest>,
}

impl Delivery {
    /// Says that the event is handled. The server does not confirm it: where the connection over which the event came
    /// ends first, it is delivered again.
    pub async fn ack(self) {
        let positions = vec![self.event.position];
        self.say(Says::Ack(proto::Ack { positions, up_to: 0 })).await;
    }

    /// Says that the event is not handled, what is to become of it, and why: at most 1024 bytes, for whoever looks at
    /// parked events. The server does not confirm that, either.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.group("mails").create(annals_client::group::NewGroup::new()).await?;
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// use annals_client::group::NackAction;
    ///
    /// let mut consumer = client.consume("mails").start().await?;
    /// consumer.next().await?.nack(NackAction::Park, "the address is wrong").await;
    /// consumer.stop().await?;
    /// assert_eq!(client.group("mails").list_parked().await?[0].reason, "the address is wrong");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn nack(self, action: NackAction, reason: impl Into<String>) {
        let retry_after = match action {
            NackAction::RetryAfter(wait) => Some(duration(wait)),
            NackAction::Retry | NackAction::Park | NackAction::Skip => None,
        };
        let action = match action {
            NackAction::Retry | NackAction::RetryAfter(_) => proto::NackAction::Retry,
            NackAction::Park => proto::NackAction::Park,
            NackAction::Skip => proto::NackAction::Skip,
        };
        let nack = proto::Nack {
            positions: vec![self.event.position],
            action: action.into(),
            reason: reason.into(),
            retry_after,
        };
        self.say(Says::Nack(nack)).await;
    }

    async fn say(self, message: Says) {
        let sent = match self.call.upgrade() {
            Some(call) => call.send(request(message)).await.is_ok(),
            None => false,
        };
        if !sent {
            let position = self.event.position;
            tracing::debug!(position, "an event is settled too late: its connection is gone");
        }
    }
}

/// What a consumer is told.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.group("mails").create(annals_client::group::NewGroup::new()).await?;
/// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// use annals_client::group::ConsumerMessage;
///
/// let mut consumer = client.consume("mails").start().await?;
/// let mut handled = 0;
/// while handled < 2 {
///     match consumer.next_message().await? {
///         ConsumerMessage::Event(delivery) => {
///             delivery.ack().await;
///             handled += 1;
///         }
///         ConsumerMessage::NotInFlight(positions) => println!("too late: {positions:?}"),
///     }
/// }
/// assert_eq!(handled, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub enum ConsumerMessage {
    /// An event to handle.
    Event(Box<Delivery>),
    /// Events that were settled too late, by their positions: somebody else has them, or they are settled or parked
    /// already. Nothing has changed.
    NotInFlight(Vec<u64>),
}

/// A consumer that stands. It connects again by itself; what it had in flight is then delivered again, to any consumer.
///
/// Dropped, it goes at once, and what it has settled last may be delivered again: [`Consumer::stop`] sends that first.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.group("mails").create(annals_client::group::NewGroup::new()).await?;
/// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// let mut consumer = client.consume("mails").name("mailer-1").start().await?;
/// for _ in 0..2 {
///     let delivery = consumer.next().await?;
///     println!("{} {}", delivery.event.position, delivery.event.event_type);
///     delivery.ack().await;
/// }
/// consumer.stop().await?;
/// assert_eq!(client.group("mails").get().await?.group.unwrap().settled_count, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    start: proto::ConsumeStart,
    call: Option<Call>,
    backoff: Backoff,
    id: String,
    ready: VecDeque<Delivery>,
}

#[derive(Debug)]
struct Call {
    /// The only one that keeps the call open.
    requests: Sender<proto::ConsumeRequest>,
    messages: Streaming<proto::ConsumeResponse>,
}

impl Consumer {
    /// What names the consumer in [`Group::get`](super::Group::get) and in the server's logs; another one after each
    /// connection.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The next event. It waits for one as long as it takes, and fails where a new connection cannot help.
    ///
    /// Safe to drop and call again (as in `select!`): nothing is lost.
    pub async fn next(&mut self) -> Result<Delivery> {
        loop {
            match self.next_message().await? {
                ConsumerMessage::Event(delivery) => return Ok(*delivery),
                ConsumerMessage::NotInFlight(positions) => {
                    tracing::debug!(?positions, "events were settled too late");
                }
            }
        }
    }

    /// The next message, as [`Consumer::next`], which passes over all but events.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.group("mails").create(annals_client::group::NewGroup::new()).await?;
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// use annals_client::group::ConsumerMessage;
    ///
    /// let mut consumer = client.consume("mails").start().await?;
    /// let message = consumer.next_message().await?;
    /// let ConsumerMessage::Event(delivery) = message else { panic!("{message:?}") };
    /// assert_eq!(delivery.event.event_type, "PaymentRequested");
    /// delivery.ack().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next_message(&mut self) -> Result<ConsumerMessage> {
        loop {
            if let Some(delivery) = self.ready.pop_front() {
                return Ok(ConsumerMessage::Event(Box::new(delivery)));
            }
            let Some(call) = &mut self.call else {
                self.connect().await?;
                continue;
            };
            let told = match call.messages.message().await {
                Ok(Some(response)) => response.message,
                ended => {
                    self.call = None;
                    self.wait_after(ended.err().unwrap_or_else(ended_without_error).into()).await?;
                    continue;
                }
            };
            self.backoff.reset();
            match told {
                Some(Told::Events(delivered)) => {
                    let events = delivered.batch.unwrap_or_default().events.into_iter();
                    for (event, deliveries) in events.zip(delivered.deliveries) {
                        self.ready.push_back(Delivery {
                            event: Event::from_proto(event)?,
                            deliveries,
                            call: call.requests.downgrade(),
                        });
                    }
                }
                Some(Told::NotInFlight(late)) => {
                    return Ok(ConsumerMessage::NotInFlight(late.positions));
                }
                Some(Told::Heartbeat(_)) => {
                    // Where there is no room, something else will be heard.
                    let _ = call.requests.try_send(request(Says::Heartbeat(())));
                }
                Some(Told::Confirmed(_)) | None => {}
            }
        }
    }

    /// Says that all events that this consumer has up to this position are handled.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.group("mails").create(annals_client::group::NewGroup::new()).await?;
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// let mut consumer = client.consume("mails").start().await?;
    /// let _first = consumer.next().await?;
    /// let second = consumer.next().await?;
    /// consumer.ack_up_to(second.event.position).await;
    /// consumer.stop().await?;
    /// assert_eq!(client.group("mails").get().await?.group.unwrap().settled_count, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn ack_up_to(&mut self, position: u64) {
        self.say(Says::Ack(proto::Ack { positions: Vec::new(), up_to: position })).await;
    }

    /// Says that the consumer is alive: one that let an event time out gets no others until it says something.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.group("mails").create(annals_client::group::NewGroup::new()).await?;
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// let mut consumer = client.consume("mails").start().await?;
    /// consumer.heartbeat().await;
    /// assert!(!client.group("mails").get().await?.consumers[0].paused);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn heartbeat(&mut self) {
        self.say(Says::Heartbeat(())).await;
    }

    /// Takes no more events, and returns when the server has heard of all that were settled. The others go to other
    /// consumers.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.group("mails").create(annals_client::group::NewGroup::new()).await?;
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// let mut consumer = client.consume("mails").start().await?;
    /// consumer.next().await?.ack().await;
    /// consumer.stop().await?;
    ///
    /// let mails = client.group("mails").get().await?;
    /// assert_eq!((mails.consumers.len(), mails.group.unwrap().settled_count), (0, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stop(mut self) -> Result<()> {
        let Some(Call { requests, mut messages }) = self.call.take() else { return Ok(()) };
        drop(requests);
        while messages.message().await?.is_some() {}
        Ok(())
    }

    async fn say(&mut self, message: Says) {
        if let Some(call) = &self.call {
            // Closed: the call has ended, which the next message tells.
            let _ = call.requests.send(request(message)).await;
        }
    }

    /// Returns when the server has confirmed.
    async fn connect(&mut self) -> Result<()> {
        loop {
            let (requests, unsent) = mpsc::channel(UNSENT_MAX);
            let start = self.start.clone();
            let confirmed = async {
                let start = request(Says::Start(start));
                requests.send(start).await.map_err(|_| ended_without_error())?;
                let unsent = ReceiverStream::new(unsent);
                let answer = self.client.subscriptions().consume(unsent).await?;
                let mut messages = answer.into_inner();
                let first = messages.message().await?.ok_or_else(ended_without_error)?;
                Ok::<_, Status>((messages, first))
            };
            match confirmed.await {
                Ok((messages, first)) => {
                    if let Some(Told::Confirmed(confirmed)) = first.message {
                        self.id = confirmed.consumer_id;
                    }
                    self.call = Some(Call { requests, messages });
                    return Ok(());
                }
                Err(status) => self.wait_after(status.into()).await?,
            }
        }
    }

    /// Waits before the next try, where one can help.
    async fn wait_after(&mut self, error: Error) -> Result<()> {
        // The server may not know yet that the connection broke, or somebody has taken the place.
        let place_is_taken = !self.id.is_empty() && error.reason() == "TOO_MANY_CONSUMERS";
        let helps = error.is_repeatable() || place_is_taken;
        self.backoff.wait_if(helps, error, "the consumer").await
    }
}

fn request(message: Says) -> proto::ConsumeRequest {
    proto::ConsumeRequest { message: Some(message) }
}
