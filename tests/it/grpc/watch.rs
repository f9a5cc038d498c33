//! `WatchStatistics` and `WatchTrends`: all of it once, then what has changed and nothing else.

use annals::wire::proto::v1::{
    Filter, GetStatisticsRequest, GetTrendsRequest, Grouping, ReplayRequest, SubscribeRequest,
    TimeRange, WatchStatisticsRequest, WatchStatisticsResponse, WatchTrendsRequest,
    WatchTrendsResponse,
};
use prost_types::Duration;
use tonic::{Code, Status, Streaming};

use crate::support::{
    ANY, Refusal, TestStore,
    asked::{at, by, by_metadata, happened, of_streams, of_types, rows, trend_rows},
    event, within,
};

const SHORT: Option<Duration> = Some(Duration { seconds: 0, nanos: 100_000_000 });

fn grouped(groupings: &[Grouping]) -> GetStatisticsRequest {
    let group_by = groupings.iter().copied().map(by).collect();
    // What the server writes for itself is not in it.
    GetStatisticsRequest { filters: ours(), group_by, ..GetStatisticsRequest::default() }
}

fn trends(unit: Grouping) -> GetTrendsRequest {
    GetTrendsRequest { filters: ours(), unit: unit.into(), ..GetTrendsRequest::default() }
}

fn ours() -> Vec<Filter> {
    let categories = vec!["Payment".to_owned()];
    vec![Filter { categories, ..Filter::default() }]
}

impl TestStore {
    async fn watch_statistics(
        &self,
        statistics: GetStatisticsRequest,
    ) -> Result<Streaming<WatchStatisticsResponse>, Status> {
        let request = WatchStatisticsRequest { statistics: Some(statistics), interval: SHORT };
        Ok(within(self.queries().watch_statistics(request)).await?.into_inner())
    }

    async fn watch_trends(
        &self,
        trends: GetTrendsRequest,
    ) -> Result<Streaming<WatchTrendsResponse>, Status> {
        let request = WatchTrendsRequest { trends: Some(trends), interval: SHORT };
        Ok(within(self.queries().watch_trends(request)).await?.into_inner())
    }
}

async fn next<T>(watch: &mut Streaming<T>) -> Result<T, Status> {
    Ok(within(watch.message()).await?.expect("a watch ends with a status"))
}

/// What a client keeps of what it is told: by key the count.
async fn told(watch: &mut Streaming<WatchStatisticsResponse>) -> (bool, Vec<Vec<(String, u64)>>) {
    let WatchStatisticsResponse { statistics, complete } = next(watch).await.unwrap();
    let statistics = statistics.unwrap();
    let groups = rows(&statistics).into_iter();
    let owned = groups.map(|rows| rows.into_iter().map(|(key, count)| (key.to_owned(), count)));
    (complete, owned.map(Iterator::collect).collect())
}

fn one(key: &str, count: u64) -> Vec<(String, u64)> {
    vec![(key.to_owned(), count)]
}

#[tokio::test]
async fn statistics_are_told_whole_and_then_by_the_rows_that_have_changed() {
    let store = TestStore::start().await;
    let events = [happened("A", "2010-10-01T12:00:00Z"), happened("B", "2010-10-02T12:00:00Z")];
    store.append("Payment-1", ANY, events).await.unwrap();
    let asked = grouped(&[Grouping::Type, Grouping::Day, Grouping::Stream]);
    let mut watch = store.watch_statistics(asked).await.unwrap();
    let first = next(&mut watch).await.unwrap();
    assert!(first.complete);
    let statistics = first.statistics.unwrap();
    let expected = [
        vec![("A", 1), ("B", 1)],
        vec![("2010-10-01", 1), ("2010-10-02", 1)],
        vec![("Payment-1", 2)],
    ];
    assert_eq!(rows(&statistics), expected);
    assert_eq!((statistics.event_count, statistics.position), (2, 2));

    store.append("Payment-2", ANY, [happened("A", "2010-10-02T13:00:00Z")]).await.unwrap();
    let second = next(&mut watch).await.unwrap();
    assert!(!second.complete);
    let statistics = second.statistics.unwrap();
    // Each group is there, with what has changed; the counts beside the rows are those of now.
    let expected = [vec![("A", 2)], vec![("2010-10-02", 2)], vec![("Payment-2", 1)]];
    assert_eq!(rows(&statistics), expected);
    assert_eq!((statistics.event_count, statistics.stream_count), (3, 2));
    assert_eq!((statistics.position, statistics.groups[2].row_count), (3, 2));
    assert_eq!(statistics.last_occurred_at, Some(at("2010-10-02T13:00:00Z")));
}

