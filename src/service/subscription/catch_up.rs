//! One subscription: a cursor that catches up with the watermark and then stays with it.
//!
//! ```text
//! confirmed ─► catch up (scan to the head) ─► caught up ─► wait for an interest ─► scan ─► …
//!                                                             │ heartbeat,          │ more than a
//!                                                             ▼ checkpoint          ▼ message waits:
//!                                                               when it is quiet      fell behind
//! ```
//!
//! It scans to the head of its beginning first, and then on: no message holds history and live events both.
//! Once it is live it does not look at what comes: its [`Interest`] has looked, and says where to scan.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Interest, Interests, SubscribeError, SubscribeOptions, SubscriptionService,
    registry::{Caller, Kind, Registered},
};
use crate::{
    core::{
        clock::{Clock, Timestamp},
        filter::{Clause, Filter, bound},
        history::History,
        position::Position,
    },
    service::{
        places::Place,
        scan::{Ahead, Block, Progress, Scan},
    },
};

/// A scan goes so many steps before it is begun anew: then it hides what was hidden since, and holds no
/// segment that was replaced.
const STEPS_OF_A_SCAN: u32 = 64;
/// For a filter of so few values what is still to come is counted anew for each message.
const COUNTED_VALUES_MAX: usize = 8;

/// What a subscriber is told.
#[derive(Debug)]
pub enum Message {
    /// The subscription stands.
    Confirmed { id: Uuid, after: Position, head: Position },
    /// Events that match: at most `pending` more wait. `replaying`: all of them were there when it began.
    Events { block: Block, pending: u64, replaying: bool },
    /// Everything up to here was sent, is hidden or does not match.
    Checkpoint(Position),
    /// The same, and there is nothing more now.
    CaughtUp(Position),
    /// It is no longer live: more than a message holds waits.
    FellBehind { position: Position, head: Position },
    /// The connection is alive.
    Heartbeat { position: Position, sent_at: Timestamp },
}

/// One subscription.
pub struct Subscription {
    history: Arc<History>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    interests: Interests,
    /// Registered before the first scan of its filter.
    interest: Arc<Interest>,
    options: SubscribeOptions,
    /// `None`: nothing.
    filter: Option<Arc<Filter>>,
    registered: Registered,
    state: State,
    /// The head when it began: events up to here are history.
    head: Position,
    /// Everything up to here was scanned, or passed by the interest.
    reached: Position,
    /// Everything up to here was sent or does not match; [`Subscription::reached`] where nothing is held.
    position: Position,
    /// The last position that the subscriber was told of.
    reported: Position,
    /// Events that wait for others to fill their message. Only while it is live.
    held: Option<Held>,
    /// How many events it may send; `None`: as many as there are.
    permits: Option<u64>,
    /// Whether it has caught up and not fallen behind since.
    live: bool,
    sent_at: Instant,
    _place: Place,
}

enum State {
    /// Nothing was sent yet.
    New,
    /// Sending what is there, for so many steps more.
    Scanning(Scan, u32),
    /// Everything that was there was sent, or is held.
    AtHead,
}

struct Held {
    bytes: BytesMut,
    events: u64,
    /// Up to here all that matches is held.
    reached: Position,
    send_at: Instant,
}

/// What a step came to.
enum Stepped {
    Message(Message),
    /// There may be more.
    Going,
    /// An event waits that may not be sent.
    Blocked,
}

