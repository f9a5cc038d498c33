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
    let clause = Clause { correlation_ids: vec![id.clone()], ..Clause::default() };
    let filter = Filter { clauses: vec![clause] };
    let mut cursor = Cursor::new(&filter, history, &reader, Direction::Forwards);
    let mut positions = Vec::new();
    let (mut event_count, mut last) = (0u64, Position::ZERO);
    let mut next = Some(reader.first().max(Position::new(1)));
    while let Some(from) = next {
        let mut found = Vec::with_capacity(READ_BETWEEN_YIELDS);
        let mut budget = u32::try_from(READ_BETWEEN_YIELDS).expect("a small number");
        next = cursor.fill(from, &reader, &mut budget, READ_BETWEEN_YIELDS, &mut found);
        found.retain(|position| {
            let position = Position::new(*position);
            visibility.as_mut().is_none_or(|visibility| !visibility.hides(position))
        });
        event_count += found.len() as u64;
        last = found.last().map_or(last, |last| Position::new(*last));
        positions.extend(found.into_iter().map(Position::new).take(max - positions.len()));
        tokio::task::yield_now().await;
    }
    let unknown = || QueryError::UnknownCorrelation(id.to_string());
    let mut facts = Vec::with_capacity(positions.len());
    let mut streams = HashSet::new();
    for (index, position) in positions.iter().enumerate() {
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
    let Some(first) = facts.first() else { return Err(unknown()) };
    let first_occurred_at = first.occurred_at;
    let last = reader.record(last).ok_or_else(unknown)?;
    let last_occurred_at = format::occurred_at(format::message(&last));

    let places: HashMap<Uuid, usize> =
        facts.iter().enumerate().map(|(index, facts)| (facts.id, index)).collect();
    let ids: Vec<Option<Uuid>> =
        facts.iter().map(|facts| Uuid::try_parse(&facts.causation_id).ok()).collect();
    let causes: Vec<Option<usize>> =
        ids.iter().map(|id| id.and_then(|id| places.get(&id).copied())).collect();
    let trees = causation::places(&causes);
    let mut entries = VecDeque::with_capacity(facts.len());
    let occurred: Vec<Timestamp> = facts.iter().map(|facts| facts.occurred_at).collect();
    for (index, (facts, tree)) in facts.iter().zip(&trees).enumerate() {
        let (cause, cause_occurred_at) = match (causes[index], ids[index]) {
            (Some(cause), _) => {
                let position = positions[cause];
                let known =
                    if tree.circle { Cause::Circle(position) } else { Cause::Known(position) };
                (known, Some(occurred[cause]))
            }
            _ if facts.causation_id.is_empty() => (Cause::None, None),
            (None, id) => {
                let found = id.and_then(|id| history.find(&id, &reader));
                let found = found.and_then(|position| {
                    let hidden =
                        visibility.as_mut().is_some_and(|visibility| visibility.hides(position));
                    let record = reader.record(position).filter(|_| !hidden)?;
                    Some((position, format::occurred_at(format::message(&record))))
                });
                match found {
                    Some((position, at)) => (Cause::Elsewhere(position), Some(at)),
                    None => (Cause::Unknown, None),
                }
            }
        };
        entries.push_back(Entry {
            position: positions[index],
            occurred_at: facts.occurred_at,
            cause,
            cause_occurred_at,
            depth: tree.depth,
            tree_order: tree.tree_order,
        });
    }
    Ok(Timeline {
        event_count,
        stream_count: streams.len() as u64,
        root_count: trees.iter().filter(|tree| tree.depth == 0).count() as u64,
        first_occurred_at,
        last_occurred_at,
        entries,
        reader,
    })
}
