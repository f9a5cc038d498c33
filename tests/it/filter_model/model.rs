//! What events and filters the tests make, and which match, looked at one by one.

use std::collections::BTreeSet;

use annals::core::{
    clock::Timestamp,
    event::NewEvent,
    filter::{
        Clause, Filter, MetadataMatch, TimeRange,
        json::{JsonMatch, Operator, Scalar},
        text::TextMatch,
    },
    log::format::{Body, Data},
    name::Name,
    position::Version,
    retention::{Change, Rule, Scope},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select, subsequence},
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    retention_model::{SECOND, name},
    support::model::category,
};

pub const STREAMS: [&str; 8] = [
    "Payment-1",
    "Payment-2",
    "Payment-10",
    "Payment",
    "Order-1",
    "Ordering-1",
    "-odd",
    "Zahlung€-1",
];
pub const PREFIXES: [&str; 12] = [
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
pub const CATEGORIES: [&str; 6] = ["Payment", "Order", "Ordering", "-odd", "Zahlung€", "Unheard"];
pub const TYPES: [&str; 12] = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L"];
pub const TAGS: [&str; 5] = ["red", "green", "blue", "grün", "none"];
/// The first two have many events each, the others few, and the last none.
pub const IDS: [&str; 14] =
    ["flow", "flood", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "unheard"];
/// Of these the first two are indexed, mostly.
pub const KEYS: [&str; 4] = ["user", "tenant", "note", "trace"];
pub const VALUES: [&str; 5] = ["", "u1", "u2", "a\u{1}\n", "ü"];
/// Content types, and whether text of them is JSON.
pub const CONTENT_TYPES: [(&str, bool); 8] = [
    ("", true),
    ("application/json", true),
    ("Application/JSON ; charset=utf-8", true),
    ("application/vnd.x+json", true),
    ("application/vnd.x+JSON;v=1", true),
    ("text/plain", false),
    ("application/jsonx", false),
    ("json", false),
];
pub const TEXTS: [&str; 14] = [
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
pub const BINARIES: [&[u8]; 4] =
    [b"", b"\xff\xfeABC\xff", b"{\"amount\":12.5}", b"\xc3\xa4pfel\xc3"];
pub const NEEDLES: [&str; 16] = [
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
pub const ALIKE: [&str; 5] = ["äÄ", "ßẞ", "σςΣ", "αΑ", "kK\u{212a}"];

/// A moment that an event may have occurred at, or a range may end at: seconds around this one.
pub const NOW: i64 = 1_700_000_000;
pub const YEAR_1: i64 = -62_135_596_800;
pub const YEAR_9999: i64 = 253_402_300_799;

/// A part of a path to JSON values.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    Name(&'static str),
    At(usize),
    Last,
    All,
    /// Of the value and of all that is in it.
    Below(&'static str),
}

pub const PATHS: [(&str, &[Part]); 11] = [
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
pub type Moment = i128;

pub fn moment((seconds, nanos): (i64, u32)) -> Moment {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

pub fn timestamp((seconds, nanos): (i64, u32)) -> Timestamp {
    Timestamp::new(seconds, nanos.into()).unwrap()
}

#[derive(Debug, Clone)]
pub enum Content {
    None,
    Text(String),
    Binary(&'static [u8]),
}

/// An event as the model keeps it; its place in the vector is its position less one.
#[derive(Debug, Clone)]
pub struct Kept {
    pub stream: String,
    pub event_type: String,
    pub tags: Vec<&'static str>,
    /// Empty: none, as for causation.
    pub correlation: String,
    pub causation: String,
    pub metadata: Vec<(&'static str, &'static str)>,
    /// `None`: when it was recorded.
    pub occurred: Option<(i64, u32)>,
    /// Microseconds; given when it is written.
    pub recorded: i64,
    pub content: Content,
    pub content_type: &'static str,
}

/// A clause as the model keeps it.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub streams: Vec<String>,
    pub prefixes: Vec<String>,
    pub categories: Vec<String>,
    pub types: Vec<String>,
    pub tags: Vec<String>,
    pub tags_all: Vec<String>,
    pub correlations: Vec<String>,
    pub causations: Vec<String>,
    pub metadata: Vec<(String, Vec<String>)>,
    pub occurred: Range,
    pub recorded: Range,
    pub texts: Vec<String>,
    pub json: Vec<Comparison>,
}

#[derive(Debug, Clone, Default)]
pub struct Range {
    pub from: Option<(i64, u32)>,
    pub to: Option<(i64, u32)>,
}

#[derive(Debug, Clone)]
pub struct Comparison {
    pub path: (&'static str, &'static [Part]),
    pub operator: Operator,
    pub value: Scalar,
}

impl Range {
    pub fn has(&self, at: Moment) -> bool {
        self.from.is_none_or(|from| moment(from) <= at) && self.to.is_none_or(|to| at < moment(to))
    }

    pub fn range(&self) -> TimeRange {
        TimeRange { from: self.from.map(timestamp), to: self.to.map(timestamp) }
    }
}

impl Wanted {
    pub fn clause(&self) -> Clause {
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
    pub fn event(&self, id: u128) -> NewEvent {
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
        let tags = self.tags.iter().map(|tag| name(tag)).collect::<Vec<_>>();
        let occurred = self.occurred.map(timestamp);
        let (stream, event_type) = (name(&self.stream), name(&self.event_type));
        NewEvent::new(Uuid::from_u128(id), &stream, &event_type, &tags, occurred, body)
    }

    pub fn matches(&self, wanted: &Wanted) -> bool {
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

    pub fn contains(&self, text: &str) -> bool {
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

    pub fn says(&self, comparisons: &[Comparison]) -> bool {
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

pub fn alike(letter: char) -> Vec<char> {
    let class = ALIKE.iter().find(|class| class.contains(letter.to_ascii_lowercase()));
    let class = class.or_else(|| ALIKE.iter().find(|class| class.contains(letter)));
    class.map_or_else(
        || vec![letter.to_ascii_lowercase(), letter.to_ascii_uppercase()],
        |class| class.chars().collect(),
    )
}

pub fn follow<'a>(value: &'a Value, path: &[Part], out: &mut Vec<&'a Value>) {
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
            for child in children {
                follow(child, path, out);
            }
        }
    }
}

pub fn compares(actual: &Value, Comparison { operator, value, .. }: &Comparison) -> bool {
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
pub struct Model {
    pub events: Vec<Kept>,
    pub hidden: BTreeSet<u64>,
    /// What is before was dropped.
    pub first: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self { events: Vec::new(), hidden: BTreeSet::new(), first: 1 }
    }
}

impl Model {
    pub fn sees(&self, position: u64) -> bool {
        position >= self.first && !self.hidden.contains(&position)
    }

    /// The positions, up to a head, of what can be seen and matches any of the clauses, or all.
    pub fn matching(&self, clauses: &[Wanted], head: u64) -> Vec<u64> {
        let wanted = |at: &u64| {
            let event = &self.events[usize::try_from(*at).unwrap() - 1];
            clauses.is_empty() || clauses.iter().any(|clause| event.matches(clause))
        };
        (1..=head).filter(|at| self.sees(*at)).filter(wanted).collect()
    }

    pub fn head(&self) -> u64 {
        self.events.len() as u64
    }
}

pub fn filter(clauses: &[Wanted]) -> Filter {
    Filter { clauses: clauses.iter().map(Wanted::clause).collect() }
}

pub fn keys(keys: &[&str]) -> Vec<Name> {
    keys.iter().map(|key| name(key)).collect()
}

pub fn one(texts: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(texts).prop_map(str::to_owned)
}

/// Mostly none.
pub fn some(texts: &'static [&'static str], max: usize) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![6 => Just(Vec::new()), 1 => vec(one(texts), 1..=max)]
}

pub fn an_id() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        6 => one(&IDS[..2]),
        2 => one(&IDS[2..IDS.len() - 1]),
    ]
}

pub fn a_moment() -> impl Strategy<Value = (i64, u32)> {
    let seconds = prop_oneof![
        12 => NOW - 2..NOW + 3,
        1 => select(vec![YEAR_1, YEAR_9999, NOW - (1 << 31), NOW + (1 << 31) - 1, NOW + (1 << 33)]),
    ];
    (seconds, select(vec![0, 1, 500_000_000, 999_999_999]))
}

/// Where a range of recorded time ends: on a microsecond or beside it.
pub fn a_recorded_end() -> impl Strategy<Value = (i64, u32)> {
    let micros = prop_oneof![8 => 0..120u32, 1 => Just(999_999)];
    prop_oneof![
        20 => (NOW..NOW + 2, micros, select(vec![0, 0, 1, 999]))
            .prop_map(|(seconds, micros, nanos)| (seconds, micros * 1000 + nanos)),
        1 => a_moment(),
    ]
}

pub fn range(end: impl Strategy<Value = (i64, u32)> + Clone) -> impl Strategy<Value = Range> {
    let some = proptest::option::weighted(0.6, end);
    prop_oneof![
        5 => Just(Range::default()),
        1 => (some.clone(), some).prop_map(|(from, to)| Range { from, to }),
    ]
}

pub fn an_event() -> impl Strategy<Value = Kept> {
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

pub fn a_comparison() -> impl Strategy<Value = Comparison> {
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

pub fn a_clause() -> impl Strategy<Value = Wanted> {
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

pub fn clauses() -> impl Strategy<Value = Vec<Wanted>> {
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
pub struct Probe {
    pub after: Index,
    pub limit: u64,
    pub batch: u64,
    pub budget: u32,
    pub max: usize,
}

pub fn a_probe() -> impl Strategy<Value = Probe> {
    let budget = prop_oneof![6 => 1u32..4, 2 => 4u32..40, 1 => Just(4096)];
    (any::<Index>(), prop_oneof![Just(0u64), 1u64..20], 1u64..10, budget, 1usize..6)
        .prop_map(|(after, limit, batch, budget, max)| Probe { after, limit, batch, budget, max })
}

/// What may happen to a store in a directory.
#[derive(Debug, Clone)]
pub enum Op {
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

pub const KEY_SETS: [&[&str]; 4] = [&["user", "tenant"], &["user"], &["tenant", "user"], &[]];

pub fn ops() -> impl Strategy<Value = Vec<Op>> {
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
