//! A projection's read model on the server: documents that a handler reads and writes by key.

use std::collections::HashMap;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{Batch, HandlerError, Projection, RunError, Runner, Target, TargetError};
use crate::{
    Client, Error, Result,
    read_model::{ModelWrites, ReadModel},
};

/// So many documents are remembered from batch to batch.
const REMEMBERED_MAX: usize = 10_000;

/// A document as text; `None`: there is none.
type Change = Option<Box<RawValue>>;
/// Documents by key.
type Known = HashMap<String, Change>;

/// A version of a read model on the server as a [`Target`].
///
/// ```
/// # use annals_client::{Event, Filter, NewEvent, testing::TestStore};
/// # use annals_client::projection::{Documents, HandlerError, Projection, ReadModelTarget, Runner};
/// # #[derive(Default, serde::Serialize, serde::Deserialize)]
/// # struct Count { events: u64 }
/// # struct Counts;
/// # impl Projection<Documents> for Counts {
/// #     fn name(&self) -> &str { "counts" }
/// #     fn filters(&self) -> Vec<Filter> { vec![Filter::new().category("Payment")] }
/// #     async fn handle(&mut self, event: &Event, counts: &mut Documents) -> Result<(), HandlerError> {
/// #         let mut count: Count = counts.get(&event.stream).await?.unwrap_or_default();
/// #         count.events += 1;
/// #         counts.put(&event.stream, &count)?;
/// #         Ok(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("A"), NewEvent::new("B")]).await?;
/// let model = client.read_model("counts");
/// model.create(&[]).await?;
/// let target = ReadModelTarget::new(model.clone());
/// Runner::new(&client, Counts, target).run_until_caught_up().await?;
/// assert_eq!(model.checkpoint().await?.checkpoint, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ReadModelTarget {
    model: ReadModel,
    /// What the server has at the checkpoint.
    known: Known,
}

impl ReadModelTarget {
    /// The version that `model` names, or the one that is the current one when the runner starts: it stays with that.
    pub fn new(model: ReadModel) -> Self {
        Self { model, known: Known::new() }
    }
}

/// A batch: the documents as they will be.
///
/// ```
/// # use annals_client::{projection::{Batch, ReadModelTarget, Target}, testing::TestStore};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Count { events: u64 }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let model = client.read_model("counts");
/// # model.create(&[]).await?;
/// # let mut target = ReadModelTarget::new(model.clone());
/// # target.checkpoint().await?;
/// # let mut counts = target.begin();
/// assert!(counts.get::<Count>("Payment-1").await?.is_none());
/// counts.put("Payment-1", &Count { events: 1 })?;
/// assert_eq!(counts.get::<Count>("Payment-1").await?.map(|count| count.events), Some(1));
/// counts.delete("Payment-1");
/// assert!(counts.get::<Count>("Payment-1").await?.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Documents {
    model: ReadModel,
    known: Known,
    changed: Known,
    /// What `changed` had before each change since the mark; `None`: nothing.
    undo: Vec<(String, Option<Change>)>,
}

impl Documents {
    /// The document under `key` as this batch has it by now; `None`: there is none.
    pub async fn get<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        if !self.changed.contains_key(key) && !self.known.contains_key(key) {
            let document = self.model.get::<Box<RawValue>>(key).await?;
            self.known.insert(key.to_owned(), document.map(|document| document.value));
        }
        let text = self.changed.get(key).or_else(|| self.known.get(key)).and_then(Option::as_ref);
        text.map(|text| serde_json::from_str(text.get())).transpose().map_err(|error| {
            Error::Decode { what: format!("the document {key}"), reason: error.to_string() }
        })
    }

    /// The document under `key` is `value` from now on, which must become a JSON object.
    ///
    /// ```
    /// # use annals_client::{projection::{ReadModelTarget, Target}, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let model = client.read_model("counts");
    /// # model.create(&[]).await?;
    /// # let mut target = ReadModelTarget::new(model.clone());
    /// # let mut counts = target.begin();
    /// counts.put("Payment-1", &serde_json::json!({ "events": 1 }))?;
    /// let error = counts.put("Payment-1", &1).unwrap_err();
    /// assert_eq!(error.to_string(), "cannot encode the document Payment-1: it is not a JSON object");
    /// # Ok(())
    /// # }
    /// ```
    pub fn put(&mut self, key: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::value::to_raw_value(value).map_err(|error| Error::Encode {
            what: format!("the document {key}"),
            reason: error.to_string(),
        })?;
        if !text.get().starts_with('{') {
            let reason = "it is not a JSON object".to_owned();
            return Err(Error::Encode { what: format!("the document {key}"), reason });
        }
        self.set(key, Some(text));
        Ok(())
    }

    /// The document under `key` goes.
    pub fn delete(&mut self, key: &str) {
        self.set(key, None);
    }

    fn set(&mut self, key: &str, text: Change) {
        let before = self.changed.insert(key.to_owned(), text);
        self.undo.push((key.to_owned(), before));
    }
}

