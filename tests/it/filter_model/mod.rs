//! Filters against a model: a plain vector of events, each of which is looked at, and a matching that knows
//! nothing of indexes. Every way to read must find the same, in memory, after restarts with and without the
//! written indexes, where events are hidden, removed or dropped, and while others append.

mod interest;
mod model;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use annals::{
    core::{
        append::{Condition, Proposal, Write},
        clock::{Clock, ManualClock},
        commit_log::{
            disk::{
                self, SyncMode,
                files::Files,
                snapshot::{self, SnapshotError},
            },
            memory::Memory,
        },
        filter::{
            Clause, Filter, bound,
            plan::{self, Cursor, Direction, Step},
        },
        history::History,
        index::shared_ids::Candidates,
        log::{LogWriter, Reader, packing::Codec},
        position::Position,
        retention::{Change, Scope, Setting},
        sequencer::{Sequencer, WhenFull},
        store::Store,
        upkeep::{DataFiles, Upkeep},
    },
    service::{command::CommandService, places::Places, query::QueryService, scan::Scan},
};
use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    commit_log::FaultyDisk,
    compaction::submit,
    retention_model::{self, SECOND, event_type, name, positions},
    support::within,
};

use self::model::*;

/// A store, its clock, and the model of it.
struct Twins {
    clock: Arc<ManualClock>,
    store: Store,
    model: Model,
    /// Of the clock.
    now: i64,
    runtime: tokio::runtime::Runtime,
}

fn in_memory(segment_size: usize) -> Sequencer {
    let log = LogWriter::with_segment_size(segment_size);
    Sequencer::new(log, Box::new(Memory)).with_metadata_keys(keys(&KEYS[..2]))
}

impl Twins {
    fn new(sequencer: Sequencer) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let clock = Arc::new(ManualClock::default());
        let store = Store::new(sequencer, Arc::clone(&clock) as Arc<dyn Clock>, 100);
        let twins = Self { clock, store, model: Model::default(), now: NOW * SECOND, runtime };
        twins.clock.set(twins.now);
        twins
    }

    fn pass(&mut self, micros: i64) {
        self.now += micros;
        self.clock.set(self.now);
    }

    /// One commit. Events of one stream follow one another in it, as a proposal has them.
    fn append(&mut self, events: Vec<Kept>) {
        let commit = commit(self.model.head(), events, self.now);
        self.model.events.extend(commit.events);
        let committed = submit(&self.store, commit.proposal).unwrap();
        assert_eq!(committed.last.get(), self.model.head());
    }

    fn check(&self, clauses: &[Wanted], probe: &Probe) {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let queries = QueryService::new(
            Arc::clone(self.store.history()),
            clock,
            Places::new(10),
            CancellationToken::new(),
        );
        check(self.store.history(), &*self.clock, &self.model, clauses, probe);
        let filter = filter(clauses);
        let count = self.runtime.block_on(queries.count(&filter));
        let (all, head) = (self.model.matching(clauses, self.model.head()), self.model.head());
        assert_eq!(count, (all.len() as u64, Position::new(head)), "{clauses:?}");
    }
}

struct Commit {
    proposal: Proposal,
    events: Vec<Kept>,
}

/// The commit of these events behind `head`, and the events in the order in which it has them.
fn commit(head: u64, events: Vec<Kept>, now: i64) -> Commit {
    let mut streams: Vec<(String, Vec<Kept>)> = Vec::new();
    for event in events {
        let event = Kept { recorded: now, ..event };
        match streams.iter_mut().find(|(stream, _)| *stream == event.stream) {
            Some((_, events)) => events.push(event),
            None => streams.push((event.stream.clone(), vec![event])),
        }
    }
    let mut ids = u128::from(head) + 1..;
    let writes = streams.iter().map(|(stream, events)| Write {
        stream: name(stream),
        events: events.iter().zip(&mut ids).map(|(event, id)| event.event(id)).collect(),
        expected: None,
    });
    let proposal = Proposal { writes: writes.collect(), ..Proposal::default() };
    Commit { proposal, events: streams.into_iter().flat_map(|(_, events)| events).collect() }
}

