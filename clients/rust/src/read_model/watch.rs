//! Watches: what is found, and then what changes of it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use tonic::Streaming;

use super::{Document, Find, ReadModel};
use crate::{
    Result,
    client::{Backoff, Retry},
    proto::{self, watch_response},
    subscribe::ended_without_error,
};

impl ReadModel {
    /// Watches what matches (without order and pages): first all of it, then what changes, over broken connections too.
    pub async fn watch<T: DeserializeOwned>(&self, find: Find) -> Result<Watch<T>> {
        let mut watch = Watch {
            model: self.clone(),
            request: proto::WatchRequest {
                model: self.model.clone(),
                version: self.version,
                matches: find.matches,
                min_position: self.min_position,
                heartbeat_interval: Duration::from_secs(10).try_into().ok(),
            },
            messages: None,
            backoff: Backoff::new(&Retry::for_ever()),
            began: false,
            marker: std::marker::PhantomData,
        };
        watch.connect().await?;
        Ok(watch)
    }
}

/// What a watch tells.
///
/// ```
/// # use annals_client::{NewEvent, read_model::ModelWrites, testing::TestStore}; use serde_json::{Value, json};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await; let client = store.client();
/// # let event = client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
/// # let payments = client.read_model("payments"); payments.create(&[&["amount"]]).await?;
/// # let writes = ModelWrites::new().upsert("a", &json!({"amount": 250}))?;
/// # payments.apply(0, event.position, writes).await?;
/// use annals_client::read_model::{Change, Find};
///
/// let mut watch = payments.watch::<Value>(Find::new()).await?;
/// let mut documents = std::collections::BTreeMap::new();
/// 'watch: loop {
///     for change in watch.next().await? {
///         match change {
///             Change::Upserted(document) => drop(documents.insert(document.key, document.value)),
///             Change::Removed(key) => drop(documents.remove(&key)),
///             Change::Reset => documents.clear(),
///             Change::CaughtUp(_) => break 'watch,
///         }
///     }
/// }
/// assert_eq!(documents["a"]["amount"], 250);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// A document matches: a new one, or one that has changed.
    Upserted(Document<T>),
    /// The document under this key matches no more.
    Removed(String),
    /// All that had happened up to this checkpoint has been told.
    CaughtUp(u64),
    /// Forget all documents: the result comes again.
    Reset,
}

/// A watch that stands. It connects again by itself; then the result comes again, after a [`Change::Reset`].
///
/// ```
/// # use annals_client::{NewEvent, read_model::ModelWrites, testing::TestStore}; use serde_json::{Value, json};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await; let client = store.client();
/// # let event = client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
/// # let payments = client.read_model("payments"); payments.create(&[&["amount"]]).await?;
/// # let writes = ModelWrites::new().upsert("a", &json!({"amount": 250}))?;
/// # let writes = writes.upsert("b", &json!({"amount": 1250}))?;
/// # payments.apply(0, event.position, writes).await?;
/// use annals_client::read_model::{Change, Find};
///
/// let mut watch = payments.watch::<Value>(Find::new().at_least("amount", 300)).await?;
/// let changes = watch.next().await?;
/// assert!(matches!(&changes[0], Change::Upserted(document) if document.key == "b"));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Watch<T> {
    model: ReadModel,
    request: proto::WatchRequest,
    messages: Option<Streaming<proto::WatchResponse>>,
    backoff: Backoff,
    began: bool,
    marker: std::marker::PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Watch<T> {
    /// The next changes, at least one. It waits as long as it takes.
    pub async fn next(&mut self) -> Result<Vec<Change<T>>> {
        loop {
            let Some(messages) = &mut self.messages else {
                self.connect().await?;
                if std::mem::replace(&mut self.began, true) {
                    return Ok(vec![Change::Reset]);
                }
                continue;
            };
            self.began = true;
            let message = match messages.message().await {
                Ok(Some(message)) => message.message,
                ended => {
                    self.messages = None;
                    self.backoff
                        .wait_after(
                            ended.err().unwrap_or_else(ended_without_error).into(),
                            "the watch",
                        )
                        .await?;
                    continue;
                }
            };
            self.backoff.reset();
            match message {
                Some(watch_response::Message::Changes(changes)) => {
                    let upserts = changes.upserts.into_iter();
                    let mut told = upserts
                        .map(|document| Document::from_proto(document).map(Change::Upserted))
                        .collect::<Result<Vec<_>>>()?;
                    told.extend(changes.removed_keys.into_iter().map(Change::Removed));
                    return Ok(told);
                }
                Some(watch_response::Message::CaughtUp(at)) => {
                    return Ok(vec![Change::CaughtUp(at.checkpoint)]);
                }
                Some(watch_response::Message::Reset(_)) => return Ok(vec![Change::Reset]),
                // None: a message that this client does not know.
                Some(watch_response::Message::Heartbeat(_)) | None => {}
            }
        }
    }

    async fn connect(&mut self) -> Result<()> {
        loop {
            let request = self.request.clone();
            match self.model.client.read_models().watch(request).await {
                Ok(answer) => {
                    self.messages = Some(answer.into_inner());
                    return Ok(());
                }
                Err(status) => self.backoff.wait_after(status.into(), "the watch").await?,
            }
        }
    }
}
