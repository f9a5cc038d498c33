//! Walks events and packs them into blocks: the one way in which events leave the store in numbers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::query::QueryError;
use crate::core::{
    clock::Clock,
    filter::{
        Filter,
        plan::{Cursor, Direction, Step},
    },
    history::History,
    index::positions::Positions,
    log::Reader,
    position::{Position, Version},
    retention::Visibility,
};

/// A block has at most so many bytes, unless its one event is larger: with what is around it two whole packets of a
/// loopback device (65,483 bytes each), and all that a slow reader holds beside the log and what HTTP/2 buffers (ADR 34).
pub const BLOCK_SIZE_BYTES_MAX: usize = 120 << 10;
/// A block that is picked together looks at most at so many jumps before it lets other tasks run.
const JUMPS_MAX: u32 = 4096;

/// A run of visible events between hidden ones is sent as it lies if it has so many bytes; shorter ones are
/// copied together: a message costs more than copying this much.
const RUN_SIZE_BYTES_MIN: usize = 8 << 10;

/// Some events, as they lie in the log.
#[derive(Debug, Clone)]
pub struct Block {
    /// Whole records, maybe with seals.
    pub bytes: Bytes,
    /// How many events.
    pub events: u64,
}

/// A walk over events, as of the moment in which it was begun. Between its steps it holds no part of the log:
/// who stops reading keeps nothing from being dropped.
pub struct Scan {
    history: Arc<History>,
    head: Position,
    /// What the log says up to here of what is hidden; at least the head.
    hidden_at: Position,
    walk: Walk,
    /// The time at which events are hidden or not; `None`: none is, or the walk passes them over by itself.
    visible_at_micros: Option<i64>,
    /// The last position that was sent, is hidden or does not match.
    reached: Position,
    remaining: u64,
}

enum Walk {
    /// Everything forwards: slices of the log, nothing copied.
    Slices,
    /// What a filter picks, or everything backwards.
    Picked { cursor: Cursor, direction: Direction },
    /// One stream, by versions: `next` and so many before or after it.
    Stream { positions: Positions, next: Version, count: u64, direction: Direction },
}

/// What a step looks at.
struct View {
    reader: Reader,
    visibility: Option<Visibility>,
}

/// What a step of a scan came to.
#[derive(Debug)]
pub enum Progress {
    /// Events.
    Block(Block),
    /// None yet, and there may be more: [`Scan::reached`] has moved.
    Nothing,
    /// That was all.
    End,
    /// What should come next was dropped; what is kept begins here.
    Dropped(Position),
}

/// What a scan would come to next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// An event that can be seen.
    Event,
    /// None yet, and there may be more.
    Nothing,
    /// There is no more.
    End,
    /// What should come next was dropped; what is kept begins here.
    Dropped(Position),
}

impl Scan {
    /// What `filter` picks after `after` (backwards: before it, or from the end if it is 0), at most
    /// `limit` events, 0 for all.
    pub fn all(
        history: &Arc<History>,
        clock: &dyn Clock,
        filter: &Filter,
        direction: Direction,
        after: Position,
        limit: u64,
    ) -> Self {
        let reader = history.log.reader();
        let walk = if filter.is_everything() && direction == Direction::Forwards {
            Walk::Slices
        } else {
            Walk::Picked { cursor: Cursor::new(filter, history, &reader, direction), direction }
        };
        let reached = match direction {
            Direction::Backwards if after == Position::ZERO => reader.head().next(),
            Direction::Backwards => after,
            Direction::Forwards => after.max(reader.first().previous()),
        };
        let remaining = if limit == 0 { u64::MAX } else { limit };
        Self { remaining, ..Self::of(walk, history, clock, &reader, reached) }
    }

    /// What `filter` picks after `after`, forwards, up to `head`: a watermark, of now or from before.
    pub fn up_to(
        head: Position,
        history: &Arc<History>,
        clock: &dyn Clock,
        filter: &Filter,
        after: Position,
    ) -> Self {
        // What was hidden since is hidden, too.
        let now = history.log.reader();
        let reader = history.log.reader_at(head.min(now.head()));
        let direction = Direction::Forwards;
        let walk = if filter.is_everything() {
            Walk::Slices
        } else {
            Walk::Picked { cursor: Cursor::after(after, filter, history, &reader), direction }
        };
        let scan = Self::of(walk, history, clock, &now, after.max(reader.first().previous()));
        Self { head: reader.head(), ..scan }
    }

