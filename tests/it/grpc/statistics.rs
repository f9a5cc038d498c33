//! `GetStatistics`: each event is counted once, under the right names, hours and days.

use annals::{
    core::name::Name,
    wire::proto::v1::{
        Filter, GetStatisticsRequest, GetStatisticsResponse, Grouping, NewEvent, TimeRange,
    },
};

use crate::support::{
    ANY, TestStore,
    asked::{at, by, by_metadata, happened, of_streams, of_types, rows},
    event,
};

fn grouped(groupings: &[Grouping]) -> GetStatisticsRequest {
    let group_by = groupings.iter().copied().map(by).collect();
    GetStatisticsRequest { group_by, ..GetStatisticsRequest::default() }
}

fn in_amsterdam(groupings: &[Grouping]) -> GetStatisticsRequest {
    let time_zone = "Europe/Amsterdam".to_owned();
    GetStatisticsRequest { time_zone, ..grouped(groupings) }
}

fn with(event: NewEvent, key: &str, value: &str) -> NewEvent {
    NewEvent { metadata: [(key.to_owned(), value.to_owned())].into(), ..event }
}

#[tokio::test]
async fn an_hour_that_the_clock_shows_twice_is_counted_as_two() {
    let store = TestStore::start().await;
    let events = [
        happened("Paid", "2010-10-31T01:59:59.999999999Z"),
        happened("Paid", "2010-10-31T00:00:00Z"),
        happened("Paid", "2010-10-31T01:00:00Z"),
        happened("Paid", "2010-10-30T23:59:59Z"),
        happened("Paid", "2010-10-31T02:00:00Z"),
    ];
    store.append("Payment-1", ANY, events).await.unwrap();
    let answer = store.statistics(in_amsterdam(&[Grouping::Hour, Grouping::Day])).await.unwrap();
    let hours = vec![
        ("2010-10-31T01:00+02:00", 1),
        ("2010-10-31T02:00+02:00", 1),
        ("2010-10-31T02:00+01:00", 2),
        ("2010-10-31T03:00+01:00", 1),
    ];
    assert_eq!(rows(&answer), [hours, vec![("2010-10-31", 5)]]);
    let starts: Vec<_> = answer.groups[0].rows.iter().map(|row| row.start.unwrap()).collect();
    let expected = [
        at("2010-10-30T23:00:00Z"),
        at("2010-10-31T00:00:00Z"),
        at("2010-10-31T01:00:00Z"),
        at("2010-10-31T02:00:00Z"),
    ];
    assert_eq!(starts, expected);
    assert_eq!(answer.groups[1].rows[0].start, Some(at("2010-10-30T22:00:00Z")));
}

#[tokio::test]
async fn an_hour_that_the_clock_leaves_out_is_no_row() {
    let store = TestStore::start().await;
    let events = [
        happened("Paid", "2011-03-27T00:59:59.999999999Z"),
        happened("Paid", "2011-03-27T01:00:00Z"),
        happened("Paid", "2011-03-27T21:59:59Z"),
        happened("Paid", "2011-03-27T22:00:00Z"),
    ];
    store.append("Payment-1", ANY, events).await.unwrap();
    let answer = store.statistics(in_amsterdam(&[Grouping::Hour, Grouping::Day])).await.unwrap();
    let hours = vec![
        ("2011-03-27T01:00+01:00", 1),
        ("2011-03-27T03:00+02:00", 1),
        ("2011-03-27T23:00+02:00", 1),
        ("2011-03-28T00:00+02:00", 1),
    ];
    assert_eq!(rows(&answer), [hours, vec![("2011-03-27", 3), ("2011-03-28", 1)]]);
}