#[tokio::test]
async fn trends_are_told_whole_and_then_by_the_rows_that_have_changed() {
    let store = TestStore::start().await;
    let events = [happened("A", "2010-10-01T12:00:00Z"), happened("B", "2010-10-03T12:00:00Z")];
    store.append("Payment-1", ANY, events).await.unwrap();
    let split = GetTrendsRequest { split_by: Some(by(Grouping::Type)), ..trends(Grouping::Day) };
    let mut watch = store.watch_trends(split).await.unwrap();
    let first = next(&mut watch).await.unwrap();
    assert!(first.complete);
    let whole = [("2010-10-01", "A", 1), ("2010-10-03", "B", 1)];
    assert_eq!(trend_rows(&first.trends.unwrap()), whole);

    store.append("Payment-1", ANY, [happened("B", "2010-10-01T13:00:00Z")]).await.unwrap();
    let second = next(&mut watch).await.unwrap();
    assert!(!second.complete);
    let answer = second.trends.unwrap();
    assert_eq!(trend_rows(&answer), [("2010-10-01", "B", 1)]);
    assert_eq!((answer.event_count, answer.position), (3, 3));
    let series: Vec<_> = answer.series.iter().map(|it| (&*it.key, it.count)).collect();
    assert_eq!(series, [("B", 2), ("A", 1)]);

    // A new series: other ones are the largest.
    store.append("Payment-1", ANY, [happened("C", "2010-10-01T13:00:00Z")]).await.unwrap();
    let third = next(&mut watch).await.unwrap();
    assert!(third.complete);
    assert_eq!(third.trends.unwrap().rows.len(), 4);
}

#[tokio::test]
async fn empty_rows_are_told_when_the_span_grows() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, [happened("A", "2010-10-02T12:00:00Z")]).await.unwrap();
    let filled = GetTrendsRequest { fill_empty: true, ..trends(Grouping::Day) };
    let mut watch = store.watch_trends(filled).await.unwrap();
    let first = next(&mut watch).await.unwrap();
    assert_eq!(trend_rows(&first.trends.unwrap()), [("2010-10-02", "", 1)]);
    store.append("Payment-1", ANY, [happened("A", "2010-10-05T12:00:00Z")]).await.unwrap();
    let second = next(&mut watch).await.unwrap();
    let grown = [("2010-10-03", "", 0), ("2010-10-04", "", 0), ("2010-10-05", "", 1)];
    assert_eq!((trend_rows(&second.trends.unwrap()), second.complete), (grown.to_vec(), false));
}

/// Others watch what happens meanwhile: they have been told of it before the marker comes.
#[tokio::test]
async fn nothing_is_told_where_nothing_has_changed() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Marker"]).await.unwrap();
    let markers = of_types(&["Marker"]);
    let statistics =
        GetStatisticsRequest { filters: markers.clone(), ..grouped(&[Grouping::Type]) };
    let trends_of = GetTrendsRequest { filters: markers, time_base: 2, ..trends(Grouping::Month) };
    let mut quiet = store.watch_statistics(statistics).await.unwrap();
    let mut quiet_trends = store.watch_trends(trends_of).await.unwrap();
    let mut all = store.watch_statistics(grouped(&[Grouping::Type])).await.unwrap();
    assert!(next(&mut quiet).await.unwrap().complete);
    assert!(next(&mut quiet_trends).await.unwrap().complete);
    assert!(next(&mut all).await.unwrap().complete);
    for count in 1..=3 {
        store.append("Payment-1", ANY, ["Other"]).await.unwrap();
        assert_eq!(told(&mut all).await, (false, vec![one("Other", count)]));
    }
    store.append("Payment-1", ANY, ["Marker"]).await.unwrap();
    assert_eq!(told(&mut quiet).await, (false, vec![one("Marker", 2)]));
    let trends = next(&mut quiet_trends).await.unwrap().trends.unwrap();
    assert_eq!((trends.event_count, trends.position), (2, 5));
}

