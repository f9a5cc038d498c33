//! Retention against a model: a vector of events and a set of those that are hidden, which is worked out
//! anew, from the words of the protocol's comments, after every step.

use std::{collections::BTreeSet, sync::Arc};

use annals::{
    core::{
        append::{AppendError, Committed, Condition, Proposal, Write},
        clock::{Clock, ManualClock},
        commit_log::{
            disk::{self, DataDirectory, SyncMode, files::Directory, snapshot},
            memory::Memory,
        },
        event::{NewEvent, NewEventView},
        filter::{Clause, Filter, plan::Direction},
        log::{
            LogWriter,
            format::{self, Body, Indexed},
        },
        name::{self, Name},
        position::{Position, Version},
        retention::{Change, Gone, Rule, Scope, Setting},
        sequencer::Sequencer,
        store::Store,
    },
    service::{
        command::CommandService,
        places::Places,
        query::{PageRequest, QueryError, QueryService},
        scan::{Progress, Scan},
        subscription::{self, Interests, Message, Start, SubscribeOptions, SubscriptionService},
    },
};
use proptest::{prelude::*, sample::Index};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support;

const STREAMS: [&str; 6] = ["Payment-1", "Payment-2", "Payment", "Order-1", "Ordering-1", "-1"];
const CATEGORIES: [&str; 4] = ["Payment", "Order", "Ordering", "-1"];
const TYPES: [&str; 2] = ["Made", "Changed"];
pub const SECOND: i64 = 1_000_000;

pub fn name(text: &str) -> Name {
    Name::new(text, 100).unwrap()
}

#[derive(Debug, Clone)]
struct Kept {
    id: Uuid,
    stream: String,
    version: u64,
    event_type: String,
    recorded_at: i64,
}

/// Everything that was ever written, and what is hidden of it.
#[derive(Default)]
pub struct Model {
    log: Vec<Kept>,
    pub hidden: BTreeSet<u64>,
    rules: Vec<(Scope, Rule)>,
    tombstoned: BTreeSet<String>,
    /// Streams with the version at which they were deleted.
    deleted: Vec<(String, u64)>,
    pub now: i64,
}

impl Model {
    pub fn version(&self, stream: &str) -> u64 {
        self.log.iter().filter(|kept| kept.stream == stream).count() as u64
    }

    fn rule(&self, scope: &Scope) -> Rule {
        let rule = self.rules.iter().find(|(other, _)| other == scope);
        rule.map(|(_, rule)| *rule).unwrap_or_default()
    }

    fn hide_before(&mut self, stream: &str, before: u64) {
        for (at, kept) in (1..).zip(&self.log) {
            if kept.stream == stream && kept.version < before {
                self.hidden.insert(at);
            }
        }
    }

    /// Hides what the rules hide now. What was hidden before stays so.
    pub fn age(&mut self) {
        for (at, kept) in (1..).zip(&self.log) {
            let stream = Scope::Stream(name(&kept.stream));
            let category = Scope::Category(name(name::category(&kept.stream)));
            for rule in [self.rule(&stream), self.rule(&category)] {
                let newer = self.version(&kept.stream) - kept.version;
                let too_many = rule.max_count.is_some_and(|max| newer >= max);
                let age = self.now - kept.recorded_at;
                if too_many || rule.max_age_micros.is_some_and(|max| age > max) {
                    self.hidden.insert(at);
                }
            }
        }
    }

    pub fn write(&mut self, id: Uuid, stream: &str, event_type: &str) {
        let version = self.version(stream) + 1;
        let (stream, event_type) = (stream.to_owned(), event_type.to_owned());
        self.log.push(Kept { id, stream, version, event_type, recorded_at: self.now });
    }

    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    /// The positions that can be seen.
    fn visible(&self, wanted: impl Fn(&Kept) -> bool) -> Vec<u64> {
        (1..)
            .zip(&self.log)
            .filter(|(at, kept)| !self.hidden.contains(at) && wanted(kept))
            .map(|(at, _)| at)
            .collect()
    }

    fn matching(&self, filter: &Filter) -> Vec<u64> {
        let one_of = |names: &[Name], text: &str| {
            names.is_empty() || names.iter().any(|name| name.as_str() == text)
        };
        self.visible(|kept| {
            filter.clauses.is_empty()
                || filter.clauses.iter().any(|clause| {
                    one_of(&clause.streams, &kept.stream)
                        && one_of(&clause.categories, name::category(&kept.stream))
                        && one_of(&clause.types, &kept.event_type)
                })
        })
    }

