//! Retention: what is kept of streams and categories, and streams that are truncated, deleted or tombstoned.
//!
//! What is hidden is hidden for ever, at once, from every read, subscription, count and append condition.
//!
//! ```
//! # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> annals_client::Result<()> {
//! # let store = TestStore::start().await;
//! # let client = store.client();
//! use annals_client::retention::{Rule, Scope};
//!
//! let events = (0..3).map(|_| NewEvent::new("Measured"));
//! client.append("Sensor-1", ExpectedVersion::NoStream, events).await?;
//! client.set_retention(Scope::stream("Sensor-1"), Rule::new().max_count(2)).await?;
//! assert_eq!(client.read_stream("Sensor-1").collect().await?.len(), 2);
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use crate::{
    Client, ExpectedVersion, Result,
    proto::{self, get_retention_request, set_retention_request},
    query::duration,
};

pub use crate::proto::StreamState;

/// Whose retention.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = (0..3).map(|_| NewEvent::new("Measured"));
/// # client.append("Sensor-1", 0, events).await?;
/// use annals_client::retention::{Rule, Scope};
///
/// client.set_retention(Scope::stream("Sensor-1"), Rule::new().max_count(2)).await?;
/// client.set_retention(Scope::category("Sensor"), Rule::new().max_count(1)).await?;
/// assert_eq!(client.read_stream("Sensor-1").collect().await?.len(), 1, "both rules must keep it");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A stream's.
    Stream(String),
    /// That of each stream of a category by itself, beside the stream's own.
    Category(String),
}

impl Scope {
    /// A stream's.
    pub fn stream(name: impl Into<String>) -> Self {
        Self::Stream(name.into())
    }

    /// That of each stream of a category by itself, beside the stream's own.
    pub fn category(name: impl Into<String>) -> Self {
        Self::Category(name.into())
    }
}

/// What is kept: an event is kept if every limit that is set keeps it.
///
/// ```
/// use annals_client::retention::Rule;
/// use std::time::Duration;
///
/// let rule = Rule::new().max_count(1000).max_age(Duration::from_secs(30 * 24 * 60 * 60));
/// assert_eq!(rule.max_count, Some(1000));
/// assert_eq!(Rule::new(), Rule { max_age: None, max_count: None });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rule {
    /// Events that were recorded longer ago are hidden. `None`: age does not matter.
    pub max_age: Option<Duration>,
    /// All events of a stream but so many of the newest are hidden. `None`: their number does not matter.
    pub max_count: Option<u64>,
}

impl Rule {
    /// Without limits: it hides nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only events that were recorded no longer ago: more than 0, at most 10 000 years, counted in microseconds and
    /// rounded up.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Only so many of the newest events of a stream: at least 1.
    #[must_use]
    pub fn max_count(mut self, events: u64) -> Self {
        self.max_count = Some(events);
        self
    }

    fn from_proto(rule: proto::RetentionRule) -> Self {
        let max_age = rule.max_age.and_then(|age| Duration::try_from(age).ok());
        Self { max_age, max_count: rule.max_count }
    }
}

/// What is kept of a stream or a category, as of now.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = (0..3).map(|_| NewEvent::new("Measured"));
/// # client.append("Sensor-1", 0, events).await?;
/// use annals_client::retention::{Rule, Scope, StreamState};
///
/// client.set_retention(Scope::category("Sensor"), Rule::new().max_count(2)).await?;
/// let sensor = client.retention(Scope::stream("Sensor-1")).await?;
/// assert_eq!((sensor.rule, sensor.category_rule.unwrap().max_count), (Rule::new(), Some(2)));
/// assert_eq!((sensor.state, sensor.version, sensor.hidden_version), (StreamState::Live, 3, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Its rule; without limits where none is set.
    pub rule: Rule,
    /// Of a stream: its category's rule, which holds beside its own. `None` for a category.
    pub category_rule: Option<Rule>,
    /// Of a stream: what has become of it.
    pub state: StreamState,
    /// Of a stream: how many events it has had.
    pub version: u64,
    /// Of a stream: events up to this version are hidden, for ever. 0: none.
    pub hidden_version: u64,
    /// Of a category: so many rules that ended are remembered for what they have hidden: at most 64.
    pub ended_rules: u32,
}

