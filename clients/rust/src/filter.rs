//! Which events: the fields are joined by and, the values of one field by or, filters of a list by or.

use std::ops::Range;

use chrono::{DateTime, Utc};

use crate::{event::timestamp, proto};

/// Which events. One that names nothing is refused by the server: no filter at all means every event.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::Filter;
///
/// let events = [
///     NewEvent::new("PaymentRequested"),
///     NewEvent::json("PaymentFailed", &"no money")?.tag("eur").metadata("userId", "ann"),
///     NewEvent::new("PaymentFailed"),
/// ];
/// client.append("Payment-1", 0, events).await?;
///
/// let failed = Filter::new().category("Payment").types(["PaymentFailed", "PaymentRefused"]);
/// assert_eq!(client.count([failed.clone()]).await?.answer.count, 2);
/// let of_ann = failed.tag("eur").metadata("userId", "ann").text("MONEY");
/// assert_eq!(client.read_all().filter(of_ann).collect().await?[0].position, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter(pub(crate) proto::Filter);

impl Filter {
    /// Names nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// And of this stream, or another one that is named so.
    #[must_use]
    pub fn stream(mut self, stream: impl Into<String>) -> Self {
        self.0.streams.push(stream.into());
        self
    }

    /// And of a stream whose name begins so, or as another one that is given.
    #[must_use]
    pub fn stream_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.0.stream_prefixes.push(prefix.into());
        self
    }

    /// And of this category, or another one that is named.
    #[must_use]
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.0.categories.push(category.into());
        self
    }

    /// And of one of these types.
    #[must_use]
    pub fn types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.0.types.extend(types.into_iter().map(Into::into));
        self
    }

    /// And with this tag, or another one that is named.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.0.tags.push(tag.into());
        self
    }

    /// And with this correlation id, or another one that is named.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.0.correlation_ids.push(id.into());
        self
    }

    /// And with this causation id, or another one that is named.
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
    ///
    /// ```
    /// # use annals_client::{Filter, NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let at = "2024-03-05T10:00:00Z".parse().unwrap();
    /// # let events = [NewEvent::new("Measured").occurred_at(at), NewEvent::new("Measured")];
    /// # client.append("Sensor-1", 0, events).await?;
    /// let from = "2024-03-01T00:00:00Z".parse().unwrap();
    /// let to = "2024-04-01T00:00:00Z".parse().unwrap();
    /// let march = Filter::new().occurred(from..to);
    /// assert_eq!(client.count([march]).await?.answer.count, 1);
    /// # Ok(())
    /// # }
    /// ```
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
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let amounts = [250, 1250].map(|amount| serde_json::json!({ "amount": amount }));
/// # let events = amounts.map(|amount| NewEvent::json("PaymentProcessed", &amount).unwrap());
/// # client.append("Payment-1", 0, events).await?;
/// use annals_client::{Filter, proto};
///
/// let large = proto::JsonMatch {
///     path: "$.amount".to_owned(),
///     operator: proto::JsonOperator::GreaterOrEqual.into(),
///     value: Some(1000.0.into()),
/// };
/// let filter = Filter::from(proto::Filter { json: vec![large], ..Default::default() });
/// assert_eq!(client.count([filter.category("Payment")]).await?.answer.count, 1);
/// # Ok(())
/// # }
/// ```
impl From<proto::Filter> for Filter {
    fn from(filter: proto::Filter) -> Self {
        Self(filter)
    }
}

fn time_range(time: Range<DateTime<Utc>>) -> proto::TimeRange {
    proto::TimeRange { from: Some(timestamp(time.start)), to: Some(timestamp(time.end)) }
}