    fn gone(&self, stream: &str) -> Option<Gone> {
        if self.tombstoned.contains(stream) {
            return Some(Gone::Tombstoned);
        }
        let now = (stream.to_owned(), self.version(stream));
        self.deleted.contains(&now).then_some(Gone::Deleted)
    }

    /// What a setting must come to: whether it changes anything, and its effect.
    pub fn set(&mut self, setting: &Setting) -> Result<bool, &'static str> {
        if let Change::Retain(rule) = setting.change {
            if rule == self.rule(&setting.scope) {
                return Ok(false);
            }
            self.rules.retain(|(scope, _)| *scope != setting.scope);
            self.rules.push((setting.scope.clone(), rule));
            return Ok(true);
        }
        let Scope::Stream(stream) = &setting.scope else { panic!("of a stream") };
        let stream = stream.as_str();
        let version = self.version(stream);
        if version == 0 {
            return Err("unknown");
        }
        if setting.expected.is_some_and(|expected| expected.get() != version) {
            return Err("version");
        }
        let gone = self.gone(stream);
        match setting.change {
            Change::Retain(_) => unreachable!(),
            Change::Truncate { before } if before.get() > version + 1 => Err("beyond"),
            Change::Truncate { before } => {
                let was = self.hidden.len();
                self.hide_before(stream, before.get());
                Ok(self.hidden.len() > was)
            }
            Change::Delete => {
                self.hide_before(stream, version + 1);
                self.deleted.push((stream.to_owned(), version));
                Ok(gone.is_none())
            }
            Change::Tombstone => {
                self.hide_before(stream, version + 1);
                self.tombstoned.insert(stream.to_owned());
                Ok(gone != Some(Gone::Tombstoned))
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Append {
        stream: usize,
        count: usize,
        condition: Option<(Filter, Index)>,
        straight: bool,
    },
    /// An earlier append again.
    Repeat(Index),
    Retain(Scope, Rule),
    Truncate(usize, Index),
    Delete(usize, Option<i8>),
    Tombstone(usize),
    Pass(i64),
    /// In durable mode; the indexes are written before or not.
    Restart {
        written: bool,
    },
}

fn filters() -> impl Strategy<Value = Filter> {
    let some = |texts: &'static [&'static str]| {
        proptest::collection::vec(proptest::sample::select(texts).prop_map(name), 0..3)
    };
    let clause = (some(&STREAMS), some(&CATEGORIES), some(&TYPES))
        .prop_map(|(streams, categories, types)| Clause {
            streams,
            categories,
            types,
            ..Clause::default()
        })
        .prop_filter("names something", |clause| clause.size() > 0);
    proptest::collection::vec(clause, 0..3).prop_map(|clauses| Filter { clauses })
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let stream = || 0..STREAMS.len();
    let scope = prop_oneof![
        proptest::sample::select(&STREAMS[..]).prop_map(|stream| Scope::Stream(name(stream))),
        proptest::sample::select(&CATEGORIES[..])
            .prop_map(|category| Scope::Category(name(category))),
    ];
    let rule = (
        proptest::option::of((1i64..20).prop_map(|seconds| seconds * SECOND)),
        proptest::option::of(1u64..6),
    )
        .prop_map(|(max_age_micros, max_count)| Rule { max_age_micros, max_count });
    let condition = proptest::option::weighted(0.4, (filters(), any::<Index>()));
    let op = prop_oneof![
        12 => (stream(), 1..4usize, condition, any::<bool>()).prop_map(
            |(stream, count, condition, straight)| Op::Append { stream, count, condition, straight }
        ),
        2 => any::<Index>().prop_map(Op::Repeat),
        5 => (scope, rule).prop_map(|(scope, rule)| Op::Retain(scope, rule)),
        2 => (stream(), any::<Index>()).prop_map(|(stream, at)| Op::Truncate(stream, at)),
        1 => (stream(), proptest::option::weighted(0.3, -1i8..=1))
            .prop_map(|(stream, by)| Op::Delete(stream, by)),
        1 => stream().prop_map(Op::Tombstone),
        4 => (1i64..8).prop_map(|seconds| Op::Pass(seconds * SECOND / 2)),
        1 => any::<bool>().prop_map(|written| Op::Restart { written }),
    ];
    proptest::collection::vec(op, 1..50)
}

/// A store in one of both modes, and what its services need.
pub struct Subject {
    pub clock: Arc<ManualClock>,
    pub store: Arc<Store>,
    /// In durable mode, the directory.
    folder: Option<TempDir>,
    segment_size: usize,
    pub runtime: tokio::runtime::Runtime,
}

impl Subject {
    pub fn new(durable: bool, segment_size: usize) -> Self {
        let clock = Arc::new(ManualClock::default());
        let folder = durable.then(|| TempDir::new().unwrap());
        let store = open(folder.as_ref(), segment_size, &clock);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { clock, store, folder, segment_size, runtime }
    }

