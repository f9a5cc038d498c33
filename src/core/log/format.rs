//! The bytes of the log, version 1: an event, a seal, a segment's header. docs/format.md says every byte.
//!
//! They are the protobuf encoding of `annals.v1.Segment`, field by field, so a slice of a segment is a
//! response as it lies. Fields are written in the order of their numbers, which is also prost's order:
//! the golden test holds the two together. The core knows these bytes and no generated type.

use uuid::Uuid;

use super::{
    chain::{self, Hash},
    protobuf::{
        FIXED32, LENGTH, VARINT, Value, put_bytes, put_varint, read_varint, tag, take_field,
        varint_size,
    },
};
use crate::core::{
    clock::Timestamp,
    position::{Position, Version},
};

/// `ANNL`, read as a little-endian number.
pub const MAGIC: u32 = u32::from_le_bytes(*b"ANNL");
/// This format.
pub const FORMAT_VERSION: u32 = 1;

/// `Segment.events`: field 1, length-delimited.
pub const EVENT_TAG: u8 = tag(1, LENGTH);
/// `Segment.commits`: field 2, length-delimited.
pub const SEAL_TAG: u8 = tag(2, LENGTH);
/// `Segment.header`, length-delimited.
const HEADER_FIELD: u8 = 3;
/// `Segment.removed`: field 4, length-delimited.
pub const REMOVED_TAG: u8 = tag(4, LENGTH);
/// `Segment.packed`: field 5, length-delimited.
pub const PACKED_TAG: u8 = tag(5, LENGTH);

/// What the sequencer adds to an event's prepared fields, at most: tag and length, id, position,
/// version, two moments.
pub const STAMP_SIZE_BYTES_MAX: usize = 6 + 38 + 11 + 11 + 2 * (2 + 11 + 6);
/// A seal, at most.
pub const SEAL_SIZE_BYTES_MAX: usize = 2 + 5 + 6;
/// A segment's header, at most.
pub const HEADER_SIZE_BYTES_MAX: usize = 2 + 5 + 2 + 11 + 34 + 5;

/// Where in a record's message the text of its id begins: the id is the first field.
const ID_OFFSET: usize = 2;
/// The length of a UUID in its canonical form.
const ID_LENGTH: usize = 36;
/// `RemovedEvent.digest`.
const DIGEST_FIELD: u8 = 15;

fn put_timestamp(out: &mut Vec<u8>, field: u8, moment: Timestamp) {
    let seconds = moment.seconds().cast_unsigned();
    let nanos = u64::from(moment.nanos());
    out.push(tag(field, LENGTH));
    let size = timestamp_size(moment);
    out.push(u8::try_from(size).expect("at most 17"));
    if seconds != 0 {
        out.push(tag(1, VARINT));
        put_varint(out, seconds);
    }
    if nanos != 0 {
        out.push(tag(2, VARINT));
        put_varint(out, nanos);
    }
}

fn timestamp_size(moment: Timestamp) -> usize {
    let field = |value: u64| if value == 0 { 0 } else { 1 + varint_size(value) };
    field(moment.seconds().cast_unsigned()) + field(u64::from(moment.nanos()))
}

/// What an event says, as the client sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Data<'a> {
    /// Nothing but its type.
    #[default]
    None,
    /// What a person can read.
    Text(&'a str),
    /// Everything else.
    Binary(&'a [u8]),
}

/// The fields of an event that its sender decides and that stand behind the sequencer's stamp.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Body<'a> {
    pub stream: &'a str,
    pub event_type: &'a str,
    pub data: Data<'a>,
    /// Empty: the default for the data.
    pub content_type: &'a str,
    pub correlation_id: &'a str,
    pub causation_id: &'a str,
    /// In the order of the keys.
    pub metadata: Vec<(&'a str, &'a str)>,
    pub tags: Vec<&'a str>,
}

