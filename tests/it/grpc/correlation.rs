//! `GetCorrelation`: the events of one correlation, the time between them, and who caused whom.

use annals::wire::proto::v1::{Cause, NewEvent, TimelineEntry};
use prost_types::Duration;
use tonic::Code;

use crate::support::{
    ANY, Refusal, TestStore,
    asked::{at, happened},
    event,
};

const NOON: &str = "2010-10-31T12:00:00Z";

/// An event of the correlation, with this id, caused by that one.
fn caused(id: u128, causation_id: &str) -> NewEvent {
    correlated(NewEvent {
        id: id_of(id),
        causation_id: causation_id.to_owned(),
        ..happened("Done", NOON)
    })
}

fn correlated(event: NewEvent) -> NewEvent {
    NewEvent { correlation_id: "order-7".to_owned(), ..event }
}

fn id_of(number: u128) -> String {
    uuid::Uuid::from_u128(number).to_string()
}

#[expect(clippy::unnecessary_wraps, reason = "as the field has it")]
fn nanos(nanos: i64) -> Option<Duration> {
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    Some(Duration { seconds, nanos: i32::try_from(nanos).unwrap() })
}

/// Cause, cause's position, depth, tree order.
fn tree(entries: &[TimelineEntry]) -> Vec<(Cause, u64, u32, u64)> {
    let facts = |entry: &TimelineEntry| {
        (entry.cause(), entry.cause_position, entry.depth, entry.tree_order)
    };
    entries.iter().map(facts).collect()
}

#[tokio::test]
async fn the_events_of_a_correlation_are_told_over_all_streams_with_their_trees() {
    let store = TestStore::start().await;
    store.append("Order-1", ANY, [caused(1, ""), caused(2, &id_of(1))]).await.unwrap();
    store.append("Other-1", ANY, ["Noise"]).await.unwrap();
    store.append("Payment-1", ANY, [caused(4, &id_of(2)), caused(5, "")]).await.unwrap();
    // Ids are UUIDs in any usual form; a cause may come later in the log.
    let upper = id_of(1).to_uppercase();
    store.append("Order-1", ANY, [caused(6, &upper), caused(7, &id_of(8))]).await.unwrap();
    store.append("Order-2", ANY, [caused(8, "")]).await.unwrap();

    let (summary, entries) = store.correlation("order-7", 0).await.unwrap();
    let positions: Vec<u64> =
        entries.iter().map(|entry| entry.event.as_ref().unwrap().position).collect();
    assert_eq!(positions, [1, 2, 4, 5, 6, 7, 8]);
    let expected = [
        (Cause::None, 0, 0, 1),
        (Cause::Known, 1, 1, 2),
        (Cause::Known, 2, 2, 3),
        (Cause::None, 0, 0, 5),
        (Cause::Known, 1, 1, 4),
        (Cause::Known, 8, 1, 7),
        (Cause::None, 0, 0, 6),
    ];
    assert_eq!(tree(&entries), expected);
    assert_eq!((summary.event_count, summary.sent_count), (7, 7));
    assert_eq!((summary.stream_count, summary.root_count), (3, 3));
    // The events are those of the log.
    let log = store.read_all().await;
    assert!(entries.iter().all(|entry| log.contains(entry.event.as_ref().unwrap())));
}

#[tokio::test]
async fn a_cause_is_told_from_one_that_is_elsewhere_or_unknown() {
    let store = TestStore::start().await;
    let elsewhere = NewEvent { id: id_of(1), ..happened("Asked", "2010-10-31T11:59:58.5Z") };
    store.append("Question-1", ANY, [elsewhere]).await.unwrap();
    store.append("Gone-1", ANY, [NewEvent { id: id_of(2), ..event("Asked") }]).await.unwrap();
    store.hide_stream("Gone-1").await;
    let events = [
        caused(4, &id_of(1)),
        caused(5, "command-17"),
        caused(6, &id_of(999)),
        caused(7, &id_of(2)),
        caused(8, &id_of(4)),
    ];
    store.append("Order-1", ANY, events).await.unwrap();
    let (summary, entries) = store.correlation("order-7", 0).await.unwrap();
    let expected = [
        (Cause::Elsewhere, 1, 0, 1),
        (Cause::Unknown, 0, 0, 3),
        (Cause::Unknown, 0, 0, 4),
        (Cause::Unknown, 0, 0, 5),
        (Cause::Known, 4, 1, 2),
    ];
    assert_eq!(tree(&entries), expected);
    let since: Vec<_> = entries.iter().map(|entry| entry.since_cause).collect();
    assert_eq!(since, [nanos(1_500_000_000), None, None, None, nanos(0)]);
    assert_eq!(summary.root_count, 4);
}

