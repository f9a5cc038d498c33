//! Every mistake that a writer can make: its own `INVALID_ARGUMENT`, the field named, nothing written.

use annals::wire::proto::v1::{
    AppendCondition, AppendRequest, AppendStreamRequest, CommitRequest, Filter, NewEvent,
    StreamWrite, append_stream_response::Result as Answer, new_event::Data,
};
use prost::Message;
use prost_types::Timestamp;
use tonic::{Code, Status};

use crate::support::{
    ANY, Refusal, TestStore, append_request, event, expect, raw::Raw, status_of, write,
};

const MIB: usize = 1 << 20;

/// An event that is in order, but for what `change` does to it.
fn with(change: impl FnOnce(&mut NewEvent)) -> AppendRequest {
    let mut event = event("Paid");
    change(&mut event);
    append_request("Payment-1", ANY, [event])
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn text(size: usize) -> Option<Data> {
    Some(Data::Text("x".repeat(size)))
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn binary(bytes: &'static [u8]) -> Option<Data> {
    Some(Data::Binary(bytes.into()))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("name{number}")).collect()
}

fn to_stream(stream: &str) -> AppendRequest {
    append_request(stream, ANY, ["Paid"])
}

fn on_condition(filters: Vec<Filter>) -> AppendRequest {
    let conditions = vec![AppendCondition { filters, after: 0 }];
    AppendRequest { conditions, ..to_stream("Payment-1") }
}

fn of_types(types: Vec<String>) -> Filter {
    Filter { types, ..Filter::default() }
}

/// What is wrong, the request, and the fields that the answer names, in their order.
type Case = (&'static str, AppendRequest, &'static [&'static str]);

fn bad_names() -> Vec<Case> {
    let id = "6c84fb90-12c4-11e1-840d-7b25c5ee775a";
    let twice = [event("Paid"), event("Paid")].map(|event| NewEvent { id: id.to_owned(), ..event });
    vec![
        ("no stream", to_stream(""), &["stream"]),
        ("a stream of 513 bytes", to_stream(&"x".repeat(513)), &["stream"]),
        ("a stream of 257 characters, 514 bytes", to_stream(&"é".repeat(257)), &["stream"]),
        ("a line feed in the stream", to_stream("Payment-\n1"), &["stream"]),
        ("a NUL in the stream", to_stream("Payment-\0"), &["stream"]),
        ("DEL in the stream", to_stream("\u{7f}Payment"), &["stream"]),
        ("a C1 control in the stream", to_stream("Payment-\u{85}"), &["stream"]),
        ("the server's stream", to_stream("$Payment-1"), &["stream"]),
        ("snapshots of nothing", to_stream("$snapshot-"), &["stream"]),
        ("the zero UUID", with(|e| e.id = uuid::Uuid::nil().to_string()), &["events[0].id"]),
        ("not a UUID", with(|e| e.id = "17".into()), &["events[0].id"]),
        ("an id twice", append_request("Payment-1", ANY, twice), &["events[1].id"]),
        ("no type", with(|e| e.r#type.clear()), &["events[0].type"]),
        ("a type of 257 bytes", with(|e| e.r#type = "x".repeat(257)), &["events[0].type"]),
        ("a tab in the type", with(|e| e.r#type = "a\tb".into()), &["events[0].type"]),
        (
            "a correlation id of 257 bytes",
            with(|e| e.correlation_id = "x".repeat(257)),
            &["events[0].correlation_id"],
        ),
        (
            "a control character in the causation id",
            with(|e| e.causation_id = "\u{1b}[31m".into()),
            &["events[0].causation_id"],
        ),
        ("65 tags", with(|e| e.tags = names(65)), &["events[0].tags"]),
        ("a tag twice", with(|e| e.tags = vec!["a".into(), "a".into()]), &["events[0].tags"]),
        (
            "an empty tag",
            with(|e| e.tags = vec!["a".into(), String::new()]),
            &["events[0].tags[1]"],
        ),
        ("a tag of 257 bytes", with(|e| e.tags = vec!["x".repeat(257)]), &["events[0].tags[0]"]),
    ]
}

fn bad_contents() -> Vec<Case> {
    let typed = |content_type: &str, data: Option<Data>| {
        with(|event| {
            event.data = data;
            event.content_type = content_type.into();
        })
    };
    let entry = |key: String, value: String| {
        with(|event| {
            event.metadata.insert(key, value);
        })
    };
    let at = |seconds, nanos| with(|e| e.occurred_at = Some(Timestamp { seconds, nanos }));
    let metadata = &["events[0].metadata"];
    let content_type = &["events[0].content_type"];
    let occurred_at = &["events[0].occurred_at"];
    let many =
        |count| with(|e| e.metadata = names(count).into_iter().map(|k| (k.clone(), k)).collect());
    vec![
        ("65 metadata entries", many(65), metadata),
        ("a value over 4 KiB", entry("key".into(), "x".repeat(4097)), metadata),
        ("an empty key", entry(String::new(), "x".into()), metadata),
        ("a key of 257 bytes", entry("x".repeat(257), "x".into()), metadata),
        ("a control character in a key", entry("a\rb".into(), "x".into()), metadata),
        ("an unknown content type", typed("application/unknown", text(1)), content_type),
        ("not a content type", typed("json", text(1)), content_type),
        ("half a content type", typed("text/", text(1)), content_type),
        ("a parameter that cannot be shown", typed("text/plain; a=\u{7}", text(1)), content_type),
        ("a long content type", typed(&format!("text/{}", "x".repeat(124)), text(1)), content_type),
        ("a content type, unknown, without data", typed("no/such", None), content_type),
        ("text of a binary type", typed("application/zip", text(1)), &["events[0].text"]),
        ("JSON, not UTF-8", typed("application/json", binary(b"\"\xff\"")), &["events[0].binary"]),
        ("text, not UTF-8", typed("text/csv", binary(b"\xc3\x28")), &["events[0].binary"]),
        ("+json, not UTF-8", typed("application/ld+json", binary(b"\xf0")), &["events[0].binary"]),
        ("before year 1", at(-62_135_596_801, 0), occurred_at),
        ("after year 9999", at(253_402_300_800, 0), occurred_at),
        ("negative nanoseconds", at(0, -1), occurred_at),
        ("a second of nanoseconds", at(0, 1_000_000_000), occurred_at),
        ("no time at all", at(i64::MIN, i32::MIN), occurred_at),
    ]
}

fn too_much() -> Vec<Case> {
    let large = || NewEvent { data: text(4 * MIB - 1024), ..event("Paid") };
    let large: Vec<_> = (0..5).map(|_| large()).collect();
    vec![
        ("no events", append_request("Payment-1", ANY, [] as [&str; 0]), &["events"]),
        ("10 001 events", append_request("Payment-1", ANY, vec!["Paid"; 10_001]), &["events"]),
        ("an event over 4 MiB", with(|e| e.data = text(4 * MIB)), &["events[0]"]),
        ("20 MiB of events", append_request("Payment-1", ANY, large), &["events"]),
        (
            "17 conditions",
            AppendRequest {
                conditions: vec![AppendCondition::default(); 17],
                ..to_stream("Payment-1")
            },
            &["conditions"],
        ),
        (
            "a filter that names nothing",
            on_condition(vec![of_types(names(1)), Filter::default()]),
            &["conditions[0].filters[1]"],
        ),
        ("33 filters", on_condition(vec![of_types(names(1)); 33]), &["conditions[0].filters"]),
        ("1001 values", on_condition(vec![of_types(names(1001))]), &["conditions[0].filters"]),
        (
            "1001 values of two filters",
            on_condition(vec![of_types(names(1000)), of_types(names(1))]),
            &["conditions[0].filters"],
        ),
        (
            "an empty name in a filter",
            on_condition(vec![of_types(vec!["Paid".into(), String::new()])]),
            &["conditions[0].filters[0].types[1]"],
        ),
    ]
}

fn cases() -> Vec<Case> {
    [bad_names(), bad_contents(), too_much()].concat()
}

fn check(what: &str, refusal: &Status, fields: &[&str]) {
    assert_eq!(refusal.code(), Code::InvalidArgument, "{what}: {refusal}");
    assert_eq!(refusal.reason(), "INVALID_REQUEST", "{what}");
    assert_eq!(refusal.violations(), fields, "{what}");
}

async fn check_commit(store: &TestStore, what: &str, writes: Vec<StreamWrite>, fields: &[&str]) {
    check(what, &store.commit(writes).await.unwrap_err(), fields);
}

#[tokio::test]
async fn a_bad_append_is_refused_by_the_name_of_its_field_and_writes_nothing() {
    let store = TestStore::start().await;
    for (what, request, fields) in cases() {
        check(what, &store.send(request).await.unwrap_err(), fields);
    }
    assert_eq!(store.head().await, 0);
    assert_eq!(store.info().await.stream_count, 0);
}

#[tokio::test]
async fn a_bad_request_of_a_pipeline_is_refused_by_the_name_of_its_field_and_writes_nothing() {
    let store = TestStore::start().await;
    let (mut requests, mut expected) = (Vec::new(), Vec::new());
    for (what, append, fields) in cases() {
        requests.push(AppendStreamRequest { append: Some(append) });
        expected.push((what, fields));
    }
    requests.push(AppendStreamRequest { append: None });
    expected.push(("no append", &["append"]));

    let answers = store.pipeline(tokio_stream::iter(requests)).await.unwrap();
    assert_eq!(answers.len(), expected.len());
    for (number, (answer, (what, fields))) in (1..).zip(answers.into_iter().zip(expected)) {
        assert_eq!(answer.request, number, "{what}");
        let Some(Answer::Error(error)) = answer.result else { panic!("{what} was taken") };
        check(what, &status_of(&error), fields);
    }
    assert_eq!(store.head().await, 0);
}

#[tokio::test]
async fn a_bad_write_of_a_commit_is_refused_by_its_number_and_nothing_is_written() {
    let store = TestStore::start().await;
    for (what, request, fields) in cases() {
        let AppendRequest { stream, events, expected_version, conditions, .. } = request;
        // For a commit, a write without events and without an expectation is what is wrong.
        if events.is_empty() {
            continue;
        }
        let bad = StreamWrite { stream, events, expected_version };
        let writes = vec![write("Order-1", expect(0), ["Opened"]), bad];
        let request = CommitRequest { writes, conditions, validate_only: false };
        let refusal = store.send_commit(request).await.unwrap_err();
        let fields: Vec<String> = fields
            .iter()
            .map(|field| {
                if field.starts_with("conditions") {
                    (*field).to_owned()
                } else {
                    format!("writes[1].{field}")
                }
            })
            .collect();
        check(what, &refusal, &fields.iter().map(String::as_str).collect::<Vec<_>>());
    }

    let good = || write("Order-1", ANY, ["Opened"]);
    let nothing = [] as [&str; 0];
    check_commit(&store, "no writes", vec![], &["writes"]).await;
    let only_checked = vec![write("Order-1", expect(0), nothing)];
    check_commit(&store, "only checks", only_checked, &["writes"]).await;
    check_commit(&store, "no use", vec![good(), write("Order-2", ANY, nothing)], &["writes[1]"])
        .await;
    check_commit(&store, "a stream twice", vec![good(), good()], &["writes[1].stream"]).await;
    let checked_too = vec![good(), write("Order-1", expect(0), nothing)];
    check_commit(&store, "a stream twice", checked_too, &["writes[1].stream"]).await;
    let many = (0..1001).map(|n| write(&format!("Order-{n}"), ANY, ["Opened"])).collect();
    check_commit(&store, "1001 writes", many, &["writes"]).await;
    let same = event("Paid");
    let twice = vec![write("Order-1", ANY, [same.clone()]), write("Order-2", ANY, [same])];
    check_commit(&store, "an id twice", twice, &["writes[1].events[0].id"]).await;
    let half = |stream| write(stream, ANY, vec!["Paid"; 5001]);
    let events = vec![half("Order-1"), half("Order-2")];
    check_commit(&store, "10 002 events", events, &["writes[1].events"]).await;
    let large = || NewEvent { data: text(3 * MIB), ..event("Paid") };
    let half = |stream| write(stream, ANY, [large(), large(), large()]);
    let bytes = vec![half("Order-1"), half("Order-2")];
    check_commit(&store, "18 MiB", bytes, &["writes[1].events"]).await;
    assert_eq!(store.head().await, 0);
}

#[tokio::test]
async fn what_just_fits_every_limit_is_taken() {
    let store = TestStore::start().await;
    let full = NewEvent {
        r#type: "t".repeat(256),
        correlation_id: "c".repeat(256),
        causation_id: "é".repeat(128),
        content_type: format!("text/{}", "x".repeat(123)),
        data: text(1),
        tags: (0..64).map(|n| format!("{n:0>256}")).collect(),
        metadata: (0..64).map(|n| (format!("{n:0>256}"), "v".repeat(4096))).collect(),
        occurred_at: Some(Timestamp { seconds: -62_135_596_800, nanos: 0 }),
        ..event("")
    };
    let last = NewEvent {
        occurred_at: Some(Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 }),
        data: text(4 * MIB - 1024),
        ..event("Paid")
    };
    let request = AppendRequest {
        conditions: vec![AppendCondition { filters: vec![of_types(names(31)); 32], after: 0 }; 16],
        ..append_request(&"é".repeat(256), expect(0), [full.clone(), last])
    };
    assert_eq!(store.send(request).await.unwrap().version, 2);
    assert_eq!(store.append("Many-1", ANY, vec!["Paid"; 10_000]).await.unwrap().version, 10_000);
    let writes = (0..1000).map(|n| write(&format!("Order-{n}"), ANY, ["Opened"]));
    assert_eq!(store.commit(writes).await.unwrap().results.len(), 1000);

    let recorded = &store.read_all().await[0];
    assert_eq!(recorded.metadata, full.metadata);
    assert_eq!((&recorded.tags, &recorded.content_type), (&full.tags, &full.content_type));
}

#[tokio::test]
async fn a_request_with_several_mistakes_is_told_all_of_them() {
    let store = TestStore::start().await;
    let bad = NewEvent {
        id: "17".to_owned(),
        r#type: String::new(),
        content_type: "no".to_owned(),
        correlation_id: "\n".to_owned(),
        tags: vec![String::new()],
        occurred_at: Some(Timestamp { seconds: i64::MAX, nanos: 0 }),
        ..NewEvent::default()
    };
    let request = AppendRequest {
        conditions: vec![AppendCondition { filters: vec![Filter::default()], after: 0 }],
        ..append_request("$x", ANY, [event("Paid"), bad, event("")])
    };
    let fields = [
        "stream",
        "events[1].id",
        "events[1].type",
        "events[1].content_type",
        "events[1].correlation_id",
        "events[1].tags[0]",
        "events[1].occurred_at",
        "events[2].type",
        "conditions[0].filters[0]",
    ];
    check("many mistakes", &store.send(request).await.unwrap_err(), &fields);
    assert_eq!(store.head().await, 0);
}

#[tokio::test]
async fn bytes_that_are_not_utf8_or_not_protobuf_are_refused_by_the_name_of_their_field() {
    /// `request` with the text `mark` made invalid.
    fn spoilt(request: &AppendRequest) -> Vec<u8> {
        let mut bytes = request.encode_to_vec();
        let at = bytes.windows(4).position(|part| part == b"MARK").unwrap();
        bytes[at] = 0xff;
        bytes
    }
    let mark = || "MARK".to_owned();
    let store = TestStore::start().await;
    let mut raw = Raw::connect(store.address).await;
    let cases = [
        (spoilt(&to_stream("MARK")), "stream"),
        (spoilt(&with(|event| event.id = mark())), "events[0].id"),
        (spoilt(&with(|event| event.r#type = mark())), "events[0].type"),
        (spoilt(&with(|event| event.data = Some(Data::Text(mark())))), "events[0].text"),
        (spoilt(&with(|event| event.content_type = mark())), "events[0].content_type"),
        (spoilt(&with(|event| event.tags = vec![mark()])), "events[0].tags"),
        (spoilt(&with(|e| e.metadata = [(mark(), mark())].into())), "events[0].metadata"),
        (spoilt(&on_condition(vec![of_types(vec![mark()])])), "conditions.filters.types"),
        // An event that ends within a field, or has a number for an id.
        (b"\x0a\x01s\x12\x02\x12\x09".to_vec(), "events[0]"),
        (b"\x0a\x01s\x12\x02\x08\x01".to_vec(), "events[0]"),
        (b"\x0a\xff".to_vec(), "stream"),
        (b"\x07".to_vec(), "(message)"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "(message)"),
    ];
    for (bytes, field) in &cases {
        let answer = raw.call("CommandService/Append", &[], bytes).await;
        check(field, &answer.status.unwrap(), &[*field]);
    }

    // A bad event is refused and the pipeline goes on; a bad message ends it, and what came before is answered.
    let pipelined =
        |append: AppendRequest| AppendStreamRequest { append: Some(append) }.encode_to_vec();
    let spoilt = |mut bytes: Vec<u8>| {
        let at = bytes.windows(4).position(|part| part == b"MARK").unwrap();
        bytes[at] = 0xff;
        bytes
    };
    let good = pipelined(to_stream("Payment-1"));
    let bad_event = spoilt(pipelined(with(|event| event.r#type = mark())));
    let bad = spoilt(pipelined(to_stream("MARK")));
    let mut call = raw.begin("CommandService/AppendStream", &[]).await;
    for message in [&bad_event, &good, &bad] {
        call.request.send_data(crate::support::raw::frame(message), false).unwrap();
    }
    let answer = call.end().await;
    assert_eq!(answer.messages.len(), 2);
    check("a pipeline", &answer.status.unwrap(), &["append.stream"]);
    assert_eq!(store.head().await, 1);
}

#[tokio::test]
async fn a_request_far_over_every_limit_is_refused_and_writes_nothing() {
    let store = TestStore::start().await;
    let refusal = store.send(with(|event| event.data = text(30 * MIB))).await.unwrap_err();
    // Nobody decodes it, so nobody knows the field.
    assert_eq!(
        (refusal.code(), &*refusal.reason()),
        (Code::ResourceExhausted, "REQUEST_TOO_LARGE")
    );
    assert_eq!(store.head().await, 0);
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
}
