//! How many groups and consumers there may be, and what ends a consumer's call.

use std::time::Duration;

use annals::wire::proto::v1::{GroupSettings, ListGroupsRequest, PollRequest};
use tonic::Code;

use crate::support::{
    Refusal, TestStore,
    consumer::{consumer, group, millis, patient},
    within,
};

#[tokio::test]
async fn one_group_too_many_is_refused_until_another_one_is_deleted() {
    let store = TestStore::start_with(|config| config.groups_max = 2).await;
    let groups = store.groups();
    let request = group("first", patient());
    groups.create(request.clone()).await.unwrap();
    groups.create(group("second", patient())).await.unwrap();
    let head = store.head().await;
    for _ in 0..3 {
        let refusal = groups.create(group("third", patient())).await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        assert_eq!(refusal.reason(), "TOO_MANY_GROUPS");
        assert_eq!(refusal.fact("limit"), "2");
    }
    assert_eq!(store.head().await, head);
    // A repeat makes none, and is answered.
    groups.create(request).await.unwrap();
    groups.delete("first").await.unwrap();
    groups.create(group("third", patient())).await.unwrap();
    assert_eq!(groups.list(ListGroupsRequest::default()).await.unwrap().groups.len(), 2);
}

#[tokio::test]
async fn one_consumer_too_many_is_refused_until_another_one_goes() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", GroupSettings { consumers_max: 2, ..patient() })).await.unwrap();
    let mut first = groups.consume(consumer("mail", "first")).await.unwrap();
    let second = groups.consume(consumer("mail", "second")).await.unwrap();
    for _ in 0..3 {
        let refusal = groups.consume(consumer("mail", "third")).await.err().unwrap();
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        assert_eq!(refusal.reason(), "TOO_MANY_CONSUMERS");
        assert_eq!(refusal.fact("limit"), "2");
    }
    assert_eq!(groups.info("mail").await.consumer_count, 2);
    drop(second);
    groups.until("mail", |info| info.consumer_count == 1).await;
    let mut third = groups.consume(consumer("mail", "third")).await.unwrap();
    // The first one has noticed nothing.
    let events = store.fill("Payment-1", 2).await;
    let mut seen = [first.positions(1).await, third.positions(1).await].concat();
    seen.sort_unstable();
    assert_eq!(seen, events);
}

#[tokio::test]
async fn a_consumer_takes_a_place_among_all_that_is_open() {
    let store = TestStore::start_with(|config| config.subscriptions_max = 1).await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let first = groups.consume(consumer("mail", "first")).await.unwrap();
    let refusal = groups.consume(consumer("mail", "second")).await.err().unwrap();
    assert_eq!((&*refusal.reason(), &*refusal.fact("limit")), ("TOO_MANY_SUBSCRIPTIONS", "1"));
    drop(first);
    groups.until("mail", |info| info.consumer_count == 0).await;
    groups.consume(consumer("mail", "second")).await.unwrap();
}

#[tokio::test]
async fn a_deleted_group_ends_its_consumers_and_no_others() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    groups.create(group("other", patient())).await.unwrap();
    let mut ended = Vec::new();
    for name in ["busy", "idle"] {
        ended.push(groups.consume(consumer("mail", name)).await.unwrap());
    }
    let mut stays = groups.consume(consumer("other", "")).await.unwrap();
    let waiting = tokio::spawn({
        let groups = groups.clone();
        let request = PollRequest {
            group: "mail".to_owned(),
            consumer: "poll".to_owned(),
            events_max: 1,
            wait_max: Some(millis(60_000)),
        };
        async move { groups.poll(request).await }
    });
    let events = store.fill("Payment-1", 1).await;
    ended[0].expect(events[0], 1).await;
    groups.delete("mail").await.unwrap();
    for consumer in &mut ended {
        let status = consumer.end().await;
        assert_eq!((status.code(), &*status.reason()), (Code::NotFound, "UNKNOWN_GROUP"));
    }
    let status = within(waiting).await.unwrap().unwrap_err();
    assert_eq!((status.code(), &*status.reason()), (Code::NotFound, "UNKNOWN_GROUP"));
    stays.expect(events[0], 1).await;
    stays.ack(events).await;
    groups.until("other", |info| info.settled_count == 1).await;
}

#[tokio::test]
async fn a_server_that_stops_ends_its_consumers_and_is_not_held_up_by_them() {
    let store =
        TestStore::start_with(|config| config.shutdown_timeout = Duration::from_hours(1)).await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut busy = groups.consume(consumer("mail", "busy")).await.unwrap();
    let mut idle = groups.consume(consumer("mail", "idle")).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    busy.expect(events[0], 1).await;
    let waiting = tokio::spawn({
        let groups = groups.clone();
        let request = PollRequest {
            group: "mail".to_owned(),
            consumer: "poll".to_owned(),
            events_max: 1,
            wait_max: Some(millis(60_000)),
        };
        async move { groups.poll(request).await }
    });
    groups.info("mail").await;
    store.stop.cancel();
    for consumer in [&mut busy, &mut idle] {
        let status = consumer.end().await;
        assert_eq!((status.code(), &*status.reason()), (Code::Unavailable, "SHUTTING_DOWN"));
    }
    // It is empty, or it is refused; it does not wait for a minute.
    if let Err(status) = within(waiting).await.unwrap() {
        assert_eq!(status.code(), Code::Unavailable);
    }
    store.stopped().await.unwrap();
}
