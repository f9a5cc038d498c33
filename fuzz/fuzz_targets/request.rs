//! Any bytes as a request: refused with a reason, or a proposal that the sequencer decides; the log is
//! then whole.
#![no_main]

use std::sync::Arc;

use annals::{
    core::{
        clock::ManualClock, commit_log::memory::Memory, limits::Limits, log::LogWriter,
        position::Position, sequencer::Sequencer, store::Store,
    },
    wire::{
        convert,
        proto::v1::{AppendRequest, CommitRequest, SubscribeRequest},
        status,
    },
};
use libfuzzer_sys::fuzz_target;
use prost::Message;

/// The first byte says which request it is.
fn proposal(
    kind: u8,
    bytes: &[u8],
) -> Result<Option<annals::core::append::Proposal>, prost::DecodeError> {
    let limits = Limits::default();
    Ok(match kind % 3 {
        0 => convert::append(AppendRequest::decode(bytes)?, &limits).ok(),
        1 => convert::commit(CommitRequest::decode(bytes)?, &limits).ok(),
        _ => {
            let _ = convert::subscribe(SubscribeRequest::decode(bytes)?, &limits);
            None
        }
    })
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
