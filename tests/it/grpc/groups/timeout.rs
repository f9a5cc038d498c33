//! A consumer that hangs: its events go to others, and it gets none until it says something.

use std::time::Instant;

use annals::wire::proto::v1::{ConsumeStart, GroupSettings, consume_response::Message};

use crate::support::{
    TestStore,
    consumer::{consumer, group, millis, patient},
    within,
};

/// Events time out soon, and are tried again at once.
fn hasty(message_timeout: i32) -> GroupSettings {
    GroupSettings {
        message_timeout: Some(millis(message_timeout)),
        retry_delay: Some(millis(0)),
        retries_max: Some(1000),
        ..patient()
    }
}

#[tokio::test]
async fn what_a_consumer_does_not_settle_in_time_goes_to_another_one() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", hasty(500))).await.unwrap();
    let mut hangs = groups.consume(consumer("mail", "hangs")).await.unwrap();
    assert_eq!(hangs.confirmed.message_timeout, Some(millis(500)));
    let start = Instant::now();
    let events = store.fill("Payment-1", 2).await;
    assert_eq!(hangs.positions(2).await, events);
    let mut works = groups.consume(consumer("mail", "works")).await.unwrap();
    for position in &events {
        let again = works.delivered().await;
        works.ack([again.event.position]).await;
        assert_eq!(again.event.position, *position);
        assert!(again.deliveries >= 2);
    }
    assert!(start.elapsed().as_millis() >= 500, "not before its time");
    groups.until("mail", |info| info.settled_count == 2).await;
}

#[tokio::test]
async fn a_consumer_that_let_an_event_time_out_gets_nothing_until_it_says_something() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", hasty(200))).await.unwrap();
    let mut hangs = groups.consume(consumer("mail", "hangs")).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    hangs.expect(events[0], 1).await;
    groups.until_consumers("mail", |it| it[0].paused).await;
    // It is the only one, so the event waits.
    hangs.expect_nothing().await;
    let more = store.fill("Payment-1", 1).await;
    hangs.expect_nothing().await;
    let info = groups.info("mail").await;
    assert_eq!((info.in_flight_count, info.settled_count, info.delivered_count), (0, 0, 1));
    assert_eq!(groups.consumers("mail").await[0].in_flight_count, 0);

    hangs.heartbeat().await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let next = hangs.delivered().await;
        hangs.ack([next.event.position]).await;
        seen.push(next.event.position);
    }
    seen.sort_unstable();
    assert_eq!(seen, [events[0], more[0]]);
    groups.until("mail", |info| info.settled_count == 2).await;
    groups.until_consumers("mail", |it| !it[0].paused).await;
}

/// Every other message says as much as a heartbeat.
#[tokio::test]
async fn an_ack_or_a_nack_of_anything_wakes_a_paused_consumer() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", hasty(200))).await.unwrap();
    let mut hangs = groups.consume(consumer("mail", "hangs")).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    hangs.expect(events[0], 1).await;
    groups.until_consumers("mail", |it| it[0].paused).await;
    hangs.ack([u64::MAX]).await;
    assert_eq!(hangs.not_in_flight().await, [u64::MAX]);
    assert!(hangs.delivered().await.deliveries >= 2);
    groups.until_consumers("mail", |it| it[0].paused).await;
    hangs.park([u64::MAX]).await;
    assert_eq!(hangs.not_in_flight().await, [u64::MAX]);
    assert!(hangs.delivered().await.deliveries >= 3);
}

/// A heartbeat says that the consumer is alive, not that the event is handled.
#[tokio::test]
async fn heartbeats_of_a_consumer_do_not_keep_its_events() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", hasty(200))).await.unwrap();
    let mut beats = groups.consume(consumer("mail", "beats")).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    beats.expect(events[0], 1).await;
    within(async {
        while groups.info("mail").await.redelivered_count == 0 {
            beats.heartbeat().await;
        }
    })
    .await;
    assert_eq!(beats.delivered().await.event.position, events[0]);
}

#[tokio::test]
async fn a_late_ack_of_an_event_that_somebody_else_has_changes_nothing_and_is_told() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", hasty(1000))).await.unwrap();
    let mut late = groups.consume(consumer("mail", "late")).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    late.expect(events[0], 1).await;
    let mut other = groups.consume(consumer("mail", "other")).await.unwrap();
    let again = other.delivered().await;
    late.ack(events.clone()).await;
    assert_eq!(late.not_in_flight().await, events);
    assert_eq!((again.event.position, again.deliveries), (events[0], 2));
    other.ack(events.clone()).await;
    groups.until("mail", |info| info.settled_count == 1).await;
    late.ack(events.clone()).await;
    assert_eq!(late.not_in_flight().await, events, "settled by the other one");
    other.expect_nothing().await;
}

#[tokio::test]
async fn a_late_ack_of_an_event_that_only_waits_is_taken() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", hasty(200))).await.unwrap();
    let mut late = groups.consume(consumer("mail", "late")).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    late.expect(events[0], 1).await;
    // Nobody else is there who could get it.
    groups.until_consumers("mail", |it| it[0].paused).await;
    late.ack(events.clone()).await;
    let info = groups.until("mail", |info| info.settled_count == 1).await;
    assert_eq!((info.in_flight_count, info.retry_count, info.events_behind), (0, 0, 0));
    // The first message that comes is about the second ack, so the first one was in order.
    late.ack([events[0], u64::MAX]).await;
    let mut told = late.not_in_flight().await;
    told.sort_unstable();
    assert_eq!(told, [events[0], u64::MAX]);
    assert_eq!(groups.info("mail").await.delivered_count, 1);
}

/// A timeout is a delivery that failed.
#[tokio::test]
async fn an_event_that_times_out_again_and_again_is_parked() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups
        .create(group("mail", GroupSettings { retries_max: Some(2), ..hasty(100) }))
        .await
        .unwrap();
    let mut hangs = groups.consume(consumer("mail", "hangs")).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    for deliveries in 1..=3 {
        hangs.expect(events[0], deliveries).await;
        groups.until_consumers("mail", |it| it[0].paused).await;
        hangs.heartbeat().await;
    }
    groups.until_parked("mail", &events).await;
    let parked = groups.parked("mail").await.remove(0);
    assert_eq!(parked.deliveries, 3);
    assert!(!parked.reason.is_empty(), "it says that it timed out");
    assert_eq!(groups.info("mail").await.events_behind, 0);
}

#[tokio::test]
async fn a_consumer_hears_heartbeats_as_often_as_it_asked_when_nothing_else_is_sent() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let start = ConsumeStart { heartbeat_interval: Some(millis(100)), ..consumer("mail", "") };
    let begun = Instant::now();
    let mut consumer = groups.consume(start).await.unwrap();
    let mut before = 0;
    for beats in 1..=3 {
        let Message::Heartbeat(beat) = within(consumer.next_or_heartbeat()).await.unwrap() else {
            panic!("nothing else happens")
        };
        assert!(begun.elapsed().as_millis() >= 100 * beats, "not more often");
        let sent_at = beat.sent_at.unwrap();
        let micros = sent_at.seconds * 1_000_000 + i64::from(sent_at.nanos / 1000);
        assert!(before < micros);
        before = micros;
    }
    let events = store.fill("Payment-1", 1).await;
    consumer.expect(events[0], 1).await;
}
