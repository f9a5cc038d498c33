//! What is hidden: the rules, truncations and deletions that the log itself tells of.
//!
//! ```text
//! stream Payment-1   1 2 3 4 5 6 7 8      floor 3: the greatest of
//!                    hidden│ visible        truncated before version 4          3
//!                          ▲                its rule, 6 events                  2
//!                        floor              its category's rule, 30 days        1
//! ```
//!
//! A setting is an event, in `$stream-<name>` or `$category-<name>`; the sequencer applies it when it
//! indexes it, live or at a restart, so the state is a function of the log. Hidden is hidden for ever:
//! where a rule is loosened, what it had hidden by then stays so, because compaction may have removed it,
//! on this node and not yet on another. Removing is `commit_log`'s; here nothing is removed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    append::{AppendError, Proposal, Write},
    event::NewEvent,
    history::History,
    index::SoleWriter,
    log::{
        Reader,
        format::{self, Body, Data, EventView},
    },
    name::{self, Name},
    position::{Position, Version},
};

/// So many ended rules are remembered of a category.
pub const ENDED_RULES_MAX: usize = 64;

const STREAM_PREFIX: &str = "$stream-";
const CATEGORY_PREFIX: &str = "$category-";
const RETENTION_SET: &str = "$retention-set";
const TRUNCATED: &str = "$stream-truncated";
const DELETED: &str = "$stream-deleted";
const TOMBSTONED: &str = "$stream-tombstoned";

/// What is kept of a stream: an event must satisfy both. Nothing set: everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Events that were recorded longer ago are hidden. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_micros: Option<i64>,
    /// All but so many of the newest are hidden. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_count: Option<u64>,
}

/// Whom a setting is about. A category's rule holds for each of its streams by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Stream(Name),
    Category(Name),
}

/// What a setting does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Sets the rule; of a stream or a category, that need not exist.
    Retain(Rule),
    /// Hides the events of a stream before this version; at least 1.
    Truncate { before: Version },
    /// Hides all events of a stream. It may be written to again; its versions go on.
    Delete,
    /// The same, and the stream is never written to again.
    Tombstone,
}

/// A setting as it is proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub scope: Scope,
    pub change: Change,
    /// How many events the stream must have; `None`: not checked.
    pub expected: Option<Version>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Truncation {
    before_version: u64,
}

impl Change {
    /// The type and the data of its event. A deletion needs none: where it stands in the log says how
    /// many events the stream had.
    fn encode(self) -> (&'static str, Option<String>) {
        let json = |text: serde_json::Result<String>| Some(text.expect("numbers are JSON"));
        match self {
            Self::Retain(rule) => (RETENTION_SET, json(serde_json::to_string(&rule))),
            Self::Truncate { before } => {
                let truncation = Truncation { before_version: before.get() };
                (TRUNCATED, json(serde_json::to_string(&truncation)))
            }
            Self::Delete => (DELETED, None),
            Self::Tombstone => (TOMBSTONED, None),
        }
    }

    /// `None`: it is no setting.
    fn decode(event_type: &str, data: Data<'_>) -> Option<Self> {
        let text = if let Data::Text(text) = data { text } else { "" };
        Some(match event_type {
            RETENTION_SET => {
                Self::Retain(serde_json::from_str(text).expect("the log holds what we wrote"))
            }
            TRUNCATED => {
                let truncation: Truncation =
                    serde_json::from_str(text).expect("the log holds what we wrote");
                Self::Truncate { before: Version::new(truncation.before_version) }
            }
            DELETED => Self::Delete,
            TOMBSTONED => Self::Tombstone,
            _ => return None,
        })
    }
}

impl Scope {
    /// The stream in which its settings are.
    fn settings(&self) -> String {
        match self {
            Self::Stream(name) => [STREAM_PREFIX, name.as_str()].concat(),
            Self::Category(name) => [CATEGORY_PREFIX, name.as_str()].concat(),
        }
    }

