//! The query bus: each query to the one handler of its type, through layers.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    error::Error as StdError,
    fmt,
    future::Future,
    hash::{Hash, Hasher},
    sync::Arc,
};

use tower::{BoxError, ServiceExt as _};

use super::{BoxFuture, Builder, Handling, Message, sealed::Sealed};
use crate::{Error, Filter};

/// What somebody wants to know. Two that are equal have the same answer, whoever asks.
///
/// ```
/// # use annals_client::{Filter, bus::Query};
/// /// How many events an account has.
/// #[derive(PartialEq, Eq, Hash)]
/// struct EventCount {
///     account: String,
/// }
///
/// impl Query for EventCount {
///     const NAME: &'static str = "EventCount";
///     type Answer = usize;
///
///     fn depends_on(&self) -> Vec<Filter> {
///         vec![Filter::new().stream(format!("Account-{}", self.account))]
///     }
/// }
/// # assert_eq!(EventCount { account: "1".into() }.depends_on().len(), 1);
/// ```
pub trait Query: Eq + Hash + Send + Sync + 'static {
    /// Names it in logs and errors: `PaymentHistory`.
    const NAME: &'static str;

    /// The answer.
    type Answer: Send + Sync + 'static;

    /// The events that can change the answer, by what is indexed: all but texts and JSON values. None: every event.
    fn depends_on(&self) -> Vec<Filter>;
}

/// Why a query has no answer.
///
/// ```
/// # use annals_client::{Filter, bus::{Query, QueryBus, QueryError}};
/// # #[derive(PartialEq, Eq, Hash)]
/// # struct EventCount { account: String }
/// # impl Query for EventCount {
/// #     const NAME: &'static str = "EventCount";
/// #     type Answer = usize;
/// #     fn depends_on(&self) -> Vec<Filter> { vec![Filter::new().stream(format!("Account-{}", self.account))] }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let bus = QueryBus::builder().build();
/// match bus.ask(EventCount { account: "1".into() }).await {
///     Err(QueryError::NoHandler { query }) => assert_eq!(query, "EventCount"),
///     Err(QueryError::Forbidden { why, .. }) => panic!("not allowed: {why}"),
///     Err(error) => panic!("{error}"),
///     Ok(count) => panic!("there are {count}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The bus has no handler for it.
    #[error("nobody answers {query}")]
    NoHandler {
        /// Its name.
        query: &'static str,
    },
    /// The authorization hook does not allow it.
    #[error("{query} is not allowed: {why}")]
    Forbidden {
        /// Its name.
        query: &'static str,
        /// The hook's reason.
        why: String,
    },
    /// It took too long.
    #[error("it took too long")]
    TimedOut,
    /// The store failed, or refused what its handler asked.
    #[error(transparent)]
    Store(#[from] Error),
    /// Its handler, or a layer of your own.
    #[error("{0}")]
    Other(Arc<dyn StdError + Send + Sync>),
}

impl From<BoxError> for QueryError {
    /// What a handler or a layer gives back: one of these, an [`Error`], `tower`'s timeout, or something of its own.
    fn from(error: BoxError) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(error) => return *error,
            Err(error) => error,
        };
        match error.downcast::<Error>() {
            Ok(error) => Self::Store(*error),
            Err(error) if error.is::<tower::timeout::error::Elapsed>() => Self::TimedOut,
            Err(error) => Self::Other(error.into()),
        }
    }
}

pub(super) trait AnyQuery: Any + Send + Sync {
    fn name(&self) -> &'static str;
    fn depends_on(&self) -> Vec<Filter>;
    fn is_equal(&self, other: &dyn AnyQuery) -> bool;
    fn hash_into(&self, hasher: &mut dyn Hasher);
}

impl<Q: Query> AnyQuery for Q {
    fn name(&self) -> &'static str {
        Q::NAME
    }

    fn depends_on(&self) -> Vec<Filter> {
        Query::depends_on(self)
    }

    fn is_equal(&self, other: &dyn AnyQuery) -> bool {
        let other: &dyn Any = other;
        other.downcast_ref::<Q>().is_some_and(|other| self == other)
    }

    fn hash_into(&self, mut hasher: &mut dyn Hasher) {
        TypeId::of::<Q>().hash(&mut hasher);
        self.hash(&mut hasher);
    }
}

