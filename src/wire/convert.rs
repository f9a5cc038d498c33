//! proto ↔ core. The edge parses, the core trusts: what leaves here is within every rule and limit.
//!
//! A request is looked through to its end, so that its answer tells all that is wrong with it.

use std::{fmt, time::Duration};

use uuid::Uuid;

use super::proto::v1;
use crate::{
    core::{
        clock::Timestamp,
        filter::plan::Direction,
        limits::Limits,
        name::{Name, NameError, is_reserved},
    },
    service::query::{NameFacts, PageRequest, StreamFacts, VisibleFacts},
};

/// A tag, a metadata key, a correlation or causation id: at most so many bytes.
pub(super) const TEXT_BYTES_MAX: usize = 256;
pub(super) const METADATA_VALUE_BYTES_MAX: usize = 4096;
pub(super) const PAGE_SIZE_DEFAULT: u32 = 100;
pub(super) const PAGE_SIZE_MAX: u32 = 1000;

/// One field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub field: String,
    pub description: String,
}

/// What is wrong with a request: at least one thing. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRequest {
    pub violations: Vec<Violation>,
}

impl InvalidRequest {
    /// One thing.
    pub fn one(field: impl Into<String>, description: impl Into<String>) -> Self {
        let violation = Violation { field: field.into(), description: description.into() };
        Self { violations: vec![violation] }
    }
}

impl fmt::Display for InvalidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = &self.violations[0];
        write!(f, "{} {}", first.field, first.description)?;
        match self.violations.len() {
            1 => Ok(()),
            more => write!(f, " (and {} more)", more - 1),
        }
    }
}

/// Where in a request: `writes[2].events[0].type`. Written out only if something is wrong there.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    Root,
    Field(&'a At<'a>, &'static str),
    Index(&'a At<'a>, usize),
}

impl<'a> At<'a> {
    pub(super) fn field(&'a self, name: &'static str) -> At<'a> {
        At::Field(self, name)
    }

    pub(super) fn index(&'a self, index: usize) -> At<'a> {
        At::Index(self, index)
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Root => Ok(()),
            At::Field(At::Root, name) => f.write_str(name),
            At::Field(parent, name) => write!(f, "{parent}.{name}"),
            At::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Collects what is wrong.
#[derive(Default)]
pub(super) struct Check(Vec<Violation>);

impl Check {
    pub(super) fn wrong(&mut self, at: At<'_>, what: impl fmt::Display) {
        self.0.push(Violation { field: at.to_string(), description: what.to_string() });
    }

    /// How many things are wrong so far.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, InvalidRequest> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => {
                assert!(!self.0.is_empty(), "what is refused has a reason");
                Err(InvalidRequest { violations: self.0 })
            }
        }
    }

    pub(super) fn name(&mut self, at: At<'_>, text: &str, bytes_max: usize) -> Option<Name> {
        Name::new(text, bytes_max).map_err(|error| self.wrong(at, error)).ok()
    }

    /// A text that may be empty.
    pub(super) fn text(&mut self, at: At<'_>, text: &str, bytes_max: usize) {
        if !text.is_empty()
            && let Err(error) = Name::check(text, bytes_max)
        {
            self.wrong(at, error);
        }
    }

    pub(super) fn names(&mut self, at: At<'_>, texts: &[String], bytes_max: usize) -> Vec<Name> {
        let mut names = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            names.extend(self.name(at.index(index), text, bytes_max));
        }
        names
    }

    pub(super) fn uuid(&mut self, at: At<'_>, text: &str) -> Option<Uuid> {
        match Uuid::try_parse(text) {
            Ok(id) if id.is_nil() => self.wrong(at, "must not be the zero UUID"),
            Ok(id) => return Some(id),
            Err(_) => self.wrong(at, "is not a UUID"),
        }
        None
    }

    /// A name of a stream that a client may write to.
    pub(super) fn stream(&mut self, at: At<'_>, text: &str, limits: &Limits) -> Option<Name> {
        if is_reserved(text) {
            self.wrong(at, NameError::Reserved);
            return None;
        }
        self.name(at, text, limits.stream_name_bytes_max)
    }

    pub(super) fn at_most(&mut self, at: At<'_>, actual: usize, max: usize, what: &str) -> bool {
        if actual > max {
            self.wrong(at, format_args!("has {actual} {what}, at most {max} are allowed"));
        }
        actual <= max
    }

    pub(super) fn number(&mut self, at: At<'_>, value: u32, default: u32, max: u32) -> u32 {
        if value > max {
            self.wrong(at, format_args!("is {value}, at most {max} is allowed"));
        }
        if value == 0 { default } else { value }
    }
}

