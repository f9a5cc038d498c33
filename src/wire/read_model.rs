//! `annals.v1.ReadModelService`: proto ↔ service.

use tonic::{Request, Response, Status};

use super::{
    Answers, answers, call,
    convert::{self, At, Check, InvalidRequest, TEXT_BYTES_MAX, timestamp},
    proto::v1::{
        self, ApplyRequest, ApplyResponse, CreateModelRequest, CreateModelResponse, Document,
        DocumentChanges, DropModelRequest, DropModelResponse, FindResponse, GetCheckpointRequest,
        GetCheckpointResponse, GetRequest, GetResponse, Heartbeat, Index, ListModelsRequest,
        ListModelsResponse, Model, ModelVersion, SwitchModelRequest, SwitchModelResponse,
        WatchCaughtUp, WatchRequest, WatchReset, WatchResponse, document_write::Write as Sent,
        read_model_service_server, watch_response,
    },
};
use crate::{
    core::{
        clock::Timestamp,
        filter::json::{Operator, Scalar},
        limits::Limits,
    },
    service::read_model::{
        self, FieldMatch, FieldPath, FindRequest, Message, ReadModelService, Stored, VersionRecord,
        Write,
    },
};

const KEY_BYTES_MAX: usize = 512;
const INDEXES_MAX: usize = 16;
const INDEX_FIELDS_MAX: usize = 4;
const FIELD_DEPTH_MAX: usize = 8;
const WRITES_MAX: usize = 10_000;
const WRITES_BYTES_MAX: usize = 16 << 20;
const MATCHES_MAX: usize = 16;

/// The service on the wire.
pub struct ReadModels {
    pub service: ReadModelService,
    pub document_size_max: usize,
}

