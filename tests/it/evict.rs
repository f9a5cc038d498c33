//! A store that drops its oldest events when its memory is full, against a vector of all there ever was.

use std::sync::Arc;

use annals::core::{
    append::{AppendError, Committed, Condition, Proposal, Write},
    clock::{ManualClock, SystemClock},
    commit_log::memory::Memory,
    event::NewEvent,
    filter::{Clause, Filter, plan::Direction},
    history::History,
    log::{
        LogWriter,
        format::{Body, Data},
    },
    name::Name,
    position::{Position, Version},
    sequencer::{Sequencer, WhenFull},
    store::Store,
};
use annals::service::scan::{Block, Progress, Scan};
use uuid::Uuid;

use crate::support::{self, dice::Dice};

const MAX: usize = 2 << 20;

fn name(text: &str) -> Name {
    Name::new(text, 100).unwrap()
}

fn store() -> Store {
    let log = LogWriter::with_segment_size(MAX / 16);
    let sequencer = Sequencer::new(log, Box::new(Memory)).with_memory_max(MAX, WhenFull::Evict);
    Store::new(sequencer, Arc::new(ManualClock::default()), 10)
}

fn submit(store: &Store, proposal: Proposal) -> Result<Committed, AppendError> {
    let (mut answer, _) = store.submit(proposal).unwrap();
    while store.lead(1) {}
    answer.try_recv().unwrap()
}

fn proposal(id: u128, stream: &str, size: usize) -> Proposal {
    let text = "y".repeat(size);
    let body = Body { data: Data::Text(&text), ..Body::default() };
    let (stream, tag) = (name(stream), name(&format!("tag-{id}")));
    let event = NewEvent::new(Uuid::from_u128(id), &stream, &name("Made"), &[tag], None, body);
    let write = Write { stream, events: event.into(), expected: None };
    Proposal { writes: [write].into(), ..Proposal::default() }
}

fn scan(history: &Arc<History>, filter: &Filter, direction: Direction, after: u64) -> Scan {
    Scan::all(history, &SystemClock, filter, direction, Position::new(after), 0)
}

fn positions(mut scan: Scan) -> Vec<u64> {
    let mut all = Vec::new();
    loop {
        match scan.step(100) {
            Progress::Block(block) => all.extend(support::positions(&block.bytes)),
            Progress::Nothing => {}
            Progress::End => return all,
            Progress::Dropped(first) => {
                panic!("nothing was dropped since, and it begins at {first}")
            }
        }
    }
}

fn made() -> Filter {
    Filter { clauses: vec![Clause { types: vec![name("Made")], ..Clause::default() }] }
}

/// Streams that go on for ever and streams of one event, tags of one event: what is kept is the newest part
/// of all, whole and findable, and what is dropped leaves nothing behind.
#[test]
fn the_newest_events_are_kept_and_nothing_grows_without_end() {
    let store = store();
    let history = store.history();
    let mut dice = Dice::new(5);
    let mut streams: Vec<String> = Vec::new();
    let mut most_names = 0;
    for id in 1..=30_000u128 {
        let stream = match dice.below(3) {
            0 => format!("Short-{id}"),
            number => format!("Long-{number}"),
        };
        let size = usize::try_from(dice.below(300)).unwrap();
        let committed = submit(&store, proposal(id, &stream, size)).unwrap();
        assert_eq!(u128::from(committed.last.get()), id);
        streams.push(stream);
        most_names = most_names.max(history.streams.len() + history.tags.len());
    }
    let head = history.log.watermark().get();
    let first = history.log.first();
    assert!(first > Position::new(20_000) && head.get() - first.get() > 500, "{first} to {head}");
    let used = history.log.size().0 + history.indexes_allocated() + history.ids.allocated();
    assert!(used < MAX + MAX / 8, "{used}");
    assert!(most_names < 12_000, "{most_names} names at once");

    let kept: Vec<u64> = (first.get()..=head.get()).collect();
    let backwards: Vec<u64> = kept.iter().rev().copied().collect();
    for filter in [Filter::default(), made()] {
        assert_eq!(positions(scan(history, &filter, Direction::Forwards, 0)), kept);
        assert_eq!(positions(scan(history, &filter, Direction::Backwards, 0)), backwards);
    }
    let reader = history.log.reader();
    for position in [1, 5000, first.get() - 1, first.get(), first.get() + 99, head.get()] {
        let found = history.find(&Uuid::from_u128(position.into()), &reader);
        assert_eq!(found.is_some(), position >= first.get());
        assert_eq!(reader.record(Position::new(position)).is_some(), position >= first.get());
    }
    // Versions of a stream that goes on count all of its events.
    for stream in ["Long-1", "Long-2"] {
        let of_stream = |position: &u64| streams[usize::try_from(*position).unwrap() - 1] == stream;
        let version = streams.iter().filter(|name| *name == stream).count() as u64;
        assert_eq!(history.streams.count(stream, head), version);
        let scan =
            Scan::stream(history, &SystemClock, stream, Direction::Forwards, Version::ZERO, 0);
        let expected: Vec<u64> = kept.iter().copied().filter(of_stream).collect();
        assert_eq!(positions(scan.unwrap()), expected);
    }
}

