//! A filter over the indexes as of now: a cursor that jumps from match to match.
//!
//! ```text
//! types: Paid            1 . . 4 . 6 . . 9 .       candidates: where all indexes agree
//! metadata.userId: u7    . 2 . 4 . 6 . . 9 .  ──►  4 6 9  ──► checks: time, text, JSON  ──►  6
//! ```
//!
//! What an index knows leads; what no index knows is looked for in the candidates, the cheapest first. How lists
//! are united and intersected is in `nodes`.

use super::{
    Clause, Filter, MetadataMatch, TimeRange,
    check::{Check, RecordCheck},
    nodes::{All, Next, Node, Work},
};
use crate::core::{
    clock::Timestamp,
    history::History,
    index::{
        map::IndexMap,
        positions::{Positions, Walk},
        shared_ids::{Candidates, SharedIds},
    },
    log::Reader,
    name::Name,
    position::Position,
    retention::Visibility,
};

/// A prefix of more streams is looked for in the candidates' names.
const PREFIX_STREAMS_MAX: usize = 4096;
/// Of so few positions, each record is looked at for a prefix rather than all streams that have it listed.
const PREFIX_POSITIONS_MAX: u64 = 4096;

/// Which way to walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forwards,
    Backwards,
}

/// What a step of a cursor came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next match.
    Found(Position),
    /// The budget is used up; nothing between the start and here matches. Go on from here.
    Paused(Position),
    /// Nothing more matches.
    End,
}

/// What a cursor has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Jumps from candidate to candidate, or to find one.
    pub steps: u64,
    /// Records that were read.
    pub examined: u64,
    /// Bytes of data that were looked through.
    pub examined_bytes: u64,
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |sum, cost| Self {
            steps: sum.steps + cost.steps,
            examined: sum.examined + cost.examined,
            examined_bytes: sum.examined_bytes + cost.examined_bytes,
        })
    }
}

/// How a clause is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub indexes: Vec<IndexUse>,
    /// What is looked for in the candidates.
    pub checks: Vec<&'static str>,
    /// The first and the last position that are looked at; none are where the first is greater.
    pub range: (Position, Position),
    /// At most so many events have to be looked at.
    pub candidates_max: u64,
}

/// An index, and what it knows of a clause's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexUse {
    pub index: String,
    /// How many of the values it has.
    pub values: u64,
    /// How many events it has for them, at most.
    pub events: u64,
}

impl Direction {
    /// The key of `position`; its own inverse.
    pub(super) fn key(self, position: u64) -> u64 {
        match self {
            Self::Forwards => position,
            Self::Backwards => u64::MAX - position,
        }
    }
}

/// Walks what a filter picks of the history as of one moment. It holds no part of the log.
pub struct Cursor {
    pub(super) root: Node,
    direction: Direction,
    pub(super) head: Position,
    cost: Cost,
}

impl Cursor {
    /// A cursor over what `reader` sees of `history`.
    pub fn new(filter: &Filter, history: &History, reader: &Reader, direction: Direction) -> Self {
        Self::over(filter, history, reader, direction, u64::MAX)
    }

    /// A cursor forwards that is asked for nothing up to `after`.
    pub fn after(after: Position, filter: &Filter, history: &History, reader: &Reader) -> Self {
        let positions = reader.head().get().saturating_sub(after.get());
        Self::over(filter, history, reader, Direction::Forwards, positions)
    }

    /// A cursor that is asked for so many positions at most.
    fn over(
        filter: &Filter,
        history: &History,
        reader: &Reader,
        direction: Direction,
        positions: u64,
    ) -> Self {
        let clause =
            |clause| Parts::of(clause, history, reader, positions).into_node(reader.head());
        let root = match &filter.clauses[..] {
            [] => Node::Everything,
            [one] => clause(one),
            many => Node::any(many.iter().map(clause).collect()),
        };
        Self { root, direction, head: reader.head(), cost: Cost::default() }
    }