#[tokio::test]
async fn a_circle_is_cut_at_its_first_event() {
    let store = TestStore::start().await;
    let events = [
        caused(1, &id_of(1)), // Itself.
        caused(2, &id_of(3)), // A circle of two.
        caused(3, &id_of(2)),
        caused(4, &id_of(6)), // A circle of three.
        caused(5, &id_of(4)),
        caused(6, &id_of(5)),
        caused(7, &id_of(6)), // On none, caused by one.
    ];
    store.append("Order-1", ANY, events).await.unwrap();
    let (summary, entries) = store.correlation("order-7", 0).await.unwrap();
    let expected = [
        (Cause::Circle, 1, 0, 1),
        (Cause::Circle, 3, 0, 2),
        (Cause::Known, 2, 1, 3),
        (Cause::Circle, 6, 0, 4),
        (Cause::Known, 4, 1, 5),
        (Cause::Known, 5, 2, 6),
        (Cause::Known, 6, 3, 7),
    ];
    assert_eq!(tree(&entries), expected);
    assert_eq!(summary.root_count, 3);
    assert!(entries.iter().all(|entry| entry.since_cause == nanos(0)));
}

#[tokio::test]
async fn times_are_told_to_the_nanosecond_and_may_go_back() {
    let store = TestStore::start().await;
    let timed = |id: u128, causation: &str, time: &str| NewEvent {
        occurred_at: Some(at(time)),
        ..caused(id, causation)
    };
    let events = [
        timed(1, "", "2010-10-31T12:00:00.000000001Z"),
        timed(2, &id_of(1), "2010-10-31T12:00:00.000000003Z"),
        timed(3, &id_of(1), "2010-10-31T12:00:00Z"),
        timed(4, &id_of(2), "2010-10-31T11:59:58.5Z"),
        timed(5, &id_of(3), "2010-10-31T12:00:01.000000002Z"),
        timed(6, "", "0001-01-01T00:00:00Z"),
        timed(7, &id_of(6), "9999-12-31T23:59:59.999999999Z"),
    ];
    store.append("Order-1", ANY, events).await.unwrap();
    let (summary, entries) = store.correlation("order-7", 0).await.unwrap();
    assert_eq!(summary.first_occurred_at, Some(at("2010-10-31T12:00:00.000000001Z")));
    assert_eq!(summary.last_occurred_at, Some(at("9999-12-31T23:59:59.999999999Z")));
    let since: Vec<_> =
        entries.iter().map(|entry| (entry.since_first, entry.since_cause)).collect();
    let expected = [
        (nanos(0), None),
        (nanos(2), nanos(2)),
        (nanos(-1), nanos(-1)),
        (nanos(-1_500_000_001), nanos(-1_500_000_003)),
        (nanos(1_000_000_001), nanos(1_000_000_002)),
    ];
    assert_eq!(since[..5], expected);
    // Longer than nanoseconds in 64 bits.
    let (first, last) = (at("0001-01-01T00:00:00Z"), at("9999-12-31T23:59:59Z"));
    let all = Duration { seconds: last.seconds - first.seconds, nanos: 999_999_999 };
    assert_eq!(since[6].1, Some(all));
    for times in since {
        for since in [times.0, times.1].into_iter().flatten() {
            assert_eq!(since, since.normalized(), "seconds and nanoseconds have one sign");
        }
    }
}

