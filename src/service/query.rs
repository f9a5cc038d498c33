//! Reads of the history that are not a walk over events: one event, one stream, lists, counts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    analytics::{self, Analysis, Watched, tally::TooManyRows},
    correlation::{self, Timeline},
    counts, matches,
    page_token::Fingerprint,
    places::{NoPlace, Place, Places},
    replay::{Replay, ReplayOptions},
    scan::Scan,
    search::Search,
};
use crate::core::{
    clock::{Clock, Timestamp},
    filter::{
        Filter,
        plan::{self, Cost, Direction, Plan},
    },
    history::History,
    index::{
        map::{Entry, IndexMap},
        positions::Positions,
    },
    log::{Reader, format},
    name::{self, Name},
    position::{Position, Version},
    retention::{Gone, Rule, Scope, Visibility},
};

/// A query waits at most so long for its `min_position`.
pub(super) const MIN_POSITION_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why a query has no answer. It wrote nothing, of course.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Nothing was ever written to the stream.
    #[error("there is no stream {0}")]
    UnknownStream(String),
    /// The stream was deleted when it had this version, and not written to since.
    #[error("stream {stream} is deleted")]
    Deleted { stream: String, version: Version },
    /// The stream was deleted for ever.
    #[error("stream {stream} is tombstoned")]
    Tombstoned { stream: String, version: Version },
    /// No event has this id.
    #[error("there is no event with id {0}")]
    UnknownId(Uuid),
    /// No event has this position.
    #[error("there is no event at position {position}; the head is {head}")]
    UnknownPosition { position: Position, head: Position },
    /// What follows the position is not kept any more.
    #[error("position {after} is no longer followed by what is kept; it begins at {first}")]
    NotKept { after: Position, first: Position },
    /// The log did not get there in time.
    #[error("the log has not reached position {min_position} in time; the head is {head}")]
    MinPositionNotReached { min_position: Position, head: Position },
    /// No event that can be read has this correlation id.
    #[error("there is no event with correlation id {0}")]
    UnknownCorrelation(String),
    /// Too much is open already.
    #[error(transparent)]
    TooMany(#[from] NoPlace),
    /// The answer would be too large.
    #[error(transparent)]
    TooManyRows(#[from] TooManyRows),
    /// The server stops.
    #[error("the server stops")]
    Stopping,
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
    /// `None` where all of its events are hidden.
    pub visible: Option<VisibleFacts>,
}

/// What is known of the visible events of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisibleFacts {
    pub first_version: Version,
    pub first: Position,
    pub last: Position,
    pub first_recorded_at: Timestamp,
    pub last_recorded_at: Timestamp,
}

/// What is kept of a stream or a category.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionFacts {
    pub rule: Rule,
    /// Of a stream: its category's rule.
    pub category_rule: Rule,
    /// Of a category: how many rules that have ended are remembered.
    pub ended_rules: usize,
    /// Of a stream: how many events it has had, up to which of them they are hidden, and why all are.
    pub version: Version,
    pub floor: Version,
    pub gone: Option<Gone>,
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
    clock: Arc<dyn Clock>,
    places: Places,
    stop: CancellationToken,
}

impl QueryService {
    /// Nothing is waited for any more when `stop` is cancelled. What stays open takes one of the places.
    pub fn new(
        history: Arc<History>,
        clock: Arc<dyn Clock>,
        places: Places,
        stop: CancellationToken,
    ) -> Self {
        Self { history, clock, places, stop }
    }

    /// A place for what stays open.
    pub fn take_place(&self) -> Result<Place, QueryError> {
        Ok(self.places.take()?)
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
        let scan = Scan::stream(&self.history, &*self.clock, stream, direction, after, limit)
            .ok_or_else(|| QueryError::UnknownStream(stream.to_owned()))?;
        self.not_gone(stream, scan.head())?;
        Ok(scan)
    }

    /// A walk over the log.
    pub fn read_all(
        &self,
        filter: &Filter,
        direction: Direction,
        after: Position,
        limit: u64,
    ) -> Result<Scan, QueryError> {
        let first = self.history.log.first();
        let before = direction == Direction::Forwards && after.next() < first;
        if before && after > Position::ZERO {
            return Err(QueryError::NotKept { after, first });
        }
        Ok(Scan::all(&self.history, &*self.clock, filter, direction, after, limit))
    }

    /// A reader that sees the event with this id, and its position.
    pub fn find(&self, id: Uuid) -> Result<(Reader, Position), QueryError> {
        let reader = self.history.log.reader();
        let found = self.history.find(&id, &reader);
        match found.filter(|position| self.is_visible(&reader, *position)) {
            Some(position) => Ok((reader, position)),
            None => Err(QueryError::UnknownId(id)),
        }
    }

    /// A reader that sees the event at `position`.
    pub fn at(&self, position: Position) -> Result<(Reader, Position), QueryError> {
        let reader = self.history.log.reader();
        if self.is_visible(&reader, position) {
            return Ok((reader, position));
        }
        Err(QueryError::UnknownPosition { position, head: reader.head() })
    }

