//! What the indexes have of an event: noted when it is written or read back, forgotten when its segment was dropped.

use std::sync::Arc;

use super::Sequencer;
use crate::core::{
    clock::Timestamp,
    commit_log::disk::snapshot::Indexes,
    history::{Columns, History},
    index::{SoleWriter, ids::Place},
    log::{
        format::{self, EventView, Indexed},
        segment::Record,
    },
    name::{self, Name},
    position::Position,
    retention::{self, Retention},
};

/// So many events that were read back are indexed together.
const RESTORED_TOGETHER: u64 = 256;

impl Sequencer {
    /// Lets the indexes forget at most so many events of dropped segments.
    pub(super) fn forget(&mut self, mut events: usize) {
        let (history, permit) = (&*self.history, &mut self.permit);
        let floor = history.log.first();
        while let Some((segment, done, last)) = self.dropped.front_mut() {
            while *done < *last {
                if events == 0 {
                    return;
                }
                events -= 1;
                *done = done.next();
                let record = segment.record(*done);
                format::for_each_indexed(format::message(&record), |indexed| {
                    match indexed {
                        Indexed::Stream(stream) => {
                            history.streams.forget(stream, floor, permit);
                            history.categories.forget(name::category(stream), floor, permit);
                        }
                        Indexed::Type(name) => history.types.forget(name, floor, permit),
                        Indexed::Tag(tag) => history.tags.forget(tag, floor, permit),
                        Indexed::Metadata(key, value) => {
                            if let Some(index) = history.metadata(key) {
                                index.values.forget(value, floor, permit);
                            }
                        }
                        Indexed::OccurredAt(_)
                        | Indexed::Correlation(_)
                        | Indexed::Causation(_) => {}
                    }
                    true
                });
            }
            let Columns { streams, categories, types, occurred } = &history.columns;
            let metadata = history.metadata.iter().map(|index| &index.column);
            for column in [streams, categories, types].into_iter().chain(metadata) {
                column.forget(floor, permit);
            }
            occurred.forget(floor, permit);
            history.correlations.forget(floor, permit);
            history.causations.forget(floor, permit);
            self.dropped.pop_front();
        }
    }

