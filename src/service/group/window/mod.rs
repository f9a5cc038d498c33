//! What a group has looked at and not settled: which event goes to whom, and when.
//!
//! ```text
//!            ┌────────────── again, at once or after a while ──────────────┐
//!            ▼                                                             │
//! offer ─► waiting ─► in flight ─► settled: handled, skipped, or gone      │
//!            │           ├────────── failed, timed out, its consumer gone ─┤
//!            │           └─► to park ─► parked ─► replayed ────────────────┘
//!            └─ of a key that is held back ─► parked (held)
//! ```
//!
//! It reads no clock and no log, and writes nothing: time is handed in, what is to be written is taken
//! out. An event that is to be parked stays here until that is written, so that a crash forgets none.
//!
//! # Invariants
//! 1. Everything that was offered is here, is settled, or is on the list of parked events.
//! 2. Of a key at most one event is in flight, and no event of a key that is open goes before an earlier
//!    one that is open too.
//! 3. `position` is before the first event that is open: who begins there misses nothing.

mod checkpoint;
#[cfg(test)]
mod model;
mod parking;
mod seats;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use self::seats::Seat;
pub use self::{
    checkpoint::Checkpoint,
    parking::{Parked, ToPark},
    seats::SeatCounts,
};
use super::settings::Settings;
use crate::core::position::Position;

/// Names a consumer: later ones have greater ids.
pub type ConsumerId = u64;

/// Events with the same key are in order; without one, in none.
pub type Key = Option<u64>;

/// What becomes of events that a consumer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// They are handled, or count as if they were.
    Settled,
    /// They are to come again, after so long or as the settings say.
    Retry { after: Option<Duration>, reason: String },
    /// They are to be parked.
    Park { reason: String },
}

/// An event on its way to a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    pub position: Position,
    /// How often it has been delivered, this time counted.
    pub deliveries: u32,
}

/// An event that is not settled.
struct Event {
    key: Key,
    state: State,
    deliveries: u32,
    /// How often it has failed since it was offered or asked for again.
    failures: u32,
    /// It is on the list of parked events, and was asked for again.
    replayed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// For a consumer, or for an earlier one of its key.
    Waiting,
    /// For its time.
    Delayed(Instant),
    InFlight {
        consumer: ConsumerId,
        deadline: Instant,
        /// The consumer has it; not: it is on its way there.
        taken: bool,
    },
    /// It is to be parked: that is being written, or there is no room.
    ToPark,
}

/// The events of one key.
#[derive(Default)]
struct KeyState {
    /// Those that are waiting, delayed, in flight, or to be parked because they failed: the first one is next.
    queue: BTreeSet<Position>,
    /// The one that is in flight: nothing else goes.
    busy: Option<Position>,
    /// The one that is among the ready ones.
    ready: Option<Position>,
    /// Where events are held back: those that are parked and were not asked for again.
    parked: BTreeSet<Position>,
    /// Those that are to be parked because they are held back, and how many of them are being written.
    holding: BTreeSet<Position>,
    writing: usize,
}

impl KeyState {
    /// Whether what comes is held back.
    fn is_blocked(&self) -> bool {
        !self.parked.is_empty() || !self.holding.is_empty()
    }

    fn is_nothing(&self) -> bool {
        self.queue.is_empty() && self.busy.is_none() && !self.is_blocked()
    }
}

/// Numbers to look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events that consumers have or that are on their way to them.
    pub in_flight: usize,
    /// Events that wait for their time.
    pub delayed: usize,
    pub parked: usize,
    pub consumers: usize,
    pub delivered: u64,
    pub redelivered: u64,
    pub settled: u64,
}

