//! The query cache from the outside: an answer that is kept is told as such, and is never stale.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use annals::wire::proto::v1::{
    AppendRequest, Filter, GetStatisticsRequest, GetTrendsRequest, Grouping, MetadataMatch,
    NewEvent, SetRetentionRequest, TombstoneStreamRequest, TruncateStreamRequest,
    command_service_client::CommandServiceClient, set_retention_request::Scope,
};
use prost_types::Duration;

use crate::support::{
    ANY, TestStore, append_request,
    asked::{by, is_hit, of_streams, of_texts, of_types, saying, strings},
    connect,
    dice::Dice,
    event, queries, within,
};

#[tokio::test]
async fn an_answer_is_kept_until_an_event_comes_that_it_counts() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Paid", "Noted"]).await.unwrap();
    let (count, hit) = store.counted(of_types(&["Paid"])).await;
    assert_eq!((count.count, count.position, hit), (1, 2, false), "nobody asked before");
    let (count, hit) = store.counted(of_types(&["Paid"])).await;
    assert_eq!((count.count, count.position, hit), (1, 2, true));

    // Whatever else comes, up to the head of now.
    for head in 3..50 {
        store.append("Payment-1", ANY, ["Noted"]).await.unwrap();
        let (count, hit) = store.counted(of_types(&["Paid"])).await;
        assert_eq!((count.count, count.position, hit), (1, head, true));
    }
    store.append("Payment-2", ANY, ["Paid"]).await.unwrap();
    let (count, hit) = store.counted(of_types(&["Paid"])).await;
    assert_eq!((count.count, count.position, hit), (2, 50, false));
    let (count, hit) = store.counted(of_types(&["Paid"])).await;
    assert_eq!((count.count, count.position, hit), (2, 50, true));
}

/// More than a hit is ready to look at: it is worked out again, and is right.
#[tokio::test]
async fn an_answer_about_texts_is_kept_until_a_text_comes_that_it_counts() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, [saying("Paid", "\"of Anna\"")]).await.unwrap();
    assert!(!store.counted(of_texts(&["ANNA"])).await.1);
    store.append("Payment-1", ANY, [saying("Paid", "\"of Otto\"")]).await.unwrap();
    let (count, hit) = store.counted(of_texts(&["ANNA"])).await;
    assert_eq!((count.count, count.position, hit), (1, 2, true));
    store.append("Payment-1", ANY, [saying("Paid", "\"of anna\"")]).await.unwrap();
    let (count, hit) = store.counted(of_texts(&["ANNA"])).await;
    assert_eq!((count.count, count.position, hit), (2, 3, false));

    let many = (0..1000).map(|_| saying("Paid", "\"of Otto\""));
    store.append("Payment-1", ANY, many).await.unwrap();
    store.append("Payment-1", ANY, [saying("Paid", "\"of Anna\"")]).await.unwrap();
    let (count, hit) = store.counted(of_texts(&["ANNA"])).await;
    assert_eq!((count.count, count.position, hit), (3, 1004, false));
}

#[tokio::test]
async fn statistics_and_trends_are_kept_as_counts_are() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Paid", "Noted"]).await.unwrap();
    let statistics = || GetStatisticsRequest {
        filters: of_types(&["Paid"]),
        group_by: vec![by(Grouping::Stream)],
        ..GetStatisticsRequest::default()
    };
    let trends = || GetTrendsRequest {
        filters: of_types(&["Paid"]),
        unit: Grouping::Month.into(),
        ..GetTrendsRequest::default()
    };
    for (appended, events, position, expected_hit) in [
        (None, 1, 2, false),
        (None, 1, 2, true),
        (Some("Noted"), 1, 3, true),
        (Some("Paid"), 2, 4, false),
        (None, 2, 4, true),
    ] {
        if let Some(event_type) = appended {
            store.append("Payment-1", ANY, [event_type]).await.unwrap();
        }
        let answer = within(store.queries().get_statistics(statistics())).await.unwrap();
        assert_eq!(is_hit(&answer), expected_hit, "{position}");
        let answer = answer.into_inner();
        assert_eq!((answer.event_count, answer.position), (events, position));
        assert_eq!(answer.groups[0].rows[0].count, events);
        let answer = within(store.queries().get_trends(trends())).await.unwrap();
        assert_eq!(is_hit(&answer), expected_hit, "{position}");
        let answer = answer.into_inner();
        assert_eq!((answer.event_count, answer.position), (events, position));
        assert_eq!(answer.rows[0].count, events);
    }
}

