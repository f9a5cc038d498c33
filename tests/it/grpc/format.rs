//! The log is the wire: what the core writes by hand is what prost would write, byte for byte, and what
//! is sent is what lies there. docs/format.md describes the bytes.

use std::sync::Arc;

use annals::{
    core::{
        append::{Proposal, Write},
        clock::{ManualClock, Timestamp},
        commit_log::memory::Memory,
        event::NewEvent,
        log::{
            LogWriter, Reader,
            format::{self, Body, Data, EventView},
            segment::SegmentWriter,
        },
        name::Name,
        position::Position,
        sequencer::Sequencer,
        store::Store,
    },
    wire::proto::v1::{
        CommitSeal, ReadAllRequest, RecordedEvent, Segment, SegmentHeader,
        recorded_event::Data as Recorded,
    },
};
use proptest::{collection, option, prelude::*};
use prost::Message;
use uuid::Uuid;

use crate::support::{ANY, TestStore, dice::Dice, model, raw::Raw};

/// What a client says of an event; the store adds id, places and time.
#[derive(Debug, Clone)]
struct Said {
    stream: String,
    event_type: String,
    data: Option<Recorded>,
    content_type: String,
    correlation_id: String,
    causation_id: String,
    metadata: Vec<(String, String)>,
    tags: Vec<String>,
    occurred_at: Option<(i64, u32)>,
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Zé€😀 -]{1,20}"
}

fn moment() -> impl Strategy<Value = (i64, u32)> {
    let seconds = prop_oneof![
        Just(0),
        Just(-1),
        Just(-62_135_596_800),
        Just(253_402_300_799),
        -62_135_596_800_i64..=253_402_300_799,
    ];
    (seconds, prop_oneof![Just(0), Just(999_999_999), 0..1_000_000_000_u32])
}