impl Body<'_> {
    /// The fields' encoding, as [`Body::put`] writes it.
    pub fn encode(&self) -> Vec<u8> {
        let data = match self.data {
            Data::None => 0,
            Data::Text(text) => text.len(),
            Data::Binary(bytes) => bytes.len(),
        };
        let mut out = Vec::with_capacity(self.stream.len() + self.event_type.len() + data + 64);
        self.put(&mut out);
        out
    }

    /// Appends the fields' encoding, in the order of their numbers, an empty one left out.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, 6, self.stream.as_bytes());
        put_bytes(out, 7, self.event_type.as_bytes());
        // A oneof is written even where it is empty: unset and empty differ.
        match self.data {
            Data::None => {}
            Data::Text(text) => put_bytes(out, 8, text.as_bytes()),
            Data::Binary(bytes) => put_bytes(out, 9, bytes),
        }
        for (field, text) in
            [(10, self.content_type), (11, self.correlation_id), (12, self.causation_id)]
        {
            if !text.is_empty() {
                put_bytes(out, field, text.as_bytes());
            }
        }
        for (key, value) in &self.metadata {
            let part = |text: &str| {
                if text.is_empty() { 0 } else { 1 + varint_size(text.len() as u64) + text.len() }
            };
            out.push(tag(13, LENGTH));
            put_varint(out, (part(key) + part(value)) as u64);
            for (field, text) in [(1, key), (2, value)] {
                if !text.is_empty() {
                    put_bytes(out, field, text.as_bytes());
                }
            }
        }
        for tag in &self.tags {
            put_bytes(out, 14, tag.as_bytes());
        }
    }
}

/// What the sequencer gives an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub id: Uuid,
    pub position: Position,
    pub version: Version,
    pub recorded_at: Timestamp,
    pub occurred_at: Timestamp,
}

/// Appends a record, `stamp` and then `body` as [`Body::put`] made it, with its tag and length.
pub fn put_event(out: &mut Vec<u8>, stamp: &Stamp, body: &[u8]) {
    let recorded_size = timestamp_size(stamp.recorded_at);
    // Most events do not say when they occurred.
    let occurred_then = stamp.occurred_at == stamp.recorded_at;
    let occurred_size =
        if occurred_then { recorded_size } else { timestamp_size(stamp.occurred_at) };
    let size = ID_OFFSET
        + ID_LENGTH
        + 1
        + varint_size(stamp.position.get())
        + 1
        + varint_size(stamp.version.get())
        + 2
        + recorded_size
        + 2
        + occurred_size
        + body.len();
    out.push(EVENT_TAG);
    put_varint(out, size as u64);
    let begin = out.len();
    // Encoded where it lies: what was written by single bytes is copied slowly.
    put_bytes(out, 1, &[0; ID_LENGTH]);
    stamp.id.hyphenated().encode_lower(&mut out[begin + ID_OFFSET..]);
    out.push(tag(2, VARINT));
    put_varint(out, stamp.position.get());
    out.push(tag(3, VARINT));
    put_varint(out, stamp.version.get());
    let recorded = out.len();
    put_timestamp(out, 4, stamp.recorded_at);
    if occurred_then {
        let occurred = out.len();
        out.extend_from_within(recorded..);
        out[occurred] = tag(5, LENGTH);
    } else {
        put_timestamp(out, 5, stamp.occurred_at);
    }
    out.extend_from_slice(body);
    debug_assert_eq!(out.len() - begin, size, "the length stands before what it measures");
}

/// Appends the seal of the commit whose records are `records`.
pub fn put_seal(out: &mut Vec<u8>, records: &[u8], event_count: u32) {
    out.push(SEAL_TAG);
    out.push(u8::try_from(5 + 1 + varint_size(u64::from(event_count))).expect("at most 11"));
    out.push(tag(1, FIXED32));
    out.extend_from_slice(&crc32c::crc32c(records).to_le_bytes());
    out.push(tag(2, VARINT));
    put_varint(out, u64::from(event_count));
}

