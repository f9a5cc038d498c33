//! Filters against a model: a plain vector of events, each of which is looked at, and a matching that knows
//! nothing of indexes. Every way to read must find the same, in memory, after restarts with and without the
//! written indexes, where events are hidden, removed or dropped, and while others append.

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
        clock::{Clock, ManualClock, Timestamp},
        commit_log::{
            disk::{
                self, SyncMode,
                files::Files,
                snapshot::{self, SnapshotError},
            },
            memory::Memory,
        },
        event::NewEvent,
        filter::{
            Clause, Filter, MetadataMatch, TimeRange,
            json::{JsonMatch, Operator, Scalar},
            plan::{self, Cursor, Direction, Step},
            text::TextMatch,
        },
        history::History,
        index::shared_ids::Candidates,
        log::{
            LogWriter, Reader,
            format::{Body, Data},
            packing::Codec,
        },
        name::Name,
        position::{Position, Version},
        retention::{Change, Rule, Scope, Setting},
        sequencer::{Sequencer, WhenFull},
        store::Store,
        upkeep::{DataFiles, Upkeep},
    },
    service::{command::CommandService, places::Places, query::QueryService, scan::Scan},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select, subsequence},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    commit_log::FaultyDisk,
    compaction::submit,
    retention_model::{self, SECOND, name, positions},
    support::{model::category, within},
};

const STREAMS: [&str; 8] = [
    "Payment-1",
    "Payment-2",
    "Payment-10",
    "Payment",
    "Order-1",
    "Ordering-1",
    "-odd",
    "Zahlung€-1",
];
const PREFIXES: [&str; 12] = [
    "P",
    "Payment",
    "Payment-",
    "Payment-1",
    "Order",
    "Order-",
    "Orde",
    "-",
    "-odd",
    "Zahlung€",
    "Payment-10-more",
    "payment",
];
const CATEGORIES: [&str; 6] = ["Payment", "Order", "Ordering", "-odd", "Zahlung€", "Unheard"];
const TYPES: [&str; 12] = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L"];
const TAGS: [&str; 5] = ["red", "green", "blue", "grün", "none"];
/// The first two have many events each, the others few, and the last none.
const IDS: [&str; 14] =
    ["flow", "flood", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "unheard"];
/// Of these the first two are indexed, mostly.
const KEYS: [&str; 4] = ["user", "tenant", "note", "trace"];
const VALUES: [&str; 5] = ["", "u1", "u2", "a\u{1}\n", "ü"];
/// Content types, and whether text of them is JSON.
const CONTENT_TYPES: [(&str, bool); 8] = [
    ("", true),
    ("application/json", true),
    ("Application/JSON ; charset=utf-8", true),
    ("application/vnd.x+json", true),
    ("application/vnd.x+JSON;v=1", true),
    ("text/plain", false),
    ("application/jsonx", false),
    ("json", false),
];
const TEXTS: [&str; 14] = [
    r#"{"amount":12.5,"lines":[{"sku":"a"},{"sku":"b"}],"text":"Äpfel"}"#,
    r#"{"amount":13,"lines":[{"sku":"b","amount":1}],"a.b":{"c":true}}"#,
    r#"{"amount":"12.5","lines":[],"text":"äpfel","none":null}"#,
    r#"{"amount":-0.0,"a.b":{"c":false},"more":{"amount":12.5}}"#,
    "[1,2.0,[\"a\"],null]",
    "12.5",
    "\"Äpfel\"",
    r#"{"amount":12.5"#,
    "",
    "sieben ÄPFEL",
    "STRASSE",
    "Straße (a+)+$",
    "abc a.c ΣΑΣ",
    "\u{212a}elvin ﬀ",
];
const BINARIES: [&[u8]; 4] = [b"", b"\xff\xfeABC\xff", b"{\"amount\":12.5}", b"\xc3\xa4pfel\xc3"];
const NEEDLES: [&str; 16] = [
    "ÄPFEL",
    "äpfel",
    "ß",
    "ẞ",
    "ss",
    "straSSe",
    "a.c",
    ".*",
    "(A+)+$",
    "abc",
    "σας",
    "kelvin",
    "\"amount\"",
    "12",
    "ff",
    "sieben",
];
/// Letters that are one if case does not matter, beside those of ASCII.
const ALIKE: [&str; 5] = ["äÄ", "ßẞ", "σςΣ", "αΑ", "kK\u{212a}"];

