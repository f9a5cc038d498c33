//! `annals.v1.QueryService`.

use std::sync::Arc;

use prost::Message;
use tonic::{Request, Response, Status};

use super::{
    Answers, answers,
    block::EventBlock,
    call, convert,
    proto::v1::{
        CountRequest, CountResponse, GetEventRequest, GetEventResponse, GetStreamRequest,
        GetStreamResponse, ListCategoriesRequest, ListCategoriesResponse, ListEventTypesRequest,
        ListEventTypesResponse, ListStreamsRequest, ListStreamsResponse, ReadAllRequest,
        ReadStreamRequest, RecordedEvent, get_event_request::Key, query_service_server,
    },
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

    /// The request, when the log has reached the position that it asks for.
    async fn reached<T>(
        &self,
        request: Request<T>,
        min_position: impl Fn(&T) -> u64,
    ) -> Result<T, Status> {
        let patience = call::patience(request.metadata());
        let request = request.into_inner();
        let position = Position::new(min_position(&request));
        self.service.reach(position, patience).await?;
        Ok(request)
    }

    fn blocks(&self, scan: Scan) -> Response<Answers<EventBlock>> {
        let blocks = Blocks::new(scan, Arc::clone(self.service.history()));
        Response::new(answers(blocks, |mut blocks| async move {
            let block = blocks.next().await?;
            Some((Ok(EventBlock::from_encoded(block.bytes)), blocks))
        }))
    }
}

#[tonic::async_trait]
impl query_service_server::QueryService for Queries {
    type ReadStreamStream = Answers<EventBlock>;

    async fn read_stream(
        &self,
        request: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let request = self.reached(request, |request| request.min_position).await?;
        let ReadStreamRequest { stream, direction, after, limit, min_position: _ } = request;
        convert::stream_to_read(&stream, &self.limits)?;
        let direction = convert::direction(direction)?;
        let after = Version::new(after);
        Ok(self.blocks(self.service.read_stream(&stream, direction, after, limit)?))
    }

    type ReadAllStream = Answers<EventBlock>;

    async fn read_all(
        &self,
        request: Request<ReadAllRequest>,
    ) -> Result<Response<Self::ReadAllStream>, Status> {
        let request = self.reached(request, |request| request.min_position).await?;
        let ReadAllRequest { direction, after, limit, filters, min_position: _ } = request;
        let direction = convert::direction(direction)?;
        let filter = convert::filter(filters, &self.limits)?;
        let after = Position::new(after);
        Ok(self.blocks(self.service.read_all(&filter, direction, after, limit)))
    }

    async fn get_event(
        &self,
        request: Request<GetEventRequest>,
    ) -> Result<Response<GetEventResponse>, Status> {
        let request = self.reached(request, |request| request.min_position).await?;
        let (reader, position) = match request.key {
            Some(Key::Id(id)) => self.service.find(convert::event_id(&id)?)?,
            Some(Key::Position(0)) => {
                return Err(convert::InvalidRequest::one("position", "must be at least 1").into());
            }
            Some(Key::Position(position)) => self.service.at(Position::new(position))?,
            None => return Err(convert::InvalidRequest::one("key", "must be set").into()),
        };
        let record = reader.record(position).expect("the reader sees it");
        let event = RecordedEvent::decode(format::message(record)).expect("the log holds events");
        Ok(Response::new(GetEventResponse { event: Some(event) }))
    }

    async fn get_stream(
        &self,
        request: Request<GetStreamRequest>,
    ) -> Result<Response<GetStreamResponse>, Status> {
        let request = self.reached(request, |request| request.min_position).await?;
        convert::stream_to_read(&request.stream, &self.limits)?;
        let facts = self.service.stream(&request.stream)?;
        Ok(Response::new(GetStreamResponse { stream: Some(facts.into()) }))
    }

    async fn list_streams(
        &self,
        request: Request<ListStreamsRequest>,
    ) -> Result<Response<ListStreamsResponse>, Status> {
        let request = self.reached(request, |request| request.min_position).await?;
        let ListStreamsRequest { prefix, page_size, page_token, min_position: _ } = request;
        let page = self.service.streams(&convert::page(prefix, page_size, page_token)?);
        Ok(Response::new(ListStreamsResponse {
            streams: page.items.into_iter().map(Into::into).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn list_categories(
        &self,
        request: Request<ListCategoriesRequest>,
    ) -> Result<Response<ListCategoriesResponse>, Status> {
        let request = self.reached(request, |request| request.min_position).await?;
        let ListCategoriesRequest { page_size, page_token, min_position: _ } = request;
        let page = convert::page(String::new(), page_size, page_token)?;
        let page = self.service.categories(&page);
        Ok(Response::new(ListCategoriesResponse {
            categories: page.items.into_iter().map(Into::into).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn list_event_types(
        &self,
        request: Request<ListEventTypesRequest>,
    ) -> Result<Response<ListEventTypesResponse>, Status> {
        let request = self.reached(request, |request| request.min_position).await?;
        let ListEventTypesRequest { page_size, page_token, min_position: _ } = request;
        let page = convert::page(String::new(), page_size, page_token)?;
        let page = self.service.types(&page);
        Ok(Response::new(ListEventTypesResponse {
            event_types: page.items.into_iter().map(Into::into).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn count(
        &self,
        request: Request<CountRequest>,
    ) -> Result<Response<CountResponse>, Status> {
        let request = self.reached(request, |request| request.min_position).await?;
        let filter = convert::filter(request.filters, &self.limits)?;
        let (count, position) = self.service.count(&filter).await;
        Ok(Response::new(CountResponse { count, position: position.get() }))
    }
}
