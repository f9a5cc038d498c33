//! proto ↔ core. The edge parses, the core trusts: what leaves here is within every rule and limit.
//!
//! A request is looked through to its end, so that its answer tells all that is wrong with it.

use std::{collections::HashSet, fmt, time::Duration};

use uuid::Uuid;

use super::proto::v1;
use crate::{
    core::{
        append::{Committed, Condition, Proposal, Write},
        clock::Timestamp,
        event::NewEvent,
        filter::plan::Direction,
        limits::Limits,
        log::format::{Body, Data},
        name::{Name, NameError, is_reserved},
        position::{Position, Version},
    },
    service::query::{NameFacts, PageRequest, StreamFacts, VisibleFacts},
};

/// A tag, a metadata key, a correlation or causation id: at most so many bytes.
pub(super) const TEXT_BYTES_MAX: usize = 256;
pub(super) const METADATA_VALUE_BYTES_MAX: usize = 4096;
const CONTENT_TYPE_BYTES_MAX: usize = 128;
const WRITES_MAX: usize = 1000;
const CONDITIONS_MAX: usize = 16;
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
        if !text.is_empty() {
            self.name(at, text, bytes_max);
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

/// How data of a content type is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

/// What a content type holds; `None`: we do not know it. (Media types as in RFC 9110, 8.3.1: case does not
/// matter. Of the parameters only `charset` does: text that is not UTF-8 is binary data to us.)
fn kind(content_type: &str) -> Option<Kind> {
    let content_type = content_type.to_ascii_lowercase();
    let (content_type, parameters) = content_type.split_once(';').unwrap_or((&content_type, ""));
    let utf8 = parameters
        .split(';')
        .filter_map(|parameter| parameter.trim().strip_prefix("charset="))
        .all(|charset| matches!(charset.trim_matches('"'), "utf-8" | "us-ascii"));
    let content_type = content_type.trim_end();
    if parameters.chars().any(char::is_control) {
        return None;
    }
    let token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let (top, sub) = content_type.split_once('/')?;
    if !token(top) || !token(sub) {
        return None;
    }
    let suffix = sub.rsplit_once('+').map(|(_, suffix)| suffix);
    let readable = top == "text"
        || matches!(suffix, Some("json" | "xml"))
        || (top == "application" && matches!(sub, "json" | "xml"));
    let known = matches!(top, "image" | "audio" | "video")
        || (top == "application"
            && (matches!(
                sub,
                "octet-stream"
                    | "protobuf"
                    | "x-protobuf"
                    | "cbor"
                    | "msgpack"
                    | "avro"
                    | "gzip"
                    | "zip"
                    | "pdf"
            ) || sub.starts_with("vnd.")
                || sub.starts_with("x-")));
    match (readable, known) {
        (true, _) if utf8 => Some(Kind::Text),
        (false, false) => None,
        _ => Some(Kind::Binary),
    }
}

const TEXT_DEFAULT: &str = "application/json";
const BINARY_DEFAULT: &str = "application/octet-stream";

impl Check {
    /// The data as it is recorded, and the content type as it is recorded: empty for the default.
    fn data<'a>(
        &mut self,
        at: &At<'_>,
        data: Option<&'a v1::new_event::Data>,
        content_type: &'a str,
    ) -> Option<(Data<'a>, &'a str)> {
        use v1::new_event::Data as Sent;
        let field = at.field("content_type");
        if !self.at_most(field, content_type.len(), CONTENT_TYPE_BYTES_MAX, "bytes") {
            return None;
        }
        let kind = if content_type.is_empty() {
            if let Some(Sent::Binary(_)) = data { Kind::Binary } else { Kind::Text }
        } else {
            let Some(kind) = kind(content_type) else {
                self.wrong(field, "is not a content type that is known; command.proto lists them");
                return None;
            };
            kind
        };
        let data = match (data, kind) {
            (None, _) => Data::None,
            (Some(Sent::Text(text)), Kind::Text) => Data::Text(text),
            (Some(Sent::Text(_)), Kind::Binary) => {
                self.wrong(at.field("text"), "is set, but the content type is one of binary data");
                return None;
            }
            (Some(Sent::Binary(bytes)), Kind::Binary) => Data::Binary(bytes),
            (Some(Sent::Binary(bytes)), Kind::Text) => {
                if let Ok(text) = str::from_utf8(bytes) {
                    Data::Text(text)
                } else {
                    self.wrong(at.field("binary"), "is not UTF-8, which the content type asks for");
                    return None;
                }
            }
        };
        let recorded_default = match data {
            Data::Binary(_) => BINARY_DEFAULT,
            Data::Text(_) | Data::None => TEXT_DEFAULT,
        };
        let recorded = if content_type == recorded_default { "" } else { content_type };
        Some((data, recorded))
    }

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

    fn event(
        &mut self,
        at: &At<'_>,
        event: v1::NewEvent,
        stream: Option<&Name>,
        limits: &Limits,
    ) -> Option<NewEvent> {
        let wrong_before = self.0.len();
        let v1::NewEvent {
            id,
            r#type,
            data,
            content_type,
            correlation_id,
            causation_id,
            metadata,
            tags,
            occurred_at,
        } = event;
        let id = if id.is_empty() {
            // Time-ordered: what is appended together is found together.
            Some(Uuid::now_v7())
        } else {
            self.uuid(at.field("id"), &id)
        };
        let event_type = self.name(at.field("type"), &r#type, limits.event_type_bytes_max);
        let content = self.data(at, data.as_ref(), &content_type);
        self.text(at.field("correlation_id"), &correlation_id, TEXT_BYTES_MAX);
        self.text(at.field("causation_id"), &causation_id, TEXT_BYTES_MAX);
        let field = at.field("metadata");
        if self.at_most(field, metadata.len(), limits.metadata_entries_max, "entries") {
            for (key, value) in &metadata {
                if let Err(error) = Name::new(key, TEXT_BYTES_MAX) {
                    self.wrong(field, format_args!("has a key that {error}"));
                }
                if value.len() > METADATA_VALUE_BYTES_MAX {
                    let max = METADATA_VALUE_BYTES_MAX;
                    self.wrong(field, format_args!("has a value of more than {max} bytes"));
                }
            }
        }
        let field = at.field("tags");
        let tags = if self.at_most(field, tags.len(), limits.tags_max, "entries") {
            let names = self.names(field, &tags, TEXT_BYTES_MAX);
            if names.iter().collect::<HashSet<_>>().len() < names.len() {
                self.wrong(field, "has a tag twice");
            }
            names
        } else {
            Vec::new()
        };
        let occurred_at = match occurred_at {
            Some(moment) => Some(self.timestamp(at.field("occurred_at"), moment)?),
            None => None,
        };
        let (data, content_type) = content?;
        let metadata = metadata.iter().map(|(key, value)| (&**key, &**value)).collect();
        let body = Body {
            stream: "",
            event_type: "",
            data,
            content_type,
            correlation_id: &correlation_id,
            causation_id: &causation_id,
            metadata,
            tags: Vec::new(),
        };
        if self.0.len() > wrong_before {
            return None;
        }
        let event = NewEvent::new(id?, stream?, event_type?, tags, occurred_at, body);
        let (size, max) = (event.size_max(), limits.event_size_bytes_max);
        if size > max {
            self.wrong(
                *at,
                format_args!("has {size} bytes as recorded, at most {max} are allowed"),
            );
            return None;
        }
        Some(event)
    }

    fn write(
        &mut self,
        at: &At<'_>,
        write: v1::StreamWrite,
        budget: &mut Budget,
        limits: &Limits,
    ) -> Option<Write> {
        let v1::StreamWrite { stream, events, expected_version } = write;
        let stream = self.stream(at.field("stream"), &stream, limits);
        let field = at.field("events");
        budget.events += events.len();
        if budget.events > limits.commit_events_max {
            let max = limits.commit_events_max;
            self.wrong(field, format_args!("make more than {max} events in one commit"));
            return None;
        }
        let mut checked = Vec::with_capacity(events.len());
        for (index, event) in events.into_iter().enumerate() {
            let at = field.index(index);
            let Some(event) = self.event(&at, event, stream.as_ref(), limits) else { continue };
            budget.bytes += event.size_max();
            if !budget.ids.insert(*event.id()) {
                self.wrong(at.field("id"), "is the id of another event of the same commit");
            }
            checked.push(event);
        }
        if budget.bytes > limits.commit_size_bytes_max {
            let max = limits.commit_size_bytes_max;
            self.wrong(field, format_args!("make more than {max} bytes as recorded in one commit"));
        }
        let expected = expected_version.map(Version::new);
        Some(Write { stream: stream?, events: checked, expected })
    }

    fn conditions(
        &mut self,
        conditions: Vec<v1::AppendCondition>,
        limits: &Limits,
    ) -> Vec<Condition> {
        let root = At::Root;
        let field = root.field("conditions");
        if !self.at_most(field, conditions.len(), CONDITIONS_MAX, "entries") {
            return Vec::new();
        }
        let mut checked = Vec::with_capacity(conditions.len());
        for (index, condition) in conditions.into_iter().enumerate() {
            let v1::AppendCondition { filters, after } = condition;
            let filter = self.condition_filter(&field.index(index), filters, limits);
            let after = Position::new(after);
            checked.push(Condition { filter, after, checked: after, checked_at_micros: 0 });
        }
        checked
    }
}

/// What a commit has used of its limits.
#[derive(Default)]
struct Budget {
    events: usize,
    bytes: usize,
    ids: HashSet<Uuid>,
}

/// A proposal of one write.
pub fn append(request: v1::AppendRequest, limits: &Limits) -> Result<Proposal, InvalidRequest> {
    let v1::AppendRequest { stream, events, expected_version, conditions, validate_only } = request;
    let mut check = Check::default();
    if events.is_empty() {
        check.wrong(At::Root.field("events"), "must not be empty");
    }
    let write = v1::StreamWrite { stream, events, expected_version };
    let write = check.write(&At::Root, write, &mut Budget::default(), limits);
    let conditions = check.conditions(conditions, limits);
    check.finish(write.map(|write| Proposal {
        writes: vec![write],
        conditions,
        validate_only,
        setting: None,
    }))
}

/// A proposal of several writes.
pub fn commit(request: v1::CommitRequest, limits: &Limits) -> Result<Proposal, InvalidRequest> {
    let v1::CommitRequest { writes, conditions, validate_only } = request;
    let mut check = Check::default();
    let root = At::Root;
    let field = root.field("writes");
    let mut checked: Vec<Write> = Vec::new();
    if writes.iter().all(|write| write.events.is_empty()) {
        check.wrong(field, "must have at least one event");
    }
    if check.at_most(field, writes.len(), WRITES_MAX, "entries") {
        let (mut budget, mut streams) = (Budget::default(), HashSet::new());
        for (index, write) in writes.into_iter().enumerate() {
            let at = field.index(index);
            if write.events.is_empty() && write.expected_version.is_none() {
                check.wrong(at, "has neither events nor an expected version");
            }
            let Some(write) = check.write(&at, write, &mut budget, limits) else { continue };
            if !streams.insert(write.stream.clone()) {
                check.wrong(at.field("stream"), "is written to by another write of this commit");
            }
            checked.push(write);
        }
    }
    let conditions = check.conditions(conditions, limits);
    check.finish(Some(Proposal { writes: checked, conditions, validate_only, setting: None }))
}

/// The answer to [`append`]'s proposal.
pub fn appended(committed: &Committed) -> v1::AppendResponse {
    let [written] = committed.writes[..] else { unreachable!("an append has one write") };
    v1::AppendResponse {
        first_version: written.first.get(),
        version: written.last.get(),
        first_position: committed.first.get(),
        position: committed.last.get(),
        recorded_at: committed.recorded_at.map(timestamp),
        duplicate: committed.duplicate,
    }
}

/// The answer to [`commit`]'s proposal, whose streams these are.
pub fn committed(streams: Vec<String>, committed: &Committed) -> v1::CommitResponse {
    let result = |(stream, written): (String, &crate::core::append::Written)| v1::StreamResult {
        stream,
        first_version: written.first.get(),
        version: written.last.get(),
    };
    v1::CommitResponse {
        results: streams.into_iter().zip(&committed.writes).map(result).collect(),
        first_position: committed.first.get(),
        position: committed.last.get(),
        recorded_at: committed.recorded_at.map(timestamp),
        duplicate: committed.duplicate,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_is_readable_or_binary_or_unknown() {
        for readable in [
            "application/json",
            "application/json; charset=utf-8",
            "Application/JSON;Charset=\"UTF-8\"",
            "application/vnd.acme.payment+json",
            "application/xml",
            "text/plain",
        ] {
            assert_eq!(kind(readable), Some(Kind::Text), "{readable}");
        }
        for binary in ["application/octet-stream", "image/png", "text/plain; charset=latin1"] {
            assert_eq!(kind(binary), Some(Kind::Binary), "{binary}");
        }
        for unknown in ["", "json", "application/", "/json", "a/b", "application/jso n", "x/y;z"] {
            assert_eq!(kind(unknown), None, "{unknown}");
        }
    }
}
