//! Every mistake that somebody can make who searches, counts or replays: its own `INVALID_ARGUMENT`, the field
//! named, and nothing done.

use annals::{
    core::name::Name,
    wire::proto::v1::{
        AppendCondition, AppendRequest, CommitRequest, CountRequest, ExplainRequest, Filter,
        GetCorrelationRequest, GetStatisticsRequest, GetTrendsRequest, GroupBy, Grouping,
        JsonMatch, JsonOperator, MetadataMatch, NewEvent, ReadAllRequest, ReplayRequest,
        SearchRequest, SubscribeRequest, TimeRange, WatchStatisticsRequest, WatchTrendsRequest,
    },
};
use prost::Message;
use prost_types::{Duration, ListValue, Struct, Timestamp, Value, value::Kind};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    ANY, Refusal, TestStore, append_request,
    asked::{at, by, by_metadata, of_texts, of_types, strings},
    event,
    raw::Raw,
    within, write,
};

/// Every call that takes filters, and where they are in its request.
fn with_filters(filters: &[Filter]) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let filters = || filters.to_vec();
    let statistics = GetStatisticsRequest { filters: filters(), ..Default::default() };
    let trends = GetTrendsRequest { filters: filters(), unit: 1, ..Default::default() };
    let watch_statistics =
        WatchStatisticsRequest { statistics: Some(statistics.clone()), interval: None };
    let watch_trends = WatchTrendsRequest { trends: Some(trends.clone()), interval: None };
    let read = ReadAllRequest { filters: filters(), ..Default::default() };
    let count = CountRequest { filters: filters(), ..Default::default() };
    let search = SearchRequest { filters: filters(), ..Default::default() };
    let replay = ReplayRequest { filters: filters(), ..Default::default() };
    let explain = ExplainRequest { filters: filters(), ..Default::default() };
    let subscribe = SubscribeRequest { filters: filters(), ..Default::default() };
    vec![
        ("QueryService/ReadAll", read.encode_to_vec(), ""),
        ("QueryService/Count", count.encode_to_vec(), ""),
        ("QueryService/Search", search.encode_to_vec(), ""),
        ("QueryService/GetStatistics", statistics.encode_to_vec(), ""),
        ("QueryService/WatchStatistics", watch_statistics.encode_to_vec(), "statistics."),
        ("QueryService/GetTrends", trends.encode_to_vec(), ""),
        ("QueryService/WatchTrends", watch_trends.encode_to_vec(), "trends."),
        ("QueryService/Replay", replay.encode_to_vec(), ""),
        ("QueryService/Explain", explain.encode_to_vec(), ""),
        ("SubscriptionService/Subscribe", subscribe.encode_to_vec(), ""),
    ]
}

fn json(path: &str, operator: i32, kind: Option<Kind>) -> Filter {
    let value = kind.map(|kind| Value { kind: Some(kind) });
    let json = vec![JsonMatch { path: path.to_owned(), operator, value }];
    Filter { json, ..Filter::default() }
}

fn at_path(path: &str) -> Filter {
    json(path, JsonOperator::Exists.into(), None)
}

