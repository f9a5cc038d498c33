//! Random lives of a window, in which nothing may be forgotten, and no order broken.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::{prelude::*, strategy::Strategy as Strategy_};
use tokio::{sync::Notify, time::Instant};

use super::{Checkpoint, ConsumerId, Key, Outcome, Parked, State, ToPark, Window};
use crate::{
    core::{clock::Timestamp, position::Position},
    service::group::settings::{Settings, Strategy},
};

#[derive(Debug, Clone)]
enum Step {
    Offer(u8),
    Join(u8),
    Leave(u8),
    Take(u8),
    Ack(u8, u8),
    AckUpTo(u8, u8),
    Retry(u8, u8, bool),
    Park(u8, u8),
    Hear(u8),
    Wait(u16),
    Write,
    Fail,
    Replay(u8),
    Drop(u8),
    Skip(u8),
    Move(u8),
    Change(bool),
    Crash,
}

fn step() -> impl Strategy_<Value = Step> {
    prop_oneof![
        4 => (1..8_u8).prop_map(Step::Offer),
        1 => (1..5_u8).prop_map(Step::Join),
        1 => any::<u8>().prop_map(Step::Leave),
        6 => any::<u8>().prop_map(Step::Take),
        6 => any::<(u8, u8)>().prop_map(|(who, what)| Step::Ack(who, what)),
        1 => any::<(u8, u8)>().prop_map(|(who, what)| Step::AckUpTo(who, what)),
        2 => any::<(u8, u8, bool)>().prop_map(|(who, what, now)| Step::Retry(who, what, now)),
        2 => any::<(u8, u8)>().prop_map(|(who, what)| Step::Park(who, what)),
        1 => any::<u8>().prop_map(Step::Hear),
        2 => (0..3000_u16).prop_map(Step::Wait),
        3 => Just(Step::Write),
        1 => Just(Step::Fail),
        2 => any::<u8>().prop_map(Step::Replay),
        1 => any::<u8>().prop_map(Step::Drop),
        1 => any::<u8>().prop_map(Step::Skip),
        1 => any::<u8>().prop_map(Step::Move),
        1 => any::<bool>().prop_map(Step::Change),
        1 => Just(Step::Crash),
    ]
}

const KEYS: u64 = 3;

fn key(position: Position) -> u64 {
    position.get() * 7 % 11 % KEYS
}

/// A group around its window: what is written, and what consumers know.
struct Life {
    window: Window,
    settings: Settings,
    now: Instant,
    head: u64,
    consumers: Vec<ConsumerId>,
    /// What each consumer has taken and not settled, as it knows.
    has: BTreeMap<ConsumerId, Vec<Position>>,
    /// Events that some consumer has settled, or that were skipped or dropped on demand.
    done: BTreeSet<Position>,
    /// What survives a crash.
    written: BTreeMap<Position, Parked>,
    checkpoint: Checkpoint,
}

impl Life {
    fn new(settings: Settings) -> Self {
        Self {
            window: Window::new(settings, Position::ZERO),
            settings,
            now: Instant::now(),
            head: 0,
            consumers: Vec::new(),
            has: BTreeMap::new(),
            done: BTreeSet::new(),
            written: BTreeMap::new(),
            checkpoint: Checkpoint::default(),
        }
    }

    fn key(&self, position: Position) -> Key {
        self.settings.strategy.is_ordered().then(|| key(position))
    }

    fn consumer(&self, which: u8) -> Option<ConsumerId> {
        let count = self.consumers.len();
        (count > 0).then(|| self.consumers[usize::from(which) % count])
    }

    fn held(&self, who: u8, what: u8) -> Option<(ConsumerId, Position)> {
        let consumer = self.consumer(who)?;
        let has = self.has.get(&consumer).filter(|has| !has.is_empty())?;
        Some((consumer, has[usize::from(what) % has.len()]))
    }

    fn settle(&mut self, consumer: ConsumerId, positions: &[Position], outcome: &Outcome) {
        let late = self.window.settle(consumer, positions.to_vec(), outcome, self.now);
        for position in positions {
            self.has.entry(consumer).or_default().retain(|has| has != position);
            if *outcome == Outcome::Settled && !late.contains(position) {
                self.done.insert(*position);
            }
        }
    }

    fn nth_parked(&self, nth: u8) -> Option<Position> {
        let parked: Vec<_> = self.window.parked.keys().copied().collect();
        (!parked.is_empty()).then(|| parked[usize::from(nth) % parked.len()])
    }

    fn look_ahead(&mut self) {
        let room = self.window.room();
        let next = self.window.read_to().get() + 1;
        let some: Vec<_> = (next..=self.head).take(room).map(Position::new).collect();
        if let Some(read_to) = some.last() {
            let events: Vec<_> = some.iter().map(|at| (*at, self.key(*at))).collect();
            self.window.offer(events, *read_to, self.now);
        }
    }