/// Every way to read what is in `history` finds what the model does.
fn check(
    history: &Arc<History>,
    clock: &dyn Clock,
    model: &Model,
    clauses: &[Wanted],
    probe: &Probe,
) {
    let filter = filter(clauses);
    let reader = history.log.reader();
    let head = model.head();
    assert_eq!(reader.head().get(), head);
    let all = model.matching(clauses, head);
    let take = |positions: Vec<u64>| {
        let limit = if probe.limit == 0 { u64::MAX } else { probe.limit };
        positions.into_iter().take(usize::try_from(limit).unwrap()).collect::<Vec<_>>()
    };

    let after = probe.after.index(model.events.len() + 5) as u64;
    let scan = |direction| {
        let after = Position::new(after);
        positions(Scan::all(history, clock, &filter, direction, after, probe.limit), probe.batch)
    };
    let forwards = take(all.iter().copied().filter(|at| *at > after).collect());
    assert_eq!(scan(Direction::Forwards), forwards, "after {after}: {clauses:?}");
    let before = |at: &u64| after == 0 || *at < after;
    let backwards = take(all.iter().rev().copied().filter(before).collect());
    assert_eq!(scan(Direction::Backwards), backwards, "before {after}: {clauses:?}");

    // What a subscription scans, and how much it says is to come.
    let (from, to) = (Position::new(after), Position::new(head));
    let live = Scan::up_to(to, history, clock, &filter, from);
    let to_come = live.matches_max(from).min(bound::matches_max(&filter, history, &reader, from));
    let rest: Vec<u64> = all.iter().copied().filter(|at| *at > after).collect();
    assert!(to_come >= rest.len() as u64, "{to_come} after {after}: {clauses:?}");
    assert!(to_come <= head.saturating_sub(after), "{to_come} after {after}: {clauses:?}");
    assert_eq!(positions(live, probe.batch), rest, "after {after}: {clauses:?}");

    // A cursor knows nothing of what is hidden.
    let seen = |positions: Vec<u64>| {
        positions.into_iter().filter(|at| model.sees(*at)).collect::<Vec<_>>()
    };
    let walked = |direction| seen(walk(&filter, history, &reader, direction, probe.budget));
    assert_eq!(walked(Direction::Forwards), all, "{clauses:?}");
    let backwards: Vec<u64> = all.iter().rev().copied().collect();
    assert_eq!(walked(Direction::Backwards), backwards, "{clauses:?}");
    assert_eq!(seen(filled(&filter, history, &reader, probe)), all, "{clauses:?}");
    assert_eq!(matched(&filter, history, &reader, clock, probe), all, "{clauses:?}");

    let plans = plan::explain(&filter, history, &reader);
    let everything = [Wanted::default()];
    let explained = if clauses.is_empty() { &everything[..] } else { clauses };
    assert_eq!(plans.len(), explained.len());
    for (clause, plan) in explained.iter().zip(plans) {
        let matching = model.matching(std::slice::from_ref(clause), head);
        assert!(plan.candidates_max >= matching.len() as u64, "{plan:?}: {clause:?}");
        let in_range = |at: &u64| plan.range.0.get() <= *at && *at <= plan.range.1.get();
        assert!(matching.iter().all(in_range), "{plan:?}: {clause:?}");
        let types: BTreeSet<&String> = clause.types.iter().collect();
        let known = plan.indexes.iter().find(|it| it.index == "types").map_or(0, |it| it.values);
        assert!(known <= types.len() as u64, "a value is one, however often it is named");
    }
}

