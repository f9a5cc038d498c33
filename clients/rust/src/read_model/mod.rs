//! Read models on the server: JSON documents by key, with the checkpoint of the projection that writes them.
//!
//! ```
//! # use annals_client::{NewEvent, testing::TestStore};
//! # use serde::{Deserialize, Serialize};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> annals_client::Result<()> {
//! # let store = TestStore::start().await;
//! # let client = store.client();
//! use annals_client::read_model::{Find, ModelWrites};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Payment {
//!     status: String,
//! }
//!
//! let payments = client.read_model("payments");
//! payments.create(&[&["status"]]).await?;
//! # client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
//! let writes = ModelWrites::new().upsert("payment-1", &Payment { status: "processed".into() })?;
//! payments.apply(0, 1, writes).await?;
//!
//! let found = payments.find::<Payment>(Find::new().equals("status", "processed")).await?;
//! assert_eq!(found.documents[0].key, "payment-1");
//! # Ok(())
//! # }
//! ```

mod find;
mod watch;

use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Serialize, de::DeserializeOwned};

pub use find::{Find, Scalar};
pub use watch::{Change, Watch};

use crate::{
    Client, Error, Result,
    proto::{self, document_write::Write},
};

/// A read model, or one version of it: [`Client::read_model`].
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore}; use serde_json::{Value, json};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await; let client = store.client();
/// # let event = client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
/// use annals_client::read_model::{Find, ModelWrites};
///
/// let payments = client.read_model("payments");
/// payments.create(&[&["amount"]]).await?;
/// let writes = ModelWrites::new().upsert("a", &json!({"amount": 250}))?;
/// payments.apply(0, event.position, writes).await?;
///
/// let payments = payments.min_position(event.position);
/// let payment = payments.get::<Value>("a").await?.unwrap();
/// assert_eq!(payment.value["amount"], 250);
/// assert_eq!(payments.find_all(Find::new()).await?, [payment]);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ReadModel {
    client: Client,
    model: String,
    version: u32,
    min_position: u64,
}

/// What becomes of documents, all or nothing, in order.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore}; use serde_json::{Value, json};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await; let client = store.client();
/// # let event = client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
/// # let payments = client.read_model("payments"); payments.create(&[&["amount"]]).await?;
/// use annals_client::read_model::ModelWrites;
///
/// let writes = ModelWrites::new()
///     .upsert("a", &json!({"amount": 300}))?
///     .merge("a", &json!({"note": "late"}))?
///     .delete("b");
/// payments.apply(0, event.position, writes).await?;
/// let payment = payments.get::<Value>("a").await?.unwrap();
/// assert_eq!(payment.value, json!({"amount": 300, "note": "late"}));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelWrites(Vec<proto::DocumentWrite>);

/// A document.
///
/// ```
/// # use annals_client::{NewEvent, read_model::ModelWrites, testing::TestStore}; use serde::Deserialize;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await; let client = store.client();
/// # let event = client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
/// # let payments = client.read_model("payments"); payments.create(&[&["amount"]]).await?;
/// # let writes = ModelWrites::new().upsert("a", &serde_json::json!({"amount": 250}))?;
/// # payments.apply(0, event.position, writes).await?;
/// #[derive(Deserialize)]
/// struct Payment {
///     amount: u64,
/// }
///
/// let document = payments.get::<Payment>("a").await?.unwrap();
/// assert_eq!((document.key.as_str(), document.value.amount), ("a", 250));
/// assert_eq!(document.position, event.position);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<T> {
    /// Its key.
    pub key: String,
    /// What it says.
    pub value: T,
    /// The checkpoint that was written with it.
    pub position: u64,
}

/// A page of documents.
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
/// use annals_client::read_model::Find;
///
/// let cheap_first = Find::new().order_by("amount").page_size(1);
/// let first = payments.find::<Value>(cheap_first.clone()).await?;
/// assert_eq!((first.documents[0].key.as_str(), first.checkpoint), ("a", event.position));
/// let token = first.next_page_token.unwrap();
/// let second = payments.find::<Value>(cheap_first.page_token(token)).await?;
/// assert_eq!(second.documents[0].key, "b");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// In the order that was asked for.
    pub documents: Vec<Document<T>>,
    /// For [`Find::page_token`]; `None`: this is the last page.
    pub next_page_token: Option<String>,
    /// The model's checkpoint at that moment.
    pub checkpoint: u64,
}