#[tokio::test]
async fn a_week_is_of_the_year_that_most_of_its_days_are_of() {
    let store = TestStore::start().await;
    let days = [
        "2008-12-28T23:59:59Z",
        "2008-12-29T00:00:00Z",
        "2010-01-03T23:59:59Z",
        "2010-01-04T00:00:00Z",
        "2010-12-31T12:00:00Z",
        "2011-01-02T12:00:00Z",
    ];
    let events = days.map(|day| happened("Paid", day));
    store.append("Payment-1", ANY, events).await.unwrap();
    let answer = store.statistics(grouped(&[Grouping::Week, Grouping::Month])).await.unwrap();
    let weeks =
        vec![("2008-W52", 1), ("2009-W01", 1), ("2009-W53", 1), ("2010-W01", 1), ("2010-W52", 2)];
    let months = vec![("2008-12", 2), ("2010-01", 2), ("2010-12", 1), ("2011-01", 1)];
    assert_eq!(rows(&answer), [weeks, months]);
    assert_eq!(answer.groups[0].rows[1].start, Some(at("2008-12-29T00:00:00Z")));
}

#[tokio::test]
async fn the_recorded_time_is_the_servers_and_the_occurred_time_the_clients() {
    let store = TestStore::start().await;
    for _ in 0..3 {
        store.append("Payment-1", ANY, [happened("Paid", "1999-12-31T23:59:59Z")]).await.unwrap();
    }
    let occurred = store.statistics(grouped(&[Grouping::Hour])).await.unwrap();
    assert_eq!(rows(&occurred), [[("1999-12-31T23:00+00:00", 3)]]);
    let recorded = GetStatisticsRequest { time_base: 2, ..grouped(&[Grouping::Hour]) };
    let recorded = store.statistics(recorded).await.unwrap();
    let mut expected = std::collections::BTreeMap::<i64, u64>::new();
    let events = store.read_all().await;
    for event in &events {
        let second = event.recorded_at.unwrap().seconds;
        *expected.entry(second - second.rem_euclid(3600)).or_default() += 1;
    }
    let hours = recorded.groups[0].rows.iter().map(|row| (row.start.unwrap().seconds, row.count));
    assert_eq!(hours.collect::<std::collections::BTreeMap<_, _>>(), expected);
    for answer in [&occurred, &recorded] {
        assert_eq!(answer.first_occurred_at, Some(at("1999-12-31T23:59:59Z")));
        assert_eq!(answer.last_occurred_at, Some(at("1999-12-31T23:59:59Z")));
        assert_eq!(answer.first_recorded_at, events[0].recorded_at);
        assert_eq!(answer.last_recorded_at, events[2].recorded_at);
    }
}

#[tokio::test]
async fn the_first_and_the_last_are_told_to_the_nanosecond() {
    let store = TestStore::start().await;
    let times = [
        "2010-10-31T12:00:00.000000500Z",
        "2010-10-31T12:00:00.000000501Z",
        "2010-10-31T12:00:00.000000499Z",
        "2010-10-31T12:00:00.000000Z",
        "2010-10-31T12:00:00.000000999Z",
    ];
    let mut head = 0;
    for count in 1..=times.len() {
        store.append("Payment-1", ANY, [happened("Paid", times[count - 1])]).await.unwrap();
        head += 1;
        let answer = store.statistics(grouped(&[Grouping::Type])).await.unwrap();
        let so_far = || times[..count].iter().map(|time| at(time));
        let nanos = |time: &prost_types::Timestamp| time.nanos;
        assert_eq!(answer.first_occurred_at, so_far().min_by_key(nanos));
        assert_eq!(answer.last_occurred_at, so_far().max_by_key(nanos));
        assert_eq!((answer.event_count, answer.position), (head, head));
    }
}

