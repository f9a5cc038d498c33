//! Compaction and compression against a store that has neither: the same appends and settings, the same answers.

use std::sync::Arc;

use annals::core::{
    append::{AppendError, Committed, Proposal, Write},
    clock::{ManualClock, SystemClock},
    commit_log::{
        disk::{self, SyncMode, files::Files},
        memory::Memory,
    },
    event::NewEvent,
    filter::{Clause, Filter, plan::Direction},
    history::History,
    log::{
        LogWriter,
        chain::Chain,
        format::{self, Body, Data},
        packing::Codec,
    },
    name::Name,
    position::{Position, Version},
    retention::{Change, Rule, Scope, Setting},
    sequencer::Sequencer,
    store::Store,
    upkeep::{DataFiles, Upkeep},
};
use annals::service::scan::{Progress, Scan};
use proptest::{prelude::*, sample::Index};
use uuid::Uuid;

use crate::commit_log::{Failure, FaultyDisk};

const SEGMENT_SIZE: usize = 2000;
const STREAMS: [&str; 4] = ["Account-1", "Account-2", "Order-1", "Order-2"];

#[derive(Debug, Clone)]
enum Step {
    /// So many events of this size in one commit.
    Append {
        stream: usize,
        events: u128,
        size: usize,
    },
    Set {
        stream: usize,
        change: Change,
    },
    SetCategory {
        category: &'static str,
        max_count: Option<u64>,
    },
    /// The log goes on in a new segment, sealed segments are mapped, and all that is gone is removed, or
    /// what the next look finds; maybe a call to the disk fails.
    Compact {
        all: bool,
        failure: Option<(u32, Failure)>,
    },
    /// The oldest sealed segment that is not compressed is.
    Pack {
        failure: Option<(u32, Failure)>,
    },
    /// The power goes, and the store is opened again.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = 0..STREAMS.len();
    let change = prop_oneof![
        (1u64..12).prop_map(|before| Change::Truncate { before: Version::new(before) }),
        Just(Change::Delete),
        proptest::option::of(1u64..6)
            .prop_map(|max_count| Change::Retain(Rule { max_count, ..Rule::default() })),
    ];
    let failure = prop_oneof![Just(Failure::Refuse), any::<usize>().prop_map(Failure::Tear)];
    let step = prop_oneof![
        12 => (stream.clone(), 1u128..4, 0usize..300)
            .prop_map(|(stream, events, size)| Step::Append { stream, events, size }),
        3 => (stream, change).prop_map(|(stream, change)| Step::Set { stream, change }),
        1 => (prop_oneof![Just("Account"), Just("Order")], proptest::option::of(1u64..6))
            .prop_map(|(category, max_count)| Step::SetCategory { category, max_count }),
        3 => (any::<bool>(), proptest::option::of((0u32..6, failure.clone())))
            .prop_map(|(all, failure)| Step::Compact { all, failure }),
        3 => proptest::option::weighted(0.3, (0u32..6, failure))
            .prop_map(|failure| Step::Pack { failure }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..60)
}

fn codec() -> impl Strategy<Value = Option<Codec>> {
    prop_oneof![Just(None), Just(Some(Codec::Lz4)), Just(Some(Codec::Zstd))]
}

fn name(text: &str) -> Name {
    Name::new(text, 100).unwrap()
}

fn memory() -> Store {
    let log = LogWriter::with_segment_size(SEGMENT_SIZE);
    Store::new(Sequencer::new(log, Box::new(Memory)), Arc::new(ManualClock::default()), 100)
}

fn durable(segments: &FaultyDisk) -> Store {
    let files: Arc<dyn Files> = Arc::new(segments.clone());
    let (mut sequencer, recovered) =
        disk::open(files, SyncMode::Always, SEGMENT_SIZE, None, |_, _| {}).unwrap();
    sequencer.restore(recovered.head, |_| {});
    Store::new(sequencer, Arc::new(ManualClock::default()), 100)
}

pub fn submit(store: &Store, proposal: Proposal) -> Result<Committed, AppendError> {
    let (mut answer, _) = store.submit(proposal).unwrap();
    while store.lead(1) {}
    answer.try_recv().unwrap()
}

/// The commit whose events have ids from this number on.
fn append(stream: usize, first: u128, events: u128, size: usize) -> Proposal {
    let stream = name(STREAMS[stream]);
    let text = "y".repeat(size);
    let event = |number| {
        let body = Body { data: Data::Text(&text), ..Body::default() };
        let tags = vec![name("red")];
        NewEvent::new(Uuid::from_u128(number), &stream, &name("Made"), &tags, None, body)
    };
    let events = (first..first + events).map(event).collect();
    Proposal {
        writes: [Write { stream: stream.clone(), events, expected: None }].into(),
        ..Proposal::default()
    }
}

/// What every reader must see the same, compacted or not: which events are hidden, and the others' bytes.
fn visible(history: &Arc<History>) -> Vec<Option<Vec<u8>>> {
    let reader = history.log.reader();
    let mut visibility = history.retention.visibility(history, reader.clone(), 0);
    (1..=reader.head().get())
        .map(Position::new)
        .map(|position| {
            let visible = !visibility.hides(position);
            visible.then(|| reader.record(position).expect("it is visible").to_vec())
        })
        .collect()
}

/// How many blocks and pauses it takes to read what `filter` picks, and how many events.
fn read(history: &Arc<History>, filter: &Filter, direction: Direction) -> (usize, u64) {
    let mut scan = Scan::all(history, &SystemClock, filter, direction, Position::ZERO, 0);
    let (mut steps, mut events) = (0, 0);
    loop {
        match scan.step(u64::MAX) {
            Progress::Block(block) => events += block.events,
            Progress::Nothing => {}
            Progress::End => return (steps, events),
            Progress::Dropped(first) => panic!("nothing before {first} was dropped"),
        }
        steps += 1;
    }
}

/// What reads in four ways say of `visible`.
fn check_reads(history: &Arc<History>, visible: &[Option<Vec<u8>>]) {
    let made = Clause { types: vec![name("Made")], ..Clause::default() };
    for (filter, event_type) in
        [(Filter::default(), None), (Filter { clauses: vec![made] }, Some("Made"))]
    {
        let is_picked = |record: &&Vec<u8>| {
            event_type.is_none_or(|name| format::EventView::of(record).body.event_type == name)
        };
        let picked = visible.iter().flatten().filter(is_picked).count() as u64;
        for direction in [Direction::Forwards, Direction::Backwards] {
            assert_eq!(read(history, &filter, direction).1, picked, "{event_type:?} {direction:?}");
        }
    }
}

/// The hash chain, worked out from the bytes; every checksum and every header's chain fits.
fn chain(history: &History) -> Chain {
    let (mut chain, mut next, mut records) = (Chain::GENESIS, Position::new(1), Vec::new());
    for segment in &*history.log.segments() {
        let segment = segment.plain().unwrap();
        let bytes = segment.readable(0..);
        let header = format::read_header(bytes).unwrap();
        assert!(header.chain.is_none_or(|value| value == *chain.value()), "at {next}");
        let mut at = header.size;
        while at < bytes.len() {
            let size = format::check_commit(&bytes[at..], next, &mut records).unwrap();
            chain.extend(&bytes[at..], &records);
            next = next.plus(records.len() as u64);
            at += size;
        }
    }
    chain
}

/// Nothing that is hidden is left in a sealed segment.
fn check_removed(history: &Arc<History>) {
    let reader = history.log.reader();
    let sealed = history.log.segments().last().unwrap().first().previous();
    let mut visibility = history.retention.visibility(history, reader.clone(), 0);
    for position in (1..=sealed.get()).map(Position::new) {
        assert_eq!(visibility.hides(position), reader.record(position).is_none());
    }
}

fn run(steps: Vec<Step>, codec: Option<Codec>, disk: Option<&FaultyDisk>, choices: Vec<Index>) {
    let twin = memory();
    let open = || disk.map_or_else(memory, durable);
    let upkeep = |store: &Store| {
        let files = disk.map(|disk| DataFiles {
            segments: Arc::new(disk.clone()),
            index: Arc::new(FaultyDisk::default()),
        });
        Upkeep::new(Arc::clone(store.history()), files, Position::ZERO).with_codec(codec)
    };
    let mut store = open();
    let mut keeper = upkeep(&store);
    let (mut id, mut appends) = (1, Vec::new());
    let mut choices = choices.into_iter().cycle();
    for step in steps {
        match step {
            Step::Append { stream, events, size } => {
                let proposal = append(stream, id, events, size);
                id += events;
                let answer = submit(&store, proposal.clone()).unwrap();
                assert_eq!(submit(&twin, proposal.clone()).unwrap(), answer);
                appends.push((proposal, answer));
            }
            Step::Set { stream, change } => {
                let scope = Scope::Stream(name(STREAMS[stream]));
                let setting =
                    Setting { scope, change, expected: None }.proposal(Uuid::from_u128(id));
                id += 1;
                let answer = submit(&store, setting.clone());
                assert_eq!(submit(&twin, setting), answer);
            }
            Step::SetCategory { category, max_count } => {
                let change = Change::Retain(Rule { max_count, ..Rule::default() });
                let scope = Scope::Category(name(category));
                let setting =
                    Setting { scope, change, expected: None }.proposal(Uuid::from_u128(id));
                id += 1;
                let answer = submit(&store, setting.clone());
                assert_eq!(submit(&twin, setting), answer);
            }
            Step::Compact { all, failure } => {
                store.history().log.seal_at_next_commit();
                let proposal = append(0, id, 1, 0);
                id += 1;
                assert_eq!(submit(&store, proposal.clone()), submit(&twin, proposal));
                keeper.map_sealed().unwrap();
                disk.inspect(|disk| disk.fail(failure));
                let result = if all { keeper.compact() } else { keeper.compact_next() };
                disk.inspect(|disk| disk.fail(None));
                assert!(result.is_ok() || failure.is_some());
                if all && result.is_ok() {
                    check_removed(store.history());
                }
            }
            Step::Pack { failure } => {
                keeper.map_sealed().unwrap();
                disk.inspect(|disk| disk.fail(failure));
                let result = keeper.pack_next();
                disk.inspect(|disk| disk.fail(None));
                assert!(result.is_ok() || failure.is_some());
            }
            Step::Restart => {
                let Some(disk) = disk else { continue };
                drop((store, keeper));
                disk.crash(|count| choices.next().unwrap().index(count));
                store = open();
                keeper = upkeep(&store);
            }
        }
        let seen = visible(store.history());
        assert_eq!(seen, visible(twin.history()));
        check_reads(store.history(), &seen);
    }
    assert_eq!(chain(store.history()), chain(twin.history()));
    for stream in STREAMS {
        let count = |store: &Store| store.history().streams.count(stream, Position::MAX);
        assert_eq!(count(&store), count(&twin));
    }
    // A repeat is known for ever, also of what was removed.
    for (proposal, answer) in appends {
        let again = submit(&store, proposal).unwrap();
        assert_eq!(again, Committed { duplicate: true, ..answer });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_compacted_memory_reads_as_one_that_is_not(steps in steps(), codec in codec()) {
        run(steps, codec, None, Vec::new());
    }

    /// Also where the disk fails in the middle of it, and where the power goes.
    #[test]
    fn a_compacted_directory_reads_as_a_memory_that_is_not(
        steps in steps(),
        codec in codec(),
        choices in proptest::collection::vec(any::<Index>(), 50),
    ) {
        run(steps, codec, Some(&FaultyDisk::default()), choices);
    }
}

/// Seen to take 5 steps where each removed event is passed by itself.
#[test]
fn a_read_passes_what_was_removed_at_once() {
    const REMOVED: u64 = 20_000;
    let store = memory();
    submit(&store, append(2, 1, 1, 0)).unwrap();
    for batch in 0..REMOVED / 100 {
        submit(&store, append(0, (2 + 100 * batch).into(), 100, 0)).unwrap();
    }
    let change = Change::Delete;
    let scope = Scope::Stream(name(STREAMS[0]));
    let setting = Setting { scope, change, expected: None };
    submit(&store, setting.proposal(Uuid::from_u128(0))).unwrap();
    store.history().log.seal_at_next_commit();
    submit(&store, append(2, (2 + REMOVED).into(), 1, 0)).unwrap();
    let keeper = Upkeep::new(Arc::clone(store.history()), None, Position::ZERO);
    assert_eq!(keeper.compact().unwrap().events, REMOVED);
    let made = Clause { types: vec![name("Made")], ..Clause::default() };
    for (filter, events) in [(Filter::default(), 3), (Filter { clauses: vec![made] }, 2)] {
        for direction in [Direction::Forwards, Direction::Backwards] {
            let (steps, found) = read(store.history(), &filter, direction);
            assert_eq!(found, events);
            assert!(steps <= 2, "{steps} steps, {direction:?}");
        }
    }
}