/// Appends what is left of an event once it is removed: of its `record`, or of what is left of it
/// already, the stamp without `occurred_at`, the stream and the digest.
pub fn put_removed(out: &mut Vec<u8>, record: &[u8]) {
    let view = EventView::of(record);
    let Stamp { id, position, version, recorded_at, .. } = view.stamp;
    let mut inner = Vec::with_capacity(128);
    let mut text = [0; ID_LENGTH];
    id.hyphenated().encode_lower(&mut text);
    put_bytes(&mut inner, 1, &text);
    inner.push(tag(2, VARINT));
    put_varint(&mut inner, position.get());
    inner.push(tag(3, VARINT));
    put_varint(&mut inner, version.get());
    put_timestamp(&mut inner, 4, recorded_at);
    put_bytes(&mut inner, 6, view.body.stream.as_bytes());
    put_bytes(&mut inner, DIGEST_FIELD, &chain::digest(record));
    out.push(REMOVED_TAG);
    put_varint(out, inner.len() as u64);
    out.extend_from_slice(&inner);
}

/// The digest that `record` has if it is what is left of a removed event.
pub fn removed_digest(record: &[u8]) -> Option<Hash> {
    if record.first() != Some(&REMOVED_TAG) {
        return None;
    }
    // It is the last field, of a size that is known.
    record.last_chunk().copied()
}

/// A segment's header.
pub fn header(first: Position, chain: Option<&Hash>) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_SIZE_BYTES_MAX);
    header.push(tag(1, FIXED32));
    header.extend_from_slice(&MAGIC.to_le_bytes());
    header.push(tag(2, VARINT));
    put_varint(&mut header, u64::from(FORMAT_VERSION));
    header.push(tag(3, VARINT));
    put_varint(&mut header, first.get());
    if let Some(chain) = chain {
        put_bytes(&mut header, 4, chain);
    }
    let checksum = crc32c::crc32c(&header);
    header.push(tag(5, FIXED32));
    header.extend_from_slice(&checksum.to_le_bytes());
    let mut out = Vec::with_capacity(HEADER_SIZE_BYTES_MAX);
    put_bytes(&mut out, HEADER_FIELD, &header);
    out
}

/// Why bytes are not what the format says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("a number does not end or is too large")]
    Varint,
    #[error("a field is longer than what holds it")]
    Truncated,
    #[error("a field is none of those that belong here")]
    Tag,
    #[error("a text is not UTF-8")]
    Utf8,
    #[error("an event has no valid id")]
    Id,
    #[error("a moment is out of range")]
    Timestamp,
    #[error("an event does not have the position that follows")]
    Position,
    #[error("what is left of a removed event has no digest")]
    Digest,
    #[error("a packed block cannot be unpacked")]
    Packed,
    #[error("the seal does not fit the commit")]
    Seal,
}

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub format_version: u32,
    pub first: Position,
    /// The chain's value before the segment, where one is kept.
    pub chain: Option<Hash>,
    /// How many bytes the header takes.
    pub size: usize,
}

/// The header at the start of a segment; `None` where there is none.
pub fn read_header(bytes: &[u8]) -> Option<Header> {
    let mut rest = bytes;
    let Ok(Some((3, Value::Bytes(mut header)))) = take_field(&mut rest) else { return None };
    let size = bytes.len() - rest.len();
    let (mut magic, mut version, mut first, mut chain) = (false, None, None, None);
    while let Some(field) = take_field(&mut header).ok()? {
        match field {
            (1, Value::Fixed(bytes)) => magic = bytes == MAGIC.to_le_bytes(),
            (2, Value::Number(number)) => version = u32::try_from(number).ok(),
            (3, Value::Number(number)) => first = Some(Position::new(number)),
            (4, Value::Bytes(hash)) => chain = Some(hash.try_into().ok()?),
            _ => {}
        }
    }
    let (format_version, first) = version.zip(first).filter(|_| magic)?;
    Some(Header { format_version, first, chain, size })
}

/// Whether the header at the start of `bytes`, of whatever version, has the checksum that it says.
pub fn header_is_whole(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let Ok(Some((3, Value::Bytes(header)))) = take_field(&mut rest) else { return false };
    let Some((checked, [tag_of_checksum, checksum @ ..])) = header.split_last_chunk::<5>() else {
        return false;
    };
    *tag_of_checksum == tag(5, FIXED32) && crc32c::crc32c(checked).to_le_bytes() == *checksum
}

