//! Events: those to append, and those that the log has.
//!
//! A set of events is an enum that serde tags with the type beside the data, so that one variant is one event
//! type:
//!
//! ```
//! use annals_client::NewEvent;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! #[serde(tag = "type", content = "data")]
//! enum PaymentEvent {
//!     PaymentProcessed { amount: u64 },
//! }
//!
//! let event = NewEvent::of(&PaymentEvent::PaymentProcessed { amount: 5 }).unwrap();
//! assert_eq!(event.event_type, "PaymentProcessed");
//! ```

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{Appended, Error, Result, proto};

/// What an event says.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::Data;
///
/// let receipt = NewEvent {
///     data: Data::Binary(vec![0x25, 0x50, 0x44, 0x46].into()),
///     content_type: Some("application/pdf".to_owned()),
///     ..NewEvent::new("ReceiptSent")
/// };
/// client.append("Payment-1", 0, [receipt]).await?;
/// let event = client.event_at(1).await?.unwrap();
/// assert_eq!(event.content_type, "application/pdf");
/// assert!(matches!(event.data, Data::Binary(bytes) if bytes.starts_with(b"%PDF")));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Data {
    /// Nothing but its type.
    #[default]
    None,
    /// Text: JSON, XML, `text/*`.
    Text(String),
    /// Bytes of any other content type.
    Binary(Bytes),
}

impl Data {
    /// What it is where nothing is said.
    fn media_type(&self) -> &'static str {
        match self {
            Self::None | Self::Text(_) => "application/json",
            Self::Binary(_) => "application/octet-stream",
        }
    }
}

/// An event to append. Its id is made here, so that a repeat of the append is known as one.
///
/// ```
/// use annals_client::NewEvent;
///
/// let event = NewEvent::new("PaymentProcessed")
///     .correlation_id("order-7")
///     .causation_id("command-3")
///     .metadata("userId", "ann")
///     .tag("eur")
///     .occurred_at("2024-03-01T10:00:00Z".parse().unwrap());
/// assert_eq!(event.metadata["userId"], "ann");
/// assert_ne!(event.id, NewEvent::new("PaymentProcessed").id);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Unique in the whole store.
    pub id: Uuid,
    /// What happened: `PaymentProcessed`.
    pub event_type: String,
    /// What it says.
    pub data: Data,
    /// The data's media type. `None`: JSON for text, `application/octet-stream` for binary data.
    pub content_type: Option<String>,
    /// What it belongs to, over all streams.
    pub correlation_id: Option<String>,
    /// What made it happen: the id of an event or a command.
    pub causation_id: Option<String>,
    /// Facts about it that are not part of what it says.
    pub metadata: BTreeMap<String, String>,
    /// What it is about besides its stream.
    pub tags: Vec<String>,
    /// When it happened. `None`: when the server records it.
    pub occurred_at: Option<DateTime<Utc>>,
}

impl NewEvent {
    /// An event without data.
    pub fn new(event_type: impl Into<String>) -> Self {
        Self {
            id: Uuid::now_v7(),
            event_type: event_type.into(),
            data: Data::None,
            content_type: None,
            correlation_id: None,
            causation_id: None,
            metadata: BTreeMap::new(),
            tags: Vec::new(),
            occurred_at: None,
        }
    }

