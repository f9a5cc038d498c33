//! The read side of a store: the log and its indexes, for any thread, without a lock.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    clock::{Clock, Timestamp},
    index::{ids::IdIndex, map::IndexMap},
    log::{Log, Reader, format},
    position::Position,
    retention::{Retention, Visibility},
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
    pub ids: Arc<IdIndex>,
    pub retention: Retention,
}

impl History {
    /// An empty history over `log`, with the look-up of ids that somebody writes.
    pub fn new(log: Arc<Log>, ids: Arc<IdIndex>) -> Self {
        Self {
            log,
            streams: IndexMap::listed(),
            categories: IndexMap::listed(),
            types: IndexMap::listed(),
            tags: IndexMap::unlisted(),
            ids,
            retention: Retention::default(),
        }
    }

    /// Tells which events of `reader` are hidden now, or dropped; `None` where none is, which costs two
    /// loads.
    pub fn visibility(self: &Arc<Self>, reader: &Reader, clock: &dyn Clock) -> Option<Visibility> {
        if self.retention.is_empty(reader.head()) && reader.first() <= Position::new(1) {
            return None;
        }
        let newest = reader.trace(reader.head()).map(|record| format::recorded_at(&record));
        let now = clock.now_micros().max(newest.map_or(i64::MIN, Timestamp::micros));
        Some(self.retention.visibility(self, reader.clone(), self.retention.latest(now)))
    }

    /// The position of the event with this id that `reader` can see.
    pub fn find(&self, id: &Uuid, reader: &Reader) -> Option<Position> {
        self.ids.find(id, |position| {
            reader.record(position).is_some_and(|record| format::has_id(&record, id))
        })
    }
}
