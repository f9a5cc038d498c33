//! The requests as they lie: what of them is looked at where they lie, and what protobuf says that they are.
//!
//! build.rs puts the four requests below where the generated ones would be, in the server only; their encoding is
//! the same, as an embedded message and bytes have the same.

use std::{iter, mem, ops::Range};

use bytes::{Buf, Bytes};
use prost::{DecodeError, Message};
use tonic::codec::DecodeBuf;

use crate::{
    core::log::{
        format::{Data, FormatError},
        protobuf::{Value, take_field},
    },
    wire::{codec::Incoming, proto::v1},
};

/// `annals.v1.AppendRequest`, whose stream and events stay where they lie.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AppendRequest {
    pub(super) bytes: Bytes,
    stream: Range<usize>,
    /// How many there are.
    pub(super) events: usize,
    pub(super) expected_version: Option<u64>,
    pub(super) conditions: Vec<v1::AppendCondition>,
    pub(super) validate_only: bool,
}

/// `annals.v1.AppendStreamRequest`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AppendStreamRequest {
    pub append: Option<AppendRequest>,
}

impl AppendRequest {
    /// The request that `bytes` are, by protobuf's rules.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        if let Some(request) = Self::read(&bytes) {
            return Ok(request);
        }
        // What is wrong is prost's to say; what it passes over and `take_field` does not, is left out.
        let bytes = v1::AppendRequest::decode(bytes)?.encode_to_vec().into();
        Ok(Self::read(&bytes).expect("prost has made it"))
    }

    fn read(bytes: &Bytes) -> Option<Self> {
        let mut request = Self { bytes: bytes.clone(), ..Self::default() };
        let mut rest = &bytes[..];
        while let Some(field) = take_field(&mut rest).ok()? {
            match field {
                (1, Value::Bytes(stream)) => {
                    let end = bytes.len() - rest.len();
                    request.stream = end - str::from_utf8(stream).ok()?.len()..end;
                }
                (2, Value::Bytes(_)) => request.events += 1,
                (3, Value::Number(version)) => request.expected_version = Some(version),
                (4, Value::Bytes(condition)) => {
                    request.conditions.push(v1::AppendCondition::decode(condition).ok()?);
                }
                (5, Value::Number(validate_only)) => request.validate_only = validate_only != 0,
                (1..=5, _) => return None,
                _ => {}
            }
        }
        Some(request)
    }

    pub(super) fn stream(&self) -> &str {
        str::from_utf8(&self.bytes[self.stream.clone()]).expect("it was read")
    }

    /// `annals.v1.NewEvent`s.
    pub(super) fn events(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let mut rest = &self.bytes[..];
        iter::from_fn(move || {
            loop {
                if let (2, Value::Bytes(event)) = take_field(&mut rest).expect("it was read")? {
                    return Some(event);
                }
            }
        })
    }
}

impl Incoming for AppendRequest {
    fn receive(buf: &mut DecodeBuf<'_>) -> Result<Self, DecodeError> {
        Self::decode(buf.copy_to_bytes(buf.remaining()))
    }
}

impl AppendStreamRequest {
    /// The request that `bytes` are, by protobuf's rules.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        if let Some(request) = Self::read(&bytes) {
            return Ok(request);
        }
        let bytes = v1::AppendStreamRequest::decode(bytes)?.encode_to_vec().into();
        Ok(Self::read(&bytes).expect("prost has made it"))
    }

    fn read(bytes: &Bytes) -> Option<Self> {
        let mut append = None;
        let mut rest = &bytes[..];
        while let Some(field) = take_field(&mut rest).ok()? {
            match field {
                // Several are merged, which prost does.
                (1, Value::Bytes(message)) if append.is_none() => {
                    append = Some(AppendRequest::read(&bytes.slice_ref(message))?);
                }
                (1, _) => return None,
                _ => {}
            }
        }
        Some(Self { append })
    }
}

impl Incoming for AppendStreamRequest {
    fn receive(buf: &mut DecodeBuf<'_>) -> Result<Self, DecodeError> {
        Self::decode(buf.copy_to_bytes(buf.remaining()))
    }
}

/// `annals.v1.StreamWrite`.
#[derive(Clone, PartialEq, Message)]
pub struct StreamWrite {
    #[prost(string, tag = "1")]
    pub stream: String,
    /// `annals.v1.NewEvent`s.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub events: Vec<Bytes>,
    #[prost(uint64, optional, tag = "3")]
    pub expected_version: Option<u64>,
}

