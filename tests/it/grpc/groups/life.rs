//! Groups are made, seen, changed and ended.

use annals::wire::proto::v1::{
    Ack, CreateGroupRequest, Filter, Filters, GroupInfo, GroupSettings, GroupStrategy,
    ListGroupsRequest, ListParkedRequest, NackAction, PollRequest, ReplayParkedRequest,
    SettleRequest, UpdateGroupRequest, create_group_request::Start,
    set_group_position_request::Target,
};
use tonic::{Code, Status};

use crate::support::{
    ANY, Refusal, TestStore,
    asked::of_types,
    consumer::{HOUR, consumer, group, millis, patient},
};

fn defaults() -> GroupSettings {
    GroupSettings {
        strategy: GroupStrategy::RoundRobin.into(),
        message_timeout: Some(millis(30_000)),
        retries_max: Some(10),
        retry_delay: Some(millis(1000)),
        retry_delay_max: Some(millis(60_000)),
        in_flight_max: 10,
        hold_back_parked_keys: false,
        parked_max: 10_000,
        window_max: 1000,
        checkpoint_interval: Some(millis(1000)),
        consumers_max: 100,
    }
}

fn others() -> GroupSettings {
    GroupSettings {
        strategy: GroupStrategy::OrderedByStream.into(),
        message_timeout: Some(millis(100)),
        retries_max: Some(0),
        retry_delay: Some(millis(0)),
        retry_delay_max: Some(millis(0)),
        in_flight_max: 10_000,
        hold_back_parked_keys: true,
        parked_max: 100_000,
        window_max: 1,
        checkpoint_interval: Some(HOUR),
        consumers_max: 1,
    }
}

fn update(name: &str) -> UpdateGroupRequest {
    UpdateGroupRequest { group: name.to_owned(), ..UpdateGroupRequest::default() }
}

fn check_unknown(what: &str, refusal: &Status) {
    assert_eq!(refusal.code(), Code::NotFound, "{what}: {refusal}");
    assert_eq!(refusal.reason(), "UNKNOWN_GROUP", "{what}");
    assert_eq!(refusal.fact("group"), "nobody", "{what}");
}

/// A group's name is 1 to 256 bytes, and every one of them may be what it likes.
#[tokio::test]
async fn a_new_group_has_every_default_written_out_and_nothing_done() {
    let store = TestStore::start().await;
    let groups = store.groups();
    for (name, settings) in
        [("unset", None), ("empty", Some(GroupSettings::default())), ("all", Some(defaults()))]
    {
        let name = name.to_owned();
        let request =
            CreateGroupRequest { group: name.clone(), settings, ..CreateGroupRequest::default() };
        let made = groups.create(request).await.unwrap();
        assert_eq!((&made.group, made.settings), (&name, Some(defaults())));
        assert!(made.created_at.is_some());
        let seen = groups.info(&name).await;
        let undone = GroupInfo {
            group: name.clone(),
            settings: Some(defaults()),
            created_at: made.created_at,
            position: seen.position,
            // At most so many: the group has not looked at the event that made it.
            events_behind: seen.events_behind,
            time_behind: seen.time_behind,
            ..GroupInfo::default()
        };
        assert_eq!(seen, undone, "nothing is in flight, parked, delivered or settled");
        assert!(seen.events_behind <= store.head().await);
        assert!(groups.consumers(&name).await.is_empty());
        groups.delete(&name).await.unwrap();
    }
    for name in ["x".repeat(256), "é".repeat(128), "a b/c$".to_owned(), "$group-x".to_owned()] {
        let made = groups.create(group(&name, others())).await.unwrap();
        assert_eq!((&made.group, made.settings), (&name, Some(others())));
        assert_eq!(groups.info(&name).await.settings, Some(others()));
    }
}