impl Batch for Documents {
    fn mark(&mut self) {
        self.undo.clear();
    }

    fn undo(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(before) => self.changed.insert(key, before),
                None => self.changed.remove(&key),
            };
        }
    }
}

impl Target for ReadModelTarget {
    type Batch = Documents;

    async fn checkpoint(&mut self) -> Result<u64, TargetError> {
        self.known.clear();
        let info = self.model.checkpoint().await?;
        self.model = self.model.clone().version(info.version);
        Ok(info.checkpoint)
    }

    fn begin(&mut self) -> Documents {
        Documents {
            model: self.model.clone(),
            known: std::mem::take(&mut self.known),
            changed: Known::new(),
            undo: Vec::new(),
        }
    }

    async fn commit(
        &mut self,
        expected: u64,
        checkpoint: u64,
        batch: &mut Documents,
    ) -> Result<(), TargetError> {
        let mut writes = ModelWrites::new();
        for (key, text) in &batch.changed {
            writes = match text {
                Some(text) => writes.upsert(key, text)?,
                None => writes.delete(key),
            };
        }
        self.model.apply(expected, checkpoint, writes).await?;
        if batch.known.len() + batch.changed.len() <= REMEMBERED_MAX {
            self.known = std::mem::take(&mut batch.known);
            self.known.extend(std::mem::take(&mut batch.changed));
        }
        Ok(())
    }
}

/// Makes the next version of a read model from the log's start, while the current one goes on to be read and written, and
/// makes it the current one when it has come as far as the log went at the beginning. The new version; its projection
/// goes on with a [`Runner`] of its own, and the old one can be dropped.
///
/// ```
/// # use annals_client::{Event, Filter, NewEvent, testing::TestStore};
/// # use annals_client::projection::{Documents, HandlerError, Projection, rebuild};
/// # #[derive(Default, serde::Serialize, serde::Deserialize)]
/// # struct Count { events: u64 }
/// # struct Counts;
/// # impl Projection<Documents> for Counts {
/// #     fn name(&self) -> &str { "counts" }
/// #     fn filters(&self) -> Vec<Filter> { vec![Filter::new().category("Payment")] }
/// #     async fn handle(&mut self, event: &Event, counts: &mut Documents) -> Result<(), HandlerError> {
/// #         let mut count: Count = counts.get(&event.stream).await?.unwrap_or_default();
/// #         count.events += 1;
/// #         counts.put(&event.stream, &count)?;
/// #         Ok(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("A"), NewEvent::new("B")]).await?;
/// client.read_model("counts").create(&[]).await?;
/// rebuild(&client, "counts", &[&["events"]], Counts).await?;
///
/// let current = client.read_model("counts");
/// assert_eq!(current.checkpoint().await?.version, 2);
/// assert_eq!(current.get::<Count>("Payment-1").await?.unwrap().value.events, 2);
/// # Ok(())
/// # }
/// ```
pub async fn rebuild<P: Projection<Documents>>(
    client: &Client,
    model: &str,
    indexes: &[&[&str]],
    projection: P,
) -> Result<ReadModel, RunError> {
    let models = client.list_read_models().await.map_err(HandlerError::from);
    let models = models.map_err(|error| RunError::Target(TargetError::Permanent(error)))?;
    let versions = models.into_iter().filter(|it| it.model == model).flat_map(|it| it.versions);
    let next = versions.map(|it| it.version).max().unwrap_or(0) + 1;
    let version = client.read_model(model).version(next);
    version.create(indexes).await.map_err(TargetError::from)?;
    let target = ReadModelTarget::new(version.clone());
    Runner::new(client, projection, target).run_until_caught_up().await?;
    version.make_current().await.map_err(TargetError::from)?;
    Ok(version)
}
