//! Who waits for which names: one task looks at every new event once, and wakes those whom it may concern.
//!
//! ```text
//! registered   types: Paid ─► 1, 7      tags: red ─► 3      streams: Payment-1 ─► 4
//!
//! watermark ─► the task: event 812 is a Paid of Order-9 ─► wakes 1 and 7; 3 and 4 sleep on
//! ```
//!
//! Without it every commit would wake everybody. An interest listens to one necessary part of each clause of
//! a filter, the one with the fewest events so far: of what it is woken for some may not match, and nothing
//! that matches is missed.
//!
//! *The rule*: an interest is registered before its owner scans up to the watermark, and every event above
//! that watermark is looked at after it. So what the scan has not seen, the task has.
//!
//! Where nobody is registered the task sleeps and costs appends nothing; never does a writer wait for it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::core::{
    filter::{Clause, Filter, plan::categories_of},
    history::History,
    index::{map::IndexMap, shared_ids::Candidates},
    log::format::{self, Indexed},
    name::{self, Name},
    position::Position,
};

/// The table is held for so many events, then others get their turn.
const EVENTS_AT_ONCE: u64 = 256;

/// The indexes that an interest may listen to, by their places in [`Table::names`]; behind them those of
/// metadata.
const STREAMS: usize = 0;
const CATEGORIES: usize = 1;
const TYPES: usize = 2;
const TAGS: usize = 3;
const CORRELATIONS: usize = 4;
const CAUSATIONS: usize = 5;
const METADATA: usize = 6;

/// A name of an index.
type Topic = (usize, Name);

/// All interests of a server.
#[derive(Clone)]
pub struct Interests(Arc<Shared>);

struct Shared {
    history: Arc<History>,
    stop: CancellationToken,
    table: Mutex<Table>,
    /// Everything up to here was looked at. Written under the lock of `table`.
    looked: AtomicU64,
    /// Told when the first one is registered.
    registered: Notify,
}

struct Table {
    last_id: u64,
    listeners: HashMap<u64, Arc<Listener>>,
    /// Of each index, who listens to which name.
    names: Vec<HashMap<Name, Vec<Arc<Listener>>>>,
    /// Who wants to know when everything up to a position was looked at.
    marks: BTreeMap<(Position, u64), Arc<Listener>>,
}

/// What the task has for one interest.
struct Listener {
    id: u64,
    /// Events up to here were not looked at for it.
    since: Position,
    state: Mutex<State>,
    wake: Notify,
}

/// Lock order: the table's before this one's.
#[derive(Default)]
struct State {
    /// The first event that may concern it and that it has not passed; 0: there was none.
    first: Position,
    /// The last event that may concern it.
    last: Position,
    /// Its entry in [`Table::marks`].
    mark: Option<Position>,
    /// A mark was reached, and nobody was told yet.
    marked: bool,
}

/// One interest. Dropped, it is registered no more.
pub struct Interest {
    shared: Arc<Shared>,
    hears: Hears,
}

enum Hears {
    /// No event concerns it.
    Nothing,
    /// A clause has nothing that an index knows: every event may concern it.
    Everything,
    Names {
        listener: Arc<Listener>,
        topics: Vec<Topic>,
    },
}

impl Interests {
    /// Nobody is interested yet. Somebody must run [`Interests::follow`].
    pub fn new(history: Arc<History>, stop: CancellationToken) -> Self {
        let table = Table {
            last_id: 0,
            listeners: HashMap::new(),
            names: vec![HashMap::new(); METADATA + history.metadata.len()],
            marks: BTreeMap::new(),
        };
        Self(Arc::new(Shared {
            history,
            stop,
            table: Mutex::new(table),
            looked: AtomicU64::new(0),
            registered: Notify::new(),
        }))
    }

    /// Looks at new events while anybody is registered, until the server stops.
    pub async fn follow(self) {
        let shared = &*self.0;
        let following = async {
            loop {
                let listened = !shared.table().listeners.is_empty();
                if !listened {
                    shared.registered.notified().await;
                    continue;
                }
                let head = shared.history.log.watermark().beyond(shared.looked()).await;
                shared.look(head);
                tokio::task::yield_now().await;
            }
        };
        shared.stop.run_until_cancelled(following).await;
    }

    /// Registers an interest in what `filter` picks, from the watermark on at the latest.
    pub fn register(&self, filter: &Filter) -> Interest {
        let shared = Arc::clone(&self.0);
        let Some(topics) = topics_of(filter, &shared.history) else {
            return Interest { shared, hears: Hears::Everything };
        };
        let listener = shared.add(&topics);
        Interest { shared, hears: Hears::Names { listener, topics } }
    }