/// The window of one group.
pub struct Window {
    settings: Settings,
    /// Everything up to here was looked at.
    read_to: Position,
    /// The last position that was offered, or that the group began or was moved to.
    last: Position,
    /// The greatest position that was settled.
    settled_to: Position,
    events: BTreeMap<Position, Event>,
    /// Those of them that were not parked before: they hold the group's position.
    open: BTreeSet<Position>,
    keys: HashMap<u64, KeyState, foldhash::fast::RandomState>,
    ready: BTreeSet<Position>,
    timers: BTreeSet<(Instant, Position)>,
    parked: BTreeMap<Position, Parked>,
    /// To be parked, and not taken out yet.
    to_park: VecDeque<ToPark>,
    /// Being written.
    parking: usize,
    /// To be parked, for which there is no room.
    no_room: VecDeque<ToPark>,
    /// Parked ones that were settled, which is to be written.
    unparked: Vec<Position>,
    seats: BTreeMap<ConsumerId, Seat>,
    next_consumer: ConsumerId,
    /// Who was last in turn.
    turn: ConsumerId,
    /// Something was settled that no checkpoint tells of.
    dirty: bool,
    counts: Counts,
    last_error: Option<Arc<str>>,
    /// Tells whoever ticks and writes that there is something new to do.
    news: Arc<Notify>,
}

impl Window {
    /// The window of a group that begins after `position`.
    pub fn new(settings: Settings, position: Position) -> Self {
        Self {
            settings,
            read_to: position,
            last: position,
            settled_to: position,
            events: BTreeMap::new(),
            open: BTreeSet::new(),
            keys: HashMap::default(),
            ready: BTreeSet::new(),
            timers: BTreeSet::new(),
            parked: BTreeMap::new(),
            to_park: VecDeque::new(),
            parking: 0,
            no_room: VecDeque::new(),
            unparked: Vec::new(),
            seats: BTreeMap::new(),
            next_consumer: 1,
            turn: 0,
            dirty: false,
            counts: Counts::default(),
            last_error: None,
            news: Arc::new(Notify::new()),
        }
    }

    /// Told when there is something new to tick or to write.
    pub fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    /// Every event up to here that matches is settled, or parked.
    pub fn position(&self) -> Position {
        self.open.first().map_or(self.read_to, |first| first.previous())
    }

    /// Everything up to here was looked at: what is offered next lies behind.
    pub fn read_to(&self) -> Position {
        self.read_to
    }

    /// The last event that was looked at and matches; where the group began or was moved to if there is none since.
    pub fn last(&self) -> Position {
        self.last
    }

    /// How many events that were looked at are neither settled nor parked.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// So many more events may be offered; none while nobody takes any.
    pub fn room(&self) -> usize {
        if self.seats.is_empty() { 0 } else { self.room_left() }
    }

    /// So many more events may be offered, whether somebody takes them or not.
    pub fn room_left(&self) -> usize {
        if self.is_stopped() {
            return 0;
        }
        self.settings.window_max.saturating_sub(self.open.len())
    }