/// A moment that an event may have occurred at, or a range may end at: seconds around this one.
const NOW: i64 = 1_700_000_000;
const YEAR_1: i64 = -62_135_596_800;
const YEAR_9999: i64 = 253_402_300_799;

/// A part of a path to JSON values.
#[derive(Debug, Clone, Copy)]
enum Part {
    Name(&'static str),
    At(usize),
    Last,
    All,
    /// Of the value and of all that is in it.
    Below(&'static str),
}

const PATHS: [(&str, &[Part]); 11] = [
    ("$", &[]),
    ("$.amount", &[Part::Name("amount")]),
    ("$.text", &[Part::Name("text")]),
    ("$.none", &[Part::Name("none")]),
    ("$['a.b'].c", &[Part::Name("a.b"), Part::Name("c")]),
    ("$.lines[*].sku", &[Part::Name("lines"), Part::All, Part::Name("sku")]),
    ("$.lines[-1].sku", &[Part::Name("lines"), Part::Last, Part::Name("sku")]),
    ("$[1]", &[Part::At(1)]),
    ("$.*", &[Part::All]),
    ("$..amount", &[Part::Below("amount")]),
    ("$..sku", &[Part::Below("sku")]),
];

/// Nanoseconds since 1970.
type Moment = i128;

fn moment((seconds, nanos): (i64, u32)) -> Moment {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

fn timestamp((seconds, nanos): (i64, u32)) -> Timestamp {
    Timestamp::new(seconds, nanos.into()).unwrap()
}

#[derive(Debug, Clone)]
enum Content {
    None,
    Text(String),
    Binary(&'static [u8]),
}

/// An event as the model keeps it; its place in the vector is its position less one.
#[derive(Debug, Clone)]
struct Kept {
    stream: String,
    event_type: String,
    tags: Vec<&'static str>,
    /// Empty: none, as for causation.
    correlation: String,
    causation: String,
    metadata: Vec<(&'static str, &'static str)>,
    /// `None`: when it was recorded.
    occurred: Option<(i64, u32)>,
    /// Microseconds; given when it is written.
    recorded: i64,
    content: Content,
    content_type: &'static str,
}

/// A clause as the model keeps it.
#[derive(Debug, Clone, Default)]
struct Wanted {
    streams: Vec<String>,
    prefixes: Vec<String>,
    categories: Vec<String>,
    types: Vec<String>,
    tags: Vec<String>,
    tags_all: Vec<String>,
    correlations: Vec<String>,
    causations: Vec<String>,
    metadata: Vec<(String, Vec<String>)>,
    occurred: Range,
    recorded: Range,
    texts: Vec<String>,
    json: Vec<Comparison>,
}

#[derive(Debug, Clone, Default)]
struct Range {
    from: Option<(i64, u32)>,
    to: Option<(i64, u32)>,
}

#[derive(Debug, Clone)]
struct Comparison {
    path: (&'static str, &'static [Part]),
    operator: Operator,
    value: Scalar,
}

impl Range {
    fn has(&self, at: Moment) -> bool {
        self.from.is_none_or(|from| moment(from) <= at) && self.to.is_none_or(|to| at < moment(to))
    }

    fn range(&self) -> TimeRange {
        TimeRange { from: self.from.map(timestamp), to: self.to.map(timestamp) }
    }
}

impl Wanted {
    fn clause(&self) -> Clause {
        let names = |texts: &[String]| texts.iter().map(|text| name(text)).collect();
        let metadata = |(key, values): &(String, Vec<String>)| MetadataMatch {
            key: name(key),
            values: values.clone(),
        };
        let json = |it: &Comparison| {
            JsonMatch::new(it.path.0, it.operator, it.value.clone()).expect("it is a path")
        };
        Clause {
            streams: names(&self.streams),
            stream_prefixes: names(&self.prefixes),
            categories: names(&self.categories),
            types: names(&self.types),
            tags: names(&self.tags),
            tags_all: names(&self.tags_all),
            correlation_ids: names(&self.correlations),
            causation_ids: names(&self.causations),
            metadata: self.metadata.iter().map(metadata).collect(),
            occurred: self.occurred.range(),
            recorded: self.recorded.range(),
            text: (!self.texts.is_empty()).then(|| TextMatch::new(self.texts.clone()).unwrap()),
            json: self.json.iter().map(json).collect(),
        }
    }
}

impl Kept {
    fn event(&self, id: u128) -> NewEvent {
        let body = Body {
            data: match &self.content {
                Content::None => Data::None,
                Content::Text(text) => Data::Text(text),
                Content::Binary(bytes) => Data::Binary(bytes),
            },
            content_type: self.content_type,
            correlation_id: &self.correlation,
            causation_id: &self.causation,
            metadata: self.metadata.clone(),
            ..Body::default()
        };
        let tags = self.tags.iter().map(|tag| name(tag)).collect();
        let occurred = self.occurred.map(timestamp);
        let (stream, event_type) = (name(&self.stream), name(&self.event_type));
        NewEvent::new(Uuid::from_u128(id), &stream, event_type, tags, occurred, body)
    }

    fn matches(&self, wanted: &Wanted) -> bool {
        let one_of =
            |texts: &[String], text: &str| texts.is_empty() || texts.iter().any(|it| it == text);
        let has_tag = |tag: &String| self.tags.iter().any(|it| it == tag);
        let has_entry = |(key, values): &(String, Vec<String>)| {
            self.metadata.iter().any(|it| it.0 == key && values.iter().any(|value| value == it.1))
        };
        let recorded = i128::from(self.recorded) * 1000;
        one_of(&wanted.streams, &self.stream)
            && (wanted.prefixes.is_empty()
                || wanted.prefixes.iter().any(|prefix| self.stream.starts_with(prefix)))
            && one_of(&wanted.categories, category(&self.stream))
            && one_of(&wanted.types, &self.event_type)
            && (wanted.tags.is_empty() || wanted.tags.iter().any(has_tag))
            && wanted.tags_all.iter().all(has_tag)
            && one_of(&wanted.correlations, &self.correlation)
            && one_of(&wanted.causations, &self.causation)
            && wanted.metadata.iter().all(has_entry)
            && wanted.occurred.has(self.occurred.map_or(recorded, moment))
            && wanted.recorded.has(recorded)
            && (wanted.texts.is_empty() || wanted.texts.iter().any(|text| self.contains(text)))
            && (wanted.json.is_empty() || self.says(&wanted.json))
    }

    fn contains(&self, text: &str) -> bool {
        let data = match &self.content {
            Content::None => &[][..],
            Content::Text(text) => text.as_bytes(),
            Content::Binary(bytes) => bytes,
        };
        (0..data.len()).any(|at| {
            let mut rest = &data[at..];
            text.chars().all(|letter| {
                let other = alike(letter).into_iter().find(|other| {
                    let mut bytes = [0; 4];
                    rest.starts_with(other.encode_utf8(&mut bytes).as_bytes())
                });
                rest = &rest[other.map_or(0, char::len_utf8)..];
                other.is_some()
            })
        })
    }

    fn says(&self, comparisons: &[Comparison]) -> bool {
        let Content::Text(text) = &self.content else { return false };
        let is_json = CONTENT_TYPES.iter().any(|it| it.0 == self.content_type && it.1);
        let Some(data) = serde_json::from_str::<Value>(text).ok().filter(|_| is_json) else {
            return false;
        };
        comparisons.iter().all(|comparison| {
            let mut values = Vec::new();
            follow(&data, comparison.path.1, &mut values);
            values.into_iter().any(|value| compares(value, comparison))
        })
    }
}

fn alike(letter: char) -> Vec<char> {
    let class = ALIKE.iter().find(|class| class.contains(letter.to_ascii_lowercase()));
    let class = class.or_else(|| ALIKE.iter().find(|class| class.contains(letter)));
    class.map_or_else(
        || vec![letter.to_ascii_lowercase(), letter.to_ascii_uppercase()],
        |class| class.chars().collect(),
    )
}

fn follow<'a>(value: &'a Value, path: &[Part], out: &mut Vec<&'a Value>) {
    let Some((part, rest)) = path.split_first() else {
        out.push(value);
        return;
    };
    let children: Vec<&Value> = match value {
        Value::Array(values) => values.iter().collect(),
        Value::Object(entries) => entries.values().collect(),
        _ => Vec::new(),
    };
    let is_list = value.is_array();
    match part {
        Part::Name(name) => {
            if let Value::Object(entries) = value
                && let Some(child) = entries.get(*name)
            {
                follow(child, rest, out);
            }
        }
        Part::At(at) if is_list && *at < children.len() => follow(children[*at], rest, out),
        Part::Last if is_list && !children.is_empty() => {
            follow(children[children.len() - 1], rest, out);
        }
        Part::At(_) | Part::Last => {}
        Part::All => children.into_iter().for_each(|child| follow(child, rest, out)),
        Part::Below(name) => {
            let here: Vec<Part> = [Part::Name(name)].into_iter().chain(rest.to_vec()).collect();
            follow(value, &here, out);
            children.into_iter().for_each(|child| follow(child, path, out));
        }
    }
}

fn compares(actual: &Value, Comparison { operator, value, .. }: &Comparison) -> bool {
    let (same, less, greater) = match (actual, value) {
        (Value::Null, Scalar::Null) => (true, false, false),
        (Value::Bool(actual), Scalar::Bool(value)) => (actual == value, false, false),
        (Value::Number(actual), Scalar::Number(value)) => {
            let actual = actual.as_f64().unwrap();
            #[expect(clippy::float_cmp, reason = "as IEEE 754 has it")]
            let same = actual == *value;
            (same, actual < *value, actual > *value)
        }
        (Value::String(actual), Scalar::Text(value)) => {
            let (letters, others) = (actual.chars(), value.chars());
            (actual == value, letters.clone().lt(others.clone()), letters.gt(others))
        }
        _ => (false, false, false),
    };
    match operator {
        Operator::Equals => same,
        Operator::NotEquals => !same,
        Operator::Less => less,
        Operator::LessOrEqual => less || same,
        Operator::Greater => greater,
        Operator::GreaterOrEqual => greater || same,
        Operator::Exists => true,
    }
}

/// The log as it should be.
struct Model {
    events: Vec<Kept>,
    hidden: BTreeSet<u64>,
    /// What is before was dropped.
    first: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self { events: Vec::new(), hidden: BTreeSet::new(), first: 1 }
    }
}

impl Model {
    fn sees(&self, position: u64) -> bool {
        position >= self.first && !self.hidden.contains(&position)
    }

    /// The positions, up to a head, of what can be seen and matches any of the clauses, or all.
    fn matching(&self, clauses: &[Wanted], head: u64) -> Vec<u64> {
        let wanted = |at: &u64| {
            let event = &self.events[usize::try_from(*at).unwrap() - 1];
            clauses.is_empty() || clauses.iter().any(|clause| event.matches(clause))
        };
        (1..=head).filter(|at| self.sees(*at)).filter(wanted).collect()
    }

    fn head(&self) -> u64 {
        self.events.len() as u64
    }
}

fn filter(clauses: &[Wanted]) -> Filter {
    Filter { clauses: clauses.iter().map(Wanted::clause).collect() }
}

fn keys(keys: &[&str]) -> Vec<Name> {
    keys.iter().map(|key| name(key)).collect()
}

fn one(texts: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(texts).prop_map(str::to_owned)
}

/// Mostly none.
fn some(texts: &'static [&'static str], max: usize) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![6 => Just(Vec::new()), 1 => vec(one(texts), 1..=max)]
}

