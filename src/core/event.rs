//! Events on their way in: valid once they exist, and encoded but for what the sequencer gives them.

use smallvec::SmallVec;
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
    body: Vec<u8>,
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
        Self { id, occurred_at, body: body.encode() }
    }
}

/// Events to append to one stream, in their order: their bodies are in one piece, and are made and dropped as one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewEvents {
    /// Of one event without an allocation.
    heads: SmallVec<[Head; 1]>,
    bodies: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    id: Uuid,
    occurred_at: Option<Timestamp>,
    /// Where its body ends.
    end: usize,
}

/// One of [`NewEvents`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEventView<'a> {
    pub id: &'a Uuid,
    pub occurred_at: Option<Timestamp>,
    pub body: &'a [u8],
}

impl NewEventView<'_> {
    /// How many bytes its record can take, at most.
    pub fn size_max(&self) -> usize {
        self.body.len() + STAMP_SIZE_BYTES_MAX
    }
}

impl NewEvents {
    /// None yet, and room for so many with so many bytes together.
    pub fn with_capacity(events: usize, bytes: usize) -> Self {
        Self { heads: SmallVec::with_capacity(events), bodies: Vec::with_capacity(bytes) }
    }

    /// Adds an event, whose body has the name of the stream. How many bytes its record can take, at most.
    pub fn push(&mut self, id: Uuid, occurred_at: Option<Timestamp>, body: &Body<'_>) -> usize {
        let begin = self.bodies.len();
        body.put(&mut self.bodies);
        let end = self.bodies.len();
        self.heads.push(Head { id, occurred_at, end });
        end - begin + STAMP_SIZE_BYTES_MAX
    }

    pub fn len(&self) -> usize {
        self.heads.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The events in their order.
    pub fn iter(&self) -> impl Iterator<Item = NewEventView<'_>> {
        let mut rest = &self.bodies[..];
        let mut begin = 0;
        self.heads.iter().map(move |Head { id, occurred_at, end }| {
            let (body, behind) = rest.split_at(end - begin);
            (rest, begin) = (behind, *end);
            NewEventView { id, occurred_at: *occurred_at, body }
        })
    }

    /// How many bytes their records can take, at most.
    pub fn size_max(&self) -> usize {
        self.bodies.len() + self.heads.len() * STAMP_SIZE_BYTES_MAX
    }
}

impl FromIterator<NewEvent> for NewEvents {
    fn from_iter<I: IntoIterator<Item = NewEvent>>(events: I) -> Self {
        let mut all = Self::default();
        for NewEvent { id, occurred_at, body } in events {
            all.bodies.extend_from_slice(&body);
            all.heads.push(Head { id, occurred_at, end: all.bodies.len() });
        }
        all
    }
}

impl From<Vec<NewEvent>> for NewEvents {
    fn from(events: Vec<NewEvent>) -> Self {
        events.into_iter().collect()
    }
}

impl From<NewEvent> for NewEvents {
    fn from(event: NewEvent) -> Self {
        [event].into_iter().collect()
    }
}
