//! The one writer of the log: checks a commit, gives it versions and positions, publishes it.
//!
//! Check and assignment are one step of one thread at a time, so of N appends that expect the same
//! version exactly one wins; that is all our optimistic concurrency, and why this path has no lock.
//!
//! # Invariants
//! 1. Positions are dense from 1; versions are dense from 1 in each stream.
//! 2. Segment, then index, then watermark: who can see a position can load the event and find it.
//! 3. A commit is visible whole or not at all: the watermark stops between commits only.
//! 4. Nothing is answered before what the answer rests on is as durable as the mode promises. This
//!    holds for refusals too: "actual version 7" must still be true after a crash.
//! 5. It is deterministic: the same proposals in the same order with the same times give the same
//!    bytes. It reads no clock and no random source and iterates over no unordered map.

use std::{cell::LazyCell, collections::VecDeque, sync::Arc};

use uuid::Uuid;

use super::{
    append::{AppendError, BREAKING_POSITIONS_MAX, Committed, Condition, Proposal, Written},
    clock::Timestamp,
    commit_log::{CommitLog, CommitLogError, disk::snapshot::Indexes},
    event::NewEventView,
    filter::plan,
    history::{Columns, History},
    index::{
        SoleWriter,
        ids::{IdWriter, Place},
    },
    log::{
        LogWriter, Reader,
        chain::Chain,
        format::{self, EventView, Indexed, Stamp},
        segment::{Record, Segment},
    },
    name::{self, Name},
    position::{Position, Version},
    retention::{self, Gone, Retention},
};

/// For each event that comes the indexes forget so many of those that were dropped, and so many for each
/// commit: a segment is forgotten long before the next one is dropped.
const FORGOTTEN_FOR_EACH: usize = 4;
const FORGOTTEN_AT_LEAST: usize = 16;
/// So many events that were read back are indexed together.
const RESTORED_TOGETHER: u64 = 256;

/// The write side of a store.
pub struct Sequencer {
    log: LogWriter,
    history: Arc<History>,
    ids: IdWriter,
    permit: SoleWriter,
    commit_log: Box<dyn CommitLog>,
    /// The last position that was written, published or not.
    head: Position,
    /// The hash chain up to the head, where one is kept.
    chain: Option<Chain>,
    /// When the last commit was recorded, microseconds: recorded time never falls.
    recorded_at_micros: i64,
    /// The history may have so much memory: events, and what finds them.
    memory_max: usize,
    /// What is done when it has.
    when_full: WhenFull,
    /// Segments that were dropped and that the indexes have still to forget, the oldest first: up to where
    /// that is done, and their last positions.
    dropped: VecDeque<(Arc<Segment>, Position, Position)>,
    /// Why nothing more is taken.
    broken: Option<CommitLogError>,
    /// The bytes of the commit at hand, its seal, and where its records begin: kept, so that a commit allocates
    /// nothing.
    bytes: Vec<u8>,
    seal: Vec<u8>,
    records: Vec<u32>,
    /// Where the ids of the batch at hand belong, event by event.
    places: Vec<Place>,
    /// The codes of the indexed metadata of the event at hand.
    codes: Vec<u32>,
}

/// What is done when the history has all the memory that it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Appends are refused.
    Reject,
    /// The oldest segment is dropped.
    Evict,
}

/// A refusal, or what there is to write.
enum Decision {
    Answer(Committed),
    Write(Vec<Written>),
}

impl Sequencer {
    /// The writer of an empty store.
    pub fn new(log: LogWriter, commit_log: Box<dyn CommitLog>) -> Self {
        let ids = IdWriter::new();
        let history = History::new(Arc::clone(log.log()), Arc::clone(ids.index()), Vec::new());
        Self {
            log,
            history: Arc::new(history),
            ids,
            permit: SoleWriter::new(),
            commit_log,
            head: Position::ZERO,
            chain: None,
            recorded_at_micros: i64::MIN,
            memory_max: usize::MAX,
            when_full: WhenFull::Reject,
            dropped: VecDeque::new(),
            broken: None,
            bytes: Vec::new(),
            seal: Vec::new(),
            records: Vec::new(),
            places: Vec::new(),
            codes: Vec::new(),
        }
    }