impl Subscription {
    /// It begins after the first of `places`; the second is the head.
    pub(super) fn new(
        service: &SubscriptionService,
        options: SubscribeOptions,
        filter: Option<Filter>,
        (kind, caller): (Kind, Caller),
        (after, head): (Position, Position),
        place: Place,
    ) -> Self {
        let filter = filter.map(Arc::new);
        let interest = Arc::new(interest_in(&service.interests, filter.as_deref()));
        let opened_at = Timestamp::from_micros(service.clock.now_micros());
        let following = (filter.clone(), Arc::clone(&interest));
        let registered =
            Registered::new(&service.registry, kind, caller, after, following, opened_at);
        Self {
            history: Arc::clone(&service.history),
            clock: Arc::clone(&service.clock),
            stop: service.stop.clone(),
            interests: service.interests.clone(),
            interest,
            options,
            filter,
            registered,
            state: State::New,
            head,
            reached: after,
            position: after,
            reported: after,
            held: None,
            permits: None,
            live: false,
            sent_at: Instant::now(),
            _place: place,
        }
    }

    /// The next message; it waits for it as long as it takes, and nothing is lost where that is given up. An
    /// error ends the subscription.
    pub async fn next(&mut self) -> Result<Message, SubscribeError> {
        let message = self.make_next().await?;
        self.told();
        Ok(message)
    }

    async fn make_next(&mut self) -> Result<Message, SubscribeError> {
        loop {
            if self.stop.is_cancelled() {
                return Err(SubscribeError::ShuttingDown { resume_after: self.position });
            }
            let blocked = match self.state {
                State::New => {
                    self.state = State::AtHead;
                    let (id, after, head) = (self.registered.id(), self.position, self.head);
                    return Ok(Message::Confirmed { id, after, head });
                }
                State::Scanning(..) => match self.step()? {
                    Stepped::Message(message) => return Ok(message),
                    Stepped::Going => {
                        if let Some(message) = self.due() {
                            return Ok(message);
                        }
                        tokio::task::yield_now().await;
                        continue;
                    }
                    Stepped::Blocked => true,
                },
                State::AtHead => {
                    if let Some(message) = self.at_head()? {
                        return Ok(message);
                    }
                    if matches!(self.state, State::Scanning(..)) {
                        continue;
                    }
                    false
                }
            };
            if let Some(message) = self.due() {
                return Ok(message);
            }
            self.wait(blocked).await;
        }
    }

    /// Goes a step of the scan.
    fn step(&mut self) -> Result<Stepped, SubscribeError> {
        // Told before the events that wait are sent, so that it is told in time.
        let head = self.history.log.watermark().get();
        if self.live && head.get() - self.reached.get() > self.options.batch_size {
            if let Some(message) = self.send_held() {
                return Ok(Stepped::Message(message));
            }
            self.live = false;
            return Ok(Stepped::Message(Message::FellBehind { position: self.position, head }));
        }
        let (events_max, bytes_max) = self.room();
        if (events_max == 0 || bytes_max == 0)
            && let Some(message) = self.send_held()
        {
            return Ok(Stepped::Message(message));
        }
        let State::Scanning(scan, steps) = &mut self.state else { return Ok(Stepped::Going) };
        if *steps == 0 {
            self.state = State::AtHead;
            return Ok(Stepped::Going);
        }
        *steps -= 1;
        let progress = if events_max == 0 {
            match scan.pass_over() {
                Ahead::Event => {
                    self.scanned();
                    return Ok(Stepped::Blocked);
                }
                Ahead::Nothing => Progress::Nothing,
                Ahead::End => Progress::End,
                Ahead::Dropped(first) => Progress::Dropped(first),
            }
        } else {
            scan.step_within(events_max, bytes_max)
        };
        match progress {
            Progress::Block(block) => {
                let message = self.hold(block);
                self.scanned();
                Ok(message.map_or(Stepped::Going, Stepped::Message))
            }
            Progress::Nothing => {
                self.scanned();
                Ok(Stepped::Going)
            }
            Progress::End => {
                self.scanned();
                self.state = State::AtHead;
                Ok(Stepped::Going)
            }
            Progress::Dropped(first) => match self.send_held() {
                Some(message) => Ok(Stepped::Message(message)),
                None => Err(SubscribeError::NotKept { after: self.position, first }),
            },
        }
    }

