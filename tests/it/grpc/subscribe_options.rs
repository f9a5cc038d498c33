//! Subscribe: how it can be asked for, and what it says of its events.

use annals::wire::proto::v1::{
    Filter, NewEvent, RecordedEvent, StartTime, SubscribeRequest, SubscribeResponse, TimeBase,
    new_event, subscribe_request::Start, subscribe_response::Message,
    subscription_service_client::SubscriptionServiceClient,
};
use prost_types::{Duration, Timestamp};
use tonic::{Code, Streaming};

use crate::support::{ANY, Events, Refusal, TestStore, event, within};

fn of_types(names: &[&str]) -> Vec<Filter> {
    let types = names.iter().map(|name| (*name).to_owned()).collect();
    vec![Filter { types, ..Filter::default() }]
}

async fn messages(store: &TestStore, request: SubscribeRequest) -> Streaming<SubscribeResponse> {
    let client = SubscriptionServiceClient::new(store.channel.clone());
    let mut client = client.max_decoding_message_size(usize::MAX);
    within(client.subscribe(request)).await.unwrap().into_inner()
}

/// The next message with events, and what it says of them.
async fn batch(messages: &mut Streaming<SubscribeResponse>) -> (Vec<RecordedEvent>, u64, bool) {
    loop {
        let SubscribeResponse { message, pending, replaying } =
            within(messages.message()).await.unwrap().unwrap();
        if let Some(Message::Events(block)) = message {
            return (block.events, pending, replaying);
        }
        assert_eq!((pending, replaying), (0, false), "they are of events: {message:?}");
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

#[tokio::test]
async fn a_subscription_from_a_time_begins_with_the_first_event_of_it_or_later() {
    let store = TestStore::start().await;
    for seconds in [100, 300, 200, 400] {
        let event = NewEvent { occurred_at: Some(at(seconds)), ..event("Paid") };
        store.append("Payment-1", ANY, [event]).await.unwrap();
    }
    let log = store.read_all().await;
    let recorded = |index: usize| log[index].recorded_at;
    let later = recorded(3).map(|at| Timestamp { seconds: at.seconds + 1000, ..at });
    for (moment, base, after) in [
        (Some(at(0)), TimeBase::Occurred, 0),
        (Some(at(100)), TimeBase::Unspecified, 0),
        (Some(at(101)), TimeBase::Occurred, 1),
        // What follows is sent whatever its time.
        (Some(at(250)), TimeBase::Occurred, 1),
        (Some(at(400)), TimeBase::Occurred, 3),
        (Some(at(401)), TimeBase::Occurred, 4),
        (Some(at(401)), TimeBase::Recorded, 0),
        (later, TimeBase::Recorded, 4),
    ] {
        let start = StartTime { at: moment, time_base: base.into() };
        let start = Some(Start::FromTime(start));
        let request = SubscribeRequest { start, ..SubscribeRequest::default() };
        let mut subscription = store.subscribe(request).await.unwrap();
        let Message::Confirmed(confirmed) = subscription.next().await.unwrap() else {
            panic!("it is confirmed first")
        };
        assert_eq!((confirmed.after, confirmed.head), (after, 4), "{start:?}");
        let (events, _) = subscription.until_caught_up().await;
        assert!(events.positions().into_iter().eq(after + 1..=4), "{start:?}");
    }
    // Of several with one time the first.
    let start = StartTime { at: recorded(2), time_base: TimeBase::Recorded.into() };
    let request = SubscribeRequest { start: Some(Start::FromTime(start)), ..Default::default() };
    let first = log.iter().find(|event| {
        let key = |at: Option<Timestamp>| at.map(|at| (at.seconds, at.nanos));
        key(event.recorded_at) >= key(recorded(2))
    });
    let mut subscription = store.subscribe(request).await.unwrap();
    assert_eq!(subscription.event().await.unwrap().position, first.unwrap().position);
}

#[tokio::test]
async fn a_message_holds_no_more_bytes_than_asked_for_or_one_event() {
    let store = TestStore::start().await;
    let with = |size: usize| NewEvent {
        data: Some(new_event::Data::Text("x".repeat(size))),
        ..event("Paid")
    };
    let sizes = [450, 450, 450, 450, 5000, 450, 130_000, 450];
    store.append("Payment-1", ANY, sizes.map(with)).await.unwrap();
    for filters in [vec![], of_types(&["Paid"])] {
        for (bytes, expected) in [
            (1024, vec![vec![1], vec![2], vec![3], vec![4], vec![5], vec![6], vec![7], vec![8]]),
            (1500, vec![vec![1, 2], vec![3, 4], vec![5], vec![6], vec![7], vec![8]]),
            (0, vec![vec![1, 2, 3, 4, 5, 6], vec![7], vec![8]]),
            (1 << 20, vec![vec![1, 2, 3, 4, 5, 6, 7, 8]]),
        ] {
            let filters = filters.clone();
            let request =
                SubscribeRequest { filters, batch_size_bytes: bytes, ..Default::default() };
            let mut subscription = store.subscribe(request).await.unwrap();
            let mut sent = Vec::new();
            loop {
                match subscription.next().await.unwrap() {
                    Message::Events(block) => sent.push(block.events.positions()),
                    Message::CaughtUp(_) => break,
                    _ => {}
                }
            }
            assert_eq!(sent, expected, "{bytes}");
        }
    }
}

/// Exact where one value of one index is named, or nothing; at most too high elsewhere.
#[tokio::test]
async fn events_say_how_many_more_wait() {
    let store = TestStore::start().await;
    let tagged = |name: &str, tag: &str| NewEvent {
        tags: vec![tag.to_owned()],
        correlation_id: "flow".to_owned(),
        ..event(name)
    };
    for _ in 0..10 {
        let events = [tagged("Paid", "red"), tagged("Paid", "blue"), event("Failed")];
        store.append("Payment-1", ANY, events).await.unwrap();
    }
    let tags = |tag: &str| Filter { tags: vec![tag.to_owned()], ..Filter::default() };
    let flow = Filter { correlation_ids: vec!["flow".to_owned()], ..Filter::default() };
    let prefix = Filter { stream_prefixes: vec!["Payment-".to_owned()], ..Filter::default() };
    let paid_red = Filter { types: vec!["Paid".to_owned()], ..tags("red") };
    let many = (0..9).map(|_| tags("red")).collect();
    for (what, filters, pending) in [
        ("nothing", vec![], 26),
        ("a type", of_types(&["Paid"]), 16),
        ("a tag", vec![tags("blue")], 6),
        ("a correlation id", vec![flow], 16),
        // Ten are red, of which four were sent: no part of an intersection has fewer.
        ("a type and a tag", vec![paid_red], 6),
        // The sum of the parts.
        ("two clauses", vec![tags("red"), tags("blue")], 16),
        ("a prefix", vec![prefix], 26),
        // Everything that is left, at least.
        ("many clauses", many, 20),
    ] {
        let request = SubscribeRequest { filters, batch_size: 4, ..Default::default() };
        let mut messages = messages(&store, request).await;
        let mut told = Vec::new();
        let mut left = Vec::new();
        loop {
            let (events, pending, replaying) = batch(&mut messages).await;
            assert!(replaying, "{what}");
            told.push(pending);
            left.push(events.len() as u64);
            if pending == 0 {
                break;
            }
        }
        assert_eq!(told[0], pending, "{what}: {told:?}");
        // Never too few.
        for (index, pending) in told.iter().enumerate() {
            assert!(*pending >= left[index + 1..].iter().sum(), "{what}: {told:?}");
        }
    }
}

/// No message has events of both; what comes after the confirmation is live.
#[tokio::test]
async fn replaying_are_the_events_that_were_there() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, vec!["Paid"; 100]).await.unwrap();
    for filters in [vec![], of_types(&["Paid"])] {
        let head = store.head().await;
        let request = SubscribeRequest { filters, batch_size: 30, ..SubscribeRequest::default() };
        let mut messages = messages(&store, request).await;
        let first = within(messages.message()).await.unwrap().unwrap().message;
        let Some(Message::Confirmed(confirmed)) = first else { panic!("it is confirmed first") };
        assert_eq!(confirmed.head, head);
        store.append("Payment-1", ANY, vec!["Paid"; 50]).await.unwrap();
        let mut last = 0;
        while last < head + 50 {
            let (events, _, replaying) = batch(&mut messages).await;
            for event in events {
                assert_eq!(replaying, event.position <= head, "{} of {head}", event.position);
                last = event.position;
            }
        }
    }
}

