//! The store against a model: a plain vector of events, read by walking over all of it.

use std::sync::Arc;

use annals::{
    core::{
        append::{AppendError, Committed, Condition, Proposal, Write},
        clock::{ManualClock, SystemClock},
        commit_log::{CommitLog, CommitLogError, memory::Memory},
        event::NewEvent,
        filter::{Clause, Filter, plan::Direction},
        log::{
            LogWriter,
            chain::Hash,
            format::{self, Body, Data, EventView},
        },
        name::{self, Name},
        position::{Position, Version},
        sequencer::{Sequencer, WhenFull},
        store::Store,
    },
    service::scan::{Progress, Scan},
};
use proptest::{prelude::*, sample::Index};
use uuid::Uuid;

const STREAMS: [&str; 4] = ["Payment-1", "Payment-2", "Order-1", "Order"];
const TYPES: [&str; 3] = ["Made", "Changed", "Ended"];
const TAGS: [&str; 4] = ["red", "green", "blue", "none"];

fn name(text: &str) -> Name {
    Name::new(text, 100).unwrap()
}

/// An event as the model keeps it; its place in the vector is its position less one.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    id: Uuid,
    stream: &'static str,
    event_type: &'static str,
    tags: Vec<&'static str>,
    /// Data of very different lengths: segments end in many ways.
    size: usize,
}

impl Kept {
    fn event(&self) -> NewEvent {
        let text = "x".repeat(self.size);
        let body = Body { data: Data::Text(&text), ..Body::default() };
        let tags = self.tags.iter().map(|tag| name(tag)).collect::<Vec<_>>();
        NewEvent::new(self.id, &name(self.stream), &name(self.event_type), &tags, None, body)
    }

    fn matches(&self, clause: &Clause) -> bool {
        let one_of = |names: &[Name], text: &str| {
            names.is_empty() || names.iter().any(|name| name.as_str() == text)
        };
        let has = |tag: &Name| self.tags.contains(&tag.as_str());
        one_of(&clause.streams, self.stream)
            && one_of(&clause.categories, name::category(self.stream))
            && one_of(&clause.types, self.event_type)
            && (clause.tags.is_empty() || clause.tags.iter().any(has))
            && clause.tags_all.iter().all(has)
    }
}

#[derive(Default)]
struct Model {
    events: Vec<Kept>,
}

impl Model {
    fn matching(&self, filter: &Filter) -> Vec<u64> {
        let matches = |event: &Kept| {
            filter.clauses.is_empty() || filter.clauses.iter().any(|clause| event.matches(clause))
        };
        (1..).zip(&self.events).filter(|(_, event)| matches(event)).map(|(at, _)| at).collect()
    }

    fn stream(&self, stream: &str) -> Vec<u64> {
        (1..)
            .zip(&self.events)
            .filter(|(_, event)| event.stream == stream)
            .map(|(at, _)| at)
            .collect()
    }

    /// What the store must answer, in the words of the protocol's comments.
    fn append(&mut self, call: &Call) -> Answer {
        let events: Vec<&Kept> = call.writes.iter().flat_map(|write| &write.events).collect();
        let place = |id: &Uuid| self.events.iter().position(|kept| kept.id == *id);
        if events.iter().any(|event| place(&event.id).is_some()) {
            return if self.is_repeat(call) { Answer::Duplicate } else { Answer::IdConflict };
        }
        for write in &call.writes {
            let actual = self.stream(write.stream).len() as u64;
            if write.expected.is_some_and(|expected| expected != actual) {
                return Answer::WrongVersion(actual);
            }
        }
        for (filter, after) in &call.conditions {
            let breaking: Vec<u64> =
                self.matching(filter).into_iter().filter(|at| at > after).take(5).collect();
            if !breaking.is_empty() {
                return Answer::Broken(breaking);
            }
        }
        if call.validate_only {
            return Answer::Valid;
        }
        let first = self.events.len() as u64 + 1;
        self.events.extend(events.into_iter().cloned());
        Answer::Written(first, self.events.len() as u64)
    }