    /// How many events, and how many bytes, the next message has room for beside what is held.
    fn room(&self) -> (u64, usize) {
        let (events, bytes) =
            self.held.as_ref().map_or((0, 0), |held| (held.events, held.bytes.len()));
        let events_max = self.options.batch_size.min(self.permits.unwrap_or(u64::MAX));
        (events_max.saturating_sub(events), self.options.batch_size_bytes.saturating_sub(bytes))
    }

    /// Notes how far the scan is.
    fn scanned(&mut self) {
        if let State::Scanning(scan, _) = &self.state {
            self.reached = scan.reached().max(self.reached);
        }
        if self.held.is_none() {
            self.position = self.reached;
        }
    }

    /// Adds a block, that the scan has just taken, to what is held; the message that is full by it.
    fn hold(&mut self, block: Block) -> Option<Message> {
        let State::Scanning(scan, _) = &self.state else { return None };
        let reached = scan.reached();
        let wait = self.options.batch_wait_max;
        if !self.live || wait.is_zero() {
            return Some(self.send(block, reached));
        }
        let (_, room) = self.room();
        // The first event of a block may be larger than what was left.
        let before = if block.bytes.len() > room { self.send_held() } else { None };
        let held = self.held.get_or_insert_with(|| Held {
            bytes: BytesMut::new(),
            events: 0,
            reached,
            send_at: Instant::now() + wait,
        });
        held.bytes.extend_from_slice(&block.bytes);
        held.events += block.events;
        held.reached = reached;
        let (events, bytes) = self.room();
        if before.is_none() && (events == 0 || bytes == 0) { self.send_held() } else { before }
    }

    fn send_held(&mut self) -> Option<Message> {
        let Held { bytes, events, reached, .. } = self.held.take()?;
        Some(self.send(Block { bytes: bytes.freeze(), events }, reached))
    }

    fn send(&mut self, block: Block, reached: Position) -> Message {
        self.position = reached;
        self.permits = self.permits.map(|permits| permits.saturating_sub(block.events));
        self.registered.sent(block.events);
        Message::Events { block, pending: self.pending(reached), replaying: reached <= self.head }
    }

    /// At most so many events after `after` match.
    fn pending(&self, after: Position) -> u64 {
        let head = self.history.log.watermark().get();
        let after = self.interest.passed(after);
        let Some(filter) = &self.filter else { return 0 };
        let values: usize = filter.clauses.iter().map(Clause::size).sum();
        let is_prefix = |clause: &Clause| !clause.stream_prefixes.is_empty();
        match &self.state {
            State::Scanning(scan, _)
                if scan.head() >= head
                    || values > COUNTED_VALUES_MAX
                    || filter.clauses.iter().any(is_prefix) =>
            {
                let since = head.get().saturating_sub(scan.head().max(after).get());
                scan.matches_max(after) + since
            }
            _ => {
                bound::matches_max(filter, &self.history, &self.history.log.reader_at(head), after)
            }
        }
    }

    /// Begins to scan what has come, if there is any to scan; or what there is to tell.
    fn at_head(&mut self) -> Result<Option<Message>, SubscribeError> {
        self.pass();
        let watermark = self.history.log.watermark().get();
        let waits = if self.live {
            self.interest.has_changed(self.reached)
        } else {
            watermark > self.reached
        };
        if let Some(filter) = self.filter.as_ref().filter(|_| waits) {
            // Only a subscriber that reads slower than old events are dropped can be behind what is kept.
            let first = self.history.log.first();
            if self.reached.next() < first {
                return match self.send_held() {
                    Some(message) => Ok(Some(message)),
                    None => Err(SubscribeError::NotKept { after: self.position, first }),
                };
            }
            // A new scan also finds names that did not exist before.
            let head = if self.reached < self.head { self.head } else { watermark };
            let scan = Scan::up_to(head, &self.history, &*self.clock, filter, self.reached);
            self.state = State::Scanning(scan, STEPS_OF_A_SCAN);
            return Ok(None);
        }
        if !self.live {
            self.live = true;
            return Ok(Some(Message::CaughtUp(self.position)));
        }
        Ok(None)
    }