/// What asks in another way is another question.
#[tokio::test]
async fn every_part_of_a_question_tells_it_from_others() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    let statistics = GetStatisticsRequest::default;
    for request in [
        statistics(),
        GetStatisticsRequest { filters: of_types(&["Paid"]), ..statistics() },
        GetStatisticsRequest { group_by: vec![by(Grouping::Hour)], ..statistics() },
        GetStatisticsRequest { time_zone: "Asia/Tokyo".to_owned(), ..statistics() },
        GetStatisticsRequest { time_base: 2, ..statistics() },
        GetStatisticsRequest { rows_max: 1, ..statistics() },
    ] {
        for expected_hit in [false, true] {
            let answer = within(store.queries().get_statistics(request.clone())).await.unwrap();
            assert_eq!(is_hit(&answer), expected_hit, "{request:?}");
        }
    }
    let trends = || GetTrendsRequest { unit: Grouping::Day.into(), ..GetTrendsRequest::default() };
    for request in [
        trends(),
        GetTrendsRequest { filters: of_types(&["Paid"]), ..trends() },
        GetTrendsRequest { unit: Grouping::Week.into(), ..trends() },
        GetTrendsRequest { time_zone: "Asia/Tokyo".to_owned(), ..trends() },
        GetTrendsRequest { time_base: 2, ..trends() },
        GetTrendsRequest { fill_empty: true, ..trends() },
        GetTrendsRequest { split_by: Some(by(Grouping::Type)), ..trends() },
        GetTrendsRequest { series_max: 1, ..trends() },
    ] {
        for expected_hit in [false, true] {
            let answer = within(store.queries().get_trends(request.clone())).await.unwrap();
            assert_eq!(is_hit(&answer), expected_hit, "{request:?}");
        }
    }
}

#[tokio::test]
async fn questions_that_mean_the_same_share_an_answer() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Paid", "Noted"]).await.unwrap();
    let metadata = |keys: &[(&str, &[&str])]| {
        let matches = keys
            .iter()
            .map(|(key, values)| MetadataMatch { key: (*key).to_owned(), values: strings(values) });
        vec![Filter { metadata: matches.collect(), ..Filter::default() }]
    };
    let streams_of =
        |types: &[&str], streams: &[&str]| [of_types(types), of_streams(streams)].concat();
    let reversed = |mut filters: Vec<Filter>| {
        filters.reverse();
        filters
    };
    for (asked, again) in [
        (of_types(&["Paid", "Noted"]), of_types(&["Noted", "Paid"])),
        (of_types(&["Paid", "Other"]), of_types(&["Other", "Paid", "Other"])),
        (of_texts(&["x", "y"]), of_texts(&["y", "x", "x"])),
        (streams_of(&["A"], &["B"]), reversed(streams_of(&["A"], &["B"]))),
        (of_types(&["Twice"]), vec![of_types(&["Twice"]).remove(0); 3]),
        (
            metadata(&[("a", &["1", "2"]), ("b", &["3"])]),
            metadata(&[("b", &["3", "3"]), ("a", &["2", "1"])]),
        ),
    ] {
        let (first, hit) = store.counted(asked.clone()).await;
        assert!(!hit, "{asked:?}");
        assert_eq!(store.counted(again).await, (first, true), "{asked:?}");
        // A min_position is no part of the question.
        let request = annals::wire::proto::v1::CountRequest { filters: asked, min_position: 2 };
        assert!(is_hit(&within(store.queries().count(request)).await.unwrap()));
    }
    // Two filters are no filter of both.
    let both = Filter { types: strings(&["A"]), streams: strings(&["B"]), ..Filter::default() };
    assert!(!store.counted(vec![both]).await.1);
}

