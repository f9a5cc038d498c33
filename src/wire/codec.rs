//! The protobuf codec of every call: prost, with errors that tell the client which field is wrong.
//!
//! tonic's own codec answers INTERNAL to a message that does not decode; it is the client's fault.

use std::marker::PhantomData;

use prost::{DecodeError, Message};
use tonic::{
    Status,
    codec::{DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// A message as it comes.
pub trait Incoming: Sized {
    /// The message that `buf` has, all of it.
    fn receive(buf: &mut DecodeBuf<'_>) -> Result<Self, DecodeError>;
}

impl<M: Message + Default> Incoming for M {
    fn receive(buf: &mut DecodeBuf<'_>) -> Result<Self, DecodeError> {
        M::decode(buf)
    }
}

/// Encodes `T`, decodes `U`.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Incoming + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<T: Message, U> Encoder for Codec<T, U> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(item.encoded_len());
        item.encode_raw(buf);
        Ok(())
    }
}

impl<T, U: Incoming> Decoder for Codec<T, U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::receive(buf).map(Some).map_err(|error| super::status::undecodable(&error))
    }
}
