//! Consumer groups: subscriptions whose position and events in flight the server keeps.
//!
//! ```text
//! log ──► driver ──► window ──► consumers        driver   a task for each group: looks ahead, tells what is due,
//!  ▲                   │  ▲                               writes what must survive
//!  │                   │  └── settle, as they say   window   who has what; it decides everything
//!  └──── journal ◄─────┘                          journal  what a group is, as events of the log
//! ```
//!
//! The window is behind a lock that nobody holds while waiting. Whoever writes to a group's streams holds its
//! `writing` lock meanwhile, so what the log says comes in the order in which it was decided.

mod consumer;
mod driver;
pub mod journal;
mod manage;
pub mod settings;
pub mod window;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    consumer::Member,
    journal::{Created, Recorded},
    settings::Strategy,
    window::{ConsumerId, Key, Window},
};
pub use self::{
    consumer::{Consumer, ConsumerFacts, Delivered, Message, Settlement, Settler},
    manage::{GroupFacts, ParkedPage, Target, Which},
};
use super::{
    command::CommandService,
    places::{NoPlace, Places},
    subscription::{Interest, Interests, Sent},
};
use crate::core::{
    append::AppendError,
    clock::{Clock, Timestamp},
    filter::Filter,
    history::History,
    log::{Reader, format::EventView},
    name::Name,
    position::Position,
};

