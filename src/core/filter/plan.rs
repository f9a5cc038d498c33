//! A filter over the indexes as of now: a cursor that jumps from match to match.
//!
//! Unions take the least of their parts, intersections leapfrog: each part in turn jumps to where the
//! others are, until all agree (Veldhuizen, Leapfrog Triejoin, 2014, the unary case). Both directions
//! are the same walk over keys that rise: a position itself, or its distance from the end.

use super::{Clause, Filter};
use crate::core::{
    history::History,
    index::{map::IndexMap, positions::Positions},
    name::Name,
    position::Position,
    retention::Visibility,
};

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

/// The next key, or how far the search has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Found(u64),
    Paused(u64),
    End,
}

impl Next {
    /// Nothing that matches lies before this key.
    fn reached(self) -> u64 {
        match self {
            Self::Found(key) | Self::Paused(key) => key,
            Self::End => u64::MAX,
        }
    }
}

impl Direction {
    /// The key of `position`; its own inverse.
    fn key(self, position: u64) -> u64 {
        match self {
            Self::Forwards => position,
            Self::Backwards => u64::MAX - position,
        }
    }
}

/// Walks what a filter picks of the history as of one moment.
pub struct Cursor {
    root: Node,
    direction: Direction,
    head: Position,
}

impl Cursor {
    /// A cursor over `history` up to `head`, a watermark that was taken before.
    pub fn new(filter: &Filter, history: &History, head: Position, direction: Direction) -> Self {
        let clause = |clause| Node::of_clause(clause, history, direction);
        let root = match &filter.clauses[..] {
            [] => Node::Everything,
            [one] => clause(one),
            many => Node::any(many.iter().map(clause).collect()),
        };
        Self { root, direction, head }
    }

    /// The first match at `from` or behind it in the cursor's direction. Calls only ever go on in that
    /// direction. `budget` is how many jumps it may make, and is taken from.
    pub fn seek(&mut self, from: Position, budget: &mut u32) -> Step {
        let from = if self.direction == Direction::Backwards { from.min(self.head) } else { from };
        let next = self.root.seek(self.direction.key(from.get()), budget);
        let position = |key| Position::new(self.direction.key(key));
        let outside = |at: Position| at == Position::ZERO || at > self.head;
        match next {
            Next::Found(key) if !outside(position(key)) => Step::Found(position(key)),
            Next::Paused(key) if !outside(position(key)) => Step::Paused(position(key)),
            _ => Step::End,
        }
    }
}

/// The first positions after `after`, up to `to`, that `filter` matches and that are not hidden: at most
/// `max`, with at most `budget` jumps and hidden matches. The second value says up to where it has looked.
/// `to` is a watermark that was taken before, or the sequencer's head.
pub fn matches(
    filter: &Filter,
    history: &History,
    (after, to): (Position, Position),
    max: usize,
    mut budget: u32,
    mut visibility: Option<&mut Visibility>,
) -> (Vec<Position>, Position) {
    let mut found = Vec::new();
    let mut cursor = Cursor::new(filter, history, to, Direction::Forwards);
    let mut from = after.next();
    loop {
        match cursor.seek(from, &mut budget) {
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
            Step::Paused(position) => return (found, position.previous()),
            Step::End => return (found, to.max(after)),
        }
    }
}

enum Node {
    Everything,
    Nothing,
    List(ListCursor),
    Any(Vec<Node>),
    All(Vec<Node>, Option<(u64, Next)>),
}

impl Node {
    fn of_clause(clause: &Clause, history: &History, direction: Direction) -> Self {
        let list = |map: &IndexMap, name: &Name| match map.get(name.as_str()) {
            Some(positions) => Self::List(ListCursor { positions, direction, at: None }),
            None => Self::Nothing,
        };
        let any =
            |map, names: &[Name]| Self::any(names.iter().map(|name| list(map, name)).collect());
        let mut factors = Vec::new();
        for (map, names) in [
            (&history.streams, &clause.streams),
            (&history.categories, &clause.categories),
            (&history.types, &clause.types),
            (&history.tags, &clause.tags),
        ] {
            if !names.is_empty() {
                factors.push(any(map, names));
            }
        }
        factors.extend(clause.tags_all.iter().map(|tag| list(&history.tags, tag)));
        if factors.iter().any(|factor| matches!(factor, Self::Nothing)) {
            return Self::Nothing;
        }
        match factors.len() {
            0 => Self::Everything,
            1 => factors.remove(0),
            _ => Self::All(factors, None),
        }
    }

    fn any(mut nodes: Vec<Self>) -> Self {
        nodes.retain(|node| !matches!(node, Self::Nothing));
        match nodes.len() {
            0 => Self::Nothing,
            1 => nodes.remove(0),
            _ => Self::Any(nodes),
        }
    }

    fn seek(&mut self, from: u64, budget: &mut u32) -> Next {
        match self {
            Self::Everything => Next::Found(from),
            Self::Nothing => Next::End,
            Self::List(list) => list.seek(from).map_or(Next::End, Next::Found),
            Self::Any(nodes) => {
                let mut least = Next::End;
                for node in nodes {
                    let next = node.seek(from, budget);
                    let sooner = next.reached() < least.reached();
                    // Where one part has paused and another has found the same key, it is a match.
                    let surer = next.reached() == least.reached() && matches!(next, Next::Found(_));
                    if sooner || surer {
                        least = next;
                    }
                }
                least
            }
            Self::All(nodes, last) => {
                if let Some((asked, next)) = *last
                    && asked <= from
                    && from <= next.reached()
                    && !matches!(next, Next::Paused(_))
                {
                    return next;
                }
                let next = leapfrog(nodes, from, budget);
                *last = Some((from, next));
                next
            }
        }
    }
}

fn leapfrog(nodes: &mut [Node], from: u64, budget: &mut u32) -> Next {
    let mut candidate = from;
    let mut agreed = 0;
    for index in (0..nodes.len()).cycle() {
        if *budget == 0 {
            return Next::Paused(candidate);
        }
        *budget -= 1;
        match nodes[index].seek(candidate, budget) {
            Next::Found(key) if key == candidate => agreed += 1,
            Next::Found(key) => {
                candidate = key;
                agreed = 1;
            }
            other => return other,
        }
        if agreed == nodes.len() {
            return Next::Found(candidate);
        }
    }
    Next::End
}

/// A place in one list.
struct ListCursor {
    positions: Positions,
    direction: Direction,
    /// The index of the last answer, and its key.
    at: Option<(u64, u64)>,
}

impl ListCursor {
    fn seek(&mut self, from: u64) -> Option<u64> {
        if let Some((index, key)) = self.at {
            if key >= from {
                return Some(key);
            }
            // Most steps go to the neighbour.
            let neighbour = match self.direction {
                Direction::Forwards => Some(index + 1),
                Direction::Backwards => index.checked_sub(1),
            };
            let (index, key) = neighbour.and_then(|index| self.entry(index))?;
            if key >= from {
                self.at = Some((index, key));
                return Some(key);
            }
        }
        let place = Position::new(self.direction.key(from));
        let index = match self.direction {
            Direction::Forwards => Some(self.positions.count(place.previous())),
            Direction::Backwards => self.positions.count(place).checked_sub(1),
        };
        self.at = index.and_then(|index| self.entry(index));
        self.at.map(|(_, key)| key)
    }

    fn entry(&self, index: u64) -> Option<(u64, u64)> {
        let position = self.positions.get(index)?;
        Some((index, self.direction.key(position.get())))
    }
}
