//! Queries that would take long: their deadlines hold, and whoever goes takes the server's work along.

use annals::wire::proto::v1::{
    CountRequest, ExplainRequest, Filter, GetStatisticsRequest, GetTrendsRequest, JsonMatch,
    JsonOperator, NewEvent, ReadAllRequest, ReplayRequest, SearchRequest, SubscribeRequest,
    WatchStatisticsRequest, new_event::Data,
};
use prost::Message;
use tokio::{runtime::Handle, task::yield_now};
use tonic::Code;

use crate::support::{
    ANY, Refusal, TestStore, asked::of_texts, connect, event, queries, raw::Raw, within,
};

/// So many events of so many bytes that to look through all of them takes far longer than any deadline here.
const EVENTS: usize = 20_000;
const SIZE_BYTES: usize = 2000;

async fn large() -> TestStore {
    let store = TestStore::start().await;
    let text = format!("{{\"a\":[{}0]}}", "\"x\",".repeat(SIZE_BYTES / 4));
    let large = || NewEvent { data: Some(Data::Text(text.clone())), ..event("Large") };
    for _ in 0..EVENTS / 5000 {
        store.append("Large-1", ANY, (0..5000).map(|_| large())).await.unwrap();
    }
    store
}

fn of_json() -> Vec<Filter> {
    let operator = JsonOperator::Exists.into();
    let json = vec![JsonMatch { path: "$.b".to_owned(), operator, value: None }];
    vec![Filter { json, ..Filter::default() }]
}

fn calls(filters: &[Filter]) -> Vec<(&'static str, Vec<u8>)> {
    let filters = || filters.to_vec();
    let count = CountRequest { filters: filters(), ..Default::default() };
    let statistics = GetStatisticsRequest { filters: filters(), ..Default::default() };
    let trends = GetTrendsRequest { filters: filters(), unit: 1, ..Default::default() };
    let watch = WatchStatisticsRequest { statistics: Some(statistics.clone()), interval: None };
    let explain = ExplainRequest { filters: filters(), execute: true, ..Default::default() };
    let search = SearchRequest { filters: filters(), ..Default::default() };
    let read = ReadAllRequest { filters: filters(), direction: 2, ..Default::default() };
    let replay = ReplayRequest { filters: filters(), ..Default::default() };
    let subscribe = SubscribeRequest { filters: filters(), ..Default::default() };
    vec![
        ("QueryService/Count", count.encode_to_vec()),
        ("QueryService/GetStatistics", statistics.encode_to_vec()),
        ("QueryService/GetTrends", trends.encode_to_vec()),
        ("QueryService/WatchStatistics", watch.encode_to_vec()),
        ("QueryService/Explain", explain.encode_to_vec()),
        ("QueryService/Search", search.encode_to_vec()),
        ("QueryService/ReadAll", read.encode_to_vec()),
        ("QueryService/Replay", replay.encode_to_vec()),
        ("SubscriptionService/Subscribe", subscribe.encode_to_vec()),
    ]
}

#[tokio::test]
async fn a_query_that_takes_too_long_ends_at_its_deadline() {
    let store = large().await;
    let mut raw = Raw::connect(store.address).await;
    for filters in [of_texts(&["needle", "NADEL"]), of_json()] {
        for (path, request) in calls(&filters) {
            let answer = raw.call(path, &[("grpc-timeout", "5m")], &request).await;
            let status = answer.status.unwrap_or_else(|| panic!("{path} was that fast"));
            assert_eq!(status.code(), Code::DeadlineExceeded, "{path}: {status}");
            assert_eq!(status.reason(), "DEADLINE_EXCEEDED", "{path}");
        }
    }
    // Nothing of it goes on, and nothing of it was kept.
    let info = store.info().await;
    assert_eq!((info.subscription_count, info.query_cache.unwrap().miss_count), (0, 0));
}

/// Tasks of this runtime, the server's and the clients'.
fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

async fn until(done: impl Fn() -> bool) {
    within(async {
        while !done() {
            yield_now().await;
        }
    })
    .await;
}

/// Another call, begun before, has as much to do: it would end first.
#[tokio::test]
async fn the_work_of_a_call_ends_when_its_client_goes() {
    let store = large().await;
    let (first, second) = (connect(store.address).await, connect(store.address).await);
    // Both connections are in use, and their tasks are there.
    for channel in [&first, &second] {
        let count = CountRequest::default();
        within(queries(channel.clone()).count(count)).await.unwrap();
    }
    for call in ["Count", "GetStatistics", "Explain", "Search", "Replay", "Subscribe"] {
        let idle = tasks();
        let long = ExplainRequest { filters: of_json(), execute: true, min_position: 0 };
        let mut queries_of_first = queries(first.clone());
        let reference = tokio::spawn(async move { queries_of_first.explain(long).await });
        until(|| tasks() >= idle + 2).await;
        let before = tasks();
        let (filters, mut queries) = (of_json(), queries(second.clone()));
        // Where the call answers with a stream, that is what is dropped.
        match call {
            "Count" => {
                let request = CountRequest { filters, ..Default::default() };
                tokio::select! {
                    _ = queries.count(request) => panic!("it was that fast"),
                    () = until(|| tasks() > before) => {}
                }
            }
            "GetStatistics" => {
                let request = GetStatisticsRequest { filters, ..Default::default() };
                tokio::select! {
                    _ = queries.get_statistics(request) => panic!("it was that fast"),
                    () = until(|| tasks() > before) => {}
                }
            }
            "Explain" => {
                let request = ExplainRequest { filters, execute: true, min_position: 0 };
                tokio::select! {
                    _ = queries.explain(request) => panic!("it was that fast"),
                    () = until(|| tasks() > before) => {}
                }
            }
            "Search" => {
                let request = SearchRequest { filters, ..Default::default() };
                drop(within(queries.search(request)).await.unwrap());
            }
            "Replay" => {
                let request = ReplayRequest { filters, ..Default::default() };
                drop(within(queries.replay(request)).await.unwrap());
            }
            _ => {
                let request = SubscribeRequest { filters, ..Default::default() };
                drop(crate::support::subscribe(second.clone(), request).await.unwrap());
            }
        }
        until(|| tasks() <= before).await;
        assert!(!reference.is_finished(), "{call} has gone on to its end");
        reference.abort();
        until(|| tasks() <= idle).await;
    }
    // Nothing has come to its end.
    let cache = store.info().await.query_cache.unwrap();
    assert_eq!(cache.miss_count, 1, "only the first that counted everything: {cache:?}");
}