    fn is_repeat(&self, call: &Call) -> bool {
        call.writes.iter().all(|write| {
            let mut last = 0;
            write.events.iter().all(|event| {
                let at = (1..).zip(&self.events).find(|(_, kept)| kept.id == event.id);
                let Some((at, kept)) = at else { return false };
                let goes_on = at > last && kept.stream == write.stream;
                last = at;
                goes_on
            })
        })
    }
}

#[derive(Debug, PartialEq)]
enum Answer {
    Written(u64, u64),
    Duplicate,
    Valid,
    WrongVersion(u64),
    Broken(Vec<u64>),
    IdConflict,
}

impl From<Result<Committed, AppendError>> for Answer {
    fn from(result: Result<Committed, AppendError>) -> Self {
        match result {
            Ok(committed) if committed.duplicate => Self::Duplicate,
            Ok(committed) if committed.recorded_at.is_none() => Self::Valid,
            Ok(committed) => Self::Written(committed.first.get(), committed.last.get()),
            Err(AppendError::WrongExpectedVersion { actual, .. }) => {
                Self::WrongVersion(actual.get())
            }
            Err(AppendError::ConditionBroken { positions, .. }) => {
                Self::Broken(positions.into_iter().map(Position::get).collect())
            }
            Err(AppendError::EventIdConflict { .. }) => Self::IdConflict,
            Err(other) => panic!("{other}"),
        }
    }
}

#[derive(Debug, Clone)]
struct CallWrite {
    stream: &'static str,
    events: Vec<Kept>,
    expected: Option<u64>,
}

#[derive(Debug, Clone)]
struct Call {
    writes: Vec<CallWrite>,
    conditions: Vec<(Filter, u64)>,
    validate_only: bool,
}

impl Call {
    fn proposal(&self) -> Proposal {
        let write = |write: &CallWrite| Write {
            stream: name(write.stream),
            events: write.events.iter().map(Kept::event).collect(),
            expected: write.expected.map(Version::new),
        };
        let condition = |(filter, after): &(Filter, u64)| {
            let after = Position::new(*after);
            Condition { filter: filter.clone(), after, checked: after, checked_at_micros: 0 }
        };
        Proposal {
            writes: self.writes.iter().map(write).collect(),
            conditions: self.conditions.iter().map(condition).collect(),
            validate_only: self.validate_only,
            setting: None,
        }
    }
}

/// What a call is made of; the rest depends on what is there when it is made.
#[derive(Debug, Clone)]
enum Op {
    /// New events. `expect`: the right version, or another.
    Append {
        writes: Vec<(usize, usize)>,
        expect: Option<i8>,
        condition: Option<(Filter, Index)>,
        validate_only: bool,
    },
    /// An earlier call again.
    Repeat(Index),
    /// An earlier call again, with its events turned round, one more, or one less.
    Bend(Index, u8),
}

fn filters() -> impl Strategy<Value = Filter> {
    let some = |texts: &'static [&'static str]| {
        proptest::collection::vec(proptest::sample::select(texts).prop_map(name), 0..3)
    };
    let clause = (
        some(&STREAMS),
        some(&["Payment", "Order", "Nothing"]),
        some(&TYPES),
        some(&TAGS),
        some(&TAGS),
    )
        .prop_map(|(streams, categories, types, tags, tags_all)| Clause {
            streams,
            categories,
            types,
            tags,
            tags_all,
            ..Clause::default()
        })
        .prop_filter("names something", |clause| clause.size() > 0);
    proptest::collection::vec(clause, 0..3).prop_map(|clauses| Filter { clauses })
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let writes = proptest::sample::subsequence(vec![0, 1, 2, 3], 1..4)
        .prop_flat_map(|streams| {
            let count = streams.len();
            (Just(streams), proptest::collection::vec(1..4usize, count))
        })
        .prop_map(|(streams, counts)| streams.into_iter().zip(counts).collect());
    let append = (
        writes,
        proptest::option::of(-1i8..=1),
        proptest::option::weighted(0.3, (filters(), any::<Index>())),
        proptest::bool::weighted(0.1),
    )
        .prop_map(|(writes, expect, condition, validate_only)| Op::Append {
            writes,
            expect: expect.map(|by| if by == -1 { 0 } else { by }),
            condition,
            validate_only,
        });
    let op = prop_oneof![
        6 => append,
        1 => any::<Index>().prop_map(Op::Repeat),
        1 => (any::<Index>(), 0u8..3).prop_map(|(call, how)| Op::Bend(call, how)),
    ];
    proptest::collection::vec(op, 1..60)
}

