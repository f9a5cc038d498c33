//! Where a group begins, and which events are its own.

use annals::wire::proto::v1::{
    CreateGroupRequest, Filter, GroupSettings, SetRetentionRequest, create_group_request::Start,
    set_retention_request::Scope,
};
use tonic::Code;

use crate::support::{
    ANY, Refusal, TestStore,
    asked::{at, happened, of_types, strings},
    consumer::{consumer, group, millis, patient},
    within,
};

fn from(name: &str, start: Start) -> CreateGroupRequest {
    CreateGroupRequest { start: Some(start), ..group(name, patient()) }
}

#[tokio::test]
async fn a_group_begins_where_it_is_told_to() {
    let store = TestStore::start().await;
    let groups = store.groups();
    for day in ["2010-10-03T12:00:00Z", "2010-10-01T12:00:00Z", "2010-10-05T12:00:00Z"] {
        store.append("Payment-1", ANY, [happened("Paid", day)]).await.unwrap();
    }
    let time = |time| Start::FromTime(at(time));
    let cases = [
        ("after nothing", Start::After(0), Some(1)),
        ("after an event", Start::After(2), Some(3)),
        ("after the head", Start::After(3), None),
        ("from now", Start::FromNow(()), None),
        ("from before all", time("2010-01-01T00:00:00Z"), Some(1)),
        ("from that very moment", time("2010-10-03T12:00:00Z"), Some(1)),
        // In the order of the log: the second one is earlier, and comes all the same.
        ("from between", time("2010-10-02T12:00:00Z"), Some(1)),
        ("from a later time", time("2010-10-04T12:00:00Z"), Some(3)),
        ("from a time that has not come", time("2999-01-01T00:00:00Z"), None),
    ];
    // Groups are events themselves: from here on the head is beyond 3.
    let mut starts = Vec::new();
    for (what, start, first) in cases {
        let info = groups.create(from(what, start)).await.unwrap();
        match first {
            Some(first) => assert_eq!(info.start_after, first - 1, "{what}"),
            None => assert!(info.start_after >= 3, "{what}"),
        }
        starts.push((what, first));
    }
    let next = store.append("Payment-1", ANY, ["Paid"]).await.unwrap().position;
    for (what, first) in starts {
        let mut consumer = groups.consume(consumer(what, "")).await.unwrap();
        let expected: Vec<_> =
            first.map_or(vec![], |first| (first..=3).collect()).into_iter().chain([next]).collect();
        assert_eq!(consumer.positions(expected.len()).await, expected, "{what}");
    }
}

#[tokio::test]
async fn a_group_cannot_begin_beyond_the_head() {
    let store = TestStore::start().await;
    let groups = store.groups();
    store.fill("Payment-1", 3).await;
    for after in [4, u64::MAX] {
        let refusal = groups.create(from("mail", Start::After(after))).await.unwrap_err();
        assert_eq!(refusal.code(), Code::OutOfRange);
        assert_eq!(refusal.reason(), "POSITION_BEYOND_HEAD");
        assert_eq!((refusal.fact("after"), &*refusal.fact("head")), (after.to_string(), "3"));
    }
    assert_eq!(groups.get("mail").await.unwrap_err().reason(), "UNKNOWN_GROUP");
    assert_eq!(store.head().await, 3, "a refusal writes nothing");
}

#[tokio::test]
async fn a_group_gets_what_its_filters_pick_and_nothing_else() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let filters = vec![
        Filter { types: strings(&["Paid"]), categories: strings(&["Order"]), ..Filter::default() },
        Filter { streams: strings(&["Payment-2"]), ..Filter::default() },
    ];
    let request = CreateGroupRequest { filters: filters.clone(), ..group("mail", patient()) };
    assert_eq!(groups.create(request).await.unwrap().filters, filters);
    let mut expected = Vec::new();
    for stream in ["Order-1", "Payment-1", "Payment-2", "Order-2"] {
        let last = store.append(stream, ANY, ["Paid", "Noted"]).await.unwrap().position;
        match stream {
            "Payment-1" => {}
            "Payment-2" => expected.extend([last - 1, last]),
            _ => expected.push(last - 1),
        }
    }
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(consumer.positions(4).await, expected);
    consumer.ack(expected).await;
    // Up to the head everything that matches is settled.
    let head = store.head().await;
    groups.until("mail", |info| info.position >= head - 1 && info.settled_count == 4).await;
    consumer.expect_nothing().await;
}

