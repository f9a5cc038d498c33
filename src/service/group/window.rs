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

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use tokio::{sync::Notify, time::Instant};

use super::settings::{Settings, Strategy};
use crate::core::{clock::Timestamp, position::Position};

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
    Retry { after: Option<std::time::Duration>, reason: String },
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

/// An event that does not wait in the window any more, and can be asked for again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    pub reason: Arc<str>,
    pub deliveries: u32,
    pub at: Timestamp,
    /// It did not fail: it waits for one of its key that did.
    pub held: bool,
    /// It was asked for again, and is not settled yet.
    pub replaying: bool,
    pub key: Key,
}

/// An event that is to be parked, once that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToPark {
    pub position: Position,
    pub reason: Arc<str>,
    pub deliveries: u32,
    pub held: bool,
}

/// What of a window survives a crash: the rest follows from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Every event up to here that matches is settled or parked.
    pub position: Position,
    /// So is every one up to here, but for those that are named: with how often they were delivered.
    pub settled_to: Position,
    pub unsettled: Vec<(Position, u32)>,
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
    /// Those that are waiting, delayed or in flight.
    queue: BTreeSet<Position>,
    /// The one that is in flight or to be parked: nothing else goes.
    busy: Option<Position>,
    /// The one that is among the ready ones.
    ready: Option<Position>,
    /// Where events are held back: those that are parked and were not asked for again.
    parked: BTreeSet<Position>,
}

/// Somebody who takes events.
struct Seat {
    in_flight_max: usize,
    in_flight: BTreeSet<Position>,
    /// Those that are on their way.
    queue: VecDeque<Position>,
    /// Of one that asks each time: so many more.
    wanted: Option<usize>,
    /// It let an event time out, and has said nothing since.
    paused: bool,
    /// It let events time out that it had not even taken, and has taken none since.
    stalled: bool,
    wake: Arc<Notify>,
    counts: SeatCounts,
}

/// What a consumer has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeatCounts {
    pub in_flight: usize,
    pub in_flight_max: usize,
    pub delivered: u64,
    pub settled: u64,
    pub paused: bool,
}

impl Seat {
    fn room(&self) -> bool {
        !self.paused
            && !self.stalled
            && self.in_flight.len() < self.in_flight_max
            && self.wanted.is_none_or(|wanted| self.queue.len() < wanted)
    }

    fn forget(&mut self, position: Position) {
        self.in_flight.remove(&position);
        self.queue.retain(|queued| *queued != position);
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
}

impl Window {
    /// The window of a group that begins after `position`.
    pub fn new(settings: Settings, position: Position) -> Self {
        Self {
            settings,
            read_to: position,
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
        }
    }

    /// The window that was left at a checkpoint with these parked events: `unsettled` are the checkpoint's, with
    /// their keys, without those that are gone.
    pub fn restore(
        settings: Settings,
        checkpoint: &Checkpoint,
        unsettled: Vec<(Position, Key, u32)>,
        parked: BTreeMap<Position, Parked>,
        now: Instant,
    ) -> Self {
        let mut window = Self::new(settings, checkpoint.settled_to.max(checkpoint.position));
        for (position, parked) in parked {
            window.restore_parked(position, parked);
        }
        for (position, key, deliveries) in unsettled {
            window.offer_one(position, key, deliveries);
        }
        window.assign(now);
        window
    }

    fn restore_parked(&mut self, position: Position, mut parked: Parked) {
        let (key, replaying) = (parked.key, parked.replaying);
        let holds = self.settings.holds_back();
        if holds && let Some(key) = key {
            let blocked = self.keys.get(&key).is_some_and(|key| !key.parked.is_empty());
            if blocked {
                // It was asked for, and waits for an earlier one.
                parked.held |= replaying;
                parked.replaying = false;
            } else {
                parked.replaying |= parked.held;
            }
            if !parked.replaying {
                self.keys.entry(key).or_default().parked.insert(position);
            }
        } else {
            parked.replaying |= parked.held;
        }
        let (replaying, deliveries) = (parked.replaying, parked.deliveries);
        self.parked.insert(position, parked);
        if replaying {
            self.enter(position, key, deliveries, true);
        }
    }

