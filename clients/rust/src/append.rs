//! Appends: events to one stream or to several, all or nothing.

use chrono::{DateTime, Utc};

use crate::{Client, Filter, NewEvent, Result, event::moment, proto};

/// How many events a stream must have for an append to be accepted.
///
/// ```
/// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// let requested = [NewEvent::new("PaymentRequested")];
/// let first = client.append("Payment-1", ExpectedVersion::NoStream, requested).await?;
/// let processed = [NewEvent::new("PaymentProcessed")];
/// client.append("Payment-1", ExpectedVersion::Exact(first.version), processed).await?;
///
/// // A number is an exact version. This one is stale by now.
/// let stale = client.append("Payment-1", first.version, [NewEvent::new("PaymentFailed")]).await;
/// assert!(stale.unwrap_err().is_conflict());
/// client.append("Payment-1", ExpectedVersion::Any, [NewEvent::new("PaymentNoted")]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpectedVersion {
    /// Not checked: two writers may interleave.
    #[default]
    Any,
    /// None yet.
    NoStream,
    /// Exactly so many: the version of its last event.
    Exact(u64),
}

impl ExpectedVersion {
    pub(crate) fn into_proto(self) -> Option<u64> {
        match self {
            Self::Any => None,
            Self::NoStream => Some(0),
            Self::Exact(version) => Some(version),
        }
    }
}

impl From<u64> for ExpectedVersion {
    /// Exactly so many; 0 is none yet.
    fn from(version: u64) -> Self {
        Self::Exact(version)
    }
}

/// "No event that matches one of these filters exists after this position."
///
/// ```
/// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::{Filter, append::Condition};
///
/// let unpaid = Condition { filters: vec![Filter::new().correlation_id("order-1")], after: 0 };
/// let paid = NewEvent::new("PaymentProcessed").correlation_id("order-1");
/// let conditions = vec![unpaid.clone()];
/// client.append_if("Payment-1", ExpectedVersion::NoStream, [paid], conditions).await?;
///
/// let twice = NewEvent::new("PaymentProcessed").correlation_id("order-1");
/// let refused = client.append_if("Payment-2", ExpectedVersion::NoStream, [twice], vec![unpaid]).await;
/// assert_eq!(refused.unwrap_err().reason(), "CONDITION_BROKEN");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// Which events must not exist. Empty: any event at all. Only what is indexed may be named.
    pub filters: Vec<Filter>,
    /// Up to where the caller has read.
    pub after: u64,
}

impl Condition {
    fn into_proto(self) -> proto::AppendCondition {
        let filters = self.filters.into_iter().map(|filter| filter.0).collect();
        proto::AppendCondition { filters, after: self.after }
    }
}

/// Where appended events are now.
///
/// ```
/// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// let events = [NewEvent::new("PaymentRequested"), NewEvent::new("PaymentProcessed")];
/// let appended = client.append("Payment-1", ExpectedVersion::NoStream, events.clone()).await?;
/// assert_eq!((appended.version, appended.position, appended.duplicate), (2, 2, false));
///
/// let again = client.append("Payment-1", ExpectedVersion::NoStream, events).await?;
/// assert_eq!((again.version, again.position, again.duplicate), (2, 2, true));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The version of the last event: what to expect at the next append.
    pub version: u64,
    /// The position of the last event: the `min_position` of a query that must see it.
    pub position: u64,
    /// When they were recorded.
    pub recorded_at: Option<DateTime<Utc>>,
    /// They had been appended before; this call wrote nothing.
    pub duplicate: bool,
}

impl Appended {
    pub(crate) fn from_proto(answer: &proto::AppendResponse) -> Self {
        Self {
            version: answer.version,
            position: answer.position,
            recorded_at: answer.recorded_at.and_then(moment),
            duplicate: answer.duplicate,
        }
    }
}

/// What a commit does to one stream.
///
/// ```
/// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::append::StreamWrite;
///
/// let open = |account: &str| StreamWrite {
///     stream: format!("Account-{account}"),
///     expected: ExpectedVersion::NoStream,
///     events: vec![NewEvent::new("AccountOpened")],
/// };
/// let appended = client.commit([open("ann"), open("bob")], Vec::new()).await?;
/// assert_eq!((appended[0].version, appended[1].version), (1, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct StreamWrite {
    /// The stream.
    pub stream: String,
    /// How many events it must have.
    pub expected: ExpectedVersion,
    /// What is appended; none: the stream is only checked.
    pub events: Vec<NewEvent>,
}