/// Why a group does not do what it was asked to. But for the last two, nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("there is no group {group}")]
    UnknownGroup { group: Name },
    #[error("there is a group {group} already, and it was made otherwise")]
    Exists { group: Name },
    #[error("there are {limit} groups, no more are allowed")]
    TooManyGroups { limit: usize },
    #[error("group {group} has {limit} consumers, no more are allowed")]
    TooManyConsumers { group: Name, limit: usize },
    #[error("{wanted} events in flight are more than the {max} that the group allows")]
    TooManyInFlight { wanted: usize, max: usize },
    #[error("position {after} is beyond the head {head}: is it the same log?")]
    BeyondHead { after: Position, head: Position },
    #[error("position {after} is no longer followed by what is kept; it begins at {first}")]
    NotKept { after: Position, first: Position },
    #[error("group {group} is at position {actual}, expected {expected}")]
    WrongPosition { group: Name, expected: Position, actual: Position },
    #[error("event {position} is not one that group {group} has looked at and not settled")]
    NotUnsettled { group: Name, position: Position },
    #[error("the filters and settings make an event of {size} bytes, at most {max} are allowed")]
    TooLarge { size: usize, max: usize },
    #[error(transparent)]
    TooMany(#[from] NoPlace),
    #[error("the server stops")]
    ShuttingDown,
    /// What the log says: whether it was written depends on that.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// All groups.
#[derive(Clone)]
pub struct GroupService {
    shared: Arc<Shared>,
}

struct Shared {
    commands: CommandService,
    history: Arc<History>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    interests: Interests,
    groups_max: usize,
    event_size_bytes_max: usize,
    groups: Mutex<BTreeMap<Name, Arc<Group>>>,
    /// Held by whoever makes a group.
    creating: Arc<tokio::sync::Mutex<()>>,
    places: Places,
    drivers: TaskTracker,
}

/// One group.
pub struct Group {
    name: Name,
    /// The position of the event that made it: names it for ever.
    created: Position,
    created_at: Timestamp,
    made: Created,
    state: Mutex<State>,
    /// Held by whoever writes to the group's streams.
    writing: tokio::sync::Mutex<()>,
    /// Tells the driver that there may be something to do: the window's own, too.
    changed: Arc<Notify>,
    /// The group is deleted.
    ended: CancellationToken,
    hasher: RandomState,
}

struct State {
    window: Window,
    filter: Filter,
    /// Counts changes of the filter and moves: what was found before is not offered after.
    generation: u64,
    members: BTreeMap<ConsumerId, Member>,
    /// Those of them that ask each time, by their names.
    pollers: BTreeMap<String, consumer::Poller>,
    /// What went wrong last, and when.
    last_error: Option<(Arc<str>, Timestamp)>,
    sent: Sent,
    /// While there are consumers, what wakes the driver.
    interest: Option<Arc<Interest>>,
}

impl GroupService {
    /// The groups that the log tells of, and those that will be made: at most the first of `limits`; the second
    /// is what an event may measure, bytes. A consumer takes one of the places. An error: the position of an event
    /// of a group that cannot be read.
    pub fn start(
        commands: CommandService,
        history: Arc<History>,
        clock: Arc<dyn Clock>,
        interests: Interests,
        places: Places,
        limits: (usize, usize),
        stop: CancellationToken,
    ) -> Result<Self, Position> {
        let recorded = journal::read(&history)?;
        if !recorded.is_empty() {
            tracing::info!(groups = recorded.len(), "consumer groups read back");
        }
        let (groups_max, event_size_bytes_max) = limits;
        let shared = Arc::new(Shared {
            commands,
            history,
            clock,
            stop,
            interests,
            groups_max,
            event_size_bytes_max,
            groups: Mutex::default(),
            creating: Arc::default(),
            places,
            drivers: TaskTracker::new(),
        });
        for recorded in recorded {
            let group = Group::restore(recorded, &shared);
            shared.run(group);
        }
        Ok(Self { shared })
    }

    /// Returns when every group has noted where it is. After `stop` was cancelled.
    pub async fn stopped(&self) {
        self.shared.drivers.close();
        self.shared.drivers.wait().await;
    }

    fn group(&self, name: &Name) -> Result<Arc<Group>, GroupError> {
        let groups = self.shared.groups();
        groups.get(name).cloned().ok_or_else(|| GroupError::UnknownGroup { group: name.clone() })
    }
}

impl Shared {
    fn groups(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Group>>> {
        self.groups.lock().expect("no holder panics")
    }

    /// From now on the group is there.
    fn run(self: &Arc<Self>, group: Arc<Group>) {
        self.groups().insert(group.name.clone(), Arc::clone(&group));
        self.drivers.spawn(driver::run(Arc::clone(self), group));
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.clock.now_micros())
    }
}

impl Group {
    fn restore(recorded: Recorded, shared: &Shared) -> Arc<Self> {
        let Recorded { name, created, created_at, made, filter, settings, checkpoint, parked } =
            recorded;
        let hasher = RandomState::new();
        let reader = shared.history.log.reader();
        let key = |position| key_at(position, &reader, settings.strategy, &hasher);
        let unsettled = checkpoint.unsettled.iter();
        let unsettled = unsettled.map(|(position, times)| (*position, key(*position), *times));
        let mut parked = parked;
        for (position, parked) in &mut parked {
            parked.key = key(*position);
        }
        let now = Instant::now();
        let window = Window::restore(settings, &checkpoint, unsettled.collect(), parked, now);
        Self::with_window(name, created, created_at, made, filter, window, hasher)
    }

    fn with_window(
        name: Name,
        created: Position,
        created_at: Timestamp,
        made: Created,
        filter: Filter,
        window: Window,
        hasher: RandomState,
    ) -> Arc<Self> {
        let changed = window.news();
        let state = State {
            window,
            filter,
            generation: 0,
            members: BTreeMap::new(),
            pollers: BTreeMap::new(),
            last_error: None,
            sent: Sent::new(),
            interest: None,
        };
        Arc::new(Self {
            name,
            created,
            created_at,
            made,
            state: Mutex::new(state),
            writing: tokio::sync::Mutex::default(),
            changed,
            ended: CancellationToken::new(),
            hasher,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn unknown(&self) -> GroupError {
        GroupError::UnknownGroup { group: self.name.clone() }
    }
}

impl State {
    /// Every event up to here that matches is settled or parked, as far as is known.
    fn position(&self) -> Position {
        let position = self.window.position();
        match &self.interest {
            Some(interest) if self.window.open() == 0 => interest.passed(position),
            _ => position,
        }
    }

    /// Whether the group is where somebody believes it to be: nothing matches between there and where it is.
    fn is_at(&self, expected: Position) -> bool {
        let position = self.position();
        let last = if self.window.open() == 0 { self.window.last() } else { position };
        (last..=position).contains(&expected)
    }

    /// Keeps what the window tells went wrong.
    fn note_error(&mut self, now: Timestamp) {
        if let Some(error) = self.window.take_error() {
            self.last_error = Some((error, now));
        }
    }
}

/// What orders an event with others.
fn key(event: &EventView<'_>, strategy: Strategy, hasher: &RandomState) -> Key {
    let text = match strategy {
        Strategy::RoundRobin | Strategy::DispatchToOne => return None,
        Strategy::OrderedByStream => event.body.stream,
        Strategy::OrderedByCorrelation => event.body.correlation_id,
    };
    // Two names with the same hash wait for one another, and nothing worse.
    (!text.is_empty()).then(|| hasher.hash_one(text))
}

fn key_at(position: Position, reader: &Reader, strategy: Strategy, hasher: &RandomState) -> Key {
    if !strategy.is_ordered() {
        return None;
    }
    reader.record(position).and_then(|record| key(&record.event(), strategy, hasher))
}
