//! `GetTrends`: how many there were in each hour, day, week and month, also of none, also by name.

use annals::wire::proto::v1::{
    Filter, GetTrendsRequest, GetTrendsResponse, Grouping, NewEvent, TimeRange,
};
use tonic::Code;

use crate::support::{
    ANY, Refusal, TestStore,
    asked::{at, by, by_metadata, happened, of_types, strings, trend_rows},
};

fn trends(unit: Grouping) -> GetTrendsRequest {
    GetTrendsRequest { unit: unit.into(), ..GetTrendsRequest::default() }
}

fn between(from: &str, to: &str) -> Filter {
    let range = TimeRange { from: Some(at(from)), to: Some(at(to)) };
    Filter { occurred: Some(range), ..Filter::default() }
}

fn series(trends: &GetTrendsResponse) -> Vec<(&str, u64)> {
    trends.series.iter().map(|series| (&*series.key, series.count)).collect()
}

#[tokio::test]
async fn hours_are_those_of_the_clock_and_follow_one_another() {
    let store = TestStore::start().await;
    for time in ["2010-10-31T03:10:00Z", "2010-10-31T00:10:00Z", "2010-10-31T01:59:59Z"] {
        store.append("Payment-1", ANY, [happened("Paid", time)]).await.unwrap();
    }
    let amsterdam =
        GetTrendsRequest { time_zone: "Europe/Amsterdam".to_owned(), ..trends(Grouping::Hour) };
    let answer = store.trends(amsterdam.clone()).await.unwrap();
    let expected = [
        ("2010-10-31T02:00+02:00", "", 1),
        ("2010-10-31T02:00+01:00", "", 1),
        ("2010-10-31T04:00+01:00", "", 1),
    ];
    assert_eq!(trend_rows(&answer), expected);
    assert_eq!((answer.event_count, answer.position), (3, 3));
    assert_eq!((answer.other_count, answer.without_count, answer.series.len()), (0, 0, 0));

    let filled = GetTrendsRequest { fill_empty: true, ..amsterdam };
    let answer = store.trends(filled).await.unwrap();
    let expected = [
        ("2010-10-31T02:00+02:00", "", 1),
        ("2010-10-31T02:00+01:00", "", 1),
        ("2010-10-31T03:00+01:00", "", 0),
        ("2010-10-31T04:00+01:00", "", 1),
    ];
    assert_eq!(trend_rows(&answer), expected);
    for pair in answer.rows.windows(2) {
        assert_eq!(pair[0].end, pair[1].start);
    }
    assert_eq!(answer.rows[0].start, Some(at("2010-10-31T00:00:00Z")));
    assert_eq!(answer.rows[3].end, Some(at("2010-10-31T04:00:00Z")));
}

#[tokio::test]
async fn days_are_as_long_as_their_clock_says_and_weeks_cross_years() {
    let store = TestStore::start().await;
    for time in ["2010-10-30T22:00:00Z", "2010-10-31T22:59:59Z", "2011-01-02T12:00:00Z"] {
        store.append("Payment-1", ANY, [happened("Paid", time)]).await.unwrap();
    }
    let zoned =
        |unit| GetTrendsRequest { time_zone: "Europe/Amsterdam".to_owned(), ..trends(unit) };
    let answer = store.trends(zoned(Grouping::Day)).await.unwrap();
    assert_eq!(trend_rows(&answer), [("2010-10-31", "", 2), ("2011-01-02", "", 1)]);
    let day = &answer.rows[0];
    assert_eq!(day.end.unwrap().seconds - day.start.unwrap().seconds, 25 * 3600);
    let answer = store.trends(zoned(Grouping::Week)).await.unwrap();
    assert_eq!(trend_rows(&answer), [("2010-W43", "", 2), ("2010-W52", "", 1)]);
    let answer = store.trends(zoned(Grouping::Month)).await.unwrap();
    assert_eq!(trend_rows(&answer), [("2010-10", "", 2), ("2011-01", "", 1)]);
}

