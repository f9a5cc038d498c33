//! Reads: one stream, or the whole log or what filters pick of it, as of the moment of the call.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio_stream::Stream;
use tonic::{Request, Status, Streaming};

use crate::{Client, Error, Event, Filter, Result, proto};

/// A read that is being described: [`Client::read_stream`] and [`Client::read_all`] begin one.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = ["PaymentRequested", "PaymentProcessed", "PaymentNoted"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// let newest = client.read_stream("Payment-1").backwards().limit(1).collect().await?;
/// assert_eq!(newest[0].version, 3);
///
/// let mut events = client.read_all().after(1).min_position(3).events().await?;
/// let mut read = Vec::new();
/// while let Some(event) = events.next().await? {
///     read.push(event.position);
/// }
/// assert_eq!(read, [2, 3]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is read before `events` or `collect`"]
pub struct Read {
    client: Client,
    stream: Option<String>,
    filters: Vec<Filter>,
    backwards: bool,
    after: u64,
    limit: u64,
    min_position: u64,
}

impl Client {
    /// Reads one stream.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let events = ["PaymentRequested", "PaymentProcessed", "PaymentNoted"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// let events = client.read_stream("Payment-1").after(1).collect().await?;
    /// assert_eq!(events[0].event_type, "PaymentProcessed");
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_stream(&self, stream: impl Into<String>) -> Read {
        Read { stream: Some(stream.into()), ..self.read_all() }
    }

    /// Reads the whole log, or with [`Read::filter`] a part of it.
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
    ///
    /// let processed = Filter::new().types(["PaymentProcessed"]);
    /// let events = client.read_all().filter(processed).collect().await?;
    /// assert_eq!(events[0].position, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_all(&self) -> Read {
        Read {
            client: self.clone(),
            stream: None,
            filters: Vec::new(),
            backwards: false,
            after: 0,
            limit: 0,
            min_position: 0,
        }
    }
}

impl Read {
    /// The newest event first.
    pub fn backwards(mut self) -> Self {
        self.backwards = true;
        self
    }

    /// Begin behind the event that was handled last: its version in its stream, or its position in the log.
    pub fn after(mut self, after: u64) -> Self {
        self.after = after;
        self
    }

    /// At most so many events.
    pub fn limit(mut self, events: u64) -> Self {
        self.limit = events;
        self
    }

    /// Wait until the log has reached this position: read your own writes.
    pub fn min_position(mut self, position: u64) -> Self {
        self.min_position = position;
        self
    }

    /// Of the whole log only what one of the filters picks; of several any one. A read of one stream is refused
    /// with a filter: name the stream in the filter of [`Client::read_all`].
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }

    /// The events, as they come. The read ends with the first error.
    ///
    /// An unknown stream is [`Error::Server`] with the reason `UNKNOWN_STREAM`, here or at the first event.
    pub async fn events(self) -> Result<Events> {
        let direction =
            if self.backwards { proto::Direction::Backwards } else { proto::Direction::Forwards };
        let Self { client, stream, filters, backwards: _, after, limit, min_position } = self;
        let batches = if let Some(stream) = stream {
            if !filters.is_empty() {
                return Err(Error::Encode {
                    what: "a read of one stream".to_owned(),
                    reason:
                        "it has a filter; read the whole log with a filter that names the stream"
                            .to_owned(),
                });
            }
            let request = proto::ReadStreamRequest {
                stream,
                direction: direction.into(),
                after,
                limit,
                min_position,
            };
            let answers = client
                .call(request, |client, request| async move {
                    client.queries().read_stream(without_end(request)).await
                })
                .await?;
            Batches::Stream(answers)
        } else {
            let request = proto::ReadAllRequest {
                direction: direction.into(),
                after,
                limit,
                filters: filters.into_iter().map(|filter| filter.0).collect(),
                min_position,
            };
            let answers = client
                .call(request, |client, request| async move {
                    client.queries().read_all(without_end(request)).await
                })
                .await?;
            Batches::All(answers)
        };
        Ok(Events { batches, ready: VecDeque::new() })
    }

    /// All events at once.
    pub async fn collect(self) -> Result<Vec<Event>> {
        let mut events = self.events().await?;
        let mut all = Vec::new();
        while let Some(event) = events.next().await? {
            all.push(event);
        }
        Ok(all)
    }
}

/// A deadline would end a long answer in its middle.
pub(crate) fn without_end<M>(request: Request<M>) -> Request<M> {
    Request::new(request.into_inner())
}

#[derive(Debug)]
enum Batches {
    Stream(Streaming<proto::ReadStreamResponse>),
    All(Streaming<proto::ReadAllResponse>),
}

/// The events of a read, in its order; also a [`Stream`].
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = ["PaymentRequested", "PaymentProcessed", "PaymentNoted"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// use annals_client::{Event, Result};
/// use tokio_stream::StreamExt as _;
///
/// let mut events = client.read_stream("Payment-1").events().await?;
/// let first = events.next().await?.unwrap();
/// assert_eq!(first.event_type, "PaymentRequested");
///
/// let others: Vec<Event> = events.collect::<Result<_>>().await?;
/// assert_eq!(others.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Events {
    batches: Batches,
    ready: VecDeque<proto::RecordedEvent>,
}

impl Events {
    /// The next one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await.transpose()
    }
}

impl Stream for Events {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Event::from_proto(event)));
            }
            let batch: Option<Result<Vec<_>, Status>> = match &mut self.batches {
                Batches::Stream(answers) => ready!(Pin::new(answers).poll_next(context))
                    .map(|batch| batch.map(|batch| batch.events)),
                Batches::All(answers) => ready!(Pin::new(answers).poll_next(context))
                    .map(|batch| batch.map(|batch| batch.events)),
            };
            match batch {
                Some(Ok(events)) => self.ready.extend(events),
                Some(Err(status)) => return Poll::Ready(Some(Err(status.into()))),
                None => return Poll::Ready(None),
            }
        }
    }
}