/// Each way to hide events, the count of types A and B before and after it, and whether an answer is kept
/// from then on.
#[tokio::test]
async fn no_answer_outlives_what_it_counts() {
    enum Way {
        Count,
        Age,
        Truncation,
        Deletion,
        Tombstone,
    }
    for (way, left, kept_after) in [
        (Way::Count, 2, true),
        (Way::Truncation, 1, true),
        (Way::Deletion, 0, true),
        (Way::Tombstone, 0, true),
        (Way::Age, 0, false),
    ] {
        let store = TestStore::start().await;
        store.append("Payment-1", ANY, ["A", "B", "A", "B"]).await.unwrap();
        let asked = || of_types(&["A", "B"]);
        let trends = || GetTrendsRequest {
            filters: asked(),
            unit: Grouping::Month.into(),
            ..GetTrendsRequest::default()
        };
        for expected_hit in [false, true] {
            let (count, hit) = store.counted(asked()).await;
            assert_eq!((count.count, hit), (4, expected_hit));
            let answer = within(store.queries().get_trends(trends())).await.unwrap();
            assert_eq!(is_hit(&answer), expected_hit);
            assert_eq!(answer.into_inner().event_count, 4);
        }
        let (stream, mut commands) = ("Payment-1".to_owned(), store.commands());
        let scope = Some(Scope::Stream(stream.clone()));
        let rule = SetRetentionRequest { scope, max_age: None, max_count: None };
        match way {
            Way::Count => {
                let rule = SetRetentionRequest { max_count: Some(2), ..rule };
                within(commands.set_retention(rule)).await.unwrap();
            }
            Way::Age => {
                let moment = Duration { seconds: 0, nanos: 1000 };
                let rule = SetRetentionRequest { max_age: Some(moment), ..rule };
                within(commands.set_retention(rule)).await.unwrap();
            }
            Way::Truncation => {
                let request = TruncateStreamRequest { stream, before_version: 4 };
                within(commands.truncate_stream(request)).await.unwrap();
            }
            Way::Deletion => store.hide_stream("Payment-1").await,
            Way::Tombstone => {
                let request = TombstoneStreamRequest { stream, expected_version: None };
                within(commands.tombstone_stream(request)).await.unwrap();
            }
        }
        for expected_hit in [false, kept_after] {
            let (count, hit) = store.counted(asked()).await;
            assert_eq!((count.count, hit), (left, expected_hit), "after a way to leave {left}");
            let answer = within(store.queries().get_trends(trends())).await.unwrap();
            assert_eq!(is_hit(&answer), expected_hit);
            assert_eq!(answer.into_inner().event_count, left);
        }
        // A newer event may hide an older one.
        store.append("Payment-2", ANY, ["Other"]).await.unwrap();
        assert!(!store.counted(asked()).await.1);
    }
}

/// A rule by count hides an event of one type when one of another type comes: what the filter does not match
/// changes its count.
#[tokio::test]
async fn an_event_that_hides_a_counted_one_is_noticed() {
    let store = TestStore::start().await;
    let scope = Some(Scope::Stream("Payment-1".to_owned()));
    let rule = SetRetentionRequest { scope, max_age: None, max_count: Some(2) };
    within(store.commands().set_retention(rule)).await.unwrap();
    store.append("Payment-1", ANY, ["A", "A"]).await.unwrap();
    for (count, event_type) in [(2, "B"), (1, "B"), (0, "A"), (1, "A"), (2, "B")] {
        for _ in 0..2 {
            assert_eq!(store.counted(of_types(&["A"])).await.0.count, count);
        }
        store.append("Payment-1", ANY, [event_type]).await.unwrap();
    }
}

