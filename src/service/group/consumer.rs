//! Who takes a group's events: through a stream, as they come, or by asking each time.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Group, GroupError, GroupService, Shared, State,
    driver::look_ahead,
    window::{ConsumerId, Delivery, Outcome, SeatCounts},
};
use crate::{
    core::{clock::Timestamp, name::Name, position::Position},
    service::{
        places::Place,
        scan::{BLOCK_SIZE_BYTES_MAX, Block},
        subscription::Caller,
    },
};

/// What is known of a consumer beside what the window knows.
#[derive(Debug, Clone)]
pub struct Member {
    pub caller: Caller,
    pub since: Timestamp,
}

/// A consumer, and what it has done.
#[derive(Debug, Clone)]
pub struct ConsumerFacts {
    pub id: ConsumerId,
    pub member: Member,
    pub counts: SeatCounts,
}

/// One that asks each time.
pub(super) struct Poller {
    id: ConsumerId,
    wake: Arc<Notify>,
    /// Held by the call that waits: one after the other.
    asking: Arc<tokio::sync::Mutex<()>>,
}

/// Events for a consumer.
#[derive(Debug)]
pub struct Delivered {
    /// In the order of their positions.
    pub block: Block,
    /// How often each has been delivered.
    pub deliveries: Vec<u32>,
}

/// What a consumer is told.
#[derive(Debug)]
pub enum Message {
    Events(Delivered),
    /// The connection is alive.
    Heartbeat(Timestamp),
}

/// Somebody who takes events as they come. When it is dropped, what it has goes to others.
pub struct Consumer {
    shared: Arc<Shared>,
    group: Arc<Group>,
    id: ConsumerId,
    in_flight_max: usize,
    message_timeout: Duration,
    wake: Arc<Notify>,
    heartbeat_interval: Duration,
    sent_at: Instant,
    /// Ends with it.
    gone: CancellationToken,
    _place: Place,
}

/// A consumer's way to say what became of events.
#[derive(Clone)]
pub struct Settler {
    shared: Arc<Shared>,
    group: Arc<Group>,
    id: ConsumerId,
    /// The consumer takes no more.
    pub gone: CancellationToken,
}

impl GroupService {
    /// Begins to take events of a group: at most `in_flight_max` at once, 0 for as many as the group gives.
    pub fn consume(
        &self,
        group: &Name,
        caller: Caller,
        in_flight_max: usize,
        heartbeat_interval: Duration,
    ) -> Result<Consumer, GroupError> {
        let group = self.group(group)?;
        let place = self.shared.places.take()?;
        let wake = Arc::new(Notify::new());
        let (id, in_flight_max, message_timeout) = {
            let mut state = group.state();
            let settings = *state.window.settings();
            let max = match in_flight_max {
                0 => settings.in_flight_max,
                wanted if wanted > settings.in_flight_max => {
                    let max = settings.in_flight_max;
                    return Err(GroupError::TooManyInFlight { wanted, max });
                }
                max => max,
            };
            let member = Member { caller, since: self.shared.now() };
            let id = state.join(&group, max, false, &wake, member)?;
            (id, max, settings.message_timeout)
        };
        group.changed.notify_one();
        Ok(Consumer {
            shared: Arc::clone(&self.shared),
            group,
            id,
            in_flight_max,
            message_timeout,
            wake,
            heartbeat_interval,
            sent_at: Instant::now(),
            gone: CancellationToken::new(),
            _place: place,
        })
    }

    /// Takes at most so many events of a group for the consumer of the caller's name, and waits so long for the
    /// first one. Until when they are to be settled.
    pub async fn poll(
        &self,
        group: &Name,
        caller: Caller,
        events_max: usize,
        wait_max: Duration,
    ) -> Result<(Delivered, Timestamp), GroupError> {
        let shared = &self.shared;
        let group = self.group(group)?;
        let begun = Instant::now();
        let asking = Asking::begin(shared, &group, caller).await?;
        let message_timeout = group.state().window.settings().message_timeout;
        group.state().window.want(asking.id, events_max, Instant::now());
        // Also who does not wait gets what is there, and nobody has looked while there was no consumer.
        while look_ahead(shared, &group, false) && !group.state().window.has_next_for(asking.id) {
            tokio::task::yield_now().await;
        }
        group.changed.notify_one();
        loop {
            let delivered = group.pack(shared, asking.id, events_max);
            let over = begun.elapsed() >= wait_max;
            if !delivered.deliveries.is_empty() || over {
                let micros = i64::try_from(message_timeout.as_micros()).unwrap_or(i64::MAX);
                let before = shared.clock.now_micros().saturating_add(micros);
                return Ok((delivered, Timestamp::from_micros(before)));
            }
            tokio::select! {
                () = asking.wake.notified() => {}
                () = tokio::time::sleep_until(begun + wait_max) => {}
                () = shared.stop.cancelled() => return Err(GroupError::ShuttingDown),
                () = group.ended.cancelled() => return Err(group.unknown()),
            }
        }
    }

