//! `min_position`: a client reads its own writes, or is told that they have not arrived.

use annals::wire::proto::v1::{
    CountRequest, ExplainRequest, ExplainResponse, GetEventRequest, GetStatisticsRequest,
    GetStatisticsResponse, GetStreamRequest, GetTrendsRequest, GetTrendsResponse,
    ListCategoriesRequest, ListEventTypesRequest, ListStreamsRequest, ReadAllRequest,
    ReadStreamRequest, get_event_request::Key,
};
use prost::Message;
use tonic::Code;

use crate::support::{ANY, Events, Refusal, TestStore, raw::Raw, within};

/// Every query, with this `min_position`.
fn queries(min_position: u64) -> Vec<(&'static str, Vec<u8>)> {
    let stream = || "Payment-1".to_owned();
    let key = Some(Key::Position(1));
    let list_streams = ListStreamsRequest { min_position, ..Default::default() };
    let categories = ListCategoriesRequest { min_position, ..Default::default() };
    let types = ListEventTypesRequest { min_position, ..Default::default() };
    let read_all = ReadAllRequest { min_position, ..Default::default() };
    let statistics = GetStatisticsRequest { min_position, ..Default::default() };
    let trends = GetTrendsRequest { min_position, unit: 1, ..Default::default() };
    let read = ReadStreamRequest { stream: stream(), min_position, ..Default::default() };
    vec![
        ("ReadStream", read.encode_to_vec()),
        ("ReadAll", read_all.encode_to_vec()),
        ("GetEvent", GetEventRequest { key, min_position }.encode_to_vec()),
        ("GetStream", GetStreamRequest { stream: stream(), min_position }.encode_to_vec()),
        ("ListStreams", list_streams.encode_to_vec()),
        ("ListCategories", categories.encode_to_vec()),
        ("ListEventTypes", types.encode_to_vec()),
        ("Count", CountRequest { min_position, ..Default::default() }.encode_to_vec()),
        ("GetStatistics", statistics.encode_to_vec()),
        ("GetTrends", trends.encode_to_vec()),
        ("Explain", ExplainRequest { min_position, ..Default::default() }.encode_to_vec()),
    ]
}

#[tokio::test]
async fn a_query_waits_for_its_min_position() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Opened"]).await.unwrap();
    let mut raw = Raw::connect(store.address).await;
    let mut waiting = Vec::new();
    for (name, request) in queries(3) {
        let mut call = raw.begin(&format!("QueryService/{name}"), &[]).await;
        call.request.send_data(crate::support::raw::frame(&request), true).unwrap();
        waiting.push((name, call));
    }
    let read = tokio::spawn({
        let mut queries = store.queries();
        let request = ReadAllRequest { min_position: 3, ..ReadAllRequest::default() };
        async move {
            let mut blocks = queries.read_all(request).await.unwrap().into_inner();
            blocks.message().await.unwrap().unwrap().events
        }
    });
    // Not enough yet, then enough.
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    store.append("Payment-1", ANY, ["Noted"]).await.unwrap();
    assert_eq!(within(read).await.unwrap().types(), ["Opened", "Paid", "Noted"]);
    for (name, call) in waiting {
        let answer = call.end().await;
        assert!(answer.status.is_none(), "{name}: {:?}", answer.status);
        assert_eq!(answer.messages.len(), 1, "{name}");
        let count = match name {
            "GetStream" => {
                use annals::wire::proto::v1::GetStreamResponse as R;
                answer.decoded::<R>()[0].stream.as_ref().unwrap().version
            }
            "GetStatistics" => answer.decoded::<GetStatisticsResponse>()[0].event_count,
            "GetTrends" => answer.decoded::<GetTrendsResponse>()[0].event_count,
            "Explain" => answer.decoded::<ExplainResponse>()[0].candidates_max,
            "Count" => answer.decoded::<annals::wire::proto::v1::CountResponse>()[0].count,
            "ReadAll" | "ReadStream" => {
                use annals::wire::proto::v1::Segment;
                answer.decoded::<Segment>()[0].events.len() as u64
            }
            _ => 3,
        };
        assert_eq!(count, 3, "{name}");
    }
}

#[tokio::test]
async fn a_min_position_that_does_not_come_is_told_at_the_calls_deadline() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Opened"]).await.unwrap();
    let mut raw = Raw::connect(store.address).await;
    for (name, request) in queries(2) {
        let path = format!("QueryService/{name}");
        let answer = raw.call(&path, &[("grpc-timeout", "100m")], &request).await;
        let status = answer.status.unwrap_or_else(|| panic!("{name} did not wait"));
        assert_eq!(status.code(), Code::DeadlineExceeded, "{name}: {status}");
        assert_eq!(status.reason(), "MIN_POSITION_NOT_REACHED", "{name}");
        assert_eq!((&*status.fact("min_position"), &*status.fact("head")), ("2", "1"), "{name}");
    }
    // What is there already is not waited for.
    for (name, request) in queries(1) {
        let answer = raw.call(&format!("QueryService/{name}"), &[], &request).await;
        assert!(answer.status.is_none(), "{name}");
    }
}