    /// Goes to where the interest has found nothing.
    fn pass(&mut self) {
        self.reached = self.interest.passed(self.reached);
        if self.held.is_none() {
            self.position = self.reached;
        }
        self.registered.is_at(self.position, self.live);
    }

    /// What its time has come for.
    fn due(&mut self) -> Option<Message> {
        let now = Instant::now();
        if self.held.as_ref().is_some_and(|held| held.send_at <= now) {
            return self.send_held();
        }
        let (passed, quiet) = (self.position.get() - self.reported.get(), now - self.sent_at);
        let options = &self.options;
        if passed >= options.checkpoint_interval
            || (passed > 0 && quiet >= options.checkpoint_wait_max)
        {
            return Some(Message::Checkpoint(self.position));
        }
        (quiet >= options.heartbeat_interval).then(|| {
            let sent_at = Timestamp::from_micros(self.clock.now_micros());
            Message::Heartbeat { position: self.position, sent_at }
        })
    }

    /// Waits until there may be something to do.
    async fn wait(&self, blocked: bool) {
        let SubscribeOptions {
            batch_size,
            checkpoint_interval,
            checkpoint_wait_max,
            heartbeat_interval,
            ..
        } = self.options;
        let checkpoint_at = self.sent_at + checkpoint_wait_max;
        let mut until = self.sent_at + heartbeat_interval;
        let mut mark = self.reported.plus(checkpoint_interval);
        if checkpoint_at > Instant::now() {
            until = until.min(checkpoint_at);
        } else {
            // It is due with the next event that does not match.
            mark = mark.min(self.position.next());
        }
        if let Some(held) = &self.held {
            until = until.min(held.send_at);
        }
        let something_comes = async {
            match (blocked, self.live) {
                (false, _) => {
                    // While something is held nothing is passed, and a mark would wake for nothing.
                    if self.held.is_none() {
                        self.interest.wake_at(mark);
                    }
                    self.interest.changed(self.reached).await;
                }
                // It falls behind.
                (true, true) => {
                    self.history.log.watermark().beyond(self.reached.plus(batch_size)).await;
                }
                (true, false) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = something_comes => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    /// Whether nothing was sent yet.
    pub(super) fn is_new(&self) -> bool {
        matches!(self.state, State::New)
    }

    /// Sends events only as they are permitted, from now on; none are yet.
    pub(super) fn pull(&mut self) {
        self.permits = Some(0);
    }

    /// Permits so many events more, where they are to be permitted.
    pub(super) fn permit(&mut self, events: u32) {
        let permits = self.permits.map(|permits| permits.saturating_add(events.into()));
        self.permits = permits.map(|permits| permits.min(u32::MAX.into()));
    }

    /// What is held, as a message.
    pub(super) fn flush(&mut self) -> Option<Message> {
        let message = self.send_held()?;
        self.told();
        Some(message)
    }

    /// Follows what `filter` picks from here on; `None`: nothing. Nothing is held. The position up to which the
    /// filter before has decided.
    pub(super) fn follow(&mut self, filter: Option<Filter>) -> Position {
        debug_assert!(self.held.is_none(), "it was flushed");
        self.pass();
        self.filter = filter.map(Arc::new);
        self.interest = Arc::new(interest_in(&self.interests, self.filter.as_deref()));
        self.registered.follows(self.filter.clone(), Arc::clone(&self.interest));
        self.state = State::AtHead;
        self.told();
        self.position
    }

    /// A message goes out, which says how far it is.
    fn told(&mut self) {
        self.sent_at = Instant::now();
        self.reported = self.position;
        self.registered.is_at(self.position, self.live);
    }
}

fn interest_in(interests: &Interests, filter: Option<&Filter>) -> Interest {
    filter.map_or_else(|| interests.nothing(), |filter| interests.register(filter))
}
