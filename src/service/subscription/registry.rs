//! Who listens, where, how far behind: what is told of subscriptions that are open, and how it changes.
//!
//! A subscription writes how far it is into its entry, a few atomics; everything else is worked out when
//! somebody asks. Rows of consumer groups come from who asks: they are kept elsewhere.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Interest;
use crate::{
    core::{
        clock::{Clock, Timestamp},
        filter::{Filter, bound},
        history::History,
        log::{Reader, format},
        position::Position,
    },
    service::{places::Place, query::QueryError},
};

/// A rate is that of so many seconds.
const RATE_SECONDS: usize = 10;
/// So many rows are told in one message.
const ROWS_MAX: usize = 1000;

/// Who opens a subscription, as far as is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// What it calls itself.
    pub name: String,
    /// Its address.
    pub peer: String,
    /// Its software.
    pub user_agent: String,
}

/// Which kind of subscription. Groups come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Group,
    Subscription,
    Interactive,
}

/// What is told of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Of a group its name.
    pub id: String,
    pub kind: Kind,
    pub caller: Caller,
    /// `None`: nothing.
    pub filter: Option<Arc<Filter>>,
    /// The position after which it began.
    pub start_after: Position,
    /// Everything up to here was sent or does not match; of a group: was settled.
    pub position: Position,
    /// At most so many events after it match.
    pub events_behind: u64,
    /// How long ago the first event after it was recorded; `None`: there is none.
    pub time_behind: Option<Duration>,
    /// How many events were sent.
    pub events: u64,
    pub events_per_second: f64,
    pub live: bool,
    pub opened_at: Timestamp,
    /// What only a group has.
    pub group: Option<GroupFacts>,
}

/// What only a group has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupFacts {
    pub in_flight: u64,
    pub parked: u64,
    pub consumers: u64,
    /// What went wrong last, and when.
    pub last_error: Option<(String, Timestamp)>,
}

/// Which page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowsRequest {
    /// `None`: the first one.
    pub after: Option<PageAfter>,
    pub size: usize,
}

/// The last row of the page before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageAfter {
    /// A group, by its name.
    Group(String),
    Subscription(Uuid),
}

/// A page.
#[derive(Debug)]
pub struct Listing {
    pub rows: Vec<Row>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<PageAfter>,
}

/// What has changed since it was told last.
#[derive(Debug, Default)]
pub struct Changes {
    /// New ones, and those that are other than they were.
    pub rows: Vec<Row>,
    /// The ids of subscriptions that have ended.
    pub ended: Vec<String>,
    /// The names of groups that are no more.
    pub deleted_groups: Vec<String>,
}

/// The subscriptions that are open.
#[derive(Default)]
pub(super) struct Registry(Mutex<BTreeMap<Uuid, Arc<Entry>>>);

/// One of them. All but what is given at the start is written by its subscription.
struct Entry {
    id: Uuid,
    kind: Kind,
    caller: Caller,
    start_after: Position,
    opened_at: Timestamp,
    following: Mutex<Following>,
    position: AtomicU64,
    live: AtomicBool,
    sent: Mutex<Sent>,
}

/// A filter, `None` for nothing, and the interest in it.
pub(super) type Following = (Option<Arc<Filter>>, Arc<Interest>);

/// How many events were sent: in all, and in each of the last seconds.
pub struct Sent {
    pub events: u64,
    since: Instant,
    /// The second that is counted now, from `since` on.
    second: u64,
    seconds: [u64; RATE_SECONDS],
}

/// A subscription's own entry. Dropped, it is registered no more.
pub(super) struct Registered {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
}

impl Registered {
    pub(super) fn new(
        registry: &Arc<Registry>,
        kind: Kind,
        caller: Caller,
        start_after: Position,
        following: Following,
        opened_at: Timestamp,
    ) -> Self {
        let entry = Arc::new(Entry {
            // Listed in the order in which they were opened.
            id: Uuid::now_v7(),
            kind,
            caller,
            start_after,
            opened_at,
            following: Mutex::new(following),
            position: AtomicU64::new(start_after.get()),
            live: AtomicBool::new(false),
            sent: Mutex::new(Sent::new()),
        });
        registry.open().insert(entry.id, Arc::clone(&entry));
        Self { registry: Arc::clone(registry), entry }
    }

    pub(super) fn id(&self) -> Uuid {
        self.entry.id
    }

