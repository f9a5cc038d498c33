//! A replay: what a filter picks, sent again as it came, N times as fast, or at once.
//!
//! ```text
//! events   1  2        3      4    their times      0 s  1 s        60 s   61 s
//! sent     1  2    pause      3 4  at twice the pace 0    0.5 s  …  30 s   30.5 s
//! ```
//!
//! The order is the log's. An event whose time is not after the one before it is sent with that.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    analytics::tally::TimeBase,
    query::QueryError,
    scan::{Block, Progress, Scan},
};
use crate::core::{
    clock::{Clock, Timestamp},
    filter::{
        Clause, Filter, TimeRange,
        plan::{Cursor, Direction, Step},
    },
    history::History,
    log::format,
    position::Position,
};

/// A longer wait is told before.
const TOLD_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The search for the first event goes so many jumps before other tasks get their turn.
const JUMPS_BETWEEN_YIELDS: u32 = 4096;

/// What to replay, and how.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    pub filter: Filter,
    pub after: Position,
    /// Begin with the first event of this time or later.
    pub from: Option<Timestamp>,
    /// How many times as fast as it was; `None`: at once.
    pub speed: Option<f64>,
    pub base: TimeBase,
    /// No wait is longer.
    pub pause_max: Duration,
    /// At most so many events, 0 for all.
    pub limit: u64,
}

/// What is told.
#[derive(Debug)]
pub enum Message {
    Started {
        head: Position,
    },
    /// Events whose time has come.
    Events(Block),
    /// The next event, which was at this time, comes after so long.
    Pause {
        wait: Duration,
        until: Timestamp,
    },
    Ended {
        events: u64,
        position: Position,
    },
}

/// A replay that goes on.
pub struct Replay {
    scan: Scan,
    options: ReplayOptions,
    stop: CancellationToken,
    state: State,
    events: u64,
    /// What is scanned and not sent yet, and where in it the next event begins.
    block: Block,
    sent_bytes: usize,
    /// The event that was sent last: its time, and when it was due.
    last: Option<(Timestamp, Instant)>,
    /// A pause was told, up to the next event.
    told: bool,
}

enum State {
    New,
    Going,
    Over,
}

impl Replay {
    /// The replay of what `history` has now.
    pub async fn begin(
        history: &Arc<History>,
        clock: &dyn Clock,
        mut options: ReplayOptions,
        stop: CancellationToken,
    ) -> Result<Self, QueryError> {
        if let Some(from) = options.from {
            let first = first_at(history, from, options.base).await;
            options.after = options.after.max(first.previous());
        }
        let first = history.log.first();
        if options.after > Position::ZERO && options.after.next() < first {
            return Err(QueryError::NotKept { after: options.after, first });
        }
        let (filter, after, limit) = (&options.filter, options.after, options.limit);
        let scan = Scan::all(history, clock, filter, Direction::Forwards, after, limit);
        let block = Block { bytes: bytes::Bytes::new(), events: 0 };
        Ok(Self {
            scan,
            options,
            stop,
            state: State::New,
            events: 0,
            block,
            sent_bytes: 0,
            last: None,
            told: false,
        })
    }

    /// The next message, when it is due; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Message>, QueryError> {
        match self.state {
            State::New => {
                self.state = State::Going;
                return Ok(Some(Message::Started { head: self.scan.head() }));
            }
            State::Over => return Ok(None),
            State::Going => {}
        }
        if self.sent_bytes == self.block.bytes.len() && !self.scan_on().await? {
            self.state = State::Over;
            let position = self.scan.reached();
            return Ok(Some(Message::Ended { events: self.events, position }));
        }
        let Some(speed) = self.options.speed else {
            self.sent_bytes = self.block.bytes.len();
            self.events += self.block.events;
            return Ok(Some(Message::Events(self.block.clone())));
        };
        let now = Instant::now();
        let (time, due) = self.due(self.sent_bytes, speed, now);
        if due > now {
            let wait = due - now;
            if wait > TOLD_PAUSE_MIN && !self.told {
                self.told = true;
                return Ok(Some(Message::Pause { wait, until: time }));
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(QueryError::Stopping),
                () = tokio::time::sleep_until(due) => {}
            }
        }
        Ok(Some(Message::Events(self.take_due(speed))))
    }

    /// Scans the next block; not if there is none.
    async fn scan_on(&mut self) -> Result<bool, QueryError> {
        loop {
            if self.stop.is_cancelled() {
                return Err(QueryError::Stopping);
            }
            match self.scan.step(u64::MAX) {
                Progress::Block(block) => {
                    (self.block, self.sent_bytes) = (block, 0);
                    return Ok(true);
                }
                Progress::Nothing => tokio::task::yield_now().await,
                Progress::End => return Ok(false),
                Progress::Dropped(first) => {
                    return Err(QueryError::NotKept { after: self.scan.reached(), first });
                }
            }
        }
    }

    /// The time of the event that begins at `offset` of the block, and when it is due: the first one now.
    fn due(&self, offset: usize, speed: f64, now: Instant) -> (Timestamp, Instant) {
        let record = &self.block.bytes[offset..];
        let message = format::message(&record[..format::field_size(record)]);
        let time = match self.options.base {
            TimeBase::Occurred => format::occurred_at(message),
            TimeBase::Recorded => format::recorded_at(record),
        };
        let Some((last, due)) = self.last else { return (time, now) };
        let apart = time.since(last).unwrap_or_default();
        // What is too long for a duration is too long to wait for.
        let wait = Duration::try_from_secs_f64(apart.as_secs_f64() / speed);
        (time, due + wait.unwrap_or(Duration::MAX).min(self.options.pause_max))
    }

    /// All events that are due now: at least one.
    fn take_due(&mut self, speed: f64) -> Block {
        let (begin, now) = (self.sent_bytes, Instant::now());
        let mut events = 0;
        while self.sent_bytes < self.block.bytes.len() {
            let rest = &self.block.bytes[self.sent_bytes..];
            if rest[0] == format::EVENT_TAG {
                let (time, due) = self.due(self.sent_bytes, speed, now);
                if events > 0 && due > now {
                    break;
                }
                self.last = Some((self.last.map_or(time, |(last, _)| last.max(time)), due));
                events += 1;
            }
            self.sent_bytes += format::field_size(rest);
        }
        self.told = false;
        self.events += events;
        Block { bytes: self.block.bytes.slice(begin..self.sent_bytes), events }
    }
}

/// The position of the first event of this time or later; behind the head if there is none.
pub async fn first_at(history: &History, from: Timestamp, base: TimeBase) -> Position {
    let reader = history.log.reader();
    if base == TimeBase::Recorded {
        return reader.first_recorded_at_or_after(from.micros_up());
    }
    let occurred = TimeRange { from: Some(from), to: None };
    let filter = Filter { clauses: vec![Clause { occurred, ..Clause::default() }] };
    let mut cursor = Cursor::new(&filter, history, &reader, Direction::Forwards);
    let mut at = reader.first().max(Position::new(1));
    loop {
        let mut budget = JUMPS_BETWEEN_YIELDS;
        match cursor.seek(at, &reader, &mut budget) {
            Step::Found(position) => return position,
            Step::Paused(position) => at = position,
            Step::End => return reader.head().next(),
        }
        tokio::task::yield_now().await;
    }
}
