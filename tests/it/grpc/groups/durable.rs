//! A server that stops and starts again on the same data: its groups are what they were.

use std::path::Path;

use annals::wire::proto::v1::{
    CreateGroupRequest, Filters, GroupInfo, GroupSettings, GroupStrategy, ListGroupsRequest,
    UpdateGroupRequest, create_group_request::Start, set_group_position_request::Target,
};

use crate::support::{
    ANY, Refusal, TestStore,
    asked::of_types,
    consumer::{consumer, group, millis, patient},
};

async fn start(data: &Path) -> TestStore {
    TestStore::start_with(|config| config.data = Some(data.to_owned())).await
}

async fn restart(store: TestStore, data: &Path) -> TestStore {
    store.stop.cancel();
    store.stopped().await.unwrap();
    start(data).await
}

/// What is kept of a group; the counters are since the server started.
fn kept(info: &GroupInfo) -> GroupInfo {
    GroupInfo {
        group: info.group.clone(),
        settings: info.settings,
        filters: info.filters.clone(),
        created_at: info.created_at,
        start_after: info.start_after,
        parked_count: info.parked_count,
        ..GroupInfo::default()
    }
}

#[tokio::test]
async fn a_group_survives_a_stop_with_its_settings_filters_and_start() {
    let data = tempfile::tempdir().unwrap();
    let store = start(data.path()).await;
    let events = store.fill("Payment-1", 3).await;
    let settings = GroupSettings {
        strategy: GroupStrategy::OrderedByCorrelation.into(),
        hold_back_parked_keys: true,
        retries_max: Some(0),
        window_max: 7,
        ..patient()
    };
    let request = CreateGroupRequest {
        start: Some(Start::After(events[1])),
        filters: of_types(&["Paid"]),
        ..group("made", settings)
    };
    store.groups().create(request.clone()).await.unwrap();
    store.groups().create(group("changed", patient())).await.unwrap();
    let change = UpdateGroupRequest {
        group: "changed".to_owned(),
        settings: Some(settings),
        filters: Some(Filters { filters: of_types(&["Noted"]) }),
    };
    store.groups().update(change).await.unwrap();
    store.groups().create(group("deleted", settings)).await.unwrap();
    store.groups().delete("deleted").await.unwrap();
    store.groups().create(group("anew", settings)).await.unwrap();
    store.groups().delete("anew").await.unwrap();
    store.groups().create(group("anew", patient())).await.unwrap();
    let before = store.groups().list(ListGroupsRequest::default()).await.unwrap().groups;

    let store = restart(store, data.path()).await;
    let groups = store.groups();
    let after = groups.list(ListGroupsRequest::default()).await.unwrap().groups;
    let names: Vec<_> = after.iter().map(|info| &*info.group).collect();
    assert_eq!(names, ["anew", "changed", "made"]);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(kept(before), kept(after));
    }
    assert_eq!(groups.get("deleted").await.unwrap_err().reason(), "UNKNOWN_GROUP");
    // The same request is still the same.
    let again = groups.create(request).await.unwrap();
    assert_eq!((again.created_at, again.settings), (before[2].created_at, before[2].settings));
    let mut consumer = groups.consume(consumer("made", "")).await.unwrap();
    consumer.expect(events[2], 1).await;
}

/// The checkpoint interval is an hour: what was settled is noted because the server stops.
#[tokio::test]
async fn what_was_settled_before_a_clean_stop_is_not_delivered_again_and_what_was_in_flight_is() {
    let data = tempfile::tempdir().unwrap();
    let mut store = start(data.path()).await;
    let events = store.fill("Payment-1", 6).await;
    store.groups().create(group("mail", patient())).await.unwrap();
    let mut first = store.groups().consume(consumer("mail", "")).await.unwrap();
    assert_eq!(first.positions(6).await, events);
    first.ack([events[0], events[1], events[3], events[5]]).await;
    let before = store.groups().until("mail", |info| info.settled_count == 4).await;
    for _ in 0..2 {
        store = restart(store, data.path()).await;
        let groups = store.groups();
        let info = groups.info("mail").await;
        assert!(events[1] <= info.position && info.position < events[2], "{}", info.position);
        assert_eq!((info.created_at, info.settings), (before.created_at, before.settings));
        let mut next = groups.consume(consumer("mail", "")).await.unwrap();
        assert_eq!(
            next.positions(2).await,
            [events[2], events[4]],
            "one behind a gap is settled, too"
        );
        next.expect_nothing().await;
    }
    let mut last = store.groups().consume(consumer("mail", "")).await.unwrap();
    assert_eq!(last.positions(2).await, [events[2], events[4]]);
    last.ack([events[2], events[4]]).await;
    store.groups().until("mail", |info| info.events_behind == 0).await;
    let store = restart(store, data.path()).await;
    let mut nothing = store.groups().consume(consumer("mail", "")).await.unwrap();
    nothing.expect_nothing().await;
    let more = store.fill("Payment-1", 1).await;
    nothing.expect(more[0], 1).await;
}