/// How far a projection has come.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await; let client = store.client();
/// # let event = client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
/// let payments = client.read_model("payments");
/// payments.create(&[]).await?;
/// let at = payments.checkpoint().await?;
/// assert_eq!((at.checkpoint, at.version, at.head), (0, 1, event.position));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Everything up to this position is in the documents.
    pub checkpoint: u64,
    /// The version.
    pub version: u32,
    /// The log's head.
    pub head: u64,
}

impl ModelWrites {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The document under `key` is `value` from now on.
    pub fn upsert(self, key: impl Into<String>, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        let key = key.into();
        let text = encode(&key, value)?;
        Ok(self.push(key, Write::Upsert(text)))
    }

    /// A JSON merge patch (RFC 7396) for the document under `key`, or for an empty one.
    pub fn merge(self, key: impl Into<String>, patch: &(impl Serialize + ?Sized)) -> Result<Self> {
        let key = key.into();
        let text = encode(&key, patch)?;
        Ok(self.push(key, Write::Merge(text)))
    }

    /// The document under `key` goes.
    #[must_use]
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.push(key.into(), Write::Delete(()))
    }

    fn push(mut self, key: String, write: Write) -> Self {
        self.0.push(proto::DocumentWrite { key, write: Some(write) });
        self
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn encode(key: &str, value: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Encode {
        what: format!("the document {key}"),
        reason: error.to_string(),
    })
}

impl<T: DeserializeOwned> Document<T> {
    fn from_proto(document: proto::Document) -> Result<Self> {
        let proto::Document { key, json, position } = document;
        let value = serde_json::from_str(&json).map_err(|error| Error::Decode {
            what: format!("the document {key}"),
            reason: error.to_string(),
        })?;
        Ok(Self { key, value, position })
    }
}

impl Client {
    /// The current version of a read model; [`ReadModel::version`] is for another one.
    pub fn read_model(&self, model: impl Into<String>) -> ReadModel {
        ReadModel { client: self.clone(), model: model.into(), version: 0, min_position: 0 }
    }

    /// All read models with their versions, in the order of their names.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await; let client = store.client();
    /// client.read_model("payments").create(&[]).await?;
    /// let models = client.list_read_models().await?;
    /// assert_eq!((models[0].model.as_str(), models[0].current_version), ("payments", 1));
    /// # Ok(()) }
    /// ```
    pub async fn list_read_models(&self) -> Result<Vec<proto::Model>> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = proto::ListModelsRequest { page_size: 1000, page_token };
            let page = self
                .call(request, |client, request| async move {
                    client.read_models().list_models(request).await
                })
                .await?;
            all.extend(page.models);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }
}

impl ReadModel {
    /// This version, whichever is the current one; from 1.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Reads wait until the checkpoint has reached this position: read your own writes.
    #[must_use]
    pub fn min_position(mut self, position: u64) -> Self {
        self.min_position = position;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.model
    }

    /// Makes the version, or version 1, with an index for each list of fields. The same again changes nothing.
    pub async fn create(&self, indexes: &[&[&str]]) -> Result<CheckpointInfo> {
        let request = proto::CreateModelRequest {
            model: self.model.clone(),
            version: self.version,
            indexes: indexes
                .iter()
                .map(|fields| proto::Index {
                    fields: fields.iter().map(|field| (*field).to_owned()).collect(),
                })
                .collect(),
        };
        self.client
            .call(request, |client, request| async move {
                client.read_models().create_model(request).await
            })
            .await?;
        self.checkpoint().await
    }

    /// Writes documents and the checkpoint, all or nothing, if the checkpoint is still the expected one.
    ///
    /// [`Error::WrongCheckpoint`]: it is another one; nothing was written. A repeat of an apply whose answer was lost is
    /// a success.
    pub async fn apply(&self, expected: u64, checkpoint: u64, writes: ModelWrites) -> Result<()> {
        let request = proto::ApplyRequest {
            model: self.model.clone(),
            version: self.version,
            expected_checkpoint: expected,
            checkpoint,
            writes: writes.0,
        };
        let tries = AtomicU32::new(0);
        let answer = self
            .client
            .call(request, |client, request| {
                // Relaxed: one call, one task.
                tries.fetch_add(1, Ordering::Relaxed);
                async move { client.read_models().apply(request).await }
            })
            .await;
        match answer {
            // Relaxed: as above.
            Err(Error::WrongCheckpoint { actual, .. })
                if actual == checkpoint && tries.load(Ordering::Relaxed) > 1 =>
            {
                Ok(())
            }
            answer => answer.map(drop),
        }
    }