    /// An event whose data is `data` as JSON.
    ///
    /// ```
    /// # fn main() -> annals_client::Result<()> {
    /// use annals_client::{Data, NewEvent};
    ///
    /// let event = NewEvent::json("Measured", &[20.5, 21.0])?;
    /// assert_eq!(event.data, Data::Text("[20.5,21.0]".to_owned()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn json(event_type: impl Into<String>, data: &(impl Serialize + ?Sized)) -> Result<Self> {
        let event_type = event_type.into();
        let text = serde_json::to_string(data).map_err(|error| Error::Encode {
            what: format!("the data of {event_type}"),
            reason: error.to_string(),
        })?;
        Ok(Self { data: Data::Text(text), ..Self::new(event_type) })
    }

    /// One of a set of events: an enum with `#[serde(tag = "type", content = "data")]`.
    ///
    /// ```
    /// # fn main() -> annals_client::Result<()> {
    /// use annals_client::{Data, NewEvent};
    /// use serde::Serialize;
    ///
    /// #[derive(Serialize)]
    /// #[serde(tag = "type", content = "data")]
    /// enum UserEvent {
    ///     UserRegistered { name: String },
    ///     UserLeft,
    /// }
    ///
    /// let event = NewEvent::of(&UserEvent::UserRegistered { name: "ann".into() })?;
    /// assert_eq!(event.data, Data::Text(r#"{"name":"ann"}"#.to_owned()));
    /// assert_eq!(NewEvent::of(&UserEvent::UserLeft)?.data, Data::None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn of(event: &(impl Serialize + ?Sized)) -> Result<Self> {
        let fault = |reason: String| Error::Encode { what: "an event".to_owned(), reason };
        let text = serde_json::to_string(event).map_err(|error| fault(error.to_string()))?;
        let tagged: Tagged<'_> = serde_json::from_str(&text).map_err(|error| {
            fault(format!(
                "it must be an enum with `#[serde(tag = \"type\", content = \"data\")]` ({error})"
            ))
        })?;
        let mut new = Self::new(tagged.event_type);
        new.data = tagged.data.map_or(Data::None, |data| Data::Text(data.get().to_owned()));
        Ok(new)
    }

    /// With this id.
    #[must_use]
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = id;
        self
    }

    /// Belonging to this.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Made by this event or command.
    #[must_use]
    pub fn causation_id(mut self, id: impl Into<String>) -> Self {
        self.causation_id = Some(id.into());
        self
    }

    /// With one more metadata entry.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// With one more tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Happened at this moment.
    #[must_use]
    pub fn occurred_at(mut self, at: DateTime<Utc>) -> Self {
        self.occurred_at = Some(at);
        self
    }

    pub(crate) fn into_proto(self) -> proto::NewEvent {
        proto::NewEvent {
            id: self.id.to_string(),
            r#type: self.event_type,
            content_type: self.content_type.unwrap_or_default(),
            correlation_id: self.correlation_id.unwrap_or_default(),
            causation_id: self.causation_id.unwrap_or_default(),
            metadata: self.metadata,
            tags: self.tags,
            occurred_at: self.occurred_at.map(timestamp),
            data: match self.data {
                Data::None => None,
                Data::Text(text) => Some(proto::new_event::Data::Text(text)),
                Data::Binary(bytes) => Some(proto::new_event::Data::Binary(bytes)),
            },
        }
    }
}

/// An enum as serde writes it with `tag = "type", content = "data"`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tagged<'a> {
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

/// An event of the log: immutable, with its place in its stream and in the log.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// let processed = NewEvent::json("PaymentProcessed", &1250)?.tag("eur");
/// client.append("Payment-1", 0, [NewEvent::new("PaymentRequested"), processed]).await?;
///
/// let event = client.read_stream("Payment-1").backwards().limit(1).collect().await?.remove(0);
/// assert_eq!((event.position, event.version), (2, 2));
/// assert_eq!((event.category(), event.event_type.as_str()), ("Payment", "PaymentProcessed"));
/// assert_eq!(event.json::<u64>()?, 1250);
/// assert_eq!(event.tags, ["eur"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Unique in the whole store.
    pub id: Uuid,
    /// Its place in the log, from 1.
    pub position: u64,
    /// Its place in its stream, from 1.
    pub version: u64,
    /// When the server took it.
    pub recorded_at: DateTime<Utc>,
    /// When it happened, as its client says.
    pub occurred_at: DateTime<Utc>,
    /// Its stream: `Category-id`.
    pub stream: String,
    /// What happened.
    pub event_type: String,
    /// What it says.
    pub data: Data,
    /// The data's media type.
    pub content_type: String,
    /// What it belongs to, over all streams.
    pub correlation_id: Option<String>,
    /// What made it happen.
    pub causation_id: Option<String>,
    /// Facts about it.
    pub metadata: BTreeMap<String, String>,
    /// What it is about besides its stream.
    pub tags: Vec<String>,
}