impl Check {
    /// A duration between two bounds, both included.
    pub(super) fn duration(
        &mut self,
        at: At<'_>,
        sent: Option<prost_types::Duration>,
        default: Duration,
        (min, max): (Duration, Duration),
    ) -> Duration {
        let Some(sent) = sent else { return default };
        let checked = duration(sent).filter(|it| (min..=max).contains(it));
        checked.unwrap_or_else(|| {
            self.wrong(at, format_args!("is not between {} and {}", told(min), told(max)));
            default
        })
    }
}

fn told(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{} h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{} min", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

/// A duration that was sent; `None`: it is negative, or not one by protobuf's rules. (prost's own conversion negates
/// it, which the least one does not survive.)
pub(super) fn duration(sent: prost_types::Duration) -> Option<Duration> {
    if sent != sent.normalized() {
        return None;
    }
    let prost_types::Duration { seconds, nanos } = sent;
    Some(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?))
}

impl Check {
    pub(super) fn timestamp(
        &mut self,
        at: At<'_>,
        moment: prost_types::Timestamp,
    ) -> Option<Timestamp> {
        let checked = Timestamp::new(moment.seconds, i64::from(moment.nanos));
        if checked.is_none() {
            self.wrong(at, "is not a moment between year 1 and year 9999");
        }
        checked
    }
}

/// A moment.
pub fn timestamp(moment: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(moment.nanos()).expect("below 10^9");
    prost_types::Timestamp { seconds: moment.seconds(), nanos }
}

/// A name of a stream to read.
pub fn stream_to_read(stream: &str, limits: &Limits) -> Result<(), InvalidRequest> {
    let mut check = Check::default();
    check.name(At::Root.field("stream"), stream, limits.stream_name_bytes_max);
    check.finish(Some(()))
}

/// An event's id.
pub fn event_id(id: &str) -> Result<Uuid, InvalidRequest> {
    let mut check = Check::default();
    let id = check.uuid(At::Root.field("id"), id);
    check.finish(id)
}

/// Which way to read.
pub fn direction(direction: i32) -> Result<Direction, InvalidRequest> {
    match v1::Direction::try_from(direction) {
        Ok(v1::Direction::Unspecified | v1::Direction::Forwards) => Ok(Direction::Forwards),
        Ok(v1::Direction::Backwards) => Ok(Direction::Backwards),
        Err(_) => Err(InvalidRequest::one("direction", format!("is {direction}, not a direction"))),
    }
}

/// Which page.
pub fn page(prefix: String, size: u32, token: String) -> Result<PageRequest, InvalidRequest> {
    let mut check = Check::default();
    let root = At::Root;
    check.text(root.field("prefix"), &prefix, Limits::HARD.stream_name_bytes_max);
    check.text(root.field("page_token"), &token, Limits::HARD.stream_name_bytes_max);
    if !token.is_empty() && !token.starts_with(&prefix) {
        check.wrong(root.field("page_token"), "is not of a page of this list");
    }
    let size = check.number(root.field("page_size"), size, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX);
    check.finish(Some(PageRequest { prefix, after: token, size: size as usize }))
}

impl From<StreamFacts> for v1::StreamInfo {
    fn from(facts: StreamFacts) -> Self {
        let StreamFacts { name, category, version, visible } = facts;
        let info = Self { name, category, version: version.get(), ..Self::default() };
        let Some(visible) = visible else { return info };
        let VisibleFacts { first_version, first, last, first_recorded_at, last_recorded_at } =
            visible;
        Self {
            first_version: first_version.get(),
            first_position: first.get(),
            last_position: last.get(),
            first_recorded_at: Some(timestamp(first_recorded_at)),
            last_recorded_at: Some(timestamp(last_recorded_at)),
            ..info
        }
    }
}

impl From<NameFacts> for v1::CategoryInfo {
    fn from(NameFacts { name, events, last }: NameFacts) -> Self {
        Self { name, event_count: events, last_position: last.get() }
    }
}

impl From<NameFacts> for v1::EventTypeInfo {
    fn from(NameFacts { name, events, last }: NameFacts) -> Self {
        Self { name, event_count: events, last_position: last.get() }
    }
}