#[tokio::test]
async fn the_same_request_is_answered_again_and_another_one_of_that_name_is_refused() {
    let store = TestStore::start().await;
    let groups = store.groups();
    store.fill("Payment-1", 3).await;
    let request = CreateGroupRequest {
        start: Some(Start::FromNow(())),
        filters: of_types(&["Paid"]),
        ..group("mail", patient())
    };
    let made = groups.create(request.clone()).await.unwrap();
    let head = store.fill("Payment-1", 3).await[2];
    let again = groups.create(request.clone()).await.unwrap();
    assert_eq!((&again.group, again.created_at), (&made.group, made.created_at));
    assert_eq!((again.start_after, again.settings), (made.start_after, made.settings));
    for other in [
        CreateGroupRequest { settings: Some(others()), ..request.clone() },
        CreateGroupRequest { settings: None, ..request.clone() },
        CreateGroupRequest { filters: of_types(&["Noted"]), ..request.clone() },
        CreateGroupRequest { start: Some(Start::After(1)), ..request.clone() },
        CreateGroupRequest { start: None, ..request.clone() },
    ] {
        let refusal = groups.create(other).await.unwrap_err();
        assert_eq!((refusal.code(), &*refusal.reason()), (Code::AlreadyExists, "GROUP_EXISTS"));
        assert_eq!(refusal.fact("group"), "mail");
    }
    assert_eq!(groups.info("mail").await.settings, made.settings);
    assert_eq!(store.head().await, head, "neither a repeat nor a refusal writes anything");

    // What became of the group since does not matter: it was made by this request.
    let changed = UpdateGroupRequest { settings: Some(others()), ..update("mail") };
    groups.update(changed).await.unwrap();
    let again = groups.create(request).await.unwrap();
    assert_eq!((again.created_at, again.settings), (made.created_at, Some(others())));
}

#[tokio::test]
async fn nobody_can_do_anything_with_a_group_that_is_not_there() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let settings = Some(patient());
    let nobody = || "nobody".to_owned();
    groups.create(group("somebody", patient())).await.unwrap();
    check_unknown("get", &groups.get("nobody").await.unwrap_err());
    check_unknown(
        "update",
        &groups.update(UpdateGroupRequest { settings, ..update("nobody") }).await.unwrap_err(),
    );
    check_unknown("delete", &groups.delete("nobody").await.unwrap_err());
    let refusal = groups.set_position("nobody", 0, Target::After(0)).await.unwrap_err();
    check_unknown("set position", &refusal);
    check_unknown("consume", &groups.consume(consumer("nobody", "a")).await.err().unwrap());
    let request = PollRequest { group: nobody(), consumer: nobody(), ..Default::default() };
    check_unknown("poll", &groups.poll(request).await.unwrap_err());
    let ack = Some(Ack { positions: vec![1], up_to: 0 });
    let request = SettleRequest { group: nobody(), consumer: nobody(), ack, nacks: vec![] };
    check_unknown("settle", &groups.settle(request).await.unwrap_err());
    let request = ListParkedRequest { group: nobody(), ..Default::default() };
    check_unknown("list parked", &groups.list_parked(request).await.unwrap_err());
    let request = ReplayParkedRequest { group: nobody(), ..Default::default() };
    check_unknown("replay parked", &groups.replay(request).await.unwrap_err());
    let request = annals::wire::proto::v1::DropParkedRequest {
        group: nobody(),
        all: true,
        ..Default::default()
    };
    check_unknown("drop parked", &groups.drop_request(request).await.unwrap_err());
}

/// Neither settings nor position, parked events or counters are those of the group before.
#[tokio::test]
async fn a_deleted_group_is_gone_and_one_of_its_name_begins_anew() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let events = store.fill("Payment-1", 3).await;
    let made = groups.create(group("mail", others())).await.unwrap();
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    first.expect(events[0], 1).await;
    first.park([events[0]]).await;
    // The others are held back.
    groups.until_parked("mail", &events).await;
    groups.delete("mail").await.unwrap();
    assert_eq!(groups.get("mail").await.unwrap_err().reason(), "UNKNOWN_GROUP");
    assert!(groups.list(ListGroupsRequest::default()).await.unwrap().groups.is_empty());
    assert_eq!(store.count(of_types(&["Paid"])).await.unwrap(), 3, "the events themselves stay");

    let anew = groups.create(group("mail", patient())).await.unwrap();
    assert_ne!(anew.created_at, made.created_at);
    assert_eq!((anew.parked_count, anew.delivered_count, anew.settled_count), (0, 0, 0));
    assert_eq!((&*anew.last_error, anew.last_error_at), ("", None));
    assert!(anew.position < events[0]);
    assert!(groups.parked("mail").await.is_empty());
    let mut second = groups.consume(consumer("mail", "")).await.unwrap();
    for position in events {
        second.expect(position, 1).await;
    }
}

