//! Reading without decoding: a codec that hands received messages over as they are, and a message that only
//! counts the events in it.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, skip_field},
};
use tonic::{
    Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// Encodes `T`, decodes nothing.
pub struct Raw<T>(PhantomData<T>);

impl<T> Default for Raw<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + 'static> Codec for Raw<T> {
    type Encode = T;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<T: Message> Encoder for Raw<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buf).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<T> Decoder for Raw<T> {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        // A slice of what was received: nothing is copied.
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }
}

/// A server stream whose messages are not decoded.
pub async fn raw<T: Message + 'static>(
    channel: &Channel,
    path: &'static str,
    request: T,
) -> Result<Streaming<Bytes>, Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = client.server_streaming(tonic::Request::new(request), path, Raw::default());
    Ok(answer.await?.into_inner())
}

/// A batch of events, decoded no further than to their number.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counted {
    /// How many events it has.
    pub events: u64,
}

impl Message for Counted {
    fn encode_raw(&self, _: &mut impl BufMut) {
        unreachable!("it is only received")
    }

    fn encoded_len(&self) -> usize {
        unreachable!("it is only received")
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.events += u64::from(tag == 1);
        skip_field(wire_type, tag, buf, ctx)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{block::EventBlock, proto::v1::RecordedEvent};

    #[test]
    fn events_are_counted_without_being_decoded() {
        let event = |position| RecordedEvent { position, ..RecordedEvent::default() };
        let events = (1..=3).map(event).collect();
        let encoded = EventBlock { events, ..EventBlock::default() }.encode_to_vec();
        assert_eq!(Counted::decode(&encoded[..]), Ok(Counted { events: 3 }));
    }
}
