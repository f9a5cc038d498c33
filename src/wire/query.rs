//! `annals.v1.QueryService`.

use std::time::Duration;

use prost::Message;
use tonic::{Request, Response, Status};

use super::{
    Answers, answers,
    block::EventBlock,
    call, convert, filter,
    proto::v1::{
        self, CountRequest, CountResponse, GetEventRequest, GetEventResponse, GetRetentionRequest,
        GetRetentionResponse, GetStreamRequest, GetStreamResponse, ListCategoriesRequest,
        ListCategoriesResponse, ListEventTypesRequest, ListEventTypesResponse, ListStreamsRequest,
        ListStreamsResponse, ReadAllRequest, ReadStreamRequest, RecordedEvent,
        get_event_request::Key, query_service_server,
    },
    settings,
};
use crate::{
    core::{
        limits::Limits,
        log::format,
        position::{Position, Version},
    },
    service::{
        query::QueryService,
        scan::{Blocks, Scan},
    },
};

/// The service on the wire.
pub struct Queries {
    service: QueryService,
    limits: Limits,
}

impl Queries {
    pub fn new(service: QueryService, limits: Limits) -> Self {
        Self { service, limits }
    }

    /// Waits until the log has reached the position that a request asks for. The request has been
    /// checked before: a bad one does not wait.
    async fn reach(&self, min_position: u64, patience: Option<Duration>) -> Result<(), Status> {
        Ok(self.service.reach(Position::new(min_position), patience).await?)
    }
}

#[tonic::async_trait]
impl query_service_server::QueryService for Queries {
    type ReadStreamStream = Answers<EventBlock>;

    async fn read_stream(
        &self,
        request: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let patience = call::patience(request.metadata());
        let ReadStreamRequest { stream, direction, after, limit, min_position } =
            request.into_inner();
        convert::stream_to_read(&stream, &self.limits)?;
        let direction = convert::direction(direction)?;
        self.reach(min_position, patience).await?;
        let after = Version::new(after);
        Ok(blocks(self.service.read_stream(&stream, direction, after, limit)?))
    }

    type ReadAllStream = Answers<EventBlock>;

    async fn read_all(
        &self,
        request: Request<ReadAllRequest>,
    ) -> Result<Response<Self::ReadAllStream>, Status> {
        let patience = call::patience(request.metadata());
        let ReadAllRequest { direction, after, limit, filters, min_position } =
            request.into_inner();
        let direction = convert::direction(direction)?;
        let filter = filter::filter(filters, &self.limits)?;
        self.reach(min_position, patience).await?;
        let after = Position::new(after);
        Ok(blocks(self.service.read_all(&filter, direction, after, limit)?))
    }

    async fn get_event(
        &self,
        request: Request<GetEventRequest>,
    ) -> Result<Response<GetEventResponse>, Status> {
        let patience = call::patience(request.metadata());
        let GetEventRequest { key, min_position } = request.into_inner();
        let key = match key {
            Some(Key::Id(id)) => Ok(convert::event_id(&id)?),
            Some(Key::Position(0)) => {
                return Err(convert::InvalidRequest::one("position", "must be at least 1").into());
            }
            Some(Key::Position(position)) => Err(Position::new(position)),
            None => return Err(convert::InvalidRequest::one("key", "must be set").into()),
        };
        self.reach(min_position, patience).await?;
        let (reader, position) = match key {
            Ok(id) => self.service.find(id)?,
            Err(position) => self.service.at(position)?,
        };
        let record = reader.record(position).expect("the reader sees it");
        let event = RecordedEvent::decode(format::message(&record)).expect("the log holds events");
        Ok(Response::new(GetEventResponse { event: Some(event) }))
    }

    async fn get_stream(
        &self,
        request: Request<GetStreamRequest>,
    ) -> Result<Response<GetStreamResponse>, Status> {
        let patience = call::patience(request.metadata());
        let GetStreamRequest { stream, min_position } = request.into_inner();
        convert::stream_to_read(&stream, &self.limits)?;
        self.reach(min_position, patience).await?;
        let facts = self.service.stream(&stream)?;
        Ok(Response::new(GetStreamResponse { stream: Some(facts.into()) }))
    }