#[tokio::test]
async fn groups_are_listed_in_the_order_of_their_names_bytes_page_by_page() {
    let store = TestStore::start().await;
    let groups = store.groups();
    for name in ["b", "é", "a", "Z", "ab"] {
        groups.create(group(name, patient())).await.unwrap();
    }
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    for size in [2, 2, 1] {
        let page = ListGroupsRequest { page_size: 2, page_token: page_token.clone() };
        let page = groups.list(page).await.unwrap();
        assert_eq!(page.groups.len(), size);
        assert_eq!(page.next_page_token.is_empty(), size == 1, "the last one says so");
        seen.extend(page.groups);
        page_token = page.next_page_token;
    }
    let names: Vec<_> = seen.iter().map(|group| &*group.group).collect();
    assert_eq!(names, ["Z", "a", "ab", "b", "é"]);
    for listed in &seen {
        let got = groups.info(&listed.group).await;
        assert_eq!((listed.settings, listed.created_at), (got.settings, got.created_at));
    }
    let all = groups.list(ListGroupsRequest::default()).await.unwrap();
    assert_eq!((all.groups.len(), &*all.next_page_token), (5, ""));
}

#[tokio::test]
async fn an_update_replaces_settings_as_a_whole_and_leaves_what_is_unset() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let request = CreateGroupRequest { filters: of_types(&["Paid"]), ..group("mail", others()) };
    let made = groups.create(request).await.unwrap();

    let some = GroupSettings { in_flight_max: 7, ..GroupSettings::default() };
    let changed = UpdateGroupRequest { settings: Some(some), ..update("mail") };
    let changed = groups.update(changed).await.unwrap();
    assert_eq!(changed.settings, Some(GroupSettings { in_flight_max: 7, ..defaults() }));
    assert_eq!((&changed.filters, changed.created_at), (&made.filters, made.created_at));

    let filters = Some(Filters { filters: of_types(&["Noted"]) });
    let changed = groups.update(UpdateGroupRequest { filters, ..update("mail") }).await.unwrap();
    assert_eq!(changed.filters, of_types(&["Noted"]));
    assert_eq!(changed.settings, Some(GroupSettings { in_flight_max: 7, ..defaults() }));

    let filters = Some(Filters { filters: vec![] });
    let changed = groups.update(UpdateGroupRequest { filters, ..update("mail") }).await.unwrap();
    assert_eq!(changed.filters, Vec::<Filter>::new());
    let seen = groups.info("mail").await;
    assert_eq!((seen.filters, seen.settings), (changed.filters, changed.settings));
}

#[tokio::test]
async fn other_filters_hold_for_events_that_come_later() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let request = CreateGroupRequest { filters: of_types(&["Paid"]), ..group("mail", patient()) };
    groups.create(request).await.unwrap();
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    let paid = store.append("Payment-1", ANY, ["Noted", "Paid"]).await.unwrap().position;
    consumer.expect(paid, 1).await;
    let filters = Some(Filters { filters: of_types(&["Noted"]) });
    groups.update(UpdateGroupRequest { filters, ..update("mail") }).await.unwrap();
    let noted = store.append("Payment-1", ANY, ["Paid", "Noted"]).await.unwrap().position;
    consumer.expect(noted, 1).await;
    let filters = Some(Filters { filters: vec![] });
    groups.update(UpdateGroupRequest { filters, ..update("mail") }).await.unwrap();
    let all = store.append("Payment-1", ANY, ["Paid", "Noted", "X"]).await.unwrap();
    for position in all.first_position..=all.position {
        consumer.expect(position, 1).await;
    }
    consumer.ack_up_to(all.position).await;
    assert_eq!(groups.until("mail", |info| info.settled_count == 5).await.events_behind, 0);
}

/// What one consumer has under the old strategy must not get under the feet of the new one.
#[tokio::test]
async fn events_in_flight_are_delivered_again_where_the_strategy_changes() {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    let events = store.fill("Payment-1", 3).await;
    assert_eq!(consumer.positions(3).await, events);
    let strategy = GroupStrategy::OrderedByStream.into();
    let settings = Some(GroupSettings { strategy, ..patient() });
    groups.update(UpdateGroupRequest { settings, ..update("mail") }).await.unwrap();
    for position in events {
        let again = consumer.delivered().await;
        assert_eq!(again.event.position, position, "in order, one at a time");
        consumer.expect_nothing().await;
        consumer.ack([position]).await;
    }
    groups.until("mail", |info| info.settled_count == 3).await;
}

#[tokio::test]
async fn a_setting_of_a_group_that_runs_holds_for_what_comes_then() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let narrow = GroupSettings { retries_max: Some(1000), ..patient() };
    groups.create(group("mail", narrow)).await.unwrap();
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    let events = store.fill("Payment-1", 1).await;
    consumer.expect(events[0], 1).await;
    let settings = Some(GroupSettings { retries_max: Some(0), ..patient() });
    groups.update(UpdateGroupRequest { settings, ..update("mail") }).await.unwrap();
    consumer.nack(events.clone(), NackAction::Retry, "no").await;
    groups.until_parked("mail", &events).await;
}
