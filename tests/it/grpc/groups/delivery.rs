//! Who gets which events, and how many at once.

use annals::wire::proto::v1::{ConsumeStart, GroupSettings, GroupStrategy, NewEvent};

use crate::support::{
    ANY, TestStore,
    consumer::{consumer, group, patient},
    event,
};

fn taking(name: &str, in_flight_max: u32) -> ConsumeStart {
    ConsumeStart { in_flight_max, ..consumer("mail", name) }
}

fn with_strategy(strategy: GroupStrategy) -> GroupSettings {
    GroupSettings { strategy: strategy.into(), ..patient() }
}

#[tokio::test]
async fn one_consumer_gets_every_event_once_and_in_order_with_all_that_it_says() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    let mut seen = Vec::new();
    for round in 0..10_u64 {
        for stream in ["Payment-1", "Order-1"] {
            let tagged = NewEvent {
                tags: vec![format!("tag{round}")],
                correlation_id: "c".to_owned(),
                ..event("Paid")
            };
            store.append(stream, ANY, [tagged, event("Noted")]).await.unwrap();
        }
        for _ in 0..4 {
            let delivered = consumer.delivered().await;
            assert_eq!(delivered.deliveries, 1);
            consumer.ack([delivered.event.position]).await;
            seen.push(delivered.event);
        }
    }
    let mut written = store.read_all().await;
    written.retain(|event| !event.stream.starts_with('$'));
    assert_eq!(seen, written, "whole, in the order of the log");
    let info = groups.until("mail", |info| info.settled_count == 40).await;
    assert_eq!((info.delivered_count, info.redelivered_count), (40, 0));
    assert_eq!((info.in_flight_count, info.events_behind, info.retry_count), (0, 0, 0));
    consumer.expect_nothing().await;
}

#[tokio::test]
async fn consumers_share_in_turn() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut consumers = Vec::new();
    for name in ["a", "b", "c"] {
        consumers.push(groups.consume(taking(name, 10)).await.unwrap());
    }
    let events = store.fill("Payment-1", 18).await;
    let mut seen = Vec::new();
    for consumer in &mut consumers {
        // Each has room for ten; six are its share.
        seen.extend(consumer.positions(6).await);
        consumer.expect_nothing().await;
    }
    seen.sort_unstable();
    assert_eq!(seen, events, "each event to one of them");
}

#[tokio::test]
async fn a_consumer_without_room_is_passed_over() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut narrow = groups.consume(taking("narrow", 1)).await.unwrap();
    let mut wide = groups.consume(taking("wide", 5)).await.unwrap();
    let events = store.fill("Payment-1", 10).await;
    let first = narrow.positions(1).await;
    let mut seen = [first.clone(), wide.positions(5).await].concat();
    narrow.expect_nothing().await;
    wide.expect_nothing().await;
    assert_eq!(groups.info("mail").await.in_flight_count, 6);
    // Room for one is made, and one comes.
    narrow.ack(first).await;
    seen.extend(narrow.positions(1).await);
    narrow.expect_nothing().await;
    wide.expect_nothing().await;
    wide.ack_up_to(events[9]).await;
    seen.extend(wide.positions(3).await);
    seen.sort_unstable();
    assert_eq!(seen, events);
}

#[tokio::test]
async fn no_consumer_has_more_in_flight_than_it_asked_for_or_the_group_allows() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", GroupSettings { in_flight_max: 4, ..patient() })).await.unwrap();
    let events = store.fill("Payment-1", 20).await;
    for (asked, allowed) in [(0, 4), (4, 4), (3, 3), (1, 1)] {
        let mut consumer = groups.consume(taking("", asked)).await.unwrap();
        assert_eq!(consumer.confirmed.in_flight_max, allowed);
        let allowed = usize::try_from(allowed).unwrap();
        assert_eq!(consumer.positions(allowed).await, events[..allowed]);
        consumer.expect_nothing().await;
        assert_eq!(groups.info("mail").await.in_flight_count, allowed as u64);
        drop(consumer);
        groups.until("mail", |info| info.consumer_count == 0 && info.in_flight_count == 0).await;
    }
}