/// Every new field of a request, on both sides of its bounds.
#[tokio::test]
async fn a_bad_subscription_is_refused_by_the_names_of_its_fields() {
    let store = TestStore::start().await;
    let duration = |seconds, nanos| Some(Duration { seconds, nanos });
    let time = |at, time_base| Some(Start::FromTime(StartTime { at, time_base }));
    let default = SubscribeRequest::default;
    for (request, field) in [
        (SubscribeRequest { batch_size_bytes: 1, ..default() }, "batch_size_bytes"),
        (SubscribeRequest { batch_size_bytes: 1023, ..default() }, "batch_size_bytes"),
        (SubscribeRequest { batch_size_bytes: (1 << 20) + 1, ..default() }, "batch_size_bytes"),
        (SubscribeRequest { batch_wait_max: duration(10, 1), ..default() }, "batch_wait_max"),
        (SubscribeRequest { batch_wait_max: duration(0, -1), ..default() }, "batch_wait_max"),
        (
            SubscribeRequest { checkpoint_wait_max: duration(0, 99_999_999), ..default() },
            "checkpoint_wait_max",
        ),
        (
            SubscribeRequest { checkpoint_wait_max: duration(3600, 1), ..default() },
            "checkpoint_wait_max",
        ),
        (SubscribeRequest { name: "x".repeat(257), ..default() }, "name"),
        (SubscribeRequest { name: "a\tb".to_owned(), ..default() }, "name"),
        (SubscribeRequest { start: time(None, 0), ..default() }, "from_time.at"),
        (
            SubscribeRequest { start: time(Some(at(-62_135_596_801)), 0), ..default() },
            "from_time.at",
        ),
        (SubscribeRequest { start: time(Some(at(0)), 3), ..default() }, "from_time.time_base"),
    ] {
        let refusal = store.subscribe(request).await.err().unwrap_or_else(|| panic!("{field}"));
        assert_eq!(refusal.code(), Code::InvalidArgument, "{field}");
        assert_eq!(refusal.violations(), [field]);
    }
    // All at once.
    let request = SubscribeRequest {
        start: time(None, -1),
        batch_size: 10_001,
        batch_size_bytes: 1,
        batch_wait_max: duration(11, 0),
        checkpoint_interval: 1_000_001,
        checkpoint_wait_max: duration(0, 0),
        heartbeat_interval: duration(0, 0),
        name: "\n".to_owned(),
        filters: vec![Filter::default()],
    };
    let refusal = store.subscribe(request).await.err().unwrap();
    let mut violations = refusal.violations();
    violations.sort();
    let expected = [
        "batch_size",
        "batch_size_bytes",
        "batch_wait_max",
        "checkpoint_interval",
        "checkpoint_wait_max",
        "filters[0]",
        "from_time.at",
        "from_time.time_base",
        "heartbeat_interval",
        "name",
    ];
    assert_eq!(violations, expected);
    // The bounds themselves.
    let request = SubscribeRequest {
        batch_size_bytes: 1 << 20,
        batch_wait_max: duration(10, 0),
        checkpoint_wait_max: duration(3600, 0),
        name: "x".repeat(256),
        ..default()
    };
    assert!(store.subscribe(request).await.is_ok());
    let least = SubscribeRequest {
        batch_size_bytes: 1024,
        batch_wait_max: duration(0, 0),
        checkpoint_wait_max: duration(0, 100_000_000),
        ..default()
    };
    assert!(store.subscribe(least).await.is_ok());
    assert_eq!(store.info().await.subscription_count, 0, "the refused take no place");
}