    /// Whether nothing is delivered because no more can be parked.
    pub fn is_stopped(&self) -> bool {
        !self.no_room.is_empty()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn counts(&self) -> Counts {
        let flights = self.seats.values().map(|seat| seat.in_flight.len()).sum();
        let flying = self.timers.len() - flights;
        Counts {
            in_flight: flights,
            delayed: flying,
            parked: self.parked.len(),
            consumers: self.seats.len(),
            ..self.counts
        }
    }

    /// What went wrong last since this was asked.
    pub fn take_error(&mut self) -> Option<Arc<str>> {
        self.last_error.take()
    }

    /// Takes events that match, rising, behind what was looked at; now everything up to `read_to` was.
    pub fn offer(
        &mut self,
        events: impl IntoIterator<Item = (Position, Key)>,
        read_to: Position,
        now: Instant,
    ) {
        for (position, key) in events {
            self.last = position;
            self.offer_one(position, key, 0);
        }
        self.read_to = self.read_to.max(read_to);
        self.assign(now);
    }

    fn offer_one(&mut self, position: Position, key: Key, deliveries: u32) {
        // Of a group that was moved back, or crashed between two notes.
        if self.parked.contains_key(&position) || self.events.contains_key(&position) {
            return;
        }
        self.open.insert(position);
        let state = key.and_then(|key| self.keys.get_mut(&key));
        if let Some(state) = state.filter(|state| state.is_blocked()) {
            state.holding.insert(position);
            let event =
                Event { key, state: State::ToPark, deliveries, failures: 0, replayed: false };
            self.events.insert(position, event);
            self.park_when_there_is_room(position, "held back".into(), true);
        } else {
            self.enter(position, key, deliveries, false);
        }
    }

    fn enter(&mut self, position: Position, key: Key, deliveries: u32, replayed: bool) {
        let state = State::Waiting;
        self.events.insert(position, Event { key, state, deliveries, failures: 0, replayed });
        if let Some(key) = key {
            self.keys.entry(key).or_default().queue.insert(position);
        }
        self.refresh(key, position);
    }

    /// Finds out which event of the key can go now; of no key, whether `position` can.
    fn refresh(&mut self, key: Key, position: Position) {
        let waits = |position: &Position| {
            self.events.get(position).is_some_and(|event| event.state == State::Waiting)
        };
        let Some(key) = key else {
            if waits(&position) {
                self.ready.insert(position);
            } else {
                self.ready.remove(&position);
            }
            return;
        };
        let Some(state) = self.keys.get_mut(&key) else { return };
        let first = if state.busy.is_some() { None } else { state.queue.first().copied() };
        let next = first.filter(waits);
        if next != state.ready {
            if let Some(before) = state.ready {
                self.ready.remove(&before);
            }
            self.ready.extend(next);
            state.ready = next;
        }
        if state.is_nothing() {
            self.keys.remove(&key);
        }
    }

    /// What became of events, as a consumer says. Those that it does not have any more are given back, but
    /// for those that nobody has and that only wait to come again: these are settled, if it says so.
    pub fn settle(
        &mut self,
        consumer: ConsumerId,
        positions: impl IntoIterator<Item = Position>,
        outcome: &Outcome,
        now: Instant,
    ) -> Vec<Position> {
        let mut not_in_flight = Vec::new();
        for position in positions {
            let Some(event) = self.events.get(&position) else {
                not_in_flight.push(position);
                continue;
            };
            let late = event.deliveries > 0 && *outcome == Outcome::Settled;
            match event.state {
                State::InFlight { consumer: has, taken: true, .. } if has == consumer => {
                    self.land(position);
                    match outcome {
                        Outcome::Settled => {
                            if let Some(seat) = self.seats.get_mut(&consumer) {
                                seat.counts.settled += 1;
                            }
                            self.finish(position);
                        }
                        Outcome::Retry { after, reason } => {
                            self.fail(position, reason, *after, false, now);
                        }
                        Outcome::Park { reason } => self.park(position, reason.as_str().into()),
                    }
                }
                State::Waiting | State::Delayed(_) if late => self.finish(position),
                _ => not_in_flight.push(position),
            }
        }
        self.assign(now);
        not_in_flight
    }

    /// An event that is not there to be delivered: hidden, or removed.
    pub fn gone(&mut self, position: Position, now: Instant) {
        if self.events.contains_key(&position) {
            self.finish(position);
            self.assign(now);
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        while let Some((due, position)) = self.timers.first().copied()
            && due <= now
        {
            let Some(event) = self.events.get_mut(&position) else {
                unreachable!("a timer is taken back with its event");
            };
            match event.state {
                State::InFlight { consumer, .. } => {
                    let taken = self.land(position);
                    let seat = self.seats.get_mut(&consumer).expect("it has events in flight");
                    if taken {
                        // Who asks at this moment is alive.
                        seat.paused = seat.wanted.is_none_or(|wanted| wanted == 0);
                        self.fail(position, "its consumer took too long", None, true, now);
                    } else {
                        seat.stalled = true;
                        self.wait(position);
                    }
                }
                State::Delayed(_) => {
                    self.timers.pop_first();
                    event.state = State::Waiting;
                    let key = event.key;
                    self.refresh(key, position);
                }
                State::Waiting | State::ToPark => unreachable!("they wait for no time"),
            }
        }
        self.assign(now);
    }

    /// When [`Window::tick`] has something to do.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Takes the event from whoever has it. Whether it had got there.
    fn land(&mut self, position: Position) -> bool {
        let event = self.events.get_mut(&position).expect("it is here");
        let (key, state) = (event.key, event.state);
        event.state = State::Waiting;
        let got = match state {
            State::InFlight { consumer, deadline, taken } => {
                self.timers.remove(&(deadline, position));
                if let Some(seat) = self.seats.get_mut(&consumer) {
                    seat.forget(position);
                }
                taken
            }
            State::Delayed(due) => {
                self.timers.remove(&(due, position));
                false
            }
            State::Waiting | State::ToPark => false,
        };
        if let Some(state) = key.and_then(|key| self.keys.get_mut(&key))
            && state.busy == Some(position)
        {
            state.busy = None;
        }
        got
    }

    /// What nobody has comes again at once.
    fn wait(&mut self, position: Position) {
        self.refresh(self.events[&position].key, position);
    }

    /// It comes again, after a while or at once, or is parked if it had its last try.
    fn fail(
        &mut self,
        position: Position,
        reason: &str,
        after: Option<Duration>,
        at_once: bool,
        now: Instant,
    ) {
        let event = self.events.get_mut(&position).expect("it is here");
        event.failures += 1;
        if event.failures > self.settings.retries_max {
            return self.park(position, reason.into());
        }
        let delay = match after {
            Some(after) => after,
            None if at_once => Duration::ZERO,
            None => self.settings.delay(event.failures),
        };
        if delay.is_zero() {
            return self.wait(position);
        }
        let due = now + delay;
        event.state = State::Delayed(due);
        let key = event.key;
        self.timers.insert((due, position));
        self.refresh(key, position);
    }

    /// It is settled, or was never to be.
    fn finish(&mut self, position: Position) {
        self.land(position);
        let event = self.remove(position);
        self.counts.settled += 1;
        if event.replayed {
            self.unpark(position);
        } else {
            self.settled_to = self.settled_to.max(position);
            self.dirty = true;
        }
    }

    /// Takes an event that nobody has out of the window.
    fn remove(&mut self, position: Position) -> Event {
        let event = self.events.remove(&position).expect("it is here");
        self.open.remove(&position);
        if let Some(state) = event.key.and_then(|key| self.keys.get_mut(&key)) {
            state.queue.remove(&position);
            state.holding.remove(&position);
        }
        self.refresh(event.key, position);
        event
    }

    /// Goes on after `position`, whatever was settled. Parked events stay as they are.
    pub fn move_to(&mut self, position: Position, now: Instant) {
        for open in std::mem::take(&mut self.open) {
            self.land(open);
            self.remove(open);
        }
        let events = &self.events;
        self.to_park.retain(|to_park| events.contains_key(&to_park.position));
        self.no_room.retain(|to_park| events.contains_key(&to_park.position));
        self.park_what_waits_for_room();
        (self.read_to, self.last, self.settled_to) = (position, position, position);
        self.dirty = true;
        self.assign(now);
    }

    /// Counts an open event as handled. Whether it was open.
    pub fn skip(&mut self, position: Position, now: Instant) -> bool {
        if !self.open.contains(&position) {
            return false;
        }
        self.to_park.retain(|to_park| to_park.position != position);
        self.no_room.retain(|to_park| to_park.position != position);
        self.finish(position);
        self.park_what_waits_for_room();
        self.assign(now);
        true
    }

    /// Works otherwise from now on. Where keys mean something else, `key` tells the new ones, and what is in
    /// flight comes again. Nothing is being written.
    pub fn change(&mut self, settings: Settings, key: impl Fn(Position) -> Key, now: Instant) {
        let before = std::mem::replace(&mut self.settings, settings);
        if before.strategy != settings.strategy || before.holds_back() != settings.holds_back() {
            let open: Vec<_> =
                self.open.iter().map(|open| (*open, self.events[open].deliveries)).collect();
            for position in self.events.keys().copied().collect::<Vec<_>>() {
                self.land(position);
                self.remove(position);
            }
            self.to_park.clear();
            self.no_room.clear();
            self.keys.clear();
            for (position, mut parked) in std::mem::take(&mut self.parked) {
                parked.key = key(position);
                self.restore_parked(position, parked);
            }
            for (position, deliveries) in open {
                self.offer_one(position, key(position), deliveries);
            }
        }
        self.park_what_waits_for_room();
        self.assign(now);
    }
}
