//! Every mistake that a reader can make: its own `INVALID_ARGUMENT`, the field named.

use annals::wire::proto::v1::{
    CountRequest, Filter, GetEventRequest, GetStreamRequest, ListCategoriesRequest,
    ListEventTypesRequest, ListStreamsRequest, ReadAllRequest, ReadStreamRequest, SubscribeRequest,
    get_event_request::Key,
};
use prost::Message;
use prost_types::Duration;
use tonic::Code;

use crate::support::{Refusal, TestStore, raw::Raw};

fn of_types(types: usize) -> Vec<Filter> {
    vec![Filter { types: vec!["Paid".to_owned(); types], ..Filter::default() }]
}

fn listed(prefix: &str, page_size: u32, page_token: &str) -> Vec<u8> {
    ListStreamsRequest {
        prefix: prefix.to_owned(),
        page_size,
        page_token: page_token.to_owned(),
        min_position: 0,
    }
    .encode_to_vec()
}

fn stream(stream: String, direction: i32) -> Vec<u8> {
    ReadStreamRequest { stream, direction, ..Default::default() }.encode_to_vec()
}

fn heartbeat(seconds: i64, nanos: i32) -> Vec<u8> {
    let heartbeat_interval = Some(Duration { seconds, nanos });
    SubscribeRequest { heartbeat_interval, ..Default::default() }.encode_to_vec()
}

fn key(key: Option<Key>) -> Vec<u8> {
    GetEventRequest { key, min_position: 0 }.encode_to_vec()
}

fn filtered(filters: Vec<Filter>) -> [(&'static str, Vec<u8>); 3] {
    [
        (
            "QueryService/ReadAll",
            ReadAllRequest { filters: filters.clone(), ..Default::default() }.encode_to_vec(),
        ),
        (
            "QueryService/Count",
            CountRequest { filters: filters.clone(), ..Default::default() }.encode_to_vec(),
        ),
        (
            "SubscriptionService/Subscribe",
            SubscribeRequest { filters, ..Default::default() }.encode_to_vec(),
        ),
    ]
}

fn cases() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let get = |stream: &str| {
        GetStreamRequest { stream: stream.to_owned(), min_position: 0 }.encode_to_vec()
    };
    let all = |direction| ReadAllRequest { direction, ..Default::default() }.encode_to_vec();
    let batch = SubscribeRequest { batch_size: 10_001, ..Default::default() };
    let checkpoint = SubscribeRequest { checkpoint_interval: 1_000_001, ..Default::default() };
    let categories = ListCategoriesRequest { page_size: 1001, ..Default::default() };
    let types = ListEventTypesRequest { page_token: "\n".to_owned(), ..Default::default() };
    let mut cases = vec![
        ("QueryService/ReadStream", stream(String::new(), 0), "stream"),
        ("QueryService/ReadStream", stream("x".repeat(513), 0), "stream"),
        ("QueryService/ReadStream", stream("a\nb".to_owned(), 0), "stream"),
        ("QueryService/ReadStream", stream("Payment-1".to_owned(), 3), "direction"),
        ("QueryService/ReadAll", all(-1), "direction"),
        ("QueryService/GetStream", get(""), "stream"),
        ("QueryService/GetStream", get("a\u{9b}b"), "stream"),
        ("QueryService/GetEvent", key(None), "key"),
        ("QueryService/GetEvent", key(Some(Key::Id(String::new()))), "id"),
        ("QueryService/GetEvent", key(Some(Key::Id("17".to_owned()))), "id"),
        ("QueryService/GetEvent", key(Some(Key::Id(uuid::Uuid::nil().to_string()))), "id"),
        ("QueryService/ListStreams", listed("", 1001, ""), "page_size"),
        ("QueryService/ListStreams", listed("Payment-", 0, "Order-1"), "page_token"),
        ("QueryService/ListStreams", listed("", 0, "\n"), "page_token"),
        ("QueryService/ListStreams", listed("\0", 0, ""), "prefix"),
        ("QueryService/ListCategories", categories.encode_to_vec(), "page_size"),
        ("QueryService/ListEventTypes", types.encode_to_vec(), "page_token"),
        ("SubscriptionService/Subscribe", batch.encode_to_vec(), "batch_size"),
        ("SubscriptionService/Subscribe", checkpoint.encode_to_vec(), "checkpoint_interval"),
        ("SubscriptionService/Subscribe", heartbeat(0, 99_999_999), "heartbeat_interval"),
        ("SubscriptionService/Subscribe", heartbeat(3600, 1), "heartbeat_interval"),
        ("SubscriptionService/Subscribe", heartbeat(-10, 0), "heartbeat_interval"),
        ("SubscriptionService/Subscribe", heartbeat(i64::MAX, i32::MAX), "heartbeat_interval"),
        ("SubscriptionService/Subscribe", heartbeat(i64::MIN, i32::MIN), "heartbeat_interval"),
    ];
    let bad_name = Filter { tags_all: vec!["a".to_owned(), String::new()], ..Filter::default() };
    let long_name = Filter { streams: vec!["x".repeat(513)], ..Filter::default() };
    for (filters, field) in [
        (vec![Filter::default()], "filters[0]"),
        (of_types(1001), "filters"),
        (vec![of_types(1).remove(0); 33], "filters"),
        (vec![bad_name], "filters[0].tags_all[1]"),
        (vec![long_name], "filters[0].streams[0]"),
    ] {
        cases.extend(filtered(filters).map(|(path, request)| (path, request, field)));
    }
    cases
}