    /// What became of events, as the consumer of that name says that polls. Those that it does not have any more.
    pub fn settle(
        &self,
        group: &Name,
        name: &str,
        settlements: &[Settlement],
    ) -> Result<Vec<Position>, GroupError> {
        let group = self.group(group)?;
        let id = group.state().pollers.get(name).map(|poller| poller.id);
        // Nobody has the id 0: what nobody has can still be settled late.
        let (shared, gone) = (Arc::clone(&self.shared), CancellationToken::new());
        let settler = Settler { shared, group, id: id.unwrap_or(0), gone };
        Ok(settlements.iter().flat_map(|it| settler.settle(it)).collect())
    }
}

/// A call that waits for events; what it does not take goes back.
struct Asking {
    group: Arc<Group>,
    id: ConsumerId,
    wake: Arc<Notify>,
    turn: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Asking {
    async fn begin(
        shared: &Shared,
        group: &Arc<Group>,
        caller: Caller,
    ) -> Result<Self, GroupError> {
        let name = caller.name.as_str();
        loop {
            let asking = {
                let mut state = group.state();
                if let Some(poller) = state.pollers.get(name) {
                    Arc::clone(&poller.asking)
                } else {
                    let wake = Arc::new(Notify::new());
                    let member = Member { caller: caller.clone(), since: shared.now() };
                    let max = state.window.settings().in_flight_max;
                    let id = state.join(group, max, true, &wake, member)?;
                    let asking = Arc::new(tokio::sync::Mutex::new(()));
                    state
                        .pollers
                        .insert(name.to_owned(), Poller { id, wake, asking: Arc::clone(&asking) });
                    asking
                }
            };
            let turn = asking.lock_owned().await;
            // Whoever had its turn before may have left nothing behind.
            if let Some(poller) = group.state().pollers.get(name) {
                let (id, wake) = (poller.id, Arc::clone(&poller.wake));
                return Ok(Self { group: Arc::clone(group), id, wake, turn: Some(turn) });
            }
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // Given back first: who still waits for it is not idle.
        self.turn = None;
        let mut state = self.group.state();
        state.window.want(self.id, 0, Instant::now());
        state.forget_idle_pollers();
    }
}

impl State {
    fn join(
        &mut self,
        group: &Group,
        in_flight_max: usize,
        asks: bool,
        wake: &Arc<Notify>,
        member: Member,
    ) -> Result<ConsumerId, GroupError> {
        if group.ended.is_cancelled() {
            return Err(group.unknown());
        }
        let limit = self.window.settings().consumers_max;
        if self.members.len() >= limit {
            return Err(GroupError::TooManyConsumers { group: group.name.clone(), limit });
        }
        let id = self.window.join(in_flight_max, asks, Arc::clone(wake), Instant::now());
        self.members.insert(id, member);
        Ok(id)
    }

    fn leave(&mut self, id: ConsumerId) {
        self.window.leave(id, Instant::now());
        self.members.remove(&id);
    }

    /// Those that ask each time have no connection that ends: they are there while they wait or have something.
    pub(super) fn forget_idle_pollers(&mut self) {
        let idle = |poller: &Poller| {
            self.window.is_idle(poller.id) && Arc::strong_count(&poller.asking) == 1
        };
        let gone: Vec<_> =
            self.pollers.iter().filter(|(_, it)| idle(it)).map(|it| it.0.clone()).collect();
        for name in gone {
            if let Some(poller) = self.pollers.remove(&name) {
                self.leave(poller.id);
            }
        }
    }

    /// The consumers, in the order in which they came.
    pub(super) fn consumers(&self) -> Vec<ConsumerFacts> {
        let facts = |(id, member): (&ConsumerId, &Member)| {
            let counts = self.window.seat(*id).unwrap_or_default();
            ConsumerFacts { id: *id, member: member.clone(), counts }
        };
        self.members.iter().map(facts).collect()
    }
}

impl Group {
    /// The next events for a consumer: as many as fit a message, or none.
    fn pack(&self, shared: &Shared, id: ConsumerId, events_max: usize) -> Delivered {
        let mut packed: Vec<(Delivery, Bytes)> = Vec::new();
        let (mut size, mut gone) = (0, false);
        let mut state = self.state();
        // Taken behind the lock: what it does not see is gone, and not just newer.
        let reader = shared.history.log.reader();
        let mut visibility = shared.history.visibility(&reader, &*shared.clock);
        let now = Instant::now();
        while packed.len() < events_max
            && let Some(position) = state.window.next_for(id, now)
        {
            let hidden = visibility.as_mut().is_some_and(|it| it.hides(position));
            let Some(record) = reader.record(position).filter(|_| !hidden) else {
                gone = true;
                state.window.gone(position, now);
                continue;
            };
            if !packed.is_empty() && size + record.len() > BLOCK_SIZE_BYTES_MAX {
                break;
            }
            size += record.len();
            let delivery = state.window.take(id).expect("there is a next one");
            packed.push((delivery, Bytes::copy_from_slice(&record)));
        }
        drop(state);
        if gone {
            self.changed.notify_one();
        }
        packed.sort_unstable_by_key(|(delivery, _)| delivery.position);
        let mut bytes = BytesMut::with_capacity(size);
        for (_, record) in &packed {
            bytes.extend_from_slice(record);
        }
        let deliveries: Vec<_> = packed.iter().map(|(delivery, _)| delivery.deliveries).collect();
        let events = deliveries.len() as u64;
        if events > 0 {
            self.state().sent.add(events);
        }
        Delivered { block: Block { bytes: bytes.freeze(), events }, deliveries }
    }
}

impl Consumer {
    /// Names it in the group.
    pub fn id(&self) -> ConsumerId {
        self.id
    }

    /// How many events it has in flight at once, at most.
    pub fn in_flight_max(&self) -> usize {
        self.in_flight_max
    }

    /// How long it may take to settle one.
    pub fn message_timeout(&self) -> Duration {
        self.message_timeout
    }

    /// Its way to say what became of events.
    pub fn settler(&self) -> Settler {
        let (shared, group) = (Arc::clone(&self.shared), Arc::clone(&self.group));
        Settler { shared, group, id: self.id, gone: self.gone.clone() }
    }

    /// The next message; it waits for it as long as it takes. An error ends it.
    pub async fn next(&mut self) -> Result<Message, GroupError> {
        loop {
            if self.group.ended.is_cancelled() {
                return Err(self.group.unknown());
            }
            if self.shared.stop.is_cancelled() {
                return Err(GroupError::ShuttingDown);
            }
            let delivered = self.group.pack(&self.shared, self.id, usize::MAX);
            if !delivered.deliveries.is_empty() {
                self.sent_at = Instant::now();
                return Ok(Message::Events(delivered));
            }
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => {}
                () = self.group.ended.cancelled() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(self.sent_at + self.heartbeat_interval) => {
                    self.sent_at = Instant::now();
                    return Ok(Message::Heartbeat(self.shared.now()));
                }
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.gone.cancel();
        self.group.state().leave(self.id);
        self.group.changed.notify_one();
    }
}

/// What became of some events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    pub positions: Vec<Position>,
    /// And all that the consumer has up to here; 0: no others.
    pub up_to: Position,
    pub outcome: Outcome,
}

impl Settler {
    /// The consumer is alive.
    pub fn hear(&self) {
        self.group.state().window.hear(self.id, Instant::now());
    }

    /// What became of events. Those that the consumer does not have any more.
    pub fn settle(&self, settlement: &Settlement) -> Vec<Position> {
        let Settlement { positions, up_to, outcome } = settlement;
        let now = Instant::now();
        let mut state = self.group.state();
        let up_to = state.window.taken_up_to(self.id, *up_to);
        let named = positions.iter().copied().filter(|it| up_to.binary_search(it).is_err());
        let positions: Vec<_> = named.chain(up_to.iter().copied()).collect();
        // Settled before it gets more: it may be what it says it has done.
        let not_in_flight = state.window.settle(self.id, positions, outcome, now);
        state.window.hear(self.id, now);
        state.note_error(self.shared.now());
        state.forget_idle_pollers();
        drop(state);
        self.group.changed.notify_one();
        not_in_flight
    }
}