fn data() -> impl Strategy<Value = Option<Recorded>> {
    prop_oneof![
        Just(None),
        Just(Some(Recorded::Text(String::new()))),
        Just(Some(Recorded::Binary(Vec::new().into()))),
        ".{0,300}".prop_map(|text| Some(Recorded::Text(text))),
        collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Some(Recorded::Binary(bytes.into()))),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    let optional = || prop_oneof![Just(String::new()), name()];
    let metadata = collection::btree_map(name(), optional(), 0..5)
        .prop_map(|entries| entries.into_iter().collect());
    let names = (name(), name(), optional(), optional(), optional());
    let rest = (data(), metadata, collection::vec(name(), 0..5), option::of(moment()));
    (names, rest).prop_map(|(names, (data, metadata, tags, occurred_at))| {
        let (stream, event_type, content_type, correlation_id, causation_id) = names;
        Said {
            stream,
            event_type,
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

impl Said {
    fn event(&self, id: Uuid) -> NewEvent {
        let new_name = |text: &String| Name::new(text, usize::MAX).unwrap();
        let body = Body {
            data: match &self.data {
                None => Data::None,
                Some(Recorded::Text(text)) => Data::Text(text),
                Some(Recorded::Binary(bytes)) => Data::Binary(bytes),
            },
            content_type: &self.content_type,
            correlation_id: &self.correlation_id,
            causation_id: &self.causation_id,
            metadata: self.metadata.iter().map(|(key, value)| (&**key, &**value)).collect(),
            ..Body::default()
        };
        let tags = self.tags.iter().map(new_name).collect::<Vec<_>>();
        let occurred_at = self.occurred_at.map(|(s, n)| Timestamp::new(s, n.into()).unwrap());
        let stream = new_name(&self.stream);
        NewEvent::new(id, &stream, &new_name(&self.event_type), &tags, occurred_at, body)
    }

    /// As prost has it.
    fn recorded(&self, id: Uuid, position: u64, version: u64, micros: i64) -> RecordedEvent {
        let timestamp = |(seconds, nanos): (i64, u32)| prost_types::Timestamp {
            seconds,
            nanos: nanos.try_into().unwrap(),
        };
        let nanos = u32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap();
        let recorded_at = (micros.div_euclid(1_000_000), nanos);
        RecordedEvent {
            id: id.to_string(),
            position,
            version,
            recorded_at: Some(timestamp(recorded_at)),
            occurred_at: Some(timestamp(self.occurred_at.unwrap_or(recorded_at))),
            stream: self.stream.clone(),
            r#type: self.event_type.clone(),
            data: self.data.clone(),
            content_type: self.content_type.clone(),
            correlation_id: self.correlation_id.clone(),
            causation_id: self.causation_id.clone(),
            metadata: self.metadata.iter().cloned().collect(),
            tags: self.tags.clone(),
        }
    }
}

/// Appends each commit to one stream, at this time, and says what prost would have recorded.
fn record(commits: &[Vec<Said>], micros: i64) -> (Reader, Vec<RecordedEvent>) {
    let clock = Arc::new(ManualClock::default());
    clock.set(micros);
    let store = Store::new(
        Sequencer::new(LogWriter::with_segment_size(4096), Box::new(Memory)),
        clock,
        1024,
    );
    let mut expected: Vec<RecordedEvent> = Vec::new();
    for commit in commits {
        // One write, so one stream.
        let stream = commit[0].stream.clone();
        let mut events = Vec::new();
        for said in commit {
            let said = Said { stream: stream.clone(), ..said.clone() };
            let position = expected.len() as u64 + 1;
            let id = Uuid::from_u128(u128::from(position) << 64 | 0x00ab_cdef);
            let version = expected.iter().filter(|event| event.stream == stream).count() as u64;
            events.push(said.event(id));
            expected.push(said.recorded(id, position, version + 1, micros));
        }
        let write = Write {
            stream: Name::new(&stream, usize::MAX).unwrap(),
            events: events.into(),
            expected: None,
        };
        let proposal = Proposal { writes: [write].into(), ..Proposal::default() };
        let (mut answer, leads) = store.submit(proposal).unwrap();
        assert!(leads && !store.lead(1));
        answer.try_recv().unwrap().unwrap();
    }
    (store.history().log.reader(), expected)
}

/// `EventView` and prost see the same in these bytes.
fn assert_same(bytes: &[u8], event: &RecordedEvent) {
    let view = EventView::parse(bytes).unwrap();
    let moment = |moment: Timestamp| prost_types::Timestamp {
        seconds: moment.seconds(),
        nanos: moment.nanos().try_into().unwrap(),
    };
    assert_eq!(view.stamp.id.to_string(), event.id);
    assert_eq!(view.stamp.position.get(), event.position);
    assert_eq!(view.stamp.version.get(), event.version);
    assert_eq!(Some(moment(view.stamp.recorded_at)), event.recorded_at);
    assert_eq!(Some(moment(view.stamp.occurred_at)), event.occurred_at);
    let body = view.body;
    assert_eq!((body.stream, body.event_type), (&*event.stream, &*event.r#type));
    match (&event.data, body.data) {
        (None, Data::None) => {}
        (Some(Recorded::Text(one)), Data::Text(other)) => assert_eq!(one, other),
        (Some(Recorded::Binary(one)), Data::Binary(other)) => assert_eq!(&one[..], other),
        (one, other) => panic!("{one:?} is not {other:?}"),
    }
    assert_eq!(body.content_type, event.content_type);
    assert_eq!(body.correlation_id, event.correlation_id);
    assert_eq!(body.causation_id, event.causation_id);
    let metadata: Vec<_> = event.metadata.iter().map(|(key, value)| (&**key, &**value)).collect();
    assert_eq!(body.metadata, metadata);
    assert_eq!(body.tags, event.tags);
}

/// Each seal closes as many events as it says, with the checksum of their bytes as prost writes them.
fn assert_sealed(events: &[RecordedEvent], seals: &[CommitSeal]) {
    let mut rest = events;
    for seal in seals {
        let (commit, after) = rest.split_at(seal.event_count as usize);
        let bytes = Segment { events: commit.to_vec(), ..Segment::default() }.encode_to_vec();
        assert_eq!(seal.checksum, crc32c::crc32c(&bytes));
        rest = after;
    }
    assert!(rest.is_empty(), "the last commit is sealed, too");
}

/// The whole log as it lies, segment by segment without their headers.
fn slices(reader: &Reader) -> Vec<u8> {
    let (mut bytes, mut after) = (Vec::new(), Position::ZERO);
    while let Some(slice) = reader.slice(after, u64::MAX, usize::MAX) {
        bytes.extend_from_slice(&slice.bytes);
        after = slice.last;
    }
    bytes
}

fn times() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(0),
        Just(-1),
        Just(1_000_000),
        -62_135_596_800_000_000_i64..=253_402_300_799_999_999,
    ]
}

proptest! {
    #[test]
    fn a_record_is_what_prost_would_have_written(
        commits in collection::vec(collection::vec(said(), 1..5), 1..5),
        micros in times(),
    ) {
        let (reader, expected) = record(&commits, micros);
        prop_assert_eq!(reader.head().get(), expected.len() as u64);
        for event in &expected {
            let record = reader.record(Position::new(event.position)).unwrap();
            let message = format::message(&record);
            let decoded = RecordedEvent::decode(message).unwrap();
            prop_assert_eq!(&decoded, event);
            prop_assert_eq!(decoded.encode_to_vec(), message);
            assert_same(message, event);
            // With its tag and length it is a field of a segment.
            let field = Segment { events: vec![decoded], ..Segment::default() };
            prop_assert_eq!(&field.encode_to_vec()[..], &*record);
        }
        // What lies there is a message: the events, and each commit's seal.
        let log = Segment::decode(&slices(&reader)[..]).unwrap();
        prop_assert_eq!(&log.events, &expected);
        let sizes: Vec<_> = log.commits.iter().map(|seal| seal.event_count as usize).collect();
        prop_assert_eq!(sizes, commits.iter().map(Vec::len).collect::<Vec<_>>());
        assert_sealed(&log.events, &log.commits);
    }

    #[test]
    fn a_view_takes_any_bytes(bytes in collection::vec(any::<u8>(), 0..200)) {
        let _ = EventView::parse(&bytes);
    }

    #[test]
    fn a_view_takes_a_record_with_any_bit_flipped_or_cut_anywhere(said in said()) {
        let (reader, _) = record(&[vec![said]], 1);
        let record = reader.record(Position::new(1)).unwrap();
        let message = format::message(&record);
        for end in 0..message.len() {
            let _ = EventView::parse(&message[..end]);
        }
        for bit in 0..message.len() * 8 {
            let mut flipped = message.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let view = EventView::parse(&flipped);
            // What both take, both take for the same event.
            if let (Ok(view), Ok(event)) = (view, RecordedEvent::decode(&flipped[..])) {
                prop_assert_eq!(view.stamp.position.get(), event.position);
                prop_assert_eq!(view.body.stream, event.stream);
                prop_assert_eq!(view.body.tags, event.tags);
            }
        }
    }
}

#[test]
fn a_segment_is_a_protobuf_message_with_its_header_first() {
    for (first, chain) in [(1, Some([0; 32])), (127, None), (128, Some([9; 32])), (u64::MAX, None)]
    {
        let (reader, _) = record(&[vec![plain("A"), plain("B")], vec![plain("C")]], 17);
        let bytes = slices(&reader);
        let mut writer = SegmentWriter::new(Position::new(first), 4096, chain.as_ref());
        writer.append(&bytes, &[]);
        let segment = writer.segment().readable(0..);
        let decoded = Segment::decode(segment).unwrap();
        let mut header = SegmentHeader {
            magic: u32::from_le_bytes(*b"ANNL"),
            format_version: 1,
            first_position: first,
            chain: chain.map(|chain| chain.to_vec()).unwrap_or_default().into(),
            checksum: 0,
        };
        header.checksum = crc32c::crc32c(&header.encode_to_vec());
        assert_eq!(decoded.header, Some(header));
        let header_only = Segment { header: decoded.header, ..Segment::default() };
        assert!(segment.starts_with(&header_only.encode_to_vec()), "it stands first");
        assert_eq!(&segment[3..7], b"ANNL", "and is read by eye");
        assert_eq!((decoded.events.len(), decoded.commits.len()), (3, 2));
        assert_sealed(&decoded.events, &decoded.commits);
    }
}

fn plain(event_type: &str) -> Said {
    Said {
        stream: "Payment-1".to_owned(),
        event_type: event_type.to_owned(),
        data: None,
        content_type: String::new(),
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata: Vec::new(),
        tags: Vec::new(),
        occurred_at: None,
    }
}

/// What `ReadAll` sends is the log with its seals: a client can check what the disk has.
#[tokio::test]
async fn a_client_that_reads_everything_can_check_every_commit() {
    let store = TestStore::start().await;
    let mut dice = Dice::new(8);
    let mut commits = Vec::new();
    for _ in 0..500 {
        let count = 1 + dice.below(5);
        let events = (0..count).map(|_| model::random_event(&mut dice)).collect::<Vec<_>>();
        store.append(&model::random_stream(&mut dice), ANY, events).await.unwrap();
        commits.push(u32::try_from(count).unwrap());
    }
    let mut raw = Raw::connect(store.address).await;
    let request = ReadAllRequest::default().encode_to_vec();
    let answer = raw.call("QueryService/ReadAll", &[], &request).await;
    assert!(answer.status.is_none());
    assert!(answer.messages.len() > 1, "several blocks");
    let bytes: Vec<u8> = answer.messages.iter().flat_map(|(_, message)| message.to_vec()).collect();
    let log = Segment::decode(&bytes[..]).unwrap();
    let sizes: Vec<_> = log.commits.iter().map(|seal| seal.event_count).collect();
    assert_eq!(sizes, commits);
    assert_sealed(&log.events, &log.commits);
    assert_eq!(log.events, store.read_all().await);
}