/// Checks the commit at the start of `bytes`: every record, that their positions rise by one from `first`
/// on, the seal. Puts where the records begin into `records`, and gives the size of it all, the seal with
/// it.
pub fn check_commit(
    bytes: &[u8],
    first: Position,
    records: &mut Vec<u32>,
) -> Result<usize, FormatError> {
    let mut rest = bytes;
    records.clear();
    loop {
        let offset = bytes.len() - rest.len();
        match take_field(&mut rest)?.ok_or(FormatError::Truncated)? {
            (1 | 4, Value::Bytes(message)) if matches!(bytes[offset], EVENT_TAG | REMOVED_TAG) => {
                if bytes[offset] == REMOVED_TAG {
                    check_removed(message)?;
                }
                let position = EventView::parse(message)?.stamp.position;
                if position != first.plus(records.len() as u64) {
                    return Err(FormatError::Position);
                }
                records.push(u32::try_from(offset).map_err(|_| FormatError::Truncated)?);
            }
            (2, Value::Bytes(_)) if bytes[offset] == SEAL_TAG && !records.is_empty() => {
                let size = bytes.len() - rest.len();
                let count = u32::try_from(records.len()).map_err(|_| FormatError::Seal)?;
                let mut seal = Vec::with_capacity(SEAL_SIZE_BYTES_MAX);
                put_seal(&mut seal, &bytes[..offset], count);
                return if bytes[offset..size] == seal { Ok(size) } else { Err(FormatError::Seal) };
            }
            _ => return Err(FormatError::Tag),
        }
    }
}

/// The position that the record at the start of `bytes` says it has, if there is one.
pub fn read_position(bytes: &[u8]) -> Option<Position> {
    let mut rest = bytes;
    let Ok(Some((1 | 4, Value::Bytes(message)))) = take_field(&mut rest) else { return None };
    EventView::parse(message).ok().map(|event| event.stamp.position)
}

/// The digest of a removed event stands where [`removed_digest`] takes it.
fn check_removed(mut message: &[u8]) -> Result<(), FormatError> {
    let mut last = None;
    while let Some(field) = take_field(&mut message)? {
        last = Some(field);
    }
    match last {
        Some((field, Value::Bytes(digest)))
            if field == u64::from(DIGEST_FIELD) && digest.len() == size_of::<Hash>() =>
        {
            Ok(())
        }
        _ => Err(FormatError::Digest),
    }
}

/// How many bytes the field at the start of `bytes` takes: tag, length and content.
///
/// # Panics
/// If `bytes` does not begin with a whole length-delimited field: the log holds nothing else.
pub fn field_size(bytes: &[u8]) -> usize {
    let (length, size) = read_varint(&bytes[1..]).expect("the log holds whole fields");
    1 + size + usize::try_from(length).expect("it lies in memory")
}

/// The message of a record: what follows its tag and length.
///
/// # Panics
/// As [`field_size`].
pub fn message(record: &[u8]) -> &[u8] {
    let (_, size) = read_varint(&record[1..]).expect("the log holds whole fields");
    &record[1 + size..]
}

/// Whether the event of `record` has this id; reads nothing but the id.
pub fn has_id(record: &[u8], id: &Uuid) -> bool {
    let mut text = [0; ID_LENGTH];
    id.hyphenated().encode_lower(&mut text);
    message(record).get(ID_OFFSET..ID_OFFSET + ID_LENGTH) == Some(&text[..])
}

/// An event as it lies in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct EventView<'a> {
    pub stamp: Stamp,
    pub body: Body<'a>,
}

impl<'a> EventView<'a> {
    /// The event of a record of the log, or what is left of one.
    ///
    /// # Panics
    /// If it is not what we write: the log holds nothing else.
    pub fn of(record: &'a [u8]) -> Self {
        Self::parse(message(record)).expect("the log holds what we wrote")
    }