/// The server's own events are no group's business, unless it asks for them; what groups write for
/// themselves never is, or each ack would make another event.
#[tokio::test]
async fn the_servers_own_events_are_delivered_only_where_asked_for_and_those_of_groups_never() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let often = GroupSettings { checkpoint_interval: Some(millis(10)), ..patient() };
    let prefix = |prefix| vec![Filter { stream_prefixes: strings(&[prefix]), ..Filter::default() }];
    groups.create(group("all", often)).await.unwrap();
    let request = CreateGroupRequest { filters: prefix("$"), ..group("own", often) };
    groups.create(request).await.unwrap();
    let request = CreateGroupRequest { filters: prefix("$group-"), ..group("groups", often) };
    groups.create(request).await.unwrap();
    let request = CreateGroupRequest { filters: prefix("$checkpoint-"), ..group("marks", often) };
    groups.create(request).await.unwrap();
    let mut all = groups.consume(consumer("all", "")).await.unwrap();
    let mut own = groups.consume(consumer("own", "")).await.unwrap();
    let mut none = [
        groups.consume(consumer("groups", "")).await.unwrap(),
        groups.consume(consumer("marks", "")).await.unwrap(),
    ];
    for round in 1..5 {
        let scope = Some(Scope::Category(format!("Never{round}")));
        let request = SetRetentionRequest { scope, max_age: None, max_count: Some(1) };
        let set = within(store.commands().set_retention(request)).await.unwrap().into_inner();
        let paid = store.append("Payment-1", ANY, ["Paid"]).await.unwrap().position;
        own.expect(set.position, 1).await;
        all.expect(paid, 1).await;
        own.ack([set.position]).await;
        all.ack([paid]).await;
        groups.until("all", |info| info.settled_count == round).await;
        groups.until("own", |info| info.settled_count == round).await;
    }
    for consumer in &mut none {
        consumer.expect_nothing().await;
    }
    all.expect_nothing().await;
    own.expect_nothing().await;
    // A group that has noted all that it has settled writes no more.
    let head = store.head().await;
    all.expect_nothing().await;
    assert_eq!(store.head().await, head);
    let read = store.read_all().await;
    assert!(read.iter().any(|event| event.stream == "$group-all"), "a group is an event");
}

#[tokio::test]
async fn what_is_behind_a_group_is_counted_and_timed() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let filters = of_types(&["Paid"]);
    groups.create(CreateGroupRequest { filters, ..group("mail", patient()) }).await.unwrap();
    let events = store.fill("Payment-1", 5).await;
    let info = groups.info("mail").await;
    assert!(info.events_behind >= 5, "at most so many: it never tells too few");
    assert!(info.time_behind.is_some());
    let mut consumer = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(consumer.positions(5).await, events);
    // It has looked at everything, so it knows.
    let info = groups.until("mail", |info| info.events_behind == 5).await;
    assert_eq!((info.in_flight_count, info.delivered_count), (5, 5));
    consumer.ack([events[0]]).await;
    consumer.park([events[1]]).await;
    let info = groups.until("mail", |info| info.events_behind == 3).await;
    assert!(events[1] <= info.position && info.position < events[2], "parked ones are passed");
    consumer.ack(events[2..].to_vec()).await;
    let info = groups.until("mail", |info| info.events_behind == 0).await;
    assert!(info.position >= events[4]);
    assert_eq!((info.in_flight_count, info.parked_count, info.settled_count), (0, 1, 4));
}
