//! Appends: requests to proposals. The events of a request stay encoded until here, and are read in one pass, from the
//! request's bytes into the record's: nothing of an event is allocated by itself.

mod request;

use std::{collections::HashSet, mem};

use bytes::Bytes;
use uuid::Uuid;

use self::request::Sent;
pub use self::request::{AppendRequest, AppendStreamRequest, CommitRequest, StreamWrite};
use super::{
    content_type::{Kind, kind},
    convert::{At, Check, InvalidRequest, METADATA_VALUE_BYTES_MAX, TEXT_BYTES_MAX, timestamp},
    proto::v1,
};
use crate::core::{
    append::{Committed, Condition, Proposal, Write, Writes, Written},
    event::NewEvents,
    limits::Limits,
    log::format::{Body, Data},
    name::Name,
    position::{Position, Version},
};

const CONTENT_TYPE_BYTES_MAX: usize = 128;
const WRITES_MAX: usize = 1000;
const CONDITIONS_MAX: usize = 16;
const TEXT_DEFAULT: &str = "application/json";
const BINARY_DEFAULT: &str = "application/octet-stream";

impl Check {
    /// The data as it is recorded, and the content type as it is recorded: empty for the default.
    fn data<'a>(
        &mut self,
        at: &At<'_>,
        data: Data<'a>,
        content_type: &'a str,
    ) -> Option<(Data<'a>, &'a str)> {
        let field = at.field("content_type");
        if !self.at_most(field, content_type.len(), CONTENT_TYPE_BYTES_MAX, "bytes") {
            return None;
        }
        let kind = if content_type.is_empty() {
            if let Data::Binary(_) = data { Kind::Binary } else { Kind::Text }
        } else {
            let Some(kind) = kind(content_type) else {
                self.wrong(field, "is not a content type that is known; command.proto lists them");
                return None;
            };
            kind
        };
        let data = match (data, kind) {
            (Data::None, _) | (Data::Text(_), Kind::Text) | (Data::Binary(_), Kind::Binary) => data,
            (Data::Text(_), Kind::Binary) => {
                self.wrong(at.field("text"), "is set, but the content type is one of binary data");
                return None;
            }
            (Data::Binary(bytes), Kind::Text) => {
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

    /// Checks the event that `bytes` are, with `sent` to read it, and adds it to `events`. How many bytes its record can
    /// take.
    fn event<'a>(
        &mut self,
        at: &At<'_>,
        bytes: &'a [u8],
        stream: &'a str,
        sent: &mut Sent<'a>,
        events: &mut NewEvents,
        limits: &Limits,
    ) -> Option<usize> {
        let wrong_before = self.len();
        if let Err((field, why)) = sent.read(bytes) {
            self.wrong(field.map_or(*at, |name| at.field(name)), why);
            return None;
        }
        let id = if sent.id.is_empty() {
            // Time-ordered: what is appended together is found together.
            Some(Uuid::now_v7())
        } else {
            self.uuid(at.field("id"), sent.id)
        };
        if let Err(error) = Name::check(sent.event_type, limits.event_type_bytes_max) {
            self.wrong(at.field("type"), error);
        }
        let content = self.data(at, sent.data, sent.content_type);
        self.text(at.field("correlation_id"), sent.correlation_id, TEXT_BYTES_MAX);
        self.text(at.field("causation_id"), sent.causation_id, TEXT_BYTES_MAX);
        self.metadata_sent(at.field("metadata"), &sent.metadata, limits);
        self.tags_sent(at.field("tags"), &sent.tags, limits);
        let occurred_at = match sent.occurred_at {
            Some(moment) => Some(self.timestamp(at.field("occurred_at"), moment)?),
            None => None,
        };
        let (data, content_type) = content?;
        if self.len() > wrong_before {
            return None;
        }
        let body = Body {
            stream,
            event_type: sent.event_type,
            data,
            content_type,
            correlation_id: sent.correlation_id,
            causation_id: sent.causation_id,
            metadata: mem::take(&mut sent.metadata),
            tags: mem::take(&mut sent.tags),
        };
        let (size, max) = (events.push(id?, occurred_at, &body), limits.event_size_bytes_max);
        (sent.metadata, sent.tags) = (body.metadata, body.tags);
        if size > max {
            let what = format_args!("has {size} bytes as recorded, at most {max} are allowed");
            self.wrong(*at, what);
            return None;
        }
        Some(size)
    }

    fn metadata_sent(&mut self, at: At<'_>, metadata: &[(&str, &str)], limits: &Limits) {
        if !self.at_most(at, metadata.len(), limits.metadata_entries_max, "entries") {
            return;
        }
        for (key, value) in metadata {
            if let Err(error) = Name::check(key, TEXT_BYTES_MAX) {
                self.wrong(at, format_args!("has a key that {error}"));
            }
            if value.len() > METADATA_VALUE_BYTES_MAX {
                let max = METADATA_VALUE_BYTES_MAX;
                self.wrong(at, format_args!("has a value of more than {max} bytes"));
            }
        }
    }

    fn tags_sent(&mut self, at: At<'_>, tags: &[&str], limits: &Limits) {
        if tags.is_empty() || !self.at_most(at, tags.len(), limits.tags_max, "entries") {
            return;
        }
        for (index, tag) in tags.iter().enumerate() {
            if let Err(error) = Name::check(tag, TEXT_BYTES_MAX) {
                self.wrong(at.index(index), error);
            }
        }
        if tags.len() > 1 && tags.iter().collect::<HashSet<_>>().len() < tags.len() {
            self.wrong(at, "has a tag twice");
        }
    }

    fn write<'a>(
        &mut self,
        at: &At<'_>,
        write: Sending<'a, impl Iterator<Item = &'a [u8]>>,
        budget: &mut Budget,
        limits: &Limits,
    ) -> Option<Write> {
        let Sending { stream, count, bytes, events, expected_version } = write;
        let name = self.stream(at.field("stream"), stream, limits);
        // Each body has the name: one that is refused may be long.
        let stream = if name.is_some() { stream } else { "" };
        let field = at.field("events");
        budget.events += count;
        if budget.events > limits.commit_events_max {
            let max = limits.commit_events_max;
            self.wrong(field, format_args!("make more than {max} events in one commit"));
            return None;
        }
        // A body is about as long as the event was, and has the stream's name.
        let mut checked = NewEvents::with_capacity(count, bytes + count * stream.len());
        let mut sent = Sent::default();
        for (index, event) in events.enumerate() {
            let at = field.index(index);
            let size = self.event(&at, event, stream, &mut sent, &mut checked, limits);
            budget.bytes += size.unwrap_or(0);
        }
        if budget.bytes > limits.commit_size_bytes_max {
            let max = limits.commit_size_bytes_max;
            self.wrong(field, format_args!("make more than {max} bytes as recorded in one commit"));
        }
        let expected = expected_version.map(Version::new);
        Some(Write { stream: name?, events: checked, expected })
    }

    /// Refuses ids that two events have. Each write is where `at` says, if all is well so far.
    fn ids_once<'a>(&mut self, writes: &[Write], at: impl Fn(usize) -> At<'a>) {
        let count: usize = writes.iter().map(|write| write.events.len()).sum();
        if count < 2 || self.len() > 0 {
            return;
        }
        let mut sorted = Vec::with_capacity(count);
        for write in writes {
            // Their second halves, which differ where they were made at random: numbers, which compare in one step.
            sorted.extend(write.events.iter().map(|event| event.id.as_u64_pair().1));
        }
        sorted.sort_unstable();
        if sorted.is_sorted_by(|a, b| a < b) {
            return;
        }
        let mut seen = HashSet::new();
        for (number, write) in writes.iter().enumerate() {
            for (index, event) in write.events.iter().enumerate() {
                if !seen.insert(event.id) {
                    let what = "is the id of another event of the same commit";
                    self.wrong(at(number).field("events").index(index).field("id"), what);
                }
            }
        }
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

/// What is to be written to one stream, as it was sent.
struct Sending<'a, Events> {
    stream: &'a str,
    /// How many events there are, and how many bytes they have together at most.
    count: usize,
    bytes: usize,
    /// `annals.v1.NewEvent`s.
    events: Events,
    expected_version: Option<u64>,
}