#[tokio::test]
async fn with_dispatch_to_one_the_first_gets_everything_and_the_next_when_it_goes() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", with_strategy(GroupStrategy::DispatchToOne))).await.unwrap();
    let mut first = groups.consume(taking("first", 3)).await.unwrap();
    let mut second = groups.consume(taking("second", 3)).await.unwrap();
    let mut third = groups.consume(taking("third", 3)).await.unwrap();
    let events = store.fill("Payment-1", 6).await;
    assert_eq!(first.positions(3).await, events[..3]);
    // It has no room, and still nobody else gets any.
    first.expect_nothing().await;
    second.expect_nothing().await;
    first.ack([events[0]]).await;
    assert_eq!(first.positions(1).await, [events[3]]);
    drop(first);
    for (position, deliveries) in [(events[1], 2), (events[2], 2), (events[3], 2)] {
        second.expect(position, deliveries).await;
    }
    third.expect_nothing().await;
    second.ack_up_to(events[3]).await;
    assert_eq!(second.positions(2).await, events[4..]);
    second.ack_up_to(events[5]).await;
    groups.until("mail", |info| info.settled_count == 6).await;
    drop(second);
    groups.until("mail", |info| info.consumer_count == 1).await;
    let more = store.fill("Payment-1", 1).await;
    third.expect(more[0], 1).await;
}

/// Nobody waits for a timeout, nor for the delay of a retry: both are an hour.
#[tokio::test]
async fn what_a_consumer_that_closes_has_goes_to_others_at_once() {
    let strategies = [
        GroupStrategy::RoundRobin,
        GroupStrategy::DispatchToOne,
        GroupStrategy::OrderedByStream,
        GroupStrategy::OrderedByCorrelation,
    ];
    for strategy in strategies {
        let store = TestStore::start().await;
        let groups = store.groups();
        groups.create(group("mail", with_strategy(strategy))).await.unwrap();
        let mut first = groups.consume(taking("first", 10)).await.unwrap();
        let mut events = Vec::new();
        for stream in ["Payment-1", "Payment-2", "Payment-3"] {
            events.extend(store.fill(stream, 1).await);
        }
        assert_eq!(first.positions(3).await, events);
        first.ack([events[0]]).await;
        groups.until("mail", |info| info.settled_count == 1).await;
        let mut second = groups.consume(taking("second", 10)).await.unwrap();
        second.expect_nothing().await;
        drop(first);
        second.expect(events[1], 2).await;
        second.expect(events[2], 2).await;
        second.ack(events[1..].to_vec()).await;
        let info = groups.until("mail", |info| info.settled_count == 3).await;
        assert_eq!((info.delivered_count, info.redelivered_count), (5, 2), "{strategy:?}");
        assert_eq!((info.consumer_count, info.parked_count), (1, 0), "{strategy:?}");
    }
}

#[tokio::test]
async fn consumers_are_listed_in_the_order_in_which_they_came_with_what_they_do() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut first = groups.consume(taking("z", 2)).await.unwrap();
    let second = groups.consume(taking("a", 5)).await.unwrap();
    let third = groups.consume(taking("a", 0)).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    first.expect(events[0], 1).await;
    let consumers = groups.consumers("mail").await;
    let seen: Vec<_> = consumers
        .iter()
        .map(|it| (&*it.name, &*it.consumer_id, it.in_flight_max, it.in_flight_count))
        .collect();
    let ids = [&first, &second, &third].map(|it| &*it.confirmed.consumer_id);
    assert_eq!(seen, [("z", ids[0], 2, 1), ("a", ids[1], 5, 0), ("a", ids[2], 10, 0)]);
    for consumer in &consumers {
        assert!(consumer.peer.parse::<std::net::SocketAddr>().is_ok(), "{}", consumer.peer);
        assert!(consumer.user_agent.contains("tonic"), "{}", consumer.user_agent);
        assert!(consumer.connected_at.is_some() && !consumer.paused);
    }
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && !ids[0].is_empty());
    first.ack(events).await;
    groups
        .until_consumers("mail", |it| {
            (it[0].delivered_count, it[0].settled_count, it[0].in_flight_count) == (1, 1, 0)
        })
        .await;
    drop(second);
    groups.until_consumers("mail", |it| it.len() == 2 && it[1].in_flight_max == 10).await;
    assert_eq!(first.confirmed.message_timeout, patient().message_timeout);
}

/// The window bounds what the group looks at, not what it delivers in the end.
#[tokio::test]
async fn a_group_looks_no_further_ahead_than_its_window() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let settings = GroupSettings { window_max: 5, ..patient() };
    groups.create(group("mail", settings)).await.unwrap();
    let mut consumer = groups.consume(taking("", 10)).await.unwrap();
    let events = store.fill("Payment-1", 20).await;
    assert_eq!(consumer.positions(5).await, events[..5]);
    consumer.expect_nothing().await;
    consumer.ack_up_to(events[4]).await;
    assert_eq!(consumer.positions(5).await, events[5..10]);
    consumer.ack_up_to(events[9]).await;
    assert_eq!(consumer.positions(5).await, events[10..15]);
}