#[tokio::test]
async fn empty_rows_are_sent_over_the_range_that_every_filter_names() {
    let store = TestStore::start().await;
    for time in ["2010-10-03T12:00:00Z", "2010-10-05T12:00:00Z", "2010-12-24T12:00:00Z"] {
        store.append("Payment-1", ANY, [happened("Paid", time)]).await.unwrap();
    }
    let filled = |filters: Vec<Filter>| GetTrendsRequest {
        filters,
        fill_empty: true,
        ..trends(Grouping::Day)
    };
    let range = || between("2010-10-02T00:00:00Z", "2010-10-07T00:00:00Z");
    let paid = Filter { types: strings(&["Paid"]), ..range() };
    let days = |days: &[(u32, u64)]| -> Vec<(String, String, u64)> {
        let row = |(day, count): &(u32, u64)| (format!("2010-10-{day:02}"), String::new(), *count);
        days.iter().map(row).collect()
    };
    let told = |answer: &GetTrendsResponse| -> Vec<(String, String, u64)> {
        let rows = trend_rows(answer).into_iter();
        rows.map(|(key, series, count)| (key.to_owned(), series.to_owned(), count)).collect()
    };
    let whole = days(&[(2, 0), (3, 1), (4, 0), (5, 1), (6, 0)]);
    for filters in [vec![range()], vec![paid.clone()], vec![range(), paid.clone()]] {
        assert_eq!(told(&store.trends(filled(filters)).await.unwrap()), whole);
    }
    // The end is not in the range; one nanosecond more is.
    let longer = between("2010-10-02T23:59:59Z", "2010-10-07T00:00:00.000000001Z");
    let answer = store.trends(filled(vec![longer])).await.unwrap();
    assert_eq!(told(&answer), [whole, days(&[(7, 0)])].concat());
    // No filter, or filters of other ranges: from the first that has some to the last.
    let other = between("2010-10-01T00:00:00Z", "2010-10-06T00:00:00Z");
    let answer = store.trends(filled(vec![range(), other])).await.unwrap();
    assert_eq!(told(&answer), days(&[(3, 1), (4, 0), (5, 1)]));
    let answer = store.trends(filled(vec![range(), of_types(&["Never"]).remove(0)])).await;
    assert_eq!(told(&answer.unwrap()), days(&[(3, 1), (4, 0), (5, 1)]));
    let answer = store.trends(filled(vec![])).await.unwrap();
    assert_eq!((answer.rows.len(), answer.event_count), (83, 3));
    // A range of the other time says nothing about this one.
    let recorded = Filter { recorded: range().occurred, ..Filter::default() };
    let answer = store.trends(filled(vec![recorded])).await.unwrap();
    assert_eq!((answer.rows.len(), answer.event_count), (0, 0));
    // Nothing there.
    let never = Filter { types: strings(&["Never"]), ..range() };
    let answer = store.trends(filled(vec![never])).await.unwrap();
    assert_eq!(told(&answer), days(&[(2, 0), (3, 0), (4, 0), (5, 0), (6, 0)]));
    let answer = store.trends(filled(of_types(&["Never"]))).await.unwrap();
    assert_eq!(answer.rows, []);
    // Half a range: to its end from the first that has some.
    let to = TimeRange { from: None, to: Some(at("2010-10-07T00:00:00Z")) };
    let until = Filter { occurred: Some(to), ..Filter::default() };
    let answer = store.trends(filled(vec![until])).await.unwrap();
    assert_eq!(told(&answer), days(&[(3, 1), (4, 0), (5, 1), (6, 0)]));
}

fn user(event: NewEvent, user: &str) -> NewEvent {
    NewEvent { metadata: [("userId".to_owned(), user.to_owned())].into(), ..event }
}

#[tokio::test]
async fn events_are_split_by_type_category_stream_and_metadata() {
    let store = TestStore::start().await;
    let (one, two) = ("2010-10-01T12:00:00Z", "2010-10-02T12:00:00Z");
    let payments =
        [user(happened("B", one), "u1"), happened("A", two), user(happened("B", two), "u1")];
    store.append("Payment-1", ANY, payments).await.unwrap();
    store.append("Order-1", ANY, [user(happened("A", two), "")]).await.unwrap();
    store.append("Payment-2", ANY, [happened("B", two)]).await.unwrap();
    let split = |by| GetTrendsRequest { split_by: Some(by), ..trends(Grouping::Day) };

    let answer = store.trends(split(by(Grouping::Type))).await.unwrap();
    assert_eq!(series(&answer), [("B", 3), ("A", 2)]);
    let expected = [("2010-10-01", "B", 1), ("2010-10-02", "B", 2), ("2010-10-02", "A", 2)];
    assert_eq!(trend_rows(&answer), expected);

    let answer = store.trends(split(by(Grouping::Category))).await.unwrap();
    assert_eq!(series(&answer), [("Payment", 4), ("Order", 1)]);
    let expected =
        [("2010-10-01", "Payment", 1), ("2010-10-02", "Payment", 3), ("2010-10-02", "Order", 1)];
    assert_eq!(trend_rows(&answer), expected);

    let answer = store.trends(split(by(Grouping::Stream))).await.unwrap();
    assert_eq!(series(&answer), [("Payment-1", 3), ("Order-1", 1), ("Payment-2", 1)]);
    assert_eq!((answer.other_count, answer.without_count), (0, 0));

    let answer = store.trends(split(by_metadata("userId"))).await.unwrap();
    assert_eq!(series(&answer), [("u1", 2), ("", 1)]);
    let expected = [("2010-10-01", "u1", 1), ("2010-10-02", "u1", 1), ("2010-10-02", "", 1)];
    assert_eq!(trend_rows(&answer), expected);
    assert_eq!((answer.event_count, answer.other_count, answer.without_count), (5, 0, 2));

    // With empty rows each series has each day.
    let filled = GetTrendsRequest { fill_empty: true, ..split(by(Grouping::Type)) };
    let answer = store.trends(filled).await.unwrap();
    let expected = [
        ("2010-10-01", "B", 1),
        ("2010-10-01", "A", 0),
        ("2010-10-02", "B", 2),
        ("2010-10-02", "A", 2),
    ];
    assert_eq!(trend_rows(&answer), expected);

    // The largest series; the rest is counted beside them.
    let largest = GetTrendsRequest { series_max: 1, ..split(by_metadata("userId")) };
    let answer = store.trends(largest).await.unwrap();
    assert_eq!(series(&answer), [("u1", 2)]);
    assert!(answer.rows.iter().all(|row| row.series == "u1"));
    assert_eq!((answer.event_count, answer.other_count, answer.without_count), (5, 1, 2));
    // Ten where nothing is said.
    let events = (0..15).map(|number| happened(&format!("T{number:02}"), one));
    store.append("Payment-1", ANY, events).await.unwrap();
    let answer = store.trends(split(by(Grouping::Type))).await.unwrap();
    assert_eq!((answer.series.len(), answer.other_count, answer.event_count), (10, 7, 20));
}