    fn restart(&mut self, written: bool) {
        if let Some(folder) = &self.folder {
            if written {
                let history = self.store.history();
                let files = Directory::new(&folder.path().join("index"));
                snapshot::write(&files, history, &history.log.reader()).unwrap();
            }
            // The directory is locked until the store is gone.
            let empty = open(None, self.segment_size, &self.clock);
            drop(std::mem::replace(&mut self.store, empty));
            self.store = open(self.folder.as_ref(), self.segment_size, &self.clock);
        }
    }

    /// Through the service, which looks ahead, or `straight` to the sequencer.
    pub fn commit(&self, proposal: Proposal, straight: bool) -> Result<Committed, AppendError> {
        if !straight {
            let service = CommandService::new(Arc::clone(&self.store));
            return self.runtime.block_on(service.commit(proposal));
        }
        let (mut answer, leads) = self.store.submit(proposal).unwrap();
        assert!(leads && !self.store.lead(1), "nobody else calls");
        answer.try_recv().unwrap()
    }

    pub fn queries(&self) -> QueryService {
        let clock: Arc<dyn Clock> = self.clock.clone();
        QueryService::new(
            Arc::clone(self.store.history()),
            clock,
            Places::new(10),
            CancellationToken::new(),
        )
    }
}

fn open(folder: Option<&TempDir>, segment_size: usize, clock: &Arc<ManualClock>) -> Arc<Store> {
    let sequencer = match folder {
        None => Sequencer::new(LogWriter::with_segment_size(segment_size), Box::new(Memory)),
        Some(folder) => {
            let directory = DataDirectory::open(folder.path()).unwrap();
            let files = Arc::clone(directory.files());
            let written = snapshot::read_newest(&**directory.index());
            let (mut sequencer, recovered) =
                disk::open(files, SyncMode::Never, segment_size, Some(directory), |_, _| {})
                    .unwrap();
            if let Some((_, indexes)) = written {
                let reader = sequencer.reader(recovered.head);
                sequencer.take_indexes(indexes.unwrap().check(&reader, &[]).unwrap());
            }
            sequencer.restore(recovered.head, |_| {});
            sequencer
        }
    };
    let clock: Arc<dyn Clock> = clock.clone();
    Arc::new(Store::new(sequencer, clock, 100))
}

pub fn positions(mut scan: Scan, batch: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    loop {
        match scan.step(batch) {
            Progress::Block(block) => {
                let before = seen.len();
                seen.extend(support::positions(&block.bytes));
                assert_eq!(block.events, (seen.len() - before) as u64);
                assert!(block.events > 0 && block.events <= batch);
            }
            Progress::Nothing => {}
            Progress::End => return seen,
            Progress::Dropped(first) => panic!("nothing is dropped, and it begins at {first}"),
        }
    }
}

/// Every read of `subject` is what the model says.
fn check(subject: &Subject, model: &Model, filters: &[Filter], after: u64, batch: u64) {
    let (history, clock) = (subject.store.history(), &*subject.clock);
    let queries = subject.queries();
    assert_eq!(history.log.reader().head().get(), model.head());
    for filter in filters.iter().chain(&[Filter::default()]) {
        let all = model.matching(filter);
        let scan =
            |direction| Scan::all(history, clock, filter, direction, Position::new(after), 0);
        let forwards: Vec<u64> = all.iter().copied().filter(|at| *at > after).collect();
        assert_eq!(positions(scan(Direction::Forwards), batch), forwards);
        let before = |at: &u64| after == 0 || *at < after;
        let backwards: Vec<u64> = all.iter().rev().copied().filter(before).collect();
        assert_eq!(positions(scan(Direction::Backwards), batch), backwards);
        let count = subject.runtime.block_on(queries.count(filter));
        assert_eq!(count, (all.len() as u64, Position::new(model.head())), "{filter:?}");
        assert_eq!(subscribed(subject, filter), all);
    }
    for (at, kept) in (1..).zip(&model.log) {
        let hidden = model.hidden.contains(&at);
        assert_eq!(queries.at(Position::new(at)).is_err(), hidden, "{at}");
        assert_eq!(queries.find(kept.id).is_err(), hidden, "{at}");
    }
    check_names(subject, model);
    for stream in STREAMS {
        check_stream(subject, model, stream, after, batch);
    }
}

/// How to follow `filter`, with nothing sent but events.
pub fn from_the_start(filter: Filter, batch_size: u64) -> SubscribeOptions {
    let never = std::time::Duration::from_hours(1);
    SubscribeOptions {
        start: Start::After(Position::ZERO),
        filter,
        batch_size,
        batch_size_bytes: 64 << 10,
        batch_wait_max: std::time::Duration::ZERO,
        checkpoint_interval: 10,
        checkpoint_wait_max: never,
        heartbeat_interval: never,
    }
}

/// What a subscriber from the start is sent until it has caught up; it has come to the head then.
fn subscribed(subject: &Subject, filter: &Filter) -> Vec<u64> {
    let history = Arc::clone(subject.store.history());
    let clock: Arc<dyn Clock> = subject.clock.clone();
    let head = history.log.watermark().get();
    let stop = CancellationToken::new();
    let interests = Interests::new(Arc::clone(&history), stop.clone());
    let service = SubscriptionService::new(history, clock, Places::new(10), interests, stop);
    let options = from_the_start(filter.clone(), 3);
    let subscription = service.subscribe(options, subscription::Caller::default());
    let mut subscription = subject.runtime.block_on(subscription).unwrap();
    let mut seen = Vec::new();
    subject.runtime.block_on(async {
        loop {
            match subscription.next().await.unwrap() {
                Message::Events { block, .. } => seen.extend(support::positions(&block.bytes)),
                Message::CaughtUp(position) => {
                    assert_eq!(position, head);
                    return;
                }
                _ => {}
            }
        }
    });
    seen
}

fn check_names(subject: &Subject, model: &Model) {
    let queries = subject.queries();
    let names = |wanted: &dyn Fn(&Kept) -> String| {
        let mut names: Vec<(String, u64, u64)> = Vec::new();
        for at in model.visible(|_| true) {
            let name = wanted(&model.log[usize::try_from(at).unwrap() - 1]);
            match names.iter_mut().find(|(other, ..)| *other == name) {
                Some(entry) => (entry.1, entry.2) = (entry.1 + 1, at),
                None => names.push((name, 1, at)),
            }
        }
        names.sort();
        names
    };
    let listed = |next: &dyn Fn(
        &PageRequest,
    ) -> annals::service::query::Page<
        annals::service::query::NameFacts,
    >| {
        let mut all = Vec::new();
        let mut page = PageRequest { size: 2, ..PageRequest::default() };
        loop {
            let answer = next(&page);
            all.extend(answer.items.into_iter().map(|it| (it.name, it.events, it.last.get())));
            match answer.next {
                Some(after) => page.after = after,
                None => return all,
            }
        }
    };
    let categories = listed(&|page| subject.runtime.block_on(queries.categories(page)));
    assert_eq!(categories, names(&|kept| name::category(&kept.stream).to_owned()));
    let types = listed(&|page| subject.runtime.block_on(queries.types(page)));
    assert_eq!(types, names(&|kept| kept.event_type.clone()));

    let mut there: Vec<&str> = model.log.iter().map(|kept| &*kept.stream).collect();
    there.sort_unstable();
    there.dedup();
    there.retain(|stream| model.gone(stream).is_none());
    let page = PageRequest { size: 1000, ..PageRequest::default() };
    let streams = queries.streams(&page).items;
    assert_eq!(streams.iter().map(|it| &*it.name).collect::<Vec<_>>(), there);
    for facts in streams {
        assert_eq!(queries.stream(&facts.name), Ok(facts));
    }
}

fn check_stream(subject: &Subject, model: &Model, stream: &str, after: u64, batch: u64) {
    let queries = subject.queries();
    let version = model.version(stream);
    let visible = model.visible(|kept| kept.stream == stream);
    let facts = queries.retention(&Scope::Stream(name(stream)));
    assert_eq!(facts.floor.get(), version - visible.len() as u64, "{stream}");
    assert_eq!((facts.version.get(), facts.gone), (version, model.gone(stream)));
    assert_eq!(facts.rule, model.rule(&Scope::Stream(name(stream))));
    let category = Scope::Category(name(name::category(stream)));
    assert_eq!(facts.category_rule, model.rule(&category));
    assert_eq!(queries.retention(&category).rule, model.rule(&category));

    let read = |direction| queries.read_stream(stream, direction, Version::new(after), 0);
    match (version, model.gone(stream)) {
        (0, _) => {
            assert!(matches!(queries.stream(stream), Err(QueryError::UnknownStream(_))));
            assert!(read(Direction::Forwards).is_err());
        }
        (_, Some(gone)) => {
            let expected = match gone {
                Gone::Deleted => QueryError::Deleted {
                    stream: stream.to_owned(),
                    version: Version::new(version),
                },
                Gone::Tombstoned => QueryError::Tombstoned {
                    stream: stream.to_owned(),
                    version: Version::new(version),
                },
            };
            assert_eq!(queries.stream(stream), Err(expected.clone()));
            assert_eq!(read(Direction::Backwards).err(), Some(expected));
        }
        (_, None) => {
            let facts = queries.stream(stream).unwrap();
            let first = facts.visible.as_ref().map(|it| (it.first.get(), it.last.get()));
            assert_eq!(first, visible.first().copied().zip(visible.last().copied()));
            let version_of = |at: &u64| model.log[usize::try_from(*at).unwrap() - 1].version;
            let forwards: Vec<u64> =
                visible.iter().copied().filter(|at| version_of(at) > after).collect();
            assert_eq!(positions(read(Direction::Forwards).unwrap(), batch), forwards);
            let before = |at: &u64| after == 0 || version_of(at) < after;
            let backwards: Vec<u64> = visible.iter().rev().copied().filter(before).collect();
            assert_eq!(positions(read(Direction::Backwards).unwrap(), batch), backwards);
        }
    }
}

/// Makes appends whose ids and types are counted on, so that a run can be repeated.
#[derive(Default)]
pub struct Caller {
    ids: u128,
    appends: Vec<Proposal>,
}

impl Caller {
    fn id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(self.ids)
    }