    /// Reads the message of a record. Takes any bytes; unknown fields are passed over.
    pub fn parse(mut bytes: &'a [u8]) -> Result<Self, FormatError> {
        fn text(value: &[u8]) -> Result<&str, FormatError> {
            str::from_utf8(value).map_err(|_| FormatError::Utf8)
        }
        let mut id = None;
        let (mut position, mut version) = (Position::ZERO, Version::ZERO);
        let (mut recorded_at, mut occurred_at) = Default::default();
        let mut body = Body::default();
        while let Some(field) = take_field(&mut bytes)? {
            match field {
                (1, Value::Bytes(value)) => id = Uuid::try_parse_ascii(value).ok(),
                (2, Value::Number(value)) => position = Position::new(value),
                (3, Value::Number(value)) => version = Version::new(value),
                (4, Value::Bytes(value)) => recorded_at = parse_timestamp(value)?,
                (5, Value::Bytes(value)) => occurred_at = parse_timestamp(value)?,
                (6, Value::Bytes(value)) => body.stream = text(value)?,
                (7, Value::Bytes(value)) => body.event_type = text(value)?,
                (8, Value::Bytes(value)) => body.data = Data::Text(text(value)?),
                (9, Value::Bytes(value)) => body.data = Data::Binary(value),
                (10, Value::Bytes(value)) => body.content_type = text(value)?,
                (11, Value::Bytes(value)) => body.correlation_id = text(value)?,
                (12, Value::Bytes(value)) => body.causation_id = text(value)?,
                (13, Value::Bytes(mut entry)) => {
                    let mut pair = ("", "");
                    while let Some(part) = take_field(&mut entry)? {
                        match part {
                            (1, Value::Bytes(key)) => pair.0 = text(key)?,
                            (2, Value::Bytes(value)) => pair.1 = text(value)?,
                            _ => {}
                        }
                    }
                    body.metadata.push(pair);
                }
                (14, Value::Bytes(value)) => body.tags.push(text(value)?),
                // A field that we know, of another wire type.
                (1..=14, _) => return Err(FormatError::Tag),
                _ => {}
            }
        }
        let id = id.ok_or(FormatError::Id)?;
        Ok(Self { stamp: Stamp { id, position, version, recorded_at, occurred_at }, body })
    }
}

/// What an index knows of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexed<T> {
    OccurredAt(Timestamp),
    Stream(T),
    Type(T),
    Correlation(T),
    Causation(T),
    /// Key and value.
    Metadata(T, T),
    Tag(T),
}

/// Hands out what an index knows of the event of a record's message, or of its body alone, in the order of the
/// fields, until `take` says that it has enough. Reads nothing else.
///
/// # Panics
/// As [`EventView::of`].
pub fn for_each_indexed<'a>(message: &'a [u8], mut take: impl FnMut(Indexed<&'a str>) -> bool) {
    let text = |value| str::from_utf8(value).expect("the log holds what we wrote");
    for_each_indexed_raw(message, |indexed| {
        take(match indexed {
            Indexed::OccurredAt(moment) => Indexed::OccurredAt(moment),
            Indexed::Stream(name) => Indexed::Stream(text(name)),
            Indexed::Type(name) => Indexed::Type(text(name)),
            Indexed::Correlation(id) => Indexed::Correlation(text(id)),
            Indexed::Causation(id) => Indexed::Causation(text(id)),
            Indexed::Metadata(key, value) => Indexed::Metadata(text(key), text(value)),
            Indexed::Tag(tag) => Indexed::Tag(text(tag)),
        })
    });
}