#[tokio::test]
async fn of_many_events_the_first_are_sent_and_causes_are_looked_for_among_these() {
    let store = TestStore::start().await;
    let events =
        [caused(1, &id_of(5)), caused(2, &id_of(1)), caused(3, ""), caused(4, ""), caused(5, "")];
    store.append("Order-1", ANY, events).await.unwrap();
    store
        .append("Order-2", ANY, [correlated(happened("Done", "2011-01-01T00:00:00Z"))])
        .await
        .unwrap();
    let (summary, entries) = store.correlation("order-7", 3).await.unwrap();
    assert_eq!((summary.event_count, summary.sent_count), (6, 3));
    assert_eq!((summary.stream_count, summary.root_count), (1, 2));
    // Of all events, sent or not.
    assert_eq!(summary.last_occurred_at, Some(at("2011-01-01T00:00:00Z")));
    let expected = [(Cause::Elsewhere, 5, 0, 1), (Cause::Known, 1, 1, 2), (Cause::None, 0, 0, 3)];
    assert_eq!(tree(&entries), expected);
    for limit in [0, 6, 10_000] {
        assert_eq!(store.correlation("order-7", limit).await.unwrap().1.len(), 6);
    }
}

#[tokio::test]
async fn hidden_events_are_in_no_timeline() {
    let store = TestStore::start().await;
    store.append("Order-1", ANY, [caused(1, "")]).await.unwrap();
    store.append("Order-2", ANY, [caused(2, &id_of(1))]).await.unwrap();
    store.append("Order-1", ANY, [caused(3, "")]).await.unwrap();
    store.hide_stream("Order-1").await;
    let (summary, entries) = store.correlation("order-7", 0).await.unwrap();
    assert_eq!((summary.event_count, summary.stream_count), (1, 1));
    assert_eq!(tree(&entries), [(Cause::Unknown, 0, 0, 1)]);
    assert_eq!(summary.last_occurred_at, Some(at(NOON)));
    store.hide_stream("Order-2").await;
    for id in ["order-7", "order-8", "order-"] {
        let refusal = store.correlation(id, 0).await.unwrap_err();
        assert_eq!((refusal.code(), &*refusal.reason()), (Code::NotFound, "UNKNOWN_CORRELATION"));
        assert_eq!(refusal.fact("correlation_id"), id);
    }
}

#[tokio::test]
async fn a_chain_of_five_thousand_is_one_tree() {
    const LENGTH: u64 = 5000;
    let store = TestStore::start().await;
    // Half of it caused by what comes later.
    let events: Vec<NewEvent> = (1..=u128::from(LENGTH))
        .map(|id| if id == 1 { caused(1, "") } else { caused(id, &id_of(id - 1)) })
        .collect();
    for events in events.chunks(1000).rev() {
        store.append("Order-1", ANY, events.to_vec()).await.unwrap();
    }
    let (summary, entries) = store.correlation("order-7", 0).await.unwrap();
    assert_eq!((summary.event_count, summary.root_count), (LENGTH, 1));
    for entry in &entries {
        let id: uuid::Uuid = entry.event.as_ref().unwrap().id.parse().unwrap();
        let number = u64::try_from(id.as_u128()).unwrap();
        assert_eq!((u64::from(entry.depth) + 1, entry.tree_order), (number, number));
        let expected = if number == 1 { Cause::None } else { Cause::Known };
        assert_eq!(entry.cause(), expected);
    }
}

/// More events than a timeline has are counted, and the first ten thousand are sent.
#[tokio::test]
async fn a_correlation_of_more_than_ten_thousand_is_cut_there() {
    let store = TestStore::start().await;
    for _ in 0..3 {
        let events = (0..3500).map(|_| correlated(event("Done")));
        store.append("Order-1", ANY, events).await.unwrap();
    }
    let (summary, entries) = store.correlation("order-7", 0).await.unwrap();
    assert_eq!((summary.event_count, summary.sent_count), (10_500, 10_000));
    assert_eq!((entries.len(), summary.root_count), (10_000, 10_000));
}
