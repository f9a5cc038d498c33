//! Events are not handled: they are tried again, parked or skipped.

use std::time::Instant;

use annals::wire::proto::v1::{
    GroupInfo, GroupSettings, Nack, NackAction, consume_request::Message as Says,
};

use crate::support::{
    TestStore,
    consumer::{consumer, group, millis, patient},
};

#[tokio::test]
async fn a_nacked_event_comes_again_after_the_time_that_the_consumer_says() {
    let store = TestStore::start().await;
    let groups = store.groups();
    // By itself nothing would come for an hour.
    groups.create(group("mail", patient())).await.unwrap();
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    let events = store.fill("Payment-1", 2).await;
    assert_eq!(consumer.positions(2).await, events);
    for (wait, deliveries) in [(0, 2), (1, 3), (100, 4), (300, 5)] {
        let start = Instant::now();
        consumer.retry_after(events[0], millis(wait)).await;
        consumer.expect(events[0], deliveries).await;
        assert!(start.elapsed().as_millis() >= u128::try_from(wait).unwrap());
    }
    let info = groups.info("mail").await;
    assert_eq!((info.delivered_count, info.redelivered_count, info.settled_count), (6, 4, 0));
    // Told nothing, it waits as long as the group's settings say.
    consumer.nack([events[0]], NackAction::Unspecified, "").await;
    let info = groups.until("mail", |info| info.retry_count == 1).await;
    assert_eq!((info.in_flight_count, info.events_behind, info.parked_count), (1, 2, 0));
    consumer.expect_nothing().await;
}

#[tokio::test]
async fn an_event_waits_twice_as_long_each_time_but_no_longer_than_the_maximum() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let settings = |delay, delay_max| GroupSettings {
        retry_delay: Some(millis(delay)),
        retry_delay_max: Some(millis(delay_max)),
        ..patient()
    };
    groups.create(group("doubling", settings(50, 3_600_000))).await.unwrap();
    // An hour is more than the maximum: it is the maximum, the first time too.
    groups.create(group("bounded", settings(3_600_000, 100))).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    for (name, waits) in [("doubling", [50, 100, 200, 400]), ("bounded", [100; 4])] {
        let mut consumer = groups.consume(consumer(name, "")).await.unwrap();
        consumer.expect(events[0], 1).await;
        for (wait, deliveries) in waits.into_iter().zip(2..) {
            let start = Instant::now();
            consumer.nack(events.clone(), NackAction::Retry, "").await;
            consumer.expect(events[0], deliveries).await;
            let waited = start.elapsed().as_millis();
            assert!(waited >= wait, "{name}: {waited} ms before delivery {deliveries}");
        }
    }
}

/// Another one may have more luck with it.
#[tokio::test]
async fn an_event_that_is_tried_again_may_go_to_another_consumer_and_lets_others_pass() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut first = groups.consume(consumer("mail", "first")).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    first.expect(events[0], 1).await;
    first.nack(events.clone(), NackAction::Retry, "").await;
    groups.until("mail", |info| info.retry_count == 1).await;
    let more = store.fill("Payment-1", 2).await;
    assert_eq!(first.positions(2).await, more);
    first.ack(more).await;
    let info = groups.until("mail", |info| info.settled_count == 2).await;
    assert!(info.position < events[0], "the first one is open");
}

#[tokio::test]
async fn a_parked_event_is_not_delivered_again_and_its_reason_is_kept() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut first = groups.consume(consumer("mail", "first")).await.unwrap();
    let events = store.fill("Payment-1", 3).await;
    assert_eq!(first.positions(3).await, events);
    first.nack([events[0]], NackAction::Park, "the address is wrong").await;
    first.ack([events[1]]).await;
    let info = groups.until("mail", |info| info.settled_count == 1 && info.parked_count == 1).await;
    assert_eq!((info.in_flight_count, info.events_behind), (1, 1));
    assert!(events[1] <= info.position && info.position < events[2]);
    assert!(info.last_error.contains("the address is wrong"), "{}", info.last_error);
    assert!(info.last_error_at.is_some());
    let parked = groups.parked("mail").await.remove(0);
    assert_eq!(
        (parked.position, &*parked.reason, parked.deliveries),
        (events[0], "the address is wrong", 1)
    );
    assert!(parked.parked_at.is_some() && !parked.held_back && !parked.replaying);
    assert_eq!(
        parked.event.unwrap(),
        store.read_all().await[usize::try_from(events[0] - 1).unwrap()]
    );
    drop(first);
    let mut second = groups.consume(consumer("mail", "second")).await.unwrap();
    second.expect(events[2], 2).await;
    second.expect_nothing().await;
}

#[tokio::test]
async fn a_skipped_event_counts_as_handled() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    let events = store.fill("Payment-1", 3).await;
    assert_eq!(consumer.positions(3).await, events);
    consumer.nack(events.clone(), NackAction::Skip, "").await;
    let info = groups.until("mail", |info| info.settled_count == 3).await;
    assert_eq!((info.parked_count, info.in_flight_count, info.events_behind), (0, 0, 0));
    assert!(info.position >= events[2]);
    consumer.expect_nothing().await;
}

/// One delivery, and as many again as the group allows; then it is parked, with the last reason.
#[tokio::test]
async fn an_event_that_had_its_last_try_is_parked() {
    for retries_max in [0, 1, 3] {
        let store = TestStore::start().await;
        let groups = store.groups();
        let settings = GroupSettings { retries_max: Some(retries_max), ..patient() };
        groups.create(group("mail", settings)).await.unwrap();
        let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
        let events = store.fill("Payment-1", 1).await;
        for deliveries in 1..=retries_max + 1 {
            consumer.expect(events[0], deliveries).await;
            let nack = Nack {
                positions: events.clone(),
                action: NackAction::Retry.into(),
                reason: format!("try {deliveries}"),
                retry_after: Some(millis(0)),
            };
            consumer.say(Says::Nack(nack)).await;
        }
        groups.until_parked("mail", &events).await;
        let parked = groups.parked("mail").await.remove(0);
        assert_eq!(parked.deliveries, retries_max + 1);
        assert!(parked.reason.contains(&format!("try {}", retries_max + 1)), "{}", parked.reason);
        consumer.expect_nothing().await;
        let info = groups.info("mail").await;
        assert_eq!((info.retry_count, info.settled_count, info.events_behind), (0, 0, 0));
    }
}

#[tokio::test]
async fn one_nack_may_name_many_events() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    let events = store.fill("Payment-1", 9).await;
    assert_eq!(consumer.positions(9).await, events);
    // The last two do not exist.
    consumer.park([&events[..3], &[events[8] + 100, events[8] + 101]].concat()).await;
    let mut told = consumer.not_in_flight().await;
    told.sort_unstable();
    assert_eq!(told, [events[8] + 100, events[8] + 101]);
    consumer.nack(events[3..6].to_vec(), NackAction::Skip, "").await;
    consumer.nack(events[6..].to_vec(), NackAction::Retry, "").await;
    let all = |info: &GroupInfo| (info.retry_count, info.parked_count) == (3, 3);
    let info = groups.until("mail", all).await;
    assert_eq!((info.settled_count, info.in_flight_count), (3, 0));
}
