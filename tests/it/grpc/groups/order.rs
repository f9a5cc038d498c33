//! Ordered strategies: of a key one event at a time, through retries, and past what is parked or not.

use annals::wire::proto::v1::{GroupSettings, GroupStrategy, NackAction, NewEvent};

use crate::support::{
    ANY, TestStore,
    consumer::{Consumer, Groups, consumer, group, millis, patient},
    event,
};

fn ordered(hold_back_parked_keys: bool) -> GroupSettings {
    let strategy = GroupStrategy::OrderedByStream.into();
    GroupSettings { strategy, hold_back_parked_keys, retries_max: Some(1000), ..patient() }
}

/// A group of that kind, and a consumer of it.
async fn start(settings: GroupSettings) -> (TestStore, Groups, Consumer) {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", settings)).await.unwrap();
    let consumer = groups.consume(consumer("mail", "first")).await.unwrap();
    (store, groups, consumer)
}

#[tokio::test]
async fn of_each_stream_one_event_is_in_flight_and_the_next_comes_when_it_is_settled() {
    let (store, groups, mut first) = start(ordered(false)).await;
    let a = store.fill("A-1", 4).await;
    let b = store.fill("B-1", 2).await;
    first.expect(a[0], 1).await;
    first.expect(b[0], 1).await;
    first.expect_nothing().await;
    first.ack([a[0]]).await;
    first.expect(a[1], 1).await;
    first.expect_nothing().await;
    // Skipped is settled, too; and another consumer changes nothing.
    let mut second = groups.consume(consumer("mail", "second")).await.unwrap();
    second.expect_nothing().await;
    drop(second);
    groups.until("mail", |info| info.consumer_count == 1).await;
    first.nack([a[1]], NackAction::Skip, "").await;
    first.expect(a[2], 1).await;
    first.expect_nothing().await;
    first.ack([b[0], a[2]]).await;
    let mut last = first.positions(2).await;
    last.sort_unstable();
    assert_eq!(last, [a[3], b[1]]);
}

#[tokio::test]
async fn order_is_kept_through_retries() {
    let (store, groups, mut first) = start(ordered(false)).await;
    let events = store.fill("A-1", 3).await;
    first.expect(events[0], 1).await;
    let mut second = groups.consume(consumer("mail", "second")).await.unwrap();
    // While it waits, nobody gets a later one; then it comes first.
    first.nack([events[0]], NackAction::Retry, "").await;
    groups.until("mail", |info| info.retry_count == 1).await;
    first.expect_nothing().await;
    second.expect_nothing().await;
    drop(first);
    groups.until("mail", |info| info.consumer_count == 1).await;
    second.expect_nothing().await;
    let info = groups.info("mail").await;
    assert_eq!((info.delivered_count, info.events_behind), (1, 3));
}

#[tokio::test]
async fn an_event_that_is_tried_again_comes_before_the_later_ones_of_its_stream() {
    let (store, groups, mut consumer) = start(ordered(false)).await;
    let events = store.fill("A-1", 3).await;
    for position in events {
        for deliveries in 1..4 {
            consumer.expect(position, deliveries).await;
            consumer.retry_after(position, millis(10)).await;
        }
        consumer.expect(position, 4).await;
        consumer.ack([position]).await;
    }
    groups.until("mail", |info| info.settled_count == 3).await;
}

#[tokio::test]
async fn order_is_kept_when_a_consumer_closes_or_hangs() {
    let hasty = GroupSettings {
        message_timeout: Some(millis(300)),
        retry_delay: Some(millis(0)),
        ..ordered(false)
    };
    for (settings, closes) in [(ordered(false), true), (hasty, false)] {
        let (store, groups, mut first) = start(settings).await;
        let events = store.fill("A-1", 3).await;
        first.expect(events[0], 1).await;
        let mut second = groups.consume(consumer("mail", "second")).await.unwrap();
        let first = (!closes).then_some(first);
        for (number, position) in events.into_iter().enumerate() {
            let next = second.delivered().await;
            second.ack([next.event.position]).await;
            assert_eq!(next.event.position, position);
            assert!(number > 0 || next.deliveries >= 2);
        }
        groups.until("mail", |info| info.settled_count == 3).await;
        drop(first);
    }
}

#[tokio::test]
async fn by_correlation_the_key_reaches_over_streams_and_events_without_one_are_free() {
    let strategy = GroupStrategy::OrderedByCorrelation.into();
    let (store, groups, mut consumer) = start(GroupSettings { strategy, ..ordered(false) }).await;
    let mut positions = Vec::new();
    for (stream, correlation_id) in
        [("A-1", "x"), ("B-1", "x"), ("A-1", "y"), ("A-1", ""), ("A-1", ""), ("B-1", "y")]
    {
        let event = NewEvent { correlation_id: correlation_id.to_owned(), ..event("Paid") };
        positions.push(store.append(stream, ANY, [event]).await.unwrap().position);
    }
    let [x1, x2, y1, free1, free2, y2] = positions[..] else { unreachable!() };
    assert_eq!(consumer.positions(4).await, [x1, y1, free1, free2]);
    consumer.expect_nothing().await;
    consumer.ack([x1]).await;
    consumer.expect(x2, 1).await;
    consumer.expect_nothing().await;
    consumer.ack([y1]).await;
    consumer.expect(y2, 1).await;
    consumer.ack_up_to(y2).await;
    groups.until("mail", |info| info.settled_count == 6).await;
}

