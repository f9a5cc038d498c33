//! Retention, truncation and deletion from the outside: hidden at once, everywhere, for ever.

use annals::wire::proto::v1::{
    AppendCondition, AppendRequest, DeleteStreamRequest, DeleteStreamResponse, Filter,
    GetEventRequest, GetRetentionRequest, GetRetentionResponse, ListCategoriesRequest,
    ListStreamsRequest, ReadAllRequest, ReadStreamRequest, RecordedEvent, SetRetentionRequest,
    SetRetentionResponse, StreamState, SubscribeRequest, TombstoneStreamRequest,
    TombstoneStreamResponse, TruncateStreamRequest, TruncateStreamResponse, get_event_request::Key,
    get_retention_request::Scope as Asked, recorded_event::Data, set_retention_request::Scope,
};
use prost_types::Duration;
use tonic::{Code, Status};

use crate::support::{
    ANY, Events, Refusal, TestStore, append_request, event, expect, within, write,
};

/// What everybody has been recorded longer ago than, once an answer has come.
const MOMENT: Duration = Duration { seconds: 0, nanos: 1000 };
const DAY: Duration = Duration { seconds: 86_400, nanos: 0 };

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn stream(name: &str) -> Option<Scope> {
    Some(Scope::Stream(name.to_owned()))
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn category(name: &str) -> Option<Scope> {
    Some(Scope::Category(name.to_owned()))
}

fn counted(scope: Option<Scope>, max_count: u64) -> SetRetentionRequest {
    SetRetentionRequest { scope, max_age: None, max_count: Some(max_count) }
}

fn aged(scope: Option<Scope>, max_age: Duration) -> SetRetentionRequest {
    SetRetentionRequest { scope, max_age: Some(max_age), max_count: None }
}

impl TestStore {
    async fn retain(&self, request: SetRetentionRequest) -> Result<SetRetentionResponse, Status> {
        Ok(within(self.commands().set_retention(request)).await?.into_inner())
    }

    async fn truncate(
        &self,
        stream: &str,
        before_version: u64,
    ) -> Result<TruncateStreamResponse, Status> {
        let request = TruncateStreamRequest { stream: stream.to_owned(), before_version };
        Ok(within(self.commands().truncate_stream(request)).await?.into_inner())
    }

    async fn delete(
        &self,
        stream: &str,
        expected_version: Option<u64>,
    ) -> Result<DeleteStreamResponse, Status> {
        let request = DeleteStreamRequest { stream: stream.to_owned(), expected_version };
        Ok(within(self.commands().delete_stream(request)).await?.into_inner())
    }

    async fn tombstone(
        &self,
        stream: &str,
        expected_version: Option<u64>,
    ) -> Result<TombstoneStreamResponse, Status> {
        let request = TombstoneStreamRequest { stream: stream.to_owned(), expected_version };
        Ok(within(self.commands().tombstone_stream(request)).await?.into_inner())
    }

    async fn retention(&self, scope: Option<Scope>) -> GetRetentionResponse {
        let scope = scope.map(|scope| match scope {
            Scope::Stream(stream) => Asked::Stream(stream),
            Scope::Category(category) => Asked::Category(category),
        });
        let request = GetRetentionRequest { scope, min_position: 0 };
        within(self.queries().get_retention(request)).await.unwrap().into_inner()
    }

    async fn versions(&self, stream: &str) -> Vec<u64> {
        let request = ReadStreamRequest { stream: stream.to_owned(), ..Default::default() };
        let events = self.read_stream(request).await.unwrap();
        events.iter().map(|event| event.version).collect()
    }

    async fn unreadable(&self, stream: &str) -> Status {
        let request = ReadStreamRequest { stream: stream.to_owned(), ..Default::default() };
        self.read_stream(request).await.unwrap_err()
    }

    async fn streams(&self) -> Vec<String> {
        let answer = within(self.queries().list_streams(ListStreamsRequest::default())).await;
        let streams = answer.unwrap().into_inner().streams;
        streams.into_iter().map(|stream| stream.name).collect()
    }
}

fn of_category(category: &str) -> Vec<Filter> {
    vec![Filter { categories: vec![category.to_owned()], ..Filter::default() }]
}

#[tokio::test]
async fn a_rule_for_a_stream_hides_at_once_in_every_read() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["A", "B", "C", "D", "E"]).await.unwrap();
    store.append("Payment-2", ANY, ["X"]).await.unwrap();
    let answer = store.retain(counted(stream("Payment-1"), 2)).await.unwrap();
    assert_eq!(answer, SetRetentionResponse { position: 7, unchanged: false });

    assert_eq!(store.versions("Payment-1").await, [4, 5]);
    assert_eq!(store.read_all().await.positions(), [4, 5, 6, 7]);
    let backwards = ReadAllRequest { direction: 2, limit: 3, ..Default::default() };
    assert_eq!(store.read(backwards).await.unwrap().positions(), [7, 6, 5]);
    let filtered = ReadAllRequest { filters: of_category("Payment"), ..Default::default() };
    assert_eq!(store.read(filtered).await.unwrap().positions(), [4, 5, 6]);
    assert_eq!(store.count(vec![]).await.unwrap(), 4);
    assert_eq!(store.count(of_category("Payment")).await.unwrap(), 3);
    let request = GetEventRequest { key: Some(Key::Position(3)), min_position: 0 };
    let refusal = within(store.queries().get_event(request)).await.unwrap_err();
    assert_eq!((refusal.code(), &*refusal.reason()), (Code::NotFound, "UNKNOWN_EVENT"));
    let info = store.stream("Payment-1").await.unwrap();
    assert_eq!((info.version, info.first_version), (5, 4));
    assert_eq!((info.first_position, info.last_position), (4, 5));
    let request = ListCategoriesRequest::default();
    let answer = within(store.queries().list_categories(request)).await.unwrap().into_inner();
    let counts: Vec<_> = answer.categories.iter().map(|c| (&*c.name, c.event_count)).collect();
    assert_eq!(counts, [("$stream", 1), ("Payment", 3)]);

    // What comes later pushes out what was there.
    store.append("Payment-1", expect(5), ["F"]).await.unwrap();
    assert_eq!(store.versions("Payment-1").await, [5, 6]);
}

