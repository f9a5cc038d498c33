//! Replays: history, at its own pace, N times as fast, or at once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tonic::Streaming;

use super::{TimeBase, duration};
use crate::{
    Client, Error, Event, Filter, Result,
    event::{moment, timestamp},
    proto::{self, replay_response::Message},
    read::without_end,
};

/// A replay that is being described: [`Client::replay`] begins one.
///
/// ```
/// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::query::ReplayMessage;
///
/// let events = (0..3).map(|_| NewEvent::new("PaymentFailed"));
/// client.append("Payment-1", ExpectedVersion::NoStream, events).await?;
///
/// let mut replay = client.replay().speed(1000.0).start().await?;
/// let mut replayed = 0;
/// while let Some(message) = replay.next().await? {
///     if let ReplayMessage::Events(events) = message {
///         replayed += events.len();
///     }
/// }
/// assert_eq!(replayed, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is sent before `start`"]
pub struct Replay {
    client: Client,
    request: proto::ReplayRequest,
}

impl Client {
    /// Sends history again, at once where the methods of [`Replay`] say nothing else.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let events = ["10", "11"].map(|hour| {
    /// #     let at = format!("2024-03-01T{hour}:00:00Z").parse().unwrap();
    /// #     NewEvent::new("PaymentFailed").occurred_at(at)
    /// # });
    /// # client.append("Payment-1", 0, events).await?;
    /// use annals_client::query::ReplayMessage;
    ///
    /// let at = "2024-03-01T10:30:00Z".parse().unwrap();
    /// let mut replay = client.replay().from(at).start().await?;
    /// let Some(ReplayMessage::Events(events)) = replay.next().await? else { panic!("no event") };
    /// assert_eq!(events[0].version, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn replay(&self) -> Replay {
        Replay { client: self.clone(), request: proto::ReplayRequest::default() }
    }
}

impl Replay {
    /// Only what one of the filters picks; of several any one.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.request.filters.push(filter.0);
        self
    }

    /// Begin after this position.
    pub fn after(mut self, position: u64) -> Self {
        self.request.after = position;
        self
    }

    /// Begin at once with the first event, in the order of the log, of this time or later.
    pub fn from(mut self, at: DateTime<Utc>) -> Self {
        self.request.from = Some(timestamp(at));
        self
    }

    /// How many times as fast as it was: 0.001 to 1 000 000.
    pub fn speed(mut self, times: f64) -> Self {
        self.request.speed = times;
        self
    }

    /// Which time the pace is that of.
    pub fn time_base(mut self, time_base: TimeBase) -> Self {
        self.request.time_base = time_base.into_proto();
        self
    }

    /// No pause is longer than this, as it is waited for.
    pub fn pause_max(mut self, pause: Duration) -> Self {
        self.request.pause_max = Some(duration(pause));
        self
    }

    /// At most so many events.
    pub fn limit(mut self, events: u64) -> Self {
        self.request.limit = events;
        self
    }

    /// Wait until the log has reached this position: read your own writes.
    pub fn min_position(mut self, position: u64) -> Self {
        self.request.min_position = position;
        self
    }

    /// The replay, which has begun. It ends with the head of this moment.
    pub async fn start(self) -> Result<Replaying> {
        let Self { client, request } = self;
        let mut messages = client
            .call(request, |client, request| async move {
                client.queries().replay(without_end(request)).await
            })
            .await?;
        match messages.message().await?.and_then(|first| first.message) {
            Some(Message::Started(started)) => {
                Ok(Replaying { messages, head: started.head, ended: false })
            }
            _ => Err(undecodable("its first message is not its start")),
        }
    }
}

/// What a replay tells.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = ["10", "11"].map(|hour| {
/// #     let at = format!("2024-03-01T{hour}:00:00Z").parse().unwrap();
/// #     NewEvent::new("PaymentFailed").occurred_at(at)
/// # });
/// # client.append("Payment-1", 0, events).await?;
/// use annals_client::query::ReplayMessage;
/// use std::time::Duration;
///
/// let mut replay = client.replay().speed(60.0).pause_max(Duration::from_millis(1)).start().await?;
/// let mut replayed = 0;
/// while let Some(message) = replay.next().await? {
///     match message {
///         ReplayMessage::Events(events) => replayed += events.len(),
///         ReplayMessage::Pause { wait, .. } => println!("the next event comes in {wait:?}"),
///         ReplayMessage::Ended { event_count, .. } => assert_eq!(event_count, 2),
///     }
/// }
/// assert_eq!(replayed, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum ReplayMessage {
    /// Events whose time has come, in the order of the log. They are history and no news: handlers hold back what they
    /// do to the world.
    Events(Vec<Event>),
    /// The next event is more than a second away.
    Pause {
        /// How long.
        wait: Duration,
        /// The time of the event that comes next.
        until: DateTime<Utc>,
    },
    /// Everything up to the head of the start was sent.
    Ended {
        /// How many events were sent.
        event_count: u64,
        /// Everything up to this position was sent or does not match: where to go on.
        position: u64,
    },
}

/// A replay that has begun. It does not connect again: begin another one after the last event.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = ["10", "11"].map(|hour| {
/// #     let at = format!("2024-03-01T{hour}:00:00Z").parse().unwrap();
/// #     NewEvent::new("PaymentFailed").occurred_at(at)
/// # });
/// # client.append("Payment-1", 0, events).await?;
/// use annals_client::query::ReplayMessage;
///
/// let mut replay = client.replay().limit(1).start().await?;
/// assert_eq!(replay.head(), 2);
/// let mut last = None;
/// while let Some(message) = replay.next().await? {
///     last = Some(message);
/// }
/// assert!(matches!(last, Some(ReplayMessage::Ended { event_count: 1, .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Replaying {
    messages: Streaming<proto::ReplayResponse>,
    head: u64,
    ended: bool,
}

impl Replaying {
    /// It ends with this position, the head as of its start.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The next message, at its time; `None` after [`ReplayMessage::Ended`].
    ///
    /// Safe to drop and call again (as in `select!`): nothing is lost.
    pub async fn next(&mut self) -> Result<Option<ReplayMessage>> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let Some(message) = self.messages.message().await? else {
                return Err(undecodable("it has no end"));
            };
            match message.message {
                Some(Message::Events(replayed)) => {
                    let events = replayed.batch.unwrap_or_default().events.into_iter();
                    let events = events.map(Event::from_proto).collect::<Result<_>>()?;
                    return Ok(Some(ReplayMessage::Events(events)));
                }
                Some(Message::Pause(pause)) => {
                    let wait = pause.wait.and_then(|wait| Duration::try_from(wait).ok());
                    let (Some(wait), Some(until)) = (wait, pause.until.and_then(moment)) else {
                        return Err(undecodable("a pause of it has no time"));
                    };
                    return Ok(Some(ReplayMessage::Pause { wait, until }));
                }
                Some(Message::Ended(ended)) => {
                    self.ended = true;
                    let proto::ReplayEnded { event_count, position } = ended;
                    return Ok(Some(ReplayMessage::Ended { event_count, position }));
                }
                Some(Message::Started(_)) | None => {}
            }
        }
    }
}

fn undecodable(reason: &str) -> Error {
    Error::Decode { what: "a replay".to_owned(), reason: reason.to_owned() }
}
