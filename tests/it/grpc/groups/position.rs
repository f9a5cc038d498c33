//! A group is moved: back, on, or past exactly one event; and never by who is mistaken about where it is.

use annals::wire::proto::v1::{
    CreateGroupRequest, GroupSettings, set_group_position_request::Target,
};
use tonic::Code;

use crate::support::{
    ANY, Refusal, TestStore,
    asked::of_types,
    consumer::{Consumer, Groups, consumer, group, patient},
};

/// A group and five events, nobody has any yet.
async fn with_events(settings: GroupSettings) -> (TestStore, Groups, Vec<u64>) {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", settings)).await.unwrap();
    let events = store.fill("Payment-1", 5).await;
    (store, groups, events)
}

async fn settle(groups: &Groups, consumer: &mut Consumer, events: &[u64]) -> u64 {
    let before = groups.info("mail").await.settled_count;
    assert_eq!(consumer.positions(events.len()).await, events);
    consumer.ack(events).await;
    let so = before + events.len() as u64;
    let last = *events.last().unwrap();
    let info = groups.until("mail", |it| it.settled_count == so && it.position >= last).await;
    info.position
}

#[tokio::test]
async fn a_group_that_is_elsewhere_is_not_moved() {
    let (_store, groups, events) = with_events(patient()).await;
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    let position = settle(&groups, &mut first, &events).await;
    for target in [Target::After(0), Target::After(events[1]), Target::Skip(events[0])] {
        for wrong in [0, position - 1, position + 1, u64::MAX] {
            let refusal = groups.set_position("mail", wrong, target).await.unwrap_err();
            assert_eq!(refusal.code(), Code::FailedPrecondition);
            assert_eq!(refusal.reason(), "WRONG_GROUP_POSITION");
            assert_eq!(refusal.fact("expected"), wrong.to_string());
            assert_eq!(refusal.fact("actual"), position.to_string());
        }
    }
    assert_eq!(groups.info("mail").await.position, position);
    first.expect_nothing().await;
}

#[tokio::test]
async fn a_group_that_is_moved_back_delivers_again_all_that_follows() {
    let (store, groups, events) = with_events(patient()).await;
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    let position = settle(&groups, &mut first, &events).await;
    let moved = groups.set_position("mail", position, Target::After(events[1])).await.unwrap();
    assert!(events[1] <= moved && moved < events[2], "{moved}");
    let position = settle(&groups, &mut first, &events[2..]).await;
    groups.set_position("mail", position, Target::After(0)).await.unwrap();
    settle(&groups, &mut first, &events).await;
    // And it goes on with what is new.
    let more = store.fill("Payment-1", 1).await;
    settle(&groups, &mut first, &more).await;
}

#[tokio::test]
async fn a_group_that_is_moved_on_passes_over_what_is_between() {
    let (store, groups, events) = with_events(patient()).await;
    let position = groups.info("mail").await.position;
    let moved = groups.set_position("mail", position, Target::After(events[2])).await.unwrap();
    assert!(events[2] <= moved && moved < events[3], "{moved}");
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    let position = settle(&groups, &mut first, &events[3..]).await;
    let more = store.fill("Payment-1", 3).await;
    assert_eq!(first.positions(3).await, more);
    // What is in flight and passed over is nobody's any more; the head is as far as a group can go.
    let position = groups.info("mail").await.position.max(position);
    groups.set_position("mail", position, Target::After(more[2])).await.unwrap();
    let info = groups.until("mail", |info| info.position >= more[2]).await;
    assert_eq!((info.events_behind, info.in_flight_count, info.retry_count), (0, 0, 0));
    first.ack([more[0]]).await;
    assert_eq!(first.not_in_flight().await, more[..1]);
    let last = store.fill("Payment-1", 1).await;
    settle(&groups, &mut first, &last).await;
}

#[tokio::test]
async fn a_group_cannot_be_moved_beyond_the_head() {
    let (store, groups, _) = with_events(patient()).await;
    let position = groups.info("mail").await.position;
    for beyond in [store.head().await + 1000, u64::MAX] {
        let refusal =
            groups.set_position("mail", position, Target::After(beyond)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::OutOfRange);
        assert_eq!(refusal.reason(), "POSITION_BEYOND_HEAD");
    }
    assert_eq!(groups.info("mail").await.position, position);
}

