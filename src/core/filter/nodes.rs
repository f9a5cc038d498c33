//! What a plan is made of: lists, unions, intersections, and what is looked for in the candidates.
//!
//! Unions take the least of their parts, intersections leapfrog: each part in turn jumps to where the
//! others are, until all agree (Veldhuizen, Leapfrog Triejoin, 2014, the unary case). Both directions
//! are the same walk over keys that rise: a position itself, or its distance from the end.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    check::{Check, Verdict},
    plan::{Cost, Direction},
};
use crate::core::{index::positions::Walk, log::Reader, position::Position};

/// A union of more parts keeps them in a heap.
const PARTS_WALKED_MAX: usize = 8;
/// So many candidates' records are loaded ahead.
const TOUCHED_AT_ONCE: usize = 64;

/// The next key, or how far the search has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Found(u64),
    Paused(u64),
    End,
}

impl Next {
    /// Nothing that matches lies before this key.
    pub(super) fn reached(self) -> u64 {
        match self {
            Self::Found(key) | Self::Paused(key) => key,
            Self::End => u64::MAX,
        }
    }
}

/// What a step looks at, and may use up.
pub(super) struct Work<'a> {
    pub reader: &'a Reader,
    pub direction: Direction,
    pub budget: &'a mut u32,
    pub cost: &'a mut Cost,
}

impl Work<'_> {
    /// Takes so much of the budget; not if it is used up.
    fn take(&mut self, units: usize) -> bool {
        if *self.budget == 0 {
            return false;
        }
        self.cost.steps += 1;
        *self.budget = self.budget.saturating_sub(u32::try_from(units).unwrap_or(u32::MAX));
        true
    }
}

pub(super) enum Node {
    Everything,
    Nothing,
    List(Walk),
    /// Rising.
    Few(Vec<u64>),
    Any(Vec<Node>),
    Many(Union),
    All(Box<All>),
}

impl Node {
    pub(super) fn any(mut nodes: Vec<Self>) -> Self {
        nodes.retain(|node| !matches!(node, Self::Nothing));
        match nodes.len() {
            0 => Self::Nothing,
            1 => nodes.remove(0),
            2..=PARTS_WALKED_MAX => Self::Any(nodes),
            _ => Self::Many(Union {
                waiting: (0..nodes.len()).collect(),
                nodes,
                next: BinaryHeap::new(),
            }),
        }
    }

    pub(super) fn seek(&mut self, from: u64, work: &mut Work<'_>) -> Next {
        match self {
            Self::Everything => Next::Found(from),
            Self::Nothing => Next::End,
            Self::List(walk) => {
                let place = Position::new(work.direction.key(from));
                let found = match work.direction {
                    Direction::Forwards => walk.at_or_after(place),
                    Direction::Backwards => walk.at_or_before(place),
                };
                found.map_or(Next::End, |found| Next::Found(work.direction.key(found.get())))
            }
            Self::Few(positions) => {
                let place = work.direction.key(from);
                let found = match work.direction {
                    Direction::Forwards => {
                        positions.get(positions.partition_point(|position| *position < place))
                    }
                    Direction::Backwards => {
                        let after = positions.partition_point(|position| *position <= place);
                        after.checked_sub(1).map(|last| &positions[last])
                    }
                };
                found.map_or(Next::End, |found| Next::Found(work.direction.key(*found)))
            }
            Self::Any(nodes) => {
                let mut least = Next::End;
                for node in nodes {
                    let next = node.seek(from, work);
                    let sooner = next.reached() < least.reached();
                    // Where one part has paused and another has found the same key, it is a match.
                    let surer = next.reached() == least.reached() && matches!(next, Next::Found(_));
                    if sooner || surer {
                        least = next;
                    }
                }
                least
            }
            Self::Many(union) => union.seek(from, work),
            Self::All(all) => all.seek(from, work),
        }
    }
}

