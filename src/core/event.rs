//! An event on its way in: valid once it exists, and encoded but for what the sequencer gives it.

use bytes::Bytes;
use uuid::Uuid;

use super::{
    clock::Timestamp,
    log::format::{Body, STAMP_SIZE_BYTES_MAX},
    name::Name,
};

/// An event to append. It belongs to one stream, whose name is part of its encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    id: Uuid,
    occurred_at: Option<Timestamp>,
    /// [`Body::put`]'s, done by the caller's thread: the sequencer copies it behind its stamp.
    body: Bytes,
}

impl NewEvent {
    /// An event of `stream`. The texts of `body` are taken as they are: the edge has checked them.
    pub fn new(
        id: Uuid,
        stream: &Name,
        event_type: &Name,
        tags: &[Name],
        occurred_at: Option<Timestamp>,
        body: Body<'_>,
    ) -> Self {
        let tags = tags.iter().map(Name::as_str).collect();
        let (stream, event_type) = (stream.as_str(), event_type.as_str());
        let body = Body { stream, event_type, tags, ..body };
        Self::encoded(id, occurred_at, body.encode().into())
    }

    /// An event whose `body` [`Body::put`] has made, perhaps in one piece with those of others.
    pub fn encoded(id: Uuid, occurred_at: Option<Timestamp>, body: Bytes) -> Self {
        Self { id, occurred_at, body }
    }

    pub fn id(&self) -> &Uuid {
        &self.id
    }

    pub fn occurred_at(&self) -> Option<Timestamp> {
        self.occurred_at
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// How many bytes its record can take, at most.
    pub fn size_max(&self) -> usize {
        self.body.len() + STAMP_SIZE_BYTES_MAX
    }
}
