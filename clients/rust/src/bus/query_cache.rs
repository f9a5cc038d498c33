//! The query cache: an answer is kept under its query and the position of the last event that it depends on.
//!
//! ```text
//! ask ──► the position of the last event that matches `depends_on` ──► (query, position) ──► kept? it is the answer
//!          one indexed call of the server                                              └──► no? ask the handler, keep
//! ```
//!
//! The log only grows: while that position is the same nothing has happened that could change the answer, and as soon as it
//! is another one the old answer is not looked up any more. So nothing has to be removed in time, no subscription can be
//! late, and an answer is never older than the call that gets it. What that costs is one short call for each hit.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use moka::future::Cache;
use tower::{Layer, Service, ServiceExt as _};

use super::{
    BoxFuture, Handling,
    query::{AnyAnswer, AnyQuery, QueryEnvelope, QueryError},
};
use crate::{Client, Result};

/// How answers are kept.
///
/// ```
/// use annals_client::bus::CacheOptions;
/// use std::time::Duration;
///
/// let options = CacheOptions { time_to_live: Duration::from_secs(60), ..CacheOptions::default() };
/// assert_eq!(options.answers_max, 10_000);
/// assert!(options.unchecked_for.is_zero());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// At most so many: 10 000. Those that are asked for least go first.
    pub answers_max: u64,
    /// No longer than this: 300 s. Events that are hidden, by retention or by deletion, without that another one was
    /// appended, are in an answer for at most so long.
    pub time_to_live: Duration,
    /// For so long a query is answered without asking the server whether something has happened: 0 s. Such an answer can be
    /// so old; who has written gives a `min_position`, which is always asked for.
    pub unchecked_for: Duration,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            answers_max: 10_000,
            time_to_live: Duration::from_mins(5),
            unchecked_for: Duration::ZERO,
        }
    }
}

/// A layer of the [`QueryBus`](super::QueryBus) that keeps answers. Clones share them.
///
/// Those that ask the same at the same time wait for one call of the handler. Errors are not kept.
///
/// ```
/// # use annals_client::{Filter, bus::{Query, QueryBus}, testing::TestStore};
/// # use std::sync::Arc;
/// use annals_client::bus::QueryCache;
/// # #[derive(PartialEq, Eq, Hash)]
/// # struct EventCount { account: String }
/// # impl Query for EventCount {
/// #     const NAME: &'static str = "EventCount";
/// #     type Answer = usize;
/// #     fn depends_on(&self) -> Vec<Filter> { vec![Filter::new().stream(format!("Account-{}", self.account))] }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// let cache = QueryCache::new(&client);
/// let answer = |_: Arc<EventCount>, _| async { Ok(7) };
/// let bus = QueryBus::builder().layer(cache.clone()).handle(answer).build();
/// for _ in 0..3 {
///     assert_eq!(*bus.ask(EventCount { account: "1".into() }).await?, 7);
/// }
/// assert_eq!((cache.misses(), cache.hits()), (1, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct QueryCache {
    client: Client,
    kept: Arc<Kept>,
}

struct Kept {
    answers: Cache<Key, AnyAnswer>,
    /// Where queries were that need not be looked at again yet. `None`: all are.
    positions: Option<Cache<Key, u64>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// A query, and as of which position; 0 where any will do.
#[derive(Clone)]
struct Key {
    query: Arc<dyn AnyQuery>,
    position: u64,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.position == other.position && self.query.is_equal(&*other.query)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.query.hash_into(hasher);
        self.position.hash(hasher);
    }
}

impl fmt::Debug for QueryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hits, misses) = (self.hits(), self.misses());
        f.debug_struct("QueryCache").field("hits", &hits).field("misses", &misses).finish()
    }
}

impl QueryCache {
    /// With the options that are usual.
    pub fn new(client: &Client) -> Self {
        Self::with_options(client, CacheOptions::default())
    }