/// All that a cursor finds step by step, with so small a budget that it pauses wherever it can. It says where
/// it has come to, and goes on; where a budget is too small for a step, it gets more.
fn walk(
    filter: &Filter,
    history: &History,
    reader: &Reader,
    direction: Direction,
    budget: u32,
) -> Vec<u64> {
    let mut cursor = Cursor::new(filter, history, reader, direction);
    let (mut from, mut more, mut all) = (Position::new(1), 0, Vec::new());
    if direction == Direction::Backwards {
        from = reader.head();
    }
    loop {
        let mut left = budget + more;
        let step = cursor.seek(from, reader, &mut left);
        let (at, found) = match step {
            Step::Found(at) => (at, true),
            Step::Paused(at) => (at, false),
            Step::End => return all,
        };
        let ahead = match direction {
            Direction::Forwards => at >= from,
            Direction::Backwards => at <= from,
        };
        assert!(ahead && at <= reader.head() && at > Position::ZERO, "{step:?} from {from}");
        assert!(found || left == 0, "it pauses only where nothing is left: {left}");
        more = if found || at != from { 0 } else { more + 1 };
        assert!(more < 10_000, "it comes to an end");
        from = at;
        if found {
            all.push(at.get());
            from = match direction {
                Direction::Forwards => at.next(),
                Direction::Backwards => at.previous(),
            };
        }
    }
}

/// The same in small batches.
fn filled(filter: &Filter, history: &History, reader: &Reader, probe: &Probe) -> Vec<u64> {
    let mut cursor = Cursor::new(filter, history, reader, Direction::Forwards);
    let (mut next, mut more, mut all) = (Some(Position::new(1)), 0, Vec::new());
    while let Some(from) = next {
        let mut batch = Vec::new();
        next = cursor.fill(from, reader, &mut (probe.budget + more), probe.max, &mut batch);
        assert!(batch.len() <= probe.max);
        assert!(batch.iter().all(|at| *at >= from.get() && next.is_none_or(|it| *at < it.get())));
        more = if next == Some(from) { more + 1 } else { 0 };
        assert!(more < 10_000, "it comes to an end");
        all.extend(batch);
    }
    all
}

/// The same by looks, each of which begins where the last one has come to.
fn matched(
    filter: &Filter,
    history: &Arc<History>,
    reader: &Reader,
    clock: &dyn Clock,
    probe: &Probe,
) -> Vec<u64> {
    let mut visibility = history.visibility(reader, clock);
    let (mut after, mut all) = (Position::ZERO, Vec::new());
    while after < reader.head() {
        let (max, budget, visibility) = (probe.max, probe.budget, visibility.as_mut());
        let (found, seen) = plan::matches(filter, history, reader, after, max, budget, visibility);
        assert!(found.len() <= max && found.iter().all(|at| after < *at && *at <= seen));
        assert!(seen > after, "a look gets on: {after}");
        all.extend(found.into_iter().map(Position::get));
        after = seen;
    }
    all
}

fn history(max: usize) -> impl Strategy<Value = Vec<(Vec<Kept>, i64)>> {
    // Commits, and how long before each.
    let pass = prop_oneof![8 => 0i64..4, 1 => Just(999_999)];
    vec((vec(an_event(), 1..8), pass), 0..max)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// Any filter gives exactly what a look at every event gives, by every way to read, forwards and
    /// backwards, however often it is paused.
    #[test]
    fn any_filter_gives_what_a_look_at_every_event_gives(
        commits in history(40),
        asked in vec((clauses(), a_probe()), 8),
        segment_size in 500usize..8000,
    ) {
        let mut twins = Twins::new(in_memory(segment_size));
        for (events, pass) in commits {
            twins.pass(pass);
            twins.append(events);
        }
        for (clauses, probe) in &asked {
            twins.check(clauses, probe);
        }
    }
}

