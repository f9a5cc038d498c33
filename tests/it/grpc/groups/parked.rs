//! The list of parked events: what is on it, what is delivered again, what is forgotten.

use annals::wire::proto::v1::{
    GroupSettings, ListParkedRequest, ListParkedResponse, ReplayParkedRequest,
    TruncateStreamRequest,
};

use crate::support::{
    TestStore,
    consumer::{Consumer, Groups, consumer, group, patient},
    within,
};

/// So many parked events, and who has parked them.
async fn with_parked(count: usize) -> (TestStore, Groups, Consumer, Vec<u64>) {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    let events = store.fill("Payment-1", count).await;
    for position in &events {
        consumer.expect(*position, 1).await;
        consumer.park([*position]).await;
    }
    groups.until_parked("mail", &events).await;
    (store, groups, consumer, events)
}

fn positions(page: &ListParkedResponse) -> Vec<u64> {
    page.parked.iter().map(|parked| parked.position).collect()
}

#[tokio::test]
async fn parked_events_are_listed_in_the_order_of_the_log_page_by_page() {
    let (store, groups, _consumer, events) = with_parked(5).await;
    let page = async |after, page_size| {
        let request = ListParkedRequest { group: "mail".to_owned(), after, page_size };
        groups.list_parked(request).await.unwrap()
    };
    let mut after = 0;
    for (expected, more) in [(&events[..2], true), (&events[2..4], true), (&events[4..], false)] {
        let page = page(after, 2).await;
        assert_eq!((positions(&page), page.parked_count, page.more), (expected.to_vec(), 5, more));
        after = *expected.last().unwrap();
    }
    let exact = page(events[2], 2).await;
    assert_eq!((positions(&exact), exact.more), (events[3..].to_vec(), false));
    let beyond = page(events[4], 0).await;
    assert_eq!((positions(&beyond), beyond.parked_count, beyond.more), (vec![], 5, false));
    let all = page(0, 0).await;
    assert_eq!((positions(&all), all.more), (events.clone(), false));
    let log = store.read_all().await;
    for parked in all.parked {
        assert_eq!(parked.event.unwrap(), log[usize::try_from(parked.position - 1).unwrap()]);
    }
}

#[tokio::test]
async fn a_parked_event_that_is_hidden_stays_on_the_list_by_reference_only() {
    let (store, groups, _consumer, events) = with_parked(3).await;
    let request = TruncateStreamRequest { stream: "Payment-1".to_owned(), before_version: 3 };
    within(store.commands().truncate_stream(request)).await.unwrap();
    let parked = groups.parked("mail").await;
    let seen: Vec<_> = parked.iter().map(|it| (it.position, it.event.is_some())).collect();
    assert_eq!(seen, [(events[0], false), (events[1], false), (events[2], true)]);
    assert_eq!(parked[0].reason, "parked");
    assert_eq!(groups.drop_parked("mail", &events[..2]).await, 2);
    groups.until_parked("mail", &events[2..]).await;
}

#[tokio::test]
async fn replayed_events_come_again_and_stay_on_the_list_until_they_are_settled() {
    let (_store, groups, mut consumer, events) = with_parked(6).await;
    let replay = async |positions: &[u64], events_max| {
        let (group, positions) = ("mail".to_owned(), positions.to_vec());
        groups.replay(ReplayParkedRequest { group, positions, events_max }).await.unwrap()
    };
    // One, and one that is not there.
    assert_eq!(replay(&[events[3], events[5] + 100], 0).await, 1);
    assert_eq!(consumer.positions(1).await, [events[3]]);
    consumer.expect_nothing().await;
    let parked = groups.parked("mail").await;
    let replaying: Vec<_> = parked.iter().map(|it| it.replaying).collect();
    assert_eq!(replaying, [false, false, false, true, false, false]);
    consumer.ack([events[3]]).await;
    let left = [&events[..3], &events[4..]].concat();
    groups.until_parked("mail", &left).await;

    // The first two.
    assert_eq!(replay(&[], 2).await, 2);
    assert_eq!(consumer.positions(2).await, events[..2]);
    consumer.expect_nothing().await;
    consumer.ack(events[..2].to_vec()).await;
    let left = [events[2], events[4], events[5]];
    groups.until_parked("mail", &left).await;
    assert_eq!(replay(&[events[0]], 0).await, 0, "it is settled");

    // All that are left; one of them fails again.
    assert_eq!(replay(&[], 0).await, 3);
    assert_eq!(consumer.positions(3).await, left);
    consumer.ack([left[0], left[2]]).await;
    consumer.nack([left[1]], annals::wire::proto::v1::NackAction::Park, "again").await;
    groups.until_parked("mail", &left[1..2]).await;
    groups.until("mail", |info| info.in_flight_count == 0).await;
    let parked = groups.parked("mail").await.remove(0);
    assert_eq!((&*parked.reason, parked.replaying), ("again", false));
    consumer.expect_nothing().await;
    let info = groups.info("mail").await;
    assert_eq!((info.settled_count, info.parked_count, info.events_behind), (5, 1, 0));
}

