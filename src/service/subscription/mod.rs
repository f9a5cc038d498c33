//! A subscription: a cursor that meets the watermark, and nothing else. No copy of an event is queued
//! for it, so a slow one costs nothing and loses nothing.
//!
//! ```text
//! confirmed ─► catch up (scan to the head) ─► caught up ─► wait for the watermark ─► scan ─► …
//!                                                             │ heartbeat              │ more than a
//!                                                             ▼ when it is quiet       ▼ batch waits:
//!                                                                                    fell behind
//! ```

mod interest;

pub use interest::{Interest, Interests};

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    places::{NoPlace, Place, Places},
    scan::{Block, Progress, Scan},
};
use crate::core::{
    clock::{Clock, Timestamp},
    filter::{Filter, plan::Direction},
    history::History,
    position::Position,
};

/// A scan goes so many steps before it is begun anew: then it hides what was hidden since, and holds no
/// segment that was replaced.
const STEPS_OF_A_SCAN: u32 = 64;

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// After this position; 0: with the first event.
    After(Position),
    /// With the next event that is committed.
    Now,
}

/// What to follow, and how.
#[derive(Debug, Clone)]
pub struct SubscribeOptions {
    pub start: Start,
    pub filter: Filter,
    /// Events in one message, at most.
    pub batch_size: u64,
    /// A checkpoint is due after so many events that did not match.
    pub checkpoint_interval: u64,
    /// A heartbeat is due when nothing was sent for so long.
    pub heartbeat_interval: Duration,
}

/// What a subscriber is told.
#[derive(Debug)]
pub enum Message {
    /// The subscription stands.
    Confirmed { id: Uuid, after: Position, head: Position },
    /// Events that match.
    Events(Block),
    /// Everything up to here was sent, is hidden or does not match.
    Checkpoint(Position),
    /// The same, and there is nothing more now.
    CaughtUp(Position),
    /// It is no longer live: more than a message holds waits.
    FellBehind { position: Position, head: Position },
    /// The connection is alive.
    Heartbeat { position: Position, sent_at: Timestamp },
}

/// Why there is no subscription, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The position is not in this log.
    #[error("position {after} is beyond the head {head}: is it the same log?")]
    BeyondHead { after: Position, head: Position },
    /// What follows the position is not kept any more.
    #[error("position {after} is no longer followed by what is kept; it begins at {first}")]
    NotKept { after: Position, first: Position },
    /// The limit is reached.
    #[error(transparent)]
    TooMany(#[from] NoPlace),
    /// The server stops.
    #[error("the server stops; resume after position {resume_after}")]
    ShuttingDown { resume_after: Position },
}

/// Opens subscriptions.
#[derive(Clone)]
pub struct SubscriptionService {
    history: Arc<History>,
    clock: Arc<dyn Clock>,
    places: Places,
    interests: Interests,
    stop: CancellationToken,
}

impl SubscriptionService {
    /// Subscriptions end when `stop` is cancelled; each takes one of the places. `interests` are those of
    /// this history.
    pub fn new(
        history: Arc<History>,
        clock: Arc<dyn Clock>,
        places: Places,
        interests: Interests,
        stop: CancellationToken,
    ) -> Self {
        Self { history, clock, places, interests, stop }
    }

    /// Opens one.
    pub fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, SubscribeError> {
        let place = self.places.take()?;
        let head = self.history.log.watermark().get();
        let after = match options.start {
            Start::Now => head,
            Start::After(after) if after <= head => from_kept(&self.history, after)?,
            Start::After(after) => return Err(SubscribeError::BeyondHead { after, head }),
        };
        Ok(Subscription {
            history: Arc::clone(&self.history),
            clock: Arc::clone(&self.clock),
            stop: self.stop.clone(),
            interest: self.interests.register(&options.filter),
            options,
            id: Uuid::new_v4(),
            state: State::New { head },
            position: after,
            reported: after,
            live: false,
            sent_at: Instant::now(),
            _place: place,
        })
    }
}

/// Where a walk after `after` begins: with the first event that is kept, for who asks for all.
fn from_kept(history: &History, after: Position) -> Result<Position, SubscribeError> {
    let first = history.log.first();
    match after {
        Position::ZERO => Ok(first.previous()),
        after if after.next() >= first => Ok(after),
        after => Err(SubscribeError::NotKept { after, first }),
    }
}