    /// The same, in which events and indexes have at most `memory_max` bytes.
    #[must_use]
    pub fn with_memory_max(mut self, memory_max: usize, when_full: WhenFull) -> Self {
        (self.memory_max, self.when_full) = (memory_max, when_full);
        self
    }

    /// The same, which indexes these metadata keys. Before anything is written or read back, and before anyone
    /// has the history.
    #[must_use]
    pub fn with_metadata_keys(mut self, keys: Vec<Name>) -> Self {
        let (log, ids) = (Arc::clone(self.log.log()), Arc::clone(self.ids.index()));
        self.history = Arc::new(History::new(log, ids, keys));
        self
    }

    /// The same, which keeps a hash chain that has come to `chain` so far.
    #[must_use]
    pub fn with_chain(mut self, chain: Chain) -> Self {
        self.chain = Some(chain);
        self
    }

    /// The read side.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Decides a batch of proposals in their order, at the time `now_micros`, and publishes what was
    /// accepted. The answers are in the order of the proposals, and all of them may be given.
    pub fn apply(
        &mut self,
        batch: &[Proposal],
        now_micros: i64,
        answers: &mut Vec<Result<Committed, AppendError>>,
    ) {
        answers.clear();
        let before = self.head;
        let writes = batch.iter().flat_map(|proposal| &proposal.writes);
        let ids = writes.flat_map(|write| write.events.iter()).map(|event| event.id);
        let mut places = std::mem::take(&mut self.places);
        places.clear();
        places.extend(ids.map(|id| self.history.ids.place(id)));
        self.ids.touch(&places);
        let mut rest = &places[..];
        let mut floor = self.history.log.first();
        for proposal in batch {
            let events = proposal.writes.iter().map(|write| write.events.len()).sum();
            let (places, after) = rest.split_at(events);
            rest = after;
            if self.when_full == WhenFull::Evict && self.broken.is_none() {
                self.make_room(proposal);
                floor = self.history.log.first();
            }
            answers.push(self.apply_one(proposal, places, now_micros, floor));
        }
        self.places = places;
        if self.head > before && self.broken.is_none() {
            self.broken = self.commit_log.sync().err();
        }
        match &self.broken {
            None => self.log.publish(self.head),
            // Also a refusal may rest on what is not safe.
            Some(error) => {
                for answer in answers {
                    *answer = Err(AppendError::OutcomeUnknown(error.clone()));
                }
            }
        }
    }

    /// Decides one proposal, and writes it. What is below `floor` is dropped.
    fn apply_one(
        &mut self,
        proposal: &Proposal,
        places: &[Place],
        now_micros: i64,
        floor: Position,
    ) -> Result<Committed, AppendError> {
        if let Some(error) = &self.broken {
            return Err(AppendError::OutcomeUnknown(error.clone()));
        }
        let now_micros = self.recorded_at_micros.max(now_micros);
        let writes = match self.decide(proposal, places, now_micros)? {
            Decision::Answer(answer) => return Ok(answer),
            Decision::Write(writes) => writes,
        };
        self.recorded_at_micros = now_micros;
        let recorded_at = Timestamp::from_micros(self.recorded_at_micros);
        let first = self.head.next();
        self.encode(proposal, &writes, recorded_at);
        let before = self.chain;
        let before = before.as_ref().map(Chain::value);
        let begun = self.log.append(first, &self.bytes, &self.records, before);
        if let Some(chain) = &mut self.chain {
            chain.extend(&self.bytes, &self.records);
        }
        let file = begun.map_or(Ok(()), |size| self.commit_log.begin(first, size, before));
        if let Err(error) = file.and_then(|()| self.commit_log.write(&self.bytes)) {
            self.broken = Some(error.clone());
            return Err(AppendError::OutcomeUnknown(error));
        }
        let events = proposal.writes.iter().flat_map(|write| write.events.iter());
        for (event, place) in events.zip(places) {
            self.index(place, event.occurred_at.unwrap_or(recorded_at), event.body, floor);
        }
        if proposal.setting.is_some() {
            let seen = self.log.log().watermark().get();
            self.apply_setting(self.head, seen);
        }
        let (last, recorded_at) = (self.head, Some(recorded_at));
        Ok(Committed { writes, first, last, recorded_at, duplicate: false })
    }