fn metadata(key: &str, values: &[&str]) -> Filter {
    let entry = MetadataMatch { key: key.to_owned(), values: strings(values) };
    Filter { metadata: vec![entry], ..Filter::default() }
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn range(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<TimeRange> {
    Some(TimeRange { from, to })
}

fn occurred(from: Option<Timestamp>, to: Option<Timestamp>) -> Filter {
    Filter { occurred: range(from, to), ..Filter::default() }
}

fn recorded(from: Option<Timestamp>, to: Option<Timestamp>) -> Filter {
    Filter { recorded: range(from, to), ..Filter::default() }
}

fn bad_filters() -> Vec<(Vec<Filter>, &'static str)> {
    let one = |filter: Filter| vec![filter];
    let number = |number| Some(Kind::NumberValue(number));
    let no_kind = JsonMatch { path: "$".to_owned(), operator: 0, value: Some(Value::default()) };
    let (day, next) = (at("2010-10-31T00:00:00Z"), at("2010-11-01T00:00:00Z"));
    let named = |correlation_ids: &[&str]| Filter {
        correlation_ids: strings(correlation_ids),
        ..Filter::default()
    };
    let with_texts = |count: usize| of_texts(&vec!["x"; count]);
    vec![
        (one(Filter::default()), "filters[0]"),
        (vec![of_types(&["Paid"]).remove(0), Filter::default()], "filters[1]"),
        (vec![of_types(&["Paid"]).remove(0); 33], "filters"),
        (of_types(&["Paid"; 1001]), "filters"),
        // Over all filters together.
        (vec![of_types(&["Paid"; 501]).remove(0); 2], "filters"),
        (with_texts(1001), "filters"),
        (one(metadata("k", &["v"; 1000])), "filters"),
        (one(named(&[""])), "filters[0].correlation_ids[0]"),
        (one(named(&["c", &"x".repeat(257)])), "filters[0].correlation_ids[1]"),
        (one(named(&["a\nb"])), "filters[0].correlation_ids[0]"),
        (
            one(Filter { causation_ids: strings(&[""]), ..Filter::default() }),
            "filters[0].causation_ids[0]",
        ),
        (
            one(Filter { stream_prefixes: strings(&[""]), ..Filter::default() }),
            "filters[0].stream_prefixes[0]",
        ),
        (
            one(Filter { stream_prefixes: vec!["x".repeat(513)], ..Filter::default() }),
            "filters[0].stream_prefixes[0]",
        ),
        (of_texts(&[""]), "filters[0].texts[0]"),
        (of_texts(&["a", &"x".repeat(257)]), "filters[0].texts[1]"),
        (one(metadata("", &["v"])), "filters[0].metadata[0].key"),
        (one(metadata(&"k".repeat(257), &["v"])), "filters[0].metadata[0].key"),
        (one(metadata("k", &[])), "filters[0].metadata[0].values"),
        (one(metadata("k", &[&"v".repeat(4097)])), "filters[0].metadata[0].values"),
        (one(occurred(None, None)), "filters[0].occurred"),
        (one(recorded(None, None)), "filters[0].recorded"),
        (one(occurred(Some(day), Some(day))), "filters[0].occurred.from"),
        (one(occurred(Some(next), Some(day))), "filters[0].occurred.from"),
        (one(recorded(Some(day), Some(day))), "filters[0].recorded.from"),
        (one(recorded(Some(next), Some(day))), "filters[0].recorded.from"),
        (
            one(occurred(Some(Timestamp { seconds: -62_135_596_801, nanos: 0 }), None)),
            "filters[0].occurred.from",
        ),
        (
            one(occurred(None, Some(Timestamp { seconds: 0, nanos: 1_000_000_000 }))),
            "filters[0].occurred.to",
        ),
        (
            one(recorded(None, Some(Timestamp { seconds: i64::MAX, nanos: -1 }))),
            "filters[0].recorded.to",
        ),
        (one(at_path("")), "filters[0].json[0].path"),
        (one(at_path("amount")), "filters[0].json[0].path"),
        (one(at_path("$.")), "filters[0].json[0].path"),
        (one(at_path("$[")), "filters[0].json[0].path"),
        (one(at_path("$.lines[?@.sku == 'a']")), "filters[0].json[0].path"),
        (one(at_path("$[0,1]")), "filters[0].json[0].path"),
        (one(at_path("$['a','b']")), "filters[0].json[0].path"),
        (one(at_path("$..a..b")), "filters[0].json[0].path"),
        (one(at_path(&format!("$.{}", "a".repeat(255)))), "filters[0].json[0].path"),
        (one(at_path(&format!("${}", ".a".repeat(17)))), "filters[0].json[0].path"),
        (one(json("$.a", 0, None)), "filters[0].json[0].value"),
        (one(Filter { json: vec![no_kind], ..Filter::default() }), "filters[0].json[0].value"),
        (
            one(json("$.a", 0, Some(Kind::ListValue(ListValue::default())))),
            "filters[0].json[0].value",
        ),
        (
            one(json("$.a", 2, Some(Kind::StructValue(Struct::default())))),
            "filters[0].json[0].value",
        ),
        (one(json("$.a", 3, number(f64::NAN))), "filters[0].json[0].value"),
        (one(json("$.a", 3, number(f64::INFINITY))), "filters[0].json[0].value"),
        (
            one(json("$.a", 0, Some(Kind::StringValue("x".repeat(4097))))),
            "filters[0].json[0].value",
        ),
        (one(json("$.a", 7, number(1.0))), "filters[0].json[0].value"),
        (one(json("$.a", 7, Some(Kind::NullValue(0)))), "filters[0].json[0].value"),
        (one(json("$.a", 8, number(1.0))), "filters[0].json[0].operator"),
        (one(json("$.a", -1, number(1.0))), "filters[0].json[0].operator"),
        (
            one(Filter { json: vec![at_path("$.a").json.remove(0); 17], ..Filter::default() }),
            "filters[0].json",
        ),
    ]
}

fn statistics_cases() -> Vec<(GetStatisticsRequest, &'static str)> {
    let default = GetStatisticsRequest::default;
    let grouped = |group_by: Vec<GroupBy>| GetStatisticsRequest { group_by, ..default() };
    let keyed = |grouping: Grouping| GroupBy { metadata_key: "userId".to_owned(), ..by(grouping) };
    let unknown = |grouping| GroupBy { grouping, metadata_key: String::new() };
    let zone = |name: &str| GetStatisticsRequest { time_zone: name.to_owned(), ..default() };
    vec![
        (zone("Europe/Atlantis"), "time_zone"),
        (zone("europe/amsterdam\0"), "time_zone"),
        (zone("+02:00"), "time_zone"),
        (GetStatisticsRequest { time_base: 3, ..default() }, "time_base"),
        (GetStatisticsRequest { time_base: -1, ..default() }, "time_base"),
        (GetStatisticsRequest { rows_max: 100_001, ..default() }, "rows_max"),
        (grouped(vec![unknown(0)]), "group_by[0].grouping"),
        (grouped(vec![by(Grouping::Day), unknown(9)]), "group_by[1].grouping"),
        (grouped(vec![unknown(-1)]), "group_by[0].grouping"),
        (grouped(vec![by_metadata("")]), "group_by[0].metadata_key"),
        (grouped(vec![by_metadata("ip")]), "group_by[0].metadata_key"),
        (grouped(vec![by_metadata("userid")]), "group_by[0].metadata_key"),
        (grouped(vec![keyed(Grouping::Type)]), "group_by[0].metadata_key"),
        (grouped(vec![keyed(Grouping::Hour)]), "group_by[0].metadata_key"),
        (grouped(vec![by(Grouping::Day), by(Grouping::Type), by(Grouping::Day)]), "group_by"),
        (grouped(vec![by_metadata("userId"), by_metadata("userId")]), "group_by"),
        (grouped(vec![by(Grouping::Day); 17]), "group_by"),
    ]
}

fn trends_cases() -> Vec<(GetTrendsRequest, &'static str)> {
    let default = || GetTrendsRequest { unit: Grouping::Day.into(), ..Default::default() };
    let split = |by| GetTrendsRequest { split_by: Some(by), ..default() };
    let keyed = GroupBy { metadata_key: "userId".to_owned(), ..by(Grouping::Type) };
    vec![
        (GetTrendsRequest { unit: 0, ..default() }, "unit"),
        (GetTrendsRequest { unit: 5, ..default() }, "unit"),
        (GetTrendsRequest { unit: 8, ..default() }, "unit"),
        (GetTrendsRequest { unit: 9, ..default() }, "unit"),
        (GetTrendsRequest { unit: -1, ..default() }, "unit"),
        (GetTrendsRequest { time_zone: "Mars".to_owned(), ..default() }, "time_zone"),
        (GetTrendsRequest { time_base: 3, ..default() }, "time_base"),
        (GetTrendsRequest { series_max: 1001, ..default() }, "series_max"),
        (split(by(Grouping::Week)), "split_by"),
        (split(by(Grouping::Unspecified)), "split_by.grouping"),
        (split(by_metadata("ip")), "split_by.metadata_key"),
        (split(keyed), "split_by.metadata_key"),
    ]
}

fn watch_cases() -> Vec<(&'static str, Vec<u8>, String)> {
    let mut cases = Vec::new();
    for (seconds, nanos) in
        [(0, 0), (0, 99_999_999), (3600, 1), (-1, 0), (i64::MAX, i32::MAX), (i64::MIN, 0)]
    {
        let interval = Some(Duration { seconds, nanos });
        let statistics = WatchStatisticsRequest { statistics: None, interval };
        cases.push(("QueryService/WatchStatistics", statistics.encode_to_vec(), "interval"));
        let trends = Some(GetTrendsRequest { unit: 1, ..Default::default() });
        let trends = WatchTrendsRequest { trends, interval };
        cases.push(("QueryService/WatchTrends", trends.encode_to_vec(), "interval"));
    }
    // Nothing is asked, and a unit is required.
    let nothing = WatchTrendsRequest::default();
    cases.push(("QueryService/WatchTrends", nothing.encode_to_vec(), "trends.unit"));
    cases.into_iter().map(|(path, request, field)| (path, request, field.to_owned())).collect()
}

fn replay_cases() -> Vec<(ReplayRequest, &'static str)> {
    let default = ReplayRequest::default;
    let speed = |speed: f64| (ReplayRequest { speed, ..default() }, "speed");
    let pause = |seconds, nanos| {
        let pause_max = Some(Duration { seconds, nanos });
        (ReplayRequest { pause_max, ..default() }, "pause_max")
    };
    let from = |seconds, nanos| {
        let from = Some(Timestamp { seconds, nanos });
        (ReplayRequest { from, ..default() }, "from")
    };
    vec![
        speed(-1.0),
        speed(f64::NAN),
        speed(f64::INFINITY),
        speed(0.000_999),
        speed(1_000_001.0),
        speed(f64::MIN_POSITIVE),
        pause(-1, 0),
        pause(0, -1),
        pause(i64::MIN, 0),
        from(i64::MAX, 0),
        from(0, -1),
        (ReplayRequest { time_base: 3, ..default() }, "time_base"),
    ]
}

fn cases() -> Vec<(&'static str, Vec<u8>, String)> {
    let mut cases = watch_cases();
    for (filters, field) in bad_filters() {
        for (path, request, before) in with_filters(&filters) {
            cases.push((path, request, format!("{before}{field}")));
        }
    }
    for (request, field) in statistics_cases() {
        cases.push(("QueryService/GetStatistics", request.encode_to_vec(), field.to_owned()));
        let watch = WatchStatisticsRequest { statistics: Some(request), interval: None };
        let field = format!("statistics.{field}");
        cases.push(("QueryService/WatchStatistics", watch.encode_to_vec(), field));
    }
    for (request, field) in trends_cases() {
        cases.push(("QueryService/GetTrends", request.encode_to_vec(), field.to_owned()));
        let watch = WatchTrendsRequest { trends: Some(request), interval: None };
        cases.push(("QueryService/WatchTrends", watch.encode_to_vec(), format!("trends.{field}")));
    }
    for (request, field) in replay_cases() {
        cases.push(("QueryService/Replay", request.encode_to_vec(), field.to_owned()));
    }
    for direction in [3, -1] {
        let search = SearchRequest { direction, ..Default::default() };
        cases.push(("QueryService/Search", search.encode_to_vec(), "direction".to_owned()));
    }
    for (id, limit, field) in [
        ("", 0, "correlation_id"),
        (&*"x".repeat(257), 0, "correlation_id"),
        ("a\0", 0, "correlation_id"),
        ("c", 10_001, "limit"),
        ("c", u32::MAX, "limit"),
    ] {
        let correlation_id = id.to_owned();
        let request = GetCorrelationRequest { correlation_id, limit, min_position: 0 };
        let path = "QueryService/GetCorrelation";
        cases.push((path, request.encode_to_vec(), field.to_owned()));
    }
    cases
}

#[tokio::test]
async fn a_bad_question_is_refused_by_the_name_of_its_field_and_takes_nothing() {
    let store = TestStore::start_with(|config| config.subscriptions_max = 1).await;
    let mut raw = Raw::connect(store.address).await;
    for (path, request, field) in cases() {
        let answer = raw.call(path, &[], &request).await;
        let refusal = answer.status.unwrap_or_else(|| panic!("{path} took a bad {field}"));
        assert_eq!(refusal.code(), Code::InvalidArgument, "{path}, {field}: {refusal}");
        assert_eq!(refusal.reason(), "INVALID_REQUEST", "{path}, {field}");
        assert_eq!(refusal.violations(), [field], "{path}");
        assert!(answer.messages.is_empty());
    }
    let info = store.info().await;
    assert_eq!((info.head, info.subscription_count), (0, 0));
    let cache = info.query_cache.unwrap();
    assert_eq!((cache.hit_count, cache.miss_count, cache.entry_count), (0, 0, 0));
}

/// The values at the limits are taken.
#[tokio::test]
async fn a_question_at_the_limits_is_answered() {
    let store = TestStore::start().await;
    let path = format!("${}", ".a".repeat(16));
    let filters = vec![
        Filter { texts: vec!["x".repeat(256)], ..Filter::default() },
        Filter { correlation_ids: vec!["x".repeat(256)], ..Filter::default() },
        Filter { stream_prefixes: vec!["x".repeat(512)], ..Filter::default() },
        metadata(&"k".repeat(256), &[&"v".repeat(4096)]),
        json(&path, 0, Some(Kind::StringValue("x".repeat(4096)))),
        json(&format!("$.{}", "a".repeat(254)), 0, Some(Kind::NullValue(0))),
        json("$['?,..']", 0, Some(Kind::BoolValue(true))),
        Filter { json: vec![at_path("$..a").json.remove(0); 16], ..Filter::default() },
        occurred(Some(at("0001-01-01T00:00:00Z")), Some(at("9999-12-31T23:59:59.999999999Z"))),
        recorded(None, Some(Timestamp { seconds: 0, nanos: 1 })),
        of_types(&["Paid"; 900]).remove(0),
    ];
    let mut raw = Raw::connect(store.address).await;
    for (path, request, _) in with_filters(&filters) {
        if path.contains("Watch") || path.contains("Subscribe") {
            continue;
        }
        let answer = raw.call(path, &[], &request).await;
        assert!(answer.status.is_none(), "{path}: {:?}", answer.status);
    }
    let groups = [
        Grouping::Hour,
        Grouping::Day,
        Grouping::Week,
        Grouping::Month,
        Grouping::Type,
        Grouping::Category,
        Grouping::Stream,
    ];
    let group_by = groups.map(by).into_iter().chain([by_metadata("userId")]).collect();
    let request = GetStatisticsRequest { group_by, rows_max: 100_000, ..Default::default() };
    assert_eq!(store.statistics(request).await.unwrap().groups.len(), 8);
    let request = GetTrendsRequest { unit: 1, series_max: 1000, ..Default::default() };
    store.trends(request).await.unwrap();
    for speed in [0.001, 1_000_000.0] {
        store.replay(ReplayRequest { speed, ..Default::default() }).await.unwrap();
    }
}

/// Who names a key that is not indexed is told which are.
#[tokio::test]
async fn a_grouping_by_a_key_without_an_index_tells_the_keys_that_have_one() {
    let store = TestStore::start_with(|config| {
        config.index_metadata = ["region", "tenant"].map(Name::any).to_vec();
    })
    .await;
    assert_eq!(store.info().await.indexed_metadata_keys, ["region", "tenant"]);
    let request =
        GetStatisticsRequest { group_by: vec![by_metadata("userId")], ..Default::default() };
    let refusal = store.statistics(request).await.unwrap_err();
    let bad = refusal.get_details_bad_request().unwrap();
    let description = &bad.field_violations[0].description;
    assert!(description.contains("region") && description.contains("tenant"), "{description}");
    for key in ["region", "tenant"] {
        let request =
            GetStatisticsRequest { group_by: vec![by_metadata(key)], ..Default::default() };
        store.statistics(request).await.unwrap();
    }
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let store = TestStore::start().await;
    let request = GetTrendsRequest {
        filters: of_texts(&["", "x", ""]),
        unit: 0,
        time_zone: "Mars".to_owned(),
        time_base: 7,
        split_by: Some(by_metadata("ip")),
        series_max: 5000,
        ..Default::default()
    };
    let mut violations = store.trends(request).await.unwrap_err().violations();
    violations.sort_unstable();
    let expected = [
        "filters[0].texts[0]",
        "filters[0].texts[2]",
        "series_max",
        "split_by.metadata_key",
        "time_base",
        "time_zone",
        "unit",
    ];
    assert_eq!(violations, expected);
}

#[tokio::test]
async fn a_page_token_is_good_for_its_own_search_only() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Paid", "Paid", "Paid"]).await.unwrap();
    let asked = |filters: Vec<Filter>, direction, page_token: &str| SearchRequest {
        filters,
        direction,
        limit: 1,
        page_token: page_token.to_owned(),
        min_position: 0,
    };
    let paid = || of_types(&["Paid"]);
    let token = store.search(asked(paid(), 1, "")).await.unwrap().end.next_page_token;
    assert!(!token.is_empty());

    let mut garbled = token.clone();
    let last = garbled.pop().unwrap();
    garbled.push(if last == 'A' { 'Q' } else { 'A' });
    for (what, request) in [
        ("another search's", asked(of_types(&["Noted"]), 1, &token)),
        ("everything's", asked(vec![], 1, &token)),
        ("the other direction's", asked(paid(), 2, &token)),
        ("cut", asked(paid(), 1, &token[..token.len() - 1])),
        ("cut short", asked(paid(), 1, &token[..4])),
        ("longer", asked(paid(), 1, &format!("{token}A"))),
        ("garbled", asked(paid(), 1, &garbled)),
        ("another case", asked(paid(), 1, &token.to_lowercase())),
        ("a stream's name", asked(paid(), 1, "Payment-1")),
        ("no base64", asked(paid(), 1, "\u{0}ü")),
        ("a space before", asked(paid(), 1, &format!(" {token}"))),
    ] {
        let refusal =
            store.search(request).await.err().unwrap_or_else(|| panic!("{what} is taken"));
        assert_eq!(refusal.code(), Code::InvalidArgument, "{what}");
        assert_eq!(refusal.reason(), "INVALID_REQUEST", "{what}");
        assert_eq!(refusal.violations(), ["page_token"], "{what}");
    }
    // The same search in other words; another page size.
    let same = of_types(&["Paid", "Paid"]);
    let request = SearchRequest { limit: 0, ..asked(same, 0, &token) };
    assert_eq!(store.search(request).await.unwrap().events.len(), 2);
}

fn conditional(filter: Filter) -> AppendRequest {
    let condition = AppendCondition { filters: vec![filter], after: 0 };
    AppendRequest { conditions: vec![condition], ..append_request("Payment-1", ANY, ["Paid"]) }
}

fn correlated(correlation_id: &str) -> NewEvent {
    NewEvent { correlation_id: correlation_id.to_owned(), ..event("Paid") }
}

/// The server decides appends one by one: what it would have to search for is not asked of it.
#[tokio::test]
async fn a_condition_that_would_have_to_be_searched_for_is_refused() {
    let store = TestStore::start().await;
    for filter in [
        of_texts(&["x"]).remove(0),
        metadata("userId", &["7"]),
        metadata("ip", &["::1"]),
        occurred(Some(at("2010-10-31T00:00:00Z")), None),
        recorded(Some(at("2010-10-31T00:00:00Z")), None),
        at_path("$.a"),
        Filter { stream_prefixes: strings(&["Payment-"]), ..Filter::default() },
        // Also beside what is indexed.
        Filter { types: strings(&["Paid"]), ..of_texts(&["x"]).remove(0) },
    ] {
        let request = conditional(filter.clone());
        let refused = |refusal: Status, field: &str| {
            assert_eq!(refusal.code(), Code::InvalidArgument, "{filter:?}");
            assert_eq!(refusal.violations(), [field], "{filter:?}");
        };
        let conditions = request.conditions.clone();
        refused(store.send(request).await.unwrap_err(), "conditions[0].filters");
        let writes = vec![write("Payment-1", ANY, ["Paid"])];
        let commit = CommitRequest { writes, conditions, ..Default::default() };
        refused(store.send_commit(commit).await.unwrap_err(), "conditions[0].filters");
    }
    assert_eq!(store.head().await, 0);
}

#[tokio::test]
async fn a_condition_on_a_correlation_or_causation_holds() {
    let store = TestStore::start().await;
    let of_correlation = || Filter { correlation_ids: strings(&["order-7"]), ..Filter::default() };
    let of_causation = || Filter { causation_ids: strings(&["command-7"]), ..Filter::default() };
    store.append("Order-1", ANY, [correlated("order-8")]).await.unwrap();
    store.send(conditional(of_correlation())).await.unwrap();
    store.append("Order-1", ANY, [correlated("order-7")]).await.unwrap();
    let refusal = store.send(conditional(of_correlation())).await.unwrap_err();
    assert_eq!(
        (refusal.code(), &*refusal.reason()),
        (Code::FailedPrecondition, "CONDITION_BROKEN")
    );
    assert_eq!(refusal.fact("positions"), "3");

    store.send(conditional(of_causation())).await.unwrap();
    let caused = NewEvent { causation_id: "command-7".to_owned(), ..event("Paid") };
    store.append("Order-1", ANY, [caused]).await.unwrap();
    let refusal = store.send(conditional(of_causation())).await.unwrap_err();
    assert_eq!((&*refusal.reason(), &*refusal.fact("positions")), ("CONDITION_BROKEN", "5"));
    // Both at once: no event has both.
    let both = Filter { causation_ids: strings(&["command-7"]), ..of_correlation() };
    store.send(conditional(both)).await.unwrap();
    assert_eq!(store.head().await, 6);
}

/// Of those who are each told that nobody was there before, one was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_begin_a_correlation_one_wins() {
    let store = TestStore::start().await;
    for round in 0..50 {
        let id = format!("order-{round}");
        let filter = Filter { correlation_ids: vec![id.clone()], ..Filter::default() };
        let callers: Vec<_> = (0..8)
            .map(|caller| {
                let mut commands = store.commands();
                let request = AppendRequest {
                    stream: format!("Order-{caller}"),
                    events: vec![correlated(&id)],
                    ..conditional(filter.clone())
                };
                tokio::spawn(async move { commands.append(request).await })
            })
            .collect();
        let mut winners = 0;
        for caller in callers {
            match within(caller).await.unwrap() {
                Ok(_) => winners += 1,
                Err(refusal) => assert_eq!(refusal.reason(), "CONDITION_BROKEN"),
            }
        }
        assert_eq!(winners, 1, "{id}");
    }
    assert_eq!(store.head().await, 50);
}