#[tokio::test]
async fn a_bad_query_is_refused_by_the_name_of_its_field() {
    let store = TestStore::start().await;
    let mut raw = Raw::connect(store.address).await;
    for (path, request, field) in cases() {
        let answer = raw.call(path, &[], &request).await;
        let refusal = answer.status.unwrap_or_else(|| panic!("{path} took a bad {field}"));
        assert_eq!(refusal.code(), Code::InvalidArgument, "{path}, {field}: {refusal}");
        assert_eq!(refusal.reason(), "INVALID_REQUEST", "{path}, {field}");
        assert_eq!(refusal.violations(), [field], "{path}");
    }
}

#[tokio::test]
async fn what_was_never_written_is_not_found_by_its_name() {
    let store = TestStore::start().await;
    store.append("Payment-1", None, ["Paid"]).await.unwrap();
    let request = ReadStreamRequest { stream: "Payment-2".to_owned(), ..Default::default() };
    for refusal in [
        store.read_stream(request).await.unwrap_err(),
        store.stream("Payment-2").await.unwrap_err(),
        // Nobody may write it, anybody may ask.
        store.stream("$Payment-2").await.unwrap_err(),
    ] {
        assert_eq!(refusal.code(), Code::NotFound);
        assert_eq!(refusal.reason(), "UNKNOWN_STREAM");
        assert!(refusal.fact("stream").ends_with("Payment-2"));
    }
    let id = uuid::Uuid::from_u128(17).to_string();
    for (key, name, value) in [
        (Key::Id(id.clone()), "id", id),
        (Key::Position(2), "position", "2".to_owned()),
        (Key::Position(u64::MAX), "position", u64::MAX.to_string()),
    ] {
        let request = GetEventRequest { key: Some(key), min_position: 0 };
        let refusal = store.queries().get_event(request).await.unwrap_err();
        assert_eq!((refusal.code(), &*refusal.reason()), (Code::NotFound, "UNKNOWN_EVENT"));
        assert_eq!(refusal.fact(name), value);
    }
    let request = GetEventRequest { key: Some(Key::Position(0)), min_position: 0 };
    let refusal = store.queries().get_event(request).await.unwrap_err();
    assert_eq!((refusal.code(), &*refusal.reason()), (Code::InvalidArgument, "INVALID_REQUEST"));
}
