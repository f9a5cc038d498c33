//! Single events, and what is known of streams, categories and event types.

use uuid::Uuid;

use crate::{
    Client, Error, Event, Result,
    proto::{
        self, CategoryInfo, EventTypeInfo, GetEventRequest, StreamInfo, get_event_request::Key,
    },
};

/// The most that the server gives on one page.
const PAGE_SIZE: u32 = 1000;

impl Client {
    /// The event with this id; `None`: there is none, or it is hidden.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// let processed = NewEvent::new("PaymentProcessed");
    /// let id = processed.id;
    /// client.append("Payment-1", 0, [processed]).await?;
    /// assert_eq!(client.event_by_id(id).await?.unwrap().event_type, "PaymentProcessed");
    /// assert_eq!(client.event_by_id(NewEvent::new("Another").id).await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn event_by_id(&self, id: Uuid) -> Result<Option<Event>> {
        self.event(Key::Id(id.to_string())).await
    }

    /// The event at this position, from 1; `None`: there is none, or it is hidden.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
    /// # client.append("Order-1", 0, [NewEvent::new("OrderPlaced")]).await?;
    /// assert_eq!(client.event_at(1).await?.unwrap().event_type, "PaymentProcessed");
    /// assert_eq!(client.event_at(9).await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn event_at(&self, position: u64) -> Result<Option<Event>> {
        self.event(Key::Position(position)).await
    }

    async fn event(&self, key: Key) -> Result<Option<Event>> {
        let request = GetEventRequest { key: Some(key), min_position: 0 };
        let answer =
            self.call(request, |client, request| async move {
                client.queries().get_event(request).await
            })
            .await;
        match answer {
            Ok(answer) => answer.event.map(Event::from_proto).transpose(),
            Err(error) if error.reason() == "UNKNOWN_EVENT" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is known of a stream.
    ///
    /// An unknown stream is [`Error::Server`] with the reason `UNKNOWN_STREAM`, a deleted one with `STREAM_DELETED` or
    /// `STREAM_TOMBSTONED`.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
    /// # client.append("Order-1", 0, [NewEvent::new("OrderPlaced")]).await?;
    /// let payment = client.stream_info("Payment-1").await?;
    /// assert_eq!((payment.category.as_str(), payment.version), ("Payment", 1));
    /// assert!(client.stream_info("Payment-9").await.unwrap_err().is_not_found());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stream_info(&self, stream: impl Into<String>) -> Result<StreamInfo> {
        let stream = stream.into();
        let absent = Error::Decode {
            what: format!("what is known of {stream}"),
            reason: "it is not there".to_owned(),
        };
        let request = proto::GetStreamRequest { stream, min_position: 0 };
        let answer =
            self.call(request, |client, request| async move {
                client.queries().get_stream(request).await
            })
            .await?;
        answer.stream.ok_or(absent)
    }

    /// The streams whose names begin so, in the order of their names' bytes, without those that are deleted; all
    /// pages at once.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
    /// # client.append("Order-1", 0, [NewEvent::new("OrderPlaced")]).await?;
    /// let all = client.list_streams("").await?;
    /// assert_eq!((all[0].name.as_str(), all[1].name.as_str()), ("Order-1", "Payment-1"));
    /// assert_eq!(client.list_streams("Pay").await?.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_streams(&self, prefix: impl Into<String>) -> Result<Vec<StreamInfo>> {
        let prefix = prefix.into();
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = proto::ListStreamsRequest {
                prefix: prefix.clone(),
                page_size: PAGE_SIZE,
                page_token,
                min_position: 0,
            };
            let page = self
                .call(request, |client, request| async move {
                    client.queries().list_streams(request).await
                })
                .await?;
            all.extend(page.streams);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// The categories that have events, in the order of their names' bytes; all pages at once.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
    /// # client.append("Order-1", 0, [NewEvent::new("OrderPlaced")]).await?;
    /// let categories = client.list_categories().await?;
    /// assert_eq!((categories[1].name.as_str(), categories[1].event_count), ("Payment", 1));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_categories(&self) -> Result<Vec<CategoryInfo>> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request =
                proto::ListCategoriesRequest { page_size: PAGE_SIZE, page_token, min_position: 0 };
            let page = self
                .call(request, |client, request| async move {
                    client.queries().list_categories(request).await
                })
                .await?;
            all.extend(page.categories);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// The event types that have events, in the order of their names' bytes; all pages at once.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
    /// # client.append("Order-1", 0, [NewEvent::new("OrderPlaced")]).await?;
    /// let types = client.list_event_types().await?;
    /// assert_eq!((types[0].name.as_str(), types[0].last_position), ("OrderPlaced", 2));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_event_types(&self) -> Result<Vec<EventTypeInfo>> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request =
                proto::ListEventTypesRequest { page_size: PAGE_SIZE, page_token, min_position: 0 };
            let page = self
                .call(request, |client, request| async move {
                    client.queries().list_event_types(request).await
                })
                .await?;
            all.extend(page.event_types);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }
}
