//! Queries: what is counted, found, replayed and known.

use std::time::Duration;

use annals_client::{
    Client, ExpectedVersion, Filter, NewEvent,
    append::StreamWrite,
    query::{Cause, GroupBy, ReplayMessage, TimeBase, Unit},
    testing::TestStore,
};
use chrono::TimeDelta;
use uuid::Uuid;

use crate::proxy::Proxy;

fn happened(event_type: &str, at: &str) -> NewEvent {
    NewEvent::new(event_type).occurred_at(at.parse().unwrap())
}

/// Events of `Payment-1`, one an hour from ten o'clock on.
async fn hourly(client: &Client, types: &[&str]) {
    for (event_type, hour) in types.iter().zip(10..) {
        let event = happened(event_type, &format!("2024-03-01T{hour}:00:00Z"));
        client.append("Payment-1", ExpectedVersion::Any, [event]).await.unwrap();
    }
}

#[tokio::test]
async fn a_count_is_that_of_now_and_the_answer_says_whether_it_was_kept() {
    let store = TestStore::start().await;
    let client = store.client();
    hourly(&client, &["Made", "Failed", "Made"]).await;
    let made = || Filter::new().types(["Made"]);
    for (hit, answer) in [(false, (2, 3)), (true, (2, 3))] {
        let count = client.count([made()]).await.unwrap();
        assert_eq!(count.hit, hit);
        assert_eq!((count.answer.count, count.answer.position), answer);
    }
    hourly(&client, &["Made"]).await;
    let count = client.count([made()]).await.unwrap();
    assert_eq!((count.hit, count.answer.count), (false, 3));
    assert_eq!(client.count([]).await.unwrap().answer.count, 4);
}

#[tokio::test]
async fn a_count_waits_for_the_position_that_it_must_see() {
    let store = TestStore::start().await;
    let client = store.client();
    let count = async { client.count([]).min_position(2).await };
    let (count, ()) = tokio::join!(count, hourly(&client, &["Made", "Made"]));
    assert_eq!(count.unwrap().answer.count, 2);
}

#[tokio::test]
async fn statistics_put_events_together_as_they_are_asked_to() {
    let store = TestStore::start().await;
    let client = store.client();
    let events = [
        happened("Made", "2010-10-31T22:30:00Z").metadata("userId", "ann"),
        // In Amsterdam it is November.
        happened("Made", "2010-10-31T23:30:00Z").metadata("userId", "bob"),
        happened("Failed", "2010-10-30T12:00:00Z"),
    ];
    client.append("Payment-1", 0, events).await.unwrap();
    client.append("User-1", 0, [NewEvent::new("Registered")]).await.unwrap();
    let statistics = client.statistics().filter(Filter::new().category("Payment"));
    let rows = async |by: GroupBy, zone: &str, base| -> Vec<(String, u64)> {
        let statistics = statistics.clone().by(by).time_zone(zone).time_base(base);
        let group = statistics.get().await.unwrap().answer.groups.remove(0);
        group.rows.into_iter().map(|row| (row.key, row.count)).collect()
    };
    let expect = |rows: &[(&str, u64)]| -> Vec<(String, u64)> {
        rows.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect()
    };
    let zone = "Europe/Amsterdam";
    for (by, expected) in [
        (GroupBy::Month, vec![("2010-10", 2), ("2010-11", 1)]),
        (GroupBy::Day, vec![("2010-10-30", 1), ("2010-10-31", 1), ("2010-11-01", 1)]),
        (GroupBy::Week, vec![("2010-W43", 2), ("2010-W44", 1)]),
        (GroupBy::from(Unit::Month), vec![("2010-10", 2), ("2010-11", 1)]),
        (GroupBy::Type, vec![("Made", 2), ("Failed", 1)]),
        (GroupBy::Category, vec![("Payment", 3)]),
        (GroupBy::Stream, vec![("Payment-1", 3)]),
        (GroupBy::metadata("userId"), vec![("ann", 1), ("bob", 1)]),
    ] {
        let rows = rows(by.clone(), zone, TimeBase::Occurred).await;
        assert_eq!(rows, expect(&expected), "{by:?}");
    }
    let utc = rows(GroupBy::Month, "", TimeBase::Occurred).await;
    assert_eq!(utc, expect(&[("2010-10", 3)]));
    let recorded = rows(GroupBy::Day, zone, TimeBase::Recorded).await;
    assert!(recorded.iter().all(|(day, _)| !day.starts_with("2010")), "{recorded:?}");

    let by_type = statistics.by(GroupBy::Type).rows_max(1).get().await.unwrap().answer;
    let group = &by_type.groups[0];
    assert_eq!((group.rows.len(), group.row_count, group.other_count), (1, 2, 1));
}