#[tonic::async_trait]
impl read_model_service_server::ReadModelService for ReadModels {
    async fn create_model(
        &self,
        request: Request<CreateModelRequest>,
    ) -> Result<Response<CreateModelResponse>, Status> {
        let CreateModelRequest { model, version, indexes } = request.into_inner();
        let mut check = Check::default();
        check.model(&model);
        let indexes = check.indexes(At::Root.field("indexes"), indexes);
        check.finish(Some(()))?;
        let version = version.max(1);
        let record = self.service.create(model, version, indexes).await?;
        let version = Some(version_message(version, record));
        Ok(Response::new(CreateModelResponse { version }))
    }

    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let request = apply(request.into_inner(), self.document_size_max)?;
        let record = self.service.apply(request).await?;
        let VersionRecord { checkpoint, documents: document_count, .. } = record;
        Ok(Response::new(ApplyResponse { checkpoint, document_count }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let patience = call::patience(request.metadata());
        let GetRequest { model, version, key, min_position } = request.into_inner();
        let mut check = Check::default();
        check.model(&model);
        check.name(At::Root.field("key"), &key, KEY_BYTES_MAX);
        check.finish(Some(()))?;
        let version = self.service.reach(&model, version, min_position, patience).await?;
        let (stored, checkpoint) = self.service.get(&model, &version, key.clone()).await?;
        let document = Some(document((key, stored)));
        Ok(Response::new(GetResponse { document, checkpoint }))
    }

    async fn find(
        &self,
        request: Request<v1::FindRequest>,
    ) -> Result<Response<FindResponse>, Status> {
        let patience = call::patience(request.metadata());
        let request = request.into_inner();
        let (model, version, min_position) =
            (request.model.clone(), request.version, request.min_position);
        let request = find(request)?;
        let version = self.service.reach(&model, version, min_position, patience).await?;
        let found = self.service.find(&model, &version, request).await?;
        Ok(Response::new(FindResponse {
            documents: found.documents.into_iter().map(document).collect(),
            next_page_token: found.next.unwrap_or_default(),
            checkpoint: found.checkpoint,
        }))
    }

    type WatchStream = Answers<WatchResponse>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let patience = call::patience(request.metadata());
        let WatchRequest { model, version: wanted, matches, min_position, heartbeat_interval } =
            request.into_inner();
        let mut check = Check::default();
        check.model(&model);
        let matches = check.matches(At::Root.field("matches"), matches);
        let heartbeat = check.quiet(At::Root.field("heartbeat_interval"), heartbeat_interval);
        check.finish(Some(()))?;
        let version = self.service.reach(&model, wanted, min_position, patience).await?;
        let watch = self.service.watch(model, wanted, version, matches, heartbeat)?;
        Ok(Response::new(answers(Some(watch), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(message) => Some((Ok(message.into()), Some(watch))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }

    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        let GetCheckpointRequest { model, version } = request.into_inner();
        let mut check = Check::default();
        check.model(&model);
        check.finish(Some(()))?;
        let version = self.service.version(&model, version)?;
        Ok(Response::new(GetCheckpointResponse {
            checkpoint: version.record().checkpoint,
            version: version.number,
            head: self.service.head().get(),
        }))
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let ListModelsRequest { page_size, page_token } = request.into_inner();
        let page = convert::page(String::new(), page_size, page_token)?;
        let (models, more) = self.service.list(&page.after, page.size);
        let last = models.last().filter(|_| more);
        let next_page_token = last.map(|model| model.name.clone()).unwrap_or_default();
        let models = models.into_iter().map(|model| Model {
            model: model.name,
            current_version: model.current,
            versions: model
                .versions
                .into_iter()
                .map(|(version, record)| version_message(version, record))
                .collect(),
        });
        let head = self.service.head().get();
        Ok(Response::new(ListModelsResponse { models: models.collect(), next_page_token, head }))
    }

    async fn switch_model(
        &self,
        request: Request<SwitchModelRequest>,
    ) -> Result<Response<SwitchModelResponse>, Status> {
        let SwitchModelRequest { model, version } = request.into_inner();
        let mut check = Check::default();
        check.model(&model);
        if version == 0 {
            check.wrong(At::Root.field("version"), "must be set");
        }
        check.finish(Some(()))?;
        let previous_version = self.service.switch(model, version).await?;
        Ok(Response::new(SwitchModelResponse { previous_version }))
    }

    async fn drop_model(
        &self,
        request: Request<DropModelRequest>,
    ) -> Result<Response<DropModelResponse>, Status> {
        let DropModelRequest { model, version } = request.into_inner();
        let mut check = Check::default();
        check.model(&model);
        check.finish(Some(()))?;
        let dropped_versions = self.service.drop_model(model, version).await?;
        Ok(Response::new(DropModelResponse { dropped_versions }))
    }
}

impl Check {
    fn model(&mut self, model: &str) {
        self.name(At::Root.field("model"), model, TEXT_BYTES_MAX);
    }

    fn indexes(&mut self, at: At<'_>, indexes: Vec<Index>) -> Vec<Vec<String>> {
        if !self.at_most(at, indexes.len(), INDEXES_MAX, "entries") {
            return Vec::new();
        }
        let mut checked: Vec<Vec<String>> = Vec::with_capacity(indexes.len());
        for (number, Index { fields }) in indexes.into_iter().enumerate() {
            let at = at.index(number);
            let at = at.field("fields");
            if fields.is_empty() {
                self.wrong(at, "must not be empty");
            }
            if !self.at_most(at, fields.len(), INDEX_FIELDS_MAX, "entries") {
                continue;
            }
            for (place, field) in fields.iter().enumerate() {
                self.field_path(at.index(place), field);
                if fields[..place].contains(field) {
                    self.wrong(at.index(place), "is named before");
                }
            }
            if checked.contains(&fields) {
                self.wrong(at, "are those of another index");
            }
            checked.push(fields);
        }
        checked
    }

    fn field_path(&mut self, at: At<'_>, field: &str) -> Option<FieldPath> {
        self.name(at, field, TEXT_BYTES_MAX)?;
        let path = FieldPath::parse(field);
        match &path {
            None => self.wrong(at, "has an empty name between its points"),
            Some(path) if path.depth() > FIELD_DEPTH_MAX => {
                let depth = path.depth();
                let what = format_args!("has {depth} names, at most {FIELD_DEPTH_MAX} are allowed");
                self.wrong(at, what);
            }
            Some(_) => {}
        }
        path
    }

    fn matches(&mut self, at: At<'_>, matches: Vec<v1::FieldMatch>) -> Vec<FieldMatch> {
        if !self.at_most(at, matches.len(), MATCHES_MAX, "entries") {
            return Vec::new();
        }
        let mut checked = Vec::with_capacity(matches.len());
        for (number, v1::FieldMatch { field, operator, value }) in matches.into_iter().enumerate() {
            let at = at.index(number);
            let field = self.field_path(at.field("field"), &field);
            let operator = self.operator(at.field("operator"), operator);
            let value = self.scalar(at.field("value"), value.and_then(|value| value.kind));
            match (operator, &value) {
                (Some(Operator::NotEquals | Operator::Exists), _) => {
                    self.wrong(at.field("operator"), "is one that no index answers");
                }
                (Some(operator), Some(Scalar::Null | Scalar::Bool(_)))
                    if operator != Operator::Equals =>
                {
                    self.wrong(at.field("value"), "is neither a number nor a string");
                }
                _ => {}
            }
            if let (Some(field), Some(operator), Some(value)) = (field, operator, value) {
                checked.push(FieldMatch { field, operator, value });
            }
        }
        checked
    }
}

fn apply(
    request: ApplyRequest,
    document_size_max: usize,
) -> Result<read_model::ApplyRequest, InvalidRequest> {
    let ApplyRequest { model, version, expected_checkpoint, checkpoint, writes } = request;
    let mut check = Check::default();
    check.model(&model);
    if checkpoint <= expected_checkpoint {
        let what =
            format_args!("is {checkpoint}, which is not beyond the expected {expected_checkpoint}");
        check.wrong(At::Root.field("checkpoint"), what);
    }
    let at = At::Root.field("writes");
    let mut checked = Vec::with_capacity(writes.len().min(WRITES_MAX));
    let mut bytes = 0;
    if check.at_most(at, writes.len(), WRITES_MAX, "entries") {
        for (number, v1::DocumentWrite { key, write }) in writes.into_iter().enumerate() {
            let at = at.index(number);
            check.name(at.field("key"), &key, KEY_BYTES_MAX);
            bytes += key.len();
            let write = match write {
                None => {
                    check.wrong(at.field("write"), "must be set: `upsert`, `merge` or `delete`");
                    continue;
                }
                Some(Sent::Upsert(text)) => {
                    check.document(at.field("upsert"), &text, document_size_max);
                    bytes += text.len();
                    Write::Upsert(text)
                }
                Some(Sent::Merge(text)) => {
                    check.document(at.field("merge"), &text, document_size_max);
                    bytes += text.len();
                    Write::Merge(text)
                }
                Some(Sent::Delete(())) => Write::Delete,
            };
            checked.push((key, write));
        }
        check.at_most(at, bytes, WRITES_BYTES_MAX, "bytes of keys and documents");
    }
    let request = read_model::ApplyRequest {
        model,
        version,
        expected: expected_checkpoint,
        checkpoint,
        writes: checked,
    };
    check.finish(Some(request))
}

impl Check {
    fn document(&mut self, at: At<'_>, text: &str, size_max: usize) {
        if self.at_most(at, text.len(), size_max, "bytes")
            && let Err(error) = read_model::check(text)
        {
            self.wrong(at, error);
        }
    }
}

fn find(request: v1::FindRequest) -> Result<FindRequest, InvalidRequest> {
    let v1::FindRequest {
        model,
        version: _,
        matches,
        order_by,
        descending,
        page_size,
        page_token,
        min_position: _,
    } = request;
    let mut check = Check::default();
    check.model(&model);
    let matches = check.matches(At::Root.field("matches"), matches);
    let order_by = match order_by.as_str() {
        "" => None,
        field => check.field_path(At::Root.field("order_by"), field),
    };
    let size = check.number(
        At::Root.field("page_size"),
        page_size,
        convert::PAGE_SIZE_DEFAULT,
        convert::PAGE_SIZE_MAX,
    );
    let size = usize::try_from(size).expect("pointers have 64 bits");
    check.finish(Some(FindRequest { matches, order_by, descending, size, page_token }))
}

/// Fuzzed: any request is answered or refused.
pub fn check_requests(bytes: &[u8]) {
    use prost::Message as _;
    if let Ok(request) = ApplyRequest::decode(bytes) {
        drop(apply(request, Limits::HARD.event_size_bytes_max));
    }
    if let Ok(request) = v1::FindRequest::decode(bytes) {
        drop(find(request));
    }
    if let Ok(request) = CreateModelRequest::decode(bytes) {
        let mut check = Check::default();
        check.indexes(At::Root.field("indexes"), request.indexes);
    }
}

fn document((key, stored): (String, Stored)) -> Document {
    let Stored { position, json } = stored;
    Document { key, json, position }
}

fn version_message(version: u32, record: VersionRecord) -> ModelVersion {
    let VersionRecord { id: _, indexes, checkpoint, documents, bytes, created_at, applied_at } =
        record;
    ModelVersion {
        version,
        indexes: indexes.into_iter().map(|fields| Index { fields }).collect(),
        checkpoint,
        document_count: documents,
        document_bytes: bytes,
        created_at: Some(timestamp(Timestamp::from_micros(created_at))),
        applied_at: applied_at.map(|at| timestamp(Timestamp::from_micros(at))),
    }
}

impl From<Message> for WatchResponse {
    fn from(message: Message) -> Self {
        use watch_response::Message as Sent;
        let message = match message {
            Message::Changes { upserts, removed } => Sent::Changes(DocumentChanges {
                upserts: upserts.into_iter().map(document).collect(),
                removed_keys: removed,
            }),
            Message::CaughtUp { checkpoint, version } => {
                Sent::CaughtUp(WatchCaughtUp { checkpoint, version })
            }
            Message::Reset { version } => Sent::Reset(WatchReset { version }),
            Message::Heartbeat { checkpoint, at } => {
                Sent::Heartbeat(Heartbeat { position: checkpoint, sent_at: Some(timestamp(at)) })
            }
        };
        Self { message: Some(message) }
    }
}
