//! Reads of the history that are not a walk over events: one event, one stream, lists, counts.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::scan::Scan;
use crate::core::{
    clock::Timestamp,
    filter::{
        Filter,
        plan::{self, Direction},
    },
    history::History,
    index::{
        map::{Entry, IndexMap},
        positions::Positions,
    },
    log::Reader,
    name,
    position::{Position, Version},
};

/// A query waits at most so long for its `min_position`.
const MIN_POSITION_WAIT_MAX: Duration = Duration::from_secs(30);
/// So many matches are counted before other tasks get their turn.
const COUNTED_BETWEEN_YIELDS: usize = 4096;

/// Why a query has no answer. It wrote nothing, of course.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Nothing was ever written to the stream.
    #[error("there is no stream {0}")]
    UnknownStream(String),
    /// No event has this id.
    #[error("there is no event with id {0}")]
    UnknownId(Uuid),
    /// No event has this position.
    #[error("there is no event at position {position}; the head is {head}")]
    UnknownPosition { position: Position, head: Position },
    /// The log did not get there in time.
    #[error("the log has not reached position {min_position} in time; the head is {head}")]
    MinPositionNotReached { min_position: Position, head: Position },
    /// The server stops, and the log will not get there.
    #[error("the server stops before the log has reached position {min_position}")]
    ShuttingDown { min_position: Position },
}

/// What is known of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFacts {
    pub name: String,
    pub category: String,
    pub version: Version,
    pub first: Position,
    pub last: Position,
    pub first_recorded_at: Timestamp,
    pub last_recorded_at: Timestamp,
}

/// What is known of a category or a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameFacts {
    pub name: String,
    pub events: u64,
    pub last: Position,
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The name after which the next page begins; `None`: there is none.
    pub next: Option<String>,
}

/// Which part of a list.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// Names that begin with this.
    pub prefix: String,
    /// Names after this.
    pub after: String,
    /// At most so many.
    pub size: usize,
}

/// Reads the history.
#[derive(Clone)]
pub struct QueryService {
    history: Arc<History>,
    stop: CancellationToken,
}

impl QueryService {
    /// Nothing is waited for any more when `stop` is cancelled.
    pub fn new(history: Arc<History>, stop: CancellationToken) -> Self {
        Self { history, stop }
    }

    /// The history that is read.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Waits until `min_position` is visible, at most 30 seconds and at most `patience`.
    pub async fn reach(
        &self,
        min_position: Position,
        patience: Option<Duration>,
    ) -> Result<(), QueryError> {
        let watermark = self.history.log.watermark();
        if min_position <= watermark.get() {
            return Ok(());
        }
        let patience = patience.unwrap_or(MIN_POSITION_WAIT_MAX).min(MIN_POSITION_WAIT_MAX);
        tokio::select! {
            biased;
            _ = watermark.beyond(min_position.previous()) => Ok(()),
            () = self.stop.cancelled() => Err(QueryError::ShuttingDown { min_position }),
            () = tokio::time::sleep(patience) => {
                let head = watermark.get();
                Err(QueryError::MinPositionNotReached { min_position, head })
            }
        }
    }

    /// A walk over one stream.
    pub fn read_stream(
        &self,
        stream: &str,
        direction: Direction,
        after: Version,
        limit: u64,
    ) -> Result<Scan, QueryError> {
        Scan::stream(&self.history, stream, direction, after, limit)
            .ok_or_else(|| QueryError::UnknownStream(stream.to_owned()))
    }

    /// A walk over the log.
    pub fn read_all(
        &self,
        filter: &Filter,
        direction: Direction,
        after: Position,
        limit: u64,
    ) -> Scan {
        Scan::all(&self.history, filter, direction, after, limit)
    }

    /// The position of the event with this id, and a reader that sees it.
    pub fn find(&self, id: Uuid) -> Result<(Reader, Position), QueryError> {
        let reader = self.history.log.reader();
        match self.history.find(&id, &reader) {
            Some(position) => Ok((reader, position)),
            None => Err(QueryError::UnknownId(id)),
        }
    }

    /// A reader that sees the event at `position`.
    pub fn at(&self, position: Position) -> Result<(Reader, Position), QueryError> {
        let reader = self.history.log.reader();
        let head = reader.head();
        if position == Position::ZERO || position > head {
            return Err(QueryError::UnknownPosition { position, head });
        }
        Ok((reader, position))
    }