    /// Idempotency, tombstones, expected versions, conditions, in this order. Writes nothing.
    fn decide(
        &mut self,
        proposal: &Proposal,
        places: &[Place],
        now_micros: i64,
    ) -> Result<Decision, AppendError> {
        if let Some(answer) = self.repeat(proposal, places)? {
            return Ok(Decision::Answer(answer));
        }
        let mut writes = Vec::with_capacity(proposal.writes.len());
        for write in &proposal.writes {
            let actual = self.version(&write.stream);
            let gone = self.history.retention.gone(write.stream.as_str(), actual, self.head);
            if gone == Some(Gone::Tombstoned) && !write.events.is_empty() {
                let (stream, version) = (write.stream.clone(), actual);
                return Err(AppendError::Tombstoned { stream, version });
            }
            match write.expected {
                Some(expected) if expected != actual => {
                    let stream = write.stream.clone();
                    return Err(AppendError::WrongExpectedVersion { stream, expected, actual });
                }
                _ => {}
            }
            let events = write.events.len() as u64;
            let first = if events == 0 { Version::ZERO } else { actual.next() };
            writes.push(Written { first, last: actual.plus(events) });
        }
        for (index, condition) in proposal.conditions.iter().enumerate() {
            self.check(index, condition, now_micros)?;
        }
        let changes = match &proposal.setting {
            Some(setting) => self.history.retention.decide(setting, &self.history, self.head)?,
            None => true,
        };
        let nothing_to_write =
            !changes || proposal.writes.iter().all(|write| write.events.is_empty());
        if proposal.validate_only || nothing_to_write {
            return Ok(Decision::Answer(Committed {
                writes,
                first: Position::ZERO,
                last: Position::ZERO,
                recorded_at: None,
                duplicate: false,
            }));
        }
        // A setting is how room is made.
        if proposal.setting.is_none() {
            self.check_room(proposal)?;
        }
        Ok(Decision::Write(writes))
    }

    /// The first answer again, if all events of the proposal are in their streams already, in their
    /// order; `None` if none is anywhere.
    fn repeat(
        &mut self,
        proposal: &Proposal,
        places: &[Place],
    ) -> Result<Option<Committed>, AppendError> {
        // Of nearly all proposals no id is known, and nothing is read.
        let (log, head) = (&self.log, self.head);
        let reader = LazyCell::new(|| log.reader(head));
        // Also of a removed event its id is left: a repeat is a repeat for ever.
        let find = |(event, place): (NewEventView<'_>, &Place)| {
            let has_id = |record: Record<'_>| format::has_id(&record, event.id);
            self.ids.find(place, |position| reader.trace(position).is_some_and(has_id))
        };
        let events = proposal.writes.iter().flat_map(|write| write.events.iter());
        let mut events = events.zip(places);
        let Some((known, at)) = events.find_map(|event| Some((event.0, find(event)?))) else {
            return Ok(None);
        };
        let mut places = places.iter();
        let conflict = |id: &Uuid, position| {
            let record = reader.trace(position).expect("it was found");
            let stream = record.event().body.stream;
            AppendError::EventIdConflict {
                id: *id,
                stream: Name::new(stream, usize::MAX).expect("it was one when it was written"),
                position,
            }
        };
        let (mut first, mut last) = (Position::MAX, Position::ZERO);
        let mut writes = Vec::with_capacity(proposal.writes.len());
        for write in &proposal.writes {
            let mut written = Written { first: Version::ZERO, last: Version::ZERO };
            for event in write.events.iter() {
                // Where one is unknown the others make the conflict.
                let place = places.next().expect("each event has one");
                let position = find((event, place)).ok_or_else(|| conflict(known.id, at))?;
                let record = reader.trace(position).expect("it was found");
                let recorded = record.event();
                let version = recorded.stamp.version;
                if recorded.body.stream != write.stream.as_str() || version <= written.last {
                    return Err(conflict(event.id, position));
                }
                if written.first == Version::ZERO {
                    written.first = version;
                }
                written.last = version;
                (first, last) = (first.min(position), last.max(position));
            }
            if write.events.is_empty() {
                written.last = version(&self.history, &write.stream, &mut self.permit);
            }
            writes.push(written);
        }
        let recorded_at = reader.trace(last).map(|record| format::recorded_at(&record));
        Ok(Some(Committed { writes, first, last, recorded_at, duplicate: true }))
    }

