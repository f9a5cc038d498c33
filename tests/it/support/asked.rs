//! What is asked of a history, and events to ask about.

use annals::wire::proto::v1::{
    CorrelationSummary, CountRequest, CountResponse, DeleteStreamRequest, ExplainRequest,
    ExplainResponse, Filter, GetCorrelationRequest, GetStatisticsRequest, GetStatisticsResponse,
    GetTrendsRequest, GetTrendsResponse, GroupBy, Grouping, NewEvent, RecordedEvent, ReplayRequest,
    SearchEnd, SearchRequest, TimelineEntry, get_correlation_response, new_event::Data,
    replay_response, search_response,
};
use prost_types::Timestamp;
use tonic::{Response, Status};

use super::{TestStore, event, within};

/// The moment, as RFC 3339 writes it.
pub fn at(time: &str) -> Timestamp {
    time.parse().unwrap_or_else(|error| panic!("{time}: {error}"))
}

/// An event that happened then.
pub fn happened(event_type: &str, time: &str) -> NewEvent {
    NewEvent { occurred_at: Some(at(time)), ..event(event_type) }
}

/// An event that says this.
pub fn saying(event_type: &str, text: &str) -> NewEvent {
    NewEvent { data: Some(Data::Text(text.to_owned())), ..event(event_type) }
}

pub fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub fn of_types(types: &[&str]) -> Vec<Filter> {
    vec![Filter { types: strings(types), ..Filter::default() }]
}

pub fn of_texts(texts: &[&str]) -> Vec<Filter> {
    vec![Filter { texts: strings(texts), ..Filter::default() }]
}

pub fn of_streams(streams: &[&str]) -> Vec<Filter> {
    vec![Filter { streams: strings(streams), ..Filter::default() }]
}

pub fn by(grouping: Grouping) -> GroupBy {
    GroupBy { grouping: grouping.into(), metadata_key: String::new() }
}

pub fn by_metadata(key: &str) -> GroupBy {
    GroupBy { grouping: Grouping::Metadata.into(), metadata_key: key.to_owned() }
}

/// The rows of each group.
pub fn rows(statistics: &GetStatisticsResponse) -> Vec<Vec<(&str, u64)>> {
    let rows = |group: &annals::wire::proto::v1::StatisticsGroup| group.rows.len();
    let mut groups = Vec::with_capacity(statistics.groups.iter().map(rows).sum());
    for group in &statistics.groups {
        groups.push(group.rows.iter().map(|row| (&*row.key, row.count)).collect());
    }
    groups
}

/// The rows' keys, series and counts.
pub fn trend_rows(trends: &GetTrendsResponse) -> Vec<(&str, &str, u64)> {
    trends.rows.iter().map(|row| (&*row.key, &*row.series, row.count)).collect()
}

/// Whether the answer was kept, as its headers say.
pub fn is_hit<T>(response: &Response<T>) -> bool {
    match response.metadata().get("annals-cache").map(|outcome| outcome.to_str().unwrap()) {
        Some("hit") => true,
        Some("miss") => false,
        other => panic!("annals-cache: {other:?}"),
    }
}

/// One page of a search.
pub struct Page {
    pub events: Vec<RecordedEvent>,
    pub end: SearchEnd,
}

impl TestStore {
    pub async fn search(&self, request: SearchRequest) -> Result<Page, Status> {
        use search_response::Message;
        within(async {
            let mut answers = self.queries().search(request).await?.into_inner();
            let mut events = Vec::new();
            loop {
                let answer = answers.message().await?.expect("it ends with its end");
                match answer.message.expect("we know all of them") {
                    Message::Events(block) => events.extend(block.events),
                    Message::Progress(_) => {}
                    Message::End(end) => {
                        assert_eq!(answers.message().await?, None, "the end is the last message");
                        return Ok(Page { events, end });
                    }
                }
            }
        })
        .await
    }

    pub async fn correlation(
        &self,
        id: &str,
        limit: u32,
    ) -> Result<(CorrelationSummary, Vec<TimelineEntry>), Status> {
        use get_correlation_response::Message;
        let correlation_id = id.to_owned();
        let request = GetCorrelationRequest { correlation_id, limit, min_position: 0 };
        within(async {
            let mut answers = self.queries().get_correlation(request).await?.into_inner();
            let (mut summary, mut entries) = (None, Vec::new());
            while let Some(answer) = answers.message().await? {
                match answer.message.expect("we know all of them") {
                    Message::Summary(first) => {
                        assert!(summary.is_none() && entries.is_empty(), "it comes first, once");
                        summary = Some(first);
                    }
                    Message::Entry(entry) => entries.push(entry),
                }
            }
            Ok((summary.expect("it comes first"), entries))
        })
        .await
    }

    pub async fn statistics(
        &self,
        request: GetStatisticsRequest,
    ) -> Result<GetStatisticsResponse, Status> {
        Ok(within(self.queries().get_statistics(request)).await?.into_inner())
    }

    pub async fn trends(&self, request: GetTrendsRequest) -> Result<GetTrendsResponse, Status> {
        Ok(within(self.queries().get_trends(request)).await?.into_inner())
    }

    /// A count, and whether it was kept.
    pub async fn counted(&self, filters: Vec<Filter>) -> (CountResponse, bool) {
        let request = CountRequest { filters, min_position: 0 };
        let response = within(self.queries().count(request)).await.unwrap();
        let is_hit = is_hit(&response);
        (response.into_inner(), is_hit)
    }

    /// A replay, to its end.
    pub async fn replay(
        &self,
        request: ReplayRequest,
    ) -> Result<Vec<replay_response::Message>, Status> {
        within(async {
            let mut answers = self.queries().replay(request).await?.into_inner();
            let mut messages = Vec::new();
            while let Some(answer) = answers.message().await? {
                messages.push(answer.message.expect("we know all of them"));
            }
            Ok(messages)
        })
        .await
    }

    pub async fn explain(&self, filters: Vec<Filter>, execute: bool) -> ExplainResponse {
        let request = ExplainRequest { filters, execute, min_position: 0 };
        within(self.queries().explain(request)).await.unwrap().into_inner()
    }

    pub async fn hide_stream(&self, stream: &str) {
        let stream = stream.to_owned();
        let request = DeleteStreamRequest { stream, expected_version: None };
        within(self.commands().delete_stream(request)).await.unwrap();
    }
}