/// An answer of any type.
pub(super) type AnyAnswer = Arc<dyn Any + Send + Sync>;

/// A query on its way: with what layers need to know of who asks. Its handler does not see that, so that an answer can be
/// given to the next one who asks the same.
///
/// ```
/// # use annals_client::{Filter, bus::{Query, QueryEnvelope}};
/// # #[derive(PartialEq, Eq, Hash)]
/// # struct EventCount { account: String }
/// # impl Query for EventCount {
/// #     const NAME: &'static str = "EventCount";
/// #     type Answer = usize;
/// #     fn depends_on(&self) -> Vec<Filter> { vec![Filter::new().stream(format!("Account-{}", self.account))] }
/// # }
/// let envelope = QueryEnvelope::from(EventCount { account: "1".into() }).metadata("userId", "ada");
/// assert_eq!(envelope.fact("userId"), Some("ada"));
/// assert_eq!(envelope.query::<EventCount>().map(|it| it.account.as_str()), Some("1"));
/// ```
#[derive(Clone)]
pub struct QueryEnvelope {
    pub(super) query: Arc<dyn AnyQuery>,
    pub(super) min_position: u64,
    metadata: BTreeMap<String, String>,
}

impl fmt::Debug for QueryEnvelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryEnvelope").field("query", &self.name()).finish_non_exhaustive()
    }
}

impl<Q: Query> From<Q> for QueryEnvelope {
    fn from(query: Q) -> Self {
        Self { query: Arc::new(query), min_position: 0, metadata: BTreeMap::new() }
    }
}

impl QueryEnvelope {
    /// The answer must have everything up to this position: read your own writes.
    ///
    /// ```
    /// # use annals_client::{Filter, NewEvent, bus::{Query, QueryBus, QueryEnvelope}, testing::TestStore};
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
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let asked = client.clone();
    /// # let bus = QueryBus::builder().handle(move |query: Arc<EventCount>, min_position| {
    /// #     let events = asked.read_stream(format!("Account-{}", query.account)).min_position(min_position);
    /// #     async move { Ok(events.collect().await?.len()) }
    /// # }).build();
    /// let written = client.append("Account-1", 0, [NewEvent::new("Opened")]).await?;
    /// let query = QueryEnvelope::from(EventCount { account: "1".into() });
    /// let count = bus.ask_in::<EventCount>(query.min_position(written.position)).await?;
    /// assert_eq!(*count, 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn min_position(mut self, position: u64) -> Self {
        self.min_position = position;
        self
    }

    /// With one more fact for layers: who asks.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// A fact that was given to it.
    pub fn fact(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The query, where it is of this type.
    pub fn query<Q: Query>(&self) -> Option<&Q> {
        let query: &dyn Any = &*self.query;
        query.downcast_ref()
    }
}

impl Sealed for QueryEnvelope {}

impl Message for QueryEnvelope {
    type Answer = AnyAnswer;
    type Error = QueryError;

    fn name(&self) -> &'static str {
        self.query.name()
    }

    fn type_id(&self) -> TypeId {
        (*self.query).type_id()
    }

    fn span(&self) -> tracing::Span {
        tracing::info_span!("query", name = self.name())
    }

    fn forbidden(&self, why: String) -> QueryError {
        QueryError::Forbidden { query: self.name(), why }
    }

    fn unhandled(&self) -> QueryError {
        QueryError::NoHandler { query: self.name() }
    }
}