    async fn list_streams(
        &self,
        request: Request<ListStreamsRequest>,
    ) -> Result<Response<ListStreamsResponse>, Status> {
        let patience = call::patience(request.metadata());
        let ListStreamsRequest { prefix, page_size, page_token, min_position } =
            request.into_inner();
        let page = convert::page(prefix, page_size, page_token)?;
        self.reach(min_position, patience).await?;
        let page = self.service.streams(&page);
        Ok(Response::new(ListStreamsResponse {
            streams: page.items.into_iter().map(Into::into).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn list_categories(
        &self,
        request: Request<ListCategoriesRequest>,
    ) -> Result<Response<ListCategoriesResponse>, Status> {
        let patience = call::patience(request.metadata());
        let ListCategoriesRequest { page_size, page_token, min_position } = request.into_inner();
        let page = convert::page(String::new(), page_size, page_token)?;
        self.reach(min_position, patience).await?;
        let page = self.service.categories(&page).await;
        Ok(Response::new(ListCategoriesResponse {
            categories: page.items.into_iter().map(Into::into).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn list_event_types(
        &self,
        request: Request<ListEventTypesRequest>,
    ) -> Result<Response<ListEventTypesResponse>, Status> {
        let patience = call::patience(request.metadata());
        let ListEventTypesRequest { page_size, page_token, min_position } = request.into_inner();
        let page = convert::page(String::new(), page_size, page_token)?;
        self.reach(min_position, patience).await?;
        let page = self.service.types(&page).await;
        Ok(Response::new(ListEventTypesResponse {
            event_types: page.items.into_iter().map(Into::into).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn count(
        &self,
        request: Request<CountRequest>,
    ) -> Result<Response<CountResponse>, Status> {
        let patience = call::patience(request.metadata());
        let CountRequest { filters, min_position } = request.into_inner();
        let filter = filter::filter(filters, &self.limits)?;
        self.reach(min_position, patience).await?;
        let (count, position) = self.service.count(&filter).await;
        Ok(Response::new(CountResponse { count, position: position.get() }))
    }
    async fn get_retention(
        &self,
        request: Request<GetRetentionRequest>,
    ) -> Result<Response<GetRetentionResponse>, Status> {
        let patience = call::patience(request.metadata());
        let GetRetentionRequest { scope, min_position } = request.into_inner();
        let scope = settings::scope(scope, &self.limits)?;
        self.reach(min_position, patience).await?;
        let facts = self.service.retention(&scope);
        Ok(Response::new(settings::retention(&scope, &facts)))
    }

    type SearchStream = Answers<v1::SearchResponse>;
    async fn search(
        &self,
        _: Request<v1::SearchRequest>,
    ) -> Result<Response<Self::SearchStream>, Status> {
        Err(Status::unimplemented("soon"))
    }
    type GetCorrelationStream = Answers<v1::GetCorrelationResponse>;
    async fn get_correlation(
        &self,
        _: Request<v1::GetCorrelationRequest>,
    ) -> Result<Response<Self::GetCorrelationStream>, Status> {
        Err(Status::unimplemented("soon"))
    }
    async fn get_statistics(
        &self,
        _: Request<v1::GetStatisticsRequest>,
    ) -> Result<Response<v1::GetStatisticsResponse>, Status> {
        Err(Status::unimplemented("soon"))
    }
    type WatchStatisticsStream = Answers<v1::WatchStatisticsResponse>;
    async fn watch_statistics(
        &self,
        _: Request<v1::WatchStatisticsRequest>,
    ) -> Result<Response<Self::WatchStatisticsStream>, Status> {
        Err(Status::unimplemented("soon"))
    }
    async fn get_trends(
        &self,
        _: Request<v1::GetTrendsRequest>,
    ) -> Result<Response<v1::GetTrendsResponse>, Status> {
        Err(Status::unimplemented("soon"))
    }
    type WatchTrendsStream = Answers<v1::WatchTrendsResponse>;
    async fn watch_trends(
        &self,
        _: Request<v1::WatchTrendsRequest>,
    ) -> Result<Response<Self::WatchTrendsStream>, Status> {
        Err(Status::unimplemented("soon"))
    }
    type ReplayStream = Answers<v1::ReplayResponse>;
    async fn replay(
        &self,
        _: Request<v1::ReplayRequest>,
    ) -> Result<Response<Self::ReplayStream>, Status> {
        Err(Status::unimplemented("soon"))
    }
    async fn explain(
        &self,
        _: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        Err(Status::unimplemented("soon"))
    }
}

fn blocks(scan: Scan) -> Response<Answers<EventBlock>> {
    Response::new(answers(Blocks(scan), |mut blocks| async move {
        let block = blocks.next().await?;
        let message = block.map(|block| EventBlock::from_encoded(block.bytes));
        Some((message.map_err(Status::from), blocks))
    }))
}