    fn of(
        walk: Walk,
        history: &Arc<History>,
        clock: &dyn Clock,
        reader: &Reader,
        reached: Position,
    ) -> Self {
        let visibility = history.visibility(reader, clock);
        // The walk does not go where all is dropped.
        let visibility = visibility.filter(|it| !it.hides_dropped_only());
        let visible_at_micros = visibility.map(|it| it.now_micros());
        let (history, head) = (Arc::clone(history), reader.head());
        let remaining = u64::MAX;
        Self { history, head, hidden_at: head, walk, visible_at_micros, reached, remaining }
    }

    /// The events of `stream` after version `after` (backwards: before it, or from the end if it is 0),
    /// at most `limit`, 0 for all. `None`: there is no such stream.
    pub fn stream(
        history: &Arc<History>,
        clock: &dyn Clock,
        stream: &str,
        direction: Direction,
        after: Version,
        limit: u64,
    ) -> Option<Self> {
        let reader = history.log.reader();
        let positions = history.streams.get(stream)?;
        let version = positions.count(reader.head());
        if version == 0 {
            return None;
        }
        let floor = history.visibility(&reader, clock).map_or(0, |mut it| it.floor(stream).get());
        let (next, count) = match direction {
            Direction::Forwards => {
                let after = after.get().max(floor);
                (Version::new(after).next(), version.saturating_sub(after))
            }
            Direction::Backwards => {
                let before = if after == Version::ZERO { u64::MAX } else { after.previous().get() };
                let last = before.min(version);
                (Version::new(last), last.saturating_sub(floor))
            }
        };
        let walk = Walk::Stream { positions, next, count, direction };
        let remaining = if limit == 0 { u64::MAX } else { limit };
        let (history, head) = (Arc::clone(history), reader.head());
        Some(Self {
            history,
            head,
            hidden_at: head,
            walk,
            visible_at_micros: None,
            reached: Position::ZERO,
            remaining,
        })
    }

    /// The head that it walks up to.
    pub fn head(&self) -> Position {
        self.head
    }

    /// Everything before it, in the scan's direction, was sent, is hidden or does not match.
    pub fn reached(&self) -> Position {
        self.reached
    }

    /// At most so many events come after `after`, up to the scan's head: see [`Cursor::matches_max`].
    pub fn matches_max(&self, after: Position) -> u64 {
        match &self.walk {
            Walk::Picked { cursor, .. } => cursor.matches_max(after),
            Walk::Slices | Walk::Stream { .. } => self.head.get().saturating_sub(after.get()),
        }
    }

    /// The next events: at most `events_max` of them.
    pub fn step(&mut self, events_max: u64) -> Progress {
        self.step_within(events_max, BLOCK_SIZE_BYTES_MAX)
    }

    /// The next events: at most `events_max` of them, and of at most `bytes_max` bytes unless the first alone is
    /// larger.
    pub fn step_within(&mut self, events_max: u64, bytes_max: usize) -> Progress {
        let events_max = events_max.min(self.remaining);
        if events_max == 0 {
            return Progress::End;
        }
        let mut view = self.view();
        let first = view.reader.first();
        if self.next_upwards().is_some_and(|next| next < first) {
            return Progress::Dropped(first);
        }
        let progress = match self.walk {
            Walk::Slices if view.visibility.is_some() => {
                self.visible_slice(&mut view, events_max, bytes_max)
            }
            Walk::Slices => self.slice(&view, events_max, bytes_max),
            _ => self.pick(&mut view, events_max, bytes_max),
        };
        if let Progress::Block(block) = &progress {
            self.remaining -= block.events;
        }
        progress
    }