#[tokio::test]
async fn parked_events_and_requests_to_replay_them_survive_a_stop() {
    let data = tempfile::tempdir().unwrap();
    let mut store = start(data.path()).await;
    let events = store.fill("Payment-1", 5).await;
    store.groups().create(group("mail", patient())).await.unwrap();
    let mut first = store.groups().consume(consumer("mail", "")).await.unwrap();
    assert_eq!(first.positions(5).await, events);
    for position in &events[..4] {
        first.nack([*position], annals::wire::proto::v1::NackAction::Park, "no").await;
    }
    first.ack([events[4]]).await;
    store.groups().until_parked("mail", &events[..4]).await;
    assert_eq!(store.groups().drop_parked("mail", &events[..1]).await, 1);
    let before = store.groups().parked("mail").await;
    drop(first);
    store = restart(store, data.path()).await;
    assert_eq!(store.groups().parked("mail").await, before, "with reason, count and time");
    let mut nothing = store.groups().consume(consumer("mail", "")).await.unwrap();
    nothing.expect_nothing().await;
    drop(nothing);
    store.groups().until("mail", |info| info.consumer_count == 0).await;

    assert_eq!(store.groups().replay_parked("mail", &events[1..3]).await, 2);
    store = restart(store, data.path()).await;
    let groups = store.groups();
    let replaying: Vec<_> = groups.parked("mail").await.iter().map(|it| it.replaying).collect();
    assert_eq!(replaying, [true, true, false]);
    let mut second = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(second.positions(2).await, events[1..3]);
    second.expect_nothing().await;
    second.ack([events[1]]).await;
    groups.until_parked("mail", &events[2..4]).await;
    drop(second);

    // One was replayed and settled, one was replayed and is open, one is parked.
    store = restart(store, data.path()).await;
    let groups = store.groups();
    assert_eq!(groups.parked_positions("mail").await, events[2..4]);
    let mut third = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(third.positions(1).await, events[2..3]);
    third.ack([events[2]]).await;
    groups.until_parked("mail", &events[3..4]).await;
    third.expect_nothing().await;
}

#[tokio::test]
async fn keys_that_are_held_back_are_so_after_a_stop() {
    let data = tempfile::tempdir().unwrap();
    let store = start(data.path()).await;
    let settings = GroupSettings {
        strategy: GroupStrategy::OrderedByStream.into(),
        hold_back_parked_keys: true,
        ..patient()
    };
    store.groups().create(group("mail", settings)).await.unwrap();
    let mut first = store.groups().consume(consumer("mail", "")).await.unwrap();
    let mut events = store.fill("Payment-1", 2).await;
    first.expect(events[0], 1).await;
    first.park([events[0]]).await;
    store.groups().until_parked("mail", &events).await;
    drop(first);
    let store = restart(store, data.path()).await;
    let groups = store.groups();
    let mut second = groups.consume(consumer("mail", "")).await.unwrap();
    events.extend(store.fill("Payment-1", 1).await);
    groups.until_parked("mail", &events).await;
    let held: Vec<_> = groups.parked("mail").await.iter().map(|it| it.held_back).collect();
    assert_eq!(held, [false, true, true]);
    second.expect_nothing().await;
    groups.replay_parked("mail", &[]).await;
    for position in events {
        assert_eq!(second.positions(1).await, [position]);
        second.expect_nothing().await;
        second.ack([position]).await;
    }
    groups.until_parked("mail", &[]).await;
}

/// How often an event was tried and how long it waits are the server's to remember; that it is tried is the
/// group's.
#[tokio::test]
async fn an_event_that_waits_to_be_tried_again_comes_after_a_stop() {
    let data = tempfile::tempdir().unwrap();
    let store = start(data.path()).await;
    let settings = GroupSettings { retry_delay: Some(millis(100)), ..patient() };
    store.groups().create(group("mail", settings)).await.unwrap();
    let mut first = store.groups().consume(consumer("mail", "")).await.unwrap();
    let events = store.append("Payment-1", ANY, ["Paid", "Paid"]).await.unwrap();
    assert_eq!(first.positions(2).await, [events.first_position, events.position]);
    first.nack([events.first_position], annals::wire::proto::v1::NackAction::Retry, "").await;
    first.ack([events.position]).await;
    store.groups().until("mail", |info| info.settled_count == 1).await;
    let store = restart(store, data.path()).await;
    let mut second = store.groups().consume(consumer("mail", "")).await.unwrap();
    assert_eq!(second.positions(1).await, [events.first_position]);
    second.expect_nothing().await;
}

#[tokio::test]
async fn a_group_that_was_moved_is_there_after_a_stop() {
    let data = tempfile::tempdir().unwrap();
    let store = start(data.path()).await;
    let events = store.fill("Payment-1", 5).await;
    for name in ["back", "on", "past"] {
        store.groups().create(group(name, patient())).await.unwrap();
    }
    for name in ["back", "past"] {
        let mut consumer = store.groups().consume(consumer(name, "")).await.unwrap();
        assert_eq!(consumer.positions(5).await, events);
        if name == "back" {
            consumer.ack(events.clone()).await;
            store.groups().until(name, |info| info.settled_count == 5).await;
        }
    }
    for (name, target) in [
        ("back", Target::After(events[2])),
        ("on", Target::After(events[3])),
        ("past", Target::Skip(events[1])),
    ] {
        store.groups().until(name, |info| info.in_flight_count == 0).await;
        let position = store.groups().info(name).await.position;
        store.groups().set_position(name, position, target).await.unwrap();
    }
    let store = restart(store, data.path()).await;
    let past = [events[0], events[2], events[3], events[4]];
    for (name, expected) in [("back", &events[3..]), ("on", &events[4..]), ("past", &past)] {
        let mut consumer = store.groups().consume(consumer(name, "")).await.unwrap();
        assert_eq!(consumer.positions(expected.len()).await, expected, "{name}");
        consumer.expect_nothing().await;
    }
}