    /// An interest in no event at all.
    pub fn nothing(&self) -> Interest {
        Interest { shared: Arc::clone(&self.0), hears: Hears::Nothing }
    }
}

impl Interest {
    /// Waits until an event after `after`, up to which its owner has come, may concern it, or a mark was
    /// reached. Nothing is lost where the wait is given up.
    pub async fn changed(&self, after: Position) {
        let Hears::Names { listener, .. } = &self.hears else {
            self.shared.history.log.watermark().beyond(after).await;
            return;
        };
        loop {
            let marked = std::mem::take(&mut listener.state().marked);
            if marked || self.has_changed(after) {
                return;
            }
            // It keeps one permit: what is told from here on ends this wait.
            listener.wake.notified().await;
        }
    }

    /// Whether an event after `after` may concern it, as far as is known.
    pub fn has_changed(&self, after: Position) -> bool {
        match &self.hears {
            Hears::Nothing => false,
            Hears::Everything => self.shared.history.log.watermark().get() > after,
            Hears::Names { listener, .. } => {
                after < listener.since || listener.state().last > after
            }
        }
    }

    /// The position up to which nothing after `after` concerns it, as far as was looked: what its owner need
    /// not scan.
    pub fn passed(&self, after: Position) -> Position {
        match &self.hears {
            Hears::Nothing => self.shared.history.log.watermark().get().max(after),
            Hears::Everything => after,
            Hears::Names { listener, .. } if after < listener.since => after,
            Hears::Names { listener, .. } => {
                // Before what was found: all that was found up to here is known then.
                let looked = self.shared.looked();
                let mut state = listener.state();
                if state.last <= after {
                    state.first = Position::ZERO;
                    return looked.max(after);
                }
                state.first.previous().max(after)
            }
        }
    }

    /// Ends the wait also when everything up to `position` was looked at, once. It takes the place of the
    /// mark before. (Who listens to every event is woken by each.)
    pub fn wake_at(&self, position: Position) {
        let Hears::Names { listener, .. } = &self.hears else { return };
        let mut table = self.shared.table();
        let mut state = listener.state();
        if state.mark == Some(position) {
            return;
        }
        if let Some(before) = state.mark.take() {
            table.marks.remove(&(before, listener.id));
        }
        state.marked = self.shared.looked() >= position;
        if state.marked {
            listener.wake.notify_one();
        } else {
            state.mark = Some(position);
            table.marks.insert((position, listener.id), Arc::clone(listener));
        }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        if let Hears::Names { listener, topics } = &self.hears {
            self.shared.table().remove(listener, topics);
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder panics")
    }

    fn looked(&self) -> Position {
        // Acquire, pairs with the Release in `note`: what was found up to here was noted before.
        Position::new(self.looked.load(Ordering::Acquire))
    }

    fn note(&self, looked: Position) {
        // Release, pairs with the Acquire in `looked`.
        self.looked.store(looked.get(), Ordering::Release);
    }

    fn add(&self, topics: &[Topic]) -> Arc<Listener> {
        let mut table = self.table();
        if table.listeners.is_empty() {
            // Nobody has listened to what came meanwhile.
            self.note(self.history.log.watermark().get());
            self.registered.notify_one();
        }
        table.last_id += 1;
        let listener = Arc::new(Listener {
            id: table.last_id,
            since: self.looked(),
            state: Mutex::default(),
            wake: Notify::new(),
        });
        table.listeners.insert(listener.id, Arc::clone(&listener));
        for (index, name) in topics {
            let listeners = table.names[*index].entry(name.clone()).or_default();
            listeners.push(Arc::clone(&listener));
        }
        listener
    }

    /// Looks at the next events up to `head`, and tells whom they may concern.
    fn look(&self, head: Position) {
        let mut table = self.table();
        let (looked, reader) = (self.looked(), self.history.log.reader_at(head));
        let mut next = looked.next();
        if next < reader.first() {
            // Dropped before anybody has looked: their owners must see for themselves.
            let last = reader.first().previous();
            for listener in table.listeners.values() {
                listener.find(next, last);
            }
            next = reader.first();
        }
        let last = head.min(next.plus(EVENTS_AT_ONCE - 1));
        for position in next.get()..=last.get() {
            let position = Position::new(position);
            // Nothing of a removed event concerns anybody.
            if let Some(record) = reader.record(position) {
                table.look(format::message(&record), position, &self.history);
            }
        }
        let last = last.max(next.previous());
        self.note(last);
        table.tell_marks(last);
    }
}

impl Table {
    fn look(&self, message: &[u8], position: Position, history: &History) {
        let tell = |index: usize, name: &str| {
            for listener in self.names[index].get(name).into_iter().flatten() {
                listener.find(position, position);
            }
        };
        format::for_each_indexed(message, |indexed| {
            match indexed {
                Indexed::OccurredAt(_) => {}
                Indexed::Stream(stream) => {
                    tell(STREAMS, stream);
                    tell(CATEGORIES, name::category(stream));
                }
                Indexed::Type(event_type) => tell(TYPES, event_type),
                Indexed::Correlation(id) => tell(CORRELATIONS, id),
                Indexed::Causation(id) => tell(CAUSATIONS, id),
                Indexed::Metadata(key, value) => {
                    if let Some(index) = metadata_index(history, key) {
                        tell(index, value);
                    }
                }
                Indexed::Tag(tag) => tell(TAGS, tag),
            }
            true
        });
    }