    /// Passes over what does not match or is hidden, and takes nothing. Of a walk forwards over what a filter
    /// picks.
    pub fn pass_over(&mut self) -> Ahead {
        let mut view = self.view();
        let first = view.reader.first();
        if self.next_upwards().is_some_and(|next| next < first) {
            return Ahead::Dropped(first);
        }
        let mut jumps = JUMPS_MAX;
        while jumps > 0 {
            let (position, more) = match self.walk {
                Walk::Slices => {
                    let next = self.reached.next();
                    (Some(next).filter(|next| *next <= self.head), false)
                }
                _ => self.peek(&view.reader, &mut jumps),
            };
            match position {
                None if more => return Ahead::Nothing,
                None => return Ahead::End,
                Some(position)
                    if !view.hides(position) && view.reader.record(position).is_some() =>
                {
                    return Ahead::Event;
                }
                Some(position) => self.pass_hidden(position, &view.reader),
            }
            jumps = jumps.saturating_sub(1);
        }
        Ahead::Nothing
    }

    fn view(&self) -> View {
        let reader = self.history.log.reader_at(self.head);
        let visibility = self.visible_at_micros.map(|now_micros| {
            let reader = self.history.log.reader_at(self.hidden_at);
            self.history.retention.visibility(&self.history, reader, now_micros)
        });
        View { reader, visibility }
    }

    /// Of a walk upwards, the position from which on it goes on; `None` at the end.
    fn next_upwards(&self) -> Option<Position> {
        match &self.walk {
            Walk::Slices | Walk::Picked { direction: Direction::Forwards, .. } => {
                Some(self.reached.next()).filter(|next| *next <= self.head)
            }
            Walk::Stream { positions, next, count: 1.., direction: Direction::Forwards } => {
                positions.get(next.get() - 1)
            }
            Walk::Picked { .. } | Walk::Stream { .. } => None,
        }
    }

    fn slice(&mut self, view: &View, events_max: u64, bytes_max: usize) -> Progress {
        match view.reader.slice(self.reached, events_max, bytes_max) {
            Some(slice) => {
                let events = slice.last.get() - self.reached.get();
                self.reached = slice.last;
                Progress::Block(Block { bytes: slice.bytes, events })
            }
            None => Progress::End,
        }
    }

    /// The same where events are hidden: runs of those that are not.
    fn visible_slice(&mut self, view: &mut View, events_max: u64, bytes_max: usize) -> Progress {
        let mut bytes = BytesMut::new();
        let mut events = 0;
        for _ in 0..JUMPS_MAX {
            let first = self.reached.next();
            if first > self.head || events == events_max {
                break;
            }
            if view.hides(first) {
                self.pass_hidden(first, &view.reader);
                continue;
            }
            let room = bytes_max.saturating_sub(bytes.len());
            let run = self.run(view, events_max - events, room);
            let slice =
                view.reader.slice(self.reached, run, room).expect("it begins below the head");
            if events > 0 && slice.bytes.len() > room {
                break;
            }
            let run = slice.last.get() - self.reached.get();
            if events == 0 && slice.bytes.len() >= RUN_SIZE_BYTES_MIN {
                self.reached = slice.last;
                return Progress::Block(Block { bytes: slice.bytes, events: run });
            }
            bytes.extend_from_slice(&slice.bytes);
            self.reached = slice.last;
            events += run;
        }
        match events {
            0 if self.reached >= self.head => Progress::End,
            0 => Progress::Nothing,
            _ => Progress::Block(Block { bytes: bytes.freeze(), events }),
        }
    }

    /// How many visible events follow one another where the scan stands, of which the first is known to
    /// be: at most `events_max`, and of not much more than `bytes_max` bytes.
    fn run(&self, view: &mut View, events_max: u64, bytes_max: usize) -> u64 {
        let mut bytes = 0;
        for events in 1..events_max {
            let position = self.reached.plus(events);
            bytes += view.reader.record(position).map_or(0, |record| record.len());
            let next = position.next();
            if bytes > bytes_max || next > self.head || view.hides(next) {
                return events;
            }
        }
        events_max
    }