    fn check(
        &self,
        index: usize,
        condition: &Condition,
        now_micros: i64,
    ) -> Result<(), AppendError> {
        // What the caller has looked at already is not looked at again, unless its clock was ahead: what
        // was hidden then may not be now.
        let looked = condition.checked_at_micros <= now_micros;
        let checked = if looked { condition.checked } else { Position::ZERO };
        let dropped = self.log.log().first().previous();
        let after = condition.after.max(checked).max(dropped);
        let (history, filter) = (&self.history, &condition.filter);
        let reader = self.log.reader(self.head);
        let mut visibility = (!history.retention.is_empty(self.head))
            .then(|| history.retention.visibility(history, reader.clone(), now_micros));
        // A budget would have to be the same everywhere, and this one is never used up.
        let (budget, max) = (u32::MAX, BREAKING_POSITIONS_MAX);
        let (positions, _) =
            plan::matches(filter, history, &reader, after, max, budget, visibility.as_mut());
        if positions.is_empty() {
            return Ok(());
        }
        Err(AppendError::ConditionBroken { condition: index, after: condition.after, positions })
    }

    /// Drops segments until the proposal fits, and lets the indexes forget some of what was dropped
    /// before: several events for each that comes, so that no append waits for a whole segment.
    fn make_room(&mut self, proposal: &Proposal) {
        let events: usize = proposal.writes.iter().map(|write| write.events.len()).sum();
        self.forget(FORGOTTEN_AT_LEAST + FORGOTTEN_FOR_EACH * events);
        let more = proposal.size();
        if more > self.memory_max {
            // It can never fit.
            return;
        }
        while self.memory().saturating_add(more) > self.memory_max {
            // The indexes are never behind by more than one segment.
            self.forget(usize::MAX);
            let Some((segment, last)) = self.log.drop_oldest() else { return };
            let before = segment.first().previous();
            self.dropped.push_back((segment, before, last));
            self.ids.forget(last.next());
        }
    }

