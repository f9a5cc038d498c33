//! Events are handled: what an ack settles, and what it cannot settle.

use annals::wire::proto::v1::Ack;
use annals::wire::proto::v1::consume_request::Message as Says;

use crate::support::{
    TestStore,
    consumer::{consumer, group, patient},
};

#[tokio::test]
async fn an_ack_settles_one_many_or_all_up_to_a_position() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let events = store.fill("Payment-1", 10).await;
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(consumer.positions(10).await, events);

    consumer.ack([events[2]]).await;
    let info = groups.until("mail", |info| info.settled_count == 1).await;
    assert!(info.position < events[0], "two before it are open");
    consumer.ack([events[4], events[0]]).await;
    let info = groups.until("mail", |info| info.settled_count == 3).await;
    assert!(events[0] <= info.position && info.position < events[1]);
    consumer.ack_up_to(events[3]).await;
    let info = groups.until("mail", |info| info.settled_count == 5).await;
    assert!(events[4] <= info.position && info.position < events[5]);
    assert_eq!(info.in_flight_count, 5);
    // Both at once.
    consumer.say(Says::Ack(Ack { positions: vec![events[9]], up_to: events[6] })).await;
    let info = groups.until("mail", |info| info.settled_count == 8).await;
    assert_eq!((info.in_flight_count, info.events_behind), (2, 2));
    consumer.ack_up_to(u64::MAX).await;
    let info = groups.until("mail", |info| info.settled_count == 10).await;
    assert!(info.position >= events[9]);
    assert_eq!((info.delivered_count, info.redelivered_count), (10, 0));
    consumer.expect_nothing().await;
}

#[tokio::test]
async fn up_to_means_only_what_this_consumer_has() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut first = groups.consume(consumer("mail", "first")).await.unwrap();
    let mut second = groups.consume(consumer("mail", "second")).await.unwrap();
    store.fill("Payment-1", 10).await;
    let (mine, yours) = (first.positions(5).await, second.positions(5).await);
    first.ack_up_to(u64::MAX).await;
    groups.until("mail", |info| info.settled_count == 5).await;
    assert_eq!(groups.info("mail").await.in_flight_count, 5);
    drop(second);
    // What the other one had comes; what this one has settled does not.
    for position in &yours {
        first.expect(*position, 2).await;
    }
    assert!(mine.iter().all(|position| !yours.contains(position)));
    first.expect_nothing().await;
}

/// Nothing has changed by it, and who has it goes on.
#[tokio::test]
async fn a_consumer_is_told_of_what_it_does_not_have() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut first = groups.consume(consumer("mail", "first")).await.unwrap();
    let mut second = groups.consume(consumer("mail", "second")).await.unwrap();
    store.fill("Payment-1", 6).await;
    let (mine, yours) = (first.positions(3).await, second.positions(3).await);

    second.ack([mine[0], yours[0], mine[1]]).await;
    let mut told = second.not_in_flight().await;
    told.sort_unstable();
    assert_eq!(told, mine[..2]);
    second.park([mine[2]]).await;
    assert_eq!(second.not_in_flight().await, [mine[2]]);
    let info = groups.until("mail", |info| info.settled_count == 1).await;
    assert_eq!((info.in_flight_count, info.parked_count), (5, 0));

    // Settled, and parked.
    second.park([yours[1]]).await;
    groups.until_parked("mail", &yours[1..2]).await;
    second.ack([yours[0]]).await;
    assert_eq!(second.not_in_flight().await, [yours[0]]);
    second.ack([yours[1]]).await;
    assert_eq!(second.not_in_flight().await, [yours[1]]);
    groups.until_parked("mail", &yours[1..2]).await;

    first.ack(mine).await;
    second.ack([yours[2]]).await;
    let info = groups.until("mail", |info| info.settled_count == 5).await;
    assert_eq!((info.in_flight_count, info.events_behind, info.redelivered_count), (0, 0, 0));
    first.expect_nothing().await;
}

/// The same position twice in one ack is one event.
#[tokio::test]
async fn an_ack_that_names_an_event_twice_settles_it_once() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    let events = store.fill("Payment-1", 2).await;
    assert_eq!(consumer.positions(2).await, events);
    consumer.say(Says::Ack(Ack { positions: vec![events[0]; 3], up_to: events[0] })).await;
    consumer.ack([events[1]]).await;
    let info = groups.until("mail", |info| info.in_flight_count == 0).await;
    assert_eq!(info.settled_count, 2);
}