#[tokio::test]
async fn a_setting_is_an_event_and_one_that_changes_nothing_writes_none() {
    let store = TestStore::start().await;
    let rule = SetRetentionRequest { max_count: Some(3), ..aged(category("Payment"), DAY) };
    assert_eq!(store.retain(rule.clone()).await.unwrap().position, 1);
    let nothing = SetRetentionResponse { position: 0, unchanged: true };
    assert_eq!(store.retain(rule).await.unwrap(), nothing);
    let none = SetRetentionRequest { scope: stream("Payment-1"), max_age: None, max_count: None };
    assert_eq!(store.retain(none).await.unwrap(), nothing);
    store.append("Payment-1", ANY, ["A", "B"]).await.unwrap();
    store.truncate("Payment-1", 2).await.unwrap();
    let nothing = TruncateStreamResponse { position: 0, unchanged: true };
    assert_eq!(store.truncate("Payment-1", 2).await.unwrap(), nothing);
    assert_eq!(store.truncate("Payment-1", 1).await.unwrap(), nothing);
    store.delete("Payment-1", ANY).await.unwrap();
    assert!(store.delete("Payment-1", expect(2)).await.unwrap().unchanged);
    store.tombstone("Payment-1", ANY).await.unwrap();
    assert!(store.tombstone("Payment-1", ANY).await.unwrap().unchanged);
    assert!(store.delete("Payment-1", ANY).await.unwrap().unchanged);

    let events = store.read_all().await;
    let seen: Vec<_> = events
        .iter()
        .map(|event| (&*event.stream, event.version, &*event.r#type, event.data.clone()))
        .collect();
    let json = |text: &str| Some(Data::Text(text.to_owned()));
    let of_stream = "$stream-Payment-1";
    let rule = json("{\"maxAgeMicros\":86400000000,\"maxCount\":3}");
    assert_eq!(
        seen,
        [
            ("$category-Payment", 1, "$retention-set", rule),
            (of_stream, 1, "$stream-truncated", json("{\"beforeVersion\":2}")),
            (of_stream, 2, "$stream-deleted", None),
            (of_stream, 3, "$stream-tombstoned", None),
        ]
    );
    let refusal = store.append(of_stream, ANY, ["$stream-deleted"]).await.unwrap_err();
    assert_eq!(refusal.violations(), ["stream"]);
}

#[tokio::test]
async fn the_stricter_of_a_streams_and_its_categorys_rule_wins() {
    let store = TestStore::start().await;
    for name in ["Payment-1", "Payment-2", "Order-1"] {
        store.append(name, ANY, vec!["A"; 5]).await.unwrap();
    }
    store.retain(counted(category("Payment"), 3)).await.unwrap();
    store.retain(counted(stream("Payment-1"), 4)).await.unwrap();
    store.retain(counted(stream("Payment-2"), 1)).await.unwrap();
    assert_eq!(store.versions("Payment-1").await, [3, 4, 5]);
    assert_eq!(store.versions("Payment-2").await, [5]);
    assert_eq!(store.versions("Order-1").await, [1, 2, 3, 4, 5]);
    let facts = store.retention(stream("Payment-2")).await;
    assert_eq!(facts.rule.unwrap().max_count, Some(1));
    assert_eq!(facts.category_rule.unwrap().max_count, Some(3));
    assert_eq!((facts.version, facts.hidden_version), (5, 4));
    assert_eq!(facts.state(), StreamState::Live);
    let facts = store.retention(category("Payment")).await;
    assert_eq!(facts.rule.unwrap().max_count, Some(3));
    assert_eq!((facts.category_rule, facts.state()), (None, StreamState::Unspecified));
    // Nothing exists yet, but the rule.
    let facts = store.retention(stream("Payment-9")).await;
    assert_eq!((facts.version, facts.state()), (0, StreamState::Unspecified));
}

#[tokio::test]
async fn what_a_rule_has_hidden_stays_hidden_when_it_is_loosened() {
    let store = TestStore::start().await;
    for name in ["Payment-1", "Order-1"] {
        store.append(name, ANY, vec!["A"; 5]).await.unwrap();
    }
    for (scope, name) in [(category("Payment"), "Payment-1"), (stream("Order-1"), "Order-1")] {
        store.retain(counted(scope.clone(), 2)).await.unwrap();
        store.retain(counted(scope.clone(), 100)).await.unwrap();
        assert_eq!(store.versions(name).await, [4, 5]);
        store.append(name, expect(5), ["B"]).await.unwrap();
        assert_eq!(store.versions(name).await, [4, 5, 6], "the looser rule keeps what came since");
        store.retain(aged(scope.clone(), MOMENT)).await.unwrap();
        assert_eq!(store.versions(name).await, [] as [u64; 0]);
        let none = SetRetentionRequest { scope, max_age: None, max_count: None };
        store.retain(none).await.unwrap();
        assert_eq!(store.versions(name).await, [] as [u64; 0]);
        store.append(name, expect(6), ["C"]).await.unwrap();
        assert_eq!(store.versions(name).await, [7]);
    }
}

/// A stream that truncation or age has emptied is there all the same.
#[tokio::test]
async fn an_emptied_stream_is_there_and_its_versions_go_on() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["A", "B", "C"]).await.unwrap();
    store.truncate("Payment-1", 3).await.unwrap();
    assert_eq!(store.versions("Payment-1").await, [3]);
    store.truncate("Payment-1", 4).await.unwrap();
    assert_eq!(store.versions("Payment-1").await, [] as [u64; 0]);
    let info = store.stream("Payment-1").await.unwrap();
    assert_eq!((info.version, info.first_version), (3, 0));
    assert_eq!((info.first_position, info.last_position, info.first_recorded_at), (0, 0, None));
    assert_eq!(store.streams().await, ["$stream-Payment-1", "Payment-1"]);
    let refusal = store.append("Payment-1", expect(0), ["D"]).await.unwrap_err();
    assert_eq!(refusal.fact("actual"), "3");
    assert_eq!(store.append("Payment-1", expect(3), ["D"]).await.unwrap().version, 4);
    assert_eq!(store.versions("Payment-1").await, [4]);
}

