//! Who takes events, and who gets the next one.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use tokio::{sync::Notify, time::Instant};

use super::{ConsumerId, Delivery, State, Window};
use crate::{core::position::Position, service::group::settings::Strategy};

/// Somebody who takes events.
pub(super) struct Seat {
    pub(super) in_flight_max: usize,
    pub(super) in_flight: BTreeSet<Position>,
    /// Those that are on their way.
    queue: VecDeque<Position>,
    /// Of one that asks each time: so many more.
    pub(super) wanted: Option<usize>,
    /// It let an event time out, and has said nothing since.
    pub(super) paused: bool,
    /// It let events time out that it had not even taken, and has taken none since.
    pub(super) stalled: bool,
    wake: Arc<Notify>,
    pub(super) counts: SeatCounts,
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
    pub(super) fn room(&self) -> bool {
        !self.paused
            && !self.stalled
            && self.in_flight.len() < self.in_flight_max
            && self.wanted.is_none_or(|wanted| self.queue.len() < wanted)
    }

    pub(super) fn forget(&mut self, position: Position) {
        self.in_flight.remove(&position);
        self.queue.retain(|queued| *queued != position);
    }
}

impl Window {
    /// Gives what is ready to who has room.
    pub(super) fn assign(&mut self, now: Instant) {
        while let Some(position) = self.next_ready()
            && let Some(consumer) = self.next_seat()
        {
            self.ready.remove(&position);
            let seat = self.seats.get_mut(&consumer).expect("it was found");
            seat.in_flight.insert(position);
            seat.queue.push_back(position);
            seat.wake.notify_one();
            self.turn = consumer;
            self.news.notify_one();
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

    /// The first one that can go. While no more can be parked, those that were parked can, so that there is room.
    fn next_ready(&self) -> Option<Position> {
        let stopped = self.is_stopped();
        let goes = |position: &&Position| !stopped || self.events[*position].replayed;
        self.ready.iter().find(goes).copied()
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

    /// Whether something is on its way to a consumer.
    pub fn has_next_for(&self, consumer: ConsumerId) -> bool {
        self.seats.get(&consumer).is_some_and(|seat| !seat.queue.is_empty())
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

    /// What a consumer has done.
    pub fn seat(&self, consumer: ConsumerId) -> Option<SeatCounts> {
        self.seats.get(&consumer).map(|seat| SeatCounts {
            in_flight: seat.in_flight.len(),
            in_flight_max: seat.in_flight_max,
            paused: seat.paused,
            ..seat.counts
        })
    }
}