    /// Lets the indexes forget at most so many events of dropped segments.
    fn forget(&mut self, mut events: usize) {
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

    /// Refuses what does not fit. The last commit may go over by what it makes the indexes grow.
    fn check_room(&self, proposal: &Proposal) -> Result<(), AppendError> {
        let max = self.memory_max;
        if max == usize::MAX {
            return Ok(());
        }
        let used = self.memory();
        if used.saturating_add(proposal.size()) > max {
            Err(AppendError::Full { used, max })
        } else {
            Ok(())
        }
    }

    /// How many bytes events and what finds them have.
    fn memory(&self) -> usize {
        self.log.size() + self.history.indexes_allocated() + self.ids.allocated()
    }

    /// How many events the stream has, published or not.
    fn version(&mut self, stream: &Name) -> Version {
        version(&self.history, stream, &mut self.permit)
    }

    /// Makes the commit's bytes: its records and its seal.
    fn encode(&mut self, proposal: &Proposal, writes: &[Written], recorded_at: Timestamp) {
        self.bytes.clear();
        self.records.clear();
        let mut position = self.head;
        for (write, written) in proposal.writes.iter().zip(writes) {
            let mut version = written.first;
            for event in write.events.iter() {
                position = position.next();
                let offset = u32::try_from(self.bytes.len()).expect("a commit's size is limited");
                self.records.push(offset);
                let occurred_at = event.occurred_at.unwrap_or(recorded_at);
                let stamp = Stamp { id: *event.id, position, version, recorded_at, occurred_at };
                format::put_event(&mut self.bytes, &stamp, event.body);
                version = version.next();
            }
        }
        let count = u32::try_from(self.records.len()).expect("a commit's events are limited");
        self.seal.clear();
        format::put_seal(&mut self.seal, &self.bytes, count);
        self.bytes.extend_from_slice(&self.seal);
    }

    /// Notes the event that was written behind the head in every index, and moves the head. `body` has its fields,
    /// with or without those of its stamp. What is below `floor` is dropped.
    fn index(&mut self, place: &Place, occurred_at: Timestamp, body: &[u8], floor: Position) {
        let (permit, history) = (&mut self.permit, &*self.history);
        let position = self.head.next();
        self.ids.insert(place, position);
        let columns = &history.columns;
        let (mut correlation, mut causation) = (None, None);
        self.codes.clear();
        self.codes.resize(history.metadata.len(), 0);
        columns.occurred.push(position, Some(occurred_at), permit);
        format::for_each_indexed_raw(body, |indexed| {
            match indexed {
                Indexed::OccurredAt(_) => {}
                Indexed::Stream(stream) => {
                    let code = history.streams.push(stream, position, permit);
                    columns.streams.push(position, code, permit);
                    let category = &stream[..name::category_size(stream)];
                    let code = history.categories.push(category, position, permit);
                    columns.categories.push(position, code, permit);
                }
                Indexed::Type(name) => {
                    let code = history.types.push(name, position, permit);
                    columns.types.push(position, code, permit);
                }
                Indexed::Correlation(id) => correlation = Some(id),
                Indexed::Causation(id) => causation = Some(id),
                Indexed::Metadata(key, value) => {
                    let index =
                        history.metadata.iter().position(|it| it.key.as_str().as_bytes() == key);
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

    /// A view of the log up to `head`, published or not. For a log that was read back.
    pub fn reader(&self, head: Position) -> Reader {
        self.log.reader(head)
    }

    /// Applies what the event at `position` sets. Nobody looks at what was set before `seen`.
    fn apply_setting(&mut self, position: Position, seen: Position) {
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
            let events: Vec<_> = records.iter().map(Record::event).collect();
            let place = |event: &EventView<'_>| self.history.ids.place(&event.stamp.id);
            let places: Vec<Place> = events.iter().map(place).collect();
            self.ids.touch(&places);
            for ((event, place), record) in events.iter().zip(&places).zip(&records) {
                let body = &event.body;
                self.recorded_at_micros = event.stamp.recorded_at.micros();
                if record[0] == format::REMOVED_TAG {
                    self.index_removed(place, body.stream, floor);
                } else {
                    self.index(place, event.stamp.occurred_at, format::message(record), floor);
                }
                if body.stream.starts_with('$') {
                    // Nobody sees anything before the end.
                    self.apply_setting(self.head, head);
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

    /// Makes what was written safe, whatever the mode promises.
    pub fn settle(&mut self) {
        if self.broken.is_none() {
            self.broken = self.commit_log.settle().err();
        }
    }

    /// Why nothing more is taken, if that is so.
    pub fn broken(&self) -> Option<&CommitLogError> {
        self.broken.as_ref()
    }

    /// Takes nothing more, for this reason, until a restart.
    pub fn refuse_from_now_on(&mut self, reason: CommitLogError) {
        self.broken.get_or_insert(reason);
    }
}

/// How many events the stream has, published or not.
fn version(history: &History, stream: &Name, permit: &mut SoleWriter) -> Version {
    Version::new(history.streams.written(stream, permit))
}