/// What one index knows by itself is read off it, without a step from match to match.
#[test]
fn a_walk_over_one_list_takes_no_steps() {
    let mut twins = Twins::new(in_memory(1 << 20));
    let event = an_event().new_tree(&mut TestRunner::deterministic()).unwrap().current();
    twins.append(vec![event.clone(); 1000]);
    let history = twins.store.history();
    let reader = history.log.reader();
    for clause in [
        Wanted { types: vec![event.event_type.clone()], ..Wanted::default() },
        Wanted { streams: vec![event.stream.clone(), "unheard".to_owned()], ..Wanted::default() },
        Wanted { prefixes: vec![event.stream], ..Wanted::default() },
    ] {
        let mut cursor = Cursor::new(&filter(&[clause]), history, &reader, Direction::Forwards);
        let mut found = Vec::new();
        let next = cursor.fill(Position::new(1), &reader, &mut 4096, 2000, &mut found);
        assert_eq!((next, found.len(), cursor.cost().steps), (None, 1000, 0));
    }
}

/// A condition of several clauses, each of which has more to jump over than is done at once, is decided.
#[test]
fn a_condition_of_several_rare_clauses_is_decided() {
    let mut twins = Twins::new(in_memory(1 << 20));
    let event = an_event().new_tree(&mut TestRunner::deterministic()).unwrap().current();
    let types = ["A", "B"].into_iter().cycle();
    let event = |event_type: &str| Kept {
        event_type: event_type.to_owned(),
        tags: vec![if event_type == "A" { "red" } else { "blue" }],
        ..event.clone()
    };
    twins.append(types.take(12_000).map(event).collect());
    let clause = |event_type: &str, tag: &str| Clause {
        types: vec![name(event_type)],
        tags_all: vec![name(tag)],
        ..Clause::default()
    };
    let filter = Filter { clauses: vec![clause("A", "blue"), clause("B", "red")] };
    let conditions = vec![Condition { filter, ..Condition::default() }];
    let commit = commit(twins.model.head(), vec![event("A")], twins.now);
    let proposal = Proposal { conditions, ..commit.proposal };
    let service = CommandService::new(Arc::new(twins.store));
    let answer = async { within(service.commit(proposal)).await };
    assert!(twins.runtime.block_on(answer).is_ok());
}

/// What came out of a filter at some head.
type Seen = (usize, Direction, u64, Vec<u64>);

/// All that a reader finds until the writer has ended, and once more.
fn read_on(
    history: &Arc<History>,
    clock: &dyn Clock,
    asked: &[(Filter, Probe)],
    ended: &AtomicBool,
) -> Vec<Seen> {
    let mut seen = Vec::new();
    loop {
        // Acquire, pairs with the Release of the writer: the last round sees it all.
        let last = ended.load(Ordering::Acquire);
        for (index, (filter, probe)) in asked.iter().enumerate() {
            for direction in [Direction::Forwards, Direction::Backwards] {
                let scan = Scan::all(history, clock, filter, direction, Position::ZERO, 0);
                let head = scan.head().get();
                seen.push((index, direction, head, positions(scan, probe.batch)));
                let reader = history.log.reader();
                let walked = walk(filter, history, &reader, direction, probe.budget);
                seen.push((index, direction, reader.head().get(), walked));
            }
        }
        if last {
            return seen;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// A scan gives what was there at its head, no more and no less, while others append.
    #[test]
    fn a_scan_beside_appends_gives_what_was_there_at_its_head(
        commits in history(200),
        asked in vec((clauses(), a_probe()), 3),
        segment_size in 500usize..8000,
    ) {
        let mut twins = Twins::new(in_memory(segment_size));
        let mut proposals = Vec::new();
        for (events, pass) in commits {
            twins.pass(pass);
            let commit = commit(twins.model.head(), events, twins.now);
            twins.model.events.extend(commit.events);
            proposals.push((commit.proposal, twins.now));
        }
        let filters: Vec<_> =
            asked.iter().map(|(clauses, probe)| (filter(clauses), probe.clone())).collect();
        let ended = AtomicBool::new(false);
        let (history, clock) = (twins.store.history(), &*twins.clock);
        let seen: Vec<Seen> = std::thread::scope(|scope| {
            let read = || read_on(history, clock, &filters, &ended);
            let readers = [scope.spawn(read), scope.spawn(read)];
            for (proposal, now) in proposals {
                clock.set(now);
                submit(&twins.store, proposal).unwrap();
            }
            // Release, pairs with the Acquire of the readers.
            ended.store(true, Ordering::Release);
            readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
        });
        let all: Vec<_> =
            asked.iter().map(|it| twins.model.matching(&it.0, twins.model.head())).collect();
        for (index, direction, head, seen) in seen {
            let mut expected: Vec<u64> =
                all[index].iter().copied().filter(|at| *at <= head).collect();
            if direction == Direction::Backwards {
                expected.reverse();
            }
            prop_assert_eq!(seen, expected, "up to {}: {:?}", head, &asked[index]);
        }
    }
}

/// A store in a directory, with what hides its events.
struct Durable {
    twins: Twins,
    retention: retention_model::Model,
    segments: FaultyDisk,
    index: FaultyDisk,
    /// The metadata keys that are indexed, and those of the written indexes.
    keys: &'static [&'static str],
    written_keys: &'static [&'static str],
    upkeep: Upkeep,
}