    fn is_visible(&self, reader: &Reader, position: Position) -> bool {
        let is_there = reader.record(position).is_some();
        is_there && self.visibility(reader).is_none_or(|mut it| !it.hides(position))
    }

    fn visibility(&self, reader: &Reader) -> Option<Visibility> {
        self.history.visibility(reader, &*self.clock)
    }

    /// What is known of `stream`.
    pub fn stream(&self, stream: &str) -> Result<StreamFacts, QueryError> {
        let reader = self.history.log.reader();
        let unknown = || QueryError::UnknownStream(stream.to_owned());
        let positions = self.history.streams.get(stream).ok_or_else(unknown)?;
        self.not_gone(stream, reader.head())?;
        let floor = self.visibility(&reader).map_or(Version::ZERO, |mut it| it.floor(stream));
        stream_facts(stream, &positions, floor, &reader).ok_or_else(unknown)
    }

    fn gone(&self, stream: &str, head: Position) -> (Version, Option<Gone>) {
        let version = Version::new(self.history.streams.count(stream, head));
        (version, self.history.retention.gone(stream, version, head))
    }

    fn not_gone(&self, stream: &str, head: Position) -> Result<(), QueryError> {
        if self.history.retention.is_empty(head) {
            return Ok(());
        }
        let name = stream.to_owned();
        match self.gone(stream, head) {
            (_, None) => Ok(()),
            (version, Some(Gone::Deleted)) => Err(QueryError::Deleted { stream: name, version }),
            (version, Some(Gone::Tombstoned)) => {
                Err(QueryError::Tombstoned { stream: name, version })
            }
        }
    }

    /// What is kept of a stream or a category, whether it exists or not.
    pub fn retention(&self, scope: &Scope) -> RetentionFacts {
        let reader = self.history.log.reader();
        let (retention, head) = (&self.history.retention, reader.head());
        let (rule, ended_rules) = retention.rule(scope, head);
        let mut facts = RetentionFacts {
            rule,
            category_rule: Rule::default(),
            ended_rules,
            version: Version::ZERO,
            floor: Version::ZERO,
            gone: None,
        };
        if let Scope::Stream(stream) = scope {
            let stream = stream.as_str();
            let category = Name::new(name::category(stream), usize::MAX);
            let category = Scope::Category(category.expect("part of a name is a name"));
            facts.category_rule = retention.rule(&category, head).0;
            (facts.version, facts.gone) = self.gone(stream, head);
            let floor = self.visibility(&reader).map(|mut it| it.floor(stream));
            facts.floor = floor.unwrap_or_default();
        }
        facts
    }

    /// A page of the streams.
    pub fn streams(&self, page: &PageRequest) -> Page<StreamFacts> {
        let reader = self.history.log.reader();
        let mut visibility = self.visibility(&reader);
        list(&self.history.streams, page, &reader, |entry| {
            let name = entry.name.as_str();
            let floor = visibility.as_mut().map_or(Version::ZERO, |it| it.floor(name));
            let (_, None) = self.gone(name, reader.head()) else { return None };
            stream_facts(name, &entry.positions, floor, &reader)
        })
    }

    /// A page of the categories.
    pub async fn categories(&self, page: &PageRequest) -> Page<NameFacts> {
        let reader = self.history.log.reader();
        let map = &self.history.categories;
        let Some(mut visibility) = self.visibility(&reader) else {
            return list(map, page, &reader, |entry| name_facts(entry, reader.head()));
        };
        let mut named = NamedPage::new(page);
        while let Some(entry) = named.next_entry(map, &reader) {
            let name = entry.name.as_str();
            let count = counts::of_category(&self.history, name, &mut visibility).await;
            named.push(&entry, count);
        }
        named.finish()
    }

    /// A page of the event types.
    pub async fn types(&self, page: &PageRequest) -> Page<NameFacts> {
        let reader = self.history.log.reader();
        let map = &self.history.types;
        let Some(mut visibility) = self.visibility(&reader) else {
            return list(map, page, &reader, |entry| name_facts(entry, reader.head()));
        };
        let mut named = NamedPage::new(page);
        while let Some(entry) = named.next_entry(map, &reader) {
            let count = counts::of_positions(&entry.positions, &mut visibility).await;
            named.push(&entry, count);
        }
        named.finish()
    }

    /// How many visible events `filter` matches, and up to which position they were counted. What one
    /// index knows is read off it; anything else costs a step a match.
    pub async fn count(&self, filter: &Filter) -> (u64, Position) {
        let reader = self.history.log.reader();
        let visibility = self.visibility(&reader);
        (counts::of_filter(&self.history, filter, &reader, visibility).await, reader.head())
    }

    /// One page of a search.
    pub fn search(
        &self,
        filter: &Filter,
        direction: Direction,
        page: (Fingerprint, Position),
        limit: u64,
    ) -> Result<Search, QueryError> {
        let (first, after) = (self.history.log.first(), page.1);
        if direction == Direction::Forwards && after > Position::ZERO && after.next() < first {
            return Err(QueryError::NotKept { after, first });
        }
        Ok(Search::new(&self.history, &*self.clock, filter, direction, page, limit))
    }