#[tokio::test]
async fn a_deleted_stream_is_gone_until_it_is_written_to_again() {
    let store = TestStore::start().await;
    let events = ["A", "B"].map(event);
    store.append("Payment-1", ANY, events.clone()).await.unwrap();
    let refusal = store.delete("Payment-1", expect(1)).await.unwrap_err();
    assert_eq!(refusal.reason(), "WRONG_EXPECTED_VERSION");
    assert_eq!((refusal.fact("expected"), refusal.fact("actual")), ("1".into(), "2".into()));
    assert_eq!(store.delete("Payment-1", expect(2)).await.unwrap().position, 3);

    let refusal = store.unreadable("Payment-1").await;
    assert_eq!((refusal.code(), &*refusal.reason()), (Code::NotFound, "STREAM_DELETED"));
    assert_eq!((refusal.fact("stream"), refusal.fact("version")), ("Payment-1".into(), "2".into()));
    assert_eq!(store.stream("Payment-1").await.unwrap_err().reason(), "STREAM_DELETED");
    assert_eq!(store.streams().await, ["$stream-Payment-1"]);
    assert_eq!(store.retention(stream("Payment-1")).await.state(), StreamState::Deleted);

    // A repeat is still one.
    let repeat = store.append("Payment-1", ANY, events).await.unwrap();
    assert!(repeat.duplicate && repeat.position == 2);
    assert_eq!(store.append("Payment-1", expect(2), ["C"]).await.unwrap().version, 3);
    assert_eq!(store.versions("Payment-1").await, [3]);
    assert_eq!(store.streams().await, ["$stream-Payment-1", "Payment-1"]);
}