impl Durable {
    fn new() -> Self {
        let (segments, index) = (FaultyDisk::default(), FaultyDisk::default());
        let keys = KEY_SETS[0];
        let twins = Twins::new(open(&segments, None, keys, keys));
        let upkeep = upkeep(&twins.store, &segments, &index);
        let mut retention = retention_model::Model::default();
        retention.now = twins.now;
        Self { twins, retention, segments, index, keys, written_keys: keys, upkeep }
    }

    fn append(&mut self, events: Vec<Kept>) {
        let before = self.twins.model.events.len();
        self.twins.append(events);
        for (index, event) in self.twins.model.events.iter().enumerate().skip(before) {
            let id = Uuid::from_u128(index as u128 + 1);
            self.retention.write(id, &event.stream, &event.event_type);
        }
    }

    fn set(&mut self, scope: Scope, change: Change) {
        let setting = Setting { scope, change, expected: None };
        let id = Uuid::from_u128(u128::from(self.twins.model.head()) + 1);
        let proposal = setting.clone().proposal(id);
        let write = proposal.writes[0].clone();
        let answer = submit(&self.twins.store, proposal);
        let expected = self.retention.set(&setting);
        assert_eq!(answer.is_ok(), expected.is_ok());
        let Ok(Some(_)) = answer.map(|committed| committed.recorded_at) else { return };
        let content = match change {
            Change::Retain(rule) => {
                let age = rule.max_age_micros.map(|age| format!("\"maxAgeMicros\":{age}"));
                let count = rule.max_count.map(|count| format!("\"maxCount\":{count}"));
                let parts: Vec<String> = age.into_iter().chain(count).collect();
                Content::Text(format!("{{{}}}", parts.join(",")))
            }
            Change::Truncate { before } => Content::Text(format!("{{\"beforeVersion\":{before}}}")),
            Change::Delete | Change::Tombstone => Content::None,
        };
        let event = Kept {
            stream: write.stream.to_string(),
            event_type: event_type(write.events.iter().next().unwrap()).to_owned(),
            tags: Vec::new(),
            correlation: String::new(),
            causation: String::new(),
            metadata: Vec::new(),
            occurred: None,
            recorded: self.twins.now,
            content,
            content_type: "",
        };
        self.retention.write(id, &event.stream, &event.event_type);
        self.twins.model.events.push(event);
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Append(events) => self.append(events),
            Op::Pass(micros) => self.twins.pass(micros),
            Op::Set(scope, change) => self.set(scope, change),
            Op::WriteIndexes => {
                let history = self.twins.store.history();
                snapshot::write(&self.index, history, &history.log.reader()).unwrap();
                self.written_keys = self.keys;
            }
            Op::Compact(event) => {
                self.twins.store.history().log.seal_at_next_commit();
                self.append(vec![event]);
                self.upkeep.map_sealed().unwrap();
                self.upkeep.compact().unwrap();
            }
            Op::Pack => {
                self.upkeep.map_sealed().unwrap();
                self.upkeep.pack_next().unwrap();
            }
            Op::Restart { with_indexes, keys } => {
                let index = with_indexes.then_some(&self.index);
                self.keys = keys;
                let sequencer = open(&self.segments, index, keys, self.written_keys);
                let clock = Arc::clone(&self.twins.clock) as Arc<dyn Clock>;
                self.twins.store = Store::new(sequencer, clock, 100);
                self.upkeep = upkeep(&self.twins.store, &self.segments, &self.index);
            }
        }
        self.retention.now = self.twins.now;
        self.retention.age();
        self.twins.model.hidden.clone_from(&self.retention.hidden);
    }
}