/// What a commit has used of its limits.
#[derive(Default)]
struct Budget {
    events: usize,
    bytes: usize,
}

/// The proposal that a request is.
pub fn proposal(mut request: AppendRequest, limits: &Limits) -> Result<Proposal, InvalidRequest> {
    let (count, bytes) = (request.events, request.bytes.len());
    let (expected_version, validate_only) = (request.expected_version, request.validate_only);
    let conditions = std::mem::take(&mut request.conditions);
    let mut check = Check::default();
    if count == 0 {
        check.wrong(At::Root.field("events"), "must not be empty");
    }
    let (stream, events) = (request.stream(), request.events());
    let write = Sending { stream, count, bytes, events, expected_version };
    let write = check.write(&At::Root, write, &mut Budget::default(), limits);
    check.ids_once(write.as_slice(), |_| At::Root);
    let conditions = check.conditions(conditions, limits);
    check.finish(write.map(|write| Proposal {
        writes: [write].into(),
        conditions,
        validate_only,
        setting: None,
    }))
}

/// The same of several writes.
pub fn commit_proposal(
    request: CommitRequest,
    limits: &Limits,
) -> Result<Proposal, InvalidRequest> {
    let CommitRequest { writes, conditions, validate_only } = request;
    let mut check = Check::default();
    let root = At::Root;
    let field = root.field("writes");
    let mut checked = Writes::<Write>::new();
    if writes.iter().all(|write| write.events.is_empty()) {
        check.wrong(field, "must have at least one event");
    }
    if check.at_most(field, writes.len(), WRITES_MAX, "entries") {
        let (mut budget, mut streams) = (Budget::default(), HashSet::new());
        for (index, write) in writes.iter().enumerate() {
            let at = field.index(index);
            let StreamWrite { stream, events, expected_version } = write;
            let (count, expected_version) = (events.len(), *expected_version);
            if count == 0 && expected_version.is_none() {
                check.wrong(at, "has neither events nor an expected version");
            }
            let bytes = events.iter().map(Bytes::len).sum();
            let events = events.iter().map(|event| &event[..]);
            let write = Sending { stream, count, bytes, events, expected_version };
            let Some(write) = check.write(&at, write, &mut budget, limits) else { continue };
            if !streams.insert(write.stream.clone()) {
                check.wrong(at.field("stream"), "is written to by another write of this commit");
            }
            checked.push(write);
        }
        check.ids_once(&checked, |number| field.index(number));
    }
    let conditions = check.conditions(conditions, limits);
    check.finish(Some(Proposal { writes: checked, conditions, validate_only, setting: None }))
}

/// The answer to [`proposal`]'s.
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

/// The answer to [`commit_proposal`]'s, whose streams these are.
pub fn committed(streams: Vec<String>, committed: &Committed) -> v1::CommitResponse {
    let result = |(stream, written): (String, &Written)| v1::StreamResult {
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

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// Each of its events would have the name. Seen to fail where it has: at ten thousand events that is 20 GB.
    #[test]
    fn a_name_that_is_too_long_is_not_copied() {
        let events =
            vec![v1::NewEvent { r#type: "T".to_owned(), ..v1::NewEvent::default() }; 10_000];
        let stream = "x".repeat(2 << 20);
        let request = v1::AppendRequest { stream, events, ..v1::AppendRequest::default() };
        let request = AppendRequest::decode(request.encode_to_vec().into()).expect("it is one");
        let refused = proposal(request, &Limits::HARD).expect_err("the name is too long");
        let fields = refused.violations.iter().map(|violation| &*violation.field);
        assert_eq!(fields.collect::<Vec<_>>(), ["stream"]);
    }
}