    pub fn append(&mut self, stream: &str, count: usize) -> Proposal {
        let events = (0..count)
            .map(|index| {
                let (id, event_type) = (self.id(), name(TYPES[index % 2]));
                NewEvent::new(id, &name(stream), &event_type, &[], None, Body::default())
            })
            .collect();
        let write = Write { stream: name(stream), events, expected: None };
        Proposal { writes: [write].into(), ..Proposal::default() }
    }
}

fn set(subject: &Subject, model: &mut Model, caller: &mut Caller, setting: &Setting) {
    let id = caller.id();
    let proposal = setting.clone().proposal(id);
    let write = proposal.writes[0].clone();
    let answer = subject.commit(proposal, false);
    match (model.set(setting), answer) {
        (Ok(changes), Ok(committed)) if committed.recorded_at.is_some() => {
            // Where a rule has hidden it all, a truncation is noted all the same.
            assert!(changes || matches!(setting.change, Change::Truncate { .. }), "{setting:?}");
            model.write(id, write.stream.as_str(), event_type(write.events.iter().next().unwrap()));
            assert_eq!(committed.last.get(), model.head());
        }
        (Ok(false), Ok(committed)) => assert_eq!(committed.last, Position::ZERO),
        (Err("unknown"), Err(AppendError::UnknownStream { .. }))
        | (Err("version"), Err(AppendError::WrongExpectedVersion { .. }))
        | (Err("beyond"), Err(AppendError::TruncatesBeyondEnd { .. })) => {}
        (expected, answer) => panic!("{setting:?}: {expected:?}, {answer:?}"),
    }
}