    /// With these options.
    ///
    /// ```
    /// # use annals_client::{Filter, NewEvent, bus::{Query, QueryBus}, testing::TestStore};
    /// # use annals_client::bus::{CacheOptions, QueryCache};
    /// # use std::{sync::Arc, time::Duration};
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
    /// # let asked = client.clone();
    /// # let answer = move |query: Arc<EventCount>, _| {
    /// #     let events = asked.read_stream(format!("Account-{}", query.account)).collect();
    /// #     async move { Ok(events.await?.len()) }
    /// # };
    /// let unchecked_for = Duration::from_secs(60);
    /// let cache = QueryCache::with_options(&client, CacheOptions { unchecked_for, ..Default::default() });
    /// let bus = QueryBus::builder().layer(cache).handle(answer).build();
    /// let count = || bus.ask(EventCount { account: "1".into() });
    /// assert_eq!(*count().await?, 1);
    /// client.append("Account-1", 1, [NewEvent::new("Closed")]).await?;
    /// assert_eq!(*count().await?, 1, "nobody has looked yet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_options(client: &Client, options: CacheOptions) -> Self {
        let CacheOptions { answers_max, time_to_live, unchecked_for } = options;
        let positions = (!unchecked_for.is_zero()).then(|| {
            Cache::builder().max_capacity(answers_max).time_to_live(unchecked_for).build()
        });
        let answers = Cache::builder().max_capacity(answers_max).time_to_live(time_to_live).build();
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        let kept = Arc::new(Kept { answers, positions, hits, misses });
        Self { client: client.clone(), kept }
    }

    /// How many answers were there already.
    pub fn hits(&self) -> u64 {
        // Relaxed: a figure for people.
        self.kept.hits.load(Ordering::Relaxed)
    }

    /// How many handlers were asked.
    pub fn misses(&self) -> u64 {
        // Relaxed: as above.
        self.kept.misses.load(Ordering::Relaxed)
    }

    /// Forgets all answers.
    ///
    /// ```
    /// # use annals_client::{Filter, bus::{Query, QueryBus, QueryCache}, testing::TestStore};
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
    /// # let cache = QueryCache::new(&client);
    /// # let answer = |_: Arc<EventCount>, _| async { Ok(7) };
    /// # let bus = QueryBus::builder().layer(cache.clone()).handle(answer).build();
    /// bus.ask(EventCount { account: "1".into() }).await?;
    /// cache.clear();
    /// bus.ask(EventCount { account: "1".into() }).await?;
    /// assert_eq!((cache.misses(), cache.hits()), (2, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn clear(&self) {
        self.kept.answers.invalidate_all();
        self.kept.positions.iter().for_each(Cache::invalidate_all);
    }

    /// The position of the last event that the query depends on, as of now.
    async fn position(&self, query: &Arc<dyn AnyQuery>, min_position: u64) -> Result<u64> {
        let mut read = self.client.read_all().backwards().limit(1).min_position(min_position);
        for filter in query.depends_on() {
            read = read.filter(filter);
        }
        let last = read.collect().await?;
        Ok(last.first().map_or(0, |event| event.position))
    }

    async fn answer(
        self,
        inner: Handling<QueryEnvelope>,
        mut envelope: QueryEnvelope,
    ) -> Result<AnyAnswer, QueryError> {
        let Kept { answers, positions, hits, misses } = &*self.kept;
        let query = Arc::clone(&envelope.query);
        let of_any_position = Key { query: Arc::clone(&query), position: 0 };
        let known = match positions {
            Some(positions) if envelope.min_position == 0 => positions.get(&of_any_position).await,
            _ => None,
        };
        let position = if let Some(position) = known {
            position
        } else {
            let position = self.position(&query, envelope.min_position).await?;
            if let Some(positions) = positions {
                positions.insert(of_any_position, position).await;
            }
            position
        };
        // Whoever waits for the same key has seen the same position by themselves: what the handler sees, which is called
        // after that, is new enough for each of them.
        envelope.min_position = position;
        let was_asked = AtomicBool::new(false);
        let answer = answers.try_get_with(Key { query, position }, async {
            // Relaxed: this task's own.
            was_asked.store(true, Ordering::Relaxed);
            inner.oneshot(envelope).await
        });
        let answer = answer.await.map_err(|error: Arc<QueryError>| (*error).clone())?;
        // Relaxed: as above.
        let counted = if was_asked.load(Ordering::Relaxed) { misses } else { hits };
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }
}

impl Layer<Handling<QueryEnvelope>> for QueryCache {
    type Service = Cached;

    fn layer(&self, inner: Handling<QueryEnvelope>) -> Cached {
        Cached { cache: self.clone(), inner }
    }
}

/// What [`QueryCache`] makes of a service.
///
/// ```
/// # use annals_client::{Filter, bus::{Query, QueryBus, QueryCache}, testing::TestStore};
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
/// # let cache = QueryCache::new(&client);
/// // `layer` puts it around the handlers.
/// let bus = QueryBus::builder().layer(cache.clone()).handle(|_: Arc<EventCount>, _| async { Ok(7) });
/// bus.build().ask(EventCount { account: "1".into() }).await?;
/// assert_eq!(cache.misses(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Cached {
    cache: QueryCache,
    inner: Handling<QueryEnvelope>,
}

impl Service<QueryEnvelope> for Cached {
    type Response = AnyAnswer;
    type Error = QueryError;
    type Future = BoxFuture<Result<AnyAnswer, QueryError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), QueryError>> {
        // The handlers are asked only for what is not kept.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, envelope: QueryEnvelope) -> Self::Future {
        Box::pin(self.cache.clone().answer(self.inner.clone(), envelope))
    }
}
