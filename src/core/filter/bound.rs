//! How many matches there can be, without a walk: what a subscriber is told of what is still to come.

use super::{
    Filter,
    nodes::{All, Node},
    plan::Cursor,
};
use crate::core::{history::History, index::positions::Positions, log::Reader, position::Position};

impl Cursor {
    /// At most so many matches come after `after`. Exact where one list leads and nothing is looked for in the
    /// candidates: the lists are counted, what is hidden with them. Of a union of many parts nothing is counted.
    pub fn matches_max(&self, after: Position) -> u64 {
        self.root.matches_max(after.get(), self.head.get())
    }
}

/// At most so many events that `filter` picks come after `after`, of what `reader` sees of `history`.
pub fn matches_max(filter: &Filter, history: &History, reader: &Reader, after: Position) -> u64 {
    if after >= reader.head() {
        return 0;
    }
    Cursor::after(after, filter, history, reader).matches_max(after)
}

impl Node {
    /// Of the positions above `after`, up to `last`.
    fn matches_max(&self, after: u64, last: u64) -> u64 {
        let all = last.saturating_sub(after);
        let counted = match self {
            Self::Everything | Self::Many(_) => all,
            Self::Nothing => 0,
            Self::List(walk) => in_list(walk.positions(), after, last),
            Self::Few(positions) => {
                let up_to = |end: u64| positions.partition_point(|position| *position <= end);
                (up_to(last) - up_to(after.min(last))) as u64
            }
            Self::Any(nodes) => nodes.iter().map(|node| node.matches_max(after, last)).sum(),
            Self::All(all) => {
                let All { factors, range, .. } = &**all;
                let (after, last) = (after.max(range.0.saturating_sub(1)), last.min(range.1));
                let factors = factors.iter().map(|factor| factor.matches_max(after, last));
                factors.chain([last.saturating_sub(after)]).min().unwrap_or(0)
            }
        };
        counted.min(all)
    }
}

fn in_list(positions: &Positions, after: u64, last: u64) -> u64 {
    let up_to = |end: u64| positions.count(Position::new(end));
    up_to(last).saturating_sub(up_to(after))
}
