//! The timeline of a correlation: its events over all streams, and which has caused which.

use chrono::TimeDelta;

use super::time_delta;
use crate::{
    Client, Error, Event, Result,
    proto::{self, Cause, CorrelationSummary, get_correlation_response::Message},
    read::without_end,
};

/// A timeline that is being described: [`Client::correlation`] begins one.
///
/// ```
/// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// let placed = NewEvent::new("OrderPlaced").correlation_id("order-1");
/// let paid = NewEvent::new("PaymentProcessed")
///     .correlation_id("order-1")
///     .causation_id(placed.id.to_string());
/// client.append("Order-1", ExpectedVersion::NoStream, [placed]).await?;
/// client.append("Payment-1", ExpectedVersion::NoStream, [paid]).await?;
///
/// let timeline = client.correlation("order-1").get().await?;
/// assert_eq!(timeline.summary.stream_count, 2);
/// assert_eq!((timeline.entries[1].depth, timeline.entries[1].cause_position), (1, Some(1)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is read before `get`"]
pub struct Correlation {
    client: Client,
    request: proto::GetCorrelationRequest,
}

/// The events of one correlation.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let placed = NewEvent::new("OrderPlaced").correlation_id("order-1");
/// # let paid = NewEvent::new("PaymentProcessed").correlation_id("order-1");
/// # let paid = paid.causation_id(placed.id.to_string());
/// # client.append("Order-1", 0, [placed]).await?;
/// # client.append("Payment-1", 0, [paid]).await?;
/// let timeline = client.correlation("order-1").limit(1).get().await?;
/// assert_eq!((timeline.summary.event_count, timeline.entries.len()), (2, 1));
/// assert_eq!(timeline.entries[0].event.event_type, "OrderPlaced");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// The correlation in short.
    pub summary: CorrelationSummary,
    /// Its events, in the order of the log.
    pub entries: Vec<Entry>,
}

/// An event of a correlation.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let placed = NewEvent::new("OrderPlaced").correlation_id("order-1");
/// # let paid = NewEvent::new("PaymentProcessed").correlation_id("order-1");
/// # let paid = paid.causation_id(placed.id.to_string());
/// # client.append("Order-1", 0, [placed]).await?;
/// # client.append("Payment-1", 0, [paid]).await?;
/// use annals_client::query::Cause;
///
/// let timeline = client.correlation("order-1").get().await?;
/// let [placed, paid] = timeline.entries.as_slice() else { panic!("{timeline:?}") };
/// assert_eq!((placed.cause, placed.depth, placed.tree_order), (Cause::None, 0, 1));
/// assert_eq!((paid.cause, paid.depth, paid.tree_order), (Cause::Known, 1, 2));
/// assert_eq!(paid.cause_position, Some(placed.event.position));
/// assert_eq!(paid.since_cause, Some(paid.since_first));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The event.
    pub event: Event,
    /// The time between the first event's occurring and this one's; negative where this one occurred earlier.
    pub since_first: TimeDelta,
    /// The same since its cause; `None` where the cause is no event that can be read.
    pub since_cause: Option<TimeDelta>,
    /// What is known of its cause.
    pub cause: Cause,
    /// Its cause's position; `None` where the cause is no event that can be read.
    pub cause_position: Option<u64>,
    /// How many causes are above it in its tree; 0: it is a root.
    pub depth: u32,
    /// Its place in a walk over the trees, depth first, each event before what it has caused; from 1.
    pub tree_order: u64,
}

impl Client {
    /// All events of one correlation id, over all streams.
    pub fn correlation(&self, id: impl Into<String>) -> Correlation {
        let request =
            proto::GetCorrelationRequest { correlation_id: id.into(), ..Default::default() };
        Correlation { client: self.clone(), request }
    }
}

impl Correlation {
    /// At most so many events, the first ones: 1 to 10 000, 10 000 where nothing is said.
    pub fn limit(mut self, events: u32) -> Self {
        self.request.limit = events;
        self
    }

    /// Wait until the log has reached this position: read your own writes.
    pub fn min_position(mut self, position: u64) -> Self {
        self.request.min_position = position;
        self
    }

    /// The timeline.
    ///
    /// An unknown correlation is [`Error::Server`] with the reason `UNKNOWN_CORRELATION`.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// let error = client.correlation("order-9").get().await.unwrap_err();
    /// assert_eq!(error.reason(), "UNKNOWN_CORRELATION");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(self) -> Result<Timeline> {
        let Self { client, request } = self;
        let mut messages = client
            .call(request, |client, request| async move {
                client.queries().get_correlation(without_end(request)).await
            })
            .await?;
        let (mut summary, mut entries) = (None, Vec::new());
        while let Some(message) = messages.message().await? {
            match message.message {
                Some(Message::Summary(first)) => summary = Some(first),
                Some(Message::Entry(entry)) => entries.push(Entry::from_proto(entry)?),
                None => {}
            }
        }
        let summary = summary.ok_or_else(|| Error::Decode {
            what: "a timeline".to_owned(),
            reason: "it has no summary".to_owned(),
        })?;
        Ok(Timeline { summary, entries })
    }
}

impl Entry {
    fn from_proto(entry: proto::TimelineEntry) -> Result<Self> {
        let cause = entry.cause();
        let absent = |field: &str| Error::Decode {
            what: "an entry of a timeline".to_owned(),
            reason: format!("{field} is not what the protocol says"),
        };
        let since_first = entry.since_first.and_then(time_delta);
        Ok(Self {
            event: Event::from_proto(entry.event.ok_or_else(|| absent("event"))?)?,
            since_first: since_first.ok_or_else(|| absent("since_first"))?,
            since_cause: entry.since_cause.and_then(time_delta),
            cause,
            cause_position: Some(entry.cause_position).filter(|position| *position > 0),
            depth: entry.depth,
            tree_order: entry.tree_order,
        })
    }
}