/// Who stops reading holds nothing, and is told when what comes next is gone; never is an event skipped.
#[test]
fn a_reader_that_falls_behind_is_told() {
    let store = store();
    let history = store.history();
    for id in 1..=1000 {
        submit(&store, proposal(id, "Long-1", 100)).unwrap();
    }
    let mut slow = [
        scan(history, &Filter::default(), Direction::Forwards, 0),
        scan(history, &made(), Direction::Forwards, 0),
        Scan::stream(history, &SystemClock, "Long-1", Direction::Forwards, Version::ZERO, 0)
            .unwrap(),
    ];
    for scan in &mut slow {
        assert!(matches!(scan.step(10), Progress::Block(Block { events: 10, .. })));
    }
    let oldest = Arc::downgrade(&history.log.segments()[0]);
    for id in 1001..=20_000 {
        submit(&store, proposal(id, "Long-1", 100)).unwrap();
    }
    let first = history.log.first();
    assert!(first > Position::new(1000));
    assert!(oldest.upgrade().is_none(), "nobody keeps it");
    for scan in &mut slow {
        assert!(matches!(scan.step(10), Progress::Dropped(at) if at == first));
    }
}

/// What is dropped breaks no condition, and a repeat of it is new.
#[test]
fn what_is_dropped_was_never_there() {
    let store = store();
    for id in 1..=20_000 {
        submit(&store, proposal(id, &format!("Short-{id}"), 100)).unwrap();
    }
    let tag = |id: u128| {
        let clause = Clause { tags: vec![name(&format!("tag-{id}"))], ..Clause::default() };
        Condition { filter: Filter { clauses: vec![clause] }, ..Condition::default() }
    };
    let with = |id: u128, condition| {
        let proposal = proposal(30_000 + id, "Short-1", 1);
        submit(&store, Proposal { conditions: vec![condition], ..proposal })
    };
    assert!(matches!(with(1, tag(20_000)), Err(AppendError::ConditionBroken { .. })));
    assert!(with(2, tag(3)).is_ok());
    let again = submit(&store, proposal(1, "Short-1", 100)).unwrap();
    assert!(!again.duplicate);
    assert_eq!(again.writes[0].first, Version::new(2), "the stream had begun anew");
}

/// A commit that is larger than all memory is refused, and drops nothing that it need not.
#[test]
fn what_can_never_fit_is_refused() {
    let store = store();
    for id in 1..=10_000 {
        submit(&store, proposal(id, "Long-1", 100)).unwrap();
    }
    let first = store.history().log.first();
    let refusal = submit(&store, proposal(20_000, "Short-1", MAX)).unwrap_err();
    assert!(matches!(refusal, AppendError::Full { max: MAX, .. }));
    assert_eq!(store.history().log.first(), first);
    assert!(submit(&store, proposal(20_001, "Short-1", 100)).is_ok());
}

/// Who has made another form of a segment puts it nowhere if the segment was dropped meanwhile.
#[test]
fn a_segment_that_was_dropped_is_not_replaced() {
    let store = store();
    let log = &store.history().log;
    submit(&store, proposal(1, "Long-1", 100)).unwrap();
    let oldest = Arc::clone(&log.segments()[0]);
    for id in 2..=10_000 {
        submit(&store, proposal(id, "Long-1", 100)).unwrap();
    }
    let (first, size) = (log.first(), log.size());
    assert!(first > Position::new(1), "it was dropped");
    log.replace(oldest);
    assert_eq!((log.first(), log.size()), (first, size));
    assert!(submit(&store, proposal(10_001, "Long-1", 100)).is_ok(), "and the log goes on");
}