    /// A document; `None`: there is none under this key.
    pub async fn get<T: DeserializeOwned>(
        &self,
        key: impl Into<String>,
    ) -> Result<Option<Document<T>>> {
        let request = proto::GetRequest {
            model: self.model.clone(),
            version: self.version,
            key: key.into(),
            min_position: self.min_position,
        };
        let answer = self
            .client
            .call(request, |client, request| async move { client.read_models().get(request).await })
            .await;
        match answer {
            Ok(answer) => answer.document.map(Document::from_proto).transpose(),
            Err(error) if error.reason() == "UNKNOWN_DOCUMENT" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A page of documents.
    pub async fn find<T: DeserializeOwned>(&self, find: Find) -> Result<Found<T>> {
        let Find { matches, order_by, descending, page_size, page_token } = find;
        let request = proto::FindRequest {
            model: self.model.clone(),
            version: self.version,
            matches,
            order_by,
            descending,
            page_size,
            page_token,
            min_position: self.min_position,
        };
        let answer = self
            .client
            .call(
                request,
                |client, request| async move { client.read_models().find(request).await },
            )
            .await?;
        let documents = answer.documents.into_iter().map(Document::from_proto);
        Ok(Found {
            documents: documents.collect::<Result<_>>()?,
            next_page_token: Some(answer.next_page_token).filter(|token| !token.is_empty()),
            checkpoint: answer.checkpoint,
        })
    }

    /// Every document that is found, page by page.
    pub async fn find_all<T: DeserializeOwned>(&self, find: Find) -> Result<Vec<Document<T>>> {
        let mut all = Vec::new();
        let mut page = find.page_size(1000);
        loop {
            let found = self.find(page.clone()).await?;
            all.extend(found.documents);
            match found.next_page_token {
                Some(token) => page = page.page_token(token),
                None => return Ok(all),
            }
        }
    }

    /// How far the projection has come.
    pub async fn checkpoint(&self) -> Result<CheckpointInfo> {
        let request =
            proto::GetCheckpointRequest { model: self.model.clone(), version: self.version };
        let answer = self
            .client
            .call(request, |client, request| async move {
                client.read_models().get_checkpoint(request).await
            })
            .await?;
        let proto::GetCheckpointResponse { checkpoint, version, head } = answer;
        Ok(CheckpointInfo { checkpoint, version, head })
    }

    /// Makes this version the current one. The one that was it before.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await; let client = store.client();
    /// let payments = client.read_model("payments");
    /// payments.create(&[]).await?;
    /// let next = payments.clone().version(2);
    /// next.create(&[]).await?;
    /// assert_eq!(next.make_current().await?, 1);
    /// assert_eq!(payments.checkpoint().await?.version, 2);
    /// # Ok(()) }
    /// ```
    pub async fn make_current(&self) -> Result<u32> {
        let request =
            proto::SwitchModelRequest { model: self.model.clone(), version: self.version };
        let answer = self
            .client
            .call(request, |client, request| async move {
                client.read_models().switch_model(request).await
            })
            .await?;
        Ok(answer.previous_version)
    }

    /// Removes this version, or the model where none is named.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await; let client = store.client();
    /// let payments = client.read_model("payments");
    /// payments.create(&[]).await?;
    /// payments.clone().version(2).create(&[]).await?;
    /// assert_eq!(payments.clone().version(2).drop_model().await?, [2]);
    /// assert_eq!(payments.drop_model().await?, [1]);
    /// # Ok(()) }
    /// ```
    pub async fn drop_model(&self) -> Result<Vec<u32>> {
        let request = proto::DropModelRequest { model: self.model.clone(), version: self.version };
        let answer = self
            .client
            .call(request, |client, request| async move {
                client.read_models().drop_model(request).await
            })
            .await?;
        Ok(answer.dropped_versions)
    }
}