    /// Everything up to `position` was sent or does not match.
    pub(super) fn is_at(&self, position: Position, live: bool) {
        // Relaxed, both: numbers to look at.
        self.entry.position.store(position.get(), Ordering::Relaxed);
        self.entry.live.store(live, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, events: u64) {
        self.entry.sent.lock().expect("no holder panics").add(events);
    }

    pub(super) fn follows(&self, filter: Option<Arc<Filter>>, interest: Arc<Interest>) {
        *self.entry.following.lock().expect("no holder panics") = (filter, interest);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.open().remove(&self.entry.id);
    }
}

impl Sent {
    /// None yet.
    #[expect(clippy::new_without_default, reason = "it begins now")]
    pub fn new() -> Self {
        Self { events: 0, since: Instant::now(), second: 0, seconds: [0; RATE_SECONDS] }
    }

    /// So many were sent now.
    pub fn add(&mut self, events: u64) {
        self.pass(Instant::now());
        self.events += events;
        let second = self.place();
        self.seconds[second] += events;
    }

    /// Where the second that is counted now has its place.
    fn place(&self) -> usize {
        usize::try_from(self.second % RATE_SECONDS as u64).expect("below ten")
    }

    /// Goes on to the second of `now`: those between had no events.
    fn pass(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.since).as_secs();
        let passed = second.saturating_sub(self.second).min(RATE_SECONDS as u64);
        for _ in 0..passed {
            self.second += 1;
            let place = self.place();
            self.seconds[place] = 0;
        }
        self.second = second.max(self.second);
        if passed == RATE_SECONDS as u64 {
            self.seconds = [0; RATE_SECONDS];
        }
    }

    /// How many a second, over the last ten, or since it began where that is less.
    #[expect(clippy::cast_precision_loss, reason = "about")]
    pub fn rate(&mut self, now: Instant) -> f64 {
        self.pass(now);
        let events: u64 = self.seconds.iter().sum();
        let seconds = (self.second + 1).min(RATE_SECONDS as u64);
        events as f64 / seconds as f64
    }
}

impl Entry {
    fn row(&self, reader: &Reader, history: &History, now: (Instant, i64)) -> Row {
        let (filter, interest) = self.following.lock().expect("no holder panics").clone();
        // Relaxed, both: numbers to look at.
        let position = Position::new(self.position.load(Ordering::Relaxed));
        let live = self.live.load(Ordering::Relaxed);
        let position = interest.passed(position);
        let events_behind = match &filter {
            Some(filter) => bound::matches_max(filter, history, reader, position),
            None => 0,
        };
        let (events, events_per_second) = {
            let mut sent = self.sent.lock().expect("no holder panics");
            (sent.events, sent.rate(now.0))
        };
        Row {
            id: self.id.to_string(),
            kind: self.kind,
            caller: self.caller.clone(),
            filter,
            start_after: self.start_after,
            position,
            events_behind,
            time_behind: time_behind(reader, position, now.1),
            events,
            events_per_second,
            live,
            opened_at: self.opened_at,
            group: None,
        }
    }
}

/// How long before `now_micros` the first event after `position` was recorded.
pub fn time_behind(reader: &Reader, position: Position, now_micros: i64) -> Option<Duration> {
    let record = reader.trace(position.next().max(reader.first()))?;
    let now = Timestamp::from_micros(now_micros);
    Some(now.since(format::recorded_at(&record)).unwrap_or_default())
}

impl Registry {
    fn open(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<Entry>>> {
        self.0.lock().expect("no holder panics")
    }

    /// At most `max` rows of those whose ids are after `after`, in their order.
    fn rows(
        &self,
        after: Option<Uuid>,
        max: usize,
        history: &History,
        clock: &dyn Clock,
    ) -> Vec<Row> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        // Worked out when the lock is free again.
        let entries: Vec<_> = {
            let open = self.open();
            open.range((from, Bound::Unbounded))
                .take(max)
                .map(|(_, entry)| Arc::clone(entry))
                .collect()
        };
        let (reader, now) = (history.log.reader(), (Instant::now(), clock.now_micros()));
        entries.iter().map(|entry| entry.row(&reader, history, now)).collect()
    }