#[tokio::test]
async fn events_of_the_first_and_the_last_moment_are_counted() {
    let store = TestStore::start().await;
    let (first, last) = ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z");
    store.append("Payment-1", ANY, [happened("Paid", last)]).await.unwrap();
    store.append("Payment-1", ANY, [happened("Paid", first)]).await.unwrap();
    let units = [Grouping::Hour, Grouping::Day, Grouping::Week, Grouping::Month];
    let answer = store.statistics(grouped(&units)).await.unwrap();
    assert_eq!(answer.first_occurred_at, Some(at(first)));
    assert_eq!(answer.last_occurred_at, Some(at(last)));
    let expected = [
        [("0001-01-01T00:00+00:00", 1), ("9999-12-31T23:00+00:00", 1)],
        [("0001-01-01", 1), ("9999-12-31", 1)],
        [("0001-W01", 1), ("9999-W52", 1)],
        [("0001-01", 1), ("9999-12", 1)],
    ];
    assert_eq!(rows(&answer), expected);
    // The clocks there show another year; what cannot be told of its beginning is cut.
    for time_zone in ["Asia/Tokyo", "America/Adak", "Pacific/Kiritimati"] {
        let request = GetStatisticsRequest { time_zone: time_zone.to_owned(), ..grouped(&units) };
        let answer = store.statistics(request).await.unwrap();
        for group in &answer.groups {
            assert_eq!(group.rows.iter().map(|row| row.count).collect::<Vec<_>>(), [1, 1]);
            let starts = [group.rows[0].start.unwrap(), group.rows[1].start.unwrap()];
            assert!(at(first).seconds <= starts[0].seconds, "{time_zone}");
            assert!(starts[1].seconds <= at(last).seconds, "{time_zone}");
        }
    }
}

#[tokio::test]
async fn without_a_grouping_it_is_hours_days_types_categories_and_what_is_indexed() {
    let store = TestStore::start_with(|config| {
        config.index_metadata = ["region", "tenant"].map(Name::any).to_vec();
    })
    .await;
    store.append("Payment-1", ANY, [with(event("Paid"), "tenant", "t1")]).await.unwrap();
    let answer = store.statistics(GetStatisticsRequest::default()).await.unwrap();
    let groups: Vec<_> =
        answer.groups.iter().map(|group| group.group_by.clone().unwrap()).collect();
    let expected = [
        by(Grouping::Hour),
        by(Grouping::Day),
        by(Grouping::Type),
        by(Grouping::Category),
        by_metadata("region"),
        by_metadata("tenant"),
    ];
    assert_eq!(groups, expected);
    assert_eq!(
        rows(&answer)[2..],
        [vec![("Paid", 1)], vec![("Payment", 1)], vec![], vec![("t1", 1)]]
    );
    assert_eq!(answer.groups[4].without_count, 1);
}

#[tokio::test]
async fn events_without_the_key_are_told_beside_the_rows_and_an_empty_value_is_one() {
    let store = TestStore::start().await;
    let events = [
        with(event("Paid"), "userId", "u2"),
        with(event("Paid"), "userId", ""),
        event("Paid"),
        with(event("Paid"), "other", "u2"),
        with(event("Paid"), "userId", "u1"),
        with(event("Paid"), "userId", "u2"),
    ];
    store.append("Payment-1", ANY, events).await.unwrap();
    let group_by = vec![by_metadata("userId"), by_metadata("organizationId")];
    let request = GetStatisticsRequest { group_by, ..Default::default() };
    let answer = store.statistics(request).await.unwrap();
    assert_eq!(rows(&answer), [vec![("u2", 2), ("", 1), ("u1", 1)], vec![]]);
    let facts = |answer: &GetStatisticsResponse, group: usize| {
        let group = &answer.groups[group];
        (group.row_count, group.other_count, group.without_count)
    };
    assert_eq!((facts(&answer, 0), facts(&answer, 1)), ((3, 0, 2), (0, 0, 6)));
}