    fn pick(&mut self, view: &mut View, events_max: u64, bytes_max: usize) -> Progress {
        let mut bytes = BytesMut::new();
        let mut events = 0;
        let mut jumps = JUMPS_MAX;
        let block =
            |bytes: BytesMut, events| Progress::Block(Block { bytes: bytes.freeze(), events });
        while events < events_max {
            let (position, more) = self.peek(&view.reader, &mut jumps);
            let Some(position) = position else {
                return match (events, more) {
                    (0, true) => Progress::Nothing,
                    (0, false) => Progress::End,
                    _ => block(bytes, events),
                };
            };
            let hidden = view.hides(position);
            let Some(record) = view.reader.record(position).filter(|_| !hidden) else {
                self.pass_hidden(position, &view.reader);
                jumps = jumps.saturating_sub(1);
                match (jumps, events) {
                    (0, 0) => return Progress::Nothing,
                    (0, _) => break,
                    _ => continue,
                }
            };
            if events > 0 && bytes.len() + record.len() > bytes_max {
                break;
            }
            bytes.extend_from_slice(&record);
            events += 1;
            self.pass(position);
        }
        block(bytes, events)
    }

    /// The next event's position, if one is found within the budget, and whether there may be more.
    fn peek(&mut self, reader: &Reader, jumps: &mut u32) -> (Option<Position>, bool) {
        match &mut self.walk {
            Walk::Slices => unreachable!("slices are not picked"),
            Walk::Picked { cursor, direction } => {
                let from = match direction {
                    Direction::Forwards => self.reached.next(),
                    Direction::Backwards => self.reached.previous(),
                };
                match cursor.seek(from, reader, jumps) {
                    Step::Found(position) if position < reader.first() => {
                        self.reached = Position::ZERO;
                        (None, false)
                    }
                    Step::Found(position) => (Some(position), true),
                    Step::Paused(position) => {
                        self.reached = match direction {
                            Direction::Forwards => position.previous(),
                            Direction::Backwards => position.next(),
                        };
                        (None, true)
                    }
                    Step::End => {
                        self.reached = match direction {
                            Direction::Forwards => self.head.max(self.reached),
                            Direction::Backwards => Position::ZERO,
                        };
                        (None, false)
                    }
                }
            }
            Walk::Stream { positions, next, count, .. } => {
                let found = (*count > 0).then(|| positions.get(next.get() - 1)).flatten();
                (found, false)
            }
        }
    }

    /// The event at `position`, where it stands, is hidden. With it those that were removed and lie behind it, in the log's order, are
    /// passed: there may be very many.
    fn pass_hidden(&mut self, position: Position, reader: &Reader) {
        self.pass(position);
        self.reached = match self.walk {
            Walk::Slices | Walk::Picked { direction: Direction::Forwards, .. } => {
                reader.kept_from(position.next()).previous()
            }
            Walk::Picked { direction: Direction::Backwards, .. } => {
                reader.kept_up_to(position.previous()).next()
            }
            Walk::Stream { .. } => position,
        };
    }

    /// The event at `position`, which was peeked at, is packed or hidden.
    fn pass(&mut self, position: Position) {
        self.reached = position;
        if let Walk::Stream { next, count, direction, .. } = &mut self.walk {
            *count -= 1;
            *next = match direction {
                Direction::Forwards => next.next(),
                Direction::Backwards => next.previous(),
            };
        }
    }
}

impl View {
    fn hides(&mut self, position: Position) -> bool {
        self.visibility.as_mut().is_some_and(|it| it.hides(position))
    }
}

/// A scan to its end: its blocks, one after the other. It ends with the stream that it belongs to.
pub struct Blocks(pub Scan);

impl Blocks {
    /// The next block; `None` at the end. Lets other tasks run while it finds nothing. An error: what should
    /// come next is not kept any more.
    pub async fn next(&mut self) -> Option<Result<Block, QueryError>> {
        let Self(scan) = self;
        loop {
            match scan.step(u64::MAX) {
                Progress::Block(block) => return Some(Ok(block)),
                Progress::Nothing => tokio::task::yield_now().await,
                Progress::End => return None,
                Progress::Dropped(first) => {
                    return Some(Err(QueryError::NotKept { after: scan.reached(), first }));
                }
            }
        }
    }
}
