//! Events as they lie in the log, in a message's place: the log is the wire.
//!
//! build.rs puts [`EventBlock`] where the generated `EventBatch`, `ReadStreamResponse` and
//! `ReadAllResponse` would be. Those three have the same first fields, with the same numbers as a
//! segment, so that a slice of a segment is their encoding. The server fills `encoded` and never builds
//! an event; a client decodes into `events`.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, message, skip_field},
};

use super::proto::v1::RecordedEvent;

const EVENTS: u32 = 1;

/// Events on their way out (`encoded`, a run of whole records) or come in (`events`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventBlock {
    /// Whole records, maybe with seals between them, in the order in which they are to be read.
    pub encoded: Bytes,
    /// The same, decoded; a decoded block has nothing in `encoded`.
    pub events: Vec<RecordedEvent>,
}

impl EventBlock {
    /// A block that is sent as it is.
    pub fn from_encoded(encoded: Bytes) -> Self {
        Self { encoded, events: Vec::new() }
    }
}

impl Message for EventBlock {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.encoded);
        message::encode_repeated(EVENTS, &self.events, buf);
    }

    fn encoded_len(&self) -> usize {
        self.encoded.len() + message::encoded_len_repeated(EVENTS, &self.events)
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            EVENTS => message::merge_repeated(wire_type, &mut self.events, buf, ctx),
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}
