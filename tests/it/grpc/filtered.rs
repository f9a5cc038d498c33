//! Reads and subscriptions with every field that a filter has.

use annals::wire::proto::v1::{
    Filter, JsonMatch, JsonOperator, MetadataMatch, NewEvent, ReadAllRequest, SubscribeRequest,
    TimeRange, subscribe_response::Message,
};
use prost_types::{Value, value::Kind};

use crate::support::{
    ANY, Events, TestStore,
    asked::{at, of_texts, saying, strings},
};

const CORRELATION: &str = "order-7";

/// An event that every filter below picks, and one that none does.
fn event(picked: bool) -> NewEvent {
    let (amount, text) = if picked { (12, "Straße") } else { (9, "Gasse") };
    let metadata = |key: &str| (key.to_owned(), if picked { "u-7" } else { "u-8" }.to_owned());
    NewEvent {
        correlation_id: if picked { CORRELATION } else { "order-8" }.to_owned(),
        causation_id: if picked { "command-7" } else { "" }.to_owned(),
        metadata: [metadata("userId"), metadata("ip")].into(),
        occurred_at: Some(at(if picked { "2010-10-31T02:00:00Z" } else { "2010-10-31T01:59:59Z" })),
        ..saying("Paid", &format!("{{\"amount\":{amount},\"at\":\"{text}\"}}"))
    }
}

fn metadata(key: &str) -> Filter {
    let entry = MetadataMatch { key: key.to_owned(), values: strings(&["u-6", "u-7"]) };
    Filter { metadata: vec![entry], ..Filter::default() }
}

fn filters() -> Vec<(&'static str, Filter)> {
    let json = JsonMatch {
        path: "$.amount".to_owned(),
        operator: JsonOperator::GreaterOrEqual.into(),
        value: Some(Value { kind: Some(Kind::NumberValue(9.5)) }),
    };
    let occurred = TimeRange {
        from: Some(at("2010-10-31T02:00:00Z")),
        to: Some(at("2010-10-31T02:00:00.000000001Z")),
    };
    vec![
        (
            "correlation ids",
            Filter { correlation_ids: strings(&["order-6", CORRELATION]), ..Filter::default() },
        ),
        ("causation ids", Filter { causation_ids: strings(&["command-7"]), ..Filter::default() }),
        ("indexed metadata", metadata("userId")),
        ("other metadata", metadata("ip")),
        ("occurred", Filter { occurred: Some(occurred), ..Filter::default() }),
        ("texts", of_texts(&["never", "STRAße"]).remove(0)),
        ("json", Filter { json: vec![json], ..Filter::default() }),
        (
            "stream prefixes",
            Filter { stream_prefixes: strings(&["Payment-p"]), ..Filter::default() },
        ),
        (
            "recorded",
            Filter {
                recorded: Some(TimeRange { from: Some(at("2001-01-01T00:00:00Z")), to: None }),
                correlation_ids: strings(&[CORRELATION]),
                ..Filter::default()
            },
        ),
    ]
}

/// Three that are picked, among others.
async fn append(store: &TestStore) {
    for picked in [false, true, false, false, true, true, false] {
        let stream = if picked { "Payment-picked" } else { "Payment-other" };
        store.append(stream, ANY, [event(picked)]).await.unwrap();
    }
}

#[tokio::test]
async fn a_read_gives_what_each_field_picks_in_both_directions() {
    let store = TestStore::start().await;
    append(&store).await;
    for (what, filter) in filters() {
        let read = |direction| ReadAllRequest {
            direction,
            filters: vec![filter.clone()],
            ..ReadAllRequest::default()
        };
        assert_eq!(store.read(read(1)).await.unwrap().positions(), [2, 5, 6], "{what}");
        assert_eq!(store.read(read(2)).await.unwrap().positions(), [6, 5, 2], "{what}");
        let part = ReadAllRequest { after: 2, limit: 1, ..read(1) };
        assert_eq!(store.read(part).await.unwrap().positions(), [5], "{what}");
        assert_eq!(store.count(vec![filter]).await.unwrap(), 3, "{what}");
    }
    // Any of the filters, and each event once.
    let all: Vec<Filter> = filters().into_iter().map(|(_, filter)| filter).collect();
    let read = ReadAllRequest { filters: all.clone(), ..ReadAllRequest::default() };
    assert_eq!(store.read(read).await.unwrap().positions(), [2, 5, 6]);
    // All of the fields at once.
    let mut both = Filter::default();
    for filter in all {
        both.correlation_ids.extend(filter.correlation_ids);
        both.causation_ids.extend(filter.causation_ids);
        both.metadata.extend(filter.metadata);
        both.texts.extend(filter.texts);
        both.json.extend(filter.json);
        both.stream_prefixes.extend(filter.stream_prefixes);
        both.occurred = both.occurred.or(filter.occurred);
    }
    assert_eq!(store.count(vec![both]).await.unwrap(), 3);
}

/// What was there before, and what comes later: names that nobody had used, too.
#[tokio::test]
async fn a_subscription_is_sent_what_each_field_picks_before_and_after_it_has_caught_up() {
    let store = TestStore::start().await;
    let mut subscriptions = Vec::new();
    for (what, filter) in filters() {
        let request = SubscribeRequest { filters: vec![filter], ..SubscribeRequest::default() };
        let mut subscription = store.subscribe(request).await.unwrap();
        assert_eq!(subscription.until_caught_up().await, (vec![], 0));
        subscriptions.push((what, subscription));
    }
    append(&store).await;
    for (what, filter) in filters() {
        let request = SubscribeRequest { filters: vec![filter], ..SubscribeRequest::default() };
        let mut subscription = store.subscribe(request).await.unwrap();
        let (events, caught_up) = subscription.until_caught_up().await;
        assert_eq!((events.positions(), caught_up), (vec![2, 5, 6], 7), "{what}");
        subscriptions.push((what, subscription));
    }
    append(&store).await;
    let early = filters().len();
    for (index, (what, mut subscription)) in subscriptions.into_iter().enumerate() {
        let expected: &[u64] = if index < early { &[2, 5, 6, 9, 12, 13] } else { &[9, 12, 13] };
        let mut positions = Vec::new();
        while positions.len() < expected.len() {
            if let Message::Events(block) = subscription.next().await.unwrap() {
                positions.extend(block.events.positions());
            }
        }
        assert_eq!(positions, expected, "{what}");
    }
}
