//! How a group works, and where it begins.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{
    Filter,
    event::timestamp,
    proto::{self, GroupStrategy, create_group_request::Start},
    query::duration,
};

/// How a group's events are shared by its consumers.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// use annals_client::group::{GroupSettings, NewGroup, Strategy};
///
/// let settings = GroupSettings::new().strategy(Strategy::OrderedByStream);
/// client.group("mails").create(NewGroup::new().settings(settings)).await?;
/// let mut consumer = client.consume("mails").start().await?;
/// let first = consumer.next().await?;
/// assert_eq!(first.event.version, 1);
/// first.ack().await;
/// assert_eq!(consumer.next().await?.event.version, 2, "it has waited for the first one");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// In turn, to each that has room.
    #[default]
    RoundRobin,
    /// To one, the one that came first; to the next when it goes.
    DispatchToOne,
    /// In turn, but of each stream at most one event is in flight, and in order, also through retries.
    OrderedByStream,
    /// The same by correlation id. Events without one are not ordered.
    OrderedByCorrelation,
}

/// How a group works. What is not set is the server's default.
///
/// ```
/// # use annals_client::testing::TestStore;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::group::{GroupSettings, NewGroup, Strategy};
/// use std::time::Duration;
///
/// let settings = GroupSettings::new()
///     .strategy(Strategy::OrderedByStream)
///     .hold_back_parked_keys()
///     .message_timeout(Duration::from_secs(60))
///     .retries_max(5)
///     .retry_delay(Duration::from_millis(500), Duration::from_secs(30))
///     .in_flight_max(20);
/// let mails = client.group("mails").create(NewGroup::new().settings(settings)).await?;
/// assert_eq!(mails.settings.unwrap().retries_max, Some(5));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GroupSettings(pub(super) proto::GroupSettings);

impl GroupSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How events are shared.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.0.strategy = match strategy {
            Strategy::RoundRobin => GroupStrategy::RoundRobin,
            Strategy::DispatchToOne => GroupStrategy::DispatchToOne,
            Strategy::OrderedByStream => GroupStrategy::OrderedByStream,
            Strategy::OrderedByCorrelation => GroupStrategy::OrderedByCorrelation,
        }
        .into();
        self
    }

    /// How long a consumer may take to settle an event; then it goes to another one: 100 ms to 1 h, 30 s where nothing
    /// is said.
    #[must_use]
    pub fn message_timeout(mut self, timeout: Duration) -> Self {
        self.0.message_timeout = Some(duration(timeout));
        self
    }

    /// How often an event is delivered again before it is parked: 0 to 1000, 10 where nothing is said.
    #[must_use]
    pub fn retries_max(mut self, retries: u32) -> Self {
        self.0.retries_max = Some(retries);
        self
    }

    /// How long an event waits before it is delivered again the first time (0 to 1 h, 1 s where nothing is said); twice
    /// as long each time that follows, but no longer than `delay_max` (0 to 24 h, 1 min where nothing is said).
    #[must_use]
    pub fn retry_delay(mut self, delay: Duration, delay_max: Duration) -> Self {
        self.0.retry_delay = Some(duration(delay));
        self.0.retry_delay_max = Some(duration(delay_max));
        self
    }

    /// How many events one consumer has in flight at once, at most: 1 to 10 000, 10 where nothing is said.
    #[must_use]
    pub fn in_flight_max(mut self, events: u32) -> Self {
        self.0.in_flight_max = events;
        self
    }

    /// With an ordered strategy: while an event is parked, later ones of the same key are held back, and come when it
    /// is settled or dropped.
    #[must_use]
    pub fn hold_back_parked_keys(mut self) -> Self {
        self.0.hold_back_parked_keys = true;
        self
    }

    /// How many events may be parked: 1 to 100 000, 10 000 where nothing is said. A group that has to park more stops
    /// until there is room.
    #[must_use]
    pub fn parked_max(mut self, events: u32) -> Self {
        self.0.parked_max = events;
        self
    }

    /// How far the group looks ahead: at so many events that match and are neither settled nor parked, 1 to 10 000,
    /// 1000 where nothing is said.
    #[must_use]
    pub fn window_max(mut self, events: u32) -> Self {
        self.0.window_max = events;
        self
    }

    /// How often what is settled is noted in the log: 10 ms to 1 h, 1 s where nothing is said. What was settled since is
    /// delivered again after a crash.
    #[must_use]
    pub fn checkpoint_interval(mut self, interval: Duration) -> Self {
        self.0.checkpoint_interval = Some(duration(interval));
        self
    }

    /// How many consumers may take events at once: 1 to 10 000, 100 where nothing is said.
    #[must_use]
    pub fn consumers_max(mut self, consumers: u32) -> Self {
        self.0.consumers_max = consumers;
        self
    }
}

/// Such as those of [`GroupInfo`](super::GroupInfo), to change some of them.
///
/// ```
/// # use annals_client::testing::TestStore;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::group::{GroupSettings, NewGroup};
///
/// let mails = client.group("mails");
/// let made = mails.create(NewGroup::new().settings(GroupSettings::new().in_flight_max(7))).await?;
/// let settings = GroupSettings::from(made.settings.unwrap()).retries_max(3);
/// let changed = mails.set_settings(settings).await?.settings.unwrap();
/// assert_eq!((changed.in_flight_max, changed.retries_max), (7, Some(3)));
/// # Ok(())
/// # }
/// ```
impl From<proto::GroupSettings> for GroupSettings {
    fn from(settings: proto::GroupSettings) -> Self {
        Self(settings)
    }
}

/// A group to make: of every event but those of the server's own streams, from the log's start, where nothing else is
/// said.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// use annals_client::{Filter, group::NewGroup};
///
/// let new = NewGroup::new().after(1).filter(Filter::new().category("Payment"));
/// client.group("mails").create(new).await?;
/// let mut consumer = client.consume("mails").start().await?;
/// assert_eq!(consumer.next().await?.event.event_type, "PaymentProcessed");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewGroup(pub(super) proto::CreateGroupRequest);

impl NewGroup {
    /// With the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begin after this position.
    #[must_use]
    pub fn after(mut self, position: u64) -> Self {
        self.0.start = Some(Start::After(position));
        self
    }

    /// Begin with the next event that is committed.
    #[must_use]
    pub fn from_now(mut self) -> Self {
        self.0.start = Some(Start::FromNow(()));
        self
    }

    /// Begin with the first event, in the order of the log, that occurred at this time or later.
    #[must_use]
    pub fn from_time(mut self, at: DateTime<Utc>) -> Self {
        self.0.start = Some(Start::FromTime(timestamp(at)));
        self
    }

    /// Only what one of the filters picks; of several any one.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.0.filters.push(filter.0);
        self
    }

    /// How it works.
    #[must_use]
    pub fn settings(mut self, settings: GroupSettings) -> Self {
        self.0.settings = Some(settings.0);
        self
    }
}