    /// The first events of a correlation id, at most `max`.
    pub async fn correlation(&self, id: &Name, max: usize) -> Result<Timeline, QueryError> {
        correlation::timeline(&self.history, &*self.clock, id, max).await
    }

    /// Counts.
    pub async fn analyse<A: Analysis>(&self, query: &A) -> Result<A::Answer, QueryError> {
        Ok(analytics::analyse(query, &self.history, &*self.clock).await?)
    }

    /// Counts that are told again when they have changed.
    pub fn watch<A: Analysis>(&self, query: A) -> Watched<A> {
        Watched::new(query, Arc::clone(&self.history), Arc::clone(&self.clock), self.stop.clone())
    }

    /// A replay of what there is now.
    pub async fn replay(&self, options: ReplayOptions) -> Result<Replay, QueryError> {
        Replay::begin(&self.history, &*self.clock, options, self.stop.clone()).await
    }

    /// How `filter` is answered, and what that costs if `execute` says to find out.
    pub async fn explain(&self, filter: &Filter, execute: bool) -> Explanation {
        let reader = self.history.log.reader();
        let plans = plan::explain(filter, &self.history, &reader);
        let mut explanation = Explanation { head: reader.head(), plans, execution: None };
        if !execute {
            return explanation;
        }
        let (started, visibility) = (Instant::now(), self.visibility(&reader));
        let (matches, cost) = matches::count(&self.history, filter, &reader, visibility).await;
        explanation.execution = Some(Execution { matches, cost, elapsed: started.elapsed() });
        explanation
    }
}

/// How a filter is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub head: Position,
    /// One for each clause; one for no clause at all.
    pub plans: Vec<Plan>,
    pub execution: Option<Execution>,
}

/// What a walk over all matches has cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    pub matches: u64,
    pub cost: Cost,
    pub elapsed: Duration,
}

fn list<T>(
    map: &IndexMap,
    page: &PageRequest,
    reader: &Reader,
    mut facts: impl FnMut(&Entry) -> Option<T>,
) -> Page<T> {
    let entries = map.list(&page.prefix, &page.after, reader.head());
    let mut facts = entries.filter_map(|entry| Some((facts(&entry)?, entry.name)));
    let (items, names): (Vec<T>, Vec<Name>) = facts.by_ref().take(page.size).unzip();
    // A name without facts is no reason for another page.
    let more = facts.next().is_some();
    Page { items, next: names.last().filter(|_| more).map(ToString::to_string) }
}

/// A page of names that is made step by step, because to count their visible events takes time; names
/// that have none are left out.
struct NamedPage<'a> {
    request: &'a PageRequest,
    items: Vec<NameFacts>,
    /// The last name that was looked at.
    after: String,
    /// Whether there is more than the page holds.
    more: bool,
}

impl<'a> NamedPage<'a> {
    fn new(request: &'a PageRequest) -> Self {
        Self { request, items: Vec::new(), after: request.after.clone(), more: false }
    }

    /// The next name to count; `None` at the end of the page.
    fn next_entry(&self, map: &IndexMap, reader: &Reader) -> Option<Entry> {
        if self.more {
            return None;
        }
        map.list(&self.request.prefix, &self.after, reader.head()).next()
    }

    fn push(&mut self, entry: &Entry, (events, last): (u64, Position)) {
        self.after = entry.name.to_string();
        if events > 0 && self.items.len() == self.request.size {
            self.more = true;
        } else if events > 0 {
            self.items.push(NameFacts { name: entry.name.to_string(), events, last });
        }
    }

    fn finish(self) -> Page<NameFacts> {
        let last = self.items.last().filter(|_| self.more);
        Page { next: last.map(|last| last.name.clone()), items: self.items }
    }
}

fn name_facts(entry: &Entry, head: Position) -> Option<NameFacts> {
    let last = entry.positions.at_or_before(head)?;
    let events = entry.positions.count(head);
    Some(NameFacts { name: entry.name.to_string(), events, last })
}

/// `None`: nothing was written to it yet.
fn stream_facts(
    name: &str,
    positions: &Positions,
    floor: Version,
    reader: &Reader,
) -> Option<StreamFacts> {
    let version = Version::new(positions.count(reader.head()));
    let recorded_at = |position| reader.record(position).map(|record| format::recorded_at(&record));
    let visible = |first_version: Version| {
        let first = positions.get(first_version.previous().get())?;
        let last = positions.get(version.previous().get())?;
        Some(VisibleFacts {
            first_version,
            first,
            last,
            first_recorded_at: recorded_at(first)?,
            last_recorded_at: recorded_at(last)?,
        })
    };
    (version > Version::ZERO).then(|| StreamFacts {
        name: name.to_owned(),
        category: name::category(name).to_owned(),
        version,
        visible: (floor < version).then(|| visible(floor.next())).flatten(),
    })
}