    /// The first match at `from` or behind it in the cursor's direction. Calls only ever go on in that
    /// direction. `reader` sees what the cursor was made for, but for what was dropped since. `budget` is
    /// about how many jumps it may make, and is taken from; one of fewer than a clause has values may lead
    /// nowhere.
    pub fn seek(&mut self, from: Position, reader: &Reader, budget: &mut u32) -> Step {
        let direction = self.direction;
        let from = if direction == Direction::Backwards { from.min(self.head) } else { from };
        let mut work = Work { reader, direction, budget, cost: &mut self.cost };
        let next = self.root.seek(direction.key(from.get()), &mut work);
        let position = |key| Position::new(direction.key(key));
        let outside = |at: Position| at == Position::ZERO || at > self.head;
        match next {
            Next::Found(key) if !outside(position(key)) => Step::Found(position(key)),
            Next::Paused(key) if !outside(position(key)) => Step::Paused(position(key)),
            _ => Step::End,
        }
    }

    /// Adds the matches from `from` on to `out`, until it has `max` or the budget is used up. Of a cursor
    /// forwards. Where to go on; `None`: there are no more.
    pub fn fill(
        &mut self,
        from: Position,
        reader: &Reader,
        budget: &mut u32,
        max: usize,
        out: &mut Vec<u64>,
    ) -> Option<Position> {
        let head = self.head;
        match &self.root {
            Node::Everything => {
                let room = (max - out.len()) as u64;
                out.extend(from.get()..=head.get().min(from.get().saturating_add(room) - 1));
            }
            Node::List(walk) => walk.positions().fill(from, head, max, out),
            _ => {
                let mut from = from;
                while out.len() < max {
                    match self.seek(from, reader, budget) {
                        Step::Found(position) => {
                            out.push(position.get());
                            from = position.next();
                        }
                        Step::Paused(position) => return Some(position),
                        Step::End => return None,
                    }
                }
                return Some(from);
            }
        }
        *budget = budget.saturating_sub(u32::try_from(out.len() / 16).unwrap_or(u32::MAX));
        let last = out.last().filter(|_| out.len() == max)?;
        Some(Position::new(last + 1)).filter(|next| *next <= head)
    }

    /// What it has done so far.
    pub fn cost(&self) -> Cost {
        self.cost
    }
}

/// How each clause of `filter` is answered from what `reader` sees of `history`; of no clause: one plan for
/// every event.
pub fn explain(filter: &Filter, history: &History, reader: &Reader) -> Vec<Plan> {
    if filter.is_everything() {
        return vec![Parts::of(&Clause::default(), history, reader, u64::MAX).plan()];
    }
    let plan = |clause| Parts::of(clause, history, reader, u64::MAX).plan();
    filter.clauses.iter().map(plan).collect()
}

/// The first positions after `after`, up to `reader`'s head, that `filter` matches and that are not hidden: at
/// most `max`, with about `budget` jumps and hidden matches, and more where those lead nowhere. The second
/// value says up to where it has looked. `reader` sees what is published, or what the sequencer has written.
pub fn matches(
    filter: &Filter,
    history: &History,
    reader: &Reader,
    after: Position,
    max: usize,
    mut budget: u32,
    mut visibility: Option<&mut Visibility>,
) -> (Vec<Position>, Position) {
    let mut found = Vec::new();
    let mut cursor = Cursor::new(filter, history, reader, Direction::Forwards);
    let (mut from, mut more) = (after.next(), budget.max(1));
    loop {
        match cursor.seek(from, reader, &mut budget) {
            Step::Found(position) => {
                from = position.next();
                if visibility.as_mut().is_some_and(|visibility| visibility.hides(position)) {
                    budget = budget.saturating_sub(1);
                } else {
                    found.push(position);
                }
                if found.len() == max || budget == 0 {
                    return (found, position);
                }
            }
            // One of several clauses has used it up. Another cursor would do all of that again, for ever.
            Step::Paused(position) if position == after.next() => {
                more = more.saturating_mul(2);
                budget = more;
            }
            Step::Paused(position) => return (found, position.previous()),
            Step::End => return (found, reader.head().max(after)),
        }
    }
}