#[tokio::test]
async fn a_tombstoned_stream_is_never_written_to_again() {
    let store = TestStore::start().await;
    let events = ["A", "B"].map(event);
    store.append("Payment-1", ANY, events.clone()).await.unwrap();
    assert_eq!(store.tombstone("Payment-1", expect(2)).await.unwrap().position, 3);

    let refusal = store.append("Payment-1", ANY, ["C"]).await.unwrap_err();
    assert_eq!(
        (refusal.code(), &*refusal.reason()),
        (Code::FailedPrecondition, "STREAM_TOMBSTONED")
    );
    assert_eq!((refusal.fact("stream"), refusal.fact("version")), ("Payment-1".into(), "2".into()));
    let writes = [write("Order-1", ANY, ["A"]), write("Payment-1", ANY, ["C"])];
    assert_eq!(store.commit(writes).await.unwrap_err().reason(), "STREAM_TOMBSTONED");
    let valid = AppendRequest { validate_only: true, ..append_request("Payment-1", ANY, ["C"]) };
    assert_eq!(store.send(valid).await.unwrap_err().reason(), "STREAM_TOMBSTONED");
    assert_eq!(store.head().await, 3);

    let refusal = store.unreadable("Payment-1").await;
    assert_eq!((refusal.code(), &*refusal.reason()), (Code::NotFound, "STREAM_TOMBSTONED"));
    assert_eq!(store.stream("Payment-1").await.unwrap_err().fact("version"), "2");
    assert_eq!(store.streams().await, ["$stream-Payment-1"]);
    assert_eq!(store.retention(stream("Payment-1")).await.state(), StreamState::Tombstoned);
    assert!(store.append("Payment-1", ANY, events).await.unwrap().duplicate);
    // It may be checked beside a write to another.
    let checked = [write("Order-1", ANY, ["A"]), write("Payment-1", expect(2), [] as [&str; 0])];
    assert_eq!(store.commit(checked).await.unwrap().position, 4);
}