#[tokio::test]
async fn the_recorded_time_is_the_servers() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, [happened("Paid", "1999-12-31T23:59:59Z")]).await.unwrap();
    let recorded_at = store.read_all().await[0].recorded_at.unwrap().seconds;
    let recorded = GetTrendsRequest { time_base: 2, ..trends(Grouping::Hour) };
    let answer = store.trends(recorded).await.unwrap();
    let row = &answer.rows[0];
    assert_eq!(row.start.unwrap().seconds, recorded_at - recorded_at.rem_euclid(3600));
    assert_eq!((answer.rows.len(), row.count), (1, 1));
}

#[tokio::test]
async fn an_answer_of_more_than_twenty_thousand_rows_is_refused_with_both_numbers() {
    let store = TestStore::start().await;
    let refused = async |request: GetTrendsRequest| {
        let refusal = store.trends(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        assert_eq!((&*refusal.reason(), &*refusal.fact("max")), ("TOO_MANY_ROWS", "20000"));
        let rows: u64 = refusal.fact("rows").parse().unwrap();
        assert!(rows > 20_000, "{rows}");
    };
    let of_range = |from: &str, to: &str| GetTrendsRequest {
        filters: vec![between(from, to)],
        fill_empty: true,
        ..trends(Grouping::Hour)
    };
    // 20 000 hours are taken, also of nothing.
    let fits = of_range("2010-01-01T00:00:00Z", "2012-04-13T08:00:00Z");
    assert_eq!(store.trends(fits).await.unwrap().rows.len(), 20_000);
    refused(of_range("2010-01-01T00:00:00Z", "2012-04-13T09:00:00Z")).await;
    refused(of_range("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z")).await;
    let days = |fill_empty| GetTrendsRequest { fill_empty, ..trends(Grouping::Day) };
    for time in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
        store.append("Payment-1", ANY, [happened("Paid", time)]).await.unwrap();
    }
    refused(days(true)).await;
    let answer = store.trends(days(false)).await.unwrap();
    assert_eq!(trend_rows(&answer), [("0001-01-01", "", 1), ("9999-12-31", "", 1)]);
    // Without empty rows, too many that are not empty.
    for batch in 0..3u64 {
        let events = (0..7000).map(|number| {
            let seconds = i64::try_from(3600 * (7000 * batch + number)).unwrap();
            let occurred_at = Some(prost_types::Timestamp { seconds, nanos: 0 });
            NewEvent { occurred_at, ..crate::support::event("Paid") }
        });
        store.append("Payment-1", ANY, events).await.unwrap();
    }
    refused(trends(Grouping::Hour)).await;
    assert_eq!(store.trends(days(false)).await.unwrap().event_count, 21_002);
    // A day for each of many series.
    let filters = vec![between("1970-01-01T00:00:00Z", "1972-06-01T00:00:00Z")];
    let split = GetTrendsRequest {
        filters,
        fill_empty: true,
        split_by: Some(by(Grouping::Type)),
        ..trends(Grouping::Hour)
    };
    refused(split).await;
}