/// One subscription.
pub struct Subscription {
    history: Arc<History>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    /// Registered before the first scan.
    interest: Interest,
    options: SubscribeOptions,
    id: Uuid,
    state: State,
    /// Everything up to here was sent or does not match.
    position: Position,
    /// The last position that the subscriber was told of.
    reported: Position,
    /// Whether it has caught up and not fallen behind since.
    live: bool,
    sent_at: Instant,
    _place: Place,
}

enum State {
    /// Nothing was sent yet.
    New { head: Position },
    /// Sending what is there, for so many steps more.
    Scanning(Scan, u32),
    /// Everything that was there was sent.
    AtHead,
}

impl Subscription {
    /// The next message; it waits for it as long as it takes. An error ends the subscription.
    pub async fn next(&mut self) -> Result<Message, SubscribeError> {
        let message = self.make_next().await?;
        self.sent_at = Instant::now();
        self.reported = self.position;
        Ok(message)
    }

    async fn make_next(&mut self) -> Result<Message, SubscribeError> {
        loop {
            if self.stop.is_cancelled() {
                return Err(SubscribeError::ShuttingDown { resume_after: self.position });
            }
            match &mut self.state {
                State::New { head } => {
                    let head = *head;
                    self.state = State::AtHead;
                    return Ok(Message::Confirmed { id: self.id, after: self.position, head });
                }
                State::Scanning(_, 0) => self.state = State::AtHead,
                State::Scanning(scan, steps) => {
                    // Told before the events that wait are sent, so that it is told in time.
                    let head = self.history.log.watermark().get();
                    let waits = head.get() - self.position.get();
                    if self.live && waits > self.options.batch_size {
                        self.live = false;
                        return Ok(Message::FellBehind { position: self.position, head });
                    }
                    *steps -= 1;
                    let progress = scan.step(self.options.batch_size);
                    self.position = scan.reached().max(self.position);
                    match progress {
                        Progress::Block(block) => return Ok(Message::Events(block)),
                        Progress::Nothing => {
                            if self.checkpoint_is_due() {
                                return Ok(Message::Checkpoint(self.position));
                            }
                            tokio::task::yield_now().await;
                        }
                        Progress::End => self.state = State::AtHead,
                        Progress::Dropped(first) => {
                            let after = self.position;
                            return Err(SubscribeError::NotKept { after, first });
                        }
                    }
                }
                State::AtHead => {
                    if let Some(message) = self.at_head().await? {
                        return Ok(message);
                    }
                }
            }
        }
    }

    /// Scans what has come, or waits for it: until there is something to tell or to do.
    async fn at_head(&mut self) -> Result<Option<Message>, SubscribeError> {
        self.position = self.interest.passed(self.position);
        let watermark = self.history.log.watermark().get();
        let scan = if self.live {
            self.interest.has_changed(self.position)
        } else {
            watermark > self.position
        };
        if scan {
            // Only a subscriber that reads slower than old events are dropped can be behind what is kept.
            let first = self.history.log.first();
            if self.position.next() < first {
                return Err(SubscribeError::NotKept { after: self.position, first });
            }
            // A new scan also finds names that did not exist before.
            let (filter, forwards) = (&self.options.filter, Direction::Forwards);
            let scan = Scan::all(&self.history, &*self.clock, filter, forwards, self.position, 0);
            self.state = State::Scanning(scan, STEPS_OF_A_SCAN);
            return Ok(None);
        }
        if !self.live {
            self.live = true;
            return Ok(Some(Message::CaughtUp(self.position)));
        }
        if self.checkpoint_is_due() {
            return Ok(Some(Message::Checkpoint(self.position)));
        }
        self.interest.wake_at(self.reported.plus(self.options.checkpoint_interval));
        Ok(tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            () = self.interest.changed(self.position) => None,
            () = tokio::time::sleep_until(self.sent_at + self.options.heartbeat_interval) => {
                let sent_at = Timestamp::from_micros(self.clock.now_micros());
                Some(Message::Heartbeat { position: self.position, sent_at })
            }
        })
    }

    fn checkpoint_is_due(&self) -> bool {
        self.position.get() - self.reported.get() >= self.options.checkpoint_interval
    }
}