/// What a clause comes to: indexes, what they do not know, and where.
struct Parts {
    factors: Vec<Factor>,
    checks: Vec<Check>,
    /// The first and the last position.
    range: (u64, u64),
}

/// An index's part.
struct Factor {
    node: Node,
    events: u64,
    values: u64,
    index: String,
}

impl Factor {
    fn new(index: impl Into<String>, parts: Vec<(Node, u64)>) -> Self {
        let values = parts.len() as u64;
        let events = parts.iter().map(|(_, events)| events).sum();
        let node = Node::any(parts.into_iter().map(|(node, _)| node).collect());
        Self { node, events, values, index: index.into() }
    }

    /// The events that have any of these names.
    fn of_map<'a>(
        index: impl Into<String>,
        map: &IndexMap,
        names: impl Iterator<Item = &'a str>,
        head: Position,
    ) -> Self {
        let list = |positions: Positions| {
            let events = positions.count(head);
            (Node::List(Walk::new(positions)), events)
        };
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        Self::new(index, names.into_iter().filter_map(|name| map.get(name)).map(list).collect())
    }

    /// The events that may have any of these ids.
    fn of_ids(index: &str, ids: &SharedIds, names: &[Name], reader: &Reader) -> Self {
        let parts = names.iter().filter_map(|id| {
            match ids.candidates(id.as_str(), reader.head(), reader.first()) {
                Candidates::Few(few) if few.is_empty() => None,
                Candidates::Few(few) => {
                    let events = few.len() as u64;
                    Some((Node::Few(few), events))
                }
                Candidates::Many(list) => {
                    let events = list.count(reader.head());
                    Some((Node::List(Walk::new(list)), events))
                }
            }
        });
        Self::new(index, parts.collect())
    }
}

impl Parts {
    /// Of a walk over so many positions.
    fn of(clause: &Clause, history: &History, reader: &Reader, positions: u64) -> Self {
        let Clause {
            streams,
            stream_prefixes,
            categories,
            types,
            tags,
            tags_all,
            correlation_ids,
            causation_ids,
            metadata,
            occurred,
            recorded,
            text,
            json,
        } = clause;
        let head = reader.head();
        let mut factors = Vec::new();
        for (index, map, names) in [
            ("streams", &history.streams, streams),
            ("categories", &history.categories, categories),
            ("types", &history.types, types),
            ("tags", &history.tags, tags),
        ] {
            if !names.is_empty() {
                let names = names.iter().map(Name::as_str);
                factors.push(Factor::of_map(index, map, names, head));
            }
        }
        factors.extend(
            tags_all.iter().map(|tag| {
                Factor::of_map("tags", &history.tags, std::iter::once(tag.as_str()), head)
            }),
        );
        let mut record = RecordCheck {
            correlation_ids: correlation_ids.clone(),
            causation_ids: causation_ids.clone(),
            stream_prefixes: Vec::new(),
            metadata: Vec::new(),
            text: text.clone(),
            json: json.clone(),
        };
        for (index, ids, names) in [
            ("correlation ids", &history.correlations, correlation_ids),
            ("causation ids", &history.causations, causation_ids),
        ] {
            if !names.is_empty() {
                factors.push(Factor::of_ids(index, ids, names, reader));
            }
        }
        for MetadataMatch { key, values } in metadata {
            match history.metadata(key.as_str()) {
                Some(index) => {
                    let (name, values) = (format!("metadata.{key}"), values.iter().map(|it| &**it));
                    factors.push(Factor::of_map(name, &index.values, values, head));
                }
                None => {
                    record
                        .metadata
                        .push(MetadataMatch { key: key.clone(), values: values.clone() });
                }
            }
        }
        if !stream_prefixes.is_empty() {
            let few = positions <= PREFIX_POSITIONS_MAX;
            let names = if few { None } else { streams_with(stream_prefixes, history, head) };
            if let Some(names) = names {
                let names = names.iter().map(Name::as_str);
                factors.push(Factor::of_map("stream prefixes", &history.streams, names, head));
            } else {
                record.stream_prefixes.clone_from(stream_prefixes);
                if let Some(categories) = categories_of(stream_prefixes) {
                    let (map, names) = (&history.categories, categories.into_iter());
                    factors.push(Factor::of_map("categories", map, names, head));
                }
            }
        }
        let mut checks = Vec::new();
        if !occurred.is_everything() {
            let (range, times) = (*occurred, history.columns.occurred.view());
            checks.push(Check::Occurred { range, times });
        }
        if !record.is_nothing() {
            checks.push(Check::Record(Box::new(record)));
        }
        Self { factors, checks, range: recorded_in(*recorded, reader) }
    }