    /// Whose settings are in `stream`; `None`: it has none.
    fn of_settings(stream: &str) -> Option<Self> {
        let name = |text| Name::new(text, usize::MAX).expect("part of a name is a name");
        if let Some(stream) = stream.strip_prefix(STREAM_PREFIX) {
            return Some(Self::Stream(name(stream)));
        }
        stream.strip_prefix(CATEGORY_PREFIX).map(|category| Self::Category(name(category)))
    }
}

/// The positions up to `head` at which settings may be, in the order of the log.
pub(in crate::core) fn settings(history: &History, head: Position) -> Vec<Position> {
    let categories = [STREAM_PREFIX, CATEGORY_PREFIX].map(name::category);
    let lists = categories.into_iter().filter_map(|category| history.categories.get(category));
    let mut positions: Vec<Position> =
        lists.flat_map(|list| list.up_to(head).map(Position::new).collect::<Vec<_>>()).collect();
    positions.sort_unstable();
    positions
}

impl Setting {
    /// The commit that makes it: one event with this id.
    pub fn proposal(self, id: Uuid) -> Proposal {
        let name = |text: &str| Name::new(text, usize::MAX).expect("made of names");
        let stream = name(&self.scope.settings());
        let (event_type, data) = self.change.encode();
        let data = data.as_deref().map_or(Data::None, Data::Text);
        let body = Body { data, ..Body::default() };
        let event = NewEvent::new(id, &stream, &name(event_type), &[], None, body);
        let write = Write { stream, events: event.into(), expected: None };
        Proposal { writes: [write].into(), setting: Some(self), ..Proposal::default() }
    }
}

/// Why a stream has no events any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    Deleted,
    Tombstoned,
}

/// A rule that held up to a position: of a stream with n events there, those up to n - `max_count` stay
/// hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ended {
    at: Position,
    max_count: u64,
}

/// What is set for a scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    /// The position of the setting that made it so.
    at: Position,
    rule: Rule,
    /// Of a stream: its events up to here are hidden, whatever its rule.
    floor: Version,
    /// Of a stream: it was deleted when it had so many events, and is still if it has no more now.
    deleted_at: Option<Version>,
    tombstoned: bool,
    /// Of a category: events up to here were too old for a rule that has ended.
    aged: Position,
    /// Of a category: rules that have ended, both numbers rising; one that a later, stricter one covers
    /// is dropped.
    ended: Vec<Ended>,
}

impl State {
    /// The state of a category once `rule` is set at `at`.
    fn with_rule(&self, rule: Rule, at: Position, aged: Position) -> Self {
        let mut ended = self.ended.clone();
        if let Some(old) = self.rule.max_count
            && rule.max_count.is_none_or(|new| new > old)
        {
            ended.retain(|ended| ended.max_count < old);
            ended.push(Ended { at, max_count: old });
        }
        if let Some(new) = rule.max_count {
            ended.retain(|ended| ended.max_count < new);
        }
        Self { at, rule, aged: self.aged.max(aged), ended, ..Self::default() }
    }
}

/// The states of one scope as they followed one another: the last one that every reader sees, and those
/// that came since. Never empty.
type States = Vec<State>;

/// The state at `head`; the oldest that is left where all are younger: then more is hidden for good than
/// was at `head`.
fn state_at(states: &States, head: Position) -> &State {
    let after = states.partition_point(|state| state.at <= head);
    &states[after.saturating_sub(1)]
}

type Map = papaya::HashMap<Name, Arc<States>>;

/// All that is set. Written by the sequencer only; like an index it may be ahead of the watermark, and is
/// cut there.
#[derive(Default)]
pub struct Retention {
    streams: Map,
    categories: Map,
    /// The position of the first setting; 0: there is none. Written by the sequencer.
    first: AtomicU64,
    /// Whether any rule ever had an age. Written by the sequencer.
    aged: AtomicBool,
    /// The latest time about which somebody has asked, microseconds: what was too old once stays so, also
    /// if the clock goes back.
    latest_micros: AtomicI64,
    /// Memory held, about. Written by the sequencer.
    allocated: AtomicUsize,
}

