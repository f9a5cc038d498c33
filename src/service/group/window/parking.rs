//! Parked events: they do not wait in the window any more, hold nothing up but, if so set, their key, and can be
//! asked for again.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Key, State, Window};
use crate::core::{clock::Timestamp, position::Position};

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

impl Window {
    pub(super) fn restore_parked(&mut self, position: Position, mut parked: Parked) {
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

    /// It is to be parked: nothing else of its key goes until that is written.
    pub(super) fn park(&mut self, position: Position, reason: Arc<str>) {
        self.last_error = Some(format!("event {position} is parked: {reason}").into());
        let event = self.events.get_mut(&position).expect("it is here");
        event.state = State::ToPark;
        let key = event.key;
        self.refresh(key, position);
        self.park_when_there_is_room(position, reason, false);
    }

    pub(super) fn park_when_there_is_room(
        &mut self,
        position: Position,
        reason: Arc<str>,
        held: bool,
    ) {
        self.news.notify_one();
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

    pub(super) fn park_what_waits_for_room(&mut self) {
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
        let taken: Vec<_> = self.to_park.drain(..count).collect();
        for to_park in &taken {
            self.count_writing(to_park, 1);
        }
        taken
    }

    /// It could not be written.
    pub fn not_parked(&mut self, to_park: Vec<ToPark>) {
        self.parking -= to_park.len();
        for to_park in to_park.into_iter().rev() {
            let key = self.count_writing(&to_park, -1);
            self.to_park.push_front(to_park);
            if let Some(key) = key {
                self.release(key);
            }
        }
    }

    /// It is written.
    pub fn parked(&mut self, written: Vec<ToPark>, at: Timestamp, now: Instant) {
        for to_park in written {
            self.parking -= 1;
            self.count_writing(&to_park, -1);
            let ToPark { position, reason, deliveries, held } = to_park;
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
                self.release(key);
            }
        }
        self.assign(now);
    }

    /// What waits of a key, an event of which was parked, is parked, too.
    fn hold_back(&mut self, key: u64) {
        let waiting: Vec<_> = self.keys[&key].queue.iter().copied().collect();
        for position in waiting {
            let state = self.events[&position].state;
            if matches!(state, State::InFlight { .. } | State::ToPark) {
                continue;
            }
            self.land(position);
            if self.events[&position].replayed {
                // It is on the list already.
                let event = self.remove(position);
                self.keys.entry(key).or_default().parked.insert(position);
                let parked = self.parked.get_mut(&position).expect("it was replayed");
                (parked.held, parked.replaying) = (true, false);
                parked.deliveries = event.deliveries;
            } else {
                let state = self.keys.get_mut(&key).expect("it has a parked event");
                state.queue.remove(&position);
                state.holding.insert(position);
                self.events.get_mut(&position).expect("it waits").state = State::ToPark;
                self.park_when_there_is_room(position, "held back".into(), true);
            }
        }
        self.refresh(Some(key), Position::ZERO);
    }

    /// Takes it off the list of parked events, and lets those come that waited for it.
    pub(super) fn unpark(&mut self, position: Position) {
        let Some(parked) = self.parked.remove(&position) else { return };
        self.unparked.push(position);
        self.news.notify_one();
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
        self.release_what_is_not_written(key);
        self.refresh(Some(key), Position::ZERO);
    }

    /// Those that were to be held back, and need not be any more.
    fn release_what_is_not_written(&mut self, key: u64) {
        let Some(state) = self.keys.get_mut(&key) else { return };
        // Those that are being written come first, and then these.
        if !state.parked.is_empty() || state.writing > 0 || state.holding.is_empty() {
            return;
        }
        let holding = std::mem::take(&mut state.holding);
        state.queue.extend(&holding);
        self.to_park.retain(|to_park| !holding.contains(&to_park.position));
        self.no_room.retain(|to_park| !holding.contains(&to_park.position));
        for position in &holding {
            self.events.get_mut(position).expect("it waits").state = State::Waiting;
        }
        self.park_what_waits_for_room();
    }

    /// Counts, of those that are held back, how many are being written. Its key.
    fn count_writing(&mut self, to_park: &ToPark, by: isize) -> Option<u64> {
        let key = self.events.get(&to_park.position)?.key.filter(|_| to_park.held)?;
        let state = self.keys.get_mut(&key)?;
        state.writing = state.writing.checked_add_signed(by).expect("counted before");
        Some(key)
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
}
