//! CloudEvents 1.0 in JSON to events and back, for `annals import` and `annals export`.
//!
//! ```text
//! CloudEvent                    event
//! id                            id, where it is a UUID; else a UUIDv5 of source and id, and the
//!                               metadata `cloudEventId` keeps the text
//! source                        metadata `source`; without it `urn:annals`
//! subject                       stream; required
//! type                          type
//! time                          occurred at, to the nanosecond; written in UTC
//! datacontenttype               content type
//! data, data_base64             data
//! dataschema                    metadata `dataschema`
//! correlationid, causationid    correlation id, causation id
//! organizationid, userid        metadata `organizationId`, `userId`
//! annalstags                    tags: a JSON array in a string
//! annalsmetadata                metadata that cannot be an attribute (the key is no legal name, or has
//!                               a meaning above, or the value is no legal string): a JSON object in a
//!                               string
//! any other extension           metadata of the same name, as text
//! ```
//!
//! An event that is exported and imported is the same event, byte for byte of its data. JSON data is
//! nested as it is; text that cannot be nested without a change (it does not parse, has a line break
//! between its tokens, or white space around it) goes into `data_base64`. The other way round, numbers
//! and booleans among the extensions become strings. Position, version and time of recording belong to
//! the log that an event came from, and are not exported.
//!
//! Pure functions: files are `import`'s and `export`'s.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use chrono::{DateTime, SecondsFormat};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::wire::proto::v1::{NewEvent, RecordedEvent, new_event, recorded_event};

/// The source of an event that names none. Not in the event's metadata.
pub const DEFAULT_SOURCE: &str = "urn:annals";

/// The metadata key of a CloudEvent's id that is not the event's. No extension can have this name:
/// theirs are lower case.
pub const ORIGINAL_ID: &str = "cloudEventId";

const TAGS: &str = "annalstags";
const METADATA: &str = "annalsmetadata";

/// Attributes and metadata keys that mean the same and differ in case.
const RENAMED: [(&str, &str); 2] = [("organizationid", "organizationId"), ("userid", "userId")];

/// Attributes that are fields of an event, or of CloudEvents: metadata of these names is not written
/// as an attribute.
const TAKEN: [&str; 11] = [
    "specversion",
    "id",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "data",
    "correlationid",
    "causationid",
    TAGS,
    METADATA,
];