fn upkeep(store: &Store, segments: &FaultyDisk, index: &FaultyDisk) -> Upkeep {
    let files = DataFiles { segments: Arc::new(segments.clone()), index: Arc::new(index.clone()) };
    let upkeep = Upkeep::new(Arc::clone(store.history()), Some(files), Position::ZERO);
    upkeep.with_codec(Some(Codec::Lz4))
}

/// What a start makes of a directory. Written indexes are used where they are of the same metadata keys.
fn open(
    segments: &FaultyDisk,
    index: Option<&FaultyDisk>,
    metadata_keys: &[&str],
    written_keys: &[&str],
) -> Sequencer {
    let files: Arc<dyn Files> = Arc::new(segments.clone());
    let (sequencer, recovered) =
        disk::open(files, SyncMode::Always, 2000, None, |_, _| {}).unwrap();
    let mut sequencer = sequencer.with_metadata_keys(keys(metadata_keys));
    if let Some((_, indexes)) = index.and_then(|index| snapshot::read_newest(index)) {
        let reader = sequencer.reader(recovered.head);
        match indexes.unwrap().check(&reader, &sequencer.history().metadata) {
            Ok(indexes) => {
                assert_eq!(metadata_keys, written_keys);
                sequencer.take_indexes(indexes);
            }
            Err(SnapshotError::OtherKeys) => assert_ne!(metadata_keys, written_keys),
            Err(error) => panic!("{error}"),
        }
    }
    sequencer.restore(recovered.head, |_| {});
    sequencer
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// The same after any restarts, with the written indexes, with old ones, without, or with those of
    /// other metadata keys; and of what rules, truncations and deletions leave, removed from the segments
    /// or not.
    #[test]
    fn any_filter_gives_what_is_left_after_restarts_and_compaction(
        ops in ops(),
        asked in vec((clauses(), a_probe()), 6),
    ) {
        let mut durable = Durable::new();
        let mut next = asked.iter().cycle();
        for op in ops {
            let looked_at = matches!(op, Op::Restart { .. } | Op::Compact(_) | Op::Set(..));
            durable.apply(op);
            if looked_at {
                let (clauses, probe) = next.next().unwrap();
                durable.twins.check(clauses, probe);
            }
        }
        for (clauses, probe) in &asked {
            durable.twins.check(clauses, probe);
        }
    }
}

/// Events and filters that are the same in every run.
struct Samples(TestRunner);

impl Samples {
    fn new() -> Self {
        Self(TestRunner::deterministic())
    }

    fn of<T>(&mut self, strategy: &impl Strategy<Value = T>) -> T {
        strategy.new_tree(&mut self.0).unwrap().current()
    }
}

