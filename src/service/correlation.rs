//! The events of one correlation id: their order, their causes, the time between them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use uuid::Uuid;

use super::{analytics::causation, matches::Matches, query::QueryError};
use crate::core::{
    clock::{Clock, Timestamp},
    filter::{Clause, Filter},
    history::History,
    log::{Reader, format},
    name::Name,
    position::Position,
};

/// At most so many events are told.
pub const EVENTS_MAX: usize = 10_000;
/// So many events are read before other tasks get their turn.
const READ_BETWEEN_YIELDS: usize = 1024;

/// What is known of an event's cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It names none.
    None,
    /// It is told, too.
    Known(Position),
    /// It is an event that is not told.
    Elsewhere(Position),
    /// No event that can be read has this id.
    Unknown,
    /// It is told, and is in the end caused by this event.
    Circle(Position),
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub position: Position,
    pub occurred_at: Timestamp,
    pub cause: Cause,
    /// When the cause occurred; `None` where it is no event that can be read.
    pub cause_occurred_at: Option<Timestamp>,
    pub depth: u32,
    pub tree_order: u64,
}

/// All events of the id, or the first ones.
pub struct Timeline {
    pub event_count: u64,
    pub stream_count: u64,
    pub root_count: u64,
    pub first_occurred_at: Timestamp,
    pub last_occurred_at: Timestamp,
    pub entries: VecDeque<Entry>,
    /// Sees all of them.
    pub reader: Reader,
}

/// What is read of an event.
struct Facts {
    id: Uuid,
    causation_id: String,
    occurred_at: Timestamp,
}

/// The timeline of `id`, of at most `max` events. Lets other tasks run.
pub async fn timeline(
    history: &Arc<History>,
    clock: &dyn Clock,
    id: &Name,
    max: usize,
) -> Result<Timeline, QueryError> {
    let reader = history.log.reader();
    let unknown = || QueryError::UnknownCorrelation(id.to_string());
    let clause = Clause { correlation_ids: vec![id.clone()], ..Clause::default() };
    let (filter, visibility) =
        (Filter { clauses: vec![clause] }, history.visibility(&reader, clock));
    let mut matches = Matches::new(history, &filter, &reader, visibility, Position::ZERO);
    let mut all: Vec<Position> = Vec::new();
    while let Some(found) = matches.next().await {
        all.extend(found.iter().map(|position| Position::new(*position)));
    }
    let told = &all[..all.len().min(max)];
    let mut streams = HashSet::new();
    let mut facts = Vec::with_capacity(told.len());
    for (index, position) in told.iter().enumerate() {
        if index % READ_BETWEEN_YIELDS == 0 {
            tokio::task::yield_now().await;
        }
        let record = reader.record(*position).ok_or_else(unknown)?;
        let event = record.event();
        streams.insert(event.body.stream.to_owned());
        facts.push(Facts {
            id: event.stamp.id,
            causation_id: event.body.causation_id.to_owned(),
            occurred_at: event.stamp.occurred_at,
        });
    }
    let (Some(first), Some(last)) = (facts.first(), all.last()) else { return Err(unknown()) };
    let first_occurred_at = first.occurred_at;
    let last = reader.record(*last).ok_or_else(unknown)?;
    let last_occurred_at = format::occurred_at(format::message(&last));
    let mut visibility = history.visibility(&reader, clock);
    let mut elsewhere = |id: &Uuid| {
        let position = history.find(id, &reader)?;
        let hidden = visibility.as_mut().is_some_and(|visibility| visibility.hides(position));
        let record = reader.record(position).filter(|_| !hidden)?;
        Some((position, format::occurred_at(format::message(&record))))
    };
    let entries = entries(told, &facts, &mut elsewhere);
    Ok(Timeline {
        event_count: all.len() as u64,
        stream_count: streams.len() as u64,
        root_count: entries.iter().filter(|entry| entry.depth == 0).count() as u64,
        first_occurred_at,
        last_occurred_at,
        entries,
        reader,
    })
}

/// What is told of the events at `told`; `elsewhere` finds a readable event that is not among them, and when it
/// occurred.
fn entries(
    told: &[Position],
    facts: &[Facts],
    elsewhere: &mut dyn FnMut(&Uuid) -> Option<(Position, Timestamp)>,
) -> VecDeque<Entry> {
    let places: HashMap<Uuid, usize> =
        facts.iter().enumerate().map(|(index, facts)| (facts.id, index)).collect();
    let ids: Vec<Option<Uuid>> =
        facts.iter().map(|facts| Uuid::try_parse(&facts.causation_id).ok()).collect();
    let causes: Vec<Option<usize>> =
        ids.iter().map(|id| id.and_then(|id| places.get(&id).copied())).collect();
    let trees = causation::places(&causes);
    let entry = |index: usize| {
        let causation::Place { depth, tree_order, circle } = trees[index];
        let (cause, cause_occurred_at) = match causes[index] {
            Some(known) if circle => (Cause::Circle(told[known]), Some(facts[known].occurred_at)),
            Some(known) => (Cause::Known(told[known]), Some(facts[known].occurred_at)),
            None if facts[index].causation_id.is_empty() => (Cause::None, None),
            None => match ids[index].as_ref().and_then(&mut *elsewhere) {
                Some((position, at)) => (Cause::Elsewhere(position), Some(at)),
                None => (Cause::Unknown, None),
            },
        };
        let (position, occurred_at) = (told[index], facts[index].occurred_at);
        Entry { position, occurred_at, cause, cause_occurred_at, depth, tree_order }
    };
    (0..told.len()).map(entry).collect()
}
