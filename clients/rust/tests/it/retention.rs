//! Retention, and streams that are truncated, deleted or tombstoned.

use std::time::Duration;

use annals_client::{
    Client, Error, ExpectedVersion, NewEvent,
    retention::{Rule, Scope, StreamState},
    testing::TestStore,
};

async fn fill(client: &Client, stream: &str, count: usize) {
    let events = (0..count).map(|_| NewEvent::new("Measured"));
    client.append(stream, ExpectedVersion::Any, events).await.unwrap();
}

async fn versions(client: &Client, stream: &str) -> Vec<u64> {
    let events = client.read_stream(stream).collect().await.unwrap();
    events.into_iter().map(|event| event.version).collect()
}

#[tokio::test]
async fn an_event_is_kept_if_the_rules_of_its_stream_and_of_its_category_keep_it() {
    let store = TestStore::start().await;
    let client = store.client();
    for stream in ["Sensor-1", "Sensor-2"] {
        fill(&client, stream, 5).await;
    }
    let day = Duration::from_hours(24);
    let (own, all) = (Rule::new().max_count(2), Rule::new().max_count(4).max_age(day));
    assert_eq!(client.set_retention(Scope::stream("Sensor-1"), own).await.unwrap(), Some(11));
    assert_eq!(client.set_retention(Scope::category("Sensor"), all).await.unwrap(), Some(12));
    assert_eq!(versions(&client, "Sensor-1").await, [4, 5]);
    assert_eq!(versions(&client, "Sensor-2").await, [2, 3, 4, 5]);

    let stream = client.retention(Scope::stream("Sensor-1")).await.unwrap();
    assert_eq!((stream.rule, stream.category_rule), (own, Some(all)));
    assert_eq!((stream.version, stream.hidden_version), (5, 3));
    assert_eq!(stream.state, StreamState::Live);
    let category = client.retention(Scope::category("Sensor")).await.unwrap();
    assert_eq!((category.rule, category.category_rule), (all, None));

    assert_eq!(client.set_retention(Scope::stream("Sensor-1"), own).await.unwrap(), None);
    assert!(client.set_retention(Scope::stream("Sensor-1"), Rule::new()).await.unwrap().is_some());
    assert_eq!(versions(&client, "Sensor-1").await, [4, 5]);
}

/// It must not become "age does not matter".
#[tokio::test]
async fn an_age_that_cannot_be_said_is_refused() {
    let store = TestStore::start().await;
    let client = store.client();
    for age in [Duration::ZERO, Duration::MAX] {
        let rule = Rule::new().max_age(age);
        let error = client.set_retention(Scope::stream("Sensor-1"), rule).await.unwrap_err();
        assert_eq!(error.reason(), "INVALID_REQUEST", "{age:?}: {error}");
    }
}

#[tokio::test]
async fn a_truncated_stream_begins_with_the_version_that_was_named() {
    let store = TestStore::start().await;
    let client = store.client();
    fill(&client, "Sensor-1", 5).await;
    assert_eq!(client.truncate_stream("Sensor-1", 4).await.unwrap(), Some(6));
    assert_eq!(versions(&client, "Sensor-1").await, [4, 5]);
    assert_eq!(client.truncate_stream("Sensor-1", 2).await.unwrap(), None);
    let error = client.truncate_stream("Sensor-2", 1).await.unwrap_err();
    assert_eq!(error.reason(), "UNKNOWN_STREAM");
}

#[tokio::test]
async fn a_deleted_stream_is_gone_until_it_is_written_to_again() {
    let store = TestStore::start().await;
    let client = store.client();
    fill(&client, "Sensor-1", 2).await;
    let stale = client.delete_stream("Sensor-1", 1).await;
    let Err(Error::WrongExpectedVersion { expected: 1, actual: 2, .. }) = stale else {
        panic!("{stale:?}")
    };
    assert_eq!(client.delete_stream("Sensor-1", 2).await.unwrap(), Some(3));
    assert_eq!(client.delete_stream("Sensor-1", ExpectedVersion::Any).await.unwrap(), None);
    let error = client.read_stream("Sensor-1").collect().await.unwrap_err();
    assert_eq!(error.reason(), "STREAM_DELETED");
    let retention = client.retention(Scope::stream("Sensor-1")).await.unwrap();
    assert_eq!(retention.state, StreamState::Deleted);
    client.append("Sensor-1", 2, [NewEvent::new("Measured")]).await.unwrap();
    assert_eq!(versions(&client, "Sensor-1").await, [3]);
}

#[tokio::test]
async fn a_tombstoned_stream_is_never_written_to_again() {
    let store = TestStore::start().await;
    let client = store.client();
    fill(&client, "Sensor-1", 2).await;
    let stale = client.tombstone_stream("Sensor-1", 1).await.unwrap_err();
    assert_eq!(stale.reason(), "WRONG_EXPECTED_VERSION");
    assert_eq!(client.tombstone_stream("Sensor-1", 2).await.unwrap(), Some(3));
    assert_eq!(client.tombstone_stream("Sensor-1", 2).await.unwrap(), None);
    let append = client.append("Sensor-1", ExpectedVersion::Any, [NewEvent::new("Measured")]);
    assert_eq!(append.await.unwrap_err().reason(), "STREAM_TOMBSTONED");
    let retention = client.retention(Scope::stream("Sensor-1")).await.unwrap();
    assert_eq!(retention.state, StreamState::Tombstoned);
}