#[tokio::test]
async fn the_answer_of_statistics_and_of_trends_says_whether_it_was_kept() {
    let store = TestStore::start().await;
    let client = store.client();
    hourly(&client, &["Made"]).await;
    for hit in [false, true] {
        assert_eq!(client.statistics().by(GroupBy::Type).get().await.unwrap().hit, hit);
        assert_eq!(client.trends(Unit::Hour).get().await.unwrap().hit, hit);
    }
}

#[tokio::test]
async fn trends_have_a_row_for_each_unit_and_series() {
    let store = TestStore::start().await;
    let client = store.client();
    let times = ["2024-03-01T10:00:00Z", "2024-03-03T10:00:00Z", "2024-03-03T11:00:00Z"];
    for (event_type, at) in ["Made", "Failed", "Made"].into_iter().zip(times) {
        let event = happened(event_type, at);
        client.append("Payment-1", ExpectedVersion::Any, [event]).await.unwrap();
    }
    let days = client.trends(Unit::Day).filter(Filter::new().category("Payment"));
    let filled = days.clone().fill_empty().get().await.unwrap().answer;
    let rows: Vec<_> = filled.rows.iter().map(|row| (row.key.as_str(), row.count)).collect();
    assert_eq!(rows, [("2024-03-01", 1), ("2024-03-02", 0), ("2024-03-03", 2)]);

    let split = days.split_by(GroupBy::Type).series_max(1).get().await.unwrap().answer;
    let rows: Vec<_> = split.rows.iter().map(|row| (&*row.key, &*row.series, row.count)).collect();
    assert_eq!(rows, [("2024-03-01", "Made", 1), ("2024-03-03", "Made", 1)]);
    assert_eq!((split.event_count, split.other_count), (3, 1));

    let recorded = client.trends(Unit::Month).time_base(TimeBase::Recorded).get().await.unwrap();
    assert!(recorded.answer.rows.iter().all(|row| row.key != "2024-03"));
}

#[tokio::test]
async fn a_watch_gives_everything_first_and_then_what_has_changed_over_a_broken_connection_too() {
    let store = TestStore::start().await;
    let client = store.client();
    let proxy = Proxy::before(&store).await;
    let watcher = proxy.client().await;
    hourly(&client, &["Made", "Failed"]).await;
    let soon = Duration::from_millis(100);
    let mut statistics = watcher.statistics().by(GroupBy::Type).watch(soon).await.unwrap();
    let mut trends = watcher.trends(Unit::Hour).watch(soon).await.unwrap();
    let first = statistics.next().await.unwrap();
    assert!(first.complete);
    assert_eq!(first.statistics.groups[0].rows.len(), 2);
    let first = trends.next().await.unwrap();
    assert!(first.complete);
    assert_eq!(first.trends.rows.len(), 2);

    hourly(&client, &["Made"]).await;
    let change = statistics.next().await.unwrap();
    let rows = &change.statistics.groups[0].rows;
    assert_eq!((change.complete, change.statistics.event_count), (false, 3));
    assert_eq!((rows.len(), rows[0].key.as_str(), rows[0].count), (1, "Made", 2));
    let change = trends.next().await.unwrap();
    assert_eq!((change.complete, change.trends.rows.len()), (false, 1));
    assert_eq!(change.trends.rows[0].count, 2);

    proxy.cut().await;
    let again = statistics.next().await.unwrap();
    assert!(again.complete);
    assert_eq!(again.statistics.event_count, 3);
    let again = trends.next().await.unwrap();
    assert!(again.complete);
    assert_eq!(again.trends.event_count, 3);
}