/// Why a line is not an event.
#[derive(Debug, thiserror::Error)]
pub enum CloudEventError {
    /// Not JSON, not an object, or an attribute twice.
    #[error("not a CloudEvent in JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The line lacks an attribute that an event needs.
    #[error("no `{attribute}`: {why}")]
    Missing {
        /// Its name.
        attribute: &'static str,
        /// What it is for.
        why: &'static str,
    },
    /// An attribute's value is not what it must be.
    #[error("`{attribute}` must be {expected}")]
    Invalid {
        /// Its name.
        attribute: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// Two attributes would become one metadata entry.
    #[error("the metadata `{0}` is given twice")]
    MetadataTwice(String),
    /// `data` and `data_base64` in one event.
    #[error("`data` and `data_base64` exclude each other")]
    DataTwice,
}

use CloudEventError as E;

fn invalid(attribute: &str, expected: &'static str) -> E {
    E::Invalid { attribute: attribute.to_owned(), expected }
}

/// One line to the stream's name and the event.
pub fn parse(line: &str) -> Result<(String, NewEvent), CloudEventError> {
    let mut attributes = Attributes(serde_json::from_str::<Members<'_>>(line)?.0);

    match attributes.text("specversion")?.as_deref() {
        Some("1.0") => {}
        Some(_) => return Err(invalid("specversion", "1.0")),
        None => return Err(E::Missing { attribute: "specversion", why: "it must be 1.0" }),
    }
    let id = attributes.required("id", "it tells a repeat from a new event")?;
    let source = attributes.required("source", "it says where the event comes from")?;
    let stream = attributes.required("subject", "it names the stream")?;
    let r#type = attributes.required("type", "it says what happened")?;
    let occurred_at = attributes.text("time")?.map(|time| parse_time(&time)).transpose()?;
    let correlation_id = attributes.text("correlationid")?.unwrap_or_default();
    let causation_id = attributes.text("causationid")?.unwrap_or_default();
    let tags = attributes.structured(TAGS, "a JSON array of strings")?;
    let more: BTreeMap<String, String> =
        attributes.structured(METADATA, "a JSON object of strings")?;
    let content_type = attributes.text("datacontenttype")?.unwrap_or_default();
    let data = parse_data(
        attributes.0.remove("data"),
        attributes.text("data_base64")?.as_deref(),
        &content_type,
    )?;

    let mut metadata = BTreeMap::new();
    let mut add = |key: String, value: String| match metadata.insert(key.clone(), value) {
        None => Ok(()),
        Some(_) => Err(E::MetadataTwice(key)),
    };
    let (id, original_id) = event_id(&source, &id);
    if let Some(original) = original_id {
        add(ORIGINAL_ID.to_owned(), original)?;
    }
    if source != DEFAULT_SOURCE {
        add("source".to_owned(), source)?;
    }
    let rest: Vec<String> = attributes.0.keys().map(ToString::to_string).collect();
    for name in rest {
        if let Some(value) = attributes.scalar(&name)? {
            let renamed = RENAMED.iter().find(|(attribute, _)| *attribute == name);
            add(renamed.map_or(name, |(_, key)| (*key).to_owned()), value)?;
        }
    }
    for (key, value) in more {
        add(key, value)?;
    }

    let event = NewEvent {
        id: id.to_string(),
        r#type,
        content_type: stored_content_type(content_type, data.as_ref()),
        data,
        correlation_id,
        causation_id,
        metadata,
        tags,
        occurred_at,
    };
    Ok((stream, event))
}

/// The event's id, and the CloudEvent's where the two differ as text.
fn event_id(source: &str, id: &str) -> (Uuid, Option<String>) {
    // 36 characters: with hyphens, and neither in braces nor as a URN.
    let uuid = Some(id).filter(|id| id.len() == 36).and_then(|id| id.parse::<Uuid>().ok());
    match uuid.filter(|uuid| !uuid.is_nil()) {
        Some(uuid) if uuid.to_string() == id => (uuid, None),
        Some(uuid) => (uuid, Some(id.to_owned())),
        // A source is a URI reference and has no line break, so no two pairs meet.
        None => {
            let name = format!("{source}\n{id}");
            (Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()), Some(id.to_owned()))
        }
    }
}

fn parse_time(text: &str) -> Result<prost_types::Timestamp, E> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| invalid("time", "RFC 3339"))?;
    // A leap second has a second too many in its nanoseconds; for us it is the next second.
    let nanos = time.timestamp_subsec_nanos();
    let (carry, nanos) =
        if nanos < 1_000_000_000 { (0, nanos) } else { (1, nanos - 1_000_000_000) };
    Ok(prost_types::Timestamp {
        seconds: time.timestamp() + carry,
        nanos: i32::try_from(nanos).map_err(|_| invalid("time", "RFC 3339"))?,
    })
}

/// The instant in UTC, with as many digits as it needs; nothing where it is out of range.
pub fn format_time(time: &prost_types::Timestamp) -> Option<String> {
    DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)
        .map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

fn parse_data(
    data: Option<&RawValue>,
    data_base64: Option<&str>,
    content_type: &str,
) -> Result<Option<new_event::Data>, E> {
    let in_base64 = data_base64.is_some();
    let bytes = match (data, data_base64) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(E::DataTwice),
        (None, Some(base64)) => {
            BASE64.decode(base64).map_err(|_| invalid("data_base64", "base64 (RFC 4648)"))?
        }
        (Some(raw), None) if content_type.is_empty() || is_json(content_type) => {
            return Ok(Some(new_event::Data::Text(raw.get().to_owned())));
        }
        (Some(raw), None) => serde_json::from_str::<String>(raw.get())
            .map_err(|_| invalid("data", "a string, as datacontenttype is not JSON"))?
            .into_bytes(),
    };
    // Base64 without a content type is binary; CloudEvents has no word for it.
    if is_text(content_type) && !(in_base64 && content_type.is_empty()) {
        String::from_utf8(bytes)
            .map(|text| Some(new_event::Data::Text(text)))
            .map_err(|_| invalid("data_base64", "UTF-8, as datacontenttype is text"))
    } else {
        Ok(Some(new_event::Data::Binary(bytes.into())))
    }
}