    /// Notes events of `stream` that were written behind the head, one behind the other, in every index, and moves the head: where
    /// its id belongs, when it occurred, and its fields, with or without those of its stamp. What is below `floor` is dropped.
    pub(super) fn index<'a>(
        &mut self,
        stream: &[u8],
        events: impl Iterator<Item = (&'a Place, Timestamp, &'a [u8])>,
        floor: Position,
    ) {
        let (permit, history) = (&mut self.permit, &*self.history);
        let columns = &history.columns;
        let note_type = |name: &[u8], from, to, permit: &mut SoleWriter| {
            let code = history.types.push_run(name, from, to, permit);
            columns.types.push_run(from, to, code, permit);
        };
        let first = self.head.next();
        // The type of the last events, and where they begin.
        let mut types: Option<(&[u8], Position)> = None;
        for (place, occurred_at, body) in events {
            let position = self.head.next();
            self.ids.insert(place, position);
            let (mut correlation, mut causation) = (None, None);
            self.codes.clear();
            self.codes.resize(history.metadata.len(), 0);
            columns.occurred.push(position, Some(occurred_at), permit);
            format::for_each_indexed_raw(body, |indexed| {
                match indexed {
                    Indexed::OccurredAt(_) | Indexed::Stream(_) => {}
                    Indexed::Type(name) => match types {
                        Some((last, _)) if last == name => {}
                        _ => {
                            if let Some((last, from)) = types.replace((name, position)) {
                                note_type(last, from, self.head, permit);
                            }
                        }
                    },
                    Indexed::Correlation(id) => correlation = Some(id),
                    Indexed::Causation(id) => causation = Some(id),
                    Indexed::Metadata(key, value) => {
                        let mut indexes = history.metadata.iter();
                        let index = indexes.position(|it| it.key.as_str().as_bytes() == key);
                        if let Some(index) = index {
                            let values = &history.metadata[index].values;
                            self.codes[index] = values.push(value, position, permit);
                        }
                    }
                    Indexed::Tag(tag) => {
                        history.tags.push(tag, position, permit);
                    }
                }
                true
            });
            history.correlations.push(correlation, position, floor, permit);
            history.causations.push(causation, position, floor, permit);
            for (index, code) in history.metadata.iter().zip(&self.codes) {
                index.column.push(position, *code, permit);
            }
            self.head = position;
        }
        // Events have a type.
        let Some((last, from)) = types else { return };
        note_type(last, from, self.head, permit);
        let code = history.streams.push_run(stream, first, self.head, permit);
        columns.streams.push_run(first, self.head, code, permit);
        let category = &stream[..name::category_size(stream)];
        let code = history.categories.push_run(category, first, self.head, permit);
        columns.categories.push_run(first, self.head, code, permit);
    }

    /// The same for what is left of a removed event: its id and its place in its stream.
    fn index_removed(&mut self, place: &Place, stream: &str, floor: Position) {
        let (permit, history) = (&mut self.permit, &*self.history);
        let position = self.head.next();
        self.ids.insert(place, position);
        let Columns { streams, categories, types, occurred } = &history.columns;
        let code = history.streams.push(stream.as_bytes(), position, permit);
        streams.push(position, code, permit);
        let metadata = history.metadata.iter().map(|index| &index.column);
        for column in [categories, types].into_iter().chain(metadata) {
            column.push(position, 0, permit);
        }
        occurred.push(position, None, permit);
        history.correlations.push(None, position, floor, permit);
        history.causations.push(None, position, floor, permit);
        self.head = position;
    }

    /// Takes indexes that were made before. For a log that was read back, before [`Sequencer::restore`],
    /// and before anyone has the history.
    pub fn take_indexes(&mut self, indexes: Indexes) {
        let Indexes {
            head,
            streams,
            categories,
            types,
            tags,
            correlations,
            causations,
            metadata,
            columns,
            ids,
            digest: _,
        } = indexes;
        self.history = Arc::new(History {
            log: Arc::clone(self.log.log()),
            streams,
            categories,
            types,
            tags,
            correlations,
            causations,
            metadata,
            columns,
            ids: Arc::clone(ids.index()),
            retention: Retention::default(),
        });
        self.ids = ids;
        self.head = head;
        let reader = self.log.reader(head);
        let last = reader.trace(head).expect("they are of this log");
        self.recorded_at_micros = format::recorded_at(&last).micros();
        for position in retention::settings(&self.history, head) {
            self.apply_setting(position, head);
        }
    }

    /// Applies what the event at `position` sets. Nobody looks at what was set before `seen`.
    pub(super) fn apply_setting(&mut self, position: Position, seen: Position) {
        let reader = self.log.reader(position);
        let record =
            reader.record(position).expect("it was written, and nothing of it is ever hidden");
        let event = record.event();
        self.history.retention.apply(&event, &self.history, &reader, seen, &mut self.permit);
    }

    /// Indexes what is in the log already, up to `head`, and publishes it. For a log that was read back.
    pub fn restore(&mut self, head: Position, mut progress: impl FnMut(Position)) {
        let (reader, floor) = (self.log.reader(head), self.history.log.first());
        while self.head < head {
            let last = head.min(self.head.plus(RESTORED_TOGETHER));
            let positions = self.head.get() + 1..=last.get();
            let trace = |at| reader.trace(Position::new(at)).expect("it was read back");
            let records: Vec<Record<'_>> = positions.map(trace).collect();
            let events: Vec<_> = records.iter().map(|record| (record, record.event())).collect();
            let place = |event: &EventView<'_>| self.history.ids.place(&event.stamp.id);
            let places: Vec<Place> = events.iter().map(|(_, event)| place(event)).collect();
            self.ids.touch(&places);
            let mut places = &places[..];
            let removed = |record: &Record<'_>| record[0] == format::REMOVED_TAG;
            let alike = |a: &(&Record<'_>, EventView<'_>), b: &(&Record<'_>, EventView<'_>)| {
                a.1.body.stream == b.1.body.stream && removed(a.0) == removed(b.0)
            };
            for run in events.chunk_by(alike) {
                let (of_run, rest) = places.split_at(run.len());
                places = rest;
                let before = self.head;
                let stream = run[0].1.body.stream;
                if removed(run[0].0) {
                    for place in of_run {
                        self.index_removed(place, stream, floor);
                    }
                } else {
                    let events = of_run.iter().zip(run).map(|(place, (record, event))| {
                        (place, event.stamp.occurred_at, format::message(record))
                    });
                    self.index(stream.as_bytes(), events, floor);
                }
                self.recorded_at_micros = run[run.len() - 1].1.stamp.recorded_at.micros();
                if stream.starts_with('$') {
                    // Nobody sees anything before the end.
                    for position in before.get() + 1..=self.head.get() {
                        self.apply_setting(Position::new(position), head);
                    }
                }
            }
            progress(last);
        }
        self.log.publish(head);
    }

    /// Packs the lists of some names of one map, of [`History::maps`]. How many bytes that gives back.
    pub fn pack(&mut self, map: usize, names: &[Name]) -> usize {
        self.history.maps().nth(map).map_or(0, |map| map.pack(names, &mut self.permit))
    }
}