/// The rows are the same, the counts beside them are not: of no user, of a stream that is not among the
/// largest, of a series that is not sent.
#[tokio::test]
async fn counts_beside_the_rows_are_told_when_they_change() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["A", "A"]).await.unwrap();
    store.append("Payment-2", ANY, ["B"]).await.unwrap();
    let by_user = GetStatisticsRequest { group_by: vec![by_metadata("userId")], ..grouped(&[]) };
    let largest = GetStatisticsRequest { rows_max: 1, ..grouped(&[Grouping::Stream]) };
    let split = GetTrendsRequest {
        split_by: Some(by(Grouping::Stream)),
        series_max: 1,
        ..trends(Grouping::Month)
    };
    let mut by_user = store.watch_statistics(by_user).await.unwrap();
    let mut largest = store.watch_statistics(largest).await.unwrap();
    let mut split = store.watch_trends(split).await.unwrap();
    assert_eq!(next(&mut by_user).await.unwrap().statistics.unwrap().groups[0].without_count, 3);
    assert_eq!(next(&mut largest).await.unwrap().statistics.unwrap().groups[0].other_count, 1);
    assert_eq!(next(&mut split).await.unwrap().trends.unwrap().other_count, 1);

    store.append("Payment-3", ANY, ["B"]).await.unwrap();
    let update = next(&mut by_user).await.unwrap();
    let statistics = update.statistics.unwrap();
    assert_eq!((statistics.event_count, statistics.groups[0].without_count), (4, 4));
    assert_eq!((statistics.groups[0].rows.len(), update.complete), (0, false));
    let statistics = next(&mut largest).await.unwrap().statistics.unwrap();
    assert_eq!((statistics.event_count, statistics.groups[0].other_count), (4, 2));
    let trends = next(&mut split).await.unwrap().trends.unwrap();
    assert_eq!((trends.event_count, trends.other_count), (4, 2));
}

#[tokio::test]
async fn where_events_are_hidden_everything_is_told_again() {
    let store = TestStore::start().await;
    let events = [happened("A", "2010-10-01T12:00:00Z"), happened("B", "2010-10-02T12:00:00Z")];
    store.append("Payment-1", ANY, events).await.unwrap();
    store.append("Payment-2", ANY, [happened("A", "2010-10-03T12:00:00Z")]).await.unwrap();
    // Each by itself: what the others tell must not hide what one does not.
    let groupings = [Grouping::Day, Grouping::Month, Grouping::Type, Grouping::Stream];
    let mut watches = Vec::new();
    for grouping in groupings {
        let mut watch = store.watch_statistics(grouped(&[grouping])).await.unwrap();
        assert!(next(&mut watch).await.unwrap().complete);
        watches.push(watch);
    }
    let mut trends = store.watch_trends(trends(Grouping::Day)).await.unwrap();
    assert!(next(&mut trends).await.unwrap().complete);
    store.hide_stream("Payment-1").await;
    for (watch, key) in watches.iter_mut().zip(["2010-10-03", "2010-10", "A", "Payment-2"]) {
        let (complete, rows) = told(watch).await;
        assert_eq!((complete, rows), (true, vec![one(key, 1)]), "{key}");
    }
    let answer = next(&mut trends).await.unwrap();
    assert!(answer.complete);
    assert_eq!(trend_rows(&answer.trends.unwrap()), [("2010-10-03", "", 1)]);

    // And from then on it goes on as before.
    store.append("Payment-2", ANY, [happened("A", "2010-10-03T12:00:00Z")]).await.unwrap();
    for (watch, key) in watches.iter_mut().zip(["2010-10-03", "2010-10", "A", "Payment-2"]) {
        assert_eq!(told(watch).await, (false, vec![one(key, 2)]), "{key}");
    }
    // Nothing is left.
    store.hide_stream("Payment-2").await;
    for watch in &mut watches {
        assert_eq!(told(watch).await, (true, vec![vec![]]));
    }
}