#[tokio::test]
async fn what_is_in_flight_is_delivered_again_where_the_group_is_moved_back() {
    let (_store, groups, events) = with_events(patient()).await;
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(first.positions(5).await, events);
    first.ack(events[..2].to_vec()).await;
    let position = groups.until("mail", |it| it.settled_count == 2).await.position;
    groups.set_position("mail", position, Target::After(events[0])).await.unwrap();
    assert_eq!(first.positions(4).await, events[1..]);
    first.ack(events[1..].to_vec()).await;
    groups.until("mail", |it| it.position >= events[4] && it.in_flight_count == 0).await;
    first.expect_nothing().await;
}

#[tokio::test]
async fn parked_events_stay_parked_where_the_group_is_moved_back() {
    let (_store, groups, events) = with_events(patient()).await;
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(first.positions(5).await, events);
    first.park([events[1], events[3]]).await;
    first.ack([events[0], events[2], events[4]]).await;
    let info = groups.until("mail", |it| it.settled_count == 3 && it.parked_count == 2).await;
    groups.set_position("mail", info.position, Target::After(0)).await.unwrap();
    settle(&groups, &mut first, &[events[0], events[2], events[4]]).await;
    first.expect_nothing().await;
    assert_eq!(groups.parked_positions("mail").await, [events[1], events[3]]);
}

#[tokio::test]
async fn a_group_skips_exactly_one_event_that_is_not_settled() {
    let (_store, groups, events) =
        with_events(GroupSettings { in_flight_max: 2, ..patient() }).await;
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(first.positions(2).await, events[..2]);
    let skip = async |skipped| {
        let position = groups.info("mail").await.position;
        groups.set_position("mail", position, Target::Skip(skipped)).await
    };
    // One that nobody has yet, and one that is in flight.
    skip(events[2]).await.unwrap();
    let position = skip(events[0]).await.unwrap();
    assert!(events[0] <= position && position < events[1], "{position}");
    assert_eq!(first.positions(1).await, [events[3]], "its room is free");
    first.ack([events[0]]).await;
    assert_eq!(first.not_in_flight().await, events[..1]);
    first.ack([events[1], events[3]]).await;
    assert_eq!(first.positions(1).await, [events[4]]);
    first.ack([events[4]]).await;
    groups.until("mail", |it| it.events_behind == 0 && it.position >= events[4]).await;
}

/// Its consumers were stopped because of it.
#[tokio::test]
async fn a_group_without_consumers_skips_an_event_that_nobody_has_looked_at() {
    let (_store, groups, events) = with_events(patient()).await;
    let position = groups.info("mail").await.position;
    groups.set_position("mail", position, Target::Skip(events[1])).await.unwrap();
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(first.positions(4).await, [&events[..1], &events[2..]].concat());
}

#[tokio::test]
async fn what_is_settled_not_there_or_does_not_match_cannot_be_skipped() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let filters = of_types(&["Paid"]);
    groups.create(CreateGroupRequest { filters, ..group("mail", patient()) }).await.unwrap();
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    let last = store.append("Payment-1", ANY, ["Paid", "Noted", "Paid"]).await.unwrap().position;
    assert_eq!(first.positions(2).await, [last - 2, last]);
    first.ack([last - 2]).await;
    let position = groups.until("mail", |it| it.settled_count == 1).await.position;
    for skipped in [last - 2, last - 1, last + 1000, u64::MAX] {
        let refusal =
            groups.set_position("mail", position, Target::Skip(skipped)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::NotFound, "{skipped}: {refusal}");
        assert_eq!(refusal.reason(), "NOT_UNSETTLED", "{skipped}");
    }
    let info = groups.info("mail").await;
    assert_eq!((info.position, info.in_flight_count), (position, 1));
    first.ack([last]).await;
    groups.until("mail", |it| it.settled_count == 2).await;
}