/// The request is the server's: a consumer that goes with the event does not take it along.
#[tokio::test]
async fn a_replayed_event_that_a_consumer_leaves_goes_to_the_next_one() {
    let (_store, groups, mut first, events) = with_parked(1).await;
    groups.replay_parked("mail", &[]).await;
    assert_eq!(first.positions(1).await, events);
    drop(first);
    let mut second = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(second.positions(1).await, events);
    second.ack(events).await;
    groups.until_parked("mail", &[]).await;
}

#[tokio::test]
async fn replaying_while_nobody_listens_waits_for_a_consumer() {
    let (_store, groups, first, events) = with_parked(2).await;
    drop(first);
    groups.until("mail", |info| info.consumer_count == 0).await;
    assert_eq!(groups.replay_parked("mail", &[]).await, 2);
    assert!(groups.parked("mail").await.iter().all(|parked| parked.replaying));
    let mut second = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(second.positions(2).await, events);
}

#[tokio::test]
async fn dropped_events_are_off_the_list_for_good_and_stay_in_the_log() {
    let (store, groups, mut consumer, events) = with_parked(5).await;
    assert_eq!(groups.drop_parked("mail", &[events[1], events[3], events[4] + 100]).await, 2);
    let left = [events[0], events[2], events[4]];
    assert_eq!(groups.parked_positions("mail").await, left);
    assert_eq!(groups.drop_parked("mail", &[events[1]]).await, 0, "it is off already");
    assert_eq!(groups.replay_parked("mail", &[events[1]]).await, 0);
    assert_eq!(groups.drop_parked("mail", &[]).await, 3);
    assert!(groups.parked("mail").await.is_empty());
    consumer.expect_nothing().await;
    let info = groups.info("mail").await;
    assert_eq!((info.parked_count, info.events_behind), (0, 0));
    let log = store.read_all().await;
    assert!(events.iter().all(|position| log.iter().any(|event| event.position == *position)));
}

#[tokio::test]
async fn a_group_that_cannot_park_any_more_stops_and_goes_on_when_there_is_room() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let settings = GroupSettings { parked_max: 2, in_flight_max: 1, ..patient() };
    groups.create(group("mail", settings)).await.unwrap();
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    let events = store.fill("Payment-1", 5).await;
    for position in &events[..2] {
        consumer.expect(*position, 1).await;
        consumer.park([*position]).await;
    }
    // The list is full, and nothing more has to be parked yet.
    consumer.expect(events[2], 1).await;
    let before = groups.until("mail", |info| info.parked_count == 2).await;
    consumer.park([events[2]]).await;
    let info = groups.until("mail", |info| info.last_error != before.last_error).await;
    assert!(!info.last_error.is_empty() && info.last_error_at.is_some());
    consumer.expect_nothing().await;
    assert_eq!(groups.parked_positions("mail").await, events[..2]);
    assert!(groups.info("mail").await.position < events[2], "it is not parked, nor settled");

    assert_eq!(groups.drop_parked("mail", &events[..1]).await, 1);
    groups.until_parked("mail", &events[1..3]).await;
    for position in &events[3..] {
        consumer.expect(*position, 1).await;
        consumer.ack([*position]).await;
    }
    groups.until("mail", |info| info.settled_count == 2 && info.events_behind == 0).await;
}