/// A row that is no longer among the latest keeps its count: that is not told, and nothing is told again.
#[tokio::test]
async fn times_that_newer_ones_push_out_are_not_told_as_gone() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, [happened("A", "2010-10-01T12:00:00Z")]).await.unwrap();
    let latest = GetStatisticsRequest { rows_max: 1, ..grouped(&[Grouping::Day]) };
    let mut watch = store.watch_statistics(latest).await.unwrap();
    assert_eq!(told(&mut watch).await, (true, vec![one("2010-10-01", 1)]));
    for (time, key) in
        [("2010-10-02T12:00:00Z", "2010-10-02"), ("2010-10-04T12:00:00Z", "2010-10-04")]
    {
        store.append("Payment-1", ANY, [happened("A", time)]).await.unwrap();
        assert_eq!(told(&mut watch).await, (false, vec![one(key, 1)]));
    }
}

#[tokio::test]
async fn a_watch_that_grows_too_large_ends_with_its_numbers() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, [happened("A", "2010-10-01T12:00:00Z")]).await.unwrap();
    let filled = || GetTrendsRequest { fill_empty: true, ..trends(Grouping::Hour) };
    let mut watch = store.watch_trends(filled()).await.unwrap();
    assert!(next(&mut watch).await.unwrap().complete);
    store.append("Payment-1", ANY, [happened("A", "2020-10-01T12:00:00Z")]).await.unwrap();
    let status = next(&mut watch).await.unwrap_err();
    assert_eq!((status.code(), &*status.reason()), (Code::ResourceExhausted, "TOO_MANY_ROWS"));
    // From the beginning, too; and both places are free again.
    let mut watch = store.watch_trends(filled()).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap_err().reason(), "TOO_MANY_ROWS");
    within(async { while store.info().await.subscription_count > 0 {} }).await;
}

#[tokio::test]
async fn watches_and_replays_end_when_the_server_stops() {
    let store = TestStore::start().await;
    let events = [happened("A", "2010-10-01T12:00:00Z"), happened("A", "2010-11-01T12:00:00Z")];
    store.append("Payment-1", ANY, events).await.unwrap();
    let hour = Some(Duration { seconds: 3600, nanos: 0 });
    let statistics = Some(grouped(&[Grouping::Type]));
    let request = WatchStatisticsRequest { statistics, interval: hour };
    let mut busy = within(store.queries().watch_statistics(request)).await.unwrap().into_inner();
    let mut statistics = store.watch_statistics(grouped(&[Grouping::Type])).await.unwrap();
    let mut trends = store.watch_trends(trends(Grouping::Day)).await.unwrap();
    let request = ReplayRequest { speed: 1.0, ..ReplayRequest::default() };
    let mut replay = within(store.queries().replay(request)).await.unwrap().into_inner();
    assert!(next(&mut busy).await.unwrap().complete);
    assert!(next(&mut statistics).await.unwrap().complete);
    assert!(next(&mut trends).await.unwrap().complete);
    // Started, the first event, and a pause of a month.
    for _ in 0..3 {
        next(&mut replay).await.unwrap();
    }
    // One has something to tell, in an hour.
    store.append("Payment-2", ANY, ["A"]).await.unwrap();
    store.stop.cancel();
    let mut ends = vec![next(&mut busy).await.unwrap_err()];
    loop {
        match next(&mut statistics).await {
            Ok(_) => {}
            Err(status) => break ends.push(status),
        }
    }
    loop {
        match next(&mut trends).await {
            Ok(_) => {}
            Err(status) => break ends.push(status),
        }
    }
    ends.push(next(&mut replay).await.unwrap_err());
    for status in ends {
        assert_eq!((status.code(), &*status.reason()), (Code::Unavailable, "SHUTTING_DOWN"));
    }
    store.stopped().await.unwrap();
}