/// The same where the oldest events are dropped: of those that are kept.
#[test]
fn any_filter_gives_what_is_kept_where_the_oldest_is_dropped() {
    const MAX: usize = 2 << 20;
    let log = LogWriter::with_segment_size(MAX / 16);
    let sequencer = Sequencer::new(log, Box::new(Memory))
        .with_metadata_keys(keys(&KEYS[..2]))
        .with_memory_max(MAX, WhenFull::Evict);
    let mut twins = Twins::new(sequencer);
    let (mut samples, commit) = (Samples::new(), vec(an_event(), 20..50));
    for round in 1..=500 {
        let mut events = samples.of(&commit);
        // Ids and values of a few events, which are forgotten with them.
        for event in &mut events {
            if event.correlation.is_empty() {
                event.correlation = format!("{}", round / 3);
            }
        }
        twins.pass(1);
        twins.append(events);
        twins.model.first = twins.store.history().log.first().get();
        if round % 50 == 0 {
            for _ in 0..8 {
                let (clauses, mut probe) = samples.of(&(clauses(), a_probe()));
                probe.batch *= 100;
                probe.max *= 100;
                probe.budget *= 100;
                twins.check(&clauses, &probe);
            }
        }
    }
    assert!(twins.model.first > 5000, "{}", twins.model.first);
}

/// The same where lists, columns and chains have many blocks, and where the times of most blocks are not
/// those that are looked for.
#[test]
fn any_filter_gives_what_a_look_at_every_event_gives_in_a_long_log() {
    let mut twins = Twins::new(in_memory(1 << 20));
    let mut samples = Samples::new();
    let some = samples.of(&vec(an_event(), 997));
    let mut events = some.iter().cycle();
    // More than two blocks of 16 384 events, which occurred over two days, more or less in their order.
    for round in 0..40u32 {
        let commit = (0..1000u32).map(|number| {
            let event = events.next().unwrap().clone();
            let second = NOW + i64::from(round * 4000 + number % 7);
            // The first block spans all times.
            let occurred = match number % 100 {
                0 if round < 10 => event.occurred,
                _ => Some((second, number)),
            };
            Kept { occurred, correlation: format!("{}", (round * 1000 + number) % 3000), ..event }
        });
        twins.append(commit.collect());
    }
    let occurred = |from: Option<i64>, to: Option<i64>| {
        let end = |second| (NOW + second, 100);
        Wanted { occurred: Range { from: from.map(end), to: to.map(end) }, ..Wanted::default() }
    };
    let mut asked: Vec<Vec<Wanted>> = vec![
        vec![occurred(Some(20_000), Some(20_006))],
        vec![occurred(Some(65_533), Some(68_003)), occurred(Some(130_000), Some(136_000))],
        vec![occurred(Some(156_000), None)],
        vec![occurred(None, Some(4))],
        vec![Wanted { types: vec!["C".to_owned()], ..occurred(Some(64_000), Some(80_000)) }],
        vec![Wanted { correlations: vec!["7".to_owned(), "2999".to_owned()], ..Wanted::default() }],
        vec![Wanted { types: vec!["A".to_owned()], ..Wanted::default() }],
    ];
    // The last event of a block and the first of the next.
    for index in [2 * 16_384 - 1, 2 * 16_384] {
        let (second, nanos) = twins.model.events[index].occurred.unwrap();
        let (from, to) = (Some((second, nanos)), Some((second, nanos + 1)));
        let occurred = Range { from, to };
        asked.push(vec![Wanted { occurred, ..Wanted::default() }]);
    }
    asked.extend((0..8).map(|_| samples.of(&clauses())));
    for clauses in asked {
        let probe = Probe { batch: 1000, budget: 500, max: 900, ..samples.of(&a_probe()) };
        twins.check(&clauses, &probe);
    }
}