/// Makes calls of ops: ids and data are counted on, so that a run can be repeated.
#[derive(Default)]
struct Caller {
    ids: u128,
    calls: Vec<Call>,
}

impl Caller {
    fn event(&mut self, stream: usize) -> Kept {
        self.ids += 1;
        let choice = usize::try_from(self.ids * 2_654_435_761 % 1_000_003).unwrap();
        Kept {
            id: Uuid::from_u128(self.ids),
            stream: STREAMS[stream],
            event_type: TYPES[choice % 3],
            tags: TAGS[..3].iter().copied().filter(|tag| choice % (tag.len() + 1) == 0).collect(),
            size: choice % 300,
        }
    }

    fn call(&mut self, op: Op, model: &Model) -> Option<Call> {
        let call = match op {
            Op::Append { writes, expect, condition, validate_only } => {
                let writes = writes
                    .into_iter()
                    .map(|(stream, count)| CallWrite {
                        stream: STREAMS[stream],
                        events: (0..count).map(|_| self.event(stream)).collect(),
                        expected: expect.map(|by| {
                            model.stream(STREAMS[stream]).len() as u64
                                + u64::from(by.unsigned_abs())
                        }),
                    })
                    .collect();
                let conditions = condition
                    .map(|(filter, after)| (filter, after.index(model.events.len() + 1) as u64));
                Call { writes, conditions: conditions.into_iter().collect(), validate_only }
            }
            Op::Repeat(_) | Op::Bend(..) if self.calls.is_empty() => return None,
            Op::Repeat(earlier) => self.calls[earlier.index(self.calls.len())].clone(),
            Op::Bend(earlier, how) => {
                let mut call = self.calls[earlier.index(self.calls.len())].clone();
                let events = &mut call.writes[0].events;
                match how {
                    0 => events.reverse(),
                    1 => drop(events.pop()),
                    _ => {
                        let stream = STREAMS.iter().position(|s| *s == call.writes[0].stream);
                        let event = self.event(stream.unwrap());
                        call.writes[0].events.push(event);
                    }
                }
                if call.writes[0].events.is_empty() {
                    return None;
                }
                call
            }
        };
        self.calls.push(call.clone());
        Some(call)
    }
}

fn store(segment_size: usize, commit_log: impl CommitLog + 'static) -> Store {
    let log = LogWriter::with_segment_size(segment_size);
    let sequencer = Sequencer::new(log, Box::new(commit_log));
    Store::new(sequencer, Arc::new(ManualClock::default()), 1000)
}

fn append(store: &Store, proposal: Proposal) -> Result<Committed, AppendError> {
    let (mut answer, leads) = store.submit(proposal).unwrap();
    assert!(leads, "nobody else calls");
    assert!(!store.lead(1), "one call is one batch");
    answer.try_recv().unwrap()
}

