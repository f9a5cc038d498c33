//! Any bytes as an event of the log: read, or refused; and what is read is what prost reads.
#![no_main]

use annals::{core::log::format::EventView, wire::proto::v1::RecordedEvent};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    let Ok(view) = EventView::parse(bytes) else { return };
    // prost is stricter where a field has the wrong wire type; where both read, they agree.
    let Ok(event) = RecordedEvent::decode(bytes) else { return };
    assert_eq!(view.stamp.position.get(), event.position);
    assert_eq!(view.stamp.version.get(), event.version);
    assert_eq!(view.body.stream, event.stream);
    assert_eq!(view.body.event_type, event.r#type);
    assert_eq!(view.body.correlation_id, event.correlation_id);
    assert_eq!(view.body.tags, event.tags);
});