#[tokio::test]
async fn the_key_of_a_parked_event_goes_on_where_it_is_not_held_back() {
    let (store, groups, mut consumer) = start(ordered(false)).await;
    let events = store.fill("A-1", 4).await;
    consumer.expect(events[0], 1).await;
    consumer.park([events[0]]).await;
    consumer.expect(events[1], 1).await;
    // One at a time holds for the parked one, too.
    assert_eq!(groups.replay_parked("mail", &[]).await, 1);
    consumer.expect_nothing().await;
    consumer.ack([events[1]]).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let next = consumer.delivered().await.event.position;
        consumer.expect_nothing().await;
        consumer.ack([next]).await;
        seen.push(next);
    }
    let later: Vec<_> = seen.iter().copied().filter(|position| *position != events[0]).collect();
    assert_eq!(later, events[2..]);
    assert_eq!(seen.len(), 3, "and the parked one among them");
    groups.until_parked("mail", &[]).await;
}

/// Parks the first of `A-1`, which has three events, and sees the others held back.
async fn held_back() -> (TestStore, Groups, Consumer, Vec<u64>) {
    let (store, groups, mut consumer) = start(ordered(true)).await;
    let mut events = store.fill("A-1", 2).await;
    let other = store.fill("B-1", 2).await;
    consumer.expect(events[0], 1).await;
    consumer.expect(other[0], 1).await;
    consumer.nack([events[0]], NackAction::Park, "no").await;
    consumer.expect_nothing().await;
    // Another key goes on.
    consumer.ack([other[0]]).await;
    consumer.expect(other[1], 1).await;
    consumer.ack([other[1]]).await;
    events.extend(store.fill("A-1", 1).await);
    groups.until_parked("mail", &events).await;
    let parked = groups.parked("mail").await;
    let held: Vec<_> = parked.iter().map(|it| (it.held_back, it.deliveries)).collect();
    assert_eq!(held, [(false, 1), (true, 0), (true, 0)]);
    assert_eq!(parked[0].reason, "no");
    let info = groups.until("mail", |info| info.events_behind == 0).await;
    assert_eq!((info.parked_count, info.settled_count), (3, 2));
    assert!(info.position >= events[2], "what is on the list is passed");
    consumer.expect_nothing().await;
    (store, groups, consumer, events)
}

#[tokio::test]
async fn what_was_held_back_comes_in_order_once_the_parked_one_is_replayed_and_settled() {
    let (store, groups, mut consumer, events) = held_back().await;
    assert_eq!(groups.replay_parked("mail", &[]).await, 1, "the others wait for the first one");
    let first = consumer.delivered().await;
    assert_eq!(first.event.position, events[0]);
    consumer.expect_nothing().await;
    assert_eq!(groups.parked_positions("mail").await, events, "nothing is settled yet");
    consumer.ack([events[0]]).await;
    for position in &events[1..] {
        let next = consumer.delivered().await;
        assert_eq!(next.event.position, *position);
        consumer.expect_nothing().await;
        consumer.ack([*position]).await;
    }
    groups.until_parked("mail", &[]).await;
    let info = groups.until("mail", |info| info.settled_count == 5).await;
    assert_eq!((info.parked_count, info.in_flight_count), (0, 0));
    // The key is free again.
    let more = store.fill("A-1", 1).await;
    consumer.expect(more[0], 1).await;
}

#[tokio::test]
async fn what_was_held_back_comes_in_order_once_the_parked_one_is_dropped() {
    let (_store, groups, mut consumer, events) = held_back().await;
    assert_eq!(groups.drop_parked("mail", &events[..1]).await, 1);
    for position in &events[1..] {
        let next = consumer.delivered().await;
        assert_eq!(next.event.position, *position);
        consumer.expect_nothing().await;
        consumer.ack([*position]).await;
    }
    groups.until_parked("mail", &[]).await;
    consumer.expect_nothing().await;
}

#[tokio::test]
async fn what_was_held_back_stays_so_while_the_parked_one_fails_again() {
    let (_store, groups, mut consumer, events) = held_back().await;
    groups.replay_parked("mail", &events[..1]).await;
    assert_eq!(consumer.positions(1).await, events[..1]);
    consumer.nack([events[0]], NackAction::Park, "no again").await;
    groups.until("mail", |info| info.in_flight_count == 0).await;
    consumer.expect_nothing().await;
    let parked = groups.parked("mail").await;
    let held: Vec<_> = parked.iter().map(|it| (it.position, it.held_back, it.replaying)).collect();
    assert_eq!(
        held,
        [(events[0], false, false), (events[1], true, false), (events[2], true, false)]
    );
    assert_eq!(parked[0].reason, "no again");
    // One that is held back may be dropped before it comes.
    assert_eq!(groups.drop_parked("mail", &events[1..2]).await, 1);
    groups.replay_parked("mail", &[]).await;
    for position in [events[0], events[2]] {
        assert_eq!(consumer.positions(1).await, [position]);
        consumer.ack([position]).await;
    }
    groups.until_parked("mail", &[]).await;
}

/// The second of the key fails when it comes: what is behind it waits for it then.
#[tokio::test]
async fn one_that_was_held_back_and_is_parked_holds_back_the_rest() {
    let (_store, groups, mut consumer, events) = held_back().await;
    groups.replay_parked("mail", &[]).await;
    assert_eq!(consumer.positions(1).await, events[..1]);
    consumer.ack([events[0]]).await;
    assert_eq!(consumer.positions(1).await, events[1..2]);
    consumer.nack([events[1]], NackAction::Park, "this one too").await;
    groups.until_parked("mail", &events[1..]).await;
    consumer.expect_nothing().await;
    let parked = groups.parked("mail").await;
    let held: Vec<_> = parked.iter().map(|it| (it.held_back, &*it.reason)).collect();
    assert_eq!(held[0], (false, "this one too"));
    assert!(held[1].0);
    assert_eq!(groups.drop_parked("mail", &[]).await, 2);
    consumer.expect_nothing().await;
}