#[tokio::test]
async fn a_watch_that_is_refused_says_so_at_once() {
    let store = TestStore::start().await;
    let statistics = store.client().statistics().time_zone("Nowhere/Land");
    let error = statistics.watch(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.reason(), "INVALID_REQUEST", "{error}");
    // Saturated, not taken for the default.
    let error = store.client().trends(Unit::Day).watch(Duration::MAX).await.unwrap_err();
    assert_eq!(error.reason(), "INVALID_REQUEST", "{error}");
}

#[tokio::test]
async fn a_timeline_tells_times_and_causes() {
    let store = TestStore::start().await;
    let client = store.client();
    let placed = happened("OrderPlaced", "2024-03-01T10:00:00Z");
    let paid = happened("Paid", "2024-03-01T10:00:01.5Z").causation_id(placed.id.to_string());
    let noted = happened("Noted", "2024-03-01T09:59:59Z").causation_id("command-1");
    for (stream, event) in [("Order-1", placed), ("Payment-1", paid), ("Note-1", noted)] {
        client.append(stream, 0, [event.correlation_id("order-1")]).await.unwrap();
    }
    client.append("Order-2", 0, [NewEvent::new("OrderPlaced")]).await.unwrap();

    let timeline = client.correlation("order-1").get().await.unwrap();
    let summary = &timeline.summary;
    assert_eq!((summary.event_count, summary.sent_count, summary.root_count), (3, 3, 2));
    let [placed, paid, noted] = timeline.entries.as_slice() else { panic!("{timeline:?}") };
    assert_eq!(placed.event.stream, "Order-1");
    assert_eq!((placed.cause, placed.cause_position, placed.depth), (Cause::None, None, 0));
    assert_eq!((placed.since_first, placed.since_cause), (TimeDelta::zero(), None));
    let later = TimeDelta::milliseconds(1500);
    assert_eq!((paid.cause, paid.cause_position, paid.depth), (Cause::Known, Some(1), 1));
    assert_eq!((paid.since_first, paid.since_cause), (later, Some(later)));
    assert_eq!((noted.cause, noted.since_first), (Cause::Unknown, TimeDelta::seconds(-1)));
    assert_eq!([placed, paid, noted].map(|entry| entry.tree_order), [1, 2, 3]);

    let short = client.correlation("order-1").limit(1).get().await.unwrap();
    assert_eq!((short.summary.event_count, short.entries.len()), (3, 1));
    let error = client.correlation("order-2").get().await.unwrap_err();
    assert_eq!(error.reason(), "UNKNOWN_CORRELATION");
    assert!(error.is_not_found());
}