/// `annals.v1.CommitRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct CommitRequest {
    #[prost(message, repeated, tag = "1")]
    pub writes: Vec<StreamWrite>,
    #[prost(message, repeated, tag = "2")]
    pub conditions: Vec<v1::AppendCondition>,
    #[prost(bool, tag = "3")]
    pub validate_only: bool,
}

/// `annals.v1.NewEvent` as it lies in its request.
#[derive(Debug, PartialEq, Default)]
pub struct Sent<'a> {
    pub id: &'a str,
    pub event_type: &'a str,
    pub data: Data<'a>,
    pub content_type: &'a str,
    pub correlation_id: &'a str,
    pub causation_id: &'a str,
    /// In the order of the keys, of two alike the last.
    pub metadata: Vec<(&'a str, &'a str)>,
    pub tags: Vec<&'a str>,
    pub occurred_at: Option<prost_types::Timestamp>,
}

impl<'a> Sent<'a> {
    /// Becomes the event that `bytes` are, by protobuf's rules: of two alike fields the last, unknown ones passed over. Or the
    /// name of one that is not what it should be (none: no field can be told), and why. What it was before leaves its room.
    pub fn read(&mut self, mut bytes: &'a [u8]) -> Result<(), (Option<&'static str>, String)> {
        fn text<'a>(
            name: &'static str,
            bytes: &'a [u8],
        ) -> Result<&'a str, (Option<&'static str>, String)> {
            str::from_utf8(bytes).map_err(|_| (Some(name), "is not UTF-8".to_owned()))
        }
        let broken = |name| move |why: FormatError| (name, format!("is not protobuf: {why}"));
        let (mut metadata, mut tags) = (mem::take(&mut self.metadata), mem::take(&mut self.tags));
        metadata.clear();
        tags.clear();
        *self = Self { metadata, tags, ..Self::default() };
        while let Some(field) = take_field(&mut bytes).map_err(broken(None))? {
            match field {
                (1, Value::Bytes(id)) => self.id = text("id", id)?,
                (2, Value::Bytes(name)) => self.event_type = text("type", name)?,
                (3, Value::Bytes(data)) => self.data = Data::Text(text("text", data)?),
                (4, Value::Bytes(data)) => self.data = Data::Binary(data),
                (5, Value::Bytes(name)) => self.content_type = text("content_type", name)?,
                (6, Value::Bytes(id)) => self.correlation_id = text("correlation_id", id)?,
                (7, Value::Bytes(id)) => self.causation_id = text("causation_id", id)?,
                (8, Value::Bytes(mut entry)) => {
                    let (mut key, mut value) = ("", "");
                    let name = "metadata";
                    while let Some(part) = take_field(&mut entry).map_err(broken(Some(name)))? {
                        match part {
                            (1, Value::Bytes(bytes)) => key = text(name, bytes)?,
                            (2, Value::Bytes(bytes)) => value = text(name, bytes)?,
                            (1 | 2, _) => {
                                return Err((
                                    Some(name),
                                    "has an entry that is not text".to_owned(),
                                ));
                            }
                            _ => {}
                        }
                    }
                    self.metadata.push((key, value));
                }
                (9, Value::Bytes(tag)) => self.tags.push(text("tags", tag)?),
                (10, Value::Bytes(moment)) => {
                    let merged = self.occurred_at.get_or_insert_default().merge(moment);
                    merged
                        .map_err(|why| (Some("occurred_at"), format!("is not a moment: {why}")))?;
                }
                (1..=10, _) => {
                    return Err((None, format!("has a field {} of another type", field.0)));
                }
                _ => {}
            }
        }
        last_of_each(&mut self.metadata);
        Ok(())
    }
}