#[tokio::test]
async fn what_stays_open_takes_a_place_until_it_ends() {
    let store = TestStore::start_with(|config| config.subscriptions_max = 2).await;
    let events = [happened("A", "2010-10-01T12:00:00Z"), happened("A", "2010-11-01T12:00:00Z")];
    store.append("Payment-1", ANY, events).await.unwrap();
    let paced = || ReplayRequest { speed: 1.0, ..ReplayRequest::default() };
    let statistics = store.watch_statistics(grouped(&[])).await.unwrap();
    let replay = within(store.queries().replay(paced())).await.unwrap();
    assert_eq!(store.info().await.subscription_count, 2);
    for refusal in [
        store.watch_statistics(grouped(&[])).await.err().unwrap(),
        store.watch_trends(trends(Grouping::Day)).await.err().unwrap(),
        store.replay(paced()).await.err().unwrap(),
        store.subscribe(SubscribeRequest::default()).await.err().unwrap(),
    ] {
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        assert_eq!((&*refusal.reason(), &*refusal.fact("limit")), ("TOO_MANY_SUBSCRIPTIONS", "2"));
    }
    drop(statistics);
    within(async { while store.info().await.subscription_count > 1 {} }).await;
    let mut trends = store.watch_trends(trends(Grouping::Day)).await.unwrap();
    assert!(next(&mut trends).await.unwrap().complete);
    drop((trends, replay));
    within(async { while store.info().await.subscription_count > 0 {} }).await;
    // One that ends by itself gives its place back, too.
    for _ in 0..5 {
        store.replay(ReplayRequest::default()).await.unwrap();
    }
}

/// However writes and intervals fall: what was told adds up to what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_the_rows_has_the_counts_of_now() {
    let store = TestStore::start().await;
    let asked = grouped(&[Grouping::Type, Grouping::Stream]);
    let mut watch = store.watch_statistics(asked.clone()).await.unwrap();
    let mut kept = [const { std::collections::BTreeMap::new() }; 2];
    let reader = tokio::spawn(async move {
        loop {
            let update = next(&mut watch).await.unwrap();
            let statistics = update.statistics.unwrap();
            for (kept, group) in kept.iter_mut().zip(&statistics.groups) {
                if update.complete {
                    kept.clear();
                }
                kept.extend(group.rows.iter().map(|row| (row.key.clone(), row.count)));
                let rows: u64 = kept.values().sum();
                assert_eq!(rows, statistics.event_count);
                assert_eq!(kept.len() as u64, group.row_count);
            }
            if kept[0].contains_key("End") {
                return kept;
            }
        }
    });
    for round in 0..400 {
        let stream = format!("Payment-{}", round % 7);
        let event_type = ["A", "B", "C"][round % 3];
        store.append(&stream, ANY, [event(event_type)]).await.unwrap();
        if round % 100 == 50 {
            store.hide_stream(&stream).await;
        }
    }
    store.append("Payment-end", ANY, ["End"]).await.unwrap();
    let kept = within(reader).await.unwrap();
    let now = store.statistics(asked).await.unwrap();
    for (kept, group) in kept.iter().zip(&now.groups) {
        let rows = group.rows.iter().map(|row| (row.key.clone(), row.count));
        assert_eq!(*kept, rows.collect());
    }
}

#[tokio::test]
async fn a_watch_waits_for_its_min_position_and_tells_what_its_filters_pick() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["A", "B"]).await.unwrap();
    let request = GetStatisticsRequest {
        filters: of_streams(&["Payment-1"]),
        min_position: 3,
        ..grouped(&[Grouping::Type])
    };
    let mut queries = store.queries();
    let request = WatchStatisticsRequest { statistics: Some(request), interval: SHORT };
    let watch = tokio::spawn(async move { queries.watch_statistics(request).await });
    store.append("Payment-2", ANY, ["A"]).await.unwrap();
    let mut watch = within(watch).await.unwrap().unwrap().into_inner();
    let first = next(&mut watch).await.unwrap().statistics.unwrap();
    assert_eq!((first.event_count, first.position), (2, 3));
    let recorded = TimeRange { from: Some(at("2099-01-01T00:00:00Z")), to: None };
    let filters = vec![Filter { recorded: Some(recorded), ..Filter::default() }];
    let later = GetStatisticsRequest { filters, ..grouped(&[Grouping::Type]) };
    let mut watch = store.watch_statistics(later).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().statistics.unwrap().event_count, 0);
}
