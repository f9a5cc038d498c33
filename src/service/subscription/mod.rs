//! Subscriptions: what to follow and how, and who does. A subscription is a cursor that meets the watermark,
//! and nothing else: no copy of an event is queued for it, so a slow one costs nothing and loses nothing.
//!
//! `catch_up` is the cursor, `interactive` one whose filters change while it goes on; `interest` wakes it,
//! `registry` tells of it.

mod catch_up;
mod interactive;
mod interest;
mod registry;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::registry::Registry;
pub use self::{
    catch_up::{Message, Subscription},
    interactive::{Interactive, InteractiveOptions, Told, UnknownFilter},
    interest::{Interest, Interests},
    registry::{
        Caller, Changes, GroupFacts, Kind, Listing, PageAfter, Row, RowsRequest, Sent,
        WatchedSubscriptions, time_behind,
    },
};
use super::{
    analytics::tally::TimeBase,
    places::{NoPlace, Places},
    replay,
};
use crate::core::{
    clock::{Clock, Timestamp},
    filter::Filter,
    history::History,
    position::Position,
};

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// After this position; 0: with the first event.
    After(Position),
    /// With the next event that is committed.
    Now,
    /// With the first event of this time or later, and all that follow it.
    From(Timestamp, TimeBase),
}

/// What to follow, and how.
#[derive(Debug, Clone)]
pub struct SubscribeOptions {
    pub start: Start,
    pub filter: Filter,
    /// Events in one message, at most.
    pub batch_size: u64,
    /// Bytes of events in one message, at most, unless its one event is larger.
    pub batch_size_bytes: usize,
    /// Once it is live, an event waits so long for others that fill its message.
    pub batch_wait_max: Duration,
    /// A checkpoint is due after so many events that did not match.
    pub checkpoint_interval: u64,
    /// And when any did not, and nothing was sent for so long.
    pub checkpoint_wait_max: Duration,
    /// A heartbeat is due when nothing was sent for so long.
    pub heartbeat_interval: Duration,
}

/// Why there is no subscription, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The position is not in this log.
    #[error("position {after} is beyond the head {head}: is it the same log?")]
    BeyondHead { after: Position, head: Position },
    /// What follows the position is not kept any more.
    #[error("position {after} is no longer followed by what is kept; it begins at {first}")]
    NotKept { after: Position, first: Position },
    /// The limit is reached.
    #[error(transparent)]
    TooMany(#[from] NoPlace),
    /// The server stops.
    #[error("the server stops; resume after position {resume_after}")]
    ShuttingDown { resume_after: Position },
}

/// Opens subscriptions, and tells which are open.
#[derive(Clone)]
pub struct SubscriptionService {
    history: Arc<History>,
    clock: Arc<dyn Clock>,
    places: Places,
    interests: Interests,
    registry: Arc<Registry>,
    stop: CancellationToken,
}

impl SubscriptionService {
    /// Subscriptions end when `stop` is cancelled; each takes one of the places. `interests` are those of
    /// this history.
    pub fn new(
        history: Arc<History>,
        clock: Arc<dyn Clock>,
        places: Places,
        interests: Interests,
        stop: CancellationToken,
    ) -> Self {
        Self { history, clock, places, interests, registry: Arc::default(), stop }
    }

    /// Opens one, for `caller`.
    pub async fn subscribe(
        &self,
        mut options: SubscribeOptions,
        caller: Caller,
    ) -> Result<Subscription, SubscribeError> {
        let filter = Some(std::mem::take(&mut options.filter));
        self.open(options, filter, Kind::Subscription, caller).await
    }

    /// Opens one whose filters can be changed.
    pub async fn interactive(
        &self,
        options: InteractiveOptions,
        caller: Caller,
    ) -> Result<Interactive, SubscribeError> {
        let InteractiveOptions { mut subscribe, pull, without_filters } = options;
        let filter = std::mem::take(&mut subscribe.filter);
        let clauses = filter.clauses.clone();
        let filter = Some(filter).filter(|filter| !(without_filters && filter.is_everything()));
        let subscription = self.open(subscribe, filter, Kind::Interactive, caller).await?;
        Ok(Interactive::new(subscription, clauses, pull))
    }

    /// Waits until the server stops.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// A page of who listens: of `groups`, in the order of their names, then of subscriptions.
    pub fn list(&self, page: &RowsRequest, groups: impl IntoIterator<Item = Row>) -> Listing {
        self.registry.list(page, groups, &self.history, &*self.clock)
    }

    /// Who listens, and what changes in it; `groups` gives the rows of all groups each time it is asked.
    pub fn watch<G: Fn() -> Vec<Row>>(
        &self,
        groups: G,
    ) -> Result<WatchedSubscriptions<G>, NoPlace> {
        let place = self.places.take()?;
        let (history, clock) = (Arc::clone(&self.history), Arc::clone(&self.clock));
        let (registry, stop) = (Arc::clone(&self.registry), self.stop.clone());
        Ok(WatchedSubscriptions::new(registry, groups, history, clock, stop, place))
    }

    async fn open(
        &self,
        options: SubscribeOptions,
        filter: Option<Filter>,
        kind: Kind,
        caller: Caller,
    ) -> Result<Subscription, SubscribeError> {
        let place = self.places.take()?;
        let head = self.history.log.watermark().get();
        let after = match options.start {
            Start::Now => head,
            Start::After(after) if after <= head => from_kept(&self.history, after)?,
            Start::After(after) => return Err(SubscribeError::BeyondHead { after, head }),
            Start::From(moment, base) => {
                // What came while it was looked for is not of before that time.
                replay::first_at(&self.history, moment, base).await.previous()
            }
        };
        let head = head.max(after);
        Ok(Subscription::new(self, options, filter, (kind, caller), (after, head), place))
    }
}

/// Where a walk after `after` begins: with the first event that is kept, for who asks for all.
fn from_kept(history: &History, after: Position) -> Result<Position, SubscribeError> {
    let first = history.log.first();
    match after {
        Position::ZERO => Ok(first.previous()),
        after if after.next() >= first => Ok(after),
        after => Err(SubscribeError::NotKept { after, first }),
    }
}
