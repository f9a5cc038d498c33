//! Appends, reads and subscriptions.

use std::time::Duration;

use annals_client::{Client, Data, Error, ExpectedVersion, Filter, NewEvent, testing::TestStore};

#[tokio::test]
async fn what_was_appended_is_read_with_every_field() {
    let store = TestStore::start().await;
    let client = store.client();
    let new = NewEvent::json("PaymentProcessed", &serde_json::json!({"amount": 12}))
        .unwrap()
        .correlation_id("order-1")
        .causation_id("command-1")
        .metadata("userId", "u1")
        .tag("eur")
        .occurred_at("2024-03-01T10:00:00.123456789Z".parse().unwrap());
    let appended =
        client.append("Payment-1", ExpectedVersion::NoStream, [new.clone()]).await.unwrap();
    assert_eq!((appended.version, appended.position, appended.duplicate), (1, 1, false));

    let events = client.read_all().collect().await.unwrap();
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(event.id, new.id);
    assert_eq!(event.data, Data::Text(r#"{"amount":12}"#.to_owned()));
    assert_eq!(event.content_type, "application/json");
    assert_eq!(event.category(), "Payment");
    assert_eq!(event.occurred_at, new.occurred_at.unwrap());
    assert_eq!(event.correlation_id, new.correlation_id);
    assert_eq!(event.causation_id, new.causation_id);
    assert_eq!(event.metadata, new.metadata);
    assert_eq!(event.tags, new.tags);
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_with_both_versions() {
    let store = TestStore::start().await;
    let client = store.client();
    client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await.unwrap();
    let refused = client.append("Payment-1", 0, [NewEvent::new("PaymentFailed")]).await;
    let Err(Error::WrongExpectedVersion { stream, expected, actual }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((stream.as_str(), expected, actual), ("Payment-1", 0, 1));
}

#[tokio::test]
async fn a_subscription_gives_each_matching_event_once_and_in_order() {
    let store = TestStore::start().await;
    let client = store.client();
    let mut subscription =
        client.subscribe().filter(Filter::new().category("Payment")).start().await.unwrap();
    for number in 0..10 {
        let stream = format!("{}-{number}", if number % 2 == 0 { "Payment" } else { "User" });
        client.append(stream, 0, [NewEvent::new("Made")]).await.unwrap();
    }
    for number in [1, 3, 5, 7, 9] {
        assert_eq!(subscription.next().await.unwrap().position, number);
    }
}

/// Also a read, whose answer may take longer once it has begun.
#[tokio::test]
async fn a_server_that_never_answers_ends_a_call_with_its_deadline() {
    // It takes connections, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::connect(format!("http://{}", silent.local_addr().unwrap())).await.unwrap();
    let client = client.with_deadline(Duration::from_millis(200));
    let append = client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await;
    let read = client.read_all().collect().await;
    for error in [append.unwrap_err(), read.unwrap_err()] {
        let Error::Server(error) = error else { panic!("{error}") };
        assert_eq!(error.code, tonic::Code::DeadlineExceeded, "{error}");
    }
}