/// The positions of the events that a scan gives, in its order.
fn positions(mut scan: Scan, batch: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    loop {
        match scan.step(batch) {
            Progress::Block(block) => {
                let before = seen.len();
                let mut rest = &block.bytes[..];
                while !rest.is_empty() {
                    let (field, after) = rest.split_at(format::field_size(rest));
                    if field[0] == format::EVENT_TAG {
                        let event = EventView::parse(format::message(field)).unwrap();
                        seen.push(event.stamp.position.get());
                    }
                    rest = after;
                }
                assert_eq!(block.events, (seen.len() - before) as u64);
                assert!(block.events > 0 && block.events <= batch);
            }
            Progress::Nothing => {}
            Progress::End => return seen,
            Progress::Dropped(first) => panic!("nothing is dropped, and it begins at {first}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Every answer and every read is what a plain vector gives: over streams, filters, both
    /// directions, limits and cursors, with segments so small that they end all the time.
    #[test]
    fn the_store_is_what_a_vector_of_events_is(
        ops in ops(),
        filters in proptest::collection::vec(filters(), 6),
        cursor in any::<Index>(),
        limit in 0u64..20,
        batch in 1u64..10,
        segment_size in 200usize..4000,
    ) {
        let (store, mut model, mut caller) = (store(segment_size, Memory), Model::default(), Caller::default());
        for op in ops {
            let Some(call) = caller.call(op, &model) else { continue };
            let expected = model.append(&call);
            prop_assert_eq!(Answer::from(append(&store, call.proposal())), expected);
        }

        let history = store.history();
        let reader = history.log.reader();
        prop_assert_eq!(reader.head().get(), model.events.len() as u64);
        for (at, kept) in (1..).zip(&model.events) {
            let record = reader.record(Position::new(at)).unwrap();
            let event = record.event();
            prop_assert_eq!(event.stamp.id, kept.id);
            prop_assert_eq!(event.body.stream, kept.stream);
            prop_assert_eq!(event.body.event_type, kept.event_type);
            prop_assert_eq!(&event.body.tags, &kept.tags);
            prop_assert_eq!(event.body.data, Data::Text(&"x".repeat(kept.size)));
            prop_assert_eq!(history.find(&kept.id, &reader), Some(Position::new(at)));
        }

        let take = |mut list: Vec<u64>| {
            if limit > 0 { list.truncate(usize::try_from(limit).unwrap()); }
            list
        };
        let after = cursor.index(model.events.len() + 2) as u64;
        for filter in filters.iter().chain(&[Filter::default()]) {
            let all = model.matching(filter);
            let scan = |direction| Scan::all(history, &SystemClock, filter, direction, Position::new(after), limit);
            let forwards = take(all.iter().copied().filter(|at| *at > after).collect());
            prop_assert_eq!(positions(scan(Direction::Forwards), batch), forwards);
            let before = |at: &u64| after == 0 || *at < after;
            let backwards = take(all.iter().rev().copied().filter(before).collect());
            prop_assert_eq!(positions(scan(Direction::Backwards), batch), backwards);
        }
        for stream in STREAMS {
            let all = model.stream(stream);
            let scan = |direction| Scan::stream(history, &SystemClock, stream, direction, Version::new(after), limit);
            if all.is_empty() {
                prop_assert!(scan(Direction::Forwards).is_none());
                continue;
            }
            let skipped = usize::try_from(after).unwrap().min(all.len());
            let forwards = take(all[skipped..].to_vec());
            prop_assert_eq!(positions(scan(Direction::Forwards).unwrap(), batch), forwards);
            let end = if after == 0 { u64::MAX } else { after - 1 };
            let end = all.len().min(usize::try_from(end).unwrap());
            let backwards = take(all[..end].iter().rev().copied().collect());
            prop_assert_eq!(positions(scan(Direction::Backwards).unwrap(), batch), backwards);
        }
    }
}

/// A log whose `n`-th write or sync fails.
struct Failing {
    writes: u32,
    syncs: u32,
}

impl CommitLog for Failing {
    fn begin(&mut self, _: Position, _: usize, _: Option<&Hash>) -> Result<(), CommitLogError> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> Result<(), CommitLogError> {
        self.writes = self.writes.checked_sub(1).ok_or_else(|| CommitLogError::new("no space"))?;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), CommitLogError> {
        self.syncs = self.syncs.checked_sub(1).ok_or_else(|| CommitLogError::new("bad disk"))?;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), CommitLogError> {
        self.sync()
    }
}

/// Nobody is told what is not safe, and nothing is taken after it.
#[test]
fn after_a_failed_write_or_sync_nothing_is_seen_and_nothing_is_taken() {
    for (writes, syncs) in [(1, 9), (9, 1)] {
        let store = store(1000, Failing { writes, syncs });
        let mut caller = Caller::default();
        let mut new = || {
            let event = caller.event(0);
            let write =
                Write { stream: name(STREAMS[0]), events: event.event().into(), expected: None };
            Proposal { writes: [write].into(), ..Proposal::default() }
        };
        assert!(append(&store, new()).is_ok());
        for _ in 0..3 {
            assert!(matches!(append(&store, new()), Err(AppendError::OutcomeUnknown(_))));
            assert_eq!(store.history().log.watermark().get(), Position::new(1));
        }
        let scan = Scan::all(
            store.history(),
            &SystemClock,
            &Filter::default(),
            Direction::Forwards,
            Position::ZERO,
            0,
        );
        assert_eq!(positions(scan, 10), [1]);
    }
}

/// The same proposals in the same order at the same times: the same bytes.
#[test]
fn the_sequencer_is_deterministic() {
    let bytes = || {
        let (store, mut caller, mut model) =
            (store(2000, Memory), Caller::default(), Model::default());
        for _ in 0..50 {
            let op = Op::Append {
                writes: vec![(0, 2), (2, 1)],
                expect: None,
                condition: None,
                validate_only: false,
            };
            let call = caller.call(op, &model).unwrap();
            model.append(&call);
            append(&store, call.proposal()).unwrap();
        }
        let reader = store.history().log.reader();
        let (mut bytes, mut after) = (Vec::new(), Position::ZERO);
        while let Some(slice) = reader.slice(after, u64::MAX, usize::MAX) {
            bytes.extend_from_slice(&slice.bytes);
            after = slice.last;
        }
        bytes
    };
    assert_eq!(bytes(), bytes());
}

/// What is full takes nothing more, answers a repeat all the same, and has grown about as far as it may.
#[test]
fn a_full_store_refuses_what_is_new_and_answers_what_is_not() {
    const MAX: usize = 1 << 20;
    let log = LogWriter::with_segment_size(4096);
    let sequencer = Sequencer::new(log, Box::new(Memory)).with_memory_max(MAX, WhenFull::Reject);
    let store = Store::new(sequencer, Arc::new(ManualClock::default()), 10);
    let mut caller = Caller::default();
    let mut new = || {
        let event = caller.event(0);
        let stream = name(event.stream);
        let write = Write { stream, events: event.event().into(), expected: None };
        Proposal { writes: [write].into(), ..Proposal::default() }
    };
    let first = new();
    assert!(append(&store, first.clone()).is_ok());
    let mut count = 1;
    let refusal = loop {
        match append(&store, new()) {
            Ok(_) => count += 1,
            Err(refusal) => break refusal,
        }
    };
    let AppendError::Full { used, max } = refusal else { panic!("{refusal}") };
    // The last commit may have made an index grow.
    assert!(max == MAX && used.abs_diff(MAX) < 100_000, "{used}");
    assert_eq!(store.history().log.watermark().get(), Position::new(count));
    assert!(store.history().log.size().0 < used, "indexes count, too");
    assert!(append(&store, first).is_ok_and(|committed| committed.duplicate));
}

/// Two that lead at once would each take what waits. Once it is said who leads, no caller does, also
/// before that thread has begun.
#[test]
fn a_caller_does_not_lead_where_a_thread_will() {
    let store = store(4096, Memory);
    store.led_by(std::thread::current());
    let event = Caller::default().event(0);
    let write = Write { stream: name(event.stream), events: event.event().into(), expected: None };
    let proposal = Proposal { writes: [write].into(), ..Proposal::default() };
    let (mut answer, leads) = store.submit(proposal).unwrap();
    assert!(!leads && answer.try_recv().is_err());
    store.lead_from_now_on(None, || true);
    assert!(answer.try_recv().unwrap().is_ok());
}