#[tokio::test]
async fn the_pages_of_a_search_are_what_a_read_gives_in_either_direction() {
    let store = TestStore::start().await;
    let client = store.client();
    for number in 0..50 {
        let stream = format!("{}-1", if number % 3 == 0 { "User" } else { "Payment" });
        client.append(stream, ExpectedVersion::Any, [NewEvent::new("Made")]).await.unwrap();
    }
    let payments = || Filter::new().category("Payment");
    let mut expected = client.read_all().filter(payments()).collect().await.unwrap();
    let search = client.search().filter(payments());
    assert_eq!(search.clone().collect().await.unwrap(), expected);
    assert_eq!(search.clone().limit(7).collect().await.unwrap(), expected);
    let whole = search.clone().page().await.unwrap();
    assert_eq!((whole.events.len(), whole.next_page_token, whole.head), (33, None, 50));

    expected.reverse();
    let mut pages = search.backwards().limit(10).pages();
    let mut found = Vec::new();
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        sizes.push(page.events.len());
        found.extend(page.events);
    }
    assert_eq!((found, sizes), (expected, vec![10, 10, 10, 3]));
    assert_eq!(pages.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_replay_sends_what_its_filters_pick_and_says_where_it_ended() {
    let store = TestStore::start().await;
    let client = store.client();
    hourly(&client, &["Made", "Failed", "Made", "Made", "Made"]).await;
    let replayed = async |replay: annals_client::query::Replay| {
        let mut replay = replay.filter(Filter::new().types(["Made"])).start().await.unwrap();
        assert_eq!(replay.head(), 5);
        let (mut positions, mut end) = (Vec::new(), None);
        while let Some(message) = replay.next().await.unwrap() {
            match message {
                ReplayMessage::Events(events) => {
                    positions.extend(events.iter().map(|event| event.position));
                }
                ReplayMessage::Ended { event_count, position } => {
                    end = Some((event_count, position));
                }
                pause @ ReplayMessage::Pause { .. } => panic!("{pause:?}"),
            }
        }
        (positions, end)
    };
    assert_eq!(replayed(client.replay()).await, (vec![1, 3, 4, 5], Some((4, 5))));
    assert_eq!(replayed(client.replay().after(3)).await, (vec![4, 5], Some((2, 5))));
    let from = client.replay().from("2024-03-01T13:00:00Z".parse().unwrap());
    assert_eq!(replayed(from).await, (vec![4, 5], Some((2, 5))));
    let short = client.replay().speed(1.0).pause_max(Duration::from_millis(1));
    assert_eq!(replayed(short).await, (vec![1, 3, 4, 5], Some((4, 5))));
    let (positions, end) = replayed(client.replay().limit(2)).await;
    assert_eq!((positions, end.unwrap().0), (vec![1, 3], 2));
}

#[tokio::test]
async fn a_replay_at_its_own_pace_says_how_long_the_next_event_is_away() {
    let store = TestStore::start().await;
    let client = store.client();
    hourly(&client, &["Made", "Made"]).await;
    let mut replay = client.replay().speed(2.0).start().await.unwrap();
    let first = replay.next().await.unwrap();
    assert!(
        matches!(&first, Some(ReplayMessage::Events(events)) if events[0].position == 1),
        "{first:?}"
    );
    let Some(ReplayMessage::Pause { wait, until }) = replay.next().await.unwrap() else {
        panic!("no pause")
    };
    let half_an_hour = Duration::from_mins(30);
    assert!(wait <= half_an_hour && wait > half_an_hour / 2, "{wait:?}");
    assert_eq!(until, "2024-03-01T11:00:00Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap());
}

#[tokio::test]
async fn an_event_is_found_by_its_id_and_by_its_position() {
    let store = TestStore::start().await;
    let client = store.client();
    let event = NewEvent::new("Made");
    client.append("Payment-1", 0, [event.clone()]).await.unwrap();
    let found = client.event_by_id(event.id).await.unwrap().unwrap();
    assert_eq!((found.id, found.position), (event.id, 1));
    assert_eq!(client.event_at(1).await.unwrap(), Some(found));
    assert_eq!(client.event_at(2).await.unwrap(), None);
    assert_eq!(client.event_by_id(Uuid::now_v7()).await.unwrap(), None);
}

#[tokio::test]
async fn an_explanation_names_the_indexes_and_with_execution_what_it_costs() {
    let store = TestStore::start().await;
    let client = store.client();
    hourly(&client, &["Made", "Failed", "Made"]).await;
    let made = || [Filter::new().types(["Made"])];
    let explained = client.explain(made(), false).await.unwrap();
    let plan = &explained.plans[0];
    assert_eq!((plan.indexes[0].index.as_str(), plan.indexes[0].event_count), ("types", 2));
    assert_eq!(explained.execution, None);
    let executed = client.explain(made(), true).await.unwrap();
    assert_eq!(executed.execution.unwrap().match_count, 2);
}

#[tokio::test]
async fn lists_have_all_pages() {
    let store = TestStore::start().await;
    let client = store.client();
    let write = |number: u32| StreamWrite {
        stream: format!("C{number:04}-1"),
        expected: ExpectedVersion::NoStream,
        events: vec![NewEvent::new(format!("T{number:04}"))],
    };
    for writes in [0..1000, 1000..1001] {
        client.commit(writes.map(write), Vec::new()).await.unwrap();
    }
    let streams = client.list_streams("").await.unwrap();
    assert!(streams.iter().map(|it| it.last_position).eq(1..=1001));
    let categories = client.list_categories().await.unwrap();
    assert!(categories.iter().map(|it| it.last_position).eq(1..=1001));
    let types = client.list_event_types().await.unwrap();
    assert!(types.iter().map(|it| it.last_position).eq(1..=1001));
    let some = client.list_streams("C100").await.unwrap();
    assert_eq!(some[0], client.stream_info("C1000-1").await.unwrap());
    assert_eq!((some.len(), some[0].version, some[0].category.as_str()), (1, 1, "C1000"));
    let error = client.stream_info("C9999-1").await.unwrap_err();
    assert_eq!(error.reason(), "UNKNOWN_STREAM");
}