#[tokio::test]
async fn a_stream_that_was_never_written_to_cannot_be_truncated_or_deleted() {
    let store = TestStore::start().await;
    let refusals = [
        store.truncate("Payment-1", 1).await.unwrap_err(),
        store.delete("Payment-1", ANY).await.unwrap_err(),
        store.tombstone("Payment-1", expect(0)).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!((refusal.code(), &*refusal.reason()), (Code::NotFound, "UNKNOWN_STREAM"));
        assert_eq!(refusal.fact("stream"), "Payment-1");
    }
    store.retain(counted(stream("Payment-1"), 1)).await.unwrap();
    store.append("Payment-1", ANY, ["A", "B"]).await.unwrap();
    assert_eq!(store.versions("Payment-1").await, [2]);
    let refusal = store.truncate("Payment-1", 4).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert_eq!(refusal.violations(), ["before_version"]);
    assert!(refusal.message().contains("at most 3"), "{refusal}");
}

#[tokio::test]
async fn a_condition_does_not_see_what_is_hidden() {
    let store = TestStore::start().await;
    let guarded = |stream: &str| AppendRequest {
        conditions: vec![AppendCondition { filters: of_category("Payment"), after: 0 }],
        ..append_request(stream, ANY, ["A"])
    };
    store.append("Payment-1", ANY, ["A", "B", "C"]).await.unwrap();
    store.retain(counted(category("Payment"), 1)).await.unwrap();
    let refusal = store.send(guarded("Order-1")).await.unwrap_err();
    assert_eq!(refusal.fact("positions"), "3");
    store.delete("Payment-1", ANY).await.unwrap();
    store.send(guarded("Order-1")).await.unwrap();
    store.append("Payment-1", ANY, ["D"]).await.unwrap();
    assert_eq!(store.send(guarded("Order-1")).await.unwrap_err().reason(), "CONDITION_BROKEN");
}

#[tokio::test]
async fn a_subscriber_passes_over_what_is_hidden() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, vec!["A"; 100]).await.unwrap();
    let mut live = store.subscribe(SubscribeRequest::default()).await.unwrap();
    assert_eq!(live.until_caught_up().await.0.len(), 100);
    store.append("Order-1", ANY, ["B"]).await.unwrap();
    store.delete("Payment-1", ANY).await.unwrap();
    let told: Vec<RecordedEvent> = live.events(2).await;
    assert_eq!(told.types(), ["B", "$stream-deleted"]);

    let mut late = store.subscribe(SubscribeRequest::default()).await.unwrap();
    let (events, position) = late.until_caught_up().await;
    assert_eq!((events.positions(), position), (vec![101, 102], 102));
    let filters = of_category("Payment");
    let mut late =
        store.subscribe(SubscribeRequest { filters, ..Default::default() }).await.unwrap();
    assert_eq!(late.until_caught_up().await, (vec![], 102));
    store.append("Payment-1", expect(100), ["C"]).await.unwrap();
    assert_eq!(late.event().await.unwrap().version, 101);
}

/// The settings are in the log and nowhere else.
#[tokio::test]
async fn after_a_restart_the_same_is_hidden() {
    let folder = tempfile::TempDir::new().unwrap();
    let start = || TestStore::start_with(|config| config.data = Some(folder.path().to_owned()));
    let store = start().await;
    for name in ["Payment-1", "Payment-2", "Order-1", "Order-2", "Refund-1"] {
        store.append(name, ANY, vec!["A"; 5]).await.unwrap();
    }
    store.retain(counted(category("Payment"), 2)).await.unwrap();
    store.retain(counted(category("Payment"), 4)).await.unwrap();
    store.retain(aged(stream("Payment-2"), MOMENT)).await.unwrap();
    store.truncate("Order-1", 3).await.unwrap();
    store.delete("Order-2", ANY).await.unwrap();
    store.append("Order-2", ANY, ["B"]).await.unwrap();
    store.tombstone("Refund-1", ANY).await.unwrap();
    let before = (store.read_all().await, store.streams().await, facts(&store).await);
    store.stop.cancel();
    store.stopped().await.unwrap();

    let store = start().await;
    assert_eq!((store.read_all().await, store.streams().await, facts(&store).await), before);
    assert_eq!(store.versions("Payment-1").await, [4, 5]);
    assert_eq!(store.versions("Order-2").await, [6]);
    let refusal = store.append("Refund-1", ANY, ["B"]).await.unwrap_err();
    assert_eq!(refusal.reason(), "STREAM_TOMBSTONED");
}