#[tokio::test]
async fn of_names_the_ones_with_most_events_are_sent_and_of_times_the_latest() {
    let store = TestStore::start().await;
    for (event_type, day, times) in [("C", 1, 2), ("B", 2, 3), ("A", 3, 2), ("D", 4, 1)] {
        let day = format!("2010-10-{day:02}T12:00:00Z");
        let events = (0..times).map(|_| happened(event_type, &day));
        store.append("Payment-1", ANY, events).await.unwrap();
    }
    let facts = |answer: &GetStatisticsResponse, group: usize| {
        let group = &answer.groups[group];
        (group.row_count, group.other_count, group.without_count)
    };
    for (rows_max, types, days, (others_of_types, others_of_days)) in [
        (1, vec![("B", 3)], vec![("2010-10-04", 1)], (5, 7)),
        // C came before A and has as many.
        (2, vec![("B", 3), ("C", 2)], vec![("2010-10-03", 2), ("2010-10-04", 1)], (3, 5)),
        (
            3,
            vec![("B", 3), ("A", 2), ("C", 2)],
            vec![("2010-10-02", 3), ("2010-10-03", 2), ("2010-10-04", 1)],
            (1, 2),
        ),
    ] {
        let request =
            GetStatisticsRequest { rows_max, ..grouped(&[Grouping::Type, Grouping::Day]) };
        let answer = store.statistics(request).await.unwrap();
        assert_eq!(rows(&answer), [types, days], "{rows_max}");
        assert_eq!(facts(&answer, 0), (4, others_of_types, 0), "{rows_max}");
        assert_eq!(facts(&answer, 1), (4, others_of_days, 0), "{rows_max}");
        assert_eq!(answer.event_count, 8);
    }
    for rows_max in [0, 4, 100_000] {
        let request =
            GetStatisticsRequest { rows_max, ..grouped(&[Grouping::Type, Grouping::Day]) };
        let answer = store.statistics(request).await.unwrap();
        assert_eq!((facts(&answer, 0), facts(&answer, 1)), ((4, 0, 0), (4, 0, 0)));
    }
}

#[tokio::test]
async fn a_stream_counts_once_and_only_where_it_has_an_event_that_matches() {
    let store = TestStore::start().await;
    for stream in ["Payment-1", "Payment-2", "Order-1"] {
        store.append(stream, ANY, ["Made", "Changed", "Changed"]).await.unwrap();
    }
    store.append("Payment-3", ANY, ["Ended"]).await.unwrap();
    let asked = |filters: Vec<Filter>| GetStatisticsRequest {
        filters,
        ..grouped(&[Grouping::Stream, Grouping::Category])
    };
    let overlapping = [of_types(&["Made", "Ended"]), of_streams(&["Payment-1"])].concat();
    for (filters, events, streams, categories) in [
        (
            vec![],
            10,
            vec![("Order-1", 3), ("Payment-1", 3), ("Payment-2", 3), ("Payment-3", 1)],
            vec![("Payment", 7), ("Order", 3)],
        ),
        (
            of_types(&["Changed"]),
            6,
            vec![("Order-1", 2), ("Payment-1", 2), ("Payment-2", 2)],
            vec![("Payment", 4), ("Order", 2)],
        ),
        // An event that two filters pick counts once.
        (
            overlapping,
            6,
            vec![("Payment-1", 3), ("Order-1", 1), ("Payment-2", 1), ("Payment-3", 1)],
            vec![("Payment", 5), ("Order", 1)],
        ),
        (of_types(&["Never"]), 0, vec![], vec![]),
    ] {
        let answer = store.statistics(asked(filters)).await.unwrap();
        assert_eq!((answer.event_count, answer.stream_count), (events, streams.len() as u64));
        assert_eq!(answer.first_occurred_at.is_some(), events > 0);
        assert_eq!(answer.last_recorded_at.is_some(), events > 0);
        assert_eq!((rows(&answer), answer.position), (vec![streams, categories], 10));
    }
}

#[tokio::test]
async fn what_is_hidden_is_counted_nowhere() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, [happened("Gone", "2001-01-01T00:00:00Z")]).await.unwrap();
    store.append("Payment-2", ANY, [happened("Paid", "2002-01-01T00:00:00Z")]).await.unwrap();
    store.hide_stream("Payment-1").await;
    let range = TimeRange { from: None, to: Some(at("2010-01-01T00:00:00Z")) };
    let request = GetStatisticsRequest {
        // The server's own event of the deletion occurred later.
        filters: vec![Filter { occurred: Some(range), ..Filter::default() }],
        ..grouped(&[Grouping::Month, Grouping::Type, Grouping::Category, Grouping::Stream])
    };
    let answer = store.statistics(request).await.unwrap();
    assert_eq!((answer.event_count, answer.stream_count), (1, 1));
    assert_eq!(answer.first_occurred_at, Some(at("2002-01-01T00:00:00Z")));
    let expected = [[("2002-01", 1)], [("Paid", 1)], [("Payment", 1)], [("Payment-2", 1)]];
    assert_eq!(rows(&answer), expected);
    assert!(answer.groups.iter().all(|group| group.row_count == 1));
}