/// A prefix of so many streams is an index's; of more it is looked for in their events.
#[test]
fn a_prefix_of_many_streams_gives_their_events() {
    let mut twins = Twins::new(in_memory(1 << 20));
    let mut samples = Samples::new();
    let event = samples.of(&an_event());
    let mut number = 0;
    let mut streams = |count: usize| -> Vec<Kept> {
        let names = (number..number + count).map(|number| format!("Many-{number:05}"));
        number += count;
        names.map(|stream| Kept { stream, ..event.clone() }).collect()
    };
    let prefixes: [(&[&str], bool); 7] = [
        (&["Many-"], true),
        (&["Many-00", "Many-01", "Payment"], false),
        (&["M"], false),
        (&["Many-", "Payment-1"], true),
        (&["Many-0409"], false),
        (&["Many-", "-odd"], false),
        (&["Unheard-"], false),
    ];
    let (first, last) = (streams(4096), streams(200));
    for (more, united) in [(first, true), (last, false)] {
        twins.append(more);
        let others = ["Payment-1", "Payment-1", "-odd"];
        let others = others.map(|stream| Kept { stream: stream.to_owned(), ..event.clone() });
        twins.append(others.to_vec());
        for (prefixes, has_category) in prefixes {
            let prefixes: Vec<String> = prefixes.iter().map(|text| (*text).to_owned()).collect();
            let clause = Wanted { prefixes: prefixes.clone(), ..Wanted::default() };
            let with_type = Wanted { types: vec![event.event_type.clone()], ..clause.clone() };
            let history = twins.store.history();
            let plans = plan::explain(
                &filter(std::slice::from_ref(&clause)),
                history,
                &history.log.reader(),
            );
            let all = prefixes == ["Many-"] || prefixes == ["M"];
            if all || prefixes.len() == 2 && has_category {
                let index = match (united && all, has_category) {
                    (true, _) => Some(("stream prefixes", 4096)),
                    (false, true) => Some(("categories", prefixes.len() as u64)),
                    (false, false) => None,
                };
                let indexes = plans[0].indexes.first().map(|it| (&*it.index, it.values));
                assert_eq!(indexes, index, "{plans:?}");
                assert_eq!(plans[0].checks.is_empty(), united && all, "{plans:?}");
            }
            for clauses in [vec![clause.clone()], vec![with_type], vec![clause, Wanted::default()]]
            {
                let probe = Probe { batch: 1000, budget: 5000, max: 900, ..samples.of(&a_probe()) };
                twins.check(&clauses, &probe);
            }
        }
    }
}

/// The index of ids knows a part of their hash, so now and then two share a chain; each finds its own events.
#[test]
fn ids_that_share_a_chain_are_told_apart() {
    const IDS: u64 = 200_000;
    let mut twins = Twins::new(in_memory(16 << 20));
    let event = Samples::new().of(&an_event());
    let id = |number: u64| format!("{number:x}");
    for first in (1..IDS).step_by(5000) {
        let event =
            |number| Kept { correlation: id(number), causation: id(number), ..event.clone() };
        twins.append((first..first + 5000).map(event).collect());
    }
    let history = twins.store.history();
    let reader = history.log.reader();
    let mut shared = 0;
    // Of so many, nine pairs share one, give or take three.
    for number in 1..=IDS {
        for (ids, of_one) in [(&history.correlations, true), (&history.causations, false)] {
            let few = ids.candidates(&id(number), reader.head(), reader.first());
            let Candidates::Few(few) = few else { panic!("each has one event") };
            assert!(few.contains(&number));
            if few.len() > 1 {
                shared += 1;
                let ids = vec![id(number)];
                let clause = if of_one {
                    Wanted { correlations: ids, ..Wanted::default() }
                } else {
                    Wanted { causations: ids, ..Wanted::default() }
                };
                let filter = filter(&[clause]);
                let found = walk(&filter, history, &reader, Direction::Forwards, 100);
                assert_eq!(found, [number]);
            }
        }
    }
    assert!(shared > 0);
}
