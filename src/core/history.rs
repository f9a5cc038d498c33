//! The read side of a store: the log and its indexes, for any thread, without a lock.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    filter::{
        Filter,
        plan::{Cursor, Direction, Step},
    },
    index::{
        ids::{IdCounts, IdIndex},
        map::IndexMap,
    },
    log::{Log, Reader, format},
    position::Position,
};

/// What can be read. Written by the [`Sequencer`](super::sequencer::Sequencer) only.
///
/// Whoever reads takes a [`Reader`] or a watermark first and looks at nothing above it: an index may be
/// ahead.
pub struct History {
    pub log: Arc<Log>,
    pub streams: IndexMap,
    pub categories: IndexMap,
    pub types: IndexMap,
    pub tags: IndexMap,
    pub ids: IdIndex,
}

impl History {
    /// An empty history over `log`, and the counts that the writer of its ids keeps.
    pub fn new(log: Arc<Log>) -> (Self, IdCounts) {
        let (ids, counts) = IdIndex::new();
        let history = Self {
            log,
            streams: IndexMap::listed(),
            categories: IndexMap::listed(),
            types: IndexMap::listed(),
            tags: IndexMap::unlisted(),
            ids,
        };
        (history, counts)
    }

    /// The position of the event with this id that `reader` can see.
    pub fn find(&self, id: &Uuid, reader: &Reader) -> Option<Position> {
        self.ids.find(id, |position| {
            reader.record(position).is_some_and(|record| format::has_id(record, id))
        })
    }

    /// The first positions after `after`, up to `to`, that `filter` matches: at most `max`, with at most
    /// `budget` jumps. The second value says up to where it has looked.
    pub fn matches(
        &self,
        filter: &Filter,
        after: Position,
        to: Position,
        max: usize,
        mut budget: u32,
    ) -> (Vec<Position>, Position) {
        let mut found = Vec::new();
        let mut cursor = Cursor::new(filter, self, to, Direction::Forwards);
        let mut from = after.next();
        loop {
            match cursor.seek(from, &mut budget) {
                Step::Found(position) => {
                    found.push(position);
                    from = position.next();
                    if found.len() == max {
                        return (found, position);
                    }
                }
                Step::Paused(position) => return (found, position.previous()),
                Step::End => return (found, to.max(after)),
            }
        }
    }
}