/// The same, texts as the bytes that they are, for who has seen most of them before.
pub fn for_each_indexed_raw<'a>(
    message: &'a [u8],
    mut take: impl FnMut(Indexed<&'a [u8]>) -> bool,
) {
    let mut rest = message;
    while let Some(field) = take_field(&mut rest).expect("the log holds what we wrote") {
        let indexed = match field {
            (5, Value::Bytes(value)) => {
                let moment = parse_timestamp(value).expect("the log holds what we wrote");
                Indexed::OccurredAt(moment)
            }
            (6, Value::Bytes(value)) => Indexed::Stream(value),
            (7, Value::Bytes(value)) => Indexed::Type(value),
            (11, Value::Bytes(value)) => Indexed::Correlation(value),
            (12, Value::Bytes(value)) => Indexed::Causation(value),
            (13, Value::Bytes(mut entry)) => {
                let (mut key, mut value) = (&[][..], &[][..]);
                while let Some(part) = take_field(&mut entry).expect("the log holds what we wrote")
                {
                    match part {
                        (1, Value::Bytes(bytes)) => key = bytes,
                        (2, Value::Bytes(bytes)) => value = bytes,
                        _ => {}
                    }
                }
                Indexed::Metadata(key, value)
            }
            (14, Value::Bytes(value)) => Indexed::Tag(value),
            _ => continue,
        };
        if !take(indexed) {
            return;
        }
    }
}

/// The data of a record's message, and its content type; reads nothing behind them.
///
/// # Panics
/// As [`EventView::of`].
pub fn data(message: &[u8]) -> (Data<'_>, &str) {
    let mut rest = message;
    let mut data = Data::None;
    while let Some(field) = take_field(&mut rest).expect("the log holds what we wrote") {
        match field {
            (8, Value::Bytes(text)) => {
                data = Data::Text(str::from_utf8(text).expect("the log holds what we wrote"));
            }
            (9, Value::Bytes(bytes)) => data = Data::Binary(bytes),
            (10, Value::Bytes(content_type)) => {
                let content_type = str::from_utf8(content_type);
                return (data, content_type.expect("the log holds what we wrote"));
            }
            (11.., _) => break,
            _ => {}
        }
    }
    (data, "")
}

/// The bytes of the data of a record's message; none where it has no data.
///
/// # Panics
/// As [`EventView::of`].
pub fn data_bytes(message: &[u8]) -> &[u8] {
    let mut rest = message;
    while let Some(field) = take_field(&mut rest).expect("the log holds what we wrote") {
        match field {
            (8 | 9, Value::Bytes(bytes)) => return bytes,
            (10.., _) => break,
            _ => {}
        }
    }
    &[]
}

/// When the event of a record's message occurred.
///
/// # Panics
/// As [`EventView::of`], and where it is what is left of a removed event.
pub fn occurred_at(message: &[u8]) -> Timestamp {
    let mut occurred = None;
    for_each_indexed(message, |indexed| {
        if let Indexed::OccurredAt(moment) = indexed {
            occurred = Some(moment);
        }
        false
    });
    occurred.expect("every event occurred at some time")
}

fn parse_timestamp(mut bytes: &[u8]) -> Result<Timestamp, FormatError> {
    let (mut seconds, mut nanos) = (0, 0);
    while let Some(field) = take_field(&mut bytes)? {
        match field {
            (1, Value::Number(value)) => seconds = value.cast_signed(),
            (2, Value::Number(value)) => nanos = value.cast_signed(),
            _ => {}
        }
    }
    Timestamp::new(seconds, nanos).ok_or(FormatError::Timestamp)
}

/// The stream and the version of a record, or of what is left of one; reads nothing behind them.
///
/// # Panics
/// As [`EventView::of`].
pub fn stream_and_version(record: &[u8]) -> (&str, Version) {
    let mut rest = message(record);
    let mut version = Version::ZERO;
    while let Some(field) = take_field(&mut rest).expect("the log holds what we wrote") {
        match field {
            (3, Value::Number(value)) => version = Version::new(value),
            (6, Value::Bytes(stream)) => {
                let stream = str::from_utf8(stream).expect("the log holds what we wrote");
                return (stream, version);
            }
            _ => {}
        }
    }
    unreachable!("every event has a stream")
}

/// When the event of a record, or of what is left of one, was recorded.
///
/// # Panics
/// As [`EventView::of`].
pub fn recorded_at(record: &[u8]) -> Timestamp {
    let mut rest = message(record);
    while let Some(field) = take_field(&mut rest).expect("the log holds what we wrote") {
        if let (4, Value::Bytes(moment)) = field {
            return parse_timestamp(moment).expect("the log holds what we wrote");
        }
    }
    unreachable!("every event was recorded at some time")
}