/// Asks queries of their handlers.
///
/// ```
/// # use annals_client::{Filter, NewEvent, testing::TestStore};
/// use annals_client::bus::{Query, QueryBus, QueryCache};
/// use std::sync::Arc;
///
/// /// How many events an account has.
/// #[derive(PartialEq, Eq, Hash)]
/// struct EventCount {
///     account: String,
/// }
///
/// impl Query for EventCount {
///     const NAME: &'static str = "EventCount";
///     type Answer = usize;
///
///     fn depends_on(&self) -> Vec<Filter> {
///         vec![Filter::new().stream(format!("Account-{}", self.account))]
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Account-1", 0, [NewEvent::new("Opened")]).await?;
/// let cache = QueryCache::new(&client);
/// let bus = QueryBus::builder()
///     .layer(cache.clone())
///     .handle({
///         let client = client.clone();
///         move |query: Arc<EventCount>, _| {
///             let events = client.read_stream(format!("Account-{}", query.account)).collect();
///             async move { Ok(events.await?.len()) }
///         }
///     })
///     .build();
///
/// let count = || bus.ask(EventCount { account: "1".into() });
/// assert_eq!((*count().await?, *count().await?), (1, 1));
/// assert_eq!((cache.misses(), cache.hits()), (1, 1));
/// client.append("Account-1", 1, [NewEvent::new("Closed")]).await?;
/// assert_eq!(*count().await?, 2, "never the answer of before");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct QueryBus {
    service: Handling<QueryEnvelope>,
}

impl fmt::Debug for QueryBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryBus").finish_non_exhaustive()
    }
}

impl QueryBus {
    /// Without handlers and layers.
    pub fn builder() -> Builder<QueryEnvelope> {
        Builder::new()
    }

    /// The answer to a query.
    pub async fn ask<Q: Query>(&self, query: Q) -> Result<Arc<Q::Answer>, QueryError> {
        self.ask_in::<Q>(query.into()).await
    }

    /// The answer to a query of this type, in its envelope.
    ///
    /// ```
    /// # use annals_client::{Filter, bus::{Query, QueryBus, QueryEnvelope}};
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
    /// # let bus = QueryBus::builder().handle(|_: Arc<EventCount>, _| async { Ok(7) }).build();
    /// let query = QueryEnvelope::from(EventCount { account: "1".into() }).metadata("userId", "ada");
    /// let count = bus.ask_in::<EventCount>(query).await?;
    /// assert_eq!(*count, 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If another query is in it.
    pub async fn ask_in<Q: Query>(
        &self,
        envelope: QueryEnvelope,
    ) -> Result<Arc<Q::Answer>, QueryError> {
        assert!(
            envelope.query::<Q>().is_some(),
            "a {} where {} was asked",
            envelope.name(),
            Q::NAME
        );
        let answer = self.service.clone().oneshot(envelope).await?;
        Ok(answer.downcast().expect("the handler of Q answers Q"))
    }
}

impl Builder<QueryEnvelope> {
    /// The handler of queries of one type. It gets the position that its answer must have seen: what reads a read model gives
    /// that to [`ReadModel::min_position`](crate::read_model::ReadModel::min_position).
    ///
    /// ```
    /// # use annals_client::{Filter, NewEvent, bus::{Query, QueryBus}, testing::TestStore};
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
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Account-1", 0, [NewEvent::new("Opened")]).await?;
    /// let bus = QueryBus::builder()
    ///     .handle(move |query: Arc<EventCount>, min_position| {
    ///         let events = client.read_stream(format!("Account-{}", query.account));
    ///         async move { Ok(events.min_position(min_position).collect().await?.len()) }
    ///     })
    ///     .build();
    /// assert_eq!(*bus.ask(EventCount { account: "1".into() }).await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If they have one already.
    pub fn handle<Q, F, D>(self, handler: F) -> Self
    where
        Q: Query,
        F: Fn(Arc<Q>, u64) -> D + Send + Sync + 'static,
        D: Future<Output = Result<Q::Answer, BoxError>> + Send + 'static,
    {
        let handler = move |envelope: QueryEnvelope| -> BoxFuture<_> {
            let query: Arc<dyn Any + Send + Sync> = envelope.query.clone();
            let query = query.downcast().expect("handlers are found by the query's type");
            let answered = handler(query, envelope.min_position);
            Box::pin(async move {
                let answer: AnyAnswer = Arc::new(answered.await?);
                Ok(answer)
            })
        };
        self.add(TypeId::of::<Q>(), Q::NAME, Arc::new(handler))
    }

    /// The bus.
    pub fn build(self) -> QueryBus {
        QueryBus { service: self.service() }
    }
}