    pub(super) fn list(
        &self,
        request: &RowsRequest,
        groups: impl IntoIterator<Item = Row>,
        history: &History,
        clock: &dyn Clock,
    ) -> Listing {
        let RowsRequest { after, size } = request;
        let groups = groups.into_iter().filter(|row| match after {
            None => true,
            Some(PageAfter::Group(name)) => row.id > *name,
            Some(PageAfter::Subscription(_)) => false,
        });
        // One more shows whether there is another page.
        let mut rows: Vec<_> = groups.take(size + 1).collect();
        let after = match after {
            Some(PageAfter::Subscription(id)) => Some(*id),
            None | Some(PageAfter::Group(_)) => None,
        };
        rows.extend(self.rows(after, size + 1 - rows.len(), history, clock));
        let more = rows.len() > *size;
        rows.truncate(*size);
        let page_after = |row: &Row| match row.kind {
            Kind::Group => Some(PageAfter::Group(row.id.clone())),
            Kind::Subscription | Kind::Interactive => {
                row.id.parse().ok().map(PageAfter::Subscription)
            }
        };
        let next = rows.last().filter(|_| more).and_then(page_after);
        Listing { rows, next }
    }
}

/// The rows, and again what has changed in them.
pub struct WatchedSubscriptions<G> {
    registry: Arc<Registry>,
    groups: G,
    history: Arc<History>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    /// What was told; `None`: nothing yet.
    told: Option<BTreeMap<(Kind, String), Row>>,
    told_at: Instant,
    /// Of what has changed, what did not fit the last message.
    waiting: VecDeque<Changes>,
    _place: Place,
}

impl<G: Fn() -> Vec<Row>> WatchedSubscriptions<G> {
    pub(super) fn new(
        registry: Arc<Registry>,
        groups: G,
        history: Arc<History>,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
        place: Place,
    ) -> Self {
        let (told, told_at, waiting) = (None, Instant::now(), VecDeque::new());
        Self { registry, groups, history, clock, stop, told, told_at, waiting, _place: place }
    }

    /// All rows at first, then what has changed, at the earliest `interval` after what was told last.
    pub async fn next(&mut self, interval: Duration) -> Result<Changes, QueryError> {
        loop {
            if let Some(changes) = self.waiting.pop_front() {
                return Ok(changes);
            }
            if self.told.is_some() {
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Err(QueryError::Stopping),
                    () = tokio::time::sleep_until(self.told_at + interval) => {}
                }
            }
            self.told_at = Instant::now();
            self.compare();
        }
    }

    /// Puts what has changed into messages: none where nothing has.
    fn compare(&mut self) {
        let mut rows = (self.groups)();
        rows.extend(self.registry.rows(None, usize::MAX, &self.history, &*self.clock));
        let now: BTreeMap<_, _> =
            rows.into_iter().map(|row| ((row.kind, row.id.clone()), row)).collect();
        let is_first = self.told.is_none();
        let told = self.told.take().unwrap_or_default();
        let mut changes = Changes::default();
        for (kind, id) in told.keys().filter(|key| !now.contains_key(key)) {
            match kind {
                Kind::Group => changes.deleted_groups.push(id.clone()),
                Kind::Subscription | Kind::Interactive => changes.ended.push(id.clone()),
            }
        }
        for (key, row) in now.iter().filter(|(key, row)| told.get(*key) != Some(*row)) {
            debug_assert_eq!(key.1, row.id);
            if changes.rows.len() == ROWS_MAX {
                self.waiting.push_back(std::mem::take(&mut changes));
            }
            changes.rows.push(row.clone());
        }
        let Changes { rows, ended, deleted_groups } = &changes;
        if is_first || !(rows.is_empty() && ended.is_empty() && deleted_groups.is_empty()) {
            self.waiting.push_back(changes);
        }
        self.told = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_ten_seconds() {
        let since = Instant::now();
        let mut sent = Sent { events: 0, since, second: 0, seconds: [0; RATE_SECONDS] };
        let mut rate_at = |seconds: u64, events: u64| {
            let now = since + Duration::from_secs(seconds);
            sent.pass(now);
            let place = sent.place();
            sent.seconds[place] += events;
            sent.rate(now)
        };
        for (seconds, events, expected) in [
            (0, 10, 10.0),
            (1, 10, 10.0),
            (3, 0, 5.0),
            (9, 0, 2.0),
            (10, 0, 1.0),
            (11, 40, 4.0),
            (20, 0, 4.0),
            (21, 0, 0.0),
            (1_000_000, 5, 0.5),
        ] {
            assert!((rate_at(seconds, events) - expected).abs() < 1e-9, "at {seconds} s");
        }
    }
}