    fn write(&mut self) {
        for position in self.window.take_unparked() {
            self.written.remove(&position);
        }
        loop {
            let to_park = self.window.take_to_park(3);
            if to_park.is_empty() {
                break;
            }
            self.checkpoint = self.window.checkpoint(&to_park);
            for ToPark { position, reason, deliveries, held } in to_park.clone() {
                let (key, at) = (self.key(position), Timestamp::default());
                let parked = Parked { reason, deliveries, at, held, replaying: false, key };
                self.written.insert(position, parked);
            }
            self.window.parked(to_park, Timestamp::default(), self.now);
        }
        self.checkpoint = self.window.take_checkpoint();
    }

    fn step(&mut self, step: &Step) {
        self.act(step);
        self.check();
    }

    #[expect(clippy::too_many_lines, reason = "a list")]
    fn act(&mut self, step: &Step) {
        match *step {
            Step::Offer(count) => {
                self.head += u64::from(count);
                self.look_ahead();
            }
            Step::Join(max) => {
                if self.consumers.len() < 4 {
                    let wake = Arc::new(Notify::new());
                    let id = self.window.join(usize::from(max), false, wake, self.now);
                    self.consumers.push(id);
                }
            }
            Step::Leave(who) => {
                if let Some(consumer) = self.consumer(who) {
                    self.window.leave(consumer, self.now);
                    self.consumers.retain(|id| *id != consumer);
                    self.has.remove(&consumer);
                }
            }
            Step::Take(who) => {
                if let Some(consumer) = self.consumer(who)
                    && let Some(position) = self.window.next_for(consumer, self.now)
                {
                    let delivery = self.window.take(consumer).expect("there is a next one");
                    assert_eq!(delivery.position, position);
                    assert!(delivery.deliveries > 0);
                    self.has.entry(consumer).or_default().push(position);
                }
            }
            Step::Ack(who, what) => {
                if let Some((consumer, position)) = self.held(who, what) {
                    self.settle(consumer, &[position], &Outcome::Settled);
                }
            }
            Step::AckUpTo(who, what) => {
                if let Some((consumer, position)) = self.held(who, what) {
                    let all = self.window.taken_up_to(consumer, position);
                    self.settle(consumer, &all, &Outcome::Settled);
                }
            }
            Step::Retry(who, what, at_once) => {
                if let Some((consumer, position)) = self.held(who, what) {
                    let after = at_once.then_some(Duration::ZERO);
                    let outcome = Outcome::Retry { after, reason: String::new() };
                    self.settle(consumer, &[position], &outcome);
                }
            }
            Step::Park(who, what) => {
                if let Some((consumer, position)) = self.held(who, what) {
                    let outcome = Outcome::Park { reason: "bad".to_owned() };
                    self.settle(consumer, &[position], &outcome);
                }
            }
            Step::Hear(who) => {
                if let Some(consumer) = self.consumer(who) {
                    self.window.hear(consumer, self.now);
                }
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms.into());
                self.window.tick(self.now);
            }
            Step::Write => self.write(),
            Step::Fail => {
                let to_park = self.window.take_to_park(3);
                self.window.not_parked(to_park);
                let unparked = self.window.take_unparked();
                self.window.not_unparked(unparked);
            }
            Step::Replay(nth) => {
                if let Some(position) = self.nth_parked(nth)
                    && self.window.is_parked(position)
                {
                    self.written.get_mut(&position).expect("it is parked").replaying = true;
                    self.window.replay(&[position], self.now);
                }
            }
            Step::Drop(nth) => {
                if let Some(position) = self.nth_parked(nth) {
                    self.window.drop_parked(&[position], self.now);
                    self.done.insert(position);
                }
            }
            Step::Skip(nth) => {
                let open: Vec<_> = self.window.open.iter().copied().collect();
                if !open.is_empty() {
                    let position = open[usize::from(nth) % open.len()];
                    assert!(self.window.skip(position, self.now));
                    self.done.insert(position);
                }
            }
            Step::Move(to) => {
                let to = Position::new(u64::from(to) % (self.head + 1));
                self.window.move_to(to, self.now);
                self.checkpoint = self.window.take_checkpoint();
                // What was passed over counts as done.
                self.done.extend((1..=to.get()).map(Position::new));
            }
            Step::Change(hold_back_parked_keys) => {
                self.settings.hold_back_parked_keys = hold_back_parked_keys;
                let settings = self.settings;
                let ordered = settings.strategy.is_ordered();
                let key = |position| ordered.then(|| key(position));
                self.window.change(settings, key, self.now);
            }
            Step::Crash => {
                self.consumers.clear();
                self.has.clear();
                let checkpoint = self.checkpoint.clone();
                let unsettled = checkpoint.unsettled.iter();
                let unsettled = unsettled.map(|(at, times)| (*at, self.key(*at), *times)).collect();
                let (settings, parked) = (self.settings, self.written.clone());
                self.window = Window::restore(settings, &checkpoint, unsettled, parked, self.now);
            }
        }
    }

    fn check(&self) {
        let window = &self.window;
        // Nothing is forgotten.
        let read_to = window.read_to().get();
        for position in (1..=read_to).map(Position::new) {
            let here = window.events.contains_key(&position)
                || window.parked.contains_key(&position)
                || self.done.contains(&position);
            assert!(here, "event {position} is forgotten");
        }
        // The position is before whatever is open.
        assert!(window.open.iter().all(|open| *open > window.position()));
        assert!(window.position().get() <= read_to);
        // Limits.
        let to_park = window.to_park.len() + window.parking;
        assert!(window.parked.len() + to_park <= self.settings.parked_max + window.replaying());
        for seat in window.seats.values() {
            assert!(seat.in_flight.len() <= seat.in_flight_max);
        }
        // What is in flight is so once, and has its timer.
        let mut flying = BTreeMap::<Position, ConsumerId>::new();
        for (id, seat) in &window.seats {
            for position in &seat.in_flight {
                assert!(flying.insert(*position, *id).is_none(), "two have {position}");
            }
        }
        let mut busy = BTreeMap::<u64, Position>::new();
        let mut timers = 0;
        for (position, event) in &window.events {
            match event.state {
                State::InFlight { consumer, .. } => {
                    assert_eq!(flying.remove(position), Some(consumer));
                    timers += 1;
                    if let Some(key) = event.key {
                        assert!(
                            busy.insert(key, *position).is_none(),
                            "two of a key are in flight"
                        );
                    }
                }
                State::Delayed(_) => timers += 1,
                State::Waiting | State::ToPark => {}
            }
            assert_eq!(event.replayed, window.parked.contains_key(position));
            assert_eq!(!event.replayed, window.open.contains(position));
        }
        assert!(flying.is_empty());
        assert_eq!(timers, window.timers.len());
        for (key, in_flight) in busy {
            let before = window.keys[&key].queue.range(..in_flight);
            let open =
                before.filter(|it| window.open.contains(it) && window.open.contains(&in_flight));
            assert_eq!(open.count(), 0, "an earlier one of the key waits");
        }
        // Nothing waits that could go.
        if !window.is_stopped() && window.seats.values().any(super::Seat::room) {
            let waits = window.events.iter().filter(|(_, event)| event.state == State::Waiting);
            let stuck: Vec<_> = waits.filter(|(_, event)| event.key.is_none()).collect();
            let single = self.settings.strategy == Strategy::DispatchToOne;
            assert!(single || stuck.is_empty(), "somebody has room, and {} wait", stuck.len());
        }
        // Where keys are held back, nothing of them goes that is behind a failed one.
        if self.settings.holds_back() {
            for (position, event) in &window.events {
                let parked = window.parked.iter().filter(|(_, parked)| parked.key == event.key);
                let blocked =
                    parked.take_while(|(at, _)| *at < position).any(|(_, it)| !it.replaying);
                let goes = matches!(event.state, State::InFlight { .. });
                assert!(!goes || !blocked, "{position} goes before a parked one of its key");
            }
        }
    }

    /// Everything is taken and acknowledged, what is parked asked for again, until nothing is left.
    fn calm_down(&mut self) {
        let id = self.window.join(3, false, Arc::new(Notify::new()), self.now);
        for round in 0..10 * (self.head + 10) {
            self.now += Duration::from_secs(100);
            self.window.tick(self.now);
            self.window.hear(id, self.now);
            self.write();
            let parked: Vec<_> = self.window.parked.keys().copied().collect();
            self.window.replay(&parked, self.now);
            // In a group that was moved back a parked event waits for those before it, and they may wait for
            // room: somebody has to drop one.
            if round % 10 == 9 && self.window.is_stopped() {
                self.step(&Step::Drop(0));
            }
            while self.window.next_for(id, self.now).is_some() {
                let delivery = self.window.take(id).expect("there is a next one");
                self.settle(id, &[delivery.position], &Outcome::Settled);
            }
            self.look_ahead();
            self.check();
            let read = self.window.read_to().get() == self.head;
            if read && self.window.parked.is_empty() && self.window.open.is_empty() {
                return;
            }
        }
        panic!("{} parked, {} open", self.window.parked.len(), self.window.open.len());
    }
}

impl Window {
    fn replaying(&self) -> usize {
        self.events.values().filter(|event| event.replayed).count()
    }
}

fn settings() -> impl Strategy_<Value = Settings> {
    let strategy = prop_oneof![
        Just(Strategy::RoundRobin),
        Just(Strategy::DispatchToOne),
        Just(Strategy::OrderedByStream),
    ];
    (strategy, any::<bool>(), 0..3_u32, 1..6_usize, 1..12_usize).prop_map(
        |(strategy, hold_back_parked_keys, retries_max, parked_max, window_max)| Settings {
            strategy,
            hold_back_parked_keys,
            retries_max,
            parked_max,
            window_max,
            message_timeout: Duration::from_secs(1),
            ..Settings::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever consumers, operators and crashes do.
    #[test]
    fn nothing_is_forgotten_and_no_order_is_broken(
        settings in settings(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut life = Life::new(settings);
        for step in &steps {
            life.step(step);
        }
        life.calm_down();
    }
}