async fn facts(store: &TestStore) -> Vec<GetRetentionResponse> {
    let mut facts = vec![store.retention(category("Payment")).await];
    for name in ["Payment-1", "Payment-2", "Order-1", "Order-2", "Refund-1"] {
        facts.push(store.retention(stream(name)).await);
    }
    facts
}

#[tokio::test]
async fn a_bad_setting_is_refused_by_the_name_of_its_field_and_writes_nothing() {
    let store = TestStore::start().await;
    let age = |seconds, nanos| aged(stream("Payment-1"), Duration { seconds, nanos });
    let long = "x".repeat(513);
    for (what, request, fields) in [
        ("no scope", counted(None, 1), &["scope"][..]),
        ("no stream", counted(stream(""), 1), &["stream"]),
        ("a long stream", counted(stream(&long), 1), &["stream"]),
        ("a control character", counted(stream("a\nb"), 1), &["stream"]),
        ("the server's stream", counted(stream("$stream-Payment-1"), 1), &["stream"]),
        ("no category", counted(category(""), 1), &["category"]),
        ("the server's category", counted(category("$stream"), 1), &["category"]),
        ("a count of 0", counted(stream("Payment-1"), 0), &["max_count"]),
        ("an age of 0", age(0, 0), &["max_age"]),
        ("a negative age", age(-1, 0), &["max_age"]),
        ("negative nanoseconds", age(1, -1), &["max_age"]),
        ("a second of nanoseconds", age(1, 1_000_000_000), &["max_age"]),
        ("an age over 10 000 years", age(315_576_000_000, 1), &["max_age"]),
        ("no age at all", age(i64::MIN, i32::MIN), &["max_age"]),
        ("more seconds than there are microseconds", age(i64::MAX, 0), &["max_age"]),
        ("as many before", age(i64::MIN, 0), &["max_age"]),
        (
            "several mistakes",
            SetRetentionRequest { max_count: Some(0), ..aged(stream("\0"), Duration::default()) },
            &["stream", "max_age", "max_count"],
        ),
    ] {
        check(what, &store.retain(request).await.unwrap_err(), fields);
    }
    for name in ["", &long, "a\u{9b}b", "$category-Payment"] {
        check(name, &store.truncate(name, 1).await.unwrap_err(), &["stream"]);
        check(name, &store.delete(name, ANY).await.unwrap_err(), &["stream"]);
        check(name, &store.tombstone(name, ANY).await.unwrap_err(), &["stream"]);
    }
    check("before 0", &store.truncate("A", 0).await.unwrap_err(), &["before_version"]);
    for (scope, field) in [
        (None, "scope"),
        (Some(Asked::Stream(String::new())), "stream"),
        (Some(Asked::Category(long)), "category"),
    ] {
        let request = GetRetentionRequest { scope, min_position: 0 };
        let refusal = within(store.queries().get_retention(request)).await.unwrap_err();
        check(field, &refusal, &[field]);
    }
    assert_eq!(store.head().await, 0);

    let longest = Duration { seconds: 315_576_000_000, nanos: 0 };
    store.retain(aged(category("Payment"), longest)).await.unwrap();
    let shortest = Duration { seconds: 0, nanos: 1 };
    store.retain(aged(stream("Payment-1"), shortest)).await.unwrap();
    let facts = store.retention(stream("Payment-1")).await;
    assert_eq!(facts.rule.unwrap().max_age, Some(MOMENT), "rounded up to a microsecond");
    assert_eq!(facts.category_rule.unwrap().max_age, Some(longest));
}

fn check(what: &str, refusal: &Status, fields: &[&str]) {
    assert_eq!(refusal.code(), Code::InvalidArgument, "{what}: {refusal}");
    assert_eq!(refusal.reason(), "INVALID_REQUEST", "{what}");
    assert_eq!(refusal.violations(), fields, "{what}");
}