fn an_id() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        6 => one(&IDS[..2]),
        2 => one(&IDS[2..IDS.len() - 1]),
    ]
}

fn a_moment() -> impl Strategy<Value = (i64, u32)> {
    let seconds = prop_oneof![
        12 => NOW - 2..NOW + 3,
        1 => select(vec![YEAR_1, YEAR_9999, NOW - (1 << 31), NOW + (1 << 31) - 1, NOW + (1 << 33)]),
    ];
    (seconds, select(vec![0, 1, 500_000_000, 999_999_999]))
}

/// Where a range of recorded time ends: on a microsecond or beside it.
fn a_recorded_end() -> impl Strategy<Value = (i64, u32)> {
    let micros = prop_oneof![8 => 0..120u32, 1 => Just(999_999)];
    prop_oneof![
        20 => (NOW..NOW + 2, micros, select(vec![0, 0, 1, 999]))
            .prop_map(|(seconds, micros, nanos)| (seconds, micros * 1000 + nanos)),
        1 => a_moment(),
    ]
}

fn range(end: impl Strategy<Value = (i64, u32)> + Clone) -> impl Strategy<Value = Range> {
    let some = proptest::option::weighted(0.6, end);
    prop_oneof![
        5 => Just(Range::default()),
        1 => (some.clone(), some).prop_map(|(from, to)| Range { from, to }),
    ]
}