impl Retention {
    /// Whether nothing was set up to `head`: then nothing is hidden.
    pub fn is_empty(&self, head: Position) -> bool {
        // Relaxed: whoever has `head` has loaded a watermark that covers it, with Acquire.
        let first = self.first.load(Ordering::Relaxed);
        first == 0 || first > head.get()
    }

    /// Whether no rule ever had an age: then nothing is hidden by time that passes.
    pub fn is_timeless(&self) -> bool {
        // Relaxed: as above.
        !self.aged.load(Ordering::Relaxed)
    }

    /// Tells which events of `reader` are hidden at the time `now_micros`, and goes on telling the same.
    ///
    /// Whoever removes what is hidden takes the time at which the head was recorded: all nodes agree on
    /// it, and no condition is ever judged at an earlier one.
    pub fn visibility(
        &self,
        history: &Arc<History>,
        reader: Reader,
        now_micros: i64,
    ) -> Visibility {
        let empty = self.is_empty(reader.head());
        let history = Arc::clone(history);
        let floors = Floors { history, now_micros, cuts: Vec::new(), known: Vec::new() };
        Visibility { reader, empty, floors }
    }

    /// The latest of all the times that were asked about, `now_micros` among them.
    pub(in crate::core) fn latest(&self, now_micros: i64) -> i64 {
        // Relaxed: the number orders nothing.
        self.latest_micros.fetch_max(now_micros, Ordering::Relaxed).max(now_micros)
    }

    /// Why the stream has no events any more, if that is so; `version` is how many it has had up to
    /// `head`.
    pub fn gone(&self, stream: &str, version: Version, head: Position) -> Option<Gone> {
        if self.is_empty(head) {
            return None;
        }
        let streams = self.streams.pin();
        let state = state_at(streams.get(stream)?, head);
        if state.tombstoned {
            return Some(Gone::Tombstoned);
        }
        (state.deleted_at == Some(version)).then_some(Gone::Deleted)
    }

    /// The rule of a scope, and how many ended ones are remembered.
    pub fn rule(&self, scope: &Scope, head: Position) -> (Rule, usize) {
        let state = self.state(scope, head);
        (state.rule, state.ended.len())
    }

    /// Memory held, about.
    pub fn allocated(&self) -> usize {
        // Relaxed: a number to look at.
        self.allocated.load(Ordering::Relaxed)
    }

