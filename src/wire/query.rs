//! `annals.v1.QueryService`.

use std::{sync::Arc, time::Duration};

use prost::Message;
use tonic::{Request, Response, Status, metadata::MetadataValue};

use super::{
    Answers,
    analytics::{self, Kept},
    answers,
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
        filter::Filter,
        limits::Limits,
        log::format,
        position::{Position, Version},
    },
    service::{
        cache::QueryCache,
        query::{QueryError, QueryService},
        scan::{Blocks, Scan},
        search::Found,
    },
};

/// The service on the wire.
pub struct Queries {
    service: QueryService,
    cache: Arc<QueryCache<Kept>>,
    limits: Limits,
}

impl Queries {
    pub fn new(service: QueryService, cache: Arc<QueryCache<Kept>>, limits: Limits) -> Self {
        Self { service, cache, limits }
    }

    /// The answer to the request of this key that was worked out before, if it is still good and the log has
    /// reached the position that the request asks for. One that is kept was a good request.
    fn kept(&self, key: &Vec<u8>, min_position: u64) -> Option<Kept> {
        let history = self.service.history();
        let reached = Position::new(min_position) <= history.log.watermark().get();
        reached.then(|| self.cache.find(key, history)).flatten()
    }

    /// Works an answer out, and keeps it.
    async fn work_out<T: Clone + Into<Kept>>(
        &self,
        key: Vec<u8>,
        filter: &Filter,
        work: impl Future<Output = Result<T, QueryError>> + Send,
    ) -> Result<T, Status> {
        Ok(self.cache.work_out(key, filter, self.service.history(), work).await?)
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
        let key = analytics::count_key(filters.clone());
        if let Some(Kept::Count(answer)) = self.kept(&key, min_position) {
            return Ok(answered(answer, HIT));
        }
        let filter = filter::filter(filters, &self.limits)?;
        self.reach(min_position, patience).await?;
        let work = async {
            let (count, position) = self.service.count(&filter).await;
            Ok(CountResponse { count, position: position.get() })
        };
        Ok(answered(self.work_out(key, &filter, work).await?, MISS))
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
        request: Request<v1::SearchRequest>,
    ) -> Result<Response<Self::SearchStream>, Status> {
        let patience = call::patience(request.metadata());
        let request = request.into_inner();
        let direction = convert::direction(request.direction)?;
        let filter = filter::filter(request.filters.clone(), &self.limits)?;
        let page = analytics::page(&request, direction)?;
        self.reach(request.min_position, patience).await?;
        let search = self.service.search(&filter, direction, page, request.limit)?;
        Ok(Response::new(answers(Some(search), |search| async move {
            let mut search = search?;
            match search.next().await {
                Ok(end @ Found::End { .. }) => Some((Ok(end.into()), None)),
                Ok(found) => Some((Ok(found.into()), Some(search))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }

    type GetCorrelationStream = Answers<v1::GetCorrelationResponse>;

    async fn get_correlation(
        &self,
        request: Request<v1::GetCorrelationRequest>,
    ) -> Result<Response<Self::GetCorrelationStream>, Status> {
        let patience = call::patience(request.metadata());
        let v1::GetCorrelationRequest { correlation_id, limit, min_position } =
            request.into_inner();
        let (id, max) = analytics::correlation(&correlation_id, limit)?;
        self.reach(min_position, patience).await?;
        let timeline = self.service.correlation(&id, max).await?;
        let summary = analytics::summary(&timeline);
        Ok(Response::new(answers(
            (Some(summary), timeline),
            |(summary, mut timeline)| async move {
                let message = summary.or_else(|| analytics::entry(&mut timeline))?;
                Some((Ok(message), (None, timeline)))
            },
        )))
    }

    async fn get_statistics(
        &self,
        request: Request<v1::GetStatisticsRequest>,
    ) -> Result<Response<v1::GetStatisticsResponse>, Status> {
        let patience = call::patience(request.metadata());
        let request = request.into_inner();
        let (min_position, key) =
            (request.min_position, analytics::statistics_key(request.clone()));
        if let Some(Kept::Statistics(answer)) = self.kept(&key, min_position) {
            return Ok(answered(answer, HIT));
        }
        let history = self.service.history();
        let query = analytics::statistics(request, &self.limits, history)?;
        self.reach(min_position, patience).await?;
        let work = async {
            let statistics = self.service.analyse(&query).await?;
            Ok(analytics::statistics_response(statistics, history))
        };
        Ok(answered(self.work_out(key, &query.filter, work).await?, MISS))
    }

    type WatchStatisticsStream = Answers<v1::WatchStatisticsResponse>;

    async fn watch_statistics(
        &self,
        request: Request<v1::WatchStatisticsRequest>,
    ) -> Result<Response<Self::WatchStatisticsStream>, Status> {
        let patience = call::patience(request.metadata());
        let request = request.into_inner();
        let min_position = request.statistics.as_ref().map_or(0, |it| it.min_position);
        let history = Arc::clone(self.service.history());
        let (query, interval) = analytics::watch_statistics(request, &self.limits, &history)?;
        self.reach(min_position, patience).await?;
        let place = self.service.take_place()?;
        let watched = Some((self.service.watch(query), history, place));
        Ok(Response::new(answers(watched, move |watched| async move {
            let (mut watched, history, place) = watched?;
            match watched.next(interval).await {
                Ok(update) => {
                    let message = analytics::statistics_update(update, &history);
                    Some((Ok(message), Some((watched, history, place))))
                }
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }

    async fn get_trends(
        &self,
        request: Request<v1::GetTrendsRequest>,
    ) -> Result<Response<v1::GetTrendsResponse>, Status> {
        let patience = call::patience(request.metadata());
        let request = request.into_inner();
        let (min_position, key) = (request.min_position, analytics::trends_key(request.clone()));
        if let Some(Kept::Trends(answer)) = self.kept(&key, min_position) {
            return Ok(answered(answer, HIT));
        }
        let query = analytics::trends(request, &self.limits, self.service.history())?;
        self.reach(min_position, patience).await?;
        let work = async { Ok(analytics::trends_response(self.service.analyse(&query).await?)) };
        Ok(answered(self.work_out(key, &query.filter, work).await?, MISS))
    }

    type WatchTrendsStream = Answers<v1::WatchTrendsResponse>;

    async fn watch_trends(
        &self,
        request: Request<v1::WatchTrendsRequest>,
    ) -> Result<Response<Self::WatchTrendsStream>, Status> {
        let patience = call::patience(request.metadata());
        let request = request.into_inner();
        let min_position = request.trends.as_ref().map_or(0, |it| it.min_position);
        let (query, interval) =
            analytics::watch_trends(request, &self.limits, self.service.history())?;
        self.reach(min_position, patience).await?;
        let place = self.service.take_place()?;
        let watched = Some((self.service.watch(query), place));
        Ok(Response::new(answers(watched, move |watched| async move {
            let (mut watched, place) = watched?;
            match watched.next(interval).await {
                Ok(update) => Some((Ok(analytics::trends_update(update)), Some((watched, place)))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }

    type ReplayStream = Answers<v1::ReplayResponse>;

    async fn replay(
        &self,
        request: Request<v1::ReplayRequest>,
    ) -> Result<Response<Self::ReplayStream>, Status> {
        let patience = call::patience(request.metadata());
        let request = request.into_inner();
        let min_position = request.min_position;
        let options = analytics::replay(request, &self.limits)?;
        self.reach(min_position, patience).await?;
        let place = self.service.take_place()?;
        let replay = Some((self.service.replay(options).await?, place));
        Ok(Response::new(answers(replay, |replay| async move {
            let (mut replay, place) = replay?;
            match replay.next().await.transpose()? {
                Ok(message) => Some((Ok(message.into()), Some((replay, place)))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let patience = call::patience(request.metadata());
        let v1::ExplainRequest { filters, execute, min_position } = request.into_inner();
        let filter = filter::filter(filters, &self.limits)?;
        self.reach(min_position, patience).await?;
        Ok(Response::new(self.service.explain(&filter, execute).await.into()))
    }
}

const HIT: &str = "hit";
const MISS: &str = "miss";

/// An answer whose headers say where it comes from: `annals-cache`.
fn answered<T>(answer: T, from: &'static str) -> Response<T> {
    let mut response = Response::new(answer);
    response.metadata_mut().insert("annals-cache", MetadataValue::from_static(from));
    response
}

fn blocks(scan: Scan) -> Response<Answers<EventBlock>> {
    Response::new(answers(Blocks(scan), |mut blocks| async move {
        let block = blocks.next().await?;
        let message = block.map(|block| EventBlock::from_encoded(block.bytes));
        Some((message.map_err(Status::from), blocks))
    }))
}