fn an_event() -> impl Strategy<Value = Kept> {
    let content = prop_oneof![
        1 => Just(Content::None),
        6 => one(&TEXTS).prop_map(Content::Text),
        1 => select(&BINARIES[..]).prop_map(Content::Binary),
    ];
    let metadata = (subsequence(KEYS.to_vec(), 0..4), vec(select(&VALUES[..]), 4));
    (
        one(&STREAMS),
        one(&TYPES),
        subsequence(TAGS[..4].to_vec(), 0..4),
        (an_id(), an_id()),
        metadata,
        proptest::option::weighted(0.8, a_moment()),
        content,
        prop_oneof![2 => Just(""), 3 => select(&CONTENT_TYPES[..]).prop_map(|it| it.0)],
    )
        .prop_map(
            |(stream, event_type, tags, ids, metadata, occurred, content, content_type)| Kept {
                stream,
                event_type,
                tags,
                correlation: ids.0,
                causation: ids.1,
                metadata: metadata.0.into_iter().zip(metadata.1).collect(),
                occurred,
                recorded: 0,
                content,
                content_type,
            },
        )
}

fn a_comparison() -> impl Strategy<Value = Comparison> {
    use Operator::{Equals, Exists, Greater, GreaterOrEqual, Less, LessOrEqual, NotEquals};
    let operators = vec![Equals, NotEquals, Less, LessOrEqual, Greater, GreaterOrEqual, Exists];
    let value = prop_oneof![
        1 => Just(Scalar::Null),
        1 => any::<bool>().prop_map(Scalar::Bool),
        4 => select(vec![12.5, 13.0, 0.0, 1.0, 2.0]).prop_map(Scalar::Number),
        4 => select(vec!["a", "b", "12.5", "Äpfel"])
            .prop_map(|text| Scalar::Text(text.to_owned())),
    ];
    (select(&PATHS[..]), select(operators), value).prop_map(|(path, operator, value)| Comparison {
        path,
        operator,
        value,
    })
}

