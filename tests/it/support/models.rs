//! Read models as a client of them: short words for each call, and a watch that is folded.

use std::collections::BTreeMap;

use annals::wire::proto::v1::{
    ApplyRequest, ApplyResponse, CreateModelRequest, Document, DocumentWrite, DropModelRequest,
    FieldMatch, FindRequest, FindResponse, GetCheckpointRequest, GetCheckpointResponse, GetRequest,
    GetResponse, Index, JsonOperator, ListModelsRequest, ListModelsResponse, Model, ModelVersion,
    SwitchModelRequest, WatchCaughtUp, WatchRequest, WatchResponse, document_write::Write,
    read_model_service_client::ReadModelServiceClient, watch_response::Message,
};
use prost_types::{Value, value::Kind};
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{Refusal, TestStore, consumer::millis, within};

pub const NULL: Kind = Kind::NullValue(0);

pub fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

pub fn number(number: f64) -> Kind {
    Kind::NumberValue(number)
}

/// A match of a field.
pub fn matches(field: &str, operator: JsonOperator, value: Kind) -> FieldMatch {
    let value = Some(Value { kind: Some(value) });
    FieldMatch { field: field.to_owned(), operator: operator.into(), value }
}

pub fn equals(field: &str, value: Kind) -> FieldMatch {
    matches(field, JsonOperator::Equals, value)
}

pub fn upsert(key: &str, json: &str) -> DocumentWrite {
    DocumentWrite { key: key.to_owned(), write: Some(Write::Upsert(json.to_owned())) }
}

pub fn merge(key: &str, patch: &str) -> DocumentWrite {
    DocumentWrite { key: key.to_owned(), write: Some(Write::Merge(patch.to_owned())) }
}

pub fn delete(key: &str) -> DocumentWrite {
    DocumentWrite { key: key.to_owned(), write: Some(Write::Delete(())) }
}

/// Indexes, each by its fields.
pub fn indexes(indexes: &[&[&str]]) -> Vec<Index> {
    let index = |fields: &&[&str]| Index {
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
    };
    indexes.iter().map(index).collect()
}

pub fn create(model: &str, version: u32, fields: &[&[&str]]) -> CreateModelRequest {
    CreateModelRequest { model: model.to_owned(), version, indexes: indexes(fields) }
}

/// To the current version.
pub fn apply(
    model: &str,
    expected_checkpoint: u64,
    checkpoint: u64,
    writes: impl Into<Vec<DocumentWrite>>,
) -> ApplyRequest {
    let (model, writes) = (model.to_owned(), writes.into());
    ApplyRequest { model, version: 0, expected_checkpoint, checkpoint, writes }
}

/// Of the current version, with the longest pages.
pub fn find(model: &str, matches: impl Into<Vec<FieldMatch>>, order_by: &str) -> FindRequest {
    FindRequest {
        model: model.to_owned(),
        matches: matches.into(),
        order_by: order_by.to_owned(),
        page_size: 1000,
        ..FindRequest::default()
    }
}

/// A watch of the current version. A heartbeat comes often, so that a test can see that nothing else does.
pub fn watch(model: &str, matches: impl Into<Vec<FieldMatch>>) -> WatchRequest {
    WatchRequest {
        model: model.to_owned(),
        matches: matches.into(),
        heartbeat_interval: Some(millis(100)),
        ..WatchRequest::default()
    }
}

pub fn keys(documents: &[Document]) -> Vec<&str> {
    documents.iter().map(|document| &*document.key).collect()
}

/// The refusal has this code and this reason.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) -> Status {
    let refusal = answer.unwrap_err();
    assert_eq!((refusal.code(), &*refusal.reason()), (code, reason), "{refusal}");
    refusal
}

/// It is `INVALID_ARGUMENT` and names exactly these fields.
#[track_caller]
pub fn invalid<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, fields: &[&str]) {
    let Err(refusal) = answer else { panic!("{what}: it was taken: {answer:?}") };
    assert_eq!(refusal.code(), Code::InvalidArgument, "{what}: {refusal}");
    assert_eq!(refusal.reason(), "INVALID_REQUEST", "{what}");
    let (mut violations, mut fields) = (refusal.violations(), fields.to_vec());
    violations.sort();
    fields.sort_unstable();
    assert_eq!(violations, fields, "{what}: {refusal}");
}

/// The calls about read models.
#[derive(Clone)]
pub struct Models(ReadModelServiceClient<Channel>);

impl TestStore {
    pub fn models(&self) -> Models {
        Models::new(self.channel.clone())
    }
}

impl Models {
    pub fn new(channel: Channel) -> Self {
        let client = ReadModelServiceClient::new(channel);
        Self(client.max_decoding_message_size(usize::MAX))
    }

    pub async fn create(&self, request: CreateModelRequest) -> Result<ModelVersion, Status> {
        let answer = within(self.0.clone().create_model(request)).await?.into_inner();
        Ok(answer.version.unwrap())
    }

    pub async fn apply(&self, request: ApplyRequest) -> Result<ApplyResponse, Status> {
        Ok(within(self.0.clone().apply(request)).await?.into_inner())
    }

    pub async fn get(&self, request: GetRequest) -> Result<GetResponse, Status> {
        Ok(within(self.0.clone().get(request)).await?.into_inner())
    }

    /// A document of the current version.
    pub async fn document(&self, model: &str, key: &str) -> Result<Document, Status> {
        let (model, key) = (model.to_owned(), key.to_owned());
        let request = GetRequest { model, key, ..GetRequest::default() };
        Ok(self.get(request).await?.document.unwrap())
    }

    /// What a document of the current version says.
    pub async fn json(&self, model: &str, key: &str) -> String {
        self.document(model, key).await.unwrap().json
    }

