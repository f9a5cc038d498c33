//! A proposal, its answer, its errors.

use std::fmt;

use smallvec::SmallVec;
use uuid::Uuid;

use super::{
    clock::Timestamp,
    commit_log::CommitLogError,
    event::NewEvents,
    filter::Filter,
    name::Name,
    position::{Position, Version},
    retention::Setting,
};

/// Something for each stream that a commit writes to: nearly always for one.
pub type Writes<T> = SmallVec<[T; 1]>;

/// What is decided together, and the answers: of one without an allocation.
pub type Batch<T> = SmallVec<[T; 1]>;

/// One commit as it is proposed: written all or not at all. Whoever builds one has made sure that no
/// two writes have the same stream, no two events the same id, and that it is within the limits.
#[derive(Debug, Clone, Default)]
pub struct Proposal {
    pub writes: Writes<Write>,
    pub conditions: Vec<Condition>,
    /// Decide and answer as if, and write nothing.
    pub validate_only: bool,
    /// What the one event of the one write sets: it is made by [`Setting::proposal`]. Where it changes
    /// nothing, nothing is written.
    pub setting: Option<Setting>,
}

impl Proposal {
    /// How many bytes it holds while it waits, but for what is small: its events.
    pub fn size(&self) -> usize {
        self.writes.iter().map(|write| write.events.size_max()).sum()
    }
}

/// What a proposal does to one stream.
#[derive(Debug, Clone)]
pub struct Write {
    pub stream: Name,
    /// May be empty: then the stream is only checked.
    pub events: NewEvents,
    /// How many events the stream must have; `None`: not checked.
    pub expected: Option<Version>,
}

/// "No event matching this filter exists after this position": the dynamic consistency boundary.
#[derive(Debug, Clone, Default)]
pub struct Condition {
    pub filter: Filter,
    pub after: Position,
    /// No event up to here breaks it: the caller has looked already, so that the sequencer, which all
    /// writers wait for, need look at the newest few only. At least `after`, at most a watermark.
    pub checked: Position,
    /// At this time, microseconds: later nothing is hidden less. 0 where nothing was hidden.
    pub checked_at_micros: i64,
}

/// Where the events of a proposal are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// One for each write, in their order.
    pub writes: Writes<Written>,
    /// The least and the greatest position; both 0 where nothing was written (`validate_only`, or a
    /// proposal that only checks).
    pub first: Position,
    pub last: Position,
    /// `None` where nothing was written.
    pub recorded_at: Option<Timestamp>,
    /// All of it had been written before.
    pub duplicate: bool,
}

/// Where the events of one write are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// 0 where the write had no events.
    pub first: Version,
    /// The version of the last event; the stream's version where the write had none.
    pub last: Version,
}

/// Why an append was refused, or what is known when it failed. No wire type, no status code. Every
/// variant but the last promises that nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Optimistic concurrency: somebody else was first. Read, decide again, append again.
    #[error("stream {stream} has version {actual}, expected {expected}")]
    WrongExpectedVersion { stream: Name, expected: Version, actual: Version },
    /// Events exist that must not: the first of them, in the order of the log.
    #[error("condition {condition} does not hold: a matching event exists after position {after}")]
    ConditionBroken { condition: usize, after: Position, positions: Vec<Position> },
    /// The id is that of another event, or the call repeats a part of an earlier one only.
    #[error("event id {id} is taken by the event at position {position} of stream {stream}")]
    EventIdConflict { id: Uuid, stream: Name, position: Position },
    /// Nothing was ever written to the stream that a setting is about.
    #[error("there is no stream {stream}")]
    UnknownStream { stream: Name },
    /// The stream is never written to again.
    #[error("stream {stream} is tombstoned: it can never be written to again")]
    Tombstoned { stream: Name, version: Version },
    /// There are not so many events to hide.
    #[error("version {before} is beyond the stream's end, at most {max} is allowed")]
    TruncatesBeyondEnd { before: Version, max: Version },
    /// Each looser rule is remembered with those before it, for what they have hidden.
    #[error(
        "the rule of category {category} was loosened {max} times, each time further; set a \
             stricter one"
    )]
    TooManyRules { category: Name, max: usize },
    /// The history has the memory that it may have: until somebody gives the server more.
    #[error("the store is full: it has {used} bytes of {max}")]
    Full { used: usize, max: usize },
    /// Too many proposals wait, or too large ones: a repeat after a pause can help.
    #[error("the most {queue} that may wait are waiting: {max}")]
    Overloaded { queue: Queue, max: usize },
    /// The log broke, maybe after it had taken the commit, or the process is ending. Repeat with the
    /// same event ids to find out.
    #[error("the outcome is unknown")]
    OutcomeUnknown(#[source] CommitLogError),
}

/// What of the proposals that wait is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    Appends,
    Bytes,
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Appends => "appends",
            Self::Bytes => "bytes of appends",
        })
    }
}

/// How many of the events that broke a condition a refusal names.
pub const BREAKING_POSITIONS_MAX: usize = 5;