    /// What is known of `stream`.
    pub fn stream(&self, stream: &str) -> Result<StreamFacts, QueryError> {
        let reader = self.history.log.reader();
        self.history
            .streams
            .get(stream)
            .and_then(|positions| stream_facts(stream, &positions, &reader))
            .ok_or_else(|| QueryError::UnknownStream(stream.to_owned()))
    }

    /// A page of the streams.
    pub fn streams(&self, page: &PageRequest) -> Page<StreamFacts> {
        let reader = self.history.log.reader();
        list(&self.history.streams, page, &reader, |entry| {
            stream_facts(entry.name.as_str(), &entry.positions, &reader)
        })
    }

    /// A page of the categories.
    pub fn categories(&self, page: &PageRequest) -> Page<NameFacts> {
        let reader = self.history.log.reader();
        list(&self.history.categories, page, &reader, |entry| name_facts(entry, reader.head()))
    }

    /// A page of the event types.
    pub fn types(&self, page: &PageRequest) -> Page<NameFacts> {
        let reader = self.history.log.reader();
        list(&self.history.types, page, &reader, |entry| name_facts(entry, reader.head()))
    }

    /// How many events `filter` matches, and up to which position they were counted. What one index
    /// knows is read off it; anything else costs a step a match.
    pub async fn count(&self, filter: &Filter) -> (u64, Position) {
        let head = self.history.log.watermark().get();
        if filter.is_everything() {
            return (head.get(), head);
        }
        if let Some(count) = self.count_by_index(filter, head) {
            return (count, head);
        }
        let (mut count, mut seen) = (0, Position::ZERO);
        while seen < head {
            let budget = 2 * u32::try_from(COUNTED_BETWEEN_YIELDS).expect("a small number");
            let (found, reached) =
                plan::matches(filter, &self.history, (seen, head), COUNTED_BETWEEN_YIELDS, budget);
            count += found.len() as u64;
            seen = reached;
            tokio::task::yield_now().await;
        }
        (count, head)
    }

    /// The count of a filter that names values of one kind only, no event of which has two.
    fn count_by_index(&self, filter: &Filter, head: Position) -> Option<u64> {
        let [clause] = &filter.clauses[..] else { return None };
        let history = &self.history;
        let (map, names) = [
            (&history.streams, &clause.streams),
            (&history.categories, &clause.categories),
            (&history.types, &clause.types),
        ]
        .into_iter()
        .find(|(_, names)| !names.is_empty() && names.len() == clause.size())?;
        let mut names: Vec<_> = names.iter().collect();
        names.sort();
        names.dedup();
        Some(names.iter().map(|name| map.count(name.as_str(), head)).sum())
    }
}

fn list<T>(
    map: &IndexMap,
    page: &PageRequest,
    reader: &Reader,
    facts: impl Fn(&Entry) -> Option<T>,
) -> Page<T> {
    let mut entries = map.list(&page.prefix, &page.after, reader.head());
    let mut last = None;
    let items = entries
        .by_ref()
        .filter_map(|entry| {
            let facts = facts(&entry)?;
            last = Some(entry.name);
            Some(facts)
        })
        .take(page.size)
        .collect();
    let more = entries.next().is_some();
    Page { items, next: last.filter(|_| more).map(|name| name.to_string()) }
}

fn name_facts(entry: &Entry, head: Position) -> Option<NameFacts> {
    let last = entry.positions.at_or_before(head)?;
    let events = entry.positions.count(head);
    Some(NameFacts { name: entry.name.to_string(), events, last })
}

fn stream_facts(name: &str, positions: &Positions, reader: &Reader) -> Option<StreamFacts> {
    let (first, last) = (positions.first(), positions.at_or_before(reader.head())?);
    let recorded_at = |position| Some(reader.event(position)?.stamp.recorded_at);
    Some(StreamFacts {
        name: name.to_owned(),
        category: name::category(name).to_owned(),
        version: Version::new(positions.count(reader.head())),
        first,
        last,
        first_recorded_at: recorded_at(first)?,
        last_recorded_at: recorded_at(last)?,
    })
}