fn a_clause() -> impl Strategy<Value = Wanted> {
    let entry = (one(&KEYS), vec(one(&VALUES), 1..4));
    let metadata = prop_oneof![4 => Just(Vec::new()), 1 => vec(entry, 1..3)];
    let texts = some(&NEEDLES, 4);
    let json = prop_oneof![6 => Just(Vec::new()), 1 => vec(a_comparison(), 1..3)];
    let names = (
        some(&STREAMS, 6),
        some(&PREFIXES, 4),
        some(&CATEGORIES, 4),
        some(&TYPES, 14),
        some(&TAGS, 3),
        some(&TAGS, 2),
        some(&IDS, 14),
        some(&IDS, 14),
    );
    (names, metadata, range(a_moment().boxed()), range(a_recorded_end().boxed()), texts, json)
        .prop_map(|(names, metadata, occurred, recorded, texts, json)| {
            let (streams, prefixes, categories, types, tags, tags_all, correlations, causations) =
                names;
            Wanted {
                streams,
                prefixes,
                categories,
                types,
                tags,
                tags_all,
                correlations,
                causations,
                metadata,
                occurred,
                recorded,
                texts,
                json,
            }
        })
}

fn clauses() -> impl Strategy<Value = Vec<Wanted>> {
    prop_oneof![
        8 => vec(a_clause(), 1..=2),
        2 => vec(a_clause(), 3..=4),
        // So many that they are united in a heap.
        1 => vec(a_clause(), 9..=12),
        1 => Just(Vec::new()),
    ]
}