impl Client {
    /// Sets what is kept of a stream, or of each stream of a category. A looser rule brings nothing back.
    ///
    /// The position of the event that says so; `None`: the rule was the same already, and nothing was written.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let events = (0..3).map(|_| NewEvent::new("Measured"));
    /// # client.append("Sensor-1", 0, events).await?;
    /// use annals_client::retention::{Rule, Scope};
    ///
    /// let rule = Rule::new().max_count(2);
    /// assert!(client.set_retention(Scope::stream("Sensor-1"), rule).await?.is_some());
    /// assert_eq!(client.set_retention(Scope::stream("Sensor-1"), rule).await?, None);
    /// assert_eq!(client.read_stream("Sensor-1").collect().await?[0].version, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_retention(&self, scope: Scope, rule: Rule) -> Result<Option<u64>> {
        let request = proto::SetRetentionRequest {
            max_age: rule.max_age.map(duration),
            max_count: rule.max_count,
            scope: Some(match scope {
                Scope::Stream(name) => set_retention_request::Scope::Stream(name),
                Scope::Category(name) => set_retention_request::Scope::Category(name),
            }),
        };
        let answer = self
            .call(request, |client, request| async move {
                client.commands().set_retention(request).await
            })
            .await?;
        Ok((!answer.unchanged).then_some(answer.position))
    }

    /// What is kept of a stream or a category, whether it exists or not.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// use annals_client::retention::{Rule, Scope, StreamState};
    ///
    /// let unknown = client.retention(Scope::stream("Sensor-9")).await?;
    /// assert_eq!((unknown.rule, unknown.state), (Rule::new(), StreamState::Unspecified));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn retention(&self, scope: Scope) -> Result<Retention> {
        let request = proto::GetRetentionRequest {
            min_position: 0,
            scope: Some(match scope {
                Scope::Stream(name) => get_retention_request::Scope::Stream(name),
                Scope::Category(name) => get_retention_request::Scope::Category(name),
            }),
        };
        let answer = self
            .call(request, |client, request| async move {
                client.queries().get_retention(request).await
            })
            .await?;
        Ok(Retention {
            state: answer.state(),
            rule: answer.rule.map(Rule::from_proto).unwrap_or_default(),
            category_rule: answer.category_rule.map(Rule::from_proto),
            version: answer.version,
            hidden_version: answer.hidden_version,
            ended_rules: answer.ended_rules,
        })
    }

    /// Hides the events of a stream with a smaller version: 1 to the stream's version + 1, which hides all of them.
    ///
    /// The position of the event that says so; `None`: it was truncated there, or further on, already.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let events = (0..3).map(|_| NewEvent::new("Measured"));
    /// # client.append("Sensor-1", 0, events).await?;
    /// client.truncate_stream("Sensor-1", 3).await?;
    /// let left = client.read_stream("Sensor-1").collect().await?;
    /// assert_eq!((left.len(), left[0].version), (1, 3));
    /// assert_eq!(client.truncate_stream("Sensor-1", 2).await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn truncate_stream(
        &self,
        stream: impl Into<String>,
        before_version: u64,
    ) -> Result<Option<u64>> {
        let request = proto::TruncateStreamRequest { stream: stream.into(), before_version };
        let answer = self
            .call(request, |client, request| async move {
                client.commands().truncate_stream(request).await
            })
            .await?;
        Ok((!answer.unchanged).then_some(answer.position))
    }

    /// Hides all events of a stream, if it has had so many, hidden ones among them. It may be written to again: its
    /// versions go on.
    ///
    /// The position of the event that says so; `None`: it was deleted already.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let events = (0..3).map(|_| NewEvent::new("Measured"));
    /// # client.append("Sensor-1", 0, events).await?;
    /// client.delete_stream("Sensor-1", 3).await?;
    /// let error = client.read_stream("Sensor-1").collect().await.unwrap_err();
    /// assert_eq!(error.reason(), "STREAM_DELETED");
    ///
    /// let again = client.append("Sensor-1", 3, [NewEvent::new("Measured")]).await?;
    /// assert_eq!(again.version, 4);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_stream(
        &self,
        stream: impl Into<String>,
        expected: impl Into<ExpectedVersion>,
    ) -> Result<Option<u64>> {
        let request = proto::DeleteStreamRequest {
            stream: stream.into(),
            expected_version: expected.into().into_proto(),
        };
        let answer = self
            .call(request, |client, request| async move {
                client.commands().delete_stream(request).await
            })
            .await?;
        Ok((!answer.unchanged).then_some(answer.position))
    }

    /// Hides all events of a stream, if it has had so many, hidden ones among them. It can never be written to again:
    /// an append is [`Error::Server`](crate::Error::Server) with the reason `STREAM_TOMBSTONED`.
    ///
    /// The position of the event that says so; `None`: it was tombstoned already.
    ///
    /// ```
    /// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let events = (0..3).map(|_| NewEvent::new("Measured"));
    /// # client.append("Sensor-1", 0, events).await?;
    /// client.tombstone_stream("Sensor-1", 3).await?;
    /// let append = client.append("Sensor-1", ExpectedVersion::Any, [NewEvent::new("Measured")]);
    /// assert_eq!(append.await.unwrap_err().reason(), "STREAM_TOMBSTONED");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn tombstone_stream(
        &self,
        stream: impl Into<String>,
        expected: impl Into<ExpectedVersion>,
    ) -> Result<Option<u64>> {
        let request = proto::TombstoneStreamRequest {
            stream: stream.into(),
            expected_version: expected.into().into_proto(),
        };
        let answer = self
            .call(request, |client, request| async move {
                client.commands().tombstone_stream(request).await
            })
            .await?;
        Ok((!answer.unchanged).then_some(answer.position))
    }
}