/// The default of its kind of data needs no bytes in the log.
fn stored_content_type(content_type: String, data: Option<&new_event::Data>) -> String {
    match (data, content_type.as_str()) {
        (Some(new_event::Data::Text(_)), "application/json")
        | (Some(new_event::Data::Binary(_)), "application/octet-stream") => String::new(),
        _ => content_type,
    }
}

/// Whether data of this media type is JSON: RFC 6839's suffix counts. Parameters do not.
pub fn is_json(content_type: &str) -> bool {
    let media_type = essence(content_type);
    matches!(media_type.as_str(), "application/json" | "text/json") || media_type.ends_with("+json")
}

/// Whether data of this media type is text for people.
pub fn is_text(content_type: &str) -> bool {
    let media_type = essence(content_type);
    is_json(&media_type)
        || media_type == "application/xml"
        || media_type.ends_with("+xml")
        || media_type.starts_with("text/")
}

fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The event as one line, without its end.
pub fn format(event: &RecordedEvent) -> String {
    let line = Line::of(event);
    // Strings as keys and values, and raw JSON that has been parsed: nothing here can fail.
    serde_json::to_string(&line).expect("a map of strings is JSON")
}

enum Member<'a> {
    Text(Cow<'a, str>),
    Raw(&'a RawValue),
}

impl Serialize for Member<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Raw(raw) => raw.serialize(serializer),
        }
    }
}

/// Members in the order in which they are written.
struct Line<'a>(Vec<(&'a str, Member<'a>)>);

impl Serialize for Line<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, member) in &self.0 {
            map.serialize_entry(name, member)?;
        }
        map.end()
    }
}

impl<'a> Line<'a> {
    fn of(event: &'a RecordedEvent) -> Self {
        let mut line = Self(Vec::with_capacity(16));
        let mut left: BTreeMap<&str, &str> = BTreeMap::new();
        let mut extensions = Vec::new();
        let mut source = None;
        for (key, value) in &event.metadata {
            let renamed = RENAMED.iter().find(|(_, renamed)| renamed == key);
            match key.as_str() {
                "source" if is_source(value) => source = Some(value.as_str()),
                "dataschema" if value.is_empty() || !is_string(value) => {
                    left.insert(key, value);
                }
                _ if !is_string(value) => {
                    left.insert(key, value);
                }
                _ if renamed.is_some() => {
                    extensions.extend(renamed.map(|(attribute, _)| (*attribute, value)));
                }
                key if is_extension(key) => extensions.push((key, value)),
                key => {
                    left.insert(key, value);
                }
            }
        }
        let source = source.unwrap_or(DEFAULT_SOURCE);
        let mut id = event.id.as_str();
        if let Some(original) = left.get(ORIGINAL_ID) {
            let (uuid, kept) = event_id(source, original);
            if uuid.to_string() == id && kept.is_some() {
                id = original;
                left.remove(ORIGINAL_ID);
            }
        }

        line.text("specversion", "1.0");
        line.text("id", id);
        line.text("source", source);
        line.text("type", &event.r#type);
        line.text("subject", &event.stream);
        if let Some(time) = event.occurred_at.as_ref().and_then(format_time) {
            line.0.push(("time", Member::Text(time.into())));
        }
        for (name, value) in
            [("correlationid", &event.correlation_id), ("causationid", &event.causation_id)]
        {
            if !value.is_empty() {
                line.text(name, value);
            }
        }
        for (name, value) in extensions {
            line.text(name, value);
        }
        if !event.tags.is_empty() {
            line.json(TAGS, &event.tags);
        }
        if !left.is_empty() {
            line.json(METADATA, &left);
        }
        line.data(event);
        line
    }

    fn text(&mut self, name: &'a str, value: &'a str) {
        self.0.push((name, Member::Text(value.into())));
    }

    fn json(&mut self, name: &'a str, value: &impl Serialize) {
        let json = serde_json::to_string(value).expect("lists and maps of strings are JSON");
        self.0.push((name, Member::Text(json.into())));
    }

    fn data(&mut self, event: &'a RecordedEvent) {
        let default = match event.data {
            Some(recorded_event::Data::Text(_)) => "application/json",
            Some(recorded_event::Data::Binary(_)) => "application/octet-stream",
            None => "",
        };
        let content_type =
            if event.content_type.is_empty() { default } else { event.content_type.as_str() };
        if !content_type.is_empty() {
            self.text("datacontenttype", content_type);
        }
        let bytes = match &event.data {
            None => return,
            Some(recorded_event::Data::Text(text)) if is_json(content_type) => {
                if let Some(raw) = nestable(text) {
                    return self.0.push(("data", Member::Raw(raw)));
                }
                text.as_bytes()
            }
            Some(recorded_event::Data::Text(text)) => return self.text("data", text),
            Some(recorded_event::Data::Binary(bytes)) => bytes,
        };
        self.0.push(("data_base64", Member::Text(BASE64.encode(bytes).into())));
    }
}

/// JSON that stays the same, byte for byte, as a part of a line.
fn nestable(text: &str) -> Option<&RawValue> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    (raw.get().len() == text.len() && !text.contains(['\n', '\r'])).then_some(raw)
}