    pub async fn find(&self, request: FindRequest) -> Result<FindResponse, Status> {
        Ok(within(self.0.clone().find(request)).await?.into_inner())
    }

    /// All pages, each of which is of the moment of all others.
    pub async fn find_all(&self, mut request: FindRequest) -> Result<Vec<Document>, Status> {
        let mut documents = Vec::new();
        loop {
            let page = self.find(request.clone()).await?;
            assert!(
                page.next_page_token.is_empty() || !page.documents.is_empty(),
                "a page is empty"
            );
            documents.extend(page.documents);
            if page.next_page_token.is_empty() {
                return Ok(documents);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The keys of what is found, in the order in which it comes.
    pub async fn found(&self, request: FindRequest) -> Vec<String> {
        let documents = self.find_all(request).await.unwrap();
        documents.into_iter().map(|document| document.key).collect()
    }

    /// All documents of the current version, by their keys.
    pub async fn documents(&self, model: &str) -> BTreeMap<String, String> {
        let documents = self.find_all(find(model, [], "")).await.unwrap();
        documents.into_iter().map(|document| (document.key, document.json)).collect()
    }

    pub async fn checkpoint(
        &self,
        model: &str,
        version: u32,
    ) -> Result<GetCheckpointResponse, Status> {
        let request = GetCheckpointRequest { model: model.to_owned(), version };
        Ok(within(self.0.clone().get_checkpoint(request)).await?.into_inner())
    }

    pub async fn list(&self, request: ListModelsRequest) -> Result<ListModelsResponse, Status> {
        Ok(within(self.0.clone().list_models(request)).await?.into_inner())
    }

    /// All models.
    pub async fn all(&self) -> Vec<Model> {
        let page = self.list(ListModelsRequest { page_size: 1000, ..Default::default() }).await;
        page.unwrap().models
    }

    /// The version that was the current one before.
    pub async fn switch(&self, model: &str, version: u32) -> Result<u32, Status> {
        let request = SwitchModelRequest { model: model.to_owned(), version };
        Ok(within(self.0.clone().switch_model(request)).await?.into_inner().previous_version)
    }

    /// The versions that are gone.
    pub async fn drop(&self, model: &str, version: u32) -> Result<Vec<u32>, Status> {
        let request = DropModelRequest { model: model.to_owned(), version };
        Ok(within(self.0.clone().drop_model(request)).await?.into_inner().dropped_versions)
    }

    pub async fn watch(&self, request: WatchRequest) -> Result<Watch, Status> {
        let messages = within(self.0.clone().watch(request)).await?.into_inner();
        Ok(Watch { messages, documents: BTreeMap::new() })
    }
}

/// An open watch, and the result as a client keeps it.
#[derive(Debug)]
pub struct Watch {
    messages: Streaming<WatchResponse>,
    /// By their keys, as of the last message.
    pub documents: BTreeMap<String, Document>,
}

impl Watch {
    /// The next message, folded; the status that ends the watch.
    pub async fn next_or_heartbeat(&mut self) -> Result<Message, Status> {
        let message = self.messages.message().await?.expect("a watch ends with a status");
        let message = message.message.expect("we know all of them");
        match &message {
            Message::Changes(changes) => {
                let count = changes.upserts.len() + changes.removed_keys.len();
                assert!((1..=1000).contains(&count), "{count} in one message");
                for document in &changes.upserts {
                    self.documents.insert(document.key.clone(), document.clone());
                }
                for key in &changes.removed_keys {
                    let both = changes.upserts.iter().any(|document| document.key == *key);
                    assert!(!both, "{key} is there and is not");
                    self.documents.remove(key);
                }
            }
            Message::Reset(_) => self.documents.clear(),
            Message::CaughtUp(_) | Message::Heartbeat(_) => {}
        }
        Ok(message)
    }

    /// The next message that is not a heartbeat.
    pub async fn next(&mut self) -> Result<Message, Status> {
        within(async {
            loop {
                match self.next_or_heartbeat().await? {
                    Message::Heartbeat(_) => {}
                    message => return Ok(message),
                }
            }
        })
        .await
    }

    /// Reads on until all that had happened is there.
    pub async fn caught_up(&mut self) -> WatchCaughtUp {
        loop {
            if let Message::CaughtUp(caught_up) = self.next().await.unwrap() {
                return caught_up;
            }
        }
    }

    /// Reads on until the result is that of this checkpoint, or of a later one.
    pub async fn until(&mut self, checkpoint: u64) -> WatchCaughtUp {
        loop {
            let caught_up = self.caught_up().await;
            if caught_up.checkpoint >= checkpoint {
                return caught_up;
            }
        }
    }

    /// The changes that come next: the documents' keys, and the keys that do not match any more.
    pub async fn changes(&mut self) -> (Vec<String>, Vec<String>) {
        match self.next().await.unwrap() {
            Message::Changes(changes) => {
                let upserts = changes.upserts.into_iter().map(|document| document.key);
                (upserts.collect(), changes.removed_keys)
            }
            other => panic!("no changes: {other:?}"),
        }
    }

    /// What a client would show now.
    pub fn shown(&self) -> Vec<(&str, &str)> {
        self.documents.iter().map(|(key, document)| (&**key, &*document.json)).collect()
    }

    /// Nothing comes, for two intervals of heartbeats.
    pub async fn expect_nothing(&mut self) {
        for _ in 0..2 {
            let message = within(self.next_or_heartbeat()).await.unwrap();
            assert!(matches!(message, Message::Heartbeat(_)), "{message:?}");
        }
    }

    /// The status that ends the watch, whatever comes before.
    pub async fn end(&mut self) -> Status {
        within(async {
            loop {
                if let Err(status) = self.next_or_heartbeat().await {
                    return status;
                }
            }
        })
        .await
    }
}