    fn tell_marks(&mut self, looked: Position) {
        while let Some(first) = self.marks.first_entry()
            && first.key().0 <= looked
        {
            let listener = first.remove();
            let mut state = listener.state();
            (state.mark, state.marked) = (None, true);
            listener.wake.notify_one();
        }
    }

    fn remove(&mut self, listener: &Listener, topics: &[Topic]) {
        self.listeners.remove(&listener.id);
        if let Some(mark) = listener.state().mark.take() {
            self.marks.remove(&(mark, listener.id));
        }
        for (index, name) in topics {
            let names = &mut self.names[*index];
            let Some(listeners) = names.get_mut(name) else { continue };
            listeners.retain(|other| other.id != listener.id);
            if listeners.is_empty() {
                names.remove(name);
            }
        }
    }
}

impl Listener {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Notes that events from `first` to `last` may concern it.
    fn find(&self, first: Position, last: Position) {
        let mut state = self.state();
        if state.first == Position::ZERO {
            state.first = first;
        }
        state.last = last;
        self.wake.notify_one();
    }
}

/// What to listen to, so that no event is missed that `filter` picks; `None`: to every event.
fn topics_of(filter: &Filter, history: &History) -> Option<Vec<Topic>> {
    if filter.is_everything() {
        return None;
    }
    let mut topics = Vec::new();
    for clause in &filter.clauses {
        topics.extend(necessary(clause, history)?);
    }
    topics.sort_unstable();
    topics.dedup();
    Some(topics)
}

/// The names of one index of which an event must have one, if the clause is to pick it: those with the fewest
/// events so far; of indexes with as many, the one whose names are rarest in most histories.
fn necessary(clause: &Clause, history: &History) -> Option<Vec<Topic>> {
    let head = history.log.watermark().get();
    let first = history.log.first();
    let mut least: Option<(u64, Vec<Topic>)> = None;
    let mut offer = |index: usize, names: Vec<Name>| {
        let count = |name: &Name| {
            let map = |map: &IndexMap| map.count(name.as_str(), head);
            let ids = match index {
                STREAMS => return map(&history.streams),
                CATEGORIES => return map(&history.categories),
                TYPES => return map(&history.types),
                TAGS => return map(&history.tags),
                CORRELATIONS => &history.correlations,
                CAUSATIONS => &history.causations,
                metadata => return map(&history.metadata[metadata - METADATA].values),
            };
            match ids.candidates(name.as_str(), head, first) {
                Candidates::Few(few) => few.len() as u64,
                Candidates::Many(list) => list.count(head),
            }
        };
        let events = names.iter().map(count).sum();
        if !names.is_empty() && least.as_ref().is_none_or(|(fewest, _)| events < *fewest) {
            least = Some((events, names.into_iter().map(|name| (index, name)).collect()));
        }
    };
    offer(STREAMS, clause.streams.clone());
    offer(CORRELATIONS, clause.correlation_ids.clone());
    offer(CAUSATIONS, clause.causation_ids.clone());
    for wanted in &clause.metadata {
        if let Some(index) = metadata_index(history, wanted.key.as_str()) {
            offer(index, wanted.values.iter().map(|value| Name::any(value)).collect());
        }
    }
    for tag in &clause.tags_all {
        offer(TAGS, vec![tag.clone()]);
    }
    offer(TAGS, clause.tags.clone());
    offer(TYPES, clause.types.clone());
    offer(CATEGORIES, clause.categories.clone());
    let categories = categories_of(&clause.stream_prefixes).unwrap_or_default();
    offer(CATEGORIES, categories.into_iter().map(Name::any).collect());
    least.map(|(_, topics)| topics)
}

fn metadata_index(history: &History, key: &str) -> Option<usize> {
    let index = history.metadata.iter().position(|index| index.key.as_str() == key)?;
    Some(METADATA + index)
}