/// A CloudEvents String has no control characters.
fn is_string(value: &str) -> bool {
    !value.chars().any(char::is_control)
}

fn is_source(value: &str) -> bool {
    !value.is_empty() && value != DEFAULT_SOURCE && is_string(value)
}

/// Whether metadata of this key is an attribute of the same name.
fn is_extension(key: &str) -> bool {
    let legal = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let means_something_else = || {
        key == "source"
            || TAKEN.contains(&key)
            || RENAMED.iter().any(|(attribute, _)| *attribute == key)
    };
    !key.is_empty() && legal && !means_something_else()
}

/// The members of an object, each once, with the text of their values.
struct Members<'a>(BTreeMap<Cow<'a, str>, &'a RawValue>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &RawValue>()? {
                    if members.insert(name.0.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("`{}` is there twice", name.0)));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A name that is borrowed from the line unless it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct Attributes<'a>(BTreeMap<Cow<'a, str>, &'a RawValue>);

impl Attributes<'_> {
    /// Takes a string; one that is null or empty is not there.
    fn text(&mut self, name: &str) -> Result<Option<String>, E> {
        let Some(raw) = self.0.remove(name) else { return Ok(None) };
        serde_json::from_str::<Option<String>>(raw.get())
            .map(|text| text.filter(|text| !text.is_empty() || name == "data_base64"))
            .map_err(|_| invalid(name, "a string"))
    }

    fn required(&mut self, attribute: &'static str, why: &'static str) -> Result<String, E> {
        self.text(attribute)?.ok_or(E::Missing { attribute, why })
    }

    /// Takes an extension: a string, a number or a boolean, as text. Null is not there.
    fn scalar(&mut self, name: &str) -> Result<Option<String>, E> {
        let Some(raw) = self.0.remove(name) else { return Ok(None) };
        match raw.get().as_bytes() {
            b"null" => Ok(None),
            [b'"', ..] => Ok(Some(serde_json::from_str(raw.get())?)),
            [b'{' | b'[', ..] => Err(invalid(name, "a string, a number or a boolean")),
            _ => Ok(Some(raw.get().to_owned())),
        }
    }

    /// Takes JSON in a string, or as it is.
    fn structured<T>(&mut self, name: &str, expected: &'static str) -> Result<T, E>
    where
        T: Default + for<'de> Deserialize<'de>,
    {
        let Some(raw) = self.0.remove(name) else { return Ok(T::default()) };
        let parsed = match serde_json::from_str::<String>(raw.get()) {
            Ok(text) => serde_json::from_str(&text),
            Err(_) => serde_json::from_str(raw.get()),
        };
        parsed.map_err(|_| invalid(name, expected))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the log would hold of an imported event, but for position, version and recorded time.
    fn recorded(stream: String, event: NewEvent) -> RecordedEvent {
        RecordedEvent {
            id: event.id,
            position: 0,
            version: 0,
            recorded_at: None,
            occurred_at: event.occurred_at,
            stream,
            r#type: event.r#type,
            data: event.data.map(|data| match data {
                new_event::Data::Text(text) => recorded_event::Data::Text(text),
                new_event::Data::Binary(bytes) => recorded_event::Data::Binary(bytes),
            }),
            content_type: event.content_type,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            metadata: event.metadata,
            tags: event.tags,
        }
    }

    fn import(line: &str) -> RecordedEvent {
        let (stream, event) = parse(line).expect("a CloudEvent");
        recorded(stream, event)
    }

    fn text() -> impl Strategy<Value = String> {
        // Line breaks, controls, quotes and anything else.
        prop_oneof!["[a-z0-9]{0,8}", "\\PC{0,8}", any::<String>()]
    }

    fn json() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("null".to_owned()),
            Just("{\"a\": 1.10, \"a\":1e400 }".to_owned()),
            Just("{\n  \"a\": 1\n}\n".to_owned()),
            Just(" [1]".to_owned()),
            any::<f64>().prop_map(|number| number.to_string()),
            any::<String>().prop_map(|text| serde_json::to_string(&text).expect("JSON")),
            any::<String>(),
        ]
    }

    fn data() -> impl Strategy<Value = (Option<recorded_event::Data>, String)> {
        use recorded_event::Data::{Binary, Text};
        let json_types = prop_oneof![Just(""), Just("application/vnd.pay+json"), Just("text/json")];
        let text_types = prop_oneof![Just("text/plain"), Just("application/xml; charset=utf-8")];
        let binary_types = prop_oneof![Just(""), Just("image/png"), Just("application/cbor")];
        let bytes = proptest::collection::vec(any::<u8>(), 0..32);
        prop_oneof![
            Just((None, String::new())),
            Just((None, "application/json".to_owned())),
            (json(), json_types).prop_map(|(text, t)| (Some(Text(text)), t.to_owned())),
            (any::<String>(), text_types).prop_map(|(text, t)| (Some(Text(text)), t.to_owned())),
            (bytes, binary_types).prop_map(|(b, t)| (Some(Binary(b.into())), t.to_owned())),
        ]
    }

    fn metadata() -> impl Strategy<Value = BTreeMap<String, String>> {
        let key = prop_oneof![
            proptest::sample::select(vec![
                "source",
                "dataschema",
                "id",
                "userId",
                "userid",
                "organizationId",
                "time",
                "data_base64",
                TAGS,
                METADATA,
                ORIGINAL_ID,
                "traceparent",
            ])
            .prop_map(str::to_owned),
            "[a-z0-9]{1,9}",
            "\\PC{1,9}",
        ];
        let value =
            prop_oneof![text(), Just(DEFAULT_SOURCE.to_owned()), Just("order-7".to_owned())];
        proptest::collection::btree_map(key, value, 0..8)
    }

    prop_compose! {
        fn event()(
            id in 1_u128..,
            (data, content_type) in data(),
            metadata in metadata(),
            tags in proptest::collection::vec("\\PC{1,9}", 0..4),
            (correlation_id, causation_id) in (text(), text()),
            (stream, r#type) in ("\\PC{1,20}", "\\PC{1,20}"),
            // The years 1 to 9999.
            (seconds, nanos) in (-62_135_596_800_i64..253_402_300_800, 0..1_000_000_000_i32),
        ) -> RecordedEvent {
            RecordedEvent {
                id: Uuid::from_u128(id).to_string(),
                position: 0,
                version: 0,
                recorded_at: None,
                occurred_at: Some(prost_types::Timestamp { seconds, nanos }),
                stream, r#type, data, content_type, correlation_id, causation_id, metadata, tags,
            }
        }
    }

    proptest! {
        #[test]
        fn an_exported_event_is_one_line_and_imports_as_the_same_event(event in event()) {
            let line = format(&event);
            prop_assert!(!line.contains(['\n', '\r']));
            let back = parse(&line);
            prop_assert!(back.is_ok(), "{line}: {back:?}");
            let (stream, new) = back.expect("checked");
            prop_assert_eq!(recorded(stream, new), event, "{}", line);
        }

        #[test]
        fn an_id_that_is_no_uuid_comes_back_from_an_export(id in "\\PC{1,40}", source in "[!-~]{1,20}") {
            let line = serde_json::json!({
                "specversion": "1.0", "id": id, "source": source, "type": "T", "subject": "S-1",
            });
            let event = import(&line.to_string());
            let exported: serde_json::Value = serde_json::from_str(&format(&event)).expect("JSON");
            prop_assert_eq!(&exported["id"], &line["id"]);
            prop_assert_eq!(&exported["source"], &line["source"]);
            prop_assert_eq!(import(&exported.to_string()), event);
        }

        #[test]
        fn no_line_makes_the_parser_panic(line in "\\PC*") {
            let _ = parse(&line);
        }
    }

    #[test]
    fn a_cloud_event_maps_field_by_field() {
        let (stream, event) = parse(
            r#"{"specversion":"1.0","id":"f60da00d-6540-5046-9bda-f10ec0cce8a2","source":"/pay",
                "type":"PaymentProcessed","subject":"Payment-7","time":"2010-10-02T09:20:39.266000001+02:00",
                "datacontenttype":"application/json","correlationid":"c","causationid":"b",
                "organizationid":"o","userid":"u","dataschema":"urn:s","partitionkey":3,"sampled":true,
                "traceparent":null,"annalstags":"[\"a\"]","data":{"amount": 1.10}}"#,
        )
        .expect("a CloudEvent");
        assert_eq!(stream, "Payment-7");
        let metadata = [
            ("dataschema", "urn:s"),
            ("organizationId", "o"),
            ("partitionkey", "3"),
            ("sampled", "true"),
            ("source", "/pay"),
            ("userId", "u"),
        ];
        let expected = NewEvent {
            id: "f60da00d-6540-5046-9bda-f10ec0cce8a2".to_owned(),
            r#type: "PaymentProcessed".to_owned(),
            data: Some(new_event::Data::Text(r#"{"amount": 1.10}"#.to_owned())),
            content_type: String::new(),
            correlation_id: "c".to_owned(),
            causation_id: "b".to_owned(),
            metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            tags: vec!["a".to_owned()],
            occurred_at: Some(prost_types::Timestamp {
                seconds: 1_286_004_039,
                nanos: 266_000_001,
            }),
        };
        assert_eq!(event, expected);
    }

    #[test]
    fn a_bad_line_says_what_is_wrong_with_it() {
        let with = |rest: &str| {
            format!(
                r#"{{"specversion":"1.0","id":"1","source":"/s","type":"T","subject":"S-1"{rest}}}"#
            )
        };
        for (line, message) in [
            ("[]".to_owned(), "not a CloudEvent in JSON"),
            (r#"{"specversion":"0.3"}"#.to_owned(), "`specversion` must be 1.0"),
            (r#"{"specversion":"1.0","id":"1"}"#.to_owned(), "no `source`"),
            (with(r#","type":"U""#), "`type` is there twice"),
            (with(r#","time":"yesterday""#), "`time` must be RFC 3339"),
            (with(r#","data":1,"data_base64":"""#), "exclude each other"),
            (with(r#","data_base64":"*""#), "`data_base64` must be base64"),
            (with(r#","datacontenttype":"text/plain","data":{}"#), "`data` must be a string"),
            (with(r#","extra":{}"#), "`extra` must be a string, a number or a boolean"),
            (with(r#","userid":"a","userId":"b""#), "the metadata `userId` is given twice"),
            (with(r#","annalstags":"a,b""#), "`annalstags` must be a JSON array"),
        ] {
            let error = parse(&line).expect_err(&line).to_string();
            assert!(error.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn one_id_from_two_sources_is_two_events() {
        assert_ne!(event_id("/a", "1").0, event_id("/b", "1").0);
        assert_eq!(event_id("/a", "1"), event_id("/a", "1"));
    }

    #[test]
    fn a_leap_second_is_the_second_after_it() {
        let time = parse_time("2016-12-31T23:59:60.5Z").expect("a time");
        assert_eq!(format_time(&time).as_deref(), Some("2017-01-01T00:00:00.500Z"));
    }
}