    fn into_node(self, head: Position) -> Node {
        let Self { mut factors, checks, range } = self;
        if factors.iter().any(|factor| matches!(factor.node, Node::Nothing)) || range.0 > range.1 {
            return Node::Nothing;
        }
        // The rarest leads.
        factors.sort_by_key(|factor| factor.events);
        let mut factors: Vec<Node> = factors.into_iter().map(|factor| factor.node).collect();
        let whole = checks.is_empty() && range == (1, head.get());
        match factors.len() {
            0 if whole => Node::Everything,
            1 if whole => factors.remove(0),
            _ => Node::All(Box::new(All { factors, checks, range, last: None, touched: 0 })),
        }
    }

    fn plan(self) -> Plan {
        let Self { factors, checks, range } = self;
        let indexes = factors.into_iter().map(|factor| {
            let Factor { events, values, index, .. } = factor;
            IndexUse { index, values, events }
        });
        let indexes: Vec<_> = indexes.collect();
        let in_range = (range.1.saturating_add(1)).saturating_sub(range.0);
        let candidates = indexes.iter().map(|index| index.events).chain([in_range]).min();
        Plan {
            indexes,
            checks: checks.iter().flat_map(Check::names).collect(),
            range: (Position::new(range.0), Position::new(range.1)),
            candidates_max: candidates.unwrap_or(0),
        }
    }
}

/// The streams whose names begin with any of `prefixes`; `None` if they are too many to unite.
fn streams_with(prefixes: &[Name], history: &History, head: Position) -> Option<Vec<Name>> {
    let mut names = Vec::new();
    for prefix in prefixes {
        let room = PREFIX_STREAMS_MAX + 1 - names.len();
        let some = history.streams.list(prefix.as_str(), "", head).map(|entry| entry.name);
        names.extend(some.take(room));
        if names.len() > PREFIX_STREAMS_MAX {
            return None;
        }
    }
    Some(names)
}

/// The categories of all streams that begin so, where the prefixes say them.
pub fn categories_of(prefixes: &[Name]) -> Option<Vec<&str>> {
    let category = |prefix: &'_ Name| match prefix.as_str().split_once('-') {
        Some((category, _)) if !category.is_empty() => Some(category.len()),
        _ => None,
    };
    prefixes.iter().map(|prefix| category(prefix).map(|end| &prefix.as_str()[..end])).collect()
}

/// The first and the last position that were recorded in `range`.
fn recorded_in(range: TimeRange, reader: &Reader) -> (u64, u64) {
    // Recorded times are whole microseconds.
    let at_or_after =
        |moment: Timestamp| reader.first_recorded_at_or_after(moment.micros_up()).get();
    let last = range.to.map_or(reader.head().get(), |to| at_or_after(to) - 1);
    (range.from.map_or(1, at_or_after), last)
}