/// The union of many parts: those whose next keys are known in a heap, the least first.
pub(super) struct Union {
    nodes: Vec<Node>,
    next: BinaryHeap<Reverse<(u64, usize)>>,
    /// Those whose next keys are not known.
    waiting: Vec<usize>,
}

impl Union {
    fn seek(&mut self, from: u64, work: &mut Work<'_>) -> Next {
        while let Some(Reverse((key, _))) = self.next.peek()
            && *key < from
        {
            self.waiting.extend(self.next.pop().map(|Reverse((_, node))| node));
        }
        while let Some(node) = self.waiting.last() {
            if !work.take(1) {
                return Next::Paused(from);
            }
            match self.nodes[*node].seek(from, work) {
                Next::Found(key) => self.next.push(Reverse((key, *node))),
                // It goes on there when it is asked again; the others may have something before.
                Next::Paused(_) => return Next::Paused(from),
                Next::End => {}
            }
            self.waiting.pop();
        }
        self.next.peek().map_or(Next::End, |Reverse((key, _))| Next::Found(*key))
    }
}

/// An intersection.
pub(super) struct All {
    pub(super) factors: Vec<Node>,
    pub(super) checks: Vec<Check>,
    /// The first and the last position.
    pub(super) range: (u64, u64),
    /// What was asked last, and the answer.
    pub(super) last: Option<(u64, Next)>,
    /// Candidates up to here were loaded ahead.
    pub(super) touched: u64,
}

impl All {
    fn seek(&mut self, from: u64, work: &mut Work<'_>) -> Next {
        if let Some((asked, next)) = self.last
            && asked <= from
            && from <= next.reached()
        {
            match next {
                // What was looked through is not looked through again.
                Next::Paused(reached) => {
                    let next = self.search(reached.max(from), work);
                    self.last = Some((asked, next));
                    return next;
                }
                next => return next,
            }
        }
        let next = self.search(from, work);
        self.last = Some((from, next));
        next
    }

    fn search(&mut self, from: u64, work: &mut Work<'_>) -> Next {
        let (first, last) = match work.direction {
            Direction::Forwards => self.range,
            Direction::Backwards => (u64::MAX - self.range.1, u64::MAX - self.range.0),
        };
        let mut from = from.max(first);
        loop {
            if from > last {
                return Next::End;
            }
            let candidate = match &mut self.factors[..] {
                [] => Next::Found(from),
                factors => leapfrog(factors, from, work),
            };
            let Next::Found(key) = candidate else { return candidate };
            if key > last {
                return Next::End;
            }
            self.touch(key, work);
            let refused = self.checks.iter().find_map(|check| {
                if !work.take(1) {
                    return Some(Next::Paused(key));
                }
                match check.look(key, work) {
                    Verdict::Holds => None,
                    Verdict::Not(next) => Some(Next::Found(next)),
                }
            });
            match refused {
                None => return Next::Found(key),
                Some(Next::Found(next)) => from = next,
                Some(paused) => return paused,
            }
        }
    }
}

impl All {
    /// Loads the records of the candidates that follow, where one list leads forwards and records are looked
    /// at: they lie far apart.
    fn touch(&mut self, key: u64, work: &Work<'_>) {
        let [Node::List(walk)] = &self.factors[..] else { return };
        let reads = self.checks.iter().any(|check| matches!(check, Check::Record(_)));
        if !reads || key <= self.touched || work.direction == Direction::Backwards {
            return;
        }
        let mut next = Vec::with_capacity(TOUCHED_AT_ONCE);
        let (from, to) = (Position::new(key), Position::new(self.range.1));
        walk.positions().fill(from, to, TOUCHED_AT_ONCE, &mut next);
        work.reader.touch(&next);
        self.touched = next.last().copied().unwrap_or(key);
    }
}

fn leapfrog(nodes: &mut [Node], from: u64, work: &mut Work<'_>) -> Next {
    let mut candidate = from;
    let mut agreed = 0;
    for index in (0..nodes.len()).cycle() {
        if !work.take(1) {
            return Next::Paused(candidate);
        }
        match nodes[index].seek(candidate, work) {
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
