//! The events of one correlation id: their order, their causes, the time between them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use uuid::Uuid;

use super::{analytics::causation, query::QueryError};
use crate::core::{
    clock::{Clock, Timestamp},
    filter::{
        Clause, Filter,
        plan::{Cursor, Direction},
    },
    history::History,
    log::{Reader, format},
    name::Name,
    position::Position,
    retention::Visibility,
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
    let mut visibility = history.visibility(&reader, clock);
    let unknown = || QueryError::UnknownCorrelation(id.to_string());
    let all = positions(history, id, &reader, &mut visibility).await;
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

/// All visible events of `id`.
async fn positions(
    history: &History,
    id: &Name,
    reader: &Reader,
    visibility: &mut Option<Visibility>,
) -> Vec<Position> {
    let clause = Clause { correlation_ids: vec![id.clone()], ..Clause::default() };
    let filter = Filter { clauses: vec![clause] };
    let mut cursor = Cursor::new(&filter, history, reader, Direction::Forwards);
    let (mut all, mut found) = (Vec::new(), Vec::new());
    let mut next = Some(reader.first().max(Position::new(1)));
    while let Some(from) = next {
        found.clear();
        let mut budget = u32::try_from(READ_BETWEEN_YIELDS).expect("a small number");
        next = cursor.fill(from, reader, &mut budget, READ_BETWEEN_YIELDS, &mut found);
        all.extend(found.iter().map(|position| Position::new(*position)).filter(|position| {
            visibility.as_mut().is_none_or(|visibility| !visibility.hides(*position))
        }));
        tokio::task::yield_now().await;
    }
    all
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
