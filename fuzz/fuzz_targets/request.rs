//! Any bytes as a request: refused with a reason, or a proposal that the sequencer decides; the log is
//! then whole. Or as filters: refused, or they pick the same forwards and backwards, in pieces or at once.
#![no_main]

use std::sync::{Arc, LazyLock};

use annals::{
    core::{
        append::{Proposal, Write},
        clock::{ManualClock, Timestamp},
        commit_log::memory::Memory,
        event::NewEvent,
        filter::{
            Filter,
            plan::{self, Cursor, Direction, Step},
        },
        history::History,
        limits::Limits,
        log::{
            LogWriter,
            format::{Body, Data},
        },
        name::Name,
        position::Position,
        sequencer::Sequencer,
        store::Store,
    },
    service::group::journal::Created,
    wire::{
        append::{self, AppendRequest, AppendStreamRequest, CommitRequest},
        consume, filter, group,
        proto::v1::{
            ConsumeRequest, CountRequest, CreateGroupRequest, SettleRequest, SubscribeRequest,
            UpdateGroupRequest,
        },
        read_model, status, subscribing,
    },
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;

/// The first byte says which request it is.
fn proposal(
    kind: u8,
    bytes: &[u8],
) -> Result<Option<annals::core::append::Proposal>, prost::DecodeError> {
    let limits = Limits::default();
    if kind == u8::MAX {
        read_model::check_requests(bytes);
        return Ok(None);
    }
    Ok(match kind % 8 {
        0 => {
            let bytes = Bytes::copy_from_slice(bytes);
            let _ = AppendStreamRequest::decode(bytes.clone());
            append::proposal(AppendRequest::decode(bytes)?, &limits).ok()
        }
        1 => append::commit_proposal(CommitRequest::decode(bytes)?, &limits).ok(),
        2 => {
            let _ = subscribing::subscribe(SubscribeRequest::decode(bytes)?, &limits);
            None
        }
        3 => {
            // What a group is made of is written down, and read at the next start.
            let made = group::created(CreateGroupRequest::decode(bytes)?, &limits);
            if let Ok((_, begin, filter, settings)) = made {
                let created = Created { begin, after: 0, filter, settings };
                let written = serde_json::to_string(&created).expect("it is JSON");
                assert_eq!(serde_json::from_str::<Created>(&written).expect("ours"), created);
            }
            None
        }
        4 => {
            let _ = group::updated(UpdateGroupRequest::decode(bytes)?, &limits);
            None
        }
        5 => {
            let _ = group::settle(SettleRequest::decode(bytes)?);
            None
        }
        6 => {
            let _ = consume::settlement(ConsumeRequest::decode(bytes)?);
            None
        }
        _ => {
            let filters = CountRequest::decode(bytes)?.filters;
            filter::filter(filters, &limits).ok().inspect(look);
            None
        }
    })
}

/// Events of few names, so that a filter finds some.
static HISTORY: LazyLock<Store> = LazyLock::new(|| {
    let name = |text: &str| Name::new(text, 100).expect("a name");
    let log = LogWriter::with_segment_size(4096);
    let sequencer = Sequencer::new(log, Box::new(Memory)).with_metadata_keys(vec![name("k")]);
    let store = Store::new(sequencer, Arc::new(ManualClock::default()), 4);
    for number in 0..60u32 {
        let one_of = |texts: [&'static str; 3]| texts[number as usize % 3];
        let text = format!("{{\"a\":{number},\"b\":[\"{}\"]}}", one_of(["a", "B", "ä"]));
        let body = Body {
            data: Data::Text(&text),
            correlation_id: one_of(["a", "b", ""]),
            causation_id: one_of(["", "a", "b"]),
            metadata: vec![("j", one_of(["", "a", "b"])), ("k", one_of(["a", "", "b"]))],
            ..Body::default()
        };
        let stream = name(one_of(["a-1", "a-2", "b"]));
        let id = uuid::Uuid::from_u128(number.into());
        let (event_type, tags) = (name(one_of(["A", "B", "C"])), vec![name(one_of(["a", "b", "c"]))]);
        let occurred = Timestamp::new(i64::from(number / 10), i64::from(number));
        let event = NewEvent::new(id, &stream, &event_type, &tags, occurred, body);
        let write = Write { stream, events: event.into(), expected: None };
        let (_, leads) = store
            .submit(Proposal { writes: [write].into(), ..Proposal::default() })
            .expect("there is room");
        assert!(leads && !store.lead(1));
    }
    store
});

fn look(filter: &Filter) {
    let history: &Arc<History> = HISTORY.history();
    let reader = history.log.reader();
    let walk = |direction, budget| {
        let mut cursor = Cursor::new(filter, history, &reader, direction);
        let (mut from, mut all) = (Position::new(1), Vec::new());
        if direction == Direction::Backwards {
            from = reader.head();
        }
        loop {
            match cursor.seek(from, &reader, &mut { budget }) {
                Step::Found(at) => {
                    all.push(at);
                    from = match direction {
                        Direction::Forwards => at.next(),
                        Direction::Backwards => at.previous(),
                    };
                }
                Step::Paused(at) => from = at,
                Step::End => return all,
            }
        }
    };
    let all = walk(Direction::Forwards, u32::MAX);
    // A step asks every value once, at most.
    assert_eq!(walk(Direction::Forwards, 1100), all);
    let mut backwards = walk(Direction::Backwards, u32::MAX);
    backwards.reverse();
    assert_eq!(backwards, all);
    let (found, _) =
        plan::matches(filter, history, &reader, Position::ZERO, usize::MAX, 3, None);
    assert!(found.iter().zip(&all).all(|(one, other)| one == other));
    for plan in plan::explain(filter, history, &reader) {
        assert!(plan.range.1 <= reader.head());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let proposal = match proposal(*kind, bytes) {
        Ok(Some(proposal)) => proposal,
        Ok(None) => return,
        Err(error) => {
            let _ = status::undecodable(&error);
            return;
        }
    };
    let log = LogWriter::with_segment_size(4096);
    let sequencer = Sequencer::new(log, Box::new(Memory));
    let store = Store::new(sequencer, Arc::new(ManualClock::default()), 4);
    // The second time it is a repeat, or it is refused or checked again.
    for _ in 0..2 {
        let (mut answer, leads) = store.submit(proposal.clone()).expect("there is room");
        assert!(leads && !store.lead(1));
        let _ = answer.try_recv().expect("it was decided");
    }
    let reader = store.history().log.reader();
    for position in 1..=reader.head().get() {
        let record = reader.record(Position::new(position)).expect("positions are dense");
        let event = record.event();
        assert_eq!(event.stamp.position.get(), position);
    }
});