/// The type that is part of the event's body.
pub fn event_type(event: NewEventView<'_>) -> &str {
    let mut found = "";
    format::for_each_indexed(event.body, |indexed| {
        if let Indexed::Type(name) = indexed {
            found = name;
        }
        true
    });
    found
}

fn apply(op: Op, subject: &mut Subject, model: &mut Model, caller: &mut Caller) {
    let stream = |index: usize| Scope::Stream(name(STREAMS[index]));
    match op {
        Op::Append { stream, count, condition, straight } => {
            let mut proposal = caller.append(STREAMS[stream], count);
            let mut breaking = Vec::new();
            if let Some((filter, after)) = condition {
                let after = after.index(model.log.len() + 1) as u64;
                breaking = model.matching(&filter);
                breaking.retain(|at| *at > after);
                breaking.truncate(5);
                let after = Position::new(after);
                proposal.conditions =
                    vec![Condition { filter, after, checked: after, checked_at_micros: 0 }];
            }
            let answer = subject.commit(proposal.clone(), straight);
            if model.tombstoned.contains(STREAMS[stream]) {
                assert!(matches!(answer, Err(AppendError::Tombstoned { .. })), "{answer:?}");
            } else if breaking.is_empty() {
                for event in proposal.writes[0].events.iter() {
                    model.write(*event.id, STREAMS[stream], event_type(event));
                }
                let last = model.version(STREAMS[stream]);
                assert_eq!(answer.unwrap().writes[0].last.get(), last);
                caller.appends.push(proposal);
            } else {
                let Err(AppendError::ConditionBroken { positions, .. }) = answer else {
                    panic!("{answer:?}, broken by {breaking:?}")
                };
                assert_eq!(positions, breaking.into_iter().map(Position::new).collect::<Vec<_>>());
            }
        }
        Op::Repeat(_) if caller.appends.is_empty() => {}
        Op::Repeat(index) => {
            let proposal = caller.appends[index.index(caller.appends.len())].clone();
            let id = *proposal.writes[0].events.iter().next().unwrap().id;
            let first = subject.commit(proposal, true).unwrap();
            assert!(first.duplicate);
            let at = model.log.iter().position(|kept| kept.id == id).unwrap() as u64 + 1;
            assert_eq!(first.first.get(), at);
        }
        Op::Retain(scope, rule) => {
            let change = Change::Retain(rule);
            set(subject, model, caller, &Setting { scope, change, expected: None });
        }
        Op::Truncate(index, at) => {
            let before = 1 + at.index(usize::try_from(model.version(STREAMS[index])).unwrap() + 3);
            let change = Change::Truncate { before: Version::new(before as u64) };
            set(subject, model, caller, &Setting { scope: stream(index), change, expected: None });
        }
        Op::Delete(index, by) => {
            let version = model.version(STREAMS[index]);
            let expected = by.map(|by| Version::new(version.saturating_add_signed(by.into())));
            let change = Change::Delete;
            set(subject, model, caller, &Setting { scope: stream(index), change, expected });
        }
        Op::Tombstone(index) => {
            let change = Change::Tombstone;
            set(subject, model, caller, &Setting { scope: stream(index), change, expected: None });
        }
        Op::Pass(micros) => {
            model.now += micros;
            subject.clock.set(model.now);
        }
        Op::Restart { written } => subject.restart(written),
    }
    model.age();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever is set, loosened, truncated, deleted and appended, and however time passes: every read,
    /// count, list, subscription and condition is what the model says, in both modes, and a restart
    /// changes nothing.
    #[test]
    fn what_is_hidden_is_what_a_set_of_hidden_events_says(
        ops in ops(),
        filters in proptest::collection::vec(filters(), 3),
        cursor in any::<Index>(),
        batch in 1u64..10,
        segment_size in 300usize..4000,
        durable in any::<bool>(),
    ) {
        let mut subject = Subject::new(durable, segment_size);
        let (mut model, mut caller) = (Model::default(), Caller::default());
        model.now = 1_000 * SECOND;
        subject.clock.set(model.now);
        for op in ops {
            apply(op, &mut subject, &mut model, &mut caller);
            let scan = Scan::all(subject.store.history(), &*subject.clock, &Filter::default(),
                Direction::Forwards, Position::ZERO, 0);
            prop_assert_eq!(positions(scan, batch), model.visible(|_| true));
        }
        let after = cursor.index(model.log.len() + 2) as u64;
        check(&subject, &model, &filters, after, batch);
        subject.restart(false);
        check(&subject, &model, &filters, after, batch);
    }
}
