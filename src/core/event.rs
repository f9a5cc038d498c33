//! An event on its way in: valid once it exists, and encoded but for what the sequencer gives it.

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
    event_type: Name,
    tags: Vec<Name>,
    occurred_at: Option<Timestamp>,
    /// [`Body::encode`]'s, done by the caller's thread: the sequencer copies it behind its stamp.
    body: Vec<u8>,
}

impl NewEvent {
    /// An event of `stream`. The texts of `body` are taken as they are: the edge has checked them.
    pub fn new(
        id: Uuid,
        stream: &Name,
        event_type: Name,
        tags: Vec<Name>,
        occurred_at: Option<Timestamp>,
        body: Body<'_>,
    ) -> Self {
        let tag_texts = tags.iter().map(Name::as_str).collect();
        let body = Body {
            stream: stream.as_str(),
            event_type: event_type.as_str(),
            tags: tag_texts,
            ..body
        }
        .encode();
        Self { id, event_type, tags, occurred_at, body }
    }

    pub fn id(&self) -> &Uuid {
        &self.id
    }

    pub fn event_type(&self) -> &Name {
        &self.event_type
    }

    pub fn tags(&self) -> &[Name] {
        &self.tags
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