/// The message of an append, alone or in a pipeline.
pub(crate) fn append_request(
    stream: impl Into<String>,
    expected: impl Into<ExpectedVersion>,
    events: impl IntoIterator<Item = NewEvent>,
    conditions: Vec<Condition>,
) -> proto::AppendRequest {
    proto::AppendRequest {
        stream: stream.into(),
        events: events.into_iter().map(NewEvent::into_proto).collect(),
        expected_version: expected.into().into_proto(),
        conditions: conditions.into_iter().map(Condition::into_proto).collect(),
        validate_only: false,
    }
}

impl Client {
    /// Appends events to one stream, all or nothing.
    ///
    /// [`Error::WrongExpectedVersion`](crate::Error::WrongExpectedVersion): somebody else was first.
    ///
    /// ```
    /// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// let event = NewEvent::json("PaymentProcessed", &1250)?;
    /// let appended = client.append("Payment-1", ExpectedVersion::NoStream, [event]).await?;
    /// assert_eq!(appended.version, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn append(
        &self,
        stream: impl Into<String>,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Result<Appended> {
        self.append_if(stream, expected, events, Vec::new()).await
    }

    /// The same, if these conditions hold, at most 16.
    ///
    /// [`Error::ConditionBroken`](crate::Error::ConditionBroken): one does not.
    ///
    /// ```
    /// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let registered = NewEvent::new("UserRegistered").tag("ann@example.org");
    /// # client.append("User-1", 0, [registered]).await?;
    /// use annals_client::{Error, Filter, append::Condition};
    ///
    /// let taken = Filter::new().types(["UserRegistered"]).tag("ann@example.org");
    /// let event = NewEvent::new("UserRegistered").tag("ann@example.org");
    /// let conditions = vec![Condition { filters: vec![taken], after: 0 }];
    /// let refused = client.append_if("User-2", ExpectedVersion::NoStream, [event], conditions).await;
    /// let Err(Error::ConditionBroken { positions, .. }) = refused else { panic!("{refused:?}") };
    /// assert_eq!(positions, [1]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn append_if(
        &self,
        stream: impl Into<String>,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = NewEvent>,
        conditions: Vec<Condition>,
    ) -> Result<Appended> {
        let request = append_request(stream, expected, events, conditions);
        let answer = self
            .call(request, |client, request| async move { client.commands().append(request).await })
            .await?;
        Ok(Appended::from_proto(&answer))
    }

    /// Appends events to several streams as one commit, if these conditions hold: all of them or none, adjacent in
    /// the log. The answers are in the order of the writes; their position is that of the commit's last event.
    ///
    /// ```
    /// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Account-ann", 0, [NewEvent::new("AccountOpened")]).await?;
    /// use annals_client::append::StreamWrite;
    ///
    /// let write = |stream: &str, version, event_type: &str| StreamWrite {
    ///     stream: stream.to_owned(),
    ///     expected: ExpectedVersion::Exact(version),
    ///     events: vec![NewEvent::new(event_type)],
    /// };
    /// let transfer = [write("Account-ann", 1, "Withdrawn"), write("Account-bob", 1, "Deposited")];
    /// let refused = client.commit(transfer, Vec::new()).await.unwrap_err();
    /// assert!(refused.is_conflict(), "Account-bob was never opened");
    /// assert_eq!(client.read_stream("Account-ann").collect().await?.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn commit(
        &self,
        writes: impl IntoIterator<Item = StreamWrite>,
        conditions: Vec<Condition>,
    ) -> Result<Vec<Appended>> {
        let writes = writes.into_iter().map(|write| proto::StreamWrite {
            stream: write.stream,
            events: write.events.into_iter().map(NewEvent::into_proto).collect(),
            expected_version: write.expected.into_proto(),
        });
        let request = proto::CommitRequest {
            writes: writes.collect(),
            conditions: conditions.into_iter().map(Condition::into_proto).collect(),
            validate_only: false,
        };
        let answer = self
            .call(request, |client, request| async move { client.commands().commit(request).await })
            .await?;
        let recorded_at = answer.recorded_at.and_then(moment);
        let results = answer.results.into_iter();
        Ok(results
            .map(|result| Appended {
                version: result.version,
                position: answer.position,
                recorded_at,
                duplicate: answer.duplicate,
            })
            .collect())
    }
}