/// How a filter is asked.
#[derive(Debug, Clone)]
struct Probe {
    after: Index,
    limit: u64,
    batch: u64,
    budget: u32,
    max: usize,
}

fn a_probe() -> impl Strategy<Value = Probe> {
    let budget = prop_oneof![6 => 1u32..4, 2 => 4u32..40, 1 => Just(4096)];
    (any::<Index>(), prop_oneof![Just(0u64), 1u64..20], 1u64..10, budget, 1usize..6)
        .prop_map(|(after, limit, batch, budget, max)| Probe { after, limit, batch, budget, max })
}

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

/// What may happen to a store in a directory.
#[derive(Debug, Clone)]
enum Op {
    Append(Vec<Kept>),
    Pass(i64),
    Set(Scope, Change),
    /// The indexes are written as they are now.
    WriteIndexes,
    /// The log goes on in a new segment with this event; what is gone is removed from those before.
    Compact(Kept),
    /// The oldest sealed segment that is not compressed is.
    Pack,
    /// The store is opened again: with the written indexes if it may, and these metadata keys.
    Restart {
        with_indexes: bool,
        keys: &'static [&'static str],
    },
}

const KEY_SETS: [&[&str]; 4] = [&["user", "tenant"], &["user"], &["tenant", "user"], &[]];

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let age = proptest::option::weighted(0.3, (1i64..8).prop_map(|halves| halves * SECOND / 2));
    let change = prop_oneof![
        (1u64..6).prop_map(|before| Change::Truncate { before: Version::new(before) }),
        Just(Change::Delete),
        (age, proptest::option::of(1u64..6)).prop_map(
            |(max_age_micros, max_count)| Change::Retain(Rule { max_age_micros, max_count })
        ),
    ];
    let of_stream =
        (one(&STREAMS), change).prop_map(|(stream, change)| (Scope::Stream(name(&stream)), change));
    let of_category =
        (one(&CATEGORIES), proptest::option::of(1u64..6)).prop_map(|(text, count)| {
            let rule = Rule { max_count: count, ..Rule::default() };
            (Scope::Category(name(&text)), Change::Retain(rule))
        });
    let keys = prop_oneof![3 => Just(KEY_SETS[0]), 1 => select(&KEY_SETS[..])];
    let op = prop_oneof![
        10 => vec(an_event(), 1..10).prop_map(Op::Append),
        3 => prop_oneof![1i64..60, Just(SECOND / 2)].prop_map(Op::Pass),
        3 => prop_oneof![3 => of_stream, 1 => of_category]
            .prop_map(|(scope, change)| Op::Set(scope, change)),
        2 => Just(Op::WriteIndexes),
        2 => an_event().prop_map(Op::Compact),
        1 => Just(Op::Pack),
        3 => (any::<bool>(), keys)
            .prop_map(|(with_indexes, keys)| Op::Restart { with_indexes, keys }),
    ];
    vec(op, 1..40)
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
            event_type: write.events[0].event_type().to_string(),
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
                let clause = match of_one {
                    true => Wanted { correlations: ids, ..Wanted::default() },
                    false => Wanted { causations: ids, ..Wanted::default() },
                };
                let filter = filter(&[clause]);
                let found = walk(&filter, history, &reader, Direction::Forwards, 100);
                assert_eq!(found, [number]);
            }
        }
    }
    assert!(shared > 0);
}
