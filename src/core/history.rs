//! The read side of a store: the log and its indexes, for any thread, without a lock.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    clock::{Clock, Timestamp},
    index::{
        column::Column, ids::IdIndex, map::IndexMap, shared_ids::SharedIds, times::TimeColumn,
    },
    log::{Log, Reader, format},
    name::Name,
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
    pub correlations: SharedIds,
    pub causations: SharedIds,
    /// The metadata keys that are indexed.
    pub metadata: Box<[MetadataIndex]>,
    pub columns: Columns,
    pub ids: Arc<IdIndex>,
    pub retention: Retention,
}

/// The columns that every history has: codes of the index maps' names, and times. Of a removed event they have
/// its stream only.
#[derive(Default)]
pub struct Columns {
    pub streams: Column,
    pub categories: Column,
    pub types: Column,
    pub occurred: TimeColumn,
}

/// What is known of one metadata key.
pub struct MetadataIndex {
    pub key: Name,
    pub values: IndexMap,
    /// 0 for an event that does not have the key.
    pub column: Column,
}

impl MetadataIndex {
    /// An empty one.
    pub fn new(key: Name) -> Self {
        Self { key, values: IndexMap::unlisted(), column: Column::new() }
    }
}

impl History {
    /// An empty history over `log`, with the look-up of ids that somebody writes, which indexes these
    /// metadata keys.
    pub fn new(log: Arc<Log>, ids: Arc<IdIndex>, metadata_keys: Vec<Name>) -> Self {
        let keys = ids.keys();
        Self {
            log,
            streams: IndexMap::listed(),
            categories: IndexMap::listed(),
            types: IndexMap::listed(),
            tags: IndexMap::unlisted(),
            correlations: SharedIds::new(keys),
            causations: SharedIds::new(keys),
            metadata: metadata_keys.into_iter().map(MetadataIndex::new).collect(),
            columns: Columns::default(),
            ids,
            retention: Retention::default(),
        }
    }

    /// What is known of a metadata key; `None` if it is not indexed.
    pub fn metadata(&self, key: &str) -> Option<&MetadataIndex> {
        self.metadata.iter().find(|index| index.key.as_str() == key)
    }

    /// The maps of names: streams, categories, types, tags, and those of metadata.
    pub fn maps(&self) -> impl Iterator<Item = &IndexMap> {
        let metadata = self.metadata.iter().map(|index| &index.values);
        [&self.streams, &self.categories, &self.types, &self.tags].into_iter().chain(metadata)
    }

    /// Memory that what finds events holds, about; without the look-up of ids.
    pub fn indexes_allocated(&self) -> usize {
        let names: usize = self.maps().map(IndexMap::allocated).sum();
        let shared = self.correlations.allocated() + self.causations.allocated();
        names + shared + self.columns_allocated() + self.retention.allocated()
    }

    /// Memory that columns hold.
    pub fn columns_allocated(&self) -> usize {
        let Columns { streams, categories, types, occurred } = &self.columns;
        let metadata = self.metadata.iter().map(|index| &index.column);
        let columns = [streams, categories, types].into_iter().chain(metadata);
        columns.map(Column::allocated).sum::<usize>() + occurred.allocated()
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