    /// Every event up to here that matches is settled, or parked.
    pub fn position(&self) -> Position {
        self.open.first().map_or(self.read_to, |first| first.previous())
    }

    /// Everything up to here was looked at: what is offered next lies behind.
    pub fn read_to(&self) -> Position {
        self.read_to
    }

    /// How many events that were looked at are neither settled nor parked.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// So many more events may be offered; none while nobody takes any.
    pub fn room(&self) -> usize {
        if self.seats.is_empty() || self.is_stopped() {
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
        let blocked = self.settings.holds_back()
            && key.and_then(|key| self.keys.get(&key)).is_some_and(|key| !key.parked.is_empty());
        if blocked {
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
        if state.queue.is_empty() && state.busy.is_none() && state.parked.is_empty() {
            self.keys.remove(&key);
        }
    }

    /// Gives what is ready to who has room.
    fn assign(&mut self, now: Instant) {
        while !self.is_stopped()
            && let Some(position) = self.ready.first().copied()
            && let Some(consumer) = self.next_seat()
        {
            self.ready.remove(&position);
            let seat = self.seats.get_mut(&consumer).expect("it was found");
            seat.in_flight.insert(position);
            seat.queue.push_back(position);
            seat.wake.notify_one();
            self.turn = consumer;
            let deadline = now + self.settings.message_timeout;
            self.timers.insert((deadline, position));
            let event = self.events.get_mut(&position).expect("what is ready is here");
            event.state = State::InFlight { consumer, deadline, taken: false };
            if let Some(key) = event.key {
                let key = self.keys.get_mut(&key).expect("it has an event");
                (key.busy, key.ready) = (Some(position), None);
            }
        }
    }

    fn next_seat(&self) -> Option<ConsumerId> {
        let has_room = |seat: &(&ConsumerId, &Seat)| seat.1.room();
        if self.settings.strategy == Strategy::DispatchToOne {
            let mut seats = self.seats.iter();
            let first = seats.find(|(_, seat)| !seat.paused && !seat.stalled)?;
            return Some(first).filter(has_room).map(|(id, _)| *id);
        }
        let after = self.seats.range(self.turn + 1..).find(has_room);
        after.or_else(|| self.seats.range(..=self.turn).find(has_room)).map(|(id, _)| *id)
    }

    /// Somebody begins to take events, at most so many at once: as they come, or when it asks.
    pub fn join(
        &mut self,
        in_flight_max: usize,
        asks: bool,
        wake: Arc<Notify>,
        now: Instant,
    ) -> ConsumerId {
        let id = self.next_consumer;
        self.next_consumer += 1;
        let seat = Seat {
            in_flight_max,
            in_flight: BTreeSet::new(),
            queue: VecDeque::new(),
            wanted: asks.then_some(0),
            paused: false,
            stalled: false,
            wake,
            counts: SeatCounts::default(),
        };
        self.seats.insert(id, seat);
        self.assign(now);
        id
    }

    /// Who asks each time wants so many now; what it does not take goes back.
    pub fn want(&mut self, consumer: ConsumerId, wanted: usize, now: Instant) {
        let Some(seat) = self.seats.get_mut(&consumer) else { return };
        seat.wanted = Some(wanted);
        (seat.paused, seat.stalled) = (false, false);
        let queued: Vec<_> =
            if wanted == 0 { seat.queue.iter().copied().collect() } else { vec![] };
        for position in queued {
            self.land(position);
            self.wait(position);
        }
        self.assign(now);
    }

    /// Whether the consumer has nothing and waits for nothing.
    pub fn is_idle(&self, consumer: ConsumerId) -> bool {
        self.seats.get(&consumer).is_none_or(|seat| seat.in_flight.is_empty())
    }

    /// It takes no more: what it has goes to others at once.
    pub fn leave(&mut self, consumer: ConsumerId, now: Instant) {
        let Some(seat) = self.seats.get(&consumer) else { return };
        for position in seat.in_flight.clone() {
            if self.land(position) {
                self.fail(position, "its consumer's connection ended", None, true, now);
            } else {
                self.wait(position);
            }
        }
        self.seats.remove(&consumer);
        self.assign(now);
    }

    /// What is on its way to a consumer and comes next.
    pub fn next_for(&mut self, consumer: ConsumerId, now: Instant) -> Option<Position> {
        let seat = self.seats.get_mut(&consumer)?;
        if std::mem::take(&mut seat.stalled) {
            self.assign(now);
        }
        self.seats[&consumer].queue.front().copied()
    }

    /// The consumer has it now.
    pub fn take(&mut self, consumer: ConsumerId) -> Option<Delivery> {
        let seat = self.seats.get_mut(&consumer)?;
        let position = seat.queue.pop_front()?;
        seat.counts.delivered += 1;
        let event = self.events.get_mut(&position).expect("what is in flight is here");
        let State::InFlight { taken, .. } = &mut event.state else {
            unreachable!("what is on its way is in flight")
        };
        *taken = true;
        event.deliveries += 1;
        self.counts.delivered += 1;
        self.counts.redelivered += u64::from(event.deliveries > 1);
        Some(Delivery { position, deliveries: event.deliveries })
    }

    /// It is alive.
    pub fn hear(&mut self, consumer: ConsumerId, now: Instant) {
        if let Some(seat) = self.seats.get_mut(&consumer)
            && std::mem::take(&mut seat.paused)
        {
            self.assign(now);
        }
    }

    /// What a consumer has taken, up to `to`.
    pub fn taken_up_to(&self, consumer: ConsumerId, to: Position) -> Vec<Position> {
        let Some(seat) = self.seats.get(&consumer) else { return Vec::new() };
        let taken = |position: &&Position| {
            matches!(self.events[*position].state, State::InFlight { taken: true, .. })
        };
        seat.in_flight.range(..=to).filter(taken).copied().collect()
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
            self.land(position);
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
                        seat.paused = true;
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

    /// It comes again at once.
    fn wait(&mut self, position: Position) {
        let event = self.events.get_mut(&position).expect("it is here");
        event.state = State::Waiting;
        let key = event.key;
        self.refresh(key, position);
    }

    /// It comes again, after a while or at once, or is parked if it had its last try.
    fn fail(
        &mut self,
        position: Position,
        reason: &str,
        after: Option<std::time::Duration>,
        at_once: bool,
        now: Instant,
    ) {
        let event = self.events.get_mut(&position).expect("it is here");
        event.failures += 1;
        if event.failures > self.settings.retries_max {
            let reason = if reason.is_empty() { "it failed" } else { reason };
            let text = format!("{reason} (after {} deliveries)", event.deliveries);
            return self.park(position, text.into());
        }
        let delay = match after {
            Some(after) => after,
            None if at_once => std::time::Duration::ZERO,
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
            if state.busy == Some(position) {
                state.busy = None;
            }
        }
        self.refresh(event.key, position);
        event
    }

    /// It is to be parked: nothing else of its key goes until that is written.
    fn park(&mut self, position: Position, reason: Arc<str>) {
        self.last_error = Some(format!("event {position} is parked: {reason}").into());
        let event = self.events.get_mut(&position).expect("it is here");
        event.state = State::ToPark;
        let key = event.key;
        if let Some(state) = key.and_then(|key| self.keys.get_mut(&key)) {
            state.busy = Some(position);
        }
        self.refresh(key, position);
        self.park_when_there_is_room(position, reason, false);
    }

    fn park_when_there_is_room(&mut self, position: Position, reason: Arc<str>, held: bool) {
        let event = &self.events[&position];
        let to_park = ToPark { position, reason, deliveries: event.deliveries, held };
        // One that was parked before has its place.
        let taken = self.parked.len() + self.to_park.len() + self.parking;
        if event.replayed || (self.no_room.is_empty() && taken < self.settings.parked_max) {
            self.to_park.push_back(to_park);
        } else {
            let max = self.settings.parked_max;
            let stopped =
                format!("the group stops: {max} events are parked, and one more is to be");
            self.last_error = Some(stopped.into());
            self.no_room.push_back(to_park);
        }
    }

    fn park_what_waits_for_room(&mut self) {
        while self.parked.len() + self.to_park.len() + self.parking < self.settings.parked_max
            && let Some(to_park) = self.no_room.pop_front()
        {
            self.to_park.push_back(to_park);
        }
    }

    /// What is to be parked; [`Window::parked`] or [`Window::not_parked`] says what became of it.
    pub fn take_to_park(&mut self, max: usize) -> Vec<ToPark> {
        let count = max.min(self.to_park.len());
        self.parking += count;
        self.to_park.drain(..count).collect()
    }

    /// It could not be written.
    pub fn not_parked(&mut self, to_park: Vec<ToPark>) {
        self.parking -= to_park.len();
        for to_park in to_park.into_iter().rev() {
            self.to_park.push_front(to_park);
        }
    }

    /// It is written.
    pub fn parked(&mut self, written: Vec<ToPark>, at: Timestamp, now: Instant) {
        self.parking -= written.len();
        for ToPark { position, reason, deliveries, held } in written {
            // Dropped meanwhile, or the group was moved.
            if !self.events.get(&position).is_some_and(|event| event.state == State::ToPark) {
                continue;
            }
            let event = self.remove(position);
            if !event.replayed {
                self.settled_to = self.settled_to.max(position);
                self.dirty = true;
            }
            let key = event.key;
            let parked = Parked { reason, deliveries, at, held, replaying: false, key };
            self.parked.insert(position, parked);
            if let Some(key) = key
                && self.settings.holds_back()
            {
                self.keys.entry(key).or_default().parked.insert(position);
                self.hold_back(key);
            }
        }
        self.assign(now);
    }

    /// What waits of a key, an event of which was parked, is parked, too.
    fn hold_back(&mut self, key: u64) {
        let waiting: Vec<_> = self.keys[&key].queue.iter().copied().collect();
        for position in waiting {
            if self.keys[&key].busy == Some(position) {
                continue;
            }
            self.land(position);
            if self.events[&position].replayed {
                // It is on the list already.
                self.remove(position);
                self.keys.entry(key).or_default().parked.insert(position);
                let parked = self.parked.get_mut(&position).expect("it was replayed");
                (parked.held, parked.replaying) = (true, false);
            } else {
                let state = self.keys.get_mut(&key).expect("it has a parked event");
                state.queue.remove(&position);
                self.events.get_mut(&position).expect("it waits").state = State::ToPark;
                self.park_when_there_is_room(position, "held back".into(), true);
            }
        }
        self.refresh(Some(key), Position::ZERO);
    }

    /// Takes it off the list of parked events, and lets those come that waited for it.
    fn unpark(&mut self, position: Position) {
        let Some(parked) = self.parked.remove(&position) else { return };
        self.unparked.push(position);
        self.park_what_waits_for_room();
        if let Some(key) = parked.key {
            if let Some(state) = self.keys.get_mut(&key) {
                state.parked.remove(&position);
            }
            self.release(key);
        }
    }

    /// Those that are held back come, up to the first one that failed.
    fn release(&mut self, key: u64) {
        while let Some(first) = self.keys.get(&key).and_then(|state| state.parked.first().copied())
            && self.parked[&first].held
        {
            self.replay_one(first);
        }
        self.refresh(Some(key), Position::ZERO);
    }

    fn replay_one(&mut self, position: Position) {
        let parked = self.parked.get_mut(&position).expect("it is parked");
        parked.replaying = true;
        let (key, deliveries) = (parked.key, parked.deliveries);
        if let Some(state) = key.and_then(|key| self.keys.get_mut(&key)) {
            state.parked.remove(&position);
        }
        self.enter(position, key, deliveries, true);
    }

    /// The parked events, in their order.
    pub fn list_parked(&self, after: Position) -> impl Iterator<Item = (Position, &Parked)> {
        self.parked.range(after.next()..).map(|(position, parked)| (*position, parked))
    }

    pub fn parked_count(&self) -> usize {
        self.parked.len()
    }

    /// Whether the event is parked, and was not asked for again.
    pub fn is_parked(&self, position: Position) -> bool {
        self.parked.get(&position).is_some_and(|parked| !parked.replaying)
    }

    /// Delivers parked events again. How many come; others wait for earlier ones of their keys.
    pub fn replay(&mut self, positions: &[Position], now: Instant) -> usize {
        let mut count = 0;
        for position in positions {
            if !self.is_parked(*position) {
                continue;
            }
            let key = self.parked[position].key.filter(|_| self.settings.holds_back());
            let first = key.and_then(|key| self.keys.get(&key)).and_then(|it| it.parked.first());
            match first {
                Some(first) if first < position => {
                    self.parked.get_mut(position).expect("it is parked").held = true;
                }
                _ => {
                    count += 1;
                    self.replay_one(*position);
                    if let Some(key) = key {
                        self.release(key);
                    }
                }
            }
        }
        self.assign(now);
        count
    }

    /// Forgets parked events. How many.
    pub fn drop_parked(&mut self, positions: &[Position], now: Instant) -> usize {
        let mut count = 0;
        for position in positions {
            if self.parked.contains_key(position) {
                count += 1;
                if self.events.contains_key(position) {
                    self.land(*position);
                    self.remove(*position);
                    self.to_park.retain(|to_park| to_park.position != *position);
                }
                self.unpark(*position);
            }
        }
        self.assign(now);
        count
    }

    /// Parked events that were settled or dropped since this was asked.
    pub fn take_unparked(&mut self) -> Vec<Position> {
        std::mem::take(&mut self.unparked)
    }

    /// It could not be written.
    pub fn not_unparked(&mut self, positions: Vec<Position>) {
        self.unparked.extend(positions);
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
        (self.read_to, self.settled_to) = (position, position);
        self.dirty = true;
        self.assign(now);
    }

    /// Whether the event is open: offered, and neither settled nor parked.
    pub fn is_open(&self, position: Position) -> bool {
        self.open.contains(&position)
    }

    /// Counts an open event as handled. Whether it was open.
    pub fn skip(&mut self, position: Position, now: Instant) -> bool {
        if !self.is_open(position) {
            return false;
        }
        self.to_park.retain(|to_park| to_park.position != position);
        self.no_room.retain(|to_park| to_park.position != position);
        self.land(position);
        self.finish(position);
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

    /// What a consumer has done.
    pub fn seat(&self, consumer: ConsumerId) -> Option<SeatCounts> {
        self.seats.get(&consumer).map(|seat| SeatCounts {
            in_flight: seat.in_flight.len(),
            in_flight_max: seat.in_flight_max,
            paused: seat.paused,
            ..seat.counts
        })
    }

    /// Whether something was settled since the last checkpoint was taken.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// What is to be noted; from now on nothing was settled that it does not tell of.
    pub fn take_checkpoint(&mut self) -> Checkpoint {
        self.dirty = false;
        let settled_to = self.settled_to.max(self.position());
        let open = self.open.range(..=settled_to);
        let unsettled =
            open.map(|position| (*position, self.events[position].deliveries)).collect();
        Checkpoint { position: self.position(), settled_to, unsettled }
    }

    /// It could not be written.
    pub fn not_noted(&mut self) {
        self.dirty = true;
    }
}