/// Puts the entries in the order of their keys, of two alike the last.
fn last_of_each(entries: &mut Vec<(&str, &str)>) {
    if !entries.is_sorted_by(|a, b| a.0 < b.0) {
        // The sort is stable, and `dedup` keeps the first.
        entries.reverse();
        entries.sort_by_key(|entry| entry.0);
        entries.dedup_by_key(|entry| entry.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, option, prelude::*};

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        "[a-zé€]{0,5}"
    }

    fn event() -> impl Strategy<Value = v1::NewEvent> {
        let data = prop_oneof![
            Just(None),
            text().prop_map(|text| Some(v1::new_event::Data::Text(text))),
            collection::vec(any::<u8>(), 0..9)
                .prop_map(|bytes| Some(v1::new_event::Data::Binary(bytes.into()))),
        ];
        let moment = (any::<i64>(), any::<i32>())
            .prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos });
        let texts = [text(), text(), text(), text(), text()];
        let several = (
            collection::btree_map(text(), text(), 0..3),
            collection::vec(text(), 0..3),
            option::of(moment),
        );
        (texts, data, several).prop_map(|(texts, data, (metadata, tags, occurred_at))| {
            let [id, r#type, content_type, correlation_id, causation_id] = texts;
            v1::NewEvent {
                id,
                r#type,
                data,
                content_type,
                correlation_id,
                causation_id,
                metadata,
                tags,
                occurred_at,
            }
        })
    }

    fn append() -> impl Strategy<Value = v1::AppendRequest> {
        let conditions = collection::vec(
            any::<u64>().prop_map(|after| v1::AppendCondition { filters: Vec::new(), after }),
            0..3,
        );
        let (events, version) = (collection::vec(event(), 0..3), option::of(any::<u64>()));
        (text(), events, version, conditions, any::<bool>()).prop_map(
            |(stream, events, expected_version, conditions, validate_only)| v1::AppendRequest {
                stream,
                events,
                expected_version,
                conditions,
                validate_only,
            },
        )
    }

    fn as_generated(append: AppendRequest) -> v1::AppendRequest {
        let event = |event| v1::NewEvent::decode(event).expect("it is one");
        let (stream, events) = (append.stream().to_owned(), append.events().map(event).collect());
        let AppendRequest { expected_version, conditions, validate_only, .. } = append;
        v1::AppendRequest { stream, events, expected_version, conditions, validate_only }
    }

    fn sent(bytes: &[u8]) -> Result<Sent<'_>, (Option<&'static str>, String)> {
        let mut sent = Sent::default();
        sent.read(bytes).map(|()| sent)
    }

    fn as_sent(event: &v1::NewEvent) -> Sent<'_> {
        Sent {
            id: &event.id,
            event_type: &event.r#type,
            data: match &event.data {
                None => Data::None,
                Some(v1::new_event::Data::Text(text)) => Data::Text(text),
                Some(v1::new_event::Data::Binary(bytes)) => Data::Binary(bytes),
            },
            content_type: &event.content_type,
            correlation_id: &event.correlation_id,
            causation_id: &event.causation_id,
            metadata: event.metadata.iter().map(|(key, value)| (&**key, &**value)).collect(),
            tags: event.tags.iter().map(|tag| &**tag).collect(),
            occurred_at: event.occurred_at,
        }
    }

    proptest! {
        /// Two encodings, one behind the other, are one message: fields come again, and out of order.
        #[test]
        fn an_event_is_read_as_prost_reads_it(first in event(), second in event(), unknown in 11u32..99) {
            let mut bytes = first.encode_to_vec();
            prost::encoding::string::encode(unknown, &"unknown".to_owned(), &mut bytes);
            second.encode(&mut bytes).expect("there is room");
            let prosts = v1::NewEvent::decode(&bytes[..]).expect("it is one");
            let alone = second.encode_to_vec();
            let mut sent = Sent::default();
            prop_assert_eq!(sent.read(&bytes), Ok(()));
            prop_assert_eq!(&sent, &as_sent(&prosts));
            // Nothing of it is left in the next one.
            prop_assert_eq!(sent.read(&alone), Ok(()));
            prop_assert_eq!(&sent, &as_sent(&second));
        }

        /// What prost refuses is refused, and what it takes is read in the same way, but for groups.
        #[test]
        fn broken_events_are_refused(
            event in event(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = event.encode_to_vec();
            prop_assume!(!bytes.is_empty());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            match (sent(&bytes), v1::NewEvent::decode(&bytes[..])) {
                (Ok(ours), Ok(prosts)) => prop_assert_eq!(ours, as_sent(&prosts)),
                (Err(_), Err(_)) => {}
                (Err((None, _)), Ok(_)) => prop_assert!(bytes.iter().any(|byte| byte & 7 == 3)),
                (ours, prosts) => prop_assert!(false, "{:?} {:?}", ours, prosts),
            }
        }

        /// Where chance seldom leads.
        #[test]
        fn a_metadata_entry_of_another_type_is_refused(key in 1u32..3, number in any::<u64>()) {
            let mut entry = Vec::new();
            prost::encoding::fixed64::encode(key, &number, &mut entry);
            let mut bytes = Vec::new();
            prost::encoding::bytes::encode(8, &entry, &mut bytes);
            prop_assert!(v1::NewEvent::decode(&bytes[..]).is_err());
            let refused = sent(&bytes).map_err(|(field, _)| field);
            prop_assert_eq!(refused, Err(Some("metadata")));
        }

        /// Two encodings, one behind the other, are one message.
        #[test]
        fn appends_are_read_as_prost_reads_them(first in append(), second in append(), unknown in 6u32..99) {
            let mut bytes = first.encode_to_vec();
            prost::encoding::fixed32::encode(unknown, &7, &mut bytes);
            second.encode(&mut bytes).expect("there is room");
            let prosts = v1::AppendRequest::decode(&bytes[..]).expect("it is one");
            let ours = AppendRequest::decode(bytes.into()).expect("it is one, too");
            prop_assert_eq!(&as_generated(ours), &prosts);

            let mut bytes = v1::AppendStreamRequest { append: Some(first) }.encode_to_vec();
            let ours = AppendStreamRequest::decode(bytes.clone().into()).expect("it is one");
            let prosts = v1::AppendStreamRequest::decode(&bytes[..]).expect("it is one, too");
            prop_assert_eq!(ours.append.map(as_generated), prosts.append);
            v1::AppendStreamRequest { append: Some(second) }.encode(&mut bytes).expect("there is room");
            let ours = AppendStreamRequest::decode(bytes.clone().into()).expect("it is one");
            let prosts = v1::AppendStreamRequest::decode(&bytes[..]).expect("it is one, too");
            prop_assert_eq!(ours.append.map(as_generated), prosts.append);
        }

        /// But for what is inside of events, which is looked at later, prost refuses what ours does, and says why.
        #[test]
        fn broken_appends_are_refused(
            append in append(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            pipelined in any::<bool>(),
        ) {
            let mut bytes = if pipelined {
                v1::AppendStreamRequest { append: Some(append) }.encode_to_vec()
            } else {
                append.encode_to_vec()
            };
            prop_assume!(!bytes.is_empty());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let bytes = Bytes::from(bytes);
            let (ours, prosts) = if pipelined {
                let ours = AppendStreamRequest::decode(bytes.clone()).map(|it| it.append);
                (ours, v1::AppendStreamRequest::decode(bytes).map(|it| it.append))
            } else {
                let ours = AppendRequest::decode(bytes.clone()).map(Some);
                (ours, v1::AppendRequest::decode(bytes).map(Some))
            };
            match (ours, prosts) {
                (Ok(ours), Ok(prosts)) => prop_assert_eq!(ours.map(as_generated), prosts),
                (Err(ours), Err(prosts)) => prop_assert_eq!(ours.to_string(), prosts.to_string()),
                (Ok(ours), Err(_)) => {
                    let ours = ours.expect("prost refuses nothing that is not there");
                    let broken = |event| v1::NewEvent::decode(event).is_err();
                    prop_assert!(ours.events().any(broken));
                }
                (ours, prosts) => prop_assert!(false, "{:?} {:?}", ours, prosts),
            }
        }

        /// prost passes over groups, as protobuf did before its third version.
        #[test]
        fn unknown_groups_are_passed_over(append in append(), field in 6u8..16, pipelined in any::<bool>()) {
            let group = [field << 3 | 3, field << 3 | 4];
            let bytes = [&group, &append.encode_to_vec()[..]].concat();
            let ours = AppendRequest::decode(bytes.clone().into()).expect("it is one");
            prop_assert_eq!(&as_generated(ours), &append);
            let mut nested = Vec::new();
            prost::encoding::bytes::encode(1, &bytes, &mut nested);
            if pipelined {
                nested.extend(group);
            }
            let ours = AppendStreamRequest::decode(nested.into()).expect("it is one");
            prop_assert_eq!(ours.append.map(as_generated), Some(append));
        }

        #[test]
        fn commits_are_encoded_as_the_generated_ones_are(append in append()) {
            let v1::AppendRequest { stream, events, expected_version, conditions, validate_only } = append;
            let write = v1::StreamWrite { stream, events, expected_version };
            let commit = v1::CommitRequest { writes: vec![write], conditions, validate_only };
            let bytes = commit.encode_to_vec();
            let ours = CommitRequest::decode(&bytes[..]).expect("it is one");
            prop_assert_eq!(ours.encode_to_vec(), bytes);
        }
    }
}
