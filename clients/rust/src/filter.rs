//! Which events: the fields are joined by and, the values of one field by or, filters of a list by or.

use std::ops::Range;

use chrono::{DateTime, Utc};

use crate::{event::timestamp, proto};

/// Which events. One that names nothing is refused by the server: no filter at all means every event.
///
/// ```
/// use annals_client::Filter;
///
/// let failed = Filter::new().category("Payment").types(["PaymentFailed"]);
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter(pub(crate) proto::Filter);

impl Filter {
    /// Names nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Or of this stream.
    #[must_use]
    pub fn stream(mut self, stream: impl Into<String>) -> Self {
        self.0.streams.push(stream.into());
        self
    }

    /// Or of the streams whose names begin so.
    #[must_use]
    pub fn stream_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.0.stream_prefixes.push(prefix.into());
        self
    }

    /// Or of the streams of this category.
    #[must_use]
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.0.categories.push(category.into());
        self
    }

    /// Or of these types.
    #[must_use]
    pub fn types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.0.types.extend(types.into_iter().map(Into::into));
        self
    }

    /// Or with this tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.0.tags.push(tag.into());
        self
    }

    /// Or with this correlation id.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.0.correlation_ids.push(id.into());
        self
    }

    /// Or with this causation id.
    #[must_use]
    pub fn causation_id(mut self, id: impl Into<String>) -> Self {
        self.0.causation_ids.push(id.into());
        self
    }

    /// And with this metadata entry.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.metadata.push(proto::MetadataMatch { key: key.into(), values: vec![value.into()] });
        self
    }

    /// And happened in this time: from its start, before its end.
    #[must_use]
    pub fn occurred(mut self, time: Range<DateTime<Utc>>) -> Self {
        self.0.occurred = Some(time_range(time));
        self
    }

    /// And recorded in this time: from its start, before its end.
    #[must_use]
    pub fn recorded(mut self, time: Range<DateTime<Utc>>) -> Self {
        self.0.recorded = Some(time_range(time));
        self
    }

    /// And with this text in its data, or another one that is named so.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.0.texts.push(text.into());
        self
    }
}

/// For what has no method here, such as JSON paths.
impl From<proto::Filter> for Filter {
    fn from(filter: proto::Filter) -> Self {
        Self(filter)
    }
}

fn time_range(time: Range<DateTime<Utc>>) -> proto::TimeRange {
    proto::TimeRange { from: Some(timestamp(time.start)), to: Some(timestamp(time.end)) }
}
