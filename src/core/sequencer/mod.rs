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

mod decide;
mod indexing;

use std::{collections::VecDeque, sync::Arc};

use self::decide::Decision;
use super::{
    append::{AppendError, Batch, Committed, Proposal, Written},
    clock::Timestamp,
    commit_log::{CommitLog, CommitLogError},
    history::History,
    index::{
        SoleWriter,
        ids::{IdWriter, Place},
    },
    log::{
        LogWriter, Reader,
        chain::Chain,
        format::{self, Stamp},
        segment::Segment,
    },
    name::Name,
    position::{Position, Version},
};

/// For each event that comes the indexes forget so many of those that were dropped, and so many for each
/// commit: a segment is forgotten long before the next one is dropped.
const FORGOTTEN_FOR_EACH: usize = 4;
const FORGOTTEN_AT_LEAST: usize = 16;

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
    ) -> Batch<Result<Committed, AppendError>> {
        let mut answers = Batch::with_capacity(batch.len());
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
                for answer in &mut answers {
                    *answer = Err(AppendError::OutcomeUnknown(error.clone()));
                }
            }
        }
        answers
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
        let mut places = places.iter();
        for write in &proposal.writes {
            let events = write.events.iter().zip(places.by_ref()).map(|(event, place)| {
                (place, event.occurred_at.unwrap_or(recorded_at), event.body)
            });
            self.index(write.stream.as_str().as_bytes(), events, floor);
        }
        if proposal.setting.is_some() {
            let seen = self.log.log().watermark().get();
            self.apply_setting(self.head, seen);
        }
        let (last, recorded_at) = (self.head, Some(recorded_at));
        Ok(Committed { writes, first, last, recorded_at, duplicate: false })
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

    /// A view of the log up to `head`, published or not. For a log that was read back.
    pub fn reader(&self, head: Position) -> Reader {
        self.log.reader(head)
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