    fn entry<'a>(&'a self, scope: &'a Scope) -> (&'a Map, &'a Name) {
        match scope {
            Scope::Stream(name) => (&self.streams, name),
            Scope::Category(name) => (&self.categories, name),
        }
    }

    fn state(&self, scope: &Scope, head: Position) -> State {
        let (map, name) = self.entry(scope);
        map.pin().get(name).map_or_else(State::default, |states| state_at(states, head).clone())
    }

    /// Whether `setting` changes anything at `head`, or why it is refused. Applies nothing.
    pub(in crate::core) fn decide(
        &self,
        setting: &Setting,
        history: &History,
        head: Position,
    ) -> Result<bool, AppendError> {
        let state = self.state(&setting.scope, head);
        let stream = match (&setting.scope, setting.change) {
            (Scope::Stream(_), Change::Retain(rule)) => return Ok(rule != state.rule),
            (Scope::Category(category), Change::Retain(rule)) => {
                let ended = state.with_rule(rule, head.next(), Position::ZERO).ended;
                if ended.len() > ENDED_RULES_MAX {
                    let category = category.clone();
                    return Err(AppendError::TooManyRules { category, max: ENDED_RULES_MAX });
                }
                return Ok(rule != state.rule);
            }
            (Scope::Stream(stream), _) => stream.clone(),
            (Scope::Category(_), _) => unreachable!("a category has a rule and nothing else"),
        };
        let actual = Version::new(history.streams.count(stream.as_str(), head));
        if actual == Version::ZERO {
            return Err(AppendError::UnknownStream { stream });
        }
        if let Some(expected) = setting.expected.filter(|expected| *expected != actual) {
            return Err(AppendError::WrongExpectedVersion { stream, expected, actual });
        }
        Ok(match setting.change {
            Change::Retain(_) => unreachable!("decided above"),
            Change::Truncate { before } if before > actual.next() => {
                return Err(AppendError::TruncatesBeyondEnd { before, max: actual.next() });
            }
            Change::Truncate { before } => before.previous() > state.floor,
            Change::Delete => !state.tombstoned && state.deleted_at != Some(actual),
            Change::Tombstone => !state.tombstoned,
        })
    }

    /// Applies the setting that `event` is, if it is one: the last event of `reader`, in the indexes
    /// already. Nobody looks at what was set before `seen`.
    pub(in crate::core) fn apply(
        &self,
        event: &EventView<'_>,
        history: &History,
        reader: &Reader,
        seen: Position,
        _: &mut SoleWriter,
    ) {
        let body = &event.body;
        let Some(scope) = Scope::of_settings(body.stream) else { return };
        let Some(change) = Change::decode(body.event_type, body.data) else { return };
        let (position, now) = (event.stamp.position, event.stamp.recorded_at.micros());
        let before = self.state(&scope, position);
        let aged = before.rule.max_age_micros.map(|age| too_old(reader, now, age));
        let mut after = match &scope {
            Scope::Category(_) => match change {
                Change::Retain(rule) => before.with_rule(rule, position, aged.unwrap_or_default()),
                _ => return,
            },
            Scope::Stream(stream) => {
                let count = |at| Version::new(history.streams.count(stream.as_str(), at));
                let version = count(position);
                let mut after = before.clone();
                match change {
                    Change::Retain(rule) => {
                        // What the rule so far has hidden stays hidden.
                        let counted = before.rule.max_count.map(|max| before_newest(version, max));
                        let floors = [Some(before.floor), counted, aged.map(count)];
                        after.floor = floors.into_iter().flatten().max().unwrap_or_default();
                        after.rule = rule;
                    }
                    Change::Truncate { before: first } => {
                        after.floor = before.floor.max(first.previous());
                    }
                    Change::Delete => {
                        after.floor = version;
                        after.deleted_at = Some(version);
                    }
                    Change::Tombstone => {
                        after.floor = version;
                        after.tombstoned = true;
                    }
                }
                after
            }
        };
        after.at = position;
        if after.rule.max_age_micros.is_some() {
            // Relaxed: as `first`.
            self.aged.store(true, Ordering::Relaxed);
        }
        let (map, name) = self.entry(&scope);
        let map = map.pin();
        let states = map.get(name).map_or_else(
            || {
                // As in the index map, and two states.
                self.grow(name.as_str().len() + 16 + 64 + 2 * size_of::<State>() + 40);
                vec![State::default()]
            },
            |states| States::clone(states),
        );
        let dropped = states.partition_point(|state| state.at <= seen).saturating_sub(1);
        let states = states.into_iter().skip(dropped).chain([after]).collect();
        map.insert(name.clone(), Arc::new(states));
        // Relaxed: the watermark publishes it, and nobody else writes.
        let first = self.first.load(Ordering::Relaxed);
        if first == 0 {
            // Relaxed: as above.
            self.first.store(position.get(), Ordering::Relaxed);
        }
    }

    fn grow(&self, bytes: usize) {
        // Relaxed: a number to look at, and nobody else writes.
        self.allocated.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The last of so many events that is not one of the newest `max`.
fn before_newest(count: Version, max: u64) -> Version {
    Version::new(count.get().saturating_sub(max))
}

/// The last position of `reader` that is older than `age_micros` at `now_micros`.
fn too_old(reader: &Reader, now_micros: i64, age_micros: i64) -> Position {
    reader.first_recorded_at_or_after(now_micros.saturating_sub(age_micros)).previous()
}

/// Which events of a reader are hidden at one time. It remembers what it has worked out: cheap to ask for
/// event after event in the order of the log.
#[derive(Clone)]
pub struct Visibility {
    reader: Reader,
    empty: bool,
    floors: Floors,
}

impl Visibility {
    /// Whether the event of `stream` with this version is hidden.
    pub fn is_hidden(&mut self, stream: &str, version: Version) -> bool {
        !self.empty && version <= self.floors.of(stream, &self.reader)
    }

    /// Whether the event at `position` is hidden, or removed already.
    pub fn hides(&mut self, position: Position) -> bool {
        if position < self.reader.first() {
            return true;
        }
        if self.empty {
            return false;
        }
        let Some(record) = self.reader.record(position) else { return true };
        let (stream, version) = format::stream_and_version(&record);
        version <= self.floors.of(stream, &self.reader)
    }

    /// The last event of `stream` that is hidden: it and all before it are. 0: none is.
    pub fn floor(&mut self, stream: &str) -> Version {
        let before = self.reader.first().previous();
        let dropped = match before {
            Position::ZERO => 0,
            before => self.floors.history.streams.count(stream, before),
        };
        let floor = if self.empty { Version::ZERO } else { self.floors.of(stream, &self.reader) };
        floor.max(Version::new(dropped))
    }

    /// Whether nothing is hidden but what was dropped.
    pub fn hides_dropped_only(&self) -> bool {
        self.empty
    }

    /// The events that it tells of.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The time at which it tells.
    pub fn now_micros(&self) -> i64 {
        self.floors.now_micros
    }
}

/// So many streams' floors are remembered: a power of 2.
const KNOWN: usize = 64;

#[derive(Clone)]
struct Floors {
    history: Arc<History>,
    now_micros: i64,
    /// Ages, and the last position that is older.
    cuts: Vec<(i64, Position)>,
    /// Streams and their floors, each where its name says; made when one is first asked for.
    known: Vec<Option<(Box<str>, Version)>>,
}

impl Floors {
    fn of(&mut self, stream: &str, reader: &Reader) -> Version {
        if self.known.is_empty() {
            self.known.resize(KNOWN, None);
        }
        // The ends of names differ most.
        let hash = stream
            .bytes()
            .rev()
            .take(8)
            .fold(stream.len(), |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let place = hash % KNOWN;
        match &self.known[place] {
            Some((known, floor)) if **known == *stream => *floor,
            _ => {
                let floor = self.work_out(stream, reader);
                self.known[place] = Some((stream.into(), floor));
                floor
            }
        }
    }

    fn work_out(&mut self, stream: &str, reader: &Reader) -> Version {
        let history = Arc::clone(&self.history);
        let head = reader.head();
        let (streams, categories) =
            (history.retention.streams.pin(), history.retention.categories.pin());
        let own = streams.get(stream).map(|states| state_at(states, head));
        let category = categories.get(name::category(stream));
        let category = category.map(|states| state_at(states, head));
        if own.is_none() && category.is_none() {
            return Version::ZERO;
        }
        let Some(positions) = history.streams.get(stream) else { return Version::ZERO };
        let count = |at| Version::new(positions.count(at));
        let mut floor = Version::ZERO;
        for state in own.into_iter().chain(category) {
            floor = floor.max(state.floor);
            if let Some(max) = state.rule.max_count {
                floor = floor.max(before_newest(count(head), max));
            }
            let age = state.rule.max_age_micros;
            let aged = age.map_or(Position::ZERO, |age| self.cut(age, reader)).max(state.aged);
            if aged > Position::ZERO {
                floor = floor.max(count(aged));
            }
            for ended in &state.ended {
                floor = floor.max(before_newest(count(ended.at), ended.max_count));
            }
        }
        floor
    }

    fn cut(&mut self, age_micros: i64, reader: &Reader) -> Position {
        if let Some((_, cut)) = self.cuts.iter().find(|(age, _)| *age == age_micros) {
            return *cut;
        }
        let cut = too_old(reader, self.now_micros, age_micros);
        // Ages come by categories and streams, and there may be many.
        self.cuts.truncate(15);
        self.cuts.push((age_micros, cut));
        cut
    }
}