impl Event {
    /// The stream's category: its name before the first `-`.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Payment-eu-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
    /// let event = client.event_at(1).await?.unwrap();
    /// assert_eq!((event.stream.as_str(), event.category()), ("Payment-eu-1", "Payment"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn category(&self) -> &str {
        self.stream.split('-').next().unwrap_or_default()
    }

    /// The data, which is JSON, as a value of its own.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Sensor-1", 0, [NewEvent::json("Measured", &20.5)?]).await?;
    /// let event = client.event_at(1).await?.unwrap();
    /// assert_eq!(event.json::<f64>()?, 20.5);
    /// assert!(event.json::<String>().is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.text()?).map_err(|error| self.undecodable(&error))
    }

    /// The event as one of a set of events: an enum with `#[serde(tag = "type", content = "data")]`. A type that
    /// the enum does not have is [`Error::Decode`].
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # use serde::Deserialize;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Sensor-1", 0, [NewEvent::json("Measured", &20.5)?]).await?;
    /// #[derive(Deserialize)]
    /// #[serde(tag = "type", content = "data")]
    /// enum SensorEvent {
    ///     Measured(f64),
    /// }
    ///
    /// let event = client.event_at(1).await?.unwrap();
    /// let SensorEvent::Measured(degrees) = event.decode()?;
    /// assert_eq!(degrees, 20.5);
    /// # Ok(())
    /// # }
    /// ```
    pub fn decode<E: DeserializeOwned>(&self) -> Result<E> {
        let data: Option<&RawValue> = match &self.data {
            Data::None => None,
            _ => {
                Some(serde_json::from_str(self.text()?).map_err(|error| self.undecodable(&error))?)
            }
        };
        let tagged = Tagged { event_type: Cow::Borrowed(&self.event_type), data };
        let text = serde_json::to_string(&tagged).map_err(|error| self.undecodable(&error))?;
        serde_json::from_str(&text).map_err(|error| self.undecodable(&error))
    }

    /// What the log has of events that were appended just now, adjacent in it.
    pub(crate) fn of_append(stream: &str, events: Vec<NewEvent>, appended: &Appended) -> Vec<Self> {
        let count = events.len() as u64;
        let recorded_at = appended.recorded_at.unwrap_or_default();
        let events = events.into_iter().zip(1..);
        let events = events.map(|(event, number)| Self {
            id: event.id,
            position: appended.position + number - count,
            version: appended.version + number - count,
            recorded_at,
            occurred_at: event.occurred_at.unwrap_or(recorded_at),
            stream: stream.to_owned(),
            event_type: event.event_type,
            content_type: event.content_type.unwrap_or_else(|| event.data.media_type().to_owned()),
            data: event.data,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            metadata: event.metadata,
            tags: event.tags,
        });
        events.collect()
    }

    fn text(&self) -> Result<&str> {
        match &self.data {
            Data::Text(text) => Ok(text),
            Data::None => Ok("null"),
            Data::Binary(_) => Err(self.undecodable(&"its data is binary")),
        }
    }

    fn undecodable(&self, reason: &dyn ToString) -> Error {
        let Self { event_type, position, stream, .. } = self;
        Error::Decode {
            what: format!("the {event_type} at position {position} of {stream}"),
            reason: reason.to_string(),
        }
    }

    /// Every field of what the server sent; what it never leaves out is an error where it is absent.
    pub(crate) fn from_proto(event: proto::RecordedEvent) -> Result<Self> {
        let position = event.position;
        let absent = |field: &str| Error::Decode {
            what: format!("the event at position {position}"),
            reason: format!("{field} is not what the protocol says"),
        };
        let some = |text: String| (!text.is_empty()).then_some(text);
        let data = match event.data {
            None => Data::None,
            Some(proto::recorded_event::Data::Text(text)) => Data::Text(text),
            Some(proto::recorded_event::Data::Binary(bytes)) => Data::Binary(bytes),
        };
        let content_type = some(event.content_type).unwrap_or_else(|| data.media_type().to_owned());
        Ok(Self {
            id: event.id.parse().map_err(|_| absent("id"))?,
            position,
            version: event.version,
            recorded_at: event.recorded_at.and_then(moment).ok_or_else(|| absent("recorded_at"))?,
            occurred_at: event.occurred_at.and_then(moment).ok_or_else(|| absent("occurred_at"))?,
            stream: event.stream,
            event_type: event.r#type,
            data,
            content_type,
            correlation_id: some(event.correlation_id),
            causation_id: some(event.causation_id),
            metadata: event.metadata,
            tags: event.tags,
        })
    }
}

pub(crate) fn timestamp(at: DateTime<Utc>) -> prost_types::Timestamp {
    // A leap second has more nanoseconds than a second; protobuf has none.
    let nanos = i32::try_from(at.timestamp_subsec_nanos().min(999_999_999)).expect("below 10^9");
    prost_types::Timestamp { seconds: at.timestamp(), nanos }
}

pub(crate) fn moment(at: prost_types::Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)
}