/// Nothing is written: time alone hides.
#[tokio::test]
async fn an_answer_is_not_kept_where_time_that_passes_changes_it() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["A"]).await.unwrap();
    assert_eq!(store.counted(of_types(&["A"])).await.0.count, 1);
    let scope = Some(Scope::Category("Payment".to_owned()));
    let max_age = Some(Duration { seconds: 0, nanos: 300_000_000 });
    let rule = SetRetentionRequest { scope, max_age, max_count: None };
    within(store.commands().set_retention(rule)).await.unwrap();
    within(async {
        loop {
            let (count, hit) = store.counted(of_types(&["A"])).await;
            assert!(!hit);
            if count.count == 0 {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn without_a_cache_every_answer_is_worked_out() {
    let store = TestStore::start_with(|config| config.query_cache = 0).await;
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    for _ in 0..3 {
        let (count, hit) = store.counted(of_types(&["Paid"])).await;
        assert_eq!((count.count, hit), (1, false));
    }
    let info = store.info().await;
    let cache = info.query_cache.unwrap();
    assert_eq!((cache.hit_count, cache.entry_count), (0, 0));
    assert_eq!(info.memory.unwrap().query_cache_bytes, 0);
}

#[tokio::test]
async fn the_server_tells_what_its_cache_has_done() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    let facts = async || {
        let info = store.info().await;
        let cache = info.query_cache.unwrap();
        let counts = (cache.hit_count, cache.miss_count, cache.entry_count);
        (counts, info.memory.unwrap().query_cache_bytes)
    };
    assert_eq!(facts().await, ((0, 0, 0), 0));
    store.counted(of_types(&["Paid"])).await;
    let (counts, bytes) = facts().await;
    assert_eq!(counts, (0, 1, 1));
    assert!(bytes > 0);
    for _ in 0..3 {
        store.counted(of_types(&["Paid"])).await;
    }
    assert_eq!(facts().await, ((3, 1, 1), bytes));
    let by_stream =
        GetStatisticsRequest { group_by: vec![by(Grouping::Stream)], ..Default::default() };
    store.statistics(by_stream).await.unwrap();
    let (counts, more) = facts().await;
    assert_eq!(counts, (3, 2, 2));
    assert!(more > bytes + 64, "its row takes room, too: {more}");
    // An answer that is worked out again takes the place of the old one.
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    store.counted(of_types(&["Paid"])).await;
    assert_eq!(facts().await, ((3, 3, 2), more));
}

#[tokio::test]
async fn a_small_cache_keeps_some_answers_and_stays_small() {
    const BYTES: u64 = 16 << 10;
    let small = usize::try_from(BYTES).unwrap();
    let store = TestStore::start_with(|config| config.query_cache = small).await;
    let types: Vec<String> = (0..500).map(|number| format!("Type-{number}")).collect();
    store.append("Payment-1", ANY, types.iter().map(|name| event(name))).await.unwrap();
    for name in &types {
        let (count, hit) = store.counted(of_types(&[name])).await;
        assert_eq!((count.count, hit), (1, false));
    }
    let info = store.info().await;
    let cache = info.query_cache.unwrap();
    assert!((1..=BYTES / 256).contains(&cache.entry_count), "{cache:?}");
    assert!(info.memory.unwrap().query_cache_bytes <= BYTES);
    // What was pushed out is worked out again.
    for name in &types {
        assert_eq!(store.counted(of_types(&[name])).await.0.count, 1);
    }
    // An answer that is larger than the cache is given, and not kept.
    let by_type = GetStatisticsRequest { group_by: vec![by(Grouping::Type)], ..Default::default() };
    for _ in 0..2 {
        let answer = within(store.queries().get_statistics(by_type.clone())).await.unwrap();
        assert!(!is_hit(&answer));
        assert_eq!(answer.into_inner().groups[0].rows.len(), 500);
    }
}

/// What one of the filters below picks: how many were sent to the server, and how many it has acknowledged.
#[derive(Default)]
struct Picked {
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

/// A type that comes seldom, so that its answers are found in the cache; one that comes often; a correlation; a
/// text; everything.
fn filters() -> Vec<Vec<Filter>> {
    let correlation = Filter {
        correlation_ids: strings(&["c-1"]),
        types: strings(&["Often"]),
        ..Filter::default()
    };
    vec![
        of_types(&["Seldom"]),
        of_types(&["Often"]),
        vec![correlation],
        of_texts(&["needle"]),
        vec![],
    ]
}

/// An event, and which of the filters pick it.
fn random_event(dice: &mut Dice) -> (NewEvent, [bool; 5]) {
    let event_type = if dice.once_in(20) { "Seldom" } else { *dice.pick(&["Often", "Other"]) };
    let (correlated, needle) = (dice.once_in(15), dice.once_in(25));
    let text = if needle { "\"a NEEDLE in it\"" } else { "\"only hay\"" };
    let correlation_id = if correlated { "c-1" } else { "c-2" }.to_owned();
    let event = NewEvent { correlation_id, ..saying(event_type, text) };
    let often = event_type == "Often";
    (event, [event_type == "Seldom", often, often && correlated, needle, true])
}

async fn write(
    mut commands: CommandServiceClient<tonic::transport::Channel>,
    seed: u64,
    picked: Arc<[Picked; 5]>,
) {
    let mut dice = Dice::new(seed);
    for _ in 0..400 {
        let events: Vec<_> = (0..=dice.below(2)).map(|_| random_event(&mut dice)).collect();
        let count = |filter: usize| events.iter().filter(|(_, picks)| picks[filter]).count() as u64;
        let counts: Vec<u64> = (0..5).map(count).collect();
        for (picked, count) in picked.iter().zip(&counts) {
            picked.begun.fetch_add(*count, Ordering::SeqCst);
        }
        let events = events.into_iter().map(|(event, _)| event);
        let request: AppendRequest = append_request(&format!("Writer-{seed}"), ANY, events);
        within(commands.append(request)).await.unwrap();
        for (picked, count) in picked.iter().zip(&counts) {
            picked.acknowledged.fetch_add(*count, Ordering::SeqCst);
        }
    }
}

/// Seen to fail with an answer that is kept for longer than it is good: `good_at` without a look at what has
/// come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_counts_what_was_acknowledged_before_and_nothing_that_was_never_sent() {
    let store = TestStore::start().await;
    let picked: Arc<[Picked; 5]> = Arc::default();
    let written = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for seed in 0..3 {
        let commands = CommandServiceClient::new(connect(store.address).await);
        writers.push(tokio::spawn(write(commands, seed, Arc::clone(&picked))));
    }
    let mut readers = Vec::new();
    for reader in 0..3u64 {
        let mut queries = queries(connect(store.address).await);
        let (picked, written) = (Arc::clone(&picked), Arc::clone(&written));
        readers.push(tokio::spawn(async move {
            let mut dice = Dice::new(100 + reader);
            let (mut hits, mut misses, mut safe) = (0, 0, 0);
            while !written.load(Ordering::SeqCst) {
                let filter = usize::try_from(dice.below(5)).unwrap();
                let filters = filters().swap_remove(filter);
                let least = picked[filter].acknowledged.load(Ordering::SeqCst);
                let all = picked[4].acknowledged.load(Ordering::SeqCst);
                let (hit, count, position) = match dice.below(3) {
                    0 => {
                        let request =
                            annals::wire::proto::v1::CountRequest { filters, min_position: 0 };
                        let answer = within(queries.count(request)).await.unwrap();
                        let hit = is_hit(&answer);
                        let answer = answer.into_inner();
                        (hit, answer.count, answer.position)
                    }
                    1 => {
                        let request = GetStatisticsRequest {
                            filters,
                            group_by: vec![by(Grouping::Stream)],
                            ..GetStatisticsRequest::default()
                        };
                        let answer = within(queries.get_statistics(request)).await.unwrap();
                        let hit = is_hit(&answer);
                        let answer = answer.into_inner();
                        let rows: u64 = answer.groups[0].rows.iter().map(|row| row.count).sum();
                        assert_eq!(rows, answer.event_count);
                        (hit, answer.event_count, answer.position)
                    }
                    _ => {
                        let request = GetTrendsRequest {
                            filters,
                            unit: Grouping::Hour.into(),
                            ..GetTrendsRequest::default()
                        };
                        let answer = within(queries.get_trends(request)).await.unwrap();
                        let hit = is_hit(&answer);
                        let answer = answer.into_inner();
                        let rows: u64 = answer.rows.iter().map(|row| row.count).sum();
                        assert_eq!(answer.event_count, rows);
                        (hit, answer.event_count, answer.position)
                    }
                };
                let most = picked[filter].begun.load(Ordering::SeqCst);
                let range = least..=most;
                assert!(
                    range.contains(&count),
                    "filter {filter}: {count} of {range:?}, hit: {hit}"
                );
                assert!(position >= all.max(safe), "as of {position}, after {all} and {safe}");
                safe = position;
                if hit { hits += 1 } else { misses += 1 }
            }
            (hits, misses)
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    written.store(true, Ordering::SeqCst);
    let (mut hits, mut misses) = (0, 0);
    for reader in readers {
        let (reader_hits, reader_misses) = within(reader).await.unwrap();
        hits += reader_hits;
        misses += reader_misses;
    }
    assert!(hits > 20 && misses > 20, "{hits} hits, {misses} misses");
    for (index, filters) in filters().into_iter().enumerate() {
        let count = picked[index].acknowledged.load(Ordering::SeqCst);
        assert_eq!(store.counted(filters).await.0.count, count);
    }
    assert_eq!(picked[4].acknowledged.load(Ordering::SeqCst), store.head().await);
}
